//! The methods that are compared.

use anyhow::Result;
use prflash::search::{Balanced, CrossEntropy, Grid, Random, Tpe, TreeCrossEntropy};

use super::replay::regrets;
use super::surrogate::Surrogate;

/// What others are measured by.
pub const BASELINES: [&str; 2] = ["TPE", "random"];

/// A method with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contender {
    /// Any points.
    Random,
    /// Points that have each value equally often.
    Balanced,
    /// All points in turn, whatever the seed.
    Grid,
    /// The paper's method: rounds of 24, of which the best fifth is the elite, α = 0.7.
    Paper,
    /// Independent rows with an elite of all trials.
    Rows,
    /// A tree of dependences and kernels.
    Tree,
    /// The Parzen estimator.
    Tpe,
}

impl Contender {
    /// All, in the order of tables.
    pub const ALL: [Self; 7] =
        [Self::Random, Self::Balanced, Self::Grid, Self::Paper, Self::Rows, Self::Tree, Self::Tpe];

    /// What it is called in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Balanced => "balanced",
            Self::Grid => "grid",
            Self::Paper => "cross-entropy, paper",
            Self::Rows => "cross-entropy, rows",
            Self::Tree => "cross-entropy, tree",
            Self::Tpe => "TPE",
        }
    }

    /// The regrets of a search after each trial.
    ///
    /// # Errors
    /// Those of [`regrets`].
    pub fn regrets(self, surrogate: &Surrogate, seed: u64, trials: usize) -> Result<Vec<f64>> {
        match self {
            Self::Random => regrets(surrogate, Random, seed, trials),
            Self::Balanced => regrets(surrogate, Balanced, seed, trials),
            Self::Grid => regrets(surrogate, Grid, seed, trials),
            Self::Paper => regrets(surrogate, CrossEntropy::paper(24, 0.2, 0.7)?, seed, trials),
            Self::Rows => regrets(surrogate, CrossEntropy::recommended(), seed, trials),
            Self::Tree => regrets(surrogate, TreeCrossEntropy::recommended(), seed, trials),
            Self::Tpe => regrets(surrogate, Tpe::new(), seed, trials),
        }
    }
}
