//! Calibration from block masses alone.

use super::{Calibration, HeadCalibration, Options};
use crate::error::{Result, ensure};
use crate::reference::DistanceMass;
use crate::sampling::{BlockGrid, Profile, mean_over_rows};

/// The allocation that adds the least variance at a given number of blocks: `p(d) ∝` the root mean
/// square of the mass at that distance, made non-increasing.
///
/// It minimizes `Σ n_d·m_d²/p_d` while `Σ n_d·p_d` stays (Neyman's allocation), where n_d blocks at
/// distance d have the mean square mass m_d². Where m_d² grows with d, neighbouring distances are
/// pooled until it doesn't (the constrained minimum). Pinned sink blocks must not be in the masses.
///
/// # Errors
/// As [`Profile::allocated`]; masses must be finite and not negative (`masses`).
pub fn variance_optimal(blocks: f64, masses: &[DistanceMass]) -> Result<Profile> {
    check_masses(masses)?;
    // (pairs, mean square, distances) of each pool.
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for mass in masses {
        // Distances without pairs join the pool before them.
        let mut pool = (mass.pairs as f64, mass.mean_square, 1);
        while let Some(&(pairs, square, distances)) = pools.last() {
            if pool.0 > 0.0 && square > pool.1 {
                break;
            }
            let all = pairs + pool.0;
            let mean = if all > 0.0 { (pairs * square + pool.0 * pool.1) / all } else { 0.0 };
            pool = (all, mean, distances + pool.2);
            pools.pop();
        }
        pools.push(pool);
    }
    let weights: Vec<f64> =
        pools.iter().flat_map(|&(_, square, distances)| vec![square.sqrt(); distances]).collect();
    // Nothing outside the sinks: any allocation will do.
    let some = weights.first().is_some_and(|&weight| weight > 0.0);
    Profile::allocated(blocks, if some { &weights } else { &[1.0] })
}

/// The variance that sampling adds to the mass of a row, unbiased at β = 1: `Σ m_d²·(1/p − 1)` over
/// its blocks, as a mean over the rows of one list; infinite where a block with mass is never
/// drawn.
///
/// Each kept block stands for 1/p blocks, so its contribution has the variance `m²·(1/p − 1)`. That
/// of the output is proportional if blocks' values are about equally far from the output.
pub fn mass_variance(grid: &BlockGrid, profile: &Profile, masses: &[DistanceMass]) -> f64 {
    mean_over_rows(grid, profile, masses.len(), |distance, p| {
        let square = masses.get(distance).map_or(0.0, |mass| mass.mean_square);
        if square > 0.0 { square * (1.0 / p - 1.0) } else { 0.0 }
    })
}

/// Chooses window and exponent for every list group from its mass by block distance alone
/// ([`BlockMass::by_distance`](crate::reference::BlockMass::by_distance),
/// [`BlockStates::by_distance`](super::BlockStates::by_distance), or measured elsewhere), by the
/// least [`mass_variance`]; β is as given.
///
/// Takes time for every candidate, list group and block distance of the grid.
///
/// Masses say nothing about values, so β can't be chosen, and a pure window is no candidate, having
/// no unbiased weights. With values at hand,
/// [`BlockStates::calibrate`](super::BlockStates::calibrate) is better.
///
/// # Errors
/// Invalid argument (`masses`) unless there is one list of finite masses for every list group;
/// (`beta`) unless `0 ≤ beta ≤ 1`.
pub fn calibrate_mass(
    grid: &BlockGrid,
    masses: &[Vec<DistanceMass>],
    beta: f32,
    options: &Options,
) -> Result<Calibration> {
    let (groups, got) = (grid.groups(), masses.len());
    ensure!(got == groups, "masses", "expected one list per list group, {groups}, got {got}");
    ensure!((0.0..=1.0).contains(&beta), "beta", "expected 0 to 1, got {beta}");
    let shapes = options.shapes(grid);
    let mut heads = Vec::with_capacity(groups);
    for masses in masses {
        check_masses(masses)?;
        let mut best: Option<(f64, usize, f64)> = None;
        for &(window_blocks, alpha) in &shapes {
            let variance = mass_variance(grid, &options.profile(window_blocks, alpha)?, masses);
            if best.is_none_or(|(least, ..)| variance < least) {
                best = Some((variance, window_blocks, alpha));
            }
        }
        let (_, window_blocks, alpha) = best.unwrap_or((0.0, 1, 1.0));
        heads.push(HeadCalibration { window_blocks, alpha, beta, errors: None });
    }
    Ok(Calibration {
        block_size: grid.block_size(),
        blocks: options.blocks,
        sink_blocks: options.sink_blocks,
        heads,
    })
}

fn check_masses(masses: &[DistanceMass]) -> Result<()> {
    let good = |mass: &DistanceMass| mass.mean_square.is_finite() && mass.mean_square >= 0.0;
    ensure!(masses.iter().all(good), "masses", "expected finite mean squares that are not negative");
    Ok(())
}
