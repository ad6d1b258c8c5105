//! Means, their errors, and rank correlations.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Samples of a bootstrap.
const SAMPLES: usize = 4000;

/// The mean, and its standard error; that of one value is not a number.
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (variance / count).sqrt())
}

/// Spearman's rank correlation; equal values share their mean rank.
pub fn spearman(one: &[f64], other: &[f64]) -> f64 {
    let [one, other] = [one, other].map(ranks);
    let middle = (one.len() as f64 - 1.0) / 2.0;
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum::<f64>();
    sum(&one, &other) / (sum(&one, &one) * sum(&other, &other)).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let same = values.iter().filter(|other| *other == value).count();
        below as f64 + (same as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

/// Kendall's rank correlation τ-b: of all pairs those that both order alike, less those that they
/// order against each other, where equal values have no order; not a number where one of the two
/// has all equal.
pub fn kendall(one: &[f64], other: &[f64]) -> f64 {
    let (mut sum, mut of_one, mut of_other) = (0.0, 0.0, 0.0);
    for (index, (a, b)) in one.iter().zip(other).enumerate() {
        for (c, d) in one[..index].iter().zip(other) {
            let order = |x: &f64, y: &f64| f64::from(i8::from(x > y) - i8::from(x < y));
            let (here, there) = (order(a, c), order(b, d));
            sum += here * there;
            of_one += here * here;
            of_other += there * there;
        }
    }
    sum / f64::sqrt(of_one * of_other)
}

/// The standard error of a correlation by the bootstrap: its standard deviation over samples of as
/// many pairs, drawn with replacement. Those of which it isn't defined don't count.
pub fn bootstrap_error(one: &[f64], other: &[f64], correlation: fn(&[f64], &[f64]) -> f64) -> f64 {
    let mut random = SmallRng::seed_from_u64(2026);
    let sample = |_| {
        let drawn: Vec<usize> = one.iter().map(|_| random.random_range(0..one.len())).collect();
        let [one, other] = [one, other].map(|values| drawn.iter().map(|&at| values[at]).collect::<Vec<_>>());
        correlation(&one, &other)
    };
    let all: Vec<f64> = (0..SAMPLES).map(sample).filter(|value| value.is_finite()).collect();
    let (_, error) = mean_and_error(&all);
    error * (all.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas() {
        assert_eq!(mean_and_error(&[1.0, 3.0]), (2.0, 1.0));
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 1000.0]) - 1.0).abs() < 1e-12);
        // Of three pairs two are ordered alike; then one of three has no order in the first.
        assert!((kendall(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]) - 1.0 / 3.0).abs() < 1e-12);
        assert!((kendall(&[1.0, 1.0, 2.0], &[1.0, 2.0, 3.0]) - 2.0 / 6f64.sqrt()).abs() < 1e-12);
        assert_eq!(kendall(&[1.0, 2.0, f64::NEG_INFINITY], &[-1.0, -2.0, 5.0]), -1.0);
        assert!(kendall(&[1.0, 1.0], &[1.0, 2.0]).is_nan() && kendall(&[], &[]).is_nan());
        // As scipy.stats.spearmanr has it.
        assert!((spearman(&[1.0, 2.0, 2.0, 4.0], &[2.0, 1.0, 3.0, 3.0]) - 0.5).abs() < 1e-12);
    }
    /// For n pairs of independent normal numbers the standard deviation of Pearson's correlation is
    /// about 1/√n.
    #[test]
    fn bootstraps_find_the_error_of_a_correlation() {
        let mut random = SmallRng::seed_from_u64(1);
        let mut draw =
            || (0..400).map(|_| (0..12).map(|_| random.random::<f64>() - 0.5).sum()).collect::<Vec<f64>>();
        let error = bootstrap_error(&draw(), &draw(), spearman);
        assert!((error - 0.05).abs() < 0.01, "{error}");
        let same: Vec<f64> = (0..12).map(f64::from).collect();
        assert!(bootstrap_error(&same, &same, kendall) < 1e-12);
    }
}
