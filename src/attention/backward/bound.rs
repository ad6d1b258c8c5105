//! Tensors and gradients that a plan has checked and bound.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::prepared::Prepared;
use crate::attention::bound::{TensorRows, check_inside, size};
use crate::attention::call::SequenceRows;
use crate::attention::kernels::backward::{Backward, Pass};
use crate::attention::kernels::params::Axes;
use crate::error::{Result, ensure};
use crate::layout::{DType, Layout};
use crate::runtime::binding::{Axis, check_rows, check_tensor, check_written, fits, split};
use crate::runtime::context::Context;
use crate::runtime::tensor::{Binding, Tensor, TensorView};

/// The tensors of a backward pass: what the forward pass read and wrote, the gradients of a loss
/// with respect to that, and where those with respect to its inputs go.
///
/// | tensor | shape |
/// | --- | --- |
/// | `q`, `dq` | `[batch, heads, q capacity, head_dim]` |
/// | `k`, `dk` | `[batch, kv_heads, kv capacity, head_dim]` |
/// | `v`, `dv` | `[batch, kv_heads, kv capacity, value_dim]` |
/// | `output`, `d_output` | `[batch, heads, q capacity, value_dim]`, of the output's type |
/// | `lse`, `d_lse` | `[batch, heads, q capacity]`, f32 ([`Layout::rows`](crate::Layout::rows)), natural logarithm |
/// | `d_sinks`, `d_slopes` | `[1, heads, 1]`, f32 (`Layout::rows(1, heads, 1)`) |
///
/// Gradients are of the type of what they are gradients of. Each call writes those of its own rows,
/// and nothing else: they aren't added to what is there.
#[derive(Clone, Copy, Debug)]
pub struct BackwardOperands<'a> {
    /// The queries.
    pub q: &'a TensorView,
    /// The keys.
    pub k: &'a TensorView,
    /// The values.
    pub v: &'a TensorView,
    /// What the forward pass wrote.
    pub output: &'a TensorView,
    /// The log-sum-exp that it wrote: [`Attention::with_lse`](crate::Attention::with_lse).
    pub lse: &'a TensorView,
    /// The gradient of the loss with respect to the output.
    pub d_output: &'a TensorView,
    /// That with respect to the log-sum-exp, where the loss depends on it.
    pub d_lse: Option<&'a TensorView>,
    /// Where the gradient of the queries goes. No gradient may share a buffer with another tensor.
    pub dq: &'a TensorView,
    /// Where that of the keys goes.
    pub dk: &'a TensorView,
    /// Where that of the values goes.
    pub dv: &'a TensorView,
    /// Where that of the [sinks](crate::Attention::with_sinks) goes, if it is wanted: the sum over
    /// all rows of the call.
    pub d_sinks: Option<&'a TensorView>,
    /// Where that of the slopes `λ·m_h` of a [bias](crate::Bias) goes, if it is wanted: the sum
    /// over all pairs of the call. That of the weight λ is `Σ_h m_h` times these.
    pub d_slopes: Option<&'a TensorView>,
}

/// Tensors that a [`BackwardPlan`](crate::attention::BackwardPlan) has checked and bound. Reusable
/// for any number of calls; it keeps their buffers alive, and has memory of its own for the queries
/// and output gradients of a shard in f32.
///
/// Tensors past the device's binding size are bound in shards, by batch entries and key/value
/// heads, one after the other.
#[derive(Debug)]
pub struct BackwardBound {
    pub(super) prepared: Arc<Prepared>,
    pub(super) shards: Vec<Shard>,
    pub(super) query_rows: Vec<TensorRows>,
    pub(super) key_rows: Vec<TensorRows>,
    pub(super) batch: usize,
    pub(super) has_d_lse: bool,
    /// Whether gradients of sinks or slopes are wanted.
    pub(super) of_heads: bool,
    /// Held while a call is submitted in pieces, which share the memory for rows.
    pub(super) submitting: Mutex<()>,
}

/// Some batch entries and key/value heads of the tensors.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) entries: Range<usize>,
    pub(super) kv_heads: Range<usize>,
    /// The tensors of each [`Pass`] of the plan.
    pub(super) groups: Vec<wgpu::BindGroup>,
}

impl BackwardBound {
    pub(super) fn new(plan: &Arc<Prepared>, operands: &BackwardOperands<'_>) -> Result<Self> {
        let Prepared { maxima, context, .. } = &**plan;
        check(plan, operands)?;
        let BackwardOperands { q, k, v, output, lse, d_output, d_lse, dq, dk, dv, .. } = *operands;
        let [batch, _, rows, _] = q.layout().dims();
        let per_kv = maxima.heads_per_kv_head();
        let row_dim = maxima.head_dim() + maxima.value_dim() + 4;
        let row_bytes = |entries: usize, kv: usize| (entries * kv * per_kv * rows * row_dim * 4) as u64;
        let all_fit = |entries: usize, kv: usize| {
            let queries = [q, output, lse, d_output, dq].into_iter().chain(d_lse);
            queries.into_iter().all(|view| fits(context, view, entries, kv * per_kv))
                && [k, v, dk, dv].into_iter().all(|view| fits(context, view, entries, kv))
                && row_bytes(entries, kv) <= context.capabilities().max_binding_bytes
        };
        let parts = split(batch, maxima.kv_heads(), all_fit);
        // Shards come one after the other: the largest one's rows are enough.
        let largest = |(entries, kv_heads): &(Range<usize>, Range<usize>)| entries.len() * kv_heads.len();
        let (entries, heads) = match parts.iter().max_by_key(|part| largest(part)) {
            Some((entries, kv_heads)) => (entries.len(), kv_heads.len() * per_kv),
            None => (0, 0),
        };
        let layout = Layout::heads_first(entries, heads, rows, row_dim)?;
        let query_rows = Tensor::zeros(context, DType::F32, layout)?;
        let shard = |(entries, kv_heads)| Shard::new(plan, operands, query_rows.view(), entries, kv_heads);
        let shards = parts.into_iter().map(shard).collect::<Result<Vec<_>>>()?;
        context.check_alive()?;
        let named = [("q", q), ("output", output), ("lse", lse), ("d_output", d_output), ("dq", dq)];
        let queries = named.into_iter().chain(d_lse.map(|d_lse| ("d_lse", d_lse)));
        let keys = [("k", k), ("v", v), ("dk", dk), ("dv", dv)];
        Ok(Self {
            prepared: plan.clone(),
            shards,
            query_rows: queries.map(|(argument, view)| size(argument, view)).collect(),
            key_rows: keys.into_iter().map(|(argument, view)| size(argument, view)).collect(),
            batch,
            has_d_lse: d_lse.is_some(),
            of_heads: operands.d_sinks.is_some() || operands.d_slopes.is_some(),
            submitting: Mutex::default(),
        })
    }
}

/// Refuses tensors that aren't the plan's.
fn check(plan: &Prepared, operands: &BackwardOperands<'_>) -> Result<()> {
    let Prepared { context, attention, maxima, .. } = plan;
    let BackwardOperands { q, k, v, output, lse, d_output, d_lse, dq, dk, dv, d_sinks, d_slopes } = *operands;
    let (storage, result) = (attention.storage(), attention.output());
    let (heads, kv_heads) = (maxima.heads(), maxima.kv_heads());
    let (dim, value_dim) = (maxima.head_dim(), maxima.value_dim());
    for (argument, view, dtype, heads, dim) in [
        ("q", q, storage, heads, dim),
        ("k", k, storage, kv_heads, dim),
        ("v", v, storage, kv_heads, value_dim),
        ("output", output, result, heads, value_dim),
        ("lse", lse, DType::F32, heads, 1),
        ("d_output", d_output, result, heads, value_dim),
        ("dq", dq, storage, heads, dim),
        ("dk", dk, storage, kv_heads, dim),
        ("dv", dv, storage, kv_heads, value_dim),
    ] {
        check_tensor(context, argument, view, dtype, heads, dim)?;
    }
    check_rows(context, "lse", lse, heads, &[])?;
    d_lse.map_or(Ok(()), |d_lse| check_rows(context, "d_lse", d_lse, heads, &[]))?;
    let mut others = vec![("q", q), ("k", k), ("v", v), ("output", output), ("lse", lse)];
    others.push(("d_output", d_output));
    others.extend(d_lse.map(|d_lse| ("d_lse", d_lse)));
    let sinks = d_sinks.map(|view| ("d_sinks", view));
    let slopes = d_slopes.map(|view| ("d_slopes", view));
    if let Some((argument, view)) = sinks {
        ensure!(attention.sinks().is_some(), argument, "the attention has no sinks");
        check_of_heads(context, argument, view, heads)?;
    }
    if let Some((argument, view)) = slopes {
        ensure!(attention.is_biased(), argument, "the attention has no bias");
        check_of_heads(context, argument, view, heads)?;
    }
    for (argument, view) in [("dq", dq), ("dk", dk), ("dv", dv)].into_iter().chain(sinks).chain(slopes) {
        check_written(argument, view, &others)?;
        others.push((argument, view));
    }
    Ok(())
}

/// Refuses what isn't one number for each head.
fn check_of_heads(context: &Context, argument: &'static str, view: &TensorView, heads: usize) -> Result<()> {
    check_rows(context, argument, view, heads, &[])?;
    let [batch, _, rows, _] = view.layout().dims();
    ensure!(
        (batch, rows) == (1, 1),
        argument,
        "expected one number for each head (Layout::rows(1, {heads}, 1)), got {:?}",
        view.layout()
    );
    Ok(())
}

impl Shard {
    fn new(
        plan: &Prepared,
        operands: &BackwardOperands<'_>,
        rows: &TensorView,
        entries: Range<usize>,
        kv_heads: Range<usize>,
    ) -> Result<Self> {
        let Prepared { context, maxima, unused, unused_outputs, .. } = plan;
        let BackwardOperands { q, k, v, output, lse, d_output, d_lse, dq, dk, dv, d_sinks, d_slopes } =
            *operands;
        let per_kv = maxima.heads_per_kv_head();
        let heads = kv_heads.start * per_kv..kv_heads.end * per_kv;
        let [written, other] = unused_outputs;
        let bind = |argument, view: &TensorView, heads: &Range<usize>, granule, empty: &wgpu::Buffer| {
            let view = view.shard(entries.clone(), heads.clone());
            let binding = Binding::new(argument, &view, granule, context, empty)?;
            let axis = Axis::new(&view, binding.base, granule).words();
            Ok::<_, crate::Error>((binding, axis))
        };
        let (q, q_axis) = bind("q", q, &heads, 4, unused)?;
        let (k, k_axis) = bind("k", k, &kv_heads, 4, unused)?;
        let (v, v_axis) = bind("v", v, &kv_heads, 4, unused)?;
        let (output, output_axis) = bind("output", output, &heads, 4, unused)?;
        let (d_output, d_output_axis) = bind("d_output", d_output, &heads, 4, unused)?;
        let (lse, lse_axis) = bind("lse", lse, &heads, 1, unused)?;
        let (d_lse, d_lse_axis) = match d_lse {
            Some(d_lse) => bind("d_lse", d_lse, &heads, 1, unused)?,
            None => (Binding::whole(unused), [0; 4]),
        };
        let (dq, dq_axis) = bind("dq", dq, &heads, 4, written)?;
        let (dk, dk_axis) = bind("dk", dk, &kv_heads, 4, written)?;
        let (dv, dv_axis) = bind("dv", dv, &kv_heads, 4, other)?;
        let rows = rows.shard(0..entries.len(), 0..heads.len());
        let written_rows = Binding::new("q", &rows, 4, context, other)?;
        let read_rows = Binding::new("q", &rows, 4, context, unused)?;
        // A number for each head of the call, whatever the shard's.
        let of_heads = |argument, view: Option<&TensorView>, unused: &wgpu::Buffer| match view {
            None => Ok((Binding::whole(unused), [0, 0, 1, 0])),
            Some(view) => {
                let binding = Binding::new(argument, view, 1, context, unused)?;
                let axis = Axis::new(view, binding.base, 1).words();
                Ok::<_, crate::Error>((binding, axis))
            }
        };
        let (d_sinks, d_sinks_axis) = of_heads("d_sinks", d_sinks, written)?;
        let (d_slopes, d_slopes_axis) = of_heads("d_slopes", d_slopes, other)?;
        let axes = Axes {
            q: q_axis,
            k: k_axis,
            v: v_axis,
            output: output_axis,
            d_output: d_output_axis,
            lse: lse_axis,
            d_lse: d_lse_axis,
            query_rows: Axis::new(&rows, written_rows.base, 4).words(),
            dq: dq_axis,
            dk: dk_axis,
            dv: dv_axis,
            d_sinks: d_sinks_axis,
            d_slopes: d_slopes_axis,
        };
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform = context.create_buffer("prflash axes", size_of::<Axes>() as u64, usage)?;
        context.capture(|| context.queue().write_buffer(&uniform, 0, bytemuck::bytes_of(&axes)))?;
        let group = |pass: Pass, tensors: &[&Binding]| {
            let mut resources = vec![uniform.as_entire_binding()];
            resources.extend(tensors.iter().map(|binding| binding.resource()));
            let pipeline = &plan.pipelines[pass as usize];
            pipeline.bind(context, "prflash gradients", Backward::TENSORS_GROUP, &resources)
        };
        let tensors = |pass| match pass {
            Pass::Queries => group(pass, &[&q, &written_rows]),
            Pass::Delta => group(pass, &[&output, &d_output, &lse, &d_lse, &written_rows]),
            // Of a bias the gradient is written beside what is read of a row.
            Pass::Rows if plan.attention.is_biased() => group(pass, &[&written_rows, &k, &v, &dq]),
            Pass::Rows => group(pass, &[&read_rows, &k, &v, &dq]),
            Pass::Keys => group(pass, &[&read_rows, &k, &v, &dk, &dv]),
            Pass::Heads => group(pass, &[&read_rows, &d_sinks, &d_slopes]),
        };
        let passes = Pass::ALL.into_iter().take(plan.pipelines.len());
        let groups = passes.map(tensors).collect::<Result<_>>()?;
        Ok(Self { entries, kv_heads, groups })
    }
}

impl BackwardBound {
    /// Refuses a sequence that doesn't lie inside the tensors.
    pub(super) fn check(&self, index: usize, sequence: &SequenceRows) -> Result<()> {
        check_inside(index, sequence, &self.query_rows, &self.key_rows)
    }
}
