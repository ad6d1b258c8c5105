//! Document masks: which keys a query may see at all.

use std::ops::Range;

use crate::error::{Result, ensure};

/// A range of visible keys for each query of a sequence, beside causality, window and schedule.
///
/// For several documents packed into one sequence, so that no query sees another document's keys.
/// Ranges ascend with the query, so a workgroup knows from its first and last row what all of them
/// see.
///
/// Memory is proportional to the number of different ranges.
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
    /// The runs of equal ranges, of which neighbours differ.
    runs: Vec<Run>,
}

/// Queries with the same range, up to the end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    end: usize,
    range: [u32; 2],
}

/// Past every key: kernels compare it as a signed number.
const END: u32 = i32::MAX as u32;

impl Documents {
    /// Self-attention over documents of these lengths behind each other: a query sees its own
    /// document's keys. The lengths sum to `q_len = kv_len`.
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
        let mut start = 0;
        Ok(Self::of(lengths.iter().map(|&len| {
            let range = [start as u32, (start + len) as u32];
            start += len;
            (range, len)
        })))
    }

    /// A mask of ranges, each for so many queries.
    fn of(ranges: impl Iterator<Item = ([u32; 2], usize)>) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (range, queries) in ranges.filter(|&(_, queries)| queries > 0) {
            let end = runs.last().map_or(0, |run| run.end) + queries;
            match runs.last_mut() {
                Some(run) if run.range == range => run.end = end,
                _ => runs.push(Run { end, range }),
            }
        }
        Self { runs }
    }

    /// The first visible key of each query; with a causal mask that isolates documents, also where
    /// `q_len ≠ kv_len`.
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
        Ok(Self::of(starts.iter().map(|&start| ([start as u32, END], 1))))
    }

    /// Queries that the mask is for.
    pub fn len(&self) -> usize {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// Whether it is for no query.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The keys that `query` may see (the end may be past the last key); empty where out of range.
    pub fn range(&self, query: usize) -> Range<usize> {
        let run = self.runs.partition_point(|run| run.end <= query);
        self.runs.get(run).map_or(0..0, |run| run.range[0] as usize..run.range[1] as usize)
    }

    /// [`range`](Documents::range) of every query.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut first = 0;
        self.runs.iter().flat_map(move |run| {
            let [start, end] = run.range.map(|key| key as usize);
            let queries = run.end - std::mem::replace(&mut first, run.end);
            std::iter::repeat_n(start..end, queries)
        })
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
        assert_eq!((documents.len(), documents.range(1), documents.range(2)), (3, 0..2, 2..3));
        assert_eq!((documents.range(3), documents.range(usize::MAX)), (0..0, 0..0));
        assert_eq!(documents, Documents::from_lengths(&[2, 1]).unwrap());
    }

    #[test]
    fn a_long_document_takes_no_memory() {
        let last = END as usize - 2;
        let documents = Documents::from_lengths(&[1, last]).unwrap();
        assert_eq!((documents.len(), documents.range(last)), (last + 1, 1..last + 1));
        let starts = Documents::from_starts(&[0, 0, 2, 2, 5]).unwrap();
        assert_eq!(starts.ranges().map(|range| range.start).collect::<Vec<_>>(), [0, 0, 2, 2, 5]);
        assert_eq!((starts.range(3), starts.len()), (2..END as usize, 5));
    }
}
