//! Positions in the oracle, against formulas written out again here and against another
//! implementation. No GPU.

use prflash::attention::PositionIds;
use prflash::position::{Distance, LongRope, Pairing, Scaling, Slopes, harmonic_number};
use prflash::reference::{self, Exact};
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, Bias, BlockGrid, DType, Documents, Positions, Profile, Result, Rope, Schedule, Seed, Shape,
    Systematic, Tables,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

struct Inputs {
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Inputs {
    fn new(shape: Shape) -> Self {
        let mut rng = SmallRng::seed_from_u64(11);
        let mut numbers = |heads: usize, len: usize| -> Vec<f32> {
            (0..shape.batch() * heads * len * shape.head_dim()).map(|_| rng.random_range(-2.0..2.0)).collect()
        };
        Self {
            q: numbers(shape.heads(), shape.q_len()),
            k: numbers(shape.kv_heads(), shape.kv_len()),
            v: numbers(shape.kv_heads(), shape.kv_len()),
            shape,
        }
    }

    fn exact_with(&self, attention: &Attention, tables: &Tables<'_>) -> Exact {
        reference::attention(attention, &self.shape, &self.q, &self.k, &self.v, tables).unwrap()
    }

    fn exact(&self, positions: &Positions) -> Exact {
        self.exact_with(&Attention::causal().with_positions(positions.clone()), &Tables::new())
    }

    /// Attention with the score `score(head, i, j, ⟨q, k⟩/√D)`, i and j absolute, of every key that
    /// `visible(i, j)`; batch 1.
    fn plain(
        &self,
        visible: impl Fn(i64, i64) -> bool,
        score: impl Fn(usize, i64, i64, &[f32], &[f32]) -> f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let (shape, dim) = (&self.shape, self.shape.head_dim());
        let (mut output, mut lse) = (Vec::new(), Vec::new());
        for head in 0..shape.heads() {
            let kv = head / shape.heads_per_kv_head() * shape.kv_len();
            for row in 0..shape.q_len() {
                let i = shape.first_position() + row as i64;
                let query = &self.q[(head * shape.q_len() + row) * dim..][..dim];
                let mut sums = vec![0.0; dim];
                let mut total = 0.0;
                for j in (0..shape.kv_len()).filter(|&j| visible(i, j as i64)) {
                    let key = &self.k[(kv + j) * dim..][..dim];
                    let weight = score(head, i, j as i64, query, key).exp();
                    total += weight;
                    for (sum, &x) in sums.iter_mut().zip(&self.v[(kv + j) * dim..][..dim]) {
                        *sum += weight * f64::from(x);
                    }
                }
                output.extend(sums.iter().map(|sum| if total > 0.0 { sum / total } else { 0.0 }));
                lse.push(total.ln());
            }
        }
        (output, lse)
    }
}

/// The inner product ⟨q, k⟩/√D.
fn content(q: &[f32], k: &[f32]) -> f64 {
    let dot: f64 = q.iter().zip(k).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    dot / (q.len() as f64).sqrt()
}

/// The same after turning pairs (2i, 2i+1): the real part of `Σ q·conj(k)·e^{i(p−r)ω}` over pairs
/// as complex numbers.
fn turned_content(q: &[f32], k: &[f32], lag: i64, base: f64) -> f64 {
    let dim = q.len();
    let pair = |c: usize| {
        let angle = lag as f64 * base.powf(-((2 * c) as f64) / dim as f64);
        let [qx, qy, kx, ky] = [q[2 * c], q[2 * c + 1], k[2 * c], k[2 * c + 1]].map(f64::from);
        (qx * kx + qy * ky) * angle.cos() - (qy * kx - qx * ky) * angle.sin()
    };
    (0..dim / 2).map(pair).sum::<f64>() / (dim as f64).sqrt()
}

fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let equal = got == want; // infinities
        assert!(equal || (got - want).abs() <= tolerance, "{what} at {index}: got {got}, expected {want}");
    }
}

fn causal(i: i64, j: i64) -> bool {
    j <= i
}

fn rope() -> Rope {
    Rope::new(16, 1e4, Pairing::Interleaved).unwrap()
}

fn bias(distance: Distance) -> Bias {
    Bias::new(distance, Slopes::Alibi).unwrap()
}

/// Everything at once.
fn all(length: f64) -> Positions {
    Positions::new()
        .with_rope(rope())
        .with_bias(bias(Distance::Harmonic))
        .with_harmonic_factor(length)
        .unwrap()
}

/// GQA, and more keys than queries.
fn shape() -> Shape {
    Shape::new(6, 2, 40, 16).unwrap().with_kv_len(53).unwrap()
}

/// ALiBi's slopes for six heads, written out.
const SLOPES: [f64; 6] = [1.0 / 4.0, 1.0 / 16.0, 1.0 / 64.0, 1.0 / 256.0, 1.0 / 2.0, 1.0 / 8.0];

#[test]
fn no_weight_is_rotary_attention() {
    let inputs = Inputs::new(shape());
    let rotary = Positions::from(rope());
    let got = inputs.exact(&rotary);
    let (output, lse) = inputs.plain(causal, |_, i, j, q, k| turned_content(q, k, i - j, 1e4));
    assert_close("output", &got.output, &output, 1e-12);
    assert_close("lse", &got.lse, &lse, 1e-12);
    let weightless = bias(Distance::Linear).with_weight(0.0).unwrap();
    assert_eq!(inputs.exact(&rotary.clone().with_bias(weightless)), got);

    // And rotating queries and keys beforehand is the same, but for their rounding to f32.
    for pairing in [Pairing::Interleaved, Pairing::Half] {
        let rope = Rope::new(16, 1e4, pairing).unwrap().with_rotary_dim(8).unwrap();
        let rope = rope.with_scaling(Scaling::yarn(8.0, 64)).unwrap();
        let mut before = Inputs::new(shape());
        before.q.chunks_exact_mut(40 * 16).for_each(|head| rope.rotate(head, 13).unwrap());
        before.k.chunks_exact_mut(53 * 16).for_each(|head| rope.rotate(head, 0).unwrap());
        let want = before.exact(&Positions::new());
        let got = inputs.exact(&Positions::from(rope));
        assert_close("rotated beforehand", &got.output, &want.output, 1e-5);
    }
}

#[test]
fn biases_are_their_formulas() {
    let inputs = Inputs::new(shape());
    let check = |what: &str, positions: Positions, phi: &dyn Fn(f64) -> f64| {
        let got = inputs.exact(&positions);
        let score = |h: usize, i, j, q: &[f32], k: &[f32]| content(q, k) - SLOPES[h] * phi((i - j) as f64);
        let (output, lse) = inputs.plain(causal, score);
        assert_close(what, &got.output, &output, 1e-12);
        assert_close(what, &got.lse, &lse, 1e-12);
    };
    check("ALiBi", Bias::alibi().into(), &|lag| lag);
    check("KERPLE-log", bias(Distance::Log { rate: 0.7 }).into(), &|lag| (1.0 + 0.7 * lag).ln());
    let harmonic = |lag: f64| (1..=lag as u64).map(|k| 1.0 / k as f64).sum::<f64>();
    check("harmonic", bias(Distance::Harmonic).into(), &harmonic);
    check("capped", bias(Distance::CappedHarmonic { cap: 9 }).into(), &|lag| harmonic(lag.min(9.0)));
    check("weight", bias(Distance::Linear).with_weight(3.0).unwrap().into(), &|lag| 3.0 * lag);
    let given = Slopes::Given(SLOPES.map(|m| 2.0 * m).to_vec());
    check("given", Bias::new(Distance::Linear, given).unwrap().into(), &|lag| 2.0 * lag);
}

/// The whole score in its order, causal and not, where some positions are negative.
#[test]
fn the_factored_combination_is_its_formula() {
    let attention = Attention::causal().with_soft_cap(1.5).unwrap().with_positions(all(5.0));
    let score = |h: usize, i: i64, j: i64, q: &[f32], k: &[f32]| {
        let lag = i.abs_diff(j);
        let a = 1.0 / (1.0 + lag as f64 / 5.0);
        a * 1.5 * (turned_content(q, k, i - j, 1e4) / 1.5).tanh()
            - SLOPES[h] * (1.0 - a) * harmonic_number(lag)
    };
    let more_queries = Shape::new(6, 2, 53, 16).unwrap().with_kv_len(40).unwrap();
    for shape in [shape(), more_queries] {
        let inputs = Inputs::new(shape);
        let got = inputs.exact_with(&attention, &Tables::new());
        let (output, lse) = inputs.plain(causal, score);
        assert_close("causal output", &got.output, &output, 1e-12);
        assert_close("causal lse", &got.lse, &lse, 1e-12);
        let full = Attention::full().with_soft_cap(1.5).unwrap().with_positions(all(5.0));
        let got = inputs.exact_with(&full, &Tables::new());
        let (output, lse) = inputs.plain(|_, _| true, score);
        assert_close("full output", &got.output, &output, 1e-12);
        assert_close("full lse", &got.lse, &lse, 1e-12);
    }
}

/// Biases stand beside the importance correction, and both only on what the schedule and the window
/// leave.
#[test]
fn schedules_and_windows_go_with_positions() {
    let inputs = Inputs::new(Shape::new(6, 2, 100, 16).unwrap());
    let grid = BlockGrid::causal(&inputs.shape).with_block_size(16).unwrap();
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
    let attention = Attention::causal().with_correction(1.0).unwrap().with_window(70).unwrap();
    let got = inputs.exact_with(&attention.with_positions(all(5.0)), &Tables::from(&schedule));
    let ln_p = |h: usize, i: i64, j: i64| {
        let mut row = schedule.row(grid.group_of_head(h), i as usize / 16);
        row.find(|entry| entry.block == j as usize / 16).map(|entry| f64::from(entry.ln_p))
    };
    let score = |h: usize, i: i64, j: i64, q: &[f32], k: &[f32]| {
        let a = 5.0 / (5 + i - j) as f64;
        let bias = SLOPES[h] * (1.0 - a) * harmonic_number((i - j) as u64);
        ln_p(h, i, j).map_or(f64::NEG_INFINITY, |ln_p| a * turned_content(q, k, i - j, 1e4) - bias - ln_p)
    };
    let (output, lse) = inputs.plain(|i, j| j <= i && i - j < 70, score);
    assert_close("output", &got.output, &output, 1e-12);
    assert_close("lse", &got.lse, &lse, 1e-12);
}

#[test]
fn only_lags_matter() {
    let inputs = Inputs::new(shape());
    let attention = Attention::causal().with_positions(all(5.0));
    let want = inputs.exact_with(&attention, &Tables::new());
    for shift in [0, 1000, 1 << 20] {
        let ids = |range: std::ops::Range<u32>| range.map(|p| p + shift).collect::<Vec<_>>();
        let ids = PositionIds::new(&ids(13..53), &ids(0..53)).unwrap();
        let got = inputs.exact_with(&attention, &Tables::from(&ids));
        if shift == 0 {
            assert_eq!(got, want);
        }
        assert_close("shifted", &got.output, &want.output, 1e-8);
        assert_close("shifted", &got.lse, &want.lse, 1e-8);
    }
}

/// Queries that are all moved further away lower every linear bias of a row alike: the log-sum-exp
/// falls, the output stays.
#[test]
fn a_constant_on_a_row_changes_nothing() {
    let inputs = Inputs::new(shape());
    let attention = Attention::causal().with_positions(Bias::alibi().into());
    let want = inputs.exact_with(&attention, &Tables::new());
    let queries: Vec<u32> = (113..153).collect();
    let ids = PositionIds::new(&queries, &(0..53).collect::<Vec<_>>()).unwrap();
    let got = inputs.exact_with(&attention, &Tables::from(&ids));
    assert_close("output", &got.output, &want.output, 1e-12);
    let lower: Vec<f64> =
        want.lse.iter().enumerate().map(|(row, lse)| lse - 100.0 * SLOPES[row / 40]).collect();
    assert_close("lse", &got.lse, &lower, 1e-12);
}

/// Ids steer rotation and bias, and nothing else: spread threefold they undo a threefold slower
/// rotation and a threefold smaller weight, under the same mask.
#[test]
fn ids_steer_rotation_and_bias_only() {
    let inputs = Inputs::new(shape());
    let positions = |rope: Rope, weight: f64| {
        Positions::new().with_rope(rope).with_bias(Bias::alibi().with_weight(weight).unwrap())
    };
    let attention = Attention::causal().with_window(20).unwrap();
    let want = inputs.exact_with(&attention.clone().with_positions(positions(rope(), 0.3)), &Tables::new());
    let slow = rope().with_scaling(Scaling::Linear { factor: 3.0 }).unwrap();
    let ids = |range: std::ops::Range<u32>| range.map(|p| 3 * p).collect::<Vec<_>>();
    let ids = PositionIds::new(&ids(13..53), &ids(0..53)).unwrap();
    let got = inputs.exact_with(&attention.with_positions(positions(slow, 0.1)), &Tables::from(&ids));
    assert_close("spread ids", &got.output, &want.output, 1e-12);

    // Keys in another order, with their ids, are the same keys.
    let mut turned = Inputs::new(shape());
    turned.k.chunks_exact_mut(53 * 16).for_each(|head| reverse_rows(head, 16));
    turned.v.chunks_exact_mut(53 * 16).for_each(|head| reverse_rows(head, 16));
    let ids = PositionIds::new(&(13..53).collect::<Vec<_>>(), &(0..53).rev().collect::<Vec<_>>()).unwrap();
    let full = Attention::full().with_positions(all(5.0));
    let want = inputs.exact_with(&full, &Tables::new());
    assert_close("reversed", &turned.exact_with(&full, &Tables::from(&ids)).output, &want.output, 1e-12);
}

fn reverse_rows(head: &mut [f32], dim: usize) {
    let rows: Vec<f32> = head.chunks_exact(dim).rev().flatten().copied().collect();
    head.copy_from_slice(&rows);
}

/// A decode step, a chunk and a packed document give the bits of the same rows in the whole
/// sequence.
#[test]
fn offsets_and_documents_keep_their_rows() {
    let whole = Inputs::new(Shape::new(6, 2, 48, 16).unwrap());
    let rows = |values: &[f32], range: std::ops::Range<usize>| -> Vec<f32> {
        values.chunks_exact(48 * 16).flat_map(|h| &h[range.start * 16..range.end * 16]).copied().collect()
    };
    let exact_rows = |exact: &Exact, range: std::ops::Range<usize>| -> Vec<f64> {
        let heads = exact.output.chunks_exact(48 * 16);
        heads.flat_map(|head| &head[range.start * 16..range.end * 16]).copied().collect()
    };
    let positions = all(5.0);
    let prefill = whole.exact(&positions);
    for range in [0..20, 20..47, 47..48] {
        let part = Inputs {
            shape: whole.shape.with_q_len(range.len()).unwrap().with_kv_len(range.end).unwrap(),
            q: rows(&whole.q, range.clone()),
            k: rows(&whole.k, 0..range.end),
            v: rows(&whole.v, 0..range.end),
        };
        assert_eq!(part.exact(&positions).output, exact_rows(&prefill, range));
    }
    let documents = Documents::from_lengths(&[30, 18]).unwrap();
    let ids: Vec<u32> = (0..30).chain(0..18).collect();
    let ids = PositionIds::new(&ids, &ids).unwrap();
    let attention = Attention::causal().with_positions(positions.clone());
    let packed = whole.exact_with(&attention, &Tables::from(&documents).with_position_ids(&ids));
    for range in [0..30, 30..48] {
        let alone = Inputs {
            shape: Shape::new(6, 2, range.len(), 16).unwrap(),
            q: rows(&whole.q, range.clone()),
            k: rows(&whole.k, range.clone()),
            v: rows(&whole.v, range.clone()),
        };
        assert_eq!(alone.exact(&positions).output, exact_rows(&packed, range));
    }
}

/// One set of ids serves all sequences; or each has its own.
#[test]
fn every_sequence_has_its_ids() {
    let inputs = Inputs::new(Shape::new(2, 1, 5, 16).unwrap().with_batch(2).unwrap());
    let attention = Attention::causal().with_positions(all(5.0));
    let near = PositionIds::new(&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]).unwrap();
    let far = PositionIds::new(&[0, 10, 20, 30, 40], &[0, 10, 20, 30, 40]).unwrap();
    let run = |tables: Tables<'_>| inputs.exact_with(&attention, &tables).output;
    let (all_near, all_far) = (run(Tables::from(&near)), run(Tables::from(&far)));
    let each = run(Tables::from(&near).with_position_ids(&far));
    let half = each.len() / 2;
    assert_eq!(all_near, run(Tables::new()));
    assert_eq!((&each[..half], &each[half..]), (&all_near[..half], &all_far[half..]));
    assert_ne!(all_near[half..], all_far[half..]);
}

#[test]
fn magnitudes_count_the_bias_and_survive_the_rotation() {
    let inputs = Inputs::new(shape());
    let plain = inputs.exact(&Positions::new());
    assert_eq!(plain.largest().rotated, 0.0);
    let linear = inputs.exact(&Bias::alibi().into());
    assert!(linear.largest().score >= 52.0 * 0.5, "{}", linear.largest().score);
    let rotary = inputs.exact(&rope().into());
    assert!(rotary.largest().rotated == rotary.largest().score);
    let partial = inputs.exact(&rope().with_rotary_dim(4).unwrap().into());
    assert!(partial.largest().rotated < partial.largest().score);
    // Pairs count with their lengths, wherever they point.
    let ids = PositionIds::new(&[7; 40], &(0..53).collect::<Vec<_>>()).unwrap();
    let attention = Attention::causal().with_positions(rope().into());
    let elsewhere = inputs.exact_with(&attention, &Tables::from(&ids));
    assert!((elsewhere.largest().score - rotary.largest().score).abs() < 1e-12);
}

/// The tolerances of the comparator, wider for rotation and bias, still reject what kernels get
/// wrong.
#[test]
fn mutants_are_rejected() {
    let inputs = Inputs::new(shape());
    let right = Positions::new().with_rope(rope()).with_bias(bias(Distance::Harmonic));
    let exact = inputs.exact(&right);
    let tolerance = Tolerances::of_output(&exact, &inputs.shape, DType::F32);
    let accepts = |output: &[f64]| {
        let got: Vec<f32> = output.iter().map(|&x| x as f32).collect();
        compare(&got, &exact.output, &tolerance).unwrap().passed()
    };
    assert!(accepts(&exact.output));
    let halves = Rope::new(16, 1e4, Pairing::Half).unwrap();
    let shifted = SLOPES.map(|m| m / 1.001).to_vec();
    let heads = [SLOPES[1], SLOPES[0], SLOPES[2], SLOPES[3], SLOPES[4], SLOPES[5]].to_vec();
    let given = |slopes| Bias::new(Distance::Harmonic, Slopes::Given(slopes)).unwrap();
    for (what, wrong) in [
        ("another pairing", right.clone().with_rope(halves)),
        ("another base", right.clone().with_rope(Rope::new(16, 10_010.0, Pairing::Interleaved).unwrap())),
        ("no rotation", bias(Distance::Harmonic).into()),
        ("no bias", rope().into()),
        ("ln(1 + Δ) for H_Δ", right.clone().with_bias(bias(Distance::Log { rate: 1.0 }))),
        (
            "a cap at the last lag but one",
            right.clone().with_bias(bias(Distance::CappedHarmonic { cap: 51 })),
        ),
        ("slopes off by a thousandth", right.clone().with_bias(given(shifted))),
        ("swapped slopes", right.clone().with_bias(given(heads))),
        ("a weak factor", right.clone().with_harmonic_factor(1e5).unwrap()),
    ] {
        assert!(!accepts(&inputs.exact(&wrong).output), "{what}");
    }
}

#[test]
fn the_oracle_refuses_positions_for_other_sizes() {
    let inputs = Inputs::new(shape());
    let refused = |positions: Positions, tables: &Tables<'_>| {
        let Inputs { shape, q, k, v } = &inputs;
        let attention = Attention::causal().with_positions(positions);
        reference::attention(&attention, shape, q, k, v, tables).unwrap_err().argument().unwrap().to_owned()
    };
    let wide = Rope::new(32, 1e4, Pairing::Half).unwrap();
    assert_eq!(refused(wide.into(), &Tables::new()), "positions");
    let two = Bias::new(Distance::Linear, Slopes::Given(vec![1.0; 2])).unwrap();
    assert_eq!(refused(two.into(), &Tables::new()), "slopes");
    let ids = PositionIds::new(&[0; 40], &[0; 52]).unwrap();
    assert_eq!(refused(Positions::new(), &Tables::from(&ids)), "position_ids");
    let two = Tables::from(&ids).with_position_ids(&ids);
    assert_eq!(refused(Positions::new(), &two), "position_ids");
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/positions.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Within a few roundings of f64: the other side computes in f64 too.
fn assert_same(story: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{story}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got / want - 1.0).abs() <= 1e-13, "{story} at {index}: got {got}, expected {want}");
    }
}

/// Against `modeling_rope_utils` of Hugging Face transformers (`tests/golden/README.md`). Its NTK
/// type is "dynamic", whose base at length l is `base·(f·l/n − f + 1)^(r/(r−2))`: at l = 2n and f =
/// s − 1 that is `base·s^(r/(r−2))`.
#[test]
fn frequencies_are_those_of_transformers() {
    let golden = golden();
    let cases = golden["rope"].as_array().unwrap();
    assert_eq!(cases.len(), 13);
    for case in cases {
        let number = |name: &str| case[name].as_f64();
        let size = |name: &str| case[name].as_u64().unwrap() as usize;
        let factor = number("factor").unwrap();
        let scaling = match case["kind"].as_str().unwrap() {
            "linear" => Scaling::Linear { factor },
            "ntk_aware" => Scaling::NtkAware { factor },
            "yarn" => Scaling::Yarn {
                factor,
                original_len: size("original_len"),
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                temperature: number("temperature"),
                rounded: case["rounded"].as_bool().unwrap_or(true),
            },
            "llama3" => Scaling::Llama3 {
                factor,
                low_freq_factor: number("low_freq_factor").unwrap(),
                high_freq_factor: number("high_freq_factor").unwrap(),
                original_len: size("original_len"),
            },
            other => panic!("unknown kind {other}"),
        };
        let rope = |scaling| -> Result<Rope> {
            Rope::new(size("head_dim"), number("base").unwrap(), Pairing::Half)?
                .with_rotary_dim(size("rotary_dim"))?
                .with_scaling(scaling)
        };
        let (got, story) = (rope(scaling).unwrap(), format!("{scaling:?}"));
        assert_same(&story, got.frequencies(), &numbers(&case["frequencies"]));
        assert_same(&story, &[got.temperature()], &[number("attention_factor").unwrap()]);
        if scaling == (Scaling::Linear { factor: 1.0 }) {
            assert_eq!(rope(Scaling::None).unwrap().frequencies(), got.frequencies());
        }
    }
}

/// LongRoPE against the same, at lengths within the one in training and past it.
#[test]
fn long_ropes_are_those_of_transformers() {
    let golden = golden();
    let cases = golden["long_rope"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let size = |name: &str| case[name].as_u64().unwrap() as usize;
        let rope = Rope::new(size("head_dim"), case["base"].as_f64().unwrap(), Pairing::Half).unwrap();
        let rope = rope.with_rotary_dim(size("rotary_dim")).unwrap();
        let rope = match case["temperature"].as_f64() {
            Some(temperature) => rope.with_temperature(temperature).unwrap(),
            None => rope,
        };
        let [short, long] = ["short_factor", "long_factor"].map(|name| numbers(&case[name]));
        let rope = LongRope::new(rope, size("original_len"), size("max_len"), &short, &long).unwrap();
        let (len, story) = (size("len"), format!("{} tokens of {}", size("len"), size("original_len")));
        assert_same(&story, rope.rope(len).frequencies(), &numbers(&case["frequencies"]));
        assert_same(&story, &[rope.rope(len).temperature()], &[case["attention_factor"].as_f64().unwrap()]);
    }
}

/// Against `build_alibi_tensor` of Bloom in Hugging Face transformers, which agrees with MPT's
/// (`tests/golden/README.md`).
#[test]
fn alibi_slopes_are_those_of_transformers() {
    let golden = golden();
    let cases = golden["alibi"].as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let heads = case["heads"].as_u64().unwrap() as usize;
        let got = Slopes::Alibi.values(heads).unwrap();
        assert_same(&format!("{heads} heads"), &got, &numbers(&case["slopes"]));
    }
}
