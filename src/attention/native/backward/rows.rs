//! The rows of a backward pass in f32, as its products read them.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::wrong::{Wrong, or};
use crate::attention::native::part::Part;
use crate::attention::native::products::Rows;
use crate::attention::native::source::Head;
use crate::attention::native::views::HostView;
use crate::attention::native::work::Work;
use crate::layout::Layout;
use crate::shape::Shape;

/// Rows that a thread writes down at a time.
const CHUNK: usize = 64;

/// How rows lie behind each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) dim: usize,
    pub(super) value_dim: usize,
}

impl Sizes {
    pub(super) fn of(shape: &Shape) -> Self {
        Self { dim: shape.head_dim(), value_dim: shape.value_dim() }
    }

    /// Of a query: itself, rotated and scaled, the gradient of its output, L and δ.
    pub(super) fn query(self) -> usize {
        self.dim + self.value_dim + 2
    }

    /// Of a key: itself, rotated, and its value.
    pub(super) fn key(self) -> usize {
        self.dim + self.value_dim
    }
}

/// Where the rows of each sequence begin, and what they see.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Query rows before each sequence, over all heads, and their number at the end.
    pub(super) queries: Vec<usize>,
    /// Likewise of keys.
    pub(super) keys: Vec<usize>,
    /// The keys that each query sees, sequence by sequence.
    pub(super) visible: Vec<Range<usize>>,
    /// Where these begin.
    pub(super) first_visible: Vec<usize>,
}

impl Places {
    pub(super) fn fill(&mut self, work: &Work<'_>) {
        let Self { queries, keys, visible, first_visible } = self;
        for list in [&mut *queries, &mut *keys, &mut *first_visible] {
            list.clear();
            list.push(0);
        }
        visible.clear();
        for index in 0..work.sequence_count() {
            let part = work.part(index);
            let seen = (0..part.queries.len()).map(|row| part.visible(work.attention, row));
            visible.extend(seen);
            first_visible.push(visible.len());
            queries.push(queries[index] + work.shape.heads() * part.queries.len());
            keys.push(keys[index] + work.shape.kv_heads() * part.keys.len());
        }
    }

    /// What the queries of a sequence see.
    pub(super) fn visible(&self, sequence: usize) -> &[Range<usize>] {
        &self.visible[self.first_visible[sequence]..self.first_visible[sequence + 1]]
    }
}

/// All rows of a call, written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared<'a> {
    pub(super) sizes: Sizes,
    pub(super) places: &'a Places,
    pub(super) queries: &'a [f32],
    pub(super) keys: &'a [f32],
}

impl<'a> Prepared<'a> {
    /// Query rows of a head of a sequence, from row 0 on.
    pub(super) fn queries(&self, sequence: usize, head: usize, part: &Part<'_>) -> Rows<'a> {
        let first = self.places.queries[sequence] + head * part.queries.len();
        let stride = self.sizes.query();
        Rows { numbers: &self.queries[first * stride..], stride }
    }

    /// Key rows of a key/value head of a sequence, from row 0 on.
    pub(super) fn keys(&self, sequence: usize, head: usize, part: &Part<'_>) -> Rows<'a> {
        let first = self.places.keys[sequence] + head * part.keys.len();
        let stride = self.sizes.key();
        Rows { numbers: &self.keys[first * stride..], stride }
    }
}

/// What rows are written down from.
pub(super) struct Inputs<'a> {
    pub(super) k: HostView<'a>,
    pub(super) v: HostView<'a>,
    pub(super) output: HostView<'a>,
    pub(super) d_output: HostView<'a>,
    pub(super) lse: &'a [f32],
    pub(super) d_lse: Option<&'a [f32]>,
    /// Of both.
    pub(super) lse_at: Layout,
}

/// Chunks of rows that are still to be written, for threads to take.
pub(super) struct Chunks<'a> {
    stride: usize,
    rest: Mutex<(usize, &'a mut [f32])>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(rows: &'a mut [f32], stride: usize) -> Self {
        Self { stride, rest: Mutex::new((0, rows)) }
    }

    /// Calls `write(row, numbers)` for every row that no other thread has taken.
    fn for_each(&self, mut write: impl FnMut(usize, &mut [f32])) {
        loop {
            let (first, chunk) = {
                let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
                let (first, rows) = &mut *rest;
                let count = (CHUNK * self.stride).min(rows.len());
                if count == 0 {
                    return;
                }
                let (chunk, after) = std::mem::take(rows).split_at_mut(count);
                *rows = after;
                let start = *first;
                *first += count / self.stride;
                (start, chunk)
            };
            for (index, row) in chunk.chunks_exact_mut(self.stride).enumerate() {
                write(first + index, row);
            }
        }
    }
}

/// The sequence of row `index`, and its head and row there, where each sequence has `rows` of a
/// head.
fn locate<'a>(
    work: &Work<'a>,
    starts: &[usize],
    index: usize,
    rows: impl Fn(&Part<'_>) -> usize,
) -> (Part<'a>, usize, usize) {
    let sequence = starts.partition_point(|&start| start <= index) - 1;
    let part = work.part(sequence);
    let (within, count) = (index - starts[sequence], rows(&part).max(1));
    (part, within / count, within % count)
}

/// Writes query rows down: `R·q·scale`, the gradient of the output, L and `δ = Σ do·o − dL`. The
/// log-sum-exp of an empty row is written as ∞, so that nothing in it has a weight.
pub(super) fn write_queries(work: &Work<'_>, inputs: &Inputs<'_>, places: &Places, chunks: &Chunks<'_>) {
    let sizes = Sizes::of(work.shape);
    let scale = or(Wrong::QueriesUnscaled, work.attention.scale(sizes.dim), 1.0);
    let rotations = work.positions.and_then(|positions| positions.rotations());
    let mut output = vec![0.0; sizes.value_dim];
    chunks.for_each(|index, numbers| {
        let (part, head, row) = locate(work, &places.queries, index, |part| part.queries.len());
        let (x, rest) = numbers.split_at_mut(sizes.dim);
        let (gradient, ending) = rest.split_at_mut(sizes.value_dim);
        let at = part.queries.start + row;
        Head::new(work.q, part.entry, head).expand(at, x);
        if let Some(rotations) = rotations {
            rotations.turn(x, part.query_position(row));
        }
        x.iter_mut().for_each(|x| *x *= scale);
        Head::new(inputs.d_output, part.entry, head).expand(at, gradient);
        Head::new(inputs.output, part.entry, head).expand(at, &mut output);
        let products = gradient.iter().zip(&output).map(|(&g, &o)| f64::from(g) * f64::from(o));
        let place = inputs.lse_at.index(part.entry, head, at, 0);
        let d_lse = inputs.d_lse.map_or(0.0, |d_lse| f64::from(d_lse[place]));
        let d_lse = or(Wrong::LogSumExpLeftOut, d_lse, 0.0);
        let lse = inputs.lse[place];
        ending[0] = if lse == f32::NEG_INFINITY { f32::INFINITY } else { lse };
        ending[1] = (products.sum::<f64>() - d_lse) as f32;
    });
}

/// Writes key rows down: `R·k`, and the value.
pub(super) fn write_keys(work: &Work<'_>, inputs: &Inputs<'_>, places: &Places, chunks: &Chunks<'_>) {
    let sizes = Sizes::of(work.shape);
    chunks.for_each(|index, numbers| {
        let (part, head, row) = locate(work, &places.keys, index, |part| part.keys.len());
        let (key, value) = numbers.split_at_mut(sizes.dim);
        let at = part.keys.start + row;
        Head::new(inputs.k, part.entry, head).expand(at, key);
        if let Some(rotations) = work.key_rotations() {
            rotations.turn(key, part.key_position(row));
        }
        Head::new(inputs.v, part.entry, head).expand(at, value);
    });
}
