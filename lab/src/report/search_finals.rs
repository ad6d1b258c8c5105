//! What searches of word2vec found, trained on all of the text; and whether a part of it orders
//! points as all of it does.

use super::page::Page;
use super::with_error;
use crate::results::mean_and_error;
use crate::search::real::agreement::{self, Correlation, correlation};
use crate::search::real::finals::Row;

/// A number of a training; none where it failed.
type Value = fn(&Row) -> Option<f64>;

/// Writes the trainings on all of the text, unless there are none.
pub fn finals(rows: &[Row], page: &mut Page<'_>) {
    if rows.is_empty() {
        return;
    }
    page.line("### What was found, trained on all of the text\n");
    page.numbers("results/search-finals.csv", "`lab search finals`.");
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let of = |name: &str| -> Vec<&Row> { rows.iter().filter(|row| row.name == name).collect() };
    let line = |name: &&str| {
        let own = of(name);
        let mean = |value: Value, digits: usize, unit: f64| {
            let values: Option<Vec<f64>> =
                own.iter().map(|row| value(row).map(|value| value * unit)).collect();
            let Some(values) = values else { return "failed".to_owned() };
            let (mean, error) = mean_and_error(&values);
            let error = error.map_or(String::new(), |error| format!(" ± {error:.digits$}"));
            format!("{mean:.digits$}{error}")
        };
        let seconds: Vec<f64> = own.iter().map(|row| row.cpu_seconds).collect();
        let scores: [(Value, usize, f64); 6] = [
            (|row| row.wordsim_second, 3, 1.0),
            (|row| row.simlex_second, 3, 1.0),
            (|row| row.analogies_second, 1, 100.0),
            (|row| row.wordsim, 3, 1.0),
            (|row| row.simlex, 3, 1.0),
            (|row| row.analogies, 1, 100.0),
        ];
        let scores = scores.map(|(value, digits, unit)| mean(value, digits, unit));
        let ends = [format!("{:.0}", mean_and_error(&seconds).0)];
        [(*name).to_owned(), own.len().to_string()].into_iter().chain(scores).chain(ends).collect()
    };
    let header = [
        "settings",
        "seeds",
        "WordSim-353, second half",
        "SimLex-999, second half",
        "analogies %, second half",
        "WordSim-353",
        "SimLex-999",
        "analogies %",
        "CPU s",
    ];
    page.table(&header, &names.iter().map(line).collect::<Vec<Vec<String>>>());
    for name in names {
        if let Some(first) = of(name).first() {
            let chosen = first.chosen_by.map_or(String::new(), |score| format!(", chosen by {score:.4}"));
            page.item(&format!("*{name}*{chosen}: {}", first.values));
        }
    }
    page.line("");
    page.text(
        "For each method this is the best point of all its searches, chosen by its score again on a part of \
         the text and the first halves of the pairs. The second halves therefore say what it is worth. The \
         table has means over seeds ± their standard error. Analogies are completed by 3CosAdd, and those \
         with an unknown word are wrong. *Defaults* are gensim's.",
    );
}

/// Writes the rank correlations, unless there are none.
pub fn tau(rows: &[agreement::Row], page: &mut Page<'_>) {
    let Some(agreement::Row { part, whole, .. }) = rows.first() else { return };
    page.line("### Does a part of the text order points as all of it does?\n");
    page.numbers("results/search-tau.csv", "`lab search tau`.");
    let each: Vec<&agreement::Row> = rows.iter().collect();
    type Of = fn(&agreement::Row) -> Option<f64>;
    let [[first, second, all], report]: [[Of; 3]; 2] = [
        [|row| row.first, |row| row.second, |row| row.all],
        [|row| row.first_report, |row| row.second_report, |row| row.all_report],
    ];
    let cell = |one: Of, other: Of| {
        let Correlation { tau, error } = correlation(&each, one, other);
        with_error((tau, Some(error)), 3)
    };
    let lines = [
        vec![format!("{part} and {whole}"), cell(first, all), cell(report[0], report[2])],
        vec![format!("two seeds of {part}"), cell(first, second), cell(report[0], report[1])],
    ];
    page.table(&["Kendall's τ-b", "by what selects", "by what reports"], &lines);
    let seconds = |of: fn(&agreement::Row) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
    let failed = rows.iter().filter(|row| row.first.is_none() || row.all.is_none()).count();
    page.text(&format!(
        "There were {} random points, {failed} of which failed and count as the worst. A training takes {:.1} \
         CPU seconds on the part and {:.1} on all of the text. The number after ± is the standard error by \
         the bootstrap over points.",
        rows.len(),
        seconds(|row| row.part_seconds),
        seconds(|row| row.all_seconds)
    ));
}
