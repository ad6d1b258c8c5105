//! What a model is, from the metadata of its file.

mod rope;

use anyhow::{Context, Result, bail};
use prflash::Rope;
use prflash::position::{Pairing, Scaling};

use crate::gguf::{KeyGroup, ModelFile};

/// The model families that the lab knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and its relatives (SmolLM2): SwiGLU, RMS norms before attention and feed-forward.
    Llama,
    /// Gemma 3: norms on queries and keys and behind both halves of a layer, GeGLU, sliding-window
    /// layers between global ones.
    Gemma3,
}

/// Sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family of models that it is of.
    pub architecture: Architecture,
    /// How many layers there are.
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
    /// The leading channels of a head that turn.
    pub rotary_dim: usize,
    /// Base of the rotary frequencies in layers that see everything.
    pub rope_base: f64,
    /// The scaling of these frequencies.
    pub rope_scaling: Scaling,
    /// The factor on inner products of queries and keys, where it isn't `1/√head_dim`.
    pub scale: Option<f32>,
    /// The bound on scores, if there is one: `cap·tanh(s/cap)`.
    pub soft_cap: Option<f32>,
    /// The bound on logits, likewise.
    pub logit_soft_cap: Option<f64>,
    /// Layers with a sliding window, if the family has them.
    pub sliding: Option<Sliding>,
}

/// The layers of a model that see only near tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sliding {
    /// Tokens that a query sees, its own included.
    pub window: usize,
    /// Every such layer is global again: the last of each `period`. None is at 0.
    pub period: usize,
    /// Base of the rotary frequencies in sliding layers.
    pub rope_base: f64,
    /// The scaling of these frequencies.
    pub rope_scaling: Scaling,
}

/// No size of a model is larger; products of two are numbers still.
const MAX_SIZE: usize = i32::MAX as usize;

/// Channels of a head come in loads of four ([`Rope::is_quad_aligned`] says what of the rotation).
const QUAD: usize = 4;

/// Layers of Gemma 3 27B, whose files don't say that its scale is another.
const GEMMA3_27B_LAYERS: usize = 62;

/// The keys of a model's architecture.
struct Keys<'a> {
    file: &'a ModelFile,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn refusal(&self, key: &str, why: &str) -> anyhow::Error {
        self.file.refusal(&self.name(key), why)
    }

    fn size(&self, key: &str) -> Result<usize> {
        let size = self.file.number(&self.name(key))?;
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(self.refusal(key, &format!("expected 1 to {MAX_SIZE}")));
        }
        Ok(size)
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.file.optional(&self.name(key), |_, _| self.size(key))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f64>> {
        self.file.optional(&self.name(key), ModelFile::float)
    }

    /// A number above 0.
    fn positive(&self, key: &str) -> Result<f64> {
        let number = self.file.float(&self.name(key))?;
        if number <= 0.0 {
            return Err(self.refusal(key, "expected a number above 0"));
        }
        Ok(number)
    }

    fn optional_positive(&self, key: &str) -> Result<Option<f64>> {
        self.file.optional(&self.name(key), |_, _| self.positive(key))
    }

    /// A soft-cap; 0 is none, as in llama.cpp.
    fn cap(&self, key: &str) -> Result<Option<f64>> {
        match self.optional_float(key)? {
            Some(0.0) => Ok(None),
            _ => self.optional_positive(key),
        }
    }

    /// Refuses a key that doesn't say this size, if it is there.
    fn agrees(&self, key: &str, size: usize, what: &str) -> Result<()> {
        match self.file.optional(&self.name(key), ModelFile::number)? {
            Some(number) if number != size => {
                Err(self.refusal(key, &format!("expected {size}, as {what}: the lab has one size for both")))
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    /// Reads it from the file.
    ///
    /// # Errors
    /// An architecture that the lab doesn't know; metadata that is missing, contradicts itself, or
    /// may change the model in a way that the lab doesn't apply. Each names the key.
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
        let keys = Keys { file, architecture: name };
        let layers = keys.size("block_count")?;
        let tensors = file.tensor_count();
        if layers > tensors {
            return Err(keys.refusal("block_count", &format!("the file has {tensors} tensors in all")));
        }
        let (width, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
        let kv_heads = keys.optional_size("attention.head_count_kv")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let why = format!("{heads} query heads don't divide into so many groups");
            return Err(keys.refusal("attention.head_count_kv", &why));
        }
        let head_dim = head_dim(&keys, width, heads)?;
        let vocabulary = file
            .get("tokenizer.ggml.tokens")
            .and_then(|tokens| tokens.to_vec().ok())
            .with_context(|| format!("model {}: no vocabulary", file.path().display()))?
            .len();
        keys.agrees("vocab_size", vocabulary, "tokenizer.ggml.tokens has")?;
        let context = keys.size("context_length")?;
        let pairing = match architecture {
            // Files of the llama architecture carry Q and K rows permuted for interleaved pairs.
            Architecture::Llama => Pairing::Interleaved,
            Architecture::Gemma3 => Pairing::Half,
        };
        let rope_base = keys.optional_positive("rope.freq_base")?.unwrap_or(1e4);
        let rotary_dim = keys.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        let turned =
            Rope::new(head_dim, rope_base, pairing).and_then(|rope| rope.with_rotary_dim(rotary_dim));
        let Some(turned) = turned.ok().filter(Rope::is_quad_aligned) else {
            let step = if pairing == Pairing::Half { 8 } else { 4 };
            let why = format!("expected a multiple of {step}, {head_dim} at most: channels turn in quads");
            // Without the key, all channels of a head turn.
            let said = ["rope.dimension_count", "attention.key_length", "embedding_length"];
            let said = said.into_iter().find(|key| file.get(&keys.name(key)).is_some());
            return Err(keys.refusal(said.unwrap_or("rope.dimension_count"), &why));
        };
        keys.agrees("rope.dimension_count_swa", rotary_dim, "layers without a window have")?;
        let rope_scaling = rope_scaling(&keys, architecture, context, &turned)?;
        let config = Self {
            architecture,
            layers,
            width,
            hidden: keys.size("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocabulary,
            context,
            norm_eps: keys.positive("attention.layer_norm_rms_epsilon")?,
            pairing,
            rotary_dim,
            rope_base,
            rope_scaling,
            scale: scale(&keys, architecture, layers, width as f64 / heads as f64)?,
            soft_cap: keys.cap("attn_logit_softcapping")?.map(|cap| cap as f32),
            logit_soft_cap: keys.cap("final_logit_softcapping")?,
            sliding: sliding(&keys, architecture, rope_base, rope_scaling)?,
        };
        for layer in 0..layers {
            config.rope(layer).with_context(|| format!("model {}: {name}.rope", file.path().display()))?;
        }
        file.refuse_unread_keys(KeyGroup::Model)?;
        Ok(config)
    }

    /// The sliding window of a layer; `None` for one that sees everything.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding
            .and_then(|sliding| (!(layer + 1).is_multiple_of(sliding.period)).then_some(sliding.window))
    }

    /// The rotation of a layer.
    ///
    /// # Errors
    /// Numbers outside their range.
    pub fn rope(&self, layer: usize) -> prflash::Result<Rope> {
        let (base, scaling) = match self.sliding {
            Some(sliding) if self.window(layer).is_some() => (sliding.rope_base, sliding.rope_scaling),
            _ => (self.rope_base, self.rope_scaling),
        };
        Rope::new(self.head_dim, base, self.pairing)?.with_rotary_dim(self.rotary_dim)?.with_scaling(scaling)
    }
}

/// Channels of a head, of keys and values alike.
fn head_dim(keys: &Keys<'_>, width: usize, heads: usize) -> Result<usize> {
    let head_dim = match keys.optional_size("attention.key_length")? {
        Some(length) if !length.is_multiple_of(QUAD) => {
            let why = format!("expected a multiple of {QUAD}");
            return Err(keys.refusal("attention.key_length", &why));
        }
        Some(length) => length,
        None if !width.is_multiple_of(QUAD * heads) => {
            let why = format!(
                "expected a multiple of {} for {heads} heads, without attention.key_length",
                QUAD * heads
            );
            return Err(keys.refusal("embedding_length", &why));
        }
        None => width / heads,
    };
    keys.agrees("attention.value_length", head_dim, "a key has")?;
    keys.agrees("attention.key_length_swa", head_dim, "a key has in layers without a window")?;
    keys.agrees("attention.value_length_swa", head_dim, "a key has in layers without a window")?;
    Ok(head_dim)
}

/// The scaling of the rotary frequencies in layers that see everything.
fn rope_scaling(keys: &Keys<'_>, architecture: Architecture, context: usize, rope: &Rope) -> Result<Scaling> {
    let declared = rope::declared(keys.file, keys.architecture, context)?;
    // Files of Gemma 3 have no factors: in one that has them, nobody reads them.
    let factors = match architecture {
        Architecture::Llama => rope::from_factors(keys.file, rope)?,
        Architecture::Gemma3 => None,
    };
    match (declared, factors) {
        (declared, None | Some(Scaling::None)) => Ok(declared),
        (Scaling::None, Some(scaling)) => Ok(scaling),
        _ => Err(keys.refusal("rope.scaling.type", "the file has factors of frequencies too")),
    }
}

/// The layers with a window, and what turns there.
fn sliding(
    keys: &Keys<'_>,
    architecture: Architecture,
    rope_base: f64,
    rope_scaling: Scaling,
) -> Result<Option<Sliding>> {
    // What files of Gemma 3 don't say: every sixth layer is global, and the rest turn with base 10⁴
    // (its paper, arXiv 2503.19786, section 2) without a scaling. The paper's factor of 8 is for
    // the global layers (llama.cpp: `rope_freq_scale_train_swa = 1`). In the llama architecture a
    // window is every layer's, as in Mistral 7B (arXiv 2310.06825), and turns as all else does.
    let (window, period, base, scaling) = match architecture {
        Architecture::Gemma3 => (Some(keys.size("attention.sliding_window")?), 6, 1e4, Scaling::None),
        Architecture::Llama => (keys.optional_size("attention.sliding_window")?, 0, rope_base, rope_scaling),
    };
    let Some(window) = window else { return Ok(None) };
    let period = keys
        .file
        .optional(&keys.name("attention.sliding_window_pattern"), ModelFile::number)?
        .unwrap_or(period);
    let rope_base = keys.optional_positive("rope.freq_base_swa")?.unwrap_or(base);
    Ok(Some(Sliding { window, period, rope_base, rope_scaling: scaling }))
}

/// The factor on inner products, where it isn't the usual one.
fn scale(
    keys: &Keys<'_>,
    architecture: Architecture,
    layers: usize,
    width_of_head: f64,
) -> Result<Option<f32>> {
    if let Some(scale) = keys.optional_positive("attention.scale")? {
        return Ok(Some(scale as f32));
    }
    // Gemma 3 27B divides by √(width/heads), the others by √head_dim, and no key says so (config.py
    // of google/gemma_pytorch: `query_pre_attn_scalar = 5376 // 32`; llama.cpp goes by the layers,
    // too).
    let is_27b = architecture == Architecture::Gemma3 && layers == GEMMA3_27B_LAYERS;
    Ok(is_27b.then(|| (1.0 / width_of_head.sqrt()) as f32))
}
