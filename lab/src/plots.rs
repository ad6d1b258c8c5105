//! Pictures of the report: panels side by side, points with standard errors.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use testkit::picture::{COLORS, svg};

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
    /// The same names have the same colours in all panels of a picture if they stand in the same
    /// order.
    pub series: Vec<Series>,
}

/// What the axes of all panels say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Axes<'a> {
    /// Across.
    pub x: &'a str,
    /// Up.
    pub y: &'a str,
    /// In powers of this number.
    pub powers_x: Option<f64>,
    /// In powers: what is smaller than this is drawn here.
    pub log_y_from: Option<f64>,
    /// The lowest and highest value up, where a few far points would flatten the rest; they are cut
    /// off.
    pub up: Option<(f64, f64)>,
    /// Whether errors are bands along lines without points.
    pub bands: bool,
}

/// Shares in cells: a row for each name, a column for each heading.
#[derive(Clone, Debug)]
pub struct Cells {
    /// Above them.
    pub title: String,
    /// The first one uppermost.
    pub rows: Vec<CellRow>,
    /// What stands above the columns.
    pub columns: Vec<String>,
}

/// One row of them.
#[derive(Clone, Debug)]
pub struct CellRow {
    /// In front of it.
    pub name: String,
    /// For each column; none where nothing is known.
    pub cells: Vec<Option<Cell>>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Cell {
    /// How dark it is, from 0 to 1.
    pub share: f64,
    /// What is written there.
    pub text: String,
}

/// Draws cells, a block of them below the other, the fuller the darker.
///
/// # Errors
/// The file can't be written.
pub fn draw_cells(path: &Path, blocks: &[Cells]) -> Result<()> {
    const NAMES: i32 = 250;
    const CELL: (i32, i32) = (70, 24);
    let heights: Vec<i32> = blocks.iter().map(|block| 62 + CELL.1 * block.rows.len() as i32).collect();
    let columns = blocks.iter().map(|block| block.columns.len()).max().unwrap_or(0) as i32;
    let size = (NAMES + CELL.0 * columns + 20, heights.iter().sum::<i32>() + 10);
    svg(path, (size.0 as u32, size.1 as u32), |area| {
        let font = |size: i32, color: &RGBColor| ("sans-serif", size).into_font().color(color);
        let mut top = 0;
        for (block, height) in blocks.iter().zip(&heights) {
            area.draw(&Text::new(block.title.clone(), (10, top + 10), font(16, &BLACK)))?;
            for (index, column) in block.columns.iter().enumerate() {
                let at = (NAMES + CELL.0 * index as i32 + 22, top + 38);
                area.draw(&Text::new(column.clone(), at, font(13, &BLACK)))?;
            }
            for (row, CellRow { name, cells }) in block.rows.iter().enumerate() {
                let y = top + 58 + CELL.1 * row as i32;
                area.draw(&Text::new(name.clone(), (10, y + 6), font(13, &BLACK)))?;
                for (column, cell) in cells.iter().enumerate() {
                    let Some(Cell { share, text }) = cell else { continue };
                    let x = NAMES + CELL.0 * column as i32;
                    let mix = |full: u8| (255.0 - share * (255.0 - f64::from(full))) as u8;
                    let color = RGBColor(mix(COLORS[0].0), mix(COLORS[0].1), mix(COLORS[0].2));
                    let corners = [(x, y), (x + CELL.0 - 2, y + CELL.1 - 2)];
                    area.draw(&Rectangle::new(corners, color.filled()))?;
                    area.draw(&Rectangle::new(corners, RGBColor(200, 200, 200)))?;
                    let ink = if *share > 0.6 { WHITE } else { BLACK };
                    area.draw(&Text::new(text.clone(), (x + 22, y + 6), font(13, &ink)))?;
                }
            }
            top += height;
        }
        Ok(())
    })
}

const WIDTH: u32 = 480;
const HEIGHT: u32 = 380;
/// Of a line of the legend.
const ENTRY: u32 = 20;

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
    let entries = panels.iter().map(|panel| panel.series.len()).max().unwrap_or(0) as u32;
    let legend_height = 10 + ENTRY * entries.div_ceil(2);
    svg(path, (WIDTH * panels.len() as u32, HEIGHT + legend_height), |area| {
        for (panel, area) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            let (area, legend) = area.split_vertically(HEIGHT);
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
                if axes.bands {
                    let edge = |end: usize| kept().map(move |point| (across(point.x), ends(point)[end]));
                    let around: Vec<(f64, f64)> = edge(1).chain(edge(0).rev()).collect();
                    chart.draw_series([Polygon::new(around, color.mix(0.15))])?;
                } else {
                    let with_error = kept().filter(|point| point.error > 0.0);
                    chart.draw_series(with_error.map(|point| {
                        let ([low, high], x) = (ends(point), across(point.x));
                        ErrorBar::new_vertical(x, low, up(point.y), high, color.stroke_width(1), 6)
                    }))?;
                    chart.draw_series(
                        kept().map(|point| Circle::new((across(point.x), up(point.y)), 4, style)),
                    )?;
                }
                let circle = |at| Circle::new(at, 4, style);
                let (row, column) = (index / 2, index % 2);
                let at = (24 + column as i32 * (WIDTH as i32 / 2 - 8), 8 + (row as u32 * ENTRY) as i32);
                legend.draw(&circle(at))?;
                legend.draw(&Text::new(series.name.clone(), (at.0 + 10, at.1 - 6), ("sans-serif", 13)))?;
            }
        }
        Ok(())
    })
}
