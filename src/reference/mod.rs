//! The oracle: attention in f64, as plain as it can be written.
//!
//! The whole score row, a plain softmax, plain loops; no tiling, no online rescaling, no tricks. It
//! takes the same [`Attention`] options and the same [`Tables`] as the GPU, so a difference is the
//! kernel's.

mod backward;
mod cache;
mod masses;

pub use backward::{Gradients, TermMagnitudes, attention_backward};
pub use cache::{AgeLoss, CacheLoss, attention_cached, cache_loss};
pub use masses::{BlockMass, DistanceMass, block_mass};

use std::f64::consts::FRAC_1_SQRT_2;
use std::ops::Range;

use crate::attention::{Attention, Tables};
use crate::error::{Result, ensure};
use crate::position::{Positions, Rope};
use crate::shape::Shape;

/// Attention computed in f64, and the magnitudes from which error bounds follow
/// ([`Tolerances`](crate::verify::Tolerances)).
#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    /// `[batch, heads, q_len, value_dim]`; 0 for rows without a visible key, NaN where the LSE is.
    pub output: Vec<f64>,
    /// Natural-log log-sum-exp, `[batch, heads, q_len]`; −∞ for rows without a visible key whose
    /// score is above −∞, NaN for those that see a score that is NaN or +∞
    /// ([`Attention`](Attention#rows-without-a-result-and-numbers-that-arent-finite)).
    pub lse: Vec<f64>,
    /// What the rounding errors of each row are relative to, `[batch, heads, q_len]`.
    pub rows: Vec<Magnitudes>,
}

/// What the rounding errors of a row are relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Magnitudes {
    /// The largest `a·Σ_c |q_c·k_c|·|scale| + |bias| + |mask|` of a visible key with a finite
    /// score: what rounding errors of scores are relative to (a soft-cap lessens them). Of rotated
    /// channels it counts the lengths of the pairs, `|q_pair|·|k_pair|`, which the rotation keeps.
    /// At least the size of the row's sink, if there is one.
    pub score: f64,
    /// The largest part of it that comes from rotated channels: what rounding errors of the
    /// rotation are relative to. 0 without one.
    pub rotated: f64,
    /// The largest |v| of any finite value of a visible key.
    pub value: f64,
    /// The visible keys, over which is summed.
    pub keys: usize,
}

impl Magnitudes {
    /// The larger of each.
    fn max(self, other: Self) -> Self {
        Self {
            score: self.score.max(other.score),
            rotated: self.rotated.max(other.rotated),
            value: self.value.max(other.value),
            keys: self.keys.max(other.keys),
        }
    }
}

impl Exact {
    /// The largest magnitudes of any row.
    pub fn largest(&self) -> Magnitudes {
        self.rows.iter().copied().fold(Magnitudes::default(), Magnitudes::max)
    }

    /// The same rows, `[batch, heads, q_len]` of this shape, beside [sinks](Attention::with_sinks)
    /// of their heads: what is left to do after the last [`merge`] of states without.
    ///
    /// # Errors
    /// Invalid argument: (`sinks`) of another number of heads, (`shape`) of other rows.
    ///
    /// ```
    /// use prflash::{Attention, Shape, Tables, reference};
    /// let shape = Shape::new(1, 1, 1, 4)?;
    /// let exact = |attention: &Attention| {
    ///     reference::attention(attention, &shape, &[0.3; 4], &[0.7; 4], &[8.0; 4], &Tables::new())
    /// };
    /// let attention = Attention::causal().with_sinks(&[0.5])?;
    /// let without = exact(&attention.clone().without_sinks())?;
    /// assert_eq!(without.with_sinks(&[0.5], &shape)?, exact(&attention)?);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    pub fn with_sinks(mut self, sinks: &[f32], shape: &Shape) -> Result<Self> {
        let (heads, q_len) = (shape.heads(), shape.q_len());
        let got = sinks.len();
        ensure!(got == heads, "sinks", "expected one for each of {heads} query heads, got {got}");
        let (rows, dim) = (shape.batch() * heads * q_len, shape.value_dim());
        let same = self.lse.len() == rows && self.output.len() == rows * dim && self.rows.len() == rows;
        ensure!(same, "shape", "expected that of {} rows of the output, got {rows}", self.lse.len());
        for row in 0..rows {
            let sink = f64::from(sinks[row / q_len % heads]);
            let (share, lse) = beside_sink(self.lse[row], sink);
            self.lse[row] = lse;
            self.output[row * dim..(row + 1) * dim].iter_mut().for_each(|x| *x *= share);
            self.rows[row].score = self.rows[row].score.max(sink.abs());
        }
        Ok(self)
    }
}

/// Exact attention. `q`, `k` and `v` are contiguous `[batch, heads, len, dim]` (`kv_heads` heads
/// for `k` and `v`); every batch entry is a sequence.
///
/// # Errors
/// Invalid argument if a slice has the wrong length or the tables are for other sizes.
pub fn attention(
    attention: &Attention,
    shape: &Shape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    tables: &Tables<'_>,
) -> Result<Exact> {
    attend(attention, shape, q, Keys::from(k), v, tables)
}

/// [`attention`] over values and keys that need not all be there, or be turned yet.
fn attend<T: Copy + Into<f64>>(
    attention: &Attention,
    shape: &Shape,
    q: &[f32],
    k: Keys<'_, T>,
    v: &[T],
    tables: &Tables<'_>,
) -> Result<Exact> {
    let value_dim = shape.value_dim();
    check_all(attention, shape, q, k.rows, v, tables)?;
    let mut exact = Exact {
        output: Vec::with_capacity(shape.batch() * shape.heads() * shape.q_len() * value_dim),
        lse: Vec::with_capacity(shape.batch() * shape.heads() * shape.q_len()),
        rows: Vec::with_capacity(shape.batch() * shape.heads() * shape.q_len()),
    };
    for_each_row(attention, shape, q, k, tables, every, |row| {
        let mut magnitudes =
            Magnitudes { score: row.magnitude, rotated: row.rotated, value: 0.0, keys: row.weights.len() };
        let mut output = vec![0.0; value_dim];
        for &(j, p) in row.weights {
            let value = &v[(row.kv_row + j) * value_dim..][..value_dim];
            for (o, &x) in output.iter_mut().zip(value) {
                let x = x.into();
                *o += p * x;
                if x.is_finite() {
                    magnitudes.value = magnitudes.value.max(x.abs());
                }
            }
        }
        exact.output.extend(output);
        exact.lse.push(row.lse);
        exact.rows.push(magnitudes);
    })?;
    Ok(exact)
}

fn check_all<T>(
    attention: &Attention,
    shape: &Shape,
    q: &[f32],
    k: &[T],
    v: &[T],
    tables: &Tables<'_>,
) -> Result<()> {
    check_inputs(shape, q, k)?;
    tables.check_count(shape.batch())?;
    ensure!(tables.pages(0).is_none(), "pages", "expected none, but rows: PageTable::gather");
    for sequence in 0..shape.batch() {
        if let Some(schedule) = tables.schedule(sequence) {
            schedule.grid().check(attention.is_causal(), shape)?;
        }
        if let Some(documents) = tables.documents(sequence) {
            let (want, got) = (shape.q_len(), documents.len());
            ensure!(want == got, "documents", "expected a mask for {want} queries, got {got}");
        }
        if let Some(ids) = tables.position_ids(sequence) {
            let (want, got) = ((shape.q_len(), shape.kv_len()), (ids.queries().len(), ids.keys().len()));
            ensure!(want == got, "position_ids", "expected ids for (q_len, kv_len) = {want:?}, got {got:?}");
        }
        tables.check_mask(attention, sequence, [shape.heads(), shape.q_len(), shape.kv_len()])?;
    }
    check_len("v", v, shape.batch() * shape.kv_heads() * shape.kv_len() * shape.value_dim())
}

/// Merges attention states over different keys, or over several rounds, by log-sum-exp.
///
/// With `L = ln Σᵣ e^Lᵣ`, the output is `Σᵣ e^(Lᵣ − L)·Oᵣ` and the log-sum-exp is L; for
/// independent rounds of sampling (`mean`), L is lowered by `ln R`, the mean of the sums being what
/// a single round estimates. Where every state is empty (LSE −∞), so is the result: output 0, LSE
/// −∞, never NaN. Where one is NaN, so is the result.
///
/// # Errors
/// Invalid argument (`states`) if there are none or their sizes differ.
pub fn merge(states: &[Exact], mean: bool) -> Result<Exact> {
    let Some(first) = states.first() else {
        return Err(crate::Error::argument_error("states", "expected at least one, got none"));
    };
    let rows = first.lse.len();
    let dim = first.output.len().checked_div(rows).unwrap_or(0);
    for state in states {
        let same = state.lse.len() == rows && state.output.len() == first.output.len();
        ensure!(same, "states", "expected equal sizes, {rows} rows of {dim} channels each");
    }
    let magnitudes = |row: usize| {
        let of_states = states.iter().filter_map(|state| state.rows.get(row).copied());
        let keys = of_states.clone().fold(0, |sum: usize, row| sum.saturating_add(row.keys));
        Magnitudes { keys, ..of_states.fold(Magnitudes::default(), Magnitudes::max) }
    };
    let mut merged = Exact {
        output: vec![0.0; first.output.len()],
        lse: vec![f64::NEG_INFINITY; rows],
        rows: (0..rows).map(magnitudes).collect(),
    };
    for row in 0..rows {
        let logs: Vec<f64> = states.iter().map(|state| state.lse[row]).collect();
        let (shares, lse) = softmax(&logs);
        for (state, share) in states.iter().zip(shares) {
            for channel in row * dim..(row + 1) * dim {
                merged.output[channel] += share * state.output[channel];
            }
        }
        merged.lse[row] = lse - if mean { (states.len() as f64).ln() } else { 0.0 };
    }
    Ok(merged)
}

/// `e^s / Σ e^s` of each score, and `ln Σ e^s`. NaN if a score is NaN or +∞; 0 and −∞ if there are
/// none above −∞.
fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    // The maximum passes over NaNs, but the sum doesn't.
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if scores.iter().all(|&score| score == f64::NEG_INFINITY) {
        return (vec![0.0; scores.len()], f64::NEG_INFINITY);
    }
    let mut weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    (weights, max + sum.ln())
}

/// `e^L / (e^L + e^z)` and `ln(e^L + e^z)` of a log-sum-exp L and a sink z; of an empty row 1,
/// since its output is 0, and z.
pub(crate) fn beside_sink(lse: f64, sink: f64) -> (f64, f64) {
    if lse == f64::NEG_INFINITY {
        return (1.0, sink);
    }
    let whole = lse.max(sink) + (-(lse - sink).abs()).exp().ln_1p();
    ((lse - whole).exp(), whole)
}

/// A number that the kernels have in f32: infinite past its range.
fn in_range(x: f64) -> f64 {
    if x.abs() > f64::from(f32::MAX) { f64::INFINITY.copysign(x) } else { x }
}

/// One query row of the softmax.
pub(crate) struct Row<'a> {
    /// (batch, head) in one index.
    pub(crate) head_row: usize,
    /// The row of key 0 in K and V, as a token index over (batch, kv head).
    pub(crate) kv_row: usize,
    pub(crate) position: i64,
    /// (key, softmax weight) of each visible key.
    pub(crate) weights: &'a [(usize, f64)],
    /// The scores of these keys.
    scores: &'a [f64],
    /// How these scores come from inner products.
    slopes: &'a [ScoreSlope],
    /// The row of the query in [`Turned`] queries.
    query: usize,
    lse: f64,
    magnitude: f64,
    rotated: f64,
}

/// How a score changes with what it is made of.
#[derive(Clone, Copy, Debug)]
struct ScoreSlope {
    /// With the inner product of the rotated rows: `a(Δ)·scale·(1 − tanh²(product / cap))`.
    product: f64,
    /// With the head's slope `λ·m_h`: `−c(Δ)·φ(Δ)`.
    bias: f64,
    /// `a(Δ)·|scale|`, which the first is at most.
    most: f64,
}

/// The keys of all sequences, `[batch, kv_heads, kv_len, head_dim]`.
pub(crate) struct Keys<'a, T> {
    rows: &'a [T],
    /// They were turned to their positions before.
    rotated: bool,
    /// Tokens that no query sees.
    dropped: Range<usize>,
}

impl<'a, T> From<&'a [T]> for Keys<'a, T> {
    fn from(rows: &'a [T]) -> Self {
        Self { rows, rotated: false, dropped: 0..0 }
    }
}

/// Queries or keys as the scores see them: `[batch, heads, len, dim]`, rotated.
struct Turned {
    values: Vec<f64>,
    /// What the rounding errors of each value are relative to: its own magnitude, or `|pair|/√2`
    /// for the two channels of a rotated pair.
    sizes: Vec<f64>,
}

impl Turned {
    /// `positions[batch]` holds the position of each of the rows of every head.
    fn new<T: Copy + Into<f64>>(
        rows: &[T],
        dim: usize,
        heads: usize,
        positions: &[Vec<i64>],
        rope: Option<&Rope>,
    ) -> Self {
        let mut values: Vec<f64> = rows.iter().map(|&x| x.into()).collect();
        let mut sizes: Vec<f64> = values.iter().map(|x| x.abs()).collect();
        let Some(rope) = rope else { return Self { values, sizes } };
        let positions = positions.iter().flat_map(|sequence| (0..heads).flat_map(move |_| sequence));
        let rows = values.chunks_exact_mut(dim).zip(sizes.chunks_exact_mut(dim));
        for ((row, size), &position) in rows.zip(positions) {
            rope.for_each_pair(position, |a, b, cos, sin| {
                (row[a], row[b]) = (row[a] * cos - row[b] * sin, row[a] * sin + row[b] * cos);
                size[a] = row[a].hypot(row[b]) * FRAC_1_SQRT_2;
                size[b] = size[a];
            });
        }
        Self { values, sizes }
    }
}

fn every(_: usize) -> bool {
    true
}

/// Visits the rows of the queries that `chosen` picks.
pub(crate) fn for_each_row<'k, T: Copy + Into<f64> + 'k>(
    attention: &Attention,
    shape: &Shape,
    q: &[f32],
    k: impl Into<Keys<'k, T>>,
    tables: &Tables<'_>,
    chosen: impl Fn(usize) -> bool,
    mut visit: impl FnMut(Row<'_>),
) -> Result<()> {
    let dim = shape.head_dim();
    let scale = f64::from(attention.scale(dim));
    let cap = attention.soft_cap().map_or(0.0, f64::from);
    let beta = f64::from(attention.correction());
    let none = Positions::new();
    let positions = attention.positions().unwrap_or(&none);
    positions.check(shape.head_dim(), shape.heads())?;
    attention.check_sinks(shape.heads())?;
    let slopes = positions.slopes(shape.heads())?;
    let rotary_dim = positions.rope().map_or(0, Rope::rotary_dim);
    let (q_at, k_at) = all_positions(shape, tables);
    let q = Turned::new(q, dim, shape.heads(), &q_at, positions.rope());
    let Keys { rows, rotated, dropped } = k.into();
    let rope = positions.rope().filter(|_| !rotated);
    let k = Turned::new(rows, dim, shape.kv_heads(), &k_at, rope);
    let mut weights: Vec<(usize, f64)> = Vec::new();
    let mut scores: Vec<f64> = Vec::new();
    let mut score_slopes: Vec<ScoreSlope> = Vec::new();
    for (batch, (q_at, k_at)) in q_at.iter().zip(&k_at).enumerate() {
        let mask = tables.mask(batch);
        for (head, slope) in slopes.iter().enumerate() {
            let head_row = batch * shape.heads() + head;
            let kv_row = (batch * shape.kv_heads() + head / shape.heads_per_kv_head()) * shape.kv_len();
            for (i, &query_at) in q_at.iter().enumerate().filter(|&(i, _)| chosen(i)) {
                let position = shape.first_position() + i as i64;
                let query = (head_row * shape.q_len() + i) * dim;
                let (mut magnitude, mut rotated) = (0.0, 0.0);
                weights.clear();
                score_slopes.clear();
                for (keys, ln_p) in visible_runs(attention, shape, tables, (batch, head, i)) {
                    for j in keys.filter(|j| !dropped.contains(j)) {
                        let key = (kv_row + j) * dim;
                        let (mut dot, mut size, mut turned) = (0.0, 0.0, 0.0);
                        for c in 0..dim {
                            dot += q.values[query + c] * k.values[key + c];
                            size += q.sizes[query + c] * k.sizes[key + c];
                            // The rotated channels come first.
                            if c < rotary_dim {
                                turned = size;
                            }
                        }
                        let lag = query_at.abs_diff(k_at[j]);
                        let (a, distance) = (positions.factor(lag), positions.bias_at(lag));
                        let bias = slope * distance;
                        let product = in_range(dot * scale);
                        let tanh = if cap > 0.0 { (product / cap).tanh() } else { 0.0 };
                        let capped = if cap > 0.0 { cap * tanh } else { product };
                        let (product_slope, most) = (a * scale * (1.0 - tanh * tanh), a * scale.abs());
                        score_slopes.push(ScoreSlope { product: product_slope, bias: -distance, most });
                        let masked = mask.map_or(0.0, |mask| f64::from(mask.value(head, i, j)));
                        let score = in_range(a * capped - bias - beta * ln_p + masked);
                        if score.is_finite() {
                            // A cap makes an infinite product a finite score, which nothing rounds.
                            let (size, turned) =
                                if product.is_finite() { (size * scale.abs(), turned) } else { (cap, 0.0) };
                            magnitude = f64::max(magnitude, a * size + bias + masked.abs());
                            rotated = f64::max(rotated, a * turned * scale.abs());
                        }
                        weights.push((j, score));
                    }
                }
                scores.clear();
                scores.extend(weights.iter().map(|&(_, score)| score));
                let (mut shares, mut lse) = softmax(&scores);
                if let Some(sinks) = attention.sinks() {
                    let sink = f64::from(sinks[head]);
                    let (kept, whole) = beside_sink(lse, sink);
                    shares.iter_mut().for_each(|share| *share *= kept);
                    (lse, magnitude) = (whole, f64::max(magnitude, sink.abs()));
                }
                weights.iter_mut().zip(shares).for_each(|((_, weight), share)| *weight = share);
                let (weights, scores, slopes) = (&weights, &scores, &score_slopes);
                let query = head_row * shape.q_len() + i;
                let row = Row {
                    head_row,
                    kv_row,
                    position,
                    weights,
                    scores,
                    slopes,
                    query,
                    lse,
                    magnitude,
                    rotated,
                };
                visit(row);
            }
        }
    }
    Ok(())
}

/// The positions of the queries and of the keys of each sequence.
fn all_positions(shape: &Shape, tables: &Tables<'_>) -> (Vec<Vec<i64>>, Vec<Vec<i64>>) {
    (0..shape.batch()).map(|sequence| row_positions(shape, tables, sequence)).unzip()
}

/// The positions of the queries and of the keys of one sequence.
fn row_positions(shape: &Shape, tables: &Tables<'_>, sequence: usize) -> (Vec<i64>, Vec<i64>) {
    let Some(ids) = tables.position_ids(sequence) else {
        let queries = (0..shape.q_len() as i64).map(|i| shape.first_position() + i);
        return (queries.collect(), (0..shape.kv_len() as i64).collect());
    };
    let signed = |ids: &[u32]| ids.iter().map(|&id| id.into()).collect();
    (signed(ids.queries()), signed(ids.keys()))
}

/// The visible keys of row (batch, head, query) as runs with their `ln p`: one run without a
/// schedule, one per kept block with it.
fn visible_runs(
    attention: &Attention,
    shape: &Shape,
    tables: &Tables<'_>,
    (batch, head, query): (usize, usize, usize),
) -> Vec<(Range<usize>, f64)> {
    let both = |a: Range<usize>, b: Range<usize>| a.start.max(b.start)..a.end.min(b.end);
    let position = shape.first_position() + query as i64;
    let mut visible = attention.visible(position, shape.kv_len());
    if let Some(documents) = tables.documents(batch) {
        visible = both(visible, documents.range(query));
    }
    let Some(schedule) = tables.schedule(batch) else { return vec![(visible, 0.0)] };
    let (grid, block) = (schedule.grid(), schedule.grid().block_size());
    let row = (position.div_euclid(block as i64) - grid.first_query_block()) as usize;
    schedule
        .row(grid.group_of_head(head), row)
        .map(|entry| {
            let keys = entry.block * block..(entry.block + 1) * block;
            (both(visible.clone(), keys), f64::from(entry.ln_p))
        })
        .collect()
}

pub(crate) fn check_inputs<T>(shape: &Shape, q: &[f32], k: &[T]) -> Result<()> {
    check_len("q", q, shape.batch() * shape.heads() * shape.q_len() * shape.head_dim())?;
    check_len("k", k, shape.batch() * shape.kv_heads() * shape.kv_len() * shape.head_dim())
}

pub(crate) fn check_len<T>(argument: &'static str, values: &[T], expected: usize) -> Result<()> {
    if values.len() == expected {
        return Ok(());
    }
    Err(crate::Error::argument_error(argument, format!("expected {expected} values, got {}", values.len())))
}
