//! Attention kernels, dense and PrFlash, wall time from submission to completion.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench attention
//! ```

use criterion::{Criterion, criterion_group, criterion_main};
use prflash::sampling::Granularity;
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Schedule, Seed, Shape, Systematic,
    TableBuffer, Tables, Tensor,
};

fn attention(criterion: &mut Criterion) {
    let context = match Context::new_blocking() {
        Ok(context) => context,
        Err(error) => {
            eprintln!("SKIPPED attention bench: {error}");
            return;
        }
    };
    println!("device: {}", context.capabilities());
    for (len, dim) in [(1024, 64), (4096, 64), (1024, 128)] {
        let shape = Shape::new(8, 2, len, dim).expect("a valid shape");
        let zeros = |heads| {
            let layout = Layout::heads_first(1, heads, len, dim).expect("a valid layout");
            let values: Vec<f32> =
                (0..layout.elements()).map(|i| ((i * 7919) % 997) as f32 / 997.0 - 0.5).collect();
            Tensor::upload(&context, DType::F32, layout, &values).expect("enough memory")
        };
        let (q, k, v, output) = (zeros(8), zeros(2), zeros(2), zeros(8));
        let plan = Attention::causal().plan(&context, &shape).expect("a plan");
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let bound = plan.bind(&operands).expect("good operands");
        let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
        let schedule =
            Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1)).expect("it fits");
        let uploaded = TableBuffer::new(plan.context(), &Tables::from(&schedule)).expect("enough memory");
        let run = |call: &Call<'_>| {
            let mut encoder = context.device().create_command_encoder(&Default::default());
            plan.encode(&mut encoder, &bound, call).expect("a valid call");
            context.queue().submit([encoder.finish()]);
            context.wait().expect("a living device");
        };
        let dense = Call::lengths(len, len);
        let sampled = dense.clone().with_tables(&uploaded);
        let mut group = criterion.benchmark_group(format!("causal H 8, KV 2, N {len}, D {dim}, f32"));
        group.sample_size(10);
        let density = schedule.density();
        group.bench_function("dense", |bencher| bencher.iter(|| run(&dense)));
        group.bench_function(format!("prflash, density {density:.3}"), |bencher| {
            bencher.iter(|| run(&sampled))
        });
        group.finish();
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
