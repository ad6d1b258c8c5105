//! Attention by prflash on the GPU.

use anyhow::{Context as _, Result, ensure};
use prflash::attention::{GpuSelector, Selection};
use prflash::cache::Staircase;
use prflash::rounds::{Combine, RoundsBound, RoundsPlan};
use prflash::{
    Attention, BlockGrid, Bound, Call, Context, DType, Layout, Operands, Plan, Queries, Schedule, Shape,
    TableBuffer, Tables, Tensor, TensorView, wgpu,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::attend::{Attend, Qkv, Usage};
use crate::choosing::{self, Known};
use crate::config::Config;
use crate::look::Look;
use crate::memory::{Memory, Plain, Staging, Stairs};
use crate::setting::{Content, Rounds, Setting};

/// [`Attend`] by prflash: keys and values stay on the GPU, as they come or in a staircase cache.
pub struct GpuAttention {
    context: Context,
    config: Config,
    setting: Setting,
    sequence: u32,
    max_chunk: usize,
    /// One for the layers that see everything, one for those with a sliding window.
    kinds: Vec<Kind>,
    layers: Vec<LayerState>,
    queries: TensorView,
    output: TensorView,
    visits: Visits,
    look: Look,
}

/// Plans of layers that compute the same: one for pieces of a text, and one for single tokens,
/// which has another kernel.
struct Kind {
    reading: Planned,
    writing: Planned,
}

struct Planned {
    plan: AnyPlan,
    /// The schedules of the call at hand.
    tables: Option<TableBuffer>,
    /// What chooses blocks on the GPU, where that does.
    selector: Option<GpuSelector>,
}

/// A plan in one pass or in rounds.
enum AnyPlan {
    Once(Plan),
    Rounds(Box<RoundsPlan>),
}

/// Which blocks a call visits.
enum Lists<'a> {
    All,
    Given(&'a TableBuffer),
    Chosen(Selection<'a>),
}

enum AnyBound {
    Once(Box<Bound>),
    Rounds(Box<RoundsBound>),
}

struct LayerState {
    kind: usize,
    attention: Attention,
    /// How the GPU chooses blocks, where it does.
    content: Option<Content>,
    memory: Memory,
    /// What is known of keys that lie in tensors.
    known: Known,
    /// The bound plans for reading and for writing.
    bounds: [Option<AnyBound>; 2],
}

impl GpuAttention {
    /// Makes ready for sequences of at most `max_tokens` tokens, which come at most `max_chunk` at
    /// a time.
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
        let rows = |dtype, heads| -> prflash::Result<TensorView> {
            let layout = Layout::tokens_first(1, max_chunk, heads, head_dim)?;
            Ok(Tensor::zeros(context, dtype, layout)?.view().clone())
        };
        let staging = Staging { keys: rows(DType::F32, kv_heads)?, values: rows(DType::F32, kv_heads)? };
        let mut kinds: Vec<Kind> = Vec::new();
        let mut layers: Vec<LayerState> = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            // With or without a window: nothing else differs between layers.
            let window = config.window(layer);
            let earlier = (0..layer).find(|&other| config.window(other) == window);
            let attention = setting.attention(config, layer)?;
            let content = setting.content(config, layer);
            let content = content.filter(|content| choosing::is_on_gpu(content, &attention));
            let memory = match setting.staircase(config, layer) {
                None => {
                    Memory::Plain(Box::new(Plain::new(setting.storage(), kv_heads, head_dim, max_tokens)))
                }
                Some(staircase) => {
                    let rope = attention.positions().and_then(prflash::Positions::rope);
                    let keys = setting.stored_keys();
                    let staircase = summarized(staircase, content.as_ref())?;
                    Memory::Staircase(Box::new(Stairs::new(
                        context, &staircase, &maxima, keys, rope, &staging,
                    )?))
                }
            };
            let kind = match earlier {
                Some(other) => layers[other].kind,
                None => {
                    let rounds = setting.rounds(config, layer);
                    let planned = |q_len| -> Result<Planned> {
                        let maxima = maxima.with_q_len(q_len)?;
                        let plan = AnyPlan::new(context, &attention, &maxima, rounds, &memory)?;
                        let selector = match (&plan, &content) {
                            (AnyPlan::Once(plan), Some(content)) => {
                                let grid = setting.lists(&BlockGrid::causal(&maxima))?;
                                Some(choosing::selector(plan, &grid, content)?)
                            }
                            _ => None,
                        };
                        Ok(Planned { plan, tables: None, selector })
                    };
                    kinds.push(Kind { reading: planned(max_chunk)?, writing: planned(1)? });
                    kinds.len() - 1
                }
            };
            let known = Known::default();
            layers.push(LayerState { kind, attention, content, memory, known, bounds: [None, None] });
        }
        Ok(Self {
            context: context.clone(),
            config: config.clone(),
            setting: setting.clone(),
            sequence: 0,
            max_chunk,
            kinds,
            layers,
            queries: rows(setting.storage(), heads)?,
            output: rows(DType::F32, heads)?,
            visits: Visits::default(),
            look: Look::new(config, setting)?,
        })
    }
}

impl GpuAttention {
    /// Remembers random numbers in place of `tokens` more tokens, without attention to them: for
    /// measuring what comes after.
    ///
    /// # Errors
    /// More tokens than this was made for; what the device refuses.
    pub fn remember(&mut self, tokens: usize) -> Result<()> {
        let row = self.config.kv_heads * self.config.head_dim;
        let mut random = SmallRng::seed_from_u64(tokens as u64);
        let mut rows = |tokens: usize| -> Vec<f32> {
            (0..tokens * row).map(|_| random.random_range(-1.0f32..1.0)).collect()
        };
        for piece in self.setting.pieces(tokens, self.max_chunk) {
            let (k, v) = (rows(piece.len()), rows(piece.len()));
            for (layer, state) in self.layers.iter_mut().enumerate() {
                let mut encoder = self.context.device().create_command_encoder(&Default::default());
                if state.memory.append(&self.context, &mut encoder, &k, &v)? {
                    state.bounds = [None, None];
                    state.known.moved();
                }
                self.context.queue().submit([encoder.finish()]);
                if state.content.is_none() {
                    let new = Qkv { tokens: piece.len(), q: &[], k: &k, v: &v };
                    self.look.append(layer, &state.attention, &new)?;
                }
            }
        }
        Ok(())
    }
}

/// A staircase with summaries, where blocks are chosen by them.
fn summarized(staircase: &Staircase, content: Option<&Content>) -> Result<Staircase> {
    let staircase = staircase.clone();
    Ok(match (staircase.summaries(), content) {
        (None, Some(content)) => staircase.with_summaries(content.group)?,
        _ => staircase,
    })
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
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if state.memory.append(context, &mut encoder, new.k, new.v)? {
            state.bounds = [None, None];
            state.known.moved();
        }
        let (q_len, kv_len) = (new.tokens, state.memory.tokens());
        context.queue().write_buffer(self.queries.buffer(), 0, &self.setting.storage().encode(new.q));

        let shape = Shape::new(heads, kv_heads, q_len, head_dim)?.with_kv_len(kv_len)?;
        let grid = BlockGrid::causal(&shape);
        let attention = &state.attention;
        let mut summaries = None;
        let schedules = match &state.content {
            Some(content) => {
                if let Memory::Plain(plain) = &state.memory {
                    let [k, _] = plain.views().context("a layer has no keys after its first")?;
                    let rule = (attention, content);
                    summaries = Some(state.known.append(context, &mut encoder, rule, k, kv_len)?);
                }
                let known = state.memory.summarized();
                let grid = self.setting.lists(&grid)?;
                self.visits.count_kept(&grid, |block| choosing::kept(content, &grid, block, known));
                Vec::new()
            }
            None => {
                self.look.append(layer, attention, new)?;
                let block_size = self.setting.block_size().unwrap_or(1);
                let scores = self.look.scores(layer, attention, block_size, new)?;
                let scores = scores.as_ref();
                let schedules = self.setting.schedules(&self.config, &grid, self.sequence, layer, scores)?;
                if self.config.window(layer).is_none() {
                    self.visits.count(&grid, &schedules);
                }
                schedules
            }
        };
        let kind = &mut self.kinds[state.kind];
        let (Planned { plan, tables, selector }, bound) = match q_len {
            1 => (&mut kind.writing, &mut state.bounds[1]),
            _ => (&mut kind.reading, &mut state.bounds[0]),
        };
        let bound = match bound {
            Some(bound) => bound,
            empty => empty.insert(plan.bind(&self.queries, &self.output, &state.memory)?),
        };
        let memory = &state.memory;
        if schedules.is_empty() {
            let seeds = [self.setting.seed_of(self.sequence, layer)];
            let selector = selector.as_ref();
            let selection = selector.map(|selector| choosing::selection(selector, summaries, &seeds));
            let lists = selection.map_or(Lists::All, Lists::Chosen);
            plan.encode(&mut encoder, bound, memory, [q_len, kv_len], lists, 0)?;
        }
        for (round, schedule) in schedules.iter().enumerate() {
            let given = Tables::from(schedule);
            let tables = match &mut *tables {
                Some(tables) => {
                    tables.write(&given)?;
                    tables
                }
                empty => empty.insert(TableBuffer::new(context, &given)?),
            };
            plan.encode(&mut encoder, bound, memory, [q_len, kv_len], Lists::Given(tables), round)?;
        }
        context.queue().submit([encoder.finish()]);
        // Tokens first, all heads of one behind each other: rows of one head, to the view that is
        // read back.
        let rows = Layout::heads_first(1, 1, q_len, heads * head_dim)?;
        Ok(self.output.with_layout(rows)?.read_blocking(context)?)
    }

    fn start(&mut self, sequence: u32) {
        self.sequence = sequence;
        self.visits = Visits::default();
        self.look.clear();
        for layer in &mut self.layers {
            layer.memory.clear();
            layer.known.clear();
        }
    }

    fn usage(&self) -> Usage {
        let sum = |bytes: fn(&Memory) -> u64| self.layers.iter().map(|layer| bytes(&layer.memory)).sum();
        let usage = self.visits.usage(&self.config, sum(Memory::bytes), sum(Memory::capacity_bytes));
        let mut rungs = None;
        for layer in &self.layers {
            if let Memory::Staircase(stairs) = &layer.memory {
                stairs.add_to(rungs.get_or_insert_default());
            }
        }
        let row = self.config.kv_heads * self.config.head_dim;
        let tokens: usize = self.layers.iter().map(|layer| layer.memory.tokens()).sum();
        Usage { kv_f16_bytes: 4 * (tokens * row) as u64, rungs, ..usage }
    }

    fn check(&self) -> Result<()> {
        for (index, layer) in self.layers.iter().enumerate() {
            if let Memory::Staircase(stairs) = &layer.memory {
                stairs.cache().check_blocking().with_context(|| format!("the cache of layer {index}"))?;
            }
        }
        Ok(())
    }
}

impl AnyPlan {
    fn new(
        context: &Context,
        attention: &Attention,
        maxima: &Shape,
        rounds: Rounds,
        memory: &Memory,
    ) -> Result<Self> {
        let in_rounds =
            |combine| attention.plan(context, maxima)?.rounds(combine).map(Box::new).map(AnyPlan::Rounds);
        Ok(match (memory, rounds) {
            (Memory::Staircase(stairs), _) => AnyPlan::Once(attention.plan_cached(stairs.cache(), maxima)?),
            (_, Rounds::One) => AnyPlan::Once(attention.plan(context, maxima)?),
            (_, Rounds::Independent(_)) => in_rounds(Combine::Independent)?,
            (_, Rounds::Partition(_)) => in_rounds(Combine::Partition)?,
        })
    }

    fn bind(&self, q: &TensorView, output: &TensorView, memory: &Memory) -> Result<AnyBound> {
        let operands = || -> Result<Operands<'_>> {
            let Memory::Plain(plain) = memory else { anyhow::bail!("{MISMATCH}") };
            let [k, v] = plain.views().context("a layer was bound before its first token")?;
            Ok(Operands { q, k, v, output, lse: None })
        };
        Ok(match (self, memory) {
            (AnyPlan::Once(plan), Memory::Staircase(_)) => {
                AnyBound::Once(Box::new(plan.bind_queries(q, output, None)?))
            }
            (AnyPlan::Once(plan), Memory::Plain(_)) => AnyBound::Once(Box::new(plan.bind(&operands()?)?)),
            (AnyPlan::Rounds(plan), _) => AnyBound::Rounds(Box::new(plan.bind(&operands()?, None)?)),
        })
    }

    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &AnyBound,
        memory: &Memory,
        [q_len, kv_len]: [usize; 2],
        lists: Lists<'_>,
        round: usize,
    ) -> Result<()> {
        let queries;
        let call = match memory {
            Memory::Staircase(stairs) => {
                queries =
                    [Queries { sequence: stairs.sequence(), entry: 0, rows: 0..q_len, positions: None }];
                Call::cached(stairs.cache(), &queries)
            }
            Memory::Plain(_) => Call::lengths(q_len, kv_len),
        };
        let call = match lists {
            Lists::All => call,
            Lists::Given(tables) => call.with_tables(tables),
            Lists::Chosen(selection) => call.with_selection(selection),
        };
        match (self, bound) {
            (AnyPlan::Once(plan), AnyBound::Once(bound)) => plan.encode(encoder, bound, &call)?,
            (AnyPlan::Rounds(plan), AnyBound::Rounds(bound)) => {
                plan.encode_round(encoder, bound, &call, round)?
            }
            _ => anyhow::bail!("{MISMATCH}"),
        }
        Ok(())
    }
}

const MISMATCH: &str = "a layer's plan is for another kind of memory";

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

    /// The same by how many blocks the lists of a query block have, counted from the start.
    pub(crate) fn count_kept(&mut self, grid: &BlockGrid, kept: impl Fn(usize) -> usize) {
        let first = grid.kv_len() - grid.q_len();
        self.visited.resize(self.visited.len().max(grid.kv_len()), 0);
        self.dense.resize(self.dense.len().max(grid.kv_len()), 0);
        for position in first..grid.kv_len() {
            let block = position / grid.block_size();
            self.dense[position] += (grid.heads() * (block + 1)) as u64;
            self.visited[position] += (grid.heads() * kept(block)) as u64;
        }
    }

    pub(crate) fn usage(&self, config: &Config, kv_bytes: u64, kv_capacity_bytes: u64) -> Usage {
        let global = (0..config.layers).filter(|&layer| config.window(layer).is_none()).count();
        Usage {
            kv_bytes,
            kv_capacity_bytes,
            kv_f16_bytes: 0,
            rungs: None,
            visited: self.visited.clone(),
            dense: self.dense.clone(),
            sampled_heads: (global * config.heads) as u64,
        }
    }
}
