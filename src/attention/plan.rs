//! Plans: an attention made ready for a device, and what calls it takes.

use std::sync::Arc;

use super::bound::{Bound, Operands};
use super::call::{Call, Queries};
use super::check::CheckedCall;
use super::inputs::attention::Attention;
use super::inputs::tables::Tables;
use super::plan_options::PlanOptions;
use super::prepared::Prepared;
use super::record::Target;
use super::selection::GpuSelector;
use super::table_buffer::TableBuffer;
use super::wanted::Wanted;
use crate::attention::kernels::shapes::Kernel;
use crate::cache::KvCache;
use crate::error::{Error, Result, ensure};
use crate::layout::{DType, Layout};
use crate::runtime::context::Context;
use crate::runtime::prepare::Compiling;
use crate::runtime::tensor::{Tensor, TensorView};
use crate::runtime::timing::Timings;
use crate::sampling::BlockGrid;
use crate::sampling::content::{Estimate, Participation, Probe};
use crate::shape::Shape;

/// An [`Attention`] made ready for a device: one kernel, maxima for the sizes, and everything that
/// calls need.
///
/// One plan serves many calls, of any lengths up to its maxima, from any thread:
///
/// 1. [`bind`](Plan::bind) checks the tensors once and makes a [`Bound`],
/// 2. [`encode`](Plan::encode) records a [`Call`] on them into your command encoder; it never
///    submits or waits.
///
/// [`run`](Plan::run) does both, and submits.
///
/// A plan whose keys and values are in a [staircase cache](KvCache), from
/// [`Attention::plan_cached`](crate::Attention::plan_cached), takes the same steps:
/// [`bind_queries`](Plan::bind_queries), then calls that say which queries are whose
/// ([`Call::cached`]), or [`run_cached`](Plan::run_cached).
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::{Attention, Context, DType, Layout, Shape, Tables, Tensor};
/// let context = Context::new_blocking()?;
/// let shape = Shape::new(9, 3, 1024, 64)?;
/// let plan = Attention::causal().plan(&context, &shape)?;
/// let upload = |heads, value: f32| {
///     let layout = Layout::heads_first(1, heads, 1024, 64)?;
///     Tensor::upload(&context, DType::F32, layout, &vec![value; layout.elements()])
/// };
/// let (q, k, v) = (upload(9, 0.1)?, upload(3, 0.2)?, upload(3, 0.3)?);
/// let result = plan.run(q.view(), k.view(), v.view(), &Tables::new())?;
/// let values = result.output.read_blocking(&context)?; // [1, 9, 1024, 64]
/// # let _ = values;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) prepared: Arc<Prepared>,
}

/// What [`Plan::run`] computed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// `[batch, heads, q_len, value_dim]`, contiguous.
    pub output: Tensor,
    /// `[batch, heads, q_len]`, f32, natural logarithm; if the attention asks for it.
    pub lse: Option<Tensor>,
}

impl Output {
    /// Zeros for the results of an attention: `[batch, heads, q_len, value_dim]`.
    pub(super) fn zeros(context: &Context, attention: &Attention, dims: [usize; 4]) -> Result<Self> {
        let [batch, heads, q_len, dim] = dims;
        let layout = Layout::heads_first(batch, heads, q_len, dim)?;
        let output = Tensor::zeros(context, attention.output(), layout)?;
        let rows = || Tensor::zeros(context, DType::F32, Layout::rows(batch, heads, q_len)?);
        Ok(Self { output, lse: attention.lse().then(rows).transpose()? })
    }
}

impl Plan {
    pub(super) fn of(prepared: Prepared) -> Self {
        Self { prepared: Arc::new(prepared) }
    }

    /// What was asked for when the plan was made, for another attention over tensors.
    pub(super) fn wanted<'a>(&'a self, attention: &'a Attention) -> Result<Wanted<'a>> {
        let Prepared { context, options, maxima, cache, .. } = &*self.prepared;
        match cache {
            None => Ok(Wanted::new(context, attention, options, maxima)),
            Some(_) => {
                let message = "rounds and re-shaping take tensors, and this plan reads a cache";
                Err(Error::unsupported(message.to_owned()))
            }
        }
    }

    /// What is computed.
    pub fn attention(&self) -> &Attention {
        &self.prepared.attention
    }

    /// How it was asked to be computed.
    pub fn options(&self) -> &PlanOptions {
        &self.prepared.options
    }

    /// The device.
    pub fn context(&self) -> &Context {
        &self.prepared.context
    }

    /// The largest sizes of a call; of caches, `kv_len` is the longest sequence.
    pub fn maxima(&self) -> &Shape {
        &self.prepared.maxima
    }

    /// The kernel that was chosen. Every call runs it.
    pub fn kernel(&self) -> Kernel {
        self.prepared.variant.kernel
    }

    /// Why that one, in words for people: what of the device and of the sizes decided.
    pub fn kernel_reason(&self) -> &str {
        &self.prepared.kernel_reason
    }

    /// Bytes of GPU memory that the plan holds, beside tensors and caches. It grows only when more
    /// calls are in flight than ever before.
    pub fn device_bytes(&self) -> u64 {
        self.prepared.bytes()
    }

    /// Ready once the kernels of the plan are compiled, as `progress` is told of: before the first
    /// pipeline, and after each.
    ///
    /// Natively they were compiled when the plan was made. Browsers compile in a process of
    /// their own meanwhile, for seconds, and without this the first call waits for it in silence.
    ///
    /// ```no_run
    /// # async fn example(context: &prflash::Context) -> prflash::Result<()> {
    /// use prflash::{Attention, Shape};
    /// let plan = Attention::causal().plan(context, &Shape::new(8, 2, 512, 64)?)?;
    /// plan.prepare(|now| println!("{} of {}: {}", now.done, now.total, now.waiting_for)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Validation, where the device refuses a kernel; what [`Context::check`] has to tell.
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        self.context().prepare(self.prepared.pipelines(), progress).await
    }

    /// Makes ready to choose by content, on the GPU, which key blocks calls of this plan visit
    /// ([`Call::with_selection`]). `grid` says the sizes of blocks and which heads share a list,
    /// and is the longest that any sequence of a call may be; all memory is reserved for it.
    ///
    /// # Errors
    /// Invalid argument: `grid` of other heads or causality than the plan; `probe` of more than 64
    /// rows; `positions` with a bias or a harmonic factor, which summaries tell nothing of;
    /// `cache`, where the plan's has no [summaries](crate::cache::Staircase::with_summaries). Too
    /// large (`grid`) where the device can't bind so many scores, or such lists, at once; out of
    /// memory; device lost.
    pub fn selector(
        &self,
        grid: &BlockGrid,
        participation: &Participation,
        estimate: Estimate,
        probe: Probe,
    ) -> Result<GpuSelector> {
        GpuSelector::new(&self.prepared, grid, participation, estimate, probe, false)
    }

    /// Checks tensors against the plan and binds them.
    ///
    /// # Errors
    /// Invalid argument naming the tensor: wrong type, heads or dimensions, no log-sum-exp where
    /// one is written, an output that overlaps itself, or a buffer that would be both read and
    /// written; `k`, where the plan's keys are in a cache. Too large, where not even one key/value
    /// head of one batch entry fits the device's binding size.
    pub fn bind(&self, operands: &Operands<'_>) -> Result<Bound> {
        ensure!(self.prepared.cache.is_none(), "k", "the plan's keys are in a cache: use Plan::bind_queries");
        Bound::new(&self.prepared, operands)
    }

    /// Checks tensors of queries, whose keys and values are in caches, and binds them: queries
    /// `[batch, heads, rows, head_dim]`, results `[batch, heads, rows, value_dim]` and, if the
    /// attention writes it, the natural log-sum-exp `[batch, heads, rows]`.
    ///
    /// # Errors
    /// As [`bind`](Plan::bind); invalid argument (`k`) where the plan's keys are tensors; too large
    /// where they don't fit the device's binding size.
    pub fn bind_queries(
        &self,
        q: &TensorView,
        output: &TensorView,
        lse: Option<&TensorView>,
    ) -> Result<Bound> {
        ensure!(self.prepared.cache.is_some(), "k", "the plan's keys are tensors: use Plan::bind");
        Bound::queries(&self.prepared, q, output, lse)
    }

    /// Records one call into the caller's encoder. It doesn't submit or wait, and creates no GPU
    /// object once as many calls have been in flight before.
    ///
    /// Any number of calls may be recorded for one submit. The result is there when the encoder's
    /// commands have run. Work past [`Context::max_dispatch_flops`] takes several dispatches.
    ///
    /// # Errors
    /// Invalid argument: tensors of another plan, tables of another device or for other sizes,
    /// lengths past the plan's maxima or the tensors' rows, sequences whose outputs overlap; a
    /// `cache` of another kind, unknown sequences of it, more queries than tokens. Out of order, if
    /// commands of the cache were lost by it that no call has told of yet. Then nothing was
    /// recorded.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, bound: &Bound, call: &Call<'_>) -> Result<()> {
        self.record(Target::Encoder(encoder), self.check(bound, call)?)
    }

    /// Records only what estimates how much attention each block has, of a call [with a
    /// selection](Call::with_selection): [`GpuSelector::read_scores`] reads it. Nothing is chosen,
    /// and no attention computed.
    ///
    /// # Errors
    /// As [`encode`](Plan::encode); invalid argument (`selection`), where the call has none.
    pub fn encode_scores(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &Bound,
        call: &Call<'_>,
    ) -> Result<()> {
        let call = self.check(bound, call)?;
        ensure!(call.selection.is_some(), "selection", "expected one: use Call::with_selection");
        self.prepared.record_scores(encoder, call)
    }

    /// Records one call and submits it, without waiting: [`encode`](Plan::encode) for programs
    /// whose encoder needn't hold anything else.
    ///
    /// Work past [`Context::max_dispatch_flops`] is submitted in several pieces, one dispatch each,
    /// with the same result bit for bit. Watchdogs that reset a GPU go by the submission on some
    /// systems and by the dispatch on others; `encode` can only cut the second.
    ///
    /// # Errors
    /// As [`encode`](Plan::encode); device lost.
    pub fn submit(&self, bound: &Bound, call: &Call<'_>) -> Result<()> {
        self.record(Target::Queue, self.check(bound, call)?)
    }

    /// Everything that [`encode`](Plan::encode) refuses.
    pub(super) fn check<'a>(&self, bound: &Bound, call: &Call<'a>) -> Result<CheckedCall<'a>> {
        CheckedCall::new(&self.prepared, bound, call)
    }

    /// What [`check`](Plan::check) let pass.
    pub(super) fn record(&self, target: Target<'_>, call: CheckedCall<'_>) -> Result<()> {
        self.prepared.record(target, call)
    }

    /// Times a call: submits it once to warm up and then `rounds` times, each after the one before
    /// is done.
    ///
    /// # Errors
    /// As [`submit`](Plan::submit); too large past [`MAX_ROUNDS`](crate::limits::MAX_ROUNDS).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn timings(&self, bound: &Bound, call: &Call<'_>, rounds: usize) -> Result<Timings> {
        pollster::block_on(self.timings_async(bound, call, rounds))
    }

    /// [`timings`](Plan::timings) without blocking where nothing can block, which is in browsers.
    /// Native backends wait inside.
    ///
    /// # Errors
    /// As `timings`.
    pub async fn timings_async(&self, bound: &Bound, call: &Call<'_>, rounds: usize) -> Result<Timings> {
        let submit = |timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>| {
            let mut call = call.clone();
            call.timestamps = timestamps;
            self.submit(bound, &call)
        };
        Timings::measure(self.context(), rounds, submit).await
    }

    /// Computes the attention of whole tensors, of any length up to the plan's maxima: allocates
    /// the results, uploads the tables, binds and [submits](Plan::submit). It doesn't wait;
    /// [`Tensor::read`] does.
    ///
    /// # Errors
    /// Invalid argument (`k`, `v`) unless keys and values have as many batch entries as the
    /// queries, and values as many rows as keys; (`k`) of a plan for pages. Those of
    /// [`bind`](Plan::bind), [`TableBuffer::new`] and [`encode`](Plan::encode); out of memory;
    /// device lost.
    pub fn run(&self, q: &TensorView, k: &TensorView, v: &TensorView, tables: &Tables<'_>) -> Result<Output> {
        let (q_len, kv_len) = (q.layout().dims()[2], k.layout().dims()[2]);
        let rows = !self.prepared.variant.paged;
        ensure!(rows, "k", "a pool of pages doesn't say how long sequences are: use Plan::bind");
        check_whole(q, k, v)?;
        let results = self.results(q)?;
        let lse = results.lse.as_ref().map(Tensor::view);
        let bound = self.bind(&Operands { q, k, v, output: results.output.view(), lse })?;
        let tables = TableBuffer::new(self.context(), tables)?;
        self.submit(&bound, &Call::lengths(q_len, kv_len).with_tables(&tables))?;
        Ok(results)
    }

    /// Computes attention from queries `[batch, heads, rows, head_dim]` over a cache: allocates the
    /// results, uploads the tables, binds and [submits](Plan::submit). It doesn't wait;
    /// [`Tensor::read`] does.
    ///
    /// # Errors
    /// Those of [`bind_queries`](Plan::bind_queries), [`TableBuffer::new`] and
    /// [`encode`](Plan::encode); out of memory; device lost.
    pub fn run_cached(
        &self,
        cache: &KvCache,
        q: &TensorView,
        queries: &[Queries],
        tables: &Tables<'_>,
    ) -> Result<Output> {
        let results = self.results(q)?;
        let lse = results.lse.as_ref().map(Tensor::view);
        let bound = self.bind_queries(q, results.output.view(), lse)?;
        let tables = TableBuffer::new(self.context(), tables)?;
        self.submit(&bound, &Call::cached(cache, queries).with_tables(&tables))?;
        Ok(results)
    }

    /// Zeros for the results of these queries.
    fn results(&self, q: &TensorView) -> Result<Output> {
        let [batch, heads, q_len, _] = q.layout().dims();
        let dims = [batch, heads, q_len, self.maxima().value_dim()];
        Output::zeros(self.context(), self.attention(), dims)
    }
}

/// Refuses keys and values that aren't those of all queries: whole tensors, of which nothing says
/// which rows are meant.
pub(super) fn check_whole(q: &TensorView, k: &TensorView, v: &TensorView) -> Result<()> {
    let [batch, _, _, _] = q.layout().dims();
    let [k_batch, _, rows, _] = k.layout().dims();
    let [v_batch, _, v_rows, _] = v.layout().dims();
    ensure!(k_batch == batch, "k", "expected {batch} batch entries, as q has, got {k_batch}");
    ensure!(v_batch == batch, "v", "expected {batch} batch entries, as q has, got {v_batch}");
    ensure!(v_rows == rows, "v", "expected {rows} rows, as k has, got {v_rows}");
    Ok(())
}
