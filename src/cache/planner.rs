//! Which ladders fit a budget.

use super::staircase::{Ladder, Rung, Side, Staircase};
use crate::shape::Shape;

/// A staircase that fits a budget: see [`Staircase::fitting`].
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// The staircase.
    pub staircase: Staircase,
    /// What it takes at the length asked for, per sequence.
    pub bytes: u64,
    /// What it may lose: the mean of `2·e_K + e_V` over the tokens, weighted by `1/(1 + d)` at a distance of d segments, with each rung's
    /// [error bound](Ladder::error_bounds) e in ranges of its group. It is the first order of [`output_error_bound`](super::output_error_bound) for attention that decays
    /// harmonically; in which units the range of a model's groups lies is another matter, so it ranks staircases and bounds no output.
    pub loss: f64,
}

/// A ladder with what its side takes and loses.
struct Candidate {
    ladder: Ladder,
    bytes: [u64; 2],
    loss: f64,
}

impl Staircase {
    /// Staircases that hold `len` tokens in `bytes` per sequence, least loss first; none if the residual and the sinks alone take more.
    ///
    /// They have this one's S, G, sinks and W, and the nested ladders `16`, `8`, `8×a → 4` and `8×a → 4×b → 2` with a and b 0 (no such rung) or a power of
    /// two up to the length, values never at more bits in the end than keys (2-bit keys hurt most). For every key ladder, the value ladder of least loss that fits.
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
        let bounds = ladder.error_bounds();
        let (mut lost, mut total) = (0.0, 0.0);
        for segment in 0..len.div_ceil(self.segment()) {
            let distance = (len - 1) / self.segment() - segment;
            let weight = 1.0 / (1.0 + distance as f64);
            total += weight;
            lost += standing.segment_rung(Side::Keys, segment).map_or(0.0, |rung| weight * bounds[rung]);
        }
        let bytes = [memory.keys.iter().sum(), memory.values.iter().sum()];
        Candidate { ladder, bytes, loss: if total > 0.0 { lost / total } else { 0.0 } }
    }
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
