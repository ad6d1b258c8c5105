//! Schedules: drawn on the host, drawn there and copied to the GPU, drawn on the GPU.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench schedules
//! ```

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prflash::attention::GpuSampler;
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

criterion_group!(benches, schedules);
criterion_main!(benches);
