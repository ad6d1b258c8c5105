//! Trainings in folders: where they are left off, and what is told of those that are over.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cpu_time::ProcessTime;
use prflash::Context;
use prflash::word2vec::{Corpus, Format, Options, Progress, Training};
use serde::{Deserialize, Serialize};

/// The name of the file that is written last.
pub const TOLD: &str = "train.json";
/// How long the device works between two looks at what else there is to do.
const TURN: Duration = Duration::from_millis(500);
/// How long a training goes without a checkpoint.
const UNSAVED: Duration = Duration::from_secs(600);

/// What is told of a training that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The program with its version.
    pub program: String,
    /// The git revision of the lab.
    pub revision: String,
    /// The adapter that it ran on, in older files with its driver.
    #[serde(alias = "device")]
    pub adapter: String,
    /// The adapter's driver.
    #[serde(default)]
    pub driver: String,
    /// The text's file name.
    pub text: String,
    /// How often words had to be in it.
    pub min_count: u64,
    /// Words after which sentences were cut.
    pub longest: usize,
    /// All options.
    pub settings: Options,
    /// The name of the file of vectors beside this one.
    pub vectors: String,
    /// Different words.
    pub words: usize,
    /// Words of the text, with those that are too rare.
    pub raw_words: u64,
    /// Seconds of reading the text.
    pub read_seconds: f64,
    /// The part of the training that the times below are of: all of it unless it was resumed.
    pub timed_part: f64,
    /// Seconds of training alone, by the wall clock: without reading, and with kernels compiled.
    pub wall_seconds: f64,
    /// The same in seconds of the processor, of all threads of the process.
    pub cpu_seconds: f64,
    /// Words of the text a second, those of all epochs.
    pub raw_words_per_s: f64,
    /// The same by seconds of the processor.
    pub raw_words_per_cpu_s: f64,
}

/// A text that was read.
pub struct Text {
    /// The text's file name.
    pub name: String,
    /// The text's words.
    pub corpus: Corpus,
    /// How often words had to be in it.
    pub min_count: u64,
    /// Words after which sentences were cut.
    pub longest: usize,
    /// Seconds of reading it.
    pub seconds: f64,
}

/// A folder for one training.
pub struct Place<'f> {
    /// The folder.
    pub folder: &'f Path,
    /// The format of the vectors.
    pub format: Format,
    /// The git revision of the lab.
    pub revision: &'f str,
}

impl Place<'_> {
    /// Where a training is left off.
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }

    fn vectors(&self) -> &'static str {
        if self.format == Format::Binary { "vectors.bin" } else { "vectors.txt" }
    }

    /// What is told of the training, if it is over and was as this one.
    ///
    /// # Errors
    /// A file that can't be read, or is of another training.
    pub fn done(&self, text: &Text, options: &Options) -> Result<Option<Told>> {
        let path = self.folder.join(TOLD);
        if !path.exists() {
            return Ok(None);
        }
        let context = || format!("reading {}", path.display());
        let json = std::fs::read_to_string(&path).with_context(context)?;
        let told: Told = serde_json::from_str(&json).with_context(context)?;
        let own = (&text.name, text.min_count, text.longest, text.corpus.words(), options, self.vectors());
        let there =
            (&told.text, told.min_count, told.longest, told.raw_words, &told.settings, &told.vectors[..]);
        ensure!(
            own == there,
            "{}: it is of another text or other options; give another folder",
            path.display()
        );
        Ok(Some(told))
    }

    /// Trains, from where it was left off if that is asked for and there is such a place, and
    /// writes the vectors and what is told. `step` hears of the progress, with words a second, and
    /// may end it: a checkpoint is left then, as it is every ten minutes.
    ///
    /// # Errors
    /// The errors of the library and of `step`; files that can't be written.
    pub fn train(
        &self,
        context: &Context,
        text: &Text,
        options: Options,
        resume: bool,
        step: &mut dyn FnMut(&Progress, f64) -> Result<()>,
    ) -> Result<Told> {
        std::fs::create_dir_all(self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        let checkpoint = self.checkpoint();
        // What was there is of a training that is about to be another.
        remove(&self.folder.join(TOLD))?;
        if !resume {
            remove(&checkpoint)?;
        }
        warm_up(context, &text.corpus, options)?;
        let mut training = if resume && checkpoint.exists() {
            Training::resume(context, &text.corpus, options, &checkpoint)
                .with_context(|| format!("--resume: {}", checkpoint.display()))?
        } else {
            Training::new(context, &text.corpus, options)?
        };
        let each = training.progress().of_tokens as f64;
        let first = training.progress().tokens;
        // Words of the text that the training went through since.
        let raw = text.corpus.words() as f64 * f64::from(options.epochs());
        let gone = |now: &Progress| (now.tokens - first) as f64 / each;
        let (wall, cpu) = (Instant::now(), ProcessTime::now());
        let (mut turns, mut saved) = (Turns::default(), Instant::now());
        while !training.is_done() {
            let now = turns.advance(&mut training)?;
            let told = step(&now, raw * gone(&now) / wall.elapsed().as_secs_f64());
            if told.is_err() && !training.is_done() {
                training.save_blocking(&checkpoint)?;
                told?;
            }
            if saved.elapsed() > UNSAVED {
                training.save_blocking(&checkpoint)?;
                saved = Instant::now();
            }
        }
        let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64());
        let part = gone(&training.progress());
        let vectors = training.vectors_blocking()?;
        vectors.save(self.folder.join(self.vectors()), self.format)?;
        let told = Told {
            program: format!("prflash {}", env!("CARGO_PKG_VERSION")),
            revision: self.revision.into(),
            adapter: context.capabilities().adapter.clone(),
            driver: context.capabilities().driver.clone(),
            text: text.name.clone(),
            min_count: text.min_count,
            longest: text.longest,
            settings: options,
            vectors: self.vectors().into(),
            words: vectors.len(),
            raw_words: text.corpus.words(),
            read_seconds: text.seconds,
            timed_part: part,
            wall_seconds: wall,
            cpu_seconds: cpu,
            raw_words_per_s: raw * part / wall,
            raw_words_per_cpu_s: raw * part / cpu,
        };
        let json = serde_json::to_string_pretty(&told)? + "\n";
        testkit::files::write(&self.folder.join(TOLD), json)?;
        remove(&checkpoint)?;
        Ok(told)
    }
}

/// A device in words.
pub fn device(context: &Context) -> String {
    let capabilities = context.capabilities();
    format!("{} ({})", capabilities.adapter, capabilities.driver)
}

/// Trains a batch of a training that is forgotten: drivers finish compiling when kernels first run,
/// which is no part of training.
///
/// # Errors
/// The library's errors.
pub fn warm_up(context: &Context, corpus: &Corpus, options: Options) -> prflash::Result<()> {
    Training::new(context, corpus, options)?.advance_blocking(1)?;
    Ok(())
}

/// A training in turns of half a second, between which there is time for whatever else is to be
/// done.
pub struct Turns {
    batches: usize,
}

impl Default for Turns {
    /// The first one is a batch.
    fn default() -> Self {
        Self { batches: 1 }
    }
}

impl Turns {
    /// Trains for a turn.
    ///
    /// # Errors
    /// The library's errors.
    pub fn advance(&mut self, training: &mut Training<'_>) -> prflash::Result<Progress> {
        let begun = Instant::now();
        let now = training.advance_blocking(self.batches)?;
        // Twice as many as before at most, since the first ones tell little.
        let fitting = TURN.as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-6) * self.batches as f64;
        self.batches = (fitting as usize).clamp(1, 2 * self.batches);
        Ok(now)
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
