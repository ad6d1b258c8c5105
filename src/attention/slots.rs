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

const SLOTS_PER_PAGE: usize = 32;

/// A growing pool of slots, each for one call of at most `sequences` sequences.
#[derive(Debug)]
pub(super) struct SlotPool {
    state: Arc<Mutex<State>>,
    /// Bytes from one slot to the next, and from a slot's parameters to its sequences.
    slot_bytes: u64,
    params_bytes: u64,
    sequence_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    pages: Vec<Page>,
    /// (page, slot) that no call uses.
    free: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
struct Page {
    buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
}

/// A slot in use by one call. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Slot {
    state: Arc<Mutex<State>>,
    at: (usize, usize),
    pub(super) buffer: wgpu::Buffer,
    pub(super) bind_group: wgpu::BindGroup,
    /// Byte offsets of the parameters and of the sequence table: also the dynamic offsets of the bind group.
    pub(super) params_offset: u32,
    pub(super) sequences_offset: u32,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.state).free.push(self.at);
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
        let pool = Self { state: Arc::default(), slot_bytes, params_bytes, sequence_bytes };
        pool.grow(context, pipeline)?;
        Ok(pool)
    }

    /// Bytes of GPU memory held.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.state).pages.iter().map(|page| page.buffer.size()).sum()
    }

    /// A free slot; a further page of them if more calls are in flight than ever before.
    pub(super) fn take(&self, context: &Context, pipeline: &Pipeline) -> Result<Slot> {
        loop {
            let mut state = lock(&self.state);
            if let Some(at) = state.free.pop() {
                let Page { buffer, bind_group } = state.pages[at.0].clone();
                let params_offset = at.1 as u32 * self.slot_bytes as u32;
                return Ok(Slot {
                    state: self.state.clone(),
                    at,
                    buffer,
                    bind_group,
                    params_offset,
                    sequences_offset: params_offset + self.params_bytes as u32,
                });
            }
            drop(state);
            self.grow(context, pipeline)?;
        }
    }

    fn grow(&self, context: &Context, pipeline: &Pipeline) -> Result<()> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let bytes = self.slot_bytes * SLOTS_PER_PAGE as u64;
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
        let mut state = lock(&self.state);
        let page = state.pages.len();
        state.pages.push(Page { buffer, bind_group });
        state.free.extend((0..SLOTS_PER_PAGE).rev().map(|slot| (page, slot)));
        Ok(())
    }
}
