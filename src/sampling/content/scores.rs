//! Scores of key blocks: what a schedule is chosen by.

use std::ops::Range;

use super::fixed::{FARTHEST, OCTAVE, exp2, from_ln, log2, log2_sum};
use crate::error::{Error, Result, ensure};
use crate::limits::MAX_ELEMENTS;
use crate::sampling::grid::BlockGrid;

/// The score of a block that no row of the query block sees, and the mass of one that a row doesn't
/// see.
pub(crate) const MASKED: i32 = i32::MIN;

/// The score of a block with keys of which nothing is known: it always takes part.
pub(crate) const CERTAIN: i32 = i32::MAX;

/// Which query rows speak for a query block.
///
/// What a list is chosen by decides what the rows that use it may know. A query block's first row
/// and those before it come before every row that uses the list, so such lists can be used in
/// training, for perplexities and in all comparisons. Rows spread over the query block see more of
/// what it needs, and come after some of its rows: text that is read to the end may be read so, but
/// nothing is to be measured by the tokens in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    rows: usize,
    ahead: bool,
}

impl Probe {
    /// The first row of the query block, and rows of the block before at even steps, `rows` of them
    /// together: no row is chosen for by what comes after it.
    ///
    /// # Errors
    /// Invalid argument (`rows`) unless there is at least one.
    pub fn causal(rows: usize) -> Result<Self> {
        ensure!(rows >= 1, "rows", "expected at least 1, got 0");
        Ok(Self { rows, ahead: false })
    }

    /// Rows at even steps over the query block itself, which come after some of the rows that they
    /// choose for.
    ///
    /// # Errors
    /// Invalid argument (`rows`) unless there is at least one.
    pub fn looking_ahead(rows: usize) -> Result<Self> {
        ensure!(rows >= 1, "rows", "expected at least 1, got 0");
        Ok(Self { rows, ahead: true })
    }

    /// How many rows were asked for.
    pub(crate) fn count(self) -> usize {
        self.rows
    }

    /// Whether no row is chosen for by what comes after it.
    pub fn is_causal(self) -> bool {
        !self.ahead
    }

    /// The query rows that speak for a query block of the grid (counted from 0), ascending: as many
    /// as there are, at most.
    pub fn rows(self, grid: &BlockGrid, row: usize) -> Vec<usize> {
        let (block, first) = (grid.block_size() as i64, grid.kv_len() as i64 - grid.q_len() as i64);
        if row >= grid.query_blocks() {
            return Vec::new();
        }
        let begin = ((grid.first_query_block() + row as i64) * block).max(first) - first;
        let end = ((grid.first_query_block() + row as i64 + 1) * block - first).min(grid.q_len() as i64);
        let count = self.rows.min(grid.block_size()) as i64;
        let mut rows: Vec<usize> = (0..count)
            .map(|at| match self.ahead {
                true => begin + (2 * at + 1) * (end - begin) / (2 * count),
                false => begin - at * block / count,
            })
            .filter(|&row| row >= 0)
            .map(|row| row as usize)
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }
}

impl Default for Probe {
    /// [Causal](Probe::causal), of four rows.
    fn default() -> Self {
        Self { rows: 4, ahead: false }
    }
}

/// The score of every (query head, query block, key block): the logarithm of the share of the
/// attention mass that the key block is estimated to have, in integers.
///
/// Each row that speaks for a query block has a mass of 1, which it divides among the blocks that
/// it sees. A block's share is the mean over the rows that see it: to a row of the block before,
/// the newest keys aren't there yet, and that must not count against them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockScores {
    grid: BlockGrid,
    /// `[heads, query_blocks, key_blocks]`.
    scores: Vec<i32>,
}

impl BlockScores {
    /// Scores of a grid from natural logarithms of masses.
    ///
    /// `masses` is asked for each (query head, query block), both counted from 0, and gives the key
    /// blocks that its rows see at all, and for each row that speaks for them the logarithms of the
    /// masses of all key blocks: −∞ for a block that the row doesn't see, ∞ for one with keys of
    /// which nothing is known, which always takes part. A block that is seen, but by none of these
    /// rows, has the lowest score.
    ///
    /// # Errors
    /// Invalid argument (`masses`) where a row has another number of blocks than the grid, or a
    /// logarithm that is NaN; too large (`grid`) past [`MAX_ELEMENTS`] scores.
    pub fn new(
        grid: &BlockGrid,
        mut masses: impl FnMut(usize, usize) -> (Range<usize>, Vec<Vec<f64>>),
    ) -> Result<Self> {
        Self::from_units(grid, |head, row| {
            let (seen, rows) = masses(head, row);
            let rows = rows.iter().map(|masses| units(grid.key_blocks(), masses)).collect::<Result<_>>()?;
            Ok((seen, rows))
        })
    }

    /// The same from logarithms of masses to base 2, in units, [`MASKED`] or [`CERTAIN`].
    pub(crate) fn from_units(
        grid: &BlockGrid,
        mut masses: impl FnMut(usize, usize) -> Result<(Range<usize>, Vec<Vec<i32>>)>,
    ) -> Result<Self> {
        let key_blocks = grid.key_blocks();
        let rows = grid.heads() as u64 * grid.query_blocks() as u64;
        let count = rows.saturating_mul(key_blocks as u64);
        if count > MAX_ELEMENTS as u64 {
            let message = format!("expected at most {MAX_ELEMENTS} scores of blocks, got {count}");
            return Err(Error::too_large("grid", message));
        }
        let mut scores = Vec::new();
        for head in 0..grid.heads() {
            for row in 0..grid.query_blocks() {
                let (seen, rows) = masses(head, row)?;
                let shares = shares(&rows);
                scores.extend((0..key_blocks).map(|block| match seen.contains(&block) {
                    true => mean(shares.iter().filter_map(|row| row[block])).unwrap_or(-FARTHEST),
                    false => MASKED,
                }));
            }
        }
        Ok(Self { grid: *grid, scores })
    }

    /// The grid that they are for.
    pub fn grid(&self) -> &BlockGrid {
        &self.grid
    }

    /// `log₂` of the share that a block is estimated to have of the attention of a head's query
    /// block, to 1/1024; ∞ for a block that takes part whatever its share; none where no row sees
    /// the block, or there is no such head or block.
    pub fn log2_share(&self, head: usize, row: usize, block: usize) -> Option<f64> {
        self.get(head, row, block).map(|score| match score {
            CERTAIN => f64::INFINITY,
            _ => f64::from(score) / f64::from(OCTAVE),
        })
    }

    /// Refuses another grid, but for which heads share a list.
    pub(in crate::sampling) fn check(&self, grid: &BlockGrid) -> Result<()> {
        let same = *grid == self.grid.with_granularity(grid.granularity());
        ensure!(same, "scores", "expected scores of the grid {grid:?}, got those of {:?}", self.grid);
        Ok(())
    }

    pub(super) fn get(&self, head: usize, row: usize, block: usize) -> Option<i32> {
        let (rows, blocks) = (self.grid.query_blocks(), self.grid.key_blocks());
        if head >= self.grid.heads() || row >= rows || block >= blocks {
            return None;
        }
        Some(self.scores[(head * rows + row) * blocks + block]).filter(|&score| score != MASKED)
    }
}

/// Natural logarithms of the masses of a row's blocks, in units.
fn units(key_blocks: usize, masses: &[f64]) -> Result<Vec<i32>> {
    let got = masses.len();
    ensure!(got == key_blocks, "masses", "expected {key_blocks} blocks, got {got}");
    if let Some(block) = masses.iter().position(|mass| mass.is_nan()) {
        ensure!(block >= key_blocks, "masses", "expected numbers, got NaN for block {block}");
    }
    let unit = |&mass: &f64| if mass == f64::INFINITY { CERTAIN } else { from_ln(mass).unwrap_or(MASKED) };
    Ok(masses.iter().map(unit).collect())
}

/// `log₂` of the shares that each row's blocks have, in units.
fn shares(rows: &[Vec<i32>]) -> Vec<Vec<Option<i32>>> {
    let share = |masses: &Vec<i32>| {
        let known = masses.iter().copied().filter(|&mass| mass != MASKED && mass != CERTAIN);
        let all = log2_sum(known).unwrap_or(0);
        let share = |&mass: &i32| match mass {
            MASKED => None,
            CERTAIN => Some(CERTAIN),
            mass => Some((mass - all).max(-FARTHEST)),
        };
        masses.iter().map(share).collect()
    };
    rows.iter().map(share).collect()
}

/// The logarithm of the mean of what has logarithms; none of nothing. What is certain for one is
/// for all.
fn mean(scores: impl Iterator<Item = i32> + Clone) -> Option<i32> {
    if scores.clone().any(|score| score == CERTAIN) {
        return Some(CERTAIN);
    }
    let count = scores.clone().count() as u64;
    log2_sum(scores).map(|sum| if count == 1 { sum } else { sum - log2(count << 32) })
}

/// How the scores of query heads that share a list become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Pool {
    /// The mean of their shares: blocks that all of them need a little.
    #[default]
    Mean,
    /// The largest of their shares: blocks that one of them needs much.
    Largest,
}

impl Pool {
    /// The score of a block for the heads that share a list.
    pub(in crate::sampling) fn score(
        self,
        scores: &BlockScores,
        heads: Range<usize>,
        row: usize,
        block: usize,
    ) -> Option<i32> {
        if heads.len() == 1 {
            return scores.get(heads.start, row, block);
        }
        let of_heads = heads.filter_map(|head| scores.get(head, row, block));
        match self {
            Pool::Mean => mean(of_heads),
            Pool::Largest => of_heads.max(),
        }
    }
}

/// `factor·x`, rounded, of a factor in 16.16 fixed point.
pub(super) fn times(factor: i64, x: i32) -> i64 {
    (factor * i64::from(x) + (1 << 15)) >> 16
}

/// `log₂(1 + d)` in units.
pub(super) fn log2_of_distance(distance: u64) -> i32 {
    log2(distance.saturating_add(1).min(u64::from(u32::MAX)) << 32)
}

/// `min(1, 2^x)` in 32.32 fixed point.
pub(super) fn probability(x: i64) -> u64 {
    exp2(x.min(0))
}
