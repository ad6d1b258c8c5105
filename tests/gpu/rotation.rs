//! Rotation in place against the oracle: every type, pairing, scaling and layout; what isn't named
//! keeps its bits; attention over rows that were turned.

use std::ops::Range;

use crate::common::{Problem, Storage, gpu, numbers};
use prflash::position::{Pairing, Scaling};
use prflash::rotation::{RotationPlan, Rows};
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{
    Attention, Context, DType, Layout, Positions, Result, Rope, Shape, Tables, Tensor, TensorView, wgpu,
};

/// u of f32.
const U: f64 = DType::F32.unit_roundoff();

/// What a turn may be off by, of the turned pair's length: 2u for the two levels of the table, √5·u
/// for their product, √5·u for that with the pair (Brent, Percival and Zimmermann 2007), and a
/// little for what is of second order.
const TURN: f64 = 6.5 * U * 1.001;

/// What rounding to storage adds, relative and absolute. As in `verify`, packing f16 may truncate;
/// bf16 is rounded to nearest, in integers.
fn rounding(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F32 => (0.0, 0.0),
        DType::F16 => (2.0 * dtype.unit_roundoff(), 1.0 / f64::from(1u32 << 24)),
        _ => (dtype.unit_roundoff(), 0.0),
    }
}

fn rope(dim: usize, rotary: usize, pairing: Pairing) -> Rope {
    Rope::new(dim, 1e4, pairing).unwrap().with_rotary_dim(rotary).unwrap()
}

/// A buffer full of numbers, of which a layout is the tensor.
struct Stored {
    dtype: DType,
    layout: Layout,
    before: Vec<f32>,
    whole: Tensor,
    view: TensorView,
}

impl Stored {
    fn new(context: &Context, dtype: DType, layout: Layout, seed: u64) -> Self {
        // Something behind the tensor too.
        let extent = layout.extent() + 8;
        let before: Vec<f32> = numbers(seed, extent).into_iter().map(|x| dtype.round(2.0 * x)).collect();
        let flat = Layout::heads_first(1, 1, 1, extent).unwrap();
        let whole = Tensor::upload(context, dtype, flat, &before).unwrap();
        let view = whole.view().with_layout(layout).unwrap();
        Self { dtype, layout, before, whole, view }
    }

    /// Compares every number of the buffer with what the oracle makes of it: rows that have a
    /// position are turned to it, all else keeps its bits.
    fn judge(
        &self,
        context: &Context,
        rope: &Rope,
        position: impl Fn(usize, usize) -> Option<i64>,
    ) -> std::result::Result<(), String> {
        let got = self.whole.read_blocking(context).unwrap();
        let mut want: Vec<f64> = self.before.iter().map(|&x| x.into()).collect();
        let mut tolerance = vec![0.0; want.len()];
        let [batch, heads, rows, dim] = self.layout.dims();
        let (relative, absolute) = rounding(self.dtype);
        for (b, h, i) in
            (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..rows).map(move |i| (b, h, i))))
        {
            let Some(position) = position(b, i) else { continue };
            let at = self.layout.index(b, h, i, 0);
            let before = &self.before[at..at + dim];
            let mut turned = before.to_vec();
            rope.rotate_at(&mut turned, &[position]).unwrap();
            for c in 0..rope.rotary_dim() {
                let partner = match rope.pairing() {
                    Pairing::Interleaved => c ^ 1,
                    Pairing::Half => (c + rope.rotary_dim() / 2) % rope.rotary_dim(),
                };
                let length = rope.temperature() * f64::from(before[c]).hypot(before[partner].into());
                want[at + c] = turned[c].into();
                // The oracle's own rounding to f32 is one more u.
                let error = (TURN + U) * length;
                tolerance[at + c] = error + relative * (want[at + c].abs() + error) + absolute;
            }
        }
        for (index, ((&got, want), tolerance)) in got.iter().zip(want).zip(tolerance).enumerate() {
            let passed = match tolerance {
                0.0 => got.to_bits() == self.before[index].to_bits(),
                _ => (f64::from(got) - want).abs() <= tolerance,
            };
            if !passed {
                return Err(format!("element {index}: got {got}, expected {want} within {tolerance:e}"));
            }
        }
        Ok(())
    }
}

/// Records and submits one call.
fn turn(context: &Context, plan: &RotationPlan, tensor: &TensorView, rows: &[Rows<'_>]) -> Result<()> {
    let bound = plan.bind(tensor)?;
    let mut encoder = context.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, &bound, rows)?;
    context.queue().submit([encoder.finish()]);
    Ok(())
}

fn layouts(dim: usize) -> Vec<(&'static str, Layout)> {
    let (batch, heads, len) = (2, 5, 13);
    let fused = Shape::new(10, heads, len, dim).unwrap().with_batch(batch).unwrap();
    let row = dim + 12;
    let gaps = [heads * (len + 1) * row + 20, (len + 1) * row, row];
    vec![
        ("heads first", Layout::heads_first(batch, heads, len, dim).unwrap()),
        ("tokens first", Layout::tokens_first(batch, len, heads, dim).unwrap()),
        ("keys of a fused QKV", Layout::fused_qkv(&fused).unwrap()[1]),
        ("gaps", Layout::with_strides([batch, heads, len, dim], 68, gaps).unwrap()),
    ]
}

#[test]
fn every_rotation_agrees_with_the_oracle() {
    let Some(context) = gpu("every_rotation_agrees_with_the_oracle") else { return };
    let scalings = [
        Scaling::None,
        Scaling::Linear { factor: 4.0 },
        Scaling::NtkAware { factor: 2.0 },
        Scaling::yarn(8.0, 64),
        Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_len: 1024 },
    ];
    // The second level of the table begins at 4,096.
    let ids = [4095, 4096, 7, 999_999, 0];
    let rows = [
        Rows::new(1, 2..6).at_position(999_990),
        Rows::new(0, 0..5),
        Rows::new(0, 7..12).at_position(-3),
        Rows::new(1, 7..12).at_ids(&ids),
        Rows::new(0, 12..13).at_position(-999_999),
        Rows::new(1, 0..2).all_at(-5000),
        Rows::new(1, 99..99),
    ];
    let position = |batch: usize, row: usize| {
        let from = |start: usize, first: i64| first + (row - start) as i64;
        match (batch, row) {
            (0, 0..5) => Some(row as i64),
            (0, 7..12) => Some(from(7, -3)),
            (0, 12) => Some(-999_999),
            (1, 0 | 1) => Some(-5000),
            (1, 2..=5) => Some(from(2, 999_990)),
            (1, 7..=11) => Some(ids[row - 7].into()),
            _ => None,
        }
    };
    for (pairing, rotary) in
        [(Pairing::Half, 32), (Pairing::Half, 8), (Pairing::Interleaved, 32), (Pairing::Interleaved, 12)]
    {
        for scaling in scalings {
            let rope = rope(32, rotary, pairing).with_scaling(scaling).unwrap();
            for dtype in DType::ALL {
                let plan = rope.plan_rotation(&context, dtype, 1_000_000).unwrap();
                for (name, layout) in layouts(32) {
                    let stored = Stored::new(&context, dtype, layout, 5);
                    turn(&context, &plan, &stored.view, &rows).unwrap();
                    if let Err(error) = stored.judge(&context, &rope, position) {
                        panic!("{name}, {dtype}: {error}\n{rope:?}");
                    }
                    // Positions off by one are seen.
                    let off = |batch, row| position(batch, row).map(|p| p + 1);
                    assert!(stored.judge(&context, &rope, off).is_err(), "{name}, {dtype}");
                }
            }
        }
    }
}

/// As many runs as rows, past what one dispatch takes; and again without more memory.
#[test]
fn scattered_ids_take_several_dispatches() {
    let Some(context) = gpu("scattered_ids_take_several_dispatches") else { return };
    let rope = rope(32, 32, Pairing::Interleaved);
    let plan = rope.plan_rotation(&context, DType::F32, 5000).unwrap();
    let ids: Vec<u32> = (0..1300).map(|i| (i * 2999) % 5000).collect();
    let mut held = 0;
    for call in 0..4 {
        let stored = Stored::new(&context, DType::F32, Layout::heads_first(1, 2, 1300, 32).unwrap(), call);
        turn(&context, &plan, &stored.view, &[Rows::new(0, 0..1300).at_ids(&ids)]).unwrap();
        stored.judge(&context, &rope, |_, row| Some(ids[row].into())).unwrap();
        assert!(call == 0 || plan.device_bytes() == held);
        held = plan.device_bytes();
    }
}

/// There and back; and by two ways to the same position.
#[test]
fn rotations_add_up() {
    let Some(context) = gpu("rotations_add_up") else { return };
    let layout = Layout::tokens_first(1, 40, 3, 64).unwrap();
    for dtype in DType::ALL {
        for pairing in [Pairing::Half, Pairing::Interleaved] {
            let yarn = rope(64, 64, pairing).with_scaling(Scaling::yarn(16.0, 128)).unwrap();
            let plan = yarn.plan_rotation(&context, dtype, 10_000).unwrap();
            let stored = Stored::new(&context, dtype, layout, 8);
            let bound = plan.bind(&stored.view).unwrap();
            let rows = [Rows::new(0, 0..20).at_position(-9), Rows::new(0, 20..40).at_position(9000)];
            let mut encoder = context.device().create_command_encoder(&Default::default());
            plan.encode(&mut encoder, &bound, &rows).unwrap();
            plan.encode_inverse(&mut encoder, &bound, &rows).unwrap();
            context.queue().submit([encoder.finish()]);
            let got = stored.view.read_blocking(&context).unwrap();
            let want: Vec<f64> =
                stored.layout.gather(&stored.before).unwrap().into_iter().map(f64::from).collect();
            // Two turns, two u for the factor 1/t² and its product, and two roundings; a pair is no
            // longer than 2·√2.
            let (relative, absolute) = rounding(dtype);
            let error = 8f64.sqrt() * (2.0 * TURN + 2.0 * U + relative) + 2.0 * absolute;
            let tolerance = Tolerance { absolute: error * (1.0 + relative), relative };
            let report = compare(&got, &want, tolerance).unwrap();
            assert!(report.passed(), "there and back, {dtype}, {pairing:?}: {report}");
        }
    }
    let plain = rope(64, 64, Pairing::Half);
    let plan = plain.plan_rotation(&context, DType::F32, 10_000).unwrap();
    let [twice, once] = [0, 1].map(|_| Stored::new(&context, DType::F32, layout, 9));
    turn(&context, &plan, &twice.view, &[Rows::new(0, 0..40).at_position(-4500)]).unwrap();
    turn(&context, &plan, &twice.view, &[Rows::new(0, 0..40).all_at(4600)]).unwrap();
    turn(&context, &plan, &once.view, &[Rows::new(0, 0..40).at_position(100)]).unwrap();
    let want: Vec<f64> = once.view.read_blocking(&context).unwrap().into_iter().map(f64::from).collect();
    let got = twice.view.read_blocking(&context).unwrap();
    let report = compare(&got, &want, Tolerance::absolute(3.0 * TURN * 8f64.sqrt())).unwrap();
    assert!(report.passed(), "two turns: {report}");
}

/// Attention without positions over rows that were turned is attention that turns them as it loads.
#[test]
fn attention_over_turned_rows_is_fused_attention() {
    let Some(context) = gpu("attention_over_turned_rows_is_fused_attention") else { return };
    let yarn = |pairing| rope(32, 32, pairing).with_scaling(Scaling::yarn(4.0, 64)).unwrap();
    for (rope, storage, q_len) in [
        (yarn(Pairing::Half), Storage::Fused, 150),
        (rope(32, 16, Pairing::Interleaved), Storage::TokensFirst, 70),
    ] {
        let shape = Shape::new(4, 2, q_len, 32).unwrap().with_kv_len(150).unwrap();
        let fused = Attention::causal().with_lse(true).with_positions(Positions::from(rope.clone()));
        let problem = Problem::random(fused.clone(), shape, 12);
        let qkv = problem.upload(&context, storage).unwrap();
        let plan = rope.plan_rotation(&context, DType::F32, 150).unwrap();
        let tables = Tables::new();
        let want = problem.run_on(&context, &problem.options, &qkv, &tables);
        let first = (150 - q_len) as i64;
        turn(&context, &plan, &qkv[0], &[Rows::new(0, 0..q_len).at_position(first)]).unwrap();
        turn(&context, &plan, &qkv[1], &[Rows::new(0, 0..150)]).unwrap();
        let plain = Problem { attention: Attention::causal().with_lse(true), ..problem };
        let got = plain.run_on(&context, &plain.options, &qkv, &tables);
        let problem = Problem { attention: fused, ..plain };
        // f32 storage adds no rounding, so the fused kernel's own tolerance holds.
        for (what, report) in ["output", "lse"].into_iter().zip(problem.judge(&got, &tables)) {
            assert!(report.passed(), "{what}, {storage:?}: {report}");
        }
        let one = Tolerances::of_output(&problem.exact(&tables), &shape, DType::F32);
        let want: Vec<f64> = want.output.into_iter().map(f64::from).collect();
        let report = compare(&got.output, &want, one.times(2.0)).unwrap();
        assert!(report.passed(), "against the fused kernel, {storage:?}: {report}");
    }
}

/// A tensor past the binding size goes in parts, and dispatches fold.
#[test]
fn small_devices_turn_large_tensors() {
    if gpu("small_devices_turn_large_tensors").is_none() {
        return;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let limits = wgpu::Limits {
        max_compute_workgroups_per_dimension: 7,
        max_storage_buffer_binding_size: 1 << 16,
        ..wgpu::Limits::defaults()
    };
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let context = Context::from_wgpu(device, queue).unwrap();
    let rope = rope(32, 32, Pairing::Half);
    let plan = rope.plan_rotation(&context, DType::F32, 400).unwrap();
    let stored = Stored::new(&context, DType::F32, Layout::heads_first(2, 5, 190, 32).unwrap(), 3);
    turn(&context, &plan, &stored.view, &[Rows::new(0, 0..190), Rows::new(1, 10..190)]).unwrap();
    let position = |batch, row| (batch == 0 || row >= 10).then_some(row as i64);
    stored.judge(&context, &rope, position).unwrap();
    // One head of one batch entry must fit; heads that lie between each other's rows can't be told
    // apart.
    let tokens_first = Stored::new(&context, DType::F32, Layout::tokens_first(1, 190, 5, 32).unwrap(), 3);
    assert!(plan.bind(&tokens_first.view).unwrap_err().is_too_large());
    let far = rope.plan_rotation(&context, DType::F32, 4000).unwrap_err();
    assert!(far.is_too_large() && far.argument() == Some("max_positions"), "{far}");
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals_name_the_argument") else { return };
    let plan = |rope: Rope, max| rope.plan_rotation(&context, DType::F32, max);
    assert!(plan(rope(32, 12, Pairing::Half), 8).unwrap_err().is_unsupported());
    assert!(plan(rope(32, 6, Pairing::Interleaved), 8).unwrap_err().is_unsupported());
    let far = plan(rope(32, 32, Pairing::Half), (1 << 30) + 1).unwrap_err();
    assert_eq!(far.argument(), Some("max_positions"));

    let plan = plan(rope(32, 32, Pairing::Half), 8).unwrap();
    let tensor = |dtype, layout: Result<Layout>| Tensor::zeros(&context, dtype, layout.unwrap()).unwrap();
    let refused = |tensor: &Tensor| plan.bind(tensor.view()).unwrap_err().argument();
    assert_eq!(refused(&tensor(DType::F16, Layout::heads_first(1, 2, 10, 32))), Some("tensor"));
    assert_eq!(refused(&tensor(DType::F32, Layout::heads_first(1, 2, 10, 64))), Some("tensor"));
    let overlapping = Layout::with_strides([1, 1, 10, 32], 0, [0, 0, 28]);
    assert_eq!(refused(&tensor(DType::F32, overlapping)), Some("tensor"));

    let good = tensor(DType::F32, Layout::heads_first(2, 2, 10, 32));
    let bound = plan.bind(good.view()).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let mut encode = |rows: &[Rows<'_>]| match plan.encode(&mut encoder, &bound, rows) {
        Ok(()) => None,
        Err(error) => error.argument(),
    };
    assert_eq!(encode(&[]), None);
    assert_eq!(encode(&[Rows::new(0, 0..8), Rows::new(1, 0..8), Rows::new(0, 8..10).all_at(-7)]), None);
    for rows in [
        &[Rows::new(2, 0..1)][..],
        &[Rows::new(0, 0..11)],
        &[Rows::new(0, 1..usize::MAX)],
        &[Rows::new(0, 0..9)],
        &[Rows::new(0, Range { start: 2, end: 1 })],
        &[Rows::new(0, 0..2).at_position(7)],
        &[Rows::new(0, 0..1).at_position(-8)],
        &[Rows::new(0, 0..2).at_position(i64::MAX)],
        &[Rows::new(0, 0..2).all_at(-8)],
        &[Rows::new(0, 0..1).at_position(i64::MIN)],
        &[Rows::new(0, 0..2).at_ids(&[1])],
        &[Rows::new(0, 0..2).at_ids(&[1, 8])],
        &[Rows::new(0, 0..2).at_ids(&[u32::MAX, 0])],
        &[Rows::new(0, 2..5).at_position(0), Rows::new(1, 0..3), Rows::new(0, 0..3)],
    ] {
        assert_eq!(encode(rows), Some("rows"), "{rows:?}");
    }
    let other = rope(32, 32, Pairing::Half).plan_rotation(&context, DType::F32, 8).unwrap();
    assert_eq!(other.encode(&mut encoder, &bound, &[]).unwrap_err().argument(), Some("bound"));
    // Nothing to turn is nothing to do.
    let empty = tensor(DType::F32, Layout::heads_first(1, 2, 0, 32));
    plan.encode(&mut encoder, &plan.bind(empty.view()).unwrap(), &[Rows::new(0, 0..0)]).unwrap();
}
