//! Attention by prflash's native engine, on CPU cores.

use std::rc::Rc;

use anyhow::Result;
use prflash::cache::{HostCache, SequenceId, Staircase, StoredKeys};
use prflash::native::{
    HostNumbers, HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan, NativeQueries, f16,
};
use prflash::{Attention, DType, Layout, Queries, Schedule, Tables};

use crate::measure::Work;
use crate::problem::{Input, Problem};

/// Threads that take part: one, or all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

impl Threads {
    fn options(self) -> Result<NativeOptions> {
        let options = NativeOptions::new();
        Ok(match self {
            Self::One => options.with_threads(1)?,
            Self::All => options,
        })
    }
}

/// Numbers in host memory.
enum Stored {
    Full(Vec<f32>),
    Half(Vec<f16>),
}

impl Stored {
    fn new(dtype: DType, numbers: Vec<f32>) -> Self {
        match dtype {
            DType::F16 => Self::Half(numbers.into_iter().map(f16::from_f32).collect()),
            _ => Self::Full(numbers),
        }
    }

    fn numbers(&self) -> HostNumbers<'_> {
        match self {
            Self::Full(numbers) => numbers[..].into(),
            Self::Half(numbers) => numbers[..].into(),
        }
    }
}

/// Q, K and V, which several contestants read.
pub struct Inputs {
    layouts: [Layout; 2],
    stored: [Stored; 3],
    dtype: DType,
}

impl Inputs {
    /// The problem's, heads first.
    pub fn new(problem: &Problem, dtype: DType) -> Result<Rc<Self>> {
        let layout = |heads, len| Layout::heads_first(1, heads, len, problem.dim);
        let layouts = [layout(problem.heads, problem.q_len)?, layout(problem.kv_heads, problem.kv_len)?];
        let stored = [Input::Queries, Input::Keys, Input::Values]
            .map(|input| Stored::new(dtype, problem.values(input)));
        Ok(Rc::new(Self { layouts, stored, dtype }))
    }
}

/// Attention over tensors, of which the output has its place before the call.
pub struct Tensors {
    inputs: Rc<Inputs>,
    plan: NativePlan,
    schedule: Option<Schedule>,
    output: Vec<f32>,
}

impl Tensors {
    /// Dense attention, or of the blocks of a schedule.
    pub fn new(
        problem: &Problem,
        inputs: &Rc<Inputs>,
        threads: Threads,
        schedule: Option<Schedule>,
    ) -> Result<Self> {
        let attention = Attention::causal().with_storage(inputs.dtype);
        let plan = attention.plan_native(&problem.shape()?, &threads.options()?)?;
        let output = vec![0.0; inputs.layouts[0].elements()];
        Ok(Self { inputs: inputs.clone(), plan, schedule, output })
    }

    /// The instructions that it uses.
    pub fn instructions(&self) -> String {
        self.plan.instructions()
    }
}

impl Work for Tensors {
    fn call(&mut self) -> Result<()> {
        let [queries, keys] = self.inputs.layouts;
        let [q, k, v] = self.inputs.stored.each_ref().map(Stored::numbers);
        let mut operands = NativeOperands {
            q: HostView::new(q, queries)?,
            k: HostView::new(k, keys)?,
            v: HostView::new(v, keys)?,
            output: HostViewMut::new(&mut self.output[..], queries)?,
            lse: None,
        };
        let tables = self.schedule.as_ref().map_or_else(Tables::new, Tables::from);
        Ok(self.plan.run(&mut operands, &tables)?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        Ok(self.output.clone())
    }
}

/// Attention over a staircase cache in host memory.
pub struct Cached {
    cache: HostCache,
    plan: NativePlan,
    layout: Layout,
    q: Vec<f32>,
    output: Vec<f32>,
    /// The bytes that the history takes.
    pub bytes: u64,
}

impl Cached {
    /// A cache that holds the problem's keys and values.
    pub fn new(problem: &Problem, staircase: Staircase) -> Result<Self> {
        let shape = problem.shape()?;
        let mut cache = HostCache::new(staircase, &shape, StoredKeys::AfterRotation)?;
        let sequence = cache.add();
        cache.append(sequence, &problem.values(Input::Keys), &problem.values(Input::Values))?;
        let layout = Layout::heads_first(1, problem.heads, problem.q_len, problem.dim)?;
        let bytes = cache.live_bytes();
        Ok(Self {
            cache,
            plan: Attention::causal().plan_native(&shape, &NativeOptions::new())?,
            layout,
            q: problem.values(Input::Queries),
            output: vec![0.0; layout.elements()],
            bytes,
        })
    }
}

impl Work for Cached {
    fn call(&mut self) -> Result<()> {
        let [_, _, rows, _] = self.layout.dims();
        let mut operands = NativeQueries {
            q: HostView::new(&self.q[..], self.layout)?,
            output: HostViewMut::new(&mut self.output[..], self.layout)?,
            lse: None,
        };
        let queries = [Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..rows, positions: None }];
        Ok(self.plan.run_cached(&self.cache, &mut operands, &queries, &Tables::new())?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        Ok(self.output.clone())
    }
}
