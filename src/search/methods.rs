//! Methods that don't look at scores.

use super::draw::{fresh, nth};
use super::history::{History, Method, Next};
use super::space::{Parameter, Point};
use crate::random::hash_words;

/// Any point, each as likely as the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random;

impl Method for Random {
    fn next(&self, history: &History) -> Next {
        let even: Vec<Vec<f64>> = history.space().parameters().iter().map(even).collect();
        Next::of(fresh(history, history.trials().len() as u64, &even))
    }
}

pub(super) fn even(parameter: &Parameter) -> Vec<f64> {
    vec![1.0 / parameter.values().len() as f64; parameter.values().len()]
}

/// Points drawn so that each parameter has each of its values equally often: of as many trials as
/// it has values, one has each, in an order that is drawn anew. A point that was there before gives
/// way to any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balanced;

impl Method for Balanced {
    fn next(&self, history: &History) -> Next {
        let id = history.trials().len();
        let place = |parameter: &Parameter| {
            let count = parameter.values().len();
            let (round, place) = (id / count, id % count);
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by_cached_key(|&index| {
                let (seed, key) = (history.seed(), parameter.keys()[index]);
                let hash = hash_words(&[seed as u32, (seed >> 32) as u32, round as u32, key]);
                (hash, parameter.values()[index].to_string())
            });
            order[place] as u32
        };
        let point = Point(history.space().parameters().iter().map(place).collect());
        match history.contains(&point) {
            true => Random.next(history),
            false => Next::Point(point),
        }
    }
}

/// All points in turn, the last parameter the fastest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grid;

impl Method for Grid {
    fn next(&self, history: &History) -> Next {
        let id = history.trials().len() as u128;
        match id < history.space().points() {
            true => Next::Point(nth(history, id)),
            false => Next::Exhausted,
        }
    }
}
