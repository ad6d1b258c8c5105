//! The kernels of attention that a plan chooses, to validate and to compile elsewhere, and those
//! whose machine code is worth a look.

use super::backward;
use super::content::{BlockMasses, Mass, Summarize};
use super::gather::Gather;
use super::merge::{Merge, MergeSplits};
use super::rotate::Rotate;
use super::shapes::{Decode, Kernel, Matrix, Tile};
use super::variant::{BiasVariant, PositionsVariant, Variant, Wide};
use crate::cache::gpu::variant::CacheVariant;
use crate::layout::DType;
use crate::position::Pairing;
use crate::runtime::program::Program;
use crate::sampling::content::Estimate;

/// What programs are handed to, one by one.
pub(crate) type Visit<'a> = dyn FnMut(&dyn Program) + 'a;

const NONE: PositionsVariant = PositionsVariant { rope: None, bias: BiasVariant::None, factor: false };

const fn rope(pairing: Pairing, dim: usize) -> PositionsVariant {
    PositionsVariant { rope: Some((pairing, dim)), ..NONE }
}

/// Harmonic bias over the rotation of 64 channels.
const HARMONIC: PositionsVariant =
    PositionsVariant { bias: BiasVariant::Harmonic, ..rope(Pairing::Half, 64) };

/// The same of 80 channels.
const HARMONIC_80: PositionsVariant =
    PositionsVariant { bias: BiasVariant::Harmonic, ..rope(Pairing::Half, 80) };

/// Some channels turn, and scores have a factor beside a bias.
const PARTIAL: PositionsVariant =
    PositionsVariant { bias: BiasVariant::Linear, factor: true, ..rope(Pairing::Interleaved, 32) };

/// Every kernel and tile shape that a plan chooses by itself, with every storage type, at head
/// dimensions that models use.
pub(crate) fn chosen(add: &mut Visit<'_>) {
    plain(add);
    wide_and_shared_rows(add);
    f16_products(add);
    positions(add);
    decode(add);
    decode_over_caches(add);
    matrices(add);
    masks(add);
    pages(add);
    for positions in [HARMONIC, PARTIAL] {
        let kernel = Kernel::Decode(Decode::ONE);
        add(&Variant { positions, ..Variant::new(kernel, DType::F32, [64; 2]) });
    }
    beside_attention(add);
    backward::all().iter().for_each(|program| add(program));
}

fn plain(add: &mut Visit<'_>) {
    const DIMS: [[usize; 2]; 14] = [
        [4, 4],
        [32, 32],
        [40, 40],
        [64, 64],
        [72, 72],
        [80, 80],
        [96, 96],
        [112, 112],
        [128, 128],
        [192, 128],
        [192, 192],
        [256, 256],
        [512, 512],
        [576, 512],
    ];
    for storage in DType::ALL {
        for dims in DIMS {
            for output in DType::ALL {
                add(&Variant { output, ..Variant::new(Kernel::Naive, storage, dims) });
            }
            // The output's type is a store function of its own, seen in every combination above;
            // written-out kernels are long.
            for software in [true, false] {
                let kernel = Kernel::Tiled(Tile::choose(software, dims, false, false));
                add(&Variant::new(kernel, storage, dims));
            }
        }
    }
}

/// Keys and values in wide loads, and rows that lanes share: dimensions with large powers of two in
/// them, and without.
fn wide_and_shared_rows(add: &mut Visit<'_>) {
    let linear = PositionsVariant { bias: BiasVariant::Linear, ..NONE };
    for (dim, positions) in
        [(64, NONE), (80, NONE), (128, NONE), (192, NONE), (256, NONE), (64, linear), (128, linear)]
    {
        for (storage, f16_products) in [(DType::F32, false), (DType::F16, false), (DType::F16, true)] {
            let tile = Tile::choose(false, [dim; 2], false, true).with_f16_products(f16_products);
            let variant = Variant { positions, ..Variant::new(Kernel::Tiled(tile), storage, [dim; 2]) };
            add(&Wide(variant));
            if tile.slices() > 1 {
                add(&variant);
            }
        }
    }
    for dim in [128, 256] {
        let kernel = Kernel::Tiled(Tile::choose(false, [dim; 2], true, true));
        let variant = Variant::new(kernel, DType::F32, [dim; 2]);
        for group in [32, 0] {
            let cache = CacheVariant { widths: [0; 2], group, rotate_keys: false };
            add(&Variant { cache: Some(cache), ..variant });
        }
        add(&Variant { positions: rope(Pairing::Half, dim), ..variant });
    }
}

/// Products in f16, of direct and of staged tiles, also where keys turn.
fn f16_products(add: &mut Visit<'_>) {
    for (dim, positions) in [(64, NONE), (80, NONE), (128, NONE), (256, NONE), (64, HARMONIC)] {
        let tile = Tile::choose(false, [dim; 2], positions.any(), false);
        let staged = Tile::choose(true, [dim; 2], positions.any(), false);
        for tile in [tile, staged] {
            let kernel = Kernel::Tiled(tile.with_f16_products(true));
            add(&Variant { positions, ..Variant::new(kernel, DType::F16, [dim; 2]) });
        }
    }
}

/// Each pairing, whole and partial, each bias, at dimensions whose keys turn in registers (64, 128)
/// and not (80).
fn positions(add: &mut Visit<'_>) {
    for (dim, rope, bias, factor) in [
        (64, Some((Pairing::Interleaved, 64)), BiasVariant::None, false),
        (64, Some((Pairing::Half, 64)), BiasVariant::Harmonic, false),
        (64, Some((Pairing::Half, 32)), BiasVariant::Linear, true),
        (64, None, BiasVariant::Log, true),
        (64, None, BiasVariant::Linear, false),
        (80, Some((Pairing::Interleaved, 32)), BiasVariant::CappedHarmonic, true),
        (128, Some((Pairing::Half, 128)), BiasVariant::Harmonic, false),
        (256, Some((Pairing::Half, 256)), BiasVariant::None, false),
    ] {
        let positions = PositionsVariant { rope, bias, factor };
        let tile = |software| Kernel::Tiled(Tile::choose(software, [dim; 2], rope.is_some(), false));
        for kernel in [Kernel::Naive, tile(true), tile(false)] {
            add(&Variant { positions, ..Variant::new(kernel, DType::F32, [dim; 2]) });
        }
    }
}

/// The decode kernel: every row set, both ways to add up.
fn decode(add: &mut Visit<'_>) {
    for storage in DType::ALL {
        for dims in [[64, 64], [80, 80], [128, 128], [192, 128], [256, 256], [576, 512]] {
            let sets = [(1, false), (1, true), (2, false), (4, true), (8, false)];
            // Of wide rows no plan holds more.
            for (row_sets, quads) in sets.into_iter().filter(|(sets, _)| sets * dims[0] <= 8 * Decode::HELD) {
                let decode = Decode::new(row_sets, quads).unwrap_or(Decode::ONE);
                add(&Variant::new(Kernel::Decode(decode), storage, dims));
            }
        }
    }
}

fn decode_over_caches(add: &mut Visit<'_>) {
    let [presets, narrow] =
        [[1 << 8 | 1 << 4, 1 << 8 | 1 << 4 | 1 << 2], [1 << 8 | 1 << 3 | 1 << 2, 1 << 4 | 1 << 3]];
    for (dim, group, widths, positions, rotate_keys) in [
        (64, 32, presets, NONE, false),
        (64, 64, [0, 0], NONE, false),
        (64, 32, narrow, HARMONIC, false),
        (64, 32, presets, PARTIAL, true),
        (80, 32, narrow, NONE, false),
        (80, 32, narrow, PARTIAL, true),
        (128, 32, presets, NONE, false),
        (256, 64, presets, NONE, false),
        // Rotated codes.
        (64, 0, presets, NONE, false),
        (80, 0, narrow, HARMONIC_80, false),
        (128, 0, [1 << 8 | 1 << 4, 1 << 8 | 1 << 3], NONE, false),
        (256, 0, presets, NONE, false),
    ] {
        let cache = Some(CacheVariant { widths, group, rotate_keys });
        let without_quads = Decode::new(2, false).unwrap_or(Decode::ONE);
        let tiled = Kernel::Tiled(Tile::choose(true, [dim; 2], true, false));
        for kernel in [Kernel::Decode(Decode::ONE), Kernel::Decode(without_quads), tiled] {
            add(&Variant { positions, cache, ..Variant::new(kernel, DType::F32, [dim; 2]) });
        }
    }
}

/// On matrix units and without: both edges, rows padded and not; with every output, whole fragments
/// and not, with and without positions.
fn matrices(add: &mut Visit<'_>) {
    let half = rope(Pairing::Half, 128);
    let problems = [
        (DType::F16, [64, 64], NONE),
        (DType::F16, [128, 128], half),
        (DType::F16, [128, 128], NONE),
        (DType::F32, [64, 64], HARMONIC),
        (DType::F32, [64, 64], PARTIAL),
        (DType::Bf16, [80, 80], NONE),
        (DType::F32, [20, 36], NONE),
    ];
    for emulated in [false, true] {
        for (edge, padded, count) in [(16, true, 7), (16, false, 2), (8, true, 2), (8, false, 2)] {
            let Ok(matrix) = Matrix::new(edge, padded, emulated) else { continue };
            for &(output, dims, positions) in &problems[..count] {
                add(&Variant { output, positions, ..Variant::new(Kernel::Matrix(matrix), DType::F16, dims) });
            }
        }
    }
}

/// Mask tensors in every kernel, over tensors and a cache, alone and beside positions.
fn masks(add: &mut Visit<'_>) {
    let tiles = [(1, 4, false), (4, 4, true)].map(|(rows, keys, staged)| Tile::new(rows, keys, staged));
    let tiles = tiles.into_iter().flatten().map(Kernel::Tiled);
    let decodes =
        [false, true].into_iter().filter_map(|quads| Decode::new(1, quads).ok()).map(Kernel::Decode);
    let cache = CacheVariant { widths: [0; 2], group: 32, rotate_keys: false };
    for kernel in tiles.chain(decodes).chain([Kernel::Naive]) {
        let plain = Variant { masked: true, ..Variant::new(kernel, DType::F32, [64; 2]) };
        match plain.wide_quads() {
            Some(_) => add(&Wide(plain)),
            None => add(&plain),
        }
        match kernel {
            Kernel::Tiled(tile) if !tile.is_staged() => {}
            Kernel::Naive => add(&Variant { positions: PARTIAL, ..plain }),
            _ => {
                add(&Variant { positions: HARMONIC, ..plain });
                add(&Variant { cache: Some(cache), ..plain });
            }
        }
    }
    for matrix in [true, false].into_iter().filter_map(|emulated| Matrix::new(8, false, emulated).ok()) {
        add(&Variant { masked: true, ..Variant::new(Kernel::Matrix(matrix), DType::F16, [64; 2]) });
    }
}

/// Keys and values in pages, in every kernel that reads them, with and without positions.
fn pages(add: &mut Visit<'_>) {
    let tiles = [(1, 4, false), (4, 4, true), (1, 2, true)];
    let tiles = tiles.into_iter().flat_map(|(rows, keys, staged)| Tile::new(rows, keys, staged));
    let decodes = [false, true].into_iter().flat_map(|quads| Decode::new(2, quads));
    for kernel in tiles.map(Kernel::Tiled).chain(decodes.map(Kernel::Decode)).chain([Kernel::Naive]) {
        let plain = Variant { paged: true, ..Variant::new(kernel, DType::F16, [64; 2]) };
        add(&plain);
        add(&Variant { masked: true, ..plain });
        if !matches!(kernel, Kernel::Tiled(tile) if !tile.is_staged()) {
            add(&Variant { positions: PARTIAL, ..plain });
            add(&Variant { positions: rope(Pairing::Half, 64), ..plain });
        }
    }
}

/// Merges, copies and rotations.
fn beside_attention(add: &mut Visit<'_>) {
    for output in DType::ALL {
        add(&MergeSplits { output, value_dim: 64 });
        for spread in [false, true] {
            add(&Merge { output, spread });
        }
    }
    add(&Gather);
    for storage in DType::ALL {
        for pairing in [Pairing::Interleaved, Pairing::Half] {
            add(&Rotate { storage, pairing, rotary_dim: 64 });
        }
    }
    let half = Some((Pairing::Half, 64));
    for storage in DType::ALL {
        for (head_dim, rope) in [(64, None), (128, half), (20, Some((Pairing::Interleaved, 20)))] {
            add(&Summarize { storage, head_dim, rope });
            let estimates = [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey].map(Mass::Estimated);
            for mass in estimates.into_iter().chain([Mass::Least]) {
                for cached in [false, true] {
                    add(&BlockMasses { mass, storage, head_dim, rope, cached });
                }
            }
        }
    }
    // An odd number of quads, as partial rotation may leave.
    add(&Rotate { storage: DType::F32, pairing: Pairing::Interleaved, rotary_dim: 20 });
}

/// A program whose machine code is worth a look, and what its inner loop does
/// ([`shaders::Candidate`](crate::shaders::Candidate)).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) chosen: bool,
    pub(crate) keys: usize,
    pub(crate) turns: usize,
    pub(crate) multiply_adds: usize,
    pub(crate) staged: bool,
    pub(crate) head_dim: usize,
}

impl Counted {
    /// A kernel without a loop over keys.
    pub(crate) const OTHER: Self =
        Self { chosen: true, keys: 0, turns: 1, multiply_adds: 0, staged: false, head_dim: 0 };

    /// An attention kernel.
    fn of(variant: &Variant, chosen: bool) -> Self {
        let head_dim = variant.head_dim;
        let (keys, staged) = match variant.kernel {
            Kernel::Tiled(tile) => (tile.keys(), tile.is_staged()),
            Kernel::Decode(_) if variant.cache.is_some() => (CacheVariant::KEYS, false),
            Kernel::Naive | Kernel::Decode(_) => (1, false),
            Kernel::Matrix(_) => (Matrix::KEYS, true),
        };
        let turns = if matches!(variant.kernel, Kernel::Decode(_)) { keys } else { 1 };
        let multiply_adds = match variant.kernel {
            Kernel::Tiled(tile) => tile.rows_each() * 2 * head_dim / tile.slices(),
            Kernel::Decode(decode) => decode.row_sets() * 2 * head_dim / 4,
            Kernel::Naive => 2 * head_dim,
            Kernel::Matrix(_) => 2 * head_dim / Matrix::LANES_EACH,
        };
        Self { chosen, keys, turns, multiply_adds, staged, head_dim }
    }
}

/// Kernels to count instructions of: what plans choose on GPUs, and other tile shapes that compute
/// the same, at some head dimensions.
pub(crate) fn counted(add: &mut dyn FnMut(&dyn Program, Counted)) {
    let mut attention = |variant: Variant, chosen| {
        let counted = Counted::of(&variant, chosen);
        // What tensors of their own get; others get the variant itself.
        match variant.wide_quads() {
            Some(_) => add(&Wide(variant), counted),
            None => add(&variant, counted),
        }
    };
    let of = |kernel, storage, dim| Variant::new(kernel, storage, [dim; 2]);
    let tiles = tiles();
    let of_gpu = |dim, staged| Tile::choose(false, [dim; 2], staged, true);
    for storage in [DType::F32, DType::F16] {
        for dim in [64, 80, 96, 128, 256] {
            for &tile in &tiles {
                attention(of(Kernel::Tiled(tile), storage, dim), tile == of_gpu(dim, false));
            }
            if storage == DType::F16 {
                let tile = of_gpu(dim, false).with_f16_products(true);
                attention(of(Kernel::Tiled(tile), storage, dim), true);
            }
        }
        attention(of(Kernel::Naive, storage, 64), false);
    }
    for (dim, padded) in [(64, true), (128, false), (128, true)] {
        if let Ok(matrix) = Matrix::new(16, padded, false) {
            attention(of(Kernel::Matrix(matrix), DType::F16, dim), true);
        }
    }
    for dim in [64, 128] {
        let positions = PositionsVariant { bias: BiasVariant::Harmonic, ..rope(Pairing::Half, dim) };
        for &tile in tiles.iter().filter(|tile| tile.is_staged()) {
            let variant = of(Kernel::Tiled(tile), DType::F32, dim);
            attention(Variant { positions, ..variant }, tile == of_gpu(dim, true));
        }
        let cache = CacheVariant { widths: [1 << 8 | 1 << 4 | 1 << 2; 2], group: 32, rotate_keys: false };
        for cache in [None, Some(cache)] {
            for row_sets in [1, 2, 4, 8] {
                for quads in [true, false] {
                    if let Ok(decode) = Decode::new(row_sets, quads) {
                        let chosen = quads && row_sets * dim <= Decode::HELD;
                        let variant = of(Kernel::Decode(decode), DType::F32, dim);
                        attention(Variant { cache, ..variant }, chosen);
                    }
                }
            }
        }
        let variant = of(Kernel::Tiled(of_gpu(dim, true)), DType::F32, dim);
        attention(Variant { cache: Some(cache), ..variant }, true);
    }
    for (program, multiply_adds) in backward::counted() {
        let (keys, head_dim) = (program.tile.step, program.head_dim);
        add(&program, Counted { chosen: true, keys, turns: 1, multiply_adds, staged: true, head_dim });
    }
    add(&MergeSplits { output: DType::F32, value_dim: 128 }, Counted::OTHER);
    add(&Merge { output: DType::F32, spread: false }, Counted::OTHER);
    add(&Rotate { storage: DType::F32, pairing: Pairing::Half, rotary_dim: 64 }, Counted::OTHER);
    let storage = DType::F32;
    add(&Summarize { storage, head_dim: 128, rope: None }, Counted::OTHER);
    for cached in [false, true] {
        let mass = Mass::Estimated(Estimate::Saturated);
        add(&BlockMasses { mass, storage, head_dim: 128, rope: None, cached }, Counted::OTHER);
    }
}

/// Tile shapes to compare.
fn tiles() -> Vec<Tile> {
    let mut tiles = Vec::new();
    for keys in [1, 2, 4] {
        tiles.extend(Tile::new(1, keys, false));
    }
    for rows_each in [1, 2, 4] {
        for keys in [2, 4, 8] {
            tiles.extend(Tile::new(rows_each, keys, true));
        }
    }
    for slices in [2, 4] {
        for staged in [false, true] {
            tiles.extend(Tile::new(1, 4, staged).and_then(|tile| tile.with_slices(slices)));
        }
    }
    tiles
}
