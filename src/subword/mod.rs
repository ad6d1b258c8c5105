//! Sub-word encoding: words cut into pieces of a vocabulary at the least cost, and vocabularies
//! trained so that this cost is low.
//!
//! A cut is optimal for a vocabulary, the costs of its pieces and a number of steps. Choosing the
//! best vocabulary is NP-complete, and what a [`Trainer`] finds is only good. Words may be cut on a
//! GPU ([`GpuWords`]), which finds the same cuts.
//!
//! ```
//! use prflash::subword::{MergesTrainer, Pattern, Tokenizer, Trainer, WordCounts};
//! use std::ops::ControlFlow;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let text = "the cat sat on the mat";
//! let words = WordCounts::from_text(text.as_bytes(), Pattern::Gpt2)?;
//! let start = MergesTrainer::new(8192)?.train(&words)?.vocabulary()?;
//! let trained = Trainer::recommended(8192)?.train(&words, &start, |_| ControlFlow::Continue(()))?;
//! let tokenizer = Tokenizer::new(Pattern::Gpt2, trained.segmenter);
//! let ids = tokenizer.encode("the mat");
//! assert_eq!(tokenizer.decode(&ids)?, b"the mat");
//! let json = tokenizer.to_hugging_face()?; // a tokenizer.json that gives the same ids
//! # Ok(()) }
//! ```

mod bpe;
mod corpus;
mod costs;
mod counting;
mod escape;
mod files;
pub(crate) mod gpu;
mod pretokenize;
mod segmenter;
mod tokenizer;
mod trainer;
mod trie;
mod vocabulary;
mod word_counts;
mod word_table;

pub use bpe::{MergeScore, Merges, MergesProgress, MergesTrainer};
pub use corpus::Recount;
pub use costs::{Cost, Costs};
pub use gpu::segmenter::GpuSegmenter;
pub use gpu::words::GpuWords;
pub use pretokenize::{Pattern, Words};
pub use segmenter::{Segmentation, Segmenter, Steps};
pub use tokenizer::{Model, Tokenizer};
pub use trainer::{Progress, RecountRates, RecountedBy, Trained, Trainer};
pub use vocabulary::{MAX_PIECE, Vocabulary};
pub use word_counts::WordCounts;
