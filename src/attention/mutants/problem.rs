//! Small problems with what the oracle says of them.

use std::cell::OnceCell;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::documents::Documents;
use crate::attention::inputs::mask::Mask;
use crate::attention::inputs::tables::Tables;
use crate::attention::kernels::shapes::Kernel;
use crate::attention::plan_options::PlanOptions;
use crate::layout::{DType, Layout};
use crate::reference::{self, Exact};
use crate::runtime::context::Context;
use crate::runtime::tensor::Tensor;
use crate::sampling::Schedule;
use crate::shape::Shape;
use crate::verify::{Tolerances, compare};

/// Uniform numbers up to a size, rounded to a type: a function of the seed.
pub(super) fn numbers(seed: u64, count: usize, size: f32, dtype: DType) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| dtype.round(size * rng.random_range(-1.0f32..1.0))).collect()
}

/// A tensor whose heads come first.
pub(super) fn tensor(context: &Context, dtype: DType, dims: [usize; 4], values: &[f32]) -> Tensor {
    let [batch, heads, rows, dim] = dims;
    let layout = Layout::heads_first(batch, heads, rows, dim).unwrap();
    Tensor::upload(context, dtype, layout, values).unwrap()
}

/// Attention over tensors.
pub(super) struct Problem {
    pub(super) attention: Attention,
    pub(super) shape: Shape,
    pub(super) schedule: Option<Schedule>,
    pub(super) documents: Option<Documents>,
    pub(super) mask: Option<Mask>,
    pub(super) qkv: [Vec<f32>; 3],
    pub(super) exact: OnceCell<Exact>,
}

impl Problem {
    pub(super) fn new(attention: Attention, shape: Shape) -> Self {
        let dtype = attention.storage();
        let of = |seed, heads: usize, rows: usize, dim: usize, size| {
            numbers(seed, shape.batch() * heads * rows * dim, size, dtype)
        };
        let q = of(1, shape.heads(), shape.q_len(), shape.head_dim(), 2.0);
        let k = of(2, shape.kv_heads(), shape.kv_len(), shape.head_dim(), 2.0);
        let v = of(3, shape.kv_heads(), shape.kv_len(), shape.value_dim(), 1.0);
        let attention = attention.with_lse(true);
        let (schedule, documents, mask) = (None, None, None);
        Self { attention, shape, schedule, documents, mask, qkv: [q, k, v], exact: OnceCell::new() }
    }

    /// With another number for a channel of a key/value head's value of a key.
    pub(super) fn with_value(mut self, [head, key, channel]: [usize; 3], value: f32) -> Self {
        let at = (head * self.shape.kv_len() + key) * self.shape.value_dim() + channel;
        self.qkv[2][at] = value;
        self
    }

    fn tables(&self) -> Tables<'_> {
        let tables = self.schedule.as_ref().map_or(Tables::new(), Tables::from);
        let tables = self.mask.as_ref().into_iter().fold(tables, Tables::with_mask);
        self.documents.as_ref().into_iter().fold(tables, Tables::with_documents)
    }

    /// What the oracle says, asked once.
    pub(super) fn exact(&self) -> &Exact {
        let [q, k, v] = &self.qkv;
        let ask = || reference::attention(&self.attention, &self.shape, q, k, v, &self.tables()).unwrap();
        self.exact.get_or_init(ask)
    }

    pub(super) fn upload(&self, context: &Context) -> [Tensor; 3] {
        let (shape, dtype) = (&self.shape, self.attention.storage());
        let dims = [
            [shape.batch(), shape.heads(), shape.q_len(), shape.head_dim()],
            [shape.batch(), shape.kv_heads(), shape.kv_len(), shape.head_dim()],
            [shape.batch(), shape.kv_heads(), shape.kv_len(), shape.value_dim()],
        ];
        std::array::from_fn(|at| tensor(context, dtype, dims[at], &self.qkv[at]))
    }

    /// Whether a kernel computes what the oracle says.
    pub(super) fn agrees(&self, context: &Context, options: &PlanOptions) -> bool {
        let [q, k, v] = self.upload(context);
        let plan = self.attention.plan_with(context, &self.shape, options).unwrap();
        let got = plan.run(q.view(), k.view(), v.view(), &self.tables()).unwrap();
        let output = got.output.read_blocking(context).unwrap();
        let lse = got.lse.unwrap().read_blocking(context).unwrap();
        let shape = &self.shape;
        is_close(&output, &lse, self.exact(), (plan.kernel(), shape, self.attention.output()), 1.0)
    }
}

/// Whether a kernel's results are within so many tolerances of the exact ones.
pub(super) fn is_close(
    output: &[f32],
    lse: &[f32],
    exact: &Exact,
    (kernel, shape, dtype): (Kernel, &Shape, DType),
    times: f64,
) -> bool {
    let of_output = Tolerances::of_kernel_output(kernel, exact, shape, dtype).times(times);
    let of_lse = Tolerances::of_kernel_lse(kernel, exact, shape).times(times);
    compare(output, &exact.output, of_output).unwrap().passed()
        && compare(lse, &exact.lse, of_lse).unwrap().passed()
}
