//! What scores depend on by position: rotations and numbers by distance, as tables in f32.

use crate::attention::inputs::attention::Attention;
use crate::error::Result;
use crate::position::{Pairing, Positions, Rope, RopeTable, check_reached};
use crate::shape::Shape;

/// Positions of a high row of the rotations' table.
const STRIDE: usize = 1024;

/// Lags that are tabulated at most: farther ones are computed when they are asked for.
const LAGS: usize = 1 << 18;

/// The tables of one plan.
#[derive(Debug)]
pub(super) struct PositionTables {
    positions: Positions,
    rotations: Option<Rotations>,
    /// `a(Δ)` by lag; empty where `a ≡ 1`.
    factors: Vec<f32>,
    /// `c(Δ)·φ(Δ)` by lag; empty without a bias.
    biases: Vec<f32>,
    /// `λ·m_h` of every query head.
    slopes: Vec<f32>,
    /// Positions are below this.
    extent: usize,
}

/// Rotations of rows.
#[derive(Debug)]
pub(super) struct Rotations {
    rope: Rope,
    table: RopeTable,
}

impl PositionTables {
    /// Those of calls up to these sizes; none without positions.
    pub(super) fn of(attention: &Attention, maxima: &Shape) -> Result<Option<Self>> {
        let Some(positions) = attention.positions() else { return Ok(None) };
        // Where there are no keys, the first query is at −q_len.
        let extent = maxima.q_len().max(maxima.kv_len()) + 1;
        Self::new(positions, maxima.heads(), maxima.head_dim(), extent).map(Some)
    }

    /// For positions below `extent`.
    fn new(positions: &Positions, heads: usize, head_dim: usize, extent: usize) -> Result<Self> {
        positions.check(head_dim, heads)?;
        let extent = extent.max(positions.max_positions()).max(1);
        let lags = extent.min(LAGS) as u64;
        let by_lag = |number: &dyn Fn(u64) -> f64| (0..lags).map(|lag| number(lag) as f32).collect();
        let rotations = match positions.rope() {
            None => None,
            Some(rope) => Some(Rotations { rope: rope.clone(), table: rope.table(extent, STRIDE)? }),
        };
        Ok(Self {
            rotations,
            factors: match positions.factor_length() {
                None => Vec::new(),
                Some(_) => by_lag(&|lag| positions.factor(lag)),
            },
            biases: match positions.bias() {
                None => Vec::new(),
                Some(_) => by_lag(&|lag| positions.bias_at(lag)),
            },
            slopes: positions.slopes(heads)?.into_iter().map(|slope| slope as f32).collect(),
            positions: positions.clone(),
            extent,
        })
    }

    pub(super) fn rotations(&self) -> Option<&Rotations> {
        self.rotations.as_ref()
    }

    /// Whether scores depend on distance by more than the rotation.
    pub(super) fn has_lags(&self) -> bool {
        self.has_factors() || self.has_biases()
    }

    pub(super) fn has_factors(&self) -> bool {
        !self.factors.is_empty()
    }

    pub(super) fn has_biases(&self) -> bool {
        !self.biases.is_empty()
    }

    pub(super) fn slope(&self, head: usize) -> f32 {
        self.slopes.get(head).copied().unwrap_or(0.0)
    }

    /// `a(Δ)`, also past the table.
    pub(super) fn factor(&self, lag: u64) -> f32 {
        let known = usize::try_from(lag).ok().and_then(|lag| self.factors.get(lag));
        known.copied().unwrap_or_else(|| self.positions.factor(lag) as f32)
    }

    /// `c(Δ)·φ(Δ)`, also past the table.
    pub(super) fn bias(&self, lag: u64) -> f32 {
        let known = usize::try_from(lag).ok().and_then(|lag| self.biases.get(lag));
        known.copied().unwrap_or_else(|| self.positions.bias_at(lag) as f32)
    }

    /// Refuses positions that the tables don't reach.
    pub(super) fn check(&self, argument: &'static str, position: i64) -> Result<()> {
        check_reached(argument, position, self.extent)
    }
}

impl Rotations {
    /// Turns a row to its position.
    pub(super) fn turn(&self, row: &mut [f32], position: i64) {
        let magnitude = position.unsigned_abs() as usize;
        let pairs = self.table.pairs();
        let level = |table: &'_ [[f32; 2]], index: usize| -> usize { (index * pairs).min(table.len()) };
        let low = &self.table.low()[level(self.table.low(), magnitude % STRIDE)..];
        let high = &self.table.high()[level(self.table.high(), magnitude / STRIDE)..];
        let sign = if position < 0 { -1.0 } else { 1.0 };
        let turns = low[..pairs].iter().zip(&high[..pairs]);
        let turns = turns.map(|(&[cos_low, sin_low], &[cos_high, sin_high])| {
            let sin = sin_high * cos_low + cos_high * sin_low;
            (cos_high * cos_low - sin_high * sin_low, sign * sin)
        });
        match self.rope.pairing() {
            Pairing::Interleaved => {
                for (pair, (cos, sin)) in row.chunks_exact_mut(2).zip(turns) {
                    (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
                }
            }
            Pairing::Half => {
                let (first, second) = row[..2 * pairs].split_at_mut(pairs);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}
