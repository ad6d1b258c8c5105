//! What was asked and told, and who decides what is asked next.

use std::collections::HashMap;
use std::fmt;

use super::keyed::name;
use super::space::{Point, Space};
use crate::error::{Error, Result, ensure};
use crate::random::hash_words;

/// A point to be scored.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Trial {
    /// The trial's number, from 0 on.
    pub id: u64,
    /// The point to be scored.
    pub point: Point,
    /// For whatever the score draws at random: another one for each trial, and the same each time
    /// that the search is run.
    pub seed: u64,
    /// How much of the work is to be done, from 0 to 1: as a part of the data.
    pub fidelity: f64,
}

/// What a search wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// The score of this trial.
    Trial(Trial),
    /// Scores of trials that it has asked for: what comes next depends on them.
    Wait,
    /// Nothing: there is no other point.
    Exhausted,
}

/// The trials of a search so far.
#[derive(Clone, Debug)]
pub struct History {
    space: Space,
    seed: u64,
    fidelity: f64,
    trials: Vec<Trial>,
    scores: Vec<Option<f64>>,
    of_point: HashMap<Point, u64>,
}

/// Decides which point comes next: a pure function of the trials so far.
///
/// A method of your own takes a few lines. This one goes through a list:
///
/// ```
/// use prflash::search::{Ask, History, Method, Next, Parameter, Point, Search, Space};
/// #[derive(Debug)]
/// struct Listed(Vec<Point>);
///
/// impl Method for Listed {
///     fn next(&self, history: &History) -> Next {
///         let new = self.0.iter().find(|point| !history.contains(point));
///         new.map_or(Next::Exhausted, |point| Next::Point(point.clone()))
///     }
/// }
///
/// let space = Space::new([Parameter::ordinal("window", [1, 2, 4, 8])?])?;
/// let points = [8, 2].map(|window| space.point([("window", window.into())]));
/// let listed = Listed(points.into_iter().collect::<prflash::Result<_>>()?);
/// let mut search = Search::new(space, listed, 7);
/// while let Ask::Trial(trial) = search.ask() {
///     search.tell(trial.id, -(trial.id as f64))?;
/// }
/// let history = search.history();
/// assert_eq!(history.space().describe(&history.trials()[1].point), "window = 2");
/// assert_eq!((history.seed(), history.score(1)), (7, Some(-1.0)));
/// # Ok::<(), prflash::Error>(())
/// ```
pub trait Method: fmt::Debug {
    /// The next point, for the trial whose number is that of the trials so far.
    fn next(&self, history: &History) -> Next;
}

/// What a [`Method`] says.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The next trial has this point.
    Point(Point),
    /// More scores are needed.
    Wait,
    /// There is no other point.
    Exhausted,
}

impl Next {
    pub(super) fn of(point: Option<Point>) -> Self {
        point.map_or(Self::Exhausted, Self::Point)
    }
}

impl History {
    /// The space that is searched.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// What all draws are functions of.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All trials that were asked for, by their numbers.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// The score of a trial, NaN for one that failed; none as long as it wasn't told.
    pub fn score(&self, id: u64) -> Option<f64> {
        *self.scores.get(usize::try_from(id).ok()?)?
    }

    /// Whether a point was asked for.
    pub fn contains(&self, point: &Point) -> bool {
        self.of_point.contains_key(point)
    }

    /// Of some trials those that have a score, the best first. Of equal scores the lower number is
    /// first, so that nothing depends on the order of telling.
    pub(super) fn ranked(&self, ids: std::ops::Range<usize>) -> Vec<&Trial> {
        let score = |trial: &Trial| self.scores[trial.id as usize].filter(|score| !score.is_nan());
        let mut scored: Vec<(&Trial, f64)> =
            self.trials[ids].iter().filter_map(|trial| Some((trial, score(trial)?))).collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.id.cmp(&b.0.id)));
        scored.into_iter().map(|(trial, _)| trial).collect()
    }

    /// Whether all of these have been told.
    pub(super) fn told(&self, ids: std::ops::Range<usize>) -> bool {
        self.scores[ids].iter().all(Option::is_some)
    }
}

/// A search under way.
///
/// Trials can be of a part of the work first, and what is known can be the beginning of another
/// search:
///
/// ```
/// use prflash::search::{Ask, Parameter, Random, Search, Space};
/// let space = Space::new([Parameter::ordinal("window", [1, 2, 4, 8])?])?;
/// let mut search = Search::new(space.clone(), Random, 1).with_fidelity(0.25)?;
/// let Ask::Trial(trial) = search.ask() else { return Ok(()) };
/// assert_eq!(trial.fidelity, 0.25);
/// search.tell(trial.id, 0.5)?;
///
/// let history = search.history();
/// let known = history.trials().iter().map(|trial| (trial.clone(), history.score(trial.id)));
/// let mut again = Search::new(space, Random, 1).resumed(known)?;
/// let Ask::Trial(next) = again.ask() else { return Ok(()) };
/// assert_eq!((next.id, next.fidelity), (1, 1.0));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Debug)]
pub struct Search<M> {
    history: History,
    method: M,
}

impl<M: Method> Search<M> {
    /// Of a space by a method. Everything drawn is a function of the seed.
    pub fn new(space: Space, method: M, seed: u64) -> Self {
        let history = History {
            space,
            seed,
            fidelity: 1.0,
            trials: Vec::new(),
            scores: Vec::new(),
            of_point: HashMap::new(),
        };
        Self { history, method }
    }

    /// With trials from now on of a part of the work, from 0 to 1; 1 unless set.
    ///
    /// # Errors
    /// Invalid argument (`fidelity`) unless above 0 and at most 1.
    pub fn with_fidelity(mut self, fidelity: f64) -> Result<Self> {
        ensure!(fidelity > 0.0 && fidelity <= 1.0, "fidelity", "expected above 0, at most 1, got {fidelity}");
        self.history.fidelity = fidelity;
        Ok(self)
    }

    /// Taken up again from trials of the same space with their scores, as if it had asked for them
    /// itself and been told: those of a search by the same method and seed, or others.
    ///
    /// # Errors
    /// Invalid argument (`trials`) unless they are numbered 0, 1, 2, … and their points are of this
    /// space, each once.
    pub fn resumed(mut self, trials: impl IntoIterator<Item = (Trial, Option<f64>)>) -> Result<Self> {
        for (trial, score) in trials {
            let want = self.history.trials.len() as u64;
            ensure!(trial.id == want, "trials", "expected trial {want}, got {}", trial.id);
            let known = self.history.space.has(&trial.point);
            ensure!(known, "trials", "trial {want}: its point is of another space");
            ensure!(
                !self.history.contains(&trial.point),
                "trials",
                "trial {want}: its point was there before"
            );
            self.history.push(trial, score);
        }
        Ok(self)
    }

    /// The space that is searched.
    pub fn space(&self) -> &Space {
        &self.history.space
    }

    /// What was asked and told.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// How points are chosen.
    pub fn method(&self) -> &M {
        &self.method
    }

    /// The next trial. Several may be asked for before any is told, until the method has to wait.
    pub fn ask(&mut self) -> Ask {
        let point = match self.method.next(&self.history) {
            Next::Point(point) => point,
            Next::Wait => return Ask::Wait,
            Next::Exhausted => return Ask::Exhausted,
        };
        let id = self.history.trials.len() as u64;
        let half = |half: &str| {
            let seed = self.history.seed;
            let words = [seed as u32, (seed >> 32) as u32, id as u32, (id >> 32) as u32, name(half)];
            u64::from(hash_words(&words))
        };
        let seed = half("high") << 32 | half("low");
        let trial = Trial { id, point, seed, fidelity: self.history.fidelity };
        self.history.push(trial.clone(), None);
        Ask::Trial(trial)
    }

    /// The score of a trial, the larger the better; NaN for one that failed, which is worse than
    /// any score.
    ///
    /// # Errors
    /// Invalid argument (`id`) if there is no such trial, or its score was told before.
    pub fn tell(&mut self, id: u64, score: f64) -> Result<()> {
        let asked = self.history.trials.len();
        let place = usize::try_from(id).ok().and_then(|id| self.history.scores.get_mut(id));
        let Some(place) = place else {
            return Err(Error::argument_error("id", format!("expected below {asked}, got {id}")));
        };
        ensure!(place.is_none(), "id", "the score of trial {id} was told before");
        *place = Some(score);
        Ok(())
    }

    /// The trial with the best score, and that; none as long as there is no score but of failures.
    pub fn best(&self) -> Option<(&Trial, f64)> {
        let best = self.history.ranked(0..self.history.trials.len()).into_iter().next()?;
        Some((best, self.history.score(best.id)?))
    }
}

impl History {
    fn push(&mut self, trial: Trial, score: Option<f64>) {
        self.of_point.insert(trial.point.clone(), trial.id);
        self.trials.push(trial);
        self.scores.push(score);
    }
}
