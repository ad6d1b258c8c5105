//! The methods that are compared.

use anyhow::Result;
use prflash::search::{Balanced, CrossEntropy, Grid, History, Method, Next, Random, Tpe, TreeCrossEntropy};

/// What others are measured by.
pub const BASELINES: [&str; 2] = ["TPE", "random"];

/// A method with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Contender {
    /// Random points.
    Random,
    /// Points that have each value equally often.
    Balanced,
    /// All points in turn, whatever the seed.
    Grid,
    /// The paper's method: rounds of 24, of which the best fifth is the elite, α = 0.7.
    Paper,
    /// The same for fewer trials: rounds of 8, of which the best quarter is the elite.
    #[value(name = "paper-8")]
    PaperOfEight,
    /// Cross-entropy with independent rows and an elite of all trials.
    Rows,
    /// Cross-entropy with a tree of dependences and kernels.
    Tree,
    /// The Parzen estimator.
    Tpe,
}

impl Contender {
    /// The methods that search tables, in the order of the report.
    pub const OF_TABLES: [Self; 7] =
        [Self::Random, Self::Balanced, Self::Grid, Self::Paper, Self::Rows, Self::Tree, Self::Tpe];

    /// What it is called in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Balanced => "balanced",
            Self::Grid => "grid",
            Self::Paper => "cross-entropy, paper",
            Self::PaperOfEight => "cross-entropy, paper, rounds of 8",
            Self::Rows => "cross-entropy, rows",
            Self::Tree => "cross-entropy, tree",
            Self::Tpe => "TPE",
        }
    }

    /// The method.
    ///
    /// # Errors
    /// The library's errors for settings that it refuses.
    pub fn method(self) -> Result<Chosen> {
        Ok(Chosen(match self {
            Self::Random => Box::new(Random),
            Self::Balanced => Box::new(Balanced),
            Self::Grid => Box::new(Grid),
            Self::Paper => Box::new(CrossEntropy::paper(24, 0.2, 0.7)?),
            Self::PaperOfEight => Box::new(CrossEntropy::paper(8, 0.25, 0.7)?),
            Self::Rows => Box::new(CrossEntropy::elite_of_all()),
            Self::Tree => Box::new(TreeCrossEntropy::recommended()),
            Self::Tpe => Box::new(Tpe::new()),
        }))
    }
}

/// Any of the methods.
#[derive(Debug)]
pub struct Chosen(Box<dyn Method>);

impl Method for Chosen {
    fn next(&self, history: &History) -> Next {
        self.0.next(history)
    }
}
