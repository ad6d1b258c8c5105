//! The participation profile `p(d)` over block distance.

use crate::error::{Result, ensure};

/// Probabilities are unsigned 32.32 fixed-point numbers, so that no rounding of a float decides a draw (and 1 is exact).
pub(crate) const ONE: u64 = 1 << 32;

/// The family of a [`Profile`]: `f(d)` before clipping and pinning.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Decay {
    /// `f(d) = 1`: exact attention.
    Dense,
    /// `f(d) = (a / (a + d))^alpha`: the paper's harmonic decay, `1/(1+d)` at `a = alpha = 1`.
    Harmonic {
        /// The distance scale, in blocks; positive.
        a: f64,
        /// The exponent; not negative.
        alpha: f64,
    },
}

/// The probability `p(d)` that a key block takes part at block distance `d` (|I − J| if not causal).
///
/// `p(d) = clip(f(d), floor, 1)` with `p(0) = 1`. Pinned blocks always take part: the first
/// [`sink_blocks`](Profile::with_sink_blocks) key blocks of the sequence (default 1) and the distances below
/// [`window_blocks`](Profile::with_window_blocks) (default 1, the diagonal).
///
/// Why a sink block: trained models put much attention mass on the first tokens; without it the error of
/// sampling is an order of magnitude larger.
///
/// ```
/// use prflash::Profile;
/// let p = Profile::harmonic();
/// assert_eq!((p.probability(0), p.probability(1), p.probability(3)), (1.0, 0.5, 0.25));
/// let wide = Profile::harmonic_with(4.0, 1.5)?.with_window_blocks(2)?;
/// assert_eq!(wide.probability(1), 1.0);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    decay: Decay,
    floor: f64,
    sink_blocks: usize,
    window_blocks: usize,
}

impl Profile {
    /// Every block takes part: exact attention.
    pub const fn dense() -> Self {
        Self { decay: Decay::Dense, floor: 0.0, sink_blocks: 1, window_blocks: 1 }
    }

    /// `1/(1+d)`, with one pinned sink block: the paper's literal profile.
    pub const fn harmonic() -> Self {
        Self { decay: Decay::Harmonic { a: 1.0, alpha: 1.0 }, ..Self::dense() }
    }

    /// `(a/(a+d))^alpha`: larger `a` keeps a wider neighbourhood, larger `alpha` falls faster.
    ///
    /// # Errors
    /// Invalid argument unless `a` is finite and positive and `alpha` finite and not negative.
    pub fn harmonic_with(a: f64, alpha: f64) -> Result<Self> {
        ensure!(a.is_finite() && a > 0.0, "a", "expected a finite positive number of blocks, got {a}");
        ensure!(
            alpha.is_finite() && alpha >= 0.0,
            "alpha",
            "expected a finite number that is not negative, got {alpha}"
        );
        Ok(Self { decay: Decay::Harmonic { a, alpha }, ..Self::dense() })
    }

    /// The same with the first `blocks` key blocks of the sequence always taking part.
    pub const fn with_sink_blocks(self, blocks: usize) -> Self {
        Self { sink_blocks: blocks, ..self }
    }

    /// The same with every distance `d < blocks` always taking part.
    ///
    /// # Errors
    /// Invalid argument if `blocks` is 0: the diagonal always takes part.
    pub fn with_window_blocks(self, blocks: usize) -> Result<Self> {
        ensure!(
            blocks >= 1,
            "window_blocks",
            "expected at least 1 (the diagonal always takes part), got {blocks}"
        );
        Ok(Self { window_blocks: blocks, ..self })
    }

    /// The same with `p(d) ≥ floor`.
    ///
    /// # Errors
    /// Invalid argument unless `0 ≤ floor ≤ 1`.
    pub fn with_floor(self, floor: f64) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&floor), "floor", "expected a probability, got {floor}");
        Ok(Self { floor, ..self })
    }

    /// The family.
    pub fn decay(&self) -> Decay {
        self.decay
    }

    /// Key blocks at the start of the sequence that always take part.
    pub fn sink_blocks(&self) -> usize {
        self.sink_blocks
    }

    /// Distances below this always take part.
    pub fn window_blocks(&self) -> usize {
        self.window_blocks
    }

    /// `p(d)` of a block that is no sink, as it is drawn: a multiple of 2⁻³².
    pub fn probability(&self, distance: usize) -> f64 {
        self.fixed(distance) as f64 / ONE as f64
    }

    /// `p(d)` in 32.32 fixed point. Only IEEE basic operations and `libm` (software, the same everywhere) take part.
    fn fixed(&self, distance: usize) -> u64 {
        if distance < self.window_blocks {
            return ONE;
        }
        let f = match self.decay {
            Decay::Dense => 1.0,
            Decay::Harmonic { a, alpha } => {
                let ratio = a / (a + distance as f64);
                if alpha == 1.0 { ratio } else { libm::pow(ratio, alpha) }
            }
        };
        libm::round(f.clamp(self.floor, 1.0) * ONE as f64) as u64
    }

    /// `p` and its running sum for the distances below `distances`.
    pub fn cumulative(&self, distances: usize) -> CumulativeProfile {
        let probabilities: Vec<u64> = (0..distances).map(|d| self.fixed(d)).collect();
        let mut sums = Vec::with_capacity(distances + 1);
        sums.push(0);
        let mut sum = 0;
        for p in &probabilities {
            sum += p;
            sums.push(sum);
        }
        // The weight of an entry is the logarithm of the probability with which it was really drawn.
        let ln_p = probabilities.iter().map(|&p| libm::log(p as f64 / ONE as f64) as f32).collect();
        CumulativeProfile { profile: *self, probabilities, sums, ln_p }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.decay {
            Decay::Dense => f.write_str("dense")?,
            Decay::Harmonic { a: 1.0, alpha: 1.0 } => f.write_str("harmonic 1/(1+d)")?,
            Decay::Harmonic { a, alpha: 1.0 } => write!(f, "harmonic {a}/({a}+d)")?,
            Decay::Harmonic { a, alpha } => write!(f, "harmonic ({a}/({a}+d))^{alpha}")?,
        }
        if self.floor > 0.0 {
            write!(f, ", p ≥ {}", self.floor)?;
        }
        if self.sink_blocks != 1 {
            write!(f, ", {} sink blocks", self.sink_blocks)?;
        }
        if self.window_blocks != 1 {
            write!(f, ", window {} blocks", self.window_blocks)?;
        }
        Ok(())
    }
}

/// A [`Profile`] tabulated over the distances of one grid: what a [`Sampler`](super::Sampler) draws from.
#[derive(Clone, Debug)]
pub struct CumulativeProfile {
    profile: Profile,
    probabilities: Vec<u64>,
    sums: Vec<u64>,
    ln_p: Vec<f32>,
}

impl CumulativeProfile {
    /// The profile that was tabulated.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// `p(d)` in 32.32 fixed point (2³² is certainty).
    pub fn probability(&self, distance: usize) -> u64 {
        self.probabilities[distance]
    }

    /// `p(0) + … + p(distances − 1)` in 32.32 fixed point.
    pub fn sum_below(&self, distances: usize) -> u64 {
        self.sums[distances]
    }

    /// The natural logarithm of `p(d)`.
    pub fn ln_p(&self, distance: usize) -> f32 {
        self.ln_p[distance]
    }

    /// The smallest distance `≥ from` whose cumulative sum (its own p included) reaches `target`, if any is tabulated.
    ///
    /// Gallops, so that a run of certain blocks costs one step each and a long gap costs the logarithm of its length.
    pub(crate) fn first_reaching(&self, target: u64, from: usize) -> Option<usize> {
        let inclusive = self.sums.get(from + 1..)?;
        let mut width = 1;
        while width < inclusive.len() && inclusive[width - 1] < target {
            width *= 2;
        }
        let window = &inclusive[..width.min(inclusive.len())];
        let at = window.partition_point(|&sum| sum < target);
        (at < window.len()).then_some(from + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<Profile>| r.unwrap_err().argument().unwrap();
        assert_eq!(named(Profile::harmonic_with(0.0, 1.0)), "a");
        assert_eq!(named(Profile::harmonic_with(f64::NAN, 1.0)), "a");
        assert_eq!(named(Profile::harmonic_with(1.0, -1.0)), "alpha");
        assert_eq!(named(Profile::harmonic().with_window_blocks(0)), "window_blocks");
        assert_eq!(named(Profile::harmonic().with_floor(1.5)), "floor");
    }

    #[test]
    fn certainty_is_exact_and_logarithms_match() {
        let table = Profile::harmonic_with(2.0, 0.5).unwrap().with_window_blocks(3).unwrap().cumulative(100);
        for d in 0..3 {
            assert_eq!((table.probability(d), table.ln_p(d)), (ONE, 0.0));
        }
        for d in 3..100 {
            let want = (2.0 / (2.0 + d as f64)).sqrt();
            assert!((table.probability(d) as f64 / ONE as f64 - want).abs() < 1e-9);
            assert!((f64::from(table.ln_p(d)) - want.ln()).abs() < 1e-6);
        }
    }

    #[test]
    fn galloping_finds_the_first() {
        let table = Profile::harmonic().cumulative(50);
        for from in 0..50 {
            for target in (0..=table.sum_below(50) + ONE).step_by(ONE as usize / 7) {
                let naive = (from..50).find(|&d| table.sum_below(d + 1) >= target);
                assert_eq!(table.first_reaching(target, from), naive);
            }
        }
    }
}
