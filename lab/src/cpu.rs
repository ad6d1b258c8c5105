//! Attention in plain loops: what the GPU and the native engine are checked against.

use anyhow::{Result, ensure};
use prflash::cache::{HostCache, SequenceId, StoredKeys};
use prflash::position::Pairing;
use prflash::{Attention, BlockGrid, DType, Positions, Rope, Schedule, Shape, Tables, reference};

use crate::attend::{Attend, Qkv, Rungs, Usage};
use crate::config::Config;
use crate::gpu::Visits;
use crate::look::Look;
use crate::setting::{Rounds, Setting};

/// [`Attend`] without a device: f32, one head and one query after the other. Schedules, frequencies
/// and biases are the host values that the GPU is given; scores, masks and softmax are its own.
/// Layers with a staircase are the exception: they are the library's host cache, read by its
/// oracle.
pub struct CpuAttention {
    config: Config,
    setting: Setting,
    attentions: Vec<Attention>,
    sequence: u32,
    /// Keys (rotated) and values by layer: `[tokens, kv_heads, head_dim]`.
    memory: Vec<[Vec<f32>; 2]>,
    /// The staircase caches of the layers that have one, with sequence 0.
    stairs: Vec<Option<HostCache>>,
    visits: Visits,
    look: Look,
}

impl CpuAttention {
    /// An empty memory for every layer.
    ///
    /// # Errors
    /// Rounds, and storage other than f32: this backend has neither.
    pub fn new(config: &Config, setting: &Setting) -> Result<Self> {
        ensure!(setting.storage() == DType::F32, "--storage: the plain backend stores f32 only");
        let layers = 0..config.layers;
        let single = layers.clone().all(|layer| setting.rounds(config, layer) == Rounds::One);
        ensure!(single, "--rounds: the plain backend has no rounds");
        let shape = Shape::new(config.heads, config.kv_heads, 1, config.head_dim)?;
        let stairs = |layer| -> Result<Option<HostCache>> {
            let Some(staircase) = setting.staircase(config, layer) else { return Ok(None) };
            let mut cache = HostCache::new(staircase.clone(), &shape, setting.stored_keys())?;
            cache.add();
            Ok(Some(cache))
        };
        Ok(Self {
            stairs: layers.clone().map(stairs).collect::<Result<_>>()?,
            attentions: layers.map(|layer| setting.attention(config, layer)).collect::<Result<_>>()?,
            config: config.clone(),
            setting: setting.clone(),
            sequence: 0,
            memory: vec![Default::default(); config.layers],
            visits: Visits::default(),
            look: Look::new(config, setting)?,
        })
    }
}

impl Attend for CpuAttention {
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        if self.stairs[layer].is_some() {
            return self.attend_stairs(layer, new);
        }
        let attention = &self.attentions[layer];
        let positions = attention.positions().cloned().unwrap_or_default();
        let [keys, values] = &mut self.memory[layer];
        let first = keys.len() / (kv_heads * head_dim);
        let (mut q, mut k) = (new.q.to_vec(), new.k.to_vec());
        if let Some(rope) = positions.rope() {
            rotate(rope, &mut q, heads, first);
            rotate(rope, &mut k, kv_heads, first);
        }
        keys.extend(k);
        values.extend(new.v);
        let kv_len = first + new.tokens;
        let shape = Shape::new(heads, kv_heads, new.tokens, head_dim)?.with_kv_len(kv_len)?;
        let grid = BlockGrid::causal(&shape);
        self.look.append(layer, attention, new)?;
        let scores = self.look.scores(layer, attention, self.setting.block_size().unwrap_or(1), new)?;
        let schedules = self.setting.schedules(&self.config, &grid, self.sequence, layer, scores.as_ref())?;
        if self.config.window(layer).is_none() {
            self.visits.count(&grid, &schedules);
        }
        let slopes = match positions.bias() {
            Some(bias) => bias.slopes(heads)?,
            None => vec![0.0; heads],
        };
        let mut output = vec![0.0; new.tokens * heads * head_dim];
        let rows = q.chunks_exact(head_dim).zip(output.chunks_exact_mut(head_dim));
        for (index, (query, out)) in rows.enumerate() {
            let (token, head) = (index / heads, index % heads);
            let position = first + token;
            let visible = visible(attention, schedules.first(), head, position);
            let row = |matrix: &'_ [f32], key: usize| {
                let start = (key * kv_heads + head * kv_heads / heads) * head_dim;
                start..(start + head_dim).min(matrix.len())
            };
            let score = |&(key, ln_p): &(usize, f32)| {
                let lag = (position - key) as u64;
                let product = dot(query, &keys[row(keys, key)]) * attention.scale(head_dim);
                let product = attention.soft_cap().map_or(product, |cap| cap * (product / cap).tanh());
                let bias = slopes[head] * bias_at(&positions, lag);
                product * positions.factor(lag) as f32 - bias as f32 - attention.correction() * ln_p
            };
            let scores: Vec<f32> = visible.iter().map(score).collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0.0;
            for (&(key, _), score) in visible.iter().zip(scores) {
                let weight = (score - top).exp();
                total += weight;
                for (sum, value) in out.iter_mut().zip(&values[row(values, key)]) {
                    *sum += weight * value;
                }
            }
            out.iter_mut().for_each(|sum| *sum /= total);
        }
        Ok(output)
    }

    fn start(&mut self, sequence: u32) {
        self.sequence = sequence;
        self.visits = Visits::default();
        self.look.clear();
        self.memory.iter_mut().flatten().for_each(Vec::clear);
        for cache in self.stairs.iter_mut().flatten() {
            if cache.remove(SequenceId::FIRST).is_ok() {
                cache.add();
            }
        }
    }

    fn usage(&self) -> Usage {
        let count = |len: fn(&Vec<f32>) -> usize| self.memory.iter().flatten().map(len).sum::<usize>() as u64;
        let (mut bytes, mut capacity, mut f16) =
            (4 * count(Vec::len), 4 * count(Vec::capacity), 2 * count(Vec::len));
        let mut rungs = None;
        for cache in self.stairs.iter().flatten() {
            let [live, plain] = add_rungs(rungs.get_or_insert_default(), cache, &self.config);
            (bytes, capacity, f16) = (bytes + live, capacity + live, f16 + plain);
        }
        Usage { kv_f16_bytes: f16, rungs, ..self.visits.usage(&self.config, bytes, capacity) }
    }
}

impl CpuAttention {
    fn attend_stairs(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let (attention, Some(cache)) = (&self.attentions[layer], &mut self.stairs[layer]) else {
            anyhow::bail!("layer {layer} has no staircase");
        };
        let first = cache.len(SequenceId::FIRST)?;
        let mut keys = new.k.to_vec();
        if let Some(rope) = attention.positions().and_then(Positions::rope)
            && cache.stored_keys() == StoredKeys::AfterRotation
        {
            rotate(rope, &mut keys, kv_heads, first);
        }
        let heads_first = |rows: &[f32], heads: usize| swapped(rows, new.tokens, heads, head_dim);
        cache.append(SequenceId::FIRST, &heads_first(&keys, kv_heads), &heads_first(new.v, kv_heads))?;
        let shape = Shape::new(heads, kv_heads, new.tokens, head_dim)?.with_kv_len(first + new.tokens)?;
        let grid = BlockGrid::causal(&shape);
        self.look.append(layer, attention, new)?;
        let scores = self.look.scores(layer, attention, self.setting.block_size().unwrap_or(1), new)?;
        let schedules = self.setting.schedules(&self.config, &grid, self.sequence, layer, scores.as_ref())?;
        if self.config.window(layer).is_none() {
            self.visits.count(&grid, &schedules);
        }
        let tables = schedules.first().map_or_else(Tables::new, Tables::from);
        let q = heads_first(new.q, heads);
        let exact = reference::attention_cached(attention, &shape, &q, cache, SequenceId::FIRST, &tables)?;
        let output: Vec<f32> = exact.output.iter().map(|&x| x as f32).collect();
        Ok(swapped(&output, heads, new.tokens, head_dim))
    }
}

/// Adds the bytes of a layer's cache. Returns what it holds, and what that would be in f16.
pub(crate) fn add_rungs(rungs: &mut Rungs, cache: &HostCache, config: &Config) -> [u64; 2] {
    let Config { heads, kv_heads, head_dim, .. } = *config;
    let Ok(standing) = cache.standing(SequenceId::FIRST) else { return [0; 2] };
    let Ok(shape) = Shape::new(heads, kv_heads, 1, head_dim) else { return [0; 2] };
    let memory = standing.memory(&shape);
    let (live, plain) = (cache.live_bytes(), 4 * (standing.len() * kv_heads * head_dim) as u64);
    rungs.add(&memory);
    rungs.formula += memory.total();
    rungs.live += live;
    rungs.capacity += live;
    rungs.f16 += plain;
    [live, plain]
}

/// `[a, b, dim]` as `[b, a, dim]`.
pub(crate) fn swapped(rows: &[f32], a: usize, b: usize, dim: usize) -> Vec<f32> {
    let row = |index: usize| {
        let (b_index, a_index) = (index / a, index % a);
        &rows[(a_index * b + b_index) * dim..][..dim]
    };
    (0..a * b).flat_map(row).copied().collect()
}

fn bias_at(positions: &Positions, lag: u64) -> f64 {
    let Some(bias) = positions.bias() else { return 0.0 };
    let weight = if positions.factor_length().is_some() { 1.0 - positions.factor(lag) } else { 1.0 };
    weight * bias.distance().at(lag)
}

/// The keys that a query sees, each with ln p of its block.
fn visible(
    attention: &Attention,
    schedule: Option<&Schedule>,
    head: usize,
    position: usize,
) -> Vec<(usize, f32)> {
    let first = attention.window().map_or(0, |window| (position + 1).saturating_sub(window));
    let keys = first..=position;
    let Some(schedule) = schedule else { return keys.map(|key| (key, 0.0)).collect() };
    let grid = schedule.grid();
    let row = position / grid.block_size() - grid.first_query_block() as usize;
    let entries = schedule.row(grid.group_of_head(head), row);
    let of_block = |entry: prflash::sampling::Entry| {
        let start = entry.block * grid.block_size();
        (start..start + grid.block_size()).map(move |key| (key, entry.ln_p))
    };
    entries.flat_map(of_block).filter(|(key, _)| keys.contains(key)).collect()
}

/// Turns each pair of channels by position times its frequency.
pub(crate) fn rotate(rope: &Rope, rows: &mut [f32], heads: usize, first: usize) {
    let dim = rope.head_dim();
    for (index, row) in rows.chunks_exact_mut(dim).enumerate() {
        let position = (first + index / heads) as f64;
        for (pair, frequency) in rope.frequencies().iter().enumerate() {
            let (sin, cos) = (position * frequency).sin_cos();
            let (a, b) = match rope.pairing() {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Half => (pair, pair + rope.rotary_dim() / 2),
            };
            let (x, y) = (f64::from(row[a]), f64::from(row[b]));
            row[a] = (rope.temperature() * (x * cos - y * sin)) as f32;
            row[b] = (rope.temperature() * (x * sin + y * cos)) as f32;
        }
    }
}

/// The product is summed in eight running sums, which the compiler turns into vector instructions.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest = a.len() / 8 * 8;
    sums.iter().sum::<f32>() + a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum::<f32>()
}
