//! Whether a part of the work orders points as all of it does.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use prflash::search::{Ask, Random, Search, Space};

use super::objective::{Objective, Outcome, Scored};
use super::store::Kept;
use super::values::Values;
use crate::search::statistics::{bootstrap_error, kendall};
use crate::table;

/// The seeds of trainings: the first is that of both the part and the whole.
pub const SEEDS: [u64; 2] = [1, 2];

/// A point scored by the part with both seeds, and by the whole with the first.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The name of the objective that was scored.
    pub objective: String,
    /// The name of the part.
    pub part: String,
    /// The name of the whole.
    pub whole: String,
    /// The point.
    pub point: String,
    /// The score by the part with the first seed; none where that failed.
    pub first: Option<f64>,
    /// The score by the part with the second seed.
    pub second: Option<f64>,
    /// The score by the whole with the first seed.
    pub all: Option<f64>,
    /// The report by the part with the first seed: by what nothing is selected by.
    pub first_report: Option<f64>,
    /// The report by the part with the second seed.
    pub second_report: Option<f64>,
    /// The report by the whole with the first seed.
    pub all_report: Option<f64>,
    /// Seconds of the processor by the part and the first seed.
    pub part_seconds: f64,
    /// Seconds of the processor by the whole.
    pub all_seconds: f64,
    /// The git revision of the lab.
    pub revision: String,
}

/// A correlation, and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correlation {
    /// Kendall's τ-b.
    pub tau: f64,
    /// The standard error, by the bootstrap over points.
    pub error: f64,
}

/// Refuses to score fewer points than the file has: see [`not_fewer`](table::not_fewer).
///
/// # Errors
/// The file has more; it can't be read.
pub fn check(path: &Path, points: usize) -> Result<()> {
    let there: Vec<Row> = table::read(path)?;
    table::not_fewer(path, "one search", "points", there.len(), points)
}

/// Random points of a space, the first ones that a search by this seed asks for.
///
/// # Errors
/// The space has fewer.
pub fn points(space: &Space, count: usize, seed: u64) -> Result<Vec<Values>> {
    let there = space.points();
    ensure!(there >= count as u128, "--points: the space has {there} points, {count} were asked for");
    let mut search = Search::new(space.clone(), Random, seed);
    let point = |_| match search.ask() {
        Ask::Trial(trial) => Ok(Values::of(space, &trial.point)),
        asked => bail!("a random point was asked for, not {asked:?}"),
    };
    (0..count).map(point).collect()
}

/// The scores of points by a seed, one after the other. `step` hears which one is under way, and
/// which part of it is done.
///
/// # Errors
/// The errors of [`Kept::score`] and of `step`.
pub fn scores(
    kept: &mut Kept<'_>,
    points: &[Values],
    seed: u64,
    step: &mut dyn FnMut(usize, f64) -> Result<()>,
) -> Result<Vec<Outcome>> {
    let score = |(number, values): (usize, &Values)| {
        step(number, 0.0)?;
        kept.score(values, seed, &mut |part| step(number, part))
    };
    points.iter().enumerate().map(score).collect()
}

/// The rows of points with their scores by the part with both seeds, and by the whole.
pub fn rows(
    part: &dyn Objective,
    whole: &str,
    points: &[Values],
    outcomes: [&[Outcome]; 3],
    revision: &str,
) -> Vec<Row> {
    let row = |(at, values): (usize, &Values)| {
        let [first, second, all] = outcomes.map(|outcomes| &outcomes[at]);
        let select = |outcome: &Outcome| outcome.scored().map(|scored| scored.select);
        let report = |outcome: &Outcome| outcome.scored().and_then(|scored: &Scored| scored.report);
        Row {
            objective: part.name().into(),
            part: part.scope().into(),
            whole: whole.into(),
            point: values.to_string(),
            first: select(first),
            second: select(second),
            all: select(all),
            first_report: report(first),
            second_report: report(second),
            all_report: report(all),
            part_seconds: first.cpu_seconds(),
            all_seconds: all.cpu_seconds(),
            revision: revision.into(),
        }
    };
    points.iter().enumerate().map(row).collect()
}

/// The rank correlation of two columns. What failed is worse than all else, as it is for a search.
pub fn correlation(
    rows: &[&Row],
    one: impl Fn(&Row) -> Option<f64>,
    other: impl Fn(&Row) -> Option<f64>,
) -> Correlation {
    let column = |of: &dyn Fn(&Row) -> Option<f64>| -> Vec<f64> {
        rows.iter().map(|row| of(row).unwrap_or(f64::NEG_INFINITY)).collect()
    };
    let (one, other) = (column(&one), column(&other));
    Correlation { tau: kendall(&one, &other), error: bootstrap_error(&one, &other, kendall) }
}

#[cfg(test)]
mod tests {
    use prflash::search::Parameter;

    use super::*;

    #[test]
    fn points_are_those_of_a_random_search() {
        let space = Space::new([Parameter::ordinal("a", [1, 2, 3, 4]).unwrap()]).unwrap();
        let all = points(&space, 4, 7).unwrap();
        let mut read: Vec<String> = all.iter().map(Values::to_string).collect();
        read.sort();
        assert_eq!(read, ["a = 1", "a = 2", "a = 3", "a = 4"]);
        assert_eq!(points(&space, 2, 7).unwrap(), all[..2]);
        let error = points(&space, 5, 7).unwrap_err().to_string();
        assert_eq!(error, "--points: the space has 4 points, 5 were asked for");
    }

    #[test]
    fn failures_are_the_worst() {
        let row = |first, all| Row {
            objective: "made".into(),
            part: "part 8".into(),
            whole: "part 1".into(),
            point: String::new(),
            first,
            second: None,
            all,
            first_report: None,
            second_report: None,
            all_report: None,
            part_seconds: 1.0,
            all_seconds: 8.0,
            revision: "abc".into(),
        };
        let rows = [row(Some(1.0), Some(1.0)), row(None, Some(0.5)), row(Some(-3.0), Some(2.0))];
        let rows: Vec<&Row> = rows.iter().collect();
        // Pairs: alike, against each other, alike.
        let found = correlation(&rows, |row| row.first, |row| row.all);
        assert!((found.tau - 1.0 / 3.0).abs() < 1e-12 && found.error > 0.0, "{found:?}");
    }
}
