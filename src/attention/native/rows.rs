//! Products of a few rows with a tile of keys: lanes are channels, or keys where these lie in
//! columns.
//!
//! Every key and value is read once for all rows, in the order in which it lies: with few rows,
//! time is that of reading them.
#![allow(clippy::needless_range_loop)] // sums are registers, by number

use pulp::{Simd, WithSimd};

use super::products::Rows;
use super::sizes::KEYS;

/// Keys of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyTile<'a> {
    /// As rows of whole vectors.
    Rows(Rows<'a>),
    /// `[head_dim][KEYS]`.
    Columns(&'a [f32]),
}

/// `scores[r][j] = Σ_c queries[r][c]·keys[j][c]`.
pub(super) struct RowScores<'a> {
    /// `[rows][stride]`, with zeros behind the channels.
    pub(super) queries: &'a [f32],
    pub(super) rows: usize,
    pub(super) stride: usize,
    pub(super) dim: usize,
    pub(super) keys: KeyTile<'a>,
    pub(super) count: usize,
    /// `[rows][KEYS]`.
    pub(super) scores: &'a mut [f32],
}

impl WithSimd for RowScores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut row = 0;
        while row + 4 <= self.rows {
            self.block::<S, 4>(simd, row);
            row += 4;
        }
        while row < self.rows {
            self.block::<S, 1>(simd, row);
            row += 1;
        }
    }
}

impl RowScores<'_> {
    #[inline(always)]
    fn block<S: Simd, const R: usize>(&mut self, simd: S, first: usize) {
        match self.keys {
            KeyTile::Rows(keys) => {
                let mut key = 0;
                while key + 2 <= self.count {
                    self.dots::<S, R, 2>(simd, first, keys, key);
                    key += 2;
                }
                if key < self.count {
                    self.dots::<S, R, 1>(simd, first, keys, key);
                }
            }
            KeyTile::Columns(columns) => {
                let all = self.count.div_ceil(S::F32_LANES);
                let mut at = 0;
                while S::REGISTER_COUNT >= 32 && at + 4 <= all {
                    self.columns::<S, R, 4>(simd, first, columns, at);
                    at += 4;
                }
                while at + 2 <= all {
                    self.columns::<S, R, 2>(simd, first, columns, at);
                    at += 2;
                }
                if at < all {
                    self.columns::<S, R, 1>(simd, first, columns, at);
                }
            }
        }
    }

    #[inline(always)]
    fn dots<S: Simd, const R: usize, const J: usize>(
        &mut self,
        simd: S,
        first: usize,
        keys: Rows<'_>,
        key: usize,
    ) {
        let mut rows: [&[S::f32s]; R] = [&[]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = S::as_simd_f32s(&self.queries[(first + r) * self.stride..][..self.stride]).0;
        }
        let vectors = self.stride / S::F32_LANES;
        let mut tile: [&[S::f32s]; J] = [&[]; J];
        for (j, row) in tile.iter_mut().enumerate() {
            *row = S::as_simd_f32s(keys.row(key + j, self.stride)).0;
        }
        let mut sums = [[simd.splat_f32s(0.0); J]; R];
        for at in 0..vectors {
            for j in 0..J {
                let number = tile[j][at];
                for r in 0..R {
                    sums[r][j] = simd.mul_add_e_f32s(rows[r][at], number, sums[r][j]);
                }
            }
        }
        for r in 0..R {
            for j in 0..J {
                self.scores[(first + r) * KEYS + key + j] = simd.reduce_sum_f32s(sums[r][j]);
            }
        }
    }

    #[inline(always)]
    fn columns<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        first: usize,
        columns: &[f32],
        at: usize,
    ) {
        let (columns, _) = S::as_simd_f32s(columns);
        let stride = KEYS / S::F32_LANES;
        let mut rows: [&[f32]; R] = [&[]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &self.queries[(first + r) * self.stride..][..self.dim];
        }
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (channel, column) in columns.chunks_exact(stride).take(self.dim).enumerate() {
            let column = &column[at..at + V];
            for r in 0..R {
                let number = simd.splat_f32s(rows[r][channel]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(number, column[v], sums[r][v]);
                }
            }
        }
        let (scores, _) = S::as_mut_simd_f32s(&mut *self.scores);
        for r in 0..R {
            scores[(first + r) * stride + at..][..V].copy_from_slice(&sums[r]);
        }
    }
}

/// `outputs[r][c] = outputs[r][c]·factors[r] + Σⱼ weights[r][j]·values[j][c]`.
pub(super) struct RowOutputs<'a> {
    /// `[rows][KEYS]`.
    pub(super) weights: &'a [f32],
    pub(super) rows: usize,
    /// Rows of whole vectors.
    pub(super) values: Rows<'a>,
    pub(super) count: usize,
    /// `[rows]`.
    pub(super) factors: &'a [f32],
    /// `[rows][stride]`.
    pub(super) outputs: &'a mut [f32],
    pub(super) stride: usize,
}

impl WithSimd for RowOutputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut row = 0;
        while row + 4 <= self.rows {
            self.block::<S, 4>(simd, row);
            row += 4;
        }
        while row < self.rows {
            self.block::<S, 1>(simd, row);
            row += 1;
        }
    }
}

impl RowOutputs<'_> {
    #[inline(always)]
    fn block<S: Simd, const R: usize>(&mut self, simd: S, first: usize) {
        let all = self.stride / S::F32_LANES;
        let mut at = 0;
        while S::REGISTER_COUNT >= 32 && at + 4 <= all {
            self.columns::<S, R, 4>(simd, first, at);
            at += 4;
        }
        while at + 2 <= all {
            self.columns::<S, R, 2>(simd, first, at);
            at += 2;
        }
        if at < all {
            self.columns::<S, R, 1>(simd, first, at);
        }
    }

    #[inline(always)]
    fn columns<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, first: usize, at: usize) {
        let vectors = self.stride / S::F32_LANES;
        let (outputs, _) = S::as_mut_simd_f32s(&mut *self.outputs);
        let mut weights: [&[f32]; R] = [&[]; R];
        for (r, row) in weights.iter_mut().enumerate() {
            *row = &self.weights[(first + r) * KEYS..][..self.count];
        }
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for r in 0..R {
            let factor = simd.splat_f32s(self.factors[first + r]);
            let before = &outputs[(first + r) * vectors + at..][..V];
            for v in 0..V {
                sums[r][v] = simd.mul_f32s(before[v], factor);
            }
        }
        for j in 0..self.count {
            let row = S::as_simd_f32s(self.values.row(j, self.stride)).0;
            let row = &row[at..at + V];
            for r in 0..R {
                let weight = simd.splat_f32s(weights[r][j]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(weight, row[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            outputs[(first + r) * vectors + at..][..V].copy_from_slice(&sums[r]);
        }
    }
}
