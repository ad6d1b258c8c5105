//! The one comparator: is a result of some device the exact one, within what its arithmetic allows?
//!
//! It is total: a number passes only if `|got − want| ≤ tolerance` holds, so a NaN never passes, an
//! infinity only where the very same is expected, and a missing number is an error. Use it to check
//! prflash on your own device:
//!
//! ```
//! use prflash::verify::{Tolerance, compare};
//! let want = [1.0, f64::NEG_INFINITY];
//! assert!(compare(&[1.0000001, f32::NEG_INFINITY], &want, Tolerance::absolute(1e-6))?.passed());
//! assert!(!compare(&[f32::NAN, f32::NEG_INFINITY], &want, Tolerance::absolute(1e-6))?.passed());
//! # Ok::<(), prflash::Error>(())
//! ```

use std::fmt;

use crate::attention::kernels::shapes::Kernel;
use crate::error::{Result, ensure};
use crate::layout::DType;
use crate::reference::{Exact, Magnitudes, TermMagnitudes};
use crate::shape::Shape;

/// How far a number may be from the exact one: `absolute + relative·|want|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The distance allowed, in the units of the numbers compared.
    pub absolute: f64,
    /// The distance allowed beside it, as a fraction of the exact number's magnitude.
    pub relative: f64,
}

impl Tolerance {
    /// `|got − want| ≤ absolute`.
    pub const fn absolute(absolute: f64) -> Self {
        Self { absolute, relative: 0.0 }
    }

    /// How far a number may be from `want`.
    pub fn of(&self, want: f64) -> f64 {
        self.absolute + self.relative * want.abs()
    }
}

/// The tolerance of each row of a tensor, or one for all of them.
///
/// What a kernel's arithmetic may deviate depends on the numbers that a row is made of: those of a
/// query that sees three small keys much less than those of one that sees a thousand large ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerances {
    /// One for each row, or a single one.
    rows: Vec<Tolerance>,
}

impl From<Tolerance> for Tolerances {
    fn from(tolerance: Tolerance) -> Self {
        Self { rows: vec![tolerance] }
    }
}

impl From<&Tolerances> for Tolerances {
    fn from(tolerances: &Tolerances) -> Self {
        tolerances.clone()
    }
}

impl Tolerances {
    /// What f32 arithmetic on these inputs, stored as `output`, may deviate in an output element.
    ///
    /// A score is off by at most `ε = u·(D/4 + 8)·max Σ|q·k|·scale`: D/4 products are summed in
    /// each of four lanes, with a few roundings around it, and `u = 2⁻²⁴`. Rotation adds less than
    /// `26u` of the rotated channels' part: u for each rounded table of cos and sin and `√5·u` for
    /// each complex product (Brent, Percival and Zimmermann 2007), of which a query takes two and a
    /// key up to six: two levels of the table, three steps of keys on from there, the place in the
    /// step, and the pair itself. That changes the softmax by `e^{2ε} − 1` in L1. The sums over
    /// keys add `u·(16 + 4√n)`: rounding errors of n additions grow like √n with overwhelming
    /// probability (Higham and Mary 2019), and `exp` is good to a few units in the last place. Both
    /// are relative to the largest value. Rounding to the output type adds its own unit roundoff.
    pub fn of_output(exact: &Exact, shape: &Shape, output: DType) -> Self {
        Self::of_kernel_output(Kernel::Naive, exact, shape, output)
    }

    /// What f32 arithmetic on these inputs may deviate in a natural-log log-sum-exp.
    pub fn of_lse(exact: &Exact, shape: &Shape) -> Self {
        Self::of_kernel_lse(Kernel::Naive, exact, shape)
    }

    /// What a kernel may deviate in an output element: [`of_output`](Tolerances::of_output) for
    /// those that compute in f32, and more for those that take products in f16, of which the unit
    /// roundoff is `h = 2⁻¹¹`.
    ///
    /// On matrix units ([`Kernel::Matrix`]):
    ///
    /// - D products may be added one after another, each sum truncated instead of rounded: `2u·(D +
    ///   8)` of the score's magnitude.
    /// - Rotated queries and keys are rounded to f16: `2h` of the rotated part of it.
    /// - Weights are rounded to f16, `p̃ⱼ = pⱼ·(1 + δⱼ)` with `|δⱼ| ≤ h`, and the output is divided
    ///   by their own sum. So it is off by `|Σ pⱼδⱼ(vⱼ − o)| / Σ p̃ⱼ`, at most `h / (1 − h)` times
    ///   the mean deviation of values from their mean, which is at most their largest magnitude.
    /// - Weights below 2⁻²⁹ of the largest are subnormal in f16, and matrix units may take them for
    ///   0: `n·2⁻²⁸` of the largest magnitude.
    ///
    /// [With products in f16](crate::kernels::Tile::with_f16_products):
    ///
    /// - A score is off by `11h` of its magnitude more: query, key (where it was rotated), up to 8
    ///   products summed in f16, and two such sums added.
    /// - The weights add `(keys + 1)·h`: each is rounded, and the products of the keys of a step
    ///   are summed in f16. That takes devices that keep subnormals of f16; where they don't,
    ///   weights below 2⁻¹⁴ of the largest may be lost.
    pub fn of_kernel_output(kernel: Kernel, exact: &Exact, shape: &Shape, output: DType) -> Self {
        Self::of_rounded_output(exact, output, |row| Rounding::of(kernel, row, shape))
    }

    /// What a kernel may deviate in a natural-log log-sum-exp: as its scores do
    /// ([`of_kernel_output`](Tolerances::of_kernel_output)). Sums of weights are in f32 everywhere.
    pub fn of_kernel_lse(kernel: Kernel, exact: &Exact, shape: &Shape) -> Self {
        Self::of_rounded_lse(exact, |row| Rounding::of(kernel, row, shape))
    }

    /// What the native engine may deviate in an output element: as
    /// [`of_output`](Tolerances::of_output) has it, but for the scores, whose D products are added
    /// one after another, each sum rounded: `u·(D + 8)` of a score's magnitude. Its `exp` is off by
    /// at most `2u + 2⁻²⁷` of the largest weight, which the `16u` of the sums over keys hold.
    pub fn of_native_output(exact: &Exact, shape: &Shape, output: DType) -> Self {
        Self::of_rounded_output(exact, output, |row| Rounding::of_native(row, shape))
    }

    /// What the native engine may deviate in a natural-log log-sum-exp: as its scores do.
    pub fn of_native_lse(exact: &Exact, shape: &Shape) -> Self {
        Self::of_rounded_lse(exact, |row| Rounding::of_native(row, shape))
    }

    /// What the kernels of the [backward pass](crate::attention::BackwardPlan) may deviate in a
    /// gradient of queries, keys or values, whose rows are sums of `terms`; `output` is the type of
    /// the forward pass's output, `stored` that of the gradient.
    ///
    /// A term is `p·(dp − δ)·x`. With a score's error ε as [`of_output`](Tolerances::of_output) has
    /// it, p is off by ε, by that of its row's log-sum-exp, ε and `u·(16 + 4√n)` again, and by the
    /// rounding of their difference, `8u` of the score's magnitude. `dp` sums value_dim products in
    /// four lanes, `u·(D_v/4 + 8)`, and δ as many of an output that is off by `2ε + u·(16 + 4√n)`
    /// of the largest value and rounded to its type. Products and rotations of the term add less
    /// than `32u`, and sums of m terms `4u·√m`. Weights and their products below 2⁻¹²⁶ may be 0.
    pub fn of_gradient(terms: &[TermMagnitudes], shape: &Shape, output: DType, stored: DType) -> Self {
        let u = DType::F32.unit_roundoff();
        let (dim, value_dim) = (shape.head_dim() as f64, shape.value_dim() as f64);
        let (relative, smallest) = storage_error(stored);
        let rounded = if output == DType::F32 { 0.0 } else { 2.0 * output.unit_roundoff() };
        let of = |row: &TermMagnitudes| {
            let sums = 80.0 + 8.0 * (shape.kv_len() as f64).sqrt() + value_dim / 2.0;
            let sums = sums + 4.0 * (row.terms as f64).sqrt();
            let scores = (4.0 * (dim / 4.0 + 8.0) + 8.0) * row.scored + 4.0 * 26.0 * row.rotated;
            let lost = 4.0 * f64::from(f32::MIN_POSITIVE) * row.unweighted;
            let absolute = u * (sums * row.sum + scores) + rounded * row.sum + lost;
            Tolerance { absolute: absolute * (1.0 + relative) + smallest, relative }
        };
        Self { rows: terms.iter().map(of).collect() }
    }

    fn of_rounded_output(exact: &Exact, output: DType, rounding: impl Fn(&Magnitudes) -> Rounding) -> Self {
        let (relative, smallest) = storage_error(output);
        let of = |row: &Magnitudes| {
            let Rounding { scores, weights } = rounding(row);
            let softmax = (2.0 * scores).exp_m1() + weights + summation_error(row);
            Tolerance { absolute: row.value * softmax * (1.0 + relative) + smallest, relative }
        };
        Self { rows: exact.rows.iter().map(of).collect() }
    }

    fn of_rounded_lse(exact: &Exact, rounding: impl Fn(&Magnitudes) -> Rounding) -> Self {
        let of = |row: &Magnitudes| Tolerance {
            absolute: rounding(row).scores + summation_error(row),
            relative: 4.0 * DType::F32.unit_roundoff(),
        };
        Self { rows: exact.rows.iter().map(of).collect() }
    }

    /// So many times as much: where as many results of such errors are added.
    pub fn times(&self, factor: f64) -> Self {
        let times =
            |row: &Tolerance| Tolerance { absolute: factor * row.absolute, relative: factor * row.relative };
        Self { rows: self.rows.iter().map(times).collect() }
    }

    /// The sums, row by row: where two results that may both deviate are compared.
    ///
    /// # Errors
    /// Invalid argument (`other`) if it is of another number of rows.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        let (rows, others) = (self.rows.len(), other.rows.len());
        ensure!(rows == others, "other", "expected tolerances of {rows} rows, got {others}");
        let sum = |(one, other): (&Tolerance, &Tolerance)| Tolerance {
            absolute: one.absolute + other.absolute,
            relative: one.relative + other.relative,
        };
        Ok(Self { rows: self.rows.iter().zip(&other.rows).map(sum).collect() })
    }

    /// Of a row; the single one of all rows, or the last one past them. Without any, nothing may
    /// deviate.
    pub fn row(&self, row: usize) -> Tolerance {
        let last = self.rows.last().copied().unwrap_or(Tolerance::absolute(0.0));
        self.rows.get(row).copied().unwrap_or(last)
    }
}

/// What storing a number in a type adds: a part of the number, and absolutely.
fn storage_error(dtype: DType) -> (f64, f64) {
    // Twice the roundoff: packing may truncate where WGSL leaves the rounding open. 2⁻²⁴ is the
    // last subnormal of f16.
    match dtype {
        DType::F32 => (0.0, 0.0),
        DType::F16 => (2.0 * dtype.unit_roundoff(), 1.0 / f64::from(1u32 << 24)),
        DType::Bf16 => (2.0 * dtype.unit_roundoff(), 0.0),
    }
}

/// What a kernel's arithmetic rounds, besides sums over keys.
struct Rounding {
    /// The error of a score.
    scores: f64,
    /// Of weights and their products with values, relative to the largest value.
    weights: f64,
}

impl Rounding {
    fn of(kernel: Kernel, row: &Magnitudes, shape: &Shape) -> Self {
        let half = DType::F16.unit_roundoff();
        match kernel {
            Kernel::Matrix(_) => Self {
                scores: matrix_score_error(row, shape),
                weights: half / (1.0 - half) + row.keys as f64 / f64::from(1u32 << 28),
            },
            Kernel::Tiled(tile) if tile.uses_f16_products() => Self {
                scores: score_error(row, shape) + 11.0 * half * row.score,
                weights: (tile.keys() + 1) as f64 * half,
            },
            _ => Self { scores: score_error(row, shape), weights: 0.0 },
        }
    }
}

impl Rounding {
    fn of_native(row: &Magnitudes, shape: &Shape) -> Self {
        let products = (shape.head_dim() as f64 + 8.0) * row.score.max(1.0);
        let scores = DType::F32.unit_roundoff() * (products + 26.0 * row.rotated);
        Self { scores, weights: 0.0 }
    }
}

fn matrix_score_error(row: &Magnitudes, shape: &Shape) -> f64 {
    let products = 2.0 * (shape.head_dim() as f64 + 8.0) * row.score.max(1.0);
    let rounded = 2.0 * DType::F16.unit_roundoff() * row.rotated;
    DType::F32.unit_roundoff() * (products + 26.0 * row.rotated) + rounded
}

fn score_error(row: &Magnitudes, shape: &Shape) -> f64 {
    let products = (shape.head_dim() as f64 / 4.0 + 8.0) * row.score.max(1.0);
    DType::F32.unit_roundoff() * (products + 26.0 * row.rotated)
}

fn summation_error(row: &Magnitudes) -> f64 {
    DType::F32.unit_roundoff() * (16.0 + 4.0 * (row.keys as f64).sqrt())
}

/// What [`compare`] found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// How many numbers were compared.
    pub compared: usize,
    /// Numbers that failed.
    pub failed: usize,
    /// NaNs among the numbers that were got.
    pub nan: usize,
    /// Infinities among them where another number was expected.
    pub infinite: usize,
    /// The largest |got − want| over the pairs of finite numbers.
    pub max_abs_error: f64,
    /// `‖got − want‖₂ / ‖want‖₂` over the pairs of finite numbers; 0 if both norms are 0.
    pub relative_error: f64,
    /// The first failure: index, got, want.
    pub first_failure: Option<(usize, f32, f64)>,
    /// The most of its row's tolerance that any finite number took: above 1 where one failed.
    pub used: f64,
    /// The tolerance of the row of the first failure, or of the row that took most of its own.
    pub tolerance: Tolerance,
}

impl Report {
    /// Whether every number passed.
    pub fn passed(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} within {:.1e} + {:.1e}·|want| (of the row that took most of it, {:.2}); max abs error {:.2e}, relative error {:.2e}, {} NaN, {} infinite",
            self.compared - self.failed,
            self.compared,
            self.tolerance.absolute,
            self.tolerance.relative,
            self.used,
            self.max_abs_error,
            self.relative_error,
            self.nan,
            self.infinite
        )?;
        if let Some((index, got, want)) = self.first_failure {
            write!(f, "; first failure at {index}: got {got}, expected {want}")?;
        }
        Ok(())
    }
}

/// Compares every number of `got` with `want`, row by row: each row is as many numbers as there are
/// over the number of tolerances.
///
/// # Errors
/// Invalid argument if the lengths differ (`got`), or if the tolerances are of a number of rows
/// that doesn't divide them (`tolerances`).
pub fn compare(got: &[f32], want: &[f64], tolerances: impl Into<Tolerances>) -> Result<Report> {
    let tolerances = tolerances.into();
    ensure!(got.len() == want.len(), "got", "expected {} numbers, got {}", want.len(), got.len());
    let rows = tolerances.rows.len();
    let whole = want.is_empty() || (rows > 0 && want.len().is_multiple_of(rows));
    ensure!(whole, "tolerances", "expected those of rows of {} numbers, got {rows}", want.len());
    let row_len = (want.len() / rows.max(1)).max(1);
    let mut report = Report {
        compared: want.len(),
        failed: 0,
        nan: 0,
        infinite: 0,
        max_abs_error: 0.0,
        relative_error: 0.0,
        first_failure: None,
        used: 0.0,
        tolerance: tolerances.row(0),
    };
    let (mut error_square, mut want_square) = (0.0, 0.0);
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let value = f64::from(got);
        let tolerance = tolerances.row(index / row_len);
        let passed =
            if want.is_finite() { (value - want).abs() <= tolerance.of(want) } else { value == want };
        report.nan += usize::from(got.is_nan());
        report.infinite += usize::from(got.is_infinite() && value != want);
        if value.is_finite() && want.is_finite() {
            let error = (value - want).abs();
            report.max_abs_error = report.max_abs_error.max(error);
            error_square += error.powi(2);
            want_square += want.powi(2);
            let used = if error > 0.0 { error / tolerance.of(want) } else { 0.0 };
            if used > report.used {
                report.used = used;
                if report.failed == 0 {
                    report.tolerance = tolerance;
                }
            }
        }
        if !passed {
            if report.failed == 0 {
                (report.first_failure, report.tolerance) = (Some((index, got, want)), tolerance);
            }
            report.failed += 1;
        }
    }
    if error_square > 0.0 {
        report.relative_error = (error_square / want_square).sqrt();
    }
    Ok(report)
}
