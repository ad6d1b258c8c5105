//! A compiled kernel and the layouts of its bindings.

use std::num::NonZeroU64;

use super::context::Context;
use super::params::{Params, SequenceEntry};
use super::registry::Variant;
use crate::error::Result;

/// A pipeline and its three bind group layouts: call, schedule, tensors.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) call: wgpu::BindGroupLayout,
    pub(crate) tables: wgpu::BindGroupLayout,
    pub(crate) tensors: wgpu::BindGroupLayout,
}

impl Pipeline {
    pub(crate) fn new(context: &Context, variant: Variant) -> Result<Self> {
        let device = context.device();
        let label = variant.label();
        log::debug!("compiling {label}");
        let pipeline = context.capture(|| {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&label),
                source: wgpu::ShaderSource::Wgsl(variant.source().into()),
            });
            let [call, tables, tensors] = bind_group_layouts(device);
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &[Some(&call), Some(&tables), Some(&tensors)],
                ..Default::default()
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(variant.kernel.name()),
                compilation_options: Default::default(),
                cache: None,
            });
            Self { pipeline, call, tables, tensors }
        })?;
        context.check_alive()?;
        Ok(pipeline)
    }
}

/// Groups 0, 1 and 2 of `shaders/shared/params.wgsl` and the attention kernels.
fn bind_group_layouts(device: &wgpu::Device) -> [wgpu::BindGroupLayout; 3] {
    let entry = |binding, ty, dynamic, size: usize| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: dynamic,
            min_binding_size: NonZeroU64::new(size as u64),
        },
        count: None,
    };
    let layout = |label, entries: &[wgpu::BindGroupLayoutEntry]| {
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries })
    };
    let read = wgpu::BufferBindingType::Storage { read_only: true };
    let write = wgpu::BufferBindingType::Storage { read_only: false };
    [
        layout(
            "prflash call",
            &[
                entry(0, wgpu::BufferBindingType::Uniform, true, size_of::<Params>()),
                entry(1, read, true, size_of::<SequenceEntry>()),
            ],
        ),
        layout("prflash schedule", &[entry(0, read, false, 4)]),
        layout(
            "prflash tensors",
            &[
                entry(0, read, false, 0),
                entry(1, read, false, 0),
                entry(2, read, false, 0),
                entry(3, write, false, 0),
                entry(4, write, false, 0),
            ],
        ),
    ]
}
