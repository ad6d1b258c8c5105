//! The rules by which vectors are judged.

use std::num::NonZeroUsize;

/// What becomes of a pair with a word that has no vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// It counts, with the median of the other pairs' cosines: nothing is known of it, so it goes
    /// in the middle. Were it dropped, vectors of few words would be judged by frequent words
    /// alone, whose vectors are the best, and a high minimum count would look like an improvement.
    #[default]
    Median,
    /// It is dropped, as gensim does by default.
    Dropped,
}

/// Whether words are the same if they differ in case alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Case {
    /// They are, as in gensim's `case_insensitive`, its default: words are compared in upper case,
    /// and of several that are the same the first has the vector that counts. All of these are no
    /// answer to an analogy that has one of them.
    #[default]
    Ignored,
    /// They are different words.
    Kept,
}

/// By which rules vectors are judged, and on how many threads. The default is strict: every pair
/// counts; case is ignored; one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub(super) unknown: Unknown,
    pub(super) case: Case,
    pub(super) threads: NonZeroUsize,
}

impl Default for Rules {
    fn default() -> Self {
        Self { unknown: Unknown::default(), case: Case::default(), threads: NonZeroUsize::MIN }
    }
}

impl Rules {
    /// Those by which gensim judges if it isn't told otherwise: pairs with an unknown word are
    /// dropped. Numbers by these rules compare with other people's; they don't compare vectors of
    /// different words with each other.
    pub fn gensim() -> Self {
        Self::default().with_unknown(Unknown::Dropped)
    }

    /// The same with another fate of pairs with an unknown word.
    pub fn with_unknown(self, unknown: Unknown) -> Self {
        Self { unknown, ..self }
    }

    /// The same with case ignored or kept.
    pub fn with_case(self, case: Case) -> Self {
        Self { case, ..self }
    }

    /// The same on so many threads, which change nothing but the time.
    pub fn with_threads(self, threads: NonZeroUsize) -> Self {
        Self { threads, ..self }
    }
}
