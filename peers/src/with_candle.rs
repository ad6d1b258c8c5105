//! candle's CPU attention, in the three ways its users have.

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::ops::softmax_last_dim;

use crate::measure::Work;
use crate::problem::{Input, Problem};

/// How it is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Matrix products and softmax, keys and values repeated for every query head before the call.
    Repeated,
    /// Matrix products and softmax, a product per key/value head for all the query heads on it.
    Grouped,
    /// `candle_nn::attention::flash_attn`.
    Flash,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Repeated, Self::Grouped, Self::Flash];

    /// The name of it in tables.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Repeated => "matmul + softmax, K and V heads repeated beforehand",
            Self::Grouped => "matmul + softmax, one product per KV head",
            Self::Flash => "flash_attn",
        }
    }
}

/// candle on the CPU.
pub struct Candle {
    problem: Problem,
    way: Way,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// 0 and −∞, made beforehand.
    mask: Option<Tensor>,
    output: Option<Tensor>,
}

impl Candle {
    /// The problem's inputs in the layout that the way wants.
    pub fn new(problem: &Problem, way: Way) -> Result<Self> {
        let Problem { heads, kv_heads, q_len, kv_len, dim, .. } = *problem;
        let tensor = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
        let plain = |input| problem.values(input);
        let repeated = |input| problem.values_repeated(input);
        let tokens_first = |input| problem.values_tokens_first(input);
        let (keys, values) = (Input::Keys, Input::Values);
        let (q, k, v) = match way {
            Way::Repeated => (
                tensor(plain(Input::Queries), &[1, heads, q_len, dim])?,
                tensor(repeated(keys), &[1, heads, kv_len, dim])?,
                tensor(repeated(values), &[1, heads, kv_len, dim])?,
            ),
            Way::Grouped => (
                tensor(plain(Input::Queries), &[kv_heads, problem.group() * q_len, dim])?,
                tensor(plain(keys), &[kv_heads, kv_len, dim])?,
                tensor(plain(values), &[kv_heads, kv_len, dim])?,
            ),
            Way::Flash => (
                tensor(tokens_first(Input::Queries), &[1, q_len, heads, dim])?,
                tensor(tokens_first(keys), &[1, kv_len, kv_heads, dim])?,
                tensor(tokens_first(values), &[1, kv_len, kv_heads, dim])?,
            ),
        };
        let mask = match problem.is_decode() || way == Way::Flash {
            true => None,
            false => {
                let hidden = |i: usize| i % kv_len > i / kv_len + kv_len - q_len;
                let mask = (0..q_len * kv_len).map(|i| if hidden(i) { f32::NEG_INFINITY } else { 0.0 });
                Some(tensor(mask.collect(), &[q_len, kv_len])?)
            }
        };
        Ok(Self { problem: *problem, way, q, k, v, mask, output: None })
    }

    fn compute(&self) -> candle_core::Result<Tensor> {
        let Problem { kv_heads, q_len, kv_len, dim, .. } = self.problem;
        let scale = 1.0 / (dim as f64).sqrt();
        if self.way == Way::Flash {
            let mask = AttnMask::causal_with_offset(kv_len - q_len);
            return flash_attn::<f32>(&self.q, &self.k, &self.v, scale as f32, mask, None, None);
        }
        // Scaling queries is cheaper than scaling scores.
        let scores = (&self.q * scale)?.matmul(&self.k.t()?)?;
        let scores = match (&self.mask, self.way) {
            (None, _) => scores,
            (Some(mask), Way::Grouped) => {
                let group = self.problem.group();
                let scores = scores.reshape((kv_heads, group, q_len, kv_len))?.broadcast_add(mask)?;
                scores.reshape((kv_heads, group * q_len, kv_len))?
            }
            (Some(mask), _) => scores.broadcast_add(mask)?,
        };
        softmax_last_dim(&scores)?.matmul(&self.v)
    }
}

impl Work for Candle {
    fn call(&mut self) -> Result<()> {
        self.output = Some(self.compute()?);
        Ok(())
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        let output = self.output.as_ref().context("no call yet")?;
        Ok(output.flatten_all()?.to_vec1()?)
    }
}
