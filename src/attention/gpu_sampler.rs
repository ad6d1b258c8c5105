//! Schedules drawn on the GPU: `shaders/sampling/schedule_count.wgsl`, `schedule_scan.wgsl`,
//! `schedule_fill.wgsl`.

use std::sync::Arc;

use super::table_buffer::{ScheduleWords, TableBuffer, Writer};
use crate::attention::kernels::params::NO_TABLE;
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_BATCH, at_most};
use crate::random::Seed;
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::prepare::Compiling;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::SlotPool;
use crate::sampling::gpu::draw::Draw;
use crate::sampling::gpu::params::{Distance, FLAG_CAUSAL, ScheduleParams, ScheduleSequence};
use crate::sampling::{BlockGrid, CumulativeProfile, GpuRule, ONE, Profile, Sampler, Schedule, candidates};

/// Draws schedules on the GPU: what [`Schedule::sample`] draws, bit for bit.
///
/// The lists never leave the GPU, and the host does nothing that grows with the sequence: record
/// the drawing, then the calls that read it, into one encoder.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// # use prflash::attention::GpuSampler;
/// # use prflash::{
/// #     Attention, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Seed, Shape,
/// #     Systematic, Tensor,
/// # };
/// # let context = Context::new_blocking()?;
/// # let shape = Shape::new(9, 3, 1024, 64)?;
/// # let zeros = |heads| Tensor::zeros(&context, DType::F32, Layout::heads_first(1, heads, 1024, 64)?);
/// # let (q, k, v, output) = (zeros(9)?, zeros(3)?, zeros(3)?, zeros(9)?);
/// let plan = Attention::causal().plan(&context, &shape)?;
/// # let bound = plan.bind(&Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None })?;
/// let grid = BlockGrid::causal(&shape);
/// let mut sampler = GpuSampler::new(&context, &grid, 1, &Profile::harmonic(), &Systematic)?;
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// for layer in 0..4 {
///     let tables = sampler.encode(&mut encoder, &[(grid, Seed::new(42).layer(layer))])?;
///     plan.encode(&mut encoder, &bound, &Call::lengths(1024, 1024).with_tables(tables))?;
/// }
/// context.queue().submit([encoder.finish()]);
/// # Ok(())
/// # }
/// ```
///
/// Three passes: the count of every row (of [`Systematic`](crate::Systematic) from two numbers, of
/// [`Bernoulli`](crate::sampling::Bernoulli) from all candidates), where each row begins, the
/// entries.
#[derive(Debug)]
pub struct GpuSampler {
    context: Context,
    maxima: BlockGrid,
    /// The most of a call.
    sequences: usize,
    profile: Profile,
    /// Count, scan, fill.
    pipelines: [Arc<Pipeline>; 3],
    slots: SlotPool,
    tables: TableBuffer,
    capacity: u64,
    room: Room,
}

/// Words that the lists of one sequence take: offsets, pairs, sums of chunks.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Words from the start of the tables to the sums.
    sums: u64,
    all: u64,
}

impl Room {
    fn new(maxima: &BlockGrid, capacity: u64) -> Self {
        let rows = (maxima.groups() * most_query_blocks(maxima)) as u64;
        let sums = (rows + 1).saturating_add(capacity.saturating_mul(2));
        Self { sums, all: sums.saturating_add(rows.div_ceil(Draw::ROWS as u64)) }
    }

    /// Bytes for so many sequences, with the total of each.
    fn bytes(&self, sequences: usize) -> u64 {
        self.all.saturating_add(1).saturating_mul(4 * sequences as u64)
    }
}

impl GpuSampler {
    /// Makes ready to draw schedules of at most so many sequences at a time, for any grid up to the
    /// lengths of `maxima`: what [`Schedule::sample`](crate::Schedule::sample) draws, bit for bit.
    ///
    /// Reserves for as many blocks as the sampler can keep (Bernoulli: will keep, but for a
    /// probability below 10⁻¹²), which takes the host a time proportional to the query blocks of
    /// `maxima`.
    ///
    /// # Errors
    /// Invalid argument: no `sequences`, `sampler` that has no [GPU rule](Sampler::gpu_rule),
    /// `profile` that is a budget (solved row by row, on the host). Too large (`maxima`) where the
    /// device can't bind such lists at once; out of memory; device lost.
    pub fn new(
        context: &Context,
        maxima: &BlockGrid,
        sequences: usize,
        profile: &Profile,
        sampler: &dyn Sampler,
    ) -> Result<Self> {
        Self::with(context, maxima, sequences, profile, sampler, None)
    }

    /// The same with room for `capacity` blocks of each sequence. A schedule that keeps more loses
    /// the rest, and [`check`](GpuSampler::check) says so.
    ///
    /// # Errors
    /// As [`new`](GpuSampler::new), but too large names `capacity`.
    pub fn with_capacity(
        context: &Context,
        maxima: &BlockGrid,
        sequences: usize,
        profile: &Profile,
        sampler: &dyn Sampler,
        capacity: usize,
    ) -> Result<Self> {
        Self::with(context, maxima, sequences, profile, sampler, Some(capacity))
    }

    fn with(
        context: &Context,
        maxima: &BlockGrid,
        sequences: usize,
        profile: &Profile,
        sampler: &dyn Sampler,
        capacity: Option<usize>,
    ) -> Result<Self> {
        ensure!(sequences > 0, "sequences", "expected at least 1, got 0");
        at_most("sequences", sequences, MAX_BATCH)?;
        let Some(rule) = sampler.gpu_rule() else {
            let message = format!("{} has no GPU rule; draw it on the host", sampler.name());
            return Err(Error::argument_error("sampler", message));
        };
        ensure!(
            profile.decay().budget().is_none(),
            "profile",
            "a budget is solved row by row, on the host; got {profile}"
        );
        // Past the farthest distance of any grid within the maxima, since sums end there.
        let distances = maxima.key_blocks().max(most_query_blocks(maxima)) + 1;
        let table = profile.cumulative(distances);
        let argument = if capacity.is_some() { "capacity" } else { "maxima" };
        let capacity = capacity.map_or_else(|| most_blocks(&table, maxima, rule), |blocks| blocks as u64);
        let room = Room::new(maxima, capacity);
        let entries = device_table(&table);
        let bytes = room.bytes(1).max(size_of_val(entries.as_slice()) as u64);
        let limit = context.capabilities().max_binding_bytes;
        if bytes > limit {
            let message = format!(
                "lists of {capacity} blocks take {bytes} bytes, past the {limit} that this device can bind at once"
            );
            return Err(Error::too_large(argument, message));
        }

        let pipelines = [
            context.pipeline(&Draw::Count(rule))?,
            context.pipeline(&Draw::Scan)?,
            context.pipeline(&Draw::Fill(rule))?,
        ];
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let distances =
            context.create_buffer("prflash distances", size_of_val(entries.as_slice()) as u64, usage)?;
        context.capture(|| context.queue().write_buffer(&distances, 0, bytemuck::cast_slice(&entries)))?;
        let slots =
            SlotPool::new::<ScheduleParams, ScheduleSequence>(context, &pipelines[0], sequences, Vec::new())?;
        let mut tables = TableBuffer::empty(
            context,
            Some(Writer {
                pipeline: pipelines[0].clone(),
                group: Draw::TABLES_GROUP,
                beside: vec![distances],
            }),
        );
        tables.take(room.bytes(1))?;
        Ok(Self {
            context: context.clone(),
            maxima: *maxima,
            sequences,
            profile: profile.clone(),
            pipelines,
            slots,
            tables,
            capacity,
            room,
        })
    }

    /// Blocks that one sequence has room for.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Ready once its kernels are compiled, as [`Plan::prepare`](crate::Plan::prepare) is.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`](crate::Plan::prepare).
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        self.context.prepare(&self.pipelines, progress).await
    }

    /// Bytes of GPU memory held. It grows with the sequences of a call, and where more schedules
    /// are in use at once than ever before.
    pub fn device_bytes(&self) -> u64 {
        self.slots.bytes() + self.tables.bytes()
    }

    /// Records the drawing of a schedule for all sequences of a call, or of one for each in order;
    /// returns the tables for [`Call::with_tables`](crate::Call::with_tables).
    ///
    /// It doesn't submit or wait, and creates no GPU object once as many schedules have been in use
    /// before. Calls that were recorded with earlier tables keep theirs. The tables are there when
    /// the encoder's commands have run: submit these before the calls that read them, or with them.
    /// A call that runs without them takes for lists whatever the buffer held.
    ///
    /// # Errors
    /// Invalid argument: `sequences` that are none or more than was made ready for, `grid` that is
    /// past the maxima or of another block size, mask or granularity; too large (`tables`) where
    /// lists for so many sequences can't be bound at once; out of memory. Then nothing was
    /// recorded.
    pub fn encode(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequences: &[(BlockGrid, Seed)],
    ) -> Result<&TableBuffer> {
        let (count, most) = (sequences.len(), self.sequences);
        ensure!((1..=most).contains(&count), "sequences", "expected 1 to {most}, got {count}");
        for (grid, _) in sequences {
            self.check_grid(grid)?;
        }
        let rows = sequences.iter().map(|(grid, _)| grid.groups() * grid.query_blocks()).max();
        let chunks = rows.unwrap_or(0).div_ceil(Draw::ROWS);
        let work_items = (count * chunks) as u64;
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let (per_chunk, per_sequence) =
            (dispatch::fold(work_items, limit)?, dispatch::fold(count as u64, limit)?);
        let params = ScheduleParams {
            sequences: count as u32,
            groups: self.maxima.groups() as u32,
            chunks: chunks as u32,
            work_items: work_items as u32,
            sink_blocks: u32::try_from(self.profile.sink_blocks()).unwrap_or(u32::MAX),
            capacity: self.capacity as u32,
            sums: self.room.sums as u32,
            flags: if self.maxima.is_causal() { FLAG_CAUSAL } else { 0 },
        };
        let base = |index: usize| count as u32 + (index as u64 * self.room.all) as u32;
        let entry = |(index, (grid, seed)): (usize, &(BlockGrid, Seed))| {
            let (seed, round) = seed.prefix();
            ScheduleSequence {
                base: base(index),
                first_block: grid.first_query_block() as i32,
                query_blocks: grid.query_blocks() as u32,
                key_blocks: grid.key_blocks() as u32,
                seed,
                round,
            }
        };
        let entries: Vec<_> = sequences.iter().enumerate().map(entry).collect();
        let words = |(index, &(grid, _)): (usize, &(BlockGrid, Seed))| ScheduleWords {
            grid,
            order: NO_TABLE,
            lists: base(index),
            columns: NO_TABLE,
        };
        let schedules = sequences.iter().enumerate().map(words).collect();
        let slot =
            self.slots.take(&self.context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&entries))?;
        let tables = self.tables.take(self.room.bytes(count))?;

        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("prflash schedule"),
            timestamp_writes: None,
        });
        let [count_pipeline, scan_pipeline, fill_pipeline] = &self.pipelines;
        pass.set_pipeline(&count_pipeline.pipeline);
        // Bound once: the three have the same layouts.
        slot.bind(&mut pass, Some(tables.in_use.clone()));
        pass.set_bind_group(Draw::TABLES_GROUP as u32, &tables.written, &[]);
        for (pipeline, (x, y)) in
            [(count_pipeline, per_chunk), (scan_pipeline, per_sequence), (fill_pipeline, per_chunk)]
        {
            if x > 0 {
                pass.set_pipeline(&pipeline.pipeline);
                pass.dispatch_workgroups(x, y, 1);
            }
        }
        drop(pass);
        self.tables.describe(schedules);
        Ok(&self.tables)
    }

    /// The tables of the last [`encode`](GpuSampler::encode), if there was one.
    pub fn tables(&self) -> Option<&TableBuffer> {
        self.tables.described().map(|_| &self.tables)
    }

    /// How many blocks each sequence of the last [`encode`](GpuSampler::encode) keeps, once all
    /// work submitted so far is done. Native backends wait inside.
    ///
    /// # Errors
    /// Too large (`capacity`) where there were more than fit: then the later rows of that sequence
    /// lack blocks. Device lost; out of memory.
    pub async fn check(&self) -> Result<Vec<u64>> {
        let Some((schedules, buffer)) = self.tables.described() else { return Ok(Vec::new()) };
        let totals = self.words(buffer, 0, schedules.len() as u64).await?;
        let capacity = self.capacity;
        match totals.iter().position(|&total| u64::from(total) > capacity) {
            None => Ok(totals.into_iter().map(u64::from).collect()),
            Some(index) => {
                let message =
                    format!("sequence {index} keeps more than the {capacity} blocks it has room for");
                Err(Error::too_large("capacity", message))
            }
        }
    }

    /// The schedules of the last [`encode`](GpuSampler::encode), one for each of its sequences,
    /// once all work submitted so far is done. Native backends wait inside.
    ///
    /// # Errors
    /// Those of [`check`](GpuSampler::check); invalid argument (`lists`) if what the device holds
    /// is no schedule: its commands weren't submitted.
    pub async fn read(&self) -> Result<Vec<Schedule>> {
        let totals = self.check().await?;
        let Some((described, buffer)) = self.tables.described() else { return Ok(Vec::new()) };
        let mut schedules = Vec::with_capacity(described.len());
        for (ScheduleWords { grid, lists, .. }, total) in described.iter().zip(totals) {
            let offsets = grid.groups() * grid.query_blocks() + 1;
            let words = self.words(buffer, u64::from(*lists), offsets as u64 + 2 * total).await?;
            let (offsets, pairs) = words.split_at(offsets);
            schedules.push(Schedule::from_words(grid, offsets, pairs)?);
        }
        Ok(schedules)
    }

    /// [`check`](GpuSampler::check), blocking.
    ///
    /// # Errors
    /// As [`check`](GpuSampler::check).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check_blocking(&self) -> Result<Vec<u64>> {
        pollster::block_on(self.check())
    }

    /// [`read`](GpuSampler::read), blocking.
    ///
    /// # Errors
    /// As [`read`](GpuSampler::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self) -> Result<Vec<Schedule>> {
        pollster::block_on(self.read())
    }

    async fn words(&self, buffer: &wgpu::Buffer, from: u64, count: u64) -> Result<Vec<u32>> {
        let bytes = self.context.read_buffer(buffer, 4 * from, 4 * count).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    fn check_grid(&self, grid: &BlockGrid) -> Result<()> {
        let kind = |grid: &BlockGrid| {
            (grid.block_size(), grid.is_causal(), grid.granularity(), grid.heads(), grid.kv_heads())
        };
        let (want, got) = (kind(&self.maxima), kind(grid));
        ensure!(
            want == got,
            "grid",
            "expected (block_size, causal, granularity, heads, kv_heads) = {want:?}, got {got:?}"
        );
        let lengths = |grid: &BlockGrid| (grid.q_len(), grid.kv_len());
        let (most, got) = (lengths(&self.maxima), lengths(grid));
        ensure!(
            got.0 <= most.0 && got.1 <= most.1,
            "grid",
            "expected (q_len, kv_len) up to {most:?}, got {got:?}"
        );
        Ok(())
    }
}

/// Query blocks that `q_len` queries can touch, wherever they start.
fn most_query_blocks(maxima: &BlockGrid) -> usize {
    maxima.q_len().div_ceil(maxima.block_size()) + 1
}

/// The table that the kernels read.
fn device_table(table: &CumulativeProfile) -> Vec<Distance> {
    // Without a budget, a row's profile doesn't depend on the row.
    let row = table.row(&(0..0), &(0..0), 0);
    let entry = |distance: usize| {
        let sum = row.sum_below(distance);
        Distance {
            sum_low: sum as u32,
            sum_high: (sum >> 32) as u32,
            p_low: row.probability(distance) as u32,
            ln_p: row.ln_p(distance).to_bits(),
        }
    };
    (0..table.distances()).map(entry).collect()
}

/// The most blocks that a schedule of a grid within `maxima` keeps.
///
/// The more keys, the longer is a row at the same distance from the last one. Systematic rows keep
/// at most ⌈Σp⌉ blocks on each side. The count of a Bernoulli schedule has mean μ = Σp and a
/// variance below μ; by Bernstein's inequality it exceeds `μ + L/3 + √(L²/9 + 2Lμ)` with
/// probability at most `e^−L`.
fn most_blocks(table: &CumulativeProfile, maxima: &BlockGrid, rule: GpuRule) -> u64 {
    const L: f64 = 27.64; // e^−L < 10⁻¹²
    let row = table.row(&(0..0), &(0..0), 0);
    let last = maxima.key_blocks() as i64 - 1;
    let (mut pinned, mut possible, mut sum, mut rounded_up) = (0u64, 0u64, 0.0, 0u64);
    for query_block in (0..most_query_blocks(maxima) as i64).map(|row| last - row) {
        let (sinks, span) = candidates(maxima, table.profile(), 0, query_block);
        pinned += sinks as u64;
        for side in [&span.before, &span.after] {
            let p = row.sum_of(side);
            possible += side.len() as u64;
            sum += p as f64 / ONE as f64;
            rounded_up += p.div_ceil(ONE);
        }
    }
    let groups = maxima.groups() as u64;
    let mean = groups as f64 * sum;
    let drawn = match rule {
        GpuRule::Systematic => groups * rounded_up,
        GpuRule::Bernoulli => (mean + L / 3.0 + (L * L / 9.0 + 2.0 * L * mean).sqrt()).ceil() as u64,
    };
    groups * pinned + drawn.min(groups * possible)
}
