//! Kernels tried out on a device: do they compute there what the portable one does, and how fast?

use std::time::Duration;

use super::Attention;
use super::bound::Operands;
use super::call::Call;
use super::tables::Tables;
use crate::error::{Error, Result};
use crate::gpu::context::Context;
use crate::gpu::registry::Kernel;
use crate::gpu::tensor::Tensor;
use crate::layout::{DType, Layout};
use crate::reference::Exact;
use crate::shape::Shape;
use crate::verify::{Tolerance, compare};

/// What is wrong with a kernel for this storage and these dimensions on this device, if anything: it is compared with the portable one on a few small causal problems, of lengths that end inside tiles
/// and steps.
pub(super) fn find_wrong(
    context: &Context,
    (kernel, storage, head_dim, value_dim): (Kernel, DType, usize, usize),
) -> Option<String> {
    let attention = Attention::causal().with_storage(storage);
    let agrees = |(q_len, kv_len)| {
        let shape = Shape::new(4, 2, q_len, head_dim)?.with_value_dim(value_dim)?.with_kv_len(kv_len)?;
        Trial::new(context, &attention, &shape)?.agrees(context, &attention, kernel)
    };
    for lens in [(65, 65), (70, 333), (130, 77), (9, 40)] {
        let what = match agrees(lens) {
            Ok(true) => continue,
            Ok(false) => format!("{kernel} is wrong on this device, for (q_len, kv_len) = {lens:?}"),
            Err(error) => format!("{kernel} failed on this device: {error}"),
        };
        log::warn!("{what}");
        return Some(what);
    }
    None
}

/// Tensors of a shape, and what the portable kernel makes of them.
pub(super) struct Trial {
    shape: Shape,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    want: Vec<f64>,
    exact: Exact,
}

impl Trial {
    pub(super) fn new(context: &Context, attention: &Attention, shape: &Shape) -> Result<Self> {
        let tensor = |seed: usize, heads, len, dim| {
            let layout = Layout::heads_first(shape.batch(), heads, len, dim)?;
            let number = |i: usize| (((i + seed) * 7919) % 997) as f32 / 498.5 - 1.0;
            let values: Vec<f32> = (0..layout.elements()).map(number).collect();
            Tensor::upload(context, attention.storage(), layout, &values)
        };
        let most = f64::from(attention.scale(shape.head_dim()).abs()) * shape.head_dim() as f64;
        let mut trial = Self {
            shape: *shape,
            q: tensor(1, shape.heads(), shape.q_len(), shape.head_dim())?,
            k: tensor(2, shape.kv_heads(), shape.kv_len(), shape.head_dim())?,
            v: tensor(3, shape.kv_heads(), shape.kv_len(), shape.value_dim())?,
            want: Vec::new(),
            // No number is larger than 1, so no score than this.
            exact: Exact {
                output: Vec::new(),
                lse: Vec::new(),
                max_score_magnitude: most.max(f64::from(attention.soft_cap().unwrap_or(0.0))),
                max_rotated_magnitude: 0.0,
                max_value: 1.0,
            },
        };
        let got = trial.run(attention, context, Kernel::Naive)?;
        trial.want = got.into_iter().map(f64::from).collect();
        Ok(trial)
    }

    /// Whether a kernel computes what the portable one does.
    pub(super) fn agrees(&self, context: &Context, attention: &Attention, kernel: Kernel) -> Result<bool> {
        let got = self.run(attention, context, kernel)?;
        let of = |kernel| Tolerance::of_kernel_output(kernel, &self.exact, &self.shape, attention.output());
        // Either may deviate by its own.
        let (one, other) = (of(kernel), of(Kernel::Naive));
        let both =
            Tolerance { absolute: one.absolute + other.absolute, relative: one.relative + other.relative };
        Ok(compare(&got, &self.want, both)?.passed())
    }

    fn run(&self, attention: &Attention, context: &Context, kernel: Kernel) -> Result<Vec<f32>> {
        let plan = attention.clone().with_lse(false).with_kernel(kernel).plan(context, &self.shape)?;
        let got = plan.run(self.q.view(), self.k.view(), self.v.view(), &Tables::new())?;
        got.output.read_blocking(context)
    }

    /// Median times of these kernels, in turn.
    pub(super) fn times(
        &self,
        attention: &Attention,
        context: &Context,
        kernels: &[Kernel],
        rounds: usize,
    ) -> Result<Vec<Duration>> {
        let shape = &self.shape;
        let output = Layout::heads_first(shape.batch(), shape.heads(), shape.q_len(), shape.value_dim())?;
        let output = Tensor::zeros(context, attention.output(), output)?;
        let call = Call::lengths(shape.q_len(), shape.kv_len());
        let mut runs = Vec::new();
        for &kernel in kernels {
            let plan = attention.clone().with_lse(false).with_kernel(kernel).plan(context, shape)?;
            let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
            let bound = plan.bind(&Operands { q, k, v, output: output.view(), lse: None })?;
            runs.push((plan, bound, Vec::new()));
        }
        for _ in 0..rounds {
            for (plan, bound, times) in &mut runs {
                let timings = plan.timings(bound, &call, 1)?;
                let gpu = timings.median_gpu().filter(|_| !context.capabilities().is_software());
                times.push(gpu.unwrap_or(timings.median_wall()));
            }
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times.get(times.len() / 2).copied()
        };
        let lost = || Error::argument_error("rounds", "expected at least 1, got 0");
        runs.into_iter().map(|(_, _, times)| median(times).ok_or_else(lost)).collect()
    }
}
