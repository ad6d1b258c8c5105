//! GPU time of a call, by timestamps.

use std::time::Duration;
// Without the feature there is no device to time, and no clock either.
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
use std::time::Instant;

#[cfg(all(target_arch = "wasm32", feature = "webgpu"))]
use web_time::Instant;

use super::context::Context;
use super::identity::DeviceId;
use crate::error::{Error, Result};

/// Two GPU timestamps around one call.
///
/// ```no_run
/// # fn record(context: &prflash::Context, plan: &prflash::Plan, bound: &prflash::Bound) -> prflash::Result<()> {
/// use prflash::device::GpuTimer;
/// use prflash::Call;
/// let timer = GpuTimer::new(context)?;
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// plan.encode(&mut encoder, bound, &Call::lengths(1024, 1024).with_timestamps(timer.writes()))?;
/// timer.resolve(&mut encoder);
/// context.queue().submit([encoder.finish()]);
/// println!("{:?} on the GPU", timer.read_blocking(context)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GpuTimer {
    device: DeviceId,
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
}

impl GpuTimer {
    /// A timer on a device with timestamps.
    ///
    /// # Errors
    /// Unsupported without [`Features::TIMESTAMP_QUERY`](wgpu::Features::TIMESTAMP_QUERY)
    /// ([`Context::new`] enables it where it exists).
    pub fn new(context: &Context) -> Result<Self> {
        if !context.capabilities().timestamps {
            return Err(Error::unsupported("GPU timestamps (TIMESTAMP_QUERY)"));
        }
        let queries = context.capture(|| {
            context.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("prflash timer"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            })
        })?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = context.create_buffer("prflash timer", 16, usage)?;
        Ok(Self { device: context.device_id(), queries, resolved })
    }

    /// What to give to [`Call::with_timestamps`](crate::Call::with_timestamps).
    pub fn writes(&self) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        }
    }

    /// Records the copy of the timestamps; after the call, in the same encoder or a later one.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
    }

    /// The time between the two timestamps of the last call that ran, once all work submitted so
    /// far is done.
    ///
    /// # Errors
    /// Device lost; other device (`context`) than the timer's.
    pub async fn read(&self, context: &Context) -> Result<Duration> {
        context.check_device("context", self.device)?;
        let bytes = context.read_buffer(&self.resolved, 0, 16).await?;
        let tick =
            |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let ticks = tick(8).saturating_sub(tick(0));
        Ok(Duration::from_nanos((ticks as f64 * f64::from(context.queue().get_timestamp_period())) as u64))
    }

    /// [`read`](GpuTimer::read), blocking.
    ///
    /// # Errors
    /// As [`read`](GpuTimer::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, context: &Context) -> Result<Duration> {
        pollster::block_on(self.read(context))
    }
}

/// How long a call took, round by round: [`Plan::timings`](crate::Plan::timings).
///
/// On CPU adapters go by the wall: their GPU time leaves out what threads wait for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Timings {
    /// Times from submission to completion, in order.
    pub wall: Vec<Duration>,
    /// Between the timestamps of the GPU, in order; empty on a device without them.
    pub gpu: Vec<Duration>,
}

impl Timings {
    /// Of what `submit` submits with the timestamps that it is given, after one round to warm up.
    pub(crate) async fn measure(
        context: &Context,
        rounds: usize,
        mut submit: impl FnMut(Option<wgpu::ComputePassTimestampWrites<'_>>) -> Result<()>,
    ) -> Result<Self> {
        crate::limits::at_most("rounds", rounds, crate::limits::MAX_ROUNDS)?;
        let timer = match context.capabilities().timestamps {
            true => Some(GpuTimer::new(context)?),
            false => None,
        };
        let mut timings = Self { wall: Vec::with_capacity(rounds), gpu: Vec::new() };
        context.finished().await?;
        for round in 0..=rounds {
            let started = Instant::now();
            submit(timer.as_ref().map(GpuTimer::writes))?;
            context.finished().await?;
            let wall = started.elapsed();
            let Some(timer) = &timer else {
                timings.wall.extend((round > 0).then_some(wall));
                continue;
            };
            let mut encoder = context.device().create_command_encoder(&Default::default());
            timer.resolve(&mut encoder);
            context.submit([encoder.finish()])?;
            let gpu = timer.read(context).await?;
            if round > 0 {
                timings.wall.push(wall);
                timings.gpu.push(gpu);
            }
        }
        Ok(timings)
    }

    /// The middle round's time from submission to completion; zero if there was none.
    pub fn median_wall(&self) -> Duration {
        median(&self.wall).unwrap_or_default()
    }

    /// The middle round's time on the GPU, if the device tells.
    pub fn median_gpu(&self) -> Option<Duration> {
        median(&self.gpu)
    }
}

/// The middle one; the later of two.
pub(crate) fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}
