//! `lab subword`: vocabularies trained, used and compared.

mod compare;
mod encode;
mod train;

use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Command {
    /// Trains a vocabulary on texts or tables of words.
    Train(train::Args),
    /// Encodes a text with a trained vocabulary, or decodes ids.
    Encode(encode::Args),
    /// Compares vocabularies on a pair of texts, beside other programs'; adds to
    /// lab/results/subword.csv.
    Compare(compare::Args),
}

/// Runs one of them.
///
/// # Errors
/// Options and files that don't do, by name.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Train(arguments) => train::run(arguments),
        Command::Encode(arguments) => encode::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
    }
}

/// A file, or standard input for `-`.
fn open(option: &str, path: &Path) -> Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(path).with_context(|| format!("{option} {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(option, path)?.read_to_end(&mut bytes).with_context(|| format!("{option} {}", path.display()))?;
    Ok(bytes)
}
