//! `lab report`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lab::report::{Paths, write};
use lab::study::Size;

use super::busy;
use super::sweep::results_folder;

/// The report of full runs.
const OURS: &str = "lab/RESULTS.md";

#[derive(clap::Args)]
pub struct Args {
    /// Report what `lab sweep --quick` measured, into target/lab/quick
    #[arg(long)]
    pub quick: bool,
    /// The folder of the files of results [default: lab/results, of --quick target/lab/quick]
    #[arg(long)]
    pub results: Option<PathBuf>,
    /// The folder of what people wrote about them [default: lab/answers, none with --quick]
    #[arg(long)]
    pub answers: Option<PathBuf>,
    /// The Markdown file; pictures go into the folder plots beside it [default: lab/RESULTS.md,
    /// with --quick or --results RESULTS.md in the folder of the files of results]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Writes the report.
///
/// # Errors
/// Files that can't be read or written.
pub fn run(arguments: &Args) -> Result<()> {
    let sizes: &[Size] = if arguments.quick { &[Size::Quick] } else { &[Size::Default, Size::Long] };
    let results = arguments.results.clone().unwrap_or_else(|| results_folder(sizes[0]));
    // What is measured elsewhere isn't the lab's report.
    let elsewhere = arguments.quick || arguments.results.is_some();
    let default_out = if elsewhere { results.join("RESULTS.md") } else { OURS.into() };
    let answers = match (&arguments.answers, arguments.quick) {
        (None, true) => None,
        (given, _) => Some(given.clone().unwrap_or_else(|| "lab/answers".into())),
    };
    let paths = Paths { results, answers, out: arguments.out.clone().unwrap_or(default_out) };
    ensure!(
        !arguments.quick || paths.out != Path::new(OURS),
        "--out: {OURS} is of full runs; give --quick another file"
    );
    let writing = busy("writing the report");
    let written = write(&paths, sizes)?;
    writing.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&written)?);
    } else {
        println!(
            "{}: {} of {} measurements, {} pictures",
            written.report.display(),
            written.measured,
            written.asked,
            written.pictures.len()
        );
    }
    Ok(())
}
