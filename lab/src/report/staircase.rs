//! What a byte of cache brings, and error by age.

use std::collections::BTreeSet;

use anyhow::Result;
use testkit::chart::{Axis, Panel, Series};

use super::page::Page;
use super::{Chosen, Data, add, chosen, even, perplexity_cells, point, powers, windows};
use crate::ages::AgeError;
use crate::perplexity::buckets;
use crate::results::{InWindow, Row, Summary, differences, mean_and_error};
use crate::study::Experiment;

pub fn staircase(data: &Data, page: &mut Page<'_>, part: &[&Experiment]) -> Result<()> {
    page.answer("staircase", "SAQ: what a byte of cache brings")?;
    let (mut have, mut asked) = (0, 0);
    let (mut panels, mut tables) = (Vec::new(), Vec::new());
    for experiment in part {
        let all = chosen(&data.staircase, experiment, |measured: &InWindow| measured.window)?;
        asked += experiment.places.len() * experiment.choices.len();
        have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
        let Some(plain) = all.first().filter(|first| first.choice.name == "f16") else { continue };
        let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
        let (mut lines, mut kinds) = (Vec::new(), Vec::<Series>::new());
        for Chosen { choice, rows } in &all {
            let sums = Summary::of(0..experiment.width, rows.iter().copied());
            let bytes = sums.kv_bytes / sums.kv_f16_bytes;
            let mut line =
                vec![choice.name.clone(), windows(rows).to_string(), format!("{:.1}%", 100.0 * bytes)];
            line.extend(perplexity_cells(experiment, rows, &plain.rows));
            lines.push(line);
            let kind = match choice.name.as_str() {
                "f16" => continue,
                name if name.starts_with("KIVI") => "KIVI",
                name if name.starts_with("sink + window") => "sink + window, f16",
                name if name.contains("sampled") => continue,
                "recommended" => "recommended",
                "paper" => "paper",
                _ => "one ladder changed",
            };
            let at = point(100.0 * bytes, mean_and_error(&differences(rows, &plain.rows)));
            add(&mut kinds, kind, false, at);
        }
        panels.push(Panel { title: title.clone(), series: kinds });
        tables.push((title, lines));
    }
    let up = Axis { least: Some(1e-4), ..powers(10.0, "nats a token over f16") };
    page.picture(
        "staircase",
        "Quality against bytes: lower and further left is better; what is 10⁻⁴ or less, or negative, stands at 10⁻⁴",
        [even("bytes, percent of f16"), up],
        &panels,
    )?;
    for (title, lines) in tables {
        page.line(&format!("### {title}, all layers\n"));
        let late = "nats, second half";
        page.table(
            &["cache", "windows", "bytes of f16", "perplexity", "bits/byte", "nats over f16", late],
            &lines,
        );
    }
    page.coverage(part, have, asked);
    Ok(())
}

pub fn ages(data: &Data, page: &mut Page<'_>, part: &[&Experiment]) -> Result<()> {
    page.answer("ages", "SAQ: error by age")?;
    let (mut have, mut asked) = (0, 0);
    let (mut scores, mut outputs, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for experiment in part {
        let all = chosen(&data.ages, experiment, |measured: &AgeError| measured.window)?;
        asked += experiment.places.len() * experiment.choices.len();
        let texts =
            |rows: &[&Row<AgeError>]| rows.iter().map(|row| &row.source.text).collect::<BTreeSet<_>>().len();
        have += all.iter().map(|chosen| texts(&chosen.rows)).sum::<usize>();
        if all.is_empty() {
            continue;
        }
        let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
        let ages = buckets(experiment.width);
        let (mut lines, mut by_score, mut by_output) = (Vec::new(), Vec::new(), Vec::new());
        for Chosen { choice, rows } in &all {
            let at = |start: usize, number: &dyn Fn(&AgeError) -> Option<f64>| {
                let here = rows.iter().filter(|row| row.measured.ages.start == start);
                mean_and_error(&here.filter_map(|row| number(&row.measured)).collect::<Vec<_>>())
            };
            let score = |start| at(start, &|error| error.score_error);
            let mut line = vec![choice.name.clone()];
            line.extend(ages.iter().map(|age| format!("{:.3}", score(age.start).0)));
            line.push(format!("{:.4}", at(0, &|error| Some(error.whole_error)).0));
            lines.push(line);
            let places = || ages.iter().map(|age| (age.start.max(64) as f64 * age.end as f64).sqrt());
            let curve = |values: Vec<(f64, Option<f64>)>| Series {
                name: choice.name.clone(),
                points: places().zip(values).map(|(x, value)| point(x, value)).collect(),
                joined: true,
            };
            by_score.push(curve(ages.iter().map(|age| score(age.start)).collect()));
            let of_mass = |error: &AgeError| (error.mass > 0.0).then(|| error.output_error / error.mass);
            by_output.push(curve(ages.iter().map(|age| at(age.start, &of_mass)).collect()));
        }
        scores.push(Panel { title: title.clone(), series: by_score });
        outputs.push(Panel { title: title.clone(), series: by_output });
        tables.push((title, ages, lines));
    }
    let across = powers(2.0, "age in tokens");
    let up = |title| Axis { least: Some(1e-4), ..powers(10.0, title) };
    page.picture(
        "ages",
        "Error of attention scores by the age of the key, mean over layers and texts",
        [across, up("root mean square error of scores")],
        &scores,
    )?;
    page.picture(
        "ages_output",
        "Error that keys and values of an age bring into the output, by their softmax mass",
        [across, up("error of the output by softmax mass")],
        &outputs,
    )?;
    for (title, ages, lines) in tables {
        page.line(&format!("### {title}: error of scores by age, and of the whole output\n"));
        let names: Vec<String> = ages.iter().map(|age| format!("{}..{}", age.start, age.end)).collect();
        let mut header = vec!["cache"];
        header.extend(names.iter().map(String::as_str));
        header.push("output");
        page.table(&header, &lines);
    }
    page.coverage(part, have, asked);
    Ok(())
}
