//! Rows without a result through every merge of states, and over caches.

use super::large::scores_of;
use super::{judge, masked_by_scores};
use crate::common::{Problem, Storage, by, gpu, numbers};
use prflash::cache::{Chunk, KvCache, SequenceId, Staircase, StoredKeys};
use prflash::kernels::{Decode, Kernel, Tile};
use prflash::reference::{Exact, Magnitudes};
use prflash::rounds::Combine;
use prflash::sampling::{Granularity, Reshaping, partition_rounds};
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{
    Attention, BlockGrid, Call, DType, Layout, Profile, Queries, Schedule, Seed, Shape, Systematic, Tables,
    Tensor, reference,
};

/// The merge of states that are NaN, empty and finite, on the host and in the running merge of
/// rounds.
#[test]
fn rounds_keep_nan_and_empty_rows() {
    let Some(context) = gpu("rounds_keep_nan_and_empty_rows") else { return };
    let shape = Shape::new(2, 1, 150, 16).unwrap().with_kv_len(140).unwrap();
    let attention = Attention::causal().with_lse(true);
    let mut problem = Problem::random(attention.clone(), shape, 5);
    masked_by_scores(&mut problem, |key| key < 20);
    problem.k[37 * 16 + 3] = f32::NAN;
    problem.q[149 * 16 + 3] = f32::NAN;
    problem.v[95 * 16 + 4] = f32::INFINITY;
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let profile = Profile::harmonic().with_sink_blocks(0);
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    for combine in [Combine::Independent, Combine::Partition] {
        let schedules = match combine {
            Combine::Independent => (0..4)
                .map(|round| {
                    Schedule::sample(&grid, &profile, &Systematic, Seed::new(6).round(round)).unwrap()
                })
                .collect(),
            Combine::Partition => partition_rounds(&grid, &profile, Seed::new(6), 4).unwrap(),
        };
        let plan = attention.plan(&context, &shape).unwrap().rounds(combine).unwrap();
        let mut rounds = plan.start(&q, &k, &v).unwrap();
        let mut states = Vec::new();
        let mut nans = Vec::new();
        for (count, schedule) in schedules.iter().enumerate() {
            states.push(problem.exact(&Tables::from(schedule)));
            let estimate = rounds.step(&Tables::from(schedule)).unwrap();
            let output = estimate.output.read_blocking(&context).unwrap();
            let lse = estimate.lse.as_ref().unwrap().read_blocking(&context).unwrap();
            let want = reference::merge(&states, combine == Combine::Independent).unwrap();
            let tolerances = [
                Tolerances::of_output(&want, &shape, DType::F32).times(4.0),
                Tolerances::of_lse(&want, &shape).times(4.0),
            ];
            let story = format!("{combine:?}, {} rounds", count + 1);
            let kinds = judge(&output, &lse, &want, tolerances, &story);
            assert!(kinds.empty >= 2 * 30 && kinds.finite > 0, "{story}: {kinds:?}");
            nans.push(kinds.nan);
            let Some(errors) = &estimate.standard_error else { continue };
            for (row, error) in errors.read_blocking(&context).unwrap().into_iter().enumerate() {
                let spoiled = want.output[row * 16..][..16].iter().any(|x| !x.is_finite());
                let empty = want.lse[row] == f64::NEG_INFINITY;
                let story = format!("standard error of row {row}, {story}: {error}");
                match count {
                    0 => assert_eq!(error, f32::INFINITY, "{story}"),
                    _ if spoiled => assert!(error.is_nan(), "{story}"),
                    _ if empty => assert_eq!(error, 0.0, "{story}"),
                    _ => assert!(error.is_finite(), "{story}"),
                }
            }
        }
        assert!(nans[0] > 0 && nans.is_sorted() && nans[3] > nans[0], "{combine:?}: {nans:?}");
        if combine == Combine::Partition {
            // Exactly dense attention: the same rows are NaN, empty and finite.
            let (merged, dense) = (reference::merge(&states, false).unwrap(), problem.exact(&Tables::new()));
            let kind = |lse: &f64| (lse.is_nan(), *lse == f64::NEG_INFINITY);
            assert!(merged.lse.iter().map(kind).eq(dense.lse.iter().map(kind)));
        }
    }
}

/// Round 0 starts afresh, whatever the running state was.
#[test]
fn a_first_round_forgets_nan() {
    let Some(context) = gpu("a_first_round_forgets_nan") else { return };
    let shape = Shape::new(2, 1, 100, 16).unwrap();
    let problem = Problem::random(Attention::causal(), shape, 5);
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let poison = vec![f32::NAN; problem.k.len()];
    let layout = Layout::heads_first(1, 1, 100, 16).unwrap();
    let bad = Tensor::upload(&context, DType::F32, layout, &poison).unwrap();
    let good = Tensor::upload(&context, DType::F32, layout, &problem.k).unwrap();
    let output = crate::common::zeros(&context, DType::F32, crate::common::output_layout(&shape));
    let errors = crate::common::zeros(&context, DType::F32, Layout::rows(1, 2, 100).unwrap());
    let plan = problem.attention.plan(&context, &shape).unwrap().rounds(Combine::Independent).unwrap();
    let qkv = [q, k, v];
    let bound = plan.bind(&crate::common::operands(&qkv, &output), Some(errors.view())).unwrap();
    for (keys, story) in [(&bad, "poisoned"), (&good, "clean")] {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let (from, to) = (keys.view().buffer(), qkv[1].buffer());
        encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        for round in 0..2 {
            plan.encode_round(&mut encoder, &bound, &Call::lengths(100, 100), round).unwrap();
        }
        context.queue().submit([encoder.finish()]);
        let got = output.read_blocking(&context).unwrap();
        let errors = errors.read_blocking(&context).unwrap();
        if story == "poisoned" {
            assert!(got.iter().chain(&errors).all(|x| x.is_nan()), "{story}");
        } else {
            let exact = problem.exact(&Tables::new());
            let tolerance = Tolerances::of_output(&exact, &shape, DType::F32);
            let report = compare(&got, &exact.output, tolerance).unwrap();
            assert!(report.passed(), "{report}");
            assert!(errors.iter().all(|error| error.abs() < 1e-5), "equal rounds have no spread: {errors:?}");
        }
    }
}

/// Scores so large that twice their logarithm is past f32: estimates and errors of rounds are still
/// numbers.
#[test]
fn rounds_of_large_scores_have_errors() {
    let Some(context) = gpu("rounds_of_large_scores_have_errors") else { return };
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for sign in [-1.0, 1.0] {
        let attention = Attention::causal().with_scale(1.0).unwrap().with_lse(true);
        let mut problem = Problem::random(attention.clone(), shape, 5);
        scores_of(&mut problem, |_| sign * 3e38);
        let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
        let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
        let plan = attention.plan(&context, &shape).unwrap().rounds(Combine::Independent).unwrap();
        let mut rounds = plan.start(&q, &k, &v).unwrap();
        let mut states = Vec::new();
        for round in 0..3 {
            let seed = Seed::new(6).round(round);
            let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, seed).unwrap();
            states.push(problem.exact(&Tables::from(&schedule)));
            rounds.step(&Tables::from(&schedule)).unwrap();
        }
        let estimate = rounds.estimate();
        let output = estimate.output.read_blocking(&context).unwrap();
        let lse = estimate.lse.as_ref().unwrap().read_blocking(&context).unwrap();
        let want = reference::merge(&states, true).unwrap();
        // The logarithm of a sum of rounds is below a unit of such numbers, so what later ones
        // weigh is anybody's guess.
        let tolerances = [Tolerance::absolute(2.0), Tolerance { absolute: 0.0, relative: 1e-6 }];
        judge(&output, &lse, &want, tolerances, &format!("scores of {sign}·3e38"));
        let errors = estimate.standard_error.as_ref().unwrap().read_blocking(&context).unwrap();
        assert!(errors.iter().all(|error| error.is_finite()), "{errors:?}");
        assert!(errors.iter().any(|&error| error > 1e-3), "{errors:?}");
    }
}

/// Triangles, strips and gathered rows, merged: rows are of the kinds that block lists give.
#[test]
fn re_shaped_tensors_keep_nan_and_empty_rows() {
    let Some(context) = gpu("re_shaped_tensors_keep_nan_and_empty_rows") else { return };
    let shape = Shape::new(4, 2, 200, 16).unwrap();
    let attention = Attention::causal().with_lse(true);
    // Of the strip's blocks the first scores −∞; of the rest one NaN; or the strip has the NaN.
    for (story, nan) in [("NaN in a triangle", 120), ("NaN in the strip", 20)] {
        let mut problem = Problem::random(attention.clone(), shape, 5);
        masked_by_scores(&mut problem, |key| key < 16 || (48..90).contains(&key));
        problem.k[nan * 16 + 5] = f32::NAN;
        problem.k[(200 + nan) * 16 + 5] = f32::NAN;
        let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
        for granularity in [Granularity::Head, Granularity::Shared] {
            let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap().with_granularity(granularity);
            let plan = attention.plan(&context, &shape).unwrap().reshaped(&grid).unwrap();
            for sinks in [1, 2] {
                let profile = Profile::harmonic().with_sink_blocks(sinks);
                for reshaping in [
                    Reshaping::segments(&grid, &profile, Seed::new(3)).unwrap(),
                    Reshaping::row_column(&grid, &profile, Seed::new(3)).unwrap(),
                ] {
                    let got = plan.run(&q, &k, &v, std::slice::from_ref(&reshaping)).unwrap();
                    let schedule = reshaping.schedule().unwrap();
                    let exact = problem.exact(&Tables::from(&schedule));
                    let tolerances = [
                        Tolerances::of_output(&exact, &shape, DType::F32).times(2.0),
                        Tolerances::of_lse(&exact, &shape).times(2.0),
                    ];
                    let output = got.output.read_blocking(&context).unwrap();
                    let lse = got.lse.unwrap().read_blocking(&context).unwrap();
                    let kinds = judge(&output, &lse, &exact, tolerances, &format!("{story}, {reshaping:?}"));
                    assert!(kinds.nan > 0 && kinds.empty > 0 && kinds.finite > 0, "{story}: {kinds:?}");
                }
            }
        }
    }
}

/// Over a cache, which holds finite numbers: queries that are NaN, and scores near the end of f32.
#[test]
fn caches_keep_nan_rows_and_large_scores() {
    let Some(context) = gpu("caches_keep_nan_rows_and_large_scores") else { return };
    let shape = Shape::new(2, 1, 0, 32).unwrap();
    let len = 250;
    // Segments of 32 tokens, so that few tokens climb down many rungs.
    let staircases = [Staircase::recommended(), Staircase::plain()].map(|s| s.with_segment(32).unwrap());
    for (staircase, keys) in staircases
        .into_iter()
        .flat_map(|s| [(s.clone(), StoredKeys::AfterRotation), (s, StoredKeys::BeforeRotation)])
    {
        let mut cache = KvCache::new(&context, staircase, &shape.with_kv_len(len).unwrap(), keys).unwrap();
        let layout = || Layout::heads_first(1, 1, len, 32).unwrap();
        let mut k = numbers(1, len * 32);
        // The first channel is what large queries look at: all negative, one least and one largest,
        // of those that the residual holds in f16.
        k.chunks_mut(32).enumerate().for_each(|(j, key)| key[0] = -0.6 - 0.0625 * (j % 4) as f32);
        (k[240 * 32], k[241 * 32]) = (-0.5, -0.97);
        let [k, v] = [k, numbers(2, len * 32)]
            .map(|values| Tensor::upload(&context, DType::F32, layout(), &values).unwrap());
        let input = cache.input(k.view(), v.view()).unwrap();
        let id = cache.add();
        for start in (0..len).step_by(50) {
            let mut encoder = context.device().create_command_encoder(&Default::default());
            cache
                .append(&mut encoder, &input, &[Chunk { sequence: id, entry: 0, rows: start..start + 50 }])
                .unwrap();
            context.queue().submit([encoder.finish()]);
        }
        let host = cache.to_host_blocking(id).unwrap();
        let quads = context.capabilities().subgroup_sizes.is_some();
        let mut kernels = vec![
            None,
            Some(Kernel::Tiled(Tile::new(1, 4, true).unwrap())),
            Some(Kernel::Tiled(Tile::new(4, 4, true).unwrap())),
            Some(Kernel::Decode(Decode::new(2, false).unwrap())),
        ];
        kernels.extend(quads.then_some(Some(Kernel::Decode(Decode::new(1, true).unwrap()))));
        for kernel in kernels {
            for (name, size) in [("NaN", 1.0), ("large", 3.4e38), ("negative", -3.4e38)] {
                let q_len = 4;
                let mut attention = Attention::causal().with_lse(true);
                let options = by(kernel).with_splits(3).unwrap();
                if size != 1.0 {
                    attention = attention.with_scale(1.0).unwrap();
                }
                let mut q = numbers(3, 2 * q_len * 32);
                if size == 1.0 {
                    q[32 + 9] = f32::NAN;
                    q[7 * 32] = f32::NAN;
                } else {
                    q.chunks_mut(32).for_each(|query| {
                        query.fill(0.0);
                        query[0] = size;
                    });
                }
                let sizes = shape.with_q_len(q_len).unwrap();
                let plan = attention.plan_cached_with(&cache, &sizes, &options).unwrap();
                let layout = Layout::heads_first(1, 2, q_len, 32).unwrap();
                let tensor = Tensor::upload(&context, DType::F32, layout, &q).unwrap();
                let got = plan
                    .run_cached(
                        &cache,
                        tensor.view(),
                        &[Queries { sequence: id, entry: 0, rows: 0..q_len, positions: None }],
                        &Tables::new(),
                    )
                    .unwrap();
                let of = sizes.with_kv_len(len).unwrap();
                let exact = reference::attention_cached(
                    &attention,
                    &of,
                    &q,
                    &host,
                    SequenceId::FIRST,
                    &Tables::new(),
                )
                .unwrap();
                let mut tolerances =
                    [Tolerances::of_output(&exact, &of, DType::F32), Tolerances::of_lse(&exact, &of)];
                if size != 1.0 {
                    // One key has all the weight.
                    tolerances = [Tolerance::absolute(1e-6), Tolerance { absolute: 0.0, relative: 1e-6 }]
                        .map(Tolerances::from);
                }
                let output = got.output.read_blocking(&context).unwrap();
                let lse = got.lse.unwrap().read_blocking(&context).unwrap();
                let story = format!("{name}, {}, {keys:?}", plan.kernel());
                let kinds = judge(&output, &lse, &exact, tolerances, &story);
                assert_eq!(kinds.nan, if size == 1.0 { 2 } else { 0 }, "{story}: {kinds:?}");
                assert!(kinds.finite >= 6, "{story}: {kinds:?}");
            }
        }
    }
}

/// The host's merge: NaN stays, empty adds nothing, and order doesn't matter.
#[test]
fn the_oracle_merges_states_of_every_kind() {
    let state = |lse: f64, output: f64| Exact {
        output: vec![output],
        lse: vec![lse],
        rows: vec![Magnitudes::default()],
    };
    let (empty, nan, one) = (state(f64::NEG_INFINITY, 0.0), state(f64::NAN, f64::NAN), state(1.0, 3.0));
    let merged = |states: &[&Exact]| {
        let states: Vec<Exact> = states.iter().map(|&state| state.clone()).collect();
        let merged = reference::merge(&states, false).unwrap();
        (merged.lse[0], merged.output[0])
    };
    assert_eq!(merged(&[&empty, &empty]), (f64::NEG_INFINITY, 0.0));
    assert_eq!(merged(&[&empty, &one]), (1.0, 3.0));
    assert_eq!(merged(&[&one, &empty]), (1.0, 3.0));
    for states in [[&nan, &empty], [&empty, &nan], [&nan, &one], [&one, &nan], [&nan, &nan]] {
        let (lse, output) = merged(&states);
        assert!(lse.is_nan() && output.is_nan());
    }
}
