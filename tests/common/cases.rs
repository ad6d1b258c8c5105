//! Every parity case, defined once: kernels on a device and the native engine on cores are compared
//! with the oracle over the same grid.

use prflash::attention::{Mask, PositionIds};
use prflash::position::{Distance, Pairing, Scaling, Slopes};
use prflash::sampling::Granularity;
use prflash::{
    Attention, Bias, BlockGrid, DType, Documents, Positions, Profile, Rope, Schedule, Seed, Shape,
    Systematic, Tables,
};

use super::{Problem, Storage};

pub const DIMS: [usize; 6] = [32, 64, 80, 96, 128, 256];
pub const RATIOS: [usize; 3] = [1, 3, 8];
pub const LAYOUTS: [Storage; 3] = [Storage::HeadsFirst, Storage::TokensFirst, Storage::Fused];

/// A problem, how its tensors lie, and its tables.
pub struct Case {
    pub story: String,
    pub problem: Problem,
    pub storage: Storage,
    pub schedules: Vec<Schedule>,
    pub documents: Vec<Documents>,
    pub ids: Vec<PositionIds>,
    pub masks: Vec<Mask>,
}

impl Case {
    pub fn new(story: impl Into<String>, problem: Problem, storage: Storage) -> Self {
        let (schedules, documents, ids, masks) = Default::default();
        Self { story: story.into(), problem, storage, schedules, documents, ids, masks }
    }

    pub fn tables(&self) -> Tables<'_> {
        let tables = self.documents.iter().fold(Tables::new(), Tables::with_documents);
        let tables = self.ids.iter().fold(tables, Tables::with_position_ids);
        let tables = self.masks.iter().fold(tables, Tables::with_mask);
        self.schedules.iter().try_fold(tables, Tables::with_schedule).unwrap()
    }
}

/// Options that change with the case number, so that the grid meets each of them many times.
pub fn options(case: usize, dtype: DType) -> Attention {
    let mut attention = if case % 5 == 4 { Attention::full() } else { Attention::causal() };
    if case % 4 == 1 {
        attention = attention.with_window(1 + case % 70).unwrap();
    }
    if case % 7 == 3 {
        attention = attention.with_soft_cap(1.5).unwrap();
    }
    if case % 6 == 5 {
        attention = attention.with_scale(0.3).unwrap();
    }
    let output = if case.is_multiple_of(3) { dtype } else { DType::F32 };
    attention.with_storage(dtype).with_output(output).with_lse(case.is_multiple_of(2))
}

/// One type of output for a type of storage at each head dimension, since each pair is another
/// pipeline to compile for every kernel. Every pair comes with half of the dimensions.
fn output(dim: usize, dtype: DType) -> DType {
    if dim.is_multiple_of(2) { dtype } else { DType::F32 }
}

fn grid_of(attention: &Attention, shape: &Shape) -> BlockGrid {
    if attention.is_causal() { BlockGrid::causal(shape) } else { BlockGrid::full(shape) }
}

fn harmonic(grid: &BlockGrid, seed: Seed) -> Schedule {
    Schedule::sample(grid, &Profile::harmonic(), &Systematic, seed).unwrap()
}

/// A schedule of blocks of so many tokens for a problem.
pub fn harmonic_schedule(problem: &Problem, block: usize) -> Schedule {
    let grid = grid_of(&problem.attention, &problem.shape).with_block_size(block).unwrap();
    harmonic(&grid, Seed::new(3))
}

/// Lengths below, at and above tiles, with every head dimension, sharing of heads, type and layout.
pub fn short_lengths() -> impl Iterator<Item = Case> {
    let dims = DIMS.into_iter().enumerate();
    let sizes = dims.flat_map(|(index, dim)| [1, 17, 63, 64, 65, 127].map(|len| (index, dim, len)));
    let sizes = sizes.flat_map(|(index, dim, len)| RATIOS.map(|ratio| (index, dim, len, ratio)));
    let sizes = sizes.flat_map(|size| DType::ALL.map(|dtype| (size, dtype)));
    sizes.enumerate().map(|(case, ((index, dim, len, ratio), dtype))| {
        let case = case + 1;
        let kv_heads = 1 + case % 2;
        let shape = Shape::new(ratio * kv_heads, kv_heads, len, dim).unwrap();
        let attention = options(case, dtype).with_output(output(index, dtype));
        // Another layout each time, and for each type in turn.
        let storage = LAYOUTS[(case + case / 3) % 3];
        Case::new(format!("case {case}"), Problem::random(attention, shape, case as u64), storage)
    })
}

/// Every type with two dimensions, and every ratio with two types.
pub fn a_thousand_tokens() -> impl Iterator<Item = Case> {
    DIMS.into_iter().enumerate().map(|(case, dim)| {
        let (dtype, ratio) = (DType::ALL[case % 3], RATIOS[(case + case / 3) % 3]);
        let shape = Shape::new(ratio, 1, 1000, dim).unwrap();
        let problem = Problem::random(options(4 * case, dtype).with_lse(true), shape, case as u64);
        Case::new(format!("case {case}"), problem, LAYOUTS[case / 2 % 3])
    })
}

pub fn queries_and_keys_of_different_lengths() -> impl Iterator<Item = Case> {
    let lens = [(1, 127), (1, 1000), (17, 64), (63, 65), (64, 127), (127, 64), (65, 1), (5, 0), (0, 5)];
    lens.into_iter().cycle().take(54).enumerate().map(|(case, (q_len, kv_len))| {
        let (dim, ratio) = (DIMS[case % 6], RATIOS[case / 9 % 3]);
        let shape = Shape::new(2 * ratio, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let dtype = DType::ALL[case / 6 % 3];
        let attention = options(case, dtype).with_output(output(case % 6, dtype));
        let problem = Problem::random(attention, shape, case as u64);
        Case::new(format!("case {case}"), problem, LAYOUTS[case % 2])
    })
}

pub fn batches_and_value_dims() -> impl Iterator<Item = Case> {
    let dims = [(64, 32), (32, 64), (96, 4), (4, 96), (128, 80)].into_iter().enumerate();
    let cases = dims.flat_map(|case| LAYOUTS.map(|storage| (case, storage)));
    cases.map(|((case, (dim, value_dim)), storage)| {
        let shape = Shape::new(4, 2, 70, dim).unwrap().with_batch(3).unwrap();
        let shape = shape.with_value_dim(value_dim).unwrap();
        let attention = options(case, DType::ALL[case % 3]).with_lse(true);
        let problem = Problem::random(attention, shape, case as u64);
        Case::new(format!("value dim {value_dim}"), problem, storage)
    })
}

pub fn schedules_with_correction() -> impl Iterator<Item = Case> {
    let granularities = [Granularity::Head, Granularity::KvHead, Granularity::Shared];
    let lens = [(300, 300), (100, 333), (1, 500), (200, 70), (257, 257), (30, 0)];
    lens.into_iter().cycle().take(36).enumerate().map(move |(case, (q_len, kv_len))| {
        let shape = Shape::new(6, 2, q_len, 64).unwrap().with_kv_len(kv_len).unwrap();
        let beta = [0.0, 0.5, 1.0][case % 3];
        let attention =
            options(case, DType::ALL[case / 12 % 3]).with_correction(beta).unwrap().with_lse(true);
        let grid = grid_of(&attention, &shape)
            .with_block_size([16, 64, 128, 24][case % 4])
            .unwrap()
            .with_granularity(granularities[case % 3]);
        let profile = Profile::harmonic_with(1.0 + (case % 3) as f64, 1.5).unwrap();
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(case as u64)).unwrap();
        let problem = Problem::random(attention, shape, case as u64);
        let story = format!("case {case}, {grid:?}");
        Case { schedules: vec![schedule], ..Case::new(story, problem, LAYOUTS[case % 2]) }
    })
}

pub fn other_head_dims() -> impl Iterator<Item = Case> {
    let dims = [40, 72, 112, 192, 4, 100, 248].into_iter().enumerate();
    let cases = dims.flat_map(|(case, dim)| [65, 200].map(|len| (case, dim, len)));
    cases.enumerate().map(|(index, (case, dim, len))| {
        let step = index % 2;
        let shape = Shape::new(3, 1, len, dim).unwrap();
        let attention = options(case + 2 * step, DType::ALL[(case + step) % 3]);
        let problem = Problem::random(attention, shape, case as u64);
        Case::new(format!("head dim {dim}"), problem, LAYOUTS[step])
    })
}

/// Heads wider than most: global layers of 512 channels, and rows of which a latent attention's
/// values are a part. Few queries and many, shared heads, every type; with a rotation of some
/// channels, a window, a schedule.
pub fn wide_heads() -> impl Iterator<Item = Case> {
    let dims = [(512, 512), (576, 512), (260, 300), (576, 576)];
    let lens = [(70, 70), (1, 700), (3, 130), (66, 133)];
    let sizes = dims.into_iter().flat_map(move |dims| lens.map(|lens| (dims, lens)));
    sizes.enumerate().map(|(case, ((dim, value_dim), (q_len, kv_len)))| {
        let (heads, kv_heads) = [(5, 1), (4, 2)][case / 4 % 2];
        let shape = Shape::new(heads, kv_heads, q_len, dim).unwrap();
        let shape = shape.with_kv_len(kv_len).unwrap().with_value_dim(value_dim).unwrap();
        let dtype = DType::ALL[(case + case / 4) % 3];
        let mut attention = Attention::causal().with_storage(dtype).with_lse(true);
        if case % 5 == 2 {
            attention = attention.with_positions(Positions::from(rope(dim, 64, Pairing::Interleaved)));
        }
        if case % 4 == 3 {
            attention = attention.with_window(50).unwrap();
        }
        let grid = grid_of(&attention, &shape).with_block_size(32).unwrap();
        let schedules = (case % 7 == 3).then(|| harmonic(&grid, Seed::new(5))).into_iter().collect();
        let problem = Problem::random(attention, shape, case as u64);
        let story = format!("wide heads, case {case}");
        Case { schedules, ..Case::new(story, problem, LAYOUTS[case % 2]) }
    })
}

/// Packed documents, alone and with a schedule; starts alone, where there are more keys than
/// queries (chunked prefill), and fewer.
pub fn documents() -> impl Iterator<Item = Case> {
    let lengths = [vec![300], vec![1; 130], vec![0, 64, 64, 1, 129], vec![100, 3, 97], vec![63, 65, 2, 70]];
    let packed = lengths.into_iter().enumerate().flat_map(|(case, lengths)| {
        let attentions = [
            Attention::causal(),
            Attention::full(),
            Attention::causal().with_window(40).unwrap(),
            Attention::full().with_window(20).unwrap(),
        ];
        attentions.into_iter().flat_map(move |attention| {
            let len = lengths.iter().sum();
            let attention = attention.with_lse(true).with_storage(DType::ALL[case % 3]);
            let shape = Shape::new(4, 2, len, 32).unwrap();
            let schedule = harmonic(&grid_of(&attention, &shape), Seed::new(8));
            [vec![], vec![schedule]].map(|schedules| {
                let problem = Problem::random(attention.clone(), shape, case as u64);
                let story = format!("documents {lengths:?}, {} schedules", schedules.len());
                let documents = vec![Documents::from_lengths(&lengths).unwrap()];
                Case { schedules, documents, ..Case::new(story, problem, Storage::TokensFirst) }
            })
        })
    });
    let starts = [(50, 200), (90, 30)].into_iter().map(|(q_len, kv_len)| {
        let starts: Vec<usize> = (0..q_len).map(|i| i / 20 * 30).collect();
        let shape = Shape::new(2, 1, q_len, 64).unwrap().with_kv_len(kv_len).unwrap();
        let problem = Problem::random(Attention::causal().with_lse(true), shape, 5);
        let documents = vec![Documents::from_starts(&starts).unwrap()];
        Case { documents, ..Case::new("starts", problem, Storage::HeadsFirst) }
    });
    packed.chain(starts)
}

/// Tables of its own for each sequence of a batch.
pub fn a_mask_for_each_sequence_of_a_batch() -> Case {
    let shape = Shape::new(2, 1, 100, 32).unwrap().with_batch(3).unwrap();
    let lengths: [&[usize]; 3] = [&[100], &[30, 70], &[50, 25, 25]];
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let problem = Problem::random(Attention::causal().with_lse(true), shape, 6);
    Case {
        schedules: (0..3).map(|sequence| harmonic(&grid, Seed::new(1).sequence(sequence))).collect(),
        documents: lengths.map(|lengths| Documents::from_lengths(lengths).unwrap()).to_vec(),
        ..Case::new("a mask each", problem, Storage::HeadsFirst)
    }
}

pub fn rope(dim: usize, rotary: usize, pairing: Pairing) -> Rope {
    Rope::new(dim, 1e4, pairing).unwrap().with_rotary_dim(rotary).unwrap()
}

/// The combinations of rotation, bias and factor at one head dimension, for 4 heads.
pub fn combinations(dim: usize) -> Vec<(&'static str, Positions)> {
    let half = |rotary| rope(dim, rotary, Pairing::Half);
    let interleaved = |rotary| rope(dim, rotary, Pairing::Interleaved);
    let log = Bias::new(Distance::Log { rate: 0.3 }, Slopes::Harmonic).unwrap();
    let capped = Bias::new(Distance::CappedHarmonic { cap: 37 }, Slopes::Harmonic).unwrap();
    let given = Bias::new(Distance::Harmonic, Slopes::Given(vec![0.0, 0.5, 3.0, 1.0])).unwrap();
    let partial = dim / 2 / 8 * 8;
    // Faster for later pairs, backwards, and one that stands still.
    let own = |pair: usize| if pair == 1 { 0.0 } else { (pair as f64 * 0.7 - 2.0).clamp(-3.0, 3.0) };
    let frequencies: Vec<f64> = (0..dim / 2).map(own).collect();
    let own = half(dim).with_frequencies(&frequencies).unwrap().with_temperature(1.1).unwrap();
    vec![
        ("frequencies of its own", Positions::from(own)),
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

/// Positions with everything else that shapes a score.
pub fn positions_with_everything_else() -> Vec<(&'static str, Attention, Shape)> {
    let dim = 32;
    let shape = |q_len, kv_len| Shape::new(4, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
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
    let capped = causal().with_soft_cap(2.0).unwrap().with_scale(0.3).unwrap();
    vec![
        ("window", causal().with_window(20).unwrap(), shape(150, 150)),
        ("soft-cap and scale", capped, shape(150, 150)),
        ("decode", causal(), shape(1, 301)),
        ("rows that see nothing", causal(), shape(90, 40)),
        ("full", full(), shape(150, 150)),
        ("full, queries before and after the keys", full(), shape(160, 37)),
        ("full, window", full().with_window(9).unwrap(), shape(100, 130)),
        ("no keys", causal(), shape(5, 0)),
        ("f16", causal().with_storage(DType::F16).with_output(DType::F16), shape(100, 100)),
        ("bf16", causal().with_storage(DType::Bf16), shape(100, 100)),
        ("a logarithm of nearly 1, by a steep slope", steep, shape(150, 150)),
        ("value dim", causal(), shape(60, 60).with_value_dim(48).unwrap()),
    ]
}

/// Positions with what sequences have of their own.
pub fn positions_with_tables() -> impl Iterator<Item = Case> {
    let shape = |q_len, kv_len| Shape::new(4, 2, q_len, 32).unwrap().with_kv_len(kv_len).unwrap();
    let positions = || Positions::from(rope(32, 32, Pairing::Half)).with_bias(Bias::harmonic());
    let positions = move || positions().with_harmonic_factor(50.0).unwrap();
    let causal = move || Attention::causal().with_lse(true).with_positions(positions());
    let problem = Problem::random(causal().with_correction(0.5).unwrap(), shape(200, 260), 4);
    let grid = BlockGrid::causal(&problem.shape).with_block_size(16).unwrap();
    let schedules = vec![harmonic(&grid, Seed::new(3))];
    let sampled = Case { schedules, ..Case::new("schedule with correction", problem, Storage::HeadsFirst) };
    let problem = Problem::random(causal(), shape(200, 200), 4);
    let documents = vec![Documents::from_lengths(&[90, 60, 50]).unwrap()];
    let packed = Case { documents, ..Case::new("documents", problem, Storage::Fused) };
    [sampled, packed].into_iter()
}

/// Ids of two sequences: scattered, repeated, descending, and past the low level of the rotations'
/// table; and those that count up.
pub fn position_ids() -> impl Iterator<Item = Case> {
    let some = ["half", "recommended", "paper", "log"];
    combinations(32).into_iter().filter(move |(name, _)| some.contains(name)).map(|(name, positions)| {
        let positions = positions.with_max_positions(70_000).unwrap();
        let attention = Attention::causal().with_lse(true).with_positions(positions);
        let shape = Shape::new(4, 2, 70, 32).unwrap().with_kv_len(100).unwrap().with_batch(2).unwrap();
        let keys: Vec<u32> =
            (0..100u32).map(|j| (j * 7919) % 613 + if j > 60 { 69_000 } else { 0 }).collect();
        let queries: Vec<u32> = (0..70u32).map(|i| 500 - 7 * i).collect();
        let scattered = PositionIds::new(&queries, &keys).unwrap();
        let counted =
            PositionIds::new(&(30..100).collect::<Vec<_>>(), &(0..100).collect::<Vec<_>>()).unwrap();
        let problem = Problem::random(attention, shape, 9);
        Case { ids: vec![scattered, counted], ..Case::new(name, problem, Storage::HeadsFirst) }
    })
}

/// Few queries on many keys: splits of the keys, for every sharing of heads, head dimension and
/// type, with everything that shapes a score.
pub fn few_queries() -> impl Iterator<Item = Case> {
    let lens = [(1, 1), (1, 63), (1, 1700), (2, 513), (3, 1000), (8, 2050), (7, 5), (1, 0), (8, 600)];
    lens.into_iter().cycle().take(72).enumerate().map(|(case, (q_len, kv_len))| {
        let (dim, ratio) = ([32, 64, 80, 100, 128, 256, 4][case % 7], [1, 3, 8, 40][case % 4]);
        let shape = Shape::new(2 * ratio, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let mut attention = options(case, DType::ALL[case / 3 % 3]).with_lse(true);
        if case % 5 == 3 && dim > 4 {
            let positions = Positions::doubly_harmonic(rope(dim, dim / 4 / 8 * 8, Pairing::Half));
            attention = attention.with_positions(positions.with_harmonic_factor(70.0).unwrap());
        }
        let problem = Problem::random(attention, shape, case as u64);
        Case::new(format!("few queries, case {case}"), problem, LAYOUTS[case % 2])
    })
}

/// A mask of one of the forms, by the number of a case: with pairs that it hides, and rows of which
/// it hides every pair.
pub fn mask(case: usize, dims: [usize; 3]) -> Mask {
    let keys = dims[2];
    let numbers = super::numbers(case as u64, dims.iter().product());
    let hides = |index: usize| numbers[index] > 0.6 || (index / keys.max(1)) % 17 == 5;
    let number = |index: usize| if hides(index) { f32::NEG_INFINITY } else { 3.0 * numbers[index] };
    let all = 0..numbers.len();
    match case % 3 {
        0 => Mask::boolean(dims, &all.map(|index| !hides(index)).collect::<Vec<_>>()),
        1 => Mask::additive(dims, &all.map(number).collect::<Vec<_>>()),
        _ => Mask::additive_f16(dims, &all.map(number).collect::<Vec<_>>()),
    }
    .unwrap()
}

/// Mask tensors of every form and broadcast, beside everything else that shapes a score or hides a
/// key.
pub fn masks() -> impl Iterator<Item = Case> {
    let lens = [(150, 150), (70, 333), (90, 40), (1, 700), (5, 290), (3, 0), (65, 64)];
    lens.into_iter().cycle().take(42).enumerate().map(|(case, (q_len, kv_len))| {
        let dim = [32, 64, 20][case / 7 % 3];
        let shape = Shape::new(6, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
        let shape = shape.with_batch(1 + case % 2).unwrap();
        let mut attention = options(case, DType::ALL[case / 3 % 3]).with_lse(true).with_masks(true);
        if case % 5 == 1 {
            attention = attention.with_sinks(&[-2.0, 0.0, 1.0, 3.0, 0.5, 9.0]).unwrap();
        }
        if case % 4 == 3 && dim > 20 {
            let positions = Positions::doubly_harmonic(rope(dim, dim / 2, Pairing::Half));
            attention = attention.with_positions(positions.with_harmonic_factor(70.0).unwrap());
        }
        if case % 6 == 2 {
            attention = attention.with_correction(0.5).unwrap();
        }
        let heads = [6, 1][case / 2 % 2];
        let rows = if case % 8 == 6 { 1 } else { q_len };
        // One for all sequences, or one for each.
        let count = if case % 4 < 2 { shape.batch() } else { 1 };
        let masks = (0..count).map(|sequence| mask(3 * sequence + case, [heads, rows, kv_len])).collect();
        let grid = grid_of(&attention, &shape).with_block_size(16).unwrap();
        let scheduled = case % 6 == 2 || case % 6 == 5;
        let schedules = scheduled.then(|| harmonic(&grid, Seed::new(2))).into_iter().collect();
        let documents = (case % 7 == 0).then(|| Documents::from_lengths(&[60, 90]).unwrap());
        let problem = Problem::random(attention, shape, case as u64);
        let story = format!("mask, case {case}");
        let documents = documents.into_iter().collect();
        Case { schedules, documents, masks, ..Case::new(story, problem, LAYOUTS[case % 2]) }
    })
}
