//! Writes down what a [study](crate::study) measured: tables, pictures and the sentences that
//! follow from the numbers.
//!
//! Everything comes from the files of results, so that the same files give the same report, without
//! a model or a device. What the numbers mean is written by people, in `lab/answers`, and goes in
//! as it is.

mod caches;
mod content;
mod data;
mod decode;
mod needle;
mod page;
mod positions;
mod sampling;
mod search;
mod search_finals;
mod search_runs;
mod staircase;
mod subword;
mod train;
mod word2vec;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use testkit::chart::{Axis, Point, Scale, Series};

use crate::results::{InWindow, Measured, Row, Summary, differences, mean_and_error};
use crate::study::{Choice, Experiment, ModelName, Place, Question, Size, experiments};

use data::Data;
use page::Page;

/// Where a report comes from and goes to.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The folder of the files of results.
    pub results: PathBuf,
    /// The folder of what people wrote; none leaves it out.
    pub answers: Option<PathBuf>,
    /// The Markdown file. Pictures go into the folder `plots` beside it.
    pub out: PathBuf,
}

/// The files that a report wrote.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Written {
    /// The Markdown file.
    pub report: PathBuf,
    /// The pictures.
    pub pictures: Vec<PathBuf>,
    /// Measurements (windows, prompts, layers) that there are, of those that the study asks for.
    pub measured: usize,
    /// The measurements that the study asks for.
    pub asked: usize,
}

/// Writes the report of some sizes.
///
/// # Errors
/// Files that can't be read or written.
pub fn write(paths: &Paths, sizes: &[Size]) -> Result<Written> {
    let mut all = Vec::new();
    for &size in sizes {
        all.extend(experiments(size)?);
    }
    write_experiments(paths, &all, sizes.contains(&Size::Quick))
}

/// Writes the report of some experiments; `quick` says by which commands they are measured.
///
/// # Errors
/// Files that can't be read or written.
pub fn write_experiments(paths: &Paths, all: &[Experiment], quick: bool) -> Result<Written> {
    let data = Data::read(paths)?;
    let mut page = Page::new(paths, quick);
    head(&data, &mut page, all);
    for question in Question::ALL {
        let part: Vec<&Experiment> = all.iter().filter(|e| e.question == question).collect();
        let write = match question {
            Question::Sampling => sampling::sampling,
            Question::Speed => sampling::speed,
            Question::Decode => decode::decode,
            Question::Needle => needle::needle,
            Question::Staircase => staircase::staircase,
            Question::Ages => staircase::ages,
            Question::Positions => positions::positions,
        };
        write(&data, &mut page, &part)?;
    }
    caches::caches(&data.caches, &mut page)?;
    content::content(&data.content, &data.content_prefill, &data.passkeys, &mut page)?;
    subword::subword(&data.subword, &mut page)?;
    search::search(&data.search, &mut page)?;
    search_runs::search_runs(&data.search_runs, &mut page)?;
    search_finals::finals(&data.search_finals, &mut page);
    search_finals::tau(&data.search_tau, &mut page);
    word2vec::word2vec(&data.word2vec, &mut page)?;
    train::train(&data.train, &mut page)?;
    page.answer("limits", "Limits of the evidence")?;
    page.finish()
}

fn head(data: &Data, page: &mut Page<'_>, all: &[Experiment]) {
    page.line("# Results\n");
    let by = if page.quick { "lab report --quick" } else { "lab report" };
    page.text(&format!(
        "`{by}` writes this page from the files of results. `lab sweep` and the other commands named below \
         fill them. The paper (arXiv 2410.18441) proposes the methods and leaves these questions open. The \
         models were trained without any of what is measured here."
    ));
    let (mut devices, mut revisions) = (BTreeSet::new(), BTreeSet::new());
    for source in data.sources() {
        if all.iter().any(|e| e.width == source.width && e.model.file() == source.model) {
            devices.insert(source.device.as_str());
            revisions.insert(source.revision.as_str());
        }
    }
    let join = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join(", ");
    let (devices, revisions) = (join(devices), join(revisions));
    let mut lines = vec![
        "*Nats* are a token's negative log-likelihood over that by the first setting of a table, the mean \
         over the same windows: +0.01 is a perplexity that is 1% higher. The number after ± is the standard \
         error over windows, each of which is of another text (*Emma*, a novel; *Brown*, mixed prose; \
         *Hamlet*, a play; *wiki*, an encyclopedia)."
            .to_owned(),
        "*Blocks* are the key blocks of 64 tokens that are visited. The number is the mean over tokens, heads \
         and the layers without a sliding window, which are all 30 of SmolLM2 and 3 of Gemma 3's 18."
            .to_owned(),
    ];
    if !devices.is_empty() {
        lines.push(format!("All this was measured on {devices}, by the revisions {revisions}."));
    }
    for line in lines {
        page.item(&line);
    }
    page.line("");
}

fn title(model: &str) -> &str {
    let known = [ModelName::SmolLm2, ModelName::Gemma3];
    known.into_iter().find(|name| name.file() == model).map_or(model, |name| name.title())
}

/// Different values, in the order in which they come.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all = Vec::new();
    for value in values {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

/// Rows of one setting of an experiment, in the order of the file.
fn of_choice<'a, M: Measured>(
    rows: &'a [Row<M>],
    experiment: &Experiment,
    choice: &Choice,
    place: impl Fn(&M) -> usize,
) -> Result<Vec<&'a Row<M>>> {
    let setting = choice.setting()?.values();
    let wanted = |row: &&Row<M>| {
        let here = |at: &Place| {
            row.source.text.strip_suffix(".txt") == Some(at.text) && place(&row.measured) == at.window
        };
        row.source.width == experiment.width
            && row.source.model == experiment.model.file()
            && row.setting == setting
            && experiment.places.iter().any(here)
    };
    Ok(rows.iter().filter(wanted).collect())
}

/// A setting with its rows.
struct Chosen<'a, M> {
    choice: &'a Choice,
    rows: Vec<&'a Row<M>>,
}

/// The settings of an experiment that have rows.
fn chosen<'a, M: Measured>(
    rows: &'a [Row<M>],
    experiment: &'a Experiment,
    place: impl Fn(&M) -> usize + Copy,
) -> Result<Vec<Chosen<'a, M>>> {
    let mut all = Vec::new();
    for choice in &experiment.choices {
        let rows = of_choice(rows, experiment, choice, place)?;
        if !rows.is_empty() {
            all.push(Chosen { choice, rows });
        }
    }
    Ok(all)
}

fn windows<M: Measured>(rows: &[&Row<M>]) -> usize {
    rows.iter().map(|row| (&row.source.text, row.measured.unit())).collect::<BTreeSet<_>>().len()
}

fn with_error((mean, error): (f64, Option<f64>), digits: usize) -> String {
    match error {
        Some(error) => format!("{mean:+.digits$} ± {error:.digits$}"),
        None => format!("{mean:+.digits$}"),
    }
}

fn point(x: f64, (y, error): (f64, Option<f64>)) -> Point {
    Point { x, y, error: error.unwrap_or(0.0) }
}

/// An axis that goes up evenly.
fn even(title: &str) -> Axis<'_> {
    Axis { title, ..Axis::default() }
}

/// An axis that goes up by powers of a number.
fn powers(base: f64, title: &str) -> Axis<'_> {
    Axis { title, scale: Scale::Powers(base), ..Axis::default() }
}

/// Rows of the buckets that begin at `from` or later.
fn late<'a>(rows: &[&'a Row<InWindow>], from: usize) -> Vec<&'a Row<InWindow>> {
    rows.iter().filter(|row| row.measured.bucket.positions.start >= from).copied().collect()
}

/// What a table of perplexities says of one setting.
fn perplexity_cells(
    experiment: &Experiment,
    rows: &[&Row<InWindow>],
    first: &[&Row<InWindow>],
) -> [String; 4] {
    let all = Summary::of(0..experiment.width, rows.iter().copied());
    let half = experiment.width / 2;
    let nats = mean_and_error(&differences(rows, first));
    let nats_late = mean_and_error(&differences(&late(rows, half), &late(first, half)));
    [
        format!("{:.2}", all.perplexity),
        format!("{:.4}", all.bits_per_byte),
        with_error(nats, 4),
        with_error(nats_late, 4),
    ]
}

/// Adds a point to the series of that name, which is new if there is none.
fn add(series: &mut Vec<Series>, name: &str, joined: bool, at: Point) {
    match series.iter_mut().find(|series| series.name == name) {
        Some(series) => series.points.push(at),
        None => series.push(Series { name: name.to_owned(), points: vec![at], joined }),
    }
}
