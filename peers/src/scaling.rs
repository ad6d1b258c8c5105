//! How PrFlashAttention's time grows with the sequence, beside dense attention's.

use std::time::Instant;

use anyhow::{Result, bail};
use prflash::{BlockGrid, Context, DType, Key, Profile, Schedule, Systematic, Tables};

use crate::compare::TOLERANCE;
use crate::measure::{Contestant, Effort, exponent, interleave, median, progress};
use crate::problem::Problem;
use crate::with_prflash::Tensors;

/// From this length on the exponents are fitted: below it what a call costs in itself shows.
pub const FIT_FROM: usize = 4096;

/// One length.
pub struct Point {
    pub len: usize,
    /// Of the schedule, over all heads.
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

/// Causal, f32, 8 query heads on 2 KV heads, D = 64; p(d) = 1/(1+d) with one sink block, one list per head. Dense attention runs while a call is expected to
/// stay under `dense_seconds`.
pub fn scaling(context: &Context, longest: usize, dense_seconds: f64, effort: Effort) -> Growth {
    let mut points: Vec<Point> = Vec::new();
    let mut len = 1024;
    while len <= longest {
        let expected = match points.last() {
            None => Some(0.0),
            // Four times the time of half the length.
            Some(point) => point.dense.as_ref().map(|dense| 4.0 * median(&dense.seconds)),
        };
        let dense_call = expected.filter(|seconds| *seconds < dense_seconds);
        match point(context, len, dense_call, effort) {
            Ok(point) => points.push(point),
            // What is measured isn't lost to a length that the device can't hold.
            Err(error) => return Growth { points, ended: Some(format!("at N = {len}: {error}")) },
        }
        len *= 2;
    }
    Growth { points, ended: None }
}

/// `dense_call`: seconds that a dense call is expected to take, where there shall be one.
fn point(context: &Context, len: usize, dense_call: Option<f64>, effort: Effort) -> Result<Point> {
    let label = format!("N = {len}");
    progress(&format!("{label}: inputs and schedule"));
    let problem = Problem::prompt("scaling", 8, 2, len, 64);
    let shape = problem.shape()?;
    let dense = Tensors::new(context, &problem, DType::F32)?;

    let started = Instant::now();
    let schedule =
        Schedule::sample(&BlockGrid::causal(&shape), &Profile::harmonic(), &Systematic, Key::new(1))?;
    let sampled = dense.with_tables(&Tables::from(&schedule))?;
    context.wait()?;
    let schedule_seconds = started.elapsed().as_secs_f64();

    let how = dense.kernel();
    let mut contestants = vec![Contestant::new("PrFlash", how.as_str(), || Ok(Box::new(sampled)))];
    prepare(&mut contestants[0], &problem, Some(&schedule))?;
    if let Some(expected) = dense_call {
        let mut dense = Contestant::new("dense", how.as_str(), || Ok(Box::new(dense)));
        // Long calls are neither warmed up nor checked for themselves: the kernel is compiled and the memory touched by the sampled call.
        if expected < 2.0 {
            prepare(&mut dense, &problem, None)?;
        }
        contestants.push(dense);
    }
    interleave(&label, effort, &mut contestants)?;
    for contestant in &contestants {
        if let Some(why) = &contestant.failed {
            bail!("{label}, {}: {why}", contestant.name);
        }
    }
    contestants.iter_mut().for_each(Contestant::retire);
    let dense = (contestants.len() > 1).then(|| contestants.remove(1));
    Ok(Point {
        len,
        blocks: schedule.visited_blocks(),
        density: schedule.density(),
        visited_flops: 4.0 * problem.dim as f64 * schedule.visited_pairs() as f64,
        schedule_seconds,
        sampled: contestants.remove(0),
        dense,
    })
}

fn prepare(contestant: &mut Contestant, problem: &Problem, schedule: Option<&Schedule>) -> Result<()> {
    let output = contestant.warm_up().and_then(|_| contestant.attempt(|work| work.result()));
    if let Some(output) = output {
        let from_exact = problem.difference_from_exact(&output, schedule);
        contestant.from_exact = Some(from_exact);
        if from_exact.is_nan() || from_exact > TOLERANCE {
            contestant.fail(format!("wrong result: {from_exact:.1e} from the exact rows"));
        }
    }
    match &contestant.failed {
        Some(why) => bail!("N = {}, {}: {why}", problem.kv_len, contestant.name),
        None => Ok(()),
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
