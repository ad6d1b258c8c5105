//! Calibration: known answers, budgets, and the real model's layers. No GPU.

use prflash::calibration::{
    BlockStates, Calibration, Options, calibrate_mass, mass_variance, variance_optimal,
};
use prflash::reference::{self, DistanceMass};
use prflash::sampling::{Granularity, expected_blocks};
use prflash::{Attention, BlockGrid, Profile, Schedule, Seed, Shape, Systematic, Tables, random};

/// Q, K and V of one sequence.
struct Sample {
    attention: Attention,
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sample {
    /// Uniform numbers of this size in Q and K; values whose mean differs from block to block.
    fn random(heads: usize, kv_heads: usize, tokens: usize, size: f32) -> Self {
        let dim = 8;
        let uniform =
            |what: u32, i: usize| random::hash_words(&[what, i as u32]) as f32 / u32::MAX as f32 - 0.5;
        let part =
            |what, heads| (0..heads * tokens * dim).map(|i| size * uniform(what, i)).collect::<Vec<f32>>();
        let value = |i: usize| uniform(3, i) + 2.0 * uniform(4, i / (32 * dim) * dim + i % dim);
        Self {
            attention: Attention::causal(),
            shape: Shape::new(heads, kv_heads, tokens, dim).unwrap(),
            q: part(1, heads),
            k: part(2, kv_heads),
            v: (0..kv_heads * tokens * dim).map(value).collect(),
        }
    }

    fn grid(&self) -> BlockGrid {
        BlockGrid::causal(&self.shape).with_block_size(32).unwrap()
    }

    fn states_on(&self, grid: &BlockGrid, rows_per_block: usize) -> prflash::Result<BlockStates> {
        BlockStates::new(&self.attention, &self.shape, &self.q, &self.k, &self.v, grid, rows_per_block)
    }

    fn states(&self) -> BlockStates {
        self.states_on(&self.grid(), 4).unwrap()
    }
}

fn options(blocks: f64) -> Options {
    Options::new(blocks).unwrap()
}

#[test]
fn mass_in_the_window_picks_the_window() {
    // 129 visible keys lie in at most 5 blocks of 32.
    let mut sample = Sample::random(2, 1, 640, 1.0);
    sample.attention = sample.attention.with_window(129).unwrap();
    let calibration = sample.states().calibrate(&options(6.0)).unwrap();
    for head in &calibration.heads {
        let errors = head.errors.unwrap();
        assert_eq!(head.window_blocks, 5, "{head:?}");
        assert!(errors.calibrated < 1e-5 && errors.sink_window < 1e-5 && errors.default > 0.05, "{head:?}");
    }
}

/// Where all blocks weigh the same and differ at random, any of them would do. Where values drift
/// along the text, only far blocks tell.
#[test]
fn flat_mass_picks_a_slow_decay() {
    let mut sample = Sample::random(2, 1, 1280, 0.0);
    sample.v.iter_mut().enumerate().for_each(|(i, value)| *value = 0.1 * *value + i as f32 / 5000.0);
    let calibration = sample.states().calibrate(&options(8.0)).unwrap();
    for head in &calibration.heads {
        let errors = head.errors.unwrap();
        assert!(head.window_blocks <= 2 && head.alpha <= 1.0 && head.beta > 0.0, "{head:?}");
        assert!(errors.calibrated < 0.8 * errors.sink_window, "{head:?}");
    }
    let states = sample.states();
    let masses: Vec<_> = (0..2).map(|group| states.by_distance(group, 1)).collect();
    let from_mass = calibrate_mass(states.grid(), &masses, 1.0, &options(8.0)).unwrap();
    assert!(from_mass.heads.iter().all(|head| head.alpha <= 0.5 && head.beta == 1.0), "{from_mass:?}");
}

/// The combination of block states is the oracle's attention, for every query and any schedule and
/// β.
#[test]
fn errors_are_those_of_the_oracle() {
    for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
        let sample = Sample::random(4, 2, 300, 3.0);
        let grid = sample.grid().with_granularity(granularity);
        let states = sample.states_on(&grid, usize::MAX).unwrap();
        let of = |attention: &Attention, tables: &Tables<'_>| {
            reference::attention(attention, &sample.shape, &sample.q, &sample.k, &sample.v, tables)
                .unwrap()
                .output
        };
        let dense = of(&sample.attention, &Tables::new());
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(4)).unwrap();
        for beta in [0.0, 0.5, 1.0] {
            let sampled =
                of(&sample.attention.clone().with_correction(beta).unwrap(), &Tables::from(&schedule));
            let got = states.relative_errors(&schedule, beta).unwrap();
            let per_group = dense.len() / grid.groups();
            for (group, got) in got.iter().enumerate() {
                let part = group * per_group..(group + 1) * per_group;
                let (off, norm) = sampled[part.clone()]
                    .iter()
                    .zip(&dense[part])
                    .fold((0.0, 0.0), |(off, norm), (s, d)| (off + (s - d).powi(2), norm + d * d));
                let want = (off / norm).sqrt();
                assert!((got - want).abs() < 1e-5, "{granularity:?}, β = {beta}: {got} against {want}");
                assert!(want > 0.01, "the schedule leaves something out");
            }
        }
        let whole = states.relative_errors(&Schedule::dense(&grid).unwrap(), 1.0).unwrap();
        assert!(whole.iter().all(|&error| error < 1e-6), "{whole:?}");
    }
}

#[test]
fn calibrations_make_schedules_within_the_budget() {
    const BLOCKS: f64 = 5.5;
    let sample = Sample::random(4, 2, 640, 4.0);
    let grid = sample.grid();
    let states = sample.states();
    let calibration = states.calibrate(&options(BLOCKS)).unwrap();
    assert_eq!(calibration, states.calibrate(&options(BLOCKS)).unwrap(), "deterministic");
    let long = BlockGrid::causal(&Shape::new(4, 2, 6400, 8).unwrap()).with_block_size(32).unwrap();
    for grid in [grid, long] {
        let schedule = calibration.schedule(&grid, &Systematic, Seed::new(3)).unwrap();
        for (group, profile) in calibration.profiles().unwrap().iter().enumerate() {
            let rows = grid.query_blocks() as f64;
            let expected = expected_blocks(&grid, profile);
            let full: f64 = (1..=grid.query_blocks()).map(|row| BLOCKS.min(row as f64)).sum();
            assert!((expected - full).abs() < 1e-3, "list {group}: {expected} against {full}");
            assert!((schedule.list_blocks(group) as f64 - expected).abs() <= rows);
            for row in 0..grid.query_blocks() {
                let blocks = schedule.blocks(group, row);
                assert!(blocks.is_sorted_by(|a, b| a < b) && blocks[0] == 0 && blocks.ends_with(&[row]));
                assert!(blocks.len() <= BLOCKS.ceil() as usize);
                let beta = f64::from(calibration.heads[group].beta);
                for entry in schedule.row(group, row).skip(1) {
                    let p = profile_probability(profile, &grid, row, entry.block);
                    assert!((f64::from(entry.ln_p) - beta * p.ln()).abs() < 1e-5 * (1.0 + p.ln().abs()));
                }
            }
        }
    }
}

/// `p(d)` in a row of a causal grid.
fn profile_probability(profile: &Profile, grid: &BlockGrid, row: usize, block: usize) -> f64 {
    let table = profile.cumulative(grid.query_blocks());
    let sinks = profile.sink_blocks().min(row + 1);
    table.row(&(0..row + 1 - sinks), &(1..1), sinks).probability(row - block) as f64 / (1u64 << 32) as f64
}

#[test]
fn the_variance_optimal_allocation_adds_the_least_variance() {
    let grid = BlockGrid::causal(&Shape::new(1, 1, 32, 8).unwrap().with_kv_len(32 * 40).unwrap())
        .with_block_size(32)
        .unwrap();
    let cases: [fn(f64) -> f64; 4] =
        [|d| 1.0 / (1.0 + d), |d| (-d / 3.0).exp() + 1e-4, |_| 0.1, |d| 0.02 + 0.1 * (d % 7.0)];
    for mass in cases {
        let masses: Vec<DistanceMass> = (0..39)
            .map(|d| DistanceMass { pairs: 1, mean: mass(d.into()), mean_square: mass(d.into()).powi(2) })
            .collect();
        let best = mass_variance(&grid, &variance_optimal(6.0, &masses).unwrap(), &masses);
        for alpha in [0.0, 0.3, 0.5, 1.0, 1.2, 2.0, 3.0] {
            for window in 1..5 {
                let profile = Profile::budget_with(6.0, alpha).unwrap().with_window_blocks(window).unwrap();
                let variance = mass_variance(&grid, &profile, &masses);
                assert!(best <= variance * (1.0 + 1e-9), "{profile}: {best} against {variance}");
            }
        }
    }
    let nothing = [DistanceMass::default(); 3];
    assert_eq!(variance_optimal(6.0, &nothing).unwrap(), Profile::allocated(6.0, &[1.0]).unwrap());
}

/// On the real layers' first half the calibration, from values or from masses, loses no more than
/// the default does; the former by its criterion, the latter by measurement.
#[test]
fn real_layers_gain() {
    for layer in testkit::fixture::load(1920).unwrap() {
        let grid = BlockGrid::causal(&layer.shape);
        let attention = Attention::causal();
        let states =
            BlockStates::new(&attention, &layer.shape, &layer.q, &layer.k, &layer.v, &grid, 4).unwrap();
        let mass = reference::block_mass(&attention, &layer.shape, &layer.q, &layer.k, &grid).unwrap();
        let masses: Vec<_> = (0..3).map(|head| mass.by_distance(head, 1)).collect();
        for blocks in [4.0, 8.0] {
            let calibration = states.calibrate(&options(blocks)).unwrap();
            let from_mass = calibrate_mass(&grid, &masses, 0.5, &options(blocks)).unwrap();
            let fresh = options(blocks).with_seed(Seed::new(9)).with_seeds(16).unwrap();
            let from_mass = states.errors(&from_mass, &fresh).unwrap();
            for (head, from_mass) in calibration.heads.iter().zip(from_mass) {
                let errors = head.errors.unwrap();
                let story =
                    format!("layer {}, {blocks} blocks: {head:?}, from mass {from_mass:?}", layer.index);
                assert!(errors.calibrated <= errors.default, "{story}");
                assert!(errors.calibrated <= errors.uniform, "{story}");
                assert!(from_mass.calibrated <= from_mass.default * 1.02, "{story}");
            }
        }
    }
}

#[test]
fn distances_of_both_measures_agree() {
    let sample = Sample::random(2, 1, 320, 4.0);
    let states = sample.states_on(&sample.grid(), 32).unwrap();
    let mass = reference::block_mass(&sample.attention, &sample.shape, &sample.q, &sample.k, &sample.grid())
        .unwrap();
    for head in 0..2 {
        let (by_row, by_block) = (states.by_distance(head, 1), mass.by_distance(head, 1));
        assert_eq!((by_row.len(), by_block.len()), (9, 9), "block 0 is a sink");
        for (row, block) in by_row.iter().zip(&by_block) {
            assert_eq!(row.pairs, 32 * block.pairs);
            assert!((row.mean - block.mean).abs() < 1e-12);
            assert!(
                row.mean_square >= block.mean_square * (1.0 - 1e-12),
                "rows spread more than their means"
            );
        }
    }
    assert!(mass.by_distance(2, 0).is_empty() && states.by_distance(2, 0).is_empty());
}

#[test]
fn refusals_name_the_argument() {
    fn named<T>(result: prflash::Result<T>) -> String {
        result.err().unwrap().argument().unwrap().to_owned()
    }
    assert_eq!(named(Options::new(0.5)), "blocks");
    assert_eq!(named(options(4.0).with_seeds(0)), "seeds");
    let sample = Sample::random(2, 1, 96, 1.0);
    let grid = sample.grid();
    assert_eq!(named(sample.states_on(&grid, 0)), "rows_per_block");
    assert_eq!(named(sample.states_on(&BlockGrid::full(&sample.shape), 1)), "schedule");
    assert_eq!(named(Sample { k: vec![], ..Sample::random(2, 1, 96, 1.0) }.states_on(&grid, 1)), "k");
    assert_eq!(named(Sample { v: vec![], ..Sample::random(2, 1, 96, 1.0) }.states_on(&grid, 1)), "v");
    let mut spoilt = Sample::random(2, 1, 96, 1.0);
    spoilt.v[5] = f32::NAN;
    assert_eq!(named(spoilt.states_on(&grid, 32)), "q");

    let states = sample.states();
    let other = Schedule::dense(&grid.with_block_size(16).unwrap()).unwrap();
    assert_eq!(named(states.relative_errors(&other, 1.0)), "schedule");
    assert_eq!(named(states.heaviest_like(&other)), "schedule");
    assert_eq!(named(states.relative_errors(&Schedule::dense(&grid).unwrap(), 2.0)), "beta");
    let masses = vec![states.by_distance(0, 1); 2];
    assert_eq!(named(calibrate_mass(&grid, &masses[..1], 0.5, &options(2.0))), "masses");
    assert_eq!(named(calibrate_mass(&grid, &masses, 1.5, &options(2.0))), "beta");
    let infinite = [DistanceMass { mean_square: f64::INFINITY, ..DistanceMass::default() }];
    assert_eq!(named(variance_optimal(2.0, &infinite)), "masses");

    // What a file may hold after someone edited it.
    let good = states.calibrate(&options(2.0)).unwrap();
    let schedule = |edit: fn(&mut Calibration)| {
        let mut calibration = good.clone();
        edit(&mut calibration);
        calibration.schedule(&grid, &Systematic, Seed::new(1))
    };
    schedule(|_| {}).unwrap();
    assert_eq!(named(schedule(|c| c.blocks = f64::NAN)), "blocks");
    assert_eq!(named(schedule(|c| c.heads[0].window_blocks = 0)), "window_blocks");
    assert_eq!(named(schedule(|c| c.heads[1].alpha = -1.0)), "alpha");
    assert_eq!(named(schedule(|c| c.heads[1].beta = 1.5)), "betas");
    assert_eq!(named(schedule(|c| c.heads.truncate(1))), "profiles");
    assert_eq!(named(schedule(|c| c.block_size = 64)), "grid");
}

#[cfg(feature = "serde")]
#[test]
fn calibrations_survive_json() {
    let sample = Sample::random(2, 1, 320, 4.0);
    let calibration = sample.states().calibrate(&options(4.5)).unwrap();
    let text = serde_json::to_string(&calibration).unwrap();
    let back: Calibration = serde_json::from_str(&text).unwrap();
    assert_eq!(back, calibration, "{text}");
    let draw = |c: &Calibration| c.schedule(&sample.grid(), &Systematic, Seed::new(1)).unwrap();
    assert_eq!(draw(&back), draw(&calibration));
    assert!(serde_json::from_str::<Calibration>("{}").is_err());
}
