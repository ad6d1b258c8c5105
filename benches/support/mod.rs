//! What the benches that print tables share: runs in turn, and how times are told.
#![allow(dead_code)] // each of them uses its part

use std::time::Instant;

use anyhow::Result;
use prflash::wgpu::CommandEncoder;
use prflash::{Context, DType, Layout, Tensor};
use testkit::statistics::{median, range};

/// Something to measure: it records its work into an encoder.
pub type Work<'a> = Box<dyn FnMut(&mut CommandEncoder) -> Result<()> + 'a>;

/// Wall seconds from recording to completion, per work and round. All works run in turn, round
/// after round, so that a slow moment of the machine hits them alike; a first round warms up and
/// isn't counted.
pub fn interleave(context: &Context, rounds: usize, works: &mut [Work<'_>]) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![Vec::with_capacity(rounds); works.len()];
    for round in 0..=rounds {
        for (work, seconds) in works.iter_mut().zip(&mut seconds) {
            let started = Instant::now();
            let mut encoder = context.device().create_command_encoder(&Default::default());
            work(&mut encoder)?;
            context.queue().submit([encoder.finish()]);
            context.wait()?;
            if round > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    Ok(seconds)
}

/// Milliseconds: median (least to most).
pub fn milliseconds(values: &[f64]) -> String {
    let (least, most) = range(values);
    format!("{:.1} ({:.1} to {:.1})", median(values) * 1e3, least * 1e3, most * 1e3)
}

/// A tensor `[1, heads, len, dim]` of numbers in [−1, 1) without a pattern that matters.
pub fn tensor(context: &Context, heads: usize, len: usize, dim: usize) -> prflash::Result<Tensor> {
    let layout = Layout::heads_first(1, heads, len, dim)?;
    let values: Vec<f32> = (0..layout.elements()).map(|i| ((i * 7919) % 997) as f32 / 498.5 - 1.0).collect();
    Tensor::upload(context, DType::F32, layout, &values)
}
