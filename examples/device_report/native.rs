//! What the native engine does on this machine's cores: how fast, and how exactly.

use std::time::Instant;

use anyhow::{Context as _, Result};
use prflash::cache::{HostCache, SequenceId, Staircase, StoredKeys};
use prflash::native::{
    HostNumbers, HostNumbersMut, HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan,
    NativeQueries, bf16, f16,
};
use prflash::reference::{self, Exact};
use prflash::verify::{Tolerances, compare};
use prflash::{Attention, DType, Layout, Queries, Shape, Tables};
use serde_json::{Value, json};
use testkit::example::Progress;
use testkit::statistics::median;

use crate::{Arguments, Case, numbers};

/// All that is told of the engine.
pub struct Native {
    instructions: String,
    threads: usize,
    speeds: Vec<Speed>,
    checks: Vec<Check>,
}

/// A measured call.
struct Speed {
    case: Case,
    seconds: f64,
}

/// A small problem against the oracle.
struct Check {
    name: String,
    max_abs_error: f64,
    passed: bool,
}

/// Numbers as they are stored.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Stored {
    fn new(dtype: DType, numbers: &[f32]) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => Self::F32(numbers.to_vec()),
            DType::F16 => Self::F16(numbers.iter().copied().map(f16::from_f32).collect()),
            DType::Bf16 => Self::Bf16(numbers.iter().copied().map(bf16::from_f32).collect()),
            other => anyhow::bail!("no numbers of the host are stored in {other}"),
        })
    }

    fn numbers(&self) -> HostNumbers<'_> {
        match self {
            Self::F32(numbers) => numbers[..].into(),
            Self::F16(numbers) => numbers[..].into(),
            Self::Bf16(numbers) => numbers[..].into(),
        }
    }
}

/// Tensors of a problem, heads-first, and the place of their result.
struct Tensors {
    layouts: [Layout; 2],
    stored: [Stored; 3],
    output: Vec<f32>,
}

impl Tensors {
    fn new(dtype: DType, shape: &Shape, [q, k, v]: [&[f32]; 3]) -> Result<Self> {
        let layout = |heads, len| Layout::heads_first(1, heads, len, shape.head_dim());
        let layouts = [layout(shape.heads(), shape.q_len())?, layout(shape.kv_heads(), shape.kv_len())?];
        let stored = [Stored::new(dtype, q)?, Stored::new(dtype, k)?, Stored::new(dtype, v)?];
        Ok(Self { layouts, stored, output: vec![0.0; layouts[0].elements()] })
    }

    fn run(&mut self, plan: &NativePlan) -> Result<()> {
        let [queries, keys] = self.layouts;
        let [q, k, v] = &self.stored;
        let mut operands = NativeOperands {
            q: HostView::new(q.numbers(), queries)?,
            k: HostView::new(k.numbers(), keys)?,
            v: HostView::new(v.numbers(), keys)?,
            output: HostViewMut::new(HostNumbersMut::F32(&mut self.output), queries)?,
            lse: None,
        };
        Ok(plan.run(&mut operands, &Tables::new())?)
    }
}

/// A cache with a sequence, and the queries of its last tokens.
struct Cached {
    cache: HostCache,
    sequence: SequenceId,
    layout: Layout,
    q: Vec<f32>,
    output: Vec<f32>,
}

impl Cached {
    fn new(staircase: Staircase, shape: &Shape, [q, k, v]: [&[f32]; 3]) -> Result<Self> {
        let mut cache = HostCache::new(staircase, shape, StoredKeys::AfterRotation)?;
        let sequence = cache.add();
        cache.append(sequence, k, v)?;
        let layout = Layout::heads_first(1, shape.heads(), shape.q_len(), shape.head_dim())?;
        Ok(Self { cache, sequence, layout, q: q.to_vec(), output: vec![0.0; layout.elements()] })
    }

    fn run(&mut self, plan: &NativePlan) -> Result<()> {
        let mut operands = NativeQueries {
            q: HostView::new(&self.q[..], self.layout)?,
            output: HostViewMut::new(&mut self.output[..], self.layout)?,
            lse: None,
        };
        let [_, _, rows, _] = self.layout.dims();
        let queries = [Queries { sequence: self.sequence, entry: 0, rows: 0..rows, positions: None }];
        Ok(plan.run_cached(&self.cache, &mut operands, &queries, &Tables::new())?)
    }
}

/// The numbers of a problem's tensors.
fn inputs(shape: &Shape, scale: f32, dtype: DType) -> [Vec<f32>; 3] {
    let rows = [
        (shape.heads(), shape.q_len()),
        (shape.kv_heads(), shape.kv_len()),
        (shape.kv_heads(), shape.kv_len()),
    ];
    let mut seed = 0;
    rows.map(|(heads, len)| {
        seed += 1;
        let values = numbers(heads * len * shape.head_dim(), seed);
        values.into_iter().map(|x| dtype.round(scale * x)).collect()
    })
}

/// The median of the seconds of a call, after one to warm up.
fn seconds(rounds: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let started = Instant::now();
        call()?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok(median(&times))
}

impl Native {
    /// Checks and times the engine.
    pub fn measure(arguments: &Arguments, progress: &mut Progress) -> Result<Self> {
        let rounds = arguments.rounds.into();
        let mut speeds = Vec::new();
        for (name, shape) in crate::shapes(arguments)? {
            for dtype in [DType::F32, DType::F16] {
                progress.tell(format!("The native engine: timing {name} in {dtype} …"));
                let [q, k, v] = inputs(&shape, 1.0, dtype);
                let mut tensors = Tensors::new(dtype, &shape, [&q, &k, &v])?;
                let attention = Attention::causal().with_storage(dtype);
                let plan = attention.plan_native(&shape, &NativeOptions::new())?;
                let seconds = seconds(rounds, || tensors.run(&plan))?;
                speeds.push(Speed { case: Case::of_tensors(name, &shape, dtype), seconds });
            }
        }
        let (_, shape) = crate::shapes(arguments)?[2];
        progress.tell("The native engine: timing S4 from the recommended cache …");
        let [q, k, v] = inputs(&shape, 1.0, DType::F32);
        let mut cached = Cached::new(Staircase::recommended(), &shape, [&q, &k, &v])?;
        let plan = Attention::causal().plan_native(&shape, &NativeOptions::new())?;
        let seconds = seconds(rounds, || cached.run(&plan))?;
        speeds.push(Speed { case: Case::of_cache(&shape, cached.cache.live_bytes()), seconds });
        progress.tell("The native engine against the oracle …");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { instructions: plan.instructions(), threads, speeds, checks: checks()? })
    }

    /// The names of problems past the tolerance.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = self.checks.iter().filter(|check| !check.passed);
        wrong.map(|check| format!("the native engine: {}", check.name)).collect()
    }

    /// For the report's object.
    pub fn json(&self) -> Value {
        let speed = |speed: &Speed| {
            json!({
                "case": speed.case.name,
                "wall_seconds": speed.seconds,
                "gflops": speed.case.flops / speed.seconds / 1e9,
                "gb_per_s": speed.case.bytes / speed.seconds / 1e9,
            })
        };
        let check = |check: &Check| json!({ "case": check.name, "max_abs_error": check.max_abs_error, "passed": check.passed });
        json!({
            "instructions": self.instructions,
            "threads": self.threads,
            "speeds": self.speeds.iter().map(speed).collect::<Vec<_>>(),
            "parity": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }

    /// As text.
    pub fn print(&self, rounds: usize) {
        println!(
            "\nThe native engine on CPU cores: instructions {}, {} threads; medians of {rounds}.\n",
            self.instructions, self.threads
        );
        println!("| call | ms | GFLOP/s | GB/s |\n| --- | ---: | ---: | ---: |");
        for Speed { case, seconds } in &self.speeds {
            println!(
                "| {} | {:.2} | {:.1} | {:.1} |",
                case.name,
                seconds * 1e3,
                case.flops / seconds / 1e9,
                case.bytes / seconds / 1e9
            );
        }
        println!("\n| against the f64 oracle | right | max error |\n| --- | --- | ---: |");
        for check in &self.checks {
            let verdict = if check.passed { "yes" } else { "WRONG" };
            println!("| {} | {verdict} | {:.1e} |", check.name, check.max_abs_error);
        }
    }
}

/// Small problems in every type, with many queries and with few, and over packed words.
fn checks() -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for dim in [64, 80, 128] {
        for (dtype, queries) in DType::ALL.iter().flat_map(|dtype| [(*dtype, 150), (*dtype, 3)]) {
            let shape = Shape::new(4, 2, queries, dim)?.with_kv_len(300)?;
            let [q, k, v] = inputs(&shape, 2.0, dtype);
            let attention = Attention::causal().with_storage(dtype);
            let mut tensors = Tensors::new(dtype, &shape, [&q, &k, &v])?;
            tensors.run(&attention.plan_native(&shape, &NativeOptions::new())?)?;
            let exact = reference::attention(&attention, &shape, &q, &k, &v, &Tables::new())?;
            let name = format!("{queries} queries on 300 keys, D = {dim}, {dtype}");
            checks.push(Check::new(name, &tensors.output, &exact, &shape)?);
        }
    }
    for (name, staircase) in [
        ("recommended", Staircase::recommended()),
        ("plain", Staircase::plain()),
        ("kivi-2", Staircase::kivi(2)?),
    ] {
        let shape = Shape::new(4, 2, 3, 64)?.with_kv_len(1500)?;
        let [q, k, v] = inputs(&shape, 2.0, DType::F32);
        let attention = Attention::causal();
        let mut cached = Cached::new(staircase, &shape, [&q, &k, &v])?;
        cached.run(&attention.plan_native(&shape, &NativeOptions::new())?)?;
        let tables = Tables::new();
        let exact =
            reference::attention_cached(&attention, &shape, &q, &cached.cache, cached.sequence, &tables)?;
        checks.push(Check::new(format!("3 queries on the {name} cache"), &cached.output, &exact, &shape)?);
    }
    Ok(checks)
}

impl Check {
    fn new(name: String, output: &[f32], exact: &Exact, shape: &Shape) -> Result<Self> {
        let tolerance = Tolerances::of_native_output(exact, shape, DType::F32);
        let report = compare(output, &exact.output, tolerance).with_context(|| name.clone())?;
        Ok(Self { name, max_abs_error: report.max_abs_error, passed: report.passed() })
    }
}
