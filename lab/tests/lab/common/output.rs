//! Runs of the lab, and what they said.

use std::process::{Command, Output};

/// The lab with the device that this test has: a software one comes by cargo's runner.
pub fn with_device() -> Command {
    let triple = format!("CARGO_TARGET_{}_", std::env::consts::ARCH.to_uppercase());
    let mut set = std::env::vars();
    let runner = set.find(|(name, _)| name.starts_with(&triple) && name.ends_with("_RUNNER"));
    let runner = runner.map_or(String::new(), |(_, words)| words);
    let mut words = runner.split_whitespace().chain([env!("CARGO_BIN_EXE_lab")]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

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
