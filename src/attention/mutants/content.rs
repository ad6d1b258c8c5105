//! Mutants of the kernels that choose blocks by content: beside the host's summaries, scores and
//! lists.

use super::problem::{numbers, tensor};
use crate::attention::bound::Operands;
use crate::attention::call::{Call, FirstPositions, Sequence};
use crate::attention::gpu_summaries::{GpuSummaries, SummarizedKeys};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::tables::Tables;
use crate::attention::kernels::content::{BlockMasses, Mass, Summarize};
use crate::attention::plan_options::PlanOptions;
use crate::layout::DType;
use crate::position::{Pairing, Rope};
use crate::random::Seed;
use crate::runtime::context::Context;
use crate::runtime::testing::{Change, device, survivors};
use crate::sampling::content::{BlockScores, Estimate, Participation, Probe};
use crate::sampling::gpu::content::Choice;
use crate::sampling::{BlockGrid, Granularity, Schedule};
use crate::shape::Shape;

const DIM: usize = 80;

/// Two sequences in a batch entry, in blocks of more than one group.
struct Problem {
    attention: Attention,
    participation: Participation,
    estimate: Estimate,
    probe: Probe,
    q_len: usize,
    /// Whether all keys are alike.
    equal: bool,
    /// The position of the first key.
    position: i64,
}

impl Problem {
    fn new(participation: Participation) -> Self {
        Self {
            attention: Attention::causal(),
            participation,
            estimate: Estimate::Saturated,
            probe: Probe::causal(3).unwrap(),
            q_len: 90,
            equal: false,
            position: 0,
        }
    }

    /// Whether the device has the host's summaries, but for `turned` keys, its scores within what
    /// f32 allows, and its lists.
    fn agrees(&self, context: &Context) -> bool {
        let Self { attention, participation, estimate, probe, q_len, equal, position } = self;
        let lens = [2200, 777];
        let shape = Shape::new(4, 2, 100, DIM).unwrap().with_kv_len(3000).unwrap();
        let options = PlanOptions::new().with_sequences(2).unwrap();
        let plan = attention.plan_with(context, &shape, &options).unwrap();
        let q = numbers(1, 4 * 200 * DIM, 3.0, DType::F32);
        let mut k = numbers(2, 2 * 3000 * DIM, 1.0, DType::F32);
        for (at, x) in k.iter_mut().enumerate() {
            let token = at / DIM % 3000;
            // What groups of 16 have in common, of either sign.
            *x += ((token / 16 * 7 + at % DIM) as f32).sin();
            // The farthest number is one of the last channels'.
            if at % DIM >= 76 {
                *x *= 4.0;
            }
            if *equal {
                *x = 0.0;
            }
        }
        let q_tensor = tensor(context, DType::F32, [1, 4, 200, DIM], &q);
        let k_tensor = tensor(context, DType::F32, [1, 2, 3000, DIM], &k);
        let output = tensor(context, DType::F32, [1, 4, 200, DIM], &vec![0.0; 4 * 200 * DIM]);
        let operands = Operands {
            q: q_tensor.view(),
            k: k_tensor.view(),
            v: k_tensor.view(),
            output: output.view(),
            lse: None,
        };
        let bound = plan.bind(&operands).unwrap();
        let grid = match attention.is_causal() {
            true => BlockGrid::causal(&shape),
            false => BlockGrid::full(&shape),
        };
        let grid = grid.with_block_size(32).unwrap().with_granularity(Granularity::KvHead);
        let selector = plan.selector(&grid, participation, *estimate, *probe).unwrap();
        let mut summaries = GpuSummaries::new(context, attention, k_tensor.view(), 16, 2).unwrap();
        let rows = [0..lens[0], lens[0]..lens[0] + lens[1]];
        let first = |len: usize| FirstPositions { query: position + (len - q_len) as i64, key: *position };
        let sequences = [0, 1].map(|index| Sequence {
            entry: 0,
            queries: index * 100..index * 100 + q_len,
            keys: rows[index].clone(),
            positions: Some(first(lens[index])),
        });
        let keys = [0, 1].map(|sequence| SummarizedKeys {
            sequence,
            keys: rows[sequence].clone(),
            position: *position,
            ..SummarizedKeys::default()
        });
        let seeds = [Seed::new(5).round(2), Seed::new(5).sequence(1)];
        let mut encoder = context.device().create_command_encoder(&Default::default());
        summaries.encode(&mut encoder, &keys).unwrap();
        let selection = selector.over(&summaries).with_seeds(&seeds);
        plan.encode(&mut encoder, &bound, &Call::sequences(&sequences).with_selection(selection)).unwrap();
        context.submit([encoder.finish()]).unwrap();
        // A list that isn't one is refused.
        let Ok(lists) = selector.read_blocking() else { return false };
        let scores = selector.read_scores_blocking().unwrap();
        (0..2).all(|index| {
            let (own, len) = (*lists[index].grid(), lens[index]);
            let part = |values: &[f32], heads: usize, all: usize, rows: std::ops::Range<usize>| -> Vec<f32> {
                let head =
                    |head: usize| &values[(head * all + rows.start) * DIM..(head * all + rows.end) * DIM];
                (0..heads).flat_map(head).copied().collect()
            };
            let k = part(&k, 2, 3000, rows[index].clone());
            let q = part(&q, 4, 200, sequences[index].queries.clone());
            let shape = shape.with_q_len(*q_len).unwrap().with_kv_len(len).unwrap();
            // The host counts positions from 0, which makes no difference to products.
            let host = attention.summarize(&shape, &k, 16, None).unwrap().with_8_bits();
            let device = summaries.read_blocking(index).unwrap();
            if attention.positions().is_none() && !device.same_words(&host) {
                return false;
            }
            let want = attention.block_scores(&own, &q, &host, *estimate, *probe, &Tables::new()).unwrap();
            let far = if attention.positions().is_some() { 0.3 } else { 0.005 };
            is_near(&scores[index], &want, far)
                && lists[index]
                    == Schedule::select(&own, participation, &scores[index], seeds[index]).unwrap()
        })
    }
}

fn is_near(got: &BlockScores, want: &BlockScores, allowed: f64) -> bool {
    let grid = want.grid();
    let rows = (0..grid.heads()).flat_map(|head| (0..grid.query_blocks()).map(move |row| (head, row)));
    rows.flat_map(|at| (0..grid.key_blocks()).map(move |block| (at, block))).all(|((head, row), block)| {
        match [got, want].map(|scores| scores.log2_share(head, row, block)) {
            [Some(got), Some(want)] => (got - want).abs() <= allowed || got == want,
            [got, want] => got == want,
        }
    })
}

fn content() -> Participation {
    Participation::content(7).unwrap().with_window_blocks(2).unwrap()
}

fn check(context: &Context, survivors: Vec<String>) {
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    context.check_alive().unwrap();
}

#[test]
fn every_mutant_of_summaries_is_caught() {
    let Some(context) = device("mutants of summaries") else { return };
    let plain: &[Change] = &[
        ("the last token is left out", "token < end; token++", "token + 1u < end; token++"),
        ("every group is the first", "let first = group * params.group;", "let first = 0u;"),
        ("heads share keys", "head * params.k_head_stride", "0u"),
        ("sequences share summaries", "run.words + head", "head"),
        ("a ragged group counts as whole", "sum, end - first);", "sum, params.group);"),
        ("steps change places", "bitcast<u32>(quad.of_means);", "bitcast<u32>(quad.of_reaches);"),
        (
            "the farthest number isn't waited for",
            "max(abs(least), abs(largest)))));\n    workgroupBarrier();",
            "max(abs(least), abs(largest)))));",
        ),
    ];
    let summarize = |rope| Summarize { storage: DType::F32, head_dim: DIM, rope };
    let problem = Problem::new(content());
    check(&context, survivors(&context, summarize(None), plain, || problem.agrees(&context)));
    let rope = Rope::new(DIM, 1e4, Pairing::Half).unwrap();
    let turned = Problem {
        attention: Attention::causal()
            .with_positions(crate::position::Positions::from(rope).with_max_positions(1 << 14).unwrap()),
        position: 900,
        ..problem
    };
    let turning: &[Change] = &[
        ("keys aren't turned", "key = rotated(key,", "let other = rotated(key,"),
        ("positions are places", "run.position + i32(token)", "i32(token)"),
    ];
    let program = summarize(Some((Pairing::Half, DIM)));
    check(&context, survivors(&context, program, turning, || turned.agrees(&context)));
}

#[test]
fn every_mutant_of_masses_is_caught() {
    let Some(context) = device("mutants of masses of blocks") else { return };
    let masses = |estimate| BlockMasses {
        mass: Mass::Estimated(estimate),
        storage: DType::F32,
        head_dim: DIM,
        rope: None,
        cached: false,
    };
    let saturated: &[Change] = &[
        ("rows know of what comes after them", "i32(group_end) > visible.hi", "false"),
        (
            "a window is one token longer",
            "position - i32(params.window) + 1, 0",
            "position - i32(params.window), 0",
        ),
        (
            "a ragged group counts as whole",
            "sequence.last_spread, group == last_group",
            "params.spread, false",
        ),
        ("channels are taken as independent", "SHRINK * reach_step", "reach_step"),
        ("half of the variance is all of it", "min(0.5 * deviation0", "min(deviation0"),
        (
            "nothing saturates",
            "min(0.5 * deviation1 * deviation1, z * deviation1)",
            "0.5 * deviation1 * deviation1",
        ),
        ("keys aren't counted", "+ log2(max(keys, 1.0))", ""),
        ("no cap", "estimate2 = capped(estimate2);", ""),
        ("means are unsigned", "bitcast<vec4<i32>>(mean_codes) >>", "mean_codes >>"),
        (
            "channels past a stage are left out",
            "min(STAGED_QUADS, HEAD_QUADS - first)",
            "HEAD_QUADS % STAGED_QUADS",
        ),
        ("every head reads the first's keys", "kv_head * params.summary_stride", "0u"),
        ("heads of a key/value head share queries", "+ place % params.heads_per_kv", ""),
        (
            "probes begin in the block before",
            "let row = rows.x - i32(at * params.block_size / count);",
            "let row = rows.x - i32((at + 1u) * params.block_size / count);",
        ),
        (
            "masses are read before they are there",
            "workgroupBarrier();\n    for (var block = first_block + lane; block < end_block; block += INVOCATIONS) {\n        let known",
            "for (var block = first_block + lane; block < end_block; block += INVOCATIONS) {\n        let known",
        ),
        ("codes are read before they are there", "workgroupBarrier();\n        let here", "let here"),
        (
            "a tile's blocks are the first's",
            "let first_block = tile * params.tile_blocks;",
            "let first_block = 0u;",
        ),
    ];
    let capped =
        Attention::causal().with_window(500).unwrap().with_soft_cap(4.0).unwrap().with_scale(0.4).unwrap();
    let [steep, flat] = [1.5, 0.02].map(|scale| Attention::causal().with_scale(scale).unwrap());
    let problems = [
        Problem { attention: capped, ..Problem::new(content()) },
        Problem { attention: steep, q_len: 1, ..Problem::new(content()) },
        Problem { attention: flat, q_len: 1, ..Problem::new(content()) },
    ];
    let agrees = || problems.iter().all(|problem| problem.agrees(&context));
    check(&context, survivors(&context, masses(Estimate::Saturated), saturated, agrees));
    let bound: &[Change] = &[
        ("reaches have a sign", "reached1 += dot(abs(query), reach)", "reached1 += dot(query, reach)"),
        ("reaches have the step of means", "reached0 * reach_step", "reached0 * mean_step"),
    ];
    let problem = Problem { estimate: Estimate::Bound, ..Problem::new(content()) };
    check(&context, survivors(&context, masses(Estimate::Bound), bound, || problem.agrees(&context)));
}

#[test]
fn every_mutant_of_lists_is_caught() {
    let Some(context) = device("mutants of lists by content") else { return };
    let windowed = Attention::causal().with_window(500).unwrap();
    // The first block of it is seen by the first rows of a query block alone.
    let edge = Attention::causal().with_window(484).unwrap();
    let problems = [
        Problem::new(content()),
        Problem { attention: edge, probe: Probe::looking_ahead(3).unwrap(), ..Problem::new(content()) },
        Problem { attention: windowed.clone(), q_len: 33, ..Problem::new(content()) },
        Problem {
            attention: windowed,
            probe: Probe::looking_ahead(3).unwrap(),
            ..Problem::new(Participation::both(8, 0.5, 0.0).unwrap())
        },
        Problem {
            // Of the two blocks at a distance of two, one is taken.
            attention: Attention::full(),
            equal: true,
            ..Problem::new(Participation::content(5).unwrap().with_window_blocks(2).unwrap())
        },
        Problem { equal: true, q_len: 1, ..Problem::new(Participation::content(1).unwrap()) },
    ];
    let agrees = || problems.iter().all(|problem| problem.agrees(&context));
    let shares: &[Change] = &[
        (
            "shares aren't of anything",
            "totals[probe] = log2_sum(max(most, -FARTHEST), sum);",
            "totals[probe] = 0;",
        ),
        (
            "the sum is the first lane's",
            "sum = sum_over_lanes(lane, sum);",
            "let all = sum_over_lanes(lane, sum);",
        ),
        ("rows aren't averaged", "- log2_of(vec2<u32>(0u, count))", ""),
        (
            "who sees nothing has a share",
            "select(most, -FARTHEST, count == 0u)",
            "select(most, 0, count == 0u)",
        ),
        (
            "sums are read before they are there",
            "atomicAdd(&limbs[2], own.y >> 16u);\n    workgroupBarrier();",
            "atomicAdd(&limbs[2], own.y >> 16u);",
        ),
        ("limbs have no carry", "vec2<u32>(middle << 24u, middle >> 8u)", "vec2<u32>(middle << 24u, 0u)"),
    ];
    check(&context, survivors(&context, Choice::Shares, shares, agrees));
    let select: &[Change] = &[
        ("the farther one of equals", "farthest - tie_of(row, block)", "tie_of(row, block)"),
        (
            "the later one of equals",
            "select(0u, 1u, i32(block) > row.query_block)",
            "select(1u, 0u, i32(block) > row.query_block)",
        ),
        (
            "a window is one block shorter",
            "distance >= params.window_blocks",
            "distance + 1u >= params.window_blocks",
        ),
        (
            "pinned blocks aren't of the budget",
            "max(params.budget, row.pinned_count) - row.pinned_count",
            "params.budget",
        ),
        ("sinks are free", "max(seen.x, params.sink_blocks)", "seen.x"),
        ("every group begins with the first", "group * atomicLoad(&sums[1]) + ", ""),
        ("rows begin with the first", "before += select(0u, kept, other < query_block);", ""),
        ("the last list has no end", "tables[sequence.list_base + rows] = at;", ""),
        ("one too few of a digit", "if count >= left", "if count > left"),
        (
            "heads count alike whatever their shares",
            "most = max(most, scores[first + head * stride]);",
            "most = scores[first];",
        ),
        (
            "digits are read before all are counted",
            "workgroupBarrier();\n            if lane == 0u {",
            "if lane == 0u {",
        ),
        (
            "the search ends too early",
            "atomicLoad(&counts[value]) == left)",
            "atomicLoad(&counts[value]) <= left + 1u)",
        ),
        ("scores are cut to a digit less", "+ DIGIT_BITS - 1u) / DIGIT_BITS", ") / DIGIT_BITS"),
        (
            "digits are counted onto the last ones",
            "atomicStore(&counts[lane], 0u);\n            workgroupBarrier();",
            "workgroupBarrier();",
        ),
        ("blocks in a list lie at its begin", "at += atomicLoad(&counts[other]);", ""),
    ];
    check(&context, survivors(&context, Choice::Select { drawn: false }, select, agrees));
}

/// What is left out is what the masses of single keys say, with groups of one key: whether that is
/// so, but for what 8 bits round.
fn tells_what_is_left_out(context: &Context) -> bool {
    let shape = Shape::new(4, 2, 40, DIM).unwrap().with_kv_len(300).unwrap();
    let attention = Attention::causal().with_scale(0.3).unwrap();
    let plan = attention.plan(context, &shape).unwrap();
    let q = numbers(1, 4 * 40 * DIM, 3.0, DType::F32);
    let k = numbers(2, 2 * 300 * DIM, 1.0, DType::F32);
    let q_tensor = tensor(context, DType::F32, [1, 4, 40, DIM], &q);
    let k_tensor = tensor(context, DType::F32, [1, 2, 300, DIM], &k);
    let output = tensor(context, DType::F32, [1, 4, 40, DIM], &vec![0.0; 4 * 40 * DIM]);
    let (q_view, k_view) = (q_tensor.view(), k_tensor.view());
    let operands = Operands { q: q_view, k: k_view, v: k_view, output: output.view(), lse: None };
    let bound = plan.bind(&operands).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap().with_granularity(Granularity::KvHead);
    let selector = plan.selector(&grid, &content(), Estimate::Saturated, Probe::causal(2).unwrap());
    let selector = selector.unwrap().with_missing().unwrap();
    let mut summaries = GpuSummaries::new(context, &attention, k_view, 1, 1).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    summaries.encode(&mut encoder, &[SummarizedKeys { keys: 0..300, ..SummarizedKeys::default() }]).unwrap();
    let call = Call::lengths(40, 300).with_selection(selector.over(&summaries));
    plan.encode(&mut encoder, &bound, &call).unwrap();
    context.submit([encoder.finish()]).unwrap();
    let (got, lists) = (selector.read_missing_blocking().unwrap(), selector.read_blocking().unwrap());
    let rows: Vec<usize> = (0..grid.query_blocks()).map(|row| grid.rows_of(row).start).collect();
    let keys = attention.summarize(&shape, &k, 1, None).unwrap();
    let masses =
        attention.block_masses(&grid, &q, &keys, Estimate::Saturated, &rows, &Tables::new()).unwrap();
    got[0].iter().zip(masses.chunks(grid.key_blocks())).enumerate().all(|(index, (got, masses))| {
        let (head, row) = (index / rows.len(), index % rows.len());
        let listed = lists[0].blocks(grid.group_of_head(head), row);
        let [mut inside, mut outside] = [0.0; 2];
        for (block, mass) in masses.iter().enumerate() {
            let sum = if listed.contains(&block) { &mut inside } else { &mut outside };
            *sum += mass.exp();
        }
        let share = outside / (inside + outside);
        let [most, estimated] = [got.at_most, got.estimated].map(f64::from);
        got.blocks == listed.len()
            && (share - 1e-6..share + 0.15).contains(&most)
            && (share - 0.015..share + 0.015).contains(&estimated)
    })
}

#[test]
fn every_mutant_of_what_is_left_out_is_caught() {
    let Some(context) = device("mutants of what lists leave out") else { return };
    let agrees = || tells_what_is_left_out(&context);
    let missing: &[Change] = &[
        (
            "what is listed is left out",
            "select(0u, 1u, is_listed(list, block));\n        for (var kind = listed; kind < 4u; kind += 2u) {\n            let mass",
            "select(1u, 0u, is_listed(list, block));\n        for (var kind = listed; kind < 4u; kind += 2u) {\n            let mass",
        ),
        ("the first block of a list isn't in it", "var low = list.first;", "var low = list.first + 1u;"),
        ("what is listed is the bound of the rest", "logs[0] + ROUNDED_OFF", "logs[1]"),
        ("rows have the first one's masses", "kind * plane + row * sequence.key_blocks", "kind * plane"),
        ("heads have the first one's list", "own.head / params.heads_per_list * sequence.query_blocks", "0u"),
        (
            "the estimate is of what is listed",
            "bitcast<i32>(share(logs[2], max(logs[3], -FARTHEST)))",
            "bitcast<i32>(share(logs[3], logs[2]))",
        ),
        ("reports are one", "sequence.report_base + REPORT_WORDS * row;", "sequence.report_base;"),
        (
            "the largest aren't waited for",
            "        }\n    }\n    workgroupBarrier();\n    var sums",
            "        }\n    }\n    var sums",
        ),
    ];
    check(&context, survivors(&context, Choice::Missing, missing, agrees));
    let least: &[Change] = &[
        (
            "rounding of means is on the wrong side",
            "let by_mean0 = estimate0 - size0 *",
            "let by_mean0 = estimate0 + 8.0 * size0 *",
        ),
        (
            "rounding of means is far too large",
            "size1 += dot(abs(query), vec4<f32>(1.0));",
            "size1 += 40.0 * dot(abs(query), vec4<f32>(1.0));",
        ),
    ];
    let program =
        BlockMasses { mass: Mass::Least, storage: DType::F32, head_dim: DIM, rope: None, cached: false };
    check(&context, survivors(&context, program, least, agrees));
}

#[test]
fn every_mutant_of_draws_is_caught() {
    let Some(context) = device("mutants of draws by content") else { return };
    let both = |blocks, tau, alpha| Participation::both(blocks, tau, alpha).unwrap();
    let problems = [
        Problem::new(both(9, 0.3, 0.4)),
        Problem { q_len: 64, ..Problem::new(both(23, 0.05, 1.3)) },
        Problem { equal: true, attention: Attention::full(), ..Problem::new(both(68, 1.0, 0.0)) },
    ];
    let agrees = || problems.iter().all(|problem| problem.agrees(&context));
    let draws: &[Change] = &[
        ("distance doesn't count", "times(params.alpha, far));", "vec2<u32>(0u));"),
        ("products aren't rounded", "plus(signed, vec2<u32>(0x8000u, 0u))", "signed"),
        ("negative ones neither", "select(size, minus(vec2<u32>(0u), size), x < 0)", "size"),
        ("what is left is lost", "return plus(p, drawing.rest);", "return p;"),
        ("those before it stay as they are", "return select(p, ONE, far", "return select(p, p, far"),
        ("equal ones get nothing", "(far == drawing.far && tie < drawing.tie));", "false);"),
        ("rounds draw alike", " ^ sequence.round)", ")"),
        ("query blocks draw alike", "hash ^ bitcast<u32>(row.query_block)", "hash"),
        ("strips begin with u", "reached = plus(reached, strips[other]);", ""),
        ("the carry is left out", "a.y + b.y + select(0u, 1u, low < a.x)", "a.y + b.y"),
        (
            "weights have no rest",
            "let near = (r - shifted_right(product(r, r), 33u).x) >> 5u;",
            "let near = 0u;",
        ),
        (
            "γ is one step too low",
            "bit > 0u; bit--) {\n            let place",
            "bit > 1u; bit--) {\n            let place",
        ),
    ];
    check(&context, survivors(&context, Choice::Select { drawn: true }, draws, agrees));
}
