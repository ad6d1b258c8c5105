//! Attention with gradients, as an operation of candle's autodiff.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use candle_core::{CpuStorage, CustomOp3, D, Device, Layout as Strides, Shape as Dims, Tensor};
use prflash::attention::BackwardPlan;
use prflash::native::{
    HostView, HostViewMut, NativeBackwardOperands, NativeBackwardPlan, NativeOperands, NativeOptions,
    NativePlan,
};
use prflash::position::Pairing;
use prflash::{Attention, Context, DType, Layout, Output, Plan, Positions, Rope, Shape, Tables};

use super::settings::Settings;

/// The base of the rotary embedding.
const BASE: f64 = 10_000.0;

/// Who computes attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// prflash on CPU cores.
    Native,
    /// prflash on a device.
    Gpu,
    /// candle, step by step.
    Candle,
}

impl Backend {
    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "cpu",
            Self::Gpu => "gpu",
            Self::Candle => "candle",
        }
    }
}

/// Causal attention with rotary positions, made ready for sequences of some length.
pub struct Attends {
    heads_each: usize,
    head_dim: usize,
    engine: Engine,
}

enum Engine {
    Prflash(Arc<Plans>),
    Candle,
}

enum Plans {
    Native { forward: Box<NativePlan>, backward: Box<NativeBackwardPlan> },
    Gpu { context: Context, forward: Plan, backward: BackwardPlan },
}

impl Attends {
    /// # Errors
    /// No device for [`Backend::Gpu`]; sizes that are no attention.
    pub fn new(backend: Backend, settings: &Settings) -> Result<Self> {
        let Settings { heads, kv_heads, context, batch, .. } = *settings;
        let head_dim = settings.head_dim();
        let shape = Shape::new(heads, kv_heads, context, head_dim)?.with_batch(batch)?;
        let rope = Rope::new(head_dim, BASE, Pairing::Half)?;
        let attention = Attention::causal().with_lse(true).with_positions(Positions::from(rope));
        let engine = match backend {
            Backend::Candle => Engine::Candle,
            Backend::Native => {
                let options = NativeOptions::new();
                Engine::Prflash(Arc::new(Plans::Native {
                    forward: Box::new(attention.plan_native(&shape, &options)?),
                    backward: Box::new(attention.plan_backward_native(&shape, &options)?),
                }))
            }
            Backend::Gpu => {
                let context = Context::new_blocking()
                    .context("--backend gpu needs an adapter (scripts/with-vulkan brings one)")?;
                let forward = attention.plan(&context, &shape)?;
                let backward = attention.plan_backward(&context, &shape)?;
                Engine::Prflash(Arc::new(Plans::Gpu { context, forward, backward }))
            }
        };
        Ok(Self { heads_each: heads / kv_heads, head_dim, engine })
    }

    /// Who computes, with the instructions or the adapter.
    pub fn device(&self) -> String {
        match &self.engine {
            Engine::Candle => "candle".into(),
            Engine::Prflash(plans) => match &**plans {
                Plans::Native { forward, .. } => format!("prflash on CPU cores ({})", forward.instructions()),
                Plans::Gpu { context, .. } => format!("prflash on {}", context.capabilities()),
            },
        }
    }

    /// `[batch, tokens, heads, head_dim]` from queries of these sizes, and keys and values
    /// `[batch, tokens, kv_heads, head_dim]`.
    ///
    /// # Errors
    /// Those of who computes.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
        match &self.engine {
            Engine::Prflash(plans) => {
                let operation = Operation { plans: plans.clone(), kept: Mutex::new(None) };
                q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, operation)
            }
            Engine::Candle => self.by_candle(q, k, v),
        }
    }

    fn by_candle(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
        let tokens = q.dim(1)?;
        let half = self.head_dim / 2;
        let angles: Vec<f32> = (0..tokens * half)
            .map(|at| {
                let (position, pair) = ((at / half) as f64, (at % half) as f64);
                (position * BASE.powf(-pair / half as f64)) as f32
            })
            .collect();
        let angles = Tensor::from_vec(angles, (tokens, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let turned = |x: &Tensor| {
            let x = x.transpose(1, 2)?.contiguous()?;
            let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
            let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
            let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
            Tensor::cat(&[first, second], D::Minus1)
        };
        // Each key/value head once for every query head that shares it.
        let shared = |x: &Tensor| {
            let (batch, heads, tokens, dim) = x.dims4()?;
            let all = (batch, heads, self.heads_each, tokens, dim);
            x.unsqueeze(2)?.broadcast_as(all)?.contiguous()?.reshape((
                batch,
                heads * self.heads_each,
                tokens,
                dim,
            ))
        };
        let (q, k) = (turned(q)?, shared(&turned(k)?)?);
        let v = shared(&v.transpose(1, 2)?.contiguous()?)?;
        let hidden: Vec<f32> = (0..tokens * tokens)
            .map(|at| if at % tokens > at / tokens { f32::NEG_INFINITY } else { 0.0 })
            .collect();
        let hidden = Tensor::from_vec(hidden, (tokens, tokens), &Device::Cpu)?;
        let scores = (q.matmul(&k.t()?.contiguous()?)? / (self.head_dim as f64).sqrt())?;
        let scores = scores.broadcast_add(&hidden)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&v)?.transpose(1, 2)?.contiguous()
    }
}

/// One use of the plans. It keeps what the backward pass needs of the forward pass.
struct Operation {
    plans: Arc<Plans>,
    kept: Mutex<Option<Kept>>,
}

enum Kept {
    /// The log-sum-exp.
    Native(Vec<f32>),
    /// Queries, keys and values, and what was computed.
    Gpu(Box<([prflash::Tensor; 3], Output)>),
}

/// Numbers of a contiguous tensor.
fn numbers<'a>(storage: &'a CpuStorage, strides: &Strides) -> candle_core::Result<&'a [f32]> {
    let (start, end) = strides
        .contiguous_offsets()
        .ok_or_else(|| candle_core::Error::msg("attention takes contiguous tensors"))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Where a tensor `[batch, tokens, heads, dim]` lies.
fn tokens_first(dims: &[usize]) -> candle_core::Result<Layout> {
    let [batch, tokens, heads, dim] = dims else {
        return Err(candle_core::Error::msg(format!("attention takes four dimensions, got {dims:?}")));
    };
    Layout::tokens_first(*batch, *tokens, *heads, *dim).map_err(candle_core::Error::wrap)
}

impl Operation {
    fn forward(&self, qkv: [(&[f32], Layout); 3]) -> prflash::Result<Vec<f32>> {
        let [(q, q_at), (k, k_at), (v, v_at)] = qkv;
        let [batch, heads, tokens, _] = q_at.dims();
        let (output, kept) = match &*self.plans {
            Plans::Native { forward, .. } => {
                let mut output = vec![0.0; q.len()];
                let mut lse = vec![0.0; batch * heads * tokens];
                let mut operands = NativeOperands {
                    q: HostView::new(q, q_at)?,
                    k: HostView::new(k, k_at)?,
                    v: HostView::new(v, v_at)?,
                    output: HostViewMut::new(&mut output[..], q_at)?,
                    lse: Some(&mut lse),
                };
                forward.run(&mut operands, &Tables::new())?;
                (output, Kept::Native(lse))
            }
            Plans::Gpu { context, forward, .. } => {
                let [q, k, v] = qkv.map(|(values, layout)| uploaded(context, values, layout));
                let (q, k, v) = (q?, k?, v?);
                let result = forward.run(q.view(), k.view(), v.view(), &Tables::new())?;
                let output = heads_first_to_tokens_first(&result.output.read_blocking(context)?, &q_at)?;
                (output, Kept::Gpu(Box::new(([q, k, v], result))))
            }
        };
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(output)
    }

    fn backward(
        &self,
        qkv: [(&[f32], Layout); 3],
        (output, d_output): (&[f32], &[f32]),
    ) -> prflash::Result<[Vec<f32>; 3]> {
        let [(q, q_at), (k, k_at), (v, v_at)] = qkv;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*self.plans, &*kept) {
            (Plans::Native { backward, .. }, Some(Kept::Native(lse))) => {
                let [mut dq, mut dk, mut dv] = [q, k, v].map(|values| vec![0.0; values.len()]);
                let mut operands = NativeBackwardOperands {
                    q: HostView::new(q, q_at)?,
                    k: HostView::new(k, k_at)?,
                    v: HostView::new(v, v_at)?,
                    output: HostView::new(output, q_at)?,
                    lse,
                    d_output: HostView::new(d_output, q_at)?,
                    d_lse: None,
                    dq: HostViewMut::new(&mut dq[..], q_at)?,
                    dk: HostViewMut::new(&mut dk[..], k_at)?,
                    dv: HostViewMut::new(&mut dv[..], v_at)?,
                    d_sinks: None,
                    d_slopes: None,
                };
                backward.run(&mut operands, &Tables::new())?;
                Ok([dq, dk, dv])
            }
            (Plans::Gpu { context, backward, .. }, Some(Kept::Gpu(kept))) => {
                let ([q, k, v], forward) = &**kept;
                let d_output = uploaded(context, d_output, q_at)?;
                let qkv = [q.view(), k.view(), v.view()];
                let got = backward.run(qkv, forward, d_output.view(), None, &Tables::new())?;
                let read = |tensor: &prflash::Tensor, layout: &Layout| {
                    heads_first_to_tokens_first(&tensor.read_blocking(context)?, layout)
                };
                Ok([read(&got.dq, &q_at)?, read(&got.dk, &k_at)?, read(&got.dv, &v_at)?])
            }
            // Gradients are asked for behind the forward pass of the same operation.
            _ => Ok([q, k, v].map(|values| vec![f32::NAN; values.len()])),
        }
    }
}

/// Numbers that lie as the layout says, on a device. What is uploaded is given heads first.
fn uploaded(context: &Context, values: &[f32], layout: Layout) -> prflash::Result<prflash::Tensor> {
    prflash::Tensor::upload(context, DType::F32, layout, &layout.gather(values)?)
}

/// Heads-first numbers, as this tokens-first layout has them.
fn heads_first_to_tokens_first(values: &[f32], layout: &Layout) -> prflash::Result<Vec<f32>> {
    let mut numbers = vec![0.0; layout.extent()];
    layout.scatter(values, &mut numbers)?;
    Ok(numbers)
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        "prflash attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_at: &Strides,
        k: &CpuStorage,
        k_at: &Strides,
        v: &CpuStorage,
        v_at: &Strides,
    ) -> candle_core::Result<(CpuStorage, Dims)> {
        let input =
            |storage, strides: &Strides| Ok((numbers(storage, strides)?, tokens_first(strides.dims())?));
        let qkv: [candle_core::Result<_>; 3] = [input(q, q_at), input(k, k_at), input(v, v_at)];
        let [q, k, v] = qkv;
        let output = self.forward([q?, k?, v?]).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(output), q_at.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        output: &Tensor,
        d_output: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let at = |tensor: &Tensor| tokens_first(tensor.dims());
        let (output, d_output) = (values(output)?, values(d_output)?);
        let inputs = [values(q)?, values(k)?, values(v)?];
        let qkv = [(&inputs[0][..], at(q)?), (&inputs[1][..], at(k)?), (&inputs[2][..], at(v)?)];
        let got = self.backward(qkv, (&output, &d_output)).map_err(candle_core::Error::wrap)?;
        let [dq, dk, dv] = got;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}
