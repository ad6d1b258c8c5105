//! The tree-structured Parzen estimator, in its multivariate form.

use super::draw::fresh;
use super::history::{History, Method, Next, Trial};
use super::kernels::Kernels;
use super::methods::even;
use super::space::Point;
use crate::error::{Result, ensure};

/// The tree-structured Parzen estimator (Bergstra et al. 2011): two densities, l of the best tenth
/// of the trials so far and g of the others, each a mixture with a kernel for every trial and an
/// even one. Of some points drawn from l that with the largest l/g comes next.
///
/// A kernel is a product over all parameters, as in the multivariate form of Falkner et al. (2018)
/// and optuna, so that it keeps together what was good together. The constants are optuna's: a
/// tenth, but no more than 25 of the trials; for nominal values all but a part of 1/(n + 1) stays
/// at the trial's own; for ordinal ones it is a normal distribution of width `0.2·n^(−1/(d + 4))`
/// of their range, d being the number of parameters.
///
/// It never waits for scores: trials without one count for nothing yet.
///
/// ```
/// use prflash::search::Tpe;
/// // For a short search: fewer trials at random first, and a wider choice for each after them.
/// let method = Tpe::new().with_startup(4).with_candidates(64)?;
/// assert_ne!(method, Tpe::default());
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tpe {
    startup: usize,
    candidates: usize,
}

impl Tpe {
    /// With the first ten trials drawn evenly, and 24 candidates for each after them.
    pub fn new() -> Self {
        Self { startup: 10, candidates: 24 }
    }

    /// The same method with so many trials drawn evenly at first.
    pub fn with_startup(self, startup: usize) -> Self {
        Self { startup, ..self }
    }

    /// With so many candidates drawn for a trial.
    ///
    /// # Errors
    /// Invalid argument (`candidates`) for none.
    pub fn with_candidates(self, candidates: usize) -> Result<Self> {
        ensure!(candidates > 0, "candidates", "expected at least 1, got 0");
        Ok(Self { candidates, ..self })
    }
}

impl Default for Tpe {
    fn default() -> Self {
        Self::new()
    }
}

impl Method for Tpe {
    fn next(&self, history: &History) -> Next {
        let parameters = history.space().parameters();
        let id = history.trials().len() as u64;
        let even: Vec<Vec<f64>> = parameters.iter().map(even).collect();
        let ranked = history.ranked(0..history.trials().len());
        let told: Vec<&Trial> = history.trials().iter().filter(|t| history.score(t.id).is_some()).collect();
        if told.len() < self.startup.max(2) || ranked.is_empty() {
            return Next::of(fresh(history, id, &even));
        }
        let count = told.len().div_ceil(10).min(25).min(ranked.len());
        let best = &ranked[..count];
        let others: Vec<&Trial> =
            told.into_iter().filter(|trial| best.iter().all(|b| b.id != trial.id)).collect();
        let [good, bad] = [best, &others].map(|trials| {
            let weighted: Vec<_> = trials.iter().map(|&trial| (trial, 1.0)).collect();
            Kernels::new(parameters, &weighted)
        });
        let ratio = |point: &Point| good.ln(point) - bad.ln(point);
        let draw = |number| good.draw(history, [id as u32, (id >> 32) as u32, number as u32]);
        let drawn = (0..self.candidates).map(draw);
        let new = drawn.filter(|point| !history.contains(point));
        let ranked = new.map(|point| (ratio(&point), point));
        let best = ranked.max_by(|a, b| {
            // Equal ones go by what they read, so that the order of values is nothing.
            let read = |point: &Point| sorted(history, point);
            a.0.total_cmp(&b.0).then_with(|| read(&a.1).cmp(&read(&b.1)))
        });
        match best {
            Some((_, point)) => Next::Point(point),
            None => Next::of(fresh(history, id, &even)),
        }
    }
}

/// A point in words, whatever the order of the parameters.
fn sorted(history: &History, point: &Point) -> String {
    let words = history.space().describe(point);
    let mut words: Vec<&str> = words.split(", ").collect();
    words.sort_unstable();
    words.join(", ")
}
