//! Where the keys and values of a layer live on the GPU.
//!
//! [`Memory`] owns the buffers of one layer; the rest of the GPU backend only appends to it, binds
//! plans to it, and asks for bytes.

use anyhow::{Result, ensure};
use prflash::cache::{Chunk, KvCache, KvInput, SequenceId, Staircase, StoredKeys};
use prflash::rotation::{RotationBound, RotationPlan, Rows};
use prflash::{Context, DType, Layout, Rope, Shape, TensorView, wgpu};

use crate::attend::Rungs;

/// The keys and values of one layer.
pub enum Memory {
    /// Keys and values as they came.
    Plain(Box<Plain>),
    /// They are stored in fewer bits as they age.
    Staircase(Box<Stairs>),
}

impl Memory {
    /// Tokens remembered.
    pub fn tokens(&self) -> usize {
        match self {
            Memory::Plain(plain) => plain.tokens,
            Memory::Staircase(stairs) => stairs.tokens,
        }
    }

    /// Tokens of which there are summaries, or can be: of a staircase those that have left the
    /// residual.
    pub fn summarized(&self) -> usize {
        match self {
            Memory::Plain(plain) => plain.tokens,
            Memory::Staircase(stairs) => {
                let standing = stairs.cache.standing(stairs.sequence);
                standing.map_or(0, |standing| standing.residual().start)
            }
        }
    }

    /// Forgets the tokens; the room stays.
    pub fn clear(&mut self) {
        match self {
            Memory::Plain(plain) => plain.tokens = 0,
            Memory::Staircase(stairs) => stairs.clear(),
        }
    }

    /// Bytes of the keys and values remembered.
    pub fn bytes(&self) -> u64 {
        match self {
            Memory::Plain(plain) => plain.bytes(),
            Memory::Staircase(stairs) => stairs.cache.live_bytes(),
        }
    }

    /// Bytes reserved.
    pub fn capacity_bytes(&self) -> u64 {
        match self {
            Memory::Plain(plain) => plain.capacity_bytes(),
            Memory::Staircase(stairs) => stairs.cache.capacity_bytes(),
        }
    }

    /// Remembers the keys and values of new tokens, by commands in the encoder or before them.
    /// Whether buffers moved, so that what was bound to the old ones has to be bound again.
    ///
    /// # Errors
    /// More tokens than the memory is for; what the device refuses.
    pub fn append(
        &mut self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        keys: &[f32],
        values: &[f32],
    ) -> Result<bool> {
        match self {
            Memory::Plain(plain) => plain.append(context, keys, values),
            Memory::Staircase(stairs) => stairs.append(context, encoder, keys, values).map(|()| false),
        }
    }
}

/// Unquantized keys (before rotation) and values, tokens first, in buffers that grow by doubling.
pub struct Plain {
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

impl Plain {
    /// An empty memory for at most `max_tokens` tokens.
    pub fn new(dtype: DType, kv_heads: usize, head_dim: usize, max_tokens: usize) -> Self {
        Self { dtype, kv_heads, head_dim, max_tokens, tokens: 0, capacity: 0, buffers: None }
    }

    fn token_bytes(&self) -> u64 {
        (self.kv_heads * self.head_dim * self.dtype.size()) as u64
    }

    fn bytes(&self) -> u64 {
        2 * self.tokens as u64 * self.token_bytes()
    }

    fn capacity_bytes(&self) -> u64 {
        2 * self.capacity as u64 * self.token_bytes()
    }

    fn append(&mut self, context: &Context, keys: &[f32], values: &[f32]) -> Result<bool> {
        let tokens = self.tokens + keys.len() / (self.kv_heads * self.head_dim);
        check_room(tokens, self.max_tokens)?;
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

pub(crate) fn check_room(tokens: usize, max_tokens: usize) -> Result<()> {
    ensure!(tokens <= max_tokens, "the run was made for {max_tokens} tokens, got {tokens}");
    Ok(())
}

/// Where new keys and values lie on their way into caches of one model: tokens first, f32.
pub struct Staging {
    /// Keys, which are turned there.
    pub keys: TensorView,
    /// The values.
    pub values: TensorView,
}

/// A staircase cache of one sequence.
pub struct Stairs {
    cache: KvCache,
    sequence: SequenceId,
    tokens: usize,
    shape: Shape,
    row: usize,
    staging: [TensorView; 2],
    input: KvInput,
    /// The plan that turns keys which are stored after rotation.
    turned: Option<(RotationPlan, RotationBound)>,
}

impl Stairs {
    /// An empty cache for the key/value heads, channels and `kv_len` of `shape`. Keys that are
    /// stored after their rotation are turned by `rope` in `staging`.
    ///
    /// # Errors
    /// What the library or the device refuses.
    pub fn new(
        context: &Context,
        staircase: &Staircase,
        shape: &Shape,
        keys: StoredKeys,
        rope: Option<&Rope>,
        staging: &Staging,
    ) -> Result<Self> {
        let mut cache = KvCache::new(context, staircase.clone(), shape, keys)?;
        let turned = |rope: &Rope| -> Result<(RotationPlan, RotationBound)> {
            let plan = rope.plan_rotation(context, DType::F32, shape.kv_len())?;
            let bound = plan.bind(&staging.keys)?;
            Ok((plan, bound))
        };
        let rope = rope.filter(|_| keys == StoredKeys::AfterRotation);
        Ok(Self {
            turned: rope.map(turned).transpose()?,
            sequence: cache.add(),
            tokens: 0,
            shape: *shape,
            row: shape.kv_heads() * shape.head_dim(),
            staging: [staging.keys.clone(), staging.values.clone()],
            input: cache.input(&staging.keys, &staging.values)?,
            cache,
        })
    }

    /// The cache that plans read.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The sequence's number in the cache.
    pub fn sequence(&self) -> SequenceId {
        self.sequence
    }

    fn clear(&mut self) {
        if self.cache.remove(self.sequence).is_ok() {
            self.sequence = self.cache.add();
        }
        self.tokens = 0;
    }

    fn append(
        &mut self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        keys: &[f32],
        values: &[f32],
    ) -> Result<()> {
        let (new, first) = (keys.len() / self.row, self.tokens);
        check_room(first + new, self.cache.max_len())?;
        for (view, rows) in self.staging.iter().zip([keys, values]) {
            context.queue().write_buffer(view.buffer(), 0, &DType::F32.encode(rows));
        }
        if let Some((plan, bound)) = &self.turned {
            plan.encode(encoder, bound, &[Rows::new(0, 0..new).at_position(first as i64)])?;
        }
        self.cache.append(
            encoder,
            &self.input,
            &[Chunk { sequence: self.sequence, entry: 0, rows: 0..new }],
        )?;
        self.tokens += new;
        Ok(())
    }

    /// Adds what this layer holds, rung by rung, and what the staircase says it should.
    pub fn add_to(&self, rungs: &mut Rungs) {
        let formula = self.cache.staircase().standing(self.tokens).memory(&self.shape);
        if let Ok(held) = self.cache.memory(self.sequence) {
            rungs.add(&held);
        }
        rungs.formula += formula.total();
        rungs.live += self.cache.live_bytes();
        rungs.capacity += self.cache.capacity_bytes();
        rungs.f16 += 4 * (self.tokens * self.row) as u64;
    }
}
