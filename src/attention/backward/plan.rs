//! Plans of the backward pass.

use std::sync::Arc;

use super::bound::{BackwardBound, BackwardOperands};
use super::prepared::Prepared;
use super::work::{CheckedCall, Dispatch};
use crate::attention::call::{Call, timestamps_of};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::tables::Tables;
use crate::attention::kernels::backward::Backward;
use crate::attention::kernels::programs::TABLES_GROUP;
use crate::attention::plan::{Output, check_whole};
use crate::attention::plan_options::PlanOptions;
use crate::attention::table_buffer::TableBuffer;
use crate::error::{Error, Result, ensure};
use crate::layout::{DType, Layout};
use crate::runtime::context::Context;
use crate::runtime::prepare::Compiling;
use crate::runtime::sync::lock;
use crate::runtime::tensor::{Tensor, TensorView};
use crate::runtime::timing::Timings;
use crate::shape::Shape;

/// The gradients of an [`Attention`] made ready for a device.
///
/// From what the forward pass read and wrote (with its log-sum-exp) and the gradient of a loss with
/// respect to its output, calls compute those with respect to queries, keys and values, to learned
/// sinks and to the slopes of a bias. Verbs and calls are those of a [`Plan`](crate::Plan):
/// [`bind`](BackwardPlan::bind) once, then [`encode`](BackwardPlan::encode) or
/// [`submit`](BackwardPlan::submit), or [`run`](BackwardPlan::run) for whole tensors. A call has
/// the same sequences, schedules, documents, mask tensors and positions as that of the forward
/// pass.
///
/// A key tile has all queries that add to its gradients, in one order, and nothing is added
/// atomically: equal calls give equal bits. A schedule's `ln p` is a constant, so of a sampled call
/// these are the gradients of what the forward pass computed, over the pairs that it kept. Where a
/// row's log-sum-exp is NaN ([numbers that aren't
/// finite](Attention#rows-without-a-result-and-numbers-that-arent-finite)), so are all gradients
/// that it has a part in; an empty row has gradient 0, and none in those of keys.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::{Attention, Context, DType, Layout, Shape, Tables, Tensor};
/// let context = Context::new_blocking()?;
/// let shape = Shape::new(9, 3, 1024, 64)?;
/// let attention = Attention::causal().with_lse(true).with_sinks(&[0.0; 9])?;
/// let (forward, backward) = (attention.plan(&context, &shape)?, attention.plan_backward(&context, &shape)?);
/// let upload = |heads, value: f32| {
///     let layout = Layout::heads_first(1, heads, 1024, 64)?;
///     Tensor::upload(&context, DType::F32, layout, &vec![value; layout.elements()])
/// };
/// let (q, k, v) = (upload(9, 0.1)?, upload(3, 0.2)?, upload(3, 0.3)?);
/// let result = forward.run(q.view(), k.view(), v.view(), &Tables::new())?;
/// let d_output = upload(9, 1.0)?; // of a loss that is the sum of all outputs
/// let qkv = [q.view(), k.view(), v.view()];
/// let gradients = backward.run(qkv, &result, d_output.view(), None, &Tables::new())?;
/// let dk = gradients.dk.read_blocking(&context)?; // [1, 3, 1024, 64]
/// let d_sinks = gradients.d_sinks.map(|sums| sums.read_blocking(&context)); // one for each head
/// # let _ = (dk, d_sinks);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BackwardPlan {
    prepared: Arc<Prepared>,
}

/// What [`BackwardPlan::run`] computed: contiguous, heads first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Gradients {
    /// Of the queries, `[batch, heads, q_len, head_dim]`.
    pub dq: Tensor,
    /// Of the keys, `[batch, kv_heads, kv_len, head_dim]`.
    pub dk: Tensor,
    /// Of the values, `[batch, kv_heads, kv_len, value_dim]`.
    pub dv: Tensor,
    /// Of the [sinks](Attention::with_sinks), `[1, heads, 1]`, where the attention has them.
    pub d_sinks: Option<Tensor>,
    /// Of the slopes `λ·m_h` of a [bias](crate::Bias), likewise.
    pub d_slopes: Option<Tensor>,
}

impl Attention {
    /// Makes the gradients of this attention ready for a device: compiles their kernels and
    /// reserves what calls up to the sizes of `maxima` need.
    ///
    /// [Learned sinks](Attention::with_sinks) and slopes of a [bias](crate::Bias) have gradients
    /// where a call asks for them. A mask tensor has its part, and no gradient of its own.
    ///
    /// # Errors
    /// Those of [`plan`](Attention::plan); too large (`head_dim`, `value_dim`) past
    /// [`MAX_PACKED_DIM`](crate::limits::MAX_PACKED_DIM).
    pub fn plan_backward(&self, context: &Context, maxima: &Shape) -> Result<BackwardPlan> {
        self.plan_backward_with(context, maxima, &PlanOptions::new())
    }

    /// [`plan_backward`](Attention::plan_backward) for as many sequences as the options say.
    ///
    /// # Errors
    /// Those of [`plan_backward`](Attention::plan_backward); invalid argument (`options`) where
    /// they name a kernel, splits, products or pages of the forward pass.
    pub fn plan_backward_with(
        &self,
        context: &Context,
        maxima: &Shape,
        options: &PlanOptions,
    ) -> Result<BackwardPlan> {
        Ok(BackwardPlan { prepared: Arc::new(Prepared::new(self, context, maxima, options)?) })
    }
}

impl BackwardPlan {
    /// What it computes the gradients of.
    pub fn attention(&self) -> &Attention {
        &self.prepared.attention
    }

    /// The device.
    pub fn context(&self) -> &Context {
        &self.prepared.context
    }

    /// The largest sizes of a call.
    pub fn maxima(&self) -> &Shape {
        &self.prepared.maxima
    }

    /// Bytes of GPU memory that the plan holds, beside tensors and what is bound. It grows only
    /// when more calls are in flight than ever before.
    pub fn device_bytes(&self) -> u64 {
        self.prepared.bytes()
    }

    /// Checks tensors against the plan and binds them. Reserves memory for a row of `head_dim +
    /// value_dim + 4` numbers in f32 for each query of the largest shard.
    ///
    /// # Errors
    /// Invalid argument naming the tensor: wrong type, heads or dimensions, a gradient that
    /// overlaps itself, or shares its buffer with another tensor. Too large, where not even one
    /// key/value head of one batch entry fits the device's binding size; out of memory; device
    /// lost.
    pub fn bind(&self, operands: &BackwardOperands<'_>) -> Result<BackwardBound> {
        BackwardBound::new(&self.prepared, operands)
    }

    /// Records one call into the caller's encoder. It doesn't submit or wait, and creates no GPU
    /// object once as many calls have been in flight before.
    ///
    /// Work past [`Context::max_dispatch_flops`] takes several dispatches.
    ///
    /// # Errors
    /// As [`Plan::encode`](crate::Plan::encode); invalid argument: a `cache` or a `selection`;
    /// `sequences` that share keys; `tables` with schedules that weren't made by
    /// [`TableBuffer::for_backward`]. Then nothing was recorded.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &BackwardBound,
        call: &Call<'_>,
    ) -> Result<()> {
        let (checked, dispatches) = self.prepare_call(bound, call)?;
        if dispatches.is_empty() {
            return Ok(());
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("prflash backward"),
            timestamp_writes: call.timestamps.clone(),
        });
        for dispatch in dispatches {
            self.dispatch(&mut pass, dispatch, &checked);
        }
        Ok(())
    }

    /// Records one call and submits it, without waiting. Work past [`Context::max_dispatch_flops`]
    /// is submitted in several pieces, with the same result bit for bit.
    ///
    /// # Errors
    /// As [`encode`](BackwardPlan::encode); device lost.
    pub fn submit(&self, bound: &BackwardBound, call: &Call<'_>) -> Result<()> {
        let (checked, dispatches) = self.prepare_call(bound, call)?;
        // Pieces of other calls on the same memory come before or behind.
        let _submitting = lock(&bound.submitting);
        let context = &self.prepared.context;
        let count = dispatches.len();
        for (index, dispatch) in dispatches.into_iter().enumerate() {
            let mut encoder = context.device().create_command_encoder(&Default::default());
            let timestamps = timestamps_of(&call.timestamps, index == 0, index + 1 == count);
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("prflash backward"),
                timestamp_writes: timestamps,
            });
            self.dispatch(&mut pass, dispatch, &checked);
            drop(pass);
            context.submit([encoder.finish()])?;
        }
        Ok(())
    }

    /// Ready once the kernels of the plan are compiled, as `progress` is told of: before the first
    /// pipeline, and after each.
    ///
    /// Natively they were compiled when the plan was made. Browsers compile in a process of
    /// their own meanwhile, for seconds, and without this the first call waits for it in silence.
    ///
    /// # Errors
    /// Validation, where the device refuses a kernel; what [`Context::check`] has to tell.
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        self.context().prepare(&self.prepared.pipelines, progress).await
    }

    /// Times a call as [`Plan::timings`](crate::Plan::timings) does.
    ///
    /// # Errors
    /// As [`submit`](BackwardPlan::submit); too large past
    /// [`MAX_ROUNDS`](crate::limits::MAX_ROUNDS).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn timings(&self, bound: &BackwardBound, call: &Call<'_>, rounds: usize) -> Result<Timings> {
        pollster::block_on(self.timings_async(bound, call, rounds))
    }

    /// [`timings`](BackwardPlan::timings) without blocking where nothing can block, which is in
    /// browsers. Native backends wait inside.
    ///
    /// # Errors
    /// As `timings`.
    pub async fn timings_async(
        &self,
        bound: &BackwardBound,
        call: &Call<'_>,
        rounds: usize,
    ) -> Result<Timings> {
        let submit = |timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>| {
            let mut call = call.clone();
            call.timestamps = timestamps;
            self.submit(bound, &call)
        };
        Timings::measure(self.context(), rounds, submit).await
    }

    /// Computes the gradients of whole tensors `[q, k, v]`, of any length up to the plan's maxima,
    /// from what [`Plan::run`](crate::Plan::run) gave for them: allocates the gradients, uploads
    /// the tables, binds and [submits](BackwardPlan::submit). It doesn't wait; [`Tensor::read`]
    /// does.
    ///
    /// # Errors
    /// Invalid argument (`k`, `v`) unless keys and values have as many batch entries as the
    /// queries, and values as many rows as keys; (`lse`) where the forward pass wrote no
    /// log-sum-exp. Those of [`bind`](BackwardPlan::bind), [`TableBuffer::for_backward`] and
    /// [`encode`](BackwardPlan::encode); out of memory; device lost.
    pub fn run(
        &self,
        [q, k, v]: [&TensorView; 3],
        forward: &Output,
        d_output: &TensorView,
        d_lse: Option<&TensorView>,
        tables: &Tables<'_>,
    ) -> Result<Gradients> {
        check_whole(q, k, v)?;
        let Some(lse) = &forward.lse else {
            let message = "the forward pass wrote none: use Attention::with_lse";
            return Err(Error::argument_error("lse", message));
        };
        let zeros = |of: &TensorView| {
            let [batch, heads, rows, dim] = of.layout().dims();
            Tensor::zeros(self.context(), of.dtype(), Layout::heads_first(batch, heads, rows, dim)?)
        };
        let of_heads = |has: bool| {
            let layout = Layout::rows(1, self.maxima().heads(), 1)?;
            has.then(|| Tensor::zeros(self.context(), DType::F32, layout)).transpose()
        };
        let gradients = Gradients {
            dq: zeros(q)?,
            dk: zeros(k)?,
            dv: zeros(v)?,
            d_sinks: of_heads(self.attention().sinks().is_some())?,
            d_slopes: of_heads(self.attention().is_biased())?,
        };
        let operands = BackwardOperands {
            q,
            k,
            v,
            output: forward.output.view(),
            lse: lse.view(),
            d_output,
            d_lse,
            dq: gradients.dq.view(),
            dk: gradients.dk.view(),
            dv: gradients.dv.view(),
            d_sinks: gradients.d_sinks.as_ref().map(Tensor::view),
            d_slopes: gradients.d_slopes.as_ref().map(Tensor::view),
        };
        let bound = self.bind(&operands)?;
        let tables = TableBuffer::for_backward(self.context(), tables)?;
        let (q_len, kv_len) = (q.layout().dims()[2], k.layout().dims()[2]);
        self.submit(&bound, &Call::lengths(q_len, kv_len).with_tables(&tables))?;
        Ok(gradients)
    }

    /// Checks a call, and writes the parameters of all its dispatches.
    fn prepare_call<'b, 'a>(
        &self,
        bound: &'b BackwardBound,
        call: &Call<'a>,
    ) -> Result<(CheckedCall<'a>, Vec<Dispatch<'b>>)> {
        ensure!(Arc::ptr_eq(&self.prepared, &bound.prepared), "bound", "was made by another plan");
        let checked = self.prepared.check(bound, call)?;
        let mut dispatches = Vec::new();
        for shard in &bound.shards {
            self.prepared.prepare(&mut dispatches, shard, &checked, bound)?;
        }
        Ok((checked, dispatches))
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, dispatch: Dispatch<'_>, call: &CheckedCall<'_>) {
        let Dispatch { shard, pass: step, slot, workgroups: (x, y) } = dispatch;
        let (tables, guard) = match call.tables.map(TableBuffer::current) {
            Some((tables, guard)) => (tables, Some(guard)),
            None => (&self.prepared.no_tables, None),
        };
        pass.set_pipeline(&self.prepared.pipelines[step as usize].pipeline);
        // Until the GPU is done, the slot and the tables belong to this call.
        slot.bind(pass, guard);
        pass.set_bind_group(TABLES_GROUP as u32, tables, &[]);
        pass.set_bind_group(Backward::TENSORS_GROUP as u32, &shard.groups[step as usize], &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}
