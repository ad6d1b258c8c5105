//! Which kernels compute attention, and which one a device gets for a task.

use super::context::Capabilities;
use super::registry::{CacheVariant, PositionsVariant};
use crate::error::{Error, Result, ensure};
use crate::layout::DType;

/// Query rows of a tile: what one workgroup computes, in every kernel.
pub(crate) const TILE_ROWS: usize = 64;

/// A kernel that computes attention. All compute the same function.
///
/// A plan chooses by the adapter's kind and the larger of the two head dimensions (or takes what
/// [`Attention::with_kernel`](crate::Attention::with_kernel) says):
///
/// | adapter | dim ≤ 96 | ≤ 128 | larger |
/// | --- | --- | --- | --- |
/// | CPU (lavapipe, …) | 4 rows, 4 keys, staged | 2 rows, 4 keys, staged | 1 row, 4 keys, staged |
/// | others | 1 row, 4 keys, direct | the same, shared by 2 lanes | the same, shared by 2 or 4 lanes |
/// | others, without subgroups of at most 64 | 1 row, 4 keys, direct | 1 row, 2 keys, direct | 1 row, 1 key, direct |
///
/// With at most 8 queries a sequence it takes the split kernel instead ([`Decode`]): its rows are too few to fill a tile.
///
/// With more, in f16 storage and without a cache, it takes the kernel on matrix units ([`Matrix`]: 16 × 16 fragments where the device lists them, else 8 × 8, rows padded where workgroup memory allows),
/// but only where [`ContextOptions::cooperative_matrices`](crate::ContextOptions::cooperative_matrices) asked for it, never on a CPU adapter or in a browser, and only once it has agreed with the
/// portable kernel on that device, in a few small problems that the first plan for its dimensions runs. [`Plan::kernel_reason`](crate::Plan::kernel_reason) says where it didn't.
///
/// Direct tiles whose rows lanes share ([`Tile::with_parts`]) take their lanes' subgroups for granted, which WebGPU doesn't promise: they come before the same trial, and behind them the tiles of the last line.
///
/// On lavapipe that is what was fastest within 3 s of compiling (the README has the measurements). On other devices a lane's part of q and o fits the registers,
/// and loads at uniform addresses go through a scalar or broadcast path: chosen from the machine code that `scripts/isa` counts
/// for AMD's GPUs, not measured. Where workgroup memory is too
/// small for staging, the tile is read directly. With a rotation ([`Rope`](crate::Rope)) tiles are staged on every device and take at least two keys at a time, since keys turn on their way through workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
#[non_exhaustive]
pub enum Kernel {
    /// `attention_naive`: one query row per invocation, plain loops. The documentation of the others.
    Naive,
    /// `attention_tiled`: several query rows per invocation in registers, several keys at a time.
    Tiled(Tile),
    /// `attention_decode`: a few queries, the keys split over workgroups, and `merge_splits` after it.
    Decode(Decode),
    /// `attention_matrix`: many queries in f16 storage, on the device's matrix units.
    Matrix(Matrix),
}

/// The shape of the kernel on matrix units: cooperative matrices with f16 operands and f32 sums.
///
/// It takes tiles of 64 rows by 32 keys at a time. Queries, keys and values must be stored in f16; they are multiplied as they are, or, where a [`Rope`](crate::Rope) turns
/// them, turned in f32 and rounded to f16. Weights are rounded to f16 too, so that outputs may deviate by `2⁻¹¹ · max |v|` beyond what f32 arithmetic does
/// ([`Tolerance::of_kernel_output`](crate::verify::Tolerance::of_kernel_output)); everything else is f32.
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

    /// Fragments are `edge` × `edge` (8 or 16). With `padded` rows in workgroup memory lie 16 bytes further apart, against bank conflicts; without, it needs less: 32 KiB at D = 128.
    ///
    /// `emulated` computes the same without matrix units, in core WGSL: slowly, to test the kernel on any device.
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
        // In units of their elements; every row begins at a multiple of 16 bytes, as loads of fragments require.
        let (half_pad, sum_pad) = if self.padded { (8, 4) } else { (0, 0) };
        let head_padded = head_dim.next_multiple_of(self.edge());
        let head_stride = head_padded + half_pad;
        let (weight_stride, value_stride) = (Self::KEYS + half_pad, Self::CHUNK + half_pad);
        let sum_stride = Self::KEYS.max(Self::CHUNK) + sum_pad;
        let keys_at = TILE_ROWS * head_stride;
        // Weights and values lie where the keys were.
        let values_at = keys_at + TILE_ROWS * weight_stride;
        let halves = (keys_at + Self::KEYS * head_stride).max(values_at + Self::KEYS * value_stride);
        MatrixLayout {
            head_padded,
            head_stride,
            weight_stride,
            value_stride,
            sum_stride,
            keys_at,
            values_at,
            halves,
            sums: TILE_ROWS * sum_stride,
        }
    }
}

/// Rows and regions of the matrix kernel's workgroup memory, in elements of f16 (or of f32, for `sum…`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixLayout {
    pub(crate) head_padded: usize,
    pub(crate) head_stride: usize,
    pub(crate) weight_stride: usize,
    pub(crate) value_stride: usize,
    pub(crate) sum_stride: usize,
    pub(crate) keys_at: usize,
    pub(crate) values_at: usize,
    pub(crate) halves: usize,
    pub(crate) sums: usize,
}

impl MatrixLayout {
    /// Bytes of both, and of the word with which padded ones say whether a value isn't finite.
    fn bytes(&self, padded: bool) -> usize {
        2 * self.halves + size_of::<f32>() * self.sums + if padded { size_of::<u32>() } else { 0 }
    }
}

/// The shape of the split kernel: every lane computes one component of every quad, so four lanes hold a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decode {
    row_sets: u8,
    quads: bool,
}

impl Decode {
    /// The smallest, with quad operations.
    pub(crate) const ONE: Self = Self { row_sets: 1, quads: true };

    /// Rows that 16 lanes hold at once.
    pub(crate) const ROWS: usize = 4;

    /// The most row sets × channels of q, and of o, for which a GPU has registers.
    pub(crate) const HELD: usize = 256;

    /// The most queries of a sequence for which a plan chooses this kernel.
    pub(crate) const QUERIES: usize = 8;

    /// A workgroup of 16 lanes holds `4 · row_sets` rows (1, 2, 4 or 8): query heads that share a key/value head, times queries. Keys and values are read once for all of them.
    ///
    /// With `quads` the four lanes of a row add up by quad operations, which need a device with subgroups; without, through workgroup memory.
    ///
    /// # Errors
    /// Invalid argument for other numbers.
    pub fn new(row_sets: usize, quads: bool) -> Result<Self> {
        ensure!(matches!(row_sets, 1 | 2 | 4 | 8), "row_sets", "expected 1, 2, 4 or 8, got {row_sets}");
        Ok(Self { row_sets: row_sets as u8, quads })
    }

    /// For a number of rows that share keys. On GPUs no more than a lane's registers hold (128 for q and o, as the machine code of `scripts/isa` shows; more
    /// spill), though then keys are read more than once.
    fn choose(rows: usize, quads: bool, software: bool, dim: usize) -> Self {
        let most = if software { 8 } else { 1 << (Self::HELD / dim).clamp(1, 8).ilog2() };
        let sets = rows.div_ceil(Self::ROWS).next_power_of_two().min(most);
        Self { row_sets: sets as u8, quads }
    }

    /// Sets of four rows.
    pub fn row_sets(&self) -> usize {
        self.row_sets.into()
    }

    /// Rows of a workgroup.
    pub(crate) fn rows(&self) -> usize {
        Self::ROWS * self.row_sets()
    }

    /// Whether quad operations are used.
    pub fn uses_quads(&self) -> bool {
        self.quads
    }
}

/// What a kernel is chosen for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) positions: PositionsVariant,
    /// The most queries of a sequence.
    pub(crate) q_len: usize,
    pub(crate) heads_per_kv: usize,
    pub(crate) cache: Option<CacheVariant>,
    /// The type of queries, keys and values.
    pub(crate) storage: DType,
    /// Whether products may be rounded to f16.
    pub(crate) half_products: bool,
}

impl Task {
    /// Whether keys turn on their way.
    fn turns_keys(&self) -> bool {
        self.positions.rope.is_some() && self.cache.is_none_or(|cache| cache.keys_turn)
    }
}

/// The shape of the tiled kernel's inner loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    rows_each: u8,
    keys: u8,
    staged: bool,
    halves: bool,
    parts: u8,
}

impl Tile {
    /// The largest subgroup with which rows can be shared: as many lanes as a part has, with one row each.
    pub(crate) const SHARED_SUBGROUP: u32 = 64;

    /// `rows_each` query rows per invocation (1, 2, 4 or 8; a workgroup has `64 / rows_each` invocations) and `keys` keys at a time (1, 2, 4 or 8).
    ///
    /// `staged` keys and values are first copied into workgroup memory; otherwise every invocation reads them from storage, at addresses
    /// that are uniform over the workgroup.
    ///
    /// # Errors
    /// Invalid argument for other numbers.
    pub fn new(rows_each: usize, keys: usize, staged: bool) -> Result<Self> {
        ensure!(matches!(rows_each, 1 | 2 | 4 | 8), "rows_each", "expected 1, 2, 4 or 8, got {rows_each}");
        ensure!(matches!(keys, 1 | 2 | 4 | 8), "keys", "expected 1, 2, 4 or 8, got {keys}");
        Ok(Self { rows_each: rows_each as u8, keys: keys as u8, staged, halves: false, parts: 1 })
    }

    /// Whether products are taken in f16, two at a time where hardware does that, and summed in f32 after at most 8 of them. It needs storage in f16 and a device with f16 arithmetic.
    ///
    /// Scores (times the scale and ½·log₂e, before a soft-cap) and their parts must stay within
    /// ±65,504, else they are infinite; values within ±16,000 divided by the keys at a time; what
    /// rounding adds is in
    /// [`Tolerance::of_kernel_output`](crate::verify::Tolerance::of_kernel_output).
    pub fn with_half_products(self, halves: bool) -> Self {
        Self { halves, ..self }
    }

    /// With a row's channels divided among this many lanes of different subgroups (1, 2 or 4), each of which has registers for its own only. It needs head and value dimensions that
    /// `4 · parts` divides and, unless staged, a device with subgroups of at most `64 / rows_each`.
    ///
    /// # Errors
    /// Invalid argument for other numbers.
    pub fn with_parts(self, parts: usize) -> Result<Self> {
        ensure!(matches!(parts, 1 | 2 | 4), "parts", "expected 1, 2 or 4, got {parts}");
        Ok(Self { parts: parts as u8, ..self })
    }

    /// The tile shape for an adapter that is the CPU, or isn't, the head dimensions, whether tiles must be staged, and whether rows can be shared.
    pub(crate) fn choose(software: bool, dims: [usize; 2], staged: bool, shared: bool) -> Self {
        let dim = dims[0].max(dims[1]);
        let (rows_each, keys) = match (software, dim) {
            (true, ..=96) => (4, 4),
            (true, ..=128) => (2, 4),
            (true, _) => (1, 4),
            (false, ..=96) => (1, 4),
            (false, _) if shared => (1, 4),
            (false, ..=128) => (1, 2),
            (false, _) => (1, 1),
        };
        // The fewest that leave each lane at most 96 channels.
        let fits = |parts: &usize| dim / parts <= 96 && dims.iter().all(|dim| dim.is_multiple_of(4 * parts));
        let parts = if shared && !software { [1, 2, 4].into_iter().find(fits).unwrap_or(1) } else { 1 };
        let keys = if staged { keys.max(2) } else { keys };
        Self { rows_each, keys, staged: software || staged, halves: false, parts: parts as u8 }
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
    pub fn parts(&self) -> usize {
        self.parts.into()
    }

    /// Whether products are taken in f16.
    pub fn uses_half_products(&self) -> bool {
        self.halves
    }

    /// Quads of channels whose products are summed before they are added to a score: the most, up to 8, that divide a head's.
    pub(crate) fn sum_quads(&self, head_dim: usize) -> usize {
        let quads = head_dim / 4 / self.parts();
        if !self.halves {
            return quads;
        }
        (1..=8).rev().find(|n| quads.is_multiple_of(*n)).unwrap_or(1)
    }
}

impl Kernel {
    /// The kernel's name, which is also its file's and its entry point's.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Naive => "attention_naive",
            Kernel::Tiled(_) => "attention_tiled",
            Kernel::Decode(_) => "attention_decode",
            Kernel::Matrix(_) => "attention_matrix",
        }
    }

    /// The rule of [`Kernel`]'s documentation, and what it says of this task: what to take, and what instead where that [doesn't pass a trial](Kernel::needs_trial) on the device. The last needs none.
    pub(crate) fn choices(capabilities: &Capabilities, task: &Task) -> Vec<(Self, String)> {
        let mut choices = Vec::new();
        let few = (1..=Decode::QUERIES).contains(&task.q_len);
        let matrices = [(16, true), (16, false), (8, true), (8, false)]
            .into_iter()
            .filter_map(|(edge, padded)| Matrix::new(edge, padded, false).ok().map(Kernel::Matrix));
        let fits = |kernel: &Kernel| !few && kernel.check(capabilities, task).is_ok();
        if let Some(kernel) = matrices.into_iter().find(fits) {
            let reason = "many queries in f16 storage, and matrix units that were asked for, are listed and passed the self-check here";
            choices.push((kernel, reason.to_owned()));
        }
        choices.push(Self::choose_portable(capabilities, task, true));
        if choices.last().is_some_and(|(kernel, _)| kernel.needs_trial()) {
            choices.push(Self::choose_portable(capabilities, task, false));
        }
        choices
    }

    /// Whether it takes more of a device than WebGPU promises: a plan chooses it only where it has agreed with the portable kernel on that device.
    pub(crate) fn needs_trial(&self) -> bool {
        match self {
            Kernel::Matrix(_) => true,
            // Which lanes make up a subgroup is the device's own affair.
            Kernel::Tiled(tile) => tile.parts > 1 && !tile.staged,
            Kernel::Naive | Kernel::Decode(_) => false,
        }
    }

    /// The rule without matrix units, and with or without subgroups that share rows.
    fn choose_portable(capabilities: &Capabilities, task: &Task, subgroups: bool) -> (Self, String) {
        if (1..=Decode::QUERIES).contains(&task.q_len) {
            let quads = capabilities.subgroup_sizes.is_some();
            let rows = task.q_len * task.heads_per_kv;
            let dim = task.head_dim.max(task.value_dim);
            let decode = Decode::choose(rows, quads, capabilities.is_software(), dim);
            let adding =
                if quads { "by quad operations" } else { "through workgroup memory, without subgroups" };
            let reason = format!(
                "at most {} queries: {rows} rows share each key, of which a workgroup holds {}, and keys are split over workgroups; lanes add up {adding}",
                task.q_len,
                decode.rows(),
            );
            return (Kernel::Decode(decode), reason);
        }
        let staged = task.turns_keys() || task.cache.is_some();
        let dim = task.head_dim.max(task.value_dim);
        let software = capabilities.is_software();
        let fits = |(_, most): (u32, u32)| most <= Tile::SHARED_SUBGROUP;
        let shared = staged || (subgroups && capabilities.subgroup_sizes.is_some_and(fits));
        let mut tile = Tile::choose(software, [task.head_dim, task.value_dim], staged, shared);
        if task.cache.is_some() {
            tile.keys = CacheVariant::KEYS as u8;
        }
        // CPUs have no f16 arithmetic to speak of: lavapipe takes twice the time.
        let halves = task.half_products && !software && task.cache.is_none();
        tile.halves = halves && task.storage == DType::F16 && capabilities.f16_arithmetic;
        let from = match (task.cache.is_some(), task.turns_keys(), software) {
            (true, _, _) => "packed keys are expanded on their way through workgroup memory",
            (_, true, _) => "keys turn on their way through workgroup memory",
            (_, _, true) => "a CPU reads workgroup memory at constant indices fastest",
            _ => "a GPU reads storage at uniform addresses by scalar or broadcast loads",
        };
        let row = if tile.parts > 1 {
            format!("1/{} row", tile.parts)
        } else {
            format!("{} row(s)", tile.rows_each)
        };
        let mut reason = format!(
            "{from}; at D = {dim} {row} an invocation and {} key(s) at a time fit the registers",
            tile.keys
        );
        let kernel = Kernel::Tiled(tile);
        let Err(error) = kernel.check(capabilities, task) else { return (kernel, reason) };
        reason = format!("{error}: the smallest tile instead");
        match staged {
            true => (Kernel::Tiled(Tile { rows_each: 1, keys: 1, parts: 1, ..tile }), reason),
            false => (Kernel::Tiled(Tile { rows_each: 1, staged: false, parts: 1, ..tile }), reason),
        }
    }

    /// Refuses a kernel that was asked for and that the device can't run.
    pub(crate) fn check(&self, capabilities: &Capabilities, task: &Task) -> Result<()> {
        match self {
            Kernel::Tiled(tile) if !tile.staged && task.turns_keys() => {
                let message =
                    format!("{self} can't rotate keys: they turn on their way through workgroup memory");
                return Err(Error::unsupported(message));
            }
            Kernel::Tiled(tile)
                if task.cache.is_some() && (!tile.staged || tile.keys() != CacheVariant::KEYS) =>
            {
                let message =
                    format!("{self} can't read a cache: its tiles must be staged, four keys at a time");
                return Err(Error::unsupported(message));
            }
            Kernel::Tiled(tile) if tile.parts > 1 => {
                let [lanes, parts] = [TILE_ROWS / tile.rows_each(), tile.parts()];
                let fits = |(_, most): (u32, u32)| most as usize <= lanes;
                if !tile.staged && !capabilities.subgroup_sizes.is_some_and(fits) {
                    let message = format!("{self} needs a device with subgroups of at most {lanes}");
                    return Err(Error::unsupported(message));
                }
                if ![task.head_dim, task.value_dim].iter().all(|dim| dim.is_multiple_of(4 * parts)) {
                    let message = format!(
                        "{self} can't divide D = {} and D_v = {} by {}",
                        task.head_dim,
                        task.value_dim,
                        4 * parts
                    );
                    return Err(Error::unsupported(message));
                }
                let has = capabilities.max_workgroup_invocations as usize;
                if lanes * parts > has {
                    let message = format!(
                        "{self} needs {} invocations a workgroup, the device has {has}",
                        lanes * parts
                    );
                    return Err(Error::unsupported(message));
                }
            }
            _ => {}
        }
        match self {
            Kernel::Tiled(tile) if tile.halves && task.storage != DType::F16 => {
                let message = format!("{self} needs queries, keys and values in f16, not {}", task.storage);
                return Err(Error::unsupported(message));
            }
            Kernel::Tiled(tile) if tile.halves && task.cache.is_some() => {
                return Err(Error::unsupported(format!("{self} can't read a cache")));
            }
            Kernel::Tiled(tile) if tile.halves && !capabilities.f16_arithmetic => {
                return Err(Error::unsupported(format!("{self} needs a device with f16 arithmetic")));
            }
            Kernel::Naive if task.cache.is_some() => {
                return Err(Error::unsupported(format!("{self} can't read a cache")));
            }
            Kernel::Decode(decode) if decode.quads && capabilities.subgroup_sizes.is_none() => {
                return Err(Error::unsupported(format!("{self} needs a device with subgroups")));
            }
            Kernel::Matrix(matrix) => self.check_matrix(*matrix, capabilities, task)?,
            _ => {}
        }
        let dim = task.head_dim.max(task.value_dim);
        let (needs, has) =
            (self.workgroup_bytes(task.head_dim, task.value_dim), capabilities.max_workgroup_bytes as usize);
        if needs > has {
            let message =
                format!("{self} needs {needs} bytes of workgroup memory at D = {dim}, the device has {has}");
            return Err(Error::unsupported(message));
        }
        Ok(())
    }

    fn check_matrix(&self, matrix: Matrix, capabilities: &Capabilities, task: &Task) -> Result<()> {
        let unsupported = |why: String| Err(Error::unsupported(format!("{self} {why}")));
        if task.cache.is_some() {
            return unsupported("can't read a cache".to_owned());
        }
        if task.storage != DType::F16 {
            return unsupported(format!("multiplies f16, and these tensors are {}", task.storage));
        }
        let (has, needs) = (capabilities.max_workgroup_invocations as usize, self.invocations());
        if has < needs {
            return unsupported(format!("needs {needs} invocations per workgroup, the device has {has}"));
        }
        if !matrix.emulated && capabilities.is_software() {
            return unsupported("isn't run on CPU adapters: drivers crash there".to_owned());
        }
        if !matrix.emulated && !capabilities.cooperative_matrices.contains(&u32::from(matrix.edge)) {
            let edge = matrix.edge;
            return unsupported(format!(
                "needs a device that lists {edge}×{edge} matrices of f16 with f32 sums, and ContextOptions::cooperative_matrices"
            ));
        }
        Ok(())
    }

    /// Bytes of workgroup memory.
    pub(crate) fn workgroup_bytes(&self, head_dim: usize, value_dim: usize) -> usize {
        match self {
            Kernel::Matrix(matrix) => matrix.layout(head_dim).bytes(matrix.padded),
            Kernel::Tiled(tile) => {
                let number = if tile.halves { 2 } else { 4 };
                let staged = if tile.staged { tile.keys() * (head_dim + value_dim) * number } else { 0 };
                let shares = if tile.parts > 1 { 2 * tile.parts() * tile.keys() * TILE_ROWS * 4 } else { 0 };
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
            Kernel::Tiled(tile) => TILE_ROWS / tile.rows_each() * tile.parts(),
            Kernel::Decode(_) => 4 * Decode::ROWS,
            Kernel::Matrix(_) => TILE_ROWS * Matrix::LANES_EACH,
        }
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Kernel::Naive => Ok(()),
            Kernel::Tiled(tile) => {
                let from = if tile.staged { "staged" } else { "direct" };
                let halves = if tile.halves { "_halves" } else { "" };
                write!(f, "_r{}_k{}_{from}{halves}", tile.rows_each, tile.keys)?;
                if tile.parts > 1 { write!(f, "_p{}", tile.parts) } else { Ok(()) }
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

/// The text that `Display` writes: `attention_tiled_r4_k4_staged`.
impl std::str::FromStr for Kernel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
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
                let tile = tile.with_half_products(from.ends_with("_halves"));
                return tile.with_parts(parts).ok().map(Kernel::Tiled);
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
                format!("expected a name like attention_tiled_r4_k4_staged, got {text:?}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A graphics card with matrix units that were asked for.
    fn card(matrices: &[u32]) -> Capabilities {
        Capabilities {
            adapter: String::new(),
            driver: String::new(),
            backend: wgpu::Backend::Vulkan,
            device_type: wgpu::DeviceType::DiscreteGpu,
            subgroup_sizes: Some((32, 64)),
            f16_arithmetic: true,
            timestamps: false,
            max_binding_bytes: 1 << 30,
            max_buffer_bytes: 1 << 30,
            max_workgroups_per_dimension: 65_535,
            max_workgroup_invocations: 1024,
            max_workgroup_bytes: 65_536,
            cooperative_matrices: matrices.to_vec(),
        }
    }

    fn task(dim: usize) -> Task {
        Task {
            head_dim: dim,
            value_dim: dim,
            positions: PositionsVariant::default(),
            q_len: 100,
            heads_per_kv: 4,
            storage: DType::F16,
            cache: None,
            half_products: false,
        }
    }

    #[test]
    fn matrix_units_are_chosen_where_everything_fits() {
        let chosen = |capabilities: &Capabilities, task: &Task| match Kernel::choices(capabilities, task)[0].0
        {
            Kernel::Matrix(matrix) => Some((matrix.edge(), matrix.is_padded(), matrix.is_emulated())),
            _ => None,
        };
        let both = card(&[8, 16]);
        assert_eq!(chosen(&both, &task(64)), Some((16, true, false)));
        assert_eq!(chosen(&card(&[8]), &task(64)), Some((8, true, false)));
        assert_eq!(chosen(&card(&[]), &task(64)), None);
        // Rows that lie close need exactly 32 KiB at D = 128.
        let small = Capabilities { max_workgroup_bytes: 32_768, ..both.clone() };
        assert_eq!(chosen(&small, &task(128)), Some((16, false, false)));
        assert_eq!(chosen(&small, &task(64)), Some((16, true, false)));
        assert_eq!(chosen(&small, &task(192)), None);
        let few = Capabilities { max_workgroup_invocations: 64, ..both.clone() };
        assert_eq!(chosen(&few, &task(64)), None);
        let software = Capabilities { device_type: wgpu::DeviceType::Cpu, ..both.clone() };
        assert_eq!(chosen(&software, &task(64)), None);
        for storage in [DType::F32, DType::Bf16] {
            assert_eq!(chosen(&both, &Task { storage, ..task(64) }), None);
        }
        assert_eq!(chosen(&both, &Task { q_len: Decode::QUERIES, ..task(64) }), None);
        let cache = Some(CacheVariant { widths: [0; 2], group: 32, keys_turn: false });
        assert_eq!(chosen(&both, &Task { cache, ..task(64) }), None);
    }

    /// What the device may get wrong is tried, and behind it stands what needs no trial.
    #[test]
    fn the_last_choice_needs_no_trial() {
        let named = |capabilities: &Capabilities, dim| {
            let choices = Kernel::choices(capabilities, &task(dim));
            let (last, others) = choices.split_last().unwrap();
            assert!(!last.0.needs_trial() && others.iter().all(|(kernel, _)| kernel.needs_trial()));
            choices.iter().map(|(kernel, _)| kernel.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(named(&card(&[]), 64), ["attention_tiled_r1_k4_direct"]);
        assert_eq!(
            named(&card(&[16]), 128),
            [
                "attention_matrix_m16_padded",
                "attention_tiled_r1_k4_direct_p2",
                "attention_tiled_r1_k2_direct"
            ]
        );
        assert_eq!(
            named(&card(&[]), 256),
            ["attention_tiled_r1_k4_direct_p4", "attention_tiled_r1_k1_direct"]
        );
        let large = Capabilities { subgroup_sizes: Some((64, 128)), ..card(&[]) };
        assert_eq!(named(&large, 256), ["attention_tiled_r1_k1_direct"]);
    }
}
