//! Attention by prflash.

use std::rc::Rc;

use anyhow::Result;
use prflash::attention::{BackwardBound, BackwardOperands, BackwardPlan};
use prflash::cache::{Chunk, KvCache, SequenceId, Staircase, StoredKeys};
use prflash::{
    Attention, Bound, Call, Context, DType, Layout, Operands, Plan, Queries, TableBuffer, Tables, Tensor,
};

use crate::measure::Work;
use crate::problem::{Input, Problem};

/// Attention over tensors; the output has its place before the call.
pub struct Tensors {
    context: Context,
    problem: Problem,
    plan: Plan,
    bound: Rc<Bound>,
    output: Tensor,
    tables: Option<TableBuffer>,
}

fn output(context: &Context, problem: &Problem) -> prflash::Result<Tensor> {
    let layout = Layout::heads_first(1, problem.heads, problem.q_len, problem.dim)?;
    Tensor::zeros(context, DType::F32, layout)
}

impl Tensors {
    /// A plan of dense attention.
    pub fn new(context: &Context, problem: &Problem, dtype: DType) -> Result<Self> {
        let tensor = |input, heads, len| {
            let layout = Layout::heads_first(1, heads, len, problem.dim)?;
            Tensor::upload(context, dtype, layout, &problem.values(input))
        };
        let q = tensor(Input::Queries, problem.heads, problem.q_len)?;
        let k = tensor(Input::Keys, problem.kv_heads, problem.kv_len)?;
        let v = tensor(Input::Values, problem.kv_heads, problem.kv_len)?;
        let output = output(context, problem)?;
        let plan = Attention::causal().with_storage(dtype).plan(context, &problem.shape()?)?;
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let bound = Rc::new(plan.bind(&operands)?);
        Ok(Self { context: context.clone(), problem: *problem, plan, bound, output, tables: None })
    }

    /// The same inputs and output, visiting only the blocks of the tables.
    pub fn with_tables(&self, tables: &Tables<'_>) -> Result<Self> {
        Ok(Self {
            context: self.context.clone(),
            problem: self.problem,
            plan: self.plan.clone(),
            bound: self.bound.clone(),
            output: self.output.clone(),
            tables: Some(TableBuffer::new(self.plan.context(), tables)?),
        })
    }

    /// Which kernel the plan chose.
    pub fn kernel(&self) -> String {
        self.plan.kernel().to_string()
    }
}

impl Work for Tensors {
    fn call(&mut self) -> Result<()> {
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        let mut call = Call::lengths(self.problem.q_len, self.problem.kv_len);
        if let Some(tables) = &self.tables {
            call = call.with_tables(tables);
        }
        self.plan.encode(&mut encoder, &self.bound, &call)?;
        self.context.queue().submit([encoder.finish()]);
        Ok(self.context.wait()?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        Ok(self.output.read_blocking(&self.context)?)
    }
}

/// Attention over a staircase cache.
pub struct Cached {
    context: Context,
    cache: KvCache,
    plan: Plan,
    bound: Bound,
    output: Tensor,
    queries: usize,
    /// The bytes that the history takes.
    pub bytes: u64,
}

impl Cached {
    /// A cache that holds the problem's keys and values.
    pub fn new(context: &Context, problem: &Problem, staircase: Staircase) -> Result<Self> {
        let shape = problem.shape()?;
        let mut cache = KvCache::new(context, staircase, &shape, StoredKeys::AfterRotation)?;
        let sequence = cache.add();
        let (len, dim) = (problem.kv_len, problem.dim);
        let tensor = |input| {
            let layout = Layout::heads_first(1, problem.kv_heads, len, dim)?;
            Tensor::upload(context, DType::F32, layout, &problem.values(input))
        };
        let (keys, values) = (tensor(Input::Keys)?, tensor(Input::Values)?);
        let input = cache.input(keys.view(), values.view())?;
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.append(&mut encoder, &input, &[Chunk { sequence, entry: 0, rows: 0..len }])?;
        context.queue().submit([encoder.finish()]);
        context.wait()?;
        let layout = Layout::heads_first(1, problem.heads, problem.q_len, dim)?;
        let q = Tensor::upload(context, DType::F32, layout, &problem.values(Input::Queries))?;
        let output = output(context, problem)?;
        let plan = Attention::causal().plan_cached(&cache, &shape)?;
        let bound = plan.bind_queries(q.view(), output.view(), None)?;
        let bytes = cache.memory(sequence)?.total();
        Ok(Self { context: context.clone(), cache, plan, bound, output, queries: problem.q_len, bytes })
    }
}

impl Work for Cached {
    fn call(&mut self) -> Result<()> {
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        let queries =
            [Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..self.queries, positions: None }];
        self.plan.encode(&mut encoder, &self.bound, &Call::cached(&self.cache, &queries))?;
        self.context.queue().submit([encoder.finish()]);
        Ok(self.context.wait()?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        Ok(self.output.read_blocking(&self.context)?)
    }
}

/// Which passes a call of [`Gradients`] has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    Forward,
    Backward,
    Both,
}

/// Gradients over tensors, with the forward pass before them or without; everything has its place
/// before the call.
pub struct Gradients {
    context: Context,
    problem: Problem,
    passes: Passes,
    forward: (Plan, Bound),
    backward: (BackwardPlan, BackwardBound),
    gradients: [Tensor; 3],
}

impl Gradients {
    /// Plans of dense attention in f32, and the output of a forward pass.
    pub fn new(context: &Context, problem: &Problem, passes: Passes) -> Result<Self> {
        let tensor = |input, heads, len| {
            let layout = Layout::heads_first(1, heads, len, problem.dim)?;
            Tensor::upload(context, DType::F32, layout, &problem.values(input))
        };
        let zeros =
            |heads, len| Tensor::zeros(context, DType::F32, Layout::heads_first(1, heads, len, problem.dim)?);
        let (heads, kv_heads, q_len, kv_len) =
            (problem.heads, problem.kv_heads, problem.q_len, problem.kv_len);
        let q = tensor(Input::Queries, heads, q_len)?;
        let k = tensor(Input::Keys, kv_heads, kv_len)?;
        let v = tensor(Input::Values, kv_heads, kv_len)?;
        let d_output = tensor(Input::OutputGradients, heads, q_len)?;
        let output = output(context, problem)?;
        let lse = Tensor::zeros(context, DType::F32, Layout::rows(1, heads, q_len)?)?;
        let [dq, dk, dv] = [zeros(heads, q_len)?, zeros(kv_heads, kv_len)?, zeros(kv_heads, kv_len)?];
        let attention = Attention::causal().with_lse(true);
        let shape = problem.shape()?;
        let forward = attention.plan(context, &shape)?;
        let bound = forward.bind(&Operands {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            output: output.view(),
            lse: Some(lse.view()),
        })?;
        let backward = attention.plan_backward(context, &shape)?;
        let backward_bound = backward.bind(&BackwardOperands {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            output: output.view(),
            lse: lse.view(),
            d_output: d_output.view(),
            d_lse: None,
            dq: dq.view(),
            dk: dk.view(),
            dv: dv.view(),
            d_sinks: None,
            d_slopes: None,
        })?;
        forward.submit(&bound, &Call::lengths(q_len, kv_len))?;
        context.wait()?;
        Ok(Self {
            context: context.clone(),
            problem: *problem,
            passes,
            forward: (forward, bound),
            backward: (backward, backward_bound),
            gradients: [dq, dk, dv],
        })
    }
}

impl Work for Gradients {
    fn call(&mut self) -> Result<()> {
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        let call = Call::lengths(self.problem.q_len, self.problem.kv_len);
        if self.passes != Passes::Backward {
            self.forward.0.encode(&mut encoder, &self.forward.1, &call)?;
        }
        if self.passes != Passes::Forward {
            self.backward.0.encode(&mut encoder, &self.backward.1, &call)?;
        }
        self.context.queue().submit([encoder.finish()]);
        Ok(self.context.wait()?)
    }

    /// dq, dk and dv behind each other.
    fn result(&mut self) -> Result<Vec<f32>> {
        let read = |tensor: &Tensor| tensor.read_blocking(&self.context);
        let [dq, dk, dv] = &self.gradients;
        Ok([read(dq)?, read(dk)?, read(dv)?].concat())
    }
}
