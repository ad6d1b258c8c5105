//! Calls that did panic, hang or answer wrongly, one by one.

use prflash::cache::Staircase;
use prflash::calibration::{BlockStates, Options};
use prflash::limits::{MAX_LEN, MAX_ROUNDS};
use prflash::position::{Distance, Pairing, Slopes};
use prflash::sampling::{RowOrder, Workers, partition_rounds};
use prflash::{
    Attention, BlockGrid, Layout, Profile, Result, Rope, Schedule, Seed, Shape, Systematic, reference,
};

#[track_caller]
fn too_large<T>(result: Result<T>, argument: &str) {
    let Err(error) = result else { panic!("{argument} was accepted") };
    assert!(error.is_too_large() && error.argument() == Some(argument), "{error}");
}

fn grid() -> BlockGrid {
    BlockGrid::causal(&Shape::new(2, 1, 64 * 5, 64).unwrap())
}

fn sample(grid: &BlockGrid, profile: &Profile) -> Schedule {
    Schedule::sample(grid, profile, &Systematic, Seed::new(1)).unwrap()
}

#[test]
fn a_length_of_zero_hides_nothing() {
    too_large(Shape::new(usize::MAX, 1, 0, 4), "heads");
    too_large(Shape::new(1, 1, 0, 4).and_then(|shape| shape.with_batch(usize::MAX)), "batch");
    too_large(Layout::heads_first(usize::MAX / 4, usize::MAX / 4, 0, 4), "dims");
}

#[test]
fn indices_past_a_layout_and_a_grid() {
    let layout = Layout::heads_first(1, 2, 3, 4).unwrap();
    assert_eq!(layout.index(usize::MAX, usize::MAX, usize::MAX, usize::MAX), usize::MAX);
    assert_eq!((grid().dense_row(i64::MAX), grid().dense_row(i64::MIN)), (5, 0));
    assert_eq!(Attention::causal().visible(i64::MIN, 5), 0..0);
    assert_eq!(Attention::full().visible(0, usize::MAX).start, 0);
}

#[test]
fn rounds_and_workers_without_number() {
    let harmonic = Profile::harmonic();
    for rounds in [usize::MAX, MAX_ROUNDS + 1] {
        too_large(partition_rounds(&grid(), &harmonic, Seed::new(1), rounds), "rounds");
    }
    let many = partition_rounds(&grid(), &harmonic, Seed::new(1), MAX_ROUNDS).unwrap();
    assert_eq!(many.iter().map(Schedule::visited_blocks).sum::<u64>(), grid().dense_blocks());
    let schedule = sample(&grid(), &harmonic);
    let with = |workers| schedule.load_balance(Workers::Dynamic(workers), RowOrder::AsIs);
    let all = with(schedule.grid().heads() * schedule.grid().query_blocks());
    assert_eq!((with(usize::MAX).makespan, with(usize::MAX).longest), (all.makespan, all.longest));
    too_large(Options::new(4.0).and_then(|options| options.with_seeds(u32::MAX)), "seeds");
}

#[test]
fn probabilities_at_distances_that_no_grid_has() {
    for profile in [Profile::harmonic(), Profile::budget(8.0).unwrap(), Profile::deduction(1e-3).unwrap()] {
        assert!(profile.probability(usize::MAX) <= profile.probability(1000));
        let table = profile.cumulative(4);
        let row = table.row(&(0..100), &(50..usize::MAX), 0);
        assert_eq!((row.probability(4), row.sum_below(usize::MAX)), (0, row.sum_below(4)));
    }
}

#[test]
fn tables_of_every_number() {
    too_large(Rope::new(usize::MAX - 1, 1e4, Pairing::Half), "head_dim");
    too_large(Slopes::Alibi.values(usize::MAX), "heads");
    too_large(Distance::Harmonic.table(usize::MAX), "len");
}

/// It was 25 seconds.
#[test]
fn ladders_for_the_longest_sequence() {
    let shape = Shape::new(8, 1, 1, 128).unwrap();
    let start = std::time::Instant::now();
    assert!(!Staircase::recommended().fitting(u64::MAX, MAX_LEN, &shape).is_empty());
    assert!(start.elapsed().as_secs() < 5);
}

/// A budget past all numbers keeps every block, whatever the window.
#[test]
fn a_calibration_for_too_many_blocks() {
    let shape = Shape::new(1, 1, 40, 4).unwrap();
    let numbers: Vec<f32> = (0..160).map(|i| (i as f32).sin()).collect();
    let grid = BlockGrid::causal(&shape).with_block_size(8).unwrap();
    let states =
        BlockStates::new(&Attention::causal(), &shape, &numbers, &numbers, &numbers, &grid, 2).unwrap();
    let calibration = states.calibrate(&Options::new(1e300).unwrap()).unwrap();
    assert!(calibration.heads[0].errors.unwrap().calibrated < 1e-6);
    assert_eq!(calibration.heads[0].window_blocks, 1);
}

/// List groups have columns of their own.
#[test]
fn a_column_past_the_keys_is_empty() {
    let shape = Shape::new(2, 1, 64 * 2, 64).unwrap();
    let columns = Schedule::dense(&BlockGrid::causal(&shape)).unwrap().transpose();
    assert_eq!(columns.column(1, 0), [(0, 0.0), (1, 0.0)]);
    for (group, block) in [(0, 2), (0, 3), (2, 0), (usize::MAX, 1), (0, usize::MAX)] {
        assert!(columns.column(group, block).is_empty());
    }
}

/// Blocks of weight 0 aren't kept, in rows with fewer blocks than the budget neither.
#[test]
fn no_weight_is_no_block() {
    let profile = Profile::allocated(4.0, &[1.0, 0.5, 0.0]).unwrap();
    let schedule = sample(&grid(), &profile);
    assert_eq!([2, 3, 4].map(|row| schedule.find(0, row, row - 2).is_some()), [true, false, false]);
    // But for sinks, of which block 0 is one.
    assert!((0..5).all(|row| schedule.find(0, row, 0).is_some()));
    let pinned = sample(&grid(), &profile.with_window_blocks(3).unwrap());
    assert!((2..5).all(|row| pinned.find(1, row, row - 2).is_some()));
}

#[test]
fn masses_of_heads_that_are_not_there() {
    let shape = Shape::new(2, 1, 8, 4).unwrap().with_batch(2).unwrap();
    let (q, k) = (vec![1.0; 2 * 2 * 8 * 4], vec![1.0; 2 * 8 * 4]);
    let grid = BlockGrid::causal(&shape).with_block_size(4).unwrap();
    let mass = reference::block_mass(&Attention::causal(), &shape, &q, &k, &grid).unwrap();
    assert!(mass.by_distance(usize::MAX, 0).is_empty() && !mass.by_distance(1, 0).is_empty());
}
