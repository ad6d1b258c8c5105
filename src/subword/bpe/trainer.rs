//! Training of merges.

use std::ops::ControlFlow;

use super::by_count::ByCount;
use super::by_row::ByRow;
use super::choose::Choose;
use super::corpus::{Corpus, Merge};
use super::score::{Likelihood, MutualInformation, WordPiece};
use super::{BYTES, MergeScore, Merges};
use crate::error::{Result, ensure};
use crate::limits::{MAX_PIECES, at_most};
use crate::subword::WordCounts;

/// Trains [`Merges`] from the words of a corpus.
///
/// ```
/// use prflash::subword::{MergesTrainer, WordCounts};
/// let words = WordCounts::from_counts([("low", 5), ("lower", 2), ("newest", 6), ("widest", 3)])?;
/// let merges = MergesTrainer::new(256 + 3)?.train(&words)?;
/// let made: Vec<&[u8]> = merges.iter().skip(256).collect();
/// assert_eq!(made, [&b"es"[..], b"est", b"lo"]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergesTrainer {
    pieces: usize,
    score: MergeScore,
    minimum: u64,
}

/// How far a training is, after a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergesProgress {
    /// How many pieces there are, the bytes among them.
    pub pieces: usize,
    /// How many there will be in the end, unless no pair is left before.
    pub wanted: usize,
    /// How many pieces the corpus is cut into now.
    pub tokens: u64,
}

impl MergesTrainer {
    /// For a vocabulary of so many pieces, the 256 bytes among them. There are fewer in the end if
    /// the corpus has no more pairs.
    ///
    /// # Errors
    /// Invalid argument (`pieces`) below 256; too large past
    /// [`MAX_PIECES`](crate::limits::MAX_PIECES).
    pub fn new(pieces: usize) -> Result<Self> {
        ensure!(pieces >= BYTES, "pieces", "expected at least the {BYTES} bytes, got {pieces}");
        at_most("pieces", pieces, MAX_PIECES)?;
        Ok(Self { pieces, score: MergeScore::default(), minimum: 1 })
    }

    /// By what merges are chosen; by the pair's count if nothing is said.
    #[must_use]
    pub fn with_score(mut self, score: MergeScore) -> Self {
        self.score = score;
        self
    }

    /// How often a pair must occur to be merged; once if nothing is said. 0 is as good as 1.
    #[must_use]
    pub fn with_minimum_count(mut self, minimum: u64) -> Self {
        self.minimum = minimum.max(1);
        self
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// Too large (`words`) if the corpus has more than 2⁶³ bytes, or its distinct words about 2³¹.
    pub fn train(&self, words: &WordCounts) -> Result<Merges> {
        self.train_while(words, |_| ControlFlow::Continue(()))
    }

    /// Trains and says after every merge how far it is. Upon `Break` it ends with the merges that
    /// were made until then; training to fewer pieces gives the same.
    ///
    /// # Errors
    /// Those of [`train`](MergesTrainer::train).
    pub fn train_while(
        &self,
        words: &WordCounts,
        progress: impl FnMut(MergesProgress) -> ControlFlow<()>,
    ) -> Result<Merges> {
        Merges::from_pairs(self.train_corpus(&mut Corpus::new(words)?, progress))
    }

    pub(super) fn train_corpus(
        &self,
        corpus: &mut Corpus,
        progress: impl FnMut(MergesProgress) -> ControlFlow<()>,
    ) -> Vec<(u32, u32)> {
        match self.score {
            MergeScore::PairCount => self.run::<ByCount>(corpus, progress),
            MergeScore::WordPiece => self.run::<ByRow<WordPiece>>(corpus, progress),
            MergeScore::MutualInformation => self.run::<ByRow<MutualInformation>>(corpus, progress),
            MergeScore::Likelihood => self.run::<ByRow<Likelihood>>(corpus, progress),
        }
    }

    fn run<C: Choose>(
        &self,
        corpus: &mut Corpus,
        mut progress: impl FnMut(MergesProgress) -> ControlFlow<()>,
    ) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        let mut choice = C::new(corpus, self.minimum);
        let mut merge = Merge::default();
        while BYTES + pairs.len() < self.pieces {
            let Some(index) = choice.choose(corpus) else { break };
            corpus.merge(index, &mut merge);
            pairs.push((merge.left, merge.right));
            choice.merged(corpus, &merge);
            let pieces = BYTES + pairs.len();
            let tokens = corpus.total();
            if progress(MergesProgress { pieces, wanted: self.pieces, tokens }).is_break() {
                break;
            }
        }
        pairs
    }
}
