//! Gradients of the native engine against the f64 oracle, over the same cases as the kernels.

use crate::common::cases::{self, Case};
use crate::common::native::{Numbers, on, tensors};
use crate::common::{Problem, Storage, numbers};
use prflash::native::{NativeBackwardOperands, NativeBackwardPlan, NativeOptions};
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{Attention, Layout, Shape, Tables, reference};

mod properties;

/// The gradients of a problem, as contiguous numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Got {
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
    pub(super) sinks: Vec<f32>,
    pub(super) slopes: Vec<f32>,
}

impl Got {
    fn bits(&self) -> Vec<u32> {
        let Self { dq, dk, dv, sinks, slopes } = self;
        [dq, dk, dv, sinks, slopes].into_iter().flatten().map(|x| x.to_bits()).collect()
    }
}

/// A problem whose output has gradients.
pub(super) struct Backward {
    pub(super) problem: Problem,
    pub(super) d_output: Vec<f32>,
    pub(super) d_lse: Option<Vec<f32>>,
}

impl Backward {
    pub(super) fn new(problem: Problem, seed: u64) -> Self {
        let problem = Problem { attention: problem.attention.with_lse(true), ..problem };
        let (shape, output) = (&problem.shape, problem.attention.output());
        let rows = shape.batch() * shape.heads() * shape.q_len();
        let d_output = numbers(seed + 100, rows * shape.value_dim());
        let d_output = d_output.into_iter().map(|x| output.round(x)).collect();
        let d_lse = seed.is_multiple_of(3).then(|| numbers(seed + 200, rows));
        Self { problem, d_output, d_lse }
    }

    /// What the attention has beside tensors: sinks, and slopes.
    fn has(&self) -> [bool; 2] {
        let attention = &self.problem.attention;
        let biased = attention.positions().is_some_and(|positions| positions.bias().is_some());
        [attention.sinks().is_some(), biased]
    }

    pub(super) fn run(&self, options: &NativeOptions, storage: Storage, tables: &Tables<'_>) -> Got {
        let Problem { attention, shape, .. } = &self.problem;
        let forward = attention.plan_native(shape, options).unwrap();
        let forward = self.problem.run_native(&forward, storage, tables);
        let plan = attention.plan_backward_native(shape, options).unwrap();
        self.run_by(&plan, (&forward.output, &forward.lse.unwrap()), storage, tables)
    }

    /// From the output and log-sum-exp of a forward pass.
    fn run_by(
        &self,
        plan: &NativeBackwardPlan,
        (output, lse): (&[f32], &[f32]),
        storage: Storage,
        tables: &Tables<'_>,
    ) -> Got {
        let Problem { attention, shape, .. } = &self.problem;
        let [(q, q_at), (k, k_at), (v, v_at)] = &tensors(&self.problem, storage);
        let (batch, heads, len, dim) = (shape.batch(), shape.heads(), shape.q_len(), shape.value_dim());
        let output_at = match storage {
            Storage::HeadsFirst => Layout::heads_first(batch, heads, len, dim).unwrap(),
            _ => Layout::tokens_first(batch, len, heads, dim).unwrap(),
        };
        let laid_out = |values: &[f32]| {
            let mut numbers = vec![f32::NAN; output_at.extent()];
            output_at.scatter(values, &mut numbers).unwrap();
            Numbers::new(attention.output(), &numbers)
        };
        let (output, d_output) = (laid_out(output), laid_out(&self.d_output));
        let zeros = |layout: &Layout| Numbers::new(attention.storage(), &vec![9.0; layout.extent()]);
        let [mut dq, mut dk, mut dv] = [q_at, k_at, v_at].map(zeros);
        let [sinks, slopes] = self.has();
        let of_heads = |has: bool| vec![9.0; if has { heads } else { 0 }];
        let (mut d_sinks, mut d_slopes) = (of_heads(sinks), of_heads(slopes));
        let mut operands = NativeBackwardOperands {
            q: q.view(*q_at).unwrap(),
            k: k.view(*k_at).unwrap(),
            v: v.view(*v_at).unwrap(),
            output: output.view(output_at).unwrap(),
            lse,
            d_output: d_output.view(output_at).unwrap(),
            d_lse: self.d_lse.as_deref(),
            dq: dq.view_mut(*q_at).unwrap(),
            dk: dk.view_mut(*k_at).unwrap(),
            dv: dv.view_mut(*v_at).unwrap(),
            d_sinks: sinks.then_some(&mut d_sinks[..]),
            d_slopes: slopes.then_some(&mut d_slopes[..]),
        };
        plan.run(&mut operands, tables).unwrap();
        Got {
            dq: q_at.gather(&dq.to_f32()).unwrap(),
            dk: k_at.gather(&dk.to_f32()).unwrap(),
            dv: v_at.gather(&dv.to_f32()).unwrap(),
            sinks: d_sinks,
            slopes: d_slopes,
        }
    }

    /// Compares every gradient with the oracle's, on one thread and, to the bit, on three, and
    /// gives the largest error of each over its largest number.
    pub(super) fn check(&self, storage: Storage, tables: &Tables<'_>, story: &str) -> f64 {
        let Problem { attention, shape, q, k, v, .. } = &self.problem;
        let d_lse = self.d_lse.as_deref();
        let exact = reference::attention_backward(attention, shape, [q, k, v], &self.d_output, d_lse, tables)
            .unwrap();
        let [got, three] = [1, 3].map(|threads| self.run(&on(threads), storage, tables));
        assert!(got.bits() == three.bits(), "other bits on three threads: {story}");
        let mut worst: f64 = 0.0;
        for (name, got, want, terms) in [
            ("dq", &got.dq, &exact.dq, &exact.dq_terms),
            ("dk", &got.dk, &exact.dk, &exact.dk_terms),
            ("dv", &got.dv, &exact.dv, &exact.dv_terms),
        ] {
            let tolerances = Tolerances::of_gradient(terms, shape, attention.output(), attention.storage());
            let report = compare(got, want, tolerances).unwrap();
            assert!(report.passed(), "{name} of {story}: {report}\n{attention:?}, {shape:?}, {storage:?}");
            let largest = want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            worst = worst.max(if largest > 0.0 { report.max_abs_error / largest } else { 0.0 });
        }
        self.check_of_heads(&got, &exact, story);
        worst
    }

    /// Gradients of sinks and slopes, whose terms are at most so large: of a row the gradients of
    /// the output by the largest value, twice, and that of the log-sum-exp; of a slope times the
    /// largest distance.
    fn check_of_heads(&self, got: &Got, exact: &reference::Gradients, story: &str) {
        let Problem { attention, v, .. } = &self.problem;
        let size = |values: &[f32]| values.iter().fold(0.0, |most: f64, x| most.max(f64::from(*x).abs()));
        let gradients: f64 = self.d_output.iter().map(|x| f64::from(*x).abs()).sum();
        let of_lse: f64 = self.d_lse.iter().flatten().map(|x| f64::from(*x).abs()).sum();
        let terms = 2.0 * size(v) * gradients + of_lse;
        let rounding = attention.output().unit_roundoff().max(2e-6);
        let [sinks, slopes] = self.has();
        if sinks {
            let report = compare(&got.sinks, &exact.sinks, Tolerance::absolute(rounding * terms)).unwrap();
            assert!(report.passed(), "sinks of {story}: {report}");
        }
        if slopes {
            let positions = attention.positions().unwrap();
            let farthest = (0..4096).map(|lag| positions.bias_at(lag).abs()).fold(0.0, f64::max);
            let tolerance = Tolerance::absolute(rounding * terms * farthest.max(1.0));
            let report = compare(&got.slopes, &exact.slopes, tolerance).unwrap();
            assert!(report.passed(), "slopes of {story}: {report}");
        }
    }
}

fn check(cases: impl Iterator<Item = Case>) {
    let mut count = 0;
    for (seed, case) in (0..).zip(cases) {
        let Case { story, problem, storage, schedules, documents, ids, masks } = case;
        let small = Problem::random(Attention::causal(), Shape::new(1, 1, 1, 4).unwrap(), 0);
        let tables = Case { schedules, documents, ids, masks, ..Case::new("", small, storage) };
        Backward::new(problem, seed).check(storage, &tables.tables(), &story);
        count += 1;
    }
    assert!(count > 0, "no cases");
}

#[test]
fn short_lengths() {
    // A prime, so that every dimension, length, sharing, type and layout comes.
    check(cases::short_lengths().step_by(11));
}

#[test]
fn a_thousand_tokens() {
    check(cases::a_thousand_tokens().take(4));
}

#[test]
fn queries_and_keys_of_different_lengths() {
    check(cases::queries_and_keys_of_different_lengths().step_by(5));
}

#[test]
fn batches_and_value_dims() {
    check(cases::batches_and_value_dims());
}

#[test]
fn schedules_with_correction() {
    check(cases::schedules_with_correction());
}

#[test]
fn other_head_dims() {
    check(cases::other_head_dims().step_by(3));
}

#[test]
fn document_masks() {
    check(cases::documents());
    check(std::iter::once(cases::a_mask_for_each_sequence_of_a_batch()));
}

#[test]
fn mask_tensors() {
    check(cases::masks());
}

#[test]
fn positions() {
    for (dim, lens) in [(32, (150, 150)), (32, (70, 200))] {
        check(cases::combinations(dim).into_iter().map(|(name, positions)| {
            let shape = Shape::new(4, 2, lens.0, dim).unwrap().with_kv_len(lens.1).unwrap();
            let attention = Attention::causal().with_positions(positions);
            Case::new(name, Problem::random(attention, shape, 3), Storage::HeadsFirst)
        }));
    }
    check(cases::positions_with_everything_else().into_iter().map(|(name, attention, shape)| {
        Case::new(name, Problem::random(attention, shape, 5), Storage::TokensFirst)
    }));
    check(cases::positions_with_tables());
    check(cases::position_ids());
}

#[test]
fn sinks() {
    let shape = Shape::new(4, 2, 150, 32).unwrap().with_kv_len(100).unwrap();
    let attention = Attention::causal().with_sinks(&[-40.0, 0.5, 3.0, 60.0]).unwrap();
    let problem = Problem::random(attention, shape, 3);
    check(std::iter::once(Case::new("sinks", problem, Storage::TokensFirst)));
}

/// Inputs of unit variance, dense and f32: the promised error.
#[test]
fn errors_are_within_what_is_promised() {
    for (len, dim, attention) in [
        (1024, 64, Attention::causal()),
        (1000, 128, Attention::full()),
        (256, 64, Attention::causal().with_window(100).unwrap()),
    ] {
        let shape = Shape::new(2, 1, len, dim).unwrap();
        let mut backward = Backward::new(Problem::random(attention, shape, 1), 1);
        let Problem { q, k, v, .. } = &mut backward.problem;
        // Uniform on ±√3: the variance is 1.
        let unit = |values: &mut Vec<f32>, size: f32| {
            let spread = 3f32.sqrt() / size;
            values.iter_mut().for_each(|x| *x *= spread);
        };
        unit(q, 2.0);
        unit(k, 2.0);
        unit(v, 1.0);
        unit(&mut backward.d_output, 1.0);
        let worst = backward.check(Storage::HeadsFirst, &Tables::new(), "unit variance");
        println!("{len} tokens, D = {dim}: {worst:.2e} of the largest gradient");
        assert!(worst < 4e-6, "{len} tokens, D = {dim}: {worst:.2e}");
    }
}
