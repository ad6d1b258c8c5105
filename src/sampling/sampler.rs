//! How the participation of blocks is drawn from a profile.

use std::fmt::Debug;
use std::ops::Range;

use super::profile::{CumulativeProfile, ONE};
use crate::random::Key;

/// The candidates of one row: one head group, one query block, without the pinned sink blocks.
#[derive(Clone, Debug)]
pub struct RowSpan {
    /// The head group of the list.
    pub group: u32,
    /// The absolute query block I.
    pub query_block: i64,
    /// Distances d of the candidates at or before the diagonal (`J = I − d`).
    pub before: Range<usize>,
    /// Distances d of the candidates after the diagonal (`J = I + d`); empty if causal.
    pub after: Range<usize>,
}

/// A way to draw which blocks of a row take part, with marginals exactly `p(d)`.
///
/// Implementations decide in integers only and draw from [`random`](crate::random), so that a row is the same wherever and in
/// whichever order it is drawn.
pub trait Sampler: Debug {
    /// Short lower-case name, for reports.
    fn name(&self) -> &'static str;

    /// Calls `keep` with each kept distance before the diagonal (`after = false`) in ascending order, then with each one
    /// after it (`after = true`) in ascending order.
    fn sample_row(
        &self,
        profile: &CumulativeProfile,
        row: &RowSpan,
        key: Key,
        keep: &mut dyn FnMut(bool, usize),
    );
}

/// Systematic sampling: one uniform number `u` a row; the block at distance d is kept where `⌊C(d) + u⌋` steps up, `C` being
/// the cumulative sum of `p`.
///
/// The marginals are exactly `p(d)`, and a row keeps `⌊Σp⌋` or `⌈Σp⌉` blocks: the count has the smallest variance
/// that the marginals allow. Blocks of one row are not independent of each other. Cost of a row: proportional to what it keeps,
/// times the logarithm of its gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Systematic;

impl Sampler for Systematic {
    fn name(&self) -> &'static str {
        "systematic"
    }

    fn sample_row(
        &self,
        profile: &CumulativeProfile,
        row: &RowSpan,
        key: Key,
        keep: &mut dyn FnMut(bool, usize),
    ) {
        for (after, range) in [(false, &row.before), (true, &row.after)] {
            if range.is_empty() {
                continue;
            }
            let u = u64::from(key.uniform(row.group, row.query_block, u32::from(after)));
            let mut from = range.start;
            let mut whole = (profile.sum_below(from) + u) / ONE;
            // C(d) + u ≥ (whole + 1)·2³², rearranged so that it stays unsigned (u < 2³²).
            while let Some(d) = profile.first_reaching((whole + 1) * ONE - u, from) {
                if d >= range.end {
                    break;
                }
                keep(after, d);
                whole += 1;
                from = d + 1;
            }
        }
    }
}
