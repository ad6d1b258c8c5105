//! What is drawn at random, in integers: pure functions of seed, epoch and place, which are the
//! same on every machine.

use super::options::Options;
use super::vocabulary::Vocabulary;
use crate::random::{hash_words, pcg_hash};

/// Entries of the table of negatives, as a power of two.
const TABLE_BITS: u32 = 20;

/// What draws are for, so that none are the same.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Purpose {
    Keep,
    Window,
    Negative,
    Weight,
}

/// Thresholds and tables of a corpus, made once.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    seed: u64,
    window: u64,
    /// Of each word: a token is kept if its draw is below.
    thresholds: Vec<u64>,
    /// Words, each in as many entries as its part of all `count^ns_exponent`.
    table: Vec<u32>,
}

/// The draws of an epoch.
#[derive(Clone, Copy)]
pub(super) struct Epoch<'d> {
    draws: &'d Draws,
    keep: u32,
    window: u32,
    negative: u32,
}

impl Draws {
    pub(super) fn new(vocabulary: &Vocabulary, options: &Options) -> Self {
        Self {
            seed: options.seed,
            window: options.window as u64,
            thresholds: thresholds(vocabulary, options.sample),
            table: table(vocabulary, options.ns_exponent),
        }
    }

    pub(super) fn epoch(&self, epoch: u32) -> Epoch<'_> {
        let of = |purpose| prefix(self.seed, purpose, epoch);
        Epoch {
            draws: self,
            keep: of(Purpose::Keep),
            window: of(Purpose::Window),
            negative: of(Purpose::Negative),
        }
    }
}

impl Epoch<'_> {
    /// Whether the token at this place, of this word, is kept.
    pub(super) fn keeps(&self, place: u32, word: u32) -> bool {
        u64::from(pcg_hash(self.keep ^ place)) < self.draws.thresholds[word as usize]
    }

    /// How many words on each side the token at this place has in its window.
    pub(super) fn window(&self, place: u32) -> u32 {
        ((u64::from(pcg_hash(self.window ^ place)) * self.draws.window) >> 32) as u32 + 1
    }

    /// A negative of the token at this place, by its number.
    pub(super) fn negative(&self, place: u32, number: u32) -> u32 {
        let hash = pcg_hash(pcg_hash(self.negative ^ place) ^ number);
        self.draws.table[(hash >> (32 - TABLE_BITS)) as usize]
    }
}

/// `hash_words` of what all draws of an epoch share.
fn prefix(seed: u64, purpose: Purpose, epoch: u32) -> u32 {
    hash_words(&[seed as u32, (seed >> 32) as u32, purpose as u32, epoch])
}

/// √(t/f) + t/f in units of 2⁻³².
fn thresholds(vocabulary: &Vocabulary, sample: f64) -> Vec<u64> {
    let total: u64 = vocabulary.counts().iter().sum();
    let threshold = |&count: &u64| {
        let part = sample * total as f64 / count as f64;
        let keep = if sample == 0.0 { 1.0 } else { (libm::sqrt(part) + part).min(1.0) };
        (keep * 4_294_967_296.0) as u64
    };
    vocabulary.counts().iter().map(threshold).collect()
}

fn table(vocabulary: &Vocabulary, exponent: f64) -> Vec<u32> {
    let weights: Vec<f64> = vocabulary.counts().iter().map(|&n| libm::pow(n as f64, exponent)).collect();
    let total: f64 = weights.iter().sum();
    let (mut table, mut sum) = (Vec::with_capacity(1 << TABLE_BITS), 0.0);
    for (word, weight) in (0..).zip(weights) {
        sum += weight;
        let end = (sum / total * f64::from(1u32 << TABLE_BITS)).round() as usize;
        table.resize(end.clamp(table.len(), 1 << TABLE_BITS), word);
    }
    // Rounding may have left out the last entry.
    table.resize(1 << TABLE_BITS, vocabulary.len() as u32 - 1);
    table
}

/// The first weight at this place of the input rows: even between −1/2 and 1/2, over the dimension.
pub(super) fn first_weight(options: &Options, row: u32, column: u32) -> f32 {
    let hash = pcg_hash(pcg_hash(prefix(options.seed, Purpose::Weight, 0) ^ row) ^ column);
    // 24 bits, which an f32 has exactly.
    ((hash >> 8) as f32 / 16_777_216.0 - 0.5) / options.dimension as f32
}
