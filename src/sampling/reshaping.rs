//! Schedules whose blocks are dense triangles of a re-shaped tensor, and the shapes.

use std::ops::Range;

use super::grid::BlockGrid;
use super::profile::Profile;
use super::sampler::{Sampler, unclipped};
use super::schedule::Schedule;
use super::walks::{Cut, IndexSet, RowColumn, Segment};
use crate::error::{Error, Result, ensure};
use crate::limits::MAX_ELEMENTS;
use crate::random::Seed;

/// PrFlashAttention's re-shaping, literally: instead of block lists, which dense causal triangles
/// the tensor is cut or gathered into.
///
/// | | blocks | a row's result |
/// | --- | --- | --- |
/// | [`segments`](Reshaping::segments) | [`Segment`]'s: runs of the sequence | its segment's triangle, merged with the sink strip before it |
/// | [`row_column`](Reshaping::row_column) | [`RowColumn`]'s: one index set for rows and columns | in the set (to which the sinks are added): the triangle of the gathered rows; else its own block and the sink strip |
///
/// [`schedule`](Reshaping::schedule) is the same as block lists, so either way of computing it can
/// check the other. Attention over it: [`Plan::reshaped`](crate::Plan::reshaped).
///
/// ```
/// use prflash::sampling::Reshaping;
/// use prflash::{BlockGrid, Seed, Profile, Shape};
/// let grid = BlockGrid::causal(&Shape::new(2, 1, 64 * 20, 64)?);
/// let reshaping = Reshaping::segments(&grid, &Profile::harmonic(), Seed::new(7))?;
/// let cut = reshaping.segments_of(0);
/// assert_eq!((cut[0].start, cut[cut.len() - 1].end), (0, 20));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Reshaping {
    grid: BlockGrid,
    profile: Profile,
    seed: Seed,
    lists: Lists,
}

#[derive(Clone, Debug, PartialEq)]
enum Lists {
    /// Per list group, the key blocks where segments start, ascending from 0.
    Segments(Vec<Vec<usize>>),
    /// Per list group, the index set with the sinks, ascending.
    RowColumn(Vec<Vec<usize>>),
}

impl Reshaping {
    /// Cuts the block axis of every list group into segments, as [`Segment`] does with the same
    /// key.
    ///
    /// # Errors
    /// Invalid argument (`profile`) for what [`Segment`] refuses, and for a window of more than the
    /// diagonal, which is no triangle; (`grid`) unless causal with `q_len ≤ kv_len`; too large
    /// (`grid`) past 2³² − 1 key blocks of all list groups.
    pub fn segments(grid: &BlockGrid, profile: &Profile, seed: Seed) -> Result<Self> {
        check(grid, profile)?;
        let table = profile.cumulative(grid.key_blocks() + 1);
        Segment.prepare(&table)?;
        let cut = Cut { decay: unclipped(&table, "a segment cut")?.clone() };
        let starts = |group: usize| cut.starts(group as u32, seed, grid.key_blocks()).collect();
        Ok(Self::new(grid, profile, seed, Lists::Segments((0..grid.groups()).map(starts).collect())))
    }

    /// Draws one index set of blocks per list group, as [`RowColumn`] does with the same key, and
    /// adds the sinks to it.
    ///
    /// # Errors
    /// As [`segments`](Reshaping::segments), for what [`RowColumn`] refuses.
    pub fn row_column(grid: &BlockGrid, profile: &Profile, seed: Seed) -> Result<Self> {
        check(grid, profile)?;
        let index_set = IndexSet::new(&profile.cumulative(grid.key_blocks() + 1))?;
        let sinks = profile.sink_blocks().min(grid.key_blocks());
        let set = |group: usize| {
            let mut set: Vec<usize> = index_set.blocks(group as u32, seed, grid.key_blocks()).collect();
            set.extend(0..sinks);
            set.sort_unstable();
            set.dedup();
            set
        };
        Ok(Self::new(grid, profile, seed, Lists::RowColumn((0..grid.groups()).map(set).collect())))
    }

    fn new(grid: &BlockGrid, profile: &Profile, seed: Seed, lists: Lists) -> Self {
        Self { grid: *grid, profile: profile.clone(), seed, lists }
    }

    /// The grid that it is for.
    pub fn grid(&self) -> &BlockGrid {
        &self.grid
    }

    /// Whether rows and columns are gathered by one index set, and not the sequence cut into
    /// segments.
    pub fn is_row_column(&self) -> bool {
        matches!(self.lists, Lists::RowColumn(_))
    }

    /// Seed blocks at the start that every later row sees.
    pub fn sink_blocks(&self) -> usize {
        self.profile.sink_blocks().min(self.grid.key_blocks())
    }

    /// The key blocks of each segment of a list group, in order; empty for an index set, or where
    /// there is no such group.
    pub fn segments_of(&self, group: usize) -> Vec<Range<usize>> {
        let Lists::Segments(starts) = &self.lists else { return Vec::new() };
        let Some(starts) = starts.get(group) else { return Vec::new() };
        let ends = starts.iter().skip(1).copied().chain([self.grid.key_blocks()]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// The index set of a list group with the sinks, ascending; empty for segments, or where there
    /// is no such group.
    pub fn index_set(&self, group: usize) -> &[usize] {
        match &self.lists {
            Lists::RowColumn(sets) => sets.get(group).map_or(&[], Vec::as_slice),
            Lists::Segments(_) => &[],
        }
    }

    /// The same as block lists.
    ///
    /// # Errors
    /// Those of [`Schedule::sample`].
    pub fn schedule(&self) -> Result<Schedule> {
        let sampler: &dyn Sampler = if self.is_row_column() { &RowColumn } else { &Segment };
        Schedule::sample(&self.grid, &self.profile, sampler, self.seed)
    }
}

fn check(grid: &BlockGrid, profile: &Profile) -> Result<()> {
    ensure!(grid.is_causal(), "grid", "re-shaping keeps causal triangles: expected a causal grid");
    ensure!(
        grid.q_len() <= grid.kv_len(),
        "grid",
        "expected no more queries than keys, got {} and {}",
        grid.q_len(),
        grid.kv_len()
    );
    let blocks = grid.groups() as u64 * grid.key_blocks() as u64;
    if blocks > MAX_ELEMENTS as u64 {
        return Err(Error::too_large("grid", format!("{blocks} key blocks of all lists are past 2³² − 1")));
    }
    ensure!(
        profile.window_blocks() == 1,
        "profile",
        "a window beside a triangle is no triangle: expected window_blocks 1, got {}",
        profile.window_blocks()
    );
    Ok(())
}
