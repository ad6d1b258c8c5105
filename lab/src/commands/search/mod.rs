//! `lab search`: methods of search compared.

mod runs;
mod table;
mod word2vec;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Command {
    /// Replays methods on the scores of real trainings (scripts/search-tables makes them).
    Table(table::Args),
    /// Searches settings of our own word2vec, with a training for every score.
    Word2vec(word2vec::Args),
}

/// Runs one of them.
///
/// # Errors
/// Options and files that don't do, by name; Ctrl-C.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Table(arguments) => table::run(arguments),
        Command::Word2vec(arguments) => word2vec::run(arguments),
    }
}
