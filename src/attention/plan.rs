//! Plans: an attention call made ready for a device.

use std::sync::Arc;

use super::slots::SlotPool;
use super::{Attention, check_grid};
use crate::error::{Error, Result, ensure};
use crate::gpu::context::Context;
use crate::gpu::dispatch;
use crate::gpu::kernel::Pipeline;
use crate::gpu::params::{FLAG_CAUSAL, FLAG_LSE, FLAG_SOFT_CAP, FLAG_WINDOW, NO_LIST, Params, SequenceEntry};
use crate::gpu::shaders::{NAIVE_ROWS, Variant};
use crate::gpu::tensor::{Binding, Tensor, TensorView};
use crate::layout::{DType, Layout};
use crate::sampling::{BlockGrid, DEFAULT_BLOCK_SIZE, Schedule};
use crate::shape::Shape;

impl Attention {
    /// Makes this attention ready for a device: compiles its kernel and reserves what calls up to the sizes of `maxima` need.
    ///
    /// Heads and head dimensions of later calls are those of `maxima`; batch and lengths may be smaller.
    ///
    /// # Errors
    /// Too large (`shape`) if the device can't dispatch that much at once; out of memory; device lost.
    pub fn plan(&self, context: &Context, maxima: &Shape) -> Result<Plan> {
        let variant = Variant {
            storage: self.storage(),
            output: self.output(),
            head_dim: maxima.head_dim(),
            value_dim: maxima.value_dim(),
        };
        // The most tiles that q_len rows can make, wherever they start and however small a schedule's blocks are.
        let limit = context.capabilities().max_workgroups_per_dimension;
        let dense = maxima.q_len().div_ceil(NAIVE_ROWS) as u64 + 1;
        dispatch::fold(dense * (maxima.heads() * maxima.batch()) as u64, limit)?;
        let pipeline = context.pipeline(variant)?;
        let slots = SlotPool::new(context, &pipeline, maxima.batch())?;
        let unused = context.create_buffer("prflash unused binding", 16, wgpu::BufferUsages::STORAGE)?;
        let unused_output =
            context.create_buffer("prflash unused output", 16, wgpu::BufferUsages::STORAGE)?;
        let no_schedule = tables_bind_group(context, &pipeline, &unused)?;
        Ok(Plan {
            inner: Arc::new(PlanInner {
                context: context.clone(),
                attention: *self,
                maxima: *maxima,
                pipeline,
                slots,
                unused,
                unused_output,
                no_schedule,
            }),
        })
    }
}

/// An [`Attention`] made ready for a device: one kernel, maxima for the sizes, and everything that calls need.
///
/// One plan serves many calls, of any lengths up to its maxima, from any thread:
///
/// 1. [`bind`](Plan::bind) checks the tensors once and makes a [`Bound`],
/// 2. [`encode`](Plan::encode) records a [`Call`] on them into your command encoder; it never submits or waits.
///
/// [`run`](Plan::run) does both, and submits.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::{Attention, Context, DType, Layout, Shape, Tensor};
/// let context = Context::new_blocking()?;
/// let shape = Shape::new(9, 3, 1024, 64)?;
/// let plan = Attention::causal().plan(&context, &shape)?;
/// let upload = |heads, value: f32| {
///     let layout = Layout::heads_first(1, heads, 1024, 64)?;
///     Tensor::upload(&context, DType::F32, layout, &vec![value; layout.elements()])
/// };
/// let (q, k, v) = (upload(9, 0.1)?, upload(3, 0.2)?, upload(3, 0.3)?);
/// let result = plan.run(q.view(), k.view(), v.view(), None)?;
/// let values = result.output.read_blocking(&context)?; // [1, 9, 1024, 64]
/// # let _ = values;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    inner: Arc<PlanInner>,
}

#[derive(Debug)]
struct PlanInner {
    context: Context,
    attention: Attention,
    maxima: Shape,
    pipeline: Arc<Pipeline>,
    slots: SlotPool,
    /// Bound where a tensor is empty.
    unused: wgpu::Buffer,
    /// Bound where no log-sum-exp is asked for: a buffer of its own, since it is bound for writing.
    unused_output: wgpu::Buffer,
    no_schedule: wgpu::BindGroup,
}

/// The tensors of a call.
///
/// | tensor | shape |
/// | --- | --- |
/// | `q` | `[batch, heads, q capacity, head_dim]` |
/// | `k` | `[batch, kv_heads, kv capacity, head_dim]` |
/// | `v` | `[batch, kv_heads, kv capacity, value_dim]` |
/// | `output` | `[batch, heads, q capacity, value_dim]` |
/// | `lse` | `[batch, heads, q capacity]`, f32 ([`Layout::rows`]), natural logarithm |
///
/// Capacities may exceed the lengths of a call: a KV cache is bound once and grows in place.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// Queries.
    pub q: &'a TensorView,
    /// Keys.
    pub k: &'a TensorView,
    /// Values.
    pub v: &'a TensorView,
    /// Where the result goes. May share a buffer with no tensor that is read.
    pub output: &'a TensorView,
    /// Where the log-sum-exp goes, if the plan writes it.
    pub lse: Option<&'a TensorView>,
}

/// Tensors that a plan has checked and bound. Reusable for any number of calls; it keeps their buffers alive.
#[derive(Debug)]
pub struct Bound {
    plan: Arc<PlanInner>,
    bind_group: wgpu::BindGroup,
    q: Axis,
    k: Axis,
    v: Axis,
    o: Axis,
    lse: Axis,
}

/// Where a bound tensor's sequences, heads and rows lie, in the kernel's units, and how many sequences and rows there are.
#[derive(Clone, Copy, Debug, Default)]
struct Axis {
    base: u32,
    batch_stride: u32,
    head_stride: u32,
    row_stride: u32,
    batch: usize,
    rows: usize,
}

impl Axis {
    fn new(view: &TensorView, base: u32, granule: usize) -> Self {
        let [batch, head, row] = view.layout().strides().map(|stride| (stride / granule) as u32);
        let [batches, _, rows, _] = view.layout().dims();
        Self { base, batch_stride: batch, head_stride: head, row_stride: row, batch: batches, rows }
    }

    /// The first element of row `row` of sequence `batch`. Within the layout's extent, so it fits.
    fn at(&self, batch: usize, row: usize) -> u32 {
        self.base.wrapping_add(
            (batch as u32)
                .wrapping_mul(self.batch_stride)
                .wrapping_add((row as u32).wrapping_mul(self.row_stride)),
        )
    }
}

/// One sequence of a [`Call`]: which rows of the bound tensors are its queries and its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    batch: usize,
    q_start: usize,
    q_len: usize,
    kv_start: usize,
    kv_len: usize,
}

impl Sequence {
    /// The first `q_len` query rows and the first `kv_len` key rows of batch entry `batch`.
    pub const fn new(batch: usize, q_len: usize, kv_len: usize) -> Self {
        Self { batch, q_start: 0, q_len, kv_start: 0, kv_len }
    }

    /// The same lengths from other rows: for sequences that are packed behind each other.
    pub const fn starting_at(self, q_start: usize, kv_start: usize) -> Self {
        Self { q_start, kv_start, ..self }
    }
}

/// The lengths and the schedule of one call.
///
/// ```
/// use prflash::{Call, Sequence};
/// let prefill = Call::lengths(1024, 1024);
/// let decode = Call::lengths(1, 1025);
/// // Two sequences packed into one batch entry.
/// let packed = [Sequence::new(0, 3, 3), Sequence::new(0, 5, 5).starting_at(3, 3)];
/// let packed = Call::sequences(&packed);
/// # let _ = (prefill, decode, packed);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    lengths: Lengths<'a>,
    schedule: Option<&'a ScheduleBuffer>,
}

#[derive(Clone, Copy, Debug)]
enum Lengths<'a> {
    Equal { q_len: usize, kv_len: usize },
    Each(&'a [Sequence]),
}

impl<'a> Call<'a> {
    /// Every batch entry has these lengths.
    pub const fn lengths(q_len: usize, kv_len: usize) -> Self {
        Self { lengths: Lengths::Equal { q_len, kv_len }, schedule: None }
    }

    /// These sequences, at most as many as the plan's batch. Their output rows must not overlap.
    pub const fn sequences(sequences: &'a [Sequence]) -> Self {
        Self { lengths: Lengths::Each(sequences), schedule: None }
    }

    /// Only the blocks of this schedule.
    pub const fn with_schedule(self, schedule: &'a ScheduleBuffer) -> Self {
        Self { schedule: Some(schedule), ..self }
    }
}

/// Schedules in GPU memory: one for all sequences of a call, or one for each.
///
/// Writing a new one is safe at any time: calls that were recorded or submitted before keep what they were given.
#[derive(Debug)]
pub struct ScheduleBuffer {
    plan: Arc<PlanInner>,
    grids: Vec<BlockGrid>,
    bases: Vec<u32>,
    buffers: Vec<Tables>,
    current: usize,
}

#[derive(Debug)]
struct Tables {
    buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
    /// Cloned into every call that uses this buffer; it may be written again when no clone is left.
    in_use: Arc<()>,
}

/// What [`Plan::run`] computed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// `[batch, heads, q_len, value_dim]`, contiguous.
    pub output: Tensor,
    /// `[batch, heads, q_len]`, f32, natural logarithm; if the attention asks for it.
    pub lse: Option<Tensor>,
}

impl Plan {
    /// What is computed.
    pub fn attention(&self) -> &Attention {
        &self.inner.attention
    }

    /// The largest sizes of a call.
    pub fn maxima(&self) -> &Shape {
        &self.inner.maxima
    }

    /// The kernel that was chosen.
    pub fn kernel(&self) -> &'static str {
        "attention_naive"
    }

    /// Bytes of GPU memory that the plan holds. It grows only when more calls are in flight than ever before.
    pub fn device_bytes(&self) -> u64 {
        self.inner.slots.bytes() + self.inner.unused.size() + self.inner.unused_output.size()
    }

    /// Checks tensors against the plan and binds them.
    ///
    /// # Errors
    /// Invalid argument naming the tensor: wrong type, heads or dimensions, no log-sum-exp where one is written, an output that overlaps itself, or a
    /// buffer that would be both read and written. Too large, past the device's binding size.
    pub fn bind(&self, operands: &Operands<'_>) -> Result<Bound> {
        let PlanInner { context, attention, maxima, pipeline, unused, unused_output, .. } = &*self.inner;
        let Operands { q, k, v, output, lse } = *operands;
        let (heads, kv_heads) = (maxima.heads(), maxima.kv_heads());
        check_tensor("q", q, attention.storage(), heads, maxima.head_dim())?;
        check_tensor("k", k, attention.storage(), kv_heads, maxima.head_dim())?;
        check_tensor("v", v, attention.storage(), kv_heads, maxima.value_dim())?;
        check_tensor("output", output, attention.output(), heads, maxima.value_dim())?;
        check_written("output", output, &[("q", q), ("k", k), ("v", v)])?;
        if let Some(lse) = lse {
            ensure!(
                attention.lse(),
                "lse",
                "given, but the attention doesn't write one: use Attention::with_lse"
            );
            check_tensor("lse", lse, DType::F32, heads, 1)?;
            check_written("lse", lse, &[("q", q), ("k", k), ("v", v), ("output", output)])?;
            ensure!(
                lse.layout().strides()[2] == 1,
                "lse",
                "expected contiguous rows (Layout::rows), got {:?}",
                lse.layout()
            );
        } else {
            ensure!(!attention.lse(), "lse", "expected a tensor, since the attention writes one; got none");
        }
        let q_binding = Binding::new("q", q, 4, context, unused)?;
        let k_binding = Binding::new("k", k, 4, context, unused)?;
        let v_binding = Binding::new("v", v, 4, context, unused)?;
        let o_binding = Binding::new("output", output, 4, context, unused_output)?;
        let lse_binding = match lse {
            Some(lse) => Some(Binding::new("lse", lse, 1, context, unused_output)?),
            None => None,
        };
        // The output and the log-sum-exp are empty together, and then nothing is dispatched.
        let no_lse = unused_output.as_entire_binding();
        let lse_resource = lse_binding.as_ref().map_or(no_lse, Binding::resource);
        let bind_group = context.capture(|| {
            context.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("prflash tensors"),
                layout: &pipeline.tensors,
                entries: &[
                    wgpu::BindGroupEntry { binding: 0, resource: q_binding.resource() },
                    wgpu::BindGroupEntry { binding: 1, resource: k_binding.resource() },
                    wgpu::BindGroupEntry { binding: 2, resource: v_binding.resource() },
                    wgpu::BindGroupEntry { binding: 3, resource: o_binding.resource() },
                    wgpu::BindGroupEntry { binding: 4, resource: lse_resource },
                ],
            })
        })?;
        context.check_alive()?;
        Ok(Bound {
            plan: self.inner.clone(),
            bind_group,
            q: Axis::new(q, q_binding.base, 4),
            k: Axis::new(k, k_binding.base, 4),
            v: Axis::new(v, v_binding.base, 4),
            o: Axis::new(output, o_binding.base, 4),
            lse: lse
                .zip(lse_binding)
                .map_or(Axis::default(), |(lse, binding)| Axis::new(lse, binding.base, 1)),
        })
    }

    /// Copies schedules to the GPU: one for all sequences of a call, or one for each sequence in order.
    ///
    /// # Errors
    /// Invalid argument if there are none or their block sizes or granularities differ; too large for a binding; out of memory.
    pub fn upload_schedules(&self, schedules: &[&Schedule]) -> Result<ScheduleBuffer> {
        let mut buffer = ScheduleBuffer {
            plan: self.inner.clone(),
            grids: Vec::new(),
            bases: Vec::new(),
            buffers: Vec::new(),
            current: 0,
        };
        buffer.write(schedules)?;
        Ok(buffer)
    }

    /// Records one call into the caller's encoder. It doesn't submit or wait, and once as many calls have been in flight before it creates no GPU
    /// object.
    ///
    /// Any number of calls may be recorded for one submit. The result is there when the encoder's commands have run.
    ///
    /// # Errors
    /// Invalid argument: tensors or schedule of another plan, lengths past the plan's maxima or the tensors' rows, sequences whose outputs overlap, a
    /// schedule for other sizes. Then nothing was recorded.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, bound: &Bound, call: &Call<'_>) -> Result<()> {
        let inner = &*self.inner;
        ensure!(Arc::ptr_eq(&self.inner, &bound.plan), "bound", "was made by another plan");
        if let Some(schedule) = call.schedule {
            ensure!(Arc::ptr_eq(&self.inner, &schedule.plan), "schedule", "was uploaded by another plan");
        }
        let count = match call.lengths {
            Lengths::Equal { .. } => bound.q.batch,
            Lengths::Each(sequences) => sequences.len(),
        };
        let sequence = |index: usize| match call.lengths {
            Lengths::Equal { q_len, kv_len } => Sequence::new(index, q_len, kv_len),
            Lengths::Each(sequences) => sequences[index],
        };
        check_sequences(&inner.maxima, bound, count, &sequence)?;
        let block_size = call.schedule.map_or(DEFAULT_BLOCK_SIZE, |s| s.grids[0].block_size());
        let heads_per_list = call.schedule.map_or(1, |s| s.grids[0].heads_per_group());
        let mut query_blocks = 0;
        for index in 0..count {
            let grid = inner.grid(&sequence(index), call.schedule, index, count)?;
            query_blocks = query_blocks.max(grid.query_blocks());
        }
        let tiles_per_block = block_size.div_ceil(NAIVE_ROWS);
        let tiles = query_blocks * tiles_per_block;
        let work_items = (count * inner.maxima.heads()) as u64 * tiles as u64;
        if work_items == 0 {
            return Ok(());
        }
        let (x, y) = dispatch::fold(work_items, inner.context.capabilities().max_workgroups_per_dimension)?;

        let slot = inner.slots.take(&inner.context, &inner.pipeline)?;
        let params = inner.params(bound, work_items, tiles, tiles_per_block, block_size, heads_per_list);
        let queue = inner.context.queue();
        queue.write_buffer(&slot.buffer, u64::from(slot.params_offset), bytemuck::bytes_of(&params));
        let entry_bytes = size_of::<SequenceEntry>() as u64;
        for index in 0..count {
            let sequence = sequence(index);
            let grid = inner.grid(&sequence, call.schedule, index, count)?;
            let list_base = call.schedule.map_or(NO_LIST, |s| s.bases[index.min(s.bases.len() - 1)]);
            let entry = bound.entry(&sequence, &grid, list_base);
            let at = u64::from(slot.sequences_offset) + index as u64 * entry_bytes;
            queue.write_buffer(&slot.buffer, at, bytemuck::bytes_of(&entry));
        }

        let tables = call.schedule.map(|schedule| &schedule.buffers[schedule.current]);
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(self.kernel()),
                timestamp_writes: None,
            });
            pass.set_pipeline(&inner.pipeline.pipeline);
            pass.set_bind_group(0, &slot.bind_group, &[slot.params_offset, slot.sequences_offset]);
            pass.set_bind_group(1, tables.map_or(&inner.no_schedule, |t| &t.bind_group), &[]);
            pass.set_bind_group(2, &bound.bind_group, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
        // Until the GPU is done, the slot and the schedule belong to this call.
        let held = (slot.guard, tables.map(|tables| tables.in_use.clone()));
        encoder.on_submitted_work_done(move || drop(held));
        Ok(())
    }

    /// Computes the attention of whole tensors, of any length up to the plan's maxima, with one schedule for every sequence or none: allocates the
    /// results, binds, encodes and submits. It doesn't wait; [`Tensor::read`] does.
    ///
    /// # Errors
    /// Those of [`bind`](Plan::bind), [`upload_schedules`](Plan::upload_schedules) and [`encode`](Plan::encode); out of memory; device lost.
    pub fn run(
        &self,
        q: &TensorView,
        k: &TensorView,
        v: &TensorView,
        schedule: Option<&Schedule>,
    ) -> Result<Output> {
        let PlanInner { context, attention, maxima, .. } = &*self.inner;
        let ([batch, heads, q_len, _], kv_len) = (q.layout().dims(), k.layout().dims()[2]);
        let layout = Layout::heads_first(batch, heads, q_len, maxima.value_dim())?;
        let output = Tensor::zeros(context, attention.output(), layout)?;
        let lse = match attention.lse() {
            true => Some(Tensor::zeros(context, DType::F32, Layout::rows(batch, heads, q_len)?)?),
            false => None,
        };
        let bound =
            self.bind(&Operands { q, k, v, output: output.view(), lse: lse.as_ref().map(Tensor::view) })?;
        let schedule = match schedule {
            Some(schedule) => Some(self.upload_schedules(&[schedule])?),
            None => None,
        };
        let mut call = Call::lengths(q_len, kv_len);
        if let Some(schedule) = &schedule {
            call = call.with_schedule(schedule);
        }
        let mut encoder = context.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, &bound, &call)?;
        context.capture(|| context.queue().submit([encoder.finish()]))?;
        Ok(Output { output, lse })
    }
}

impl PlanInner {
    /// The block grid of one sequence: that of its schedule, checked against its lengths, or the dense one.
    fn grid(
        &self,
        sequence: &Sequence,
        schedule: Option<&ScheduleBuffer>,
        index: usize,
        count: usize,
    ) -> Result<BlockGrid> {
        let (heads, kv_heads) = (self.maxima.heads(), self.maxima.kv_heads());
        let Some(schedule) = schedule else {
            // Within the maxima, so the shape is valid.
            let shape = self.maxima.with_q_len(sequence.q_len)?.with_kv_len(sequence.kv_len)?;
            return Ok(BlockGrid::full(&shape));
        };
        let uploaded = schedule.grids.len();
        ensure!(
            uploaded == 1 || uploaded == count,
            "schedule",
            "expected one schedule or one for each of {count} sequences, got {uploaded}"
        );
        let grid = schedule.grids[index.min(uploaded - 1)];
        let causal = self.attention.is_causal();
        check_grid(&grid, (causal, heads, kv_heads, sequence.q_len, sequence.kv_len))?;
        Ok(grid)
    }

    fn params(
        &self,
        bound: &Bound,
        work_items: u64,
        tiles: usize,
        tiles_per_block: usize,
        block_size: usize,
        heads_per_list: usize,
    ) -> Params {
        let attention = &self.attention;
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        Params {
            q_head_stride: bound.q.head_stride,
            q_row_stride: bound.q.row_stride,
            k_head_stride: bound.k.head_stride,
            k_row_stride: bound.k.row_stride,
            v_head_stride: bound.v.head_stride,
            v_row_stride: bound.v.row_stride,
            o_head_stride: bound.o.head_stride,
            o_row_stride: bound.o.row_stride,
            lse_head_stride: bound.lse.head_stride,
            heads: self.maxima.heads() as u32,
            heads_per_kv: self.maxima.heads_per_kv_head() as u32,
            heads_per_list: heads_per_list as u32,
            work_items: work_items as u32,
            tiles: tiles as u32,
            tiles_per_block: tiles_per_block as u32,
            block_size: block_size as u32,
            flags: flag(attention.is_causal(), FLAG_CAUSAL)
                | flag(attention.window().is_some(), FLAG_WINDOW)
                | flag(attention.soft_cap().is_some(), FLAG_SOFT_CAP)
                | flag(attention.lse(), FLAG_LSE),
            // A window past every key is no window; the clamp keeps position ± window within 32 bits.
            window: attention.window().map_or(0, |w| w.min(1 << 30) as u32),
            scale: attention.scale(self.maxima.head_dim()),
            soft_cap: attention.soft_cap().unwrap_or(0.0),
            beta: attention.correction(),
        }
    }
}

impl Bound {
    fn entry(&self, sequence: &Sequence, grid: &BlockGrid, list_base: u32) -> SequenceEntry {
        let &Sequence { batch, q_start, q_len, kv_start, kv_len } = sequence;
        SequenceEntry {
            q_base: self.q.at(batch, q_start),
            k_base: self.k.at(batch, kv_start),
            v_base: self.v.at(batch, kv_start),
            o_base: self.o.at(batch, q_start),
            lse_base: self.lse.at(batch, q_start),
            q_len: q_len as u32,
            kv_len: kv_len as u32,
            first_block: grid.first_query_block() as i32,
            query_blocks: grid.query_blocks() as u32,
            list_base,
        }
    }
}

impl ScheduleBuffer {
    /// Replaces the schedules. Calls recorded before keep theirs. Nothing is allocated if a buffer that fits is free.
    ///
    /// # Errors
    /// As [`Plan::upload_schedules`]; the old schedules then stay.
    pub fn write(&mut self, schedules: &[&Schedule]) -> Result<()> {
        let Some(first) = schedules.first() else {
            return Err(Error::argument_error("schedules", "expected at least one, got none"));
        };
        let grids: Vec<BlockGrid> = schedules.iter().map(|schedule| *schedule.grid()).collect();
        for grid in &grids {
            let (want, got) = (first.grid(), grid);
            ensure!(
                want.block_size() == got.block_size() && want.granularity() == got.granularity(),
                "schedules",
                "expected equal block sizes and granularities, got {} {:?} and {} {:?}",
                want.block_size(),
                want.granularity(),
                got.block_size(),
                got.granularity()
            );
        }
        let mut bases = Vec::with_capacity(schedules.len());
        let mut words = Vec::with_capacity(schedules.iter().map(|s| s.words()).sum());
        for schedule in schedules {
            bases.push(words.len() as u32);
            words.extend(schedule.to_words());
        }
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let limit = self.plan.context.capabilities().max_binding_bytes;
        if bytes.len() as u64 > limit {
            return Err(Error::too_large(
                "schedules",
                format!("{} bytes are past the {limit} that this device can bind at once", bytes.len()),
            ));
        }
        // A buffer that only this list holds is in no recorded or submitted call.
        let free = self.buffers.iter().position(|tables| {
            Arc::strong_count(&tables.in_use) == 1 && tables.buffer.size() >= bytes.len() as u64
        });
        self.current = match free {
            Some(index) => index,
            None => {
                self.buffers.retain(|tables| tables.buffer.size() >= bytes.len() as u64);
                self.buffers.push(self.tables(bytes.len())?);
                self.buffers.len() - 1
            }
        };
        let context = &self.plan.context;
        context.capture(|| context.queue().write_buffer(&self.buffers[self.current].buffer, 0, bytes))?;
        self.grids = grids;
        self.bases = bases;
        Ok(())
    }

    fn tables(&self, bytes: usize) -> Result<Tables> {
        let context = &self.plan.context;
        // Room for the next schedules, whose lists are a little longer or shorter; but no more than can be bound.
        let size = (bytes as u64 + bytes as u64 / 4).min(context.capabilities().max_binding_bytes & !15);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = context.create_buffer("prflash schedule", size.max(bytes as u64), usage)?;
        let bind_group = tables_bind_group(context, &self.plan.pipeline, &buffer)?;
        Ok(Tables { buffer, bind_group, in_use: Arc::default() })
    }
}

fn tables_bind_group(
    context: &Context,
    pipeline: &Pipeline,
    buffer: &wgpu::Buffer,
) -> Result<wgpu::BindGroup> {
    context.capture(|| {
        context.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("prflash schedule"),
            layout: &pipeline.tables,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
        })
    })
}

fn check_tensor(
    argument: &'static str,
    view: &TensorView,
    dtype: DType,
    heads: usize,
    dim: usize,
) -> Result<()> {
    let [_, has_heads, _, has_dim] = view.layout().dims();
    let got = (view.dtype(), has_heads, has_dim);
    if got == (dtype, heads, dim) {
        return Ok(());
    }
    let message = format!(
        "expected {dtype} with {heads} heads of dim {dim}, got {} with {has_heads} heads of dim {has_dim}",
        view.dtype()
    );
    Err(Error::argument_error(argument, message))
}

/// A tensor that is written must not overlap itself nor share a buffer with one that is bound beside it.
fn check_written(
    argument: &'static str,
    view: &TensorView,
    others: &[(&'static str, &TensorView)],
) -> Result<()> {
    if !view.layout().is_disjoint() {
        let message = format!("rows overlap each other in {:?}", view.layout());
        return Err(Error::argument_error(argument, message));
    }
    for (name, other) in others {
        if other.buffer() == view.buffer() {
            let message = format!("is written, but shares its buffer with {name}: use a buffer of its own");
            return Err(Error::argument_error(argument, message));
        }
    }
    Ok(())
}

fn check_sequences(
    maxima: &Shape,
    bound: &Bound,
    count: usize,
    sequence: &impl Fn(usize) -> Sequence,
) -> Result<()> {
    ensure!(
        count <= maxima.batch(),
        "sequences",
        "expected at most the plan's batch of {}, got {count}",
        maxima.batch()
    );
    for index in 0..count {
        let Sequence { batch, q_start, q_len, kv_start, kv_len } = sequence(index);
        ensure!(
            q_len <= maxima.q_len(),
            "q_len",
            "expected at most the plan's {}, got {q_len}",
            maxima.q_len()
        );
        ensure!(
            kv_len <= maxima.kv_len(),
            "kv_len",
            "expected at most the plan's {}, got {kv_len}",
            maxima.kv_len()
        );
        let lse = if bound.plan.attention.lse() { bound.lse } else { bound.o };
        for (axis, start, len, argument) in [
            (bound.q, q_start, q_len, "q"),
            (bound.o, q_start, q_len, "output"),
            (lse, q_start, q_len, "lse"),
            (bound.k, kv_start, kv_len, "k"),
            (bound.v, kv_start, kv_len, "v"),
        ] {
            let fits = batch < axis.batch && start.checked_add(len).is_some_and(|end| end <= axis.rows);
            if !fits && len > 0 {
                return Err(Error::argument_error(
                    argument,
                    format!(
                        "sequence {index} needs rows {start}..{start}+{len} of batch entry {batch}; the tensor has {} entries of {} rows",
                        axis.batch, axis.rows
                    ),
                ));
            }
        }
        for other in 0..index {
            let earlier = sequence(other);
            let apart = earlier.batch != batch
                || earlier.q_start + earlier.q_len <= q_start
                || q_start + q_len <= earlier.q_start;
            ensure!(apart, "sequences", "sequences {other} and {index} write the same output rows");
        }
    }
    Ok(())
}
