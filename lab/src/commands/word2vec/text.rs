//! `lab word2vec text`.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use lab::word2vec::text::{Cutter, Unit};

use crate::commands::{bar, check_stop};

#[derive(clap::Args)]
pub struct Args {
    /// The file to write
    out: PathBuf,
    /// Texts, which are joined in this order
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What becomes a line
    #[arg(long, value_enum, default_value = "sentence")]
    unit: Unit,
}

/// Writes the corpus, whole or not at all.
///
/// # Errors
/// Files that can't be read or written, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let begun = Instant::now();
    let mut files = Vec::new();
    let mut bytes = 0;
    for path in &arguments.files {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        bytes += file.metadata().with_context(|| path.display().to_string())?.len();
        files.push((path, file));
    }
    let progress = bar(bytes, "bytes");
    let counts = testkit::files::write_with(&arguments.out, |writer| {
        let mut cutter = Cutter::new(arguments.unit);
        for (path, file) in files {
            let step = |count: usize| {
                progress.inc(count as u64);
                check_stop()
            };
            cutter.text(file, &mut *writer, step).map_err(|error| match error.is::<lab::Interrupted>() {
                true => error,
                false => error.context(path.display().to_string()),
            })?;
        }
        Ok(cutter.counts())
    });
    progress.finish_and_clear();
    // Whoever asked to stop needn't hear which file it was.
    check_stop()?;
    let counts = counts?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}: {} words in {} lines, {seconds:.1} s", arguments.out.display(), counts.words, counts.lines);
    Ok(())
}
