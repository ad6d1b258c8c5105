//! The page that a report is written on: text, tables and pictures, and what was written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testkit::chart::{Axis, Errors, Panel, chart_with};
use testkit::prose::wrapped;

use super::{Paths, Written};
use crate::study::{Experiment, Question};

/// A report under way.
pub struct Page<'a> {
    paths: &'a Paths,
    /// Whether `--quick` measures what is here.
    pub quick: bool,
    text: String,
    written: Written,
}

impl<'a> Page<'a> {
    /// An empty one.
    pub fn new(paths: &'a Paths, quick: bool) -> Self {
        Self { paths, quick, text: String::new(), written: Written::default() }
    }

    /// Writes it to its file, whole or not at all.
    pub fn finish(mut self) -> Result<Written> {
        let out = &self.paths.out;
        testkit::files::write(out, &self.text)?;
        self.written.report = out.clone();
        Ok(self.written)
    }

    /// A line of text.
    pub fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A paragraph, wrapped.
    pub fn text(&mut self, text: &str) {
        self.text.push_str(&wrapped(text, ""));
        self.line("");
    }

    /// An item of a list, wrapped.
    pub fn item(&mut self, text: &str) {
        self.text.push_str(&wrapped(&format!("- {text}"), "  "));
    }

    /// A table in Markdown: the first column is text, the others are numbers.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
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
    pub fn answer(&mut self, name: &str, title: &str) -> Result<()> {
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
    pub fn coverage(&mut self, part: &[&Experiment], have: usize, asked: usize) {
        self.written.measured += have;
        self.written.asked += asked;
        let Some(question) = part.first().map(|experiment| experiment.question.name()) else { return };
        let lacking = match have {
            0 => " Nothing is measured yet.".to_owned(),
            _ if have < asked => {
                format!(" {have} of {asked} measurements are there. Tables and pictures show those.")
            }
            _ => String::new(),
        };
        let command = match self.quick {
            true => format!("`lab sweep --quick --only {question}`"),
            false if part.iter().any(|e| e.width > 2048 && e.question != Question::Decode) => {
                format!(
                    "`lab sweep --only {question}` and, of long windows, `lab sweep --size long --only \
                     {question}`"
                )
            }
            false => format!("`lab sweep --only {question}`"),
        };
        self.numbers(&self.csv(question), &format!("{command}.{lacking}"));
    }

    /// Where the numbers of a part are, and the commands that measure them.
    pub fn numbers(&mut self, csv: &str, commands: &str) {
        let name = csv.rsplit('/').next().unwrap_or(csv);
        self.text(&format!("The numbers are in [{name}]({csv}). They are measured by {commands}"));
    }

    /// The way from the report to a file of results: beside it, or in a folder beside it.
    fn csv(&self, question: &str) -> String {
        let results = &self.paths.results;
        match results.file_name().filter(|_| self.paths.out.parent() != Some(results)) {
            Some(folder) => format!("{}/{question}.csv", folder.to_string_lossy()),
            None => format!("{question}.csv"),
        }
    }

    /// Draws the panels that have anything in them, and shows the picture.
    pub fn picture(
        &mut self,
        name: &str,
        caption: &str,
        axes: [Axis<'_>; 2],
        panels: &[Panel],
    ) -> Result<()> {
        self.picture_with(name, caption, axes, Errors::Bars, panels)
    }

    /// As [`Page::picture`], with errors in another form.
    pub fn picture_with(
        &mut self,
        name: &str,
        caption: &str,
        axes: [Axis<'_>; 2],
        errors: Errors,
        panels: &[Panel],
    ) -> Result<()> {
        let panels: Vec<Panel> = panels.iter().filter(|panel| !panel.series.is_empty()).cloned().collect();
        if panels.is_empty() {
            return Ok(());
        }
        let path = self.picture_at(name, caption)?;
        chart_with(&path, axes, errors, &panels)
    }

    /// Shows a picture, which is to be drawn to the path returned.
    pub fn picture_at(&mut self, name: &str, caption: &str) -> Result<PathBuf> {
        let folder = self.paths.out.parent().unwrap_or(Path::new("")).join("plots");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join(format!("{name}.svg"));
        self.written.pictures.push(path.clone());
        self.text(&format!("![{caption}](plots/{name}.svg)"));
        self.text(&format!("*{caption}.*"));
        Ok(path)
    }
}
