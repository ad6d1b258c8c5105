//! The kernels as WGSL text, one per variant: what the device is given, to read, to validate, to compile elsewhere.
//!
//! Sizes are written once, in Rust: a variant is a rendered header of `const` lines, then shared pieces, then the kernel's own file.

use std::fmt::Write;

use super::choice::{Decode, Kernel, Matrix, TILE_ROWS, Tile};
use super::kernel::Program;
use super::params;
use super::registry::{
    BiasVariant, Blocks, CacheMove, CacheVariant, Draw, Gather, Merge, MergeSplits, PositionsVariant, Rotate,
    Variant,
};
use super::template::{Numbers, expand};
use crate::layout::DType;
use crate::position::Pairing;
use crate::sampling::GpuRule;

const ENABLE_F16: &str = "enable f16;\n";
const ENABLE_MATRICES: &str = "enable wgpu_cooperative_matrix;\n";

const ROPE_PIECE: &str = include_str!("../../shaders/shared/rope.wgsl");
const ENDING_PIECE: &str = include_str!("../../shaders/shared/ending.wgsl");

/// The text of an attention kernel, which takes keys and values in blocks of this many quads, or quad by quad (0).
pub(crate) fn attention(variant: &Variant, block_quads: usize) -> String {
    let Variant { kernel, storage, output, head_dim, value_dim, positions, cache } = *variant;
    let (rows_each, keys) = match kernel {
        Kernel::Naive | Kernel::Decode(_) => (1, 1),
        Kernel::Tiled(tile) => (tile.rows_each(), tile.keys()),
        Kernel::Matrix(_) => (1, Matrix::KEYS),
    };
    let parts = match kernel {
        Kernel::Tiled(tile) => tile.parts(),
        _ => 1,
    };
    let (row_sets, quads) = match kernel {
        Kernel::Decode(decode) => (decode.row_sets(), decode.uses_quads()),
        _ => (0, false),
    };
    let sum_quads = match kernel {
        Kernel::Tiled(tile) => tile.sum_quads(head_dim),
        _ => 0,
    };
    // The sizes: constants of the text, and bounds of its written-out loops.
    let sizes = [
        ("HEAD_QUADS", head_dim / 4),
        ("VALUE_QUADS", value_dim / 4),
        ("ROWS", TILE_ROWS),
        ("ROWS_EACH", rows_each),
        ("KEYS", keys),
        ("SUM_QUADS", sum_quads),
        ("SUMS", (head_dim / 4 / parts).checked_div(sum_quads).unwrap_or(0)),
        ("BLOCK_QUADS", block_quads),
        ("PARTS", parts),
        ("ROW_LANES", TILE_ROWS / rows_each),
        ("OWN_HEAD_QUADS", head_dim / 4 / parts),
        ("OWN_VALUE_QUADS", value_dim / 4 / parts),
        ("INVOCATIONS", kernel.invocations()),
        ("ROW_SETS", row_sets),
        ("ROWS_HELD", Decode::ROWS * row_sets),
    ];
    let group = cache.map_or(0, |cache| cache.group);
    // Of the padded rows of a cache, and what of a value shares its extremes.
    let padded = |dim: usize| if cache.is_some() { dim.next_multiple_of(32) } else { 0 };
    let matrix = match kernel {
        Kernel::Matrix(matrix) => Some(matrix),
        _ => None,
    };
    let layout = matrix.map(|matrix| matrix.layout(head_dim));
    let sizes = sizes.into_iter().chain([
        ("CACHE_RUNGS", cache.map_or(0, |_| params::CACHE_RUNGS)),
        ("GROUP", group),
        ("HEAD_PADDED", layout.map_or(padded(head_dim), |layout| layout.head_padded)),
        ("HEAD_WORDS", padded(head_dim) / 32),
        ("VALUE_PADDED", padded(value_dim)),
        ("VALUE_GROUPS", cache.map_or(0, |cache| value_dim.div_ceil(cache.group))),
    ]);
    let flags = [
        ("FLAG_CAUSAL", params::FLAG_CAUSAL),
        ("FLAG_WINDOW", params::FLAG_WINDOW),
        ("FLAG_SOFT_CAP", params::FLAG_SOFT_CAP),
        ("FLAG_LSE", params::FLAG_LSE),
        ("FLAG_PAIRED", params::FLAG_PAIRED),
        ("NO_TABLE", params::NO_TABLE),
    ];
    let form = Form::of(kernel);
    let cooperative = matrix.is_some_and(|matrix| !matrix.is_emulated());
    // What a text enables stands before everything else.
    let mut wgsl = String::new();
    if form.halves || cooperative {
        wgsl.push_str(ENABLE_F16);
    }
    if cooperative {
        wgsl.push_str(ENABLE_MATRICES);
    }
    wgsl.push_str(&header(&if block_quads > 0 { Blocks(*variant).label() } else { variant.label() }));
    if let Some(above) = form.raise_above {
        let _ = writeln!(wgsl, "const RAISE_ABOVE: f32 = {above:?};");
    }
    let turn = Turn::new(variant);
    let sizes: Vec<(&'static str, usize)> = sizes
        .chain(turn.sizes(positions.any()))
        .chain(matrix.map(|matrix| matrix_sizes(matrix, head_dim, value_dim)).into_iter().flatten())
        .filter(|&(_, size)| size > 0)
        .collect();
    let constant = |&(name, value): &(&'static str, usize)| (name, value as u32);
    constants(&mut wgsl, &sizes.iter().map(constant).collect::<Vec<_>>());
    constants(&mut wgsl, &flags);
    let unturned = positions.rope.is_some() && cache.is_none_or(|cache| cache.keys_turn);
    let conditions = [
        ("CACHED", cache.is_some()),
        ("QUADS", quads),
        ("KEYS_TURN", unturned),
        ("BY_CHANNEL", form.by_channel),
        ("LAZY", form.raise_above.is_some()),
        ("IN_PARTS", form.in_parts),
        ("WIDE", block_quads > 0),
        ("SHARED", parts > 1),
    ];
    let mut numbers: Numbers = sizes.into_iter().chain(turn.conditions(variant)).collect();
    numbers.extend(conditions.map(|(name, on)| (name, usize::from(on))));
    if let Some(matrix) = matrix {
        let conditions = [
            ("EDGE_16", matrix.edge() == 16),
            ("PADDED", matrix.is_padded()),
            ("EMULATED", matrix.is_emulated()),
        ];
        numbers.extend(conditions.map(|(name, on)| (name, usize::from(on))));
    }
    // Tokens that a lane takes from a cache at once.
    numbers.insert("FOUR", CacheVariant::KEYS);
    let decode;
    let kernel_text = match kernel {
        Kernel::Naive => include_str!("../../shaders/attention_naive.wgsl"),
        Kernel::Tiled(_) => include_str!("../../shaders/attention_tiled.wgsl"),
        Kernel::Matrix(_) => include_str!("../../shaders/attention_matrix.wgsl"),
        Kernel::Decode(_) => {
            // Written out, a step of four tokens is faster; but text that is too long takes drivers many seconds.
            let written_out = row_sets * (head_dim.max(value_dim)) <= 128;
            decode = decode_text(cache, written_out);
            decode.as_str()
        }
    };
    let tensors = match kernel {
        Kernel::Decode(_) => "",
        _ => include_str!("../../shaders/shared/tensors.wgsl"),
    };
    let numbers_piece = match (kernel, form.halves) {
        (Kernel::Tiled(_), false) => include_str!("../../shaders/shared/numbers_f32.wgsl"),
        (Kernel::Tiled(_), true) => include_str!("../../shaders/shared/numbers_f16.wgsl"),
        _ => "",
    };
    let pieces = [
        include_str!("../../shaders/shared/params.wgsl"),
        if form.halves { "" } else { load_piece(storage) },
        numbers_piece,
        store_piece(output),
        tensors,
        if cache.is_some() { include_str!("../../shaders/shared/arena.wgsl") } else { "" },
        if cache.is_some() { include_str!("../../shaders/shared/cache.wgsl") } else { "" },
        if cache.is_some() { include_str!("../../shaders/shared/expand.wgsl") } else { "" },
        include_str!("../../shaders/shared/work.wgsl"),
        include_str!("../../shaders/shared/walk.wgsl"),
        include_str!("../../shaders/shared/scores.wgsl"),
        // Rows of the split kernel end in the merge of their shares.
        if matches!(kernel, Kernel::Decode(_)) { "" } else { ENDING_PIECE },
        if positions.any() { ROPE_PIECE } else { "" },
        if positions.any() { include_str!("../../shaders/shared/positions.wgsl") } else { "" },
        match matrix {
            Some(matrix) if matrix.is_emulated() => {
                include_str!("../../shaders/shared/fragments_emulated.wgsl")
            }
            Some(_) => include_str!("../../shaders/shared/fragments_cooperative.wgsl"),
            None => "",
        },
        kernel_text,
    ];
    for piece in pieces {
        wgsl.push('\n');
        wgsl.push_str(&expand(piece, &numbers));
    }
    wgsl
}

/// How the tiled kernel's inner loop is written.
struct Form {
    halves: bool,
    /// Whether products are summed by channel modulo 4 first: no add but those of multiply-adds, for four times the registers.
    by_channel: bool,
    /// What a score must exceed the maximum by before the maximum follows: then o is rarely
    /// rescaled, and weights may be as large as 4 to this power.
    raise_above: Option<f32>,
    /// Whether the keys of a step are summed before they are added to o.
    in_parts: bool,
}

impl Form {
    fn of(kernel: Kernel) -> Self {
        let Kernel::Tiled(tile) = kernel else {
            return Self { halves: false, by_channel: false, raise_above: None, in_parts: false };
        };
        let halves = tile.uses_half_products();
        let gpu = tile.rows_each() == 1;
        Self {
            halves,
            by_channel: halves || gpu,
            raise_above: if halves { Some(1.0) } else { gpu.then_some(4.0) },
            in_parts: halves || !gpu,
        }
    }
}

/// The sizes of the kernel on matrix units: what a lane has of a step and of a chunk, and where everything lies in workgroup memory.
fn matrix_sizes(matrix: Matrix, head_dim: usize, value_dim: usize) -> [(&'static str, usize); 16] {
    let layout = matrix.layout(head_dim);
    let each = |columns: usize| columns / 4 / Matrix::LANES_EACH;
    [
        ("EDGE", matrix.edge()),
        ("LANES_EACH", Matrix::LANES_EACH),
        ("KEYS_EACH", Matrix::KEYS / Matrix::LANES_EACH),
        ("KEY_QUADS_EACH", each(Matrix::KEYS)),
        ("CHUNK", Matrix::CHUNK),
        ("CHUNKS", value_dim.div_ceil(Matrix::CHUNK)),
        ("CHUNK_QUADS_EACH", each(Matrix::CHUNK)),
        ("HEAD_STRIDE", layout.head_stride),
        ("WEIGHT_STRIDE", layout.weight_stride),
        ("VALUE_STRIDE", layout.value_stride),
        ("SUM_STRIDE", layout.sum_stride),
        ("KEYS_AT", layout.keys_at),
        ("WEIGHTS_AT", layout.keys_at),
        ("VALUES_AT", layout.values_at),
        ("HALVES", layout.halves),
        ("SUMS", layout.sums),
    ]
}

/// The split kernel with what it does at each width of a cache's ladders.
fn decode_text(cache: Option<CacheVariant>, written_out: bool) -> String {
    let text = include_str!("../../shaders/attention_decode.wgsl");
    let Some(CacheVariant { widths, group, .. }) = cache else { return text.to_owned() };
    let bodies = |side: &str, widths: u32, piece: &str| {
        // Sinks and the residual have 16 bits, whatever the ladder.
        let mut text = format!("                    if run.{side}.bits == 16u {{\n");
        let body = |bits: u32| {
            let numbers =
                Numbers::from([("HALF", usize::from(bits == 16)), ("STRADDLE", usize::from(bits == 3))]);
            let words = group as u32 / 32 * bits;
            let (start, end, token) = match written_out {
                true => ("#for t in FOUR\n                    {", "                    }\n#end", "$tu"),
                false => {
                    ("                    for (var t = 0u; t < 4u; t++) {", "                    }", "t")
                }
            };
            let piece = piece.replace("END_TOKENS", end).replace("TOKENS", start).replace("TOKEN", token);
            let body =
                piece.replace("GROUP_WORDS", &format!("{words}u")).replace("BITS", &format!("{bits}u"));
            // What isn't decided here stays for later.
            expand(&body, &numbers)
        };
        text.push_str(&body(16));
        for bits in crate::cache::quantize::WIDTHS.into_iter().filter(|bits| widths >> bits & 1 == 1) {
            let _ = writeln!(text, "                    }} else if run.{side}.bits == {bits}u {{");
            text.push_str(&body(bits));
        }
        text.push_str("                    }\n");
        text
    };
    let keys = bodies("keys", widths[0], include_str!("../../shaders/shared/decode_keys.wgsl"));
    let values = bodies("values", widths[1], include_str!("../../shaders/shared/decode_values.wgsl"));
    text.replace("//KEYS\n", &keys)
        .replace("//VALUES\n", &values)
        .replace("GROUP_QUADS", &(group / 4).to_string())
}

/// The text of the kernel that merges the shares of split rows.
pub(crate) fn merge_splits(program: &MergeSplits) -> String {
    let values = [
        ("ROWS", TILE_ROWS as u32),
        ("VALUE_QUADS", (program.value_dim / 4) as u32),
        ("FLAG_LSE", params::FLAG_LSE),
        ("NO_TABLE", params::NO_TABLE),
    ];
    let pieces = [
        include_str!("../../shaders/shared/params.wgsl"),
        store_piece(program.output),
        ENDING_PIECE,
        include_str!("../../shaders/merge_splits.wgsl"),
    ];
    plain(&program.label(), &values, &pieces)
}

/// How the lanes of a workgroup share the rotation of staged keys.
struct Turn {
    rotary: usize,
    /// Quads that are turned together: one, or the two halves of a pair of quads.
    parts: usize,
    /// Lanes that share the keys of a step.
    groups: usize,
    keys: usize,
    rest: usize,
    /// Whether every lane has one quad to turn, so that the rotations of a step stay in its registers.
    in_registers: bool,
}

impl Turn {
    fn new(variant: &Variant) -> Self {
        let (rotary, parts) = match variant.positions.rope {
            Some((Pairing::Half, dim)) => (dim / 4, 2),
            Some((Pairing::Interleaved, dim)) => (dim / 4, 1),
            None => (0, 1),
        };
        let (keys, staged) = match variant.kernel {
            Kernel::Tiled(tile) => (tile.keys(), tile.is_staged()),
            Kernel::Naive | Kernel::Decode(_) | Kernel::Matrix(_) => (1, false),
        };
        // Twice as many lanes where each turns two quads.
        let groups = if parts == 2 && keys > 1 { 2 } else { 1 };
        let in_registers = staged
            && variant.cache.is_none()
            && rotary > 0
            && rotary / parts * groups <= variant.kernel.invocations();
        Self { rotary, parts, groups, keys, rest: variant.head_dim / 4 - rotary, in_registers }
    }

    fn sizes(&self, positions: bool) -> [(&'static str, usize); 9] {
        let registers = usize::from(self.in_registers);
        [
            ("ROPE_STRIDE", if positions { params::ROPE_STRIDE } else { 0 }),
            ("PHI_NEAR", if positions { params::PHI_NEAR } else { 0 }),
            ("PHI_WINDOWS", if positions { params::PHI_WINDOWS } else { 0 }),
            ("ROTARY_QUADS", self.rotary),
            ("HALF_QUADS", if self.parts == 2 { self.rotary / 2 } else { 0 }),
            ("REST_QUADS", if self.rotary > 0 { self.rest } else { 0 }),
            ("TURN_QUADS", registers * self.rotary / self.parts),
            ("TURN_KEYS", registers * self.keys / self.groups),
            ("TURN_PARTS", registers * self.parts),
        ]
    }

    fn conditions(&self, variant: &Variant) -> Vec<(&'static str, usize)> {
        let PositionsVariant { rope, bias, factor } = variant.positions;
        let staged = matches!(variant.kernel, Kernel::Tiled(tile) if tile.is_staged());
        let capped = bias == BiasVariant::CappedHarmonic;
        let harmonic = capped || bias == BiasVariant::Harmonic;
        [
            ("STAGED", staged),
            ("POSITIONS", variant.positions.any()),
            ("ROPE", rope.is_some()),
            ("ROPE_HALF", self.parts == 2),
            ("PARTIAL", rope.is_some() && self.rest > 0),
            ("TURN", self.in_registers),
            ("PHI_NONE", bias == BiasVariant::None),
            ("PHI_LINEAR", bias == BiasVariant::Linear),
            ("PHI_LOG", bias == BiasVariant::Log),
            ("PHI_HARMONIC", harmonic),
            ("PHI_CAPPED", capped),
            ("BIASED", bias != BiasVariant::None),
            ("FACTOR", factor),
            ("SCORED", factor || bias != BiasVariant::None),
        ]
        .into_iter()
        .map(|(name, on)| (name, usize::from(on)))
        // Loads of φ that serve four keys each, where a step has as many.
        .chain([("WINDOWS", if harmonic { self.keys / 4 } else { 0 })])
        .collect()
    }
}

/// The text of the kernel that rotates in place.
pub(crate) fn rotate(program: &Rotate) -> String {
    let quads = program.rotary_dim / 4;
    let values = [
        ("INVOCATIONS", Rotate::INVOCATIONS),
        ("HEADS_EACH", Rotate::HEADS_EACH),
        ("TURNS", program.turns()),
        ("ROPE_STRIDE", params::ROPE_STRIDE),
        ("ROTARY_QUADS", quads),
        ("HALF_QUADS", quads / 2),
    ];
    let half = usize::from(program.pairing == Pairing::Half);
    let numbers = Numbers::from([("ROPE", 1), ("ROPE_HALF", half)]);
    let [rope, kernel] =
        [ROPE_PIECE, include_str!("../../shaders/rotate.wgsl")].map(|piece| expand(piece, &numbers));
    let pieces = [load_piece(program.storage), store_piece(program.storage), &rope, &kernel];
    plain(&program.label(), &values.map(|(name, value)| (name, value as u32)), &pieces)
}

/// The text of a kernel without written-out loops: constants, then pieces.
pub(crate) fn plain(label: &str, values: &[(&str, u32)], pieces: &[&str]) -> String {
    let mut wgsl = header(label);
    constants(&mut wgsl, values);
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        wgsl.push('\n');
        wgsl.push_str(piece);
    }
    wgsl
}

/// The label, and the numbers that every kernel may need.
fn header(label: &str) -> String {
    let mut wgsl = format!("// {label}\n");
    let bits = [
        ("INFINITY_BITS", f32::INFINITY),
        ("NEGATIVE_INFINITY_BITS", f32::NEG_INFINITY),
        ("NAN_BITS", f32::from_bits(0x7fc0_0000)),
    ];
    constants(&mut wgsl, &bits.map(|(name, value)| (name, value.to_bits())));
    wgsl.push_str("// The start of a running maximum: finite, so that differences with it are never NaN, and below every score.\n");
    wgsl.push_str("const LOWEST: f32 = -0x1.fffffep+127;\n");
    let ln_2 = std::f32::consts::LN_2;
    for (name, value) in [("LN_2", ln_2), ("LN_4", 2.0 * ln_2), ("EULER_GAMMA", 0.577_215_7)] {
        let _ = writeln!(wgsl, "const {name}: f32 = {value:?};");
    }
    wgsl
}

fn constants(wgsl: &mut String, values: &[(&str, u32)]) {
    for (name, value) in values {
        // Writing to a String can't fail.
        let _ = writeln!(wgsl, "const {name}: u32 = {value}u;");
    }
}

fn load_piece(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => include_str!("../../shaders/shared/load_f32.wgsl"),
        DType::F16 => include_str!("../../shaders/shared/load_f16.wgsl"),
        DType::Bf16 => include_str!("../../shaders/shared/load_bf16.wgsl"),
    }
}

pub(crate) fn store_piece(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => include_str!("../../shaders/shared/store_f32.wgsl"),
        DType::F16 => include_str!("../../shaders/shared/store_f16.wgsl"),
        DType::Bf16 => include_str!("../../shaders/shared/store_bf16.wgsl"),
    }
}

/// One kernel variant as text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShaderSource {
    /// Unique, fit for a file name.
    pub name: String,
    /// The compute entry point.
    pub entry_point: &'static str,
    /// The WGSL. It needs no WebGPU feature beyond the core but what follows.
    pub wgsl: String,
    /// Whether it needs subgroups, and in browsers' compilers `enable subgroups;` before it.
    pub subgroups: bool,
    /// Whether it needs f16 arithmetic; it says `enable f16;` itself.
    pub f16: bool,
    /// Whether it needs cooperative matrices, wgpu's own extension, which it enables itself: browsers' compilers don't know it.
    pub cooperative: bool,
}

/// A Rust struct that a shader reads: name, (field, byte offset) pairs, size in bytes.
pub type HostLayout = (&'static str, Vec<(&'static str, u32)>, u32);

/// The layouts, on the Rust side, of every struct that the shaders share with it.
pub fn host_layouts() -> Vec<HostLayout> {
    params::layouts()
}

fn source(program: &dyn Program) -> ShaderSource {
    let (name, entry_point, wgsl) = (program.label(), program.entry_point(), program.source());
    let cooperative = wgsl.contains(ENABLE_MATRICES);
    let subgroups = cooperative || wgsl.contains("quadSwapX") || wgsl.contains("subgroupBroadcastFirst");
    let f16 = wgsl.starts_with(ENABLE_F16);
    ShaderSource { name, entry_point, wgsl, subgroups, f16, cooperative }
}

/// Every kernel and tile shape that a plan chooses by itself, with every storage type, at head dimensions that models use (any multiple of 4 up to 256 is
/// rendered on demand).
pub fn sources() -> Vec<ShaderSource> {
    const DIMS: [(usize, usize); 12] = [
        (4, 4),
        (32, 32),
        (40, 40),
        (64, 64),
        (72, 72),
        (80, 80),
        (96, 96),
        (112, 112),
        (128, 128),
        (192, 128),
        (192, 192),
        (256, 256),
    ];
    let mut sources = Vec::new();
    let mut add = |program: &dyn Program| sources.push(source(program));
    let none = PositionsVariant::default();
    for storage in DType::ALL {
        for (head_dim, value_dim) in DIMS {
            for output in DType::ALL {
                let kernel = Kernel::Naive;
                add(&Variant { kernel, storage, output, head_dim, value_dim, positions: none, cache: None });
            }
            // The output's type is a store function of its own, seen in every combination above; written-out kernels are long.
            for software in [true, false] {
                let kernel = Kernel::Tiled(Tile::choose(software, [head_dim, value_dim], false, false));
                add(&Variant {
                    kernel,
                    storage,
                    output: storage,
                    head_dim,
                    value_dim,
                    positions: none,
                    cache: None,
                });
            }
        }
    }
    // Keys and values in blocks, and rows that lanes share: dimensions with large powers of two in them, and without.
    let linear = PositionsVariant { bias: BiasVariant::Linear, ..none };
    for (dim, positions) in
        [(64, none), (80, none), (128, none), (192, none), (256, none), (64, linear), (128, linear)]
    {
        for (storage, halves) in [(DType::F32, false), (DType::F16, false), (DType::F16, true)] {
            let tile = Tile::choose(false, [dim; 2], false, true).with_half_products(halves);
            let (kernel, output) = (Kernel::Tiled(tile), storage);
            let variant =
                Variant { kernel, storage, output, head_dim: dim, value_dim: dim, positions, cache: None };
            add(&Blocks(variant));
            if tile.parts() > 1 {
                add(&variant);
            }
        }
    }
    for dim in [128, 256] {
        let kernel = Kernel::Tiled(Tile::choose(false, [dim; 2], true, true));
        let (storage, output) = (DType::F32, DType::F32);
        let rope = PositionsVariant { rope: Some((Pairing::Half, dim)), ..none };
        let cache = CacheVariant { widths: [0; 2], group: 32, keys_turn: false };
        let variant = Variant {
            kernel,
            storage,
            output,
            head_dim: dim,
            value_dim: dim,
            positions: none,
            cache: Some(cache),
        };
        add(&variant);
        add(&Variant { positions: rope, cache: None, ..variant });
    }
    // Products in f16, of direct and of staged tiles, also where keys turn.
    let half_of_64 =
        PositionsVariant { rope: Some((Pairing::Half, 64)), bias: BiasVariant::Harmonic, factor: false };
    for (dim, positions) in [(64, none), (80, none), (128, none), (256, none), (64, half_of_64)] {
        let tile = Tile::choose(false, [dim; 2], positions.any(), false).with_half_products(true);
        let staged = Tile::choose(true, [dim; 2], positions.any(), false).with_half_products(true);
        for tile in [tile, staged] {
            let (kernel, storage, output) = (Kernel::Tiled(tile), DType::F16, DType::F16);
            add(&Variant { kernel, storage, output, head_dim: dim, value_dim: dim, positions, cache: None });
        }
    }
    // Positions: each pairing, whole and partial, each bias, at dimensions whose keys turn in registers (64, 128) and not (80).
    for (head_dim, rope, bias, factor) in [
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
        let tile = |software| Kernel::Tiled(Tile::choose(software, [head_dim; 2], rope.is_some(), false));
        for kernel in [Kernel::Naive, tile(true), tile(false)] {
            let (storage, output, value_dim) = (DType::F32, DType::F32, head_dim);
            add(&Variant { kernel, storage, output, head_dim, value_dim, positions, cache: None });
        }
    }
    // The split kernel: every row set, both ways to add up, with and without positions, and over caches.
    for storage in DType::ALL {
        for (head_dim, value_dim) in [(64, 64), (80, 80), (128, 128), (192, 128), (256, 256)] {
            for (row_sets, quads) in [(1, false), (1, true), (2, false), (4, true), (8, false)] {
                let kernel = Kernel::Decode(Decode::new(row_sets, quads).unwrap_or(Decode::ONE));
                add(&Variant {
                    kernel,
                    storage,
                    output: storage,
                    head_dim,
                    value_dim,
                    positions: none,
                    cache: None,
                });
            }
        }
    }
    let rope = |pairing, dim| PositionsVariant { rope: Some((pairing, dim)), ..none };
    let harmonic = PositionsVariant { bias: BiasVariant::Harmonic, ..rope(Pairing::Half, 64) };
    let partial =
        PositionsVariant { bias: BiasVariant::Linear, factor: true, ..rope(Pairing::Interleaved, 32) };
    let [presets, narrow] =
        [[1 << 8 | 1 << 4, 1 << 8 | 1 << 4 | 1 << 2], [1 << 8 | 1 << 3 | 1 << 2, 1 << 4 | 1 << 3]];
    for (dim, group, widths, positions, keys_turn) in [
        (64, 32, presets, none, false),
        (64, 64, [0, 0], none, false),
        (64, 32, narrow, harmonic, false),
        (64, 32, presets, partial, true),
        (80, 32, narrow, none, false),
        (80, 32, narrow, partial, true),
        (128, 32, presets, none, false),
        (256, 64, presets, none, false),
    ] {
        let cache = Some(CacheVariant { widths, group, keys_turn });
        let (storage, output) = (DType::F32, DType::F32);
        let without_quads = Decode::new(2, false).unwrap_or(Decode::ONE);
        let tiled = Kernel::Tiled(Tile::choose(true, [dim; 2], true, false));
        for kernel in [Kernel::Decode(Decode::ONE), Kernel::Decode(without_quads), tiled] {
            add(&Variant { kernel, storage, output, head_dim: dim, value_dim: dim, positions, cache });
        }
    }
    // On matrix units and without: both edges, rows padded and not; with every output, whole fragments and not, with and without positions.
    let half = rope(Pairing::Half, 128);
    let dims = [
        (DType::F16, 64, 64, none),
        (DType::F16, 128, 128, half),
        (DType::F16, 128, 128, none),
        (DType::F32, 64, 64, harmonic),
        (DType::F32, 64, 64, partial),
        (DType::Bf16, 80, 80, none),
        (DType::F32, 20, 36, none),
    ];
    for emulated in [false, true] {
        for (edge, padded, cases) in [(16, true, 7), (16, false, 2), (8, true, 2), (8, false, 2)] {
            let Ok(matrix) = Matrix::new(edge, padded, emulated) else { continue };
            for &(output, head_dim, value_dim, positions) in &dims[..cases] {
                let (kernel, storage) = (Kernel::Matrix(matrix), DType::F16);
                add(&Variant { kernel, storage, output, head_dim, value_dim, positions, cache: None });
            }
        }
    }
    for positions in [harmonic, partial] {
        let kernel = Kernel::Decode(Decode::ONE);
        let (storage, output) = (DType::F32, DType::F32);
        add(&Variant { kernel, storage, output, head_dim: 64, value_dim: 64, positions, cache: None });
    }
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
    // An odd number of quads, as partial rotation may leave.
    add(&Rotate { storage: DType::F32, pairing: Pairing::Interleaved, rotary_dim: 20 });
    for rule in [GpuRule::Systematic, GpuRule::Bernoulli] {
        add(&Draw::Count(rule));
        add(&Draw::Fill(rule));
    }
    add(&Draw::Scan);
    for dtype in DType::ALL {
        add(&CacheMove::Append(dtype));
        add(&CacheMove::Quantize(dtype));
    }
    add(&CacheMove::StepDown);
    sources
}

/// A kernel whose machine code is worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its text.
    pub source: ShaderSource,
    /// Whether a plan chooses it on some device that isn't the CPU.
    pub chosen: bool,
    /// Keys that one pass of its innermost loop over keys takes; 0 where it has no such loop.
    pub keys: usize,
    /// How often the inner loops of such a pass turn, where they aren't written out.
    pub turns: usize,
    /// Multiply-adds that attention takes of each invocation for each key: those of the two products.
    pub multiply_adds: usize,
    /// Whether keys and values pass through workgroup memory.
    pub staged: bool,
    /// The head dimension, or 0.
    pub head_dim: usize,
}

/// Kernels to count instructions of (`scripts/isa`): what plans choose on GPUs, and other tile shapes that compute the same, at some head dimensions.
pub fn candidates() -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut attention = |kernel: Kernel, storage, head_dim, positions: PositionsVariant, cache, chosen| {
        let variant =
            Variant { kernel, storage, output: storage, head_dim, value_dim: head_dim, positions, cache };
        let (keys, staged) = match kernel {
            Kernel::Tiled(tile) => (tile.keys(), tile.is_staged()),
            Kernel::Decode(_) if cache.is_some() => (CacheVariant::KEYS, false),
            Kernel::Naive | Kernel::Decode(_) => (1, false),
            Kernel::Matrix(_) => (Matrix::KEYS, true),
        };
        let turns = if matches!(kernel, Kernel::Decode(_)) { keys } else { 1 };
        let multiply_adds = match kernel {
            Kernel::Tiled(tile) => tile.rows_each() * 2 * head_dim / tile.parts(),
            Kernel::Decode(decode) => decode.row_sets() * 2 * head_dim / 4,
            Kernel::Naive => 2 * head_dim,
            Kernel::Matrix(_) => 2 * head_dim / Matrix::LANES_EACH,
        };
        // What tensors of their own get; others get the variant itself.
        let source = match variant.block_quads() {
            Some(_) => source(&Blocks(variant)),
            None => source(&variant),
        };
        candidates.push(Candidate { source, chosen, keys, turns, multiply_adds, staged, head_dim });
    };
    let none = PositionsVariant::default();
    let mut tiles = Vec::new();
    for keys in [1, 2, 4] {
        tiles.extend(Tile::new(1, keys, false));
    }
    for rows_each in [1, 2, 4] {
        for keys in [2, 4, 8] {
            tiles.extend(Tile::new(rows_each, keys, true));
        }
    }
    for parts in [2, 4] {
        for staged in [false, true] {
            tiles.extend(Tile::new(1, 4, staged).and_then(|tile| tile.with_parts(parts)));
        }
    }
    let of_gpu = |dim, staged| Tile::choose(false, [dim; 2], staged, true);
    for storage in [DType::F32, DType::F16] {
        for dim in [64, 80, 96, 128, 256] {
            for &tile in &tiles {
                attention(Kernel::Tiled(tile), storage, dim, none, None, tile == of_gpu(dim, false));
            }
            if storage == DType::F16 {
                let tile = of_gpu(dim, false).with_half_products(true);
                attention(Kernel::Tiled(tile), storage, dim, none, None, true);
            }
        }
        attention(Kernel::Naive, storage, 64, none, None, false);
    }
    for (dim, padded) in [(64, true), (128, false), (128, true)] {
        if let Ok(matrix) = Matrix::new(16, padded, false) {
            attention(Kernel::Matrix(matrix), DType::F16, dim, none, None, true);
        }
    }
    for dim in [64, 128] {
        let positions =
            PositionsVariant { rope: Some((Pairing::Half, dim)), bias: BiasVariant::Harmonic, factor: false };
        for &tile in tiles.iter().filter(|tile| tile.is_staged()) {
            attention(Kernel::Tiled(tile), DType::F32, dim, positions, None, tile == of_gpu(dim, true));
        }
        let cache = CacheVariant { widths: [1 << 8 | 1 << 4 | 1 << 2; 2], group: 32, keys_turn: false };
        for cache in [None, Some(cache)] {
            for row_sets in [1, 2, 4, 8] {
                for quads in [true, false] {
                    if let Ok(decode) = Decode::new(row_sets, quads) {
                        let chosen = quads && row_sets * dim <= Decode::HELD;
                        attention(Kernel::Decode(decode), DType::F32, dim, none, cache, chosen);
                    }
                }
            }
        }
        attention(Kernel::Tiled(of_gpu(dim, true)), DType::F32, dim, none, Some(cache), true);
    }
    let others: [&dyn Program; 6] = [
        &MergeSplits { output: DType::F32, value_dim: 128 },
        &Merge { output: DType::F32, spread: false },
        &CacheMove::Append(DType::F32),
        &CacheMove::Quantize(DType::F32),
        &CacheMove::StepDown,
        &Rotate { storage: DType::F32, pairing: Pairing::Half, rotary_dim: 64 },
    ];
    for program in others {
        let source = source(program);
        candidates.push(Candidate {
            source,
            chosen: true,
            keys: 0,
            turns: 1,
            multiply_adds: 0,
            staged: false,
            head_dim: 0,
        });
    }
    candidates
}
