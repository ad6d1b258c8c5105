//! What a plan is asked for.

use super::inputs::attention::Attention;
use super::plan_options::PlanOptions;
use crate::attention::kernels::rule::Task;
use crate::attention::kernels::variant::PositionsVariant;
use crate::cache::KvCache;
use crate::error::{Result, ensure};
use crate::runtime::context::Context;
use crate::shape::Shape;

/// What is to be made ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) context: &'a Context,
    pub(super) attention: &'a Attention,
    pub(super) options: &'a PlanOptions,
    pub(super) maxima: Shape,
    /// The most sequences of a call.
    pub(super) sequences: usize,
    /// The number of heads that have slopes.
    pub(super) slope_heads: usize,
    /// Keys and values are tensors, or in caches of this one's kind.
    pub(super) cache: Option<&'a KvCache>,
}

impl<'a> Wanted<'a> {
    /// For whole batches of tensors.
    pub(super) fn new(
        context: &'a Context,
        attention: &'a Attention,
        options: &'a PlanOptions,
        maxima: &Shape,
    ) -> Self {
        let sequences = options.sequences().unwrap_or(maxima.batch());
        let slope_heads = maxima.heads();
        Self { context, attention, options, maxima: *maxima, sequences, slope_heads, cache: None }
    }

    /// For caches of this one's kind.
    pub(super) fn over(
        cache: &'a KvCache,
        attention: &'a Attention,
        options: &'a PlanOptions,
        maxima: &Shape,
    ) -> Result<Self> {
        let want = cache.shape();
        let sizes = |shape: &Shape| [shape.kv_heads(), shape.head_dim(), shape.value_dim()];
        ensure!(
            sizes(maxima) == sizes(want),
            "maxima",
            "expected (kv_heads, head_dim, value_dim) = {:?} as in the cache, got {:?}",
            sizes(want),
            sizes(maxima)
        );
        ensure!(!options.pages(), "pages", "expected none: a cache has memory of its own");
        let maxima = maxima.with_kv_len(want.kv_len())?;
        Ok(Self { cache: Some(cache), ..Self::new(cache.context(), attention, options, &maxima) })
    }

    /// What a kernel is chosen for.
    pub(super) fn task(&self) -> Task {
        let Self { attention, options, maxima, cache, .. } = self;
        Task {
            head_dim: maxima.head_dim(),
            value_dim: maxima.value_dim(),
            positions: attention.positions().map_or(PositionsVariant::default(), PositionsVariant::of),
            masked: attention.masks(),
            paged: options.pages(),
            q_len: maxima.q_len(),
            heads_per_kv: maxima.heads_per_kv_head(),
            storage: attention.storage(),
            cache: cache.map(KvCache::variant),
            f16_products: options.allows_f16_products(),
        }
    }
}
