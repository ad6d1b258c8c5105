//! Several schedules for one problem.

use super::grid::BlockGrid;
use super::profile::Profile;
use super::schedule::{Schedule, rows};
use crate::error::{Result, ensure};
use crate::random::{Key, pcg_hash};

/// The purpose word that keeps these draws apart from those of the samplers.
const PARTITION: u32 = 0x7061_7274;

/// Partition rounds: schedules that visit every block pair of dense attention exactly once between them.
///
/// Round r < R − 1 takes every pair that no earlier round took with probability p(d), the last round takes the rest; the diagonal and the pinned blocks are in
/// round 0. Weights are `ln 1 = 0`, since nothing is left out in the end: merged by log-sum-exp
/// ([`reference::merge`](crate::reference::merge) without the mean), the rounds are *exactly* dense attention. Lists may be empty. Stopped
/// early, the estimate is truncated attention, without a standard error.
///
/// # Errors
/// Invalid argument (`rounds`) if there are none; (`profile`) for a budget, whose probabilities belong to whole rows.
pub fn partition_rounds(
    grid: &BlockGrid,
    profile: &Profile,
    key: Key,
    rounds: usize,
) -> Result<Vec<Schedule>> {
    ensure!(rounds >= 1, "rounds", "expected at least 1, got 0");
    let budget = profile.decay().budget();
    ensure!(budget.is_none(), "profile", "partition rounds need a profile without budget, got {profile}");
    let first = grid.first_query_block();
    let distances = first.unsigned_abs() as usize + grid.query_blocks() + grid.key_blocks() + 1;
    let table = profile.cumulative(distances);
    let probabilities = table.row(&(0..distances), &(0..0), 0);
    let mut lists = vec![Vec::new(); rounds];
    for (group, query_block) in rows(grid) {
        let uniform = key.uniform(group as u32, query_block, PARTITION);
        let mut row = vec![Vec::new(); rounds];
        for block in 0..grid.dense_row(query_block) {
            let distance = (query_block - block as i64).unsigned_abs() as usize;
            let pinned = block < profile.sink_blocks() || distance < profile.window_blocks();
            let draw = |round: usize| {
                let uniform = pcg_hash(pcg_hash(uniform ^ block as u32) ^ round as u32);
                u64::from(uniform) < probabilities.probability(distance)
            };
            let taken = if pinned { 0 } else { (0..rounds - 1).find(|&r| draw(r)).unwrap_or(rounds - 1) };
            row[taken].push(block);
        }
        for (lists, row) in lists.iter_mut().zip(row) {
            lists.push(row);
        }
    }
    lists.iter().map(|lists| Schedule::from_block_lists(grid, lists)).collect()
}
