//! `lab word2vec compare`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use lab::word2vec::judge::Judge;
use lab::word2vec::rows::{Row, Rows};
use lab::word2vec::trained::Trained;
use prflash::word2vec::Rules;
use serde_json::json;

use crate::commands::{REVISION, bar, check_stop};

#[derive(clap::Args)]
pub struct Args {
    /// Folders that lab word2vec train or scripts/word2vec-peers train wrote
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// The folder that scripts/fetch-models similarity fills
    #[arg(long, default_value = "target/similarity")]
    data: PathBuf,
    /// The file of results, to which rows are added, or renewed
    #[arg(long, default_value = "lab/results/word2vec.csv")]
    results: PathBuf,
    /// Threads, which change nothing but the time
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Judges all trainings by the same rules, the strict ones, and writes down what they are worth.
///
/// # Errors
/// Folders and files that don't do, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let judge =
        Judge::open(&arguments.data).context("--data; scripts/fetch-models similarity brings its files")?;
    let mut trained = Vec::new();
    for folder in &arguments.folders {
        trained.extend(Trained::all(folder)?);
    }
    let mut rows = Rows::open(&arguments.results)?;
    let rules = Rules::default().with_threads(arguments.threads);
    let bar = bar(trained.len() as u64, "judging");
    let mut judged = Vec::new();
    for training in &trained {
        check_stop()?;
        let row = training.judged(&judge, &rules, REVISION)?;
        bar.suspend(|| eprintln!("{}", line(&row)));
        bar.inc(1);
        judged.push(row.clone());
        rows.put(row)?;
    }
    bar.finish_and_clear();
    let results = arguments.results.display().to_string();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "results": results, "rows": judged }))?);
    } else {
        println!("{} rows in {results}; `lab report` writes them down", judged.len());
    }
    Ok(())
}

fn line(row: &Row) -> String {
    let batch = row.batch.map_or(String::new(), |batch| format!(", batch {batch}"));
    let score = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    format!(
        "{}, {}{batch}, seed {}: WordSim-353 {}, SimLex-999 {}, analogies {:.1}%",
        row.trainer,
        row.architecture,
        row.seed,
        score(row.wordsim),
        score(row.simlex),
        row.analogies()
    )
}
