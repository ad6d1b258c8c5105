//! Attention by prflash on CPU cores.

use anyhow::{Context as _, Result, ensure};
use prflash::cache::{HostCache, SequenceId, StoredKeys};
use prflash::native::{
    HostNumbers, HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan, NativeQueries,
    RunningMerge, bf16, f16,
};
use prflash::rounds::Combine;
use prflash::{Attention, BlockGrid, DType, Layout, Positions, Queries, Schedule, Shape, Tables};

use crate::attend::{Attend, Qkv, Rungs, Usage};
use crate::config::Config;
use crate::cpu::{add_rungs, swapped};
use crate::gpu::Visits;
use crate::look::Look;
use crate::memory::check_room;
use crate::setting::{Rounds, Setting};

/// [`Attend`] by prflash's engine on CPU cores: keys and values stay in host memory, as they come
/// or in a staircase cache.
pub struct NativeAttention {
    config: Config,
    setting: Setting,
    sequence: u32,
    max_tokens: usize,
    max_chunk: usize,
    /// One for the layers that see everything, one for those with a sliding window.
    plans: Vec<NativePlan>,
    layers: Vec<LayerState>,
    visits: Visits,
    look: Look,
}

struct LayerState {
    plan: usize,
    attention: Attention,
    rounds: Rounds,
    memory: Memory,
}

/// Where a layer's keys and values live.
enum Memory {
    /// Keys (before rotation) and values, tokens first.
    Plain([Numbers; 2]),
    /// A cache with one sequence.
    Staircase(Box<HostCache>),
}

/// Numbers as a setting stores them.
#[derive(Clone)]
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Numbers {
    fn new(dtype: DType) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => Self::F32(Vec::new()),
            DType::F16 => Self::F16(Vec::new()),
            DType::Bf16 => Self::Bf16(Vec::new()),
            other => anyhow::bail!("--storage: {other} is no type of the host"),
        })
    }

    /// These, in the type of a storage.
    fn of(dtype: DType, numbers: &[f32]) -> Result<Self> {
        let mut own = Self::new(dtype)?;
        own.extend(numbers);
        Ok(own)
    }

    fn extend(&mut self, numbers: &[f32]) {
        let numbers = numbers.iter().copied();
        match self {
            Self::F32(own) => own.extend(numbers),
            Self::F16(own) => own.extend(numbers.map(f16::from_f32)),
            Self::Bf16(own) => own.extend(numbers.map(bf16::from_f32)),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::F32(own) => own.clear(),
            Self::F16(own) => own.clear(),
            Self::Bf16(own) => own.clear(),
        }
    }

    /// How many there are, and how many there is room for.
    fn count(&self) -> [u64; 2] {
        let [len, capacity] = match self {
            Self::F32(own) => [own.len(), own.capacity()],
            Self::F16(own) => [own.len(), own.capacity()],
            Self::Bf16(own) => [own.len(), own.capacity()],
        };
        [len as u64, capacity as u64]
    }

    fn view(&self, layout: Layout) -> prflash::Result<HostView<'_>> {
        let numbers: HostNumbers<'_> = match self {
            Self::F32(own) => own[..].into(),
            Self::F16(own) => own[..].into(),
            Self::Bf16(own) => own[..].into(),
        };
        HostView::new(numbers, layout)
    }
}

impl NativeAttention {
    /// Makes ready for sequences of at most `max_tokens` tokens, which come at most `max_chunk` at
    /// a time.
    ///
    /// # Errors
    /// Sizes past the library's bounds.
    pub fn new(config: &Config, setting: &Setting, max_tokens: usize, max_chunk: usize) -> Result<Self> {
        let Config { heads, kv_heads, head_dim, .. } = *config;
        let max_chunk = max_chunk.min(max_tokens);
        let maxima = Shape::new(heads, kv_heads, max_chunk, head_dim)?.with_kv_len(max_tokens)?;
        let mut plans = Vec::new();
        let mut layers: Vec<LayerState> = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            // With or without a window: nothing else differs between layers.
            let window = config.window(layer);
            let earlier = (0..layer).find(|&other| config.window(other) == window);
            let rounds = setting.rounds(config, layer);
            let attention = setting.attention(config, layer)?.with_lse(rounds != Rounds::One);
            let memory = match setting.staircase(config, layer) {
                None => Memory::Plain([Numbers::new(setting.storage())?, Numbers::new(setting.storage())?]),
                Some(staircase) => {
                    let mut cache = HostCache::new(staircase.clone(), &maxima, setting.stored_keys())?;
                    cache.add();
                    Memory::Staircase(Box::new(cache))
                }
            };
            let plan = match earlier {
                Some(other) => layers[other].plan,
                None => {
                    plans.push(attention.plan_native(&maxima, &NativeOptions::new())?);
                    plans.len() - 1
                }
            };
            layers.push(LayerState { plan, attention, rounds, memory });
        }
        Ok(Self {
            config: config.clone(),
            setting: setting.clone(),
            sequence: 0,
            max_tokens,
            max_chunk,
            plans,
            layers,
            visits: Visits::default(),
            look: Look::new(config, setting)?,
        })
    }
}

impl LayerState {
    fn tokens(&self, config: &Config) -> Result<usize> {
        let row = (config.kv_heads * config.head_dim) as u64;
        Ok(match &self.memory {
            Memory::Plain([keys, _]) => (keys.count()[0] / row) as usize,
            Memory::Staircase(cache) => cache.len(SequenceId::FIRST)?,
        })
    }

    fn append(&mut self, config: &Config, first: usize, new: &Qkv<'_>) -> Result<()> {
        match &mut self.memory {
            Memory::Plain([keys, values]) => {
                keys.extend(new.k);
                values.extend(new.v);
            }
            Memory::Staircase(cache) => {
                let heads_first = |rows| swapped(rows, new.tokens, config.kv_heads, config.head_dim);
                let mut keys = heads_first(new.k);
                if let Some(rope) = self.attention.positions().and_then(Positions::rope)
                    && cache.stored_keys() == StoredKeys::AfterRotation
                {
                    for head in keys.chunks_exact_mut(new.tokens * config.head_dim) {
                        rope.rotate(head, first as i64)?;
                    }
                }
                cache.append(SequenceId::FIRST, &keys, &heads_first(new.v))?;
            }
        }
        Ok(())
    }

    /// What the queries see, `[tokens, heads · head_dim]`, after each of the schedules; densely
    /// without any.
    fn attend(
        &self,
        plan: &NativePlan,
        q: &Numbers,
        shape: &Shape,
        schedules: &[Schedule],
    ) -> Result<Vec<f32>> {
        let (heads, dim, tokens) = (shape.heads(), shape.head_dim(), shape.q_len());
        let queries = Layout::tokens_first(1, tokens, heads, dim)?;
        let combine = match self.rounds {
            Rounds::One => {
                let mut output = vec![0.0; queries.elements()];
                let tables = schedules.first().map_or_else(Tables::new, Tables::from);
                self.call(plan, (q.view(queries)?, shape.kv_len()), (&mut output, queries, None), &tables)?;
                return Ok(output);
            }
            Rounds::Independent(_) => Combine::Independent,
            Rounds::Partition(_) => Combine::Partition,
        };
        // Rows of states are those of the log-sum-exp, heads first.
        let rows = Layout::heads_first(1, heads, tokens, dim)?;
        let mut merge = RunningMerge::new(combine, heads * tokens, dim)?;
        let (mut output, mut lse) = (vec![0.0; rows.elements()], vec![0.0; heads * tokens]);
        for schedule in schedules {
            let results = (&mut output[..], rows, Some(&mut lse[..]));
            self.call(plan, (q.view(queries)?, shape.kv_len()), results, &Tables::from(schedule))?;
            merge.add(&output, &lse)?;
        }
        Ok(swapped(merge.output(), heads, tokens, dim))
    }

    fn call(
        &self,
        plan: &NativePlan,
        (q, kv_len): (HostView<'_>, usize),
        (output, layout, lse): (&mut [f32], Layout, Option<&mut [f32]>),
        tables: &Tables<'_>,
    ) -> Result<()> {
        let output = HostViewMut::new(output, layout)?;
        match &self.memory {
            Memory::Plain([keys, values]) => {
                let maxima = plan.maxima();
                let layout = Layout::tokens_first(1, kv_len, maxima.kv_heads(), maxima.head_dim())?;
                let (k, v) = (keys.view(layout)?, values.view(layout)?);
                plan.run(&mut NativeOperands { q, k, v, output, lse }, tables)?;
            }
            Memory::Staircase(cache) => {
                let [_, _, rows, _] = q.layout().dims();
                let queries =
                    [Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..rows, positions: None }];
                plan.run_cached(cache, &mut NativeQueries { q, output, lse }, &queries, tables)?;
            }
        }
        Ok(())
    }
}

impl Attend for NativeAttention {
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        ensure!(
            new.tokens <= self.max_chunk,
            "expected at most {} tokens at once, got {}",
            self.max_chunk,
            new.tokens
        );
        let state = &mut self.layers[layer];
        let first = state.tokens(&self.config)?;
        let kv_len = first + new.tokens;
        check_room(kv_len, self.max_tokens)?;
        state.append(&self.config, first, new)?;
        let shape = Shape::new(heads, kv_heads, new.tokens, head_dim)?.with_kv_len(kv_len)?;
        let grid = BlockGrid::causal(&shape);
        let attention = &state.attention;
        self.look.append(layer, attention, new)?;
        let scores = self.look.scores(layer, attention, self.setting.block_size().unwrap_or(1), new)?;
        let schedules = self.setting.schedules(&self.config, &grid, self.sequence, layer, scores.as_ref())?;
        if self.config.window(layer).is_none() {
            self.visits.count(&grid, &schedules);
        }
        let q = Numbers::of(self.setting.storage(), new.q)?;
        let plan = self.plans.get(state.plan).context("every layer has a plan")?;
        state.attend(plan, &q, &shape, &schedules)
    }

    fn start(&mut self, sequence: u32) {
        self.sequence = sequence;
        self.visits = Visits::default();
        self.look.clear();
        for layer in &mut self.layers {
            match &mut layer.memory {
                Memory::Plain(rows) => rows.iter_mut().for_each(Numbers::clear),
                Memory::Staircase(cache) => {
                    if cache.remove(SequenceId::FIRST).is_ok() {
                        cache.add();
                    }
                }
            }
        }
    }

    fn usage(&self) -> Usage {
        let size = self.setting.storage().size() as u64;
        let (mut bytes, mut capacity, mut f16) = (0, 0, 0);
        let mut rungs: Option<Rungs> = None;
        for layer in &self.layers {
            match &layer.memory {
                Memory::Plain(rows) => {
                    for [len, room] in rows.iter().map(Numbers::count) {
                        (bytes, capacity, f16) = (bytes + size * len, capacity + size * room, f16 + 2 * len);
                    }
                }
                Memory::Staircase(cache) => {
                    let [live, plain] = add_rungs(rungs.get_or_insert_default(), cache, &self.config);
                    (bytes, capacity, f16) = (bytes + live, capacity + live, f16 + plain);
                }
            }
        }
        Usage { kv_f16_bytes: f16, rungs, ..self.visits.usage(&self.config, bytes, capacity) }
    }
}
