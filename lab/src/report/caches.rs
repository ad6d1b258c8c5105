//! Caches of few bits: predictions behind them beside dense attention's.

use std::collections::BTreeSet;

use anyhow::Result;

use super::page::Page;
use super::{distinct, title, with_error};
use crate::caches::rows::Row;
use crate::caches::rules::{WIDTH, rules, rules_of_lengths};
use crate::results::mean_and_error;

/// Writes the part, unless there is nothing of it.
///
/// # Errors
/// Answers that can't be read.
pub fn caches(all: &[Row], page: &mut Page<'_>) -> Result<()> {
    let Some(Row { tokens, .. }) = all.first() else { return Ok(()) };
    page.answer("caches", "Caches of few bits")?;
    page.numbers("results/caches.csv", "`lab caches` and, of other lengths, by `lab caches --lengths`.");
    // Of other lengths there are fewer texts, in a table of their own.
    let usual = |row: &&Row| row.width == WIDTH;
    let rows: Vec<&Row> = all.iter().filter(usual).collect();
    for model in distinct(rows.iter().map(|row| row.model.as_str())) {
        let of = |cache: &str| -> Vec<&Row> {
            rows.iter().copied().filter(|row| row.model == model && row.cache == cache).collect()
        };
        let (kivi, recommended) = (of("kivi4"), of("recommended"));
        let lines: Vec<Vec<String>> = rules()
            .iter()
            .map(|rule| (rule, of(&rule.cache)))
            .filter(|(_, own)| !own.is_empty())
            .map(|(rule, own)| line(&rule.name, &own, [&kivi, &recommended]))
            .collect();
        let mut texts = distinct(rows.iter().filter(|row| row.model == model).map(|row| row.text.as_str()));
        texts.sort_unstable();
        page.line(&format!("*{}, {} texts: {}*\n", title(model), texts.len(), texts.join(", ")));
        let header = [
            "cache",
            "bits at 2k, 4k, 16k",
            "KL × 10³",
            "over KIVI-4's",
            "over recommended's",
            "same token %",
            "nats",
        ];
        page.table(&header, &lines);
    }
    page.text(&format!(
        "*KL* is that of predictions from those of dense attention in f32, in nats, the mean over {tokens} \
         tokens behind {} that were read densely, and over texts ± its standard error over texts. All layers \
         have the cache. *Over* another's is the ratio of the means over the texts that both have. *Bits* are \
         all that a cache holds over its numbers of keys and values, at 2,048, 4,096 and 16,384 tokens. *N at \
         …* means the N most sensitive among the keys and values of all layers, as measured on another text \
         (`results/caches-layers.csv`). *Balanced* are caches of keys that were multiplied by factors for their \
         channels, found on that text, by which queries were divided.",
        WIDTH - *tokens - 1
    ));
    by_length(all, page);
    Ok(())
}

/// Some of the caches behind texts of several lengths.
fn by_length(rows: &[Row], page: &mut Page<'_>) {
    let mut texts = distinct(rows.iter().filter(|row| row.width != WIDTH).map(|row| row.text.as_str()));
    if texts.is_empty() {
        return;
    }
    texts.sort_unstable();
    let known = |row: &&Row| texts.contains(&row.text.as_str());
    let rows: Vec<&Row> = rows.iter().filter(known).collect();
    let mut lines = Vec::new();
    for model in distinct(rows.iter().map(|row| row.model.as_str())) {
        let widths: BTreeSet<usize> =
            rows.iter().filter(|row| row.model == model).map(|row| row.width).collect();
        for width in widths {
            let of = |cache: &str| -> Vec<&Row> {
                let here = |row: &&Row| row.model == model && row.width == width && row.cache == cache;
                rows.iter().copied().filter(here).collect()
            };
            let (kivi, recommended) = (of("kivi4"), of("recommended"));
            for rule in rules_of_lengths() {
                let own = of(&rule.cache);
                let Some(first) = own.first() else { continue };
                let mut line = line(&rule.name, &own, [&kivi, &recommended]);
                line[1] = format!("{:.2}", first.bits);
                lines.push([vec![title(model).to_owned(), width.to_string()], line].concat());
            }
        }
    }
    page.line(&format!("*By length, {} texts: {}*\n", texts.len(), texts.join(", ")));
    let header = [
        "model",
        "tokens",
        "cache",
        "bits",
        "KL × 10³",
        "over KIVI-4's",
        "over recommended's",
        "same token %",
        "nats",
    ];
    page.table(&header, &lines);
    page.text(
        "*Tokens* are those of the window, of which the last were read behind the cache, *bits* those that it had \
         then on average.",
    );
}

fn line(name: &str, own: &[&Row], others: [&[&Row]; 2]) -> Vec<String> {
    let mean = |of: fn(&Row) -> f64| mean_and_error(&own.iter().map(|row| of(row)).collect::<Vec<_>>());
    let over = |others: &[&Row]| {
        let pairs = own.iter().filter_map(|row| {
            others.iter().find(|other| other.text == row.text).map(|other| (row.kl, other.kl))
        });
        let (own, other) = pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        if other > 0.0 { format!("{:.2}", own / other) } else { "–".to_owned() }
    };
    let (kl, error) = mean(|row| 1e3 * row.kl);
    let bits = own
        .first()
        .map_or(String::new(), |row| format!("{:.2}, {:.2}, {:.2}", row.bits_2k, row.bits_4k, row.bits_16k));
    vec![
        name.to_owned(),
        bits,
        format!("{kl:.2}{}", error.map_or(String::new(), |error| format!(" ± {error:.2}"))),
        over(others[0]),
        over(others[1]),
        format!("{:.1}", 100.0 * mean(|row| row.agreement).0),
        with_error(mean(|row| row.nats), 4),
    ]
}
