//! Kernels tried out on a device: do they compute there what the portable one does, and how fast?

use std::time::Duration;

use super::Attention;
use super::bound::{Bound, Operands};
use super::cached::{CacheBound, CachePlan, Queries};
use super::call::Call;
use super::plan::Plan;
use super::tables::Tables;
use crate::attention::kernels::shapes::{Kernel, Tile};
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::{Chunk, KvCache};
use crate::error::{Error, Result};
use crate::layout::{DType, Layout};
use crate::reference::Exact;
use crate::runtime::context::Context;
use crate::runtime::tensor::Tensor;
use crate::shape::Shape;
use crate::verify::{Tolerance, compare};

/// What is wrong with a kernel for this storage and these dimensions on this device, if anything: it is compared with the portable one on a few small causal problems, of lengths that end inside tiles
/// and steps.
pub(super) fn find_wrong(
    context: &Context,
    (kernel, storage, head_dim, value_dim): (Kernel, DType, usize, usize),
) -> Option<String> {
    let attention = Attention::causal().with_storage(storage);
    let agrees = |(q_len, kv_len)| {
        let shape = Shape::new(4, 2, q_len, head_dim)?.with_value_dim(value_dim)?.with_kv_len(kv_len)?;
        Trial::new(context, &attention, &shape, None)?.agrees(&attention, kernel)
    };
    for lens in [(65, 65), (70, 333), (130, 77), (9, 40)] {
        let what = match agrees(lens) {
            Ok(true) => continue,
            Ok(false) => format!("{kernel} is wrong on this device, for (q_len, kv_len) = {lens:?}"),
            Err(error) => format!("{kernel} failed on this device: {error}"),
        };
        log::warn!("{what}");
        return Some(what);
    }
    None
}

/// Queries of a shape over keys and values, and what the portable kernel makes of them.
pub(super) struct Trial {
    context: Context,
    shape: Shape,
    q: Tensor,
    keys: Keys,
    portable: Kernel,
    want: Vec<f64>,
    exact: Exact,
}

enum Keys {
    Tensors { k: Tensor, v: Tensor },
    Cache { cache: Box<KvCache>, queries: Queries },
}

/// A plan for one kernel, with what it needs for calls.
enum Run {
    Tensors(Plan, Bound),
    Cache(Box<(CachePlan, CacheBound)>),
}

impl Trial {
    /// Over tensors, or over a cache of the same kind as `like` with tokens of its own.
    pub(super) fn new(
        context: &Context,
        attention: &Attention,
        shape: &Shape,
        like: Option<&KvCache>,
    ) -> Result<Self> {
        // In a cache queries are the last tokens.
        let shape = match like {
            Some(_) => shape.with_batch(1)?.with_kv_len(shape.kv_len().max(shape.q_len()))?,
            None => *shape,
        };
        let tensor = |seed: usize, heads, len, dim| {
            let layout = Layout::heads_first(shape.batch(), heads, len, dim)?;
            let number = |i: usize| (((i + seed) * 7919) % 997) as f32 / 498.5 - 1.0;
            let values: Vec<f32> = (0..layout.elements()).map(number).collect();
            Tensor::upload(context, attention.storage(), layout, &values)
        };
        let q = tensor(1, shape.heads(), shape.q_len(), shape.head_dim())?;
        let k = tensor(2, shape.kv_heads(), shape.kv_len(), shape.head_dim())?;
        let v = tensor(3, shape.kv_heads(), shape.kv_len(), shape.value_dim())?;
        let (keys, portable) = match like {
            None => (Keys::Tensors { k, v }, Kernel::Naive),
            Some(like) => {
                let mut cache = KvCache::new(context, like.staircase().clone(), &shape, like.stored_keys())?;
                let sequence = cache.add();
                let input = cache.input(k.view(), v.view())?;
                let mut encoder = context.device().create_command_encoder(&Default::default());
                cache.append(&mut encoder, &input, &[Chunk::new(sequence, 0, shape.kv_len())])?;
                context.submit([encoder.finish()])?;
                let queries = Queries::new(sequence, 0, shape.q_len());
                let tile = Tile::new(1, CacheVariant::KEYS, true)?;
                (Keys::Cache { cache: Box::new(cache), queries }, Kernel::Tiled(tile))
            }
        };
        let mut trial = Self {
            exact: magnitudes(attention, &shape)?,
            context: context.clone(),
            shape,
            q,
            keys,
            portable,
            want: Vec::new(),
        };
        trial.want = trial.result(attention, portable)?.into_iter().map(f64::from).collect();
        Ok(trial)
    }

    /// The kernel that a plan chooses.
    pub(super) fn rule(&self, attention: &Attention) -> Result<Kernel> {
        match &self.keys {
            Keys::Tensors { .. } => Ok(attention.plan(&self.context, &self.shape)?.kernel()),
            Keys::Cache { cache, .. } => Ok(attention.plan_cached(cache, &self.shape)?.kernel()),
        }
    }

    /// Whether a kernel computes what the portable one does.
    pub(super) fn agrees(&self, attention: &Attention, kernel: Kernel) -> Result<bool> {
        let got = self.result(attention, kernel)?;
        let of = |kernel| Tolerance::of_kernel_output(kernel, &self.exact, &self.shape, attention.output());
        // Either may deviate by its own.
        let (one, other) = (of(kernel), of(self.portable));
        let both =
            Tolerance { absolute: one.absolute + other.absolute, relative: one.relative + other.relative };
        Ok(compare(&got, &self.want, both)?.passed())
    }

    fn result(&self, attention: &Attention, kernel: Kernel) -> Result<Vec<f32>> {
        let attention = attention.clone().with_lse(false).with_kernel(kernel);
        let got = match &self.keys {
            Keys::Tensors { k, v } => {
                let plan = attention.plan(&self.context, &self.shape)?;
                plan.run(self.q.view(), k.view(), v.view(), &Tables::new())?
            }
            Keys::Cache { cache, queries } => {
                let plan = attention.plan_cached(cache, &self.shape)?;
                plan.run(cache, self.q.view(), &[*queries], &Tables::new())?
            }
        };
        got.output.read_blocking(&self.context)
    }

    /// Median times of these kernels, in turn.
    pub(super) fn times(
        &self,
        attention: &Attention,
        kernels: &[Kernel],
        rounds: usize,
    ) -> Result<Vec<Duration>> {
        let Self { context, shape, q, .. } = self;
        let output = Layout::heads_first(shape.batch(), shape.heads(), shape.q_len(), shape.value_dim())?;
        let output = Tensor::zeros(context, attention.output(), output)?;
        let mut runs = Vec::new();
        for &kernel in kernels {
            let attention = attention.clone().with_lse(false).with_kernel(kernel);
            let run = match &self.keys {
                Keys::Tensors { k, v } => {
                    let plan = attention.plan(context, shape)?;
                    let (q, k, v) = (q.view(), k.view(), v.view());
                    let bound = plan.bind(&Operands { q, k, v, output: output.view(), lse: None })?;
                    Run::Tensors(plan, bound)
                }
                Keys::Cache { cache, .. } => {
                    let plan = attention.plan_cached(cache, shape)?;
                    let bound = plan.bind(q.view(), output.view(), None)?;
                    Run::Cache(Box::new((plan, bound)))
                }
            };
            runs.push((run, Vec::new()));
        }
        for _ in 0..rounds {
            for (run, times) in &mut runs {
                let timings = match (run, &self.keys) {
                    (Run::Tensors(plan, bound), _) => {
                        plan.timings(bound, &Call::lengths(shape.q_len(), shape.kv_len()), 1)?
                    }
                    (Run::Cache(run), Keys::Cache { cache, queries }) => {
                        let (plan, bound) = &**run;
                        plan.timings(cache, bound, &[*queries], None, 1)?
                    }
                    (Run::Cache(..), Keys::Tensors { .. }) => continue,
                };
                let gpu = timings.median_gpu().filter(|_| !context.capabilities().is_software());
                times.push(gpu.unwrap_or(timings.median_wall()));
            }
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times.get(times.len() / 2).copied()
        };
        let lost = || Error::argument_error("rounds", "expected at least 1, got 0");
        runs.into_iter().map(|(_, times)| median(times).ok_or_else(lost)).collect()
    }
}

/// Bounds of the magnitudes from which tolerances follow: no number of the inputs is larger than 1, and what a cache makes of it not by more than a hundredth.
fn magnitudes(attention: &Attention, shape: &Shape) -> Result<Exact> {
    const MOST: f64 = 1.01;
    let products = MOST * f64::from(attention.scale(shape.head_dim()).abs()) * shape.head_dim() as f64;
    let mut exact = Exact {
        output: Vec::new(),
        lse: Vec::new(),
        max_score_magnitude: products,
        max_rotated_magnitude: 0.0,
        max_value: MOST,
    };
    if let Some(positions) = attention.positions() {
        // Both are monotonic in the distance.
        let lag = shape.q_len().max(shape.kv_len()) as u64;
        let slope = positions.slopes(shape.heads())?.into_iter().fold(0.0, f64::max);
        let factor = positions.factor(lag).abs().max(positions.factor(0).abs());
        exact.max_score_magnitude = factor * products + slope * positions.bias_at(lag).abs();
        // A rotation takes a number of size 1 to one of √2.
        exact.max_rotated_magnitude = if positions.rope().is_some() { 2.0 * factor * products } else { 0.0 };
    }
    Ok(exact)
}
