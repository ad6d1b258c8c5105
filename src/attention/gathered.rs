//! Rows of some blocks, gathered into tensors of their own and scattered back.

use std::sync::Arc;

use crate::attention::kernels::gather::Gather;
use crate::attention::kernels::params::{FLAG_SCATTER, GatherParams};
use crate::error::Result;
use crate::runtime::binding::Axis;
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::{Slot, SlotPool};
use crate::runtime::tensor::{Binding, TensorView};

/// The kernel that copies, ready for sets of some of so many blocks.
#[derive(Debug)]
pub(super) struct Gatherer {
    context: Context,
    pipeline: Arc<Pipeline>,
    slots: SlotPool,
    block_size: usize,
}

/// A tensor and its packed twin.
#[derive(Debug)]
pub(super) struct Copier {
    bind_group: wgpu::BindGroup,
    whole: Axis,
    packed: Axis,
    heads: usize,
    row_words: usize,
    scatter: bool,
}

impl Gatherer {
    pub(super) fn new(context: &Context, blocks: usize, block_size: usize) -> Result<Self> {
        let pipeline = context.pipeline(&Gather)?;
        let slots = SlotPool::new::<GatherParams, u32>(context, &pipeline, blocks, Vec::new())?;
        Ok(Self { context: context.clone(), pipeline, slots, block_size })
    }

    pub(super) fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// Binds a tensor and its packed twin, to copy from the one to the other or, to `scatter`,
    /// back.
    pub(super) fn bind(
        &self,
        argument: &'static str,
        whole: &TensorView,
        packed: &TensorView,
        scatter: bool,
    ) -> Result<Copier> {
        let context = &self.context;
        // Elements per word: rows of 16-bit tensors are whole words, since they are multiples of
        // four channels.
        let per_word = 4 / whole.dtype().size();
        let empty = context.create_buffer("prflash unused binding", 16, wgpu::BufferUsages::STORAGE)?;
        let bind = |view: &TensorView| -> Result<(Binding, Axis)> {
            let binding = Binding::new(argument, view, per_word, context, &empty)?;
            let axis = Axis::new(view, binding.base, per_word);
            Ok((binding, axis))
        };
        let ((whole_binding, whole_axis), (packed_binding, packed_axis)) = (bind(whole)?, bind(packed)?);
        let resources = match scatter {
            true => [packed_binding.resource(), whole_binding.resource()],
            false => [whole_binding.resource(), packed_binding.resource()],
        };
        let bind_group = self.pipeline.bind(context, "prflash gather", Gather::TENSORS_GROUP, &resources)?;
        let [_, heads, _, dim] = whole.layout().dims();
        let row_words = dim.div_ceil(per_word);
        Ok(Copier { bind_group, whole: whole_axis, packed: packed_axis, heads, row_words, scatter })
    }

    /// Makes ready to copy `rows` rows, of which the first lies at `place` among the tokens of the
    /// blocks, of a tensor whose row 0 is token `first`.
    pub(super) fn copy<'a>(
        &'a self,
        copier: &'a Copier,
        entry: usize,
        set: &[usize],
        (rows, place, first): (usize, usize, usize),
    ) -> Result<Option<Copy<'a>>> {
        if rows == 0 {
            return Ok(None);
        }
        let context = &self.context;
        let tiles = (rows * copier.row_words).div_ceil(Gather::COPIES);
        let work_items = (copier.heads * tiles) as u64;
        let workgroups = dispatch::fold(work_items, context.capabilities().max_workgroups_per_dimension)?;
        let params = GatherParams {
            work_items: work_items as u32,
            tiles: tiles as u32,
            rows: rows as u32,
            row_words: copier.row_words as u32,
            block_size: self.block_size as u32,
            packed_first: place as u32,
            whole_first: first as u32,
            whole_base: copier.whole.at(entry, 0),
            whole_head_stride: copier.whole.head_stride,
            whole_row_stride: copier.whole.row_stride,
            packed_base: copier.packed.at(entry, 0),
            packed_head_stride: copier.packed.head_stride,
            packed_row_stride: copier.packed.row_stride,
            flags: if copier.scatter { FLAG_SCATTER } else { 0 },
        };
        let blocks: Vec<u32> = set.iter().map(|&block| block as u32).collect();
        let slot = self.slots.take(context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&blocks))?;
        Ok(Some(Copy { pipeline: &self.pipeline, copier, slot, workgroups }))
    }
}

/// A copy that can't fail any more.
pub(super) struct Copy<'a> {
    pipeline: &'a Pipeline,
    copier: &'a Copier,
    slot: Slot,
    workgroups: (u32, u32),
}

impl Copy<'_> {
    pub(super) fn record(self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("prflash gather"),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.pipeline.pipeline);
        self.slot.bind(&mut pass, None);
        pass.set_bind_group(Gather::TENSORS_GROUP as u32, &self.copier.bind_group, &[]);
        let (x, y) = self.workgroups;
        pass.dispatch_workgroups(x, y, 1);
    }
}
