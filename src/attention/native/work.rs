//! What one call computes, and how it is cut: sequences, tiles of rows, runs of keys.

use std::ops::Range;

use super::output::Results;
use super::positions::PositionTables;
use super::products::ROWS;
use super::source::Head;
use super::views::HostView;
use crate::attention::call::{FirstPositions, Sequence};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::documents::Documents;
use crate::attention::inputs::position_ids::PositionIds;
use crate::attention::inputs::tables::Tables;
use crate::sampling::{Granularity, Schedule};
use crate::shape::Shape;

/// Everything that the tasks of a call have in common.
pub(super) struct Work<'a> {
    pub(super) attention: &'a Attention,
    /// The plan's: lengths are those of each sequence.
    pub(super) shape: &'a Shape,
    pub(super) positions: Option<&'a PositionTables>,
    pub(super) q: HostView<'a>,
    pub(super) k: HostView<'a>,
    pub(super) v: HostView<'a>,
    pub(super) sequences: Sequences<'a>,
    pub(super) tables: &'a Tables<'a>,
    pub(super) results: Results<'a>,
}

/// The sequences of a call.
#[derive(Clone, Copy)]
pub(super) enum Sequences<'a> {
    /// Every batch entry, with all of its rows.
    Whole,
    Each(&'a [Sequence]),
}

/// One sequence: where its rows begin, how many there are, and what is looked up for them.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) entry: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    first: FirstPositions,
    schedule: Option<&'a Schedule>,
    documents: Option<&'a Documents>,
    ids: Option<&'a PositionIds>,
}

/// Some rows of a sequence, for neighbouring heads that share their keys.
#[derive(Clone, Debug)]
pub(super) struct Task<'a> {
    pub(super) part: Part<'a>,
    pub(super) heads: Range<usize>,
    /// Of the sequence, at most [`ROWS`]; those of one query block, where there is a schedule.
    pub(super) rows: Range<usize>,
}

impl<'a> Work<'a> {
    pub(super) fn sequence_count(&self) -> usize {
        match self.sequences {
            Sequences::Whole => self.q.layout().dims()[0],
            Sequences::Each(sequences) => sequences.len(),
        }
    }

    pub(super) fn part(&self, index: usize) -> Part<'a> {
        let (entry, queries, keys, first) = match self.sequences {
            Sequences::Whole => (index, 0..self.q.layout().dims()[2], 0..self.k.layout().dims()[2], None),
            Sequences::Each(sequences) => {
                let Sequence { entry, queries, keys, positions } = &sequences[index];
                (*entry, queries.clone(), keys.clone(), *positions)
            }
        };
        let corner = FirstPositions { query: keys.len() as i64 - queries.len() as i64, key: 0 };
        Part {
            entry,
            queries,
            keys,
            first: first.unwrap_or(corner),
            schedule: self.tables.schedule(index),
            documents: self.tables.documents(index),
            ids: self.tables.position_ids(index),
        }
    }

    /// How many query heads a task has: those that share keys, where these are expanded for them;
    /// one where there is nothing to share.
    fn heads_per_task(&self, part: &Part<'_>) -> usize {
        /// More of them leave too few tasks, and too little room in the cache.
        const MOST: usize = 4;
        let group = self.shape.heads_per_kv_head();
        let by_head = |schedule: &Schedule| schedule.grid().granularity() == Granularity::Head;
        let rotates = self.positions.is_some_and(|positions| positions.rotations().is_some());
        let direct = !rotates && [self.k, self.v].iter().all(|&view| Head::new(view, 0, 0).is_direct());
        if direct || part.schedule.is_some_and(by_head) {
            return 1;
        }
        (1..=MOST).rev().find(|heads| group.is_multiple_of(*heads)).unwrap_or(1)
    }

    /// Tasks of a sequence; some may have no rows.
    pub(super) fn task_count(&self, part: &Part<'_>) -> usize {
        self.shape.heads() / self.heads_per_task(part) * part.tiles()
    }

    /// Task number `index` of a sequence: late rows, which under a causal mask see most, come first.
    pub(super) fn task(&self, part: Part<'a>, index: usize) -> Task<'a> {
        let per_task = self.heads_per_task(&part);
        let chunks = self.shape.heads() / per_task;
        let first = index % chunks * per_task;
        let rows = part.tile(part.tiles() - 1 - index / chunks);
        Task { part, heads: first..first + per_task, rows }
    }
}

impl<'a> Part<'a> {
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

    /// Rows of a query block, and tiles of it.
    fn blocks(&self) -> (usize, usize) {
        let block = self.schedule.map_or(ROWS, |schedule| schedule.grid().block_size());
        (block, block.div_ceil(ROWS))
    }

    /// The first query block, on the grid of absolute positions if there is a schedule.
    fn first_block(&self) -> i64 {
        self.schedule.map_or(0, |schedule| schedule.grid().first_query_block())
    }

    fn tiles(&self) -> usize {
        let (block, tiles) = self.blocks();
        match self.schedule {
            Some(schedule) => schedule.grid().query_blocks() * tiles,
            None => self.queries.len().div_ceil(block),
        }
    }

    /// The rows of a tile; none where a block ends before it.
    fn tile(&self, index: usize) -> Range<usize> {
        let (block, tiles) = self.blocks();
        // Where row 0 lies in its grid of blocks.
        let row_0 = self.schedule.map_or(0, |_| self.place(0) - self.first_block() * block as i64);
        let start = ((index / tiles) * block) as i64 - row_0;
        let clamp = |row: i64| row.clamp(0, self.queries.len() as i64) as usize;
        let within = (index % tiles * ROWS) as i64;
        let end = (start + within + ROWS as i64).min(start + block as i64);
        clamp(start + within)..clamp(end)
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
