//! What attention over a cache gives, and what it loses.

use super::{noise, rounded};
use prflash::attention::PositionIds;
use prflash::cache::{HostCache, SequenceId, Staircase, StoredKeys};
use prflash::position::Pairing;
use prflash::reference::{self, Exact};
use prflash::{Attention, BlockGrid, Positions, Profile, Rope, Schedule, Seed, Shape, Systematic, Tables};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use testkit::staircases::short;

/// A cache with `tokens` random tokens, and its history.
struct History {
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl History {
    /// 4 heads on 2, 16 channels; the history is f16 already.
    fn new(q_len: usize, tokens: usize) -> Self {
        let shape = Shape::new(4, 2, tokens, 16).unwrap().with_q_len(q_len).unwrap();
        let mut rng = SmallRng::seed_from_u64(9);
        let mut halves = |count| noise(&mut rng, count).into_iter().map(rounded).collect::<Vec<_>>();
        Self { shape, q: halves(4 * q_len * 16), k: halves(2 * tokens * 16), v: halves(2 * tokens * 16) }
    }

    fn cache(&self, staircase: Staircase, keys: StoredKeys, k: &[f32]) -> HostCache {
        let mut cache = HostCache::new(staircase, &self.shape, keys).unwrap();
        let id = cache.add();
        cache.append(id, k, &self.v).unwrap();
        cache
    }

    fn exact(&self, attention: &Attention, tables: &Tables<'_>) -> Exact {
        reference::attention(attention, &self.shape, &self.q, &self.k, &self.v, tables).unwrap()
    }

    fn cached(&self, attention: &Attention, cache: &HostCache, tables: &Tables<'_>) -> Exact {
        reference::attention_cached(attention, &self.shape, &self.q, cache, SequenceId::FIRST, tables)
            .unwrap()
    }
}

fn assert_close(got: &Exact, want: &Exact, tolerance: f64) {
    for (got, want) in got.output.iter().chain(&got.lse).zip(want.output.iter().chain(&want.lse)) {
        assert!((got - want).abs() <= tolerance, "{got} for {want}");
    }
}

/// One rung of 16 bits is a plain cache: to the bit what the oracle gives, with every option.
#[test]
fn a_plain_cache_is_exact() {
    let history = History::new(70, 300);
    let rope = Rope::new(16, 1e4, Pairing::Half).unwrap();
    let grid = BlockGrid::causal(&history.shape);
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1)).unwrap();
    let attentions = [
        Attention::causal(),
        Attention::causal().with_window(90).unwrap().with_soft_cap(3.0).unwrap(),
        Attention::causal().with_positions(Positions::doubly_harmonic(rope.clone())),
    ];
    let cache = history.cache(short(Staircase::plain()), StoredKeys::BeforeRotation, &history.k);
    for attention in attentions {
        for tables in [Tables::new(), Tables::from(&schedule)] {
            assert_eq!(history.cached(&attention, &cache, &tables), history.exact(&attention, &tables));
        }
    }
    // Keys that were turned before: the same within what f16 leaves of them.
    let mut turned = history.k.clone();
    turned.chunks_exact_mut(300 * 16).for_each(|head| rope.rotate(head, 0).unwrap());
    let after = history.cache(Staircase::plain(), StoredKeys::AfterRotation, &turned);
    let rotary = Attention::causal().with_positions(Positions::from(rope));
    let (got, want) =
        (history.cached(&rotary, &after, &Tables::new()), history.exact(&rotary, &Tables::new()));
    assert_close(&got, &want, 0.02);
    // Turning such keys again would be wrong by far.
    let again = history.cache(Staircase::plain(), StoredKeys::BeforeRotation, &turned);
    let off = history.cached(&rotary, &again, &Tables::new());
    assert!(off.output.iter().zip(&want.output).any(|(a, b)| (a - b).abs() > 0.5));
    let wrong = history.shape.with_kv_len(299).unwrap();
    let refused =
        reference::attention_cached(&rotary, &wrong, &history.q, &cache, SequenceId::FIRST, &Tables::new());
    assert_eq!(refused.unwrap_err().argument(), Some("shape"));
}

/// A last rung of 0 bits is StreamingLLM: attention over the sinks and the window, at their places
/// in the sequence.
#[test]
fn dropping_old_tokens_is_streaming() {
    let history = History::new(5, 300);
    let staircase = short(Staircase::streaming(50).unwrap());
    let cache = history.cache(staircase, StoredKeys::BeforeRotation, &history.k);
    let kept: Vec<usize> = cache.rows(SequenceId::FIRST, 1).unwrap().map(|row| row.token).collect();
    assert_eq!(kept, (0..4).chain(224..300).collect::<Vec<_>>());
    assert_eq!(cache.live_bytes(), (4 + 76) * 2 * 2 * 32 * 2);

    let gather = |rows: &[f32]| -> Vec<f32> {
        let head =
            |head: &[f32]| kept.iter().flat_map(|&t| head[t * 16..][..16].to_vec()).collect::<Vec<_>>();
        rows.chunks_exact(300 * 16).flat_map(head).collect()
    };
    let few = history.shape.with_kv_len(kept.len()).unwrap();
    let at = |range: std::ops::Range<u32>| range.collect::<Vec<_>>();
    let ids = PositionIds::new(&at(295..300), &kept.iter().map(|&t| t as u32).collect::<Vec<_>>()).unwrap();
    let rope = Rope::new(16, 1e4, Pairing::Interleaved).unwrap();
    let attention = Attention::causal().with_positions(Positions::doubly_harmonic(rope));
    let (k, v) = (gather(&history.k), gather(&history.v));
    let want = reference::attention(&attention, &few, &history.q, &k, &v, &Tables::from(&ids)).unwrap();
    assert_close(&history.cached(&attention, &cache, &Tables::new()), &want, 1e-12);
}

/// What is measured as loss: nothing where nothing is lost, the difference of the two oracles else,
/// and parts that belong to the right tokens.
#[test]
fn losses_are_measured() {
    let history = History::new(3, 300);
    let attention = Attention::causal();
    let ages = [0..100, 100..256, 256..300];
    let loss = |staircase: &Staircase| {
        let cache = history.cache(staircase.clone(), StoredKeys::AfterRotation, &history.k);
        let (shape, kv) = (&history.shape, (&history.k[..], &history.v[..]));
        let loss = reference::cache_loss(
            &attention,
            shape,
            &history.q,
            kv,
            &cache,
            SequenceId::FIRST,
            &Tables::new(),
            &ages,
        )
        .unwrap();
        let (got, want) =
            (history.cached(&attention, &cache, &Tables::new()), history.exact(&attention, &Tables::new()));
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let off = norm(&mut got.output.iter().zip(&want.output).map(|(a, b)| a - b));
        assert!((loss.output_error - off / norm(&mut want.output.iter().copied())).abs() < 1e-12);
        assert!((loss.ages.iter().map(|age| age.mass).sum::<f64>() - 1.0).abs() < 1e-12);
        loss
    };
    let plain = loss(&Staircase::plain());
    assert!(plain.output_error < 1e-15 && plain.ages.iter().all(|age| age.score_error == Some(0.0)));
    let [two, four] = [2, 4].map(|bits| loss(&short(Staircase::kivi(bits).unwrap())));
    assert!(four.output_error > 0.0 && two.output_error > 2.0 * four.output_error);
    assert!(two.ages[0].score_error > four.ages[0].score_error);
    // The newest are in the residual: only their softmax weights change.
    assert_eq!(two.ages[2].score_error, Some(0.0));
    let streaming = loss(&short(Staircase::streaming(50).unwrap()).with_sinks(0));
    assert_eq!((streaming.ages[0].score_error, streaming.ages[2].score_error), (None, Some(0.0)));
    assert!((streaming.ages[0].mass - plain.ages[0].mass).abs() < 1e-12);
}
