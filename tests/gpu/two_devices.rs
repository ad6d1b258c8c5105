//! Two devices in one program: what belongs to one is refused on the other, by a typed error,
//! whichever instances of wgpu they come from.

use crate::common::gpu;
use prflash::cache::{Chunk, KvCache, Staircase, StoredKeys};
use prflash::device::GpuTimer;
use prflash::position::Pairing;
use prflash::rounds::Combine;
use prflash::{
    Attention, Context, DType, ErrorKind, Layout, Operands, Queries, Rope, Shape, Tables, Tensor, TensorView,
    wgpu,
};

/// A caller's device, on an instance of its own.
fn callers() -> (wgpu::Device, wgpu::Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    pollster::block_on(adapter.request_device(&Default::default())).unwrap()
}

fn borrowed() -> Context {
    let (device, queue) = callers();
    Context::from_wgpu(device, queue).unwrap()
}

fn upload(context: &Context, heads: usize, value: f32) -> Tensor {
    let layout = Layout::heads_first(1, heads, 32, 64).unwrap();
    Tensor::upload(context, DType::F32, layout, &vec![value; layout.elements()]).unwrap()
}

/// Pairs of contexts whose devices are two.
fn pairs(test: &str) -> Vec<(Context, Context)> {
    if gpu(test).is_none() {
        return Vec::new();
    }
    let own = || Context::new_blocking().unwrap();
    vec![(own(), own()), (own(), borrowed()), (borrowed(), own()), (borrowed(), borrowed())]
}

#[test]
fn tensors_of_another_device_are_refused() {
    for (here, there) in pairs("two devices") {
        let shape = Shape::new(2, 1, 32, 64).unwrap();
        let plan = Attention::causal().plan(&here, &shape).unwrap();
        let of = |context| [upload(context, 2, 1.0), upload(context, 1, 2.0), upload(context, 1, 3.0)];
        let ([q, k, v], [other_q, other_k, other_v]) = (of(&here), of(&there));
        let other = |error: prflash::Error, argument: &str| {
            assert_eq!((error.kind(), error.argument()), (ErrorKind::OtherDevice, Some(argument)), "{error}");
            assert!(error.is_other_device());
        };
        let run = |q: &Tensor, k: &Tensor, v: &Tensor| plan.run(q.view(), k.view(), v.view(), &Tables::new());
        other(run(&other_q, &k, &v).unwrap_err(), "q");
        other(run(&q, &other_k, &v).unwrap_err(), "k");
        other(run(&q, &k, &other_v).unwrap_err(), "v");
        let (output, result) = (upload(&there, 2, 0.0), upload(&here, 2, 0.0));
        let operands = |output| Operands { q: q.view(), k: k.view(), v: v.view(), output, lse: None };
        other(plan.bind(&operands(output.view())).unwrap_err(), "output");
        let rounds = Attention::causal().plan(&here, &shape).unwrap().rounds(Combine::Partition).unwrap();
        other(rounds.start(other_q.view(), k.view(), v.view()).map(drop).unwrap_err(), "q");
        let rope = Rope::new(64, 1e4, Pairing::Half).unwrap();
        let rotation = rope.plan_rotation(&here, DType::F32, 32).unwrap();
        other(rotation.bind(other_q.view()).map(drop).unwrap_err(), "tensor");

        // Reading and writing go through the device that is named.
        other(q.read_blocking(&there).unwrap_err(), "buffer");
        other(q.write(&there, &[0.0; 2 * 32 * 64]).unwrap_err(), "buffer");
        if let Ok(timer) = GpuTimer::new(&here) {
            other(timer.read_blocking(&there).unwrap_err(), "context");
        }

        // Caches and what is appended to them.
        let new_cache = |context| {
            KvCache::new(context, Staircase::recommended(), &shape, StoredKeys::AfterRotation).unwrap()
        };
        let (cache, mut other_cache) = (new_cache(&here), new_cache(&there));
        other(cache.input(other_k.view(), v.view()).map(drop).unwrap_err(), "k");
        let cached = Attention::causal().plan_cached(&cache, &shape).unwrap();
        let sequence = other_cache.add();
        let input = other_cache.input(other_k.view(), other_v.view()).unwrap();
        let mut encoder = there.device().create_command_encoder(&Default::default());
        other_cache.append(&mut encoder, &input, &[Chunk { sequence, entry: 0, rows: 0..32 }]).unwrap();
        there.queue().submit([encoder.finish()]);
        let queries = [Queries { sequence, entry: 0, rows: 0..32, positions: None }];
        other(cached.run_cached(&other_cache, q.view(), &queries, &Tables::new()).unwrap_err(), "cache");

        // After all of that both devices work.
        let rows = run(&q, &k, &v).unwrap().output.read_blocking(&here).unwrap();
        assert!(rows.iter().all(|x| (x - 3.0).abs() < 1e-5));
        assert!(other_v.read_blocking(&there).unwrap().iter().all(|&x| x == 3.0));
        plan.bind(&operands(result.view())).unwrap();
    }
}

#[test]
fn views_of_another_devices_buffer_are_refused() {
    for (here, there) in pairs("views of two devices") {
        let layout = Layout::heads_first(1, 1, 4, 64).unwrap();
        let buffer = |context: &Context, mapped_at_creation| {
            context.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 4 * 4 * 64,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation,
            })
        };
        // As many buffers here as there, so that numbers of theirs are numbers of ours, too.
        let (mine, theirs) = (buffer(&here, false), buffer(&there, false));
        TensorView::new(&here, &mine, DType::F32, layout).unwrap();
        let error = TensorView::new(&here, &theirs, DType::F32, layout).unwrap_err();
        assert_eq!((error.kind(), error.argument()), (ErrorKind::OtherDevice, Some("buffer")), "{error}");
        // To be asked changes nothing: neither a buffer that is mapped …
        let mapped = buffer(&here, true);
        mapped.slice(..).get_mapped_range_mut().unwrap().copy_from_slice(&[0x3f; 4 * 4 * 64]);
        let view = TensorView::new(&here, &mapped, DType::F32, layout).unwrap();
        let error = view.read_blocking(&here).unwrap_err();
        assert_eq!((error.kind(), error.argument()), (ErrorKind::InvalidArgument, Some("buffer")), "{error}");
        {
            let viewed = mapped.slice(..).get_mapped_range_mut().unwrap();
            TensorView::new(&here, &mapped, DType::F32, layout).unwrap();
            drop(viewed);
        }
        mapped.unmap();
        let values = view.read_blocking(&here).unwrap();
        assert!(values.iter().all(|x| x.to_bits() == 0x3f3f_3f3f));
        // … nor one that isn't.
        TensorView::new(&here, &mine, DType::F32, layout).unwrap().read_blocking(&here).unwrap();
    }
}

/// Contexts of one device, however often the caller makes them, are one.
#[test]
fn contexts_of_one_device_share_it() {
    if gpu("one device").is_none() {
        return;
    }
    let (device, queue) = callers();
    let first = Context::from_wgpu(device.clone(), queue.clone()).unwrap();
    let second = Context::from_wgpu(device, queue).unwrap();
    let shape = Shape::new(2, 1, 32, 64).unwrap();
    let plan = Attention::causal().plan(&second, &shape).unwrap();
    let (q, k, v) = (upload(&first, 2, 1.0), upload(&first, 1, 2.0), upload(&second, 1, 3.0));
    let result = plan.run(q.view(), k.view(), v.view(), &Tables::new()).unwrap();
    assert!(result.output.read_blocking(&first).unwrap().iter().all(|x| (x - 3.0).abs() < 1e-5));
}

#[test]
fn a_queue_of_another_device_is_refused() {
    if gpu("another queue").is_none() {
        return;
    }
    let ((device, queue), (_, other_queue)) = (callers(), callers());
    let error = Context::from_wgpu(device.clone(), other_queue).unwrap_err();
    assert_eq!((error.kind(), error.argument()), (ErrorKind::OtherDevice, Some("queue")), "{error}");
    Context::from_wgpu(device, queue).unwrap();
}

/// An encoder doesn't say whose it is; but our own devices are on one instance, where wgpu knows
/// them apart and refuses the commands when they are finished.
#[test]
fn encoders_of_another_of_our_devices_are_refused_by_wgpu() {
    if gpu("encoders of two devices").is_none() {
        return;
    }
    let (here, there) = (Context::new_blocking().unwrap(), Context::new_blocking().unwrap());
    let shape = Shape::new(2, 1, 32, 64).unwrap();
    let plan = Attention::causal().plan(&here, &shape).unwrap();
    let (q, k, v, output) =
        (upload(&here, 2, 1.0), upload(&here, 1, 2.0), upload(&here, 1, 3.0), upload(&here, 2, 0.0));
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let bound = plan.bind(&operands).unwrap();
    let scope = there.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let mut encoder = there.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, &bound, &prflash::Call::lengths(32, 32)).unwrap();
    drop(encoder.finish());
    let error = pollster::block_on(scope.pop()).expect("wgpu refuses the commands");
    assert!(error.to_string().contains("Device with"), "{error}");
}
