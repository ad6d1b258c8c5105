//! The numbers that the project promises, on the attention inputs of a real model.

use crate::common::native::on;
use crate::common::{Problem, Storage};
use prflash::verify::{Tolerance, compare};
use prflash::{Attention, DType, PlanOptions, Tables};

/// With queries and keys that were rotated before, or that the engine rotates.
fn check(dtype: DType, fused: bool, bound: f64) {
    for layer in testkit::fixture::load(1280).unwrap() {
        let (attention, q, k) = match fused {
            true => (layer.attention(), &layer.unrotated_q, &layer.unrotated_k),
            false => (Attention::causal(), &layer.q, &layer.k),
        };
        let round = |values: &[f32]| values.iter().map(|&x| dtype.round(x)).collect();
        let problem = Problem {
            attention: attention.with_storage(dtype).with_output(dtype),
            options: PlanOptions::new(),
            shape: layer.shape,
            q: round(q),
            k: round(k),
            v: round(&layer.v),
        };
        let plan = problem.attention.plan_native(&layer.shape, &on(2)).unwrap();
        let got = problem.run_native(&plan, Storage::HeadsFirst, &Tables::new());
        let allowed = Tolerance::absolute(bound * layer.max_value());
        let report = compare(&got.output, &problem.exact(&Tables::new()).output, allowed).unwrap();
        let story = format!("layer {}, {dtype}, rotated by the engine: {fused}: {report}", layer.index);
        println!("{story}");
        assert!(report.passed(), "{story}");
    }
}

#[test]
fn single_precision() {
    check(DType::F32, false, 2e-6);
    check(DType::F32, true, 2e-6);
}

#[test]
fn half_precision_storage() {
    check(DType::F16, false, 2e-3);
    check(DType::F16, true, 2e-3);
}
