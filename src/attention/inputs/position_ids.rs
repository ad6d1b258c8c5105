//! Positions given by number.

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
    }
}
