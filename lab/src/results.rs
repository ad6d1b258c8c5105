//! Rows of perplexity results: a CSV file that grows a window at a time and is never torn, and summaries of it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::perplexity::{Bucket, buckets};
use crate::setting::Setting;

/// What the rows of a run have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The model's file name.
    pub model: String,
    /// SHA-256 of the model's file.
    pub model_sha256: String,
    /// Who computed attention.
    pub backend: String,
    /// On what.
    pub device: String,
    /// The text's file name.
    pub text: String,
    /// SHA-256 of the text.
    pub text_sha256: String,
    /// Tokens of a window.
    pub width: usize,
    /// The git revision of the program.
    pub revision: String,
}

/// One bucket of one window under one setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The setting's name.
    pub name: String,
    /// Its [values](Setting::values).
    pub setting: Vec<String>,
    /// Model, text and program.
    pub source: Source,
    /// The window's number in the text.
    pub window: usize,
    /// Sums over the bucket.
    pub bucket: Bucket,
    /// Bytes of keys and values at the window's end: held, reserved, and what they would be in f16.
    pub kv_bytes: [u64; 3],
    /// Seconds that the whole window took.
    pub seconds: f64,
}

const BEFORE: [&str; 1] = ["name"];
const AFTER: [&str; 20] = [
    "model",
    "model_sha256",
    "backend",
    "device",
    "text",
    "text_sha256",
    "width",
    "revision",
    "window",
    "bucket_start",
    "bucket_end",
    "tokens",
    "bytes",
    "nll",
    "blocks",
    "dense_blocks",
    "kv_bytes",
    "kv_capacity_bytes",
    "kv_f16_bytes",
    "seconds",
];

impl Row {
    /// The columns of the file.
    pub fn header() -> Vec<&'static str> {
        BEFORE.into_iter().chain(Setting::COLUMNS).chain(AFTER).collect()
    }

    fn record(&self) -> Vec<String> {
        let (source, bucket) = (&self.source, &self.bucket);
        let after = [
            source.model.clone(),
            source.model_sha256.clone(),
            source.backend.clone(),
            source.device.clone(),
            source.text.clone(),
            source.text_sha256.clone(),
            source.width.to_string(),
            source.revision.clone(),
            self.window.to_string(),
            bucket.positions.start.to_string(),
            bucket.positions.end.to_string(),
            bucket.tokens.to_string(),
            bucket.bytes.to_string(),
            bucket.nll.to_string(),
            bucket.blocks.to_string(),
            bucket.dense_blocks.to_string(),
            self.kv_bytes[0].to_string(),
            self.kv_bytes[1].to_string(),
            self.kv_bytes[2].to_string(),
            self.seconds.to_string(),
        ];
        std::iter::once(self.name.clone()).chain(self.setting.iter().cloned()).chain(after).collect()
    }

    fn parse(record: &csv::StringRecord) -> Result<Self> {
        let settings = BEFORE.len()..BEFORE.len() + Setting::COLUMNS.len();
        let text = |index: usize| record.get(settings.end + index).unwrap_or_default().to_owned();
        fn number<T: std::str::FromStr>(text: String, column: usize) -> Result<T> {
            text.parse()
                .ok()
                .with_context(|| format!("{text:?} is no number, in the column {}", AFTER[column]))
        }
        Ok(Self {
            name: record.get(0).unwrap_or_default().to_owned(),
            setting: settings.clone().map(|i| record.get(i).unwrap_or_default().to_owned()).collect(),
            source: Source {
                model: text(0),
                model_sha256: text(1),
                backend: text(2),
                device: text(3),
                text: text(4),
                text_sha256: text(5),
                width: number(text(6), 6)?,
                revision: text(7),
            },
            window: number(text(8), 8)?,
            bucket: Bucket {
                positions: number(text(9), 9)?..number(text(10), 10)?,
                tokens: number(text(11), 11)?,
                bytes: number(text(12), 12)?,
                nll: number(text(13), 13)?,
                blocks: number(text(14), 14)?,
                dense_blocks: number(text(15), 15)?,
            },
            kv_bytes: [number(text(16), 16)?, number(text(17), 17)?, number(text(18), 18)?],
            seconds: number(text(19), 19)?,
        })
    }

    /// What says that rows are about the same window of the same computation, whoever did it and whatever it was called.
    fn key(&self) -> Key {
        Key::new(&self.setting, &self.source, self.window)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(Vec<String>, usize, usize);

impl Key {
    fn new(setting: &[String], source: &Source, window: usize) -> Self {
        let of_source = [&source.model_sha256, &source.backend, &source.text_sha256];
        Self(setting.iter().chain(of_source).cloned().collect(), source.width, window)
    }
}

/// The rows that there are, in memory and in a file.
#[derive(Debug, Default)]
pub struct Results {
    rows: Vec<Row>,
    file: Option<(PathBuf, File)>,
}

impl Results {
    /// Rows that are kept in no file.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens a file of earlier rows, or makes one. Rows of a window that isn't complete are taken out.
    ///
    /// # Errors
    /// Names the file: it can't be read or written, or its columns are others.
    pub fn open(path: &Path) -> Result<Self> {
        let at = || format!("results {}", path.display());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(at),
        };
        // A last line without its end was cut off while it was written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut reader = csv::Reader::from_reader(whole.as_bytes());
        if !whole.is_empty() {
            let header = reader.headers().with_context(at)?;
            ensure!(
                header == Row::header(),
                "{}: its columns are not those of this program; give another --out",
                at()
            );
        }
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.with_context(at)?;
            let line = record.position().map_or(0, csv::Position::line);
            rows.push(Row::parse(&record).with_context(|| format!("{}, line {line}", at()))?);
        }
        let mut counts: HashMap<Key, usize> = HashMap::new();
        for row in &rows {
            *counts.entry(row.key()).or_default() += 1;
        }
        let complete = |row: &&Row| counts.get(&row.key()) == Some(&buckets(row.source.width).len());
        let kept: Vec<Row> = rows.iter().filter(complete).cloned().collect();
        if whole.is_empty() || whole.len() < text.len() || kept.len() < rows.len() {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).with_context(at)?;
            }
            let part = path.with_extension("part");
            std::fs::write(&part, lines(Some(Row::header()), &kept)?).with_context(at)?;
            std::fs::rename(&part, path).with_context(at)?;
        }
        let file = OpenOptions::new().append(true).open(path).with_context(at)?;
        Ok(Self { rows: kept, file: Some((path.to_owned(), file)) })
    }

    /// Every row.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows of a window that was computed before.
    pub fn find(&self, setting: &Setting, source: &Source, window: usize) -> Vec<&Row> {
        let key = Key::new(&setting.values(), source, window);
        self.rows.iter().filter(|row| row.key() == key).collect()
    }

    /// Adds the rows of a window, in one write.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn append(&mut self, rows: Vec<Row>) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            let at = || format!("results {}", path.display());
            file.write_all(&lines(None, &rows)?).and_then(|()| file.sync_data()).with_context(at)?;
        }
        self.rows.extend(rows);
        Ok(())
    }
}

fn lines(header: Option<Vec<&str>>, rows: &[Row]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if let Some(header) = header {
        writer.write_record(header)?;
    }
    for row in rows {
        writer.write_record(row.record())?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

/// Sums over windows.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// First and last position, the last not included.
    pub positions: (usize, usize),
    /// Predicted tokens.
    pub tokens: u64,
    /// e to the mean negative log-likelihood of a token.
    pub perplexity: f64,
    /// Negative log-likelihood in bits, per byte of text.
    pub bits_per_byte: f64,
    /// Mean key blocks visited per token and head.
    pub blocks: f64,
    /// The same for dense attention.
    pub dense_blocks: f64,
    /// Mean bytes of keys and values at the end of a window.
    pub kv_bytes: f64,
    /// The same in f16.
    pub kv_f16_bytes: f64,
}

impl Summary {
    /// Of some rows, which should be of one setting.
    pub fn of<'a>(positions: Range<usize>, rows: impl Iterator<Item = &'a Row>) -> Self {
        let (mut tokens, mut bytes, mut nll) = (0, 0, 0.0);
        let (mut weight, mut blocks, mut dense) = (0.0, 0.0, 0.0);
        let mut kv = [0.0; 2];
        for row in rows.filter(|row| {
            let bucket = &row.bucket.positions;
            positions.start <= bucket.start && bucket.end <= positions.end
        }) {
            tokens += row.bucket.tokens;
            bytes += row.bucket.bytes;
            nll += row.bucket.nll;
            let len = row.bucket.positions.len() as f64;
            weight += len;
            blocks += len * row.bucket.blocks;
            dense += len * row.bucket.dense_blocks;
            kv[0] += len * row.kv_bytes[0] as f64;
            kv[1] += len * row.kv_bytes[2] as f64;
        }
        Self {
            positions: (positions.start, positions.end),
            tokens,
            perplexity: (nll / tokens as f64).exp(),
            bits_per_byte: nll / std::f64::consts::LN_2 / bytes as f64,
            blocks: blocks / weight,
            dense_blocks: dense / weight,
            kv_bytes: kv[0] / weight,
            kv_f16_bytes: kv[1] / weight,
        }
    }
}

/// How much a token's negative log-likelihood differs from that of a baseline over the same windows: mean over windows in nats, and its standard error
/// (none for a single window).
pub fn difference<'a>(
    rows: impl Iterator<Item = &'a Row> + Clone,
    baseline: impl Iterator<Item = &'a Row> + Clone,
) -> (f64, Option<f64>) {
    let mut windows: Vec<usize> = rows.clone().map(|row| row.window).collect();
    windows.dedup();
    let mean = |rows: &mut dyn Iterator<Item = &'a Row>, window: usize| {
        let of = |(nll, tokens), row: &Row| (nll + row.bucket.nll, tokens + row.bucket.tokens);
        let (nll, tokens) = rows.filter(|row| row.window == window).fold((0.0, 0), of);
        nll / tokens as f64
    };
    let differences: Vec<f64> = windows
        .iter()
        .map(|&window| mean(&mut rows.clone(), window) - mean(&mut baseline.clone(), window))
        .collect();
    let count = differences.len() as f64;
    let average = differences.iter().sum::<f64>() / count;
    let square: f64 = differences.iter().map(|x| (x - average).powi(2)).sum();
    let error = (differences.len() > 1).then(|| (square / (count - 1.0) / count).sqrt());
    (average, error)
}
