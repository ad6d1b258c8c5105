//! The staircase cache on the GPU against the one in host memory, word for word.

mod common;

use common::gpu;

use prflash::cache::{HostCache, Ladder, Staircase, StoredKeys};
use prflash::{Chunk, Context, DType, KvCache, KvInput, Layout, Shape, Tensor, wgpu};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

fn ladder(steps: &[(u32, usize)], last: u32) -> Ladder {
    Ladder::new(steps, last).unwrap()
}

/// Segments of 32 tokens, so that few tokens climb down many rungs.
fn short(staircase: Staircase) -> Staircase {
    staircase.with_segment(32).unwrap()
}

/// Nested, not nested, dropping, with many sinks, the presets.
fn staircases() -> Vec<Staircase> {
    let nested = Staircase::new(ladder(&[(16, 1), (8, 1)], 4), ladder(&[(8, 1), (4, 2)], 2)).unwrap();
    let uneven = Staircase::new(ladder(&[(8, 1), (4, 1), (3, 1)], 2), ladder(&[(8, 2)], 3)).unwrap();
    let dropping = Staircase::new(ladder(&[(8, 1), (4, 2)], 0), ladder(&[(4, 3)], 0)).unwrap();
    let all = [
        nested,
        uneven,
        dropping.with_sinks(40),
        Staircase::paper(),
        Staircase::recommended(),
        Staircase::kivi(2).unwrap(),
        Staircase::streaming(50).unwrap(),
        Staircase::plain(),
    ];
    all.map(short).to_vec()
}

fn noise(rng: &mut SmallRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-4.0..4.0)).collect()
}

/// Rows `[heads, tokens, dim]` in host memory, rounded to a type.
#[derive(Clone)]
struct Rows {
    heads: usize,
    tokens: usize,
    dim: usize,
    values: Vec<f32>,
}

impl Rows {
    fn new(heads: usize, dim: usize, dtype: DType, values: Vec<f32>) -> Self {
        let tokens = values.len() / heads / dim;
        Self { heads, tokens, dim, values: values.into_iter().map(|x| dtype.round(x)).collect() }
    }

    fn layout(&self) -> Layout {
        Layout::heads_first(1, self.heads, self.tokens, self.dim).unwrap()
    }
}

fn input(context: &Context, cache: &KvCache, dtype: DType, k: &Rows, v: &Rows) -> KvInput {
    let tensor = |rows: &Rows| Tensor::upload(context, dtype, rows.layout(), &rows.values).unwrap();
    cache.input(tensor(k).view(), tensor(v).view()).unwrap()
}

/// Records into an encoder of its own and submits it.
fn submit<T>(context: &Context, work: impl FnOnce(&mut wgpu::CommandEncoder) -> T) -> T {
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let result = work(&mut encoder);
    context.queue().submit([encoder.finish()]);
    result
}

/// The same tokens in chunks of any size leave the words that the host holds: every staircase, type and padding.
#[test]
fn appended_words_are_the_hosts() {
    let Some(context) = gpu("appended words") else { return };
    let tokens = 500;
    let mut rng = SmallRng::seed_from_u64(1);
    for (index, staircase) in staircases().into_iter().enumerate() {
        for (dtype, head_dim, value_dim) in
            [(DType::F32, 80, 36), (DType::F16, 64, 64), (DType::Bf16, 40, 96)]
        {
            let shape = Shape::new(4, 2, tokens, head_dim).unwrap().with_value_dim(value_dim).unwrap();
            let k = Rows::new(2, head_dim, dtype, noise(&mut rng, 2 * tokens * head_dim));
            let v = Rows::new(2, value_dim, dtype, noise(&mut rng, 2 * tokens * value_dim));
            let mut host = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
            let id = host.add();
            host.append(id, &k.values, &v.values).unwrap();
            let want = host.save(id).unwrap();
            let mut cache =
                KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
            let input = input(&context, &cache, dtype, &k, &v);
            for chunk in [tokens, 33, 7, 1] {
                // A byte for byte comparison of single tokens takes a while: one type for each staircase.
                if chunk == 1 && index % 3 != dtype as usize {
                    continue;
                }
                let id = cache.add();
                for from in (0..tokens).step_by(chunk) {
                    let part = Chunk::new(id, 0, chunk.min(tokens - from)).starting_at(from);
                    submit(&context, |encoder| cache.append(encoder, &input, &[part])).unwrap();
                }
                assert_eq!(cache.memory(id).unwrap().total(), host.live_bytes());
                assert!(
                    cache.save_blocking(id).unwrap() == want,
                    "{staircase}\n{dtype}, {head_dim} and {value_dim} channels, chunks of {chunk}"
                );
                cache.remove(id).unwrap();
            }
            cache.check_blocking().unwrap();
        }
    }
}
