//! Every kernel against the f64 oracle, over the grid of shapes, types and layouts.

mod documents;
mod kernels;

use crate::common::cases::{self, Case};
use crate::common::{Problem, Storage, by, gpu, matrix};
use prflash::kernels::{Kernel, Tile};
use prflash::verify::{Tolerance, compare};
use prflash::{Attention, DType, Layout, Shape, Tables, Tensor};

/// The kernel that a plan chooses and the naive one, on every case.
fn check(name: &str, cases: impl Iterator<Item = Case>) {
    let Some(context) = gpu(name) else { return };
    for case in cases {
        case.problem.check(&context, case.storage, &case.tables(), &case.story);
    }
}

#[test]
fn short_lengths() {
    check("parity grid", cases::short_lengths());
}

#[test]
fn a_thousand_tokens() {
    check("a thousand tokens", cases::a_thousand_tokens());
}

#[test]
fn queries_and_keys_of_different_lengths() {
    check("different lengths", cases::queries_and_keys_of_different_lengths());
}

#[test]
fn batches_and_value_dims() {
    check("batches and value dims", cases::batches_and_value_dims());
}

#[test]
fn schedules_with_correction() {
    check("schedules", cases::schedules_with_correction());
}

#[test]
fn other_head_dims() {
    check("other head dims", cases::other_head_dims());
}

#[test]
fn wide_heads() {
    check("wide heads", cases::wide_heads());
}

/// Tiles that plans choose on GPUs, where lanes share such rows, and those without workgroup
/// memory.
#[test]
fn tiles_of_wide_heads() {
    let Some(context) = gpu("tiles of wide heads") else { return };
    let shape = Shape::new(3, 1, 70, 576).unwrap().with_value_dim(512).unwrap();
    let problem = Problem::random(Attention::causal().with_lse(true), shape, 2);
    let tiles = [Tile::new(1, 1, false), Tile::new(1, 2, true).and_then(|tile| tile.with_slices(4))];
    let tiles = tiles.map(|tile| Some(Kernel::Tiled(tile.unwrap())));
    problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), &tiles, "wide heads");
    let too_many = by(Some(Kernel::Tiled(Tile::new(1, 8, true).unwrap())));
    assert!(problem.with_options(too_many).plan(&context).unwrap_err().is_unsupported());
}

/// Latent attention: one head of keys, whose first channels are the values, in one buffer.
#[test]
fn values_may_be_channels_of_the_keys() {
    let Some(context) = gpu("values in the keys") else { return };
    for (q_len, kv_len) in [(1, 300), (70, 90)] {
        for dtype in [DType::F32, DType::F16] {
            let shape = Shape::new(6, 1, q_len, 576).unwrap().with_kv_len(kv_len).unwrap();
            let shape = shape.with_value_dim(512).unwrap();
            let attention = Attention::causal().with_storage(dtype).with_lse(true);
            let mut problem = Problem::random(attention, shape, 4);
            problem.v = problem.k.chunks_exact(576).flat_map(|row| &row[..512]).copied().collect();
            let [q, k, _] = problem.upload(&context, Storage::HeadsFirst).unwrap();
            let values = Layout::with_strides([1, 1, kv_len, 512], 0, k.layout().strides()).unwrap();
            let v = k.with_layout(values).unwrap();
            for kernel in [None, Some(Kernel::Naive)] {
                let got =
                    problem.run_on(&context, &by(kernel), &[q.clone(), k.clone(), v.clone()], &Tables::new());
                for report in problem.judge(&got, &Tables::new()) {
                    assert!(report.passed(), "{q_len} of {kv_len}, {dtype}, {kernel:?}: {report}");
                }
            }
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
