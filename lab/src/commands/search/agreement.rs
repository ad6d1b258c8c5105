//! `lab search tau`.

use std::path::PathBuf;

use anyhow::Result;
use lab::search::real::agreement::{Correlation, Row, SEEDS, check, correlation, points, rows, scores};
use lab::search::real::objective::Objective as _;
use lab::search::real::store::Kept;
use lab::table;
use serde_json::json;

use super::shown::Shown;
use super::word2vec::Of;
use crate::commands::REVISION;

/// Trains random points on a part of the text by two seeds and on all of it by one: do both order
/// them alike (Kendall's τ)?
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    of: Of,
    /// How many random points are trained
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..))]
    points: u32,
    /// The seed that the points are drawn by
    #[arg(long, default_value_t = 2026)]
    seed: u64,
    /// The file of results, which is made anew; refused where it has more points
    #[arg(long, default_value = "lab/results/search-tau.csv")]
    results: PathBuf,
    /// The folder in which scores are kept
    #[arg(long, default_value = "target/search/word2vec")]
    folder: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Scores and correlates.
///
/// # Errors
/// Options and files that don't do, by name; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    check(&arguments.results, arguments.points as usize)?;
    let mut objective = arguments.of.open(arguments.of.part)?;
    let points = points(objective.space(), arguments.points as usize, arguments.seed)?;
    let shown = Shown::new(3 * points.len() as u64, "trainings");
    let mut kept = Kept::open(&arguments.folder, &mut objective, REVISION)?;
    let mut before = 0;
    let mut scored = |kept: &mut Kept<'_>, seed: u64| {
        let scope = kept.objective().scope().to_owned();
        let all = scores(kept, &points, seed, &mut |number, part| {
            let line = format!("{scope}, seed {seed}, point {}, {:.0}%", number + 1, 100.0 * part);
            shown.step(before + number as u64, &line)
        });
        before += points.len() as u64;
        all
    };
    let [first, second] = [scored(&mut kept, SEEDS[0])?, scored(&mut kept, SEEDS[1])?];
    let mut counts = kept.counts();
    drop(kept);
    let mut whole = arguments.of.open(1)?;
    let mut kept = Kept::open(&arguments.folder, &mut whole, REVISION)?;
    let all = scored(&mut kept, SEEDS[0])?;
    counts += kept.counts();
    let scope = kept.objective().scope().to_owned();
    shown.finish();
    let rows = rows(&objective, &scope, &points, [&first, &second, &all], REVISION);
    table::write(&arguments.results, &rows)?;
    let each: Vec<&Row> = rows.iter().collect();
    let to_all = correlation(&each, |row| row.first, |row| row.all);
    let to_other = correlation(&each, |row| row.first, |row| row.second);
    let results = arguments.results.display().to_string();
    if arguments.json {
        let tau = |found: Correlation| json!({ "tau": found.tau, "error": found.error });
        let object = json!({
            "results": results,
            "scores": counts,
            "part_and_all": tau(to_all),
            "seeds_of_the_part": tau(to_other),
            "points": rows,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    for (name, Correlation { tau, error }) in
        [("the part and all", to_all), ("two seeds of the part", to_other)]
    {
        println!("τ of {name}: {tau:.3} ± {error:.3} over {} points", rows.len());
    }
    println!("\n{}", super::told(counts, &arguments.folder, rows.len(), &arguments.results));
    Ok(())
}
