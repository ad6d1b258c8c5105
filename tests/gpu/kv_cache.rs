//! The staircase cache on the GPU against the one in host memory, word for word.

use crate::common::gpu;
use half::f16;
use prflash::cache::{HostCache, Staircase, StoredKeys};
use prflash::{
    Chunk, Context, DType, Error, KvCache, KvInput, Layout, Result, Shape, Tensor, TensorView, wgpu,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::staircases::{ladder, short, staircases};

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
            let mut done = 0;
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
                assert_eq!(cache.live_bytes(), host.live_bytes());
                assert!(cache.capacity_bytes() >= host.live_bytes());
                done += staircase.work(tokens);
                assert_eq!(cache.work(), done);
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

/// Finite f16 numbers in groups of 32 adjacent ones: any bits, subnormal, constant, extremes among small ones, far from zero, one-sided, in one binade, ordinary.
fn halves(rng: &mut SmallRng, count: usize) -> Vec<f32> {
    let any = |rng: &mut SmallRng| loop {
        let half = f16::from_bits(rng.random());
        if half.is_finite() {
            return half.to_bits();
        }
    };
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let (kind, constant) = (rng.random_range(0..8), any(rng));
        let sign = constant & 0x8000;
        let group = (0..32).map(|index| match kind {
            0 => any(rng),
            1 => rng.random::<u16>() & 0x83ff,
            2 => constant,
            3 if index == 3 => 0x7bff,
            3 if index == 5 => 0xfbff,
            3 => any(rng) & 0xbbff,
            4 => sign | (0x7b00 + (rng.random::<u16>() & 0xff)),
            5 => any(rng) & 0x7fff,
            6 => sign | (constant & 0x7c00) | (rng.random::<u16>() & 0x3ff),
            _ => f16::from_f32(rng.random_range(-3.0..3.0)).to_bits(),
        });
        values.extend(group.map(|bits| f16::from_bits(bits).to_f32()));
    }
    values.truncate(count);
    values
}

/// Over a million numbers of every kind: the codes of a prompt, which are quantized at their last width, are those that came down step by step, and the host's.
#[test]
fn stepping_down_is_quantizing_the_original() {
    let Some(context) = gpu("path independence") else { return };
    let (tokens, heads, dim) = (2080, 2, 128);
    let mut rng = SmallRng::seed_from_u64(2);
    let v = halves(&mut rng, heads * tokens * dim);
    // Along the tokens, as keys are grouped.
    let columns = halves(&mut rng, heads * tokens * dim);
    let k: Vec<f32> = (0..v.len())
        .map(|i| columns[i / (tokens * dim) * tokens * dim + i % dim * tokens + i / dim % tokens])
        .collect();
    let (k, v) = (Rows::new(heads, dim, DType::F16, k), Rows::new(heads, dim, DType::F16, v));
    let steps = ladder(&[(8, 3), (4, 5)], 2);
    let staircase = short(Staircase::new(steps.clone(), steps).unwrap()).with_residual(1).unwrap();
    assert!(staircase.is_nested() && 2 * staircase.segment() * heads * dim * 64 > 1_000_000);
    let shape = Shape::new(heads, heads, tokens, dim).unwrap();
    let mut host = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    host.add();
    host.append(0, &k.values, &v.values).unwrap();
    let want = host.save(0).unwrap();
    for dtype in [DType::F16, DType::F32] {
        let mut cache = KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
        let input = input(&context, &cache, dtype, &k, &v);
        for chunk in [tokens, 32] {
            let id = cache.add();
            submit(&context, |encoder| {
                for from in (0..tokens).step_by(chunk) {
                    let part = Chunk::new(id, 0, chunk.min(tokens - from)).starting_at(from);
                    cache.append(encoder, &input, &[part]).unwrap();
                }
            });
            assert!(cache.save_blocking(id).unwrap() == want, "{dtype}, chunks of {chunk}");
        }
    }
}

/// f32 is rounded to the nearest f16, ties to even, down to its subnormal numbers; bf16 likewise.
#[test]
fn numbers_are_rounded_as_the_host_rounds_them() {
    let Some(context) = gpu("rounding") else { return };
    let (tokens, dim) = (512, 128);
    let mut rng = SmallRng::seed_from_u64(3);
    let mut number = |index: usize| loop {
        let bits: u32 = rng.random();
        // Around the ends of f16's range; halfway between two f16, and next to that; anything.
        let bits = match index % 4 {
            0 => (bits & 0x807f_ffff) | ((100 + bits % 16) << 23),
            1 => (bits & 0x87ff_e000) | 0x3800_1000,
            2 => ((bits & 0x87ff_e000) | 0x3800_1000).wrapping_add(bits % 3).wrapping_sub(1),
            _ => bits,
        };
        let number = f32::from_bits(bits);
        if f16::from_f32(number).is_finite() {
            return number;
        }
    };
    let mut k: Vec<f32> = (0..tokens * dim).map(&mut number).collect();
    let special =
        [0.0, -0.0, 65_519.996, -65_519.0, 2f32.powi(-25), -(2f32.powi(-25)), 2.980_232_6e-8, 1e-45];
    k[..8].copy_from_slice(&special);
    let v: Vec<f32> = (0..tokens * dim).map(&mut number).collect();
    let shape = Shape::new(1, 1, tokens, dim).unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        // bf16 may round up past the largest f16.
        let finite =
            |values: &[f32]| values.iter().map(|&x| if x.abs() < 65_000.0 { x } else { x / 2.0 }).collect();
        let (k, v) = (Rows::new(1, dim, dtype, finite(&k)), Rows::new(1, dim, dtype, finite(&v)));
        let mut host = HostCache::new(Staircase::plain(), &shape, StoredKeys::AfterRotation).unwrap();
        host.add();
        host.append(0, &k.values, &v.values).unwrap();
        let mut cache =
            KvCache::new(&context, Staircase::plain(), &shape, StoredKeys::AfterRotation).unwrap();
        let input = input(&context, &cache, dtype, &k, &v);
        let id = cache.add();
        submit(&context, |encoder| cache.append(encoder, &input, &[Chunk::new(id, 0, tokens)])).unwrap();
        assert!(cache.save_blocking(id).unwrap() == host.save(0).unwrap(), "{dtype}");
        cache.check_blocking().unwrap();
    }
}

/// What isn't finite is stored as 0 and counted once, however it came and wherever it went; the other numbers of its groups don't notice.
#[test]
fn numbers_that_are_not_finite_are_counted() {
    let Some(context) = gpu("not finite") else { return };
    let (tokens, dim) = (300, 80);
    let shape = Shape::new(2, 2, tokens, dim).unwrap();
    let mut rng = SmallRng::seed_from_u64(4);
    for staircase in staircases() {
        for dtype in DType::ALL {
            let rows = |rng: &mut SmallRng| Rows::new(2, dim, dtype, noise(rng, 2 * tokens * dim));
            let (mut k, mut v) = (rows(&mut rng), rows(&mut rng));
            let clean = [k.clone(), v.clone()];
            let mut host = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
            let mut want = clean.clone();
            let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e6, -65_536.0];
            let spoil = |rows: &mut Rows, want: &mut Rows, count: usize| {
                // In the newest tokens too, and in a sink.
                let places: Vec<usize> = (0..count).map(|i| (i * 7919 + 3) % rows.values.len()).collect();
                for (index, &place) in places.iter().enumerate() {
                    (rows.values[place], want.values[place]) = (bad[index % 5], 0.0);
                }
            };
            let (few, many) = (1, 23);
            let [want_k, want_v] = &mut want;
            spoil(&mut k, want_k, few);
            spoil(&mut v, want_v, many);
            host.add();
            host.append(0, &want[0].values, &want[1].values).unwrap();
            for chunk in [tokens, 29] {
                let mut cache =
                    KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
                let clean = input(&context, &cache, dtype, &clean[0], &clean[1]);
                let other = cache.add();
                submit(&context, |encoder| cache.append(encoder, &clean, &[Chunk::new(other, 0, tokens)]))
                    .unwrap();
                cache.check_blocking().unwrap();
                let spoilt = input(&context, &cache, dtype, &k, &v);
                let id = cache.add();
                submit(&context, |encoder| {
                    for from in (0..tokens).step_by(chunk) {
                        let part = Chunk::new(id, 0, chunk.min(tokens - from)).starting_at(from);
                        cache.append(encoder, &spoilt, &[part]).unwrap();
                    }
                });
                assert!(cache.save_blocking(id).unwrap() == host.save(0).unwrap(), "{staircase}\n{dtype}");
                let error = cache.check_blocking().unwrap_err();
                assert_eq!(error.argument(), Some("k"));
                assert!(error.to_string().contains("got 1 others"), "{error}");
            }
            // Values are counted apart; tokens that are dropped as they come don't count.
            if !staircase.drops() {
                let mut cache =
                    KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
                let spoilt = input(&context, &cache, dtype, &clean[0], &v);
                let id = cache.add();
                submit(&context, |encoder| cache.append(encoder, &spoilt, &[Chunk::new(id, 0, tokens)]))
                    .unwrap();
                let error = cache.check_blocking().unwrap_err();
                assert_eq!(error.argument(), Some("v"));
                assert!(error.to_string().contains("got 23 others"), "{error}");
            }
        }
    }
}

/// 10,000 operations, recorded into encoders of random length, on the cache and on its model, the one in host memory.
#[test]
fn random_operations() {
    let Some(context) = gpu("random operations") else { return };
    const OPERATIONS: usize = 1250;
    let (heads, dims, rows, max_len) = (2, [12, 36], 64, 420);
    let shape = Shape::new(heads, heads, max_len, dims[0]).unwrap().with_value_dim(dims[1]).unwrap();
    for (seed, staircase) in staircases().into_iter().enumerate() {
        let rng = &mut SmallRng::seed_from_u64(100 + seed as u64);
        let mut host = HostCache::new(staircase.clone(), &shape, StoredKeys::BeforeRotation).unwrap();
        let mut cache =
            KvCache::new(&context, staircase.clone(), &shape, StoredKeys::BeforeRotation).unwrap();
        // Tokens first, so that rows of the heads lie between each other's.
        let values = dims.map(|dim| noise(rng, 3 * heads * rows * dim));
        let tensors = [0, 1].map(|side| {
            let layout = Layout::tokens_first(3, rows, heads, dims[side]).unwrap();
            Tensor::upload(&context, DType::F32, layout, &values[side]).unwrap()
        });
        let input = cache.input(tensors[0].view(), tensors[1].view()).unwrap();
        let appended = |side: usize, batch: usize, row: usize, tokens: usize| -> Vec<f32> {
            let dim = dims[side];
            let head =
                |head: usize| &values[side][((batch * heads + head) * rows + row) * dim..][..tokens * dim];
            (0..heads).flat_map(|h| head(h).to_vec()).collect()
        };
        let new = || context.device().create_command_encoder(&Default::default());
        let mut encoder = new();
        let mut segments = 0;
        for operation in 0..OPERATIONS {
            let ids: Vec<usize> = host.sequences().collect();
            let one = ids.get(rng.random_range(0..ids.len().max(1))).copied();
            match (rng.random_range(0..100), one) {
                (0..9, _) | (_, None) if ids.len() < 6 => assert_eq!(cache.add(), host.add()),
                (9..15, Some(id)) => {
                    // Mostly one that has no room left.
                    let longest = ids.iter().copied().max_by_key(|&id| host.len(id).unwrap());
                    let id = longest.filter(|_| rng.random_bool(0.8)).unwrap_or(id);
                    cache.remove(id).unwrap();
                    host.remove(id).unwrap();
                }
                (15..22, Some(id)) => {
                    let len = host.len(id).unwrap().saturating_sub(rng.random_range(0..50));
                    assert_eq!(cache.truncate(id, len).is_ok(), host.truncate(id, len).is_ok());
                }
                (22..26, Some(id)) => {
                    context.queue().submit([std::mem::replace(&mut encoder, new()).finish()]);
                    let bytes = cache.save_blocking(id).unwrap();
                    assert!(bytes == host.save(id).unwrap(), "seed {seed}, operation {operation}");
                    if ids.len() < 6 {
                        assert_eq!(
                            cache.restore(&mut encoder, &bytes).unwrap(),
                            host.restore(&bytes).unwrap()
                        );
                    }
                }
                (26..29, Some(id)) => {
                    cache.reserve(&mut encoder, id, rng.random_range(0..=max_len)).unwrap();
                }
                (_, Some(_)) => {
                    let mut chunks = Vec::new();
                    for &id in &ids {
                        if rng.random_bool(0.5) {
                            let tokens = [0, 1, 1, 1, 5, 31, 40, 64][rng.random_range(0..8)];
                            // Now and then past the longest.
                            let left = max_len - host.len(id).unwrap();
                            let tokens = if rng.random_bool(0.02) { tokens } else { tokens.min(left) };
                            let (batch, row) = (rng.random_range(0..3), rng.random_range(0..=rows - tokens));
                            chunks.push((id, batch, row, tokens));
                        }
                    }
                    let fits =
                        chunks.iter().all(|&(id, _, _, tokens)| host.len(id).unwrap() + tokens <= max_len);
                    let calls: Vec<Chunk> =
                        chunks.iter().map(|&(id, b, row, n)| Chunk::new(id, b, n).starting_at(row)).collect();
                    let result = cache.append(&mut encoder, &input, &calls);
                    if !fits {
                        assert_eq!(result.unwrap_err().argument(), Some("tokens"));
                        continue;
                    }
                    result.unwrap();
                    for (id, batch, row, tokens) in chunks {
                        let [k, v] = [0, 1].map(|side| appended(side, batch, row, tokens));
                        let before = host.standing(id).unwrap().segments();
                        host.append(id, &k, &v).unwrap();
                        segments += host.standing(id).unwrap().segments() - before;
                    }
                }
                _ => {}
            }
            assert_eq!(cache.live_bytes(), host.live_bytes(), "seed {seed}, operation {operation}");
            if rng.random_bool(0.4) {
                context.queue().submit([std::mem::replace(&mut encoder, new()).finish()]);
            }
        }
        context.queue().submit([encoder.finish()]);
        assert!(segments > 400, "seed {seed}: {segments}");
        assert!(cache.sequences().eq(host.sequences()));
        for id in host.sequences() {
            let (got, want) = (cache.standing(id).unwrap(), host.standing(id).unwrap());
            assert_eq!((got.len(), got.segments()), (want.len(), want.segments()));
            assert!(cache.save_blocking(id).unwrap() == host.save(id).unwrap(), "seed {seed}: sequence {id}");
        }
        cache.check_blocking().unwrap();
    }
}

/// Sequences that grow in lockstep move together, and seldom.
#[test]
fn memory_grows_with_the_sequences() {
    let Some(context) = gpu("growth") else { return };
    let (heads, dim, max_len) = (2, 32, 4000);
    let shape = Shape::new(heads, heads, max_len, dim).unwrap();
    let staircase = short(Staircase::kivi(4).unwrap());
    let mut cache = KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    let rng = &mut SmallRng::seed_from_u64(5);
    let [k, v] = [0, 1].map(|_| Rows::new(heads, dim, DType::F32, noise(rng, heads * max_len * dim)));
    let input = input(&context, &cache, DType::F32, &k, &v);
    let empty = cache.capacity_bytes();
    let ids: Vec<usize> = (0..5).map(|_| cache.add()).collect();
    let (mut sizes, mut len) = (vec![empty], 0);
    while len < max_len {
        let tokens = 50.min(max_len - len);
        let chunks: Vec<Chunk> = ids.iter().map(|&id| Chunk::new(id, 0, tokens).starting_at(len)).collect();
        submit(&context, |encoder| cache.append(encoder, &input, &chunks)).unwrap();
        len += tokens;
        if sizes.last() != Some(&cache.capacity_bytes()) {
            sizes.push(cache.capacity_bytes());
        }
        assert!(cache.capacity_bytes() >= cache.live_bytes());
    }
    assert!(sizes.is_sorted() && sizes.len() <= 10, "{sizes:?}");
    assert!(
        cache.capacity_bytes() < 3 * cache.live_bytes(),
        "{} {}",
        cache.capacity_bytes(),
        cache.live_bytes()
    );
    let mut host = HostCache::new(staircase, &shape, StoredKeys::AfterRotation).unwrap();
    host.add();
    host.append(0, &k.values, &v.values).unwrap();
    for &id in &ids {
        assert!(cache.save_blocking(id).unwrap() == host.save(0).unwrap());
    }
    // What removed ones leave serves the next; two whole prompts at once are more moves than one dispatch takes.
    let before = cache.capacity_bytes();
    let prompts = [ids[2], ids[3]].map(|id| {
        cache.remove(id).unwrap();
        id
    });
    let prompts = prompts.map(|_| Chunk::new(cache.add(), 0, max_len));
    submit(&context, |encoder| cache.append(encoder, &input, &prompts)).unwrap();
    assert_eq!(cache.capacity_bytes(), before);
    for id in cache.sequences() {
        assert!(cache.save_blocking(id).unwrap() == host.save(0).unwrap(), "sequence {id}");
    }
}

/// A device that binds little at once, with few workgroups per dimension.
fn small_device(binding: u64) -> Context {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let limits = wgpu::Limits {
        max_compute_workgroups_per_dimension: 40,
        max_storage_buffer_binding_size: binding,
        ..wgpu::Limits::defaults()
    };
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    Context::from_wgpu(device, queue).unwrap()
}

/// Arena and input past the binding size go in parts; what can't be bound at all is refused and leaves everything as it was.
#[test]
fn small_devices_bind_parts() {
    if gpu("small devices").is_none() {
        return;
    }
    let context = small_device(1 << 16);
    let (heads, dim, max_len) = (5, 32, 2000);
    let shape = Shape::new(heads, heads, max_len, dim).unwrap();
    let rng = &mut SmallRng::seed_from_u64(6);
    let rows = 200;
    let tensor = |rng: &mut SmallRng| {
        let layout = Layout::heads_first(2, heads, rows, dim).unwrap();
        let values = noise(rng, layout.elements());
        (Tensor::upload(&context, DType::F32, layout, &values).unwrap(), values)
    };
    let ((k, k_values), (v, v_values)) = (tensor(rng), tensor(rng));
    let staircase = short(Staircase::plain());
    let mut cache = KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    let mut host = HostCache::new(staircase, &shape, StoredKeys::AfterRotation).unwrap();
    let input = cache.input(k.view(), v.view()).unwrap();
    for _ in 0..2 {
        assert_eq!(cache.add(), host.add());
    }
    let mut refused = 0;
    for step in 0..8 {
        let chunks = [Chunk::new(0, 0, 200), Chunk::new(1, 1, 37).starting_at(20 * step)];
        let sizes = (cache.capacity_bytes(), cache.live_bytes());
        let result = submit(&context, |encoder| cache.append(encoder, &input, &chunks));
        match result {
            Ok(()) => {
                assert_eq!(refused, 0);
                let part = |values: &[f32], batch: usize, row: usize, tokens: usize| -> Vec<f32> {
                    let head = |h| &values[((batch * heads + h) * rows + row) * dim..][..tokens * dim];
                    (0..heads).flat_map(|h| head(h).to_vec()).collect()
                };
                for (id, row, tokens) in [(0, 0, 200), (1, 20 * step, 37)] {
                    let [k, v] = [&k_values, &v_values].map(|values| part(values, id, row, tokens));
                    host.append(id, &k, &v).unwrap();
                }
            }
            Err(error) => {
                refused += 1;
                assert!(error.is_too_large() && error.argument() == Some("tokens"), "{error}");
                assert_eq!(sizes, (cache.capacity_bytes(), cache.live_bytes()));
            }
        }
        for id in 0..2 {
            assert!(cache.save_blocking(id).unwrap() == host.save(id).unwrap(), "step {step}");
        }
    }
    // A head has 64 bytes a row: no more than 1,024 rows, those of the rings included, fit.
    assert!((1..7).contains(&refused) && host.len(0).unwrap() >= 600, "{refused}");
    // Without the first, there is room for the second.
    cache.remove(0).unwrap();
    for row in 0..3 {
        let chunk = Chunk::new(1, 1, 100).starting_at(row);
        submit(&context, |encoder| cache.append(encoder, &input, &[chunk])).unwrap();
    }
    // One head of the input must fit.
    let long = Tensor::zeros(&context, DType::F32, Layout::heads_first(1, heads, 600, dim).unwrap()).unwrap();
    assert_eq!(cache.input(long.view(), long.view()).unwrap_err().argument(), Some("k"));
}

#[test]
fn decoding_allocates_nothing() {
    if gpu("no allocation").is_none() {
        return;
    }
    // A device of its own: the counters count everything on a device, other tests' buffers too.
    let context = Context::new_blocking().unwrap();
    let shape = Shape::new(2, 2, 1000, 64).unwrap();
    let mut cache =
        KvCache::new(&context, short(Staircase::recommended()), &shape, StoredKeys::AfterRotation).unwrap();
    let tensor = Tensor::zeros(&context, DType::F32, Layout::heads_first(3, 2, 1, 64).unwrap()).unwrap();
    let input = cache.input(tensor.view(), tensor.view()).unwrap();
    let ids: Vec<usize> = (0..3).map(|_| cache.add()).collect();
    submit(&context, |encoder| ids.iter().for_each(|&id| cache.reserve(encoder, id, 1000).unwrap()));
    let mut step = || {
        let chunks: Vec<Chunk> = ids.iter().map(|&id| Chunk::new(id, id, 1)).collect();
        submit(&context, |encoder| cache.append(encoder, &input, &chunks)).unwrap();
        context.wait().unwrap();
        let hal = context.device().get_internal_counters().hal;
        [
            hal.buffers.read(),
            hal.bind_groups.read(),
            hal.bind_group_layouts.read(),
            hal.compute_pipelines.read(),
            hal.buffer_memory.read(),
            hal.memory_allocations.read(),
        ]
    };
    let warm = (0..3).map(|_| step()).last().unwrap();
    assert!(warm[0] > 0, "the counters count");
    for len in 3..1000 {
        assert_eq!(step(), warm, "length {len}");
    }
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals") else { return };
    let shape = Shape::new(4, 2, 100, 64).unwrap();
    let staircase = short(Staircase::paper());
    let new = |staircase: &Staircase, shape: &Shape| {
        KvCache::new(&context, staircase.clone(), shape, StoredKeys::AfterRotation)
    };
    let named = |error: Error| error.argument().unwrap();
    let wide = Staircase::paper().with_group(128).unwrap();
    assert_eq!(named(new(&wide, &shape).unwrap_err()), "group");

    let mut cache = new(&staircase, &shape).unwrap();
    let tensor = |dtype, heads, rows, dim| {
        let layout = Layout::heads_first(2, heads, rows, dim).unwrap();
        Tensor::zeros(&context, dtype, layout).unwrap().view().clone()
    };
    let good = tensor(DType::F32, 2, 50, 64);
    let refused = |k: &TensorView, v: &TensorView| named(cache.input(k, v).unwrap_err());
    assert_eq!(refused(&tensor(DType::F32, 1, 50, 64), &good), "k");
    assert_eq!(refused(&tensor(DType::F32, 2, 50, 60), &good), "k");
    assert_eq!(refused(&good, &tensor(DType::F16, 2, 50, 64)), "v");
    assert_eq!(refused(&good, &tensor(DType::F32, 2, 50, 60)), "v");
    let one = Tensor::zeros(&context, DType::F32, Layout::heads_first(1, 2, 50, 64).unwrap()).unwrap();
    assert_eq!(refused(&good, one.view()), "v");

    let input = cache.input(&good, &tensor(DType::F32, 2, 40, 64)).unwrap();
    let (a, b) = (cache.add(), cache.add());
    submit(&context, |encoder| cache.append(encoder, &input, &[Chunk::new(a, 0, 40), Chunk::new(b, 1, 3)]))
        .unwrap();
    let foreign = new(&staircase, &shape).unwrap().input(&good, &good).unwrap();
    let before = (cache.save_blocking(a).unwrap(), cache.save_blocking(b).unwrap(), cache.capacity_bytes());
    let mut refused = |input: &KvInput, chunks: &[Chunk]| {
        named(submit(&context, |encoder| cache.append(encoder, input, chunks)).unwrap_err())
    };
    let fine = Chunk::new(b, 0, 10);
    assert_eq!(refused(&foreign, &[fine]), "input");
    assert_eq!(refused(&input, &[fine, Chunk::new(9, 0, 1)]), "sequence");
    assert_eq!(refused(&input, &[fine, Chunk::new(b, 1, 1)]), "chunks");
    assert_eq!(refused(&input, &[fine, Chunk::new(a, 2, 1)]), "chunks");
    assert_eq!(refused(&input, &[fine, Chunk::new(a, 0, 41)]), "chunks");
    assert_eq!(refused(&input, &[fine, Chunk::new(a, 0, 1).starting_at(usize::MAX)]), "chunks");
    let result: Result<()> =
        submit(&context, |encoder| cache.append(encoder, &input, &[Chunk::new(a, 0, 40)]));
    result.unwrap();
    let refused = submit(&context, |encoder| cache.append(encoder, &input, &[fine, Chunk::new(a, 0, 21)]));
    let error = refused.unwrap_err();
    assert!(error.is_too_large() && named(error) == "tokens");
    assert!(cache.save_blocking(b).unwrap() == before.1 && cache.len(a).unwrap() == 80);
    submit(&context, |encoder| {
        assert_eq!(named(cache.reserve(encoder, a, 101).unwrap_err()), "tokens");
        assert_eq!(named(cache.reserve(encoder, 7, 1).unwrap_err()), "sequence");
        cache.append(encoder, &input, &[]).unwrap();
        cache.append(encoder, &input, &[Chunk::new(a, 9, 0)]).unwrap();
    });
    assert_eq!(named(cache.truncate(a, 81).unwrap_err()), "len");
    assert_eq!(named(cache.truncate(a, 0).unwrap_err()), "len");
    assert_eq!(named(cache.truncate(7, 0).unwrap_err()), "sequence");
    for error in [
        cache.remove(7).unwrap_err(),
        cache.len(7).unwrap_err(),
        cache.memory(7).unwrap_err(),
        cache.save_blocking(7).unwrap_err(),
    ] {
        assert_eq!(named(error), "sequence");
    }

    let count = cache.sequences().count();
    let bytes = cache.save_blocking(a).unwrap();
    submit(&context, |encoder| {
        assert!(cache.restore(encoder, &bytes[..bytes.len() - 1]).unwrap_err().is_corrupt());
        let mut changed = bytes.clone();
        changed[200] ^= 1;
        assert!(cache.restore(encoder, &changed).unwrap_err().is_corrupt());
        let mut other = new(&staircase.clone().with_sinks(7), &shape).unwrap();
        assert_eq!(named(other.restore(encoder, &bytes).unwrap_err()), "bytes");
        let mut shorter = new(&staircase, &shape.with_kv_len(79).unwrap()).unwrap();
        let error = shorter.restore(encoder, &bytes).unwrap_err();
        assert!(error.is_too_large() && named(error) == "bytes");
        assert_eq!(shorter.sequences().count(), 0);
    });
    assert_eq!(cache.sequences().count(), count);
    // Either cache takes what the other has saved.
    assert!(HostCache::open(&bytes).unwrap().save(0).unwrap() == bytes);
    assert!(cache.to_host_blocking(a).unwrap().save(0).unwrap() == bytes);
}
