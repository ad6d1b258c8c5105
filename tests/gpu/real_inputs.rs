//! The numbers that the project promises, on the attention inputs of a real model.

use crate::common::{Problem, Storage, by, gpu};
use prflash::kernels::Kernel;
use prflash::verify::{Tolerance, compare};
use prflash::{Attention, DType, Tables, reference};

/// With queries and keys that the host rotated, or that the kernel rotates.
fn check(storage: DType, output: DType, fused: bool, bound: f64) {
    // All tokens by the kernel that a plan chooses; a quarter by the plainest, of which a software
    // device takes most of the time.
    // Half of them where the kernel rotates: the oracle takes long for each.
    let tokens = if fused { 1920 } else { 3840 };
    check_tokens(tokens, None, storage, output, fused, bound);
    check_tokens(960, Some(Kernel::Naive), storage, output, fused, bound);
}

fn check_tokens(
    tokens: usize,
    kernel: Option<Kernel>,
    storage: DType,
    output: DType,
    fused: bool,
    bound: f64,
) {
    let Some(context) = gpu(&format!("real inputs in {storage}")) else { return };
    for layer in testkit::fixture::load(tokens).unwrap() {
        let (attention, q, k) = match fused {
            true => (layer.attention(), &layer.unrotated_q, &layer.unrotated_k),
            false => (Attention::causal(), &layer.q, &layer.k),
        };
        let attention = attention.with_storage(storage).with_output(output);
        let problem = Problem {
            attention,
            options: by(kernel),
            shape: layer.shape,
            q: q.iter().map(|&x| storage.round(x)).collect(),
            k: k.iter().map(|&x| storage.round(x)).collect(),
            v: layer.v.iter().map(|&x| storage.round(x)).collect(),
        };
        let exact = problem.exact(&Tables::new());
        let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
        let got = problem.run_on(&context, &problem.options, &qkv, &Tables::new());
        let allowed = Tolerance::absolute(bound * layer.max_value());
        let report = compare(&got.output, &exact.output, allowed).unwrap();
        let way = if fused { "rotated in the kernel" } else { "rotated before" };
        let kernel = got.kernel;
        let story = format!("layer {}, {kernel}, {storage} to {output}, {way}: {report}", layer.index);
        println!("{story}");
        assert!(report.passed(), "{story}");
    }
}

#[test]
fn single_precision() {
    check(DType::F32, DType::F32, false, 2e-6);
}

#[test]
fn single_precision_rotated_in_the_kernel() {
    check(DType::F32, DType::F32, true, 2e-6);
}

#[test]
fn half_precision_storage() {
    check(DType::F16, DType::F16, false, 2e-3);
    check(DType::F16, DType::F16, true, 2e-3);
}

/// What rounding Q, K and V to f16 *after* the rotation costs, against the unrounded inputs: a
/// matter of the inputs, not of a kernel.
#[test]
fn half_precision_against_the_unrounded_inputs() {
    for layer in testkit::fixture::load(512).unwrap() {
        let round = |values: &[f32]| values.iter().map(|&x| DType::F16.round(x)).collect::<Vec<f32>>();
        let (attention, shape) = (Attention::causal(), &layer.shape);
        let exact =
            reference::attention(&attention, shape, &layer.q, &layer.k, &layer.v, &Tables::new()).unwrap();
        let (q, k, v) = (round(&layer.q), round(&layer.k), round(&layer.v));
        let rounded = reference::attention(&attention, shape, &q, &k, &v, &Tables::new()).unwrap();
        let got: Vec<f32> = rounded.output.iter().map(|&x| x as f32).collect();
        let report = compare(&got, &exact.output, Tolerance::absolute(2e-3 * layer.max_value())).unwrap();
        assert!(report.passed(), "layer {}: {report}", layer.index);
    }
}
