//! The rows of a grid: which blocks a query block may keep, and how many it does on average.

use std::ops::Range;

use super::cumulative::CumulativeProfile;
use super::grid::BlockGrid;
use super::profile::{ONE, Profile};
use super::sampler::RowSpan;

/// (group, absolute query block) of every row, in order.
pub(super) fn rows(grid: &BlockGrid) -> impl Iterator<Item = (usize, i64)> + use<> {
    let query_blocks = query_blocks(grid);
    (0..grid.groups()).flat_map(move |group| query_blocks.clone().map(move |row| (group, row)))
}

/// The absolute query blocks.
pub(super) fn query_blocks(grid: &BlockGrid) -> Range<i64> {
    let first = grid.first_query_block();
    first..first + grid.query_blocks() as i64
}

/// The profile over every distance that occurs in the grid.
pub(super) fn tabulate(grid: &BlockGrid, profile: &Profile) -> CumulativeProfile {
    // The farthest is between the last key block and the first query block, or the other way round.
    let rows = query_blocks(grid);
    let distances = rows.end.max(grid.key_blocks() as i64) - rows.start.min(0);
    profile.cumulative(distances.max(0) as usize + 1)
}

/// The pinned sink blocks of a row (the first so many), and its other candidates.
pub(crate) fn candidates(
    grid: &BlockGrid,
    profile: &Profile,
    group: usize,
    query_block: i64,
) -> (usize, RowSpan) {
    let row_blocks = grid.dense_row(query_block) as i64;
    let sinks = profile.sink_blocks().min(row_blocks as usize);
    let least = sinks as i64;
    let span = RowSpan {
        group: group as u32,
        query_block,
        // J = I − d for sinks ≤ J < row_blocks and d ≥ 0.
        before: (query_block - row_blocks + 1).max(0) as usize..(query_block - least + 1).max(0) as usize,
        // J = I + d for sinks ≤ J < row_blocks and d ≥ 1.
        after: (least - query_block).max(1) as usize..(row_blocks - query_block).max(1) as usize,
        key_blocks: grid.key_blocks(),
    };
    (sinks, span)
}

/// The mean blocks of a row, sinks included, over at most 64 evenly spaced ones.
pub(super) fn mean_blocks(grid: &BlockGrid, profile: &Profile) -> f64 {
    let table = tabulate(grid, profile);
    let (rows, count) = spaced_rows(grid);
    rows.map(|query_block| expected_row(&table, grid, profile, query_block)).sum::<f64>() / count as f64
}

/// At most 64 evenly spaced rows, and how many they are.
pub(super) fn spaced_rows(grid: &BlockGrid) -> (impl Iterator<Item = i64> + use<>, usize) {
    let step = grid.query_blocks().div_ceil(64).max(1);
    (query_blocks(grid).rev().step_by(step), grid.query_blocks().div_ceil(step).max(1))
}

pub(super) fn expected_row(
    table: &CumulativeProfile,
    grid: &BlockGrid,
    profile: &Profile,
    query_block: i64,
) -> f64 {
    let (sinks, span) = candidates(grid, profile, 0, query_block);
    let row = table.row(&span.before, &span.after, sinks);
    sinks as f64 + (row.sum_of(&span.before) + row.sum_of(&span.after)) as f64 / ONE as f64
}
