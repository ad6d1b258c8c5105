//! A tile of queries over the keys that they see, or of keys over the queries that see them
//! (Dao 2023, arXiv 2307.08691, algorithm 2, whose loop over keys and queries is two here, so that
//! no two threads add to the same gradient).

use std::ops::Range;

use pulp::Simd;

use super::rows::Prepared;
use super::weights::{Endings, Weights};
use super::wrong::{Wrong, or};
use crate::attention::native::output::Results;
use crate::attention::native::part::Part;
use crate::attention::native::products::{Outputs, Rows, Scores};
use crate::attention::native::scratch::Aligned;
use crate::attention::native::sizes::{KEYS, ROWS};
use crate::attention::native::softmax::{Lags, Scoring, Visible};
use crate::attention::native::source::{finite_only, for_each_left_out, is_finite};
use crate::attention::native::tile::{LAGS, Lanes, fill_lags};
use crate::attention::native::work::Work;
use crate::sampling::KeyBlockRows;

// Queries and keys change places.
const _: () = assert!(KEYS == ROWS);

/// What the tasks of a call share.
pub(super) struct Pass<'a> {
    /// Its results are the gradients of queries, with those of slopes by row in place of the
    /// log-sum-exp.
    pub(super) work: &'a Work<'a>,
    pub(super) rows: Prepared<'a>,
    /// The schedule of each sequence by key block, where there is one.
    pub(super) columns: &'a [Option<KeyBlockRows>],
    pub(super) dk: &'a Results<'a>,
    pub(super) dv: &'a Results<'a>,
    /// Whether gradients of slopes are wanted.
    pub(super) slopes: bool,
}

/// Rows of one head, or keys of one key/value head, of a sequence.
pub(super) struct Task<'a> {
    pub(super) sequence: usize,
    pub(super) part: Part<'a>,
    pub(super) head: usize,
    pub(super) lanes: Range<usize>,
}

/// Memory that a thread works in.
#[derive(Default)]
pub(super) struct Scratch {
    /// The rows of the lanes, `[channel][ROWS]`: x or k, and do or v.
    first: Aligned,
    second: Aligned,
    scores: Aligned,
    products: Aligned,
    gains: Aligned,
    /// Gradients of the rows of the lanes, `[channel][ROWS]`.
    d_first: Aligned,
    d_second: Aligned,
    /// Rows without numbers that aren't finite.
    clean: Aligned,
    lags: Aligned,
    masks: Aligned,
    /// L, δ, gradients of slopes, and ones.
    numbers: Aligned,
    row: Vec<f32>,
    seen: Seen,
}

/// The lines (keys of a tile of queries, or queries of a tile of keys) that lanes see.
#[derive(Default)]
struct Seen {
    /// `[ROWS]`, with lanes that aren't there as if they saw all.
    from: Vec<u32>,
    to: Vec<u32>,
    /// Lines that some lane sees are within these.
    any: Range<usize>,
    /// Lines that every lane sees.
    all: Range<usize>,
}

impl Seen {
    fn fill(&mut self, lanes: impl Iterator<Item = Range<usize>>) {
        self.from.clear();
        self.to.clear();
        self.all = 0..usize::MAX;
        let mut any: Option<Range<usize>> = None;
        for Range { start, end } in lanes {
            if start < end {
                let before = any.unwrap_or(start..end);
                any = Some(before.start.min(start)..before.end.max(end));
            }
            self.all = self.all.start.max(start)..self.all.end.min(end);
            self.from.push(start as u32);
            self.to.push(end as u32);
        }
        self.from.resize(ROWS, 0);
        self.to.resize(ROWS, u32::MAX);
        self.any = any.unwrap_or(0..0);
    }

    /// What hides some of these lines, if anything does.
    fn mask(&self, lines: &Range<usize>) -> Option<Visible<'_>> {
        let hides = lines.start < self.all.start || lines.end > self.all.end;
        hides.then_some(Visible { from: &self.from, to: &self.to, first: lines.start as u32 })
    }
}

/// `length` rows from `first` on, from their `channel` on.
fn part_of(rows: Rows<'_>, first: usize, channel: usize) -> Rows<'_> {
    Rows { numbers: &rows.numbers[first * rows.stride + channel..], ..rows }
}

/// Rows as `[channel][ROWS]`; 0 where there is none.
fn transpose(rows: Rows<'_>, count: usize, dim: usize, to: &mut [f32]) {
    if count < ROWS {
        to.fill(0.0);
    }
    for lane in 0..count {
        for (column, &number) in to.chunks_exact_mut(ROWS).zip(rows.row(lane, dim)) {
            column[lane] = number;
        }
    }
}

/// Ranges of at most a tile's lines, in their order.
fn tiles(lines: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = lines.end;
    lines.step_by(KEYS).map(move |start| start..end.min(start + KEYS))
}

/// `sums[c][lane] += Σ weights[line][lane]·rows[line][c]`, of lines that the lane sees.
struct Sum<'a> {
    weights: &'a [f32],
    lanes: usize,
    rows: Rows<'a>,
    lines: usize,
    dim: usize,
    visible: Option<Visible<'a>>,
    ones: &'a [f32],
}

impl Sum<'_> {
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, clean: &mut [f32], sums: &mut [f32]) {
        let Self { weights, lanes, rows, lines, dim, visible, ones } = self;
        let spoilt = visible.filter(|_| !is_finite(rows, lines, dim));
        let values = if spoilt.is_some() { finite_only(rows, lines, dim, clean) } else { rows };
        simd.vectorize(Outputs { weights, rows: lanes, values, count: lines, factors: ones, outputs: sums });
        let Some(visible) = spoilt else { return };
        for_each_left_out(rows, lines, dim, |line, channel, value| {
            let place = visible.first + line as u32;
            let seen = |lane: &usize| (visible.from[*lane]..visible.to[*lane]).contains(&place);
            for lane in (0..lanes).filter(seen) {
                sums[channel * ROWS + lane] += weights[line * ROWS + lane] * value;
            }
        });
    }
}

/// Computes the gradients of the queries of a task, and stores them.
#[inline(always)]
pub(super) fn queries<S: Simd>(simd: S, pass: &Pass<'_>, task: &Task<'_>, scratch: &mut Scratch) {
    let Pass { work, rows: prepared, .. } = pass;
    let Task { sequence, part, head, lanes } = task;
    let (head, count) = (*head, lanes.len());
    let (dim, value_dim) = (prepared.sizes.dim, prepared.sizes.value_dim);
    let Scratch { first, second, scores, products, gains, d_first, clean, lags, masks, .. } = scratch;
    let Scratch { numbers, row, seen, .. } = scratch;
    let (x, gradients) = (first.numbers(dim * ROWS), second.numbers(value_dim * ROWS));
    let dq = d_first.numbers(dim * ROWS);
    let scores = scores.numbers(KEYS * ROWS);
    let products = products.numbers(KEYS * ROWS);
    let gains = gains.numbers(KEYS * ROWS);
    let clean = clean.numbers(KEYS * dim.max(value_dim));
    let (lse, rest) = numbers.numbers(4 * ROWS).split_at_mut(ROWS);
    let (delta, rest) = rest.split_at_mut(ROWS);
    let (slopes, ones) = rest.split_at_mut(ROWS);
    let queries = prepared.queries(*sequence, head, part);
    transpose(part_of(queries, lanes.start, 0), count, dim, x);
    transpose(part_of(queries, lanes.start, dim), count, value_dim, gradients);
    lse.fill(0.0);
    delta.fill(0.0);
    for (lane, query) in lanes.clone().enumerate() {
        let ending = queries.row(query, dim + value_dim + 2);
        (lse[lane], delta[lane]) = (ending[dim + value_dim], ending[dim + value_dim + 1]);
    }
    slopes.fill(0.0);
    ones.fill(1.0);
    dq.fill(0.0);
    seen.fill(prepared.places.visible(*sequence)[lanes.clone()].iter().cloned());

    let keys = prepared.keys(*sequence, head / work.shape.heads_per_kv_head(), part);
    let by_lag = work.positions.filter(|positions| positions.has_lags());
    part.for_each_run(head, lanes.start, seen.any.clone(), |run, ln_p| {
        for tile in tiles(run) {
            let lines = tile.len();
            let (k, v) = (part_of(keys, tile.start, 0), part_of(keys, tile.start, dim));
            let visible = or(Wrong::RowsSeeAll, seen.mask(&tile), None);
            let lags = by_lag.map(|positions| {
                let slope = work.slope(head);
                let memory = lags.numbers(LAGS);
                Lags { slope, ..fill_lags(positions, part, lanes, &tile, Lanes::Queries, memory) }
            });
            let mask = part.mask.map(|mask| {
                let memory = masks.numbers(KEYS * ROWS);
                let head = or(Wrong::MaskOfFirstHead, head, 0);
                for (lane, query) in lanes.clone().enumerate() {
                    mask.for_each(head, query, tile.clone(), |j, number| memory[j * ROWS + lane] = number);
                }
                &*memory
            });
            let ln_p = or(Wrong::RowsUncorrected, ln_p, 0.0);
            let correction = work.attention.correction() * ln_p;
            let cap = work.attention.soft_cap();
            let scoring = Scoring { cap, correction, lags, mask, visible };
            simd.vectorize(Scores { queries: x, rows: count, keys: k, count: lines, scores });
            simd.vectorize(Scores {
                queries: gradients,
                rows: count,
                keys: v,
                count: lines,
                scores: products,
            });
            let biased = pass.slopes && lags.is_some_and(|lags| !lags.biases.is_empty());
            simd.vectorize(Weights {
                scores,
                products,
                gains,
                lanes: count,
                lines,
                scoring,
                endings: Endings::OfLanes { lse, delta },
                slopes: if biased { Some(&mut *slopes) } else { None },
            });
            let sum = Sum { weights: products, lanes: count, rows: k, lines, dim, visible, ones };
            sum.add(simd, clean, dq);
        }
    });

    let scale = or(Wrong::GradientUnscaled, work.attention.scale(dim), 1.0);
    let rotations = work.positions.and_then(|positions| positions.rotations());
    row.resize(dim, 0.0);
    for (lane, query) in lanes.clone().enumerate() {
        for (number, column) in row.iter_mut().zip(dq.chunks_exact(ROWS)) {
            *number = scale * column[lane];
        }
        if let Some(rotations) = rotations {
            let position = part.query_position(query);
            rotations.turn(row, or(Wrong::QueryTurnedOn, position.saturating_neg(), position));
        }
        work.results.write([part.entry, head, part.queries.start + query], row, slopes[lane]);
    }
}

/// Computes the gradients of the keys of a task and of their values, and stores them.
#[inline(always)]
pub(super) fn keys<S: Simd>(simd: S, pass: &Pass<'_>, task: &Task<'_>, scratch: &mut Scratch) {
    let Pass { work, rows: prepared, .. } = pass;
    let Task { sequence, part, head: kv_head, lanes } = task;
    let (kv_head, count) = (*kv_head, lanes.len());
    let (dim, value_dim) = (prepared.sizes.dim, prepared.sizes.value_dim);
    let Scratch { first, second, scores, products, gains, d_first, d_second, clean, .. } = scratch;
    let Scratch { lags, masks, numbers, row, seen, .. } = scratch;
    let (k, v) = (first.numbers(dim * ROWS), second.numbers(value_dim * ROWS));
    let (dk, dv) = (d_first.numbers(dim * ROWS), d_second.numbers(value_dim * ROWS));
    let scores = scores.numbers(KEYS * ROWS);
    let products = products.numbers(KEYS * ROWS);
    let gains = gains.numbers(KEYS * ROWS);
    let clean = clean.numbers(KEYS * dim.max(value_dim));
    let (lse, rest) = numbers.numbers(3 * ROWS).split_at_mut(ROWS);
    let (delta, ones) = rest.split_at_mut(ROWS);
    let keys = prepared.keys(*sequence, kv_head, part);
    transpose(part_of(keys, lanes.start, 0), count, dim, k);
    transpose(part_of(keys, lanes.start, dim), count, value_dim, v);
    ones.fill(1.0);
    dk.fill(0.0);
    dv.fill(0.0);
    // What queries see ascends with them, so those that see a key are neighbours.
    let visible = prepared.places.visible(*sequence);
    seen.fill(lanes.clone().map(|key| {
        let start = visible.partition_point(|seen| seen.end <= key);
        let start = or(Wrong::FirstQueryLost, start, start + 1);
        start..visible.partition_point(|seen| seen.start <= key).max(start)
    }));

    let by_lag = work.positions.filter(|positions| positions.has_lags());
    let heads_each = work.shape.heads_per_kv_head();
    let heads_here = or(Wrong::FirstHeadAlone, heads_each, 1);
    for head in kv_head * heads_each..kv_head * heads_each + heads_here {
        let queries = prepared.queries(*sequence, head, part);
        let mut visit = |run: Range<usize>, ln_p: f32| {
            for tile in tiles(run) {
                let lines = tile.len();
                let (x, gradients) = (part_of(queries, tile.start, 0), part_of(queries, tile.start, dim));
                for (line, query) in tile.clone().enumerate() {
                    let ending = queries.row(query, dim + value_dim + 2);
                    (lse[line], delta[line]) = (ending[dim + value_dim], ending[dim + value_dim + 1]);
                }
                let visible = or(Wrong::KeysSeenByAll, seen.mask(&tile), None);
                let lags = by_lag.map(|positions| {
                    let slope = work.slope(head);
                    let memory = lags.numbers(LAGS);
                    Lags { slope, ..fill_lags(positions, part, &tile, lanes, Lanes::Keys, memory) }
                });
                let mask = part.mask.map(|mask| {
                    let memory = masks.numbers(KEYS * ROWS);
                    for (line, query) in tile.clone().enumerate() {
                        let row = &mut memory[line * ROWS..][..ROWS];
                        mask.for_each(head, query, lanes.clone(), |j, number| row[j] = number);
                    }
                    &*memory
                });
                let ln_p = or(Wrong::KeysUncorrected, ln_p, 0.0);
                let correction = work.attention.correction() * ln_p;
                let cap = work.attention.soft_cap();
                let scoring = Scoring { cap, correction, lags, mask, visible };
                simd.vectorize(Scores { queries: k, rows: count, keys: x, count: lines, scores });
                simd.vectorize(Scores {
                    queries: v,
                    rows: count,
                    keys: gradients,
                    count: lines,
                    scores: products,
                });
                simd.vectorize(Weights {
                    scores,
                    products,
                    gains,
                    lanes: count,
                    lines,
                    scoring,
                    endings: Endings::OfLines { lse, delta },
                    slopes: None,
                });
                let of = |weights, rows, dim| Sum { weights, lanes: count, rows, lines, dim, visible, ones };
                of(&*scores, gradients, value_dim).add(simd, clean, dv);
                of(&*products, x, dim).add(simd, clean, dk);
            }
        };
        match (part.schedule, &pass.columns[*sequence]) {
            (Some(schedule), Some(columns)) => {
                let grid = schedule.grid();
                let block = lanes.start / grid.block_size();
                let block = or(Wrong::NextColumn, block, (block + 1) % grid.key_blocks());
                for &(query_block, ln_p) in columns.column(grid.group_of_head(head), block) {
                    let rows = part.rows_of_block(query_block);
                    let start = rows.start.max(seen.any.start);
                    visit(start..rows.end.min(seen.any.end).max(start), ln_p);
                }
            }
            _ => visit(seen.any.clone(), 0.0),
        }
    }

    let mut write = |results: &Results<'_>, dim: usize, gradients: &[f32], turns: bool| {
        row.resize(dim, 0.0);
        for (lane, key) in lanes.clone().enumerate() {
            for (number, column) in row.iter_mut().zip(gradients.chunks_exact(ROWS)) {
                *number = column[lane];
            }
            if let (true, Some(rotations)) = (turns, work.key_rotations()) {
                let position = part.key_position(key);
                rotations.turn(row, or(Wrong::KeyTurnedOn, position.saturating_neg(), position));
            }
            results.write([part.entry, kv_head, part.keys.start + key], row, 0.0);
        }
    };
    write(pass.dk, dim, dk, true);
    write(pass.dv, value_dim, dv, false);
}
