//! The work of a call: its tiles in a line, cut into dispatches, and the parameters of each.

use super::bound::{Shard, ShardGroups};
use super::call::{FirstPositions, SequenceRows};
use super::check::{CheckedCall, CheckedSequence};
use super::inputs::attention::Attention;
use super::pieces::{WorkRun, cut};
use super::prepared::{Prepared, score_unit};
use super::selecting::CheckedSelection;
use super::table_buffer::{ScheduleWords, TableBuffer, row_order};
use crate::attention::kernels::params::{
    FLAG_CAUSAL, FLAG_LSE, FLAG_PAIRED, FLAG_SINKS, FLAG_SOFT_CAP, FLAG_WINDOW, NO_TABLE, Params,
    SequenceEntry,
};
use crate::attention::kernels::shapes::TILE_ROWS;
use crate::cache::gpu::kv_cache::Region;
use crate::error::Result;
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::slots::Slot;
use crate::sampling::{BlockGrid, DEFAULT_BLOCK_SIZE, RowOrder};

/// One dispatch of a call, its parameters on their way to the GPU.
pub(super) struct Dispatch<'p> {
    pub(super) shard: &'p Shard,
    /// In place of the shard's, where the call has states of its own.
    pub(super) groups: Option<ShardGroups>,
    /// What it reads of a cache.
    pub(super) arena: Option<&'p wgpu::BindGroup>,
    pub(super) slot: Slot,
    pub(super) workgroups: (u32, u32),
    /// Workgroups of the merge after it, if keys are split.
    pub(super) merge_workgroups: Option<(u32, u32)>,
}

impl Prepared {
    /// Writes the parameters of a shard's dispatches into slots; none if the call has no sequence
    /// there.
    pub(super) fn prepare<'p>(
        &self,
        dispatches: &mut Vec<Dispatch<'p>>,
        (shard, arena): (&'p Shard, Option<&'p wgpu::BindGroup>),
        call: &CheckedCall<'_>,
    ) -> Result<()> {
        let Some(CheckedSequence { schedule: ScheduleWords { grid, lists, .. }, .. }) = call.sequences.last()
        else {
            return Ok(());
        };
        let here: Vec<CheckedSequence> = call
            .sequences
            .iter()
            .filter(|sequence| shard.entries.contains(&sequence.rows.entry))
            .copied()
            .collect();
        let sequences = here.len();
        let heads = shard.kv_heads.len() * self.maxima.heads_per_kv_head();
        // All have blocks and lists of one kind, or none has any.
        let listed = *lists != NO_TABLE;
        let block_size = if listed { grid.block_size() } else { DEFAULT_BLOCK_SIZE };
        let tiles_per_block = block_size.div_ceil(TILE_ROWS);
        let tiles = call.query_blocks * tiles_per_block;
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let per_list = if listed { grid.heads_per_group() } else { usize::MAX };
        let longest = call
            .sequences
            .iter()
            .fold((0, 0), |(q, kv), CheckedSequence { rows, .. }| (rows.q_len.max(q), rows.kv_len.max(kv)));
        // Splits share what lists have of the keys.
        let listed_keys = call.selection.as_ref().map_or(usize::MAX, CheckedSelection::keys);
        let longest = (longest.0, longest.1.min(listed_keys));
        let mut params = Params::default();
        let mut merge_workgroups = None;
        let items = match &self.split {
            None => heads,
            Some(split) => {
                let splits = split.of_call(&self.maxima, sequences, heads, per_list, longest, tiles);
                params = splits.params;
                if splits.merge_items > 0 {
                    merge_workgroups =
                        Some(dispatch::fold(splits.merge_items.div_ceil(TILE_ROWS as u64), limit)?);
                }
                splits.items
            }
        };
        let work_items = (sequences * items) as u64 * tiles as u64;
        if work_items == 0 {
            return Ok(());
        }
        // Refused before anything is recorded; a piece of it is no longer.
        dispatch::fold(work_items, limit)?;
        let ends = self.cuts(&here, call.tables, (heads, items, tiles, tiles_per_block), work_items);
        let params = Params {
            heads: items as u32,
            splits: params.splits,
            row_chunks: params.row_chunks,
            heads_each: params.heads_each,
            heads_here: heads as u32,
            all_heads: self.maxima.heads() as u32,
            max_rows: longest.0 as u32,
            merge_items: params.merge_items,
            first_head: (shard.kv_heads.start * self.maxima.heads_per_kv_head()) as u32,
            list_groups: grid.groups() as u32,
            heads_per_list: grid.heads_per_group() as u32,
            tiles: tiles as u32,
            tiles_per_block: tiles_per_block as u32,
            block_size: block_size as u32,
            page_size: call.pool.map_or(0, |pool| pool.page_size as u32),
            ..self.params(shard)
        };
        let entries: Vec<SequenceEntry> = here.iter().map(|sequence| entry(shard, sequence)).collect();
        let mut first = 0;
        for end in ends {
            let piece = Params { first_item: first as u32, work_items: end as u32, ..params };
            let slot =
                self.slots.take(&self.context, bytemuck::bytes_of(&piece), bytemuck::cast_slice(&entries))?;
            dispatches.push(Dispatch {
                shard,
                groups: None,
                arena,
                slot,
                workgroups: dispatch::fold(end - first, limit)?,
                // Once all splits are there.
                merge_workgroups: merge_workgroups.filter(|_| end == work_items),
            });
            first = end;
        }
        Ok(())
    }

    /// Where the line of a dispatch's work items is cut, and its end: one piece unless the device
    /// is to be given less at once. Sequences, then tiles, then items.
    fn cuts(
        &self,
        sequences: &[CheckedSequence],
        tables: Option<&TableBuffer>,
        (heads, items, tiles, tiles_per_block): (usize, usize, usize, usize),
        work_items: u64,
    ) -> Vec<u64> {
        let Some(flops) = self.context.max_dispatch_flops() else { return vec![work_items] };
        let per_pair = 2 * (self.maxima.head_dim() + self.maxima.value_dim()) as u64;
        let cap = flops / per_pair;
        let pairs = |rows: &SequenceRows| (rows.q_len * rows.kv_len) as u64 * heads as u64;
        let all_pairs =
            sequences.iter().fold(0u64, |all, sequence| all.saturating_add(pairs(&sequence.rows)));
        // Most calls, and every short one.
        if all_pairs <= cap {
            return vec![work_items];
        }
        let mut line = Vec::with_capacity(sequences.len() * tiles);
        for CheckedSequence { index, rows, schedule, .. } in sequences {
            let lists = tables.and_then(|tables| tables.row_blocks(*index));
            for place in 0..tiles {
                let pairs = visited_pairs(
                    &self.context,
                    &self.attention,
                    rows,
                    &schedule.grid,
                    lists,
                    (place, tiles, tiles_per_block),
                );
                line.push(WorkRun {
                    items: items as u64,
                    cost: (pairs * heads as u64).div_ceil(items as u64),
                });
            }
        }
        cut(&line, cap)
    }

    /// What doesn't depend on the call: strides, mask and scores.
    fn params(&self, shard: &Shard) -> Params {
        let params = Params {
            q_head_stride: shard.q.head_stride,
            q_row_stride: shard.q.row_stride,
            k_head_stride: shard.k.head_stride,
            k_row_stride: shard.k.row_stride,
            v_head_stride: shard.v.head_stride,
            v_row_stride: shard.v.row_stride,
            k_page_stride: shard.k.batch_stride,
            v_page_stride: shard.v.batch_stride,
            o_head_stride: shard.o.head_stride,
            o_row_stride: shard.o.row_stride,
            lse_head_stride: shard.lse.head_stride,
            heads_per_kv: self.maxima.heads_per_kv_head() as u32,
            ..score_params(
                &self.context,
                &self.attention,
                self.maxima.head_dim(),
                score_unit(self.variant.kernel),
            )
        };
        self.position_table.locate(params)
    }
}

/// What a kernel is told of one sequence.
fn entry(shard: &Shard, sequence: &CheckedSequence) -> SequenceEntry {
    let CheckedSequence { rows, region, schedule, documents, ids, mask, pages, .. } = *sequence;
    let SequenceRows { entry, q_start, q_len, kv_start, kv_len, .. } = rows;
    let FirstPositions { query, key } = rows.first_positions();
    let entry = entry - shard.entries.start;
    let (k_base, v_base, segments) = match region {
        Some(Region { key_base, value_base, segments, .. }) => (key_base, value_base, segments as u32),
        None if pages != NO_TABLE => (shard.k.at(0, 0), shard.v.at(0, 0), 0),
        None => (shard.k.at(entry, kv_start), shard.v.at(entry, kv_start), 0),
    };
    SequenceEntry {
        q_base: shard.q.at(entry, q_start),
        k_base,
        v_base,
        o_base: shard.o.at(entry, q_start),
        lse_base: shard.lse.at(entry, q_start),
        q_len: q_len as u32,
        kv_len: kv_len as u32,
        first_block: schedule.grid.first_query_block() as i32,
        query_blocks: schedule.grid.query_blocks() as u32,
        list_base: schedule.lists,
        order_base: schedule.order,
        document_base: documents,
        id_base: ids,
        mask_base: mask.base,
        mask_head_stride: mask.head_stride,
        mask_row_stride: mask.row_stride,
        mask_bits: mask.bits,
        q_position: query as i32,
        k_position: key as i32,
        slope_head: rows.slope_head as u32,
        segments,
        page_base: pages,
        kv_start: kv_start as u32,
        ..SequenceEntry::default()
    }
}

/// Pairs of query and key that a head's tile at this place of the line looks at, at most.
pub(super) fn visited_pairs(
    context: &Context,
    attention: &Attention,
    sequence: &SequenceRows,
    grid: &BlockGrid,
    lists: Option<&[u32]>,
    (place, tiles, tiles_per_block): (usize, usize, usize),
) -> u64 {
    let block = grid.block_size();
    let rows = TILE_ROWS.min(block);
    if let Some(lists) = lists {
        let blocks = lists.get(place / tiles_per_block).copied().unwrap_or(0);
        return u64::from(blocks) * (block * rows) as u64;
    }
    let tile = tile_at(context, place, tiles);
    if tile / tiles_per_block >= grid.query_blocks() {
        return 0;
    }
    let first = (grid.first_query_block() + (tile / tiles_per_block) as i64) * block as i64
        + (tile % tiles_per_block * TILE_ROWS) as i64;
    let kv_len = sequence.kv_len;
    let visible = |position| attention.visible(position, kv_len);
    let keys = visible(first + rows as i64 - 1).end.saturating_sub(visible(first).start);
    (keys * rows) as u64
}

/// The tile at a place of the line, where no schedule says another order.
pub(super) fn tile_at(context: &Context, place: usize, tiles: usize) -> usize {
    match (row_order(context), place % 2) {
        (RowOrder::Paired, 1) => place / 2,
        (RowOrder::Paired, _) => tiles - 1 - place / 2,
        _ => tiles - 1 - place,
    }
}

/// What shapes the scores of an attention, in `unit`s of natural logarithms.
pub(super) fn score_params(context: &Context, attention: &Attention, head_dim: usize, unit: f32) -> Params {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let (soft_cap, soft_cap_inverse) =
        attention.soft_cap().map_or((0.0, 0.0), |cap| (cap * unit, 1.0 / (cap * unit)));
    Params {
        flags: flag(attention.is_causal(), FLAG_CAUSAL)
            | flag(attention.window().is_some(), FLAG_WINDOW)
            | flag(attention.soft_cap().is_some(), FLAG_SOFT_CAP)
            | flag(attention.lse(), FLAG_LSE)
            | flag(attention.sinks().is_some(), FLAG_SINKS)
            | flag(row_order(context) == RowOrder::Paired, FLAG_PAIRED),
        // A window past every key is no window; the clamp keeps position ± window within 32 bits.
        window: attention.window().map_or(0, |w| w.min(1 << 30) as u32),
        scale: attention.scale(head_dim) * unit,
        soft_cap,
        soft_cap_inverse,
        beta: attention.correction() * unit,
        score_unit: unit,
        ..Params::default()
    }
}
