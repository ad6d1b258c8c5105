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
    [8, 4].into_iter().flat_map(|part| at_part(width, part)).collect()
}

/// The rules at a part of the bytes; with the ceiling, which takes ten times as long as all others,
/// at an eighth alone.
pub fn at_part(width: usize, part: usize) -> Vec<Rule> {
    let mut rules = at_bytes_of(width, (width / 64 / part).max(1));
    rules.truncate(if part == 8 { rules.len() } else { rules.len() - 1 });
    rules
}

/// Chosen by content in blocks of `size` tokens: with their summaries they are about as many bytes,
/// of `width` tokens, as so many blocks of 64 tokens.
fn by_content(name: &str, (width, blocks): (usize, usize), more: &str, size: usize) -> Rule {
    // A group's summary of 8 bits has a bit more than half the bytes of a token: two numbers of a
    // byte for each channel and two scales, against four bytes and no scales.
    let left = ((64 * blocks).saturating_sub(width * 17 / (32 * size)) / size).max(1);
    let near = (96 / size).max(2);
    let mut rule = content(name, left, &format!(";group={size};bits=8{more}"), size);
    rule.options += &format!(" --window-blocks {near}");
    rule
}

/// The recommended rule by content, at the bytes of so many blocks of 64 tokens.
pub fn saturated(width: usize, blocks: usize) -> Rule {
    by_content("saturated", (width, blocks), "", 16)
}

/// The rules that read about as many bytes as so many blocks of 64 tokens.
fn at_bytes_of(width: usize, blocks: usize) -> Vec<Rule> {
    let of = |name: &str, more: &str, size: usize| by_content(name, (width, blocks), more, size);
    let mut drawn = of("drawn by both, τ = ½", ";tau=0.5;alpha=0.5", 16);
    drawn.options += " --beta 1";
    vec![
        window(blocks, 64),
        half_window(blocks, 64),
        of("Quest's bound", ";estimate=bound", 16),
        of("mean key", ";estimate=mean-key", 16),
        saturated(width, blocks),
        drawn,
        of("saturated, blocks of 32", "", 32),
        of("saturated, blocks of 64", "", 64),
        // What a segment of rotated codes has of its own.
        of("mean key, blocks of 64", ";estimate=mean-key", 64),
        of("the largest true masses", ";estimate=exact", 16),
    ]
}
