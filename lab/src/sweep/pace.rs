//! How far a sweep is, and who hears of it.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How far a sweep is.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// What is being computed, or has just been.
    pub title: &'a str,
    /// What came of it, once it has.
    pub outcome: Option<String>,
    /// The share of the work of this run that is done.
    pub done: f64,
    /// The time left at the pace so far; none before there is one.
    pub left: Option<Duration>,
}

/// Who hears how far a task is.
pub(super) struct Watch<'a> {
    pub(super) pace: &'a Pace,
    pub(super) title: &'a str,
    pub(super) cost: f64,
    pub(super) hear: &'a mut dyn FnMut(&Progress<'_>) -> Result<()>,
}

impl Watch<'_> {
    /// That this share of the task is done.
    pub(super) fn at(&mut self, share: f64) -> Result<()> {
        (self.hear)(&self.pace.progress(self.title, self.cost * share))
    }
}

/// Work done against time taken.
pub(super) struct Pace {
    pub(super) start: Instant,
    pub(super) total: f64,
    pub(super) done: f64,
}

impl Pace {
    pub(super) fn progress<'a>(&self, title: &'a str, under_way: f64) -> Progress<'a> {
        let done = (self.done + under_way) / self.total.max(f64::MIN_POSITIVE);
        let taken = self.start.elapsed().as_secs_f64();
        let left = (done > 0.002).then(|| Duration::from_secs_f64(taken * ((1.0 - done) / done).max(0.0)));
        Progress { title, outcome: None, done: done.min(1.0), left }
    }
}
