//! The caches that are compared.

use anyhow::{Context as _, Result};
use prflash::cache::{Sensitivity, Staircase};

use super::plan::most_sensitive;
use crate::staircase::parse;

/// A named cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What tables call it.
    pub name: String,
    /// A staircase as `--staircase` has it, or of two kinds of layers: see [`Rule::staircases`].
    pub cache: String,
}

impl Rule {
    /// A rule by its name and its cache.
    pub fn new(name: impl Into<String>, cache: impl Into<String>) -> Self {
        Self { name: name.into(), cache: cache.into() }
    }

    /// Whether keys are multiplied, and queries divided, by what was found on another text.
    pub fn is_balanced(&self) -> bool {
        self.cache.starts_with(BALANCED)
    }

    /// Whether it has to be known what layers lose.
    pub fn is_calibrated(&self) -> bool {
        self.cache.contains('@')
    }

    /// The ladders that the less sensitive layers have.
    ///
    /// # Errors
    /// As [`staircases`](Rule::staircases).
    pub fn low(&self) -> Result<Staircase> {
        let low = self.caches().rsplit_once('|').map_or(self.caches(), |both| both.1);
        parse(low).with_context(|| format!("rule {:?}", self.name))
    }

    /// The staircase of each layer: `STAIRCASE`, or `COUNT@STAIRCASE|STAIRCASE`, the first of which
    /// gives its ladder to the so many most sensitive of all keys and values of layers, and the
    /// second to the others (and all else to all). `balanced: ` may be before either.
    ///
    /// # Errors
    /// What can't be read; one that is calibrated without sensitivities.
    pub fn staircases(&self, layers: usize, known: Option<&[Sensitivity]>) -> Result<Vec<Staircase>> {
        let context = || format!("rule {:?}", self.name);
        let Some((count, both)) = self.caches().split_once('@') else {
            return Ok(vec![parse(self.caches()).with_context(context)?; layers]);
        };
        let count = count.parse().ok().with_context(|| format!("expected COUNT@, got {count:?}"))?;
        let (high, low) = both.split_once('|').context("expected STAIRCASE|STAIRCASE behind @")?;
        let known = known.context("nothing is known of what layers lose: --calibrate")?;
        let (high, low) = (parse(high).with_context(context)?, parse(low).with_context(context)?);
        Ok(most_sensitive(known, (layers, count), [&high, &low]).with_context(context)?.staircases())
    }

    /// The cache without what is done to keys before it.
    fn caches(&self) -> &str {
        self.cache.strip_prefix(BALANCED).unwrap_or(&self.cache)
    }
}

/// What is before the cache of a rule that multiplies keys.
const BALANCED: &str = "balanced: ";

/// The same with the channels of keys made alike.
fn balanced(rule: &Rule) -> Rule {
    Rule::new(format!("{}, balanced", rule.name), format!("{BALANCED}{}", rule.cache))
}

/// What is behind the ladders of rotated codes: as the preset has it, or without fine tokens.
const FINE: &str = ";segment=64;rotated=1";
const NOT_FINE: &str = ";segment=64;rotated=0";

/// Tokens of the windows by which all rules are compared.
pub const WIDTH: usize = 3969;

/// Those by which some rules are compared, as long as a model's context has them.
pub const LENGTHS: [usize; 5] = [2048, WIDTH, 8192, 16_384, 32_768];

/// The rules that are compared by length.
pub fn rules_of_lengths() -> Vec<Rule> {
    let some = [
        "recommended",
        "KIVI-4",
        "recommended, rotated",
        "recommended, rotated, balanced",
        "rotated, K 8×4 → 4, V 4×8 → 3×16 → 2",
    ];
    rules().into_iter().filter(|rule| some.contains(&&*rule.name)).collect()
}

/// What lab/RESULTS.md compares: as they are without calibration, and by what layers lose.
pub fn rules() -> Vec<Rule> {
    let rotated = |name: &str, keys: &str, values: &str, rest: &str| {
        Rule::new(format!("rotated, {name}"), format!("K:{keys};V:{values}{rest}"))
    };
    let by_layer = |name: &str, count: usize, keys: &str, values: &str| {
        let low = format!("K:4x8,2;V:4x8,2{FINE}");
        Rule::new(
            format!("rotated, {count} at {name}, others 4×8 → 2"),
            format!("{count}@K:{keys};V:{values}|{low}"),
        )
    };
    let mut all = vec![
        Rule::new("f16", "plain"),
        Rule::new("recommended", "recommended"),
        Rule::new("KIVI-4", "kivi4"),
        Rule::new("KIVI-2", "kivi2"),
        Rule::new("sink + window of 1,024 tokens", "streaming:1024"),
        rotated("K and V 8×4 → 4", "8x4,4", "8x4,4", FINE),
        rotated("K 8×4 → 4, V 8×4 → 4×32 → 3", "8x4,4", "8x4,4x32,3", FINE),
        Rule::new("recommended, rotated", format!("K:8x4,4;V:8x4,3{FINE}")),
        rotated("K 8×4 → 4, V 4×8 → 3", "8x4,4", "4x8,3", FINE),
        rotated("K 8×4 → 4, V 4×8 → 3×16 → 2", "8x4,4", "4x8,3x16,2", FINE),
        rotated("K 8×4 → 4, V 8×4 → 4×32 → 2", "8x4,4", "8x4,4x32,2", FINE),
        rotated("K 8×4 → 4, V 8×4 → 4×32 → 2, no fine tokens", "8x4,4", "8x4,4x32,2", NOT_FINE),
        rotated("K 8×2 → 4, V 8×2 → 4×16 → 2, segments of 128", "8x2,4", "8x2,4x16,2", ";rotated=2"),
        rotated("K 4, V 3", "4", "3", FINE),
        rotated("K 4, V 4×8 → 2", "4", "4x8,2", FINE),
        rotated("K 4, V 2", "4", "2", FINE),
        rotated("K 3, V 3", "3", "3", FINE),
        by_layer("8×4 → 4 bits", 20, "8x4,4", "8x4,4"),
        by_layer("8×4 → 4 bits", 30, "8x4,4", "8x4,4"),
        by_layer("K 8×4 → 4, V 4×8 → 3", 12, "8x4,4", "4x8,3"),
        by_layer("K 8×4 → 4, V 4×8 → 3", 18, "8x4,4", "4x8,3"),
        by_layer("K 8×4 → 4, V 4×8 → 3", 30, "8x4,4", "4x8,3"),
        by_layer("K 8×4 → 4, V 4×8 → 3", 36, "8x4,4", "4x8,3"),
        by_layer("4 bits", 26, "4", "4"),
    ];
    // Those that another model may need: what has keys in 4 bits, and the best by layer.
    let keys_alike = ["K and V 8×4 → 4", "recommended, rotated", "V 4×8 → 3", "K 4, V 3", "K 4, V 4×8 → 2"];
    let some: Vec<Rule> = all
        .iter()
        .filter(|rule| keys_alike.iter().any(|name| rule.name.contains(name)))
        .map(balanced)
        .collect();
    all.extend(some);
    all
}
