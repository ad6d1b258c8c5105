//! Tables in GPU memory.

use std::sync::Arc;

use super::inputs::attention::Attention;
use super::inputs::mask::{Mask, check_dims};
use super::inputs::pages::{PageWords, Pool, check_given};
use super::inputs::tables::{Tables, check_count, check_masks, nth};
use crate::attention::kernels::params::NO_TABLE;
use crate::error::{Error, Result, ensure};
use crate::runtime::context::Context;
use crate::runtime::pipeline::bind;
use crate::runtime::program::{Binds, Pipeline, group_layout};
use crate::sampling::{BlockGrid, RowOrder, Schedule};
use crate::shape::Shape;

/// [`Tables`] in GPU memory, copied there or drawn there
/// ([`GpuSampler`](crate::attention::GpuSampler)).
///
/// They belong to no plan: any call of the device may have them whose lengths and heads are theirs.
///
/// Writing new ones is safe at any time: calls that were recorded or submitted before keep what
/// they were given.
#[derive(Debug)]
pub struct TableBuffer {
    context: Context,
    layout: wgpu::BindGroupLayout,
    schedules: Vec<ScheduleWords>,
    /// Of each schedule that the host wrote: the mean length of a query block's lists, in the order
    /// of its rows.
    row_blocks: Vec<Vec<u32>>,
    /// Whether its schedules lie there by key blocks, too, and then the mean length of a key
    /// block's lists.
    transposed: bool,
    column_blocks: Vec<Vec<u32>>,
    /// (queries, word offset) of each document mask.
    documents: Vec<(usize, u32)>,
    position_ids: Vec<IdWords>,
    masks: Vec<MaskWords>,
    pages: Vec<PageWords>,
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
    /// Where its lists begin, or [`NO_TABLE`].
    pub(super) lists: u32,
    /// Where its lists by key block begin, or [`NO_TABLE`].
    pub(super) columns: u32,
}

impl ScheduleWords {
    /// The grid of a sequence without a schedule.
    pub(super) fn dense(shape: &Shape) -> Self {
        let grid = BlockGrid::full(shape);
        Self { grid, order: NO_TABLE, lists: NO_TABLE, columns: NO_TABLE }
    }
}

/// Where the words of a mask tensor begin, and what they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaskWords {
    dims: [usize; 3],
    /// The first word, or [`NO_TABLE`].
    pub(super) base: u32,
    /// Words from one head's rows, and from one query's row, to the next; 0 where all have the
    /// same.
    pub(super) head_stride: u32,
    pub(super) row_stride: u32,
    /// Bits of a number.
    pub(super) bits: u32,
}

impl MaskWords {
    /// Of a sequence without a mask.
    pub(super) const NONE: Self =
        Self { dims: [0; 3], base: NO_TABLE, head_stride: 0, row_stride: 0, bits: 0 };

    fn new(mask: &Mask, base: u32) -> Self {
        let per_word = mask.form().per_word();
        let [heads, queries, keys] = mask.dims();
        let row = keys.div_ceil(per_word);
        let stride = |count: usize, stride: usize| if count == 1 { 0 } else { stride as u32 };
        Self {
            dims: mask.dims(),
            base,
            head_stride: stride(heads, queries * row),
            row_stride: stride(queries, row),
            bits: 32 / per_word as u32,
        }
    }
}

/// A set of position ids.
#[derive(Clone, Copy, Debug)]
struct IdWords {
    queries: usize,
    keys: usize,
    /// Where the words of the table begin.
    base: u32,
    /// The largest id.
    last: u32,
}

/// The kernels that write tables in place of the host.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) pipeline: Arc<Pipeline>,
    /// The group of the tables.
    pub(super) group: usize,
    /// What the group binds before the tables.
    pub(super) beside: Vec<wgpu::Buffer>,
}

#[derive(Debug)]
pub(super) struct DeviceTables {
    pub(super) buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
    /// The bind group by which the writer's pipelines write it.
    pub(super) written: Option<wgpu::BindGroup>,
    /// Cloned into every call that uses this buffer; it may be written again when no clone is left.
    pub(super) in_use: Arc<()>,
}

impl TableBuffer {
    /// Copies tables to the GPU.
    ///
    /// # Errors
    /// Those of [`write`](TableBuffer::write).
    pub fn new(context: &Context, tables: &Tables<'_>) -> Result<Self> {
        let mut buffer = Self::empty(context, None);
        buffer.write(tables)?;
        Ok(buffer)
    }

    /// Copies tables to the GPU for a [`BackwardPlan`](crate::attention::BackwardPlan), which walks
    /// schedules by key blocks as well: they take twice the memory.
    ///
    /// # Errors
    /// Those of [`write`](TableBuffer::write).
    pub fn for_backward(context: &Context, tables: &Tables<'_>) -> Result<Self> {
        let mut buffer = Self { transposed: true, ..Self::empty(context, None) };
        buffer.write(tables)?;
        Ok(buffer)
    }

    /// Without tables and memory yet; written by the host, or else by kernels.
    pub(super) fn empty(context: &Context, writer: Option<Writer>) -> Self {
        Self {
            context: context.clone(),
            layout: tables_layout(context),
            schedules: Vec::new(),
            row_blocks: Vec::new(),
            transposed: false,
            column_blocks: Vec::new(),
            documents: Vec::new(),
            position_ids: Vec::new(),
            masks: Vec::new(),
            pages: Vec::new(),
            writer,
            buffers: Vec::new(),
            current: 0,
        }
    }

    /// Replaces the tables. Calls recorded before keep theirs. Nothing is allocated if a buffer
    /// that fits is free.
    ///
    /// # Errors
    /// Too large for a binding; out of memory. The old tables then stay.
    pub fn write(&mut self, tables: &Tables<'_>) -> Result<()> {
        let mut words = Vec::new();
        let mut schedules = Vec::with_capacity(tables.schedules.len());
        let mut row_blocks = Vec::with_capacity(tables.schedules.len());
        let mut column_blocks = Vec::new();
        for schedule in &tables.schedules {
            let order = words.len() as u32;
            let row_order = tables.row_order.unwrap_or_else(|| row_order(&self.context));
            let rows = schedule.row_order(row_order);
            row_blocks.push(rows.iter().map(|&row| mean_blocks(schedule, row as usize)).collect());
            words.extend(rows);
            let lists = words.len() as u32;
            schedule.append_words(&mut words);
            let mut columns = NO_TABLE;
            if self.transposed {
                columns = words.len() as u32;
                column_blocks.push(schedule.append_columns(&mut words));
            }
            schedules.push(ScheduleWords { grid: *schedule.grid(), order, lists, columns });
        }
        let mut documents = Vec::with_capacity(tables.documents.len());
        for mask in &tables.documents {
            documents.push((mask.len(), words.len() as u32));
            words.extend(mask.ranges().flat_map(|range| [range.start as u32, range.end as u32]));
        }
        let mut position_ids = Vec::with_capacity(tables.position_ids.len());
        for ids in &tables.position_ids {
            let (queries, keys) = (ids.queries(), ids.keys());
            position_ids.push(IdWords {
                queries: queries.len(),
                keys: keys.len(),
                base: words.len() as u32,
                last: queries.iter().chain(keys).copied().max().unwrap_or(0),
            });
            words.extend(queries.iter().chain(keys));
        }
        let mut masks = Vec::with_capacity(tables.masks.len());
        for mask in &tables.masks {
            masks.push(MaskWords::new(mask, words.len() as u32));
            words.extend_from_slice(mask.words());
        }
        let mut pages = Vec::with_capacity(tables.pages.len());
        for table in &tables.pages {
            pages.push(PageWords::of(table, words.len() as u32));
            words.extend_from_slice(table.pages());
        }
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let buffer = self.take(bytes.len() as u64)?.buffer.clone();
        let context = &self.context;
        context.capture(|| context.queue().write_buffer(&buffer, 0, bytes))?;
        self.schedules = schedules;
        self.row_blocks = row_blocks;
        self.column_blocks = column_blocks;
        self.documents = documents;
        self.position_ids = position_ids;
        self.masks = masks;
        self.pages = pages;
        Ok(())
    }

    /// Makes a buffer of at least `bytes` that no recorded call uses the current one.
    pub(super) fn take(&mut self, bytes: u64) -> Result<&DeviceTables> {
        let limit = self.context.capabilities().max_binding_bytes;
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
        let beside = self.writer.iter().flat_map(|writer| &writer.beside);
        beside.map(wgpu::Buffer::size).sum::<u64>()
            + self.buffers.iter().map(|tables| tables.buffer.size()).sum::<u64>()
    }

    fn allocate(&self, bytes: u64) -> Result<DeviceTables> {
        let context = &self.context;
        let (size, usage) = match self.writer {
            // Reserved for the largest.
            Some(_) => (bytes, wgpu::BufferUsages::COPY_SRC),
            // Room for the next tables, which are a little longer or shorter; but no more than can
            // be bound.
            None => {
                let limit = context.capabilities().max_binding_bytes & !15;
                ((bytes + bytes / 4).min(limit).max(bytes), wgpu::BufferUsages::COPY_DST)
            }
        };
        let buffer = context.create_buffer("prflash tables", size, usage | wgpu::BufferUsages::STORAGE)?;
        let bind_group = bind_tables(context, &self.layout, &buffer)?;
        let written = match &self.writer {
            Some(Writer { pipeline, group, beside }) => {
                let resources: Vec<_> =
                    beside.iter().chain([&buffer]).map(wgpu::Buffer::as_entire_binding).collect();
                Some(pipeline.bind(context, "prflash written tables", *group, &resources)?)
            }
            None => None,
        };
        Ok(DeviceTables { buffer, bind_group, written, in_use: Arc::default() })
    }

    /// The device.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// What a call needs of the current tables: the bind group, and a guard to keep until it is
    /// done.
    pub(super) fn current(&self) -> (&wgpu::BindGroup, Arc<()>) {
        let tables = &self.buffers[self.current];
        (&tables.bind_group, tables.in_use.clone())
    }

    /// Refuses a number of tables that doesn't fit the sequences of a call.
    pub(super) fn check_count(&self, sequences: usize) -> Result<()> {
        check_count("schedules", self.schedules.len(), sequences)?;
        check_count("documents", self.documents.len(), sequences)?;
        check_count("position_ids", self.position_ids.len(), sequences)?;
        check_count("masks", self.masks.len(), sequences)?;
        check_count("pages", self.pages.len(), sequences)
    }

    /// The schedule of a sequence.
    pub(super) fn schedule(&self, sequence: usize) -> Option<ScheduleWords> {
        nth(&self.schedules, sequence).copied()
    }

    /// How many blocks each row of a sequence's schedule keeps, in the order of the rows; nothing
    /// where a device drew it.
    pub(super) fn row_blocks(&self, sequence: usize) -> Option<&[u32]> {
        nth(&self.row_blocks, sequence).map(Vec::as_slice)
    }

    /// How many query blocks keep each key block of a sequence's schedule, on average over its
    /// lists; nothing where it doesn't lie there by key blocks.
    pub(super) fn column_blocks(&self, sequence: usize) -> Option<&[u32]> {
        nth(&self.column_blocks, sequence).map(Vec::as_slice)
    }

    /// The position ids of a sequence with these lengths: the offset of their words, and the
    /// largest.
    pub(super) fn position_ids(
        &self,
        sequence: usize,
        lengths: (usize, usize),
    ) -> Result<Option<(u32, u32)>> {
        let Some(&IdWords { queries, keys, base, last }) = nth(&self.position_ids, sequence) else {
            return Ok(None);
        };
        let got = (queries, keys);
        ensure!(
            got == lengths,
            "position_ids",
            "expected ids for (q_len, kv_len) = {lengths:?}, got {got:?}"
        );
        Ok(Some((base, last)))
    }

    /// The mask tensor of a sequence of these `[heads, q_len, kv_len]`.
    pub(super) fn mask(
        &self,
        attention: &Attention,
        sequence: usize,
        sizes: [usize; 3],
    ) -> Result<MaskWords> {
        let Some(&mask) = nth(&self.masks, sequence) else { return Ok(MaskWords::NONE) };
        check_masks(attention)?;
        check_dims(mask.dims, sizes)?;
        Ok(mask)
    }

    /// The pages of a sequence up to a token, in a pool of this size; none where keys lie in rows.
    pub(super) fn pages(&self, sequence: usize, pool: Option<Pool>, end: usize) -> Result<u32> {
        let words = nth(&self.pages, sequence);
        check_given(words.is_some(), pool.is_some())?;
        let (Some(&words), Some(pool)) = (words, pool) else { return Ok(NO_TABLE) };
        pool.check(sequence, words, end)?;
        Ok(words.base)
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

/// The order in which rows are best handed to a device.
pub(super) fn row_order(context: &Context) -> RowOrder {
    match context.capabilities().is_software() {
        true => RowOrder::Paired,
        false => RowOrder::LongestFirst,
    }
}

/// The layout of the group of tables, the same in all kernels.
fn tables_layout(context: &Context) -> wgpu::BindGroupLayout {
    group_layout(context.device(), "prflash tables", &[Binds::Read])
}

fn bind_tables(
    context: &Context,
    layout: &wgpu::BindGroupLayout,
    buffer: &wgpu::Buffer,
) -> Result<wgpu::BindGroup> {
    bind(context, "prflash tables", layout, &[buffer.as_entire_binding()])
}

/// What a call without tables binds in their place.
pub(super) fn no_tables(context: &Context, unused: &wgpu::Buffer) -> Result<wgpu::BindGroup> {
    bind_tables(context, &tables_layout(context), unused)
}
