//! Vectors judged by people's ratings of pairs of words, and by analogies.
//!
//! The files are those that are published and that gensim has: WordSim-353 (Finkelstein et al.
//! 2002) and SimLex-999 (Hill, Reichart and Korhonen 2015) as [`Pairs`], the analogies of Mikolov
//!       et al. 2013, `questions-words.txt`, as [`Questions`].

mod analogies;
mod lines;
mod lookup;
mod pairs;
mod questions;
mod ranks;
mod rules;
mod similarity;

#[cfg(test)]
mod tests;

pub use analogies::{Analogies, Section, Tally, analogies};
pub use pairs::{Pair, Pairs};
pub use questions::Questions;
pub use rules::{Case, Rules, Unknown};
pub use similarity::{Similarity, similarity};
