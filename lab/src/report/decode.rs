//! What a token costs behind a long context.

use anyhow::Result;

use super::Data;
use super::page::Page;
use crate::decode::TOKENS;
use crate::results::Row;
use crate::speed::{ROUNDS, Timed};
use crate::study::{DECODED, Experiment};

/// The quartiles of numbers, of which there is at least one.
fn quartiles(mut numbers: Vec<f64>) -> [f64; 3] {
    numbers.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| numbers[quarter * (numbers.len() - 1) / 4])
}

pub fn decode(data: &Data, page: &mut Page<'_>, part: &[&Experiment]) -> Result<()> {
    if part.is_empty() {
        return Ok(());
    }
    page.line("## Tokens a second behind a long context\n");
    let (mut have, mut asked) = (0, 0);
    let mut lines = Vec::new();
    for experiment in part {
        asked += experiment.choices.len();
        for choice in &experiment.choices {
            let setting = choice.setting()?.values();
            let of_choice = |row: &&Row<Timed>| {
                row.source.width == experiment.width
                    && row.source.model == experiment.model.file()
                    && row.setting == setting
            };
            let rows: Vec<&Row<Timed>> = data.decode.iter().filter(of_choice).collect();
            if rows.is_empty() {
                continue;
            }
            have += 1;
            let of = |number: fn(&Timed) -> f64| {
                quartiles(rows.iter().map(|row: &&Row<Timed>| number(&row.measured)).collect())
            };
            let [low, ratio, high] = of(|timed| timed.dense_seconds / timed.seconds);
            lines.push(vec![
                experiment.model.title().to_owned(),
                experiment.width.to_string(),
                choice.name.clone(),
                format!("{:.2}", of(|timed| 1.0 / timed.seconds)[1]),
                format!("{:.2}", of(|timed| 1.0 / timed.dense_seconds)[1]),
                format!("{ratio:.2} ({low:.2} to {high:.2})"),
            ]);
        }
    }
    if !lines.is_empty() {
        page.table(&["model", "context", "setting", "tokens/s", "tokens/s, dense", "ratio"], &lines);
    }
    page.text(&format!(
        "A token goes through the whole model, and its layers without a sliding window read {DECODED} tokens \
         of the context, those that choose by content besides the summaries of all, in groups of 64. *Dense* is dense attention over a cache of the same kind, in \
         turns with the setting: {TOKENS} tokens each in {ROUNDS} rounds. The tables have the middle round \
         and, in brackets, the quartiles of the ratio. Keys and values of the context are random numbers, \
         which cost what others do. These are times of this device: a GPU has others."
    ));
    page.coverage(part, have, asked);
    Ok(())
}
