//! Rotations of all positions, tabulated in two levels.

use super::rope::Rope;
use crate::error::{Error, Result, ensure};
use crate::limits::MAX_ROPE_ENTRIES;

impl Rope {
    /// Cosines and sines for the positions `0..positions`, in two levels: see [`RopeTable`]. A
    /// `stride` of at least `positions` makes one level.
    ///
    /// # Errors
    /// Invalid argument unless `stride` is positive and `positions` at most 2³⁰; too large
    /// (`stride`) past [`MAX_ROPE_ENTRIES`] of both levels.
    pub fn table(&self, positions: usize, stride: usize) -> Result<RopeTable> {
        ensure!(positions <= 1 << 30, "positions", "expected at most 2^30, got {positions}");
        ensure!(stride >= 1, "stride", "expected at least 1, got 0");
        let counts = [stride.min(positions), positions.div_ceil(stride)];
        let entries = counts.map(|rows| rows as u64 * self.frequencies().len() as u64).iter().sum::<u64>();
        if entries > MAX_ROPE_ENTRIES as u64 {
            let message = format!(
                "{positions} positions in strides of {stride} take {entries} entries, past {MAX_ROPE_ENTRIES}"
            );
            return Err(Error::too_large("stride", message));
        }
        let rows = |count: usize, step: usize, size: f64| {
            let mut rows = Vec::with_capacity(count * self.frequencies().len());
            for row in 0..count {
                rows.extend(self.frequencies().iter().map(|frequency| {
                    let (sin, cos) = libm::sincos((row * step) as f64 * frequency);
                    [(size * cos) as f32, (size * sin) as f32]
                }));
            }
            rows
        };
        Ok(RopeTable {
            stride,
            pairs: self.frequencies().len(),
            low: rows(counts[0], 1, self.temperature()),
            high: rows(counts[1], stride, 1.0),
        })
    }
}

/// The rotations of a [`Rope`] in f32, small enough for a million positions: `p = high·stride +
/// low`, and the angles of the two add up.
///
/// ```text
/// cos p = cos(high)·cos(low) − sin(high)·sin(low)        sin p = sin(high)·cos(low) + cos(high)·sin(low)
/// ```
///
/// With a stride of 1,024 a million positions take 2 × 1,024 rows, where one level takes 2²⁰ (268
/// MB at 64 channels). The temperature is in the low rows only; the first high row is (1, 0), so a
/// table of one level needs no addition. A negative position turns as its mirror image: sin changes
/// sign.
///
/// # Precision
/// Every entry is rounded once from f64, `u = 2⁻²⁴`. In the sums above the entries contribute 2u
/// and the products u, both relative to `|cos·cos| + |sin·sin| ≤ 1`, and the last addition u: the
/// error of cos p and sin p is at most `4u = 2⁻²² ≈ 2.4e-7` (times the temperature) to first order,
/// at any position up to 2²⁰, where the f64 angles add less than 1e-9.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    stride: usize,
    pairs: usize,
    low: Vec<[f32; 2]>,
    high: Vec<[f32; 2]>,
}

impl RopeTable {
    /// Positions per high row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Pairs of a row.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// (cos, sin) times the temperature of positions 0, 1, 2 …: `[rows, pairs]`.
    pub fn low(&self) -> &[[f32; 2]] {
        &self.low
    }

    /// (cos, sin) of positions 0, stride, 2·stride …: `[rows, pairs]`.
    pub fn high(&self) -> &[[f32; 2]] {
        &self.high
    }

    /// (cos, sin) of one pair at one position, added in f32 as a kernel does; `None` outside the
    /// table.
    pub fn rotation(&self, position: i64, pair: usize) -> Option<[f32; 2]> {
        let magnitude = usize::try_from(position.unsigned_abs()).ok()?;
        let row = |table: &[[f32; 2]], row: usize| {
            let entry = table.get(row.checked_mul(self.pairs)?..)?.get(pair)?;
            (pair < self.pairs).then_some(*entry)
        };
        let [cos_high, sin_high] = row(&self.high, magnitude / self.stride)?;
        let [cos_low, sin_low] = row(&self.low, magnitude % self.stride)?;
        let sin = sin_high * cos_low + cos_high * sin_low;
        let sign = if position < 0 { -1.0 } else { 1.0 };
        Some([cos_high * cos_low - sin_high * sin_low, sign * sin])
    }
}

#[cfg(test)]
mod tests {
    use super::super::rope::Pairing;
    use super::super::scaling::Scaling;
    use super::*;

    #[test]
    fn two_levels_are_as_good_as_promised() {
        let scaled =
            Rope::new(64, 1e4, Pairing::Half).unwrap().with_scaling(Scaling::yarn(32.0, 4096)).unwrap();
        for rope in [Rope::new(64, 1e4, Pairing::Half).unwrap(), scaled] {
            let table = rope.table((1 << 20) + 1, 1024).unwrap();
            assert_eq!((table.low().len(), table.high().len()), (1024 * 32, 1025 * 32));
            let bound = rope.temperature() * (2f64.powi(-22) * 1.001 + 1e-9);
            // A step that is prime to the stride meets every low row, and the last positions are
            // met one by one.
            let positions = (0..1 << 20).step_by(1009).chain((1 << 20) - 1030..=1 << 20);
            for position in positions.flat_map(|p| [p, -p]) {
                for (pair, frequency) in rope.frequencies().iter().enumerate() {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    let got = table.rotation(position, pair).unwrap();
                    for (got, want) in got.into_iter().zip([cos, sin]) {
                        let error = (f64::from(got) - rope.temperature() * want).abs();
                        assert!(error <= bound, "position {position}, pair {pair}: {error:e}");
                    }
                }
            }
            assert_eq!(table.rotation(1025 << 10, 0), None);
            assert_eq!(table.rotation(0, 32), None);
        }
    }

    #[test]
    fn one_level_is_a_table_with_one_high_row() {
        let rope = Rope::new(16, 1e4, Pairing::Half).unwrap();
        let table = rope.table(100, 128).unwrap();
        assert_eq!((table.low().len(), table.high()), (100 * 8, &[[1.0, 0.0]; 8][..]));
        assert_eq!(table.rotation(99, 3), Some(table.low()[99 * 8 + 3]));
        assert_eq!(table.rotation(100, 3), None);
    }
}
