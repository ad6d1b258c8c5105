//! A score for every point of a space, from those of some: a Gaussian process.

use anyhow::{Result, ensure};
use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use prflash::search::{Point, Scale, Space};

use super::statistics::spearman;
use super::table::{Table, all_indices, number_of};

/// Natural logarithms of lengths, in places of a list, and of the noise, as a part of the variance:
/// from, to, at first, and by how much less they are changed in the end.
const LENGTHS: (f64, f64, f64) = (-2.0, 4.0, 1.0);
const NOISE: (f64, f64, f64) = (-7.0, 2.0, -1.0);
const STEPS: [f64; 4] = [1.0, 0.5, 0.25, 0.1];
/// Rounds over all hyper-parameters with one step, at most.
const ROUNDS: usize = 20;

/// The mean of a Gaussian process over the points of a space, given the scores of a table. The
/// process has a constant mean and a covariance that is a product over parameters (Rasmussen and
/// Williams 2006, ch. 2 and 5), of the places of values in their list: Matérn's of order 5/2 for
/// ordinal parameters, and one number for any two different values of a nominal one. Its lengths
/// and the noise are those of the largest marginal likelihood that a search along one after the
/// other finds.
#[derive(Clone, Debug)]
pub struct Surrogate {
    space: Space,
    scores: Vec<f64>,
    fit: Fit,
}

/// How good a surrogate is: each score of the table against what the others say of its point, with
/// the same hyper-parameters.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Fit {
    /// How many scores there are.
    pub scores: usize,
    /// The part of the scores' variance that is predicted.
    pub r2: f64,
    /// The rank correlation of the scores with what is predicted.
    pub spearman: f64,
    /// The root of the mean square of what is missed, in units of the score.
    pub rmse: f64,
    /// The standard deviation of the noise that the process assumes, in units of the score.
    pub noise: f64,
    /// The length of each parameter, in places of its list.
    pub lengths: Vec<f64>,
}

/// What is known of a process with some hyper-parameters.
struct Posterior {
    /// The weights of the kernel functions, `K⁻¹·y`.
    weights: DVector<f64>,
    factor: Cholesky<f64, Dyn>,
    mean: f64,
    /// The variance of the signal.
    variance: f64,
    /// The log-likelihood of the scores, but for a constant.
    ln_likelihood: f64,
}

impl Surrogate {
    /// Fits the scores of a table.
    ///
    /// # Errors
    /// A table with fewer than ten scores, or whose scores are all the same.
    pub fn new(table: &Table) -> Result<Self> {
        let scores: Vec<f64> = table.scored.iter().map(|(_, score)| *score).collect();
        ensure!(scores.len() >= 10, "{}: expected at least 10 scores, got {}", table.name, scores.len());
        ensure!(scores.iter().any(|score| *score != scores[0]), "{}: all scores are the same", table.name);
        let at = |point: &Point| point.indices().iter().map(|&at| at as usize).collect();
        let points: Vec<Vec<usize>> = table.scored.iter().map(|(point, _)| at(point)).collect();
        let (logs, posterior) = fitted(&table.space, &points, &scores)?;
        let rows = rows(&table.space, &logs);
        let predicted = all_indices(&table.space).map(|at| {
            let each = points.iter().zip(posterior.weights.iter());
            posterior.mean + each.map(|(point, weight)| weight * covariance(&rows, point, &at)).sum::<f64>()
        });
        let predicted = predicted.collect();
        Ok(Self {
            fit: leave_one_out(&scores, &posterior, &logs),
            space: table.space.clone(),
            scores: predicted,
        })
    }

    /// The space that is searched.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The score of a point.
    pub fn score(&self, point: &Point) -> f64 {
        self.scores[number_of(&self.space, point)]
    }

    /// The scores of all points, the last parameter the fastest.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// How good the fit is.
    pub fn fit(&self) -> &Fit {
        &self.fit
    }
}

/// For each parameter the covariance, by how far two places are from each other.
fn rows(space: &Space, logs: &[f64]) -> Vec<Vec<f64>> {
    let row = |(parameter, ln): (&prflash::search::Parameter, &f64)| {
        let covariance = |far: usize| {
            let far = if parameter.scale() == Scale::Nominal { far.min(1) } else { far };
            let x = 5f64.sqrt() * far as f64 / ln.exp();
            (1.0 + x + x * x / 3.0) * (-x).exp()
        };
        (0..parameter.values().len()).map(covariance).collect()
    };
    space.parameters().iter().zip(logs).map(row).collect()
}

fn covariance(rows: &[Vec<f64>], one: &[usize], other: &[usize]) -> f64 {
    rows.iter().zip(one.iter().zip(other)).map(|(row, (&a, &b))| row[a.abs_diff(b)]).product()
}

/// The posterior; none where the matrix isn't positive in numbers of this precision.
fn posterior(space: &Space, points: &[Vec<usize>], scores: &[f64], logs: &[f64]) -> Option<Posterior> {
    let (lengths, noise) = logs.split_at(logs.len() - 1);
    let (rows, count) = (rows(space, lengths), points.len());
    let matrix = DMatrix::from_fn(count, count, |i, j| match i >= j {
        true => covariance(&rows, &points[i], &points[j]) + if i == j { noise[0].exp() } else { 0.0 },
        // Only what is below the diagonal is read.
        false => 0.0,
    });
    let factor = Cholesky::new(matrix)?;
    let ones = factor.solve(&DVector::from_element(count, 1.0));
    let scores = DVector::from_column_slice(scores);
    // The mean and the variance that are the likeliest for these lengths.
    let mean = ones.dot(&scores) / ones.sum();
    let centred = scores.add_scalar(-mean);
    let weights = factor.solve(&centred);
    let variance = weights.dot(&centred) / count as f64;
    let ln_determinant = 2.0 * factor.l_dirty().diagonal().iter().map(|x| x.ln()).sum::<f64>();
    let ln_likelihood = -0.5 * (count as f64 * variance.ln() + ln_determinant);
    Some(Posterior { weights, factor, mean, variance, ln_likelihood })
}

/// The hyper-parameters (logarithms of the lengths, then of the noise) that are the likeliest.
fn fitted(space: &Space, points: &[Vec<usize>], scores: &[f64]) -> Result<(Vec<f64>, Posterior)> {
    let count = space.parameters().len();
    let mut logs: Vec<f64> = vec![LENGTHS.2; count].into_iter().chain([NOISE.2]).collect();
    let mut best = posterior(space, points, scores, &logs);
    let likelihood = |p: &Option<Posterior>| p.as_ref().map_or(f64::NEG_INFINITY, |p| p.ln_likelihood);
    for step in STEPS {
        for _ in 0..ROUNDS {
            let before = likelihood(&best);
            for index in 0..logs.len() {
                let (least, most, _) = if index == count { NOISE } else { LENGTHS };
                for step in [step, -step] {
                    let mut other = logs.clone();
                    other[index] = (other[index] + step).clamp(least, most);
                    let found = posterior(space, points, scores, &other);
                    if likelihood(&found) > likelihood(&best) {
                        (logs, best) = (other, found);
                    }
                }
            }
            if likelihood(&best) < before + 1e-3 {
                break;
            }
        }
    }
    let best = best.ok_or_else(|| anyhow::anyhow!("no length gives a matrix that is positive"))?;
    Ok((logs, best))
}

/// Predicts each score by the others, by the inverse of the matrix (Rasmussen and Williams 2006,
/// eq. 5.12).
fn leave_one_out(scores: &[f64], posterior: &Posterior, logs: &[f64]) -> Fit {
    let inverse = posterior.factor.inverse();
    let missed: Vec<f64> =
        posterior.weights.iter().zip(inverse.diagonal().iter()).map(|(weight, own)| weight / own).collect();
    let predicted: Vec<f64> = scores.iter().zip(&missed).map(|(score, missed)| score - missed).collect();
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let rest = square(&mut missed.iter().copied());
    let (lengths, noise) = logs.split_at(logs.len() - 1);
    Fit {
        scores: scores.len(),
        r2: 1.0 - rest / square(&mut scores.iter().map(|score| score - mean)),
        spearman: spearman(scores, &predicted),
        rmse: (rest / count).sqrt(),
        noise: (posterior.variance * noise[0].exp()).sqrt(),
        lengths: lengths.iter().map(|ln| ln.exp()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use prflash::search::Parameter;

    use super::*;

    fn table(score: impl Fn(&[usize]) -> f64, every: usize) -> Table {
        let space = Space::new([
            Parameter::ordinal("a", [1, 2, 3, 4, 5, 6]).unwrap(),
            Parameter::nominal("b", ["x", "y", "z"]).unwrap(),
            Parameter::ordinal("c", [1, 2, 3, 4, 5]).unwrap(),
        ])
        .unwrap();
        let search = prflash::search::Search::new(space.clone(), prflash::search::Grid, 0);
        let scored = all_points(search).into_iter().step_by(every).map(|point| {
            let at: Vec<usize> = point.indices().iter().map(|&at| at as usize).collect();
            let score = score(&at);
            (point, score)
        });
        Table { name: "made".into(), scored: scored.collect(), space, cpu_seconds: 0.0 }
    }

    fn all_points(mut search: prflash::search::Search<prflash::search::Grid>) -> Vec<Point> {
        std::iter::from_fn(|| match search.ask() {
            prflash::search::Ask::Trial(trial) => Some(trial.point),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn it_finds_what_is_smooth_between_scores() {
        let score = |at: &[usize]| {
            let nominal = [0.0, 1.0, -0.5][at[1]];
            -(at[0] as f64 - 3.0).powi(2) + nominal * at[2] as f64
        };
        let known = table(score, 2);
        let surrogate = Surrogate::new(&known).unwrap();
        assert!(surrogate.fit().r2 > 0.98, "{:?}", surrogate.fit());
        let off = table(score, 1).scored.iter().fold(0.0, |most: f64, (point, score)| {
            assert_eq!(surrogate.score(point), surrogate.scores()[number_of(&known.space, point)]);
            most.max((surrogate.score(point) - score).abs())
        });
        // Scores go from −11 to 4.
        assert!(off < 0.5, "off by {off}");
    }

    #[test]
    fn of_noise_it_predicts_nothing() {
        let noise =
            |at: &[usize]| f64::from((at[0] * 7919 + at[1] * 104_729 + at[2] * 1_299_709) as u32 % 101);
        let fit = Surrogate::new(&table(noise, 1)).unwrap().fit().clone();
        assert!(fit.r2 < 0.3, "{fit:?}");
        let same = Surrogate::new(&table(|_| 1.0, 1)).unwrap_err();
        assert_eq!(same.to_string(), "made: all scores are the same");
    }
}
