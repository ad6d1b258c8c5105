//! Writes down which revision the program is built from.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let sources = ["status", "--porcelain", "--", "../src", "../shaders", "../Cargo.lock", "."];
    let changed = if git(&sources).is_some_and(|changes| !changes.is_empty()) { "+" } else { "" };
    println!("cargo::rustc-env=LAB_REVISION={revision}{changed}");
    for path in ["src", "build.rs", "Cargo.toml", "../src", "../shaders", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    // Moves with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}
