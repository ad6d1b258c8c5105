//! `lab search finals`.

use std::path::PathBuf;

use anyhow::Result;
use lab::search::real::finals::{Row, defaults, joined, train, winners};
use lab::search::real::store::Kept;
use lab::search::real::word2vec::Word2vec;
use lab::table;
use serde_json::json;

use super::shown::Shown;
use super::word2vec::Of;
use crate::commands::REVISION;

/// Trains what searches found on all of the text, beside gensim's defaults. What is in the file of
/// results isn't trained again: give another file for another text.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    of: Of,
    /// How many seeds each of them is trained by
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The file of results that lab search word2vec made
    #[arg(long, default_value = "lab/results/search-runs.csv")]
    searches: PathBuf,
    /// The file of results. Its rows stay where name, settings and seed are wanted again: only what
    /// isn't there is trained
    #[arg(long, default_value = "lab/results/search-finals.csv")]
    results: PathBuf,
    /// The folder in which scores are kept
    #[arg(long, default_value = "target/search/word2vec")]
    folder: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Trains one entry after the other.
///
/// # Errors
/// Options and files that don't do, by name; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    let searched: Vec<lab::search::real::rows::Row> = table::read(&arguments.searches)?;
    let mut entries = winners(&searched, &Word2vec::scope_of(arguments.of.part as usize))?;
    entries.extend(defaults());
    let mut objective = arguments.of.open(1)?.with_analogies();
    let mut kept = Kept::open(&arguments.folder, &mut objective, REVISION)?;
    let shown = Shown::new(arguments.seeds * entries.len() as u64, "trainings");
    let there: Vec<Row> = table::read(&arguments.results)?;
    let mut rows: Vec<Vec<Row>> = Vec::new();
    for (number, entry) in (0..).zip(&entries) {
        let before = arguments.seeds * number;
        let step = &mut |number: u64, part: f64| {
            shown.step(before + number, &format!("{}, {:.0}% of a training", entry.name, 100.0 * part))
        };
        let all = train(&mut kept, entry, arguments.seeds, &there, REVISION, step)?;
        shown.say(&line(&all));
        rows.push(all);
    }
    shown.finish();
    let counts = kept.counts();
    let all = joined(&there, &entries, rows.concat());
    table::write(&arguments.results, &all)?;
    let results = arguments.results.display().to_string();
    if arguments.json {
        let object = json!({ "results": results, "scores": counts, "trainings": all });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    rows.iter().for_each(|rows| println!("{}", line(rows)));
    println!("\n{}", super::told(counts, &arguments.folder, all.len(), &arguments.results));
    Ok(())
}

/// The means of an entry.
fn line(rows: &[Row]) -> String {
    let mean = |of: fn(&Row) -> Option<f64>| {
        let values: Option<Vec<f64>> = rows.iter().map(of).collect();
        values.map_or("–".into(), |all| format!("{:.4}", all.iter().sum::<f64>() / all.len() as f64))
    };
    format!(
        "{}: WordSim-353 {}, SimLex-999 {}, analogies {}, of {} seeds; {}",
        rows.first().map_or("", |row| row.name.as_str()),
        mean(|row| row.wordsim),
        mean(|row| row.simlex),
        mean(|row| row.analogies),
        rows.len(),
        rows.first().map_or("", |row| row.values.as_str())
    )
}
