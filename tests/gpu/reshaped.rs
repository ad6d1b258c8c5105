//! Re-shaped tensors against the block lists of the same schedule, by the oracle.

use crate::common::{Problem, Storage, gpu};
use prflash::position::Pairing;
use prflash::sampling::{Granularity, Reshaping};
use prflash::verify::{Tolerances, compare};
use prflash::{Attention, BlockGrid, DType, Positions, Profile, Rope, Seed, Shape, Tables};

fn reshapings(grid: &BlockGrid, sinks: usize, seed: u64) -> [Reshaping; 2] {
    let profile = Profile::harmonic().with_sink_blocks(sinks);
    [
        Reshaping::segments(grid, &profile, Seed::new(seed)).unwrap(),
        Reshaping::row_column(grid, &profile, Seed::new(seed)).unwrap(),
    ]
}

#[test]
fn re_shaped_triangles_agree_with_block_lists() {
    let Some(context) = gpu("re_shaped_triangles_agree_with_block_lists") else { return };
    let gqa = Shape::new(6, 2, 330, 32).unwrap();
    let causal = Attention::causal().with_lse(true);
    let rope = Rope::new(32, 1e4, Pairing::Half).unwrap();
    let positioned =
        causal.clone().with_positions(Positions::doubly_harmonic(rope).with_harmonic_factor(60.0).unwrap());
    let cases = [
        ("prefill", causal.clone(), gqa, 1),
        ("no sinks", causal.clone(), gqa, 0),
        ("three sinks", causal.clone(), gqa, 3),
        ("all sinks", causal.clone(), gqa.with_q_len(100).unwrap().with_kv_len(100).unwrap(), 99),
        ("chunk", causal.clone(), gqa.with_q_len(87).unwrap(), 1),
        ("decode", causal.clone(), gqa.with_q_len(1).unwrap(), 2),
        ("batch", causal.clone(), gqa.with_batch(2).unwrap(), 1),
        ("soft cap, value dim", causal.with_soft_cap(3.0).unwrap(), gqa.with_value_dim(20).unwrap(), 1),
        ("f16", Attention::causal().with_storage(DType::F16).with_output(DType::F16), gqa, 1),
        ("positions", positioned, gqa, 1),
        ("one block", Attention::causal(), Shape::new(2, 1, 9, 32).unwrap(), 1),
        ("no query", Attention::causal(), gqa.with_q_len(0).unwrap(), 1),
    ];
    for (name, attention, shape, sinks) in cases {
        let problem = Problem::random(attention, shape, 5);
        let [q, k, v] = problem.upload(&context, Storage::TokensFirst).unwrap();
        for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
            let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap().with_granularity(granularity);
            let plan = problem.attention.plan(&context, &shape).unwrap().reshaped(&grid).unwrap();
            for seed in 0..3 {
                for reshaping in reshapings(&grid, sinks, seed) {
                    let got = plan.run(&q, &k, &v, std::slice::from_ref(&reshaping)).unwrap();
                    let schedule = reshaping.schedule().unwrap();
                    let exact = problem.exact(&Tables::from(&schedule));
                    let story = format!("{name}, {granularity:?}, {reshaping:?}");
                    let tolerance = Tolerances::of_output(&exact, &shape, problem.attention.output());
                    let tolerance = tolerance.times(2.0);
                    let output = got.output.read_blocking(&context).unwrap();
                    let report = compare(&output, &exact.output, tolerance).unwrap();
                    assert!(report.passed(), "output, {story}: {report}");
                    if let Some(lse) = got.lse {
                        let lse = lse.read_blocking(&context).unwrap();
                        let tolerance = Tolerances::of_lse(&exact, &shape);
                        let tolerance = tolerance.times(2.0);
                        let report = compare(&lse, &exact.lse, tolerance).unwrap();
                        assert!(report.passed(), "lse, {story}: {report}");
                    }
                }
            }
        }
    }
}

/// The blocks that the shapes stand for, worked out from the shapes, are those of the lists.
#[test]
fn shapes_and_lists_are_of_the_same_draw() {
    let grid = BlockGrid::causal(&Shape::new(2, 1, 64 * 40, 64).unwrap());
    for seed in 0..50 {
        let [segments, row_column] = reshapings(&grid, 2, seed);
        let (by_segments, by_set) = (segments.schedule().unwrap(), row_column.schedule().unwrap());
        for group in 0..2 {
            for segment in segments.segments_of(group) {
                for row in segment.clone() {
                    let want: Vec<usize> =
                        (0..=row).filter(|&block| block < 2 || segment.contains(&block)).collect();
                    assert_eq!(by_segments.blocks(group, row), want, "seed {seed}, row {row}");
                }
            }
            let set = row_column.index_set(group);
            for row in 0..40 {
                let inside = set.contains(&row);
                let want: Vec<usize> = (0..=row)
                    .filter(|block| *block < 2 || *block == row || (inside && set.contains(block)))
                    .collect();
                assert_eq!(by_set.blocks(group, row), want, "seed {seed}, row {row}");
            }
        }
    }
}

#[test]
fn refusals_say_what() {
    let shape = Shape::new(2, 1, 64 * 4, 32).unwrap();
    let grid = BlockGrid::causal(&shape);
    let harmonic = Profile::harmonic();
    let named = |result: prflash::Result<Reshaping>| result.unwrap_err().argument().map(str::to_owned);
    let seed = Seed::new(1);
    assert_eq!(
        named(Reshaping::segments(&BlockGrid::full(&shape), &harmonic, seed)).as_deref(),
        Some("grid")
    );
    let more_queries = BlockGrid::causal(&shape.with_kv_len(8).unwrap());
    assert_eq!(named(Reshaping::row_column(&more_queries, &harmonic, seed)).as_deref(), Some("grid"));
    let window = harmonic.with_window_blocks(2).unwrap();
    assert_eq!(named(Reshaping::segments(&grid, &window, seed)).as_deref(), Some("profile"));
    let budget = Profile::budget(3.0).unwrap();
    assert_eq!(named(Reshaping::row_column(&grid, &budget, seed)).as_deref(), Some("profile"));

    let Some(context) = gpu("refusals_say_what") else { return };
    let causal = Attention::causal();
    for attention in [
        Attention::full(),
        causal.clone().with_window(9).unwrap(),
        causal.clone().with_correction(0.5).unwrap(),
    ] {
        assert!(attention.plan(&context, &shape).unwrap().reshaped(&grid).unwrap_err().is_unsupported());
    }
    let other = BlockGrid::causal(&shape.with_kv_len(300).unwrap());
    assert_eq!(
        causal.plan(&context, &shape).unwrap().reshaped(&other).unwrap_err().argument(),
        Some("schedule"),
        "the grid of another shape"
    );
    let plan = causal.plan(&context, &shape).unwrap().reshaped(&grid).unwrap();
    let problem = Problem::random(causal, shape, 1);
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    assert_eq!(plan.run(&q, &k, &v, &[]).unwrap_err().argument(), Some("reshapings"));
    let small = Reshaping::segments(&grid.with_block_size(16).unwrap(), &Profile::harmonic(), seed).unwrap();
    assert_eq!(plan.run(&q, &k, &v, &[small]).unwrap_err().argument(), Some("reshapings"));
}
