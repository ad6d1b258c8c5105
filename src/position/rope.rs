//! Rotary position embedding, on the host.

use std::f64::consts::TAU;

use crate::error::{Result, ensure};
use crate::limits::{MAX_ROTARY_DIM, at_most};

/// Which channels a rotation turns together. Checkpoints differ: the wrong choice gives fluent
/// nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Channels `(2i, 2i+1)`: the original RoPE, and GGUF files of the llama family.
    Interleaved,
    /// Channels `(i, i + r/2)` of r rotated ones: GPT-NeoX, and llama checkpoints in the Hugging
    /// Face layout.
    Half,
}

/// How a [`Rope`] is stretched to contexts longer than the model was trained on.
///
/// Below, `ωᵢ = base^(−2i/r)` are the frequencies of r rotated channels, s is the factor and n the
/// length in training. `tests/host/positions.rs` compares every kind with Hugging Face transformers
/// 5.23.
///
/// ```
/// use prflash::position::{Pairing, Scaling};
/// use prflash::Rope;
/// let llama3 = Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_len: 8192 };
/// let rope = Rope::new(128, 5e5, Pairing::Half)?.with_scaling(llama3)?;
/// assert_eq!(rope.frequencies()[0], 1.0); // fast pairs are left alone
/// assert!(Rope::new(128, 1e4, Pairing::Half)?.with_scaling(Scaling::yarn(4.0, 4096))?.temperature() > 1.1);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// `ωᵢ` as it is.
    #[default]
    None,
    /// `ωᵢ/s`: position interpolation (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// s, at least 1.
        factor: f64,
    },
    /// `ωᵢ` for the base `base·s^(r/(r−2))`, which leaves the fastest pair alone and slows the
    /// slowest by s ("NTK-aware", bloc97 2023; appendix of YaRN).
    NtkAware {
        /// s, at least 1.
        factor: f64,
    },
    /// Pairs that turn often within n tokens are left alone, those that turn rarely are slowed by
    /// s, with a ramp over the pair index between; cos and sin carry a temperature (Peng et al.
    /// 2023, arXiv 2309.00071). The ramp's ends are rounded outwards to whole pairs, as in the
    /// authors' code.
    Yarn {
        /// s, at least 1.
        factor: f64,
        /// n, in tokens.
        original_len: usize,
        /// Pairs with more turns than this within n tokens are left alone; 32 in the paper.
        beta_fast: f64,
        /// Pairs with fewer turns than this within n tokens are slowed by s; 1 in the paper.
        beta_slow: f64,
        /// The factor on cos and sin; `0.1·ln s + 1` if not given.
        temperature: Option<f64>,
    },
    /// Pairs of a wavelength below `n/high_freq_factor` are left alone, above `n/low_freq_factor`
    /// slowed by s, and blended linearly in `n/wavelength` between (Llama 3.1, Meta 2024:
    /// `apply_scaling` of the llama-models repository).
    Llama3 {
        /// s, at least 1.
        factor: f64,
        /// Positive.
        low_freq_factor: f64,
        /// More than `low_freq_factor`.
        high_freq_factor: f64,
        /// n, in tokens.
        original_len: usize,
    },
}

impl Scaling {
    /// YaRN with the paper's constants: `beta_fast` 32, `beta_slow` 1, temperature `0.1·ln s + 1`.
    pub const fn yarn(factor: f64, original_len: usize) -> Self {
        Scaling::Yarn { factor, original_len, beta_fast: 32.0, beta_slow: 1.0, temperature: None }
    }

    /// The frequencies of `rotary_dim` channels, and the factor on cos and sin.
    fn frequencies(self, base: f64, rotary_dim: usize) -> Result<(Vec<f64>, f64)> {
        let r = rotary_dim as f64;
        let pairs = 0..rotary_dim / 2;
        let plain = |base: f64| move |pair: usize| libm::pow(base, -2.0 * pair as f64 / r);
        Ok(match self {
            Scaling::None => (pairs.map(plain(base)).collect(), 1.0),
            Scaling::Linear { factor } => {
                check_factor(factor)?;
                (pairs.map(plain(base)).map(|omega| omega / factor).collect(), 1.0)
            }
            Scaling::NtkAware { factor } => {
                check_factor(factor)?;
                ensure!(rotary_dim > 2, "rotary_dim", "expected more than 2 channels for NTK-aware scaling");
                (pairs.map(plain(base * libm::pow(factor, r / (r - 2.0)))).collect(), 1.0)
            }
            Scaling::Yarn { factor, original_len, beta_fast, beta_slow, temperature } => {
                check_factor(factor)?;
                check_original_len(original_len)?;
                let falling = base > 1.0; // the frequencies, so that ln base can divide
                ensure!(falling, "base", "expected more than 1 for YaRN, got {base}");
                ensure!(
                    beta_slow.is_finite() && beta_slow > 0.0,
                    "beta_slow",
                    "expected a finite positive number, got {beta_slow}"
                );
                ensure!(
                    beta_fast.is_finite() && beta_fast > beta_slow,
                    "beta_fast",
                    "expected a finite number above beta_slow = {beta_slow}, got {beta_fast}"
                );
                let temperature = temperature.unwrap_or_else(|| 0.1 * libm::log(factor) + 1.0);
                ensure!(
                    temperature.is_finite() && temperature > 0.0,
                    "temperature",
                    "expected a finite positive number, got {temperature}"
                );
                // The pair index (a real number) that makes this many turns within n tokens.
                let pair_with =
                    |turns: f64| r * libm::log(original_len as f64 / (turns * TAU)) / (2.0 * libm::log(base));
                let first = pair_with(beta_fast).floor().max(0.0);
                let last = pair_with(beta_slow).ceil().clamp(first, (r - 1.0).max(first));
                let width = (last - first).max(0.001);
                let frequency = |pair: usize| {
                    let slowed = ((pair as f64 - first) / width).clamp(0.0, 1.0);
                    plain(base)(pair) * (slowed / factor + (1.0 - slowed))
                };
                (pairs.map(frequency).collect(), temperature)
            }
            Scaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_len } => {
                check_factor(factor)?;
                check_original_len(original_len)?;
                ensure!(
                    low.is_finite() && low > 0.0,
                    "low_freq_factor",
                    "expected a finite positive number, got {low}"
                );
                ensure!(
                    high.is_finite() && high > low,
                    "high_freq_factor",
                    "expected a finite number above low_freq_factor = {low}, got {high}"
                );
                let frequency = |omega: f64| {
                    let turns = original_len as f64 * omega / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    omega * ((1.0 - kept) / factor + kept)
                };
                (pairs.map(plain(base)).map(frequency).collect(), 1.0)
            }
        })
    }
}

fn check_factor(factor: f64) -> Result<()> {
    let valid = factor.is_finite() && factor >= 1.0;
    ensure!(valid, "factor", "expected a finite number of at least 1, got {factor}");
    Ok(())
}

fn check_original_len(len: usize) -> Result<()> {
    ensure!(len >= 1, "original_len", "expected at least 1 token, got 0");
    Ok(())
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): pair i of a head at position p
/// turns by the angle `p · base^(−2i/r)`, with r rotated channels (the whole head unless set).
///
/// Rotated queries and keys have inner products that depend on the lag only. Angles, sines and
/// cosines are computed in f64.
///
/// ```
/// use prflash::position::Pairing;
/// use prflash::Rope;
/// let rope = Rope::new(64, 1e5, Pairing::Interleaved)?;
/// let mut row = [1.0_f32; 64];
/// rope.rotate(&mut row, 0)?; // position 0 turns nothing
/// assert_eq!(row, [1.0; 64]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    head_dim: usize,
    rotary_dim: usize,
    base: f64,
    pairing: Pairing,
    scaling: Scaling,
    frequencies: Vec<f64>,
    temperature: f64,
}

impl Rope {
    /// A rotation of every channel of a head.
    ///
    /// # Errors
    /// Invalid argument unless `head_dim` is even and positive and `base` finite and positive, with
    /// finite frequencies; too large past [`MAX_ROTARY_DIM`].
    pub fn new(head_dim: usize, base: f64, pairing: Pairing) -> Result<Self> {
        ensure!(
            head_dim > 0 && head_dim.is_multiple_of(2),
            "head_dim",
            "expected a positive even number, got {head_dim}"
        );
        at_most("head_dim", head_dim, MAX_ROTARY_DIM)?;
        ensure!(base.is_finite() && base > 0.0, "base", "expected a finite positive number, got {base}");
        let (scaling, frequencies) = (Scaling::None, Vec::new());
        Self { head_dim, rotary_dim: head_dim, base, pairing, scaling, frequencies, temperature: 1.0 }
            .updated()
    }

    /// Turns only the first `rotary_dim` channels of a head (pairs lie within them, frequencies are
    /// `base^(−2i/rotary_dim)`) and leaves the rest.
    ///
    /// # Errors
    /// Invalid argument unless even, positive and at most the head dimension; for
    /// [`Scaling::NtkAware`] more than 2.
    pub fn with_rotary_dim(self, rotary_dim: usize) -> Result<Self> {
        ensure!(
            rotary_dim.is_multiple_of(2) && (2..=self.head_dim).contains(&rotary_dim),
            "rotary_dim",
            "expected an even number from 2 to head_dim = {}, got {rotary_dim}",
            self.head_dim
        );
        Self { rotary_dim, ..self }.updated()
    }

    /// Other frequencies for longer contexts.
    ///
    /// # Errors
    /// Invalid argument naming the number of the scaling that is outside its range.
    pub fn with_scaling(self, scaling: Scaling) -> Result<Self> {
        Self { scaling, ..self }.updated()
    }

    fn updated(self) -> Result<Self> {
        let (frequencies, temperature) = self.scaling.frequencies(self.base, self.rotary_dim)?;
        ensure!(
            frequencies.iter().all(|frequency| frequency.is_finite()),
            "base",
            "expected finite frequencies, got base {} with {:?}",
            self.base,
            self.scaling
        );
        Ok(Self { frequencies, temperature, ..self })
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The leading channels that turn.
    pub fn rotary_dim(&self) -> usize {
        self.rotary_dim
    }

    /// Which channels turn together.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// The scaling of the frequencies.
    pub fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// Radians per token of each pair, scaled.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// The factor on cos and sin, and so on the rotated channels of Q and of K: 1 unless YaRN.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// Whether the kernels can apply it. They load four channels at a time, and a pair must lie in
    /// one load or in two whole ones: the rotary dimension must be a multiple of 4
    /// ([`Interleaved`](Pairing::Interleaved)) or 8 ([`Half`](Pairing::Half)).
    pub fn is_quad_aligned(&self) -> bool {
        self.rotary_dim.is_multiple_of(match self.pairing {
            Pairing::Interleaved => 4,
            Pairing::Half => 8,
        })
    }

    /// Turns the rows of a contiguous `[len, head_dim]` slice, in place: row i as position
    /// `first_position + i`.
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
        for (i, row) in rows.chunks_exact_mut(self.head_dim).enumerate() {
            self.rotate_row(row, first_position.saturating_add(i as i64));
        }
        Ok(())
    }

    /// Turns the rows of a contiguous `[len, head_dim]` slice, in place: row i as position
    /// `positions[i]`.
    ///
    /// # Errors
    /// Invalid argument unless `rows` holds one row for each position.
    pub fn rotate_at(&self, rows: &mut [f32], positions: &[i64]) -> Result<()> {
        ensure!(
            positions.len().checked_mul(self.head_dim) == Some(rows.len()),
            "rows",
            "expected {} rows of head_dim = {} values, got {} values",
            positions.len(),
            self.head_dim,
            rows.len()
        );
        for (row, &position) in rows.chunks_exact_mut(self.head_dim).zip(positions) {
            self.rotate_row(row, position);
        }
        Ok(())
    }

    fn rotate_row(&self, row: &mut [f32], position: i64) {
        self.for_each_pair(position, |a, b, cos, sin| {
            let (x, y) = (f64::from(row[a]), f64::from(row[b]));
            row[a] = (x * cos - y * sin) as f32;
            row[b] = (x * sin + y * cos) as f32;
        });
    }

    /// Calls `turn(a, b, cos, sin)` for the channels a, b of each pair, with the temperature in cos
    /// and sin.
    pub(crate) fn for_each_pair(&self, position: i64, mut turn: impl FnMut(usize, usize, f64, f64)) {
        for (pair, frequency) in self.frequencies.iter().enumerate() {
            let (sin, cos) = libm::sincos(position as f64 * frequency);
            let (a, b) = match self.pairing {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Half => (pair, pair + self.rotary_dim / 2),
            };
            turn(a, b, self.temperature * cos, self.temperature * sin);
        }
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
    fn only_the_rotary_channels_turn() {
        for pairing in [Pairing::Interleaved, Pairing::Half] {
            let whole = Rope::new(4, 100.0, pairing).unwrap();
            let partial = Rope::new(8, 100.0, pairing).unwrap().with_rotary_dim(4).unwrap();
            let mut row = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
            let mut head = [0.1, 0.2, 0.3, 0.4];
            partial.rotate_at(&mut row, &[-7]).unwrap();
            whole.rotate(&mut head, -7).unwrap();
            assert_eq!(row[..4], head);
            assert_eq!(row[4..], [0.5, 0.6, 0.7, 0.8]);
        }
    }

    #[test]
    fn kernels_need_whole_quads() {
        let aligned = |pairing, r| Rope::new(64, 1e4, pairing).unwrap().with_rotary_dim(r).unwrap();
        assert!(aligned(Pairing::Half, 24).is_quad_aligned());
        assert!(!aligned(Pairing::Half, 20).is_quad_aligned());
        assert!(aligned(Pairing::Interleaved, 20).is_quad_aligned());
        assert!(!aligned(Pairing::Interleaved, 22).is_quad_aligned());
    }

    #[test]
    fn refusals_name_the_argument() {
        let rope = || Rope::new(8, 1e4, Pairing::Half).unwrap();
        let named = |r: Result<Rope>| r.unwrap_err().argument().unwrap();
        assert_eq!(named(Rope::new(7, 1e4, Pairing::Half)), "head_dim");
        assert_eq!(named(Rope::new(8, 0.0, Pairing::Half)), "base");
        assert_eq!(named(rope().with_rotary_dim(10)), "rotary_dim");
        assert_eq!(named(rope().with_rotary_dim(3)), "rotary_dim");
        assert_eq!(named(rope().with_rotary_dim(0)), "rotary_dim");
        assert_eq!(named(rope().with_scaling(Scaling::Linear { factor: 0.5 })), "factor");
        let ntk = rope().with_scaling(Scaling::NtkAware { factor: 2.0 }).unwrap();
        assert_eq!(named(ntk.with_rotary_dim(2)), "rotary_dim");
        assert_eq!(named(rope().with_scaling(Scaling::yarn(f64::NAN, 8))), "factor");
        assert_eq!(named(rope().with_scaling(Scaling::yarn(2.0, 0))), "original_len");
        let yarn = |beta_fast, beta_slow, temperature| {
            let scaling = Scaling::Yarn { factor: 2.0, original_len: 8, beta_fast, beta_slow, temperature };
            named(rope().with_scaling(scaling))
        };
        assert_eq!(yarn(1.0, 1.0, None), "beta_fast");
        assert_eq!(yarn(1.0, 0.0, None), "beta_slow");
        assert_eq!(yarn(2.0, 1.0, Some(0.0)), "temperature");
        let slow = Rope::new(8, 1.0, Pairing::Half).unwrap();
        assert_eq!(named(slow.with_scaling(Scaling::yarn(2.0, 8))), "base");
        let llama3 = |low_freq_factor, high_freq_factor| {
            let (factor, original_len) = (2.0, 8);
            let scaling = Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_len };
            named(rope().with_scaling(scaling))
        };
        assert_eq!(llama3(0.0, 4.0), "low_freq_factor");
        assert_eq!(llama3(4.0, 4.0), "high_freq_factor");
        assert_eq!(rope().rotate(&mut [0.0; 9], 0).unwrap_err().argument(), Some("rows"));
        assert_eq!(rope().rotate_at(&mut [0.0; 8], &[0, 1]).unwrap_err().argument(), Some("rows"));
        assert_eq!(rope().table(8, 0).unwrap_err().argument(), Some("stride"));
        assert_eq!(rope().table(usize::MAX, 1).unwrap_err().argument(), Some("positions"));
        assert_eq!(rope().table(1 << 30, 1).unwrap_err().argument(), Some("stride"));
        assert_eq!(named(Rope::new(usize::MAX - 1, 1e4, Pairing::Half)), "head_dim");
        assert_eq!(named(Rope::new(MAX_ROTARY_DIM + 2, 1e4, Pairing::Half)), "head_dim");
        assert_eq!(named(Rope::new(1 << 12, 5e-324, Pairing::Half)), "base");
        assert_eq!(rope().table(0, usize::MAX).unwrap().rotation(0, 0), None);
    }
}
