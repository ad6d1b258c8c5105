//! What one call computes, and how its sequences are cut into tasks.

use std::ops::Range;

use super::output::Results;
use super::part::Part;
use super::positions::{PositionTables, Rotations};
use super::sizes::{FEW_QUERIES, FEW_ROWS, SPLIT};
use super::source::History;
use super::views::HostView;
use crate::attention::call::{FirstPositions, Queries, Sequence};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::tables::Tables;
use crate::sampling::Granularity;
use crate::shape::Shape;

/// Everything that the tasks of a call have in common.
pub(super) struct Work<'a> {
    pub(super) attention: &'a Attention,
    /// The plan's: lengths are those of each sequence.
    pub(super) shape: &'a Shape,
    pub(super) positions: Option<&'a PositionTables>,
    pub(super) q: HostView<'a>,
    pub(super) history: History<'a>,
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
    /// Of a cache.
    Cached(&'a [Queries]),
}

/// Some rows of a sequence, for neighbouring heads that share their keys.
#[derive(Clone, Debug)]
pub(super) struct Task<'a> {
    pub(super) part: Part<'a>,
    pub(super) heads: Range<usize>,
    /// Of the sequence, at most a tile; those of one query block, where there is a schedule.
    pub(super) rows: Range<usize>,
    /// The keys that it goes over: all, or a split of them.
    pub(super) keys: Range<usize>,
}

/// How the tasks of a sequence are numbered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Whether rows are so few that lanes are channels .
    pub(super) few: bool,
    /// Query heads of a task.
    pub(super) heads: usize,
    /// Chunks of heads.
    pub(super) chunks: usize,
    /// Tiles of rows, or splits of keys.
    pub(super) pieces: usize,
}

impl<'a> Work<'a> {
    /// The rotations of keys, where they are still to be turned.
    pub(super) fn key_rotations(&self) -> Option<&'a Rotations> {
        let rotations = self.positions.and_then(|positions| positions.rotations());
        rotations.filter(|_| self.history.turns_keys())
    }

    /// Whether keys come in rotated channels, and queries have to be turned likewise.
    pub(super) fn rotates_keys(&self) -> bool {
        self.history.rotates_values() && self.key_rotations().is_none()
    }

    pub(super) fn sequence_count(&self) -> usize {
        match self.sequences {
            Sequences::Whole => self.q.layout().dims()[0],
            Sequences::Each(sequences) => sequences.len(),
            Sequences::Cached(queries) => queries.len(),
        }
    }

    pub(super) fn part(&self, index: usize) -> Part<'a> {
        let (entry, queries, keys, first, sequence) = match (self.sequences, self.history) {
            (Sequences::Each(sequences), _) => {
                let Sequence { entry, queries, keys, positions } = &sequences[index];
                (*entry, queries.clone(), keys.clone(), *positions, None)
            }
            (Sequences::Cached(queries), History::Cache(cache)) => {
                let Queries { sequence, entry, rows, positions } = &queries[index];
                (*entry, rows.clone(), 0..cache.len(*sequence).unwrap_or(0), *positions, Some(*sequence))
            }
            (Sequences::Whole, History::Tensors { k, .. }) => {
                let rows = |view: HostView<'_>| 0..view.layout().dims()[2];
                (index, rows(self.q), rows(k), None, None)
            }
            // No call is made so.
            (Sequences::Whole | Sequences::Cached(_), _) => (0, 0..0, 0..0, None, None),
        };
        let corner = FirstPositions { query: keys.len() as i64 - queries.len() as i64, key: 0 };
        Part {
            entry,
            queries,
            keys,
            sequence,
            first: first.unwrap_or(corner),
            schedule: self.tables.schedule(index),
            documents: self.tables.documents(index),
            ids: self.tables.position_ids(index),
            mask: self.tables.mask(index),
            pages: self.tables.pages(index),
        }
    }

    /// How a sequence is cut into tasks.
    pub(super) fn cut(&self, part: &Part<'_>) -> Cut {
        let group = self.shape.heads_per_kv_head();
        let q_len = part.queries.len();
        let by_head =
            part.schedule.is_some_and(|schedule| schedule.grid().granularity() == Granularity::Head);
        // With a schedule all rows must walk one list.
        let few = q_len <= FEW_QUERIES && (part.schedule.is_none() || q_len == 1);
        let most = if by_head {
            1
        } else if few {
            FEW_ROWS / q_len.max(1)
        } else {
            self.heads_that_share()
        };
        let heads = (1..=most.min(group)).rev().find(|heads| group.is_multiple_of(*heads)).unwrap_or(1);
        let pieces = if !few {
            part.tiles()
        } else if part.schedule.is_some() {
            1
        } else {
            part.reach(self.attention).len().div_ceil(SPLIT).max(1)
        };
        let chunks = if q_len == 0 { 0 } else { self.shape.heads() / heads };
        Cut { few, heads, chunks, pieces }
    }

    /// Query heads of a tile: those that share keys, where these are expanded for them; one where
    /// there is nothing to share.
    fn heads_that_share(&self) -> usize {
        /// More of them leave too few tasks, and too little room in the cache.
        const MOST: usize = 4;
        let turns = self.positions.is_some_and(|positions| positions.rotations().is_some());
        let rows = self.tables.pages(0).is_none();
        let direct = rows && self.history.is_direct() && !(turns && self.history.turns_keys());
        if direct { 1 } else { MOST }
    }

    /// Task number `index` of a sequence; it may have no rows. Late rows, which under a causal mask
    /// see most, come first.
    pub(super) fn task(&self, part: Part<'a>, cut: Cut, index: usize) -> Task<'a> {
        let (chunk, piece) = if cut.few {
            (index / cut.pieces, index % cut.pieces)
        } else {
            (index % cut.chunks, index / cut.chunks)
        };
        let heads = chunk * cut.heads..(chunk + 1) * cut.heads;
        let all = 0..part.keys.len();
        if !cut.few {
            let rows = part.tile(cut.pieces - 1 - piece);
            return Task { part, heads, rows, keys: all };
        }
        let start = part.reach(self.attention).start + piece * SPLIT;
        let keys = if cut.pieces == 1 { all } else { start..start + SPLIT };
        Task { rows: 0..part.queries.len(), part, heads, keys }
    }
}

/// What the outputs of a row of a head are divided by, and its log-sum-exp, from its largest score
/// and its sum of weights: beside the head's sink, if there is one. No state of a split has seen
/// it.
pub(super) fn row_end(work: &Work<'_>, head: usize, largest: f32, sum: f32) -> (f32, f32) {
    let sink = work.attention.sinks().map(|sinks| sinks[head]);
    // Without a weight above 0 the row is empty, and its outputs are 0, or NaN by 0·∞.
    if sum == 0.0 {
        return (1.0, sink.unwrap_or(f32::NEG_INFINITY));
    }
    let Some(sink) = sink else { return (sum, largest + sum.ln()) };
    let most = largest.max(sink);
    let kept = libm::expf(largest - most);
    let whole = sum * kept + libm::expf(sink - most);
    // Beside a sink that is far above its keys a row is divided by infinity.
    (whole / kept, most + whole.ln())
}

impl Cut {
    pub(super) fn tasks(&self) -> usize {
        self.chunks * self.pieces
    }

    /// Whether tasks leave states that have to be merged.
    pub(super) fn splits(&self) -> bool {
        self.few && self.pieces > 1
    }
}
