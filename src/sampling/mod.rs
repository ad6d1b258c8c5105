//! Which key blocks each query block attends to: PrFlashAttention's host side.
//!
//! Attention over `T` blocks of tokens has `T·(T+1)/2` causal (query block, key block) pairs. PrFlashAttention lets
//! the pair at block distance `d` take part with probability `p(d)` that falls harmonically, so that the expected
//! cost of `p(d) = 1/(1+d)` is about `T·ln T` pairs. Four plain values describe it:
//!
//! 1. a [`BlockGrid`]: the absolute block grid of one sequence, and which heads share a list,
//! 2. a [`Profile`]: `p(d)`, with its pinned sink and window blocks,
//! 3. a [`Sampler`]: how the participation is drawn, with marginals exactly `p(d)`,
//! 4. a [`Key`](crate::Key): the seed and what the draw is for.
//!
//! They make a [`Schedule`]: sorted key-block lists with a weight each. It is decided in integers only, so it is
//! bit-identical on every machine, and it is a plain value: print it, compare it, bring your own.
//!
//! ```
//! use prflash::{BlockGrid, Key, Profile, Schedule, Shape, Systematic};
//! let shape = Shape::new(4, 1, 4096, 64)?;
//! let grid = BlockGrid::causal(&shape); // 64-token blocks, one list per head
//! let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(7))?;
//! assert_eq!(grid.query_blocks(), 64);
//! assert!(schedule.density() < 0.16); // of the causal triangle's 2,080 blocks a head
//! println!("{schedule}");
//! # Ok::<(), prflash::Error>(())
//! ```

mod baseline;
mod grid;
mod profile;
mod rounds;
mod sampler;
mod schedule;

pub use baseline::{sink_window_like, uniform_like};
pub use grid::{BlockGrid, DEFAULT_BLOCK_SIZE, Granularity};
pub(crate) use profile::ONE;
pub use profile::{CumulativeProfile, Decay, Profile, RowProfile};
pub use rounds::partition_rounds;
pub use sampler::{
    Bernoulli, GpuRule, Renewal, RowColumn, RowSampler, RowSpan, Sampler, Segment, Systematic,
};
pub use schedule::{Entry, KeyBlockRows, Schedule};
