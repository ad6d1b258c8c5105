//! Search of the best among listed values of parameters, by a score that takes long to compute.
//!
//! A [`Space`] names parameters and their values. A [`Search`] proposes points of it
//! ([`ask`](Search::ask)), hears their scores ([`tell`](Search::tell)), the larger the better, and
//! knows the [best](Search::best). What it proposes is up to a [`Method`]: [`TreeCrossEntropy`],
//! which sees what is good only together, [`CrossEntropy`] (arXiv 2410.18441 has hyper-parameters
//! found so; the method is Rubinstein's), and to compare with [`Random`], [`Balanced`], [`Grid`]
//! and [`Tpe`].
//!
//! Which to take: on trainings that none of them was made by, [`TreeCrossEntropy`] and [`Tpe`] were
//! level within their errors, and all others far behind both (`lab/RESULTS.md`). The former asks
//! for whole rounds, which can be scored at the same time.
//!
//! With the feature `serde` a `Journal` keeps the trials in files, as they come.
//!
//! A method is a pure function of what was asked and told. So a search that is taken up again from
//! its list of trials goes on as if it had never stopped, and the same seed gives the same trials,
//! whatever the machine, the order in which the scores of a round come in, or that in which the
//! values of a nominal parameter are listed.
//!
//! ```
//! use prflash::search::{Ask, Parameter, Search, Space, TreeCrossEntropy};
//! let space = Space::new([
//!     Parameter::ordinal("window", [1, 2, 4, 8, 16])?,
//!     Parameter::nominal("architecture", ["skip-gram", "bag of words"])?,
//! ])?;
//! let mut search = Search::new(space, TreeCrossEntropy::recommended(), 2026);
//! for _ in 0..10 {
//!     let Ask::Trial(trial) = search.ask() else { break };
//!     let window = search.space().value(&trial.point, "window").and_then(|value| value.number());
//!     search.tell(trial.id, -(window.unwrap_or(0.0) - 8.0).abs())?;
//! }
//! let (best, _) = search.best().ok_or("none was told")?;
//! assert!(search.space().describe(&best.point).starts_with("window = 8, "));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cross_entropy;
mod draw;
mod family;
mod history;
#[cfg(all(feature = "serde", not(target_arch = "wasm32")))]
mod journal;
mod kernels;
mod keyed;
mod methods;
mod space;
#[cfg(test)]
mod tests;
mod tpe;
mod tree;

pub use cross_entropy::{CrossEntropy, Elite};
pub use history::{Ask, History, Method, Next, Search, Trial};
#[cfg(all(feature = "serde", not(target_arch = "wasm32")))]
pub use journal::Journal;
pub use methods::{Balanced, Grid, Random};
pub use space::{Parameter, Point, Scale, Space, Value};
pub use tpe::Tpe;
pub use tree::TreeCrossEntropy;
