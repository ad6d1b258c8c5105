//! Building schedules on the host.
//!
//! ```text
//! cargo bench --bench schedules
//! ```

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prflash::{BlockGrid, Key, Profile, Schedule, Shape, Systematic};

fn schedules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule, 32 heads, systematic 1/(1+d)");
    for blocks in [64usize, 1024, 16_384] {
        let shape = Shape::new(32, 8, 64 * blocks, 64).expect("a valid shape");
        let grid = BlockGrid::causal(&shape);
        let draw = |seed| {
            Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(seed)).expect("it fits")
        };
        group.throughput(Throughput::Elements(draw(0).visited_blocks()));
        let mut seed = 0;
        group.sample_size(10).bench_function(format!("T = {blocks}"), |bencher| {
            bencher.iter(|| {
                seed += 1;
                draw(seed)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, schedules);
criterion_main!(benches);
