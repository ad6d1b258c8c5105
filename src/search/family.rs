//! Distributions over the points of a space that see which values go together.

use super::draw::value;
use super::history::{History, Trial};
use super::methods::even;
use super::space::{Parameter, Point, Scale};

/// Pairs of parameters are taken for independent by so many trials.
const INDEPENDENT: f64 = 16.0;
/// What differs by less is the same, so that the order of a sum is nothing.
pub(super) const SAME: f64 = 1e-9;

/// How many trials of even weights say as much as these: `(Σ w)²/Σ w²`, after Kish.
pub(super) fn count_of(trials: &[(&Trial, f64)]) -> f64 {
    let total: f64 = trials.iter().map(|(_, weight)| weight).sum();
    let squares: f64 = trials.iter().map(|(_, weight)| weight * weight).sum();
    if squares > 0.0 { total * total / squares } else { 0.0 }
}

/// Probabilities of values, and of pairs of values: frequencies among weighted trials, smoothed.
pub(super) struct Frequencies {
    /// The probabilities of each parameter's values.
    pub(super) rows: Vec<Vec<f64>>,
    /// Of each pair of parameters, the first one first: a row for each value of the first.
    pairs: Vec<Vec<Vec<Vec<f64>>>>,
}

impl Frequencies {
    /// Of trials with their weights. With n of them ([`count_of`]) a row is n parts of their values
    /// and one of even ones; the table of a pair is that of two such rows, and 16 parts of the
    /// product of both rows. A trial gives the part `neighbours` of its weight to the values next
    /// to its own, of ordinal parameters.
    pub(super) fn new(parameters: &[Parameter], trials: &[(&Trial, f64)], neighbours: f64) -> Self {
        let total: f64 = trials.iter().map(|(_, weight)| weight).sum();
        let n = count_of(trials);
        let spread = |trial: &Trial| -> Vec<Vec<f64>> {
            let own = parameters.iter().zip(trial.point.indices());
            own.map(|(parameter, &at)| kernel(parameter, at as usize, neighbours)).collect()
        };
        // Of a trial with the probability that it counts for.
        let spreads: Vec<_> =
            trials.iter().map(|&(trial, weight)| (spread(trial), weight / total * n / (n + 1.0))).collect();
        let row = |(index, parameter): (usize, &Parameter)| {
            let mut row = even(parameter);
            row.iter_mut().for_each(|p| *p /= n + 1.0);
            for (spread, part) in &spreads {
                row.iter_mut().zip(&spread[index]).for_each(|(p, own)| *p += part * own);
            }
            row
        };
        let rows: Vec<Vec<f64>> = parameters.iter().enumerate().map(row).collect();
        let learnt = (n + 1.0) / (n + 1.0 + INDEPENDENT);
        let table = |first: usize, second: usize| {
            let (one, other) = (&rows[first], &rows[second]);
            let even = 1.0 / (n + 1.0) / (one.len() * other.len()) as f64;
            let independent = |p: &f64| {
                let cell = |q: &f64| learnt * even + (1.0 - learnt) * p * q;
                other.iter().map(cell).collect::<Vec<f64>>()
            };
            let mut table: Vec<Vec<f64>> = one.iter().map(independent).collect();
            for (spread, part) in &spreads {
                for (row, p) in table.iter_mut().zip(&spread[first]).filter(|(_, p)| **p > 0.0) {
                    row.iter_mut().zip(&spread[second]).for_each(|(cell, q)| *cell += learnt * part * p * q);
                }
            }
            table
        };
        let count = parameters.len();
        let pairs = (0..count).map(|one| (one + 1..count).map(|other| table(one, other)).collect()).collect();
        Self { rows, pairs }
    }

    /// The probability of two values of two parameters.
    fn pair(&self, (first, at): (usize, usize), (second, there): (usize, usize)) -> f64 {
        match first < second {
            true => self.pairs[first][second - first - 1][at][there],
            false => self.pairs[second][first - second - 1][there][at],
        }
    }

    /// What a value of one parameter tells of the other's: mutual information, in nats.
    fn information(&self, first: usize, second: usize) -> f64 {
        let (one, other) = (&self.rows[first], &self.rows[second]);
        let cell = |at: usize, there: usize| {
            let p = self.pair((first, at), (second, there));
            p * libm::log(p / (one[at] * other[there]))
        };
        (0..one.len()).flat_map(|at| (0..other.len()).map(move |there| cell(at, there))).sum()
    }

    /// The tree that says most of what goes together (Chow and Liu 1968): parameters with the one
    /// that each depends on, which comes before it.
    pub(super) fn tree(&self, parameters: &[Parameter]) -> Vec<(usize, Option<usize>)> {
        // By their names, so that the order of the parameters is nothing.
        let mut left: Vec<usize> = (0..parameters.len()).collect();
        left.sort_by_key(|&index| parameters[index].name());
        // In whole steps.
        let steps = |one: usize, other: usize| (self.information(one, other) / SAME) as i64;
        let steps: Vec<Vec<i64>> =
            (0..parameters.len()).map(|one| (0..one).map(|other| steps(other, one)).collect()).collect();
        let mut tree = vec![(left.remove(0), None)];
        while !left.is_empty() {
            let mut best = (i64::MIN, 0, 0);
            for (place, &child) in left.iter().enumerate() {
                for &(parent, _) in &tree {
                    let steps = steps[parent.max(child)][parent.min(child)];
                    best = if steps > best.0 { (steps, place, parent) } else { best };
                }
            }
            tree.push((left.remove(best.1), Some(best.2)));
        }
        tree
    }
}

/// Frequencies as a distribution: a parameter's value depends on that of the one before it in a
/// tree.
pub(super) struct Family<'f> {
    frequencies: &'f Frequencies,
    tree: Vec<(usize, Option<usize>)>,
}

impl<'f> Family<'f> {
    /// The model by the likeliest tree.
    pub(super) fn new(frequencies: &'f Frequencies, parameters: &[Parameter]) -> Self {
        Self { frequencies, tree: frequencies.tree(parameters) }
    }

    /// The probabilities of a parameter's values, given those of a point before it in the tree.
    fn row(&self, (index, parent): (usize, Option<usize>), point: &[u32]) -> Vec<f64> {
        let row = &self.frequencies.rows[index];
        let given = |parent: usize| {
            let at = point[parent] as usize;
            let of = self.frequencies.rows[parent][at];
            (0..row.len()).map(|own| self.frequencies.pair((parent, at), (index, own)) / of).collect()
        };
        parent.map_or_else(|| row.clone(), given)
    }

    /// A point, as a function of the key.
    pub(super) fn draw(&self, history: &History, key: [u32; 3]) -> Point {
        let parameters = history.space().parameters();
        let mut point = vec![0; parameters.len()];
        for &(index, parent) in &self.tree {
            let row = self.row((index, parent), &point);
            point[index] = value(history.seed(), key, &parameters[index], &row);
        }
        Point(point)
    }
}

/// Where a trial's weight goes; what would go past an end stays.
fn kernel(parameter: &Parameter, at: usize, neighbours: f64) -> Vec<f64> {
    let count = parameter.values().len();
    let mut row = vec![0.0; count];
    row[at] = 1.0;
    if parameter.scale() == Scale::Ordinal {
        let next = [at.checked_sub(1), Some(at + 1).filter(|&next| next < count)];
        for next in next.into_iter().flatten() {
            row[at] -= neighbours / 2.0;
            row[next] += neighbours / 2.0;
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> [Parameter; 3] {
        [
            Parameter::nominal("a", ["x", "y"]).unwrap(),
            Parameter::ordinal("b", [1, 2, 3, 4]).unwrap(),
            Parameter::nominal("c", ["x", "y"]).unwrap(),
        ]
    }

    fn trials(points: &[[u32; 3]]) -> Vec<Trial> {
        let trial = |(id, point): (usize, &[u32; 3])| Trial {
            id: id as u64,
            point: Point(point.to_vec()),
            seed: 0,
            fidelity: 1.0,
        };
        points.iter().enumerate().map(trial).collect()
    }

    #[test]
    fn pairs_add_up_to_rows_and_rows_to_one() {
        let trials = trials(&[[0, 1, 0], [1, 3, 1], [0, 0, 0], [1, 2, 1]]);
        let weighted: Vec<_> = trials.iter().zip([3.0, 2.0, 1.0, 0.5]).collect();
        for count in 0..=weighted.len() {
            let found = Frequencies::new(&parameters(), &weighted[..count], 0.15);
            for (one, row) in found.rows.iter().enumerate() {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12 && row.iter().all(|&p| p > 0.0));
                for other in (0..3).filter(|&other| other != one) {
                    for (at, p) in row.iter().enumerate() {
                        let whole = found.rows[other].len();
                        let sum: f64 = (0..whole).map(|there| found.pair((one, at), (other, there))).sum();
                        assert!((sum - p).abs() < 1e-12, "{sum} {p}");
                    }
                }
                assert!(found.information(one, (one + 1) % 3) > -1e-12);
            }
        }
        // One trial, half of everything is even.
        let one = Frequencies::new(&parameters(), &weighted[..1], 0.2);
        assert_eq!(one.rows[0], [0.75, 0.25]);
        let want = [0.125 + 0.05, 0.125 + 0.4, 0.125 + 0.05, 0.125];
        assert!(one.rows[1].iter().zip(want).all(|(p, want)| (p - want).abs() < 1e-12), "{:?}", one.rows);
    }

    /// Of points in which `a` and `c` are the same.
    #[test]
    fn the_tree_joins_what_goes_together() {
        let trials =
            trials(&[[0, 1, 0], [1, 1, 1], [0, 2, 0], [1, 2, 1], [0, 0, 0], [1, 0, 1], [0, 3, 0], [1, 3, 1]]);
        let weighted: Vec<_> = trials.iter().map(|trial| (trial, 1.0)).collect();
        let found = Frequencies::new(&parameters(), &weighted, 0.15);
        let tree = found.tree(&parameters());
        assert_eq!(tree[..2], [(0, None), (2, Some(0))]);
        let row = Family::new(&found, &parameters()).row(tree[1], &[0, 1, 0]);
        // n = 8, so that 9 of 25 parts are learnt: 4/9 + 1/36 of each of two cells, 1/36 of the
        // others.
        let (same, different) = (0.36 * (4.0 / 9.0 + 1.0 / 36.0) + 0.16, 0.36 / 36.0 + 0.16);
        assert!((row[0] / row[1] - same / different).abs() < 1e-12, "{row:?}");
    }
}
