//! The rules that are compared.

use anyhow::{Context as _, Result};

use crate::setting::Setting;

/// A named setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What tables call it.
    pub name: String,
    /// The options of `--setting`.
    pub options: String,
}

impl Rule {
    fn new(name: impl Into<String>, options: impl Into<String>) -> Self {
        Self { name: name.into(), options: options.into() }
    }

    /// A rule by its options.
    pub fn of_options(options: &str) -> Self {
        Self::new(options, options)
    }

    /// The setting, checked as far as it can be without the model.
    ///
    /// # Errors
    /// As [`Setting::from_options`].
    pub fn setting(&self) -> Result<Setting> {
        Setting::from_options(&self.options).with_context(|| format!("rule {:?}", self.name))
    }
}

/// One list for each key/value head.
const LISTS: &str = "--lists-per kv-head";

/// Sink + window with so many blocks of so many tokens.
pub fn window(blocks: usize, size: usize) -> Rule {
    let options =
        format!("--attention sink-window --profile half-window:{blocks} {LISTS} --block-size {size}");
    Rule::new("sink + window", options)
}

/// Drawn by distance.
pub fn half_window(blocks: usize, size: usize) -> Rule {
    let options =
        format!("--attention prflash --profile half-window:{blocks} --beta 0.5 {LISTS} --block-size {size}");
    Rule::new("half window, β = ½", options)
}

/// Chosen by content, with more of `--profile` behind the number of blocks.
pub fn content(name: &str, blocks: usize, more: &str, size: usize) -> Rule {
    Rule::new(name, format!("--attention content --profile {blocks}{more} {LISTS} --block-size {size}"))
}

/// What lab/RESULTS.md compares, at an eighth and at a quarter of the bytes.
pub fn rules(width: usize) -> Vec<Rule> {
    let eighth = width / 64 / 8;
    [eighth, 2 * eighth].into_iter().flat_map(at_bytes_of).collect()
}

/// The rules that read as many bytes as so many blocks of 64 tokens.
fn at_bytes_of(blocks: usize) -> Vec<Rule> {
    vec![window(blocks, 64), half_window(blocks, 64), content("saturated", blocks, "", 64)]
}
