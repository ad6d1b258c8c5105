//! `lab sweep`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use indicatif::HumanDuration;
use lab::study::{Question, Size, experiments};
use lab::sweep::{Folders, Progress, Sweep, existing};
use serde_json::json;

use super::{Computing, REVISION, bar, check_stop};

/// Ticks of the bar.
const TICKS: f64 = 10_000.0;

#[derive(clap::Args)]
pub struct Args {
    /// How much is measured
    #[arg(long, value_enum, default_value = "default")]
    pub size: Size,
    /// The same as --size quick
    #[arg(long, conflicts_with = "size")]
    pub quick: bool,
    /// Measure only this part; repeat for more
    #[arg(long = "only", value_enum)]
    pub only: Vec<Question>,
    /// The folder of GGUF files, as scripts/fetch-models makes it
    #[arg(long, default_value = "target/models")]
    pub models: PathBuf,
    /// The folder of texts, as scripts/fetch-models makes it
    #[arg(long, default_value = "target/texts")]
    pub texts: PathBuf,
    /// The folder of the files of results; what they have already isn't computed again [default:
    /// lab/results, of --quick target/lab/quick]
    #[arg(long)]
    pub results: Option<PathBuf>,
    #[command(flatten)]
    pub computing: Computing,
}

/// Where results of a size are, if nothing else is said.
pub fn results_folder(size: Size) -> PathBuf {
    if size == Size::Quick { "target/lab/quick" } else { "lab/results" }.into()
}

/// Computes what the files of results lack.
///
/// # Errors
/// Options, files and devices that don't do, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let size = if arguments.quick { Size::Quick } else { arguments.size };
    let mut all = experiments(size)?;
    all.retain(|experiment| arguments.only.is_empty() || arguments.only.contains(&experiment.question));
    let folders = Folders {
        models: existing("--models", &arguments.models)?,
        texts: existing("--texts", &arguments.texts)?,
        results: arguments.results.clone().unwrap_or_else(|| results_folder(size)),
    };
    let backend = arguments.computing.backend.open()?;
    let results = folders.results.display().to_string();
    let sweep = Sweep::new(&backend, arguments.computing.chunk(), REVISION, folders);
    let bar = bar(TICKS as u64, "sweep");
    bar.set_style(indicatif::ProgressStyle::with_template("{msg} {wide_bar} {percent}%{prefix}")?);
    let quiet = !std::io::stderr().is_terminal();
    let mut units = 0;
    sweep.run(&all, &mut |progress: &Progress<'_>| {
        let left = |left: Duration| format!("{} left", HumanDuration(left));
        bar.set_position((progress.done * TICKS) as u64);
        bar.set_prefix(progress.left.map_or(String::new(), |time| format!(", {}", left(time))));
        bar.set_message(progress.title.to_owned());
        units += usize::from(progress.outcome.is_some());
        if let Some(outcome) = &progress.outcome {
            let line = format!(
                "{:3.0}%, {}: {}: {outcome}",
                100.0 * progress.done,
                progress.left.map_or("time left unknown".into(), left),
                progress.title
            );
            if quiet { eprintln!("{line}") } else { bar.println(line) }
        }
        check_stop()
    })?;
    bar.finish_and_clear();
    if arguments.computing.json {
        let object = json!({
            "backend": backend.name(),
            "adapter": backend.adapter(),
            "driver": backend.driver(),
            "results": results,
            "computed": units,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        println!("{units} measurements added to {results}; `lab report` writes them down");
    }
    Ok(())
}
