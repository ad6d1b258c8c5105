//! What a schedule costs, how often it visits each distance, and how evenly its rows load a device.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::grid::BlockGrid;
use super::profile::{ONE, Profile};
use super::rows::{candidates, expected_row, query_blocks, rows, spaced_rows, tabulate};
use super::schedule::Schedule;
use crate::error::{Result, ensure};

/// The expected blocks of one list: Σ p(d) over its rows, pinned blocks included, in closed form
/// from the profile's tables.
///
/// Every sampler whose marginals are p(d) has this expectation (so all but
/// [`RowColumn`](super::RowColumn), which keeps fewer). The realized number is
/// [`Schedule::list_blocks`].
///
/// ```
/// use prflash::sampling::expected_blocks;
/// use prflash::{BlockGrid, Profile, Shape};
/// let grid = BlockGrid::causal(&Shape::new(1, 1, 64 * 256, 64)?);
/// // With one sink block, 1/(1+d) costs T·H_T.
/// let harmonic_number: f64 = (1..=256).map(|n| 1.0 / f64::from(n)).sum();
/// assert!((expected_blocks(&grid, &Profile::harmonic()) - 256.0 * harmonic_number).abs() < 1e-4);
/// # Ok::<(), prflash::Error>(())
/// ```
pub fn expected_blocks(grid: &BlockGrid, profile: &Profile) -> f64 {
    let table = tabulate(grid, profile);
    query_blocks(grid).map(|query_block| expected_row(&table, grid, profile, query_block)).sum()
}

/// The mean over rows of `Σ of(d, p(d))` over the candidates beside the sinks at distances below
/// `end`. Past 64 query blocks only so many evenly spaced ones count.
pub(crate) fn mean_over_rows(
    grid: &BlockGrid,
    profile: &Profile,
    end: usize,
    of: impl Fn(usize, f64) -> f64,
) -> f64 {
    let table = tabulate(grid, profile);
    let (rows, count) = spaced_rows(grid);
    let mean_of = |query_block| {
        let (sinks, span) = candidates(grid, profile, 0, query_block);
        let row = table.row(&span.before, &span.after, sinks);
        let near = |range: std::ops::Range<usize>| range.start..range.end.min(end);
        let distances = near(span.before).chain(near(span.after));
        distances.map(|d| of(d, row.probability(d) as f64 / ONE as f64)).sum::<f64>()
    };
    rows.map(mean_of).sum::<f64>() / count as f64
}

/// In which order the rows of a schedule are handed to workgroups. Within a row, heads run fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowOrder {
    /// Query blocks ascending.
    AsIs,
    /// Query blocks descending: in causal attention the longest first, on average.
    LateFirst,
    /// By descending length of the longest list among the list groups; of equals the later row
    /// first.
    LongestFirst,
    /// The longest, the shortest, the second longest, the second shortest …: for devices that
    /// divide workgroups among their threads beforehand, in runs of equal number, as lavapipe does.
    /// Each run then has about the same share.
    Paired,
}

/// How a device hands workgroups to what runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workers {
    /// To whichever of so many is free first, in order: GPUs.
    Dynamic(usize),
    /// Beforehand, in as many runs of equal number: lavapipe's threads.
    Static(usize),
}

/// How evenly the rows of a schedule load a device, from [`Schedule::load_balance`]. The unit is a
/// visited block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadBalance {
    /// When the last worker is done.
    pub makespan: u64,
    /// What no order can beat: the longest row, or all rows divided evenly.
    pub ideal: f64,
    /// The longest row.
    pub longest: u64,
    /// The mean row.
    pub mean: f64,
}

impl LoadBalance {
    /// `makespan / ideal`: 1 is perfect (and where there is nothing to do).
    pub fn ratio(&self) -> f64 {
        if self.ideal > 0.0 { self.makespan as f64 / self.ideal } else { 1.0 }
    }
}

impl Schedule {
    /// The number of blocks kept in the lists of one group: what [`expected_blocks`] expects; 0
    /// where there is no such group.
    pub fn list_blocks(&self, group: usize) -> u64 {
        (0..self.grid().query_blocks()).map(|row| self.row(group, row).len() as u64).sum()
    }

    /// The rows (0 to `query_blocks − 1`) in this order.
    pub fn row_order(&self, order: RowOrder) -> Vec<u32> {
        let grid = self.grid();
        let rows = 0..grid.query_blocks() as u32;
        let longest = |row: u32| (0..grid.groups()).map(|group| self.row(group, row as usize).len()).max();
        let longest_first = || {
            let mut rows: VecDeque<_> = rows.clone().map(|row| (longest(row), row)).collect();
            rows.make_contiguous().sort_unstable_by_key(|&entry| Reverse(entry));
            rows
        };
        match order {
            RowOrder::AsIs => rows.collect(),
            RowOrder::LateFirst => rows.rev().collect(),
            RowOrder::LongestFirst => longest_first().into_iter().map(|(_, row)| row).collect(),
            RowOrder::Paired => {
                let mut left = longest_first();
                let end = |i| if i % 2 == 0 { left.pop_front() } else { left.pop_back() };
                rows.map_while(end).map(|(_, row)| row).collect()
            }
        }
    }

    /// One workgroup for every query head and row, as long as the row's list, in this order, on
    /// these workers (at least one; any number, those without work cost nothing).
    pub fn load_balance(&self, workers: Workers, order: RowOrder) -> LoadBalance {
        let grid = self.grid();
        let lengths: Vec<u64> = self
            .row_order(order)
            .iter()
            .flat_map(|&row| (0..grid.heads()).map(move |head| (grid.group_of_head(head), row as usize)))
            .map(|(group, row)| self.row(group, row).len() as u64)
            .collect();
        let (workers, makespan) = match workers {
            Workers::Dynamic(workers) => {
                let workers = workers.max(1);
                // The others never get any work.
                let busy = workers.min(lengths.len().max(1));
                let mut free_at: BinaryHeap<Reverse<u64>> = vec![Reverse(0); busy].into();
                for length in &lengths {
                    if let Some(mut next) = free_at.peek_mut() {
                        next.0 += length;
                    }
                }
                (workers, free_at.into_iter().map(|Reverse(time)| time).max())
            }
            Workers::Static(workers) => {
                let workers = workers.max(1);
                let runs = lengths.chunks(lengths.len().div_ceil(workers).max(1));
                (workers, runs.map(|run| run.iter().sum()).max())
            }
        };
        let total: u64 = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        LoadBalance {
            makespan: makespan.unwrap_or(0),
            ideal: (total as f64 / workers as f64).max(longest as f64),
            longest,
            mean: if lengths.is_empty() { 0.0 } else { total as f64 / lengths.len() as f64 },
        }
    }
}

/// How often blocks at each distance are kept, counted over many schedules of one grid.
///
/// Rows of one schedule may depend on each other, so a *schedule* is the sampling unit: bounds come
/// from the spread of the schedules' own frequencies. Schedules must be drawn independently of each
/// other (other seeds, rounds, layers or sequences).
///
/// ```
/// use prflash::sampling::DistanceFrequencies;
/// use prflash::{BlockGrid, Profile, Schedule, Seed, Shape, Systematic};
/// let grid = BlockGrid::causal(&Shape::new(2, 1, 1024, 64)?);
/// let profile = Profile::harmonic();
/// let mut frequencies = DistanceFrequencies::new(&grid, profile.sink_blocks());
/// for seed in 0..100 {
///     frequencies.add(&Schedule::sample(&grid, &profile, &Systematic, Seed::new(seed))?)?;
/// }
/// let rows = frequencies.rows(1e-6);
/// assert!(rows.iter().all(|row| (row.low..=row.high).contains(&profile.probability(row.distance))));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DistanceFrequencies {
    grid: BlockGrid,
    sink_blocks: usize,
    schedules: u64,
    /// The counts by distance.
    counts: Vec<Count>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    /// Pairs at this distance in one schedule.
    candidates: u64,
    kept: u64,
    /// Σ over schedules of the squared number kept.
    squares: u128,
}

/// One distance of [`DistanceFrequencies::rows`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistanceFrequency {
    /// The block distance |I − J|.
    pub distance: usize,
    /// (query block, key block) pairs at this distance, over all lists and schedules.
    pub candidates: u64,
    /// How many of them were kept.
    pub kept: u64,
    /// `kept / candidates`.
    pub frequency: f64,
    /// Lower confidence bound of the probability.
    pub low: f64,
    /// Upper confidence bound of the probability.
    pub high: f64,
}

impl DistanceFrequencies {
    /// Counts nothing yet. Pairs with the first `sink_blocks` key blocks are left out, since they
    /// are pinned at any distance.
    pub fn new(grid: &BlockGrid, sink_blocks: usize) -> Self {
        // The distances of a row are two runs, at or before the diagonal and after it: where more
        // of them begin than end, by distance.
        let profile = Profile::dense().with_sink_blocks(sink_blocks);
        let runs = || {
            let of_row = |row| {
                let (_, span) = candidates(grid, &profile, 0, row);
                [span.before, span.after]
            };
            query_blocks(grid).flat_map(of_row).filter(|run| !run.is_empty())
        };
        let distances = runs().map(|run| run.end).max().unwrap_or(0);
        let mut steps = vec![0i64; distances + 1];
        for run in runs() {
            steps[run.start] += 1;
            steps[run.end] -= 1;
        }
        let mut rows = 0;
        let count = |step: &i64| {
            rows += step;
            Count { candidates: rows as u64 * grid.groups() as u64, ..Count::default() }
        };
        let counts = steps[..distances].iter().map(count).collect();
        Self { grid: *grid, sink_blocks, schedules: 0, counts }
    }

    /// Counts one more schedule.
    ///
    /// # Errors
    /// Invalid argument (`schedule`) if it is of another grid.
    pub fn add(&mut self, schedule: &Schedule) -> Result<()> {
        ensure!(
            schedule.grid() == &self.grid,
            "schedule",
            "expected the grid {:?}, got {:?}",
            self.grid,
            schedule.grid()
        );
        let mut kept = vec![0u64; self.counts.len()];
        for (index, (group, query_block)) in rows(&self.grid).enumerate() {
            for entry in schedule.row(group, index % self.grid.query_blocks()) {
                if entry.block >= self.sink_blocks {
                    kept[(query_block - entry.block as i64).unsigned_abs() as usize] += 1;
                }
            }
        }
        for (count, kept) in self.counts.iter_mut().zip(kept) {
            count.kept += kept;
            count.squares += u128::from(kept).pow(2);
        }
        self.schedules += 1;
        Ok(())
    }

    /// The frequencies of all distances that occur, with bounds that *all* hold with probability at
    /// least `1 − false_alarm`.
    ///
    /// With n schedules, whose own frequencies at a distance have the sample variance V, and `L =
    /// ln(4·distances/false_alarm)`, a bound is `√(2VL/n) + 7L/(3(n−1))` away: the empirical
    /// Bernstein inequality of Maurer and Pontil (2009) with a Bonferroni correction. Below two
    /// schedules, and unless `false_alarm` is positive, it is 0 and 1.
    pub fn rows(&self, false_alarm: f64) -> Vec<DistanceFrequency> {
        let n = self.schedules as f64;
        let occurring = self.counts.iter().filter(|count| count.candidates > 0).count();
        let sure = false_alarm > 0.0;
        let log = if sure { (4.0 * occurring as f64 / false_alarm).ln().max(0.0) } else { 0.0 };
        let row = |(distance, count): (usize, &Count)| {
            let all = count.candidates as f64;
            let frequency = if n > 0.0 { count.kept as f64 / (all * n) } else { 0.0 };
            let margin = if self.schedules < 2 || !sure {
                1.0
            } else {
                let spread = count.squares as f64 / (all * all) - n * frequency * frequency;
                let variance = spread.max(0.0) / (n - 1.0);
                (2.0 * variance * log / n).sqrt() + 7.0 * log / (3.0 * (n - 1.0))
            };
            DistanceFrequency {
                distance,
                candidates: count.candidates * self.schedules,
                kept: count.kept,
                frequency,
                low: (frequency - margin).max(0.0),
                high: (frequency + margin).min(1.0),
            }
        };
        self.counts.iter().enumerate().filter(|(_, count)| count.candidates > 0).map(row).collect()
    }
}
