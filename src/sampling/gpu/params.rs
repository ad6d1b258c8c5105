//! What the kernels that draw schedules read, byte for byte.

use bytemuck::{Pod, Zeroable};

use crate::runtime::layouts::{HostLayout, host_layout};

pub(crate) const FLAG_CAUSAL: u32 = 1;
pub(crate) const FLAG_WINDOW: u32 = 2;
pub(crate) const FLAG_SOFT_CAP: u32 = 4;
pub(crate) const FLAG_AHEAD: u32 = 8;
pub(crate) const FLAG_WHOLE: u32 = 16;
pub(crate) const FLAG_LARGEST: u32 = 32;

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

/// `struct ContentParams` of `shaders/sampling/content.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct ContentParams {
    pub(crate) sequences: u32,
    pub(crate) heads: u32,
    pub(crate) heads_per_kv: u32,
    pub(crate) heads_per_list: u32,
    pub(crate) list_groups: u32,
    pub(crate) first_head: u32,
    pub(crate) heads_here: u32,
    pub(crate) query_blocks: u32,
    pub(crate) probes: u32,
    pub(crate) probe_rows: u32,
    pub(crate) row_chunks: u32,
    pub(crate) tiles: u32,
    pub(crate) tile_groups: u32,
    pub(crate) tile_blocks: u32,
    pub(crate) groups_per_block: u32,
    pub(crate) blocks_per_group: u32,
    pub(crate) block_size: u32,
    pub(crate) group: u32,
    pub(crate) flags: u32,
    pub(crate) window: u32,
    pub(crate) q_head_stride: u32,
    pub(crate) q_row_stride: u32,
    pub(crate) scale: f32,
    pub(crate) soft_cap: f32,
    pub(crate) soft_cap_inverse: f32,
    pub(crate) rope_low: u32,
    pub(crate) rope_high: u32,
    pub(crate) summary_stride: u32,
    pub(crate) spread: f32,
    pub(crate) budget: u32,
    pub(crate) sink_blocks: u32,
    pub(crate) window_blocks: u32,
    pub(crate) tau: u32,
    pub(crate) alpha: u32,
    pub(crate) tie_digits: u32,
}

/// `struct ContentSequence` of `shaders/sampling/content.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct ContentSequence {
    pub(crate) here: u32,
    pub(crate) q_base: u32,
    pub(crate) summary_base: u32,
    pub(crate) q_len: u32,
    pub(crate) kv_len: u32,
    pub(crate) known: u32,
    pub(crate) segments: u32,
    pub(crate) q_position: i32,
    pub(crate) first_block: i32,
    pub(crate) query_blocks: u32,
    pub(crate) key_blocks: u32,
    pub(crate) mass_base: u32,
    pub(crate) share_base: u32,
    pub(crate) pool_base: u32,
    pub(crate) plane_base: u32,
    pub(crate) report_base: u32,
    pub(crate) list_base: u32,
    pub(crate) last_spread: f32,
    pub(crate) seed: u32,
    pub(crate) round: u32,
}

/// Where the fields lie, for the layout test.
pub(crate) fn layouts() -> Vec<HostLayout> {
    vec![
        host_layout!("ScheduleParams", ScheduleParams:
            sequences, groups, chunks, work_items, sink_blocks, capacity, sums, flags),
        host_layout!("ScheduleSequence", ScheduleSequence:
            base, first_block, query_blocks, key_blocks, seed, round),
        host_layout!("Distance", Distance: sum_low, sum_high, p_low, ln_p),
        host_layout!("ContentParams", ContentParams:
            sequences, heads, heads_per_kv, heads_per_list, list_groups, first_head, heads_here,
            query_blocks, probes, probe_rows, row_chunks, tiles, tile_groups, tile_blocks,
            groups_per_block, blocks_per_group, block_size, group, flags, window, q_head_stride,
            q_row_stride, scale, soft_cap, soft_cap_inverse, rope_low, rope_high, summary_stride,
            spread, budget, sink_blocks, window_blocks, tau, alpha, tie_digits),
        host_layout!("ContentSequence", ContentSequence:
            here, q_base, summary_base, q_len, kv_len, known, segments, q_position, first_block,
            query_blocks, key_blocks, mass_base, share_base, pool_base, plane_base, report_base,
            list_base, last_spread, seed, round),
    ]
}
