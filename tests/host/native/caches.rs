//! The native engine over the words of a cache, against the oracle over the same words.

use crate::common::cases::rope;
use crate::common::native::{Numbers, on};
use crate::common::numbers;
use prflash::attention::PositionIds;
use prflash::cache::{HostCache, SequenceId, Staircase, StoredKeys};
use prflash::native::NativeQueries;
use prflash::position::Pairing;
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, Bias, BlockGrid, DType, Layout, Positions, Profile, Queries, Schedule, Seed, Shape,
    Systematic, Tables, reference,
};
use testkit::staircases::{rotated_staircases, short, staircases};

/// A cache with these many tokens in each sequence.
fn filled(staircase: Staircase, shape: &Shape, keys: StoredKeys, lens: &[usize]) -> HostCache {
    let mut cache = HostCache::new(staircase, shape, keys).unwrap();
    for (index, &len) in lens.iter().enumerate() {
        let part = |seed: usize, dim: usize| numbers((2 * index + seed) as u64, shape.kv_heads() * len * dim);
        let (k, v) = (part(0, shape.head_dim()), part(1, shape.value_dim()));
        let k: Vec<f32> = k.into_iter().map(|x| 2.0 * x).collect();
        let sequence = cache.add();
        cache.append(sequence, &k, &v).unwrap();
    }
    cache
}

/// Queries of up to `q_len` rows for each sequence, by the engine and by the oracle.
fn check(
    attention: &Attention,
    shape: &Shape,
    cache: &HostCache,
    q_len: usize,
    tables: &[Tables<'_>],
    story: &str,
) {
    let attention = attention.clone().with_lse(true);
    let lens: Vec<usize> = cache.sequences().map(|id| cache.len(id).unwrap()).collect();
    let (batch, heads) = (lens.len(), shape.heads());
    let longest = lens.iter().copied().max().unwrap();
    let maxima = shape.with_q_len(q_len).unwrap().with_kv_len(longest).unwrap();
    let layout = |dim| Layout::heads_first(batch, heads, q_len, dim).unwrap();
    let (q_at, out_at) = (layout(shape.head_dim()), layout(shape.value_dim()));
    let q: Vec<f32> =
        numbers(77, q_at.elements()).into_iter().map(|x| attention.storage().round(2.0 * x)).collect();
    let queries: Vec<Queries> = (0..batch)
        .map(|index| Queries {
            sequence: SequenceId::new(index),
            entry: index,
            rows: 0..q_len.min(lens[index]),
            positions: None,
        })
        .collect();
    let all = tables.iter().fold(Tables::new(), |all, tables| {
        let all = tables.schedule(0).into_iter().try_fold(all, Tables::with_schedule).unwrap();
        tables.position_ids(0).into_iter().fold(all, Tables::with_position_ids)
    });
    let stored = Numbers::new(attention.storage(), &q);
    let computed = [1, 3].map(|threads| {
        let plan = attention.plan_native(&maxima, &on(threads)).unwrap();
        let mut output = vec![0.0; out_at.elements()];
        let mut lse = vec![0.0; batch * heads * q_len];
        let mut operands = NativeQueries {
            q: stored.view(q_at).unwrap(),
            output: prflash::native::HostViewMut::new(&mut output[..], out_at).unwrap(),
            lse: Some(&mut lse),
        };
        plan.run_cached(cache, &mut operands, &queries, &all).unwrap();
        (output, lse)
    });
    assert!(computed[0] == computed[1], "other bits on three threads: {story}");
    let (output, lse) = &computed[0];
    for (index, &len) in lens.iter().enumerate() {
        let rows = q_len.min(len);
        let one = shape.with_q_len(rows).unwrap().with_kv_len(len).unwrap();
        // The rows of this sequence, head by head.
        let part = |values: &[f32], dim: usize| -> Vec<f32> {
            let head = |head: usize| {
                let start = (index * heads + head) * q_len * dim;
                values[start..start + rows * dim].to_vec()
            };
            (0..heads).flat_map(head).collect()
        };
        let none = Tables::new();
        let tables = tables.get(index).unwrap_or(&none);
        let q = part(&q, shape.head_dim());
        let exact =
            reference::attention_cached(&attention, &one, &q, cache, SequenceId::new(index), tables).unwrap();
        let tolerance = Tolerances::of_native_output(&exact, &one, attention.output());
        let report = compare(&part(output, shape.value_dim()), &exact.output, tolerance).unwrap();
        assert!(report.passed(), "output of sequence {index}, {story}: {report}");
        let report = compare(&part(lse, 1), &exact.lse, Tolerances::of_native_lse(&exact, &one)).unwrap();
        assert!(report.passed(), "lse of sequence {index}, {story}: {report}");
    }
}

#[test]
fn every_staircase_agrees_with_the_oracle() {
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let all = staircases().into_iter().chain(rotated_staircases());
    for (index, staircase) in all.enumerate() {
        let story = staircase.to_string();
        let cache = filled(staircase, &shape, StoredKeys::AfterRotation, &[700, 31, 95, 320]);
        let attention = match index % 3 {
            0 => Attention::causal(),
            1 => Attention::causal().with_window(300).unwrap(),
            _ => Attention::causal().with_soft_cap(3.0).unwrap().with_storage(DType::F16),
        };
        for q_len in [1, 5, 31] {
            check(&attention, &shape, &cache, q_len, &[], &format!("{story}, {q_len} queries"));
        }
    }
    let cache = filled(Staircase::recommended(), &shape, StoredKeys::AfterRotation, &[4000]);
    check(&Attention::causal(), &shape, &cache, 1, &[], "long");
}

/// Learned sinks over rotated codes of every width: far below the scores, among them and above
/// them.
#[test]
fn sinks_over_rotated_caches() {
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let attention = Attention::causal().with_sinks(&[-40.0, 0.5, 3.0, 60.0]).unwrap();
    for staircase in rotated_staircases() {
        let story = format!("sinks, {staircase}");
        // Summaries refuse keys before rotation.
        let before = staircase.summaries().is_none().then_some(StoredKeys::BeforeRotation);
        for keys in [StoredKeys::AfterRotation].into_iter().chain(before) {
            let cache = filled(staircase.clone(), &shape, keys, &[700, 95, 5]);
            for q_len in [1, 5, 31] {
                check(&attention, &shape, &cache, q_len, &[], &story);
            }
        }
    }
}

#[test]
fn other_heads_and_channels() {
    for (heads, kv_heads, dim, value_dim) in
        [(8, 1, 32, 64), (6, 6, 96, 96), (3, 1, 128, 80), (2, 2, 100, 4), (40, 1, 256, 256)]
    {
        let shape = Shape::new(heads, kv_heads, 0, dim).unwrap().with_value_dim(value_dim).unwrap();
        for staircase in [short(Staircase::paper()), rotated_staircases().swap_remove(0)] {
            let cache = filled(staircase, &shape, StoredKeys::AfterRotation, &[260]);
            for q_len in [1, 3, 70] {
                let story = format!("{heads} heads of {kv_heads}, {dim} and {value_dim} channels");
                check(&Attention::causal(), &shape, &cache, q_len, &[], &story);
            }
        }
    }
}

#[test]
fn keys_stored_before_and_after_rotation() {
    let shape = Shape::new(4, 2, 0, 64).unwrap();
    let positions = Positions::from(rope(64, 32, Pairing::Interleaved)).with_bias(Bias::harmonic());
    let attention = Attention::causal().with_positions(positions.with_harmonic_factor(90.0).unwrap());
    for keys in [StoredKeys::BeforeRotation, StoredKeys::AfterRotation] {
        for staircase in [short(Staircase::recommended()), rotated_staircases().swap_remove(0)] {
            let cache = filled(staircase, &shape, keys, &[420, 200]);
            for q_len in [1, 4, 40] {
                check(&attention, &shape, &cache, q_len, &[], &format!("{keys:?}, {q_len} queries"));
            }
        }
    }
    let cache = filled(short(Staircase::paper()), &shape, StoredKeys::BeforeRotation, &[100]);
    let ids = PositionIds::new(&[7, 3], &(0..100).map(|j| j * 31 % 90).collect::<Vec<_>>()).unwrap();
    check(&attention, &shape, &cache, 2, &[Tables::from(&ids)], "ids");
}

#[test]
fn schedules_over_a_cache() {
    let shape = Shape::new(4, 2, 0, 32).unwrap();
    let lens = [500, 333];
    for staircase in [short(Staircase::recommended()), short(Staircase::streaming(90).unwrap())] {
        let cache = filled(staircase, &shape, StoredKeys::AfterRotation, &lens);
        for q_len in [1, 30] {
            let schedules = lens.map(|len| {
                let shape = shape.with_q_len(q_len).unwrap().with_kv_len(len).unwrap();
                let grid = BlockGrid::causal(&shape).with_block_size(48).unwrap();
                Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(5)).unwrap()
            });
            let tables = schedules.each_ref().map(Tables::from);
            let attention = Attention::causal().with_correction(1.0).unwrap();
            check(&attention, &shape, &cache, q_len, &tables, &format!("schedules, {q_len} queries"));
        }
    }
}
