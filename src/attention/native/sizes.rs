//! How calls are cut.

/// Rows of a tile: lanes.
pub(super) const ROWS: usize = 64;

/// Keys of a tile.
pub(super) const KEYS: usize = 64;

/// Queries of a sequence up to which they are few, and lanes are channels.
pub(super) const FEW_QUERIES: usize = 8;

/// Rows (few queries × heads) of a task at most.
pub(super) const FEW_ROWS: usize = 32;

/// Keys of a split, for few queries: as many whatever there are of threads, so that results don't
/// depend on these.
pub(super) const SPLIT: usize = 512;
