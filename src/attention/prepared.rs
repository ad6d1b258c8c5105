//! An attention made ready for a device: what its plan, the tensors that it binds and their calls
//! share.

use std::f32::consts::LOG2_E;
use std::sync::Arc;

use super::inputs::attention::Attention;
use super::plan_options::PlanOptions;
use super::position_table::{PositionTable, check_aligned};
use super::split::Split;
use super::table_buffer::no_tables;
use super::wanted::Wanted;
use crate::attention::kernels::params::{Params, SequenceEntry};
use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::{Kernel, TILE_ROWS};
use crate::attention::kernels::variant::{Variant, Wide};
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::{CacheForm, KvCache, Standing};
use crate::error::Result;
use crate::limits::MAX_HEAD_DIM;
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::SlotPool;
use crate::shape::Shape;

/// What needs to be the same in every cache that a plan reads.
#[derive(Clone, Debug)]
pub(super) struct CacheKind {
    form: CacheForm,
    max_len: usize,
}

impl CacheKind {
    fn of(cache: &KvCache) -> Self {
        Self { form: cache.form().clone(), max_len: cache.max_len() }
    }

    /// Tokens of a group of keys with a summary, if caches have them.
    pub(super) fn summaries(&self) -> Option<usize> {
        self.form.staircase.summaries()
    }

    /// Tokens of a segment, and how many of the newest ones may be in none.
    pub(super) fn segment_and_residual(&self) -> (usize, usize) {
        let staircase = &self.form.staircase;
        (staircase.segment(), staircase.residual() + staircase.segment())
    }

    /// How many tokens are on which rung, of so many.
    pub(super) fn standing(&self, tokens: usize) -> Standing<'_> {
        self.form.staircase.standing(tokens)
    }

    pub(super) fn is_of(&self, cache: &KvCache) -> bool {
        self.max_len == cache.max_len() && self.form == *cache.form()
    }
}

/// One kernel, maxima for the sizes, and everything that calls need.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) context: Context,
    pub(super) attention: Attention,
    pub(super) options: PlanOptions,
    pub(super) maxima: Shape,
    /// The most sequences of a call.
    pub(super) sequences: usize,
    pub(super) cache: Option<CacheKind>,
    pub(super) variant: Variant,
    pub(super) kernel_reason: String,
    /// The one that takes keys and values in blocks, where the variant has it. Tensors whose rows
    /// lie otherwise get another, with the same bindings.
    pub(super) pipeline: Arc<Pipeline>,
    /// Where the keys of a row are split.
    pub(super) split: Option<Split>,
    pub(super) slots: SlotPool,
    /// Bound where a tensor is empty.
    pub(super) unused: wgpu::Buffer,
    /// Bound where no log-sum-exp is asked for: a buffer of its own, since it is bound for writing.
    pub(super) unused_output: wgpu::Buffer,
    pub(super) no_tables: wgpu::BindGroup,
    pub(super) position_table: PositionTable,
    /// What kernels read of positions.
    pub(super) position_buffer: wgpu::Buffer,
}

impl Prepared {
    /// Prepares what is wanted for this kernel, chosen for this reason.
    pub(super) fn new(wanted: &Wanted<'_>, kernel: Kernel, kernel_reason: String) -> Result<Self> {
        let Wanted { context, attention, options, maxima, sequences, slope_heads, cache } = wanted;
        if let Some(positions) = attention.positions() {
            positions.check(maxima.head_dim(), *slope_heads)?;
            positions.rope().map_or(Ok(()), check_aligned)?;
        }
        attention.check_sinks(maxima.heads())?;
        let task = wanted.task();
        kernel.check(context.capabilities(), &task)?;
        // The most tiles that q_len rows can make, wherever they start and however small a
        // schedule's blocks are.
        let dense = maxima.q_len().div_ceil(TILE_ROWS) as u64 + 1;
        let limit = context.capabilities().max_workgroups_per_dimension;
        dispatch::fold(dense * (maxima.heads() * sequences) as u64, limit)?;
        let variant = variant(&task, attention, kernel);
        let pipeline = match variant.wide_quads() {
            Some(_) => context.pipeline(&Wide(variant))?,
            None => context.pipeline(&variant)?,
        };
        let split = match kernel {
            Kernel::Decode(decode) => Some(Split::new(wanted, decode)?),
            _ => None,
        };
        // The largest block of keys that a kernel may declare: a row in f32.
        let row = (4 * MAX_HEAD_DIM) as u64;
        let unused = context.create_buffer("prflash unused binding", row, wgpu::BufferUsages::STORAGE)?;
        let unused_output =
            context.create_buffer("prflash unused output", 16, wgpu::BufferUsages::STORAGE)?;
        let mut position_table = match attention.positions() {
            Some(positions) => {
                let extent = maxima.q_len().max(maxima.kv_len());
                PositionTable::new(positions, *slope_heads, extent, score_unit(kernel).into())?
            }
            None => PositionTable::default(),
        };
        if let Some(sinks) = attention.sinks() {
            position_table.add_sinks(sinks);
        }
        let position_buffer = position_table.upload("positions", context)?;
        let slots = SlotPool::new::<Params, SequenceEntry>(
            context,
            &pipeline,
            *sequences,
            vec![position_buffer.clone()],
        )?;
        Ok(Self {
            context: (*context).clone(),
            attention: (*attention).clone(),
            options: (*options).clone(),
            maxima: *maxima,
            sequences: *sequences,
            cache: cache.map(CacheKind::of),
            variant,
            kernel_reason,
            pipeline,
            split,
            slots,
            no_tables: no_tables(context, &unused)?,
            unused,
            unused_output,
            position_table,
            position_buffer,
        })
    }

    /// The pipelines of every call; tensors with rows that begin anywhere have one of their own.
    pub(super) fn pipelines(&self) -> impl Iterator<Item = &Arc<Pipeline>> {
        [&self.pipeline].into_iter().chain(self.split.as_ref().map(Split::pipeline))
    }

    /// Bytes of GPU memory held.
    pub(super) fn bytes(&self) -> u64 {
        let states = self.split.as_ref().map_or(0, Split::bytes);
        self.slots.bytes()
            + self.unused.size()
            + self.unused_output.size()
            + self.position_buffer.size()
            + states
    }
}

/// What is rendered into the text of a kernel for a task.
fn variant(task: &Task, attention: &Attention, kernel: Kernel) -> Variant {
    // The widths are written out in the decode kernel only.
    let widths = |cache: CacheVariant| match kernel {
        Kernel::Decode(_) => cache,
        _ => CacheVariant { widths: [0; 2], ..cache },
    };
    Variant {
        cache: task.cache.map(widths),
        positions: task.positions,
        masked: task.masked,
        paged: task.paged,
        kernel,
        storage: task.storage,
        output: attention.output(),
        head_dim: task.head_dim,
        value_dim: task.value_dim,
    }
}

/// What a kernel's scores are multiples of: all but the naive one compute powers of four. (Of two
/// would be the same with one multiplication less, but f32 has no room for scores below −2.36·10³⁸
/// then: in powers of four it has more than for natural ones.)
pub(super) fn score_unit(kernel: Kernel) -> f32 {
    match kernel {
        Kernel::Naive => 1.0,
        Kernel::Tiled(_) | Kernel::Decode(_) | Kernel::Matrix(_) => 0.5 * LOG2_E,
    }
}
