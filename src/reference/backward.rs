//! The gradients of attention in f64, written to be read.
//!
//! With the softmax weights P of a row, its output o, and the gradients of a loss with respect to o
//! and to its log-sum-exp L,
//!
//! ```text
//! δᵢ     = Σ_c do_ic·o_ic − dLᵢ
//! dv_j   = Σᵢ P_ij·doᵢ
//! dP_ij  = ⟨doᵢ, v_j⟩
//! ds_ij  = P_ij·(dP_ij − δᵢ)
//! dx_ij  = ds_ij·∂s_ij/∂⟨Rqᵢ, Rk_j⟩          a(Δ)·scale·(1 − tanh²)
//! dqᵢ    = Rᵢᵀ·Σ_j dx_ij·R_j k_j
//! dk_j   = R_jᵀ·Σᵢ dx_ij·Rᵢ qᵢ
//! dz_h   = −Σᵢ e^(z_h − Lᵢ)·δᵢ               of a sink
//! dm_h   = −Σᵢ Σ_j ds_ij·c(Δ)·φ(Δ)           of a slope λ·m_h
//! ```
//!
//! over the pairs that attention keeps. Their `ln p` is a constant: the draw of a schedule has no
//! gradient. Sources: Dao et al. 2022 (arXiv 2205.14135), appendix B.4, for the row sum δ.

use std::f64::consts::SQRT_2;

use super::{Keys, Row, Turned, all_positions, check_all, check_len, every, for_each_row};
use crate::attention::{Attention, Tables};
use crate::error::Result;
use crate::position::{Positions, Rope};
use crate::shape::Shape;

/// The gradients of a loss with respect to what attention takes, and what their rounding errors are
/// relative to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Gradients {
    /// Of the queries, `[batch, heads, q_len, head_dim]`.
    pub dq: Vec<f64>,
    /// Of the keys, `[batch, kv_heads, kv_len, head_dim]`.
    pub dk: Vec<f64>,
    /// Of the values, `[batch, kv_heads, kv_len, value_dim]`.
    pub dv: Vec<f64>,
    /// Of the [sinks](Attention::with_sinks), one for each query head; empty without sinks.
    pub sinks: Vec<f64>,
    /// Of the slopes `λ·m_h` of a [bias](crate::Bias), one for each query head: 0 without one. That
    /// of the weight λ is `Σ_h m_h` times these.
    pub slopes: Vec<f64>,
    /// The sum of `ds` over the keys of each row, `[batch, heads, q_len]`: without sinks the
    /// gradient of the row's log-sum-exp, 0 where none is given.
    pub row_sums: Vec<f64>,
    /// The terms of the rows of `dq`.
    pub dq_terms: Vec<TermMagnitudes>,
    /// The terms of the rows of `dk`.
    pub dk_terms: Vec<TermMagnitudes>,
    /// The terms of the rows of `dv`.
    pub dv_terms: Vec<TermMagnitudes>,
}

/// The magnitudes of the terms of which a row of a gradient is the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TermMagnitudes {
    /// The sum of the terms' magnitudes, each with the magnitudes of its own parts.
    pub sum: f64,
    /// The same, each times the magnitude of its score ([`Magnitudes::score`](super::Magnitudes)),
    /// at least 1.
    pub scored: f64,
    /// The same, each times that of the rotated part of its score.
    pub rotated: f64,
    /// The same without the terms' weights, with 1 added to what weights are multiplied by: where a
    /// weight is too small for f32, this times f32's smallest number is lost.
    pub unweighted: f64,
    /// How many terms there are.
    pub terms: usize,
}

impl TermMagnitudes {
    /// A term of weight p: `p·compared·factor`.
    fn add(&mut self, p: f64, [compared, factor]: [f64; 2], [score, rotated]: [f64; 2]) {
        let size = p * compared * factor;
        self.sum += size;
        self.unweighted += (compared + 1.0) * factor;
        self.scored += size * score;
        self.rotated += size * rotated;
        self.terms += 1;
    }
}

/// The gradients of a loss, from those with respect to the output, `d_output` `[batch, heads,
/// q_len, value_dim]`, and with respect to the log-sum-exp, `d_lse` `[batch, heads, q_len]`, where
/// it has one. The rest as in [`attention`](super::attention()).
///
/// ```
/// use prflash::{Attention, Shape, Tables, reference};
/// // One query sees one key: its weight is 1 whatever the score, so only the value matters.
/// let shape = Shape::new(1, 1, 1, 4)?;
/// let [q, k, v, d_output] = [[0.3; 4], [0.7; 4], [8.0; 4], [1.0, 2.0, 3.0, 4.0]];
/// let qkv = [&q[..], &k[..], &v[..]];
/// let causal = Attention::causal();
/// let got = reference::attention_backward(&causal, &shape, qkv, &d_output, None, &Tables::new())?;
/// assert_eq!((got.dq, got.dk, got.dv), (vec![0.0; 4], vec![0.0; 4], vec![1.0, 2.0, 3.0, 4.0]));
/// # Ok::<(), prflash::Error>(())
/// ```
///
/// # Errors
/// Those of [`attention`](super::attention()); invalid argument (`d_output`, `d_lse`) of a wrong
/// length.
pub fn attention_backward(
    attention: &Attention,
    shape: &Shape,
    [q, k, v]: [&[f32]; 3],
    d_output: &[f32],
    d_lse: Option<&[f32]>,
    tables: &Tables<'_>,
) -> Result<Gradients> {
    let (dim, value_dim) = (shape.head_dim(), shape.value_dim());
    check_all(attention, shape, q, k, v, tables)?;
    let rows = shape.batch() * shape.heads() * shape.q_len();
    let keys = shape.batch() * shape.kv_heads() * shape.kv_len();
    check_len("d_output", d_output, rows * value_dim)?;
    d_lse.map_or(Ok(()), |d_lse| check_len("d_lse", d_lse, rows))?;
    let none = Positions::new();
    let rope = attention.positions().unwrap_or(&none).rope();
    let (q_at, k_at) = all_positions(shape, tables);
    let inputs = Inputs {
        q: Turned::new(q, dim, shape.heads(), &q_at, rope),
        k: Turned::new(k, dim, shape.kv_heads(), &k_at, rope),
        v,
        d_output,
        d_lse,
        dims: [dim, value_dim],
        cap: attention.soft_cap().map_or(f64::INFINITY, f64::from),
    };
    let mut gradients = Gradients {
        dq: vec![0.0; rows * dim],
        dk: vec![0.0; keys * dim],
        dv: vec![0.0; keys * value_dim],
        sinks: attention.sinks().map_or(Vec::new(), |sinks| vec![0.0; sinks.len()]),
        slopes: vec![0.0; shape.heads()],
        row_sums: vec![0.0; rows],
        dq_terms: vec![TermMagnitudes::default(); rows],
        dk_terms: vec![TermMagnitudes::default(); keys],
        dv_terms: vec![TermMagnitudes::default(); keys],
    };
    for_each_row(attention, shape, q, Keys::from(k), tables, every, |row| {
        let head = row.head_row % shape.heads();
        let sink = attention.sinks().map(|sinks| f64::from(sinks[head]));
        inputs.add_row(&row, head, sink, &mut gradients);
    })?;
    turn_back(&mut gradients.dq, dim, shape.heads(), &q_at, rope);
    turn_back(&mut gradients.dk, dim, shape.kv_heads(), &k_at, rope);
    Ok(gradients)
}

/// What every row's part is computed from.
struct Inputs<'a> {
    q: Turned,
    k: Turned,
    v: &'a [f32],
    d_output: &'a [f32],
    d_lse: Option<&'a [f32]>,
    dims: [usize; 2],
    cap: f64,
}

impl Inputs<'_> {
    /// Adds what one row of queries has to the gradients, those of queries and keys as they lie
    /// turned.
    fn add_row(&self, row: &Row<'_>, head: usize, sink: Option<f64>, to: &mut Gradients) {
        let [dim, value_dim] = self.dims;
        let at = row.query;
        let value = |j: usize| &self.v[(row.kv_row + j) * value_dim..][..value_dim];
        let d_output = &self.d_output[at * value_dim..][..value_dim];
        let d_lse = self.d_lse.map_or(0.0, |d_lse| f64::from(d_lse[at]));
        let mut output = vec![0.0; value_dim];
        let mut value_size: f64 = 0.0;
        for &(j, p) in row.weights {
            for (o, &x) in output.iter_mut().zip(value(j)) {
                *o += p * f64::from(x);
                value_size = value_size.max(f64::from(x).abs());
            }
        }
        let products = |x: &mut dyn Iterator<Item = f64>| {
            let terms = d_output.iter().zip(x).map(|(&g, x)| f64::from(g) * x);
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        let delta = products(&mut output.iter().copied()).0 - d_lse;
        // The output itself is off by so much of the largest value.
        let gradient_sum: f64 = d_output.iter().map(|&x| f64::from(x).abs()).sum();
        let delta_size = gradient_sum * value_size + d_lse.abs();
        if let Some(sink) = sink {
            to.sinks[head] -= (sink - row.lse).exp() * delta;
        }
        // A soft-cap's slope changes with the score by at most 2/cap.
        let score = row.magnitude.max(1.0) * (1.0 + 2.0 / self.cap);
        // A channel may be as large as its pair, whose length is √2 times its size.
        let largest = |x: &[f64]| SQRT_2 * x.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let query = &self.q.values[at * dim..][..dim];
        let query_size = largest(&self.q.sizes[at * dim..][..dim]);
        let gradient_size = d_output.iter().fold(0.0, |most: f64, &x| most.max(f64::from(x).abs()));
        for (&(j, p), slope) in row.weights.iter().zip(row.slopes) {
            // Nothing weighs nothing, whatever its slope.
            if p == 0.0 {
                continue;
            }
            let key_row = row.kv_row + j;
            let (dp, dp_size) = products(&mut value(j).iter().map(|&x| f64::from(x)));
            let ds = p * (dp - delta);
            let dx = ds * slope.product;
            to.row_sums[at] += ds;
            to.slopes[head] += ds * slope.bias;
            for (dv, &g) in to.dv[key_row * value_dim..][..value_dim].iter_mut().zip(d_output) {
                *dv += p * f64::from(g);
            }
            let key = &self.k.values[key_row * dim..][..dim];
            for c in 0..dim {
                to.dq[at * dim + c] += dx * key[c];
                to.dk[key_row * dim + c] += dx * query[c];
            }
            let (compared, most) = (dp_size + delta_size, slope.most);
            let key_size = largest(&self.k.sizes[key_row * dim..][..dim]);
            let scores = [score, row.rotated];
            to.dq_terms[at].add(p, [compared, most * key_size], scores);
            to.dk_terms[key_row].add(p, [compared, most * query_size], scores);
            to.dv_terms[key_row].add(p, [1.0, gradient_size], scores);
        }
    }
}

/// Gradients of rows before their rotation, from those of rotated rows: by the transposed matrix,
/// which turns back and has the temperature once more.
fn turn_back(rows: &mut [f64], dim: usize, heads: usize, positions: &[Vec<i64>], rope: Option<&Rope>) {
    let Some(rope) = rope else { return };
    let positions = positions.iter().flat_map(|sequence| (0..heads).flat_map(move |_| sequence));
    for (row, &position) in rows.chunks_exact_mut(dim).zip(positions) {
        rope.for_each_pair(position, |a, b, cos, sin| {
            (row[a], row[b]) = (row[a] * cos + row[b] * sin, row[b] * cos - row[a] * sin);
        });
    }
}
