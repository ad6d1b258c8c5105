//! Words as they lie for the kernels: `shaders/subword/walk.wgsl`.

use super::params::SubwordParams;
use super::programs::{LANES, Subword};
use crate::error::{Error, Result};
use crate::runtime::context::Context;
use crate::runtime::dispatch;

/// Words of about equal length in a buffer, and their parameters.
#[derive(Debug)]
pub(super) struct Packed {
    params: wgpu::Buffer,
    words: wgpu::Buffer,
    groups: usize,
    workgroups: (u32, u32),
}

/// A row of bytes has so many of each word.
pub(super) const ROW_BYTES: usize = 4;

impl Packed {
    /// How many words of so many rows a device takes at once.
    ///
    /// # Errors
    /// Too large, with the name of the argument, if it doesn't even take those of a workgroup.
    pub(super) fn most(
        context: &Context,
        argument: &'static str,
        program: Subword,
        rows: usize,
    ) -> Result<usize> {
        let capabilities = context.capabilities();
        // Kernels index numbers by u32.
        let limit = capabilities.max_binding_bytes.min(capabilities.max_buffer_bytes).min(4 << 32);
        let group = (4 * LANES * (program.header() + rows)) as u64;
        let line = u64::from(capabilities.max_workgroups_per_dimension).pow(2);
        let groups = (limit / group).min(line).min(u64::from(u32::MAX)) as usize;
        if groups == 0 {
            let message = format!("{group} bytes are past the {limit} that this device can bind at once");
            return Err(Error::too_large(argument, message));
        }
        Ok(groups.saturating_mul(LANES))
    }

    /// Uploads words of at most so many rows, each with the rest of its header.
    pub(super) fn new<'a, const H: usize>(
        context: &Context,
        rows: usize,
        items: impl ExactSizeIterator<Item = ([u32; H], &'a [u8])>,
    ) -> Result<Self> {
        let groups = items.len().div_ceil(LANES);
        let stride = (1 + H + rows) * LANES;
        let mut numbers = vec![0u32; groups * stride];
        for (index, (header, word)) in items.enumerate() {
            let head = index / LANES * stride + index % LANES;
            numbers[head] = word.len() as u32;
            for (row, number) in header.into_iter().enumerate() {
                numbers[head + (1 + row) * LANES] = number;
            }
            for (row, bytes) in word.chunks(ROW_BYTES).enumerate() {
                let mut four = [0; ROW_BYTES];
                four[..bytes.len()].copy_from_slice(bytes);
                numbers[head + (1 + H + row) * LANES] = u32::from_le_bytes(four);
            }
        }
        let workgroups = dispatch::fold(groups as u64, context.capabilities().max_workgroups_per_dimension)?;
        let params = SubwordParams { groups: groups as u32, rows: rows as u32 };
        let params = filled(context, wgpu::BufferUsages::UNIFORM, bytemuck::bytes_of(&params))?;
        let words = filled(context, wgpu::BufferUsages::STORAGE, bytemuck::cast_slice(&numbers))?;
        Ok(Self { params, words, groups, workgroups })
    }

    /// A buffer of a number for each place of a word, which reads as 0.
    pub(super) fn numbers(&self, context: &Context) -> Result<wgpu::Buffer> {
        written(context, (4 * self.groups * LANES) as u64)
    }

    /// Where the kernels find parameters and words: their first two bindings.
    pub(super) fn resources(&self) -> [wgpu::BindingResource<'_>; 2] {
        [self.params.as_entire_binding(), self.words.as_entire_binding()]
    }

    /// Records a dispatch over all words.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, group: &wgpu::BindGroup) {
        pass.set_bind_group(Subword::GROUP as u32, group, &[]);
        pass.dispatch_workgroups(self.workgroups.0, self.workgroups.1, 1);
    }
}

/// A buffer of these bytes.
pub(super) fn filled(context: &Context, usage: wgpu::BufferUsages, bytes: &[u8]) -> Result<wgpu::Buffer> {
    let usage = usage | wgpu::BufferUsages::COPY_DST;
    let buffer = context.create_buffer("prflash sub-words", bytes.len() as u64, usage)?;
    context.capture(|| context.queue().write_buffer(&buffer, 0, bytes))?;
    Ok(buffer)
}

/// A buffer that a kernel writes, and that reads as 0 before.
pub(super) fn written(context: &Context, bytes: u64) -> Result<wgpu::Buffer> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    context.create_buffer("prflash sub-words written", bytes, usage)
}
