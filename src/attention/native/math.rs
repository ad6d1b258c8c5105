//! `exp` and `tanh` of vectors, as polynomials.

use pulp::Simd;

/// Below it `e^x` is taken for 0: `e^−87` is about the smallest normal f32.
const LEAST: f32 = -87.0;

/// `1.5·2²³ + 127`: adding it to a small number rounds that to an integer, and leaves it, with the
/// bias of f32's exponent, in the lowest bits.
const ROUNDING: f32 = 12_582_912.0 + 127.0;

/// `e^x` for `x ≤ 88`: 0 below −87, NaN for NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, and `e^r` by a polynomial of degree 6 (a minimax fit of
/// the terms from r² on; it is off by at most 5.6e-9 of `e^r`).
///
/// # Precision
/// For `x ≤ 0`, as softmax has it, the error is at most `2u·e^x + 2⁻²⁷`, `u = 2⁻²⁴`: the polynomial
/// and its last rounding, and r, which is off by at most `2u·|x|` where multiplication and addition
/// are not fused (`|x|·e^x` is at most 0.37).
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value: f32| simd.splat_f32s(value);
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(ROUNDING));
    let n = simd.sub_f32s(shifted, splat(ROUNDING));
    let r = simd.mul_add_e_f32s(n, splat(-std::f32::consts::LN_2), x);
    let mut sum = splat(0.001_389_340_5);
    for coefficient in [0.008_370_277, 0.041_667_09, 0.166_665_06, 0.499_999_97, 1.0, 1.0] {
        sum = simd.mul_add_e_f32s(sum, r, splat(coefficient));
    }
    // A product, not a sum of exponents: NaN stays NaN.
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let value = simd.mul_f32s(sum, simd.transmute_f32s_u32s(power));
    simd.select_f32s(simd.less_than_f32s(x, splat(LEAST)), splat(0.0), value)
}

/// `tanh x`; NaN for NaN.
///
/// Below 0.625 it is `x·P(x²)` with five terms after the first (off by at most 4.4e-9 of it), else
/// `1 − 2/(e^2x + 1)`, so that its relative error is a few units in the last place everywhere.
#[inline(always)]
pub(super) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value: f32| simd.splat_f32s(value);
    let size = simd.abs_f32s(x);
    let square = simd.mul_f32s(x, x);
    let mut sum = splat(-0.005_704_987_3);
    for coefficient in [0.020_639_088, -0.053_739_715, 0.133_314_42, -0.333_332_8] {
        sum = simd.mul_add_e_f32s(sum, square, splat(coefficient));
    }
    let small = simd.mul_add_e_f32s(simd.mul_f32s(sum, square), x, x);
    // From 10 on it is 1 in f32. Selected and not a minimum, which may lose a NaN.
    let bounded = simd.select_f32s(simd.greater_than_f32s(size, splat(10.0)), splat(10.0), size);
    let power = exp(simd, simd.add_f32s(bounded, bounded));
    let quotient = simd.div_f32s(splat(2.0), simd.add_f32s(power, splat(1.0)));
    let large = simd.sub_f32s(splat(1.0), quotient);
    let negative = simd.less_than_f32s(x, splat(0.0));
    let large = simd.select_f32s(negative, simd.neg_f32s(large), large);
    simd.select_f32s(simd.less_than_f32s(size, splat(0.625)), small, large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, WithSimd};

    /// A function of numbers, by all lanes.
    struct Each<'a>(&'a [f32], bool);

    impl WithSimd for Each<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let Self(numbers, is_exp) = self;
            let mut results = Vec::with_capacity(numbers.len() + S::F32_LANES);
            for chunk in numbers.chunks(S::F32_LANES) {
                let x = simd.partial_load_f32s(chunk);
                let y = if is_exp { exp(simd, x) } else { tanh(simd, x) };
                results.extend_from_slice(&bytemuck::cast_slice(&[y])[..chunk.len()]);
            }
            results
        }
    }

    fn each(numbers: &[f32], is_exp: bool) -> Vec<Vec<f32>> {
        // What this machine has, and plain numbers.
        vec![Arch::new().dispatch(Each(numbers, is_exp)), Arch::Scalar.dispatch(Each(numbers, is_exp))]
    }

    #[test]
    fn exp_is_within_its_bound() {
        let numbers: Vec<f32> = (0..1 << 20).map(|i| -(i as f32) / 11_000.0).collect();
        for results in each(&numbers, true) {
            for (&x, &y) in numbers.iter().zip(&results) {
                let want = f64::from(x).exp();
                let bound = want / f64::from(1 << 23) + 1.0 / f64::from(1 << 27);
                assert!((f64::from(y) - want).abs() <= bound, "e^{x}: got {y}, expected {want}");
                // Softmax divides by sums of them, so small ones count among small ones too.
                assert!(x < -80.0 || (f64::from(y) / want - 1.0).abs() < 2e-5, "e^{x}: got {y}");
            }
        }
    }

    #[test]
    fn the_edges_of_exp() {
        let numbers = [f32::NEG_INFINITY, f32::MIN, -87.5, 0.0, f32::NAN, f32::NAN, -1e30, -100.0];
        for results in each(&numbers, true) {
            assert_eq!([results[0], results[1], results[2], results[3]], [0.0, 0.0, 0.0, 1.0]);
            assert!(results[4].is_nan() && results[5].is_nan());
            assert_eq!(results[6..8], [0.0; 2]);
        }
    }

    #[test]
    fn tanh_is_good_to_a_few_units_everywhere() {
        let magnitudes = (0..1 << 18).map(|i| 1e-12 * 1.000_13_f32.powi(i));
        let numbers: Vec<f32> = magnitudes.flat_map(|x| [x, -x]).filter(|x| x.is_finite()).collect();
        for results in each(&numbers, false) {
            for (&x, &y) in numbers.iter().zip(&results) {
                let want = f64::from(x).tanh();
                assert!(
                    (f64::from(y) - want).abs() <= 4.0 * want.abs() / f64::from(1 << 24),
                    "tanh {x}: {y}"
                );
            }
        }
        let edges = each(&[f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::NAN], false);
        assert!(edges.iter().all(|got| got[..3] == [1.0, -1.0, 0.0] && got[3].is_nan()));
    }
}
