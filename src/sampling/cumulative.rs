//! A profile tabulated over distances, and what each row makes of it.

use std::ops::Range;

use super::profile::{Decay, ONE, Profile, fixed};
use crate::limits::MAX_DISTANCES;

impl Profile {
    /// `p` and its running sum for the distances below `distances`, or below [`MAX_DISTANCES`] if
    /// that is less: no grid has more. Takes 16 bytes for each.
    pub fn cumulative(&self, distances: usize) -> CumulativeProfile {
        let distances = distances.min(MAX_DISTANCES);
        let clip = |(distance, f): (usize, f64)| match self.decay().budget() {
            // Clipped row by row, once γ is known.
            Some(_) => fixed(f),
            None => self.clipped(distance, f),
        };
        let probabilities: Vec<u64> = (0..distances).zip(self.decay().values()).map(clip).collect();
        let mut sums = Vec::with_capacity(distances + 1);
        sums.push(0);
        let mut sum = 0;
        for p in &probabilities {
            sum += p;
            sums.push(sum);
        }
        CumulativeProfile { profile: self.clone(), probabilities, sums }
    }
}

/// A [`Profile`] tabulated over the distances of one grid. Past the table p is 0.
#[derive(Clone, Debug)]
pub struct CumulativeProfile {
    profile: Profile,
    probabilities: Vec<u64>,
    sums: Vec<u64>,
}

impl CumulativeProfile {
    /// The profile that was tabulated.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The distances tabulated: those below this.
    pub fn distances(&self) -> usize {
        self.probabilities.len()
    }

    /// The profile of one row, whose candidates are these distances before and after the diagonal
    /// (those that are tabulated), beside `pinned` sink blocks.
    pub fn row(&self, before: &Range<usize>, after: &Range<usize>, pinned: usize) -> RowProfile<'_> {
        let row = RowProfile { table: self, gamma: ONE, certain: 0, floor_from: usize::MAX, floor: 0 };
        let Some(blocks) = self.profile.decay().budget() else { return row };
        let (before, after) = (&self.within(before), &self.within(after));
        let candidates = before.len() + after.len();
        // At least the diagonal, which is a candidate unless it is a sink itself.
        let target = libm::round((blocks - pinned as f64).max(0.0) * ONE as f64) as u64;
        if target >= candidates as u64 * ONE {
            // All but those of weight 0.
            let positive = self.probabilities.partition_point(|&weight| weight > 0);
            return row.with_certain(positive);
        }
        let cost = |gamma: u64| {
            let row = row.with_gamma(gamma);
            row.sum_of(before) + row.sum_of(after)
        };
        // The smallest γ whose cost reaches the target; the cost grows with γ.
        let (mut low, mut high) = (0, self.largest_gamma(before.end.max(after.end)));
        while low < high {
            let middle = low + (high - low) / 2;
            if cost(middle) >= target { high = middle } else { low = middle + 1 }
        }
        row.with_gamma(low)
    }

    /// The part of a range that is tabulated.
    fn within(&self, range: &Range<usize>) -> Range<usize> {
        range.start.min(self.distances())..range.end.min(self.distances())
    }

    /// A γ that makes every block of positive weight below `end` certain. Of the row alone, not of
    /// the table, so that the search for its γ takes the same steps in every grid that has this
    /// row.
    fn largest_gamma(&self, end: usize) -> u64 {
        if let Decay::Budget { alpha: 1.0, .. } = *self.profile.decay() {
            return (end as u64 + 1) * ONE;
        }
        let least = self.probabilities.iter().take(end).rev().find(|&&weight| weight > 0);
        least.map_or(0, |&weight| (u64::MAX / weight).saturating_add(1))
    }

    /// The distances below which `γ·w_d ≥ 1`.
    fn certain_below(&self, gamma: u64) -> usize {
        match *self.profile.decay() {
            // γ/(1+d) ≥ 1 where d < ⌊γ⌋.
            Decay::Budget { alpha: 1.0, .. } => (gamma >> 32) as usize,
            _ => self.probabilities.partition_point(|&weight| scaled(gamma, weight) >= ONE),
        }
    }
}

/// The probabilities of one row: what a [`RowSampler`](super::RowSampler) draws from.
///
/// All numbers are unsigned 32.32 fixed point (2³² is certainty).
#[derive(Clone, Copy, Debug)]
pub struct RowProfile<'a> {
    table: &'a CumulativeProfile,
    /// The factor on the tabulated values between `certain` and `floor_from`.
    gamma: u64,
    /// Distances below this have p = 1, whatever the table says.
    certain: usize,
    /// Distances from here on have p = `floor`, whatever the table says.
    floor_from: usize,
    floor: u64,
}

impl<'a> RowProfile<'a> {
    /// The profile behind it.
    pub fn profile(&self) -> &'a Profile {
        &self.table.profile
    }

    /// The same where distances below this have p = 1, and further ones the floor's.
    fn with_certain(&self, distance: usize) -> Self {
        let floor = self.table.profile.floor();
        let certain = distance.max(self.table.profile.window_blocks());
        let floor_from = if floor > 0.0 { certain } else { usize::MAX };
        Self { certain, floor_from, floor: fixed(floor), ..*self }
    }

    /// The tabulated part of a range of distances: past it p is 0.
    pub(super) fn within(&self, range: &Range<usize>) -> Range<usize> {
        self.table.within(range)
    }

    fn with_gamma(&self, gamma: u64) -> Self {
        let profile = &self.table.profile;
        let certain = self.table.certain_below(gamma).max(profile.window_blocks());
        let floor = fixed(profile.floor());
        let above = |&p: &u64| scaled(gamma, p) >= floor;
        let floor_from = match profile.floor() > 0.0 {
            true => self.table.probabilities.partition_point(above).max(certain),
            false => usize::MAX,
        };
        Self { gamma, certain, floor_from, floor, ..*self }
    }

    /// `p(d)`; 0 past the table.
    pub fn probability(&self, distance: usize) -> u64 {
        self.sum_below(distance.saturating_add(1)) - self.sum_below(distance)
    }

    /// `p(0) + … + p(distances − 1)`.
    pub fn sum_below(&self, distances: usize) -> u64 {
        let distances = distances.min(self.table.distances());
        let certain = distances.min(self.certain);
        let scaled_end = distances.clamp(certain, self.floor_from.max(certain));
        let sums = &self.table.sums;
        // A steep profile's γ times the sum of what is certain may pass 64 bits; the difference
        // never does.
        let between = scaled(self.gamma, sums[scaled_end]).wrapping_sub(scaled(self.gamma, sums[certain]));
        certain as u64 * ONE + between + (distances - scaled_end) as u64 * self.floor
    }

    /// `p` summed over a range of distances.
    pub fn sum_of(&self, range: &Range<usize>) -> u64 {
        self.sum_below(range.end.max(range.start)) - self.sum_below(range.start)
    }

    /// The natural logarithm of `p(d)`: of the probability with which a block is really drawn.
    pub fn ln_p(&self, distance: usize) -> f32 {
        libm::log(self.probability(distance) as f64 / ONE as f64).min(0.0) as f32
    }

    /// The smallest distance `≥ from` whose cumulative sum (its own p included) reaches `target`,
    /// if there is one below `end`.
    ///
    /// Gallops, so that a run of certain blocks costs one step each and a long gap costs the
    /// logarithm of its length.
    pub(super) fn first_reaching(&self, target: u64, from: usize, end: usize) -> Option<usize> {
        let end = end.min(self.table.distances());
        if from >= end {
            return None;
        }
        let reaches = |distance: usize| self.sum_below(distance + 1) >= target;
        let (mut low, mut width) = (from, 1);
        while low + width <= end && !reaches(low + width - 1) {
            low += width;
            width *= 2;
        }
        // The answer, if any, is in low .. low + width.
        let mut high = (low + width).min(end);
        while low < high {
            let middle = low + (high - low) / 2;
            if reaches(middle) { high = middle } else { low = middle + 1 }
        }
        (low < end && reaches(low)).then_some(low)
    }
}

/// `factor·value` in 32.32, modulo 2⁶⁴.
fn scaled(factor: u64, value: u64) -> u64 {
    if factor == ONE { value } else { ((u128::from(factor) * u128::from(value)) >> 32) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certainty_is_exact_and_logarithms_match() {
        let table = Profile::harmonic_with(2.0, 0.5).unwrap().with_window_blocks(3).unwrap().cumulative(100);
        let row = table.row(&(0..100), &(0..0), 0);
        for d in 0..3 {
            assert_eq!((row.probability(d), row.ln_p(d)), (ONE, 0.0));
        }
        for d in 3..100 {
            let want = (2.0 / (2.0 + d as f64)).sqrt();
            assert!((row.probability(d) as f64 / ONE as f64 - want).abs() < 1e-9);
            assert!((f64::from(row.ln_p(d)) - want.ln()).abs() < 1e-6);
        }
    }

    #[test]
    fn galloping_finds_the_first() {
        for profile in [Profile::harmonic(), Profile::budget(7.5).unwrap().with_floor(0.03).unwrap()] {
            let table = profile.cumulative(50);
            let row = table.row(&(0..50), &(0..0), 0);
            for from in 0..50 {
                for target in (0..=row.sum_below(50) + ONE).step_by(ONE as usize / 7) {
                    let naive = (from..40).find(|&d| row.sum_below(d + 1) >= target);
                    assert_eq!(row.first_reaching(target, from, 40), naive);
                }
            }
        }
    }

    #[test]
    fn a_budget_is_met_exactly() {
        let weights: Vec<f64> = (0..700).map(|d| 3.0 / (1.0 + f64::from(d) / 40.0)).collect();
        let families = [
            |blocks, _: &[f64]| Profile::budget(blocks),
            |blocks, _: &[f64]| Profile::budget_with(blocks, 0.0),
            |blocks, _: &[f64]| Profile::budget_with(blocks, 2.5),
            Profile::allocated,
        ];
        for (family, (blocks, floor, window)) in families.into_iter().flat_map(|family| {
            [(1.0, 0.0, 1), (6.0, 0.0, 1), (8.25, 0.0, 3), (30.0, 0.02, 1), (500.0, 0.0, 1)]
                .map(|c| (family, c))
        }) {
            let profile = family(blocks, &weights)
                .and_then(|profile| profile.with_floor(floor)?.with_window_blocks(window))
                .unwrap();
            let table = profile.cumulative(1000);
            for (before, after, pinned) in
                [(0..1000, 0..0, 0), (0..999, 0..0, 1), (0..400, 1..300, 1), (0..3, 0..0, 1)]
            {
                let row = table.row(&before, &after, pinned);
                let candidates = (before.len() + after.len()) as f64;
                // Pins and floors may cost more than the budget by themselves.
                let least: f64 =
                    before.clone().chain(after.clone()).map(|d| if d < window { 1.0 } else { floor }).sum();
                let want = (blocks - pinned as f64).max(least).min(candidates);
                let got = (row.sum_of(&before) + row.sum_of(&after)) as f64 / ONE as f64;
                assert!(
                    (got - want).abs() < 1e-6 * want.max(1.0),
                    "{profile}, {before:?}: {got} against {want}"
                );
                assert!(before.clone().all(|d| row.probability(d) <= ONE + 1));
            }
        }
    }

    /// Weights that fall below the fixed point's resolution, and factors near 2⁶⁴.
    #[test]
    fn steep_budgets_keep_what_they_can() {
        let profile = Profile::budget_with(40.0, 8.0).unwrap();
        let table = profile.cumulative(1000);
        let row = table.row(&(0..1000), &(0..0), 0);
        let sum = row.sum_below(1000) as f64 / ONE as f64;
        assert!((5.0..40.0).contains(&sum), "{sum}");
        assert!(
            (0..999).all(|d| row.probability(d) <= ONE && row.probability(d + 1) <= row.probability(d) + 1)
        );
        assert_eq!(row.probability(900), 0);
    }

    #[test]
    fn a_full_window_is_the_whole_budget() {
        let half = Profile::budget(8.0).unwrap().with_window_blocks(4).unwrap();
        assert_eq!(Profile::half_window(8.0).unwrap(), half);
        assert_eq!(Profile::half_window(1.0).unwrap(), Profile::budget(1.0).unwrap());
        let profile = Profile::budget(6.0).unwrap().with_window_blocks(5).unwrap();
        let table = profile.cumulative(100);
        let row = table.row(&(0..99), &(0..0), 1);
        assert_eq!((row.probability(4), row.probability(5), row.sum_below(99)), (ONE, 0, 5 * ONE));
    }
}
