//! What unit tests of kernels share: a device, and kernels with one thing wrong.

use std::io::Write;
use std::sync::Arc;

use super::context::Context;
use super::program::{Binds, Pipeline, Program};
use super::sync::lock;

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

/// What is wrong with a program, in words; a place of its text; and what stands there instead.
pub(crate) type Change = (&'static str, &'static str, &'static str);

/// What is wrong with the mutants of a program that `agrees` doesn't tell from it. While it runs,
/// the mutant has the program's place among the device's compiled ones, so that whoever asks for
/// the program gets the mutant. The program itself must agree, and be asked for.
pub(crate) fn survivors<P: Program + Copy>(
    context: &Context,
    of: P,
    changes: &[Change],
    mut agrees: impl FnMut() -> bool,
) -> Vec<String> {
    let label = of.label();
    let replace = |pipeline| lock(context.pipelines()).insert(label.clone(), pipeline);
    lock(context.pipelines()).remove(&label);
    assert!(agrees(), "{label} itself doesn't agree");
    let whole = lock(context.pipelines()).get(&label).cloned();
    let whole = whole.unwrap_or_else(|| panic!("nobody asked for {label}"));
    let mut survivors = Vec::new();
    for &(wrong, from, to) in changes {
        let mutant = Pipeline::new(context, &Mutant { of, from, to });
        replace(Arc::new(mutant.unwrap_or_else(|error| panic!("{label}, {wrong}: {error}"))));
        if agrees() {
            survivors.push(format!("{label}: {wrong}"));
        }
    }
    replace(whole);
    survivors
}
