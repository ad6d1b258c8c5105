//! How often samplers keep a block, and how many a row keeps.

use super::{sample, shape};
use prflash::sampling::DistanceFrequencies;
use prflash::sampling::{Bernoulli, Renewal, RowColumn, Sampler, Segment};
use prflash::{BlockGrid, Profile, Schedule, Seed, Systematic};

/// How often each key block of one row is kept over many rounds; a round is one independent
/// sampling unit.
fn frequencies(
    grid: &BlockGrid,
    profile: &Profile,
    sampler: &dyn Sampler,
    row: usize,
    rounds: u32,
) -> Vec<u32> {
    let mut counts = vec![0; grid.key_blocks()];
    for round in 0..rounds {
        let schedule = Schedule::sample(grid, profile, sampler, Seed::new(99).round(round)).unwrap();
        schedule.blocks(0, row).iter().for_each(|&block| counts[block] += 1);
    }
    counts
}

/// Hoeffding's bound with a Bonferroni correction over the distances: under the claimed marginals a
/// test that allows this deviation of a frequency fails for one seed in a million (and the seed is
/// fixed).
pub(super) fn allowed(distances: usize, rounds: u32) -> f64 {
    const FALSE_ALARM: f64 = 1e-6;
    ((2.0 * distances as f64 / FALSE_ALARM).ln() / (2.0 * f64::from(rounds))).sqrt()
}

#[test]
fn marginals_are_exactly_the_profile() {
    const ROUNDS: u32 = 20_000;
    let wide = Profile::harmonic_with(3.0, 1.5).unwrap().with_window_blocks(2).unwrap();
    let budget = Profile::budget(6.0).unwrap();
    let deduction = Profile::deduction(0.3).unwrap();
    let steep = Profile::budget_with(7.5, 2.0).unwrap().with_window_blocks(2).unwrap();
    let given = Profile::allocated(6.0, &[5.0, 3.0, 3.0, 2.0, 0.5]).unwrap();
    let harmonic = Profile::harmonic();
    let raised = Profile::harmonic().with_floor(0.2).unwrap();
    let cases: [(&dyn Sampler, bool, &Profile); 14] = [
        (&Systematic, true, &harmonic),
        (&Systematic, true, &wide),
        (&Systematic, false, &raised),
        (&Systematic, true, &budget),
        (&Systematic, true, &steep),
        (&Systematic, false, &given),
        (&Systematic, false, &deduction),
        (&Bernoulli, true, &wide),
        (&Bernoulli, false, &budget),
        (&Renewal, true, &harmonic),
        (&Renewal, false, &wide),
        (&Segment, true, &harmonic),
        (&Segment, false, &wide),
        (&Segment, true, &deduction),
    ];
    for (sampler, causal, profile) in cases {
        let shape = shape(1, 1, 64, 64 * 24);
        let grid = if causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        // Queries in the last block if causal, in the middle if not.
        let grid = if causal { grid } else { BlockGrid::full(&self::shape(1, 1, 64 * 24, 64 * 24)) };
        let (row, query_block) = if causal { (0, 23) } else { (9, 9) };
        let rounds = if causal { ROUNDS } else { ROUNDS / 5 };
        let counts = frequencies(&grid, profile, sampler, row, rounds);
        let allowed = allowed(counts.len(), rounds);
        let table = profile.cumulative(64);
        let after = if causal { 0..0 } else { 1..24 - query_block };
        let probabilities = table.row(&(0..query_block), &after, 1);
        for (block, &count) in counts.iter().enumerate() {
            let p = match block {
                0 => 1.0,
                _ => probabilities.probability(query_block.abs_diff(block)) as f64 / (1u64 << 32) as f64,
            };
            let frequency = f64::from(count) / f64::from(rounds);
            let story = format!("{}, {profile}, block {block}", sampler.name());
            assert!((frequency - p).abs() <= allowed, "{story}: {frequency} against {p} ± {allowed}");
            assert!(p < 1.0 || count == rounds, "{story}: a certain block is always there");
        }
    }
}

/// The means and variances of a row's count that the samplers' table states, at one row of T = 24,
/// without sinks.
#[test]
fn counts_have_the_stated_mean_and_variance() {
    const ROUNDS: u32 = 20_000;
    let (row, blocks) = (20, 24);
    let grid = BlockGrid::causal(&shape(1, 1, 64 * blocks, 64 * blocks));
    let profile = Profile::harmonic_with(2.0, 1.0).unwrap().with_sink_blocks(0);
    let p: Vec<f64> = (0..=row).map(|d| profile.probability(d)).collect();
    let mean: f64 = p.iter().sum();
    let pairs: f64 = (0..=row).flat_map(|j| (0..j).map(move |i| (i, j))).map(|(i, j)| p[i] * p[j - i]).sum();
    let renewal = mean + 2.0 * pairs - mean * mean;
    let segment = p.iter().enumerate().map(|(d, p)| (2 * d + 1) as f64 * p).sum::<f64>() - mean * mean;
    let inside = profile.probability(blocks - 1 - row);
    // Given that the row is in as Renewal, else 1: the law of total variance.
    let row_column = inside * renewal + inside * (1.0 - inside) * (mean - 1.0).powi(2);
    let cases: [(&dyn Sampler, f64, f64); 5] = [
        (&Bernoulli, mean, p.iter().map(|p| p * (1.0 - p)).sum()),
        (&Systematic, mean, mean.fract() * (1.0 - mean.fract())),
        (&Renewal, mean, renewal),
        (&Segment, mean, segment),
        (&RowColumn, 1.0 + inside * (mean - 1.0), row_column),
    ];
    for (sampler, mean, variance) in cases {
        let (mut sum, mut squares) = (0.0, 0.0);
        for round in 0..ROUNDS {
            let schedule = Schedule::sample(&grid, &profile, sampler, Seed::new(17).round(round)).unwrap();
            let count = schedule.row(0, row).len() as f64;
            (sum, squares) = (sum + count, squares + count * count);
        }
        let n = f64::from(ROUNDS);
        let (got_mean, got) = (sum / n, squares / n - (sum / n).powi(2));
        // Six standard errors of a mean; a tenth of a variance is more than that here, by the
        // fourth moments.
        let story = format!("{}: {got_mean} ± {got} against {mean} ± {variance}", sampler.name());
        assert!((got_mean - mean).abs() < 6.0 * (variance / n).sqrt(), "{story}");
        assert!((got / variance - 1.0).abs() < 0.1, "{story}");
    }
}

#[test]
fn a_row_keeps_its_expected_number_of_blocks_to_within_one() {
    let profile = Profile::harmonic_with(2.0, 1.0).unwrap();
    let grid = BlockGrid::causal(&shape(4, 1, 6400, 6400));
    for seed in 0..20 {
        let schedule = sample(&grid, &profile, seed);
        for group in 0..4 {
            for row in 0..grid.query_blocks() {
                let expected: f64 =
                    (0..=row).map(|j| if j == 0 { 1.0 } else { profile.probability(row - j) }).sum();
                let kept = schedule.row(group, row).len() as f64;
                assert!((kept - expected).abs() < 1.0 + 1e-6, "row {row}: {kept} against {expected}");
            }
        }
    }
}

/// Design: with one pinned sink block the expected work is T·H_T of T(T+1)/2 blocks.
#[test]
fn the_cost_follows_the_harmonic_law() {
    for (blocks, law) in [(16usize, 0.398), (64, 0.146), (256, 0.048), (1024, 0.0147)] {
        let grid = BlockGrid::causal(&shape(8, 1, 64 * blocks, 64 * blocks));
        let density = sample(&grid, &Profile::harmonic(), 1).density();
        assert!((density / law - 1.0).abs() < 0.03, "T = {blocks}: {density} against {law}");
    }
}

#[test]
fn frequencies_have_honest_bounds() {
    const FALSE_ALARM: f64 = 1e-6;
    let grid = BlockGrid::causal(&shape(2, 1, 64 * 24, 64 * 24));
    let profile = Profile::harmonic().with_window_blocks(2).unwrap();
    let samplers: [&dyn Sampler; 4] = [&Systematic, &Bernoulli, &Renewal, &Segment];
    for sampler in samplers {
        let mut frequencies = DistanceFrequencies::new(&grid, 1);
        assert!(frequencies.rows(FALSE_ALARM).iter().all(|row| (row.low, row.high) == (0.0, 1.0)));
        for seed in 0..2000 {
            frequencies.add(&Schedule::sample(&grid, &profile, sampler, Seed::new(seed)).unwrap()).unwrap();
        }
        let rows = frequencies.rows(FALSE_ALARM);
        assert_eq!(rows.len(), 23, "block 0 is a sink");
        for row in rows {
            let p = profile.probability(row.distance);
            assert!(row.low <= p && p <= row.high, "{}: {row:?} against {p}", sampler.name());
            assert_eq!(row.candidates, 2000 * 2 * (23 - row.distance as u64));
            assert!(row.high - row.low < 0.25, "{}: {row:?}", sampler.name());
        }
    }
    let mut frequencies = DistanceFrequencies::new(&grid, 1);
    let other = Schedule::dense(&BlockGrid::causal(&shape(2, 1, 64, 64))).unwrap();
    assert_eq!(frequencies.add(&other).unwrap_err().argument(), Some("schedule"));
}
