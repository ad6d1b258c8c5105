//! Document masks: which keys a query may see at all.

use std::ops::Range;

use crate::error::{Result, ensure};

/// A range of visible keys for each query of a sequence, beside causality, window and schedule.
///
/// For several documents packed into one sequence, so that no query sees another document's keys. Ranges ascend with the
/// query, so a workgroup knows from its first and last row what all of them see.
///
/// ```
/// use prflash::Documents;
/// let documents = Documents::from_lengths(&[3, 2])?;
/// assert_eq!(documents.range(2), 0..3);
/// assert_eq!(documents.range(3), 3..5);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Documents {
    ranges: Vec<[u32; 2]>,
}

/// Past every key: kernels compare it as a signed number.
const END: u32 = i32::MAX as u32;

impl Documents {
    /// Self-attention over documents of these lengths behind each other: a query sees its own document's keys. The lengths sum to
    /// `q_len = kv_len`.
    ///
    /// # Errors
    /// Invalid argument if the sum is past 2³¹ − 1.
    pub fn from_lengths(lengths: &[usize]) -> Result<Self> {
        let total = lengths.iter().try_fold(0usize, |sum, &len| sum.checked_add(len));
        ensure!(
            total.is_some_and(|total| total < END as usize),
            "lengths",
            "expected a sum below {END}, got {total:?}"
        );
        let mut ranges = Vec::new();
        let mut start = 0;
        for &len in lengths {
            let range = [start as u32, (start + len) as u32];
            ranges.extend(std::iter::repeat_n(range, len));
            start += len;
        }
        Ok(Self { ranges })
    }

    /// The first visible key of each query; with a causal mask that isolates documents, also where `q_len ≠ kv_len`.
    ///
    /// # Errors
    /// Invalid argument unless the starts ascend (equal ones are fine) and are below 2³¹ − 1.
    pub fn from_starts(starts: &[usize]) -> Result<Self> {
        let mut least = 0;
        for &start in starts {
            ensure!(
                (least..END as usize).contains(&start),
                "starts",
                "expected ascending keys below {END}, got {start} after {least}"
            );
            least = start;
        }
        Ok(Self { ranges: starts.iter().map(|&start| [start as u32, END]).collect() })
    }

    /// Queries that the mask is for.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether it is for no query.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The keys that `query` may see (the end may be past the last key); empty where out of range.
    pub fn range(&self, query: usize) -> Range<usize> {
        self.ranges.get(query).map_or(0..0, |&[start, end]| start as usize..end as usize)
    }

    /// [`range`](Documents::range) of every query.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.ranges.iter().map(|&[start, end]| start as usize..end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        assert_eq!(Documents::from_starts(&[0, 3, 2]).unwrap_err().argument(), Some("starts"));
        assert_eq!(Documents::from_starts(&[usize::MAX]).unwrap_err().argument(), Some("starts"));
        assert_eq!(Documents::from_lengths(&[usize::MAX, 2]).unwrap_err().argument(), Some("lengths"));
        assert_eq!(Documents::from_lengths(&[1 << 40]).unwrap_err().argument(), Some("lengths"));
    }

    #[test]
    fn empty_documents_are_legal() {
        let documents = Documents::from_lengths(&[0, 2, 0, 1]).unwrap();
        assert_eq!(documents.ranges().collect::<Vec<_>>(), [0..2, 0..2, 2..3]);
        assert!(Documents::from_lengths(&[]).unwrap().is_empty());
        assert_eq!(documents.range(9), 0..0);
    }
}
