//! Keys and values in pages, on cores: against rows and the oracle.

use crate::common::cases::harmonic_schedule;
use crate::common::native::{Computed, Numbers, on, tensors};
use crate::common::pages::{Pages, Pooled};
use crate::common::{Problem, Storage};
use prflash::attention::{PageTable, Sequence};
use prflash::native::{HostView, HostViewMut, NativeBackwardOperands, NativeOperands, NativePlan};
use prflash::position::Pairing;
use prflash::{Attention, DType, Layout, Positions, Result, Rope, Shape, Tables, reference};

/// Computes all sequences of a problem over pages.
fn run(problem: &Problem, plan: &NativePlan, pooled: &Pooled, tables: Tables<'_>) -> Computed {
    let (shape, dtype) = (&problem.shape, problem.attention.storage());
    let [(q, at), ..] = tensors(problem, Storage::HeadsFirst);
    let [k, v] = [0, 1].map(|part| Numbers::new(dtype, &pooled.numbers[part]));
    let (batch, heads, len) = (shape.batch(), shape.heads(), shape.q_len());
    let layout = Layout::heads_first(batch, heads, len, shape.value_dim()).unwrap();
    let mut output = Numbers::new(problem.attention.output(), &vec![9.0; layout.extent()]);
    let mut lse = vec![9.0; batch * heads * len];
    let mut operands = NativeOperands {
        q: q.view(at).unwrap(),
        k: k.view(pooled.layouts[0]).unwrap(),
        v: v.view(pooled.layouts[1]).unwrap(),
        output: output.view_mut(layout).unwrap(),
        lse: Some(&mut lse),
    };
    let sequence = |entry| Sequence { entry, queries: 0..len, keys: 0..shape.kv_len(), positions: None };
    let sequences: Vec<Sequence> = (0..batch).map(sequence).collect();
    plan.run_sequences(&mut operands, &sequences, &pooled.among(tables)).unwrap();
    Computed { output: output.to_f32(), lse: Some(lse) }
}

#[test]
fn pages_are_as_rows() {
    let rope = Rope::new(32, 1e4, Pairing::Half).unwrap();
    let causal = || Attention::causal().with_lse(true);
    for (case, (q_len, kv_len)) in [(70, 70), (1, 700), (5, 133), (130, 300), (3, 0)].into_iter().enumerate()
    {
        let shape = Shape::new(4, 2, q_len, 32).unwrap().with_kv_len(kv_len).unwrap();
        let shape = shape.with_batch(2).unwrap();
        let attentions = [
            causal(),
            causal().with_storage(DType::F16).with_output(DType::F16).with_window(40).unwrap(),
            causal().with_positions(Positions::from(rope.clone())),
            causal().with_storage(DType::Bf16).with_correction(0.5).unwrap(),
        ];
        for (index, attention) in attentions.into_iter().enumerate() {
            let problem = Problem::random(attention.clone(), shape, 7);
            let schedule = harmonic_schedule(&problem, 16);
            let tables = if index == 3 { Tables::from(&schedule) } else { Tables::new() };
            let plan = attention.plan_native(&shape, &on(1)).unwrap();
            let rows = problem.run_native(&plan, Storage::HeadsFirst, &tables);
            for (seed, page_size) in [1, 16, 24, 64, 256].into_iter().enumerate() {
                let pages = [Pages::TokensFirst, Pages::HeadsFirst, Pages::Together][seed % 3];
                let pooled = Pooled::new(&problem, pages, page_size, seed as u64);
                let got = run(&problem, &plan, &pooled, tables.clone());
                let what = format!("case {case}.{index}, pages of {page_size}, {pages:?}");
                for report in problem.judge_native(&got, &tables) {
                    assert!(report.passed(), "{what}: {report}");
                }
                assert!(got.bits() == rows.bits(), "other bits than of rows: {what}");
                let three = attention.plan_native(&shape, &on(3)).unwrap();
                let three = run(&problem, &three, &pooled, tables.clone());
                assert!(got.bits() == three.bits(), "other bits on three threads: {what}");
            }
        }
    }
}

/// NaN in pages that a window hides changes nothing.
#[test]
fn hidden_pages_are_not_read() {
    for q_len in [1, 64] {
        let shape = Shape::new(2, 1, q_len, 32).unwrap().with_kv_len(400).unwrap();
        let attention = Attention::causal().with_lse(true).with_window(50).unwrap();
        let problem = Problem::random(attention.clone(), shape, 3);
        let plan = attention.plan_native(&shape, &on(2)).unwrap();
        let mut pooled = Pooled::new(&problem, Pages::TokensFirst, 16, 5);
        let want = run(&problem, &plan, &pooled, Tables::new());
        assert!(want.output.iter().all(|x| x.is_finite()));
        for (layout, numbers) in pooled.layouts.iter().zip(&mut pooled.numbers) {
            for &page in &pooled.tables[0].pages()[..(350 - q_len) / 16] {
                let at = layout.index(page as usize, 0, 0, 0);
                numbers[at..at + 16 * 32].fill(f32::NAN);
            }
        }
        assert!(run(&problem, &plan, &pooled, Tables::new()).bits() == want.bits(), "{q_len} queries");
    }
}

#[test]
fn refusals_name_the_argument() {
    let shape = Shape::new(2, 1, 4, 16).unwrap().with_kv_len(40).unwrap();
    let plan = Attention::causal().plan_native(&shape, &on(1)).unwrap();
    let queries = Layout::heads_first(1, 2, 4, 16).unwrap();
    let numbers = vec![0.5_f32; 4096];
    let call = |tables: &Tables<'_>, sizes: [[usize; 2]; 2], keys: Option<usize>| -> Result<()> {
        let mut output = vec![0.0_f32; queries.elements()];
        let pool = |[pages, size]: [usize; 2]| Layout::heads_first(pages, 1, size, 16).unwrap();
        let mut operands = NativeOperands {
            q: HostView::new(&numbers[..], queries)?,
            k: HostView::new(&numbers[..], pool(sizes[0]))?,
            v: HostView::new(&numbers[..], pool(sizes[1]))?,
            output: HostViewMut::new(&mut output[..], queries)?,
            lse: None,
        };
        let Some(keys) = keys else { return plan.run(&mut operands, tables) };
        let sequences = [Sequence { queries: 0..4, keys: 0..keys, ..Sequence::default() }];
        plan.run_sequences(&mut operands, &sequences, tables)
    };
    let refused = |pages: &[u32], sizes, keys| {
        let table = PageTable::new(pages).unwrap();
        call(&Tables::from(&table), sizes, keys).map_err(|error| error.argument().map(str::to_owned))
    };
    let named = |argument: &str| Err(Some(argument.to_owned()));
    let fives = [[5, 8]; 2];
    assert_eq!(refused(&[0, 1, 2, 3, 4], fives, Some(40)), Ok(()));
    assert_eq!(refused(&[0, 1, 2, 3], fives, Some(40)), named("pages"));
    assert_eq!(refused(&[0, 1, 2, 3, 5], fives, Some(40)), named("pages"));
    assert_eq!(refused(&[0], [[1, 40], [1, 40]], None), named("pages"));
    assert_eq!(refused(&[0, 1, 2, 3, 4], [[5, 8], [5, 4]], Some(40)), named("v"));
    assert_eq!(refused(&[0, 1, 2, 3, 4], [[5, 8], [4, 8]], Some(40)), named("v"));
    // Gradients are of rows.
    let layout = Layout::heads_first(1, 1, 1, 4).unwrap();
    let (row, mut written) = ([0.5_f32; 4], [[0.0_f32; 4]; 3]);
    let [dq, dk, dv] = &mut written;
    let view = || HostView::new(&row[..], layout).unwrap();
    let mut operands = NativeBackwardOperands {
        q: view(),
        k: view(),
        v: view(),
        output: view(),
        lse: &[0.5],
        d_output: view(),
        d_lse: None,
        dq: HostViewMut::new(&mut dq[..], layout).unwrap(),
        dk: HostViewMut::new(&mut dk[..], layout).unwrap(),
        dv: HostViewMut::new(&mut dv[..], layout).unwrap(),
        d_sinks: None,
        d_slopes: None,
    };
    let backward =
        Attention::causal().plan_backward_native(&Shape::new(1, 1, 1, 4).unwrap(), &on(1)).unwrap();
    let sequences = [Sequence { queries: 0..1, keys: 0..1, ..Sequence::default() }];
    let table = PageTable::new(&[0]).unwrap();
    let error = backward.run_sequences(&mut operands, &sequences, &Tables::from(&table)).unwrap_err();
    assert_eq!(error.argument(), Some("pages"));
    // The oracle takes rows.
    let (table, rows) = (PageTable::new(&[0; 5]).unwrap(), vec![0.5; 640]);
    let (attention, tables) = (Attention::causal(), Tables::from(&table));
    let error = reference::attention(&attention, &shape, &[0.5; 128], &rows, &rows, &tables).unwrap_err();
    assert_eq!(error.argument(), Some("pages"));
}
