//! Rows of results: CSV files that grow by whole measurements and are never torn, and summaries of
//! them.

use std::collections::{BTreeMap, HashMap};
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
    /// The name of the device that computed.
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

/// What a measurement adds to the rows: numbers by window, by prompt or by layer.
///
/// A *unit* is what is computed at once and stored at once, [`parts`](Measured::parts) rows of it;
/// a unit with fewer was torn and is computed again.
pub trait Measured: Clone {
    /// Names of [`values`](Measured::values).
    const COLUMNS: &'static [&'static str];

    /// The columns as they are written.
    fn values(&self) -> Vec<String>;

    /// Reads them back.
    ///
    /// # Errors
    /// Names the column that isn't a number.
    fn parse(fields: &Fields<'_>) -> Result<Self>;

    /// Which unit of its text and setting this belongs to.
    fn unit(&self) -> usize;

    /// Rows of a unit.
    fn parts(source: &Source) -> usize;
}

/// The columns of one measurement in a record.
pub struct Fields<'a> {
    record: &'a csv::StringRecord,
    first: usize,
    names: &'static [&'static str],
}

impl Fields<'_> {
    /// Column `index` as it is.
    pub fn text(&self, index: usize) -> &str {
        self.record.get(self.first + index).unwrap_or_default()
    }

    /// Column `index` as a number.
    ///
    /// # Errors
    /// Names the column if it isn't one.
    pub fn number<T: std::str::FromStr>(&self, index: usize) -> Result<T> {
        let text = self.text(index);
        text.parse()
            .ok()
            .with_context(|| format!("{text:?} is no number, in the column {}", self.names[index]))
    }
}

/// One row: what was measured, under which setting, of what.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<M> {
    /// The setting's name.
    pub name: String,
    /// The [values](Setting::values) of the setting.
    pub setting: Vec<String>,
    /// Model, text and program.
    pub source: Source,
    /// The numbers that were measured.
    pub measured: M,
}

const SOURCE: [&str; 8] =
    ["model", "model_sha256", "backend", "device", "text", "text_sha256", "width", "revision"];
const FIRST_OF_SOURCE: usize = 1 + Setting::COLUMNS.len();

impl<M: Measured> Row<M> {
    /// The columns of the file.
    pub fn header() -> Vec<&'static str> {
        let setting = Setting::COLUMNS.iter().chain(&SOURCE);
        ["name"].iter().chain(setting).chain(M::COLUMNS).copied().collect()
    }

    fn record(&self) -> Vec<String> {
        let source = &self.source;
        let [model, model_sha256, backend, device, text, text_sha256, revision] = [
            &source.model,
            &source.model_sha256,
            &source.backend,
            &source.device,
            &source.text,
            &source.text_sha256,
            &source.revision,
        ]
        .map(String::clone);
        let width = source.width.to_string();
        let source = [model, model_sha256, backend, device, text, text_sha256, width, revision];
        let setting = std::iter::once(self.name.clone()).chain(self.setting.iter().cloned());
        setting.chain(source).chain(self.measured.values()).collect()
    }

    fn parse(record: &csv::StringRecord) -> Result<Self> {
        let source = Fields { record, first: FIRST_OF_SOURCE, names: &SOURCE };
        let text = |index| source.text(index).to_owned();
        let measured = Fields { record, first: FIRST_OF_SOURCE + SOURCE.len(), names: M::COLUMNS };
        Ok(Self {
            name: record.get(0).unwrap_or_default().to_owned(),
            setting: (1..FIRST_OF_SOURCE).map(|i| record.get(i).unwrap_or_default().to_owned()).collect(),
            source: Source {
                model: text(0),
                model_sha256: text(1),
                backend: text(2),
                device: text(3),
                text: text(4),
                text_sha256: text(5),
                width: source.number(6)?,
                revision: text(7),
            },
            measured: M::parse(&measured)?,
        })
    }

    /// What says that rows are about the same unit of the same computation, whoever did it and
    /// whatever it was called.
    fn key(&self) -> Key {
        Key::new(&self.setting, &self.source, self.measured.unit())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(Vec<String>, usize, usize);

impl Key {
    fn new(setting: &[String], source: &Source, unit: usize) -> Self {
        let of_source = [&source.model_sha256, &source.backend, &source.text_sha256];
        Self(setting.iter().chain(of_source).cloned().collect(), source.width, unit)
    }
}

/// One bucket of positions in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct InWindow {
    /// The window's number in the text.
    pub window: usize,
    /// Sums over the bucket.
    pub bucket: Bucket,
    /// Bytes of keys and values at the window's end: held, reserved, and what they would be in f16.
    pub kv_bytes: [u64; 3],
    /// Seconds that the whole window took.
    pub seconds: f64,
}

impl Measured for InWindow {
    const COLUMNS: &'static [&'static str] = &[
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

    fn values(&self) -> Vec<String> {
        let bucket = &self.bucket;
        let [held, capacity, f16] = self.kv_bytes;
        vec![
            self.window.to_string(),
            bucket.positions.start.to_string(),
            bucket.positions.end.to_string(),
            bucket.tokens.to_string(),
            bucket.bytes.to_string(),
            bucket.nll.to_string(),
            bucket.blocks.to_string(),
            bucket.dense_blocks.to_string(),
            held.to_string(),
            capacity.to_string(),
            f16.to_string(),
            self.seconds.to_string(),
        ]
    }

    fn parse(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self {
            window: fields.number(0)?,
            bucket: Bucket {
                positions: fields.number(1)?..fields.number(2)?,
                tokens: fields.number(3)?,
                bytes: fields.number(4)?,
                nll: fields.number(5)?,
                blocks: fields.number(6)?,
                dense_blocks: fields.number(7)?,
            },
            kv_bytes: [fields.number(8)?, fields.number(9)?, fields.number(10)?],
            seconds: fields.number(11)?,
        })
    }

    fn unit(&self) -> usize {
        self.window
    }

    fn parts(source: &Source) -> usize {
        buckets(source.width).len()
    }
}

/// The rows that there are, in memory and in a file.
#[derive(Debug)]
pub struct Results<M> {
    rows: Vec<Row<M>>,
    file: Option<(PathBuf, File)>,
}

impl<M: Measured> Results<M> {
    /// Rows that are kept in no file.
    pub fn in_memory() -> Self {
        Self { rows: Vec::new(), file: None }
    }

    /// Opens a file of earlier rows, or makes one. Rows of a unit that isn't complete are taken
    /// out.
    ///
    /// # Errors
    /// Names the file: it can't be read or written, or its columns are others.
    pub fn open(path: &Path) -> Result<Self> {
        let at = || format!("results {}", path.display());
        let Stored { rows, sound } = Stored::read(path)?;
        if !sound {
            testkit::files::write(path, lines(Some(Row::<M>::header()), &rows)?).with_context(at)?;
        }
        let file = OpenOptions::new().append(true).open(path).with_context(at)?;
        Ok(Self { rows, file: Some((path.to_owned(), file)) })
    }

    /// The whole units in a file, which stays as it is; none if there is no file.
    ///
    /// # Errors
    /// Names the file: it can't be read, or its columns are others.
    pub fn read(path: &Path) -> Result<Vec<Row<M>>> {
        Ok(Stored::read(path)?.rows)
    }

    /// Every row.
    pub fn rows(&self) -> &[Row<M>] {
        &self.rows
    }

    /// The rows of a unit that was computed before.
    pub fn find(&self, setting: &Setting, source: &Source, unit: usize) -> Vec<&Row<M>> {
        let key = Key::new(&setting.values(), source, unit);
        self.rows.iter().filter(|row| row.key() == key).collect()
    }

    /// Adds the rows of a unit, in one write.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn append(&mut self, rows: Vec<Row<M>>) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            let at = || format!("results {}", path.display());
            file.write_all(&lines(None, &rows)?).and_then(|()| file.sync_data()).with_context(at)?;
        }
        self.rows.extend(rows);
        Ok(())
    }
}

/// The rows that a file holds.
struct Stored<M> {
    /// The rows of whole units.
    rows: Vec<Row<M>>,
    /// Whether there was nothing else in it.
    sound: bool,
}

impl<M: Measured> Stored<M> {
    fn read(path: &Path) -> Result<Self> {
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
                header == Row::<M>::header(),
                "{}: its columns are not those of this program; give another file",
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
        let all = rows.len();
        // Two programs that ran at once may have computed a unit each: one of them is kept.
        let mut kept: HashMap<Key, usize> = HashMap::new();
        rows.retain(|row: &Row<M>| {
            let (key, parts) = (row.key(), M::parts(&row.source));
            let whole = counts.get(&key).is_some_and(|count| count % parts == 0);
            let kept = kept.entry(key).or_default();
            *kept += 1;
            whole && *kept <= parts
        });
        let sound = !whole.is_empty() && whole.len() == text.len() && rows.len() == all;
        Ok(Self { rows, sound })
    }
}

fn lines<M: Measured>(header: Option<Vec<&str>>, rows: &[Row<M>]) -> Result<Vec<u8>> {
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
    /// Sums up some rows, which should be of one setting.
    pub fn of<'a>(positions: Range<usize>, rows: impl Iterator<Item = &'a Row<InWindow>>) -> Self {
        let (mut tokens, mut bytes, mut nll) = (0, 0, 0.0);
        let (mut weight, mut blocks, mut dense) = (0.0, 0.0, 0.0);
        let mut kv = [0.0; 2];
        for row in rows.map(|row| &row.measured).filter(|row| {
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

/// How much a token's negative log-likelihood differs from that of a baseline, in nats, window by
/// window: of every window that both have.
pub fn differences(rows: &[&Row<InWindow>], baseline: &[&Row<InWindow>]) -> Vec<f64> {
    let by_window = |rows: &[&Row<InWindow>]| {
        let mut sums: BTreeMap<(String, usize), (f64, u64)> = BTreeMap::new();
        for row in rows {
            let sum = sums.entry((row.source.text.clone(), row.measured.window)).or_default();
            sum.0 += row.measured.bucket.nll;
            sum.1 += row.measured.bucket.tokens;
        }
        sums.into_iter()
            .map(|(window, (nll, tokens))| (window, nll / tokens as f64))
            .collect::<BTreeMap<_, _>>()
    };
    let baseline = by_window(baseline);
    let rows = by_window(rows);
    rows.iter().filter_map(|(window, nll)| Some(nll - baseline.get(window)?)).collect()
}

/// The mean of some numbers, and its standard error; none for a single one.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (square / (count - 1.0) / count).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seed: &str, text: &str, nll: f64) -> Row<InWindow> {
        let source = Source {
            model: "m".into(),
            model_sha256: String::new(),
            backend: "gpu".into(),
            device: "d".into(),
            text: text.into(),
            text_sha256: String::new(),
            width: 128,
            revision: String::new(),
        };
        let bucket =
            Bucket { positions: 0..128, tokens: 127, bytes: 500, nll, blocks: 1.0, dense_blocks: 1.5 };
        let measured = InWindow { window: 0, bucket, kv_bytes: [1; 3], seconds: 1.0 };
        Row { name: seed.into(), setting: vec![seed.into()], source, measured }
    }

    #[test]
    fn differences_of_two_seeds_are_their_means_window_by_window() {
        let dense = [row("dense", "a", 127.0), row("dense", "b", 254.0)];
        let first = [row("0", "a", 254.0), row("0", "b", 254.0)];
        let second = [row("1", "a", 127.0), row("1", "b", 508.0), row("1", "c", 999.0)];
        let dense: Vec<_> = dense.iter().collect();
        let both: Vec<_> = first.iter().chain(&second).collect();
        // The window that dense attention lacks is left out.
        assert_eq!(differences(&both, &dense), [0.5, 1.0]);
        assert_eq!(differences(&first.iter().collect::<Vec<_>>(), &dense), [1.0, 0.0]);
        assert_eq!(mean_and_error(&[0.5, 1.0]), (0.75, Some(0.25)));
        assert_eq!(mean_and_error(&[0.5]), (0.5, None));
    }
}
