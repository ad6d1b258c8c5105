//! The cut of a word into pieces at the least cost: a shortest path over the positions between its
//! bytes.

use std::num::NonZeroUsize;

use super::costs::Costs;
use super::vocabulary::{MAX_PIECE, Vocabulary};
use crate::error::{Result, ensure};

/// How many pieces a word may be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Steps {
    /// As many pieces as the least cost takes.
    Unlimited,
    /// At most k, the k steps of Bellman and Ford. A word that can't be cut into so few takes the
    /// fewest that it can.
    AtMost(NonZeroUsize),
    /// The fewest that are possible, and among those cuts the one of the least cost.
    Fewest,
}

/// Cuts words into the pieces of a vocabulary.
///
/// The positions 0 … n between the bytes of a word are nodes, and every piece u that the word has
/// from i to j is an edge of cost κ(u) + λ ([`Costs`]). With at most s edges,
///
/// ```text
/// D_s(0) = 0      D_s(j) = min over edges (i, j) of D_{s−1}(i) + κ(u) + λ
/// ```
///
/// and the cut is the path to n of cost D_k(n), without a limit that of the shortest path. It is
/// optimal for the given vocabulary, costs and k. Among paths of the same cost it is that with the
/// longest last piece, then the longest before it, and so on: any order of work finds the same.
///
/// ```
/// use prflash::subword::{Cost, Costs, Segmenter, Steps, Vocabulary};
/// let vocabulary = Vocabulary::with_bytes(["un", "related", "rel", "ate"])?;
/// let costs = Costs::new(Cost::Unit, &vec![0; vocabulary.len()], 0.0)?;
/// let segmenter = Segmenter::new(vocabulary, costs, Steps::Unlimited)?;
/// let pieces = segmenter.segment(b"unrelated").pieces;
/// let text: Vec<_> = pieces.iter().map(|&p| segmenter.vocabulary().piece(p)).collect();
/// assert_eq!(text, [&b"un"[..], b"related"]);
/// assert_eq!(segmenter.steps(), Steps::Unlimited);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Segmenter {
    vocabulary: Vocabulary,
    costs: Costs,
    steps: Steps,
}

/// A word cut into pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// The numbers of the pieces, in order.
    pub pieces: Vec<u32>,
    /// The sum of their costs, in steps of [`Cost::scale`](super::Cost::scale).
    pub cost: u64,
}

/// What cutting words needs, to be used again for the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// The nodes by position, and by step where these are counted.
    nodes: Vec<Node>,
}

/// The best path to a position.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Pieces, where the fewest are wanted; else 0.
    count: u64,
    /// [`NO_PATH`] where there is none.
    cost: u64,
    /// The last piece, and how many bytes it has.
    piece: u32,
    len: u32,
}

const NO_PATH: u64 = u64::MAX;

impl Node {
    const NONE: Self = Self { count: NO_PATH, cost: NO_PATH, piece: 0, len: 0 };
    const START: Self = Self { count: 0, cost: 0, piece: 0, len: 0 };

    fn value(&self) -> (u64, u64) {
        (self.count, self.cost)
    }
}

impl Segmenter {
    /// With the costs of this vocabulary's pieces.
    ///
    /// # Errors
    /// Invalid argument (`costs`) unless there is one for every piece.
    pub fn new(vocabulary: Vocabulary, costs: Costs, steps: Steps) -> Result<Self> {
        let (want, got) = (vocabulary.len(), costs.of_pieces().len());
        ensure!(want == got, "costs", "expected one for each of {want} pieces, got {got}");
        Ok(Self { vocabulary, costs, steps })
    }

    /// The pieces that words are cut into.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What the pieces cost.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// How many a word may be cut into.
    pub fn steps(&self) -> Steps {
        self.steps
    }

    /// Cuts a word. Time is proportional to its length, but for [`Steps::AtMost`], where it is
    /// times k at most.
    pub fn segment(&self, word: &[u8]) -> Segmentation {
        let mut pieces = Vec::new();
        let cost = self.segment_into(word, &mut Scratch::default(), &mut pieces);
        Segmentation { pieces, cost }
    }

    /// Cuts a word, and puts the numbers of its pieces behind those that are there.
    pub(super) fn segment_into(&self, word: &[u8], scratch: &mut Scratch, pieces: &mut Vec<u32>) -> u64 {
        let before = pieces.len();
        let cost = match self.steps {
            Steps::Unlimited => self.shortest(word, 0, None, scratch, pieces),
            Steps::Fewest => self.shortest(word, 1, None, scratch, pieces),
            Steps::AtMost(most) => {
                let cost = self.shortest(word, 0, None, scratch, pieces);
                // The shortest path of all, if that is short enough, is also that of k steps.
                if pieces.len() - before <= most.get() {
                    return cost;
                }
                pieces.truncate(before);
                self.bounded(word, most.get(), scratch, pieces)
            }
        };
        debug_assert!(!word.is_empty() || cost == 0);
        cost
    }

    /// What a word would cost if this piece weren't there, which is no single byte. Paths are as
    /// long as they need to be.
    pub(super) fn cost_without(&self, word: &[u8], piece: u32, scratch: &mut Scratch) -> u64 {
        self.shortest(word, 0, Some(piece), scratch, &mut Vec::new())
    }

    /// The shortest path, where each edge counts `each` before its cost does.
    fn shortest(
        &self,
        word: &[u8],
        each: u64,
        without: Option<u32>,
        scratch: &mut Scratch,
        pieces: &mut Vec<u32>,
    ) -> u64 {
        let nodes = &mut scratch.nodes;
        nodes.clear();
        nodes.resize(word.len() + 1, Node::NONE);
        nodes[0] = Node::START;
        for start in 0..word.len() {
            // Every position is reached, since all single bytes are pieces.
            let Node { count, cost, .. } = nodes[start];
            let rest = &word[start..word.len().min(start + MAX_PIECE)];
            for (len, piece) in self.vocabulary.prefixes(rest) {
                let found = (count + each, cost + self.costs.of(piece));
                let node = &mut nodes[start + len];
                // Starts ascend, so the first to give a cost has the longest last piece.
                if found < node.value() && Some(piece) != without {
                    *node = Node { count: found.0, cost: found.1, piece, len: len as u32 };
                }
            }
        }
        let mut at = word.len();
        let begin = pieces.len();
        while at > 0 {
            let node = nodes[at];
            pieces.push(node.piece);
            at -= node.len as usize;
        }
        pieces[begin..].reverse();
        nodes[word.len()].cost
    }

    /// The shortest path of at most so many edges, or of the fewest that there can be.
    fn bounded(&self, word: &[u8], most: usize, scratch: &mut Scratch, pieces: &mut Vec<u32>) -> u64 {
        let begin = pieces.len();
        let cost = self.shortest(word, 1, None, scratch, pieces);
        if pieces.len() - begin >= most {
            return cost;
        }
        pieces.truncate(begin);
        let row = word.len() + 1;
        let nodes = &mut scratch.nodes;
        nodes.clear();
        nodes.resize((most + 1) * row, Node::NONE);
        nodes[0] = Node::START;
        for step in 1..=most {
            let (before, now) = nodes[(step - 1) * row..(step + 1) * row].split_at_mut(row);
            now[0] = Node::START;
            for start in (0..word.len()).filter(|&start| before[start].cost != NO_PATH) {
                let rest = &word[start..word.len().min(start + MAX_PIECE)];
                for (len, piece) in self.vocabulary.prefixes(rest) {
                    let cost = before[start].cost + self.costs.of(piece);
                    if cost < now[start + len].cost {
                        now[start + len] = Node { count: 0, cost, piece, len: len as u32 };
                    }
                }
            }
        }
        let (mut at, mut step) = (word.len(), most);
        while at > 0 {
            let node = nodes[step * row + at];
            pieces.push(node.piece);
            at -= node.len as usize;
            step -= 1;
        }
        pieces[begin..].reverse();
        nodes[most * row + word.len()].cost
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::super::costs::Cost;
    use super::*;

    /// All ways to cut a word, each with its pieces' costs.
    fn cuts(segmenter: &Segmenter, word: &[u8]) -> Vec<(Vec<u32>, u64)> {
        if word.is_empty() {
            return vec![(Vec::new(), 0)];
        }
        let mut all = Vec::new();
        for len in 1..=word.len() {
            let (rest, last) = word.split_at(word.len() - len);
            let Some(piece) = segmenter.vocabulary().number(last) else { continue };
            for (mut pieces, cost) in cuts(segmenter, rest) {
                pieces.push(piece);
                all.push((pieces, cost + segmenter.costs().of(piece)));
            }
        }
        all
    }

    /// The best of them by the rule: the cost, then the lengths of the pieces from the last one on.
    fn best(segmenter: &Segmenter, word: &[u8], fits: impl Fn(usize) -> bool) -> Option<Segmentation> {
        let lengths = |pieces: &[u32]| -> Vec<isize> {
            let len = |&piece: &u32| -(segmenter.vocabulary().piece(piece).len() as isize);
            pieces.iter().rev().map(len).collect()
        };
        let all = cuts(segmenter, word).into_iter().filter(|(pieces, _)| fits(pieces.len()));
        let best = all.min_by_key(|(pieces, cost)| (*cost, lengths(pieces)));
        best.map(|(pieces, cost)| Segmentation { pieces, cost })
    }

    /// Few letters and few different counts, so that words repeat and costs are often equal.
    fn random(rng: &mut SmallRng, cost: Cost, steps: Steps) -> Segmenter {
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        for _ in 0..rng.random_range(0..20) {
            let piece: Vec<u8> = (0..rng.random_range(2..6)).map(|_| rng.random_range(b'a'..=b'c')).collect();
            if !pieces.contains(&piece) {
                pieces.push(piece);
            }
        }
        let vocabulary = Vocabulary::with_bytes(&pieces).unwrap();
        let counts: Vec<u64> =
            (0..vocabulary.len()).map(|_| [0, 1, 1, 2, 7, 5_000_000_000][rng.random_range(0..6)]).collect();
        let lambda = [0f64, 0.1, 0.5][rng.random_range(0..3)].min(cost.max_lambda());
        Segmenter::new(vocabulary, Costs::new(cost, &counts, lambda).unwrap(), steps).unwrap()
    }

    fn word(rng: &mut SmallRng, most: usize) -> Vec<u8> {
        (0..rng.random_range(0..=most)).map(|_| rng.random_range(b'a'..=b'd')).collect()
    }

    #[test]
    fn cuts_are_those_of_brute_force() {
        let mut rng = SmallRng::seed_from_u64(20);
        for case in 0..1500 {
            let cost = [Cost::Unigram, Cost::InverseCount, Cost::Unit][case % 3];
            let most = rng.random_range(1..=12);
            let unlimited = random(&mut rng, cost, Steps::Unlimited);
            let with = |steps| Segmenter { steps, ..unlimited.clone() };
            let word = word(&mut rng, 12);
            assert_eq!(Some(unlimited.segment(&word)), best(&unlimited, &word, |_| true), "case {case}");
            let fewest = cuts(&unlimited, &word).iter().map(|(pieces, _)| pieces.len()).min().unwrap();
            let want = best(&unlimited, &word, |count| count == fewest);
            assert_eq!(Some(with(Steps::Fewest).segment(&word)), want, "case {case}");
            let steps = Steps::AtMost(NonZeroUsize::new(most).unwrap());
            let want = best(&unlimited, &word, |count| count <= most.max(fewest));
            assert_eq!(Some(with(steps).segment(&word)), want, "case {case}, at most {most}");
        }
    }

    #[test]
    fn more_steps_never_cost_more_and_enough_are_unlimited() {
        let mut rng = SmallRng::seed_from_u64(21);
        for _ in 0..300 {
            let unlimited = random(&mut rng, Cost::Unigram, Steps::Unlimited);
            let word = word(&mut rng, 40);
            let at_most = |most: usize| {
                let steps = Steps::AtMost(NonZeroUsize::new(most).unwrap());
                Segmenter { steps, ..unlimited.clone() }.segment(&word)
            };
            let costs: Vec<u64> = (1..=word.len().max(1)).map(|most| at_most(most).cost).collect();
            assert!(costs.is_sorted_by(|a, b| a >= b), "{costs:?}");
            assert_eq!(at_most(word.len().max(1)), unlimited.segment(&word));
            let Segmentation { pieces, cost } = unlimited.segment(&word);
            let text: Vec<u8> =
                pieces.iter().flat_map(|&piece| unlimited.vocabulary().piece(piece)).copied().collect();
            assert_eq!(text, word);
            assert_eq!(cost, pieces.iter().map(|&piece| unlimited.costs().of(piece)).sum::<u64>());
        }
    }

    /// A word is whole where `κ(ab) + λ < κ(a) + κ(b) + 2λ`, which for unigrams is
    /// `c(ab)·n > c(a)·c(b)·e^−λ`.
    #[test]
    fn whole_or_in_two_by_the_closed_form() {
        let vocabulary = Vocabulary::with_bytes(["ab"]).unwrap();
        for (ab, a, b, lambda) in
            [(9u64, 300u64, 300u64, 0.0), (11, 300, 300, 0.0), (2, 300, 300, 2.0), (1, 300, 300, 2.0)]
        {
            let mut counts = vec![0; 257];
            (counts[256], counts[usize::from(b'a')], counts[usize::from(b'b')]) = (ab, a, b);
            counts[usize::from(b' ')] = 9000 - ab - a - b;
            let costs = Costs::new(Cost::Unigram, &counts, lambda).unwrap();
            let segmenter = Segmenter::new(vocabulary.clone(), costs, Steps::Unlimited).unwrap();
            let whole = ab as f64 * 9000.0 > (a * b) as f64 * (-lambda).exp();
            assert_eq!(segmenter.segment(b"ab").pieces.len() == 1, whole, "{ab}, {a}, {b}, {lambda}");
        }
    }

    #[test]
    fn costs_are_of_the_vocabulary() {
        let vocabulary = Vocabulary::with_bytes(["ab"]).unwrap();
        let costs = Costs::new(Cost::Unit, &[1; 256], 0.0).unwrap();
        let error = Segmenter::new(vocabulary, costs, Steps::Unlimited).unwrap_err();
        assert_eq!(error.argument(), Some("costs"));
    }
}
