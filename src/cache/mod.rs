//! The staircase KV cache (SAQ): precision that steps down as tokens age.
//!
//! A [`Staircase`] says, for keys and for values, at how many bits a token is stored at which age;
//! [`quantize`] is the integer arithmetic that decides the codes, and [`rotated`] that of the other
//! [`Codec`]; a [`PackLayout`] says where they lie. All of it is plain values and pure functions on
//! the host. [`HostCache`] is the cache itself in host memory, word for word what the one on the
//! GPU holds: [`KvCache`]. Attention reads that one as it lies, packed
//! ([`Attention::plan_cached`](crate::Attention::plan_cached));
//! [`reference::attention_cached`](crate::reference::attention_cached) is the oracle over the same
//! words.
//!
//! ```
//! use prflash::Shape;
//! use prflash::cache::{HostCache, StoredKeys, Staircase};
//! let shape = Shape::new(4, 1, 1000, 64)?;
//! let mut cache = HostCache::new(Staircase::recommended(), &shape, StoredKeys::AfterRotation)?;
//! let conversation = cache.add();
//! let rows: Vec<f32> = (0..1000 * 64).map(|i| (i as f32).sin()).collect(); // [kv_heads, tokens, channels]
//! cache.append(conversation, &rows, &rows)?;
//! assert_eq!(cache.live_bytes(), cache.standing(conversation)?.memory(&shape).total());
//! # Ok::<(), prflash::Error>(())
//! ```

mod codec;
mod file;
mod form;
pub(crate) mod gpu;
#[cfg(feature = "native")]
pub(crate) mod head_words;
mod host_cache;
mod ladder;
mod layer_plan;
mod pack;
mod planner;
pub mod quantize;
pub mod rotated;
mod sequence;
mod sequence_table;
mod staircase;
mod standing;
#[cfg(feature = "serde")]
mod stored;
mod summaries;
pub(crate) mod words;

pub use codec::Codec;
pub(crate) use form::CacheForm;
pub use gpu::kv_cache::{Chunk, KvCache, KvInput};
pub use host_cache::{HostCache, Row};
pub use ladder::{Ladder, Rung, Side, output_error_bound};
pub use layer_plan::{LayerPlan, Sensitivity};
pub use pack::{Element, PackLayout};
pub use planner::Fit;
pub use sequence::StoredKeys;
pub use sequence_table::SequenceId;
pub use staircase::{Aging, Staircase, Step};
pub use standing::{Memory, Standing};
