//! Searches of an objective, run by run.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lab::search::contenders::Contender;
use lab::search::real::course::{Course, Now, Wanted};
use lab::search::real::objective::Objective;
use lab::search::real::rows::{Row, check, put, rows};
use lab::search::real::store::Kept;
use serde_json::json;

use super::shown::Shown;
use crate::commands::REVISION;

/// What every such search takes.
#[derive(clap::Args)]
pub struct Searching {
    /// The methods that search
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["random", "tree", "tpe"])]
    methods: Vec<Contender>,
    /// How many searches each method does; run r has the seed r, for the search and for every score
    /// in it
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..1000))]
    runs: u64,
    /// How many trials a search has
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// By how many other seeds the best point of each search is scored again
    #[arg(long, default_value_t = 3)]
    again: u64,
    /// The file of results, in which rows of these methods are renewed; refused where it has more
    /// runs or trials of one
    #[arg(long, default_value = "lab/results/search-runs.csv")]
    results: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Searches: first run 0 of all methods, then run 1, so that those that are over can be compared.
/// The results are written after each run.
///
/// # Errors
/// Files that don't do, by name; scores that can't be computed; Ctrl-C.
pub fn run(objective: &mut dyn Objective, folder: &Path, searching: &Searching) -> Result<()> {
    let Searching { methods, runs, trials, again, results, json } = searching;
    let (name, scope) = (objective.name().to_owned(), objective.scope().to_owned());
    let wanted = Wanted { trials: *trials as usize, again: *again };
    for method in methods {
        check(results, [&name, &scope, method.name()], *runs, wanted)?;
    }
    let mut kept = Kept::open(folder, objective, REVISION)?;
    let each = wanted.trials as u64 + wanted.again;
    let shown = Shown::new(each * runs * methods.len() as u64, "searching");
    let mut all: Vec<Row> = Vec::new();
    for run in 0..*runs {
        for (number, &method) in (0..).zip(methods) {
            let before = each * (run * methods.len() as u64 + number);
            let step = &mut |now: &Now| shown.step(before + now.done as u64, &under_way(now, *runs));
            let course = Course::run(&mut kept, method, run, wanted, step)?;
            let here = rows(&name, &scope, REVISION, &course);
            if let Some(last) = here.last() {
                shown.say(&line(last));
            }
            all.extend(here);
        }
        put(results, &all)?;
    }
    shown.finish();
    let last: Vec<&Row> = all
        .iter()
        .enumerate()
        .filter(|(at, row)| is_last(row, all.get(at + 1)))
        .map(|(_, row)| row)
        .collect();
    let counts = kept.counts();
    let path = results.display().to_string();
    if *json {
        let object = json!({ "results": path, "scores": counts, "searches": last });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    last.iter().for_each(|row| println!("{}", line(row)));
    println!("\n{}", super::told(counts, folder, all.len(), results));
    Ok(())
}

fn is_last(row: &Row, next: Option<&Row>) -> bool {
    next.is_none_or(|next| !next.same_method(row) || next.run != row.run)
}

/// A score that is under way.
fn under_way(now: &Now, runs: u64) -> String {
    let best = if now.best.is_nan() { "–".to_owned() } else { format!("{:.4}", now.best) };
    let (run, method, score) = (now.run + 1, now.method.name(), now.done + 1);
    format!("run {run} of {runs}, {method}, score {score}, {:.0}%, best {best}", 100.0 * now.part)
}

/// A search that is over.
fn line(row: &Row) -> String {
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.4}"));
    let failed = if row.failed > 0 { format!(", {} failed", row.failed) } else { String::new() };
    format!(
        "run {}, {}: best {} of {} trials in {:.0} CPU s{failed}; again {}, on the other half {}: {}",
        row.run,
        row.method,
        number(row.best),
        row.trials,
        row.cpu_seconds,
        number(row.again_select),
        number(row.again_report),
        row.point.as_deref().unwrap_or("–")
    )
}
