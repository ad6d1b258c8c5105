//! What a piece costs, as integers: so that any program and any order of work finds the same cuts.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_PIECES, at_most};

/// How a piece's cost κ follows from how often it occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cost {
    /// `−ln(c / n)` nats, of a piece that occurs c times among n: the least sum is the most likely
    /// cut under a unigram model.
    Unigram,
    /// `1 / c`, as the paper has it (arXiv 2410.18441, "sub-word encoding").
    InverseCount,
    /// 1: the least sum is the fewest pieces.
    Unit,
}

impl Cost {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unigram, Self::InverseCount, Self::Unit];

    /// Steps in which costs are counted: 2¹² a nat, 2²⁴ for inverse counts (at 2¹² those were 0
    /// from a count of 8,193 on), 1 for units.
    pub const fn scale(self) -> u32 {
        match self {
            Self::Unigram => 1 << 12,
            Self::InverseCount => 1 << 24,
            Self::Unit => 1,
        }
    }

    /// The largest λ, in the unit of κ: the cost of an edge stays below 2²⁶ for each kind.
    pub const fn max_lambda(self) -> f64 {
        match self {
            Self::Unigram => 1024.0,
            Self::InverseCount => 1.0,
            Self::Unit => 0.0,
        }
    }

    /// κ + λ in steps, of a piece that occurs so often among all. Half a time if it never does.
    pub(super) fn steps(self, count: u64, total: f64, lambda: f64) -> u32 {
        let count = if count == 0 { 0.5 } else { count as f64 };
        let kappa = match self {
            Self::Unigram => -libm::log(count / total.max(1.0)),
            Self::InverseCount => 1.0 / count,
            Self::Unit => 1.0,
        };
        let scale = f64::from(self.scale());
        // Rounded one by one, so that λ changes no difference of costs.
        (kappa.max(0.0) * scale).round() as u32 + (lambda * scale).round() as u32
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unigram => "unigram",
            Self::InverseCount => "inverse-count",
            Self::Unit => "unit",
        })
    }
}

impl FromStr for Cost {
    type Err = Error;

    /// By name: `unigram`, `inverse-count` or `unit`.
    ///
    /// # Errors
    /// Invalid argument (`cost`) if there is none of this name.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|cost| cost.to_string() == name).ok_or_else(|| {
            let names = Self::ALL.map(|cost| cost.to_string()).join(", ");
            Error::argument_error("cost", format!("expected one of {names}; got {name:?}"))
        })
    }
}

/// The cost κ(u) + λ of every piece u of a vocabulary, in integer steps of [`Cost::scale`].
///
/// ```
/// use prflash::subword::{Cost, Costs};
/// for cost in Cost::ALL {
///     let lambda = cost.max_lambda() / 2.0;
///     let costs = Costs::new(cost, &[2, 2, 4], lambda)?;
///     assert_eq!((costs.cost(), costs.lambda()), (cost, lambda));
/// }
/// // A quarter of all occurrences: ln 4 nats.
/// let costs = Costs::new(Cost::Unigram, &[2, 2, 4], 0.0)?;
/// let nats = f64::from(costs.of_pieces()[0]) / f64::from(Cost::Unigram.scale());
/// assert!((nats - 4f64.ln()).abs() < 1e-3);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    cost: Cost,
    lambda: f64,
    /// The costs by piece.
    of_piece: Vec<u32>,
}

impl Costs {
    /// Every piece costs less, in steps of any kind.
    pub(in crate::subword) const BOUND: u32 = 1 << 26;

    /// From how often each piece occurs, by its number. A piece that never does counts half a time.
    ///
    /// λ is added for every piece of a cut, in the unit of κ (nats, for [`Cost::Unigram`]): the
    /// larger, the fewer pieces.
    ///
    /// # Errors
    /// Invalid argument (`lambda`) unless 0 to [`Cost::max_lambda`]; too large (`counts`) past
    /// [`MAX_PIECES`](crate::limits::MAX_PIECES).
    pub fn new(cost: Cost, counts: &[u64], lambda: f64) -> Result<Self> {
        let most = cost.max_lambda();
        ensure!((0.0..=most).contains(&lambda), "lambda", "expected 0 to {most}, got {lambda}");
        at_most("counts", counts.len(), MAX_PIECES)?;
        let total: f64 = counts.iter().map(|&count| count as f64).sum();
        let of_piece = counts.iter().map(|&count| cost.steps(count, total, lambda)).collect();
        Ok(Self { cost, lambda, of_piece })
    }

    /// Of κ + λ in steps, each below [`BOUND`](Costs::BOUND).
    pub(super) fn from_steps(cost: Cost, lambda: f64, of_piece: Vec<u32>) -> Self {
        debug_assert!(of_piece.iter().all(|&steps| steps < Self::BOUND));
        Self { cost, lambda, of_piece }
    }

    /// The kind of κ.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// λ, in the unit of κ.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// The cost of each piece, by its number.
    pub fn of_pieces(&self) -> &[u32] {
        &self.of_piece
    }

    #[inline]
    pub(super) fn of(&self, piece: u32) -> u64 {
        self.of_piece[piece as usize].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_the_formulas_in_steps() {
        let counts = [1, 3, 0, 1 << 40];
        let unigram = Costs::new(Cost::Unigram, &counts, 2.0).unwrap();
        let total = (4.0 + (1u64 << 40) as f64).ln();
        let want = [total, total - 3f64.ln(), total - 0.5f64.ln(), 0.0].map(|nats| (nats * 4096.0).round());
        assert_eq!(unigram.of_pieces(), want.map(|steps| steps as u32 + 8192));
        let inverse = Costs::new(Cost::InverseCount, &counts, 0.5).unwrap();
        assert_eq!(inverse.of_pieces(), [3 << 23, (1 << 23) + 5_592_405, 5 << 23, 1 << 23]);
        assert_eq!(Costs::new(Cost::Unit, &counts, 0.0).unwrap().of_pieces(), [1; 4]);
    }

    #[test]
    fn every_cost_is_below_its_bound() {
        for cost in Cost::ALL {
            assert_eq!(cost.to_string().parse::<Cost>().unwrap(), cost);
            for counts in [[0u64, 1 << 63], [0, 0], [1, 1]] {
                let costs = Costs::new(cost, &counts, cost.max_lambda()).unwrap();
                assert!(costs.of_pieces().iter().all(|&steps| steps < Costs::BOUND), "{costs:?}");
            }
            for lambda in [-1e-9, f64::NAN, cost.max_lambda() + 1e-9] {
                assert_eq!(Costs::new(cost, &[1], lambda).unwrap_err().argument(), Some("lambda"));
            }
        }
    }
}
