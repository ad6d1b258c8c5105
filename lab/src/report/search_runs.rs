//! Searches whose every score is computed: methods beside each other, what they found, and whether
//! a part of the work orders points as all of it does.

use std::collections::BTreeMap;

use anyhow::Result;
use testkit::chart::{Errors, Panel, Point, Series};

use super::page::Page;
use super::{even, with_error};
use crate::search::real::compare::{BASELINE, Mark, Mean, Method, Searches, mean, over};
use crate::search::real::rows::Row;

/// Points of a curve by seconds.
const STEPS: usize = 32;

/// Writes the searches, unless there are none.
pub fn search_runs(rows: &[Row], page: &mut Page<'_>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    page.answer("search-runs", "Search of hyper-parameters, each score computed")?;
    page.numbers("results/search-runs.csv", "`lab search word2vec` and `lab search participation`.");
    let all = Searches::all(rows);
    pictures(&all, page)?;
    for searches in &all {
        tables(searches, page);
    }
    page.text(&format!(
        "Run r of every method searches and scores with the seed r, so that a point has one score in a run. \
         The tables have means over runs ± their standard error; those *over {BASELINE}* have means of \
         differences run by run. *By CPU seconds* is what was found when a search had taken this part of the \
         seconds of the processor that the cheapest search of its run took in all, so that no search had run \
         out of trials. In the picture seconds end with the cheapest search of all. *Again* is the best point \
         of each search scored by other seeds, which are the same for all; *again, report* is its score by \
         what nothing was selected by. A score that was asked for twice was computed once, but is charged to \
         each search."
    ));
    Ok(())
}

fn tables(searches: &Searches<'_>, page: &mut Page<'_>) {
    let trials = searches.trials();
    page.line(&format!("### {}, {}: {trials} trials\n", searches.objective, searches.scope));
    let by_trials = searches.trial_marks();
    let by_seconds = searches.cpu_parts();
    let best: Of = |row| row.best;
    let on_others: Of = |row| row.best_report;
    for (title, marks, of) in [
        ("best so far after so many trials", &by_trials, best),
        ("best so far by CPU seconds of the run's cheapest search", &by_seconds, best),
        ("that point by what it wasn't selected by, by trials", &by_trials, on_others),
    ] {
        marked(searches, title, marks, of, page);
    }
    ends(searches, page);
    page.text(&format!(
        "The cheapest search of a run takes {:.0} CPU seconds, the mean over runs.",
        searches.mean_least_seconds()
    ));
}

type Of = fn(&Row) -> Option<f64>;

/// A table of means at marks, and one of what they have over the baseline.
fn marked(searches: &Searches<'_>, title: &str, marks: &[Mark], of: Of, page: &mut Page<'_>) {
    let label = |mark: &Mark| match mark {
        Mark::Trials(trials) => trials.to_string(),
        Mark::CpuSeconds(seconds) => format!("{seconds:.0} s"),
        Mark::CpuPart(part) => format!("{:.0}%", 100.0 * part),
    };
    let lines = |methods: &mut dyn Iterator<Item = &Method<'_>>,
                 cell: &dyn Fn(&Method<'_>, Mark) -> Option<String>| {
        let mut lines = Vec::new();
        for method in methods {
            let cells: Vec<Option<String>> = marks.iter().map(|&mark| cell(method, mark)).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or("–".into()));
                lines.push(std::iter::once(method.name.to_owned()).chain(cells).collect());
            }
        }
        lines
    };
    let means = lines(&mut searches.methods.iter(), &|method, mark| {
        mean(&searches.values(method, mark, of)).map(plain)
    });
    let header = |first: &str| -> Vec<String> {
        std::iter::once(first.to_owned()).chain(marks.iter().map(label)).collect()
    };
    let mut put = |first: &str, lines: Vec<Vec<String>>| {
        let header = header(first);
        page.table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &lines);
    };
    put(title, means);
    if let Some(baseline) = searches.baseline() {
        let mut others = searches.methods.iter().filter(|method| method.name != BASELINE);
        let lines = lines(&mut others, &|method, mark| {
            let difference = over(&searches.values(method, mark, of), &searches.values(baseline, mark, of))?;
            Some(with_error(difference, 4))
        });
        put(&format!("… over {BASELINE}"), lines);
    }
}

/// What the searches came to in the end.
fn ends(searches: &Searches<'_>, page: &mut Page<'_>) {
    let again: Of = |row| row.again_select;
    let report: Of = |row| row.again_report;
    // A point that failed by another seed has no mean.
    let cell = |method: &Method<'_>, of: Of| {
        let (values, runs) = (method.ends(of), method.runs.len());
        let few = if values.len() < runs { format!(" ({} of {runs})", values.len()) } else { String::new() };
        mean(&values).map_or("–".to_owned(), |value| plain(value) + &few)
    };
    let over_baseline = |method: &Method<'_>, of: Of| {
        let baseline = searches.baseline().filter(|baseline| baseline.name != method.name);
        let difference = baseline.and_then(|baseline| over(&method.ends(of), &baseline.ends(of)));
        difference.map_or("–".to_owned(), |difference| with_error(difference, 4))
    };
    let lines: Vec<Vec<String>> = searches
        .methods
        .iter()
        .map(|method| {
            let sum = |values: BTreeMap<u64, f64>| values.values().sum::<f64>();
            let seconds = mean(&method.ends(|row| Some(row.cpu_seconds))).map_or(0.0, |(mean, _)| mean);
            let failed = sum(method.ends(|row| Some(row.failed as f64)));
            vec![
                method.name.to_owned(),
                method.runs.len().to_string(),
                format!("{seconds:.0}"),
                format!("{failed:.0}"),
                cell(method, again),
                over_baseline(method, again),
                cell(method, report),
                over_baseline(method, report),
            ]
        })
        .collect();
    let over = format!("over {BASELINE}");
    let header = ["in the end", "runs", "CPU s each", "failed", "again", &over, "again, report", &over];
    page.table(&header, &lines);
}

fn plain((mean, error): Mean) -> String {
    let error = error.map_or(String::new(), |error| format!(" ± {error:.4}"));
    format!("{mean:.4}{error}")
}

fn pictures(all: &[Searches<'_>], page: &mut Page<'_>) -> Result<()> {
    let up = even("best so far");
    let trials = |searches: &Searches<'_>| (1..=searches.trials()).map(Mark::Trials).collect();
    let caption = "The best score so far by trials, means over runs and a standard error to each side";
    let bands = Errors::Bands;
    page.picture_with("search_trials", caption, [even("trials"), up], bands, &panels(all, &trials))?;
    let caption = "The best score so far by seconds of the processor, means over runs and a standard error to each side";
    let panels = panels(all, &|searches| searches.cpu_marks(STEPS));
    page.picture_with("search_seconds", caption, [even("CPU seconds"), up], bands, &panels)
}

fn panels(all: &[Searches<'_>], marks: &dyn Fn(&Searches<'_>) -> Vec<Mark>) -> Vec<Panel> {
    let panel = |searches: &Searches<'_>| {
        let marks = marks(searches);
        let series = |method: &Method<'_>| {
            let at = |&mark: &Mark| {
                let values = searches.values(method, mark, |row| row.best);
                // A mean over the runs that found something early would be of others than the next.
                let (y, error) = mean(&values).filter(|_| values.len() == method.runs.len())?;
                let x = match mark {
                    Mark::Trials(trials) => trials as f64,
                    Mark::CpuSeconds(seconds) | Mark::CpuPart(seconds) => seconds,
                };
                Some(Point { x, y, error: error.unwrap_or(0.0) })
            };
            let points = marks.iter().filter_map(at).collect();
            Series { name: method.name.to_owned(), points, joined: true }
        };
        let title = format!("{}, {}", searches.objective, searches.scope);
        Panel { title, series: searches.methods.iter().map(series).collect() }
    };
    all.iter().map(panel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Paths;

    fn row(method: &str, run: u64, trials: usize, best: f64) -> Row {
        let last = trials == 4;
        Row {
            objective: "made".into(),
            scope: "half".into(),
            method: method.into(),
            run,
            trials,
            failed: 0,
            cpu_seconds: 2.0 * trials as f64,
            best: Some(best),
            best_report: None,
            point: last.then(|| "a = 1".into()),
            again: last.then_some(2),
            again_select: last.then_some(best),
            again_report: last.then_some(best - 1.0),
            revision: "abc".into(),
        }
    }

    #[test]
    fn methods_stand_beside_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let (results, out) = (folder.path().to_owned(), folder.path().join("report.md"));
        let paths = Paths { results, answers: None, out };
        let mut page = Page::new(&paths, false);
        let mut rows = Vec::new();
        for (run, more) in [(0, 0.0), (1, 1.0)] {
            for trials in 1..=4 {
                rows.push(row("random", run, trials, more));
                rows.push(row("TPE", run, trials, more * 2.0 + trials as f64));
            }
        }
        search_runs(&[], &mut page).unwrap();
        search_runs(&rows, &mut page).unwrap();
        let written = page.finish().unwrap();
        assert_eq!(written.pictures.len(), 2);
        let svg = std::fs::read_to_string(&written.pictures[0]).unwrap();
        assert!(svg.contains("<polygon") && svg.contains("TPE"), "{svg}");
        let text = std::fs::read_to_string(&written.report).unwrap();
        for line in [
            "### made, half: 4 trials",
            "| best so far after so many trials | 1 | 2 | 3 | 4 |",
            "| random | 0.5000 ± 0.5000 | 0.5000 ± 0.5000 |",
            "| TPE | 2.0000 ± 1.0000 | 3.0000 ± 1.0000 | 4.0000 ± 1.0000 | 5.0000 ± 1.0000 |",
            "| … over random | 1 | 2 | 3 | 4 |",
            "| TPE | +1.5000 ± 0.5000 | +2.5000 ± 0.5000 |",
            "| best so far by CPU seconds of the run's cheapest search | 25% | 50% | 75% | 100% |",
            "| in the end | runs | CPU s each | failed | again | over random | again, report | over random |",
            "| random | 2 | 8 | 0 | 0.5000 ± 0.5000 | – | -0.5000 ± 0.5000 | – |",
            "| TPE | 2 | 8 | 0 | 5.0000 ± 1.0000 | +4.5000 ± 0.5000 | 4.0000 ± 1.0000 | +4.5000 ± 0.5000 |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("wasn't selected by, by trials"), "{text}");
    }
}
