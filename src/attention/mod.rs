//! What is computed ([`Attention`]), and the plan that computes it ([`Plan`]).

mod bound;
mod call;
mod check;
mod choosing;
mod documents;
mod gpu_sampler;
pub(crate) mod kernels;
mod merge;
mod options;
mod pieces;
mod plan;
mod planning;
mod position_ids;
mod position_table;
mod prepared;
mod record;
mod reshaped;
mod rotation;
mod rounds;
mod split;
mod table_buffer;
mod tables;
#[cfg(not(target_arch = "wasm32"))]
mod trial;
#[cfg(not(target_arch = "wasm32"))]
mod tuner;
mod tuning;
mod work;

pub use bound::{Bound, Operands};
pub use call::{Call, Queries, Sequence};
pub use documents::Documents;
pub use gpu_sampler::GpuSampler;
pub use options::Attention;
pub use plan::{Output, Plan};
pub use position_ids::PositionIds;
pub use reshaped::{ReshapedBound, ReshapedPlan};
pub use rotation::{RotationBound, RotationPlan, Rows};
pub use rounds::{Combine, Estimate, Rounds, RoundsBound, RoundsPlan};
pub use table_buffer::TableBuffer;
pub use tables::Tables;
pub use tuning::{ShapeClass, Tuned, TuningProfile};
