//! Who computes attention: the seam between a model and its backends.

use anyhow::Result;

/// What a layer's projections give for new tokens, before any rotation: rows of tokens, each with
/// all its heads.
#[derive(Clone, Copy, Debug)]
pub struct Qkv<'a> {
    /// New tokens.
    pub tokens: usize,
    /// `[tokens, heads · head_dim]`.
    pub q: &'a [f32],
    /// `[tokens, kv_heads · head_dim]`.
    pub k: &'a [f32],
    /// `[tokens, kv_heads · head_dim]`.
    pub v: &'a [f32],
}

/// Attention with a memory of the keys and values of one sequence, layer by layer.
pub trait Attend {
    /// Remembers the new keys and values of a layer and returns what its queries see: `[tokens,
    /// heads · head_dim]`.
    ///
    /// # Errors
    /// More tokens than the backend was made for; what its device refuses.
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>>;

    /// Forgets everything. The next tokens are the first of sequence `sequence`, whose schedules
    /// are drawn apart from those of other sequences.
    fn start(&mut self, sequence: u32);

    /// What was stored and visited since [`start`](Attend::start).
    fn usage(&self) -> Usage;

    /// Tells whether every key and value so far could be stored.
    ///
    /// # Errors
    /// One was not finite, or past what its storage holds.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// What a sequence took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Bytes of the remembered keys and values.
    pub kv_bytes: u64,
    /// Bytes reserved for them.
    pub kv_capacity_bytes: u64,
    /// Bytes that they would take in f16.
    pub kv_f16_bytes: u64,
    /// The layers with a staircase among them, if there are any.
    pub rungs: Option<Rungs>,
    /// The key blocks visited, by token, summed over the heads of the layers that have no window of
    /// their own, and over rounds.
    pub visited: Vec<u64>,
    /// The key blocks that dense attention visits there, by token.
    pub dense: Vec<u64>,
    /// (head, layer) pairs that these sums go over.
    pub sampled_heads: u64,
}

/// Bytes of a staircase cache, summed over its layers.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Rungs {
    /// Keys on each rung.
    pub keys: Vec<u64>,
    /// Values on each rung.
    pub values: Vec<u64>,
    /// The precise newest tokens.
    pub residual: u64,
    /// The precise copies of the first tokens.
    pub sinks: u64,
    /// All of it, as the cache counts it.
    pub live: u64,
    /// All of it, by the formula.
    pub formula: u64,
    /// Bytes reserved.
    pub capacity: u64,
    /// The same tokens in f16.
    pub f16: u64,
}

impl Rungs {
    /// Adds one layer's.
    pub fn add(&mut self, memory: &prflash::cache::Memory) {
        for (sums, bytes) in [(&mut self.keys, &memory.keys), (&mut self.values, &memory.values)] {
            sums.resize(bytes.len(), 0);
            sums.iter_mut().zip(bytes).for_each(|(sum, bytes)| *sum += bytes);
        }
        self.residual += memory.residual;
        self.sinks += memory.sinks;
    }
}

impl Usage {
    /// Mean (visited, dense) key blocks per token and head, over the tokens of a range.
    pub fn blocks_per_token(&self, tokens: std::ops::Range<usize>) -> (f64, f64) {
        let mean = |counts: &[u64]| {
            let part = counts.get(tokens.start..tokens.end.min(counts.len())).unwrap_or(&[]);
            let of = (part.len() as u64 * self.sampled_heads).max(1);
            part.iter().sum::<u64>() as f64 / of as f64
        };
        (mean(&self.visited), mean(&self.dense))
    }
}
