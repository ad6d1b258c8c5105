//! Folders of trainings: ours, as `lab word2vec train` leaves them, and gensim's, as
//! `scripts/word2vec-peers` does.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use prflash::word2vec::{Analogy, Format, Rules, WordVectors};
use serde_json::{Map, Value};

use super::judge::Judge;
use super::rows::Row;
use super::training::TOLD;

/// The file in which others' trainings are told.
const PEER: &str = "peer.json";

/// A training in a folder of its own.
#[derive(Clone, Debug)]
pub struct Trained {
    vectors: PathBuf,
    /// The row, in which nothing is judged yet.
    row: Row,
}

impl Trained {
    /// All in a folder, by their seeds' folders in the order of their names.
    ///
    /// # Errors
    /// Files that can't be read or aren't as they must be; a folder without a training.
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let context = || format!("reading {}", folder.display());
        let mut folders = vec![folder.to_owned()];
        for entry in std::fs::read_dir(folder).with_context(context)? {
            folders.push(entry.with_context(context)?.path());
        }
        folders.sort();
        let mut all = Vec::new();
        for folder in folders {
            // Both are written last, when all else is there.
            for name in [TOLD, PEER] {
                let path = folder.join(name);
                if path.exists() {
                    all.push(Self::read(&path).with_context(|| path.display().to_string())?);
                }
            }
        }
        ensure!(!all.is_empty(), "{}: no {TOLD} and no {PEER} in it or its folders", folder.display());
        Ok(all)
    }

    fn read(path: &Path) -> Result<Self> {
        let told: Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let ours = path.ends_with(TOLD);
        let top = Fields(&told);
        let settings = told.get("settings").and_then(Value::as_object);
        let settings = Fields(settings.context("settings: expected an object")?);
        let architecture = match ours {
            true => settings.text("architecture")? == "SkipGram",
            false => settings.whole("sg")? == 1,
        };
        let named = |here: &'static str, there: &'static str| if ours { here } else { there };
        // What has a column of its own isn't told twice.
        let own: &[&str] = match ours {
            true => &["architecture", "dimension", "window", "negative", "epochs", "batch", "seed"],
            false => &["sg", "vector_size", "window", "negative", "epochs", "min_count", "seed"],
        };
        let others = settings.0.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        let mut others: Vec<String> = others.map(|(name, value)| format!("{name} {value}")).collect();
        let more = top.0.get(named("longest", "read"));
        others.extend(more.map(|value| format!("{} {value}", named("longest", "read"))));
        let row = Row {
            text: top.text("text")?,
            trainer: if ours { "prflash".into() } else { top.text("peer")? },
            program: top.text(named("program", "version"))?,
            architecture: if architecture { "skip-gram" } else { "bag-of-words" }.into(),
            dimension: settings.whole(named("dimension", "vector_size"))? as usize,
            window: settings.whole("window")? as usize,
            negative: settings.whole("negative")? as usize,
            epochs: u32::try_from(settings.whole("epochs")?)?,
            min_count: if ours { &top } else { &settings }.whole("min_count")?,
            batch: if ours { Some(settings.whole("batch")? as usize) } else { None },
            settings: others.join("; ").replace('"', ""),
            seed: settings.whole("seed")?,
            words: 0,
            wordsim: None,
            wordsim_covered: 0,
            wordsim_pairs: 0,
            simlex: None,
            simlex_covered: 0,
            simlex_pairs: 0,
            analogies_right: 0,
            analogies_covered: 0,
            analogies_asked: 0,
            raw_words_per_s: top.number("raw_words_per_s")?,
            raw_words_per_cpu_s: top.number("raw_words_per_cpu_s")?,
            device: if ours { Some(device(&top)?) } else { None },
            revision: if ours { top.text("revision")? } else { String::new() },
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Self { vectors: folder.join(top.text("vectors")?), row })
    }

    /// Judges the vectors by strict rules, analogies by 3CosAdd. `revision` is of who judges.
    ///
    /// # Errors
    /// A file of vectors that can't be read, by name.
    pub fn judged(&self, judge: &Judge, rules: &Rules, revision: &str) -> Result<Row> {
        let path = &self.vectors;
        let vectors =
            WordVectors::load(path, Format::of(path)).with_context(|| path.display().to_string())?;
        let verdict = judge.judge(&vectors, Analogy::CosAdd, rules);
        let defined = |value: f64| value.is_finite().then_some(value);
        let total = verdict.analogies.total();
        let row = self.row.clone();
        Ok(Row {
            words: vectors.len(),
            wordsim: defined(verdict.wordsim.spearman),
            wordsim_covered: verdict.wordsim.covered,
            wordsim_pairs: verdict.wordsim.pairs,
            simlex: defined(verdict.simlex.spearman),
            simlex_covered: verdict.simlex.covered,
            simlex_pairs: verdict.simlex.pairs,
            analogies_right: total.right,
            analogies_covered: total.covered,
            analogies_asked: total.asked,
            revision: if row.revision.is_empty() { revision.into() } else { row.revision.clone() },
            ..row
        })
    }
}

/// The adapter with its driver, which older files have in one.
fn device(top: &Fields<'_>) -> Result<String> {
    match top.text("device") {
        Ok(device) => Ok(device),
        Err(_) => Ok(format!("{} ({})", top.text("adapter")?, top.text("driver")?)),
    }
}

/// The members of an object, by their names.
struct Fields<'v>(&'v Map<String, Value>);

impl Fields<'_> {
    fn text(&self, name: &str) -> Result<String> {
        let found = self.0.get(name).and_then(Value::as_str);
        found.map(str::to_owned).with_context(|| format!("{name}: expected a text"))
    }

    fn whole(&self, name: &str) -> Result<u64> {
        let found = self.0.get(name).and_then(Value::as_u64);
        found.with_context(|| format!("{name}: expected a whole number"))
    }

    fn number(&self, name: &str) -> Result<f64> {
        self.0.get(name).and_then(Value::as_f64).with_context(|| format!("{name}: expected a number"))
    }
}
