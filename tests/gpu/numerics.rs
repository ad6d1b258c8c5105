//! Numbers at the edges: NaN and infinities, scores near the end of what f32 holds, soft-caps of
//! every size. Every kernel against the oracle, whose word on which rows are NaN, empty or finite
//! is compared row by row, and through merges of states.

use std::io::Write;

use crate::common::{Got, Problem, Storage, by, gpu, matrix, numbers, subgroups_only, uses_subgroups};
use prflash::cache::{Staircase, StoredKeys};
use prflash::reference::Exact;
use prflash::sampling::{Reshaping, partition_rounds};
use prflash::verify::{Tolerance, compare};
use prflash::{
    Attention, Bias, BlockGrid, Call, Chunk, Combine, Context, DType, Decode, Granularity, Kernel, Key,
    KvCache, Layout, Pairing, Positions, Profile, Queries, Rope, Schedule, SequenceId, Shape, Systematic,
    Tables, Tensor, Tile, reference,
};

/// Every kernel in each of its forms that this device runs.
fn kernels(context: &Context) -> Vec<Kernel> {
    let tile = |rows, keys, staged| Tile::new(rows, keys, staged).unwrap();
    let mut kernels = vec![
        Kernel::Naive,
        // The form for GPUs, direct and staged; that for CPUs; lanes that share rows.
        Kernel::Tiled(tile(1, 4, false)),
        Kernel::Tiled(tile(1, 2, true)),
        Kernel::Tiled(tile(4, 4, true)),
        Kernel::Tiled(tile(1, 4, true).with_parts(2).unwrap()),
        Kernel::Decode(Decode::new(2, false).unwrap()),
        matrix(16, true),
        matrix(8, false),
    ];
    let capabilities = context.capabilities();
    if let Some((_, most)) = capabilities.subgroup_sizes {
        kernels.push(Kernel::Decode(Decode::new(1, true).unwrap()));
        if most <= 32 {
            kernels.push(Kernel::Tiled(tile(1, 4, false).with_parts(2).unwrap()));
        }
    }
    if capabilities.f16_arithmetic {
        kernels.push(Kernel::Tiled(tile(1, 4, false).with_half_products(true)));
        kernels.push(Kernel::Tiled(tile(2, 2, true).with_half_products(true)));
    } else {
        let _ = writeln!(std::io::stderr(), "SKIPPED half products: the device has no f16 arithmetic");
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
fn halves_only(kernel: Kernel) -> bool {
    match kernel {
        Kernel::Matrix(_) => true,
        Kernel::Tiled(tile) => tile.uses_half_products(),
        _ => false,
    }
}

/// An attention, and over how many workgroups keys are split, if not as many as the plan chooses.
type What = (Attention, Option<usize>);

/// The same problem by this kernel, in storage that it takes.
fn problem_by(
    kernel: Kernel,
    (attention, splits): (&Attention, Option<usize>),
    shape: Shape,
    fill: impl Fn(&mut Problem),
) -> Problem {
    let mut attention = attention.clone().with_lse(true);
    if halves_only(kernel) {
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
struct Kinds {
    finite: usize,
    empty: usize,
    nan: usize,
    /// Channels that a value made infinite or NaN, in rows that are neither empty nor NaN.
    spoiled: usize,
}

/// Compares every number, and fails unless each is NaN, infinite or finite just as the oracle has
/// it.
fn judge(
    output: &[f32],
    lse: &[f32],
    exact: &Exact,
    [of_output, of_lse]: [Tolerance; 2],
    story: &str,
) -> Kinds {
    assert_eq!((output.len(), lse.len()), (exact.output.len(), exact.lse.len()), "{story}");
    let mut kinds = Kinds::default();
    let close = |got: f32, want: f64, tolerance: Tolerance| {
        (f64::from(got) - want).abs() <= tolerance.absolute + tolerance.relative * want.abs()
    };
    assert!(of_output.absolute.is_finite() && of_lse.absolute.is_finite(), "{story}: no tolerance at all");
    let dim = output.len() / lse.len();
    for (row, (&got, &want)) in lse.iter().zip(&exact.lse).enumerate() {
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
        Tolerance::of_kernel_output(got.kernel, &exact, &problem.shape, problem.attention.output()),
        Tolerance::of_kernel_lse(got.kernel, &exact, &problem.shape),
    ];
    judge(&got.output, got.lse.as_ref().unwrap(), &exact, tolerances, &format!("{}, {story}", got.kernel))
}

fn check(context: &Context, problem: &Problem, tables: &Tables<'_>, story: &str) -> Kinds {
    let got = problem.run(context, Storage::HeadsFirst, tables);
    judge_problem(problem, &got, tables, story)
}

fn harmonic(attention: &Attention, shape: &Shape) -> Schedule {
    let grid = if attention.is_causal() { BlockGrid::causal(shape) } else { BlockGrid::full(shape) };
    let grid = grid.with_block_size(24).unwrap();
    Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(3)).unwrap()
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
        options.push(("rope and bias", (causal().with_positions(Positions::recommended(rope)), None)));
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

/// Scores of `key(j)·scale` in every row, exactly.
fn scores_of(problem: &mut Problem, key: impl Fn(usize) -> f32) {
    let (dim, len) = (problem.shape.head_dim(), problem.shape.kv_len());
    for query in problem.q.chunks_mut(dim) {
        query.fill(0.0);
        query[0] = 1.0;
    }
    for (index, row) in problem.k.chunks_mut(dim).enumerate() {
        row.fill(0.0);
        row[0] = problem.attention.storage().round(key(index % len));
    }
}

/// Scores up to the end of f32 are what they are, and infinite past it. Scores are equal or far
/// apart, so weights are exact and only sums of values round.
#[test]
fn scores_near_the_end_of_f32() {
    let Some(context) = gpu("scores_near_the_end_of_f32") else { return };
    let shape = Shape::new(2, 1, 130, 16).unwrap();
    const LARGEST: f32 = f32::MAX;
    type Score = fn(usize) -> f32;
    // In units of the largest number of f32.
    let cases: [(&str, Score); 11] = [
        ("low", |_| -0.75),
        ("lower", |_| -0.9),
        ("lowest", |j| if j == 77 { -0.97 } else { -0.99 }),
        ("falling", |j| -0.6 - 0.003 * j as f32),
        ("rising", |j| -0.99 + 0.003 * j as f32),
        ("high", |j| if j % 7 == 3 { 0.95 } else { 0.75 }),
        ("both ends", |j| if j % 7 == 3 { 0.95 } else { -0.95 }),
        // For the first of each there is room in powers of four.
        ("just past the low end", |j| if j % 7 == 3 { -0.9 } else { -1.2 }),
        ("past the low end", |j| if j % 7 == 3 { -0.9 } else { -1.75 }),
        ("just past the high end", |j| if j > 90 { 1.2 } else { 0.9 }),
        ("past the high end", |j| if j > 90 { 1.75 } else { 0.9 }),
    ];
    for kernel in kernels(&context) {
        // Their queries have the scale in them, which f16 doesn't hold.
        if matches!(kernel, Kernel::Tiled(tile) if tile.uses_half_products()) {
            continue;
        }
        for (name, score) in cases {
            for (attention, splits) in [
                (Attention::causal(), None),
                (Attention::causal().with_correction(1.0).unwrap(), Some(3)),
                (Attention::causal().with_positions(Positions::from(Bias::alibi())), None),
            ] {
                // Scales and keys whose product is the score: both are powers of two times little.
                let scale = 2f32.powi(120);
                let attention = attention.with_scale(scale).unwrap();
                let problem = problem_by(kernel, (&attention, splits), shape, |problem| {
                    scores_of(problem, |j| score(j) * (LARGEST / scale));
                });
                let schedule = harmonic(&attention, &shape);
                for tables in [Tables::new(), Tables::from(&schedule)] {
                    let got = problem.run(&context, Storage::HeadsFirst, &tables);
                    let exact = problem.exact(&tables);
                    let of_lse = Tolerance { absolute: 0.0, relative: 1e-6 };
                    let story = format!("{kernel}, {name}, {attention:?}");
                    let tolerances = [Tolerance::absolute(2e-6), of_lse];
                    let kinds = judge(&got.output, &got.lse.unwrap(), &exact, tolerances, &story);
                    let past = (name.ends_with("past the low end"), name.ends_with("past the high end"));
                    assert_eq!((kinds.empty > 0, kinds.nan > 0), past, "{story}: {kinds:?}");
                }
            }
        }
    }
}

/// Inner products near the end of f32, not only scores: the queries and keys themselves are large.
#[test]
fn products_near_the_end_of_f32() {
    let Some(context) = gpu("products_near_the_end_of_f32") else { return };
    let shape = Shape::new(2, 1, 130, 16).unwrap();
    for kernel in kernels(&context).into_iter().filter(|&kernel| !halves_only(kernel)) {
        for storage in [DType::F32, DType::Bf16] {
            for (name, sign) in [("low", -1.0), ("high", 1.0)] {
                let attention = Attention::causal().with_scale(1.0).unwrap().with_storage(storage);
                let problem = problem_by(kernel, (&attention, None), shape, |problem| {
                    scores_of(problem, |j| sign * (1.2e19 + 1e17 * (j % 40) as f32));
                    problem.q.iter_mut().for_each(|q| *q *= storage.round(2e19));
                });
                let got = problem.run(&context, Storage::HeadsFirst, &Tables::new());
                let exact = problem.exact(&Tables::new());
                let tolerances = [Tolerance::absolute(2e-6), Tolerance { absolute: 0.0, relative: 1e-6 }];
                let story = format!("{kernel}, {storage}, {name}");
                let kinds = judge(&got.output, &got.lse.unwrap(), &exact, tolerances, &story);
                assert_eq!(kinds.finite, 260, "{story}: {kinds:?}");
            }
        }
    }
}

/// `cap·tanh(s/cap)` for caps and scores of every size: a row that sees one key has its score as
/// LSE.
#[test]
fn soft_caps_of_every_size() {
    let Some(context) = gpu("soft_caps_of_every_size") else { return };
    let shape = Shape::new(1, 1, 160, 16).unwrap();
    // From 2⁻²⁰ to 2²⁰ with both signs and others between, and 0.
    let score = |j: usize| match j {
        0 => 0.0,
        _ => (1.0 - 2.0 * (j % 2) as f32) * (1.0 + (j % 8) as f32 / 8.0) * 2f32.powi(j as i32 / 4 - 20),
    };
    for kernel in kernels(&context) {
        for scale in [1.0, 1e-12, 1e15, 1e30] {
            // Products in f16 hold no such queries.
            if scale != 1.0 && matches!(kernel, Kernel::Tiled(tile) if tile.uses_half_products()) {
                continue;
            }
            for cap in [1e-30, 1e-20, 1e-6, 0.01, 0.3, 1.0, 50.0, 1e3, 1e4, 3e7, 1e12, 1e20, 1e30] {
                let attention = Attention::causal().with_window(1).unwrap().with_soft_cap(cap).unwrap();
                let attention = attention.with_scale(scale).unwrap();
                let problem =
                    problem_by(kernel, (&attention, None), shape, |problem| scores_of(problem, score));
                let exact = problem.exact(&Tables::new());
                let got = problem.run(&context, Storage::HeadsFirst, &Tables::new());
                // Of the score 13 roundings (a product, tanh's, the cap and units), of log₂ 1 = 0
                // as many units absolutely. Products in f16 round queries and keys.
                let unit = DType::F32.unit_roundoff();
                let relative = if halves_only(kernel) && scale == 1.0 {
                    2.0 * DType::F16.unit_roundoff()
                } else {
                    13.0 * unit
                };
                let of_lse = Tolerance { absolute: 13.0 * unit, relative };
                let story = format!("{kernel}, cap {cap:e}, scale {scale:e}");
                let tolerances = [Tolerance::absolute(2e-6), of_lse];
                let kinds = judge(&got.output, &got.lse.unwrap(), &exact, tolerances, &story);
                assert_eq!(kinds.finite, 160, "{story}");
            }
        }
    }
}

/// Whole rows under soft-caps, within the derived tolerances, which no longer grow with the cap.
#[test]
fn soft_caps_are_within_the_tolerance_of_scores() {
    let Some(context) = gpu("soft_caps_are_within_the_tolerance_of_scores") else { return };
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for kernel in kernels(&context) {
        for cap in [1e-30, 1e-3, 2.0, 30.0, 1e4, 1e8, 1e30] {
            for attention in
                [Attention::causal(), Attention::full().with_positions(Positions::from(Bias::harmonic()))]
            {
                let attention = attention.with_soft_cap(cap).unwrap();
                let problem = problem_by(kernel, (&attention, None), shape, |_| ());
                let kinds = check(&context, &problem, &Tables::new(), &format!("cap {cap:e}"));
                assert_eq!(kinds.finite, 300);
            }
        }
    }
}

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
                    Schedule::sample(&grid, &profile, &Systematic, Key::new(6).round(round)).unwrap()
                })
                .collect(),
            Combine::Partition => partition_rounds(&grid, &profile, Key::new(6), 4).unwrap(),
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
            let times_four = |tolerance: Tolerance| Tolerance {
                absolute: 4.0 * tolerance.absolute,
                relative: 4.0 * tolerance.relative,
            };
            let tolerances = [
                times_four(Tolerance::of_output(&want, &shape, DType::F32)),
                times_four(Tolerance::of_lse(&want, &shape)),
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
            let tolerance = Tolerance::of_output(&exact, &shape, DType::F32);
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
            let key = Key::new(6).round(round);
            let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, key).unwrap();
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
                    Reshaping::segments(&grid, &profile, Key::new(3)).unwrap(),
                    Reshaping::row_column(&grid, &profile, Key::new(3)).unwrap(),
                ] {
                    let got = plan.run(&q, &k, &v, std::slice::from_ref(&reshaping)).unwrap();
                    let schedule = reshaping.schedule().unwrap();
                    let exact = problem.exact(&Tables::from(&schedule));
                    let twice = |tolerance: Tolerance| Tolerance {
                        absolute: 2.0 * tolerance.absolute,
                        relative: 2.0 * tolerance.relative,
                    };
                    let tolerances = [
                        twice(Tolerance::of_output(&exact, &shape, DType::F32)),
                        twice(Tolerance::of_lse(&exact, &shape)),
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
                    [Tolerance::of_output(&exact, &of, DType::F32), Tolerance::of_lse(&exact, &of)];
                if size != 1.0 {
                    // One key has all the weight.
                    tolerances = [Tolerance::absolute(1e-6), Tolerance { absolute: 0.0, relative: 1e-6 }];
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
        max_score_magnitude: 0.0,
        max_rotated_magnitude: 0.0,
        max_value: 0.0,
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
