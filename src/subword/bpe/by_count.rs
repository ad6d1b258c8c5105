//! The pair that occurs most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::choose::Choose;
use super::corpus::{Corpus, Merge};

/// A heap of pairs with the counts that they had. Counts only fall, so what the heap says of a pair
/// is never too low: what comes up with its present count is the best, and what comes up with
/// another goes back with the present one.
pub(super) struct ByCount {
    heap: BinaryHeap<Entry>,
    minimum: u64,
}

/// Count, ids and index of a pair.
type Entry = (u64, Reverse<(u32, u32)>, u32);

impl ByCount {
    fn entry(corpus: &Corpus, index: u32) -> Entry {
        let pair = corpus.pair(index);
        (pair.count, Reverse((pair.left, pair.right)), index)
    }
}

impl Choose for ByCount {
    fn new(corpus: &Corpus, minimum: u64) -> Self {
        let entries = corpus.indices().map(|index| Self::entry(corpus, index));
        Self { heap: entries.filter(|entry| entry.0 >= minimum).collect(), minimum }
    }

    fn choose(&mut self, corpus: &Corpus) -> Option<u32> {
        loop {
            let mut first = self.heap.peek_mut()?;
            let count = corpus.pair(first.2).count;
            if count == first.0 {
                return Some(first.2);
            } else if count >= self.minimum {
                first.0 = count;
            } else {
                std::collections::binary_heap::PeekMut::pop(first);
            }
        }
    }

    fn merged(&mut self, corpus: &Corpus, merge: &Merge) {
        let entries = merge.grown.iter().map(|&index| Self::entry(corpus, index));
        self.heap.extend(entries.filter(|entry| entry.0 >= self.minimum));
    }
}
