//! Problems by the native engine.

use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan, bf16, f16};
use prflash::verify::{Report, Tolerances, compare};
use prflash::{DType, Layout, Result, Tables};

use super::cases::Case;
use super::{Problem, Storage};

/// Numbers in host memory, of any type.
pub enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Numbers {
    pub fn new(dtype: DType, values: &[f32]) -> Self {
        match dtype {
            DType::F16 => Self::F16(values.iter().map(|&x| f16::from_f32(x)).collect()),
            DType::Bf16 => Self::Bf16(values.iter().map(|&x| bf16::from_f32(x)).collect()),
            _ => Self::F32(values.to_vec()),
        }
    }

    pub fn view(&self, layout: Layout) -> Result<HostView<'_>> {
        match self {
            Self::F32(values) => HostView::new(&values[..], layout),
            Self::F16(values) => HostView::new(&values[..], layout),
            Self::Bf16(values) => HostView::new(&values[..], layout),
        }
    }

    pub fn view_mut(&mut self, layout: Layout) -> Result<HostViewMut<'_>> {
        match self {
            Self::F32(values) => HostViewMut::new(&mut values[..], layout),
            Self::F16(values) => HostViewMut::new(&mut values[..], layout),
            Self::Bf16(values) => HostViewMut::new(&mut values[..], layout),
        }
    }

    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::F16(values) => values.iter().map(|x| x.to_f32()).collect(),
            Self::Bf16(values) => values.iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// What the native engine computed.
#[derive(Clone, Debug)]
pub struct Computed {
    pub output: Vec<f32>,
    pub lse: Option<Vec<f32>>,
}

impl Computed {
    /// The bits of every number.
    pub fn bits(&self) -> Vec<u32> {
        self.output.iter().chain(self.lse.iter().flatten()).map(|x| x.to_bits()).collect()
    }
}

/// On so many threads.
pub fn on(threads: usize) -> NativeOptions {
    NativeOptions::new().with_threads(threads).unwrap()
}

/// Q, K and V in memory, as `storage` has them.
pub fn tensors(problem: &Problem, storage: Storage) -> [(Numbers, Layout); 3] {
    let (shape, dtype) = (&problem.shape, problem.attention.storage());
    let parts = [
        (&problem.q, shape.heads(), shape.q_len(), shape.head_dim()),
        (&problem.k, shape.kv_heads(), shape.kv_len(), shape.head_dim()),
        (&problem.v, shape.kv_heads(), shape.kv_len(), shape.value_dim()),
    ];
    let fused = (storage == Storage::Fused).then(|| Layout::fused_qkv(shape).unwrap());
    let mut index = 0;
    parts.map(|(values, heads, len, dim)| {
        let layout = match (fused, storage) {
            (Some(fused), _) => fused[index],
            (None, Storage::TokensFirst) => Layout::tokens_first(shape.batch(), len, heads, dim).unwrap(),
            _ => Layout::heads_first(shape.batch(), heads, len, dim).unwrap(),
        };
        index += 1;
        // What isn't the tensor's must not be read.
        let mut numbers = vec![f32::NAN; layout.extent()];
        layout.scatter(values, &mut numbers).unwrap();
        (Numbers::new(dtype, &numbers), layout)
    })
}

impl Problem {
    /// Computes it with this plan; the output is tokens-first where the inputs aren't heads-first.
    pub fn run_native(&self, plan: &NativePlan, storage: Storage, tables: &Tables<'_>) -> Computed {
        let shape = &self.shape;
        let [(q, q_at), (k, k_at), (v, v_at)] = &tensors(self, storage);
        let (batch, heads, len, dim) = (shape.batch(), shape.heads(), shape.q_len(), shape.value_dim());
        let layout = match storage {
            Storage::HeadsFirst => Layout::heads_first(batch, heads, len, dim).unwrap(),
            _ => Layout::tokens_first(batch, len, heads, dim).unwrap(),
        };
        let mut output = Numbers::new(self.attention.output(), &vec![9.0; layout.extent()]);
        let mut lse = self.attention.lse().then(|| vec![9.0; batch * heads * len]);
        let mut operands = NativeOperands {
            q: q.view(*q_at).unwrap(),
            k: k.view(*k_at).unwrap(),
            v: v.view(*v_at).unwrap(),
            output: output.view_mut(layout).unwrap(),
            lse: lse.as_deref_mut(),
        };
        plan.run(&mut operands, tables).unwrap();
        Computed { output: layout.gather(&output.to_f32()).unwrap(), lse }
    }

    /// Compares output and log-sum-exp with the oracle, within derived tolerances.
    pub fn judge_native(&self, got: &Computed, tables: &Tables<'_>) -> [Report; 2] {
        let exact = self.exact(tables);
        let tolerance = Tolerances::of_native_output(&exact, &self.shape, self.attention.output());
        let output = compare(&got.output, &exact.output, tolerance).unwrap();
        let lse = match &got.lse {
            Some(lse) => compare(lse, &exact.lse, Tolerances::of_native_lse(&exact, &self.shape)).unwrap(),
            None => compare(&[], &[], Tolerances::of_native_lse(&exact, &self.shape)).unwrap(),
        };
        [output, lse]
    }
}

impl Case {
    /// The native engine against the oracle, on one thread and, to the bit, on three.
    pub fn check_native(&self) {
        let Self { story, problem, storage, .. } = self;
        let tables = self.tables();
        let [one, three] = [1, 3].map(|threads| {
            let plan = problem.attention.plan_native(&problem.shape, &on(threads)).unwrap();
            problem.run_native(&plan, *storage, &tables)
        });
        for (what, report) in ["output", "lse"].into_iter().zip(problem.judge_native(&one, &tables)) {
            assert!(
                report.passed(),
                "{what} of {story}: {report}\n{:?}, {:?}, {storage:?}",
                problem.attention,
                problem.shape
            );
        }
        assert!(one.bits() == three.bits(), "other bits on three threads: {story}");
    }
}
