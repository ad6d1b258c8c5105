//! The choice of the next merge.

use super::corpus::{Corpus, Merge};

/// Knows the pair with the best score at any time.
pub(super) trait Choose {
    /// `minimum` is the least count of a pair, and at least 1.
    fn new(corpus: &Corpus, minimum: u64) -> Self;

    /// The index of the pair with the best score; of equal ones that with the smallest ids.
    fn choose(&mut self, corpus: &Corpus) -> Option<u32>;

    /// Takes note of a merge that has been made.
    fn merged(&mut self, corpus: &Corpus, merge: &Merge);
}
