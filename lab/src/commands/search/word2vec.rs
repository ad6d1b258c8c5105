//! `lab search word2vec`.

use std::path::PathBuf;

use anyhow::Result;
use lab::search::real::word2vec::Word2vec;

use super::runs::{self, Searching};
use crate::commands::busy;

/// Goes on after Ctrl-C where it was: no training is done twice.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    searching: Searching,
    /// The folder in which scores are kept, by text
    #[arg(long, default_value = "target/search/word2vec")]
    folder: PathBuf,
}

/// What is trained on, and judged by.
#[derive(clap::Args)]
pub struct Of {
    /// Words with spaces between, a sentence a line, as lab word2vec text writes them
    #[arg(long, default_value = "target/word2vec/all.txt")]
    pub text: PathBuf,
    /// Take every so many'th piece of 10,000 words of it; 1 for all
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub part: u32,
    /// The folder that scripts/fetch-models similarity fills
    #[arg(long, default_value = "target/similarity")]
    pub data: PathBuf,
}

impl Of {
    /// Every so many'th piece of the text, read.
    pub fn open(&self, part: u32) -> Result<Word2vec> {
        let reading = busy("reading the text");
        let objective = Word2vec::open(&self.text, part as usize, &self.data)?;
        reading.finish_and_clear();
        Ok(objective)
    }
}

/// Searches by each method and seed.
///
/// # Errors
/// Options and files that don't do, by name; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    let Of { part, .. } = &arguments.of;
    let mut objective = arguments.of.open(*part)?;
    runs::run(&mut objective, &arguments.folder, &arguments.searching)
}
