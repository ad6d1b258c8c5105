//! What the kernels of the cache read, byte for byte.

use bytemuck::{Pod, Zeroable};

use crate::runtime::layouts::{HostLayout, host_layout};
use crate::runtime::program::UNIFORM_BYTES;

/// The most rungs of a ladder: one of each width.
pub(crate) const CACHE_RUNGS: usize = 6;

pub(crate) const FLAG_VALUES: u32 = 1;
pub(crate) const FLAG_COUNT: u32 = 2;
/// Codes step down by a shift.
pub(crate) const FLAG_SHIFT: u32 = 4;
/// Above it lies how many of a segment's rows, from the first on, are read from copies.
pub(crate) const SKIPPED_AT: u32 = 8;

/// `struct CacheRung` of `shaders/cache/cache.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct CacheRung {
    pub(crate) end: u32,
    pub(crate) bits: u32,
    pub(crate) base: u32,
    pub(crate) packs: u32,
    pub(crate) pack_words: u32,
    pub(crate) unused_a: u32,
    pub(crate) unused_b: u32,
    pub(crate) unused_c: u32,
}

/// `struct CacheCoding` of `shaders/cache/cache.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct CacheCoding {
    pub(crate) block_quads: u32,
    pub(crate) offset: i32,
    pub(crate) list: u32,
    pub(crate) fine: u32,
    pub(crate) scales: [[u32; 4]; 6],
}

/// `struct CacheLayout` of `shaders/cache/cache.wgsl`.
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
    pub(crate) summary_tokens: u32,
    pub(crate) summary_words: u32,
    pub(crate) key_behind: u32,
    pub(crate) value_behind: u32,
    pub(crate) fine_tokens: u32,
    pub(crate) unused: u32,
    pub(crate) key_rungs: [CacheRung; CACHE_RUNGS],
    pub(crate) value_rungs: [CacheRung; CACHE_RUNGS],
    pub(crate) codings: [CacheCoding; 2],
    pub(crate) thresholds: [[u32; 4]; 16],
    pub(crate) levels: [[u32; 4]; 16],
}

/// `struct MoveParams` of `shaders/cache/moves.wgsl`.
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
    pub(crate) number: u32,
}

/// `struct Move` of `shaders/cache/moves.wgsl`.
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
    pub(crate) stamp: u32,
    pub(crate) expected: u32,
}

/// `struct MigrateParams` of `shaders/cache/migrate.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct MigrateParams {
    pub(crate) work_items: u32,
    pub(crate) tiles: u32,
    pub(crate) words: u32,
    pub(crate) spans: u32,
    pub(crate) old_stride: u32,
    pub(crate) new_stride: u32,
}

/// `struct MigrateSpan` of `shaders/cache/migrate.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct MigrateSpan {
    pub(crate) first: u32,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

const _: () = assert!(size_of::<CacheLayout>() <= UNIFORM_BYTES as usize);

/// Where the fields lie, for the layout test.
pub(crate) fn layouts() -> Vec<HostLayout> {
    vec![
        host_layout!("CacheRung", CacheRung:
            end, bits, base, packs, pack_words, unused_a, unused_b, unused_c),
        host_layout!("CacheCoding", CacheCoding: block_quads, offset, list, fine, scales),
        host_layout!("CacheLayout", CacheLayout:
            segment, group, sinks, residual_rows, key_row_words, value_row_words, key_residual,
            value_residual, key_head_stride, value_head_stride, summary_tokens, summary_words,
            key_behind, value_behind, fine_tokens, unused, key_rungs, value_rungs, codings, thresholds,
            levels),
        host_layout!("MoveParams", MoveParams:
            work_items, tiles, units, moves, arena_head, input_head, k_head_stride, k_row_stride,
            k_quads, v_head_stride, v_row_stride, v_quads, number),
        host_layout!("Move", Move:
            first, flags, widths, held, source, source_row, source_ring, input, destination, row,
            ring, stamp, expected),
        host_layout!("MigrateParams", MigrateParams:
            work_items, tiles, words, spans, old_stride, new_stride),
        host_layout!("MigrateSpan", MigrateSpan: first, source, destination),
    ]
}
