//! Factors for the channels of keys, with which rotated codes lose least.

use crate::error::{Result, ensure};
use crate::position::{Pairing, Rope};

/// Channels that deviate less than this part of the mean count as if they deviated by it.
const LEAST_PART: f64 = 1e-6;

/// One factor for each of D channels of the keys of one key/value head, with which codes of rotated
/// keys make the least errors in scores: keys have to be multiplied by them, and queries divided by
/// them, before either is turned by positions. Scores stay what they are, since `(q/s)·(k·s) =
/// q·k`; a model's weights can take the factors in once and for all (the rows of its projections,
/// or the weights of a norm of queries and keys).
///
/// `keys` are rows of D channels, one a token, as a cache that stores them after rotation would
/// hold them; some thousand of any text will do. `segment` is how many of them share their means
/// ([`Staircase::segment`](super::super::Staircase::segment)). With a rotation the two channels of
/// a pair get the same factor, without which they couldn't be turned afterwards. The geometric mean
/// of factors is 1.
///
/// A rotation spreads the error of a key evenly over its channels, be they wide or narrow, where
/// codes of single channels follow their widths. With vⱼ, how far from its mean channel j is (the
/// mean square), uⱼ, the mean square of queries there, and codes that lose a part ε, the mean
/// square of the error of a score is `ε/D · Σⱼ vⱼsⱼ² · Σⱼ uⱼ/sⱼ²`. By the inequality of Cauchy and
/// Schwarz that is least at `sⱼ⁴ = uⱼ/vⱼ`, where it has gone down by the squared cosine of the
/// angle between √u and √v. These factors take uⱼ as equal, since queries of other texts may look
/// elsewhere: `sⱼ = vⱼ^(−1/4)`.
///
/// ```
/// use prflash::cache::rotated;
/// // The second channel varies sixteen times as much as the first: a factor of 4 between them.
/// let keys: Vec<f32> = (0..64).flat_map(|t| [1.0, 16.0].map(|scale| scale * (t as f32).sin())).collect();
/// let factors = rotated::balance(&keys, 2, 64, None)?;
/// assert!((factors[0] - 2.0).abs() < 1e-5 && (factors[1] - 0.5).abs() < 1e-5);
/// # Ok::<(), prflash::Error>(())
/// ```
///
/// # Errors
/// Invalid argument (`head_dim`, `segment`) of 0; (`keys`) unless whole rows, at least one, of
/// finite numbers; (`rope`) of another head dimension.
pub fn balance(keys: &[f32], head_dim: usize, segment: usize, rope: Option<&Rope>) -> Result<Vec<f32>> {
    ensure!(head_dim > 0, "head_dim", "expected at least 1, got 0");
    ensure!(segment > 0, "segment", "expected at least 1 token, got 0");
    ensure!(
        !keys.is_empty() && keys.len().is_multiple_of(head_dim),
        "keys",
        "expected rows of {head_dim} numbers, got {} numbers",
        keys.len()
    );
    if let Some(at) = keys.iter().position(|x| !x.is_finite()) {
        ensure!(false, "keys", "expected finite numbers, got {} at {at}", keys[at]);
    }
    if let Some(rope) = rope {
        let other = rope.head_dim();
        ensure!(other == head_dim, "rope", "expected one of {head_dim} channels, got one of {other}");
    }
    let mut squares = vec![0.0_f64; head_dim];
    for part in keys.chunks(segment.saturating_mul(head_dim)) {
        let tokens = (part.len() / head_dim) as f64;
        for (channel, square) in squares.iter_mut().enumerate() {
            let of_channel = || part[channel..].iter().step_by(head_dim).map(|&x| f64::from(x));
            let mean = of_channel().sum::<f64>() / tokens;
            *square += of_channel().map(|x| (x - mean).powi(2)).sum::<f64>();
        }
    }
    if let Some(rope) = rope {
        let half = rope.rotary_dim() / 2;
        for pair in 0..half {
            let (a, b) = match rope.pairing() {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Half => (pair, pair + half),
            };
            let mean = (squares[a] + squares[b]) / 2.0;
            (squares[a], squares[b]) = (mean, mean);
        }
    }
    let least = LEAST_PART * squares.iter().sum::<f64>() / head_dim as f64;
    if least <= 0.0 {
        return Ok(vec![1.0; head_dim]);
    }
    let logarithms: Vec<f64> = squares.iter().map(|square| -square.max(least).ln() / 4.0).collect();
    let mean = logarithms.iter().sum::<f64>() / head_dim as f64;
    Ok(logarithms.iter().map(|logarithm| (logarithm - mean).exp() as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Codec, HostCache, Ladder, Staircase, StoredKeys};
    use crate::shape::Shape;

    /// Numbers between −1 and 1 that look like chance.
    fn noise(len: usize) -> Vec<f32> {
        (0..len as u64)
            .map(|i| {
                let mixed = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32
                    - 1.0
            })
            .collect()
    }

    /// Channel j 2^j times as wide, around a mean that counts for nothing.
    fn keys(dim: usize) -> Vec<f32> {
        let wide = |(i, x): (usize, &f32)| 100.0 + x * (1 << (i % dim)) as f32;
        noise(64 * 40 * dim).iter().enumerate().map(wide).collect()
    }

    #[test]
    fn factors_are_inverse_roots_of_widths() {
        let factors = balance(&keys(6), 6, 64, None).unwrap();
        for two in factors.windows(2) {
            assert!((two[0] / two[1] - 2.0_f32.sqrt()).abs() < 0.04, "{factors:?}");
        }
        let product: f32 = factors.iter().product();
        assert!((product - 1.0).abs() < 1e-4, "{factors:?}");
    }

    /// The mean square of the error of scores over keys in 4 bits, and that of the scores.
    fn errors(keys: &[f32], factors: &[f32]) -> (f64, f64) {
        let (dim, tokens) = (factors.len(), keys.len() / factors.len());
        let ladder = || Ladder::new(&[], 4).unwrap();
        let staircase = Staircase::new(ladder(), ladder()).unwrap().with_segment(64).unwrap().with_sinks(0);
        let staircase = staircase.with_codec(Codec::Rotated { fine_tokens: 0 }).unwrap();
        let shape = Shape::new(1, 1, tokens, dim).unwrap();
        let mut cache = HostCache::new(staircase, &shape, StoredKeys::AfterRotation).unwrap();
        let sequence = cache.add();
        let multiplied: Vec<f32> =
            keys.iter().zip(factors.iter().cycle()).map(|(x, factor)| x * factor).collect();
        cache.append(sequence, &multiplied, &multiplied).unwrap();
        let (mut error, mut whole) = (0.0, 0.0);
        let queries = noise(8 * dim);
        for row in cache.rows(sequence, 0).unwrap() {
            let key = &keys[row.token * dim..][..dim];
            for query in queries.chunks_exact(dim) {
                let dot = |of: &dyn Fn(usize) -> f32| -> f64 {
                    (0..dim).map(|at| f64::from(query[at]) * f64::from(of(at))).sum()
                };
                let want = dot(&|at| key[at]);
                error += (dot(&|at| row.key[at] / factors[at]) - want).powi(2);
                whole += want.powi(2);
            }
        }
        (error, whole)
    }

    #[test]
    fn scores_are_nearer_as_far_as_the_formula_says() {
        let dim = 64;
        let wide = |(i, x): (usize, &f32)| x * 1.1_f32.powi((i % dim) as i32);
        let keys: Vec<f32> = noise(64 * 20 * dim).iter().enumerate().map(wide).collect();
        let factors = balance(&keys, dim, 64, None).unwrap();
        let ((plain, whole), (balanced, _)) = (errors(&keys, &vec![1.0; dim]), errors(&keys, &factors));
        assert!(plain < 0.05 * whole, "{plain} of {whole}");
        // The squared cosine of the angle between widths and equal queries: 0.33 here.
        let widths: Vec<f64> = (0..dim).map(|channel| 1.1_f64.powi(channel as i32)).collect();
        let square = |of: &[f64]| of.iter().map(|x| x * x).sum::<f64>();
        let want = widths.iter().sum::<f64>().powi(2) / (square(&widths) * dim as f64);
        assert!((balanced / plain / want - 1.0).abs() < 0.2, "{balanced} of {plain}, {want} wanted");
    }

    #[test]
    fn pairs_that_turn_together_share_a_factor() {
        for (pairing, pairs) in [(Pairing::Interleaved, [(0, 1), (2, 3)]), (Pairing::Half, [(0, 2), (1, 3)])]
        {
            let rope = Rope::new(6, 1e4, pairing).unwrap().with_rotary_dim(4).unwrap();
            let factors = balance(&keys(6), 6, 64, Some(&rope)).unwrap();
            for (a, b) in pairs {
                assert_eq!(factors[a], factors[b]);
            }
            assert!(factors[3] > factors[4] && factors[4] > factors[5], "{factors:?}");
            // So turning and multiplying may change places.
            let mut turned = keys(6)[..18].to_vec();
            let mut multiplied = turned.clone();
            let multiply = |rows: &mut [f32]| {
                rows.iter_mut().zip(factors.iter().cycle()).for_each(|(x, factor)| *x *= factor)
            };
            rope.rotate(&mut turned, 5).unwrap();
            multiply(&mut turned);
            multiply(&mut multiplied);
            rope.rotate(&mut multiplied, 5).unwrap();
            for (a, b) in turned.iter().zip(&multiplied) {
                assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{a}, {b}");
            }
        }
    }

    #[test]
    fn what_never_varies_has_a_finite_factor() {
        assert_eq!(balance(&[3.0; 12], 4, 2, None).unwrap(), [1.0; 4]);
        let keys: Vec<f32> = noise(256).iter().flat_map(|&x| [x, 7.0]).collect();
        let factors = balance(&keys, 2, 64, None).unwrap();
        assert!(factors[1] > factors[0] && factors.iter().all(|factor| (0.01..100.0).contains(factor)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let named = |result: Result<Vec<f32>>| result.unwrap_err().argument().map(str::to_owned);
        let rope = Rope::new(8, 1e4, Pairing::Half).unwrap();
        for (want, got) in [
            ("head_dim", balance(&[1.0], 0, 1, None)),
            ("segment", balance(&[1.0], 1, 0, None)),
            ("keys", balance(&[], 1, 1, None)),
            ("keys", balance(&[1.0; 3], 2, 1, None)),
            ("keys", balance(&[1.0, f32::NAN], 2, 1, None)),
            ("rope", balance(&[1.0; 4], 4, 1, Some(&rope))),
        ] {
            assert_eq!(named(got).as_deref(), Some(want));
        }
    }
}
