//! Learned sinks: every kernel beside the oracle, over tensors and caches, in shards and rounds.

use crate::common::{Problem, Storage, gpu, small_device};
use crate::numerics::{check, kernels, problem_by};
use prflash::kernels::Kernel;
use prflash::rounds::Combine;
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{Attention, BlockGrid, DType, Profile, Schedule, Seed, Shape, Systematic, Tables, reference};

/// Far below the scores, among them, and above them.
const SINKS: [f32; 4] = [-40.0, 0.5, 3.0, 60.0];

fn schedule(attention: &Attention, shape: &Shape, seed: Seed) -> Schedule {
    let grid = if attention.is_causal() { BlockGrid::causal(shape) } else { BlockGrid::full(shape) };
    let profile = Profile::harmonic().with_sink_blocks(0);
    Schedule::sample(&grid.with_block_size(16).unwrap(), &profile, &Systematic, seed).unwrap()
}

/// Rows that see nothing, rows that see a NaN, and keys whose weight beside the sink is 0 or all.
#[test]
fn every_kernel_agrees_with_the_oracle() {
    let Some(context) = gpu("sinks in every kernel") else { return };
    let sunk = |attention: Attention| attention.with_sinks(&SINKS).unwrap();
    let capped = Attention::full().with_window(30).unwrap().with_soft_cap(3.0).unwrap();
    for kernel in kernels(&context) {
        for (name, attention, splits) in [
            ("causal", sunk(Attention::causal()), None),
            ("splits", sunk(Attention::causal()).with_output(DType::F16), Some(3)),
            ("window and soft-cap", sunk(capped.clone()).with_correction(0.5).unwrap(), Some(2)),
        ] {
            let shape = Shape::new(4, 2, 150, 16).unwrap().with_kv_len(140).unwrap();
            let problem = problem_by(kernel, (&attention, splits), shape, |problem| {
                problem.k[30 * 16 + 3] = f32::NAN;
            });
            let schedule = schedule(&attention, &shape, Seed::new(3));
            for (tables, listed) in [(Tables::new(), "dense"), (Tables::from(&schedule), "listed")] {
                let kinds = check(&context, &problem, &tables, &format!("{name}, {listed}"));
                assert!(kinds.empty == 0 && kinds.nan > 10 && kinds.finite > 100, "{name}: {kinds:?}");
            }
        }
    }
}

/// What is far below every score changes no bit; what is far above leaves nothing.
#[test]
fn the_ends_are_exact() {
    let Some(context) = gpu("sinks at their ends") else { return };
    let shape = Shape::new(2, 1, 70, 16).unwrap();
    for kernel in kernels(&context) {
        let run = |attention: Attention| {
            let problem = problem_by(kernel, (&attention, Some(2)), shape, |_| {});
            let got = problem.run(&context, Storage::HeadsFirst, &Tables::new());
            (got.output, got.lse.unwrap())
        };
        let plain = run(Attention::causal());
        let (output, lse) = run(Attention::causal().with_sinks(&[-1e30, 1e30]).unwrap());
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&output[..70 * 16]), bits(&plain.0[..70 * 16]), "{kernel}");
        assert_eq!(bits(&lse[..70]), bits(&plain.1[..70]), "{kernel}");
        assert!(output[70 * 16..].iter().all(|&x| x == 0.0), "{kernel}");
        assert!(lse[70..].iter().all(|&x| x == 1e30), "{kernel}");
    }
}

/// Heads of a shard have their own sinks, and not those of the first shard.
#[test]
fn shards_have_the_sinks_of_their_heads() {
    if gpu("sinks in shards").is_none() {
        return;
    }
    let context = small_device(1 << 16, 300);
    let sinks: Vec<f32> = (0..12).map(|head| head as f32 - 4.0).collect();
    for q_len in [150, 2] {
        let shape = Shape::new(12, 6, q_len, 32).unwrap().with_kv_len(200).unwrap();
        let attention = Attention::causal().with_lse(true).with_sinks(&sinks).unwrap();
        let problem = Problem::random(attention, shape, 3);
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), &[None], "sinks in shards");
    }
}

/// SE² = R/(R−1) · Σ |wᵣ·Oᵣ − Ô·(wᵣ + s)|² / (Σ wᵣ + R·s)²: the spread of what each round adds to
/// numerator and denominator, s being e^z.
fn standard_error(states: &[reference::Exact], row: usize, dim: usize, sink: f64, output: &[f64]) -> f64 {
    let rounds = states.len() as f64;
    let top = states.iter().fold(sink, |top, state| top.max(state.lse[row]));
    let s = (sink - top).exp();
    let weights: Vec<f64> = states.iter().map(|state| (state.lse[row] - top).exp()).collect();
    let squares = states.iter().zip(&weights).map(|(state, weight)| {
        let apart = |c: usize| weight * state.output[row * dim + c] - output[c] * (weight + s);
        (0..dim).map(|c| apart(c).powi(2)).sum::<f64>()
    });
    let all = weights.iter().sum::<f64>() + rounds * s;
    (rounds / (rounds - 1.0) * squares.sum::<f64>()).sqrt() / all
}

/// Rounds add a sink once, after the last of them; their errors are those of the whole ratio.
#[test]
fn rounds_add_a_sink_once() {
    let Some(context) = gpu("sinks in rounds") else { return };
    let dim = 16;
    let shape = Shape::new(4, 2, 60, dim).unwrap().with_kv_len(50).unwrap().with_batch(2).unwrap();
    let sinks = [-3.0, 0.5, 3.0, 9.0];
    let attention = Attention::causal().with_lse(true).with_correction(1.0).unwrap();
    let problem = Problem::random(attention.clone().with_sinks(&sinks).unwrap(), shape, 11);
    let parts = Problem::random(attention.clone(), shape, 11);
    let all: Vec<Schedule> =
        (0..4).map(|round| schedule(&attention, &shape, Seed::new(3).round(round))).collect();
    let states: Vec<_> = all.iter().map(|schedule| parts.exact(&Tables::from(schedule))).collect();
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let plan = problem.plan(&context).unwrap();
    assert!(plan.rounds(Combine::Partition).unwrap().round_plan().attention().sinks().is_none());
    for combine in [Combine::Independent, Combine::Partition] {
        let plan = plan.rounds(combine).unwrap();
        let mut rounds = plan.start(&q, &k, &v).unwrap();
        for count in 1..=all.len() {
            let estimate = rounds.step(&Tables::from(&all[count - 1])).unwrap();
            let output = estimate.output.read_blocking(&context).unwrap();
            let lse = estimate.lse.as_ref().unwrap().read_blocking(&context).unwrap();
            let merged = reference::merge(&states[..count], combine == Combine::Independent).unwrap();
            let want = merged.with_sinks(&sinks, &shape).unwrap();
            let tolerance = Tolerances::of_output(&want, &shape, DType::F32).times(4.0);
            let report = compare(&output, &want.output, tolerance).unwrap();
            assert!(report.passed(), "output, {combine:?}, {count} rounds: {report}");
            let report = compare(&lse, &want.lse, Tolerances::of_lse(&want, &shape).times(4.0)).unwrap();
            assert!(report.passed(), "lse, {combine:?}, {count} rounds: {report}");
            let Some(errors) = &estimate.standard_error else { continue };
            let errors = errors.read_blocking(&context).unwrap();
            if count == 1 {
                assert!(errors.iter().all(|&error| error == f32::INFINITY), "one round has no spread");
                continue;
            }
            let of_row = |row: usize| {
                let sink = f64::from(sinks[row / 60 % 4]);
                standard_error(&states[..count], row, dim, sink, &want.output[row * dim..][..dim])
            };
            let want: Vec<f64> = (0..errors.len()).map(of_row).collect();
            let tolerance = Tolerance { absolute: 2e-6, relative: 1e-4 };
            let report = compare(&errors, &want, tolerance).unwrap();
            assert!(report.passed(), "standard error, {count} rounds: {report}");
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals of sinks") else { return };
    let shape = Shape::new(4, 2, 32, 16).unwrap();
    let three = Attention::causal().with_sinks(&[0.0; 3]).unwrap();
    assert_eq!(three.plan(&context, &shape).unwrap_err().argument(), Some("sinks"));
    let attention = Attention::causal().with_sinks(&[0.0; 4]).unwrap();
    let plan = attention.plan_with(&context, &shape, &crate::common::by(Some(Kernel::Naive))).unwrap();
    let error = plan.reshaped(&BlockGrid::causal(&shape)).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("sinks"), "{error}");
}
