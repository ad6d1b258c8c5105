//! The cross-entropy method with a distribution that sees which values go together.

use super::draw::fresh;
use super::family::{Family, Frequencies, SAME};
use super::history::{History, Method, Next, Trial};
use super::kernels::Kernels;
use super::keyed::{name, uniform};
use super::methods::even;
use super::space::Point;
use crate::error::{Result, ensure};

/// The part of all trials that is the elite.
const ELITE: f64 = 0.2;
/// The part of the tree in the mixture of both.
const TREE: f64 = 0.25;
/// The part of an elite trial's weight for the values next to its own, of ordinal parameters.
const NEIGHBOURS: f64 = 0.15;

/// The cross-entropy method with a family of distributions that sees which values go together: of
/// all trials so far the best fifth is the elite, after each round the family is fitted to it, and
/// the next points are drawn from that. The family is a mixture of
///
/// - a *tree*, for a quarter of the points: the likeliest tree of dependences between parameters
///   (Chow and Liu 1968; in searches Baluja and Davies 1997), with the elite's frequencies of
///   values and of pairs of values. So it combines what good trials have in common, even if no
///   trial had all of it.
/// - *kernels*, for the others: one around each elite trial, a product over the parameters, which
///   is the wider the fewer there are (as Bosman and Thierens 2000 have normal kernels). So it
///   keeps whole what was good in one trial, where a tree of pairs would mix trials of two places
///   that are both good, and forget the rarer one. They are those of [`Tpe`](super::Tpe), with the
///   wide one that is of no trial.
///
/// What makes it work with few trials:
///
/// - *Weights*: the r-th of μ elite trials counts `ln(μ + ½) − ln r`, as in evolution strategies
///   (Hansen and Ostermeier 2001): few trials say more by their order than by being in or out.
/// - *Smoothing*: one trial more of even values, and in the tree 16 of independent ones for what
///   goes together, so that a pair of parameters has to show itself in more than a handful of
///   trials.
/// - *Choice*: of the points drawn, that with the largest ratio of its probability by kernels at
///   the elite to that by kernels at the other trials, as in [`Tpe`](super::Tpe). What is frequent
///   in the elite by chance is as frequent in the rest; without the ratio it would be learnt.
///
/// It is as near to [`Tpe`](super::Tpe) as to the method of independent rows,
/// [`CrossEntropy`](super::CrossEntropy); what it has beyond the former are the weights, an elite
/// twice as large, and the tree. `lab/RESULTS.md` compares them on real trainings.
///
/// Only ranks of scores matter. Points that were asked for before are drawn anew.
///
/// ```
/// use prflash::search::{Ask, Parameter, Search, Space, TreeCrossEntropy};
/// let space = Space::new([
///     Parameter::nominal("a", ["left", "right"])?,
///     Parameter::nominal("b", ["left", "right"])?,
/// ])?;
/// // Four machines score four trials at the same time.
/// let method = TreeCrossEntropy::recommended().with_round(4)?.with_startup(4).with_candidates(8)?;
/// let mut search = Search::new(space, method, 1);
/// for _ in 0..4 {
///     let Ask::Trial(trial) = search.ask() else { break };
///     let [a, b] = trial.point.indices() else { break };
///     search.tell(trial.id, f64::from(u8::from(a == b)))?;
/// }
/// // What it draws from next, by parameter and value, and which parameters it joins.
/// assert_eq!(method.distribution(search.history()).len(), 2);
/// assert_eq!(method.dependences(search.history()), [(0, 1)]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeCrossEntropy {
    round: usize,
    startup: usize,
    candidates: usize,
}

impl TreeCrossEntropy {
    /// The first 8 trials drawn evenly, then rounds of 2; each trial is the best of 24 points
    /// drawn.
    pub fn recommended() -> Self {
        Self { round: 2, startup: 8, candidates: 24 }
    }

    /// With rounds of so many trials, which can be scored at the same time; the more, the less each
    /// knows.
    ///
    /// # Errors
    /// Invalid argument (`round`) for rounds of none.
    pub fn with_round(self, round: usize) -> Result<Self> {
        ensure!(round > 0, "round", "expected at least 1, got 0");
        Ok(Self { round, ..self })
    }

    /// The same method with so many trials drawn evenly at first.
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

    /// The probability of each value of each parameter in the round that comes next, or is under
    /// way, whatever the others' values.
    pub fn distribution(&self, history: &History) -> Vec<Vec<f64>> {
        let parameters = history.space().parameters();
        let Some((elite, _)) = self.split(history) else { return parameters.iter().map(even).collect() };
        let kernels = Kernels::new(parameters, &elite);
        let mut rows = Frequencies::new(parameters, &elite, NEIGHBOURS).rows;
        for (index, row) in rows.iter_mut().enumerate() {
            row.iter_mut()
                .zip(kernels.row(index))
                .for_each(|(p, other)| *p = TREE * *p + (1.0 - TREE) * other);
        }
        rows
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
        let frequencies = Frequencies::new(parameters, &elite, NEIGHBOURS);
        let tree = Family::new(&frequencies, parameters);
        let [good, bad] = [elite, others].map(|trials| Kernels::new(parameters, &trials));
        let draw = |number: u32| {
            let key = [id as u32, (id >> 32) as u32, number];
            match uniform(history.seed(), key, name("tree")) < TREE {
                true => tree.draw(history, key),
                false => good.draw(history, key),
            }
        };
        let drawn = (0..self.candidates as u32).map(draw).filter(|point| !history.contains(point));
        // In whole steps, so that the order of a sum is nothing; of equal ones the first.
        let ratio = |point: &Point| ((good.ln(point) - bad.ln(point)) / SAME) as i64;
        let scored = drawn.map(|point| (ratio(&point), point));
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or_else(evenly, |(_, point)| Next::Point(point))
    }
}
