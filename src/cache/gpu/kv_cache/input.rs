//! Tensors to append from.

use std::ops::Range;
use std::sync::Arc;

use super::KvCache;
use crate::cache::gpu::programs::CacheMove;
use crate::cache::ladder::Side;
use crate::error::{Error, Result, ensure};
use crate::runtime::binding::{Axis, check_tensor, fits, split};
use crate::runtime::program::Pipeline;
use crate::runtime::tensor::{Binding as TensorBinding, TensorView};

/// Keys and values on the GPU that a [`KvCache`] has checked and bound, to append from. Reusable for any number of calls; it keeps the buffers alive.
///
/// Tensors past the device's binding size are bound in parts, by batch entries and heads.
#[derive(Debug)]
pub struct KvInput {
    pub(super) owner: Arc<()>,
    pub(super) parts: Vec<InputPart>,
    pub(super) batch: usize,
    /// Of k and of v.
    pub(super) rows: [usize; 2],
    pub(super) append: Arc<Pipeline>,
    pub(super) quantize: Arc<Pipeline>,
}

#[derive(Debug)]
pub(super) struct InputPart {
    pub(super) batches: Range<usize>,
    pub(super) kv_heads: Range<usize>,
    pub(super) bind_group: wgpu::BindGroup,
    /// k and v.
    pub(super) axes: [Axis; 2],
}

/// Rows of a [`KvInput`] that are appended to a sequence.
///
/// ```
/// use prflash::Chunk;
/// let prompt = Chunk::new(0, 0, 500); // rows 0 … 499 of batch entry 0, to sequence 0
/// let token = Chunk::new(3, 1, 1).starting_at(20); // row 20 of batch entry 1, to sequence 3
/// # let _ = (prompt, token);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub(super) sequence: usize,
    pub(super) batch: usize,
    pub(super) tokens: usize,
    pub(super) row: usize,
}

impl Chunk {
    /// The first `tokens` rows of batch entry `batch`, to `sequence`.
    pub const fn new(sequence: usize, batch: usize, tokens: usize) -> Self {
        Self { sequence, batch, tokens, row: 0 }
    }

    /// As many rows from row `row` on.
    pub const fn starting_at(self, row: usize) -> Self {
        Self { row, ..self }
    }
}

impl KvCache {
    /// Checks keys `[batch, kv_heads, capacity, head_dim]` and values `[batch, kv_heads, capacity, value_dim]`, of any layout, and binds them. Compiles the kernels for
    /// their type, if it is the first time.
    ///
    /// # Errors
    /// Invalid argument (`k`, `v`): other heads or channels, or values of another type than keys. Too large, where not even one head of one batch entry
    /// fits the device's binding size; device lost.
    pub fn input(&self, k: &TensorView, v: &TensorView) -> Result<KvInput> {
        let (context, heads) = (&self.context, self.kv_heads());
        check_tensor(context, "k", k, k.dtype(), heads, self.dim(Side::Keys))?;
        check_tensor(context, "v", v, k.dtype(), heads, self.dim(Side::Values))?;
        let rows = [k, v].map(|view| view.layout().dims()[2]);
        let batches = [k, v].map(|view| view.layout().dims()[0]);
        ensure!(
            batches[0] == batches[1],
            "v",
            "expected {} batch entries, as k has, got {}",
            batches[0],
            batches[1]
        );
        let append = context.pipeline(&CacheMove::Append(k.dtype()))?;
        let quantize = context.pipeline(&CacheMove::Quantize(k.dtype()))?;
        let part = |(batches, kv_heads): (Range<usize>, Range<usize>)| -> Result<InputPart> {
            let bound = |argument, view: &TensorView| {
                let view = view.part(batches.clone(), kv_heads.clone());
                // Neither is empty, so nothing stands in for them.
                let binding = TensorBinding::new(argument, &view, 4, context, &self.unsound)?;
                let axis = Axis::new(&view, binding.base, 4);
                Ok::<_, Error>((binding, axis))
            };
            let ((k, k_axis), (v, v_axis)) = (bound("k", k)?, bound("v", v)?);
            let resources = [k.resource(), v.resource()];
            let bind_group = append.bind(context, "prflash appended", CacheMove::INPUT_GROUP, &resources)?;
            Ok(InputPart { batches, kv_heads, bind_group, axes: [k_axis, v_axis] })
        };
        let all_fit = |batches, heads| [k, v].into_iter().all(|view| fits(context, view, batches, heads));
        let parts = match batches[0] * rows[0].min(rows[1]) {
            0 => Vec::new(),
            _ => split(batches[0], heads, all_fit),
        };
        let parts = parts.into_iter().map(part).collect::<Result<_>>()?;
        context.check_alive()?;
        Ok(KvInput { owner: self.owner.clone(), parts, batch: batches[0], rows, append, quantize })
    }
}
