//! Positions: rotary embeddings, biases against distance, and their factored combination.
//!
//! ```text
//! s(i, j) = a(Δ)·⟨R_i q, R_j k⟩·scale − λ·m_h·c(Δ)·φ(Δ)
//! ```
//!
//! [`Rope`] is R, [`Bias`] holds [`φ`](Distance), the [slopes](Slopes) `m_h` and the weight λ, and
//! [`Positions`] combines them with the factor a. Everything here is computed on the host in f64,
//! with `libm` where it decides a table, so tables are the same on every machine.

mod bias;
mod long_rope;
mod rope;
mod rope_table;
mod scaling;

pub use bias::{Bias, Distance, Slopes, harmonic_number};
pub use long_rope::LongRope;
pub use rope::{Pairing, Rope};
pub use rope_table::RopeTable;
pub use scaling::Scaling;

use crate::error::{Result, ensure};
use crate::limits::{MAX_HEADS, at_most};

/// How scores depend on positions: a rotation, a bias, both, or neither.
///
/// With the lag `Δ = |position of the query − position of the key|`, the score of query head h is
///
/// ```text
/// s(i, j) = a(Δ)·⟨R_i q, R_j k⟩·scale − λ·m_h·c(Δ)·φ(Δ)
/// ```
///
/// where `a ≡ c ≡ 1`, or, with a [harmonic factor](Positions::with_harmonic_factor), `a(Δ) = 1/(1 +
/// Δ/L)` and `c = 1 − a`. A soft-cap bounds `⟨R_i q, R_j k⟩·scale` before a is applied; see
/// [`Attention`](crate::Attention) for the whole order.
///
/// ```
/// use prflash::position::Pairing;
/// use prflash::{Attention, Bias, Positions, Rope};
/// let rope = Rope::new(64, 1e4, Pairing::Half)?;
/// let rotary = Positions::from(rope.clone());
/// let alibi = Positions::from(Bias::alibi());
/// let both = Positions::new().with_rope(rope).with_bias(Bias::harmonic());
/// let attention = Attention::causal().with_positions(both);
/// # let _ = (rotary, alibi, attention);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Positions {
    rope: Option<Rope>,
    bias: Option<Bias>,
    /// L of the harmonic factor.
    factor_length: Option<f64>,
    max_positions: usize,
}

impl Positions {
    /// No rotation and no bias.
    pub const fn new() -> Self {
        Self { rope: None, bias: None, factor_length: None, max_positions: 0 }
    }

    /// The literal reading of arXiv 2410.18441, whose abstract announces "a factored combination of
    /// rotary positional encoding (RoPE) and attention with linear biases (ALiBi) with a harmonic
    /// series" and prints no formula: the harmonic factor `a(Δ) = 1/(1 + Δ/length)` on the rotated
    /// scores and its complement on ALiBi's linear bias, with ALiBi's slopes and λ = 1.
    ///
    /// At `length` 1 the factor runs through the harmonic series 1, 1/2, 1/3 … itself. Near tokens
    /// are then told apart by content, far ones by distance alone: a model must have been trained
    /// this way. Other readings (harmonic slopes, a harmonic distance) take the same parts.
    ///
    /// # Errors
    /// As [`with_harmonic_factor`](Positions::with_harmonic_factor).
    pub fn paper(rope: Rope, length: f64) -> Result<Self> {
        Self::new().with_rope(rope).with_bias(Bias::alibi()).with_harmonic_factor(length)
    }

    /// The reading of arXiv 2410.18441 that keeps reach: rotated scores as they are (`a ≡ 1`), and
    /// a bias that is harmonic twice, `φ(Δ) = H_Δ` with slopes `m_h = 1/h` and λ = 1.
    ///
    /// `H_Δ` grows like `ln Δ`, so before content is looked at the weight of a key falls like
    /// `Δ^(−1/h)` and not exponentially: in head 1 every octave of distance weighs alike, and
    /// further heads see further. With ALiBi's slopes, all below 1, the same distance hardly tells
    /// near from far (`examples/positions.rs` has the numbers). The choice rests on that reach, not
    /// on a trained model's loss.
    ///
    /// For models that are trained with it. Those trained with the rotation alone should run with
    /// the rotation alone (`Positions::from(rope)`): the bias takes SmolLM2-135M's perplexity from
    /// 25.0 to 52.2 and from 31.7 to 61.7, and in the 3 global layers of Gemma 3 270M from 24.4 to
    /// 31.9 and from 29.2 to 38.3 (the first 4,096 tokens of *Emma* and of *Persuasion*;
    /// `lab/results/sampling.csv`). With a weight λ of at most 0.03 ([`Bias::with_weight`]) it does
    /// no harm there, and no good (`lab/RESULTS.md`).
    pub fn doubly_harmonic(rope: Rope) -> Self {
        Self::new().with_rope(rope).with_bias(Bias::harmonic())
    }

    /// The same with this rotation of queries and keys.
    pub fn with_rope(self, rope: Rope) -> Self {
        Self { rope: Some(rope), ..self }
    }

    /// The same with this bias.
    pub fn with_bias(self, bias: Bias) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// The same with the factor `a(Δ) = 1/(1 + Δ/length)` on the scores and its complement `c = 1 −
    /// a` on the bias. `length` is in tokens: there both weigh one half.
    ///
    /// # Errors
    /// Invalid argument unless finite and at least 2⁻²⁰.
    pub fn with_harmonic_factor(self, length: f64) -> Result<Self> {
        ensure!(
            length.is_finite() && length >= 1.0 / f64::from(1 << 20),
            "length",
            "expected a finite number of at least 2^-20 tokens, got {length}"
        );
        Ok(Self { factor_length: Some(length), ..self })
    }

    /// The same for positions (and lags) below `max_positions`, where
    /// [`PositionIds`](crate::attention::PositionIds) or offsets go past the lengths of a plan: its
    /// tables are made for these.
    ///
    /// # Errors
    /// Invalid argument if past 2³⁰.
    pub fn with_max_positions(self, max_positions: usize) -> Result<Self> {
        ensure!(max_positions <= 1 << 30, "max_positions", "expected at most 2^30, got {max_positions}");
        Ok(Self { max_positions, ..self })
    }

    /// Positions are below this, or below a plan's longest length if that is more.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// The rotation, if any.
    pub fn rope(&self) -> Option<&Rope> {
        self.rope.as_ref()
    }

    /// The bias, if any.
    pub fn bias(&self) -> Option<&Bias> {
        self.bias.as_ref()
    }

    /// The length of the harmonic factor in tokens; `None` where `a ≡ 1`.
    pub fn factor_length(&self) -> Option<f64> {
        self.factor_length
    }

    /// `a(lag)`, the factor on the scores: 1 or `1/(1 + lag/L)`.
    pub fn factor(&self, lag: u64) -> f64 {
        self.factor_length.map_or(1.0, |length| length / (length + lag as f64))
    }

    /// `c(lag)·φ(lag)`, the bias before slopes: 0 without one.
    pub fn bias_at(&self, lag: u64) -> f64 {
        let Some(bias) = &self.bias else { return 0.0 };
        // 1 − a without cancellation.
        let complement = self.factor_length.map_or(1.0, |length| lag as f64 / (length + lag as f64));
        complement * bias.distance().at(lag)
    }

    /// `λ·m_h` of each of `heads` query heads: 0 without a bias.
    ///
    /// # Errors
    /// As [`Slopes::values`].
    pub fn slopes(&self, heads: usize) -> Result<Vec<f64>> {
        at_most("heads", heads, MAX_HEADS)?;
        self.bias.as_ref().map_or_else(|| Ok(vec![0.0; heads]), |bias| bias.slopes(heads))
    }

    /// Refuses a problem that these positions are not for.
    pub(crate) fn check(&self, head_dim: usize, heads: usize) -> Result<()> {
        if let Some(rope) = &self.rope {
            let got = rope.head_dim();
            ensure!(
                head_dim == got,
                "positions",
                "expected a rotation for head_dim = {head_dim}, got one for {got}"
            );
        }
        self.slopes(heads).map(drop)
    }
}

/// Refuses a position that a plan's tables, which have those below `extent`, don't reach.
pub(crate) fn check_reached(argument: &'static str, position: i64, extent: usize) -> Result<()> {
    ensure!(
        position.unsigned_abs() < extent as u64,
        argument,
        "position {position} is past the plan's {extent} (Positions::with_max_positions)"
    );
    Ok(())
}

impl From<Rope> for Positions {
    fn from(rope: Rope) -> Self {
        Self::new().with_rope(rope)
    }
}

impl From<Bias> for Positions {
    fn from(bias: Bias) -> Self {
        Self::new().with_bias(bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_and_its_complement_share_the_score() {
        let plain = Positions::from(Bias::alibi());
        assert_eq!((plain.factor(7), plain.bias_at(7)), (1.0, 7.0));
        let factored = plain.with_harmonic_factor(4.0).unwrap();
        assert_eq!((factored.factor(0), factored.bias_at(0)), (1.0, 0.0));
        assert_eq!((factored.factor(4), factored.bias_at(4)), (0.5, 2.0));
        for lag in [1, 3, 100, 1 << 20] {
            assert!((factored.factor(lag) + factored.bias_at(lag) / lag as f64 - 1.0).abs() < 1e-15);
        }
        assert_eq!(Positions::new().bias_at(9), 0.0);
        assert_eq!(Positions::new().slopes(2).unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<()>| r.unwrap_err().argument().unwrap();
        assert_eq!(named(Positions::new().with_harmonic_factor(0.0).map(drop)), "length");
        let rope = Rope::new(32, 1e4, Pairing::Half).unwrap();
        assert_eq!(named(Positions::from(rope).check(64, 4)), "positions");
        let bias = Bias::new(Distance::Linear, Slopes::Given(vec![1.0; 2])).unwrap();
        assert_eq!(named(Positions::from(bias).check(64, 4)), "slopes");
        assert_eq!(Positions::new().slopes(usize::MAX).unwrap_err().argument(), Some("heads"));
    }
}
