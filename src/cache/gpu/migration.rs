//! The way of a cache's sequences to a larger arena: `shaders/migrate.wgsl`.

use std::ops::Range;
use std::sync::Arc;

use super::arena::{Arena, Held, Sizes};
use crate::cache::gpu::params::{MigrateParams, MigrateSpan};
use crate::cache::gpu::programs::Migrate;
use crate::error::Result;
use crate::runtime::binding::split;
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;

/// Commands that move what sequences hold from one arena to the next, the first time that they run.
#[derive(Debug)]
pub(super) struct Migration {
    /// The arena that they move to, counted from 0.
    pub(super) arena: u32,
    /// One word, not 0 until they have run.
    todo: wgpu::Buffer,
    pipeline: Arc<Pipeline>,
    dispatches: Vec<(wgpu::BindGroup, (u32, u32))>,
}

impl Migration {
    /// From `old`, where `from` lie, to `new`, where `to` are to lie.
    pub(super) fn new(
        context: &Context,
        sizes: &Sizes<'_>,
        kv_heads: usize,
        (old, from): (&Arena, &[Option<Held>]),
        (new, to): (&Arena, &[Option<Held>]),
        arena: u32,
    ) -> Result<Self> {
        let pipeline = context.pipeline(&Migrate)?;
        let todo = filled(context, wgpu::BufferUsages::STORAGE, bytemuck::bytes_of(&1u32))?;
        let mut dispatches = Vec::new();
        for side in 0..2 {
            let (mut spans, mut words) = (Vec::new(), 0);
            for (from, to) in from.iter().zip(to) {
                let (Some(from), Some(to)) = (from, to) else { continue };
                if from.capacity == 0 {
                    continue;
                }
                let (source, destination) = (from.bases[side] as u32, to.bases[side] as u32);
                spans.push(MigrateSpan { first: words as u32, source, destination });
                words += sizes.live_words(from)[side];
            }
            if words == 0 {
                continue;
            }
            let limit = context.capabilities().max_binding_bytes;
            let bytes = [old, new].map(|arena| 4 * arena.strides[side] as u64);
            let fits = |_, heads: usize| bytes.iter().all(|bytes| bytes * heads as u64 <= limit);
            let table = filled(context, wgpu::BufferUsages::STORAGE, bytemuck::cast_slice(&spans))?;
            for (_, heads) in split(1, kv_heads, fits) {
                let tiles = words.div_ceil(Migrate::COPIES);
                let work_items = (heads.len() * tiles) as u64;
                let most = context.capabilities().max_workgroups_per_dimension;
                let workgroups = dispatch::fold(work_items, most)?;
                let params = MigrateParams {
                    work_items: work_items as u32,
                    tiles: tiles as u32,
                    words: words as u32,
                    spans: spans.len() as u32,
                    old_stride: old.strides[side] as u32,
                    new_stride: new.strides[side] as u32,
                };
                let params = filled(context, wgpu::BufferUsages::UNIFORM, bytemuck::bytes_of(&params))?;
                let of = |arena: &'_ Arena, heads: &Range<usize>| -> (u64, u64) {
                    let head = 4 * arena.strides[side] as u64;
                    (head * heads.start as u64, head * heads.len() as u64)
                };
                let bound = |buffer, (offset, size): (u64, u64)| {
                    let size = std::num::NonZeroU64::new(size);
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
                };
                let resources = [
                    params.as_entire_binding(),
                    table.as_entire_binding(),
                    todo.as_entire_binding(),
                    bound(&old.buffers[side], of(old, &heads)),
                    bound(&new.buffers[side], of(new, &heads)),
                ];
                let group = pipeline.bind(context, "prflash migrate", Migrate::GROUP, &resources)?;
                dispatches.push((group, workgroups));
            }
        }
        context.check_alive()?;
        Ok(Self { arena, todo, pipeline, dispatches })
    }

    /// Records the copies.
    pub(super) fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.dispatches.is_empty() {
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("prflash migrate"),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.pipeline.pipeline);
        for (group, (x, y)) in &self.dispatches {
            pass.set_bind_group(Migrate::GROUP as u32, group, &[]);
            pass.dispatch_workgroups(*x, *y, 1);
        }
        drop(pass);
        encoder.clear_buffer(&self.todo, 0, None);
    }
}

/// A small buffer of these bytes.
fn filled(context: &Context, usage: wgpu::BufferUsages, bytes: &[u8]) -> Result<wgpu::Buffer> {
    let usage = usage | wgpu::BufferUsages::COPY_DST;
    let buffer = context.create_buffer("prflash migration", bytes.len() as u64, usage)?;
    context.capture(|| context.queue().write_buffer(&buffer, 0, bytes))?;
    Ok(buffer)
}
