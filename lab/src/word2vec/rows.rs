//! The file of results: a row for each training, ours and other programs', with what it is worth.

use crate::table;

/// A training that was judged.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The text's file name.
    pub text: String,
    /// The name of the trainer.
    pub trainer: String,
    /// The program with its version.
    pub program: String,
    /// `skip-gram` or `bag-of-words`.
    pub architecture: String,
    /// Numbers of a vector.
    pub dimension: usize,
    /// Words on each side of a word that a window has at most.
    pub window: usize,
    /// Negatives of a pair.
    pub negative: usize,
    /// Passes over the text.
    pub epochs: u32,
    /// How often words had to be in the text.
    pub min_count: u64,
    /// Tokens of a batch; none where there are no batches.
    pub batch: Option<usize>,
    /// All other settings, by their names.
    pub settings: String,
    /// The seed of the training.
    pub seed: u64,
    /// Different words.
    pub words: usize,
    /// Spearman's rank correlation with WordSim-353; none where it isn't defined.
    pub wordsim: Option<f64>,
    /// How many of its pairs have vectors for both words.
    pub wordsim_covered: usize,
    /// How many pairs WordSim-353 has.
    pub wordsim_pairs: usize,
    /// Spearman's rank correlation with SimLex-999.
    pub simlex: Option<f64>,
    /// How many of its pairs have vectors for both words.
    pub simlex_covered: usize,
    /// How many pairs SimLex-999 has.
    pub simlex_pairs: usize,
    /// How many answers to analogies are right.
    pub analogies_right: usize,
    /// How many questions have vectors for all words.
    pub analogies_covered: usize,
    /// How many questions there are.
    pub analogies_asked: usize,
    /// Words of the text a second, of all epochs.
    pub raw_words_per_s: f64,
    /// The same by seconds of the processor.
    pub raw_words_per_cpu_s: f64,
    /// The device that it was trained on; none of the processor.
    pub device: Option<String>,
    /// The git revision of the lab that trained, or that judged what others trained.
    pub revision: String,
}

impl Row {
    /// Right answers of a hundred analogies, those without vectors among them.
    pub fn analogies(&self) -> f64 {
        100.0 * self.analogies_right as f64 / self.analogies_asked as f64
    }

    /// What has to be equal for a comparison.
    pub fn problem(&self) -> Problem {
        Problem {
            text: self.text.clone(),
            architecture: self.architecture.clone(),
            dimension: self.dimension,
            window: self.window,
            negative: self.negative,
            epochs: self.epochs,
            min_count: self.min_count,
        }
    }
}

/// A text, and settings that every program has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// See [`Row`].
    pub text: String,
    /// See [`Row`].
    pub architecture: String,
    /// See [`Row`].
    pub dimension: usize,
    /// See [`Row`].
    pub window: usize,
    /// See [`Row`].
    pub negative: usize,
    /// See [`Row`].
    pub epochs: u32,
    /// See [`Row`].
    pub min_count: u64,
}

impl table::Row for Row {
    fn same(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.trainer.clone(), row.batch, row.settings.clone(), row.seed);
        self.problem() == other.problem() && key(self) == key(other)
    }
}

/// The rows of a file.
pub type Rows = table::Table<Row>;
