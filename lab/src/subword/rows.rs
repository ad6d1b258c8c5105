//! The file of results: a row for each encoder, vocabulary and pair of texts.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::judge::Verdict;

/// What was measured of one encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The name of the pair of texts.
    pub texts: String,
    /// SHA-256 of the text that was trained on, and of the other.
    pub train_sha256: String,
    /// See `train_sha256`.
    pub held_out_sha256: String,
    /// Bytes of the text that was trained on, and of the other.
    pub train_bytes: usize,
    /// See `train_bytes`.
    pub held_out_bytes: usize,
    /// Pieces asked for.
    pub size: usize,
    /// Which encoder.
    pub encoder: String,
    /// The program with its version.
    pub program: String,
    /// Bytes of the held-out text by its tokens.
    pub bytes_per_token: f64,
    /// See [`Verdict::unigram_bits`].
    pub unigram_bits: f64,
    /// See [`Verdict::five_gram_bits`].
    pub five_gram_bits: f64,
    /// See [`Verdict::renyi_efficiency`].
    pub renyi_efficiency: f64,
    /// See [`Verdict::used`].
    pub used: f64,
    /// Seconds of the processor that training took on one thread, with cutting into words.
    pub train_cpu_seconds: Option<f64>,
    /// 10⁶ bytes of both texts that one thread encodes in a second, the best of three passes.
    pub encode_mb_per_s: f64,
    /// Whether both texts come back from their ids.
    pub lossless: bool,
    /// The git revision of the lab.
    pub revision: String,
}

impl Row {
    /// What the judges say.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            bytes_per_token: self.bytes_per_token,
            unigram_bits: self.unigram_bits,
            five_gram_bits: self.five_gram_bits,
            renyi_efficiency: self.renyi_efficiency,
            used: self.used,
        }
    }

    /// Whether both measure the same encoder on the same texts.
    fn same(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.texts.clone(), row.size, row.encoder.clone());
        key(self) == key(other)
    }
}

/// The rows of a file, which is written whole each time.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    rows: Vec<Row>,
}

impl Rows {
    /// Those that are there, none if the file isn't.
    ///
    /// # Errors
    /// A file that can't be read, or a line that is no row.
    pub fn open(path: &Path) -> Result<Self> {
        let mut rows = Vec::new();
        if path.exists() {
            let context = || format!("reading {}", path.display());
            let mut reader = csv::Reader::from_path(path).with_context(context)?;
            for row in reader.deserialize() {
                rows.push(row.with_context(context)?);
            }
        }
        Ok(Self { path: path.into(), rows })
    }

    /// Puts a row in the place of one for the same encoder and texts, else behind all, and writes
    /// the file.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn put(&mut self, row: Row) -> Result<()> {
        match self.rows.iter_mut().find(|other| other.same(&row)) {
            Some(other) => *other = row,
            None => self.rows.push(row),
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        self.rows.iter().try_for_each(|row| writer.serialize(row))?;
        let text = writer.into_inner().map_err(|error| error.into_error())?;
        testkit::files::write(&self.path, text)
    }
}

impl From<Rows> for Vec<Row> {
    fn from(rows: Rows) -> Self {
        rows.rows
    }
}
