//! Gradients beside burn's, printed: no part of the record.

use anyhow::{Result, bail};
use prflash::Context;
use testkit::statistics::median;

use crate::compare::TOLERANCE;
use crate::measure::{Contestant, Effort, Work, interleave};
use crate::problem::{Problem, difference};
#[cfg(feature = "burn")]
use crate::with_burn::BurnGradients;
use crate::with_prflash::{Gradients, Passes};

/// What gradients are compared at: S1 and S2.
const SHAPES: usize = 2;

/// Times forward and backward passes in turn and prints their medians, and what burn takes for one
/// of ours.
pub fn print(context: &Context, effort: Effort) -> Result<()> {
    println!("{}", context.capabilities());
    println!("burn: automatic differentiation of single operations, K and V heads repeated beforehand");
    for problem in &Problem::SHAPES[..SHAPES] {
        println!("{} {}, f32:", problem.name, problem.describe());
        let mut contestants = contestants(context, problem);
        contestants.iter_mut().for_each(|one| {
            one.warm_up();
        });
        check(&mut contestants, problem)?;
        interleave(problem.name, effort, &mut contestants)?;
        let time = |index: usize| median(&contestants[index].seconds);
        for (one, index) in contestants.iter().zip(0..) {
            match one.ran() {
                true => println!("  {} {}: {:.1} ms", one.name, one.how, time(index) * 1e3),
                false => println!("  {} {}: not timed", one.name, one.how),
            }
        }
        if contestants[3].ran() && contestants[4].ran() {
            println!("  forward and backward: burn takes {:.2} × prflash", time(3) / time(2));
            let backward = (time(3) - time(4)) / time(1);
            println!("  backward, burn's without its forward pass: {backward:.2} × prflash");
        }
        contestants.iter_mut().for_each(Contestant::retire);
    }
    Ok(())
}

/// Ours, forward, backward and both, then burn's both and forward.
fn contestants(context: &Context, problem: &Problem) -> Vec<Contestant> {
    let ours = |how, passes| {
        let build = || -> Result<Box<dyn Work>> { Ok(Box::new(Gradients::new(context, problem, passes)?)) };
        Contestant::new("prflash", how, build)
    };
    vec![
        ours("forward", Passes::Forward),
        ours("backward", Passes::Backward),
        ours("forward and backward", Passes::Both),
        burn(problem, "forward and backward", true),
        burn(problem, "forward, differentiable", false),
    ]
}

/// Refuses gradients of ours that failed, and drops burn's where they are apart from ours.
fn check(contestants: &mut [Contestant], problem: &Problem) -> Result<()> {
    let Some(ours) = contestants[2].attempt(|work| work.result()) else {
        bail!("{}: prflash has no gradients", problem.name);
    };
    // A device that lacks memory says so when something is read.
    contestants[4].attempt(|work| work.result());
    let Some(theirs) = contestants[3].attempt(|work| work.result()) else { return Ok(()) };
    let largest = ours.iter().fold(0.0, |most: f64, x| most.max(f64::from(x.abs())));
    let apart = difference(&ours, &theirs) / largest;
    println!("  gradients are within {apart:.1e} of each other, over the largest");
    if apart.is_nan() || apart > TOLERANCE {
        contestants[3].fail(format!("gradients are {apart:.1e} from prflash's"));
    }
    Ok(())
}

#[cfg(feature = "burn")]
fn burn(problem: &Problem, how: &str, backward: bool) -> Contestant {
    let each = BurnGradients::heads_each(problem);
    let how = match each == problem.heads {
        true => how.to_owned(),
        false => format!("{how}, {each} heads at once"),
    };
    Contestant::new("burn", how, || Ok(Box::new(BurnGradients::new(problem, backward)?)))
}

#[cfg(not(feature = "burn"))]
fn burn(_: &Problem, how: &str, _: bool) -> Contestant {
    let mut absent = Contestant::absent("burn", "left out of this run (scripts/benchmarks --without-burn)");
    how.clone_into(&mut absent.how);
    absent
}
