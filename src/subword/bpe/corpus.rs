//! A corpus cut into pieces, with its counts.

use super::score::Counts;
use super::{BYTES, MAX_PIECE, NONE};
use crate::error::{Error, Result};
use crate::subword::WordCounts;

/// What stands between two words.
const EDGE: u32 = u32::MAX;

/// The most bytes that all distinct words have together, with one more each. Every merge in one of
/// them removes a piece and makes at most two pairs, so all pairs ever made have 32-bit indices.
const MAX_BYTES: u64 = (1 << 31) - (1 << 16);

/// Two neighbouring pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) left: u32,
    pub(super) right: u32,
    /// How many merges would take place: in a run of `k` equal pieces k/2, rounded down.
    pub(super) count: u64,
}

/// What a merge did.
#[derive(Debug, Default)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) made: u32,
    /// The pairs that it made; some of them may be gone again.
    pub(super) grown: Vec<u32>,
}

/// All words, one behind the other, and what is known of their pieces and pairs. Pairs that would
/// be longer than a piece may be aren't known at all.
pub(super) struct Corpus {
    /// At the first and at the last byte of every piece its id, so that the neighbours on both
    /// sides can be found; `EDGE` before, between and behind words. What stands within a piece is
    /// never read.
    symbols: Vec<u32>,
    /// At the first byte of every piece the pair of it and the piece behind it; `NONE` elsewhere,
    /// and where there is no pair.
    pair_at: Vec<u32>,
    /// Which word it is, at every byte.
    word_of: Vec<u32>,
    weights: Vec<u64>,
    pairs: Vec<Pair>,
    /// Where each pair stands, in ascending order. It may have gone from some of these places.
    places: Vec<Vec<u32>>,
    /// The lengths of pieces, by their ids.
    lengths: Vec<u8>,
    counts: Vec<u64>,
    total: u64,
    /// The pairs of the piece that is being made, by the id before it and by that behind it.
    before: Vec<u32>,
    behind: Vec<u32>,
}

impl Corpus {
    pub(super) fn new(words: &WordCounts) -> Result<Self> {
        let total = words.total_bytes();
        if total > 1 << 63 {
            return Err(Error::too_large("words", format!("expected at most 2⁶³ bytes in all, got {total}")));
        }
        let bytes: u64 = words.iter().map(|(word, _)| word.len() as u64 + 1).sum();
        if bytes > MAX_BYTES {
            return Err(Error::too_large("words", "expected at most 2³¹ bytes in distinct words"));
        }
        let size = bytes as usize + 1;
        let mut corpus = Self {
            symbols: Vec::with_capacity(size),
            pair_at: Vec::with_capacity(size),
            word_of: Vec::with_capacity(size),
            weights: Vec::with_capacity(words.len()),
            pairs: Vec::new(),
            places: Vec::new(),
            lengths: vec![1; BYTES],
            counts: vec![0; BYTES],
            total: total as u64,
            before: vec![NONE; BYTES],
            behind: vec![NONE; BYTES],
        };
        let mut known = vec![NONE; BYTES * BYTES];
        corpus.push(EDGE, NONE);
        for (word, weight) in words.iter() {
            corpus.push_word(word, weight, &mut known);
        }
        Ok(corpus)
    }

    fn push(&mut self, symbol: u32, pair: u32) {
        self.symbols.push(symbol);
        self.pair_at.push(pair);
        self.word_of.push(self.weights.len() as u32);
    }

    fn push_word(&mut self, word: &[u8], weight: u64, known: &mut [u32]) {
        let mut run = 0u64;
        for (at, &byte) in word.iter().enumerate() {
            let symbol = u32::from(byte);
            self.counts[usize::from(byte)] += weight;
            let mut index = NONE;
            if let Some(&next) = word.get(at + 1) {
                let slot = &mut known[usize::from(byte) * BYTES + usize::from(next)];
                if *slot == NONE {
                    *slot = new_pair(&mut self.pairs, &mut self.places, symbol, u32::from(next));
                }
                index = *slot;
                run = if byte == next { run + 1 } else { 0 };
                if run % 2 == 1 || byte != next {
                    self.pairs[index as usize].count += weight;
                }
                self.places[index as usize].push(self.symbols.len() as u32);
            }
            self.push(symbol, index);
        }
        self.push(EDGE, NONE);
        self.weights.push(weight);
    }

    pub(super) fn pair(&self, index: u32) -> &Pair {
        &self.pairs[index as usize]
    }

    pub(super) fn indices(&self) -> std::ops::Range<u32> {
        0..self.pairs.len() as u32
    }

    /// How many pieces the corpus is cut into.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn counts_of(&self, pair: &Pair) -> Counts {
        Counts {
            pair: pair.count,
            left: self.counts[pair.left as usize],
            right: self.counts[pair.right as usize],
            twice: pair.left == pair.right,
            total: self.total,
        }
    }

    fn length(&self, id: u32) -> usize {
        usize::from(self.lengths[id as usize])
    }

    /// Makes one piece of a pair, wherever it stands.
    pub(super) fn merge(&mut self, index: u32, merge: &mut Merge) {
        let Pair { left, right, count } = self.pairs[index as usize];
        let made = self.lengths.len() as u32;
        let (left_length, right_length) = (self.length(left), self.length(right));
        let length = left_length + right_length;
        self.lengths.push(length as u8);
        self.before.push(NONE);
        self.behind.push(NONE);
        (merge.left, merge.right, merge.made) = (left, right, made);
        merge.grown.clear();

        let mut run = 0u64;
        for place in std::mem::take(&mut self.places[index as usize]) {
            let at = place as usize;
            if self.pair_at[at] != index {
                continue;
            }
            let weight = self.weights[self.word_of[at] as usize];
            let (middle, end) = (at + left_length, at + length);
            let (previous, next) = (self.symbols[at - 1], self.symbols[end]);
            if previous != EDGE {
                self.leave_left(at, previous, left, index, weight);
            }
            self.leave_right(middle, end, next, right, index, weight);

            self.symbols[at] = made;
            self.symbols[end - 1] = made;
            self.pair_at[middle] = NONE;

            run = if previous == made { run + 1 } else { 1 };
            if previous != EDGE {
                let start = at - self.length(previous);
                self.pair_at[start] = NONE;
                if self.length(previous) + length <= MAX_PIECE {
                    let slot = &mut self.before[previous as usize];
                    if *slot == NONE {
                        *slot = new_pair(&mut self.pairs, &mut self.places, previous, made);
                        merge.grown.push(*slot);
                    }
                    let new = *slot as usize;
                    if previous != made || run.is_multiple_of(2) {
                        self.pairs[new].count += weight;
                    }
                    self.places[new].push(start as u32);
                    self.pair_at[start] = new as u32;
                }
            }
            self.pair_at[at] = NONE;
            if next != EDGE && self.length(next) + length <= MAX_PIECE {
                let slot = &mut self.behind[next as usize];
                if *slot == NONE {
                    *slot = new_pair(&mut self.pairs, &mut self.places, made, next);
                    merge.grown.push(*slot);
                }
                let new = *slot as usize;
                self.pairs[new].count += weight;
                self.places[new].push(place);
                self.pair_at[at] = new as u32;
            }
        }

        self.pairs[index as usize].count = 0;
        self.counts[left as usize] -= count;
        self.counts[right as usize] -= count;
        self.counts.push(count);
        self.total -= count;
        for &new in &merge.grown {
            let Pair { left, right, count } = self.pairs[new as usize];
            if right == made {
                self.before[left as usize] = NONE;
            } else {
                self.behind[right as usize] = NONE;
            }
            if count == 0 {
                self.places[new as usize] = Vec::new();
            }
        }
    }

    /// Takes the pair that ends with the piece at `at` out of its count.
    fn leave_left(&mut self, at: usize, previous: u32, piece: u32, merged: u32, weight: u64) {
        let length = self.length(previous);
        let gone = self.pair_at[at - length];
        if gone == NONE || gone == merged {
            return;
        }
        if previous == piece {
            let mut run = 2u64;
            let mut start = at - length;
            while self.symbols[start - 1] == piece {
                start -= length;
                run += 1;
            }
            if run % 2 == 1 {
                return;
            }
        }
        self.pairs[gone as usize].count -= weight;
    }

    /// Takes the pair that begins with the piece from `at` to `end` out of its count.
    fn leave_right(&mut self, at: usize, end: usize, next: u32, piece: u32, merged: u32, weight: u64) {
        let gone = self.pair_at[at];
        if gone == NONE || gone == merged {
            return;
        }
        if next == piece {
            let mut run = 2u64;
            let mut start = end;
            loop {
                start += end - at;
                if self.symbols[start] != piece {
                    break;
                }
                run += 1;
            }
            if run % 2 == 1 {
                return;
            }
        }
        self.pairs[gone as usize].count -= weight;
    }

    /// The pieces of all words, as they are cut now.
    #[cfg(test)]
    pub(super) fn cut(&self) -> Vec<Vec<u32>> {
        let mut words = Vec::new();
        let mut at = 1;
        while at < self.symbols.len() {
            let mut word = Vec::new();
            while self.symbols[at] != EDGE {
                word.push(self.symbols[at]);
                at += self.length(self.symbols[at]);
            }
            words.push(word);
            at += 1;
        }
        words
    }
}

fn new_pair(pairs: &mut Vec<Pair>, places: &mut Vec<Vec<u32>>, left: u32, right: u32) -> u32 {
    pairs.push(Pair { left, right, count: 0 });
    places.push(Vec::new());
    pairs.len() as u32 - 1
}
