//! Gradients of the native engine against the f64 oracle, over the same cases as the kernels.

use crate::common::cases::{self, Case};
use crate::common::gradients::{self, Backward, Got};
use crate::common::native::{Numbers, on, tensors};
use crate::common::{Problem, Storage};
use prflash::native::{NativeBackwardOperands, NativeBackwardPlan, NativeOptions};
use prflash::{Layout, Tables};

mod properties;

impl Backward {
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
        let output_at = self.output_layout(storage).unwrap();
        let laid_out = |values: &[f32]| {
            let mut numbers = vec![f32::NAN; output_at.extent()];
            output_at.scatter(values, &mut numbers).unwrap();
            Numbers::new(attention.output(), &numbers)
        };
        let (output, d_output) = (laid_out(output), laid_out(&self.d_output));
        let zeros = |layout: &Layout| Numbers::new(attention.storage(), &vec![9.0; layout.extent()]);
        let [mut dq, mut dk, mut dv] = [q_at, k_at, v_at].map(zeros);
        let [sinks, slopes] = self.has();
        let of_heads = |has: bool| vec![9.0; if has { shape.heads() } else { 0 }];
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
        let [got, three] = [1, 3].map(|threads| self.run(&on(threads), storage, tables));
        got.assert_same_bits(&three, &format!("three threads: {story}"));
        self.compare(&got, tables, &format!("{story}, {storage:?}"))
    }
}

fn check(cases: impl Iterator<Item = Case>) {
    gradients::for_each(cases, |backward, storage, tables, story| {
        backward.check(storage, tables, story);
    });
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
fn wide_heads() {
    check(cases::wide_heads());
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
    check(gradients::positions(&[(150, 150), (70, 200)]));
    check(gradients::positions_with_more(Storage::TokensFirst));
}

#[test]
fn sinks() {
    check(std::iter::once(gradients::beside_sinks()));
}

/// Inputs of unit variance, dense and f32: the promised error.
#[test]
fn errors_are_within_what_is_promised() {
    for (len, dim, attention) in gradients::promised() {
        let backward = Backward::of_unit_variance(len, dim, attention);
        let worst = backward.check(Storage::HeadsFirst, &Tables::new(), "unit variance");
        println!("{len} tokens, D = {dim}: {worst:.2e} of the largest gradient");
        assert!(worst < 4e-6, "{len} tokens, D = {dim}: {worst:.2e}");
    }
}
