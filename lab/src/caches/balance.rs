//! Keys multiplied and queries divided by what rotated codes then lose least with.

use anyhow::Result;
use prflash::cache::rotated;

use crate::config::Config;
use crate::content::memory::Memory;

/// Tokens whose keys are taken to share their means.
const SEGMENT: usize = 64;

/// A factor for every channel of the keys of every layer, as found on one text. Norms or
/// projections of a model could take them in; the lab, which is to compare, applies them beside the
/// cache.
#[derive(Clone, Debug)]
pub struct Balance {
    /// By layer: `[kv_heads, head_dim]`.
    layers: Vec<Vec<f32>>,
}

impl Balance {
    /// Of the keys of a text.
    ///
    /// # Errors
    /// Keys that aren't finite; positions that the model can't have.
    pub fn of(config: &Config, memory: &Memory) -> Result<Self> {
        let Config { kv_heads, head_dim, .. } = *config;
        let layer = |(layer, [keys, _]): (usize, &[Vec<f32>; 2])| -> Result<Vec<f32>> {
            let rope = config.rope(layer)?;
            let mut all = Vec::with_capacity(kv_heads * head_dim);
            for head in 0..kv_heads {
                let rows = keys.chunks_exact(head_dim).skip(head).step_by(kv_heads);
                let rows: Vec<f32> = rows.flatten().copied().collect();
                all.extend(rotated::balance(&rows, head_dim, SEGMENT, Some(&rope))?);
            }
            Ok(all)
        };
        Ok(Self { layers: memory.layers.iter().enumerate().map(layer).collect::<Result<_>>()? })
    }

    /// Multiplies keys of a layer: `[tokens, kv_heads, head_dim]`.
    pub fn multiply_keys(&self, layer: usize, keys: &mut [f32]) {
        keys.iter_mut().zip(self.layers[layer].iter().cycle()).for_each(|(x, factor)| *x *= factor);
    }

    /// Divides queries of a layer: `[tokens, heads, head_dim]`.
    pub fn divide_queries(&self, layer: usize, queries: &mut [f32], config: &Config) {
        let Config { heads, kv_heads, head_dim, .. } = *config;
        for (index, row) in queries.chunks_exact_mut(head_dim).enumerate() {
            let head = index % heads / (heads / kv_heads);
            let factors = &self.layers[layer][head * head_dim..(head + 1) * head_dim];
            row.iter_mut().zip(factors).for_each(|(x, factor)| *x /= factor);
        }
    }
}
