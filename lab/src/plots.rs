//! Pictures of the report: panels side by side, points with standard errors.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

#[allow(dead_code, reason = "the examples use the rest")]
#[path = "../../examples/support/picture.rs"]
mod picture;

use picture::{COLORS, svg};

/// A point, and how far its standard error reaches to each side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// Of `y`; 0 where there is none.
    pub error: f64,
}

/// What belongs together.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// In the order in which they are joined.
    pub points: Vec<Point>,
    /// Whether a line joins them.
    pub joined: bool,
}

/// One chart.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// The same names have the same colours in all panels of a picture if they stand in the same order.
    pub series: Vec<Series>,
}

/// What the axes of all panels say.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    /// Across.
    pub x: &'a str,
    /// Up.
    pub y: &'a str,
    /// In powers of this number.
    pub powers_x: Option<f64>,
    /// In powers: what is smaller than this is drawn here.
    pub log_y_from: Option<f64>,
    /// The lowest and highest value up, where a few far points would flatten the rest; they are cut off.
    pub up: Option<(f64, f64)>,
    /// Where the legend stands.
    pub legend: Corner,
}

/// A corner of a chart.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Corner {
    UpperLeft,
    UpperRight,
    LowerLeft,
    LowerRight,
}

const WIDTH: u32 = 480;
const HEIGHT: u32 = 400;

/// Draws a picture, whole or not at all.
///
/// # Errors
/// The file can't be written.
pub fn draw(path: &Path, axes: Axes<'_>, panels: &[Panel]) -> Result<()> {
    let across = |x: f64| axes.powers_x.map_or(x, |base| x.log(base));
    let up = |y: f64| axes.log_y_from.map_or(y, |least| y.max(least).log10());
    let power = |base: f64, value: &f64| {
        let number = base.powf(*value);
        if base == 2.0 {
            return format!("{number:.0}");
        }
        let digits = -value.floor();
        if *value < -3.5 { format!("{number:.0e}") } else { format!("{number:.*}", digits.max(0.0) as usize) }
    };
    let plain = |value: &f64| format!("{}", (value * 1e6).round() / 1e6);
    let x_label = |value: &f64| axes.powers_x.map_or_else(|| plain(value), |base| power(base, value));
    let y_label = |value: &f64| if axes.log_y_from.is_some() { power(10.0, value) } else { plain(value) };
    svg(path, (WIDTH * panels.len() as u32, HEIGHT), |area| {
        for (panel, area) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            let points = || panel.series.iter().flat_map(|series| &series.points);
            let range = |values: &mut dyn Iterator<Item = f64>| {
                let (low, high) = values
                    .filter(|value| value.is_finite())
                    .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
                let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
                let margin = 0.06 * (high - low).max(1e-6);
                low - margin..high + margin
            };
            let x = range(&mut points().map(|point| across(point.x)));
            let ends = |point: &Point| [up(point.y - point.error), up(point.y + point.error)];
            // One label for each octave.
            let x_labels =
                if axes.powers_x == Some(2.0) { (x.end - x.start).round() as usize + 1 } else { 10 };
            let y = match axes.up {
                Some((low, high)) => up(low)..up(high),
                None => range(&mut points().flat_map(ends)),
            };
            let mut chart = ChartBuilder::on(&area)
                .margin(10)
                .caption(&panel.title, ("sans-serif", 16))
                .x_label_area_size(36)
                .y_label_area_size(60)
                .build_cartesian_2d(x, y.clone())?;
            chart
                .configure_mesh()
                .x_desc(axes.x)
                .y_desc(axes.y)
                .x_labels(x_labels)
                .x_label_formatter(&x_label)
                .y_label_formatter(&y_label)
                .light_line_style(WHITE)
                .draw()?;
            for (index, series) in panel.series.iter().enumerate() {
                let color = COLORS[index % COLORS.len()];
                // Past the sixth, the colours come again with hollow points.
                let style = if index < COLORS.len() { color.filled() } else { color.stroke_width(1) };
                let kept = || series.points.iter().filter(|point| up(point.y) <= y.end);
                if series.joined {
                    let line = kept().map(|point| (across(point.x), up(point.y)));
                    chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
                }
                let with_error = kept().filter(|point| point.error > 0.0);
                chart.draw_series(with_error.map(|point| {
                    let [low, high] = ends(point);
                    ErrorBar::new_vertical(across(point.x), low, up(point.y), high, color.stroke_width(1), 6)
                }))?;
                chart
                    .draw_series(kept().map(|point| Circle::new((across(point.x), up(point.y)), 4, style)))?
                    .label(&series.name)
                    .legend(move |(x, y)| Circle::new((x + 8, y), 4, style));
            }
            chart
                .configure_series_labels()
                .position(match axes.legend {
                    Corner::UpperLeft => SeriesLabelPosition::UpperLeft,
                    Corner::UpperRight => SeriesLabelPosition::UpperRight,
                    Corner::LowerLeft => SeriesLabelPosition::LowerLeft,
                    Corner::LowerRight => SeriesLabelPosition::LowerRight,
                })
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }
        Ok(())
    })
}
