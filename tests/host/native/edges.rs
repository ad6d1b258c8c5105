//! Numbers at the edges: NaN and infinities, scores near the end of f32, against the oracle, whose
//! word on which rows are NaN, empty or finite is compared row by row.

use crate::common::native::{Computed, on};
use crate::common::{Problem, Storage};
use prflash::position::Pairing;
use prflash::{
    Attention, Bias, BlockGrid, Positions, Profile, Rope, Schedule, Seed, Shape, Systematic, Tables,
};

/// How many rows were of each kind.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds {
    finite: usize,
    empty: usize,
    nan: usize,
    /// Channels that a value made infinite or NaN, in rows that are finite.
    spoilt: usize,
}

fn judge(problem: &Problem, got: &Computed, tables: &Tables<'_>, story: &str) -> Kinds {
    let (exact, dim) = (problem.exact(tables), problem.shape.value_dim());
    let of_output =
        prflash::verify::Tolerances::of_native_output(&exact, &problem.shape, problem.attention.output());
    let of_lse = prflash::verify::Tolerances::of_native_lse(&exact, &problem.shape);
    let mut kinds = Kinds::default();
    for (row, (&got_lse, &want_lse)) in got.lse.as_ref().unwrap().iter().zip(&exact.lse).enumerate() {
        let outputs = got.output[row * dim..][..dim].iter().zip(&exact.output[row * dim..][..dim]);
        let tell = || format!("row {row} of {story}: LSE {got_lse} for {want_lse}, output {outputs:?}");
        if want_lse.is_nan() {
            kinds.nan += 1;
            assert!(got_lse.is_nan() && outputs.clone().all(|(got, _)| got.is_nan()), "{}", tell());
        } else if want_lse == f64::NEG_INFINITY {
            kinds.empty += 1;
            assert!(got_lse == f32::NEG_INFINITY, "{}", tell());
            let alike =
                |(&got, &want): (&f32, &f64)| got == 0.0 && want == 0.0 || got.is_nan() && want.is_nan();
            assert!(outputs.clone().all(alike), "{}", tell());
        } else {
            kinds.finite += 1;
            let close = (f64::from(got_lse) - want_lse).abs() <= of_lse.row(row).of(want_lse);
            assert!(close, "{}", tell());
            for (&got, &want) in outputs.clone() {
                if want.is_finite() {
                    let close = (f64::from(got) - want).abs() <= of_output.row(row).of(want);
                    assert!(close, "{}", tell());
                } else {
                    kinds.spoilt += 1;
                    assert!(!got.is_finite(), "{}", tell());
                }
            }
        }
    }
    kinds
}

/// The problem without a schedule and with one, after `fill` has changed its numbers.
fn each(attention: &Attention, shape: Shape, name: &str, fill: impl Fn(&mut Problem)) -> Vec<Kinds> {
    let mut problem = Problem::random(attention.clone().with_lse(true), shape, 5);
    fill(&mut problem);
    let grid = if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
    let grid = grid.with_block_size(24).unwrap();
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
    let plan = problem.attention.plan_native(&shape, &on(1)).unwrap();
    let all = [("dense", Tables::new()), ("listed", Tables::from(&schedule))];
    let kinds = all.map(|(listed, tables)| {
        let got = problem.run_native(&plan, Storage::HeadsFirst, &tables);
        judge(&problem, &got, &tables, &format!("{name}, {listed}"))
    });
    kinds.to_vec()
}

/// Everything that shapes a score, each with a part in how a NaN gets through.
fn options() -> Vec<(&'static str, Attention)> {
    let causal = Attention::causal;
    let rope = Rope::new(16, 1e4, Pairing::Half).unwrap();
    let factor = Positions::from(Bias::alibi()).with_harmonic_factor(9.0).unwrap();
    vec![
        ("plain", causal()),
        ("window", causal().with_window(40).unwrap()),
        ("soft cap", causal().with_soft_cap(3.0).unwrap()),
        ("full", Attention::full().with_window(30).unwrap().with_correction(1.0).unwrap()),
        ("factor", causal().with_positions(factor)),
        ("rope and bias", causal().with_positions(Positions::doubly_harmonic(rope))),
    ]
}

#[test]
fn what_sees_a_nan_is_nan() {
    // More queries than keys: the first rows see nothing.
    let shape = Shape::new(2, 1, 150, 16).unwrap().with_kv_len(140).unwrap();
    for (name, attention) in options() {
        let kinds = each(&attention, shape, name, |problem| {
            problem.k[30 * 16 + 3] = f32::NAN;
            problem.k[111 * 16 + 15] = f32::NAN;
            problem.q[15 * 16 + 7] = f32::NAN;
            problem.q[(150 + 149) * 16] = f32::NAN;
            problem.v[30 * 16 + 5] = f32::NAN;
        });
        for kinds in kinds {
            assert!(kinds.nan > 30 && kinds.finite > 30, "{name}: {kinds:?}");
            assert!(!attention.is_causal() || kinds.empty > 10, "{name}: {kinds:?}");
        }
    }
}

#[test]
fn infinite_inputs_do_what_the_formula_says() {
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for (name, attention) in options() {
        // What is rotated is a difference of infinities.
        if attention.positions().is_some_and(|positions| positions.rope().is_some()) {
            continue;
        }
        let kinds = each(&attention, shape, name, |problem| {
            for (key, value) in [(30, f32::INFINITY), (31, f32::NEG_INFINITY), (111, f32::INFINITY)] {
                problem.k[key * 16 + 3] = value;
            }
            problem.q[15 * 16 + 7] = f32::NEG_INFINITY;
            problem.q[149 * 16] = f32::INFINITY;
        });
        for kinds in kinds {
            // In one row infinities of query and key have opposite signs.
            assert_eq!(kinds.nan <= 1, attention.soft_cap().is_some(), "{name}: {kinds:?}");
            assert!(kinds.finite >= 60, "{name}: {kinds:?}");
        }
    }
}

#[test]
fn scores_of_minus_infinity_weigh_nothing() {
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    let full = Attention::full().with_correction(1.0).unwrap();
    let window = Attention::causal().with_window(20).unwrap();
    for (name, attention) in [("plain", Attention::causal()), ("window", window), ("full", full)] {
        let kinds = each(&attention, shape, name, |problem| {
            problem.q.chunks_mut(16).for_each(|query| query[0] = 1.0);
            for (key, row) in problem.k.chunks_mut(16).enumerate() {
                if key < 70 || key % 3 == 1 || (100..130).contains(&key) {
                    row[0] = f32::NEG_INFINITY;
                }
            }
            // 0·∞ and 0·NaN, where no mask selects them away.
            problem.v[20 * 16 + 2] = f32::NAN;
            problem.v[103 * 16 + 9] = f32::INFINITY;
        });
        for kinds in kinds {
            assert!(kinds.nan == 0 && kinds.finite > 0, "{name}: {kinds:?}");
            assert!(!attention.is_causal() || kinds.empty > 100, "{name}: {kinds:?}");
        }
    }
}

#[test]
fn values_spoil_their_channel_alone() {
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for (name, attention) in options() {
        let kinds = each(&attention, shape, name, |problem| {
            problem.v[20 * 16 + 3] = f32::NAN;
            problem.v[70 * 16 + 13] = f32::INFINITY;
            problem.v[149 * 16] = f32::NEG_INFINITY;
            // Far above and below the others, so that weights are 0 in f32.
            problem.k[69 * 16] = 200.0;
        });
        for kinds in kinds {
            assert!(kinds.nan == 0 && kinds.empty == 0 && kinds.spoilt > 10, "{name}: {kinds:?}");
        }
    }
}

/// Scores up to the end of f32, also negative ones alone in their row, and caps far from them.
#[test]
fn large_scores_are_right() {
    let shape = Shape::new(1, 1, 100, 4).unwrap();
    for scale in [1e-30, 1.0, 1e10, 2e38] {
        for cap in [None, Some(1e-30), Some(1.0), Some(1e30)] {
            let attention = Attention::causal().with_scale(1.0).unwrap();
            let attention = match cap {
                Some(cap) => attention.with_soft_cap(cap).unwrap(),
                None => attention,
            };
            let kinds = each(&attention, shape, &format!("scale {scale}, cap {cap:?}"), |problem| {
                problem.q.iter_mut().for_each(|x| *x = 1.0);
                for (key, row) in problem.k.chunks_mut(4).enumerate() {
                    let size = if key == 0 { -1.4 } else { (key % 11) as f32 / 8.0 - 0.7 };
                    row.copy_from_slice(&[scale * size, 0.0, 0.0, 0.0]);
                }
            });
            assert!(kinds.iter().all(|kinds| kinds.finite == 100), "{scale}, {cap:?}: {kinds:?}");
        }
    }
}

/// The same where queries are few, whose keys are split and whose states are merged.
#[test]
fn few_queries_at_the_edges() {
    let shape = Shape::new(4, 1, 8, 16).unwrap().with_kv_len(1200).unwrap();
    for (name, attention) in options() {
        let nan = each(&attention, shape, name, |problem| {
            problem.k[1198 * 16 + 3] = f32::NAN;
            problem.q[8 * 16 + 7] = f32::NAN;
            problem.v[1197 * 16 + 5] = f32::NAN;
        });
        let infinite = each(&attention, shape, name, |problem| {
            problem.v[1196 * 16 + 5] = f32::INFINITY;
            problem.v[700 * 16 + 1] = f32::NAN;
            problem.k[1150 * 16] = 200.0;
        });
        let hidden = each(&attention, shape, name, |problem| {
            problem.q.chunks_mut(16).for_each(|query| query[0] = 1.0);
            let keys = problem.k.chunks_mut(16).enumerate().filter(|(key, _)| key % 1199 != 1198);
            keys.for_each(|(_, row)| row[0] = f32::NEG_INFINITY);
        });
        let rotates = attention.positions().is_some_and(|positions| positions.rope().is_some());
        for (nan, infinite) in nan.iter().zip(&infinite) {
            let some = nan.nan < 32 && nan.finite > 0;
            assert!(nan.nan > 0 && (some || !attention.is_causal()), "{name}: {nan:?}");
            assert!(infinite.nan == 0 && infinite.spoilt > 0, "{name}: {infinite:?}");
        }
        // Infinities that are rotated may be NaN; a cap makes them numbers; and all rows of full
        // attention see the key that is left.
        let has_empty = attention.is_causal() && !rotates && attention.soft_cap().is_none();
        assert!(!has_empty || hidden.iter().all(|kinds| kinds.empty > 0), "{name}: {hidden:?}");
    }
}
