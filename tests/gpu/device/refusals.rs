//! Wrong tensors, buffers, calls, kernels: each is named.

use super::borrowed;
use crate::common::{Problem, Storage, by, gpu, operands, zeros};
use prflash::attention::Sequence;
use prflash::kernels::{Kernel, Tile};
use prflash::position::{Distance, Pairing, Slopes};
use prflash::{
    Attention, Bias, BlockGrid, Call, Context, DType, Documents, Layout, Operands, Positions, Profile, Rope,
    Schedule, Seed, Shape, Systematic, TableBuffer, Tables, Tensor, TensorView, wgpu,
};
use std::ops::Range;

#[test]
fn positions_for_other_sizes_are_refused() {
    let Some(context) = gpu("positions for other sizes") else { return };
    let shape = Shape::new(4, 2, 8, 64).unwrap();
    let refused = |positions: Positions| {
        Attention::causal().with_positions(positions).plan(&context, &shape).unwrap_err()
    };
    let rope = |head_dim| Rope::new(head_dim, 1e4, Pairing::Half).unwrap();
    assert_eq!(refused(rope(32).into()).argument(), Some("positions"));
    let two = Bias::new(Distance::Linear, Slopes::Given(vec![1.0; 2])).unwrap();
    assert_eq!(refused(two.into()).argument(), Some("slopes"));
    assert!(refused(rope(64).with_rotary_dim(20).unwrap().into()).is_unsupported());
}

#[test]
fn a_kernel_that_the_device_cannot_run_is_refused() {
    if gpu("workgroup memory").is_none() {
        return;
    }
    let (device, queue) = borrowed(wgpu::Features::empty(), |limits| wgpu::Limits {
        max_compute_workgroup_storage_size: 4096,
        ..limits
    });
    let context = Context::from_wgpu(device, queue).unwrap();
    let shape = Shape::new(1, 1, 100, 128).unwrap();
    let staged = Kernel::Tiled(Tile::new(2, 8, true).unwrap());
    let error = Attention::causal().plan_with(&context, &shape, &by(Some(staged))).unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    // Left to itself, the plan falls back to reading directly.
    let plan = Attention::causal().plan(&context, &Shape::new(1, 1, 100, 256).unwrap()).unwrap();
    assert!(matches!(plan.kernel(), Kernel::Tiled(tile) if !tile.is_staged()), "{}", plan.kernel());
    Problem::random(Attention::causal(), shape, 1).check(
        &context,
        Storage::HeadsFirst,
        &Tables::new(),
        "small memory",
    );
    assert_eq!(Tile::new(3, 4, true).unwrap_err().argument(), Some("rows_each"));
    assert_eq!(Tile::new(2, 16, true).unwrap_err().argument(), Some("keys"));
}

#[test]
fn wrong_operands_are_named() {
    let Some(context) = gpu("wrong operands") else { return };
    let shape = Shape::new(4, 2, 32, 64).unwrap();
    let plan = Attention::causal().plan(&context, &shape).unwrap();
    let tensor = |dtype, heads, dim| zeros(&context, dtype, Layout::heads_first(1, heads, 32, dim).unwrap());
    let f32 = |heads, dim| tensor(DType::F32, heads, dim);
    let (q, kv, output) = (f32(4, 64), f32(2, 64), f32(4, 64));
    let good = Operands { q: q.view(), k: kv.view(), v: kv.view(), output: output.view(), lse: None };
    let bound = plan.bind(&good).unwrap();
    let refused = |operands: Operands<'_>| plan.bind(&operands).unwrap_err().argument().unwrap().to_owned();
    let (wide, half, heads) = (f32(4, 128), tensor(DType::F16, 4, 64), f32(3, 64));
    assert_eq!(refused(Operands { q: wide.view(), ..good }), "q");
    assert_eq!(refused(Operands { q: half.view(), ..good }), "q");
    assert_eq!(refused(Operands { k: heads.view(), ..good }), "k");
    assert_eq!(refused(Operands { v: q.view(), ..good }), "v");
    assert_eq!(refused(Operands { output: half.view(), ..good }), "output");
    assert_eq!(refused(Operands { output: q.view(), ..good }), "output", "aliased with q");
    let rows = zeros(&context, DType::F32, Layout::rows(1, 4, 32).unwrap());
    assert_eq!(refused(Operands { lse: Some(rows.view()), ..good }), "lse", "not asked for");
    let with_lse = Attention::causal().with_lse(true).plan(&context, &shape).unwrap();
    assert_eq!(with_lse.bind(&good).unwrap_err().argument(), Some("lse"), "missing");
    // Two halves of one buffer: distinct places, but one buffer can't be read and written in one
    // dispatch.
    let both = zeros(&context, DType::F32, Layout::heads_first(2, 4, 32, 64).unwrap());
    let half_of = |offset| {
        let layout = Layout::with_strides([1, 4, 32, 64], offset, [0, 2048, 64]).unwrap();
        both.view().with_layout(layout).unwrap()
    };
    let (first, second) = (half_of(0), half_of(4 * 2048));
    assert_eq!(refused(Operands { q: &first, output: &second, ..good }), "output");
    let overlapping = Layout::with_strides([1, 4, 32, 64], 0, [0, 64, 64]).unwrap();
    let overlapping = output.view().with_layout(overlapping).unwrap();
    assert_eq!(refused(Operands { output: &overlapping, ..good }), "output", "overlaps itself");

    let refused_call = |call: Call<'_>| {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &bound, &call).unwrap_err().argument().unwrap().to_owned()
    };
    assert_eq!(refused_call(Call::lengths(33, 32)), "q_len");
    assert_eq!(refused_call(Call::lengths(32, 33)), "kv_len");
    let rows = |entry, queries, keys| Sequence { entry, queries, keys, positions: None };
    for (sequences, argument) in [
        (vec![rows(0, 0..8, 0..8); 2], "sequences"),
        (vec![rows(1, 0..8, 0..8)], "q"),
        (vec![rows(0, 30..38, 0..8)], "q"),
        (vec![rows(0, 0..8, 30..38)], "k"),
        (vec![rows(0, usize::MAX - 8..usize::MAX, 0..8)], "q"),
        (vec![rows(0, 0..usize::MAX, 0..8)], "q_len"),
        (vec![rows(0, Range { start: 8, end: 7 }, 0..8)], "queries"),
        (vec![rows(0, 0..8, Range { start: 8, end: 0 })], "keys"),
    ] {
        assert_eq!(refused_call(Call::sequences(&sequences)), argument, "{sequences:?}");
    }

    let schedule = |shape: &Shape| {
        let grid = BlockGrid::causal(shape);
        Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1)).unwrap()
    };
    let other =
        TableBuffer::new(plan.context(), &Tables::from(&schedule(&shape.with_kv_len(31).unwrap()))).unwrap();
    assert_eq!(refused_call(Call::lengths(32, 32).with_tables(&other)), "schedule");
    let mixed =
        [schedule(&shape), Schedule::dense(&BlockGrid::causal(&shape).with_block_size(8).unwrap()).unwrap()];
    let error = Tables::from(&mixed[0]).with_schedule(&mixed[1]).unwrap_err();
    assert_eq!(error.argument(), Some("schedule"));
    let whole = Tables::from(&mixed[0]).with_schedule(&mixed[0]).unwrap();
    assert_eq!(whole.schedule(1), Some(&mixed[0]));

    let mask = Documents::from_lengths(&[30]).unwrap();
    let mask = TableBuffer::new(plan.context(), &Tables::from(&mask)).unwrap();
    assert_eq!(refused_call(Call::lengths(32, 32).with_tables(&mask)), "documents");
    let full = Documents::from_lengths(&[32]).unwrap();
    let three = Tables::from(&full).with_documents(&full).with_documents(&full);
    let three = TableBuffer::new(plan.context(), &three).unwrap();
    assert_eq!(refused_call(Call::lengths(32, 32).with_tables(&three)), "documents");

    let second_plan = Attention::causal().plan(&context, &shape).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let error = second_plan.encode(&mut encoder, &bound, &Call::lengths(32, 32)).unwrap_err();
    assert_eq!(error.argument(), Some("bound"));
    // After all these refusals the encoder and the plan still work.
    plan.encode(&mut encoder, &bound, &Call::lengths(32, 32)).unwrap();
    context.queue().submit([encoder.finish()]);
    context.wait().unwrap();
}

#[test]
fn wrong_buffers_are_named() {
    let Some(context) = gpu("wrong buffers") else { return };
    let buffer = |size, usage| {
        context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let layout = Layout::heads_first(1, 1, 4, 8).unwrap();
    let all = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let short = buffer(124, wgpu::BufferUsages::STORAGE);
    assert_eq!(TensorView::new(&context, &short, DType::F32, layout).unwrap_err().argument(), Some("buffer"));
    let uniform = buffer(128, wgpu::BufferUsages::UNIFORM);
    assert_eq!(
        TensorView::new(&context, &uniform, DType::F32, layout).unwrap_err().argument(),
        Some("buffer")
    );
    let unreadable =
        TensorView::new(&context, &buffer(128, wgpu::BufferUsages::STORAGE), DType::F32, layout).unwrap();
    assert_eq!(unreadable.read_blocking(&context).unwrap_err().argument(), Some("buffer"));
    let error = Tensor::upload(&context, DType::F32, layout, &[0.0; 31]).unwrap_err();
    assert_eq!(error.argument(), Some("source"));
    let qkv = [unreadable.clone(), unreadable.clone(), unreadable.clone()];
    let output = zeros(&context, DType::F32, layout);
    let plan = Attention::causal().plan(&context, &Shape::new(1, 1, 4, 8).unwrap()).unwrap();
    plan.bind(&operands(&qkv, &output)).unwrap();

    // What is read back is whole words, which this one doesn't end with.
    let odd = Layout::rows(1, 1, 3).unwrap();
    let odd = TensorView::new(&context, &buffer(6, all), DType::F16, odd).unwrap();
    assert_eq!(odd.read_blocking(&context).unwrap_err().argument(), Some("buffer"));
    assert_eq!(odd.write(&context, &[1.0; 3]).unwrap_err().argument(), Some("buffer"));
}
