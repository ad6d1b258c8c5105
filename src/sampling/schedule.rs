//! The schedule: sorted key-block lists with weights.

use std::collections::BTreeMap;
use std::fmt;

use super::cumulative::CumulativeProfile;
use super::grid::BlockGrid;
use super::profile::Profile;
use super::rows::{candidates, mean_blocks, query_blocks, rows, tabulate};
use super::sampler::{RowSampler, Sampler};
use crate::error::{Error, Result, ensure};
use crate::limits::MAX_ELEMENTS;
use crate::random::Seed;

/// One kept block of a list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The key block J.
    pub block: usize,
    /// The natural logarithm of the probability with which it was kept, 0 for certain blocks; times
    /// its list's β after [`Schedule::with_corrections`].
    pub ln_p: f32,
}

/// Which key blocks every query block attends to, per list group: compressed sparse rows, sorted,
/// with a weight per entry.
///
/// Rows are ordered by list group, then by query block. In a causal schedule that was sampled, the
/// last entry of a row is its diagonal block: the triangle is *compacted*, only the diagonal needs
/// an element mask.
///
/// Schedules are pure values. Equality means equal bits, and [`Display`](fmt::Display) draws a
/// small picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    grid: BlockGrid,
    /// `rows + 1` offsets into the two arrays below.
    offsets: Vec<u32>,
    blocks: Vec<u32>,
    ln_p: Vec<f32>,
}

impl Schedule {
    /// Draws a schedule, with one profile for all lists.
    ///
    /// Memory and time are proportional to the kept blocks, and to the longest block distance.
    ///
    /// # Errors
    /// Invalid argument (`profile`) where the sampler can't have such marginals; too large (`grid`)
    /// if more than 2³² − 1 blocks are kept, at once where twice as many are expected.
    pub fn sample(grid: &BlockGrid, profile: &Profile, sampler: &dyn Sampler, seed: Seed) -> Result<Self> {
        Self::draw(grid, |_| profile, sampler, seed)
    }

    /// Draws a schedule, with a profile for each list group: heads differ in where their attention
    /// goes.
    ///
    /// Where all profiles are equal it is [`sample`](Schedule::sample)'s.
    ///
    /// # Errors
    /// Invalid argument (`profiles`) unless there is one per list group; otherwise as
    /// [`sample`](Schedule::sample).
    pub fn sample_each(
        grid: &BlockGrid,
        profiles: &[Profile],
        sampler: &dyn Sampler,
        seed: Seed,
    ) -> Result<Self> {
        let (groups, got) = (grid.groups(), profiles.len());
        ensure!(got == groups, "profiles", "expected one per list group, {groups}, got {got}");
        Self::draw(grid, |group| &profiles[group], sampler, seed)
    }

    fn draw<'a>(
        grid: &BlockGrid,
        profile_of: impl Fn(usize) -> &'a Profile,
        sampler: &dyn Sampler,
        seed: Seed,
    ) -> Result<Self> {
        check_expected(grid, &profile_of)?;
        let mut builder = Builder::new(grid);
        let mut far = Vec::new();
        let mut ready: Option<(CumulativeProfile, Box<dyn RowSampler>)> = None;
        for group in 0..grid.groups() {
            let profile = profile_of(group);
            // Neighbouring lists mostly share a profile, and so its tables.
            let same = ready.take().filter(|(table, _)| table.profile() == profile);
            let (table, rows) = match same {
                Some(same) => ready.insert(same),
                None => {
                    let table = tabulate(grid, profile);
                    let rows = sampler.prepare(&table)?;
                    ready.insert((table, rows))
                }
            };
            for query_block in query_blocks(grid) {
                let (sinks, span) = candidates(grid, profile, group, query_block);
                for block in 0..sinks {
                    builder.push(block, 0.0);
                }
                let row = table.row(&span.before, &span.after, sinks);
                far.clear();
                rows.sample_row(&row, &span, seed, &mut |after, d| far.push((after, d)));
                // Before the diagonal, ascending distances are descending blocks.
                let split = far.iter().position(|&(after, _)| after).unwrap_or(far.len());
                for &(_, d) in far[..split].iter().rev() {
                    builder.push((query_block - d as i64) as usize, row.ln_p(d));
                }
                for &(_, d) in &far[split..] {
                    builder.push((query_block + d as i64) as usize, row.ln_p(d));
                }
                builder.end_row()?;
            }
        }
        Ok(builder.finish())
    }

    /// The same lists with the weights of list group g multiplied by `betas[g]`: an importance
    /// correction per head.
    ///
    /// Use it with [`Attention::with_correction(1.0)`](crate::Attention::with_correction), since a
    /// kernel multiplies all weights by that one β.
    ///
    /// # Errors
    /// Invalid argument (`betas`) unless there is one from 0 to 1 for every list group.
    pub fn with_corrections(mut self, betas: &[f32]) -> Result<Self> {
        let (groups, got) = (self.grid.groups(), betas.len());
        ensure!(got == groups, "betas", "expected one per list group, {groups}, got {got}");
        for (group, beta) in betas.iter().enumerate() {
            ensure!((0.0..=1.0).contains(beta), "betas", "expected 0 to 1 in list group {group}, got {beta}");
            let rows = group * self.grid.query_blocks();
            let entries = self.offsets[rows]..self.offsets[rows + self.grid.query_blocks()];
            for ln_p in &mut self.ln_p[entries.start as usize..entries.end as usize] {
                *ln_p = *ln_p * beta + 0.0; // no −0: equality of schedules is equality of bits
            }
        }
        Ok(self)
    }

    /// Every block that the grid allows, with weight `ln 1 = 0`: exact attention.
    ///
    /// # Errors
    /// Too large if the grid has more than 2³² − 1 pairs.
    pub fn dense(grid: &BlockGrid) -> Result<Self> {
        if grid.dense_blocks() > MAX_ELEMENTS as u64 {
            return Err(too_many_blocks());
        }
        let mut builder = Builder::new(grid);
        for (_, query_block) in rows(grid) {
            for block in 0..grid.dense_row(query_block) {
                builder.push(block, 0.0);
            }
            builder.end_row()?;
        }
        Ok(builder.finish())
    }

    /// Your own lists of key blocks, all of weight `ln 1 = 0`, ordered by list group, then by query
    /// block. Lists may be empty.
    ///
    /// # Errors
    /// Invalid argument (`lists`) unless there is one list per row, each strictly ascending, with
    /// no block past the keys or, if causal, past the diagonal.
    pub fn from_block_lists<L: AsRef<[usize]>>(grid: &BlockGrid, lists: &[L]) -> Result<Self> {
        let entries = |list: &L| list.as_ref().iter().map(|&block| Entry { block, ln_p: 0.0 }).collect();
        let lists: Vec<Vec<Entry>> = lists.iter().map(entries).collect();
        Self::from_entries(grid, &lists)
    }

    /// Your own lists with a weight `ln p` per entry, as
    /// [`from_block_lists`](Schedule::from_block_lists).
    ///
    /// # Errors
    /// As [`from_block_lists`](Schedule::from_block_lists); a weight must be finite and not
    /// positive.
    pub fn from_entries<L: AsRef<[Entry]>>(grid: &BlockGrid, lists: &[L]) -> Result<Self> {
        let count = grid.groups() * grid.query_blocks();
        ensure!(
            lists.len() == count,
            "lists",
            "expected one list per list group and query block, {} × {} = {count}, got {}",
            grid.groups(),
            grid.query_blocks(),
            lists.len()
        );
        let mut builder = Builder::new(grid);
        for ((group, query_block), list) in rows(grid).zip(lists) {
            let allowed = grid.dense_row(query_block);
            let mut least = 0;
            for &Entry { block, ln_p } in list.as_ref() {
                ensure!(
                    (least..allowed).contains(&block),
                    "lists",
                    "group {group}, query block {query_block}: expected ascending blocks below {allowed}, got {block}"
                );
                ensure!(
                    ln_p.is_finite() && ln_p <= 0.0,
                    "lists",
                    "group {group}, query block {query_block}, key block {block}: expected a finite ln p ≤ 0, got {ln_p}"
                );
                builder.push(block, ln_p);
                least = block + 1;
            }
            builder.end_row()?;
        }
        Ok(builder.finish())
    }

    /// The grid that the schedule is for.
    pub fn grid(&self) -> &BlockGrid {
        &self.grid
    }

    /// The list of one row. `row` counts query blocks from 0 (absolute block
    /// `grid.first_query_block() + row`); empty where out of range.
    pub fn row(&self, group: usize, row: usize) -> impl ExactSizeIterator<Item = Entry> + '_ {
        let query_blocks = self.grid.query_blocks();
        let range = if row < query_blocks && group < self.grid.groups() {
            let at = group * query_blocks + row;
            self.offsets[at] as usize..self.offsets[at + 1] as usize
        } else {
            0..0
        };
        range.map(|i| Entry { block: self.blocks[i] as usize, ln_p: self.ln_p[i] })
    }

    /// The key blocks of one row, ascending.
    pub fn blocks(&self, group: usize, row: usize) -> Vec<usize> {
        self.row(group, row).map(|entry| entry.block).collect()
    }

    /// Whether query block `grid.first_query_block() + row` visits `key_block`, and with which
    /// weight.
    pub fn find(&self, group: usize, row: usize, key_block: usize) -> Option<Entry> {
        self.row(group, row).find(|entry| entry.block == key_block)
    }

    /// The number of (query block, key block) pairs kept, over all list groups.
    pub fn visited_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Heap memory held, in bytes: 8 for every kept block and 4 for every row.
    pub fn memory_bytes(&self) -> u64 {
        (4 * (self.offsets.capacity() + self.blocks.capacity() + self.ln_p.capacity())) as u64
    }

    /// The number of (query, key) token pairs in the kept blocks that causality leaves, over all
    /// *query heads*: what a kernel has to compute. FLOPs are `2·(D + D_v)` times that.
    pub fn visited_pairs(&self) -> u64 {
        let grid = &self.grid;
        let block = grid.block_size() as i64;
        let (q_first, q_end) = (grid.kv_len() as i64 - grid.q_len() as i64, grid.kv_len() as i64);
        let mut pairs = 0;
        for (index, (group, query_block)) in rows(grid).enumerate() {
            let queries = (query_block * block).max(q_first)..((query_block + 1) * block).min(q_end);
            for entry in self.row(group, index % grid.query_blocks()) {
                let first = entry.block as i64 * block;
                let end = (first + block).min(grid.kv_len() as i64);
                pairs += match grid.is_causal() && queries.start < end {
                    true => queries.clone().map(|i| (i + 1).clamp(first, end) - first).sum::<i64>(),
                    false => (queries.end - queries.start) * (end - first),
                } as u64;
            }
        }
        pairs * grid.heads_per_group() as u64
    }

    /// Kept pairs over the pairs of dense attention, 0 to 1 (1 for an empty grid).
    pub fn density(&self) -> f64 {
        match self.grid.dense_blocks() {
            0 => 1.0,
            dense => self.visited_blocks() as f64 / dense as f64,
        }
    }

    /// The schedule of one list group as a `query_blocks × key_blocks` table; nothing is kept in it
    /// if there is no such group.
    ///
    /// # Errors
    /// Too large (`grid`) if the table would have more than 2³² − 1 cells, a byte each.
    pub fn to_dense(&self, group: usize) -> Result<Vec<Vec<bool>>> {
        let (rows, columns) = (self.grid.query_blocks(), self.grid.key_blocks());
        if rows as u64 * columns as u64 > MAX_ELEMENTS as u64 {
            return Err(Error::too_large("grid", format!("a table of {rows} × {columns} cells")));
        }
        let table = |row| {
            let mut kept = vec![false; columns];
            self.row(group, row).for_each(|entry| kept[entry.block] = true);
            kept
        };
        Ok((0..rows).map(table).collect())
    }

    /// The same pairs by key block: which query rows visit it (a backward pass walks these).
    pub fn transpose(&self) -> KeyBlockRows {
        let mut columns = BTreeMap::<_, Vec<_>>::new();
        for group in 0..self.grid.groups() {
            for row in 0..self.grid.query_blocks() {
                for Entry { block, ln_p } in self.row(group, row) {
                    columns.entry((group, block)).or_default().push((row, ln_p));
                }
            }
        }
        KeyBlockRows { columns }
    }

    /// Appends the words that a kernel reads: `rows + 1` offsets, then (block, bits of ln p) pairs.
    pub(crate) fn append_words(&self, words: &mut Vec<u32>) {
        words.reserve(self.offsets.len() + 2 * self.blocks.len());
        words.extend_from_slice(&self.offsets);
        for (block, ln_p) in self.blocks.iter().zip(&self.ln_p) {
            words.extend([*block, ln_p.to_bits()]);
        }
    }

    /// Appends the words by key block: an offset for each (list group, key block) and one past the
    /// end, then (query block, bits of ln p) pairs. Gives the mean length of each key block's
    /// lists, rounded up.
    pub(crate) fn append_columns(&self, words: &mut Vec<u32>) -> Vec<u32> {
        let (groups, columns) = (self.grid.groups(), self.grid.key_blocks());
        let mut offsets = vec![0u32; groups * columns + 1];
        let entries = || {
            (0..groups).flat_map(move |group| {
                let rows = 0..self.grid.query_blocks();
                rows.flat_map(move |row| self.row(group, row).map(move |entry| (group, row, entry)))
            })
        };
        for (group, _, entry) in entries() {
            offsets[group * columns + entry.block + 1] += 1;
        }
        let lengths =
            |column: usize| (0..groups).map(|group| offsets[group * columns + column + 1]).sum::<u32>();
        let means = (0..columns).map(|column| lengths(column).div_ceil(groups.max(1) as u32)).collect();
        for column in 0..groups * columns {
            offsets[column + 1] += offsets[column];
        }
        let pairs_at = words.len() + offsets.len();
        words.extend_from_slice(&offsets);
        words.resize(pairs_at + 2 * self.blocks.len(), 0);
        for (group, row, entry) in entries() {
            let next = &mut offsets[group * columns + entry.block];
            let at = pairs_at + 2 * *next as usize;
            words[at..at + 2].copy_from_slice(&[row as u32, entry.ln_p.to_bits()]);
            *next += 1;
        }
        means
    }

    /// The schedule of these words, as [`append_words`](Schedule::append_words) writes them:
    /// checked, since a device wrote them.
    ///
    /// # Errors
    /// Invalid argument (`lists`) unless they are a schedule of `grid`.
    pub(crate) fn from_words(grid: &BlockGrid, offsets: &[u32], pairs: &[u32]) -> Result<Self> {
        let (pairs, _) = pairs.as_chunks::<2>();
        let entry = |&[block, bits]: &[u32; 2]| Entry { block: block as usize, ln_p: f32::from_bits(bits) };
        let list = |ends: &[u32]| {
            let list = pairs.get(ends[0] as usize..ends[1] as usize);
            let error =
                || Error::argument_error("lists", format!("expected ascending offsets, got {ends:?}"));
            Ok(list.ok_or_else(error)?.iter().map(entry).collect::<Vec<_>>())
        };
        Self::from_entries(grid, &offsets.windows(2).map(list).collect::<Result<Vec<_>>>()?)
    }
}

/// A [`Schedule`] by key block, from [`Schedule::transpose`].
#[derive(Clone, Debug, PartialEq)]
pub struct KeyBlockRows {
    /// By (list group, key block); those that no row visits are absent.
    columns: BTreeMap<(usize, usize), Vec<(usize, f32)>>,
}

impl KeyBlockRows {
    /// The (row, ln p) pairs that visit `key_block`, rows ascending; empty where there is no such
    /// group or block.
    pub fn column(&self, group: usize, key_block: usize) -> &[(usize, f32)] {
        self.columns.get(&(group, key_block)).map_or(&[], Vec::as_slice)
    }
}

/// Refuses what certainly won't fit, before memory fills up with it.
fn check_expected<'a>(grid: &BlockGrid, profile_of: &impl Fn(usize) -> &'a Profile) -> Result<()> {
    if grid.dense_blocks() <= MAX_ELEMENTS as u64 {
        return Ok(());
    }
    let mut last: Option<(&Profile, f64)> = None;
    let mut expected = 0.0;
    for profile in (0..grid.groups()).map(profile_of) {
        let mean = last.filter(|(known, _)| *known == profile).map(|(_, mean)| mean);
        let mean = mean.unwrap_or_else(|| mean_blocks(grid, profile));
        expected += mean * grid.query_blocks() as f64;
        last = Some((profile, mean));
    }
    if expected <= 2.0 * MAX_ELEMENTS as f64 { Ok(()) } else { Err(too_many_blocks()) }
}

fn too_many_blocks() -> Error {
    Error::too_large("grid", "the schedule keeps more than 2³² − 1 blocks")
}

/// A schedule in the making, row by row.
pub(super) struct Builder(Schedule);

impl Builder {
    pub(super) fn new(grid: &BlockGrid) -> Self {
        Self(Schedule { grid: *grid, offsets: vec![0], blocks: Vec::new(), ln_p: Vec::new() })
    }

    pub(super) fn push(&mut self, block: usize, ln_p: f32) {
        self.0.blocks.push(block as u32);
        self.0.ln_p.push(ln_p);
    }

    pub(super) fn end_row(&mut self) -> Result<()> {
        let end = u32::try_from(self.0.blocks.len()).map_err(|_| too_many_blocks())?;
        self.0.offsets.push(end);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Schedule {
        self.0.offsets.shrink_to_fit();
        self.0.blocks.shrink_to_fit();
        self.0.ln_p.shrink_to_fit();
        self.0
    }
}

/// A line of counts, then list group 0: `█` visited, `▒` partly (when several blocks share a cell),
/// `·` skipped.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CELLS: usize = 32;
        let grid = &self.grid;
        let (rows, columns) = (grid.query_blocks(), grid.key_blocks());
        writeln!(
            f,
            "{} {rows} × {columns} blocks of {} tokens, {} list(s): {} of {} block pairs ({:.1}%)",
            if grid.is_causal() { "causal" } else { "full" },
            grid.block_size(),
            grid.groups(),
            self.visited_blocks(),
            grid.dense_blocks(),
            100.0 * self.density()
        )?;
        let cell = rows.max(columns).div_ceil(CELLS).max(1);
        for top in (0..rows).step_by(cell) {
            let mut cells = vec![(0u64, 0u64); columns.div_ceil(cell)];
            for row in (top..rows).take(cell) {
                let limit = grid.dense_row(grid.first_query_block() + row as i64);
                for (index, (_, allowed)) in cells.iter_mut().enumerate() {
                    *allowed += limit.saturating_sub(index * cell).min(cell) as u64;
                }
                self.row(0, row).for_each(|entry| cells[entry.block / cell].0 += 1);
            }
            for counts in cells {
                f.write_str(match counts {
                    (_, 0) => " ",
                    (0, _) => "·",
                    (v, a) if v == a => "█",
                    _ => "▒",
                })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
