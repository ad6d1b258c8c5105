//! What any part that computes on a GPU needs, and nothing of what it computes: the device,
//! programs and their text, bindings, parameters, tensors, timing.

mod adapter;
pub(crate) mod binding;
pub(crate) mod capabilities;
pub(crate) mod context;
pub(crate) mod dispatch;
mod identity;
mod late;
pub(crate) mod layouts;
pub(crate) mod options;
pub(crate) mod pipeline;
mod pipeline_cache;
pub(crate) mod prepare;
pub(crate) mod program;
mod readback;
pub(crate) mod slots;
pub(crate) mod sync;
pub(crate) mod template;
pub(crate) mod tensor;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod text;
pub(crate) mod timing;
mod watch;
