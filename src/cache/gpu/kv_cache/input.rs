//! Tensors to append from.

use std::ops::Range;
use std::sync::Arc;

use super::KvCache;
use crate::cache::codec::Codec;
use crate::cache::gpu::programs::CacheMove;
use crate::cache::ladder::Side;
use crate::cache::sequence_table::SequenceId;
use crate::error::{Error, Result, ensure};
use crate::layout::DType;
use crate::runtime::binding::{Axis, check_tensor, fits, split};
use crate::runtime::program::Pipeline;
use crate::runtime::tensor::{Binding as TensorBinding, TensorView};

/// Keys and values on the GPU that a [`KvCache`] has checked and bound, to append from. Reusable
/// for any number of calls; it keeps the buffers alive.
///
/// Tensors past the device's binding size are bound in shards, by batch entries and heads.
#[derive(Debug)]
pub struct KvInput {
    pub(super) owner: Arc<()>,
    pub(super) shards: Vec<InputShard>,
    pub(super) batch: usize,
    /// The rows of k and of v.
    pub(super) rows: [usize; 2],
    pub(super) append: Arc<Pipeline>,
    pub(super) quantize: Arc<Pipeline>,
    /// Used by staircases with summaries alone; of others the same as `quantize`.
    pub(super) summarize: Arc<Pipeline>,
}

#[derive(Debug)]
pub(super) struct InputShard {
    pub(super) entries: Range<usize>,
    pub(super) kv_heads: Range<usize>,
    pub(super) bind_group: wgpu::BindGroup,
    /// k and v.
    pub(super) axes: [Axis; 2],
}

/// Rows of a [`KvInput`] that are appended to a sequence.
///
/// ```
/// use prflash::cache::Chunk;
/// use prflash::cache::SequenceId;
/// # let (conversation, other) = (SequenceId::new(0), SequenceId::new(3)); // KvCache::add gives them
/// let prompt = Chunk { sequence: conversation, entry: 0, rows: 0..500 };
/// let token = Chunk { sequence: other, entry: 1, rows: 20..21 };
/// # let _ = (prompt, token);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// The sequence that the rows are appended to.
    pub sequence: SequenceId,
    /// The batch entry of the rows.
    pub entry: usize,
    /// One row for each token.
    pub rows: Range<usize>,
}

impl KvCache {
    /// Those that append rows of a type, quantize them and summarize keys of them.
    pub(super) fn input_pipelines(&self, dtype: DType) -> Result<[Arc<Pipeline>; 3]> {
        let context = &self.context;
        let append = context.pipeline(&CacheMove::Append(dtype))?;
        let quantize = context.pipeline(&match self.staircase().codec() {
            Codec::MinMax => CacheMove::Quantize(dtype),
            Codec::Rotated { .. } => CacheMove::Encode(dtype),
        })?;
        let summarize = match self.staircase().summaries() {
            Some(_) => context.pipeline(&CacheMove::Summarize(dtype))?,
            None => quantize.clone(),
        };
        Ok([append, quantize, summarize])
    }

    /// Checks keys `[batch, kv_heads, capacity, head_dim]` and values `[batch, kv_heads, capacity,
    /// value_dim]`, of any layout, and binds them. Compiles the kernels for their type, if it is
    /// the first time.
    ///
    /// # Errors
    /// Invalid argument (`k`, `v`): other heads or channels, or values of another type than keys.
    /// Too large, where not even one head of one batch entry fits the device's binding size; device
    /// lost.
    pub fn input(&self, k: &TensorView, v: &TensorView) -> Result<KvInput> {
        let (context, heads) = (&self.context, self.kv_heads());
        check_tensor(context, "k", k, k.dtype(), heads, self.dim(Side::Keys))?;
        check_tensor(context, "v", v, k.dtype(), heads, self.dim(Side::Values))?;
        let rows = [k, v].map(|view| view.layout().dims()[2]);
        let entries = [k, v].map(|view| view.layout().dims()[0]);
        ensure!(
            entries[0] == entries[1],
            "v",
            "expected {} batch entries, as k has, got {}",
            entries[0],
            entries[1]
        );
        let [append, quantize, summarize] = self.input_pipelines(k.dtype())?;
        let shard = |(entries, kv_heads): (Range<usize>, Range<usize>)| -> Result<InputShard> {
            let bound = |argument, view: &TensorView| {
                let view = view.shard(entries.clone(), kv_heads.clone());
                // Neither is empty, so nothing stands in for them.
                let binding = TensorBinding::new(argument, &view, 4, context, &self.unsound)?;
                let axis = Axis::new(&view, binding.base, 4);
                Ok::<_, Error>((binding, axis))
            };
            let ((k, k_axis), (v, v_axis)) = (bound("k", k)?, bound("v", v)?);
            let resources = [k.resource(), v.resource()];
            let bind_group = append.bind(context, "prflash appended", CacheMove::INPUT_GROUP, &resources)?;
            Ok(InputShard { entries, kv_heads, bind_group, axes: [k_axis, v_axis] })
        };
        let all_fit = |entries, heads| [k, v].into_iter().all(|view| fits(context, view, entries, heads));
        let shards = match entries[0] * rows[0].min(rows[1]) {
            0 => Vec::new(),
            _ => split(entries[0], heads, all_fit),
        };
        let shards = shards.into_iter().map(shard).collect::<Result<_>>()?;
        context.check_alive()?;
        Ok(KvInput {
            owner: self.owner.clone(),
            shards,
            batch: entries[0],
            rows,
            append,
            quantize,
            summarize,
        })
    }
}
