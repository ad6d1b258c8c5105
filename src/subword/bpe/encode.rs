//! Encoding by merges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{BYTES, Merges, NONE};

/// Up to this many bytes, looking at all neighbours for every merge is quicker than a heap.
const SHORT: usize = 32;

impl Merges {
    /// Appends the pieces of a word to `out`.
    ///
    /// Of all neighbours that a merge joins, those with the lowest rank are joined, the leftmost
    /// first, until no merge joins any. A word of the corpus that the merges were trained on gets
    /// the very pieces which training ended with. The strings of the pieces, one behind the other,
    /// are always the word, whatever its bytes.
    ///
    /// Takes time proportional to `n·ln n` in a word of `n` bytes, even if it is long.
    pub fn encode_word(&self, word: &[u8], out: &mut Vec<u32>) {
        if word.len() <= SHORT { self.encode_short(word, out) } else { self.encode_long(word, out) }
    }

    fn encode_short(&self, word: &[u8], out: &mut Vec<u32>) {
        let mut ids = [NONE; SHORT];
        let mut ranks = [NONE; SHORT];
        let mut len = word.len();
        for (id, &byte) in ids.iter_mut().zip(word) {
            *id = u32::from(byte);
        }
        let rank = |ids: &[u32; SHORT], at: usize| self.rank(ids[at], ids[at + 1]).unwrap_or(NONE);
        for at in 1..len {
            ranks[at - 1] = rank(&ids, at - 1);
        }
        while len > 1 {
            let (mut at, mut lowest) = (0, NONE);
            for (place, &rank) in ranks[..len - 1].iter().enumerate() {
                if rank < lowest {
                    (at, lowest) = (place, rank);
                }
            }
            if lowest == NONE {
                break;
            }
            ids[at] = lowest + BYTES as u32;
            ids.copy_within(at + 2..len, at + 1);
            ranks.copy_within(at + 1..len - 1, at);
            len -= 1;
            ranks[len - 1] = NONE;
            if at + 1 < len {
                ranks[at] = rank(&ids, at);
            }
            if at > 0 {
                ranks[at - 1] = rank(&ids, at - 1);
            }
        }
        out.extend_from_slice(&ids[..len]);
    }

    /// A heap has a rank and a place for every two neighbours that a merge joins. What became of
    /// the neighbours meanwhile shows in the rank that is noted at the place.
    fn encode_long(&self, word: &[u8], out: &mut Vec<u32>) {
        // A piece's id stands at its first and at its last byte, so both neighbours can be found.
        let mut ids: Vec<u32> = word.iter().map(|&byte| u32::from(byte)).collect();
        let mut ranks: Vec<u32> =
            ids.windows(2).map(|pair| self.rank(pair[0], pair[1]).unwrap_or(NONE)).collect();
        ranks.push(NONE);
        let joined = ranks.iter().enumerate().filter(|&(_, &rank)| rank != NONE);
        let mut heap: BinaryHeap<Reverse<(u32, usize)>> =
            joined.map(|(at, &rank)| Reverse((rank, at))).collect();
        while let Some(Reverse((lowest, at))) = heap.pop() {
            if ranks[at] != lowest {
                continue;
            }
            let made = lowest + BYTES as u32;
            ranks[at + self.piece_len(ids[at])] = NONE;
            let end = at + self.piece_len(made);
            ids[at] = made;
            ids[end - 1] = made;
            let mut note = |at: usize, rank: Option<u32>| {
                ranks[at] = rank.unwrap_or(NONE);
                heap.extend(rank.map(|rank| Reverse((rank, at))));
            };
            note(at, ids.get(end).and_then(|&right| self.rank(made, right)));
            if at > 0 {
                let left = ids[at - 1];
                note(at - self.piece_len(left), self.rank(left, made));
            }
        }
        let mut at = 0;
        while at < ids.len() {
            out.push(ids[at]);
            at += self.piece_len(ids[at]);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As it is defined, with everything looked up anew for every merge.
    pub(in super::super) fn plain(merges: &Merges, word: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = word.iter().map(|&byte| u32::from(byte)).collect();
        loop {
            let ranks = ids.windows(2).enumerate();
            let ranked = ranks.filter_map(|(at, pair)| Some((merges.rank(pair[0], pair[1])?, at)));
            let Some((rank, at)) = ranked.min() else { return ids };
            ids.splice(at..at + 2, [rank + 256]);
        }
    }

    pub(in super::super) fn check(merges: &Merges, word: &[u8]) {
        let expected = plain(merges, word);
        let spelled: Vec<u8> = expected.iter().flat_map(|&id| merges.piece(id).unwrap()).copied().collect();
        assert_eq!(spelled, word);
        let mut out = vec![7];
        if word.len() <= SHORT {
            merges.encode_short(word, &mut out);
            assert_eq!(out[1..], expected);
            out.truncate(1);
        }
        merges.encode_long(word, &mut out);
        assert_eq!(out[1..], expected);
        out.truncate(1);
        merges.encode_word(word, &mut out);
        assert_eq!((out[0], &out[1..]), (7, &expected[..]));
    }

    #[test]
    fn runs_are_cut_from_the_left() {
        let a = u32::from(b'a');
        let merges = Merges::from_pairs([(a, a), (256, 256), (256, a)]).unwrap();
        for n in 0..70 {
            check(&merges, &b"a".repeat(n));
        }
        let mut out = Vec::new();
        merges.encode_word(b"aaaaaaa", &mut out);
        assert_eq!(out, [257, 258]);
    }

    #[test]
    fn a_long_run_takes_no_quadratic_time() {
        let a = u32::from(b'a');
        let merges = Merges::from_pairs([(a, a), (256, 256), (257, 257), (258, 258)]).unwrap();
        let mut out = Vec::new();
        merges.encode_word(&b"a".repeat(1_000_003), &mut out);
        assert_eq!(out.len(), 1_000_000 / 16 + 2);
        assert!(out[..62_500].iter().all(|&id| id == 259));
        assert_eq!(out[62_500..], [256, a]);
    }
}
