//! The two matrix products of a tile of rows and a tile of keys, in registers.
//!
//! Lanes are query rows: queries, scores and weights lie transposed, `[channel or key][row]`, so a
//! vector holds neighbouring rows and each number of K and V is one that all lanes share. So keys
//! and values are read where they lie, whatever their strides, and the softmax along a row needs no
//! sum across lanes.

use pulp::{Simd, WithSimd};

use super::sizes::ROWS;

/// Rows of keys or values in f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub(super) numbers: &'a [f32],
    /// From one row to the next.
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(super) fn row(&self, row: usize, dim: usize) -> &'a [f32] {
        &self.numbers[row * self.stride..][..dim]
    }
}

/// How many vectors hold this many rows.
#[inline(always)]
pub(super) fn vectors<S: Simd>(rows: usize) -> usize {
    rows.div_ceil(S::F32_LANES)
}

/// `scores[j][i] = Σ_c keys[j][c]·queries[c][i]`, one rounding a product where multiplication and
/// addition are fused.
pub(super) struct Scores<'a> {
    /// `[head_dim][ROWS]`.
    pub(super) queries: &'a [f32],
    pub(super) rows: usize,
    pub(super) keys: Rows<'a>,
    pub(super) count: usize,
    /// `[KEYS][ROWS]`.
    pub(super) scores: &'a mut [f32],
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let all = vectors::<S>(self.rows);
        let (queries, _) = S::as_simd_f32s(self.queries);
        let (scores, _) = S::as_mut_simd_f32s(self.scores);
        let mut at = 0;
        // As many sums as there are registers for.
        while S::REGISTER_COUNT >= 32 && at + 4 <= all {
            score_columns::<S, 4>(simd, queries, self.keys, self.count, at, scores);
            at += 4;
        }
        while at + 2 <= all {
            score_columns::<S, 2>(simd, queries, self.keys, self.count, at, scores);
            at += 2;
        }
        if at < all {
            score_columns::<S, 1>(simd, queries, self.keys, self.count, at, scores);
        }
    }
}

#[inline(always)]
fn score_columns<S: Simd, const V: usize>(
    simd: S,
    queries: &[S::f32s],
    keys: Rows<'_>,
    count: usize,
    at: usize,
    scores: &mut [S::f32s],
) {
    let mut key = 0;
    while key + 6 <= count {
        score_block::<S, 6, V>(simd, queries, keys, key, at, scores);
        key += 6;
    }
    while key + 2 <= count {
        score_block::<S, 2, V>(simd, queries, keys, key, at, scores);
        key += 2;
    }
    if key < count {
        score_block::<S, 1, V>(simd, queries, keys, key, at, scores);
    }
}

#[inline(always)]
fn score_block<S: Simd, const R: usize, const V: usize>(
    simd: S,
    queries: &[S::f32s],
    keys: Rows<'_>,
    first: usize,
    at: usize,
    scores: &mut [S::f32s],
) {
    let stride = ROWS / S::F32_LANES;
    let dim = queries.len() / stride;
    let mut rows = [&keys.numbers[..0]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = keys.row(first + r, dim);
    }
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (channel, column) in queries.chunks_exact(stride).enumerate() {
        let column = &column[at..at + V];
        for r in 0..R {
            let number = simd.splat_f32s(rows[r][channel]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(number, column[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        scores[(first + r) * stride + at..][..V].copy_from_slice(&sums[r]);
    }
}

/// `outputs[c][i] = outputs[c][i]·factors[i] + Σⱼ weights[j][i]·values[j][c]`.
pub(super) struct Outputs<'a> {
    /// `[KEYS][ROWS]`.
    pub(super) weights: &'a [f32],
    pub(super) rows: usize,
    pub(super) values: Rows<'a>,
    pub(super) count: usize,
    /// `[ROWS]`.
    pub(super) factors: &'a [f32],
    /// `[value_dim][ROWS]`.
    pub(super) outputs: &'a mut [f32],
}

impl WithSimd for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let all = vectors::<S>(self.rows);
        let (weights, _) = S::as_simd_f32s(self.weights);
        let (factors, _) = S::as_simd_f32s(self.factors);
        let (outputs, _) = S::as_mut_simd_f32s(self.outputs);
        let weights = &weights[..self.count * (ROWS / S::F32_LANES)];
        let mut at = 0;
        while S::REGISTER_COUNT >= 32 && at + 4 <= all {
            output_columns::<S, 4>(simd, weights, self.values, factors, at, outputs);
            at += 4;
        }
        while at + 2 <= all {
            output_columns::<S, 2>(simd, weights, self.values, factors, at, outputs);
            at += 2;
        }
        if at < all {
            output_columns::<S, 1>(simd, weights, self.values, factors, at, outputs);
        }
    }
}

#[inline(always)]
fn output_columns<S: Simd, const V: usize>(
    simd: S,
    weights: &[S::f32s],
    values: Rows<'_>,
    factors: &[S::f32s],
    at: usize,
    outputs: &mut [S::f32s],
) {
    let dim = outputs.len() / (ROWS / S::F32_LANES);
    let mut channel = 0;
    // Channels are a multiple of 4: of 6, and up to two times 4.
    while channel + 6 <= dim && dim - channel != 8 {
        output_block::<S, 6, V>(simd, weights, values, factors, channel, at, outputs);
        channel += 6;
    }
    while channel + 4 <= dim {
        output_block::<S, 4, V>(simd, weights, values, factors, channel, at, outputs);
        channel += 4;
    }
}

#[inline(always)]
fn output_block<S: Simd, const R: usize, const V: usize>(
    simd: S,
    weights: &[S::f32s],
    values: Rows<'_>,
    factors: &[S::f32s],
    channel: usize,
    at: usize,
    outputs: &mut [S::f32s],
) {
    let stride = ROWS / S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for r in 0..R {
        let before = &outputs[(channel + r) * stride + at..][..V];
        for v in 0..V {
            sums[r][v] = simd.mul_f32s(before[v], factors[at + v]);
        }
    }
    for (j, weights) in weights.chunks_exact(stride).enumerate() {
        let weights = &weights[at..at + V];
        let row = &values.numbers[j * values.stride + channel..][..R];
        for r in 0..R {
            let number = simd.splat_f32s(row[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(number, weights[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        outputs[(channel + r) * stride + at..][..V].copy_from_slice(&sums[r]);
    }
}
