//! Vectors of words: looked up and compared, kept in files, and judged by how people see words.

mod evaluate;
mod files;
mod vectors;

pub use evaluate::{
    Analogies, Case, Pair, Pairs, Questions, Rules, Section, Similarity, Tally, Unknown, analogies,
    similarity,
};
pub use files::Format;
pub use vectors::{Analogy, WordVectors};
