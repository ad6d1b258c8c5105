//! How much of the softmax lies in each block.

use super::{check_inputs, every, for_each_row};
use crate::attention::{Attention, Tables};
use crate::error::{Result, ensure};
use crate::sampling::{BlockGrid, Schedule};
use crate::shape::Shape;

/// The softmax mass of exact attention by block: how much of it each (query row, key block) pair
/// carries.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMass {
    grid: BlockGrid,
    batch: usize,
    /// Summed over the rows of a query block: `[batch, heads, query_blocks, key_blocks]`.
    mass: Vec<f64>,
    rows: f64,
}

/// Sums the softmax weights of dense attention over the blocks of `grid`. `q` and `k` as in
/// [`attention`](super::attention()).
///
/// # Errors
/// Invalid argument if a slice has the wrong length or the grid is for other sizes.
pub fn block_mass(
    attention: &Attention,
    shape: &Shape,
    q: &[f32],
    k: &[f32],
    grid: &BlockGrid,
) -> Result<BlockMass> {
    check_inputs(shape, q, k)?;
    grid.check(attention.is_causal(), shape)?;
    let (query_blocks, key_blocks, block) = (grid.query_blocks(), grid.key_blocks(), grid.block_size());
    let mut mass = vec![0.0; shape.batch() * shape.heads() * query_blocks * key_blocks];
    let mut rows = 0.0;
    for_each_row(attention, shape, q, k, &Tables::new(), every, |row| {
        let query_block = (row.position.div_euclid(block as i64) - grid.first_query_block()) as usize;
        let at = (row.head_row * query_blocks + query_block) * key_blocks;
        for &(j, p) in row.weights {
            mass[at + j / block] += p;
        }
        // Of a row that sees nothing a sink may be all there is.
        rows += f64::from(u8::from(row.scores.iter().any(|&score| score != f64::NEG_INFINITY)));
    })?;
    Ok(BlockMass { grid: *grid, batch: shape.batch(), mass, rows })
}

/// How much softmax mass the blocks at one distance carry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DistanceMass {
    /// (Query row or block, key block) pairs measured.
    pub pairs: u64,
    /// The mean mass of a block.
    pub mean: f64,
    /// The mean of its square.
    pub mean_square: f64,
}

impl DistanceMass {
    /// Takes one more pair into the running means.
    pub(crate) fn add(masses: &mut Vec<Self>, distance: usize, mass: f64) {
        if distance >= masses.len() {
            masses.resize(distance + 1, Self::default());
        }
        let at = &mut masses[distance];
        at.pairs += 1;
        at.mean += (mass - at.mean) / at.pairs as f64;
        at.mean_square += (mass * mass - at.mean_square) / at.pairs as f64;
    }
}

impl BlockMass {
    /// The schedule that visits the heaviest blocks of every query block, as many as `like` has in
    /// that row: the ceiling for any choice of blocks by mass.
    ///
    /// Lists that heads share rank blocks by the sum over these heads, and over the batch.
    ///
    /// # Errors
    /// As [`recall`](BlockMass::recall).
    pub fn heaviest_like(&self, like: &Schedule) -> Result<Schedule> {
        let grid = self.check(like)?;
        let (query_blocks, key_blocks, heads) = (grid.query_blocks(), grid.key_blocks(), grid.heads());
        let mut lists = Vec::with_capacity(grid.groups() * query_blocks);
        for group in 0..grid.groups() {
            let sequence_heads =
                || (0..self.batch * heads).filter(|head| grid.group_of_head(head % heads) == group);
            for row in 0..query_blocks {
                let mass = |block: usize| {
                    sequence_heads()
                        .map(|head| self.mass[(head * query_blocks + row) * key_blocks + block])
                        .sum::<f64>()
                };
                let allowed = grid.dense_row(grid.first_query_block() + row as i64);
                let mut ranked: Vec<(f64, usize)> = (0..allowed).map(|block| (mass(block), block)).collect();
                ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
                let mut kept: Vec<usize> =
                    ranked.iter().take(like.row(group, row).len()).map(|&(_, block)| block).collect();
                kept.sort_unstable();
                lists.push(kept);
            }
        }
        Schedule::from_block_lists(&grid, &lists)
    }

    /// The mean mass that a key block has in the rows of a query block (counted from 0) of a head
    /// of the first batch entry; 0 for what isn't there.
    pub fn mean(&self, head: usize, row: usize, block: usize) -> f64 {
        let grid = &self.grid;
        let (query_blocks, key_blocks, size) =
            (grid.query_blocks(), grid.key_blocks(), grid.block_size() as i64);
        if head >= grid.heads() || row >= query_blocks || block >= key_blocks {
            return 0.0;
        }
        let (first, end) = (grid.kv_len() as i64 - grid.q_len() as i64, grid.kv_len() as i64);
        let begin = (grid.first_query_block() + row as i64) * size;
        let rows = (begin + size).min(end) - begin.max(first);
        self.mass[(head * query_blocks + row) * key_blocks + block] / rows as f64
    }

    /// The mass of one query head by block distance |I − J|, as the mean over the rows of a query
    /// block (and the batch), without the first `sink_blocks` key blocks: what
    /// [`calibrate_mass`](crate::calibration::calibrate_mass) takes where a list is this head's
    /// alone. Empty for a head that isn't there.
    pub fn by_distance(&self, head: usize, sink_blocks: usize) -> Vec<DistanceMass> {
        let grid = &self.grid;
        let (query_blocks, key_blocks, block) =
            (grid.query_blocks(), grid.key_blocks(), grid.block_size() as i64);
        let queries = grid.kv_len() as i64 - grid.q_len() as i64..grid.kv_len() as i64;
        let mut masses = Vec::new();
        for sequence_head in (0..self.batch).filter(|_| head < grid.heads()).map(|b| b * grid.heads() + head)
        {
            for row in 0..query_blocks {
                let query_block = grid.first_query_block() + row as i64;
                let rows =
                    ((query_block + 1) * block).min(queries.end) - (query_block * block).max(queries.start);
                let at = (sequence_head * query_blocks + row) * key_blocks;
                for key_block in sink_blocks..grid.dense_row(query_block) {
                    let distance = (query_block - key_block as i64).unsigned_abs() as usize;
                    DistanceMass::add(&mut masses, distance, self.mass[at + key_block] / rows as f64);
                }
            }
        }
        masses
    }

    fn check(&self, schedule: &Schedule) -> Result<BlockGrid> {
        let grid = *schedule.grid();
        let same = grid.with_granularity(self.grid.granularity()) == self.grid;
        ensure!(same, "schedule", "expected the grid {:?}, got {grid:?}", self.grid);
        Ok(grid)
    }

    /// The mean share, over all rows that see a key, of a row's attention mass that lies in blocks
    /// which `schedule` visits: 1 is dense.
    ///
    /// # Errors
    /// Invalid argument if the schedule's grid has other sizes than the one the mass was summed
    /// over.
    pub fn recall(&self, schedule: &Schedule) -> Result<f64> {
        let grid = self.check(schedule)?;
        let (query_blocks, key_blocks, heads) = (grid.query_blocks(), grid.key_blocks(), grid.heads());
        let mut kept = 0.0;
        for sequence_head in 0..self.batch * heads {
            for row in 0..query_blocks {
                let at = (sequence_head * query_blocks + row) * key_blocks;
                let list = schedule.row(grid.group_of_head(sequence_head % heads), row);
                kept += list.map(|entry| self.mass[at + entry.block]).sum::<f64>();
            }
        }
        Ok(if self.rows > 0.0 { kept / self.rows } else { 1.0 })
    }
}
