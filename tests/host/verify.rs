//! The comparator must reject wrong results. No GPU: a right answer is broken in every way that
//! kernels break.

use prflash::kernels::{Kernel, Matrix};
use prflash::reference::{self, Exact};
use prflash::sampling::partition_rounds;
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{Attention, BlockGrid, DType, Profile, Schedule, Seed, Shape, Systematic, Tables};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

struct Right {
    attention: Attention,
    shape: Shape,
    qkv: [Vec<f32>; 3],
    exact: Exact,
}

fn right() -> Right {
    let shape = Shape::new(4, 2, 130, 32).unwrap();
    let mut rng = SmallRng::seed_from_u64(7);
    let mut numbers = |heads: usize| -> Vec<f32> {
        (0..heads * 130 * 32).map(|_| rng.random_range(-2.0f32..2.0)).collect()
    };
    let qkv = [numbers(4), numbers(2), numbers(2)];
    let attention = Attention::causal();
    let exact = reference::attention(&attention, &shape, &qkv[0], &qkv[1], &qkv[2], &Tables::new()).unwrap();
    Right { attention, shape, qkv, exact }
}

impl Right {
    fn output(&self) -> Vec<f32> {
        self.exact.output.iter().map(|&x| x as f32).collect()
    }

    fn lse(&self) -> Vec<f32> {
        self.exact.lse.iter().map(|&x| x as f32).collect()
    }

    fn accepts(&self, output: &[f32]) -> bool {
        let tolerance = Tolerances::of_output(&self.exact, &self.shape, DType::F32);
        compare(output, &self.exact.output, tolerance).unwrap().passed()
    }

    fn accepts_lse(&self, lse: &[f32]) -> bool {
        compare(lse, &self.exact.lse, Tolerances::of_lse(&self.exact, &self.shape)).unwrap().passed()
    }

    /// The output of another computation on the same inputs.
    fn instead(&self, attention: Attention, qkv: &[Vec<f32>; 3], tables: &Tables<'_>) -> Vec<f32> {
        let [q, k, v] = qkv;
        let exact = reference::attention(&attention, &self.shape, q, k, v, tables).unwrap();
        exact.output.iter().map(|&x| x as f32).collect()
    }
}

#[test]
fn the_right_answer_passes() {
    let right = right();
    assert!(right.accepts(&right.output()) && right.accepts_lse(&right.lse()));
}

#[test]
fn mutants_are_rejected() {
    let right = right();
    let head = 130 * 32;
    let mut swapped = right.output();
    let (first, rest) = swapped.split_at_mut(head);
    first.swap_with_slice(&mut rest[..head]);
    assert!(!right.accepts(&swapped), "swapped heads");

    let zeros = vec![0.0; right.exact.output.len()];
    assert!(!right.accepts(&zeros), "zeros");

    let mut one = right.output();
    one[4321] = f32::NAN;
    assert!(!right.accepts(&one), "one NaN");
    one[4321] = f32::INFINITY;
    assert!(!right.accepts(&one), "one infinity");

    let mut shifted = right.output();
    shifted.rotate_right(32);
    assert!(!right.accepts(&shifted), "rows shifted by one");

    let nearly = right.instead(right.attention.clone().with_window(129).unwrap(), &right.qkv, &Tables::new());
    assert!(!right.accepts(&nearly), "one key of one row missing");

    assert!(!right.accepts(&right.instead(Attention::full(), &right.qkv, &Tables::new())), "no causal mask");
    // A mask off by one: query i sees the keys up to i + 1, which is what full attention of a
    // window gives below.
    let [q, k, v] = &right.qkv;
    let longer = right.shape.with_q_len(129).unwrap();
    let mut early = Vec::new();
    for h in 0..4 {
        early.extend_from_slice(&q[h * head..(h + 1) * head - 32]);
    }
    let off = reference::attention(&right.attention, &longer, &early, k, v, &Tables::new()).unwrap();
    let mut off_by_one = right.output();
    for h in 0..4 {
        for (o, &x) in off_by_one[h * head..].iter_mut().zip(&off.output[h * 129 * 32..(h + 1) * 129 * 32]) {
            *o = x as f32;
        }
    }
    assert!(!right.accepts(&off_by_one), "a mask off by one");

    let scale = right.instead(
        right.attention.clone().with_scale(1.0 / 33f32.sqrt()).unwrap(),
        &right.qkv,
        &Tables::new(),
    );
    assert!(!right.accepts(&scale), "a slightly wrong scale");

    let grid = BlockGrid::causal(&right.shape);
    let lists: Vec<Vec<usize>> =
        (0..4 * 3).map(|i| (0..=i % 3).filter(|&j| !(i == 11 && j == 1)).collect()).collect();
    let missing = Schedule::from_block_lists(&grid, &lists).unwrap();
    let skipped = right.instead(right.attention.clone(), &right.qkv, &Tables::from(&missing));
    assert!(!right.accepts(&skipped), "one block of one row of one head skipped");

    let f16: Vec<f32> = right.output().iter().map(|&x| DType::F16.round(x)).collect();
    assert!(!right.accepts(&f16), "half precision where single was promised");

    let log2: Vec<f32> = right.lse().iter().map(|x| x / std::f32::consts::LN_2).collect();
    assert!(!right.accepts_lse(&log2), "a log-sum-exp in base 2");
}

/// Weights rounded to f16 pass where they are allowed and nowhere else; what is wrong passes
/// nowhere.
#[test]
fn rounded_weights_pass_for_matrix_units_alone() {
    let right = right();
    let matrix = Kernel::Matrix(Matrix::new(16, true, false).unwrap());
    let accepts = |kernel, output: &[f32]| {
        let tolerance = Tolerances::of_kernel_output(kernel, &right.exact, &right.shape, DType::F32);
        compare(output, &right.exact.output, tolerance).unwrap().passed()
    };
    let [q, k, v] = &right.qkv;
    let mut rounded = Vec::new();
    for head in 0..4 {
        let (q, k, v) = (&q[head * 4160..], &k[head / 2 * 4160..], &v[head / 2 * 4160..]);
        for row in 0..130 {
            let score = |j: usize| -> f64 {
                (0..32).map(|c| f64::from(q[row * 32 + c]) * f64::from(k[j * 32 + c])).sum::<f64>()
                    / 32f64.sqrt()
            };
            let scores: Vec<f64> = (0..=row).map(score).collect();
            let top = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let weight = |s: &f64| f64::from(DType::F16.round(((s - top).exp() * 32_768.0) as f32));
            let weights: Vec<f64> = scores.iter().map(weight).collect();
            let sum: f64 = weights.iter().sum();
            rounded.extend((0..32).map(|c| {
                let of = |(j, w): (usize, &f64)| w * f64::from(v[j * 32 + c]);
                (weights.iter().enumerate().map(of).sum::<f64>() / sum) as f32
            }));
        }
    }
    assert!(accepts(matrix, &rounded) && accepts(matrix, &right.output()));
    assert!(!accepts(Kernel::Naive, &rounded), "weights rounded where they weren't to be");
    let other = |attention: Attention| right.instead(attention, &right.qkv, &Tables::new());
    for (mutant, name) in [
        (other(right.attention.clone().with_window(129).unwrap()), "one key of one row missing"),
        (other(Attention::full()), "no causal mask"),
        (other(right.attention.clone().with_scale(1.0 / 33f32.sqrt()).unwrap()), "a slightly wrong scale"),
        (vec![0.0; right.exact.output.len()], "zeros"),
    ] {
        assert!(!accepts(matrix, &mutant), "{name}");
    }
}

/// A loud row doesn't excuse an error in a quiet one.
#[test]
fn each_row_has_a_tolerance_of_its_own() {
    let right = right();
    let [mut q, k, v] = right.qkv.clone();
    // Row 7 of the first head has scores a thousand times as large.
    q[7 * 32..8 * 32].iter_mut().for_each(|q| *q *= 1000.0);
    let exact = reference::attention(&right.attention, &right.shape, &q, &k, &v, &Tables::new()).unwrap();
    let tolerances = Tolerances::of_output(&exact, &right.shape, DType::F32);
    let loud = tolerances.row(7);
    assert!(loud.absolute > 100.0 * tolerances.row(8).absolute);
    let mut output: Vec<f32> = exact.output.iter().map(|&x| x as f32).collect();
    assert!(compare(&output, &exact.output, &tolerances).unwrap().passed());
    output[8 * 32] += 0.5 * loud.absolute as f32;
    assert!(compare(&output, &exact.output, loud).unwrap().passed(), "by the loudest row's tolerance");
    let report = compare(&output, &exact.output, &tolerances).unwrap();
    assert_eq!((report.failed, report.first_failure.map(|(index, ..)| index)), (1, Some(8 * 32)));
    assert!(report.used > 50.0 && report.tolerance == tolerances.row(8), "{report}");
    // A number of rows that isn't the output's.
    assert!(compare(&output[..100], &exact.output[..100], &tolerances).unwrap_err().is_invalid_argument());
    assert!(tolerances.plus(&loud.into()).unwrap_err().is_invalid_argument());
}

#[test]
fn empty_rows_are_exactly_empty() {
    let shape = Shape::new(1, 1, 3, 4).unwrap().with_kv_len(1).unwrap();
    let exact =
        reference::attention(&Attention::causal(), &shape, &[1.0; 12], &[1.0; 4], &[2.0; 4], &Tables::new())
            .unwrap();
    assert_eq!(exact.output[..8], [0.0; 8]);
    assert_eq!(exact.lse[..2], [f64::NEG_INFINITY; 2]);
    assert!(exact.lse[2].is_finite());
    let judge =
        |lse: [f32; 3]| compare(&lse, &exact.lse, Tolerances::of_lse(&exact, &shape)).unwrap().passed();
    let last = exact.lse[2] as f32;
    assert!(judge([f32::NEG_INFINITY, f32::NEG_INFINITY, last]));
    assert!(!judge([f32::NEG_INFINITY, f32::INFINITY, last]));
    assert!(!judge([f32::NEG_INFINITY, f32::NAN, last]));
    assert!(!judge([f32::NEG_INFINITY, -1e30, last]));
    assert!(!judge([f32::NEG_INFINITY; 3]));
}

#[test]
fn nothing_is_not_something() {
    assert!(compare(&[], &[1.0], Tolerance::absolute(1.0)).unwrap_err().is_invalid_argument());
    let exact_nan = compare(&[f32::NAN], &[f64::NAN], Tolerance::absolute(1e9)).unwrap();
    assert!(!exact_nan.passed(), "an oracle that says NaN accepts nothing");
    assert!(!compare(&[1.0], &[1.0], Tolerance::absolute(f64::NAN)).unwrap().passed());
}

#[test]
fn the_oracle_checks_its_inputs() {
    let shape = Shape::new(2, 1, 4, 8).unwrap();
    let (q, k) = (vec![0.0; 64], vec![0.0; 32]);
    let run = |q: &[f32], k: &[f32], v: &[f32], tables: &Tables<'_>| {
        reference::attention(&Attention::causal(), &shape, q, k, v, tables)
            .unwrap_err()
            .argument()
            .unwrap()
            .to_owned()
    };
    assert_eq!(run(&q[1..], &k, &k, &Tables::new()), "q");
    assert_eq!(run(&q, &q, &k, &Tables::new()), "k");
    assert_eq!(run(&q, &k, &q, &Tables::new()), "v");
    let other = Schedule::dense(&BlockGrid::full(&shape)).unwrap();
    assert_eq!(run(&q, &k, &k, &Tables::from(&other)), "schedule");
}

/// The states of partition rounds, each by itself, merge to exactly dense attention: no tolerance
/// for sampling.
#[test]
fn partition_rounds_merge_to_dense_attention() {
    let right = right();
    let [q, k, v] = &right.qkv;
    let grid = BlockGrid::causal(&right.shape).with_block_size(16).unwrap();
    let rounds = partition_rounds(&grid, &Profile::harmonic(), Seed::new(3), 4).unwrap();
    let states: Vec<Exact> = rounds
        .iter()
        .map(|s| reference::attention(&right.attention, &right.shape, q, k, v, &Tables::from(s)).unwrap())
        .collect();
    assert!(
        states.iter().skip(1).any(|s| s.lse.contains(&f64::NEG_INFINITY)),
        "some rounds leave rows empty"
    );
    let close = |a: &Exact, b: &Exact| {
        let output = a.output.iter().zip(&b.output).all(|(x, y)| (x - y).abs() < 1e-12);
        output && a.lse.iter().zip(&b.lse).all(|(x, y)| (x - y).abs() < 1e-12)
    };
    let merged = reference::merge(&states, false).unwrap();
    assert!(close(&merged, &right.exact));
    // Associative, and in any order.
    let front = reference::merge(&states[..2], false).unwrap();
    let back = reference::merge(&states[2..], false).unwrap();
    assert!(close(&reference::merge(&[back, front], false).unwrap(), &right.exact));
    // One round missing is not dense.
    assert!(!close(&reference::merge(&states[..3], false).unwrap(), &right.exact));
}

#[test]
fn merging_equal_rounds_changes_nothing_and_empty_ones_stay_empty() {
    let right = right();
    let twice = reference::merge(&[right.exact.clone(), right.exact.clone()], true).unwrap();
    assert!(twice.output.iter().zip(&right.exact.output).all(|(x, y)| (x - y).abs() < 1e-12));
    assert!(twice.lse.iter().zip(&right.exact.lse).all(|(x, y)| (x - y).abs() < 1e-12));
    let shape = Shape::new(1, 1, 3, 4).unwrap().with_kv_len(0).unwrap();
    let empty =
        reference::attention(&Attention::causal(), &shape, &[1.0; 12], &[], &[], &Tables::new()).unwrap();
    let merged = reference::merge(&[empty.clone(), empty.clone()], true).unwrap();
    assert_eq!((merged.output, merged.lse), (empty.output.clone(), empty.lse.clone()));
    assert_eq!(reference::merge(&[], false).unwrap_err().argument(), Some("states"));
    assert_eq!(
        reference::merge(&[right.exact.clone(), empty], false).unwrap_err().argument(),
        Some("states")
    );
}

/// Independent rounds with the full correction approach dense attention like one over the square
/// root of their number.
#[test]
fn independent_rounds_approach_dense_attention() {
    let shape = Shape::new(2, 1, 512, 16).unwrap();
    let mut rng = SmallRng::seed_from_u64(11);
    let mut numbers = |heads: usize| -> Vec<f32> {
        (0..heads * 512 * 16).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    };
    let (q, k, v) = (numbers(2), numbers(1), numbers(1));
    let attention = Attention::causal().with_correction(1.0).unwrap();
    let exact = reference::attention(&attention, &shape, &q, &k, &v, &Tables::new()).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(32).unwrap();
    let states: Vec<Exact> = (0..64)
        .map(|round| {
            let seed = Seed::new(17).round(round);
            let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, seed).unwrap();
            reference::attention(&attention, &shape, &q, &k, &v, &Tables::from(&schedule)).unwrap()
        })
        .collect();
    let error = |rounds: usize| {
        // Over disjoint groups of rounds, so that one lucky group doesn't decide.
        let groups = states.chunks_exact(rounds).map(|group| {
            let merged = reference::merge(group, true).unwrap();
            merged.output.iter().zip(&exact.output).map(|(x, y)| (x - y).powi(2)).sum::<f64>()
        });
        (groups.sum::<f64>() / (64 / rounds) as f64).sqrt()
    };
    for rounds in [4, 16] {
        let exponent = (error(rounds) / error(1)).ln() / (rounds as f64).ln();
        assert!((-0.6..-0.4).contains(&exponent), "{rounds} rounds: exponent {exponent}");
    }
}
