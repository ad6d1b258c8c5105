//! Which layers' keys and values have the wider ladder.

use anyhow::{Context as _, Result};
use prflash::cache::{Ladder, Side, Staircase};

/// What the predictions lose if keys or values of one layer alone are at few bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sensitivity {
    /// The layer.
    pub layer: usize,
    /// Keys or values.
    pub side: Side,
    /// The divergence from dense attention, in nats.
    pub kl: f64,
}

/// All f16, with the other choices of a staircase.
fn plain_like(staircase: &Staircase) -> Result<Staircase> {
    let plain = || Ladder::new(&[], 16);
    Ok(Staircase::new(plain()?, plain()?)?
        .with_segment_and_group(staircase.segment(), staircase.group())?
        .with_sinks(staircase.sinks())
        .with_residual(staircase.residual())?
        .with_codec(staircase.codec())?)
}

/// Whether keys and values of each layer have the wider ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    layers: Vec<[bool; 2]>,
}

impl Plan {
    /// Wide where most would be lost, so often; of equal ones the first.
    pub fn most_sensitive(known: &[Sensitivity], layers: usize, count: usize) -> Self {
        let mut sorted: Vec<&Sensitivity> = known.iter().filter(|one| one.layer < layers).collect();
        sorted.sort_by(|a, b| b.kl.total_cmp(&a.kl));
        let mut plan = Self { layers: vec![[false; 2]; layers] };
        for one in sorted.into_iter().take(count) {
            plan.layers[one.layer][one.side as usize] = true;
        }
        plan
    }

    /// Wide nowhere but on one side of one layer.
    fn only(layers: usize, layer: usize, side: Side) -> Self {
        let mut plan = Self { layers: vec![[false; 2]; layers] };
        plan.layers[layer][side as usize] = true;
        plan
    }

    /// The staircase of each layer, where the ladder of `low` is measured by itself: all else is
    /// f16.
    ///
    /// # Errors
    /// Ladders that don't go together.
    pub fn alone(layers: usize, (layer, side): (usize, Side), low: &Staircase) -> Result<Vec<Staircase>> {
        Self::only(layers, layer, side).staircases(low, &plain_like(low)?)
    }

    /// How many ladders are wide.
    pub fn count(&self) -> usize {
        self.layers.iter().flatten().filter(|&&wide| wide).count()
    }

    /// The staircase of each layer: ladders of `high` or `low`, all else of `low`.
    ///
    /// # Errors
    /// Ladders that don't go together.
    pub fn staircases(&self, high: &Staircase, low: &Staircase) -> Result<Vec<Staircase>> {
        let of = |&[keys, values]: &[bool; 2]| {
            let ladder = |wide: bool, side| if wide { high } else { low }.ladder(side).clone();
            Staircase::new(ladder(keys, Side::Keys), ladder(values, Side::Values))?
                .with_segment_and_group(low.segment(), low.group())?
                .with_sinks(low.sinks())
                .with_residual(low.residual())?
                .with_codec(low.codec())
        };
        self.layers.iter().map(|layer| of(layer).context("ladders of two kinds")).collect()
    }
}
