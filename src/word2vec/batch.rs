//! What one step of a training reads: everything that was decided, as plain numbers.

use super::corpus::Corpus;
use super::draws::{Draws, Epoch};
use super::options::{Architecture, Options};

/// Items of a run, which share their negatives. An item is what is compared with outputs: of
/// skip-grams each token, of bags of words the mean of each centre's window.
pub(super) const RUN: usize = 32;

/// Centres of a stretch of a corpus with their windows and negatives, and the rows of weights that
/// they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub(super) window: usize,
    pub(super) shared: usize,
    /// Tokens that were kept, of the centres and as many as a window before and behind them; what
    /// isn't there, or is of no centre's sentence, is 0.
    pub(super) tokens: Vec<u32>,
    /// Of each centre how many tokens before and behind it are in its window, the latter in the
    /// high half.
    pub(super) windows: Vec<u32>,
    /// The number of windows in which each token is.
    in_windows: Vec<u32>,
    /// Of each item how many centres it predicts: of a token, those that have it in their windows.
    pub(super) pairs: Vec<u32>,
    /// The negatives of each run.
    pub(super) negatives: Vec<u32>,
    pub(super) input_sums: Sums,
    pub(super) output_sums: Sums,
}

/// Rows of weights, and the gradients that are added up for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) rows: Vec<RowSum>,
    /// Numbers of gradients, those of a row next to each other.
    pub(super) gradients: Vec<u32>,
}

/// A row of weights that a batch changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSum {
    /// The number of the word whose row it is.
    pub row: u32,
    /// Where its gradients begin, in the list of all.
    pub begin: u32,
    /// How many gradients there are, each of which may be a sum already.
    pub count: u32,
    /// How many pairs of words they are the gradients of.
    pub hits: u32,
}

impl Batch {
    /// How many centres there are.
    pub fn centres(&self) -> usize {
        self.windows.len()
    }

    /// How many tokens before and behind a centre are in its window.
    pub(super) fn window_of(&self, centre: usize) -> (usize, usize) {
        let window = self.windows[centre];
        ((window & 0xffff) as usize, (window >> 16) as usize)
    }

    /// The places of a centre's window in `tokens`, without its own.
    pub(super) fn contexts(&self, centre: usize) -> impl Iterator<Item = usize> + use<> {
        let (left, right) = self.window_of(centre);
        let own = self.window + centre;
        (own - left..=own + right).filter(move |&place| place != own)
    }

    /// The words of a centre's window.
    pub fn context_words(&self, centre: usize) -> impl Iterator<Item = u32> + '_ {
        self.contexts(centre).map(|place| self.tokens[place])
    }

    /// A centre's own word.
    pub fn word(&self, centre: usize) -> u32 {
        self.tokens[self.window + centre]
    }

    /// How many items there are.
    pub(super) fn items(&self) -> usize {
        self.pairs.len()
    }

    /// The negatives of an item.
    #[cfg(test)]
    pub(super) fn negatives_of(&self, item: usize) -> &[u32] {
        let run = item / RUN;
        &self.negatives[run * self.shared..(run + 1) * self.shared]
    }

    /// The rows of input weights (word vectors) that change.
    pub fn input_rows(&self) -> &[RowSum] {
        &self.input_sums.rows
    }

    /// The rows of output weights that change.
    pub fn output_rows(&self) -> &[RowSum] {
        &self.output_sums.rows
    }

    fn runs(&self) -> usize {
        self.items().div_ceil(RUN)
    }

    /// Counts in how many windows each token is.
    fn count_windows(&mut self) {
        // Where windows begin and end, then how many are open.
        let mut steps = vec![0i32; self.tokens.len() + 1];
        for (own, window) in (self.window..).zip(&self.windows) {
            let (left, right) = ((window & 0xffff) as usize, (window >> 16) as usize);
            steps[own - left] += 1;
            steps[own] -= 1;
            steps[own + 1] += 1;
            steps[own + right + 1] -= 1;
        }
        let open = steps[..self.tokens.len()].iter().scan(0, |open, step| {
            *open += step;
            Some(*open as u32)
        });
        self.in_windows.clear();
        self.in_windows.extend(open);
    }
}

/// Makes the batches of a training, in any order.
#[derive(Debug)]
pub(super) struct Batches<'c> {
    corpus: &'c Corpus,
    options: Options,
    draws: Draws,
    grouping: Grouping,
}

impl<'c> Batches<'c> {
    pub(super) fn new(corpus: &'c Corpus, options: &Options) -> Self {
        let draws = Draws::new(corpus.vocabulary(), options);
        let grouping = Grouping::new(corpus.vocabulary().len());
        Self { corpus, options: *options, draws, grouping }
    }

    /// Batches of an epoch.
    pub(super) fn of_epoch(&self) -> u32 {
        self.corpus.tokens().len().div_ceil(self.options.batch) as u32
    }

    /// The learning rate of a batch: on a line over all of them.
    pub(super) fn rate(&self, epoch: u32, batch: u32) -> f64 {
        let [first, last] = self.options.rates;
        let each = f64::from(self.of_epoch());
        let done = f64::from(epoch) * each + f64::from(batch);
        first + (last - first) * done / (f64::from(self.options.epochs) * each)
    }

    /// Writes a batch of an epoch over another.
    pub(super) fn make(&mut self, epoch: u32, number: u32, batch: &mut Batch) {
        let size = self.options.batch;
        let begin = number as usize * size;
        let end = (begin + size).min(self.corpus.tokens().len());
        batch.window = self.options.window;
        batch.shared = self.options.shared;
        batch.tokens.clear();
        batch.windows.clear();
        let epoch = self.draws.epoch(epoch);
        self.windows(epoch, begin, end, batch);
        batch.count_windows();
        self.pairs(batch);
        let shared = self.options.shared as u32;
        let first = begin as u32;
        batch.negatives.clear();
        for run in 0..batch.runs() as u32 {
            batch.negatives.extend((0..shared).map(|number| epoch.negative(first.wrapping_add(run), number)));
        }
        self.sums(batch);
    }

    /// Tokens and windows of the corpus from `begin` to `end`.
    fn windows(&self, epoch: Epoch<'_>, begin: usize, end: usize, batch: &mut Batch) {
        let (tokens, ends) = (self.corpus.tokens(), self.corpus.sentence_ends());
        let width = self.options.window;
        let kept = |place: &usize| epoch.keeps(*place as u32, tokens[*place]);
        let mut sentence = ends.partition_point(|&end| end as usize <= begin);
        let first = if sentence == 0 { 0 } else { ends[sentence - 1] as usize };
        let mut before: Vec<u32> =
            (first..begin).rev().filter(kept).take(width).map(|place| tokens[place]).collect();
        // Where the sentence begins in the batch's tokens.
        let mut start = width - before.len();
        before.resize(width, 0);
        batch.tokens.extend(before.iter().rev());
        let mut at = begin;
        let mut behind = Vec::new();
        while at < end {
            let stop = (ends[sentence] as usize).min(end);
            let own = batch.tokens.len();
            for place in (at..stop).filter(kept) {
                batch.tokens.push(tokens[place]);
                // The place for now; what is behind the centre isn't known yet.
                batch.windows.push(place as u32);
            }
            let there = batch.tokens.len();
            behind.clear();
            if stop == end {
                let rest = end..ends[sentence] as usize;
                behind.extend(rest.filter(kept).take(width).map(|place| tokens[place]));
            }
            let length = there + behind.len();
            for centre in own..there {
                let window = &mut batch.windows[centre - width];
                let place = *window;
                let b = epoch.window(place);
                let left = b.min((centre - start) as u32);
                let right = b.min((length - 1 - centre) as u32);
                *window = left | right << 16;
            }
            start = there;
            at = stop;
            sentence += 1;
        }
        behind.resize(width, 0);
        batch.tokens.extend(behind);
    }

    /// How many centres each item predicts.
    fn pairs(&self, batch: &mut Batch) {
        batch.pairs.clear();
        if self.options.architecture == Architecture::BagOfWords {
            batch.pairs.extend(batch.windows.iter().map(|&window| u32::from(window > 0)));
            return;
        }
        batch.pairs.extend_from_slice(&batch.in_windows);
    }

    /// Which gradients are of which rows.
    fn sums(&mut self, batch: &mut Batch) {
        let Options { negative, architecture, .. } = self.options;
        let pairs = architecture == Architecture::SkipGram;
        let grouping = &mut self.grouping;
        grouping.begin();
        for (centre, window) in (0..).zip(&batch.windows) {
            let contexts = (window & 0xffff) + (window >> 16);
            if contexts > 0 {
                let hits = if pairs { contexts } else { 1 };
                grouping.add(batch.tokens[batch.window + centre as usize], centre, hits);
            }
        }
        let mut number = batch.centres() as u32;
        for (words, pairs) in batch.negatives.chunks(batch.shared).zip(batch.pairs.chunks(RUN)) {
            let pairs: u32 = pairs.iter().sum();
            let hits = (pairs * negative as u32).div_ceil(batch.shared as u32);
            for &word in words {
                if pairs > 0 {
                    grouping.add(word, number, hits);
                }
                number += 1;
            }
        }
        grouping.finish(&mut batch.output_sums);
        grouping.begin();
        for (token, (&word, &hits)) in (number..).zip(batch.tokens.iter().zip(&batch.in_windows)) {
            if hits > 0 {
                grouping.add(word, token, hits);
            }
        }
        grouping.finish(&mut batch.input_sums);
    }
}

/// Groups gradients by rows, in time proportional to the gradients.
#[derive(Debug)]
struct Grouping {
    /// Of each row the round in which it was last met, and its number among those of the round.
    met: Vec<(u32, u32)>,
    round: u32,
    rows: Vec<RowSum>,
    entries: Vec<(u32, u32)>,
}

impl Grouping {
    fn new(rows: usize) -> Self {
        Self { met: vec![(0, 0); rows], round: 0, rows: Vec::new(), entries: Vec::new() }
    }

    fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.met.fill((0, 0));
            self.round = 1;
        }
        self.rows.clear();
        self.entries.clear();
    }

    fn add(&mut self, row: u32, gradient: u32, hits: u32) {
        let (round, number) = &mut self.met[row as usize];
        if *round != self.round {
            (*round, *number) = (self.round, self.rows.len() as u32);
            self.rows.push(RowSum { row, begin: 0, count: 0, hits: 0 });
        }
        let sum = &mut self.rows[*number as usize];
        sum.count += 1;
        sum.hits += hits;
        self.entries.push((*number, gradient));
    }

    /// Rows in the order of how many gradients they have, the most first, and of those with as many
    /// in the order in which they were met; gradients of a row in that in which they were added.
    fn finish(&mut self, sums: &mut Sums) {
        let mut begin = 0;
        for sum in &mut self.rows {
            sum.begin = begin;
            begin += sum.count;
            sum.count = 0;
        }
        sums.gradients.clear();
        sums.gradients.resize(self.entries.len(), 0);
        for &(number, gradient) in &self.entries {
            let sum = &mut self.rows[number as usize];
            sums.gradients[(sum.begin + sum.count) as usize] = gradient;
            sum.count += 1;
        }
        sums.rows.clone_from(&self.rows);
        sums.rows.sort_by_key(|sum| std::cmp::Reverse(sum.count));
    }
}
