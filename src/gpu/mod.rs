//! Everything that knows wgpu but nothing of attention's meaning.

mod adapter;
pub(crate) mod choice;
pub(crate) mod context;
pub(crate) mod dispatch;
pub(crate) mod identity;
pub(crate) mod kernel;
pub(crate) mod params;
mod pipeline_cache;
pub(crate) mod registry;
pub mod shaders;
pub(crate) mod slots;
pub(crate) mod template;
pub(crate) mod tensor;
pub(crate) mod timing;
