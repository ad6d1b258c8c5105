//! Attention over a cache in host memory for every layer.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Result, ensure};
use prflash::cache::{HostCache, SequenceId, Staircase, StoredKeys};
use prflash::native::{HostView, HostViewMut, NativeOptions, NativePlan, NativeQueries};
use prflash::{Layout, Positions, Queries, Shape, Tables};

use super::balance::Balance;
use crate::attend::{Attend, Qkv, Usage};
use crate::config::Config;
use crate::content::memory::Memory;
use crate::cpu::{rotate, swapped};
use crate::setting::Setting;

/// [`Attend`] for the tokens behind a remembered text, of which every layer has a cache. Each of
/// them sees what it would see if it had come alone.
pub struct Held<'a> {
    config: &'a Config,
    balance: Option<&'a Balance>,
    layers: Vec<Layer>,
}

/// One layer's.
struct Layer {
    cache: HostCache,
    plan: NativePlan,
    positions: Option<Positions>,
}

impl<'a> Held<'a> {
    /// Caches that hold `memory`, by layer, and room for `new` more tokens; of keys multiplied by a
    /// balance, where one is given.
    ///
    /// # Errors
    /// Another number of staircases than of layers; what the library refuses.
    pub fn new(
        config: &'a Config,
        setting: &Setting,
        memory: &Memory,
        staircases: &[Staircase],
        new: usize,
        balance: Option<&'a Balance>,
    ) -> Result<Self> {
        ensure!(
            staircases.len() == config.layers,
            "expected {} staircases, got {}",
            config.layers,
            staircases.len()
        );
        let Config { heads, kv_heads, head_dim, .. } = *config;
        let shape = Shape::new(heads, kv_heads, new, head_dim)?.with_kv_len(memory.tokens + new)?;
        let make = |(layer, staircase): (usize, &Staircase)| -> Result<Layer> {
            let attention = setting.attention(config, layer)?;
            let mut cache = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation)?;
            let sequence = cache.add();
            let [keys, values] = &memory.layers[layer];
            let mut keys = Cow::from(keys);
            if let Some(balance) = balance {
                balance.multiply_keys(layer, keys.to_mut());
            }
            let [k, v] = [&keys, &values[..]].map(|rows| swapped(rows, memory.tokens, kv_heads, head_dim));
            cache.append(sequence, &k, &v)?;
            let plan = attention.plan_native(&shape, &NativeOptions::new())?;
            Ok(Layer { cache, plan, positions: attention.positions().cloned() })
        };
        Ok(Self { config, balance, layers: staircases.iter().enumerate().map(make).collect::<Result<_>>()? })
    }
}

impl Layer {
    /// The first of some new tokens that no segment leaves the residual for.
    fn piece(&self, tokens: Range<usize>) -> Result<Range<usize>> {
        let staircase = self.cache.staircase();
        let len = self.cache.len(SequenceId::FIRST)?;
        let quiet = |more: &usize| staircase.on_append(len + more).is_none();
        // A token with which a segment leaves comes first in its piece, as it sees what is left.
        let count = 1 + (1..tokens.len()).take_while(quiet).count();
        Ok(tokens.start..tokens.start + count)
    }
}

impl Attend for Held<'_> {
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let (mut q, mut k) = (Cow::from(new.q), new.k.to_vec());
        if let Some(balance) = self.balance {
            balance.divide_queries(layer, q.to_mut(), self.config);
            balance.multiply_keys(layer, &mut k);
        }
        let layer = &mut self.layers[layer];
        let first = layer.cache.len(SequenceId::FIRST)?;
        if let Some(rope) = layer.positions.as_ref().and_then(Positions::rope) {
            rotate(rope, &mut k, kv_heads, first);
        }
        let mut output = vec![0.0; new.tokens * heads * head_dim];
        let mut rest = 0..new.tokens;
        while !rest.is_empty() {
            let piece = layer.piece(rest.clone())?;
            rest.start = piece.end;
            let rows = |rows: &[f32]| {
                let row = kv_heads * head_dim;
                swapped(&rows[piece.start * row..piece.end * row], piece.len(), kv_heads, head_dim)
            };
            layer.cache.append(SequenceId::FIRST, &rows(&k), &rows(new.v))?;
            let layout = Layout::tokens_first(1, piece.len(), heads, head_dim)?;
            let part = piece.start * heads * head_dim..piece.end * heads * head_dim;
            let mut operands = NativeQueries {
                q: HostView::new(&q[part.clone()], layout)?,
                output: HostViewMut::new(&mut output[part], layout)?,
                lse: None,
            };
            let rows = 0..piece.len();
            let queries = Queries { sequence: SequenceId::FIRST, entry: 0, rows, positions: None };
            layer.plan.run_cached(&layer.cache, &mut operands, &[queries], &Tables::new())?;
        }
        Ok(output)
    }

    /// A cache is filled once.
    fn start(&mut self, _sequence: u32) {}

    fn usage(&self) -> Usage {
        Usage::default()
    }
}
