//! What caches of one kind have in common, wherever their words lie.

use super::ladder::Side;
use super::pack::PackLayout;
use super::sequence::StoredKeys;
use super::staircase::Staircase;
use crate::error::{Result, ensure};
use crate::limits::{MAX_PACKED_DIM, at_most};
use crate::shape::Shape;

/// At how many bits tokens are stored, in how many heads of how many channels, turned or not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CacheForm {
    pub(crate) staircase: Staircase,
    /// One query head per key/value head, no tokens.
    pub(super) shape: Shape,
    pub(super) keys: StoredKeys,
}

impl CacheForm {
    /// For the key/value heads and channels of a shape.
    ///
    /// # Errors
    /// Those of [`HostCache::new`](super::HostCache::new).
    pub(super) fn new(staircase: Staircase, shape: &Shape, keys: StoredKeys) -> Result<Self> {
        let shape = Shape::new(shape.kv_heads(), shape.kv_heads(), 0, shape.head_dim())?
            .with_value_dim(shape.value_dim())?;
        at_most("head_dim", shape.head_dim(), MAX_PACKED_DIM)?;
        at_most("value_dim", shape.value_dim(), MAX_PACKED_DIM)?;
        let readable = staircase.summaries().is_none() || keys == StoredKeys::AfterRotation;
        ensure!(
            readable,
            "keys",
            "expected keys after rotation beside summaries, which say nothing of others' scores, got {keys:?}"
        );
        // So that layouts can be made for it ever after.
        let form = Self { staircase, shape, keys };
        form.layout(Side::Values)?;
        form.layout(Side::Keys)?;
        Ok(form)
    }

    pub(super) fn kv_heads(&self) -> usize {
        self.shape.kv_heads()
    }

    /// Channels of a key or of a value.
    pub(super) fn dim(&self, side: Side) -> usize {
        match side {
            Side::Keys => self.shape.head_dim(),
            Side::Values => self.shape.value_dim(),
        }
    }

    /// The layouts of keys and of values, at 16 bits.
    pub(super) fn layouts(&self) -> Result<[PackLayout; 2]> {
        Ok([self.layout(Side::Keys)?, self.layout(Side::Values)?])
    }

    fn layout(&self, side: Side) -> Result<PackLayout> {
        PackLayout::new(&self.staircase, side, 16, self.dim(side))
    }
}
