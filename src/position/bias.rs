//! Biases that grow with the lag.

use crate::error::{Result, ensure};
use crate::limits::{MAX_HEADS, MAX_LEN, at_most};

/// What a bias grows with: `φ(Δ)` of the lag Δ in tokens. `φ(0) = 0`, and it never falls.
///
/// ```
/// use prflash::position::Distance;
/// assert_eq!(Distance::Linear.at(3), 3.0);
/// assert_eq!(Distance::Harmonic.at(3), 1.0 + 1.0 / 2.0 + 1.0 / 3.0);
/// assert_eq!(Distance::CappedHarmonic { cap: 2 }.at(3), 1.5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Distance {
    /// `Δ`: ALiBi (Press, Smith and Lewis 2022, arXiv 2108.12409).
    Linear,
    /// The harmonic number `H_Δ = 1 + 1/2 + … + 1/Δ`, a reading of arXiv 2410.18441: each further
    /// token costs less than the one before.
    Harmonic,
    /// `ln(1 + rΔ)`: KERPLE's logarithmic kernel (Chi et al. 2022, arXiv 2205.09921).
    Log {
        /// r, per token; positive and at most 10⁶.
        rate: f64,
    },
    /// `H_min(Δ, cap)`: harmonic up to a lag, then flat, so that everything further away costs the
    /// same.
    CappedHarmonic {
        /// The lag from which on it is flat, in tokens; at least 1.
        cap: u64,
    },
}

impl Distance {
    /// `φ(lag)`.
    pub fn at(self, lag: u64) -> f64 {
        match self {
            Distance::Linear => lag as f64,
            Distance::Harmonic => harmonic_number(lag),
            Distance::Log { rate } => libm::log1p(rate * lag as f64),
            Distance::CappedHarmonic { cap } => harmonic_number(lag.min(cap)),
        }
    }

    /// `φ(0) … φ(len − 1)`, each computed in f64 and rounded once.
    ///
    /// # Errors
    /// Too large (`len`) past [`MAX_LEN`]: no lag is longer.
    pub fn table(self, len: usize) -> Result<Vec<f32>> {
        at_most("len", len, MAX_LEN)?;
        Ok((0..len as u64).map(|lag| self.at(lag) as f32).collect())
    }

    fn check(self) -> Result<()> {
        match self {
            Distance::Linear | Distance::Harmonic => {}
            Distance::Log { rate } => {
                ensure!(rate > 0.0 && rate <= LARGEST, "rate", "expected above 0 to {LARGEST}, got {rate}");
            }
            Distance::CappedHarmonic { cap } => ensure!(cap >= 1, "cap", "expected at least 1 token, got 0"),
        }
        Ok(())
    }
}

/// The harmonic number `H_n = 1 + 1/2 + … + 1/n`; `H_0 = 0`.
///
/// Summed below n = 32, from the smallest term; above `ln n + γ + 1/(2n) − 1/(12n²) + 1/(120n⁴) −
/// 1/(252n⁶)` (Euler–Maclaurin; the next term is below 4e-15).
///
/// # Precision
/// Within 1e-14 of the exact number up to n = 10⁶.
pub fn harmonic_number(n: u64) -> f64 {
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    if n < 32 {
        return (1..=n).rev().map(|k| 1.0 / k as f64).sum();
    }
    let n = n as f64;
    let square = 1.0 / (n * n);
    let tail = 0.5 / n - square * (1.0 / 12.0 - square * (1.0 / 120.0 - square / 252.0));
    libm::log(n) + (EULER_GAMMA + tail)
}

/// The slope `m_h` of each query head.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Slopes {
    /// ALiBi's geometric series `2^(−8h/H)`, h from 1: the numbers of Bloom and MPT. Where H is not
    /// a power of two: the series for the next lower power n, then the first H − n of every other
    /// slope of the series for 2n, starting with its first.
    Alibi,
    /// `1/h`, h from 1.
    Harmonic,
    /// One for each query head.
    Given(Vec<f64>),
}

impl Slopes {
    /// The slopes of `heads` query heads.
    ///
    /// # Errors
    /// Invalid argument (`slopes`) if they are given for another number of heads; too large
    /// (`heads`) past [`MAX_HEADS`].
    pub fn values(&self, heads: usize) -> Result<Vec<f64>> {
        at_most("heads", heads, MAX_HEADS)?;
        Ok(match self {
            Slopes::Alibi => {
                let power = if heads > 0 { 1 << heads.ilog2() } else { 1 };
                let slope = |numerator: usize| libm::exp2(-(numerator as f64) / power as f64);
                let first = (1..=power).map(|h| slope(8 * h));
                let between = (0..).map(|i| slope(4 * (2 * i + 1)));
                first.chain(between).take(heads).collect()
            }
            Slopes::Harmonic => (1..=heads).map(|h| 1.0 / h as f64).collect(),
            Slopes::Given(slopes) => {
                let got = slopes.len();
                ensure!(got == heads, "slopes", "expected one for each of {heads} query heads, got {got}");
                slopes.clone()
            }
        })
    }
}

/// With lags below 2³⁰ every product of weight, slope and distance is then finite in f32.
const LARGEST: f64 = 1e6;

/// A bias against distance: `λ·m_h·φ(Δ)` is taken off the scores of query head h.
///
/// ```
/// use prflash::position::{Distance, Slopes};
/// use prflash::Bias;
/// let alibi = Bias::alibi();
/// assert_eq!(alibi.slopes(8)?[0], 0.5);
/// let kerple = Bias::new(Distance::Log { rate: 0.5 }, Slopes::Given(vec![1.0, 2.0]))?.with_weight(0.5)?;
/// assert_eq!(kerple.slopes(2)?, [0.5, 1.0]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Bias {
    distance: Distance,
    slopes: Slopes,
    weight: f64,
}

impl Bias {
    /// A bias of weight 1.
    ///
    /// # Errors
    /// Invalid argument if a number of the distance is outside its range, or a given slope is not
    /// within 0 to 10⁶.
    pub fn new(distance: Distance, slopes: Slopes) -> Result<Self> {
        distance.check()?;
        if let Slopes::Given(slopes) = &slopes {
            for slope in slopes {
                ensure!((0.0..=LARGEST).contains(slope), "slopes", "expected 0 to {LARGEST}, got {slope}");
            }
        }
        Ok(Self { distance, slopes, weight: 1.0 })
    }

    /// ALiBi: the linear distance with its geometric slopes.
    pub const fn alibi() -> Self {
        Self { distance: Distance::Linear, slopes: Slopes::Alibi, weight: 1.0 }
    }

    /// The harmonic distance with harmonic slopes.
    pub const fn harmonic() -> Self {
        Self { distance: Distance::Harmonic, slopes: Slopes::Harmonic, weight: 1.0 }
    }

    /// Another weight λ on every head.
    ///
    /// # Errors
    /// Invalid argument unless from 0 (no bias) to 10⁶.
    pub fn with_weight(self, weight: f64) -> Result<Self> {
        ensure!((0.0..=LARGEST).contains(&weight), "weight", "expected 0 to {LARGEST}, got {weight}");
        Ok(Self { weight, ..self })
    }

    /// What it grows with.
    pub fn distance(&self) -> Distance {
        self.distance
    }

    /// `λ·m_h` of each of `heads` query heads.
    ///
    /// # Errors
    /// As [`Slopes::values`].
    pub fn slopes(&self, heads: usize) -> Result<Vec<f64>> {
        let mut slopes = self.slopes.values(heads)?;
        slopes.iter_mut().for_each(|slope| *slope *= self.weight);
        Ok(slopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A running sum of two f64 (Knuth's exact addition), good to about 30 digits.
    #[derive(Clone, Copy, Default)]
    struct Exact {
        high: f64,
        low: f64,
    }

    impl Exact {
        fn add(&mut self, x: f64) {
            let sum = self.high + x;
            let part = sum - self.high;
            let error = (self.high - (sum - part)) + (x - part);
            self.low += error;
            let high = sum + self.low;
            self.low -= high - sum;
            self.high = high;
        }

        fn add_reciprocal(&mut self, k: f64) {
            let quotient = 1.0 / k;
            self.add(quotient);
            // What the division left over, to f64 precision of its own.
            self.add((-quotient).mul_add(k, 1.0) / k);
        }

        /// The sum minus `x`, which is close to it.
        fn minus(self, x: f64) -> f64 {
            (self.high - x) + self.low
        }
    }

    #[test]
    fn harmonic_numbers_are_exact_to_a_million() {
        let mut exact = Exact::default();
        let mut worst: f64 = 0.0;
        let table = Distance::Harmonic.table(1_000_001).unwrap();
        for n in 0..=1_000_000u64 {
            if n > 0 {
                exact.add_reciprocal(n as f64);
            }
            worst = worst.max(exact.minus(harmonic_number(n)).abs());
            let rounded = table[n as usize];
            let half_ulp = |towards: f32| 0.5 * (f64::from(towards) - f64::from(rounded)).abs();
            let error = exact.minus(f64::from(rounded));
            let bound = if error > 0.0 { half_ulp(rounded.next_up()) } else { half_ulp(rounded.next_down()) };
            assert!(error.abs() <= bound, "H_{n} as f32: off by {error:e}, half an ulp is {bound:e}");
        }
        assert!(worst <= 1e-14, "{worst:e}");
    }

    #[test]
    fn harmonic_steps_are_reciprocals() {
        for n in (1..2000).chain((1..=1_000_000).step_by(997)) {
            let step = harmonic_number(n) - harmonic_number(n - 1);
            assert!((step - 1.0 / n as f64).abs() < 1e-14, "{n}");
        }
    }

    #[test]
    fn distances_start_at_zero_and_never_fall() {
        let all = [
            Distance::Linear,
            Distance::Harmonic,
            Distance::Log { rate: 0.3 },
            Distance::CappedHarmonic { cap: 100 },
        ];
        for distance in all {
            let table = distance.table(70_000).unwrap();
            assert_eq!(table[0], 0.0);
            assert!(table.is_sorted(), "{distance:?}");
            let far = [1u64 << 20, 1 << 25, (1 << 30) - 1].map(|lag| distance.at(lag));
            assert!(far.is_sorted() && far[0] >= distance.at(70_000), "{distance:?}");
        }
        assert_eq!(Distance::CappedHarmonic { cap: 100 }.at(1 << 40), harmonic_number(100));
        assert_eq!(Distance::Log { rate: 0.5 }.at(6), 4f64.ln());
    }

    #[test]
    fn slopes_of_powers_of_two_and_others() {
        let alibi = |heads| Slopes::Alibi.values(heads).unwrap();
        assert_eq!(alibi(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        assert_eq!(alibi(3), [1.0 / 16.0, 1.0 / 256.0, 1.0 / 4.0]);
        assert_eq!((alibi(1), alibi(0)), (vec![1.0 / 256.0], vec![]));
        assert_eq!(Slopes::Harmonic.values(3).unwrap(), [1.0, 0.5, 1.0 / 3.0]);
    }

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<Bias>| r.unwrap_err().argument().unwrap();
        let of = |distance| named(Bias::new(distance, Slopes::Alibi));
        assert_eq!(of(Distance::Log { rate: 0.0 }), "rate");
        assert_eq!(of(Distance::Log { rate: f64::NAN }), "rate");
        assert_eq!(of(Distance::CappedHarmonic { cap: 0 }), "cap");
        assert_eq!(named(Bias::new(Distance::Linear, Slopes::Given(vec![1.0, -1.0]))), "slopes");
        assert_eq!(named(Bias::alibi().with_weight(f64::INFINITY)), "weight");
        let given = Bias::new(Distance::Linear, Slopes::Given(vec![1.0])).unwrap();
        assert_eq!(given.slopes(2).unwrap_err().argument(), Some("slopes"));
        for slopes in [Slopes::Alibi, Slopes::Harmonic] {
            assert_eq!(slopes.values(MAX_HEADS).unwrap().len(), MAX_HEADS);
            let error = slopes.values(usize::MAX).unwrap_err();
            assert!(error.is_too_large() && error.argument() == Some("heads"));
        }
        let error = Distance::Harmonic.table(usize::MAX).unwrap_err();
        assert!(error.is_too_large() && error.argument() == Some("len"));
        assert_eq!(Distance::Log { rate: 1e6 }.at(u64::MAX), (1e6 * u64::MAX as f64).ln_1p());
    }
}
