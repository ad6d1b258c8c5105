//! Objectives: spaces whose points have scores.

use std::collections::BTreeMap;

use anyhow::Result;
use prflash::search::Space;
use serde::{Deserialize, Serialize};

use super::values::Values;

/// The first of the seeds by which points are scored again, with a report; those of searches count
/// from 0.
pub const AGAIN: u64 = 1001;

/// What a point is worth by a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The score by which points are selected, the larger the better.
    pub select: f64,
    /// The same by what nothing was selected by; none where that would take too long for every
    /// trial of a search.
    pub report: Option<f64>,
    /// Seconds of the processor that it took.
    pub cpu_seconds: f64,
    /// What else there is to say, by name.
    pub more: BTreeMap<String, f64>,
}

/// What became of a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It has a score.
    Scored(Scored),
    /// It has none.
    Failed {
        /// The reason why it has none.
        reason: String,
        /// Seconds of the processor until that was known.
        cpu_seconds: f64,
    },
}

impl Outcome {
    /// What a search is told: NaN of one that failed.
    pub fn select(&self) -> f64 {
        self.scored().map_or(f64::NAN, |scored| scored.select)
    }

    /// The scores, unless it failed.
    pub fn scored(&self) -> Option<&Scored> {
        match self {
            Self::Scored(scored) => Some(scored),
            Self::Failed { .. } => None,
        }
    }

    /// Seconds of the processor.
    pub fn cpu_seconds(&self) -> f64 {
        match self {
            Self::Scored(Scored { cpu_seconds, .. }) | Self::Failed { cpu_seconds, .. } => *cpu_seconds,
        }
    }
}

/// What is searched: a space, and scores of its points. A score is a function of point and seed on
/// a device, so that it can be kept.
pub trait Objective {
    /// What it is called in results.
    fn name(&self) -> &str;

    /// How much of the work is done for a score, in words: a part of what tells scores apart.
    fn scope(&self) -> &str;

    /// The points that are searched.
    fn space(&self) -> &Space;

    /// What all its scores depend on beside scope, point and seed: files by their sums.
    fn identity(&self) -> serde_json::Value;

    /// The device on which scores are computed, with all that they need opened. `step` hears which
    /// part of that is done.
    ///
    /// # Errors
    /// Something can't be opened; those of `step`.
    fn device(&mut self, step: &mut dyn FnMut(f64) -> Result<()>) -> Result<String>;

    /// The score of values by a seed of all that is drawn, from [`AGAIN`] on with a report. They
    /// may be others than those of the space. `step` hears which part is done.
    ///
    /// # Errors
    /// Values that it can't take; those of devices and of `step`, after which nothing is known of
    /// the point.
    fn score(
        &mut self,
        values: &Values,
        seed: u64,
        step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Outcome>;
}
