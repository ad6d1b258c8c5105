//! A language model that writes: its weights on the CPU, its attention and its memory on the GPU.
//!
//! It reads files of the llama architecture (SmolLM2), a token at a time. The lab has the same
//! model for every platform but this one, on candle; what this computes is held to the lab's in
//! `tests/generate.rs`.

mod attention;
mod gguf;
mod matrix;
mod model;
pub mod tiny;
mod vocabulary;

use prflash::cache::Side;
use prflash::{Context, Result};
use serde_json::{Value, json};

pub use gguf::Header;
pub use matrix::Matrix;
pub use model::{Loader, Model};
pub use vocabulary::Vocabulary;

use attention::Attention;

/// Tokens of a text, its beginning included.
pub const MOST_TOKENS: usize = 1024;

/// Why a file is no model that the page runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is another kind of file.
    #[error("this is no GGUF file: it doesn't begin with GGUF")]
    NotGguf,
    /// Something that was announced isn't there.
    #[error("the file is cut off: it ends within {0}")]
    CutOff(String),
    /// A model, or a part of one, that the page doesn't compute.
    #[error("the page can't run this model: {0}")]
    Unsupported(String),
    /// Its parts don't fit each other.
    #[error("the file contradicts itself: {0}")]
    Inconsistent(String),
}

impl Refused {
    /// What kind of refusal it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotGguf => "NotGguf",
            Self::CutOff(_) => "CutOff",
            Self::Unsupported(_) => "Unsupported",
            Self::Inconsistent(_) => "Inconsistent",
        }
    }
}

/// A model in the middle of a text.
pub struct Writer {
    model: Model,
    attention: Attention,
    /// What is known of the next token; nothing before the first one was read.
    logits: Vec<f32>,
}

impl Writer {
    /// A model with an empty memory, once its kernels are compiled.
    ///
    /// # Errors
    /// What the device refuses.
    pub async fn new(context: &Context, model: Model) -> Result<Self> {
        let attention = Attention::new(context, model.config()).await?;
        Ok(Self { model, attention, logits: Vec::new() })
    }

    /// The tokens that a text consists of.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.model.vocabulary().encode(text)
    }

    /// The bytes that a token stands for.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.model.vocabulary().bytes(token)
    }

    /// Forgets the text.
    ///
    /// # Errors
    /// None for a device that is there.
    pub fn start(&mut self) -> Result<()> {
        self.logits.clear();
        self.attention.start()
    }

    /// Reads a token of the vocabulary.
    ///
    /// # Errors
    /// The device is lost; more than [`MOST_TOKENS`]. The text has to be started anew then.
    pub async fn read(&mut self, token: u32) -> Result<()> {
        let mut x = self.model.embedding(token);
        for layer in 0..self.model.config().layers {
            let [q, k, v] = self.model.before_attention(layer, &x);
            let seen = self.attention.attend(layer, [&q, &k, &v]).await?;
            self.model.behind_attention(layer, &seen, &mut x);
        }
        self.logits = self.model.logits(&x);
        Ok(())
    }

    /// What the tokens of the vocabulary have for the next one; nothing before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The likeliest token to go on with; none where the text ends, or before its first token.
    pub fn likeliest(&self) -> Option<u32> {
        let better = |best: Option<(usize, f32)>, (id, &logit): (usize, &f32)| match best {
            Some((_, most)) if logit.is_nan() || logit <= most => best,
            _ => Some((id, logit)),
        };
        let (id, _) = self.logits.iter().enumerate().fold(None, better)?;
        Some(id as u32).filter(|&id| !self.model.vocabulary().is_end(id))
    }

    /// How far the likeliest token is ahead of the second.
    pub fn lead(&self) -> f32 {
        let mut logits = self.logits.clone();
        logits.sort_unstable_by(|a, b| b.total_cmp(a));
        logits.first().zip(logits.get(1)).map_or(0.0, |(first, second)| first - second)
    }

    /// What the memory holds, over all layers: the bytes on each rung, with its bits.
    pub fn memory(&self) -> Value {
        let (staircase, memory) = (self.attention.staircase(), self.attention.memory());
        let rungs = |side: Side, bytes: &[u64]| -> Vec<Value> {
            let rungs = staircase.ladder(side).rungs().iter().zip(bytes);
            rungs.map(|(rung, bytes)| json!([rung.bits, bytes])).collect()
        };
        json!({
            "tokens": self.attention.tokens(),
            "keys": rungs(Side::Keys, &memory.keys),
            "values": rungs(Side::Values, &memory.values),
            "residual": memory.residual,
            "sinks": memory.sinks,
            "total": memory.total(),
            "f16": self.attention.f16_bytes(),
        })
    }

    /// Whether everything could be stored.
    ///
    /// # Errors
    /// A key or a value was not finite; the device is lost.
    pub async fn check(&self) -> Result<()> {
        self.attention.check().await
    }
}
