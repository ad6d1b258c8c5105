//! What a sampled schedule is compared with, at the same number of blocks in every row.

use super::content::{BlockScores, Pool};
use super::profile::Profile;
use super::rows::rows;
use super::schedule::Schedule;
use crate::error::Result;
use crate::random::Seed;

/// The purpose word that keeps these draws apart from those of the samplers.
const UNIFORM: u32 = 0x756e_6966;

/// Sink + window (StreamingLLM's pattern): in every row the profile's sink blocks and then the
/// nearest blocks, as many as `like` has there.
///
/// # Errors
/// None that a schedule of the same grid didn't meet.
pub fn sink_window_like(like: &Schedule, profile: &Profile) -> Result<Schedule> {
    rebuild(like, profile, |_, query_block, block| (query_block - block as i64).unsigned_abs())
}

/// Uniform random blocks (BigBird's pattern): the profile's pinned blocks and then uniformly random
/// others, as many as `like` has in that row.
///
/// # Errors
/// None that a schedule of the same grid didn't meet.
pub fn uniform_like(like: &Schedule, profile: &Profile, seed: Seed) -> Result<Schedule> {
    rebuild(like, profile, |group, query_block, block| {
        if (query_block - block as i64).unsigned_abs() < profile.window_blocks() as u64 {
            return 0;
        }
        // The smallest of independent uniform numbers are a uniform sample without replacement.
        1 + u64::from(crate::random::hash_words(&[
            seed.uniform(group as u32, query_block, UNIFORM),
            block as u32,
        ]))
    })
}

/// The blocks of the largest estimated shares of the attention: in every row the profile's pinned
/// blocks and then those of the highest scores, of equal ones the nearer first, as many as `like`
/// has there. Heads that share a list have the mean of their shares.
///
/// # Errors
/// Invalid argument (`scores`) if they are for another grid.
pub fn content_like(like: &Schedule, profile: &Profile, scores: &BlockScores) -> Result<Schedule> {
    let grid = like.grid();
    scores.check(grid)?;
    let each = grid.heads_per_group();
    rebuild(like, profile, |group, query_block, block| {
        let distance = (query_block - block as i64).unsigned_abs();
        if distance < profile.window_blocks() as u64 {
            return 0;
        }
        let row = (query_block - grid.first_query_block()) as usize;
        // Blocks that nobody sees come last.
        match Pool::Mean.score(scores, group * each..(group + 1) * each, row, block) {
            Some(score) => (((i64::from(i32::MAX) - i64::from(score)) as u64 + 1) << 31) | distance,
            None => u64::MAX,
        }
    })
}

/// Keeps the sinks and then the blocks of smallest rank, as many per row as `like` has.
fn rebuild(like: &Schedule, profile: &Profile, rank: impl Fn(usize, i64, usize) -> u64) -> Result<Schedule> {
    let grid = like.grid();
    let mut lists = Vec::new();
    for (index, (group, query_block)) in rows(grid).enumerate() {
        let count = like.row(group, index % grid.query_blocks()).len();
        let mut ranked: Vec<(u64, usize)> = (0..grid.dense_row(query_block))
            .map(|block| if block < profile.sink_blocks() { 0 } else { rank(group, query_block, block) })
            .zip(0..)
            .collect();
        ranked.sort_unstable();
        let mut kept: Vec<usize> = ranked.iter().take(count).map(|&(_, block)| block).collect();
        kept.sort_unstable();
        lists.push(kept);
    }
    Schedule::from_block_lists(grid, &lists)
}
