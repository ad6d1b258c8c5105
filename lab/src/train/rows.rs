//! The file of results: a row for each training.

use super::settings::Settings;
use crate::table;

/// A training that is over.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The names of the texts to train on.
    pub text: String,
    /// The name of the text to judge by.
    pub held_out: String,
    /// SHA-256 of all tokens.
    pub tokens_sha256: String,
    /// Who computed attention: cpu, gpu or candle.
    pub backend: String,
    /// The same with instructions or adapter.
    pub device: String,
    /// Pieces of the vocabulary.
    pub pieces: usize,
    /// Weights.
    pub parameters: usize,
    /// Layers.
    pub layers: usize,
    /// Channels between layers.
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
    /// Steps.
    pub steps: usize,
    /// Steps of warm-up.
    pub warm_up: usize,
    /// The highest rate.
    pub rate: f64,
    /// Decay of weights.
    pub decay: f64,
    /// The seed.
    pub seed: u64,
    /// Tokens of the text to train on.
    pub train_tokens: usize,
    /// Tokens that were read, of all steps.
    pub tokens: usize,
    /// Bytes to judge by.
    pub held_out_bytes: usize,
    /// Bits per byte of the held-out text.
    pub bits_per_byte: f64,
    /// The same by a Kneser-Ney model of three tokens, counted on the same tokens.
    pub trigram_bits: f64,
    /// The same by one of five.
    pub five_gram_bits: f64,
    /// The mean loss of the last tenth of the steps, in nats a token.
    pub last_loss: f64,
    /// Tokens a second of training, without the judging; of the part since the last resumption.
    pub tokens_per_s: f64,
    /// Seconds of everything, vocabulary and judging with it; of the part since then, too.
    pub seconds: f64,
    /// The git revision of the lab.
    pub revision: String,
}

impl Row {
    /// The settings of the training.
    pub fn settings(&self) -> Settings {
        let Self { pieces, layers, width, heads, kv_heads, hidden, context, batch, .. } = *self;
        let Self { steps, warm_up, rate, decay, seed, .. } = *self;
        Settings {
            pieces,
            layers,
            width,
            heads,
            kv_heads,
            hidden,
            context,
            batch,
            steps,
            warm_up,
            rate,
            decay,
            seed,
        }
    }
}

impl table::Row for Row {
    fn same(&self, other: &Self) -> bool {
        let of = |row: &Self| (row.tokens_sha256.clone(), row.backend.clone());
        of(self) == of(other) && self.settings() == other.settings()
    }
}
