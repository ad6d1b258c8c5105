//! SVG pictures, written whole or not at all.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use prflash::sampling::{DistanceFrequency, Granularity};
use prflash::{Profile, Schedule};

use crate::files;
use crate::statistics::range;

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
pub const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

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

/// One picture of a schedule: a panel for each head that has a list of its own (at most four),
/// query blocks down, key blocks across.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn schedule(path: &Path, title: &str, schedule: &Schedule) -> Result<()> {
    let grid = schedule.grid();
    let name = match grid.granularity() {
        Granularity::Head => "head",
        Granularity::KvHead => "KV head",
        Granularity::Shared => "all heads, list",
    };
    let lists: Vec<_> =
        (0..grid.groups().min(4)).map(|group| (format!("{name} {group}"), schedule, group)).collect();
    lists_of_blocks(path, title, &lists)
}

/// The first list of each of several schedules, a panel each with its name.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn chosen(path: &Path, title: &str, schedules: &[(String, Schedule)]) -> Result<()> {
    let lists: Vec<_> = schedules.iter().map(|(name, schedule)| (name.clone(), schedule, 0)).collect();
    lists_of_blocks(path, title, &lists)
}

/// A panel for each (name, schedule, list group).
fn lists_of_blocks(path: &Path, title: &str, lists: &[(String, &Schedule, usize)]) -> Result<()> {
    svg(path, (340 * lists.len() as u32, 400), |area| {
        let area = area.titled(title, ("sans-serif", 18))?;
        for ((name, schedule, group), panel) in lists.iter().zip(area.split_evenly((1, lists.len()))) {
            let grid = schedule.grid();
            let (first, columns) = (grid.first_query_block() as f64, grid.key_blocks() as f64);
            let mut chart = ChartBuilder::on(&panel)
                .margin(8)
                .caption(name, ("sans-serif", 13))
                .x_label_area_size(32)
                .y_label_area_size(40)
                .build_cartesian_2d(0.0..columns, first + grid.query_blocks() as f64..first)?;
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
                let y = first + row as f64;
                let skipped =
                    Rectangle::new([(0.0, y), (allowed, y + 1.0)], RGBColor(238, 238, 238).filled());
                chart.draw_series([skipped])?;
                chart.draw_series(schedule.row(*group, row).map(|entry| {
                    let x = entry.block as f64;
                    Rectangle::new([(x, y), (x + 1.0, y + 1.0)], COLORS[0].filled())
                }))?;
            }
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
