//! `lab word2vec convert`.

use std::path::PathBuf;

use anyhow::Result;
use prflash::word2vec::Format;

use crate::commands::busy;

#[derive(clap::Args)]
pub struct Args {
    /// A file of vectors, binary if its name ends in .bin, else text
    from: PathBuf,
    /// The file to write, by the same rule
    to: PathBuf,
}

/// Converts one file into another format.
///
/// # Errors
/// A file that can't be read or written, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let converting = busy("converting");
    let vectors = super::load(&arguments.from)?;
    vectors.save(&arguments.to, Format::of(&arguments.to))?;
    converting.finish_and_clear();
    println!("{}: {} words × {}", arguments.to.display(), vectors.len(), vectors.dimension());
    Ok(())
}
