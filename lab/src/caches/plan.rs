//! Which layers' keys and values have the wider ladder: the library's plans, on the lab's
//! staircases.

use anyhow::Result;
use prflash::cache::{Ladder, LayerPlan, Sensitivity, Side, Staircase};

/// The ladders, with the other choices of another staircase.
fn like(other: &Staircase, keys: Ladder, values: Ladder) -> Result<Staircase> {
    Ok(Staircase::new(keys, values)?
        .with_segment_and_group(other.segment(), other.group())?
        .with_sinks(other.sinks())
        .with_residual(other.residual())?
        .with_codec(other.codec())?)
}

/// The ladders of `high` where most would be lost, in `count` places; those of `low` elsewhere, and
/// all else of it.
///
/// # Errors
/// Ladders that don't go together.
pub fn most_sensitive(
    known: &[Sensitivity],
    (layers, count): (usize, usize),
    [high, low]: [&Staircase; 2],
) -> Result<LayerPlan> {
    let wide = like(low, high.ladder(Side::Keys).clone(), high.ladder(Side::Values).clone())?;
    let known: Vec<Sensitivity> = known.iter().filter(|one| one.layer < layers).copied().collect();
    Ok(LayerPlan::new(low.clone(), wide, layers)?.with_most_sensitive(&known, count)?)
}

/// The staircase of each layer, where the ladder of `low` is measured by itself: all else is f16.
///
/// # Errors
/// Ladders that don't go together.
pub fn alone(layers: usize, (layer, side): (usize, Side), low: &Staircase) -> Result<Vec<Staircase>> {
    let plain = || Ladder::new(&[], 16);
    let plan = LayerPlan::new(like(low, plain()?, plain()?)?, low.clone(), layers)?;
    Ok(plan.with_most_sensitive(&[Sensitivity { layer, side, loss: 1.0 }], 1)?.staircases())
}
