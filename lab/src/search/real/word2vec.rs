//! Trainings of our own word2vec: their settings, by how people rate pairs of words.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use cpu_time::ProcessTime;
use prflash::Context;
use prflash::search::{Parameter, Space};
use prflash::word2vec::{
    Analogy, Architecture, Corpus, CorpusOptions, Options, Rules, Training, WordVectors,
};
use serde_json::json;

use super::objective::{Objective, Outcome, Scored};
use super::values::Values;
use crate::gguf::sha256;
use crate::word2vec::judge::{Half, Judge};
use crate::word2vec::part::part;
use crate::word2vec::training::{Turns, device, warm_up};

/// The last rate of all trainings: gensim's.
const LAST_RATE: f64 = 1e-4;
/// What is the same in all points of the space. The library's batches of 4,096 words with a cap of
/// 64 are for longer texts: half a million words have few of them, and rates that would make up for
/// it diverge.
pub const BATCH: usize = 512;
/// See [`BATCH`].
pub const CAP: u32 = 16;

/// Trainings on a part of a text, selected by the mean of Spearman's rank correlations with
/// WordSim-353 and SimLex-999 on the first half of each, and reported by that on the second halves.
/// Pairs with an unknown word have the median cosine; a correlation that isn't defined is 0.
pub struct Word2vec {
    space: Space,
    scope: String,
    text: String,
    identity: serde_json::Value,
    /// The corpora, by how often words have to be in the text.
    corpora: HashMap<u32, Corpus>,
    judge: Judge,
    with_analogies: bool,
    context: Option<Context>,
}

impl Word2vec {
    /// What it is called in results.
    pub const NAME: &'static str = "word2vec";

    /// Trainings on every so many'th piece of a text (see [`part`]), judged by the files of a
    /// folder.
    ///
    /// # Errors
    /// Files that can't be read or aren't as they must be, by name.
    pub fn open(text: &Path, every: usize, data: &Path) -> Result<Self> {
        let whole = std::fs::read_to_string(text).with_context(|| text.display().to_string())?;
        let identity = json!({
            "text": sha256(whole.as_bytes()),
            "ratings": Judge::sums(data)?,
            "fixed": { "batch": BATCH, "cap": CAP, "last_rate": LAST_RATE },
        });
        Ok(Self {
            space: space()?,
            scope: Self::scope_of(every),
            text: part(&whole, every),
            identity,
            corpora: HashMap::new(),
            judge: Judge::open(data)?,
            with_analogies: false,
            context: None,
        })
    }

    /// The same with word2vec's analogies (3CosAdd) beside the scores, which take longer than the
    /// ratings.
    #[must_use]
    pub fn with_analogies(self) -> Self {
        Self { scope: format!("{}, analogies", self.scope), with_analogies: true, ..self }
    }

    /// The scope of every so many'th piece.
    pub fn scope_of(every: usize) -> String {
        format!("part {every}")
    }

    fn context(&mut self) -> Result<&Context> {
        if self.context.is_none() {
            let opened = Context::new_blocking();
            let opened = opened.context("training needs an adapter (scripts/with-vulkan brings one)")?;
            self.context = Some(opened);
        }
        self.context.as_ref().context("it was opened")
    }

    /// Scores by names, those that aren't defined as 0.
    fn judged(&self, vectors: &WordVectors) -> BTreeMap<String, f64> {
        let rules = Rules::default();
        let halves = [("", None), ("_first", Some(Half::First)), ("_second", Some(Half::Second))];
        let mut scores = BTreeMap::new();
        for (name, half) in halves {
            let judge = half.map_or(self.judge.clone(), |half| self.judge.half(half));
            for (pairs, found) in ["wordsim", "simlex"].iter().zip(judge.similarities(vectors, &rules)) {
                let defined = if found.spearman.is_finite() { found.spearman } else { 0.0 };
                scores.insert(format!("{pairs}{name}"), defined);
            }
            if self.with_analogies && half != Some(Half::First) {
                let total = judge.judge(vectors, Analogy::CosAdd, &rules).analogies.total();
                scores.insert(format!("analogies{name}"), total.accuracy());
            }
        }
        scores
    }
}

/// All listed values are settings that people would try on texts of a few million words.
fn space() -> Result<Space> {
    Ok(Space::new([
        Parameter::nominal("architecture", ["skip-gram", "bag-of-words"])?,
        Parameter::ordinal("dimension", [32, 64, 100])?,
        Parameter::ordinal("window", [2, 5, 10])?,
        Parameter::ordinal("negative", [2, 5, 10])?,
        Parameter::ordinal("sample", [1e-5, 1e-4, 1e-3])?,
        Parameter::ordinal("ns_exponent", [0.0, 0.5, 0.75])?,
        Parameter::ordinal("rate", [0.025, 0.05, 0.1, 0.2])?,
        Parameter::ordinal("min_count", [1, 2, 5, 10])?,
        Parameter::ordinal("epochs", [1, 2, 4])?,
    ])?)
}

fn options(values: &Values, seed: u64) -> Result<Options> {
    let architecture = match values.text("architecture")? {
        "skip-gram" => Architecture::SkipGram,
        "bag-of-words" => Architecture::BagOfWords,
        other => anyhow::bail!("architecture: expected skip-gram or bag-of-words, got {other}"),
    };
    let options = Options::new(architecture).with_seed(seed);
    let batch = values.has("batch").then(|| values.whole("batch")).transpose()?;
    let cap = values.has("cap").then(|| values.whole("cap")).transpose()?;
    let options = options.with_batch(batch.map_or(BATCH, |batch| batch as usize))?;
    let options = options.with_cap(cap.unwrap_or(CAP))?;
    let options = options.with_dimension(values.whole("dimension")? as usize)?;
    let options = options.with_window(values.whole("window")? as usize)?;
    let options = options.with_negative(values.whole("negative")? as usize)?;
    let options = options.with_sample(values.number("sample")?)?;
    let options = options.with_ns_exponent(values.number("ns_exponent")?)?;
    let options = options.with_rates(values.number("rate")?, LAST_RATE)?;
    Ok(options.with_epochs(values.whole("epochs")?)?)
}

impl Objective for Word2vec {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn scope(&self) -> &str {
        &self.scope
    }

    fn space(&self) -> &Space {
        &self.space
    }

    fn identity(&self) -> serde_json::Value {
        self.identity.clone()
    }

    fn device(&mut self, _step: &mut dyn FnMut(f64) -> Result<()>) -> Result<String> {
        Ok(device(self.context()?))
    }

    fn score(
        &mut self,
        values: &Values,
        seed: u64,
        step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Outcome> {
        let options = options(values, seed)?;
        let min_count = values.whole("min_count")?;
        if !self.corpora.contains_key(&min_count) {
            let read = CorpusOptions::new().with_min_count(min_count.into());
            self.corpora.insert(min_count, Corpus::read(self.text.as_bytes(), read)?);
        }
        let context = self.context()?.clone();
        let corpus = &self.corpora[&min_count];
        match warm_up(&context, corpus, options) {
            Err(error) if !error.is_diverged() => return Err(error.into()),
            _ => step(0.0)?,
        }
        let (wall, cpu) = (Instant::now(), ProcessTime::now());
        let mut training = Training::new(&context, corpus, options)?;
        let mut turns = Turns::default();
        while !training.is_done() {
            match turns.advance(&mut training) {
                Ok(now) => step(now.tokens as f64 / now.of_tokens as f64)?,
                Err(error) if error.is_diverged() => {
                    let cpu_seconds = cpu.elapsed().as_secs_f64();
                    return Ok(Outcome::Failed { reason: error.to_string(), cpu_seconds });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let vectors = training.vectors_blocking()?;
        let (wall, cpu_seconds) = (wall.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64());
        let mut more = self.judged(&vectors);
        let mean = |half: &str| ["wordsim", "simlex"].map(|name| more[&format!("{name}_{half}")] / 2.0);
        let [select, report] = ["first", "second"].map(|half| mean(half).iter().sum());
        more.insert("wall_seconds".into(), wall);
        more.insert("words".into(), vectors.len() as f64);
        more.insert("raw_words".into(), corpus.words() as f64);
        Ok(Outcome::Scored(Scored { select, report: Some(report), cpu_seconds, more }))
    }
}
