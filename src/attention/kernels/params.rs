//! What the kernels of attention read, byte for byte.

use bytemuck::{Pod, Zeroable};

use crate::runtime::layouts::{HostLayout, host_layout};
use crate::runtime::program::UNIFORM_BYTES;

pub(crate) const FLAG_CAUSAL: u32 = 1;
pub(crate) const FLAG_WINDOW: u32 = 2;
pub(crate) const FLAG_SOFT_CAP: u32 = 4;
pub(crate) const FLAG_LSE: u32 = 8;
pub(crate) const FLAG_FIRST: u32 = 16;
pub(crate) const FLAG_MEAN: u32 = 32;
pub(crate) const FLAG_ERROR: u32 = 64;
pub(crate) const FLAG_SCATTER: u32 = 128;
pub(crate) const FLAG_PAIRED: u32 = 256;
pub(crate) const FLAG_SINKS: u32 = 512;

/// Positions of the lower level of rotations: the higher one has a row per as many.
pub(crate) const ROPE_STRIDE: usize = 4096;

/// Lags below this take harmonic numbers from a table of windows, which reach as far as a tile of
/// rows and a step of keys that starts below; others from a formula.
pub(crate) const PHI_NEAR: usize = 32;
pub(crate) const PHI_WINDOWS: usize = 128;

/// The base of a table that a sequence doesn't have.
pub(crate) const NO_TABLE: u32 = u32::MAX;

/// `struct Params` of `shaders/attention/params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) q_head_stride: u32,
    pub(crate) q_row_stride: u32,
    pub(crate) k_head_stride: u32,
    pub(crate) k_row_stride: u32,
    pub(crate) v_head_stride: u32,
    pub(crate) v_row_stride: u32,
    pub(crate) o_head_stride: u32,
    pub(crate) o_row_stride: u32,
    pub(crate) lse_head_stride: u32,
    pub(crate) heads: u32,
    pub(crate) first_head: u32,
    pub(crate) heads_per_kv: u32,
    pub(crate) heads_per_list: u32,
    pub(crate) list_groups: u32,
    pub(crate) first_item: u32,
    pub(crate) work_items: u32,
    pub(crate) tiles: u32,
    pub(crate) tiles_per_block: u32,
    pub(crate) block_size: u32,
    pub(crate) flags: u32,
    pub(crate) window: u32,
    pub(crate) scale: f32,
    pub(crate) soft_cap: f32,
    pub(crate) soft_cap_inverse: f32,
    pub(crate) beta: f32,
    pub(crate) score_unit: f32,
    pub(crate) rope_low: u32,
    pub(crate) rope_high: u32,
    pub(crate) rope_steps: u32,
    pub(crate) phi_base: u32,
    pub(crate) slope_base: u32,
    pub(crate) phi_cap: u32,
    pub(crate) phi_flat: f32,
    pub(crate) phi_rate: f32,
    pub(crate) factor_length: f32,
    pub(crate) sink_base: u32,
    pub(crate) page_size: u32,
    pub(crate) k_page_stride: u32,
    pub(crate) v_page_stride: u32,
    pub(crate) splits: u32,
    pub(crate) row_chunks: u32,
    pub(crate) heads_each: u32,
    pub(crate) heads_here: u32,
    pub(crate) all_heads: u32,
    pub(crate) max_rows: u32,
    pub(crate) merge_items: u32,
}

/// `struct Sequence` of `shaders/attention/params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct SequenceEntry {
    pub(crate) q_base: u32,
    pub(crate) k_base: u32,
    pub(crate) v_base: u32,
    pub(crate) o_base: u32,
    pub(crate) lse_base: u32,
    pub(crate) q_len: u32,
    pub(crate) kv_len: u32,
    pub(crate) first_block: i32,
    pub(crate) query_blocks: u32,
    pub(crate) list_base: u32,
    pub(crate) order_base: u32,
    pub(crate) document_base: u32,
    pub(crate) id_base: u32,
    pub(crate) mask_base: u32,
    pub(crate) mask_head_stride: u32,
    pub(crate) mask_row_stride: u32,
    pub(crate) mask_bits: u32,
    pub(crate) q_position: i32,
    pub(crate) k_position: i32,
    pub(crate) slope_head: u32,
    pub(crate) segments: u32,
    pub(crate) page_base: u32,
    pub(crate) entry: u32,
    pub(crate) q_start: u32,
    pub(crate) kv_start: u32,
}

/// `struct Axes` of `shaders/attention/backward/axes.wgsl`: of each tensor its first quad, and the
/// quads from one batch entry, head and row to the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Axes {
    pub(crate) q: [u32; 4],
    pub(crate) k: [u32; 4],
    pub(crate) v: [u32; 4],
    pub(crate) output: [u32; 4],
    pub(crate) d_output: [u32; 4],
    pub(crate) lse: [u32; 4],
    pub(crate) d_lse: [u32; 4],
    pub(crate) query_rows: [u32; 4],
    pub(crate) dq: [u32; 4],
    pub(crate) dk: [u32; 4],
    pub(crate) dv: [u32; 4],
    pub(crate) d_sinks: [u32; 4],
    pub(crate) d_slopes: [u32; 4],
}

/// `struct SummaryParams` of `shaders/sampling/summarize.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct SummaryParams {
    pub(crate) work_items: u32,
    pub(crate) groups: u32,
    pub(crate) runs: u32,
    pub(crate) group: u32,
    pub(crate) k_head_stride: u32,
    pub(crate) k_row_stride: u32,
    pub(crate) head_stride: u32,
    pub(crate) rope_low: u32,
    pub(crate) rope_high: u32,
}

/// `struct SummaryRun` of `shaders/sampling/summarize.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct SummaryRun {
    pub(crate) first: u32,
    pub(crate) base: u32,
    pub(crate) group: u32,
    pub(crate) len: u32,
    pub(crate) words: u32,
    pub(crate) position: i32,
}

/// `struct MergeParams` of `shaders/attention/merge.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct MergeParams {
    pub(crate) heads: u32,
    pub(crate) tiles: u32,
    pub(crate) work_items: u32,
    pub(crate) value_quads: u32,
    pub(crate) state_head_stride: u32,
    pub(crate) o_head_stride: u32,
    pub(crate) o_row_stride: u32,
    pub(crate) lse_head_stride: u32,
    pub(crate) error_head_stride: u32,
    pub(crate) flags: u32,
    pub(crate) rounds: f32,
    pub(crate) log_rounds: f32,
}

/// `struct MergeSequence` of `shaders/attention/merge.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct MergeSequence {
    pub(crate) state_row: u32,
    pub(crate) o_base: u32,
    pub(crate) lse_base: u32,
    pub(crate) error_base: u32,
    pub(crate) rows: u32,
}

/// `struct GatherParams` of `shaders/attention/gather.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct GatherParams {
    pub(crate) work_items: u32,
    pub(crate) tiles: u32,
    pub(crate) rows: u32,
    pub(crate) row_words: u32,
    pub(crate) block_size: u32,
    pub(crate) packed_first: u32,
    pub(crate) whole_first: u32,
    pub(crate) whole_base: u32,
    pub(crate) whole_head_stride: u32,
    pub(crate) whole_row_stride: u32,
    pub(crate) packed_base: u32,
    pub(crate) packed_head_stride: u32,
    pub(crate) packed_row_stride: u32,
    pub(crate) flags: u32,
}

/// `struct RotateParams` of `shaders/attention/rotate.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct RotateParams {
    pub(crate) work_items: u32,
    pub(crate) tiles: u32,
    pub(crate) rows: u32,
    pub(crate) runs: u32,
    pub(crate) heads: u32,
    pub(crate) head_stride: u32,
    pub(crate) row_stride: u32,
    pub(crate) rope_low: u32,
    pub(crate) rope_high: u32,
    pub(crate) scale: f32,
}

/// `struct RotateRun` of `shaders/attention/rotate.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct RotateRun {
    pub(crate) base: u32,
    pub(crate) first: u32,
    pub(crate) position: i32,
    pub(crate) step: i32,
}

const _: () = assert!(size_of::<Params>() <= UNIFORM_BYTES as usize);

/// Where the fields lie, for the layout test.
pub(crate) fn layouts() -> Vec<HostLayout> {
    vec![
        host_layout!("Params", Params:
            q_head_stride, q_row_stride, k_head_stride, k_row_stride, v_head_stride, v_row_stride,
            o_head_stride, o_row_stride, lse_head_stride, heads, first_head, heads_per_kv,
            heads_per_list, list_groups, first_item, work_items, tiles, tiles_per_block,
            block_size, flags, window, scale, soft_cap, soft_cap_inverse, beta, score_unit,
            rope_low, rope_high, rope_steps, phi_base, slope_base, phi_cap, phi_flat, phi_rate,
            factor_length, sink_base, page_size, k_page_stride, v_page_stride, splits, row_chunks, heads_each, heads_here, all_heads, max_rows,
            merge_items),
        host_layout!("Sequence", SequenceEntry:
            q_base, k_base, v_base, o_base, lse_base, q_len, kv_len, first_block, query_blocks,
            list_base, order_base, document_base, id_base, mask_base, mask_head_stride,
            mask_row_stride, mask_bits, q_position, k_position, slope_head,
            segments, page_base, entry, q_start, kv_start),
        host_layout!("Axes", Axes:
            q, k, v, output, d_output, lse, d_lse, query_rows, dq, dk, dv, d_sinks, d_slopes),
        host_layout!("MergeParams", MergeParams:
            heads, tiles, work_items, value_quads, state_head_stride, o_head_stride, o_row_stride,
            lse_head_stride, error_head_stride, flags, rounds, log_rounds),
        host_layout!("MergeSequence", MergeSequence: state_row, o_base, lse_base, error_base, rows),
        host_layout!("GatherParams", GatherParams:
            work_items, tiles, rows, row_words, block_size, packed_first, whole_first, whole_base,
            whole_head_stride, whole_row_stride, packed_base, packed_head_stride,
            packed_row_stride, flags),
        host_layout!("RotateParams", RotateParams:
            work_items, tiles, rows, runs, heads, head_stride, row_stride, rope_low, rope_high,
            scale),
        host_layout!("RotateRun", RotateRun: base, first, position, step),
        host_layout!("SummaryParams", SummaryParams:
            work_items, groups, runs, group, k_head_stride, k_row_stride, head_stride, rope_low,
            rope_high),
        host_layout!("SummaryRun", SummaryRun: first, base, group, len, words, position),
    ]
}
