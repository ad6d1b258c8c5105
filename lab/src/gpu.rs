//! Attention by prflash on the GPU.

use anyhow::{Context as _, Result, ensure};
use prflash::{
    BlockGrid, Bound, Call, Combine, Context, DType, Layout, Operands, Plan, RoundsBound, RoundsPlan,
    Schedule, Shape, TableBuffer, Tables, Tensor, TensorView, wgpu,
};

use crate::attend::{Attend, Qkv, Usage};
use crate::config::Config;
use crate::memory::Memory;
use crate::setting::{Rounds, Setting};

/// [`Attend`] by prflash: keys and values stay on the GPU, and are rotated as the kernel loads them.
pub struct GpuAttention {
    context: Context,
    config: Config,
    setting: Setting,
    sequence: u32,
    max_chunk: usize,
    /// One for the layers that see everything, one for those with a sliding window.
    plans: Vec<Planned>,
    layers: Vec<LayerState>,
    queries: TensorView,
    output: TensorView,
    visits: Visits,
}

struct Planned {
    plan: AnyPlan,
    /// The schedules of the call at hand.
    tables: Option<TableBuffer>,
}

/// In one pass, or in rounds.
enum AnyPlan {
    Once(Plan),
    Rounds(Box<RoundsPlan>),
}

enum AnyBound {
    Once(Bound),
    Rounds(Box<RoundsBound>),
}

struct LayerState {
    plan: usize,
    memory: Memory,
    bound: Option<AnyBound>,
}

impl GpuAttention {
    /// Makes ready for sequences of at most `max_tokens` tokens, which come at most `max_chunk` at a time.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn new(
        context: &Context,
        config: &Config,
        setting: &Setting,
        max_tokens: usize,
        max_chunk: usize,
    ) -> Result<Self> {
        let Config { heads, kv_heads, head_dim, .. } = *config;
        let max_chunk = max_chunk.min(max_tokens);
        let maxima = Shape::new(heads, kv_heads, max_chunk, head_dim)?.with_kv_len(max_tokens)?;
        let mut plans: Vec<Planned> = Vec::new();
        let mut layers: Vec<LayerState> = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let kind = (config.window(layer), config.rope_base(layer));
            let earlier = (0..layer).find(|&other| (config.window(other), config.rope_base(other)) == kind);
            let plan = match earlier {
                Some(other) => layers[other].plan,
                None => {
                    let attention = setting.attention(config, layer)?;
                    let rounds = |combine| {
                        attention.plan_rounds(context, &maxima, combine).map(Box::new).map(AnyPlan::Rounds)
                    };
                    let plan = match setting.rounds(config, layer) {
                        Rounds::One => AnyPlan::Once(attention.plan(context, &maxima)?),
                        Rounds::Independent(_) => rounds(Combine::Independent)?,
                        Rounds::Partition(_) => rounds(Combine::Partition)?,
                    };
                    plans.push(Planned { plan, tables: None });
                    plans.len() - 1
                }
            };
            let memory = Memory::new(setting.storage(), kv_heads, head_dim, max_tokens);
            layers.push(LayerState { plan, memory, bound: None });
        }
        let rows = |dtype| -> prflash::Result<TensorView> {
            let layout = Layout::tokens_first(1, max_chunk, heads, head_dim)?;
            Ok(Tensor::zeros(context, dtype, layout)?.view().clone())
        };
        Ok(Self {
            context: context.clone(),
            config: config.clone(),
            setting: setting.clone(),
            sequence: 0,
            max_chunk,
            plans,
            layers,
            queries: rows(setting.storage())?,
            output: rows(DType::F32)?,
            visits: Visits::default(),
        })
    }
}

impl Attend for GpuAttention {
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        ensure!(
            new.tokens <= self.max_chunk,
            "expected at most {} tokens at once, got {}",
            self.max_chunk,
            new.tokens
        );
        let context = &self.context;
        let state = &mut self.layers[layer];
        if state.memory.append(context, new.k, new.v)? {
            state.bound = None;
        }
        let (q_len, kv_len) = (new.tokens, state.memory.tokens());
        context.queue().write_buffer(self.queries.buffer(), 0, &self.setting.storage().encode(new.q));

        let shape = Shape::new(heads, kv_heads, q_len, head_dim)?.with_kv_len(kv_len)?;
        let grid = BlockGrid::causal(&shape);
        let schedules = self.setting.schedules(&self.config, &grid, self.sequence, layer)?;
        if self.config.window(layer).is_none() {
            self.visits.count(&grid, &schedules);
        }
        let Planned { plan, tables } = &mut self.plans[state.plan];
        let bound = match &mut state.bound {
            Some(bound) => bound,
            empty => {
                let [k, v] = state.memory.views().context("a layer was bound before its first token")?;
                let operands = Operands { q: &self.queries, k, v, output: &self.output, lse: None };
                empty.insert(plan.bind(&operands)?)
            }
        };
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let call = Call::lengths(q_len, kv_len);
        if schedules.is_empty() {
            plan.encode(&mut encoder, bound, &call, 0)?;
        }
        for (round, schedule) in schedules.iter().enumerate() {
            let given = Tables::from(schedule);
            let tables = match &mut *tables {
                Some(tables) => {
                    tables.write(&given)?;
                    tables
                }
                empty => empty.insert(plan.one().upload_tables(&given)?),
            };
            plan.encode(&mut encoder, bound, &call.clone().with_tables(tables), round)?;
        }
        context.queue().submit([encoder.finish()]);
        // Tokens first, all heads of one behind each other: rows of one head, to the view that is read back.
        let rows = Layout::heads_first(1, 1, q_len, heads * head_dim)?;
        Ok(TensorView::new(self.output.buffer(), DType::F32, rows)?.read_blocking(context)?)
    }

    fn start(&mut self, sequence: u32) {
        self.sequence = sequence;
        self.visits = Visits::default();
        self.layers.iter_mut().for_each(|layer| layer.memory.clear());
    }

    fn usage(&self) -> Usage {
        let sum = |bytes: fn(&Memory) -> u64| self.layers.iter().map(|layer| bytes(&layer.memory)).sum();
        self.visits.usage(&self.config, sum(Memory::bytes), sum(Memory::capacity_bytes))
    }
}

impl AnyPlan {
    fn bind(&self, operands: &Operands<'_>) -> prflash::Result<AnyBound> {
        Ok(match self {
            AnyPlan::Once(plan) => AnyBound::Once(plan.bind(operands)?),
            AnyPlan::Rounds(plan) => AnyBound::Rounds(Box::new(plan.bind(operands, None)?)),
        })
    }

    /// The plan that tables are uploaded for.
    fn one(&self) -> &Plan {
        match self {
            AnyPlan::Once(plan) => plan,
            AnyPlan::Rounds(plan) => plan.round_plan(),
        }
    }

    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &AnyBound,
        call: &Call<'_>,
        round: usize,
    ) -> Result<()> {
        match (self, bound) {
            (AnyPlan::Once(plan), AnyBound::Once(bound)) => plan.encode(encoder, bound, call)?,
            (AnyPlan::Rounds(plan), AnyBound::Rounds(bound)) => {
                plan.encode_round(encoder, bound, call, round)?
            }
            _ => anyhow::bail!("a layer was bound to another kind of plan"),
        }
        Ok(())
    }
}

/// Counts of visited key blocks by token.
#[derive(Default)]
pub(crate) struct Visits {
    visited: Vec<u64>,
    dense: Vec<u64>,
}

impl Visits {
    /// Adds one layer's call: every query counts the blocks of its list in every head and round.
    pub(crate) fn count(&mut self, grid: &BlockGrid, schedules: &[Schedule]) {
        let first = grid.kv_len() - grid.q_len();
        self.visited.resize(self.visited.len().max(grid.kv_len()), 0);
        self.dense.resize(self.dense.len().max(grid.kv_len()), 0);
        for position in first..grid.kv_len() {
            let all = |grid: &BlockGrid| (grid.heads() * (position / grid.block_size() + 1)) as u64;
            let grid_of_lists = schedules.first().map_or(grid, Schedule::grid);
            self.dense[position] += all(grid_of_lists);
            if schedules.is_empty() {
                self.visited[position] += all(grid);
            }
            for schedule in schedules {
                let grid = schedule.grid();
                let row = position / grid.block_size() - first / grid.block_size();
                let lists = (0..grid.groups()).map(|group| schedule.row(group, row).len());
                self.visited[position] += (lists.sum::<usize>() * grid.heads_per_group()) as u64;
            }
        }
    }

    pub(crate) fn usage(&self, config: &Config, kv_bytes: u64, kv_capacity_bytes: u64) -> Usage {
        let global = (0..config.layers).filter(|&layer| config.window(layer).is_none()).count();
        Usage {
            kv_bytes,
            kv_capacity_bytes,
            visited: self.visited.clone(),
            dense: self.dense.clone(),
            sampled_heads: (global * config.heads) as u64,
        }
    }
}
