//! Every kind of kernel against the oracles, on the reader's device, and how fast some calls are.

mod checks;
mod speeds;

use prflash::tuning::TuningOptions;
use prflash::{Attention, Context, PlanOptions, Result, Shape};
use serde_json::{Value, json};

pub use checks::Check;

/// What a step is called, its number, and how many there are.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Checks all kernels and times some calls.
///
/// # Errors
/// The device is lost, or out of memory. A check that fails is in the report.
pub async fn report(context: &Context, progress: Progress<'_>) -> Result<Value> {
    let steps = checks::COUNT + speeds::COUNT;
    let mut checks = Vec::new();
    for number in 0..checks::COUNT {
        progress(checks::name(number), number, steps);
        checks.push(checks::run(context, number).await?);
    }
    let mut speeds = Vec::new();
    for number in 0..speeds::COUNT {
        progress(speeds::NAMES[number], checks::COUNT + number, steps);
        speeds.push(speeds::run(context, number).await?);
    }
    progress("done", steps, steps);
    let passed = checks.iter().all(|check| check.passed != Some(false));
    Ok(json!({
        "prflash": env!("CARGO_PKG_VERSION"),
        "device": crate::described(context),
        "passed": passed,
        "checks": checks.iter().map(Check::json).collect::<Vec<_>>(),
        "speeds": speeds,
    }))
}

/// Measures which kernel is fastest for a small shape, of so many that are tried.
///
/// # Errors
/// Those of [`Attention::tune_async`].
pub async fn tune(context: &Context, trials: usize) -> Result<Value> {
    let shape = Shape::new(4, 2, 256, 32)?;
    let tuning = TuningOptions::new(3)?.with_trials(trials)?;
    let profile = Attention::causal().tune_async(context, &[shape], &PlanOptions::new(), &tuning).await?;
    let choices = profile.choices.iter().map(|tuned| {
        json!({
            "class": tuned.class.to_string(), "kernel": tuned.kernel.to_string(), "ratio": tuned.ratio,
            "tried": tuned.tried, "candidates": tuned.candidates,
        })
    });
    Ok(json!({ "adapter": profile.adapter, "choices": choices.collect::<Vec<_>>() }))
}
