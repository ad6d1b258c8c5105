//! Plans: an attention call made ready for a device.

use std::f32::consts::LOG2_E;
use std::sync::Arc;

use super::bound::{Bound, Operands, Part, PartGroups};
use super::call::{Call, Sequence};
use super::gpu_sampler::GpuSampler;
use super::pieces::{WorkRun, cut};
use super::position_table::{PositionTable, check_aligned};
use super::split::Split;
use super::tables::{ScheduleWords, TableBuffer, Tables, tables_bind_group};
use super::{Attention, check_grid};
use crate::attention::kernels::merge::MergeSplits;
use crate::attention::kernels::params::{
    FLAG_CAUSAL, FLAG_LSE, FLAG_PAIRED, FLAG_SOFT_CAP, FLAG_WINDOW, NO_TABLE, Params, SequenceEntry,
};
use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::{Kernel, TILE_ROWS};
use crate::attention::kernels::variant::{
    ARENA_GROUP, Blocks, PositionsVariant, TABLES_GROUP, TENSORS_GROUP, Variant,
};
use crate::cache::gpu::kv_cache::{Reading, Region};
use crate::cache::gpu::variant::CacheVariant;
use crate::error::{Result, ensure};
use crate::layout::{DType, Layout};
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::{Slot, SlotPool};
use crate::runtime::tensor::{Tensor, TensorView};
#[cfg(not(target_arch = "wasm32"))]
use crate::runtime::timing::Timings;
use crate::sampling::{BlockGrid, DEFAULT_BLOCK_SIZE, Profile, RowOrder, Sampler};
use crate::shape::Shape;

impl Attention {
    /// Makes this attention ready for a device: compiles its kernel and reserves what calls up to the sizes of `maxima` need.
    ///
    /// Heads and head dimensions of later calls are those of `maxima`; batch and lengths may be smaller.
    ///
    /// # Errors
    /// Invalid argument: positions for another head dimension (`positions`), or slopes for another number of heads (`slopes`). Too large (`shape`) if the device
    /// can't dispatch that much at once; unsupported, where a kernel was asked for that the device can't run, or the rotary dimension isn't
    /// [aligned](crate::Rope::is_quad_aligned); out of memory; device lost.
    pub fn plan(&self, context: &Context, maxima: &Shape) -> Result<Plan> {
        self.plan_sequences(context, maxima, maxima.batch(), maxima.heads(), None)
    }

    /// [`plan`](Attention::plan) for calls of at most `sequences` sequences, with the slopes of `slope_heads` heads.
    pub(super) fn plan_sequences(
        &self,
        context: &Context,
        maxima: &Shape,
        sequences: usize,
        slope_heads: usize,
        cache: Option<CacheVariant>,
    ) -> Result<Plan> {
        if let Some(positions) = self.positions() {
            positions.check(maxima.head_dim(), slope_heads)?;
            positions.rope().map_or(Ok(()), check_aligned)?;
        }
        let capabilities = context.capabilities();
        let task = self.task(maxima, cache);
        let positions = task.positions;
        let (kernel, kernel_reason) = match self.kernel() {
            Some(kernel) => (kernel, "Attention::with_kernel asked for it".to_owned()),
            None => self.choose_kernel(context, &task),
        };
        kernel.check(capabilities, &task)?;
        // The widths are written out in the split kernel only.
        let widths = |cache: CacheVariant| match kernel {
            Kernel::Decode(_) => cache,
            _ => CacheVariant { widths: [0; 2], ..cache },
        };
        let variant = Variant {
            cache: cache.map(widths),
            positions,
            kernel,
            storage: self.storage(),
            output: self.output(),
            head_dim: maxima.head_dim(),
            value_dim: maxima.value_dim(),
        };
        // The most tiles that q_len rows can make, wherever they start and however small a schedule's blocks are.
        let limit = capabilities.max_workgroups_per_dimension;
        let dense = maxima.q_len().div_ceil(TILE_ROWS) as u64 + 1;
        dispatch::fold(dense * (maxima.heads() * maxima.batch()) as u64, limit)?;
        let pipeline = match variant.block_quads() {
            Some(_) => context.pipeline(&Blocks(variant))?,
            None => context.pipeline(&variant)?,
        };
        let split = match kernel {
            Kernel::Decode(decode) => Some(Split::new(context, self, maxima, sequences, decode)?),
            _ => None,
        };
        let slots = SlotPool::new::<Params, SequenceEntry>(context, &pipeline, sequences)?;
        // The largest block of keys that a kernel declares: a row of 256 in f32.
        let unused = context.create_buffer("prflash unused binding", 1024, wgpu::BufferUsages::STORAGE)?;
        let unused_output =
            context.create_buffer("prflash unused output", 16, wgpu::BufferUsages::STORAGE)?;
        let mut position_table = match self.positions() {
            Some(positions) => {
                let extent = maxima.q_len().max(maxima.kv_len());
                PositionTable::new(positions, slope_heads, extent, score_unit(kernel).into())?
            }
            None => PositionTable::default(),
        };
        let position_buffer = position_table.upload("positions", context)?;
        let no_tables = tables_bind_group(context, &pipeline, &unused, &position_buffer)?;
        Ok(Plan {
            inner: Arc::new(PlanInner {
                context: context.clone(),
                attention: self.clone(),
                maxima: *maxima,
                sequences,
                variant,
                kernel_reason,
                pipeline,
                split,
                slots,
                unused,
                unused_output,
                no_tables,
                position_table,
                position_buffer,
            }),
        })
    }
}

impl Attention {
    /// What a kernel is chosen for.
    pub(super) fn task(&self, maxima: &Shape, cache: Option<CacheVariant>) -> Task {
        Task {
            head_dim: maxima.head_dim(),
            value_dim: maxima.value_dim(),
            positions: self.positions().map_or(PositionsVariant::default(), PositionsVariant::of),
            q_len: maxima.q_len(),
            heads_per_kv: maxima.heads_per_kv_head(),
            storage: self.storage(),
            cache,
            half_products: self.allows_half_products(),
        }
    }

    /// The kernel for a task, and why: what was measured to be fastest, else the rule; what needs a trial on the device only once it has passed.
    fn choose_kernel(&self, context: &Context, task: &Task) -> (Kernel, String) {
        let capabilities = context.capabilities();
        let tuned = self.tuning().and_then(|tuning| tuning.choice(capabilities, task));
        let tuned =
            tuned.map(|kernel| (kernel, "measured to be the fastest: Attention::with_tuning".to_owned()));
        let mut wrong = String::new();
        let mut last = (Kernel::Naive, String::new());
        for (kernel, reason) in tuned.into_iter().chain(Kernel::choices(capabilities, task)) {
            last = (kernel, format!("{wrong}{reason}"));
            if !kernel.needs_trial() {
                break;
            }
            #[cfg(not(target_arch = "wasm32"))]
            let found = {
                let of = (kernel, task.storage, task.head_dim, task.value_dim);
                let what = format!("{kernel}_{}_d{}_v{}", task.storage, task.head_dim, task.value_dim);
                context.trial(what, || super::trial::find_wrong(context, of))
            };
            #[cfg(target_arch = "wasm32")]
            let found = Some(format!("a browser can't wait for the self-check of {kernel}"));
            match found {
                None => break,
                Some(found) => wrong.push_str(&format!("{found}; ")),
            }
        }
        last
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
/// use prflash::{Attention, Context, DType, Layout, Shape, Tables, Tensor};
/// let context = Context::new_blocking()?;
/// let shape = Shape::new(9, 3, 1024, 64)?;
/// let plan = Attention::causal().plan(&context, &shape)?;
/// let upload = |heads, value: f32| {
///     let layout = Layout::heads_first(1, heads, 1024, 64)?;
///     Tensor::upload(&context, DType::F32, layout, &vec![value; layout.elements()])
/// };
/// let (q, k, v) = (upload(9, 0.1)?, upload(3, 0.2)?, upload(3, 0.3)?);
/// let result = plan.run(q.view(), k.view(), v.view(), &Tables::new())?;
/// let values = result.output.read_blocking(&context)?; // [1, 9, 1024, 64]
/// # let _ = values;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) inner: Arc<PlanInner>,
}

#[derive(Debug)]
pub(super) struct PlanInner {
    pub(super) context: Context,
    pub(super) attention: Attention,
    pub(super) maxima: Shape,
    /// The most sequences of a call.
    sequences: usize,
    pub(super) variant: Variant,
    kernel_reason: String,
    /// The one that takes keys and values in blocks, where the variant has it. Tensors whose rows lie otherwise get another ([`Part`]), with the same bindings.
    pub(super) pipeline: Arc<Pipeline>,
    /// Where the keys of a row are split.
    pub(super) split: Option<Split>,
    slots: SlotPool,
    /// Bound where a tensor is empty.
    pub(super) unused: wgpu::Buffer,
    /// Bound where no log-sum-exp is asked for: a buffer of its own, since it is bound for writing.
    pub(super) unused_output: wgpu::Buffer,
    no_tables: wgpu::BindGroup,
    pub(super) position_table: PositionTable,
    pub(super) position_buffer: wgpu::Buffer,
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

impl Output {
    /// Zeros for the results of an attention: `[batch, heads, q_len, value_dim]`.
    pub(super) fn zeros(context: &Context, attention: &Attention, dims: [usize; 4]) -> Result<Self> {
        let [batch, heads, q_len, dim] = dims;
        let layout = Layout::heads_first(batch, heads, q_len, dim)?;
        let output = Tensor::zeros(context, attention.output(), layout)?;
        let rows = || Tensor::zeros(context, DType::F32, Layout::rows(batch, heads, q_len)?);
        Ok(Self { output, lse: attention.lse().then(rows).transpose()? })
    }
}

impl Plan {
    /// What is computed.
    pub fn attention(&self) -> &Attention {
        &self.inner.attention
    }

    /// The device.
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    /// The largest sizes of a call.
    pub fn maxima(&self) -> &Shape {
        &self.inner.maxima
    }

    /// The kernel that was chosen.
    pub fn kernel(&self) -> Kernel {
        self.inner.variant.kernel
    }

    /// Why that one, in words for people: what of the device and of the sizes decided.
    pub fn kernel_reason(&self) -> &str {
        &self.inner.kernel_reason
    }

    /// Times a call: submits it once to warm up and then `rounds` times, each after the one before is done.
    ///
    /// # Errors
    /// As [`submit`](Plan::submit); too large past [`MAX_ROUNDS`](crate::limits::MAX_ROUNDS).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn timings(&self, bound: &Bound, call: &Call<'_>, rounds: usize) -> Result<Timings> {
        Timings::measure(self.context(), rounds, |timestamps| {
            let mut call = call.clone();
            call.timestamps = timestamps;
            self.submit(bound, &call)
        })
    }

    /// Bytes of GPU memory that the plan holds. It grows only when more calls are in flight than ever before.
    pub fn device_bytes(&self) -> u64 {
        let PlanInner { slots, unused, unused_output, position_buffer, .. } = &*self.inner;
        let states = self.inner.split.as_ref().map_or(0, Split::bytes);
        slots.bytes() + unused.size() + unused_output.size() + position_buffer.size() + states
    }

    /// Checks tensors against the plan and binds them.
    ///
    /// # Errors
    /// Invalid argument naming the tensor: wrong type, heads or dimensions, no log-sum-exp where one is written, an output that overlaps itself, or a
    /// buffer that would be both read and written. Too large, where not even one key/value head of one batch entry fits the device's binding size.
    pub fn bind(&self, operands: &Operands<'_>) -> Result<Bound> {
        Bound::new(&self.inner, operands)
    }

    /// Copies schedules and document masks to the GPU.
    ///
    /// # Errors
    /// Those of [`TableBuffer::write`].
    pub fn upload_tables(&self, tables: &Tables<'_>) -> Result<TableBuffer> {
        TableBuffer::new(&self.inner, tables)
    }

    /// Makes ready to draw schedules on the GPU, for any grid up to the lengths of `maxima`: what [`Schedule::sample`](crate::Schedule::sample) draws, bit for bit.
    ///
    /// Reserves for as many blocks as the sampler can keep (Bernoulli: will keep, but for a probability below 10⁻¹²), which takes the host
    /// a time proportional to the query blocks of `maxima`.
    ///
    /// # Errors
    /// Invalid argument: `sampler` that has no [GPU rule](Sampler::gpu_rule), `profile` that is a budget (solved row by row, on the host), `maxima` that is a grid of
    /// other attention. Too large (`maxima`) where the device can't bind such lists at once; out of memory; device lost.
    pub fn gpu_sampler(
        &self,
        maxima: &BlockGrid,
        profile: &Profile,
        sampler: &dyn Sampler,
    ) -> Result<GpuSampler> {
        GpuSampler::new(&self.inner, maxima, profile, sampler, None)
    }

    /// The same with room for `capacity` blocks of each sequence. A schedule that keeps more loses the rest, and [`GpuSampler::check`] says so.
    ///
    /// # Errors
    /// As [`gpu_sampler`](Plan::gpu_sampler), but too large names `capacity`.
    pub fn gpu_sampler_with_capacity(
        &self,
        maxima: &BlockGrid,
        profile: &Profile,
        sampler: &dyn Sampler,
        capacity: usize,
    ) -> Result<GpuSampler> {
        GpuSampler::new(&self.inner, maxima, profile, sampler, Some(capacity))
    }

    /// Records one call into the caller's encoder. It doesn't submit or wait, and creates no GPU object once as many calls have been in flight
    /// before.
    ///
    /// Any number of calls may be recorded for one submit. The result is there when the encoder's commands have run. Work past
    /// [`Context::max_dispatch_flops`] takes several dispatches.
    ///
    /// # Errors
    /// Invalid argument: tensors or tables of another plan, lengths past the plan's maxima or the tensors' rows, sequences whose outputs overlap, tables for
    /// other sizes. Then nothing was recorded.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, bound: &Bound, call: &Call<'_>) -> Result<()> {
        let inner = &*self.inner;
        let count = call.count(bound.batch);
        let Some((grid, query_blocks)) = self.check(bound, call)? else { return Ok(()) };
        let parts = bound.parts.iter().map(|part| (part, None));
        inner.record(Target::Encoder(encoder), parts, call, count, &grid, query_blocks, None)
    }

    /// Records one call and submits it, without waiting: [`encode`](Plan::encode) for programs whose encoder needn't hold anything else.
    ///
    /// Work past [`Context::max_dispatch_flops`] is submitted in several pieces, one dispatch each, with the same result bit for bit. Watchdogs that reset a GPU go by
    /// the submission on some systems and by the dispatch on others; `encode` can only cut the second.
    ///
    /// # Errors
    /// As [`encode`](Plan::encode); device lost.
    pub fn submit(&self, bound: &Bound, call: &Call<'_>) -> Result<()> {
        let inner = &*self.inner;
        let count = call.count(bound.batch);
        let Some((grid, query_blocks)) = self.check(bound, call)? else { return Ok(()) };
        let parts = bound.parts.iter().map(|part| (part, None));
        inner.record(Target::Queue, parts, call, count, &grid, query_blocks, None)
    }

    /// Everything that [`encode`](Plan::encode) refuses. A grid of the call's sequences, and the query blocks of the longest; nothing if there is nothing to do.
    pub(super) fn check(&self, bound: &Bound, call: &Call<'_>) -> Result<Option<(BlockGrid, usize)>> {
        ensure!(Arc::ptr_eq(&self.inner, &bound.plan), "bound", "was made by another plan");
        self.inner.check(bound, call)
    }

    /// Computes the attention of whole tensors, of any length up to the plan's maxima: allocates the results, uploads the tables, binds and
    /// [submits](Plan::submit). It doesn't wait; [`Tensor::read`] does.
    ///
    /// # Errors
    /// Invalid argument (`k`, `v`) unless keys and values have as many batch entries as the queries, and values as many rows as keys. Those of [`bind`](Plan::bind), [`upload_tables`](Plan::upload_tables) and [`encode`](Plan::encode); out of memory; device lost.
    pub fn run(&self, q: &TensorView, k: &TensorView, v: &TensorView, tables: &Tables<'_>) -> Result<Output> {
        let PlanInner { context, attention, maxima, .. } = &*self.inner;
        let ([batch, heads, q_len, _], kv_len) = (q.layout().dims(), k.layout().dims()[2]);
        check_whole(q, k, v)?;
        let results = Output::zeros(context, attention, [batch, heads, q_len, maxima.value_dim()])?;
        let lse = results.lse.as_ref().map(Tensor::view);
        let bound = self.bind(&Operands { q, k, v, output: results.output.view(), lse })?;
        let tables = self.upload_tables(tables)?;
        self.submit(&bound, &Call::lengths(q_len, kv_len).with_tables(&tables))?;
        Ok(results)
    }
}

/// Refuses keys and values that aren't those of all queries: whole tensors, of which nothing says which rows are meant.
pub(super) fn check_whole(q: &TensorView, k: &TensorView, v: &TensorView) -> Result<()> {
    let [batch, _, _, _] = q.layout().dims();
    let [k_batch, _, rows, _] = k.layout().dims();
    let [v_batch, _, v_rows, _] = v.layout().dims();
    ensure!(k_batch == batch, "k", "expected {batch} batch entries, as q has, got {k_batch}");
    ensure!(v_batch == batch, "v", "expected {batch} batch entries, as q has, got {v_batch}");
    ensure!(v_rows == rows, "v", "expected {rows} rows, as k has, got {v_rows}");
    Ok(())
}

/// What a kernel's scores are multiples of: all but the naive one compute powers of four. (Of two
/// would be the same with one multiplication less, but f32 has no room for scores below −2.36·10³⁸
/// then: in powers of four it has more than for natural ones.)
fn score_unit(kernel: Kernel) -> f32 {
    match kernel {
        Kernel::Naive => 1.0,
        Kernel::Tiled(_) | Kernel::Decode(_) | Kernel::Matrix(_) => 0.5 * LOG2_E,
    }
}

/// Where a call is recorded.
pub(super) enum Target<'e> {
    /// Into the caller's encoder.
    Encoder(&'e mut wgpu::CommandEncoder),
    /// Into encoders of ours, one for each dispatch, which are submitted.
    Queue,
}

/// One dispatch of a call, its parameters on their way to the GPU.
struct Dispatch<'p> {
    part: &'p Part,
    /// In place of the part's, where the call has states of its own.
    groups: Option<PartGroups>,
    /// What it reads of a cache.
    arena: Option<&'p wgpu::BindGroup>,
    slot: Slot,
    workgroups: (u32, u32),
    /// Of the merge after it, if keys are split.
    merge_workgroups: Option<(u32, u32)>,
}

impl PlanInner {
    /// Everything that a call can be refused for. A grid of its sequences, and the query blocks of the longest; nothing if there is nothing to do.
    pub(super) fn check(
        self: &Arc<Self>,
        bound: &Bound,
        call: &Call<'_>,
    ) -> Result<Option<(BlockGrid, usize)>> {
        let count = call.count(bound.batch);
        ensure!(
            count <= self.sequences,
            "sequences",
            "expected at most the plan's batch of {}, got {count}",
            self.sequences
        );
        call.check_apart()?;
        if let Some(tables) = call.tables {
            ensure!(Arc::ptr_eq(self, &tables.plan), "tables", "were uploaded by another plan");
            tables.check_count(count)?;
        }
        let mut grid = None;
        let mut query_blocks = 0;
        for index in 0..count {
            self.check_sequence(bound, call, index)?;
            let sequence_grid = self.schedule(call, index)?.grid;
            query_blocks = query_blocks.max(sequence_grid.query_blocks());
            grid = Some(sequence_grid);
        }
        Ok(grid.filter(|_| query_blocks > 0).map(|grid| (grid, query_blocks)))
    }

    /// Records a checked call on these parts, each with what it reads of a cache, if anything; submits it if that is the target.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn record<'p>(
        &self,
        target: Target<'_>,
        parts: impl Iterator<Item = (&'p Part, Option<&'p wgpu::BindGroup>)>,
        call: &Call<'_>,
        count: usize,
        grid: &BlockGrid,
        query_blocks: usize,
        mut reading: Option<Reading>,
    ) -> Result<()> {
        // Everything was checked; from here on only memory can run out, before anything is recorded.
        let mut dispatches = Vec::new();
        for (part, arena) in parts {
            self.prepare(&mut dispatches, (part, arena), call, count, grid, query_blocks)?;
        }
        let (tables, guard) = match call.tables.map(TableBuffer::current) {
            Some((bind_group, guard)) => (bind_group, Some(guard)),
            None => (&self.no_tables, None),
        };
        let pass_of = |timestamp_writes| wgpu::ComputePassDescriptor {
            label: Some(self.variant.kernel.name()),
            timestamp_writes,
        };
        match target {
            Target::Encoder(encoder) => {
                if let Some(reading) = &reading {
                    reading.prepare(encoder);
                }
                let mut pass = encoder.begin_compute_pass(&pass_of(call.timestamps.clone()));
                for dispatch in dispatches {
                    self.dispatch(&mut pass, dispatch, tables, guard.clone());
                }
                if let Some(Reading { token, .. }) = reading {
                    pass.on_submitted_work_done(move || token.ran());
                }
            }
            Target::Queue => {
                let context = &self.context;
                let count = dispatches.len();
                if count > 1
                    && let Some(split) = &self.split
                {
                    // Commands of other threads may come between the pieces.
                    let states = split.own_states(context)?;
                    for dispatch in &mut dispatches {
                        dispatch.groups = Some(dispatch.part.groups_around(self, &states)?);
                    }
                }
                for (index, dispatch) in dispatches.into_iter().enumerate() {
                    let mut encoder = context.device().create_command_encoder(&Default::default());
                    let timestamps = call.timestamps_of(index == 0, index + 1 == count);
                    if let Some(reading) = reading.as_ref().filter(|_| index == 0) {
                        reading.prepare(&mut encoder);
                    }
                    let mut pass = encoder.begin_compute_pass(&pass_of(timestamps));
                    self.dispatch(&mut pass, dispatch, tables, guard.clone());
                    if let Some(Reading { token, .. }) = reading.take_if(|_| index + 1 == count) {
                        pass.on_submitted_work_done(move || token.ran());
                    }
                    drop(pass);
                    context.submit([encoder.finish()])?;
                }
            }
        }
        Ok(())
    }

    fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        dispatch: Dispatch<'_>,
        tables: &wgpu::BindGroup,
        guard: Option<Arc<()>>,
    ) {
        let Dispatch { part, groups, arena, slot, workgroups: (x, y), merge_workgroups } = dispatch;
        let groups = groups.as_ref().unwrap_or(&part.groups);
        pass.set_pipeline(&part.pipeline.pipeline);
        // Until the GPU is done, the slot and the tables belong to this call.
        slot.bind(pass, guard);
        pass.set_bind_group(TABLES_GROUP as u32, tables, &[]);
        pass.set_bind_group(TENSORS_GROUP as u32, &groups.tensors, &[]);
        if let Some(arena) = arena {
            pass.set_bind_group(ARENA_GROUP as u32, arena, &[]);
        }
        pass.dispatch_workgroups(x, y, 1);
        if let (Some(split), Some(states), Some((x, y))) = (&self.split, &groups.states, merge_workgroups) {
            pass.set_pipeline(&split.pipeline.pipeline);
            pass.set_bind_group(MergeSplits::TENSORS_GROUP as u32, states, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
    }

    /// Refuses a sequence that is past the maxima or the tensors.
    fn check_sequence(&self, bound: &Bound, call: &Call<'_>, index: usize) -> Result<()> {
        let maxima = &self.maxima;
        let sequence = call.sequence(index);
        let Sequence { q_len, kv_len, .. } = sequence;
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
        if self.attention.positions().is_some() {
            let (query, key) = sequence.first_positions();
            // The other ends are within the maxima if they count up from the default.
            if sequence.positions.is_some() {
                for (first, len) in [(query, q_len), (key, kv_len)].into_iter().filter(|&(_, len)| len > 0) {
                    self.position_table.check("sequences", first)?;
                    self.position_table.check("sequences", first.saturating_add(len as i64 - 1))?;
                }
            }
        }
        bound.check(index, &sequence)
    }

    /// The block grid of one sequence and where its tables begin: those of its schedule, checked against its lengths, or the dense grid.
    fn schedule(&self, call: &Call<'_>, index: usize) -> Result<ScheduleWords> {
        let Sequence { q_len, kv_len, .. } = call.sequence(index);
        let maxima = &self.maxima;
        match call.tables.and_then(|tables| tables.schedule(index)) {
            Some(schedule) => {
                let causal = self.attention.is_causal();
                check_grid(&schedule.grid, (causal, maxima.heads(), maxima.kv_heads(), q_len, kv_len))?;
                Ok(schedule)
            }
            // Within the maxima, so the shape is valid.
            None => Ok(ScheduleWords {
                grid: BlockGrid::full(&maxima.with_q_len(q_len)?.with_kv_len(kv_len)?),
                order: NO_TABLE,
                lists: NO_TABLE,
            }),
        }
    }

    /// Writes the parameters of a part's dispatches into slots; none if the call has no sequence there.
    fn prepare<'p>(
        &self,
        dispatches: &mut Vec<Dispatch<'p>>,
        (part, arena): (&'p Part, Option<&'p wgpu::BindGroup>),
        call: &Call<'_>,
        count: usize,
        grid: &BlockGrid,
        query_blocks: usize,
    ) -> Result<()> {
        let here = || (0..count).filter(|&index| part.batches.contains(&call.sequence(index).batch));
        let sequences = here().count();
        let heads = part.kv_heads.len() * self.maxima.heads_per_kv_head();
        let block_size = match call.tables.and_then(|tables| tables.schedule(0)) {
            Some(_) => grid.block_size(),
            None => DEFAULT_BLOCK_SIZE,
        };
        let tiles_per_block = block_size.div_ceil(TILE_ROWS);
        let tiles = query_blocks * tiles_per_block;
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let listed = call.tables.and_then(|tables| tables.schedule(0)).is_some();
        let per_list = if listed { grid.heads_per_group() } else { usize::MAX };
        let longest = (0..count)
            .map(|index| call.sequence(index))
            .fold((0, 0), |(q, kv), sequence| (sequence.q_len.max(q), sequence.kv_len.max(kv)));
        let mut params = Params::default();
        let mut merge_workgroups = None;
        let items = match &self.split {
            None => heads,
            Some(split) => {
                let shares = split.shares(&self.maxima, sequences, heads, per_list, longest, tiles);
                params = shares.params;
                if shares.merge_items > 0 {
                    merge_workgroups =
                        Some(dispatch::fold(shares.merge_items.div_ceil(TILE_ROWS as u64), limit)?);
                }
                shares.items
            }
        };
        let work_items = (sequences * items) as u64 * tiles as u64;
        if work_items == 0 {
            return Ok(());
        }
        // Refused before anything is recorded; a piece of it is no longer.
        dispatch::fold(work_items, limit)?;
        let ends = self.cuts(here(), call, (heads, items, tiles, tiles_per_block), work_items)?;
        let params = Params {
            heads: items as u32,
            splits: params.splits,
            row_chunks: params.row_chunks,
            heads_each: params.heads_each,
            heads_here: heads as u32,
            all_heads: self.maxima.heads() as u32,
            max_rows: longest.0 as u32,
            merge_items: params.merge_items,
            first_head: (part.kv_heads.start * self.maxima.heads_per_kv_head()) as u32,
            list_groups: grid.groups() as u32,
            heads_per_list: grid.heads_per_group() as u32,
            tiles: tiles as u32,
            tiles_per_block: tiles_per_block as u32,
            block_size: block_size as u32,
            ..self.params(part)
        };
        let entries = here().map(|index| self.entry(part, call, index)).collect::<Result<Vec<_>>>()?;
        let mut first = 0;
        for end in ends {
            let piece = Params { first_item: first as u32, work_items: end as u32, ..params };
            let slot =
                self.slots.take(&self.context, bytemuck::bytes_of(&piece), bytemuck::cast_slice(&entries))?;
            dispatches.push(Dispatch {
                part,
                groups: None,
                arena,
                slot,
                workgroups: dispatch::fold(end - first, limit)?,
                // Once all shares are there.
                merge_workgroups: merge_workgroups.filter(|_| end == work_items),
            });
            first = end;
        }
        Ok(())
    }

    /// Where the line of a dispatch's work items is cut, and its end: one piece unless the device is to be given less at once. Sequences, then tiles, then items.
    fn cuts(
        &self,
        sequences: impl Iterator<Item = usize>,
        call: &Call<'_>,
        (heads, items, tiles, tiles_per_block): (usize, usize, usize, usize),
        work_items: u64,
    ) -> Result<Vec<u64>> {
        let Some(flops) = self.context.max_dispatch_flops() else { return Ok(vec![work_items]) };
        let per_pair = 2 * (self.maxima.head_dim() + self.maxima.value_dim()) as u64;
        let cap = flops / per_pair;
        let mut runs = Vec::new();
        let mut all_pairs = 0u64;
        for index in sequences {
            let sequence = call.sequence(index);
            all_pairs = all_pairs.saturating_add((sequence.q_len * sequence.kv_len) as u64 * heads as u64);
            runs.push((index, sequence));
        }
        // Most calls, and every short one.
        if all_pairs <= cap {
            return Ok(vec![work_items]);
        }
        let mut line = Vec::with_capacity(runs.len() * tiles);
        for (index, sequence) in runs {
            let grid = self.schedule(call, index)?.grid;
            let lists = call.tables.and_then(|tables| tables.row_blocks(index));
            for place in 0..tiles {
                let pairs = self.pairs(&sequence, &grid, lists, (place, tiles, tiles_per_block));
                line.push(WorkRun {
                    items: items as u64,
                    cost: (pairs * heads as u64).div_ceil(items as u64),
                });
            }
        }
        Ok(cut(&line, cap))
    }

    /// Pairs of query and key that a head's tile at this place of the line looks at, at most.
    fn pairs(
        &self,
        sequence: &Sequence,
        grid: &BlockGrid,
        lists: Option<&[u32]>,
        (place, tiles, tiles_per_block): (usize, usize, usize),
    ) -> u64 {
        let block = grid.block_size();
        let rows = TILE_ROWS.min(block);
        if let Some(lists) = lists {
            let blocks = lists.get(place / tiles_per_block).copied().unwrap_or(0);
            return u64::from(blocks) * (block * rows) as u64;
        }
        let tile = match (self.row_order(), place % 2) {
            (RowOrder::Paired, 1) => place / 2,
            (RowOrder::Paired, _) => tiles - 1 - place / 2,
            _ => tiles - 1 - place,
        };
        if tile / tiles_per_block >= grid.query_blocks() {
            return 0;
        }
        let first = (grid.first_query_block() + (tile / tiles_per_block) as i64) * block as i64
            + (tile % tiles_per_block * TILE_ROWS) as i64;
        let kv_len = sequence.kv_len;
        let visible = |position| self.attention.visible(position, kv_len);
        let keys = visible(first + rows as i64 - 1).end.saturating_sub(visible(first).start);
        (keys * rows) as u64
    }

    fn entry(&self, part: &Part, call: &Call<'_>, index: usize) -> Result<SequenceEntry> {
        let sequence = call.sequence(index);
        let Sequence { batch, q_start, q_len, kv_start, kv_len, .. } = sequence;
        let ScheduleWords { grid, order: order_base, lists: list_base } = self.schedule(call, index)?;
        let document_base = match call.tables {
            Some(tables) => tables.documents(index, q_len)?,
            None => NO_TABLE,
        };
        let id_base = match call.tables {
            Some(tables) => tables.position_ids(index, (q_len, kv_len))?,
            None => NO_TABLE,
        };
        let (q_position, k_position) = sequence.first_positions();
        let batch = batch - part.batches.start;
        let (k_base, v_base, segments) = match sequence.region {
            Some(Region { key_base, value_base, segments, .. }) => (key_base, value_base, segments as u32),
            None => (part.k.at(batch, kv_start), part.v.at(batch, kv_start), 0),
        };
        Ok(SequenceEntry {
            q_base: part.q.at(batch, q_start),
            k_base,
            v_base,
            o_base: part.o.at(batch, q_start),
            lse_base: part.lse.at(batch, q_start),
            q_len: q_len as u32,
            kv_len: kv_len as u32,
            first_block: grid.first_query_block() as i32,
            query_blocks: grid.query_blocks() as u32,
            list_base,
            order_base,
            document_base,
            id_base,
            q_position: q_position as i32,
            k_position: k_position as i32,
            slope_head: sequence.slope_head as u32,
            segments,
        })
    }

    /// The order in which rows are best handed to this device.
    pub(super) fn row_order(&self) -> RowOrder {
        match self.context.capabilities().is_software() {
            true => RowOrder::Paired,
            false => RowOrder::LongestFirst,
        }
    }

    /// What doesn't depend on the call: strides, mask and scores.
    fn params(&self, part: &Part) -> Params {
        let attention = &self.attention;
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let (scale, soft_cap, beta) =
            (attention.scale(self.maxima.head_dim()), attention.soft_cap(), attention.correction());
        let unit = score_unit(self.variant.kernel);
        let (soft_cap, soft_cap_inverse) =
            soft_cap.map_or((0.0, 0.0), |cap| (cap * unit, 1.0 / (cap * unit)));
        let params = Params {
            q_head_stride: part.q.head_stride,
            q_row_stride: part.q.row_stride,
            k_head_stride: part.k.head_stride,
            k_row_stride: part.k.row_stride,
            v_head_stride: part.v.head_stride,
            v_row_stride: part.v.row_stride,
            o_head_stride: part.o.head_stride,
            o_row_stride: part.o.row_stride,
            lse_head_stride: part.lse.head_stride,
            heads_per_kv: self.maxima.heads_per_kv_head() as u32,
            flags: flag(attention.is_causal(), FLAG_CAUSAL)
                | flag(attention.window().is_some(), FLAG_WINDOW)
                | flag(attention.soft_cap().is_some(), FLAG_SOFT_CAP)
                | flag(attention.lse(), FLAG_LSE)
                | flag(self.row_order() == RowOrder::Paired, FLAG_PAIRED),
            // A window past every key is no window; the clamp keeps position ± window within 32 bits.
            window: attention.window().map_or(0, |w| w.min(1 << 30) as u32),
            scale: scale * unit,
            soft_cap,
            soft_cap_inverse,
            beta: beta * unit,
            ..Params::default()
        };
        self.position_table.locate(params)
    }
}
