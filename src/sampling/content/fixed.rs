//! Scores as integers, so that every machine decides alike: logarithms to base 2 in units of
//! 1/1024, with exponentials and logarithms from one table of integers.

use std::sync::LazyLock;

/// Units of one octave (a factor of 2).
pub(crate) const OCTAVE: i32 = 1 << 10;

/// No score is farther from 0 than this, so that sums and differences of them fit 32 bits.
pub(crate) const FARTHEST: i32 = 1 << 28;

/// `2^(f/1024)·2³⁰` for f = 0 … 1023, rounded: IEEE basic operations and `libm` only.
static POWERS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let power =
        |f: i32| libm::round(libm::exp2(f64::from(f) / f64::from(OCTAVE)) * f64::from(1 << 30)) as u32;
    (0..OCTAVE).map(power).collect()
});

/// `2^(f/1024)·2³⁰` for f = 0 … 1023, for those who compute elsewhere.
pub(crate) fn powers() -> &'static [u32] {
    &POWERS
}

/// `2^x` in 32.32 fixed point; 0 where that is below 2⁻³², the largest number where it is past 2³¹.
pub(crate) fn exp2(x: i64) -> u64 {
    let octaves = x.div_euclid(OCTAVE.into());
    let mantissa = u64::from(POWERS[x.rem_euclid(OCTAVE.into()) as usize]);
    match octaves + 2 {
        shift @ 0..=32 => mantissa << shift,
        33.. => u64::MAX,
        shift => mantissa.checked_shr(shift.unsigned_abs().min(63) as u32).unwrap_or(0),
    }
}

/// The largest x with `2^x` at most this number of 32.32 fixed point, to a unit; `-FARTHEST` of 0.
pub(crate) fn log2(value: u64) -> i32 {
    let Some(top) = value.checked_ilog2() else { return -FARTHEST };
    let mantissa = if top >= 30 { value >> (top - 30) } else { value << (30 - top) } as u32;
    let fraction = POWERS.partition_point(|&power| power <= mantissa) as i32 - 1;
    (top as i32 - 32) * OCTAVE + fraction
}

/// ln 2 in units of 2⁻³¹.
pub(crate) const LN_2: u32 = 1_488_522_236;

/// The natural logarithm of a probability from 2⁻³² up to 1, in 32.32 fixed point: a multiple of
/// 2⁻¹⁹ that is within 2⁻¹⁹ of it, which is a relative error of 2·10⁻⁶ of a weight.
///
/// `ln p = −x·ln 2/1024 + ln(1 + r)` with the power of 2 at or below p from the table, and `ln(1 +
/// r) = r − r²/2` to within 10⁻¹⁰ for what r is then.
pub(crate) fn ln_of_probability(p: u64) -> f32 {
    let Ok(p) = u32::try_from(p) else { return 0.0 };
    let Some(top) = p.checked_ilog2() else { return f32::NEG_INFINITY };
    let mantissa = p << (31 - top);
    let fraction = POWERS.partition_point(|&power| power <= mantissa >> 1) - 1;
    let octaves = (32 - top) * OCTAVE as u32 - fraction as u32;
    // 2⁻³¹ over the power.
    let reciprocal = if fraction == 0 { 1 << 31 } else { POWERS[OCTAVE as usize - fraction] };
    let rest = u64::from(mantissa - 2 * POWERS[fraction]);
    let r = (rest * u64::from(reciprocal)) >> 30;
    let near = (r - ((r * r) >> 33)) >> 5;
    // In units of 2⁻²⁷.
    let all = ((u64::from(octaves) * u64::from(LN_2)) >> 14).saturating_sub(near);
    // Below 2²⁴, so nothing is rounded.
    0.0 - ((all + 128) >> 8) as f32 / (1 << 19) as f32
}

/// `log₂ Σ 2^x`; none of nothing. The largest is taken out of the sum, so that nothing underflows.
pub(crate) fn log2_sum(scores: impl Iterator<Item = i32> + Clone) -> Option<i32> {
    let largest = scores.clone().max()?;
    let sum = scores.map(|x| exp2(i64::from(x) - i64::from(largest))).fold(0, u64::saturating_add);
    Some(largest.saturating_add(log2(sum)).clamp(-FARTHEST, FARTHEST))
}

/// A natural logarithm in units; none of −∞ and NaN.
pub(crate) fn from_ln(x: f64) -> Option<i32> {
    let units = x * std::f64::consts::LOG2_E * f64::from(OCTAVE);
    let far = f64::from(FARTHEST);
    (x > f64::NEG_INFINITY).then(|| libm::round(units.clamp(-far, far)) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_frozen() {
        assert_eq!(
            (POWERS[0], POWERS[1], POWERS[512], POWERS[1023]),
            (1 << 30, 1_074_468_888, 1_518_500_250, 2_146_030_505)
        );
        assert_eq!((exp2(0), exp2(i64::from(OCTAVE)), exp2(i64::from(-OCTAVE))), (1 << 32, 1 << 33, 1 << 31));
        assert_eq!((exp2(-33 * 1024), exp2(-32 * 1024), exp2(31 * 1024)), (0, 1, u64::MAX));
        assert_eq!((exp2(i64::MIN), exp2(i64::MAX)), (0, u64::MAX));
    }

    #[test]
    fn logarithms_undo_powers() {
        for x in (-20 * OCTAVE..30 * OCTAVE).step_by(37) {
            let back = log2(exp2(x.into()));
            assert!((x - 1..=x).contains(&back), "{x}: {back}");
        }
        assert_eq!((log2(0), log2(1), log2(u64::MAX)), (-FARTHEST, -32 * OCTAVE, 32 * OCTAVE - 1));
    }

    #[test]
    fn sums_are_those_of_real_numbers() {
        let sum = |scores: &[i32]| log2_sum(scores.iter().copied());
        assert_eq!((sum(&[]), sum(&[-77]), sum(&[5000, 5000])), (None, Some(-77), Some(5000 + OCTAVE)));
        // Far below what 32.32 fixed point has.
        assert_eq!(sum(&[-100_000, -100_000]), Some(-100_000 + OCTAVE));
        let scores: Vec<i32> = (0..200).map(|i| i * 7919 % 9001 - 4000).collect();
        let want: f64 = scores.iter().map(|&x| (f64::from(x) / 1024.0).exp2()).sum::<f64>().log2() * 1024.0;
        assert!((f64::from(sum(&scores).unwrap()) - want).abs() <= 1.5);
    }

    #[test]
    fn logarithms_of_probabilities() {
        let one = 1u64 << 32;
        assert_eq!((ln_of_probability(one), ln_of_probability(one - 1)), (0.0, 0.0));
        assert!(ln_of_probability(one - 1).is_sign_positive());
        assert_eq!((ln_of_probability(one / 2), ln_of_probability(1)), (-0.693_147_66, -22.180_71));
        let mut farthest = 0.0f64;
        for i in 0..200_000u32 {
            let p = u64::from(crate::random::pcg_hash(i) >> (i % 32)).max(1);
            let (got, want) = (f64::from(ln_of_probability(p)), libm::log(p as f64 / one as f64));
            farthest = farthest.max((got - want).abs());
        }
        assert!(farthest < 1.0 / f64::from(1 << 19), "{farthest}");
    }

    #[test]
    fn numbers_that_are_none_or_far() {
        assert_eq!((from_ln(f64::NEG_INFINITY), from_ln(f64::NAN)), (None, None));
        assert_eq!((from_ln(f64::INFINITY), from_ln(-1e300)), (Some(FARTHEST), Some(-FARTHEST)));
        assert_eq!(from_ln(std::f64::consts::LN_2), Some(OCTAVE));
    }
}
