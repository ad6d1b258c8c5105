//! Caches of few bits: predictions behind them beside dense attention's.

use anyhow::Result;

use super::page::Page;
use super::{distinct, title, with_error};
use crate::caches::rows::Row;
use crate::caches::rules::rules;
use crate::results::mean_and_error;

/// Writes the part, unless there is nothing of it.
///
/// # Errors
/// Answers that can't be read.
pub fn caches(rows: &[Row], page: &mut Page<'_>) -> Result<()> {
    let Some(Row { width, tokens, .. }) = rows.first() else { return Ok(()) };
    page.answer("caches", "Caches of few bits")?;
    page.numbers("results/caches.csv", "`lab caches`.");
    for model in distinct(rows.iter().map(|row| row.model.as_str())) {
        let of = |cache: &str| -> Vec<&Row> {
            rows.iter().filter(|row| row.model == model && row.cache == cache).collect()
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
         (`results/caches-layers.csv`).",
        width - tokens - 1
    ));
    Ok(())
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
