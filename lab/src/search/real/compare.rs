//! Searches beside each other: after as many trials, and after as many seconds of the processor.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::Row;
use crate::results::mean_and_error;

/// What others are measured by.
pub const BASELINE: &str = "random";
/// Marks at which searches are compared.
const MARKS: usize = 4;

/// The searches of one objective.
pub struct Searches<'r> {
    /// What it is called, and how much of the work is done for a score.
    pub objective: &'r str,
    /// How much of the work is done for a score.
    pub scope: &'r str,
    /// The methods, in the order of the rows.
    pub methods: Vec<Method<'r>>,
}

/// The searches by one method.
pub struct Method<'r> {
    /// The method's name.
    pub name: &'r str,
    /// The rows of each run, in the order of trials.
    pub runs: BTreeMap<u64, Vec<&'r Row>>,
}

/// A point in a search at which methods are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    /// After so many trials.
    Trials(usize),
    /// What was there after so many seconds of the processor.
    CpuSeconds(f64),
    /// The same, in each run after this part of the seconds that its cheapest search took.
    CpuPart(f64),
}

/// A mean over runs with its standard error, none of a single run.
pub type Mean = (f64, Option<f64>);

impl<'r> Searches<'r> {
    /// All objectives of a file, in its order.
    pub fn all(rows: &'r [Row]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for row in rows {
            let (objective, scope) = (row.objective.as_str(), row.scope.as_str());
            let place = all.iter().position(|one| (one.objective, one.scope) == (objective, scope));
            let place = place.unwrap_or_else(|| {
                all.push(Self { objective, scope, methods: Vec::new() });
                all.len() - 1
            });
            let methods = &mut all[place].methods;
            let place = methods.iter().position(|method| method.name == row.method);
            let place = place.unwrap_or_else(|| {
                methods.push(Method { name: &row.method, runs: BTreeMap::new() });
                methods.len() - 1
            });
            methods[place].runs.entry(row.run).or_default().push(row);
        }
        all
    }

    /// Numbers of trials that every search has, evenly to the last.
    pub fn trial_marks(&self) -> Vec<Mark> {
        let least = self.searches().map(Vec::len).min().unwrap_or(0);
        let mut marks: Vec<usize> = (1..=MARKS).map(|part| least * part / MARKS).collect();
        marks.retain(|&mark| mark > 0);
        marks.dedup();
        marks.into_iter().map(Mark::Trials).collect()
    }

    /// Seconds of the processor that every search took at least, in so many even steps: past them
    /// some would have had no more trials.
    pub fn cpu_marks(&self, steps: usize) -> Vec<Mark> {
        let taken = |rows: &Vec<&Row>| rows.last().map_or(0.0, |row| row.cpu_seconds);
        let least = self.searches().map(taken).fold(f64::INFINITY, f64::min);
        if !least.is_finite() {
            return Vec::new();
        }
        (1..=steps).map(|step| Mark::CpuSeconds(least * step as f64 / steps as f64)).collect()
    }

    /// Parts of the seconds that the cheapest search of each run took, evenly to all of them: past
    /// that it would have had no more trials.
    pub fn cpu_parts(&self) -> Vec<Mark> {
        (1..=MARKS).map(|part| Mark::CpuPart(part as f64 / MARKS as f64)).collect()
    }

    /// The seconds of the processor that the cheapest search of a run took.
    pub fn least_seconds(&self, run: u64) -> f64 {
        let searches = self.methods.iter().filter_map(|method| method.runs.get(&run)?.last());
        searches.map(|row| row.cpu_seconds).fold(f64::INFINITY, f64::min)
    }

    /// The mean of these seconds over all runs.
    pub fn mean_least_seconds(&self) -> f64 {
        let runs: BTreeSet<u64> =
            self.methods.iter().flat_map(|method| method.runs.keys().copied()).collect();
        runs.iter().map(|&run| self.least_seconds(run)).sum::<f64>() / runs.len() as f64
    }

    /// A value of each run of a method at a mark; those that have none are left out.
    pub fn values(&self, method: &Method<'_>, mark: Mark, of: fn(&Row) -> Option<f64>) -> BTreeMap<u64, f64> {
        let at = |run: u64, rows: &[&Row]| {
            let by = |seconds: f64| rows.iter().rfind(|row| row.cpu_seconds <= seconds);
            let row = match mark {
                Mark::Trials(trials) => rows.iter().find(|row| row.trials == trials),
                Mark::CpuSeconds(seconds) => by(seconds),
                Mark::CpuPart(part) => by(part * self.least_seconds(run)),
            };
            row.and_then(|row| of(row))
        };
        method.runs.iter().filter_map(|(&run, rows)| Some((run, at(run, rows)?))).collect()
    }

    /// The most trials that every search has.
    pub fn trials(&self) -> usize {
        self.searches().map(Vec::len).min().unwrap_or(0)
    }

    /// What others are measured by, if it is there.
    pub fn baseline(&self) -> Option<&Method<'r>> {
        self.methods.iter().find(|method| method.name == BASELINE)
    }

    fn searches(&self) -> impl Iterator<Item = &Vec<&'r Row>> {
        self.methods.iter().flat_map(|method| method.runs.values())
    }
}

impl Method<'_> {
    /// A value of each run at its end.
    pub fn ends(&self, of: fn(&Row) -> Option<f64>) -> BTreeMap<u64, f64> {
        let end = |(&run, rows): (&u64, &Vec<&Row>)| Some((run, of(rows.last()?)?));
        self.runs.iter().filter_map(end).collect()
    }
}

/// The mean over runs; none if there are none.
pub fn mean(values: &BTreeMap<u64, f64>) -> Option<Mean> {
    let values: Vec<f64> = values.values().copied().collect();
    (!values.is_empty()).then(|| mean_and_error(&values))
}

/// The mean of the differences run by run, where both have a value.
pub fn over(values: &BTreeMap<u64, f64>, others: &BTreeMap<u64, f64>) -> Option<Mean> {
    let pairs = values.iter().filter_map(|(run, value)| Some((*run, value - others.get(run)?)));
    mean(&pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, run: u64, trials: usize, cpu_seconds: f64, best: Option<f64>) -> Row {
        Row {
            objective: "made".into(),
            scope: "all".into(),
            method: method.into(),
            run,
            trials,
            failed: 0,
            cpu_seconds,
            best,
            best_report: None,
            point: None,
            again: None,
            again_select: None,
            again_report: None,
            revision: "abc".into(),
        }
    }

    #[test]
    fn searches_are_compared_run_by_run_at_marks_that_all_reach() {
        let mut rows = Vec::new();
        for (method, run, costs, scores) in [
            ("random", 0, [1.0, 2.0, 3.0, 4.0], [None, Some(1.0), Some(1.0), Some(2.0)]),
            ("random", 1, [2.0, 4.0, 6.0, 8.0], [Some(3.0); 4]),
            ("TPE", 0, [4.0, 5.0, 6.0, 7.0], [Some(2.0), Some(2.0), Some(4.0), Some(5.0)]),
            ("TPE", 2, [1.0, 5.0, 6.0, 7.0], [Some(9.0); 4]),
        ] {
            let each = costs.iter().zip(scores).zip(1..);
            rows.extend(each.map(|((cost, score), trials)| row(method, run, trials, *cost, score)));
        }
        let all = Searches::all(&rows);
        let [searches] = &all[..] else { panic!("expected one objective") };
        let names: Vec<&str> = searches.methods.iter().map(|method| method.name).collect();
        assert_eq!((names, searches.trials()), (vec!["random", "TPE"], 4));
        assert_eq!(searches.trial_marks(), [1, 2, 3, 4].map(Mark::Trials));
        // The cheapest search ends after 4 s.
        assert_eq!(searches.cpu_marks(4), [1.0, 2.0, 3.0, 4.0].map(Mark::CpuSeconds));
        let [random, tpe] = &searches.methods[..] else { panic!("expected two methods") };
        let best = |row: &Row| row.best;
        let at =
            |method: &Method<'_>, mark| searches.values(method, mark, best).into_iter().collect::<Vec<_>>();
        assert_eq!(at(random, Mark::Trials(1)), [(1, 3.0)]);
        assert_eq!(at(random, Mark::CpuSeconds(3.5)), [(0, 1.0), (1, 3.0)]);
        // Nothing is there yet in run 0.
        assert_eq!(at(tpe, Mark::CpuSeconds(3.5)), [(2, 9.0)]);
        // The cheapest search of run 0 takes 4 s, of which TPE's first trial takes all; those of
        // runs 1 and 2 are alone in them.
        assert_eq!([0, 1, 2].map(|run| searches.least_seconds(run)), [4.0, 8.0, 7.0]);
        assert_eq!(at(tpe, Mark::CpuPart(1.0)), [(0, 2.0), (2, 9.0)]);
        assert_eq!(at(random, Mark::CpuPart(0.5)), [(0, 1.0), (1, 3.0)]);
        let [values, others] = [tpe, random].map(|method| searches.values(method, Mark::Trials(4), best));
        assert_eq!(mean(&values), Some((7.0, Some(2.0))));
        // Run 0 alone is in both.
        assert_eq!(over(&values, &others), Some((3.0, None)));
        assert_eq!((over(&values, &BTreeMap::new()), mean(&BTreeMap::new())), (None, None));
    }
}
