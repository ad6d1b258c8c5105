//! The text of the kernels that compute attention: what Rust knows of a variant.

use super::params;
use super::shapes::{Decode, Kernel, Matrix, TILE_ROWS};
use super::variant::{BiasVariant, PositionsVariant, Variant, Wide};
use crate::cache::gpu::params::CACHE_RUNGS;
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::quantize::WIDTHS;
use crate::cache::rotated::{self, Polynomial};
use crate::position::Pairing;
use crate::runtime::text::{self, Settings};

/// The text of an attention kernel, which takes keys and values in wide loads of this many quads,
/// or quad by quad (0).
pub(crate) fn attention(variant: &Variant, wide_quads: usize) -> String {
    let Variant { kernel, storage, output, head_dim, value_dim, positions, cache, masked, paged } = *variant;
    let (rows_each, keys) = match kernel {
        Kernel::Naive | Kernel::Decode(_) => (1, 1),
        Kernel::Tiled(tile) => (tile.rows_each(), tile.keys()),
        Kernel::Matrix(_) => (1, Matrix::KEYS),
    };
    let slices = match kernel {
        Kernel::Tiled(tile) => tile.slices(),
        _ => 1,
    };
    let (row_sets, quads) = match kernel {
        Kernel::Decode(decode) => (decode.row_sets(), decode.uses_subgroup_quads()),
        _ => (0, false),
    };
    let sum_quads = match kernel {
        Kernel::Tiled(tile) => tile.sum_quads(head_dim),
        _ => 0,
    };
    let rotated_codes = cache.is_some_and(|cache| cache.is_rotated());
    let mut settings = Settings::default();
    // The sizes: constants of the text, and bounds of its written-out loops.
    settings.optional_sizes(&[
        ("HEAD_QUADS", head_dim / 4),
        ("VALUE_QUADS", value_dim / 4),
        ("ROWS", TILE_ROWS),
        ("ROWS_EACH", rows_each),
        ("KEYS", keys),
        ("PARTIAL_QUADS", sum_quads),
        ("PARTIAL_SUMS", (head_dim / 4 / slices).checked_div(sum_quads).unwrap_or(0)),
        ("WIDE_QUADS", wide_quads),
        ("SLICES", slices),
        ("ROW_LANES", TILE_ROWS / rows_each),
        ("OWN_HEAD_QUADS", head_dim / 4 / slices),
        ("OWN_VALUE_QUADS", value_dim / 4 / slices),
        ("INVOCATIONS", kernel.invocations()),
        ("ROW_SETS", row_sets),
        ("ROWS_HELD", Decode::set_rows(rotated_codes) * row_sets),
    ]);
    let group = cache.map_or(0, |cache| cache.group);
    // Of the padded rows of a cache, and what of a value shares its extremes.
    let padded = |dim: usize| if cache.is_some() { dim.next_multiple_of(32) } else { 0 };
    let matrix = match kernel {
        Kernel::Matrix(matrix) => Some(matrix),
        _ => None,
    };
    let layout = matrix.map(|matrix| matrix.layout(head_dim));
    settings.optional_sizes(&[
        ("CACHE_RUNGS", cache.map_or(0, |_| CACHE_RUNGS)),
        // Tokens that are taken from a cache at once.
        ("CACHE_KEYS", cache.map_or(0, |_| CacheVariant::KEYS)),
        ("GROUP", group),
        ("HEAD_PADDED", layout.map_or(padded(head_dim), |layout| layout.head_padded)),
        ("HEAD_WORDS", padded(head_dim) / 32),
        ("VALUE_PADDED", padded(value_dim)),
        // Parts of a row of rotated codes, two of each 32 channels, that a lane of four has.
        ("HEAD_PARTS", if rotated_codes { padded(head_dim) / 16 } else { 0 }),
        ("HEAD_CHUNKS", if rotated_codes { padded(head_dim) / 32 } else { 0 }),
        ("VALUE_PARTS", if rotated_codes { padded(value_dim) / 16 } else { 0 }),
        ("VALUE_CHUNKS", if rotated_codes { padded(value_dim) / 32 } else { 0 }),
        ("QUAD", if rotated_codes { 4 } else { 0 }),
        ("HALVES", if rotated_codes { 2 } else { 0 }),
        ("VALUE_GROUPS", if group > 0 { value_dim.div_ceil(group) } else { 0 }),
    ]);
    flags(&mut settings);
    let form = Form::of(kernel);
    if let Some(above) = form.raise_above {
        settings.real("RAISE_ABOVE", above);
    }
    let rotation = KeyRotation::new(variant);
    settings.optional_sizes(&rotation.sizes(positions.any()));
    if let Kernel::Decode(_) = kernel {
        settings.sizes(&[
            ("LANES_EACH", Decode::LANES_EACH),
            ("SET_ROWS", Decode::set_rows(rotated_codes)),
            ("STATE_QUADS", Decode::state_quads(value_dim)),
        ]);
    }
    if let Some(matrix) = matrix {
        settings.sizes(&matrix_sizes(matrix, head_dim, value_dim));
        settings.conditions(&[
            ("EDGE_16", matrix.edge() == 16),
            ("PADDED", matrix.is_padded()),
            ("EMULATED", matrix.is_emulated()),
        ]);
    }
    let rotate_keys = positions.rope.is_some() && cache.is_none_or(|cache| cache.rotate_keys);
    settings.conditions(&[
        ("CACHED", cache.is_some()),
        ("MASKED", masked),
        ("PAGED", paged),
        ("ROTATED_CODES", rotated_codes),
        ("SUBGROUP_QUADS", quads),
        ("ROTATE_KEYS", rotate_keys),
        ("BY_CHANNEL", form.by_channel),
        ("LAZY", form.raise_above.is_some()),
        ("SUMMED_FIRST", form.summed_first),
        ("WIDE", wide_quads > 0),
        ("SHARED", slices > 1),
        // Written out, a step over a cache is faster; but text that is too long takes drivers many
        // seconds.
        ("WRITTEN_OUT", row_sets * head_dim.max(value_dim) <= 128),
    ]);
    settings.conditions(&rotation.conditions(variant));
    settings.conditions(&position_conditions(positions));
    settings.optional_sizes(&[("WINDOWS", rotation.windows(variant))]);
    settings.word("STORAGE", storage.name());
    settings.word("OUTPUT", output.name());
    settings.word("NUMBERS", if form.f16_products { "f16" } else { "f32" });
    if let Kernel::Tiled(tile) = kernel {
        // Where a lane takes keys and values from, and what walks over them.
        let source = match (tile.is_staged(), slices > 1, wide_quads > 0) {
            (true, false, _) => "tile",
            (true, true, _) => "shared_tile",
            (false, _, false) => "storage",
            (false, _, true) => "wide",
        };
        settings.word("SOURCE", source);
        settings.word("WALK", if cache.is_some() { "cache" } else { "keys" });
    }
    for (name, side) in [("KEY_WIDTHS", 0), ("VALUE_WIDTHS", 1)] {
        let widths = cache.map_or(0, |cache| cache.widths[side]);
        let widths = WIDTHS.into_iter().filter(|bits| widths >> bits & 1 == 1);
        settings.list(name, widths.map(|bits| bits as usize).collect());
    }
    levels(&mut settings, |bits| match kernel {
        // Each width has loops of its own.
        Kernel::Decode(_) => cache.is_some_and(|cache| (cache.widths[0] | cache.widths[1]) >> bits & 1 == 1),
        _ => rotated_codes,
    });
    if rotated_codes {
        for (name, dim) in [("HEAD_TURN", head_dim), ("VALUE_TURN", value_dim)] {
            settings.real(name, 1.0 / (rotated::block(dim) as f32).sqrt());
        }
    }
    let label = if wide_quads > 0 { Wide(*variant).name() } else { variant.name() };
    text::kernel(&label, "attention", kernel.name(), &settings)
}

/// The flags of a call.
pub(super) fn flags(settings: &mut Settings) {
    for (name, flag) in [
        ("FLAG_CAUSAL", params::FLAG_CAUSAL),
        ("FLAG_WINDOW", params::FLAG_WINDOW),
        ("FLAG_SOFT_CAP", params::FLAG_SOFT_CAP),
        ("FLAG_LSE", params::FLAG_LSE),
        ("FLAG_PAIRED", params::FLAG_PAIRED),
        ("FLAG_SINKS", params::FLAG_SINKS),
        ("NO_TABLE", params::NO_TABLE),
    ] {
        settings.constant(name, flag);
    }
}

/// What a text depends on of positions, whatever the kernel.
pub(super) fn position_conditions(positions: PositionsVariant) -> [(&'static str, bool); 11] {
    let PositionsVariant { rope, bias, factor } = positions;
    [
        ("POSITIONS", positions.any()),
        ("ROPE", rope.is_some()),
        ("ROPE_HALF", matches!(rope, Some((Pairing::Half, _)))),
        ("PHI_NONE", bias == BiasVariant::None),
        ("PHI_LINEAR", bias == BiasVariant::Linear),
        ("PHI_LOG", bias == BiasVariant::Log),
        ("PHI_HARMONIC", is_harmonic(bias)),
        ("PHI_CAPPED", bias == BiasVariant::CappedHarmonic),
        ("BIASED", bias != BiasVariant::None),
        ("FACTOR", factor),
        ("SCORED", factor || bias != BiasVariant::None),
    ]
}

/// The levels of rotated codes of these widths, as a unit times a polynomial.
fn levels(settings: &mut Settings, uses: impl Fn(u32) -> bool) {
    for (bits, name) in [(2, "LEVELS_2"), (3, "LEVELS_3"), (4, "LEVELS_4")] {
        settings.conditions(&[(name, uses(bits))]);
        if !uses(bits) {
            continue;
        }
        let Polynomial { unit, coefficients } = rotated::polynomial(bits);
        settings.real(&format!("LEVEL_UNIT_{bits}"), unit);
        for (power, &coefficient) in coefficients.iter().enumerate() {
            settings.real(&format!("LEVEL_{bits}_{power}"), coefficient);
        }
    }
}

/// How the tiled kernel's inner loop is written.
struct Form {
    f16_products: bool,
    /// Whether products are summed by channel modulo 4 first: no add but those of multiply-adds,
    /// for four times the registers.
    by_channel: bool,
    /// What a score must exceed the maximum by before the maximum follows: then o is rarely
    /// rescaled, and weights may be as large as 4 to this power.
    raise_above: Option<f32>,
    /// Whether the keys of a step are summed before they are added to o.
    summed_first: bool,
}

impl Form {
    fn of(kernel: Kernel) -> Self {
        let Kernel::Tiled(tile) = kernel else {
            return Self { f16_products: false, by_channel: false, raise_above: None, summed_first: false };
        };
        let f16_products = tile.uses_f16_products();
        let gpu = tile.rows_each() == 1;
        Self {
            f16_products,
            by_channel: f16_products || gpu,
            raise_above: if f16_products { Some(1.0) } else { gpu.then_some(4.0) },
            summed_first: f16_products || !gpu,
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
        ("OPERAND_NUMBERS", layout.operands),
        ("SUM_NUMBERS", layout.sums),
    ]
}

/// How the lanes of a workgroup share the rotation of staged keys.
struct KeyRotation {
    rotary: usize,
    /// Quads that are rotated together: one, or the two halves of a pair of quads.
    together: usize,
    /// Lanes that share the keys of a step.
    groups: usize,
    keys: usize,
    rest: usize,
    /// Whether every lane has one quad to rotate, so that the rotations of a step stay in its
    /// registers.
    in_registers: bool,
}

impl KeyRotation {
    fn new(variant: &Variant) -> Self {
        let (rotary, together) = match variant.positions.rope {
            Some((Pairing::Half, dim)) => (dim / 4, 2),
            Some((Pairing::Interleaved, dim)) => (dim / 4, 1),
            None => (0, 1),
        };
        let (keys, staged) = match variant.kernel {
            Kernel::Tiled(tile) => (tile.keys(), tile.is_staged()),
            Kernel::Naive | Kernel::Decode(_) | Kernel::Matrix(_) => (1, false),
        };
        // Twice as many lanes where each rotates two quads.
        let groups = if together == 2 && keys > 1 { 2 } else { 1 };
        let in_registers = staged
            && variant.cache.is_none()
            && rotary > 0
            && rotary / together * groups <= variant.kernel.invocations();
        Self { rotary, together, groups, keys, rest: variant.head_dim / 4 - rotary, in_registers }
    }

    fn sizes(&self, positions: bool) -> [(&'static str, usize); 9] {
        let registers = usize::from(self.in_registers);
        [
            ("ROPE_STRIDE", if positions { params::ROPE_STRIDE } else { 0 }),
            ("PHI_NEAR", if positions { params::PHI_NEAR } else { 0 }),
            ("PHI_WINDOWS", if positions { params::PHI_WINDOWS } else { 0 }),
            ("ROTARY_QUADS", self.rotary),
            ("HALF_QUADS", if self.together == 2 { self.rotary / 2 } else { 0 }),
            ("REST_QUADS", if self.rotary > 0 { self.rest } else { 0 }),
            ("ROTATE_QUADS", registers * self.rotary / self.together),
            ("ROTATE_EACH", registers * self.keys / self.groups),
            ("ROTATE_TOGETHER", registers * self.together),
        ]
    }

    fn conditions(&self, variant: &Variant) -> [(&'static str, bool); 3] {
        let staged = matches!(variant.kernel, Kernel::Tiled(tile) if tile.is_staged());
        [
            ("STAGED", staged),
            ("PARTIAL", variant.positions.rope.is_some() && self.rest > 0),
            ("ROTATE_IN_REGISTERS", self.in_registers),
        ]
    }

    /// Loads of φ that serve four keys each, where a step has as many.
    fn windows(&self, variant: &Variant) -> usize {
        if is_harmonic(variant.positions.bias) { self.keys / 4 } else { 0 }
    }
}

fn is_harmonic(bias: BiasVariant) -> bool {
    matches!(bias, BiasVariant::Harmonic | BiasVariant::CappedHarmonic)
}
