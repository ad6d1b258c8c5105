//! The pair with the best score, where scores depend on more than the count of the pair.

use super::NONE;
use super::choose::Choose;
use super::corpus::{Corpus, Merge};
use super::score::Measure;

/// Pairs in rows by their left piece, with a bound on the scores of each row.
///
/// A merge changes n, and so perhaps all scores, but a smaller n raises none. Scores that may rise
/// are those of pairs with one of the two pieces that were merged, which now occur less often. So
/// after a merge the rows of these two and of the new piece are looked through, and for pairs that
/// have one of them on their right the bound of their row is raised. All other bounds hold on. To
/// choose, the row with the highest bound is looked through and gets its true score for a bound,
/// until the highest bound is such a true score: that is exactly the best of all.
pub(super) struct ByRow<M: Measure> {
    rows: Vec<Vec<u32>>,
    /// The same pairs by their right piece.
    columns: Vec<Vec<u32>>,
    bounds: Tree<M::Value>,
    minimum: u64,
    /// The rows that were looked through for this choice, with their best pairs.
    seen: Vec<(u32, Option<u32>)>,
    /// Where in `seen` a row is.
    seen_at: Vec<u32>,
}

impl<M: Measure> ByRow<M> {
    fn add(&mut self, corpus: &Corpus, index: u32) {
        let pair = corpus.pair(index);
        if pair.count >= self.minimum {
            self.rows[pair.left as usize].push(index);
            self.columns[pair.right as usize].push(index);
        }
    }

    fn grow(&mut self, pieces: usize) {
        self.rows.resize_with(pieces, Vec::new);
        self.columns.resize_with(pieces, Vec::new);
        self.seen_at.resize(pieces, NONE);
        self.bounds.grow(pieces);
    }

    /// The best pair of a row with its score. What has become too rare leaves the row.
    fn best(&mut self, corpus: &Corpus, row: u32) -> Option<(M::Value, u32)> {
        let mut best: Option<(M::Value, u32, u32)> = None;
        let minimum = self.minimum;
        self.rows[row as usize].retain(|&index| {
            let pair = corpus.pair(index);
            if pair.count < minimum {
                return false;
            }
            let counts = corpus.counts_of(pair);
            if let Some((highest, ..)) = best
                && M::bound(M::at_most(&counts), pair.count) < highest
            {
                return true;
            }
            let value = M::value(&counts);
            let better = best
                .is_none_or(|(highest, right, _)| value > highest || value == highest && pair.right < right);
            if better {
                best = Some((value, pair.right, index));
            }
            true
        });
        best.map(|(value, _, index)| (value, index))
    }

    fn bound(corpus: &Corpus, (value, index): (M::Value, u32)) -> M::Value {
        M::bound(value, corpus.pair(index).count)
    }

    fn bound_row(&mut self, corpus: &Corpus, row: u32) {
        let best = self.best(corpus, row);
        self.bounds.set(row as usize, best.map(|best| Self::bound(corpus, best)));
    }

    fn raise_column(&mut self, corpus: &Corpus, column: u32) {
        let Self { columns, bounds, minimum, .. } = self;
        columns[column as usize].retain(|&index| {
            let pair = corpus.pair(index);
            if pair.count < *minimum {
                return false;
            }
            let counts = corpus.counts_of(pair);
            let bound = |value| Some(M::bound(value, pair.count));
            let row = pair.left as usize;
            if bounds.get(row) < bound(M::at_most(&counts)) {
                bounds.raise(row, bound(M::value(&counts)));
            }
            true
        });
    }
}

impl<M: Measure> Choose for ByRow<M> {
    fn new(corpus: &Corpus, minimum: u64) -> Self {
        let bounds = Tree::new();
        let (rows, columns) = (Vec::new(), Vec::new());
        let mut queue = Self { rows, columns, bounds, minimum, seen: Vec::new(), seen_at: Vec::new() };
        queue.grow(super::BYTES);
        for index in corpus.indices() {
            queue.add(corpus, index);
        }
        for row in 0..super::BYTES as u32 {
            queue.bound_row(corpus, row);
        }
        queue
    }

    fn choose(&mut self, corpus: &Corpus) -> Option<u32> {
        let mut chosen = None;
        // Of equal bounds the first comes first. Of rows with equal true scores that is the one
        // with the smallest left id, and no row before it can still have as high a score.
        while let Some(row) = self.bounds.first_best() {
            let seen = self.seen_at[row];
            if let Some(&(_, best)) = self.seen.get(seen as usize) {
                chosen = best;
                break;
            }
            let best = self.best(corpus, row as u32);
            self.seen_at[row] = self.seen.len() as u32;
            self.seen.push((row as u32, best.map(|(_, index)| index)));
            self.bounds.set(row, best.map(|(value, _)| value));
        }
        // From true scores back to bounds that hold on after the merge.
        for (row, best) in std::mem::take(&mut self.seen) {
            self.seen_at[row as usize] = NONE;
            if let Some(index) = best {
                let pair = corpus.pair(index);
                let value = M::value(&corpus.counts_of(pair));
                self.bounds.raise(row as usize, Some(M::bound(value, pair.count)));
            }
        }
        chosen
    }

    fn merged(&mut self, corpus: &Corpus, merge: &Merge) {
        self.grow(merge.made as usize + 1);
        for &index in &merge.grown {
            self.add(corpus, index);
        }
        let changed = [merge.left, merge.right, merge.made];
        for row in changed {
            self.bound_row(corpus, row);
        }
        for column in changed {
            self.raise_column(corpus, column);
        }
    }
}

/// A binary tree with the highest of some values at its root.
struct Tree<V> {
    /// The children of node `i` are nodes `2i` and `2i + 1`; the leaves are the second half.
    nodes: Vec<Option<V>>,
}

impl<V: Copy + Ord> Tree<V> {
    fn new() -> Self {
        Self { nodes: vec![None; 2] }
    }

    fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }

    /// Room for so many values at least; new ones are `None`.
    fn grow(&mut self, len: usize) {
        let (old, new) = (self.leaves(), len.next_power_of_two());
        if new <= old {
            return;
        }
        let mut nodes = vec![None; 2 * new];
        nodes[new..new + old].copy_from_slice(&self.nodes[old..]);
        for node in (1..new).rev() {
            nodes[node] = nodes[2 * node].max(nodes[2 * node + 1]);
        }
        self.nodes = nodes;
    }

    fn set(&mut self, leaf: usize, value: Option<V>) {
        let mut node = self.leaves() + leaf;
        self.nodes[node] = value;
        while node > 1 {
            node /= 2;
            let highest = self.nodes[2 * node].max(self.nodes[2 * node + 1]);
            if self.nodes[node] == highest {
                break;
            }
            self.nodes[node] = highest;
        }
    }

    fn get(&self, leaf: usize) -> Option<V> {
        self.nodes[self.leaves() + leaf]
    }

    fn raise(&mut self, leaf: usize, value: Option<V>) {
        if self.get(leaf) < value {
            self.set(leaf, value);
        }
    }

    /// The first leaf with the highest value.
    fn first_best(&self) -> Option<usize> {
        let highest = self.nodes[1]?;
        let mut node = 1;
        while node < self.leaves() {
            node *= 2;
            if self.nodes[node] != Some(highest) {
                node += 1;
            }
        }
        Some(node - self.leaves())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_the_first_of_the_highest() {
        let mut tree = Tree::new();
        let mut values: Vec<Option<u32>> = Vec::new();
        let mut state = 1u32;
        for step in 0..3000 {
            state = crate::random::pcg_hash(state);
            if step % 40 == 0 {
                values.push(None);
                tree.grow(values.len());
            }
            let leaf = state as usize % values.len();
            let value = Some(state >> 27).filter(|&value| value > 3);
            match value {
                Some(_) if step % 2 == 0 => {
                    tree.raise(leaf, value);
                    values[leaf] = values[leaf].max(value);
                }
                _ => {
                    tree.set(leaf, value);
                    values[leaf] = value;
                }
            }
            let highest = values.iter().copied().max().flatten();
            let first = highest.and_then(|highest| values.iter().position(|&v| v == Some(highest)));
            assert_eq!(tree.first_best(), first);
        }
    }
}
