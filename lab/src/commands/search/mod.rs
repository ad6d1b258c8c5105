//! `lab search`: methods of search compared.

mod agreement;
mod finals;
mod participation;
mod runs;
mod shown;
mod table;
mod word2vec;

use std::path::Path;

use anyhow::Result;
use clap::Subcommand;
use lab::search::real::store::Counts;

#[derive(Subcommand)]
pub enum Command {
    /// Replays methods on the scores of real trainings (scripts/search-tables makes them).
    Table(table::Args),
    /// Searches settings of our own word2vec, with a training for every score.
    Word2vec(word2vec::Args),
    /// Searches how sampled attention spends its blocks, with a text read for every score.
    Participation(participation::Args),
    /// Trains what searches of word2vec found on all of the text, beside gensim's defaults.
    Finals(finals::Args),
    /// Trains random points on a part of the text and on all of it: are they in the same order?
    Tau(agreement::Args),
}

/// Runs one of them.
///
/// # Errors
/// Options and files that don't do, by name; Ctrl-C.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Table(arguments) => table::run(arguments),
        Command::Word2vec(arguments) => word2vec::run(arguments),
        Command::Participation(arguments) => participation::run(arguments),
        Command::Finals(arguments) => finals::run(arguments),
        Command::Tau(arguments) => agreement::run(arguments),
    }
}

/// What is told in the end.
fn told(counts: Counts, folder: &Path, rows: usize, results: &Path) -> String {
    format!(
        "{} scores computed, {} found in {}; {rows} rows in {}; `lab report` writes them down",
        counts.computed,
        counts.found,
        folder.display(),
        results.display()
    )
}
