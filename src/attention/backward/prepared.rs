//! An attention whose gradients were made ready for a device.

use std::f32::consts::LOG2_E;
use std::sync::Arc;

use crate::attention::inputs::attention::Attention;
use crate::attention::kernels::backward::{Backward, BackwardTile, Pass};
use crate::attention::kernels::params::{Params, SequenceEntry};
use crate::attention::kernels::shapes::TILE_ROWS;
use crate::attention::kernels::variant::PositionsVariant;
use crate::attention::plan_options::PlanOptions;
use crate::attention::position_table::{PositionTable, check_aligned};
use crate::attention::table_buffer::no_tables;
use crate::error::{Result, ensure};
use crate::limits::{MAX_PACKED_DIM, at_most};
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::SlotPool;
use crate::shape::Shape;

/// What the kernels' scores are multiples of: they compute powers of four, as those of the forward
/// pass do.
pub(super) const SCORE_UNIT: f32 = 0.5 * LOG2_E;

/// The kernels, maxima for the sizes, and everything that calls need.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) context: Context,
    pub(super) attention: Attention,
    pub(super) maxima: Shape,
    /// The most sequences of a call.
    pub(super) sequences: usize,
    /// One for each [`Pass`], in their order; the last only where heads have sinks or slopes.
    pub(super) pipelines: Vec<Arc<Pipeline>>,
    pub(super) slots: SlotPool,
    /// Bound where a tensor is empty, or isn't given: to be read, and to be written, with a number
    /// for each head.
    pub(super) unused: wgpu::Buffer,
    pub(super) unused_outputs: [wgpu::Buffer; 2],
    pub(super) no_tables: wgpu::BindGroup,
    pub(super) position_table: PositionTable,
    pub(super) position_buffer: wgpu::Buffer,
}

impl Prepared {
    pub(super) fn new(
        attention: &Attention,
        context: &Context,
        maxima: &Shape,
        options: &PlanOptions,
    ) -> Result<Self> {
        check_options(options)?;
        at_most("head_dim", maxima.head_dim(), MAX_PACKED_DIM)?;
        at_most("value_dim", maxima.value_dim(), MAX_PACKED_DIM)?;
        attention.check_sinks(maxima.heads())?;
        let sequences = options.sequences().unwrap_or(maxima.batch());
        let mut position_table = PositionTable::default();
        let mut positions = PositionsVariant::default();
        if let Some(given) = attention.positions() {
            given.check(maxima.head_dim(), maxima.heads())?;
            given.rope().map_or(Ok(()), check_aligned)?;
            let extent = maxima.q_len().max(maxima.kv_len());
            position_table = PositionTable::new(given, maxima.heads(), extent, SCORE_UNIT.into())?;
            positions = PositionsVariant::of(given);
        }
        if let Some(sinks) = attention.sinks() {
            position_table.add_sinks(sinks);
        }
        // The most tiles that queries or keys can make.
        let dense = maxima.q_len().max(maxima.kv_len()).div_ceil(TILE_ROWS) as u64 + 1;
        let limit = context.capabilities().max_workgroups_per_dimension;
        dispatch::fold(dense * (maxima.heads() * sequences) as u64, limit)?;
        let pipeline = |pass| {
            let program = Backward {
                pass,
                tile: BackwardTile { each: 1, step: 1, slices: 1 },
                storage: attention.storage(),
                output: attention.output(),
                head_dim: maxima.head_dim(),
                value_dim: maxima.value_dim(),
                positions,
                masked: attention.masks(),
            };
            context.pipeline(&program.fitted(context.capabilities()))
        };
        let of_heads = attention.sinks().is_some() || attention.is_biased();
        let passes = Pass::ALL.into_iter().filter(|&pass| pass != Pass::Heads || of_heads);
        let pipelines = passes.map(pipeline).collect::<Result<Vec<_>>>()?;
        let position_buffer = position_table.upload("positions", context)?;
        let slots = SlotPool::new::<Params, SequenceEntry>(
            context,
            &pipelines[0],
            sequences,
            vec![position_buffer.clone()],
        )?;
        let storage = wgpu::BufferUsages::STORAGE;
        let unused = context.create_buffer("prflash unused binding", 1024, storage)?;
        let bytes = (4 * maxima.heads() as u64).max(16);
        let output = || context.create_buffer("prflash unused output", bytes, storage);
        Ok(Self {
            context: context.clone(),
            attention: attention.clone(),
            maxima: *maxima,
            sequences,
            pipelines,
            slots,
            no_tables: no_tables(context, &unused)?,
            unused,
            unused_outputs: [output()?, output()?],
            position_table,
            position_buffer,
        })
    }

    /// Bytes of GPU memory held.
    pub(super) fn bytes(&self) -> u64 {
        let buffers = [&self.unused, &self.position_buffer].into_iter().chain(&self.unused_outputs);
        self.slots.bytes() + buffers.map(wgpu::Buffer::size).sum::<u64>()
    }
}

/// Refuses what is of the forward pass alone.
fn check_options(options: &PlanOptions) -> Result<()> {
    let forward = options.kernel().is_some()
        || options.splits().is_some()
        || options.allows_f16_products()
        || options.pages();
    ensure!(
        !forward,
        "options",
        "the backward pass has kernels of its own: of the options it takes sequences"
    );
    Ok(())
}
