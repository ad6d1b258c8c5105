//! Calls checked against their plan and their tensors.

use std::sync::Arc;

use super::bound::{Bound, Shard};
use super::call::{Call, FirstPositions, SequenceRows};
use super::inputs::attention::Attention;
use super::inputs::pages::{Pool, check_given};
use super::position_table::PositionTable;
use super::prepared::Prepared;
use super::selecting::CheckedSelection;
use super::table_buffer::{MaskWords, ScheduleWords, TableBuffer};
use crate::attention::kernels::params::NO_TABLE;
use crate::cache::gpu::arena::ArenaShard;
use crate::cache::gpu::kv_cache::{Reading, Region};
use crate::cache::{KvCache, SequenceId};
use crate::error::{Error, Result, ensure};
use crate::shape::Shape;

/// A call that nothing is wrong with: to record it, only memory may lack.
pub(super) struct CheckedCall<'a> {
    /// The tensors, in the shards in which they are bound.
    pub(super) shards: Arc<Vec<Shard>>,
    /// What each shard reads of the cache, if there is one.
    pub(super) arenas: &'a [ArenaShard],
    pub(super) sequences: Vec<CheckedSequence>,
    /// Where keys and values lie, if in pages.
    pub(super) pool: Option<Pool>,
    /// Of the longest sequence; 0 where there is nothing to do.
    pub(super) query_blocks: usize,
    pub(super) tables: Option<&'a TableBuffer>,
    pub(super) selection: Option<CheckedSelection<'a>>,
    pub(super) timestamps: Option<wgpu::ComputePassTimestampWrites<'a>>,
    cache: Option<(&'a KvCache, Vec<SequenceId>)>,
}

/// One sequence, with where everything of it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckedSequence {
    /// The sequence's place in the call.
    pub(super) index: usize,
    pub(super) rows: SequenceRows,
    /// Where its keys lie, if they are in a cache.
    pub(super) region: Option<Region>,
    /// The block grid of its schedule, or the dense one.
    pub(super) schedule: ScheduleWords,
    /// Words of its document mask and of its position ids, or [`NO_TABLE`].
    pub(super) documents: u32,
    pub(super) ids: u32,
    pub(super) mask: MaskWords,
    /// Words of its table of pages, or [`NO_TABLE`].
    pub(super) pages: u32,
}

impl<'a> CheckedCall<'a> {
    /// Refuses everything that a call can be refused for.
    pub(super) fn new(prepared: &Arc<Prepared>, bound: &Bound, call: &Call<'a>) -> Result<Self> {
        ensure!(Arc::ptr_eq(prepared, &bound.prepared), "bound", "was made by another plan");
        let count = call.count(bound.batch);
        ensure!(
            count <= prepared.sequences,
            "sequences",
            "expected at most {}, the plan's (PlanOptions::with_sequences), got {count}",
            prepared.sequences
        );
        let cache = call.cache();
        prepared.check_cache(cache)?;
        if let Some(tables) = call.tables {
            prepared.context.check_device("tables", tables.context().device_id())?;
            tables.check_count(count)?;
        }
        let rows = call.rows(bound.batch)?;
        call.check_apart(&rows)?;
        let selection = match &call.selection {
            None => None,
            Some(selection) => {
                let none = call.tables.is_none();
                ensure!(none, "tables", "expected none beside a selection, which makes the lists");
                Some(CheckedSelection::new(prepared, bound, selection, &rows)?)
            }
        };
        let sequences = rows.into_iter().enumerate();
        let sequences = sequences
            .map(|(index, (rows, region))| {
                let checked = prepared
                    .against(bound.pool)
                    .sequence(call, index, rows, region, |rows| bound.check(index, rows))?;
                let selected = selection.as_ref().map(|selection| selection.schedule(index));
                Ok(CheckedSequence { schedule: selected.unwrap_or(checked.schedule), ..checked })
            })
            .collect::<Result<Vec<_>>>()?;
        let blocks = sequences.iter().map(|sequence| sequence.schedule.grid.query_blocks());
        let query_blocks = blocks.max().unwrap_or(0);
        Ok(Self {
            shards: bound.shards(cache.map(KvCache::shards))?,
            arenas: cache.map(KvCache::shards).unwrap_or_default(),
            sequences,
            pool: bound.pool,
            query_blocks,
            tables: call.tables,
            selection,
            timestamps: call.timestamps.clone(),
            cache: cache.map(|cache| (cache, call.cached_sequences().collect())),
        })
    }

    /// Enters into the cache, if there is one, that it is read as it is now.
    pub(super) fn reading(&self) -> Option<Reading> {
        self.cache.as_ref().map(|(cache, sequences)| cache.reading(sequences.iter().copied()))
    }
}

impl Prepared {
    /// Refuses a cache that the plan can't read, or none where it needs one.
    fn check_cache(&self, cache: Option<&KvCache>) -> Result<()> {
        match (&self.cache, cache) {
            (None, None) => Ok(()),
            (None, Some(_)) => {
                let message = "the plan reads tensors: make one with Attention::plan_cached";
                Err(Error::argument_error("cache", message.to_owned()))
            }
            (Some(_), None) => {
                let message = "the plan reads a cache: use Call::cached";
                Err(Error::argument_error("call", message.to_owned()))
            }
            (Some(kind), Some(cache)) => {
                cache.check_order()?;
                self.context.check_device("cache", cache.context().device_id())?;
                ensure!(
                    kind.is_of(cache),
                    "cache",
                    "expected one of the staircase, the sizes and the rotation that the plan was made for"
                );
                Ok(())
            }
        }
    }

    /// What its calls' sequences are checked against.
    fn against(&self, pool: Option<Pool>) -> Against<'_> {
        let Self { attention, maxima, position_table, .. } = self;
        Against { attention, maxima, position_table, pool }
    }
}

/// What the sequences of a call are checked against.
pub(super) struct Against<'a> {
    pub(super) attention: &'a Attention,
    pub(super) maxima: &'a Shape,
    pub(super) position_table: &'a PositionTable,
    /// Where keys and values lie, if in pages.
    pub(super) pool: Option<Pool>,
}

impl Against<'_> {
    /// Refuses a sequence that is past the maxima or the tensors, or whose tables aren't for its
    /// lengths.
    pub(super) fn sequence(
        &self,
        call: &Call<'_>,
        index: usize,
        rows: SequenceRows,
        region: Option<Region>,
        inside: impl FnOnce(&SequenceRows) -> Result<()>,
    ) -> Result<CheckedSequence> {
        let maxima = self.maxima;
        let SequenceRows { q_len, kv_len, .. } = rows;
        let (most_q, most_kv) = (maxima.q_len(), maxima.kv_len());
        ensure!(q_len <= most_q, "q_len", "expected at most the plan's {most_q}, got {q_len}");
        ensure!(kv_len <= most_kv, "kv_len", "expected at most the plan's {most_kv}, got {kv_len}");
        // Unless given, positions count up from the default, within the maxima.
        if self.attention.positions().is_some() && rows.positions.is_some() {
            let FirstPositions { query, key } = rows.first_positions();
            for (first, len) in [(query, q_len), (key, kv_len)].into_iter().filter(|&(_, len)| len > 0) {
                self.position_table.check("sequences", first)?;
                self.position_table.check("sequences", first.saturating_add(len as i64 - 1))?;
            }
        }
        inside(&rows)?;
        let schedule = self.schedule(call.tables.and_then(|tables| tables.schedule(index)), q_len, kv_len)?;
        let documents = call.tables.map_or(Ok(NO_TABLE), |tables| tables.documents(index, q_len))?;
        let ids = match call.tables.map(|tables| tables.position_ids(index, (q_len, kv_len))) {
            None => None,
            Some(ids) => ids?,
        };
        let ids = match (ids, self.attention.positions()) {
            (Some((base, last)), Some(_)) => {
                self.position_table.check("position_ids", last.into())?;
                base
            }
            // Without positions nothing reads them.
            _ => NO_TABLE,
        };
        let sizes = [maxima.heads(), q_len, kv_len];
        let mask =
            call.tables.map_or(Ok(MaskWords::NONE), |tables| tables.mask(self.attention, index, sizes))?;
        let end = rows.kv_start.saturating_add(kv_len);
        let pages = match call.tables {
            Some(tables) => tables.pages(index, self.pool, end)?,
            None => check_given(false, self.pool.is_some()).map(|()| NO_TABLE)?,
        };
        Ok(CheckedSequence { index, rows, region, schedule, documents, ids, mask, pages })
    }

    /// The block grid of one sequence and where its tables begin: those of its schedule, checked
    /// against its lengths, or the dense grid.
    fn schedule(&self, given: Option<ScheduleWords>, q_len: usize, kv_len: usize) -> Result<ScheduleWords> {
        let maxima = self.maxima.with_q_len(q_len)?.with_kv_len(kv_len)?;
        match given {
            Some(schedule) => {
                schedule.grid.check(self.attention.is_causal(), &maxima)?;
                Ok(schedule)
            }
            None => Ok(ScheduleWords::dense(&maxima)),
        }
    }
}
