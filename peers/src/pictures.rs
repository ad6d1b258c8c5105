//! The pictures of the record.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use testkit::chart::{Axis, Panel, Scale, Series, chart};
use testkit::picture::{COLORS, svg};
use testkit::statistics::{median, range, ratios};

use crate::compare::{Comparison, PEERS};
use crate::scaling::Point;

/// Speed of the peers at every shape, prflash's being 1: medians and ranges of ratios within
/// rounds, with the median times above the bars.
pub fn peers(path: &Path, device: &str, comparisons: &[Comparison]) -> Result<()> {
    let speeds = |comparison: &Comparison, peer: usize| {
        let all = &comparison.contestants;
        ratios(&all[0].seconds, &all[peer].seconds)
    };
    let of_all =
        comparisons.iter().flat_map(|comparison| (0..PEERS).flat_map(|peer| speeds(comparison, peer)));
    let most = of_all.fold(1.0, f64::max);
    svg(path, (760, 420), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .caption(format!("f32 attention on {device}"), ("sans-serif", 16))
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..comparisons.len() as f64, 0.0..most * 1.25)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .y_desc("speed, prflash = 1")
            .y_label_formatter(&|speed| format!("{speed:.1}"))
            .light_line_style(WHITE)
            .draw()?;
        for (peer, color) in COLORS.into_iter().enumerate().take(PEERS) {
            let (mut bars, mut spreads, mut labels) = (Vec::new(), Vec::new(), Vec::new());
            for (place, comparison) in comparisons.iter().enumerate() {
                let left = place as f64 + 0.12 + 0.26 * peer as f64;
                let speeds = speeds(comparison, peer);
                let one = &comparison.contestants[peer];
                let (slow, fast, label) = match (&one.absent, one.ran()) {
                    (Some(_), _) => (0.0, 0.0, "not run".to_owned()),
                    (None, false) => (0.0, 0.0, "failed".to_owned()),
                    (None, true) => {
                        let (slow, fast) = range(&speeds);
                        bars.push(Rectangle::new(
                            [(left, 0.0), (left + 0.24, median(&speeds))],
                            color.filled(),
                        ));
                        let milliseconds = median(&comparison.contestants[peer].seconds) * 1e3;
                        (slow, fast, format!("{milliseconds:.*} ms", usize::from(milliseconds < 100.0)))
                    }
                };
                let middle = left + 0.12;
                spreads.push(PathElement::new([(middle, slow), (middle, fast)], BLACK.stroke_width(1)));
                let style = ("sans-serif", 11).into_font().into_text_style(area);
                let style = style.pos(Pos::new(HPos::Center, VPos::Bottom));
                labels.push(Text::new(label, (middle, fast + most * 0.01), style));
            }
            chart
                .draw_series(bars)?
                .label(&comparisons[0].contestants[peer].name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
            chart.draw_series(spreads)?;
            chart.draw_series(labels)?;
        }
        for (place, comparison) in comparisons.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(place as f64 + 0.5, 0.0));
            let style = ("sans-serif", 14).into_font().into_text_style(area);
            let style = style.pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(comparison.problem.name, (x, y + 10), style))?;
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
    let sampled = points.iter().map(|point| (point.len as f64, median(&point.sampled.seconds)));
    let dense =
        points.iter().filter_map(|point| Some((point.len as f64, median(&point.dense.as_ref()?.seconds))));
    let series = vec![Series::line("dense, causal", dense), Series::line("PrFlash, p(d) = 1/(1+d)", sampled)];
    let axis = |title, base| Axis { title, scale: Scale::Powers(base), ..Axis::default() };
    let title = format!("H = 8, KV = 2, D = 64, f32, {device}");
    chart(path, [axis("N, tokens", 2.0), axis("seconds a call", 10.0)], &[Panel { title, series }])
}
