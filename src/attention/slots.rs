//! Parameter slots: where the numbers of one call wait for the GPU.
//!
//! `Queue::write_buffer` takes effect before the *next submit*, so two calls recorded for one submit must not share memory. Each call
//! takes a free slot and a guard goes into its encoder; when the GPU is done with the submission (or the encoder is dropped unused) the
//! guard is dropped and the slot is free again. After warm-up nothing is allocated.

use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::gpu::context::{Context, lock};
use crate::gpu::kernel::Pipeline;
use crate::gpu::params::{Params, SequenceEntry};

/// At most as many slots a page, and at most as many bytes if that is less.
const SLOTS_PER_PAGE: u64 = 32;
const PAGE_BYTES: u64 = 1 << 20;

/// A growing pool of slots, each for one call of at most `sequences` sequences.
#[derive(Debug)]
pub(super) struct SlotPool {
    pages: Mutex<Vec<Page>>,
    free: FreeList,
    /// Bytes from one slot to the next, and from a slot's parameters to its sequences.
    slot_bytes: u64,
    params_bytes: u64,
    sequence_bytes: u64,
}

/// (page, slot) that no call uses. Apart from the pages, since in browsers GPU objects can't be sent to a callback.
type FreeList = Arc<Mutex<Vec<(usize, usize)>>>;

#[derive(Clone, Debug)]
struct Page {
    buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
}

/// A slot in use by one call.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) buffer: wgpu::Buffer,
    pub(super) bind_group: wgpu::BindGroup,
    /// Byte offsets of the parameters and of the sequence table: also the dynamic offsets of the bind group.
    pub(super) params_offset: u32,
    pub(super) sequences_offset: u32,
    /// To be kept until the GPU is done with the slot.
    pub(super) guard: SlotGuard,
}

/// Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct SlotGuard {
    free: FreeList,
    at: (usize, usize),
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        lock(&self.free).push(self.at);
    }
}

impl SlotPool {
    /// A pool with its first page.
    pub(super) fn new(context: &Context, pipeline: &Pipeline, sequences: usize) -> Result<Self> {
        let limits = context.device().limits();
        let alignment = u64::from(
            limits.min_uniform_buffer_offset_alignment.max(limits.min_storage_buffer_offset_alignment),
        );
        let params_bytes = (size_of::<Params>() as u64).next_multiple_of(alignment);
        let sequence_bytes = (sequences * size_of::<SequenceEntry>()) as u64;
        let slot_bytes = params_bytes + sequence_bytes.next_multiple_of(alignment);
        let pool = Self {
            pages: Mutex::default(),
            free: FreeList::default(),
            slot_bytes,
            params_bytes,
            sequence_bytes,
        };
        pool.grow(context, pipeline)?;
        Ok(pool)
    }

    /// Bytes of GPU memory held.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.pages).iter().map(|page| page.buffer.size()).sum()
    }

    /// A free slot; a further page of them if more calls are in flight than ever before.
    pub(super) fn take(&self, context: &Context, pipeline: &Pipeline) -> Result<Slot> {
        let at = loop {
            // A statement of its own, so that the lock isn't held while growing.
            let free = lock(&self.free).pop();
            match free {
                Some(at) => break at,
                None => self.grow(context, pipeline)?,
            }
        };
        let guard = SlotGuard { free: self.free.clone(), at };
        let Page { buffer, bind_group } = lock(&self.pages)[at.0].clone();
        let params_offset = at.1 as u32 * self.slot_bytes as u32;
        let sequences_offset = params_offset + self.params_bytes as u32;
        Ok(Slot { buffer, bind_group, params_offset, sequences_offset, guard })
    }

    fn grow(&self, context: &Context, pipeline: &Pipeline) -> Result<()> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let slots = (PAGE_BYTES / self.slot_bytes).clamp(1, SLOTS_PER_PAGE);
        let bytes = self.slot_bytes * slots;
        let buffer = context.create_buffer("prflash call slots", bytes, usage)?;
        let part = |size: u64| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &buffer,
                offset: 0,
                size: std::num::NonZeroU64::new(size),
            })
        };
        let bind_group = context.capture(|| {
            context.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("prflash call slots"),
                layout: &pipeline.call,
                entries: &[
                    wgpu::BindGroupEntry { binding: 0, resource: part(size_of::<Params>() as u64) },
                    wgpu::BindGroupEntry { binding: 1, resource: part(self.sequence_bytes) },
                ],
            })
        })?;
        let mut pages = lock(&self.pages);
        let page = pages.len();
        pages.push(Page { buffer, bind_group });
        lock(&self.free).extend((0..slots as usize).rev().map(|slot| (page, slot)));
        Ok(())
    }
}
