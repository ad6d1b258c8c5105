//! Summaries of keys on the GPU: `shaders/sampling/summarize.wgsl`.

use std::ops::Range;
use std::sync::Arc;

use super::inputs::attention::Attention;
use super::position_table::{PositionTable, check_aligned};
use crate::attention::kernels::content::Summarize;
use crate::attention::kernels::params::{SummaryParams, SummaryRun};
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_BATCH, MAX_PACKED_DIM, at_most};
use crate::position::Positions;
use crate::runtime::binding::{Axis, fits, split};
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::pipeline::bind;
use crate::runtime::prepare::Compiling;
use crate::runtime::program::{Binds, Pipeline, group_layout};
use crate::runtime::slots::{Slot, SlotPool};
use crate::runtime::tensor::{Binding, TensorView};
use crate::sampling::content::{KeySummaries, packed};

/// Runs of one dispatch, at most: calls with more dispatch again.
const RUNS: usize = 256;

/// Summaries in 8 bits of the keys of tensors, in GPU memory: what a
/// [`GpuSelector`](super::GpuSelector) reads in place of the keys.
///
/// They are those of [`KeySummaries::with_8_bits`], bit for bit where keys aren't rotated: of each
/// group of tokens, key/value head and channel the mean, and how far from it the farthest key is,
/// `[sequences, kv_heads, groups]` times `2·⌈D/4⌉ + 2` words. Keys are rotated, where the attention
/// rotates them, to f32's precision.
///
/// All memory is there from the start: groups for every row of the tensor, for each sequence.
/// [`encode`](GpuSummaries::encode) does the groups again that have new keys, and no others.
#[derive(Debug)]
pub struct GpuSummaries {
    context: Context,
    attention: Attention,
    k: TensorView,
    group: usize,
    pipeline: Arc<Pipeline>,
    slots: SlotPool,
    table: PositionTable,
    table_bytes: u64,
    shards: Vec<Shard>,
    words: wgpu::Buffer,
    /// The words, to be read.
    pub(super) read: wgpu::BindGroup,
    held: Vec<Held>,
}

/// Some batch entries and key/value heads of the keys.
#[derive(Debug)]
struct Shard {
    entries: Range<usize>,
    heads: Range<usize>,
    axis: Axis,
    bind_group: wgpu::BindGroup,
}

/// What is known of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) entry: usize,
    /// The rows that are its keys.
    pub(super) keys: Range<usize>,
    pub(super) position: i64,
}

/// The keys of one sequence of [`GpuSummaries`], and which of them are new.
///
/// ```
/// use prflash::attention::SummarizedKeys;
/// // Row 1,000 of batch entry 0, the newest key of the first sequence of calls.
/// let appended = SummarizedKeys { keys: 0..1001, from: 1000, ..SummarizedKeys::default() };
/// # let _ = appended;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SummarizedKeys {
    /// The sequence's place in the calls that choose by these summaries.
    pub sequence: usize,
    /// The batch entry of its keys.
    pub entry: usize,
    /// Rows that are its keys, as the calls say.
    pub keys: Range<usize>,
    /// The first key that is new or another than before, counted from the first of the sequence.
    pub from: usize,
    /// The position of the first key, for rotation.
    pub position: i64,
}

impl GpuSummaries {
    /// Makes ready to summarize the keys `[batch, kv_heads, rows, head_dim]` that `k` has now or
    /// will have, for calls of `attention` with at most so many sequences, in groups of `group`
    /// tokens.
    ///
    /// # Errors
    /// Invalid argument: `k` that is of another type than the attention's storage, or can't be
    /// used; `group` unless from 1 to 256; no `sequences`; `positions` for another head dimension.
    /// Too large (`sequences`) past [`MAX_BATCH`], or where the device can't bind all summaries at
    /// once; (`k`) where not one head of one batch entry can be bound. Unsupported, where the
    /// rotary dimension isn't [aligned](crate::Rope::is_quad_aligned); out of memory; device lost.
    pub fn new(
        context: &Context,
        attention: &Attention,
        k: &TensorView,
        group: usize,
        sequences: usize,
    ) -> Result<Self> {
        k.check("k", context)?;
        let [batch, kv_heads, rows, head_dim] = k.layout().dims();
        let (want, got) = (attention.storage(), k.dtype());
        ensure!(want == got, "k", "expected {want}, got {got}");
        ensure!(
            (1..=packed::MAX_GROUP).contains(&group),
            "group",
            "expected 1 to {} tokens, got {group}",
            packed::MAX_GROUP
        );
        at_most("k", head_dim, MAX_PACKED_DIM)?;
        ensure!(sequences >= 1, "sequences", "expected at least 1, got 0");
        at_most("sequences", sequences, MAX_BATCH)?;
        let rope = attention.positions().and_then(|positions| positions.rope());
        let mut table = PositionTable::default();
        if let Some((rope, most)) = rope.zip(attention.positions().map(Positions::max_positions)) {
            let positions = Positions::from(rope.clone()).with_max_positions(most)?;
            positions.check(head_dim, kv_heads)?;
            check_aligned(rope)?;
            table = PositionTable::new(&positions, kv_heads, rows, 1.0)?;
        }
        let head_words = rows.div_ceil(group) * packed::words(head_dim);
        let bytes = [kv_heads as u64, head_words as u64, 4]
            .iter()
            .fold(sequences as u64, |bytes, &of| bytes.saturating_mul(of));
        let limit = context.capabilities().max_binding_bytes;
        if bytes > limit {
            let message = format!(
                "summaries of {sequences} sequences take {bytes} bytes, past the {limit} that this device can bind at once"
            );
            return Err(Error::too_large("sequences", message));
        }
        let rotation = rope.map(|rope| (rope.pairing(), rope.rotary_dim()));
        let program = Summarize { storage: attention.storage(), head_dim, rope: rotation };
        let pipeline = context.pipeline(&program)?;
        let table_buffer = table.upload("positions", context)?;
        let table_bytes = table_buffer.size();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let words = context.create_buffer("prflash summaries", bytes.max(16), usage)?;
        let layout =
            context.capture(|| group_layout(context.device(), "prflash summaries", &[Binds::Read]))?;
        let read = bind(context, "prflash summaries", &layout, &[words.as_entire_binding()])?;
        let shard = |(entries, heads): (Range<usize>, Range<usize>)| -> Result<Shard> {
            let view = k.shard(entries.clone(), heads.clone());
            // Not empty, so nothing stands in for it.
            let binding = Binding::new("k", &view, 4, context, &table_buffer)?;
            let resources = [binding.resource(), words.as_entire_binding()];
            let bind_group =
                pipeline.bind(context, "prflash summarize", Summarize::TENSORS_GROUP, &resources)?;
            Ok(Shard { entries, heads, axis: Axis::new(&view, binding.base, 4), bind_group })
        };
        let shards = match k.layout().elements() {
            0 => Vec::new(),
            _ => split(batch, kv_heads, |entries, heads| fits(context, k, entries, heads)),
        };
        let shards = shards.into_iter().map(shard).collect::<Result<_>>()?;
        let slots = SlotPool::new::<SummaryParams, SummaryRun>(context, &pipeline, RUNS, vec![table_buffer])?;
        context.check_alive()?;
        Ok(Self {
            context: context.clone(),
            attention: attention.clone(),
            k: k.clone(),
            group,
            pipeline,
            slots,
            table,
            table_bytes,
            shards,
            words,
            read,
            held: vec![Held::default(); sequences],
        })
    }

    /// Tokens of a group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Keys of a sequence of which there are summaries, once all that was recorded is done; 0 where
    /// there is no such sequence.
    pub fn len(&self, sequence: usize) -> usize {
        self.held.get(sequence).map_or(0, |held| held.keys.len())
    }

    /// Whether there is a summary of no sequence.
    pub fn is_empty(&self) -> bool {
        self.held.iter().all(|held| held.keys.is_empty())
    }

    /// Ready once its kernel is compiled, as [`Plan::prepare`](crate::Plan::prepare) is.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`](crate::Plan::prepare).
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        self.context.prepare([&self.pipeline], progress).await
    }

    /// Bytes of GPU memory held. It grows only when more calls are in flight than ever before.
    pub fn device_bytes(&self) -> u64 {
        self.words.size() + self.slots.bytes() + self.table_bytes
    }

    /// Records summaries of what is new of these sequences: of the groups from that of key `from`
    /// on. It doesn't submit or wait, and creates no GPU object once as many calls have been in
    /// flight before.
    ///
    /// Submit encoders in the order in which they were recorded, after the keys were written.
    ///
    /// # Errors
    /// Invalid argument: `sequence` that isn't there or comes twice; `keys` past the tensor, or
    /// fewer than `from`; `from` that leaves keys out which were never summarized, or isn't 0 where
    /// the rows begin elsewhere or at another `position`; `position`s past what the attention was
    /// made for. Out of memory. Then nothing was recorded.
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder, keys: &[SummarizedKeys]) -> Result<()> {
        self.check(keys)?;
        let mut dispatches = Vec::new();
        for shard in &self.shards {
            let here: Vec<&SummarizedKeys> =
                keys.iter().filter(|keys| shard.entries.contains(&keys.entry)).collect();
            for keys in here.chunks(RUNS) {
                if let Some(dispatch) = self.dispatch(shard, keys)? {
                    dispatches.push((shard, dispatch));
                }
            }
        }
        if !dispatches.is_empty() {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("prflash summarize"),
                timestamp_writes: None,
            });
            pass.set_pipeline(&self.pipeline.pipeline);
            for (shard, (slot, (x, y))) in dispatches {
                slot.bind(&mut pass, None);
                pass.set_bind_group(Summarize::TENSORS_GROUP as u32, &shard.bind_group, &[]);
                pass.dispatch_workgroups(x, y, 1);
            }
        }
        for SummarizedKeys { sequence, entry, keys, position, .. } in keys {
            self.held[*sequence] = Held { entry: *entry, keys: keys.clone(), position: *position };
        }
        Ok(())
    }

    /// The summaries of a sequence, once all work submitted so far is done. Native backends wait
    /// inside.
    ///
    /// # Errors
    /// Invalid argument (`sequence`) if there is no such sequence. Device lost; out of memory.
    pub async fn read(&self, sequence: usize) -> Result<KeySummaries> {
        let Some(held) = self.held.get(sequence) else {
            let message = format!("expected one below {}, got {sequence}", self.held.len());
            return Err(Error::argument_error("sequence", message));
        };
        let (groups, words) = (held.keys.len().div_ceil(self.group), packed::words(self.head_dim()));
        let mut heads = Vec::with_capacity(self.kv_heads());
        for head in 0..self.kv_heads() {
            let at = u64::from(self.base(sequence)) + head as u64 * u64::from(self.head_stride());
            let bytes = self.context.read_buffer(&self.words, 4 * at, 4 * (groups * words) as u64).await?;
            heads.push(bytemuck::pod_collect_to_vec::<u8, u32>(&bytes));
        }
        let (dim, len) = (self.head_dim(), held.keys.len());
        let heads = heads.iter().map(|head| head.chunks_exact(words).collect());
        Ok(KeySummaries::from_packed(dim, dim, self.group, len, len, heads))
    }

    /// [`read`](GpuSummaries::read), blocking.
    ///
    /// # Errors
    /// As [`read`](GpuSummaries::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, sequence: usize) -> Result<KeySummaries> {
        pollster::block_on(self.read(sequence))
    }

    /// The device.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// What the keys are keys of.
    pub(super) fn attention(&self) -> &Attention {
        &self.attention
    }

    pub(super) fn kv_heads(&self) -> usize {
        self.k.layout().dims()[1]
    }

    pub(super) fn head_dim(&self) -> usize {
        self.k.layout().dims()[3]
    }

    /// The tensor of the keys.
    pub(super) fn keys(&self) -> &TensorView {
        &self.k
    }

    pub(super) fn held(&self, sequence: usize) -> Option<&Held> {
        self.held.get(sequence)
    }

    /// Words from one head's summaries of a sequence to the next.
    pub(super) fn head_stride(&self) -> u32 {
        (self.k.layout().dims()[2].div_ceil(self.group) * packed::words(self.head_dim())) as u32
    }

    /// The first word of a sequence.
    pub(super) fn base(&self, sequence: usize) -> u32 {
        sequence as u32 * self.kv_heads() as u32 * self.head_stride()
    }

    fn check(&self, keys: &[SummarizedKeys]) -> Result<()> {
        let [batch, _, rows, _] = self.k.layout().dims();
        for (index, SummarizedKeys { sequence, entry, keys: Range { start, end }, from, position }) in
            keys.iter().enumerate()
        {
            let Some(held) = self.held.get(*sequence) else {
                let message =
                    format!("entry {index}: expected one below {}, got {sequence}", self.held.len());
                return Err(Error::argument_error("sequence", message));
            };
            let twice = keys[..index].iter().any(|other| other.sequence == *sequence);
            ensure!(!twice, "sequence", "entry {index}: sequence {sequence} comes twice");
            ensure!(
                start <= end && *end <= rows && *entry < batch,
                "keys",
                "entry {index} names rows {start}..{end} of batch entry {entry}; the tensor has {batch} entries of {rows} rows"
            );
            let len = end - start;
            ensure!(*from <= len, "from", "entry {index}: expected at most its {len} keys, got {from}");
            let same = held.entry == *entry && held.keys.start == *start && held.position == *position;
            let known = if same { held.keys.len() } else { 0 };
            ensure!(
                *from <= known,
                "from",
                "entry {index}: expected at most the {known} keys that were summarized, got {from}"
            );
            if self.rotates() && len > 0 {
                self.table.check("position", *position)?;
                self.table.check("position", position.saturating_add(len as i64 - 1))?;
            }
        }
        Ok(())
    }

    fn rotates(&self) -> bool {
        self.attention.positions().is_some_and(|positions| positions.rope().is_some())
    }

    /// The groups with new keys of some sequences; none if there are none.
    fn dispatch(&self, shard: &Shard, keys: &[&SummarizedKeys]) -> Result<Option<(Slot, (u32, u32))>> {
        let mut runs = Vec::with_capacity(keys.len());
        let mut groups = 0;
        for SummarizedKeys { sequence, entry, keys, from, position } in keys {
            let len = keys.len();
            // The last group may have been ragged, or be so now.
            let changed = *from < len || self.held[*sequence].keys.len() > len;
            let changed = from / self.group..if changed { len.div_ceil(self.group) } else { 0 };
            if changed.is_empty() {
                continue;
            }
            runs.push(SummaryRun {
                first: groups as u32,
                base: shard.axis.at(entry - shard.entries.start, keys.start),
                group: changed.start as u32,
                len: len as u32,
                words: self.base(*sequence) + shard.heads.start as u32 * self.head_stride(),
                position: *position as i32,
            });
            groups += changed.len();
        }
        if groups == 0 {
            return Ok(None);
        }
        let work_items = (groups * shard.heads.len()) as u64;
        let workgroups =
            dispatch::fold(work_items, self.context.capabilities().max_workgroups_per_dimension)?;
        let [rope_low, rope_high] = self.table.rope_levels();
        let params = SummaryParams {
            work_items: work_items as u32,
            groups: groups as u32,
            runs: runs.len() as u32,
            group: self.group as u32,
            k_head_stride: shard.axis.head_stride,
            k_row_stride: shard.axis.row_stride,
            head_stride: self.head_stride(),
            rope_low,
            rope_high,
        };
        let slot =
            self.slots.take(&self.context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&runs))?;
        Ok(Some((slot, workgroups)))
    }
}
