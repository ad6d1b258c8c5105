//! Writes down what a [study](crate::study) measured: tables, pictures and the sentences that follow from the numbers.
//!
//! Everything comes from the files of results, so that the same files give the same report, without a model or a device. What the numbers mean is written by
//! people, in `lab/answers`, and goes in as it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ages::AgeError;
use crate::needle::Found;
use crate::perplexity::buckets;
use crate::plots::{Axes, Cell, CellRow, Cells, Panel, Point, Series, draw, draw_cells};
use crate::results::{InWindow, Measured, Results, Row, Summary, differences, mean_and_error};
use crate::speed::Timed;
use crate::study::{Choice, Experiment, Place, Question, Size, experiments};

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

/// What was written.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Written {
    /// The Markdown file.
    pub report: PathBuf,
    /// Pictures.
    pub pictures: Vec<PathBuf>,
    /// Measurements (windows, prompts, layers) that there are, of those that the study asks for.
    pub measured: usize,
    /// Those that it asks for.
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
    let mut report = Report::read(paths, quick)?;
    report.head(all);
    for question in Question::ALL {
        let part: Vec<&Experiment> = all.iter().filter(|e| e.question == question).collect();
        match question {
            Question::Sampling => report.sampling(&part)?,
            Question::Speed => report.speed(&part)?,
            Question::Needle => report.needle(&part)?,
            Question::Staircase => report.staircase(&part)?,
            Question::Ages => report.ages(&part)?,
            Question::Positions => report.positions(&part)?,
        }
    }
    report.answer("limits", "Limits of the evidence")?;
    if let Some(folder) = paths.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let at = || format!("writing {}", paths.out.display());
    let part = paths.out.with_extension("part");
    std::fs::write(&part, &report.text).with_context(at)?;
    std::fs::rename(&part, &paths.out).with_context(at)?;
    report.written.report = paths.out.clone();
    Ok(report.written)
}

struct Report<'a> {
    paths: &'a Paths,
    quick: bool,
    text: String,
    written: Written,
    sampling: Vec<Row<InWindow>>,
    speed: Vec<Row<Timed>>,
    staircase: Vec<Row<InWindow>>,
    positions: Vec<Row<InWindow>>,
    needle: Vec<Row<Found>>,
    ages: Vec<Row<AgeError>>,
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

/// Rows of the buckets that begin at `from` or later.
fn late<'a>(rows: &[&'a Row<InWindow>], from: usize) -> Vec<&'a Row<InWindow>> {
    rows.iter().filter(|row| row.measured.bucket.positions.start >= from).copied().collect()
}

/// The times of a setting over those of dense attention, in the same rounds: quartiles.
fn time_ratios(rows: &[Row<Timed>], experiment: &Experiment, choice: &Choice) -> Result<Option<[f64; 3]>> {
    let setting = choice.setting()?.values();
    let here = rows.iter().filter(|row| {
        row.source.width == experiment.width
            && row.source.model == experiment.model.file()
            && row.setting == setting
    });
    let mut ratios: Vec<f64> = here.map(|row| row.measured.seconds / row.measured.dense_seconds).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |quarter| ratios.get(quarter * ratios.len().saturating_sub(1) / 4).copied();
    Ok(at(1).zip(at(2)).zip(at(3)).map(|((low, middle), high)| [low, middle, high]))
}

impl<'a> Report<'a> {
    fn read(paths: &'a Paths, quick: bool) -> Result<Self> {
        let path = |question: Question| paths.results.join(format!("{}.csv", question.name()));
        Ok(Self {
            paths,
            quick,
            text: String::new(),
            written: Written::default(),
            sampling: Results::read(&path(Question::Sampling))?,
            speed: Results::read(&path(Question::Speed))?,
            staircase: Results::read(&path(Question::Staircase))?,
            positions: Results::read(&path(Question::Positions))?,
            needle: Results::read(&path(Question::Needle))?,
            ages: Results::read(&path(Question::Ages))?,
        })
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A table in Markdown: the first column is text, the others are numbers.
    fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        self.line(&format!("| {} |", header.join(" | ")));
        self.line(&format!("| --- |{}", " ---: |".repeat(header.len() - 1)));
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")));
        }
        self.line("");
    }

    /// What people wrote about a part, under a heading.
    fn answer(&mut self, name: &str, title: &str) -> Result<()> {
        if let Some(folder) = &self.paths.answers {
            let path = folder.join(format!("{name}.md"));
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            self.line(&format!("## {title}\n"));
            self.line(&format!("{}\n", text.trim_end()));
        } else if name != "limits" {
            self.line(&format!("## {title}\n"));
        }
        Ok(())
    }

    /// How much of a part there is, and the command that measures it.
    fn coverage(&mut self, part: &[&Experiment], have: usize, asked: usize) {
        self.written.measured += have;
        self.written.asked += asked;
        let Some(question) = part.first().map(|experiment| experiment.question.name()) else { return };
        let lacking = match have {
            0 => ". Nothing is measured yet".to_owned(),
            _ if have < asked => {
                format!(". {have} of {asked} measurements are there; tables and pictures show those")
            }
            _ => String::new(),
        };
        let command = match self.quick {
            true => format!("`lab sweep --quick --only {question}`"),
            false if part.iter().any(|experiment| experiment.width > 2048) => {
                format!(
                    "`lab sweep --only {question}`, long windows `lab sweep --size long --only {question}`"
                )
            }
            false => format!("`lab sweep --only {question}`"),
        };
        self.line(&format!("Numbers: [{question}.csv]({}), by {command}{lacking}.\n", self.csv(question)));
    }

    /// The way from the report to a file of results: beside it, or in a folder beside it.
    fn csv(&self, question: &str) -> String {
        let results = &self.paths.results;
        match results.file_name().filter(|_| self.paths.out.parent() != Some(results)) {
            Some(folder) => format!("{}/{question}.csv", folder.to_string_lossy()),
            None => format!("{question}.csv"),
        }
    }

    fn picture(&mut self, name: &str, caption: &str, axes: Axes<'_>, panels: &[Panel]) -> Result<()> {
        let panels: Vec<Panel> = panels.iter().filter(|panel| !panel.series.is_empty()).cloned().collect();
        if panels.is_empty() {
            return Ok(());
        }
        let path = self.picture_at(name, caption)?;
        draw(&path, axes, &panels)
    }

    /// Shows a picture, which is to be drawn to the path returned.
    fn picture_at(&mut self, name: &str, caption: &str) -> Result<PathBuf> {
        let folder = self.paths.out.parent().unwrap_or(Path::new("")).join("plots");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join(format!("{name}.svg"));
        self.written.pictures.push(path.clone());
        self.line(&format!("![{caption}](plots/{name}.svg)\n\n*{caption}.*\n"));
        Ok(path)
    }

    fn head(&mut self, all: &[Experiment]) {
        self.line("# Results\n");
        let by = if self.quick { "lab report --quick" } else { "lab report" };
        self.line(&format!(
            "Written by `{by}` from the files of results, which `lab sweep` fills. The paper (arXiv 2410.18441) proposes and leaves these questions open; the models \
             were trained without any of what is measured here.\n"
        ));
        let mut devices = BTreeSet::new();
        let mut revisions = BTreeSet::new();
        let mut hear = |source: &crate::results::Source| {
            if all.iter().any(|e| e.width == source.width && e.model.file() == source.model) {
                devices.insert(source.device.clone());
                revisions.insert(source.revision.clone());
            }
        };
        let rows = self.sampling.iter().chain(&self.staircase).chain(&self.positions);
        rows.for_each(|row| hear(&row.source));
        self.needle.iter().for_each(|row| hear(&row.source));
        self.ages.iter().for_each(|row| hear(&row.source));
        self.speed.iter().for_each(|row| hear(&row.source));
        let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(", ");
        let (devices, revisions) = (join(devices), join(revisions));
        let mut lines = vec![
            "*Nats* are means of the negative log-likelihood of a token over that of the first setting of a table, on the same windows: +0.01 is a perplexity 1% higher. ± is the \
             standard error over windows, each of another text (*Emma*, a novel; *Brown*, mixed prose; *Hamlet*, a play; *wiki*, encyclopedia)."
                .to_owned(),
            "*Blocks* are key blocks of 64 tokens visited, the mean over tokens, heads and the layers without a sliding window (all 30 of SmolLM2, 3 of Gemma 3's 18).".to_owned(),
        ];
        if !devices.is_empty() {
            lines.push(format!("Devices: {devices}. Revisions: {revisions}."));
        }
        for line in lines {
            self.line(&format!("- {line}"));
        }
        self.line("");
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

    fn sampling(&mut self, part: &[&Experiment]) -> Result<()> {
        self.answer(
            "sampling",
            "PrFlashAttention: what a block costs, and what it brings (Open Question 3)",
        )?;
        let rows = std::mem::take(&mut self.sampling);
        let (mut have, mut asked) = (0, 0);
        let (mut frontier, mut by_position, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        let mut in_time = Vec::new();
        for experiment in part {
            let all = chosen(&rows, experiment, |measured: &InWindow| measured.window)?;
            asked += experiment.places.len() * experiment.choices.len();
            have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
            let Some(dense) = all.first().filter(|first| first.choice.name == "dense") else { continue };
            let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
            let (mut lines, mut kinds) = (Vec::new(), Vec::<Series>::new());
            let (mut positions, mut timed) = (Vec::new(), Vec::new());
            for Chosen { choice, rows } in &all {
                let sums = Summary::of(0..experiment.width, rows.iter().copied());
                let mut line =
                    vec![choice.name.clone(), windows(rows).to_string(), format!("{:.2}", sums.blocks)];
                line.extend(Self::perplexity_cells(experiment, rows, &dense.rows));
                let times = time_ratios(&self.speed, experiment, choice)?;
                let shown = |[low, middle, high]: [f64; 3]| format!("{middle:.3} ({low:.3} to {high:.3})");
                line.push(times.map_or(String::new(), shown));
                lines.push(line);
                let kind = match choice.name.split(", ").collect::<Vec<_>>()[..] {
                    ["dense"] => continue,
                    [kind, blocks] if blocks.ends_with(" blocks") && !blocks.contains("rounds") => kind,
                    ["paper"] => "paper: 1/(1+d), β = 0",
                    _ => "recommended, other β, seed, rounds",
                };
                let nats = mean_and_error(&differences(rows, &dense.rows));
                let at = point(sums.blocks, nats);
                if let (Some([_, time, _]), true) = (times, choice.name.ends_with(" blocks")) {
                    let at = point(time, nats);
                    match timed.iter_mut().find(|series: &&mut Series| series.name == kind) {
                        Some(series) => series.points.push(at),
                        None => timed.push(Series { name: kind.to_owned(), points: vec![at], joined: true }),
                    }
                }
                match kinds.iter_mut().find(|series| series.name == kind) {
                    Some(series) => series.points.push(at),
                    None => kinds.push(Series {
                        name: kind.to_owned(),
                        points: vec![at],
                        joined: !kind.contains("paper") && !kind.contains("other"),
                    }),
                }
                if choice.name.ends_with(", 8 blocks") {
                    let points = buckets(experiment.width).into_iter().skip(2).map(|bucket| {
                        let of = |rows: &[&'_ Row<InWindow>]| -> Vec<Row<InWindow>> {
                            let here = |row: &&&Row<InWindow>| row.measured.bucket.positions == bucket;
                            rows.iter().filter(here).map(|row| (*row).clone()).collect()
                        };
                        let (rows, dense) = (of(rows), of(&dense.rows));
                        let nats =
                            differences(&rows.iter().collect::<Vec<_>>(), &dense.iter().collect::<Vec<_>>());
                        point(bucket.end as f64, mean_and_error(&nats))
                    });
                    positions.push(Series { name: kind.to_owned(), points: points.collect(), joined: true });
                }
            }
            kinds.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
            timed.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
            in_time.push(Panel { title: title.clone(), series: timed });
            frontier.push(Panel { title: title.clone(), series: kinds });
            by_position.push(Panel { title: title.clone(), series: positions });
            let sentences = Self::duels(experiment, &all)?;
            tables.push((title, lines, sentences));
        }
        let axes = Axes {
            x: "key blocks per token and head",
            y: "nats a token over dense",
            powers_x: None,
            log_y_from: None,
            up: None,
        };
        self.picture("frontier", "Quality against cost: lower and further left is better", axes, &frontier)?;
        let axes = Axes { x: "time of a layer's attention over dense", ..axes };
        let caption = "Quality against time: a layer's attention, medians of rounds in turn with dense";
        self.picture("frontier_time", caption, axes, &in_time)?;
        let axes = Axes { x: "position (end of its octave)", powers_x: Some(2.0), ..axes };
        self.picture("by_position", "What 8 blocks a row lose, by position", axes, &by_position)?;
        for (title, lines, sentences) in tables {
            self.line(&format!("### {title}\n"));
            let late = "nats, second half";
            let header = [
                "setting",
                "windows",
                "blocks",
                "perplexity",
                "bits/byte",
                "nats over dense",
                late,
                "time of dense",
            ];
            self.table(&header, &lines);
            sentences.iter().for_each(|sentence| self.line(&format!("- {sentence}")));
            self.line("");
        }
        self.coverage(part, have, asked);
        self.sampling = rows;
        Ok(())
    }

    /// Sampling against the patterns with as many blocks, window by window.
    fn duels(experiment: &Experiment, all: &[Chosen<'_, InWindow>]) -> Result<Vec<String>> {
        let find = |name: &str| all.iter().find(|chosen| chosen.choice.name == name);
        let mut sentences = Vec::new();
        let pairs = [
            ("8 blocks", "sink+window, 8 blocks", "recommended, 8 blocks"),
            ("8 blocks", "uniform, 8 blocks", "recommended, 8 blocks"),
            ("4 blocks", "sink+window, 4 blocks", "recommended, 4 blocks"),
            ("4 blocks", "uniform, 4 blocks", "recommended, 4 blocks"),
            ("16 blocks", "sink+window, 16 blocks", "recommended, 16 blocks"),
            ("32 blocks", "sink+window, 32 blocks", "recommended, 32 blocks"),
            ("8 blocks", "recommended, 8 blocks, other seed", "recommended, 8 blocks"),
            ("8 blocks", "recommended, 8 blocks, β = 0", "recommended, 8 blocks"),
            ("8 blocks", "recommended, 8 blocks, β = 1", "recommended, 8 blocks"),
        ];
        for (at, other, this) in pairs {
            let (Some(other), Some(this)) = (find(other), find(this)) else { continue };
            let over = differences(&this.rows, &other.rows);
            let better = over.iter().filter(|&&nats| nats < 0.0).count();
            let half = experiment.width / 2;
            let late = differences(&late(&this.rows, half), &late(&other.rows, half));
            sentences.push(format!(
                "At {at}, *{}* over *{}*: {} nats (second half {}); better in {better} of {} windows.",
                this.choice.name,
                other.choice.name,
                with_error(mean_and_error(&over), 4),
                with_error(mean_and_error(&late), 4),
                over.len(),
            ));
        }
        Ok(sentences)
    }

    /// Its numbers stand in the tables before.
    fn speed(&mut self, part: &[&Experiment]) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let (mut have, mut asked) = (0, 0);
        for experiment in part {
            asked += experiment.choices.len();
            for choice in &experiment.choices {
                have += usize::from(time_ratios(&self.speed, experiment, choice)?.is_some());
            }
        }
        self.line(
            "*Time of dense*: one layer's attention over the whole window, on random numbers, over that of dense attention in the same round; the middle of 9 rounds, and their quartiles. It is this \
             device's: GPUs have another.\n",
        );
        self.coverage(part, have, asked);
        Ok(())
    }

    fn needle(&mut self, part: &[&Experiment]) -> Result<()> {
        self.answer("needle", "A passkey by depth")?;
        let rows = std::mem::take(&mut self.needle);
        let (mut have, mut asked) = (0, 0);
        let (mut blocks, mut cost, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        for experiment in part {
            let all = chosen(&rows, experiment, |measured: &Found| measured.window)?;
            asked += experiment.places.len() * experiment.choices.len() * experiment.depths.len();
            have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
            if all.is_empty() {
                continue;
            }
            let texts = experiment.places.len();
            let title = format!("{}, {} tokens, {texts} texts", experiment.model.title(), experiment.width);
            let (mut lines, mut cells, mut nats) = (Vec::new(), Vec::new(), Vec::new());
            for Chosen { choice, rows } in &all {
                let found = |depth: Option<usize>| {
                    let here =
                        rows.iter().filter(|row| depth.is_none_or(|depth| row.measured.depth == depth));
                    let right: Vec<&Found> = here.map(|row| &row.measured).collect();
                    (right.iter().filter(|found| found.right).count(), right)
                };
                let mut line = vec![choice.name.clone()];
                let (mut by_right, mut by_nats) = (Vec::new(), Vec::new());
                for &depth in &experiment.depths {
                    let (right, of) = found(Some(depth));
                    line.push(format!("{right}/{}", of.len()));
                    let share = right as f64 / of.len().max(1) as f64;
                    let text = format!("{right}/{}", of.len());
                    by_right.push((!of.is_empty()).then_some(Cell { share, text }));
                    let nats: Vec<f64> = of.iter().map(|found| found.nll).collect();
                    by_nats.push(point(depth as f64, mean_and_error(&nats)));
                }
                let (right, of) = found(None);
                let count = of.len() as f64;
                let mean =
                    |number: fn(&Found) -> f64| of.iter().map(|&found| number(found)).sum::<f64>() / count;
                line.push(format!("{right}/{}", of.len()));
                line.push(format!("{:.2}", mean(|found| found.nll)));
                line.push(format!("{:.1}", mean(|found| found.answer_blocks)));
                let bytes = mean(|found| found.kv_bytes[0] as f64) / mean(|found| found.kv_bytes[1] as f64);
                line.push(format!("{:.0}%", 100.0 * bytes));
                lines.push(line);
                cells.push(CellRow { name: choice.name.clone(), cells: by_right });
                nats.push(Series { name: choice.name.clone(), points: by_nats, joined: true });
            }
            let columns = experiment.depths.iter().map(|depth| format!("{depth}%")).collect();
            blocks.push(Cells { title: format!("{title}: passkeys found, by depth"), rows: cells, columns });
            cost.push(Panel { title: title.clone(), series: nats });
            tables.push((title, experiment.depths.clone(), lines));
        }
        if !blocks.is_empty() {
            let path =
                self.picture_at("needle", "Passkeys found, by depth (100%: right before the question)")?;
            draw_cells(&path, &blocks)?;
        }
        let axes = Axes {
            x: "depth, percent (100: right before the question)",
            y: "nats of the passkey's digits",
            powers_x: None,
            log_y_from: None,
            up: None,
        };
        self.picture(
            "needle_nats",
            "How unlikely the model finds the passkey, by depth: 11.5 is a guess",
            axes,
            &cost,
        )?;
        for (title, depths, lines) in tables {
            self.line(&format!("### {title}\n"));
            let depths: Vec<String> = depths.iter().map(|depth| format!("{depth}%")).collect();
            let mut header = vec!["setting"];
            header.extend(depths.iter().map(String::as_str));
            header.extend(["all", "nats", "blocks of the answer", "bytes of f16"]);
            self.table(&header, &lines);
        }
        self.coverage(part, have, asked);
        self.needle = rows;
        Ok(())
    }

    fn staircase(&mut self, part: &[&Experiment]) -> Result<()> {
        self.answer("staircase", "SAQ: what a byte of cache brings")?;
        let rows = std::mem::take(&mut self.staircase);
        let (mut have, mut asked) = (0, 0);
        let (mut panels, mut tables) = (Vec::new(), Vec::new());
        for experiment in part {
            let all = chosen(&rows, experiment, |measured: &InWindow| measured.window)?;
            asked += experiment.places.len() * experiment.choices.len();
            have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
            let Some(plain) = all.first().filter(|first| first.choice.name == "f16") else { continue };
            let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
            let (mut lines, mut kinds) = (Vec::new(), Vec::<Series>::new());
            for Chosen { choice, rows } in &all {
                let sums = Summary::of(0..experiment.width, rows.iter().copied());
                let bytes = sums.kv_bytes / sums.kv_f16_bytes;
                let mut line =
                    vec![choice.name.clone(), windows(rows).to_string(), format!("{:.1}%", 100.0 * bytes)];
                line.extend(Self::perplexity_cells(experiment, rows, &plain.rows));
                lines.push(line);
                let kind = match choice.name.as_str() {
                    "f16" => continue,
                    name if name.starts_with("KIVI") => "KIVI",
                    name if name.starts_with("sink+window") => "sink+window, f16",
                    name if name.contains("sampled") => continue,
                    "recommended" => "recommended",
                    "paper" => "paper",
                    _ => "one ladder changed",
                };
                let at = point(100.0 * bytes, mean_and_error(&differences(rows, &plain.rows)));
                match kinds.iter_mut().find(|series| series.name == kind) {
                    Some(series) => series.points.push(at),
                    None => kinds.push(Series { name: kind.to_owned(), points: vec![at], joined: false }),
                }
            }
            panels.push(Panel { title: title.clone(), series: kinds });
            tables.push((title, lines));
        }
        let axes = Axes {
            x: "bytes, percent of f16",
            y: "nats a token over f16",
            powers_x: None,
            log_y_from: Some(1e-4),
            up: None,
        };
        self.picture(
            "staircase",
            "Quality against bytes: lower and further left is better; what is 10⁻⁴ or less, or negative, stands at 10⁻⁴",
            axes,
            &panels,
        )?;
        for (title, lines) in tables {
            self.line(&format!("### {title}, all layers\n"));
            let late = "nats, second half";
            self.table(
                &["cache", "windows", "bytes of f16", "perplexity", "bits/byte", "nats over f16", late],
                &lines,
            );
        }
        self.coverage(part, have, asked);
        self.staircase = rows;
        Ok(())
    }

    fn ages(&mut self, part: &[&Experiment]) -> Result<()> {
        self.answer("ages", "SAQ: error by age")?;
        let rows = std::mem::take(&mut self.ages);
        let (mut have, mut asked) = (0, 0);
        let (mut scores, mut outputs, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        for experiment in part {
            let all = chosen(&rows, experiment, |measured: &AgeError| measured.window)?;
            asked += experiment.places.len() * experiment.choices.len();
            let texts = |rows: &[&Row<AgeError>]| {
                rows.iter().map(|row| &row.source.text).collect::<BTreeSet<_>>().len()
            };
            have += all.iter().map(|chosen| texts(&chosen.rows)).sum::<usize>();
            if all.is_empty() {
                continue;
            }
            let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
            let ages = buckets(experiment.width);
            let (mut lines, mut by_score, mut by_output) = (Vec::new(), Vec::new(), Vec::new());
            for Chosen { choice, rows } in &all {
                let at = |start: usize, number: &dyn Fn(&AgeError) -> Option<f64>| {
                    let here = rows.iter().filter(|row| row.measured.ages.start == start);
                    mean_and_error(&here.filter_map(|row| number(&row.measured)).collect::<Vec<_>>())
                };
                let score = |start| at(start, &|error| error.score_error);
                let mut line = vec![choice.name.clone()];
                line.extend(ages.iter().map(|age| format!("{:.3}", score(age.start).0)));
                line.push(format!("{:.4}", at(0, &|error| Some(error.whole_error)).0));
                lines.push(line);
                let places = || ages.iter().map(|age| (age.start.max(64) as f64 * age.end as f64).sqrt());
                let curve = |values: Vec<(f64, Option<f64>)>| Series {
                    name: choice.name.clone(),
                    points: places().zip(values).map(|(x, value)| point(x, value)).collect(),
                    joined: true,
                };
                by_score.push(curve(ages.iter().map(|age| score(age.start)).collect()));
                let of_mass = |error: &AgeError| (error.mass > 0.0).then(|| error.output_error / error.mass);
                by_output.push(curve(ages.iter().map(|age| at(age.start, &of_mass)).collect()));
            }
            scores.push(Panel { title: title.clone(), series: by_score });
            outputs.push(Panel { title: title.clone(), series: by_output });
            tables.push((title, ages, lines));
        }
        let axes = Axes {
            x: "age in tokens",
            y: "root mean square error of scores",
            powers_x: Some(2.0),
            log_y_from: Some(1e-4),
            up: None,
        };
        self.picture(
            "ages",
            "Error of attention scores by the age of the key, mean over layers and texts",
            axes,
            &scores,
        )?;
        let axes = Axes { y: "error of the output by softmax mass", ..axes };
        self.picture(
            "ages_output",
            "Error that keys and values of an age bring into the output, by their softmax mass",
            axes,
            &outputs,
        )?;
        for (title, ages, lines) in tables {
            self.line(&format!("### {title}: error of scores by age, and of the whole output\n"));
            let names: Vec<String> = ages.iter().map(|age| format!("{}..{}", age.start, age.end)).collect();
            let mut header = vec!["cache"];
            header.extend(names.iter().map(String::as_str));
            header.push("output");
            self.table(&header, &lines);
        }
        self.coverage(part, have, asked);
        self.ages = rows;
        Ok(())
    }

    fn positions(&mut self, part: &[&Experiment]) -> Result<()> {
        self.answer("positions", "Harmonic bias on models trained with RoPE (Open Question 2)")?;
        let rows = std::mem::take(&mut self.positions);
        let (mut have, mut asked) = (0, 0);
        let (mut weights, mut beyond, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        for experiment in part {
            let all = chosen(&rows, experiment, |measured: &InWindow| measured.window)?;
            asked += experiment.places.len() * experiment.choices.len();
            have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
            let Some(none) = all.first().filter(|first| first.choice.name == "none") else { continue };
            let title = format!("{}, {} tokens", experiment.model.title(), experiment.width);
            let long = experiment.width > 8192;
            let edges: Vec<_> =
                buckets(experiment.width).into_iter().filter(|bucket| bucket.end > 1024).collect();
            let (mut lines, mut lambdas, mut octaves) = (Vec::new(), Vec::<Series>::new(), Vec::new());
            for Chosen { choice, rows } in &all {
                let mut line = vec![choice.name.clone(), windows(rows).to_string()];
                line.extend(Self::perplexity_cells(experiment, rows, &none.rows));
                let perplexity = |bucket: &std::ops::Range<usize>| {
                    Summary::of(bucket.clone(), rows.iter().copied()).perplexity
                };
                if long {
                    line.truncate(3);
                    line.extend(edges.iter().map(|bucket| format!("{:.2}", perplexity(bucket))));
                    let points =
                        edges.iter().map(|bucket| point(bucket.end as f64, (perplexity(bucket), None)));
                    octaves.push(Series {
                        name: choice.name.clone(),
                        points: points.collect(),
                        joined: true,
                    });
                }
                lines.push(line);
                if let (false, Some((kind, weight))) = (long, choice.name.split_once(", λ = ")) {
                    let nats = mean_and_error(&differences(rows, &none.rows));
                    let at = point(weight.parse().unwrap_or(f64::NAN), nats);
                    match lambdas.iter_mut().find(|series| series.name == kind) {
                        Some(series) => series.points.push(at),
                        None => {
                            lambdas.push(Series { name: kind.to_owned(), points: vec![at], joined: true })
                        }
                    }
                }
            }
            if long {
                beyond.push(Panel { title: title.clone(), series: octaves });
            } else {
                weights.push(Panel { title: title.clone(), series: lambdas });
            }
            tables.push((title, long, edges, lines));
        }
        let axes = Axes {
            x: "λ",
            y: "nats a token over none",
            powers_x: Some(10.0),
            log_y_from: Some(1e-4),
            up: None,
        };
        self.picture(
            "bias",
            "A bias added at inference, within the trained context; what is 10⁻⁴ or less stands at 10⁻⁴",
            axes,
            &weights,
        )?;
        let axes = Axes {
            x: "position (end of its octave)",
            y: "perplexity",
            powers_x: Some(2.0),
            log_y_from: Some(1.0),
            ..axes
        };
        self.picture("beyond", "Past the trained context of 8,192 tokens", axes, &beyond)?;
        for (title, long, edges, lines) in tables {
            self.line(&format!("### {title}\n"));
            if long {
                let names: Vec<String> =
                    edges.iter().map(|edge| format!("{}..{}", edge.start, edge.end)).collect();
                let mut header = vec!["positions", "windows", "perplexity"];
                header.extend(names.iter().map(String::as_str));
                self.table(&header, &lines);
            } else {
                let late = "nats, second half";
                self.table(
                    &["positions", "windows", "perplexity", "bits/byte", "nats over none", late],
                    &lines,
                );
            }
        }
        self.coverage(part, have, asked);
        self.positions = rows;
        Ok(())
    }
}
