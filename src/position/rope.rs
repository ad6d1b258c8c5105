//! Rotary position embedding, on the host.

use std::f64::consts::TAU;

use super::scaling::{Scaling, check_temperature};
use crate::error::{Result, ensure};
use crate::limits::{MAX_ROTARY_DIM, at_most};

/// Which channels a rotation turns together. Checkpoints differ: the wrong choice gives fluent
/// nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Channels `(2i, 2i+1)`: the original RoPE, and GGUF files of the llama family.
    Interleaved,
    /// Channels `(i, i + r/2)` of r rotated ones: GPT-NeoX, and llama checkpoints in the Hugging
    /// Face layout.
    Half,
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): pair i of a head at position p
/// turns by the angle `p · base^(−2i/r)`, with r rotated channels (the whole head unless set).
///
/// Rotated queries and keys have inner products that depend on the lag only. Angles, sines and
/// cosines are computed in f64.
///
/// ```
/// use prflash::position::Pairing;
/// use prflash::Rope;
/// let rope = Rope::new(64, 1e5, Pairing::Interleaved)?;
/// let mut row = [1.0_f32; 64];
/// rope.rotate(&mut row, 0)?; // position 0 turns nothing
/// assert_eq!(row, [1.0; 64]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    head_dim: usize,
    rotary_dim: usize,
    base: f64,
    pairing: Pairing,
    scaling: Scaling,
    frequencies: Vec<f64>,
    /// Whether the frequencies are the caller's own.
    given: bool,
    temperature: f64,
    /// The caller's own, which goes before that of the scaling.
    given_temperature: Option<f64>,
}

impl Rope {
    /// A rotation of every channel of a head.
    ///
    /// # Errors
    /// Invalid argument unless `head_dim` is even and positive and `base` finite and positive, with
    /// finite frequencies; too large past [`MAX_ROTARY_DIM`].
    pub fn new(head_dim: usize, base: f64, pairing: Pairing) -> Result<Self> {
        ensure!(
            head_dim > 0 && head_dim.is_multiple_of(2),
            "head_dim",
            "expected a positive even number, got {head_dim}"
        );
        at_most("head_dim", head_dim, MAX_ROTARY_DIM)?;
        ensure!(base.is_finite() && base > 0.0, "base", "expected a finite positive number, got {base}");
        Self {
            head_dim,
            rotary_dim: head_dim,
            base,
            pairing,
            scaling: Scaling::None,
            frequencies: Vec::new(),
            given: false,
            temperature: 1.0,
            given_temperature: None,
        }
        .updated()
    }

    /// Turns only the first `rotary_dim` channels of a head (pairs lie within them, frequencies are
    /// `base^(−2i/rotary_dim)`) and leaves the rest.
    ///
    /// # Errors
    /// Invalid argument unless even, positive and at most the head dimension; for
    /// [`Scaling::NtkAware`] more than 2; if another number of pairs has
    /// [frequencies of its own](Rope::with_frequencies).
    pub fn with_rotary_dim(self, rotary_dim: usize) -> Result<Self> {
        ensure!(
            rotary_dim.is_multiple_of(2) && (2..=self.head_dim).contains(&rotary_dim),
            "rotary_dim",
            "expected an even number from 2 to head_dim = {}, got {rotary_dim}",
            self.head_dim
        );
        ensure!(
            !self.given || rotary_dim == self.rotary_dim,
            "rotary_dim",
            "expected {}, whose pairs have the frequencies that were given, got {rotary_dim}",
            self.rotary_dim
        );
        Self { rotary_dim, ..self }.updated()
    }

    /// Other frequencies for longer contexts.
    ///
    /// It takes the place of [frequencies that were given](Rope::with_frequencies).
    ///
    /// # Errors
    /// Invalid argument naming the number of the scaling that is outside its range.
    pub fn with_scaling(self, scaling: Scaling) -> Result<Self> {
        Self { scaling, given: false, ..self }.updated()
    }

    /// The frequency of each pair of rotated channels, in radians per token: those of a model that
    /// no [`Scaling`] describes. They take the place of the base and of the scaling.
    ///
    /// Models whose frequencies depend on the length have two sets: see
    /// [`LongRope`](super::LongRope).
    ///
    /// ```
    /// use prflash::position::Pairing;
    /// use prflash::Rope;
    /// let rope = Rope::new(64, 1e4, Pairing::Half)?;
    /// // The slow half of the pairs doesn't turn at all.
    /// let slow = |(pair, &omega)| if pair < 16 { omega } else { 0.0 };
    /// let frequencies: Vec<f64> = rope.frequencies().iter().enumerate().map(slow).collect();
    /// let rope = rope.with_frequencies(&frequencies)?.with_temperature(1.2)?;
    /// assert_eq!((rope.frequencies()[16], rope.temperature()), (0.0, 1.2));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument unless there is one for each of the `rotary_dim/2` pairs and each is within
    /// ±2π: positions are whole numbers, so more than a turn a token is the same rotation as less.
    pub fn with_frequencies(self, frequencies: &[f64]) -> Result<Self> {
        let (want, got) = (self.rotary_dim / 2, frequencies.len());
        ensure!(want == got, "frequencies", "expected one for each of {want} pairs, got {got}");
        for (pair, frequency) in frequencies.iter().enumerate() {
            let valid = (-TAU..=TAU).contains(frequency);
            ensure!(valid, "frequencies", "expected numbers from -2π to 2π, got {frequency} of pair {pair}");
        }
        let (frequencies, temperature) = (frequencies.to_vec(), self.given_temperature.unwrap_or(1.0));
        Ok(Self { frequencies, temperature, scaling: Scaling::None, given: true, ..self })
    }

    /// A factor on cos and sin, and so on the rotated channels of Q and of K, in place of that of
    /// the scaling. It stays whatever the frequencies become.
    ///
    /// # Errors
    /// Invalid argument unless finite and positive.
    pub fn with_temperature(self, temperature: f64) -> Result<Self> {
        check_temperature(temperature)?;
        Ok(Self { temperature, given_temperature: Some(temperature), ..self })
    }

    fn updated(self) -> Result<Self> {
        if self.given {
            return Ok(self);
        }
        let (frequencies, temperature) = self.scaling.frequencies(self.base, self.rotary_dim)?;
        ensure!(
            frequencies.iter().all(|frequency| frequency.is_finite()),
            "base",
            "expected finite frequencies, got base {} with {:?}",
            self.base,
            self.scaling
        );
        let temperature = self.given_temperature.unwrap_or(temperature);
        Ok(Self { frequencies, temperature, ..self })
    }

    /// Whether the factor on cos and sin is the caller's own.
    pub(super) fn has_own_temperature(&self) -> bool {
        self.given_temperature.is_some()
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The leading channels that turn.
    pub fn rotary_dim(&self) -> usize {
        self.rotary_dim
    }

    /// Which channels turn together.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// The scaling of the frequencies; none where [they were given](Rope::with_frequencies).
    pub fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// Radians per token of each pair, scaled.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// The factor on cos and sin, and so on the rotated channels of Q and of K: 1 unless YaRN, or
    /// [given](Rope::with_temperature).
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// Whether the kernels can apply it. They load four channels at a time, and a pair must lie in
    /// one load or in two whole ones: the rotary dimension must be a multiple of 4
    /// ([`Interleaved`](Pairing::Interleaved)) or 8 ([`Half`](Pairing::Half)).
    pub fn is_quad_aligned(&self) -> bool {
        self.rotary_dim.is_multiple_of(match self.pairing {
            Pairing::Interleaved => 4,
            Pairing::Half => 8,
        })
    }

    /// Turns the rows of a contiguous `[len, head_dim]` slice, in place: row i as position
    /// `first_position + i`.
    ///
    /// # Errors
    /// Invalid argument unless `rows` holds whole rows.
    pub fn rotate(&self, rows: &mut [f32], first_position: i64) -> Result<()> {
        ensure!(
            rows.len().is_multiple_of(self.head_dim),
            "rows",
            "expected a multiple of head_dim = {} values, got {}",
            self.head_dim,
            rows.len()
        );
        for (i, row) in rows.chunks_exact_mut(self.head_dim).enumerate() {
            self.rotate_row(row, first_position.saturating_add(i as i64));
        }
        Ok(())
    }

    /// Turns the rows of a contiguous `[len, head_dim]` slice, in place: row i as position
    /// `positions[i]`.
    ///
    /// # Errors
    /// Invalid argument unless `rows` holds one row for each position.
    pub fn rotate_at(&self, rows: &mut [f32], positions: &[i64]) -> Result<()> {
        ensure!(
            positions.len().checked_mul(self.head_dim) == Some(rows.len()),
            "rows",
            "expected {} rows of head_dim = {} values, got {} values",
            positions.len(),
            self.head_dim,
            rows.len()
        );
        for (row, &position) in rows.chunks_exact_mut(self.head_dim).zip(positions) {
            self.rotate_row(row, position);
        }
        Ok(())
    }

    fn rotate_row(&self, row: &mut [f32], position: i64) {
        self.for_each_pair(position, |a, b, cos, sin| {
            let (x, y) = (f64::from(row[a]), f64::from(row[b]));
            row[a] = (x * cos - y * sin) as f32;
            row[b] = (x * sin + y * cos) as f32;
        });
    }

    /// Calls `turn(a, b, cos, sin)` for the channels a, b of each pair, with the temperature in cos
    /// and sin.
    pub(crate) fn for_each_pair(&self, position: i64, mut turn: impl FnMut(usize, usize, f64, f64)) {
        for (pair, frequency) in self.frequencies.iter().enumerate() {
            let (sin, cos) = libm::sincos(position as f64 * frequency);
            let (a, b) = match self.pairing {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Half => (pair, pair + self.rotary_dim / 2),
            };
            turn(a, b, self.temperature * cos, self.temperature * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    #[test]
    fn inner_products_depend_on_the_lag_only() {
        for pairing in [Pairing::Interleaved, Pairing::Half] {
            let rope = Rope::new(8, 1e4, pairing).unwrap();
            let score = |i: i64, j: i64| {
                let (mut q, mut k) = ([0.3, -1.0, 0.7, 0.2, 1.1, -0.4, 0.9, 0.5], [1.0_f32; 8]);
                rope.rotate(&mut q, i).unwrap();
                rope.rotate(&mut k, j).unwrap();
                dot(&q, &k)
            };
            assert!((score(5, 3) - score(1005, 1003)).abs() < 1e-5);
            assert!((score(5, 3) - score(5, 4)).abs() > 1e-3);
        }
    }

    #[test]
    fn pairs_turn_by_their_own_frequency() {
        let mut row = [1.0, 0.0, 1.0, 0.0];
        Rope::new(4, 100.0, Pairing::Interleaved).unwrap().rotate(&mut row, 2).unwrap();
        let want = [2f64.cos(), 2f64.sin(), 0.2f64.cos(), 0.2f64.sin()];
        assert!(row.iter().zip(want).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-7));
        let mut row = [1.0, 1.0, 0.0, 0.0];
        Rope::new(4, 100.0, Pairing::Half).unwrap().rotate(&mut row, 2).unwrap();
        let want = [2f64.cos(), 0.2f64.cos(), 2f64.sin(), 0.2f64.sin()];
        assert!(row.iter().zip(want).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-7));
    }

    #[test]
    fn only_the_rotary_channels_turn() {
        for pairing in [Pairing::Interleaved, Pairing::Half] {
            let whole = Rope::new(4, 100.0, pairing).unwrap();
            let partial = Rope::new(8, 100.0, pairing).unwrap().with_rotary_dim(4).unwrap();
            let mut row = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
            let mut head = [0.1, 0.2, 0.3, 0.4];
            partial.rotate_at(&mut row, &[-7]).unwrap();
            whole.rotate(&mut head, -7).unwrap();
            assert_eq!(row[..4], head);
            assert_eq!(row[4..], [0.5, 0.6, 0.7, 0.8]);
        }
    }

    #[test]
    fn given_frequencies_are_those_that_turn() {
        let rope = Rope::new(8, 100.0, Pairing::Interleaved).unwrap().with_rotary_dim(4).unwrap();
        let own = rope.clone().with_frequencies(&[0.5, -2.0]).unwrap();
        let mut row = [1.0, 0.0, 1.0, 0.0, 7.0, 7.0, 7.0, 7.0];
        own.rotate(&mut row, 3).unwrap();
        let want = [1.5f64.cos(), 1.5f64.sin(), 6f64.cos(), -6f64.sin(), 7.0, 7.0, 7.0, 7.0];
        assert!(row.iter().zip(want).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-7));
        // The same as before, or replaced again.
        assert_eq!(own.clone().with_rotary_dim(4).unwrap(), own);
        assert_eq!(own.with_scaling(Scaling::None).unwrap(), rope);
        let same = rope.clone().with_frequencies(&[1.0, 0.1]).unwrap();
        assert_eq!(same.table(99, 8).unwrap(), rope.table(99, 8).unwrap());
    }

    #[test]
    fn a_given_temperature_goes_before_that_of_the_scaling() {
        let yarn = Scaling::yarn(4.0, 64);
        let rope = Rope::new(8, 1e4, Pairing::Half).unwrap().with_temperature(2.0).unwrap();
        assert_eq!(rope.clone().with_scaling(yarn).unwrap().temperature(), 2.0);
        assert_eq!(rope.with_frequencies(&[0.0; 4]).unwrap().temperature(), 2.0);
        let after = Rope::new(8, 1e4, Pairing::Half).unwrap().with_scaling(yarn).unwrap();
        assert_eq!(after.clone().with_frequencies(&[0.0; 4]).unwrap().temperature(), 1.0);
        assert_eq!(after.with_temperature(2.0).unwrap().temperature(), 2.0);
    }

    #[test]
    fn kernels_need_whole_quads() {
        let aligned = |pairing, r| Rope::new(64, 1e4, pairing).unwrap().with_rotary_dim(r).unwrap();
        assert!(aligned(Pairing::Half, 24).is_quad_aligned());
        assert!(!aligned(Pairing::Half, 20).is_quad_aligned());
        assert!(aligned(Pairing::Interleaved, 20).is_quad_aligned());
        assert!(!aligned(Pairing::Interleaved, 22).is_quad_aligned());
    }

    #[test]
    fn refusals_name_the_argument() {
        let rope = || Rope::new(8, 1e4, Pairing::Half).unwrap();
        let named = |r: Result<Rope>| r.unwrap_err().argument().unwrap();
        assert_eq!(named(Rope::new(7, 1e4, Pairing::Half)), "head_dim");
        assert_eq!(named(Rope::new(8, 0.0, Pairing::Half)), "base");
        assert_eq!(named(rope().with_rotary_dim(10)), "rotary_dim");
        assert_eq!(named(rope().with_rotary_dim(3)), "rotary_dim");
        assert_eq!(named(rope().with_rotary_dim(0)), "rotary_dim");
        assert_eq!(named(rope().with_scaling(Scaling::Linear { factor: 0.5 })), "factor");
        let ntk = rope().with_scaling(Scaling::NtkAware { factor: 2.0 }).unwrap();
        assert_eq!(named(ntk.with_rotary_dim(2)), "rotary_dim");
        assert_eq!(named(rope().with_scaling(Scaling::yarn(f64::NAN, 8))), "factor");
        assert_eq!(named(rope().with_scaling(Scaling::yarn(2.0, 0))), "original_len");
        let yarn = |beta_fast, beta_slow, temperature| {
            let (factor, original_len, rounded) = (2.0, 8, false);
            let scaling = Scaling::Yarn { factor, original_len, beta_fast, beta_slow, temperature, rounded };
            named(rope().with_scaling(scaling))
        };
        assert_eq!(yarn(1.0, 1.0, None), "beta_fast");
        assert_eq!(yarn(1.0, 0.0, None), "beta_slow");
        assert_eq!(yarn(2.0, 1.0, Some(0.0)), "temperature");
        for frequencies in [&[0.1; 3][..], &[0.1; 5], &[f64::NAN; 4], &[6.3; 4], &[-f64::INFINITY; 4]] {
            assert_eq!(named(rope().with_frequencies(frequencies)), "frequencies");
        }
        let given = rope().with_rotary_dim(4).unwrap().with_frequencies(&[0.1; 2]).unwrap();
        assert_eq!(named(given.with_rotary_dim(8)), "rotary_dim");
        for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(named(rope().with_temperature(temperature)), "temperature");
        }
        let slow = Rope::new(8, 1.0, Pairing::Half).unwrap();
        assert_eq!(named(slow.with_scaling(Scaling::yarn(2.0, 8))), "base");
        let llama3 = |low_freq_factor, high_freq_factor| {
            let (factor, original_len) = (2.0, 8);
            let scaling = Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_len };
            named(rope().with_scaling(scaling))
        };
        assert_eq!(llama3(0.0, 4.0), "low_freq_factor");
        assert_eq!(llama3(4.0, 4.0), "high_freq_factor");
        assert_eq!(rope().rotate(&mut [0.0; 9], 0).unwrap_err().argument(), Some("rows"));
        assert_eq!(rope().rotate_at(&mut [0.0; 8], &[0, 1]).unwrap_err().argument(), Some("rows"));
        assert_eq!(rope().table(8, 0).unwrap_err().argument(), Some("stride"));
        assert_eq!(rope().table(usize::MAX, 1).unwrap_err().argument(), Some("positions"));
        assert_eq!(rope().table(1 << 30, 1).unwrap_err().argument(), Some("stride"));
        assert_eq!(named(Rope::new(usize::MAX - 1, 1e4, Pairing::Half)), "head_dim");
        assert_eq!(named(Rope::new(MAX_ROTARY_DIM + 2, 1e4, Pairing::Half)), "head_dim");
        assert_eq!(named(Rope::new(1 << 12, 5e-324, Pairing::Half)), "base");
        assert_eq!(rope().table(0, usize::MAX).unwrap().rotation(0, 0), None);
    }
}
