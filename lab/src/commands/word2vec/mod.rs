//! `lab word2vec`: corpora for vectors of words, trainings, and files of vectors.

mod compare;
mod convert;
mod evaluate;
mod text;
mod train;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use prflash::word2vec::{Format, WordVectors};

#[derive(Subcommand)]
pub enum Command {
    /// Writes texts as words in small letters, a sentence a line.
    Text(text::Args),
    /// Trains vectors of words on the GPU, a training a seed.
    Train(train::Args),
    /// Judges trainings, ours and gensim's, by the same rules; adds to lab/results/word2vec.csv.
    Compare(compare::Args),
    /// Judges files of vectors by WordSim-353, SimLex-999 and word2vec's analogies.
    Evaluate(evaluate::Args),
    /// Writes a file of vectors in the other of word2vec's formats.
    Convert(convert::Args),
}

/// Runs one of them.
///
/// # Errors
/// Options and files that don't do, by name.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Text(arguments) => text::run(arguments),
        Command::Train(arguments) => train::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Evaluate(arguments) => evaluate::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
    }
}

/// A file in the format that its name says.
fn load(path: &Path) -> Result<WordVectors> {
    WordVectors::load(path, Format::of(path)).with_context(|| path.display().to_string())
}
