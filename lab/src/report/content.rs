//! Blocks chosen by content: predictions beside dense attention's, perplexity, passkeys.

use std::collections::BTreeSet;

use anyhow::Result;

use super::page::Page;
use super::{distinct, title, with_error};
use crate::content::compare::Row;
use crate::content::passkeys::{self, Reading};
use crate::content::rules::at_part;
use crate::results::{self, InWindow, mean_and_error};

/// Writes the part, unless there is nothing of it.
///
/// # Errors
/// Answers that can't be read.
pub fn content(
    steps: &[Row],
    prefill: &[results::Row<InWindow>],
    keys: &[passkeys::Row],
    page: &mut Page<'_>,
) -> Result<()> {
    if steps.is_empty() && prefill.is_empty() && keys.is_empty() {
        return Ok(());
    }
    page.answer("content", "Blocks chosen by content")?;
    predictions(steps, page);
    reading(prefill, page);
    found(keys, page);
    Ok(())
}

fn predictions(rows: &[Row], page: &mut Page<'_>) {
    let Some(Row { width, tokens, .. }) = rows.first() else { return };
    page.line("### Token by token\n");
    page.numbers("results/content.csv", "`lab content`.");
    for model in distinct(rows.iter().map(|row| row.model.as_str())) {
        for part in [8, 4] {
            let rules = at_part(*width, part);
            let of = |options: &str| -> Vec<&Row> {
                rows.iter().filter(|row| row.model == model && row.options == options).collect()
            };
            let window = of(&rules[0].options);
            let lines: Vec<Vec<String>> = rules
                .iter()
                .map(|rule| (rule, of(&rule.options)))
                .filter(|(_, own)| !own.is_empty())
                .map(|(rule, own)| line(&rule.name, &own, &window))
                .collect();
            if lines.is_empty() {
                continue;
            }
            let texts = window.len();
            page.line(&format!("*{}, 1/{part} of the bytes, {texts} texts*\n", title(model)));
            let header = [
                "rule",
                "bytes read %",
                "KL",
                "over sink + window's",
                "in each text",
                "same token %",
                "nats",
            ];
            page.table(&header, &lines);
        }
    }
    page.text(&format!(
        "*KL* is that of predictions from those of dense attention, in nats, the mean over the last {tokens} \
         of {width} tokens and over texts ± its standard error over texts; all before them is read densely. \
         *Over sink + window's* is the ratio of both means, and *in each text* the least and the largest \
         ratio of one text. *Bytes* are keys, values and summaries over what dense attention reads, for one \
         list per key/value head in the layers without a window of their own. The rule by the largest true \
         masses reads all keys to choose, which isn't counted: it is the ceiling."
    ));
}

fn line(name: &str, own: &[&Row], window: &[&Row]) -> Vec<String> {
    let mean = |of: fn(&Row) -> f64| mean_and_error(&own.iter().map(|row| of(row)).collect::<Vec<_>>());
    // Texts that both have.
    let pairs: Vec<(f64, f64)> = own
        .iter()
        .filter_map(|row| window.iter().find(|other| other.text == row.text).map(|other| (row.kl, other.kl)))
        .collect();
    let sum = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>();
    let each: Vec<f64> = pairs.iter().map(|(own, window)| own / window).collect();
    let end = |of: fn(f64, f64) -> f64, from: f64| each.iter().copied().fold(from, of);
    let read = match own.iter().any(|row| row.options.contains("exact")) {
        true => "–".to_owned(),
        false => format!("{:.1}", 100.0 * mean(|row| row.read).0),
    };
    let (kl, error) = mean(|row| row.kl);
    vec![
        name.to_owned(),
        read,
        format!("{kl:.4}{}", error.map_or(String::new(), |error| format!(" ± {error:.4}"))),
        format!("{:.2}", sum(|pair| pair.0) / sum(|pair| pair.1)),
        format!("{:.2} to {:.2}", end(f64::min, f64::INFINITY), end(f64::max, 0.0)),
        format!("{:.1}", 100.0 * mean(|row| row.agreement).0),
        with_error(mean(|row| row.nats), 4),
    ]
}

fn reading(rows: &[results::Row<InWindow>], page: &mut Page<'_>) {
    if rows.is_empty() {
        return;
    }
    page.line("### Read block by block\n");
    page.numbers("results/content-prefill.csv", "`lab perplexity`, as `lab/docs/CONTENT.md` says.");
    for model in distinct(rows.iter().map(|row| row.source.model.as_str())) {
        let own: Vec<_> = rows.iter().filter(|row| row.source.model == model).collect();
        reading_of(model, &own, page);
    }
    page.text(
        "A query block's list is chosen by its first row and three rows of the block before, so that no row \
         is chosen for by what comes after it. *Looking ahead* is by four rows of the block itself, and isn't \
         to be compared with the others: it knows the tokens that it predicts.",
    );
}

/// The table of one model.
fn reading_of(model: &str, rows: &[&results::Row<InWindow>], page: &mut Page<'_>) {
    let nll = |name: &str| -> Vec<(String, f64)> {
        let mut texts = BTreeSet::new();
        let own: Vec<_> = rows.iter().filter(|row| row.name == name).collect();
        texts.extend(own.iter().map(|row| row.source.text.clone()));
        let of = |text: String| {
            let buckets = own.iter().filter(|row| row.source.text == text).map(|row| &row.measured.bucket);
            let (nll, tokens) = buckets.fold((0.0, 0), |sum, one| (sum.0 + one.nll, sum.1 + one.tokens));
            (text, nll / tokens as f64)
        };
        texts.into_iter().map(of).collect()
    };
    let dense = nll("dense");
    let nats = |name: &str| -> Vec<f64> {
        let own = nll(name);
        let over = |(text, own): &(String, f64)| {
            dense.iter().find(|(other, _)| other == text).map(|(_, dense)| own - dense)
        };
        own.iter().filter_map(over).collect()
    };
    let window = mean_and_error(&nats("sink + window")).0;
    let names = distinct(rows.iter().map(|row| row.name.as_str()));
    let lines: Vec<Vec<String>> = names
        .into_iter()
        .filter(|name| *name != "dense")
        .map(|name| {
            let over = mean_and_error(&nats(name));
            vec![name.to_owned(), with_error(over, 4), format!("{:.2}", over.0 / window)]
        })
        .collect();
    let width = rows.first().map_or(0, |row| row.source.width);
    page.line(&format!(
        "*{}, windows of {width} tokens, a quarter of their blocks, {} texts*\n",
        title(model),
        dense.len()
    ));
    page.table(&["rule", "nats over dense", "over sink + window's"], &lines);
}

fn found(rows: &[passkeys::Row], page: &mut Page<'_>) {
    if rows.is_empty() {
        return;
    }
    page.line("### Passkeys\n");
    page.numbers(
        "results/passkeys.csv",
        "`lab passkeys`, `lab passkeys --keys 3`, `lab passkeys --sparse` and `lab passkeys --caches`.",
    );
    for model in distinct(rows.iter().map(|row| row.model.as_str())) {
        let own: Vec<_> = rows.iter().filter(|row| row.model == model).collect();
        page.line(&format!("*{}*\n", title(model)));
        found_by(&own, page);
    }
    page.text(
        "All rules but caches visit a quarter of the prompt's blocks. Question and answer are read token by token under \
         the rule. Where several passkeys with names are in a text, one of them is asked for.",
    );
}

/// The table of one model.
fn found_by(rows: &[&passkeys::Row], page: &mut Page<'_>) {
    let mut kinds: Vec<(usize, Reading)> = Vec::new();
    for row in rows {
        if !kinds.contains(&(row.keys, row.reading)) {
            kinds.push((row.keys, row.reading));
        }
    }
    let mut lines = Vec::new();
    for (keys, reading) in kinds {
        let of = |rule: &str| -> Vec<&passkeys::Row> {
            let own = rows.iter().filter(|r| (r.keys, r.reading) == (keys, reading) && r.rule == rule);
            own.copied().collect()
        };
        let dense = of("dense");
        let place = |row: &passkeys::Row| (row.text.clone(), row.window, row.depth);
        let by_dense: BTreeSet<_> = dense.iter().filter(|row| row.right == 1).map(|row| place(row)).collect();
        for rule in distinct(rows.iter().map(|row| row.rule.as_str())) {
            let own = of(rule);
            if own.is_empty() {
                continue;
            }
            let right = own.iter().filter(|row| row.right == 1);
            let both = right.clone().filter(|row| by_dense.contains(&place(row))).count();
            lines.push(vec![
                match reading {
                    Reading::Dense => "densely".to_owned(),
                    Reading::Sparse => "under the rule".to_owned(),
                    Reading::Cached => "densely, and kept in a cache".to_owned(),
                },
                keys.to_string(),
                rule.to_owned(),
                format!("{} of {}", right.count(), own.len()),
                format!("{both} of {}", by_dense.len()),
            ]);
        }
    }
    let header = ["text is read", "passkeys in it", "rule", "found", "of those that dense attention finds"];
    page.table(&header, &lines);
}
