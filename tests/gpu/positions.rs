//! Rotation and bias inside the kernels against the oracle: every pairing, distance and factor,
//! with everything else that shapes a score.

use crate::common::cases::{
    combinations, position_ids, positions_with_everything_else, positions_with_tables, rope,
};
use crate::common::{Problem, Storage, by, gpu, matrix, stored_for, subgroups_only, zeros};
use prflash::attention::{FirstPositions, PositionIds, Sequence};
use prflash::kernels::{Decode, Kernel, Tile};
use prflash::position::Pairing;
use prflash::verify::{Tolerances, compare};
use prflash::{Attention, Call, DType, Layout, PlanOptions, Positions, Shape, TableBuffer, Tables};

fn shape(q_len: usize, kv_len: usize, dim: usize) -> Shape {
    Shape::new(4, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap()
}

fn tiles(staged: &[(usize, usize)], direct: &[(usize, usize)]) -> Vec<Option<Kernel>> {
    let tile = |staged| {
        move |&(rows, keys): &(usize, usize)| Some(Kernel::Tiled(Tile::new(rows, keys, staged).unwrap()))
    };
    staged.iter().map(tile(true)).chain(direct.iter().map(tile(false))).collect()
}

#[test]
fn every_combination_agrees_with_the_oracle() {
    let Some(context) = gpu("every_combination_agrees_with_the_oracle") else { return };
    let check = |name: &str,
                 positions: Positions,
                 (q_len, kv_len, dim): (usize, usize, usize),
                 kernels: &[Option<Kernel>]| {
        let attention = Attention::causal().with_lse(true).with_positions(positions);
        let problem = Problem::random(attention, shape(q_len, kv_len, dim), 21);
        let story = format!("{name}, D = {dim}, {q_len} × {kv_len}");
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), kernels, &story);
    };
    let both = [None, Some(Kernel::Naive)];
    for (name, positions) in combinations(32) {
        check(name, positions.clone(), (150, 150, 32), &both);
        check(name, positions, (70, 330, 32), &both);
    }
    // Steps of one, two and eight keys; rows whose keys turn in registers and in a loop; keys that
    // don't pass through workgroup memory.
    for (name, positions) in combinations(32) {
        let staged: &[_] = match name {
            "half" => &[(1, 1), (8, 2)],
            "recommended" => &[(2, 2), (1, 8)],
            "paper" => &[(1, 8)],
            _ => continue,
        };
        check(name, positions, (150, 150, 32), &tiles(staged, &[]));
    }
    for (name, positions) in
        combinations(32).into_iter().filter(|(name, _)| ["given slopes", "factored log"].contains(name))
    {
        check(name, positions, (150, 150, 32), &tiles(&[], &[(1, 4), (1, 2)]));
    }
    for (name, positions) in
        combinations(64).into_iter().filter(|(name, _)| ["half", "recommended"].contains(name))
    {
        check(name, positions, (150, 150, 64), &both);
    }
    for (name, positions) in combinations(80).into_iter().filter(|(name, _)| name.starts_with("partial")) {
        check(name, positions, (90, 90, 80), &both[..1]);
    }
    check(
        "recommended",
        Positions::doubly_harmonic(rope(128, 128, Pairing::Half)),
        (70, 90, 128),
        &both[..1],
    );
}

/// Few queries, whose keys are split: queries turn before the split, and keys where they are read.
#[test]
fn decode_kernels_take_positions() {
    let Some(context) = gpu("decode kernels with positions") else { return };
    let mut kernels = Vec::new();
    if !subgroups_only() {
        kernels.push(Some(Kernel::Decode(Decode::new(2, false).unwrap())));
    }
    if context.capabilities().subgroup_sizes.is_some() {
        kernels.push(Some(Kernel::Decode(Decode::new(1, true).unwrap())));
    }
    for (name, positions) in combinations(32) {
        let attention = Attention::causal().with_lse(true).with_positions(positions);
        let problem = Problem::random(attention, shape(3, 330, 32), 21)
            .with_options(PlanOptions::new().with_splits(3).unwrap());
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), &kernels, name);
    }
}

/// The kernel on matrix units, emulated; also at its own steps' positions, by ids, and where
/// rotated numbers would leave f16.
#[test]
fn matrix_kernels_take_positions() {
    let Some(context) = gpu("matrix kernels with positions") else { return };
    let kernels = [Some(matrix(16, true)), Some(matrix(8, false))];
    // Each pairing, whole and in part, each bias and the factor.
    let some = [
        "interleaved",
        "partial half, capped",
        "partial interleaved, ALiBi",
        "given slopes",
        "paper",
        "factored log",
    ];
    let chosen: Vec<_> = combinations(32).into_iter().filter(|(name, _)| some.contains(name)).collect();
    assert_eq!(chosen.len(), some.len(), "each by its name");
    for (case, (name, positions)) in chosen.into_iter().enumerate() {
        let attention = Attention::causal().with_lse(true).with_storage(DType::F16).with_positions(positions);
        let problem = Problem::random(attention, shape(70, 150, 32), 21);
        let kernels = &kernels[case % 2..][..1];
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::new(), kernels, name);
    }
    let positions = Positions::doubly_harmonic(rope(40, 24, Pairing::Half)).with_max_positions(700).unwrap();
    let attention = Attention::causal().with_lse(true).with_storage(DType::F16).with_positions(positions);
    let keys: Vec<u32> = (0..100u32).map(|j| (j * 7919) % 613).collect();
    let ids = PositionIds::new(&(0..70u32).map(|i| 500 - 7 * i).collect::<Vec<_>>(), &keys).unwrap();
    let problem = Problem::random(attention, shape(70, 100, 40), 9);
    problem.check_kernels(&context, Storage::HeadsFirst, &Tables::from(&ids), &kernels, "ids");
    // Turned by 45°, a pair of the largest numbers is √2 of it long in one channel.
    let attention = Attention::causal().with_positions(rope(32, 32, Pairing::Half).into());
    let attention = stored_for(attention, kernels[0]);
    let mut problem = Problem::random(attention, shape(40, 40, 32), 9).with_options(by(kernels[0]));
    problem.q.fill(65_504.0);
    problem.k.fill(65_504.0);
    let got = problem.run(&context, Storage::HeadsFirst, &Tables::new());
    assert!(got.output.iter().all(|x| x.is_finite()));
}

#[test]
fn positions_go_with_everything_else() {
    let Some(context) = gpu("positions_go_with_everything_else") else { return };
    for (name, attention, shape) in positions_with_everything_else() {
        Problem::random(attention, shape, 4).check(&context, Storage::TokensFirst, &Tables::new(), name);
    }
    for case in positions_with_tables() {
        case.problem.check(&context, case.storage, &case.tables(), &case.story);
    }
}

#[test]
fn position_ids_rule_rotation_and_bias_alone() {
    let Some(context) = gpu("position_ids_rule_rotation_and_bias_alone") else { return };
    let kernels = [None, Some(Kernel::Naive), tiles(&[(1, 8)], &[])[0]];
    for case in position_ids() {
        case.problem.check_kernels(&context, case.storage, &case.tables(), &kernels, &case.story);
    }
}

/// Offsets of a sequence are ids that count up; positions that both move by as much change nothing
/// but roundings; long contexts use both levels of the table.
#[test]
fn offsets_are_ids_that_count_up() {
    let Some(context) = gpu("offsets_are_ids_that_count_up") else { return };
    const FAR: i64 = 1_000_000;
    let positions =
        Positions::doubly_harmonic(rope(64, 64, Pairing::Half)).with_max_positions(1 << 20).unwrap();
    let attention = Attention::causal().with_positions(positions);
    let shape = shape(64, 130, 64);
    let problem = Problem::random(attention, shape, 2);
    let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
    for kernel in [None, Some(Kernel::Naive)] {
        let plan = problem.attention.plan_with(&context, &shape, &by(kernel)).unwrap();
        let run = |positions: Option<(i64, i64)>| {
            let positions = positions.map(|(query, key)| FirstPositions { query, key });
            let sequence = Sequence { queries: 0..64, keys: 0..130, positions, ..Sequence::default() };
            let output = zeros(&context, DType::F32, Layout::heads_first(1, 4, 64, 64).unwrap());
            let bound = plan.bind(&crate::common::operands(&qkv, &output)).unwrap();
            let mut encoder = context.device().create_command_encoder(&Default::default());
            plan.encode(&mut encoder, &bound, &Call::sequences(&[sequence])).unwrap();
            context.queue().submit([encoder.finish()]);
            output.read_blocking(&context).unwrap()
        };
        let counted = |first: u32, len: u32| (first..first + len).collect::<Vec<_>>();
        let far = PositionIds::new(&counted(FAR as u32 + 66, 64), &counted(FAR as u32, 130)).unwrap();
        let exact = problem.exact(&Tables::from(&far));
        let tolerance = Tolerances::of_output(&exact, &shape, DType::F32);
        let report = compare(&run(Some((FAR + 66, FAR))), &exact.output, &tolerance).unwrap();
        assert!(report.passed(), "offset: {report}");
        let here = problem.exact(&Tables::new());
        assert!(compare(&run(None), &here.output, &tolerance).unwrap().passed(), "no offset");
        assert!(compare(&run(Some((66, 0))), &here.output, &tolerance).unwrap().passed(), "default");
        // Another lag is another result: the test can fail.
        assert!(!compare(&run(Some((70, 0))), &here.output, &tolerance).unwrap().passed());
    }
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals_name_the_argument") else { return };
    let plan = |positions: Positions, kernel: Option<Kernel>| {
        let attention = Attention::causal().with_positions(positions);
        attention.plan_with(&context, &shape(8, 8, 64), &by(kernel))
    };
    let whole = || Positions::from(rope(64, 64, Pairing::Half));
    let wrong = plan(Positions::from(rope(32, 32, Pairing::Half)), None).unwrap_err();
    assert_eq!(wrong.argument(), Some("positions"));
    assert!(plan(Positions::from(rope(64, 12, Pairing::Half)), None).unwrap_err().is_unsupported());
    assert!(plan(Positions::from(rope(64, 6, Pairing::Interleaved)), None).unwrap_err().is_unsupported());
    let direct = Kernel::Tiled(Tile::new(1, 4, false).unwrap());
    assert!(plan(whole(), Some(direct)).unwrap_err().is_unsupported());
    let good = plan(whole(), None).unwrap();
    let late = PositionIds::new(&[0; 8], &[8; 8]).unwrap();
    let late = TableBuffer::new(&context, &Tables::from(&late)).unwrap();
    let problem = Problem::random(Attention::causal(), shape(8, 8, 64), 1);
    let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let output = zeros(&context, DType::F32, Layout::heads_first(1, 4, 8, 64).unwrap());
    let bound = good.bind(&crate::common::operands(&qkv, &output)).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let refused = good.encode(&mut encoder, &bound, &Call::lengths(8, 8).with_tables(&late)).unwrap_err();
    assert_eq!(refused.argument(), Some("position_ids"));
    let at = |first: i64, len: usize| {
        let positions = Some(FirstPositions { query: first, key: first });
        [Sequence { queries: 0..len, keys: 0..len, positions, ..Sequence::default() }]
    };
    let far = at(1, 8);
    let refused = good.encode(&mut encoder, &bound, &Call::sequences(&far)).unwrap_err();
    assert_eq!(refused.argument(), Some("sequences"));
    // Neither the ends of the number line nor empty sequences go wrong.
    for first in [i64::MAX, i64::MIN] {
        let far = at(first, 8);
        let refused = good.encode(&mut encoder, &bound, &Call::sequences(&far)).unwrap_err();
        assert_eq!(refused.argument(), Some("sequences"));
    }
    let empty = at(0, 0);
    good.encode(&mut encoder, &bound, &Call::sequences(&empty)).unwrap();
    let few = PositionIds::new(&[0; 7], &[0; 8]).unwrap();
    let tables = TableBuffer::new(good.context(), &Tables::from(&few)).unwrap();
    let refused = good.encode(&mut encoder, &bound, &Call::lengths(8, 8).with_tables(&tables)).unwrap_err();
    assert_eq!(refused.argument(), Some("position_ids"));
}
