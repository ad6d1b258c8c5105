//! Attention over a cache on the GPU, against the oracle that reads the same packed words.

use crate::common::cases::mask;
use crate::common::{by, gpu, numbers};
use prflash::attention::{Mask, PositionIds};
use prflash::cache::{Chunk, Codec, KvCache, SequenceId, Staircase, StoredKeys};
use prflash::kernels::{Decode, Kernel};
use prflash::position::Pairing;
use prflash::sampling::Granularity;
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, Bias, BlockGrid, Call, Context, DType, Error, Layout, Operands, PlanOptions, Positions,
    Profile, Queries, Rope, Schedule, Seed, Shape, Systematic, Tables, Tensor, reference,
};
use testkit::staircases::{ladder, rotated_staircases, short, staircases};

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
    let ids: Vec<SequenceId> = lens.iter().map(|_| cache.add()).collect();
    for start in (0..longest).step_by(100) {
        let chunks: Vec<Chunk> = lens
            .iter()
            .enumerate()
            .filter(|&(_, &len)| len > start)
            .map(|(batch, &len)| Chunk {
                sequence: ids[batch],
                entry: batch,
                rows: start..start + (len - start).min(100),
            })
            .collect();
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.append(&mut encoder, &input, &chunks).unwrap();
        context.queue().submit([encoder.finish()]);
    }
    cache
}

/// Queries of `q_len` rows for each sequence, computed on the GPU and by the oracle; panics with
/// the story if anything is off.
fn check(
    context: &Context,
    (attention, options): (&Attention, &PlanOptions),
    shape: &Shape,
    cache: &KvCache,
    q_len: usize,
    tables: &[Tables<'_>],
    story: &str,
) {
    let lens: Vec<usize> = cache.sequences().map(|id| cache.len(id).unwrap()).collect();
    let attention = attention.clone().with_lse(true);
    let batch = lens.len();
    let maxima = shape.with_batch(batch).unwrap().with_q_len(q_len).unwrap();
    let plan = attention.plan_cached_with(cache, &maxima, options).unwrap();
    let layout = Layout::heads_first(batch, shape.heads(), q_len, shape.head_dim()).unwrap();
    let q: Vec<f32> =
        numbers(77, layout.elements()).into_iter().map(|x| attention.storage().round(2.0 * x)).collect();
    let q_tensor = Tensor::upload(context, attention.storage(), layout, &q).unwrap();
    let queries: Vec<Queries> = lens
        .iter()
        .enumerate()
        .map(|(sequence, &len)| Queries {
            sequence: SequenceId::new(sequence),
            entry: sequence,
            rows: 0..q_len.min(len),
            positions: None,
        })
        .collect();
    let all = tables.iter().fold(Tables::new(), |all, tables| {
        let all = tables.schedule(0).into_iter().try_fold(all, Tables::with_schedule).unwrap();
        let all = tables.mask(0).into_iter().fold(all, Tables::with_mask);
        tables.position_ids(0).into_iter().fold(all, Tables::with_position_ids)
    });
    let got = plan.run_cached(cache, q_tensor.view(), &queries, &all).unwrap();
    let (output, lse) =
        (got.output.read_blocking(context).unwrap(), got.lse.unwrap().read_blocking(context).unwrap());
    for (sequence, &len) in lens.iter().enumerate() {
        let rows = q_len.min(len);
        let one = shape.with_q_len(rows).unwrap().with_kv_len(len).unwrap();
        let host = cache.to_host_blocking(SequenceId::new(sequence)).unwrap();
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
        let exact = reference::attention_cached(
            &attention,
            &one,
            &part(&q, shape.head_dim()),
            &host,
            SequenceId::FIRST,
            tables,
        )
        .unwrap();
        let output = compare(
            &part(&output, shape.value_dim()),
            &exact.output,
            Tolerances::of_output(&exact, &one, attention.output()),
        )
        .unwrap();
        assert!(output.passed(), "output of sequence {sequence}, {story}, {}: {output}", plan.kernel());
        let lse = compare(&part(&lse, 1), &exact.lse, Tolerances::of_lse(&exact, &one)).unwrap();
        assert!(lse.passed(), "lse of sequence {sequence}, {story}, {}: {lse}", plan.kernel());
    }
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
    for (index, staircase) in rotated_staircases().into_iter().chain(staircases()).enumerate() {
        let story = staircase.to_string();
        let cache =
            filled(&context, staircase, &shape, StoredKeys::AfterRotation, &[391, 70, 5], index as u64);
        // Prompts by the kernel that a plan takes; few queries by all that could take them, where
        // the staircase has every width.
        check(&context, (&Attention::causal(), &PlanOptions::new()), &shape, &cache, 40, &[], &story);
        let kernels = if index < rotated_staircases().len() + 3 { kernels(&context) } else { vec![None] };
        for (kernel, q_len) in kernels.into_iter().zip([1, 1, 3]) {
            let how = (&Attention::causal(), &by(kernel));
            check(&context, how, &shape, &cache, q_len, &[], &format!("{q_len} queries\n{story}"));
        }
    }
}

#[test]
fn every_head_layout_and_dimension() {
    let Some(context) = gpu("every_head_layout_and_dimension") else { return };
    let staircase = short(Staircase::new(ladder(&[(8, 1), (4, 1)], 3), ladder(&[(4, 1)], 2)).unwrap());
    let rotated = staircase.clone().with_codec(Codec::Rotated { fine_tokens: 1 }).unwrap();
    for (heads, kv_heads, dim, value_dim) in
        [(6, 1, 80, 80), (3, 3, 40, 64), (8, 2, 128, 96), (2, 1, 256, 256), (40, 1, 32, 32)]
    {
        let shape = Shape::new(heads, kv_heads, 0, dim).unwrap().with_value_dim(value_dim).unwrap();
        for staircase in [&staircase, &rotated] {
            let cache = filled(&context, staircase.clone(), &shape, StoredKeys::AfterRotation, &[300], 5);
            for q_len in [1, 5, 33] {
                let story = format!(
                    "{heads} heads on {kv_heads}, {dim} and {value_dim} channels, {q_len} queries, {staircase}"
                );
                let how = (&Attention::causal(), &PlanOptions::new());
                check(&context, how, &shape, &cache, q_len, &[], &story);
            }
        }
    }
}

#[test]
fn options_of_attention_hold_over_caches() {
    let Some(context) = gpu("options_of_attention_hold_over_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let caches = [Staircase::recommended(), Staircase::recommended_rotated()].map(|staircase| {
        filled(&context, short(staircase), &shape, StoredKeys::AfterRotation, &[333, 120], 11)
    });
    let splits = |splits| PlanOptions::new().with_splits(splits).unwrap();
    let options = [
        (Attention::causal().with_window(100).unwrap(), PlanOptions::new()),
        (Attention::causal().with_soft_cap(3.0).unwrap(), PlanOptions::new()),
        (Attention::full(), PlanOptions::new()),
        (Attention::causal().with_storage(DType::F16).with_output(DType::F16), PlanOptions::new()),
        (Attention::causal().with_scale(0.3).unwrap(), splits(7)),
        (Attention::causal(), splits(1)),
        (Attention::causal().with_sinks(&[-2.0, 0.5, 3.0, 9.0]).unwrap(), splits(3)),
    ];
    for (attention, options) in &options {
        for (cache, q_len) in caches.iter().flat_map(|cache| [(cache, 3), (cache, 50)]) {
            let story = format!("{attention:?}, {options:?}");
            check(&context, (attention, options), &shape, cache, q_len, &[], &story);
        }
    }
}

/// Learned sinks over rotated codes of every width, by every kernel that reads them: far below the
/// scores, among them and above them. Copies of the first tokens are sinks of another kind.
#[test]
fn sinks_over_rotated_caches() {
    let Some(context) = gpu("sinks_over_rotated_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let attention = Attention::causal().with_sinks(&[-40.0, 0.5, 3.0, 60.0]).unwrap();
    for (index, staircase) in rotated_staircases().into_iter().enumerate() {
        let story = format!("sinks, {staircase}");
        let keys = StoredKeys::AfterRotation;
        let cache = filled(&context, staircase, &shape, keys, &[391, 70, 5], index as u64);
        for (kernel, q_len) in kernels(&context).into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 3)]) {
            let options = by(kernel).with_splits(3).unwrap();
            check(&context, (&attention, &options), &shape, &cache, q_len, &[], &story);
        }
        check(&context, (&attention, &PlanOptions::new()), &shape, &cache, 40, &[], &story);
    }
}

/// Mask tensors over caches, by every kernel that reads one.
#[test]
fn masks_over_caches() {
    let Some(context) = gpu("masks_over_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let lens = [333, 120];
    let cache =
        filled(&context, short(Staircase::recommended()), &shape, StoredKeys::AfterRotation, &lens, 11);
    let attention = Attention::causal().with_masks(true);
    for kernel in kernels(&context) {
        for (case, q_len) in [3, 50].into_iter().enumerate() {
            if q_len > 8 && matches!(kernel, Some(Kernel::Decode(_))) {
                continue;
            }
            let masks: Vec<Mask> = (0..2).map(|i| mask(case + i, [[4, 1][i], q_len, lens[i]])).collect();
            let tables: Vec<Tables<'_>> = masks.iter().map(Tables::from).collect();
            let options = by(kernel);
            check(&context, (&attention, &options), &shape, &cache, q_len, &tables, "masks");
        }
    }
}

#[test]
fn schedules_over_caches() {
    let Some(context) = gpu("schedules_over_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let lens = [500, 180];
    let staircase = Staircase::new(ladder(&[(8, 2)], 4), ladder(&[(8, 2), (4, 2)], 2)).unwrap();
    let rotated = staircase.clone().with_codec(Codec::Rotated { fine_tokens: 2 }).unwrap();
    let caches = [staircase, rotated]
        .map(|staircase| filled(&context, short(staircase), &shape, StoredKeys::AfterRotation, &lens, 21));
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
                        Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(4)).unwrap()
                    })
                    .collect();
                let tables: Vec<Tables<'_>> = schedules.iter().map(Tables::from).collect();
                for cache in &caches {
                    let how = (&attention, &PlanOptions::new());
                    let story = format!("blocks of {block}, {granularity:?}");
                    check(&context, how, &shape, cache, q_len, &tables, &story);
                }
            }
        }
    }
}

#[test]
fn positions_over_caches() {
    let Some(context) = gpu("positions_over_caches") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let lens = [300, 90];
    for (staircase, keys, pairing, rotary) in [
        (Staircase::recommended(), StoredKeys::BeforeRotation, Pairing::Half, 64),
        (Staircase::recommended(), StoredKeys::BeforeRotation, Pairing::Interleaved, 32),
        (Staircase::recommended(), StoredKeys::AfterRotation, Pairing::Half, 64),
        (Staircase::recommended_rotated(), StoredKeys::AfterRotation, Pairing::Half, 64),
    ] {
        let cache = filled(&context, short(staircase), &shape, keys, &lens, 31);
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
                    &context,
                    (&attention, &PlanOptions::new()),
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
                check(
                    &context,
                    (&attention, &PlanOptions::new()),
                    &shape,
                    &cache,
                    q_len,
                    &tables,
                    &format!("ids, {keys:?}, {pairing:?}"),
                );
            }
        }
    }
}

/// A device that binds little at once: heads of the cache go in parts, and parts change as it
/// grows.
#[test]
fn small_devices_attend_in_parts() {
    if gpu("small devices").is_none() {
        return;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 17, ..wgpu::Limits::defaults() };
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let context = Context::from_wgpu(device, queue).unwrap();
    let shape = Shape::new(10, 5, 0, 32).unwrap();
    let cache =
        filled(&context, short(Staircase::plain()), &shape, StoredKeys::AfterRotation, &[900, 40], 41);
    for q_len in [1, 20] {
        check(&context, (&Attention::causal(), &PlanOptions::new()), &shape, &cache, q_len, &[], "parts");
    }
}

/// One token at a time: append and attend in one encoder, with tensors that were bound once, while
/// the cache grows; and no GPU object is made by a step after which it has not grown.
#[test]
fn decoding_step_by_step() {
    if gpu("decoding").is_none() {
        return;
    }
    // A device of its own: the counters count everything on a device, other tests' buffers too.
    let context = Context::new_blocking().unwrap();
    let (heads, dim, steps) = (2, 64, 300);
    let shape = Shape::new(4, heads, 0, dim).unwrap();
    let long = shape.with_kv_len(steps).unwrap().with_q_len(1).unwrap();
    let staircase = short(Staircase::recommended());
    let mut cache = KvCache::new(&context, staircase, &long, StoredKeys::AfterRotation).unwrap();
    let sequence = cache.add();
    let rows = Layout::heads_first(1, heads, steps, dim).unwrap();
    let upload = |seed, layout: Layout| {
        Tensor::upload(&context, DType::F32, layout, &numbers(seed, layout.elements())).unwrap()
    };
    let (k, v) = (upload(1, rows), upload(2, rows));
    let one = Layout::heads_first(1, 4, 1, dim).unwrap();
    let q = upload(3, one);
    let output = Tensor::zeros(&context, DType::F32, one).unwrap();
    let input = cache.input(k.view(), v.view()).unwrap();
    let plan = Attention::causal().plan_cached(&cache, &long).unwrap();
    let bound = plan.bind_queries(q.view(), output.view(), None).unwrap();
    let mut still = 0;
    let mut before: Option<([isize; 5], u64)> = None;
    for token in 0..steps {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let chunk = Chunk { sequence, entry: 0, rows: token..token + 1 };
        cache.append(&mut encoder, &input, &[chunk]).unwrap();
        plan.encode(
            &mut encoder,
            &bound,
            &Call::cached(&cache, &[Queries { sequence, entry: 0, rows: 0..1, positions: None }]),
        )
        .unwrap();
        context.queue().submit([encoder.finish()]);
        context.wait().unwrap();
        let hal = context.device().get_internal_counters().hal;
        let objects = [
            hal.buffers.read(),
            hal.bind_groups.read(),
            hal.compute_pipelines.read(),
            hal.buffer_memory.read(),
            hal.memory_allocations.read(),
        ];
        if let Some((earlier, _)) = before.filter(|&(_, bytes)| bytes == cache.capacity_bytes() && token > 2)
        {
            still += 1;
            // Fewer once the way to a larger arena is known to be gone.
            let made = objects.iter().zip(earlier).any(|(now, before)| *now > before);
            assert!(!made, "token {token}: {objects:?} after {earlier:?}");
        }
        before = Some((objects, cache.capacity_bytes()));
        if token % 61 == 0 || token + 1 == steps {
            let got = output.read_blocking(&context).unwrap();
            let host = cache.to_host_blocking(sequence).unwrap();
            let now = shape.with_q_len(1).unwrap().with_kv_len(token + 1).unwrap();
            let q = numbers(3, one.elements());
            let exact = reference::attention_cached(
                plan.attention(),
                &now,
                &q,
                &host,
                SequenceId::FIRST,
                &Tables::new(),
            )
            .unwrap();
            let report =
                compare(&got, &exact.output, Tolerances::of_output(&exact, &now, DType::F32)).unwrap();
            assert!(report.passed(), "token {token}: {report}");
            // Reading back and uploading leave buffers behind for a while.
            before = None;
        }
    }
    assert!(still > 200, "{still} steps without growth");
    assert!(cache.work() <= cache.staircase().work(steps), "amortized: a token is moved once per rung");
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals") else { return };
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let cache = filled(&context, Staircase::paper(), &shape, StoredKeys::AfterRotation, &[9, 3], 1);
    let attention = Attention::causal();
    let maxima = shape.with_batch(2).unwrap().with_q_len(4).unwrap();
    let named = |error: Error| error.argument().unwrap();
    let other = Shape::new(4, 1, 0, 64).unwrap();
    assert_eq!(named(attention.plan_cached(&cache, &other).unwrap_err()), "maxima");
    let naive = attention.plan_cached_with(&cache, &maxima, &by(Some(Kernel::Naive)));
    assert!(naive.unwrap_err().is_unsupported());
    let plan = attention.plan_cached(&cache, &maxima).unwrap();
    let zeros = |heads, rows, dim| {
        Tensor::zeros(&context, DType::F32, Layout::heads_first(2, heads, rows, dim).unwrap()).unwrap()
    };
    let (q, output) = (zeros(4, 4, 64), zeros(4, 4, 64));
    assert_eq!(named(plan.bind_queries(zeros(2, 4, 64).view(), output.view(), None).unwrap_err()), "q");
    assert_eq!(named(plan.bind_queries(q.view(), q.view(), None).unwrap_err()), "output");
    let bound = plan.bind_queries(q.view(), output.view(), None).unwrap();
    let refused = |cache: &KvCache, queries: &[Queries]| {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        named(plan.encode(&mut encoder, &bound, &Call::cached(cache, queries)).unwrap_err())
    };
    assert_eq!(
        refused(&cache, &[Queries { sequence: SequenceId::new(7), entry: 0, rows: 0..1, positions: None }]),
        "sequence"
    );
    assert_eq!(
        refused(&cache, &[Queries { sequence: SequenceId::new(1), entry: 0, rows: 0..4, positions: None }]),
        "queries"
    );
    assert_eq!(
        refused(&cache, &[Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..5, positions: None }]),
        "q_len"
    );
    assert_eq!(
        refused(&cache, &[Queries { sequence: SequenceId::FIRST, entry: 2, rows: 0..1, positions: None }]),
        "q"
    );
    assert_eq!(
        refused(
            &cache,
            &[
                Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..2, positions: None },
                Queries { sequence: SequenceId::new(1), entry: 0, rows: 0..1, positions: None }
            ]
        ),
        "sequences"
    );
    let another = filled(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation, &[9], 1);
    assert_eq!(
        refused(&another, &[Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..1, positions: None }]),
        "cache"
    );
    // Tensors and caches aren't mixed up.
    let of_tensors = attention.plan(&context, &maxima.with_kv_len(9).unwrap()).unwrap();
    let (k, v) = (zeros(2, 9, 64), zeros(2, 9, 64));
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    assert_eq!(named(plan.bind(&operands).unwrap_err()), "k");
    assert_eq!(named(of_tensors.bind_queries(q.view(), output.view(), None).unwrap_err()), "k");
    let mut encoder = context.device().create_command_encoder(&Default::default());
    assert_eq!(named(plan.encode(&mut encoder, &bound, &Call::lengths(1, 1)).unwrap_err()), "call");
    let bound = of_tensors.bind(&operands).unwrap();
    let over_cache = [Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..1, positions: None }];
    let call = Call::cached(&cache, &over_cache);
    assert_eq!(named(of_tensors.encode(&mut encoder, &bound, &call).unwrap_err()), "cache");
}
