//! What the kernels that draw schedules read, byte for byte.

use bytemuck::{Pod, Zeroable};

use crate::runtime::layouts::{HostLayout, host_layout};

pub(crate) const FLAG_CAUSAL: u32 = 1;

/// `struct ScheduleParams` of `shaders/sampling/schedule.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct ScheduleParams {
    pub(crate) sequences: u32,
    pub(crate) groups: u32,
    pub(crate) chunks: u32,
    pub(crate) work_items: u32,
    pub(crate) sink_blocks: u32,
    pub(crate) capacity: u32,
    pub(crate) sums: u32,
    pub(crate) flags: u32,
}

/// `struct ScheduleSequence` of `shaders/sampling/schedule.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct ScheduleSequence {
    pub(crate) base: u32,
    pub(crate) first_block: i32,
    pub(crate) query_blocks: u32,
    pub(crate) key_blocks: u32,
    pub(crate) seed: u32,
    pub(crate) round: u32,
}

/// `struct Distance` of `shaders/sampling/schedule.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Distance {
    pub(crate) sum_low: u32,
    pub(crate) sum_high: u32,
    pub(crate) p_low: u32,
    pub(crate) ln_p: u32,
}

/// Where the fields lie, for the layout test.
pub(crate) fn layouts() -> Vec<HostLayout> {
    vec![
        host_layout!("ScheduleParams", ScheduleParams:
            sequences, groups, chunks, work_items, sink_blocks, capacity, sums, flags),
        host_layout!("ScheduleSequence", ScheduleSequence:
            base, first_block, query_blocks, key_blocks, seed, round),
        host_layout!("Distance", Distance: sum_low, sum_high, p_low, ln_p),
    ]
}
