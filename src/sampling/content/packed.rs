//! Summaries in 8 bits, as words that caches and kernels hold, decided in integers: host and GPU
//! write the same bits.
//!
//! A group of n tokens of D channels takes `2·⌈D/4⌉ + 2` words:
//!
//! ```text
//! ⌈D/4⌉ words   codes of means, i8, four to a word, the first in the lowest byte
//! ⌈D/4⌉ words   codes of reaches, u8, alike
//! 1 word        the step between codes of means, f32
//! 1 word        the step between codes of reaches, f32
//! ```
//!
//! Every key of the group is within `mean ± reach` of its channel, with mean and reach as their
//! codes times their steps. Channels past D, and those of zeros alone, have codes 0.
//!
//! All numbers become integers first, in units of `2^(E − 22)`, where E is the least exponent of at
//! least [`LEAST_EXPONENT`] with all `|x| < 2^E`. Least numbers are rounded down, largest ones up,
//! and the sum of the tokens (added in their order, in f32) to the nearest, to even at a half. A
//! step is the least one by which no code is past its range; means go to the nearest code, away
//! from 0 at a half, and reaches to the next one that holds all keys. A unit is added to reaches,
//! for what f32 rounds off where both are put together again.

/// Units of `2^E` are `2^UNIT_BITS`.
pub(crate) const UNIT_BITS: i32 = 22;

/// The least E. Groups of smaller numbers keep fewer bits of them.
pub(crate) const LEAST_EXPONENT: i32 = -100;

/// The most tokens of a group whose sum 32 bits hold.
pub(crate) const MAX_GROUP: usize = 256;

/// Words of a group's codes of means, and as many of reaches.
pub(crate) fn code_words(dim: usize) -> usize {
    dim.div_ceil(4)
}

/// Words of a group.
pub(crate) fn words(dim: usize) -> usize {
    2 * code_words(dim) + 2
}

/// The words of a group of `tokens` tokens, from the extremes and sums of its channels.
pub(crate) fn pack(least: &[f32], largest: &[f32], sums: &[f32], tokens: usize) -> Vec<u32> {
    let mut packed = vec![0; words(least.len())];
    let farthest = least.iter().chain(largest).fold(0.0f32, |most, x| most.max(x.abs()));
    if farthest == 0.0 {
        return packed;
    }
    let exponent = (((farthest.to_bits() >> 23) as i32) - 126).max(LEAST_EXPONENT);
    let [to_units, unit] = [UNIT_BITS - exponent, exponent - UNIT_BITS].map(power_of_two);
    let means: Vec<i64> = sums
        .iter()
        .map(|sum| rounded((f64::from(*sum) * to_units).round_ties_even() as i64, tokens as i64))
        .collect();
    let of_means = largest_of(&means).div_ceil(127) as i64;
    let codes: Vec<i64> = means.iter().map(|&mean| rounded(mean, of_means)).collect();
    let reaches: Vec<i64> = least
        .iter()
        .zip(largest)
        .zip(&codes)
        .map(|((least, largest), code)| {
            let low = (f64::from(*least) * to_units).floor() as i64;
            let high = (f64::from(*largest) * to_units).ceil() as i64;
            let zeros = low == 0 && high == 0 && *code == 0;
            (high - code * of_means).max(code * of_means - low) + i64::from(!zeros)
        })
        .collect();
    let of_reaches = largest_of(&reaches).div_ceil(255);
    let half = code_words(least.len());
    for (channel, (code, reach)) in codes.into_iter().zip(reaches).enumerate() {
        let (word, shift) = (channel / 4, channel % 4 * 8);
        packed[word] |= u32::from(code as i8 as u8) << shift;
        packed[half + word] |= (reach.unsigned_abs().div_ceil(of_reaches) as u32) << shift;
    }
    packed[2 * half] = ((of_means as f64 * unit) as f32).to_bits();
    packed[2 * half + 1] = ((of_reaches as f64 * unit) as f32).to_bits();
    packed
}

/// The (means, reaches) of `dim` channels that the words of a group stand for.
pub(crate) fn unpack(packed: &[u32], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let half = code_words(dim);
    let [of_means, of_reaches] = [2 * half, 2 * half + 1].map(|word| f32::from_bits(packed[word]));
    let byte = |first: usize, channel: usize| (packed[first + channel / 4] >> (channel % 4 * 8)) as u8;
    let means = (0..dim).map(|channel| f32::from(byte(0, channel) as i8) * of_means).collect();
    let reaches = (0..dim).map(|channel| f32::from(byte(half, channel)) * of_reaches).collect();
    (means, reaches)
}

fn largest_of(numbers: &[i64]) -> u64 {
    numbers.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0)
}

/// A quotient by a positive number, or 0 by 0: to the nearest, away from 0 at a half.
fn rounded(x: i64, by: i64) -> i64 {
    if by == 0 { 0 } else { x.signum() * ((2 * x.abs() + by) / (2 * by)) }
}

/// `2^x` of −1022 to 1023.
fn power_of_two(x: i32) -> f64 {
    f64::from_bits(((x + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Extremes and sums of rows.
    fn of_rows(rows: &[Vec<f32>]) -> [Vec<f32>; 3] {
        let channel = |c: usize| rows.iter().map(move |row| row[c]);
        let all = |of: &dyn Fn(usize) -> f32| (0..rows[0].len()).map(of).collect();
        [
            all(&|c| channel(c).fold(f32::INFINITY, f32::min)),
            all(&|c| channel(c).fold(f32::NEG_INFINITY, f32::max)),
            all(&|c| channel(c).fold(0.0, |sum, x| sum + x)),
        ]
    }

    #[test]
    fn words_are_frozen() {
        let rows = vec![vec![1.0, -3.0, 0.0, 127.0, 0.5], vec![2.0, -3.0, 0.0, 127.0, -64.0]];
        let [least, largest, sums] = of_rows(&rows);
        let packed = pack(&least, &largest, &sums, 2);
        assert_eq!(packed.len(), words(5));
        let (means, reaches) = unpack(&packed, 5);
        assert_eq!(means, [2.0, -3.0, 0.0, 127.0, -32.0]);
        assert_eq!(packed[..2], [0x7f00_fd02, 0xe0]);
        assert_eq!(packed[2] & 0xff_0000, 0);
        assert!((reaches[4] - 32.5).abs() < 0.2 && reaches[0] >= 1.0, "{reaches:?}");
        assert_eq!(pack(&[0.0; 3], &[0.0; 3], &[0.0; 3], 7), [0; 4]);
    }

    #[test]
    fn every_key_is_within_reach() {
        for (size, tokens, dim) in [(1.0, 64, 16), (1e-30, 3, 5), (3e38, 1, 4), (1e-3, 256, 8), (1e-42, 2, 4)]
        {
            let number = |i: usize| {
                let unit = crate::random::hash_words(&[tokens as u32, i as u32]) as f64 / f64::from(u32::MAX);
                ((2.0 * unit - 1.0) * size * [1.0, 0.01, 1.0, 1e-6][i % 4]) as f32
            };
            let rows: Vec<Vec<f32>> =
                (0..tokens).map(|t| (0..dim).map(|c| number(t * dim + c)).collect()).collect();
            let [least, largest, sums] = of_rows(&rows);
            let packed = pack(&least, &largest, &sums, tokens);
            let (means, reaches) = unpack(&packed, dim);
            let farthest = reaches.iter().copied().fold(0.0, f32::max);
            for row in &rows {
                for ((x, mean), reach) in row.iter().zip(&means).zip(&reaches) {
                    assert!((mean - reach..=mean + reach).contains(x), "{x}: {mean} ± {reach}");
                    // Not by much more than the farthest key and a code.
                    assert!(*reach <= 2.2 * size as f32 + farthest / 128.0 || size < 1e-37);
                }
            }
        }
    }
}
