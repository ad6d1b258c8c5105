//! The cross-entropy method with a distribution that sees which values go together.

use super::draw::fresh;
use super::family::{Family, Frequencies};
use super::history::{History, Method, Next, Trial};
use super::methods::even;
use crate::error::{Result, ensure};

/// The part of all trials that is the elite.
const ELITE: f64 = 0.2;
/// The part of an elite trial's weight for the values next to its own, of ordinal parameters.
const NEIGHBOURS: f64 = 0.15;

/// The cross-entropy method with trees (as Baluja and Davies 1997 have them): of all trials so far
/// the best fifth is the elite, and after each round the likeliest tree of dependences between
/// parameters is fitted to it (Chow and Liu 1968), by which two values that are good only together
/// come together. That is what rows of [`CrossEntropy`](super::CrossEntropy), which are independent
/// of each other, can't learn.
///
/// - *Weights*: the r-th of μ elite trials counts `ln(μ + ½) − ln r`, as in evolution strategies
///   (Hansen and Ostermeier 2001): few trials say more by their order than by being in or out.
/// - *Smoothing*: one trial more of even values, and 16 of independent ones for what goes together,
///   so that a pair of parameters has to show itself in more than a handful of trials.
/// - *Choice*: of the points drawn, that with the largest ratio of its probability to that under the
///   same tree fitted to the other trials. What is frequent in the elite by chance is as frequent
///   in the rest; without the ratio it would be learnt. (So does [`Tpe`](super::Tpe), with
///   a kernel at each trial in place of a tree.)
/// - *Floor*: a part of each row is even. All of it is random search.
///
/// It is far ahead of independent rows. Beside [`Tpe`](super::Tpe), on real trainings
/// (`lab/RESULTS.md`), it is as good where its constants were chosen, and behind on a table that it
/// hadn't seen: there some searches stay at a point that isn't the best.
///
/// Only ranks of scores matter. Points that were asked for before are drawn anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreeCrossEntropy {
    round: usize,
    startup: usize,
    candidates: usize,
    floor: f64,
}

impl TreeCrossEntropy {
    /// The first 8 trials drawn evenly, then rounds of 4; each trial is the best of 24 points drawn,
    /// and a twentieth of each row is even.
    pub fn recommended() -> Self {
        Self { round: 4, startup: 8, candidates: 24, floor: 0.05 }
    }

    /// With rounds of so many trials, which can be scored at the same time.
    ///
    /// # Errors
    /// Invalid argument (`round`) for rounds of none.
    pub fn with_round(self, round: usize) -> Result<Self> {
        ensure!(round > 0, "round", "expected at least 1, got 0");
        Ok(Self { round, ..self })
    }

    /// With so many trials drawn evenly at first.
    pub fn with_startup(self, startup: usize) -> Self {
        Self { startup, ..self }
    }

    /// With so many points drawn for a trial.
    ///
    /// # Errors
    /// Invalid argument (`candidates`) for none.
    pub fn with_candidates(self, candidates: usize) -> Result<Self> {
        ensure!(candidates > 0, "candidates", "expected at least 1, got 0");
        Ok(Self { candidates, ..self })
    }

    /// With this part of each row even.
    ///
    /// # Errors
    /// Invalid argument (`floor`) unless 0 to 1.
    pub fn with_floor(self, floor: f64) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&floor), "floor", "expected 0 to 1, got {floor}");
        Ok(Self { floor, ..self })
    }

    /// The probability of each value of each parameter in the round that comes next, or is under
    /// way, whatever the others' values, without the floor.
    pub fn distribution(&self, history: &History) -> Vec<Vec<f64>> {
        let parameters = history.space().parameters();
        match self.split(history) {
            None => parameters.iter().map(even).collect(),
            Some((elite, _)) => Frequencies::new(parameters, &elite, NEIGHBOURS).rows,
        }
    }

    /// Pairs of parameters that the tree joins in the round that comes next, or is under way, by
    /// their places; none before the first.
    pub fn dependences(&self, history: &History) -> Vec<(usize, usize)> {
        let parameters = history.space().parameters();
        self.split(history).map_or(Vec::new(), |(elite, _)| {
            let tree = Frequencies::new(parameters, &elite, NEIGHBOURS).tree(parameters);
            tree.into_iter().filter_map(|(index, parent)| Some((parent?, index))).collect()
        })
    }

    /// The elite of the rounds that are over and the other trials, with their weights; none where
    /// points are drawn evenly.
    #[expect(clippy::type_complexity, reason = "two lists of the same kind")]
    fn split<'h>(&self, history: &'h History) -> Option<(Vec<(&'h Trial, f64)>, Vec<(&'h Trial, f64)>)> {
        let asked = history.trials().len();
        let mut end = asked - asked % self.round;
        if end > 0 && !history.told(0..end) {
            // What comes next has to wait; the round that is under way was drawn by those before.
            end -= self.round;
        }
        let ranked = history.ranked(0..end);
        if end < self.startup || ranked.is_empty() {
            return None;
        }
        let count = ((ELITE * end as f64).ceil() as usize).min(ranked.len());
        let weight = |rank: usize| libm::log(count as f64 + 0.5) - libm::log(rank as f64 + 1.0);
        let elite = ranked.iter().take(count).enumerate().map(|(rank, &trial)| (trial, weight(rank)));
        let mut is_elite = vec![false; end];
        ranked[..count].iter().for_each(|trial| is_elite[trial.id as usize] = true);
        // Those that failed are among them.
        let others = history.trials()[..end].iter().filter(|trial| !is_elite[trial.id as usize]);
        Some((elite.collect(), others.map(|trial| (trial, 1.0)).collect()))
    }
}

impl Method for TreeCrossEntropy {
    fn next(&self, history: &History) -> Next {
        let asked = history.trials().len();
        let parameters = history.space().parameters();
        let over = asked >= self.startup && asked.is_multiple_of(self.round);
        if over && !history.told(0..asked) {
            return if history.space().points() <= asked as u128 { Next::Exhausted } else { Next::Wait };
        }
        let id = asked as u64;
        let evenly = || Next::of(fresh(history, id, &parameters.iter().map(even).collect::<Vec<_>>()));
        let Some((elite, others)) = self.split(history) else { return evenly() };
        let [elite, others] = [elite, others].map(|trials| Frequencies::new(parameters, &trials, NEIGHBOURS));
        let tree = elite.tree(parameters);
        let [elite, others] =
            [&elite, &others].map(|frequencies| Family::new(frequencies, &tree, self.floor));
        let draw = |number: u32| elite.draw(history, [id as u32, (id >> 32) as u32, number]);
        let drawn = (0..self.candidates as u32).map(draw).filter(|point| !history.contains(point));
        let scored = drawn.map(|point| (elite.ln(&point) - others.ln(&point), point));
        // Of equal ones the first, by which a floor of all is random search.
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or_else(evenly, |(_, point)| Next::Point(point))
    }
}
