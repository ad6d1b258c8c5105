//! What a model is, from the metadata of its file.

use anyhow::{Context, Result, bail, ensure};
use prflash::Pairing;

use crate::gguf::ModelFile;

/// The model families that the lab knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and its relatives (SmolLM2): SwiGLU, RMS norms before attention and feed-forward.
    Llama,
    /// Gemma 3: norms on queries and keys and behind both halves of a layer, GeGLU, sliding-window layers between global ones.
    Gemma3,
}

/// Sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family.
    pub architecture: Architecture,
    /// Layers.
    pub layers: usize,
    /// Channels of a token between layers.
    pub width: usize,
    /// Channels inside the feed-forward part.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The longest context the model was made for, in tokens.
    pub context: usize,
    /// ε of the RMS norms.
    pub norm_eps: f64,
    /// Which channels of a head turn together.
    pub pairing: Pairing,
    /// Base of the rotary frequencies in layers that see everything.
    pub rope_base: f64,
    /// Layers with a sliding window, if the family has them.
    pub sliding: Option<Sliding>,
}

/// The layers of a model that see only near tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sliding {
    /// Tokens that a query sees, its own included.
    pub window: usize,
    /// Every such layer is global again: the last of each `period`.
    pub period: usize,
    /// Base of the rotary frequencies in sliding layers.
    pub rope_base: f64,
}

impl Config {
    /// Reads it from the file.
    ///
    /// # Errors
    /// An architecture that the lab doesn't know; metadata that is missing or contradicts itself.
    pub fn read(file: &ModelFile) -> Result<Self> {
        let name = file.text("general.architecture")?;
        let architecture = match name {
            "llama" => Architecture::Llama,
            "gemma3" => Architecture::Gemma3,
            other => bail!(
                "model {}: architecture {other:?}; the lab knows llama and gemma3",
                file.path().display()
            ),
        };
        let number = |key: &str| file.number(&format!("{name}.{key}"));
        let float = |key: &str| file.float(&format!("{name}.{key}"));
        let optional = |key: &str| file.get(&format!("{name}.{key}")).is_some();
        let (width, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        ensure!(
            heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "model {}: {heads} query heads don't divide into {kv_heads} key/value heads",
            file.path().display()
        );
        let head_dim = match optional("attention.key_length") {
            true => number("attention.key_length")?,
            false => width / heads,
        };
        let vocabulary = file
            .get("tokenizer.ggml.tokens")
            .and_then(|tokens| tokens.to_vec().ok())
            .with_context(|| format!("model {}: no vocabulary", file.path().display()))?
            .len();
        let rope_base = match optional("rope.freq_base") {
            true => float("rope.freq_base")?,
            false => 1e4,
        };
        let sliding = match architecture {
            Architecture::Llama => None,
            Architecture::Gemma3 => Some(Sliding {
                window: number("attention.sliding_window")?,
                // Files of this family have no keys for these two; the numbers are the ones of its paper (arXiv 2503.19786, section 2).
                period: number("attention.sliding_window_pattern").unwrap_or(6),
                rope_base: float("rope.freq_base_swa").unwrap_or(1e4),
            }),
        };
        ensure!(
            sliding.is_none_or(|sliding| sliding.window > 0 && sliding.period > 0),
            "model {}: a sliding window of 0",
            file.path().display()
        );
        Ok(Self {
            architecture,
            layers: number("block_count")?,
            width,
            hidden: number("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocabulary,
            context: number("context_length")?,
            norm_eps: float("attention.layer_norm_rms_epsilon")?,
            pairing: match architecture {
                // Files of the llama architecture carry Q and K rows permuted for interleaved pairs.
                Architecture::Llama => Pairing::Interleaved,
                Architecture::Gemma3 => Pairing::Half,
            },
            rope_base,
            sliding,
        })
    }

    /// The sliding window of a layer; `None` for one that sees everything.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding
            .and_then(|sliding| (!(layer + 1).is_multiple_of(sliding.period)).then_some(sliding.window))
    }

    /// The base of the rotary frequencies of a layer.
    pub fn rope_base(&self, layer: usize) -> f64 {
        match self.sliding {
            Some(sliding) if self.window(layer).is_some() => sliding.rope_base,
            _ => self.rope_base,
        }
    }
}
