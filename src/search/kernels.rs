//! Mixtures of kernels around trials.

use super::draw::value;
use super::family::count_of;
use super::history::{History, Trial};
use super::keyed::uniform;
use super::methods::even;
use super::space::{Parameter, Point, Scale};
use crate::random::pcg_hash;

/// The width of a kernel of one trial, as a part of an ordinal parameter's range.
const WIDTH: f64 = 0.2;
/// No value is less likely than this, however far from a kernel's own.
const LEAST: f64 = 1e-12;

/// A mixture of kernels, one around each of some trials and one that is of none; each is a product
/// over the parameters.
pub(super) struct Kernels {
    kernels: Vec<Kernel>,
    weight: f64,
}

struct Kernel {
    /// What its draws are a function of.
    key: u32,
    weight: f64,
    /// Of each parameter the logarithms of its values' probabilities.
    rows: Vec<Vec<f64>>,
}

impl Kernels {
    /// Around trials with their weights. With n of them ([`count_of`]) the one of none, which is
    /// wide, has the weight of an n-th of them.
    pub(super) fn new(parameters: &[Parameter], trials: &[(&Trial, f64)]) -> Self {
        let n = count_of(trials);
        let weight: f64 = trials.iter().map(|(_, weight)| weight).sum();
        let kernel = |of: u64, point: Option<&Point>, weight: f64| {
            let row = |(index, parameter): (usize, &Parameter)| {
                kernel(parameter, point.map(|point| point.indices()[index] as usize), n, parameters.len())
            };
            // Kernels go by the trials that they are of, not by their order.
            Kernel {
                key: pcg_hash(of as u32),
                weight,
                rows: parameters.iter().enumerate().map(row).collect(),
            }
        };
        let wide = kernel(u64::MAX, None, if n > 0.0 { weight / n } else { 1.0 });
        let own = trials.iter().map(|&(trial, weight)| kernel(trial.id, Some(&trial.point), weight));
        Self { weight: weight + wide.weight, kernels: own.chain([wide]).collect() }
    }

    /// The logarithm of a point's probability.
    pub(super) fn ln(&self, point: &Point) -> f64 {
        let of = |kernel: &Kernel| -> f64 {
            let rows = kernel.rows.iter().zip(point.indices());
            rows.map(|(row, &at)| row[at as usize]).sum::<f64>() + libm::log(kernel.weight)
        };
        let each: Vec<f64> = self.kernels.iter().map(of).collect();
        let most = each.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + libm::log(each.iter().map(|ln| libm::exp(ln - most)).sum::<f64>() / self.weight)
    }

    /// A point, as a function of the key: a kernel, and a value of each parameter by it.
    pub(super) fn draw(&self, history: &History, key: [u32; 3]) -> Point {
        let gumbel = |of: u32| -libm::log(-libm::log(uniform(history.seed(), key, of)));
        let score = |kernel: &&Kernel| libm::log(kernel.weight) + gumbel(kernel.key);
        let best = self.kernels.iter().max_by(|a, b| score(a).total_cmp(&score(b)).then(a.key.cmp(&b.key)));
        let rows = best.map_or(&[][..], |kernel| &kernel.rows);
        let weights = |row: &[f64]| row.iter().map(|&ln| libm::exp(ln)).collect::<Vec<_>>();
        let drawn = history.space().parameters().iter().zip(rows);
        Point(drawn.map(|(parameter, row)| value(history.seed(), key, parameter, &weights(row))).collect())
    }

    /// The probabilities of a parameter's values, whatever the others'.
    pub(super) fn row(&self, index: usize) -> Vec<f64> {
        let mut row = vec![0.0; self.kernels.first().map_or(0, |kernel| kernel.rows[index].len())];
        for kernel in &self.kernels {
            row.iter_mut().zip(&kernel.rows[index]).for_each(|(p, ln)| *p += kernel.weight * libm::exp(*ln));
        }
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= total);
        row
    }
}

/// The logarithms of the probabilities of a parameter's values around one of them, or of none, by n
/// trials of d parameters.
fn kernel(parameter: &Parameter, at: Option<usize>, n: f64, d: usize) -> Vec<f64> {
    let count = parameter.values().len();
    let mut row = match (at, parameter.scale()) {
        (None, Scale::Nominal) => even(parameter),
        (at, Scale::Ordinal) => {
            let range = count as f64;
            let (mean, width) = match at {
                None => ((range - 1.0) / 2.0, range),
                Some(at) => (at as f64, WIDTH * range * libm::pow(n, -1.0 / (d as f64 + 4.0))),
            };
            let below = |x: f64| 0.5 * (1.0 + libm::erf((x - mean) / (width * std::f64::consts::SQRT_2)));
            (0..count).map(|index| below(index as f64 + 0.5) - below(index as f64 - 0.5)).collect()
        }
        (Some(at), Scale::Nominal) => {
            let mut row = vec![1.0 / (n + 1.0); count];
            row[at] += 1.0;
            row
        }
    };
    let total: f64 = row.iter().sum();
    row.iter_mut().for_each(|p| *p = libm::log((*p / total).max(LEAST)));
    row
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
            for n in [1.0, 10.0, 1000.0] {
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
        assert_eq!(kernel(&nominal, Some(1), 3.0, 1)[1], libm::log(1.25 / 1.75));
    }

    #[test]
    fn a_mixture_is_a_distribution_by_its_weights() {
        let parameters =
            [Parameter::nominal("a", ["x", "y"]).unwrap(), Parameter::ordinal("b", [1, 2, 3]).unwrap()];
        let trial = |id, point: [u32; 2]| Trial { id, point: Point(point.to_vec()), seed: 0, fidelity: 1.0 };
        let trials = [trial(0, [0, 0]), trial(1, [1, 2])];
        let kernels = Kernels::new(&parameters, &[(&trials[0], 3.0), (&trials[1], 1.0)]);
        // n = 1.6, so that 1/2.6 is even; the rest is around the trials, 3 of 4 parts the first
        // one.
        let row = kernels.row(0);
        let own = 3.6 / 4.6;
        let want = 0.5 / 2.6 + 1.6 / 2.6 * (0.75 * own + 0.25 * (1.0 - own));
        assert!((row[0] - want).abs() < 1e-12 && (row[0] + row[1] - 1.0).abs() < 1e-12, "{row:?}");
        for (at, want) in row.iter().enumerate() {
            let sum: f64 = (0..3).map(|other| kernels.ln(&Point(vec![at as u32, other])).exp()).sum();
            assert!((sum - want).abs() < 1e-9, "{sum} {want}");
        }
    }
}
