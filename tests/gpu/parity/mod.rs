//! Every kernel against the f64 oracle, over the grid of shapes, types and layouts.

mod documents;
mod kernels;

use crate::common::{Problem, Storage, by, gpu, matrix};
use prflash::kernels::{Kernel, Tile};
use prflash::sampling::Granularity;
use prflash::verify::{Tolerance, compare};
use prflash::{
    Attention, BlockGrid, DType, Layout, Profile, Schedule, Seed, Shape, Systematic, Tables, Tensor,
};

const DIMS: [usize; 6] = [32, 64, 80, 96, 128, 256];
const RATIOS: [usize; 3] = [1, 3, 8];
const LAYOUTS: [Storage; 3] = [Storage::HeadsFirst, Storage::TokensFirst, Storage::Fused];

/// Options that change with the case number, so that the grid meets each of them many times.
fn options(case: usize, dtype: DType) -> Attention {
    let mut attention = if case % 5 == 4 { Attention::full() } else { Attention::causal() };
    if case % 4 == 1 {
        attention = attention.with_window(1 + case % 70).unwrap();
    }
    if case % 7 == 3 {
        attention = attention.with_soft_cap(1.5).unwrap();
    }
    if case % 6 == 5 {
        attention = attention.with_scale(0.3).unwrap();
    }
    let output = if case.is_multiple_of(3) { dtype } else { DType::F32 };
    attention.with_storage(dtype).with_output(output).with_lse(case.is_multiple_of(2))
}

/// One type of output for a type of storage at each head dimension, since each pair is another
/// pipeline to compile for every kernel. Every pair comes with half of the dimensions.
fn output(dim: usize, dtype: DType) -> DType {
    if dim.is_multiple_of(2) { dtype } else { DType::F32 }
}

fn grid_of_shapes(lens: &[usize], dims: &[usize]) {
    let Some(context) = gpu("parity grid") else { return };
    let mut case = 0;
    for (index, &dim) in dims.iter().enumerate() {
        for &len in lens {
            for ratio in RATIOS {
                for dtype in DType::ALL {
                    case += 1;
                    let kv_heads = 1 + case % 2;
                    let shape = Shape::new(ratio * kv_heads, kv_heads, len, dim).unwrap();
                    // Another layout each time, and for each type in turn.
                    let storage = LAYOUTS[(case + case / 3) % 3];
                    let attention = options(case, dtype).with_output(output(index, dtype));
                    let problem = Problem::random(attention, shape, case as u64);
                    problem.check(&context, storage, &Tables::new(), &format!("case {case}"));
                }
            }
        }
    }
}

#[test]
fn short_lengths() {
    grid_of_shapes(&[1, 17, 63, 64, 65, 127], &DIMS);
}

#[test]
fn a_thousand_tokens() {
    let Some(context) = gpu("a thousand tokens") else { return };
    // Every type with two dimensions, and every ratio with two types.
    for (case, dim) in DIMS.into_iter().enumerate() {
        let (dtype, ratio) = (DType::ALL[case % 3], RATIOS[(case + case / 3) % 3]);
        let shape = Shape::new(ratio, 1, 1000, dim).unwrap();
        let problem = Problem::random(options(4 * case, dtype).with_lse(true), shape, case as u64);
        problem.check(&context, LAYOUTS[case / 2 % 3], &Tables::new(), &format!("case {case}"));
    }
}

#[test]
fn queries_and_keys_of_different_lengths() {
    let Some(context) = gpu("different lengths") else { return };
    let lens = [(1, 127), (1, 1000), (17, 64), (63, 65), (64, 127), (127, 64), (65, 1), (5, 0), (0, 5)];
    for (case, (q_len, kv_len)) in lens.into_iter().cycle().take(54).enumerate() {
        let (dim, ratio) = (DIMS[case % 6], RATIOS[case / 9 % 3]);
        let shape = Shape::new(2 * ratio, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let dtype = DType::ALL[case / 6 % 3];
        let attention = options(case, dtype).with_output(output(case % 6, dtype));
        let problem = Problem::random(attention, shape, case as u64);
        problem.check(&context, LAYOUTS[case % 2], &Tables::new(), &format!("case {case}"));
    }
}

#[test]
fn batches_and_value_dims() {
    let Some(context) = gpu("batches and value dims") else { return };
    for (case, (dim, value_dim)) in [(64, 32), (32, 64), (96, 4), (4, 96), (128, 80)].into_iter().enumerate()
    {
        let shape =
            Shape::new(4, 2, 70, dim).unwrap().with_batch(3).unwrap().with_value_dim(value_dim).unwrap();
        for storage in LAYOUTS {
            let attention = options(case, DType::ALL[case % 3]).with_lse(true);
            Problem::random(attention, shape, case as u64).check(
                &context,
                storage,
                &Tables::new(),
                "value dims",
            );
        }
    }
}

#[test]
fn schedules_with_correction() {
    let Some(context) = gpu("schedules") else { return };
    let granularities = [Granularity::Head, Granularity::KvHead, Granularity::Shared];
    let lens = [(300, 300), (100, 333), (1, 500), (200, 70), (257, 257), (30, 0)];
    for (case, (q_len, kv_len)) in lens.into_iter().cycle().take(36).enumerate() {
        let shape = Shape::new(6, 2, q_len, 64).unwrap().with_kv_len(kv_len).unwrap();
        let beta = [0.0, 0.5, 1.0][case % 3];
        let attention =
            options(case, DType::ALL[case / 12 % 3]).with_correction(beta).unwrap().with_lse(true);
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let grid = grid
            .with_block_size([16, 64, 128, 24][case % 4])
            .unwrap()
            .with_granularity(granularities[case % 3]);
        let profile = Profile::harmonic_with(1.0 + (case % 3) as f64, 1.5).unwrap();
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(case as u64)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        problem.check(
            &context,
            LAYOUTS[case % 2],
            &Tables::from(&schedule),
            &format!("case {case}, {grid:?}"),
        );
    }
}

#[test]
fn other_head_dims() {
    let Some(context) = gpu("other head dims") else { return };
    for (case, dim) in [40, 72, 112, 192, 4, 100, 248].into_iter().enumerate() {
        for (step, len) in [65, 200].into_iter().enumerate() {
            let dtype = DType::ALL[(case + step) % 3];
            let shape = Shape::new(3, 1, len, dim).unwrap();
            let problem = Problem::random(options(case + 2 * step, dtype), shape, case as u64);
            problem.check(&context, LAYOUTS[step], &Tables::new(), &format!("head dim {dim}"));
        }
    }
}

/// Keys and values are loaded in blocks where rows begin at multiples of them, and one by one
/// elsewhere: with the same result, to the bit.
#[test]
fn rows_may_begin_anywhere() {
    let Some(context) = gpu("rows anywhere") else { return };
    let (heads, len, dim) = (3, 90, 48);
    let shape = Shape::new(heads, heads, len, dim).unwrap();
    for storage in [DType::F32, DType::F16] {
        let problem = Problem::random(Attention::causal().with_storage(storage), shape, 5);
        let problem = problem.with_options(by(Some(Kernel::Tiled(Tile::new(1, 4, false).unwrap()))));
        let plan = problem.plan(&context).unwrap();
        // (elements before the first row, between rows, between heads)
        let results = [
            (0, dim, len * dim),
            (4, dim, len * dim),
            (0, dim + 4, len * (dim + 4)),
            (16, dim + 16, len * (dim + 16) + 8),
        ]
        .map(|(before, row, head)| {
            let layout = Layout::with_strides([1, heads, len, dim], before, [0, head, row]).unwrap();
            let extent = layout.extent();
            let view = |values: &[f32]| {
                let mut flat = vec![0.0; extent];
                layout.scatter(values, &mut flat).unwrap();
                let whole = Layout::heads_first(1, 1, 1, extent).unwrap();
                let tensor = Tensor::upload(&context, storage, whole, &flat).unwrap();
                tensor.view().with_layout(layout).unwrap()
            };
            let [q, k, v] = [&problem.q, &problem.k, &problem.v].map(|values| view(values));
            plan.run(&q, &k, &v, &Tables::new()).unwrap().output.read_blocking(&context).unwrap()
        });
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for other in &results[1..] {
            assert_eq!(bits(&results[0]), bits(other), "{storage}");
        }
    }
}

/// A maximum that rises by a little at every key, by much now and then: what a kernel that follows
/// it late makes of it.
#[test]
fn a_maximum_that_keeps_rising() {
    let Some(context) = gpu("rising maximum") else { return };
    let (len, dim) = (260, 16);
    let tile = |rows, keys, staged| Some(Kernel::Tiled(Tile::new(rows, keys, staged).unwrap()));
    let kernels = [None, Some(Kernel::Naive), tile(1, 4, false), tile(1, 1, true), tile(4, 4, true)];
    for (name, step, leap) in
        [("a little", 0.05, 0.0), ("to the bound", 5.5, 0.0), ("leaps", 0.01, 60.0), ("falling", -3.0, 0.0)]
    {
        let mut problem = Problem::random(
            Attention::causal().with_lse(true).with_scale(1.0).unwrap(),
            Shape::new(1, 1, len, dim).unwrap(),
            2,
        );
        // q = (1, 0 …), so that the score of key j is its first channel.
        problem.q = (0..len * dim).map(|i| f32::from(i.is_multiple_of(dim))).collect();
        for j in 0..len {
            problem.k[j * dim] = step * j as f32 + leap * (j / 50) as f32;
        }
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), &kernels, name);
    }
}

/// Logits that break careless kernels. Expected results follow from the numbers themselves.
#[test]
fn adversarial_logits() {
    let Some(context) = gpu("adversarial logits") else { return };
    let (len, dim) = (130, 64);
    let shape = Shape::new(1, 1, len, dim).unwrap();
    let filled = |value: f32| vec![value; len * dim];
    // Key j is `high` where j % 7 == 3 and `low` elsewhere.
    let peaks = |high: f32, low: f32| -> Vec<f32> {
        (0..len * dim).map(|i| if (i / dim) % 7 == 3 { high } else { low }).collect()
    };
    for dtype in DType::ALL {
        // The largest f16, where it fits; in bf16 its neighbour.
        let huge = dtype.round(65_000.0);
        let cases = [
            ("huge and equal", filled(huge), filled(huge)),
            ("huge and one-hot", filled(huge), peaks(huge, -huge)),
            ("huge and negative", filled(huge), filled(-huge)),
            ("tiny", filled(dtype.round(6e-8)), filled(dtype.round(6e-8))),
            ("zero", filled(0.0), filled(0.0)),
            ("one-hot", filled(1.0), peaks(8.0, -8.0)),
        ];
        let cases = cases.into_iter().chain(
            (dtype == DType::F16).then(|| ("±65504 in f16", filled(65_504.0), peaks(65_504.0, -65_504.0))),
        );
        for (name, q, k) in cases {
            let v: Vec<f32> =
                crate::common::numbers(1, len * dim).into_iter().map(|x| dtype.round(x)).collect();
            let matrices = [Some(matrix(16, true)), Some(matrix(8, false))];
            let matrices = matrices.into_iter().filter(|_| dtype == DType::F16);
            for kernel in [None, Some(Kernel::Naive)].into_iter().chain(matrices) {
                let attention = Attention::causal().with_storage(dtype).with_lse(true);
                let (q, k, v) = (q.clone(), k.clone(), v.clone());
                let problem = Problem { attention, options: by(kernel), shape, q, k, v };
                let got = problem.run(&context, Storage::HeadsFirst, &Tables::new());
                let exact = problem.exact(&Tables::new());
                // Scores are equal or far apart, so the softmax is exact; only sums of values
                // round.
                let report = compare(&got.output, &exact.output, Tolerance::absolute(2e-6)).unwrap();
                assert!(report.passed(), "{name}, {dtype}, {kernel:?}: {report}");
                let lse =
                    compare(&got.lse.unwrap(), &exact.lse, Tolerance { absolute: 1e-5, relative: 1e-6 });
                let lse = lse.unwrap();
                assert!(lse.passed(), "lse of {name}, {dtype}, {kernel:?}: {lse}");
            }
        }
    }
}
