//! The scores by which the next merge is chosen.

use std::cmp::Ordering;
use std::f64::consts::{FRAC_1_SQRT_2, LN_2};

/// By what the next merge is chosen: the pair with the highest score is merged.
///
/// Here c(a) is how often piece a occurs in the corpus as it is cut now, n how many pieces it is
/// cut into, and c(ab) how many merges of the pair would take place in it. In a run of equal pieces
/// these are counted as they are made, from the left: "aaa" has one pair of a and a, not two.
///
/// Of equal scores the one with the smaller left id wins, then the one with the smaller right id,
/// so a corpus in any order gives the same merges. Scores with logarithms are compared as 64-bit
/// floating-point numbers, which are computed the same on every machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MergeScore {
    /// c(ab): byte-pair encoding. What is merged makes the corpus shorter by as many pieces.
    #[default]
    PairCount,
    /// c(ab) / (c(a)·c(b)), as WordPiece is trained. Fractions are compared exactly.
    ///
    /// Rare pairs have the highest scores, so a
    /// [least count](super::MergesTrainer::with_minimum_count) is of use here.
    WordPiece,
    /// c(ab) times the pointwise mutual information of a and b: c(ab)·ln(c(ab)·n / (c(a)·c(b))).
    MutualInformation,
    /// By how much the merge raises the logarithm of the corpus's likelihood under a unigram model
    /// of its pieces, which is L = Σ c·ln(c/n) = Σ c·ln c − n·ln n over all pieces.
    ///
    /// A merge takes r = c(ab) from c(a), from c(b) and from n, and the new piece has c = r. So,
    /// with h(x) = x·ln x, the gain is, if a isn't b,
    ///
    /// h(c(a) − r) − h(c(a)) + h(c(b) − r) − h(c(b)) + h(r) + h(n) − h(n − r),
    ///
    /// and with a piece twice it is h(c(a) − 2r) − h(c(a)) + h(r) + h(n) − h(n − r).
    Likelihood,
}

/// What scores are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// Merges of the pair: at least 1.
    pub(super) pair: u64,
    /// Of the left and of the right piece. Both are the same count if the piece is the same.
    pub(super) left: u64,
    pub(super) right: u64,
    /// Whether it is the same piece.
    pub(super) twice: bool,
    /// Pieces in all: at most 2⁶³.
    pub(super) total: u64,
}

/// A score that doesn't rise when the count of a piece rises, nor when n falls.
pub(super) trait Measure {
    type Value: Copy + Ord;

    fn value(counts: &Counts) -> Self::Value;

    /// A value that is no lower, apart from rounding, and perhaps quicker to compute.
    fn at_most(counts: &Counts) -> Self::Value {
        Self::value(counts)
    }

    /// What the score of the pair stays below or at while its count and those of its pieces stay,
    /// or the latter rise, and n falls.
    fn bound(value: Self::Value, pair: u64) -> Self::Value;
}

/// A number that isn't a NaN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Real(pub(super) f64);

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Real {}

impl Real {
    /// Rounding may make a score rise where that of exact arithmetic falls. All terms of a score
    /// are at most 200 times the pair's count, and each has an error of a few units in the last of
    /// 53 places, so this is a thousand times more than what they make together.
    fn with_slack(self, pair: u64) -> Self {
        Self(self.0 + pair as f64 * 1e-9)
    }
}

/// A count over a product of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio {
    count: u64,
    product: u128,
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> Ordering {
        wide_product(other.product, self.count).cmp(&wide_product(self.product, other.count))
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ratio {}

/// All 192 bits, the upper 128 first.
fn wide_product(x: u128, y: u64) -> (u128, u64) {
    let y = u128::from(y);
    let low = u128::from(x as u64) * y;
    ((x >> 64) * y + (low >> 64), low as u64)
}

pub(super) struct WordPiece;

impl Measure for WordPiece {
    type Value = Ratio;

    fn value(counts: &Counts) -> Ratio {
        Ratio { count: counts.pair, product: u128::from(counts.left) * u128::from(counts.right) }
    }

    fn bound(value: Ratio, _: u64) -> Ratio {
        value
    }
}

/// c(ab)·n / (c(a)·c(b)). Products of counts are below 2¹²⁶, so none overflows.
fn lift(counts: &Counts) -> f64 {
    (counts.pair as f64 * counts.total as f64) / (counts.left as f64 * counts.right as f64)
}

pub(super) struct MutualInformation;

impl Measure for MutualInformation {
    type Value = Real;

    fn value(counts: &Counts) -> Real {
        Real(counts.pair as f64 * libm::log(lift(counts)))
    }

    fn at_most(counts: &Counts) -> Real {
        Real(counts.pair as f64 * ln_at_most(lift(counts)))
    }

    fn bound(value: Real, pair: u64) -> Real {
        value.with_slack(pair)
    }
}

pub(super) struct Likelihood;

impl Measure for Likelihood {
    type Value = Real;

    /// The large numbers h(n) and h(n − r) nearly cancel, so what is left of them is computed
    /// instead: h(n − r) − h(n) = (n − r)·ln(1 − r/n) − r·ln n, and as much for the pieces. The
    /// logarithms of counts that remain are that of c(ab)·n / (c(a)·c(b)), r times.
    fn value(counts: &Counts) -> Real {
        let &Counts { pair, left, right, twice, total } = counts;
        let pieces = if twice { rest(2 * pair, left) } else { rest(pair, left) + rest(pair, right) };
        Real(pair as f64 * libm::log(lift(counts)) + pieces - rest(pair, total))
    }

    /// Since ln(1 − x) ≤ −x, the part of a piece is at most −r·(1 − r/c), and since
    /// −ln(1 − x) ≤ x / (1 − x), that of n is at most r.
    fn at_most(counts: &Counts) -> Real {
        let &Counts { pair, left, right, twice, .. } = counts;
        let r = pair as f64;
        let shares = r / left as f64 + r / right as f64;
        let pieces = if twice { 2.0 * shares } else { shares } - 2.0;
        Real(r * (ln_at_most(lift(counts)) + pieces + 1.0))
    }

    fn bound(value: Real, pair: u64) -> Real {
        value.with_slack(pair)
    }
}

/// What the natural logarithm of a normal positive number is at most, and at least 0.07 less. Of
/// x = m·2ᵉ with m from 1 to 2, ln m lies below its tangent at √2.
fn ln_at_most(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let exponent = (x.to_bits() >> 52) as i64 - 1023;
    let mantissa = f64::from_bits(x.to_bits() & MANTISSA | 1f64.to_bits());
    (exponent as f64 + 0.5) * LN_2 + (mantissa * FRAC_1_SQRT_2 - 1.0)
}

/// (c − r)·ln(1 − r/c), which tends to 0 as r tends to c.
fn rest(r: u64, c: u64) -> f64 {
    if r == c { 0.0 } else { (c - r) as f64 * libm::log1p(-(r as f64 / c as f64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_any_size_are_compared_exactly() {
        let ratio = |count, product| Ratio { count, product };
        assert!(ratio(1, 3) > ratio(1, 4) && ratio(2, 6) == ratio(1, 3));
        let large = u128::MAX - 5;
        assert!(ratio(u64::MAX, large) > ratio(u64::MAX - 1, large));
        assert!(ratio(u64::MAX, large) < ratio(u64::MAX, large - 1));
        assert_eq!(ratio(u64::MAX, u128::from(u64::MAX) * 7), ratio(1, 7));
        assert_eq!(wide_product(u128::MAX, u64::MAX), (u128::MAX - (1 << 64), 1));
    }

    #[test]
    fn what_a_logarithm_is_at_most() {
        for step in -40_000..=40_000 {
            let x = (f64::from(step) / 450.0).exp();
            let over = ln_at_most(x) - x.ln();
            assert!((-1e-12..0.07).contains(&over), "{x}: {over}");
        }
    }

    #[test]
    fn the_gain_is_that_of_the_likelihood() {
        let h = |x: u64| if x == 0 { 0.0 } else { x as f64 * (x as f64).ln() };
        for total in [2, 3, 10, 57] {
            for left in 1..total {
                for right in 1..=total - left {
                    for pair in 1..=left.min(right) {
                        let counts = Counts { pair, left, right, twice: false, total };
                        let gain = h(left - pair) - h(left) + h(right - pair) - h(right) + h(pair) + h(total)
                            - h(total - pair);
                        assert!((Likelihood::value(&counts).0 - gain).abs() < 1e-9, "{counts:?}");
                        assert!(Likelihood::at_most(&counts).0 > gain - 1e-9, "{counts:?}");
                    }
                }
                for pair in 1..=left / 2 {
                    let counts = Counts { pair, left, right: left, twice: true, total };
                    let gain = h(left - 2 * pair) - h(left) + h(pair) + h(total) - h(total - pair);
                    assert!((Likelihood::value(&counts).0 - gain).abs() < 1e-9, "{counts:?}");
                    assert!(Likelihood::at_most(&counts).0 > gain - 1e-9, "{counts:?}");
                }
            }
        }
        let count = 5_000_000_000;
        let counts = Counts { pair: count, left: count, right: count, twice: false, total: 2 * count };
        // From two pieces half of the time each to one for sure.
        let gain = 2.0 * count as f64 * 2f64.ln();
        assert!((Likelihood::value(&counts).0 / gain - 1.0).abs() < 1e-12);
    }
}
