//! Attention over a staircase cache, and what the cache loses.

use std::ops::Range;

use super::{Exact, Keys, attend, check_all, every, for_each_row};
use crate::attention::{Attention, Tables};
use crate::cache::{HostCache, SequenceId, Side, StoredKeys};
use crate::error::{Result, ensure};
use crate::shape::Shape;

/// Exact attention over what a cache holds of one sequence. Packed words are expanded in f64,
/// `min + code·range/N`.
///
/// `q` is `[heads, q_len, head_dim]`; the queries are the last tokens of the sequence, and dropped
/// tokens are seen by none. All options and tables mean what they mean in
/// [`attention`](super::attention), positions count dropped tokens, and a rotation turns the
/// queries and, only if they are stored [before it](StoredKeys::BeforeRotation), the keys.
///
/// # Errors
/// As [`attention`](super::attention); `shape` must have batch 1, the cache's key/value heads and
/// channels, and the sequence's tokens as `kv_len`.
pub fn attention_cached(
    attention: &Attention,
    shape: &Shape,
    q: &[f32],
    cache: &HostCache,
    sequence: SequenceId,
    tables: &Tables<'_>,
) -> Result<Exact> {
    check_cache(shape, cache, sequence)?;
    let rows = cache.exact(sequence, Side::Keys)?;
    let values = cache.exact(sequence, Side::Values)?;
    attend(attention, shape, q, cached_keys(cache, sequence, &rows)?, &values, tables)
}

fn cached_keys<'a>(cache: &HostCache, sequence: SequenceId, rows: &'a [f64]) -> Result<Keys<'a, f64>> {
    let rotated = cache.stored_keys() == StoredKeys::AfterRotation;
    Ok(Keys { rows, rotated, dropped: cache.standing(sequence)?.dropped() })
}

fn check_cache(shape: &Shape, cache: &HostCache, sequence: SequenceId) -> Result<()> {
    let want = [1, cache.kv_heads(), cache.len(sequence)?, cache.dim(Side::Keys), cache.dim(Side::Values)];
    let got = [shape.batch(), shape.kv_heads(), shape.kv_len(), shape.head_dim(), shape.value_dim()];
    ensure!(
        want == got,
        "shape",
        "expected (batch, kv_heads, kv_len, head_dim, value_dim) = {want:?} as in the cache, got {got:?}"
    );
    Ok(())
}

/// What attention loses because a cache holds a sequence in few bits.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheLoss {
    /// `‖ô − o‖ / ‖o‖` over all rows, o computed from the history as it was.
    pub output_error: f64,
    /// The losses by age, as asked for.
    pub ages: Vec<AgeLoss>,
}

/// The part of it that comes from some of the tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct AgeLoss {
    /// Which tokens.
    pub tokens: Range<usize>,
    /// Root mean square of `ŝ − s` over the (query, key) pairs, in natural units; `None` if there
    /// is none.
    pub score_error: Option<f64>,
    /// `‖Σⱼ (p̂ⱼ·v̂ⱼ − pⱼ·vⱼ)‖ / ‖o‖` over these tokens. Over all buckets the sums under the norm
    /// add up to `ô − o`.
    pub output_error: f64,
    /// The mean of the softmax mass of these tokens over the rows.
    pub mass: f64,
}

/// Compares [`attention_cached`] with attention over the history as it was before the cache took
/// it: `k` and `v` as appended, `[kv_heads, kv_len, dim]`. `ages` are ranges of tokens.
///
/// # Errors
/// As [`attention_cached`]; invalid argument if `k` or `v` has the wrong length.
#[allow(clippy::too_many_arguments)] // those of `attention`, a cache and the question
pub fn cache_loss(
    attention: &Attention,
    shape: &Shape,
    q: &[f32],
    (k, v): (&[f32], &[f32]),
    cache: &HostCache,
    sequence: SequenceId,
    tables: &Tables<'_>,
    ages: &[Range<usize>],
) -> Result<CacheLoss> {
    check_cache(shape, cache, sequence)?;
    check_all(attention, shape, q, k, v, tables)?;
    let rotated = cache.stored_keys() == StoredKeys::AfterRotation;
    let dim = shape.value_dim();
    // Per row: (key, weight, score) as it was.
    let mut was: Vec<Vec<(usize, f64, f64)>> = Vec::new();
    for_each_row(attention, shape, q, Keys { rows: k, rotated, dropped: 0..0 }, tables, every, |row| {
        was.push(row.weights.iter().zip(row.scores).map(|(&(j, p), &s)| (j, p, s)).collect());
    })?;
    let (k_hat, v_hat) = (cache.exact(sequence, Side::Keys)?, cache.exact(sequence, Side::Values)?);
    let mut loss = CacheLoss { output_error: 0.0, ages: Vec::new() };
    let mut sums: Vec<(f64, u64)> = vec![(0.0, 0); ages.len()];
    loss.ages.extend(ages.iter().map(|tokens| AgeLoss {
        tokens: tokens.clone(),
        score_error: None,
        output_error: 0.0,
        mass: 0.0,
    }));
    let mut norm = 0.0;
    let mut rows = was.iter();
    for_each_row(attention, shape, q, cached_keys(cache, sequence, &k_hat)?, tables, every, |row| {
        let was = rows.next().map_or(&[][..], Vec::as_slice);
        let add = |sum: &mut [f64], weight: f64, j: usize, sign: f64, cached: bool| {
            let at = (row.kv_row + j) * dim;
            for (c, sum) in sum.iter_mut().enumerate() {
                *sum += sign * weight * if cached { v_hat[at + c] } else { f64::from(v[at + c]) };
            }
        };
        let square = |sum: &[f64]| sum.iter().map(|x| x * x).sum::<f64>();
        let difference = |tokens: &Range<usize>| {
            let mut sum = vec![0.0; dim];
            let inside = |j: &usize| tokens.contains(j);
            was.iter().filter(|w| inside(&w.0)).for_each(|&(j, p, _)| add(&mut sum, p, j, -1.0, false));
            row.weights.iter().filter(|w| inside(&w.0)).for_each(|&(j, p)| add(&mut sum, p, j, 1.0, true));
            square(&sum)
        };
        let mut output = vec![0.0; dim];
        was.iter().for_each(|&(j, p, _)| add(&mut output, p, j, 1.0, false));
        norm += square(&output);
        loss.output_error += difference(&(0..shape.kv_len()));
        for (age, (squares, pairs)) in loss.ages.iter_mut().zip(&mut sums) {
            age.output_error += difference(&age.tokens);
            // The cached row sees the same keys in the same order, without the dropped ones.
            let mut now = row.weights.iter().zip(row.scores).peekable();
            for &(j, p, score) in was {
                let inside = age.tokens.contains(&j);
                age.mass += if inside { p } else { 0.0 };
                if let Some((_, cached)) = now.next_if(|((key, _), _)| *key == j).filter(|_| inside) {
                    *squares += (cached - score).powi(2);
                    *pairs += 1;
                }
            }
        }
    })?;
    let relative = |square: f64| if norm > 0.0 { (square / norm).sqrt() } else { 0.0 };
    loss.output_error = relative(loss.output_error);
    for (age, (squares, pairs)) in loss.ages.iter_mut().zip(sums) {
        age.output_error = relative(age.output_error);
        age.mass /= was.len().max(1) as f64;
        age.score_error = (pairs > 0).then(|| (squares / pairs as f64).sqrt());
    }
    Ok(loss)
}
