//! Two ways to cut words into pieces, of vocabularies that are trained on the same text: byte pairs
//! merged (BPE), and shortest paths (SWE).

use std::ops::ControlFlow;

use prflash::Result;
use prflash::subword::{Merges, MergesTrainer, Model, Pattern, Segmenter, Tokenizer, Trainer, WordCounts};
use serde_json::{Value, json};

/// Both vocabularies.
pub struct Subwords {
    bpe: Tokenizer,
    swe: Tokenizer,
}

impl Subwords {
    /// Trains vocabularies of `size` pieces on a text; `progress` is told of rounds, and how many
    /// there are at most.
    ///
    /// # Errors
    /// A size below 256; a text without words.
    pub fn train(text: &[u8], size: usize, mut progress: impl FnMut(usize, usize)) -> Result<Self> {
        let words = WordCounts::from_text(text, Pattern::Gpt2)?;
        let merges: Merges = MergesTrainer::new(size)?.train(&words)?;
        let trained = Trainer::recommended(size)?.train(&words, &merges.vocabulary()?, |now| {
            progress(now.rounds, now.most_rounds);
            ControlFlow::Continue(())
        })?;
        let segmenter: Segmenter = trained.segmenter;
        Ok(Self { bpe: Tokenizer::new(Pattern::Gpt2, merges), swe: Tokenizer::new(Pattern::Gpt2, segmenter) })
    }

    /// A text's pieces by both: as they are shown, and where each ends, in bytes.
    pub fn cut(&self, text: &str) -> Value {
        let cut = |tokenizer: &Tokenizer| {
            let ids = tokenizer.encode(text);
            let pieces = ids.iter().map(|&id| shown(tokenizer.model(), id));
            json!({ "pieces": pieces.collect::<Vec<_>>(), "ids": ids, "vocabulary": tokenizer.model().len() })
        };
        json!({ "bytes": text.len(), "bpe": cut(&self.bpe), "swe": cut(&self.swe) })
    }
}

/// A piece as a text; its bytes in hexadecimal where it ends within a character.
fn shown(model: &Model, id: u32) -> String {
    let bytes = model.piece(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect(),
    }
}
