//! Words of a file found among those that have vectors.

use std::collections::HashMap;

use super::rules::Case;
use crate::word2vec::vectors::WordVectors;

/// Finds words as a rule of case has it.
pub(super) struct Lookup<'v> {
    vectors: &'v WordVectors,
    /// In upper case, as gensim compares them, with the number of the first of them; none where
    /// case is kept.
    upper: Option<HashMap<String, u32>>,
}

impl<'v> Lookup<'v> {
    pub(super) fn new(vectors: &'v WordVectors, case: Case) -> Self {
        let upper = (case == Case::Ignored).then(|| {
            let mut upper = HashMap::with_capacity(vectors.len());
            for (number, word) in vectors.words().iter().enumerate() {
                upper.entry(word.to_uppercase()).or_insert(number as u32);
            }
            upper
        });
        Self { vectors, upper }
    }

    /// The number of the word whose vector counts.
    pub(super) fn index(&self, word: &str) -> Option<usize> {
        match &self.upper {
            Some(upper) => upper.get(&word.to_uppercase()).map(|&number| number as usize),
            None => self.vectors.index(word),
        }
    }

    /// For each word the number of the first that is the same.
    pub(super) fn same(&self) -> Vec<u32> {
        let words = self.vectors.words().iter().enumerate();
        let same = |(number, word): (usize, &String)| self.index(word).unwrap_or(number) as u32;
        match &self.upper {
            Some(_) => words.map(same).collect(),
            None => (0..self.vectors.len() as u32).collect(),
        }
    }
}
