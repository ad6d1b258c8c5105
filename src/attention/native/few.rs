//! A few rows over a split of the keys: decode. Splits leave states, which are merged.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::math::{exp, tanh};
use super::part::Part;
use super::rows::{KeyTile, RowOutputs, RowScores};
use super::scratch::Aligned;
use super::sizes::{FEW_QUERIES, KEYS};
use super::softmax::LEAST;
use super::source::{Head, KeyColumns, KeyRows, Store, ValueRows, finite_only, for_each_left_out, is_finite};
use super::work::{Task, Work, row_end};
use crate::attention::inputs::mask::Mask;
use crate::cache::rotated;

/// Memory that a thread works in.
#[derive(Default)]
pub(super) struct FewScratch {
    queries: Aligned,
    scores: Aligned,
    /// Keys of a tile, then its values.
    tile: Aligned,
    /// Values without those that are NaN or infinite.
    clean: Aligned,
    lags: Aligned,
    factors: Aligned,
    pub(super) state: State,
}

/// What is known of some rows after some of their keys.
#[derive(Default)]
pub(super) struct State {
    /// `[rows]`: the largest score.
    pub(super) maxima: Vec<f32>,
    /// `[rows]`: the sum of weights.
    pub(super) sums: Vec<f32>,
    /// `[rows][padded(value_dim)]`.
    pub(super) outputs: Aligned,
}

/// Channels up to whole vectors of any width.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(16)
}

impl State {
    fn clear(&mut self, rows: usize, stride: usize) {
        self.maxima.clear();
        self.maxima.resize(rows, LEAST);
        self.sums.clear();
        self.sums.resize(rows, 0.0);
        self.outputs.numbers(rows * stride).fill(0.0);
    }

    /// Takes in the state of other keys of the same rows.
    pub(super) fn merge(&mut self, other: &mut Self, stride: usize) {
        let rows = self.sums.len();
        let (outputs, others) = (self.outputs.numbers(rows * stride), other.outputs.numbers(rows * stride));
        let rows = outputs.chunks_exact_mut(stride).zip(others.chunks_exact(stride));
        for (r, (output, other_output)) in rows.enumerate() {
            let largest = self.maxima[r].max(other.maxima[r]);
            let [here, there] = [self.maxima[r], other.maxima[r]].map(|most| libm::expf(most - largest));
            self.maxima[r] = largest;
            self.sums[r] = self.sums[r] * here + other.sums[r] * there;
            for (x, y) in output.iter_mut().zip(other_output) {
                *x = *x * here + *y * there;
            }
        }
    }

    /// Stores the rows of a task as results.
    pub(super) fn write(&mut self, work: &Work<'_>, part: &Part<'_>, heads: Range<usize>) {
        let (dim, stride) = (work.shape.value_dim(), padded(work.shape.value_dim()));
        let outputs = self.outputs.numbers(self.sums.len() * stride);
        let places = heads.flat_map(|head| part.queries.clone().map(move |row| (head, row)));
        for (r, ((head, row), output)) in places.zip(outputs.chunks_exact_mut(stride)).enumerate() {
            let (denominator, lse) = row_end(work, head, self.maxima[r], self.sums[r]);
            output.iter_mut().for_each(|x| *x /= denominator);
            if work.history.rotates_values() {
                rotated::turn(&mut output[..dim]);
            }
            work.results.write([part.entry, head, row], &output[..dim], lse);
        }
    }
}

/// Goes over the keys of a task, and leaves the state of its rows in `scratch`.
#[inline(always)]
pub(super) fn attend<S: Simd>(simd: S, work: &Work<'_>, task: &Task<'_>, scratch: &mut FewScratch) {
    let Task { part, heads, rows: queries_of, keys: within } = task;
    let (dim, stride) = (work.shape.head_dim(), padded(work.shape.head_dim()));
    let (value_dim, value_stride) = (work.shape.value_dim(), padded(work.shape.value_dim()));
    let (q_len, rows) = (queries_of.len(), heads.len() * queries_of.len());
    let FewScratch { queries, scores, tile: numbers, clean, lags, factors, state } = scratch;
    state.clear(rows, value_stride);
    let queries = queries.numbers(rows * stride);
    let scores = scores.numbers(rows * KEYS);
    // One for both, so that it stays in the nearest cache.
    let numbers = numbers.numbers(KEYS * stride.max(value_stride));
    let clean = clean.numbers(KEYS * value_stride);
    let lags = lags.numbers(2 * q_len * KEYS);
    let factors = factors.numbers(rows);
    let State { maxima, sums, outputs } = state;
    let outputs = outputs.numbers(rows * value_stride);
    load_queries(work, task, stride, queries);

    let kv_head = heads.start / work.shape.heads_per_kv_head();
    let Some(store) = Store::new(work.history, part, kv_head) else { return };
    let rotations = work.key_rotations();
    let mut seen: [Range<usize>; FEW_QUERIES] = Default::default();
    for (seen, row) in seen.iter_mut().zip(queries_of.clone()) {
        *seen = part.visible(work.attention, row);
    }
    let seen = &seen[..q_len];
    let reach = part.reach(work.attention);
    let reach = reach.start.max(within.start)..reach.end.min(within.end);
    part.for_each_run(heads.start, queries_of.start, reach, |run, ln_p| {
        let mut rest = run;
        while let Some(tile) = store.next_tile(rest.clone()) {
            rest.start = tile.end;
            let count = tile.len();
            let columns = KeyColumns { store, tile: tile.clone(), scratch: numbers };
            let keys = if rotations.is_none() && simd.vectorize(columns) {
                KeyTile::Columns(numbers)
            } else {
                let rotations = rotations.map(|turn| (turn, part));
                let k = KeyRows { store, tile: tile.clone(), stride, rotations, scratch: numbers };
                KeyTile::Rows(simd.vectorize(k))
            };
            simd.vectorize(RowScores { queries, rows, stride, dim, keys, count, scores });
            fill_lags(work, part, queries_of, &tile, lags);
            let correction = work.attention.correction() * ln_p;
            let (first_head, first_query) = (heads.start, queries_of.start);
            let (mask, tile) = (part.mask, &tile);
            let shared = Shared { work, seen, tile, lags, correction, mask, first_head, first_query };
            simd.vectorize(RowSoftmax { shared, rows, scores, maxima, sums, factors });
            let v = ValueRows { store, tile: tile.clone(), stride: value_stride, scratch: numbers };
            let v = simd.vectorize(v);
            let hides = seen.iter().any(|seen| seen.start > tile.start || seen.end < tile.end);
            let spoilt = hides && !is_finite(v, count, value_dim);
            let values = if spoilt { finite_only(v, count, value_stride, clean) } else { v };
            let (weights, stride) = (&*scores, value_stride);
            simd.vectorize(RowOutputs { weights, rows, values, count, factors, outputs, stride });
            if spoilt {
                for_each_left_out(v, count, value_dim, |j, channel, value| {
                    let seen = |r: &usize| seen[r % q_len].contains(&(tile.start + j));
                    for r in (0..rows).filter(seen) {
                        outputs[r * value_stride + channel] += scores[r * KEYS + j] * value;
                    }
                });
            }
        }
    });
}

/// Queries, head by head, turned and scaled, with zeros behind the channels.
fn load_queries(work: &Work<'_>, task: &Task<'_>, stride: usize, to: &mut [f32]) {
    let Task { part, heads, rows, .. } = task;
    let dim = work.shape.head_dim();
    let scale = work.attention.scale(dim);
    let places = heads.clone().flat_map(|head| rows.clone().map(move |row| (head, row)));
    for ((head, query), row) in places.zip(to.chunks_exact_mut(stride)) {
        let (numbers, rest) = row.split_at_mut(dim);
        Head::new(work.q, part.entry, head).expand(part.queries.start + query, numbers);
        if let Some(rotations) = work.positions.and_then(|positions| positions.rotations()) {
            rotations.turn(numbers, part.query_position(query));
        }
        if work.rotates_keys() {
            rotated::turn(numbers);
        }
        numbers.iter_mut().for_each(|number| *number *= scale);
        rest.fill(0.0);
    }
}

/// Factors and biases of every query and key of a tile: `[2][queries][KEYS]`.
fn fill_lags(
    work: &Work<'_>,
    part: &Part<'_>,
    queries: &Range<usize>,
    tile: &Range<usize>,
    lags: &mut [f32],
) {
    let Some(positions) = work.positions.filter(|positions| positions.has_lags()) else { return };
    let (factors, biases) = lags.split_at_mut(queries.len() * KEYS);
    let rows = factors.chunks_exact_mut(KEYS).zip(biases.chunks_exact_mut(KEYS));
    for (query, (factors, biases)) in queries.clone().zip(rows) {
        for (j, key) in tile.clone().enumerate() {
            let lag = part.query_position(query).abs_diff(part.key_position(key));
            if positions.has_factors() {
                factors[j] = positions.factor(lag);
            }
            if positions.has_biases() {
                biases[j] = positions.bias(lag);
            }
        }
    }
}

/// What the scores of a tile depend on beside the inner products.
#[derive(Clone, Copy)]
struct Shared<'a> {
    work: &'a Work<'a>,
    /// By query.
    seen: &'a [Range<usize>],
    tile: &'a Range<usize>,
    lags: &'a [f32],
    correction: f32,
    mask: Option<&'a Mask>,
    first_head: usize,
    first_query: usize,
}

/// The running softmax of the rows; lanes are keys.
struct RowSoftmax<'a> {
    shared: Shared<'a>,
    rows: usize,
    /// `[rows][KEYS]`: scores, then weights.
    scores: &'a mut [f32],
    maxima: &'a mut [f32],
    sums: &'a mut [f32],
    factors: &'a mut [f32],
}

impl WithSimd for RowSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shared, rows, scores, maxima, sums, factors } = self;
        for (r, row) in scores.chunks_exact_mut(KEYS).take(rows).enumerate() {
            let q_len = shared.seen.len();
            shape_scores(simd, shared, r / q_len, r % q_len, row);
            let (row, _) = S::as_mut_simd_f32s(row);
            let mut most = simd.splat_f32s(LEAST);
            for &score in &*row {
                most = simd.max_f32s(score, most);
            }
            let before = maxima[r];
            let largest = before.max(simd.reduce_max_f32s(most));
            let largest_lanes = simd.splat_f32s(largest);
            let mut sum = simd.splat_f32s(0.0);
            for score in row {
                *score = exp(simd, simd.sub_f32s(*score, largest_lanes));
                sum = simd.add_f32s(sum, *score);
            }
            let factor = libm::expf(before - largest);
            sums[r] = sums[r] * factor + simd.reduce_sum_f32s(sum);
            (maxima[r], factors[r]) = (largest, factor);
        }
    }
}

/// Everything that changes a score after the inner product; −∞ where there is no key, or one that
/// the query doesn't see.
#[inline(always)]
fn shape_scores<S: Simd>(simd: S, shared: Shared<'_>, head: usize, query: usize, row: &mut [f32]) {
    let Shared { work, seen, tile, lags, correction, mask, first_head, first_query } = shared;
    if let Some(cap) = work.attention.soft_cap() {
        let (cap, inverse) = (simd.splat_f32s(cap), simd.splat_f32s(1.0 / cap));
        for score in S::as_mut_simd_f32s(row).0 {
            *score = simd.mul_f32s(cap, tanh(simd, simd.mul_f32s(*score, inverse)));
        }
    }
    if let Some(positions) = work.positions {
        let (factors, biases) = lags.split_at(lags.len() / 2);
        let of_query = |numbers| -> &[f32] { &<[f32]>::split_at(numbers, query * KEYS).1[..KEYS] };
        if positions.has_factors() {
            row.iter_mut().zip(of_query(factors)).for_each(|(score, factor)| *score *= factor);
        }
        if positions.has_biases() {
            let slope = positions.slope(first_head + head);
            row.iter_mut().zip(of_query(biases)).for_each(|(score, bias)| *score -= slope * bias);
        }
    }
    if correction != 0.0 {
        row.iter_mut().for_each(|score| *score -= correction);
    }
    if let Some(mask) = mask {
        mask.for_each(first_head + head, first_query + query, tile.clone(), |j, number| row[j] += number);
    }
    let seen = &seen[query];
    let start = seen.start.clamp(tile.start, tile.end) - tile.start;
    let end = seen.end.clamp(tile.start + start, tile.end) - tile.start;
    row[..start].fill(f32::NEG_INFINITY);
    row[end..].fill(f32::NEG_INFINITY);
}
