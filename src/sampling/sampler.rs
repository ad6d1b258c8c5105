//! How the participation of blocks is drawn from a profile.
//!
//! | sampler | profiles | marginals | mean count of a row | its variance | blocks of a row |
//! | --- | --- | --- | --- | --- | --- |
//! | [`Bernoulli`] | any | p(d) | Σp | Σp(1−p) | independent |
//! | [`Systematic`] | any | p(d) | Σp | at most ¼: the count is ⌊Σp⌋ or ⌈Σp⌉ | dependent |
//! | [`Renewal`] | log-convex | p(d) | Σp | Σp + 2·Σ_{i<j} p(i)·p(j−i) − (Σp)² | gaps are independent |
//! | [`Segment`] | convex | p(d) | Σp | Σ(2d+1)·p(d) − (Σp)² | contiguous: the tensor is re-shaped |
//! | [`RowColumn`] | log-convex | p(d) *given* that the row is in | 1 + p(T−1−I)·(Σp − 1) | as Renewal, given that the row is in | one index set for rows and columns |
//!
//! Sums run over the distances 0 … I of row I of T in causal attention without sinks and windows,
//! which are kept beside what is drawn. "Any" includes solved budgets and floors; the others need
//! [`Harmonic`](Decay::Harmonic), [`Dense`](Decay::Dense) or (convex)
//! [`Deduction`](Decay::Deduction) without a floor. [`expected_blocks`](super::expected_blocks)
//! sums the means of a whole list. Bernoulli, Systematic and Renewal draw rows independently of
//! each other; Segment and RowColumn draw once for all rows of a list.
//!
//! The first two can be drawn on the GPU too, by a [`GpuSampler`](crate::attention::GpuSampler).

use std::fmt::Debug;
use std::ops::Range;

use super::cumulative::{CumulativeProfile, RowProfile};
use super::profile::{Decay, ONE};
use crate::error::{Result, ensure};
use crate::random::{Seed, pcg_hash};

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
    /// Key blocks of the sequence.
    pub key_blocks: usize,
}

/// A way to draw which blocks of a row take part.
///
/// Implementations decide in integers only and draw from [`random`](crate::random), so that a row
/// is the same wherever and in whichever order it is drawn.
pub trait Sampler: Debug {
    /// Short lower-case name, for reports.
    fn name(&self) -> &'static str;

    /// The rule by which a GPU draws the same blocks, if there is one.
    fn gpu_rule(&self) -> Option<GpuRule> {
        None
    }

    /// Makes it ready for the rows of one schedule.
    ///
    /// # Errors
    /// Invalid argument (`profile`) where the sampler can't have such marginals.
    fn prepare(&self, profile: &CumulativeProfile) -> Result<Box<dyn RowSampler>>;
}

/// A sampler that a [`GpuSampler`](crate::attention::GpuSampler) knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GpuRule {
    /// [`Systematic`].
    Systematic,
    /// [`Bernoulli`].
    Bernoulli,
}

impl GpuRule {
    /// What its uniform numbers are for.
    pub(crate) fn purpose(self) -> u32 {
        match self {
            GpuRule::Systematic => purpose::SYSTEMATIC,
            GpuRule::Bernoulli => purpose::BERNOULLI,
        }
    }
}

/// A [`Sampler`] made ready for a profile.
pub trait RowSampler: Debug {
    /// Distances that the profile isn't tabulated for aren't kept. Calls `keep` with each kept
    /// distance at or before the diagonal (`after = false`) in ascending order, then with each one
    /// after it (`after = true`) in ascending order.
    fn sample_row(
        &self,
        profile: &RowProfile<'_>,
        row: &RowSpan,
        seed: Seed,
        keep: &mut dyn FnMut(bool, usize),
    );
}

/// What a uniform number is for: each use has its own, so that no two draws of a schedule share
/// one.
pub(super) mod purpose {
    pub(in crate::sampling) const SYSTEMATIC: u32 = 0; // and 1: after the diagonal
    pub(in crate::sampling) const BERNOULLI: u32 = 0x6265_726e;
    pub(in crate::sampling) const RENEWAL: u32 = 0x7265_6e65; // walks use the numbers that follow from it
    pub(in crate::sampling) const SEGMENT_LENGTH: u32 = 0x7365_676c;
    pub(in crate::sampling) const SEGMENT_OFFSET: u32 = 0x7365_676f;
    pub(in crate::sampling) const ROW_COLUMN: u32 = 0x726f_7763;
}

/// An independent draw for every block.
///
/// Cost of a row: proportional to its candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Bernoulli;

impl Sampler for Bernoulli {
    fn name(&self) -> &'static str {
        "bernoulli"
    }

    fn gpu_rule(&self) -> Option<GpuRule> {
        Some(GpuRule::Bernoulli)
    }

    fn prepare(&self, _: &CumulativeProfile) -> Result<Box<dyn RowSampler>> {
        Ok(Box::new(*self))
    }
}

impl RowSampler for Bernoulli {
    fn sample_row(
        &self,
        profile: &RowProfile<'_>,
        row: &RowSpan,
        seed: Seed,
        keep: &mut dyn FnMut(bool, usize),
    ) {
        let uniform = seed.uniform(row.group, row.query_block, purpose::BERNOULLI);
        for (after, range) in [(false, &row.before), (true, &row.after)] {
            for d in profile.within(range) {
                let (at, d_blocks) = (row.query_block, d as i64);
                let block = if after { at.wrapping_add(d_blocks) } else { at.wrapping_sub(d_blocks) };
                if u64::from(pcg_hash(uniform ^ block as u32)) < profile.probability(d) {
                    keep(after, d);
                }
            }
        }
    }
}

/// Systematic sampling: one uniform number `u` a row; the block at distance d is kept where
/// `⌊C(d) + u⌋` steps up, `C` being the cumulative sum of `p`.
///
/// The marginals are exactly `p(d)`, and a row keeps `⌊Σp⌋` or `⌈Σp⌉` blocks: the count has the
/// smallest variance that the marginals allow. Blocks of one row are not independent of each other.
/// Cost of a row: proportional to what it keeps, times the logarithm of its gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Systematic;

impl Sampler for Systematic {
    fn name(&self) -> &'static str {
        "systematic"
    }

    fn gpu_rule(&self) -> Option<GpuRule> {
        Some(GpuRule::Systematic)
    }

    fn prepare(&self, _: &CumulativeProfile) -> Result<Box<dyn RowSampler>> {
        Ok(Box::new(*self))
    }
}

impl RowSampler for Systematic {
    fn sample_row(
        &self,
        profile: &RowProfile<'_>,
        row: &RowSpan,
        seed: Seed,
        keep: &mut dyn FnMut(bool, usize),
    ) {
        for (after, range) in [(false, &row.before), (true, &row.after)] {
            let purpose = purpose::SYSTEMATIC + u32::from(after);
            let u = u64::from(seed.uniform(row.group, row.query_block, purpose));
            let mut from = range.start;
            let mut whole = if range.is_empty() { 0 } else { (profile.sum_below(from) + u) / ONE };
            // C(d) + u ≥ (whole + 1)·2³², rearranged so that it stays unsigned (u < 2³²).
            while let Some(d) = profile.first_reaching((whole + 1) * ONE - u, from, range.end) {
                keep(after, d);
                whole += 1;
                from = d + 1;
            }
        }
    }
}

/// The decay of a profile that isn't solved row by row or clipped from below, since both break its
/// shape.
pub(super) fn unclipped<'a>(profile: &'a CumulativeProfile, sampler: &str) -> Result<&'a Decay> {
    let profile = profile.profile();
    let plain = profile.decay().budget().is_none() && profile.floor() == 0.0;
    ensure!(plain, "profile", "{sampler} needs a profile without budget and floor, got {profile}");
    Ok(profile.decay())
}
