//! What attention has to do with the keys of a block, estimated from summaries: masks, positions,
//! scale and soft-cap, which scores of blocks must know.

use std::ops::Range;

use super::attention::Attention;
use super::documents::Documents;
use super::position_ids::PositionIds;
use super::tables::Tables;
use crate::error::{Result, ensure};
use crate::position::Positions;
use crate::sampling::content::{BlockScores, Estimate, KeySummaries, Probe};
use crate::sampling::{BlockGrid, Schedule};
use crate::shape::Shape;

/// How much of each row's attention is left out, at most and by an estimate: shares from 0 to 1, by
/// `[heads, q_len]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// No more than this share of the row's mass is in blocks that weren't visited: `U/(U + V)`
    /// with V the mass visited, and U an upper bound of the other one
    /// ([`Estimate::Bound`]).
    pub at_most: Vec<f64>,
    /// The same with the [saturated](Estimate::Saturated) estimate of the mass.
    pub estimated: Vec<f64>,
}

impl Missing {
    /// The largest share that any row may miss; 0 without rows.
    pub fn largest(&self) -> f64 {
        self.at_most.iter().copied().fold(0.0, f64::max)
    }

    /// Whether every row is known to miss no more than this share: where rounds may stop.
    pub fn is_within(&self, share: f64) -> bool {
        self.largest() <= share
    }
}

impl Attention {
    /// Summaries of the keys of one sequence, `[kv_heads, kv_len, head_dim]`, in groups of `group`
    /// tokens: rotated as this attention rotates keys, at their position ids where it has some.
    ///
    /// # Errors
    /// Invalid argument (`k`) unless these are that many finite numbers, rotated too; (`group`) if
    /// it is 0; (`position_ids`) unless there is one for each key; and what positions are refused
    /// for. Too large (`group`) past [`MAX_LEN`](crate::limits::MAX_LEN).
    pub fn summarize(
        &self,
        shape: &Shape,
        k: &[f32],
        group: usize,
        ids: Option<&PositionIds>,
    ) -> Result<KeySummaries> {
        let (heads, len, dim) = (shape.kv_heads(), shape.kv_len(), shape.head_dim());
        let mut keys = KeySummaries::new(heads, dim, group)?;
        ensure!(k.len() == heads * len * dim, "k", "expected {} numbers, got {}", heads * len * dim, k.len());
        let positions = self.positions().cloned().unwrap_or_default();
        positions.check(dim, shape.heads())?;
        let at = key_positions(len, ids)?;
        let Some(rope) = positions.rope() else {
            keys.append(k)?;
            return Ok(keys);
        };
        let mut rotated = k.to_vec();
        for head in rotated.chunks_exact_mut((len * dim).max(1)) {
            rope.rotate_at(head, &at)?;
        }
        keys.append(&rotated)?;
        Ok(keys)
    }

    /// The scores of the key blocks of `grid` for one sequence, from its queries `[heads, q_len,
    /// head_dim]` (before rotation) and the summaries of its keys. Masks, document masks and
    /// position ids are those of the first sequence of `tables`; its schedule has no say.
    ///
    /// A group's estimate is of `scale·q·k`. The soft-cap is applied to it, since it is monotone; a
    /// bias is that of the nearest key for [`Estimate::Bound`], else the mean of those of both ends
    /// of the group. A block's mass is the sum of its groups', each times its visible keys.
    ///
    /// Time: heads × rows of the probe × groups of keys × head_dim.
    ///
    /// # Errors
    /// Invalid argument (`grid`) unless it is causal or full as this attention is; (`q`) unless
    /// these are that many finite numbers, rotated too; (`summaries`) if they are of other sizes,
    /// or have no means where the estimate needs them; (`positions`) with a harmonic factor on
    /// scores, which no estimate knows; (`position_ids`, `documents`) if these are of other
    /// lengths, or ids come with a bias, since lags within a group are then anything. Too large
    /// (`grid`) past [`MAX_ELEMENTS`](crate::limits::MAX_ELEMENTS) scores.
    pub fn block_scores(
        &self,
        grid: &BlockGrid,
        q: &[f32],
        keys: &KeySummaries,
        estimate: Estimate,
        probe: Probe,
        tables: &Tables<'_>,
    ) -> Result<BlockScores> {
        let estimator = Estimator::new(self, grid, q, keys, tables)?;
        estimator.check(estimate)?;
        let rows = 0..grid.query_blocks();
        let probes: Vec<Vec<usize>> = rows.map(|row| probe.rows(grid, row)).collect();
        let seen = estimator.seen_blocks();
        let known = if probe.is_causal() && self.is_causal() { Known::Whole } else { Known::All };
        BlockScores::new(grid, |head, row| {
            let masses = probes[row].iter().map(|&query| estimator.masses(estimate, head, query, known));
            (seen[row].clone(), masses.collect())
        })
    }

    /// Natural logarithms of the estimated attention mass `Σ e^score` of every key block, for the
    /// query rows `rows`: `[heads, rows, key_blocks]`, −∞ where a row sees no key of a block, ∞
    /// where it sees one of which nothing is [known](KeySummaries::known).
    ///
    /// With [`Estimate::Bound`] no true mass is larger, but for rounding. The other arguments are
    /// those of [`block_scores`](Attention::block_scores).
    ///
    /// # Errors
    /// As [`block_scores`](Attention::block_scores); invalid argument (`rows`) for a row that isn't
    /// there.
    pub fn block_masses(
        &self,
        grid: &BlockGrid,
        q: &[f32],
        keys: &KeySummaries,
        estimate: Estimate,
        rows: &[usize],
        tables: &Tables<'_>,
    ) -> Result<Vec<f64>> {
        let estimator = Estimator::new(self, grid, q, keys, tables)?;
        estimator.check(estimate)?;
        if let Some(row) = rows.iter().find(|&&row| row >= grid.q_len()) {
            ensure!(*row < grid.q_len(), "rows", "expected rows below {}, got {row}", grid.q_len());
        }
        let each = |head| rows.iter().map(move |&row| (head, row));
        Ok((0..grid.heads())
            .flat_map(each)
            .flat_map(|(head, row)| estimator.masses(estimate, head, row, Known::All))
            .collect())
    }

    /// How much of each row's attention `visited` leaves out: at most, and by an estimate.
    ///
    /// `lse` is the log-sum-exp of the visited blocks by `[heads, q_len]`, without weights of
    /// sampling (a plan's with [`with_lse`](Attention::with_lse), or the merged one of rounds; a
    /// correction would change it). The schedules together are what was visited, each of this grid
    /// in any granularity.
    ///
    /// # Errors
    /// As [`block_scores`](Attention::block_scores); invalid argument (`lse`) unless there is one
    /// for each row, finite or −∞ where nothing was visited; (`visited`) for schedules of other
    /// grids.
    pub fn missing(
        &self,
        grid: &BlockGrid,
        q: &[f32],
        keys: &KeySummaries,
        visited: &[&Schedule],
        lse: &[f32],
        tables: &Tables<'_>,
    ) -> Result<Missing> {
        let estimator = Estimator::new(self, grid, q, keys, tables)?;
        let rows = grid.heads() * grid.q_len();
        ensure!(lse.len() == rows, "lse", "expected {rows} numbers, got {}", lse.len());
        if let Some(row) = lse.iter().position(|lse| lse.is_nan() || *lse == f32::INFINITY) {
            ensure!(row >= rows, "lse", "expected finite numbers or −∞, got {} for row {row}", lse[row]);
        }
        for schedule in visited {
            let (want, got) = (grid, schedule.grid());
            let same = *want == got.with_granularity(want.granularity());
            ensure!(same, "visited", "expected schedules of the grid {want:?}, got {got:?}");
        }
        let mut missing = Missing { at_most: Vec::with_capacity(rows), estimated: Vec::with_capacity(rows) };
        for head in 0..grid.heads() {
            for query in 0..grid.q_len() {
                let row = estimator.query_block(query);
                let visits = |block: usize| {
                    let of = |schedule: &&Schedule| {
                        let group = schedule.grid().group_of_head(head);
                        schedule.find(group, row, block).is_some()
                    };
                    visited.iter().any(of)
                };
                let lse = f64::from(lse[head * grid.q_len() + query]);
                let share = |estimate| {
                    let masses = estimator.masses(estimate, head, query, Known::All).into_iter().enumerate();
                    let left: Vec<f64> =
                        masses.filter(|&(block, _)| !visits(block)).map(|(_, mass)| mass).collect();
                    share_of(ln_sum(&left), lse)
                };
                missing.at_most.push(share(Estimate::Bound));
                missing.estimated.push(share(Estimate::Saturated));
            }
        }
        Ok(missing)
    }
}

/// `U/(U + V)` from logarithms; 0 where nothing is left.
fn share_of(left: f64, visited: f64) -> f64 {
    if left == f64::NEG_INFINITY { 0.0 } else { 1.0 / (1.0 + libm::exp(visited - left)) }
}

/// `ln Σ e^x`; −∞ of nothing.
fn ln_sum(logs: &[f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + libm::log(logs.iter().map(|x| libm::exp(x - largest)).sum())
}

fn key_positions(len: usize, ids: Option<&PositionIds>) -> Result<Vec<i64>> {
    let Some(ids) = ids else { return Ok((0..len as i64).collect()) };
    let got = ids.keys().len();
    ensure!(got == len, "position_ids", "expected ids of {len} keys, got {got}");
    Ok(ids.keys().iter().map(|&id| id.into()).collect())
}

fn check_finite(q: &[f32]) -> Result<()> {
    let Some(index) = q.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    let got = q[index];
    ensure!(got.is_finite(), "q", "expected finite numbers, rotated too, got {got} at index {index}");
    Ok(())
}

/// Which groups of keys a row's estimates may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// All that it sees a key of.
    All,
    /// Those whose last key it sees: the extremes of others tell of keys that come after the row.
    Whole,
}

/// Estimates of one sequence's blocks.
struct Estimator<'a> {
    attention: &'a Attention,
    grid: BlockGrid,
    keys: &'a KeySummaries,
    documents: Option<&'a Documents>,
    positions: Positions,
    /// By query head.
    slopes: Vec<f64>,
    /// `[heads, q_len, head_dim]`, rotated and scaled.
    queries: Vec<f64>,
}

impl<'a> Estimator<'a> {
    fn new(
        attention: &'a Attention,
        grid: &BlockGrid,
        q: &[f32],
        keys: &'a KeySummaries,
        tables: &Tables<'a>,
    ) -> Result<Self> {
        let (want, got) = (attention.is_causal(), grid.is_causal());
        ensure!(want == got, "grid", "expected one with causal = {want}, got {got}");
        let (want, got) = ((grid.kv_heads(), grid.kv_len()), (keys.kv_heads(), keys.len()));
        ensure!(want == got, "summaries", "expected (kv_heads, kv_len) = {want:?}, got {got:?}");
        let dim = keys.head_dim();
        let want = [grid.q_len(), dim].into_iter().try_fold(grid.heads(), usize::checked_mul);
        let got = q.len();
        ensure!(want == Some(got), "q", "expected heads × q_len × head_dim numbers, got {got}");
        check_finite(q)?;
        let positions = attention.positions().cloned().unwrap_or_default();
        positions.check(dim, grid.heads())?;
        let factor = positions.factor_length();
        ensure!(
            factor.is_none(),
            "positions",
            "expected none with a harmonic factor, which estimates of blocks don't know, got {factor:?}"
        );
        let ids = tables.position_ids(0);
        if let Some(ids) = ids {
            let (want, got) = ((grid.q_len(), grid.kv_len()), (ids.queries().len(), ids.keys().len()));
            ensure!(want == got, "position_ids", "expected ids for (q_len, kv_len) = {want:?}, got {got:?}");
            let plain = positions.bias().is_none();
            ensure!(plain, "position_ids", "expected none beside a bias, for which lags must count up");
        }
        ensure!(tables.mask(0).is_none(), "mask", "expected none: estimates don't know mask tensors");
        let documents = tables.documents(0);
        if let Some(documents) = documents {
            let (want, got) = (grid.q_len(), documents.len());
            ensure!(want == got, "documents", "expected a mask for {want} queries, got {got}");
        }
        let mut queries = q.to_vec();
        if let Some(rope) = positions.rope() {
            let first = grid.kv_len() as i64 - grid.q_len() as i64;
            let at: Vec<i64> = match ids {
                Some(ids) => ids.queries().iter().map(|&id| id.into()).collect(),
                None => (0..grid.q_len() as i64).map(|row| first + row).collect(),
            };
            for head in queries.chunks_exact_mut((grid.q_len() * dim).max(1)) {
                rope.rotate_at(head, &at)?;
            }
            check_finite(&queries)?;
        }
        let scale = f64::from(attention.scale(dim));
        Ok(Self {
            attention,
            grid: *grid,
            keys,
            documents,
            slopes: positions.slopes(grid.heads())?,
            positions,
            queries: queries.iter().map(|&x| f64::from(x) * scale).collect(),
        })
    }

    fn check(&self, estimate: Estimate) -> Result<()> {
        let known = estimate != Estimate::MeanKey || self.keys.has_means();
        ensure!(known, "summaries", "expected some with means, which the extremes of a cache don't have");
        Ok(())
    }

    fn position(&self, query: usize) -> i64 {
        self.grid.kv_len() as i64 - self.grid.q_len() as i64 + query as i64
    }

    /// The query block of a row, counted from 0.
    fn query_block(&self, query: usize) -> usize {
        let block = self.position(query).div_euclid(self.grid.block_size() as i64);
        (block - self.grid.first_query_block()) as usize
    }

    /// The keys that a row sees.
    fn visible(&self, query: usize) -> Range<usize> {
        let visible = self.attention.visible(self.position(query), self.grid.kv_len());
        let Some(documents) = self.documents else { return visible };
        let range = documents.range(query);
        let start = visible.start.max(range.start);
        start..visible.end.min(range.end).max(start)
    }

    /// The key blocks that any row of each query block sees: from the first one that its first row
    /// sees to the last one of its last row, since ranges ascend.
    fn seen_blocks(&self) -> Vec<Range<usize>> {
        let block = self.grid.block_size();
        let mut seen = vec![0..0; self.grid.query_blocks()];
        for query in 0..self.grid.q_len() {
            let keys = self.visible(query);
            if keys.is_empty() {
                continue;
            }
            let blocks = keys.start / block..keys.end.div_ceil(block);
            let all = &mut seen[self.query_block(query)];
            let first = if all.end == 0 { blocks.start } else { all.start.min(blocks.start) };
            *all = first..all.end.max(blocks.end);
        }
        seen
    }

    /// The logarithm of the mass of each key block for one row.
    fn masses(&self, estimate: Estimate, head: usize, query: usize, known: Known) -> Vec<f64> {
        let (grid, dim) = (&self.grid, self.keys.head_dim());
        let at = (head * grid.q_len() + query) * dim;
        let q = &self.queries[at..at + dim];
        let (visible, kv_head) = (self.visible(query), head * grid.kv_heads() / grid.heads());
        let mut groups: Vec<f64> = Vec::new();
        let of_block = |block: usize| {
            let keys = block * grid.block_size()..(block + 1) * grid.block_size();
            let keys = keys.start.max(visible.start)..keys.end.min(visible.end);
            groups.clear();
            if keys.end > self.keys.known().max(keys.start) {
                return f64::INFINITY;
            }
            if !keys.is_empty() {
                let size = self.keys.group();
                for group in keys.start / size..keys.end.div_ceil(size) {
                    let end = ((group + 1) * size).min(grid.kv_len());
                    if known == Known::Whole && end > visible.end {
                        continue;
                    }
                    let tokens = keys.start.max(group * size)..keys.end.min((group + 1) * size);
                    groups.push(self.mass(estimate, q, (head, kv_head), group, &tokens, query));
                }
            }
            ln_sum(&groups)
        };
        (0..grid.key_blocks()).map(of_block).collect()
    }

    /// The logarithm of the mass of the visible `tokens` of a group.
    fn mass(
        &self,
        estimate: Estimate,
        q: &[f64],
        (head, kv_head): (usize, usize),
        group: usize,
        tokens: &Range<usize>,
        query: usize,
    ) -> f64 {
        let size = (self.keys.known() - group * self.keys.group()).min(self.keys.group());
        let mut score = estimate.of(q, &self.keys.group_of(kv_head, group), size);
        if let (Some(cap), true) = (self.attention.soft_cap().map(f64::from), score.is_finite()) {
            score = cap * libm::tanh(score / cap);
        }
        let slope = self.slopes[head];
        if slope != 0.0 {
            // Biases grow with the lag, which is least and largest at the ends of the group.
            let position = self.position(query);
            let (first, last) = (tokens.start as i64, tokens.end as i64 - 1);
            let near = (first - position).max(position - last).max(0) as u64;
            let far = position.abs_diff(first).max(position.abs_diff(last));
            let [near, far] = [near, far].map(|lag| slope * self.positions.bias_at(lag));
            score -= if estimate == Estimate::Bound { near } else { 0.5 * (near + far) };
        }
        score + libm::log(tokens.len() as f64)
    }
}
