//! Keys and values of the first part of a text, kept on the host.

use anyhow::Result;
use prflash::Rope;

use crate::attend::{Attend, Qkv, Usage};
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

/// Passes everything on to another backend and remembers what it was given.
pub struct Remembering<'a> {
    inner: Box<dyn Attend + 'a>,
    config: Config,
    ropes: Vec<Rope>,
    memory: Memory,
}

impl<'a> Remembering<'a> {
    /// Remembers what `inner` is given.
    ///
    /// # Errors
    /// Positions that the model can't have.
    pub fn new(inner: Box<dyn Attend + 'a>, config: &Config) -> Result<Self> {
        Ok(Self {
            inner,
            config: config.clone(),
            ropes: (0..config.layers).map(|layer| Ok(config.rope(layer)?)).collect::<Result<_>>()?,
            memory: Memory { layers: vec![Default::default(); config.layers], tokens: 0 },
        })
    }

    /// What was remembered.
    pub fn into_memory(self) -> Memory {
        let row = self.config.kv_heads * self.config.head_dim;
        let tokens = self.memory.layers.first().map_or(0, |[keys, _]| keys.len() / row);
        Memory { tokens, ..self.memory }
    }
}

impl Attend for Remembering<'_> {
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        let Config { kv_heads, head_dim, .. } = self.config;
        let [keys, values] = &mut self.memory.layers[layer];
        let mut rotated = new.k.to_vec();
        rotate(&self.ropes[layer], &mut rotated, kv_heads, keys.len() / (kv_heads * head_dim));
        keys.extend(rotated);
        values.extend(new.v);
        self.inner.attend(layer, new)
    }

    fn start(&mut self, sequence: u32) {
        self.memory.layers.iter_mut().flatten().for_each(Vec::clear);
        self.inner.start(sequence);
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }
}
