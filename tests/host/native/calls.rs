//! Calls of the native engine: ragged batches, plans shared by threads, refusals.

use crate::common::native::{Computed, Numbers, on, tensors};
use crate::common::{Problem, Storage, numbers};
use prflash::attention::{FirstPositions, PositionIds, Sequence};
use prflash::cache::{HostCache, SequenceId, Staircase, StoredKeys};
use prflash::native::{
    HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan, NativeQueries, RunningMerge,
};
use prflash::position::Pairing;
use prflash::rounds::Combine;
use prflash::sampling::partition_rounds;
use prflash::{
    Attention, Bias, BlockGrid, DType, Documents, Layout, Positions, Profile, Queries, Result, Rope,
    Schedule, Seed, Shape, Tables,
};

/// Sequences anywhere in the rows of their tensors give the bits of each alone; other rows are left
/// as they were.
#[test]
fn ragged_sequences_are_as_each_alone() {
    let rope = Rope::new(32, 1e4, Pairing::Half).unwrap();
    let positions = Positions::from(rope).with_bias(Bias::alibi()).with_max_positions(2000).unwrap();
    for attention in [
        Attention::causal().with_lse(true),
        Attention::full().with_window(20).unwrap().with_lse(true),
        Attention::causal().with_lse(true).with_positions(positions),
    ] {
        let shape = Shape::new(4, 2, 300, 32).unwrap().with_batch(2).unwrap();
        let problem = Problem::random(attention.clone(), shape, 3);
        let far = Some(FirstPositions { query: 900, key: 850 });
        let sequences = [
            Sequence { entry: 1, queries: 10..110, keys: 0..100, positions: None },
            Sequence { entry: 0, queries: 0..3, keys: 20..300, positions: None },
            Sequence { entry: 0, queries: 3..3, keys: 0..0, positions: None },
            Sequence { entry: 0, queries: 100..230, keys: 60..200, positions: far },
            Sequence { entry: 1, queries: 110..115, keys: 5..5, positions: None },
        ];
        let plan = attention.plan_native(&shape, &on(2)).unwrap();
        let [(q, at), (k, key_at), (v, value_at)] = &tensors(&problem, Storage::TokensFirst);
        let mut output = vec![9.0; at.extent()];
        let mut lse = vec![9.0; 2 * 4 * 300];
        let mut operands = NativeOperands {
            q: q.view(*at).unwrap(),
            k: k.view(*key_at).unwrap(),
            v: v.view(*value_at).unwrap(),
            output: HostViewMut::new(&mut output[..], *at).unwrap(),
            lse: Some(&mut lse),
        };
        plan.run_sequences(&mut operands, &sequences, &Tables::new()).unwrap();
        let lse_at = Layout::rows(2, 4, 300).unwrap();
        let mut written = [[false; 300]; 2];
        for sequence in &sequences {
            let Sequence { entry, queries, keys, positions } = sequence;
            let rows = |values: &[f32], heads: usize, rows: &std::ops::Range<usize>| -> Vec<f32> {
                let of_head = |head| {
                    let start = ((entry * heads + head) * 300 + rows.start) * 32;
                    values[start..start + rows.len() * 32].to_vec()
                };
                (0..heads).flat_map(of_head).collect()
            };
            let one = Shape::new(4, 2, queries.len(), 32).unwrap().with_kv_len(keys.len()).unwrap();
            let alone = Problem {
                attention: attention.clone(),
                options: problem.options.clone(),
                shape: one,
                q: rows(&problem.q, 4, queries),
                k: rows(&problem.k, 2, keys),
                v: rows(&problem.v, 2, keys),
            };
            let counted = |first: i64, len: usize| (0..len as i64).map(|i| (first + i) as u32).collect();
            let ids = positions.map(|FirstPositions { query, key }| {
                let (queries, keys): (Vec<u32>, Vec<u32>) =
                    (counted(query, queries.len()), counted(key, keys.len()));
                PositionIds::new(&queries, &keys).unwrap()
            });
            let tables = ids.iter().fold(Tables::new(), Tables::with_position_ids);
            let want = alone.run_native(&plan, Storage::HeadsFirst, &tables);
            for report in alone.judge_native(&want, &tables) {
                assert!(report.passed(), "{report}");
            }
            for (i, row) in queries.clone().enumerate() {
                written[*entry][row] = true;
                for head in 0..4 {
                    let place = at.index(*entry, head, row, 0);
                    let of_row = head * queries.len() + i;
                    assert_eq!(output[place..place + 32], want.output[of_row * 32..][..32]);
                    let lse = lse[lse_at.index(*entry, head, row, 0)];
                    assert_eq!(lse, want.lse.as_ref().unwrap()[of_row]);
                }
            }
        }
        for (entry, rows) in written.iter().enumerate() {
            for (row, _) in rows.iter().enumerate().filter(|(_, written)| !**written) {
                assert!(output[at.index(entry, 0, row, 0)..][..32].iter().all(|&x| x == 9.0));
                assert_eq!(lse[lse_at.index(entry, 3, row, 0)], 9.0);
            }
        }
    }
}

#[test]
fn plans_are_shared_by_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    for options in [NativeOptions::new(), on(1), on(2)] {
        let shape = Shape::new(4, 2, 150, 32).unwrap();
        let problem = Problem::random(Attention::causal().with_lse(true), shape, 1);
        let plan = problem.attention.plan_native(&shape, &options).unwrap();
        shared(&plan);
        let alone = problem.run_native(&plan, Storage::HeadsFirst, &Tables::new()).bits();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let got = problem.run_native(&plan, Storage::HeadsFirst, &Tables::new());
                        assert!(got.bits() == alone);
                    }
                });
            }
        });
    }
}

/// The same bits for every layout, and for a dense schedule of 64-token blocks.
#[test]
fn layouts_and_dense_schedules_change_no_bit() {
    let shape = Shape::new(4, 2, 300, 64).unwrap();
    for dtype in DType::ALL {
        let attention = Attention::causal().with_lse(true).with_storage(dtype);
        let problem = Problem::random(attention, shape, 8);
        let plan = problem.attention.plan_native(&shape, &on(1)).unwrap();
        let run = |storage, tables: &Tables<'_>| problem.run_native(&plan, storage, tables).bits();
        let bits = run(Storage::HeadsFirst, &Tables::new());
        assert!(bits == run(Storage::TokensFirst, &Tables::new()));
        assert!(bits == run(Storage::Fused, &Tables::new()));
        let schedule = Schedule::dense(&BlockGrid::causal(&shape)).unwrap();
        assert!(bits == run(Storage::HeadsFirst, &Tables::from(&schedule)));
    }
}

/// Perturbing the future leaves the past its bits.
#[test]
fn the_future_has_no_part_in_the_past() {
    let shape = Shape::new(2, 1, 200, 32).unwrap();
    let mut problem = Problem::random(Attention::causal().with_lse(true), shape, 2);
    let plan = problem.attention.plan_native(&shape, &on(1)).unwrap();
    let before = problem.run_native(&plan, Storage::HeadsFirst, &Tables::new());
    for number in problem.k[130 * 32..].iter_mut().chain(&mut problem.v[130 * 32..]) {
        *number = f32::NAN;
    }
    let after = problem.run_native(&plan, Storage::HeadsFirst, &Tables::new());
    let past = |got: &Computed| got.output[..130 * 32].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(past(&before) == past(&after));
    assert!(after.output[130 * 32..200 * 32].iter().all(|x| x.is_nan()));
}

/// Tensors for a plan of 4 heads on 2, 8 queries on 8 keys of 16 channels, with something changed.
fn call(
    plan: &NativePlan,
    change: impl FnOnce(&mut NativeOperands<'_>),
    sequences: Option<&[Sequence]>,
) -> Result<()> {
    let (q, k) = (Layout::heads_first(1, 4, 8, 16).unwrap(), Layout::heads_first(1, 2, 8, 16).unwrap());
    let values = numbers(1, q.elements());
    let mut output = vec![0.0; q.elements()];
    let mut lse = vec![0.0; 4 * 8];
    let mut operands = NativeOperands {
        q: HostView::new(&values[..], q).unwrap(),
        k: HostView::new(&values[..], k).unwrap(),
        v: HostView::new(&values[..], k).unwrap(),
        output: HostViewMut::new(&mut output[..], q).unwrap(),
        lse: Some(&mut lse),
    };
    change(&mut operands);
    match sequences {
        None => plan.run(&mut operands, &Tables::new()),
        Some(sequences) => plan.run_sequences(&mut operands, sequences, &Tables::new()),
    }
}

#[test]
fn refusals_name_the_argument() {
    let shape = Shape::new(4, 2, 8, 16).unwrap();
    let attention = Attention::causal().with_lse(true);
    let plan = attention.plan_native(&shape, &on(1)).unwrap();
    let view = |heads, len, dim| {
        static NUMBERS: [f32; 4096] = [0.0; 4096];
        HostView::new(&NUMBERS[..], Layout::heads_first(1, heads, len, dim).unwrap()).unwrap()
    };
    let named = |result: Result<()>| result.unwrap_err().argument().unwrap();
    assert!(call(&plan, |_| (), None).is_ok());
    assert_eq!(named(call(&plan, |operands| operands.q = view(2, 8, 16), None)), "q");
    assert_eq!(named(call(&plan, |operands| operands.k = view(2, 8, 32), None)), "k");
    assert_eq!(named(call(&plan, |operands| operands.v = view(2, 7, 16), None)), "v");
    assert_eq!(named(call(&plan, |operands| operands.q = view(4, 7, 16), None)), "output");
    assert_eq!(named(call(&plan, |operands| operands.lse = None, None)), "lse");
    let mut short = [0.0; 31];
    // The slice must outlive the call.
    let short: &'static mut [f32] = Box::leak(Box::from(&mut short[..]));
    assert_eq!(named(call(&plan, |operands| operands.lse = Some(short), None)), "lse");
    let small = attention.plan_native(&shape.with_kv_len(7).unwrap(), &on(1)).unwrap();
    assert_eq!(named(call(&small, |_| (), None)), "kv_len");
    let small = attention.plan_native(&shape.with_q_len(7).unwrap(), &on(1)).unwrap();
    assert_eq!(named(call(&small, |_| (), None)), "q_len");
    let halves = attention.clone().with_storage(DType::F16).plan_native(&shape, &on(1)).unwrap();
    assert_eq!(named(call(&halves, |_| (), None)), "q");

    let sequence = |entry, queries, keys| Sequence { entry, queries, keys, positions: None };
    let refused = |sequences: &[Sequence]| named(call(&plan, |_| (), Some(sequences)));
    assert_eq!(refused(&[sequence(1, 0..1, 0..1)]), "entry");
    assert_eq!(refused(&[sequence(0, 0..9, 0..1)]), "queries");
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 5..2;
    assert_eq!(refused(&[sequence(0, backwards.clone(), 0..1)]), "queries");
    assert_eq!(refused(&[sequence(0, 0..1, backwards)]), "keys");
    assert_eq!(refused(&[sequence(0, 0..1, 3..9)]), "keys");
    assert_eq!(refused(&[sequence(0, 0..3, 0..3), sequence(0, 2..4, 0..3)]), "sequences");
    let far = Some(FirstPositions { query: 9, key: 0 });
    let rotated = Positions::from(Rope::new(16, 1e4, Pairing::Half).unwrap());
    let turning = attention.clone().with_positions(rotated).plan_native(&shape, &on(1)).unwrap();
    let far = [Sequence { positions: far, ..sequence(0, 0..1, 0..1) }];
    assert_eq!(named(call(&turning, |_| (), Some(&far))), "sequences");
    let other = Positions::from(Rope::new(32, 1e4, Pairing::Half).unwrap());
    let refused = attention.clone().with_positions(other).plan_native(&shape, &on(1)).unwrap_err();
    assert_eq!(refused.argument(), Some("positions"));
}

#[test]
fn refused_tables_and_caches_name_the_argument() {
    let shape = Shape::new(4, 2, 8, 16).unwrap();
    let attention = Attention::causal();
    let plan = attention.plan_native(&shape, &on(1)).unwrap();
    let problem = Problem::random(attention, shape, 1);
    let refused = |tables: &Tables<'_>| {
        let [(q, at), (k, key_at), (v, value_at)] = &tensors(&problem, Storage::HeadsFirst);
        let mut output = Numbers::new(DType::F32, &vec![0.0; at.extent()]);
        let mut operands = NativeOperands {
            q: q.view(*at).unwrap(),
            k: k.view(*key_at).unwrap(),
            v: v.view(*value_at).unwrap(),
            output: output.view_mut(*at).unwrap(),
            lse: None,
        };
        plan.run(&mut operands, tables).unwrap_err().argument()
    };
    let documents = Documents::from_lengths(&[3, 4]).unwrap();
    assert_eq!(refused(&Tables::from(&documents)), Some("documents"));
    let ids = PositionIds::new(&[0; 8], &[0; 7]).unwrap();
    assert_eq!(refused(&Tables::from(&ids)), Some("position_ids"));
    let schedule = Schedule::dense(&BlockGrid::full(&shape)).unwrap();
    assert!(refused(&Tables::from(&schedule)).is_some());
    let whole = Documents::from_lengths(&[8]).unwrap();
    assert_eq!(refused(&Tables::from(&whole).with_documents(&whole)), Some("documents"));

    let new = |shape: &Shape| HostCache::new(Staircase::plain(), shape, StoredKeys::AfterRotation).unwrap();
    let run = |cache: &HostCache, queries: &[Queries]| {
        let at = Layout::heads_first(1, 4, 8, 16).unwrap();
        let mut output = vec![0.0; at.elements()];
        let mut operands = NativeQueries {
            q: HostView::new(&problem.q[..], at).unwrap(),
            output: HostViewMut::new(&mut output[..], at).unwrap(),
            lse: None,
        };
        plan.run_cached(cache, &mut operands, queries, &Tables::new())
    };
    let queries = |sequence, rows| Queries { sequence, entry: 0, rows, positions: None };
    let mut cache = new(&shape);
    let sequence = cache.add();
    cache.append(sequence, &numbers(1, 2 * 3 * 16), &numbers(2, 2 * 3 * 16)).unwrap();
    assert!(run(&cache, &[queries(sequence, 0..3)]).is_ok());
    let named = |result: Result<()>| result.unwrap_err().argument().unwrap();
    assert_eq!(named(run(&cache, &[queries(sequence, 0..4)])), "queries");
    assert_eq!(named(run(&cache, &[queries(SequenceId::new(5), 0..1)])), "sequence");
    assert_eq!(named(run(&cache, &[queries(sequence, 0..2), queries(sequence, 1..2)])), "sequences");
    assert_eq!(named(run(&new(&Shape::new(4, 1, 8, 16).unwrap()), &[])), "cache");
}

/// Rounds merged on the host are the oracle's merge; partition rounds end dense.
#[test]
fn rounds_merge_as_the_oracle_has_it() {
    let shape = Shape::new(4, 2, 150, 32).unwrap();
    let problem = Problem::random(Attention::causal().with_lse(true), shape, 11);
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let plan = problem.attention.plan_native(&shape, &on(1)).unwrap();
    let profile = Profile::harmonic();
    let all = partition_rounds(&grid, &profile, Seed::new(8), 4).unwrap();
    let mut partition = RunningMerge::new(Combine::Partition, 4 * 150, 32).unwrap();
    for schedule in &all {
        let got = problem.run_native(&plan, Storage::HeadsFirst, &Tables::from(schedule));
        partition.add(&got.output, got.lse.as_ref().unwrap()).unwrap();
    }
    let merged = Computed { output: partition.output().to_vec(), lse: Some(partition.lse().to_vec()) };
    for report in problem.judge_native(&merged, &Tables::new()) {
        assert!(report.passed(), "{report}");
    }
}

/// Views and options tell what they were made of.
#[test]
fn views_and_options_say_what_they_are() {
    let layout = Layout::heads_first(1, 2, 3, 4).unwrap();
    let halves = [half::f16::ZERO; 24];
    let view = HostView::new(&halves[..], layout).unwrap();
    assert_eq!((view.dtype(), *view.layout()), (DType::F16, layout));
    let mut output = [0.0; 24];
    let output = HostViewMut::new(&mut output[..], layout).unwrap();
    assert_eq!((output.dtype(), *output.layout()), (DType::F32, layout));
    assert_eq!(NativeOptions::new().threads(), None);
    assert_eq!(NativeOptions::new().with_threads(3).unwrap().threads(), Some(3));
}
