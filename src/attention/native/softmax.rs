//! Scores made into weights, a tile at a time: soft-cap, factor and bias, correction, masks, and
//! the online softmax.

use pulp::{Simd, WithSimd};

use super::math::{exp, tanh};
use super::products::vectors;
use super::sizes::{KEYS, ROWS};

/// Where the maximum of a row begins: the least number, and not −∞, from which nothing can be
/// subtracted.
pub(super) const LEAST: f32 = f32::MIN;

/// What there is between the inner products of a tile and its softmax.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scoring<'a> {
    /// The soft-cap.
    pub(super) cap: Option<f32>,
    /// `β·ln p` of these keys.
    pub(super) correction: f32,
    pub(super) lags: Option<Lags<'a>>,
    /// What a mask tensor adds, `[KEYS][ROWS]`.
    pub(super) mask: Option<&'a [f32]>,
    pub(super) visible: Option<Visible<'a>>,
}

/// What scores depend on by distance: of row i and key j the numbers at `i + KEYS − 1 − j` or,
/// where positions don't count up, at `[j][i]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lags<'a> {
    /// `a(Δ)`; empty where `a ≡ 1`.
    pub(super) factors: &'a [f32],
    /// `c(Δ)·φ(Δ)`; empty without a bias.
    pub(super) biases: &'a [f32],
    pub(super) slope: f32,
    pub(super) by_pair: bool,
}

/// The keys that each row sees: `from[i] ≤ first + j < to[i]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visible<'a> {
    /// `[ROWS]`.
    pub(super) from: &'a [u32],
    /// `[ROWS]`.
    pub(super) to: &'a [u32],
    /// The tile's first key.
    pub(super) first: u32,
}

/// The running softmax of the rows of a tile.
pub(super) struct Softmax<'a> {
    /// `[KEYS][ROWS]`: scores, then weights.
    pub(super) scores: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) count: usize,
    pub(super) scoring: Scoring<'a>,
    /// `[ROWS]`: the largest score so far.
    pub(super) maxima: &'a mut [f32],
    /// `[ROWS]`: the sum of weights so far.
    pub(super) sums: &'a mut [f32],
    /// `[ROWS]`: what sums so far were multiplied by, because the maximum rose.
    pub(super) factors: &'a mut [f32],
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { scores, rows, count, scoring, maxima, sums, factors } = self;
        let (scores, _) = S::as_mut_simd_f32s(scores);
        let stride = ROWS / S::F32_LANES;
        let scores = &mut scores[..count * stride];
        let (maxima, _) = S::as_mut_simd_f32s(maxima);
        let (sums, _) = S::as_mut_simd_f32s(sums);
        let (factors, _) = S::as_mut_simd_f32s(factors);
        for at in 0..vectors::<S>(rows) {
            shape_scores(simd, scores, at, &scoring, None);
            let before = maxima[at];
            let mut largest = before;
            for row in scores.chunks_exact(stride) {
                largest = simd.max_f32s(row[at], largest);
            }
            let factor = exp(simd, simd.sub_f32s(before, largest));
            let mut sum = simd.mul_f32s(sums[at], factor);
            for row in scores.chunks_exact_mut(stride) {
                let weight = exp(simd, simd.sub_f32s(row[at], largest));
                row[at] = weight;
                sum = simd.add_f32s(sum, weight);
            }
            (maxima[at], sums[at], factors[at]) = (largest, sum, factor);
        }
    }
}

/// Everything that changes a score after the inner product, for the rows of one vector. Its slope,
/// by which the gradient of the inner product differs from that of the score, goes into `gains`.
#[inline(always)]
pub(super) fn shape_scores<S: Simd>(
    simd: S,
    scores: &mut [S::f32s],
    at: usize,
    scoring: &Scoring<'_>,
    mut gains: Option<&mut [S::f32s]>,
) {
    let stride = ROWS / S::F32_LANES;
    let Scoring { cap, correction, lags, mask, visible } = *scoring;
    let one = simd.splat_f32s(1.0);
    if let Some(gains) = &mut gains {
        gains.chunks_exact_mut(stride).for_each(|row| row[at] = one);
    }
    if let Some(cap) = cap {
        let (cap, inverse) = (simd.splat_f32s(cap), simd.splat_f32s(1.0 / cap));
        for (j, row) in scores.chunks_exact_mut(stride).enumerate() {
            let tanh = tanh(simd, simd.mul_f32s(row[at], inverse));
            row[at] = simd.mul_f32s(cap, tanh);
            if let Some(gains) = &mut gains {
                gains[j * stride + at] = simd.sub_f32s(one, simd.mul_f32s(tanh, tanh));
            }
        }
    }
    if let Some(lags) = lags {
        let slope = simd.splat_f32s(-lags.slope);
        for (j, row) in scores.chunks_exact_mut(stride).enumerate() {
            let first = at * S::F32_LANES + if lags.by_pair { j * ROWS } else { KEYS - 1 - j };
            let load = |numbers: &[f32]| simd.partial_load_f32s(&numbers[first..first + S::F32_LANES]);
            if !lags.factors.is_empty() {
                let factor = load(lags.factors);
                row[at] = simd.mul_f32s(row[at], factor);
                if let Some(gains) = &mut gains {
                    gains[j * stride + at] = simd.mul_f32s(gains[j * stride + at], factor);
                }
            }
            if !lags.biases.is_empty() {
                row[at] = simd.mul_add_e_f32s(slope, load(lags.biases), row[at]);
            }
        }
    }
    if correction != 0.0 {
        let correction = simd.splat_f32s(correction);
        for row in scores.chunks_exact_mut(stride) {
            row[at] = simd.sub_f32s(row[at], correction);
        }
    }
    if let Some(mask) = mask {
        let (mask, _) = S::as_simd_f32s(mask);
        for (row, added) in scores.chunks_exact_mut(stride).zip(mask.chunks_exact(stride)) {
            row[at] = simd.add_f32s(row[at], added[at]);
        }
    }
    if let Some(visible) = visible {
        let (from, to) = (S::as_simd_u32s(visible.from).0[at], S::as_simd_u32s(visible.to).0[at]);
        let nothing = simd.splat_f32s(f32::NEG_INFINITY);
        for (j, row) in scores.chunks_exact_mut(stride).enumerate() {
            let key = simd.splat_u32s(visible.first + j as u32);
            let kept = simd.select_f32s(simd.less_than_u32s(key, to), row[at], nothing);
            row[at] = simd.select_f32s(simd.less_than_u32s(key, from), nothing, kept);
        }
    }
}
