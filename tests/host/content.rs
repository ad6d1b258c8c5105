//! Scores of blocks by what is known of keys, against the oracle's masses.

use prflash::attention::PositionIds;
use prflash::cache::{Codec, HostCache, Ladder, Staircase, StoredKeys};
use prflash::position::{Distance, Pairing, Slopes};
use prflash::sampling::Granularity;
use prflash::sampling::content::{Estimate, KeySummaries, Participation, Probe};
use prflash::{
    Attention, Bias, BlockGrid, Documents, Positions, Rope, Schedule, Seed, Shape, Tables, reference,
};

use proptest::prelude::*;

const DIM: usize = 8;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let number = |i: u32| prflash::random::hash_words(&[seed, i]) as f32 / u32::MAX as f32;
    // Tails heavier than a uniform number's.
    (0..count as u32).map(|i| (number(2 * i) + number(2 * i + 1) - 1.0) * 3.0).collect()
}

fn rope() -> Positions {
    Positions::new().with_rope(Rope::new(DIM, 100.0, Pairing::Half).unwrap())
}

/// The kinds of attention whose scores estimates must know.
fn attentions() -> Vec<(&'static str, Attention)> {
    let bias = |distance| Positions::new().with_bias(Bias::new(distance, Slopes::Alibi).unwrap());
    vec![
        ("causal", Attention::causal()),
        ("full", Attention::full()),
        ("window", Attention::causal().with_window(21).unwrap()),
        ("full window", Attention::full().with_window(13).unwrap()),
        ("soft-cap", Attention::causal().with_soft_cap(2.0).unwrap()),
        ("scale", Attention::causal().with_scale(-1.5).unwrap()),
        ("rope", Attention::causal().with_positions(rope())),
        ("alibi", Attention::causal().with_positions(bias(Distance::Linear))),
        ("harmonic", Attention::full().with_positions(bias(Distance::Harmonic))),
        (
            "all",
            Attention::causal()
                .with_window(40)
                .and_then(|attention| attention.with_soft_cap(5.0))
                .unwrap()
                .with_positions(rope().with_bias(Bias::alibi())),
        ),
    ]
}

fn grid_of(attention: &Attention, shape: &Shape, block: usize) -> BlockGrid {
    let grid = if attention.is_causal() { BlockGrid::causal(shape) } else { BlockGrid::full(shape) };
    grid.with_block_size(block).unwrap()
}

/// The oracle's logarithm of the mass of one block for every row: the log-sum-exp of a schedule of
/// this block alone.
fn exact_masses(
    attention: &Attention,
    grid: &BlockGrid,
    shape: &Shape,
    q: &[f32],
    k: &[f32],
    tables: &Tables<'_>,
    block: usize,
) -> Vec<f64> {
    let lists: Vec<Vec<usize>> = (0..grid.groups())
        .flat_map(|_| {
            (0..grid.query_blocks()).map(|row| grid.dense_row(grid.first_query_block() + row as i64))
        })
        .map(|dense| if block < dense { vec![block] } else { vec![] })
        .collect();
    let schedule = Schedule::from_block_lists(grid, &lists).unwrap();
    let mut with = Tables::from(&schedule);
    if let Some(documents) = tables.documents(0) {
        with = with.with_documents(documents);
    }
    if let Some(ids) = tables.position_ids(0) {
        with = with.with_position_ids(ids);
    }
    let v = vec![0.0; shape.kv_heads() * shape.kv_len() * shape.value_dim()];
    reference::attention(attention, shape, q, k, &v, &with).unwrap().lse
}

/// Of groups of one token every estimate is the mass itself; of larger ones the bound is never
/// below it, and the saturated estimate is never above the bound.
#[test]
fn bounds_hold_and_groups_of_one_are_exact() {
    let shape = Shape::new(4, 2, 29, DIM).unwrap().with_kv_len(53).unwrap();
    let (q, k) = (numbers(4 * 29 * DIM, 1), numbers(2 * 53 * DIM, 2));
    let starts: Vec<usize> = (0..29).map(|row| if row < 11 { 3 } else { 30 }).collect();
    let documents = Documents::from_starts(&starts).unwrap();
    let rows: Vec<usize> = (0..29).collect();
    for ((name, attention), masked) in
        attentions().into_iter().flat_map(|one| [(one.clone(), false), (one, true)])
    {
        let tables = if masked { Tables::new().with_documents(&documents) } else { Tables::new() };
        let grid = grid_of(&attention, &shape, 6);
        let masses = |group, estimate| {
            let keys = attention.summarize(&shape, &k, group, None).unwrap();
            attention.block_masses(&grid, &q, &keys, estimate, &rows, &tables).unwrap()
        };
        let ones =
            [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey].map(|estimate| masses(1, estimate));
        for group in [3, 4, 5, 8] {
            let [saturated, bound] =
                [Estimate::Saturated, Estimate::Bound].map(|estimate| masses(group, estimate));
            let rounded = attention.summarize(&shape, &k, group, None).unwrap().with_8_bits();
            let bound_of_8 =
                attention.block_masses(&grid, &q, &rounded, Estimate::Bound, &rows, &tables).unwrap();
            for block in 0..grid.key_blocks() {
                let exact = exact_masses(&attention, &grid, &shape, &q, &k, &tables, block);
                for (row, want) in exact.into_iter().enumerate() {
                    let at = row * grid.key_blocks() + block;
                    let place =
                        format!("{name}, masked {masked}, groups of {group}, row {row}, block {block}");
                    if want == f64::NEG_INFINITY {
                        assert_eq!((saturated[at], bound[at], ones[0][at]), (want, want, want), "{place}");
                        continue;
                    }
                    for one in &ones {
                        // f32 rotations.
                        assert!((one[at] - want).abs() < 1e-4, "{place}: {} against {want}", one[at]);
                    }
                    assert!(bound[at] > want - 1e-4, "{place}: {} below {want}", bound[at]);
                    assert!(bound_of_8[at] > want - 1e-4, "{place}: {} below {want}", bound_of_8[at]);
                    assert!(bound_of_8[at] < 2.0 * bound[at].abs() + 2.0, "{place}: {}", bound_of_8[at]);
                    assert!(
                        saturated[at] <= bound[at] + 1e-9,
                        "{place}: {} above {}",
                        saturated[at],
                        bound[at]
                    );
                }
            }
        }
    }
}

/// The best estimate is far nearer to the masses than a constant would be.
#[test]
fn estimates_explain_masses() {
    let shape = Shape::new(4, 2, 64, 32).unwrap().with_kv_len(512).unwrap();
    let (q, mut k) = (numbers(4 * 64 * 32, 3), numbers(2 * 512 * 32, 4));
    // Keys of neighbours are alike.
    for (at, x) in k.iter_mut().enumerate() {
        *x = 0.3 * *x + numbers(1, 1000 + (at / (32 * 16)) as u32 * 32 + (at % 32) as u32)[0];
    }
    let attention = Attention::causal();
    let grid = grid_of(&attention, &shape, 32);
    let keys = attention.summarize(&shape, &k, 32, None).unwrap();
    let rows: Vec<usize> = (0..64).collect();
    let exact: Vec<f64> = {
        let by_block: Vec<Vec<f64>> = (0..16)
            .map(|block| exact_masses(&attention, &grid, &shape, &q, &k, &Tables::new(), block))
            .collect();
        (0..4 * 64).flat_map(|row| by_block.iter().map(move |masses| masses[row])).collect()
    };
    let explained = |estimate| {
        let got = attention.block_masses(&grid, &q, &keys, estimate, &rows, &Tables::new()).unwrap();
        let pairs: Vec<(f64, f64)> =
            exact.iter().copied().zip(got).filter(|(want, _)| want.is_finite()).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
        let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let covariance = pairs.iter().map(|pair| (pair.0 - x) * (pair.1 - y)).sum::<f64>();
        let [of_x, of_y] = [
            pairs.iter().map(|pair| (pair.0 - x).powi(2)).sum::<f64>(),
            pairs.iter().map(|pair| (pair.1 - y).powi(2)).sum::<f64>(),
        ];
        covariance * covariance / (of_x * of_y)
    };
    let [saturated, bound] = [Estimate::Saturated, Estimate::Bound].map(explained);
    assert!(saturated > 0.6 && saturated > bound, "R² {saturated}, of the bound {bound}");
}

/// Lists by a causal probe don't know what comes after the first row of their query block; those
/// that look ahead do.
#[test]
fn causal_lists_know_nothing_of_what_comes() {
    let shape = Shape::new(2, 1, 96, DIM).unwrap();
    let (q, k) = (numbers(2 * 96 * DIM, 5), numbers(96 * DIM, 6));
    let attention = Attention::causal();
    let grid = grid_of(&attention, &shape, 8);
    let lists = |q: &[f32], k: &[f32], probe| {
        let keys = attention.summarize(&shape, k, 4, None).unwrap();
        let scores =
            attention.block_scores(&grid, q, &keys, Estimate::Saturated, probe, &Tables::new()).unwrap();
        Schedule::select(&grid, &Participation::content(3).unwrap(), &scores, Seed::new(0)).unwrap()
    };
    let mut differ = 0;
    for cut in 0..96 {
        let (mut later_q, mut later_k) = (q.clone(), k.clone());
        for head in 0..2 {
            later_q[(head * 96 + cut + 1) * DIM..(head + 1) * 96 * DIM]
                .iter_mut()
                .for_each(|x| *x = 1.0 - *x);
        }
        later_k[(cut + 1) * DIM..].iter_mut().for_each(|x| *x *= -2.0);
        let causal = [(&q, &k), (&later_q, &later_k)].map(|(q, k)| lists(q, k, Probe::default()));
        let ahead =
            [(&q, &k), (&later_q, &later_k)].map(|(q, k)| lists(q, k, Probe::looking_ahead(4).unwrap()));
        for (head, row) in (0..2).flat_map(|head| (0..=cut / 8).map(move |row| (head, row))) {
            assert_eq!(causal[0].blocks(head, row), causal[1].blocks(head, row), "cut {cut}, row {row}");
            differ += usize::from(ahead[0].blocks(head, row) != ahead[1].blocks(head, row));
        }
    }
    assert!(differ > 0, "looking ahead made no difference");
}

/// Which blocks a list may have, and what each of them has of the attention, by the oracle's masses
/// of every block, `[block][head · row]`: what `lists_are_the_best_of_what_is_seen` compares with.
struct Truth {
    grid: BlockGrid,
    masses: Vec<Vec<f64>>,
}

impl Truth {
    fn mass(&self, head: usize, query: usize, block: usize) -> f64 {
        self.masses[block][head * self.grid.q_len() + query]
    }

    /// Whether a query of this query block sees a key of that block.
    fn sees(&self, row: usize, block: usize) -> bool {
        let query_block = |query: usize| {
            let position = (self.grid.kv_len() - self.grid.q_len() + query) as i64;
            (position.div_euclid(self.grid.block_size() as i64) - self.grid.first_query_block()) as usize
        };
        let mut queries = (0..self.grid.q_len()).filter(|&query| query_block(query) == row);
        queries.any(|query| self.mass(0, query, block).is_finite())
    }

    /// The mean over heads of the share that the block has of a query's attention.
    fn share(&self, heads: std::ops::Range<usize>, query: usize, block: usize) -> f64 {
        let of_head = |head: usize| {
            let blocks = 0..self.masses.len();
            let all: f64 = blocks.map(|block| self.mass(head, query, block).exp()).sum();
            if all > 0.0 { self.mass(head, query, block).exp() / all } else { 0.0 }
        };
        heads.clone().map(of_head).sum::<f64>() / heads.len() as f64
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Under every kind of mask, for lists of heads and lists that heads share: only blocks that
    /// are seen, the pinned ones among them, and of the others those that have most of the
    /// attention of the rows that were asked; all blocks are dense attention.
    #[test]
    fn lists_are_the_best_of_what_is_seen(
        kind in 0..attentions().len(),
        granularity in prop::sample::select(vec![Granularity::Head, Granularity::KvHead, Granularity::Shared]),
        (q_len, more, block, blocks) in (1usize..30, 0usize..40, 2usize..9, 1usize..8),
        masked: bool,
        seed: u32,
    ) {
        let (_, attention) = attentions().swap_remove(kind);
        let shape = Shape::new(4, 2, q_len, DIM).unwrap().with_kv_len(q_len + more).unwrap();
        let grid = grid_of(&attention, &shape, block).with_granularity(granularity);
        let [q, k, v] = [4 * q_len, 2 * shape.kv_len(), 2 * shape.kv_len()].map(|rows| numbers(rows * DIM, seed));
        let starts: Vec<usize> =
            (0..q_len).map(|row| if row < q_len / 2 { more / 2 } else { more + q_len / 2 }).collect();
        let documents = Documents::from_starts(&starts).unwrap();
        let tables = if masked { Tables::new().with_documents(&documents) } else { Tables::new() };
        let masses = |block| exact_masses(&attention, &grid, &shape, &q, &k, &tables, block);
        let truth = Truth { grid, masses: (0..grid.key_blocks()).map(masses).collect() };

        // Groups of one token, whose estimates are exact, and one row, which speaks alone.
        let (keys, probe) = (attention.summarize(&shape, &k, 1, None).unwrap(), Probe::looking_ahead(1).unwrap());
        let scores = attention.block_scores(&grid, &q, &keys, Estimate::Saturated, probe, &tables).unwrap();
        let top = Participation::content(blocks).unwrap();
        let schedule = Schedule::select(&grid, &top, &scores, Seed::new(0)).unwrap();
        let each = grid.heads_per_group();
        for (group, row) in (0..grid.groups()).flat_map(|g| (0..grid.query_blocks()).map(move |row| (g, row))) {
            let diagonal = (grid.first_query_block() + row as i64) as usize;
            let visible: Vec<usize> = (0..grid.key_blocks()).filter(|&block| truth.sees(row, block)).collect();
            let is_pinned = |block: &usize| *block == 0 || *block == diagonal;
            let pinned = visible.iter().copied().filter(is_pinned).count();
            let list = schedule.blocks(group, row);
            prop_assert_eq!(list.len(), blocks.max(pinned).min(visible.len()));
            prop_assert!(list.iter().all(|block| visible.contains(block)));
            let (heads, speaker) = (group * each..(group + 1) * each, probe.rows(&grid, row)[0]);
            let share = |block: &usize| truth.share(heads.clone(), speaker, *block);
            let (kept, left): (Vec<usize>, Vec<usize>) = visible.iter().partition(|block| list.contains(block));
            prop_assert!(!left.iter().any(is_pinned));
            let least = kept.iter().filter(|block| !is_pinned(block)).map(share).fold(f64::INFINITY, f64::min);
            // Scores are rounded to 1/1024 of a power of two, a few times.
            prop_assert!(left.iter().map(share).all(|share| share <= least * 1.004), "{kept:?} and not {left:?}");
        }
        let all = Schedule::select(&grid, &Participation::content(usize::MAX).unwrap(), &scores, Seed::new(0)).unwrap();
        let with = if masked { Tables::from(&all).with_documents(&documents) } else { Tables::from(&all) };
        let [got, want] =
            [&with, &tables].map(|tables| reference::attention(&attention, &shape, &q, &k, &v, tables).unwrap());
        prop_assert!(got.output.iter().zip(&want.output).all(|(got, want)| (got - want).abs() < 1e-9));
    }
}

/// A cache's summaries are those of the keys that it gives back, but that coded groups have the
/// extremes of the keys that went in.
#[test]
fn summaries_of_caches() {
    let shape = Shape::new(4, 2, 1, 64).unwrap();
    let staircase = Staircase::recommended();
    let mut cache = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    let sequence = cache.add();
    let tokens = 1500;
    let (k, v) = (numbers(2 * tokens * 64, 7), numbers(2 * tokens * 64, 8));
    cache.append(sequence, &k, &v).unwrap();
    let of_cache = cache.summarize(sequence).unwrap();
    assert_eq!((of_cache.len(), of_cache.group(), of_cache.has_means()), (tokens, staircase.group(), false));
    // f16 rounds them.
    let rounded: Vec<f32> = k.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect();
    let mut of_rows = KeySummaries::new(2, 64, staircase.group()).unwrap();
    of_rows.append(&rounded).unwrap();
    let attention = Attention::causal();
    let step = shape.with_kv_len(tokens).unwrap();
    let grid = grid_of(&attention, &step, 64);
    let q = numbers(4 * 64, 9);
    // Means aren't known in a cache, so only what is of extremes is the same.
    let [a, b] = [&of_cache, &of_rows]
        .map(|keys| attention.block_masses(&grid, &q, keys, Estimate::Bound, &[0], &Tables::new()).unwrap());
    assert_eq!(a, b);
    let saturated = attention.block_masses(&grid, &q, &of_cache, Estimate::Saturated, &[0], &Tables::new());
    assert!(saturated.unwrap().iter().zip(&a).all(|(saturated, bound)| saturated < bound));
    let before = HostCache::new(staircase, &shape, StoredKeys::BeforeRotation).unwrap();
    let error = before
        .clone()
        .summarize({
            let mut one = before.clone();
            one.add()
        })
        .unwrap_err();
    assert_eq!(error.argument(), Some("stored_keys"));
}

/// Summaries that a cache stores are those of its keys in 8 bits, at every width and until they are
/// dropped; of the residual nothing is known, and its blocks always take part.
#[test]
fn summaries_that_caches_store() {
    let shape = Shape::new(4, 2, 1, 40).unwrap();
    let plain =
        Staircase::new(Ladder::new(&[(16, 1), (8, 1)], 4).unwrap(), Ladder::new(&[(8, 1)], 2).unwrap());
    let dropping = Staircase::new(Ladder::new(&[(8, 5)], 0).unwrap(), Ladder::new(&[(8, 5)], 0).unwrap());
    let rotated = Staircase::new(Ladder::new(&[(8, 1)], 4).unwrap(), Ladder::new(&[(4, 2)], 2).unwrap());
    let rotated = rotated.unwrap().with_codec(Codec::Rotated { fine_tokens: 2 }).unwrap();
    let turned = Staircase::new(Ladder::new(&[(16, 1), (8, 1)], 3).unwrap(), Ladder::new(&[], 4).unwrap());
    let turned = turned.unwrap().with_codec(Codec::Rotated { fine_tokens: 0 }).unwrap();
    let kept = [plain.unwrap(), rotated, turned].map(|staircase| (staircase, 0));
    for (staircase, dropped) in kept.into_iter().chain([(dropping.unwrap(), 4 * 128)]) {
        let staircase = staircase.with_summaries(64).unwrap().with_sinks(0);
        let mut cache = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
        let sequence = cache.add();
        let (tokens, known) = (1300, 9 * 128);
        let (k, v) = (numbers(2 * tokens * 40, 7), numbers(2 * tokens * 40, 8));
        cache.append(sequence, &k, &v).unwrap();
        let of_cache = cache.summarize(sequence).unwrap();
        assert_eq!((of_cache.len(), of_cache.known(), of_cache.groups()), (tokens, known, known / 64));
        assert!(of_cache.has_8_bits() && of_cache.has_means());
        // Channels are padded to 64 in a cache.
        assert_eq!(cache.standing(sequence).unwrap().memory(&shape).summaries, {
            let groups = (known - dropped) / 64;
            (2 * groups * (2 * 64 + 8)) as u64
        });
        let rounded: Vec<f32> = k.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect();
        let mut of_rows = KeySummaries::new(2, 40, 64).unwrap().with_8_bits();
        of_rows.append(&rounded).unwrap();
        let attention = Attention::causal();
        let grid = grid_of(&attention, &shape.with_kv_len(tokens).unwrap(), 64);
        let q = numbers(4 * 40, 9);
        for estimate in [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey] {
            let [stored, rows] = [&of_cache, &of_rows]
                .map(|keys| attention.block_masses(&grid, &q, keys, estimate, &[0], &Tables::new()).unwrap());
            for (at, (stored, rows)) in stored.iter().zip(&rows).enumerate() {
                let block = at % grid.key_blocks();
                if block < dropped / 64 {
                    assert_eq!(*stored, f64::NEG_INFINITY);
                } else if block >= known / 64 {
                    assert_eq!(*stored, f64::INFINITY);
                } else {
                    assert_eq!(stored, rows, "{estimate:?}, block {block}");
                }
            }
        }
        let probe = Probe::causal(1).unwrap();
        let saturated = Estimate::Saturated;
        let scores = attention.block_scores(&grid, &q, &of_cache, saturated, probe, &Tables::new()).unwrap();
        assert_eq!(scores.log2_share(0, 0, known / 64), Some(f64::INFINITY));
        let rule = Participation::content(6).unwrap();
        let chosen = Schedule::select(&grid, &rule, &scores, Seed::new(1)).unwrap();
        let blocks = chosen.blocks(0, 0);
        assert_eq!(blocks.len(), 6);
        assert!((known / 64..grid.key_blocks()).all(|block| blocks.contains(&block)), "{blocks:?}");
        let mut more = of_cache.clone();
        assert_eq!(more.append(&[0.0; 80]).unwrap_err().argument(), Some("k"));
    }
    let staircase = Staircase::recommended();
    let refused = |tokens| staircase.clone().with_summaries(tokens).unwrap_err();
    assert_eq!([0, 48, 512].map(|tokens| refused(tokens).argument().unwrap()), ["summaries"; 3]);
    let summarized = staircase.clone().with_summaries(64).unwrap();
    assert_eq!(summarized.clone().with_segment(96).unwrap_err().argument(), Some("summaries"));
    let unrotated = HostCache::new(summarized, &shape, StoredKeys::BeforeRotation);
    assert_eq!(unrotated.unwrap_err().argument(), Some("keys"));
}

/// What is said to be missing at most is never less than what is missing, and nothing is after the
/// last round.
#[test]
fn what_is_missing() {
    let shape = Shape::new(4, 2, 40, DIM).unwrap().with_kv_len(150).unwrap();
    let (q, k, v) = (numbers(4 * 40 * DIM, 10), numbers(2 * 150 * DIM, 11), numbers(2 * 150 * DIM, 12));
    for (name, attention) in attentions() {
        let grid = grid_of(&attention, &shape, 8);
        let keys = attention.summarize(&shape, &k, 4, None).unwrap();
        let scores = attention
            .block_scores(&grid, &q, &keys, Estimate::Saturated, Probe::default(), &Tables::new())
            .unwrap();
        let rounds = Schedule::select_rounds(&grid, &Participation::content(4).unwrap(), &scores, 4).unwrap();
        let dense = reference::attention(&attention, &shape, &q, &k, &v, &Tables::new()).unwrap();
        let (mut states, mut last) = (Vec::new(), f64::INFINITY);
        for (number, round) in rounds.iter().enumerate() {
            states.push(reference::attention(&attention, &shape, &q, &k, &v, &Tables::from(round)).unwrap());
            let merged = reference::merge(&states, false).unwrap();
            let lse: Vec<f32> = merged.lse.iter().map(|&x| x as f32).collect();
            let visited: Vec<&Schedule> = rounds[..=number].iter().collect();
            let missing = attention.missing(&grid, &q, &keys, &visited, &lse, &Tables::new()).unwrap();
            for row in 0..lse.len() {
                let exact = 1.0 - (merged.lse[row] - dense.lse[row]).exp();
                let place = format!("{name}, round {number}, row {row}");
                assert!(
                    missing.at_most[row] > exact - 1e-4,
                    "{place}: {} below {exact}",
                    missing.at_most[row]
                );
                assert!((0.0..=1.0).contains(&missing.estimated[row]), "{place}");
            }
            assert!(missing.largest() <= last);
            last = missing.largest();
            if number + 1 == rounds.len() {
                assert!(missing.is_within(0.0), "{name}: {}", missing.largest());
                for (got, want) in merged.output.iter().zip(&dense.output) {
                    assert!((got - want).abs() < 1e-9, "{name}");
                }
            }
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let shape = Shape::new(4, 2, 6, DIM).unwrap().with_kv_len(20).unwrap();
    let (q, k) = (numbers(4 * 6 * DIM, 1), numbers(2 * 20 * DIM, 2));
    let attention = Attention::causal();
    let keys = attention.summarize(&shape, &k, 4, None).unwrap();
    let grid = grid_of(&attention, &shape, 8);
    let refused =
        |attention: &Attention, grid: &BlockGrid, q: &[f32], keys: &KeySummaries, tables: &Tables<'_>| {
            let scores = attention.block_scores(grid, q, keys, Estimate::MeanKey, Probe::default(), tables);
            scores.unwrap_err().argument().unwrap()
        };
    let none = Tables::new();
    assert_eq!(refused(&Attention::full(), &grid, &q, &keys, &none), "grid");
    assert_eq!(refused(&attention, &grid, &q[1..], &keys, &none), "q");
    let mut bad = q.clone();
    bad[17] = f32::NAN;
    assert_eq!(refused(&attention, &grid, &bad, &keys, &none), "q");
    // Finite before they are rotated.
    let far = vec![f32::MAX; q.len()];
    assert_eq!(refused(&attention.clone().with_positions(rope()), &grid, &far, &keys, &none), "q");
    let fewer = attention.summarize(&shape.with_kv_len(19).unwrap(), &k[..2 * 19 * DIM], 4, None).unwrap();
    assert_eq!(refused(&attention, &grid, &q, &fewer, &none), "summaries");
    let factor = attention.clone().with_positions(rope().with_harmonic_factor(16.0).unwrap());
    assert_eq!(refused(&factor, &grid, &q, &keys, &none), "positions");
    let ids = PositionIds::new(&[9; 6], &[7; 20]).unwrap();
    let with_ids = Tables::new().with_position_ids(&ids);
    let biased = attention.clone().with_positions(rope().with_bias(Bias::alibi()));
    assert_eq!(refused(&biased, &grid, &q, &keys, &with_ids), "position_ids");
    let short = PositionIds::new(&[9; 5], &[7; 20]).unwrap();
    let rotated = attention.clone().with_positions(rope());
    assert_eq!(refused(&rotated, &grid, &q, &keys, &Tables::new().with_position_ids(&short)), "position_ids");
    let documents = Documents::from_lengths(&[3, 2]).unwrap();
    assert_eq!(refused(&attention, &grid, &q, &keys, &Tables::new().with_documents(&documents)), "documents");
    let mut cache = HostCache::new(Staircase::paper(), &shape, StoredKeys::AfterRotation).unwrap();
    let sequence = cache.add();
    cache.append(sequence, &k, &k).unwrap();
    assert_eq!(refused(&attention, &grid, &q, &cache.summarize(sequence).unwrap(), &none), "summaries");
    let named = |error: prflash::Error| error.argument().unwrap();
    assert_eq!(named(attention.summarize(&shape, &k[1..], 4, None).unwrap_err()), "k");
    assert_eq!(named(attention.summarize(&shape, &k, 0, None).unwrap_err()), "group");
    let few = PositionIds::new(&[9; 6], &[7; 19]).unwrap();
    for attention in [&rotated, &attention] {
        assert_eq!(named(attention.summarize(&shape, &k, 4, Some(&few)).unwrap_err()), "position_ids");
    }
    let masses = |rows: &[usize]| attention.block_masses(&grid, &q, &keys, Estimate::Bound, rows, &none);
    assert_eq!(named(masses(&[6]).unwrap_err()), "rows");
    let dense = Schedule::dense(&grid).unwrap();
    let missing = |visited: &[&Schedule], lse: &[f32]| {
        named(attention.missing(&grid, &q, &keys, visited, lse, &none).unwrap_err())
    };
    assert_eq!(missing(&[&dense], &[0.0; 23]), "lse");
    for bad in [f32::NAN, f32::INFINITY] {
        let mut lse = [0.0; 24];
        lse[5] = bad;
        assert_eq!(missing(&[&dense], &lse), "lse");
    }
    let other = Schedule::dense(&grid.with_block_size(4).unwrap()).unwrap();
    assert_eq!(missing(&[&other], &[0.0; 24]), "visited");
}
