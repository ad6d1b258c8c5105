//! One call on bound tensors: lengths, a cache, tables, timestamps.

use std::ops::Range;

use super::selection::Selection;
use super::table_buffer::TableBuffer;
use crate::cache::gpu::kv_cache::Region;
use crate::cache::{KvCache, SequenceId};
use crate::error::{Result, ensure};

/// One sequence of a [`Call`]: which rows of the bound tensors are its queries and its keys.
///
/// ```
/// use prflash::attention::Sequence;
/// // Two sequences packed behind each other into batch entry 0.
/// let packed = [
///     Sequence { queries: 0..3, keys: 0..3, ..Sequence::default() },
///     Sequence { queries: 3..8, keys: 3..8, ..Sequence::default() },
/// ];
/// # let _ = packed;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// The batch entry of all its tensors.
    pub entry: usize,
    /// Rows of the queries, and of the output and the log-sum-exp.
    pub queries: Range<usize>,
    /// Rows of the keys and values.
    pub keys: Range<usize>,
    /// Where positions count up from, if not from 0 for the keys and so that the last query is at
    /// the last key's.
    pub positions: Option<FirstPositions>,
}

/// Positions of the first query and of the first key of a sequence, from which the others count up,
/// for rotation and bias ([`Attention::with_positions`](crate::Attention::with_positions)).
/// Causality and windows go by the order in memory whatever the positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FirstPositions {
    /// The position of the first query.
    pub query: i64,
    /// The position of the first key; over a cache, of token 0.
    pub key: i64,
}

/// Queries of one sequence of a cache: which rows of the bound tensors they are. They are the last
/// tokens of the sequence: append a token before attending from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queries {
    /// The sequence of the cache.
    pub sequence: SequenceId,
    /// The batch entry of the queries.
    pub entry: usize,
    /// Rows of the queries, and of the output and the log-sum-exp.
    pub rows: Range<usize>,
    /// Where positions count up from, if not from 0 for the keys.
    pub positions: Option<FirstPositions>,
}

/// A sequence with its rows as a start and a length, as kernels are told of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SequenceRows {
    pub(super) entry: usize,
    pub(super) q_start: usize,
    pub(super) q_len: usize,
    pub(super) kv_start: usize,
    pub(super) kv_len: usize,
    /// Where they aren't those of the bottom-right corner and 0.
    pub(super) positions: Option<FirstPositions>,
    /// The first head's place among the slopes of a bias, where the heads of the tensors are
    /// others.
    pub(super) slope_head: usize,
}

impl SequenceRows {
    /// The first rows of a batch entry.
    pub(super) const fn first(entry: usize, q_len: usize, kv_len: usize) -> Self {
        Self { entry, q_start: 0, q_len, kv_start: 0, kv_len, positions: None, slope_head: 0 }
    }

    /// The lengths of sequence number `index` of a call, checked.
    fn of(index: usize, sequence: &Sequence) -> Result<Self> {
        let Sequence { entry, queries, keys, positions } = sequence;
        check_range(index, "queries", queries)?;
        check_range(index, "keys", keys)?;
        let (q_start, kv_start) = (queries.start, keys.start);
        let first = Self::first(*entry, queries.len(), keys.len());
        Ok(Self { q_start, kv_start, positions: *positions, ..first })
    }

    /// Of entry number `index` of a call's queries, and where the keys lie in the cache.
    fn in_cache(index: usize, queries: &Queries, cache: &KvCache) -> Result<(Self, Region)> {
        let Queries { sequence, entry, rows, positions } = queries;
        check_range(index, "queries", rows)?;
        let region = cache.region(*sequence)?;
        let (len, kv_len) = (rows.len(), region.len);
        ensure!(len <= kv_len, "queries", "sequence {index}: {len} queries of {kv_len} tokens");
        let first = Self::first(*entry, len, kv_len);
        Ok((Self { q_start: rows.start, positions: *positions, ..first }, region))
    }

    /// Positions of the first query and of the first key.
    pub(super) fn first_positions(&self) -> FirstPositions {
        let corner = FirstPositions { query: self.kv_len as i64 - self.q_len as i64, key: 0 };
        self.positions.unwrap_or(corner)
    }
}

fn check_range(index: usize, argument: &'static str, rows: &Range<usize>) -> Result<()> {
    let Range { start, end } = rows;
    ensure!(start <= end, argument, "sequence {index}: expected a start up to the end, got {start}..{end}");
    Ok(())
}

/// The lengths of one call, and what it reads beside the tensors.
///
/// ```
/// use prflash::attention::Sequence;
/// use prflash::Call;
/// let prefill = Call::lengths(1024, 1024);
/// let decode = Call::lengths(1, 1025);
/// // The second of three queries of batch entry 4, over the keys up to it.
/// let one = [Sequence { entry: 4, queries: 1..2, keys: 0..2, ..Sequence::default() }];
/// let one = Call::sequences(&one);
/// # let _ = (prefill, decode, one);
/// ```
///
/// Over a staircase cache, a call says which queries are whose: [`Call::cached`].
#[derive(Clone, Debug)]
pub struct Call<'a> {
    lengths: Lengths<'a>,
    pub(super) tables: Option<&'a TableBuffer>,
    pub(super) selection: Option<Selection<'a>>,
    pub(super) timestamps: Option<wgpu::ComputePassTimestampWrites<'a>>,
}

#[derive(Clone, Copy, Debug)]
enum Lengths<'a> {
    Equal { q_len: usize, kv_len: usize },
    Each(&'a [Sequence]),
    Rows(&'a [SequenceRows]),
    Cached { cache: &'a KvCache, queries: &'a [Queries] },
}

impl<'a> Call<'a> {
    /// Every batch entry has these lengths.
    pub const fn lengths(q_len: usize, kv_len: usize) -> Self {
        Self { lengths: Lengths::Equal { q_len, kv_len }, tables: None, selection: None, timestamps: None }
    }

    /// These sequences, at most as many as the plan was made for
    /// ([`PlanOptions::with_sequences`](crate::PlanOptions::with_sequences)). Their output rows
    /// must not overlap.
    pub const fn sequences(sequences: &'a [Sequence]) -> Self {
        Self { lengths: Lengths::Each(sequences), tables: None, selection: None, timestamps: None }
    }

    /// These rows, which the library has cut itself.
    pub(super) const fn rows_of(rows: &'a [SequenceRows]) -> Self {
        Self { lengths: Lengths::Rows(rows), tables: None, selection: None, timestamps: None }
    }

    /// These queries over their sequences in a cache, as it stands after what was recorded into it
    /// so far; at most as many as the plan was made for
    /// ([`PlanOptions::with_sequences`](crate::PlanOptions::with_sequences)). Their output rows
    /// must not overlap.
    pub const fn cached(cache: &'a KvCache, queries: &'a [Queries]) -> Self {
        Self { lengths: Lengths::Cached { cache, queries }, tables: None, selection: None, timestamps: None }
    }

    /// The same call with these schedules and document masks.
    pub fn with_tables(self, tables: &'a TableBuffer) -> Self {
        Self { tables: Some(tables), ..self }
    }

    /// The same call over the blocks that a [`GpuSelector`](crate::attention::GpuSelector) of the
    /// plan chooses for it, in place of tables.
    pub fn with_selection(self, selection: Selection<'a>) -> Self {
        Self { selection: Some(selection), ..self }
    }

    /// Writes GPU timestamps before and after into the caller's query set. Needs a device with
    /// [`Features::TIMESTAMP_QUERY`](wgpu::Features::TIMESTAMP_QUERY).
    pub fn with_timestamps(self, timestamps: wgpu::ComputePassTimestampWrites<'a>) -> Self {
        Self { timestamps: Some(timestamps), ..self }
    }

    /// Refuses sequences that write the same output rows.
    pub(super) fn check_apart(&self, rows: &[(SequenceRows, Option<Region>)]) -> Result<()> {
        if matches!(self.lengths, Lengths::Equal { .. }) {
            return Ok(());
        }
        let sequence = |i: usize| rows[i].0;
        let mut order: Vec<usize> = (0..rows.len()).filter(|&i| sequence(i).q_len > 0).collect();
        order.sort_unstable_by_key(|&i| (sequence(i).entry, sequence(i).q_start));
        for pair in order.windows(2) {
            let [(i, one), (j, two)] = [pair[0], pair[1]].map(|i| (i, sequence(i)));
            let apart = one.entry != two.entry || one.q_start.saturating_add(one.q_len) <= two.q_start;
            ensure!(apart, "sequences", "sequences {i} and {j} write the same output rows");
        }
        Ok(())
    }

    /// How many sequences the call has on tensors with `batch` entries.
    pub(super) fn count(&self, batch: usize) -> usize {
        match self.lengths {
            Lengths::Equal { .. } => batch,
            Lengths::Each(sequences) => sequences.len(),
            Lengths::Rows(rows) => rows.len(),
            Lengths::Cached { queries, .. } => queries.len(),
        }
    }

    /// The cache that it reads.
    pub(super) fn cache(&self) -> Option<&'a KvCache> {
        match self.lengths {
            Lengths::Cached { cache, .. } => Some(cache),
            _ => None,
        }
    }

    /// Which of the cache's sequences it reads.
    pub(super) fn cached_sequences(&self) -> impl Iterator<Item = SequenceId> + use<'a> {
        let queries = match self.lengths {
            Lengths::Cached { queries, .. } => queries,
            _ => &[],
        };
        queries.iter().map(|queries| queries.sequence)
    }

    /// The rows of every sequence on tensors with `batch` entries, and where its keys are, if in a
    /// cache.
    pub(super) fn rows(&self, batch: usize) -> Result<Vec<(SequenceRows, Option<Region>)>> {
        match self.lengths {
            Lengths::Equal { q_len, kv_len } => {
                Ok((0..batch).map(|entry| (SequenceRows::first(entry, q_len, kv_len), None)).collect())
            }
            Lengths::Rows(rows) => Ok(rows.iter().map(|&rows| (rows, None)).collect()),
            Lengths::Each(sequences) => {
                let sequences = sequences.iter().enumerate();
                sequences.map(|(index, sequence)| Ok((SequenceRows::of(index, sequence)?, None))).collect()
            }
            Lengths::Cached { cache, queries } => {
                let rows = |(index, queries)| {
                    let (rows, region) = SequenceRows::in_cache(index, queries, cache)?;
                    Ok((rows, Some(region)))
                };
                queries.iter().enumerate().map(rows).collect()
            }
        }
    }
}

/// What the first and the last of several passes write of the timestamps.
pub(super) fn timestamps_of<'a>(
    timestamps: &Option<wgpu::ComputePassTimestampWrites<'a>>,
    first: bool,
    last: bool,
) -> Option<wgpu::ComputePassTimestampWrites<'a>> {
    let timestamps = timestamps.clone().filter(|_| first || last)?;
    let begin = timestamps.beginning_of_pass_write_index.filter(|_| first);
    let end = timestamps.end_of_pass_write_index.filter(|_| last);
    (begin.is_some() || end.is_some()).then_some(wgpu::ComputePassTimestampWrites {
        query_set: timestamps.query_set,
        beginning_of_pass_write_index: begin,
        end_of_pass_write_index: end,
    })
}
