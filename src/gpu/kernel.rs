//! A compiled shader and the layouts of its bindings.

use std::num::NonZeroU64;

use super::context::Context;
use crate::error::Result;

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
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) groups: Vec<wgpu::BindGroupLayout>,
}

impl Pipeline {
    pub(crate) fn new(context: &Context, program: &dyn Program) -> Result<Self> {
        let device = context.device();
        let label = program.label();
        log::debug!("compiling {label}");
        let pipeline = context.capture(|| {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&label),
                source: wgpu::ShaderSource::Wgsl(program.source().into()),
            });
            let groups: Vec<wgpu::BindGroupLayout> =
                program.groups().iter().map(|bindings| group_layout(device, &label, bindings)).collect();
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &groups.iter().map(Some).collect::<Vec<_>>(),
                ..Default::default()
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(program.entry_point()),
                compilation_options: Default::default(),
                cache: None,
            });
            Self { pipeline, groups }
        })?;
        context.check_alive()?;
        Ok(pipeline)
    }

    /// A bind group of one of the pipeline's groups, its resources in order of their binding numbers.
    pub(crate) fn bind(
        &self,
        context: &Context,
        label: &str,
        group: usize,
        resources: &[wgpu::BindingResource<'_>],
    ) -> Result<wgpu::BindGroup> {
        bind(context, label, &self.groups[group], resources)
    }
}

/// A bind group of this layout, its resources in order of their binding numbers.
pub(crate) fn bind(
    context: &Context,
    label: &str,
    layout: &wgpu::BindGroupLayout,
    resources: &[wgpu::BindingResource<'_>],
) -> Result<wgpu::BindGroup> {
    let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
        .zip(resources)
        .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
        .collect();
    let descriptor = wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries };
    context.capture(|| context.device().create_bind_group(&descriptor))
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
