//! Every kernel against the f64 oracle, over the grid of shapes, types and layouts.

use std::io::Write;

use crate::common::{Problem, Storage, by, gpu, matrix, stored_for};
use prflash::verify::{Tolerance, compare};
use prflash::{
    Attention, Bias, BlockGrid, DType, Decode, Documents, Granularity, Kernel, Key, Layout, Pairing,
    PlanOptions, Positions, Profile, Rope, Schedule, Shape, Systematic, Tables, Tensor, Tile,
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

fn grid_of_shapes(lens: &[usize], dims: &[usize]) {
    let Some(context) = gpu("parity grid") else { return };
    let mut case = 0;
    for &dim in dims {
        for &len in lens {
            for ratio in RATIOS {
                for dtype in DType::ALL {
                    case += 1;
                    let kv_heads = 1 + case % 2;
                    let shape = Shape::new(ratio * kv_heads, kv_heads, len, dim).unwrap();
                    // Another layout each time, and for each type in turn.
                    let storage = LAYOUTS[(case + case / 3) % 3];
                    let problem = Problem::random(options(case, dtype), shape, case as u64);
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
        let problem = Problem::random(options(case, DType::ALL[case / 6 % 3]), shape, case as u64);
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
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Key::new(case as u64)).unwrap();
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

#[test]
fn every_tile_shape() {
    let Some(context) = gpu("tile shapes") else { return };
    let mut kernels = vec![Some(Kernel::Naive)];
    for rows_each in [1, 2, 4, 8] {
        for keys in [1, 2, 4, 8] {
            for staged in [false, true] {
                kernels.push(Some(Kernel::Tiled(Tile::new(rows_each, keys, staged).unwrap())));
            }
        }
    }
    let lens = [(150, 150), (70, 133), (133, 70), (1, 77)];
    for (case, (q_len, kv_len)) in lens.into_iter().enumerate() {
        let shape = Shape::new(2, 1, q_len, 16).unwrap().with_kv_len(kv_len).unwrap();
        // Two types: each is a pipeline to compile for all 32 shapes.
        let attention = options(case, [DType::F32, DType::F16][case % 2]);
        let attention = attention.with_output(DType::F32).with_lse(true).with_correction(1.0).unwrap();
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let grid = grid.with_block_size([64, 24, 30, 7][case]).unwrap();
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, Storage::HeadsFirst, &tables, &kernels, &format!("case {case}"));
        }
    }
}

/// Products in f16, which only few devices lack: this test then says that it ran without them.
#[test]
fn half_products() {
    let Some(context) = gpu("half products") else { return };
    let tiles = [(1, 4, false), (1, 1, false), (2, 2, false), (1, 4, true), (1, 8, true), (4, 2, true)];
    let tiles = tiles.map(|(rows, keys, staged)| {
        Some(Kernel::Tiled(Tile::new(rows, keys, staged).unwrap().with_half_products(true)))
    });
    let kernels: Vec<_> = [Some(Kernel::Naive)].into_iter().chain(tiles).collect();
    if !context.capabilities().f16_arithmetic {
        let shape = Shape::new(1, 1, 9, 64).unwrap();
        let plan = Attention::causal().with_storage(DType::F16).plan_with(&context, &shape, &by(kernels[1]));
        assert!(plan.unwrap_err().is_unsupported());
        let _ = writeln!(std::io::stderr(), "SKIPPED half products: the device has no f16 arithmetic");
        return;
    }
    // The quads of a head are summed in parts of 4, 8, 5 and 1.
    let cases = [(16, 150, 150), (64, 130, 130), (40, 70, 133), (44, 133, 70)];
    for (case, (dim, q_len, kv_len)) in cases.into_iter().enumerate() {
        let shape = Shape::new(2, 1, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let attention = options(case, DType::F16).with_lse(true).with_correction(1.0).unwrap();
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        // Two tiles in turn: drivers take long over each.
        let kernels = [0, 1 + case, 1 + (case + 3) % 6].map(|index| kernels[index]);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, LAYOUTS[case % 2], &tables, &kernels, &format!("case {case}"));
        }
    }
    let rope = Rope::new(64, 1e4, Pairing::Half).unwrap();
    for (positions, kernels) in [
        (Positions::recommended(rope), vec![kernels[0], kernels[4], kernels[6]]),
        (Positions::from(Bias::alibi()), vec![kernels[0], kernels[1]]),
    ] {
        let attention = Attention::causal().with_storage(DType::F16).with_positions(positions).with_lse(true);
        let problem = Problem::random(attention, Shape::new(2, 1, 150, 64).unwrap(), 9);
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), &kernels, "positions");
    }
}

/// Rows that lanes share, in both forms that keys are read in, with products of both kinds.
#[test]
fn shared_rows() {
    let Some(context) = gpu("shared rows") else { return };
    let tile = |rows, keys, staged, parts| {
        Kernel::Tiled(Tile::new(rows, keys, staged).unwrap().with_parts(parts).unwrap())
    };
    let kernels = [
        tile(1, 4, false, 2),
        tile(1, 2, true, 2),
        tile(2, 4, false, 2),
        tile(1, 1, false, 4),
        tile(1, 4, true, 4),
    ];
    if context.capabilities().subgroup_sizes.is_none_or(|(_, most)| most > 32) {
        let options = by(Some(tile(2, 4, false, 2)));
        let plan = Attention::causal().plan_with(&context, &Shape::new(1, 1, 9, 64).unwrap(), &options);
        assert!(plan.unwrap_err().is_unsupported());
        let _ = writeln!(std::io::stderr(), "SKIPPED shared rows: the device has no subgroups of at most 32");
        return;
    }
    let shared = by(Some(tile(1, 4, false, 4)));
    let odd = Attention::causal().plan_with(&context, &Shape::new(1, 1, 9, 40).unwrap(), &shared);
    assert!(odd.unwrap_err().is_unsupported());
    let kernels: Vec<_> = [Some(Kernel::Naive)].into_iter().chain(kernels.map(Some)).collect();
    for (case, (dim, q_len, kv_len)) in
        [(32, 150, 150), (48, 70, 133), (16, 133, 70), (128, 9, 200)].into_iter().enumerate()
    {
        let shape = Shape::new(2, 1, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let attention = options(case, DType::ALL[case % 3]).with_lse(true).with_correction(1.0).unwrap();
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        let kernels = [0, 1 + case, 1 + (case + 2) % 5].map(|index| kernels[index]);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, LAYOUTS[case % 2], &tables, &kernels, &format!("case {case}"));
        }
    }
    // Rotated: only staged.
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        let rope = Rope::new(64, 1e4, pairing).unwrap();
        let attention = Attention::causal().with_positions(Positions::recommended(rope)).with_lse(true);
        let problem = Problem::random(attention, Shape::new(2, 1, 150, 64).unwrap(), 9);
        let staged = [kernels[0], kernels[2], kernels[5]];
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), &staged, "rotated");
    }
    if context.capabilities().f16_arithmetic {
        let halves = |parts| {
            Some(Kernel::Tiled(
                Tile::new(1, 4, false).unwrap().with_half_products(true).with_parts(parts).unwrap(),
            ))
        };
        let attention = Attention::causal().with_storage(DType::F16).with_lse(true);
        let problem = Problem::random(attention, Shape::new(2, 1, 150, 64).unwrap(), 9);
        problem.check_kernels(
            &context,
            Storage::HeadsFirst,
            &Tables::new(),
            &[None, halves(2), halves(4)],
            "halves",
        );
    }
}

/// Keys and values are loaded in blocks where rows begin at multiples of them, and one by one elsewhere: with the same result, to the bit.
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

/// A maximum that rises by a little at every key, by much now and then: what a kernel that follows it late makes of it.
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

/// The split kernel in every shape, with few and many rows, whole and split keys.
#[test]
fn every_decode_shape() {
    let Some(context) = gpu("decode shapes") else { return };
    let quads = context.capabilities().subgroup_sizes.is_some();
    let decode = |sets, quads| Some(Kernel::Decode(Decode::new(sets, quads).unwrap()));
    let mut kernels = vec![Some(Kernel::Naive)];
    for sets in [1, 2, 4, 8] {
        kernels.push(decode(sets, false));
        kernels.extend(quads.then(|| decode(sets, true)));
    }
    // (heads, kv_heads, q_len, kv_len); the last by force: plans take other kernels for so many queries.
    let cases = [(6, 2, 1, 400), (3, 3, 5, 77), (10, 1, 3, 300), (2, 1, 4, 2), (4, 2, 70, 133)];
    for (case, (heads, kv_heads, q_len, kv_len)) in cases.into_iter().enumerate() {
        let shape = Shape::new(heads, kv_heads, q_len, 20).unwrap().with_kv_len(kv_len).unwrap();
        let attention = options(case, DType::ALL[case % 3]).with_lse(true).with_correction(1.0).unwrap();
        let plan_options = PlanOptions::new();
        let plan_options = if case % 2 == 1 { plan_options.with_splits(3).unwrap() } else { plan_options };
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let grid = grid.with_block_size([64, 24, 30, 7, 16][case]).unwrap();
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64).with_options(plan_options);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, Storage::HeadsFirst, &tables, &kernels, &format!("case {case}"));
        }
    }
}

/// The kernel on matrix units, emulated: fragments of both sizes, rows padded and not, whole fragments and not.
#[test]
fn matrix_kernels() {
    let Some(context) = gpu("matrix kernels") else { return };
    let kernels =
        [(16, true), (16, false), (8, true), (8, false)].map(|(edge, padded)| Some(matrix(edge, padded)));
    let check = |case: usize, shape: Shape, attention: Attention, kernels: &[Option<Kernel>]| {
        let problem = Problem::random(attention.with_storage(DType::F16), shape, case as u64);
        let storage = LAYOUTS[case % if shape.q_len() == shape.kv_len() { 3 } else { 2 }];
        problem.check_kernels(&context, storage, &Tables::new(), kernels, &format!("case {case}"));
    };
    for (case, len) in [1, 17, 31, 32, 33, 63, 64, 65, 127, 200].into_iter().enumerate() {
        // Whole fragments and not. Half of the kernels each time: each is a long pipeline to compile for every size.
        let (dim, ratio) = ([32, 20, 20, 32][case % 4], RATIOS[case % 3]);
        let shape = Shape::new(ratio, 1, len, dim).unwrap();
        let some = [[kernels[0], kernels[3]], [kernels[1], kernels[2]]][case % 2];
        check(case, shape, options(case, DType::F16).with_lse(true), &some);
    }
    // Those that need no more than 32 KiB.
    let at_128 = &kernels[1..2];
    for (case, (q_len, kv_len, dim, value_dim)) in [
        (70, 150, 128, 128),
        (9, 300, 64, 36),
        (127, 64, 36, 64),
        (65, 1, 64, 4),
        (5, 0, 32, 32),
        (70, 70, 4, 96),
    ]
    .into_iter()
    .enumerate()
    {
        let shape = Shape::new(4, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let shape = shape.with_batch(1 + case % 2).unwrap().with_value_dim(value_dim).unwrap();
        let attention = options(case + 3, DType::F16).with_lse(true);
        check(case, shape, attention, if dim > 112 { at_128 } else { &kernels[case % 4..][..1] });
    }
    for (case, (q_len, kv_len)) in [(130, 130), (100, 333), (200, 70)].into_iter().enumerate() {
        let shape = Shape::new(4, 2, q_len, 32).unwrap().with_kv_len(kv_len).unwrap();
        let attention = options(case, DType::F16).with_correction(1.0).unwrap().with_lse(true);
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let grid = grid.with_block_size([64, 24, 128][case]).unwrap();
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(3)).unwrap();
        let problem = Problem::random(attention.with_storage(DType::F16), shape, case as u64);
        let tables = Tables::from(&schedule);
        problem.check_kernels(&context, Storage::HeadsFirst, &tables, &kernels, &format!("schedule {case}"));
    }
    let documents = Documents::from_lengths(&[63, 3, 2, 70]).unwrap();
    for attention in [Attention::causal(), Attention::full().with_window(20).unwrap()] {
        let attention = attention.with_lse(true).with_storage(DType::F16);
        let problem = Problem::random(attention, Shape::new(2, 1, 138, 32).unwrap(), 7);
        let tables = Tables::from(&documents);
        problem.check_kernels(&context, Storage::TokensFirst, &tables, &kernels, "documents");
    }
}

/// A row is right where values that it doesn't see aren't finite, and shows those that it sees.
#[test]
fn matrix_kernels_keep_values_apart_that_are_not_finite() {
    let Some(context) = gpu("values that aren't finite") else { return };
    let shape = Shape::new(1, 1, 150, 40).unwrap();
    for kernel in [matrix(16, true), matrix(8, false)] {
        for value in [f32::NAN, f32::INFINITY] {
            let attention = Attention::causal().with_window(50).unwrap().with_lse(true);
            let attention = stored_for(attention, Some(kernel));
            let clean = Problem::random(attention, shape, 1).with_options(by(Some(kernel)));
            let (before, exact) =
                (clean.run(&context, Storage::HeadsFirst, &Tables::new()), clean.exact(&Tables::new()));
            let mut problem = Problem { q: clean.q.clone(), k: clean.k.clone(), v: clean.v.clone(), ..clean };
            // One number each, so that nothing else of the row may change.
            for (key, channel) in [(20, 3), (70, 33), (149, 0)] {
                problem.v[key * 40 + channel] = value;
            }
            let after = problem.run(&context, Storage::HeadsFirst, &Tables::new());
            assert_eq!(before.lse, after.lse);
            for row in 0..150 {
                for channel in 0..40 {
                    let spoiled = [(20, 3), (70, 33), (149, 0)]
                        .iter()
                        .any(|&(key, c)| c == channel && key <= row && row < key + 50);
                    let (got, was) = (after.output[row * 40 + channel], before.output[row * 40 + channel]);
                    let story = format!("{kernel}, {value}, row {row}, channel {channel}: {got}, {was}");
                    assert!(
                        if spoiled { !got.is_finite() } else { got.to_bits() == was.to_bits() },
                        "{story}"
                    );
                }
            }
            let tolerance = Tolerance::of_kernel_output(kernel, &exact, &shape, DType::F32);
            assert!(compare(&before.output, &exact.output, tolerance).unwrap().passed());
        }
    }
}

#[test]
fn document_masks() {
    let Some(context) = gpu("document masks") else { return };
    for (case, lengths) in
        [vec![300], vec![1; 130], vec![0, 64, 64, 1, 129], vec![100, 3, 97], vec![63, 65, 2, 70]]
            .into_iter()
            .enumerate()
    {
        let len = lengths.iter().sum();
        let documents = Documents::from_lengths(&lengths).unwrap();
        for attention in [
            Attention::causal(),
            Attention::full(),
            Attention::causal().with_window(40).unwrap(),
            Attention::full().with_window(20).unwrap(),
        ] {
            let attention = attention.with_lse(true).with_storage(DType::ALL[case % 3]);
            let shape = Shape::new(4, 2, len, 32).unwrap();
            let grid =
                if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
            let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(8)).unwrap();
            let problem = Problem::random(attention, shape, case as u64);
            let masked = Tables::from(&documents);
            problem.check(&context, Storage::TokensFirst, &masked, &format!("documents {lengths:?}"));
            let both = masked.with_schedule(&schedule).unwrap();
            problem.check(&context, Storage::TokensFirst, &both, &format!("sampled documents {lengths:?}"));
        }
    }
    // Starts alone, where there are more keys than queries (chunked prefill), and fewer.
    for (q_len, kv_len) in [(50, 200), (90, 30)] {
        let starts: Vec<usize> = (0..q_len).map(|i| i / 20 * 30).collect();
        let documents = Documents::from_starts(&starts).unwrap();
        let shape = Shape::new(2, 1, q_len, 64).unwrap().with_kv_len(kv_len).unwrap();
        let problem = Problem::random(Attention::causal().with_lse(true), shape, 5);
        problem.check(&context, Storage::HeadsFirst, &Tables::from(&documents), "starts");
    }
}

#[test]
fn a_mask_for_each_sequence_of_a_batch() {
    let Some(context) = gpu("masks of a batch") else { return };
    let shape = Shape::new(2, 1, 100, 32).unwrap().with_batch(3).unwrap();
    let masks: Vec<Documents> = [vec![100], vec![30, 70], vec![50, 25, 25]]
        .iter()
        .map(|l| Documents::from_lengths(l).unwrap())
        .collect();
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let schedules: Vec<Schedule> = (0..3)
        .map(|s| Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(1).sequence(s)).unwrap())
        .collect();
    let tables = masks.iter().fold(Tables::new(), Tables::with_documents);
    let tables = schedules.iter().try_fold(tables, Tables::with_schedule).unwrap();
    let problem = Problem::random(Attention::causal().with_lse(true), shape, 6);
    problem.check(&context, Storage::HeadsFirst, &tables, "a mask each");
}

/// Packed documents give, row for row, the bits of the documents alone where blocks fall alike.
#[test]
fn documents_do_not_see_each_other() {
    let Some(context) = gpu("isolated documents") else { return };
    let documents = Documents::from_lengths(&[64, 128, 64]).unwrap();
    let packed = Problem::random(Attention::causal(), Shape::new(1, 1, 256, 64).unwrap(), 7);
    let whole = packed.run(&context, Storage::HeadsFirst, &Tables::from(&documents));
    for range in [0..64, 64..192, 192..256] {
        let rows = |values: &[f32]| values[range.start * 64..range.end * 64].to_vec();
        let alone = Problem {
            attention: packed.attention.clone(),
            options: packed.options.clone(),
            shape: Shape::new(1, 1, range.len(), 64).unwrap(),
            q: rows(&packed.q),
            k: rows(&packed.k),
            v: rows(&packed.v),
        };
        assert_eq!(alone.run(&context, Storage::HeadsFirst, &Tables::new()).output, rows(&whole.output));
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
                // Scores are equal or far apart, so the softmax is exact; only sums of values round.
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
