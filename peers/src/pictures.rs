//! The pictures of the record.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::compare::{Comparison, PEERS};
use crate::measure::{median, range};
use crate::picture::{Axes, COLORS, Curve, curves, svg};
use crate::scaling::Point;

/// GFLOP/s of the peers at every shape, with the range over rounds, on a logarithmic scale.
pub fn peers(path: &Path, device: &str, comparisons: &[Comparison]) -> Result<()> {
    let speed = |comparison: &Comparison, seconds: f64| comparison.problem.flops() / seconds / 1e9;
    let of_all = comparisons.iter().flat_map(|comparison| {
        let peers = &comparison.contestants[..PEERS];
        peers.iter().flat_map(|peer| &peer.seconds).map(|&seconds| speed(comparison, seconds))
    });
    let (least, most) = range(&of_all.collect::<Vec<_>>());
    let (low, high) = ((least * 0.5).log10(), (most * 1.6).log10());
    svg(path, (760, 420), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .caption(format!("f32 attention on {device}"), ("sans-serif", 16))
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..comparisons.len() as f64, low..high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .y_desc("GFLOP/s, higher is better")
            .y_label_formatter(&|log| format!("{}", (10f64.powf(*log) * 10.0).round() / 10.0))
            .light_line_style(WHITE)
            .draw()?;
        for peer in 0..PEERS {
            let color = COLORS[peer];
            let mut bars = Vec::new();
            let mut spreads = Vec::new();
            let mut labels = Vec::new();
            for (place, comparison) in comparisons.iter().enumerate() {
                let seconds = &comparison.contestants[peer].seconds;
                let left = place as f64 + 0.14 + 0.24 * peer as f64;
                if seconds.is_empty() {
                    let style = ("sans-serif", 12).into_font().color(&color);
                    labels.push(Text::new("none".to_owned(), (left, low + 0.05), style));
                    continue;
                }
                let middle = speed(comparison, median(seconds));
                bars.push(Rectangle::new([(left, low), (left + 0.22, middle.log10())], color.filled()));
                let (fast, slow) = range(seconds);
                let of = |seconds| speed(comparison, seconds).log10();
                spreads.push(PathElement::new(
                    [(left + 0.11, of(slow)), (left + 0.11, of(fast))],
                    BLACK.stroke_width(1),
                ));
                let top = of(fast) + 0.07;
                labels.push(Text::new(
                    format!("{middle:.1}"),
                    (left + 0.02, top),
                    ("sans-serif", 12).into_font(),
                ));
            }
            chart
                .draw_series(bars)?
                .label(&comparisons[0].contestants[peer].name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
            chart.draw_series(spreads)?;
            chart.draw_series(labels)?;
        }
        for (place, comparison) in comparisons.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(place as f64 + 0.3, low));
            let title = comparison.problem.name;
            area.draw(&Text::new(title, (x, y + 10), ("sans-serif", 14).into_font()))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        Ok(())
    })
}

/// Seconds against N, both axes logarithmic.
pub fn scaling(path: &Path, device: &str, points: &[Point]) -> Result<()> {
    let sampled = points.iter().map(|point| (point.len as f64, median(&point.sampled.seconds))).collect();
    let dense =
        points.iter().filter_map(|point| Some((point.len as f64, median(&point.dense.as_ref()?.seconds))));
    let lines = vec![
        Curve { name: "dense, causal".to_owned(), points: dense.collect() },
        Curve { name: "PrFlash, p(d) = 1/(1+d)".to_owned(), points: sampled },
    ];
    let axes = Axes {
        x: "N, tokens",
        y: "seconds a call",
        log_x: true,
        log_y: true,
        legend: Some(SeriesLabelPosition::UpperLeft),
    };
    curves(path, axes, &[(format!("H = 8, KV = 2, D = 64, f32, {device}"), lines)])
}
