//! Packed documents.

use crate::common::{Problem, Storage, gpu};
use prflash::{Attention, BlockGrid, DType, Documents, Profile, Schedule, Seed, Shape, Systematic, Tables};

#[test]
fn document_masks() {
    let Some(context) = gpu("document masks") else { return };
    for (case, lengths) in
        [vec![300], vec![1; 130], vec![0, 64, 64, 1, 129], vec![100, 3, 97], vec![63, 65, 2, 70]]
            .into_iter()
            .enumerate()
    {
        let len = lengths.iter().sum();
        let documents = Documents::from_lengths(&lengths).unwrap();
        for attention in [
            Attention::causal(),
            Attention::full(),
            Attention::causal().with_window(40).unwrap(),
            Attention::full().with_window(20).unwrap(),
        ] {
            let attention = attention.with_lse(true).with_storage(DType::ALL[case % 3]);
            let shape = Shape::new(4, 2, len, 32).unwrap();
            let grid =
                if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
            let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(8)).unwrap();
            let problem = Problem::random(attention, shape, case as u64);
            let masked = Tables::from(&documents);
            problem.check(&context, Storage::TokensFirst, &masked, &format!("documents {lengths:?}"));
            let both = masked.with_schedule(&schedule).unwrap();
            problem.check(&context, Storage::TokensFirst, &both, &format!("sampled documents {lengths:?}"));
        }
    }
    // Starts alone, where there are more keys than queries (chunked prefill), and fewer.
    for (q_len, kv_len) in [(50, 200), (90, 30)] {
        let starts: Vec<usize> = (0..q_len).map(|i| i / 20 * 30).collect();
        let documents = Documents::from_starts(&starts).unwrap();
        let shape = Shape::new(2, 1, q_len, 64).unwrap().with_kv_len(kv_len).unwrap();
        let problem = Problem::random(Attention::causal().with_lse(true), shape, 5);
        problem.check(&context, Storage::HeadsFirst, &Tables::from(&documents), "starts");
    }
}

#[test]
fn a_mask_for_each_sequence_of_a_batch() {
    let Some(context) = gpu("masks of a batch") else { return };
    let shape = Shape::new(2, 1, 100, 32).unwrap().with_batch(3).unwrap();
    let masks: Vec<Documents> = [vec![100], vec![30, 70], vec![50, 25, 25]]
        .iter()
        .map(|l| Documents::from_lengths(l).unwrap())
        .collect();
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let schedules: Vec<Schedule> = (0..3)
        .map(|s| {
            Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1).sequence(s)).unwrap()
        })
        .collect();
    let tables = masks.iter().fold(Tables::new(), Tables::with_documents);
    let tables = schedules.iter().try_fold(tables, Tables::with_schedule).unwrap();
    let problem = Problem::random(Attention::causal().with_lse(true), shape, 6);
    problem.check(&context, Storage::HeadsFirst, &tables, "a mask each");
}

/// Packed documents give, row for row, the bits of the documents alone where blocks fall alike.
#[test]
fn documents_do_not_see_each_other() {
    let Some(context) = gpu("isolated documents") else { return };
    let documents = Documents::from_lengths(&[64, 128, 64]).unwrap();
    let packed = Problem::random(Attention::causal(), Shape::new(1, 1, 256, 64).unwrap(), 7);
    let whole = packed.run(&context, Storage::HeadsFirst, &Tables::from(&documents));
    for range in [0..64, 64..192, 192..256] {
        let rows = |values: &[f32]| values[range.start * 64..range.end * 64].to_vec();
        let alone = Problem {
            attention: packed.attention.clone(),
            options: packed.options.clone(),
            shape: Shape::new(1, 1, range.len(), 64).unwrap(),
            q: rows(&packed.q),
            k: rows(&packed.k),
            v: rows(&packed.v),
        };
        assert_eq!(alone.run(&context, Storage::HeadsFirst, &Tables::new()).output, rows(&whole.output));
    }
}
