//! SVG pictures, written whole or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use prflash::sampling::DistanceFrequency;
use prflash::{Profile, Schedule};

use crate::statistics::range;
use crate::{files, repository};

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
pub const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// The folder for an example's pictures, `target/<name>`; made if missing.
///
/// # Errors
/// It can't be made.
pub fn folder(name: &str) -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let folder = target.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

/// Draws into memory and then writes the file, so that an interrupted run leaves no half picture.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn svg(
    path: &Path,
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<()>,
) -> Result<()> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    files::write(path, text)
}

/// One picture of a schedule: a panel per list (at most four), query blocks down, key blocks across.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn schedule(path: &Path, title: &str, schedule: &Schedule) -> Result<()> {
    let grid = schedule.grid();
    let groups = grid.groups().min(4);
    let (rows, columns) = (grid.query_blocks() as f64, grid.key_blocks() as f64);
    svg(path, (340 * groups as u32, 400), |area| {
        let area = area.titled(title, ("sans-serif", 18))?;
        for (group, panel) in area.split_evenly((1, groups)).iter().enumerate() {
            let mut chart = ChartBuilder::on(panel)
                .margin(8)
                .caption(format!("list {group}"), ("sans-serif", 13))
                .x_label_area_size(32)
                .y_label_area_size(40)
                .build_cartesian_2d(0.0..columns, rows..0.0)?;
            let whole = |x: &f64| format!("{x:.0}");
            chart
                .configure_mesh()
                .disable_mesh()
                .x_desc("key block")
                .y_desc("query block")
                .x_labels(6)
                .y_labels(6)
                .x_label_formatter(&whole)
                .y_label_formatter(&whole)
                .draw()?;
            for row in 0..grid.query_blocks() {
                let allowed = grid.dense_row(grid.first_query_block() + row as i64) as f64;
                let y = row as f64;
                let skipped =
                    Rectangle::new([(0.0, y), (allowed, y + 1.0)], RGBColor(238, 238, 238).filled());
                chart.draw_series([skipped])?;
                chart.draw_series(schedule.row(group, row).map(|entry| {
                    let x = entry.block as f64;
                    Rectangle::new([(x, y), (x + 1.0, y + 1.0)], COLORS[0].filled())
                }))?;
            }
        }
        Ok(())
    })
}

/// A named curve: (x, y) points joined by a line.
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// In the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// What the axes of a chart say, and whether they are logarithmic.
#[derive(Clone, Default)]
pub struct Axes<'a> {
    /// What is across.
    pub x: &'a str,
    /// What is up.
    pub y: &'a str,
    /// Powers across. Points that aren't positive are left out.
    pub log_x: bool,
    /// Powers up. Points that aren't positive are left out.
    pub log_y: bool,
    /// Where the legend is, if not at the lower left (linear) or the upper right (logarithmic).
    pub legend: Option<SeriesLabelPosition>,
}

/// One chart per panel, side by side, each from 0 or, on a logarithmic axis, from its smallest point.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn curves(path: &Path, axes: Axes<'_>, panels: &[(String, Vec<Curve>)]) -> Result<()> {
    // Drawn in logarithms: plotters has an axis type per scale, which would need four copies of this function.
    let place =
        |(x, y): (f64, f64)| (if axes.log_x { x.log10() } else { x }, if axes.log_y { y.log10() } else { y });
    let label = |log: bool| {
        move |value: &f64| match log {
            false if value.abs() >= 1e6 => format!("{value:.0e}"),
            false => format!("{}", (value * 1e6).round() / 1e6),
            true if (-4.5..4.5).contains(value) => {
                // A whole power needs no more digits than it has; a number between two of them gets one more.
                let whole = (value - value.round()).abs() < 1e-6;
                let digits = if whole { -value.round() } else { 1.0 - value.floor() };
                format!("{:.*}", digits.max(0.0) as usize, 10f64.powf(*value))
            }
            true => format!("{:.0e}", 10f64.powf(*value)),
        }
    };
    let (x_label, y_label) = (label(axes.log_x), label(axes.log_y));
    svg(path, (460 * panels.len() as u32, 400), |area| {
        for ((title, curves), panel) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            let kept = |curve: &Curve| -> Vec<(f64, f64)> {
                let placed = curve.points.iter().map(|&point| place(point));
                placed.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
            };
            let points: Vec<(f64, f64)> = curves.iter().flat_map(kept).collect();
            let bounds = |log: bool, values: &dyn Fn() -> Vec<f64>| {
                let most = values().into_iter().fold(f64::MIN, f64::max);
                let least = values().into_iter().fold(f64::MAX, f64::min);
                if log { least - 0.05..most + 0.1 } else { least.min(0.0)..most * 1.1 }
            };
            let across = bounds(axes.log_x, &|| points.iter().map(|p| p.0).collect());
            let up = bounds(axes.log_y, &|| points.iter().map(|p| p.1).collect());
            let mut chart = ChartBuilder::on(&panel)
                .margin(10)
                .caption(title, ("sans-serif", 16))
                .x_label_area_size(36)
                .y_label_area_size(56)
                .build_cartesian_2d(across, up)?;
            chart
                .configure_mesh()
                .x_desc(axes.x)
                .y_desc(axes.y)
                .x_label_formatter(&x_label)
                .y_label_formatter(&y_label)
                .light_line_style(WHITE)
                .draw()?;
            for (curve, color) in curves.iter().zip(COLORS.iter().cycle()) {
                let color = *color;
                chart
                    .draw_series(LineSeries::new(kept(curve), color.stroke_width(2)))?
                    .label(&curve.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
                if curve.points.len() <= 40 {
                    chart.draw_series(kept(curve).into_iter().map(|p| Circle::new(p, 3, color.filled())))?;
                }
            }
            chart
                .configure_series_labels()
                .position(axes.legend.clone().unwrap_or(match axes.log_y {
                    true => SeriesLabelPosition::UpperRight,
                    false => SeriesLabelPosition::LowerLeft,
                }))
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }
        Ok(())
    })
}

/// Points with their names, in a plane whose axes mean nothing.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn names(path: &Path, title: &str, points: &[(&str, [f64; 2])]) -> Result<()> {
    let axis = |axis: usize| {
        let values: Vec<f64> = points.iter().map(|(_, point)| point[axis]).collect();
        let (least, most) = range(&values);
        // Room for names at the right, and for a plane that is flat or has no point.
        let room = if most > least { (most - least) * 0.05 } else { 1.0 };
        if points.is_empty() { -1.0..1.0 } else { least - room..most + 2.0 * room }
    };
    svg(path, (900, 700), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .caption(title, ("sans-serif", 16))
            .build_cartesian_2d(axis(0), axis(1))?;
        chart.draw_series(points.iter().map(|(name, [x, y])| {
            let label = Text::new((*name).to_owned(), (5, -5), ("sans-serif", 12));
            EmptyElement::at((*x, *y)) + Circle::new((0, 0), 2, COLORS[0].filled()) + label
        }))?;
        Ok(())
    })
}

/// Measured frequencies with their confidence bounds, a panel each, against `p(d)`.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn frequencies(
    path: &Path,
    profile: &Profile,
    panels: &[(String, Vec<DistanceFrequency>)],
) -> Result<()> {
    svg(path, (360 * panels.len() as u32, 380), |area| {
        for ((title, rows), panel) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            let right = rows.last().map_or(1.0, |row| row.distance as f64 + 1.0);
            let mut chart = ChartBuilder::on(&panel)
                .margin(8)
                .caption(title, ("sans-serif", 14))
                .x_label_area_size(36)
                .y_label_area_size(44)
                .build_cartesian_2d(0.0..right, 0.0..1.05)?;
            chart
                .configure_mesh()
                .x_desc("block distance d")
                .y_desc("share of pairs kept")
                .x_label_formatter(&|x| format!("{x:.0}"))
                .light_line_style(WHITE)
                .draw()?;
            chart.draw_series(rows.iter().map(|row| {
                let color = COLORS[4].filled();
                ErrorBar::new_vertical(row.distance as f64, row.low, row.frequency, row.high, color, 4)
            }))?;
            let expected = rows.iter().map(|row| (row.distance as f64, profile.probability(row.distance)));
            chart.draw_series(LineSeries::new(expected, COLORS[1].stroke_width(1)))?;
            let measured = rows.iter().map(|row| (row.distance as f64, row.frequency));
            chart.draw_series(measured.map(|p| Circle::new(p, 2, COLORS[0].filled())))?;
        }
        Ok(())
    })
}
