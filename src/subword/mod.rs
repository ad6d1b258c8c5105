//! Sub-word encoding: words cut into pieces of a vocabulary at the least cost, and vocabularies
//! trained so that this cost is low.

mod counting;
mod pretokenize;
mod word_counts;

pub use pretokenize::{Pattern, Words};
pub use word_counts::WordCounts;
