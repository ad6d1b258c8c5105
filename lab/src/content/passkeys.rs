//! Passkeys under rules that choose blocks: with the text before the question read densely, and
//! with all of it read under the rule. And behind caches that hold the text.

use anyhow::Result;
use prflash::cache::Staircase;

use super::compare::Reference;
use super::rules::{Rule, content, window};
use crate::backend::{Backend, Loaded};
use crate::caches::held::Held;
use crate::needle::{self, Prompt};
use crate::setting::Setting;
use crate::table;

/// How the text before the question is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// Densely; the tokens of question and answer choose their blocks one by one.
    Dense,
    /// Under the rule, block by block.
    Sparse,
    /// Densely, and then kept in caches, behind which question and answer are read token by token.
    Cached,
}

/// A prompt under a rule.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The model's file.
    pub model: String,
    /// The text's file, without `.txt`.
    pub text: String,
    /// The window of it, by number.
    pub window: usize,
    /// Tokens of the prompt.
    pub width: usize,
    /// How many passkeys are in the text.
    pub keys: usize,
    /// Where the one that is asked for is, in percent.
    pub depth: usize,
    /// How the text is read.
    pub reading: Reading,
    /// The rule's name.
    pub rule: String,
    /// Its options.
    pub options: String,
    /// Whether the model answers with it.
    pub right: u8,
    /// The git revision of the lab.
    pub revision: String,
}

impl table::Row for Row {
    fn same(&self, other: &Self) -> bool {
        let key = |row: &Self| {
            let place = (row.model.clone(), row.text.clone(), row.window, row.width);
            (place, row.keys, row.depth, row.reading, row.options.clone())
        };
        key(self) == key(other)
    }
}

/// The rules at a quarter of the blocks of `width` tokens, dense attention first; or the caches
/// that text is kept in, whose options are a `--staircase`.
pub fn rules(width: usize, reading: Reading) -> Vec<Rule> {
    if reading == Reading::Cached {
        let kept = ["f16", "recommended", "KIVI-4", "KIVI-2", "recommended, rotated"];
        let few = ["rotated, K 4, V 4×8 → 2", "rotated, K 4, V 2"];
        let named = crate::caches::rules::rules().into_iter();
        let named = named.filter(|rule| kept.iter().chain(&few).any(|name| rule.name == *name));
        let dense = Rule { name: "dense".into(), options: String::new() };
        return [dense]
            .into_iter()
            .chain(named.map(|rule| Rule { name: rule.name, options: rule.cache }))
            .collect();
    }
    let blocks = (width / 64 / 4).max(1);
    let of = |name: &str, more: &str, size: usize| {
        let mut rule = content(name, blocks * 64 / size, &format!(";group={size};bits=8{more}"), size);
        rule.options += &format!(" --window-blocks {}", (96 / size).max(2));
        rule
    };
    let mut all = vec![Rule { name: "dense".into(), options: String::new() }, window(blocks, 64)];
    if reading == Reading::Dense {
        all.push(of("Quest's bound", ";estimate=bound", 16));
        all.push(of("mean key", ";estimate=mean-key", 16));
    }
    all.push(of("saturated", "", 16));
    if reading == Reading::Dense {
        // What one head needs much of isn't outvoted by those that share its list.
        all.push(of("mean key, largest of heads", ";estimate=mean-key;pool=largest", 16));
        all.push(of("saturated, largest of heads", ";pool=largest", 16));
        let mut apart = of("saturated, a list a head", "", 16);
        apart.options = apart.options.replace("kv-head", "head");
        all.push(apart);
        let mut drawn = of("drawn by both, τ = ½", ";tau=0.5;alpha=0.5", 16);
        drawn.options += " --beta 1";
        all.push(drawn);
    }
    all.push(of("saturated, blocks of 32", "", 32));
    all
}

/// A prompt whose text was read densely.
pub struct Asked<'a> {
    prompt: &'a Prompt,
    reference: Reference,
}

impl<'a> Asked<'a> {
    /// Reads the text before the question.
    ///
    /// # Errors
    /// What the model, the backend and `step` return.
    pub fn read(
        loaded: &Loaded,
        backend: &Backend,
        prompt: &'a Prompt,
        chunk: usize,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let tokens = prompt.ids.len() - prompt.question - 1;
        Ok(Self { prompt, reference: Reference::read(loaded, backend, &prompt.ids, tokens, chunk, step)? })
    }

    /// Whether the model answers with the passkey under a rule.
    ///
    /// # Errors
    /// What the model and `step` return.
    pub fn is_right(
        &self,
        loaded: &Loaded,
        setting: &Setting,
        sequence: u32,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<bool> {
        let answer = &self.prompt.ids[self.prompt.answer.clone()];
        Ok(self.reference.likeliest(loaded, setting, sequence, step)?.ends_with(answer))
    }

    /// Whether the model answers with the passkey behind a cache of the text.
    ///
    /// # Errors
    /// What the library refuses; what the model and `step` return.
    pub fn is_right_behind(
        &self,
        loaded: &Loaded,
        staircase: &Staircase,
        step: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<bool> {
        let (config, dense) = (loaded.config(), Setting::from_options("")?);
        let staircases = vec![staircase.clone(); config.layers];
        let (memory, tokens) = (self.reference.memory(), self.reference.tokens());
        let mut held = Held::new(config, &dense, memory, &staircases, tokens, None)?;
        let answer = &self.prompt.ids[self.prompt.answer.clone()];
        Ok(self.reference.likeliest_by(loaded, &mut held, step)?.ends_with(answer))
    }
}

/// Whether the model answers with the passkey if all of the prompt is read under a rule.
///
/// # Errors
/// What the model, the backend and `step` return.
pub fn is_right_sparsely(
    loaded: &Loaded,
    backend: &Backend,
    prompt: &Prompt,
    setting: &Setting,
    unit: (usize, usize),
    chunk: usize,
    step: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<bool> {
    let mut attention = backend.attention(loaded.config(), setting, prompt.ids.len(), chunk)?;
    attention.start(0);
    // The question is read token by token, as the answer would be written.
    let mut pieces = setting.pieces(prompt.question, chunk);
    pieces.extend((prompt.question..prompt.ids.len()).map(|token| token..token + 1));
    Ok(needle::evaluate(loaded, &mut *attention, prompt, unit, &pieces, step)?.right)
}
