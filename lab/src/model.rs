//! The forward pass: everything but attention, on the CPU.

use anyhow::{Result, ensure};
use candle_core::quantized::QMatMul;
use candle_core::{D, Device, Module, Tensor};

use crate::attend::{Attend, Qkv};
use crate::config::{Architecture, Config};
use crate::gguf::ModelFile;

/// A language model whose attention is computed by whoever is given to [`forward`](Model::forward).
pub struct Model {
    config: Config,
    embedding: QMatMul,
    layers: Vec<Layer>,
    norm: Tensor,
    /// The output matrix where it isn't the embedding.
    output: Option<QMatMul>,
}

struct Layer {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    output: Linear,
    /// Gemma: on each head's queries and keys.
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    /// Gemma: behind the attention.
    post_attention_norm: Option<Tensor>,
    feed_forward_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
    /// Gemma: behind the feed-forward part.
    post_feed_forward_norm: Option<Tensor>,
}

struct Linear {
    weight: QMatMul,
    /// The bias if the file has one.
    bias: Option<Tensor>,
}

impl Linear {
    /// `NAME.weight`, `[outputs, inputs]`, and `NAME.bias`, if it is there.
    fn load(file: &ModelFile, name: &str, [outputs, inputs]: [usize; 2]) -> Result<Self> {
        let bias = format!("{name}.bias");
        Ok(Self {
            weight: file.matrix(&format!("{name}.weight"), [outputs, inputs])?,
            bias: file.has(&bias).then(|| file.vector(&bias, outputs)).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

impl Model {
    /// Loads the tensors of a file. `loaded` hears of each layer and may stop it.
    ///
    /// # Errors
    /// What [`Config::read`] refuses; tensors that are missing, cut off or of another shape;
    /// tensors of the file that no part of the model reads; and what `loaded` returns.
    pub fn load(file: &ModelFile, mut loaded: impl FnMut(usize, usize) -> Result<()>) -> Result<Self> {
        let config = Config::read(file)?;
        let Config { width, hidden, heads, kv_heads, head_dim, vocabulary, .. } = config;
        let gemma = config.architecture == Architecture::Gemma3;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let matrix = |part: &str, dims| Linear::load(file, &format!("blk.{index}.{part}"), dims);
            let vector = |part: &str, len| file.vector(&format!("blk.{index}.{part}.weight"), len);
            let gemma_vector = |part: &str, len| gemma.then(|| vector(part, len)).transpose();
            layers.push(Layer {
                attention_norm: vector("attn_norm", width)?,
                q: matrix("attn_q", [heads * head_dim, width])?,
                k: matrix("attn_k", [kv_heads * head_dim, width])?,
                v: matrix("attn_v", [kv_heads * head_dim, width])?,
                output: matrix("attn_output", [width, heads * head_dim])?,
                q_norm: gemma_vector("attn_q_norm", head_dim)?,
                k_norm: gemma_vector("attn_k_norm", head_dim)?,
                post_attention_norm: gemma_vector("post_attention_norm", width)?,
                feed_forward_norm: vector("ffn_norm", width)?,
                gate: matrix("ffn_gate", [hidden, width])?,
                up: matrix("ffn_up", [hidden, width])?,
                down: matrix("ffn_down", [width, hidden])?,
                post_feed_forward_norm: gemma_vector("post_ffw_norm", width)?,
            });
            loaded(index + 1, config.layers)?;
        }
        let output = file.has("output.weight");
        let model = Self {
            embedding: file.matrix("token_embd.weight", [vocabulary, width])?,
            layers,
            norm: file.vector("output_norm.weight", width)?,
            output: output.then(|| file.matrix("output.weight", [vocabulary, width])).transpose()?,
            config,
        };
        file.refuse_unread_tensors()?;
        Ok(model)
    }

    /// Sizes and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The final hidden states `[tokens, width]` of tokens that follow those `attention` remembers.
    /// `step` is called before each layer and may stop it.
    ///
    /// # Errors
    /// An id outside the vocabulary; what `attention` and `step` return.
    pub fn forward(
        &self,
        tokens: &[u32],
        attention: &mut dyn Attend,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Tensor> {
        let config = &self.config;
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= config.vocabulary) {
            anyhow::bail!("token {id} is outside the vocabulary of {}", config.vocabulary);
        }
        ensure!(!tokens.is_empty(), "a forward pass needs at least one token");
        let count = tokens.len();
        let mut x = self.embedding.embedding(&Tensor::new(tokens, &Device::Cpu)?)?;
        if config.architecture == Architecture::Gemma3 {
            x = (x * (config.width as f64).sqrt())?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            step(index)?;
            let input = self.norm(&x, &layer.attention_norm)?;
            let q = self.head_norm(layer.q.forward(&input)?, config.heads, layer.q_norm.as_ref())?;
            let k = self.head_norm(layer.k.forward(&input)?, config.kv_heads, layer.k_norm.as_ref())?;
            let [q, k, v] = [&q, &k, &layer.v.forward(&input)?].map(|t| t.flatten_all()?.to_vec1::<f32>());
            let (q, k, v) = (q?, k?, v?);
            let seen = attention.attend(index, &Qkv { tokens: count, q: &q, k: &k, v: &v })?;
            let seen = Tensor::from_vec(seen, (count, config.heads * config.head_dim), &Device::Cpu)?;
            let seen = layer.output.forward(&seen)?;
            x = (x + self.optional_norm(seen, layer.post_attention_norm.as_ref())?)?;

            let input = self.norm(&x, &layer.feed_forward_norm)?;
            let gate = layer.gate.forward(&input)?;
            let gate = match config.architecture {
                Architecture::Llama => gate.silu()?,
                // GELU by tanh, as the family was trained.
                Architecture::Gemma3 => gate.gelu()?,
            };
            let hidden = layer.down.forward(&(gate * layer.up.forward(&input)?)?)?;
            x = (x + self.optional_norm(hidden, layer.post_feed_forward_norm.as_ref())?)?;
        }
        self.norm(&x, &self.norm)
    }

    /// The logits `[rows, vocabulary]` of hidden states.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.output.as_ref().unwrap_or(&self.embedding).forward(hidden)?;
        Ok(match self.config.logit_soft_cap {
            Some(cap) => ((logits / cap)?.tanh()? * cap)?,
            None => logits,
        })
    }

    /// `x / √(mean(x²) + ε) · weight`, over the last axis.
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + self.config.norm_eps)?.sqrt()?;
        Ok(x.broadcast_div(&size)?.broadcast_mul(weight)?)
    }

    fn optional_norm(&self, x: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        weight.map_or(Ok(x.clone()), |weight| self.norm(&x, weight))
    }

    fn head_norm(&self, x: Tensor, heads: usize, weight: Option<&Tensor>) -> Result<Tensor> {
        let Some(weight) = weight else { return Ok(x) };
        let split = x.reshape((x.dim(0)?, heads, self.config.head_dim))?;
        self.norm(&split, weight)
    }
}
