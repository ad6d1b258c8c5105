//! The Walsh–Hadamard transform of blocks of channels.

use std::ops::{Add, Sub};

/// Channels of a block: the largest power of two that divides them all.
pub(crate) const fn block(dim: usize) -> usize {
    1 << dim.trailing_zeros()
}

/// `y = W·x` in place, block by block, with the matrix W of ±1 in the order of Hadamard: `W_ij =
/// (−1)^(number of ones in i & j)`. W is its own inverse but for a factor of the block's length.
#[inline(always)]
pub(crate) fn transform<T: Copy + Add<Output = T> + Sub<Output = T>>(row: &mut [T]) {
    let block = block(row.len());
    let mut half = 1;
    while half < block {
        for pair in row.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// The same in f32, with lengths kept: its own inverse, but for rounding.
#[cfg(feature = "native")]
#[inline(always)]
pub(crate) fn turn(row: &mut [f32]) {
    let scale = 1.0 / (block(row.len()) as f32).sqrt();
    transform(row);
    row.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_hadamards() {
        for (dim, want) in [(1, 1), (2, 2), (4, 4), (36, 4), (64, 64), (80, 16), (96, 32), (256, 256)] {
            assert_eq!(block(dim), want);
            for j in 0..dim {
                let mut row = vec![0; dim];
                row[j] = 1;
                transform(&mut row);
                for (i, &got) in row.iter().enumerate() {
                    let sign = if ((i % want) & (j % want)).count_ones().is_multiple_of(2) { 1 } else { -1 };
                    assert_eq!(got, if i / want == j / want { sign } else { 0 }, "{dim}: {i}, {j}");
                }
                transform(&mut row);
                assert_eq!((row[j], row.iter().sum::<i32>()), (want as i32, want as i32));
            }
        }
    }
}
