//! Every kernel against the f64 oracle, over the grid of shapes, types and layouts.

mod common;

use common::{Problem, Storage, gpu};
use prflash::{Attention, BlockGrid, DType, Granularity, Key, Profile, Schedule, Shape, Systematic, Tables};

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
                    for storage in LAYOUTS {
                        case += 1;
                        let kv_heads = 1 + case % 2;
                        let shape = Shape::new(ratio * kv_heads, kv_heads, len, dim).unwrap();
                        Problem::random(options(case, dtype), shape, case as u64).check(
                            &context,
                            storage,
                            &Tables::new(),
                            &format!("case {case}"),
                        );
                    }
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
    let mut case = 0;
    for dim in DIMS {
        for dtype in DType::ALL {
            case += 1;
            let ratio = RATIOS[case % 3];
            let shape = Shape::new(ratio, 1, 1000, dim).unwrap();
            let problem = Problem::random(options(4 * case, dtype).with_lse(true), shape, case as u64);
            problem.check(&context, LAYOUTS[case / 3 % 3], &Tables::new(), &format!("case {case}"));
        }
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
