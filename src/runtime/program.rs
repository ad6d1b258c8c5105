//! A shader with its bindings, and the pipeline that a device makes of it.

use std::num::NonZeroU64;

use super::late::Ticket;

/// No uniform struct of a program is larger.
pub(crate) const UNIFORM_BYTES: u32 = 1280;

/// No workgroup of a program that every device has to run has more invocations.
pub(crate) const INVOCATIONS: u32 = 64;

/// A shader with everything that a pipeline needs beside a device.
pub(crate) trait Program {
    /// A name that is unique per text, and fit for a file.
    fn label(&self) -> String;

    /// The compute entry point: the name of the shader's file.
    fn entry_point(&self) -> &'static str;

    /// The complete WGSL.
    fn source(&self) -> String;

    /// The bindings of each group, in order of their numbers.
    fn groups(&self) -> Vec<Vec<Binds>>;
}

/// What a binding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binds {
    /// Parameters of one call, at a dynamic offset: bytes.
    CallParams(usize),
    /// A table of one call, at a dynamic offset: bytes of one entry.
    CallTable(usize),
    /// Parameters that don't depend on the call: bytes.
    Uniform(usize),
    /// A tensor or table that is read.
    Read,
    /// A tensor that is written.
    Write,
}

/// A pipeline and the layouts of its bind groups.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// The program's.
    pub(crate) label: String,
    /// Whether it is compiled, where that is told later.
    pub(crate) ticket: Ticket,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) groups: Vec<wgpu::BindGroupLayout>,
}

/// Layouts of equal bindings are compatible, whichever pipeline they were made for.
pub(crate) fn group_layout(device: &wgpu::Device, label: &str, bindings: &[Binds]) -> wgpu::BindGroupLayout {
    let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
    let entry = |(binding, binds): (u32, &Binds)| {
        let (ty, has_dynamic_offset, bytes) = match *binds {
            Binds::CallParams(bytes) => (wgpu::BufferBindingType::Uniform, true, bytes),
            Binds::CallTable(bytes) => (storage(true), true, bytes),
            Binds::Uniform(bytes) => (wgpu::BufferBindingType::Uniform, false, bytes),
            Binds::Read => (storage(true), false, 0),
            Binds::Write => (storage(false), false, 0),
        };
        wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty,
                has_dynamic_offset,
                min_binding_size: NonZeroU64::new(bytes as u64),
            },
            count: None,
        }
    };
    let entries: Vec<_> = (0..).zip(bindings).map(entry).collect();
    device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries })
}
