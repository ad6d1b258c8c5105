//! The peers at the four shapes, and what the history of a decode step may be held in.

use std::ffi::OsString;
use std::rc::Rc;

use anyhow::{Result, bail};
use prflash::cache::Staircase;
use prflash::{BlockGrid, Context, DType, Profile, Schedule, Seed, Systematic};

use crate::measure::{Contestant, Effort, Work, interleave, progress};
use crate::problem::{Problem, difference};
#[cfg(feature = "burn")]
use crate::with_burn::{Burn, Sharing};
use crate::with_candle::{Candle, Way};
use crate::with_native::{self, Inputs, Threads};
use crate::with_prflash::{Cached, Tensors};
use crate::with_torch::{self, Torch};

/// How far an f32 result may be from the exact rows, and results from each other.
pub const TOLERANCE: f64 = 1e-3;

/// A way of a peer that was tried before the rounds, of which only the fastest runs in them.
pub struct Trial {
    pub name: String,
    pub how: String,
    /// The seconds of a warm call.
    pub seconds: Option<f64>,
    pub failed: Option<String>,
}

/// The rounds at one shape.
pub struct Comparison {
    pub problem: Problem,
    /// prflash, burn and candle, f32 all of them; then other ways to hold the history.
    pub contestants: Vec<Contestant>,
    /// Bytes of keys and values as prflash holds them; one for prflash and each other way to hold
    /// them.
    pub held: Vec<Held>,
    pub trials: Vec<Trial>,
    /// The kernel of ours.
    pub kernel: String,
    /// The numbers of those on CPU cores, candle aside: [`CORES`].
    pub cores: [usize; 4],
    /// What the native engine's history takes and loses, as [`held`](Comparison::held).
    pub native_held: Vec<Held>,
    /// What instructions the native engine uses.
    pub instructions: String,
}

/// Who computes on CPU cores, candle aside: on all threads and on one.
pub const CORES: [&str; 4] = ["native", "torch", "native, one thread", "torch, one thread"];

/// A Python that has torch, or why there is none.
pub enum Python {
    Has(OsString),
    Lacks(String),
}

/// What a history takes and loses.
pub struct Held {
    /// The number of the contestant.
    pub index: usize,
    pub bytes: u64,
    /// ‖o − o_f32‖ / ‖o_f32‖.
    pub relative_difference: f64,
}

/// How many contestants are peers in f32, ours first.
pub const PEERS: usize = 3;

/// Checks all contestants at a shape against exact rows and each other, and times them in turn.
pub fn compare(context: &Context, problem: &Problem, effort: Effort, python: &Python) -> Result<Comparison> {
    let mut trials = Vec::new();
    let mut kernel = String::new();
    let mut ours = Contestant::new("prflash", "", || {
        let tensors = Tensors::new(context, problem, DType::F32)?;
        kernel = tensors.kernel();
        Ok(Box::new(tensors))
    });
    ours.how.clone_from(&kernel);
    prepare(&mut ours, problem, Some(TOLERANCE));
    if let Some(why) = &ours.failed {
        bail!("{}: prflash: {why}", problem.name);
    }

    let burn = burn(problem, &mut trials);
    let candles = Way::ALL.iter().map(|&way| {
        let build = move || -> Result<Box<dyn Work>> { Ok(Box::new(Candle::new(problem, way)?)) };
        (way.describe(), build)
    });
    let candle = fastest("candle", candles, problem, &mut trials);

    let mut contestants = vec![ours, burn, candle];
    let (ours, peers) = contestants.split_at_mut(1);
    for peer in peers {
        apart(&ours[0].output, peer);
        peer.output = Vec::new();
    }

    let mut instructions = String::new();
    let cores = add_cores(problem, python, &mut contestants, &mut trials, &mut instructions)?;
    let mut held = Vec::new();
    if problem.is_decode() {
        let elements = (2 * problem.kv_heads * problem.kv_len * problem.dim) as u64;
        held.push(Held { index: 0, bytes: elements * 4, relative_difference: 0.0 });
        let mut add = |mut contestant: Contestant, bytes: u64, tolerance: Option<f64>| {
            prepare(&mut contestant, problem, tolerance);
            if let Some(why) = &contestant.failed {
                bail!("{}: prflash, {}: {why}", problem.name, contestant.name);
            }
            let index = contestants.len();
            let relative_difference = relative(&contestant.output, &contestants[0].output);
            held.push(Held { index, bytes, relative_difference });
            contestants.push(contestant);
            Ok(())
        };
        let halves =
            Contestant::new("f16 tensors", "", || Ok(Box::new(Tensors::new(context, problem, DType::F16)?)));
        add(halves, elements * 2, Some(TOLERANCE))?;
        let caches = [
            ("plain cache (f16)", Staircase::plain(), Some(TOLERANCE)),
            ("recommended", Staircase::recommended(), None),
            ("paper", Staircase::paper(), None),
            ("kivi(4)", Staircase::kivi(4)?, None),
            ("kivi(2)", Staircase::kivi(2)?, None),
        ];
        for (name, staircase, tolerance) in caches {
            let mut bytes = 0;
            let contestant = Contestant::new(name, "", || {
                let cached = Cached::new(context, problem, staircase)?;
                bytes = cached.bytes;
                Ok(Box::new(cached))
            });
            add(contestant, bytes, tolerance)?;
        }
    }

    let native_held = match problem.is_decode() {
        true => add_native_histories(problem, cores[0], &mut contestants)?,
        false => Vec::new(),
    };

    interleave(problem.name, effort, &mut contestants)?;
    if let Some(why) = &contestants[0].failed {
        bail!("{}: prflash: {why}", problem.name);
    }
    contestants.iter_mut().for_each(Contestant::retire);
    Ok(Comparison { problem: *problem, contestants, held, trials, kernel, cores, native_held, instructions })
}

#[cfg(feature = "burn")]
fn burn(problem: &Problem, trials: &mut Vec<Trial>) -> Contestant {
    let sharings: &[Sharing] =
        if problem.is_decode() { &[Sharing::Repeated, Sharing::Folded] } else { &[Sharing::Repeated] };
    let burns = sharings.iter().map(|&sharing| {
        let build = move || -> Result<Box<dyn Work>> { Ok(Box::new(Burn::new(problem, sharing)?)) };
        (sharing.describe(), build)
    });
    fastest("burn", burns, problem, trials)
}

#[cfg(not(feature = "burn"))]
fn burn(_: &Problem, _: &mut [Trial]) -> Contestant {
    Contestant::absent("burn", "left out of this run (scripts/benchmarks --without-burn)")
}

/// Those on CPU cores, in the order of [`CORES`]; returns their numbers.
fn add_cores(
    problem: &Problem,
    python: &Python,
    contestants: &mut Vec<Contestant>,
    trials: &mut Vec<Trial>,
    instructions: &mut String,
) -> Result<[usize; 4]> {
    let inputs = Inputs::new(problem, DType::F32)?;
    let mut native = |name: &str, threads| -> Result<Contestant> {
        let mut contestant = Contestant::new(name, "", || {
            let tensors = with_native::Tensors::new(problem, &inputs, threads, None)?;
            *instructions = tensors.instructions();
            Ok(Box::new(tensors))
        });
        contestant.how = format!("plan_native, {instructions}");
        prepare(&mut contestant, problem, Some(TOLERANCE));
        apart(&contestants[0].output, &mut contestant);
        match &contestant.failed {
            Some(why) => bail!("{}: {name}: {why}", problem.name),
            None => Ok(contestant),
        }
    };
    let [all, one] = [native(CORES[0], Threads::All)?, native(CORES[2], Threads::One)?];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut torch = |name: &str, threads: usize| match python {
        Python::Lacks(why) => Contestant::absent(name, why.as_str()),
        Python::Has(python) => {
            let ways = with_torch::Way::of(problem).iter().map(|&way| {
                let build = move || -> Result<Box<dyn Work>> {
                    Ok(Box::new(Torch::new(python, problem, way, threads)?))
                };
                (way.describe(), build)
            });
            let mut torch = fastest(name, ways, problem, trials);
            apart(&contestants[0].output, &mut torch);
            torch
        }
    };
    let [torch_all, torch_one] = [torch(CORES[1], cores), torch(CORES[3], 1)];
    let first = contestants.len();
    contestants.extend([all, torch_all, one, torch_one]);
    Ok([0, 1, 2, 3].map(|at| first + at))
}

/// The same step of decoding from f16 tensors and from packed words; the first is the one from f32.
fn add_native_histories(
    problem: &Problem,
    native: usize,
    contestants: &mut Vec<Contestant>,
) -> Result<Vec<Held>> {
    let elements = (2 * problem.kv_heads * problem.kv_len * problem.dim) as u64;
    let mut held = vec![Held { index: native, bytes: elements * 4, relative_difference: 0.0 }];
    let mut add = |mut contestant: Contestant, bytes: u64, tolerance: Option<f64>| {
        prepare(&mut contestant, problem, tolerance);
        if let Some(why) = &contestant.failed {
            bail!("{}: native, {}: {why}", problem.name, contestant.name);
        }
        let relative_difference = relative(&contestant.output, &contestants[native].output);
        held.push(Held { index: contestants.len(), bytes, relative_difference });
        contestants.push(contestant);
        Ok(())
    };
    let halves = Contestant::new("native, f16 tensors", "", || {
        let inputs = Inputs::new(problem, DType::F16)?;
        Ok(Box::new(with_native::Tensors::new(problem, &inputs, Threads::All, None)?))
    });
    add(halves, elements * 2, Some(TOLERANCE))?;
    for (name, staircase, tolerance) in [
        ("native, plain cache (f16)", Staircase::plain(), Some(TOLERANCE)),
        ("native, recommended", Staircase::recommended(), None),
    ] {
        let mut bytes = 0;
        let contestant = Contestant::new(name, "", || {
            let cached = with_native::Cached::new(problem, staircase)?;
            bytes = cached.bytes;
            Ok(Box::new(cached))
        });
        add(contestant, bytes, tolerance)?;
    }
    Ok(held)
}

/// Agreement with exact rows is about some; this is about all the others.
fn apart(ours: &[f32], other: &mut Contestant) {
    let apart = difference(ours, &other.output);
    if other.ran() && (apart.is_nan() || apart > TOLERANCE) {
        other.fail(format!(
            "differs from prflash by {apart:.1e} somewhere, though not in the rows known exactly"
        ));
    }
}

/// PrFlashAttention by the native engine beside its dense attention.
pub struct NativeGrowth {
    pub len: usize,
    /// Visited blocks over those of dense attention.
    pub density: f64,
    pub sampled: Contestant,
    pub dense: Contestant,
}

/// At one length, with p(d) = 1/(1+d) and one list per head, as the growth on the device.
pub fn native_growth(len: usize, effort: Effort) -> Result<NativeGrowth> {
    let problem = Problem::prompt("scaling", 8, 2, len, 64);
    let inputs: Rc<Inputs> = Inputs::new(&problem, DType::F32)?;
    let grid = BlockGrid::causal(&problem.shape()?);
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1))?;
    let density = schedule.density();
    let tensors = |schedule| with_native::Tensors::new(&problem, &inputs, Threads::All, schedule);
    let (sampled, dense) = (tensors(Some(schedule.clone()))?, tensors(None)?);
    let mut both = [
        Contestant::new("PrFlash", "native", || Ok(Box::new(sampled))),
        Contestant::new("dense", "native", || Ok(Box::new(dense))),
    ];
    for (contestant, schedule) in both.iter_mut().zip([Some(&schedule), None]) {
        contestant.warm_up();
        if let Some(output) = contestant.attempt(|work| work.result()) {
            let from_exact = problem.difference_from_exact(&output, schedule);
            contestant.from_exact = Some(from_exact);
            if from_exact.is_nan() || from_exact > TOLERANCE {
                contestant.fail(format!("wrong result: {from_exact:.1e} from the exact rows"));
            }
        }
    }
    interleave("native growth", effort, &mut both)?;
    both.iter_mut().for_each(Contestant::retire);
    let [sampled, dense] = both;
    Ok(NativeGrowth { len, density, sampled, dense })
}

/// Warms up and checks. `None`: results are kept, but may be inexact by design; they have to be
/// numbers.
fn prepare(contestant: &mut Contestant, problem: &Problem, tolerance: Option<f64>) -> Option<f64> {
    progress(&format!("{}: {} {}: warming up", problem.name, contestant.name, contestant.how));
    let seconds = contestant.warm_up()?;
    contestant.output = contestant.attempt(|work| work.result())?;
    let from_exact = problem.difference_from_exact(&contestant.output, None);
    contestant.from_exact = Some(from_exact);
    if from_exact.is_nan() || tolerance.is_some_and(|tolerance| from_exact > tolerance) {
        contestant.fail(format!("wrong result: {from_exact:.1e} from the exact rows"));
        return None;
    }
    Some(seconds)
}

/// The fastest way of a peer that computes the right result; all are noted. Where none does, the
/// first with its failure.
fn fastest<'a, B: FnOnce() -> Result<Box<dyn Work>>>(
    name: &str,
    ways: impl Iterator<Item = (&'a str, B)>,
    problem: &Problem,
    trials: &mut Vec<Trial>,
) -> Contestant {
    let mut best: Option<(f64, Contestant)> = None;
    for (how, build) in ways {
        let mut contestant = Contestant::new(name, how, build);
        let seconds = prepare(&mut contestant, problem, Some(TOLERANCE));
        trials.push(Trial {
            name: name.to_owned(),
            how: how.to_owned(),
            seconds,
            failed: contestant.failed.clone(),
        });
        let seconds = seconds.unwrap_or(f64::INFINITY);
        if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
            if let Some((_, mut other)) = best.replace((seconds, contestant)) {
                other.retire();
            }
        } else {
            contestant.retire();
        }
    }
    best.expect("every peer has a way").1
}

fn relative(values: &[f32], to: &[f32]) -> f64 {
    let square = |sum: f64, x: f64| sum + x * x;
    let apart = values.iter().zip(to).map(|(a, b)| f64::from(a - b)).fold(0.0, square);
    (apart / to.iter().map(|x| f64::from(*x)).fold(0.0, square)).sqrt()
}
