//! Mutants of the kernels of the backward pass.

use super::problem::{numbers, tensor};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::documents::Documents;
use crate::attention::inputs::tables::Tables;
use crate::attention::kernels::backward::{Backward, BackwardTile, Pass};
use crate::attention::kernels::variant::PositionsVariant;
use crate::layout::{DType, Layout};
use crate::position::{Bias, Pairing, Positions, Rope};
use crate::random::Seed;
use crate::reference::{self, Gradients};
use crate::runtime::context::Context;
use crate::runtime::tensor::Tensor;
use crate::runtime::testing::{Change, device, survivors};
use crate::sampling::{BlockGrid, Granularity, Profile, Schedule, Systematic};
use crate::shape::Shape;
use crate::verify::{Tolerances, compare};

const DIMS: [usize; 2] = [16, 12];

/// A problem with the oracle's gradients.
struct Problem {
    attention: Attention,
    shape: Shape,
    schedule: Option<Schedule>,
    documents: Option<Documents>,
    qkv: [Vec<f32>; 3],
    d_output: Vec<f32>,
    d_lse: Vec<f32>,
    exact: Option<Gradients>,
}

impl Problem {
    fn new(attention: Attention, [q_len, kv_len]: [usize; 2]) -> Self {
        let shape = Shape::new(4, 2, q_len, DIMS[0]).unwrap().with_kv_len(kv_len).unwrap();
        let shape = shape.with_value_dim(DIMS[1]).unwrap().with_batch(2).unwrap();
        let (rows, keys) = (2 * 4 * q_len, 2 * 2 * kv_len);
        let of = |seed, count| numbers(seed, count, 1.5, DType::F32);
        Self {
            attention: attention.with_lse(true),
            shape,
            schedule: None,
            documents: None,
            qkv: [of(1, rows * DIMS[0]), of(2, keys * DIMS[0]), of(3, keys * DIMS[1])],
            d_output: of(4, rows * DIMS[1]),
            d_lse: of(5, rows),
            exact: None,
        }
    }

    fn tables(&self) -> Tables<'_> {
        let tables = self.schedule.as_ref().map_or(Tables::new(), Tables::from);
        self.documents.as_ref().into_iter().fold(tables, Tables::with_documents)
    }

    /// With what the oracle says.
    fn told(mut self) -> Self {
        let [q, k, v] = &self.qkv;
        let (d_output, d_lse) = (&self.d_output, Some(&self.d_lse[..]));
        let exact = reference::attention_backward(
            &self.attention,
            &self.shape,
            [q, k, v],
            d_output,
            d_lse,
            &self.tables(),
        );
        self.exact = Some(exact.unwrap());
        self
    }

    fn agrees(&self, context: &Context) -> bool {
        let (shape, exact) = (&self.shape, self.exact.as_ref().unwrap());
        let (rows, keys) = (shape.q_len(), shape.kv_len());
        let upload =
            |heads, rows, dim, values: &[f32]| tensor(context, DType::F32, [2, heads, rows, dim], values);
        let [q, k, v] = &self.qkv;
        let (q, k, v) = (upload(4, rows, 16, q), upload(2, keys, 16, k), upload(2, keys, 12, v));
        let d_output = upload(4, rows, 12, &self.d_output);
        let d_lse =
            Tensor::upload(context, DType::F32, Layout::rows(2, 4, rows).unwrap(), &self.d_lse).unwrap();
        let forward = self.attention.plan(context, shape).unwrap();
        let forward = forward.run(q.view(), k.view(), v.view(), &self.tables()).unwrap();
        let plan = self.attention.plan_backward(context, shape).unwrap();
        let qkv = [q.view(), k.view(), v.view()];
        let got = plan.run(qkv, &forward, d_output.view(), Some(d_lse.view()), &self.tables()).unwrap();
        [
            (got.dq, &exact.dq, &exact.dq_terms),
            (got.dk, &exact.dk, &exact.dk_terms),
            (got.dv, &exact.dv, &exact.dv_terms),
        ]
        .into_iter()
        .all(|(got, want, terms)| {
            let tolerances = Tolerances::of_gradient(terms, shape, DType::F32, DType::F32);
            compare(&got.read_blocking(context).unwrap(), want, tolerances).unwrap().passed()
        })
    }
}

/// Every option in some problem, lengths that end inside tiles, blocks and steps.
fn problems() -> Vec<Problem> {
    let (causal, full) = (Attention::causal(), Attention::full());
    let corrected = causal.clone().with_correction(0.5).unwrap();
    let scheduled = |granularity, block_size| {
        let problem = Problem::new(corrected.clone(), [70, 90]);
        let grid = BlockGrid::causal(&problem.shape).with_block_size(block_size).unwrap();
        let profile = Profile::harmonic_with(0.5, 1.0).unwrap();
        let grid = grid.with_granularity(granularity);
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(5)).unwrap();
        Problem { schedule: Some(schedule), ..problem }
    };
    let documents = Documents::from_lengths(&[31, 59]).unwrap();
    let problems = vec![
        Problem::new(causal.clone(), [70, 90]),
        Problem::new(causal.clone(), [90, 37]),
        Problem::new(causal.with_window(27).unwrap(), [90, 90]),
        Problem::new(full.clone().with_window(27).unwrap().with_soft_cap(1.5).unwrap(), [70, 90]),
        scheduled(Granularity::Head, 16),
        scheduled(Granularity::KvHead, 128),
        Problem { documents: Some(documents), ..Problem::new(full, [90, 90]) },
    ];
    problems.into_iter().map(Problem::told).collect()
}

/// Rotation of some channels, ALiBi and a factor.
fn positioned() -> Vec<Problem> {
    let rope = Rope::new(DIMS[0], 1e4, Pairing::Half).unwrap().with_rotary_dim(8).unwrap();
    let rope = rope.with_temperature(1.2).unwrap();
    let positions = Positions::from(rope).with_bias(Bias::alibi()).with_harmonic_factor(4.0).unwrap();
    let problem = Problem::new(Attention::causal().with_positions(positions), [70, 90]);
    vec![problem.told()]
}

fn program(context: &Context, pass: Pass, problem: &Problem) -> Backward {
    let positions = problem.attention.positions().map_or(PositionsVariant::default(), PositionsVariant::of);
    let [head_dim, value_dim] = DIMS;
    let tile = BackwardTile { each: 1, step: 1, slices: 1 };
    let (storage, output) = (DType::F32, DType::F32);
    let program = Backward { pass, tile, storage, output, head_dim, value_dim, positions };
    program.fitted(context.capabilities())
}

fn assert_caught(name: &str, pass: Pass, problems: fn() -> Vec<Problem>, changes: &[Change]) {
    let Some(context) = device(name) else { return };
    let problems = problems();
    let of = program(&context, pass, &problems[0]);
    let found = survivors(&context, of, changes, || problems.iter().all(|problem| problem.agrees(&context)));
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
            "j + i32(i / HEAD_QUADS), end_key - 1)",
            "j + i32(i / HEAD_QUADS), end_key - 2)",
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
}
