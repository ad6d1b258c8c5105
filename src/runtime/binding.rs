//! Tensors checked and bound, whole or in shards.

use std::ops::Range;

use super::context::Context;
use super::tensor::TensorView;
use crate::error::{Error, Result, ensure};
use crate::layout::DType;

/// Where the batch entries, heads and rows of a bound tensor lie, in the kernel's units.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Axis {
    base: u32,
    pub(crate) batch_stride: u32,
    pub(crate) head_stride: u32,
    pub(crate) row_stride: u32,
}

impl Axis {
    pub(crate) fn new(view: &TensorView, base: u32, granule: usize) -> Self {
        let [batch_stride, head_stride, row_stride] =
            view.layout().strides().map(|stride| (stride / granule) as u32);
        Self { base, batch_stride, head_stride, row_stride }
    }

    /// The first element, and what it is from one batch entry, head and row to the next.
    pub(crate) fn words(&self) -> [u32; 4] {
        [self.base, self.batch_stride, self.head_stride, self.row_stride]
    }

    /// Whether every row begins at a multiple of `quads`.
    pub(crate) fn is_aligned(&self, quads: usize) -> bool {
        let Self { base, batch_stride, head_stride, row_stride } = *self;
        [base, batch_stride, head_stride, row_stride].into_iter().all(|at| at.is_multiple_of(quads as u32))
    }

    /// The first element of a row. Inside the tensor it fits 32 bits; for an empty sequence it may
    /// be anything, and is never used.
    pub(crate) fn at(&self, entry: usize, row: usize) -> u32 {
        let offset = (entry as u32).wrapping_mul(self.batch_stride);
        self.base.wrapping_add(offset).wrapping_add((row as u32).wrapping_mul(self.row_stride))
    }
}

/// Whether this many batch entries and heads of a tensor can be bound at once, wherever they begin.
pub(crate) fn fits(context: &Context, view: &TensorView, entries: usize, heads: usize) -> bool {
    let limit = context.capabilities().max_binding_bytes;
    let alignment = u64::from(context.device().limits().min_storage_buffer_offset_alignment);
    let (layout, size) = (view.layout(), view.dtype().size() as u64);
    let [batch_stride, head_stride, _] = layout.strides();
    // A binding starts at an aligned offset: before its tensor, where shards don't all begin at
    // one.
    let begins = [layout.offset(), entries * batch_stride, heads * head_stride];
    let aligned = begins.into_iter().all(|elements| (elements as u64 * size).is_multiple_of(alignment));
    let slack = if aligned { 0 } else { alignment };
    let shard = view.shard(0..entries, 0..heads);
    let bytes = (shard.layout().extent() - shard.layout().offset()) as u64 * size;
    bytes.next_multiple_of(4) + slack <= limit
        || (bytes <= limit && shard.layout().dims() == view.layout().dims())
}

/// The fewest shards (of batch entries × heads) of which all fit; one shard if none does, so that
/// binding it says what is too large.
pub(crate) fn split(
    batch: usize,
    heads: usize,
    all_fit: impl Fn(usize, usize) -> bool,
) -> Vec<(Range<usize>, Range<usize>)> {
    if all_fit(batch, heads) {
        return vec![(0..batch, 0..heads)];
    }
    let mut sizes: Vec<(usize, usize)> = (1..=batch).flat_map(|b| (1..=heads).map(move |h| (b, h))).collect();
    sizes.sort_by_key(|&(b, h)| (batch.div_ceil(b) * heads.div_ceil(h), b));
    let chosen = sizes.into_iter().find(|&(b, h)| all_fit(b, h));
    let (b, h) = chosen.unwrap_or((batch.max(1), heads));
    let chunks = |total: usize, size: usize| {
        (0..total).step_by(size).map(move |start| start..(start + size).min(total))
    };
    chunks(batch, b).flat_map(|entries| chunks(heads, h).map(move |heads| (entries.clone(), heads))).collect()
}

/// Refuses a tensor that can't be used on this device, or is of other sizes.
pub(crate) fn check_tensor(
    context: &Context,
    argument: &'static str,
    view: &TensorView,
    dtype: DType,
    heads: usize,
    dim: usize,
) -> Result<()> {
    view.check(argument, context)?;
    let [_, has_heads, _, has_dim] = view.layout().dims();
    let got = (view.dtype(), has_heads, has_dim);
    if got == (dtype, heads, dim) {
        return Ok(());
    }
    let message = format!(
        "expected {dtype} with {heads} heads of dim {dim}, got {} with {has_heads} heads of dim {has_dim}",
        view.dtype()
    );
    Err(Error::argument_error(argument, message))
}

/// One number per row, written: a log-sum-exp or a standard error.
pub(crate) fn check_rows(
    context: &Context,
    argument: &'static str,
    view: &TensorView,
    heads: usize,
    others: &[(&'static str, &TensorView)],
) -> Result<()> {
    check_tensor(context, argument, view, DType::F32, heads, 1)?;
    check_written(argument, view, others)?;
    let contiguous = view.layout().strides()[2] == 1;
    ensure!(contiguous, argument, "expected contiguous rows (Layout::rows), got {:?}", view.layout());
    Ok(())
}

/// A tensor that is written must not overlap itself nor share a buffer with one that is bound
/// beside it.
pub(crate) fn check_written(
    argument: &'static str,
    view: &TensorView,
    others: &[(&'static str, &TensorView)],
) -> Result<()> {
    if !view.layout().is_disjoint() {
        let message = format!("rows overlap each other in {:?}", view.layout());
        return Err(Error::argument_error(argument, message));
    }
    for (name, other) in others {
        if other.buffer() == view.buffer() {
            let message = format!("is written, but shares its buffer with {name}: use a buffer of its own");
            return Err(Error::argument_error(argument, message));
        }
    }
    Ok(())
}
