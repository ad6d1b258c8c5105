//! Mutants of the kernels that compute attention over tensors.

use super::problem::Problem;
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::documents::Documents;
use crate::attention::kernels::merge::MergeSplits;
use crate::attention::kernels::shapes::{Decode, Kernel, Matrix, Tile};
use crate::attention::kernels::variant::{PositionsVariant, Variant, Wide};
use crate::attention::plan_options::PlanOptions;
use crate::layout::DType;
use crate::position::{Pairing, Positions, Rope};
use crate::random::Seed;
use crate::runtime::context::Context;
use crate::runtime::program::Program;
use crate::runtime::testing::{Change, device, survivors};
use crate::sampling::{BlockGrid, Granularity, Profile, Schedule, Systematic};
use crate::shape::Shape;

const DIMS: [usize; 2] = [16, 12];

/// Two query heads on each key/value head, and values that are shorter than keys.
fn shape(q_len: usize, kv_len: usize) -> Shape {
    let shape = Shape::new(4, 2, q_len, DIMS[0]).unwrap().with_kv_len(kv_len).unwrap();
    shape.with_value_dim(DIMS[1]).unwrap()
}

/// Every option in some problem, lengths that end inside tiles, blocks and steps, rows that see
/// nothing, and values that aren't finite where only some rows see them.
fn problems(storage: DType, q_len: usize) -> Vec<Problem> {
    let causal = Attention::causal().with_storage(storage).with_output(DType::F32);
    let full = Attention::full().with_storage(storage).with_output(DType::F32);
    let corrected = causal.clone().with_correction(0.5).unwrap();
    let scheduled = |granularity, block_size| {
        let shape = shape(q_len, 90);
        let grid =
            BlockGrid::causal(&shape).with_block_size(block_size).unwrap().with_granularity(granularity);
        let profile = Profile::harmonic_with(0.5, 1.0).unwrap();
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(5)).unwrap();
        Problem { schedule: Some(schedule), ..Problem::new(corrected.clone(), shape) }
    };
    let capped = full.clone().with_window(27).unwrap().with_soft_cap(1.5).unwrap();
    let documents = Documents::from_lengths(&[q_len / 3, q_len - q_len / 3]).unwrap();
    let sunk = causal.clone().with_sinks(&[-2.0, 1.0, 3.0, 6.0]).unwrap();
    vec![
        Problem::new(sunk, shape(q_len, q_len / 2 + 1)),
        Problem::new(causal.clone(), shape(q_len, 90).with_batch(2).unwrap()),
        Problem::new(causal.clone(), shape(q_len, q_len / 2)),
        Problem::new(capped, shape(q_len, 90)),
        scheduled(Granularity::Head, 16),
        scheduled(Granularity::Shared, 128),
        scheduled(Granularity::KvHead, 16),
        Problem { documents: Some(documents), ..Problem::new(full, shape(q_len, q_len)) },
        Problem::new(causal, shape(q_len, 92)).with_value([1, 87, 5], f32::INFINITY),
    ]
}

/// Rotation of some channels, a harmonic bias and a factor.
fn positions() -> Positions {
    let rope = Rope::new(DIMS[0], 1e4, Pairing::Half).unwrap().with_rotary_dim(8).unwrap();
    Positions::doubly_harmonic(rope).with_harmonic_factor(4.0).unwrap()
}

fn positioned(q_len: usize) -> Vec<Problem> {
    let attention = Attention::causal().with_positions(positions());
    vec![
        Problem::new(attention.clone(), shape(q_len, 90)),
        Problem::new(attention.with_window(40).unwrap(), shape(q_len, 150)),
    ]
}

fn survivors_of(
    context: &Context,
    of: impl Program + Copy,
    options: &PlanOptions,
    problems: &[Problem],
    changes: &[Change],
) -> Vec<String> {
    let mut survivors =
        survivors(context, of, changes, || problems.iter().all(|problem| problem.agrees(context, options)));
    let lanes = context.capabilities().subgroup_sizes.map_or(1, |(_, most)| most);
    survivors.retain(|survivor| lanes < 16 || !IN_ORDER_OF_16.iter().any(|name| survivor.ends_with(name)));
    survivors
}

/// Dropped barriers that don't show where a software device computes 16 lanes at once and subgroups
/// one after the other: what is read is there by then. Devices with fewer lanes find them.
const IN_ORDER_OF_16: [&str; 2] =
    ["keys are read before all are there", "scores are read before all are there"];

fn by(kernel: Kernel) -> PlanOptions {
    PlanOptions::new().with_kernel(kernel)
}

fn assert_none(survivors: Vec<String>) {
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}

#[test]
fn every_mutant_of_the_naive_kernel_is_caught() {
    let Some(context) = device("mutants of attention_naive") else { return };
    let of = Variant::new(Kernel::Naive, DType::F32, DIMS);
    assert_none(survivors_of(
        &context,
        of,
        &by(Kernel::Naive),
        &problems(DType::F32, 70),
        &[
            ("a query sees the key after it", "min(position + 1, kv_len)", "min(position + 2, kv_len)"),
            ("the window is one longer", "i32(params.window) + 1, 0)", "i32(params.window), 0)"),
            (
                "the window is one longer ahead",
                "min(position + i32(params.window), hi)",
                "min(position + i32(params.window) + 1, hi)",
            ),
            ("documents aren't ended", "min(visible.hi, i32(tables[at + 1u]))", "visible.hi"),
            (
                "a block's numerator isn't rescaled",
                "state.numerator[c] * shrink + weight",
                "state.numerator[c] + weight",
            ),
            ("the row's sum isn't rescaled", "row_state.sum * keep", "row_state.sum"),
            ("β is ignored", "params.beta * bitcast<f32>", "bitcast<f32>"),
            (
                "heads read another's keys",
                "let kv_head = head / params.heads_per_kv;",
                "let kv_head = head % 2u;",
            ),
            (
                "every head has the lists of the first",
                "(params.first_head + head) / params.heads_per_list",
                "0u",
            ),
            ("the soft-cap has no size", "return params.soft_cap * select", "return select"),
            ("a coefficient of the soft-cap's series is rounded", "0.133314422036", "0.13"),
            (
                "heads write over each other's log-sum-exp",
                "sequence.lse_base + head * params.lse_head_stride",
                "sequence.lse_base",
            ),
            ("tiles go past their block", "min(i32(ROWS), block_size - first_in_block)", "i32(ROWS)"),
            (
                "a tile's keys begin with its last row's",
                "any = Visible(early.lo, late.hi)",
                "any = Visible(late.lo, late.hi)",
            ),
            ("rows without keys are NaN", "size == 0u || top", "top"),
            ("a sink changes no output", "end.normalizer *= beside.x;", ""),
            (
                "heads have each other's sinks",
                "params.sink_base + head / 4u][head % 4u]",
                "params.sink_base].x",
            ),
            ("empty rows have no sink", "== 0u || kind == ROW_NAN", "== 0u || kind != ROW_FINITE"),
            ("a sink below is taken for one above", "select(most, less * most, above > 0.0)", "less * most"),
            ("a sink's own weight isn't counted", "max(lse, sink) + log(1.0 + less)", "max(lse, sink)"),
            (
                "sequences are read at the first's place",
                "let sequence = index / (params.heads * params.tiles);",
                "let sequence = 0u;",
            ),
        ],
    ));
}

#[test]
fn every_mutant_of_direct_tiles_is_caught() {
    let Some(context) = device("mutants of attention_tiled") else { return };
    let kernel = Kernel::Tiled(Tile::new(1, 4, false).unwrap());
    let variant = Variant::new(kernel, DType::F32, DIMS);
    let changes: &[Change] = &[
        ("o isn't rescaled where the maximum rises", "o0_1 *= shrink0;", ""),
        ("the sum of a block isn't rescaled", "block_sum0 * shrink0 + p0", "block_sum0 + p0"),
        ("a row sees one key more", "j + t < own0.hi", "j + t <= own0.hi"),
        ("a row sees one key less", "j + t >= own0.lo", "j + t > own0.lo"),
        (
            "a step too many is taken whole",
            "<= min(rows.all.hi, end_key)",
            "<= min(rows.all.hi + 1, end_key)",
        ),
        ("a step is taken whole before all see it", "if j >= rows.all.lo &&", "if j + 1 >= rows.all.lo &&"),
        ("what isn't seen is multiplied by 0", "select(vec4<f32>(0.0), p0 * value_1, seen0)", "p0 * value_1"),
        (
            "the last score of a step is that before it",
            "select(s0, s0_3, t == 3)",
            "select(s0, s0_2, t == 3)",
        ),
        ("the log-sum-exp is in powers of two", "0.5 * log2(sum0)", "log2(sum0)"),
        ("every head has the first's sink", "own_lse, params.first_head + head)", "own_lse, 0u)"),
        ("a channel's products are another's", "fma(q0_3, key2_3,", "fma(q0_3, key2_2,"),
        ("the third key's weight isn't counted", "block_sum0 += p0_2;", ""),
        (
            "late tiles take the place of early ones",
            "tile = (query_block + 1u) * params.tiles_per_block - 1u - ",
            "tile = query_block * params.tiles_per_block - ",
        ),
    ];
    let problems = problems(DType::F32, 70);
    let of = Wide(variant);
    let found = match variant.wide_quads() {
        Some(_) => survivors_of(&context, of, &by(kernel), &problems, changes),
        None => survivors_of(&context, variant, &by(kernel), &problems, changes),
    };
    assert_none(found);
}

#[test]
fn every_mutant_of_staged_tiles_is_caught() {
    let Some(context) = device("mutants of staged attention_tiled") else { return };
    let kernel = Kernel::Tiled(Tile::new(2, 4, true).unwrap());
    let plain = Variant::new(kernel, DType::F32, DIMS);
    let of = Variant { positions: PositionsVariant::of(&positions()), ..plain };
    assert_none(survivors_of(
        &context,
        of,
        &by(kernel),
        &positioned(70),
        &[
            ("o isn't rescaled", "o1_1 * shrink1 + vec4<f32>(part1_1)", "o1_1 + vec4<f32>(part1_1)"),
            (
                "keys are overwritten while others read them",
                "workgroupBarrier();\n// Keys of a step, rotated",
                "// Keys of a step, rotated",
            ),
            (
                "keys are read before all are there",
                "% VALUE_QUADS]));\n            }\n            workgroupBarrier();",
                "% VALUE_QUADS]));\n            }",
            ),
            ("a key turns as the one before", "rotate_pairs(base0, step1_0)", "rotate_pairs(base0, step0_0)"),
            ("later steps turn as the first", "base1 = rotate_pairs(base1, leap1);", ""),
            ("channels that don't turn aren't there", "i < KEYS * REST_QUADS", "i < REST_QUADS"),
            ("the halves of a pair are swapped", "vec4<f32>(a0.xz, b0.xz)", "vec4<f32>(a0.yw, b0.yw)"),
            ("near lags are taken for far ones", "lowest >= i32(PHI_NEAR)", "lowest >= 0"),
            (
                "every head has the first's slope",
                "slope_of(sequence.slope_head + params.first_head + head)",
                "slope_of(sequence.slope_head)",
            ),
            ("the bias has no factor", "bias *= distance * whole;", ""),
            ("the fourth window's lag is the third's", "window0_0[3]", "window0_0[2]"),
            (
                "the factor is that of the next lag",
                "let whole = 1.0 / (params.factor_length + distance)",
                "let whole = 1.0 / (params.factor_length + distance + 1.0)",
            ),
        ],
    ));
}

#[test]
fn every_mutant_of_the_split_kernel_is_caught() {
    let Some(context) = device("mutants of attention_decode") else { return };
    let quads = context.capabilities().subgroup_sizes.is_some();
    // Few rows, which is what the kernel is for, and rows in several workgroups.
    let mut problems = problems(DType::F32, 3);
    problems.push(Problem::new(Attention::causal(), shape(20, 90)));
    for quads in [Some(false), quads.then_some(true)].into_iter().flatten() {
        let kernel = Kernel::Decode(Decode::new(1, quads).unwrap());
        let of = Variant::new(kernel, DType::F32, DIMS);
        let options = by(kernel).with_splits(3).unwrap();
        let mut changes: Vec<Change> = vec![
            (
                "the split's last block is left out",
                "entries * (split + 1u) / params.splits",
                // Of a list without entries nothing is left out: a range of -1 would take ages.
                "(max(entries * (split + 1u), 1u) - 1u) / params.splits",
            ),
            ("o isn't rescaled", "o0_1 = o0_1 * shrink0 + p0 * value;", "o0_1 = o0_1 + p0 * value;"),
            ("rows are of the first head", "first_head + safe0 % params.heads_each", "first_head"),
            ("the sum of a block isn't rescaled", "block_sum0 * shrink0 + p0", "block_sum0 + p0"),
            (
                "all see what most see",
                "j >= rows.all.lo && j < rows.all.hi",
                "j >= rows.all.lo && j <= rows.all.hi",
            ),
            (
                "later rows of a tile are left out",
                "let place0 = chunk * ROWS_HELD",
                "let place0 = 0u * ROWS_HELD",
            ),
            ("maximum and sum change places", "component == 1u", "component == 0u"),
        ];
        match quads {
            true => changes.push(("lanes add up two of four", "s0 += quadSwapY(s0);", "")),
            false => changes.push((
                "lanes add up three of four",
                "lane - component + 3u].x",
                "lane - component + 2u].x",
            )),
        }
        assert_none(survivors_of(&context, of, &options, &problems, &changes));
        if quads {
            continue;
        }
        let merge = MergeSplits { output: DType::F32, value_dim: DIMS[1] };
        let changes: &[Change] = &[
            (
                "splits weigh as if in powers of two",
                "exp2(2.0 * (state.x - highest))",
                "exp2(state.x - highest)",
            ),
            (
                "all splits weigh the same",
                "let weight = exp2(2.0 * (state.x - highest));",
                "let weight = 1.0;",
            ),
            (
                "the last split is left out",
                "var sum = 0.0;\n    var total = vec4<f32>(0.0);\n    for (var split = 0u; split < params.splits;",
                "var sum = 0.0;\n    var total = vec4<f32>(0.0);\n    for (var split = 0u; split < params.splits - 1u;",
            ),
            (
                "heads have each other's splits",
                "params.all_heads + params.first_head + head)",
                "params.all_heads + params.first_head)",
            ),
            ("rows have the first one's place", "row * params.o_row_stride", "0u"),
            ("heads have the first one's sink", "* LN_4, params.first_head + head)", "* LN_4, 0u)"),
        ];
        assert_none(survivors_of(&context, merge, &options, &problems, changes));
    }
}

/// Four lanes next to each other run in step on most devices, so that no result shows whether they
/// wait for each other: one wait after they have written their parts, one before they do so again.
#[test]
fn lanes_of_the_split_kernel_wait_for_each_other() {
    let kernel = Kernel::Decode(Decode::new(1, false).unwrap());
    let text = Variant::new(kernel, DType::F32, DIMS).source();
    let (_, after) = text.split_once("parts[0u * INVOCATIONS + lane].x = s0;").unwrap();
    let (between, after) = after.split_once("s0 = parts[").unwrap();
    assert_eq!(between.matches("workgroupBarrier();").count(), 1);
    let (end, _) = after.split_once("let everybody").unwrap();
    assert_eq!(end.matches("workgroupBarrier();").count(), 1);
}

#[test]
fn every_mutant_of_the_kernel_on_matrix_units_is_caught() {
    let Some(context) = device("mutants of attention_matrix") else { return };
    let kernel = Kernel::Matrix(Matrix::new(8, true, true).unwrap());
    let of = Variant { output: DType::F32, ..Variant::new(kernel, DType::F16, DIMS) };
    assert_none(survivors_of(
        &context,
        of,
        &by(kernel),
        &problems(DType::F16, 70),
        &[
            ("o isn't rescaled", "o0_1 *= shrink;", ""),
            (
                "the maximum is that of the lane's own keys",
                "raised = max(raised, sums[",
                "raised = max(raised, 0.0 * sums[",
            ),
            (
                "a lane's part of the weights is left out",
                "weight += sums[own_row * SUM_STRIDE + 2u * other + 1u];",
                "weight = sums[own_row * SUM_STRIDE + 2u * other + 1u];",
            ),
            (
                "scores are read before all are there",
                "score_task(task);\n            }\n            workgroupBarrier();",
                "score_task(task);\n            }",
            ),
            (
                "values are multiplied before all are there",
                "workgroupBarrier();\n            for (var task = subgroup; task < (ROWS / (2u * EDGE)) * (CHUNK",
                "for (var task = subgroup; task < (ROWS / (2u * EDGE)) * (CHUNK",
            ),
            ("the log-sum-exp keeps the weights' factor", "sum * (1.0 / WEIGHT_SCALE)", "sum"),
            ("heads have the first one's sink", "own_lse, params.first_head + head)", "own_lse, 0u)"),
            ("values that aren't finite pass", "quad &= ~bad;", ""),
            ("and are left out", "if look0 {", "if look0 && false {"),
            ("keys past the end aren't zeros", "let end = min(own.hi, end_key);", "let end = own.hi;"),
            (
                "a fragment takes the next one's keys",
                "load_right_turned(KEYS_AT + (key + EDGE) * HEAD_STRIDE + c",
                "load_right_turned(KEYS_AT + key * HEAD_STRIDE + c",
            ),
            (
                "a lane's part of the sum is left out",
                "sum += sums[own_row * SUM_STRIDE + 2u * other];",
                "sum = sums[own_row * SUM_STRIDE + 2u * other];",
            ),
        ],
    ));
}
