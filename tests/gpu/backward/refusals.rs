//! What has no gradient, or isn't a problem's.

use crate::common::{gpu, zeros};
use prflash::attention::{BackwardOperands, Sequence};
use prflash::cache::{KvCache, Staircase, StoredKeys};
use prflash::kernels::Kernel;
use prflash::{
    Attention, BlockGrid, Call, DType, Error, Layout, PlanOptions, Schedule, Shape, TableBuffer, Tables,
    TensorView,
};

fn named<T>(result: Result<T, Error>) -> &'static str {
    result.err().expect("a refusal").argument().expect("an argument")
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refused gradients") else { return };
    let shape = Shape::new(4, 2, 64, 32).unwrap().with_batch(2).unwrap();
    let attention = Attention::causal().with_lse(true);
    assert_eq!(named(attention.clone().with_masks(true).plan_backward(&context, &shape)), "mask");
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
    };
    let bound = plan.bind(&operands).unwrap();
    let other = zeros(&context, DType::F16, Layout::heads_first(2, 3, 64, 32).unwrap());
    let other = other.view();
    type Set = for<'a> fn(BackwardOperands<'a>, &'a TensorView) -> BackwardOperands<'a>;
    let each: [(&str, Set); 10] = [
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
    ];
    for (name, set) in each {
        assert_eq!(named(plan.bind(&set(operands, other))), name);
    }
    // A gradient that would be written over what is read, or over another one.
    assert_eq!(named(plan.bind(&BackwardOperands { dk: k.view(), ..operands })), "dk");
    assert_eq!(named(plan.bind(&BackwardOperands { dv: dk.view(), ..operands })), "dv");

    assert_eq!(named(plan.submit(&bound, &Call::lengths(65, 65))), "q_len");
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
