//! SVG pictures, written whole or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use prflash::sampling::DistanceFrequency;
use prflash::{Profile, Schedule};

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
pub fn folder(name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let folder = target.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

/// Draws into memory and then renames into place, so that an interrupted run leaves no half picture.
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
    let partial = path.with_extension("svg.partial");
    std::fs::write(&partial, text).with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

/// One picture of a schedule: a panel per list (at most four), query blocks down, key blocks across.
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

/// One chart per panel, side by side, with shared axes' names.
pub fn curves(path: &Path, x: &str, y: &str, panels: &[(String, Vec<Curve>)]) -> Result<()> {
    svg(path, (460 * panels.len() as u32, 400), |area| {
        for ((title, curves), panel) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
            let right = points().map(|p| p.0).fold(0.0, f64::max) * 1.05;
            let top = points().map(|p| p.1).fold(0.0, f64::max) * 1.1;
            let mut chart = ChartBuilder::on(&panel)
                .margin(10)
                .caption(title, ("sans-serif", 16))
                .x_label_area_size(36)
                .y_label_area_size(48)
                .build_cartesian_2d(0.0..right, 0.0..top)?;
            chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw()?;
            for (curve, color) in curves.iter().zip(COLORS.iter().cycle()) {
                let color = *color;
                chart
                    .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
                    .label(&curve.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
                chart.draw_series(curve.points.iter().map(|&p| Circle::new(p, 3, color.filled())))?;
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerLeft)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }
        Ok(())
    })
}

/// Measured frequencies with their confidence bounds, a panel each, against `p(d)`.
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

/// Laws as lines and measurements as points, on logarithmic axes.
pub fn log_log(path: &Path, title: &str, x: &str, y: &str, laws: &[Curve], measured: &[Curve]) -> Result<()> {
    let points = || laws.iter().chain(measured).flat_map(|curve| curve.points.iter().copied());
    let (left, right) =
        points().fold((f64::MAX, 0.0), |(low, high), p| (f64::min(low, p.0), f64::max(high, p.0)));
    let (bottom, top) =
        points().fold((f64::MAX, 0.0), |(low, high), p| (f64::min(low, p.1), f64::max(high, p.1)));
    svg(path, (640, 460), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .caption(title, ("sans-serif", 16))
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d((left..right * 1.2).log_scale(), (bottom..top * 1.5).log_scale())?;
        let plain = |value: &f64| format!("{value:.0}");
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc(y)
            .x_label_formatter(&plain)
            .y_label_formatter(&|value| format!("{value:.0e}"))
            .light_line_style(WHITE)
            .draw()?;
        let mut colors = COLORS.iter().cycle().copied();
        for (curve, color) in laws.iter().zip(&mut colors) {
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        for (curve, color) in measured.iter().zip(&mut colors) {
            chart
                .draw_series(curve.points.iter().map(|&p| Circle::new(p, 4, color.filled())))?
                .label(&curve.name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
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
