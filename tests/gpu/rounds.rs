//! Attention in rounds: the running merge on the GPU against the oracle's, partition rounds against
//! dense attention, standard errors against the spread they claim.

use crate::common::{Problem, Storage, gpu, zeros};
use prflash::attention::Sequence;
use prflash::rounds::{Combine, RoundsPlan, Stop};
use prflash::sampling::content::{Estimate, Participation, Probe};
use prflash::sampling::{Entry, partition_rounds};
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Schedule, Seed, Shape, Systematic,
    Tables, reference,
};

fn schedules(problem: &Problem, rounds: u32, seed: u64) -> Vec<Schedule> {
    let grid = grid(problem);
    let profile = Profile::harmonic().with_sink_blocks(0);
    (0..rounds)
        .map(|round| Schedule::sample(&grid, &profile, &Systematic, Seed::new(seed).round(round)).unwrap())
        .collect()
}

fn grid(problem: &Problem) -> BlockGrid {
    let grid = if problem.attention.is_causal() {
        BlockGrid::causal(&problem.shape)
    } else {
        BlockGrid::full(&problem.shape)
    };
    grid.with_block_size(16).unwrap()
}

fn problem(attention: Attention, shape: Shape) -> Problem {
    Problem::random(attention, shape, 11)
}

/// The exact states of each round, and their merge.
fn exact(problem: &Problem, schedules: &[Schedule], mean: bool) -> reference::Exact {
    let states: Vec<_> = schedules.iter().map(|schedule| problem.exact(&Tables::from(schedule))).collect();
    reference::merge(&states, mean).unwrap()
}

fn assert_close(problem: &Problem, got: (&[f32], &[f32]), want: &reference::Exact, story: &str) {
    let tolerance = Tolerances::of_output(want, &problem.shape, problem.attention.output());
    // The merge adds a few roundings per round to those of the attention.
    let report = compare(got.0, &want.output, tolerance.times(4.0)).unwrap();
    assert!(report.passed(), "output, {story}: {report}");
    let lse = Tolerances::of_lse(want, &problem.shape);
    let report = compare(got.1, &want.lse, lse.times(4.0)).unwrap();
    assert!(report.passed(), "lse, {story}: {report}");
}

fn plan(context: &Context, problem: &Problem, combine: Combine) -> RoundsPlan {
    problem.attention.plan(context, &problem.shape).unwrap().rounds(combine).unwrap()
}

#[test]
fn every_estimate_is_the_merge_of_the_rounds_so_far() {
    let Some(context) = gpu("every_estimate_is_the_merge_of_the_rounds_so_far") else { return };
    let gqa = Shape::new(4, 2, 150, 32).unwrap();
    let shapes = [
        ("prefill", Attention::causal(), gqa),
        ("batch", Attention::causal(), gqa.with_batch(2).unwrap()),
        ("chunk", Attention::causal(), gqa.with_q_len(37).unwrap()),
        ("rows that see nothing", Attention::causal(), gqa.with_kv_len(90).unwrap()),
        ("full", Attention::full(), gqa),
        ("value dim", Attention::causal(), gqa.with_value_dim(20).unwrap()),
        ("f16", Attention::causal().with_storage(DType::F16).with_output(DType::F16), gqa),
    ];
    for (name, attention, shape) in shapes {
        let problem = problem(attention.with_lse(true).with_correction(1.0).unwrap(), shape);
        let all = schedules(&problem, 5, 3);
        let [q, k, v] = problem.upload(&context, Storage::TokensFirst).unwrap();
        let plan = plan(&context, &problem, Combine::Independent);
        let mut rounds = plan.start(&q, &k, &v).unwrap();
        for count in 1..=all.len() {
            let estimate = rounds.step(&Tables::from(&all[count - 1])).unwrap();
            assert_eq!(estimate.rounds, count);
            let output = estimate.output.read_blocking(&context).unwrap();
            let lse = estimate.lse.as_ref().unwrap().read_blocking(&context).unwrap();
            let want = exact(&problem, &all[..count], true);
            assert_close(&problem, (&output, &lse), &want, &format!("{name}, {count} rounds"));
        }
    }
}

#[test]
fn partition_rounds_end_dense() {
    let Some(context) = gpu("partition_rounds_end_dense") else { return };
    let shape = Shape::new(4, 2, 200, 64).unwrap();
    let problem = problem(Attention::causal().with_lse(true), shape);
    let all = partition_rounds(&grid(&problem), &Profile::harmonic(), Seed::new(8), 4).unwrap();
    let [q, k, v] = problem.upload(&context, Storage::Fused).unwrap();
    let plan = plan(&context, &problem, Combine::Partition);
    let mut rounds = plan.start(&q, &k, &v).unwrap();
    for schedule in &all {
        rounds.step(&Tables::from(schedule)).unwrap();
    }
    let estimate = rounds.estimate();
    assert!(estimate.standard_error.is_none());
    let output = estimate.output.read_blocking(&context).unwrap();
    let lse = estimate.lse.as_ref().unwrap().read_blocking(&context).unwrap();
    assert_close(&problem, (&output, &lse), &problem.exact(&Tables::new()), "partition against dense");
}

/// The claimed standard error of a row against the spread of its estimate over independent
/// repetitions, on average over all rows.
#[test]
fn standard_errors_are_of_the_size_of_the_errors() {
    let Some(context) = gpu("standard_errors_are_of_the_size_of_the_errors") else { return };
    const ROUNDS: u32 = 24;
    const REPETITIONS: u32 = 24;
    let shape = Shape::new(2, 1, 256, 16).unwrap();
    let problem = problem(Attention::causal().with_correction(1.0).unwrap(), shape);
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let plan = plan(&context, &problem, Combine::Independent);
    let dense = problem.exact(&Tables::new()).output;
    let grid = grid(&problem);
    let profile = Profile::harmonic().with_sink_blocks(0);
    let (mut claimed, mut squared) = (0.0, 0.0);
    for repetition in 0..REPETITIONS {
        let mut rounds = plan.start(&q, &k, &v).unwrap();
        for round in 0..ROUNDS {
            let seed = Seed::new(1000 + u64::from(repetition)).round(round);
            let schedule = Schedule::sample(&grid, &profile, &Systematic, seed).unwrap();
            let estimate = rounds.step(&Tables::from(&schedule)).unwrap();
            if repetition == 0 && round == 0 {
                let first = estimate.standard_error.as_ref().unwrap().read_blocking(&context).unwrap();
                assert!(first.iter().all(|&error| error == f32::INFINITY), "one round has no spread");
            }
        }
        let estimate = rounds.estimate();
        let errors = estimate.standard_error.as_ref().unwrap().read_blocking(&context).unwrap();
        let output = estimate.output.read_blocking(&context).unwrap();
        for (row, error) in errors.iter().enumerate() {
            let at = row * 16..(row + 1) * 16;
            let off: f64 =
                output[at.clone()].iter().zip(&dense[at]).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
            assert!(error.is_finite());
            claimed += f64::from(error * error);
            squared += off;
        }
    }
    // Mean squares over 512 rows × 24 repetitions. The delta method is of first order in 1/R; the
    // estimate's bias is of second.
    let ratio = claimed / squared;
    assert!((0.75..1.25).contains(&ratio), "claimed variance over mean squared error: {ratio}");
}

/// Uncorrected rounds (β = 0) converge to dense attention whose scores have + ln p(d), at the rate
/// R^−½, and to nothing else.
#[test]
fn uncorrected_rounds_converge_to_a_logarithmic_bias() {
    let Some(context) = gpu("uncorrected_rounds_converge_to_a_logarithmic_bias") else { return };
    let shape = Shape::new(4, 1, 512, 16).unwrap();
    let problem = problem(Attention::causal(), shape);
    let profile = Profile::harmonic();
    let grid = grid(&problem);
    // Weights enter scores as −β·ln w: w = least p / p(d) gives + ln p(d) and a constant, which no
    // softmax sees.
    let least = profile.probability(grid.key_blocks());
    let weight = |block: usize, row: usize| {
        let p = if block < 1 { 1.0 } else { profile.probability(row - block) };
        (least / p).ln() as f32
    };
    let row = |row| (0..=row).map(|block| Entry { block, ln_p: weight(block, row) }).collect::<Vec<_>>();
    let lists: Vec<_> = (0..4).flat_map(|_| (0..grid.query_blocks()).map(row)).collect();
    let biased = Schedule::from_entries(&grid, &lists).unwrap();
    let oracle = |beta, tables: &Tables<'_>| {
        let attention = Attention::causal().with_correction(beta).unwrap();
        reference::attention(&attention, &shape, &problem.q, &problem.k, &problem.v, tables).unwrap().output
    };
    let (target, dense) = (oracle(1.0, &Tables::from(&biased)), oracle(0.0, &Tables::new()));
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let plan = plan(&context, &problem, Combine::Independent);
    let mut rounds = plan.start(&q, &k, &v).unwrap();
    let mut distances = Vec::new();
    for round in 0..256 {
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(77).round(round)).unwrap();
        let estimate = rounds.step(&Tables::from(&schedule)).unwrap();
        if [15, 63, 255].contains(&round) {
            let got = estimate.output.read_blocking(&context).unwrap();
            let to = |want: &[f64]| compare(&got, want, Tolerance::absolute(0.0)).unwrap().relative_error;
            distances.push((to(&target), to(&dense)));
        }
    }
    for pair in distances.windows(2) {
        // Four times the rounds: half the distance, give or take what a mean over 2,048 rows varies
        // by.
        let ratio = pair[1].0 / pair[0].0;
        assert!((0.4..0.6).contains(&ratio), "{distances:?}");
    }
    let (to_target, to_dense) = distances[2];
    assert!(to_target < 0.25 * to_dense, "{distances:?}");
}

/// Rows without any key stay empty through a merge, and rows of other sequences keep what they had.
#[test]
fn packed_sequences_merge_for_themselves() {
    let Some(context) = gpu("packed_sequences_merge_for_themselves") else { return };
    let shape = Shape::new(2, 2, 96, 32).unwrap();
    let problem = problem(Attention::causal(), shape);
    let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let maxima = shape.with_batch(2).unwrap();
    let plan = Attention::causal().plan(&context, &maxima).unwrap().rounds(Combine::Independent).unwrap();
    let output = zeros(&context, DType::F32, Layout::heads_first(1, 2, 96, 32).unwrap());
    let bound = plan.bind(&crate::common::operands(&qkv, &output), None).unwrap();
    // Rows 0..40 and 56..96; the rows between are of no sequence.
    let sequences = [
        Sequence { entry: 0, queries: 0..40, keys: 0..40, positions: None },
        Sequence { entry: 0, queries: 56..96, keys: 60..90, positions: None },
    ];
    let mut encoder = context.device().create_command_encoder(&Default::default());
    for round in 0..2 {
        plan.encode_round(&mut encoder, &bound, &Call::sequences(&sequences), round).unwrap();
    }
    context.queue().submit([encoder.finish()]);
    let got = output.read_blocking(&context).unwrap();
    let single = Attention::causal().plan(&context, &maxima).unwrap();
    let want = zeros(&context, DType::F32, Layout::heads_first(1, 2, 96, 32).unwrap());
    let bound = single.bind(&crate::common::operands(&qkv, &want)).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    single.encode(&mut encoder, &bound, &Call::sequences(&sequences)).unwrap();
    context.queue().submit([encoder.finish()]);
    let want: Vec<f64> = want.read_blocking(&context).unwrap().into_iter().map(f64::from).collect();
    // Two equal rounds have the mean of one.
    let report = compare(&got, &want, Tolerance::absolute(1e-6)).unwrap();
    assert!(report.passed(), "{report}");
    let empty = &got[56 * 32..66 * 32];
    assert!(empty.iter().all(|&x| x == 0.0), "rows before the first key are empty");
}

/// Rounds in the order of scores end where what is left out is within a share, and no row leaves
/// out more than that; with a share of 0 they end dense.
#[test]
fn rounds_end_where_little_is_missing() {
    let Some(context) = gpu("rounds_end_where_little_is_missing") else { return };
    let attention = Attention::causal().with_lse(true);
    let problem = problem(attention.clone(), Shape::new(4, 2, 64, 32).unwrap().with_kv_len(512).unwrap());
    let grid = grid(&problem);
    let keys = attention.summarize(&problem.shape, &problem.k, 1, None).unwrap();
    let (estimate, probe) = (Estimate::Saturated, Probe::looking_ahead(4).unwrap());
    let scores = attention.block_scores(&grid, &problem.q, &keys, estimate, probe, &Tables::new()).unwrap();
    let rule = Participation::content(4).unwrap();
    let all = Schedule::select_rounds(&grid, &rule, &scores, 8).unwrap();
    let plan = plan(&context, &problem, Combine::Partition);
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let mut rounds_taken = Vec::new();
    for share in [0.9, 0.6, 0.0] {
        let mut rounds = plan.start(&q, &k, &v).unwrap();
        let stop = Stop { q: &problem.q, keys: &keys, share };
        let missing = rounds.step_until_blocking(&all, &stop).unwrap();
        let taken = rounds.estimate().rounds;
        assert!(missing.largest() <= share + 1e-5, "{share}: {} after {taken}", missing.largest());
        let (got, dense) = (rounds.estimate().lse.as_ref().unwrap(), problem.exact(&Tables::new()));
        for (lse, dense) in got.read_blocking(&context).unwrap().iter().zip(&dense.lse) {
            let left_out = 1.0 - (f64::from(*lse) - dense).exp();
            assert!(left_out <= share + 1e-5, "{left_out} of a row's attention is left out");
        }
        rounds_taken.push(taken);
        if taken < all.len() {
            // From where it ended to the end.
            let rest = rounds.step_until_blocking(&all, &Stop { share: 0.0, ..stop }).unwrap();
            assert!(rest.is_within(0.0) && rounds.estimate().rounds == all.len());
        }
        let error = rounds.step_until_blocking(&all, &stop).unwrap_err();
        assert_eq!(error.argument(), Some("rounds"));
    }
    assert!(rounds_taken[0] < rounds_taken[1] && rounds_taken[1] < 8, "{rounds_taken:?}");
    let mut rounds = plan.start(&q, &k, &v).unwrap();
    let stop = Stop { q: &problem.q, keys: &keys, share: f64::NAN };
    assert_eq!(rounds.step_until_blocking(&all, &stop).unwrap_err().argument(), Some("share"));
    let independent = self::plan(&context, &problem, Combine::Independent);
    let mut rounds = independent.start(&q, &k, &v).unwrap();
    let stop = Stop { share: 0.5, ..stop };
    assert_eq!(rounds.step_until_blocking(&all, &stop).unwrap_err().argument(), Some("combine"));
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals_name_the_argument") else { return };
    let shape = Shape::new(2, 1, 32, 32).unwrap();
    let problem = problem(Attention::causal(), shape);
    let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let output = zeros(&context, DType::F32, Layout::heads_first(1, 2, 32, 32).unwrap());
    let rows = zeros(&context, DType::F32, Layout::rows(1, 2, 32).unwrap());
    let few = zeros(&context, DType::F32, Layout::rows(1, 2, 31).unwrap());
    let operands = crate::common::operands(&qkv, &output);
    let named = |result: prflash::Result<prflash::rounds::RoundsBound>| {
        result.unwrap_err().argument().map(str::to_owned)
    };
    let independent = plan(&context, &problem, Combine::Independent);
    let partition = plan(&context, &problem, Combine::Partition);
    assert_eq!(named(partition.bind(&operands, Some(rows.view()))).as_deref(), Some("standard_error"));
    assert_eq!(named(independent.bind(&operands, Some(few.view()))).as_deref(), Some("standard_error"));
    assert_eq!(named(independent.bind(&operands, Some(output.view()))).as_deref(), Some("standard_error"));
    let with_lse = Operands { lse: Some(rows.view()), ..operands };
    assert_eq!(named(independent.bind(&with_lse, None)).as_deref(), Some("lse"));
    let in_place = Operands { output: &qkv[0], ..operands };
    assert_eq!(named(independent.bind(&in_place, None)).as_deref(), Some("output"));
    let bound = independent.bind(&operands, Some(rows.view())).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let skipped = independent.encode_round(&mut encoder, &bound, &Call::lengths(32, 32), 1).unwrap_err();
    assert_eq!(skipped.argument(), Some("round"));
}
