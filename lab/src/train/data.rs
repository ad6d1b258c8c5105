//! Texts as tokens, and batches of them.

use std::ops::ControlFlow;

use anyhow::{Result, ensure};
use prflash::subword::{Merges, MergesTrainer, Pattern, Tokenizer, Trainer, WordCounts};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest as _, Sha256};

use super::settings::Settings;
use crate::subword::compare::documents;

/// A text to train on and one to judge by, in tokens.
#[derive(Clone, Debug)]
pub struct Texts {
    /// The names of the files.
    pub names: [String; 2],
    /// Pieces of the vocabulary.
    pub pieces: usize,
    /// Tokens to train on.
    pub train: Vec<u32>,
    /// Tokens to judge by.
    pub held_out: Vec<u32>,
    /// Bytes to judge by.
    pub held_out_bytes: usize,
}

/// Tokens, and those that follow each: sequences behind each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Tokens of a sequence.
    pub context: usize,
    /// The tokens that are read.
    pub inputs: Vec<u32>,
    /// Those that are predicted.
    pub targets: Vec<u32>,
}

/// Trains a vocabulary of sub-words (SWE) on a text; none if `progress` ended it.
///
/// # Errors
/// Sizes that can't be.
pub fn vocabulary(
    text: &[u8],
    pieces: usize,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Tokenizer> {
    let words = WordCounts::from_text(text, Pattern::Gpt2)?;
    let merges: Merges = MergesTrainer::new(pieces)?.train_while(&words, |_| progress())?;
    let trained = Trainer::recommended(pieces)?.train(&words, &merges.vocabulary()?, |_| progress())?;
    Ok(Tokenizer::new(Pattern::Gpt2, trained.segmenter))
}

impl Texts {
    /// Encodes both texts.
    ///
    /// # Errors
    /// Texts of fewer than two tokens.
    pub fn new(tokenizer: &Tokenizer, names: [String; 2], train: &[u8], held_out: &[u8]) -> Result<Self> {
        let encoded = |text| {
            let mut ids = Vec::new();
            documents(text).for_each(|document| tokenizer.encode_into(document, &mut ids));
            ids
        };
        let texts = Self {
            names,
            pieces: tokenizer.model().len(),
            train: encoded(train),
            held_out: encoded(held_out),
            held_out_bytes: held_out.len(),
        };
        ensure!(texts.held_out.len() > 1, "--held-out: expected a text of two tokens or more");
        Ok(texts)
    }

    /// Refuses a text that is too short for a sequence.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        let (len, context) = (self.train.len(), settings.context);
        ensure!(len > context, "--text: expected more than {context} tokens (--context), got {len}");
        Ok(())
    }

    /// What tells these tokens from others.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for ids in [&self.train, &self.held_out] {
            digest.update((ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| digest.update(id.to_le_bytes()));
        }
        format!("{:x}", digest.finalize())
    }

    /// The batch of a step, a function of the seed and the step: sequences from anywhere in the
    /// text.
    pub fn batch(&self, settings: &Settings, step: usize) -> Batch {
        let context = settings.context;
        let seed = settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (step as u64 + 1);
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut batch = Batch { context, inputs: Vec::new(), targets: Vec::new() };
        for _ in 0..settings.batch {
            let start = rng.random_range(0..self.train.len() - context);
            batch.inputs.extend_from_slice(&self.train[start..start + context]);
            batch.targets.extend_from_slice(&self.train[start + 1..start + context + 1]);
        }
        batch
    }
}
