//! Positions given by number.

use super::mask::check_parents;
use crate::error::{Result, ensure};

/// The position of every query and key of a sequence, where they don't just count up.
///
/// Without it key j is at position j and query i at `i + kv_len − q_len`. Only rotation and bias go
/// by these numbers; causality, windows and schedules go by the order in memory. For documents that
/// each count from 0, evicted or re-ordered caches, and trees of draft tokens.
///
/// ```
/// use prflash::attention::PositionIds;
/// // Two documents behind each other.
/// let ids = PositionIds::new(&[0, 1, 2, 0, 1], &[0, 1, 2, 0, 1])?;
/// assert_eq!(ids.keys()[3], 0);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PositionIds {
    queries: Vec<u32>,
    keys: Vec<u32>,
}

impl PositionIds {
    /// One position for each query and each key.
    ///
    /// # Errors
    /// Invalid argument unless all are below 2³⁰.
    pub fn new(queries: &[u32], keys: &[u32]) -> Result<Self> {
        for &id in queries.iter().chain(keys) {
            ensure!(id < 1 << 30, "position_ids", "expected positions below 2^30, got {id}");
        }
        Ok(Self { queries: queries.to_vec(), keys: keys.to_vec() })
    }

    /// Those of a [tree of draft tokens](crate::attention::Mask::tree) at the end of a sequence of
    /// `kv_len`: tokens before it count up from 0, and each node is one further than its parent.
    ///
    /// ```
    /// use prflash::attention::PositionIds;
    /// let ids = PositionIds::tree(&[None, Some(0), Some(0), Some(2)], 6)?;
    /// assert_eq!((ids.queries(), ids.keys()), (&[2, 3, 3, 4][..], &[0, 1, 2, 3, 3, 4][..]));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument (`parents`) as [`Mask::tree`](crate::attention::Mask::tree); (`kv_len`)
    /// past 2³⁰.
    pub fn tree(parents: &[Option<usize>], kv_len: usize) -> Result<Self> {
        let nodes = parents.len();
        ensure!(kv_len <= 1 << 30, "kv_len", "expected at most 2^30, got {kv_len}");
        ensure!(
            (1..=kv_len).contains(&nodes),
            "parents",
            "expected 1 to kv_len = {kv_len} nodes, got {nodes}"
        );
        check_parents(parents)?;
        let first = (kv_len - nodes) as u32;
        let mut queries = Vec::with_capacity(nodes);
        for parent in parents {
            queries.push(parent.map_or(first, |parent| queries[parent] + 1));
        }
        Ok(Self { keys: (0..first).chain(queries.iter().copied()).collect(), queries })
    }

    /// The position of each query.
    pub fn queries(&self) -> &[u32] {
        &self.queries
    }

    /// The position of each key.
    pub fn keys(&self) -> &[u32] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let refused = |queries, keys| PositionIds::new(queries, keys).unwrap_err().argument();
        assert_eq!(refused(&[1 << 30], &[]), Some("position_ids"));
        assert_eq!(refused(&[], &[u32::MAX]), Some("position_ids"));
        let tree = |parents, kv_len| PositionIds::tree(parents, kv_len).unwrap_err().argument();
        assert_eq!(tree(&[None], usize::MAX), Some("kv_len"));
        for parents in [&[][..], &[None; 4], &[Some(0)]] {
            assert_eq!(tree(parents, 3), Some("parents"));
        }
    }
}
