//! The tree-structured Parzen estimator, in its multivariate form.

use super::draw::{fresh, value};
use super::history::{History, Method, Next, Trial};
use super::keyed::uniform;
use super::methods::even;
use super::space::{Parameter, Point, Scale};
use crate::error::{Result, ensure};
use crate::random::pcg_hash;

/// The tree-structured Parzen estimator (Bergstra et al. 2011): two densities, l of the best tenth
/// of the trials so far and g of the others, each a mixture with a kernel for every trial and an
/// even one. Of some points drawn from l that with the largest l/g comes next.
///
/// A kernel is a product over all parameters, as in the multivariate form of Falkner et al. (2018)
/// and optuna, so that it keeps together what was good together. The constants are optuna's: a
/// tenth, but no more than 25 of the trials; for nominal values all but a part of 1/(n + 1) stays at
/// the trial's own; for ordinal ones it is a normal distribution of width `0.2·n^(−1/(d + 4))` of
/// their range, d being the number of parameters.
///
/// It never waits for scores: trials without one count for nothing yet.
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

    /// With so many trials drawn evenly at first.
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

/// A mixture of kernels; each has for each parameter the logarithms of its values' probabilities.
struct Mixture {
    kernels: Vec<Vec<Vec<f64>>>,
}

impl Mixture {
    fn new(parameters: &[Parameter], trials: &[&Trial]) -> Self {
        let own = trials.iter().map(|trial| Some(&trial.point));
        // The last is the even one.
        let kernels = own.chain([None]).map(|point| {
            let row = |(index, parameter): (usize, &Parameter)| {
                let at = point.map(|point| point.indices()[index] as usize);
                kernel(parameter, at, trials.len(), parameters.len())
            };
            parameters.iter().enumerate().map(row).collect()
        });
        Self { kernels: kernels.collect() }
    }

    /// `ln Σ Π p`, but for how many kernels there are.
    fn ln_density(&self, point: &Point) -> f64 {
        let of = |kernel: &Vec<Vec<f64>>| -> f64 {
            kernel.iter().zip(point.indices()).map(|(row, &at)| row[at as usize]).sum()
        };
        let each: Vec<f64> = self.kernels.iter().map(of).collect();
        let most = each.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + libm::log(each.iter().map(|ln| libm::exp(ln - most)).sum::<f64>() / each.len() as f64)
    }
}

/// The logarithms of the probabilities of a parameter's values around one of them, or of none, by n
/// trials of d parameters.
fn kernel(parameter: &Parameter, at: Option<usize>, n: usize, d: usize) -> Vec<f64> {
    let count = parameter.values().len();
    let mut row = match (at, parameter.scale()) {
        (None, Scale::Nominal) => even(parameter),
        (at, Scale::Ordinal) => {
            let range = count as f64;
            let middle = (range - 1.0) / 2.0;
            let (mean, width) = match at {
                None => (middle, range),
                Some(at) => (at as f64, 0.2 * range * libm::pow(n as f64, -1.0 / (d as f64 + 4.0))),
            };
            let below = |x: f64| 0.5 * (1.0 + libm::erf((x - mean) / (width * std::f64::consts::SQRT_2)));
            (0..count).map(|index| below(index as f64 + 0.5) - below(index as f64 - 0.5)).collect()
        }
        (Some(at), Scale::Nominal) => {
            let mut row = vec![1.0 / (n as f64 + 1.0); count];
            row[at] += 1.0;
            row
        }
    };
    let total: f64 = row.iter().sum();
    // What is too far for a normal distribution still has some probability.
    row.iter_mut().for_each(|p| *p = libm::log((*p / total).max(1e-12)));
    row
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
        let (good, bad) = (Mixture::new(parameters, best), Mixture::new(parameters, &others));
        let ratio = |point: &Point| good.ln_density(point) - bad.ln_density(point);
        let drawn = (0..self.candidates).map(|number| self.draw(history, id, number as u32, &good, best));
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

impl Tpe {
    /// A point of the mixture: a kernel, and a value of each parameter by it.
    fn draw(&self, history: &History, id: u64, number: u32, mixture: &Mixture, trials: &[&Trial]) -> Point {
        let key = [id as u32, (id >> 32) as u32, number];
        // Kernels go by the trials that they are of, not by their order.
        let of = |index: usize| trials.get(index).map_or(u64::MAX, |trial| trial.id);
        let draw = |index: usize| uniform(history.seed(), key, pcg_hash(of(index) as u32));
        let chosen =
            (0..mixture.kernels.len()).max_by(|&a, &b| draw(a).total_cmp(&draw(b)).then(of(a).cmp(&of(b))));
        let kernel = &mixture.kernels[chosen.unwrap_or(0)];
        let rows = history.space().parameters().iter().zip(kernel);
        let weights = |row: &[f64]| row.iter().map(|&ln| libm::exp(ln)).collect::<Vec<_>>();
        Point(rows.map(|(parameter, row)| value(history.seed(), key, parameter, &weights(row))).collect())
    }
}

/// A point in words, whatever the order of the parameters.
fn sorted(history: &History, point: &Point) -> String {
    let words = history.space().describe(point);
    let mut words: Vec<&str> = words.split(", ").collect();
    words.sort_unstable();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_probabilities_around_their_own() {
        let nominal = Parameter::nominal("a", ["x", "y", "z"]).unwrap();
        let ordinal = Parameter::ordinal("b", [1, 2, 3, 4, 5]).unwrap();
        for (parameter, at) in [(&nominal, Some(1)), (&nominal, None), (&ordinal, Some(2)), (&ordinal, None)]
        {
            for n in [1, 10, 1000] {
                let row: Vec<f64> = kernel(parameter, at, n, 4).iter().map(|ln| ln.exp()).collect();
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{row:?}");
                let most = at.unwrap_or(row.len() / 2);
                assert!(row.iter().all(|&p| p <= row[most] + 1e-12), "{row:?}");
                // The same to both sides.
                assert!(
                    row.iter().zip(row.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-12 || at == Some(1))
                );
            }
        }
        assert_eq!(kernel(&nominal, Some(1), 3, 1)[1], libm::log(1.25 / 1.75));
    }
}
