//! The words of a corpus.

use std::collections::HashMap;

/// Words in the order of their counts, the most frequent first; of equal counts that which the
/// text has first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    words: Vec<String>,
    counts: Vec<u64>,
    numbers: HashMap<String, u32, foldhash::fast::FixedState>,
}

impl Vocabulary {
    pub(super) fn new(words: Vec<(String, u64)>) -> Self {
        let numbers = words.iter().zip(0..).map(|((word, _), number)| (word.clone(), number)).collect();
        let (words, counts) = words.into_iter().unzip();
        Self { words, counts, numbers }
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The words by their numbers.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// How often each is in the corpus, by their numbers.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The number of a word; none for a word that isn't there.
    pub fn number(&self, word: &str) -> Option<u32> {
        self.numbers.get(word).copied()
    }
}
