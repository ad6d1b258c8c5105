//! Sub-word encoding: words cut into pieces of a vocabulary at the least cost, and vocabularies
//! trained so that this cost is low.

mod counting;
mod pretokenize;
mod word_counts;
mod word_table;

pub use pretokenize::{Pattern, Words};
pub use word_counts::WordCounts;
