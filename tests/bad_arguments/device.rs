//! Tensors, plans, rotations, GPU samplers and the cache on a device.

use std::sync::OnceLock;

use prflash::attention::{
    BackwardBound, BackwardOperands, FirstPositions, GpuSampler, GpuSummaries, PositionIds, Sequence,
    SummarizedKeys,
};
use prflash::cache::{Chunk, HostCache, KvCache, Ladder, SequenceId, Staircase, StoredKeys};
use prflash::limits::MAX_ELEMENTS;
use prflash::position::Pairing;
use prflash::rotation::Rows;
use prflash::sampling::Granularity;
use prflash::sampling::content::{Estimate, Participation, Probe};
use prflash::{
    Attention, BlockGrid, Bound, Call, Context, ContextOptions, DType, Error, Layout, Operands, Positions,
    Queries, Result, Rope, Schedule, Seed, Shape, Systematic, TableBuffer, Tables, Tensor, wgpu,
};

use super::caches::{flat, spoilt, tokens};
use super::common::gpu;
use super::numbers::Numbers;
use super::runner::{Case, tell};
use super::sampling::profile;
use super::sizes::small_grid;

const AREAS: [fn(&mut Case, &Context); 9] =
    [contexts, tensors, tensors, plans, plans, rotations, selectors, cache, cache];

pub fn case(case: &mut Case) {
    static DEVICE: OnceLock<Option<Context>> = OnceLock::new();
    let Some(context) = DEVICE.get_or_init(|| gpu("bad arguments on the device")) else { return };
    let area = case.numbers.below(AREAS.len());
    AREAS[area](case, context);
    tell!(case, "wait for the device");
    context.wait().unwrap();
    context.check_alive().unwrap();
}

/// What was asked for, if it wasn't refused: by prflash, not by the API.
fn accepted<T>(result: Result<T>) -> Option<T> {
    let refused = |error: &Error| {
        let typed = error.is_invalid_argument() || error.is_too_large() || error.is_corrupt();
        typed || error.is_unknown_version() || error.is_unsupported() || error.is_out_of_memory()
    };
    match result {
        Ok(value) => Some(value),
        Err(error) if refused(&error) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Records and submits what isn't refused.
fn submit<T>(context: &Context, work: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<T>) -> Option<T> {
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let result = accepted(work(&mut encoder));
    context.queue().submit([encoder.finish()]);
    result
}

fn contexts(case: &mut Case, context: &Context) {
    let n = &mut case.numbers;
    let (flops, count) = (n.u64(), n.below(40));
    let bytes: Vec<u8> = (0..count).map(|_| n.bits() as u8).collect();
    tell!(case, "a context of at most {flops} operations, pipelines of {bytes:?}");
    let options =
        ContextOptions::new().max_dispatch_flops(flops).pipeline_cache(bytes).adapter_name("no such");
    let other = Context::from_wgpu_with(context.device().clone(), context.queue().clone(), &options);
    if let Some(other) = accepted(other) {
        plans(case, &other);
    }
}

/// Layouts whose tensors are small, or larger than any buffer.
fn layout(case: &mut Case, context: &Context) -> Option<Layout> {
    let n = &mut case.numbers;
    let [a, b, c] = [(); 3].map(|()| n.size());
    let (d, strides) = (n.dim(), [(); 3].map(|()| n.size() & !3));
    tell!(case, "Layout: {a}, {b}, {c}, {d}; strides {strides:?}");
    let layout = match case.numbers.below(3) {
        0 => Layout::heads_first(a, b, c, d),
        1 => Layout::tokens_first(a, b, c, d),
        _ => Layout::with_strides([a, b, c, d], 0, strides),
    };
    let layout = accepted(layout)?;
    let large = context.capabilities().max_buffer_bytes / 2;
    // Copies of it share no memory either.
    let small = layout.extent() < 1 << 18 && layout.elements() < 1 << 18;
    (small || layout.extent() as u64 > large).then_some(layout)
}

fn tensors(case: &mut Case, context: &Context) {
    let Some(layout) = layout(case, context) else { return };
    let dtype = case.numbers.pick(&DType::ALL);
    let bytes = layout.extent() as u64 * dtype.size() as u64;
    tell!(case, "zeros of {layout:?}, {dtype}");
    let Some(zeros) = accepted(Tensor::zeros(context, dtype, layout)) else {
        assert!(bytes > 1 << 20);
        // Few numbers, far apart.
        if layout.elements() < 1 << 20 {
            tell!(case, "upload");
            let values = vec![1.0; layout.elements()];
            assert!(accepted(Tensor::upload(context, dtype, layout, &values)).is_none());
        }
        return;
    };
    if bytes > 1 << 20 {
        return;
    }
    let count = case.numbers.mild(layout.elements()).min(1 << 20);
    tell!(case, "upload of {count}");
    let values = case.numbers.values(count);
    let tensor = accepted(Tensor::upload(context, dtype, layout, &values));
    assert_eq!(tensor.is_some(), count == layout.elements());
    for tensor in tensor.iter().chain([&zeros]) {
        tell!(case, "read");
        assert_eq!(tensor.read_blocking(context).unwrap().len(), layout.elements());
    }
    if let Some(other) = self::layout(case, context) {
        tell!(case, "a view of it as {other:?}");
        let view = accepted(zeros.view().with_layout(other));
        assert!(view.is_none() || other.extent() as u64 * dtype.size() as u64 <= bytes.next_multiple_of(4));
    }
}

/// Zeros `[batch, heads, len, 8]`.
fn rows(context: &Context, batch: usize, heads: usize, len: usize) -> Tensor {
    let layout = Layout::heads_first(batch, heads, len, 8).unwrap();
    Tensor::zeros(context, DType::F32, layout).unwrap()
}

/// Few kinds of plans, since each is a kernel to compile.
fn plans(case: &mut Case, context: &Context) {
    let n = &mut case.numbers;
    let (heads, batch, q_len, kv_len) = (1 + n.below(3), 1 + n.below(2), n.pick(&[1, 20, 70]), n.below(90));
    let (windowed, causal, turned) = (n.size(), n.bool(), n.once_in(3));
    let mut attention = if causal { Attention::causal() } else { Attention::full() };
    tell!(
        case,
        "{heads} heads, {batch} × {q_len} queries on {kv_len} keys; causal {causal}, window {windowed}"
    );
    attention = accepted(attention.clone().with_window(windowed)).unwrap_or(attention);
    if turned {
        let rope = Rope::new(8, 1e4, Pairing::Half).unwrap();
        attention = attention.with_positions(Positions::from(rope));
    }
    let shape = Shape::new(heads, 1, q_len, 8)
        .and_then(|shape| shape.with_kv_len(kv_len)?.with_batch(batch))
        .unwrap();
    let Some(plan) = accepted(attention.plan(context, &shape)) else { return };
    let (q, k, v) = (
        rows(context, batch, heads, q_len),
        rows(context, batch, 1, kv_len),
        rows(context, batch, 1, kv_len),
    );
    let output = rows(context, batch, heads, q_len);
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let bound: Bound = plan.bind(&operands).unwrap();
    let grid = small_grid(case);
    let n = &mut case.numbers;
    let ids: Vec<u32> = (0..q_len).map(|_| n.u32() >> 2).collect();
    tell!(case, "tables of a schedule of another grid, and ids {ids:?}");
    let schedule = Schedule::dense(&grid).unwrap();
    let ids = PositionIds::new(&ids, &vec![0; kv_len]).unwrap();
    let tables = [
        accepted(TableBuffer::new(plan.context(), &Tables::from(&schedule))),
        accepted(TableBuffer::new(plan.context(), &Tables::from(&ids))),
        None,
    ];
    for _ in 0..6 {
        let n = &mut case.numbers;
        let count = n.below(4);
        let sequences: Vec<Sequence> = (0..count)
            .map(|_| {
                let [batch, start, first] = [(); 3].map(|()| n.mild(2));
                let [queries, keys] = [(start, q_len), (first, kv_len)].map(|(from, len)| n.rows(from, len));
                let positions = n.once_in(3).then(|| FirstPositions { query: n.i64(), key: n.i64() });
                Sequence { entry: batch, queries, keys, positions }
            })
            .collect();
        let (a, b, equal) = (n.mild(q_len), n.mild(kv_len), n.bool());
        let table = n.pick(&[0, 1, 2, 2, 2]);
        tell!(case, "encode {a} × {b} ({equal}), or {sequences:?}; tables {table}");
        let call = if equal { Call::lengths(a, b) } else { Call::sequences(&sequences) };
        let call = tables[table].iter().fold(call, Call::with_tables);
        submit(context, |encoder| plan.encode(encoder, &bound, &call));
        let rounds = case.numbers.size();
        if !(3..=1 << 16).contains(&rounds) {
            tell!(case, "timings of {rounds} rounds");
            let timings = accepted(plan.timings(&bound, &call, rounds));
            assert!(timings.is_none_or(|timings| timings.wall.len() == rounds));
        }
    }
    gradients(case, context, &attention, &shape);
    samplers(case, context, &plan, &shape);
}

fn gradients(case: &mut Case, context: &Context, attention: &Attention, shape: &Shape) {
    tell!(case, "plan_backward");
    let Some(plan) = accepted(attention.plan_backward(context, shape)) else { return };
    let (heads, batch, q_len, kv_len) = (shape.heads(), shape.batch(), shape.q_len(), shape.kv_len());
    let of_queries = || rows(context, batch, heads, q_len);
    let of_keys = || rows(context, batch, 1, kv_len);
    let (q, k, v, output, d_output) = (of_queries(), of_keys(), of_keys(), of_queries(), of_queries());
    let (dq, dk, dv) = (of_queries(), of_keys(), of_keys());
    let lse = Layout::rows(batch, heads, q_len).unwrap();
    let lse = Tensor::zeros(context, DType::F32, lse).unwrap();
    let of_heads = [(); 2].map(|()| {
        let n = &mut case.numbers;
        let heads = if n.once_in(5) { 1 + n.below(9) } else { heads };
        let layout = Layout::rows(1, heads, 1).unwrap();
        n.once_in(3).then(|| Tensor::zeros(context, DType::F32, layout).unwrap())
    });
    let [d_sinks, d_slopes] = of_heads.each_ref().map(|of| of.as_ref().map(Tensor::view));
    let operands = BackwardOperands {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        output: output.view(),
        lse: lse.view(),
        d_output: d_output.view(),
        d_lse: None,
        dq: dq.view(),
        dk: dk.view(),
        dv: dv.view(),
        d_sinks,
        d_slopes,
    };
    tell!(case, "gradients of heads: {} {}", d_sinks.is_some(), d_slopes.is_some());
    let Some(bound): Option<BackwardBound> = accepted(plan.bind(&operands)) else { return };
    let grid = small_grid(case);
    tell!(case, "tables by key blocks of {grid:?}");
    let schedule = Schedule::dense(&grid).unwrap();
    let tables = accepted(TableBuffer::for_backward(plan.context(), &Tables::from(&schedule)));
    for _ in 0..3 {
        let n = &mut case.numbers;
        let (a, b, listed) = (n.mild(q_len), n.mild(kv_len), n.bool());
        let table = tables.iter().filter(|_| listed);
        tell!(case, "gradients of {a} × {b}");
        let call = table.fold(Call::lengths(a, b), Call::with_tables);
        submit(context, |encoder| plan.encode(encoder, &bound, &call));
        let rounds = case.numbers.size();
        if !(3..=1 << 16).contains(&rounds) {
            tell!(case, "timings of {rounds} rounds");
            accepted(plan.timings(&bound, &call, rounds));
        }
    }
}

fn samplers(case: &mut Case, context: &Context, plan: &prflash::Plan, shape: &Shape) {
    let Some(profile) = profile(case) else { return };
    let n = &mut case.numbers;
    let (capacity, seed) = (n.size(), Seed::new(n.bits()));
    let grid = match plan.attention().is_causal() {
        true => BlockGrid::causal(shape),
        false => BlockGrid::full(shape),
    };
    let block = n.mild(20);
    let Some(grid) = accepted(grid.with_block_size(block)) else { return };
    // What fits is allocated.
    let capacity = if capacity > 1 << 20 && capacity <= MAX_ELEMENTS { 1 << 20 } else { capacity };
    tell!(case, "gpu_sampler of {profile}, blocks of {block}, capacity {capacity}");
    let sampler = GpuSampler::with_capacity(
        plan.context(),
        &grid,
        plan.maxima().batch(),
        &profile,
        &Systematic,
        capacity,
    );
    let Some(mut sampler) = accepted(sampler) else { return };
    let other = small_grid(case);
    for sequences in [vec![], vec![(grid, seed)], vec![(other, seed)], vec![(grid, seed); 9]] {
        tell!(case, "draw {sequences:?}");
        submit(context, |encoder| sampler.encode(encoder, &sequences).map(drop));
        accepted(sampler.check_blocking());
    }
}

/// An exponent that is mostly one.
fn exponent(n: &mut Numbers) -> f64 {
    if n.once_in(5) { n.f64() } else { n.below(65) as f64 / 8.0 }
}

/// Blocks chosen by content: what isn't refused chooses what the host does.
fn selectors(case: &mut Case, context: &Context) {
    const DIM: usize = 8;
    let n = &mut case.numbers;
    let (q_len, kv_len, causal) = (1 + n.below(70), 1 + n.below(300), n.once_in(2));
    let (block, group, sequences, asked) = (n.mild(40), n.mild(16), n.mild(2), n.mild(6));
    let shape = Shape::new(4, 2, q_len, DIM).unwrap().with_kv_len(kv_len).unwrap();
    let attention = if causal { Attention::causal() } else { Attention::full() };
    let plan = attention.plan(context, &shape).unwrap();
    let grid = if n.once_in(8) != causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
    let granularity = [Granularity::Head, Granularity::KvHead, Granularity::Shared][n.below(3)];
    let Some(grid) = accepted(grid.with_block_size(block)) else { return };
    let grid = grid.with_granularity(granularity);
    let (sinks, window) = (n.mild(3), n.mild(3));
    let drawn = Participation::both(n.mild(9), exponent(n), exponent(n));
    let participation = if n.once_in(2) { Participation::content(n.mild(9)) } else { drawn };
    let probe = if n.once_in(2) { Probe::causal(asked) } else { Probe::looking_ahead(asked) };
    tell!(
        case,
        "{participation:?}, sinks {sinks}, window {window}, {probe:?}; {q_len} of {kv_len}, causal {causal}, {grid:?}; {sequences} sequences, groups of {group}"
    );
    let Some(participation) = accepted(participation) else { return };
    let participation = participation.with_sink_blocks(sinks).with_window_blocks(window);
    let (Some(participation), Some(probe)) = (accepted(participation), accepted(probe)) else { return };
    let estimate = [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey][case.numbers.below(3)];
    let Some(selector) = accepted(plan.selector(&grid, &participation, estimate, probe)) else { return };
    let missing = if case.numbers.once_in(3) { accepted(selector.with_missing()) } else { Some(selector) };
    let Some(selector) = missing else { return };
    let (q, k, output) =
        (rows(context, 1, 4, q_len), rows(context, 1, 2, kv_len), rows(context, 1, 4, q_len));
    let operands = Operands { q: q.view(), k: k.view(), v: k.view(), output: output.view(), lse: None };
    let bound = plan.bind(&operands).unwrap();
    let summaries = GpuSummaries::new(context, &attention, k.view(), group, sequences);
    let Some(mut summaries) = accepted(summaries) else { return };
    for _ in 0..3 {
        let n = &mut case.numbers;
        let from = n.mild(kv_len);
        let keys = SummarizedKeys {
            sequence: n.mild(1),
            entry: if n.once_in(9) { n.size() } else { 0 },
            keys: if n.once_in(3) { n.rows(from, kv_len) } else { 0..n.below(kv_len + 1) },
            from: if n.once_in(2) { 0 } else { n.mild(9) },
            position: if n.once_in(9) { n.i64() } else { 0 },
        };
        let (q_len, kv_len) = (n.mild(q_len), n.mild(kv_len));
        let seeds = vec![Seed::new(n.bits()); n.below(3)];
        tell!(case, "summarize {keys:?}, call {q_len} of {kv_len}, {seeds:?}");
        submit(context, |encoder| summaries.encode(encoder, std::slice::from_ref(&keys)));
        let call = Call::lengths(q_len, kv_len).with_selection(selector.over(&summaries).with_seeds(&seeds));
        if submit(context, |encoder| plan.encode(encoder, &bound, &call)).is_some() {
            let (lists, scores) =
                (selector.read_blocking().unwrap(), selector.read_scores_blocking().unwrap());
            let seed = seeds.first().copied().unwrap_or_default();
            for (list, scores) in lists.iter().zip(&scores) {
                assert_eq!(*list, Schedule::select(list.grid(), &participation, scores, seed).unwrap());
            }
            selector.read_missing_blocking().unwrap();
            selector.read_traffic_blocking().unwrap();
        }
        accepted(summaries.read_blocking(keys.sequence));
    }
}

fn rotations(case: &mut Case, context: &Context) {
    let n = &mut case.numbers;
    let (batch, len, most) = (1 + n.below(2), 1 + n.below(40), n.mild(1 << 12));
    // A table of positions, which may be long.
    let most = if (1 << 22..=1 << 30).contains(&most) { 1 << 22 } else { most };
    tell!(case, "rotation of {batch} × {len} rows, {most} positions");
    let rope = Rope::new(8, 1e4, Pairing::Half).unwrap();
    let Some(plan) = accepted(rope.plan_rotation(context, DType::F32, most)) else { return };
    let tensor = rows(context, batch, 2, len);
    let bound = plan.bind(tensor.view()).unwrap();
    for _ in 0..6 {
        let n = &mut case.numbers;
        let ids: Vec<u32> = (0..n.below(5)).map(|_| n.u32()).collect();
        let mut row = || {
            let from = n.mild(len);
            let rows = Rows::new(n.mild(batch), n.rows(from, len));
            match n.below(4) {
                0 => rows,
                1 => rows.at_position(n.i64()),
                2 => rows.all_at(n.i64()),
                _ => rows.at_ids(&ids),
            }
        };
        let rows = [row(), row()];
        let rows = &rows[..1 + case.numbers.below(2)];
        tell!(case, "turn {rows:?}");
        submit(context, |encoder| plan.encode(encoder, &bound, rows));
        submit(context, |encoder| plan.encode_inverse(encoder, &bound, rows));
    }
}

/// Any operations on the cache, against the one in host memory: the same are refused, and the words
/// are the same.
fn cache(case: &mut Case, context: &Context) {
    const LEN: usize = 400;
    let n = &mut case.numbers;
    let ladder = |steps: &[(u32, usize)], last| Ladder::new(steps, last).unwrap();
    let drops = n.once_in(3);
    let (k, v) = match drops {
        true => (ladder(&[(8, 1)], 0), ladder(&[(8, 1)], 0)),
        false => (ladder(&[(8, 1)], 4), ladder(&[(8, 1), (4, 1)], 2)),
    };
    let (residual, sinks) = (1 + n.below(70), n.below(40));
    tell!(case, "cache: drops {drops}, residual {residual}, {sinks} sinks");
    let staircase = Staircase::new(k, v).and_then(|s| s.with_segment(32)?.with_residual(residual)).unwrap();
    let staircase = staircase.with_sinks(sinks);
    let (heads, dim) = (2, 8);
    let shape = Shape::new(heads, heads, LEN, dim).unwrap();
    let keys = StoredKeys::AfterRotation;
    let mut cache = KvCache::new(context, staircase.clone(), &shape, keys).unwrap();
    let mut host = HostCache::new(staircase, &shape, keys).unwrap();
    let rows = tokens(case, 96, heads, [dim; 2]);
    let upload = |side| {
        let layout = Layout::heads_first(1, heads, 96, dim).unwrap();
        Tensor::upload(context, DType::F32, layout, &flat(&rows, heads, side)).unwrap()
    };
    let input = cache.input(upload(0).view(), upload(1).view()).unwrap();
    let attention = Attention::causal();
    let plan = attention.plan_cached(&cache, &shape.with_q_len(3).unwrap()).unwrap();
    let (q, output) = (self::rows(context, 1, heads, 3), self::rows(context, 1, heads, 3));
    let bound = plan.bind_queries(q.view(), output.view(), None).unwrap();
    for _ in 0..4 + case.numbers.below(20) {
        let n = &mut case.numbers;
        let all = host.sequences().count();
        let sequence = SequenceId::new(if n.once_in(10) { n.size() } else { n.below(all + 1) });
        let len = host.len(sequence).unwrap_or(0);
        let (kind, at) = (n.below(9), n.size());
        match kind {
            0 => {
                tell!(case, "add");
                assert_eq!(cache.add(), host.add());
            }
            1..=3 => {
                let (batch, from) = (n.mild(0), n.mild(20));
                let new = n.rows(from, 96);
                let chunk = Chunk { sequence, entry: batch, rows: new.clone() };
                let chunks = vec![chunk; if n.once_in(9) { 2 } else { 1 }];
                tell!(case, "append {chunks:?}");
                let appended = submit(context, |encoder| cache.append(encoder, &input, &chunks)).is_some();
                let count = new.len();
                let inside = batch == 0 && new.end <= 96;
                let fits = new.start <= new.end
                    && (inside || count == 0)
                    && len.saturating_add(count) <= LEN
                    && chunks.len() == 1;
                assert_eq!(appended, fits && host.len(sequence).is_ok());
                if appended && count > 0 {
                    let [k, v] = [0, 1].map(|side| flat(&rows[new.clone()], heads, side));
                    host.append(sequence, &k, &v).unwrap();
                }
            }
            4 => {
                let to = if n.bool() { len.saturating_sub(at % 100) } else { at };
                tell!(case, "truncate {sequence} of {len} to {to}");
                let same = accepted(host.truncate(sequence, to)).is_some();
                assert_eq!(accepted(cache.truncate(sequence, to)).is_some(), same);
            }
            5 if n.once_in(3) => {
                let segments = if n.bool() { at % 4 } else { at };
                tell!(case, "drop {segments} segments of {sequence}");
                let dropped = submit(context, |encoder| cache.drop_oldest(encoder, sequence, segments));
                // The host knows no longest sequence.
                if dropped.is_some() {
                    host.drop_oldest(sequence, segments).unwrap();
                }
            }
            5 => {
                tell!(case, "reserve {at} tokens of {sequence}");
                let there = host.len(sequence).is_ok();
                let reserved = submit(context, |encoder| cache.reserve(encoder, sequence, at)).is_some();
                assert_eq!(reserved, there && at <= LEN);
            }
            6 if n.once_in(3) => {
                let to = if n.bool() { len.saturating_sub(at % 100) } else { at };
                tell!(case, "fork {sequence} of {len} at {to}");
                let forked = submit(context, |encoder| cache.fork(encoder, sequence, to));
                assert_eq!(forked, accepted(host.fork(sequence, to)));
            }
            6 if n.bool() => {
                tell!(case, "remove {sequence}");
                let same = accepted(host.remove(sequence)).is_some();
                assert_eq!(accepted(cache.remove(sequence)).is_some(), same);
            }
            7 => {
                tell!(case, "save {sequence}");
                let saved = accepted(host.save(sequence));
                assert!(accepted(cache.save_blocking(sequence)) == saved);
                let Some(saved) = saved else { continue };
                tell!(case, "restore it");
                let restored = submit(context, |encoder| cache.restore(encoder, &saved)).unwrap();
                assert_eq!(restored, host.restore(&saved).unwrap());
                let bytes = spoilt(case, saved);
                tell!(case, "restore {bytes:?}");
                // Both take it, or neither; then it goes on as the others do.
                if let Some(restored) = submit(context, |encoder| cache.restore(encoder, &bytes)) {
                    assert_eq!(restored, host.restore(&bytes).unwrap());
                }
            }
            _ => {
                let (entry, from) = (n.mild(0), n.mild(2));
                let rows = n.rows(from, 3);
                let positions = n.once_in(3).then(|| FirstPositions { query: n.i64(), key: n.i64() });
                let queries = Queries { sequence, entry, rows, positions };
                tell!(case, "attend {queries:?}");
                submit(context, |encoder| plan.encode(encoder, &bound, &Call::cached(&cache, &[queries])));
            }
        }
    }
    tell!(case, "compare all");
    assert!(cache.sequences().eq(host.sequences()));
    assert_eq!(cache.live_bytes(), host.live_bytes());
    for sequence in host.sequences() {
        assert!(cache.save_blocking(sequence).unwrap() == host.save(sequence).unwrap());
    }
}
