//! Word vectors (word2vec, Mikolov et al. 2013): trained in WGSL, kept in files, and judged by how
//! people see words.
//!
//! A [`Corpus`] is a text as numbers of the words of its [`Vocabulary`]. A [`Training`] goes
//! through it as [`Options`] say, a [`Batch`] after the other, and leaves [`WordVectors`].
//!
//! Skip-gram and continuous bag of words, both with negative sampling. All that is drawn at random
//! (which tokens are left out, how wide windows are, which words are negatives) is decided by
//! integers on the host, each a pure function of seed, epoch and place, and written into the batch,
//! a plain value. The kernels take a whole batch from the same weights, add up what it changes in a
//! fixed order, and change the weights once: the same training gives the same bits on a device.
//!
//! With word vectors x, output weights y, and σ(s) = 1/(1 + e^(−s)), what a batch makes larger is
//!
//! ```text
//! L = Σ ln σ(⟨x, y_w⟩) + (K/N)·Σ pairs·Σ_n ln σ(−⟨x, y_n⟩)
//! ```
//!
//! (Mikolov et al. 2013, *Distributed Representations of Words and Phrases and their
//! Compositionality*, equation 4). The first sum is over the words w of the batch and, of
//! skip-grams, over the words of w's window, whose vectors are x; of bags of words x is the mean of
//! them. The second is over the same x, each once: `pairs` is in how many windows it is (of a mean
//! 1), K the negatives of a pair, n the N words that its run shares. A row r of weights changes by
//!
//! ```text
//! r ← r + rate · ∂L/∂r · min(1, cap/hits)
//! ```
//!
//! with `hits`, the pairs that its gradient is of. The gradient of a mean goes to each word of its
//! window in full, as in the original program.
//!
//! Two things differ from programs that go through a text word by word. A row of weights that many
//! words of a batch have to do with is held back ([`Options::with_cap`]), since all of them would
//! move it from the same place. And the words of a run of a text share their negatives
//! ([`Options::with_shared`]).
//!
//! ```no_run
//! use prflash::word2vec::{Architecture, Corpus, CorpusOptions, Format, Options, Training};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let context = prflash::Context::new_blocking()?;
//! let text = std::io::BufReader::new(std::fs::File::open("sentences.txt")?); // a sentence a line
//! let corpus = Corpus::read(text, CorpusOptions::new())?;
//! let mut training = Training::new(&context, &corpus, Options::new(Architecture::SkipGram))?;
//! while !training.is_done() {
//!     let progress = training.advance_blocking(64)?;
//!     eprint!("\r{} of {} tokens", progress.tokens, progress.of_tokens);
//! }
//! let vectors = training.vectors_blocking()?;
//! println!("{:?}", vectors.nearest("marriage", 5));
//! vectors.save("vectors.bin", Format::Binary)?; // for gensim's KeyedVectors too
//! # Ok(()) }
//! ```

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
