//! Participation that looks at the keys: which blocks a query block visits, by an estimate of how
//! much of its attention each of them has.
//!
//! By distance alone, sampled attention is no better than sink + window at equal blocks
//! (`lab/RESULTS.md`). This keeps its frame, a probability for each block and a fixed budget for
//! each row, and lets keys speak:
//!
//! 1. [`KeySummaries`] have the extremes of every channel over groups of tokens, which a staircase
//!    cache stores anyway.
//! 2. An [`Estimate`] says from a group's extremes how much mass a query may have in it.
//! 3. [`BlockScores`] are the logarithms of the shares of all blocks, as integers:
//!    [`Attention::block_scores`](crate::Attention::block_scores) makes them for the rows that a
//!    [`Probe`] picks.
//! 4. A [`Participation`] says by what blocks are chosen, and how many;
//!    [`Schedule::select`](crate::Schedule::select) chooses.
//!
//! On a GPU a [`GpuSelector`](crate::attention::GpuSelector) does all of this within a call of
//! attention, from summaries in 8 bits, and chooses what
//! [`Schedule::select`](crate::Schedule::select) does, to the bit.
//!
//! Quest (arXiv 2406.10774) ranks pages of keys by the largest product that their extremes allow
//! ([`Estimate::Bound`]). MagicPIG (2410.16179) samples by hashing, vAttention (2510.05688) adds a
//! sample of the rest to the largest, with bounds of the error.
//!
//! ```
//! use prflash::sampling::content::{Estimate, Participation, Probe};
//! use prflash::{Attention, BlockGrid, Schedule, Seed, Shape, Tables};
//! # let (heads, kv_heads, len, dim) = (4, 2, 512, 8);
//! # let numbers = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
//! # let (q, k) = (numbers(heads * len * dim), numbers(kv_heads * len * dim));
//! let shape = Shape::new(heads, kv_heads, len, dim)?;
//! let attention = Attention::causal();
//! let grid = BlockGrid::causal(&shape).with_block_size(32)?;
//! let keys = attention.summarize(&shape, &k, 32, None)?;
//! let scores = attention.block_scores(
//!     &grid, &q, &keys, Estimate::Saturated, Probe::causal(4)?, &Tables::new(),
//! )?;
//! let schedule = Schedule::select(&grid, &Participation::content(4)?, &scores, Seed::new(1))?;
//! assert_eq!(schedule.blocks(0, 15).len(), 4);
//! # Ok::<(), prflash::Error>(())
//! ```

mod estimate;
mod fixed;
pub(crate) mod packed;
mod participation;
mod scores;
mod select;
mod summaries;
#[cfg(test)]
mod tests;

pub use estimate::Estimate;
pub(crate) use estimate::{SHRINK, mean_largest};
pub(crate) use fixed::{FARTHEST, LN_2, OCTAVE, powers};
pub use participation::Participation;
pub use scores::{BlockScores, Pool, Probe};
pub(crate) use scores::{CERTAIN, MASKED};
pub(crate) use select::{CONTENT, GAMMA_BITS};
pub use summaries::{DEFAULT_GROUP, KeySummaries};
