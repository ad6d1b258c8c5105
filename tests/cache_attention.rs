//! Attention over a cache on the GPU, against the oracle that reads the same packed words.

mod common;

use common::{gpu, numbers};
use prflash::cache::{Ladder, Staircase, StoredKeys};
use prflash::verify::{Tolerance, compare};
use prflash::{
    Attention, Bias, BlockGrid, Chunk, Context, DType, Decode, Granularity, Kernel, Key, KvCache, Layout,
    Pairing, PositionIds, Positions, Profile, Queries, Rope, Schedule, Shape, Systematic, Tables, Tensor,
    reference,
};

fn ladder(steps: &[(u32, usize)], last: u32) -> Ladder {
    Ladder::new(steps, last).unwrap()
}

/// Segments of 32 tokens, so that few tokens climb down many rungs.
fn short(staircase: Staircase) -> Staircase {
    staircase.with_segment(32).unwrap()
}

/// Every width on either side, nested or not; dropping, with sinks that end anywhere; the presets.
fn staircases() -> Vec<Staircase> {
    let nested = Staircase::new(ladder(&[(16, 1), (8, 1)], 4), ladder(&[(8, 1), (4, 2)], 2)).unwrap();
    let uneven = Staircase::new(ladder(&[(8, 1), (4, 1), (3, 1)], 2), ladder(&[(8, 2)], 3)).unwrap();
    let dropping = Staircase::new(ladder(&[(8, 1), (4, 2)], 0), ladder(&[(4, 3)], 0)).unwrap();
    let all = [
        nested.with_sinks(3),
        uneven.with_residual(50).unwrap(),
        dropping.with_sinks(41),
        Staircase::paper(),
        Staircase::recommended(),
        Staircase::kivi(2).unwrap(),
        Staircase::streaming(50).unwrap(),
        Staircase::plain(),
    ];
    all.map(short).to_vec()
}

/// A cache with these many tokens in each sequence, appended in chunks of 100.
fn filled(
    context: &Context,
    staircase: Staircase,
    shape: &Shape,
    keys: StoredKeys,
    lens: &[usize],
    seed: u64,
) -> KvCache {
    let longest = lens.iter().copied().max().unwrap();
    let mut cache = KvCache::new(context, staircase, &shape.with_kv_len(longest).unwrap(), keys).unwrap();
    let (heads, batch) = (shape.kv_heads(), lens.len());
    let tensor = |seed, dim: usize, size: f32| {
        let layout = Layout::heads_first(batch, heads, longest, dim).unwrap();
        let values: Vec<f32> = numbers(seed, layout.elements()).into_iter().map(|x| x * size).collect();
        Tensor::upload(context, DType::F32, layout, &values).unwrap()
    };
    let (k, v) = (tensor(seed, shape.head_dim(), 2.0), tensor(seed + 1, shape.value_dim(), 1.0));
    let input = cache.input(k.view(), v.view()).unwrap();
    let ids: Vec<usize> = lens.iter().map(|_| cache.add()).collect();
    for start in (0..longest).step_by(100) {
        let chunks: Vec<Chunk> = lens
            .iter()
            .enumerate()
            .filter(|&(_, &len)| len > start)
            .map(|(batch, &len)| Chunk::new(ids[batch], batch, (len - start).min(100)).starting_at(start))
            .collect();
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.append(&mut encoder, &input, &chunks).unwrap();
        context.queue().submit([encoder.finish()]);
    }
    cache
}

/// Queries of `q_len` rows for each sequence, computed on the GPU and by the oracle; panics with the story if anything is off.
fn check(
    attention: &Attention,
    shape: &Shape,
    cache: &KvCache,
    q_len: usize,
    tables: &[Tables<'_>],
    story: &str,
) {
    let context = attention_context(cache);
    let lens: Vec<usize> = cache.sequences().map(|id| cache.len(id).unwrap()).collect();
    let attention = attention.clone().with_lse(true);
    let batch = lens.len();
    let maxima = shape.with_batch(batch).unwrap().with_q_len(q_len).unwrap();
    let plan = attention.plan_cached(cache, &maxima).unwrap();
    let layout = Layout::heads_first(batch, shape.heads(), q_len, shape.head_dim()).unwrap();
    let q: Vec<f32> =
        numbers(77, layout.elements()).into_iter().map(|x| attention.storage().round(2.0 * x)).collect();
    let q_tensor = Tensor::upload(&context, attention.storage(), layout, &q).unwrap();
    let queries: Vec<Queries> = lens
        .iter()
        .enumerate()
        .map(|(sequence, &len)| Queries::new(sequence, sequence, q_len.min(len)))
        .collect();
    let all = tables.iter().fold(Tables::new(), |all, tables| {
        let all = tables.schedule(0).into_iter().fold(all, Tables::with_schedule);
        tables.position_ids(0).into_iter().fold(all, Tables::with_position_ids)
    });
    let got = plan.run(cache, q_tensor.view(), &queries, &all).unwrap();
    let (output, lse) =
        (got.output.read_blocking(&context).unwrap(), got.lse.unwrap().read_blocking(&context).unwrap());
    for (sequence, &len) in lens.iter().enumerate() {
        let rows = q_len.min(len);
        let one = shape.with_q_len(rows).unwrap().with_kv_len(len).unwrap();
        let host = cache.to_host_blocking(sequence).unwrap();
        // The rows of this sequence, head by head.
        let part = |values: &[f32], dim: usize| -> Vec<f32> {
            let head = |head: usize| {
                let start = (sequence * shape.heads() + head) * q_len * dim;
                values[start..start + rows * dim].to_vec()
            };
            (0..shape.heads()).flat_map(head).collect()
        };
        let none = Tables::new();
        let tables = tables.get(sequence).unwrap_or(&none);
        let exact =
            reference::attention_cached(&attention, &one, &part(&q, shape.head_dim()), &host, 0, tables)
                .unwrap();
        let output = compare(
            &part(&output, shape.value_dim()),
            &exact.output,
            Tolerance::of_output(&exact, &one, attention.output()),
        )
        .unwrap();
        assert!(output.passed(), "output of sequence {sequence}, {story}, {}: {output}", plan.kernel());
        let lse = compare(&part(&lse, 1), &exact.lse, Tolerance::of_lse(&exact, &one)).unwrap();
        assert!(lse.passed(), "lse of sequence {sequence}, {story}, {}: {lse}", plan.kernel());
    }
}

fn attention_context(cache: &KvCache) -> Context {
    gpu("cache").filter(|_| cache.kv_heads() > 0).unwrap()
}

/// The kernels that can read a cache.
fn kernels(context: &Context) -> Vec<Option<Kernel>> {
    let decode = |sets, quads| Some(Kernel::Decode(Decode::new(sets, quads).unwrap()));
    let quads = context.capabilities().subgroup_sizes.is_some();
    let mut kernels = vec![None, decode(1, false)];
    kernels.extend(quads.then(|| decode(2, true)));
    kernels
}

#[test]
fn every_staircase_and_kernel_agrees_with_the_oracle() {
    let Some(context) = gpu("every_staircase_and_kernel_agrees_with_the_oracle") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    for (index, staircase) in staircases().into_iter().enumerate() {
        let story = staircase.to_string();
        let cache =
            filled(&context, staircase, &shape, StoredKeys::AfterRotation, &[391, 70, 5], index as u64);
        for kernel in kernels(&context) {
            for q_len in [1, 40] {
                let attention =
                    kernel.map_or(Attention::causal(), |kernel| Attention::causal().with_kernel(kernel));
                check(&attention, &shape, &cache, q_len, &[], &format!("{q_len} queries\n{story}"));
            }
        }
    }
}

#[test]
fn every_head_layout_and_dimension() {
    let Some(context) = gpu("every_head_layout_and_dimension") else { return };
    let staircase = || short(Staircase::new(ladder(&[(8, 1), (4, 1)], 3), ladder(&[(4, 1)], 2)).unwrap());
    for (heads, kv_heads, dim, value_dim) in
        [(6, 1, 80, 80), (3, 3, 40, 64), (8, 2, 128, 96), (2, 1, 256, 256), (40, 1, 32, 32)]
    {
        let shape = Shape::new(heads, kv_heads, 0, dim).unwrap().with_value_dim(value_dim).unwrap();
        let cache = filled(&context, staircase(), &shape, StoredKeys::AfterRotation, &[300], 5);
        for q_len in [1, 5, 33] {
            let story =
                format!("{heads} heads on {kv_heads}, {dim} and {value_dim} channels, {q_len} queries");
            check(&Attention::causal(), &shape, &cache, q_len, &[], &story);
        }
    }
}

#[test]
fn options_of_attention_hold_over_caches() {
    let Some(context) = gpu("options_of_attention_hold_over_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let cache =
        filled(&context, short(Staircase::recommended()), &shape, StoredKeys::AfterRotation, &[333, 120], 11);
    let options = [
        Attention::causal().with_window(100).unwrap(),
        Attention::causal().with_soft_cap(3.0).unwrap(),
        Attention::full(),
        Attention::causal().with_storage(DType::F16).with_output(DType::F16),
        Attention::causal().with_scale(0.3).unwrap().with_splits(7).unwrap(),
        Attention::causal().with_splits(1).unwrap(),
    ];
    for attention in options {
        for q_len in [3, 50] {
            check(&attention, &shape, &cache, q_len, &[], &format!("{attention:?}"));
        }
    }
}

#[test]
fn schedules_over_caches() {
    let Some(context) = gpu("schedules_over_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let lens = [500, 180];
    let staircase = Staircase::new(ladder(&[(8, 2)], 4), ladder(&[(8, 2), (4, 2)], 2)).unwrap();
    let cache = filled(&context, short(staircase), &shape, StoredKeys::AfterRotation, &lens, 21);
    let attention = Attention::causal().with_correction(0.5).unwrap();
    // Blocks that segments divide, that divide segments, and that do neither.
    for block in [16, 24, 64] {
        for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
            for q_len in [1, 8, 70] {
                let schedules: Vec<Schedule> = lens
                    .iter()
                    .map(|&len| {
                        let shape = shape.with_q_len(q_len).unwrap().with_kv_len(len).unwrap();
                        let grid = BlockGrid::causal(&shape)
                            .with_block_size(block)
                            .unwrap()
                            .with_granularity(granularity);
                        Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Key::new(4)).unwrap()
                    })
                    .collect();
                let tables: Vec<Tables<'_>> = schedules.iter().map(Tables::from).collect();
                check(
                    &attention,
                    &shape,
                    &cache,
                    q_len,
                    &tables,
                    &format!("blocks of {block}, {granularity:?}"),
                );
            }
        }
    }
}

#[test]
fn positions_over_caches() {
    let Some(context) = gpu("positions_over_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let lens = [300, 90];
    for (keys, pairing, rotary) in [
        (StoredKeys::BeforeRotation, Pairing::Half, 64),
        (StoredKeys::BeforeRotation, Pairing::Interleaved, 32),
        (StoredKeys::AfterRotation, Pairing::Half, 64),
    ] {
        let cache = filled(&context, short(Staircase::recommended()), &shape, keys, &lens, 31);
        let rope = Rope::new(64, 10_000.0, pairing).unwrap().with_rotary_dim(rotary).unwrap();
        for positions in [
            Positions::new().with_rope(rope.clone()).with_max_positions(700).unwrap(),
            Positions::new()
                .with_rope(rope.clone())
                .with_bias(Bias::harmonic())
                .with_max_positions(700)
                .unwrap(),
        ] {
            let attention = Attention::causal().with_positions(positions);
            for q_len in [1, 20] {
                check(
                    &attention,
                    &shape,
                    &cache,
                    q_len,
                    &[],
                    &format!("{keys:?}, {pairing:?}, {q_len} queries"),
                );
                let ids: Vec<PositionIds> = lens
                    .iter()
                    .map(|&len| {
                        let keys: Vec<u32> = (0..len as u32).map(|j| 2 * j + 1).collect();
                        PositionIds::new(&keys[len - q_len..], &keys).unwrap()
                    })
                    .collect();
                let tables: Vec<Tables<'_>> = ids.iter().map(Tables::from).collect();
                check(&attention, &shape, &cache, q_len, &tables, &format!("ids, {keys:?}, {pairing:?}"));
            }
        }
    }
}
