//! What calls that choose blocks by content read.

use std::ops::Range;

use super::prepared::Prepared;
use super::selection::{GpuSelector, seen_blocks};
use super::table_buffer::ScheduleWords;
use crate::cache::words::padded;
use crate::error::Result;
use crate::runtime::sync::lock;
use crate::sampling::content::packed;
use crate::sampling::gpu::params::ContentSequence;
use crate::sampling::{BlockGrid, Schedule};
use crate::shape::Shape;

/// What one sequence of a call reads of its keys and values.
///
/// Each query block reads once for each key/value head: of two query heads that share keys, blocks
/// that both lists have count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Blocks, summed over query blocks and key/value heads.
    pub blocks: u64,
    /// Bytes of keys and values in these blocks, as they are stored.
    pub kv_bytes: u64,
    /// Bytes of the summaries that blocks were chosen by.
    pub summary_bytes: u64,
}

impl GpuSelector {
    /// What each sequence of the last call reads, once all work submitted so far is done: from the
    /// lists on the device, which are read back. Nothing, if the call [only
    /// estimated](crate::Plan::encode_scores). Native backends wait inside.
    ///
    /// # Errors
    /// Those of [`read`](GpuSelector::read).
    pub async fn read_traffic(&self) -> Result<Vec<Traffic>> {
        let (last, group) = {
            let lists = lock(&self.lists);
            (lists.last.clone(), lists.group)
        };
        let schedules = self.read().await?;
        let of = |(schedule, (_, sequence)): (&Schedule, &(ScheduleWords, ContentSequence))| {
            traffic(&self.prepared, schedule, sequence.known as usize, group)
        };
        Ok(schedules.iter().zip(&last).map(of).collect())
    }

    /// [`read_traffic`](GpuSelector::read_traffic), blocking.
    ///
    /// # Errors
    /// As [`read_traffic`](GpuSelector::read_traffic).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_traffic_blocking(&self) -> Result<Vec<Traffic>> {
        pollster::block_on(self.read_traffic())
    }
}

/// Of a schedule whose first `known` keys have summaries, in groups of so many.
fn traffic(prepared: &Prepared, schedule: &Schedule, known: usize, group: usize) -> Traffic {
    let grid = schedule.grid();
    let token_bytes = bytes_of_tokens(prepared, grid);
    let dim = prepared.maxima.head_dim();
    let group_bytes = 4 * packed::words(prepared.cache.as_ref().map_or(dim, |_| padded(dim))) as u64;
    let mut sum = Traffic::default();
    for row in 0..grid.query_blocks() {
        let seen = tokens(&seen_blocks(&prepared.attention, grid, row), grid, known);
        let groups = if seen.is_empty() { 0 } else { seen.end.div_ceil(group) - seen.start / group };
        sum.summary_bytes += (grid.kv_heads() * groups) as u64 * group_bytes;
        for kv_head in 0..grid.kv_heads() {
            let blocks = blocks_of(schedule, kv_head, row);
            sum.blocks += blocks.len() as u64;
            // Runs, since what a group of tokens shares is read once.
            for run in blocks.chunk_by(|one, next| one + 1 == *next) {
                let blocks = run[0]..run[0] + run.len();
                sum.kv_bytes += token_bytes(tokens(&blocks, grid, grid.kv_len()));
            }
        }
    }
    sum
}

/// The blocks, ascending, that the lists of a key/value head's query heads have.
fn blocks_of(schedule: &Schedule, kv_head: usize, row: usize) -> Vec<usize> {
    let grid = schedule.grid();
    let per_kv = grid.heads() / grid.kv_heads();
    let mut lists: Vec<usize> =
        (kv_head * per_kv..(kv_head + 1) * per_kv).map(|head| grid.group_of_head(head)).collect();
    lists.dedup();
    let mut blocks: Vec<usize> = lists.iter().flat_map(|&list| schedule.blocks(list, row)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// The tokens of some blocks, of the first `len`.
fn tokens(blocks: &Range<usize>, grid: &BlockGrid, len: usize) -> Range<usize> {
    let size = grid.block_size();
    (blocks.start * size).min(len)..(blocks.end * size).min(len)
}

/// How many bytes of one key/value head's keys and values some tokens are.
fn bytes_of_tokens(prepared: &Prepared, grid: &BlockGrid) -> impl Fn(Range<usize>) -> u64 {
    let maxima = prepared.maxima;
    let standing = prepared.cache.as_ref().map(|cache| cache.standing(grid.kv_len()));
    let row = (maxima.head_dim() + maxima.value_dim()) * prepared.attention.storage().size();
    let one = Shape::new(1, 1, 0, maxima.head_dim()).and_then(|one| one.with_value_dim(maxima.value_dim()));
    move |tokens| match (&standing, &one) {
        (Some(standing), Ok(one)) => standing.bytes_read_in(one, tokens),
        _ => (tokens.len() * row) as u64,
    }
}
