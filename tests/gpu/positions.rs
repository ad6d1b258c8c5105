//! Rotation and bias inside the kernels against the oracle: every pairing, distance and factor,
//! with everything else that shapes a score.

use crate::common::{Problem, Storage, by, gpu, matrix, stored_for, subgroups_only, zeros};
use prflash::attention::{FirstPositions, PositionIds, Sequence};
use prflash::kernels::{Decode, Kernel, Tile};
use prflash::position::{Distance, Pairing, Scaling, Slopes};
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, Bias, BlockGrid, Call, DType, Documents, Layout, PlanOptions, Positions, Profile, Rope,
    Schedule, Seed, Shape, Systematic, TableBuffer, Tables,
};

fn rope(dim: usize, rotary: usize, pairing: Pairing) -> Rope {
    Rope::new(dim, 1e4, pairing).unwrap().with_rotary_dim(rotary).unwrap()
}

fn shape(q_len: usize, kv_len: usize, dim: usize) -> Shape {
    Shape::new(4, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap()
}

fn tiles(staged: &[(usize, usize)], direct: &[(usize, usize)]) -> Vec<Option<Kernel>> {
    let tile = |staged| {
        move |&(rows, keys): &(usize, usize)| Some(Kernel::Tiled(Tile::new(rows, keys, staged).unwrap()))
    };
    staged.iter().map(tile(true)).chain(direct.iter().map(tile(false))).collect()
}

/// The combinations of rotation, bias and factor at one head dimension.
fn combinations(dim: usize) -> Vec<(&'static str, Positions)> {
    let half = |rotary| rope(dim, rotary, Pairing::Half);
    let interleaved = |rotary| rope(dim, rotary, Pairing::Interleaved);
    let log = Bias::new(Distance::Log { rate: 0.3 }, Slopes::Harmonic).unwrap();
    let capped = Bias::new(Distance::CappedHarmonic { cap: 37 }, Slopes::Harmonic).unwrap();
    let given = Bias::new(Distance::Harmonic, Slopes::Given(vec![0.0, 0.5, 3.0, 1.0])).unwrap();
    let partial = dim / 2 / 8 * 8;
    vec![
        ("half", Positions::from(half(dim))),
        ("interleaved", Positions::from(interleaved(dim))),
        ("partial half, capped", Positions::from(half(partial)).with_bias(capped.clone())),
        ("partial interleaved, ALiBi", Positions::from(interleaved(partial)).with_bias(Bias::alibi())),
        ("ALiBi", Positions::from(Bias::alibi())),
        ("log", Positions::from(log.clone())),
        ("given slopes", Positions::from(given.with_weight(0.7).unwrap())),
        ("paper", Positions::paper(half(dim), 16.0).unwrap()),
        ("recommended", Positions::doubly_harmonic(interleaved(dim))),
        ("factored log", Positions::from(log).with_harmonic_factor(100.0).unwrap()),
        ("factor alone", Positions::new().with_harmonic_factor(20.0).unwrap()),
        (
            "YaRN, capped, factored",
            Positions::from(half(dim).with_scaling(Scaling::yarn(4.0, 64)).unwrap())
                .with_bias(capped)
                .with_harmonic_factor(8.0)
                .unwrap(),
        ),
    ]
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
    let dim = 32;
    let positions = || {
        Positions::from(rope(dim, dim, Pairing::Half))
            .with_bias(Bias::harmonic())
            .with_harmonic_factor(50.0)
            .unwrap()
    };
    let causal = || Attention::causal().with_lse(true).with_positions(positions());
    let full = || Attention::full().with_lse(true).with_positions(positions());
    // rate·Δ is below 1.5e-4: 1 + rate·Δ in f32 keeps 11 bits of it.
    let steep = Bias::new(Distance::Log { rate: 1e-6 }, Slopes::Given(vec![1e6; 4])).unwrap();
    let steep = Attention::causal().with_lse(true).with_positions(steep.into());
    let cases = [
        ("window", causal().with_window(20).unwrap(), shape(150, 150, dim)),
        (
            "soft-cap and scale",
            causal().with_soft_cap(2.0).unwrap().with_scale(0.3).unwrap(),
            shape(150, 150, dim),
        ),
        ("decode", causal(), shape(1, 301, dim)),
        ("rows that see nothing", causal(), shape(90, 40, dim)),
        ("full", full(), shape(150, 150, dim)),
        ("full, queries before and after the keys", full(), shape(160, 37, dim)),
        ("full, window", full().with_window(9).unwrap(), shape(100, 130, dim)),
        ("no keys", causal(), shape(5, 0, dim)),
        ("f16", causal().with_storage(DType::F16).with_output(DType::F16), shape(100, 100, dim)),
        ("bf16", causal().with_storage(DType::Bf16), shape(100, 100, dim)),
        ("a logarithm of nearly 1, by a steep slope", steep, shape(150, 150, dim)),
        ("value dim", causal(), shape(60, 60, dim).with_value_dim(48).unwrap()),
    ];
    for (name, attention, shape) in cases {
        let problem = Problem::random(attention, shape, 4);
        problem.check(&context, Storage::TokensFirst, &Tables::new(), name);
    }
    let attention = causal().with_correction(1.0).unwrap();
    let problem = Problem::random(attention, shape(200, 260, dim), 4);
    let grid = BlockGrid::causal(&problem.shape).with_block_size(16).unwrap();
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
    problem.check(&context, Storage::HeadsFirst, &Tables::from(&schedule), "schedule with correction");
    let documents = Documents::from_lengths(&[90, 60, 50]).unwrap();
    let problem = Problem::random(causal(), shape(200, 200, dim), 4);
    problem.check(&context, Storage::Fused, &Tables::from(&documents), "documents");
}

#[test]
fn position_ids_rule_rotation_and_bias_alone() {
    let Some(context) = gpu("position_ids_rule_rotation_and_bias_alone") else { return };
    for (name, positions) in combinations(32)
        .into_iter()
        .filter(|(name, _)| ["half", "recommended", "paper", "log"].contains(name))
    {
        let positions = positions.with_max_positions(70_000).unwrap();
        let attention = Attention::causal().with_lse(true).with_positions(positions);
        let shape = shape(70, 100, 32).with_batch(2).unwrap();
        let problem = Problem::random(attention, shape, 9);
        // Scattered, repeated, descending, and past the low level of the table.
        let keys: Vec<u32> =
            (0..100u32).map(|j| (j * 7919) % 613 + if j > 60 { 69_000 } else { 0 }).collect();
        let queries: Vec<u32> = (0..70u32).map(|i| 500 - 7 * i).collect();
        let scattered = PositionIds::new(&queries, &keys).unwrap();
        let counted =
            PositionIds::new(&(30..100).collect::<Vec<_>>(), &(0..100).collect::<Vec<_>>()).unwrap();
        let tables = Tables::from(&scattered).with_position_ids(&counted);
        let kernels = [None, Some(Kernel::Naive), tiles(&[(1, 8)], &[])[0]];
        problem.check_kernels(&context, Storage::HeadsFirst, &tables, &kernels, name);
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
