//! Attention inside a program that already owns a wgpu device, an encoder and buffers: nothing is
//! copied, and one submit does it all.
//!
//! The caller's own kernel fills a fused QKV buffer (as a projection would), prflash attends over
//! it in place, a second kernel of the caller's reads the result: three steps in one encoder, on
//! the caller's device, with no feature enabled on it.
//!
//! ```text
//! cargo run --release --example own_device
//! ```

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use prflash::sampling::Granularity;
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Schedule, Seed, Shape, Systematic,
    TableBuffer, Tables, TensorView, reference, wgpu,
};
use serde_json::json;
use testkit::{example, picture};

/// Attention inside a caller's own device and encoder.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
}

/// The caller's kernels: one makes queries, keys and values, one uses the result.
const CALLERS_SHADER: &str = "
    @group(0) @binding(0) var<storage, read_write> data: array<f32>;

    @compute @workgroup_size(64)
    fn project(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&data) {
            // Any numbers will do that the host can compute too.
            data[id.x] = f32((id.x * 2654435769u) >> 20u) / 2048.0 - 1.0;
        }
    }

    @compute @workgroup_size(64)
    fn twice(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&data) {
            data[id.x] *= 2.0;
        }
    }";

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();

    // The caller's device, as some application made it: default limits, no features.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))
        .map_err(|_| anyhow!("no GPU adapter: there is none (scripts/with-vulkan brings a software one)"))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
    let len = if arguments.common.quick { 300 } else { 1000 };
    let shape = Shape::new(6, 2, len, 64)?;
    let [q, k, v] = Layout::fused_qkv(&shape)?;
    let elements = v.extent();
    let storage = |elements: usize| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("the caller's"),
            size: 4 * elements as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    };
    let output = Layout::tokens_first(1, len, 6, 64)?;
    let (fused, result) = (storage(elements), storage(output.extent()));

    // prflash borrows the device. It installs no handler on it.
    let context = Context::from_wgpu(device.clone(), queue.clone())?;
    let plan = Attention::causal().plan(&context, &shape)?;
    let view = |layout| TensorView::new(&context, &fused, DType::F32, layout);
    let (q, k, v) = (view(q)?, view(k)?, view(v)?);
    let output = TensorView::new(&context, &result, DType::F32, output)?;
    let bound = plan.bind(&Operands { q: &q, k: &k, v: &v, output: &output, lse: None })?;
    let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1))?;
    let uploaded = TableBuffer::new(plan.context(), &Tables::from(&schedule))?;

    // One encoder, three steps, one submit.
    let project = pipeline(&device, "project");
    let twice = pipeline(&device, "twice");
    let mut encoder = device.create_command_encoder(&Default::default());
    dispatch(&device, &mut encoder, &project, &fused);
    plan.encode(&mut encoder, &bound, &Call::lengths(len, len).with_tables(&uploaded))?;
    dispatch(&device, &mut encoder, &twice, &result);
    queue.submit([encoder.finish()]);
    let got = output.read_blocking(&context)?;

    // The same on the host.
    let number = |i: usize| ((i as u32).wrapping_mul(2654435769) >> 20) as f32 / 2048.0 - 1.0;
    let host: Vec<f32> = (0..elements).map(number).collect();
    let [q, k, v] = [&q, &k, &v].map(|view| view.layout().gather(&host));
    let exact = reference::attention(plan.attention(), &shape, &q?, &k?, &v?, &Tables::from(&schedule))?;
    let halves: Vec<f32> = got.iter().map(|x| x / 2.0).collect();
    let report = compare(&halves, &exact.output, Tolerances::of_output(&exact, &shape, DType::F32))?;
    let drawn = arguments.common.folder("own_device", usual)?.join("schedule.svg");
    picture::schedule(&drawn, "p(d) = 1/(1+d): kept blocks of each KV head", &schedule)?;
    if arguments.common.json {
        let fields = json!({
            "tokens": len,
            "density": schedule.density(),
            "max_abs_error": report.max_abs_error,
            "passed": report.passed(),
        });
        println!("{}", example::object("own_device", Some(&context), &[drawn], fields)?);
    } else {
        println!("Device   {}", context.capabilities());
        println!("Schedule {schedule}");
        println!("Result   {report}");
        println!("Picture  {}", drawn.display());
    }
    ensure!(report.passed(), "the result differs from the reference");
    Ok(())
}

fn pipeline(device: &wgpu::Device, entry_point: &str) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(entry_point),
        source: wgpu::ShaderSource::Wgsl(CALLERS_SHADER.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry_point),
        layout: None,
        module: &module,
        entry_point: Some(entry_point),
        compilation_options: Default::default(),
        cache: None,
    })
}

fn dispatch(
    device: &wgpu::Device,
    encoder: &mut wgpu::CommandEncoder,
    pipeline: &wgpu::ComputePipeline,
    buffer: &wgpu::Buffer,
) {
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups((buffer.size() / 4).div_ceil(64) as u32, 1, 1);
}
