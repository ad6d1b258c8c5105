//! The kernels that compute attention, and their shapes.

use crate::error::{Error, Result, ensure};
use crate::runtime::program::INVOCATIONS;

/// Query rows of a tile: what one workgroup computes, in every kernel.
pub(crate) const TILE_ROWS: usize = INVOCATIONS as usize;

/// A kernel that computes attention. All compute the same function.
///
/// A plan chooses by the adapter's kind and the larger of the two head dimensions (or takes what
/// [`PlanOptions::with_kernel`](crate::PlanOptions::with_kernel) says):
///
/// | adapter | dim ≤ 96 | ≤ 128 | larger |
/// | --- | --- | --- | --- |
/// | CPU (lavapipe, …) | 4 rows, 4 keys, staged | 2 rows, 4 keys, staged | 1 row, 4 keys, staged |
/// | others | 1 row, 4 keys, direct | the same, shared by 2 lanes | the same, shared by 2 or 4 lanes |
/// | others, without subgroups of at most 64 | 1 row, 4 keys, direct | 1 row, 2 keys, direct | 1 row, 1 key, direct |
///
/// With at most 8 queries a sequence it takes the decode kernel instead ([`Decode`]): its rows are
/// too few to fill a tile.
///
/// With more, in f16 storage and without a cache, it takes the kernel on matrix units ([`Matrix`]:
/// 16 × 16 fragments where the device lists them, else 8 × 8, rows padded where workgroup memory
/// allows), but only where
/// [`ContextOptions::cooperative_matrices`](crate::ContextOptions::cooperative_matrices) asked for
/// it, never on a CPU adapter or in a browser, and only once it has agreed with the portable kernel
/// on that device, in a few small problems that the first plan for its dimensions runs.
/// [`Plan::kernel_reason`](crate::Plan::kernel_reason) says where it didn't.
///
/// Direct tiles whose rows lanes share ([`Tile::with_slices`]) take their lanes' subgroups for
/// granted, which WebGPU doesn't promise: they come before the same trial, and behind them the
/// tiles of the last line.
///
/// On lavapipe that is what was fastest within 3 s of compiling (`docs/MEASURED.md` has times). On
/// other devices a lane's part of q and o fits the registers, and loads at uniform addresses go
/// through a scalar or broadcast path: chosen from the machine code that `scripts/isa` counts for
/// AMD's GPUs, not measured. Where workgroup memory is too small for staging, the tile is read
/// directly. With a rotation ([`Rope`](crate::Rope)) tiles are staged on every device and take at
/// least two keys at a time, since keys turn on their way through workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
#[non_exhaustive]
pub enum Kernel {
    /// `attention_naive`: one query row per invocation, plain loops. The documentation of the
    /// others.
    Naive,
    /// `attention_tiled`: several query rows per invocation in registers, several keys at a time.
    Tiled(Tile),
    /// `attention_decode`: a few queries, the keys split over workgroups, and `merge_splits` after
    /// it.
    Decode(Decode),
    /// `attention_matrix`: many queries in f16 storage, on the device's matrix units.
    Matrix(Matrix),
}

/// The shape of the kernel on matrix units: cooperative matrices with f16 operands and f32 sums.
///
/// It takes tiles of 64 rows by 32 keys at a time. Queries, keys and values must be stored in f16;
/// they are multiplied as they are, or, where a [`Rope`](crate::Rope) turns them, turned in f32 and
/// rounded to f16. Weights are rounded to f16 too, so that outputs may deviate by `2⁻¹¹ · max |v|`
/// beyond what f32 arithmetic does
/// ([`Tolerances::of_kernel_output`](crate::verify::Tolerances::of_kernel_output)); everything else
/// is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    edge: u8,
    padded: bool,
    emulated: bool,
}

impl Matrix {
    /// Keys of a step.
    pub(crate) const KEYS: usize = 32;
    /// Columns of the values at a time.
    pub(crate) const CHUNK: usize = 32;
    /// Lanes that share a row.
    pub(crate) const LANES_EACH: usize = 2;

    /// Fragments are `edge` × `edge` (8 or 16). With `padded` rows in workgroup memory lie 16 bytes
    /// further apart, against bank conflicts; without, it needs less: 32 KiB at D = 128.
    ///
    /// `emulated` computes the same without matrix units, in core WGSL: slowly, to test the kernel
    /// on any device.
    ///
    /// # Errors
    /// Invalid argument for other numbers.
    pub fn new(edge: usize, padded: bool, emulated: bool) -> Result<Self> {
        ensure!(matches!(edge, 8 | 16), "edge", "expected 8 or 16, got {edge}");
        Ok(Self { edge: edge as u8, padded, emulated })
    }

    /// Rows and columns of a fragment.
    pub fn edge(&self) -> usize {
        self.edge.into()
    }

    /// Whether rows in workgroup memory lie apart.
    pub fn is_padded(&self) -> bool {
        self.padded
    }

    /// Whether it runs without matrix units.
    pub fn is_emulated(&self) -> bool {
        self.emulated
    }

    /// Where everything lies in workgroup memory.
    pub(crate) fn layout(&self, head_dim: usize) -> MatrixLayout {
        // In units of their elements; every row begins at a multiple of 16 bytes, as loads of
        // fragments require.
        let (half_pad, sum_pad) = if self.padded { (8, 4) } else { (0, 0) };
        let head_padded = head_dim.next_multiple_of(self.edge());
        let head_stride = head_padded + half_pad;
        let (weight_stride, value_stride) = (Self::KEYS + half_pad, Self::CHUNK + half_pad);
        let sum_stride = Self::KEYS.max(Self::CHUNK) + sum_pad;
        let keys_at = TILE_ROWS * head_stride;
        // Weights and values lie where the keys were.
        let values_at = keys_at + TILE_ROWS * weight_stride;
        let operands = (keys_at + Self::KEYS * head_stride).max(values_at + Self::KEYS * value_stride);
        MatrixLayout {
            head_padded,
            head_stride,
            weight_stride,
            value_stride,
            sum_stride,
            keys_at,
            values_at,
            operands,
            sums: TILE_ROWS * sum_stride,
        }
    }
}

/// Rows and regions of the matrix kernel's workgroup memory, in elements of f16 (or of f32, for
/// `sum…`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixLayout {
    pub(crate) head_padded: usize,
    pub(crate) head_stride: usize,
    pub(crate) weight_stride: usize,
    pub(crate) value_stride: usize,
    pub(crate) sum_stride: usize,
    pub(crate) keys_at: usize,
    pub(crate) values_at: usize,
    pub(crate) operands: usize,
    pub(crate) sums: usize,
}

impl MatrixLayout {
    /// Bytes of both, and of the word with which padded ones say whether a value isn't finite.
    fn bytes(&self, padded: bool) -> usize {
        2 * self.operands + size_of::<f32>() * self.sums + if padded { size_of::<u32>() } else { 0 }
    }
}

/// The shape of the decode kernel: every lane computes one component of every quad, so four lanes
/// hold a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decode {
    row_sets: u8,
    quads: bool,
}

impl Decode {
    /// The smallest, with quad operations.
    pub(crate) const ONE: Self = Self { row_sets: 1, quads: true };

    /// Lanes that share a row: one for each component of a quad.
    pub(crate) const LANES_EACH: usize = 4;

    /// Teams of so many lanes in a workgroup.
    pub(crate) const TEAMS: usize = 4;

    /// Rows of a set: one for each team, or, over rotated codes, one that all teams share, each
    /// with tokens of its own.
    pub(crate) const fn set_rows(rotated_codes: bool) -> usize {
        if rotated_codes { 1 } else { Self::TEAMS }
    }

    /// Quads of a state, which is the result of one split for one row: o, then one with m and l.
    pub(crate) const fn state_quads(value_dim: usize) -> usize {
        value_dim / 4 + 1
    }

    /// The most row sets × channels of q, and of o, for which a GPU has registers.
    pub(crate) const HELD: usize = 256;

    /// The most queries of a sequence for which a plan chooses this kernel.
    pub(crate) const QUERIES: usize = 8;

    /// A workgroup of 16 lanes holds `4 · row_sets` rows (1, 2, 4 or 8): query heads that share a
    /// key/value head, times queries. Keys and values are read once for all of them. Over a cache
    /// of rotated codes, which cost more to expand than to multiply, it holds `row_sets` rows, and
    /// its lanes take four tokens at a time.
    ///
    /// With `quads` the four lanes of a row add up by quad operations, which need a device with
    /// subgroups; without, through workgroup memory.
    ///
    /// # Errors
    /// Invalid argument for other numbers.
    pub fn new(row_sets: usize, quads: bool) -> Result<Self> {
        ensure!(matches!(row_sets, 1 | 2 | 4 | 8), "row_sets", "expected 1, 2, 4 or 8, got {row_sets}");
        Ok(Self { row_sets: row_sets as u8, quads })
    }

    /// For a number of rows that share keys. On GPUs no more than a lane's registers hold (128 for
    /// q and o, as the machine code of `scripts/isa` shows; more spill), though then keys are read
    /// more than once.
    pub(super) fn choose(rows: usize, quads: bool, software: bool, dim: usize, rotated_codes: bool) -> Self {
        let fits = |held: usize| 1 << (held / dim).clamp(1, 8).ilog2();
        let most = match (software, rotated_codes) {
            // Registers are memory there, but compilers take long over texts of so many of them.
            (true, false) => fits(8 * Self::HELD),
            (true, true) => 4,
            (false, _) => fits(Self::HELD),
        };
        let sets = rows.div_ceil(Self::set_rows(rotated_codes)).next_power_of_two().min(most);
        Self { row_sets: sets as u8, quads }
    }

    /// Sets of four rows, or of one over rotated codes.
    pub fn row_sets(&self) -> usize {
        self.row_sets.into()
    }

    /// Rows of a workgroup.
    pub(crate) fn rows(&self, rotated_codes: bool) -> usize {
        Self::set_rows(rotated_codes) * self.row_sets()
    }

    /// Whether quad operations are used.
    pub fn uses_subgroup_quads(&self) -> bool {
        self.quads
    }
}

/// The shape of the tiled kernel's inner loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    rows_each: u8,
    keys: u8,
    staged: bool,
    f16_products: bool,
    slices: u8,
}

impl Tile {
    /// The largest subgroup with which rows can be shared: as many lanes as a part has, with one
    /// row each.
    pub(crate) const SHARED_SUBGROUP: u32 = 64;

    /// `rows_each` query rows per invocation (1, 2, 4 or 8; a workgroup has `64 / rows_each`
    /// invocations) and `keys` keys at a time (1, 2, 4 or 8).
    ///
    /// `staged` keys and values are first copied into workgroup memory; otherwise every invocation
    /// reads them from storage, at addresses that are uniform over the workgroup.
    ///
    /// # Errors
    /// Invalid argument for other numbers.
    pub fn new(rows_each: usize, keys: usize, staged: bool) -> Result<Self> {
        ensure!(matches!(rows_each, 1 | 2 | 4 | 8), "rows_each", "expected 1, 2, 4 or 8, got {rows_each}");
        ensure!(matches!(keys, 1 | 2 | 4 | 8), "keys", "expected 1, 2, 4 or 8, got {keys}");
        Ok(Self { rows_each: rows_each as u8, keys: keys as u8, staged, f16_products: false, slices: 1 })
    }

    /// Whether products are taken in f16, two at a time where hardware does that, and summed in f32
    /// after at most 8 of them. It needs storage in f16 and a device with f16 arithmetic.
    ///
    /// Scores (times the scale and ½·log₂e, before a soft-cap) and their parts must stay within
    /// ±65,504, else they are infinite; values within ±16,000 divided by the keys at a time; what
    /// rounding adds is in
    /// [`Tolerances::of_kernel_output`](crate::verify::Tolerances::of_kernel_output).
    pub fn with_f16_products(self, f16_products: bool) -> Self {
        Self { f16_products, ..self }
    }

    /// With a row's channels divided among this many lanes of different subgroups (1, 2 or 4), each
    /// of which has registers for its own only. It needs head and value dimensions that `4 ·
    /// slices` divides and, unless staged, a device with subgroups of at most `64 / rows_each`.
    ///
    /// # Errors
    /// Invalid argument for other numbers.
    pub fn with_slices(self, slices: usize) -> Result<Self> {
        ensure!(matches!(slices, 1 | 2 | 4), "slices", "expected 1, 2 or 4, got {slices}");
        Ok(Self { slices: slices as u8, ..self })
    }

    /// The tile shape for an adapter that is the CPU, or isn't, the head dimensions, whether tiles
    /// must be staged, and whether rows can be shared.
    pub(crate) fn choose(software: bool, dims: [usize; 2], staged: bool, shared: bool) -> Self {
        let dim = dims[0].max(dims[1]);
        let (rows_each, keys) = match (software, dim) {
            (true, ..=96) => (4, 4),
            (true, ..=128) => (2, 4),
            (true, ..=256) => (1, 4),
            // Four such keys and values don't fit into WebGPU's 16 KiB of workgroup memory.
            (true, _) => (1, 2),
            (false, ..=96) => (1, 4),
            (false, ..=256) if shared => (1, 4),
            (false, _) if shared => (1, 2),
            (false, ..=128) => (1, 2),
            (false, _) => (1, 1),
        };
        // The fewest that leave each lane at most 96 channels, or 144 of the longest rows.
        let most = if dim > 256 { 144 } else { 96 };
        let fits =
            |slices: &usize| dim / slices <= most && dims.iter().all(|dim| dim.is_multiple_of(4 * slices));
        let slices = if shared && !software { [1, 2, 4].into_iter().find(fits).unwrap_or(1) } else { 1 };
        let keys = if staged { keys.max(2) } else { keys };
        Self { rows_each, keys, staged: software || staged, f16_products: false, slices: slices as u8 }
    }

    /// The same with another number of keys at a time, which is one that [`Tile::new`] takes.
    pub(super) fn with_keys(self, keys: usize) -> Self {
        Self { keys: keys as u8, ..self }
    }

    /// What fits a device that the tile itself doesn't: one row a lane, and one key at a time in
    /// workgroup memory, where keys must pass through it; else without that memory.
    pub(super) fn smallest(self, staged: bool) -> Self {
        let keys = if staged { 1 } else { self.keys };
        Self { rows_each: 1, keys, staged: staged && self.staged, slices: 1, ..self }
    }

    /// Query rows per invocation.
    pub fn rows_each(&self) -> usize {
        self.rows_each.into()
    }

    /// Keys at a time.
    pub fn keys(&self) -> usize {
        self.keys.into()
    }

    /// Whether keys and values pass through workgroup memory.
    pub fn is_staged(&self) -> bool {
        self.staged
    }

    /// Lanes that share a row's channels.
    pub fn slices(&self) -> usize {
        self.slices.into()
    }

    /// Whether products are taken in f16.
    pub fn uses_f16_products(&self) -> bool {
        self.f16_products
    }

    /// Quads of channels whose products are summed before they are added to a score: the most, up
    /// to 8, that divide a head's.
    pub(crate) fn sum_quads(&self, head_dim: usize) -> usize {
        let quads = head_dim / 4 / self.slices();
        if !self.f16_products {
            return quads;
        }
        (1..=8).rev().find(|n| quads.is_multiple_of(*n)).unwrap_or(1)
    }
}

impl Kernel {
    /// The kernel's name, which is also its file's and its entry point's.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kernel::Naive => "attention_naive",
            Kernel::Tiled(_) => "attention_tiled",
            Kernel::Decode(_) => "attention_decode",
            Kernel::Matrix(_) => "attention_matrix",
        }
    }

    /// Bytes of workgroup memory.
    pub(crate) fn workgroup_bytes(&self, head_dim: usize, value_dim: usize) -> usize {
        match self {
            Kernel::Matrix(matrix) => matrix.layout(head_dim).bytes(matrix.padded),
            Kernel::Tiled(tile) => {
                let number = if tile.f16_products { 2 } else { 4 };
                let staged = if tile.staged { tile.keys() * (head_dim + value_dim) * number } else { 0 };
                let shares =
                    if tile.slices > 1 { 2 * tile.slices() * tile.keys() * TILE_ROWS * 4 } else { 0 };
                staged + shares
            }
            Kernel::Decode(decode) if !decode.quads => {
                self.invocations() * decode.row_sets() * 4 * size_of::<f32>()
            }
            _ => 0,
        }
    }

    /// Invocations of a workgroup.
    pub(crate) fn invocations(&self) -> usize {
        match self {
            Kernel::Naive => TILE_ROWS,
            Kernel::Tiled(tile) => TILE_ROWS / tile.rows_each() * tile.slices(),
            Kernel::Decode(_) => Decode::LANES_EACH * Decode::TEAMS,
            Kernel::Matrix(_) => TILE_ROWS * Matrix::LANES_EACH,
        }
    }
}

/// What the name of a tile with f16 products has more.
const F16_PRODUCTS: &str = "_f16products";

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Kernel::Naive => Ok(()),
            Kernel::Tiled(tile) => {
                let from = if tile.staged { "staged" } else { "direct" };
                let products = if tile.f16_products { F16_PRODUCTS } else { "" };
                write!(f, "_r{}_k{}_{from}{products}", tile.rows_each, tile.keys)?;
                if tile.slices > 1 { write!(f, "_p{}", tile.slices) } else { Ok(()) }
            }
            Kernel::Decode(decode) => {
                write!(f, "_s{}{}", decode.row_sets, if decode.quads { "_quads" } else { "" })
            }
            Kernel::Matrix(matrix) => {
                let padded = if matrix.padded { "_padded" } else { "" };
                write!(f, "_m{}{padded}{}", matrix.edge, if matrix.emulated { "_emulated" } else { "" })
            }
        }
    }
}

/// The text that `Display` writes: `attention_tiled_r4_k4_staged`. Tiles with f16 products were
/// called `_halves` before, and profiles may have kept that name.
impl std::str::FromStr for Kernel {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self> {
        let text = given.replacen("_halves", F16_PRODUCTS, 1);
        let text = text.as_str();
        let parsed = || {
            if text == Kernel::Naive.name() {
                return Some(Kernel::Naive);
            }
            let (name, rest) = text.split_at_checked("attention_tiled".len()).unwrap_or((text, ""));
            if name == "attention_tiled" {
                let mut parts = rest.strip_prefix("_r")?.split("_k");
                let (rows, rest) = (parts.next()?, parts.next()?);
                let (keys, from) = rest.split_once('_')?;
                let (from, parts) = match from.split_once("_p") {
                    Some((from, parts)) => (from, parts.parse().ok()?),
                    None => (from, 1),
                };
                let staged = from.starts_with("staged");
                let tile = Tile::new(rows.parse().ok()?, keys.parse().ok()?, staged).ok()?;
                let tile = tile.with_f16_products(from.ends_with(F16_PRODUCTS));
                return tile.with_slices(parts).ok().map(Kernel::Tiled);
            }
            if let Some(rest) = text.strip_prefix("attention_matrix_m") {
                let flag = |rest: &mut &str, suffix| match rest.strip_suffix(suffix) {
                    Some(shorter) => {
                        *rest = shorter;
                        true
                    }
                    None => false,
                };
                let mut rest = rest;
                let emulated = flag(&mut rest, "_emulated");
                let padded = flag(&mut rest, "_padded");
                return Matrix::new(rest.parse().ok()?, padded, emulated).ok().map(Kernel::Matrix);
            }
            let rest = text.strip_prefix("attention_decode_s")?;
            let (sets, quads) = rest.strip_suffix("_quads").map_or((rest, false), |sets| (sets, true));
            Decode::new(sets.parse().ok()?, quads).ok().map(Kernel::Decode)
        };
        // Only as it is written: no signs, no zeros in front, nothing behind.
        parsed().filter(|kernel| kernel.to_string() == text).ok_or_else(|| {
            Error::argument_error(
                "kernel",
                format!("expected a name like attention_tiled_r4_k4_staged, got {given:?}"),
            )
        })
    }
}

impl TryFrom<String> for Kernel {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Kernel> for String {
    fn from(kernel: Kernel) -> Self {
        kernel.to_string()
    }
}
