//! What attention that looks at keys knows of them: summaries, kept on the host, layer by layer.

use anyhow::Result;
use prflash::sampling::content::{BlockScores, KeySummaries};
use prflash::{Attention, BlockGrid, Positions, Shape, Tables};

use crate::attend::Qkv;
use crate::config::Config;
use crate::cpu::swapped;
use crate::setting::{Content, Setting};

/// The summaries of all layers that choose blocks by content; nothing in other settings.
#[derive(Debug)]
pub struct Look {
    config: Config,
    /// By layer.
    layers: Vec<Option<(Content, KeySummaries)>>,
}

impl Look {
    /// Of no tokens yet.
    ///
    /// # Errors
    /// None for a checked setting.
    pub fn new(config: &Config, setting: &Setting) -> Result<Self> {
        let layer = |layer| -> Result<Option<(Content, KeySummaries)>> {
            let Some(content) = setting.content(config, layer) else { return Ok(None) };
            Ok(Some((content, KeySummaries::new(config.kv_heads, config.head_dim, content.group)?)))
        };
        Ok(Self { config: config.clone(), layers: (0..config.layers).map(layer).collect::<Result<_>>()? })
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        for (content, keys) in self.layers.iter_mut().flatten() {
            if let Ok(empty) = KeySummaries::new(self.config.kv_heads, self.config.head_dim, content.group) {
                *keys = empty;
            }
        }
    }

    /// Takes the keys of new tokens of a layer, before rotation, which `attention` says.
    ///
    /// # Errors
    /// Keys that aren't finite.
    pub fn append(&mut self, layer: usize, attention: &Attention, new: &Qkv<'_>) -> Result<()> {
        let Some((_, keys)) = &mut self.layers[layer] else { return Ok(()) };
        let (heads, dim) = (self.config.kv_heads, self.config.head_dim);
        let mut rows = swapped(new.k, new.tokens, heads, dim);
        if let Some(rope) = attention.positions().and_then(Positions::rope) {
            for head in rows.chunks_exact_mut(new.tokens * dim) {
                rope.rotate(head, keys.len() as i64)?;
            }
        }
        Ok(keys.append(&rows)?)
    }

    /// The scores of a layer's blocks for its newest tokens, whose keys were appended; none where
    /// the layer doesn't choose by content.
    ///
    /// # Errors
    /// What estimates don't know, by name.
    pub fn scores(
        &self,
        layer: usize,
        attention: &Attention,
        block_size: usize,
        new: &Qkv<'_>,
    ) -> Result<Option<BlockScores>> {
        let Some((content, keys)) = &self.layers[layer] else { return Ok(None) };
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let shape = Shape::new(heads, kv_heads, new.tokens, head_dim)?.with_kv_len(keys.len())?;
        let grid = BlockGrid::causal(&shape).with_block_size(block_size)?;
        let q = swapped(new.q, new.tokens, heads, head_dim);
        let (estimate, probe) = (content.estimate, content.probe);
        Ok(Some(attention.block_scores(&grid, &q, keys, estimate, probe, &Tables::new())?))
    }
}
