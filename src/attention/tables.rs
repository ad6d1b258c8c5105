//! What a call reads beside its tensors: schedules, document masks and position ids, on the host and in GPU memory.

use std::sync::Arc;

use super::documents::Documents;
use super::plan::PlanInner;
use super::position_ids::PositionIds;
use crate::attention::kernels::params::NO_TABLE;
use crate::attention::kernels::variant::TABLES_GROUP;
use crate::error::{Error, Result, ensure};
use crate::runtime::context::Context;
use crate::runtime::program::Pipeline;
use crate::sampling::gpu::draw::Draw;
use crate::sampling::{BlockGrid, RowOrder, Schedule};

/// The schedules, document masks and position ids of a call: none, one for all of its sequences, or one for each in order.
///
/// ```
/// use prflash::{BlockGrid, Documents, Schedule, Shape, Tables};
/// let shape = Shape::new(4, 1, 8, 64)?;
/// let schedule = Schedule::dense(&BlockGrid::causal(&shape))?;
/// let documents = Documents::from_lengths(&[5, 3])?;
/// let everything_visible = Tables::new();
/// let masked = Tables::from(&schedule).with_documents(&documents);
/// # let _ = (everything_visible, masked);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tables<'a> {
    schedules: Vec<&'a Schedule>,
    documents: Vec<&'a Documents>,
    row_order: Option<RowOrder>,
    position_ids: Vec<&'a PositionIds>,
}

impl<'a> Tables<'a> {
    /// No schedule, no document mask, and positions that count up: dense attention.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more schedule. Give one for all sequences or one for each, in order: all of a call have blocks of one size and lists of one granularity, since a kernel walks them alike.
    ///
    /// # Errors
    /// Invalid argument (`schedule`) if its block size or granularity is another than that of those before it.
    pub fn with_schedule(mut self, schedule: &'a Schedule) -> Result<Self> {
        let kind = |schedule: &Schedule| (schedule.grid().block_size(), schedule.grid().granularity());
        if let Some(first) = self.schedules.first() {
            let (want, got) = (kind(first), kind(schedule));
            ensure!(
                want == got,
                "schedule",
                "expected (block_size, granularity) = {want:?} as in the schedules before it, got {got:?}"
            );
        }
        self.schedules.push(schedule);
        Ok(self)
    }

    /// One more document mask. Give one for all sequences or one for each, in order.
    pub fn with_documents(mut self, documents: &'a Documents) -> Self {
        self.documents.push(documents);
        self
    }

    /// One more set of position ids. Give one for all sequences or one for each, in order.
    pub fn with_position_ids(mut self, position_ids: &'a PositionIds) -> Self {
        self.position_ids.push(position_ids);
        self
    }

    /// In which order the rows of schedules are handed to workgroups: unless set, [`RowOrder::LongestFirst`] on GPUs, so that a long row isn't still running when all else is
    /// done, and [`RowOrder::Paired`] on CPU adapters. Results don't depend on it.
    pub fn with_row_order(self, row_order: RowOrder) -> Self {
        Self { row_order: Some(row_order), ..self }
    }

    /// The schedule of one sequence.
    pub fn schedule(&self, sequence: usize) -> Option<&'a Schedule> {
        nth(&self.schedules, sequence).copied()
    }

    /// The document mask of one sequence.
    pub fn documents(&self, sequence: usize) -> Option<&'a Documents> {
        nth(&self.documents, sequence).copied()
    }

    /// The position ids of one sequence.
    pub fn position_ids(&self, sequence: usize) -> Option<&'a PositionIds> {
        nth(&self.position_ids, sequence).copied()
    }

    /// Refuses a number of tables that fits neither all sequences nor each.
    pub(crate) fn check_count(&self, sequences: usize) -> Result<()> {
        check_count("schedules", self.schedules.len(), sequences)?;
        check_count("documents", self.documents.len(), sequences)?;
        check_count("position_ids", self.position_ids.len(), sequences)
    }
}

impl<'a> From<&'a Schedule> for Tables<'a> {
    fn from(schedule: &'a Schedule) -> Self {
        Self { schedules: vec![schedule], ..Self::new() }
    }
}

impl<'a> From<&'a PositionIds> for Tables<'a> {
    fn from(position_ids: &'a PositionIds) -> Self {
        Self::new().with_position_ids(position_ids)
    }
}

impl<'a> From<&'a Documents> for Tables<'a> {
    fn from(documents: &'a Documents) -> Self {
        Self::new().with_documents(documents)
    }
}

fn check_count(argument: &'static str, given: usize, sequences: usize) -> Result<()> {
    if given <= 1 || given == sequences {
        return Ok(());
    }
    let message = format!("expected none, one, or one for each of {sequences} sequences, got {given}");
    Err(Error::argument_error(argument, message))
}

/// The only one, or the one of this sequence.
fn nth<T>(values: &[T], sequence: usize) -> Option<&T> {
    if values.len() == 1 { values.first() } else { values.get(sequence) }
}

/// [`Tables`] in GPU memory, copied there ([`Plan::upload_tables`](crate::Plan::upload_tables)) or drawn there ([`GpuSampler`](crate::GpuSampler)).
///
/// Writing new ones is safe at any time: calls that were recorded or submitted before keep what they were given.
#[derive(Debug)]
pub struct TableBuffer {
    pub(super) plan: Arc<PlanInner>,
    schedules: Vec<ScheduleWords>,
    /// Of each schedule that the host wrote: the mean length of a query block's lists, in the order of its rows.
    row_blocks: Vec<Vec<u32>>,
    /// (queries, word offset) of each document mask.
    documents: Vec<(usize, u32)>,
    /// (queries, keys, word offset) of each set of position ids; [`NO_TABLE`] for an offset where the plan has no positions.
    position_ids: Vec<(usize, usize, u32)>,
    writer: Option<Writer>,
    buffers: Vec<DeviceTables>,
    current: usize,
}

/// Where the words of a schedule begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScheduleWords {
    pub(super) grid: BlockGrid,
    /// The order of its query blocks, or [`NO_TABLE`].
    pub(super) order: u32,
    /// Its lists, or [`NO_TABLE`].
    pub(super) lists: u32,
}

/// The kernels that write tables in place of the host.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) distances: wgpu::Buffer,
}

#[derive(Debug)]
pub(super) struct DeviceTables {
    pub(super) buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
    /// Of the writer's pipelines.
    pub(super) written: Option<wgpu::BindGroup>,
    /// Cloned into every call that uses this buffer; it may be written again when no clone is left.
    pub(super) in_use: Arc<()>,
}

impl TableBuffer {
    pub(super) fn new(plan: &Arc<PlanInner>, tables: &Tables<'_>) -> Result<Self> {
        let mut buffer = Self::empty(plan, None);
        buffer.write(tables)?;
        Ok(buffer)
    }

    /// Without tables and memory yet; written by the host, or else by kernels.
    pub(super) fn empty(plan: &Arc<PlanInner>, writer: Option<Writer>) -> Self {
        Self {
            plan: plan.clone(),
            schedules: Vec::new(),
            row_blocks: Vec::new(),
            documents: Vec::new(),
            position_ids: Vec::new(),
            writer,
            buffers: Vec::new(),
            current: 0,
        }
    }

    /// Replaces the tables. Calls recorded before keep theirs. Nothing is allocated if a buffer that fits is free.
    ///
    /// # Errors
    /// Invalid argument if ids are past the plan's positions; too large for a binding; out of memory. The old
    /// tables then stay.
    pub fn write(&mut self, tables: &Tables<'_>) -> Result<()> {
        let mut words = Vec::new();
        let mut schedules = Vec::with_capacity(tables.schedules.len());
        let mut row_blocks = Vec::with_capacity(tables.schedules.len());
        for schedule in &tables.schedules {
            let order = words.len() as u32;
            let row_order = tables.row_order.unwrap_or_else(|| self.plan.row_order());
            let rows = schedule.row_order(row_order);
            row_blocks.push(rows.iter().map(|&row| mean_blocks(schedule, row as usize)).collect());
            words.extend(rows);
            schedules.push(ScheduleWords { grid: *schedule.grid(), order, lists: words.len() as u32 });
            schedule.append_words(&mut words);
        }
        let mut documents = Vec::with_capacity(tables.documents.len());
        for mask in &tables.documents {
            documents.push((mask.len(), words.len() as u32));
            words.extend(mask.ranges().flat_map(|range| [range.start as u32, range.end as u32]));
        }
        let mut position_ids = Vec::with_capacity(tables.position_ids.len());
        // Without positions in the attention nothing reads them.
        let read = self.plan.attention.positions().is_some();
        for ids in &tables.position_ids {
            let base = if read { words.len() as u32 } else { NO_TABLE };
            position_ids.push((ids.queries().len(), ids.keys().len(), base));
            for list in [ids.queries(), ids.keys()].into_iter().filter(|_| read) {
                let last = list.iter().copied().max().unwrap_or(0);
                self.plan.position_table.check("position_ids", last.into())?;
                words.extend_from_slice(list);
            }
        }
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let buffer = self.take(bytes.len() as u64)?.buffer.clone();
        let context = &self.plan.context;
        context.capture(|| context.queue().write_buffer(&buffer, 0, bytes))?;
        self.schedules = schedules;
        self.row_blocks = row_blocks;
        self.documents = documents;
        self.position_ids = position_ids;
        Ok(())
    }

    /// Makes a buffer of at least `bytes` that no recorded call uses the current one.
    pub(super) fn take(&mut self, bytes: u64) -> Result<&DeviceTables> {
        let limit = self.plan.context.capabilities().max_binding_bytes;
        if bytes > limit {
            return Err(Error::too_large(
                "tables",
                format!("{bytes} bytes are past the {limit} that this device can bind at once"),
            ));
        }
        let fits = |tables: &DeviceTables| tables.buffer.size() >= bytes;
        let free = self.buffers.iter().position(|t| Arc::strong_count(&t.in_use) == 1 && fits(t));
        self.current = match free {
            Some(index) => index,
            None => {
                let new = self.allocate(bytes)?;
                // Those that are too small now stay alive in the calls that use them.
                self.buffers.retain(fits);
                self.buffers.push(new);
                self.buffers.len() - 1
            }
        };
        Ok(&self.buffers[self.current])
    }

    /// Says which schedules, at which words, the current buffer will hold.
    pub(super) fn describe(&mut self, schedules: Vec<ScheduleWords>) {
        self.schedules = schedules;
        self.row_blocks.clear();
    }

    /// The schedules that it holds, and the buffer; nothing before the first.
    pub(super) fn described(&self) -> Option<(&[ScheduleWords], &wgpu::Buffer)> {
        let tables = self.buffers.get(self.current)?;
        (!self.schedules.is_empty()).then_some((&self.schedules, &tables.buffer))
    }

    /// Bytes of GPU memory held, beside that of buffers that only calls in flight still use.
    pub(super) fn bytes(&self) -> u64 {
        let distances = self.writer.as_ref().map_or(0, |writer| writer.distances.size());
        distances + self.buffers.iter().map(|tables| tables.buffer.size()).sum::<u64>()
    }

    fn allocate(&self, bytes: u64) -> Result<DeviceTables> {
        let context = &self.plan.context;
        let (size, usage) = match self.writer {
            // Reserved for the largest.
            Some(_) => (bytes, wgpu::BufferUsages::COPY_SRC),
            // Room for the next tables, which are a little longer or shorter; but no more than can be bound.
            None => {
                let limit = context.capabilities().max_binding_bytes & !15;
                ((bytes + bytes / 4).min(limit).max(bytes), wgpu::BufferUsages::COPY_DST)
            }
        };
        let buffer = context.create_buffer("prflash tables", size, usage | wgpu::BufferUsages::STORAGE)?;
        let bind_group =
            tables_bind_group(context, &self.plan.pipeline, &buffer, &self.plan.position_buffer)?;
        let written = match &self.writer {
            Some(Writer { pipeline, distances }) => {
                let resources = [distances.as_entire_binding(), buffer.as_entire_binding()];
                Some(pipeline.bind(context, "prflash written tables", Draw::TABLES_GROUP, &resources)?)
            }
            None => None,
        };
        Ok(DeviceTables { buffer, bind_group, written, in_use: Arc::default() })
    }

    /// What a call needs of the current tables: the bind group, and a guard to keep until it is done.
    pub(super) fn current(&self) -> (&wgpu::BindGroup, Arc<()>) {
        let tables = &self.buffers[self.current];
        (&tables.bind_group, tables.in_use.clone())
    }

    /// Refuses a number of tables that doesn't fit the sequences of a call.
    pub(super) fn check_count(&self, sequences: usize) -> Result<()> {
        check_count("schedules", self.schedules.len(), sequences)?;
        check_count("documents", self.documents.len(), sequences)?;
        check_count("position_ids", self.position_ids.len(), sequences)
    }

    /// The schedule of a sequence.
    pub(super) fn schedule(&self, sequence: usize) -> Option<ScheduleWords> {
        nth(&self.schedules, sequence).copied()
    }

    /// How many blocks each row of a sequence's schedule keeps, in the order of the rows; nothing where a device drew it.
    pub(super) fn row_blocks(&self, sequence: usize) -> Option<&[u32]> {
        nth(&self.row_blocks, sequence).map(Vec::as_slice)
    }

    /// The word offset of the position ids of a sequence with these lengths, or [`NO_TABLE`].
    pub(super) fn position_ids(&self, sequence: usize, lengths: (usize, usize)) -> Result<u32> {
        let Some(&(queries, keys, base)) = nth(&self.position_ids, sequence) else { return Ok(NO_TABLE) };
        let got = (queries, keys);
        ensure!(
            got == lengths,
            "position_ids",
            "expected ids for (q_len, kv_len) = {lengths:?}, got {got:?}"
        );
        Ok(base)
    }

    /// The word offset of the document mask of a sequence with `q_len` queries, or [`NO_TABLE`].
    pub(super) fn documents(&self, sequence: usize, q_len: usize) -> Result<u32> {
        let Some(&(queries, base)) = nth(&self.documents, sequence) else { return Ok(NO_TABLE) };
        ensure!(queries == q_len, "documents", "expected a mask for {q_len} queries, got {queries}");
        Ok(base)
    }
}

/// Key blocks of a row's lists, on average over the groups, rounded up.
fn mean_blocks(schedule: &Schedule, row: usize) -> u32 {
    let groups = schedule.grid().groups();
    let blocks: usize = (0..groups).map(|group| schedule.row(group, row).len()).sum();
    blocks.div_ceil(groups.max(1)) as u32
}

/// The bind group of a pipeline's tables over `buffer`.
pub(super) fn tables_bind_group(
    context: &Context,
    pipeline: &Pipeline,
    buffer: &wgpu::Buffer,
    positions: &wgpu::Buffer,
) -> Result<wgpu::BindGroup> {
    let resources = [buffer.as_entire_binding(), positions.as_entire_binding()];
    pipeline.bind(context, "prflash tables", TABLES_GROUP, &resources)
}
