//! One sequence of a call: what its rows see, where they are, and how they lie in tiles.

use std::ops::Range;

use super::sizes::ROWS;
use crate::attention::call::FirstPositions;
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::documents::Documents;
use crate::attention::inputs::mask::Mask;
use crate::attention::inputs::pages::PageTable;
use crate::attention::inputs::position_ids::PositionIds;
use crate::cache::SequenceId;
use crate::sampling::Schedule;

/// One sequence: where its rows begin, how many there are, and what is looked up for them.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) entry: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    /// Of the cache, if there is one.
    pub(super) sequence: Option<SequenceId>,
    pub(super) first: FirstPositions,
    pub(super) schedule: Option<&'a Schedule>,
    pub(super) documents: Option<&'a Documents>,
    pub(super) ids: Option<&'a PositionIds>,
    pub(super) mask: Option<&'a Mask>,
    pub(super) pages: Option<&'a PageTable>,
}

impl Part<'_> {
    /// The position of row i among the keys: what masks and schedules go by.
    pub(super) fn place(&self, row: usize) -> i64 {
        self.keys.len() as i64 - self.queries.len() as i64 + row as i64
    }

    /// The position of row i, by which it is turned.
    pub(super) fn query_position(&self, row: usize) -> i64 {
        let counted = || self.first.query.saturating_add(row as i64);
        self.ids.map_or_else(counted, |ids| ids.queries().get(row).copied().unwrap_or(0).into())
    }

    /// The position of key j.
    pub(super) fn key_position(&self, key: usize) -> i64 {
        let counted = || self.first.key.saturating_add(key as i64);
        self.ids.map_or_else(counted, |ids| ids.keys().get(key).copied().unwrap_or(0).into())
    }

    /// Whether positions are given one by one.
    pub(super) fn has_ids(&self) -> bool {
        self.ids.is_some()
    }

    /// The keys that row i sees, before any schedule.
    pub(super) fn visible(&self, attention: &Attention, row: usize) -> Range<usize> {
        let seen = attention.visible(self.place(row), self.keys.len());
        let Some(documents) = self.documents else { return seen };
        let own = documents.range(row);
        let start = seen.start.max(own.start);
        start..seen.end.min(own.end).max(start)
    }

    /// From the first to the last key that any of the rows sees, before any schedule.
    pub(super) fn reach(&self, attention: &Attention) -> Range<usize> {
        let seen = (0..self.queries.len()).map(|row| self.visible(attention, row));
        let seen = seen.filter(|seen| !seen.is_empty());
        seen.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end)).unwrap_or_default()
    }

    /// Rows of a query block, and tiles of it.
    fn blocks(&self) -> (usize, usize) {
        let block = self.schedule.map_or(ROWS, |schedule| schedule.grid().block_size());
        (block, block.div_ceil(ROWS))
    }

    /// The first query block, on the grid of absolute positions if there is a schedule.
    fn first_block(&self) -> i64 {
        self.schedule.map_or(0, |schedule| schedule.grid().first_query_block())
    }

    pub(super) fn tiles(&self) -> usize {
        let (block, tiles) = self.blocks();
        match self.schedule {
            Some(schedule) => schedule.grid().query_blocks() * tiles,
            None => self.queries.len().div_ceil(block),
        }
    }

    /// The rows of a tile; none where a block ends before it.
    pub(super) fn tile(&self, index: usize) -> Range<usize> {
        let (block, tiles) = self.blocks();
        // Where row 0 lies in its grid of blocks.
        let row_0 = self.schedule.map_or(0, |_| self.place(0) - self.first_block() * block as i64);
        let start = ((index / tiles) * block) as i64 - row_0;
        let clamp = |row: i64| row.clamp(0, self.queries.len() as i64) as usize;
        let within = (index % tiles * ROWS) as i64;
        let end = (start + within + ROWS as i64).min(start + block as i64);
        clamp(start + within)..clamp(end)
    }

    /// The rows of a query block of the schedule's grid.
    pub(super) fn rows_of_block(&self, index: usize) -> Range<usize> {
        let (block, _) = self.blocks();
        let row_0 = self.place(0) - self.first_block() * block as i64;
        let start = (index * block) as i64 - row_0;
        let clamp = |row: i64| row.clamp(0, self.queries.len() as i64) as usize;
        clamp(start)..clamp(start + block as i64)
    }

    /// Calls `visit(keys, ln_p)` for the runs of keys within `seen` that the rows of a tile visit.
    pub(super) fn for_each_run(
        &self,
        head: usize,
        first_row: usize,
        seen: Range<usize>,
        mut visit: impl FnMut(Range<usize>, f32),
    ) {
        let Some(schedule) = self.schedule else { return visit(seen, 0.0) };
        let (grid, block) = (schedule.grid(), schedule.grid().block_size());
        let row = self.place(first_row).div_euclid(block as i64) - grid.first_query_block();
        for entry in schedule.row(grid.group_of_head(head), row as usize) {
            let start = (entry.block * block).max(seen.start);
            let end = ((entry.block + 1) * block).min(seen.end);
            if start < end {
                visit(start..end, entry.ln_p);
            }
        }
    }
}
