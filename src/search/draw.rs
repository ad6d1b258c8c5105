//! Draws that are functions of a key and of what is drawn from, not of the order in which it is
//! listed.

use super::history::History;
use super::keyed::uniform;
use super::space::{Parameter, Point};
use crate::random::{hash_words, pcg_hash};

/// Draws of a point that is not to be one from before, until one is looked for among those left.
const DRAWS: u32 = 64;
/// Points of a space that are looked at one by one, at most.
const LISTED: u128 = 1 << 20;

/// A point that was never asked for: drawn value by value with weights of each parameter's, or once
/// that gives but points from before, any other. None where there is no other.
pub(super) fn fresh(history: &History, id: u64, weights: &[Vec<f64>]) -> Option<Point> {
    let space = history.space();
    if space.points() <= history.trials().len() as u128 {
        return None;
    }
    let weighted = |draw: u32| point(history, [id as u32, (id >> 32) as u32, draw], weights);
    let drawn = (0..DRAWS).map(weighted).find(|point| !history.contains(point));
    drawn.or_else(|| any(history, id))
}

/// A point drawn by the weights of its values.
fn point(history: &History, key: [u32; 3], weights: &[Vec<f64>]) -> Point {
    let parameters = history.space().parameters().iter().zip(weights);
    Point(parameters.map(|(parameter, weights)| value(history.seed(), key, parameter, weights)).collect())
}

/// The value with the largest ln w + g, where g is a Gumbel variable of the value's own: so it is
/// each with a probability in proportion to its weight.
pub(super) fn value(seed: u64, key: [u32; 3], parameter: &Parameter, weights: &[f64]) -> u32 {
    let gumbel = |of: u32| -libm::log(-libm::log(uniform(seed, key, of)));
    let score = |index: &usize| libm::log(weights[*index]) + gumbel(parameter.keys()[*index]);
    let scored = (0..parameter.values().len()).map(|index| (score(&index), index));
    let best = scored.max_by(|a, b| {
        // Equal ones go by what they read, so that the order of the list is nothing.
        let read = |index: usize| parameter.values()[index].to_string();
        a.0.total_cmp(&b.0).then_with(|| read(b.1).cmp(&read(a.1)))
    });
    best.map_or(0, |(_, index)| index as u32)
}

/// Of the points that were never asked for the one with the least hash; in a space too large to
/// look at all of them, a draw without weights.
fn any(history: &History, id: u64) -> Option<Point> {
    let space = history.space();
    let key = [id as u32, (id >> 32) as u32];
    if space.points() > LISTED {
        let even: Vec<Vec<f64>> = space.parameters().iter().map(|p| vec![1.0; p.values().len()]).collect();
        let mut draws = (DRAWS..1 << 16).map(|draw| point(history, [key[0], key[1], draw], &even));
        return draws.find(|point| !history.contains(point));
    }
    let rank = |point: &Point| {
        let keys = space.parameters().iter().zip(point.indices()).map(|(p, &at)| p.keys()[at as usize]);
        // A sum, so that the order of the parameters is nothing either.
        let sum = keys.fold(0u32, |sum, key| sum.wrapping_add(pcg_hash(key)));
        hash_words(&[history.seed() as u32, key[0], key[1], sum])
    };
    let points = (0..space.points()).map(|number| nth(history, number));
    let ranked = points.filter(|point| !history.contains(point)).map(|point| (rank(&point), point));
    let first = ranked.min_by(|a, b| {
        // Equal ones go by what they read.
        a.0.cmp(&b.0).then_with(|| space.describe(&a.1).cmp(&space.describe(&b.1)))
    });
    first.map(|(_, point)| point)
}

/// The points in the order of their lists, the last parameter the fastest.
pub(super) fn nth(history: &History, number: u128) -> Point {
    let mut left = number;
    let mut indices: Vec<u32> = history
        .space()
        .parameters()
        .iter()
        .rev()
        .map(|parameter| {
            let count = parameter.values().len() as u128;
            let index = left % count;
            left /= count;
            index as u32
        })
        .collect();
    indices.reverse();
    Point(indices)
}
