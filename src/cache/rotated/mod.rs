//! The arithmetic of rotated codes, in integers: what a GPU must compute to hold the same bits.
//!
//! A Walsh–Hadamard transform spreads what a channel has more than others over all of them, so that
//! the numbers of a row are about normally distributed, and one scale a row serves where
//! [`quantize`](super::quantize) needs extremes for each group. (Other rotated quantizers: QuaRot,
//! arXiv 2404.00456; that rows of keys lie around a mean is KIVI's observation, arXiv 2402.02750.)
//!
//! # What a row becomes
//!
//! D channels are rotated in blocks of P, the largest power of two that divides D. A segment of
//! keys keeps its mean μ per channel (of values μ = 0), a row its scale σ, and each rotated channel
//! a code:
//!
//! ```text
//! y = W·(x − μ)/√P        W_ij = (−1)^(ones in i & j), block by block
//! σ ≈ √(Σ y²/D)           to the nearest sixth of an octave, 8 bits
//! x̂ = μ + W·(σ·level(code))/√P
//! ```
//!
//! W/√P keeps lengths and inner products, so `⟨q, x̂⟩ = ⟨q, μ⟩ + σ·⟨W·q/√P, level⟩`: attention
//! turns queries once and its output back once, and never turns a key or a value.
//!
//! # Levels
//!
//! They fit a normal distribution, in a tree: of a number with the code c at 8 bits the code at b
//! bits is `c >> (8 − b)`, so every path down a ladder ends at the codes of coding directly. Of a
//! normal variable of variance 1 the mean squared error is .1175 at 2 bits, .0350 at 3, .00975 at 4
//! and .0000453 at 8 ([`mean_squared_error`]); the best levels that are no tree have .1175, .0345
//! and .0095 at 2, 3 and 4. Levels at 4, 3 and 2 bits are a polynomial of the code. Thresholds have
//! 12 bits behind the point and levels 20; how they are made is told beside them (`codebook.rs`),
//! and a test makes them again.
//!
//! # Channels of unequal width
//!
//! After a rotation all channels share their error, which is a loss where some of a key's channels
//! vary far less than others and queries are as large there. [`balance`] finds factors that mend
//! it, for the model's weights to take in.
//!
//! # In integers
//!
//! 1. f16 numbers are `±m·2^e` in units of 2⁻²⁴ with `m < 2¹¹`. E is the largest e of the rows that
//!    are coded together: of all keys of the segment, of one row of values. With `s = max(E − 10,
//!    0)` all of them are integers below 2²¹ in units of 2^(s − 24), rounded to nearest with halves
//!    away from zero, as in `quantize`.
//! 2. Means are sums (at most 1,024 tokens: below 2³¹) over the number of tokens, to the nearest
//!    with halves away from zero, then f16 likewise, and in units of 2^(s − 24) again.
//! 3. `x − μ` is below 2²² and `W·(x − μ)`, of blocks of at most 256, below 2³⁰.
//! 4. For σ, magnitudes are shifted to the right until the largest has 12 bits; the sum of their
//!    squares is below 2³². Sixths of an octave of the root are the sum's leading bit times three,
//!    and where its 32-bit mantissa lies among 2^(1/6), 2^(3/6) and 2^(5/6). They count from an
//!    offset that D and P have, so that the largest row there can be has 255; scale 0 is a row of
//!    zeros, and 1 also stands for what is less (below 2⁻²⁵).
//! 5. `|W·(x − μ)|` is shifted until σ has 13 bits (all that counts is then below 2¹⁶), multiplied
//!    by a 16-bit reciprocal of σ, one of six for D, and shifted by 16: `|y|/σ` with 12 bits behind
//!    the point. The code at 8 bits is the number of thresholds that aren't above it.
//!
//! # Fine tokens
//!
//! Attention rests on some tokens when there is nothing to attend to: their keys are far from all
//! others, and their values near zero. A token with much of the mass brings all of its error into
//! the output, where many with little each cancel theirs. So the tokens of a segment and head whose
//! values are smallest (the first of equal sizes) are *fine*: they keep their codes of 8 bits
//! beside those of the rung. Sizes are compared in about 256ths of an octave: of the sum of squares
//! of magnitudes of 11 bits, the leading bit and the eight behind it. Fine tokens take no part in
//! means. Sinks are read from their copies: they are no fine tokens, take part in nothing, and have
//! scale and codes 0.

mod balance;
mod codebook;
mod hadamard;
mod pack;
mod row;

pub use balance::balance;
use codebook::LEVEL_BITS;
#[cfg(feature = "native")]
pub(crate) use codebook::numbers;
pub(crate) use codebook::{FRACTION_BITS, Polynomial, level_words, polynomial, threshold_words};
pub(crate) use hadamard::block;
#[cfg(feature = "native")]
pub(crate) use hadamard::turn;
pub(crate) use pack::{Behind, Coded};
pub(super) use pack::{choose, encode};
pub(crate) use row::Scales;

/// The mean squared error of a normal variable of variance 1 at 8, 4, 3 or 2 bits; 0 at 16, and 1
/// where nothing is kept.
pub const fn mean_squared_error(bits: u32) -> f64 {
    match bits {
        16.. => 0.0,
        8.. => 4.530_766e-5,
        4.. => 9.753_275e-3,
        3 => 3.504_402e-2,
        2 => 0.117_481_85,
        _ => 1.0,
    }
}

/// A bound on `‖x − x̂‖₂` of any row of so many channels, in units of its σ: `√D·w + max(0, √D·ρ −
/// t)`.
///
/// Here t is the largest level at these bits, w the farthest that a number below it is from its
/// level, and ρ = 2^(1/12) + 2⁻⁷ what a scale may be off. (What is past t is farthest off where one
/// channel has all of it.) To that comes what fixed point rounds off: at most `2⁻²¹` of the largest
/// number that is coded together, for each channel. Rows as they occur lose about `√(D·`
/// [`mean_squared_error`]`)`. ∞ at other widths than 8, 4, 3 and 2.
pub fn error_bound(bits: u32, dim: usize) -> f64 {
    if !super::quantize::WIDTHS.contains(&bits) {
        return f64::INFINITY;
    }
    let unit = f64::from(1 << FRACTION_BITS);
    let levels = codebook::positive_levels(bits).map(|level| f64::from(level) / f64::from(1 << LEVEL_BITS));
    let top = levels.clone().last().unwrap_or(0.0);
    let inner = || codebook::positive_ends(bits).map(|end| f64::from(end) / unit);
    let (starts, ends) = ([0.0].into_iter().chain(inner()), inner().chain([top]));
    let cells = starts.zip(ends).zip(levels);
    let farthest = cells.map(|((start, end), level)| (level - start).max(end - level)).fold(0.0, f64::max);
    // Two units for what is rounded where numbers are compared.
    let farthest = farthest + (2.0 + top) / unit;
    let root = (dim as f64).sqrt();
    root * farthest + (root * (2f64.powf(1.0 / 12.0) + 2f64.powi(-7)) - top).max(0.0)
}

/// A bound as the root of the mean square, for planning.
pub(super) fn typical_error(bits: u32) -> f64 {
    if bits == 0 { f64::INFINITY } else { mean_squared_error(bits).sqrt() }
}

#[cfg(test)]
mod tests;
