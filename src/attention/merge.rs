//! Merging attention states on the GPU: `shaders/attention/merge.wgsl`.

use std::sync::Arc;

use super::call::SequenceRows;
use crate::attention::kernels::merge::Merge;
use crate::attention::kernels::params::{
    FLAG_ERROR, FLAG_FIRST, FLAG_LSE, FLAG_MEAN, FLAG_SINKS, MergeParams, MergeSequence,
};
use crate::attention::kernels::shapes::TILE_ROWS;
use crate::error::{Error, Result};
use crate::layout::{DType, Layout};
use crate::runtime::binding::Axis;
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::{Slot, SlotPool};
use crate::runtime::tensor::{Binding, Tensor, TensorView};

/// The merge kernel, ready for states of one value dimension.
#[derive(Debug)]
pub(super) struct Merger {
    context: Context,
    merge: Merge,
    value_dim: usize,
    pipeline: Arc<Pipeline>,
    slots: SlotPool,
    /// Of each head; only bound where there are none.
    sinks: wgpu::Buffer,
    has_sinks: bool,
    /// Bound where no log-sum-exp and no standard error is asked for: a buffer each, since they are
    /// bound for writing.
    unused: [wgpu::Buffer; 2],
}

/// The tensors of a running merge.
#[derive(Debug)]
pub(super) struct MergerBound {
    /// Where the next state goes: `[batch, heads, rows, value_dim]` and `[batch, heads, rows]`,
    /// f32.
    pub(super) state_output: Tensor,
    pub(super) state_lse: Tensor,
    bind_group: wgpu::BindGroup,
    heads: usize,
    rows: usize,
    o: Axis,
    lse: Option<Axis>,
    error: Option<Axis>,
}

/// One step of a running merge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// States taken in before.
    pub(super) earlier: usize,
    /// Whether the states are independent rounds of one sum, and not of disjoint keys.
    pub(super) mean: bool,
}

impl Merger {
    /// For calls of at most `sequences` sequences.
    pub(super) fn new(
        context: &Context,
        merge: Merge,
        value_dim: usize,
        sequences: usize,
        sinks: Option<&[f32]>,
    ) -> Result<Self> {
        let pipeline = context.pipeline(&merge)?;
        let slots = SlotPool::new::<MergeParams, MergeSequence>(context, &pipeline, sequences, Vec::new())?;
        let unused = || context.create_buffer("prflash unused output", 16, wgpu::BufferUsages::STORAGE);
        let unused = [unused()?, unused()?];
        let has_sinks = sinks.is_some();
        let bytes: &[u8] = bytemuck::cast_slice(sinks.unwrap_or_default());
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let sinks = context.create_buffer("prflash sinks", (bytes.len() as u64).max(16), usage)?;
        context.capture(|| context.queue().write_buffer(&sinks, 0, bytes))?;
        Ok(Self { context: context.clone(), merge, value_dim, pipeline, slots, sinks, has_sinks, unused })
    }

    pub(super) fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// Bytes of GPU memory held.
    pub(super) fn device_bytes(&self) -> u64 {
        self.slots.bytes() + self.sinks.size() + self.unused.iter().map(wgpu::Buffer::size).sum::<u64>()
    }

    /// Reserves the state beside checked results.
    pub(super) fn bind(
        &self,
        output: &TensorView,
        lse: Option<&TensorView>,
        error: Option<&TensorView>,
    ) -> Result<MergerBound> {
        let context = &self.context;
        let [batch, heads, rows, _] = output.layout().dims();
        let state_output =
            Tensor::zeros(context, DType::F32, Layout::heads_first(batch, heads, rows, self.value_dim)?)?;
        let state_lse = Tensor::zeros(context, DType::F32, Layout::rows(batch, heads, rows)?)?;
        let state_bytes = (batch * heads * rows * self.merge.state_row(self.value_dim)) as u64 * 4;
        let limit = context.capabilities().max_binding_bytes;
        if state_bytes > limit {
            let message = format!(
                "the running state of {batch} × {heads} × {rows} rows takes {state_bytes} bytes, past the {limit} that this device can bind at once"
            );
            return Err(Error::too_large("output", message));
        }
        let state =
            context.create_buffer("prflash merge state", state_bytes.max(16), wgpu::BufferUsages::STORAGE)?;
        let view = |argument, view: &TensorView, granule, empty: &wgpu::Buffer| {
            let binding = Binding::new(argument, view, granule, context, empty)?;
            let axis = Axis::new(view, binding.base, granule);
            Ok::<_, Error>((binding, axis))
        };
        let rows_of = |argument, tensor: Option<&TensorView>, empty: &wgpu::Buffer| {
            tensor.map(|tensor| view(argument, tensor, 1, empty)).transpose()
        };
        let [no_lse, no_error] = &self.unused;
        let (o_binding, o) = view("output", output, 4, &state)?;
        let lse = rows_of("lse", lse, no_lse)?;
        let error = rows_of("standard_error", error, no_error)?;
        let resource = |rows: &Option<(Binding, Axis)>, unused: &wgpu::Buffer| match rows {
            Some((binding, _)) => binding.clone(),
            None => Binding::whole(unused),
        };
        let (lse_binding, error_binding) = (resource(&lse, no_lse), resource(&error, no_error));
        let resources = [
            state_output.view().buffer().as_entire_binding(),
            state_lse.view().buffer().as_entire_binding(),
            state.as_entire_binding(),
            o_binding.resource(),
            lse_binding.resource(),
            error_binding.resource(),
            self.sinks.as_entire_binding(),
        ];
        let bind_group = self.pipeline.bind(context, "prflash merge", Merge::TENSORS_GROUP, &resources)?;
        let axis = |rows: Option<(Binding, Axis)>| rows.map(|(_, axis)| axis);
        let (lse, error) = (axis(lse), axis(error));
        Ok(MergerBound { state_output, state_lse, bind_group, heads, rows, o, lse, error })
    }

    /// Makes ready to take the state that will lie in `bound` into the running merge, for the query
    /// rows of these sequences, and to write the result. Nothing if there are no rows.
    pub(super) fn prepare<'a>(
        &'a self,
        bound: &'a MergerBound,
        sequences: impl Iterator<Item = SequenceRows>,
        step: Step,
    ) -> Result<Option<PreparedStep<'a>>> {
        let row_axis = |axis: Option<Axis>, sequence: &SequenceRows| {
            axis.map_or(0, |axis| axis.at(sequence.entry, sequence.q_start))
        };
        let table: Vec<MergeSequence> = sequences
            .filter(|sequence| sequence.q_len > 0)
            .map(|sequence| MergeSequence {
                state_row: (sequence.entry * bound.heads * bound.rows + sequence.q_start) as u32,
                o_base: bound.o.at(sequence.entry, sequence.q_start),
                lse_base: row_axis(bound.lse, &sequence),
                error_base: row_axis(bound.error, &sequence),
                rows: sequence.q_len as u32,
            })
            .collect();
        let Some(longest) = table.iter().map(|sequence| sequence.rows as usize).max() else {
            return Ok(None);
        };
        let tiles = longest.div_ceil(TILE_ROWS);
        let work_items = (table.len() * bound.heads * tiles) as u64;
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let workgroups = dispatch::fold(work_items, limit)?;
        let rounds = step.earlier as f32 + 1.0;
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let stride = |axis: Option<Axis>| axis.map_or(0, |axis| axis.head_stride);
        let params = MergeParams {
            heads: bound.heads as u32,
            tiles: tiles as u32,
            work_items: work_items as u32,
            value_quads: (self.value_dim / 4) as u32,
            state_head_stride: bound.rows as u32,
            o_head_stride: bound.o.head_stride,
            o_row_stride: bound.o.row_stride,
            lse_head_stride: stride(bound.lse),
            error_head_stride: stride(bound.error),
            flags: flag(step.earlier == 0, FLAG_FIRST)
                | flag(step.mean, FLAG_MEAN)
                | flag(bound.lse.is_some(), FLAG_LSE)
                | flag(bound.error.is_some(), FLAG_ERROR)
                | flag(self.has_sinks, FLAG_SINKS),
            rounds,
            log_rounds: rounds.ln(),
        };
        let slot =
            self.slots.take(&self.context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&table))?;
        Ok(Some(PreparedStep { merger: self, bound, slot, workgroups }))
    }
}

/// A merge that can't fail any more.
#[derive(Debug)]
pub(super) struct PreparedStep<'a> {
    merger: &'a Merger,
    bound: &'a MergerBound,
    slot: Slot,
    workgroups: (u32, u32),
}

impl PreparedStep<'_> {
    pub(super) fn record(self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("prflash merge"),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.merger.pipeline.pipeline);
        self.slot.bind(&mut pass, None);
        pass.set_bind_group(Merge::TENSORS_GROUP as u32, &self.bound.bind_group, &[]);
        let (x, y) = self.workgroups;
        pass.dispatch_workgroups(x, y, 1);
    }
}
