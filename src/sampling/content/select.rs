//! Schedules chosen by scores.

use std::cmp::Reverse;

use super::fixed::ln_of_probability;
use super::participation::Participation;
use super::scores::{BlockScores, CERTAIN, log2_of_distance, probability, times};
use crate::error::{Result, ensure};
use crate::limits::MAX_ROUNDS;
use crate::random::Seed;
use crate::sampling::ONE;
use crate::sampling::grid::BlockGrid;
use crate::sampling::rows::rows;
use crate::sampling::schedule::{Builder, Schedule};

/// The purpose word that keeps these draws apart from those of the samplers.
pub(crate) const CONTENT: u32 = 0x636f_6e74;

/// Past every |score|, so that γ can make any block certain or impossible: 64 times the farthest
/// score, and 64 times the logarithm of the farthest distance.
const FARTHEST_GAMMA: i64 = 1 << GAMMA_BITS;

/// Bits of the largest |γ|.
pub(crate) const GAMMA_BITS: u32 = 36;

impl Schedule {
    /// Chooses the blocks of every row by their scores, and by distance if `participation` says so.
    ///
    /// A row has as many blocks as the budget says, its pinned blocks included: all that are
    /// visible where these aren't more, the pinned ones at least. Everything is decided in
    /// integers, so the same scores give the same schedule on every machine; of blocks that are
    /// equal, the nearer one is taken. The seed matters only where blocks are drawn.
    ///
    /// `grid` says which heads share a list; otherwise it is the scores' own. Time: n for the n
    /// blocks of a row, and n·log n where blocks are drawn.
    ///
    /// # Errors
    /// Invalid argument (`scores`) if they are for another grid; too large (`grid`) past 2³² − 1
    /// blocks.
    pub fn select(
        grid: &BlockGrid,
        participation: &Participation,
        scores: &BlockScores,
        seed: Seed,
    ) -> Result<Self> {
        scores.check(grid)?;
        let mut builder = Builder::new(grid);
        for (group, query_block) in rows(grid) {
            let mut row = Row::new(grid, participation, scores, group, query_block);
            let mut kept = row.pinned.clone();
            let left = participation.blocks().saturating_sub(kept.len());
            if left < row.free.len() && participation.tau().is_some() {
                row.rank();
                let uniform = seed.uniform(group as u32, query_block, CONTENT);
                draw(&row.free, left, uniform, &mut kept);
            } else {
                kept.extend(row.best(left).iter().map(|free| (free.block, 0.0)));
            }
            kept.sort_unstable_by_key(|&(block, _)| block);
            kept.into_iter().for_each(|(block, ln_p)| builder.push(block, ln_p));
            builder.end_row()?;
        }
        Ok(builder.finish())
    }

    /// Rounds that visit every visible block exactly once between them, in the order of the scores:
    /// the first has what [`select`](Schedule::select) takes without drawing, each further one the
    /// next best blocks, as many as the budget says, and the last one the rest.
    ///
    /// Weights are `ln 1 = 0`. Merged by log-sum-exp ([`reference::merge`](crate::reference::merge)
    /// without the mean) all rounds are exactly dense attention;
    /// [`Attention::missing`](crate::Attention::missing) says after each of them how much is left
    /// out at most.
    ///
    /// # Errors
    /// As [`select`](Schedule::select); invalid argument (`rounds`) unless there are between 1 and
    /// [`MAX_ROUNDS`].
    pub fn select_rounds(
        grid: &BlockGrid,
        participation: &Participation,
        scores: &BlockScores,
        rounds: usize,
    ) -> Result<Vec<Self>> {
        scores.check(grid)?;
        ensure!((1..=MAX_ROUNDS).contains(&rounds), "rounds", "expected 1 to {MAX_ROUNDS}, got {rounds}");
        let mut builders: Vec<Builder> = (0..rounds).map(|_| Builder::new(grid)).collect();
        for (group, query_block) in rows(grid) {
            let mut row = Row::new(grid, participation, scores, group, query_block);
            row.rank();
            let mut ranked: Vec<usize> = row.pinned.iter().map(|&(block, _)| block).collect();
            let first = participation.blocks().max(ranked.len());
            ranked.extend(row.free.iter().map(|free| free.block));
            for (round, builder) in builders.iter_mut().enumerate() {
                // The first round may have more, for its pinned blocks.
                let end = first.saturating_add(round.saturating_mul(participation.blocks()));
                let end = if round + 1 == rounds { ranked.len() } else { end.min(ranked.len()) };
                let begin = match round {
                    0 => 0,
                    _ => first.saturating_add((round - 1).saturating_mul(participation.blocks())).min(end),
                };
                let mut blocks = ranked[begin..end].to_vec();
                blocks.sort_unstable();
                blocks.into_iter().for_each(|block| builder.push(block, 0.0));
                builder.end_row()?;
            }
        }
        Ok(builders.into_iter().map(Builder::finish).collect())
    }
}

/// A block that isn't pinned.
#[derive(Clone, Copy, Debug)]
struct Free {
    block: usize,
    distance: u64,
    /// `log₂` of `share^τ·(1 + d)^−α`, in units.
    score: i64,
}

/// What one list may have.
struct Row {
    /// (block, ln 1).
    pinned: Vec<(usize, f32)>,
    /// The other visible blocks.
    free: Vec<Free>,
}

impl Free {
    /// Highest scores first, of equal ones the nearer first.
    fn place(&self) -> (Reverse<i64>, u64, usize) {
        (Reverse(self.score), self.distance, self.block)
    }
}

impl Row {
    fn new(
        grid: &BlockGrid,
        participation: &Participation,
        scores: &BlockScores,
        group: usize,
        query_block: i64,
    ) -> Self {
        let row = (query_block - grid.first_query_block()) as usize;
        let (tau, alpha) = participation.exponents();
        let each = grid.heads_per_group();
        let heads = group * each..(group + 1) * each;
        let mut pinned = Vec::new();
        let mut free = Vec::new();
        for block in 0..grid.dense_row(query_block) {
            let distance = (query_block - block as i64).unsigned_abs();
            let Some(score) = participation.pool().score(scores, heads.clone(), row, block) else { continue };
            let pinned_here =
                block < participation.sink_blocks() || distance < participation.window_blocks() as u64;
            if pinned_here || score == CERTAIN {
                pinned.push((block, 0.0));
                continue;
            }
            let score = times(tau, score) - times(alpha, log2_of_distance(distance));
            free.push(Free { block, distance, score });
        }
        Self { pinned, free }
    }

    /// Puts the blocks that aren't pinned in order.
    fn rank(&mut self) {
        self.free.sort_unstable_by_key(Free::place);
    }

    /// The first so many of them in that order, in any.
    fn best(&mut self, count: usize) -> &[Free] {
        if count < self.free.len() {
            self.free.select_nth_unstable_by_key(count, Free::place);
        }
        &self.free[..count.min(self.free.len())]
    }
}

/// Draws `budget` of more blocks than that, systematically: with marginals p, and never more or
/// fewer.
fn draw(free: &[Free], budget: usize, uniform: u32, kept: &mut Vec<(usize, f32)>) {
    let probabilities = probabilities(free, budget);
    let mut blocks: Vec<(usize, u64)> = free.iter().map(|free| free.block).zip(probabilities).collect();
    blocks.sort_unstable();
    let mut sum = u64::from(uniform);
    for (block, p) in blocks {
        let whole = sum / ONE;
        sum += p;
        if sum / ONE > whole {
            kept.push((block, ln_of_probability(p)));
        }
    }
}

/// `min(1, 2^(γ + score))` of each block in 32.32 fixed point, with the sum `budget`, for fewer
/// than there are blocks. What rounding leaves over goes to the first blocks that aren't certain.
fn probabilities(free: &[Free], budget: usize) -> Vec<u64> {
    let target = budget as u64 * ONE;
    let cost = |gamma: i64| -> u64 { free.iter().map(|free| probability(gamma + free.score)).sum() };
    // The largest γ whose cost isn't above the target.
    let (mut low, mut high) = (-FARTHEST_GAMMA, FARTHEST_GAMMA);
    while low < high {
        let middle = low + (high - low + 1) / 2;
        if cost(middle) <= target { low = middle } else { high = middle - 1 }
    }
    let mut probabilities: Vec<u64> = free.iter().map(|free| probability(low + free.score)).collect();
    let mut left = target - probabilities.iter().sum::<u64>();
    for p in probabilities.iter_mut() {
        let more = left.min(ONE - *p);
        *p += more;
        left -= more;
    }
    probabilities
}
