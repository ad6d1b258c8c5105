//! One call on bound tensors: lengths, tables, timestamps.

use super::tables::TableBuffer;
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
    /// Where its keys are, if in a cache.
    pub(super) region: Option<Region>,
}

impl Sequence {
    /// The first `q_len` query rows and the first `kv_len` key rows of batch entry `batch`.
    pub const fn new(batch: usize, q_len: usize, kv_len: usize) -> Self {
        Self { batch, q_start: 0, q_len, kv_start: 0, kv_len, positions: None, slope_head: 0, region: None }
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

    /// With these schedules and document masks.
    pub fn with_tables(self, tables: &'a TableBuffer) -> Self {
        Self { tables: Some(tables), ..self }
    }

    /// Writes GPU timestamps before and after into the caller's query set. Needs a device with
    /// [`Features::TIMESTAMP_QUERY`](wgpu::Features::TIMESTAMP_QUERY).
    pub fn with_timestamps(self, timestamps: wgpu::ComputePassTimestampWrites<'a>) -> Self {
        Self { timestamps: Some(timestamps), ..self }
    }

    /// What the first and the last of several passes write of the timestamps.
    pub(super) fn timestamps_of(
        &self,
        first: bool,
        last: bool,
    ) -> Option<wgpu::ComputePassTimestampWrites<'a>> {
        let timestamps = self.timestamps.clone().filter(|_| first || last)?;
        let begin = timestamps.beginning_of_pass_write_index.filter(|_| first);
        let end = timestamps.end_of_pass_write_index.filter(|_| last);
        (begin.is_some() || end.is_some()).then_some(wgpu::ComputePassTimestampWrites {
            query_set: timestamps.query_set,
            beginning_of_pass_write_index: begin,
            end_of_pass_write_index: end,
        })
    }

    /// Refuses sequences that write the same output rows.
    pub(super) fn check_apart(&self) -> Result<()> {
        let Lengths::Each(sequences) = self.lengths else { return Ok(()) };
        let mut order: Vec<usize> = (0..sequences.len()).filter(|&i| sequences[i].q_len > 0).collect();
        order.sort_unstable_by_key(|&i| (sequences[i].batch, sequences[i].q_start));
        for pair in order.windows(2) {
            let [(i, one), (j, two)] = [pair[0], pair[1]].map(|i| (i, sequences[i]));
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
        }
    }

    /// The sequence of this index, below [`count`](Call::count).
    pub(super) fn sequence(&self, index: usize) -> Sequence {
        match self.lengths {
            Lengths::Equal { q_len, kv_len } => Sequence::new(index, q_len, kv_len),
            Lengths::Each(sequences) => sequences[index],
        }
    }
}
