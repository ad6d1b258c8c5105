//! Rows of queries, keys and values in f32: where they lie, or expanded into scratch.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use super::positions::Rotations;
use super::products::Rows;
use super::views::{HostNumbers, HostView};
use crate::layout::DType;

/// One head of one batch entry of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    view: HostView<'a>,
    entry: usize,
    head: usize,
    dim: usize,
}

impl<'a> Head<'a> {
    pub(super) fn new(view: HostView<'a>, entry: usize, head: usize) -> Self {
        let [_, _, _, dim] = view.layout().dims();
        Self { view, entry, head, dim }
    }

    /// Rows as f32: where they lie if they are f32 already, else expanded into `scratch`.
    pub(super) fn rows(&self, rows: Range<usize>, scratch: &'a mut [f32]) -> Rows<'a> {
        let HostNumbers::F32(numbers) = self.view.numbers() else {
            return self.copied(rows, scratch);
        };
        let at = self.view.layout().index(self.entry, self.head, rows.start, 0);
        let [_, _, stride] = self.view.layout().strides();
        Rows { numbers: &numbers[at..], stride }
    }

    /// Rows as f32 in `scratch`.
    fn copied(&self, rows: Range<usize>, scratch: &'a mut [f32]) -> Rows<'a> {
        let dim = self.dim;
        for (row, copy) in rows.zip(scratch.chunks_exact_mut(dim)) {
            self.expand(row, copy);
        }
        Rows { numbers: scratch, stride: dim }
    }

    /// The same, turned to positions: row j to `position(j)`.
    pub(super) fn turned(
        &self,
        rows: Range<usize>,
        rotations: &Rotations,
        position: impl Fn(usize) -> i64,
        scratch: &'a mut [f32],
    ) -> Rows<'a> {
        let dim = self.dim;
        for (row, copy) in rows.zip(scratch.chunks_exact_mut(dim)) {
            self.expand(row, copy);
            rotations.turn(copy, position(row));
        }
        Rows { numbers: scratch, stride: dim }
    }

    /// One row as f32.
    pub(super) fn expand(&self, row: usize, to: &mut [f32]) {
        let at = self.view.layout().index(self.entry, self.head, row, 0);
        match self.view.numbers() {
            HostNumbers::F32(numbers) => to.copy_from_slice(&numbers[at..][..self.dim]),
            HostNumbers::F16(numbers) => numbers[at..][..self.dim].convert_to_f32_slice(to),
            HostNumbers::Bf16(numbers) => numbers[at..][..self.dim].convert_to_f32_slice(to),
        }
    }

    /// Whether rows are read where they lie.
    pub(super) fn is_direct(&self) -> bool {
        self.view.dtype() == DType::F32
    }
}
