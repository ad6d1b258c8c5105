//! Every form of every kernel, by name.

use crate::common::cases::{LAYOUTS, RATIOS, options};
use crate::common::{Problem, Storage, by, gpu, matrix, stored_for};
use prflash::kernels::{Decode, Kernel, Tile};
use prflash::position::Pairing;
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, Bias, BlockGrid, DType, Documents, PlanOptions, Positions, Profile, Rope, Schedule, Seed,
    Shape, Systematic, Tables,
};
use std::io::Write;

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
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, Storage::HeadsFirst, &tables, &kernels, &format!("case {case}"));
        }
    }
}

/// Products in f16, which only few devices lack: this test then says that it ran without them.
#[test]
fn f16_products() {
    let Some(context) = gpu("products in f16") else { return };
    let tiles = [(1, 4, false), (1, 1, false), (2, 2, false), (1, 4, true), (1, 8, true), (4, 2, true)];
    let tiles = tiles.map(|(rows, keys, staged)| {
        Some(Kernel::Tiled(Tile::new(rows, keys, staged).unwrap().with_f16_products(true)))
    });
    let kernels: Vec<_> = [Some(Kernel::Naive)].into_iter().chain(tiles).collect();
    if !context.capabilities().f16_arithmetic {
        let shape = Shape::new(1, 1, 9, 64).unwrap();
        let plan = Attention::causal().with_storage(DType::F16).plan_with(&context, &shape, &by(kernels[1]));
        assert!(plan.unwrap_err().is_unsupported());
        let _ = writeln!(std::io::stderr(), "SKIPPED products in f16: the device has no f16 arithmetic");
        return;
    }
    // The quads of a head are summed in parts of 4, 8, 5 and 1.
    let cases = [(16, 150, 150), (64, 130, 130), (40, 70, 133), (44, 133, 70)];
    for (case, (dim, q_len, kv_len)) in cases.into_iter().enumerate() {
        let shape = Shape::new(2, 1, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let attention = options(case, DType::F16).with_lse(true).with_correction(1.0).unwrap();
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        // Two tiles in turn: drivers take long over each.
        let kernels = [0, 1 + case, 1 + (case + 3) % 6].map(|index| kernels[index]);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, LAYOUTS[case % 2], &tables, &kernels, &format!("case {case}"));
        }
    }
    let rope = Rope::new(64, 1e4, Pairing::Half).unwrap();
    for (positions, kernels) in [
        (Positions::doubly_harmonic(rope), vec![kernels[0], kernels[4], kernels[6]]),
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
        Kernel::Tiled(Tile::new(rows, keys, staged).unwrap().with_slices(parts).unwrap())
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
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        let kernels = [0, 1 + case, 1 + (case + 2) % 5].map(|index| kernels[index]);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, LAYOUTS[case % 2], &tables, &kernels, &format!("case {case}"));
        }
    }
    // Rotated: only staged.
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        let rope = Rope::new(64, 1e4, pairing).unwrap();
        let attention = Attention::causal().with_positions(Positions::doubly_harmonic(rope)).with_lse(true);
        let problem = Problem::random(attention, Shape::new(2, 1, 150, 64).unwrap(), 9);
        let staged = [kernels[0], kernels[2], kernels[5]];
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), &staged, "rotated");
    }
    if context.capabilities().f16_arithmetic {
        let halves = |parts| {
            Some(Kernel::Tiled(
                Tile::new(1, 4, false).unwrap().with_f16_products(true).with_slices(parts).unwrap(),
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

/// The decode kernel in every shape, with few and many rows, whole and split keys.
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
    // (heads, kv_heads, q_len, kv_len); the last by force: plans take other kernels for so many
    // queries.
    let cases = [(6, 2, 1, 400), (3, 3, 5, 77), (10, 1, 3, 300), (2, 1, 4, 2), (4, 2, 70, 133)];
    for (case, (heads, kv_heads, q_len, kv_len)) in cases.into_iter().enumerate() {
        let shape = Shape::new(heads, kv_heads, q_len, 20).unwrap().with_kv_len(kv_len).unwrap();
        let attention = options(case, DType::ALL[case % 3]).with_lse(true).with_correction(1.0).unwrap();
        let plan_options = PlanOptions::new();
        let plan_options = if case % 2 == 1 { plan_options.with_splits(3).unwrap() } else { plan_options };
        let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let grid = grid.with_block_size([64, 24, 30, 7, 16][case]).unwrap();
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
        let problem = Problem::random(attention, shape, case as u64).with_options(plan_options);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            problem.check_kernels(&context, Storage::HeadsFirst, &tables, &kernels, &format!("case {case}"));
        }
    }
}

/// The kernel on matrix units, emulated: fragments of both sizes, rows padded and not, whole
/// fragments and not.
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
        // Whole fragments and not. Half of the kernels each time: each is a long pipeline to
        // compile for every size.
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
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
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
            let tolerance = Tolerances::of_kernel_output(kernel, &exact, &shape, DType::F32);
            assert!(compare(&before.output, &exact.output, tolerance).unwrap().passed());
        }
    }
}
