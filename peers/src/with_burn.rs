//! burn's attention on wgpu, and its gradients, as its default features have it: autotune and
//! fusion on.

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

/// The forward pass of burn's `attention` with automatic differentiation, and its backward pass if
/// that is wanted. burn differentiates single operations (`attention_fallback`): its fused kernels
/// have no gradients. A graph is consumed by its backward pass, so there is none without the
/// forward pass.
pub struct BurnGradients {
    device: Device,
    problem: Problem,
    backward: bool,
    parts: Vec<Part>,
}

/// Some heads, which are computed at once: their weights are a tensor.
struct Part {
    qkv: [Tensor<4>; 3],
    d_output: Tensor<4>,
    loss: Option<Tensor<1>>,
    gradients: Option<[Tensor<4>; 3]>,
}

/// What every device binds at once, which a tensor of weights has to fit.
const MAX_WEIGHT_BYTES: usize = 128 << 20;

impl BurnGradients {
    /// The problem's inputs on burn's default wgpu device, with keys and values repeated for every
    /// query head: the sum of their gradients over a group isn't in the time.
    pub fn new(problem: &Problem, backward: bool) -> Result<Self> {
        let device = Device::wgpu(Default::default()).autodiff();
        let each = Self::heads_each(problem);
        let tensors = |values: Vec<f32>, len: usize| {
            let part = |values: &[f32]| {
                let data = TensorData::new(values.to_vec(), [1, each, len, problem.dim]);
                Tensor::<4>::from_data(data, &device)
            };
            values.chunks_exact(each * len * problem.dim).map(part).collect::<Vec<_>>()
        };
        let q = tensors(problem.values(Input::Queries), problem.q_len);
        let k = tensors(problem.values_repeated(Input::Keys), problem.kv_len);
        let v = tensors(problem.values_repeated(Input::Values), problem.kv_len);
        let d_output = tensors(problem.values(Input::OutputGradients), problem.q_len);
        let part = |(((q, k), v), d_output): (((_, _), _), _)| Part {
            qkv: [q, k, v].map(|leaf: Tensor<4>| leaf.require_grad()),
            d_output,
            loss: None,
            gradients: None,
        };
        let parts = q.into_iter().zip(k).zip(v).zip(d_output).map(part).collect();
        device.sync().map_err(|error| anyhow!("{error:?}"))?;
        Ok(Self { device, problem: *problem, backward, parts })
    }

    /// How many heads are computed at once.
    pub fn heads_each(problem: &Problem) -> usize {
        let bytes = |heads: usize| heads * problem.q_len * problem.kv_len * size_of::<f32>();
        let fits = |heads: &usize| problem.heads.is_multiple_of(*heads) && bytes(*heads) <= MAX_WEIGHT_BYTES;
        (1..=problem.heads).rev().find(fits).unwrap_or(1)
    }
}

impl Work for BurnGradients {
    fn call(&mut self) -> Result<()> {
        for part in &mut self.parts {
            let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
            let [q, k, v] = part.qkv.clone();
            let output = attention(q, k, v, None, None, options);
            // The gradient of this loss with respect to the output.
            let loss = (output * part.d_output.clone()).sum();
            if self.backward {
                let gradients = loss.backward();
                let of = |leaf: &Tensor<4>| leaf.grad(&gradients).context("no gradient");
                let [q, k, v] = &part.qkv;
                part.gradients = Some([of(q)?, of(k)?, of(v)?]);
            }
            part.loss = Some(loss);
        }
        self.device.sync().map_err(|error| anyhow!("{error:?}"))?;
        Ok(())
    }

    /// dq, dk and dv behind each other; without a backward pass the losses of the parts.
    fn result(&mut self) -> Result<Vec<f32>> {
        fn read<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>> {
            let data = tensor.clone().try_into_data().map_err(|error| anyhow!("{error:?}"))?;
            data.try_to_vec().map_err(|error| anyhow!("{error:?}"))
        }
        if !self.backward {
            let loss = |part: &Part| read(part.loss.as_ref().context("no call yet")?);
            return Ok(self.parts.iter().map(loss).collect::<Result<Vec<_>>>()?.concat());
        }
        let mut all = Vec::new();
        for index in 0..3 {
            let gradient = |part: &Part| read(&part.gradients.as_ref().context("no call yet")?[index]);
            let values = self.parts.iter().map(gradient).collect::<Result<Vec<_>>>()?.concat();
            if index == 0 {
                all.extend(values);
                continue;
            }
            let head = self.problem.kv_len * self.problem.dim;
            for group in values.chunks_exact(head * self.problem.group()) {
                let sum = |at: usize| group.chunks_exact(head).map(|head| head[at]).sum::<f32>();
                all.extend((0..head).map(sum));
            }
        }
        Ok(all)
    }
}
