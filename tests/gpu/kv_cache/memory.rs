//! What a cache takes of the device: growth, parts, nothing once it is warm.

use super::{Rows, input, noise, submit};
use crate::common::{gpu, small_device};
use prflash::cache::{Chunk, HostCache, KvCache, SequenceId, Staircase, StoredKeys};
use prflash::{Context, DType, Layout, Shape, Tensor};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use testkit::staircases::short;

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
    let ids: Vec<SequenceId> = (0..5).map(|_| cache.add()).collect();
    let (mut sizes, mut len) = (vec![empty], 0);
    while len < max_len {
        let tokens = 50.min(max_len - len);
        let chunks: Vec<Chunk> =
            ids.iter().map(|&id| Chunk { sequence: id, entry: 0, rows: len..len + tokens }).collect();
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
    host.append(SequenceId::FIRST, &k.values, &v.values).unwrap();
    for &id in &ids {
        assert!(cache.save_blocking(id).unwrap() == host.save(SequenceId::FIRST).unwrap());
    }
    // What removed ones leave serves the next; two whole prompts at once are more moves than one
    // dispatch takes.
    let before = cache.capacity_bytes();
    let prompts = [ids[2], ids[3]].map(|id| {
        cache.remove(id).unwrap();
        id
    });
    let prompts = prompts.map(|_| Chunk { sequence: cache.add(), entry: 0, rows: 0..max_len });
    submit(&context, |encoder| cache.append(encoder, &input, &prompts)).unwrap();
    assert_eq!(cache.capacity_bytes(), before);
    for id in cache.sequences() {
        assert!(cache.save_blocking(id).unwrap() == host.save(SequenceId::FIRST).unwrap(), "sequence {id}");
    }
}

/// Arena and input past the binding size go in parts; what can't be bound at all is refused and
/// leaves everything as it was.
#[test]
fn small_devices_bind_parts() {
    if gpu("small devices").is_none() {
        return;
    }
    let context = small_device(1 << 16, 40);
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
        let chunks = [
            Chunk { sequence: SequenceId::FIRST, entry: 0, rows: 0..200 },
            Chunk { sequence: SequenceId::new(1), entry: 1, rows: 20 * step..20 * step + 37 },
        ];
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
                    host.append(SequenceId::new(id), &k, &v).unwrap();
                }
            }
            Err(error) => {
                refused += 1;
                assert!(error.is_too_large() && error.argument() == Some("tokens"), "{error}");
                assert_eq!(sizes, (cache.capacity_bytes(), cache.live_bytes()));
            }
        }
        for id in 0..2 {
            assert!(
                cache.save_blocking(SequenceId::new(id)).unwrap() == host.save(SequenceId::new(id)).unwrap(),
                "step {step}"
            );
        }
    }
    // A head has 64 bytes a row: no more than 1,024 rows, those of the rings included, fit.
    assert!((1..7).contains(&refused) && host.len(SequenceId::FIRST).unwrap() >= 600, "{refused}");
    // Without the first, there is room for the second.
    cache.remove(SequenceId::FIRST).unwrap();
    for row in 0..3 {
        let chunk = Chunk { sequence: SequenceId::new(1), entry: 1, rows: row..row + 100 };
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
    let ids: Vec<SequenceId> = (0..3).map(|_| cache.add()).collect();
    submit(&context, |encoder| ids.iter().for_each(|&id| cache.reserve(encoder, id, 1000).unwrap()));
    let mut step = || {
        let chunks: Vec<Chunk> =
            ids.iter().map(|&id| Chunk { sequence: id, entry: id.number(), rows: 0..1 }).collect();
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
