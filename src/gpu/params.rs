//! The only structs that travel to the GPU byte for byte. `tests/shaders.rs` compares their layouts with naga's.

use bytemuck::{Pod, Zeroable};

/// `struct Params` of `shaders/shared/params.wgsl`.
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
    pub(crate) rope_low: u32,
    pub(crate) rope_high: u32,
    pub(crate) rope_steps: u32,
    pub(crate) phi_base: u32,
    pub(crate) slope_base: u32,
    pub(crate) phi_cap: u32,
    pub(crate) phi_flat: f32,
    pub(crate) phi_rate: f32,
    pub(crate) factor_length: f32,
    pub(crate) splits: u32,
    pub(crate) row_chunks: u32,
    pub(crate) heads_each: u32,
    pub(crate) heads_here: u32,
    pub(crate) all_heads: u32,
    pub(crate) max_rows: u32,
    pub(crate) merge_items: u32,
}

/// `struct Sequence` of `shaders/shared/params.wgsl`.
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
    pub(crate) q_position: i32,
    pub(crate) k_position: i32,
    pub(crate) slope_head: u32,
    pub(crate) segments: u32,
}

/// `struct MergeParams` of `shaders/merge.wgsl`.
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

/// `struct MergeSequence` of `shaders/merge.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct MergeSequence {
    pub(crate) state_row: u32,
    pub(crate) o_base: u32,
    pub(crate) lse_base: u32,
    pub(crate) error_base: u32,
    pub(crate) rows: u32,
}

/// `struct GatherParams` of `shaders/gather.wgsl`.
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

/// `struct RotateParams` of `shaders/rotate.wgsl`.
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

/// `struct RotateRun` of `shaders/rotate.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct RotateRun {
    pub(crate) base: u32,
    pub(crate) first: u32,
    pub(crate) position: i32,
    pub(crate) step: i32,
}

/// `struct ScheduleParams` of `shaders/shared/schedule.wgsl`.
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

/// `struct ScheduleSequence` of `shaders/shared/schedule.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct ScheduleSequence {
    pub(crate) base: u32,
    pub(crate) first_block: i32,
    pub(crate) query_blocks: u32,
    pub(crate) key_blocks: u32,
    pub(crate) key: u32,
    pub(crate) round: u32,
}

/// `struct Distance` of `shaders/shared/schedule.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Distance {
    pub(crate) sum_low: u32,
    pub(crate) sum_high: u32,
    pub(crate) p_low: u32,
    pub(crate) ln_p: u32,
}

/// The most rungs of a ladder: one of each width.
pub(crate) const CACHE_RUNGS: usize = 6;

/// `struct CacheRung` of `shaders/shared/cache.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct CacheRung {
    pub(crate) end: u32,
    pub(crate) bits: u32,
    pub(crate) base: u32,
    pub(crate) blocks: u32,
    pub(crate) block_words: u32,
    pub(crate) unused_a: u32,
    pub(crate) unused_b: u32,
    pub(crate) unused_c: u32,
}

/// `struct CacheLayout` of `shaders/shared/cache.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct CacheLayout {
    pub(crate) segment: u32,
    pub(crate) group: u32,
    pub(crate) sinks: u32,
    pub(crate) residual_rows: u32,
    pub(crate) key_row_words: u32,
    pub(crate) value_row_words: u32,
    pub(crate) key_residual: u32,
    pub(crate) value_residual: u32,
    pub(crate) key_head_stride: u32,
    pub(crate) value_head_stride: u32,
    pub(crate) unused_a: u32,
    pub(crate) unused_b: u32,
    pub(crate) key_rungs: [CacheRung; CACHE_RUNGS],
    pub(crate) value_rungs: [CacheRung; CACHE_RUNGS],
}

/// `struct MoveParams` of `shaders/shared/moves.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct MoveParams {
    pub(crate) work_items: u32,
    pub(crate) tiles: u32,
    pub(crate) units: u32,
    pub(crate) moves: u32,
    pub(crate) arena_head: u32,
    pub(crate) input_head: u32,
    pub(crate) k_head_stride: u32,
    pub(crate) k_row_stride: u32,
    pub(crate) k_quads: u32,
    pub(crate) v_head_stride: u32,
    pub(crate) v_row_stride: u32,
    pub(crate) v_quads: u32,
}

/// `struct Move` of `shaders/shared/moves.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Move {
    pub(crate) first: u32,
    pub(crate) flags: u32,
    pub(crate) widths: u32,
    pub(crate) held: u32,
    pub(crate) source: u32,
    pub(crate) source_row: u32,
    pub(crate) source_ring: u32,
    pub(crate) input: u32,
    pub(crate) destination: u32,
    pub(crate) row: u32,
    pub(crate) ring: u32,
}

pub(crate) const FLAG_VALUES: u32 = 1;
pub(crate) const FLAG_COUNT: u32 = 2;

pub(crate) const FLAG_CAUSAL: u32 = 1;
pub(crate) const FLAG_WINDOW: u32 = 2;
pub(crate) const FLAG_SOFT_CAP: u32 = 4;
pub(crate) const FLAG_LSE: u32 = 8;
pub(crate) const FLAG_FIRST: u32 = 16;
pub(crate) const FLAG_MEAN: u32 = 32;
pub(crate) const FLAG_ERROR: u32 = 64;
pub(crate) const FLAG_SCATTER: u32 = 128;
pub(crate) const FLAG_PAIRED: u32 = 256;

/// Positions of the lower level of rotations: the higher one has a row per as many.
pub(crate) const ROPE_STRIDE: usize = 4096;

/// Lags below this take harmonic numbers from a table of windows, which reach as far as a tile of rows and a step of keys that starts below; others from a formula.
pub(crate) const PHI_NEAR: usize = 32;
pub(crate) const PHI_WINDOWS: usize = 128;

/// The base of a table that a sequence doesn't have.
pub(crate) const NO_TABLE: u32 = u32::MAX;

macro_rules! fields {
    ($struct:ident: $($field:ident),* $(,)?) => {
        vec![$((stringify!($field), std::mem::offset_of!($struct, $field) as u32)),*]
    };
}

/// (name, byte offset) of every field and the size, for the layout test.
pub(crate) fn layouts() -> Vec<super::shaders::HostLayout> {
    vec![
        (
            "Params",
            fields!(Params: q_head_stride, q_row_stride, k_head_stride, k_row_stride, v_head_stride, v_row_stride,
                o_head_stride, o_row_stride, lse_head_stride, heads, first_head, heads_per_kv, heads_per_list, list_groups, first_item, work_items, tiles,
                tiles_per_block, block_size, flags, window, scale, soft_cap, soft_cap_inverse, beta, rope_low, rope_high, rope_steps, phi_base,
                slope_base, phi_cap, phi_flat, phi_rate, factor_length, splits, row_chunks, heads_each, heads_here, all_heads,
                max_rows, merge_items),
            size_of::<Params>() as u32,
        ),
        (
            "Sequence",
            fields!(SequenceEntry: q_base, k_base, v_base, o_base, lse_base, q_len, kv_len, first_block, query_blocks,
                list_base, order_base, document_base, id_base, q_position, k_position, slope_head, segments),
            size_of::<SequenceEntry>() as u32,
        ),
        (
            "MergeParams",
            fields!(MergeParams: heads, tiles, work_items, value_quads, state_head_stride, o_head_stride, o_row_stride,
                lse_head_stride, error_head_stride, flags, rounds, log_rounds),
            size_of::<MergeParams>() as u32,
        ),
        (
            "MergeSequence",
            fields!(MergeSequence: state_row, o_base, lse_base, error_base, rows),
            size_of::<MergeSequence>() as u32,
        ),
        (
            "GatherParams",
            fields!(GatherParams: work_items, tiles, rows, row_words, block_size, packed_first, whole_first, whole_base,
                whole_head_stride, whole_row_stride, packed_base, packed_head_stride, packed_row_stride, flags),
            size_of::<GatherParams>() as u32,
        ),
        (
            "RotateParams",
            fields!(RotateParams: work_items, tiles, rows, runs, heads, head_stride, row_stride, rope_low, rope_high, scale),
            size_of::<RotateParams>() as u32,
        ),
        ("RotateRun", fields!(RotateRun: base, first, position, step), size_of::<RotateRun>() as u32),
        (
            "ScheduleParams",
            fields!(ScheduleParams: sequences, groups, chunks, work_items, sink_blocks, capacity, sums, flags),
            size_of::<ScheduleParams>() as u32,
        ),
        (
            "ScheduleSequence",
            fields!(ScheduleSequence: base, first_block, query_blocks, key_blocks, key, round),
            size_of::<ScheduleSequence>() as u32,
        ),
        ("Distance", fields!(Distance: sum_low, sum_high, p_low, ln_p), size_of::<Distance>() as u32),
        (
            "CacheRung",
            fields!(CacheRung: end, bits, base, blocks, block_words, unused_a, unused_b, unused_c),
            size_of::<CacheRung>() as u32,
        ),
        (
            "CacheLayout",
            fields!(CacheLayout: segment, group, sinks, residual_rows, key_row_words, value_row_words, key_residual, value_residual,
                key_head_stride, value_head_stride, unused_a, unused_b, key_rungs, value_rungs),
            size_of::<CacheLayout>() as u32,
        ),
        (
            "MoveParams",
            fields!(MoveParams: work_items, tiles, units, moves, arena_head, input_head, k_head_stride, k_row_stride, k_quads,
                v_head_stride, v_row_stride, v_quads),
            size_of::<MoveParams>() as u32,
        ),
        (
            "Move",
            fields!(Move: first, flags, widths, held, source, source_row, source_ring, input, destination, row, ring),
            size_of::<Move>() as u32,
        ),
    ]
}
