//! Rotary frequencies for contexts longer than those in training.

use std::f64::consts::TAU;

use crate::error::{Result, ensure};

/// How a [`Rope`](super::Rope) is stretched to contexts longer than the model was trained on.
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
    /// 2023, arXiv 2309.00071).
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
        /// Whether the ramp's ends are rounded outwards to whole pairs, as in the authors' code.
        /// The models that don't round them say `"truncate": false` (gpt-oss).
        rounded: bool,
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
    /// YaRN with the paper's constants: `beta_fast` 32, `beta_slow` 1, temperature `0.1·ln s + 1`,
    /// and a ramp with rounded ends.
    pub const fn yarn(factor: f64, original_len: usize) -> Self {
        let (beta_fast, beta_slow, temperature) = (32.0, 1.0, None);
        Scaling::Yarn { factor, original_len, beta_fast, beta_slow, temperature, rounded: true }
    }

    /// The frequencies of `rotary_dim` channels, and the factor on cos and sin.
    pub(super) fn frequencies(self, base: f64, rotary_dim: usize) -> Result<(Vec<f64>, f64)> {
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
            Scaling::Yarn { factor, original_len, beta_fast, beta_slow, temperature, rounded } => {
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
                check_temperature(temperature)?;
                // The pair index (a real number) that makes this many turns within n tokens.
                let pair_with =
                    |turns: f64| r * libm::log(original_len as f64 / (turns * TAU)) / (2.0 * libm::log(base));
                let mut ends = [beta_fast, beta_slow].map(pair_with);
                if rounded {
                    ends = [ends[0].floor(), ends[1].ceil()];
                }
                let first = ends[0].max(0.0);
                let last = ends[1].clamp(first, (r - 1.0).max(first));
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

/// Refuses what can't be a factor on cos and sin.
pub(super) fn check_temperature(temperature: f64) -> Result<()> {
    let valid = temperature.is_finite() && temperature > 0.0;
    ensure!(valid, "temperature", "expected a finite positive number, got {temperature}");
    Ok(())
}

fn check_original_len(len: usize) -> Result<()> {
    ensure!(len >= 1, "original_len", "expected at least 1 token, got 0");
    Ok(())
}
