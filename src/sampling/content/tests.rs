//! Choosing by scores: invariants, and what is frozen.

use proptest::prelude::*;

use super::estimate::mean_largest;
use super::*;
use crate::sampling::{Granularity, ONE, Systematic};
use crate::{BlockGrid, Profile, Schedule, Seed, Shape};

fn grid(heads: usize, q_len: usize, kv_len: usize) -> BlockGrid {
    let shape = Shape::new(heads, heads, q_len, 8).unwrap().with_kv_len(kv_len).unwrap();
    BlockGrid::causal(&shape).with_block_size(4).unwrap()
}

/// Scores from numbers that look random, all blocks seen that causality leaves.
fn scores(grid: &BlockGrid, seed: u32) -> BlockScores {
    BlockScores::new(grid, |head, row| {
        let mass = |block| {
            f64::from(crate::random::hash_words(&[seed, head as u32, row as u32, block]) % 4096) / 512.0
        };
        let seen = 0..grid.dense_row(grid.first_query_block() + row as i64);
        let masses = (0..grid.key_blocks())
            .map(|block| if seen.contains(&block) { mass(block as u32) } else { f64::NEG_INFINITY });
        (seen.clone(), vec![masses.collect()])
    })
    .unwrap()
}

#[test]
fn refusals_name_the_argument() {
    let named = |error: crate::Error| error.argument().unwrap();
    assert_eq!(named(Participation::content(0).unwrap_err()), "blocks");
    assert_eq!(named(Participation::both(4, f64::NAN, 0.0).unwrap_err()), "tau");
    assert_eq!(named(Participation::both(4, 1.0, -1.0).unwrap_err()), "alpha");
    assert_eq!(named(Participation::content(4).unwrap().with_window_blocks(0).unwrap_err()), "window_blocks");
    assert_eq!(named(Probe::causal(0).unwrap_err()), "rows");
    assert_eq!(named(Probe::looking_ahead(0).unwrap_err()), "rows");
    for (kv_heads, head_dim, group, argument) in
        [(0, 8, 4, "kv_heads"), (1, 0, 4, "head_dim"), (1, 8, 0, "group")]
    {
        assert_eq!(named(KeySummaries::new(kv_heads, head_dim, group).unwrap_err()), argument);
    }
    for (kv_heads, head_dim, group, argument) in
        [(usize::MAX, 8, 4, "kv_heads"), (1, 1 << 40, 4, "head_dim"), (1, 8, usize::MAX, "group")]
    {
        let error = KeySummaries::new(kv_heads, head_dim, group).unwrap_err();
        assert!(error.is_too_large() && error.argument() == Some(argument), "{error}");
    }
    let mut keys = KeySummaries::new(2, 4, 3).unwrap();
    assert_eq!(keys.bytes_per_block(7), 3 * 4 * 6);
    assert_eq!(named(keys.append(&[0.0; 7]).unwrap_err()), "k");
    assert_eq!(named(keys.append(&[f32::NAN; 8]).unwrap_err()), "k");
    assert!(keys.is_empty());
    let grid = grid(2, 9, 20);
    let rows = |row: Vec<f64>| BlockScores::new(&grid, |_, _| (0..5, vec![row.clone()])).unwrap_err();
    assert_eq!((named(rows(vec![0.0; 4])), named(rows(vec![f64::NAN; 5]))), ("masses", "masses"));
    let million = BlockGrid::causal(&Shape::new(8, 8, 1 << 24, 8).unwrap());
    let error = BlockScores::new(&million, |_, _| (0..0, vec![])).unwrap_err();
    assert!(error.is_too_large() && error.argument() == Some("grid"), "{error}");
    let others = scores(&self::grid(2, 9, 24), 1);
    let content = Participation::content(2).unwrap();
    assert_eq!(named(Schedule::select(&grid, &content, &others, Seed::new(1)).unwrap_err()), "scores");
    assert_eq!(named(Schedule::select_rounds(&grid, &content, &scores(&grid, 1), 0).unwrap_err()), "rounds");
}

/// The mean of the largest of n normal numbers by its definition, `∫ x dΦ(x)ⁿ`.
#[test]
fn the_largest_of_normal_numbers() {
    for n in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
        let phi = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        let (steps, width) = (16_000, 1e-3);
        let at = |i: i32| f64::from(i - steps / 2) * width;
        let want: f64 = (0..steps)
            .map(|i| 0.5 * (at(i) + at(i + 1)) * (phi(at(i + 1)).powi(n) - phi(at(i)).powi(n)))
            .sum();
        assert!((mean_largest(n as usize) - want).abs() < 2e-4, "{n}: {want}");
    }
    assert!(mean_largest(24) > mean_largest(16) && mean_largest(24) < mean_largest(32));
    assert_eq!(mean_largest(1 << 20), mean_largest(1 << 10));
}

#[test]
fn appending_in_parts_is_appending_at_once() {
    let keys: Vec<f32> = (0..2 * 11 * 4).map(|i| ((i * 37 % 91) as f32).sin()).collect();
    let mut whole = KeySummaries::new(2, 4, 3).unwrap();
    whole.append(&keys).unwrap();
    let mut parts = KeySummaries::new(2, 4, 3).unwrap();
    for tokens in [0..1, 1..5, 5..5, 5..11] {
        let part: Vec<f32> = (0..2)
            .flat_map(|head| &keys[(head * 11 + tokens.start) * 4..(head * 11 + tokens.end) * 4])
            .copied()
            .collect();
        parts.append(&part).unwrap();
    }
    assert_eq!(whole, parts);
    assert_eq!((whole.groups(), whole.len(), whole.has_means()), (4, 11, true));
    let group = whole.group_of(1, 1);
    let token = |token: usize, c: usize| keys[(11 + token) * 4 + c];
    for c in 0..4 {
        let of = [3, 4, 5].map(|t| token(t, c));
        assert_eq!(group.least[c], of.iter().copied().fold(f32::INFINITY, f32::min));
        assert_eq!(group.largest[c], of.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    }
}

/// Sums that f32 doesn't hold are means that it does.
#[test]
fn means_of_the_largest_numbers() {
    let shape = Shape::new(1, 1, 1, 4).unwrap().with_kv_len(4).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(2).unwrap();
    let attention = crate::Attention::causal();
    let keys = [f32::MAX, f32::MAX, f32::MIN, 1.0].map(|x| [x; 4]).concat();
    let keys = attention.summarize(&shape, &keys, 2, None).unwrap();
    let masses = attention.block_masses(
        &grid,
        &[1.0, -1.0, 0.5, 0.0],
        &keys,
        Estimate::MeanKey,
        &[0],
        &crate::Tables::new(),
    );
    assert!(masses.unwrap().iter().all(|mass| mass.is_finite()));
}

/// Most keys at one end of the range: the mean lies near the largest product.
#[test]
fn no_estimate_is_above_the_bound() {
    let mut keys = KeySummaries::new(1, 1, 8).unwrap();
    keys.append(&[1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0]).unwrap();
    for keys in [keys.clone(), keys.with_8_bits()] {
        for q in [-3.0, 0.5, 3.0, 40.0] {
            let [saturated, bound] = [Estimate::Saturated, Estimate::Bound]
                .map(|estimate| estimate.of(&[q], &keys.group_of(0, 0), 8));
            assert!(saturated <= bound + 1e-9, "{saturated} above {bound} at {q}");
        }
    }
}

/// In 8 bits too, and no key is outside of what is kept.
#[test]
fn eight_bits_hold_every_key() {
    let keys: Vec<f32> =
        (0..2 * 40 * 6).map(|i| ((i * 37 % 91) as f32).sin() * [1.0, 30.0, 1e-3][i % 3]).collect();
    let mut whole = KeySummaries::new(2, 6, 7).unwrap();
    whole.append(&keys).unwrap();
    let whole = whole.with_8_bits();
    let mut parts = KeySummaries::new(2, 6, 7).unwrap().with_8_bits();
    for tokens in [0..1, 1..3, 3..20, 20..40] {
        let of_head = |head: usize| &keys[(head * 40 + tokens.start) * 6..(head * 40 + tokens.end) * 6];
        parts.append(&[of_head(0), of_head(1)].concat()).unwrap();
    }
    assert_eq!(whole, parts);
    assert_eq!((whole.has_8_bits(), whole.bytes_per_group()), (true, 20));
    for (head, token) in (0..2).flat_map(|head| (0..40).map(move |token| (head, token))) {
        let group = whole.group_of(head, token / 7);
        let (means, one) = group.sums.unwrap();
        assert_eq!(one, 1);
        for c in 0..6 {
            let key = keys[(head * 40 + token) * 6 + c];
            assert!((group.least[c]..=group.largest[c]).contains(&key), "{key} in {group:?}, channel {c}");
            // The scales are those of the largest channel.
            let width = group.largest[c] - group.least[c];
            assert!(means[c].abs() < 31.0 && (0.0..128.0).contains(&width));
        }
    }
}

#[test]
fn probes_come_before_the_rows_they_choose_for() {
    let grid = grid(1, 22, 30); // Queries at 8 … 29 in blocks of 4: 2 … 7.
    let probe = Probe::causal(2).unwrap();
    assert_eq!(probe.rows(&grid, 0), [0]);
    assert_eq!(probe.rows(&grid, 1), [2, 4]);
    assert_eq!(Probe::causal(9).unwrap().rows(&grid, 2), [5, 6, 7, 8]);
    assert_eq!(Probe::looking_ahead(2).unwrap().rows(&grid, 1), [5, 7]);
    assert_eq!(Probe::looking_ahead(4).unwrap().rows(&grid, 5), [20, 21]);
    // No more than a block has.
    assert_eq!(Probe::causal(usize::MAX).unwrap().rows(&grid, 2), [5, 6, 7, 8]);
    assert_eq!(Probe::looking_ahead(usize::MAX).unwrap().rows(&grid, 2), [8, 9, 10, 11]);
    assert!(probe.rows(&grid, 6).is_empty());
    let step = self::grid(1, 1, 30);
    assert_eq!((probe.rows(&step, 0), Probe::looking_ahead(7).unwrap().rows(&step, 0)), (vec![0], vec![0]));
}

/// A budget of everything is dense attention; a smaller one is met exactly in every row.
#[test]
fn budgets_are_met() {
    let grid = grid(3, 61, 61);
    let scores = scores(&grid, 3);
    for blocks in [1, 2, 5, 9, 15, 16, 99] {
        for participation in [
            Participation::content(blocks),
            Participation::distance(blocks),
            Participation::both(blocks, 0.5, 0.5),
            Participation::both(blocks, 3.0, 0.0),
        ] {
            let participation = participation.unwrap();
            let schedule = Schedule::select(&grid, &participation, &scores, Seed::new(5)).unwrap();
            for (group, row) in (0..3).flat_map(|group| (0..16).map(move |row| (group, row))) {
                let list = schedule.blocks(group, row);
                // The sink and the diagonal are there in any case.
                assert_eq!(list.len(), blocks.max(2).min(row + 1), "{participation}: {row}");
                assert!(list.contains(&0) && list.contains(&row));
                assert!(schedule.row(group, row).all(|entry| entry.ln_p <= 0.0 && entry.ln_p.is_finite()));
            }
            if blocks >= 16 {
                assert_eq!(schedule, Schedule::dense(&grid).unwrap());
            }
        }
    }
}

/// By distance alone the marginals are a profile's; by a high power of the share the choice is that
/// of the largest.
#[test]
fn the_ends_of_tau() {
    let grid = grid(1, 120, 120);
    let scores = scores(&grid, 8);
    let content =
        Schedule::select(&grid, &Participation::content(6).unwrap(), &scores, Seed::new(1)).unwrap();
    let steep = Participation::both(6, 64.0, 0.0).unwrap();
    let steep = Schedule::select(&grid, &steep, &scores, Seed::new(1)).unwrap();
    let same = (0..30).filter(|&row| content.blocks(0, row) == steep.blocks(0, row)).count();
    assert!(same >= 27, "{same} of 30 rows");

    let profile = Profile::budget(6.0).unwrap();
    let mut counts = [[0u32; 30]; 2];
    for seed in 0..4000 {
        let seed = Seed::new(seed);
        let ours = Schedule::select(&grid, &Participation::distance(6).unwrap(), &scores, seed).unwrap();
        let theirs = Schedule::sample(&grid, &profile, &Systematic, seed).unwrap();
        for (count, schedule) in counts.iter_mut().zip([ours, theirs]) {
            schedule.blocks(0, 29).into_iter().for_each(|block| count[block] += 1);
        }
    }
    for block in 0..30 {
        let [ours, theirs] = counts.map(|count| f64::from(count[block]) / 4000.0);
        // Five standard errors of a difference.
        assert!((ours - theirs).abs() < 5.0 * (2.0 * 0.25f64 / 4000.0).sqrt(), "{block}: {ours}, {theirs}");
    }
}

/// Draws have the marginals that their weights say.
#[test]
fn weights_are_logarithms_of_marginals() {
    let grid = grid(1, 1, 80);
    let scores = scores(&grid, 4);
    let participation = Participation::both(5, 1.0, 0.5).unwrap();
    let draws = 20_000;
    let (mut counts, mut weights) = ([0u32; 20], [f32::NAN; 20]);
    for seed in 0..draws {
        let schedule = Schedule::select(&grid, &participation, &scores, Seed::new(seed.into())).unwrap();
        for entry in schedule.row(0, 0) {
            counts[entry.block] += 1;
            assert!(weights[entry.block].is_nan() || weights[entry.block] == entry.ln_p);
            weights[entry.block] = entry.ln_p;
        }
    }
    for block in (0..20).filter(|&block| counts[block] > 0) {
        let (p, got) = (f64::from(weights[block]).exp(), f64::from(counts[block]) / f64::from(draws));
        let error = (p * (1.0 - p) / f64::from(draws)).sqrt().max(1e-9);
        assert!((got - p).abs() < 5.0 * error, "{block}: {got} against {p}");
    }
    assert!(counts.iter().filter(|&&count| count > 0 && count < draws).count() > 5);
}

#[test]
fn heads_that_share_a_list() {
    let (one, shared) = (grid(2, 1, 40), grid(2, 1, 40).with_granularity(Granularity::Shared));
    let mut masses = [[0.0; 10]; 2];
    masses[0][3] = 6.0; // Head 0 has nearly all there,
    masses[1][5] = 2.5; // head 1 a bit more than elsewhere
    masses[0][7] = 4.0; // and both something here.
    masses[1][7] = 2.2;
    let scores = BlockScores::new(&one, |head, _| (0..10, vec![masses[head].to_vec()])).unwrap();
    let select = |grid: &BlockGrid, blocks, pool| {
        let participation = Participation::content(blocks).unwrap().with_pool(pool);
        Schedule::select(grid, &participation, &scores, Seed::new(0)).unwrap().blocks(0, 0)
    };
    assert_eq!(select(&one, 3, Pool::Mean), [0, 3, 9]);
    assert_eq!(select(&shared, 3, Pool::Mean), [0, 3, 9]);
    assert_eq!(select(&shared, 4, Pool::Largest), [0, 3, 5, 9]);
    let mean = |block| {
        masses.map(|of| f64::exp(of[block]) / of.map(f64::exp).iter().sum::<f64>()).iter().sum::<f64>()
    };
    assert_eq!(select(&shared, 4, Pool::Mean), if mean(5) > mean(7) { [0, 3, 5, 9] } else { [0, 3, 7, 9] });
}

/// Equal scores: the nearer block. Unseen blocks take no part, those that no probe saw come last.
#[test]
fn ties_and_masks() {
    let grid = grid(1, 1, 40);
    let flat = BlockScores::new(&grid, |_, _| (0..10, vec![vec![0.5; 10]])).unwrap();
    let content = Participation::content(4).unwrap();
    assert_eq!(Schedule::select(&grid, &content, &flat, Seed::new(0)).unwrap().blocks(0, 0), [0, 7, 8, 9]);
    let masked = BlockScores::new(&grid, |_, _| (6..10, vec![vec![0.5; 10]])).unwrap();
    assert_eq!(Schedule::select(&grid, &content, &masked, Seed::new(0)).unwrap().blocks(0, 0), [6, 7, 8, 9]);
    let unseen = |block| if block == 8 { f64::NEG_INFINITY } else { -9.0 };
    let unseen = BlockScores::new(&grid, |_, _| (5..10, vec![(0..10).map(unseen).collect()])).unwrap();
    assert_eq!(Schedule::select(&grid, &content, &unseen, Seed::new(0)).unwrap().blocks(0, 0), [5, 6, 7, 9]);
    assert_eq!((masked.log2_share(0, 0, 5), masked.log2_share(0, 0, 99)), (None, None));
    assert!((flat.log2_share(0, 0, 2).unwrap() - 0.1f64.log2()).abs() < 2e-3);
}

#[test]
fn rounds_are_a_partition_in_the_order_of_scores() {
    for granularity in [Granularity::Head, Granularity::Shared] {
        let grid = grid(2, 47, 60).with_granularity(granularity);
        let scores = scores(&grid.with_granularity(Granularity::Head), 6);
        let participation = Participation::content(4).unwrap().with_window_blocks(2).unwrap();
        for rounds in [1, 2, 3, 9] {
            let parts = Schedule::select_rounds(&grid, &participation, &scores, rounds).unwrap();
            let first = Schedule::select(&grid, &participation, &scores, Seed::new(0)).unwrap();
            for (group, row) in
                (0..grid.groups()).flat_map(|group| (0..grid.query_blocks()).map(move |row| (group, row)))
            {
                let mut all: Vec<usize> = parts.iter().flat_map(|part| part.blocks(group, row)).collect();
                assert!(rounds == 1 || parts[0].blocks(group, row) == first.blocks(group, row));
                all.sort_unstable();
                let dense = grid.dense_row(grid.first_query_block() + row as i64);
                assert_eq!(all, (0..dense).collect::<Vec<_>>());
            }
        }
    }
}

/// Frozen: another list for these would be another schedule for everybody.
#[test]
fn value_stability() {
    let grid = grid(2, 100, 100);
    let scores = scores(&grid, 11);
    let row = |participation: Participation| {
        Schedule::select(&grid, &participation, &scores, Seed::new(2024)).unwrap().blocks(1, 24)
    };
    let rows = [Participation::content(6), Participation::both(6, 0.5, 0.5), Participation::distance(6)];
    assert_eq!(rows.map(|participation| row(participation.unwrap())), FROZEN);
}

const FROZEN: [[usize; 6]; 3] = [[0, 2, 7, 9, 16, 24], [0, 6, 9, 16, 21, 24], [0, 9, 17, 21, 23, 24]];

proptest! {
    /// Bounds from 8 bits hold to the last bit, whatever the channels' sizes.
    #[test]
    fn eight_bits_are_rounded_outwards(
        keys in prop::collection::vec(
            (-1.0f32..1.0, -30i32..30).prop_map(|(x, power)| x * 2f32.powi(power)),
            3 * 5,
        ),
        same in prop::bool::ANY,
    ) {
        let number = |(i, &x): (usize, &f32)| if same && i % 3 == 0 { keys[0] } else { x };
        let keys: Vec<f32> = keys.iter().enumerate().map(number).collect();
        let mut summaries = KeySummaries::new(1, 3, 5).unwrap();
        summaries.append(&keys).unwrap();
        let summaries = summaries.with_8_bits();
        let group = summaries.group_of(0, 0);
        for (i, key) in keys.iter().enumerate() {
            prop_assert!((group.least[i % 3]..=group.largest[i % 3]).contains(key), "{} in {:?}", key, group);
        }
    }

    /// Schedules are well-formed, depend on nothing but scores and seed, and don't notice what is
    /// added to all masses of a row.
    #[test]
    fn rows_hold(
        q_len in 1usize..40,
        more in 0usize..40,
        blocks in 1usize..12,
        tau in 0.0f64..4.0,
        alpha in 0.0f64..3.0,
        seed: u32,
        shift in -50.0f64..50.0,
    ) {
        let grid = grid(2, q_len, q_len + more);
        let scores = scores(&grid, seed);
        let participation = Participation::both(blocks, tau, alpha).unwrap();
        let schedule = Schedule::select(&grid, &participation, &scores, Seed::new(seed.into())).unwrap();
        for (group, row) in (0..2).flat_map(|group| (0..grid.query_blocks()).map(move |row| (group, row))) {
            let list = schedule.blocks(group, row);
            let dense = grid.dense_row(grid.first_query_block() + row as i64);
            prop_assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(list.last(), Some(&(dense - 1)));
            prop_assert_eq!(list.len(), blocks.max(2).min(dense));
        }
        let shifted = BlockScores::new(&grid, |head, row| {
            let seen = 0..grid.dense_row(grid.first_query_block() + row as i64);
            let masses = (0..grid.key_blocks()).map(|block| {
                let drawn = crate::random::hash_words(&[seed, head as u32, row as u32, block as u32]);
                let mass = f64::from(drawn % 4096) / 512.0;
                if seen.contains(&block) { mass + shift } else { f64::NEG_INFINITY }
            });
            (seen.clone(), vec![masses.collect()])
        }).unwrap();
        let (rows, columns) = (grid.query_blocks(), grid.key_blocks());
        for at in 0..2 * rows * columns {
            let (head, row, block) = (at / columns / rows, at / columns % rows, at % columns);
            let [a, b] = [&scores, &shifted].map(|scores| scores.log2_share(head, row, block));
            prop_assert_eq!(a.is_some(), b.is_some());
            prop_assert!(a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= 3.0 / 1024.0));
        }
    }

    /// Sums of probabilities are the budget, to the last bit.
    #[test]
    fn drawn_counts_never_vary(seed: u32, blocks in 2usize..20, tau in 0.0f64..8.0) {
        let grid = grid(1, 1, 160);
        let scores = scores(&grid, seed);
        let participation = Participation::both(blocks, tau, 1.0).unwrap();
        for draw in 0..8 {
            let schedule = Schedule::select(&grid, &participation, &scores, Seed::new(draw)).unwrap();
            prop_assert_eq!(schedule.row(0, 0).len(), blocks);
            prop_assert!(schedule.row(0, 0).all(|entry| f64::from(entry.ln_p) >= -(ONE as f64).ln()));
        }
    }
}

/// As many blocks as another schedule has, row by row: its pinned ones, then the best; in a row of
/// a budget those that `select` takes.
#[test]
fn as_many_blocks_as_another_schedule() {
    let grid = grid(4, 64, 64).with_granularity(Granularity::KvHead);
    let scores = scores(&grid, 3);
    let profile = Profile::harmonic_with(4.0, 1.0).unwrap();
    let drawn = Schedule::sample(&grid, &profile, &Systematic, Seed::new(5)).unwrap();
    let like = crate::sampling::content_like(&drawn, &profile, &scores).unwrap();
    let mut better = 0;
    for group in 0..grid.groups() {
        for row in 0..grid.query_blocks() {
            let blocks = like.blocks(group, row);
            assert_eq!(blocks.len(), drawn.blocks(group, row).len());
            assert!(blocks.contains(&0) && blocks.contains(&row));
            let budget = Participation::content(blocks.len()).unwrap();
            let selected = Schedule::select(&grid, &budget, &scores, Seed::new(1)).unwrap();
            assert_eq!(blocks, selected.blocks(group, row));
            better += usize::from(blocks != drawn.blocks(group, row));
        }
    }
    assert!(better > 10, "{better} rows differ");
    let other = self::scores(&self::grid(4, 64, 68), 3);
    let refused = crate::sampling::content_like(&drawn, &profile, &other).unwrap_err();
    assert_eq!(refused.argument(), Some("scores"));
}
