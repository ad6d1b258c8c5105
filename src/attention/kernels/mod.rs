//! The kernels of attention: what there are, which one a task gets, their text, and what they read.

pub(crate) mod backward;
pub(crate) mod catalogue;
pub(crate) mod content;
pub(crate) mod gather;
pub(crate) mod merge;
pub(crate) mod params;
pub(crate) mod programs;
pub(crate) mod rotate;
pub(crate) mod rule;
pub(crate) mod shapes;
mod text;
pub(crate) mod variant;
