//! The vocabularies that are compared, and how each encodes.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use anyhow::Result;
use prflash::subword::{
    Cost, Costs, MergeScore, Merges, MergesTrainer, Pattern, Segmenter, Steps, Tokenizer, Trained, Trainer,
    WordCounts,
};

/// A vocabulary with its encoder, trained on some words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contender {
    /// Pairs merged by a score if they occur so often, and words encoded by these merges.
    Merged(MergeScore, u64),
    /// The same pieces, but words cut where they are cheapest by −ln p.
    MergedCheapest(MergeScore, u64),
    /// The pieces of BPE, but words cut into the fewest.
    MergedFewest,
    /// Grown from BPE's pieces and pruned by −ln p and λ, in nats for each piece; in so many
    /// rounds, or as many as lower the objective.
    Grown(f64, Option<usize>),
    /// Pruned from four times BPE's pieces by the number of pieces that words have; of cuts into as
    /// few, the most likely.
    Fewest,
    /// The same pieces, but of cuts into as few that of the least sum of inverse counts: the
    /// paper's objective with the smallest k that a word allows.
    FewestInverse,
    /// Pruned from four times BPE's pieces by inverse counts and λ for each piece.
    Inverse(f64),
    /// The paper's objective as it is written: inverse counts, by at most k pieces, from four times
    /// BPE's pieces.
    Paper(NonZeroUsize),
}

impl Contender {
    /// All that are compared, in the order of the tables.
    pub fn all() -> Vec<Self> {
        use MergeScore::{Likelihood, MutualInformation, PairCount, WordPiece};
        let k = |k: usize| Self::Paper(NonZeroUsize::MIN.saturating_add(k - 1));
        let mut all =
            vec![Self::Merged(PairCount, 1), Self::MergedCheapest(PairCount, 1), Self::MergedFewest];
        // WordPiece's score takes rare pairs first, and there are always rare pairs.
        for (score, least) in [(WordPiece, 1), (WordPiece, 100), (MutualInformation, 1), (Likelihood, 1)] {
            all.extend([Self::Merged(score, least), Self::MergedCheapest(score, least)]);
        }
        all.extend([
            Self::Grown(0.0, None),
            Self::Grown(2.0, None),
            Self::Grown(2.0, Some(2)),
            Self::Fewest,
            Self::FewestInverse,
            Self::Inverse(0.1),
        ]);
        all.extend([k(2), k(3)]);
        all
    }

    /// Trains it. `progress` may end the training, which then gives the best so far.
    ///
    /// # Errors
    /// Sizes that can't be.
    pub fn train(
        self,
        words: &WordCounts,
        size: usize,
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Tokenizer> {
        let mut merges = |score, least, size| -> Result<Merges> {
            let trainer = MergesTrainer::new(size)?.with_score(score).with_minimum_count(least);
            Ok(trainer.train_while(words, |_| progress())?)
        };
        let start = match self {
            Self::Merged(score, least) | Self::MergedCheapest(score, least) => merges(score, least, size)?,
            Self::MergedFewest | Self::Grown(..) => merges(MergeScore::PairCount, 1, size)?,
            Self::Fewest | Self::FewestInverse | Self::Inverse(_) | Self::Paper(_) => {
                merges(MergeScore::PairCount, 1, 4 * size)?
            }
        };
        if let Self::Merged(..) = self {
            return Ok(Tokenizer::new(Pattern::Gpt2, start));
        }
        let trainer = Trainer::new(size)?;
        let trainer = match self {
            // No rounds: the pieces stay, and costs follow from how often each is used.
            Self::MergedCheapest(..) | Self::MergedFewest => trainer.with_rounds(0),
            Self::Grown(lambda, rounds) => {
                let trainer = trainer.with_cost(Cost::Unigram, lambda)?;
                rounds.map_or(trainer.clone(), |rounds| trainer.with_rounds(rounds))
            }
            Self::Inverse(lambda) => trainer.with_cost(Cost::InverseCount, lambda)?,
            Self::Paper(most) => Trainer::paper(size, most)?,
            Self::Fewest | Self::FewestInverse => {
                trainer.with_cost(Cost::Unit, 0.0)?.with_steps(Steps::Fewest)
            }
            Self::Merged(..) => trainer,
        };
        let trained = trainer.train(words, &start.vocabulary()?, |_| progress())?;
        let segmenter = match self {
            Self::MergedFewest | Self::Fewest => fewest(trained, Cost::Unigram)?,
            Self::FewestInverse => fewest(trained, Cost::InverseCount)?,
            _ => trained.segmenter,
        };
        Ok(Tokenizer::new(Pattern::Gpt2, segmenter))
    }
}

/// The same pieces, for words cut into the fewest, and of those cuts into the cheapest.
fn fewest(trained: Trained, cost: Cost) -> Result<Segmenter> {
    let costs = Costs::new(cost, &trained.counts, 0.0)?;
    Ok(Segmenter::new(trained.segmenter.vocabulary().clone(), costs, Steps::Fewest)?)
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Merged(score, least) | Self::MergedCheapest(score, least) = self {
            f.write_str(match score {
                MergeScore::PairCount => "BPE",
                MergeScore::WordPiece => "eBPE by c(ab)/(c(a)·c(b))",
                MergeScore::MutualInformation => "eBPE by c(ab)·PMI",
                MergeScore::Likelihood => "eBPE by likelihood",
                _ => "eBPE",
            })?;
            if *least > 1 {
                write!(f, " from {least} times")?;
            }
        }
        match self {
            Self::Merged(..) => Ok(()),
            Self::MergedCheapest(..) => f.write_str(", its pieces by shortest path"),
            Self::MergedFewest => f.write_str("BPE, its pieces by fewest"),
            Self::Grown(lambda, None) => write!(f, "SWE, λ = {lambda}"),
            Self::Grown(lambda, Some(rounds)) => write!(f, "SWE, λ = {lambda}, {rounds} rounds"),
            Self::Fewest => f.write_str("fewest pieces"),
            Self::FewestInverse => f.write_str("fewest pieces, then 1/c"),
            Self::Inverse(lambda) => write!(f, "1/c, λ = {lambda}"),
            Self::Paper(most) => write!(f, "1/c, k = {most}"),
        }
    }
}
