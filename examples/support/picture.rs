//! SVG pictures, written whole or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use prflash::Schedule;

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
    charts(path, x, y, panels, false)
}

/// The same with logarithmic axes; all numbers must be positive.
pub fn log_curves(path: &Path, x: &str, y: &str, mut panels: Vec<(String, Vec<Curve>)>) -> Result<()> {
    for point in panels.iter_mut().flat_map(|(_, curves)| curves).flat_map(|curve| &mut curve.points) {
        *point = (point.0.log10(), point.1.log10());
    }
    charts(path, x, y, &panels, true)
}

/// Where `log`, the points are decimal logarithms.
fn charts(path: &Path, x: &str, y: &str, panels: &[(String, Vec<Curve>)], log: bool) -> Result<()> {
    svg(path, (460 * panels.len() as u32, 400), |area| {
        for ((title, curves), panel) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
            let range = |of: fn((f64, f64)) -> f64, room: f64| {
                let (least, most) = points().map(of).fold((0f64, 0f64), |(a, b), x| (a.min(x), b.max(x)));
                if log { least.floor()..most.ceil() } else { 0.0..most * room }
            };
            let mut chart = ChartBuilder::on(&panel)
                .margin(10)
                .caption(title, ("sans-serif", 16))
                .x_label_area_size(36)
                .y_label_area_size(48)
                .build_cartesian_2d(range(|p| p.0, 1.05), range(|p| p.1, 1.1))?;
            let power = |exponent: &f64| format!("1e{exponent:.0}");
            let mut mesh = chart.configure_mesh();
            mesh.x_desc(x).y_desc(y).light_line_style(WHITE);
            if log {
                mesh.x_label_formatter(&power).y_label_formatter(&power);
            }
            mesh.draw()?;
            for (curve, color) in curves.iter().zip(COLORS.iter().cycle()) {
                let color = *color;
                chart
                    .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
                    .label(&curve.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
                if !log {
                    chart.draw_series(curve.points.iter().map(|&p| Circle::new(p, 3, color.filled())))?;
                }
            }
            let rising = log && points().next().map(|p| p.1) < points().last().map(|p| p.1);
            chart
                .configure_series_labels()
                .position(if rising {
                    SeriesLabelPosition::UpperLeft
                } else {
                    SeriesLabelPosition::LowerLeft
                })
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }
        Ok(())
    })
}
