//! Sub-word encoding: words cut into pieces of a vocabulary at the least cost, and vocabularies
//! trained so that this cost is low.

mod bpe;
mod word_counts;

pub use bpe::{MAX_PIECE, MergeScore, Merges, MergesTrainer, Progress};
pub use word_counts::WordCounts;
