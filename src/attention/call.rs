//! One call on bound tensors: lengths, a cache, tables, timestamps.

use super::table_buffer::TableBuffer;
use crate::cache::KvCache;
use crate::cache::gpu::kv_cache::Region;
use crate::error::{Result, ensure};

/// One sequence of a [`Call`]: which rows of the bound tensors are its queries and its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub(super) batch: usize,
    pub(super) q_start: usize,
    pub(super) q_len: usize,
    pub(super) kv_start: usize,
    pub(super) kv_len: usize,
    /// Positions of the first query and the first key, where they aren't those of the bottom-right corner and 0.
    pub(super) positions: Option<(i64, i64)>,
    /// The first head's place among the slopes of a bias.
    pub(super) slope_head: usize,
}

impl Sequence {
    /// The first `q_len` query rows and the first `kv_len` key rows of batch entry `batch`.
    pub const fn new(batch: usize, q_len: usize, kv_len: usize) -> Self {
        Self { batch, q_start: 0, q_len, kv_start: 0, kv_len, positions: None, slope_head: 0 }
    }

    /// The same lengths from other rows: for sequences that are packed behind each other.
    pub const fn starting_at(self, q_start: usize, kv_start: usize) -> Self {
        Self { q_start, kv_start, ..self }
    }

    /// Positions of the first query and of the first key, from which the others count up, for rotation and bias
    /// ([`Attention::with_positions`](crate::Attention::with_positions)). Without it key 0 is at position 0 and query 0 at `kv_len − q_len`. Causality and windows go by the order
    /// in memory whatever the positions.
    pub const fn at_positions(self, query: i64, key: i64) -> Self {
        Self { positions: Some((query, key)), ..self }
    }

    /// The same where the heads of the tensors are others than those of the bias.
    pub(super) const fn with_slope_head(self, slope_head: usize) -> Self {
        Self { slope_head, ..self }
    }

    /// Positions of the first query and of the first key.
    pub(super) fn first_positions(&self) -> (i64, i64) {
        self.positions.unwrap_or((self.kv_len as i64 - self.q_len as i64, 0))
    }
}

/// Queries of one sequence of a cache: which rows of the bound tensors they are. They are the last
/// tokens of the sequence: append a token before attending from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queries {
    sequence: usize,
    batch: usize,
    start: usize,
    len: usize,
    positions: Option<(i64, i64)>,
}

impl Queries {
    /// The first `len` query rows of batch entry `batch`, for a sequence of the cache.
    pub const fn new(sequence: usize, batch: usize, len: usize) -> Self {
        Self { sequence, batch, start: 0, len, positions: None }
    }

    /// As many rows from row `start` on.
    pub const fn starting_at(self, start: usize) -> Self {
        Self { start, ..self }
    }

    /// Positions of the first query and of token 0, as in [`Sequence::at_positions`].
    pub const fn at_positions(self, query: i64, key: i64) -> Self {
        Self { positions: Some((query, key)), ..self }
    }

    /// Their rows, and where the keys lie in the cache.
    fn rows(&self, index: usize, cache: &KvCache) -> Result<(Sequence, Option<Region>)> {
        let &Self { sequence, batch, start, len, positions } = self;
        let region = cache.region(sequence)?;
        let kv_len = region.len;
        ensure!(len <= kv_len, "queries", "sequence {index}: {len} queries of {kv_len} tokens");
        let rows = Sequence { positions, ..Sequence::new(batch, len, kv_len).starting_at(start, 0) };
        Ok((rows, Some(region)))
    }
}

/// The lengths of one call, and what it reads beside the tensors.
///
/// ```
/// use prflash::{Call, Sequence};
/// let prefill = Call::lengths(1024, 1024);
/// let decode = Call::lengths(1, 1025);
/// // Two sequences packed into one batch entry.
/// let packed = [Sequence::new(0, 3, 3), Sequence::new(0, 5, 5).starting_at(3, 3)];
/// let packed = Call::sequences(&packed);
/// # let _ = (prefill, decode, packed);
/// ```
///
/// Over a staircase cache, a call says which queries are whose: [`Call::cached`].
#[derive(Clone, Debug)]
pub struct Call<'a> {
    lengths: Lengths<'a>,
    pub(super) tables: Option<&'a TableBuffer>,
    pub(super) timestamps: Option<wgpu::ComputePassTimestampWrites<'a>>,
}

#[derive(Clone, Copy, Debug)]
enum Lengths<'a> {
    Equal { q_len: usize, kv_len: usize },
    Each(&'a [Sequence]),
    Cached { cache: &'a KvCache, queries: &'a [Queries] },
}

impl<'a> Call<'a> {
    /// Every batch entry has these lengths.
    pub const fn lengths(q_len: usize, kv_len: usize) -> Self {
        Self { lengths: Lengths::Equal { q_len, kv_len }, tables: None, timestamps: None }
    }

    /// These sequences, at most as many as the plan's batch. Their output rows must not overlap.
    pub const fn sequences(sequences: &'a [Sequence]) -> Self {
        Self { lengths: Lengths::Each(sequences), tables: None, timestamps: None }
    }

    /// These queries over their sequences in a cache, as it stands after what was recorded into it
    /// so far; at most as many as the plan's batch. Their output rows must not overlap.
    pub const fn cached(cache: &'a KvCache, queries: &'a [Queries]) -> Self {
        Self { lengths: Lengths::Cached { cache, queries }, tables: None, timestamps: None }
    }

    /// With these schedules and document masks.
    pub fn with_tables(self, tables: &'a TableBuffer) -> Self {
        Self { tables: Some(tables), ..self }
    }

    /// Writes GPU timestamps before and after into the caller's query set. Needs a device with
    /// [`Features::TIMESTAMP_QUERY`](wgpu::Features::TIMESTAMP_QUERY).
    pub fn with_timestamps(self, timestamps: wgpu::ComputePassTimestampWrites<'a>) -> Self {
        Self { timestamps: Some(timestamps), ..self }
    }

    /// Refuses sequences that write the same output rows.
    pub(super) fn check_apart(&self, rows: &[(Sequence, Option<Region>)]) -> Result<()> {
        if matches!(self.lengths, Lengths::Equal { .. }) {
            return Ok(());
        }
        let sequence = |i: usize| rows[i].0;
        let mut order: Vec<usize> = (0..rows.len()).filter(|&i| sequence(i).q_len > 0).collect();
        order.sort_unstable_by_key(|&i| (sequence(i).batch, sequence(i).q_start));
        for pair in order.windows(2) {
            let [(i, one), (j, two)] = [pair[0], pair[1]].map(|i| (i, sequence(i)));
            let apart = one.batch != two.batch || one.q_start.saturating_add(one.q_len) <= two.q_start;
            ensure!(apart, "sequences", "sequences {i} and {j} write the same output rows");
        }
        Ok(())
    }

    /// How many sequences the call has on tensors with `batch` entries.
    pub(super) fn count(&self, batch: usize) -> usize {
        match self.lengths {
            Lengths::Equal { .. } => batch,
            Lengths::Each(sequences) => sequences.len(),
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
    pub(super) fn cached_sequences(&self) -> impl Iterator<Item = usize> + use<'a> {
        let queries = match self.lengths {
            Lengths::Cached { queries, .. } => queries,
            _ => &[],
        };
        queries.iter().map(|queries| queries.sequence)
    }

    /// The rows of every sequence on tensors with `batch` entries, and where its keys are, if in a cache.
    pub(super) fn rows(&self, batch: usize) -> Result<Vec<(Sequence, Option<Region>)>> {
        match self.lengths {
            Lengths::Equal { q_len, kv_len } => {
                Ok((0..batch).map(|index| (Sequence::new(index, q_len, kv_len), None)).collect())
            }
            Lengths::Each(sequences) => Ok(sequences.iter().map(|&sequence| (sequence, None)).collect()),
            Lengths::Cached { cache, queries } => {
                queries.iter().enumerate().map(|(index, queries)| queries.rows(index, cache)).collect()
            }
        }
    }
}
