//! Numbers at the edges: NaN and infinities, scores near the end of what f32 holds, soft-caps of
//! every size. Every kernel against the oracle, whose word on which rows are NaN, empty or finite
//! is compared row by row, and through merges of states.

mod large;
mod merges;

use std::io::Write;

use crate::common::{Got, Problem, Storage, by, gpu, matrix, subgroups_only, uses_subgroups};
use prflash::kernels::{Decode, Kernel, Tile};
use prflash::position::Pairing;
use prflash::reference::Exact;
use prflash::verify::{Tolerance, Tolerances};
use prflash::{
    Attention, Bias, BlockGrid, Context, DType, Positions, Profile, Rope, Schedule, Seed, Shape, Systematic,
    Tables,
};

/// Every kernel in each of its forms that this device runs.
pub fn kernels(context: &Context) -> Vec<Kernel> {
    let tile = |rows, keys, staged| Tile::new(rows, keys, staged).unwrap();
    let mut kernels = vec![
        Kernel::Naive,
        // The form for GPUs, direct and staged; that for CPUs; lanes that share rows.
        Kernel::Tiled(tile(1, 4, false)),
        Kernel::Tiled(tile(1, 2, true)),
        Kernel::Tiled(tile(4, 4, true)),
        Kernel::Tiled(tile(1, 4, true).with_slices(2).unwrap()),
        Kernel::Decode(Decode::new(2, false).unwrap()),
        matrix(16, true),
        matrix(8, false),
    ];
    let capabilities = context.capabilities();
    if let Some((_, most)) = capabilities.subgroup_sizes {
        kernels.push(Kernel::Decode(Decode::new(1, true).unwrap()));
        if most <= 32 {
            kernels.push(Kernel::Tiled(tile(1, 4, false).with_slices(2).unwrap()));
        }
    }
    if capabilities.f16_arithmetic {
        kernels.push(Kernel::Tiled(tile(1, 4, false).with_f16_products(true)));
        kernels.push(Kernel::Tiled(tile(2, 2, true).with_f16_products(true)));
    } else {
        let _ = writeln!(std::io::stderr(), "SKIPPED products in f16: the device has no f16 arithmetic");
    }
    if subgroups_only() {
        kernels.retain(|&kernel| uses_subgroups(kernel));
        assert!(!kernels.is_empty(), "the device has no subgroups");
    }
    kernels
}

/// Whether a kernel turns keys.
fn rotates(kernel: Kernel) -> bool {
    !matches!(kernel, Kernel::Tiled(tile) if !tile.is_staged())
}

/// Whether a kernel takes f16 storage alone.
fn f16_only(kernel: Kernel) -> bool {
    match kernel {
        Kernel::Matrix(_) => true,
        Kernel::Tiled(tile) => tile.uses_f16_products(),
        _ => false,
    }
}

/// An attention, and over how many workgroups keys are split, if not as many as the plan chooses.
type What = (Attention, Option<usize>);

/// The same problem by this kernel, in storage that it takes.
pub fn problem_by(
    kernel: Kernel,
    (attention, splits): (&Attention, Option<usize>),
    shape: Shape,
    fill: impl Fn(&mut Problem),
) -> Problem {
    let mut attention = attention.clone().with_lse(true);
    if f16_only(kernel) {
        attention = attention.with_storage(DType::F16);
    }
    let options =
        splits.iter().fold(by(Some(kernel)), |options, &splits| options.with_splits(splits).unwrap());
    let mut problem = Problem::random(attention, shape, 5).with_options(options);
    fill(&mut problem);
    problem
}

/// How many rows were of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kinds {
    pub finite: usize,
    pub empty: usize,
    pub nan: usize,
    /// Channels that a value made infinite or NaN, in rows that are neither empty nor NaN.
    spoiled: usize,
}

/// Compares every number, and fails unless each is NaN, infinite or finite just as the oracle has
/// it.
fn judge(
    output: &[f32],
    lse: &[f32],
    exact: &Exact,
    tolerances: [impl Into<Tolerances>; 2],
    story: &str,
) -> Kinds {
    let [of_output, of_lse] = tolerances.map(Into::into);
    assert_eq!((output.len(), lse.len()), (exact.output.len(), exact.lse.len()), "{story}");
    let mut kinds = Kinds::default();
    let close =
        |got: f32, want: f64, tolerance: Tolerance| (f64::from(got) - want).abs() <= tolerance.of(want);
    let dim = output.len() / lse.len();
    for (row, (&got, &want)) in lse.iter().zip(&exact.lse).enumerate() {
        let (of_output, of_lse) = (of_output.row(row), of_lse.row(row));
        let channels = output[row * dim..][..dim].iter().zip(&exact.output[row * dim..][..dim]);
        let tell =
            |what: &str| format!("{what} of row {row}, {story}: LSE {got} for {want}, output {channels:?}");
        if want.is_nan() {
            kinds.nan += 1;
            assert!(got.is_nan(), "{}", tell("lse"));
            for (got, want) in channels.clone() {
                assert!(want.is_nan(), "{}", tell("the oracle's output"));
                assert!(got.is_nan(), "{}", tell("output"));
            }
            continue;
        }
        if want == f64::NEG_INFINITY {
            kinds.empty += 1;
            assert_eq!(got, f32::NEG_INFINITY, "{}", tell("lse"));
            for (&got, &want) in channels.clone() {
                assert!(got == 0.0 && want == 0.0 || got.is_nan() && want.is_nan(), "{}", tell("output"));
            }
            continue;
        }
        kinds.finite += 1;
        assert!(of_output.absolute.is_finite() && of_lse.absolute.is_finite(), "{}", tell("no tolerance"));
        assert!(want.is_finite() && close(got, want, of_lse), "{}", tell("lse"));
        for (&got, &want) in channels.clone() {
            if want.is_finite() {
                assert!(close(got, want, of_output), "{}", tell("output"));
            } else {
                kinds.spoiled += 1;
                assert!(!got.is_finite(), "{}", tell("output"));
            }
        }
    }
    kinds
}

fn judge_problem(problem: &Problem, got: &Got, tables: &Tables<'_>, story: &str) -> Kinds {
    let exact = problem.exact(tables);
    let tolerances = [
        Tolerances::of_kernel_output(got.kernel, &exact, &problem.shape, problem.attention.output()),
        Tolerances::of_kernel_lse(got.kernel, &exact, &problem.shape),
    ];
    judge(&got.output, got.lse.as_ref().unwrap(), &exact, tolerances, &format!("{}, {story}", got.kernel))
}

pub fn check(context: &Context, problem: &Problem, tables: &Tables<'_>, story: &str) -> Kinds {
    let got = problem.run(context, Storage::HeadsFirst, tables);
    judge_problem(problem, &got, tables, story)
}

fn harmonic(attention: &Attention, shape: &Shape) -> Schedule {
    let grid = if attention.is_causal() { BlockGrid::causal(shape) } else { BlockGrid::full(shape) };
    let grid = grid.with_block_size(24).unwrap();
    Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap()
}

/// Everything that shapes a score, each with a part in how a NaN gets through, where this kernel
/// has it.
fn options(kernel: Kernel) -> Vec<(&'static str, What)> {
    let causal = Attention::causal;
    let rope = Rope::new(16, 1e4, Pairing::Half).unwrap();
    let mut options = vec![
        ("plain", (causal(), None)),
        ("window", (causal().with_window(40).unwrap(), Some(3))),
        ("soft cap", (causal().with_soft_cap(3.0).unwrap(), Some(2))),
        ("full", (Attention::full().with_window(30).unwrap().with_correction(1.0).unwrap(), None)),
        ("factor", {
            let positions = Positions::from(Bias::alibi()).with_harmonic_factor(9.0).unwrap();
            (causal().with_positions(positions), None)
        }),
    ];
    if rotates(kernel) {
        options.push(("rope and bias", (causal().with_positions(Positions::doubly_harmonic(rope)), None)));
    }
    options
}

/// NaN in a key or a query, in one channel, is NaN in the rows that see it, and in no other.
#[test]
fn what_sees_a_nan_is_nan() {
    let Some(context) = gpu("what_sees_a_nan_is_nan") else { return };
    // More queries than keys: the first rows see nothing.
    let shape = Shape::new(2, 1, 150, 16).unwrap().with_kv_len(140).unwrap();
    for kernel in kernels(&context) {
        for (case, (name, (attention, splits))) in options(kernel).into_iter().enumerate() {
            let attention = attention.with_output(DType::ALL[case % 3]);
            let problem = problem_by(kernel, (&attention, splits), shape, |problem| {
                problem.k[30 * 16 + 3] = f32::NAN;
                problem.k[111 * 16 + 15] = f32::NAN;
                problem.q[15 * 16 + 7] = f32::NAN;
                problem.q[(150 + 149) * 16] = f32::NAN;
                // A row that sees both is NaN by the score.
                problem.v[30 * 16 + 5] = f32::NAN;
            });
            let schedule = harmonic(&attention, &shape);
            for (tables, listed) in [(Tables::new(), "dense"), (Tables::from(&schedule), "listed")] {
                let kinds = check(&context, &problem, &tables, &format!("{name}, {listed}"));
                assert!(kinds.nan > 30 && kinds.finite > 30, "{name}, {listed}: {kinds:?}");
                assert!(!attention.is_causal() || kinds.empty > 10, "{name}, {listed}: {kinds:?}");
            }
        }
    }
}

/// Infinities in queries and keys: scores of +∞ make a row NaN, those of −∞ weigh nothing,
/// soft-caps bound them.
#[test]
fn infinite_inputs_do_what_the_formula_says() {
    let Some(context) = gpu("infinite_inputs_do_what_the_formula_says") else { return };
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for kernel in kernels(&context) {
        for (name, (attention, splits)) in options(kernel) {
            // What is rotated is a difference of infinities.
            if attention.positions().is_some_and(|positions| positions.rope().is_some()) {
                continue;
            }
            let problem = problem_by(kernel, (&attention, splits), shape, |problem| {
                for (key, value) in [(30, f32::INFINITY), (31, f32::NEG_INFINITY), (111, f32::INFINITY)] {
                    problem.k[key * 16 + 3] = value;
                }
                problem.q[15 * 16 + 7] = f32::NEG_INFINITY;
                problem.q[149 * 16] = f32::INFINITY;
            });
            let schedule = harmonic(&attention, &shape);
            for (tables, listed) in [(Tables::new(), "dense"), (Tables::from(&schedule), "listed")] {
                let kinds = check(&context, &problem, &tables, &format!("{name}, {listed}"));
                let capped = attention.soft_cap().is_some();
                // In one row infinities of query and key have opposite signs.
                assert_eq!(kinds.nan <= 1, capped, "{name}, {listed}: {kinds:?}");
                assert!(kinds.finite >= 60, "{name}, {listed}: {kinds:?}");
            }
        }
    }
}

/// Keys whose scores are −∞, as masks that are given as scores have them: a row that sees no other
/// is empty.
fn masked_by_scores(problem: &mut Problem, masked: impl Fn(usize) -> bool) {
    let (dim, len) = (problem.shape.head_dim(), problem.shape.kv_len());
    for query in problem.q.chunks_mut(dim) {
        query[0] = 1.0;
    }
    for (index, key) in problem.k.chunks_mut(dim).enumerate() {
        if masked(index % len) {
            key[0] = f32::NEG_INFINITY;
        }
    }
}

#[test]
fn scores_of_minus_infinity_weigh_nothing() {
    let Some(context) = gpu("scores_of_minus_infinity_weigh_nothing") else { return };
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for kernel in kernels(&context) {
        for (name, (attention, splits)) in [
            ("plain", (Attention::causal(), None)),
            ("splits", (Attention::causal(), Some(5))),
            ("window", (Attention::causal().with_window(20).unwrap(), None)),
            ("full", (Attention::full().with_correction(1.0).unwrap(), None)),
        ] {
            let problem = problem_by(kernel, (&attention, splits), shape, |problem| {
                masked_by_scores(problem, |key| key < 70 || key % 3 == 1 || (100..130).contains(&key));
                // 0·∞ and 0·NaN, where no mask selects them away.
                problem.v[20 * 16 + 2] = f32::NAN;
                problem.v[103 * 16 + 9] = f32::INFINITY;
            });
            let schedule = harmonic(&attention, &shape);
            for (tables, listed) in [(Tables::new(), "dense"), (Tables::from(&schedule), "listed")] {
                let kinds = check(&context, &problem, &tables, &format!("{name}, {listed}"));
                assert!(kinds.nan == 0 && kinds.finite > 0, "{name}, {listed}: {kinds:?}");
                assert!(!attention.is_causal() || kinds.empty > 100, "{name}, {listed}: {kinds:?}");
            }
        }
    }
}

/// Values that aren't finite spoil their channel of what sees them, and neither other channels nor
/// the log-sum-exp.
#[test]
fn values_spoil_their_channel_alone() {
    let Some(context) = gpu("values_spoil_their_channel_alone") else { return };
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for kernel in kernels(&context) {
        for (name, (attention, splits)) in options(kernel) {
            let problem = problem_by(kernel, (&attention, splits), shape, |problem| {
                problem.v[20 * 16 + 3] = f32::NAN;
                problem.v[70 * 16 + 13] = f32::INFINITY;
                problem.v[149 * 16] = f32::NEG_INFINITY;
                // Far above and below the others, so that weights are 0 in f32.
                problem.k[69 * 16] = 200.0;
            });
            let schedule = harmonic(&attention, &shape);
            for (tables, listed) in [(Tables::new(), "dense"), (Tables::from(&schedule), "listed")] {
                let kinds = check(&context, &problem, &tables, &format!("{name}, {listed}"));
                assert!(kinds.nan == 0 && kinds.empty == 0, "{name}, {listed}: {kinds:?}");
                assert!(kinds.spoiled > 10, "{name}, {listed}: {kinds:?}");
            }
        }
    }
}
