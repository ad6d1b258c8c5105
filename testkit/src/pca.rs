//! Principal components, for pictures of vectors.

/// A point in the picture for each row: its coordinates along the two directions in which the rows
/// vary the most, from their mean.
///
/// `values` has a row of `dimension` numbers for each point; further numbers are passed over. The
/// directions are eigenvectors of the covariances, found by Jacobi's rotations in a fixed order,
/// and point to where their largest component is positive, so that the same rows give the same
/// picture. Takes the cube of the dimension in time.
pub fn plane(values: &[f32], dimension: usize) -> Vec<[f64; 2]> {
    if dimension == 0 {
        return Vec::new();
    }
    let mut rows: Vec<Vec<f64>> =
        values.chunks_exact(dimension).map(|row| row.iter().map(|&value| value.into()).collect()).collect();
    let count = rows.len() as f64;
    for column in 0..dimension {
        let mean = rows.iter().map(|row| row[column]).sum::<f64>() / count;
        rows.iter_mut().for_each(|row| row[column] -= mean);
    }
    let covariances = (0..dimension)
        .map(|a| (0..dimension).map(|b| rows.iter().map(|row| row[a] * row[b]).sum()).collect())
        .collect();
    let axes = largest(covariances);
    rows.iter()
        .map(|row| axes.each_ref().map(|axis| row.iter().zip(axis).map(|(a, b)| a * b).sum()))
        .collect()
}

/// The eigenvectors of the two largest eigenvalues of a symmetric matrix; zero where there is but
/// one.
fn largest(mut matrix: Vec<Vec<f64>>) -> [Vec<f64>; 2] {
    let size = matrix.len();
    // In rows.
    let mut vectors: Vec<Vec<f64>> =
        (0..size).map(|a| (0..size).map(|b| f64::from(u8::from(a == b))).collect()).collect();
    let all: f64 = matrix.iter().flatten().map(|value| value * value).sum();
    // Convergence is quadratic: some ten sweeps.
    for _ in 0..100 {
        let aside = |row: usize| matrix[row].iter().enumerate().filter(move |(column, _)| *column != row);
        let off: f64 = (0..size).flat_map(aside).map(|(_, value)| value * value).sum();
        if off <= 1e-28 * all {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, &mut vectors, p, q);
            }
        }
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| matrix[b][b].total_cmp(&matrix[a][a]));
    let axis = |place: usize| {
        let Some(&at) = order.get(place) else { return vec![0.0; size] };
        let vector = &vectors[at];
        let longest =
            vector.iter().fold(0.0f64, |most, value| if value.abs() > most.abs() { *value } else { most });
        vector.iter().map(|value| value * longest.signum()).collect()
    };
    [axis(0), axis(1)]
}

/// Turns rows and columns p and q so that their common element becomes 0 (Golub and Van Loan,
/// *Matrix Computations*, algorithm 8.5.1).
fn rotate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    if matrix[p][q] == 0.0 {
        return;
    }
    let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
    let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    let turn = |x: &mut f64, y: &mut f64| (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    for row in matrix.iter_mut() {
        let (before, behind) = row.split_at_mut(q);
        turn(&mut before[p], &mut behind[0]);
    }
    for rows in [matrix, vectors] {
        let (before, behind) = rows.split_at_mut(q);
        before[p].iter_mut().zip(&mut behind[0]).for_each(|(x, y)| turn(x, y));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points of an ellipse in a plane of five dimensions come back as that ellipse.
    #[test]
    fn an_ellipse_is_found_again() {
        let long = [0.6, 0.0, -0.8, 0.0, 0.0];
        let short = [0.0, 0.8, 0.0, 0.0, 0.6];
        let angles: Vec<f64> = (0..32).map(|step| f64::from(step) * std::f64::consts::TAU / 32.0).collect();
        let point = |angle: &f64| {
            let (sin, cos) = angle.sin_cos();
            (0..5).map(move |k| (7.0 + 3.0 * cos * long[k] + sin * short[k]) as f32)
        };
        let values: Vec<f32> = angles.iter().flat_map(point).collect();
        let points = plane(&values, 5);
        for ([x, y], angle) in points.iter().zip(&angles) {
            // The largest component of the long axis is the negative one, so that it is turned.
            assert!(
                (x + 3.0 * angle.cos()).abs() < 1e-5 && (y - angle.sin()).abs() < 1e-5,
                "{x} {y} {angle}"
            );
        }
        assert_eq!(points, plane(&values, 5));
    }

    #[test]
    fn what_has_no_plane_is_flat() {
        assert_eq!(plane(&[], 3), Vec::<[f64; 2]>::new());
        assert_eq!(plane(&[1.0, 2.0], 0), Vec::<[f64; 2]>::new());
        assert_eq!(plane(&[1.0, 4.0], 1), [[-1.5, 0.0], [1.5, 0.0]]);
        assert_eq!(plane(&[5.0, 6.0, 5.0, 6.0], 2), [[0.0, 0.0]; 2]);
    }

    /// A hundred dimensions, of more points and of fewer.
    #[test]
    fn axes_are_perpendicular_and_in_order() {
        for count in [40, 400] {
            let dimension = 100;
            let value = |at: usize| ((at * 7919 % 1009) as f32).sin();
            let values: Vec<f32> = (0..count * dimension).map(value).collect();
            let points = plane(&values, dimension);
            let sum = |a: usize, b: usize| points.iter().map(|point| point[a] * point[b]).sum::<f64>();
            assert!(sum(0, 0) >= sum(1, 1) && sum(0, 1).abs() < 1e-9 * sum(0, 0), "{count}");
        }
    }
}
