//! Levels that fit a normal distribution, in a tree: the code of fewer bits is that of more without
//! its last ones.
//!
//! Thresholds are in units of 2⁻¹² and levels of 2⁻²⁰, for a standard deviation of 1. Codes count
//! from the most negative level up, so tables have the positive half. They are made so:
//!
//! 1. Two cells on each side of 0 have the threshold that Lloyd's algorithm finds (levels are the
//!    means of their cells under the normal distribution, thresholds are midway between levels).
//! 2. Each of them is cut into four by the same algorithm, with its ends where they are, and each
//!    of those into sixteen.
//! 3. A level at 8 bits is the mean of its cell.
//! 4. At 4, 3 and 2 bits levels are a unit times a monic polynomial of the code, which a kernel
//!    evaluates in a few steps without rounding anything off: the one with the least mean squared
//!    error whose coefficients have few binary places. It has .2% more than the means of the cells
//!    have at 4 bits, and hardly more than .01% at 3 and 2.

/// Where positive codes of 8 bits end, the last but without an end.
pub(super) const THRESHOLDS: [u16; 127] = [
    60, 119, 179, 238, 298, 358, 417, 477, 537, 597, 656, 716, 776, 836, 896, 956, 1017, 1077, 1137, 1198,
    1258, 1319, 1379, 1440, 1501, 1562, 1623, 1684, 1746, 1807, 1869, 1931, 1993, 2055, 2117, 2179, 2242,
    2305, 2368, 2431, 2494, 2558, 2621, 2685, 2749, 2814, 2878, 2943, 3008, 3074, 3139, 3205, 3272, 3338,
    3405, 3472, 3539, 3607, 3675, 3743, 3812, 3881, 3951, 4021, 4105, 4190, 4276, 4363, 4450, 4538, 4626,
    4715, 4805, 4896, 4988, 5080, 5173, 5267, 5363, 5459, 5556, 5655, 5754, 5855, 5957, 6061, 6165, 6271,
    6379, 6488, 6598, 6710, 6824, 6939, 7057, 7176, 7299, 7425, 7553, 7684, 7817, 7953, 8092, 8234, 8379,
    8528, 8681, 8838, 9000, 9167, 9338, 9515, 9759, 10015, 10285, 10571, 10875, 11200, 11551, 11932, 12352,
    12821, 13353, 13975, 14729, 15705, 17154,
];

/// Positive levels at 8 bits.
pub(super) const LEVELS_8: [u16; 128] = [
    30, 89, 149, 209, 268, 328, 388, 447, 507, 567, 627, 686, 746, 806, 866, 926, 986, 1047, 1107, 1167,
    1228, 1288, 1349, 1410, 1470, 1531, 1593, 1654, 1715, 1776, 1838, 1900, 1962, 2024, 2086, 2148, 2211,
    2273, 2336, 2399, 2462, 2526, 2589, 2653, 2717, 2782, 2846, 2911, 2976, 3041, 3107, 3172, 3238, 3305,
    3371, 3438, 3506, 3573, 3641, 3709, 3778, 3847, 3916, 3986, 4063, 4148, 4233, 4319, 4406, 4494, 4582,
    4671, 4760, 4850, 4942, 5034, 5126, 5220, 5315, 5410, 5507, 5605, 5704, 5805, 5906, 6009, 6113, 6218,
    6325, 6433, 6542, 6654, 6766, 6881, 6997, 7116, 7237, 7362, 7488, 7618, 7749, 7884, 8021, 8162, 8306,
    8453, 8604, 8759, 8918, 9082, 9251, 9425, 9635, 9884, 10147, 10424, 10718, 11032, 11368, 11733, 12132,
    12573, 13069, 13638, 14311, 15146, 16264, 18043,
];

/// Bits behind the point of thresholds, and of levels at 8 bits as the table has them.
pub(crate) const FRACTION_BITS: u32 = 12;

/// Bits behind the point of levels.
pub(super) const LEVEL_BITS: u32 = 20;

/// What levels are a polynomial of: `unit · x·(c₀ + x²·(c₁ + x²))` in units of 2⁻¹², or one degree
/// less, x the distance of a code from the middle of all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polynomial {
    /// What a kernel multiplies by once where it can: in place of each level the scale of a row.
    pub(crate) unit: f32,
    /// All but the last one, which is 1; none at 8 bits, where levels are too many.
    pub(crate) coefficients: &'static [f32],
}

/// The levels at some bits. Every step is exact in f32: no sum or product has more than 24 bits.
pub(crate) const fn polynomial(bits: u32) -> Polynomial {
    match bits {
        4 => Polynomial { unit: 0.125, coefficients: &[122_010.0 / 16.0, 15.0] },
        3 => Polynomial { unit: 2.0, coefficients: &[936.0, 14.375] },
        2 => Polynomial { unit: 207.5, coefficients: &[17.625] },
        _ => Polynomial { unit: 1.0, coefficients: &[] },
    }
}

/// Two numbers to a word, as kernels read them.
const fn in_words(numbers: &[u16]) -> [[u32; 4]; 16] {
    let mut words = [[0; 4]; 16];
    let mut index = 0;
    while index < numbers.len() {
        words[index / 8][index % 8 / 2] |= (numbers[index] as u32) << (16 * (index % 2));
        index += 1;
    }
    words
}

/// [`THRESHOLDS`], two to a word.
pub(crate) const fn threshold_words() -> [[u32; 4]; 16] {
    in_words(&THRESHOLDS)
}

/// [`LEVELS_8`], two to a word.
pub(crate) const fn level_words() -> [[u32; 4]; 16] {
    in_words(&LEVELS_8)
}

/// How many positive levels there are at some bits.
const fn positive_count(bits: u32) -> usize {
    1 << (bits - 1)
}

/// A positive level, in units of 2⁻²⁰.
const fn positive_level(index: usize, bits: u32) -> i32 {
    let unit = 1 << (LEVEL_BITS - FRACTION_BITS);
    if bits == 8 {
        return LEVELS_8[index] as i32 * unit;
    }
    let (Polynomial { unit: factor, coefficients }, x) = (polynomial(bits), index as f64 + 0.5);
    let (mut sum, mut power) = (1.0, coefficients.len());
    while power > 0 {
        power -= 1;
        sum = sum * (x * x) + coefficients[power] as f64;
    }
    (x * sum * factor as f64 * unit as f64) as i32
}

/// The positive levels at some bits, in units of 2⁻²⁰.
pub(super) fn positive_levels(bits: u32) -> impl ExactSizeIterator<Item = i32> + Clone {
    (0..positive_count(bits)).map(move |index| positive_level(index, bits))
}

/// Where the positive cells at some bits end, but for the last, which has no end.
pub(super) fn positive_ends(bits: u32) -> impl Iterator<Item = u16> {
    let finer = 128 / positive_count(bits);
    THRESHOLDS.iter().skip(finer - 1).step_by(finer).copied()
}

/// The level of a code, in units of 2⁻²⁰.
pub(super) const fn level(code: u32, bits: u32) -> i32 {
    let half = positive_count(bits);
    let code = code as usize & (2 * half - 1);
    if code < half { -positive_level(half - 1 - code, bits) } else { positive_level(code - half, bits) }
}

/// The levels at 8, 4, 3 and 2 bits as f32, by code.
#[cfg(feature = "native")]
static NUMBERS: [[f32; 256]; 4] = {
    let mut all = [[0.0; 256]; 4];
    let mut which = 0;
    while which < 4 {
        let bits = [8, 4, 3, 2][which];
        let mut code = 0;
        while code < 1 << bits {
            all[which][code] = level(code as u32, bits) as f32 / (1 << LEVEL_BITS) as f32;
            code += 1;
        }
        which += 1;
    }
    all
};

/// The levels at some bits as f32, by code; the places behind them are never asked for.
#[cfg(feature = "native")]
pub(crate) fn numbers(bits: u32) -> &'static [f32; 256] {
    match bits {
        8 => &NUMBERS[0],
        4 => &NUMBERS[1],
        3 => &NUMBERS[2],
        _ => &NUMBERS[3],
    }
}

/// The code at 8 bits of a number of this magnitude, in units of 2⁻¹².
pub(super) fn code(magnitude: u32, negative: bool) -> u32 {
    let above = THRESHOLDS.partition_point(|&threshold| u32::from(threshold) <= magnitude) as u32;
    if negative { 127 - above } else { 128 + above }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn density(x: f64) -> f64 {
        if x.is_infinite() { 0.0 } else { (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() }
    }

    /// The probability of what is above x.
    fn above(x: f64) -> f64 {
        if x.is_infinite() { 0.0 } else { 0.5 * libm::erfc(x / std::f64::consts::SQRT_2) }
    }

    fn mean(cell: &[f64]) -> f64 {
        (density(cell[0]) - density(cell[1])) / (above(cell[0]) - above(cell[1]))
    }

    /// The ends of n cells within a cell, by Lloyd's algorithm.
    fn split(from: f64, to: f64, n: usize) -> Vec<f64> {
        let far = if to.is_infinite() { from + 3.0 } else { to };
        let mut ends: Vec<f64> = (0..=n).map(|i| from + (far - from) * i as f64 / n as f64).collect();
        ends[n] = to;
        loop {
            let levels: Vec<f64> = ends.windows(2).map(mean).collect();
            let mut moved = 0.0_f64;
            for (i, end) in ends.iter_mut().enumerate().skip(1).take(n - 1) {
                let midway = (levels[i - 1] + levels[i]) / 2.0;
                moved = moved.max((midway - *end).abs());
                *end = midway;
            }
            if moved < 1e-12 {
                return ends;
            }
        }
    }

    fn finer(ends: &[f64], n: usize) -> Vec<f64> {
        let parts = ends.windows(2).flat_map(|cell| split(cell[0], cell[1], n)[1..].to_vec());
        [0.0].into_iter().chain(parts).collect()
    }

    /// The mean squared error of a normal variable at the positive levels of these cells.
    fn error(ends: &[f64], levels: impl Iterator<Item = f64>) -> f64 {
        let kept = |(cell, level): (&[f64], f64)| {
            (level - 2.0 * mean(cell)) * level * (above(cell[0]) - above(cell[1]))
        };
        1.0 + 2.0 * ends.windows(2).zip(levels).map(kept).sum::<f64>()
    }

    fn levels(bits: u32) -> impl Iterator<Item = f64> {
        positive_levels(bits).map(|level| f64::from(level) / f64::from(1 << LEVEL_BITS))
    }

    /// Computed again as the module says.
    #[test]
    fn the_tables_are_what_the_docs_say() {
        let two = split(0.0, f64::INFINITY, 2);
        let four = finer(&two, 4);
        let eight = finer(&four, 16);
        let three: Vec<f64> = four.iter().step_by(2).copied().collect();
        let near = |table: &[u16], want: Vec<f64>| {
            assert_eq!(table.len(), want.len());
            for (got, want) in table.iter().zip(want) {
                assert!((f64::from(*got) - 4096.0 * want).abs() <= 0.5 + 1e-6, "{got} for {}", 4096.0 * want);
            }
        };
        near(&THRESHOLDS, eight[1..128].to_vec());
        near(&LEVELS_8, eight.windows(2).map(mean).collect());
        for (bits, ends, more) in [(8, &eight, 2e-4), (4, &four, 2e-3), (3, &three, 1.1e-4), (2, &two, 1e-5)]
        {
            let least = error(ends, ends.windows(2).map(mean));
            let (got, want) = (super::super::mean_squared_error(bits), error(ends, levels(bits)));
            assert!((got / want - 1.0).abs() < 1e-6, "{bits} bits: {got} for {want}");
            assert!(want >= least && want < (1.0 + more) * least, "{bits} bits: {want}, at least {least}");
        }
    }

    /// Whether a multiply-add is rounded once or twice makes no difference.
    #[test]
    fn polynomials_are_exact() {
        for bits in [4, 3, 2] {
            for code in 0..1 << bits {
                let x = code as f32 - ((1 << bits) - 1) as f32 / 2.0;
                let exact = |number: f64| {
                    assert_eq!(f64::from(number as f32), number);
                    number
                };
                let square = exact(f64::from(x) * f64::from(x));
                let Polynomial { unit: factor, coefficients } = polynomial(bits);
                let sum = coefficients
                    .iter()
                    .rev()
                    .fold(1.0, |sum, &coefficient| exact(exact(sum * square) + f64::from(coefficient)));
                let unit = f64::from(1 << (LEVEL_BITS - FRACTION_BITS));
                let product = exact(exact(f64::from(x) * sum) * f64::from(factor));
                assert_eq!(product * unit, f64::from(level(code, bits)));
            }
        }
        assert!(polynomial(8).coefficients.is_empty());
    }

    #[test]
    fn fewer_bits_are_the_first_ones() {
        for code in 0..256 {
            for bits in [4, 3, 2] {
                // A level lies within what its finer codes stand for.
                let coarse = code >> (8 - bits);
                let [first, last] = [coarse << (8 - bits), ((coarse + 1) << (8 - bits)) - 1];
                let inside = level(first, 8)..=level(last, 8);
                assert!(inside.contains(&level(coarse, bits)), "{code} at {bits} bits");
                let unit = f32::from_bits((127 + LEVEL_BITS) << 23);
                assert_eq!(numbers(bits)[coarse as usize] * unit, level(coarse, bits) as f32);
            }
            assert_eq!(level(code, 8), -level(255 - code, 8));
            assert!(code == 0 || level(code, 8) > level(code - 1, 8));
        }
        assert_eq!([0, 59, 60, 65_535].map(|z| code(z, false)), [128, 128, 129, 255]);
        assert_eq!([0, 59, 60, 65_535].map(|z| code(z, true)), [127, 127, 126, 0]);
    }
}
