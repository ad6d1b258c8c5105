//! Statistics of orders.

/// The ranks of values, from 1 on; equal values have the mean of their ranks. Values are finite.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut begin = 0;
    // 0 and −0 are equal, whatever their order.
    for ties in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = begin as f64 + (ties.len() as f64 + 1.0) / 2.0;
        ties.iter().for_each(|&place| ranks[place] = mean);
        begin += ties.len();
    }
    ranks
}

/// Spearman's rank correlation coefficient: Pearson's of the ranks. NaN where one side has less
/// than two different values.
pub(super) fn spearman(first: &[f64], second: &[f64]) -> f64 {
    let (first, second) = (ranks(first), ranks(second));
    // The mean of the ranks from 1 to n, with and without ties.
    let mean = (first.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let (of_first, of_second) = (product(&first, &first), product(&second, &second));
    product(&first, &second) / (of_first * of_second).sqrt()
}

/// The value in the middle, or the mean of the two there; none of no values.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(values[middle - 1], upper)) }
}
