//! Progress of what takes many scores.

use anyhow::Result;
use indicatif::ProgressBar;

use crate::commands::{bar, check_stop};

/// Tells how far something is.
pub struct Shown {
    bar: ProgressBar,
}

impl Shown {
    /// The progress of so many steps.
    pub fn new(steps: u64, title: &str) -> Self {
        Self { bar: bar(steps, title) }
    }

    /// So many are done, and this is under way.
    ///
    /// # Errors
    /// Somebody asked to stop.
    pub fn step(&self, done: u64, line: &str) -> Result<()> {
        self.bar.set_position(done);
        self.bar.set_message(line.to_owned());
        check_stop()
    }

    /// Says what came of something.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Ends the line of progress.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
