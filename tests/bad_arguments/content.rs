//! Summaries of keys, scores of blocks, and schedules that are chosen by them.

use prflash::attention::PositionIds;
use prflash::limits::{MAX_ELEMENTS, MAX_LEN, MAX_ROUNDS};
use prflash::position::Pairing;
use prflash::sampling::Granularity;
use prflash::sampling::content::{BlockScores, Estimate, KeySummaries, Participation, Pool, Probe};
use prflash::{
    Attention, Bias, BlockGrid, Documents, Positions, Profile, Rope, Schedule, Seed, Shape, Systematic,
    Tables,
};

use super::runner::{Case, tell};
use super::sampling::{check, profile};
use super::sizes::{accepted, grid, small_grid, small_shape};

const ESTIMATES: [Estimate; 3] = [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey];

pub fn summaries(case: &mut Case) {
    let n = &mut case.numbers;
    let (kv_heads, dim, group, block) = (n.mild(3), n.mild(9), n.mild(5), n.size());
    tell!(case, "KeySummaries::new({kv_heads}, {dim}, {group})");
    let Some(mut keys) = accepted(KeySummaries::new(kv_heads, dim, group)) else { return };
    let mut len = 0;
    for _ in 0..case.numbers.below(4) {
        let n = &mut case.numbers;
        let (tokens, extra) = (n.below(7), if n.once_in(6) { n.below(5) } else { 0 });
        let numbers = kv_heads * dim * tokens + extra;
        let numbers = if numbers > 1 << 16 { extra } else { numbers };
        let values = n.values(numbers);
        tell!(case, "append {} numbers", values.len());
        len += accepted(keys.append(&values)).map_or(0, |()| values.len() / (kv_heads * dim));
    }
    tell!(case, "queries, bytes of blocks of {block}");
    assert_eq!((keys.kv_heads(), keys.head_dim(), keys.group()), (kv_heads, dim, group));
    assert_eq!((keys.len(), keys.is_empty(), keys.groups()), (len, len == 0, len.div_ceil(group)));
    assert!(len <= MAX_LEN && keys.has_means() && keys.bytes_per_block(block) >= 4 * u64::from(block > 0));
}

pub fn probes(case: &mut Case) {
    let n = &mut case.numbers;
    let (count, ahead) = (n.size(), n.bool());
    let probe = accepted(if ahead { Probe::looking_ahead(count) } else { Probe::causal(count) });
    let grid = if case.numbers.bool() { Some(small_grid(case)) } else { grid(case) };
    let (Some(probe), Some(grid)) = (probe, grid) else { return };
    let row = case.numbers.mild(grid.query_blocks());
    tell!(case, "{probe:?}: rows of query block {row} of {grid:?}");
    let rows = probe.rows(&grid, row);
    assert_eq!(rows.is_empty(), row >= grid.query_blocks());
    assert!(rows.len() <= count && rows.is_sorted_by(|a, b| a < b));
    let position = |at: usize| grid.kv_len() as i64 - grid.q_len() as i64 + at as i64;
    let block = |at: usize| position(at).div_euclid(grid.block_size() as i64) - grid.first_query_block();
    for &at in &rows {
        let own = block(at) == row as i64;
        // The first row of a query block, and rows of the one before.
        let causal = own && (at == 0 || block(at - 1) != row as i64) || block(at) + 1 == row as i64;
        assert!(at < grid.q_len() && if probe.is_causal() { causal } else { own }, "{at}");
    }
}

fn participation(case: &mut Case) -> Option<Participation> {
    let n = &mut case.numbers;
    let (kind, blocks, [tau, alpha]) = (n.below(3), n.mild(12), [(); 2].map(|()| n.f64()));
    let (sinks, window, pool) = (n.mild(3), n.mild(4), n.pick(&[Pool::Mean, Pool::Largest]));
    tell!(case, "Participation, kind {kind}: {blocks}, {tau:?}, {alpha:?}, {sinks} sinks, window {window}");
    let participation = accepted(match kind {
        0 => Participation::content(blocks),
        1 => Participation::distance(blocks),
        _ => Participation::both(blocks, tau, alpha),
    })?;
    let participation = accepted(participation.with_window_blocks(window)).unwrap_or(participation);
    let participation = participation.with_sink_blocks(sinks).with_pool(pool);
    assert_eq!((participation.blocks(), participation.sink_blocks()), (blocks, sinks));
    assert!(participation.window_blocks() >= 1 && participation.pool() == pool);
    assert!(participation.looks_at_keys() || participation.tau() == Some(0.0));
    let _ = (participation.to_string(), participation.alpha());
    Some(participation)
}

pub fn scores(case: &mut Case) {
    let grid = small_grid(case);
    let (wild, key_blocks) = (case.numbers.once_in(3), grid.key_blocks());
    tell!(case, "BlockScores of any masses, wild {wild}");
    let n = &mut case.numbers;
    let scores = accepted(BlockScores::new(&grid, |_, _| {
        let mut mass = || match n.below(9) {
            0 => f64::NEG_INFINITY,
            1 if wild && n.once_in(200) => n.f64(),
            _ => n.below(4000) as f64 / 100.0 - 20.0,
        };
        let count = if wild { key_blocks } else { key_blocks.max(1) };
        let masses = [(); 2].map(|()| (0..key_blocks).map(|_| mass()).collect());
        let seen = if n.bool() { 0..count } else { n.below(count + 1)..n.below(count + 2) };
        (seen, masses[..n.below(3)].to_vec())
    }));
    let Some(scores) = scores else { return };
    let n = &mut case.numbers;
    let [head, row, block] = [(); 3].map(|()| n.mild(20));
    tell!(case, "log2_share({head}, {row}, {block})");
    let there = head < grid.heads() && row < grid.query_blocks() && block < key_blocks;
    assert!(scores.log2_share(head, row, block).is_none_or(|share| there && share < 1.0));
    let granularity = case.numbers.pick(&[Granularity::Head, Granularity::KvHead, Granularity::Shared]);
    let shared = grid.with_granularity(granularity);
    let Some(participation) = participation(case) else { return };
    let seed = Seed::new(case.numbers.bits());
    tell!(case, "select by {participation} with {granularity:?}");
    let schedule = Schedule::select(&shared, &participation, &scores, seed).unwrap();
    counts(&schedule, &participation, &scores);
    check(case, &schedule);
    rounds(case, &shared, &participation, &scores);
    let other = small_grid(case);
    tell!(case, "scores of another grid");
    let same = other.with_granularity(grid.granularity()) == grid;
    assert_eq!(accepted(Schedule::select(&other, &participation, &scores, seed)).is_some(), same);
    assert_eq!(accepted(Schedule::select_rounds(&other, &participation, &scores, 2)).is_some(), same);
}

/// Every row has its pinned blocks, and others as long as the budget lasts.
fn counts(schedule: &Schedule, participation: &Participation, scores: &BlockScores) {
    let grid = schedule.grid();
    let each = grid.heads_per_group();
    for (group, row) in (0..grid.groups()).flat_map(|g| (0..grid.query_blocks()).map(move |row| (g, row))) {
        let query_block = grid.first_query_block() + row as i64;
        let seen = |&block: &usize| {
            let mut heads = group * each..(group + 1) * each;
            heads.any(|head| scores.log2_share(head, row, block).is_some())
        };
        let pinned = |&block: &usize| {
            let distance = (query_block - block as i64).unsigned_abs();
            block < participation.sink_blocks() || distance < participation.window_blocks() as u64
        };
        let visible: Vec<usize> = (0..grid.dense_row(query_block)).filter(seen).collect();
        let always: Vec<usize> = visible.iter().copied().filter(pinned).collect();
        let list = schedule.blocks(group, row);
        assert!(list.iter().all(seen) && always.iter().all(|block| list.contains(block)));
        assert_eq!(list.len(), participation.blocks().max(always.len()).min(visible.len()));
    }
}

fn rounds(case: &mut Case, grid: &BlockGrid, participation: &Participation, scores: &BlockScores) {
    let rounds = case.numbers.size();
    let lists = grid.groups() * grid.query_blocks() + 1;
    let rounds = if rounds <= MAX_ROUNDS && rounds * lists > 1 << 18 { 9 } else { rounds };
    tell!(case, "select_rounds: {rounds}");
    let Some(schedules) = accepted(Schedule::select_rounds(grid, participation, scores, rounds)) else {
        return;
    };
    assert_eq!(schedules.len(), rounds);
    let everything = accepted(Participation::content(usize::MAX)).unwrap();
    let all = Schedule::select(grid, &everything, scores, Seed::new(0)).unwrap();
    assert_eq!(schedules.iter().map(Schedule::visited_blocks).sum::<u64>(), all.visited_blocks());
    check(case, &schedules[rounds - 1]);
}

/// Scores of more blocks than there are numbers for aren't asked for.
pub fn grids_too_large(case: &mut Case) {
    let Some(grid) = grid(case) else { return };
    let rows = grid.heads() as u64 * grid.query_blocks() as u64;
    if rows.saturating_mul(grid.key_blocks() as u64) > MAX_ELEMENTS as u64 {
        tell!(case, "BlockScores of {grid:?}");
        let refused = BlockScores::new(&grid, |_, _| panic!("asked for masses")).unwrap_err();
        assert!(refused.is_too_large());
    }
}

/// Attention with anything that estimates must know or refuse.
fn attention(case: &mut Case, shape: &Shape) -> (Attention, bool) {
    let n = &mut case.numbers;
    let (full, window, [scale, cap]) = (n.once_in(3), n.mild(20), [(); 2].map(|()| n.f32()));
    let (rope, bias, factor, masks, base) = (n.bool(), n.bool(), n.once_in(8), n.below(8), n.f64());
    tell!(case, "Attention: full {full}, window {window}, scale {scale}, cap {cap}, {masks:b}");
    tell!(case, "positions: rope {rope} of base {base:?}, bias {bias}, factor {factor}");
    let mut attention = if full { Attention::full() } else { Attention::causal() };
    if masks & 1 != 0 {
        attention = accepted(attention.clone().with_window(window)).unwrap_or(attention);
    }
    if masks & 2 != 0 {
        attention = accepted(attention.clone().with_scale(scale)).unwrap_or(attention);
    }
    if masks & 4 != 0 {
        attention = accepted(attention.clone().with_soft_cap(cap)).unwrap_or(attention);
    }
    let mut positions = Positions::new();
    let rope = if rope { accepted(Rope::new(shape.head_dim(), base, Pairing::Half)) } else { None };
    positions = rope.into_iter().fold(positions, Positions::with_rope);
    if bias {
        positions = positions.with_bias(Bias::alibi());
    }
    if factor {
        positions = positions.with_harmonic_factor(8.0).unwrap();
    }
    (attention.with_positions(positions), full)
}

pub fn estimates(case: &mut Case) {
    let shape = small_shape(case);
    let (attention, full) = attention(case, &shape);
    let n = &mut case.numbers;
    let full = if n.once_in(20) { !full } else { full };
    let (block, group) = (1 + n.below(9), n.mild(6));
    let mut numbers = |count: usize| {
        let count = if n.once_in(20) { n.below(2 * count + 2) } else { count };
        n.values(count)
    };
    let q = numbers(shape.heads() * shape.q_len() * shape.head_dim());
    let k = numbers(shape.kv_heads() * shape.kv_len() * shape.head_dim());
    let lse = numbers(shape.heads() * shape.q_len());
    let n = &mut case.numbers;
    let ids = n.once_in(4).then(|| {
        let lens = [shape.q_len(), shape.kv_len()].map(|len| if n.once_in(9) { n.below(20) } else { len });
        let [queries, keys] = lens.map(|len| (0..len).map(|_| n.u32()).collect::<Vec<u32>>());
        PositionIds::new(&queries, &keys)
    });
    let ids = ids.and_then(accepted);
    let documents = n.once_in(4).then(|| {
        let mut starts: Vec<usize> = (0..shape.q_len()).map(|_| n.mild(20)).collect();
        starts.sort_unstable();
        Documents::from_starts(&starts)
    });
    let documents = documents.and_then(accepted);
    let mut tables = documents.iter().fold(Tables::new(), |tables, of| tables.with_documents(of));
    tables = ids.iter().fold(tables, |tables, ids| tables.with_position_ids(ids));
    let grid = if full { BlockGrid::full(&shape) } else { BlockGrid::causal(&shape) };
    let grid = grid.with_block_size(block).unwrap();
    tell!(case, "summarize {} numbers in groups of {group}", k.len());
    let Some(keys) = accepted(attention.summarize(&shape, &k, group, ids.as_ref())) else { return };
    let n = &mut case.numbers;
    let (estimate, rows) = (n.pick(&ESTIMATES), (0..n.below(3)).map(|_| n.mild(20)).collect::<Vec<_>>());
    tell!(case, "block_scores by {} from {} numbers; block_masses of {rows:?}", estimate.name(), q.len());
    let scores = accepted(attention.block_scores(&grid, &q, &keys, estimate, Probe::default(), &tables));
    if let Some(masses) = accepted(attention.block_masses(&grid, &q, &keys, estimate, &rows, &tables)) {
        assert_eq!(masses.len(), grid.heads() * rows.len() * grid.key_blocks());
        assert!(masses.iter().all(|mass| *mass < f64::INFINITY), "{masses:?}");
    }
    let Some(scores) = scores else { return };
    let Some(participation) = participation(case) else { return };
    tell!(case, "select by {participation}");
    let schedule = Schedule::select(&grid, &participation, &scores, Seed::new(1)).unwrap();
    counts(&schedule, &participation, &scores);
    let other = Schedule::sample(
        &small_grid(case),
        &profile(case).unwrap_or(Profile::harmonic()),
        &Systematic,
        Seed::new(2),
    );
    let other = other.unwrap();
    tell!(case, "missing, with {} log-sum-exps", lse.len());
    for visited in [&[&schedule][..], &[&schedule, &other], &[]] {
        let missing = accepted(attention.missing(&grid, &q, &keys, visited, &lse, &tables));
        let Some(missing) = missing else { continue };
        assert_eq!(missing.at_most.len(), lse.len());
        let shares = missing.at_most.iter().chain(&missing.estimated);
        assert!(shares.into_iter().all(|share| (0.0..=1.0).contains(share)), "{missing:?}");
        assert!(missing.is_within(missing.largest()));
    }
}
