//! The file of results: a row for each method, table and number of trials.

use std::path::Path;

use anyhow::Result;
use testkit::statistics::median;

use super::contenders::BASELINES;
use super::statistics::mean_and_error;
use super::surrogate::Fit;
use crate::table;

/// Trials after which regrets are written down.
pub const MARKS: [usize; 5] = [12, 24, 48, 96, 144];

/// The regret of one method after some trials.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The name of the table.
    pub table: String,
    /// The name of the method.
    pub method: String,
    /// The program with its version.
    pub program: String,
    /// How many trials there were.
    pub trials: usize,
    /// Searches, each by another seed.
    pub seeds: usize,
    /// The mean regret over seeds. See [`regrets`](super::replay::regrets).
    pub mean: f64,
    /// The standard error of the mean.
    pub error: f64,
    /// The median regret.
    pub median: f64,
    /// The mean of what it has more than TPE by the same seed; none of other programs', whose seeds
    /// are others.
    pub over_tpe: Option<f64>,
    /// The standard error of that.
    pub over_tpe_error: Option<f64>,
    /// The same over random points.
    pub over_random: Option<f64>,
    /// The standard error of that.
    pub over_random_error: Option<f64>,
    /// How many scores the table has.
    pub scores: usize,
    /// How many points the space has.
    pub points: usize,
    /// How good the surrogate is: see [`Fit`].
    pub fit_r2: f64,
    /// Spearman's rank correlation of the surrogate with scores that it doesn't have.
    pub fit_spearman: f64,
    /// See `fit_r2`, in units of the score.
    pub fit_rmse: f64,
    /// The largest score of the surrogate.
    pub largest: f64,
    /// The median score of the surrogate.
    pub middle: f64,
    /// The git revision of the lab.
    pub revision: String,
}

/// What rows of a table have in common.
#[derive(Clone, Debug)]
pub struct Of<'a> {
    /// The name of the table.
    pub table: &'a str,
    /// Points of its space.
    pub points: usize,
    /// How good the surrogate is.
    pub fit: &'a Fit,
    /// The largest score of the table.
    pub largest: f64,
    /// The median score of the table.
    pub middle: f64,
    /// The git revision of the lab.
    pub revision: &'a str,
}

/// The regrets of a method: of each seed those after each trial.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The name of the method.
    pub method: String,
    /// The program with its version.
    pub program: String,
    /// The regrets of each seed at [`MARKS`].
    pub regrets: Vec<Vec<f64>>,
}

impl Of<'_> {
    /// The rows of methods. Those of one program are compared by seed.
    pub fn rows(&self, all: &[Replayed]) -> Vec<Row> {
        let mut rows = Vec::new();
        for one in all {
            for (mark, &trials) in MARKS.iter().enumerate() {
                let at = |replayed: &Replayed| -> Vec<f64> {
                    replayed.regrets.iter().map(|regrets| regrets[mark]).collect()
                };
                let own = at(one);
                let over = |name: &str| {
                    let same = |other: &&Replayed| other.method == name && other.program == one.program;
                    let other = all.iter().find(same)?;
                    let more: Vec<f64> = own.iter().zip(at(other)).map(|(a, b)| a - b).collect();
                    Some(mean_and_error(&more))
                };
                let (mean, error) = mean_and_error(&own);
                let [over_tpe, over_random] = BASELINES.map(over);
                rows.push(Row {
                    table: self.table.into(),
                    method: one.method.clone(),
                    program: one.program.clone(),
                    trials,
                    seeds: own.len(),
                    mean,
                    error,
                    median: median(&own),
                    over_tpe: over_tpe.map(|(mean, _)| mean),
                    over_tpe_error: over_tpe.map(|(_, error)| error),
                    over_random: over_random.map(|(mean, _)| mean),
                    over_random_error: over_random.map(|(_, error)| error),
                    scores: self.fit.scores,
                    points: self.points,
                    fit_r2: self.fit.r2,
                    fit_spearman: self.fit.spearman,
                    fit_rmse: self.fit.rmse,
                    largest: self.largest,
                    middle: self.middle,
                    revision: self.revision.into(),
                });
            }
        }
        rows
    }
}

/// Refuses a replay by fewer seeds than the file has of a table: see
/// [`not_fewer`](table::not_fewer). Other programs' seeds are their own.
///
/// # Errors
/// The file has more seeds; it can't be read.
pub fn check(path: &Path, table: &str, seeds: usize) -> Result<()> {
    let all: Vec<Row> = table::read(path)?;
    let ours = all.iter().filter(|row| row.table == table && row.over_random.is_some());
    let there = ours.map(|row| row.seeds).max().unwrap_or(0);
    table::not_fewer(path, table, "seeds", there, seeds)
}

/// Writes rows in the place of those of the same tables, whole or not at all.
///
/// # Errors
/// A file that can't be read or written.
pub fn put(path: &Path, rows: &[Row]) -> Result<()> {
    let mut all: Vec<Row> = table::read(path)?;
    all.retain(|old| rows.iter().all(|row| row.table != old.table));
    all.extend_from_slice(rows);
    table::write(path, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_one_program_are_compared_by_seed() {
        let fit = Fit { scores: 9, r2: 0.5, spearman: 0.5, rmse: 0.1, noise: 0.1, lengths: vec![] };
        let of = Of { table: "made", points: 99, fit: &fit, largest: 1.0, middle: 0.0, revision: "abc" };
        let replayed = |method: &str, program: &str, regrets: [f64; 3]| Replayed {
            method: method.into(),
            program: program.into(),
            regrets: regrets.iter().map(|&regret| vec![regret; MARKS.len()]).collect(),
        };
        let rows = of.rows(&[
            replayed("TPE", "ours", [0.1, 0.2, 0.3]),
            replayed("new", "ours", [0.0, 0.2, 0.1]),
            replayed("theirs", "another", [0.5, 0.5, 0.8]),
        ]);
        assert_eq!(rows.len(), 3 * MARKS.len());
        let row = &rows[MARKS.len()];
        let near = |one: Option<f64>, other: f64| (one.unwrap() - other).abs() < 1e-12;
        assert!(near(row.over_tpe, -0.1) && near(row.over_tpe_error, (0.01f64 / 3.0).sqrt()), "{row:?}");
        assert_eq!((row.median, row.over_random), (0.1, None));
        assert_eq!(rows.last().unwrap().over_tpe, None);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("search.csv");
        let read = |path| table::read::<Row>(path).unwrap();
        assert_eq!(read(&path), []);
        put(&path, &rows).unwrap();
        assert_eq!(read(&path), rows);
        // These were all compared with TPE alone.
        check(&path, "made", 1).unwrap();
        let mut compared = rows.clone();
        compared.iter_mut().for_each(|row| row.over_random = Some(0.0));
        put(&path, &compared).unwrap();
        check(&path, "made", 3).unwrap();
        check(&path, "another", 2).unwrap();
        let error = check(&path, "made", 2).unwrap_err().to_string();
        assert!(error.ends_with("it has 3 seeds of made, and would have 2; give --results another file"));
        put(&path, &rows[..2]).unwrap();
        assert_eq!(read(&path), rows[..2]);
    }
}
