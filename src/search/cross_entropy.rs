//! The cross-entropy method on listed values.

use super::draw::fresh;
use super::history::{History, Method, Next, Trial};
use super::methods::even;
use super::space::{Parameter, Scale};
use crate::error::{Result, ensure};

/// The trials that the distribution moves towards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Elite {
    /// The best of a round, as a part of it: ρ, rounded up to a whole trial.
    OfRound(f64),
    /// So many of the best of all trials so far.
    OfAll(usize),
}

/// The cross-entropy method (Rubinstein and Kroese 2004): a probability for each value of each
/// parameter, independent of each other and even at first. A round of N points is drawn from them,
/// and then each row moves towards the frequencies of its values among the elite,
///
/// ```text
/// p ← α·(frequencies) + (1 − α)·p
/// ```
///
/// Only ranks of scores matter. Points that were asked for before are drawn anew.
///
/// ```
/// use prflash::search::{Ask, CrossEntropy, Elite, Parameter, Search, Space};
/// let space = Space::new([
///     Parameter::ordinal("window", [1, 2, 4, 8])?,
///     Parameter::nominal("kind", ["one", "two", "three"])?,
/// ])?;
/// // The paper's, with the best quarter of a round as elite and no value less likely than 5%.
/// let method = CrossEntropy::paper(4, 0.5, 0.7)?.with_elite(Elite::OfRound(0.25))?.with_floor(0.05)?;
/// let mut search = Search::new(space, method, 1);
/// for _ in 0..4 {
///     let Ask::Trial(trial) = search.ask() else { break };
///     search.tell(trial.id, f64::from(trial.point.indices()[0]))?;
/// }
/// // Each row has moved towards the best trial by 0.7, and is more concentrated than at first.
/// let rows = method.distribution(search.history());
/// assert!(rows.iter().all(|row| row.iter().any(|&p| p > 0.7)));
/// let concentration = method.concentration(search.history()).ok_or("an elite of a round has one")?;
/// assert!(concentration.iter().all(|&(spread, _)| spread < 0.5));
/// // Values next to the elite's get a part of its weight, where values have an order.
/// assert!(method.with_neighbours(0.2)?.distribution(search.history())[0] != rows[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    round: usize,
    elite: Elite,
    smoothing: f64,
    floor: f64,
    neighbours: f64,
}

impl CrossEntropy {
    /// As arXiv 2410.18441 has it: rounds of N, the best ρ·N of a round as its elite, smoothing α.
    ///
    /// # Errors
    /// Invalid argument (`round`) for rounds of none; (`rho`) unless above 0 and at most 1;
    /// (`alpha`) unless 0 to 1.
    pub fn paper(round: usize, rho: f64, alpha: f64) -> Result<Self> {
        ensure!(round > 0, "round", "expected at least 1, got 0");
        ensure!(rho > 0.0 && rho <= 1.0, "rho", "expected above 0, at most 1, got {rho}");
        ensure!((0.0..=1.0).contains(&alpha), "alpha", "expected 0 to 1, got {alpha}");
        Ok(Self { round, elite: Elite::OfRound(rho), smoothing: alpha, floor: 0.0, neighbours: 0.0 })
    }

    /// Rounds of 12 with the best 6 of all trials so far as elite, α = 0.7, no value below 0.02
    /// when points are drawn, and 0.15 of an elite trial's weight for the neighbours of an ordinal
    /// value.
    pub fn elite_of_all() -> Self {
        Self { round: 12, elite: Elite::OfAll(6), smoothing: 0.7, floor: 0.02, neighbours: 0.15 }
    }

    /// The same method with another elite.
    ///
    /// # Errors
    /// Invalid argument (`elite`) for a part that isn't above 0 and at most 1, or none of all.
    pub fn with_elite(self, elite: Elite) -> Result<Self> {
        let fits = match elite {
            Elite::OfRound(part) => part > 0.0 && part <= 1.0,
            Elite::OfAll(count) => count > 0,
        };
        ensure!(fits, "elite", "expected a part above 0 and at most 1, or at least one trial, got {elite:?}");
        Ok(Self { elite, ..self })
    }

    /// With no value less likely than this when points are drawn, or as likely as the others where
    /// there are too many for it.
    ///
    /// # Errors
    /// Invalid argument (`floor`) unless 0 to 1.
    pub fn with_floor(self, floor: f64) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&floor), "floor", "expected 0 to 1, got {floor}");
        Ok(Self { floor, ..self })
    }

    /// With this part of an elite trial's weight given to the values next to its own, of ordinal
    /// parameters.
    ///
    /// # Errors
    /// Invalid argument (`part`) unless 0 to 1.
    pub fn with_neighbours(self, part: f64) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&part), "part", "expected 0 to 1, got {part}");
        Ok(Self { neighbours: part, ..self })
    }

    /// The probability of each value of each parameter in the round that comes next, or is under
    /// way, without the floor.
    pub fn distribution(&self, history: &History) -> Vec<Vec<f64>> {
        let parameters = history.space().parameters();
        let mut rows: Vec<Vec<f64>> = parameters.iter().map(even).collect();
        for end in self.ends(history) {
            let elite = self.elite_of(history, end);
            if elite.is_empty() {
                continue;
            }
            for (index, (row, parameter)) in rows.iter_mut().zip(parameters).enumerate() {
                let frequencies = self.frequencies(parameter, &elite, index);
                for (p, frequency) in row.iter_mut().zip(frequencies) {
                    *p = self.smoothing * frequency + (1.0 - self.smoothing) * *p;
                }
            }
        }
        rows
    }

    /// How concentrated the rows are, and how much so they would be by chance: for each parameter
    /// `H = 1 − Σ p²`, and the mean of H after as many rounds by scores that say nothing,
    ///
    /// ```text
    /// E[H] = H₀·(1 − α²/Nₑ)ᵗ
    /// ```
    ///
    /// with an elite of Nₑ trials of a round. A row that is no more concentrated than that has
    /// learnt nothing; so `max p ≥ 0.95` alone is no reason to stop. None for an elite of all
    /// trials, whose trials stay from round to round, and with neighbours.
    pub fn concentration(&self, history: &History) -> Option<Vec<(f64, f64)>> {
        let Elite::OfRound(part) = self.elite else { return None };
        if self.neighbours > 0.0 {
            return None;
        }
        let elite = (part * self.round as f64).ceil();
        let rounds = self.ends(history).count() as i32;
        let kept = (1.0 - self.smoothing * self.smoothing / elite).powi(rounds);
        let rows = self.distribution(history);
        Some(
            rows.iter()
                .map(|row| (spread(row), spread(&vec![1.0 / row.len() as f64; row.len()]) * kept))
                .collect(),
        )
    }

    /// Where the rounds that are over end.
    fn ends(&self, history: &History) -> impl Iterator<Item = usize> + use<'_> {
        let rounds = history.trials().len() / self.round;
        let over = match history.told(0..rounds * self.round) {
            true => rounds,
            // All before the one under way were told, or none of it would have been asked for.
            false => rounds - 1,
        };
        (1..=over).map(|round| round * self.round)
    }

    fn elite_of<'h>(&self, history: &'h History, end: usize) -> Vec<&'h Trial> {
        let (trials, count) = match self.elite {
            Elite::OfRound(part) => (end - self.round..end, (part * self.round as f64).ceil() as usize),
            Elite::OfAll(count) => (0..end, count),
        };
        let mut best = history.ranked(trials);
        best.truncate(count);
        best
    }

    /// How often each value is that of an elite trial.
    fn frequencies(&self, parameter: &Parameter, elite: &[&Trial], index: usize) -> Vec<f64> {
        let count = parameter.values().len();
        let mut row = vec![0.0; count];
        let each = 1.0 / elite.len() as f64;
        let shared = if parameter.scale() == Scale::Ordinal { self.neighbours } else { 0.0 };
        for trial in elite {
            let at = trial.point.indices()[index] as usize;
            let next = [at.checked_sub(1), Some(at + 1).filter(|&next| next < count)];
            row[at] += each;
            // What would go past an end stays.
            for next in next.into_iter().flatten() {
                row[at] -= each * shared / 2.0;
                row[next] += each * shared / 2.0;
            }
        }
        row
    }
}

impl Method for CrossEntropy {
    fn next(&self, history: &History) -> Next {
        let asked = history.trials().len();
        if asked.is_multiple_of(self.round) && !history.told(0..asked) {
            return if history.space().points() <= asked as u128 { Next::Exhausted } else { Next::Wait };
        }
        let mut rows = self.distribution(history);
        for row in &mut rows {
            let floor = self.floor.min(1.0 / row.len() as f64);
            let left = 1.0 - floor * row.len() as f64;
            row.iter_mut().for_each(|p| *p = floor + left * *p);
        }
        Next::of(fresh(history, asked as u64, &rows))
    }
}

/// The chance that two draws differ.
fn spread(row: &[f64]) -> f64 {
    1.0 - row.iter().map(|p| p * p).sum::<f64>()
}
