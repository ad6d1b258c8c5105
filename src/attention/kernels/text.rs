//! The text of the kernels that compute attention: a variant is a rendered header, then shared
//! pieces, then the kernel's own file.

use std::fmt::Write;

use super::params;
use super::shapes::{Decode, Kernel, Matrix, TILE_ROWS};
use super::variant::{BiasVariant, Blocks, PositionsVariant, Variant};
use crate::cache::gpu::params::CACHE_RUNGS;
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::quantize::WIDTHS;
use crate::position::Pairing;
use crate::runtime::template::{Numbers, expand};
use crate::runtime::text::{
    ENABLE_F16, ENABLE_MATRICES, LINE_PIECE, constants, header, load_piece, store_piece,
};

pub(super) const ROPE_PIECE: &str = include_str!("../../../shaders/attention/rope.wgsl");
pub(super) const ENDING_PIECE: &str = include_str!("../../../shaders/attention/ending.wgsl");

/// The text of an attention kernel, which takes keys and values in blocks of this many quads, or
/// quad by quad (0).
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
        ("CACHE_RUNGS", cache.map_or(0, |_| CACHE_RUNGS)),
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
    wgsl.push_str(&header(&if block_quads > 0 { Blocks(*variant).name() } else { variant.name() }));
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
        Kernel::Naive => include_str!("../../../shaders/attention/attention_naive.wgsl"),
        Kernel::Tiled(_) => include_str!("../../../shaders/attention/attention_tiled.wgsl"),
        Kernel::Matrix(_) => include_str!("../../../shaders/attention/attention_matrix.wgsl"),
        Kernel::Decode(_) => {
            // Written out, a step of four tokens is faster; but text that is too long takes drivers
            // many seconds.
            let written_out = row_sets * (head_dim.max(value_dim)) <= 128;
            decode = decode_text(cache, written_out);
            decode.as_str()
        }
    };
    let tensors = match kernel {
        Kernel::Decode(_) => "",
        _ => include_str!("../../../shaders/attention/tensors.wgsl"),
    };
    let numbers_piece = match (kernel, form.halves) {
        (Kernel::Tiled(_), false) => include_str!("../../../shaders/attention/numbers_f32.wgsl"),
        (Kernel::Tiled(_), true) => include_str!("../../../shaders/attention/numbers_f16.wgsl"),
        _ => "",
    };
    let pieces = [
        LINE_PIECE,
        include_str!("../../../shaders/attention/params.wgsl"),
        if form.halves { "" } else { load_piece(storage) },
        numbers_piece,
        store_piece(output),
        tensors,
        if cache.is_some() { include_str!("../../../shaders/attention/arena.wgsl") } else { "" },
        if cache.is_some() { include_str!("../../../shaders/cache/cache.wgsl") } else { "" },
        if cache.is_some() { include_str!("../../../shaders/attention/expand.wgsl") } else { "" },
        include_str!("../../../shaders/attention/work.wgsl"),
        include_str!("../../../shaders/attention/walk.wgsl"),
        include_str!("../../../shaders/attention/scores.wgsl"),
        // Rows of the split kernel end in the merge of their shares.
        if matches!(kernel, Kernel::Decode(_)) { "" } else { ENDING_PIECE },
        if positions.any() { ROPE_PIECE } else { "" },
        if positions.any() { include_str!("../../../shaders/attention/positions.wgsl") } else { "" },
        match matrix {
            Some(matrix) if matrix.is_emulated() => {
                include_str!("../../../shaders/attention/fragments_emulated.wgsl")
            }
            Some(_) => include_str!("../../../shaders/attention/fragments_cooperative.wgsl"),
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
    /// Whether products are summed by channel modulo 4 first: no add but those of multiply-adds,
    /// for four times the registers.
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

/// The sizes of the kernel on matrix units: what a lane has of a step and of a chunk, and where
/// everything lies in workgroup memory.
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
    let text = include_str!("../../../shaders/attention/attention_decode.wgsl");
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
        for bits in WIDTHS.into_iter().filter(|bits| widths >> bits & 1 == 1) {
            let _ = writeln!(text, "                    }} else if run.{side}.bits == {bits}u {{");
            text.push_str(&body(bits));
        }
        text.push_str("                    }\n");
        text
    };
    let keys = bodies("keys", widths[0], include_str!("../../../shaders/attention/decode_keys.wgsl"));
    let values = bodies("values", widths[1], include_str!("../../../shaders/attention/decode_values.wgsl"));
    text.replace("//KEYS\n", &keys)
        .replace("//VALUES\n", &values)
        .replace("GROUP_QUADS", &(group / 4).to_string())
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
    /// Whether every lane has one quad to turn, so that the rotations of a step stay in its
    /// registers.
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
