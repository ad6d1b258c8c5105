//! Calibration, the oracle and the comparator.

use prflash::calibration::{
    BlockStates, Calibration, HeadCalibration, Options, calibrate_mass, mass_variance, variance_optimal,
};
use prflash::kernels::{Kernel, Matrix, Tile};
use prflash::reference::{self, DistanceMass, Exact, Magnitudes};
use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{Attention, BlockGrid, DType, Profile, Schedule, Seed, Shape, Systematic, Tables};

use super::runner::{Case, tell};
use super::sampling::profile;
use super::sizes::{accepted, small_grid, small_shape};

/// Q, K and V of a shape; once in a while of other lengths.
fn inputs(case: &mut Case, shape: &Shape) -> [Vec<f32>; 3] {
    let sizes = [
        shape.heads() * shape.q_len() * shape.head_dim(),
        shape.kv_heads() * shape.kv_len() * shape.head_dim(),
        shape.kv_heads() * shape.kv_len() * shape.value_dim(),
    ];
    sizes.map(|size| {
        let n = &mut case.numbers;
        let size = size * shape.batch();
        let size = if n.once_in(20) { n.below(2 * size + 2) } else { size };
        n.values(size)
    })
}

fn masses(case: &mut Case) -> Vec<DistanceMass> {
    let n = &mut case.numbers;
    let wild = n.once_in(3);
    let count = n.below(9);
    let number = |n: &mut super::numbers::Numbers| if wild { n.f64() } else { n.f64().abs().min(1.0) };
    (0..count).map(|_| DistanceMass { pairs: n.u64(), mean: number(n), mean_square: number(n) }).collect()
}

fn options(case: &mut Case) -> Option<Options> {
    let n = &mut case.numbers;
    let (blocks, sinks, seeds) = (n.f64(), n.mild(3), n.mild(2).min(u32::MAX as usize) as u32);
    tell!(case, "Options: {blocks:?} blocks, {sinks} sinks, {seeds} seeds");
    let options = accepted(Options::new(blocks))?.with_sink_blocks(sinks).with_seed(Seed::new(1));
    let few = accepted(options.clone().with_seeds(1)).unwrap();
    // Seeds take time, each.
    let options = if (4..=65_536).contains(&seeds) { None } else { accepted(options.with_seeds(seeds)) };
    Some(options.unwrap_or(few))
}

pub fn calibrations(case: &mut Case) {
    let shape = small_shape(case);
    let [q, k, v] = inputs(case, &shape);
    let Some(options) = options(case) else { return };
    let n = &mut case.numbers;
    let (block, rows, full) = (n.mild(6), n.mild(3), n.once_in(3));
    let attention = if full { Attention::full() } else { Attention::causal() };
    let grid = if full { BlockGrid::full(&shape) } else { BlockGrid::causal(&shape) };
    let Some(grid) = accepted(grid.with_block_size(block)) else { return };
    let by_mass: Vec<Vec<DistanceMass>> =
        (0..case.numbers.below(2 * grid.groups())).map(|_| masses(case)).collect();
    let (budget, beta) = (case.numbers.f64(), case.numbers.f32());
    tell!(case, "variance_optimal({budget:?}) and calibrate_mass({beta}) of {by_mass:?}");
    for masses in &by_mass {
        if let Some(profile) = accepted(variance_optimal(budget, masses)) {
            let _ = mass_variance(&grid, &profile, masses);
        }
    }
    let mut calibration = accepted(calibrate_mass(&grid, &by_mass, beta, &options));
    tell!(
        case,
        "BlockStates of {} , {} and {} numbers, {rows} rows of a block of {block}",
        q.len(),
        k.len(),
        v.len()
    );
    if let Some(states) = accepted(BlockStates::new(&attention, &shape, &q, &k, &v, &grid, rows)) {
        let n = &mut case.numbers;
        let (group, sinks, beta) = (n.mild(3), n.mild(2), n.f32());
        let other = small_grid(case);
        tell!(case, "by_distance({group}, {sinks}); relative_errors at β = {beta}");
        assert!(states.by_distance(group, sinks).is_empty() || group < grid.groups());
        for grid in [grid, other] {
            let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
            let same = &grid == states.grid();
            assert!(accepted(states.relative_errors(&schedule, beta)).is_none() || same);
            assert_eq!(accepted(states.heaviest_like(&schedule)).is_some(), same);
        }
        tell!(case, "calibrate");
        let made = states.calibrate(&options).unwrap();
        assert_eq!(made.heads.len(), grid.groups());
        edited(case, &made, &grid, &states, &options);
        calibration = Some(made);
    }
    if let Some(calibration) = calibration {
        tell!(case, "schedule of {calibration:?}");
        let seed = Seed::new(case.numbers.bits());
        assert_eq!(calibration.schedule(&grid, &Systematic, seed).unwrap().grid(), &grid);
    }
}

/// A calibration is a plain value, in which anything may be written.
fn edited(case: &mut Case, made: &Calibration, grid: &BlockGrid, states: &BlockStates, options: &Options) {
    let n = &mut case.numbers;
    let mut edited = made.clone();
    let head = HeadCalibration { window_blocks: n.size(), alpha: n.f64(), beta: n.f32(), errors: None };
    match n.below(5) {
        0 => edited.blocks = n.f64(),
        1 => edited.block_size = n.size(),
        2 => edited.sink_blocks = n.size(),
        3 => edited.heads[0] = head,
        _ => edited.heads.push(head),
    }
    tell!(case, "edited: {edited:?}");
    accepted(edited.profiles());
    assert_eq!(edited.betas().len(), edited.heads.len());
    accepted(edited.schedule(grid, &Systematic, Seed::new(4)));
    accepted(states.errors(&edited, options));
}

pub fn references(case: &mut Case) {
    let shape = small_shape(case);
    let [q, k, v] = inputs(case, &shape);
    let (grid, profile) = (small_grid(case), profile(case));
    let own = if grid.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
    let attention = if grid.is_causal() { Attention::causal() } else { Attention::full() };
    let n = &mut case.numbers;
    let own = own.with_block_size(1 + n.below(9)).unwrap();
    let grid = if n.once_in(3) { grid } else { own };
    let (head, sinks) = (n.size(), n.mild(3));
    tell!(case, "schedule of {grid:?}");
    let profile = profile.unwrap_or(Profile::harmonic());
    let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(5)).unwrap();
    tell!(case, "reference::attention of {} , {} and {} numbers", q.len(), k.len(), v.len());
    let tables = Tables::from(&schedule);
    let exact = accepted(reference::attention(&attention, &shape, &q, &k, &v, &tables));
    let n = &mut case.numbers;
    let [d_output, d_lse] = [(); 2].map(|()| (0..n.below(40)).map(|_| n.f32()).collect::<Vec<_>>());
    tell!(case, "attention_backward of {} and {} numbers", d_output.len(), d_lse.len());
    for (d_output, d_lse) in [(&d_output, Some(&d_lse[..])), (&d_output, None)] {
        let qkv = [&q[..], &k, &v];
        let gradients = reference::attention_backward(&attention, &shape, qkv, d_output, d_lse, &tables);
        if let Some(gradients) = accepted(gradients) {
            let terms: &[reference::TermMagnitudes] = &gradients.dk_terms;
            let _ = DType::ALL.map(|dtype| Tolerances::of_gradient(terms, &shape, dtype, dtype).row(0));
        }
    }
    tell!(case, "block_mass, by_distance({head}, {sinks})");
    if let Some(mass) = accepted(reference::block_mass(&attention, &shape, &q, &k, &grid)) {
        assert!(mass.by_distance(head, sinks).is_empty() || head < shape.heads());
        accepted(mass.recall(&schedule));
        accepted(mass.heaviest_like(&schedule));
    }
    let mut states: Vec<Exact> = exact.into_iter().collect();
    let count = case.numbers.below(3);
    states.extend((0..count).map(|_| made_up(case)));
    tell!(case, "merge {} states", states.len());
    for mean in [false, true] {
        states.extend(accepted(reference::merge(&states, mean)));
    }
    let n = &mut case.numbers;
    let got = (0..n.below(5)).map(|_| n.f32()).collect::<Vec<_>>();
    let want = (0..n.below(5)).map(|_| n.f64()).collect::<Vec<_>>();
    let tolerance = Tolerance { absolute: n.f64(), relative: n.f64() };
    tell!(case, "compare {got:?} with {want:?} by {tolerance:?}");
    if let Some(report) = accepted(compare(&got, &want, tolerance)) {
        assert!(report.failed <= report.compared && report.nan >= got.iter().filter(|x| x.is_nan()).count());
        let _ = (report.to_string(), report.passed());
    }
    tell!(case, "tolerances");
    let half = Tile::new(1, 8, true).unwrap().with_f16_products(true);
    let kernels = [Kernel::Naive, Kernel::Tiled(half), Kernel::Matrix(Matrix::new(8, true, true).unwrap())];
    for (kernel, exact) in kernels.into_iter().flat_map(|kernel| states.iter().map(move |s| (kernel, s))) {
        let of_lse = Tolerances::of_kernel_lse(kernel, exact, &shape);
        let _ = DType::ALL.map(|dtype| Tolerances::of_kernel_output(kernel, exact, &shape, dtype));
        let got: Vec<f32> = exact.lse.iter().map(|&lse| lse as f32).collect();
        accepted(compare(&got, &exact.lse, &of_lse));
        accepted(of_lse.plus(&Tolerances::of_lse(&states[0], &shape)));
        let _ = (of_lse.times(case.numbers.f64()), of_lse.row(case.numbers.size()));
    }
}

/// A state of any sizes and numbers.
fn made_up(case: &mut Case) -> Exact {
    let n = &mut case.numbers;
    let (rows, numbers) = (n.below(4), n.below(9));
    Exact {
        output: (0..numbers).map(|_| n.f64()).collect(),
        lse: (0..rows).map(|_| n.f64()).collect(),
        rows: (0..n.below(4))
            .map(|_| Magnitudes { score: n.f64(), rotated: n.f64(), value: n.f64(), keys: n.size() })
            .collect(),
    }
}
