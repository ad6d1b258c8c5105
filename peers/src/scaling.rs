//! How PrFlashAttention's time grows with the sequence, beside dense attention's.

use std::time::Instant;

use anyhow::{Result, bail};
use prflash::{BlockGrid, Context, DType, Profile, Schedule, Seed, Systematic, Tables};
use testkit::statistics::median;

use crate::compare::TOLERANCE;
use crate::measure::{Contestant, Effort, exponent, interleave, progress};
use crate::problem::Problem;
use crate::with_prflash::Tensors;

/// From this length on the exponents are fitted: below it what a call costs in itself shows.
pub const FIT_FROM: usize = 4096;

/// What was measured at one length.
pub struct Point {
    pub len: usize,
    /// The blocks of the schedule, over all heads.
    pub blocks: u64,
    /// Over those of dense attention.
    pub density: f64,
    /// FLOPs of the visited (query, key) pairs.
    pub visited_flops: f64,
    /// Drawing the schedule on the host, and uploading it: once.
    pub schedule_seconds: f64,
    pub sampled: Contestant,
    pub dense: Option<Contestant>,
}

/// All lengths that could be measured.
pub struct Growth {
    pub points: Vec<Point>,
    /// Where and why the series ended early.
    pub ended: Option<String>,
}

/// What was fitted over the points from [`FIT_FROM`] on: exponents with their standard errors.
pub struct Fit {
    pub sampled: Option<(f64, f64)>,
    pub blocks: Option<(f64, f64)>,
    pub dense: Option<(f64, f64)>,
}

/// Causal, f32, 8 query heads on 2 KV heads, D = 64; p(d) = 1/(1+d) with one sink block, one list
/// per head. Dense attention runs while a call is expected to stay under `dense_seconds`. All
/// lengths are in the same rounds, so that the machine's drift doesn't bend the curve.
pub fn scaling(context: &Context, longest: usize, dense_seconds: f64, effort: Effort) -> Growth {
    let mut places: Vec<Place> = Vec::new();
    let mut contestants = Vec::new();
    let mut ended = None;
    let mut dense_call = Some(0.0);
    let mut len = 1024;
    while len <= longest {
        let wanted = dense_call.filter(|seconds| *seconds < dense_seconds);
        match place(context, len, wanted, &mut contestants) {
            Ok(place) => {
                // Four times the time of half the length.
                dense_call = place.dense.map(|(_, seconds)| 4.0 * seconds);
                places.push(place);
            }
            // What can be measured isn't lost to a length that the device can't hold.
            Err(error) => {
                ended = Some(format!("at N = {len}: {error}"));
                break;
            }
        }
        len *= 2;
    }
    if let Err(error) = interleave("growth", effort, &mut contestants) {
        return Growth { points: vec![], ended: Some(format!("at once: {error}")) };
    }
    let failed =
        contestants.iter().find_map(|one| Some(format!("for {}: {}", one.name, one.failed.as_ref()?)));
    contestants.iter_mut().for_each(Contestant::retire);
    let mut timed: Vec<Option<Contestant>> = contestants.into_iter().map(Some).collect();
    let mut points = Vec::new();
    for place in places {
        // A contestant that failed in the rounds has no times.
        let mut take = |index: usize| timed[index].take().filter(|one| one.failed.is_none());
        let dense = place.dense.and_then(|(index, _)| take(index));
        if let Some(sampled) = take(place.sampled) {
            let Place { len, blocks, density, visited_flops, schedule_seconds, .. } = place;
            points.push(Point { len, blocks, density, visited_flops, schedule_seconds, sampled, dense });
        }
    }
    Growth { points, ended: ended.or(failed) }
}

/// A length that is ready to be timed.
struct Place {
    len: usize,
    blocks: u64,
    density: f64,
    visited_flops: f64,
    schedule_seconds: f64,
    /// The number of the contestant.
    sampled: usize,
    /// Which one, and the seconds that a call takes or is expected to take.
    dense: Option<(usize, f64)>,
}

/// `dense_call`: seconds that a dense call is expected to take, where there shall be one. What is
/// ready joins the contestants.
fn place(
    context: &Context,
    len: usize,
    dense_call: Option<f64>,
    contestants: &mut Vec<Contestant>,
) -> Result<Place> {
    progress(&format!("N = {len}: inputs and schedule"));
    let problem = Problem::prompt("scaling", 8, 2, len, 64);
    let shape = problem.shape()?;
    let dense = Tensors::new(context, &problem, DType::F32)?;

    let started = Instant::now();
    let grid = BlockGrid::causal(&shape);
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1))?;
    let sampled = dense.with_tables(&Tables::from(&schedule))?;
    context.wait()?;
    let schedule_seconds = started.elapsed().as_secs_f64();

    let how = dense.kernel();
    let mut sampled = Contestant::new("PrFlash", how.as_str(), || Ok(Box::new(sampled)));
    prepare(&mut sampled, &problem, Some(&schedule))?;
    let dense = match dense_call {
        None => None,
        Some(mut expected) => {
            let mut dense = Contestant::new("dense", how.as_str(), || Ok(Box::new(dense)));
            // Long calls are neither warmed up nor checked for themselves: the kernel is compiled
            // and the memory touched by the sampled call.
            if expected < 2.0 {
                expected = prepare(&mut dense, &problem, None)?;
            }
            Some((dense, expected))
        }
    };
    let index = contestants.len();
    contestants.push(sampled);
    let dense = dense.map(|(dense, seconds)| {
        contestants.push(dense);
        (index + 1, seconds)
    });
    Ok(Place {
        len,
        blocks: schedule.visited_blocks(),
        density: schedule.density(),
        visited_flops: 4.0 * problem.dim as f64 * schedule.visited_pairs() as f64,
        schedule_seconds,
        sampled: index,
        dense,
    })
}

/// Warms up and checks; returns the seconds of a warm call.
fn prepare(contestant: &mut Contestant, problem: &Problem, schedule: Option<&Schedule>) -> Result<f64> {
    let seconds = contestant.warm_up();
    if let Some(output) = contestant.attempt(|work| work.result()) {
        let from_exact = problem.difference_from_exact(&output, schedule);
        contestant.from_exact = Some(from_exact);
        if from_exact.is_nan() || from_exact > TOLERANCE {
            contestant.fail(format!("wrong result: {from_exact:.1e} from the exact rows"));
        }
    }
    match (&contestant.failed, seconds) {
        (None, Some(seconds)) => Ok(seconds),
        (why, _) => bail!("{}: {}", contestant.name, why.as_deref().unwrap_or("no time")),
    }
}

/// Exponents over N.
pub fn fit(points: &[Point]) -> Fit {
    let far = || points.iter().filter(|point| point.len >= FIT_FROM);
    let of = |pairs: Vec<(f64, f64)>| exponent(&pairs);
    Fit {
        sampled: of(far().map(|point| (point.len as f64, median(&point.sampled.seconds))).collect()),
        blocks: of(far().map(|point| (point.len as f64, point.blocks as f64)).collect()),
        dense: of(far()
            .filter_map(|point| Some((point.len as f64, median(&point.dense.as_ref()?.seconds))))
            .collect()),
    }
}
