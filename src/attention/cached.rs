//! Attention over a staircase cache.

use std::sync::{Arc, Mutex};

use super::Attention;
use super::bound::Bound;
use super::call::{Call, Sequence};
use super::gpu_sampler::GpuSampler;
use super::plan::{Output, Plan, Target};
use super::tables::{TableBuffer, Tables};
use crate::attention::kernels::shapes::Kernel;
use crate::cache::{KvCache, StoredKeys};
use crate::error::{Result, ensure};
use crate::runtime::context::Context;
use crate::runtime::sync::lock;
use crate::runtime::tensor::{Tensor, TensorView};
#[cfg(not(target_arch = "wasm32"))]
use crate::runtime::timing::Timings;
use crate::sampling::{BlockGrid, Profile, Sampler};
use crate::shape::Shape;

impl Attention {
    /// [`plan`](Attention::plan) for keys and values in a staircase cache, which are read as they lie, packed. The plan serves every cache of the same staircase and sizes.
    ///
    /// `maxima` gives the query heads, the batch and the most queries of a sequence; its `kv_len` doesn't matter. The storage of this attention is that of the queries.
    /// With at most 8 queries a sequence (decode, speculative decode) the keys of a row are split over workgroups and each is read once for all query heads that share it.
    ///
    /// # Errors
    /// Invalid argument (`maxima`) unless its key/value heads and dimensions are the cache's; and those of [`plan`](Attention::plan).
    pub fn plan_cached(&self, cache: &KvCache, maxima: &Shape) -> Result<CachePlan> {
        let want = cache.shape();
        let sizes = |shape: &Shape| [shape.kv_heads(), shape.head_dim(), shape.value_dim()];
        ensure!(
            sizes(maxima) == sizes(want),
            "maxima",
            "expected (kv_heads, head_dim, value_dim) = {:?} as in the cache, got {:?}",
            sizes(want),
            sizes(maxima)
        );
        let maxima = maxima.with_kv_len(want.kv_len())?;
        let variant = cache.variant();
        let (batch, heads) = (maxima.batch(), maxima.heads());
        let plan = self.plan_sequences(cache.context(), &maxima, batch, heads, Some(variant))?;
        Ok(CachePlan { plan, kind: CacheKind::of(cache) })
    }
}

/// What a plan needs to be the same in every cache it reads.
#[derive(Clone, Debug, PartialEq)]
struct CacheKind {
    staircase: crate::cache::Staircase,
    shape: Shape,
    keys: StoredKeys,
}

impl CacheKind {
    fn of(cache: &KvCache) -> Self {
        Self { staircase: cache.staircase().clone(), shape: *cache.shape(), keys: cache.stored_keys() }
    }

    fn is_of(&self, cache: &KvCache) -> bool {
        self.shape == *cache.shape()
            && self.keys == cache.stored_keys()
            && self.staircase == *cache.staircase()
    }
}

/// An [`Attention`] made ready for a device and for [`KvCache`]s of one kind.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::cache::{Staircase, StoredKeys};
/// use prflash::{Attention, Chunk, Context, DType, KvCache, Layout, Queries, Shape, Tables, Tensor};
/// let context = Context::new_blocking()?;
/// // 8 query heads on 2 key/value heads, one query a step, conversations of up to 8,192 tokens.
/// let shape = Shape::new(8, 2, 8192, 64)?.with_q_len(1)?;
/// let mut cache = KvCache::new(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation)?;
/// let plan = Attention::causal().plan_cached(&cache, &shape)?;
/// let row = |heads| Tensor::upload(&context, DType::F32, Layout::heads_first(1, heads, 1, 64)?, &vec![0.1; heads * 64]);
/// let (q, k, v) = (row(8)?, row(2)?, row(2)?);
/// let conversation = cache.add();
/// let input = cache.input(k.view(), v.view())?;
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// cache.append(&mut encoder, &input, &[Chunk::new(conversation, 0, 1)])?;
/// context.queue().submit([encoder.finish()]);
/// let result = plan.run(&cache, q.view(), &[Queries::new(conversation, 0, 1)], &Tables::new())?;
/// # let _ = result;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CachePlan {
    plan: Plan,
    kind: CacheKind,
}

/// Queries of one sequence of a cache: which rows of the bound tensors they are. They are the last tokens of the sequence: append a token before attending from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queries {
    sequence: usize,
    batch: usize,
    start: usize,
    len: usize,
    positions: Option<(i64, i64)>,
}

impl Queries {
    /// The first `len` query rows of batch entry `batch`, for a sequence of the cache.
    pub const fn new(sequence: usize, batch: usize, len: usize) -> Self {
        Self { sequence, batch, start: 0, len, positions: None }
    }

    /// As many rows from row `start` on.
    pub const fn starting_at(self, start: usize) -> Self {
        Self { start, ..self }
    }

    /// Positions of the first query and of token 0, as in [`Sequence::at_positions`].
    pub const fn at_positions(self, query: i64, key: i64) -> Self {
        Self { positions: Some((query, key)), ..self }
    }
}

/// Tensors that a [`CachePlan`] has checked and bound. Reusable for any number of calls; it keeps their buffers alive.
#[derive(Debug)]
pub struct CacheBound {
    plan: Plan,
    q: TensorView,
    output: TensorView,
    lse: Option<TensorView>,
    /// Made again when a cache comes to be bound in other parts.
    bound: Mutex<Arc<Bound>>,
}

impl CachePlan {
    /// What is computed.
    pub fn attention(&self) -> &Attention {
        self.plan.attention()
    }

    /// The device.
    pub fn context(&self) -> &Context {
        self.plan.context()
    }

    /// The largest sizes of a call; `kv_len` is the longest sequence of the cache.
    pub fn maxima(&self) -> &Shape {
        self.plan.maxima()
    }

    /// The kernel that was chosen.
    pub fn kernel(&self) -> Kernel {
        self.plan.kernel()
    }

    /// Why that one, in words for people.
    pub fn kernel_reason(&self) -> &str {
        self.plan.kernel_reason()
    }

    /// Times these queries, as [`Plan::timings`] does.
    ///
    /// # Errors
    /// As [`encode`](CachePlan::encode); device lost; too large past [`MAX_ROUNDS`](crate::limits::MAX_ROUNDS).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn timings(
        &self,
        cache: &KvCache,
        bound: &CacheBound,
        queries: &[Queries],
        tables: Option<&TableBuffer>,
        rounds: usize,
    ) -> Result<Timings> {
        Timings::measure(self.context(), rounds, |timestamps| {
            self.record(Target::Queue, cache, bound, queries, tables, timestamps)
        })
    }

    /// Bytes of GPU memory that the plan holds, beside the cache.
    pub fn device_bytes(&self) -> u64 {
        self.plan.device_bytes()
    }

    /// [`Plan::upload_tables`].
    ///
    /// # Errors
    /// As there.
    pub fn upload_tables(&self, tables: &Tables<'_>) -> Result<TableBuffer> {
        self.plan.upload_tables(tables)
    }

    /// [`Plan::gpu_sampler`].
    ///
    /// # Errors
    /// As there.
    pub fn gpu_sampler(
        &self,
        maxima: &BlockGrid,
        profile: &Profile,
        sampler: &dyn Sampler,
    ) -> Result<GpuSampler> {
        self.plan.gpu_sampler(maxima, profile, sampler)
    }

    /// Checks tensors against the plan and binds them: queries `[batch, heads, rows, head_dim]`, results `[batch, heads, rows, value_dim]` and, if the
    /// attention writes it, the natural log-sum-exp `[batch, heads, rows]`.
    ///
    /// # Errors
    /// As [`Plan::bind`]; too large where they don't fit the device's binding size.
    pub fn bind(&self, q: &TensorView, output: &TensorView, lse: Option<&TensorView>) -> Result<CacheBound> {
        let all = std::iter::once(0..self.maxima().kv_heads());
        let bound = Bound::queries(&self.plan.inner, q, output, lse, all)?;
        Ok(CacheBound {
            plan: self.plan.clone(),
            q: q.clone(),
            output: output.clone(),
            lse: lse.cloned(),
            bound: Mutex::new(Arc::new(bound)),
        })
    }

    /// Records attention from these queries over their sequences, as the cache stands after what was recorded into it so far. It doesn't submit or wait.
    ///
    /// # Errors
    /// Invalid argument: `bound` or `tables` of another plan, a `cache` of another kind, unknown sequences, more queries than tokens; and those of [`Plan::encode`].
    /// Out of order, if commands of the cache were lost by it that no call has told of yet. Nothing was recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        cache: &KvCache,
        bound: &CacheBound,
        queries: &[Queries],
        tables: Option<&TableBuffer>,
    ) -> Result<()> {
        self.encode_timed(encoder, cache, bound, queries, tables, None)
    }

    /// The same with [GPU timestamps](Call::with_timestamps).
    ///
    /// # Errors
    /// As [`encode`](CachePlan::encode).
    pub fn encode_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        cache: &KvCache,
        bound: &CacheBound,
        queries: &[Queries],
        tables: Option<&TableBuffer>,
        timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> Result<()> {
        self.record(Target::Encoder(encoder), cache, bound, queries, tables, timestamps)
    }

    fn record(
        &self,
        target: Target<'_>,
        cache: &KvCache,
        bound: &CacheBound,
        queries: &[Queries],
        tables: Option<&TableBuffer>,
        timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> Result<()> {
        let inner = &self.plan.inner;
        ensure!(Arc::ptr_eq(inner, &bound.plan.inner), "bound", "was made by another plan");
        cache.check_order()?;
        inner.context.check_device("cache", cache.context().device_id())?;
        ensure!(
            self.kind.is_of(cache),
            "cache",
            "expected one of the staircase, the sizes and the rotation that the plan was made for"
        );
        let sequence = |(index, queries): (usize, &Queries)| {
            let &Queries { sequence, batch, start, len, positions } = queries;
            let region = cache.region(sequence)?;
            let kv_len = region.len;
            ensure!(len <= kv_len, "queries", "sequence {index}: {len} queries of {kv_len} tokens");
            let rows = Sequence::new(batch, len, kv_len).starting_at(start, 0);
            Ok(Sequence { region: Some(region), positions, ..rows })
        };
        let sequences = queries.iter().enumerate().map(sequence).collect::<Result<Vec<_>>>()?;
        let mut call = Call::sequences(&sequences);
        call.tables = tables;
        call.timestamps = timestamps;
        let parts = bound.in_parts_of(cache)?;
        let Some((grid, query_blocks)) = inner.check(&parts, &call)? else { return Ok(()) };
        let bound = parts.parts.iter().zip(cache.parts()).map(|(part, arena)| (part, Some(&arena.read)));
        let reading = cache.reading(queries.iter().map(|queries| queries.sequence));
        inner.record(target, bound, &call, sequences.len(), &grid, query_blocks, Some(reading))
    }

    /// Attention from queries `[batch, heads, rows, head_dim]`: allocates the results, uploads the tables, binds and submits, as [`Plan::submit`]
    /// does. It doesn't wait.
    ///
    /// # Errors
    /// Those of [`bind`](CachePlan::bind), [`upload_tables`](CachePlan::upload_tables) and [`encode`](CachePlan::encode); out of memory; device lost.
    pub fn run(
        &self,
        cache: &KvCache,
        q: &TensorView,
        queries: &[Queries],
        tables: &Tables<'_>,
    ) -> Result<Output> {
        let context = self.context();
        let [batch, heads, rows, _] = q.layout().dims();
        let dims = [batch, heads, rows, self.maxima().value_dim()];
        let results = Output::zeros(context, self.attention(), dims)?;
        let bound = self.bind(q, results.output.view(), results.lse.as_ref().map(Tensor::view))?;
        let tables = self.upload_tables(tables)?;
        self.record(Target::Queue, cache, &bound, queries, Some(&tables), None)?;
        Ok(results)
    }
}

impl CacheBound {
    /// The tensors, bound in the parts in which the cache is now.
    fn in_parts_of(&self, cache: &KvCache) -> Result<Arc<Bound>> {
        let mut bound = lock(&self.bound);
        let wanted = || cache.parts().iter().map(|part| part.kv_heads.clone());
        if !bound.parts.iter().map(|part| part.kv_heads.clone()).eq(wanted()) {
            let lse = self.lse.as_ref();
            *bound = Arc::new(Bound::queries(&self.plan.inner, &self.q, &self.output, lse, wanted())?);
        }
        Ok(bound.clone())
    }
}
