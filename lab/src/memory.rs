//! Where the keys and values of a layer live on the GPU.
//!
//! The seam for other memories: [`Memory`] owns the buffers of one layer and knows how a plan is bound to them; the rest of the GPU backend
//! only appends to it, binds, and asks for bytes.

use anyhow::{Result, ensure};
use prflash::{Context, DType, Layout, TensorView, wgpu};

/// Unquantized keys (before rotation) and values, tokens first, in buffers that grow by doubling.
pub struct Memory {
    dtype: DType,
    kv_heads: usize,
    head_dim: usize,
    max_tokens: usize,
    tokens: usize,
    capacity: usize,
    /// Nothing before the first token.
    buffers: Option<[TensorView; 2]>,
}

/// Tokens that a memory first has room for.
const FIRST_CAPACITY: usize = 256;

impl Memory {
    /// An empty memory for at most `max_tokens` tokens.
    pub fn new(dtype: DType, kv_heads: usize, head_dim: usize, max_tokens: usize) -> Self {
        Self { dtype, kv_heads, head_dim, max_tokens, tokens: 0, capacity: 0, buffers: None }
    }

    /// Tokens remembered.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets the tokens; the room stays.
    pub fn clear(&mut self) {
        self.tokens = 0;
    }

    fn token_bytes(&self) -> u64 {
        (self.kv_heads * self.head_dim * self.dtype.size()) as u64
    }

    /// Bytes of the keys and values remembered.
    pub fn bytes(&self) -> u64 {
        2 * self.tokens as u64 * self.token_bytes()
    }

    /// Bytes reserved.
    pub fn capacity_bytes(&self) -> u64 {
        2 * self.capacity as u64 * self.token_bytes()
    }

    /// Remembers the keys and values of new tokens. Whether the buffers moved, so that what was bound to the old ones has to be bound again.
    ///
    /// # Errors
    /// More tokens than the memory is for; what the device refuses.
    pub fn append(&mut self, context: &Context, keys: &[f32], values: &[f32]) -> Result<bool> {
        let row = self.kv_heads * self.head_dim;
        let new = keys.len() / row;
        let tokens = self.tokens + new;
        ensure!(tokens <= self.max_tokens, "the run was made for {} tokens, got {tokens}", self.max_tokens);
        let moved = tokens > self.capacity;
        if moved {
            self.grow(context, tokens)?;
        }
        if let Some(buffers) = &self.buffers {
            let offset = self.tokens as u64 * self.token_bytes();
            for (view, rows) in buffers.iter().zip([keys, values]) {
                context.queue().write_buffer(view.buffer(), offset, &self.dtype.encode(rows));
            }
        }
        self.tokens = tokens;
        Ok(moved)
    }

    fn grow(&mut self, context: &Context, tokens: usize) -> Result<()> {
        let capacity = tokens.max(2 * self.capacity).max(FIRST_CAPACITY).min(self.max_tokens);
        let layout = Layout::tokens_first(1, capacity, self.kv_heads, self.head_dim)?;
        let make = || prflash::Tensor::zeros(context, self.dtype, layout).map(|tensor| tensor.view().clone());
        let grown = [make()?, make()?];
        let live = self.tokens as u64 * self.token_bytes();
        if let Some(old) = self.buffers.as_ref().filter(|_| live > 0) {
            let mut encoder =
                context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (old, new) in old.iter().zip(&grown) {
                encoder.copy_buffer_to_buffer(old.buffer(), 0, new.buffer(), 0, live);
            }
            context.queue().submit([encoder.finish()]);
        }
        (self.capacity, self.buffers) = (capacity, Some(grown));
        Ok(())
    }

    /// Keys and values as a plan binds them; nothing before the first token.
    pub fn views(&self) -> Option<&[TensorView; 2]> {
        self.buffers.as_ref()
    }
}
