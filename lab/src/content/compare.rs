//! Predictions beside those of dense attention, and the file of results.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use candle_core::{IndexOp as _, Tensor};

use super::memory::Memory;
use super::rules::Rule;
use super::steps::Steps;
use crate::attend::Attend;
use crate::backend::{Backend, Loaded};
use crate::setting::Setting;
use crate::table;

/// Rows of logits held at a time.
const LOGIT_ROWS: usize = 64;

/// The last tokens of a window, what is before them, and what dense attention predicts for them.
pub struct Reference {
    memory: Memory,
    /// The tokens that are read under rules, and the one behind each.
    tokens: Vec<u32>,
    targets: Vec<u32>,
    /// ln p of every token of the vocabulary, by row.
    log_probabilities: Vec<Vec<f32>>,
}

impl Reference {
    /// Reads a window densely: all but its last `tokens + 1` tokens on the backend, the others but
    /// the last on the host, as under rules.
    ///
    /// # Errors
    /// A window without tokens before these; what the model, the backend and `step` return.
    pub fn read(
        loaded: &Loaded,
        backend: &Backend,
        window: &[u32],
        tokens: usize,
        chunk: usize,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let config = loaded.config();
        ensure!(tokens >= 1, "--tokens: expected at least 1, got 0");
        let before = window.len().checked_sub(tokens + 1).filter(|&before| before >= 1);
        let before = before.with_context(|| {
            format!(
                "--tokens: expected fewer than the window's {}, by 2 at least, got {tokens}",
                window.len()
            )
        })?;
        let dense = Setting::from_options("")?;
        let inner = backend.attention(config, &dense, before, chunk.min(before))?;
        let mut attention = Memory::recorder(inner, config);
        attention.start(0);
        for piece in window[..before].chunks(chunk.max(1)) {
            loaded.model.forward(piece, &mut attention, step)?;
        }
        let mut reference = Self {
            memory: Memory::of(attention, config)?,
            tokens: window[before..before + tokens].to_vec(),
            targets: window[before + 1..].to_vec(),
            log_probabilities: Vec::new(),
        };
        let hidden = {
            let mut steps = Steps::new(config, &dense, &reference.memory);
            loaded.model.forward(&reference.tokens, &mut steps, step)?
        };
        let mut rows = Vec::with_capacity(tokens);
        each_row(loaded, &hidden, |_, row| rows.push(row))?;
        reference.log_probabilities = rows;
        Ok(reference)
    }

    /// The likeliest token behind each of the last tokens under a rule.
    ///
    /// # Errors
    /// As [`compare`](Reference::compare).
    pub fn likeliest(
        &self,
        loaded: &Loaded,
        setting: &Setting,
        sequence: u32,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<u32>> {
        let mut steps = Steps::new(loaded.config(), setting, &self.memory);
        steps.start(sequence);
        self.likeliest_by(loaded, &mut steps, step)
    }

    /// The likeliest token behind each of the last tokens, by any attention that has all before
    /// them.
    ///
    /// # Errors
    /// What the attention, the model and `step` return.
    pub fn likeliest_by(
        &self,
        loaded: &Loaded,
        attention: &mut dyn Attend,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<u32>> {
        let hidden = loaded.model.forward(&self.tokens, attention, step)?;
        let mut tokens = Vec::with_capacity(self.tokens.len());
        each_row(loaded, &hidden, |_, row| tokens.push(largest(&row) as u32))?;
        Ok(tokens)
    }

    /// Reads the last tokens under a rule. `sequence` is what draws differ by.
    ///
    /// # Errors
    /// What the setting, the model and `step` return.
    pub fn compare(
        &self,
        loaded: &Loaded,
        setting: &Setting,
        sequence: u32,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Divergence> {
        let mut steps = Steps::new(loaded.config(), setting, &self.memory);
        steps.start(sequence);
        let divergence = self.compare_by(loaded, &mut steps, step)?;
        Ok(Divergence { read: steps.read().share(), ..divergence })
    }

    /// How many tokens are the last ones.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// What came before the last tokens.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Reads the last tokens by any attention that has all before them. What that reads isn't
    /// counted.
    ///
    /// # Errors
    /// What the attention, the model and `step` return.
    pub fn compare_by(
        &self,
        loaded: &Loaded,
        attention: &mut dyn Attend,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Divergence> {
        let begun = Instant::now();
        let hidden = loaded.model.forward(&self.tokens, attention, step)?;
        let mut sums = Divergence::default();
        each_row(loaded, &hidden, |at, got| {
            let (want, target) = (&self.log_probabilities[at], self.targets[at] as usize);
            sums.kl += kl(want, &got);
            sums.agreement += f64::from(u8::from(largest(want) == largest(&got)));
            sums.nats += f64::from(want[target]) - f64::from(got[target]);
        })?;
        let count = self.tokens.len() as f64;
        Ok(Divergence {
            kl: sums.kl / count,
            agreement: sums.agreement / count,
            nats: sums.nats / count,
            seconds: begun.elapsed().as_secs_f64(),
            ..sums
        })
    }
}

/// How far predictions are from those of dense attention, as means over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// `Σ p·ln(p/q)` over the vocabulary, p of dense attention, in nats.
    pub kl: f64,
    /// How often both find the same token likeliest.
    pub agreement: f64,
    /// What the token that comes costs more, in nats.
    pub nats: f64,
    /// Bytes read over those of dense attention, in layers without a window.
    pub read: f64,
    /// How long it took.
    pub seconds: f64,
}

/// ln p of every token of the vocabulary for each row of hidden states.
fn each_row(loaded: &Loaded, hidden: &Tensor, mut visit: impl FnMut(usize, Vec<f32>)) -> Result<()> {
    let rows = hidden.dim(0)?;
    for first in (0..rows).step_by(LOGIT_ROWS) {
        let logits = loaded.model.logits(&hidden.i(first..(first + LOGIT_ROWS).min(rows))?)?;
        for (at, mut row) in logits.to_vec2::<f32>()?.into_iter().enumerate() {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = row.iter().map(|x| f64::from((x - top).exp())).sum();
            let all = f64::from(top) + total.ln();
            ensure!(all.is_finite(), "the model's logits are not finite");
            row.iter_mut().for_each(|x| *x = (f64::from(*x) - all) as f32);
            visit(first + at, row);
        }
    }
    Ok(())
}

/// `Σ p·ln(p/q)` from logarithms.
pub(super) fn kl(p: &[f32], q: &[f32]) -> f64 {
    let term = |(p, q): (&f32, &f32)| f64::from(p.exp()) * (f64::from(*p) - f64::from(*q));
    p.iter().zip(q).map(term).sum()
}

fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
}

/// A rule on a text.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The model's file.
    pub model: String,
    /// The text's file, without `.txt`.
    pub text: String,
    /// The window of it, by number.
    pub window: usize,
    /// Tokens of the window.
    pub width: usize,
    /// The tokens at its end that were read under the rule.
    pub tokens: usize,
    /// The rule's name.
    pub rule: String,
    /// Its options.
    pub options: String,
    /// See [`Divergence`].
    pub kl: f64,
    /// See [`Divergence`].
    pub agreement: f64,
    /// See [`Divergence`].
    pub nats: f64,
    /// See [`Divergence`].
    pub read: f64,
    /// See [`Divergence`].
    pub seconds: f64,
    /// The git revision of the lab.
    pub revision: String,
}

impl table::Row for Row {
    fn same(&self, other: &Self) -> bool {
        let key = |row: &Self| {
            (row.model.clone(), row.text.clone(), row.window, row.width, row.tokens, row.options.clone())
        };
        key(self) == key(other)
    }
}

impl Row {
    /// What came of a rule.
    pub fn new(place: &Place<'_>, rule: &Rule, divergence: Divergence, revision: &str) -> Self {
        let Divergence { kl, agreement, nats, read, seconds } = divergence;
        Self {
            model: place.model.into(),
            text: place.text.into(),
            window: place.window,
            width: place.width,
            tokens: place.tokens,
            rule: rule.name.clone(),
            options: rule.options.clone(),
            kl,
            agreement,
            nats,
            read,
            seconds,
            revision: revision.into(),
        }
    }

    /// Whether it is of this rule at this place.
    pub fn is_of(&self, place: &Place<'_>, rule: &Rule) -> bool {
        let here = (self.model.as_str(), self.text.as_str(), self.window, self.width, self.tokens);
        here == (place.model, place.text, place.window, place.width, place.tokens)
            && self.options == rule.options
    }
}

/// A window, and how many of its tokens are read under rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// See [`Row`].
    pub model: &'a str,
    /// See [`Row`].
    pub text: &'a str,
    /// See [`Row`].
    pub window: usize,
    /// See [`Row`].
    pub width: usize,
    /// See [`Row`].
    pub tokens: usize,
}
