//! Every sampler on the attention inputs of a real model: error against exact attention at the same
//! expected number of blocks, over many seeds, beside sink + window, uniform random blocks and the
//! heaviest blocks by true attention mass.
//!
//! ```text
//! cargo run --release --example samplers
//! ```

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use prflash::reference;
use prflash::sampling::{
    Bernoulli, DEFAULT_BLOCK_SIZE, DistanceFrequencies, Renewal, RowColumn, Sampler, Segment,
    sink_window_like, uniform_like,
};
use prflash::verify::{Tolerance, compare};
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Operands, Profile, Schedule, Seed, Shape, Systematic,
    TableBuffer, Tables, Tensor,
};
use serde_json::json;
use testkit::chart::{Axis, Panel, Scale, Series, chart};
use testkit::example::{self, Progress};
use testkit::statistics::{mean, standard_error};
use testkit::{fixture, picture};

/// Compares the samplers on real attention inputs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    /// Tokens of context, at most 3840.
    #[arg(long, default_value_t = 3840, default_value_if("quick", "true", "1024"), value_parser = clap::value_parser!(u16).range(64..=3840))]
    tokens: u16,
    /// Seeds per row of the table.
    #[arg(long, default_value_t = 20, default_value_if("quick", "true", "2"), value_parser = clap::value_parser!(u16).range(2..))]
    seeds: u16,
}

/// One row of the table: a way to choose blocks, over all seeds.
struct Row {
    layer: u32,
    sampler: &'static str,
    beta: f32,
    densities: Vec<f64>,
    errors: Vec<f64>,
    recalls: Vec<f64>,
}

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let context = Context::new_blocking()?;
    let profile = Profile::harmonic();
    let folder = arguments.common.folder("samplers", usual)?;
    let mut rows = Vec::new();
    let mut pictures = Vec::new();
    for layer in fixture::load(arguments.tokens.into())? {
        let mut progress = Progress::new();
        progress.tell(format!("Layer {}: the exact result on the CPU …", layer.index));
        let shape = &layer.shape;
        let grid = BlockGrid::causal(shape);
        let dense = Attention::causal();
        let exact = reference::attention(&dense, shape, &layer.q, &layer.k, &layer.v, &Tables::new())?;
        let mass = reference::block_mass(&dense, shape, &layer.q, &layer.k, &grid)?;
        let [q, k, v] = layer.upload(&context)?;
        let output = Tensor::zeros(&context, DType::F32, *q.view().layout())?;
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let call = Call::lengths(shape.q_len(), shape.kv_len());
        let samplers: [&dyn Sampler; 5] = [&Systematic, &Bernoulli, &Renewal, &Segment, &RowColumn];
        for beta in [0.0, 0.5, 1.0] {
            let plan = Attention::causal().with_correction(beta)?.plan(&context, shape)?;
            let bound = plan.bind(&operands)?;
            let mut measure = |sampler: &'static str,
                               choose: &dyn Fn(Seed) -> prflash::Result<Schedule>|
             -> Result<()> {
                let mut row = Row {
                    layer: layer.index,
                    sampler,
                    beta,
                    densities: vec![],
                    errors: vec![],
                    recalls: vec![],
                };
                for seed in 0..u64::from(arguments.seeds) {
                    let (name, of) = (example::spoken(sampler), arguments.seeds);
                    let layer_number = layer.index;
                    progress
                        .tell(format!("Layer {layer_number}, β = {beta}: {name}, seed {} of {of}", seed + 1));
                    let schedule = choose(Seed::new(seed).layer(layer.index))?;
                    let tables = TableBuffer::new(plan.context(), &Tables::from(&schedule))?;
                    let mut encoder = context.device().create_command_encoder(&Default::default());
                    plan.encode(&mut encoder, &bound, &call.clone().with_tables(&tables))?;
                    context.queue().submit([encoder.finish()]);
                    let got = output.read_blocking(&context)?;
                    // Not a test: the tolerance plays no part, the relative error does.
                    let report = compare(&got, &exact.output, Tolerance::absolute(0.0))?;
                    anyhow::ensure!(report.nan == 0, "{sampler}, seed {seed}: {report}");
                    row.errors.push(report.relative_error);
                    row.densities.push(schedule.density());
                    row.recalls.push(mass.recall(&schedule)?);
                }
                rows.push(row);
                Ok(())
            };
            for sampler in samplers {
                measure(sampler.name(), &|seed| Schedule::sample(&grid, &profile, sampler, seed))?;
            }
            if beta == 0.0 {
                // At the systematic schedule's number of blocks in every row.
                let like = |seed| Schedule::sample(&grid, &profile, &Systematic, seed);
                measure("sink_window", &|seed| sink_window_like(&like(seed)?, &profile))?;
                measure("uniform", &|seed| uniform_like(&like(seed)?, &profile, seed))?;
                measure("top_k", &|seed| mass.heaviest_like(&like(seed)?))?;
            }
        }
        progress.done(format!("Layer {}, {} seeds", layer.index, arguments.seeds));
        if pictures.is_empty() {
            let mut progress = Progress::new();
            progress.tell("Drawing schedules of each sampler, for the pictures …");
            for sampler in samplers {
                let drawn = Schedule::sample(&grid, &profile, sampler, Seed::new(4))?;
                let path = folder.join(format!("{}.svg", sampler.name()));
                picture::schedule(&path, &format!("{}, p(d) = 1/(1+d)", sampler.name()), &drawn)?;
                pictures.push(path);
            }
            pictures.push(frequency_picture(&folder, &grid, &profile, &samplers)?);
            pictures.push(cost_picture(&folder)?);
            progress.done("Pictures");
        }
    }
    if arguments.common.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "layer": row.layer,
                    "sampler": row.sampler,
                    "beta": row.beta,
                    "seeds": row.errors.len(),
                    "density": mean(&row.densities),
                    "relative_error": mean(&row.errors),
                    "standard_error": standard_error(&row.errors),
                    "mass_recall": mean(&row.recalls),
                })
            })
            .collect();
        let fields = json!({
            "tokens": arguments.tokens, "seeds": arguments.seeds, "profile": profile.to_string(), "rows": rows,
        });
        println!("{}", example::object("samplers", Some(&context), &pictures, fields)?);
        return Ok(());
    }
    println!("Device   {}", context.capabilities());
    println!(
        "Profile  {profile}, one sink block; {} tokens, {} seeds; mean ± standard error\n",
        arguments.tokens, arguments.seeds
    );
    println!("layer  sampler          β   blocks  relative error     recall");
    for row in &rows {
        println!(
            "{:>5}  {:<13} {:>4}   {:.3}   {:.4} ± {:.4}   {:.3}",
            row.layer,
            example::spoken(row.sampler),
            row.beta,
            mean(&row.densities),
            mean(&row.errors),
            standard_error(&row.errors),
            mean(&row.recalls)
        );
    }
    println!(
        "\nblocks: visited over dense; relative error: ‖o − o*‖ / ‖o*‖ with o* the exact dense output in f64;"
    );
    println!(
        "recall: share of the exact attention mass in visited blocks. sink + window, uniform and top-k visit as many blocks in every row as systematic;"
    );
    println!("top-k takes those of largest true mass (no sampler can know them).");
    println!("\nPictures {}", folder.display());
    Ok(())
}

/// How often each distance is kept over many schedules, with bounds that all hold with 99%
/// confidence, against p(d).
fn frequency_picture(
    folder: &Path,
    grid: &BlockGrid,
    profile: &Profile,
    samplers: &[&dyn Sampler],
) -> Result<PathBuf> {
    const SCHEDULES: u64 = 1000;
    let mut panels = Vec::new();
    for sampler in samplers {
        let mut frequencies = DistanceFrequencies::new(grid, profile.sink_blocks());
        for seed in 0..SCHEDULES {
            frequencies.add(&Schedule::sample(grid, profile, *sampler, Seed::new(seed))?)?;
        }
        // Its p(d) holds given that a row is in the index set, and most rows aren't.
        let note = if sampler.name() == "row_column" { " (p(d) only given the row)" } else { "" };
        panels.push((format!("{}{note}", sampler.name()), frequencies.rows(0.01)));
    }
    let path = folder.join("frequency.svg");
    picture::frequencies(&path, profile, &panels)?;
    Ok(path)
}

/// Kept blocks of one head against the context, up to a million tokens, with the T·ln T law.
fn cost_picture(folder: &Path) -> Result<PathBuf> {
    let law = |name: &str, blocks: &dyn Fn(f64, f64) -> f64| {
        let sizes = (0..=80).map(|step| 2f64.powf(4.0 + f64::from(step) / 8.0).round());
        let harmonic_number = |t: f64| (1..=t as usize).map(|n| 1.0 / n as f64).sum();
        Series::line(name, sizes.map(|t| (t, blocks(t, harmonic_number(t)))))
    };
    let measured = |sinks: usize| -> Result<Series> {
        let mut points = Vec::new();
        for t in (4..=14).map(|power| 1usize << power) {
            let grid = BlockGrid::causal(&Shape::new(1, 1, t * DEFAULT_BLOCK_SIZE, 64)?);
            let profile = Profile::harmonic().with_sink_blocks(sinks);
            let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(1))?;
            points.push((t as f64, schedule.visited_blocks() as f64));
        }
        Ok(Series { joined: false, ..Series::line(format!("systematic, sink blocks: {sinks}"), points) })
    };
    let path = folder.join("cost.svg");
    // The laws are drawn over what was measured.
    let series = vec![
        measured(1)?,
        measured(0)?,
        law("one sink block: T·H_T", &|t, harmonic| t * harmonic),
        law("no sink: (T+1)·H_T − T", &|t, harmonic| (t + 1.0) * harmonic - t),
        law("dense: T(T+1)/2", &|t, _| t * (t + 1.0) / 2.0),
    ];
    let axis = |title, base| Axis { title, scale: Scale::Powers(base), ..Axis::default() };
    let axes = [axis("T, blocks of 64 tokens", 2.0), axis("block pairs visited by a head", 10.0)];
    chart(&path, axes, &[Panel { title: "p(d) = 1/(1+d) up to 1,048,576 tokens".to_owned(), series }])?;
    Ok(path)
}
