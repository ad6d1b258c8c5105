//! Files of results with a row for each thing measured, which is renewed when it is measured again.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A row of such a file.
pub trait Row: Serialize + DeserializeOwned {
    /// Whether both measure the same.
    fn same(&self, other: &Self) -> bool;
}

/// The rows of a file, which is written whole each time.
#[derive(Debug)]
pub struct Table<R> {
    path: PathBuf,
    rows: Vec<R>,
}

impl<R: Row> Table<R> {
    /// Reads the rows that are there, none if the file isn't.
    ///
    /// # Errors
    /// A file that can't be read, or a line that is no row.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), rows: read(path)? })
    }

    /// Puts a row in the place of one that measures the same, else behind all, and writes the file.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn put(&mut self, row: R) -> Result<()> {
        match self.rows.iter_mut().find(|other| other.same(&row)) {
            Some(other) => *other = row,
            None => self.rows.push(row),
        }
        write(&self.path, &self.rows)
    }
}

/// The rows of a file, none if it isn't there.
///
/// # Errors
/// A file that can't be read, or a line that is no row.
pub fn read<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let context = || format!("reading {}", path.display());
    let mut reader = csv::Reader::from_path(path).with_context(context)?;
    reader.deserialize().map(|row| row.with_context(context)).collect()
}

/// Writes rows, whole or not at all.
///
/// # Errors
/// A file that can't be written.
pub fn write<R: Serialize>(path: &Path, rows: &[R]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|row| writer.serialize(row))?;
    let text = writer.into_inner().map_err(|error| error.into_error())?;
    testkit::files::write(path, text)
}

/// Refuses to make less of what a file has: a trial with few of something doesn't take the place of
/// a full run.
///
/// # Errors
/// The file has more of them.
pub fn not_fewer(path: &Path, of: &str, what: &str, there: usize, wanted: usize) -> Result<()> {
    ensure!(
        there <= wanted,
        "{}: it has {there} {what} of {of}, and would have {wanted}; give --results another file",
        path.display()
    );
    Ok(())
}

impl<R> From<Table<R>> for Vec<R> {
    fn from(table: Table<R>) -> Self {
        table.rows
    }
}
