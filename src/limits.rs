//! The bounds on every count, in one place.
//!
//! Constructors refuse what is past them ([too large](crate::Error::is_too_large), with the
//! argument's name), so that nothing which is computed from an accepted value overflows, on 32-bit
//! targets too. A device may hold less: what it refuses, it refuses when memory or bindings are
//! made.
//!
//! | count | at most | because |
//! | --- | --- | --- |
//! | elements of a tensor | [`MAX_ELEMENTS`] | kernels index elements by u32 |
//! | tokens of a sequence | [`MAX_LEN`] | kernels take token positions, and differences of two, as i32 |
//! | query heads | [`MAX_HEADS`] | heads × channels then stay far below u32, whatever the lengths |
//! | batch entries of a tensor, sequences of a call | [`MAX_BATCH`] | each takes a row of a call's parameters |
//! | channels of a head | [`MAX_HEAD_DIM`] | kernels hold a row in registers or workgroup memory |
//! | … that is packed, or has gradients | [`MAX_PACKED_DIM`] | kernels hold several such rows |
//! | channels of a [`Rope`](crate::Rope) | [`MAX_ROTARY_DIM`] | a table has a column for each pair |
//! | entries of a [`RopeTable`](crate::position::RopeTable) | [`MAX_ROPE_ENTRIES`] | 2 GiB |
//! | query or key blocks of a sequence | [`MAX_BLOCKS`] | schedules tabulate p(d) for every block distance d |
//! | block distances of a walk | [`MAX_WALK`] | its gaps take the square of them to compute |
//! | blocks kept by a schedule, and its rows | [`MAX_ELEMENTS`] | lists begin at u32 offsets |
//! | rounds, seeds, repeated measurements | [`MAX_ROUNDS`] | each is a schedule, or a call, of its own |
//! | threads of a plan on CPU cores | [`MAX_THREADS`] | each is one of the system's |
//! | pieces of a sub-word vocabulary | [`MAX_PIECES`] | four times the largest so far; their bytes have u32 offsets |
//! | words of a vocabulary of word vectors | [`MAX_VOCABULARY`] | numbers of rows share 32 bits with a flag |
//! | words of a text for word vectors | [`MAX_TOKENS`] | draws go by u32 places |
//! | values of a parameter that is [searched](crate::search) | [`MAX_VALUES`] | a draw looks at each |
//!
//! Workers of [`Schedule::load_balance`](crate::Schedule::load_balance) need no bound: those
//! without work cost nothing.

use crate::error::{Error, Result};

/// Elements of a tensor, the gaps of its layout included: kernels index them by u32.
///
/// An empty tensor counts as if each of its empty dimensions were 1, so that a length of 0 doesn't
/// let other dimensions past this.
pub const MAX_ELEMENTS: usize = u32::MAX as usize;

/// Tokens of a sequence: 2³⁰ − 1. Kernels take positions as i32, and so must be what two of them
/// may lie apart.
pub const MAX_LEN: usize = i32::MAX as usize / 2;

/// Query heads.
pub const MAX_HEADS: usize = 1 << 16;

/// Batch entries of a tensor, and sequences of one call.
pub const MAX_BATCH: usize = 1 << 20;

/// The largest head dimension of the kernels, in channels: that of DeepSeek's latent attention,
/// 512 of the latent row and 64 that are rotated.
pub const MAX_HEAD_DIM: usize = 576;

/// The largest head dimension of caches, of summaries of keys and of the backward pass, in
/// channels.
pub const MAX_PACKED_DIM: usize = 256;

/// Channels of a [`Rope`](crate::Rope). On the host it may turn wider heads than the kernels'
/// [`MAX_HEAD_DIM`].
pub const MAX_ROTARY_DIM: usize = 1 << 16;

/// Threads of a plan on CPU cores.
pub const MAX_THREADS: usize = 1 << 10;

/// (cos, sin) pairs of a [`RopeTable`](crate::position::RopeTable), both levels together: 2 GiB of
/// them.
pub const MAX_ROPE_ENTRIES: usize = 1 << 28;

/// Query blocks, or key blocks, that the tokens of a sequence fill: 2²⁴, which [`MAX_LEN`] tokens
/// have in blocks of 64. (Where the first block is ragged too there may be one more.)
pub const MAX_BLOCKS: usize = 1 << 24;

/// Block distances of a [`CumulativeProfile`](crate::sampling::CumulativeProfile): those of the
/// largest grid, with its ragged blocks.
pub const MAX_DISTANCES: usize = MAX_BLOCKS + 4;

/// Block distances of a profile that a [`Renewal`](crate::sampling::Renewal) or
/// [`RowColumn`](crate::sampling::RowColumn) walk is made from: 2¹⁷, with which that takes some
/// seconds.
pub const MAX_WALK: usize = 1 << 17;

/// Rounds of one problem: of [partition rounds](crate::sampling::partition_rounds), seeds of a
/// [calibration](crate::calibration::Options::with_seeds), calls of a
/// [measurement](crate::Plan::timings).
pub const MAX_ROUNDS: usize = 1 << 16;

/// Pieces of a sub-word vocabulary: four times the largest that language models have had so far.
pub const MAX_PIECES: usize = 1 << 20;

/// Words of the vocabulary of word vectors.
pub const MAX_VOCABULARY: usize = 1 << 24;

/// Words of a text that word vectors are trained on, those of no vocabulary left out.
pub const MAX_TOKENS: usize = u32::MAX as usize - 1;

/// Values of a parameter that is searched.
pub const MAX_VALUES: usize = 1 << 16;

/// Refuses a count that is past its bound.
pub(crate) fn at_most(argument: &'static str, count: usize, most: usize) -> Result<()> {
    if count <= most {
        return Ok(());
    }
    Err(Error::too_large(argument, format!("expected at most {most}, got {count}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_bounds_fit() {
        // Of block pairs and heads in u64, where heads × blocks ≤ elements.
        assert!((MAX_ELEMENTS as u128) * (MAX_BLOCKS as u128 + 1) < 1 << 64);
        // Sums of probabilities in 32.32.
        assert!((MAX_DISTANCES as u128) << 32 < 1 << 63);
        assert!(MAX_LEN.div_ceil(crate::sampling::DEFAULT_BLOCK_SIZE) <= MAX_BLOCKS);
        // Channels of all heads, padded or not, on 32-bit targets.
        assert!(3 * MAX_HEADS as u64 * MAX_HEAD_DIM as u64 <= u64::from(u32::MAX));
        assert!((MAX_ROPE_ENTRIES * 8) as u64 <= 1 << 31);
    }
}
