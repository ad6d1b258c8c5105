//! What a block costs and brings: Open Question 3.

use anyhow::Result;
use testkit::chart::{Panel, Series};

use super::page::Page;
use super::{Chosen, Data, add, chosen, even, late, perplexity_cells, point, powers, windows, with_error};
use crate::perplexity::buckets;
use crate::results::{InWindow, Row, Summary, differences, mean_and_error};
use crate::speed::Timed;
use crate::study::{Choice, Experiment};

pub fn sampling(data: &Data, page: &mut Page<'_>, part: &[&Experiment]) -> Result<()> {
    page.answer("sampling", "PrFlashAttention: what a block costs, and what it brings (Open Question 3)")?;
    let (mut have, mut asked) = (0, 0);
    let (mut frontier, mut by_position, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    let mut in_time = Vec::new();
    for experiment in part {
        let all = chosen(&data.sampling, experiment, |measured: &InWindow| measured.window)?;
        asked += experiment.places.len() * experiment.choices.len();
        have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
        let Some(dense) = all.first().filter(|first| first.choice.name == "dense") else { continue };
        let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
        let (mut lines, mut kinds) = (Vec::new(), Vec::<Series>::new());
        let (mut positions, mut timed) = (Vec::new(), Vec::new());
        for Chosen { choice, rows } in &all {
            let sums = Summary::of(0..experiment.width, rows.iter().copied());
            // Of 64 tokens, whatever the setting's are.
            let blocks = sums.blocks * choice.setting()?.block_size().unwrap_or(64) as f64 / 64.0;
            let mut line = vec![choice.name.clone(), windows(rows).to_string(), format!("{:.2}", blocks)];
            line.extend(perplexity_cells(experiment, rows, &dense.rows));
            let times = time_ratios(&data.speed, experiment, choice)?;
            let shown = |[low, middle, high]: [f64; 3]| format!("{middle:.3} ({low:.3} to {high:.3})");
            line.push(times.map_or(String::new(), shown));
            lines.push(line);
            let kind = match choice.name.split(", ").collect::<Vec<_>>()[..] {
                ["dense"] => continue,
                [kind, blocks] if blocks.ends_with(" blocks") && !blocks.contains("rounds") => kind,
                ["paper"] => "paper: 1/(1+d), β = 0",
                _ => "half window, other β, seed, rounds",
            };
            let nats = mean_and_error(&differences(rows, &dense.rows));
            let at = point(blocks, nats);
            if let (Some([_, time, _]), true) = (times, choice.name.ends_with(" blocks")) {
                add(&mut timed, kind, true, point(time, nats));
            }
            let joined = !kind.contains("paper") && !kind.contains("other");
            add(&mut kinds, kind, joined, at);
            if choice.name.ends_with(", 8 blocks") {
                let points = buckets(experiment.width).into_iter().skip(2).map(|bucket| {
                    let of = |rows: &[&'_ Row<InWindow>]| -> Vec<Row<InWindow>> {
                        let here = |row: &&&Row<InWindow>| row.measured.bucket.positions == bucket;
                        rows.iter().filter(here).map(|row| (*row).clone()).collect()
                    };
                    let (rows, dense) = (of(rows), of(&dense.rows));
                    let nats =
                        differences(&rows.iter().collect::<Vec<_>>(), &dense.iter().collect::<Vec<_>>());
                    point(bucket.end as f64, mean_and_error(&nats))
                });
                positions.push(Series { name: kind.to_owned(), points: points.collect(), joined: true });
            }
        }
        kinds.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
        timed.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
        in_time.push(Panel { title: title.clone(), series: timed });
        frontier.push(Panel { title: title.clone(), series: kinds });
        by_position.push(Panel { title: title.clone(), series: positions });
        let sentences = duels(experiment, &all);
        tables.push((title, lines, sentences));
    }
    let up = even("nats a token over dense");
    let caption = "Quality against cost: lower and further left is better";
    page.picture("frontier", caption, [even("key blocks per token and head"), up], &frontier)?;
    let caption = "Quality against time: a layer's attention, medians of rounds in turn with dense";
    let across = even("time of a layer's attention over dense");
    page.picture("frontier_time", caption, [across, up], &in_time)?;
    let across = powers(2.0, "position (end of its octave)");
    page.picture("by_position", "What 8 blocks a row lose, by position", [across, up], &by_position)?;
    for (title, lines, sentences) in tables {
        page.line(&format!("### {title}\n"));
        let late = "nats, second half";
        let header = [
            "setting",
            "windows",
            "blocks",
            "perplexity",
            "bits/byte",
            "nats over dense",
            late,
            "time of dense",
        ];
        page.table(&header, &lines);
        sentences.iter().for_each(|sentence| page.item(sentence));
        page.line("");
    }
    page.coverage(part, have, asked);
    Ok(())
}

/// Sampling against the patterns with as many blocks, window by window, by each seed and by both;
/// and against other seeds and corrections.
fn duels(experiment: &Experiment, all: &[Chosen<'_, InWindow>]) -> Vec<String> {
    let find = |name: &str| Some(all.iter().find(|chosen| chosen.choice.name == name)?.rows.as_slice());
    let mut sentences = Vec::new();
    let mut duel = |at: usize, this: &str, these: &[&Row<InWindow>], other: &str| {
        let Some(others) = find(other) else { return };
        let over = differences(these, others);
        let better = over.iter().filter(|&&nats| nats < 0.0).count();
        let half = experiment.width / 2;
        let late = differences(&late(these, half), &late(others, half));
        sentences.push(format!(
            "At {at} blocks *{this}* has {} nats over *{other}* ({} in the second half), and is better in \
             {better} of {} windows.",
            with_error(mean_and_error(&over), 4),
            with_error(mean_and_error(&late), 4),
            over.len(),
        ));
    };
    for blocks in [4, 8, 16, 32] {
        let this = format!("half window, {blocks} blocks");
        let Some(rows) = find(&this) else { continue };
        // A window's mean over seeds is that of all their rows.
        let seeded = find(&format!("{this}, other seed")).map(|other| [rows, other].concat());
        for pattern in ["sink + window", "uniform"] {
            let pattern = format!("{pattern}, {blocks} blocks");
            duel(blocks, &this, rows, &pattern);
            if let Some(rows) = &seeded {
                duel(blocks, &format!("{this}, mean of both seeds"), rows, &pattern);
            }
        }
        for other in ["other seed", "β = 0", "β = 1"] {
            duel(blocks, &this, rows, &format!("{this}, {other}"));
        }
        let content = format!("by content, {blocks} blocks");
        if let Some(rows) = find(&content) {
            duel(blocks, &content, rows, &format!("sink + window, {blocks} blocks"));
        }
    }
    sentences
}

/// The times of a setting over those of dense attention, in the same rounds: quartiles.
fn time_ratios(rows: &[Row<Timed>], experiment: &Experiment, choice: &Choice) -> Result<Option<[f64; 3]>> {
    let setting = choice.setting()?.values();
    let here = rows.iter().filter(|row| {
        row.source.width == experiment.width
            && row.source.model == experiment.model.file()
            && row.setting == setting
    });
    let mut ratios: Vec<f64> = here.map(|row| row.measured.seconds / row.measured.dense_seconds).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |quarter| ratios.get(quarter * ratios.len().saturating_sub(1) / 4).copied();
    Ok(at(1).zip(at(2)).zip(at(3)).map(|((low, middle), high)| [low, middle, high]))
}

/// Writes how much of the timing there is; its numbers stand in the tables before.
pub fn speed(data: &Data, page: &mut Page<'_>, part: &[&Experiment]) -> Result<()> {
    if part.is_empty() {
        return Ok(());
    }
    let (mut have, mut asked) = (0, 0);
    for experiment in part {
        asked += experiment.choices.len();
        for choice in &experiment.choices {
            have += usize::from(time_ratios(&data.speed, experiment, choice)?.is_some());
        }
    }
    page.text(
        "*Time of dense* is the time of one layer's attention over the whole window, on random numbers, over \
         that of dense attention in the same round. The tables have the middle of 9 rounds and, in brackets, \
         their quartiles. These are times of this device: a GPU has others.",
    );
    page.coverage(part, have, asked);
    Ok(())
}
