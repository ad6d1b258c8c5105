//! `lab search participation`.

use std::path::PathBuf;

use anyhow::Result;
use lab::search::real::participation::{Files, Participation};

use super::runs::{self, Searching};
use crate::commands::busy;

/// Goes on after Ctrl-C where it was: nothing is read twice.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file (scripts/fetch-models brings it)
    #[arg(long, default_value = "target/models/SmolLM2-135M-Instruct.Q4_1.gguf")]
    model: PathBuf,
    /// The text whose first window selects
    #[arg(long, default_value = "target/texts/emma.txt")]
    text: PathBuf,
    /// The text whose first windows report
    #[arg(long, default_value = "target/texts/persuasion.txt")]
    report: PathBuf,
    /// How many windows of the report the best point of each search is read by
    #[arg(long, default_value_t = 2)]
    windows: usize,
    /// How many tokens a window has, in 32 blocks
    #[arg(long, default_value_t = 512)]
    width: usize,
    /// How many of the 32 key blocks a row visits
    #[arg(long, default_value_t = 8)]
    blocks: u32,
    #[command(flatten)]
    searching: Searching,
    /// The folder in which scores are kept, of one model and pair of texts
    #[arg(long, default_value = "target/search/participation")]
    folder: PathBuf,
}

/// Searches by each method and seed.
///
/// # Errors
/// Options and files that don't do, by name; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    let opening = busy("opening the model and the texts");
    let mut objective = Participation::open(Files {
        model: arguments.model.clone(),
        text: arguments.text.clone(),
        report: arguments.report.clone(),
        windows: arguments.windows,
        width: arguments.width,
        budget: arguments.blocks,
    })?;
    opening.finish_and_clear();
    runs::run(&mut objective, &arguments.folder, &arguments.searching)
}
