//! The backward pass: gradients of attention over tensors.

mod bound;
mod plan;
mod prepared;
mod work;

pub use bound::{BackwardBound, BackwardOperands};
pub use plan::{BackwardPlan, Gradients};
