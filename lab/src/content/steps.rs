//! Attention of tokens that come one by one behind a remembered text, computed together.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};
use prflash::sampling::Entry;
use prflash::sampling::content::KeySummaries;
use prflash::{Attention, BlockGrid, Positions, Schedule, Shape, Tables};

use super::memory::Memory;
use crate::attend::{Attend, Qkv, Usage};
use crate::config::Config;
use crate::cpu::{dot, rotate, swapped};
use crate::setting::{Content, Setting};

/// What tokens read, summed over tokens, key/value heads and the layers without a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Read {
    /// Keys with their values: what the lists of a key/value head's query heads have together.
    pub tokens: u64,
    /// Groups whose extremes were read to choose.
    pub groups: u64,
    /// The keys that dense attention reads.
    pub dense: u64,
}

impl Read {
    /// The bytes that were read over those that dense attention reads: keys and values in f16, and
    /// two extremes of each channel and group in f16, which is as much as one token.
    pub fn share(&self) -> f64 {
        (self.tokens + self.groups) as f64 / self.dense.max(1) as f64
    }

    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.groups += other.groups;
        self.dense += other.dense;
    }
}

/// [`Attend`] for the tokens behind a remembered text. Each of them sees what it would see if it
/// had come alone, and chooses its blocks by its own query: f32 on the host, in threads.
pub struct Steps<'a> {
    config: &'a Config,
    setting: &'a Setting,
    memory: &'a Memory,
    sequence: u32,
    /// The new tokens of each layer, as in [`Memory`].
    new: Vec<[Vec<f32>; 2]>,
    read: Read,
}

impl<'a> Steps<'a> {
    /// Behind `memory`, under `setting`.
    pub fn new(config: &'a Config, setting: &'a Setting, memory: &'a Memory) -> Self {
        let new = vec![Default::default(); config.layers];
        Self { config, setting, memory, sequence: 0, new, read: Read::default() }
    }

    /// What was read since [`start`](Attend::start).
    pub fn read(&self) -> Read {
        self.read
    }
}

impl Attend for Steps<'_> {
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let attention = self.setting.attention(self.config, layer)?;
        let content = self.setting.content(self.config, layer);
        let before = self.new[layer][0].len() / (kv_heads * head_dim);
        let first = self.memory.tokens + before;
        let (mut q, mut k) = (new.q.to_vec(), new.k.to_vec());
        if let Some(rope) = attention.positions().and_then(Positions::rope) {
            rotate(rope, &mut q, heads, first);
            rotate(rope, &mut k, kv_heads, first);
        }
        self.new[layer][0].extend(k);
        self.new[layer][1].extend(new.v);
        let rows = Rows {
            old: &self.memory.layers[layer],
            new: &self.new[layer],
            old_tokens: self.memory.tokens,
            row: kv_heads * head_dim,
        };
        let layer = Layer {
            config: self.config,
            setting: self.setting,
            attention: &attention,
            content,
            rows,
            layer,
            sequence: self.sequence,
        };
        let mut keys = None;
        if let Some(content) = content {
            let mut summaries = KeySummaries::new(kv_heads, head_dim, content.group)?;
            summaries.append(&layer.heads_first(0..first))?;
            keys = Some(summaries);
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(new.tokens);
        let each = new.tokens.div_ceil(threads);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let part = |start: usize| {
                let (layer, q, given, keys) = (&layer, &q, &new.q, keys.clone());
                scope.spawn(move || layer.part(first, start..(start + each).min(new.tokens), q, given, keys))
            };
            let running: Vec<_> = (0..new.tokens).step_by(each).map(part).collect();
            running
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")))
                .collect()
        });
        let mut output = Vec::with_capacity(new.tokens * heads * head_dim);
        for part in parts {
            let (rows, read) = part??;
            output.extend(rows);
            self.read.add(read);
        }
        Ok(output)
    }

    fn start(&mut self, sequence: u32) {
        self.sequence = sequence;
        self.read = Read::default();
        self.new.iter_mut().flatten().for_each(Vec::clear);
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
}

/// Keys and values, old and new.
#[derive(Clone, Copy)]
struct Rows<'a> {
    old: &'a [Vec<f32>; 2],
    new: &'a [Vec<f32>; 2],
    old_tokens: usize,
    /// Numbers of a token.
    row: usize,
}

impl<'a> Rows<'a> {
    /// The keys (0) or values (1) of a token.
    fn of(&self, side: usize, token: usize) -> &'a [f32] {
        let (rows, token) = match token.checked_sub(self.old_tokens) {
            None => (&self.old[side], token),
            Some(token) => (&self.new[side], token),
        };
        &rows[token * self.row..][..self.row]
    }
}

/// One layer's call.
#[derive(Clone, Copy)]
struct Layer<'a> {
    config: &'a Config,
    setting: &'a Setting,
    attention: &'a Attention,
    content: Option<Content>,
    rows: Rows<'a>,
    layer: usize,
    sequence: u32,
}

impl Layer<'_> {
    /// The keys of some tokens, `[kv_heads, tokens, head_dim]`.
    fn heads_first(&self, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let rows: Vec<f32> = tokens.clone().flat_map(|token| self.rows.of(0, token)).copied().collect();
        swapped(&rows, tokens.len(), self.config.kv_heads, self.config.head_dim)
    }

    /// Some of the new tokens, one after the other. `keys` are the summaries of what is before all
    /// of them, `q` the rotated queries, `given` those before rotation.
    fn part(
        &self,
        first: usize,
        tokens: std::ops::Range<usize>,
        q: &[f32],
        given: &[f32],
        mut keys: Option<KeySummaries>,
    ) -> Result<(Vec<f32>, Read)> {
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let width = heads * head_dim;
        let mut output = Vec::with_capacity(tokens.len() * width);
        let mut read = Read::default();
        if let Some(keys) = &mut keys {
            keys.append(&self.heads_first(first..first + tokens.start))?;
        }
        for token in tokens {
            let position = first + token;
            let shape = Shape::new(heads, kv_heads, 1, head_dim)?.with_kv_len(position + 1)?;
            let grid = BlockGrid::causal(&shape);
            let mut scores = None;
            if let (Some(keys), Some(content)) = (&mut keys, &self.content) {
                keys.append(&self.heads_first(position..position + 1))?;
                let grid = grid.with_block_size(self.setting.block_size().context("no block size")?)?;
                let given = &given[token * width..][..width];
                let (estimate, probe) = (content.estimate, content.probe);
                scores =
                    Some(self.attention.block_scores(&grid, given, keys, estimate, probe, &Tables::new())?);
                read.groups += (keys.groups() * kv_heads) as u64;
            }
            let schedules =
                self.setting.schedules(self.config, &grid, self.sequence, self.layer, scores.as_ref())?;
            let schedule = schedules.first();
            if self.config.window(self.layer).is_none() {
                read.tokens += self.tokens_read(schedule, position);
                read.dense += ((position + 1) * kv_heads) as u64;
            }
            for head in 0..heads {
                let query = &q[token * width + head * head_dim..][..head_dim];
                output.extend(self.row(query, head, position, schedule));
            }
        }
        Ok((output, read))
    }

    /// The keys that the query heads of each key/value head read together.
    fn tokens_read(&self, schedule: Option<&Schedule>, position: usize) -> u64 {
        let Config { heads, kv_heads, .. } = *self.config;
        let Some(schedule) = schedule else { return ((position + 1) * kv_heads) as u64 };
        let (grid, each) = (schedule.grid(), heads / kv_heads);
        let of_kv_head = |kv_head: usize| {
            let of_heads = kv_head * each..(kv_head + 1) * each;
            let groups: BTreeSet<usize> = of_heads.map(|head| grid.group_of_head(head)).collect();
            let blocks: BTreeSet<usize> =
                groups.into_iter().flat_map(|group| schedule.blocks(group, 0)).collect();
            let size = grid.block_size();
            blocks
                .into_iter()
                .map(|block| ((block + 1) * size).min(position + 1) - block * size)
                .sum::<usize>()
        };
        (0..kv_heads).map(of_kv_head).sum::<usize>() as u64
    }

    /// What one head of one token sees.
    fn row(&self, query: &[f32], head: usize, position: usize, schedule: Option<&Schedule>) -> Vec<f32> {
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let at = head * kv_heads / heads * head_dim;
        let visible = self.attention.visible(position as i64, position + 1);
        let (scale, beta) = (self.attention.scale(head_dim), self.attention.correction());
        let mut scored: Vec<(usize, f32)> = Vec::new();
        let mut score = |keys: std::ops::Range<usize>, ln_p: f32| {
            for key in keys.start.max(visible.start)..keys.end.min(visible.end) {
                let product = dot(query, &self.rows.of(0, key)[at..at + head_dim]) * scale;
                let product = self.attention.soft_cap().map_or(product, |cap| cap * (product / cap).tanh());
                scored.push((key, product - beta * ln_p));
            }
        };
        match schedule {
            None => score(visible.clone(), 0.0),
            Some(schedule) => {
                let (grid, size) = (schedule.grid(), schedule.grid().block_size());
                for Entry { block, ln_p } in schedule.row(grid.group_of_head(head), 0) {
                    score(block * size..(block + 1) * size, ln_p);
                }
            }
        }
        let top = scored.iter().map(|&(_, score)| score).fold(f32::NEG_INFINITY, f32::max);
        let (mut total, mut output) = (0.0, vec![0.0; head_dim]);
        for (key, score) in scored {
            let weight = (score - top).exp();
            total += weight;
            let value = &self.rows.of(1, key)[at..at + head_dim];
            output.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
        }
        output.iter_mut().for_each(|sum| *sum /= total);
        output
    }
}
