//! Schedules: frozen values, exact marginals, costs, and everything a list must satisfy. No GPU.

mod frequencies;

use self::frequencies::allowed;
use prflash::sampling::{
    Bernoulli, Entry, Granularity, Renewal, RowColumn, RowOrder, Sampler, Segment, Workers, expected_blocks,
    partition_rounds, sink_window_like, uniform_like,
};
use prflash::{BlockGrid, Profile, Schedule, Seed, Shape, Systematic};
use proptest::prelude::*;

fn shape(heads: usize, kv_heads: usize, q_len: usize, kv_len: usize) -> Shape {
    Shape::new(heads, kv_heads, q_len, 64).unwrap().with_kv_len(kv_len).unwrap()
}

fn sample(grid: &BlockGrid, profile: &Profile, seed: u64) -> Schedule {
    Schedule::sample(grid, profile, &Systematic, Seed::new(seed)).unwrap()
}

/// A changed schedule is a breaking change: seeds that people published would mean something else.
#[test]
fn frozen_schedules() {
    let grid = BlockGrid::causal(&shape(2, 1, 1024, 1024));
    let schedule = sample(&grid, &Profile::harmonic(), 2024);
    let rows = |group| [3, 9, 15].map(|row| schedule.blocks(group, row));
    assert_eq!(rows(0), FROZEN_HEAD_0.map(<[usize]>::to_vec));
    assert_eq!(rows(1), FROZEN_HEAD_1.map(<[usize]>::to_vec));
    let odd = Profile::harmonic_with(2.5, 1.75).unwrap().with_window_blocks(2).unwrap().with_sink_blocks(2);
    let full = BlockGrid::full(&shape(1, 1, 1024, 1024));
    let schedule =
        Schedule::sample(&full, &odd, &Systematic, Seed::new(7).layer(3).round(1).sequence(2)).unwrap();
    assert_eq!(schedule.blocks(0, 8), FROZEN_FULL);
    assert_eq!(schedule.row(0, 8).map(|e| e.ln_p.to_bits()).fold(0u32, u32::wrapping_add), FROZEN_WEIGHTS);
}

// Computed once by an independent Python program from the definitions in the docs.
const FROZEN_HEAD_0: [&[usize]; 3] = [&[0, 1, 3], &[0, 5, 8, 9], &[0, 8, 13, 15]];
const FROZEN_HEAD_1: [&[usize]; 3] = [&[0, 3], &[0, 4, 8, 9], &[0, 9, 13, 15]];
const FROZEN_FULL: &[usize] = &[0, 1, 4, 7, 8, 9, 12];
const FROZEN_WEIGHTS: u32 = 2_141_983_154;

/// Rows and columns come from one set: given that a row is in, a block is with probability p(d);
/// and what is kept is a triangle.
#[test]
fn row_column_keeps_a_principal_submatrix() {
    const ROUNDS: u32 = 20_000;
    const T: usize = 12;
    let grid = BlockGrid::causal(&shape(1, 1, 64 * T, 64 * T));
    let profile = Profile::harmonic().with_sink_blocks(0);
    let (mut inside, mut pairs) = ([0u32; T], [[0u32; T]; T]);
    for round in 0..ROUNDS {
        let schedule = Schedule::sample(&grid, &profile, &RowColumn, Seed::new(5).round(round)).unwrap();
        let set = schedule.blocks(0, T - 1);
        for row in 0..T {
            let want: Vec<usize> = match set.contains(&row) {
                true => set.iter().copied().filter(|&block| block <= row).collect(),
                false => vec![row],
            };
            assert_eq!(schedule.blocks(0, row), want, "round {round}, row {row}");
        }
        for &row in &set {
            inside[row] += 1;
            set.iter().filter(|&&block| block <= row).for_each(|&block| pairs[row][block] += 1);
        }
    }
    for row in 0..T {
        let p = profile.probability(T - 1 - row);
        let frequency = f64::from(inside[row]) / f64::from(ROUNDS);
        assert!((frequency - p).abs() <= allowed(T, ROUNDS), "row {row}: {frequency} against {p}");
        for (block, &count) in pairs[row].iter().enumerate().take(row + 1) {
            let p = profile.probability(row - block);
            let frequency = f64::from(count) / f64::from(inside[row]);
            let allowed = allowed(T * T, inside[row]);
            assert!(
                (frequency - p).abs() <= allowed,
                "({row}, {block}): {frequency} against {p} ± {allowed}"
            );
        }
    }
}

#[test]
fn segments_are_dense_triangles() {
    let grid = BlockGrid::causal(&shape(2, 1, 64 * 50, 64 * 50));
    let profile = Profile::harmonic().with_sink_blocks(0);
    for round in 0..200 {
        let schedule = Schedule::sample(&grid, &profile, &Segment, Seed::new(3).round(round)).unwrap();
        for group in 0..2 {
            let mut start = 0;
            for row in 0..50 {
                let blocks = schedule.blocks(group, row);
                if blocks[0] == row {
                    start = row; // a new segment
                }
                assert_eq!(blocks, (start..=row).collect::<Vec<_>>(), "round {round}, row {row}");
            }
        }
    }
}

/// Chunked prefill and decode draw the rows of one global schedule: a row depends on its query
/// block, not on which rows or how many keys there are. `RowColumn` can't: its index set starts
/// from the last key block.
#[test]
fn rows_of_chunks_are_those_of_the_whole() {
    const TOKENS: usize = 64 * 30 + 13;
    let heads_of = |q_len, kv_len| BlockGrid::causal(&shape(2, 1, q_len, kv_len));
    let harmonic = Profile::harmonic_with(2.0, 1.0).unwrap().with_sink_blocks(2);
    let budgets = [
        Profile::budget(6.0).unwrap().with_floor(0.01).unwrap(),
        Profile::budget_with(6.5, 2.0).unwrap(),
        Profile::allocated(5.0, &[4.0, 2.0, 1.0, 0.5]).unwrap().with_window_blocks(2).unwrap(),
    ];
    let cases: [(&dyn Sampler, &[Profile]); 4] =
        [(&Systematic, &budgets), (&Bernoulli, &budgets), (&Renewal, &[]), (&Segment, &[])];
    for (sampler, budgets) in cases {
        for profile in budgets.iter().chain([&harmonic]) {
            let draw = |grid| Schedule::sample(&grid, profile, sampler, Seed::new(5)).unwrap();
            let whole = draw(heads_of(TOKENS, TOKENS));
            for chunk in [1, 37, 64, 100, 640, 1000] {
                // Decode: the last rows are enough.
                let mut start = if chunk == 1 { TOKENS - 70 } else { 0 };
                while start < TOKENS {
                    let end = (start + chunk).min(TOKENS);
                    let part = draw(heads_of(end - start, end));
                    assert_eq!(whole.chunk(start..end).unwrap(), part, "tokens {start}..{end}");
                    for row in 0..part.grid().query_blocks() {
                        let of_whole = start / 64 + row;
                        for group in 0..2 {
                            assert!(
                                part.row(group, row).eq(whole.row(group, of_whole)),
                                "{}, {profile}, tokens {start}..{end}, row {of_whole}",
                                sampler.name()
                            );
                        }
                    }
                    start = end;
                }
            }
        }
    }
}

/// Chunks of any schedule: of lists that no sampler draws for a chunk, of one that begins late or
/// before the first key, of chunks of chunks.
#[test]
fn chunks_of_schedules() {
    let grid = |q_len, kv_len| {
        let grid = BlockGrid::causal(&shape(4, 2, q_len, kv_len)).with_block_size(16).unwrap();
        grid.with_granularity(Granularity::KvHead)
    };
    let profile = Profile::harmonic_with(2.0, 1.0).unwrap();
    let whole = Schedule::sample(&grid(300, 300), &profile, &RowColumn, Seed::new(3)).unwrap();
    for queries in [0..300, 0..1, 17..40, 299..300, 100..100, 0..0] {
        let chunk = whole.chunk(queries.clone()).unwrap();
        assert_eq!(*chunk.grid(), grid(queries.len(), queries.end));
        // Lists that are checked as a caller's own.
        let lists: Vec<Vec<Entry>> = (0..2)
            .flat_map(|group| (queries.start / 16..queries.end.div_ceil(16)).map(move |row| (group, row)))
            .filter(|_| !queries.is_empty())
            .map(|(group, row)| whole.row(group, row).collect())
            .collect();
        assert_eq!(chunk, Schedule::from_entries(chunk.grid(), &lists).unwrap(), "{queries:?}");
    }
    assert_eq!(whole.chunk(0..300).unwrap(), whole);
    let late = whole.chunk(50..200).unwrap();
    assert_eq!(late.chunk(20..90).unwrap_err().argument(), Some("queries"));
    assert_eq!(late.chunk(170..200).unwrap(), whole.chunk(170..200).unwrap());
    let dense = |q_len, kv_len| Schedule::dense(&grid(q_len, kv_len)).unwrap();
    assert_eq!(dense(90, 300).chunk(210..250).unwrap(), dense(40, 250));
    // More queries than keys: those before the first key see nothing and have no position.
    assert_eq!(dense(80, 50).chunk(0..30).unwrap(), dense(30, 30));
    #[expect(clippy::reversed_empty_ranges)]
    let refused = [0..301, 20..10, 301..301];
    for queries in refused {
        assert_eq!(whole.chunk(queries).unwrap_err().argument(), Some("queries"));
    }
    let full = Schedule::dense(&BlockGrid::full(&shape(4, 2, 30, 30))).unwrap();
    assert_eq!(full.chunk(0..30).unwrap_err().argument(), Some("schedule"));
}

#[test]
fn every_list_may_have_a_profile_and_a_correction_of_its_own() {
    let grid = BlockGrid::causal(&shape(3, 1, 64 * 40, 64 * 40));
    let profiles = [
        Profile::harmonic(),
        Profile::budget_with(7.0, 2.0).unwrap(),
        Profile::allocated(5.0, &[2.0, 1.0]).unwrap(),
    ];
    let each = Schedule::sample_each(&grid, &profiles, &Systematic, Seed::new(8)).unwrap();
    for (group, profile) in profiles.iter().enumerate() {
        let alone = sample(&grid, profile, 8);
        for row in 0..40 {
            assert!(each.row(group, row).eq(alone.row(group, row)), "list {group}, row {row}");
        }
        let (kept, expected) = (each.list_blocks(group) as f64, expected_blocks(&grid, profile));
        assert!((kept - expected).abs() < 40.0, "list {group}: {kept} blocks, {expected} expected");
    }
    let same = vec![Profile::harmonic(); 3];
    let schedule = Schedule::sample_each(&grid, &same, &Systematic, Seed::new(8)).unwrap();
    assert_eq!(schedule, sample(&grid, &Profile::harmonic(), 8));

    let betas = [1.0, 0.0, 0.5];
    let corrected = each.clone().with_corrections(&betas).unwrap();
    for (group, beta) in betas.iter().enumerate() {
        for row in 0..40 {
            for (entry, before) in corrected.row(group, row).zip(each.row(group, row)) {
                assert_eq!(entry.block, before.block);
                assert_eq!(entry.ln_p.to_bits(), (before.ln_p * beta + 0.0).to_bits());
            }
        }
    }
    let named = |r: prflash::Result<Schedule>| r.unwrap_err().argument().map(str::to_owned);
    assert_eq!(
        named(Schedule::sample_each(&grid, &profiles[..2], &Systematic, Seed::new(8))).as_deref(),
        Some("profiles")
    );
    for betas in [vec![0.5, 0.5], vec![0.5, 0.5, 1.5], vec![0.5, f32::NAN, 0.5]] {
        assert_eq!(named(each.clone().with_corrections(&betas)).as_deref(), Some("betas"));
    }
}

#[test]
fn rows_are_ordered_longest_first() {
    let grid = BlockGrid::causal(&shape(2, 1, 64 * 4, 64 * 4));
    let lists: [&[usize]; 8] = [&[0], &[0, 1], &[2], &[0, 3], &[0], &[1], &[0, 1, 2], &[3]];
    let schedule = Schedule::from_block_lists(&grid, &lists).unwrap();
    assert_eq!(schedule.row_order(RowOrder::LongestFirst), [2, 3, 1, 0]);
    assert_eq!(schedule.row_order(RowOrder::Paired), [2, 0, 3, 1]);
    // In two runs: 3 1 1 1 | 2 1 1 2.
    assert_eq!(schedule.load_balance(Workers::Static(2), RowOrder::Paired).makespan, 6);
    // Two workers, each taking the next of 3 1 | 1 2 | 2 1 | 1 1 (rows 2, 3, 1, 0) when free.
    let balance = schedule.load_balance(Workers::Dynamic(2), RowOrder::LongestFirst);
    assert_eq!((balance.makespan, balance.longest, balance.mean, balance.ideal), (6, 3, 1.5, 6.0));
    assert_eq!(
        schedule.load_balance(Workers::Dynamic(0), RowOrder::AsIs).makespan,
        12,
        "at least one worker"
    );
    assert_eq!(schedule.load_balance(Workers::Dynamic(100), RowOrder::AsIs).ratio(), 1.0);
    assert_eq!(schedule.memory_bytes(), 4 * (9 + 2 * 12));

    // Causal rows grow: ascending they leave the longest for the end.
    let grid = BlockGrid::causal(&shape(4, 1, 64 * 64, 64 * 64));
    for profile in [Profile::dense(), Profile::harmonic()] {
        let schedule = sample(&grid, &profile, 1);
        let ratio = |order| schedule.load_balance(Workers::Dynamic(24), order).ratio();
        let (as_is, late, longest) =
            (ratio(RowOrder::AsIs), ratio(RowOrder::LateFirst), ratio(RowOrder::LongestFirst));
        assert!(longest <= late && late <= as_is && longest < 1.05, "{profile}: {as_is}, {late}, {longest}");
        for workers in [2, 4, 16] {
            let ratio = |order| schedule.load_balance(Workers::Static(workers), order).ratio();
            let (late, paired) = (ratio(RowOrder::LateFirst), ratio(RowOrder::Paired));
            assert!(paired < 1.1 && paired < late, "{profile}, {workers} runs: {late}, {paired}");
        }
    }
    let empty = Schedule::dense(&BlockGrid::causal(&shape(1, 1, 0, 0))).unwrap();
    assert_eq!(
        (
            empty.load_balance(Workers::Dynamic(3), RowOrder::LateFirst).ratio(),
            empty.row_order(RowOrder::LongestFirst)
        ),
        (1.0, vec![])
    );
}

#[test]
fn groups_follow_the_granularity() {
    let grid = BlockGrid::causal(&shape(6, 2, 64 * 40, 64 * 40));
    for (granularity, groups, per_group) in
        [(Granularity::Head, 6, 1), (Granularity::KvHead, 2, 3), (Granularity::Shared, 1, 6)]
    {
        let grid = grid.with_granularity(granularity);
        assert_eq!((grid.groups(), grid.heads_per_group()), (groups, per_group));
        let schedule = sample(&grid, &Profile::harmonic(), 6);
        let distinct: std::collections::HashSet<_> = (0..groups)
            .map(|group| (0..40).map(|row| schedule.blocks(group, row)).collect::<Vec<_>>())
            .collect();
        assert_eq!(distinct.len(), groups, "every list group draws for itself");
    }
}

#[test]
fn own_lists_are_checked() {
    let grid = BlockGrid::causal(&shape(1, 1, 192, 192));
    let named = |lists: &[&[usize]]| {
        Schedule::from_block_lists(&grid, lists).unwrap_err().argument().map(str::to_owned)
    };
    let lists = Some("lists".to_owned());
    assert_eq!(named(&[&[0], &[0]]), lists, "one list a row");
    assert_eq!(named(&[&[1], &[0], &[0]]), lists, "past the diagonal");
    assert_eq!(named(&[&[0], &[1, 0], &[0]]), lists, "not ascending");
    assert_eq!(named(&[&[0], &[0, 0], &[0]]), lists, "twice");
    for ln_p in [f32::NAN, 0.5, f32::NEG_INFINITY] {
        let lists = [vec![], vec![], vec![Entry { block: 0, ln_p }]];
        assert!(Schedule::from_entries(&grid, &lists).unwrap_err().is_invalid_argument());
    }
    let empty = Schedule::from_block_lists::<[usize; 0]>(&grid, &[[], [], []]).unwrap();
    assert_eq!((empty.visited_blocks(), empty.density()), (0, 0.0));
    assert_eq!(empty.row(7, 7).len(), 0, "out of range is empty");
}

#[test]
fn visited_pairs_of_a_dense_schedule_are_those_of_dense_attention() {
    for (q_len, kv_len, causal) in
        [(300, 300, true), (70, 300, true), (300, 70, true), (300, 130, false), (5, 0, true)]
    {
        let shape = shape(6, 2, q_len, kv_len);
        for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
            let grid = if causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
            let dense = Schedule::dense(&grid.with_granularity(granularity)).unwrap();
            let flops = 2.0 * (64 + 64) as f64 * dense.visited_pairs() as f64;
            assert_eq!(flops, shape.dense_flops(causal), "{q_len} × {kv_len}, causal {causal}");
        }
    }
}

#[test]
fn a_schedule_draws_itself() {
    let grid = BlockGrid::causal(&shape(1, 1, 256, 256));
    let schedule = Schedule::from_block_lists::<&[usize]>(&grid, &[&[0], &[0, 1], &[2], &[0, 2, 3]]).unwrap();
    let picture = schedule.to_string();
    assert_eq!(
        picture,
        "causal 4 × 4 blocks of 64 tokens, 1 list(s): 7 of 10 block pairs (70.0%)\n█   \n██  \n··█ \n█·██\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_is_well_formed(
        q_len in 0usize..700, kv_len in 0usize..700, block_size in 1usize..90, causal: bool, seed: u64,
        a in 0.1f64..20.0, alpha in 0.0f64..3.0, sinks in 0usize..4, window in 1usize..4, which in 0usize..5,
    ) {
        let samplers: [&dyn Sampler; 5] = [&Systematic, &Bernoulli, &Renewal, &Segment, &RowColumn];
        let sampler = samplers[which];
        let shape = shape(2, 1, q_len, kv_len);
        let grid = if causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let grid = grid.with_block_size(block_size).unwrap();
        let profile =
            Profile::harmonic_with(a, alpha).unwrap().with_sink_blocks(sinks).with_window_blocks(window).unwrap();
        let schedule = Schedule::sample(&grid, &profile, sampler, Seed::new(seed)).unwrap();
        prop_assert_eq!(&schedule, &Schedule::sample(&grid, &profile, sampler, Seed::new(seed)).unwrap());
        for group in 0..2 {
            for row in 0..grid.query_blocks() {
                let absolute = grid.first_query_block() + row as i64;
                let blocks = schedule.blocks(group, row);
                prop_assert!(blocks.is_sorted_by(|a, b| a < b));
                prop_assert!(blocks.iter().all(|&block| block < grid.dense_row(absolute)));
                for block in 0..grid.dense_row(absolute) {
                    let distance = (absolute - block as i64).unsigned_abs() as usize;
                    let entry = schedule.find(group, row, block);
                    let pinned = block < sinks || distance < window;
                    prop_assert!(!pinned || entry.is_some(), "pinned block {} of row {}", block, absolute);
                    if let Some(entry) = entry {
                        let p = if pinned { 1.0 } else { profile.probability(distance) };
                        prop_assert!((f64::from(entry.ln_p) - p.ln()).abs() < 1e-6 * (1.0 + p.ln().abs()));
                    }
                }
                if causal && absolute >= 0 && grid.dense_row(absolute) as i64 == absolute + 1 {
                    prop_assert_eq!(blocks.last().copied(), Some(absolute as usize), "the diagonal is last");
                }
            }
        }
        // The transpose holds the same pairs, and the baselines cost the same in every row.
        let columns = schedule.transpose();
        let pairs: usize =
            (0..2).flat_map(|g| (0..grid.key_blocks()).map(move |j| (g, j))).map(|(g, j)| columns.column(g, j).len()).sum();
        prop_assert_eq!(pairs as u64, schedule.visited_blocks());
        for group in 0..2 {
            for block in 0..grid.key_blocks() {
                for &(row, ln_p) in columns.column(group, block) {
                    prop_assert_eq!(schedule.find(group, row, block).map(|e| e.ln_p), Some(ln_p));
                }
            }
        }
        let others = [
            sink_window_like(&schedule, &profile).unwrap(),
            uniform_like(&schedule, &profile, Seed::new(seed)).unwrap(),
        ];
        for other in others {
            for group in 0..2 {
                for row in 0..grid.query_blocks() {
                    prop_assert_eq!(other.row(group, row).len(), schedule.row(group, row).len());
                }
            }
        }
    }

    #[test]
    fn dense_profiles_keep_everything(q_len in 0usize..300, kv_len in 0usize..300, causal: bool, seed: u64) {
        let shape = shape(2, 1, q_len, kv_len);
        let grid = if causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        let grid = grid.with_block_size(16).unwrap();
        let samplers: [&dyn Sampler; 5] = [&Systematic, &Bernoulli, &Renewal, &Segment, &RowColumn];
        for sampler in samplers {
            if sampler.name() == "row_column" && q_len > kv_len && !causal {
                continue; // queries before the first key are in no index set of key blocks
            }
            let sampled = Schedule::sample(&grid, &Profile::dense(), sampler, Seed::new(seed)).unwrap();
            prop_assert_eq!(sampled.density(), 1.0, "{}", sampler.name());
            prop_assert_eq!(&sampled, &Schedule::dense(&grid).unwrap(), "{}", sampler.name());
        }
    }
}

#[test]
fn partition_rounds_visit_every_pair_once() {
    for (q_len, kv_len, causal) in [(900, 900, true), (64, 900, true), (300, 100, true), (300, 400, false)] {
        let shape = shape(2, 1, q_len, kv_len);
        let grid = if causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        for rounds in [1, 2, 5] {
            let schedules = partition_rounds(&grid, &Profile::harmonic(), Seed::new(4), rounds).unwrap();
            assert_eq!(schedules.len(), rounds);
            for group in 0..2 {
                for row in 0..grid.query_blocks() {
                    let mut all: Vec<usize> = schedules.iter().flat_map(|s| s.blocks(group, row)).collect();
                    all.sort_unstable();
                    let allowed = grid.dense_row(grid.first_query_block() + row as i64);
                    assert_eq!(all, (0..allowed).collect::<Vec<_>>(), "{rounds} rounds, row {row}");
                }
            }
        }
    }
    // What is never drawn is left to the last round: from distance 3 on, but for the sink.
    let grid = BlockGrid::causal(&shape(1, 1, 640, 640));
    let schedules = partition_rounds(&grid, &Profile::deduction(0.7).unwrap(), Seed::new(4), 3).unwrap();
    let far: Vec<usize> = (1..=6).collect();
    assert!(schedules[2].blocks(0, 9).starts_with(&far) && schedules[0].blocks(0, 9)[0] == 0);
    let grid = BlockGrid::causal(&shape(1, 1, 64, 64));
    let named = |profile: &Profile, rounds| {
        partition_rounds(&grid, profile, Seed::new(1), rounds).unwrap_err().argument().map(str::to_owned)
    };
    assert_eq!(named(&Profile::harmonic(), 0).as_deref(), Some("rounds"));
    assert_eq!(named(&Profile::budget(4.0).unwrap(), 2).as_deref(), Some("profile"));
}
