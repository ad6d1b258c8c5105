//! Mutants of the kernels beside attention: copies of blocks, rotations in place, merges of rounds.

use std::ops::Range;

use super::problem::{Problem, is_close, numbers, tensor};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::tables::Tables;
use crate::attention::kernels::gather::Gather;
use crate::attention::kernels::merge::Merge;
use crate::attention::kernels::rotate::Rotate;
use crate::attention::kernels::shapes::Kernel;
use crate::attention::plan_options::PlanOptions;
use crate::attention::rotation::Rows;
use crate::attention::rounds::Combine;
use crate::layout::DType;
use crate::position::{Pairing, Rope};
use crate::random::Seed;
use crate::reference::{self, Exact};
use crate::runtime::context::Context;
use crate::runtime::testing::{device, survivors};
use crate::sampling::{BlockGrid, Granularity, Profile, Reshaping, Schedule, Systematic};
use crate::shape::Shape;
use crate::verify::{Tolerance, compare};

fn naive() -> PlanOptions {
    PlanOptions::new().with_kernel(Kernel::Naive)
}

fn assert_none(survivors: Vec<String>) {
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}

#[test]
fn every_mutant_of_copies_is_caught() {
    let Some(context) = device("mutants of gather") else { return };
    // Of all tokens, and of queries that begin inside a block.
    let problems = [150, 87].map(|q_len| {
        let shape = Shape::new(4, 2, 150, 8).unwrap().with_q_len(q_len).unwrap();
        Problem::new(Attention::causal(), shape)
    });
    let agrees = || {
        problems.iter().all(|problem| {
            let grid = BlockGrid::causal(&problem.shape).with_block_size(16).unwrap();
            let grid = grid.with_granularity(Granularity::Shared);
            let reshaping = Reshaping::row_column(&grid, &Profile::harmonic(), Seed::new(1)).unwrap();
            let schedule = reshaping.schedule().unwrap();
            let plan = problem.attention.plan_with(&context, &problem.shape, &naive()).unwrap();
            let plan = plan.reshaped(&grid).unwrap();
            let [q, k, v] = problem.upload(&context);
            let got = plan.run(q.view(), k.view(), v.view(), &[reshaping]).unwrap();
            let [output, lse] = [got.output, got.lse.unwrap()].map(|t| t.read_blocking(&context).unwrap());
            let [q, k, v] = &problem.qkv;
            let tables = Tables::from(&schedule);
            let exact = reference::attention(&problem.attention, &problem.shape, q, k, v, &tables).unwrap();
            is_close(&output, &lse, &exact, (Kernel::Naive, &problem.shape, DType::F32), 2.0)
        })
    };
    assert_none(survivors(
        &context,
        Gather,
        &[
            (
                "every row of a block is its first",
                "+ place % params.block_size - params.whole_first",
                "- params.whole_first",
            ),
            (
                "blocks are as they follow each other",
                "blocks[place / params.block_size]",
                "place / params.block_size",
            ),
            ("queries begin with their block", " - params.whole_first;", ";"),
            (
                "heads are all the first",
                "params.packed_base + head * params.packed_head_stride",
                "params.packed_base",
            ),
            (
                "back and forth change places",
                "(params.flags & FLAG_SCATTER) != 0u",
                "(params.flags & FLAG_SCATTER) == 0u",
            ),
            (
                "the last word of a row is left out",
                "if row >= params.rows {",
                "if row >= params.rows || word % params.row_words == params.row_words - 1u {",
            ),
        ],
        agrees,
    ));
}

/// Whether rows are rotated to these positions, and back.
fn turns(context: &Context, rope: &Rope, rows: &[(Range<usize>, i64)]) -> bool {
    let (heads, count, dim) = (6, 40, rope.head_dim());
    let before = numbers(4, heads * count * dim, 2.0, DType::F32);
    let plan = rope.plan_rotation(context, DType::F32, 10_000).unwrap();
    let rotated_quad = tensor(context, DType::F32, [1, heads, count, dim], &before);
    let bound = plan.bind(rotated_quad.view()).unwrap();
    let runs: Vec<Rows<'_>> =
        rows.iter().map(|(rows, first)| Rows::new(0, rows.clone()).at_position(*first)).collect();
    let mut want = before.clone();
    for (rows, first) in rows {
        for head in 0..heads {
            for row in rows.clone() {
                let at = (head * count + row) * dim;
                let position = first + (row - rows.start) as i64;
                rope.rotate_at(&mut want[at..at + dim], &[position]).unwrap();
            }
        }
    }
    let is = |want: &[f32]| {
        let want: Vec<f64> = want.iter().map(|&x| x.into()).collect();
        let got = rotated_quad.read_blocking(context).unwrap();
        // Some units of the last place of numbers up to the length of a pair.
        compare(&got, &want, Tolerance::absolute(3e-6)).unwrap().passed()
    };
    let mut encoder = context.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, &bound, &runs).unwrap();
    context.submit([encoder.finish()]).unwrap();
    if !is(&want) {
        return false;
    }
    let mut encoder = context.device().create_command_encoder(&Default::default());
    plan.encode_inverse(&mut encoder, &bound, &runs).unwrap();
    context.submit([encoder.finish()]).unwrap();
    is(&before)
}

#[test]
fn every_mutant_of_rotations_is_caught() {
    let Some(context) = device("mutants of rotate") else { return };
    let rows = [(0..7, 3), (9..30, -11), (35..40, 4094)];
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        let rope = Rope::new(24, 1e4, pairing).unwrap().with_rotary_dim(16).unwrap();
        let of = Rotate { storage: DType::F32, pairing, rotary_dim: 16 };
        let mut changes = vec![
            (
                "negative positions turn as positive ones",
                "vec4<f32>(1.0, -1.0, 1.0, -1.0), position < 0",
                "vec4<f32>(1.0, -1.0, 1.0, -1.0), false",
            ),
            (
                "the higher level is left out",
                "if magnitude >= ROPE_STRIDE",
                "if magnitude >= 2u * ROPE_STRIDE",
            ),
            (
                "rows of a run have its first position",
                "run.position + run.step * i32(within)",
                "run.position",
            ),
            ("a run ends one row early", "begins_at(middle) <= place", "begins_at(middle) <= place + 1u"),
            ("heads past the fourth are left out", "item / params.tiles * HEADS_EACH", "0u * HEADS_EACH"),
            ("it turns the other way", "vec4<f32>(-z.y, z.y, -z.w, z.w)", "vec4<f32>(z.y, -z.y, z.w, -z.w)"),
        ];
        if pairing == Pairing::Half {
            changes.push((
                "the second pairs turn as the first",
                "rotation(position, 2u * c + 1u)",
                "rotation(position, 2u * c)",
            ));
        }
        assert_none(survivors(&context, of, &changes, || turns(&context, &rope, &rows)));
    }
}

/// Below, among and above the log-sum-exps.
const SINKS: [f32; 4] = [-3.0, 0.5, 3.0, 6.0];

/// SE² = R/(R−1) · Σ |w·O − Ô·(w + e^z)|² / (Σ w + R·e^z)², row by row; the merged are beside the
/// sinks.
fn standard_errors_beside_sinks(states: &[Exact], merged: &Exact, shape: &Shape) -> Vec<f64> {
    let (rounds, dim) = (states.len() as f64, shape.value_dim());
    let of_row = |row: usize| {
        let sink = SINKS[row / shape.q_len() % shape.heads()];
        let weight = |log: f64| (log - merged.lse[row]).exp();
        let beside = weight(sink.into());
        let squares = states.iter().map(|state| {
            let own = weight(state.lse[row]);
            let apart = |c: usize| own * state.output[c] - merged.output[c] * (own + beside);
            (row * dim..(row + 1) * dim).map(|c| apart(c).powi(2)).sum::<f64>()
        });
        // The mean of the sums is what the merged log-sum-exp is of.
        (rounds / (rounds - 1.0) * squares.sum::<f64>()).sqrt() / rounds
    };
    (0..merged.lse.len()).map(of_row).collect()
}

/// SE² = R/(R−1) · Σ w²·|O − Ô|² / (Σ w)², row by row.
fn standard_errors(states: &[Exact], merged: &Exact, dim: usize) -> Vec<f64> {
    let rounds = states.len() as f64;
    let of_row = |row: usize| {
        let weights: Vec<f64> = states.iter().map(|state| (state.lse[row] - merged.lse[row]).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let spread = states.iter().zip(&weights).map(|(state, weight)| {
            let apart = |c: usize| (state.output[row * dim + c] - merged.output[row * dim + c]).powi(2);
            weight * weight * (0..dim).map(apart).sum::<f64>()
        });
        (rounds / (rounds - 1.0) * spread.sum::<f64>()).sqrt() / sum
    };
    (0..merged.lse.len()).map(of_row).collect()
}

#[test]
fn every_mutant_of_merges_is_caught() {
    let Some(context) = device("mutants of merge") else { return };
    let shape = Shape::new(4, 2, 70, 8).unwrap().with_kv_len(60).unwrap().with_batch(2).unwrap();
    let attention = Attention::causal().with_correction(1.0).unwrap();
    let problem = Problem::new(attention, shape);
    let sunk = problem.attention.clone().with_sinks(&SINKS).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let profile = Profile::harmonic().with_sink_blocks(0);
    let schedules: Vec<Schedule> = (0..3)
        .map(|round| Schedule::sample(&grid, &profile, &Systematic, Seed::new(2).round(round)).unwrap())
        .collect();
    let [q, k, v] = &problem.qkv;
    let states: Vec<Exact> = schedules
        .iter()
        .map(|schedule| {
            reference::attention(&problem.attention, &shape, q, k, v, &Tables::from(schedule)).unwrap()
        })
        .collect();
    let merged = reference::merge(&states, true).unwrap();
    let errors = standard_errors(&states, &merged, shape.value_dim());
    let merged_sunk = merged.clone().with_sinks(&SINKS, &shape).unwrap();
    let errors_sunk = standard_errors_beside_sinks(&states, &merged_sunk, &shape);
    let agrees_with = |attention: &Attention, merged: &Exact, errors: &[f64]| {
        let plan = attention.plan_with(&context, &shape, &naive()).unwrap();
        let plan = plan.rounds(Combine::Independent).unwrap();
        let [q, k, v] = problem.upload(&context);
        let mut rounds = plan.start(q.view(), k.view(), v.view()).unwrap();
        for schedule in &schedules {
            rounds.step(&Tables::from(schedule)).unwrap();
        }
        let read = |tensor: &crate::runtime::tensor::Tensor| tensor.read_blocking(&context).unwrap();
        let estimate = rounds.estimate();
        let output = read(&estimate.output);
        let lse = read(estimate.lse.as_ref().unwrap());
        let got = read(estimate.standard_error.as_ref().unwrap());
        // Rows that see nothing have none.
        let pairs = got.iter().zip(errors).filter(|(_, want)| want.is_finite());
        let (got, want): (Vec<f32>, Vec<f64>) = pairs.unzip();
        is_close(&output, &lse, merged, (Kernel::Naive, &shape, DType::F32), 4.0)
            && compare(&got, &want, Tolerance { absolute: 2e-6, relative: 1e-4 }).unwrap().passed()
    };
    let agrees = || {
        agrees_with(&problem.attention, &merged, &errors) && agrees_with(&sunk, &merged_sunk, &errors_sunk)
    };
    let of = Merge { output: DType::F32, spread: true };
    assert_none(survivors(
        &context,
        of,
        &[
            (
                "weights are of the first round",
                "let highest = max(sums.x, new_log);",
                "let highest = sums.x;",
            ),
            ("the mean is of the last round", "* old_share + added * new_share", "* 0.0 + added"),
            (
                "shares don't add up to 1",
                "select(old_weight / weight, 0.0, empty)",
                "select(old_weight, 0.0, empty)",
            ),
            ("rounds add up", "own_lse -= params.log_rounds;", ""),
            (
                "empty rows are those with an empty round",
                "is_none(sums.x) && is_none(new_log)",
                "is_none(sums.x) || is_none(new_log)",
            ),
            ("squares are weights", "let new_square = new_share * new_share;", "let new_square = new_share;"),
            (
                "the centre doesn't move",
                "let moved_centre = centre + new_part * step;",
                "let moved_centre = centre;",
            ),
            ("the spread forgets", "old_part * (sums.z + new_part * moved)", "old_part * new_part * moved"),
            ("errors aren't for R − 1", "params.rounds / (params.rounds - 1.0)", "1.0"),
            ("the distance of centre and mean is left out", "square * (spread + apart)", "square * spread"),
            (
                "heads have the first's sink",
                "beside_sink(own_lse, sinks[head])",
                "beside_sink(own_lse, sinks[0])",
            ),
            ("outputs don't see the sink", "store_quad(mean * kept)", "store_quad(mean)"),
            (
                "empty rows don't see the sink",
                "if has_sink {\n        let beside",
                "if has_sink && !empty {\n        let beside",
            ),
            (
                "the next round sees the sink",
                "state[mean_at + c] = mean;",
                "state[mean_at + c] = mean * kept;",
            ),
            ("a sink above is taken for one below", "select(most, less * most, above > 0.0)", "most"),
            ("errors are those without a sink", "bitcast<u32>(kept * sqrt(", "bitcast<u32>(sqrt("),
            ("sums don't vary", "lost * lost * size * varied", "0.0"),
            ("numerator and denominator vary apart", "2.0 * lost * square * along", "0.0"),
        ],
        agrees,
    ));
}
