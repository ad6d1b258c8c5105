//! Kernels tried out on a device: do they compute there what the portable one does, and how fast?

use std::time::Duration;

use super::bound::{Bound, Operands};
use super::call::{Call, Queries};
use super::inputs::attention::Attention;
use super::inputs::tables::Tables;
use super::plan::Plan;
use super::plan_options::PlanOptions;
use super::prepared::Prepared;
use super::wanted::Wanted;
#[cfg(not(target_arch = "wasm32"))]
use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::{Kernel, Tile};
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::{Chunk, KvCache};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::reference::{Exact, Magnitudes};
use crate::runtime::context::Context;
use crate::runtime::tensor::Tensor;
use crate::runtime::timing::median;
use crate::shape::Shape;
use crate::verify::{Tolerances, compare};

/// What is wrong with a kernel on this device, if anything, for the storage and the dimensions of a
/// task: found out the first time.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn wrong_once(context: &Context, kernel: Kernel, task: &Task) -> Option<String> {
    let what = format!("{kernel}_{}_d{}_v{}", task.storage, task.head_dim, task.value_dim);
    context.trial(what, || pollster::block_on(find_wrong(context, kernel, task)))
}

/// The kernel is compared with the portable one on a few small causal problems, of lengths that end
/// inside tiles and steps.
#[cfg(not(target_arch = "wasm32"))]
async fn find_wrong(context: &Context, kernel: Kernel, task: &Task) -> Option<String> {
    let attention = Attention::causal().with_storage(task.storage);
    let agrees = async |(q_len, kv_len)| {
        let shape = Shape::new(4, 2, q_len, task.head_dim)?.with_value_dim(task.value_dim)?;
        let shape = shape.with_kv_len(kv_len)?;
        Trial::new(context, &attention, &PlanOptions::new(), &shape, None).await?.agrees(kernel).await
    };
    for lens in [(65, 65), (70, 333), (130, 77), (9, 40)] {
        let what = match agrees(lens).await {
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
    attention: Attention,
    options: PlanOptions,
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

impl Trial {
    /// Over tensors, or over a cache of the same kind as `like` with tokens of its own.
    pub(super) async fn new(
        context: &Context,
        attention: &Attention,
        options: &PlanOptions,
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
                cache.append(
                    &mut encoder,
                    &input,
                    &[Chunk { sequence, entry: 0, rows: 0..shape.kv_len() }],
                )?;
                context.submit([encoder.finish()])?;
                let queries = Queries { sequence, entry: 0, rows: 0..shape.q_len(), positions: None };
                let tile = Tile::new(1, CacheVariant::KEYS, true)?;
                (Keys::Cache { cache: Box::new(cache), queries }, Kernel::Tiled(tile))
            }
        };
        let mut trial = Self {
            exact: magnitudes(attention, &shape)?,
            context: context.clone(),
            attention: attention.clone().with_lse(false),
            options: options.clone(),
            shape,
            q,
            keys,
            portable,
            want: Vec::new(),
        };
        trial.want = trial.result(portable).await?.into_iter().map(f64::from).collect();
        Ok(trial)
    }

    /// What a plan for it is to be.
    pub(super) fn wanted(&self) -> Result<Wanted<'_>> {
        let Self { context, attention, options, shape, keys, .. } = self;
        match keys {
            Keys::Tensors { .. } => Ok(Wanted::new(context, attention, options, shape)),
            Keys::Cache { cache, .. } => Wanted::over(cache, attention, options, shape),
        }
    }

    /// A plan by this kernel.
    fn plan(&self, kernel: Kernel) -> Result<Plan> {
        Prepared::new(&self.wanted()?, kernel, "on trial".to_owned()).map(Plan::of)
    }

    /// Whether a kernel computes what the portable one does.
    pub(super) async fn agrees(&self, kernel: Kernel) -> Result<bool> {
        let got = self.result(kernel).await?;
        let output = self.attention.output();
        let of = |kernel| Tolerances::of_kernel_output(kernel, &self.exact, &self.shape, output);
        // Either may deviate by its own.
        let both = of(kernel).plus(&of(self.portable))?;
        Ok(compare(&got, &self.want, both)?.passed())
    }

    async fn result(&self, kernel: Kernel) -> Result<Vec<f32>> {
        let plan = self.plan(kernel)?;
        let got = match &self.keys {
            Keys::Tensors { k, v } => plan.run(self.q.view(), k.view(), v.view(), &Tables::new())?,
            Keys::Cache { cache, queries } => {
                plan.run_cached(cache, self.q.view(), std::slice::from_ref(queries), &Tables::new())?
            }
        };
        got.output.read(&self.context).await
    }

    /// Median times of these kernels, in turn.
    pub(super) async fn times(&self, kernels: &[Kernel], rounds: usize) -> Result<Vec<Duration>> {
        let Self { context, attention, shape, .. } = self;
        let output = Layout::heads_first(shape.batch(), shape.heads(), shape.q_len(), shape.value_dim())?;
        let output = Tensor::zeros(context, attention.output(), output)?;
        let mut runs = Vec::new();
        for &kernel in kernels {
            let plan = self.plan(kernel)?;
            runs.push((self.bind(&plan, &output)?, plan, Vec::new()));
        }
        for _ in 0..rounds {
            for (bound, plan, times) in &mut runs {
                let timings = match &self.keys {
                    Keys::Tensors { .. } => {
                        plan.timings_async(bound, &Call::lengths(shape.q_len(), shape.kv_len()), 1).await?
                    }
                    Keys::Cache { cache, queries } => {
                        plan.timings_async(bound, &Call::cached(cache, std::slice::from_ref(queries)), 1)
                            .await?
                    }
                };
                let gpu = timings.median_gpu().filter(|_| !context.capabilities().is_software());
                times.push(gpu.unwrap_or(timings.median_wall()));
            }
        }
        let lost = || Error::argument_error("rounds", "expected at least 1, got 0");
        runs.into_iter().map(|(.., times)| median(&times).ok_or_else(lost)).collect()
    }

    fn bind(&self, plan: &Plan, output: &Tensor) -> Result<Bound> {
        let (q, output) = (self.q.view(), output.view());
        match &self.keys {
            Keys::Tensors { k, v } => plan.bind(&Operands { q, k: k.view(), v: v.view(), output, lse: None }),
            Keys::Cache { .. } => plan.bind_queries(q, output, None),
        }
    }
}

/// Bounds of the magnitudes from which tolerances follow: no number of the inputs is larger than 1,
/// and what a cache makes of it not by more than a hundredth.
fn magnitudes(attention: &Attention, shape: &Shape) -> Result<Exact> {
    const MOST: f64 = 1.01;
    let products = MOST * f64::from(attention.scale(shape.head_dim()).abs()) * shape.head_dim() as f64;
    let mut row = Magnitudes { score: products, rotated: 0.0, value: MOST, keys: shape.kv_len() };
    if let Some(positions) = attention.positions() {
        // Both are monotonic in the distance.
        let lag = shape.q_len().max(shape.kv_len()) as u64;
        let slope = positions.slopes(shape.heads())?.into_iter().fold(0.0, f64::max);
        let factor = positions.factor(lag).abs().max(positions.factor(0).abs());
        row.score = factor * products + slope * positions.bias_at(lag).abs();
        // A rotation takes a number of size 1 to one of √2.
        row.rotated = if positions.rope().is_some() { 2.0 * factor * products } else { 0.0 };
    }
    let sink = attention.sinks().unwrap_or_default().iter().fold(0.0, |most: f32, sink| most.max(sink.abs()));
    row.score = row.score.max(sink.into());
    // One for all rows.
    Ok(Exact { output: Vec::new(), lse: Vec::new(), rows: vec![row] })
}
