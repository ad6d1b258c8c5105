//! What one sequence of a cache holds in host memory.

use std::collections::VecDeque;

/// Whether a cache's keys were turned to their positions ([`Rope`](crate::Rope)) before they were
/// stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredKeys {
    /// Attention turns them when it reads them. Positions may then still change, and per-channel
    /// groups see unturned channels.
    BeforeRotation,
    /// Attention turns queries only.
    AfterRotation,
}

/// One sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sequence {
    pub(super) len: usize,
    /// Segments that have left the residual.
    pub(super) segments: usize,
    /// `[kv_heads, side]`.
    pub(super) stores: Vec<Store>,
}

/// Keys or values of one head.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Store {
    /// Rows of D' f16 numbers.
    pub(super) sinks: Vec<u32>,
    /// Of the segments that were not dropped, oldest first.
    pub(super) packs: VecDeque<Vec<u32>>,
    /// Rows of D' f16 numbers.
    pub(super) residual: Vec<u32>,
}
