//! Mutants of the kernels of the backward pass.

use super::gradients::{DIMS, Got, Problem, masked, of_heads, positioned, problems};
use super::problem::tensor;
use crate::attention::kernels::backward::{Backward, BackwardTile, Pass};
use crate::attention::kernels::variant::PositionsVariant;
use crate::layout::{DType, Layout};
use crate::runtime::context::Context;
use crate::runtime::tensor::Tensor;
use crate::runtime::testing::{Change, device, survivors};

/// Whether the device computes what the oracle says.
fn agrees(problem: &Problem, context: &Context) -> bool {
    let shape = &problem.shape;
    let (rows, keys) = (shape.q_len(), shape.kv_len());
    let upload =
        |heads, rows, dim, values: &[f32]| tensor(context, DType::F32, [2, heads, rows, dim], values);
    let [q, k, v] = &problem.qkv;
    let (q, k, v) = (upload(4, rows, 16, q), upload(2, keys, 16, k), upload(2, keys, 12, v));
    let d_output = upload(4, rows, 12, &problem.d_output);
    let layout = Layout::rows(2, 4, rows).unwrap();
    let d_lse = Tensor::upload(context, DType::F32, layout, &problem.d_lse).unwrap();
    let forward = problem.attention.plan(context, shape).unwrap();
    let forward = forward.run(q.view(), k.view(), v.view(), &problem.tables()).unwrap();
    let plan = problem.attention.plan_backward(context, shape).unwrap();
    let qkv = [q.view(), k.view(), v.view()];
    let got = plan.run(qkv, &forward, d_output.view(), Some(d_lse.view()), &problem.tables()).unwrap();
    let read = |tensor: Tensor| tensor.read_blocking(context).unwrap();
    problem.is_close(&Got {
        of_tensors: [got.dq, got.dk, got.dv].map(read),
        sinks: got.d_sinks.map(read),
        slopes: got.d_slopes.map(read),
    })
}

fn program(context: &Context, pass: Pass, problem: &Problem) -> Backward {
    let positions = problem.attention.positions().map_or(PositionsVariant::default(), PositionsVariant::of);
    let [head_dim, value_dim] = DIMS;
    let tile = BackwardTile { each: 1, step: 1, slices: 1 };
    let (storage, output) = (DType::F32, DType::F32);
    let masked = problem.attention.masks();
    let program = Backward { pass, tile, storage, output, head_dim, value_dim, positions, masked };
    program.fitted(context.capabilities())
}

fn assert_caught(name: &str, pass: Pass, problems: fn() -> Vec<Problem>, changes: &[Change]) {
    let Some(context) = device(name) else { return };
    let problems = problems();
    let of = program(&context, pass, &problems[0]);
    let found = survivors(&context, of, changes, || problems.iter().all(|problem| agrees(problem, &context)));
    assert!(found.is_empty(), "not caught: {found:#?}");
}

#[test]
fn every_mutant_of_what_rows_are_compared_with_is_caught() {
    let changes = [
        ("the gradient of the log-sum-exp is added", "delta -= d_lse", "delta += d_lse"),
        ("it is left out", "(params.flags & FLAG_LSE) != 0u {", "(params.flags & FLAG_LSE) == 7u {"),
        ("the log-sum-exp is in another unit", "* params.score_unit, -LOWEST", ", -LOWEST"),
        (
            "heads have each other's output",
            "query_at(axes.output, sequence, own.head,",
            "query_at(axes.output, sequence, 0u,",
        ),
        (
            "gradients are half there",
            "query_rows[row_at + c] = gradient",
            "query_rows[row_at + c] = 0.5 * gradient",
        ),
    ];
    assert_caught("mutants of attention_backward_delta", Pass::Delta, problems, &changes);
    let changes = [
        ("a sink's gradient is turned round", "d_sink = -exp(", "d_sink = exp("),
        ("heads have the first one's sink", "place = params.first_head + own.head", "place = 0u"),
        ("δ has no part in it", "- bitcast<f32>(bits)) * delta", "- bitcast<f32>(bits))"),
        ("its weight is of another base", "d_sink = -exp(", "d_sink = -exp2("),
    ];
    assert_caught("mutants of attention_backward_delta", Pass::Delta, of_heads, &changes);
}

#[test]
fn every_mutant_of_queries_is_caught() {
    let changes = [
        ("queries aren't scaled", "= params.scale * rotated", "= rotated"),
        ("they turn back", "partner(c)]), position, c)", "partner(c)]), -position, c)"),
        (
            "the second sequence has the first one's",
            "sequence.entry * axis.y + head * axis.z + (sequence.q_start",
            "head * axis.z + (sequence.q_start",
        ),
    ];
    assert_caught("mutants of attention_backward_queries", Pass::Queries, positioned, &changes);
}

#[test]
fn every_mutant_of_rows_is_caught() {
    let changes = [
        ("a query sees the key after it", "min(position + 1, kv_len)", "min(position + 2, kv_len)"),
        ("the window is one longer", "i32(params.window) + 1, 0)", "i32(params.window), 0)"),
        ("blocks' corrections are left out", "((s0_0 - bias) - ending0.x)", "(s0_0 - ending0.x)"),
        ("δ is left out", "(dp0_1 - ending0.y)", "dp0_1"),
        ("a soft-cap has no slope", "gain0_2 = 1.0 - tanh0_2 * tanh0_2", "gain0_2 = 1.0"),
        ("weights are of another base", "let p0_3 = exp2(2.0 * (", "let p0_3 = exp2(1.9 * ("),
        (
            "the last key is another one's",
            "j + i32(n / HEAD_QUADS), end_key - 1)",
            "j + i32(n / HEAD_QUADS), end_key - 2)",
        ),
        ("heads share no keys", "head / params.heads_per_kv", "head % 2u"),
        (
            "steps at edges are whole",
            "if j >= rows.all.lo && j + i32(STEP) <=",
            "if j >= 0 && j + i32(STEP) <=",
        ),
        ("all keys of such a step are seen", "j + t < own0.hi", "j + t < own0.hi + 1"),
        ("none before is hidden", "j + t >= own0.lo", "j + t >= 0"),
        ("gradients have the scale of scores", "params.scale / params.score_unit", "params.scale"),
        ("a part of a row's sums is lost", "dq0_1 += part0_1", "dq0_1 = part0_1"),
    ];
    assert_caught("mutants of attention_backward_rows", Pass::Rows, problems, &changes);
    let changes = [
        (
            "gradients don't turn back",
            "own_partner(i, slice)], -position0, c)",
            "own_partner(i, slice)], position0, c)",
        ),
        (
            "the factor is left out",
            "gain0_0 *= params.factor_length / (",
            "gain0_0 *= (params.factor_length + 1.0) / (",
        ),
        ("lags are one longer", "let lag0_1 = position0 - at1", "let lag0_1 = position0 - at1 + 1"),
        (
            "heads have the first one's slope",
            "sequence.slope_head + params.first_head + head",
            "sequence.slope_head + params.first_head",
        ),
    ];
    assert_caught("mutants of attention_backward_rows", Pass::Rows, positioned, &changes);
    let changes = [
        (
            "a slope has no factor",
            "return phi * (distance / (params.factor_length + distance))",
            "return phi",
        ),
        ("it has the soft-cap's slope", "let bent0_1 = change0_1 *", "let bent0_1 = ds0_1 *"),
        ("whole steps are turned round", "d_slope0 -= slope_part0", "d_slope0 += slope_part0"),
        ("a part of a step is lost", "slope_part1 += bent1_2", "slope_part1 = bent1_2"),
        ("hidden keys have a part", "d_slope0 -= select(0.0, bent0, seen0)", "d_slope0 -= bent0"),
        (
            "a slope's gradient isn't written",
            "slice == 0u { query_rows[from1",
            "slice == 9u { query_rows[from1",
        ),
    ];
    assert_caught("mutants of attention_backward_rows", Pass::Rows, of_heads, &changes);
    let changes = [
        (
            "heads have the first one's mask",
            "mask_row(sequence, params.first_head + head, safe_row1)",
            "mask_row(sequence, 0u, safe_row1)",
        ),
        (
            "a row has the first one's",
            "mask_row(sequence, params.first_head + head, safe_row2)",
            "mask_row(sequence, params.first_head + head, 0)",
        ),
        (
            "a key has another one's number",
            "mask_at0, min(j + 3, end_key - 1)",
            "mask_at0, min(j + 2, end_key - 1)",
        ),
        ("it is left out of a pair", "s1_0 += masked_by(sequence, mask_at1, min(j + 0, end_key - 1));", ""),
    ];
    assert_caught("mutants of attention_backward_rows", Pass::Rows, masked, &changes);
}

#[test]
fn every_mutant_of_keys_is_caught() {
    let changes = [
        (
            "the window ends early",
            "i32(params.window) - offset);\n    }",
            "i32(params.window) - offset - 1);\n    }",
        ),
        ("causal tiles begin late", "lo = max(lo, first - offset)", "lo = max(lo, first - offset + 1)"),
        ("only the first head of a group counts", "h < params.heads_per_kv;", "h < 1u;"),
        ("lists of the first group", "group * key_blocks + keys.block;", "keys.block;"),
        (
            "lists are of the next block",
            "group * key_blocks + keys.block;",
            "group * key_blocks + keys.block / 2u;",
        ),
        (
            "corrections are left out",
            "params.beta * bitcast<f32>(tables[list.pairs + 2u * entry + 1u]);\n    let offset",
            "0.0;\n    let offset",
        ),
        ("steps that some see are passed over", "late.hi <= keys.first ||", "late.hi <= keys.last ||"),
        ("steps at edges are whole", "early.hi > keys.last && late.lo <= keys.first", "true"),
        ("all queries of such a step see it", "safe_key0 >= own.lo && safe_key0 < own.hi", "true"),
        ("δ is another row's", "(dp0_1 - ending1.y)", "(dp0_1 - ending0.y)"),
        ("gradients of keys have the scale of scores", "1.0 / params.score_unit", "1.0"),
        ("a part of dv is lost", "dv0_1 += value_part0_1", "dv0_1 = value_part0_1"),
        ("keys that aren't there are written", "has_key0 = key0 <= keys.last", "has_key0 = key0 < keys.last"),
    ];
    assert_caught("mutants of attention_backward_keys", Pass::Keys, problems, &changes);
    let changes = [
        (
            "gradients don't turn back",
            "own_partner(i, slice)], -position0, c)",
            "own_partner(i, slice)], position0, c)",
        ),
        ("lags are one longer", "let lag0_1 = at1 - position0", "let lag0_1 = at1 - position0 + 1"),
    ];
    assert_caught("mutants of attention_backward_keys", Pass::Keys, positioned, &changes);
    let changes = [
        (
            "heads have the first one's mask",
            "mask_row(sequence, params.first_head + head, min(i + 1, last))",
            "mask_row(sequence, 0u, min(i + 1, last))",
        ),
        (
            "a query has the one's before it",
            "params.first_head + head, min(i + 2, last))",
            "params.first_head + head, min(i + 1, last))",
        ),
        ("a key has another one's number", "mask_at3, safe_key0)", "mask_at3, max(safe_key0, 1) - 1)"),
    ];
    assert_caught("mutants of attention_backward_keys", Pass::Keys, masked, &changes);
}

#[test]
fn every_mutant_of_heads_is_caught() {
    let changes = [
        ("only the first sequence counts", "n < params.work_items / params.heads", "n < 1u"),
        (
            "heads have the first one's rows",
            "axes.query_rows, sequence, head, 0u)",
            "axes.query_rows, sequence, 0u, 0u)",
        ),
        ("rows past the lanes are lost", "row < end; row += ROWS", "row < ROWS; row += ROWS"),
        ("a half of the lanes is lost", "sums[lane] += sums[lane + half]", "sums[lane] = sums[lane + half]"),
        ("sinks have the sums of slopes", "adds) + sums[0].x", "adds) + sums[0].y"),
        ("slopes have those of sinks", "adds) + sums[0].y", "adds) + sums[0].x"),
        ("all heads write to one place", "axes.d_slopes.x + place * axes.d_slopes.z", "axes.d_slopes.x"),
    ];
    assert_caught("mutants of attention_backward_heads", Pass::Heads, of_heads, &changes);
}
