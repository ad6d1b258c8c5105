//! A search by one method and seed, and its winner scored again.

use anyhow::{Result, ensure};
use prflash::search::{Ask, Search};

use super::objective::{AGAIN, Outcome};
use super::store::Kept;
use super::values::Values;
use crate::search::contenders::Contender;

/// How far each search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Trials of a search.
    pub trials: usize,
    /// Other seeds by which its winner is scored again.
    pub again: u64,
}

/// A search that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// The method of the search.
    pub method: Contender,
    /// The seed of the search, and of every score: so those of all methods in a run are by common
    /// random numbers.
    pub run: u64,
    /// What became of each trial.
    pub trials: Vec<(Values, Outcome)>,
    /// The best trial; none if all failed.
    pub winner: Option<Winner>,
}

/// The best trial of a search by what others than its own seed say.
#[derive(Clone, Debug, PartialEq)]
pub struct Winner {
    /// The point that was tried last.
    pub values: Values,
    /// The outcome by each of the other seeds.
    pub again: Vec<Outcome>,
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The method that searches.
    pub method: Contender,
    /// The number of the run.
    pub run: u64,
    /// How many scores of the search there are, with those by other seeds.
    pub done: usize,
    /// The part of the next score that is done.
    pub part: f64,
    /// The best score so far; NaN if there is none.
    pub best: f64,
}

impl Course {
    /// Searches, through the scores that are there. `step` hears what is under way.
    ///
    /// # Errors
    /// The errors of [`Kept::score`] and of `step`.
    pub fn run(
        kept: &mut Kept<'_>,
        method: Contender,
        run: u64,
        wanted: Wanted,
        step: &mut dyn FnMut(&Now) -> Result<()>,
    ) -> Result<Self> {
        let space = kept.objective().space().clone();
        let mut search = Search::new(space.clone(), method.method()?, run);
        let mut trials = Vec::new();
        let mut now = Now { method, run, done: 0, part: 0.0, best: f64::NAN };
        let mut score = |kept: &mut Kept<'_>, now: &mut Now, values: &Values, seed: u64| {
            step(now)?;
            let outcome = kept.score(values, seed, &mut |part| step(&Now { part, ..*now }));
            now.done += 1;
            outcome
        };
        while trials.len() < wanted.trials {
            let trial = match search.ask() {
                Ask::Trial(trial) => trial,
                Ask::Exhausted => break,
                Ask::Wait => anyhow::bail!("{} waits for scores that it has", method.name()),
            };
            let values = Values::of(&space, &trial.point);
            let outcome = score(kept, &mut now, &values, run)?;
            search.tell(trial.id, outcome.select())?;
            now.best = search.best().map_or(f64::NAN, |(_, best)| best);
            trials.push((values, outcome));
        }
        ensure!(!trials.is_empty(), "expected at least one trial");
        let best = search.best().map(|(trial, _)| Values::of(&space, &trial.point));
        let winner = match best {
            Some(values) => {
                let seeds = AGAIN..AGAIN + wanted.again;
                let again = seeds.map(|seed| score(kept, &mut now, &values, seed));
                let again = again.collect::<Result<Vec<Outcome>>>()?;
                Some(Winner { values, again })
            }
            None => None,
        };
        Ok(Self { method, run, trials, winner })
    }
}
