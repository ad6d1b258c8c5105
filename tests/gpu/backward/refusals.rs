//! What has no gradient, or isn't a problem's.

use crate::common::{gpu, zeros};
use prflash::attention::{BackwardOperands, Mask, Sequence};
use prflash::cache::{KvCache, Staircase, StoredKeys};
use prflash::kernels::Kernel;
use prflash::{
    Attention, Bias, BlockGrid, Call, DType, Error, Layout, PlanOptions, Positions, Schedule, Shape,
    TableBuffer, Tables, TensorView,
};

fn named<T>(result: Result<T, Error>) -> &'static str {
    result.err().expect("a refusal").argument().expect("an argument")
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refused gradients") else { return };
    let shape = Shape::new(4, 2, 64, 32).unwrap().with_batch(2).unwrap();
    let attention = Attention::causal().with_lse(true);
    for wide in [shape.with_value_dim(260).unwrap(), Shape::new(4, 2, 64, 576).unwrap()] {
        let error = attention.plan_backward(&context, &wide).unwrap_err();
        let argument = if wide.head_dim() > 256 { "head_dim" } else { "value_dim" };
        assert!(error.is_too_large() && error.argument() == Some(argument), "{error}");
    }
    let sunk = attention.clone().with_sinks(&[1.0]).unwrap();
    assert_eq!(named(sunk.plan_backward(&context, &shape)), "sinks");
    let by = PlanOptions::new().with_kernel(Kernel::Naive);
    assert_eq!(named(attention.plan_backward_with(&context, &shape, &by)), "options");
    let plan = attention.plan_backward(&context, &shape).unwrap();
    assert_eq!(*plan.maxima(), shape);
    assert!(plan.device_bytes() > 0 && *plan.attention() == attention);

    let tensor = |heads| zeros(&context, DType::F32, Layout::heads_first(2, heads, 64, 32).unwrap());
    let (q, k, v, output, d_output) = (tensor(4), tensor(2), tensor(2), tensor(4), tensor(4));
    let (dq, dk, dv) = (tensor(4), tensor(2), tensor(2));
    let rows = || zeros(&context, DType::F32, Layout::rows(2, 4, 64).unwrap());
    let (lse, d_lse) = (rows(), rows());
    let operands = BackwardOperands {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        output: output.view(),
        lse: lse.view(),
        d_output: d_output.view(),
        d_lse: Some(d_lse.view()),
        dq: dq.view(),
        dk: dk.view(),
        dv: dv.view(),
        d_sinks: None,
        d_slopes: None,
    };
    let bound = plan.bind(&operands).unwrap();
    let other = zeros(&context, DType::F16, Layout::heads_first(2, 3, 64, 32).unwrap());
    let other = other.view();
    type Set = for<'a> fn(BackwardOperands<'a>, &'a TensorView) -> BackwardOperands<'a>;
    let each: [(&str, Set); 12] = [
        ("q", |all, q| BackwardOperands { q, ..all }),
        ("k", |all, k| BackwardOperands { k, ..all }),
        ("v", |all, v| BackwardOperands { v, ..all }),
        ("output", |all, output| BackwardOperands { output, ..all }),
        ("lse", |all, lse| BackwardOperands { lse, ..all }),
        ("d_output", |all, d_output| BackwardOperands { d_output, ..all }),
        ("d_lse", |all, d_lse| BackwardOperands { d_lse: Some(d_lse), ..all }),
        ("dq", |all, dq| BackwardOperands { dq, ..all }),
        ("dk", |all, dk| BackwardOperands { dk, ..all }),
        ("dv", |all, dv| BackwardOperands { dv, ..all }),
        // Of what the attention doesn't have.
        ("d_sinks", |all, d_sinks| BackwardOperands { d_sinks: Some(d_sinks), ..all }),
        ("d_slopes", |all, d_slopes| BackwardOperands { d_slopes: Some(d_slopes), ..all }),
    ];
    for (name, set) in each {
        assert_eq!(named(plan.bind(&set(operands, other))), name);
    }
    // A gradient that would be written over what is read, or over another one.
    assert_eq!(named(plan.bind(&BackwardOperands { dk: k.view(), ..operands })), "dk");
    assert_eq!(named(plan.bind(&BackwardOperands { dv: dk.view(), ..operands })), "dv");

    // Sums over heads: one number for each, in a place of their own.
    let biased = attention.clone().with_positions(Positions::from(Bias::alibi()));
    let biased = biased.with_sinks(&[0.0; 4]).unwrap().plan_backward(&context, &shape).unwrap();
    let of = |layout: Layout| zeros(&context, DType::F32, layout);
    let (sinks, slopes) = (of(Layout::rows(1, 4, 1).unwrap()), of(Layout::rows(1, 4, 1).unwrap()));
    let (d_sinks, d_slopes) = (Some(sinks.view()), Some(slopes.view()));
    let all = BackwardOperands { d_sinks, d_slopes, ..operands };
    biased.bind(&all).unwrap();
    let wrong = [Layout::rows(1, 3, 1), Layout::rows(1, 4, 2), Layout::rows(2, 4, 1)];
    for wrong in wrong.map(|layout| of(layout.unwrap())) {
        let wrong = Some(wrong.view());
        assert_eq!(named(biased.bind(&BackwardOperands { d_sinks: wrong, ..all })), "d_sinks");
        assert_eq!(named(biased.bind(&BackwardOperands { d_slopes: wrong, ..all })), "d_slopes");
    }
    assert_eq!(named(biased.bind(&BackwardOperands { d_slopes: d_sinks, ..all })), "d_slopes");

    assert_eq!(named(plan.submit(&bound, &Call::lengths(65, 65))), "q_len");
    let mask = Mask::boolean([1, 1, 64], &[true; 64]).unwrap();
    let masks = TableBuffer::for_backward(&context, &Tables::from(&mask)).unwrap();
    assert_eq!(named(plan.submit(&bound, &Call::lengths(64, 64).with_tables(&masks))), "mask");
    let own = Sequence { queries: 0..10, keys: 0..10, ..Sequence::default() };
    let shared = [own.clone(), Sequence { queries: 10..20, ..own }];
    assert_eq!(named(plan.submit(&bound, &Call::sequences(&shared))), "sequences");
    let grid = BlockGrid::causal(&shape);
    let tables = TableBuffer::new(&context, &Tables::from(&Schedule::dense(&grid).unwrap())).unwrap();
    assert_eq!(named(plan.submit(&bound, &Call::lengths(64, 64).with_tables(&tables))), "tables");
    let second = attention.plan_backward(&context, &shape).unwrap();
    assert_eq!(named(second.submit(&bound, &Call::lengths(64, 64))), "bound");
    let cache = KvCache::new(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation).unwrap();
    assert_eq!(named(plan.submit(&bound, &Call::cached(&cache, &[]))), "cache");
    let forward = Attention::causal().plan(&context, &shape).unwrap();
    let forward = forward.run(q.view(), k.view(), v.view(), &Tables::new()).unwrap();
    let qkv = [q.view(), k.view(), v.view()];
    assert_eq!(named(plan.run(qkv, &forward, d_output.view(), None, &Tables::new())), "lse");
    plan.submit(&bound, &Call::lengths(64, 64)).unwrap();
}
