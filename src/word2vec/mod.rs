//! Word vectors (word2vec, Mikolov et al. 2013): trained in WGSL, kept in files, and judged by how
//! people see words.
//!
//! A [`Corpus`] is a text as numbers of the words of its [`Vocabulary`]. A [`Training`] goes through
//! it as [`Options`] say, a [`Batch`] after the other, and leaves [`WordVectors`].
//!
//! Skip-gram and continuous bag of words, both with negative sampling. All that is drawn at random
//! (which tokens are left out, how wide windows are, which words are negatives) is decided by
//! integers on the host, each a pure function of seed, epoch and place, and written into the batch,
//! a plain value. The kernels take a whole batch from the same weights, add up what it changes in a
//! fixed order, and change the weights once: the same training gives the same bits on a device.
//!
//! Two things differ from programs that go through a text word by word. A row of weights that many
//! words of a batch have to do with is held back ([`Options::with_cap`]), since all of them would
//! move it from the same place. And the words of a run of a text share their negatives
//! ([`Options::with_shared`]).

mod batch;
mod corpus;
mod draws;
mod evaluate;
mod files;
pub(crate) mod gpu;
mod options;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
mod vectors;
mod vocabulary;

pub use batch::{Batch, RowSum};
pub use corpus::{Corpus, CorpusOptions};
pub use evaluate::{
    Analogies, Case, Pair, Pairs, Questions, Rules, Section, Similarity, Tally, Unknown, analogies,
    similarity,
};
pub use files::Format;
pub use gpu::training::{Progress, Training};
pub use options::{Architecture, Options};
pub use vectors::{Analogy, WordVectors};
pub use vocabulary::Vocabulary;
