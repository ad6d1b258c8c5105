//! The participation profile `p(d)` over block distance.

use std::sync::Arc;

use crate::error::{Result, ensure};
use crate::limits::MAX_DISTANCES;

/// Probabilities are unsigned 32.32 fixed-point numbers, so that no rounding of a float decides a
/// draw (and 1 is exact).
pub(crate) const ONE: u64 = 1 << 32;

/// The family of a [`Profile`]: `f(d)` before clipping and pinning.
#[derive(Clone, Debug, PartialEq)]
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
    /// `f(d) = min(1, γ / (1 + d)^alpha)`, γ solved for each row so that Σp is the budget: the
    /// "constrained" harmonic profile, with a fixed expected cost per query block.
    Budget {
        /// Expected blocks of a row, pinned ones included; at least 1.
        blocks: f64,
        /// The exponent; not negative. 0 spreads the budget evenly over the row.
        alpha: f64,
    },
    /// `f(d) = min(1, γ·w_d)` for given weights, γ solved as for a [`Budget`](Decay::Budget).
    Allocated {
        /// Expected blocks of a row, pinned ones included; at least 1.
        blocks: f64,
        /// `w_d / w_0`, not increasing; the last one holds for every distance past the end.
        weights: Arc<[f64]>,
    },
    /// `f(d) = max(0, 1 − c·H_d)` with the harmonic numbers `H_d = 1 + 1/2 + … + 1/d`: the literal
    /// "harmonic deduction".
    Deduction {
        /// The share that each harmonic step takes away; positive.
        c: f64,
    },
}

impl Decay {
    /// `f(d)` at one distance, for any: harmonic numbers by `ln d + γ + 1/(2d) − 1/(12d²)` from d =
    /// 32 on (error below 1e-8).
    pub(super) fn at(&self, distance: u64) -> f64 {
        let d = distance as f64;
        match *self {
            Decay::Deduction { c } if distance >= 32 => {
                const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
                let harmonic_number = libm::log(d) + EULER_GAMMA + 1.0 / (2.0 * d) - 1.0 / (12.0 * d * d);
                (1.0 - c * harmonic_number).max(0.0)
            }
            Decay::Deduction { .. } => self.values().nth(distance as usize).unwrap_or(0.0),
            Decay::Dense => 1.0,
            Decay::Harmonic { a, alpha: 1.0 } => a / (a + d),
            Decay::Harmonic { a, alpha } => libm::pow(a / (a + d), alpha),
            Decay::Budget { alpha: 1.0, .. } => 1.0 / (1.0 + d),
            Decay::Budget { alpha, .. } => libm::pow(1.0 + d, -alpha),
            Decay::Allocated { ref weights, .. } => {
                weights.get(distance as usize).or(weights.last()).copied().unwrap_or(0.0)
            }
        }
    }

    /// `f(d)` for d = 0, 1, 2 …: with γ = 1 where it is [solved](Decay::budget). IEEE basic
    /// operations and `libm` only, so the same everywhere.
    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        let mut harmonic_number = 0.0;
        (0u64..).map(move |d| {
            let &Decay::Deduction { c } = self else { return self.at(d) };
            harmonic_number += if d > 0 { 1.0 / d as f64 } else { 0.0 };
            (1.0 - c * harmonic_number).max(0.0)
        })
    }

    /// The very number that [`values`](Decay::values) has at this distance; past every table
    /// [`at`](Decay::at), which differs from it by rounding.
    fn single(&self, distance: usize) -> f64 {
        match self {
            Decay::Deduction { .. } if distance < MAX_DISTANCES => self.values().nth(distance).unwrap_or(0.0),
            _ => self.at(distance as u64),
        }
    }

    /// The expected blocks of a row, for the families whose factor γ is solved row by row so that
    /// this is met.
    pub fn budget(&self) -> Option<f64> {
        match *self {
            Decay::Budget { blocks, .. } | Decay::Allocated { blocks, .. } => Some(blocks),
            _ => None,
        }
    }
}

/// The probability `p(d)` that a key block takes part at block distance `d` (|I − J| if not
/// causal).
///
/// `p(d) = clip(f(d), floor, 1)` with `p(0) = 1`. Pinned blocks always take part: the first
/// [`sink_blocks`](Profile::with_sink_blocks) key blocks of the sequence (default 1) and the
/// distances below [`window_blocks`](Profile::with_window_blocks) (default 1, the diagonal).
///
/// Why a sink block: trained models put much attention mass on the first tokens. On a sharp layer
/// of the repository's fixture the relative error of sampling at `1/(1+d)` is 0.12 with it and 1.2
/// without; on a diffuse one it makes little difference.
///
/// ```
/// use prflash::Profile;
/// let p = Profile::harmonic();
/// assert_eq!((p.probability(0), p.probability(1), p.probability(3)), (1.0, 0.5, 0.25));
/// let wide = Profile::harmonic_with(4.0, 1.5)?.with_window_blocks(2)?;
/// assert_eq!(wide.probability(1), 1.0);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    decay: Decay,
    floor: f64,
    sink_blocks: usize,
    window_blocks: usize,
}

impl Profile {
    const fn of(decay: Decay) -> Self {
        Self { decay, floor: 0.0, sink_blocks: 1, window_blocks: 1 }
    }

    /// Every block takes part: exact attention.
    pub const fn dense() -> Self {
        Self::of(Decay::Dense)
    }

    /// `1/(1+d)`, with one pinned sink block: the paper's literal profile.
    pub const fn harmonic() -> Self {
        Self::of(Decay::Harmonic { a: 1.0, alpha: 1.0 })
    }

    /// `(a/(a+d))^alpha`: larger `a` keeps a wider neighbourhood, larger `alpha` falls faster.
    ///
    /// # Errors
    /// Invalid argument unless `a` is finite and positive and `alpha` finite and not negative.
    pub fn harmonic_with(a: f64, alpha: f64) -> Result<Self> {
        ensure!(a.is_finite() && a > 0.0, "a", "expected a finite positive number of blocks, got {a}");
        check_alpha(alpha)?;
        Ok(Self::of(Decay::Harmonic { a, alpha }))
    }

    /// `min(1, γ/(1+d))` with γ solved for each row so that the row's expected cost is `blocks`,
    /// its pinned blocks included (all of a row that has no more blocks than that).
    ///
    /// # Errors
    /// Invalid argument unless `blocks` is finite and at least 1.
    pub fn budget(blocks: f64) -> Result<Self> {
        Self::budget_with(blocks, 1.0)
    }

    /// [`budget`](Profile::budget) with half of its blocks as the window (rounded down): of the
    /// sampled profiles, the one that cost models trained without sampling least in three cases of
    /// four.
    ///
    /// Measured with β = ½ at 8 blocks of 64 tokens a row, in the first 4,096 tokens of *Emma* and
    /// of *Persuasion* (dense attention visits 32.5 blocks there, these profiles 7.56;
    /// `lab/results/sampling.csv`), perplexity:
    ///
    /// | | dense | this | window 1 | window 6 | sink + window |
    /// | --- | --- | --- | --- | --- | --- |
    /// | SmolLM2-135M | 24.99, 31.66 | +6.7%, +5.2% | +7.8%, +7.6% | +6.2%, +5.5% | **+5.3%, +4.7%** |
    /// | Gemma 3 270M (its 3 global layers) | 24.42, 29.24 | +5.7%, +4.9% | +6.8%, +5.8% | +6.3%, +5.7% | **+4.6%, +4.8%** |
    ///
    /// The plain sink + window pattern ([`with_window_blocks(blocks − 1)`](Profile::budget_with))
    /// did better in every case. What sampling has over it is that no key is out of reach: take it
    /// where far keys must keep a chance. (A fact hidden far back is still not found:
    /// `lab/RESULTS.md`, where β = 0 was the better one in Gemma's global layers.)
    ///
    /// # Errors
    /// Invalid argument unless `blocks` is finite and at least 1.
    pub fn half_window(blocks: f64) -> Result<Self> {
        let window_blocks = ((blocks / 2.0) as usize).max(1);
        Ok(Self { window_blocks, ..Self::budget(blocks)? })
    }

    /// [`budget`](Profile::budget) with another exponent: `min(1, γ/(1+d)^alpha)`. With as many
    /// pinned blocks as the budget has (say [`with_window_blocks(blocks −
    /// 1)`](Profile::with_window_blocks) beside one sink) it is the sink + window pattern.
    ///
    /// Weights below 2⁻³³ are 0: such blocks are never drawn, in short rows neither, unless they
    /// are pinned or there is a [floor](Profile::with_floor); so a budget beyond the blocks of
    /// positive weight isn't met.
    ///
    /// # Errors
    /// Invalid argument unless `blocks` is finite and at least 1 and `alpha` finite and not
    /// negative.
    pub fn budget_with(blocks: f64, alpha: f64) -> Result<Self> {
        check_blocks(blocks)?;
        check_alpha(alpha)?;
        Ok(Self::of(Decay::Budget { blocks, alpha }))
    }

    /// `min(1, γ·w_d)` with your own weights by distance, γ solved for each row as in
    /// [`budget`](Profile::budget). Only ratios of weights matter; every distance past the end has
    /// the last one. Weights below 2⁻³³ of the first are 0, and such blocks are never drawn, as in
    /// [`budget_with`](Profile::budget_with).
    ///
    /// # Errors
    /// Invalid argument unless `blocks` is finite and at least 1 and `weights` are finite, not
    /// negative and not increasing, the first one positive.
    pub fn allocated(blocks: f64, weights: &[f64]) -> Result<Self> {
        check_blocks(blocks)?;
        let first = weights.first().copied().unwrap_or(0.0);
        ensure!(
            first.is_finite() && first > 0.0,
            "weights",
            "expected the first to be finite and positive, got {first}"
        );
        let mut previous = first;
        for (distance, &weight) in weights.iter().enumerate() {
            ensure!(
                (0.0..=previous).contains(&weight),
                "weights",
                "expected non-increasing numbers from 0, got {weight} at distance {distance} after {previous}"
            );
            previous = weight;
        }
        let weights = weights.iter().map(|weight| weight / first).collect();
        Ok(Self::of(Decay::Allocated { blocks, weights }))
    }

    /// `max(0, 1 − c·H_d)`: the paper's "harmonic deduction", taken literally. It ends at a
    /// distance of about `e^(1/c − 0.58)` blocks.
    ///
    /// # Errors
    /// Invalid argument unless `c` is finite and positive.
    pub fn deduction(c: f64) -> Result<Self> {
        ensure!(c.is_finite() && c > 0.0, "c", "expected a finite positive number, got {c}");
        Ok(Self::of(Decay::Deduction { c }))
    }

    /// The same with the first `blocks` key blocks of the sequence always taking part.
    pub fn with_sink_blocks(self, blocks: usize) -> Self {
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

    /// The same with `p(d) ≥ floor` (p_min in the paper's terms).
    ///
    /// # Errors
    /// Invalid argument unless `0 ≤ floor ≤ 1`.
    pub fn with_floor(self, floor: f64) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&floor), "floor", "expected a probability, got {floor}");
        Ok(Self { floor, ..self })
    }

    /// The least probability of any block.
    pub fn floor(&self) -> f64 {
        self.floor
    }

    /// The family.
    pub fn decay(&self) -> &Decay {
        &self.decay
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
    ///
    /// For a budget: in a row of `distance + 1` blocks, for which these are tabulated
    /// ([`cumulative`](Profile::cumulative)). No row has more than
    /// [`MAX_DISTANCES`]: past them it is what it is in the longest.
    pub fn probability(&self, distance: usize) -> f64 {
        let p = if self.decay.budget().is_some() {
            let distance = distance.min(MAX_DISTANCES - 1);
            let table = self.cumulative(distance + 1);
            let sinks = self.sink_blocks.min(distance);
            table.row(&(0..distance + 1 - sinks), &(0..0), sinks).probability(distance)
        } else {
            self.clipped(distance, self.decay.single(distance))
        };
        p as f64 / ONE as f64
    }

    /// `p` at a distance where the family has `f`.
    pub(super) fn clipped(&self, distance: usize, f: f64) -> u64 {
        if distance < self.window_blocks { ONE } else { fixed(f.clamp(self.floor, 1.0)) }
    }
}

fn check_alpha(alpha: f64) -> Result<()> {
    let good = alpha.is_finite() && alpha >= 0.0;
    ensure!(good, "alpha", "expected a finite number that is not negative, got {alpha}");
    Ok(())
}

fn check_blocks(blocks: f64) -> Result<()> {
    let good = blocks.is_finite() && blocks >= 1.0;
    ensure!(good, "blocks", "expected a finite number from 1, got {blocks}");
    Ok(())
}

/// A number from 0 to 1 in 32.32 fixed point.
pub(super) fn fixed(value: f64) -> u64 {
    libm::round(value * ONE as f64) as u64
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.decay {
            Decay::Dense => f.write_str("dense")?,
            Decay::Harmonic { a: 1.0, alpha: 1.0 } => f.write_str("harmonic 1/(1+d)")?,
            Decay::Harmonic { a, alpha: 1.0 } => write!(f, "harmonic {a}/({a}+d)")?,
            Decay::Harmonic { a, alpha } => write!(f, "harmonic ({a}/({a}+d))^{alpha}")?,
            Decay::Budget { blocks, alpha: 1.0 } => write!(f, "budget {blocks} blocks")?,
            Decay::Budget { blocks, alpha } => write!(f, "budget {blocks} blocks by 1/(1+d)^{alpha}")?,
            Decay::Allocated { blocks, .. } => write!(f, "budget {blocks} blocks by given weights")?,
            Decay::Deduction { c } => write!(f, "deduction 1-{c}·H_d")?,
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

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<Profile>| r.unwrap_err().argument().unwrap();
        assert_eq!(named(Profile::harmonic_with(0.0, 1.0)), "a");
        assert_eq!(named(Profile::harmonic_with(f64::NAN, 1.0)), "a");
        assert_eq!(named(Profile::harmonic_with(1.0, -1.0)), "alpha");
        assert_eq!(named(Profile::harmonic().with_window_blocks(0)), "window_blocks");
        assert_eq!(named(Profile::harmonic().with_floor(1.5)), "floor");
        assert_eq!(named(Profile::budget(0.5)), "blocks");
        assert_eq!(named(Profile::half_window(f64::NAN)), "blocks");
        assert_eq!(named(Profile::budget_with(f64::INFINITY, 1.0)), "blocks");
        assert_eq!(named(Profile::budget_with(4.0, f64::NAN)), "alpha");
        for weights in [&[] as &[f64], &[0.0], &[1.0, 2.0], &[1.0, -1.0], &[1.0, f64::NAN], &[f64::INFINITY]]
        {
            assert_eq!(named(Profile::allocated(4.0, weights)), "weights");
        }
        assert_eq!(named(Profile::deduction(0.0)), "c");
    }

    /// Short rows too: what has no weight isn't drawn unless it is pinned or there is a floor.
    #[test]
    fn no_weight_is_no_block() {
        let given = Profile::allocated(4.0, &[1.0, 0.5, 0.0]).unwrap();
        let steep = Profile::budget_with(4.0, 25.0).unwrap();
        for profile in [given, steep] {
            let of = |profile: &Profile, blocks: usize| -> Vec<u64> {
                let table = profile.cumulative(40);
                let row = table.row(&(0..blocks), &(0..0), 0);
                (0..blocks).map(|d| row.probability(d)).collect()
            };
            let second = of(&profile, 2)[1];
            assert!(second > 0 && of(&profile, 2)[0] == ONE);
            for blocks in [3, 4, 5, 40] {
                let row = of(&profile, blocks);
                assert!(row[1] > 0 && row[2..].iter().all(|&p| p == 0), "{profile}: {row:?}");
                let pinned = of(&profile.clone().with_window_blocks(3).unwrap(), blocks);
                assert!(pinned[2] == ONE && pinned[3..].iter().all(|&p| p == 0), "{pinned:?}");
                let raised = of(&profile.clone().with_floor(0.25).unwrap(), blocks);
                assert!(raised[2..].iter().all(|&p| p == ONE / 4), "{raised:?}");
            }
        }
    }

    /// A single probability is that of the table, at whatever distance there is one.
    #[test]
    fn single_probabilities_are_those_of_tables() {
        let profiles = [
            Profile::dense(),
            Profile::harmonic(),
            Profile::harmonic_with(2.5, 1.75).unwrap().with_window_blocks(3).unwrap(),
            Profile::harmonic().with_floor(0.01).unwrap().with_sink_blocks(5),
            Profile::deduction(0.1).unwrap(),
            Profile::deduction(1e-3).unwrap().with_floor(1e-4).unwrap(),
            Profile::budget(6.0).unwrap(),
            Profile::budget_with(6.0, 2.5).unwrap().with_sink_blocks(3),
            Profile::allocated(4.0, &[1.0, 0.5, 0.0]).unwrap(),
        ];
        for profile in profiles {
            for distance in (0..70).chain([100, 999, 5000, 100_000]) {
                let table = profile.cumulative(distance + 1);
                let sinks = profile.sink_blocks().min(distance);
                let row = table.row(&(0..distance + 1 - sinks), &(0..0), sinks);
                let want = row.probability(distance) as f64 / ONE as f64;
                assert_eq!(profile.probability(distance), want, "{profile} at {distance}");
            }
        }
    }

    #[test]
    fn distances_that_no_grid_has() {
        assert_eq!(Profile::harmonic().probability(1 << 31), 1.0 / f64::from(1u32 << 31));
        assert_eq!(Profile::harmonic().probability(usize::MAX), 0.0);
        assert!((Profile::deduction(0.01).unwrap().probability(1 << 31) - 0.779_35).abs() < 1e-5);
        let budget = Profile::budget(8.0).unwrap();
        assert_eq!(budget.probability(usize::MAX), budget.probability(MAX_DISTANCES - 1));
        for profile in [Profile::dense(), budget.with_floor(0.1).unwrap()] {
            let table = profile.cumulative(5);
            for (before, after) in [
                (0..5, 0..0),
                (0..usize::MAX, usize::MAX..usize::MAX),
                (Range { start: 7, end: 3 }, 1..usize::MAX),
            ] {
                let row = table.row(&before, &after, usize::MAX);
                assert_eq!((row.probability(5), row.probability(usize::MAX)), (0, 0));
                assert_eq!(row.sum_below(usize::MAX), row.sum_below(5));
                assert_eq!(row.sum_of(&Range { start: usize::MAX, end: 2 }), 0);
                assert_eq!(row.first_reaching(u64::MAX, 0, usize::MAX), None);
                assert_eq!(row.first_reaching(0, usize::MAX, usize::MAX), None);
            }
        }
        assert_eq!(Profile::dense().cumulative(0).row(&(0..9), &(0..9), 0).sum_below(9), 0);
    }

    #[test]
    fn deduction_subtracts_harmonic_numbers() {
        let profile = Profile::deduction(0.25).unwrap();
        let want = [1.0, 0.75, 0.625, 1.0 - 0.25 * (1.0 + 0.5 + 1.0 / 3.0)];
        for (d, want) in want.into_iter().enumerate() {
            assert!((profile.probability(d) - want).abs() < 1e-9);
        }
        assert_eq!(profile.probability(100), 0.0);
    }
}
