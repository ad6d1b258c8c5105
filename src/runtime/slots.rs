//! Parameter slots: where the numbers of one call wait for the GPU.
//!
//! `Queue::write_buffer` takes effect before the *next submit*, so two calls recorded for one
//! submit must not share memory. Each call takes a free slot and a guard goes into its encoder;
//! when the GPU is done with the submission (or the encoder is dropped unused) the guard is dropped
//! and the slot is free again. After warm-up nothing is allocated.

use std::sync::{Arc, Mutex};

use super::context::Context;
use super::program::Pipeline;
use super::sync::lock;
use crate::error::Result;

/// At most as many slots a page, and at most as many bytes if that is less.
const SLOTS_PER_PAGE: u64 = 32;
const PAGE_BYTES: u64 = 1 << 20;

/// The group of a pipeline that a slot is bound to: its parameters at binding 0, its table at
/// binding 1, and what all calls read behind them.
pub(crate) const CALL_GROUP: usize = 0;

/// A growing pool of slots, each for the parameters and the table of one call.
#[derive(Debug)]
pub(crate) struct SlotPool {
    pipeline: Arc<Pipeline>,
    pages: Mutex<Vec<Page>>,
    free: FreeList,
    /// Whole buffers that every call reads.
    constant: Vec<wgpu::Buffer>,
    params_bytes: u64,
    table_bytes: u64,
    /// Bytes from one slot to the next, and from a slot's parameters to its table.
    slot_stride: u64,
    table_offset: u64,
}

/// (page, slot) that no call uses. Apart from the pages, since in browsers GPU objects can't be
/// sent to a callback.
type FreeList = Arc<Mutex<Vec<(usize, usize)>>>;

#[derive(Clone, Debug)]
struct Page {
    buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
}

/// A slot in use by one call.
#[derive(Debug)]
pub(crate) struct Slot {
    bind_group: wgpu::BindGroup,
    /// Dynamic offsets of the bind group, bytes.
    offsets: [u32; 2],
    /// The guard, to be kept until the GPU is done with the slot.
    guard: SlotGuard,
}

/// Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct SlotGuard {
    free: FreeList,
    at: (usize, usize),
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        lock(&self.free).push(self.at);
    }
}

impl Slot {
    /// Sets the call's group of a pass whose pipeline is set, and keeps the slot (and `held`) until
    /// the GPU is done.
    pub(crate) fn bind(self, pass: &mut wgpu::ComputePass<'_>, held: Option<Arc<()>>) {
        pass.set_bind_group(CALL_GROUP as u32, &self.bind_group, &self.offsets);
        let guard = self.guard;
        pass.on_submitted_work_done(move || drop((guard, held)));
    }
}

impl SlotPool {
    /// A pool with its first page, for parameters of type `P` and tables of at most `entries`
    /// entries of type `T`, beside buffers that are the same for all calls.
    pub(crate) fn new<P, T>(
        context: &Context,
        pipeline: &Arc<Pipeline>,
        entries: usize,
        constant: Vec<wgpu::Buffer>,
    ) -> Result<Self> {
        let limits = context.device().limits();
        let alignment = u64::from(
            limits.min_uniform_buffer_offset_alignment.max(limits.min_storage_buffer_offset_alignment),
        );
        let params_bytes = size_of::<P>() as u64;
        let table_bytes = (entries.max(1) * size_of::<T>()) as u64;
        let table_offset = params_bytes.next_multiple_of(alignment);
        let pool = Self {
            pipeline: pipeline.clone(),
            pages: Mutex::default(),
            free: FreeList::default(),
            constant,
            params_bytes,
            table_bytes,
            slot_stride: table_offset + table_bytes.next_multiple_of(alignment),
            table_offset,
        };
        pool.grow(context)?;
        Ok(pool)
    }

    /// Bytes of GPU memory held.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.pages).iter().map(|page| page.buffer.size()).sum()
    }

    /// A free slot, written; a further page of them if more calls are in flight than ever before.
    pub(crate) fn take(&self, context: &Context, params: &[u8], table: &[u8]) -> Result<Slot> {
        debug_assert!(params.len() as u64 == self.params_bytes && table.len() as u64 <= self.table_bytes);
        let at = loop {
            // A statement of its own, so that the lock isn't held while growing.
            let free = lock(&self.free).pop();
            match free {
                Some(at) => break at,
                None => self.grow(context)?,
            }
        };
        let guard = SlotGuard { free: self.free.clone(), at };
        let Page { buffer, bind_group } = lock(&self.pages)[at.0].clone();
        let start = at.1 as u64 * self.slot_stride;
        let queue = context.queue();
        queue.write_buffer(&buffer, start, params);
        queue.write_buffer(&buffer, start + self.table_offset, table);
        Ok(Slot { bind_group, offsets: [start as u32, (start + self.table_offset) as u32], guard })
    }

    fn grow(&self, context: &Context) -> Result<()> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let slots = (PAGE_BYTES / self.slot_stride).clamp(1, SLOTS_PER_PAGE);
        let buffer = context.create_buffer("prflash call slots", self.slot_stride * slots, usage)?;
        // wgpu clears what was never written when the buffer is first used, in that submission's
        // own commands. A slot that another thread writes while the submission is under way comes
        // before them, and would be cleared. Here no other thread knows the page.
        context.capture(|| context.queue().write_buffer(&buffer, 0, &vec![0; buffer.size() as usize]))?;
        let part = |size: u64| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &buffer,
                offset: 0,
                size: std::num::NonZeroU64::new(size),
            })
        };
        let mut resources = vec![part(self.params_bytes), part(self.table_bytes)];
        resources.extend(self.constant.iter().map(wgpu::Buffer::as_entire_binding));
        let bind_group = self.pipeline.bind(context, "prflash call slots", CALL_GROUP, &resources)?;
        let mut pages = lock(&self.pages);
        let page = pages.len();
        pages.push(Page { buffer, bind_group });
        lock(&self.free).extend((0..slots as usize).rev().map(|slot| (page, slot)));
        Ok(())
    }
}
