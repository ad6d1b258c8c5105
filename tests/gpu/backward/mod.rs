//! Gradients on the device against the f64 oracle.

use crate::common::cases::{self, Case};
use crate::common::{Problem, Storage, gpu, numbers};
use prflash::verify::{Tolerances, compare};
use prflash::{Attention, Context, DType, Layout, Shape, Tables, Tensor, reference};

mod properties;
mod refusals;

/// The gradients of a problem, as contiguous numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Got {
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
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

    pub(super) fn run(&self, context: &Context, storage: Storage, tables: &Tables<'_>) -> Got {
        let Problem { attention, shape, .. } = &self.problem;
        let [q, k, v] = self.problem.upload(context, storage).unwrap();
        let forward = attention.plan(context, shape).unwrap().run(&q, &k, &v, tables).unwrap();
        let plan = attention.plan_backward(context, shape).unwrap();
        let (batch, heads, q_len) = (shape.batch(), shape.heads(), shape.q_len());
        let layout = match storage {
            Storage::HeadsFirst => Layout::heads_first(batch, heads, q_len, shape.value_dim()),
            _ => Layout::tokens_first(batch, q_len, heads, shape.value_dim()),
        };
        let d_output = Tensor::upload(context, attention.output(), layout.unwrap(), &self.d_output).unwrap();
        let rows = Layout::rows(batch, heads, q_len).unwrap();
        let d_lse = self.d_lse.as_ref();
        let d_lse = d_lse.map(|d_lse| Tensor::upload(context, DType::F32, rows, d_lse).unwrap());
        let d_lse = d_lse.as_ref().map(Tensor::view);
        let got = plan.run([&q, &k, &v], &forward, d_output.view(), d_lse, tables).unwrap();
        let [dq, dk, dv] = [got.dq, got.dk, got.dv].map(|tensor| tensor.read_blocking(context).unwrap());
        Got { dq, dk, dv }
    }

    pub(super) fn exact(&self, tables: &Tables<'_>) -> reference::Gradients {
        let Problem { attention, shape, q, k, v, .. } = &self.problem;
        let d_lse = self.d_lse.as_deref();
        reference::attention_backward(attention, shape, [q, k, v], &self.d_output, d_lse, tables).unwrap()
    }

    /// Compares every gradient with the oracle's, and gives the largest error of each over its
    /// largest number.
    pub(super) fn check(&self, context: &Context, storage: Storage, tables: &Tables<'_>, story: &str) -> f64 {
        let (got, exact) = (self.run(context, storage, tables), self.exact(tables));
        let Problem { attention, shape, .. } = &self.problem;
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
        worst
    }
}

fn check(name: &str, cases: impl Iterator<Item = Case>) {
    let Some(context) = gpu(name) else { return };
    for (seed, case) in (0..).zip(cases) {
        let Case { story, problem, storage, schedules, documents, ids, masks } = case;
        let tables = Case { schedules, documents, ids, masks, ..Case::new("", small(), storage) };
        Backward::new(problem, seed).check(&context, storage, &tables.tables(), &story);
    }
}

fn small() -> Problem {
    Problem::random(Attention::causal(), Shape::new(1, 1, 1, 4).unwrap(), 0)
}

#[test]
fn short_lengths() {
    // A prime, so that every dimension, length, sharing, type and layout comes.
    check("gradients of short lengths", cases::short_lengths().step_by(47));
}

#[test]
fn a_thousand_tokens() {
    check("gradients of a thousand tokens", cases::a_thousand_tokens().take(4));
}

#[test]
fn queries_and_keys_of_different_lengths() {
    check("gradients of different lengths", cases::queries_and_keys_of_different_lengths().step_by(19));
}

#[test]
fn batches_and_value_dims() {
    check("gradients of batches", cases::batches_and_value_dims());
}

#[test]
fn schedules_with_correction() {
    check("gradients of schedules", cases::schedules_with_correction());
}

#[test]
fn other_head_dims() {
    check("gradients of other head dims", cases::other_head_dims().step_by(7));
}

#[test]
fn documents() {
    check("gradients of documents", cases::documents());
}

#[test]
fn tables_of_each_sequence() {
    check("gradients of a batch's own tables", std::iter::once(cases::a_mask_for_each_sequence_of_a_batch()));
}

#[test]
fn positions() {
    let shape = Shape::new(4, 2, 150, 32).unwrap();
    let of = |(name, positions)| {
        let attention = Attention::causal().with_positions(positions);
        Case::new(name, Problem::random(attention, shape, 3), Storage::HeadsFirst)
    };
    check("gradients with positions", cases::combinations(32).into_iter().map(of));
}

#[test]
fn positions_with_everything_else() {
    let of =
        |(name, attention, shape)| Case::new(name, Problem::random(attention, shape, 5), Storage::HeadsFirst);
    let all = cases::positions_with_everything_else().into_iter().map(of);
    let all = all.chain(cases::positions_with_tables()).chain(cases::position_ids());
    check("gradients with positions and everything else", all);
}

#[test]
fn sinks() {
    let shape = Shape::new(4, 2, 150, 32).unwrap().with_kv_len(100).unwrap();
    let attention = Attention::causal().with_sinks(&[-40.0, 0.5, 3.0, 60.0]).unwrap();
    let problem = Problem::random(attention, shape, 3);
    check("gradients beside sinks", std::iter::once(Case::new("sinks", problem, Storage::TokensFirst)));
}

/// Inputs of unit variance, dense and f32: the promised error.
#[test]
fn errors_are_within_what_is_promised() {
    let Some(context) = gpu("errors of gradients") else { return };
    for (len, dim, attention) in [
        (1024, 64, Attention::causal()),
        (1024, 128, Attention::causal()),
        (1000, 64, Attention::full()),
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
        let worst = backward.check(&context, Storage::HeadsFirst, &Tables::new(), "unit variance");
        println!("{len} tokens, D = {dim}: {worst:.2e} of the largest gradient");
        assert!(worst < 4e-6, "{len} tokens, D = {dim}: {worst:.2e}");
    }
}
