//! Rotary position embedding, on the host.

use crate::error::{Result, ensure};

/// Which channels a rotation turns together. Checkpoints differ: the wrong choice gives fluent nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Channels `(2i, 2i+1)`: the original RoPE, and GGUF files of the llama family.
    Interleaved,
    /// Channels `(i, i + D/2)`: GPT-NeoX, and llama checkpoints in the Hugging Face layout.
    Half,
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): pair i of a head at position p turns by the angle
/// `p · base^(−2i/D)`.
///
/// Rotated queries and keys have inner products that depend on the lag only. Angles, sines and cosines are computed in f64.
///
/// ```
/// use prflash::{Pairing, Rope};
/// let rope = Rope::new(64, 1e5, Pairing::Interleaved)?;
/// let mut row = [1.0_f32; 64];
/// rope.rotate(&mut row, 0)?; // position 0 turns nothing
/// assert_eq!(row, [1.0; 64]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    head_dim: usize,
    pairing: Pairing,
    /// `base^(−2i/D)` for each pair i, radians per token.
    frequencies: Vec<f64>,
}

impl Rope {
    /// A rotation of every channel of a head.
    ///
    /// # Errors
    /// Invalid argument unless `head_dim` is even and positive and `base` finite and positive.
    pub fn new(head_dim: usize, base: f64, pairing: Pairing) -> Result<Self> {
        ensure!(
            head_dim > 0 && head_dim.is_multiple_of(2),
            "head_dim",
            "expected a positive even number, got {head_dim}"
        );
        ensure!(base.is_finite() && base > 0.0, "base", "expected a finite positive number, got {base}");
        let frequency = |pair: usize| libm::pow(base, -2.0 * pair as f64 / head_dim as f64);
        Ok(Self { head_dim, pairing, frequencies: (0..head_dim / 2).map(frequency).collect() })
    }

    /// Turns the rows of a contiguous `[len, head_dim]` slice, in place: row i as position `first_position + i`.
    ///
    /// # Errors
    /// Invalid argument unless `rows` holds whole rows.
    pub fn rotate(&self, rows: &mut [f32], first_position: i64) -> Result<()> {
        ensure!(
            rows.len().is_multiple_of(self.head_dim),
            "rows",
            "expected a multiple of head_dim = {} values, got {}",
            self.head_dim,
            rows.len()
        );
        for (row, position) in rows.chunks_exact_mut(self.head_dim).zip(first_position..) {
            for (pair, frequency) in self.frequencies.iter().enumerate() {
                let (sin, cos) = libm::sincos(position as f64 * frequency);
                let (a, b) = match self.pairing {
                    Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                    Pairing::Half => (pair, pair + self.head_dim / 2),
                };
                let (x, y) = (f64::from(row[a]), f64::from(row[b]));
                row[a] = (x * cos - y * sin) as f32;
                row[b] = (x * sin + y * cos) as f32;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    #[test]
    fn inner_products_depend_on_the_lag_only() {
        for pairing in [Pairing::Interleaved, Pairing::Half] {
            let rope = Rope::new(8, 1e4, pairing).unwrap();
            let score = |i: i64, j: i64| {
                let (mut q, mut k) = ([0.3, -1.0, 0.7, 0.2, 1.1, -0.4, 0.9, 0.5], [1.0_f32; 8]);
                rope.rotate(&mut q, i).unwrap();
                rope.rotate(&mut k, j).unwrap();
                dot(&q, &k)
            };
            assert!((score(5, 3) - score(1005, 1003)).abs() < 1e-5);
            assert!((score(5, 3) - score(5, 4)).abs() > 1e-3);
        }
    }

    #[test]
    fn pairs_turn_by_their_own_frequency() {
        let mut row = [1.0, 0.0, 1.0, 0.0];
        Rope::new(4, 100.0, Pairing::Interleaved).unwrap().rotate(&mut row, 2).unwrap();
        let want = [2f64.cos(), 2f64.sin(), 0.2f64.cos(), 0.2f64.sin()];
        assert!(row.iter().zip(want).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-7));
        let mut row = [1.0, 1.0, 0.0, 0.0];
        Rope::new(4, 100.0, Pairing::Half).unwrap().rotate(&mut row, 2).unwrap();
        let want = [2f64.cos(), 0.2f64.cos(), 2f64.sin(), 0.2f64.sin()];
        assert!(row.iter().zip(want).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-7));
    }

    #[test]
    fn refusals_name_the_argument() {
        assert_eq!(Rope::new(7, 1e4, Pairing::Half).unwrap_err().argument(), Some("head_dim"));
        assert_eq!(Rope::new(8, 0.0, Pairing::Half).unwrap_err().argument(), Some("base"));
        let rope = Rope::new(8, 1e4, Pairing::Half).unwrap();
        assert_eq!(rope.rotate(&mut [0.0; 9], 0).unwrap_err().argument(), Some("rows"));
    }
}
