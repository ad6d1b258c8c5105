//! Fitting a profile to each head: which window, exponent and correction lose least at a given
//! number of blocks.
//!
//! Heads differ. Where attention is diffuse, a slow decay reaches what a window misses; where it is
//! sharp, nearly the whole budget belongs in the window. A calibration measures that on a sample of
//! Q, K and V and is then a plain value (feature `serde`: serializable) that makes schedules:
//!
//! ```
//! use prflash::calibration::{BlockStates, Options};
//! use prflash::{Attention, BlockGrid, Seed, Shape, Systematic};
//! # let sample = |n: usize| -> Vec<f32> { (0..n).map(|i| (i as f32 * 0.37).sin()).collect() };
//! let shape = Shape::new(2, 1, 512, 8)?; // the oracle's slices: [batch, heads, len, dim]
//! let (q, k, v) = (sample(2 * 512 * 8), sample(512 * 8), sample(512 * 8));
//! let grid = BlockGrid::causal(&shape).with_block_size(32)?;
//! let states = BlockStates::new(&Attention::causal(), &shape, &q, &k, &v, &grid, 4)?;
//! let calibration = states.calibrate(&Options::new(6.0)?)?; // 6 of up to 16 blocks a row
//! // Later, for sequences of any length (weights already hold each head's β):
//! let long = BlockGrid::causal(&Shape::new(2, 1, 4096, 8)?).with_block_size(32)?;
//! let schedule = calibration.schedule(&long, &Systematic, Seed::new(1))?;
//! let attention = Attention::causal().with_correction(1.0)?;
//! # let _ = (schedule, attention);
//! # Ok::<(), prflash::Error>(())
//! ```
//!
//! # How
//!
//! Attention output is a ratio of sums over key blocks. For a few query rows per query block,
//! [`BlockStates`] holds the softmax mass `m_J = Σ p_j` of every key block and its part `V_J = Σ
//! p_j·v_j` of the output. Under any block list with weights `w_J = p(d)^−β` the output of a row is
//! then `Σ w_J·V_J / Σ w_J·m_J`: hundreds of candidates over several seeds cost a fraction of a
//! second, without another inner product.
//!
//! Candidates are [`Profile::budget_with`] over windows (up to the whole budget: sink + window) ×
//! exponents × β, drawn by [`Systematic`]. The criterion is `‖o − o*‖ / ‖o*‖` over the rows of a
//! list, averaged over the seeds. Where only attention mass was measured, [`calibrate_mass`]
//! minimizes the variance that sampling adds.

mod mass;

pub use mass::{calibrate_mass, mass_variance, variance_optimal};

use crate::attention::{Attention, Tables};
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_ROUNDS, at_most};
use crate::random::Seed;
use crate::reference::{self, DistanceMass};
use crate::sampling::{BlockGrid, Profile, Sampler, Schedule, Systematic, sink_window_like, uniform_like};
use crate::shape::Shape;

const ALPHAS: [f64; 7] = [1.0, 0.0, 0.5, 1.5, 2.0, 3.0, 4.0];
const BETAS: [f32; 5] = [0.5, 0.0, 0.25, 0.75, 1.0];

/// What to calibrate for.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    blocks: f64,
    sink_blocks: usize,
    seeds: u32,
    seed: Seed,
}

impl Options {
    /// An expected number of blocks per row, pinned ones included; one sink block, 8 seeds.
    ///
    /// # Errors
    /// Invalid argument unless `blocks` is finite and at least 1.
    pub fn new(blocks: f64) -> Result<Self> {
        Profile::budget(blocks)?;
        Ok(Self { blocks, sink_blocks: 1, seeds: 8, seed: Seed::new(0) })
    }

    /// Another number of pinned blocks at the start of the sequence.
    pub fn with_sink_blocks(self, sink_blocks: usize) -> Self {
        Self { sink_blocks, ..self }
    }

    /// Another number of schedules to average over: for each of the hundreds of candidates.
    ///
    /// # Errors
    /// Invalid argument if there are none; too large past [`MAX_ROUNDS`].
    pub fn with_seeds(self, seeds: u32) -> Result<Self> {
        ensure!(seeds > 0, "seeds", "expected at least 1, got 0");
        at_most("seeds", seeds as usize, MAX_ROUNDS)?;
        Ok(Self { seeds, ..self })
    }

    /// The seed of these schedules, at rounds 0, 1, 2 …
    pub fn with_seed(self, seed: Seed) -> Self {
        Self { seed, ..self }
    }

    fn profile(&self, window_blocks: usize, alpha: f64) -> Result<Profile> {
        Profile::budget_with(self.blocks, alpha)?
            .with_sink_blocks(self.sink_blocks)
            .with_window_blocks(window_blocks)
    }

    /// (window, exponent): the default first, windows up to the whole budget, denser where small.
    fn shapes(&self, grid: &BlockGrid) -> Vec<(usize, f64)> {
        // A budget of more blocks than there are keeps all of them, whatever the window.
        let blocks = (self.blocks as usize).min(grid.key_blocks());
        let widest = blocks.saturating_sub(self.sink_blocks).max(1);
        let mut windows = Vec::new();
        let mut window = 1;
        while window < widest {
            windows.push(window);
            window += 1 + window / 8;
        }
        windows.push(widest);
        windows.iter().flat_map(|&window| ALPHAS.map(|alpha| (window, alpha))).collect()
    }
}

/// What was chosen for every list group. A plain value: store it (feature `serde`), edit it,
/// compare it; [`profiles`](Calibration::profiles) validates.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Calibration {
    /// Tokens per block.
    pub block_size: usize,
    /// Expected blocks of a row.
    pub blocks: f64,
    /// Pinned blocks at the start of the sequence.
    pub sink_blocks: usize,
    /// One for every list group: for every query head, at the default granularity.
    pub heads: Vec<HeadCalibration>,
}

/// The choice for one list group.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HeadCalibration {
    /// Pinned distances: see [`Profile::with_window_blocks`].
    pub window_blocks: usize,
    /// The exponent of [`Profile::budget_with`].
    pub alpha: f64,
    /// The importance correction.
    pub beta: f32,
    /// What that means on the calibration's own rows; none if only masses were measured.
    pub errors: Option<HeadErrors>,
}

/// Relative output errors of one list group over the rows of a sample, each a mean over the same
/// seeds, all at the same expected blocks of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HeadErrors {
    /// The error as calibrated.
    pub calibrated: f64,
    /// [`Profile::budget`] with β = ½.
    pub default: f64,
    /// Sink + window, as many blocks in every row as the default.
    pub sink_window: f64,
    /// Uniformly random blocks, as many in every row as the default.
    pub uniform: f64,
    /// The [variance-optimal](variance_optimal) allocation for these very rows, with the best β:
    /// what knowing the mass by distance is worth. It bounds the added variance, not this error, so
    /// a calibration may lie below it.
    pub variance_optimal: f64,
    /// That β.
    pub variance_optimal_beta: f32,
    /// The heaviest blocks by true mass, as many in every row as the default.
    pub top_k: f64,
}

impl Calibration {
    /// The profile of every list group.
    ///
    /// # Errors
    /// Invalid argument, as [`Profile::budget_with`] and [`Profile::with_window_blocks`], where a
    /// value can't be.
    pub fn profiles(&self) -> Result<Vec<Profile>> {
        let profile = |head: &HeadCalibration| {
            Profile::budget_with(self.blocks, head.alpha)?
                .with_sink_blocks(self.sink_blocks)
                .with_window_blocks(head.window_blocks)
        };
        self.heads.iter().map(profile).collect()
    }

    /// The importance correction of every list group.
    pub fn betas(&self) -> Vec<f32> {
        self.heads.iter().map(|head| head.beta).collect()
    }

    /// Draws a schedule whose weights hold every list's β: use it with
    /// [`Attention::with_correction(1.0)`](Attention::with_correction).
    ///
    /// # Errors
    /// Invalid argument (`grid`) for another block size than the calibration's; as
    /// [`profiles`](Calibration::profiles), [`Schedule::sample_each`] and
    /// [`Schedule::with_corrections`].
    pub fn schedule(&self, grid: &BlockGrid, sampler: &dyn Sampler, seed: Seed) -> Result<Schedule> {
        let (want, got) = (self.block_size, grid.block_size());
        ensure!(want == got, "grid", "expected blocks of {want} tokens as in the calibration, got {got}");
        Schedule::sample_each(grid, &self.profiles()?, sampler, seed)?.with_corrections(&self.betas())
    }
}

/// The attention of some query rows, block by block: enough to know their output under any block
/// list.
#[derive(Clone, Debug)]
pub struct BlockStates {
    grid: BlockGrid,
    value_dim: usize,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    group: usize,
    /// The query block, counted from the grid's first.
    row: usize,
    /// The softmax mass of each key block.
    mass: Vec<f64>,
    /// Each key block's part of the output, (key block, channel).
    parts: Vec<f32>,
    output: Vec<f32>,
}

impl BlockStates {
    /// Computes dense attention for at most `rows_per_block` queries of every query block, evenly
    /// spaced. `q`, `k` and `v` as in [`reference::attention`]; of a batch, all sequences count
    /// alike.
    ///
    /// To measure other rows than the first ones of a text, give fewer queries than keys: they are
    /// its last. Takes `heads·rows·T/2·D_v` f32 numbers for `rows` chosen queries.
    ///
    /// # Errors
    /// As [`reference::block_mass`]; invalid argument also for values that aren't finite (`q`), or
    /// if no chosen row sees a key (`rows_per_block`).
    pub fn new(
        attention: &Attention,
        shape: &Shape,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        grid: &BlockGrid,
        rows_per_block: usize,
    ) -> Result<Self> {
        reference::check_inputs(shape, q, k)?;
        reference::check_len("v", v, shape.batch() * shape.kv_heads() * shape.kv_len() * shape.value_dim())?;
        grid.check(attention.is_causal(), shape)?;
        let (block, dim) = (grid.block_size(), shape.value_dim());
        let mut chosen = vec![false; shape.q_len()];
        let positions = shape.first_position()..shape.kv_len() as i64;
        for query_block in (grid.first_query_block()..).take(grid.query_blocks()) {
            let first = (query_block * block as i64).max(positions.start);
            let count = ((query_block + 1) * block as i64).min(positions.end) - first;
            let wanted = i64::try_from(rows_per_block).unwrap_or(count).min(count);
            for part in 0..wanted {
                // The middle of each of so many equal parts.
                let at = first - positions.start + (2 * part + 1) * count / (2 * wanted);
                chosen[at as usize] = true;
            }
        }
        let chosen = |i: usize| chosen[i];
        let mut rows = Vec::new();
        reference::for_each_row(attention, shape, q, k, &Tables::new(), chosen, |row| {
            let Some(&(last, _)) = row.weights.last() else { return };
            let blocks = last / block + 1;
            let (mut mass, mut parts) = (vec![0.0; blocks], vec![0.0; blocks * dim]);
            for &(j, p) in row.weights {
                mass[j / block] += p;
                let value = &v[(row.kv_row + j) * dim..][..dim];
                let part: &mut [f64] = &mut parts[j / block * dim..][..dim];
                part.iter_mut().zip(value).for_each(|(sum, &x)| *sum += p * f64::from(x));
            }
            let output = |channel| parts.iter().skip(channel).step_by(dim).sum::<f64>() as f32;
            rows.push(Row {
                group: grid.group_of_head(row.head_row % shape.heads()),
                row: (row.position.div_euclid(block as i64) - grid.first_query_block()) as usize,
                mass,
                output: (0..dim).map(output).collect(),
                parts: parts.iter().map(|&x| x as f32).collect(),
            });
        })?;
        ensure!(!rows.is_empty(), "rows_per_block", "expected rows that see a key, got none");
        let finite = rows.iter().all(|row| row.output.iter().all(|x| x.is_finite()));
        ensure!(finite, "q", "expected finite numbers in q, k and v");
        Ok(Self { grid: *grid, value_dim: dim, rows })
    }

    /// The grid.
    pub fn grid(&self) -> &BlockGrid {
        &self.grid
    }

    /// `‖o − o*‖ / ‖o*‖` over the rows of each list group under this schedule and β, o* being the
    /// dense output. A row whose list holds no mass has output 0.
    ///
    /// # Errors
    /// Invalid argument if the schedule is of another grid (`schedule`), or unless `0 ≤ beta ≤ 1`.
    pub fn relative_errors(&self, schedule: &Schedule, beta: f32) -> Result<Vec<f64>> {
        self.check(schedule)?;
        ensure!((0.0..=1.0).contains(&beta), "beta", "expected 0 to 1, got {beta}");
        Ok(self.errors_under(schedule, beta))
    }

    fn check(&self, schedule: &Schedule) -> Result<()> {
        let (want, got) = (&self.grid, schedule.grid());
        ensure!(want == got, "schedule", "expected the grid {want:?}, got {got:?}");
        Ok(())
    }

    fn errors_under(&self, schedule: &Schedule, beta: f32) -> Vec<f64> {
        let mut squares = vec![(0.0, 0.0); self.grid.groups()];
        let mut output = vec![0f32; self.value_dim];
        for row in &self.rows {
            output.fill(0.0);
            let mut total = 0.0;
            for entry in schedule.row(row.group, row.row) {
                // A block that this row doesn't see has no state.
                let Some(mass) = row.mass.get(entry.block) else { continue };
                let weight = (-beta * entry.ln_p).exp();
                total += f64::from(weight) * mass;
                let part = &row.parts[entry.block * self.value_dim..][..self.value_dim];
                output.iter_mut().zip(part).for_each(|(sum, x)| *sum += weight * x);
            }
            let scale = if total > 0.0 { (1.0 / total) as f32 } else { 0.0 };
            let (off, norm) = &mut squares[row.group];
            for (got, want) in output.iter().zip(&row.output) {
                *off += f64::from(got * scale - want).powi(2);
                *norm += f64::from(*want).powi(2);
            }
        }
        // Weights that overflow are no good estimate, and must not look like one.
        let relative = |(off, norm): (f64, f64)| match off {
            0.0 => 0.0,
            _ if off.is_nan() => f64::INFINITY,
            _ => (off / norm).sqrt(),
        };
        squares.into_iter().map(relative).collect()
    }

    /// The softmax mass by block distance over the rows of one list group, without the first
    /// `sink_blocks` key blocks.
    pub fn by_distance(&self, group: usize, sink_blocks: usize) -> Vec<DistanceMass> {
        let mut masses = Vec::new();
        for row in self.rows.iter().filter(|row| row.group == group) {
            let query_block = self.grid.first_query_block() + row.row as i64;
            for (block, &mass) in row.mass.iter().enumerate().skip(sink_blocks) {
                let distance = (query_block - block as i64).unsigned_abs() as usize;
                DistanceMass::add(&mut masses, distance, mass);
            }
        }
        masses
    }

    /// The schedule that visits the blocks of largest mass over these rows, as many in every row as
    /// `like` has.
    ///
    /// # Errors
    /// Invalid argument (`schedule`) if `like` is of another grid.
    pub fn heaviest_like(&self, like: &Schedule) -> Result<Schedule> {
        self.check(like)?;
        let (query_blocks, key_blocks) = (self.grid.query_blocks(), self.grid.key_blocks());
        let mut mass = vec![0.0; self.grid.groups() * query_blocks * key_blocks];
        for row in &self.rows {
            let of_row = mass[(row.group * query_blocks + row.row) * key_blocks..].iter_mut();
            of_row.zip(&row.mass).for_each(|(sum, mass)| *sum += mass);
        }
        let mut lists = Vec::with_capacity(self.grid.groups() * query_blocks);
        for list in 0..self.grid.groups() * query_blocks {
            let (group, row) = (list / query_blocks, list % query_blocks);
            let mass = &mass[list * key_blocks..][..key_blocks];
            let allowed = self.grid.dense_row(self.grid.first_query_block() + row as i64);
            let mut kept: Vec<usize> = (0..allowed).collect();
            kept.sort_by(|&a, &b| mass[b].total_cmp(&mass[a]));
            kept.truncate(like.row(group, row).len());
            kept.sort_unstable();
            lists.push(kept);
        }
        Schedule::from_block_lists(&self.grid, &lists)
    }

    /// Chooses window, exponent and β for every list group, and reports the errors on these very
    /// rows under the seeds of the choice. Use [`errors`](BlockStates::errors) of other rows for a
    /// fair estimate.
    ///
    /// # Errors
    /// None that making these options and states didn't meet.
    pub fn calibrate(&self, options: &Options) -> Result<Calibration> {
        let mut best: Vec<Option<(f64, HeadCalibration)>> = vec![None; self.grid.groups()];
        for (window_blocks, alpha) in options.shapes(&self.grid) {
            let profiles = vec![options.profile(window_blocks, alpha)?; self.grid.groups()];
            for (beta, errors) in self.mean_errors(&profiles, &BETAS, options)? {
                for (best, error) in best.iter_mut().zip(errors) {
                    if best.as_ref().is_none_or(|(least, _)| error < *least) {
                        *best = Some((error, HeadCalibration { window_blocks, alpha, beta, errors: None }));
                    }
                }
            }
        }
        let mut calibration = Calibration {
            block_size: self.grid.block_size(),
            blocks: options.blocks,
            sink_blocks: options.sink_blocks,
            heads: best.into_iter().flatten().map(|(_, head)| head).collect(),
        };
        let errors = self.errors(&calibration, options)?;
        for (head, errors) in calibration.heads.iter_mut().zip(errors) {
            head.errors = Some(errors);
        }
        Ok(calibration)
    }

    /// What a calibration, its default and the usual comparisons lose on these rows, for every list
    /// group: at the calibration's budget and sinks, under the seeds of `options`.
    ///
    /// # Errors
    /// As [`Calibration::schedule`].
    pub fn errors(&self, calibration: &Calibration, options: &Options) -> Result<Vec<HeadErrors>> {
        let groups = self.grid.groups();
        let options =
            Options { blocks: calibration.blocks, sink_blocks: calibration.sink_blocks, ..options.clone() };
        let default = options.profile(1, 1.0)?;
        let mean_of = |choose: &dyn Fn(Seed) -> Result<Schedule>, beta: f32| {
            let mut means = vec![0.0; groups];
            for seed in 0..options.seeds {
                let errors = self.errors_under(&choose(options.seed.round(seed))?, beta);
                means.iter_mut().zip(errors).for_each(|(mean, e)| *mean += e / f64::from(options.seeds));
            }
            Ok::<_, Error>(means)
        };
        let like = |seed| Schedule::sample(&self.grid, &default, &Systematic, seed);
        let calibrated = mean_of(&|seed| calibration.schedule(&self.grid, &Systematic, seed), 1.0)?;
        let by_default = mean_of(&like, 0.5)?;
        let sink_window = mean_of(&|seed| sink_window_like(&like(seed)?, &default), 0.0)?;
        let uniform = mean_of(&|seed| uniform_like(&like(seed)?, &default, seed), 0.0)?;
        let top_k = mean_of(&|seed| self.heaviest_like(&like(seed)?), 0.0)?;
        let allocation = |group| {
            let masses = self.by_distance(group, options.sink_blocks);
            Ok(variance_optimal(options.blocks, &masses)?.with_sink_blocks(options.sink_blocks))
        };
        let allocations = (0..groups).map(allocation).collect::<Result<Vec<_>>>()?;
        let optimal = self.mean_errors(&allocations, &BETAS, &options)?;
        let errors = |group: usize| {
            let best = optimal.iter().map(|(beta, errors)| (errors[group], *beta));
            let (variance_optimal, variance_optimal_beta) =
                best.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, 0.0));
            HeadErrors {
                calibrated: calibrated[group],
                default: by_default[group],
                sink_window: sink_window[group],
                uniform: uniform[group],
                variance_optimal,
                variance_optimal_beta,
                top_k: top_k[group],
            }
        };
        Ok((0..groups).map(errors).collect())
    }

    /// The mean error of each list group, for each β.
    fn mean_errors(
        &self,
        profiles: &[Profile],
        betas: &[f32],
        options: &Options,
    ) -> Result<Vec<(f32, Vec<f64>)>> {
        let mut means: Vec<_> = betas.iter().map(|&beta| (beta, vec![0.0; self.grid.groups()])).collect();
        for seed in 0..options.seeds {
            let seed = options.seed.round(seed);
            let schedule = Schedule::sample_each(&self.grid, profiles, &Systematic, seed)?;
            for (beta, means) in &mut means {
                let errors = self.errors_under(&schedule, *beta);
                means.iter_mut().zip(errors).for_each(|(mean, e)| *mean += e / f64::from(options.seeds));
            }
        }
        Ok(means)
    }
}
