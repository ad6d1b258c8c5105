//! Kernels against the oracles: numbers within tolerances that follow from the arithmetic, lists
//! and words bit for bit.

use prflash::attention::{GpuSampler, GpuSummaries, SummarizedKeys};
use prflash::cache::{Chunk, HostCache, KvCache, Staircase, StoredKeys};
use prflash::kernels::{Decode, Kernel, Tile};
use prflash::position::Pairing;
use prflash::rotation::Rows;
use prflash::rounds::Combine;
use prflash::sampling::content::{Estimate, Participation, Probe};
use prflash::sampling::{Reshaping, partition_rounds};
use prflash::verify::{Report, Tolerances, compare};
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Operands, Output, PlanOptions, Positions, Profile,
    Queries, Result, Rope, Schedule, Seed, Shape, Systematic, Tables, Tensor, reference, wgpu,
};
use serde_json::{Value, json};

/// What a check found.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it is right; nothing where the device can't run it.
    pub passed: Option<bool>,
    /// The most of its tolerance that any number took, 1 at most where it passed; 0 for bits.
    pub used: f64,
    /// The largest absolute error; 0 for bits.
    pub max_abs_error: f64,
    /// How it was compared, or why it can't run.
    pub detail: String,
}

impl Check {
    pub(super) fn json(&self) -> Value {
        let Self { name, passed, used, max_abs_error, detail } = self;
        json!({ "name": name, "passed": passed, "used": used, "max_abs_error": max_abs_error, "detail": detail })
    }

    fn of(report: &Report) -> Self {
        Self {
            name: String::new(),
            passed: Some(report.passed()),
            used: report.used,
            max_abs_error: report.max_abs_error,
            detail: format!("{} numbers beside the f64 oracle", report.compared),
        }
    }

    /// The worse of both.
    fn and(self, other: Self) -> Self {
        Self {
            passed: Some(self.passed != Some(false) && other.passed != Some(false)),
            used: self.used.max(other.used),
            max_abs_error: self.max_abs_error.max(other.max_abs_error),
            ..self
        }
    }

    fn bits(equal: bool, detail: &str) -> Self {
        Self {
            name: String::new(),
            passed: Some(equal),
            used: 0.0,
            max_abs_error: 0.0,
            detail: detail.to_owned(),
        }
    }
}

/// Kernels that plans choose by themselves on some device, then everything else that runs on one.
const NAMES: [&str; COUNT] = [
    "naive",
    "tile of 4 rows, 4 keys, staged",
    "tile of 2 rows, 4 keys, staged",
    "tile of 1 row, 4 keys, staged",
    "tile of 1 row, 4 keys",
    "tile of 1 row, 2 keys",
    "tile of 1 row, 1 key",
    "tile with shared rows",
    "tile with shared rows, staged",
    "decode, 1 set of rows",
    "decode, 4 sets of rows",
    "decode by subgroup quads",
    "f16 storage",
    "bf16 storage",
    "drawn blocks with a correction",
    "rotation, bias and a window",
    "schedules drawn on the device",
    "blocks chosen by content",
    "rounds merged",
    "re-shaped tensors",
    "rotation in place",
    "staircase cache",
    "staircase cache, rotated codes",
    "attention over a cache",
    "gradients",
];
pub(super) const COUNT: usize = 25;

pub(super) fn name(number: usize) -> &'static str {
    NAMES[number]
}

/// A check by its number.
pub(super) async fn run(context: &Context, number: usize) -> Result<Check> {
    let tile = |rows, keys, staged| Tile::new(rows, keys, staged).map(Kernel::Tiled);
    let shared = |staged| Tile::new(1, 4, staged)?.with_slices(2).map(Kernel::Tiled);
    let decode = |sets, quads| Decode::new(sets, quads).map(Kernel::Decode);
    let found = match number {
        0 => kernel(context, Kernel::Naive).await,
        1 => kernel(context, tile(4, 4, true)?).await,
        2 => kernel(context, tile(2, 4, true)?).await,
        3 => kernel(context, tile(1, 4, true)?).await,
        4 => kernel(context, tile(1, 4, false)?).await,
        5 => kernel(context, tile(1, 2, false)?).await,
        6 => kernel(context, tile(1, 1, false)?).await,
        7 => kernel(context, shared(false)?).await,
        8 => kernel(context, shared(true)?).await,
        9 => kernel(context, decode(1, false)?).await,
        10 => kernel(context, decode(4, false)?).await,
        11 => kernel(context, decode(1, true)?).await,
        12 => stored(context, DType::F16).await,
        13 => stored(context, DType::Bf16).await,
        14 => drawn(context).await,
        15 => positioned(context).await,
        16 => sampler(context).await,
        17 => content(context).await,
        18 => rounds(context).await,
        19 => reshaped(context).await,
        20 => rotated(context).await,
        21 => cache(context, Staircase::recommended()).await,
        22 => cache(context, Staircase::recommended_rotated()).await,
        23 => cached(context).await,
        _ => gradients(context).await,
    };
    let name = NAMES[number].to_owned();
    match found {
        Ok(check) => Ok(Check { name, ..check }),
        Err(error) if error.is_unsupported() => {
            Ok(Check { name, passed: None, used: 0.0, max_abs_error: 0.0, detail: error.to_string() })
        }
        Err(error) if error.is_validation() => {
            Ok(Check { name, passed: Some(false), used: 0.0, max_abs_error: 0.0, detail: error.to_string() })
        }
        Err(error) => Err(error),
    }
}

/// Numbers in [−1, 1) without a pattern that matters.
pub(super) fn numbers(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + seed) * 7919) % 997) as f32 / 498.5 - 1.0).collect()
}

/// An attention with inputs on the host and on the device.
struct Problem {
    attention: Attention,
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    tensors: [Tensor; 3],
}

impl Problem {
    fn new(context: &Context, attention: Attention, shape: Shape) -> Result<Self> {
        let dtype = attention.storage();
        let side = |heads, len, seed| {
            let layout = Layout::heads_first(shape.batch(), heads, len, shape.head_dim())?;
            let values = numbers(seed, layout.elements());
            let values: Vec<f32> = values.into_iter().map(|x| dtype.round(2.0 * x)).collect();
            let tensor = Tensor::upload(context, dtype, layout, &values)?;
            Ok::<_, prflash::Error>((values, tensor))
        };
        let (q, q_tensor) = side(shape.heads(), shape.q_len(), 1)?;
        let (k, k_tensor) = side(shape.kv_heads(), shape.kv_len(), 2)?;
        let (v, v_tensor) = side(shape.kv_heads(), shape.kv_len(), 3)?;
        Ok(Self { attention, shape, q, k, v, tensors: [q_tensor, k_tensor, v_tensor] })
    }

    /// 4 query heads on 2 key/value heads of 32 channels.
    fn small(context: &Context, attention: Attention) -> Result<Self> {
        Self::new(context, attention, Shape::new(4, 2, 150, 32)?)
    }

    fn exact(&self, tables: &Tables<'_>) -> Result<reference::Exact> {
        reference::attention(&self.attention, &self.shape, &self.q, &self.k, &self.v, tables)
    }

    fn plan(&self, context: &Context) -> Result<prflash::Plan> {
        self.attention.plan(context, &self.shape)
    }

    fn run(&self, plan: &prflash::Plan, tables: &Tables<'_>) -> Result<Output> {
        let [q, k, v] = &self.tensors;
        plan.run(q.view(), k.view(), v.view(), tables)
    }

    /// The output of a plan beside the oracle's.
    async fn check(&self, context: &Context, plan: &prflash::Plan, tables: &Tables<'_>) -> Result<Check> {
        let got = self.run(plan, tables)?.output.read(context).await?;
        let exact = self.exact(tables)?;
        let within =
            Tolerances::of_kernel_output(plan.kernel(), &exact, &self.shape, self.attention.output());
        Ok(Check::of(&compare(&got, &exact.output, within)?))
    }
}

async fn kernel(context: &Context, kernel: Kernel) -> Result<Check> {
    let few = matches!(kernel, Kernel::Decode(_));
    let shape = Shape::new(4, 2, if few { 3 } else { 150 }, 32)?.with_kv_len(300)?;
    let problem = Problem::new(context, Attention::causal(), shape)?;
    let plan = problem.attention.plan_with(context, &shape, &PlanOptions::new().with_kernel(kernel))?;
    problem.check(context, &plan, &Tables::new()).await
}

async fn stored(context: &Context, dtype: DType) -> Result<Check> {
    let problem = Problem::small(context, Attention::causal().with_storage(dtype))?;
    problem.check(context, &problem.plan(context)?, &Tables::new()).await
}

async fn drawn(context: &Context) -> Result<Check> {
    let problem = Problem::small(context, Attention::causal().with_correction(0.5)?)?;
    let grid = BlockGrid::causal(&problem.shape).with_block_size(16)?;
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(42))?;
    problem.check(context, &problem.plan(context)?, &Tables::from(&schedule)).await
}

async fn positioned(context: &Context) -> Result<Check> {
    let positions = Positions::doubly_harmonic(Rope::new(32, 1e4, Pairing::Half)?);
    let problem = Problem::small(context, Attention::causal().with_positions(positions).with_window(90)?)?;
    problem.check(context, &problem.plan(context)?, &Tables::new()).await
}

async fn sampler(context: &Context) -> Result<Check> {
    let grid = BlockGrid::causal(&Shape::new(4, 2, 1000, 32)?).with_block_size(16)?;
    let (profile, seed) = (Profile::harmonic(), Seed::new(42));
    let mut sampler = GpuSampler::new(context, &grid, 1, &profile, &Systematic)?;
    submit(context, |encoder| sampler.encode(encoder, &[(grid, seed)]).map(|_| ()))?;
    let want = Schedule::sample(&grid, &profile, &Systematic, seed)?;
    Ok(Check::bits(sampler.read().await? == [want], "the lists of the host, bit for bit"))
}

async fn content(context: &Context) -> Result<Check> {
    let problem = Problem::small(context, Attention::causal())?;
    let grid = BlockGrid::causal(&problem.shape).with_block_size(16)?;
    let participation = Participation::content(4)?;
    let plan = problem.plan(context)?;
    let (estimate, probe) = (Estimate::Saturated, Probe::causal(2)?);
    let selector = plan.selector(&grid, &participation, estimate, probe)?;
    let [q, k, v] = &problem.tensors;
    let mut summaries = GpuSummaries::new(context, &problem.attention, k.view(), 8, 1)?;
    let output = Tensor::zeros(context, DType::F32, Layout::heads_first(1, 4, 150, 32)?)?;
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let bound = plan.bind(&operands)?;
    let keys = SummarizedKeys { keys: 0..150, ..SummarizedKeys::default() };
    let call = Call::lengths(150, 150);
    submit(context, |encoder| {
        summaries.encode(encoder, &[keys])?;
        plan.encode(encoder, &bound, &call.with_selection(selector.over(&summaries)))
    })?;
    let (got, scores) = (selector.read().await?, selector.read_scores().await?);
    let want = Schedule::select(&grid, &participation, &scores[0], Seed::new(0))?;
    let lists = Check::bits(got.len() == 1 && got[0] == want, "");
    let exact = problem.exact(&Tables::from(&want))?;
    let within = Tolerances::of_kernel_output(plan.kernel(), &exact, &problem.shape, DType::F32);
    let numbers = Check::of(&compare(&output.read(context).await?, &exact.output, within)?);
    Ok(Check {
        detail: "lists bit for bit, attention over them beside the oracle".to_owned(),
        ..numbers.and(lists)
    })
}

async fn rounds(context: &Context) -> Result<Check> {
    let problem = Problem::small(context, Attention::causal())?;
    let grid = BlockGrid::causal(&problem.shape).with_block_size(16)?;
    let plan = problem.plan(context)?.rounds(Combine::Partition)?;
    let [q, k, v] = &problem.tensors;
    let mut merged = plan.start(q.view(), k.view(), v.view())?;
    let mut got = Vec::new();
    for schedule in partition_rounds(&grid, &Profile::harmonic(), Seed::new(42), 3)? {
        got = merged.step(&Tables::from(&schedule))?.output.read(context).await?;
    }
    let exact = problem.exact(&Tables::new())?;
    let within = Tolerances::of_output(&exact, &problem.shape, DType::F32).times(3.0);
    Ok(Check::of(&compare(&got, &exact.output, within)?))
}

async fn reshaped(context: &Context) -> Result<Check> {
    let problem = Problem::small(context, Attention::causal())?;
    let grid = BlockGrid::causal(&problem.shape).with_block_size(16)?;
    let plan = problem.plan(context)?.reshaped(&grid)?;
    let reshaping = Reshaping::segments(&grid, &Profile::harmonic(), Seed::new(42))?;
    let [q, k, v] = &problem.tensors;
    let got = plan.run(q.view(), k.view(), v.view(), std::slice::from_ref(&reshaping))?;
    let exact = problem.exact(&Tables::from(&reshaping.schedule()?))?;
    let within = Tolerances::of_output(&exact, &problem.shape, DType::F32).times(2.0);
    Ok(Check::of(&compare(&got.output.read(context).await?, &exact.output, within)?))
}

async fn rotated(context: &Context) -> Result<Check> {
    let rope = Rope::new(32, 1e4, Pairing::Half)?;
    let layout = Layout::heads_first(1, 2, 100, 32)?;
    let mut want = numbers(1, layout.elements());
    let tensor = Tensor::upload(context, DType::F32, layout, &want)?;
    let plan = rope.plan_rotation(context, DType::F32, 100)?;
    let bound = plan.bind(tensor.view())?;
    submit(context, |encoder| plan.encode(encoder, &bound, &[Rows::new(0, 0..100)]))?;
    for head in want.chunks_exact_mut(100 * 32) {
        rope.rotate(head, 0)?;
    }
    let got = tensor.read(context).await?;
    let error = got.iter().zip(&want).map(|(got, want)| f64::from((got - want).abs())).fold(0.0, f64::max);
    // The host's turn is rounded, too: seven units of the last place each, of pairs up to √2.
    let most = 2.0 * 7.0 * DType::F32.unit_roundoff() * std::f64::consts::SQRT_2;
    let finite = got.iter().all(|x| x.is_finite());
    Ok(Check {
        passed: Some(finite && error <= most),
        used: error / most,
        max_abs_error: error,
        ..Check::bits(true, "beside the host's rotation")
    })
}

/// Keys and values of 300 tokens, on the host and on the device.
async fn filled(
    context: &Context,
    staircase: Staircase,
) -> Result<(HostCache, KvCache, prflash::cache::SequenceId, prflash::cache::SequenceId)> {
    let shape = Shape::new(2, 2, 0, 32)?.with_kv_len(400)?;
    let keys = StoredKeys::AfterRotation;
    let (mut host, mut cache) =
        (HostCache::new(staircase.clone(), &shape, keys)?, KvCache::new(context, staircase, &shape, keys)?);
    cache.prepare(DType::F32, |_| {}).await?;
    let (of_host, sequence) = (host.add(), cache.add());
    for (part, rows) in [200, 100].into_iter().enumerate() {
        let layout = Layout::heads_first(1, 2, rows, 32)?;
        let [k, v] = [4, 5].map(|seed| numbers(10 * part + seed, layout.elements()));
        host.append(of_host, &k, &v)?;
        let upload = |values: &[f32]| Tensor::upload(context, DType::F32, layout, values);
        let (k, v) = (upload(&k)?, upload(&v)?);
        let input = cache.input(k.view(), v.view())?;
        submit(context, |encoder| {
            cache.append(encoder, &input, &[Chunk { sequence, entry: 0, rows: 0..rows }])
        })?;
    }
    Ok((host, cache, of_host, sequence))
}

async fn cache(context: &Context, staircase: Staircase) -> Result<Check> {
    let (host, mut cache, of_host, sequence) = filled(context, staircase).await?;
    let mut copy = None;
    submit(context, |encoder| {
        copy = Some(cache.fork(encoder, sequence, 300)?);
        Ok(())
    })?;
    cache.check().await?;
    let want = host.save(of_host)?;
    let mut equal = cache.save(sequence).await? == want;
    if let Some(copy) = copy {
        equal &= cache.save(copy).await? == want;
    }
    Ok(Check::bits(equal, "the words of the host's cache, of a sequence and of its copy"))
}

async fn cached(context: &Context) -> Result<Check> {
    let (host, cache, of_host, sequence) = filled(context, Staircase::recommended()).await?;
    let attention = Attention::causal();
    let mut worst: Option<Check> = None;
    // A step of decoding, and a prompt's end.
    for rows in [1, 20] {
        let shape = Shape::new(4, 2, rows, 32)?.with_kv_len(300)?;
        let plan = attention.plan_cached(&cache, &shape)?;
        plan.prepare(|_| {}).await?;
        let layout = Layout::heads_first(1, 4, rows, 32)?;
        let q = numbers(6, layout.elements());
        let tensor = Tensor::upload(context, DType::F32, layout, &q)?;
        let queries = [Queries { sequence, entry: 0, rows: 0..rows, positions: None }];
        let got =
            plan.run_cached(&cache, tensor.view(), &queries, &Tables::new())?.output.read(context).await?;
        let exact = reference::attention_cached(&attention, &shape, &q, &host, of_host, &Tables::new())?;
        let within = Tolerances::of_kernel_output(plan.kernel(), &exact, &shape, DType::F32);
        let found = Check::of(&compare(&got, &exact.output, within)?);
        worst = Some(match worst {
            Some(worst) => worst.and(found),
            None => found,
        });
    }
    Ok(worst.unwrap_or_else(|| Check::bits(false, "nothing was compared")))
}

async fn gradients(context: &Context) -> Result<Check> {
    let problem = Problem::new(context, Attention::causal().with_lse(true), Shape::new(4, 2, 70, 32)?)?;
    let (attention, shape) = (&problem.attention, &problem.shape);
    let forward = problem.run(&problem.plan(context)?, &Tables::new())?;
    let plan = attention.plan_backward(context, shape)?;
    plan.prepare(|_| {}).await?;
    let layout = Layout::heads_first(1, 4, 70, 32)?;
    let d_output = numbers(9, layout.elements());
    let d_tensor = Tensor::upload(context, DType::F32, layout, &d_output)?;
    let [q, k, v] = problem.tensors.each_ref().map(Tensor::view);
    let got = plan.run([q, k, v], &forward, d_tensor.view(), None, &Tables::new())?;
    let inputs = [&problem.q[..], &problem.k[..], &problem.v[..]];
    let exact = reference::attention_backward(attention, shape, inputs, &d_output, None, &Tables::new())?;
    let mut worst: Option<Check> = None;
    for (got, want, terms) in [
        (&got.dq, &exact.dq, &exact.dq_terms),
        (&got.dk, &exact.dk, &exact.dk_terms),
        (&got.dv, &exact.dv, &exact.dv_terms),
    ] {
        let within = Tolerances::of_gradient(terms, shape, DType::F32, DType::F32);
        let found = Check::of(&compare(&got.read(context).await?, want, within)?);
        worst = Some(match worst {
            Some(worst) => worst.and(found),
            None => found,
        });
    }
    Ok(worst.unwrap_or_else(|| Check::bits(false, "nothing was compared")))
}

fn submit(context: &Context, record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>) -> Result<()> {
    let mut encoder = context.device().create_command_encoder(&Default::default());
    record(&mut encoder)?;
    context.queue().submit([encoder.finish()]);
    Ok(())
}
