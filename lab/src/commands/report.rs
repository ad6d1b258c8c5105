//! `lab report`.

use std::path::PathBuf;

use anyhow::Result;
use lab::report::{Paths, write};
use lab::study::Size;

use super::sweep::results_folder;

#[derive(clap::Args)]
pub struct Args {
    /// Report what `lab sweep --quick` measured, into target/lab/quick
    #[arg(long)]
    pub quick: bool,
    /// Folder of the files of results [default: lab/results, of --quick target/lab/quick]
    #[arg(long)]
    pub results: Option<PathBuf>,
    /// Folder of what people wrote about them [default: lab/answers, none with --quick]
    #[arg(long)]
    pub answers: Option<PathBuf>,
    /// The Markdown file; pictures go into the folder plots beside it [default: lab/RESULTS.md, of
    /// --quick target/lab/quick/RESULTS.md]
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
    let default_out = if arguments.quick { results.join("RESULTS.md") } else { "lab/RESULTS.md".into() };
    let answers = match (&arguments.answers, arguments.quick) {
        (None, true) => None,
        (given, _) => Some(given.clone().unwrap_or_else(|| "lab/answers".into())),
    };
    let paths = Paths { results, answers, out: arguments.out.clone().unwrap_or(default_out) };
    let written = write(&paths, sizes)?;
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
