//! The first thing to run: exact causal attention and PrFlashAttention over the queries, keys and
//! values of a real language model, on your GPU, checked against an exact reference, with the cost
//! and the error of skipping printed and drawn.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::reference::{self, BlockMass, Exact};
use prflash::sampling::{sink_window_like, uniform_like};
use prflash::verify::{Tolerances, compare};
use prflash::{
    BlockGrid, Bound, Call, Context, ContextOptions, DType, Layout, Operands, Plan, Profile, Schedule, Seed,
    Systematic, TableBuffer, Tables, Tensor,
};
use serde_json::{Value, json};
use testkit::chart::{Axis, Panel, Scale, Series, chart};
use testkit::fixture::{self, Layer};
use testkit::picture;
use testkit::statistics::median;

/// Causal attention and PrFlashAttention on real attention inputs.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Tokens of context, at most 3840. [default: 3840, and 768 without a GPU]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=3840))]
    tokens: Option<u16>,
    /// Only an adapter whose name contains this.
    #[arg(long)]
    adapter: Option<String>,
    /// How often each variant is timed, in turn with the others.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    repeats: u8,
    /// Seed of the schedules.
    #[arg(long, default_value_t = 2410)]
    seed: u64,
}

/// Strengths of the harmonic profile a/(a+d), from the paper's literal 1/(1+d) to milder ones.
const STRENGTHS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

fn main() -> Result<()> {
    env_logger::init();
    let arguments = Arguments::parse();
    let mut options = ContextOptions::new();
    if let Some(name) = &arguments.adapter {
        options = options.adapter_name(name);
    }
    let named = arguments.adapter.is_some() || std::env::var_os("WGPU_ADAPTER_NAME").is_some();
    let context = match Context::with_options_blocking(&options) {
        Ok(context) => Some(context),
        // A named adapter that isn't there is a mistake, not a machine without a GPU.
        Err(error) if error.is_no_adapter() && !named => {
            eprintln!("{error}");
            eprintln!("Running the f64 CPU reference at a smaller length instead.\n");
            None
        }
        Err(error) => return Err(error).context("opening the GPU"),
    };
    let tokens = arguments.tokens.map_or(if context.is_some() { 3840 } else { 768 }, usize::from);
    let layers = fixture::load(tokens)?;
    let say = |text: &str| {
        if !arguments.json {
            print!("{text}");
        }
    };
    let device = context.as_ref().map_or("the CPU reference (f64)".into(), |c| c.capabilities().to_string());
    say(&format!("Device   {device}\n"));
    say(&format!(
        "Inputs   SmolLM2-135M-Instruct reading Persuasion: {tokens} tokens, {} query heads on {} KV head, D = {}; rotated inside the kernel\n",
        layers[0].shape.heads(),
        layers[0].shape.kv_heads(),
        layers[0].shape.head_dim()
    ));

    // The exact results take a few seconds on the CPU; the layers are independent.
    eprint!("Computing the exact results on the CPU … ");
    let started = Instant::now();
    let truths = std::thread::scope(|scope| {
        let work: Vec<_> = layers.iter().map(|layer| scope.spawn(|| Truth::of(layer))).collect();
        work.into_iter()
            .map(|thread| thread.join().expect("the oracle doesn't panic"))
            .collect::<Result<Vec<_>>>()
    })?;
    eprintln!("{:.1} s", started.elapsed().as_secs_f64());

    let folder = picture::folder("quickstart")?;
    let (mut reports, mut panels) = (Vec::new(), Vec::new());
    for (layer, truth) in layers.iter().zip(&truths) {
        let engine = match &context {
            Some(context) => Engine::Gpu(Gpu::new(context, layer)?),
            None => Engine::Cpu(layer),
        };
        let report = report(&arguments, &engine, layer, truth)?;
        say(&report.text());
        panels.push(Panel { title: format!("layer {}", layer.index), series: report.curves() });
        reports.push(report.json());
    }
    let seed = Seed::new(arguments.seed).layer(layers[0].index);
    let drawn =
        Schedule::sample(&BlockGrid::causal(&layers[0].shape), &Profile::harmonic(), &Systematic, seed)?;
    let (schedule_svg, error_svg) = (folder.join("schedule.svg"), folder.join("error_vs_cost.svg"));
    picture::schedule(&schedule_svg, "PrFlashAttention, p(d) = 1/(1+d): kept blocks", &drawn)?;
    let axis = |title| Axis { title, scale: Scale::FromZero, ..Axis::default() };
    chart(&error_svg, [axis("blocks visited / dense"), axis("relative output error")], &panels)?;
    say(LEGEND);
    say(&format!("Pictures {}\n         {}\n", schedule_svg.display(), error_svg.display()));
    if arguments.json {
        let capabilities = context.as_ref().map(Context::capabilities);
        let object = json!({
            "adapter": capabilities.map(|c| &c.adapter),
            "driver": capabilities.map(|c| &c.driver),
            "tokens": tokens,
            "layers": reports,
            "pictures": [schedule_svg, error_svg],
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    }
    Ok(())
}

const LEGEND: &str = "
What the columns mean
  profile   p(d), the probability that a key block at block distance d is visited; the first block and the diagonal always are
  sampler   systematic: drawn from p(d). sink_window, uniform: the first and the nearest, or random blocks, as many per row
  β         importance correction: −β·ln p(d) is added to the scores of a visited block
  blocks    visited blocks of 64 × 64 tokens over those of dense causal attention
  time      time over that of dense attention on the same device: the median of runs taken in turn
  error     ‖o − o*‖ / ‖o*‖, with o* the exact dense output in f64
  recall    share of the exact attention mass that lies in visited blocks, mean over rows

";

/// What dense attention is, exactly.
struct Truth {
    exact: Exact,
    mass: BlockMass,
}

impl Truth {
    fn of(layer: &Layer) -> Result<Self> {
        let (attention, shape) = (layer.attention(), &layer.shape);
        Ok(Self {
            exact: reference::attention(
                &attention,
                shape,
                &layer.unrotated_q,
                &layer.unrotated_k,
                &layer.v,
                &Tables::new(),
            )?,
            mass: reference::block_mass(
                &attention,
                shape,
                &layer.unrotated_q,
                &layer.unrotated_k,
                &BlockGrid::causal(shape),
            )?,
        })
    }
}

/// What computes: a GPU, or the oracle where there is none.
enum Engine<'a> {
    Gpu(Gpu),
    Cpu(&'a Layer),
}

struct Gpu {
    context: Context,
    output: Tensor,
    /// One plan for each correction that is tried.
    plans: Vec<(f32, Plan, Bound)>,
    call: (usize, usize),
}

impl Gpu {
    fn new(context: &Context, layer: &Layer) -> Result<Self> {
        let shape = &layer.shape;
        let (len, dim) = (shape.q_len(), shape.head_dim());
        let upload = |heads, values: &[f32]| {
            Tensor::upload(context, DType::F32, Layout::heads_first(1, heads, len, dim)?, values)
        };
        let q = upload(shape.heads(), &layer.unrotated_q)?;
        let (k, v) = (upload(shape.kv_heads(), &layer.unrotated_k)?, upload(shape.kv_heads(), &layer.v)?);
        let output = Tensor::zeros(context, DType::F32, *q.view().layout())?;
        let mut plans = Vec::new();
        for beta in [0.0, 1.0] {
            let plan = layer.attention().with_correction(beta)?.plan(context, shape)?;
            let operands =
                Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
            let bound = plan.bind(&operands)?;
            plans.push((beta, plan, bound));
        }
        Ok(Self { context: context.clone(), output, plans, call: (len, len) })
    }

    fn plan(&self, beta: f32) -> Result<&(f32, Plan, Bound)> {
        self.plans.iter().find(|(b, ..)| *b == beta).context("no plan for this β")
    }
}

/// A variant made ready: its schedule, on the device.
struct Ready {
    beta: f32,
    schedule: Option<Schedule>,
    uploaded: Option<TableBuffer>,
}

impl Engine<'_> {
    fn ready(&self, beta: f32, schedule: Option<Schedule>) -> Result<Ready> {
        let uploaded = match (self, &schedule) {
            (Engine::Gpu(gpu), Some(schedule)) => {
                Some(TableBuffer::new(gpu.plan(beta)?.1.context(), &Tables::from(schedule))?)
            }
            _ => None,
        };
        Ok(Ready { beta, schedule, uploaded })
    }

    /// Computes once; seconds from submission to completion.
    fn run(&self, ready: &Ready) -> Result<f64> {
        let started = Instant::now();
        match self {
            Engine::Gpu(gpu) => {
                let (_, plan, bound) = gpu.plan(ready.beta)?;
                let mut call = Call::lengths(gpu.call.0, gpu.call.1);
                if let Some(schedule) = &ready.uploaded {
                    call = call.with_tables(schedule);
                }
                let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
                plan.encode(&mut encoder, bound, &call)?;
                gpu.context.queue().submit([encoder.finish()]);
                gpu.context.wait()?;
            }
            Engine::Cpu(_) => drop(self.output(ready)?),
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// The output of the last run (of a run now, on the CPU).
    fn output(&self, ready: &Ready) -> Result<Vec<f32>> {
        match self {
            Engine::Gpu(gpu) => Ok(gpu.output.read_blocking(&gpu.context)?),
            Engine::Cpu(layer) => {
                let attention = layer.attention().with_correction(ready.beta)?;
                let tables = ready.schedule.as_ref().map_or(Tables::new(), Tables::from);
                let exact = reference::attention(
                    &attention,
                    &layer.shape,
                    &layer.unrotated_q,
                    &layer.unrotated_k,
                    &layer.v,
                    &tables,
                )?;
                Ok(exact.output.iter().map(|&x| x as f32).collect())
            }
        }
    }
}

/// One line of the table.
struct Run {
    profile: String,
    sampler: &'static str,
    beta: f32,
    density: f64,
    time_ratio: f64,
    relative_error: f64,
    mass_recall: f64,
}

struct Report {
    layer: u32,
    on_cpu: bool,
    dense_seconds: f64,
    gflops: f64,
    max_value: f64,
    dense: prflash::verify::Report,
    runs: Vec<Run>,
}

fn report(arguments: &Arguments, engine: &Engine<'_>, layer: &Layer, truth: &Truth) -> Result<Report> {
    let grid = BlockGrid::causal(&layer.shape);
    let seed = Seed::new(arguments.seed).layer(layer.index);
    let dense = engine.ready(0.0, None)?;
    let mut variants = Vec::new();
    for a in STRENGTHS {
        let profile = Profile::harmonic_with(a, 1.0)?;
        let drawn = Schedule::sample(&grid, &profile, &Systematic, seed)?;
        let nearest = sink_window_like(&drawn, &profile)?;
        let random = uniform_like(&drawn, &profile, seed)?;
        for (sampler, beta, schedule) in [
            ("systematic", 0.0, drawn.clone()),
            ("systematic", 1.0, drawn),
            ("sink_window", 0.0, nearest),
            ("uniform", 0.0, random),
        ] {
            variants.push((profile.to_string(), sampler, engine.ready(beta, Some(schedule))?));
        }
    }

    // First every result (which also warms the device up), then the clock: all variants in turn, so
    // that a slow moment of the machine hits dense attention and its competitors alike.
    engine.run(&dense)?;
    let tolerance = Tolerances::of_output(&truth.exact, &layer.shape, DType::F32);
    let dense_report = compare(&engine.output(&dense)?, &truth.exact.output, &tolerance)?;
    let mut runs = Vec::new();
    for (profile, sampler, ready) in &variants {
        engine.run(ready)?;
        let output = engine.output(ready)?;
        let schedule = ready.schedule.as_ref().context("every variant has a schedule")?;
        runs.push(Run {
            profile: profile.clone(),
            sampler,
            beta: ready.beta,
            density: schedule.density(),
            time_ratio: f64::NAN,
            relative_error: compare(&output, &truth.exact.output, &tolerance)?.relative_error,
            mass_recall: truth.mass.recall(schedule)?,
        });
    }
    let mut dense_times = Vec::new();
    let mut ratios = vec![Vec::new(); variants.len()];
    for _ in 0..arguments.repeats {
        let dense_time = engine.run(&dense)?;
        dense_times.push(dense_time);
        for ((_, _, ready), ratios) in variants.iter().zip(&mut ratios) {
            ratios.push(engine.run(ready)? / dense_time);
        }
    }
    for (run, ratios) in runs.iter_mut().zip(&ratios) {
        run.time_ratio = median(ratios);
    }
    let dense_seconds = median(&dense_times);
    Ok(Report {
        layer: layer.index,
        on_cpu: matches!(engine, Engine::Cpu(_)),
        dense_seconds,
        gflops: layer.shape.dense_flops(true) / dense_seconds / 1e9,
        max_value: layer.max_value(),
        dense: dense_report,
        runs,
    })
}

impl Report {
    fn text(&self) -> String {
        let dense = &self.dense;
        let mut text = format!(
            "\nLayer {}: dense attention{} against the f64 reference\n  \
             max abs error {:.2e} = {:.2e} × max|V|, relative error {:.2e}, {} NaN, {} of {} numbers within tolerance\n  \
             {:.1} ms, {:.1} GFLOP/s (causal)\n\n  \
             profile            sampler      β   blocks    time   error  recall\n",
            self.layer,
            if self.on_cpu { " (the reference itself, rounded to f32)" } else { "" },
            dense.max_abs_error,
            dense.max_abs_error / self.max_value,
            dense.relative_error,
            dense.nan,
            dense.compared - dense.failed,
            dense.compared,
            self.dense_seconds * 1e3,
            self.gflops,
        );
        for run in &self.runs {
            text += &format!(
                "  {:<18} {:<11} {:>2}   {:>6.3}  {:>6.3}  {:>6.3}  {:>6.3}\n",
                run.profile,
                run.sampler,
                run.beta,
                run.density,
                run.time_ratio,
                run.relative_error,
                run.mass_recall
            );
        }
        text
    }

    fn curves(&self) -> Vec<Series> {
        let drawn = [
            ("systematic", 0.0, "systematic, β = 0"),
            ("systematic", 1.0, "systematic, β = 1"),
            ("sink_window", 0.0, "sink + window"),
            ("uniform", 0.0, "uniform"),
        ];
        let curve = |(sampler, beta, name)| {
            let runs = self.runs.iter().filter(|run| run.sampler == sampler && run.beta == beta);
            Series::line(name, runs.map(|run| (run.density, run.relative_error)))
        };
        drawn.map(curve).into()
    }

    fn json(&self) -> Value {
        json!({
            "layer": self.layer,
            "dense": {
                "max_abs_error": self.dense.max_abs_error,
                "max_abs_error_over_max_value": self.dense.max_abs_error / self.max_value,
                "relative_error": self.dense.relative_error,
                "nan": self.dense.nan,
                "passed": self.dense.passed(),
                "seconds": self.dense_seconds,
                "gflops": self.gflops,
            },
            "runs": self.runs.iter().map(|run| json!({
                "profile": run.profile,
                "sampler": run.sampler,
                "beta": run.beta,
                "density": run.density,
                "time_ratio": run.time_ratio,
                "relative_error": run.relative_error,
                "mass_recall": run.mass_recall,
            })).collect::<Vec<_>>(),
        })
    }
}
