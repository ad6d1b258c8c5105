//! Rotary frequencies that depend on the length of a sequence.

use super::rope::Rope;
use crate::error::{Result, ensure};

/// LongRoPE (Ding et al. 2024, arXiv 2402.13753): one [`Rope`] for sequences within the length that
/// a model was trained on, and one with slower frequencies for longer ones (Phi-3 and its
/// successors).
///
/// Frequency i is `ωᵢ/λᵢ`, with factors λ of the short or of the long kind. With n the length in
/// training and N the longest one, cos and sin of both carry the temperature `√(1 + ln(N/n)/ln n)`.
/// `tests/host/positions.rs` compares both with Hugging Face transformers 5.23.
///
/// The length is that of the whole sequence. When it grows past n, keys that were rotated by the
/// short factors no longer fit: rotate them anew, or store them before rotation
/// ([`StoredKeys::BeforeRotation`](crate::cache::StoredKeys)).
///
/// ```
/// use prflash::position::{LongRope, Pairing};
/// use prflash::Rope;
/// let rope = Rope::new(4, 1e4, Pairing::Half)?;
/// let long = LongRope::new(rope, 4096, 131_072, &[1.0, 1.1], &[1.0, 32.0])?;
/// assert_eq!(long.rope(4096).frequencies(), [1.0, 0.01 / 1.1]);
/// assert_eq!(long.rope(4097).frequencies(), [1.0, 0.01 / 32.0]);
/// assert!((long.rope(1).temperature() - 1.19).abs() < 0.01);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    short: Rope,
    long: Rope,
    original_len: usize,
}

impl LongRope {
    /// From the frequencies of `rope`, the lengths n and N in tokens, and one factor for each of
    /// its pairs. A [temperature](Rope::with_temperature) that `rope` was given stays.
    ///
    /// # Errors
    /// Invalid argument unless `original_len` is at least 2, `max_len` at least as much, and
    /// `short_factors` and `long_factors` are one positive number for each pair, with frequencies
    /// that [`Rope::with_frequencies`] takes.
    pub fn new(
        rope: Rope,
        original_len: usize,
        max_len: usize,
        short_factors: &[f64],
        long_factors: &[f64],
    ) -> Result<Self> {
        ensure!(original_len >= 2, "original_len", "expected at least 2 tokens, got {original_len}");
        ensure!(
            max_len >= original_len,
            "max_len",
            "expected at least original_len = {original_len} tokens, got {max_len}"
        );
        let rope = match rope.has_own_temperature() {
            true => rope,
            false => {
                let (n, longest) = (original_len as f64, max_len as f64);
                let temperature = (1.0 + libm::log(longest / n) / libm::log(n)).sqrt();
                rope.with_temperature(temperature)?
            }
        };
        let [short, long] =
            [("short_factors", short_factors), ("long_factors", long_factors)].map(|(argument, factors)| {
                let (want, got) = (rope.frequencies().len(), factors.len());
                ensure!(want == got, argument, "expected one for each of {want} pairs, got {got}");
                for (pair, &factor) in factors.iter().enumerate() {
                    let valid = factor.is_finite() && factor > 0.0;
                    ensure!(valid, argument, "expected finite positive numbers, got {factor} of pair {pair}");
                }
                let divided = rope.frequencies().iter().zip(factors).map(|(omega, factor)| omega / factor);
                rope.clone().with_frequencies(&divided.collect::<Vec<_>>())
            });
        Ok(Self { short: short?, long: long?, original_len })
    }

    /// The rotation of every position of a sequence of `len` tokens: the long one past the length
    /// in training.
    pub fn rope(&self, len: usize) -> &Rope {
        if len > self.original_len { &self.long } else { &self.short }
    }

    /// The length in training, in tokens.
    pub fn original_len(&self) -> usize {
        self.original_len
    }
}

#[cfg(test)]
mod tests {
    use super::super::rope::Pairing;
    use super::*;

    fn rope() -> Rope {
        Rope::new(8, 1e4, Pairing::Half).unwrap().with_rotary_dim(4).unwrap()
    }

    #[test]
    fn the_length_in_training_is_the_last_short_one() {
        let long = LongRope::new(rope(), 16, 256, &[1.0, 2.0], &[4.0, 5.0]).unwrap();
        assert_eq!(long.original_len(), 16);
        for (len, want) in [(0, [1.0, 0.005]), (16, [1.0, 0.005]), (17, [0.25, 0.002])] {
            assert_eq!(long.rope(len).frequencies(), want);
            // ln(256/16)/ln 16 = 1
            assert!((long.rope(len).temperature() - 2f64.sqrt()).abs() < 1e-15);
        }
        let own = rope().with_temperature(1.5).unwrap();
        let long = LongRope::new(own, 16, 16, &[1.0, 2.0], &[4.0, 5.0]).unwrap();
        assert_eq!([long.rope(1).temperature(), long.rope(17).temperature()], [1.5; 2]);
    }

    #[test]
    fn refusals_name_the_argument() {
        let refused = |original_len, max_len, short: &[f64], long: &[f64]| {
            let error = LongRope::new(rope(), original_len, max_len, short, long).unwrap_err();
            error.argument().unwrap().to_owned()
        };
        let two = &[1.0; 2][..];
        assert_eq!(refused(1, 16, two, two), "original_len");
        assert_eq!(refused(16, 15, two, two), "max_len");
        assert_eq!(refused(16, 32, &[1.0; 4], two), "short_factors");
        assert_eq!(refused(16, 32, two, &[1.0]), "long_factors");
        for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(refused(16, 32, &[1.0, factor], two), "short_factors");
            assert_eq!(refused(16, 32, two, &[1.0, factor]), "long_factors");
        }
        assert_eq!(refused(16, 32, two, &[0.1, 1.0]), "frequencies");
    }
}
