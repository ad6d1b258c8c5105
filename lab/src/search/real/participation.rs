//! The participation profile of PrFlashAttention in a language model that was trained without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cpu_time::ProcessTime;
use prflash::search::{Parameter, Space};
use serde_json::json;

use super::objective::{AGAIN, Objective, Outcome, Scored};
use super::values::Values;
use crate::backend::{Backend, Loaded};
use crate::gguf::{ModelFile, sha256};
use crate::perplexity::{Evaluated, Windows, evaluate};
use crate::setting::Setting;

/// Rows of blocks in a window: as many as the study's sampling has, 32 of 64 tokens in 2,048, so
/// that a budget keeps the same part here.
const ROWS: usize = 32;

/// Where texts and the model are, and how much is read.
#[derive(Clone, Debug)]
pub struct Files {
    /// A GGUF file.
    pub model: PathBuf,
    /// The text whose first window selects.
    pub text: PathBuf,
    /// That whose first windows report.
    pub report: PathBuf,
    /// Windows of the report.
    pub windows: usize,
    /// Tokens of a window.
    pub width: usize,
    /// Key blocks that a row visits.
    pub budget: u32,
}

/// How much a model's prediction suffers from sampled attention, at a given number of key blocks a
/// row: what a token has less, in nats, than with dense attention (so scores are negative, and the
/// perplexity is exp(−score) times as high). Selected on the first window of one text, reported on
/// the first windows of another.
///
/// The budget is the same in all points, as it is in the comparisons of the study's sampling part:
/// keeping more always helps, so points with different budgets would need a price for a block,
/// which nothing gives. Searched is how the budget is spent: `window`, the newest blocks that
/// always take part; `exponent`, how fast the others' chance falls with distance; `beta`, how much
/// the sampled ones are weighted up. A seed is that of the schedules.
pub struct Participation {
    space: Space,
    scope: String,
    files: Files,
    identity: serde_json::Value,
    /// The texts: that which selects, that which reports.
    texts: [String; 2],
    opened: Option<Opened>,
}

/// What takes time to open.
struct Opened {
    backend: Backend,
    loaded: Loaded,
    windows: [Windows; 2],
    /// The nats of dense attention, by text and window.
    dense: BTreeMap<(usize, usize), f64>,
    warm: bool,
}

/// The sums of a window.
struct Read {
    /// Nats a token.
    nats: f64,
    /// Key blocks visited by a token, the mean.
    blocks: f64,
}

impl Participation {
    /// What it is called in results.
    pub const NAME: &'static str = "participation";

    /// Opens a model and texts.
    ///
    /// # Errors
    /// Files that can't be read, by name; a width that isn't a multiple of 32 blocks of at least 16
    /// tokens, or a budget without a block to sample.
    pub fn open(files: Files) -> Result<Self> {
        let Files { width, budget, windows, .. } = files;
        let fits = width % (16 * ROWS) == 0 && width > 0;
        ensure!(fits, "--width: expected a multiple of {}, got {width}", 16 * ROWS);
        // A sink, the widest window, and one that is sampled.
        ensure!((8..=32).contains(&budget), "--blocks: expected 8 to 32, got {budget}");
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let texts = [read(&files.text)?, read(&files.report)?];
        let identity = json!({
            "model": ModelFile::open(&files.model)?.sha256()?,
            "texts": texts.each_ref().map(|text| sha256(text.as_bytes())),
        });
        let scope = format!("{budget} blocks of {} in {width} tokens, report of {windows}", width / ROWS);
        Ok(Self { space: space()?, scope, files, identity, texts, opened: None })
    }

    fn opened(&mut self, step: &mut dyn FnMut(f64) -> Result<()>) -> Result<&mut Opened> {
        if self.opened.is_none() {
            let backend = Backend::gpu()?;
            let mut loaded =
                Loaded::open(&self.files.model, |done, layers| step(done as f64 / layers as f64))?;
            let mut cut = |text: &str| -> Result<Windows> {
                Windows::new(loaded.tokenizer.encode(text, false)?, &loaded.tokenizer, self.files.width)
            };
            let windows = [cut(&self.texts[0])?, cut(&self.texts[1])?];
            let (there, asked) = (windows[1].count(), self.files.windows);
            ensure!(asked <= there, "--windows: the text has {there} windows, {asked} were asked for");
            self.opened = Some(Opened { backend, loaded, windows, dense: BTreeMap::new(), warm: false });
        }
        self.opened.as_mut().context("it was opened")
    }

    fn setting(&self, values: &Values, seed: u64) -> Result<String> {
        let Files { width, budget, .. } = self.files;
        let (window, exponent) = (values.whole("window")?, values.number("exponent")?);
        let beta = values.number("beta")?;
        Ok(format!(
            "--attention prflash --profile budget:{budget},{exponent} --window-blocks {window} --beta {beta} \
             --block-size {} --seed {seed}",
            width / ROWS
        ))
    }
}

fn space() -> Result<Space> {
    Ok(Space::new([
        Parameter::ordinal("window", [1, 2, 3, 4, 5, 6])?,
        Parameter::ordinal("exponent", [0.5, 1.0, 1.5, 2.0])?,
        Parameter::ordinal("beta", [0.0, 0.25, 0.5, 0.75, 1.0])?,
    ])?)
}

impl Opened {
    /// Reads a window of a text under a setting.
    fn read(
        &self,
        options: &str,
        (text, window): (usize, usize),
        step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Read> {
        let windows = &self.windows[text];
        let (config, width) = (self.loaded.config(), windows.width());
        let setting = Setting::new(Setting::from_options(options)?.args(), config)?;
        let mut attention = self.backend.attention(config, &setting, width, width)?;
        let pieces = setting.pieces(width, width);
        let (model, tokenizer) = (&self.loaded.model, &self.loaded.tokenizer);
        let layers = (pieces.len() * config.layers) as f64;
        let mut done = 0.0;
        let step = &mut |_| {
            done += 1.0;
            step((done - 1.0) / layers)
        };
        let Evaluated { buckets, usage, .. } =
            evaluate(model, tokenizer, attention.as_mut(), windows, window, &pieces, step)?;
        let tokens: u64 = buckets.iter().map(|bucket| bucket.tokens).sum();
        let nll: f64 = buckets.iter().map(|bucket| bucket.nll).sum();
        Ok(Read { nats: nll / tokens as f64, blocks: usage.blocks_per_token(0..width).0 })
    }

    /// What a window loses in nats a token, and the key blocks that it visits.
    fn loss(
        &mut self,
        options: &str,
        at: (usize, usize),
        step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<(f64, f64)> {
        let Some(dense) = self.dense.get(&at).copied() else {
            let dense = self.read("", at, step)?.nats;
            self.dense.insert(at, dense);
            return self.loss(options, at, step);
        };
        let Read { nats, blocks } = self.read(options, at, step)?;
        Ok((nats - dense, blocks))
    }
}

impl Objective for Participation {
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

    fn device(&mut self, step: &mut dyn FnMut(f64) -> Result<()>) -> Result<String> {
        Ok(self.opened(step)?.backend.device())
    }

    fn score(
        &mut self,
        values: &Values,
        seed: u64,
        step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Outcome> {
        let options = self.setting(values, seed)?;
        let count = self.files.windows;
        let opened = self.opened(step)?;
        let select = (0, 0);
        if !opened.warm {
            // Dense attention is read once; and drivers finish compiling when kernels first run.
            opened.loss(&options, select, step)?;
            opened.warm = true;
        }
        let (wall, cpu) = (Instant::now(), ProcessTime::now());
        let (loss, blocks) = opened.loss(&options, select, step)?;
        let (wall, cpu_seconds) = (wall.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64());
        let report = if seed >= AGAIN && count > 0 {
            let losses = (0..count).map(|window| Ok(opened.loss(&options, (1, window), step)?.0));
            let losses = losses.collect::<Result<Vec<f64>>>()?;
            Some(-losses.iter().sum::<f64>() / count as f64)
        } else {
            None
        };
        let dense = opened.dense.get(&select).copied().unwrap_or_default();
        let more = [("wall_seconds", wall), ("blocks", blocks), ("dense_nats", dense)];
        let more = more.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        Ok(Outcome::Scored(Scored { select: -loss, report, cpu_seconds, more }))
    }
}
