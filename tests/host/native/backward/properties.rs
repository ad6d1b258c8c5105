//! What native gradients must be, whatever the numbers.

use crate::common::gradients::{Backward, Got, bits};
use crate::common::native::on;
use crate::common::{Problem, Storage};
use prflash::attention::Sequence;
use prflash::native::{HostView, HostViewMut, NativeBackwardOperands, NativeBackwardPlan, NativeOptions};
use prflash::sampling::Granularity;
use prflash::{Attention, Bias, BlockGrid, DType, Layout, Positions, Result, Schedule, Shape, Tables};

fn problem(attention: Attention, len: usize) -> Backward {
    Backward::new(Problem::random(attention, Shape::new(4, 2, len, 64).unwrap(), 2), 3)
}

fn run(backward: &Backward, tables: &Tables<'_>) -> Got {
    backward.run(&on(1), Storage::HeadsFirst, tables)
}

/// Equal numbers, whatever the sign of a zero.
fn assert_same(one: &Got, other: &Got, story: &str) {
    for ((name, one), (_, other)) in one.each().into_iter().zip(other.each()) {
        assert!(one == other, "{name}, {story}");
    }
}

#[test]
fn a_schedule_of_all_blocks_is_dense() {
    for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
        for block in [64, 48, 200] {
            let backward = problem(Attention::causal(), 300);
            let grid = BlockGrid::causal(&backward.problem.shape).with_granularity(granularity);
            let all = Schedule::dense(&grid.with_block_size(block).unwrap()).unwrap();
            let (dense, listed) = (run(&backward, &Tables::new()), run(&backward, &Tables::from(&all)));
            if block == 64 {
                assert_same(&dense, &listed, "all blocks");
            }
            // Other tiles only round in other places.
            let near = |one: &[f32], other: &[f32]| {
                one.iter().zip(other).all(|(x, y)| (x - y).abs() <= 1e-4 * (1.0 + x.abs()))
            };
            assert!(
                near(&dense.dq, &listed.dq) && near(&dense.dk, &listed.dk) && near(&dense.dv, &listed.dv)
            );
        }
    }
}

#[test]
fn layouts_change_no_bit() {
    for dtype in DType::ALL {
        let backward = problem(Attention::causal().with_storage(dtype), 130);
        let got = run(&backward, &Tables::new());
        for storage in [Storage::TokensFirst, Storage::Fused] {
            assert_same(&got, &backward.run(&on(2), storage, &Tables::new()), "another layout");
        }
    }
}

/// What a loss of early rows has for late keys is nothing, and late rows change no early gradient.
#[test]
fn gradients_are_causal() {
    let (len, first, dim) = (200, 90, 64);
    let mut backward = problem(Attention::causal(), len);
    backward.d_lse = None;
    for (at, x) in backward.d_output.iter_mut().enumerate() {
        if at / dim % len >= first {
            *x = 0.0;
        }
    }
    let got = run(&backward, &Tables::new());
    let late = |at: usize| at / dim % len >= first;
    for (name, values) in [("dq", &got.dq), ("dk", &got.dk), ("dv", &got.dv)] {
        let (zero, some): (Vec<_>, Vec<_>) = values.iter().enumerate().partition(|&(at, _)| late(at));
        assert!(zero.iter().all(|&(_, x)| *x == 0.0), "{name} of what no loss sees");
        assert!(some.iter().filter(|&&(_, x)| *x != 0.0).count() > some.len() / 2, "{name}");
    }
}

/// Gradients are linear in those of the output: exactly so by a power of two.
#[test]
fn gradients_are_linear() {
    let attention = Attention::causal().with_soft_cap(2.0).unwrap();
    let biased = attention.with_positions(Positions::from(Bias::alibi())).with_sinks(&[0.5; 4]).unwrap();
    let mut backward = problem(biased, 130);
    let once = run(&backward, &Tables::new());
    let times = |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x *= 4.0);
    times(&mut backward.d_output);
    backward.d_lse.as_mut().map(times).unwrap();
    let got = run(&backward, &Tables::new());
    let mut four = once;
    four.each_mut().into_iter().for_each(times);
    assert!(four.sinks.iter().chain(&four.slopes).all(|x| *x != 0.0));
    assert_same(&four, &got, "four times");
}

/// Rows that see nothing have no gradient, whatever they hold; those that see a NaN have NaN.
#[test]
fn rows_without_a_result() {
    let (dim, q_len, kv_len) = (64, 50, 20);
    let shape = Shape::new(1, 1, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
    let mut backward = Backward::new(Problem::random(Attention::causal(), shape, 4), 1);
    let nothing = q_len - kv_len;
    backward.problem.q[..nothing * dim].fill(f32::NAN);
    let got = run(&backward, &Tables::new());
    assert!(got.dq[..nothing * dim].iter().all(|&x| x == 0.0), "rows that see nothing");
    let all = got.dq.iter().chain(&got.dk).chain(&got.dv);
    assert!(all.clone().all(|x| x.is_finite()) && all.filter(|&&x| x != 0.0).count() > 1000);
    // Key 15 is seen by the last five queries alone.
    backward.problem.k[15 * dim + 3] = f32::NAN;
    let spoilt = run(&backward, &Tables::new());
    let sees = (q_len - 5) * dim;
    assert_eq!(bits(&spoilt.dq[..sees]), bits(&got.dq[..sees]), "rows that don't see it");
    assert!(spoilt.dq[sees..].iter().all(|x| x.is_nan()), "rows that see it");
    assert!(spoilt.dv.iter().all(|x| x.is_nan()), "values that these rows see");
}

/// A plan of 4 heads on 2, 64 rows of 16 channels, called with something changed.
fn call(
    plan: &NativeBackwardPlan,
    change: impl FnOnce(&mut NativeBackwardOperands<'_>),
    sequences: Option<&[Sequence]>,
) -> Result<[Vec<f32>; 3]> {
    let (of_q, of_k) = (Layout::heads_first(1, 4, 64, 16)?, Layout::heads_first(1, 2, 64, 16)?);
    let values: Vec<f32> = (0..of_q.elements()).map(|i| (i as f32).sin()).collect();
    let [mut dq, mut dk, mut dv] = [of_q, of_k, of_k].map(|layout| vec![9.0; layout.elements()]);
    let lse = vec![5.0; 4 * 64];
    let mut operands = NativeBackwardOperands {
        q: HostView::new(&values[..], of_q)?,
        k: HostView::new(&values[..], of_k)?,
        v: HostView::new(&values[..], of_k)?,
        output: HostView::new(&values[..], of_q)?,
        lse: &lse,
        d_output: HostView::new(&values[..], of_q)?,
        d_lse: None,
        dq: HostViewMut::new(&mut dq[..], of_q)?,
        dk: HostViewMut::new(&mut dk[..], of_k)?,
        dv: HostViewMut::new(&mut dv[..], of_k)?,
        d_sinks: None,
        d_slopes: None,
    };
    change(&mut operands);
    match sequences {
        Some(sequences) => plan.run_sequences(&mut operands, sequences, &Tables::new())?,
        None => plan.run(&mut operands, &Tables::new())?,
    }
    Ok([dq, dk, dv])
}

/// Sequences packed behind each other have the gradients of each alone; other rows keep theirs.
#[test]
fn packed_sequences_are_those_alone() {
    let shape = Shape::new(4, 2, 64, 16).unwrap();
    let plan = Attention::causal().plan_backward_native(&shape, &on(2)).unwrap();
    let sequence =
        |rows: std::ops::Range<usize>| Sequence { queries: rows.clone(), keys: rows, ..Sequence::default() };
    let all = [sequence(20..50), sequence(0..7), sequence(50..60)];
    let packed = call(&plan, |_| (), Some(&all)).unwrap();
    for one in &all {
        let alone = call(&plan, |_| (), Some(std::slice::from_ref(one))).unwrap();
        for (heads, packed, alone) in
            [(4, &packed[0], &alone[0]), (2, &packed[1], &alone[1]), (2, &packed[2], &alone[2])]
        {
            for head in 0..heads {
                let at = |row: usize| (head * 64 + row) * 16;
                let rows = at(one.queries.start)..at(one.queries.end);
                assert_eq!(bits(&packed[rows.clone()]), bits(&alone[rows]));
                assert!(packed[at(60)..at(64)].iter().all(|&x| x == 9.0), "rows of no sequence");
            }
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let shape = Shape::new(4, 2, 64, 16).unwrap();
    let attention = Attention::causal();
    let plan = attention.plan_backward_native(&shape, &on(1)).unwrap();
    assert_eq!((plan.maxima(), plan.attention(), plan.options()), (&shape, &attention, &on(1)));
    assert!(!plan.instructions().is_empty());
    let named = |result: Result<[Vec<f32>; 3]>| result.unwrap_err().argument().unwrap();
    assert!(call(&plan, |_| (), None).is_ok());
    let view = |heads, len, dim| {
        static NUMBERS: [f32; 8192] = [0.0; 8192];
        HostView::new(&NUMBERS[..], Layout::heads_first(1, heads, len, dim).unwrap()).unwrap()
    };
    let written = |heads| {
        let layout = Layout::heads_first(1, heads, 64, 16).unwrap();
        // The slice must outlive the call.
        HostViewMut::new(Box::leak(Box::new([0.0_f32; 8192])).as_mut_slice(), layout).unwrap()
    };
    assert_eq!(named(call(&plan, |all| all.q = view(2, 64, 16), None)), "q");
    assert_eq!(named(call(&plan, |all| all.k = view(2, 64, 32), None)), "k");
    assert_eq!(named(call(&plan, |all| all.v = view(2, 63, 16), None)), "v");
    assert_eq!(named(call(&plan, |all| all.output = view(4, 63, 16), None)), "output");
    assert_eq!(named(call(&plan, |all| all.d_output = view(2, 64, 16), None)), "d_output");
    assert_eq!(named(call(&plan, |all| all.dq = written(2), None)), "dq");
    assert_eq!(named(call(&plan, |all| all.dk = written(4), None)), "dk");
    assert_eq!(named(call(&plan, |all| all.dv = written(4), None)), "dv");
    assert_eq!(named(call(&plan, |all| all.lse = &[], None)), "lse");
    assert_eq!(named(call(&plan, |all| all.d_lse = Some(&[]), None)), "d_lse");
    assert_eq!(named(call(&plan, |all| all.d_sinks = Some(&mut []), None)), "d_sinks");
    assert_eq!(named(call(&plan, |all| all.d_slopes = Some(&mut []), None)), "d_slopes");
    let small = attention.plan_backward_native(&shape.with_kv_len(7).unwrap(), &on(1)).unwrap();
    assert_eq!(named(call(&small, |_| (), None)), "kv_len");
    let sequence = |queries, keys| Sequence { queries, keys, ..Sequence::default() };
    let refused = |sequences: &[Sequence]| named(call(&plan, |_| (), Some(sequences)));
    assert_eq!(refused(&[sequence(0..65, 0..1)]), "queries");
    assert_eq!(refused(&[sequence(0..3, 0..3), sequence(2..4, 3..5)]), "sequences");
    assert_eq!(refused(&[sequence(0..3, 0..3), sequence(3..4, 2..5)]), "sequences");
    let sunk = attention.clone().with_sinks(&[1.0; 3]).unwrap();
    let refused = sunk.plan_backward_native(&shape, &NativeOptions::new()).unwrap_err();
    assert_eq!(refused.argument(), Some("sinks"));
}
