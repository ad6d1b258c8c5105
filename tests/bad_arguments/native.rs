//! The native engine: plans, views and calls of any sizes, on few tokens.

use prflash::attention::{FirstPositions, PositionIds, Sequence};
use prflash::cache::{HostCache, SequenceId, Staircase, StoredKeys};
use prflash::native::{
    HostView, HostViewMut, NativeBackwardOperands, NativeOperands, NativeOptions, NativeQueries,
    RunningMerge, bf16, f16,
};
use prflash::position::{Distance, Pairing, Slopes};
use prflash::rounds::Combine;
use prflash::{
    Attention, Bias, BlockGrid, DType, Documents, Layout, Positions, Queries, Rope, Schedule, Shape, Tables,
};

use super::numbers::Numbers;
use super::runner::{Case, tell};
use super::sizes::{accepted, small_shape};

/// The layout of a tensor, once in a while another one.
fn layout(n: &mut Numbers, dims: [usize; 4]) -> Option<Layout> {
    let [batch, heads, len, dim] = dims;
    match n.below(8) {
        0 => accepted(Layout::tokens_first(batch, len, heads, dim)),
        1 => accepted(Layout::heads_first(1 + n.below(3), 1 + n.below(4), n.below(20), 4 * (1 + n.below(9)))),
        2 => accepted(Layout::with_strides(
            dims,
            4 * n.below(3),
            [4 * n.below(99), 4 * n.below(20), 4 * n.below(9)],
        )),
        _ => accepted(Layout::heads_first(batch, heads, len, dim)),
    }
}

fn range(n: &mut Numbers, len: usize) -> std::ops::Range<usize> {
    let [start, end] = [(); 2].map(|()| if n.once_in(12) { n.size() } else { n.below(len + 1) });
    if n.once_in(12) { start..end } else { start.min(end)..start.max(end) }
}

fn sequences(n: &mut Numbers, shape: &Shape) -> Vec<Sequence> {
    let one = |n: &mut Numbers| Sequence {
        entry: if n.once_in(12) { n.size() } else { n.below(shape.batch()) },
        queries: range(n, shape.q_len()),
        keys: range(n, shape.kv_len()),
        positions: n.once_in(4).then(|| FirstPositions { query: n.u64() as i64, key: n.below(9) as i64 }),
    };
    (0..n.below(4)).map(|_| one(n)).collect()
}

pub fn calls(case: &mut Case) {
    let shape = small_shape(case);
    let n = &mut case.numbers;
    let dtype = n.pick(&DType::ALL);
    let threads = n.mild(2);
    let mut attention = if n.bool() { Attention::causal() } else { Attention::full() };
    attention = attention.with_storage(dtype).with_lse(n.bool());
    if n.once_in(3) {
        let dim = if n.once_in(5) { 12 } else { shape.head_dim() };
        let rope = Rope::new(dim, 1e4, n.pick(&[Pairing::Half, Pairing::Interleaved])).unwrap();
        let slopes = if n.once_in(5) { Slopes::Given(vec![0.5; 3]) } else { Slopes::Alibi };
        let bias = Bias::new(Distance::Harmonic, slopes).unwrap();
        let positions = if n.bool() { Positions::from(rope) } else { Positions::from(bias) };
        attention = attention.with_positions(positions.with_max_positions(n.below(5000)).unwrap());
    }
    tell!(case, "plan_native of {attention:?} for {shape:?}");
    let Some(plan) = accepted(attention.plan_native(&shape, &NativeOptions::new().with_threads(1).unwrap()))
    else {
        return;
    };
    tell!(case, "with_threads({threads})");
    // Threads of the system are asked for in small numbers only.
    accepted(NativeOptions::new().with_threads(threads));
    let _ = (plan.maxima(), plan.attention(), plan.options(), plan.instructions());
    let n = &mut case.numbers;
    let heads = [shape.heads(), shape.kv_heads(), shape.kv_heads(), shape.heads()];
    let lens = [shape.q_len(), shape.kv_len(), shape.kv_len(), shape.q_len()];
    let dims = [shape.head_dim(), shape.head_dim(), shape.value_dim(), shape.value_dim()];
    let layouts = [0, 1, 2, 3].map(|i| layout(n, [shape.batch(), heads[i], lens[i], dims[i]]));
    let [Some(q), Some(k), Some(v), Some(output)] = layouts else { return };
    tell!(case, "views {q:?}, {k:?}, {v:?}, {output:?}");
    let n = &mut case.numbers;
    let longest = [q, k, v, output].iter().map(Layout::extent).max().unwrap_or(0);
    let count = if n.once_in(9) { longest / 2 } else { longest };
    let numbers = n.values(count);
    let halves: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x)).collect();
    let brains: Vec<bf16> = numbers.iter().map(|&x| bf16::from_f32(x)).collect();
    let view = |layout| match dtype {
        DType::F16 => accepted(HostView::new(&halves[..], layout)),
        DType::Bf16 => accepted(HostView::new(&brains[..], layout)),
        _ => accepted(HostView::new(&numbers[..], layout)),
    };
    let mut results = vec![0.0_f32; count];
    let rows = if n.once_in(9) { n.below(99) } else { output.dims()[..3].iter().product() };
    let mut lse = vec![0.0; rows];
    let has_lse = if n.once_in(9) { n.bool() } else { attention.lse() };
    let documents = Documents::from_lengths(&[shape.q_len()]).unwrap();
    let ids = PositionIds::new(&vec![3; shape.q_len()], &vec![n.u32() >> 2; shape.kv_len()]).unwrap();
    let grid = if n.bool() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
    let schedule = Schedule::dense(&grid.with_block_size(1 + n.below(70)).unwrap()).unwrap();
    let mut tables = Tables::new();
    for part in 0..3 {
        tables = match (n.once_in(4), part) {
            (false, _) => tables,
            (true, 0) => tables.with_documents(&documents),
            (true, 1) => tables.with_position_ids(&ids),
            (true, _) => tables.with_schedule(&schedule).unwrap(),
        };
    }
    let sequences = n.bool().then(|| sequences(n, &shape));
    let (Some(q), Some(k), Some(v)) = (view(q), view(k), view(v)) else { return };
    let Some(output) = accepted(HostViewMut::new(&mut results[..], output)) else { return };
    let mut operands = NativeOperands { q, k, v, output, lse: has_lse.then_some(&mut lse[..]) };
    tell!(case, "run {sequences:?}");
    match &sequences {
        None => accepted(plan.run(&mut operands, &tables)),
        Some(sequences) => accepted(plan.run_sequences(&mut operands, sequences, &tables)),
    };
    gradients(case, &attention, &shape, (&operands, &tables, sequences.as_deref()));
    let mut cache = HostCache::new(Staircase::paper(), &shape, StoredKeys::AfterRotation).unwrap();
    let sequence = cache.add();
    let n = &mut case.numbers;
    let tokens = n.below(300);
    let (k, v) = (shape.kv_heads() * shape.head_dim(), shape.kv_heads() * shape.value_dim());
    cache.append(sequence, &vec![0.5; tokens * k], &vec![0.5; tokens * v]).unwrap();
    let queries: Vec<Queries> = (0..n.below(3))
        .map(|_| Queries {
            sequence: if n.once_in(9) { SequenceId::new(n.size()) } else { sequence },
            entry: if n.once_in(9) { n.size() } else { n.below(shape.batch()) },
            rows: range(n, shape.q_len().min(tokens)),
            positions: None,
        })
        .collect();
    tell!(case, "run_cached {queries:?} over {tokens} tokens");
    let NativeOperands { q, output, lse, .. } = operands;
    accepted(plan.run_cached(&cache, &mut NativeQueries { q, output, lse }, &queries, &tables));
}

/// Gradients of a call, into tensors of their own, which may be of other sizes.
fn gradients(
    case: &mut Case,
    attention: &Attention,
    shape: &Shape,
    (operands, tables, sequences): (&NativeOperands<'_>, &Tables<'_>, Option<&[Sequence]>),
) {
    let options = NativeOptions::new().with_threads(1).unwrap();
    tell!(case, "plan_backward_native");
    let Some(plan) = accepted(attention.plan_backward_native(shape, &options)) else { return };
    let _ = (plan.maxima(), plan.attention(), plan.options(), plan.instructions());
    let n = &mut case.numbers;
    let heads = if n.once_in(9) { 1 + n.below(5) } else { shape.heads() };
    let results = Layout::heads_first(shape.batch(), heads, shape.q_len(), shape.value_dim()).unwrap();
    let numbers = n.values(results.elements());
    let rows = if n.once_in(9) { n.below(99) } else { shape.batch() * shape.heads() * shape.q_len() };
    let lse = n.values(rows);
    let mut written = [operands.q, operands.k, operands.v].map(|view| vec![0.0_f32; view.layout().extent()]);
    let [dq, dk, dv] = &mut written;
    let views = [(dq, operands.q), (dk, operands.k), (dv, operands.v)]
        .map(|(numbers, like)| accepted(HostViewMut::new(&mut numbers[..], *like.layout())));
    let [Some(dq), Some(dk), Some(dv)] = views else { return };
    let mut of_heads = [(); 2].map(|()| vec![0.0; if n.once_in(5) { n.below(9) } else { shape.heads() }]);
    let [d_sinks, d_slopes] = &mut of_heads;
    let mut operands = NativeBackwardOperands {
        q: operands.q,
        k: operands.k,
        v: operands.v,
        output: HostView::new(&numbers[..], results).unwrap(),
        lse: &lse,
        d_output: HostView::new(&numbers[..], results).unwrap(),
        d_lse: n.once_in(3).then_some(&lse),
        dq,
        dk,
        dv,
        d_sinks: n.once_in(9).then_some(&mut d_sinks[..]),
        d_slopes: n.once_in(3).then_some(&mut d_slopes[..]),
    };
    tell!(case, "gradients of {sequences:?}");
    match sequences {
        None => accepted(plan.run(&mut operands, tables)),
        Some(sequences) => accepted(plan.run_sequences(&mut operands, sequences, tables)),
    };
}

pub fn merges(case: &mut Case) {
    let n = &mut case.numbers;
    let combine = if n.bool() { Combine::Independent } else { Combine::Partition };
    let [rows, dim] = [(); 2].map(|()| n.mild(4));
    // What is accepted is allocated.
    let [rows, dim] = if rows.saturating_mul(dim) < 1 << 20 { [rows, dim] } else { [usize::MAX, dim.max(2)] };
    tell!(case, "RunningMerge::new({combine:?}, {rows}, {dim})");
    let Some(mut merge) = accepted(RunningMerge::new(combine, rows, dim)) else { return };
    let n = &mut case.numbers;
    for _ in 0..n.below(4) {
        let (numbers, logs) = if n.once_in(9) { (n.below(20), n.below(9)) } else { (rows * dim, rows) };
        let (output, lse) = (n.values(numbers), n.values(logs));
        accepted(merge.add(&output, &lse));
    }
    let _ = (merge.states(), merge.output(), merge.lse(), merge.standard_errors());
}
