//! Schedules drawn on the GPU: the kernels, and what they read.

pub(crate) mod content;
pub(crate) mod draw;
pub(crate) mod params;
