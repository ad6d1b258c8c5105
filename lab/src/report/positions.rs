//! Biases and scalings of positions: Open Question 2.

use anyhow::Result;
use testkit::chart::{Axis, Panel, Series};

use super::page::Page;
use super::{Chosen, Data, add, chosen, perplexity_cells, point, powers, windows};
use crate::perplexity::buckets;
use crate::results::{InWindow, Summary, differences, mean_and_error};
use crate::study::Experiment;

pub fn positions(data: &Data, page: &mut Page<'_>, part: &[&Experiment]) -> Result<()> {
    page.answer("positions", "Harmonic bias on models trained with RoPE (Open Question 2)")?;
    let (mut have, mut asked) = (0, 0);
    let (mut weights, mut beyond, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for experiment in part {
        let all = chosen(&data.positions, experiment, |measured: &InWindow| measured.window)?;
        asked += experiment.places.len() * experiment.choices.len();
        have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
        let Some(none) = all.first().filter(|first| first.choice.name == "none") else { continue };
        let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
        let long = experiment.width > 8192;
        let edges: Vec<_> =
            buckets(experiment.width).into_iter().filter(|bucket| bucket.end > 1024).collect();
        let (mut lines, mut lambdas, mut octaves) = (Vec::new(), Vec::<Series>::new(), Vec::new());
        for Chosen { choice, rows } in &all {
            let mut line = vec![choice.name.clone(), windows(rows).to_string()];
            line.extend(perplexity_cells(experiment, rows, &none.rows));
            let perplexity = |bucket: &std::ops::Range<usize>| {
                Summary::of(bucket.clone(), rows.iter().copied()).perplexity
            };
            if long {
                line.truncate(3);
                line.extend(edges.iter().map(|bucket| format!("{:.2}", perplexity(bucket))));
                let points = edges.iter().map(|bucket| point(bucket.end as f64, (perplexity(bucket), None)));
                octaves.push(Series { name: choice.name.clone(), points: points.collect(), joined: true });
            }
            lines.push(line);
            if let (false, Some((kind, weight))) = (long, choice.name.split_once(", λ = ")) {
                let nats = mean_and_error(&differences(rows, &none.rows));
                let at = point(weight.parse().unwrap_or(f64::NAN), nats);
                add(&mut lambdas, kind, true, at);
            }
        }
        if long {
            beyond.push(Panel { title: title.clone(), series: octaves });
        } else {
            weights.push(Panel { title: title.clone(), series: lambdas });
        }
        tables.push((title, long, edges, lines));
    }
    let up = Axis { least: Some(1e-4), ..powers(10.0, "nats a token over none") };
    page.picture(
        "bias",
        "A bias added at inference, within the trained context; what is 10⁻⁴ or less stands at 10⁻⁴",
        [powers(10.0, "λ"), up],
        &weights,
    )?;
    let axes = [powers(2.0, "position (end of its octave)"), powers(10.0, "perplexity")];
    page.picture("beyond", "Past the trained context of 8,192 tokens", axes, &beyond)?;
    for (title, long, edges, lines) in tables {
        page.line(&format!("### {title}\n"));
        if long {
            let names: Vec<String> =
                edges.iter().map(|edge| format!("{}..{}", edge.start, edge.end)).collect();
            let mut header = vec!["positions", "windows", "perplexity"];
            header.extend(names.iter().map(String::as_str));
            page.table(&header, &lines);
        } else {
            let late = "nats, second half";
            page.table(&["positions", "windows", "perplexity", "bits/byte", "nats over none", late], &lines);
        }
    }
    page.coverage(part, have, asked);
    Ok(())
}
