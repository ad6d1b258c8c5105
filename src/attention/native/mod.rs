//! Attention on CPU cores: the same values as the kernels take, computed with SIMD on threads.
//!
//! A task is a tile of query rows (`work`), which goes over the keys that it sees tile by tile
//! (`tile`): inner products and weighted sums in registers (`products`), between them the online
//! softmax (`softmax`, `math`). Where queries are few (decode), a task is a split of the keys for
//! all rows that share them (`few`, `rows`), and states are merged. Tasks share nothing but the
//! tensors, so results don't depend on how many threads there are, nor on which of them does what.

mod backward;
mod check;
mod engine;
mod few;
mod math;
mod options;
mod output;
mod part;
mod plan;
mod positions;
mod products;
mod rows;
mod running;
mod scratch;
mod sizes;
mod softmax;
mod source;
mod tile;
mod views;
mod work;

pub use backward::{NativeBackwardOperands, NativeBackwardPlan};
pub use half::{bf16, f16};
pub use options::NativeOptions;
pub use plan::{NativeOperands, NativePlan, NativeQueries};
pub use running::RunningMerge;
pub use views::{HostNumbers, HostNumbersMut, HostView, HostViewMut};
