//! Byte-pair encoding: pieces that are made by merging two neighbours, time and again.
//!
//! A word begins as its bytes. Training chooses the pair of neighbouring pieces with the best
//! [score](MergeScore), makes one piece of it wherever it stands, and goes on until there are as
//! many pieces as asked for. The list of these [`Merges`] is the model: encoding applies it in the
//! same order.
//!
//! # Every piece has one way of being made
//!
//! Two pairs could spell the same string, as `a·bc` and `ab·c` do. In training this never happens.
//! Between two ends that are both still ends of pieces, the pieces are a function of the string
//! alone: a merge inside is made wherever its pair stands, and a merge across an end would have
//! removed that end. (In a run of equal pieces that reaches across an end, an even number of them
//! stands before it, or a merge would have gone across; so the run behind it is cut as if it began
//! there.) So all places that spell a string and are about to become one piece hold the same pair,
//! and they become that piece together. A list of merges from elsewhere may hold two pairs for one
//! string; [`Merges::from_pairs`] refuses it.
//!
//! For the same reason a pair with a new piece never existed before, and counts of pairs only fall
//! once the merge is over that brought them up. Training relies on both.

mod by_count;
mod by_row;
mod choose;
mod corpus;
mod encode;
mod merges;
mod score;
#[cfg(test)]
mod tests;
mod trainer;

pub use merges::Merges;
pub use score::MergeScore;
pub use trainer::{MergesProgress, MergesTrainer};

pub(super) use super::vocabulary::MAX_PIECE;

/// How many pieces there are before the first merge: the bytes.
pub(super) const BYTES: usize = 256;

/// No id, no pair, no rank.
const NONE: u32 = u32::MAX;
