//! The staircase cache on the GPU against the one in host memory, word for word.

mod memory;
mod operations;

use std::ops::Range;

use crate::common::gpu;
use half::f16;

use prflash::cache::{Chunk, Codec, HostCache, KvCache, KvInput, SequenceId, Staircase, StoredKeys};
use prflash::{Context, DType, Error, Layout, Result, Shape, Tensor, TensorView, wgpu};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::staircases::{ladder, rotated_staircases, short, staircases};

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

/// The same tokens in chunks of any size leave the words that the host holds: every staircase, type
/// and padding.
#[test]
fn appended_words_are_the_hosts() {
    let Some(context) = gpu("appended words") else { return };
    let tokens = 500;
    let mut rng = SmallRng::seed_from_u64(1);
    for (index, staircase) in rotated_staircases().into_iter().chain(staircases()).enumerate() {
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
                // A byte for byte comparison of single tokens takes a while: one type for each
                // staircase.
                if chunk == 1 && index % 3 != dtype as usize {
                    continue;
                }
                let id = cache.add();
                for from in (0..tokens).step_by(chunk) {
                    let part = Chunk { sequence: id, entry: 0, rows: from..from + chunk.min(tokens - from) };
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

/// Finite f16 numbers in groups of 32 adjacent ones: any bits, subnormal, constant, extremes among
/// small ones, far from zero, one-sided, in one binade, ordinary.
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

/// Over a million numbers of every kind: the codes of a prompt, which are quantized at their last
/// width, are those that came down step by step, and the host's.
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
    host.append(SequenceId::FIRST, &k.values, &v.values).unwrap();
    let want = host.save(SequenceId::FIRST).unwrap();
    for dtype in [DType::F16, DType::F32] {
        let mut cache = KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
        let input = input(&context, &cache, dtype, &k, &v);
        for chunk in [tokens, 32] {
            let id = cache.add();
            submit(&context, |encoder| {
                for from in (0..tokens).step_by(chunk) {
                    let part = Chunk { sequence: id, entry: 0, rows: from..from + chunk.min(tokens - from) };
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
        host.append(SequenceId::FIRST, &k.values, &v.values).unwrap();
        let mut cache =
            KvCache::new(&context, Staircase::plain(), &shape, StoredKeys::AfterRotation).unwrap();
        let input = input(&context, &cache, dtype, &k, &v);
        let id = cache.add();
        submit(&context, |encoder| {
            cache.append(encoder, &input, &[Chunk { sequence: id, entry: 0, rows: 0..tokens }])
        })
        .unwrap();
        assert!(cache.save_blocking(id).unwrap() == host.save(SequenceId::FIRST).unwrap(), "{dtype}");
        cache.check_blocking().unwrap();
    }
}

/// What isn't finite is stored as 0 and counted once, however it came and wherever it went; the
/// other numbers of its groups don't notice.
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
            host.append(SequenceId::FIRST, &want[0].values, &want[1].values).unwrap();
            for chunk in [tokens, 29] {
                let mut cache =
                    KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
                let clean = input(&context, &cache, dtype, &clean[0], &clean[1]);
                let other = cache.add();
                submit(&context, |encoder| {
                    cache.append(encoder, &clean, &[Chunk { sequence: other, entry: 0, rows: 0..tokens }])
                })
                .unwrap();
                cache.check_blocking().unwrap();
                let spoilt = input(&context, &cache, dtype, &k, &v);
                let id = cache.add();
                submit(&context, |encoder| {
                    for from in (0..tokens).step_by(chunk) {
                        let part =
                            Chunk { sequence: id, entry: 0, rows: from..from + chunk.min(tokens - from) };
                        cache.append(encoder, &spoilt, &[part]).unwrap();
                    }
                });
                assert!(
                    cache.save_blocking(id).unwrap() == host.save(SequenceId::FIRST).unwrap(),
                    "{staircase}\n{dtype}"
                );
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
                submit(&context, |encoder| {
                    cache.append(encoder, &spoilt, &[Chunk { sequence: id, entry: 0, rows: 0..tokens }])
                })
                .unwrap();
                let error = cache.check_blocking().unwrap_err();
                assert_eq!(error.argument(), Some("v"));
                assert!(error.to_string().contains("got 23 others"), "{error}");
            }
        }
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
    // Keys that turn as they are read have to be turned back first.
    let rotated = Staircase::paper().with_codec(Codec::Rotated { fine_tokens: 2 }).unwrap();
    let error = KvCache::new(&context, rotated, &shape, StoredKeys::BeforeRotation).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("stored_keys"), "{error}");

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
    submit(&context, |encoder| {
        cache.append(
            encoder,
            &input,
            &[Chunk { sequence: a, entry: 0, rows: 0..40 }, Chunk { sequence: b, entry: 1, rows: 0..3 }],
        )
    })
    .unwrap();
    let foreign = new(&staircase, &shape).unwrap().input(&good, &good).unwrap();
    let before = (cache.save_blocking(a).unwrap(), cache.save_blocking(b).unwrap(), cache.capacity_bytes());
    let mut refused = |input: &KvInput, chunks: &[Chunk]| {
        named(submit(&context, |encoder| cache.append(encoder, input, chunks)).unwrap_err())
    };
    let fine = || Chunk { sequence: b, entry: 0, rows: 0..10 };
    assert_eq!(refused(&foreign, &[fine()]), "input");
    assert_eq!(
        refused(&input, &[fine(), Chunk { sequence: SequenceId::new(9), entry: 0, rows: 0..1 }]),
        "sequence"
    );
    assert_eq!(refused(&input, &[fine(), Chunk { sequence: b, entry: 1, rows: 0..1 }]), "chunks");
    assert_eq!(refused(&input, &[fine(), Chunk { sequence: a, entry: 2, rows: 0..1 }]), "chunks");
    assert_eq!(refused(&input, &[fine(), Chunk { sequence: a, entry: 0, rows: 0..41 }]), "chunks");
    assert_eq!(refused(&input, &[fine(), Chunk { sequence: a, entry: 0, rows: 0..usize::MAX }]), "chunks");
    let wide = |dim, value_dim| Shape::new(2, 2, 0, dim)?.with_kv_len(9)?.with_value_dim(value_dim);
    for (dim, value_dim, name) in [(260, 64, "head_dim"), (64, 260, "value_dim")] {
        let error = new(&staircase, &wide(dim, value_dim).unwrap()).err().unwrap();
        assert!(error.is_too_large() && error.argument() == Some(name), "{error}");
    }
    // An end before the start names no rows.
    let backwards = Chunk { sequence: a, entry: 0, rows: Range { start: 9, end: 8 } };
    assert_eq!(refused(&input, &[fine(), backwards]), "chunks");
    let result: Result<()> = submit(&context, |encoder| {
        cache.append(encoder, &input, &[Chunk { sequence: a, entry: 0, rows: 0..40 }])
    });
    result.unwrap();
    let refused = submit(&context, |encoder| {
        cache.append(encoder, &input, &[fine(), Chunk { sequence: a, entry: 0, rows: 0..21 }])
    });
    let error = refused.unwrap_err();
    assert!(error.is_too_large() && named(error) == "tokens");
    assert!(cache.save_blocking(b).unwrap() == before.1 && cache.len(a).unwrap() == 80);
    submit(&context, |encoder| {
        assert_eq!(named(cache.reserve(encoder, a, 101).unwrap_err()), "tokens");
        assert_eq!(named(cache.reserve(encoder, SequenceId::new(7), 1).unwrap_err()), "sequence");
        cache.append(encoder, &input, &[]).unwrap();
        cache.append(encoder, &input, &[Chunk { sequence: a, entry: 9, rows: 0..0 }]).unwrap();
    });
    assert_eq!(named(cache.truncate(a, 81).unwrap_err()), "len");
    assert_eq!(named(cache.truncate(a, 0).unwrap_err()), "len");
    assert_eq!(named(cache.truncate(SequenceId::new(7), 0).unwrap_err()), "sequence");
    for error in [
        cache.remove(SequenceId::new(7)).unwrap_err(),
        cache.len(SequenceId::new(7)).unwrap_err(),
        cache.memory(SequenceId::new(7)).unwrap_err(),
        cache.save_blocking(SequenceId::new(7)).unwrap_err(),
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
    assert!(HostCache::open(&bytes).unwrap().save(SequenceId::FIRST).unwrap() == bytes);
    assert!(cache.to_host_blocking(a).unwrap().save(SequenceId::FIRST).unwrap() == bytes);
}
