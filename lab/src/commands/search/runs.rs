//! Searches of an objective, run by run.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;
use lab::search::contenders::Contender;
use lab::search::real::course::{Course, Now, Wanted};
use lab::search::real::objective::Objective;
use lab::search::real::rows::{Row, put, rows};
use lab::search::real::store::Kept;
use serde_json::json;

use crate::commands::{REVISION, bar, check_stop};

/// What every such search takes.
#[derive(clap::Args)]
pub struct Searching {
    /// Methods
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["random", "tree", "tpe"])]
    methods: Vec<Contender>,
    /// Searches of each method; run r has the seed r, for the search and for every score in it
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..1000))]
    runs: u64,
    /// Trials of a search
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Other seeds by which the best point of each search is scored again
    #[arg(long, default_value_t = 3)]
    again: u64,
    /// The file of results, in which rows of these methods are renewed
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
    let mut kept = Kept::open(folder, objective, REVISION)?;
    let wanted = Wanted { trials: *trials as usize, again: *again };
    let each = wanted.trials as u64 + wanted.again;
    let mut shown = Shown::new(each * runs * methods.len() as u64, *runs);
    let mut all: Vec<Row> = Vec::new();
    for run in 0..*runs {
        for &method in methods {
            let before = shown.bar.position();
            let course = Course::run(&mut kept, method, run, wanted, &mut |now| shown.step(before, now))?;
            shown.bar.set_position(before + each);
            let here = rows(&name, &scope, REVISION, &course);
            shown.say(here.last());
            all.extend(here);
        }
        put(results, &all)?;
    }
    shown.bar.finish_and_clear();
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
    println!(
        "\n{} scores computed, {} found in {}; {} rows in {path}; `lab report` writes them down",
        counts.computed,
        counts.found,
        folder.display(),
        all.len()
    );
    Ok(())
}

fn is_last(row: &Row, next: Option<&Row>) -> bool {
    next.is_none_or(|next| !next.same_method(row) || next.run != row.run)
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

/// Tells how far the searches are.
struct Shown {
    bar: ProgressBar,
    runs: u64,
    told: Instant,
}

impl Shown {
    fn new(scores: u64, runs: u64) -> Self {
        Self { bar: bar(scores, "searching"), runs, told: Instant::now() }
    }

    fn step(&mut self, before: u64, now: &Now) -> Result<()> {
        let best = if now.best.is_nan() { "–".to_owned() } else { format!("{:.4}", now.best) };
        let line = format!(
            "run {} of {}, {}, score {}, {:.0}%, best {best}",
            now.run + 1,
            self.runs,
            now.method.name(),
            now.done + 1,
            100.0 * now.part
        );
        self.bar.set_position(before + now.done as u64);
        // A log has no bar: a line every so often.
        if self.told.elapsed() > Duration::from_secs(30) && !std::io::stderr().is_terminal() {
            let part = self.bar.position() as f64 / self.bar.length().unwrap_or(1).max(1) as f64;
            eprintln!("{line}, {:.1}% done", 100.0 * part);
            self.told = Instant::now();
        }
        self.bar.set_message(line);
        check_stop()
    }

    /// Says what came of a search.
    fn say(&self, row: Option<&Row>) {
        if let Some(row) = row {
            self.bar.suspend(|| eprintln!("{}", line(row)));
        }
    }
}
