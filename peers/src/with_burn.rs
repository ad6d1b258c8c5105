//! burn's attention on wgpu, as its default features have it: autotune and fusion on.

use anyhow::{Context as _, Result, anyhow};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor, TensorData};

use crate::measure::Work;
use crate::problem::{Input, Problem};

/// How query heads that share keys are given to an attention that knows one key head per query
/// head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Keys and values are repeated for every query head, before the call.
    Repeated,
    /// The queries of a group are rows of one head. Works for one query, which needs no mask.
    Folded,
}

impl Sharing {
    /// The name of it in tables.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Repeated => "K and V heads repeated beforehand",
            Self::Folded => "the query heads of a group as rows of one head",
        }
    }
}

/// burn's `attention`.
pub struct Burn {
    device: Device,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    causal: bool,
    output: Option<Tensor<4>>,
}

/// What burn calls the device it opens.
pub fn device_name() -> String {
    Device::wgpu(Default::default()).identity().map_or_else(|| "unknown".to_owned(), |identity| identity.name)
}

impl Burn {
    /// The problem's inputs on burn's default wgpu device.
    pub fn new(problem: &Problem, sharing: Sharing) -> Result<Self> {
        let device = Device::wgpu(Default::default());
        let tensor = |values: Vec<f32>, heads: usize, len: usize| {
            Tensor::<4>::from_data(TensorData::new(values, [1, heads, len, problem.dim]), &device)
        };
        let (heads, kv_heads, len) = (problem.heads, problem.kv_heads, problem.kv_len);
        let queries = problem.values(Input::Queries);
        let (q, k, v) = match sharing {
            Sharing::Repeated => (
                tensor(queries, heads, problem.q_len),
                tensor(problem.values_repeated(Input::Keys), heads, len),
                tensor(problem.values_repeated(Input::Values), heads, len),
            ),
            Sharing::Folded => (
                tensor(queries, kv_heads, problem.group() * problem.q_len),
                tensor(problem.values(Input::Keys), kv_heads, len),
                tensor(problem.values(Input::Values), kv_heads, len),
            ),
        };
        device.sync().map_err(|error| anyhow!("{error:?}"))?;
        Ok(Self { device, q, k, v, causal: !problem.is_decode(), output: None })
    }
}

impl Work for Burn {
    fn call(&mut self) -> Result<()> {
        let options = AttentionModuleOptions { is_causal: self.causal, ..Default::default() };
        let output = attention(self.q.clone(), self.k.clone(), self.v.clone(), None, None, options);
        // Runs what fusion has held back, and waits for it.
        self.device.sync().map_err(|error| anyhow!("{error:?}"))?;
        self.output = Some(output);
        Ok(())
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        let output = self.output.clone().context("no call yet")?;
        let data = output.try_into_data().map_err(|error| anyhow!("{error:?}"))?;
        data.try_to_vec().map_err(|error| anyhow!("{error:?}"))
    }
}
