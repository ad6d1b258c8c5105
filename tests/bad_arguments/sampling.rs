//! Profiles, samplers, schedules, rounds, re-shaping and their statistics.

use prflash::limits::{MAX_DISTANCES, MAX_ELEMENTS, MAX_ROUNDS, MAX_WALK};
use prflash::sampling::{
    Bernoulli, DistanceFrequencies, Entry, Renewal, Reshaping, RowColumn, RowOrder, RowSpan, Sampler,
    Segment, Workers, expected_blocks, partition_rounds, sink_window_like, uniform_like,
};
use prflash::{BlockGrid, Profile, Schedule, Seed, Systematic};

use super::runner::{Case, tell};
use super::sizes::{accepted, grid, small_grid};

const ONE: u64 = 1 << 32;
const SAMPLERS: [&dyn Sampler; 5] = [&Systematic, &Bernoulli, &Renewal, &Segment, &RowColumn];
const ORDERS: [RowOrder; 4] = [RowOrder::AsIs, RowOrder::LateFirst, RowOrder::LongestFirst, RowOrder::Paired];

/// Any profile that isn't refused.
pub fn profile(case: &mut Case) -> Option<Profile> {
    let n = &mut case.numbers;
    let (kind, [a, b, floor]) = (n.below(7), [(); 3].map(|()| n.f64()));
    let weights: Vec<f64> = (0..n.below(6)).map(|_| n.f64().abs()).collect();
    let mut falling = weights.clone();
    falling.sort_unstable_by(|a, b| b.total_cmp(a));
    let weights = if n.once_in(4) { weights } else { falling };
    let (sinks, window, steps) = (n.mild(4), n.mild(5), n.below(8));
    tell!(case, "Profile, kind {kind}: {a:?}, {b:?}, {weights:?}");
    let mut profile = accepted(match kind {
        0 => Ok(Profile::dense()),
        1 => Ok(Profile::harmonic()),
        2 => Profile::harmonic_with(a, b),
        3 => Profile::budget_with(a, b),
        4 => Profile::allocated(a, &weights),
        5 => Profile::deduction(a),
        _ => Profile::half_window(a),
    })?;
    if steps & 1 != 0 {
        tell!(case, "with {sinks} sinks");
        profile = profile.with_sink_blocks(sinks);
    }
    if steps & 2 != 0 {
        tell!(case, "with a window of {window}");
        profile = accepted(profile.clone().with_window_blocks(window)).unwrap_or(profile);
    }
    if steps & 4 != 0 {
        tell!(case, "with the floor {floor:?}");
        profile = accepted(profile.clone().with_floor(floor)).unwrap_or(profile);
    }
    Some(profile)
}

/// Distances; far ones of a budget take a table, and so only come now and then.
fn distance(case: &mut Case, profile: &Profile) -> usize {
    let distance = case.numbers.size();
    let slow = distance > 1 << 16 && (profile.decay().budget().is_some() || case.numbers.bool());
    if slow && !case.numbers.once_in(200) { distance % (1 << 16) } else { distance }
}

pub fn profiles(case: &mut Case) {
    let Some(profile) = profile(case) else { return };
    let (at, distances) = (distance(case, &profile), distance(case, &profile));
    tell!(case, "{profile}: probability({at})");
    let p = profile.probability(at);
    assert!((0.0..=1.0).contains(&p), "{p}");
    tell!(case, "cumulative({distances})");
    let table = profile.cumulative(distances);
    assert_eq!(table.distances(), distances.min(MAX_DISTANCES));
    for _ in 0..4 {
        let n = &mut case.numbers;
        let (before, after, pinned) = (n.range(), n.range(), n.mild(3));
        let (d, range) = (n.size(), n.range());
        tell!(case, "row({before:?}, {after:?}, {pinned}) at {d}, over {range:?}");
        let row = table.row(&before, &after, pinned);
        assert!(row.probability(d) <= ONE + 1 && row.ln_p(d) <= 0.0);
        assert!(row.sum_below(d) <= d.min(table.distances()) as u64 * (ONE + 1));
        let _ = row.sum_of(&range);
    }
}

/// Rows that a caller of a [`RowSampler`](prflash::sampling::RowSampler) makes up.
pub fn rows(case: &mut Case) {
    let Some(profile) = profile(case) else { return };
    let n = &mut case.numbers;
    let (sampler, distances) = (n.pick(&SAMPLERS), n.mild(60));
    // Walks of many distances take long, tables much memory.
    let most = if n.once_in(20) { MAX_WALK + 1 } else { 4096 };
    let distances = if distances > most { most } else { distances };
    let distances = if (4097..=MAX_WALK).contains(&distances) { 4096 } else { distances };
    tell!(case, "{} of {profile} over {distances} distances", sampler.name());
    let table = profile.cumulative(distances);
    let Some(rows) = accepted(sampler.prepare(&table)) else { return };
    for _ in 0..4 {
        let n = &mut case.numbers;
        let span = RowSpan {
            group: n.u32(),
            query_block: n.i64(),
            before: n.range(),
            after: n.range(),
            key_blocks: n.size(),
        };
        let (seed, pinned) = (Seed::new(n.bits()), n.mild(3));
        tell!(case, "{span:?}, {seed:?}, {pinned} pinned");
        let row = table.row(&span.before, &span.after, pinned);
        let mut kept = 0;
        rows.sample_row(&row, &span, seed, &mut |_, d| {
            assert!(d < distances);
            kept += 1;
        });
        assert!(kept <= 2 * distances);
    }
}

/// Everything that a list must satisfy, and every query at any index.
pub fn check(case: &mut Case, schedule: &Schedule) {
    let grid = *schedule.grid();
    let first = grid.first_query_block();
    for (group, row) in (0..grid.groups()).flat_map(|g| (0..grid.query_blocks()).map(move |row| (g, row))) {
        let blocks = schedule.blocks(group, row);
        assert!(blocks.is_sorted_by(|a, b| a < b));
        assert!(blocks.iter().all(|&block| block < grid.dense_row(first + row as i64)));
        assert!(schedule.row(group, row).all(|entry| entry.ln_p.is_finite() && entry.ln_p <= 0.0));
    }
    let n = &mut case.numbers;
    let ([group, row, block], workers) = ([(); 3].map(|()| n.mild(40)), n.size());
    let betas: Vec<f32> = (0..n.mild(4).min(100)).map(|_| n.f64() as f32).collect();
    let order = n.pick(&ORDERS);
    let from = n.mild(grid.kv_len());
    let queries = n.rows(from, grid.q_len());
    tell!(case, "queries at ({group}, {row}, {block}); {workers} workers in {order:?}; betas {betas:?}");
    tell!(case, "a chunk of {queries:?}");
    let there = group < grid.groups();
    assert!(schedule.row(group, row).len() == 0 || there && row < grid.query_blocks());
    let found = schedule.find(group, row, block);
    assert_eq!(found.is_some(), schedule.blocks(group, row).contains(&block));
    let kept = schedule.to_dense(group).unwrap().iter().flatten().filter(|&&kept| kept).count();
    assert_eq!(kept as u64, schedule.list_blocks(group));
    assert!(there || kept == 0);
    let columns = schedule.transpose();
    let visits = columns.column(group, block);
    assert!(visits.is_empty() || there && block < grid.key_blocks());
    assert_eq!(found.is_some(), visits.iter().any(|&(visiting, _)| visiting == row));
    let mut rows = schedule.row_order(order);
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..grid.query_blocks() as u32));
    let [few, many] = [Workers::Dynamic(workers), Workers::Static(workers)]
        .map(|workers| schedule.load_balance(workers, order));
    assert!(few.longest == many.longest && few.ratio() >= 0.99);
    let _ = (schedule.visited_pairs(), schedule.memory_bytes(), schedule.to_string());
    assert!((0.0..=1.0).contains(&schedule.density()));
    accepted(schedule.clone().with_corrections(&betas));
    let end = grid.kv_len();
    if let Some(chunk) = accepted(schedule.chunk(queries.clone())) {
        assert!(grid.is_causal() && queries.end <= end && chunk.grid().q_len() == queries.len());
    }
}

pub fn schedules(case: &mut Case) {
    let (grid, Some(profile)) = (small_grid(case), profile(case)) else { return };
    let n = &mut case.numbers;
    let (sampler, seed) = (n.pick(&SAMPLERS), Seed::new(n.bits()).round(n.u32()));
    tell!(case, "sample: {} of {profile}, {seed:?}", sampler.name());
    let Some(schedule) = accepted(Schedule::sample(&grid, &profile, sampler, seed)) else { return };
    check(case, &schedule);
    let copies = case.numbers.mild(5).min(100);
    tell!(case, "sample_each with {copies} profiles");
    if let Some(each) = accepted(Schedule::sample_each(&grid, &vec![profile.clone(); copies], sampler, seed))
    {
        assert_eq!(each, schedule);
    }
    tell!(case, "expected_blocks, and the usual comparisons");
    assert!(expected_blocks(&grid, &profile) >= 0.0);
    for like in [sink_window_like(&schedule, &profile), uniform_like(&schedule, &profile, seed)] {
        assert_eq!(like.unwrap().visited_blocks(), schedule.visited_blocks());
    }
    if case.numbers.once_in(20) {
        grid_too_large(case);
    }
}

/// What keeps more blocks than there are numbers for isn't tried.
fn grid_too_large(case: &mut Case) {
    let Some(grid) = grid(case) else { return };
    if grid.dense_blocks() / 4 > MAX_ELEMENTS as u64 {
        tell!(case, "all blocks of {grid:?}");
        let all = Schedule::sample(&grid, &Profile::dense(), &Systematic, Seed::new(1));
        assert!(all.unwrap_err().is_too_large());
    }
}

/// Lists of the caller's.
pub fn lists(case: &mut Case) {
    let grid = small_grid(case);
    let n = &mut case.numbers;
    let rows = grid.groups() * grid.query_blocks();
    let rows = if n.once_in(8) { n.mild(rows).min(1000) } else { rows };
    let wild = n.once_in(3);
    let mut list = |_| -> Vec<Entry> {
        let mut blocks: Vec<usize> = (0..n.below(4)).map(|_| n.below(12)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        if wild && n.once_in(3) {
            blocks.push(n.size());
        }
        let ln_p = |_: &usize| if wild && n.once_in(9) { n.f32() } else { -(n.below(9) as f32) };
        let weights: Vec<f32> = blocks.iter().map(ln_p).collect();
        blocks.into_iter().zip(weights).map(|(block, ln_p)| Entry { block, ln_p }).collect()
    };
    let lists: Vec<Vec<Entry>> = (0..rows).map(&mut list).collect();
    tell!(case, "from_entries: {lists:?}");
    let schedule = accepted(Schedule::from_entries(&grid, &lists));
    let blocks: Vec<Vec<usize>> =
        lists.iter().map(|list| list.iter().map(|entry| entry.block).collect()).collect();
    tell!(case, "from_block_lists");
    let plain = accepted(Schedule::from_block_lists(&grid, &blocks));
    for schedule in [schedule, plain].into_iter().flatten() {
        check(case, &schedule);
    }
}

pub fn rounds(case: &mut Case) {
    let (grid, Some(profile)) = (small_grid(case), profile(case)) else { return };
    let (rounds, seed) = (case.numbers.size(), Seed::new(case.numbers.bits()));
    let lists = grid.groups() * grid.query_blocks() + grid.dense_blocks() as usize;
    let rounds = if rounds <= MAX_ROUNDS && rounds * lists > 1 << 18 { 9 } else { rounds };
    tell!(case, "partition_rounds of {profile}: {rounds}");
    let Some(schedules) = accepted(partition_rounds(&grid, &profile, seed, rounds)) else { return };
    assert_eq!(schedules.len(), rounds);
    assert_eq!(schedules.iter().map(Schedule::visited_blocks).sum::<u64>(), grid.dense_blocks());
    check(case, &schedules[rounds - 1]);
}

/// Small grids, and others as long as what they give is short or refused.
fn any_grid(case: &mut Case, costs: impl Fn(&BlockGrid) -> u64) -> Option<BlockGrid> {
    if case.numbers.bool() {
        return Some(small_grid(case));
    }
    grid(case).filter(|grid| !(1 << 18..=MAX_ELEMENTS as u64).contains(&costs(grid)))
}

pub fn reshaping(case: &mut Case) {
    let lists = |grid: &BlockGrid| grid.groups() as u64 * grid.key_blocks() as u64;
    let (Some(grid), Some(profile)) = (any_grid(case, lists), profile(case)) else { return };
    let n = &mut case.numbers;
    let (group, seed, cut) = (n.mild(4), Seed::new(n.bits()), n.bool());
    // Gaps of that many distances take seconds.
    let cut = cut || (4096..=MAX_WALK).contains(&grid.key_blocks());
    tell!(case, "Reshaping of {grid:?} by {profile}, segments {cut}");
    let reshaping = match cut {
        true => Reshaping::segments(&grid, &profile, seed),
        false => Reshaping::row_column(&grid, &profile, seed),
    };
    let Some(reshaping) = accepted(reshaping) else { return };
    tell!(case, "list group {group}");
    let segments = reshaping.segments_of(group);
    assert_eq!(segments.is_empty(), !cut || group >= grid.groups() || grid.key_blocks() == 0);
    assert!(segments.windows(2).all(|pair| pair[0].end == pair[1].start));
    assert!(segments.last().is_none_or(|last| last.end == grid.key_blocks()));
    assert!(reshaping.index_set(group).iter().all(|&block| block < grid.key_blocks()));
    assert!(reshaping.sink_blocks() <= grid.key_blocks() && reshaping.is_row_column() != cut);
    if grid.dense_blocks() < 1 << 14 {
        tell!(case, "its schedule");
        check(case, &reshaping.schedule().unwrap());
    }
}

pub fn frequencies(case: &mut Case) {
    let rows = |grid: &BlockGrid| (grid.query_blocks() + grid.key_blocks()) as u64;
    let Some(grid) = any_grid(case, rows) else { return };
    let (sinks, false_alarm) = (case.numbers.mild(3), case.numbers.f64());
    tell!(case, "DistanceFrequencies of {grid:?}, {sinks} sinks, {false_alarm:?}");
    let mut frequencies = DistanceFrequencies::new(&grid, sinks);
    let other = small_grid(case);
    tell!(case, "schedules of another grid, and two of its own");
    let sample = |grid: &BlockGrid| Schedule::sample(grid, &Profile::harmonic(), &Systematic, Seed::new(1));
    assert_eq!(frequencies.add(&sample(&other).unwrap()).is_ok(), other == grid);
    if grid.dense_blocks() < 1 << 14 {
        let schedule = sample(&grid).unwrap();
        (0..2).for_each(|_| frequencies.add(&schedule).unwrap());
    }
    let rows = frequencies.rows(false_alarm);
    assert!(rows.iter().all(|row| row.low <= row.high && row.candidates >= row.kept));
    let pairs = |grid: &BlockGrid| {
        let kept = sinks.min(grid.key_blocks());
        let first = grid.first_query_block();
        let of_row = |row: usize| grid.dense_row(first + row as i64).saturating_sub(kept) as u64;
        (0..grid.query_blocks()).map(of_row).sum::<u64>() * grid.groups() as u64
    };
    if other != grid && grid.dense_blocks() < 1 << 14 {
        assert_eq!(rows.iter().map(|row| row.candidates).sum::<u64>(), 2 * pairs(&grid));
    }
}
