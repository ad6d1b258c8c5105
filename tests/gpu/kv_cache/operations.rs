//! Any operations in any order, as the cache on the host does them.

use super::noise;
use crate::common::gpu;
use prflash::cache::{Chunk, HostCache, KvCache, SequenceId};
use prflash::{DType, Layout, Shape, Tensor};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::staircases::{rotated_staircases, staircases, unrotated_if_possible};

/// 10,000 operations, recorded into encoders of random length, on the cache and on its model, the
/// one in host memory.
#[test]
fn random_operations() {
    let Some(context) = gpu("random operations") else { return };
    const OPERATIONS: usize = 1250;
    let (heads, dims, rows, max_len) = (2, [12, 36], 64, 420);
    let shape = Shape::new(heads, heads, max_len, dims[0]).unwrap().with_value_dim(dims[1]).unwrap();
    for (seed, staircase) in rotated_staircases().into_iter().chain(staircases()).enumerate() {
        let rng = &mut SmallRng::seed_from_u64(100 + seed as u64);
        let keys = unrotated_if_possible(&staircase);
        let mut host = HostCache::new(staircase.clone(), &shape, keys).unwrap();
        let mut cache = KvCache::new(&context, staircase.clone(), &shape, keys).unwrap();
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
        let (mut segments, mut forks, mut drops) = (0, 0, 0);
        for operation in 0..OPERATIONS {
            let ids: Vec<SequenceId> = host.sequences().collect();
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
                (35..40, Some(id)) => {
                    // What only the device's cache refuses would be past its longest sequence.
                    let segments = rng.random_range(0..3);
                    let got = cache.drop_oldest(&mut encoder, id, segments);
                    match got {
                        Err(error) if error.is_too_large() => {}
                        got => {
                            let want = host.drop_oldest(id, segments);
                            let told =
                                |result: prflash::Result<()>| result.map_err(|error| error.to_string());
                            drops += usize::from(segments > 0 && want.is_ok());
                            assert_eq!(told(got), told(want));
                        }
                    }
                }
                (29..35, Some(id)) if ids.len() < 6 => {
                    // From the residual or just before it.
                    let len = host.len(id).unwrap().saturating_sub(rng.random_range(0..40));
                    let (got, want) = (cache.fork(&mut encoder, id, len), host.fork(id, len));
                    forks += usize::from(want.is_ok());
                    match (got, want) {
                        (Ok(got), Ok(want)) => assert_eq!(got, want),
                        (got, want) => {
                            assert_eq!(got.unwrap_err().to_string(), want.unwrap_err().to_string())
                        }
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
                    let calls: Vec<Chunk> = chunks
                        .iter()
                        .map(|&(id, b, row, n)| Chunk { sequence: id, entry: b, rows: row..row + n })
                        .collect();
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
        assert!(segments > 300 && forks > 10, "seed {seed}: {segments} segments, {forks} forks");
        assert_eq!(drops > 0, staircase.drops(), "seed {seed}: {drops} drops");
        assert!(cache.sequences().eq(host.sequences()));
        for id in host.sequences() {
            let (got, want) = (cache.standing(id).unwrap(), host.standing(id).unwrap());
            assert_eq!((got.len(), got.segments()), (want.len(), want.segments()));
            assert!(cache.save_blocking(id).unwrap() == host.save(id).unwrap(), "seed {seed}: sequence {id}");
        }
        cache.check_blocking().unwrap();
    }
}
