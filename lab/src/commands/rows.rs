//! Rows of a comparison: known ones, new ones, a file that keeps them, and what is printed.

use std::path::PathBuf;

use anyhow::Result;
use indicatif::ProgressBar;
use lab::backend::Backend;
use lab::table::{self, Table};
use serde_json::json;

use super::bar;

/// Rows that a command puts into a file of results and prints.
pub struct Rows<R> {
    path: Option<PathBuf>,
    known: Vec<R>,
    table: Option<Table<R>>,
    rows: Vec<R>,
    line: fn(&R) -> String,
    /// How far the command is.
    pub bar: ProgressBar,
}

impl<R: table::Row + Clone> Rows<R> {
    /// Reads a file, if there is to be one, for a command of so many steps.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn open(
        path: Option<PathBuf>,
        (steps, name): (usize, &'static str),
        line: fn(&R) -> String,
    ) -> Result<Self> {
        Ok(Self {
            known: path.as_deref().map(table::read).transpose()?.unwrap_or_default(),
            table: path.as_deref().map(Table::open).transpose()?,
            rows: Vec::new(),
            line,
            bar: bar(steps as u64, name),
            path,
        })
    }

    /// The rules whose rows the file doesn't have; the rows that it has are taken as they are. The
    /// steps of those, and of their reference if it isn't needed, are done.
    pub fn missing<'a, T>(&mut self, rules: &'a [T], is_of: impl Fn(&R, &T) -> bool) -> Vec<&'a T> {
        let mut missing = Vec::new();
        for rule in rules {
            match self.known.iter().find(|row| is_of(row, rule)) {
                Some(row) => self.rows.push(row.clone()),
                None => missing.push(rule),
            }
        }
        self.bar.inc((rules.len() - missing.len()) as u64 + u64::from(missing.is_empty()));
        missing
    }

    /// Keeps what was measured, a step.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn put(&mut self, row: R) -> Result<()> {
        self.bar.println((self.line)(&row));
        if let Some(table) = &mut self.table {
            table.put(row.clone())?;
        }
        self.rows.push(row);
        self.bar.inc(1);
        Ok(())
    }

    /// Prints all rows, for people or as JSON.
    ///
    /// # Errors
    /// None for rows that a file can have.
    pub fn print(&self, json: bool, backend: &Backend) -> Result<()> {
        self.bar.finish_and_clear();
        if !json {
            self.rows.iter().for_each(|row| println!("{}", (self.line)(row)));
            return Ok(());
        }
        let object = json!({
            "backend": backend.name(),
            "adapter": backend.adapter(),
            "driver": backend.driver(),
            "results": self.path.as_ref().map(|path| path.display().to_string()),
            "rows": self.rows,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        Ok(())
    }
}

/// The file of results: the one that is given, else none for rules of one's own, else `usual`.
pub fn results(given: Option<&PathBuf>, own_rules: bool, usual: &str) -> Option<PathBuf> {
    given.cloned().or_else(|| (!own_rules).then(|| usual.into()))
}
