//! What unit tests of kernels share: a device, and kernels with one thing wrong.

use std::io::Write;

use super::context::Context;
use super::program::{Binds, Program};

/// A device, or none where tests are to run without, which is said.
pub(crate) fn device(tests: &str) -> Option<Context> {
    if std::env::var_os("PRFLASH_NO_GPU").is_some_and(|value| value != "0") {
        // Past the test harness, which swallows what println! says in a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED {tests}: PRFLASH_NO_GPU is set");
        return None;
    }
    Some(Context::new_blocking().expect("an adapter, by scripts/with-vulkan"))
}

/// A program with a place of its text replaced.
#[derive(Clone, Debug)]
pub(crate) struct Mutant<P> {
    pub(crate) of: P,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

impl<P: Program> Program for Mutant<P> {
    fn label(&self) -> String {
        format!("{}: {} for {}", self.of.label(), self.to, self.from)
    }

    fn entry_point(&self) -> &'static str {
        self.of.entry_point()
    }

    fn source(&self) -> String {
        let text = self.of.source();
        assert_eq!(text.matches(self.from).count(), 1, "{} in {}", self.from, self.of.label());
        text.replace(self.from, self.to)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        self.of.groups()
    }
}
