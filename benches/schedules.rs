//! Schedules: drawn on the host, drawn there and copied to the GPU, drawn on the GPU; and what it
//! costs the host to choose blocks by their content, for a step of decoding.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench schedules
//! ```

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prflash::attention::GpuSampler;
use prflash::sampling::content::{DEFAULT_GROUP, Estimate, KeySummaries, Participation, Probe};
use prflash::{
    Attention, BlockGrid, Context, Profile, Schedule, Seed, Shape, Systematic, TableBuffer, Tables,
};

fn schedules(criterion: &mut Criterion) {
    let context = Context::new_blocking().map_err(|error| println!("host only: {error}")).ok();
    let mut group = criterion.benchmark_group("schedule, 32 heads, systematic 1/(1+d)");
    group.sample_size(10);
    for blocks in [64usize, 1024, 16_384] {
        let shape = Shape::new(32, 8, 64 * blocks, 64).expect("a valid shape");
        let grid = BlockGrid::causal(&shape);
        let profile = Profile::harmonic();
        let draw = |seed| Schedule::sample(&grid, &profile, &Systematic, Seed::new(seed)).expect("it fits");
        group.throughput(Throughput::Elements(draw(0).visited_blocks()));
        let mut seed = 0;
        let mut next = || {
            seed += 1;
            seed
        };
        group.bench_function(format!("T = {blocks}, host"), |bencher| bencher.iter(|| draw(next())));
        let Some(context) = &context else { continue };
        // Until the GPU has the lists; nothing reads them.
        let plan = Attention::causal().plan(context, &shape).expect("it fits");
        let mut tables: Option<TableBuffer> = None;
        group.bench_function(format!("T = {blocks}, host and upload"), |bencher| {
            bencher.iter(|| {
                let schedule = draw(next());
                match &mut tables {
                    Some(tables) => tables.write(&Tables::from(&schedule)).expect("it fits"),
                    none => {
                        *none =
                            Some(TableBuffer::new(plan.context(), &Tables::from(&schedule)).expect("it fits"))
                    }
                }
                context.queue().submit([]);
                context.wait().expect("the device lives");
            });
        });
        drop(tables);
        let mut sampler =
            GpuSampler::new(plan.context(), &grid, plan.maxima().batch(), &profile, &Systematic)
                .expect("it fits");
        group.bench_function(format!("T = {blocks}, GPU"), |bencher| {
            bencher.iter(|| {
                let mut encoder = context.device().create_command_encoder(&Default::default());
                sampler.encode(&mut encoder, &[(grid, Seed::new(next()))]).expect("it fits");
                context.queue().submit([encoder.finish()]);
                context.wait().expect("the device lives");
            });
        });
    }
    group.finish();
}

/// Blocks that each head visits.
const BUDGET: usize = 16;

/// One query, all keys of a history: everything from keys to a list, beside a list that is drawn by
/// distance.
fn content(criterion: &mut Criterion) {
    for len in [8192usize, 32_768] {
        let title = format!("decode step, 32 query heads on 8, D = 128, {len} keys, {BUDGET} blocks of 64");
        let mut group = criterion.benchmark_group(title);
        group.sample_size(10);
        let shape =
            Shape::new(32, 8, 1, 128).and_then(|shape| shape.with_kv_len(len)).expect("a valid shape");
        let (attention, grid, none) = (Attention::causal(), BlockGrid::causal(&shape), Tables::new());
        let numbers = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
        let (q, k, token) = (numbers(32 * 128), numbers(8 * len * 128), numbers(8 * 128));
        let summarize = || attention.summarize(&shape, &k, DEFAULT_GROUP, None).expect("finite keys");
        let keys = summarize();
        group.bench_function("summarize all keys", |bencher| bencher.iter(summarize));
        // One token of the last group is there, so that no memory is asked for.
        let mut grown = keys.clone();
        grown.append(&token).expect("one token");
        group.bench_function("append a token", |bencher| {
            let append = |keys: &mut KeySummaries| keys.append(&token);
            bencher.iter_batched_ref(|| grown.clone(), append, BatchSize::LargeInput);
        });
        let score = |estimate| {
            attention.block_scores(&grid, &q, &keys, estimate, Probe::default(), &none).expect("they match")
        };
        for estimate in [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey] {
            let name = format!("block_scores, {}", estimate.name());
            group.bench_function(name, |bencher| bencher.iter(|| score(estimate)));
        }
        let scores = score(Estimate::Saturated);
        let mut seeds = (0..).map(Seed::new);
        let mut seed = || seeds.next().expect("without end");
        for participation in [Participation::content(BUDGET), Participation::both(BUDGET, 0.5, 0.5)] {
            let participation = participation.expect("a budget");
            group.bench_function(format!("select {participation}"), |bencher| {
                bencher.iter(|| Schedule::select(&grid, &participation, &scores, seed()).expect("it fits"));
            });
        }
        let profile = Profile::half_window(BUDGET as f64).expect("a budget");
        group.bench_function(format!("sample {profile}"), |bencher| {
            bencher.iter(|| Schedule::sample(&grid, &profile, &Systematic, seed()).expect("it fits"));
        });
        group.finish();
    }
}

criterion_group!(benches, schedules, content);
criterion_main!(benches);
