//! Ladders: the widths that a token passes through as it ages.

use std::fmt;

use super::quantize::{levels, nests};
use crate::error::{Result, ensure};
use crate::shape::MAX_LEN;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Side {
    /// Quantized per channel: a group is G tokens of one channel.
    Keys,
    /// Quantized per token: a group is G channels of one token.
    Values,
}

impl Side {
    /// Both sides.
    pub const ALL: [Side; 2] = [Side::Keys, Side::Values];
}

/// One step of a [`Ladder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rung {
    /// 16 (f16), 8, 4, 3, 2 or 0 (dropped).
    pub bits: u32,
    /// How many segments dwell here; `None` on the last rung, which holds all older ones.
    pub segments: Option<usize>,
}

impl Rung {
    pub(super) const fn on(bits: u32, segments: usize) -> Self {
        Self { bits, segments: Some(segments) }
    }

    pub(super) const fn tail(bits: u32) -> Self {
        Self { bits, segments: None }
    }
}

/// The widths a segment passes through after it has left the precise residual, widest first.
///
/// ```
/// use prflash::cache::Ladder;
/// // 8 bits for two segments' time, 4 bits for six, then 2 bits.
/// let ladder = Ladder::new(&[(8, 2), (4, 6)], 2)?;
/// assert_eq!(ladder.to_string(), "8×2 → 4×6 → 2");
/// assert_eq!((ladder.rung_at(1), ladder.rung_at(2), ladder.rung_at(1000)), (0, 1, 2));
/// assert!(ladder.is_nested());
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ladder {
    rungs: Vec<Rung>,
}

impl Ladder {
    /// Rungs of `(bits, segments)`, and the bits of the last rung, which holds the tail.
    ///
    /// # Errors
    /// Invalid argument (`bits`) unless all are 16, 8, 4, 3 or 2 and fall from rung to rung; the
    /// last may be 0, which drops tokens. Invalid argument (`segments`) unless every dwell is at
    /// least 1 and their sum below 2³⁰.
    pub fn new(steps: &[(u32, usize)], last: u32) -> Result<Self> {
        let mut above = 17;
        for (index, bits) in steps.iter().map(|step| step.0).chain([last]).enumerate() {
            let known = matches!(bits, 16 | 8 | 4 | 3 | 2) || (bits == 0 && index == steps.len());
            ensure!(
                known,
                "bits",
                "expected 16, 8, 4, 3 or 2 (or 0 on the last rung), got {bits} on rung {index}"
            );
            ensure!(bits < above, "bits", "expected them to fall with age, got {bits} after {above}");
            above = bits;
        }
        let mut dwell = 0usize;
        for &(bits, segments) in steps {
            dwell = dwell.saturating_add(segments);
            ensure!(
                segments >= 1 && dwell < MAX_LEN,
                "segments",
                "expected at least 1 on a rung and a sum below {MAX_LEN}, got {segments} at {bits} bits"
            );
        }
        let steps = steps.iter().map(|&(bits, segments)| Rung::on(bits, segments));
        Ok(Self { rungs: steps.chain([Rung::tail(last)]).collect() })
    }

    pub(super) const fn of(rungs: Vec<Rung>) -> Self {
        Self { rungs }
    }

    /// The rungs, youngest first; never empty.
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs
    }

    /// The rung of a segment that `age` other segments have followed out of the residual.
    pub fn rung_at(&self, age: usize) -> usize {
        let ends = self.ends();
        ends.take_while(|&end| end <= age).count()
    }

    /// The bits of the last rung.
    pub fn last_bits(&self) -> u32 {
        self.rungs.last().map_or(0, |rung| rung.bits)
    }

    /// The age at which each rung but the last ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = usize> + '_ {
        self.rungs.iter().filter_map(|rung| rung.segments).scan(0, |end, segments| {
            *end += segments;
            Some(*end)
        })
    }

    /// Whether every step gives the very codes that quantizing the original would: then a token
    /// never loses more than its present rung says.
    pub fn is_nested(&self) -> bool {
        self.rungs.windows(2).all(|pair| nests(pair[0].bits, pair[1].bits))
    }

    /// For each rung, the bound on `|x − x̂|` (in exact arithmetic, on x rounded to f16) as a
    /// fraction of the group's range: 0 at 16 bits, ∞ at 0 bits, and else `1/(2N) + 2⁻²²` with `N =
    /// 2^bits − 1`. From the first step that does not nest on, the `1/(2N)` of the rungs passed add
    /// up.
    pub fn error_bounds(&self) -> Vec<f64> {
        let (mut steps, mut direct, mut before) = (0.0, true, 16);
        let bound = |&Rung { bits, .. }: &Rung| {
            if matches!(bits, 16 | 0) {
                return if bits == 16 { 0.0 } else { f64::INFINITY };
            }
            let half = 0.5 / f64::from(levels(bits));
            direct &= nests(before, bits);
            before = bits;
            steps = if direct { half } else { steps + half };
            steps + SCALING_ERROR
        };
        self.rungs.iter().map(bound).collect()
    }
}

/// What scaling to 22 bits may add, as a fraction of the range.
pub(super) const SCALING_ERROR: f64 = 1.0 / (1 << 22) as f64;

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Rung { bits, segments } in &self.rungs {
            match segments {
                Some(segments) => write!(f, "{bits}×{segments} → ")?,
                None => write!(f, "{bits}")?,
            }
        }
        Ok(())
    }
}

/// A bound on the error of an attention output, from bounds on what it is computed of.
///
/// If every score is off by at most `score_error` = ε (natural units, before the softmax), then
/// `‖p̂ − p‖₁ ≤ e^{2ε} − 1`, and with values up to `max_value` in magnitude, off by at most
/// `value_error`, `‖ô − o‖_∞ ≤ (e^{2ε} − 1)·max_value + value_error`. Keys off by at most e give `ε
/// ≤ ‖q‖₁·e·scale`.
pub fn output_error_bound(score_error: f64, max_value: f64, value_error: f64) -> f64 {
    (2.0 * score_error).exp_m1() * max_value + value_error
}
