//! What a run of the lab said.

use std::process::Output;

/// Standard output of a run that succeeds.
#[track_caller]
pub fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that fails, without a panic.
#[track_caller]
pub fn refused(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it passed");
    assert!(!error.contains("panicked"), "{error}");
    error
}
