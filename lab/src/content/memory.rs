//! Keys and values of the first part of a text, kept on the host.

use anyhow::Result;

use crate::ages::Recorder;
use crate::attend::Attend;
use crate::config::Config;
use crate::cpu::rotate;

/// The keys (rotated) and values of each layer: `[tokens, kv_heads, head_dim]`.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By layer: keys, values.
    pub layers: Vec<[Vec<f32>; 2]>,
    /// Tokens.
    pub tokens: usize,
}

impl Memory {
    /// What passes on all that it is given to `inner`, and keeps what a memory is made of.
    pub fn recorder<'a>(inner: Box<dyn Attend + 'a>, config: &Config) -> Recorder<'a> {
        Recorder::of_keys(inner, &(0..config.layers).collect::<Vec<_>>())
    }

    /// Of what was recorded since the start of a sequence.
    ///
    /// # Errors
    /// Positions that the model can't have.
    pub fn of(recorder: Recorder<'_>, config: &Config) -> Result<Self> {
        let row = config.kv_heads * config.head_dim;
        let mut memory = Self::default();
        for (layer, recorded) in recorder.into_rows().into_iter().enumerate() {
            let mut keys = recorded.k;
            rotate(&config.rope(layer)?, &mut keys, config.kv_heads, 0);
            memory.tokens = keys.len() / row;
            memory.layers.push([keys, recorded.v]);
        }
        Ok(memory)
    }
}
