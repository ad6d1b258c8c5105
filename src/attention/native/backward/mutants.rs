//! Mutants of the native engine's backward pass, on the problems of those of the kernels.

use super::operands::NativeBackwardOperands;
use super::wrong::{Wrong, doing};
use crate::attention::mutants::gradients::{DIMS, Got, Problem, masked, of_heads, positioned, problems};
use crate::attention::native::options::NativeOptions;
use crate::attention::native::plan::NativeOperands;
use crate::attention::native::views::{HostView, HostViewMut};
use crate::layout::Layout;

/// Whether the engine computes what the oracle says.
fn agrees(problem: &Problem) -> bool {
    let (shape, attention) = (&problem.shape, &problem.attention);
    // Of the caller's thread it is known what it does wrong.
    let options = NativeOptions::new().with_threads(1).unwrap();
    let layout = |heads, rows, dim| Layout::heads_first(shape.batch(), heads, rows, dim).unwrap();
    let (heads, kv_heads, rows, keys) = (shape.heads(), shape.kv_heads(), shape.q_len(), shape.kv_len());
    let at = [layout(heads, rows, DIMS[0]), layout(kv_heads, keys, DIMS[0]), layout(kv_heads, keys, DIMS[1])];
    let output_at = layout(heads, rows, DIMS[1]);
    let view = |index: usize| HostView::new(&problem.qkv[index][..], at[index]).unwrap();
    let mut output = vec![0.0_f32; output_at.elements()];
    let mut lse = vec![0.0; shape.batch() * heads * rows];
    let mut forward = NativeOperands {
        q: view(0),
        k: view(1),
        v: view(2),
        output: HostViewMut::new(&mut output[..], output_at).unwrap(),
        lse: Some(&mut lse),
    };
    attention.plan_native(shape, &options).unwrap().run(&mut forward, &problem.tables()).unwrap();
    let mut of_tensors = at.map(|layout| vec![0.0_f32; layout.elements()]);
    let [mut sinks, mut slopes] =
        [attention.sinks().is_some(), attention.is_biased()].map(|has| has.then(|| vec![0.0_f32; heads]));
    let [dq, dk, dv] = &mut of_tensors;
    let mut operands = NativeBackwardOperands {
        q: view(0),
        k: view(1),
        v: view(2),
        output: HostView::new(&output[..], output_at).unwrap(),
        lse: &lse,
        d_output: HostView::new(&problem.d_output[..], output_at).unwrap(),
        d_lse: Some(&problem.d_lse),
        dq: HostViewMut::new(&mut dq[..], at[0]).unwrap(),
        dk: HostViewMut::new(&mut dk[..], at[1]).unwrap(),
        dv: HostViewMut::new(&mut dv[..], at[2]).unwrap(),
        d_sinks: sinks.as_deref_mut(),
        d_slopes: slopes.as_deref_mut(),
    };
    attention.plan_backward_native(shape, &options).unwrap().run(&mut operands, &problem.tables()).unwrap();
    problem.is_close(&Got { of_tensors, sinks, slopes })
}

fn assert_caught(problems: &[Problem], wrongs: &[Wrong]) {
    assert!(problems.iter().all(agrees), "the engine itself doesn't agree");
    let survives = |&&wrong: &&Wrong| doing(wrong, || problems.iter().all(agrees));
    let survivors: Vec<&Wrong> = wrongs.iter().filter(survives).collect();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

#[test]
fn every_mutant_is_caught() {
    let of_pairs = [
        Wrong::QueriesUnscaled,
        Wrong::LogSumExpLeftOut,
        Wrong::DeltaLeftOut,
        Wrong::NoGains,
        Wrong::RowsSeeAll,
        Wrong::KeysSeenByAll,
        Wrong::RowsUncorrected,
        Wrong::KeysUncorrected,
        Wrong::GradientUnscaled,
        Wrong::FirstQueryLost,
        Wrong::FirstHeadAlone,
        Wrong::NextColumn,
        Wrong::HalfTiles,
    ];
    assert_caught(&problems(), &of_pairs);
    assert_caught(&positioned(), &[Wrong::QueryTurnedOn, Wrong::KeyTurnedOn, Wrong::NoGains]);
    assert_caught(&of_heads(), &[Wrong::SinkTurned, Wrong::SlopeOfFirstHead, Wrong::SlopeGained]);
    assert_caught(&masked(), &[Wrong::MaskOfFirstHead]);
}
