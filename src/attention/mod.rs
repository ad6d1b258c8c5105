//! What is computed ([`Attention`]), and the plan that computes it ([`Plan`]).

mod backward;
mod bound;
mod call;
mod check;
mod choosing;
mod gathered;
mod gpu_sampler;
mod gpu_summaries;
pub(crate) mod inputs;
pub(crate) mod kernels;
mod merge;
#[cfg(test)]
mod mutants;
#[cfg(feature = "native")]
pub(crate) mod native;
mod pieces;
mod plan;
mod plan_options;
mod planning;
mod position_table;
mod prepared;
mod record;
pub(crate) mod reshaped;
pub(crate) mod rotation;
pub(crate) mod rounds;
mod selecting;
mod selection;
mod split;
mod table_buffer;
mod traffic;
mod trial;
mod tuner;
pub(crate) mod tuning;
pub(crate) mod tuning_options;
mod wanted;
mod work;

pub use backward::{BackwardBound, BackwardOperands, BackwardPlan, Gradients};
pub use bound::{Bound, Operands};
pub use call::{Call, FirstPositions, Queries, Sequence};
pub use gpu_sampler::GpuSampler;
pub use gpu_summaries::{GpuSummaries, SummarizedKeys};
pub use inputs::attention::Attention;
pub use inputs::content::Missing;
pub use inputs::documents::Documents;
pub use inputs::mask::Mask;
pub use inputs::pages::PageTable;
pub use inputs::position_ids::PositionIds;
pub use inputs::tables::Tables;
pub use plan::{Output, Plan};
pub use plan_options::PlanOptions;
pub use selection::{GpuSelector, LeftOut, Selection};
pub use table_buffer::TableBuffer;
pub use traffic::Traffic;
