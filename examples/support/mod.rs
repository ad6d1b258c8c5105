//! What the examples (and the tests on real inputs) share.
#![allow(dead_code)] // each of them uses its part

pub mod fixture;
pub mod picture;
