//! Between the products of a backward pass: weights, and gradients of inner products.

use pulp::{Simd, WithSimd};

use super::wrong::{Wrong, or};
use crate::attention::native::math::exp;
use crate::attention::native::products::vectors;
use crate::attention::native::sizes::{KEYS, ROWS};
use crate::attention::native::softmax::{Scoring, shape_scores};

/// L and δ of the queries of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) enum Endings<'a> {
    /// Lanes are queries: `[ROWS]` of each.
    OfLanes { lse: &'a [f32], delta: &'a [f32] },
    /// Lanes are keys: of each query in turn.
    OfLines { lse: &'a [f32], delta: &'a [f32] },
}

/// Makes inner products of a tile weights and their gradients: of ⟨Rq, Rk⟩·scale and ⟨do, v⟩
///
/// ```text
/// p  = e^(s − L)
/// ds = p·(⟨do, v⟩ − δ)
/// dx = ds·a(Δ)·(1 − tanh²)
/// ```
///
/// Where p is 0, so are the others: what is masked may be anything.
pub(super) struct Weights<'a> {
    /// `[KEYS][ROWS]`, as line and lane: inner products of queries and keys, then p.
    pub(super) scores: &'a mut [f32],
    /// Likewise: those of output gradients and values, then dx.
    pub(super) products: &'a mut [f32],
    /// Memory for as many numbers: the slope of each score.
    pub(super) gains: &'a mut [f32],
    pub(super) lanes: usize,
    pub(super) lines: usize,
    pub(super) scoring: Scoring<'a>,
    pub(super) endings: Endings<'a>,
    /// `[ROWS]`: to these the gradients of each lane's slope are added, where they are wanted.
    pub(super) slopes: Option<&'a mut [f32]>,
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { scores, products, gains, lanes, lines, scoring, endings, slopes } = self;
        let stride = ROWS / S::F32_LANES;
        let (scores, _) = S::as_mut_simd_f32s(scores);
        let (products, _) = S::as_mut_simd_f32s(products);
        let (gains, _) = S::as_mut_simd_f32s(gains);
        let count = lines * stride;
        let (scores, products, gains) = (&mut scores[..count], &mut products[..count], &mut gains[..count]);
        let by_factor = scoring.lags.is_some_and(|lags| !lags.factors.is_empty());
        let gained = or(Wrong::NoGains, scoring.cap.is_some() || by_factor, false);
        let mut slopes = slopes.map(|slopes| S::as_mut_simd_f32s(slopes).0);
        let zero = simd.splat_f32s(0.0);
        for at in 0..vectors::<S>(lanes) {
            shape_scores(simd, scores, at, &scoring, gained.then_some(&mut *gains));
            for line in 0..lines {
                let place = line * stride + at;
                let (lse, delta) = match endings {
                    Endings::OfLanes { lse, delta } => {
                        (S::as_simd_f32s(lse).0[at], S::as_simd_f32s(delta).0[at])
                    }
                    Endings::OfLines { lse, delta } => {
                        (simd.splat_f32s(lse[line]), simd.splat_f32s(delta[line]))
                    }
                };
                let delta = or(Wrong::DeltaLeftOut, delta, zero);
                let weight = exp(simd, simd.sub_f32s(scores[place], lse));
                let gradient = simd.mul_f32s(weight, simd.sub_f32s(products[place], delta));
                let nothing = simd.equal_f32s(weight, zero);
                let gradient = simd.select_f32s(nothing, zero, gradient);
                scores[place] = weight;
                products[place] = if gained { simd.mul_f32s(gradient, gains[place]) } else { gradient };
                if let (Some(slopes), Some(lags)) = (&mut slopes, scoring.lags) {
                    let first = at * S::F32_LANES + if lags.by_pair { line * ROWS } else { KEYS - 1 - line };
                    let bias = simd.partial_load_f32s(&lags.biases[first..first + S::F32_LANES]);
                    let gradient = or(Wrong::SlopeGained, gradient, products[place]);
                    slopes[at] = simd.sub_f32s(slopes[at], simd.mul_f32s(gradient, bias));
                }
            }
        }
    }
}
