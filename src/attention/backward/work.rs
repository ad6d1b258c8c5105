//! The work of a backward pass: its passes over each shard, cut into dispatches.

use super::bound::{BackwardBound, Shard};
use super::prepared::{Prepared, SCORE_UNIT};
use crate::attention::call::{Call, FirstPositions, SequenceRows};
use crate::attention::check::{Against, CheckedSequence};
use crate::attention::kernels::backward::Pass;
use crate::attention::kernels::params::{FLAG_FIRST, FLAG_LSE, NO_TABLE, Params, SequenceEntry};
use crate::attention::kernels::shapes::TILE_ROWS;
use crate::attention::pieces::{WorkRun, cut};
use crate::attention::table_buffer::TableBuffer;
use crate::attention::work::{score_params, tile_at, visited_pairs};
use crate::error::{Error, Result, ensure};
use crate::runtime::dispatch;
use crate::runtime::slots::Slot;
use crate::sampling::DEFAULT_BLOCK_SIZE;

/// One dispatch of a call, its parameters on their way to the GPU.
pub(super) struct Dispatch<'p> {
    pub(super) shard: &'p Shard,
    pub(super) pass: Pass,
    pub(super) slot: Slot,
    pub(super) workgroups: (u32, u32),
}

/// A call that nothing is wrong with: to record it, only memory may lack.
pub(super) struct CheckedCall<'a> {
    pub(super) sequences: Vec<CheckedSequence>,
    pub(super) tables: Option<&'a TableBuffer>,
}

/// The work of one pass over a shard: a line of tiles, each of `items` heads.
struct Line {
    pass: Pass,
    items: usize,
    tiles: usize,
}

impl Prepared {
    /// Everything that a call is refused for.
    pub(super) fn check<'a>(&self, bound: &BackwardBound, call: &Call<'a>) -> Result<CheckedCall<'a>> {
        let count = call.count(bound.batch);
        ensure!(
            count <= self.sequences,
            "sequences",
            "expected at most {}, the plan's (PlanOptions::with_sequences), got {count}",
            self.sequences
        );
        ensure!(call.cache().is_none(), "cache", "expected none: keys in a cache have no gradient");
        ensure!(
            call.selection.is_none(),
            "selection",
            "expected none: give the blocks that it chose as a schedule (TableBuffer::for_backward)"
        );
        if let Some(tables) = call.tables {
            self.context.check_device("tables", tables.context().device_id())?;
            tables.check_count(count)?;
        }
        let rows = call.rows(bound.batch)?;
        call.check_apart(&rows)?;
        check_keys_apart(&rows.iter().map(|&(rows, _)| rows).collect::<Vec<_>>())?;
        let Self { attention, maxima, position_table, .. } = self;
        let against = Against { attention, maxima, position_table, pool: None };
        let sequence = |(index, (rows, region)): (usize, (SequenceRows, _))| {
            let checked = against.sequence(call, index, rows, region, |rows| bound.check(index, rows))?;
            let schedule = checked.schedule;
            ensure!(
                schedule.lists == NO_TABLE || schedule.columns != NO_TABLE,
                "tables",
                "the backward pass needs schedules by key blocks: use TableBuffer::for_backward"
            );
            Ok(checked)
        };
        let sequences = rows.into_iter().enumerate().map(sequence).collect::<Result<_>>()?;
        Ok(CheckedCall { sequences, tables: call.tables })
    }

    /// Writes the parameters of a shard's dispatches into slots, pass by pass.
    pub(super) fn prepare<'p>(
        &self,
        dispatches: &mut Vec<Dispatch<'p>>,
        shard: &'p Shard,
        call: &CheckedCall<'_>,
        bound: &BackwardBound,
    ) -> Result<()> {
        let here = call.sequences.iter().filter(|sequence| shard.entries.contains(&sequence.rows.entry));
        let here: Vec<CheckedSequence> = here.copied().collect();
        if let Some(last) = here.last() {
            self.prepare_tiles(dispatches, shard, (&here, last), call.tables, bound.has_d_lse)?;
        }
        if bound.of_heads {
            self.prepare_heads(dispatches, shard, &here)?;
        }
        Ok(())
    }

    /// The passes over tiles of a shard.
    fn prepare_tiles<'p>(
        &self,
        dispatches: &mut Vec<Dispatch<'p>>,
        shard: &'p Shard,
        (here, last): (&[CheckedSequence], &CheckedSequence),
        tables: Option<&TableBuffer>,
        has_d_lse: bool,
    ) -> Result<()> {
        let listed = last.schedule.lists != NO_TABLE;
        let grid = last.schedule.grid;
        let block_size = if listed { grid.block_size() } else { DEFAULT_BLOCK_SIZE };
        let tiles_per_block = block_size.div_ceil(TILE_ROWS);
        let most = |of: &dyn Fn(&CheckedSequence) -> usize| here.iter().map(of).max().unwrap_or(0);
        let (heads, kv_heads) =
            (shard.kv_heads.len() * self.maxima.heads_per_kv_head(), shard.kv_heads.len());
        let rows = most(&|sequence| sequence.rows.q_len.div_ceil(TILE_ROWS));
        let query_tiles = most(&|sequence| sequence.schedule.grid.query_blocks()) * tiles_per_block;
        let key_tiles = most(&|sequence| sequence.schedule.grid.key_blocks()) * tiles_per_block;
        let params = Params {
            first_head: (shard.kv_heads.start * self.maxima.heads_per_kv_head()) as u32,
            heads_per_kv: self.maxima.heads_per_kv_head() as u32,
            list_groups: grid.groups() as u32,
            heads_per_list: grid.heads_per_group() as u32,
            tiles_per_block: tiles_per_block as u32,
            block_size: block_size as u32,
            ..self.params(has_d_lse)
        };
        for line in [
            Line { pass: Pass::Queries, items: heads, tiles: rows },
            Line { pass: Pass::Delta, items: heads, tiles: rows },
            Line { pass: Pass::Rows, items: heads, tiles: query_tiles },
            Line { pass: Pass::Keys, items: kv_heads, tiles: key_tiles },
        ] {
            let params = Params { heads: line.items as u32, tiles: line.tiles as u32, ..params };
            self.prepare_line(dispatches, shard, &line, params, (here, tables))?;
        }
        Ok(())
    }

    /// The sums over the rows of each head: also where there are none, which are 0.
    fn prepare_heads<'p>(
        &self,
        dispatches: &mut Vec<Dispatch<'p>>,
        shard: &'p Shard,
        here: &[CheckedSequence],
    ) -> Result<()> {
        let per_kv = self.maxima.heads_per_kv_head();
        let heads = shard.kv_heads.len() * per_kv;
        // Shards of other entries come later, and add to what is there.
        let first = if shard.entries.start == 0 { FLAG_FIRST } else { 0 };
        let params = Params {
            flags: first,
            first_head: (shard.kv_heads.start * per_kv) as u32,
            heads: heads as u32,
            work_items: (here.len() * heads) as u32,
            ..Params::default()
        };
        let entries: Vec<SequenceEntry> =
            here.iter().map(|sequence| entry(shard, Pass::Heads, sequence)).collect();
        let slot =
            self.slots.take(&self.context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&entries))?;
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let workgroups = dispatch::fold(heads as u64, limit)?;
        dispatches.push(Dispatch { shard, pass: Pass::Heads, slot, workgroups });
        Ok(())
    }

    fn prepare_line<'p>(
        &self,
        dispatches: &mut Vec<Dispatch<'p>>,
        shard: &'p Shard,
        line: &Line,
        params: Params,
        (here, tables): (&[CheckedSequence], Option<&TableBuffer>),
    ) -> Result<()> {
        let work_items = (here.len() * line.items) as u64 * line.tiles as u64;
        if work_items == 0 {
            return Ok(());
        }
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        // Refused before anything is recorded; a piece of it is no longer.
        dispatch::fold(work_items, limit)?;
        let ends = self.cuts(line, params.tiles_per_block as usize, (here, tables), work_items);
        let entries: Vec<SequenceEntry> =
            here.iter().map(|sequence| entry(shard, line.pass, sequence)).collect();
        let mut first = 0;
        for end in ends {
            let piece = Params { first_item: first as u32, work_items: end as u32, ..params };
            let slot =
                self.slots.take(&self.context, bytemuck::bytes_of(&piece), bytemuck::cast_slice(&entries))?;
            let workgroups = dispatch::fold(end - first, limit)?;
            dispatches.push(Dispatch { shard, pass: line.pass, slot, workgroups });
            first = end;
        }
        Ok(())
    }

    /// Where a line of work items is cut, and its end: one piece unless the device is to be given
    /// less at once.
    fn cuts(
        &self,
        line: &Line,
        tiles_per_block: usize,
        (here, tables): (&[CheckedSequence], Option<&TableBuffer>),
        work_items: u64,
    ) -> Vec<u64> {
        let (dim, value_dim) = (self.maxima.head_dim() as u64, self.maxima.value_dim() as u64);
        let per_pair = match line.pass {
            // They are linear in the rows.
            Pass::Queries | Pass::Delta | Pass::Heads => return vec![work_items],
            Pass::Rows => 2 * (2 * dim + value_dim),
            Pass::Keys => 2 * (2 * dim + 2 * value_dim) * self.maxima.heads_per_kv_head() as u64,
        };
        let Some(flops) = self.context.max_dispatch_flops() else { return vec![work_items] };
        let mut costs = Vec::with_capacity(here.len() * line.tiles);
        for sequence in here {
            for place in 0..line.tiles {
                let at = (place, line.tiles, tiles_per_block);
                let pairs = match line.pass {
                    Pass::Keys => self.pairs_of_keys(sequence, tables, at),
                    _ => {
                        let lists = tables.and_then(|tables| tables.row_blocks(sequence.index));
                        let grid = &sequence.schedule.grid;
                        visited_pairs(&self.context, &self.attention, &sequence.rows, grid, lists, at)
                    }
                };
                costs.push(WorkRun { items: line.items as u64, cost: pairs });
            }
        }
        cut(&costs, flops / per_pair)
    }

    /// Pairs that a head's key tile at this place of the line looks at, at most.
    fn pairs_of_keys(
        &self,
        sequence: &CheckedSequence,
        tables: Option<&TableBuffer>,
        (place, tiles, tiles_per_block): (usize, usize, usize),
    ) -> u64 {
        let tile = tiles - 1 - tile_at(&self.context, place, tiles);
        let block = sequence.schedule.grid.block_size();
        let keys = TILE_ROWS.min(block);
        if let Some(columns) = tables.and_then(|tables| tables.column_blocks(sequence.index)) {
            let blocks = columns.get(tile / tiles_per_block).copied().unwrap_or(0);
            return u64::from(blocks) * (block * keys) as u64;
        }
        let SequenceRows { q_len, kv_len, .. } = sequence.rows;
        let first = tile / tiles_per_block * DEFAULT_BLOCK_SIZE + tile % tiles_per_block * TILE_ROWS;
        if first >= kv_len {
            return 0;
        }
        // Rows at positions from the first key on see it, and those within a window after the last.
        let offset = kv_len as i64 - q_len as i64;
        let before = if self.attention.is_causal() { first as i64 } else { i64::MIN };
        let reach = self.attention.window().and_then(|window| i64::try_from(window).ok());
        let before = reach.map_or(before, |reach| before.max((first as i64).saturating_sub(reach)));
        let after = reach.map_or(i64::MAX, |reach| ((first + keys) as i64).saturating_add(reach));
        let row = |position: i64| position.saturating_sub(offset).clamp(0, q_len as i64) as u64;
        (row(after) - row(before)) * keys as u64
    }

    /// What depends on neither call nor shard.
    fn params(&self, has_d_lse: bool) -> Params {
        let mut params = score_params(&self.context, &self.attention, self.maxima.head_dim(), SCORE_UNIT);
        // Here it says whether the log-sum-exp has a gradient.
        params.flags = (params.flags & !FLAG_LSE) | if has_d_lse { FLAG_LSE } else { 0 };
        self.position_table.locate(params)
    }
}

/// What a kernel is told of one sequence.
fn entry(shard: &Shard, pass: Pass, sequence: &CheckedSequence) -> SequenceEntry {
    let CheckedSequence { rows, schedule, documents, ids, mask, .. } = *sequence;
    let SequenceRows { entry, q_start, q_len, kv_start, kv_len, .. } = rows;
    let FirstPositions { query, key } = rows.first_positions();
    let (list_base, order_base) = match pass {
        Pass::Keys => (schedule.columns, NO_TABLE),
        _ => (schedule.lists, schedule.order),
    };
    SequenceEntry {
        q_len: q_len as u32,
        kv_len: kv_len as u32,
        first_block: schedule.grid.first_query_block() as i32,
        query_blocks: schedule.grid.query_blocks() as u32,
        list_base,
        order_base,
        document_base: documents,
        id_base: ids,
        mask_base: mask.base,
        mask_head_stride: mask.head_stride,
        mask_row_stride: mask.row_stride,
        mask_bits: mask.bits,
        page_base: NO_TABLE,
        q_position: query as i32,
        k_position: key as i32,
        slope_head: rows.slope_head as u32,
        entry: (entry - shard.entries.start) as u32,
        q_start: q_start as u32,
        kv_start: kv_start as u32,
        ..SequenceEntry::default()
    }
}

/// Refuses sequences that share keys: each would write their gradients.
fn check_keys_apart(rows: &[SequenceRows]) -> Result<()> {
    let mut order: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].kv_len > 0).collect();
    order.sort_unstable_by_key(|&i| (rows[i].entry, rows[i].kv_start));
    for pair in order.windows(2) {
        let [(i, one), (j, two)] = [pair[0], pair[1]].map(|i| (i, &rows[i]));
        if one.entry == two.entry && one.kv_start.saturating_add(one.kv_len) > two.kv_start {
            let message = format!("sequences {i} and {j} share keys, whose gradients each would write");
            return Err(Error::argument_error("sequences", message));
        }
    }
    Ok(())
}
