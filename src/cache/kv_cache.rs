//! The cache on the GPU.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::arena::{Arena, ArenaPart, Binding, Held, Room, Sizes, grow_in_place, repacked};
use super::host_cache::{HostCache, Sequence, StoredKeys, absent, check_truncation};
use super::moves::{Appended, InputRows, Mover, Pass};
use super::region::RegionLayout;
use super::staircase::{Memory, Side, Staircase, Standing};
use crate::attention::bound::{Axis, check_tensor, fits, split};
use crate::error::{Error, Result, ensure};
use crate::gpu::context::Context;
use crate::gpu::dispatch;
use crate::gpu::kernel::{Binds, Pipeline, group_layout};
use crate::gpu::params::{CacheLayout, Move, MoveParams};
use crate::gpu::registry::{CacheMove, CacheVariant};
use crate::gpu::slots::{Slot, SlotPool};
use crate::gpu::tensor::{Binding as TensorBinding, TensorView};
use crate::shape::Shape;

/// Moves of one dispatch, at most, and their units: longer appends dispatch again.
const MOVES: usize = 256;
const UNITS: usize = 1 << 28;

/// A staircase KV cache of many sequences on the GPU, word for word what a [`HostCache`] holds.
///
/// [`append`](KvCache::append) records commands into your encoder, and never submits or waits: whole prompts or single tokens, of any number of sequences in one call. Segments that leave
/// the residual are quantized and older ones step down there and then, in integers.
///
/// **Submit encoders in the order in which they were recorded.** What the host knows of the cache ([`len`](KvCache::len), [`truncate`](KvCache::truncate), …) runs
/// ahead of the GPU: it counts what was recorded. An encoder that appended and is dropped unused leaves the sequences it appended to without those tokens' words.
///
/// Memory grows as sequences do: a region doubles when it is outgrown, where there is room behind it, else all regions move to a larger pair of buffers,
/// by copies that are recorded into the same encoder. Appends, after which nothing has grown, allocate nothing once as many calls have been in flight before.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::cache::{Staircase, StoredKeys};
/// use prflash::{Chunk, Context, DType, KvCache, Layout, Shape, Tensor};
/// let context = Context::new_blocking()?;
/// let shape = Shape::new(32, 8, 32_768, 128)?; // no sequence becomes longer than 32,768 tokens
/// let mut cache = KvCache::new(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation)?;
/// let conversation = cache.add();
/// let layout = Layout::heads_first(1, 8, 2048, 128)?;
/// let (k, v) = (Tensor::zeros(&context, DType::F32, layout)?, Tensor::zeros(&context, DType::F32, layout)?);
/// let input = cache.input(k.view(), v.view())?;
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// cache.append(&mut encoder, &input, &[Chunk::new(conversation, 0, 2048)])?; // a prompt
/// context.queue().submit([encoder.finish()]);
/// // … k and v are written again, and then one more token:
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// cache.append(&mut encoder, &input, &[Chunk::new(conversation, 0, 1)])?;
/// context.queue().submit([encoder.finish()]);
/// cache.check_blocking()?; // all numbers were finite
/// println!("{} bytes of {}", cache.live_bytes(), cache.capacity_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct KvCache {
    context: Context,
    /// A cache like this one, without sequences.
    form: HostCache,
    /// One query head per key/value head, and the longest sequence.
    shape: Shape,
    layout: RegionLayout,
    sequences: Vec<Option<Held>>,
    arena: Arena,
    work: u64,
    step_down: Arc<Pipeline>,
    slots: SlotPool,
    read_layout: wgpu::BindGroupLayout,
    /// How many numbers of keys and of values weren't finite.
    unsound: wgpu::Buffer,
    /// What inputs of this cache share.
    owner: Arc<()>,
}

/// Keys and values on the GPU that a [`KvCache`] has checked and bound, to append from. Reusable for any number of calls; it keeps the buffers alive.
///
/// Tensors past the device's binding size are bound in parts, by batch entries and heads.
#[derive(Debug)]
pub struct KvInput {
    owner: Arc<()>,
    parts: Vec<InputPart>,
    batch: usize,
    /// Of k and of v.
    rows: [usize; 2],
    append: Arc<Pipeline>,
    quantize: Arc<Pipeline>,
}

#[derive(Debug)]
struct InputPart {
    batches: Range<usize>,
    kv_heads: Range<usize>,
    bind_group: wgpu::BindGroup,
    /// k and v.
    axes: [Axis; 2],
}

/// Rows of a [`KvInput`] that are appended to a sequence.
///
/// ```
/// use prflash::Chunk;
/// let prompt = Chunk::new(0, 0, 500); // rows 0 … 499 of batch entry 0, to sequence 0
/// let token = Chunk::new(3, 1, 1).starting_at(20); // row 20 of batch entry 1, to sequence 3
/// # let _ = (prompt, token);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    sequence: usize,
    batch: usize,
    tokens: usize,
    row: usize,
}

impl Chunk {
    /// The first `tokens` rows of batch entry `batch`, to `sequence`.
    pub const fn new(sequence: usize, batch: usize, tokens: usize) -> Self {
        Self { sequence, batch, tokens, row: 0 }
    }

    /// As many rows from row `row` on.
    pub const fn starting_at(self, row: usize) -> Self {
        Self { row, ..self }
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

/// The host's part of a call that is ready to be recorded.
struct Grown {
    sequences: Vec<Option<Held>>,
    /// If all of them moved.
    arena: Option<Arena>,
}

struct Dispatch<'a> {
    pipeline: &'a Pipeline,
    arena: wgpu::BindGroup,
    input: &'a wgpu::BindGroup,
    slot: Slot,
    workgroups: (u32, u32),
}

impl KvCache {
    /// Without sequences, for the key/value heads and channels of `shape`; its `kv_len` is the longest that any sequence may become (its other lengths, batch and query heads don't
    /// matter).
    ///
    /// # Errors
    /// Those of [`HostCache::new`]; device lost; out of memory.
    pub fn new(context: &Context, staircase: Staircase, shape: &Shape, keys: StoredKeys) -> Result<Self> {
        let form = HostCache::new(staircase, shape, keys)?;
        let shape = Shape::new(shape.kv_heads(), shape.kv_heads(), 0, shape.head_dim())?
            .with_value_dim(shape.value_dim())?
            .with_kv_len(shape.kv_len())?;
        let layout = RegionLayout::new(form.staircase(), &shape, shape.kv_len())?;
        let step_down = context.pipeline(&CacheMove::StepDown)?;
        let slots = SlotPool::new::<MoveParams, Move>(context, &step_down, MOVES)?;
        let read = [Binds::Read, Binds::Read, Binds::Uniform(size_of::<CacheLayout>())];
        let read_layout = context.capture(|| group_layout(context.device(), "prflash cache", &read))?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let unsound = context.create_buffer("prflash cache counters", 8, usage)?;
        let binding = Binding {
            context,
            read: &read_layout,
            write: &step_down,
            counters: &unsound,
            staircase: form.staircase(),
            layout: &layout,
            kv_heads: shape.kv_heads(),
        };
        let arena = Arena::new(&binding, [0; 2])?;
        Ok(Self {
            context: context.clone(),
            form,
            shape,
            layout,
            sequences: Vec::new(),
            arena,
            work: 0,
            step_down,
            slots,
            read_layout,
            unsound,
            owner: Arc::default(),
        })
    }

    /// At how many bits tokens are stored.
    pub fn staircase(&self) -> &Staircase {
        self.form.staircase()
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
        self.form.stored_keys()
    }

    /// The longest that a sequence may become, in tokens.
    pub fn max_len(&self) -> usize {
        self.shape.kv_len()
    }

    /// One more sequence, empty and without memory yet. Numbers of removed ones are used again.
    pub fn add(&mut self) -> usize {
        let free = self.sequences.iter().position(Option::is_none);
        let index = free.unwrap_or(self.sequences.len());
        if free.is_none() {
            self.sequences.push(None);
        }
        self.sequences[index] = Some(Held::default());
        index
    }

    /// Removes a sequence. Commands recorded before still find its words; its memory serves those that come.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn remove(&mut self, sequence: usize) -> Result<()> {
        self.get(sequence)?;
        self.sequences[sequence] = None;
        Ok(())
    }

    /// The sequences there are.
    pub fn sequences(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.sequences.len()).filter(|&index| self.sequences[index].is_some())
    }

    /// Where the tokens of a sequence stand, once all that was recorded is done.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn standing(&self, sequence: usize) -> Result<Standing<'_>> {
        let held = self.get(sequence)?;
        Ok(self.staircase().standing_at(held.len, held.segments))
    }

    /// Tokens of a sequence, dropped ones included.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn len(&self, sequence: usize) -> Result<usize> {
        Ok(self.get(sequence)?.len)
    }

    /// Forgets the tokens of a sequence from `len` on. Nothing has to be recorded for that.
    ///
    /// # Errors
    /// Those of [`HostCache::truncate`].
    pub fn truncate(&mut self, sequence: usize, len: usize) -> Result<()> {
        check_truncation(&self.standing(sequence)?.residual(), len)?;
        if let Some(held) = &mut self.sequences[sequence] {
            held.len = len;
        }
        Ok(())
    }

    /// Checks keys `[batch, kv_heads, capacity, head_dim]` and values `[batch, kv_heads, capacity, value_dim]`, of any layout, and binds them. Compiles the kernels for
    /// their type, if it is the first time.
    ///
    /// # Errors
    /// Invalid argument (`k`, `v`): other heads or channels, or values of another type than keys. Too large, where not even one head of one batch entry
    /// fits the device's binding size; device lost.
    pub fn input(&self, k: &TensorView, v: &TensorView) -> Result<KvInput> {
        let (context, heads) = (&self.context, self.kv_heads());
        check_tensor(context, "k", k, k.dtype(), heads, self.dim(Side::Keys))?;
        check_tensor(context, "v", v, k.dtype(), heads, self.dim(Side::Values))?;
        let rows = [k, v].map(|view| view.layout().dims()[2]);
        let batches = [k, v].map(|view| view.layout().dims()[0]);
        ensure!(
            batches[0] == batches[1],
            "v",
            "expected {} batch entries, as k has, got {}",
            batches[0],
            batches[1]
        );
        let append = context.pipeline(&CacheMove::Append(k.dtype()))?;
        let quantize = context.pipeline(&CacheMove::Quantize(k.dtype()))?;
        let part = |(batches, kv_heads): (Range<usize>, Range<usize>)| -> Result<InputPart> {
            let bound = |argument, view: &TensorView| {
                let view = view.part(batches.clone(), kv_heads.clone());
                // Neither is empty, so nothing stands in for them.
                let binding = TensorBinding::new(argument, &view, 4, context, &self.unsound)?;
                let axis = Axis::new(&view, binding.base, 4);
                Ok::<_, Error>((binding, axis))
            };
            let ((k, k_axis), (v, v_axis)) = (bound("k", k)?, bound("v", v)?);
            let resources = [k.resource(), v.resource()];
            let bind_group = append.bind(context, "prflash appended", CacheMove::INPUT_GROUP, &resources)?;
            Ok(InputPart { batches, kv_heads, bind_group, axes: [k_axis, v_axis] })
        };
        let all_fit = |batches, heads| [k, v].into_iter().all(|view| fits(context, view, batches, heads));
        let parts = match batches[0] * rows[0].min(rows[1]) {
            0 => Vec::new(),
            _ => split(batches[0], heads, all_fit),
        };
        let parts = parts.into_iter().map(part).collect::<Result<_>>()?;
        context.check_alive()?;
        Ok(KvInput { owner: self.owner.clone(), parts, batch: batches[0], rows, append, quantize })
    }

    /// Records that rows of `input` are appended to sequences, each rounded to f16. The rows are read when the commands run.
    ///
    /// Numbers that are NaN, infinite or past f16's ±65,504 are stored as 0 and counted: see [`check`](KvCache::check).
    ///
    /// # Errors
    /// Invalid argument: (`input`) of another cache; (`chunks`) with rows that the input doesn't have, or a sequence twice; (`sequence`) if there is none such.
    /// Too large (`tokens`) past [`max_len`](KvCache::max_len), or where the device can't bind or hold the memory. Out of memory; device lost. Then nothing
    /// was recorded and the cache is as it was.
    pub fn append(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        input: &KvInput,
        chunks: &[Chunk],
    ) -> Result<()> {
        let needs = self.check_append(input, chunks)?;
        let grown = self.grown(&needs)?;
        let arena = grown.arena.as_ref().unwrap_or(&self.arena);
        let dispatches = self.prepare(arena, &grown.sequences, input, chunks)?;
        Self::record_copies(&self.arena, encoder, &self.sizes(), &self.sequences, &grown);
        record(encoder, dispatches);
        self.adopt(grown);
        for chunk in chunks {
            let before = self.get(chunk.sequence)?.segments;
            let after = before.max(self.staircase().segments_after(self.len(chunk.sequence)? + chunk.tokens));
            self.work += self.staircase().work_of(after) - self.staircase().work_of(before);
            if let Some(held) = &mut self.sequences[chunk.sequence] {
                held.len += chunk.tokens;
                held.segments = after;
            }
        }
        Ok(())
    }

    /// Makes room for `tokens` tokens of a sequence, those that it has included, so that appends up to there don't have to.
    ///
    /// # Errors
    /// As [`append`](KvCache::append).
    pub fn reserve(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequence: usize,
        tokens: usize,
    ) -> Result<()> {
        self.get(sequence)?;
        self.check_len(tokens)?;
        let grown = self.grown(&[(sequence, tokens)])?;
        Self::record_copies(&self.arena, encoder, &self.sizes(), &self.sequences, &grown);
        self.adopt(grown);
        Ok(())
    }

    /// Tells whether all numbers that were ever appended were finite, once all work submitted so far is done. Native backends wait inside.
    ///
    /// Numbers of tokens that were dropped as they came aren't looked at, unless they are sinks.
    ///
    /// # Errors
    /// Invalid argument (`k` or `v`) if some were NaN, infinite or past f16's ±65,504; the message says how many (modulo 2³²). Device lost; out of memory.
    pub async fn check(&self) -> Result<()> {
        let bytes = self.context.read_buffer(&self.unsound, 0, 8).await?;
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

    /// A copy of one sequence in host memory: sequence 0 of a cache of its own. Everything that was recorded must have been submitted; once that is done. Native backends wait
    /// inside.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence; device lost; out of memory.
    pub async fn to_host(&self, sequence: usize) -> Result<HostCache> {
        let (standing, held) = (self.standing(sequence)?, self.get(sequence)?);
        let words = self.sizes().live_words(held);
        let head_bytes = 4 * (words[0] + words[1]) as u64;
        let all = head_bytes * self.kv_heads() as u64;
        let mut stores = Vec::new();
        let mut regions = Vec::new();
        if all > 0 {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let copy = self.context.create_buffer("prflash saved sequence", all, usage)?;
            self.context.capture(|| {
                let mut encoder = self.context.device().create_command_encoder(&Default::default());
                for (index, (side, from, to)) in self.spans(held, words).enumerate() {
                    let bytes = 4 * words[index % 2] as u64;
                    encoder.copy_buffer_to_buffer(&self.arena.buffers[side], from, &copy, to, bytes);
                }
                self.context.queue().submit([encoder.finish()]);
            })?;
            let bytes = self.context.read_buffer(&copy, 0, all).await?;
            regions = bytemuck::pod_collect_to_vec::<u8, u32>(&bytes);
        }
        let mut rest = &regions[..];
        for index in 0..2 * self.kv_heads() {
            let (region, others) = rest.split_at(words[index % 2].min(rest.len()));
            stores.push(match region {
                [] => Default::default(),
                _ => self.layout.gather(&standing, Side::ALL[index % 2], region),
            });
            rest = others;
        }
        let mut host = self.form.clone();
        host.insert(Sequence { len: held.len, segments: held.segments, stores });
        Ok(host)
    }

    /// [`to_host`](KvCache::to_host), blocking.
    ///
    /// # Errors
    /// As [`to_host`](KvCache::to_host).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_host_blocking(&self, sequence: usize) -> Result<HostCache> {
        pollster::block_on(self.to_host(sequence))
    }

    /// A sequence as bytes, in the format of [`HostCache::save`]: either cache can [restore](KvCache::restore) what the other has saved. What is
    /// needed, and what is waited for, is as for [`to_host`](KvCache::to_host).
    ///
    /// # Errors
    /// As [`to_host`](KvCache::to_host).
    pub async fn save(&self, sequence: usize) -> Result<Vec<u8>> {
        self.to_host(sequence).await?.save(0)
    }

    /// [`save`](KvCache::save), blocking.
    ///
    /// # Errors
    /// As [`save`](KvCache::save).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save_blocking(&self, sequence: usize) -> Result<Vec<u8>> {
        pollster::block_on(self.save(sequence))
    }

    /// Adds a sequence from saved bytes. The copy to the GPU is recorded into your encoder, in order with everything else.
    ///
    /// # Errors
    /// Those of [`HostCache::restore`]; too large (`bytes`) if the sequence is, or was before it was truncated, longer than [`max_len`](KvCache::max_len); those of
    /// [`append`](KvCache::append). Then nothing was recorded or added.
    pub fn restore(&mut self, encoder: &mut wgpu::CommandEncoder, bytes: &[u8]) -> Result<usize> {
        let Sequence { len, segments, stores } = self.form.read_same(bytes)?;
        let most = self.staircase().segments_after(self.max_len());
        if len > self.max_len() || segments > most {
            let message = format!(
                "a sequence of {len} tokens, {segments} segments of which have left the residual; this cache has room for {} and {most}",
                self.max_len()
            );
            return Err(Error::too_large("bytes", message));
        }
        let empty = self.sequences.iter().position(Option::is_none).unwrap_or(self.sequences.len());
        let mut sequences = self.sequences.clone();
        sequences.resize(sequences.len().max(empty + 1), None);
        sequences[empty] = Some(Held::default());
        let restored = Held { len, segments, ..Held::default() };
        let needed = self.sizes().least(&restored);
        let mut grown = self.grown_from(&sequences, &[(empty, needed)])?;
        let Some(held) = grown.sequences[empty].as_mut() else { return Err(absent(empty)) };
        (held.len, held.segments) = (len, segments);
        let held = held.clone();

        let words = self.sizes().live_words(&held);
        let standing = self.staircase().standing_at(len, segments);
        let mut regions = Vec::new();
        for (index, store) in stores.iter().enumerate().filter(|_| len > 0) {
            let start = regions.len();
            regions.resize(start + words[index % 2], 0u32);
            self.layout.scatter(&standing, Side::ALL[index % 2], store, &mut regions[start..]);
        }
        let staging = self.upload(&regions)?;
        Self::record_copies(&self.arena, encoder, &self.sizes(), &sequences, &grown);
        self.adopt(grown);
        for (index, (side, to, from)) in self.spans(&held, words).enumerate() {
            let bytes = 4 * words[index % 2] as u64;
            if bytes > 0 {
                encoder.copy_buffer_to_buffer(&staging, from, &self.arena.buffers[side], to, bytes);
            }
        }
        Ok(empty)
    }

    /// The memory of what a sequence holds, by where it is.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn memory(&self, sequence: usize) -> Result<Memory> {
        Ok(self.standing(sequence)?.memory(&self.shape))
    }

    /// Bytes of what all sequences hold: the sum of their [`Standing::memory`].
    pub fn live_bytes(&self) -> u64 {
        let held = self.sequences.iter().flatten();
        held.map(|held| self.staircase().standing_at(held.len, held.segments).memory(&self.shape).total())
            .sum()
    }

    /// Bytes of GPU memory that keys and values take up, gaps and room to grow included. While commands that move them to a larger pair of buffers are in flight, the old pair is
    /// held beside it.
    pub fn capacity_bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// Tokens quantized or stepped down so far, keys and values together: over the sequences, the [`Staircase::work`] of what was appended to them.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// The key/value heads and channels, and the longest sequence.
    /// What of it is rendered into a kernel's text.
    pub(crate) fn variant(&self) -> CacheVariant {
        let rungs = |side| self.staircase().ladder(side).rungs().iter();
        let widths = |side| rungs(side).fold(0, |widths, rung| widths | 1 << rung.bits) & !(1 << 16 | 1);
        CacheVariant {
            widths: Side::ALL.map(widths),
            group: self.staircase().group(),
            keys_turn: self.stored_keys() == StoredKeys::BeforeRotation,
        }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The arena as it can be bound.
    pub(crate) fn parts(&self) -> &[ArenaPart] {
        &self.arena.parts
    }

    /// Where a sequence lies in every head.
    pub(crate) fn region(&self, sequence: usize) -> Result<Region> {
        let &Held { len, segments, bases, .. } = self.get(sequence)?;
        let [key_base, value_base] = bases.map(|base| base as u32);
        Ok(Region { key_base, value_base, len, segments })
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    fn get(&self, sequence: usize) -> Result<&Held> {
        self.sequences.get(sequence).and_then(Option::as_ref).ok_or_else(|| absent(sequence))
    }

    fn sizes(&self) -> Sizes<'_> {
        Sizes { staircase: self.staircase(), layout: &self.layout, max_len: self.max_len() }
    }

    fn check_len(&self, tokens: usize) -> Result<()> {
        if tokens <= self.max_len() {
            return Ok(());
        }
        let message =
            format!("{tokens} tokens are past the {} of this cache's longest sequence", self.max_len());
        Err(Error::too_large("tokens", message))
    }

    /// Everything that an append is refused for, but for memory: gives the lengths that sequences will have.
    fn check_append(&self, input: &KvInput, chunks: &[Chunk]) -> Result<Vec<(usize, usize)>> {
        ensure!(Arc::ptr_eq(&self.owner, &input.owner), "input", "was made by another cache");
        let mut seen = BTreeSet::new();
        let mut needs = Vec::with_capacity(chunks.len());
        for (index, &Chunk { sequence, batch, tokens, row }) in chunks.iter().enumerate() {
            let len = self.len(sequence)?;
            ensure!(
                seen.insert(sequence),
                "chunks",
                "sequence {sequence} comes twice; use a call for each of its chunks"
            );
            let rows = input.rows[0].min(input.rows[1]);
            let fits = batch < input.batch && row.checked_add(tokens).is_some_and(|end| end <= rows);
            ensure!(
                fits || tokens == 0,
                "chunks",
                "chunk {index} has rows {row}..{row}+{tokens} of batch entry {batch}; the input has {} entries of {rows} rows",
                input.batch
            );
            self.check_len(len.saturating_add(tokens))?;
            if tokens > 0 {
                needs.push((sequence, len + tokens));
            }
        }
        Ok(needs)
    }

    /// Room for sequences (index, tokens): in the arena if there is, else in a new one.
    fn grown(&self, needs: &[(usize, usize)]) -> Result<Grown> {
        self.grown_from(&self.sequences, needs)
    }

    fn grown_from(&self, sequences: &[Option<Held>], needs: &[(usize, usize)]) -> Result<Grown> {
        let (sizes, strides) = (self.sizes(), self.arena.strides);
        if let Some(sequences) = grow_in_place(&sizes, sequences, strides, needs) {
            return Ok(Grown { sequences, arena: None });
        }
        let binding = Binding {
            context: &self.context,
            read: &self.read_layout,
            write: &self.step_down,
            counters: &self.unsound,
            staircase: self.staircase(),
            layout: &self.layout,
            kv_heads: self.kv_heads(),
        };
        let attempt = |room| {
            let (sequences, words) = repacked(&sizes, sequences, strides, needs, room);
            Ok(Grown { sequences, arena: Some(Arena::new(&binding, words)?) })
        };
        let refused = |error: &Error| error.is_too_large() || error.is_out_of_memory();
        match attempt(Room::Ample) {
            Err(error) if refused(&error) => match attempt(Room::Doubled) {
                Err(error) if refused(&error) => attempt(Room::Least),
                result => result,
            },
            result => result,
        }
    }

    /// Records that what the sequences hold moves to a new arena, if there is one.
    fn record_copies(
        old: &Arena,
        encoder: &mut wgpu::CommandEncoder,
        sizes: &Sizes<'_>,
        sequences: &[Option<Held>],
        grown: &Grown,
    ) {
        let Some(new) = &grown.arena else { return };
        for (from, to) in sequences.iter().zip(&grown.sequences) {
            let (Some(from), Some(to)) = (from, to) else { continue };
            if from.capacity == 0 {
                continue;
            }
            let words = sizes.live_words(from);
            for (side, words) in words.into_iter().enumerate() {
                let at = |arena: &Arena, held: &Held, head| {
                    4 * (head * arena.strides[side] + held.bases[side]) as u64
                };
                let heads = old.buffers[side].size() as usize / 4 / old.strides[side];
                for head in 0..heads {
                    encoder.copy_buffer_to_buffer(
                        &old.buffers[side],
                        at(old, from, head),
                        &new.buffers[side],
                        at(new, to, head),
                        4 * words as u64,
                    );
                }
            }
        }
    }

    fn adopt(&mut self, grown: Grown) {
        self.sequences = grown.sequences;
        if let Some(arena) = grown.arena {
            self.arena = arena;
        }
    }

    /// Where the words of a sequence lie, heads outermost and keys before values: (side, byte in the arena, byte of all of them in a row).
    fn spans(&self, held: &Held, words: [usize; 2]) -> impl Iterator<Item = (usize, u64, u64)> {
        let (strides, bases) = (self.arena.strides, held.bases);
        (0..2 * self.kv_heads()).map(move |index| {
            let (head, side) = (index / 2, index % 2);
            let packed = head * (words[0] + words[1]) + side * words[0];
            (side, 4 * (head * strides[side] + bases[side]) as u64, 4 * packed as u64)
        })
    }

    /// A buffer to copy these words from.
    fn upload(&self, words: &[u32]) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer =
            self.context.create_buffer("prflash restored sequence", 4 * words.len() as u64, usage)?;
        let bytes: &[u8] = bytemuck::cast_slice(words);
        self.context.capture(|| self.context.queue().write_buffer(&buffer, 0, bytes))?;
        Ok(buffer)
    }

    /// The dispatches of an append, in order, their parameters on their way to the GPU.
    fn prepare<'a>(
        &'a self,
        arena: &Arena,
        sequences: &[Option<Held>],
        input: &'a KvInput,
        chunks: &[Chunk],
    ) -> Result<Vec<Dispatch<'a>>> {
        let mover = Mover { staircase: self.staircase(), layout: &self.layout };
        let mut dispatches = Vec::new();
        for part in &input.parts {
            let here = |chunk: &&Chunk| chunk.tokens > 0 && part.batches.contains(&chunk.batch);
            let appended = chunks.iter().filter(here).filter_map(|chunk| {
                let held = sequences.get(chunk.sequence)?.as_ref()?;
                let rows = |axis: &Axis| InputRows {
                    first: axis.at(chunk.batch - part.batches.start, chunk.row),
                    stride: axis.row_stride,
                };
                Some(Appended {
                    len: held.len,
                    segments: held.segments,
                    tokens: chunk.tokens,
                    bases: held.bases,
                    input: [rows(&part.axes[0]), rows(&part.axes[1])],
                })
            });
            let appended: Vec<Appended> = appended.collect();
            for Pass { quantize, step_down, append } in mover.passes(&appended) {
                let kinds =
                    [(&input.quantize, quantize), (&self.step_down, step_down), (&input.append, append)];
                for (pipeline, moves) in kinds {
                    for moves in batches(&moves) {
                        for arena in &arena.parts {
                            dispatches.extend(self.dispatch(pipeline, arena, part, moves)?);
                        }
                    }
                }
            }
        }
        Ok(dispatches)
    }

    /// One dispatch, in the heads that both parts have.
    fn dispatch<'a>(
        &self,
        pipeline: &'a Pipeline,
        arena: &ArenaPart,
        input: &'a InputPart,
        moves: &[(Move, usize)],
    ) -> Result<Option<Dispatch<'a>>> {
        let first_head = arena.kv_heads.start.max(input.kv_heads.start);
        let heads = arena.kv_heads.end.min(input.kv_heads.end).saturating_sub(first_head);
        if heads == 0 {
            return Ok(None);
        }
        let mut units = 0;
        let mut table = Vec::with_capacity(moves.len());
        for &(entry, its_units) in moves {
            table.push(Move { first: units as u32, ..entry });
            units += its_units;
        }
        let tiles = units.div_ceil(CacheMove::INVOCATIONS);
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let workgroups = dispatch::fold((heads * tiles) as u64, limit)?;
        let params = MoveParams {
            work_items: (heads * tiles) as u32,
            tiles: tiles as u32,
            units: units as u32,
            moves: table.len() as u32,
            arena_head: (first_head - arena.kv_heads.start) as u32,
            input_head: (first_head - input.kv_heads.start) as u32,
            k_head_stride: input.axes[0].head_stride,
            k_row_stride: input.axes[0].row_stride,
            k_quads: self.dim(Side::Keys) as u32 / 4,
            v_head_stride: input.axes[1].head_stride,
            v_row_stride: input.axes[1].row_stride,
            v_quads: self.dim(Side::Values) as u32 / 4,
        };
        let slot =
            self.slots.take(&self.context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&table))?;
        Ok(Some(Dispatch {
            pipeline,
            arena: arena.write.clone(),
            input: &input.bind_group,
            slot,
            workgroups,
        }))
    }
}

/// Runs of moves that one dispatch can make.
fn batches(mut moves: &[(Move, usize)]) -> Vec<&[(Move, usize)]> {
    let mut batches = Vec::new();
    while !moves.is_empty() {
        let mut units = 0;
        let fitting = moves.iter().take(MOVES).take_while(|(_, its_units)| {
            units += its_units;
            units <= UNITS
        });
        let count = fitting.count().max(1);
        let (batch, rest) = moves.split_at(count);
        batches.push(batch);
        moves = rest;
    }
    batches
}

fn record(encoder: &mut wgpu::CommandEncoder, dispatches: Vec<Dispatch<'_>>) {
    if dispatches.is_empty() {
        return;
    }
    // Each dispatch sees what those before it have written.
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some("prflash append"),
        timestamp_writes: None,
    });
    for Dispatch { pipeline, arena, input, slot, workgroups: (x, y) } in dispatches {
        pass.set_pipeline(&pipeline.pipeline);
        slot.bind(&mut pass, None);
        pass.set_bind_group(CacheMove::ARENA_GROUP as u32, &arena, &[]);
        pass.set_bind_group(CacheMove::INPUT_GROUP as u32, input, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}
