//! Gradients on the device against the f64 oracle.

use crate::common::cases::{self, Case};
use crate::common::gradients::{self, Backward, Got};
use crate::common::{Problem, Storage, gpu};
use prflash::{Context, DType, Layout, Tables, Tensor};

mod of_heads;
mod properties;
mod refusals;

impl Backward {
    pub(super) fn run(&self, context: &Context, storage: Storage, tables: &Tables<'_>) -> Got {
        let Problem { attention, shape, .. } = &self.problem;
        let [q, k, v] = self.problem.upload(context, storage).unwrap();
        let forward = attention.plan(context, shape).unwrap().run(&q, &k, &v, tables).unwrap();
        let plan = attention.plan_backward(context, shape).unwrap();
        let layout = self.output_layout(storage).unwrap();
        let d_output = Tensor::upload(context, attention.output(), layout, &self.d_output).unwrap();
        let rows = Layout::rows(shape.batch(), shape.heads(), shape.q_len()).unwrap();
        let d_lse = self.d_lse.as_ref();
        let d_lse = d_lse.map(|d_lse| Tensor::upload(context, DType::F32, rows, d_lse).unwrap());
        let d_lse = d_lse.as_ref().map(Tensor::view);
        let got = plan.run([&q, &k, &v], &forward, d_output.view(), d_lse, tables).unwrap();
        let read = |tensor: Tensor| tensor.read_blocking(context).unwrap();
        let [dq, dk, dv] = [got.dq, got.dk, got.dv].map(read);
        let [sinks, slopes] = [got.d_sinks, got.d_slopes].map(|of| of.map_or(Vec::new(), read));
        Got { dq, dk, dv, sinks, slopes }
    }

    /// Compares every gradient with the oracle's, and gives the largest error of each over its
    /// largest number.
    pub(super) fn check(&self, context: &Context, storage: Storage, tables: &Tables<'_>, story: &str) -> f64 {
        self.compare(&self.run(context, storage, tables), tables, &format!("{story}, {storage:?}"))
    }
}

fn check(name: &str, cases: impl Iterator<Item = Case>) {
    let Some(context) = gpu(name) else { return };
    gradients::for_each(cases, |backward, storage, tables, story| {
        backward.check(&context, storage, tables, story);
    });
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
fn mask_tensors() {
    // Every form and broadcast, and those beside sinks and positions.
    let cases = cases::masks().step_by(5).chain(cases::masks().skip(1).step_by(10));
    check("gradients of masked scores", cases);
}

#[test]
fn positions() {
    check("gradients with positions", gradients::positions(&[(150, 150)]));
}

#[test]
fn positions_with_everything_else() {
    let cases = gradients::positions_with_more(Storage::HeadsFirst);
    check("gradients with positions and everything else", cases);
}

#[test]
fn sinks() {
    check("gradients beside sinks", std::iter::once(gradients::beside_sinks()));
}

/// Inputs of unit variance, dense and f32: the promised error.
#[test]
fn errors_are_within_what_is_promised() {
    let Some(context) = gpu("errors of gradients") else { return };
    for (len, dim, attention) in gradients::promised() {
        let backward = Backward::of_unit_variance(len, dim, attention);
        let worst = backward.check(&context, Storage::HeadsFirst, &Tables::new(), "unit variance");
        println!("{len} tokens, D = {dim}: {worst:.2e} of the largest gradient");
        assert!(worst < 4e-6, "{len} tokens, D = {dim}: {worst:.2e}");
    }
}
