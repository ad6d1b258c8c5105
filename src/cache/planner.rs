//! Which ladders fit a budget.

use std::ops::Range;

use super::codec::Codec;
use super::ladder::{Ladder, Rung, Side};
use super::rotated::typical_error;
use super::staircase::Staircase;
use crate::position::harmonic_number;
use crate::shape::{MAX_LEN, Shape};

/// A staircase that fits a budget: see [`Staircase::fitting`].
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// The staircase that fits.
    pub staircase: Staircase,
    /// What it takes at the length asked for, per sequence.
    pub bytes: u64,
    /// What it may lose: the mean of `2·e_K + e_V` over the tokens, weighted by `1/(1 + d)` at a
    /// distance of d segments, with each rung's [error bound](Ladder::error_bounds) e in ranges of
    /// its group. It is the first order of [`output_error_bound`](super::output_error_bound) for
    /// attention that decays harmonically. Of rotated codes e is the root of the [mean squared
    /// error](super::rotated::mean_squared_error), in scales of a row. In which units the range of
    /// a model's groups lies is another matter, so it ranks staircases and bounds no output.
    pub loss: f64,
}

/// A ladder with what its side takes and loses.
struct Candidate {
    ladder: Ladder,
    bytes: [u64; 2],
    loss: f64,
}

impl Staircase {
    /// Staircases that hold `len` tokens (at most 2³⁰ − 1, the longest sequence) in `bytes` per
    /// sequence, least loss first; none if the residual and the sinks alone take more.
    ///
    /// They have this one's S, G, sinks and W, and the nested ladders `16`, `8`, `8×a → 4` and `8×a
    /// → 4×b → 2` with a and b 0 (no such rung) or a power of two up to the length, values never at
    /// more bits in the end than keys (2-bit keys hurt most). For every key ladder, the value
    /// ladder of least loss that fits.
    ///
    /// ```
    /// use prflash::Shape;
    /// use prflash::cache::Staircase;
    /// let shape = Shape::new(8, 1, 32_768, 128)?;
    /// let quarter = 32_768 * 2 * 128 * 2 / 4;
    /// let fits = Staircase::recommended().fitting(quarter, 32_768, &shape);
    /// assert!(fits.iter().all(|fit| fit.bytes <= quarter) && fits[0].loss <= fits[1].loss);
    /// println!("{}", fits[0].staircase);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    pub fn fitting(&self, bytes: u64, len: usize, shape: &Shape) -> Vec<Fit> {
        let len = len.min(MAX_LEN);
        let precise = self.standing(len).memory(shape);
        let Some(left) = bytes.checked_sub(precise.residual + precise.sinks) else { return Vec::new() };
        let mut candidates: Vec<Candidate> =
            family(len.div_ceil(self.segment())).into_iter().map(|l| self.candidate(l, len, shape)).collect();
        candidates.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(a.bytes.cmp(&b.bytes)));
        let fit = |keys: &Candidate| {
            let left = left.checked_sub(keys.bytes[0])?;
            let fits = |values: &&Candidate| {
                values.bytes[1] <= left && values.ladder.last_bits() <= keys.ladder.last_bits()
            };
            let values = candidates.iter().find(fits)?;
            Some(Fit {
                staircase: self.with_ladders(keys.ladder.clone(), values.ladder.clone()),
                bytes: bytes - left + values.bytes[1],
                loss: 2.0 * keys.loss + values.loss,
            })
        };
        let mut fits: Vec<Fit> = candidates.iter().filter_map(fit).collect();
        fits.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(a.bytes.cmp(&b.bytes)));
        fits
    }

    fn candidate(&self, ladder: Ladder, len: usize, shape: &Shape) -> Candidate {
        let staircase = self.with_ladders(ladder.clone(), ladder.clone());
        let standing = staircase.standing(len);
        let memory = standing.memory(shape);
        let bounds = match self.codec() {
            Codec::MinMax => ladder.error_bounds(),
            Codec::Rotated { .. } => ladder.rungs().iter().map(|rung| typical_error(rung.bits)).collect(),
        };
        // Of n segments, segment s has the weight 1/(n − s).
        let count = len.div_ceil(self.segment());
        let rungs = standing.rung_segments(Side::Keys).zip(bounds);
        let lost: f64 =
            rungs.map(|(segments, e)| e * reciprocals(count - segments.end..count - segments.start)).sum();
        let total = reciprocals(0..count);
        let bytes = [memory.keys.iter().sum(), memory.values.iter().sum()];
        Candidate { ladder, bytes, loss: if total > 0.0 { lost / total } else { 0.0 } }
    }
}

/// `1/(a+1) + … + 1/b`.
fn reciprocals(range: Range<usize>) -> f64 {
    // Few of them term by term, since a difference of large sums would lose digits.
    if range.len() <= 64 {
        return range.map(|n| 1.0 / (n + 1) as f64).sum();
    }
    harmonic_number(range.end as u64) - harmonic_number(range.start as u64)
}

fn family(segments: usize) -> Vec<Ladder> {
    let dwells: Vec<usize> =
        [0].into_iter().chain((0..usize::BITS).map(|k| 1 << k).take_while(|&d| d < segments)).collect();
    let ladder = |steps: &[(u32, usize)], last: u32| {
        let steps = steps.iter().filter(|step| step.1 > 0).map(|&(bits, dwell)| Rung::on(bits, dwell));
        Ladder::of(steps.chain([Rung::tail(last)]).collect())
    };
    let mut ladders = vec![ladder(&[], 16), ladder(&[], 8)];
    for &a in &dwells {
        ladders.push(ladder(&[(8, a)], 4));
        ladders.extend(dwells.iter().map(|&b| ladder(&[(8, a), (4, b)], 2)));
    }
    ladders
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum that the docs state, segment by segment.
    fn loss(staircase: &Staircase, ladder: &Ladder, len: usize) -> f64 {
        let staircase = staircase.with_ladders(ladder.clone(), ladder.clone());
        let (standing, bounds) = (staircase.standing(len), ladder.error_bounds());
        let (mut lost, mut total) = (0.0, 0.0);
        for segment in 0..len.div_ceil(staircase.segment()) {
            let distance = (len - 1) / staircase.segment() - segment;
            let weight = 1.0 / (1.0 + distance as f64);
            total += weight;
            lost += standing.segment_rung(Side::Keys, segment).map_or(0.0, |rung| weight * bounds[rung]);
        }
        if total > 0.0 { lost / total } else { 0.0 }
    }

    #[test]
    fn losses_are_sums_over_segments() {
        let shape = Shape::new(8, 1, 1, 128).unwrap();
        let staircase = Staircase::recommended().with_segment(32).unwrap().with_residual(100).unwrap();
        for len in [0usize, 1, 99, 100, 131, 132, 500, 4097, 100_000] {
            for ladder in family(len.div_ceil(32)) {
                let want = loss(&staircase, &ladder, len);
                let got = staircase.candidate(ladder, len, &shape).loss;
                assert!((got - want).abs() <= 1e-13 * want, "{len}: {got} against {want}");
            }
        }
    }

    #[test]
    fn the_longest_sequence_is_planned_at_once() {
        let shape = Shape::new(8, 1, 1, 128).unwrap();
        let start = std::time::Instant::now();
        for len in [MAX_LEN, usize::MAX] {
            let fits = Staircase::recommended().fitting(u64::MAX, len, &shape);
            assert!(fits.len() > 500 && fits[0].loss == 0.0);
        }
        assert!(start.elapsed().as_secs() < 5);
    }
}
