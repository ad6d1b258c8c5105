//! Values of the command line that have numbers of their own.

use anyhow::{Context, Result, bail};
use prflash::position::{Distance, Scaling, Slopes};
use prflash::{Bias, Profile};

use super::RopeScaling;

/// `name` or `name:number,number` as the name and its numbers.
fn call(text: &str) -> Result<(&str, Vec<f64>)> {
    let Some((name, numbers)) = text.split_once(':') else { return Ok((text, Vec::new())) };
    let number =
        |part: &str| part.trim().parse().with_context(|| format!("{part:?} in {text:?} is no number"));
    Ok((name, numbers.split(',').map(number).collect::<Result<_>>()?))
}

pub(super) fn profile(text: &str) -> Result<Profile> {
    let (name, numbers) = call(text)?;
    Ok(match (name, numbers.as_slice()) {
        ("harmonic", []) => Profile::harmonic(),
        ("harmonic", [a]) => Profile::harmonic_with(*a, 1.0)?,
        ("harmonic", [a, alpha]) => Profile::harmonic_with(*a, *alpha)?,
        ("budget", [blocks]) => Profile::budget(*blocks)?,
        ("budget", [blocks, alpha]) => Profile::budget_with(*blocks, *alpha)?,
        ("half-window", [blocks]) => Profile::half_window(*blocks)?,
        ("deduction", [c]) => Profile::deduction(*c)?,
        _ => bail!(
            "expected half-window:BLOCKS, harmonic, harmonic:A, harmonic:A,ALPHA, budget:BLOCKS, budget:BLOCKS,ALPHA or deduction:C, got {text:?}"
        ),
    })
}

pub(super) fn scaling(text: &str) -> Result<RopeScaling> {
    let (name, numbers) = call(text)?;
    Ok(match (name, numbers.as_slice()) {
        ("linear", &[factor]) => RopeScaling::Fixed(Scaling::Linear { factor }),
        ("ntk", &[factor]) => RopeScaling::Fixed(Scaling::NtkAware { factor }),
        ("yarn", &[factor]) => RopeScaling::YarnFromContext { factor },
        ("yarn", &[factor, tokens]) => RopeScaling::Fixed(Scaling::yarn(factor, tokens as usize)),
        _ => bail!("expected linear:FACTOR, ntk:FACTOR, yarn:FACTOR or yarn:FACTOR,TOKENS, got {text:?}"),
    })
}

pub(super) fn bias(text: &str, weight: Option<f64>) -> Result<Bias> {
    let (name, numbers) = call(text)?;
    let bias = match (name, numbers.as_slice()) {
        ("alibi", []) => Bias::alibi(),
        ("harmonic", []) => Bias::harmonic(),
        ("log", &[rate]) => Bias::new(Distance::Log { rate }, Slopes::Harmonic)?,
        ("capped", &[cap]) => Bias::new(Distance::CappedHarmonic { cap: cap as u64 }, Slopes::Harmonic)?,
        _ => bail!("expected alibi, harmonic, log:RATE or capped:TOKENS, got {text:?}"),
    };
    bias.with_weight(weight.unwrap_or(1.0)).context("--bias-weight")
}
