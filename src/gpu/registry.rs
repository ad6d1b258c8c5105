//! Which kernels there are, which variants of them, and which one a device gets.

use super::context::Capabilities;
use crate::error::{Result, ensure};
use crate::layout::DType;

/// Query rows of a tile: what one workgroup computes, in every kernel.
pub(crate) const TILE_ROWS: usize = 64;

/// A kernel that computes attention. All compute the same function; a plan chooses, or [`Attention::with_kernel`](crate::Attention::with_kernel) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// `attention_naive`: one query row per invocation, plain loops. The documentation of the others.
    Naive,
    /// `attention_tiled`: several query rows per invocation in registers, several keys at a time.
    Tiled(Tile),
}

/// The shape of the tiled kernel's inner loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    rows_each: u8,
    keys: u8,
    staged: bool,
}

impl Tile {
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
        Ok(Self { rows_each: rows_each as u8, keys: keys as u8, staged })
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
}

impl Kernel {
    /// The kernel's name, which is also its file's and its entry point's.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Naive => "attention_naive",
            Kernel::Tiled(_) => "attention_tiled",
        }
    }

    /// The rule by which a plan chooses.
    pub(crate) fn choose(capabilities: &Capabilities, head_dim: usize, value_dim: usize) -> Self {
        let _ = (capabilities, head_dim, value_dim);
        if let Ok(text) = std::env::var("PRFLASH_TILE") {
            let n: Vec<usize> = text.split(',').map(|x| x.parse().unwrap_or(0)).collect();
            if n[0] == 0 {
                return Kernel::Naive;
            }
            return Kernel::Tiled(Tile { rows_each: n[0] as u8, keys: n[1] as u8, staged: n[2] != 0 });
        }
        Kernel::Tiled(Tile { rows_each: 2, keys: 4, staged: true })
    }

    /// Bytes of workgroup memory.
    pub(crate) fn workgroup_bytes(&self, head_dim: usize, value_dim: usize) -> usize {
        match self {
            Kernel::Tiled(tile) if tile.staged => tile.keys() * (head_dim + value_dim) * size_of::<f32>(),
            _ => 0,
        }
    }

    /// Invocations of a workgroup.
    pub(crate) fn invocations(&self) -> usize {
        match self {
            Kernel::Naive => TILE_ROWS,
            Kernel::Tiled(tile) => TILE_ROWS / tile.rows_each(),
        }
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        if let Kernel::Tiled(tile) = self {
            let from = if tile.staged { "staged" } else { "direct" };
            write!(f, "_r{}_k{}_{from}", tile.rows_each, tile.keys)?;
        }
        Ok(())
    }
}

/// A kernel with everything that is rendered into its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) kernel: Kernel,
    pub(crate) storage: DType,
    pub(crate) output: DType,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
}

impl Variant {
    /// A name that is unique per variant and fit for a file.
    pub(crate) fn label(&self) -> String {
        let Self { kernel, storage, output, head_dim, value_dim } = self;
        format!("{kernel}_{storage}_{output}_d{head_dim}_v{value_dim}")
    }
}
