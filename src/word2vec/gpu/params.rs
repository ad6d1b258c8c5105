//! What the kernels of word2vec read, byte for byte.

use bytemuck::{Pod, Zeroable};

use crate::runtime::layouts::{HostLayout, host_layout};

/// `struct BatchParams` of `shaders/word2vec/batch.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct BatchParams {
    pub(crate) centres: u32,
    pub(crate) windows: u32,
    pub(crate) pairs: u32,
    pub(crate) negatives: u32,
}

/// `struct FoldParams` of `shaders/word2vec/word2vec_fold.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct FoldParams {
    pub(crate) stretches: u32,
    pub(crate) first: u32,
    pub(crate) gradients: u32,
}

/// `struct UpdateParams` of `shaders/word2vec/word2vec_update.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct UpdateParams {
    pub(crate) rows: u32,
    pub(crate) first: u32,
    pub(crate) gradients: u32,
    pub(crate) rate: f32,
    pub(crate) number: u32,
}

/// Where the fields lie, for the layout test.
pub(crate) fn layouts() -> Vec<HostLayout> {
    vec![
        host_layout!("BatchParams", BatchParams: centres, windows, pairs, negatives),
        host_layout!("FoldParams", FoldParams: stretches, first, gradients),
        host_layout!("UpdateParams", UpdateParams: rows, first, gradients, rate, number),
    ]
}
