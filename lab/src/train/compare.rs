//! The same steps by each kind of attention: curves of losses that should be one.

use anyhow::Result;
use serde::Serialize;

use super::attention::{Attends, Backend};
use super::course::Course;
use super::data::Texts;
use super::settings::Settings;

/// Losses of some steps.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// Who computed attention.
    pub backend: &'static str,
    /// The mean cost of each batch, in nats a token.
    pub losses: Vec<f64>,
    /// The largest difference from the first curve, relative to its loss.
    pub farthest: f64,
}

/// Takes the first steps of a training by each backend. `step` hears of each and may end it.
///
/// # Errors
/// No device, where one is asked for; those of `step`.
pub fn curves(
    settings: &Settings,
    texts: &Texts,
    backends: &[Backend],
    steps: usize,
    step: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Curve>> {
    let mut curves: Vec<Curve> = Vec::new();
    for &backend in backends {
        let mut course = Course::new(settings, texts, Attends::new(backend, settings)?)?;
        let mut losses = Vec::new();
        for _ in 0..steps {
            step()?;
            losses.push(course.advance()?.loss);
        }
        let first = curves.first().map_or(&losses, |first| &first.losses);
        let apart = losses.iter().zip(first).map(|(one, other)| (one / other - 1.0).abs());
        let farthest = apart.fold(0.0, f64::max);
        curves.push(Curve { backend: backend.name(), losses, farthest });
    }
    Ok(curves)
}
