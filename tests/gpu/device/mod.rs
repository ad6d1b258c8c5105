//! Devices as they come: a caller's own, a small one, none, one that is gone. And everything that a
//! plan must refuse.

mod refusals;

use crate::common::{Problem, Storage, by, gpu, operands, zeros};
use prflash::attention::GpuSampler;
use prflash::cache::{KvCache, Staircase, StoredKeys};
use prflash::kernels::{Decode, Kernel, Matrix};
use prflash::sampling::Granularity;
use prflash::{
    Attention, BlockGrid, Call, Context, ContextOptions, DType, Layout, Operands, Profile, Schedule, Seed,
    Shape, Systematic, Tables, Tensor, TensorView, wgpu,
};

/// A caller's device, with the limits and features that the caller chose.
fn borrowed(
    features: wgpu::Features,
    limits: impl FnOnce(wgpu::Limits) -> wgpu::Limits,
) -> (wgpu::Device, wgpu::Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("the caller's"),
        required_features: features,
        required_limits: limits(wgpu::Limits::defaults()),
        ..Default::default()
    }))
    .unwrap()
}

#[test]
fn a_callers_device_without_any_feature_is_enough() {
    if gpu("caller's device").is_none() {
        return;
    }
    // What every browser has, and few workgroups per dimension, so that dispatches fold.
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| wgpu::Limits {
        max_compute_workgroups_per_dimension: 7,
        ..limits
    });
    let context = Context::from_wgpu(device, queue).unwrap();
    assert_eq!(context.capabilities().subgroup_sizes, None);
    assert!(!context.capabilities().f16_arithmetic);
    for (case, dtype) in DType::ALL.into_iter().enumerate() {
        let shape = Shape::new(3, 1, 300, 64).unwrap();
        let attention = Attention::causal().with_storage(dtype).with_lse(true);
        Problem::random(attention, shape, case as u64).check(
            &context,
            Storage::TokensFirst,
            &Tables::new(),
            "folded",
        );
    }
    let large = Shape::new(8, 1, 10_000, 64).unwrap();
    let error = Attention::causal().plan(&context, &large).unwrap_err();
    assert!(error.is_too_large(), "{error}");
}

#[test]
fn the_callers_handlers_stay() {
    if gpu("caller's handlers").is_none() {
        return;
    }
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| limits);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(0));
    let count = seen.clone();
    device.on_uncaptured_error(std::sync::Arc::new(move |_| *count.lock().unwrap() += 1));
    let context = Context::from_wgpu(device.clone(), queue).unwrap();
    let problem = Problem::random(Attention::causal(), Shape::new(1, 1, 10, 64).unwrap(), 1);
    problem.check(&context, Storage::HeadsFirst, &Tables::new(), "borrowed");
    assert_eq!(*seen.lock().unwrap(), 0);
    // A mistake of the caller's own still reaches the caller's handler.
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::STORAGE;
    let _ = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage,
        mapped_at_creation: false,
    });
    assert_eq!(*seen.lock().unwrap(), 1);
}

#[test]
fn a_device_below_the_needs_is_refused() {
    if gpu("small device").is_none() {
        return;
    }
    let (device, queue) = borrowed(wgpu::Features::empty(), |_| wgpu::Limits::downlevel_webgl2_defaults());
    let error = Context::from_wgpu(device, queue).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("storage buffers"), "{error}");
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| wgpu::Limits {
        max_uniform_buffers_per_shader_stage: 0,
        ..limits
    });
    let error = Context::from_wgpu(device, queue).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("uniform buffers"), "{error}");
}

#[test]
fn an_adapter_that_is_not_there() {
    let options = ContextOptions::new().adapter_name("no such adapter of anybody");
    let error = Context::with_options_blocking(&options).unwrap_err();
    assert!(error.is_no_adapter(), "{error}");
    let options = ContextOptions::new().backends(wgpu::Backends::empty());
    let error = Context::with_options_blocking(&options).unwrap_err();
    assert!(error.is_no_adapter(), "{error}");
}

#[test]
fn a_destroyed_device_is_a_typed_error_everywhere() {
    if gpu("destroyed device").is_none() {
        return;
    }
    let own = Context::new_blocking().unwrap();
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| limits);
    for context in [own, Context::from_wgpu(device, queue).unwrap()] {
        let shape = Shape::new(2, 1, 64, 32).unwrap();
        let problem = Problem::random(Attention::causal(), shape, 2);
        let plan = problem.attention.plan(&context, &shape).unwrap();
        let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
        let result = plan.run(&q, &k, &v, &Tables::new()).unwrap();
        let output = result.output.view();
        let bound = plan.bind(&Operands { q: &q, k: &k, v: &v, output, lse: None }).unwrap();
        context.check_alive().unwrap();
        context.device().destroy();
        let lost = |error: prflash::Error| assert!(error.is_device_lost(), "{error}");
        lost(context.check_alive().unwrap_err());
        lost(context.wait().unwrap_err());
        let call = Call::lengths(64, 64);
        lost(plan.submit(&bound, &call).unwrap_err());
        lost(plan.timings(&bound, &call, 2).unwrap_err());
        lost(result.output.read_blocking(&context).unwrap_err());
        lost(plan.run(&q, &k, &v, &Tables::new()).unwrap_err());
        lost(Tensor::zeros(&context, DType::F32, *q.layout()).unwrap_err());
        lost(Attention::full().plan(&context, &Shape::new(1, 1, 1, 128).unwrap()).unwrap_err());
        let bound = plan.bind(&Operands { q: &q, k: &k, v: &v, output: result.output.view(), lse: None });
        lost(bound.unwrap_err());
    }
}

#[test]
fn too_much_memory_is_a_typed_error() {
    let Some(context) = gpu("too much memory") else { return };
    let limit = context.capabilities().max_buffer_bytes;
    // Past what a buffer may be, though every index fits 32 bits.
    let rows = (limit / 4 / 256 + 1) as usize;
    match Layout::heads_first(1, 1, rows, 256) {
        Ok(layout) => {
            let error = Tensor::zeros(&context, DType::F32, layout).unwrap_err();
            assert!(error.is_too_large() || error.is_out_of_memory(), "{error}");
        }
        Err(error) => assert!(error.is_too_large(), "{error}"),
    }
}

/// A device that binds at most 1 MiB at once.
fn one_mebibyte() -> Context {
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 20,
        ..limits
    });
    Context::from_wgpu(device, queue).unwrap()
}

#[test]
fn tensors_past_the_binding_size_are_split_over_heads_and_batch() {
    if gpu("split bindings").is_none() {
        return;
    }
    let context = one_mebibyte();
    // Q is 4.9 MB: 12 heads of 1,600 × 64 f32; each head is 0.4 MB, each KV head 0.4 MB.
    for (batch, heads, kv_heads) in [(1, 12, 6), (2, 4, 4), (3, 2, 1)] {
        let shape = Shape::new(heads, kv_heads, 1600, 64).unwrap().with_batch(batch).unwrap();
        let attention = Attention::causal().with_lse(true).with_window(200).unwrap();
        let problem = Problem::random(attention, shape, 3);
        problem.check(&context, Storage::HeadsFirst, &Tables::new(), "split");
        let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(2)).unwrap();
        problem.check(&context, Storage::HeadsFirst, &Tables::from(&schedule), "split, sampled");
    }
}

#[test]
fn a_tensor_that_cannot_be_split_is_refused() {
    if gpu("binding size").is_none() {
        return;
    }
    let context = one_mebibyte();
    let shape = Shape::new(1, 1, 5000, 64).unwrap();
    let problem = Problem::random(Attention::causal(), shape, 1);
    let plan = problem.attention.plan(&context, &shape).unwrap();
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let error = plan.run(&q, &k, &v, &Tables::new()).unwrap_err();
    assert!(error.is_too_large(), "{error}");
    assert_eq!(error.argument(), Some("q"));
    // In tokens-first storage every head spans the whole buffer.
    let many = Shape::new(8, 8, 1600, 64).unwrap();
    let tokens_first = Problem::random(Attention::causal(), many, 1);
    let plan = tokens_first.attention.plan(&context, &many).unwrap();
    let [tq, tk, tv] = tokens_first.upload(&context, Storage::TokensFirst).unwrap();
    assert!(plan.run(&tq, &tk, &tv, &Tables::new()).unwrap_err().is_too_large());
    let plan = problem.attention.plan(&context, &shape).unwrap();
    // A view of part of a large buffer binds only that part.
    let part = |view: &TensorView| {
        let layout = Layout::with_strides([1, 1, 100, 64], 4800 * 64, [0, 0, 64]).unwrap();
        view.with_layout(layout).unwrap()
    };
    let got = plan.run(&part(&q), &part(&k), &part(&v), &Tables::new()).unwrap();
    let rows = |values: &[f32]| values[4800 * 64..4900 * 64].to_vec();
    let small = Problem {
        attention: problem.attention,
        options: problem.options,
        shape: Shape::new(1, 1, 100, 64).unwrap(),
        q: rows(&problem.q),
        k: rows(&problem.k),
        v: rows(&problem.v),
    };
    let got = crate::common::Got {
        kernel: plan.kernel(),
        output: got.output.read_blocking(&context).unwrap(),
        lse: None,
    };
    let [report, _] = small.judge(&got, &Tables::new());
    assert!(report.passed(), "{report}");
}

#[test]
fn more_workgroups_than_one_dimension_holds() {
    let Some(context) = gpu("many workgroups") else { return };
    // 70,000 sequences of one tile each; one dimension of a dispatch holds 65,535.
    let shape = Shape::new(1, 1, 1, 4).unwrap().with_batch(70_000).unwrap().with_kv_len(3).unwrap();
    let problem = Problem::random(Attention::causal(), shape, 1);
    problem.check(&context, Storage::HeadsFirst, &Tables::new(), "many workgroups");
}

#[test]
fn matrix_units_are_used_where_they_can_be() {
    if gpu("matrix units").is_none() {
        return;
    }
    // Asked for or not, a CPU adapter gets none, and so never a kernel on them.
    let options = ContextOptions::new().cooperative_matrices(true);
    let context = Context::with_options_blocking(&options).unwrap();
    let capabilities = context.capabilities();
    let enabled = context.device().features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    assert_eq!(enabled, !capabilities.cooperative_matrices.is_empty());
    assert!(!(capabilities.is_software() && enabled));
    let shape = Shape::new(2, 1, 100, 64).unwrap();
    let f16 = Attention::causal().with_storage(DType::F16);
    let plan = f16.plan(&context, &shape).unwrap();
    if !enabled {
        assert!(!matches!(plan.kernel(), Kernel::Matrix(_)), "{}", plan.kernel());
        for edge in [8, 16] {
            let real = Kernel::Matrix(Matrix::new(edge, true, false).unwrap());
            let error = f16.plan_with(&context, &shape, &by(Some(real))).unwrap_err();
            assert!(error.is_unsupported(), "{error}");
        }
    }
    let problem = Problem::random(f16.clone().with_lse(true), shape, 3).with_options(by(Some(plan.kernel())));
    problem.check(&context, Storage::HeadsFirst, &Tables::new(), "with matrix units, if there are any");
    // Listed by the caller or not, a borrowed device that wasn't opened with them has none.
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| limits);
    use wgpu::CooperativeScalarType::{F16, F32};
    let listed = wgpu::CooperativeMatrixProperties {
        m_size: 16,
        n_size: 16,
        k_size: 16,
        ab_type: F16,
        cr_type: F32,
        saturating_accumulation: false,
    };
    let options = options.cooperative_matrix_properties(vec![listed]);
    let context = Context::from_wgpu_with(device, queue, &options).unwrap();
    assert!(context.capabilities().cooperative_matrices.is_empty());
    // What it doesn't compute is refused, emulated or not; what needs more memory than there is,
    // too: 16 KiB on such a device.
    let emulated = by(Some(crate::common::matrix(16, false)));
    let refused = |attention: Attention, dim| {
        let shape = Shape::new(2, 1, 100, dim).unwrap();
        attention.plan_with(&context, &shape, &emulated).unwrap_err()
    };
    for (error, what) in [
        (refused(Attention::causal(), 32), "f32"),
        (refused(Attention::causal().with_storage(DType::Bf16), 32), "bf16"),
        (refused(f16.clone(), 64), "bytes of workgroup memory"),
    ] {
        assert!(error.is_unsupported() && error.to_string().contains(what), "{error}");
    }
    // Small heads fit.
    let problem = Problem::random(f16.clone(), Shape::new(2, 1, 70, 8).unwrap(), 3)
        .with_options(by(Some(crate::common::matrix(8, false))));
    problem.check(&context, Storage::HeadsFirst, &Tables::new(), "a browser's device");
    let cache = KvCache::new(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation).unwrap();
    let error = f16.plan_cached_with(&cache, &shape, &emulated).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("cache"), "{error}");
}

/// Without wgpu's checks in them kernels compute the same; also from lists that nobody has drawn.
#[test]
fn shaders_with_and_without_checks() {
    if gpu("trusted shaders").is_none() {
        return;
    }
    for trusted in [true, false] {
        let options = ContextOptions::new().trusted_shaders(trusted);
        let context = Context::with_options_blocking(&options).unwrap();
        assert_eq!(context.trusts_shaders(), trusted);
        for (case, (q_len, kv_len)) in [(300, 300), (1, 700), (100, 30)].into_iter().enumerate() {
            let shape = Shape::new(4, 2, q_len, 64).unwrap().with_kv_len(kv_len).unwrap();
            let attention = Attention::causal().with_storage(DType::ALL[case]).with_lse(true);
            let problem = Problem::random(attention, shape, case as u64);
            problem.check(&context, Storage::TokensFirst, &Tables::new(), "trusted");
        }
        // A large schedule is drawn; then a small one is said to be, in commands that nobody
        // submits.
        let shape = Shape::new(4, 2, 1000, 64).unwrap();
        let grid = BlockGrid::causal(&shape).with_granularity(Granularity::Shared);
        let small = BlockGrid::causal(&shape.with_q_len(130).unwrap().with_kv_len(130).unwrap())
            .with_granularity(Granularity::Shared);
        for kernel in [None, Some(Kernel::Naive), Some(Kernel::Decode(Decode::new(2, false).unwrap()))] {
            let problem = Problem::random(Attention::causal(), shape, 3).with_options(by(kernel));
            let plan = problem.plan(&context).unwrap();
            let mut sampler = GpuSampler::new(
                plan.context(),
                &grid,
                plan.maxima().batch(),
                &Profile::harmonic(),
                &Systematic,
            )
            .unwrap();
            let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
            let output = zeros(&context, DType::F32, crate::common::output_layout(&shape));
            let bound = plan.bind(&operands(&qkv, &output)).unwrap();
            let mut encoder = context.device().create_command_encoder(&Default::default());
            sampler.encode(&mut encoder, &[(grid, Seed::new(1))]).unwrap();
            context.queue().submit([encoder.finish()]);
            let mut dropped = context.device().create_command_encoder(&Default::default());
            let tables = sampler.encode(&mut dropped, &[(small, Seed::new(1))]).unwrap();
            plan.submit(&bound, &Call::lengths(130, 130).with_tables(tables)).unwrap();
            assert_eq!(output.read_blocking(&context).unwrap().len(), 4 * 1000 * 64);
        }
    }
}

#[test]
fn pipelines_are_kept_for_another_run() {
    if gpu("pipeline cache").is_none() {
        return;
    }
    let shape = Shape::new(2, 1, 100, 64).unwrap();
    let problem = Problem::random(Attention::causal(), shape, 1);
    let run = |options: &ContextOptions| {
        let context = Context::with_options_blocking(options).unwrap();
        let got = problem.run(&context, Storage::HeadsFirst, &Tables::new()).output;
        (got, context.pipeline_cache_data(), context)
    };
    let (first, data, context) = run(&ContextOptions::new());
    let has = context.device().features().contains(wgpu::Features::PIPELINE_CACHE);
    assert_eq!(data.is_some(), has);
    let Some(data) = data else { return };
    let damaged = [&data[..data.len() - 1], &[data[data.len() - 1] ^ 1]].concat();
    for bytes in [data.clone(), damaged, Vec::new(), b"something else".to_vec()] {
        let (again, _, _) = run(&ContextOptions::new().pipeline_cache(bytes));
        assert_eq!(again, first);
    }
    // A borrowed device without the feature has none.
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| limits);
    let options = ContextOptions::new().pipeline_cache(data);
    assert_eq!(Context::from_wgpu_with(device, queue, &options).unwrap().pipeline_cache_data(), None);
}
