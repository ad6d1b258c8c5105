//! Rows and segments as a whole.

use super::pack::{Behind, Coded, choose, encode};
use super::row::Scales;
use super::{error_bound, mean_squared_error};
use crate::cache::quantize::to_f32;
use crate::cache::words::{half_at, padded};
use half::f16;

/// A number of `[−1, 1)`.
fn unit(seed: u32, index: usize) -> f64 {
    f64::from(crate::random::hash_words(&[seed, index as u32])) / f64::from(1_u32 << 31) - 1.0
}

/// About normally distributed.
fn normal(seed: u32, index: usize) -> f64 {
    (0..12).map(|i| unit(seed, 12 * index + i)).sum::<f64>() / 2.0
}

/// Rows of f16 numbers.
fn rows(tokens: usize, dim: usize, number: impl Fn(usize, usize) -> f64) -> Vec<u32> {
    let width = padded(dim);
    let half = |index: usize| {
        let (token, channel) = (index / width, index % width);
        let x = if channel < dim { number(token, channel) } else { 0.0 };
        u32::from(f16::from_f64(x).to_bits())
    };
    (0..tokens * width / 2).map(|word| half(2 * word) | half(2 * word + 1) << 16).collect()
}

fn number(rows: &[u32], dim: usize, token: usize, channel: usize) -> f64 {
    to_f32(half_at(rows, token * padded(dim) + channel)).into()
}

/// Keys and values of many kinds: every row is within the bound of its scale at every width, and
/// one on the usual size of errors too where rows are normal.
#[test]
fn rows_are_within_their_bounds() {
    let segment = 64;
    for dim in [1, 4, 36, 64, 80, 96, 128, 256] {
        for kind in 0..7_u32 {
            let of = |token: usize, channel: usize| {
                let x = normal(kind, token * dim + channel);
                match kind {
                    0 => x,
                    1 => x + 30.0 * unit(9, channel),
                    // One channel has it all.
                    2 => {
                        if channel == token % dim {
                            1000.0
                        } else {
                            0.0
                        }
                    }
                    3 => x * 1e-7,
                    4 => x * if token == 5 { 10_000.0 } else { 0.01 },
                    5 => 65_504.0 * unit(7, token * dim + channel).signum(),
                    _ => {
                        if channel == 0 {
                            3.0
                        } else {
                            x * 1e-3
                        }
                    }
                }
            };
            let rows = rows(segment, dim, of);
            let farthest =
                (0..segment * dim).map(|i| number(&rows, dim, i / dim, i % dim).abs()).fold(0.0, f64::max);
            for keys in [true, false] {
                let behind = Behind::new(segment, dim, keys, 0);
                for bits in [8, 4, 3, 2] {
                    let words = encode(behind, bits, &rows, 0, &[]);
                    let coded = Coded::new(&words, behind, bits);
                    let (mut squares, mut scales) = (0.0, 0.0);
                    for token in 0..segment {
                        let scale = Scales::of(dim).number(coded.scale(token));
                        let got = coded.row(token);
                        let off: f64 =
                            (0..dim).map(|c| (got[c] - number(&rows, dim, token, c)).powi(2)).sum();
                        let fixed = dim as f64 * farthest / f64::from(1 << 21);
                        let bound = scale * error_bound(bits, dim) + fixed;
                        assert!(
                            off.sqrt() <= bound,
                            "{dim}, {kind}, {keys}, {bits}: {} > {bound}",
                            off.sqrt()
                        );
                        squares += off;
                        scales += dim as f64 * scale * scale;
                    }
                    // Few channels have no normal distribution of their own: all of a row is 1.
                    if kind == 0 && dim >= 64 {
                        let error = squares / scales / mean_squared_error(bits);
                        assert!((0.8..1.15).contains(&error), "{dim}, {keys}, {bits}: {error}");
                    }
                }
            }
        }
    }
}

/// Stepping down drops bits, which is what coding directly gives; scales, means and fine tokens
/// stay.
#[test]
fn fewer_bits_are_a_shift() {
    let (segment, dim) = (32, 80);
    let rows = rows(segment, dim, |token, channel| normal(3, token * dim + channel) + channel as f64 / 9.0);
    let behind = Behind::new(segment, dim, true, 2);
    let eight = encode(behind, 8, &rows, 3, &[4, 30]);
    for bits in [4, 3, 2] {
        let narrow = encode(behind, bits, &rows, 3, &[4, 30]);
        let tail = |words: &[u32]| words[words.len() - behind.words()..].to_vec();
        assert_eq!(tail(&narrow), tail(&eight));
        let [fine, coarse] =
            [(&eight, 8), (&narrow, bits)].map(|(words, bits)| Coded::new(words, behind, bits));
        for (token, channel) in (0..segment).flat_map(|token| (0..dim).map(move |channel| (token, channel))) {
            assert_eq!(fine.code(token, channel) >> (8 - bits), coarse.code(token, channel));
        }
        for token in [4, 30] {
            assert_eq!(coarse.row(token), fine.row(token));
        }
        assert_ne!(coarse.row(5), fine.row(5));
        assert_eq!([0, 1, 2].map(|token| coarse.scale(token)), [0; 3]);
        assert!(coarse.scale(3) > 0);
    }
}

/// What has no part in means doesn't move them, and equal keys are exact.
#[test]
fn means_are_of_the_coded_keys() {
    let (segment, dim) = (32, 64);
    let rows = rows(segment, dim, |token, channel| match token {
        0 | 7 => 1000.0 + token as f64,
        _ => channel as f64 / 64.0,
    });
    let behind = Behind::new(segment, dim, true, 1);
    let words = encode(behind, 2, &rows, 1, &[7]);
    let coded = Coded::new(&words, behind, 2);
    for token in (1..segment).filter(|&token| token != 7) {
        let want: Vec<f64> = (0..dim).map(|channel| number(&rows, dim, token, channel)).collect();
        assert_eq!(coded.row(token), want, "{token}");
    }
}

#[test]
fn the_smallest_values_are_chosen() {
    let dim = 48;
    let sizes = [3.0, 1e-6, 2.0, 0.5, 0.0, 900.0, 0.5, 0.25];
    let rows = rows(sizes.len(), dim, |token, channel| sizes[token] * (1.0 - (channel % 2) as f64 * 1.5));
    assert_eq!(choose(&rows, dim, 0..8, 2), [1, 4]);
    assert_eq!(choose(&rows, dim, 2..8, 3), [3, 4, 7]);
    assert_eq!((choose(&rows, dim, 5..6, 3), choose(&rows, dim, 8..8, 2)), (vec![5], vec![]));
}
