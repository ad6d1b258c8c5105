//! A vocabulary trained to make words cheap: grown by what pays most, pruned of what pays least.

mod growth;
mod recounter;

use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

pub use self::recounter::{RecountRates, RecountedBy};

use self::recounter::Recounter;
use super::corpus::Recount;
use super::costs::{Cost, Costs};
#[cfg(not(target_arch = "wasm32"))]
use super::gpu::words::GpuWords;
use super::segmenter::{Segmenter, Steps};
use super::vocabulary::Vocabulary;
use super::word_counts::WordCounts;
use crate::error::{Result, ensure};
use crate::limits::{MAX_PIECES, at_most};
#[cfg(not(target_arch = "wasm32"))]
use crate::runtime::context::Context;

/// Trains vocabularies for a [`Segmenter`].
///
/// From a vocabulary to begin with, which may be of any size (that of BPE is a good one), rounds of
///
/// 1. growth: a tenth of the size is added, of pieces that join two or three neighbours in the cuts
///    of the words, those that lower the objective most by first order;
/// 2. recounting: all words are cut again, and costs follow from how often each piece is used;
/// 3. pruning back to the size, in steps of 3%, by what words would cost more without a piece,
///
/// as long as a round lowers the objective, the cost of all words of the corpus with every piece's
/// κ and λ. The single bytes always stay. (By [`Cost::InverseCount`] without λ the objective is the
/// number of pieces that are used, which no growth lowers: begin with more pieces than the size.)
///
/// The result depends on the table of words alone: not on the order of a corpus, nor on threads,
/// nor on what recounts the words, which may be a GPU ([`train_on`](Trainer::train_on)).
#[derive(Clone, Debug)]
pub struct Trainer {
    size: usize,
    cost: Cost,
    lambda: f64,
    steps: Steps,
    rounds: Rounds,
    threads: NonZeroUsize,
    /// What is faster, if nothing is set.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code))]
    recounts: Option<RecountedBy>,
}

/// How far a training is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Whole rounds so far.
    pub rounds: usize,
    /// Rounds at most.
    pub most_rounds: usize,
    /// The objective of the best vocabulary so far, per byte of the corpus: in nats, for
    /// [`Cost::Unigram`].
    pub cost_per_byte: f64,
}

/// What a training found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trained {
    /// The vocabulary with its costs: the 256 bytes, then the pieces from the most frequent on.
    pub segmenter: Segmenter,
    /// How often each piece is used in the cuts of the corpus, by its number.
    pub counts: Vec<u64>,
    /// Rounds that lowered the objective.
    pub rounds: usize,
    /// The cost of all words together, in steps of [`Cost::scale`].
    pub objective: u128,
    /// What recounted the words.
    pub recounted_by: RecountedBy,
    /// How fast host and device recounted, where [`Trainer::train_on`] measured it.
    pub rates: Option<RecountRates>,
}

/// A vocabulary, and what became of the words by it.
#[derive(Clone, Debug)]
struct State {
    segmenter: Segmenter,
    counts: Vec<u64>,
    objective: u128,
}

/// How long a training goes on.
#[derive(Clone, Copy, Debug)]
enum Rounds {
    AtMost(usize),
    /// [`FEW`] for a vocabulary that is large for its words.
    Few,
}

impl Rounds {
    fn most(self, size: usize, words: &WordCounts) -> usize {
        match self {
            Self::AtMost(rounds) => rounds,
            Self::Few if size as f64 > LARGE * words.len() as f64 => FEW,
            Self::Few => ROUNDS,
        }
    }
}

/// Rounds at most, if nothing is said.
const ROUNDS: usize = 40;
/// Rounds of a vocabulary that is large for its words.
const FEW: usize = 2;
/// Pieces by different words, of such a vocabulary: between 0.28, where many rounds are better, and
/// 0.40, where two are, in the lab's results.
const LARGE: f64 = 1.0 / 3.0;
/// The part of the size by which a round grows.
const GROWTH: f64 = 0.1;
/// The part of the pieces that a step of pruning takes.
const PRUNED: f64 = 0.03;

impl Trainer {
    /// For vocabularies of `size` pieces, by [`Cost::Unigram`] without λ, on one thread.
    ///
    /// # Errors
    /// Invalid argument (`size`) below 256, the single bytes; too large past
    /// [`MAX_PIECES`](crate::limits::MAX_PIECES).
    pub fn new(size: usize) -> Result<Self> {
        ensure!(size >= 256, "size", "expected at least 256, the single bytes, got {size}");
        at_most("size", size, MAX_PIECES)?;
        let (cost, steps) = (Cost::Unigram, Steps::Unlimited);
        Ok(Self {
            size,
            cost,
            lambda: 0.0,
            steps,
            rounds: Rounds::AtMost(ROUNDS),
            threads: NonZeroUsize::MIN,
            recounts: None,
        })
    }

    /// What came out best on held-out prose and code, in bytes per token and bits per byte
    /// together: [`Cost::Unigram`] with λ = 2 nats, and as many rounds as lower the objective, or
    /// two where there are more than a third as many pieces as different words to train on.
    ///
    /// λ makes texts some 1% shorter in tokens than without it, and leaves their bits per byte
    /// where they are. A vocabulary that isn't much smaller than the number of different words
    /// learns them by heart, and cuts words that it hasn't seen into more pieces the longer it is
    /// trained. (The lab's results have the figures.)
    ///
    /// # Errors
    /// As [`new`](Trainer::new).
    pub fn recommended(size: usize) -> Result<Self> {
        let trainer = Self::new(size)?.with_cost(Cost::Unigram, 2.0)?;
        Ok(Self { rounds: Rounds::Few, ..trainer })
    }

    /// The paper's objective: the inverse of a piece's count, by at most k steps.
    ///
    /// # Errors
    /// As [`new`](Trainer::new).
    pub fn paper(size: usize, most: NonZeroUsize) -> Result<Self> {
        Ok(Self { cost: Cost::InverseCount, steps: Steps::AtMost(most), ..Self::new(size)? })
    }

    /// By another cost, with λ for every piece of a cut, in its unit.
    ///
    /// # Errors
    /// Invalid argument (`lambda`) as [`Costs::new`].
    pub fn with_cost(self, cost: Cost, lambda: f64) -> Result<Self> {
        Costs::new(cost, &[], lambda)?;
        Ok(Self { cost, lambda, ..self })
    }

    /// With words cut into so many pieces. The fewest pieces are trained by [`Cost::Unit`]; their
    /// cuts may then go by another cost, with the counts that were found ([`Segmenter::new`]).
    pub fn with_steps(self, steps: Steps) -> Self {
        Self { steps, ..self }
    }

    /// With at most so many rounds; 40 unless set, but see [`recommended`](Trainer::recommended).
    pub fn with_rounds(self, rounds: usize) -> Self {
        Self { rounds: Rounds::AtMost(rounds), ..self }
    }

    /// On so many threads, which change nothing but the time. On one where there are no threads.
    pub fn with_threads(self, threads: NonZeroUsize) -> Self {
        Self { threads, ..self }
    }

    /// With words recounted by the host or the device whatever is faster, in
    /// [`train_on`](Trainer::train_on). [`train`](Trainer::train) knows no device.
    pub fn with_recounts_by(self, recounts: RecountedBy) -> Self {
        Self { recounts: Some(recounts), ..self }
    }

    /// Trains on these words, from this vocabulary. `progress` is told after every round, and may
    /// end the training, which then gives the best so far.
    ///
    /// # Errors
    /// Invalid argument (`words`) if there are none; (`steps`) for [`Steps::Fewest`] by another
    /// cost than [`Cost::Unit`].
    pub fn train(
        &self,
        words: &WordCounts,
        start: &Vocabulary,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Trained> {
        self.check(words)?;
        self.run(&Recounter::host(words, self.threads), words, start, progress)
    }

    /// [`train`](Trainer::train) with the words recounted on a device, if that is faster than the
    /// host's threads: both do it once by the vocabulary to begin with, the device after a first
    /// time in which its kernels are compiled. The result is that of `train`, bit for bit, and
    /// [`Trained::recounted_by`] says which it was. (Growth looks at the cuts of words on the
    /// host.)
    ///
    /// By [`Steps::AtMost`] the host recounts, and nothing is measured.
    ///
    /// # Errors
    /// As [`train`](Trainer::train); too large (`segmenter`) if the device can't bind a vocabulary
    /// that the device was to cut by; out of memory; device lost.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn train_on(
        &self,
        context: &Context,
        words: &WordCounts,
        start: &Vocabulary,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Trained> {
        self.check(words)?;
        let on_host = matches!(self.steps, Steps::AtMost(_)) || self.recounts == Some(RecountedBy::Host);
        let recounter = match self.recounts {
            _ if on_host => Recounter::host(words, self.threads),
            Some(_) => Recounter::gpu(GpuWords::new(context, words)?, self.threads),
            None => {
                let segmenter = unit(start, self.steps)?;
                Recounter::faster(GpuWords::new(context, words)?, self.threads, &segmenter)?
            }
        };
        self.run(&recounter, words, start, progress)
    }

    fn check(&self, words: &WordCounts) -> Result<()> {
        ensure!(!words.is_empty(), "words", "expected at least one word, got none");
        ensure!(
            self.steps != Steps::Fewest || self.cost == Cost::Unit,
            "steps",
            "the fewest pieces are trained by Cost::Unit, not by {:?}",
            self.cost
        );
        Ok(())
    }

    fn run(
        &self,
        recounter: &Recounter<'_>,
        words: &WordCounts,
        start: &Vocabulary,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Trained> {
        let bytes = words.total_bytes() as f64 * f64::from(self.cost.scale());
        let mut best = self.pruned(recounter, self.begin(recounter, start)?)?;
        let most_rounds = self.rounds.most(self.size, words);
        let mut rounds = 0;
        loop {
            let so_far = Progress { rounds, most_rounds, cost_per_byte: best.objective as f64 / bytes };
            if progress(so_far).is_break() || rounds == most_rounds {
                break;
            }
            let grown = self.grown(recounter, &best)?;
            let next = self.pruned(recounter, grown)?;
            if next.objective >= best.objective {
                break;
            }
            best = next;
            rounds += 1;
        }
        let State { segmenter, counts, objective } = self.ordered(recounter, best)?;
        let (recounted_by, rates) = (recounter.by(), recounter.rates);
        Ok(Trained { segmenter, counts, rounds, objective, recounted_by, rates })
    }

    /// Cuts words into the fewest pieces first, where nothing is known of how often each is used.
    fn begin(&self, recounter: &Recounter<'_>, start: &Vocabulary) -> Result<State> {
        let Recount { counts, .. } = recounter.recount(&unit(start, Steps::Unlimited)?)?;
        let first = self.recounted(recounter, start.clone(), &counts)?;
        self.recounted(recounter, start.clone(), &first.counts)
    }

    /// All words cut by the costs that follow from these counts.
    fn recounted(&self, recounter: &Recounter<'_>, vocabulary: Vocabulary, counts: &[u64]) -> Result<State> {
        let costs = Costs::new(self.cost, counts, self.lambda)?;
        let segmenter = Segmenter::new(vocabulary, costs, self.steps)?;
        let Recount { counts, objective } = recounter.recount(&segmenter)?;
        Ok(State { segmenter, counts, objective })
    }

    /// With the pieces that pay most beside those that are there.
    fn grown(&self, recounter: &Recounter<'_>, state: &State) -> Result<State> {
        let most = ((self.size as f64 * GROWTH) as usize).max(1).min(MAX_PIECES - self.size);
        let added = growth::best(&recounter.corpus, state.view(), (self.cost, self.lambda), most);
        let vocabulary = state.segmenter.vocabulary();
        let pieces = vocabulary.iter().map(<[u8]>::to_vec);
        let pieces = pieces.chain(added.iter().map(|added| added.bytes().to_vec()));
        let mut counts = state.counts.clone();
        counts.extend(added.iter().map(|added| added.count));
        let grown = self.recounted(recounter, Vocabulary::new(pieces)?, &counts)?;
        self.recounted(recounter, grown.segmenter.vocabulary().clone(), &grown.counts)
    }

    /// Without the pieces that words need least, down to the size, and counted anew.
    fn pruned(&self, recounter: &Recounter<'_>, mut state: State) -> Result<State> {
        while state.segmenter.vocabulary().len() > self.size {
            let len = state.segmenter.vocabulary().len();
            let most = ((len as f64 * PRUNED) as usize).max(1).min(len - self.size);
            let losses = state.losses();
            let mut order: Vec<usize> = (0..len).filter(|&piece| losses[piece].is_some()).collect();
            // Ties go by the bytes, so that numbers don't matter.
            let bytes = |piece: usize| state.segmenter.vocabulary().piece(piece as u32);
            order.sort_unstable_by_key(|&piece| (losses[piece], bytes(piece)));
            let mut stays = vec![true; len];
            order.iter().take(most).for_each(|&piece| stays[piece] = false);
            state = self.kept(recounter, &state, &stays)?;
        }
        self.recounted(recounter, state.segmenter.vocabulary().clone(), &state.counts)
    }

    fn kept(&self, recounter: &Recounter<'_>, state: &State, stays: &[bool]) -> Result<State> {
        let vocabulary = state.segmenter.vocabulary();
        let pieces = vocabulary.iter().zip(stays).filter(|(_, stays)| **stays).map(|(piece, _)| piece);
        let counts = state.counts.iter().zip(stays).filter(|(_, stays)| **stays).map(|(&count, _)| count);
        self.recounted(recounter, Vocabulary::new(pieces)?, &counts.collect::<Vec<_>>())
    }

    /// The same with the bytes first, and then the pieces from the most frequent on.
    fn ordered(&self, recounter: &Recounter<'_>, state: State) -> Result<State> {
        let vocabulary = state.segmenter.vocabulary();
        let piece = |number: usize| vocabulary.piece(number as u32);
        let mut order: Vec<usize> = (0..vocabulary.len()).collect();
        order.sort_unstable_by_key(|&number| match piece(number) {
            byte if byte.len() == 1 => (false, Reverse(0), byte),
            longer => (true, Reverse(state.counts[number]), longer),
        });
        // The costs stay those by which the objective was found.
        let of_pieces = state.segmenter.costs().of_pieces();
        let of_pieces = order.iter().map(|&number| of_pieces[number]).collect();
        let costs = Costs::from_steps(self.cost, self.lambda, of_pieces);
        let ordered = Vocabulary::new(order.iter().map(|&number| piece(number)))?;
        let segmenter = Segmenter::new(ordered, costs, self.steps)?;
        let Recount { counts, objective } = recounter.recount(&segmenter)?;
        Ok(State { segmenter, counts, objective })
    }
}

/// Every piece at the same cost.
fn unit(vocabulary: &Vocabulary, steps: Steps) -> Result<Segmenter> {
    let costs = Costs::new(Cost::Unit, &vec![0; vocabulary.len()], 0.0)?;
    Segmenter::new(vocabulary.clone(), costs, steps)
}

impl State {
    fn view(&self) -> (&Segmenter, &[u64]) {
        (&self.segmenter, &self.counts)
    }

    /// What all words would cost more without each piece, if its strings were cut anew and nothing
    /// else; none for the single bytes, which stay.
    fn losses(&self) -> Vec<Option<u128>> {
        let mut scratch = Default::default();
        let loss = |(number, piece): (usize, &[u8])| {
            let other = match piece.len() {
                1 => return None,
                _ => self.segmenter.cost_without(piece, number as u32, &mut scratch),
            };
            let more = other.saturating_sub(self.segmenter.costs().of(number as u32));
            Some(u128::from(self.counts[number]) * u128::from(more))
        };
        self.segmenter.vocabulary().iter().enumerate().map(loss).collect()
    }
}

#[cfg(test)]
mod tests;
