//! Kernels with one thing wrong each: comparison with the oracles, by the tolerances that all tests
//! use, has to find every one of them, on a few small problems.

mod backward;
mod cache;
mod content;
mod copies;
pub(super) mod gradients;
mod kernels;
mod masks;
mod pages;
mod problem;
mod rotated_cache;
mod schedule;
