//! The words of a corpus, and how often each occurs.

use crate::error::{Error, Result};

/// Distinct words (byte strings) with their counts, in the order of their bytes.
///
/// Everything that is trained is trained from such a table, so the order of a corpus and the way in
/// which it was counted leave no trace. Tables of parts of a corpus [merge](WordCounts::merged)
/// into that of the whole.
///
/// ```
/// use prflash::subword::WordCounts;
/// let one = WordCounts::from_words(["the", "cat", "the"])?;
/// let two = WordCounts::from_counts([("the", 5_000_000_000), ("dog", 1)])?;
/// let both = one.merged(&two)?;
/// assert_eq!(both.count("the"), 5_000_000_002);
/// assert_eq!(both.iter().map(|(word, _)| word).collect::<Vec<_>>(), [&b"cat"[..], b"dog", b"the"]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WordCounts {
    /// All words, one behind the other.
    bytes: Vec<u8>,
    /// Where each word ends.
    ends: Vec<usize>,
    counts: Vec<u64>,
}

impl WordCounts {
    /// Counts words as they come, each of them once.
    ///
    /// # Errors
    /// Those of [`from_counts`](WordCounts::from_counts).
    pub fn from_words<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W>) -> Result<Self> {
        Self::from_counts(words.into_iter().map(|word| (word, 1)))
    }

    /// Of words with counts, in any order; counts of equal words add up. Empty words and counts of
    /// 0 are left out.
    ///
    /// # Errors
    /// Too large (`counts`) if all counts together are past 2⁶³, so that no sum over them
    /// overflows.
    pub fn from_counts<W: AsRef<[u8]>>(counts: impl IntoIterator<Item = (W, u64)>) -> Result<Self> {
        let mut words: Vec<(W, u64)> = counts.into_iter().collect();
        words.retain(|(word, count)| !word.as_ref().is_empty() && *count > 0);
        words.sort_unstable_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        let mut table = Self::default();
        for (word, count) in &words {
            table.push(word.as_ref(), *count)?;
        }
        table.check()
    }

    /// The table of the words of both, with their counts added up.
    ///
    /// # Errors
    /// As [`from_counts`](WordCounts::from_counts).
    pub fn merged(&self, other: &Self) -> Result<Self> {
        let mut table = Self::default();
        let (mut ours, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        loop {
            let ours_first = match (ours.peek(), theirs.peek()) {
                (Some(a), Some(b)) => a.0 <= b.0,
                (ours, _) => ours.is_some(),
            };
            let Some((word, count)) = (if ours_first { ours.next() } else { theirs.next() }) else { break };
            table.push(word, count)?;
        }
        table.check()
    }

    /// A word that is not before the last one.
    fn push(&mut self, word: &[u8], count: u64) -> Result<()> {
        let last = self.len().checked_sub(1).filter(|&last| self.word(last) == word);
        match last {
            Some(last) => {
                let sum = self.counts[last].checked_add(count);
                self.counts[last] = sum.ok_or_else(too_many)?;
            }
            None => {
                self.bytes.extend_from_slice(word);
                self.ends.push(self.bytes.len());
                self.counts.push(count);
            }
        }
        Ok(())
    }

    fn check(self) -> Result<Self> {
        let total = self.counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count));
        match total {
            Some(total) if total <= 1 << 63 => Ok(self),
            _ => Err(too_many()),
        }
    }

    /// How many distinct words there are.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Words, counted as often as they occur.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Bytes of all words, as often as they occur.
    pub fn total_bytes(&self) -> u128 {
        self.iter().map(|(word, count)| word.len() as u128 * u128::from(count)).sum()
    }

    /// How often a word occurs; 0 for one that isn't there.
    pub fn count(&self, word: impl AsRef<[u8]>) -> u64 {
        let word = word.as_ref();
        let at = |index: &usize| self.word(*index).cmp(word);
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match at(&middle) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return self.counts[middle],
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        0
    }

    /// The words with their counts, in the order of their bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], u64)> + Clone {
        (0..self.len()).map(|index| self.get(index))
    }

    /// A word by its number in that order, with its count.
    pub(super) fn get(&self, index: usize) -> (&[u8], u64) {
        (self.word(index), self.counts[index])
    }

    fn word(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

fn too_many() -> Error {
    Error::too_large("counts", "expected at most 2⁶³ words in all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_division_of_a_corpus_leave_no_trace() {
        let words = ["b", "a", "", "b", "ab", "a", "b"];
        let whole = WordCounts::from_words(words).unwrap();
        assert_eq!(whole.iter().collect::<Vec<_>>(), [(&b"a"[..], 2), (b"ab", 1), (b"b", 3)]);
        assert_eq!((whole.len(), whole.total(), whole.total_bytes()), (3, 6, 7));
        for cut in 0..=words.len() {
            let [one, two] = [&words[..cut], &words[cut..]].map(|part| WordCounts::from_words(part).unwrap());
            assert_eq!(one.merged(&two).unwrap(), whole);
            assert_eq!(two.merged(&one).unwrap(), whole);
        }
        let mut backwards = words;
        backwards.reverse();
        assert_eq!(WordCounts::from_words(backwards).unwrap(), whole);
    }

    #[test]
    fn counts_past_32_bits() {
        let table = WordCounts::from_counts([("x", 5_000_000_000), ("x", 1), ("y", 0)]).unwrap();
        assert_eq!((table.count("x"), table.count("y"), table.len()), (5_000_000_001, 0, 1));
        for counts in [&[("x", u64::MAX), ("x", 1)][..], &[("x", u64::MAX)], &[("x", 1 << 63), ("y", 1)]] {
            let error = WordCounts::from_counts(counts.iter().copied()).unwrap_err();
            assert!(error.is_too_large() && error.argument() == Some("counts"), "{error}");
        }
        assert_eq!(WordCounts::from_counts([("x", 1 << 63)]).unwrap().total(), 1 << 63);
    }
}
