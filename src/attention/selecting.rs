//! The selection of a call, checked, and on its way to the GPU.

use std::sync::Arc;

use super::bound::{Bound, Shard};
use super::call::SequenceRows;
use super::gpu_summaries::GpuSummaries;
use super::prepared::Prepared;
use super::selection::{GpuSelector, Selection, most_kept, most_pinned, probes};
use super::table_buffer::ScheduleWords;
use crate::attention::kernels::content::BlockMasses;
use crate::attention::kernels::params::NO_TABLE;
use crate::cache::gpu::arena::ArenaShard;
use crate::cache::gpu::kv_cache::Region;
use crate::error::{Error, Result, ensure};
use crate::random::Seed;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::Slot;
use crate::runtime::sync::lock;
use crate::sampling::content::{Pool, mean_largest};
use crate::sampling::gpu::content::{DIGIT_BITS, REPORT_WORDS, SCORES_GROUP};
use crate::sampling::gpu::params::{
    ContentParams, ContentSequence, FLAG_AHEAD, FLAG_CAUSAL, FLAG_LARGEST, FLAG_SOFT_CAP, FLAG_WHOLE,
    FLAG_WINDOW,
};

/// A selection that nothing is wrong with.
pub(super) struct CheckedSelection<'a> {
    selector: &'a GpuSelector,
    /// What is read in place of keys; of a cache, what its shards are.
    summaries: Option<&'a wgpu::BindGroup>,
    params: ContentParams,
    /// Of each sequence of the call: its rows, what kernels are told of it, and its lists.
    sequences: Vec<(SequenceRows, ContentSequence)>,
    schedules: Vec<ScheduleWords>,
    list_bytes: u64,
    /// Keys of a list, at most.
    keys: usize,
}

/// The passes that choose for one call.
pub(super) struct Selecting<'a> {
    checked: &'a CheckedSelection<'a>,
    /// The estimates of each shard of the queries; the parameters of the last one are all others'.
    masses: Vec<Estimating<'a>>,
    shares: (u32, u32),
    select: (u32, u32),
    written: Option<wgpu::BindGroup>,
    tables: wgpu::BindGroup,
    guard: Arc<()>,
}

/// The estimates of one shard of the queries.
struct Estimating<'a> {
    pipeline: &'a Pipeline,
    slot: Slot,
    queries: wgpu::BindGroup,
    summaries: &'a wgpu::BindGroup,
    workgroups: (u32, u32),
}

impl<'a> CheckedSelection<'a> {
    /// Refuses everything that a selection can be refused for.
    pub(super) fn new(
        prepared: &Arc<Prepared>,
        bound: &Bound,
        selection: &Selection<'a>,
        rows: &[(SequenceRows, Option<Region>)],
    ) -> Result<Self> {
        let Selection { selector, summaries, seeds } = *selection;
        let GpuSelector { grid, participation, probe, .. } = selector;
        ensure!(Arc::ptr_eq(prepared, &selector.prepared), "selection", "was made by another plan");
        let source = Source::new(prepared, bound, summaries)?;
        let seeded = seeds.len() <= 1 || seeds.len() == rows.len();
        ensure!(
            seeded,
            "seeds",
            "expected none, one, or one for each of {} sequences, got {}",
            rows.len(),
            seeds.len()
        );
        let (group, block) = (source.group(), grid.block_size());
        let tiles = Tiles::new(block, group)?;

        let mut sequences = Vec::with_capacity(rows.len());
        let mut schedules = Vec::with_capacity(rows.len());
        let (mut query_blocks, mut key_blocks, mut longest, mut most_keys) = (0, 0, 0, 0);
        let (mut scores, mut lists) = (0, 0);
        for (rows, _) in rows {
            let &SequenceRows { q_len, kv_len, .. } = rows;
            ensure!(
                q_len <= grid.q_len() && kv_len <= grid.kv_len(),
                "selection",
                "expected (q_len, kv_len) up to {:?}, the grid's, got {:?}",
                (grid.q_len(), grid.kv_len()),
                (q_len, kv_len)
            );
            longest = longest.max(q_len);
        }
        let probes = probes(&grid.with_lengths(longest, grid.kv_len()), *probe);
        for (index, (rows, region)) in rows.iter().enumerate() {
            let &SequenceRows { q_len, kv_len, .. } = rows;
            let own = grid.with_lengths(q_len, kv_len);
            let first = rows.first_positions();
            let Known { keys: known, base, segments } = source.known(index, rows, region.as_ref())?;
            let (rows_here, blocks) = (own.query_blocks(), own.key_blocks());
            query_blocks = query_blocks.max(rows_here);
            key_blocks = key_blocks.max(blocks);
            let unknown = if known < kv_len { blocks - known / block } else { 0 };
            let pinned = most_pinned(participation, &own).saturating_add(unknown);
            let kept = most_kept(participation, &own, pinned);
            most_keys = most_keys.max(kept.saturating_mul(block));
            let last = known.saturating_sub(1) % group + 1;
            let (seed, round) = seed_of(seeds, index).prefix();
            let each = rows_here * blocks;
            let plane_words = if selector.missing.is_some() { 2 * grid.heads() * each } else { 0 };
            let mass_words = grid.heads() * each * probes;
            let share_words = grid.heads() * each;
            sequences.push((
                *rows,
                ContentSequence {
                    summary_base: base,
                    segments,
                    q_len: q_len as u32,
                    kv_len: kv_len as u32,
                    known: known as u32,
                    q_position: first.query as i32,
                    first_block: own.first_query_block() as i32,
                    query_blocks: rows_here as u32,
                    key_blocks: blocks as u32,
                    mass_base: scores as u32,
                    share_base: (scores + mass_words) as u32,
                    pool_base: (scores + mass_words + share_words) as u32,
                    plane_base: (scores + mass_words + share_words + grid.groups() * each) as u32,
                    report_base: (scores + mass_words + share_words + grid.groups() * each + plane_words)
                        as u32,
                    list_base: lists as u32,
                    last_spread: mean_largest(2 * last) as f32,
                    seed,
                    round,
                    ..ContentSequence::default()
                },
            ));
            schedules.push(ScheduleWords {
                grid: own,
                order: NO_TABLE,
                lists: lists as u32,
                columns: NO_TABLE,
            });
            let report_words =
                if selector.missing.is_some() { grid.heads() * rows_here * REPORT_WORDS } else { 0 };
            scores += mass_words + share_words + grid.groups() * each + plane_words + report_words;
            let list_rows = (grid.groups() * rows_here) as u64;
            lists += list_rows.saturating_mul(2 * kept as u64 + 1) + 1;
        }
        let limit = prepared.context.capabilities().max_binding_bytes;
        if 4 * lists > limit {
            let message = format!(
                "lists take {} bytes, past the {limit} that this device can bind at once: too many keys are without summaries",
                4 * lists
            );
            return Err(Error::too_large("summaries", message));
        }
        let params = ContentParams {
            sequences: rows.len() as u32,
            query_blocks: query_blocks as u32,
            probes: probes as u32,
            row_chunks: (probes * grid.heads() / grid.kv_heads()).div_ceil(BlockMasses::ROWS) as u32,
            tiles: key_blocks.div_ceil(tiles.blocks) as u32,
            group: group as u32,
            summary_stride: source.head_stride(),
            spread: mean_largest(2 * group) as f32,
            tie_digits: tie_digits(query_blocks, key_blocks),
            ..tiles.into_params(selector.params())
        };
        Ok(Self {
            selector,
            summaries: summaries.map(|summaries| &summaries.read),
            params,
            sequences,
            schedules,
            list_bytes: 4 * lists,
            keys: most_keys,
        })
    }

    /// The lists of a sequence.
    pub(super) fn schedule(&self, index: usize) -> ScheduleWords {
        self.schedules[index]
    }

    /// Keys of a list, at most.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// Takes what the passes need; after that nothing can fail.
    pub(super) fn prepare(&'a self, shards: &[Shard], arenas: &'a [ArenaShard]) -> Result<Selecting<'a>> {
        let Self { selector, params, sequences, .. } = self;
        let context = selector.context();
        let limit = context.capabilities().max_workgroups_per_dimension;
        let per_kv = params.heads_per_kv as usize;
        let mut masses = Vec::with_capacity(shards.len());
        for (index, shard) in shards.iter().enumerate() {
            // Of a cache, the binding begins with the first of the heads.
            let skipped = match self.summaries {
                Some(_) => shard.kv_heads.start as u32 * params.summary_stride,
                None => 0,
            };
            let Some(read) = self.summaries.or_else(|| arenas.get(index).map(|arena| &arena.read)) else {
                continue;
            };
            let entry = |(rows, sequence): &(SequenceRows, ContentSequence)| {
                let here = shard.entries.contains(&rows.entry);
                let q_base = match here {
                    true => shard.q.at(rows.entry - shard.entries.start, rows.q_start),
                    false => 0,
                };
                let summary_base = sequence.summary_base + skipped;
                ContentSequence { here: here.into(), q_base, summary_base, ..*sequence }
            };
            let entries: Vec<ContentSequence> = sequences.iter().map(entry).collect();
            let params = ContentParams {
                first_head: (shard.kv_heads.start * per_kv) as u32,
                heads_here: (shard.kv_heads.len() * per_kv) as u32,
                q_head_stride: shard.q.head_stride,
                q_row_stride: shard.q.row_stride,
                ..*params
            };
            let items = [params.tiles, params.row_chunks, params.query_blocks, params.sequences]
                .into_iter()
                .fold(shard.kv_heads.len() as u64, |items, count| items.saturating_mul(count.into()));
            let workgroups = dispatch::fold(items, limit)?;
            let slot =
                selector.slots.take(context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&entries))?;
            let queries = shard.queries(context, &selector.masses)?;
            for (plane, pipeline) in (0..).zip(selector.missing.iter().flat_map(|missing| &missing[..2])) {
                // Of one row, and of all that it sees.
                let row_chunks = per_kv.div_ceil(BlockMasses::ROWS) as u32;
                let params =
                    ContentParams { probes: 1, row_chunks, flags: params.flags & !FLAG_WHOLE, ..params };
                let of_plane = |sequence: &ContentSequence| {
                    let words = selector.grid.heads() as u32 * sequence.query_blocks * sequence.key_blocks;
                    ContentSequence { mass_base: sequence.plane_base + plane * words, ..*sequence }
                };
                let entries: Vec<ContentSequence> = entries.iter().map(of_plane).collect();
                let items = u64::from(params.tiles * params.query_blocks) * u64::from(row_chunks);
                let items = items * shard.kv_heads.len() as u64 * u64::from(params.sequences);
                let workgroups = dispatch::fold(items, limit)?;
                let (params, entries) = (bytemuck::bytes_of(&params), bytemuck::cast_slice(&entries));
                let slot = selector.slots.take(context, params, entries)?;
                let queries = queries.clone();
                masses.push(Estimating { pipeline, slot, queries, summaries: read, workgroups });
            }
            masses.push(Estimating {
                pipeline: &selector.masses,
                slot,
                queries,
                summaries: read,
                workgroups,
            });
        }
        let rows = |lists: u32| {
            let items = u64::from(params.sequences) * u64::from(params.query_blocks) * u64::from(lists);
            dispatch::fold(items, limit)
        };
        let (shares, select) = (rows(params.heads)?, rows(params.list_groups)?);
        let mut lists = lock(&selector.lists);
        let taken = lists.tables.take(self.list_bytes.max(16))?;
        let written = taken.written.clone();
        lists.tables.describe(self.schedules.clone());
        lists.last =
            self.schedules.iter().copied().zip(sequences.iter().map(|(_, sequence)| *sequence)).collect();
        lists.probes = params.probes as usize;
        lists.group = params.group as usize;
        lists.chosen = true;
        let (tables, guard) = lists.tables.current();
        let tables = tables.clone();
        Ok(Selecting { checked: self, masses, shares, select, written, tables, guard })
    }
}

impl Selecting<'_> {
    /// The tables of the lists, and a guard to keep until the call is done.
    pub(super) fn tables(&self) -> (wgpu::BindGroup, Arc<()>) {
        (self.tables.clone(), self.guard.clone())
    }

    /// Records the passes.
    pub(super) fn record(mut self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_scores(pass);
        let selector = self.checked.selector;
        let choosing = [(&selector.shares, self.shares), (&selector.select, self.select)];
        let reporting = selector.missing.as_ref().map(|[_, _, missing]| (missing, self.shares));
        for (pipeline, (x, y)) in choosing.into_iter().chain(reporting) {
            if x > 0 {
                pass.set_pipeline(&pipeline.pipeline);
                pass.dispatch_workgroups(x, y, 1);
            }
        }
    }

    /// Records those that estimate masses, and nothing after them.
    pub(super) fn record_scores_alone(mut self, pass: &mut wgpu::ComputePass<'_>) {
        lock(&self.checked.selector.lists).chosen = false;
        self.record_scores(pass);
    }

    fn record_scores(&mut self, pass: &mut wgpu::ComputePass<'_>) {
        let masses = std::mem::take(&mut self.masses);
        for Estimating { pipeline, slot, queries, summaries, workgroups: (x, y) } in masses {
            pass.set_pipeline(&pipeline.pipeline);
            slot.bind(pass, Some(self.guard.clone()));
            pass.set_bind_group(SCORES_GROUP as u32, &self.written, &[]);
            pass.set_bind_group(BlockMasses::QUERIES_GROUP as u32, &queries, &[]);
            pass.set_bind_group(BlockMasses::SUMMARIES_GROUP as u32, summaries, &[]);
            if x > 0 {
                pass.dispatch_workgroups(x, y, 1);
            }
        }
    }
}

impl GpuSelector {
    /// What doesn't depend on the call.
    fn params(&self) -> ContentParams {
        let Self { prepared, grid, participation, probe, .. } = self;
        let attention = &prepared.attention;
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let soft_cap = attention.soft_cap();
        let [rope_low, rope_high] = prepared.position_table.rope_levels();
        let (tau, alpha) = participation.exponents();
        // Farther than any two blocks.
        let blocks = |blocks: usize| blocks.min(1 << 26) as u32;
        ContentParams {
            heads: grid.heads() as u32,
            heads_per_kv: (grid.heads() / grid.kv_heads()) as u32,
            heads_per_list: grid.heads_per_group() as u32,
            list_groups: grid.groups() as u32,
            probe_rows: probe.count().min(grid.block_size()) as u32,
            block_size: grid.block_size() as u32,
            flags: flag(attention.is_causal(), FLAG_CAUSAL)
                | flag(attention.window().is_some(), FLAG_WINDOW)
                | flag(soft_cap.is_some(), FLAG_SOFT_CAP)
                | flag(!probe.is_causal(), FLAG_AHEAD)
                | flag(probe.is_causal() && attention.is_causal(), FLAG_WHOLE)
                | flag(participation.pool() == Pool::Largest, FLAG_LARGEST),
            // As in attention: a window past every key is none.
            window: attention.window().map_or(0, |window| window.min(1 << 30) as u32),
            scale: attention.scale(prepared.maxima.head_dim()),
            soft_cap: soft_cap.unwrap_or(0.0),
            soft_cap_inverse: soft_cap.map_or(0.0, |cap| 1.0 / cap),
            rope_low,
            rope_high,
            budget: blocks(participation.blocks()),
            sink_blocks: blocks(participation.sink_blocks()),
            window_blocks: blocks(participation.window_blocks()),
            tau: tau as u32,
            alpha: alpha as u32,
            ..ContentParams::default()
        }
    }
}

/// How groups and blocks fill a tile.
struct Tiles {
    groups: usize,
    blocks: usize,
    groups_per_block: usize,
    blocks_per_group: usize,
}

impl Tiles {
    fn new(block: usize, group: usize) -> Result<Self> {
        let most = BlockMasses::GROUPS;
        let (groups_per_block, blocks_per_group) = (block.div_ceil(group), group.div_ceil(block));
        ensure!(
            block.is_multiple_of(group) || group.is_multiple_of(block),
            "summaries",
            "expected groups that are a multiple or a part of the {block} tokens of a block, got {group}"
        );
        ensure!(
            groups_per_block <= most,
            "summaries",
            "expected groups of which at most {most} make the {block} tokens of a block, got {group}"
        );
        let blocks = most / groups_per_block * blocks_per_group;
        Ok(Self {
            groups: most / groups_per_block * groups_per_block,
            blocks,
            groups_per_block,
            blocks_per_group,
        })
    }

    fn into_params(self, params: ContentParams) -> ContentParams {
        ContentParams {
            tile_groups: self.groups as u32,
            tile_blocks: self.blocks as u32,
            groups_per_block: self.groups_per_block as u32,
            blocks_per_group: self.blocks_per_group as u32,
            ..params
        }
    }
}

/// Where summaries come from.
enum Source<'a> {
    Tensors(&'a GpuSummaries),
    /// A cache: tokens of a group, and of a segment.
    Cache(usize, usize),
}

/// What there is of one sequence.
struct Known {
    /// Of how many keys, the first ones, summaries tell, and of none after them.
    keys: usize,
    /// Where they begin: the first word, or that of the region.
    base: u32,
    segments: u32,
}

impl<'a> Source<'a> {
    /// Refuses summaries of other keys than the call's.
    fn new(prepared: &Prepared, bound: &Bound, summaries: Option<&'a GpuSummaries>) -> Result<Self> {
        let summaries = match (summaries, &prepared.cache) {
            (Some(summaries), None) => summaries,
            (None, Some(cache)) => {
                let (segment, _) = cache.segment_and_residual();
                return Ok(Source::Cache(cache.summaries().unwrap_or(segment), segment));
            }
            (None, None) => {
                let message = "expected those of the keys: use GpuSelector::over";
                return Err(Error::argument_error("summaries", message.to_owned()));
            }
            (Some(_), Some(_)) => {
                let message = "expected none beside those of the cache: use GpuSelector::cached";
                return Err(Error::argument_error("summaries", message.to_owned()));
            }
        };
        prepared.context.check_device("summaries", summaries.context().device_id())?;
        let want = (prepared.maxima.kv_heads(), prepared.maxima.head_dim());
        let got = (summaries.kv_heads(), summaries.head_dim());
        ensure!(want == got, "summaries", "expected (kv_heads, head_dim) = {want:?}, got {got:?}");
        let same = summaries.attention().scores_alike(&prepared.attention);
        ensure!(same, "summaries", "were made for attention with other scores");
        let same = bound.reads_keys_of(summaries.keys());
        ensure!(same, "summaries", "were made of another tensor than the keys that are bound");
        Ok(Source::Tensors(summaries))
    }

    fn group(&self) -> usize {
        match self {
            Source::Tensors(summaries) => summaries.group(),
            Source::Cache(group, _) => *group,
        }
    }

    fn head_stride(&self) -> u32 {
        match self {
            Source::Tensors(summaries) => summaries.head_stride(),
            // The cache's layout says.
            Source::Cache(..) => 0,
        }
    }

    fn known(&self, index: usize, rows: &SequenceRows, region: Option<&Region>) -> Result<Known> {
        let summaries = match self {
            Source::Tensors(summaries) => summaries,
            Source::Cache(_, segment) => {
                let (base, segments) = region.map_or((0, 0), |region| (region.key_base, region.segments));
                return Ok(Known {
                    keys: (segments * segment).min(rows.kv_len),
                    base,
                    segments: segments as u32,
                });
            }
        };
        let &SequenceRows { entry, kv_start, kv_len, .. } = rows;
        let Some(held) = summaries.held(index) else {
            return Ok(Known { keys: 0, base: 0, segments: 0 });
        };
        let (known, position) = (held.keys.len(), rows.first_positions().key);
        let same = (held.entry, held.keys.start, held.position) == (entry, kv_start, position);
        ensure!(
            same || known == 0 || kv_len == 0,
            "summaries",
            "sequence {index}: expected those of keys from row {kv_start} of batch entry {entry} on, the first at position {position}, got {held:?}"
        );
        // What was summarized beyond the last key spoils its group.
        let keys = if known <= kv_len { known } else { kv_len / self.group() * self.group() };
        Ok(Known { keys, base: summaries.base(index), segments: 0 })
    }
}

fn seed_of(seeds: &[Seed], index: usize) -> Seed {
    let seed = if seeds.len() == 1 { seeds.first() } else { seeds.get(index) };
    seed.copied().unwrap_or_default()
}

/// Digits that tell twice any distance between blocks, and one more, apart.
fn tie_digits(query_blocks: usize, key_blocks: usize) -> u32 {
    let most = 2 * (query_blocks + key_blocks) as u32 + 2;
    (most.ilog2() + 1).div_ceil(DIGIT_BITS)
}
