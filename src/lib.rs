//! **prflash** is portable GPU attention in WGSL on [wgpu](https://wgpu.rs): Vulkan, Metal, DX12
//! and WebGPU from one source, checked against an exact reference.
//!
//! It computes causal and full attention (MHA, GQA, MQA; f32, f16 and bf16 storage; sliding
//! windows, soft-caps, ragged and packed batches, log-sum-exp output; rotary positions and biases
//! against distance) and **PrFlashAttention**: FlashAttention in which a key block takes part with
//! a probability `p(d)` that falls harmonically with its block distance d (arXiv 2410.18441), so
//! that cost grows like `T·ln T` blocks and not like `T²/2`.
//!
//! # The words
//!
//! | word | what it is |
//! | --- | --- |
//! | [`Context`] | the device: found for you, or your own ([`Context::from_wgpu`]) |
//! | [`Shape`] | heads, lengths, dimensions; validated once |
//! | [`Layout`], [`TensorView`] | where a tensor lies in a buffer: yours ([`TensorView`]) or ours ([`Tensor`]) |
//! | [`Attention`] | what is computed: mask, window, scale, soft-cap, positions, storage |
//! | [`Positions`] | how scores depend on positions: a rotation ([`Rope`]), a [`Bias`] against distance, or both |
//! | [`Schedule`] | which key blocks each query block visits; drawn from a [`Profile`] by one of the [samplers](sampling::Sampler), or your own lists |
//! | [`Documents`], [`Tables`] | masks for packed documents; the schedules, masks, ids and pages of a call |
//! | [`PlanOptions`] | how it is computed, where you choose and not the plan |
//! | [`Plan`] | an `Attention` made ready for a device: `bind` tensors once, `encode` calls into your command encoder |
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`attention`] | what calls take: lengths and positions of sequences; schedules drawn on the GPU ([`GpuSampler`](attention::GpuSampler)), or chosen there by what keys say ([`GpuSelector`](attention::GpuSelector)) |
//! | [`sampling`] | profiles, samplers, schedules, what they cost |
//! | [`position`] | rotary embeddings and biases in all their forms; [`rotation`] rotates rows where they are stored |
//! | [`cache`] | the staircase KV cache: at how many bits a token is stored at which age ([`Staircase`](cache::Staircase)), on the host ([`HostCache`](cache::HostCache)) and on the GPU ([`KvCache`](cache::KvCache)) |
//! | [`rounds`] | sampled attention in rounds, with standard errors |
//! | `native` | attention on CPU cores, without a device (a feature, on by default) |
//! | [`calibration`] | which profile and correction suit each head, from a sample of its inputs |
//! | [`device`] | what a device can do, and its times |
//! | [`kernels`], [`tuning`] | the kernels by name; kernels chosen by measurements |
//! | [`reference`](mod@reference) | the f64 oracle, which takes the very same values |
//! | [`verify`] | the comparator, for your own device |
//! | [`limits`], [`random`] | the bound on every count; the numbers behind every draw |
//! | [`literal`] | the paper's construction by re-shaped tensors, kept as a check |
//! | [`search`] | the best among listed values of parameters, for a score that takes long to compute |
//! | `subword` | sub-word encoding: vocabularies, segmentation, training (a feature) |
//! | `word2vec` | word vectors: trained on the GPU, kept in files, judged (a feature) |
//!
//! Everything the GPU reads was decided on the host and is a plain value: print it, compare it,
//! hand it to the oracle.
//!
//! # Exact attention, then a part of it
//!
//! ```
//! use prflash::{Attention, BlockGrid, Context, DType, Layout, Profile};
//! use prflash::{Schedule, Seed, Shape, Systematic, Tables, Tensor};
//!
//! # fn main() -> prflash::Result<()> {
//! let context = match Context::new_blocking() {
//!     Ok(context) => context,
//!     Err(error) if error.is_no_adapter() => return Ok(println!("no GPU here: {error}")),
//!     Err(error) => return Err(error),
//! };
//! // 8 query heads on 2 key/value heads, 512 tokens, 64 channels.
//! let shape = Shape::new(8, 2, 512, 64)?;
//! let plan = Attention::causal().plan(&context, &shape)?;
//!
//! let upload = |heads| {
//!     let layout = Layout::heads_first(1, heads, 512, 64)?;
//!     let values: Vec<f32> = (0..layout.elements()).map(|i| (i as f32).sin()).collect();
//!     Tensor::upload(&context, DType::F32, layout, &values)
//! };
//! let (q, k, v) = (upload(8)?, upload(2)?, upload(2)?);
//! let exact = plan.run(q.view(), k.view(), v.view(), &Tables::new())?;
//!
//! // The same plan, visiting a block at distance d with probability 1/(1+d).
//! let grid = BlockGrid::causal(&shape);
//! let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(42))?;
//! let sampled = plan.run(q.view(), k.view(), v.view(), &Tables::from(&schedule))?;
//! println!("{:.0}% of the blocks", 100.0 * schedule.density());
//!
//! let values: Vec<f32> = sampled.output.read_blocking(&context)?; // [1, 8, 512, 64]
//! # assert_eq!(values.len(), exact.output.read_blocking(&context)?.len());
//! # Ok(())
//! # }
//! ```
//!
//! # In your own encoder
//!
//! [`Plan::run`] allocates and submits; programs with buffers of their own call [`Plan::bind`] once
//! and [`Plan::encode`] per step, which only records into their `wgpu::CommandEncoder`. See
//! `examples/own_device.rs`.
//!
//! # Errors
//!
//! Nothing panics on bad input: constructors validate, and an [`Error`] names the argument, what
//! was expected and what came.
//!
//! # Limits
//!
//! Every count has a bound, chosen so that what is computed from an accepted value fits its type:
//! [`limits`] has them all. Queries never panic either: an index that isn't there gives the empty
//! answer, or that of the nearest index, as each says. Time and memory are proportional to what is
//! asked for or to the size of the input; where they aren't, the docs say what they are.
//!
//! # Features
//!
//! `vulkan`, `metal`, `dx12` and `webgpu` (all on by default, each effective on its platforms) are
//! wgpu's backends; `native`, on by default too, is attention on CPU cores, and `avx512` its widest
//! instructions (which need Rust 1.89); `ndarray` adds upload from and readback into arrays,
//! `serde` makes calibrations and tuning profiles serializable and keeps searches in files,
//! `subword` is sub-word encoding, `word2vec` vectors of words.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod attention;
pub mod cache;
pub mod calibration;
mod checksum;
mod error;
#[cfg(any(feature = "serde", feature = "word2vec"))]
mod files;
mod layout;
pub mod limits;
pub mod position;
pub mod random;
pub mod reference;
mod runtime;
pub mod sampling;
pub mod search;
#[doc(hidden)]
pub mod shaders;
mod shape;
#[cfg(feature = "subword")]
pub mod subword;
pub mod verify;
#[cfg(feature = "word2vec")]
pub mod word2vec;

pub use attention::{
    Attention, Bound, Call, Documents, Operands, Output, Plan, PlanOptions, Queries, TableBuffer, Tables,
};
pub use error::{Error, ErrorKind, Result};
pub use layout::{DType, Layout};
pub use position::{Bias, Positions, Rope};
pub use random::Seed;
pub use runtime::context::Context;
pub use runtime::options::ContextOptions;
pub use runtime::tensor::{Tensor, TensorView};
pub use sampling::{BlockGrid, Profile, Schedule, Systematic};
pub use shape::Shape;
pub use wgpu;

/// What a device can do, and how long it takes.
pub mod device {
    pub use crate::runtime::capabilities::Capabilities;
    pub use crate::runtime::prepare::Compiling;
    pub use crate::runtime::timing::{GpuTimer, Timings};
}

/// The kernels that compute attention, by name: for [`PlanOptions::with_kernel`], where a plan's
/// own choice isn't wanted.
pub mod kernels {
    pub use crate::attention::kernels::shapes::{Decode, Kernel, Matrix, Tile};
}

/// Kernels chosen by measuring them on a device, and kept in a profile.
pub mod tuning {
    pub use crate::attention::tuning::{ShapeClass, Tuned, TuningProfile};
    pub use crate::attention::tuning_options::TuningOptions;
}

/// Sampled attention in rounds: an estimate after each, with its standard error.
pub mod rounds {
    pub use crate::attention::rounds::{Combine, Estimate, Rounds, RoundsBound, RoundsPlan, Stop};
}

/// Attention on CPU cores, without a device: for machines that have none, and the fast answer
/// beside the slow one of the [oracle](mod@reference).
///
/// [`Attention::plan_native`] makes the plan. Its calls read and write the caller's slices where
/// they lie ([`Layout`] has any strides), on all cores or as many as
/// [asked for](native::NativeOptions::with_threads). The widest instructions that the machine has
/// are chosen when the plan is made: AVX2 with fused multiplication and addition, NEON, 128 bits of
/// WebAssembly (where the crate is compiled for them), AVX-512 with the feature `avx512`, else
/// plain numbers.
#[cfg(feature = "native")]
pub mod native {
    pub use crate::attention::native::{
        HostNumbers, HostNumbersMut, HostView, HostViewMut, NativeBackwardOperands, NativeBackwardPlan,
        NativeOperands, NativeOptions, NativePlan, NativeQueries, RunningMerge, bf16, f16,
    };
}

/// Rows rotated where they are stored, before attention reads them.
pub mod rotation {
    pub use crate::attention::rotation::{RotationBound, RotationPlan, Rows};
}

/// The literal construction of arXiv 2410.18441, kept as a check: PrFlashAttention by re-shaping
/// tensors into dense triangles.
///
/// It computes what the block lists of the same draw do ([`Schedule`]), which every other plan
/// walks, and is slower than they are. Tests compare the two.
pub mod literal {
    pub use crate::attention::reshaped::{ReshapedBound, ReshapedPlan};
    pub use crate::sampling::Reshaping;
}

/// The README's example is a test too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
