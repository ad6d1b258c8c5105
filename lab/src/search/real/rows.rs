//! The file of results: a row for each trial of each search.

use std::path::Path;

use anyhow::Result;

use super::course::{Course, Wanted};
use super::objective::{Outcome, Scored};
use crate::table;

/// A search after some trials.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The name of what is searched.
    pub objective: String,
    /// How much of the work is done for a score.
    pub scope: String,
    /// The name of the method.
    pub method: String,
    /// The seed of the search and of its scores.
    pub run: u64,
    /// Trials so far.
    pub trials: usize,
    /// How many of these trials failed.
    pub failed: usize,
    /// Seconds of the processor so far.
    pub cpu_seconds: f64,
    /// The best score so far, by which the search selects; none as long as all failed.
    pub best: Option<f64>,
    /// What the point of `best` has by what nothing was selected by, where that is computed for
    /// every trial.
    pub best_report: Option<f64>,
    /// The best point, in the last row of a search alone; so are the three that follow. The means
    /// are none where it failed by one of the seeds.
    pub point: Option<String>,
    /// By how many other seeds it was scored again.
    pub again: Option<usize>,
    /// The mean of these scores.
    pub again_select: Option<f64>,
    /// The mean of their reports.
    pub again_report: Option<f64>,
    /// The git revision of the lab.
    pub revision: String,
}

/// The rows of a search.
pub fn rows(objective: &str, scope: &str, revision: &str, course: &Course) -> Vec<Row> {
    let mut row = Row {
        objective: objective.into(),
        scope: scope.into(),
        method: course.method.name().into(),
        run: course.run,
        trials: 0,
        failed: 0,
        cpu_seconds: 0.0,
        best: None,
        best_report: None,
        point: None,
        again: None,
        again_select: None,
        again_report: None,
        revision: revision.into(),
    };
    let mut all = Vec::new();
    for (_, outcome) in &course.trials {
        row.trials += 1;
        row.cpu_seconds += outcome.cpu_seconds();
        match outcome {
            Outcome::Failed { .. } => row.failed += 1,
            // The first of equal ones stays, as it does for the search.
            Outcome::Scored(scored) if row.best.is_none_or(|best| scored.select > best) => {
                (row.best, row.best_report) = (Some(scored.select), scored.report);
            }
            Outcome::Scored(_) => {}
        }
        all.push(row.clone());
    }
    if let (Some(last), Some(winner)) = (all.last_mut(), &course.winner) {
        last.point = Some(winner.values.to_string());
        last.again = Some(winner.again.len());
        last.again_select = mean(&winner.again, |scored| Some(scored.select));
        last.again_report = mean(&winner.again, |scored| scored.report);
    }
    all
}

/// The mean; none if there is nothing, or one failed.
fn mean(outcomes: &[Outcome], of: impl Fn(&Scored) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = outcomes.iter().map(|one| one.scored().and_then(&of)).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl Row {
    /// Whether both are of searches by one method of one objective.
    pub fn same_method(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.objective.clone(), row.scope.clone(), row.method.clone());
        key(self) == key(other)
    }
}

/// Refuses searches by a method where the file has more of them, or longer ones: see
/// [`not_fewer`](table::not_fewer).
///
/// # Errors
/// The file has more runs, trials or scores again; it can't be read.
pub fn check(
    path: &Path,
    [objective, scope, method]: [&str; 3],
    runs: u64,
    Wanted { trials, again }: Wanted,
) -> Result<()> {
    let all: Vec<Row> = table::read(path)?;
    let there: Vec<&Row> = all
        .iter()
        .filter(|row| row.objective == objective && row.scope == scope && row.method == method)
        .collect();
    let of = format!("{method} ({objective}, {scope})");
    let most = |number: fn(&Row) -> usize| there.iter().map(|row| number(row)).max().unwrap_or(0);
    table::not_fewer(path, &of, "runs", most(|row| row.run as usize + 1), runs as usize)?;
    table::not_fewer(path, &of, "trials a run", most(|row| row.trials), trials)?;
    let scored_again = most(|row| row.again.unwrap_or(0));
    table::not_fewer(path, &of, "scores again", scored_again, again as usize)
}

/// Writes rows in the place of those of the same runs by the same methods, whole or not at all.
///
/// # Errors
/// A file that can't be read or written.
pub fn put(path: &Path, rows: &[Row]) -> Result<()> {
    let mut all: Vec<Row> = table::read(path)?;
    all.retain(|old| rows.iter().all(|row| row.run != old.run || !row.same_method(old)));
    all.extend_from_slice(rows);
    table::write(path, &all)
}
