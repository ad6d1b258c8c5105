//! How far scores are: a bar, or a line every so often where there is none.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;

use crate::commands::{bar, check_stop};

/// Tells how far something is.
pub struct Shown {
    bar: ProgressBar,
    told: Instant,
}

impl Shown {
    /// Of so many steps.
    pub fn new(steps: u64, title: &str) -> Self {
        Self { bar: bar(steps, title), told: Instant::now() }
    }

    /// So many are done, and this is under way.
    ///
    /// # Errors
    /// Somebody asked to stop.
    pub fn step(&mut self, done: u64, line: &str) -> Result<()> {
        self.bar.set_position(done);
        // A log has no bar.
        if self.told.elapsed() > Duration::from_secs(30) && !std::io::stderr().is_terminal() {
            let part = done as f64 / self.bar.length().unwrap_or(1).max(1) as f64;
            eprintln!("{line}, {:.1}% done", 100.0 * part);
            self.told = Instant::now();
        }
        self.bar.set_message(line.to_owned());
        check_stop()
    }

    /// Says what came of something.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// All is done.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
