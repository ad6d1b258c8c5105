//! Charts: panels side by side, with one legend below them.
//!
//! A name has one colour in all panels of a picture. Ticks are at round numbers: at 1, 2 or 5 times
//! a power of ten, or at powers, where the axis is of powers.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::picture::{COLORS, svg};

/// Width of a panel, its height, and the least size of an entry of the legend, in pixels.
const PANEL: (u32, u32) = (480, 380);
const ENTRY: (u32, u32) = (240, 20);
/// Pixels of a letter of the legend, a little more than most take.
const LETTER: u32 = 7;
/// Labels of an axis, at most.
const LABELS: usize = 8;
/// Series with more points than these are lines without points.
const POINTS: usize = 40;

/// How an axis goes up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Scale {
    /// Evenly.
    #[default]
    Even,
    /// Evenly, with 0 in it.
    FromZero,
    /// By powers of this number. Values that aren't positive are left out.
    Powers(f64),
}

/// What an axis says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Axis<'a> {
    /// The title beside the axis.
    pub title: &'a str,
    /// How its numbers go up.
    pub scale: Scale,
    /// What is smaller than this is drawn here; the title should say so.
    pub least: Option<f64>,
    /// What is larger is left out, where few far points would flatten the rest.
    pub most: Option<f64>,
}

/// A point, and how far its standard error reaches to each side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The place across.
    pub x: f64,
    /// The place upwards.
    pub y: f64,
    /// The standard error of `y`; 0 where there is none.
    pub error: f64,
}

impl From<(f64, f64)> for Point {
    fn from((x, y): (f64, f64)) -> Self {
        Self { x, y, error: 0.0 }
    }
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The points, in the order in which they are joined.
    pub points: Vec<Point>,
    /// Whether a line joins them.
    pub joined: bool,
}

impl Series {
    /// Points joined by a line.
    pub fn line(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self { name: name.into(), points: points.into_iter().map(Point::from).collect(), joined: true }
    }
}

/// One chart of a picture.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The title above it.
    pub title: String,
    /// The series that it shows.
    pub series: Vec<Series>,
}

/// How errors are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Errors {
    /// Bars at the points.
    #[default]
    Bars,
    /// Bands along the lines, which then have no points.
    Bands,
}

/// Draws a picture, whole or not at all.
///
/// # Errors
/// It can't be drawn, or the file can't be written.
pub fn chart(path: &Path, axes: [Axis<'_>; 2], panels: &[Panel]) -> Result<()> {
    laid_out(path, axes, Errors::default(), panels, panels.len())
}

/// As [`chart`], with so many panels in a row.
///
/// # Errors
/// As [`chart`].
pub fn chart_in_rows(path: &Path, axes: [Axis<'_>; 2], panels: &[Panel], in_a_row: usize) -> Result<()> {
    laid_out(path, axes, Errors::default(), panels, in_a_row)
}

/// As [`chart`], with errors in another form.
///
/// # Errors
/// As [`chart`].
pub fn chart_with(path: &Path, axes: [Axis<'_>; 2], errors: Errors, panels: &[Panel]) -> Result<()> {
    laid_out(path, axes, errors, panels, panels.len())
}

fn laid_out(
    path: &Path,
    axes: [Axis<'_>; 2],
    errors: Errors,
    panels: &[Panel],
    in_a_row: usize,
) -> Result<()> {
    let names = names(panels);
    let in_a_row = in_a_row.max(1);
    let rows = panels.len().div_ceil(in_a_row).max(1);
    let (width, height) = (PANEL.0 * in_a_row as u32, PANEL.1 * rows as u32);
    let longest = names.iter().map(|name| name.chars().count() as u32).max().unwrap_or(0);
    let entry = ENTRY.0.max(30 + LETTER * longest);
    let columns = (width / entry).max(1);
    let legend = 10 + ENTRY.1 * (names.len() as u32).div_ceil(columns);
    svg(path, (width, height + legend), |area| {
        let (above, below) = area.split_vertically(height);
        for (panel, area) in panels.iter().zip(above.split_evenly((rows, in_a_row))) {
            draw(panel, &area, axes, errors, &names)?;
        }
        for (index, name) in names.iter().enumerate() {
            let (row, column) = (index as u32 / columns, index as u32 % columns);
            let at = ((24 + column * entry) as i32, (8 + row * ENTRY.1) as i32);
            below.draw(&Circle::new(at, 4, style(index)))?;
            below.draw(&Text::new((*name).to_owned(), (at.0 + 10, at.1 - 6), ("sans-serif", 13)))?;
        }
        Ok(())
    })
}

/// All names, each once, as they first come.
fn names(panels: &[Panel]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for series in panels.iter().flat_map(|panel| &panel.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    names
}

fn color(index: usize) -> RGBColor {
    COLORS[index % COLORS.len()]
}

/// Past the sixth, colours come again with hollow points and broken lines.
fn style(index: usize) -> ShapeStyle {
    if index < COLORS.len() { color(index).filled() } else { color(index).stroke_width(1) }
}

fn draw(
    panel: &Panel,
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    [across, up]: [Axis<'_>; 2],
    errors: Errors,
    names: &[&str],
) -> Result<()> {
    let raised = |y: f64| up.least.map_or(y, |least| y.max(least));
    let ends = |point: &Point| [point.y - point.error, point.y + point.error].map(raised);
    let kept = |series: &Series| -> Vec<Point> {
        let points = series.points.iter().map(|point| Point { y: raised(point.y), ..*point });
        points.filter(|point| across.holds(point.x) && up.holds(point.y)).collect()
    };
    let points: Vec<Point> = panel.series.iter().flat_map(kept).collect();
    let x = Scaled::around(across, points.iter().map(|point| point.x));
    let y = Scaled::around(up, points.iter().flat_map(ends).filter(|&end| up.holds(end)));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(&panel.title, ("sans-serif", 16))
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(x, y)?;
    chart.configure_mesh().x_desc(across.title).y_desc(up.title).light_line_style(WHITE).draw()?;
    for series in &panel.series {
        let index = names.iter().position(|name| *name == series.name).unwrap_or(0);
        let (color, style, points) = (color(index), style(index), kept(series));
        if series.joined {
            let line = points.iter().map(|point| (point.x, point.y));
            if index < COLORS.len() {
                chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
            } else {
                chart.draw_series(DashedLineSeries::new(line, 8, 4, color.stroke_width(2)))?;
            }
        }
        // An axis of powers has no place for what isn't positive.
        let held = |point: &Point| {
            let [low, high] = ends(point);
            [if up.holds(low) { low } else { point.y }, high]
        };
        if errors == Errors::Bands {
            let edge = |end: usize| points.iter().map(move |point| (point.x, held(point)[end]));
            let around: Vec<(f64, f64)> = edge(1).chain(edge(0).rev()).collect();
            chart.draw_series([Polygon::new(around, color.mix(0.15))])?;
            continue;
        }
        chart.draw_series(points.iter().filter(|point| point.error > 0.0).map(|point| {
            let [low, high] = held(point);
            ErrorBar::new_vertical(point.x, low, point.y, high, color.stroke_width(1), 6)
        }))?;
        if !series.joined || points.len() <= POINTS {
            chart.draw_series(points.iter().map(|point| Circle::new((point.x, point.y), 4, style)))?;
        }
    }
    Ok(())
}

impl Axis<'_> {
    /// Whether it has a place for a value.
    fn holds(&self, value: f64) -> bool {
        let positive = !matches!(self.scale, Scale::Powers(_)) || value > 0.0;
        value.is_finite() && positive && self.most.is_none_or(|most| value <= most)
    }
}

/// The values of an axis.
#[derive(Clone, Debug)]
struct Scaled {
    scale: Scale,
    range: Range<f64>,
}

impl Scaled {
    /// A range with a margin around values.
    fn around(axis: Axis<'_>, values: impl Iterator<Item = f64>) -> Self {
        let scale = axis.scale;
        let (low, high) = values
            .map(|value| place(scale, value))
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let low = if scale == Scale::FromZero { low.min(0.0) } else { low };
        let margin = if high > low { 0.06 * (high - low) } else { 0.5 };
        let below = if scale == Scale::FromZero && low == 0.0 { 0.0 } else { margin };
        let back = |value: f64| match scale {
            Scale::Powers(_) => value.exp(),
            _ => value,
        };
        Self { scale, range: back(low - below)..back(high + margin) }
    }

    fn ticks(&self, most: usize) -> Vec<f64> {
        let Range { start, end } = self.range;
        match self.scale {
            Scale::Powers(base) => powers(start, end, base, most),
            _ => multiples(start, end, most),
        }
    }
}

/// Where a value is, in even steps.
fn place(scale: Scale, value: f64) -> f64 {
    if matches!(scale, Scale::Powers(_)) { value.ln() } else { value }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn multiples(start: f64, end: f64, most: usize) -> Vec<f64> {
    let rough = ((end - start) / most.max(1) as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let first = (start / step).ceil() as i64;
    let last = (end / step).floor() as i64;
    (first..=last).map(|times| times as f64 * step).collect()
}

/// Powers of a number: every so many'th where there are too many, and of ten 2 and 5 times them
/// where there are too few.
fn powers(start: f64, end: f64, base: f64, most: usize) -> Vec<f64> {
    let exponents = |value: f64| value.ln() / base.ln();
    let (first, last) = ((exponents(start) - 1e-9).ceil() as i32, (exponents(end) + 1e-9).floor() as i32);
    let count = (last - first + 1).max(0) as usize;
    if count < 3 && base == 10.0 {
        let times = [1.0, 2.0, 5.0];
        let all = (first - 1..=last).flat_map(|power| times.map(|times| times * 10f64.powi(power)));
        return all.filter(|value| (start..=end).contains(value)).collect();
    }
    let every = count.div_ceil(most.max(1)).max(1) as i32;
    let kept = (first..=last).filter(|power| power.rem_euclid(every) == 0);
    kept.map(|power| base.powi(power)).collect()
}

impl Ranged for Scaled {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let [start, end, value] = [self.range.start, self.range.end, *value].map(|v| place(self.scale, v));
        low + ((value - start) / (end - start) * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        self.ticks(hint.max_num_points().min(LABELS))
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Scaled {
    fn format_ext(&self, value: &f64) -> String {
        number(*value)
    }
}

/// A tick as a person writes it.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e5).contains(&size) {
        return format!("{value:e}").replace("e0", "");
    }
    // Ticks are sums of steps, which leave a trace in the last digits.
    format!("{}", (value * 1e9).round() / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(multiples(0.0, 0.45, 8), [0.0, 0.1, 0.2, 0.30000000000000004, 0.4]);
        assert_eq!(multiples(-1.0, 17.0, 8), [0.0, 5.0, 10.0, 15.0]);
        assert_eq!(powers(0.9, 2000.0, 10.0, 8), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(powers(0.03, 0.6, 10.0, 8), [0.05, 0.1, 0.2, 0.5]);
        assert_eq!(powers(10.0, 150.0, 2.0, 8), [16.0, 32.0, 64.0, 128.0]);
        assert_eq!(powers(1.0, 1e12, 10.0, 8).len(), 7);
        let texts = [0.30000000000000004, 1000.0, 1e6, 2e-5, 0.0, -5.0].map(number);
        assert_eq!(texts, ["0.3", "1000", "1e6", "2e-5", "0", "-5"]);
    }

    /// A name keeps its colour whatever the panel, and nothing that can't be placed is drawn.
    #[test]
    fn a_name_has_one_colour() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chart.svg");
        let panel = |names: &[&str]| {
            let series =
                names.iter().map(|name| Series::line(*name, [(1.0, 0.5), (2.0, -1.0), (f64::NAN, 1.0)]));
            Panel { title: "a".into(), series: series.collect() }
        };
        let axis = Axis { scale: Scale::Powers(10.0), ..Axis::default() };
        chart(&path, [axis, axis], &[panel(&["one", "two"]), panel(&["two"])]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let circles = |color: &str| text.matches("<circle").count().min(text.matches(color).count());
        assert_eq!(names(&[panel(&["one", "two"]), panel(&["two"])]), ["one", "two"]);
        // Of "one" a point and its entry in the legend, of "two" two points and its entry.
        assert_eq!(text.matches("<circle").count(), 5, "{text}");
        assert!(circles("#0072B2") >= 2 && circles("#D55E00") >= 3, "{text}");
    }
}
