//! The words that a vocabulary is trained on, cut on several threads.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::segmenter::Segmenter;
use super::word_counts::WordCounts;

/// What the pieces of a vocabulary are to the words of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recount {
    /// How often each piece is used in the cuts of all words, by its number; 2⁶⁴ − 1 where it is
    /// more.
    pub counts: Vec<u64>,
    /// The cost of all words together, in steps of [`Cost::scale`](super::Cost::scale).
    pub objective: u128,
}

impl Recount {
    fn none(segmenter: &Segmenter) -> Self {
        Self { counts: vec![0; segmenter.vocabulary().len()], objective: 0 }
    }
}

impl Segmenter {
    /// Cuts every word of a table, on so many threads (one where there are none). The result
    /// doesn't depend on them.
    pub fn recount(&self, words: &WordCounts, threads: NonZeroUsize) -> Recount {
        Corpus::new(words, threads).recount(self)
    }

    /// The same for words as they come.
    pub(super) fn recount_each<'w>(&self, words: impl Iterator<Item = (&'w [u8], u64)>) -> Recount {
        let Recount { mut counts, mut objective } = Recount::none(self);
        let (mut pieces, mut scratch) = (Vec::new(), Default::default());
        for (word, count) in words {
            pieces.clear();
            let cost = self.segment_into(word, &mut scratch, &mut pieces);
            objective += u128::from(cost) * u128::from(count);
            // A table's counts are at most 2⁶³ in all; a piece may come many times in a word.
            for &piece in &pieces {
                let sum = &mut counts[piece as usize];
                *sum = sum.saturating_add(count);
            }
        }
        Recount { counts, objective }
    }
}

/// The words of a table, divided among threads.
pub(super) struct Corpus<'w> {
    words: &'w WordCounts,
    /// Runs of words, about as many bytes each.
    shares: Vec<Range<usize>>,
}

impl<'w> Corpus<'w> {
    pub(super) fn new(words: &'w WordCounts, threads: NonZeroUsize) -> Self {
        let threads = if cfg!(target_arch = "wasm32") { 1 } else { threads.get().min(words.len().max(1)) };
        let bytes: usize = words.iter().map(|(word, _)| word.len()).sum();
        let mut shares = Vec::with_capacity(threads);
        let (mut begin, mut before) = (0, 0);
        for (index, (word, _)) in words.iter().enumerate() {
            before += word.len();
            if before * threads >= bytes * (shares.len() + 1) {
                shares.push(begin..index + 1);
                begin = index + 1;
            }
        }
        if begin < words.len() {
            shares.push(begin..words.len());
        }
        Self { words, shares }
    }

    /// How often each piece is used, and what all words cost.
    pub(super) fn recount(&self, segmenter: &Segmenter) -> Recount {
        let parts = self.each_share(|words| segmenter.recount_each(words));
        parts.into_iter().fold(Recount::none(segmenter), |mut all, part| {
            for (sum, count) in all.counts.iter_mut().zip(part.counts) {
                *sum = sum.saturating_add(count);
            }
            Recount { counts: all.counts, objective: all.objective + part.objective }
        })
    }

    /// What `work` makes of each share of the words, in their order.
    pub(super) fn each_share<'s, T: Send>(
        &'s self,
        work: impl Fn(Box<dyn Iterator<Item = (&'s [u8], u64)> + 's>) -> T + Sync,
    ) -> Vec<T> {
        let of = |share: &Range<usize>| -> Box<dyn Iterator<Item = (&'s [u8], u64)> + 's> {
            Box::new(self.words.iter().skip(share.start).take(share.len()))
        };
        if self.shares.len() < 2 {
            return self.shares.iter().map(|share| work(of(share))).collect();
        }
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> =
                self.shares.iter().map(|share| scope.spawn(move || work(of(share)))).collect();
            // A thread that panicked takes the caller with it.
            let join = |thread: std::thread::ScopedJoinHandle<'_, T>| match thread.join() {
                Ok(part) => part,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        })
    }
}
