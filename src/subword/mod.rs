//! Sub-word encoding: words cut into pieces of a vocabulary at the least cost, and vocabularies
//! trained so that this cost is low.

mod word_counts;

pub use word_counts::WordCounts;
