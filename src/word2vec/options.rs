//! What is trained, and how.

use crate::error::{Result, ensure};

/// What predicts what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Architecture {
    /// Each word of a window predicts the word in its middle (SGNS).
    SkipGram,
    /// The mean of the words of a window predicts the word in its middle (CBOW).
    BagOfWords,
}

/// The settings of a training. Those that aren't set are gensim's, where gensim has them: batches,
/// the cap and shared negatives are ours.
///
/// With the feature `serde` they are read as strictly as they are set.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Stored"))]
pub struct Options {
    pub(super) architecture: Architecture,
    pub(super) dimension: usize,
    pub(super) window: usize,
    pub(super) negative: usize,
    pub(super) shared: usize,
    pub(super) sample: f64,
    pub(super) ns_exponent: f64,
    pub(super) rates: [f64; 2],
    pub(super) epochs: u32,
    pub(super) batch: usize,
    pub(super) cap: u32,
    pub(super) seed: u64,
}

/// The largest dimension of word vectors.
pub(super) const MAX_DIMENSION: usize = 512;
/// The widest window.
pub(super) const MAX_WINDOW: usize = 64;
/// Negatives of a run come in so many.
pub(super) const SHARED_STEP: usize = 16;
/// The most negatives for a pair.
pub(super) const MAX_NEGATIVE: usize = 63;
/// The largest batch, in tokens: past it vectors get worse (`lab/RESULTS.md`).
pub(super) const MAX_BATCH_TOKENS: usize = 4096;

impl Options {
    /// Vectors of 100 numbers, windows of up to 5 words on each side, 5 negatives by counts to the
    /// power of 0.75 (32 drawn for each 32 tokens), subsampling from 0.001, learning rates from
    /// 0.025 to 0.0001, 5 epochs, batches of 4,096 tokens, cap 64, seed 1.
    pub fn new(architecture: Architecture) -> Self {
        Self {
            architecture,
            dimension: 100,
            window: 5,
            negative: 5,
            shared: 32,
            sample: 1e-3,
            ns_exponent: 0.75,
            rates: [0.025, 1e-4],
            epochs: 5,
            batch: 4096,
            cap: 64,
            seed: 1,
        }
    }

    /// With vectors of so many numbers.
    ///
    /// # Errors
    /// Invalid argument (`dimension`) unless 1 to 512.
    pub fn with_dimension(self, dimension: usize) -> Result<Self> {
        let fits = (1..=MAX_DIMENSION).contains(&dimension);
        ensure!(fits, "dimension", "expected 1 to {MAX_DIMENSION}, got {dimension}");
        Ok(Self { dimension, ..self })
    }

    /// With windows of 1 to so many words on each side, each width as likely as the other.
    ///
    /// # Errors
    /// Invalid argument (`window`) unless 1 to 64.
    pub fn with_window(self, window: usize) -> Result<Self> {
        let fits = (1..=MAX_WINDOW).contains(&window);
        ensure!(fits, "window", "expected 1 to {MAX_WINDOW}, got {window}");
        Ok(Self { window, ..self })
    }

    /// With so many negatives for each pair of words; [`with_shared`](Options::with_shared) says
    /// how they are drawn.
    ///
    /// # Errors
    /// Invalid argument (`negative`) unless 1 to 63.
    pub fn with_negative(self, negative: usize) -> Result<Self> {
        let fits = (1..=MAX_NEGATIVE).contains(&negative);
        ensure!(fits, "negative", "expected 1 to {MAX_NEGATIVE}, got {negative}");
        Ok(Self { negative, ..self })
    }

    /// With so many words drawn for each 32 tokens (of bags of words, for each 32 centres), which
    /// share them as their negatives: each counts negative/shared times.
    ///
    /// # Errors
    /// Invalid argument (`shared`) unless a multiple of 16, from 16 to 128.
    pub fn with_shared(self, shared: usize) -> Result<Self> {
        let fits = shared.is_multiple_of(SHARED_STEP) && (1..=128).contains(&shared);
        ensure!(fits, "shared", "expected a multiple of {SHARED_STEP}, from 16 to 128, got {shared}");
        Ok(Self { shared, ..self })
    }

    /// With subsampling t: a token whose word is a part f of the corpus is kept with probability
    /// √(t/f) + t/f, at most 1. At 0 every token is kept.
    ///
    /// # Errors
    /// Invalid argument (`sample`) unless finite and at least 0.
    pub fn with_sample(self, sample: f64) -> Result<Self> {
        ensure!(sample.is_finite() && sample >= 0.0, "sample", "expected at least 0, got {sample}");
        Ok(Self { sample, ..self })
    }

    /// With negatives drawn by counts to this power.
    ///
    /// # Errors
    /// Invalid argument (`ns_exponent`) unless −2 to 2.
    pub fn with_ns_exponent(self, ns_exponent: f64) -> Result<Self> {
        let fits = (-2.0..=2.0).contains(&ns_exponent);
        ensure!(fits, "ns_exponent", "expected -2 to 2, got {ns_exponent}");
        Ok(Self { ns_exponent, ..self })
    }

    /// With learning rates that fall from the first to the last along a line.
    ///
    /// # Errors
    /// Invalid argument (`rates`) unless finite, above 0, and the last at most the first.
    pub fn with_rates(self, first: f64, last: f64) -> Result<Self> {
        let fits = last > 0.0 && last <= first && first.is_finite();
        ensure!(fits, "rates", "expected 0 < last ≤ first, got first {first}, last {last}");
        Ok(Self { rates: [first, last], ..self })
    }

    /// With so many passes over the corpus.
    ///
    /// # Errors
    /// Invalid argument (`epochs`) unless 1 to 10,000.
    pub fn with_epochs(self, epochs: u32) -> Result<Self> {
        ensure!((1..=10_000).contains(&epochs), "epochs", "expected 1 to 10000, got {epochs}");
        Ok(Self { epochs, ..self })
    }

    /// With batches of so many tokens of the corpus, before subsampling. All gradients of a batch
    /// are of the same weights, so the smaller it is, the nearer is training to that of word by
    /// word. Batches past 4,096 tokens aren't offered, since vectors get worse by them.
    ///
    /// # Errors
    /// Invalid argument (`batch`) unless 1 to 4,096.
    pub fn with_batch(self, tokens: usize) -> Result<Self> {
        let fits = (1..=MAX_BATCH_TOKENS).contains(&tokens);
        ensure!(fits, "batch", "expected 1 to {MAX_BATCH_TOKENS} tokens, got {tokens}");
        Ok(Self { batch: tokens, ..self })
    }

    /// With this bound on what a batch does to a row: the sum of as many gradients as hit it counts
    /// as at most so many, `Σ g · min(1, cap/hits)`.
    ///
    /// Gradients of a batch are of the same weights, so that a row which many words hit would go
    /// many times too far.
    ///
    /// With a vocabulary of a few words every row is hit by many, and a lower cap than 64 may be
    /// needed: [`Training::advance`](super::Training::advance) says when a training diverges.
    ///
    /// # Errors
    /// Invalid argument (`cap`) for 0.
    pub fn with_cap(self, cap: u32) -> Result<Self> {
        ensure!(cap > 0, "cap", "expected at least 1, got 0");
        Ok(Self { cap, ..self })
    }

    /// The same options with another seed of all draws and first weights.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Numbers of a word vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Passes over the corpus.
    pub fn epochs(&self) -> u32 {
        self.epochs
    }

    /// Tokens of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }
}

/// Options as they are read, before they are checked.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Stored {
    architecture: Architecture,
    dimension: usize,
    window: usize,
    negative: usize,
    shared: usize,
    sample: f64,
    ns_exponent: f64,
    rates: [f64; 2],
    epochs: u32,
    batch: usize,
    cap: u32,
    seed: u64,
}

#[cfg(feature = "serde")]
impl TryFrom<Stored> for Options {
    type Error = crate::error::Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let [first, last] = stored.rates;
        let options = Self::new(stored.architecture).with_seed(stored.seed);
        let options = options.with_dimension(stored.dimension)?.with_window(stored.window)?;
        let options = options.with_negative(stored.negative)?.with_shared(stored.shared)?;
        let options = options.with_sample(stored.sample)?.with_ns_exponent(stored.ns_exponent)?;
        let options = options.with_rates(first, last)?.with_epochs(stored.epochs)?;
        options.with_batch(stored.batch)?.with_cap(stored.cap)
    }
}
