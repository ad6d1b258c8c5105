//! The committed limits, and what is worse than they say.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::row::Row;

/// What a share may lose, in percentage points: the compiler's schedules aren't worth a failure.
const SLACK: f64 = 1.0;

/// What a kernel may need.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// At most.
    pub vgprs: u64,
    /// At most.
    pub spills: u64,
    /// At least.
    pub waves: u64,
    /// At least, in percent; nothing where a kernel has no loop over keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fma_share: Option<f64>,
}

impl Limits {
    fn of(row: &Row) -> Self {
        let share = (1000.0 * row.fma_share).floor() / 10.0 - SLACK;
        let fma_share = row.key_loop.then_some((10.0 * share).round().max(0.0) / 10.0);
        Self { vgprs: row.vgprs, spills: row.spills, waves: row.waves, fma_share }
    }

    /// What of a row is worse.
    fn worse(&self, row: &Row) -> Vec<String> {
        let mut worse = Vec::new();
        let mut more = |what: &str, is: u64, limit: u64| {
            if is > limit {
                worse.push(format!("{what} {is}, at most {limit}"));
            }
        };
        more("VGPRs", row.vgprs, self.vgprs);
        more("spills", row.spills, self.spills);
        if row.waves < self.waves {
            worse.push(format!("waves {}, at least {}", row.waves, self.waves));
        }
        if let Some(limit) = self.fma_share {
            let share = if row.key_loop { 100.0 * row.fma_share } else { 0.0 };
            if share < limit || share.is_nan() {
                worse.push(format!("FMA share {share:.1} %, at least {limit:.1} %"));
            }
        }
        worse
    }
}

/// Limits of families and variants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The driver that the limits were measured with.
    pub driver: String,
    /// By family, then by variant.
    pub limits: BTreeMap<String, BTreeMap<String, Limits>>,
}

impl Budget {
    /// # Errors
    /// The file can't be read, or isn't a budget.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("no budget at {} (--update writes one)", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} isn't a budget", path.display()))
    }

    /// What the rows are worse in. `complete`: the rows are all that plans choose, so that limits
    /// without a row are out of date.
    pub fn check(&self, rows: &[Row], complete: bool) -> Vec<String> {
        let mut failures = Vec::new();
        for row in rows.iter().filter(|row| row.chosen) {
            let name = format!("{} on {}", row.variant, row.family);
            match self.limits.get(&row.family).and_then(|family| family.get(&row.variant)) {
                Some(limits) => {
                    failures.extend(limits.worse(row).into_iter().map(|worse| format!("{name}: {worse}")));
                }
                None => failures.push(format!("{name}: no limits yet")),
            }
        }
        if complete {
            for (family, variants) in &self.limits {
                let measured = |variant: &str| {
                    rows.iter().any(|row| row.chosen && &row.family == family && row.variant == variant)
                };
                for variant in variants.keys().filter(|variant| !measured(variant)) {
                    failures.push(format!("{variant} on {family}: has limits, but isn't there any more"));
                }
            }
        }
        failures
    }

    /// The same with limits from these rows; with no others if they are `complete`.
    pub fn updated(&self, rows: &[Row], driver: &str, complete: bool) -> Self {
        let mut limits = if complete { BTreeMap::new() } else { self.limits.clone() };
        for row in rows.iter().filter(|row| row.chosen) {
            limits.entry(row.family.clone()).or_default().insert(row.variant.clone(), Limits::of(row));
        }
        Self { driver: driver.to_owned(), limits }
    }

    /// JSON with one variant a line.
    ///
    /// # Errors
    /// None in practice: nothing here is not JSON.
    pub fn text(&self) -> Result<String> {
        let mut text =
            format!("{{\n  \"driver\": {},\n  \"limits\": {{", serde_json::to_string(&self.driver)?);
        let mut families = "";
        for (family, variants) in &self.limits {
            write!(text, "{families}\n    {}: {{", serde_json::to_string(family)?)?;
            families = ",";
            let mut comma = "";
            for (variant, limits) in variants {
                let (name, limits) = (serde_json::to_string(variant)?, serde_json::to_string(limits)?);
                write!(text, "{comma}\n      {name}: {limits}")?;
                comma = ",";
            }
            text.push_str("\n    }");
        }
        text.push_str("\n  }\n}\n");
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            variant: "a_d64".into(),
            family: "navi31".into(),
            chosen: true,
            vgprs: 192,
            waves: 8,
            key_loop: true,
            fma_share: 0.5,
            ..Row::default()
        }
    }

    #[test]
    fn what_was_measured_is_within_its_own_limits() {
        let budget = Budget::default().updated(&[row()], "Mesa", true);
        assert_eq!(budget.check(&[row()], true), Vec::<String>::new());
        let limits = Limits { vgprs: 192, spills: 0, waves: 8, fma_share: Some(49.0) };
        assert_eq!(budget.limits["navi31"]["a_d64"], limits);
        let back: Budget = serde_json::from_str(&budget.text().unwrap()).unwrap();
        assert_eq!(back, budget);
    }

    #[test]
    fn each_number_that_gets_worse_is_named() {
        let budget = Budget::default().updated(&[row()], "Mesa", true);
        let check = |change: &dyn Fn(&mut Row)| {
            let mut row = row();
            change(&mut row);
            budget.check(&[row], true)
        };
        assert_eq!(check(&|row| row.vgprs = 200), ["a_d64 on navi31: VGPRs 200, at most 192"]);
        assert_eq!(check(&|row| row.spills = 3), ["a_d64 on navi31: spills 3, at most 0"]);
        assert_eq!(check(&|row| row.waves = 7), ["a_d64 on navi31: waves 7, at least 8"]);
        assert_eq!(
            check(&|row| row.fma_share = 0.48),
            ["a_d64 on navi31: FMA share 48.0 %, at least 49.0 %"]
        );
        assert_eq!(check(&|row| row.fma_share = f64::NAN).len(), 1);
        assert_eq!(check(&|row| row.key_loop = false).len(), 1);
        // Better, or within the slack.
        assert!(check(&|row| (row.vgprs, row.waves, row.fma_share) = (100, 10, 0.495)).is_empty());
    }

    #[test]
    fn limits_and_chosen_variants_go_together() {
        let budget = Budget::default().updated(&[row()], "Mesa", true);
        let other = Row { variant: "b".into(), ..row() };
        assert_eq!(budget.check(&[row(), other.clone()], true), ["b on navi31: no limits yet"]);
        let alternative = Row { chosen: false, ..other };
        assert!(budget.check(&[row(), alternative], true).is_empty());
        assert!(budget.check(&[], false).is_empty());
        assert_eq!(budget.check(&[], true), ["a_d64 on navi31: has limits, but isn't there any more"]);
        // A part of the rows leaves the other limits.
        assert_eq!(budget.updated(&[], "Mesa", false).limits, budget.limits);
    }
}
