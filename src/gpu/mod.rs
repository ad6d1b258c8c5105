//! Everything that knows wgpu but nothing of attention's meaning.

pub(crate) mod context;
pub(crate) mod dispatch;
pub(crate) mod kernel;
pub(crate) mod params;
pub mod shaders;
pub(crate) mod tensor;
