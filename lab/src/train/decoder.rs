//! The model: a decoder as Llama's, whose output matrix is the embedding.

use anyhow::Result;
use candle_core::{D, Device, Tensor, Var};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::attention::Attends;
use super::data::Batch;
use super::loss::CrossEntropy;
use super::settings::Settings;

/// What is added to a mean of squares before its root.
const EPSILON: f64 = 1e-5;

/// A weight with its name.
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its numbers.
    pub value: Var,
}

/// The weights of a model.
pub struct Decoder {
    settings: Settings,
    /// The embedding, nine of each layer, and the last norm.
    parameters: Vec<Parameter>,
}

/// Weights of a layer in their order.
const OF_LAYER: [&str; 9] =
    ["attention_norm", "q", "k", "v", "output", "feed_forward_norm", "gate", "up", "down"];

impl Decoder {
    /// Weights drawn by the seed: uniform with a deviation of 0.02, those in front of a sum of
    /// layers smaller by √(2·layers).
    ///
    /// # Errors
    /// None for settings that were checked.
    pub fn new(settings: &Settings) -> Result<Self> {
        let Settings { pieces, layers, width, hidden, kv_heads, .. } = *settings;
        let keys = kv_heads * settings.head_dim();
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let mut parameters = Vec::new();
        let mut add = |name: String, dims: &[usize], deviation: f64| -> Result<()> {
            let spread = (3f64.sqrt() * deviation) as f32;
            let count: usize = dims.iter().product();
            let draw = |_| if deviation == 0.0 { 1.0 } else { rng.random_range(-spread..spread) };
            let numbers: Vec<f32> = (0..count).map(draw).collect();
            let value = Var::from_tensor(&Tensor::from_vec(numbers, dims, &Device::Cpu)?)?;
            parameters.push(Parameter { name, value });
            Ok(())
        };
        let (usual, summed) = (0.02, 0.02 / (2.0 * layers as f64).sqrt());
        add("embedding".into(), &[pieces, width], usual)?;
        for layer in 0..layers {
            for part in OF_LAYER {
                let (dims, deviation) = match part {
                    "q" => (vec![width, width], usual),
                    "k" | "v" => (vec![keys, width], usual),
                    "output" => (vec![width, width], summed),
                    "gate" | "up" => (vec![hidden, width], usual),
                    "down" => (vec![width, hidden], summed),
                    _ => (vec![width], 0.0),
                };
                add(format!("{layer}.{part}"), &dims, deviation)?;
            }
        }
        add("norm".into(), &[width], 0.0)?;
        Ok(Self { settings: settings.clone(), parameters })
    }

    /// The weights, always in the same order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// How many numbers they are.
    pub fn size(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.value.elem_count()).sum()
    }

    /// The mean cost of a batch in nats a token.
    ///
    /// # Errors
    /// Tokens that the vocabulary doesn't have; those of attention.
    pub fn loss(&self, attention: &Attends, batch: &Batch) -> Result<Tensor> {
        let logits = self.logits(attention, batch)?;
        Ok(logits.apply_op1(CrossEntropy { targets: batch.targets.clone() })?)
    }

    /// `[tokens of the batch, pieces]`.
    ///
    /// # Errors
    /// As [`loss`](Decoder::loss).
    pub fn logits(&self, attention: &Attends, batch: &Batch) -> Result<Tensor> {
        let Settings { layers, heads, kv_heads, width, .. } = self.settings;
        let (tokens, dim) = (batch.context, self.settings.head_dim());
        let count = batch.inputs.len() / tokens;
        let embedding = self.parameters[0].value.as_tensor();
        let ids = Tensor::new(&batch.inputs[..], &Device::Cpu)?;
        let mut x = embedding.index_select(&ids, 0)?;
        for layer in 0..layers {
            let weights = &self.parameters[1 + layer * OF_LAYER.len()..][..OF_LAYER.len()];
            let weight = |index: usize| weights[index].value.as_tensor();
            let input = norm(&x, weight(0))?;
            let split = |index, heads| -> Result<Tensor> {
                Ok(linear(&input, weight(index))?.reshape((count, tokens, heads, dim))?)
            };
            let seen = attention.attend(&split(1, heads)?, &split(2, kv_heads)?, &split(3, kv_heads)?)?;
            x = (x + linear(&seen.reshape(((), width))?, weight(4))?)?;
            let input = norm(&x, weight(5))?;
            let hidden = (linear(&input, weight(6))?.silu()? * linear(&input, weight(7))?)?;
            x = (x + linear(&hidden, weight(8))?)?;
        }
        let last = &self.parameters[self.parameters.len() - 1];
        linear(&norm(&x, last.value.as_tensor())?, embedding)
    }
}

fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&weight.t()?)?)
}

/// `x / √(mean(x²) + ε) · weight`, over the last axis.
fn norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let size = (x.sqr()?.mean_keepdim(D::Minus1)? + EPSILON)?.sqrt()?;
    Ok(x.broadcast_div(&size)?.broadcast_mul(weight)?)
}
