//! New pieces: what joins neighbours in the cuts of the words.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;

use crate::subword::corpus::Corpus;
use crate::subword::costs::Cost;
use crate::subword::segmenter::Segmenter;
use crate::subword::vocabulary::MAX_PIECE;

/// Pieces of a cut that are joined, at most.
const JOINED: usize = 3;

/// Bytes that could be a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Joined {
    bytes: [u8; MAX_PIECE],
    len: u8,
}

/// A new piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added {
    joined: Joined,
    /// How often its pieces are neighbours.
    pub(super) count: u64,
    gain: i128,
}

impl Added {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.joined.bytes[..self.joined.len.into()]
    }
}

/// How often neighbours that join to the same bytes occur, and what they cost as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    count: u64,
    cost: u128,
}

/// The pieces that lower the objective most, by what their neighbours cost now and what the piece
/// would cost with as many uses. Ties go by the bytes.
pub(super) fn best(
    corpus: &Corpus<'_>,
    (segmenter, counts): (&Segmenter, &[u64]),
    (cost, lambda): (Cost, f64),
    most: usize,
) -> Vec<Added> {
    let total: f64 = counts.iter().map(|&count| count as f64).sum();
    let mut parts = corpus.each_share(|words| uses(segmenter, words)).into_iter();
    let mut all = parts.next().unwrap_or_default();
    for (joined, more) in parts.flatten() {
        let sum = all.entry(joined).or_default();
        sum.count = sum.count.saturating_add(more.count);
        sum.cost += more.cost;
    }
    let added = |(joined, Use { count, cost: now }): (Joined, Use)| {
        let then = u128::from(cost.steps(count, total, lambda)) * u128::from(count);
        Added { joined, count, gain: now as i128 - then as i128 }
    };
    let new = |added: &Added| added.gain > 0 && segmenter.vocabulary().number(added.bytes()).is_none();
    let mut best: Vec<Added> = all.into_iter().map(added).filter(new).collect();
    let order = |a: &Added, b: &Added| b.gain.cmp(&a.gain).then_with(|| a.bytes().cmp(b.bytes()));
    if best.len() > most {
        best.select_nth_unstable_by(most, order);
        best.truncate(most);
    }
    best.sort_unstable_by(order);
    best
}

fn uses<'w>(
    segmenter: &Segmenter,
    words: impl Iterator<Item = (&'w [u8], u64)>,
) -> HashMap<Joined, Use, RandomState> {
    let mut uses: HashMap<Joined, Use, RandomState> = HashMap::default();
    let (mut pieces, mut scratch) = (Vec::new(), Default::default());
    for (word, count) in words {
        pieces.clear();
        segmenter.segment_into(word, &mut scratch, &mut pieces);
        let mut start = 0;
        for first in 0..pieces.len() {
            let (mut end, mut cost) = (start, 0);
            for (joined, &piece) in pieces[first..].iter().take(JOINED).enumerate() {
                end += segmenter.vocabulary().piece(piece).len();
                cost += segmenter.costs().of(piece);
                if end - start > MAX_PIECE {
                    break;
                }
                if joined == 0 {
                    continue;
                }
                let mut bytes = [0; MAX_PIECE];
                bytes[..end - start].copy_from_slice(&word[start..end]);
                let key = Joined { bytes, len: (end - start) as u8 };
                let cost = u128::from(cost) * u128::from(count);
                match uses.entry(key) {
                    Entry::Occupied(mut there) => {
                        let sum = there.get_mut();
                        sum.count = sum.count.saturating_add(count);
                        sum.cost += cost;
                    }
                    Entry::Vacant(place) => {
                        place.insert(Use { count, cost });
                    }
                }
            }
            start += segmenter.vocabulary().piece(pieces[first]).len();
        }
    }
    uses
}
