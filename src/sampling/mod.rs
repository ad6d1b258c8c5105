//! Which key blocks each query block attends to: PrFlashAttention's host side.
//!
//! Attention over `T` blocks of tokens has `T·(T+1)/2` causal (query block, key block) pairs.
//! PrFlashAttention lets the pair at block distance `d` take part with probability `p(d)` that
//! falls harmonically, so that the expected cost of `p(d) = 1/(1+d)` is about `T·ln T` pairs. Four
//! plain values describe it:
//!
//! 1. a [`BlockGrid`]: the absolute block grid of one sequence, and which heads share a list,
//! 2. a [`Profile`]: `p(d)`, with its pinned sink and window blocks,
//! 3. a [`Sampler`]: how the participation is drawn, with marginals exactly `p(d)`,
//! 4. a [`Seed`](crate::Seed): the seed and what the draw is for.
//!
//! They make a [`Schedule`]: sorted key-block lists with a weight each. It is decided in integers
//! only, so it is bit-identical on every machine, and it is a plain value: print it, compare it,
//! bring your own. Heads may each have a profile and a correction of their own
//! ([`Schedule::sample_each`], [`Schedule::with_corrections`]); [`calibration`](crate::calibration)
//! finds them.
//!
//! What a schedule costs is known before it is drawn ([`expected_blocks`]); what was drawn is
//! counted ([`Schedule::list_blocks`], [`DistanceFrequencies`] with confidence bounds,
//! [`Schedule::load_balance`]).
//!
//! ```
//! use prflash::{BlockGrid, Seed, Profile, Schedule, Shape, Systematic};
//! let shape = Shape::new(4, 1, 4096, 64)?;
//! let grid = BlockGrid::causal(&shape); // 64-token blocks, one list per head
//! let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(7))?;
//! assert_eq!(grid.query_blocks(), 64);
//! assert!(schedule.density() < 0.16); // of the causal triangle's 2,080 blocks a head
//! println!("{schedule}");
//! # Ok::<(), prflash::Error>(())
//! ```

mod baseline;
mod chunk;
pub mod content;
mod cumulative;
pub(crate) mod gpu;
mod grid;
mod profile;
mod reshaping;
mod rounds;
mod rows;
mod sampler;
mod schedule;
mod statistics;
mod walks;

pub use baseline::{content_like, sink_window_like, uniform_like};
pub use cumulative::{CumulativeProfile, RowProfile};
pub use grid::{BlockGrid, DEFAULT_BLOCK_SIZE, Granularity};
pub(crate) use profile::ONE;
pub use profile::{Decay, Profile};
pub use reshaping::Reshaping;
pub use rounds::partition_rounds;
pub(crate) use rows::candidates;
pub use sampler::{Bernoulli, GpuRule, RowSampler, RowSpan, Sampler, Systematic};
pub use schedule::{Entry, KeyBlockRows, Schedule};
pub(crate) use statistics::mean_over_rows;
pub use statistics::{
    DistanceFrequencies, DistanceFrequency, LoadBalance, RowOrder, Workers, expected_blocks,
};
pub use walks::{Renewal, RowColumn, Segment};
