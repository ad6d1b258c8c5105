//! What the kernels of sub-words read, byte for byte.

use bytemuck::{Pod, Zeroable};

use crate::runtime::layouts::{HostLayout, host_layout};

/// `struct SubwordParams` of `shaders/subword/walk.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct SubwordParams {
    pub(crate) groups: u32,
    pub(crate) rows: u32,
}

/// Where the fields lie, for the layout test.
pub(crate) fn layouts() -> Vec<HostLayout> {
    vec![host_layout!("SubwordParams", SubwordParams: groups, rows)]
}
