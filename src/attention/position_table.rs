//! What kernels read of positions and heads: rotations, φ, slopes and sinks, as quads of f32 in one
//! buffer.

use crate::attention::kernels::params::{PHI_WINDOWS, Params, ROPE_STRIDE};
use crate::attention::kernels::variant::{BiasVariant, PositionsVariant};
use crate::error::{Error, Result};
use crate::position::{Distance, Positions, Rope, check_reached, harmonic_number};
use crate::runtime::context::Context;

/// Rotations from a step's first key: those within the longest step of a kernel, and that to the
/// next.
const STEPS: usize = 8 + 1;

/// The table of one plan, and where its parts begin.
#[derive(Clone, Debug, Default)]
pub(super) struct PositionTable {
    quads: Vec<[f32; 4]>,
    rope_low: u32,
    rope_high: u32,
    rope_steps: u32,
    phi_base: u32,
    slope_base: u32,
    phi_cap: u32,
    phi_flat: f32,
    phi_rate: f32,
    factor_length: f32,
    sink_base: u32,
    /// Positions and lags are below this.
    extent: usize,
}

impl PositionsVariant {
    /// What of these positions a kernel's text depends on.
    pub(super) fn of(positions: &Positions) -> Self {
        Self {
            rope: positions.rope().map(|rope| (rope.pairing(), rope.rotary_dim())),
            bias: match positions.bias().map(|bias| bias.distance()) {
                None => BiasVariant::None,
                Some(Distance::Linear) => BiasVariant::Linear,
                Some(Distance::Log { .. }) => BiasVariant::Log,
                Some(Distance::Harmonic) => BiasVariant::Harmonic,
                Some(Distance::CappedHarmonic { .. }) => BiasVariant::CappedHarmonic,
            },
            factor: positions.factor_length().is_some(),
        }
    }
}

impl PositionTable {
    /// For positions (and lags) below `extent`, and scores in `unit`s of natural logarithms.
    pub(super) fn new(positions: &Positions, heads: usize, extent: usize, unit: f64) -> Result<Self> {
        let extent = extent.max(positions.max_positions()).max(1);
        let mut table = Self { extent, ..Self::default() };
        if let Some(rope) = positions.rope() {
            let rotations = rope.table(extent, ROPE_STRIDE)?;
            table.rope_low = table.append(rotations.low().as_flattened());
            table.rope_high = table.append(rotations.high().as_flattened());
            table.rope_steps = table.append(&steps(rope));
        }
        if let Some(bias) = positions.bias() {
            match bias.distance() {
                Distance::Linear => {}
                Distance::Log { rate } => table.phi_rate = rate as f32,
                Distance::Harmonic => table.phi_cap = u32::MAX,
                Distance::CappedHarmonic { cap } => {
                    table.phi_cap = u32::try_from(cap).unwrap_or(u32::MAX);
                    table.phi_flat = harmonic_number(cap) as f32;
                }
            }
            if table.phi_cap > 0 {
                let phi = bias.distance().table(PHI_WINDOWS)?;
                let window = |i: usize| [0, 1, 2, 3].map(|t| phi[i.abs_diff(t)]);
                table.phi_base =
                    table.append((0..PHI_WINDOWS).map(window).collect::<Vec<_>>().as_flattened());
            }
            let slopes: Vec<f32> = bias.slopes(heads)?.iter().map(|slope| (slope * unit) as f32).collect();
            table.slope_base = table.append(&slopes);
        }
        table.factor_length = positions.factor_length().unwrap_or(0.0) as f32;
        Ok(table)
    }

    /// With the sinks of all heads, as natural logarithms.
    pub(super) fn add_sinks(&mut self, sinks: &[f32]) {
        self.sink_base = self.append(sinks);
    }

    fn append(&mut self, values: &[f32]) -> u32 {
        let base = self.quads.len() as u32;
        let quad = |values: &[f32]| [0, 1, 2, 3].map(|i| values.get(i).copied().unwrap_or(0.0));
        self.quads.extend(values.chunks(4).map(quad));
        base
    }

    /// Moves the table to the GPU.
    pub(super) fn upload(&mut self, argument: &'static str, context: &Context) -> Result<wgpu::Buffer> {
        let quads = std::mem::take(&mut self.quads);
        let bytes: &[u8] = bytemuck::cast_slice(&quads);
        let limit = context.capabilities().max_binding_bytes;
        if bytes.len() as u64 > limit {
            let message = format!(
                "the tables for {} positions take {} bytes, past the {limit} that this device can bind at once",
                self.extent,
                bytes.len()
            );
            return Err(Error::too_large(argument, message));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = context.create_buffer("prflash positions", (bytes.len() as u64).max(16), usage)?;
        context.capture(|| context.queue().write_buffer(&buffer, 0, bytes))?;
        Ok(buffer)
    }

    /// `params` with where to find everything.
    pub(super) fn locate(&self, params: Params) -> Params {
        Params {
            rope_low: self.rope_low,
            rope_high: self.rope_high,
            rope_steps: self.rope_steps,
            phi_base: self.phi_base,
            slope_base: self.slope_base,
            phi_cap: self.phi_cap,
            phi_flat: self.phi_flat,
            phi_rate: self.phi_rate,
            factor_length: self.factor_length,
            sink_base: self.sink_base,
            ..params
        }
    }

    /// Where the two levels of rotations begin.
    pub(super) fn rope_levels(&self) -> [u32; 2] {
        [self.rope_low, self.rope_high]
    }

    /// Refuses positions that the table doesn't reach.
    pub(super) fn check(&self, argument: &'static str, position: i64) -> Result<()> {
        check_reached(argument, position, self.extent)
    }
}

/// Refuses rotations that kernels can't apply.
pub(super) fn check_aligned(rope: &Rope) -> Result<()> {
    if rope.is_quad_aligned() {
        return Ok(());
    }
    Err(Error::unsupported(
        "the kernels need a rotary dimension that is a multiple of 4, or 8 for pairs in halves",
    ))
}

/// (cos, sin) of every pair at positions 0 … STEPS − 1, without a temperature: the table's low rows
/// have it already.
fn steps(rope: &Rope) -> Vec<f32> {
    let turn = |position: usize| {
        rope.frequencies().iter().flat_map(move |frequency| {
            let (sin, cos) = libm::sincos(position as f64 * frequency);
            [cos as f32, sin as f32]
        })
    };
    (0..STEPS).flat_map(turn).collect()
}
