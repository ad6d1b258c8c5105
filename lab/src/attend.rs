//! Who computes attention: the seam between a model and its backends.

use anyhow::Result;

/// What a layer's projections give for new tokens, before any rotation: rows of tokens, each with all its heads.
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
    /// Remembers the new keys and values of a layer and returns what its queries see: `[tokens, heads · head_dim]`.
    ///
    /// # Errors
    /// More tokens than the backend was made for; what its device refuses.
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>>;

    /// Forgets everything. The next tokens are the first of sequence `sequence`, whose schedules are drawn apart from those of other sequences.
    fn start(&mut self, sequence: u32);

    /// What was stored and visited since [`start`](Attend::start).
    fn usage(&self) -> Usage;
}

/// What a sequence took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Bytes of the remembered keys and values.
    pub kv_bytes: u64,
    /// Bytes reserved for them.
    pub kv_capacity_bytes: u64,
    /// By token: key blocks visited, summed over the heads of the layers that have no window of their own, and over rounds.
    pub visited: Vec<u64>,
    /// By token: what dense attention visits there.
    pub dense: Vec<u64>,
    /// (head, layer) pairs that these sums go over.
    pub sampled_heads: u64,
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
