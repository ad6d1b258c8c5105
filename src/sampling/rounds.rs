//! Several schedules for one problem.

use super::grid::BlockGrid;
use super::profile::Profile;
use super::rows::{rows, tabulate};
use super::schedule::{Builder, Schedule};
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_ELEMENTS, MAX_ROUNDS};
use crate::random::{Seed, pcg_hash};

/// The purpose word that keeps these draws apart from those of the samplers.
const PARTITION: u32 = 0x7061_7274;

/// Partition rounds: schedules that visit every block pair of dense attention exactly once between
/// them.
///
/// Round r < R − 1 takes every pair that no earlier round took with probability p(d), the last
/// round takes the rest; the diagonal and the pinned blocks are in round 0. Weights are `ln 1 = 0`,
/// since nothing is left out in the end: merged by log-sum-exp
/// ([`reference::merge`](crate::reference::merge) without the mean), the rounds are *exactly* dense
/// attention. Lists may be empty. Stopped early, the estimate is truncated attention, without a
/// standard error.
///
/// Takes time for every block pair of dense attention, and for every round that it waits for.
///
/// # Errors
/// Invalid argument (`rounds`) if there are none; too large (`rounds`) past [`MAX_ROUNDS`], or
/// where they have more than 2³² − 1 rows together; too large (`grid`) if dense attention has more
/// than 2³² − 1 block pairs; invalid argument (`profile`) for a budget, whose probabilities belong
/// to whole rows.
pub fn partition_rounds(
    grid: &BlockGrid,
    profile: &Profile,
    seed: Seed,
    rounds: usize,
) -> Result<Vec<Schedule>> {
    ensure!(rounds >= 1, "rounds", "expected at least 1, got 0");
    let budget = profile.decay().budget();
    ensure!(budget.is_none(), "profile", "partition rounds need a profile without budget, got {profile}");
    let lists = (grid.groups() * grid.query_blocks()) as u64;
    if rounds > MAX_ROUNDS || lists.saturating_mul(rounds as u64) > MAX_ELEMENTS as u64 {
        let message =
            format!("expected at most {MAX_ROUNDS}, and less where each has {lists} rows, got {rounds}");
        return Err(Error::too_large("rounds", message));
    }
    if grid.dense_blocks() > MAX_ELEMENTS as u64 {
        return Err(Error::too_large(
            "grid",
            format!("{} block pairs are past 2³² − 1", grid.dense_blocks()),
        ));
    }
    let table = tabulate(grid, profile);
    let probabilities = table.row(&(0..table.distances()), &(0..0), 0);
    let mut schedules: Vec<Builder> = (0..rounds).map(|_| Builder::new(grid)).collect();
    for (group, query_block) in rows(grid) {
        let uniform = seed.uniform(group as u32, query_block, PARTITION);
        for block in 0..grid.dense_row(query_block) {
            let distance = (query_block - block as i64).unsigned_abs() as usize;
            let pinned = block < profile.sink_blocks() || distance < profile.window_blocks();
            let p = probabilities.probability(distance);
            let draw =
                |round: &usize| u64::from(pcg_hash(pcg_hash(uniform ^ block as u32) ^ *round as u32)) < p;
            let taken = match (pinned, p) {
                (true, _) => 0,
                (_, 0) => rounds - 1,
                _ => (0..rounds - 1).find(draw).unwrap_or(rounds - 1),
            };
            schedules[taken].push(block, 0.0);
        }
        schedules.iter_mut().try_for_each(Builder::end_row)?;
    }
    Ok(schedules.into_iter().map(Builder::finish).collect())
}
