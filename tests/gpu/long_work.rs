//! Work that is cut into several dispatches gives the bits of work that isn't.

use crate::common::{Problem, Storage, by, gpu, numbers, zeros};
use prflash::attention::Sequence;
use prflash::cache::{Chunk, KvCache, SequenceId, Staircase, StoredKeys};
use prflash::kernels::{Decode, Kernel};
use prflash::rounds::Combine;
use prflash::sampling::Granularity;
use prflash::{
    Attention, BlockGrid, Call, Context, ContextOptions, DType, Documents, Layout, Operands, PlanOptions,
    Profile, Queries, Schedule, Seed, Shape, Systematic, TableBuffer, Tables, Tensor,
};

/// The device under test without a cap, and one on the same adapter that gives each tile a dispatch
/// of its own.
fn contexts(test: &str) -> Option<[Context; 2]> {
    gpu(test)?;
    let open =
        |flops| Context::with_options_blocking(&ContextOptions::new().max_dispatch_flops(flops)).unwrap();
    Some([open(u64::MAX), open(1)])
}

/// More calls in flight than there are slots of a page: more dispatches, that is.
fn grew(plan: &prflash::Plan, before: u64) -> bool {
    plan.device_bytes() > before
}

#[test]
fn the_cap_is_that_of_the_options() {
    let Some(context) = gpu("caps") else { return };
    let software = context.capabilities().is_software();
    assert_eq!(context.max_dispatch_flops().is_none(), software);
    let (device, queue) = (context.device().clone(), context.queue().clone());
    let capped =
        Context::from_wgpu_with(device, queue, &ContextOptions::new().max_dispatch_flops(7)).unwrap();
    assert_eq!(capped.max_dispatch_flops(), Some(7));
}

#[test]
fn prefill_has_the_same_bits() {
    let Some(contexts) = contexts("cut prefill") else { return };
    let shape = Shape::new(6, 2, 500, 64).unwrap().with_batch(2).unwrap();
    let longer = shape.with_kv_len(700).unwrap();
    let lists = |shape: &Shape, block, causal, granularity| {
        let grid = if causal { BlockGrid::causal(shape) } else { BlockGrid::full(shape) };
        let grid = grid.with_block_size(block).unwrap().with_granularity(granularity);
        Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(5)).unwrap()
    };
    let schedules = [
        lists(&shape, 64, true, Granularity::Head),
        lists(&longer, 128, true, Granularity::KvHead),
        lists(&shape, 24, false, Granularity::Shared),
    ];
    let documents = Documents::from_lengths(&[100, 0, 350, 50]).unwrap();
    let causal = || Attention::causal().with_lse(true);
    let cases = [
        (causal(), shape, Tables::new()),
        (Attention::full().with_lse(true), longer, Tables::new()),
        (causal().with_window(70).unwrap().with_storage(DType::F16), shape, Tables::new()),
        (causal(), shape, Tables::from(&schedules[0])),
        (causal().with_correction(1.0).unwrap(), longer, Tables::from(&schedules[1])),
        (Attention::full().with_lse(true), shape, Tables::from(&schedules[2])),
        (causal(), shape, Tables::from(&schedules[0]).with_documents(&documents)),
    ];
    for (case, (attention, shape, tables)) in cases.into_iter().enumerate() {
        for kernel in [None, Some(Kernel::Naive)] {
            let problem = Problem::random(attention.clone(), shape, case as u64).with_options(by(kernel));
            let results: Vec<_> = contexts
                .iter()
                .map(|context| {
                    let plan = problem.plan(context).unwrap();
                    let before = plan.device_bytes();
                    let [q, k, v] = problem.upload(context, Storage::HeadsFirst).unwrap();
                    // Submitted in pieces, and recorded into one encoder.
                    let run = plan.run(&q, &k, &v, &tables).unwrap();
                    let (run, run_lse) =
                        (run.output.read_blocking(context), run.lse.unwrap().read_blocking(context));
                    let rows = Layout::rows(2, 6, 500).unwrap();
                    let output = zeros(context, attention.output(), crate::common::output_layout(&shape));
                    let lse = zeros(context, DType::F32, rows);
                    let operands =
                        Operands { q: &q, k: &k, v: &v, output: output.view(), lse: Some(lse.view()) };
                    let bound = plan.bind(&operands).unwrap();
                    let uploaded = TableBuffer::new(plan.context(), &tables).unwrap();
                    let call = Call::lengths(shape.q_len(), shape.kv_len()).with_tables(&uploaded);
                    let mut encoder = context.device().create_command_encoder(&Default::default());
                    plan.encode(&mut encoder, &bound, &call).unwrap();
                    context.queue().submit([encoder.finish()]);
                    let (output, lse) = (output.read_blocking(context), lse.read_blocking(context));
                    assert_eq!(run.as_ref().unwrap(), output.as_ref().unwrap(), "case {case}");
                    assert_eq!(run_lse.unwrap(), lse.unwrap(), "case {case}");
                    assert_eq!(grew(&plan, before), context.max_dispatch_flops() == Some(1), "case {case}");
                    output.unwrap()
                })
                .collect();
            assert_eq!(results[0], results[1], "case {case}, {kernel:?}");
        }
    }
}

#[test]
fn packed_sequences_have_the_same_bits() {
    let Some(contexts) = contexts("cut packed sequences") else { return };
    let packed = Shape::new(3, 1, 400, 32).unwrap();
    let options = PlanOptions::new().with_sequences(3).unwrap();
    let problem = Problem::random(Attention::causal(), packed, 9).with_options(options);
    let sequences = [
        Sequence { entry: 0, queries: 0..130, keys: 0..130, positions: None },
        Sequence { entry: 0, queries: 130..130, keys: 130..130, positions: None },
        Sequence { entry: 0, queries: 130..330, keys: 130..400, positions: None },
    ];
    let results = contexts.each_ref().map(|context| {
        let plan = problem.plan(context).unwrap();
        let [q, k, v] = problem.upload(context, Storage::TokensFirst).unwrap();
        let output = zeros(context, DType::F32, crate::common::output_layout(&packed));
        let operands = Operands { q: &q, k: &k, v: &v, output: output.view(), lse: None };
        plan.submit(&plan.bind(&operands).unwrap(), &Call::sequences(&sequences)).unwrap();
        output.read_blocking(context).unwrap()
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn split_keys_have_the_same_bits() {
    let Some(contexts) = contexts("cut split keys") else { return };
    let shape = Shape::new(8, 2, 3, 64).unwrap().with_kv_len(900).unwrap().with_batch(2).unwrap();
    let schedule = {
        let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
        Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(6)).unwrap()
    };
    let kernel = Kernel::Decode(Decode::new(2, false).unwrap());
    for kernel in [None, Some(kernel)] {
        let options = by(kernel).with_splits(5).unwrap();
        let problem = Problem::random(Attention::causal().with_lse(true), shape, 10).with_options(options);
        for tables in [Tables::new(), Tables::from(&schedule)] {
            let [whole, cut] = contexts.each_ref().map(|c| problem.run(c, Storage::HeadsFirst, &tables));
            assert_eq!(whole.output, cut.output);
            assert_eq!(whole.lse, cut.lse);
        }
    }
}

#[test]
fn caches_have_the_same_bits() {
    let Some(contexts) = contexts("cut caches") else { return };
    let shape = Shape::new(4, 2, 600, 64).unwrap().with_batch(2).unwrap();
    for q_len in [2, 300] {
        let results = contexts.each_ref().map(|context| {
            let staircase = Staircase::recommended();
            let mut cache = KvCache::new(context, staircase, &shape, StoredKeys::AfterRotation).unwrap();
            let tensor = |seed, heads, len| {
                let layout = Layout::heads_first(2, heads, len, 64).unwrap();
                let values = numbers(seed, layout.elements());
                Tensor::upload(context, DType::F32, layout, &values).unwrap()
            };
            let (q, k, v) = (tensor(1, 4, q_len), tensor(2, 2, 600), tensor(3, 2, 600));
            let input = cache.input(k.view(), v.view()).unwrap();
            let chunks = [(0, 600), (1, 450)].map(|(batch, len)| Chunk {
                sequence: cache.add(),
                entry: batch,
                rows: 0..len,
            });
            let mut encoder = context.device().create_command_encoder(&Default::default());
            cache.append(&mut encoder, &input, &chunks).unwrap();
            context.queue().submit([encoder.finish()]);
            let maxima = shape.with_q_len(q_len).unwrap();
            let plan = Attention::causal().with_lse(true).plan_cached(&cache, &maxima).unwrap();
            let queries = [0, 1].map(|sequence| Queries {
                sequence: SequenceId::new(sequence),
                entry: sequence,
                rows: 0..q_len,
                positions: None,
            });
            let got = plan.run_cached(&cache, q.view(), &queries, &Tables::new()).unwrap();
            [got.output, got.lse.unwrap()].map(|tensor| tensor.read_blocking(context).unwrap())
        });
        assert_eq!(results[0], results[1], "{q_len} queries");
    }
}

/// The time of a call that is submitted in pieces goes from the first to the last.
#[test]
fn timestamps_span_the_pieces() {
    let Some([_, context]) = contexts("timestamps of pieces") else { return };
    let Ok(timer) = prflash::device::GpuTimer::new(&context) else { return };
    let shape = Shape::new(4, 2, 500, 64).unwrap();
    let problem = Problem::random(Attention::causal(), shape, 11);
    let plan = problem.attention.plan(&context, &shape).unwrap();
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let output = zeros(&context, DType::F32, crate::common::output_layout(&shape));
    let bound = plan.bind(&Operands { q: &q, k: &k, v: &v, output: output.view(), lse: None }).unwrap();
    let started = std::time::Instant::now();
    plan.submit(&bound, &Call::lengths(500, 500).with_timestamps(timer.writes())).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    timer.resolve(&mut encoder);
    context.queue().submit([encoder.finish()]);
    let time = timer.read_blocking(&context).unwrap();
    assert!(!time.is_zero() && time <= started.elapsed(), "{time:?}");
}

/// Rounds are submitted in the same pieces.
#[test]
fn rounds_come_in_pieces_too() {
    let Some(contexts) = contexts("rounds in pieces") else { return };
    let shape = Shape::new(2, 1, 300, 32).unwrap();
    let schedules: Vec<Schedule> = (0..3)
        .map(|round| {
            let grid = BlockGrid::causal(&shape);
            Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(round)).unwrap()
        })
        .collect();
    let problem = Problem::random(Attention::causal().with_lse(true), shape, 3);
    let results = contexts.each_ref().map(|context| {
        let [q, k, v] = problem.upload(context, Storage::HeadsFirst).unwrap();
        let plan = problem.attention.plan(context, &shape).unwrap().rounds(Combine::Independent).unwrap();
        let mut rounds = plan.start(&q, &k, &v).unwrap();
        for schedule in &schedules {
            rounds.step(&Tables::from(schedule)).unwrap();
        }
        let estimate = rounds.estimate();
        let error = estimate.standard_error.as_ref().unwrap().read_blocking(context).unwrap();
        let output = estimate.output.read_blocking(context).unwrap();
        output.into_iter().chain(error).map(f32::to_bits).collect::<Vec<_>>()
    });
    assert_eq!(results[0], results[1]);
}
