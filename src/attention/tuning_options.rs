//! How kernels are measured.

use crate::error::{Result, ensure};
use crate::limits::{MAX_ROUNDS, at_most};

/// How [`Attention::tune`](crate::Attention::tune) measures: how often, and how many kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TuningOptions {
    rounds: usize,
    trials: usize,
}

impl TuningOptions {
    /// Unless set. Room for those that a search of tiles begins with (9 to 22, by what runs), and
    /// for ten proposals or more.
    const TRIALS: usize = 32;

    /// Each time is the median of so many rounds. At most 32 kernels are tried for a class of
    /// shapes.
    ///
    /// # Errors
    /// Invalid argument (`rounds`) for none; too large past
    /// [`MAX_ROUNDS`](crate::limits::MAX_ROUNDS).
    pub fn new(rounds: usize) -> Result<Self> {
        ensure!(rounds >= 1, "rounds", "expected at least 1, got 0");
        at_most("rounds", rounds, MAX_ROUNDS)?;
        Ok(Self { rounds, trials: Self::TRIALS })
    }

    /// With at most so many kernels tried for a class of shapes, the rule's choice among them. To
    /// try a kernel is to compile it, to compare it with the portable one, and to time it; most of
    /// the time goes into compiling. Where the device can run no more kernels than that, all of
    /// them are tried, so `usize::MAX` leaves none out.
    ///
    /// # Errors
    /// Invalid argument (`trials`) for none.
    pub fn with_trials(self, trials: usize) -> Result<Self> {
        ensure!(trials >= 1, "trials", "expected at least 1, got 0");
        Ok(Self { trials, ..self })
    }

    /// The number of rounds of which a time is the median.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// The most kernels that are tried for a class of shapes.
    pub fn trials(&self) -> usize {
        self.trials
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<TuningOptions>| r.unwrap_err().argument().unwrap();
        for rounds in [0, MAX_ROUNDS + 1] {
            assert_eq!(named(TuningOptions::new(rounds)), "rounds");
        }
        let options = TuningOptions::new(3).unwrap();
        assert_eq!(named(options.with_trials(0)), "trials");
        assert_eq!((options.rounds(), options.trials()), (3, TuningOptions::TRIALS));
        assert_eq!(options.with_trials(usize::MAX).unwrap().trials(), usize::MAX);
    }
}
