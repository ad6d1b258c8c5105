//! The committed limits, what is worse than they say, and which of them are out of date.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::row::Row;

/// What a share may lose, in percentage points: the compiler's schedules aren't worth a failure.
const SLACK: f64 = 1.0;

/// By how much a limit may be looser than what is counted before it is out of date: this part of
/// it, but at least so many registers or spills, and so many percentage points of a share.
const LOOSE_PART: f64 = 0.25;
const LOOSE_REGISTERS: f64 = 16.0;
const LOOSE_SHARE: f64 = 5.0;

/// What a kernel may need.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most vector registers.
    pub vgprs: u64,
    /// The most registers that may be spilled.
    pub spills: u64,
    /// The fewest waves that must fit.
    pub waves: u64,
    /// The least share of multiply-adds, in percent; nothing where a kernel has no loop over keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fma_share: Option<f64>,
}

impl Limits {
    fn of(row: &Row) -> Self {
        let share = (1000.0 * row.fma_share).floor() / 10.0 - SLACK;
        let fma_share = row.key_loop.then_some((10.0 * share).round().max(0.0) / 10.0);
        Self { vgprs: row.vgprs, spills: row.spills, waves: row.waves, fma_share }
    }

    /// Which of the limits a kernel could get much worse under, unseen.
    fn loose(&self, row: &Row) -> Vec<String> {
        let mut loose = Vec::new();
        let mut more = |what: &str, limit: u64, is: u64, least: f64| {
            let (allowed, used) = (limit as f64, is as f64);
            if allowed - used > (LOOSE_PART * allowed).max(least) {
                loose.push(format!("allows {limit} {what}, takes {is}"));
            }
        };
        more("VGPRs", self.vgprs, row.vgprs, LOOSE_REGISTERS);
        more("spills", self.spills, row.spills, LOOSE_REGISTERS);
        if (row.waves as f64) * (1.0 - LOOSE_PART) > self.waves as f64 {
            loose.push(format!("asks for {} waves, has {}", self.waves, row.waves));
        }
        let share = 100.0 * row.fma_share;
        match self.fma_share {
            Some(limit) if share - SLACK - limit > LOOSE_SHARE => {
                loose.push(format!("asks for an FMA share of {limit:.1} %, has {share:.1} %"));
            }
            None if row.key_loop => loose.push("asks for no FMA share, has a loop over keys".to_owned()),
            _ => {}
        }
        loose
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
    /// The limits by family, then by variant.
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

    /// What the rows are worse in.
    pub fn check(&self, rows: &[Row]) -> Vec<String> {
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
        failures
    }

    /// Which limits are out of date: they are much looser than what the rows take or, if these are
    /// all that plans choose (`complete`), of a kernel that none chooses any more.
    pub fn stale(&self, rows: &[Row], complete: bool) -> Vec<String> {
        let mut stale = Vec::new();
        for (family, variants) in &self.limits {
            for (variant, limits) in variants {
                let name = format!("{variant} on {family}");
                let of = |row: &&Row| row.chosen && &row.family == family && &row.variant == variant;
                match rows.iter().find(of) {
                    Some(row) => {
                        stale.extend(limits.loose(row).into_iter().map(|loose| format!("{name}: {loose}")));
                    }
                    None if complete => stale.push(format!("{name}: no plan chooses it any more")),
                    None => {}
                }
            }
        }
        stale
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
        assert!(budget.check(&[row()]).is_empty() && budget.stale(&[row()], true).is_empty());
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
            budget.check(&[row])
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
        assert_eq!(budget.check(&[row(), other.clone()]), ["b on navi31: no limits yet"]);
        let alternative = Row { chosen: false, ..other };
        assert!(budget.check(&[row(), alternative.clone()]).is_empty());
        assert!(budget.check(&[]).is_empty() && budget.stale(&[], false).is_empty());
        // Neither of one that is gone nor of one that is an alternative by now.
        let gone = ["a_d64 on navi31: no plan chooses it any more"];
        assert_eq!(budget.stale(&[], true), gone);
        assert_eq!(budget.stale(&[Row { chosen: false, ..row() }], true), gone);
        // A part of the rows leaves the other limits.
        assert_eq!(budget.updated(&[], "Mesa", false).limits, budget.limits);
    }
    #[test]
    fn limits_that_are_much_looser_than_the_count_are_out_of_date() {
        let spilling = Row { spills: 3652, ..row() };
        let budget = Budget::default().updated(&[spilling], "Mesa", true);
        let stale = |change: &dyn Fn(&mut Row)| {
            let mut row = Row { spills: 3652, ..row() };
            change(&mut row);
            budget.stale(&[row], true)
        };
        assert_eq!(stale(&|row| row.spills = 0), ["a_d64 on navi31: allows 3652 spills, takes 0"]);
        assert_eq!(stale(&|row| row.vgprs = 120), ["a_d64 on navi31: allows 192 VGPRs, takes 120"]);
        assert_eq!(stale(&|row| row.waves = 12), ["a_d64 on navi31: asks for 8 waves, has 12"]);
        assert_eq!(
            stale(&|row| row.fma_share = 0.6),
            ["a_d64 on navi31: asks for an FMA share of 49.0 %, has 60.0 %"]
        );
        // A little better isn't worth a failure.
        let better = |row: &mut Row| {
            (row.spills, row.vgprs, row.waves, row.fma_share) = (3600, 168, 9, 0.53);
        };
        assert!(stale(&better).is_empty());
    }
}
