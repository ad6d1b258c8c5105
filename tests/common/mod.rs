//! What the GPU tests share: the device, seeded inputs, and one call of kernel and oracle side by
//! side.
#![allow(dead_code)] // each test file uses its part

pub mod cases;
pub mod gradients;
#[cfg(feature = "native")]
pub mod native;
pub mod pages;

use prflash::kernels::{Kernel, Matrix};
use prflash::verify::{Report, Tolerance, Tolerances, compare};
use prflash::{
    Attention, Context, DType, Layout, Operands, Plan, PlanOptions, Result, Shape, Tables, Tensor,
    TensorView, reference,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

#[allow(unused_imports)] // tests without a device
pub use testkit::device::gpu;

/// The kernel on matrix units, as every device runs it: without them. `padded` ones of 16 × 16
/// fragments need more than 32 KiB of workgroup memory from D = 128 on.
pub fn matrix(edge: usize, padded: bool) -> Kernel {
    Kernel::Matrix(Matrix::new(edge, padded, true).unwrap())
}

/// Whether only kernels whose text uses subgroups are wanted: scripts/test runs them again at every
/// subgroup size.
pub fn subgroups_only() -> bool {
    std::env::var("PRFLASH_TEST_KERNELS").is_ok_and(|kernels| kernels == "subgroups")
}

/// Whether a kernel's text uses subgroups, on a device that has no matrix units.
pub fn uses_subgroups(kernel: Kernel) -> bool {
    match kernel {
        Kernel::Decode(decode) => decode.uses_subgroup_quads(),
        Kernel::Tiled(tile) => tile.slices() > 1 && !tile.is_staged(),
        _ => false,
    }
}

/// By this kernel, or by the one that a plan chooses.
pub fn by(kernel: Option<Kernel>) -> PlanOptions {
    kernel.map_or(PlanOptions::new(), |kernel| PlanOptions::new().with_kernel(kernel))
}

/// `attention` in storage that this kernel takes.
pub fn stored_for(attention: Attention, kernel: Option<Kernel>) -> Attention {
    match kernel {
        Some(Kernel::Matrix(_)) => attention.with_storage(DType::F16),
        _ => attention,
    }
}

/// Uniform numbers in [−1, 1), a function of the seed.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// How Q, K and V lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Storage {
    HeadsFirst,
    TokensFirst,
    /// One buffer for all three; needs q_len = kv_len.
    Fused,
}

/// One attention problem with its inputs, rounded to the storage type so that kernel and oracle see
/// the same numbers.
pub struct Problem {
    pub attention: Attention,
    pub options: PlanOptions,
    pub shape: Shape,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// What the kernel computed.
pub struct Got {
    pub kernel: Kernel,
    pub output: Vec<f32>,
    pub lse: Option<Vec<f32>>,
}

impl Problem {
    pub fn random(attention: Attention, shape: Shape, seed: u64) -> Self {
        let storage = attention.storage();
        let sized = |part: u64, heads: usize, len: usize, dim: usize, size: f32| {
            let values = numbers(seed.wrapping_mul(3).wrapping_add(part), shape.batch() * heads * len * dim);
            values.into_iter().map(|x| storage.round(x * size)).collect::<Vec<f32>>()
        };
        // Twice as large as unit numbers, so that the softmax is neither flat nor one-hot.
        Self {
            attention,
            options: PlanOptions::new(),
            shape,
            q: sized(0, shape.heads(), shape.q_len(), shape.head_dim(), 2.0),
            k: sized(1, shape.kv_heads(), shape.kv_len(), shape.head_dim(), 2.0),
            v: sized(2, shape.kv_heads(), shape.kv_len(), shape.value_dim(), 1.0),
        }
    }

    /// The same, computed as these options say.
    pub fn with_options(self, options: PlanOptions) -> Self {
        Self { options, ..self }
    }

    /// The plan for it.
    pub fn plan(&self, context: &Context) -> Result<Plan> {
        self.attention.plan_with(context, &self.shape, &self.options)
    }

    pub fn exact(&self, tables: &Tables<'_>) -> reference::Exact {
        reference::attention(&self.attention, &self.shape, &self.q, &self.k, &self.v, tables).unwrap()
    }

    /// Q, K and V on the GPU.
    pub fn upload(&self, context: &Context, storage: Storage) -> Result<[TensorView; 3]> {
        let shape = &self.shape;
        let dtype = self.attention.storage();
        let tensor = |heads, len, dim, values: &[f32]| {
            let layout = match storage {
                Storage::TokensFirst => Layout::tokens_first(shape.batch(), len, heads, dim)?,
                _ => Layout::heads_first(shape.batch(), heads, len, dim)?,
            };
            Tensor::upload(context, dtype, layout, values).map(|tensor| tensor.view().clone())
        };
        if storage == Storage::Fused {
            return Tensor::upload_fused_qkv(context, dtype, shape, [&self.q, &self.k, &self.v]);
        }
        Ok([
            tensor(shape.heads(), shape.q_len(), shape.head_dim(), &self.q)?,
            tensor(shape.kv_heads(), shape.kv_len(), shape.head_dim(), &self.k)?,
            tensor(shape.kv_heads(), shape.kv_len(), shape.value_dim(), &self.v)?,
        ])
    }

    pub fn run(&self, context: &Context, storage: Storage, tables: &Tables<'_>) -> Got {
        let qkv = self.upload(context, storage).unwrap();
        self.run_on(context, &self.options, &qkv, tables)
    }

    /// Runs it on uploaded tensors, computed as these options say.
    pub fn run_on(
        &self,
        context: &Context,
        options: &PlanOptions,
        [q, k, v]: &[TensorView; 3],
        tables: &Tables<'_>,
    ) -> Got {
        let plan = self.attention.plan_with(context, &self.shape, options).unwrap();
        let got = plan.run(q, k, v, tables).unwrap();
        Got {
            kernel: plan.kernel(),
            output: got.output.read_blocking(context).unwrap(),
            lse: got.lse.map(|lse| lse.read_blocking(context).unwrap()),
        }
    }

    /// Compares output and log-sum-exp with the oracle, within derived tolerances.
    pub fn judge(&self, got: &Got, tables: &Tables<'_>) -> [Report; 2] {
        self.judge_against(got, &self.exact(tables))
    }

    fn judge_against(&self, got: &Got, exact: &reference::Exact) -> [Report; 2] {
        let output = compare(&got.output, &exact.output, self.tolerance(got.kernel, exact)).unwrap();
        let lse = match &got.lse {
            Some(lse) => {
                let tolerance = Tolerances::of_kernel_lse(got.kernel, exact, &self.shape);
                compare(lse, &exact.lse, tolerance).unwrap()
            }
            None => compare(&[], &[], Tolerance::absolute(0.0)).unwrap(),
        };
        [output, lse]
    }

    fn tolerance(&self, kernel: Kernel, exact: &reference::Exact) -> Tolerances {
        Tolerances::of_kernel_output(kernel, exact, &self.shape, self.attention.output())
    }

    /// Runs the kernel that a plan chooses and the naive one, compares both with the oracle and
    /// with each other, and panics with the whole story if anything is off.
    pub fn check(&self, context: &Context, storage: Storage, tables: &Tables<'_>, story: &str) {
        let naive = Some(Kernel::Naive);
        self.check_kernels(context, storage, tables, &[self.options.kernel(), naive], story);
    }

    /// The same for these kernels (`None`: the one that a plan chooses).
    pub fn check_kernels(
        &self,
        context: &Context,
        storage: Storage,
        tables: &Tables<'_>,
        kernels: &[Option<Kernel>],
        story: &str,
    ) {
        let exact = self.exact(tables);
        let qkv = self.upload(context, storage).unwrap();
        let mut first: Option<Got> = None;
        for kernel in kernels {
            let options =
                kernel.map_or(self.options.clone(), |kernel| self.options.clone().with_kernel(kernel));
            let got = self.run_on(context, &options, &qkv, tables);
            let tell = |what: &str, report: Report| {
                assert!(
                    report.passed(),
                    "{what} of {story}: {report}\n{:?}, {options:?}, {:?}, {storage:?}",
                    self.attention,
                    self.shape
                );
            };
            for (what, report) in ["output", "lse"].into_iter().zip(self.judge_against(&got, &exact)) {
                tell(what, report);
            }
            if let Some(first) = &first {
                // Each is within its tolerance of the exact result, so they are within both of each
                // other.
                let [one, other] = [first, &got].map(|got| self.tolerance(got.kernel, &exact));
                let both = one.plus(&other).unwrap();
                let want: Vec<f64> = first.output.iter().map(|&x| f64::from(x)).collect();
                tell("output against the first kernel's", compare(&got.output, &want, both).unwrap());
            }
            first.get_or_insert(got);
        }
    }
}

/// A tensor of zeros for a result.
pub fn zeros(context: &Context, dtype: DType, layout: Layout) -> Tensor {
    Tensor::zeros(context, dtype, layout).unwrap()
}

/// Where the output of whole tensors of a shape lies.
pub fn output_layout(shape: &Shape) -> Layout {
    Layout::heads_first(shape.batch(), shape.heads(), shape.q_len(), shape.value_dim()).unwrap()
}

/// Operands without a log-sum-exp.
pub fn operands<'a>(qkv: &'a [TensorView; 3], output: &'a Tensor) -> Operands<'a> {
    Operands { q: &qkv[0], k: &qkv[1], v: &qkv[2], output: output.view(), lse: None }
}

/// A device that binds little at once, with few workgroups per dimension.
pub fn small_device(binding: u64, workgroups: u32) -> Context {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let limits = wgpu::Limits {
        max_compute_workgroups_per_dimension: workgroups,
        max_storage_buffer_binding_size: binding,
        ..wgpu::Limits::defaults()
    };
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    Context::from_wgpu(device, queue).unwrap()
}
