//! Pairs of words that people have rated.

use std::io::BufRead;
use std::path::Path;

use super::lines;
use crate::error::{Result, ensure};
use crate::random::hash_words;

/// Two words, and how similar people say they are: the mean of their ratings.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// One of the two words.
    pub first: String,
    /// The other word.
    pub second: String,
    /// The rating. Only which is larger counts.
    pub rating: f64,
}

/// Pairs of words with people's ratings.
///
/// ```
/// use prflash::word2vec::{Pair, Pairs};
/// let pairs = Pairs::read("# Word 1\tWord 2\tHuman (mean)\nlove\tsex\t6.77\n".as_bytes())?;
/// assert_eq!((pairs.len(), pairs.as_slice()[0].rating), (1, 6.77));
/// let own = Pair { first: "love".into(), second: "sex".into(), rating: 6.77 };
/// assert_eq!(Pairs::new(vec![own])?, pairs);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs(Vec<Pair>);

impl Pairs {
    /// The pairs of a list.
    ///
    /// # Errors
    /// Invalid argument (`pairs`) if a rating is not finite.
    pub fn new(pairs: Vec<Pair>) -> Result<Self> {
        let wrong = pairs.iter().find(|pair| !pair.rating.is_finite());
        if let Some(Pair { first, second, rating }) = wrong {
            ensure!(false, "pairs", "expected a finite rating of {first:?} and {second:?}, got {rating}");
        }
        Ok(Self(pairs))
    }

    /// Reads a file of WordSim-353, SimLex-999 or another list in the form that gensim has them in:
    /// in each line two words and a rating, with tabs between. Lines that begin with `#` and empty
    /// ones are passed over.
    ///
    /// # Errors
    /// - [`is_corrupt`](crate::Error::is_corrupt), with the line, if it isn't as it must be
    /// - [`is_io`](crate::Error::is_io) if the reader fails
    pub fn read(reader: impl BufRead) -> Result<Self> {
        let mut pairs = Vec::new();
        lines::each(reader, "pairs", |line| {
            if line.starts_with('#') {
                return Ok(());
            }
            let parts: Vec<&str> = line.split('\t').map(str::trim).collect();
            let pair = match parts[..] {
                [first, second, rating] if !first.is_empty() && !second.is_empty() => {
                    let rating = rating.parse().ok().filter(|rating: &f64| rating.is_finite());
                    rating.map(|rating| Pair { first: first.into(), second: second.into(), rating })
                }
                _ => None,
            };
            pairs.push(
                pair.ok_or_else(|| format!("expected two words and a number between tabs, got {line:?}"))?,
            );
            Ok(())
        })?;
        Ok(Self(pairs))
    }

    /// [Reads](Pairs::read) a file.
    ///
    /// # Errors
    /// Those of [`read`](Pairs::read); [`is_io`](crate::Error::is_io) if it can't be opened.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(lines::open(path.as_ref())?)
    }

    /// The pairs in their order.
    pub fn as_slice(&self) -> &[Pair] {
        &self.0
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Two halves, always the same: one to choose settings by, the other to report what was chosen,
    /// so that it isn't praised for what it was chosen for. Of an odd number the first has one
    /// more.
    ///
    /// Neighbours in the files have words in common, so that every second pair would be no
    /// independent half: places are sorted by [`hash_words`] of their number, and the first half of
    /// these is the first. Both keep the order of the file.
    pub fn halves(&self) -> (Self, Self) {
        let first = first_half(self.len());
        let part = |of_first: bool| {
            let taken = self.0.iter().zip(&first).filter(|(_, first)| **first == of_first);
            Self(taken.map(|(pair, _)| pair.clone()).collect())
        };
        (part(true), part(false))
    }
}

/// Which of so many places are of the first half.
pub(super) fn first_half(count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_cached_key(|&place| (hash_words(&[place as u32]), place));
    let mut first = vec![false; count];
    order.iter().take(count.div_ceil(2)).for_each(|&place| first[place] = true);
    first
}
