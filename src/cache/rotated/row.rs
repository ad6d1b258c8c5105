//! One row in integers: its scale and its codes.

use super::codebook::{self, FRACTION_BITS};
use super::hadamard::{block, transform};
use crate::cache::quantize::{aligned, parts};

/// The shift s of some rows: all of their f16 numbers are below 2²¹ in units of 2^(s − 24).
pub(super) fn shift(halves: impl Iterator<Item = u16>) -> u32 {
    halves.map(|half| parts(half).1).max().unwrap_or(0).saturating_sub(10)
}

/// A sum of squares `q·4^t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Squares {
    pub(super) q: u32,
    pub(super) t: u32,
}

impl Squares {
    /// Of at most 256 numbers below 2³¹. Magnitudes are cut to 12 bits, so that the sum is below
    /// 2³².
    pub(super) fn of(row: &[i32]) -> Self {
        let most = row.iter().map(|y| y.unsigned_abs()).max().unwrap_or(0);
        let t = (32 - most.leading_zeros()).saturating_sub(12);
        let q = row.iter().fold(0_u32, |sum, y| {
            let y = y.unsigned_abs() >> t;
            sum.wrapping_add(y.wrapping_mul(y))
        });
        Self { q, t }
    }

    /// `6·log₂` of the root, to the nearest integer; none of zeros.
    fn sixths(self) -> Option<i32> {
        /// `2^(31 + 1/6)`, `2^(31 + 3/6)` and `2^(31 + 5/6)`.
        const BETWEEN: [u32; 3] = [2_410_468_895, 3_037_000_500, 3_826_380_859];
        let zeros = self.q.checked_ilog2().map(|ones| 31 - ones)?;
        let mantissa = self.q << zeros;
        let third = BETWEEN.iter().filter(|&&between| mantissa >= between).count() as i32;
        Some(3 * (31 - zeros as i32) + third + 6 * self.t as i32)
    }
}

/// A number that grows with the sum of squares of at most 512 numbers, in about 256ths of `log₂`; 0
/// of zeros. They are read once, four at a time, and cut to units of the largest so far: of which
/// all have at most 11 bits.
pub(super) fn rank(mut halves: impl Iterator<Item = u16>) -> u32 {
    let (mut unit, mut sum) = (0, 0_u32);
    loop {
        let four: Vec<(u32, u32)> = halves.by_ref().take(4).map(parts).collect();
        let Some(most) = four.iter().map(|&(_, e)| e).max() else { break };
        let raised = most.max(unit);
        sum = sum.checked_shr(2 * (raised - unit)).unwrap_or(0);
        sum += four.iter().map(|&(m, e)| (m >> (raised - e)).pow(2)).sum::<u32>();
        unit = raised;
    }
    let Some(ones) = sum.checked_ilog2() else { return 0 };
    let fraction = (sum << (31 - ones)) >> 23 & 0xff;
    1 + ((ones + 2 * unit) << 8 | fraction)
}

/// What codes of rows of so many channels have in common.
#[derive(Clone, Debug)]
pub(crate) struct Scales {
    /// The number of sixths of an octave that scale 0 would have.
    offset: i32,
    /// √D·2^(−i/6) = `reciprocals[i].0·2^(reciprocals[i].1 − 16)`.
    reciprocals: [(u32, i32); 6],
    /// `1/√(D·P)`.
    unit: f64,
}

/// `2^(i/6)`.
#[allow(clippy::approx_constant, reason = "a table of its own")]
const ROOTS: [f64; 6] =
    [1.0, 1.122462048309373, 1.2599210498948732, 1.4142135623730951, 1.5874010519681994, 1.7817974362806785];

impl Scales {
    /// For rows of 1 to 256 channels.
    pub(crate) fn of(dim: usize) -> Self {
        let product = (dim * block(dim)) as u64;
        // ⌈3·log₂(D·P)⌉: of the root of a sum of squares of 2⁴¹ in six octaves, less 6·41.
        let most = (64 - (product.pow(3) - 1).leading_zeros()) as i32;
        let reciprocals = ROOTS.map(|root| {
            let factor = (dim as f64).sqrt() / root;
            // From 2⁻¹ to 2⁴, exactly halved until below 1.
            let (mut mantissa, mut exponent) = (factor, 0);
            while mantissa >= 1.0 {
                (mantissa, exponent) = (mantissa / 2.0, exponent + 1);
            }
            (((mantissa * 65_536.0).round() as u32).min(0xffff), exponent)
        });
        Self { offset: most + 6 * 41 - 255, reciprocals, unit: 1.0 / (product as f64).sqrt() }
    }

    /// The scale of a row that was transformed, in units of 2^(shift − 24): 0 of zeros, else 1 to
    /// 255.
    pub(super) fn scale(&self, row: &[i32], shift: u32) -> u8 {
        let sixths = Squares::of(row).sixths();
        sixths.map_or(0, |sixths| (sixths + 6 * shift as i32 - self.offset).clamp(1, 255) as u8)
    }

    /// The root of the mean square that a scale stands for, of a row of unit-length transform.
    pub(crate) fn number(&self, scale: u8) -> f64 {
        if scale == 0 {
            return 0.0;
        }
        let sixths = i32::from(scale) + self.offset;
        let octaves = sixths.div_euclid(6) - 24;
        ROOTS[sixths.rem_euclid(6) as usize] * self.unit * f64::from_bits(((octaves + 1023) as u64) << 52)
    }

    /// The number of sixths of an octave that scale 0 would have.
    pub(crate) fn offset(&self) -> i32 {
        self.offset
    }

    /// For each sixth of an octave the reciprocal of a scale, the power of two that goes with it,
    /// and what a scale stands for, but for a power of two.
    pub(crate) fn sixths(&self) -> [(u32, i32, f64); 6] {
        std::array::from_fn(|i| {
            let (reciprocal, exponent) = self.reciprocals[i];
            (reciprocal, exponent, ROOTS[i] * self.unit)
        })
    }

    /// Calls `visit(channel, code)` for the codes at 8 bits of a transformed row of this scale.
    pub(super) fn codes(&self, row: &[i32], shift: u32, scale: u8, mut visit: impl FnMut(usize, u32)) {
        let sixths = i32::from(scale) + self.offset;
        let (reciprocal, exponent) = self.reciprocals[sixths.rem_euclid(6) as usize];
        let left = FRACTION_BITS as i32 + shift as i32 - sixths.div_euclid(6) + exponent;
        for (channel, y) in row.iter().enumerate() {
            let magnitude = y.unsigned_abs();
            // Of a scale that fits the row all that is shifted to the left is below 2¹⁸.
            let aligned = match u32::try_from(left) {
                Ok(left) => magnitude.checked_shl(left).unwrap_or(0),
                Err(_) => magnitude.checked_shr(left.unsigned_abs()).unwrap_or(0),
            };
            let number = if scale == 0 { 0 } else { (aligned.min(0xffff) * reciprocal) >> 16 };
            visit(channel, codebook::code(number, *y < 0));
        }
    }
}

/// A row in units of 2^(shift − 24), less a centre if there is one, transformed.
pub(super) fn transformed(
    halves: impl Iterator<Item = u16>,
    centre: Option<&[i32]>,
    shift: u32,
    row: &mut Vec<i32>,
) {
    row.clear();
    row.extend(halves.map(|half| aligned(half, shift)));
    if let Some(centre) = centre {
        row.iter_mut().zip(centre).for_each(|(x, centre)| *x -= centre);
    }
    transform(row);
}

/// The mean of numbers with this sum, to the nearest, away from 0 at a half.
pub(super) fn mean(sum: i32, count: u32) -> i32 {
    let magnitude = (sum.unsigned_abs() + count / 2).checked_div(count).unwrap_or(0) as i32;
    if sum < 0 { -magnitude } else { magnitude }
}

/// The f16 number nearest to `x·2^shift` in units of 2⁻²⁴, away from 0 at a half, for |x| below
/// 2²¹ and numbers that f16 has.
pub(super) fn half(x: i32, shift: u32) -> u16 {
    let (sign, magnitude) = (if x < 0 { 0x8000 } else { 0 }, x.unsigned_abs());
    let bits = 32 - magnitude.leading_zeros();
    // What is past 11 bits is rounded off, as far as the shift doesn't leave subnormal numbers.
    let drop = bits.saturating_sub(11);
    let rounded = if drop > 0 { (magnitude + (1 << (drop - 1))) >> drop } else { magnitude };
    if rounded == 0 {
        return 0;
    }
    // m·2^e with m of 11 bits, or with e = 0.
    let (mut m, mut e) = (rounded, drop + shift);
    if m == 1 << 11 {
        (m, e) = (1 << 10, e + 1);
    }
    let spare = (m.leading_zeros() - 21).min(e);
    (m, e) = (m << spare, e - spare);
    sign | if e == 0 { m as u16 } else { (((e + 1) << 10) | (m & 0x3ff)) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::quantize::to_f32;
    use half::f16;

    #[test]
    fn halves_are_the_nearest() {
        for shift in [0, 1, 5, 10, 19] {
            for x in
                (1..1 << 21).step_by(101).chain([1, 1023, 1024, 2047, 2048, 2049, 4095, (1 << 21) - 1024])
            {
                let want = f64::from(x) * 2f64.powi(shift as i32 - 24);
                if want > 65_504.0 {
                    continue;
                }
                let [got, minus] = [half(x, shift), half(-x, shift)];
                assert_eq!(minus, got | 0x8000);
                let off = |half: u16| (f64::from(to_f32(half)) - want).abs();
                let nearest = f16::from_f64(want).to_bits();
                assert!(off(got) == off(nearest), "{x}, {shift}: {got:#x}, expected {nearest:#x}");
            }
        }
    }

    #[test]
    fn scales_are_the_nearest_sixth_of_an_octave() {
        for dim in [1, 4, 36, 64, 80, 96, 128, 256] {
            let scales = Scales::of(dim);
            // What is transformed is below 2²², and a root of P longer then.
            let most = (f64::from(1 << 22) * (block(dim) as f64).sqrt()) as i32 - 1;
            for size in [1, 7, 100, 5000, 1 << 20, most] {
                let row: Vec<i32> =
                    (0..dim).map(|c| size / (1 + c as i32 * 3 % 7) * [1, -1][c % 2]).collect();
                for shift in [0, 3, 19] {
                    let squares: f64 = row.iter().map(|&y| f64::from(y).powi(2)).sum();
                    let rms = (squares / (dim * block(dim)) as f64).sqrt() * 2f64.powi(shift as i32 - 24);
                    let scale = scales.scale(&row, shift);
                    let octaves = (scales.number(scale) / rms).log2();
                    assert!(octaves.abs() < 1.0 / 12.0 + 1e-3 || scale == 1, "{dim}: {size}, {shift}");
                    assert!(scale > 1 || rms < 2f64.powi(-25));
                    assert!(
                        scales.number(255) < 2f64.powi(17) * 1.2 && scales.number(255) > 2f64.powi(17) * 0.9
                    );
                }
            }
            assert_eq!((scales.scale(&vec![0; dim], 3), scales.number(0)), (0, 0.0));
        }
    }

    /// Codes by integers are those of a division in f64, but near thresholds.
    #[test]
    fn codes_are_those_of_a_division() {
        let mut off = 0;
        for dim in [1, 4, 36, 64, 80, 96, 128, 256] {
            let scales = Scales::of(dim);
            for (seed, size) in [(1_u32, 30_i32), (2, 3000), (3, 1 << 20), (4, 1 << 29)] {
                let random = |c: usize| crate::random::hash_words(&[seed, c as u32]) as i32 >> 2;
                let row: Vec<i32> =
                    (0..dim).map(|c| ((i64::from(random(c)) * i64::from(size)) >> 29) as i32).collect();
                let shift = 3;
                let scale = scales.scale(&row, shift);
                let unit = 2f64.powi(shift as i32 - 24) / (block(dim) as f64).sqrt() / scales.number(scale);
                scales.codes(&row, shift, scale, |channel, got| {
                    let z = f64::from(row[channel]).abs() * unit * 4096.0;
                    let [least, most] = [(z - 2.0 - z / 4096.0).max(0.0), z + 1.0]
                        .map(|z| codebook::code(z as u32, row[channel] < 0));
                    assert!((least.min(most)..=least.max(most)).contains(&got), "{dim}, {size}: {got}");
                    off += u32::from(got != codebook::code(z as u32, row[channel] < 0));
                });
            }
        }
        assert!(off < 200, "{off}");
    }
}
