//! Vectors of words, ours and gensim's, of the same texts and settings.

use anyhow::Result;

use super::mean_and_error;
use super::page::Page;
use crate::word2vec::rows::{Problem, Row};

/// What others are measured by.
const BASELINE: &str = "gensim";

/// A score: what it is called, how it is written, and how near it has to be to gensim's.
struct Score {
    title: &'static str,
    of: fn(&Row) -> Option<f64>,
    digits: usize,
    near: f64,
}

const SCORES: [Score; 3] = [
    Score { title: "WordSim-353", of: |row| row.wordsim, digits: 3, near: 0.02 },
    Score { title: "SimLex-999", of: |row| row.simlex, digits: 3, near: 0.015 },
    Score {
        title: "analogies, %",
        of: |row| Some(row.analogies()).filter(|value| value.is_finite()),
        digits: 1,
        near: 1.0,
    },
];

/// Trainings that differ in their seeds alone.
struct Seeds<'r> {
    name: String,
    rows: Vec<&'r Row>,
}

/// Writes the part, unless nothing was measured.
pub fn word2vec(rows: &[Row], page: &mut Page<'_>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    page.answer("word2vec", "Vectors of words: word2vec")?;
    page.numbers("results/word2vec.csv", "`lab word2vec compare`.");
    let mut problems: Vec<Problem> = Vec::new();
    for row in rows {
        if !problems.contains(&row.problem()) {
            problems.push(row.problem());
        }
    }
    for problem in &problems {
        let here: Vec<&Row> = rows.iter().filter(|row| row.problem() == *problem).collect();
        title(problem, &here, page);
        tables(&here, page);
    }
    let near: Vec<String> = SCORES.iter().map(|score| format!("{} in {}", score.near, score.title)).collect();
    page.text(&format!(
        "The tables have means over seeds ± the standard error. Every pair and question counts: pairs with an \
         unknown word have the median of the other cosines, and analogies (3CosAdd) with one are wrong. \
         *Near* is a difference of means of at most {}. *Words/s* are words of the text, those of all epochs, \
         by the wall clock and by seconds of the processor. The time of reading the text is left out where \
         it isn't read while training. Trainings ran one after the other, not in turn.",
        near.join(", ")
    ));
    Ok(())
}

fn title(problem: &Problem, rows: &[&Row], page: &mut Page<'_>) {
    let Problem { text, architecture, dimension, window, negative, epochs, min_count } = problem;
    page.line(&format!("### {text}, {architecture}, {dimension} numbers\n"));
    let covered = rows.first().map_or(String::new(), |row| {
        format!(
            " The vectors cover {} of {} pairs of WordSim-353, {} of {} of SimLex-999, and {} of {} analogies.",
            row.wordsim_covered,
            row.wordsim_pairs,
            row.simlex_covered,
            row.simlex_pairs,
            row.analogies_covered,
            row.analogies_asked
        )
    });
    page.text(&format!(
        "All have a window of {window} words to each side, {negative} negatives, {epochs} epochs, and the \
         words that come at least {min_count} times.{covered}"
    ));
}

fn tables(rows: &[&Row], page: &mut Page<'_>) {
    let all = by_seeds(rows);
    let base: Vec<&Row> = rows.iter().filter(|row| row.trainer == BASELINE).copied().collect();
    let titles = SCORES.iter().map(|score| score.title);
    let header: Vec<&str> =
        ["trainer", "seeds"].into_iter().chain(titles).chain(["words/s", "words/CPU-s"]).collect();
    let line = |seeds: &Seeds<'_>| {
        let scores = SCORES.iter().map(|score| {
            let (mean, error) = mean_and_error(&values(score, &seeds.rows));
            let error = error.map_or(String::new(), |error| format!(" ± {error:.*}", score.digits));
            if mean.is_finite() { format!("{mean:.*}{error}", score.digits) } else { "–".to_owned() }
        });
        let speed = |of: fn(&Row) -> f64| {
            let speeds: Vec<f64> = seeds.rows.iter().map(|row| of(row)).collect();
            format!("{:.0}", mean_and_error(&speeds).0)
        };
        let own = [seeds.name.clone(), seeds.rows.len().to_string()];
        let speeds = [speed(|row| row.raw_words_per_s), speed(|row| row.raw_words_per_cpu_s)];
        own.into_iter().chain(scores).chain(speeds).collect()
    };
    page.table(&header, &all.iter().map(line).collect::<Vec<Vec<String>>>());
    if base.is_empty() {
        return;
    }
    let difference = |seeds: &Seeds<'_>| {
        let scores = SCORES.iter().map(|score| {
            let [own, others] = [&seeds.rows, &base].map(|rows| mean_and_error(&values(score, rows)).0);
            told(own - others, score)
        });
        std::iter::once(seeds.name.clone()).chain(scores).collect()
    };
    let ours = all.iter().filter(|seeds| seeds.rows.iter().all(|row| row.trainer != BASELINE));
    let lines: Vec<Vec<String>> = ours.map(difference).collect();
    if !lines.is_empty() {
        page.text(&format!("These are the differences to the mean over all trainings of `{BASELINE}` here:"));
        let header: Vec<&str> =
            std::iter::once("trainer").chain(SCORES.iter().map(|score| score.title)).collect();
        page.table(&header, &lines);
    }
}

fn values(score: &Score, rows: &[&Row]) -> Vec<f64> {
    rows.iter().filter_map(|row| (score.of)(row)).collect()
}

/// A difference, and whether it is near.
fn told(difference: f64, score: &Score) -> String {
    let how = match difference {
        _ if difference.is_nan() => return "–".to_owned(),
        _ if difference.abs() <= score.near => "near",
        _ if difference > 0.0 => "above",
        _ => "below",
    };
    format!("{difference:+.*}, {how}", score.digits)
}

/// The trainings by their names, in the order in which they come, gensim's first.
fn by_seeds<'r>(rows: &[&'r Row]) -> Vec<Seeds<'r>> {
    let mut all: Vec<Seeds<'r>> = Vec::new();
    for row in rows {
        let batch = row.batch.map_or(String::new(), |batch| format!(", batch {batch}"));
        let name = format!("{}{batch}; {}", row.trainer, row.settings);
        match all.iter_mut().find(|seeds| seeds.name == name) {
            Some(seeds) => seeds.rows.push(row),
            None => all.push(Seeds { name, rows: vec![row] }),
        }
    }
    all.sort_by_key(|seeds| seeds.rows.iter().any(|row| row.trainer != BASELINE));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_apart() {
        for (difference, want) in
            [(0.02, "+0.020, near"), (-0.021, "-0.021, below"), (0.05, "+0.050, above"), (f64::NAN, "–")]
        {
            assert_eq!(told(difference, &SCORES[0]), want);
        }
    }
}
