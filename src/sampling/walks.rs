//! Samplers that walk along the distances, and cut the block axis: blocks of a row depend on each
//! other.

use std::ops::Range;

use super::cumulative::{CumulativeProfile, RowProfile};
use super::profile::{Decay, fixed};
use super::sampler::{RowSampler, RowSpan, Sampler, purpose, unclipped};
use crate::error::{Error, Result, ensure};
use crate::limits::MAX_WALK;
use crate::random::{Seed, pcg_hash};

/// A renewal walk: from the diagonal in steps whose lengths are drawn so that a block at distance d
/// is hit with probability exactly p(d).
///
/// The gaps have the pmf f with `p(n) = Σₖ f(k)·p(n−k)`; at `p = 1/(1+d)` that is 1/2, 1/12, 1/24,
/// 19/720 … (the Gregory coefficients, generating function `1 + z/ln(1−z)`). It exists for
/// log-convex p with p(0) = 1 (Kaluza 1928). Pinned window blocks are kept beside the walk. Cost of
/// a row: what it keeps, times a logarithm; once per schedule: the square of the number of
/// distances (at 16,384 of them about 0.1 s), of which there may be at most [`MAX_WALK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Renewal;

impl Sampler for Renewal {
    fn name(&self) -> &'static str {
        "renewal"
    }

    fn prepare(&self, profile: &CumulativeProfile) -> Result<Box<dyn RowSampler>> {
        Ok(Box::new(Walk { gaps: gap_distribution(profile)? }))
    }
}

#[derive(Debug)]
struct Walk {
    /// `gaps[n]` = P(gap ≤ n + 1), 32.32.
    gaps: Vec<u64>,
}

impl Walk {
    /// The next position of a walk at `at`, from a uniform number; `None` past the table.
    fn step(&self, at: usize, uniform: u32) -> Option<usize> {
        let gap = self.gaps.partition_point(|&cumulative| cumulative <= u64::from(uniform));
        (gap < self.gaps.len()).then_some(at + gap + 1)
    }

    /// The positions 0 = x₀ < x₁ < … below `end`, as far as distances are tabulated.
    fn positions(&self, end: usize, uniform: impl Fn(u32) -> u32) -> impl Iterator<Item = usize> {
        let end = end.min(self.gaps.len() + 1);
        let mut next = (end > 0).then_some(0);
        let mut index = 0;
        std::iter::from_fn(move || {
            let at = next.filter(|&at| at < end)?;
            next = self.step(at, uniform(index));
            index += 1;
            Some(at)
        })
    }
}

impl RowSampler for Walk {
    fn sample_row(
        &self,
        profile: &RowProfile<'_>,
        row: &RowSpan,
        seed: Seed,
        keep: &mut dyn FnMut(bool, usize),
    ) {
        let window = profile.profile().window_blocks();
        for (after, range) in [(false, &row.before), (true, &row.after)] {
            let seed = seed.uniform(row.group, row.query_block, purpose::RENEWAL + u32::from(after));
            let range = profile.within(range);
            let walk = self.positions(range.end, |index| pcg_hash(seed ^ index));
            with_window(walk, window, &range, &mut |d| keep(after, d));
        }
    }
}

/// Calls `keep` with the ascending distances of `kept` and the window's, each once, as far as they
/// are in `range`.
fn with_window(
    kept: impl Iterator<Item = usize>,
    window: usize,
    range: &Range<usize>,
    keep: &mut dyn FnMut(usize),
) {
    (range.start..window.min(range.end)).for_each(&mut *keep);
    kept.filter(|&d| d >= window && range.contains(&d)).for_each(keep);
}

fn gap_distribution(profile: &CumulativeProfile) -> Result<Vec<u64>> {
    let decay = unclipped(profile, "a renewal walk")?;
    if profile.distances() > MAX_WALK {
        let message = format!("a renewal walk takes up to {MAX_WALK} distances, got {}", profile.distances());
        return Err(Error::too_large("profile", message));
    }
    let p: Vec<f64> = decay.values().take(profile.distances() + 1).collect();
    for triple in p.windows(3) {
        ensure!(
            triple[1] * triple[1] <= triple[0] * triple[2] * (1.0 + 1e-12) && triple[2] > 0.0,
            "profile",
            "a renewal walk needs a log-convex profile, got {}",
            profile.profile()
        );
    }
    let mut gaps: Vec<f64> = Vec::with_capacity(p.len());
    for n in 1..p.len() {
        // p(n) = f(n)·p(0) + Σ_{k<n} f(k)·p(n−k)
        let earlier: f64 = gaps.iter().zip(p[1..n].iter().rev()).map(|(f, p)| f * p).sum();
        gaps.push((p[n] - earlier).max(0.0));
    }
    let mut sum = 0.0;
    Ok(gaps
        .iter()
        .map(|gap| {
            sum += gap;
            fixed(f64::min(sum, 1.0))
        })
        .collect())
}

/// Re-shaping, literally: the block axis is cut into segments of one random length, at a random
/// offset, and every segment is a dense causal triangle.
///
/// Two blocks share a segment with probability exactly p(d): the length ℓ has `P(ℓ ≤ m) = 1 −
/// (m+1)·p(m) + m·p(m+1)`, which is a distribution for convex p; at `p = 1/(1+d)`, `P(ℓ > m) =
/// 2/(m+2)`. One cut serves all rows of a head group, so rows are strongly dependent and the cost
/// varies much. Cost of a row: what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Segment;

impl Sampler for Segment {
    fn name(&self) -> &'static str {
        "segment"
    }

    fn prepare(&self, profile: &CumulativeProfile) -> Result<Box<dyn RowSampler>> {
        let decay = unclipped(profile, "a segment cut")?;
        let p: Vec<f64> = decay.values().take(profile.distances() + 2).collect();
        let convex = p.windows(3).all(|p| p[0] - 2.0 * p[1] + p[2] >= -1e-12);
        ensure!(convex, "profile", "a segment cut needs a convex profile, got {}", profile.profile());
        Ok(Box::new(Cut { decay: decay.clone() }))
    }
}

#[derive(Debug)]
pub(super) struct Cut {
    pub(super) decay: Decay,
}

/// Segments that would be longer than this are not cut at all.
const UNCUT: u64 = 1 << 40;

impl Cut {
    /// The length of the segments and where the first of them starts before block 0.
    fn draw(&self, group: u32, seed: Seed) -> (u64, u64) {
        let uniform = u64::from(seed.uniform(group, 0, purpose::SEGMENT_LENGTH));
        let offset = u64::from(seed.uniform(group, 0, purpose::SEGMENT_OFFSET));
        // The shortest length whose cumulative probability exceeds the uniform number: doubling,
        // then halving.
        let exceeds = |length: u64| self.at_most(length) > uniform;
        let mut high = 1;
        while high < UNCUT && !exceeds(high) {
            high *= 2;
        }
        if high >= UNCUT {
            return (UNCUT, 0);
        }
        let mut low = high / 2 + 1;
        while low < high {
            let middle = low + (high - low) / 2;
            if exceeds(middle) { high = middle } else { low = middle + 1 }
        }
        (high, ((u128::from(offset) * u128::from(high)) >> 32) as u64)
    }

    /// The blocks where segments start: block 0, and those that are cut before.
    pub(super) fn starts(
        &self,
        group: u32,
        seed: Seed,
        blocks: usize,
    ) -> impl Iterator<Item = usize> + use<> {
        let (length, offset) = self.draw(group, seed);
        // The first is cut before, or inside of, the sequence; a step past a usize ends it.
        let (first, step) = match length {
            UNCUT => (usize::MAX, usize::MAX),
            _ => {
                let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
                (whole(length - offset), whole(length))
            }
        };
        let cuts = std::iter::successors(Some(first), move |start| start.checked_add(step));
        (0..blocks.min(1)).chain(cuts.take_while(move |&start| start < blocks))
    }

    /// P(ℓ ≤ m) in 32.32.
    fn at_most(&self, m: u64) -> u64 {
        let p = |m: u64| self.decay.at(m);
        fixed((1.0 - (m + 1) as f64 * p(m) + m as f64 * p(m + 1)).clamp(0.0, 1.0))
    }
}

impl RowSampler for Cut {
    fn sample_row(
        &self,
        profile: &RowProfile<'_>,
        row: &RowSpan,
        seed: Seed,
        keep: &mut dyn FnMut(bool, usize),
    ) {
        let (length, offset) = self.draw(row.group, seed);
        let window = profile.profile().window_blocks();
        // How many blocks of the segment lie at or before this one, and after it.
        let (before, after) = match length {
            UNCUT => (UNCUT, UNCUT),
            _ => {
                let at = (row.query_block.rem_euclid(length as i64) as u64 + offset) % length;
                (at + 1, length - at)
            }
        };
        for (end, range, is_after) in [(before, &row.before, false), (after, &row.after, true)] {
            let range = profile.within(range);
            let end = usize::try_from(end).map_or(range.end, |end| end.min(range.end));
            with_window(usize::from(is_after)..end, window, &range, &mut |d| keep(is_after, d));
        }
    }
}

/// The paper's "rows and columns": one index set for queries, keys and values alike, so that the
/// kept pairs are a principal submatrix of the lower triangle, and hence a lower triangle
/// themselves.
///
/// The set is a [`Renewal`] walk from the last key block backwards. A query block outside it sees
/// its own block alone (and the pinned ones). Given that a row is in the set, a block at distance d
/// is too with probability p(d); but a row I itself is in only with probability `p(T − 1 − I)`, so
/// early rows rarely are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RowColumn;

impl Sampler for RowColumn {
    fn name(&self) -> &'static str {
        "row_column"
    }

    fn prepare(&self, profile: &CumulativeProfile) -> Result<Box<dyn RowSampler>> {
        Ok(Box::new(IndexSet::new(profile)?))
    }
}

#[derive(Debug)]
pub(super) struct IndexSet(Walk);

impl IndexSet {
    pub(super) fn new(profile: &CumulativeProfile) -> Result<Self> {
        Ok(Self(Walk { gaps: gap_distribution(profile)? }))
    }

    /// The set of a list group, descending from the last block.
    pub(super) fn blocks(&self, group: u32, seed: Seed, key_blocks: usize) -> impl Iterator<Item = usize> {
        let seed = seed.uniform(group, 0, purpose::ROW_COLUMN);
        self.0.positions(key_blocks, move |index| pcg_hash(seed ^ index)).map(move |x| key_blocks - 1 - x)
    }
}

impl RowSampler for IndexSet {
    fn sample_row(
        &self,
        profile: &RowProfile<'_>,
        row: &RowSpan,
        seed: Seed,
        keep: &mut dyn FnMut(bool, usize),
    ) {
        let set = || self.blocks(row.group, seed, row.key_blocks).map(|block| block as i64);
        let inside = set().any(|block| block == row.query_block);
        let window = profile.profile().window_blocks();
        let before = set().map(|block| row.query_block.saturating_sub(block));
        let before = before.filter(|&d| inside && d >= 0).map(|d| d as usize);
        with_window(before, window, &profile.within(&row.before), &mut |d| keep(false, d));
        let mut after: Vec<usize> = set()
            .map(|block| block.saturating_sub(row.query_block))
            .filter(|&d| inside && d > 0)
            .map(|d| d as usize)
            .collect();
        after.reverse();
        with_window(after.into_iter(), window, &profile.within(&row.after), &mut |d| keep(true, d));
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::ONE;
    use super::super::sampler::{Bernoulli, Systematic};
    use super::*;
    use crate::sampling::Profile;

    #[test]
    fn gaps_at_the_harmonic_profile_are_gregory_coefficients() {
        let gaps = gap_distribution(&Profile::harmonic().cumulative(100)).unwrap();
        let mut sum = 0.0;
        for (n, want) in
            [1.0 / 2.0, 1.0 / 12.0, 1.0 / 24.0, 19.0 / 720.0, 3.0 / 160.0, 863.0 / 60480.0].iter().enumerate()
        {
            sum += want;
            assert!((gaps[n] as f64 / ONE as f64 - sum).abs() < 1e-9, "gap {}", n + 1);
        }
    }

    #[test]
    fn lengths_at_the_harmonic_profile() {
        let cut = Cut { decay: Profile::harmonic().decay().clone() };
        for m in [1, 2, 3, 10, 1000, 1 << 20] {
            let longer = 1.0 - cut.at_most(m) as f64 / ONE as f64;
            assert!((longer - 2.0 / (m as f64 + 2.0)).abs() < 1e-9, "length {m}");
        }
        let never = Cut { decay: Decay::Dense };
        assert_eq!(never.draw(0, Seed::new(1)), (UNCUT, 0));
    }

    /// What a caller of [`RowSampler`] may make up: rows that no grid has.
    #[test]
    fn rows_that_no_grid_has() {
        let samplers = [&Bernoulli as &dyn Sampler, &Systematic, &Renewal, &Segment, &RowColumn];
        for (sampler, profile) in samplers.into_iter().flat_map(|s| {
            [
                Profile::harmonic(),
                Profile::dense(),
                Profile::harmonic().with_window_blocks(usize::MAX).unwrap(),
            ]
            .map(|profile| (s, profile))
        }) {
            let table = profile.cumulative(9);
            let rows = sampler.prepare(&table).unwrap();
            let huge = usize::MAX;
            for query_block in [i64::MIN, -1, 0, 3, i64::MAX] {
                for range in [0..huge, huge - 1..huge, huge..3, 0..0, 2..7] {
                    let row = table.row(&range, &range, huge);
                    let span = RowSpan {
                        group: u32::MAX,
                        query_block,
                        before: range.clone(),
                        after: range,
                        key_blocks: huge,
                    };
                    let mut kept = 0;
                    rows.sample_row(&row, &span, Seed::new(u64::MAX), &mut |_, d| {
                        assert!(d < 9, "{}", sampler.name());
                        kept += 1;
                    });
                    assert!(kept <= 18);
                }
            }
        }
    }

    #[test]
    fn walks_have_a_bound() {
        let error = Renewal.prepare(&Profile::harmonic().cumulative(MAX_WALK + 1)).unwrap_err();
        assert!(error.is_too_large() && error.argument() == Some("profile"), "{error}");
    }

    #[test]
    fn profiles_of_the_wrong_shape_are_refused() {
        let refused = |sampler: &dyn Sampler, profile: Profile| {
            let error = sampler.prepare(&profile.cumulative(40)).unwrap_err();
            assert_eq!(error.argument(), Some("profile"), "{error}");
        };
        for sampler in [&Renewal as &dyn Sampler, &Segment, &RowColumn] {
            refused(sampler, Profile::budget(8.0).unwrap());
            refused(sampler, Profile::harmonic().with_floor(0.1).unwrap());
            sampler.prepare(&Profile::harmonic_with(3.0, 0.5).unwrap().cumulative(40)).unwrap();
            sampler.prepare(&Profile::dense().cumulative(40)).unwrap();
        }
        // Convex, but not log-convex: it ends.
        refused(&Renewal, Profile::deduction(0.3).unwrap());
        Segment.prepare(&Profile::deduction(0.3).unwrap().cumulative(40)).unwrap();
    }
}
