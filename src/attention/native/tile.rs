//! A tile of rows over all the keys that it sees: FlashAttention (Dao 2023, arXiv 2307.08691), the
//! online softmax over tiles of keys.

use std::ops::Range;

use pulp::Simd;

use super::part::Part;
use super::positions::PositionTables;
use super::products::{Outputs, Scores};
use super::scratch::Aligned;
use super::sizes::{KEYS, ROWS};
use super::softmax::{LEAST, Lags, Scoring, Softmax, Visible};
use super::source::{Head, KeyRows, Store, ValueRows, finite_only, for_each_left_out, is_finite};
use super::work::{Task, Work, row_end};
use crate::attention::inputs::mask::Mask;
use crate::cache::rotated;

/// Memory that a thread works in.
#[derive(Default)]
pub(super) struct TileScratch {
    queries: Aligned,
    outputs: Aligned,
    scores: Aligned,
    keys: Aligned,
    values: Aligned,
    /// Values without those that are NaN or infinite.
    clean: Aligned,
    /// A row, in the order of its channels.
    row: Aligned,
    /// Maxima and sums of each head, and factors.
    states: Aligned,
    /// Factors and biases by distance.
    lags: Aligned,
    /// What a mask adds to scores.
    masks: Aligned,
    seen: Seen,
}

/// The keys that the rows of a tile see.
#[derive(Default)]
struct Seen {
    /// `[ROWS]`, with rows that aren't there as if they saw all.
    from: Vec<u32>,
    to: Vec<u32>,
    /// Keys that some row sees are within these.
    any: Range<usize>,
    /// Keys that every row sees.
    all: Range<usize>,
}

impl Seen {
    fn fill(&mut self, work: &Work<'_>, part: &Part<'_>, rows: Range<usize>) {
        self.from.clear();
        self.to.clear();
        self.all = 0..usize::MAX;
        let mut any: Option<Range<usize>> = None;
        for row in rows {
            let Range { start, end } = part.visible(work.attention, row);
            if start < end {
                let before = any.unwrap_or(start..end);
                any = Some(before.start.min(start)..before.end.max(end));
            }
            self.all = self.all.start.max(start)..self.all.end.min(end);
            self.from.push(start as u32);
            self.to.push(end as u32);
        }
        self.from.resize(ROWS, 0);
        self.to.resize(ROWS, u32::MAX);
        self.any = any.unwrap_or(0..0);
    }

    /// What hides keys of a tile, if anything does.
    fn mask(&self, keys: &Range<usize>) -> Option<Visible<'_>> {
        let hides = keys.start < self.all.start || keys.end > self.all.end;
        hides.then_some(Visible { from: &self.from, to: &self.to, first: keys.start as u32 })
    }
}

/// Computes the rows of a task, and stores them.
#[inline(always)]
pub(super) fn attend<S: Simd>(simd: S, work: &Work<'_>, task: &Task<'_>, scratch: &mut TileScratch) {
    let Task { part, heads, rows, .. } = task;
    let (dim, value_dim) = (work.shape.head_dim(), work.shape.value_dim());
    let count = heads.len();
    let TileScratch { queries, outputs, scores, keys, values, clean, row, states, lags, masks, seen } =
        scratch;
    seen.fill(work, part, rows.clone());
    let queries = queries.numbers(count * dim * ROWS);
    let outputs = outputs.numbers(count * value_dim * ROWS);
    let scores = scores.numbers(KEYS * ROWS);
    let (keys, values) = (keys.numbers(KEYS * dim), values.numbers(KEYS * value_dim));
    let clean = clean.numbers(KEYS * value_dim);
    let row = row.numbers(dim.max(value_dim));
    let (factors, states) = states.numbers((1 + 2 * count) * ROWS).split_at_mut(ROWS);
    let (maxima, sums) = states.split_at_mut(count * ROWS);
    for (queries, head) in queries.chunks_exact_mut(dim * ROWS).zip(heads.clone()) {
        load_queries(work, task, head, row, queries);
    }
    outputs.fill(0.0);
    maxima.fill(LEAST);
    sums.fill(0.0);

    let rotations = work.key_rotations();
    let kv_head = heads.start / work.shape.heads_per_kv_head();
    let Some(store) = Store::new(work.history, part, kv_head) else { return };
    let by_lag = work.positions.filter(|positions| positions.has_lags());
    part.for_each_run(heads.start, rows.start, seen.any.clone(), |run, ln_p| {
        let mut rest = run;
        while let Some(tile) = store.next_tile(rest.clone()) {
            rest.start = tile.end;
            let (stride, rotations) = (dim, rotations.map(|turn| (turn, part)));
            let k = KeyRows { store, tile: tile.clone(), stride, rotations, scratch: keys };
            let k = simd.vectorize(k);
            let v = ValueRows { store, tile: tile.clone(), stride: value_dim, scratch: values };
            let v = simd.vectorize(v);
            let visible = seen.mask(&tile);
            let spoilt = visible.is_some() && !is_finite(v, tile.len(), value_dim);
            let lags = by_lag
                .map(|positions| fill_lags(positions, part, rows, &tile, Lanes::Queries, lags.numbers(LAGS)));
            let correction = work.attention.correction() * ln_p;
            let masks = masks.numbers(if part.mask.is_some() { KEYS * ROWS } else { 0 });
            for (index, head) in heads.clone().enumerate() {
                let queries = &queries[index * dim * ROWS..][..dim * ROWS];
                let outputs = &mut outputs[index * value_dim * ROWS..][..value_dim * ROWS];
                let (rows_of, rows, count) = (rows, rows.len(), tile.len());
                simd.vectorize(Scores { queries, rows, keys: k, count, scores });
                let lags = lags.map(|lags| Lags { slope: work.slope(head), ..lags });
                let mask = part.mask.map(|mask| fill_mask(mask, head, rows_of, &tile, masks));
                let scoring = Scoring { cap: work.attention.soft_cap(), correction, lags, mask, visible };
                let maxima = &mut maxima[index * ROWS..][..ROWS];
                let sums = &mut sums[index * ROWS..][..ROWS];
                simd.vectorize(Softmax { scores, rows, count, scoring, maxima, sums, factors });
                let values = if spoilt { finite_only(v, count, value_dim, clean) } else { v };
                simd.vectorize(Outputs { weights: scores, rows, values, count, factors, outputs });
                if let (true, Some(visible)) = (spoilt, visible) {
                    for_each_left_out(v, count, value_dim, |j, channel, value| {
                        let key = visible.first + j as u32;
                        let seen = |i: &usize| (visible.from[*i]..visible.to[*i]).contains(&key);
                        for i in (0..rows).filter(seen) {
                            outputs[channel * ROWS + i] += scores[j * ROWS + i] * value;
                        }
                    });
                }
            }
        }
    });

    for (index, head) in heads.clone().enumerate() {
        let outputs = &outputs[index * value_dim * ROWS..][..value_dim * ROWS];
        for (i, query) in rows.clone().enumerate() {
            let (largest, sum) = (maxima[index * ROWS + i], sums[index * ROWS + i]);
            let row = &mut row[..value_dim];
            let (denominator, lse) = row_end(work, head, largest, sum);
            for (number, column) in row.iter_mut().zip(outputs.chunks_exact(ROWS)) {
                *number = column[i] / denominator;
            }
            if work.history.rotates_values() {
                rotated::turn(row);
            }
            work.results.write([part.entry, head, part.queries.start + query], row, lse);
        }
    }
}

impl Work<'_> {
    pub(super) fn slope(&self, head: usize) -> f32 {
        self.positions.map_or(0.0, |positions| positions.slope(head))
    }
}

/// Queries of one head as `[channel][row]`, turned and scaled; 0 where there is no row.
fn load_queries(work: &Work<'_>, task: &Task<'_>, head: usize, row: &mut [f32], to: &mut [f32]) {
    let Task { part, rows, .. } = task;
    let (dim, source) = (work.shape.head_dim(), Head::new(work.q, part.entry, head));
    let scale = work.attention.scale(dim);
    if rows.len() < ROWS {
        to.fill(0.0);
    }
    for (i, query) in rows.clone().enumerate() {
        let row = &mut row[..dim];
        source.expand(part.queries.start + query, row);
        if let Some(rotations) = work.positions.and_then(|positions| positions.rotations()) {
            rotations.turn(row, part.query_position(query));
        }
        if work.rotates_keys() {
            rotated::turn(row);
        }
        for (number, column) in row.iter().zip(to.chunks_exact_mut(ROWS)) {
            column[i] = number * scale;
        }
    }
}

/// What a mask adds to the scores of a tile, `[KEYS][ROWS]`.
fn fill_mask<'a>(
    mask: &Mask,
    head: usize,
    rows: &Range<usize>,
    tile: &Range<usize>,
    memory: &'a mut [f32],
) -> &'a [f32] {
    for (i, row) in rows.clone().enumerate() {
        mask.for_each(head, row, tile.clone(), |j, number| memory[j * ROWS + i] = number);
    }
    memory
}

/// Numbers of memory for [`fill_lags`].
pub(super) const LAGS: usize = 2 * KEYS * ROWS;

/// What the lanes of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    Queries,
    /// In the backward pass, which goes over the queries of a tile of keys.
    Keys,
}

/// Factors and biases of the pairs of a tile.
pub(super) fn fill_lags<'a>(
    positions: &PositionTables,
    part: &Part<'_>,
    rows: &Range<usize>,
    tile: &Range<usize>,
    lanes: Lanes,
    memory: &'a mut [f32],
) -> Lags<'a> {
    let (factors, biases) = memory.split_at_mut(LAGS / 2);
    let (has_factors, has_biases) = (positions.has_factors(), positions.has_biases());
    let mut fill = |index: usize, lag: u64| {
        if has_factors {
            factors[index] = positions.factor(lag);
        }
        if has_biases {
            biases[index] = positions.bias(lag);
        }
    };
    if part.has_ids() {
        for (j, key) in tile.clone().enumerate() {
            for (i, row) in rows.clone().enumerate() {
                let index = if lanes == Lanes::Queries { j * ROWS + i } else { i * ROWS + j };
                fill(index, part.query_position(row).abs_diff(part.key_position(key)));
            }
        }
    } else {
        // Row i and key j have the number i + KEYS − 1 − j, where lanes are keys j + KEYS − 1 − i.
        let first = part.query_position(rows.start).saturating_sub(part.key_position(tile.start));
        for index in 0..KEYS + ROWS {
            let ahead = index as i64 - (KEYS as i64 - 1);
            let ahead = if lanes == Lanes::Queries { ahead } else { -ahead };
            fill(index, first.saturating_add(ahead).unsigned_abs());
        }
    }
    let used = |numbers: &'a [f32], any: bool| if any { numbers } else { &numbers[..0] };
    let (factors, biases) = (used(factors, has_factors), used(biases, has_biases));
    Lags { factors, biases, slope: 0.0, by_pair: part.has_ids() }
}
