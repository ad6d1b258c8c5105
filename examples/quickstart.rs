//! The first thing to run: exact causal attention and PrFlashAttention over the queries, keys and
//! values of a real language model, on your GPU (without one on your CPU's cores), checked against
//! an exact reference, with the cost and the error of skipping printed and drawn. The reference
//! takes most of the time, so it computes every eighth query row (`--every 1` for all of them);
//! what skipping loses is told from dense attention on the device, over all rows.
//!
//! ```text
//! cargo run --release --example quickstart
//! cargo run --release --example quickstart -- --backend native   # on CPU cores
//! ```

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan};
use prflash::reference::{self, Exact};
use prflash::sampling::content::{BlockScores, Estimate, Probe};
use prflash::sampling::{content_like, sink_window_like, uniform_like};
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{
    BlockGrid, Bound, Call, Context, ContextOptions, DType, Layout, Operands, Plan, Profile, Schedule, Seed,
    Systematic, TableBuffer, Tables, Tensor,
};
use serde_json::{Value, json};
use testkit::backend::{Backend, Computing};
use testkit::chart::{Axis, Panel, Scale, Series, chart};
use testkit::example::{self, Progress};
use testkit::fixture::{self, Layer};
use testkit::picture;
use testkit::statistics::{mean, median};

/// Causal attention and PrFlashAttention on real attention inputs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    #[command(flatten)]
    computing: Computing,
    /// Tokens of context, at most 3840. [default: 3840, and 768 by the reference]
    #[arg(long, default_value_if("quick", "true", "768"), value_parser = clap::value_parser!(u16).range(1..=3840))]
    tokens: Option<u16>,
    /// Compare every so many'th query row with the reference.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    every: u16,
    /// How often each variant is timed, in turn with the others.
    #[arg(long, default_value_t = 3, default_value_if("quick", "true", "1"), value_parser = clap::value_parser!(u8).range(1..))]
    repeats: u8,
    /// Seed of the schedules.
    #[arg(long, default_value_t = 2410)]
    seed: u64,
}

/// Strengths of the harmonic profile a/(a+d), from the paper's literal 1/(1+d) to milder ones.
const STRENGTHS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

/// Tokens that share a summary.
const SUMMARIZED: usize = 16;

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let backend = arguments.computing.open(ContextOptions::new())?;
    let default = if matches!(backend, Backend::Reference) { 768 } else { 3840 };
    let tokens = arguments.tokens.map_or(default, usize::from);
    let layers = fixture::load(tokens)?;
    let say = |text: &str| {
        if !arguments.common.json {
            print!("{text}");
        }
    };
    say(&format!("Device   {backend}\n"));
    say(&format!(
        "Inputs   SmolLM2-135M-Instruct reading Persuasion: {tokens} tokens, {} query heads on {} KV head, D = {}; rotated inside the kernel\n",
        layers[0].shape.heads(),
        layers[0].shape.kv_heads(),
        layers[0].shape.head_dim()
    ));

    // The exact results take a few seconds on the CPU; the layers are independent.
    let every = usize::from(arguments.every).min(tokens);
    let mut progress = Progress::new();
    progress.tell("Computing the exact results on the CPU …");
    let truths = std::thread::scope(|scope| {
        let work: Vec<_> = layers.iter().map(|layer| scope.spawn(|| Truth::of(layer, every))).collect();
        work.into_iter()
            .map(|thread| thread.join().expect("the oracle doesn't panic"))
            .collect::<Result<Vec<_>>>()
    })?;
    progress.done("The exact results, on the CPU");
    let rows = truths[0].rows.len();
    say(&format!(
        "Checked  dense attention, at {rows} of {tokens} query rows of each head, against the f64 reference\n"
    ));

    let folder = arguments.common.folder("quickstart", usual)?;
    let (mut reports, mut panels) = (Vec::new(), Vec::new());
    for (layer, truth) in layers.iter().zip(&truths) {
        let engine = Engine::new(&backend, layer)?;
        let report = report(&arguments, &engine, layer, truth)?;
        say(&report.text());
        panels.push(Panel { title: format!("layer {}", layer.index), series: report.curves() });
        reports.push(report);
    }
    let seed = Seed::new(arguments.seed).layer(layers[0].index);
    let drawn =
        Schedule::sample(&BlockGrid::causal(&layers[0].shape), &Profile::harmonic(), &Systematic, seed)?;
    let (schedule_svg, error_svg) = (folder.join("schedule.svg"), folder.join("error_vs_cost.svg"));
    picture::schedule(&schedule_svg, "PrFlashAttention, p(d) = 1/(1+d): kept blocks", &drawn)?;
    let axis = |title| Axis { title, scale: Scale::FromZero, ..Axis::default() };
    chart(&error_svg, [axis("blocks visited / dense"), axis("relative output error")], &panels)?;
    say(LEGEND);
    say(&meaning(&reports));
    say(&format!("Pictures {}\n         {}\n", schedule_svg.display(), error_svg.display()));
    if arguments.common.json {
        let fields = json!({
            "tokens": tokens,
            "rows_compared": rows,
            "layers": reports.iter().map(Report::json).collect::<Vec<_>>(),
        });
        let pictures = [schedule_svg, error_svg];
        println!("{}", backend.object("quickstart", &pictures, fields)?);
    }
    Ok(())
}

const LEGEND: &str = "
What the columns mean
  profile   p(d), the probability that a key block at block distance d is visited; the first block and the diagonal always are
  sampler   systematic: drawn from p(d). As many per row: uniform, random blocks; sink + window, the first and the nearest;
            content, those that summaries of their keys promise most of, to rows before those that use the list
  β         importance correction: −β·ln p(d) is added to the scores of a visited block
  blocks    visited blocks of 64 × 64 tokens over those of dense causal attention
  time      time over that of dense attention on the same device: the median of runs taken in turn
  error     ‖o − o*‖ / ‖o*‖ over all rows, with o* the output of dense attention
  recall    share of dense attention's mass that lies in visited blocks, mean over rows

";

/// What the tables say, in two lines: at the fewest blocks, with which every table begins.
fn meaning(reports: &[Report]) -> String {
    // By layer, the run of a sampler that loses least.
    let best = |sampler: &str| -> Vec<&Run> {
        let few = reports.iter().map(|report| {
            let profile = &report.runs[0].profile;
            report.runs.iter().filter(move |run| run.profile == *profile && run.sampler == sampler)
        });
        few.filter_map(|runs| runs.min_by(|a, b| a.relative_error.total_cmp(&b.relative_error))).collect()
    };
    let [sampled, window, content] = ["systematic", "sink_window", "content"].map(best);
    let list = |mut values: Vec<String>| {
        values.dedup();
        values.join(" and ")
    };
    let percent = |runs: &[&Run], value: fn(&Run) -> f64| {
        list(runs.iter().map(|run| format!("{:.0}%", 100.0 * value(run))).collect())
    };
    let error = |runs: &[&Run]| list(runs.iter().map(|run| format!("{:.3}", run.relative_error)).collect());
    let saves = match sampled.iter().all(|run| run.time_ratio < 1.0) {
        true => "saves time",
        false => "saves no time on this device",
    };
    let better = reports.iter().zip(sampled.iter().zip(&window));
    let better = better.filter(|(_, (sampled, window))| window.relative_error < sampled.relative_error);
    let better: Vec<String> = better.map(|(report, _)| report.layer.to_string()).collect();
    let verdict = match better.len() {
        0 => "doesn't lose less".to_owned(),
        all if all == reports.len() => "loses less".to_owned(),
        _ => format!("loses less in layer {}", list(better)),
    };
    format!(
        "What it means, at the fewest blocks, in layers {}\n  \
         PrFlashAttention {saves}: {} of the blocks take {} of dense attention's time, with an error of {}.\n  \
         The sink + window pattern of the same cost {verdict} on this model: its error is {}.\n  \
         Blocks by content have {} here, where 64 rows share a list; decoding shows what they are for (lab/RESULTS.md).\n\n",
        list(reports.iter().map(|report| report.layer.to_string()).collect()),
        percent(&sampled, |run| run.density),
        percent(&sampled, |run| run.time_ratio),
        error(&sampled),
        error(&window),
        error(&content),
    )
}

/// What dense attention is, exactly: at some of its query rows.
struct Truth {
    /// The rows, of every head.
    rows: Vec<usize>,
    /// `[heads, rows, channels]`.
    exact: Exact,
}

impl Truth {
    /// Every `every`'th row, the last one of each `every` of them.
    fn of(layer: &Layer, every: usize) -> Result<Self> {
        let (len, heads, dim) = (layer.shape.q_len(), layer.shape.heads(), layer.shape.head_dim());
        let rows: Vec<usize> = (every - 1..len).step_by(every).collect();
        if every == 1 {
            let (q, k, v) = (&layer.unrotated_q, &layer.unrotated_k, &layer.v);
            let exact = reference::attention(&layer.attention(), &layer.shape, q, k, v, &Tables::new())?;
            return Ok(Self { rows, exact });
        }
        let mut outputs = vec![Vec::new(); heads];
        let mut magnitudes = vec![Vec::new(); heads];
        for &row in &rows {
            // The query alone, over the keys that it sees: those of the one KV head up to its own.
            let shape = layer.shape.with_q_len(1)?.with_kv_len(row + 1)?;
            let keys = (row + 1) * dim;
            let q = pick(&layer.unrotated_q, len, dim, &[row]);
            let (k, v) = (&layer.unrotated_k[..keys], &layer.v[..keys]);
            let one = reference::attention(&layer.attention(), &shape, &q, k, v, &Tables::new())?;
            magnitudes.iter_mut().zip(&one.rows).for_each(|(all, own)| all.push(*own));
            outputs.iter_mut().zip(one.output.chunks_exact(dim)).for_each(|(all, own)| all.extend(own));
        }
        let exact = Exact { output: outputs.concat(), lse: Vec::new(), rows: magnitudes.concat() };
        Ok(Self { rows, exact })
    }

    /// Compares these rows of a whole output.
    fn compare(&self, output: &[f32], layer: &Layer, engine: &Engine<'_>) -> Result<prflash::verify::Report> {
        let tolerance = match engine {
            Engine::Native(_) => Tolerances::of_native_output,
            Engine::Gpu(_) | Engine::Reference(_) => Tolerances::of_output,
        };
        let tolerance = tolerance(&self.exact, &layer.shape, DType::F32);
        let rows = pick(output, layer.shape.q_len(), layer.shape.head_dim(), &self.rows);
        Ok(compare(&rows, &self.exact.output, tolerance)?)
    }
}

/// Rows of each head of `[heads, len, dim]`.
fn pick(values: &[f32], len: usize, dim: usize, rows: &[usize]) -> Vec<f32> {
    let heads = values.chunks_exact(len * dim);
    heads.flat_map(|head| rows.iter().flat_map(|row| &head[row * dim..][..dim])).copied().collect()
}

/// The corrections that are tried.
const BETAS: [f32; 2] = [0.0, 1.0];

/// What computes.
enum Engine<'a> {
    Gpu(Box<Gpu>),
    Native(Box<Native<'a>>),
    Reference(&'a Layer),
}

struct Gpu {
    context: Context,
    output: Tensor,
    lse: Tensor,
    /// One plan for each correction that is tried.
    plans: Vec<(f32, Plan, Bound)>,
    call: (usize, usize),
}

impl Gpu {
    fn new(context: &Context, layer: &Layer) -> Result<Self> {
        let shape = &layer.shape;
        let len = shape.q_len();
        let [q, k, v] = layer.upload_unrotated(context)?;
        let output = Tensor::zeros(context, DType::F32, *q.view().layout())?;
        let lse = Tensor::zeros(context, DType::F32, Layout::rows(1, shape.heads(), len)?)?;
        let mut plans = Vec::new();
        for beta in BETAS {
            let plan = layer.attention().with_correction(beta)?.with_lse(true).plan(context, shape)?;
            let lse = Some(lse.view());
            let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse };
            let bound = plan.bind(&operands)?;
            plans.push((beta, plan, bound));
        }
        Ok(Self { context: context.clone(), output, lse, plans, call: (len, len) })
    }

    fn plan(&self, beta: f32) -> Result<&(f32, Plan, Bound)> {
        self.plans.iter().find(|(b, ..)| *b == beta).context("no plan for this β")
    }
}

struct Native<'a> {
    layer: &'a Layer,
    queries: Layout,
    keys: Layout,
    /// One plan for each correction that is tried.
    plans: Vec<(f32, NativePlan)>,
    /// The output and the log-sum-exp of the last run.
    results: RefCell<(Vec<f32>, Vec<f32>)>,
}

impl<'a> Native<'a> {
    fn new(layer: &'a Layer) -> Result<Self> {
        let shape = &layer.shape;
        let layout = |heads| Layout::heads_first(1, heads, shape.q_len(), shape.head_dim());
        let (queries, keys) = (layout(shape.heads())?, layout(shape.kv_heads())?);
        let plan = |beta| -> Result<(f32, NativePlan)> {
            let attention = layer.attention().with_correction(beta)?.with_lse(true);
            Ok((beta, attention.plan_native(shape, &NativeOptions::new())?))
        };
        let plans = BETAS.into_iter().map(plan).collect::<Result<_>>()?;
        let rows = shape.heads() * shape.q_len();
        let results = RefCell::new((vec![0.0; queries.elements()], vec![0.0; rows]));
        Ok(Self { layer, queries, keys, plans, results })
    }

    fn run(&self, beta: f32, tables: &Tables<'_>) -> Result<()> {
        let (_, plan) = self.plans.iter().find(|(b, _)| *b == beta).context("no plan for this β")?;
        let (output, lse) = &mut *self.results.borrow_mut();
        let mut operands = NativeOperands {
            q: HostView::new(&self.layer.unrotated_q[..], self.queries)?,
            k: HostView::new(&self.layer.unrotated_k[..], self.keys)?,
            v: HostView::new(&self.layer.v[..], self.keys)?,
            output: HostViewMut::new(&mut output[..], self.queries)?,
            lse: Some(lse),
        };
        Ok(plan.run(&mut operands, tables)?)
    }
}

/// A variant made ready: its schedule, on the device.
struct Ready {
    beta: f32,
    schedule: Option<Schedule>,
    uploaded: Option<TableBuffer>,
}

impl Ready {
    fn tables(&self) -> Tables<'_> {
        self.schedule.as_ref().map_or_else(Tables::new, Tables::from)
    }
}

impl<'a> Engine<'a> {
    fn new(backend: &Backend, layer: &'a Layer) -> Result<Self> {
        Ok(match backend {
            Backend::Gpu(context) => Engine::Gpu(Box::new(Gpu::new(context, layer)?)),
            Backend::Native => Engine::Native(Box::new(Native::new(layer)?)),
            Backend::Reference => Engine::Reference(layer),
        })
    }

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
            Engine::Native(native) => native.run(ready.beta, &ready.tables())?,
            Engine::Reference(_) => drop(self.results(ready)?),
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// The output and the log-sum-exp of the last run (of a run now, by the reference).
    fn results(&self, ready: &Ready) -> Result<(Vec<f32>, Vec<f64>)> {
        match self {
            Engine::Gpu(gpu) => {
                let lse = gpu.lse.read_blocking(&gpu.context)?;
                Ok((gpu.output.read_blocking(&gpu.context)?, lse.into_iter().map(f64::from).collect()))
            }
            Engine::Native(native) => {
                let (output, lse) = &*native.results.borrow();
                Ok((output.clone(), lse.iter().copied().map(f64::from).collect()))
            }
            Engine::Reference(layer) => {
                let attention = layer.attention().with_correction(ready.beta)?;
                let (q, k) = (&layer.unrotated_q, &layer.unrotated_k);
                let exact = reference::attention(&attention, &layer.shape, q, k, &layer.v, &ready.tables())?;
                Ok((exact.output.iter().map(|&x| x as f32).collect(), exact.lse))
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
    by_reference: bool,
    dense_seconds: f64,
    gflops: f64,
    max_value: f64,
    dense: prflash::verify::Report,
    runs: Vec<Run>,
}

fn report(arguments: &Arguments, engine: &Engine<'_>, layer: &Layer, truth: &Truth) -> Result<Report> {
    let grid = BlockGrid::causal(&layer.shape);
    let seed = Seed::new(arguments.seed).layer(layer.index);
    let scores = scores(layer, &grid)?;
    let dense = engine.ready(0.0, None)?;
    let mut variants = Vec::new();
    for a in STRENGTHS {
        let profile = Profile::harmonic_with(a, 1.0)?;
        let drawn = Schedule::sample(&grid, &profile, &Systematic, seed)?;
        let nearest = sink_window_like(&drawn, &profile)?;
        let random = uniform_like(&drawn, &profile, seed)?;
        let known = content_like(&drawn, &profile, &scores)?;
        for (sampler, beta, schedule) in [
            ("systematic", 0.0, drawn.clone()),
            ("systematic", 1.0, drawn),
            ("uniform", 0.0, random),
            ("sink_window", 0.0, nearest),
            ("content", 0.0, known),
        ] {
            variants.push((profile.to_string(), sampler, engine.ready(beta, Some(schedule))?));
        }
    }

    // First every result (which also warms the device up), then the clock: all variants in turn, so
    // that a slow moment of the machine hits dense attention and its competitors alike.
    let mut progress = Progress::new();
    engine.run(&dense)?;
    let (output, dense_lse) = engine.results(&dense)?;
    let dense_report = truth.compare(&output, layer, engine)?;
    // Its own error, which was just measured, is nothing beside what skipping loses.
    let dense_output: Vec<f64> = output.into_iter().map(f64::from).collect();
    let mut runs: Vec<Run> = Vec::new();
    for (at, (profile, sampler, ready)) in variants.iter().enumerate() {
        progress.tell(format!(
            "Layer {}: {sampler} at {profile}, {} of {}",
            layer.index,
            at + 1,
            variants.len()
        ));
        engine.run(ready)?;
        let (output, lse) = engine.results(ready)?;
        let schedule = ready.schedule.as_ref().context("every variant has a schedule")?;
        // A correction changes what is summed; the mass is that of the same blocks without it.
        let mass_recall = match (ready.beta, runs.last()) {
            (0.0, _) | (_, None) => {
                mean(&lse.iter().zip(&dense_lse).map(|(lse, dense)| (lse - dense).exp()).collect::<Vec<_>>())
            }
            (_, Some(uncorrected)) => uncorrected.mass_recall,
        };
        runs.push(Run {
            profile: profile.clone(),
            sampler,
            beta: ready.beta,
            density: schedule.density(),
            time_ratio: f64::NAN,
            relative_error: compare(&output, &dense_output, Tolerance::absolute(0.0))?.relative_error,
            mass_recall,
        });
    }
    let mut dense_times = Vec::new();
    let mut ratios = vec![Vec::new(); variants.len()];
    for repeat in 1..=arguments.repeats {
        progress.tell(format!("Layer {}: timing, round {repeat} of {}", layer.index, arguments.repeats));
        let dense_time = engine.run(&dense)?;
        dense_times.push(dense_time);
        for ((_, _, ready), ratios) in variants.iter().zip(&mut ratios) {
            ratios.push(engine.run(ready)? / dense_time);
        }
    }
    for (run, ratios) in runs.iter_mut().zip(&ratios) {
        run.time_ratio = median(ratios);
    }
    progress.done(format!("Layer {}, {} variants", layer.index, variants.len()));
    let dense_seconds = median(&dense_times);
    Ok(Report {
        layer: layer.index,
        by_reference: matches!(engine, Engine::Reference(_)),
        dense_seconds,
        gflops: layer.shape.dense_flops(true) / dense_seconds / 1e9,
        max_value: layer.max_value(),
        dense: dense_report,
        runs,
    })
}

/// Shares of blocks by the summaries of their keys, for rows that come before all rows which use
/// them.
fn scores(layer: &Layer, grid: &BlockGrid) -> Result<BlockScores> {
    let (attention, none) = (layer.attention(), Tables::new());
    let keys = attention.summarize(&layer.shape, &layer.unrotated_k, SUMMARIZED, None)?.with_8_bits();
    let (estimate, probe) = (Estimate::Saturated, Probe::default());
    Ok(attention.block_scores(grid, &layer.unrotated_q, &keys, estimate, probe, &none)?)
}

impl Report {
    fn text(&self) -> String {
        let dense = &self.dense;
        let mut text = format!(
            "\nLayer {}: dense attention{} against the f64 reference\n  \
             max abs error {:.2e} = {:.2e} × max|V|, relative error {:.2e}, {} NaN, {} of {} numbers within tolerance\n  \
             {:.1} ms, {:.1} GFLOP/s (causal)\n\n  \
             profile            sampler        β   blocks    time   error  recall\n",
            self.layer,
            if self.by_reference { " (the reference itself, rounded to f32)" } else { "" },
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
                "  {:<18} {:<13} {:>2}   {:>6.3}  {:>6.3}  {:>6.3}  {:>6.3}\n",
                run.profile,
                example::spoken(run.sampler),
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
            ("uniform", 0.0, "uniform"),
            ("sink_window", 0.0, "sink + window"),
            ("content", 0.0, "by content"),
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
