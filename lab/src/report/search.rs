//! Methods of search on scores of real trainings.

use anyhow::Result;
use testkit::chart::{Axis, Panel, Point, Series};

use super::page::Page;
use super::powers;
use crate::search::rows::{MARKS, Row};

/// Methods of the picture; the grid is far above it.
const SHOWN: [&str; 6] = [
    "random",
    "cross-entropy, paper",
    "cross-entropy, rows",
    "cross-entropy, tree",
    "TPE",
    "optuna TPE, new points",
];

/// Writes the part, unless nothing was measured.
pub fn search(rows: &[Row], page: &mut Page<'_>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    page.answer("search", "Search of hyper-parameters")?;
    page.numbers("results/search.csv", "`lab search table`.");
    let mut tables: Vec<&str> = rows.iter().map(|row| row.table.as_str()).collect();
    tables.dedup();
    picture(rows, &tables, page)?;
    for name in tables {
        let here: Vec<&Row> = rows.iter().filter(|row| row.table == name).collect();
        table(name, &here, page);
    }
    page.text(
        "*Regret* is how far the best point so far is from the best of all points, in units of how far that \
         is from the median point. The tables have means over seeds ± their standard error. *Over TPE* and \
         *over random* are means of differences by the same seed. Other programs have other seeds, and so no \
         such differences.",
    );
    Ok(())
}

fn table(name: &str, rows: &[&Row], page: &mut Page<'_>) {
    let Some(first) = rows.first() else { return };
    let Row { scores, points, fit_r2, fit_spearman, fit_rmse, largest, middle, .. } = first;
    page.line(&format!("### {name}: {scores} trainings of {points} points\n"));
    page.text(&format!(
        "A Gaussian process gives the scores between the trainings. It tells the score of each training by \
         the others with R² {fit_r2:.3}, a rank correlation of {fit_spearman:.3} and an error of \
         {fit_rmse:.3}. Its best point has the score {largest:.3}, its median point {middle:.3}."
    ));
    let mut methods: Vec<&str> = rows.iter().map(|row| row.method.as_str()).collect();
    methods.dedup();
    let line = |method: &&str, cell: &dyn Fn(&Row) -> Option<String>| -> Vec<String> {
        let of = |trials: usize| rows.iter().find(|row| row.method == *method && row.trials == trials);
        let cells = MARKS.iter().map(|&trials| of(trials).and_then(|row| cell(row)).unwrap_or("–".into()));
        std::iter::once((*method).to_owned()).chain(cells).collect()
    };
    let seeds = |method: &str| rows.iter().find(|row| row.method == method).map_or(0, |row| row.seeds);
    let header = |first: &str| {
        std::iter::once(first.to_owned()).chain(MARKS.iter().map(usize::to_string)).collect::<Vec<_>>()
    };
    let mut put = |first: &str, methods: &[&str], cell: &dyn Fn(&Row) -> Option<String>| {
        let lines: Vec<Vec<String>> = methods.iter().map(|method| line(method, cell)).collect();
        let header = header(first);
        page.table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &lines);
    };
    put("regret after so many trials", &methods, &|row| Some(format!("{:.4} ± {:.4}", row.mean, row.error)));
    put("median regret", &methods, &|row| Some(format!("{:.4}", row.median)));
    let ours: Vec<&str> = methods
        .iter()
        .copied()
        .filter(|m| rows.iter().any(|r| r.method == *m && r.over_tpe.is_some()))
        .collect();
    put("over TPE", &ours, &|row| Some(format!("{:+.4} ± {:.4}", row.over_tpe?, row.over_tpe_error?)));
    put("over random", &ours, &|row| {
        Some(format!("{:+.4} ± {:.4}", row.over_random?, row.over_random_error?))
    });
    let seeds: Vec<String> = methods.iter().map(|method| format!("{method} {}", seeds(method))).collect();
    page.text(&format!("Each method searched by this many seeds: {}.", seeds.join(", ")));
}

fn picture(rows: &[Row], tables: &[&str], page: &mut Page<'_>) -> Result<()> {
    let panel = |table: &&str| {
        let series = |method: &&str| {
            let mine = rows.iter().filter(|row| row.table == *table && row.method == *method);
            let points =
                mine.map(|row| Point { x: row.trials as f64, y: row.mean, error: row.error }).collect();
            Series { name: (*method).to_owned(), points, joined: true }
        };
        let series = SHOWN.iter().map(series).filter(|series| !series.points.is_empty());
        Panel { title: (*table).to_owned(), series: series.collect() }
    };
    let panels: Vec<Panel> = tables.iter().map(panel).collect();
    let up = Axis { least: Some(1e-3), ..powers(10.0, "mean regret, 0.001 at least") };
    page.picture(
        "search",
        "Searches of hyper-parameters of word2vec: how far the best so far is from the best",
        [powers(2.0, "trials"), up],
        &panels,
    )
}
