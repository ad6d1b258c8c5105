//! Schedules drawn on the GPU: the kernels, and what they read.

pub(crate) mod content;
pub(crate) mod draw;
pub(crate) mod params;

use crate::random;
use crate::runtime::text::Settings;

/// What `shaders/shared/random.wgsl` needs.
fn random_numbers(settings: &mut Settings) {
    for (name, number) in [
        ("PCG_MULTIPLIER", random::PCG_MULTIPLIER),
        ("PCG_INCREMENT", random::PCG_INCREMENT),
        ("PCG_OUTPUT", random::PCG_OUTPUT),
    ] {
        settings.constant(name, number);
    }
}
