//! The native engine on this machine's cores: dense and PrFlash prefill, decode, and gradients.
//!
//! ```text
//! cargo bench --bench native --features avx512
//! ```

use criterion::{Criterion, criterion_group, criterion_main};
use prflash::native::{
    HostView, HostViewMut, NativeBackwardOperands, NativeOperands, NativeOptions, NativePlan,
};
use prflash::sampling::Granularity;
use prflash::{Attention, BlockGrid, Layout, Profile, Schedule, Seed, Shape, Systematic, Tables};

/// Tensors of a shape, heads-first.
struct Tensors {
    layouts: [Layout; 3],
    numbers: [Vec<f32>; 3],
    output: Vec<f32>,
}

impl Tensors {
    fn new(shape: &Shape) -> Self {
        let layout =
            |heads, len| Layout::heads_first(1, heads, len, shape.head_dim()).expect("a valid layout");
        let keys = layout(shape.kv_heads(), shape.kv_len());
        let layouts = [layout(shape.heads(), shape.q_len()), keys, keys];
        let numbers = layouts
            .map(|layout| (0..layout.elements()).map(|i| ((i * 7919) % 997) as f32 / 997.0 - 0.5).collect());
        Self { layouts, numbers, output: vec![0.0; layouts[0].elements()] }
    }

    fn run(&mut self, plan: &NativePlan, tables: &Tables<'_>) {
        let [q, k, v] = &self.numbers;
        let [queries, keys, values] = self.layouts;
        let mut operands = NativeOperands {
            q: HostView::new(&q[..], queries).expect("a view"),
            k: HostView::new(&k[..], keys).expect("a view"),
            v: HostView::new(&v[..], values).expect("a view"),
            output: HostViewMut::new(&mut self.output[..], queries).expect("a view"),
            lse: None,
        };
        plan.run(&mut operands, tables).expect("a valid call");
    }
}

fn native(criterion: &mut Criterion) {
    let shapes = [
        ("S1", Shape::new(8, 2, 1024, 64)),
        ("S2", Shape::new(8, 2, 4096, 64)),
        ("S3", Shape::new(32, 8, 1024, 128)),
        ("S4", Shape::new(32, 8, 8192, 128).and_then(|shape| shape.with_q_len(1))),
    ];
    for (name, shape) in shapes {
        let shape = shape.expect("a valid shape");
        let mut tensors = Tensors::new(&shape);
        let mut group = criterion.benchmark_group(format!("{name} {shape:?}"));
        group.sample_size(10);
        for (threads, options) in [
            ("one thread", NativeOptions::new().with_threads(1).expect("a thread")),
            ("all threads", NativeOptions::new()),
        ] {
            let plan = Attention::causal().plan_native(&shape, &options).expect("a plan");
            let instructions = plan.instructions();
            let dense = Tables::new();
            group.bench_function(format!("dense, {threads}, {instructions}"), |bencher| {
                bencher.iter(|| tensors.run(&plan, &dense))
            });
            let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
            let schedule =
                Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1)).expect("it fits");
            let density = schedule.density();
            let sampled = Tables::from(&schedule);
            group.bench_function(format!("prflash {density:.3}, {threads}, {instructions}"), |bencher| {
                bencher.iter(|| tensors.run(&plan, &sampled))
            });
        }
        group.finish();
    }
}

/// The backward pass, from an output and a log-sum-exp that might be any.
fn native_backward(criterion: &mut Criterion) {
    for (name, shape) in [("S1", Shape::new(8, 2, 1024, 64)), ("S2", Shape::new(8, 2, 4096, 64))] {
        let shape = shape.expect("a valid shape");
        let Tensors { layouts: [queries, keys, _], numbers: [q, k, v], output } = Tensors::new(&shape);
        let lse = vec![8.0; shape.heads() * shape.q_len()];
        let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|numbers| vec![0.0_f32; numbers.len()]);
        let mut group = criterion.benchmark_group(format!("{name} gradients {shape:?}"));
        group.sample_size(10);
        let plan = Attention::causal().plan_backward_native(&shape, &NativeOptions::new()).expect("a plan");
        group.bench_function(format!("dense, all threads, {}", plan.instructions()), |bencher| {
            bencher.iter(|| {
                let mut operands = NativeBackwardOperands {
                    q: HostView::new(&q[..], queries).expect("a view"),
                    k: HostView::new(&k[..], keys).expect("a view"),
                    v: HostView::new(&v[..], keys).expect("a view"),
                    output: HostView::new(&output[..], queries).expect("a view"),
                    lse: &lse,
                    d_output: HostView::new(&q[..], queries).expect("a view"),
                    d_lse: None,
                    dq: HostViewMut::new(&mut dq[..], queries).expect("a view"),
                    dk: HostViewMut::new(&mut dk[..], keys).expect("a view"),
                    dv: HostViewMut::new(&mut dv[..], keys).expect("a view"),
                    d_sinks: None,
                    d_slopes: None,
                };
                plan.run(&mut operands, &Tables::new()).expect("a valid call");
            })
        });
        group.finish();
    }
}

criterion_group!(benches, native, native_backward);
criterion_main!(benches);
