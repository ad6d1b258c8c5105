//! The tensors of a backward pass in the caller's memory, and what they are refused for.

use crate::attention::inputs::attention::Attention;
use crate::attention::native::views::{HostView, HostViewMut, check_tensor};
use crate::error::{Result, ensure};
use crate::layout::{DType, Layout};
use crate::shape::Shape;

/// The tensors of a backward pass: what the forward pass read and wrote, the gradients of a loss
/// with respect to that, and where those with respect to its inputs go.
///
/// Gradients are of the type of what they are gradients of. A call writes those of its own rows,
/// and nothing else: they aren't added to what is there.
#[derive(Debug)]
pub struct NativeBackwardOperands<'a> {
    /// Queries, `[batch, heads, rows, head_dim]`, in the attention's storage type.
    pub q: HostView<'a>,
    /// Keys, `[batch, kv_heads, rows, head_dim]`, likewise.
    pub k: HostView<'a>,
    /// Values, `[batch, kv_heads, rows, value_dim]`, likewise.
    pub v: HostView<'a>,
    /// What the forward pass wrote, `[batch, heads, rows, value_dim]`, in the attention's output
    /// type.
    pub output: HostView<'a>,
    /// The natural-log log-sum-exp that it wrote, contiguous `[batch, heads, rows]`.
    pub lse: &'a [f32],
    /// The gradient of the loss with respect to the output, of the same type and sizes.
    pub d_output: HostView<'a>,
    /// That with respect to the log-sum-exp, contiguous as it is, where the loss depends on it.
    pub d_lse: Option<&'a [f32]>,
    /// Where the gradient of the queries goes.
    pub dq: HostViewMut<'a>,
    /// Where that of the keys goes.
    pub dk: HostViewMut<'a>,
    /// Where that of the values goes.
    pub dv: HostViewMut<'a>,
    /// Where that of the [sinks](Attention::with_sinks) goes, one for each query head: the sum over
    /// all rows of the call.
    pub d_sinks: Option<&'a mut [f32]>,
    /// Where that of the slopes `λ·m_h` of a [bias](crate::Bias) goes, one for each query head: the
    /// sum over all pairs of the call.
    pub d_slopes: Option<&'a mut [f32]>,
}

impl NativeBackwardOperands<'_> {
    /// Refuses tensors that aren't those of an attention of these sizes, and gives the layout of
    /// rows.
    pub(super) fn check(&self, attention: &Attention, maxima: &Shape) -> Result<Layout> {
        let (storage, result) = (attention.storage(), attention.output());
        let (heads, kv_heads) = (maxima.heads(), maxima.kv_heads());
        let (dim, value_dim) = (maxima.head_dim(), maxima.value_dim());
        let Self { q, k, v, output, lse, d_output, d_lse, dq, dk, dv, d_sinks, d_slopes } = self;
        let read = |view: &HostView<'_>| (view.dtype(), *view.layout());
        let written = |view: &HostViewMut<'_>| (view.dtype(), *view.layout());
        type Tensor = (DType, Layout);
        let check = |name, (dtype, layout): Tensor, like: &HostView<'_>, want, heads, dim| {
            check_tensor(name, (dtype, &layout), want, heads, dim)?;
            let ([batch, _, rows, _], [like_batch, _, like_rows, _]) = (layout.dims(), like.layout().dims());
            ensure!(
                (batch, rows) == (like_batch, like_rows),
                name,
                "expected (batch, rows) = {:?}, as what it belongs to, got {:?}",
                (like_batch, like_rows),
                (batch, rows)
            );
            Ok::<_, crate::Error>(())
        };
        check("q", read(q), q, storage, heads, dim)?;
        check("k", read(k), k, storage, kv_heads, dim)?;
        check("v", read(v), k, storage, kv_heads, value_dim)?;
        check("output", read(output), q, result, heads, value_dim)?;
        check("d_output", read(d_output), q, result, heads, value_dim)?;
        check("dq", written(dq), q, storage, heads, dim)?;
        check("dk", written(dk), k, storage, kv_heads, dim)?;
        check("dv", written(dv), v, storage, kv_heads, value_dim)?;
        let [batch, _, rows, _] = q.layout().dims();
        let count = |name, want: usize, got: usize| {
            ensure!(want == got, name, "expected {want} numbers, got {got}");
            Ok::<_, crate::Error>(())
        };
        count("lse", batch * heads * rows, lse.len())?;
        d_lse.map_or(Ok(()), |d_lse| count("d_lse", batch * heads * rows, d_lse.len()))?;
        if let Some(d_sinks) = d_sinks {
            ensure!(attention.sinks().is_some(), "d_sinks", "the attention has no sinks");
            count("d_sinks", heads, d_sinks.len())?;
        }
        if let Some(d_slopes) = d_slopes {
            ensure!(attention.is_biased(), "d_slopes", "the attention has no bias");
            count("d_slopes", heads, d_slopes.len())?;
        }
        Layout::rows(batch, heads, rows)
    }
}
