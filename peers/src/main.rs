//! prflash beside burn's, candle's and torch's attention, measured in one run; writes
//! `BENCHMARKS.md`, `docs/benchmarks.json` and pictures.
//!
//! ```text
//! scripts/benchmarks            # some minutes of measuring, after 20 of building
//! scripts/benchmarks --quick    # a look, into target/benchmarks
//! scripts/benchmarks --without-burn   # nor is it built
//! scripts/benchmarks --gradients # gradients beside burn's, which are printed and not recorded
//! ```

mod compare;
mod gradients;
mod measure;
mod peak;
mod pictures;
mod problem;
mod report;
mod scaling;
#[cfg(feature = "burn")]
mod with_burn;
mod with_candle;
mod with_native;
mod with_prflash;
mod with_torch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use compare::{PEERS, Python};
use measure::Effort;
use problem::Problem;
use report::{Machine, Record};
use testkit::files;
use testkit::prose::wrapped_document;
use testkit::statistics::median;

/// Measures prflash beside burn's wgpu attention and candle's and torch's CPU attention, and
/// PrFlashAttention's growth with the sequence. Writes BENCHMARKS.md, docs/benchmarks.json and
/// pictures.
#[derive(Parser)]
#[command(
    name = "benchmarks",
    after_help = "Exit status: 0; 1 where something failed or was wrong (the record then says what)."
)]
struct Arguments {
    /// Print the record as JSON instead of the table of ratios.
    #[arg(long)]
    json: bool,
    /// Rounds of every table, at most; long ones have fewer.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Forward and backward passes beside burn's at S1 and S2 alone: prints their times, and writes
    /// nothing.
    #[arg(long, conflicts_with_all = ["json", "out"])]
    gradients: bool,
    /// Few rounds, and sequences up to 16,384.
    #[arg(long)]
    quick: bool,
    /// Where the files go [default: the repository, with --quick target/benchmarks in it].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A Python; where it has torch, that takes part.
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    python: OsString,
    /// Dense attention takes part in the growth while a call stays under this.
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    dense_seconds: f64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let context =
        prflash::Context::new_blocking().context("no adapter: scripts/benchmarks brings a software one")?;
    let effort = |rounds: u32, seconds: f64| {
        let rounds =
            arguments.rounds.unwrap_or(if arguments.quick { rounds.min(5) } else { rounds }) as usize;
        let seconds = if arguments.quick { seconds / 6.0 } else { seconds };
        Effort { rounds, least_rounds: rounds.min(if arguments.quick { 2 } else { 3 }), seconds }
    };
    if arguments.gradients {
        gradients::print(&context, effort(11, 60.0))?;
        return Ok(ExitCode::SUCCESS);
    }
    let capabilities = context.capabilities();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut machine = Machine {
        device: capabilities.to_string(),
        adapter: capabilities.adapter.clone(),
        burn_device: burn_device(),
        torch: None,
        torch_absent: None,
        peaks: [peak::flops_per_second(1), peak::flops_per_second(threads)],
        software: capabilities.is_software(),
        cpu: cpu(),
        threads,
    };
    let python = match with_torch::version(&arguments.python) {
        Ok(version) => {
            machine.torch = Some(version);
            Python::Has(arguments.python.clone())
        }
        Err(why) => {
            eprintln!("torch takes no part: {why:#}");
            machine.torch_absent = Some(format!("{why:#}"));
            Python::Lacks(format!("{why:#}"))
        }
    };
    eprintln!("{}", machine.device);

    let longest = if arguments.quick { 16_384 } else { 131_072 };
    let lengths = (longest / 1024usize).ilog2() + 1;
    let parts = Problem::SHAPES.len() + 1;
    let mut comparisons = Vec::new();
    for (part, problem) in Problem::SHAPES.iter().enumerate() {
        eprintln!("{} of {parts}: {} {}", part + 1, problem.name, problem.describe());
        let rounds = if problem.is_decode() { 21 } else { 11 };
        let comparison = compare::compare(&context, problem, effort(rounds, 40.0), &python)?;
        let cores = comparison.cores.map(|index| &comparison.contestants[index]);
        let brief = comparison.contestants[..PEERS].iter().chain(cores).map(|one| match one.ran() {
            false => format!("{} not timed", one.name),
            true => format!("{} {:.1} ms", one.name, median(&one.seconds) * 1e3),
        });
        eprintln!("  {}", brief.collect::<Vec<_>>().join(", "));
        comparisons.push(comparison);
    }
    eprintln!("{parts} of {parts}: growth over {lengths} lengths up to {longest}");
    let growth = scaling::scaling(&context, longest, arguments.dense_seconds, effort(9, 75.0));
    let fit = scaling::fit(&growth.points);
    let native_growth = compare::native_growth(if arguments.quick { 8192 } else { 32_768 }, effort(5, 60.0))?;

    let record = Record { machine, comparisons, growth, native_growth, fit, options: options(&arguments) };
    let out = arguments.out.clone().unwrap_or_else(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        if arguments.quick { root.join("target/benchmarks") } else { root }
    });
    write(&record, &out)?;
    eprintln!("wrote {} after {:.0} s", out.join("BENCHMARKS.md").display(), started.elapsed().as_secs_f64());
    match arguments.json {
        true => println!("{}", serde_json::to_string(&record.json())?),
        false => print!("{}", record.headlines()),
    }
    let failures = record.failures();
    failures.iter().for_each(|failure| eprintln!("failed: {failure}"));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "burn")]
fn burn_device() -> Option<String> {
    Some(std::panic::catch_unwind(with_burn::device_name).unwrap_or_else(|_| "nothing".to_owned()))
}

#[cfg(not(feature = "burn"))]
fn burn_device() -> Option<String> {
    None
}

/// The options that change what is measured, as they would be typed.
fn options(arguments: &Arguments) -> String {
    let mut options = String::new();
    if cfg!(not(feature = "burn")) {
        options += " --without-burn";
    }
    if arguments.quick {
        options += " --quick";
    }
    if let Some(rounds) = arguments.rounds {
        options += &format!(" --rounds {rounds}");
    }
    if arguments.dense_seconds != 20.0 {
        options += &format!(" --dense-seconds {}", arguments.dense_seconds);
    }
    options
}

/// Nothing is written before everything is measured, and each file appears whole: an interrupt
/// leaves the former record.
fn write(record: &Record, out: &Path) -> Result<()> {
    let images = out.join("docs/images");
    pictures::peers(&images.join("peers.svg"), &record.machine.adapter, &record.comparisons)?;
    pictures::scaling(&images.join("scaling.svg"), &record.machine.adapter, &record.growth.points)?;
    files::write(&out.join("docs/benchmarks.json"), serde_json::to_string_pretty(&record.json())? + "\n")?;
    files::write(&out.join("BENCHMARKS.md"), wrapped_document(&record.markdown()))
}

/// The CPU's name, where the system tells it in a file.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
