//! **prflash**: portable GPU attention in WGSL on [wgpu].
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]

mod attention;
mod error;
mod gpu;
mod layout;
pub mod position;
pub mod random;
pub mod reference;
pub mod sampling;
mod shape;
pub mod verify;

pub use attention::{Attention, Bound, Call, Operands, Output, Plan, ScheduleBuffer, Sequence};
pub use error::{Error, Result};
pub use gpu::context::{Capabilities, Context, ContextOptions};
pub use gpu::shaders;
pub use gpu::tensor::{Tensor, TensorView};
pub use layout::{DType, Layout};
pub use position::{Pairing, Rope};
pub use random::Key;
pub use sampling::{BlockGrid, Decay, Granularity, Profile, Schedule, Systematic};
pub use shape::{MAX_HEAD_DIM, Shape};
pub use wgpu;
