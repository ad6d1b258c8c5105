//! The cache on the GPU.

mod append;
mod drop_oldest;
mod fork;
mod input;
mod store;

use std::sync::{Arc, Mutex, MutexGuard};

pub use input::{Chunk, KvInput};

use super::arena::{Arena, ArenaShard, Binding, Held, Sizes};
use super::ledger::{Account, Draft, Ledger, Token};
use super::migration::Migration;
use super::region::RegionLayout;
use crate::cache::form::CacheForm;
use crate::cache::gpu::params::{CacheLayout, Move, MoveParams};
use crate::cache::gpu::programs::{CacheMove, Migrate};
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::host_cache::check_truncation;
use crate::cache::ladder::Side;
use crate::cache::sequence::StoredKeys;
use crate::cache::sequence_table::{SequenceId, SequenceTable};
use crate::cache::staircase::Staircase;
use crate::cache::standing::{Memory, Standing};
use crate::error::{Error, Result, ensure};
use crate::layout::DType;
use crate::runtime::context::Context;
use crate::runtime::prepare::Compiling;
use crate::runtime::program::{Binds, Pipeline, group_layout};
use crate::runtime::slots::SlotPool;
use crate::runtime::sync::lock;
use crate::shape::Shape;

/// Moves of one dispatch, at most.
const MOVES: usize = 256;

/// A staircase KV cache of many sequences on the GPU, word for word what a
/// [`HostCache`](crate::cache::HostCache) holds.
///
/// [`append`](KvCache::append) records commands into your encoder, and never submits or waits:
/// whole prompts or single tokens, of any number of sequences in one call. Segments that leave the
/// residual are quantized and older ones step down there and then, in integers.
///
/// **Submit encoders in the order in which they were recorded.** What the host knows of the cache
/// ([`len`](KvCache::len), [`truncate`](KvCache::truncate), …) runs ahead of the GPU: it counts
/// what was recorded. An encoder that is dropped unused takes with it what it would have appended,
/// and nothing else: sequences are again as they were before. Where a later encoder relied on a
/// dropped one, or encoders come in another order, what can't be stored any more is left out, the
/// tokens stored before stay as they are, and the next call says so, once
/// ([`Error::is_out_of_order`](crate::Error::is_out_of_order)).
///
/// Memory grows as sequences do: a region doubles when it is outgrown, where there is room behind
/// it, else all regions move to a larger pair of buffers, by commands that are recorded into the
/// same encoder (and into those after it, until they have run). Appends, after which nothing has
/// grown, allocate nothing once as many calls have been in flight before.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::cache::{Chunk, KvCache, Staircase, StoredKeys};
/// use prflash::{Context, DType, Layout, Shape, Tensor};
/// let context = Context::new_blocking()?;
/// let shape = Shape::new(32, 8, 32_768, 128)?; // no sequence becomes longer than 32,768 tokens
/// let mut cache = KvCache::new(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation)?;
/// let conversation = cache.add();
/// let layout = Layout::heads_first(1, 8, 2048, 128)?;
/// let (k, v) = (Tensor::zeros(&context, DType::F32, layout)?, Tensor::zeros(&context, DType::F32, layout)?);
/// let input = cache.input(k.view(), v.view())?;
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// cache.append(&mut encoder, &input, &[Chunk { sequence: conversation, entry: 0, rows: 0..2048 }])?; // a prompt
/// context.queue().submit([encoder.finish()]);
/// // … k and v are written again, and then one more token:
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// cache.append(&mut encoder, &input, &[Chunk { sequence: conversation, entry: 0, rows: 0..1 }])?;
/// context.queue().submit([encoder.finish()]);
/// cache.check_blocking()?; // all numbers were finite
/// println!("{} bytes of {}", cache.live_bytes(), cache.capacity_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct KvCache {
    context: Context,
    form: CacheForm,
    /// One query head per key/value head, and the longest sequence.
    shape: Shape,
    layout: RegionLayout,
    arena: Arena,
    /// What changes when it becomes known what encoders did, whoever asks.
    book: Mutex<Book>,
    step_down: Arc<Pipeline>,
    commit: Arc<Pipeline>,
    slots: SlotPool,
    read_layout: wgpu::BindGroupLayout,
    /// How many numbers of keys and of values weren't finite.
    unsound: wgpu::Buffer,
    /// What inputs of this cache share.
    owner: Arc<()>,
}

/// The sequences of a cache and what is under way.
#[derive(Debug, Default)]
struct Book {
    sequences: SequenceTable<Held>,
    ledger: Ledger,
    /// The number of the arena, counted from 0.
    arena: u32,
    /// The ways to it that aren't known to have been gone.
    migrations: Vec<Arc<Migration>>,
    /// Sequences so far.
    lives: u32,
    /// Tokens that removed sequences had quantized or stepped down.
    earlier_work: u64,
}

impl Book {
    /// Takes into account what encoders are known to have done.
    fn settle(&mut self) {
        let Self { sequences, ledger, migrations, .. } = self;
        ledger.settle(sequences.slots_mut(), |held| held.as_mut().map(|held| &mut held.account));
        migrations.retain(|migration| migration.arena > ledger.arena());
    }

    fn get(&self, sequence: SequenceId) -> Result<&Held> {
        self.sequences.get(sequence)
    }

    /// A sequence without tokens.
    fn add(&mut self) -> SequenceId {
        self.lives = self.lives.wrapping_add(1);
        self.sequences.add(Held { account: Account::new(self.lives), ..Held::default() })
    }

    /// Enters that a new sequence begins as another was.
    fn give(&mut self, draft: &mut Draft, sequence: SequenceId, len: usize, segments: usize) {
        if let Ok(held) = self.sequences.get_mut(sequence) {
            draft.give(sequence.number(), &mut held.account, len, segments);
        }
    }

    /// Enters that a sequence is brought to this length.
    fn change(&mut self, draft: &mut Draft, sequence: SequenceId, len: usize, segments: usize) {
        if let Ok(held) = self.sequences.get_mut(sequence) {
            draft.change(sequence.number(), &mut held.account, len, segments);
        }
    }
}

/// Where the regions of a sequence begin, in words from the start of a head of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) key_base: u32,
    pub(crate) value_base: u32,
    pub(crate) len: usize,
    /// That have left the residual.
    pub(crate) segments: usize,
}

/// What goes into an encoder that reads a cache.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The token that is told when the commands have run.
    pub(crate) token: Token,
    migrations: Vec<Arc<Migration>>,
}

impl Reading {
    /// Records what has to come before the cache is read.
    pub(crate) fn prepare(&self, encoder: &mut wgpu::CommandEncoder) {
        self.migrations.iter().for_each(|migration| migration.record(encoder));
    }
}

impl KvCache {
    /// Without sequences, for the key/value heads and channels of `shape`; its `kv_len` is the
    /// longest that any sequence may become (its other lengths, batch and query heads don't
    /// matter).
    ///
    /// # Errors
    /// Those of [`HostCache::new`](crate::cache::HostCache::new); unsupported: rotated codes of
    /// keys before rotation; device lost; out of memory.
    pub fn new(context: &Context, staircase: Staircase, shape: &Shape, keys: StoredKeys) -> Result<Self> {
        if staircase.codec().is_rotated() && keys == StoredKeys::BeforeRotation {
            return Err(Error::unsupported(
                "stored_keys: rotated codes of keys before rotation are for caches in host memory (HostCache)",
            ));
        }
        let form = CacheForm::new(staircase, shape, keys)?;
        let shape = Shape::new(shape.kv_heads(), shape.kv_heads(), 0, shape.head_dim())?
            .with_value_dim(shape.value_dim())?
            .with_kv_len(shape.kv_len())?;
        let layout = RegionLayout::new(&form.staircase, &shape, shape.kv_len())?;
        let step_down = context.pipeline(&CacheMove::StepDown)?;
        let commit = context.pipeline(&CacheMove::Commit)?;
        let slots = SlotPool::new::<MoveParams, Move>(context, &step_down, MOVES, Vec::new())?;
        let read = [Binds::Read, Binds::Read, Binds::Uniform(size_of::<CacheLayout>())];
        let read_layout = context.capture(|| group_layout(context.device(), "prflash cache", &read))?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let unsound = context.create_buffer("prflash cache counters", 8, usage)?;
        let binding = Binding {
            context,
            read: &read_layout,
            write: &step_down,
            counters: &unsound,
            staircase: &form.staircase,
            layout: &layout,
            kv_heads: shape.kv_heads(),
        };
        let arena = Arena::new(&binding, [0; 2])?;
        Ok(Self {
            context: context.clone(),
            form,
            shape,
            layout,
            arena,
            book: Mutex::default(),
            step_down,
            commit,
            slots,
            read_layout,
            unsound,
            owner: Arc::default(),
        })
    }

    /// Ready once all kernels are compiled that this cache may need for rows of a type, as
    /// [`Plan::prepare`](crate::Plan::prepare) is. Without it each is compiled when it is first
    /// needed.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`](crate::Plan::prepare); device lost.
    pub async fn prepare(&self, dtype: DType, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        let mut pipelines = vec![self.step_down.clone(), self.commit.clone()];
        pipelines.extend(self.input_pipelines(dtype)?);
        pipelines.extend([self.context.pipeline(&CacheMove::Fork)?, self.context.pipeline(&Migrate)?]);
        self.context.prepare(&pipelines, progress).await
    }

    /// The staircase, which says at how many bits tokens are stored.
    pub fn staircase(&self) -> &Staircase {
        &self.form.staircase
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.form.kv_heads()
    }

    /// Channels of a key or of a value.
    pub fn dim(&self, side: Side) -> usize {
        self.form.dim(side)
    }

    /// Whether keys are stored before or after rotation.
    pub fn stored_keys(&self) -> StoredKeys {
        self.form.keys
    }

    /// The longest that a sequence may become, in tokens.
    pub fn max_len(&self) -> usize {
        self.shape.kv_len()
    }

    /// One more sequence, empty and without memory yet. Numbers of removed ones are used again.
    pub fn add(&mut self) -> SequenceId {
        self.book().add()
    }

    /// Removes a sequence. Commands recorded before still find its words; its memory serves those
    /// that come.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn remove(&mut self, sequence: SequenceId) -> Result<()> {
        let mut book = self.book();
        let held = book.sequences.remove(sequence)?;
        book.earlier_work += held.work(self.staircase());
        Ok(())
    }

    /// The sequences there are.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.book().sequences.ids().collect::<Vec<_>>().into_iter()
    }

    /// Where the tokens of a sequence stand, once all that was recorded is done.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn standing(&self, sequence: SequenceId) -> Result<Standing<'_>> {
        let book = self.book();
        let held = book.get(sequence)?;
        Ok(self.staircase().standing_at(held.len(), held.segments()))
    }

    /// Tokens of a sequence, dropped ones included.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn len(&self, sequence: SequenceId) -> Result<usize> {
        Ok(self.book().get(sequence)?.len())
    }

    /// Forgets the tokens of a sequence from `len` on. Nothing has to be recorded for that.
    ///
    /// # Errors
    /// Those of [`HostCache::truncate`](crate::cache::HostCache::truncate).
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) -> Result<()> {
        check_truncation(&self.standing(sequence)?.residual(), len)?;
        let mut book = self.book();
        let Book { sequences, ledger, .. } = &mut *book;
        let held = sequences.get_mut(sequence)?;
        ledger.truncate(sequence.number(), &mut held.account, len);
        Ok(())
    }

    /// Tells whether all numbers that were ever appended were finite, and whether commands ran as
    /// they were recorded, once all work submitted so far is done. Native backends wait inside.
    ///
    /// Numbers of tokens that were dropped as they came aren't looked at, unless they are sinks.
    ///
    /// # Errors
    /// Out of order, if commands were lost by it that no call has told of yet. Invalid argument
    /// (`k` or `v`) if some were NaN, infinite or past f16's ±65,504; the message says how many
    /// (modulo 2³²). Device lost; out of memory.
    pub async fn check(&self) -> Result<()> {
        let bytes = self.context.read_buffer(&self.unsound, 0, 8).await?;
        self.book().ledger.check()?;
        let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        for (argument, count) in ["k", "v"].into_iter().zip(counts) {
            ensure!(
                count == 0,
                argument,
                "expected numbers within f16's ±65504, got {count} others, which were stored as 0"
            );
        }
        Ok(())
    }

    /// [`check`](KvCache::check), blocking.
    ///
    /// # Errors
    /// As [`check`](KvCache::check).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check_blocking(&self) -> Result<()> {
        pollster::block_on(self.check())
    }

    /// The memory of what a sequence holds, by where it is.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn memory(&self, sequence: SequenceId) -> Result<Memory> {
        Ok(self.standing(sequence)?.memory(&self.shape))
    }

    /// Bytes of what all sequences hold: the sum of their [`Standing::memory`].
    pub fn live_bytes(&self) -> u64 {
        let book = self.book();
        let held = book.sequences.iter();
        held.map(|held| self.staircase().standing_at(held.len(), held.segments()).memory(&self.shape).total())
            .sum()
    }

    /// Bytes of GPU memory that keys and values take up, gaps and room to grow included. Until
    /// commands that move them to a larger pair of buffers are known to have run, the old pair is
    /// held beside it.
    pub fn capacity_bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// Tokens quantized or stepped down so far, keys and values together: over the sequences, the
    /// [`Staircase::work`] of what was appended to them.
    pub fn work(&self) -> u64 {
        let book = self.book();
        let work = |held: &Held| held.work(self.staircase());
        book.earlier_work + book.sequences.iter().map(work).sum::<u64>()
    }

    /// What of it is rendered into a kernel's text.
    pub(crate) fn variant(&self) -> CacheVariant {
        let rungs = |side| self.staircase().ladder(side).rungs().iter();
        let widths = |side| rungs(side).fold(0, |widths, rung| widths | 1 << rung.bits) & !(1 << 16 | 1);
        let codec = self.staircase().codec();
        // Fine tokens have 8 bits, whatever the ladder.
        let fine = |widths: u32| if widths > 0 && codec.fine_tokens() > 0 { widths | 1 << 8 } else { widths };
        CacheVariant {
            widths: Side::ALL.map(|side| fine(widths(side))),
            group: if codec.is_rotated() { 0 } else { self.staircase().group() },
            rotate_keys: self.stored_keys() == StoredKeys::BeforeRotation,
        }
    }

    /// What it has in common with others.
    pub(crate) fn form(&self) -> &CacheForm {
        &self.form
    }

    /// The key/value heads and channels, and the longest sequence.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The arena as it can be bound.
    pub(crate) fn shards(&self) -> &[ArenaShard] {
        &self.arena.shards
    }

    /// Where a sequence lies in every head.
    pub(crate) fn region(&self, sequence: SequenceId) -> Result<Region> {
        let book = self.book();
        let held = book.get(sequence)?;
        let [key_base, value_base] = held.regions().map(|base| base as u32);
        Ok(Region { key_base, value_base, len: held.len(), segments: held.segments() })
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Says once what was lost since encoders ran out of order.
    pub(crate) fn check_order(&self) -> Result<()> {
        self.book().ledger.check()
    }

    /// Enters that these sequences are read as they are.
    pub(crate) fn reading(&self, sequences: impl Iterator<Item = SequenceId>) -> Reading {
        let mut book = self.book();
        let mut draft = book.ledger.draft();
        for sequence in sequences {
            if let Ok(held) = book.sequences.get(sequence) {
                draft.read(sequence.number(), &held.account);
            }
        }
        let arena = book.arena;
        Reading { token: book.ledger.enter(draft, arena), migrations: book.migrations.clone() }
    }

    /// The sequences, as far as is known now.
    fn book(&self) -> MutexGuard<'_, Book> {
        let mut book = lock(&self.book);
        book.settle();
        #[cfg(not(target_arch = "wasm32"))]
        for number in book.ledger.suspects() {
            let sequence = SequenceId::new(number);
            // Where the device is lost, nothing is found out and nothing matters any more.
            if let Ok(stamp) = self.stamp(&book, sequence) {
                let Book { sequences, ledger, .. } = &mut *book;
                if let Ok(held) = sequences.get_mut(sequence) {
                    ledger.resolve(number, &mut held.account, stamp);
                }
            }
        }
        book
    }

    /// A sequence's stamp on the GPU, once all that was submitted is done. Threads may tell of two
    /// submissions in another order than that in which they ran, and then this does.
    #[cfg(not(target_arch = "wasm32"))]
    fn stamp(&self, book: &Book, sequence: SequenceId) -> Result<u32> {
        let at = 4 * book.get(sequence)?.bases[0] as u64;
        if !book.migrations.is_empty() {
            let mut encoder = self.context.device().create_command_encoder(&Default::default());
            book.migrations.iter().for_each(|migration| migration.record(&mut encoder));
            self.context.submit([encoder.finish()])?;
        }
        let bytes = pollster::block_on(self.context.read_buffer(&self.arena.buffers[0], at, 4))?;
        Ok(bytemuck::pod_read_unaligned(&bytes))
    }

    fn sizes(&self) -> Sizes<'_> {
        Sizes { staircase: self.staircase(), layout: &self.layout, max_len: self.max_len() }
    }

    /// What the bind groups of an arena are made of.
    fn binding(&self) -> Binding<'_> {
        Binding {
            context: &self.context,
            read: &self.read_layout,
            write: &self.step_down,
            counters: &self.unsound,
            staircase: self.staircase(),
            layout: &self.layout,
            kv_heads: self.kv_heads(),
        }
    }
}
