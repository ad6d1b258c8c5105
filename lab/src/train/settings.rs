//! Sizes of a model, and how it is trained.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Everything that a training is a function of, beside its texts and who computes attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Pieces of the vocabulary, with the 256 bytes among them.
    pub pieces: usize,
    /// Layers.
    pub layers: usize,
    /// Channels between the layers.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels of the feed-forward part.
    pub hidden: usize,
    /// Tokens of a sequence.
    pub context: usize,
    /// Sequences of a batch.
    pub batch: usize,
    /// Batches.
    pub steps: usize,
    /// Steps over which the rate rises.
    pub warm_up: usize,
    /// The highest rate, from which it falls by a cosine to a tenth.
    pub rate: f64,
    /// Decay of weights, by the rate.
    pub decay: f64,
    /// The seed of weights and batches.
    pub seed: u64,
}

impl Settings {
    /// Ten minutes of two cores.
    pub fn quick() -> Self {
        Self {
            pieces: 1024,
            layers: 5,
            width: 128,
            heads: 4,
            kv_heads: 2,
            hidden: 384,
            context: 128,
            batch: 16,
            steps: 900,
            warm_up: 50,
            rate: 4e-3,
            decay: 0.1,
            seed: 1,
        }
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Weights of the model. The embedding is the output matrix, too.
    pub fn parameters(&self) -> usize {
        let Self { pieces, layers, width, hidden, kv_heads, .. } = *self;
        let attention = 2 * width * width + 2 * width * kv_heads * self.head_dim();
        pieces * width + layers * (attention + 3 * width * hidden + 2 * width) + width
    }

    /// Tokens of a batch.
    pub fn batch_tokens(&self) -> usize {
        self.batch * self.context
    }

    /// Refuses what is no model, or no training.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(&self) -> Result<()> {
        let Self { layers, width, heads, kv_heads, hidden, context, batch, steps, .. } = *self;
        for (name, number, most) in [
            ("layers", layers, 64),
            ("width", width, 4096),
            ("heads", heads, 64),
            ("kv-heads", kv_heads, 64),
            ("hidden", hidden, 16_384),
            ("context", context, 65_536),
            ("batch", batch, 1024),
            ("steps", steps, 10_000_000),
        ] {
            ensure!((1..=most).contains(&number), "--{name}: expected 1 to {most}, got {number}");
        }
        ensure!(heads.is_multiple_of(kv_heads), "--kv-heads: expected a divisor of {heads}, got {kv_heads}");
        ensure!(
            width.is_multiple_of(4 * heads) && self.head_dim() <= 256,
            "--width: expected 4 to 256 channels a head, a multiple of 4, got {width} for {heads} heads"
        );
        let positive = |x: f64| x.is_finite() && x > 0.0;
        ensure!(positive(self.rate), "--rate: expected a number above 0, got {}", self.rate);
        ensure!(
            self.decay.is_finite() && self.decay >= 0.0,
            "--decay: expected a number from 0 on, got {}",
            self.decay
        );
        ensure!(self.warm_up <= steps, "--warm-up: expected at most the {steps} steps, got {}", self.warm_up);
        Ok(())
    }

    /// The rate of a step, the first of which is 0.
    pub fn rate_at(&self, step: usize) -> f64 {
        if step < self.warm_up {
            return self.rate * (step + 1) as f64 / self.warm_up as f64;
        }
        let part = (step - self.warm_up) as f64 / (self.steps - self.warm_up).max(1) as f64;
        let falling = 0.5 * (1.0 + (std::f64::consts::PI * part).cos());
        self.rate * (0.1 + 0.9 * falling)
    }
}
