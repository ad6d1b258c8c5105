//! Re-shaping, literally: dense causal triangles over a tensor that was cut or gathered, without
//! block lists.

use std::ops::Range;

use super::bound::{Bound, Operands};
use super::call::{Call, FirstPositions, SequenceRows};
use super::choosing;
use super::gathered::{Copier, Gatherer};
use super::inputs::attention::Attention;
use super::inputs::position_ids::PositionIds;
use super::inputs::tables::Tables;
use super::merge::{Merger, MergerBound, PreparedStep, Step};
use super::plan::{Output, Plan};
use super::table_buffer::TableBuffer;
use super::wanted::Wanted;
use crate::attention::kernels::merge::Merge;
use crate::error::{Error, Result, ensure};
use crate::layout::{DType, Layout};
use crate::runtime::binding::{check_rows, check_tensor, check_written};
use crate::runtime::prepare::Compiling;
use crate::runtime::tensor::{Tensor, TensorView};
use crate::sampling::{BlockGrid, Granularity, Reshaping};
use crate::shape::Shape;

/// An [`Attention`] made ready for re-shaped tensors, from [`Plan::reshaped`].
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// # use prflash::{Attention, BlockGrid, Context, DType, Seed, Layout, Profile, Shape, Tensor};
/// # use prflash::sampling::Reshaping;
/// # let context = Context::new_blocking()?;
/// # let shape = Shape::new(9, 3, 1024, 64)?;
/// # let upload = |heads| Tensor::zeros(&context, DType::F32, Layout::heads_first(1, heads, 1024, 64)?);
/// # let (q, k, v) = (upload(9)?, upload(3)?, upload(3)?);
/// let grid = BlockGrid::causal(&shape);
/// let reshaping = Reshaping::segments(&grid, &Profile::harmonic(), Seed::new(42))?;
/// let plan = Attention::causal().plan(&context, &shape)?.reshaped(&grid)?;
/// let result = plan.run(q.view(), k.view(), v.view(), &[reshaping])?;
/// # let _ = result;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ReshapedPlan {
    attention: Attention,
    shape: Shape,
    grid: BlockGrid,
    /// Views of the tensors as batches of list groups: one per query head of a KV head, or one.
    views: usize,
    /// The sizes of a view: its batch entries are list groups.
    of_group: Shape,
    /// Writes results as they are; for gathered rows.
    triangle: Plan,
    /// Write states to merge.
    triangle_state: Plan,
    strip_state: Plan,
    merger: Merger,
    gatherer: Gatherer,
}

/// Tensors that a [`ReshapedPlan`] has checked and bound.
#[derive(Debug)]
pub struct ReshapedBound {
    /// Per batch entry, per view.
    views: Vec<Vec<View>>,
}

/// The tensors of one batch entry as a batch of list groups.
#[derive(Debug)]
struct View {
    triangle_state: Bound,
    strip_state: Bound,
    merger: MergerBound,
    packed: Packed,
}

/// Tensors that rows are gathered into, attended in, and scattered from.
#[derive(Debug)]
struct Packed {
    q: Copier,
    k: Copier,
    v: Copier,
    output: Copier,
    lse: Option<Copier>,
    bound: Bound,
}

impl Plan {
    /// Makes the attention of this plan ready for [`Reshaping`]s of `grid`: PrFlashAttention by
    /// re-shaping the tensor instead of walking block lists.
    ///
    /// The same result as the block lists of [`Reshaping::schedule`] give, computed by dense
    /// kernels alone. Lengths are those of the plan's [maxima](Plan::maxima).
    ///
    /// # Errors
    /// Invalid argument (`grid`) if it is for other sizes; unsupported for a plan whose keys are in
    /// a cache, and for what dense triangles can't express: a token window, a correction β ≠ 0,
    /// sinks, mask tensors, pages, attention that isn't causal. And those of
    /// [`Attention::plan_with`](crate::Attention::plan_with).
    pub fn reshaped(&self, grid: &BlockGrid) -> Result<ReshapedPlan> {
        ReshapedPlan::new(self, grid)
    }
}

impl ReshapedPlan {
    fn new(whole: &Plan, grid: &BlockGrid) -> Result<Self> {
        let (context, attention, shape) = (whole.context(), whole.attention(), whole.maxima());
        let as_asked = whole.wanted(attention)?;
        for (has, what) in [
            (!attention.is_causal(), "attention that isn't causal"),
            (attention.window().is_some(), "a token window"),
            (attention.correction() != 0.0, "an importance correction, which weighs blocks"),
            (attention.sinks().is_some(), "learned sinks, which a row has once"),
            (attention.masks(), "mask tensors"),
            (whole.options().pages(), "pages"),
        ] {
            if has {
                return Err(Error::unsupported(format!("re-shaped triangles don't express {what}")));
            }
        }
        grid.check(true, shape)?;
        let per_kv = shape.heads_per_kv_head();
        // How heads become batch entries, one per list group, so that each can have lengths of its
        // own.
        let (views, heads, kv_heads, groups) = match grid.granularity() {
            Granularity::Head => (per_kv, 1, 1, shape.kv_heads()),
            Granularity::KvHead => (1, per_kv, 1, shape.kv_heads()),
            Granularity::Shared => (1, shape.heads(), shape.kv_heads(), 1),
        };
        let of_group = Shape::new(heads, kv_heads, shape.q_len(), shape.head_dim())?
            .with_kv_len(shape.kv_len())?
            .with_value_dim(shape.value_dim())?
            .with_batch(groups)?;
        // Each block may be a segment.
        let sequences = grid.key_blocks().max(1);
        let state = attention.clone().with_lse(true).with_output(DType::F32);
        let strip = state.clone().with_causality(false);
        let merge = Merge { output: attention.output(), spread: false };
        let plan = |attention: &Attention| {
            choosing::plan(&Wanted { attention, maxima: of_group, sequences, ..as_asked })
        };
        Ok(Self {
            attention: attention.clone(),
            shape: *shape,
            grid: *grid,
            views,
            of_group,
            triangle: plan(attention)?,
            triangle_state: plan(&state)?,
            strip_state: plan(&strip)?,
            merger: Merger::new(context, merge, shape.value_dim(), sequences, None)?,
            gatherer: Gatherer::new(context, sequences, grid.block_size())?,
        })
    }

    /// Ready once all kernels of the plan are compiled, as [`Plan::prepare`](crate::Plan::prepare)
    /// is.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`](crate::Plan::prepare).
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        let plans = [&self.triangle, &self.triangle_state, &self.strip_state];
        let own = [self.merger.pipeline(), self.gatherer.pipeline()];
        let pipelines = plans.into_iter().flat_map(|plan| plan.prepared.pipelines()).chain(own);
        self.triangle.context().prepare(pipelines, progress).await
    }

    /// Checks tensors against the plan and binds them, and reserves what states and gathered rows
    /// need: about as much as the tensors themselves, twice the output.
    ///
    /// # Errors
    /// Those of [`Plan::bind`]; too large where the state of a list group doesn't fit the device's
    /// binding size; out of memory.
    pub fn bind(&self, operands: &Operands<'_>) -> Result<ReshapedBound> {
        let (context, shape) = (self.triangle.context(), &self.shape);
        let Operands { q, k, v, output, lse } = *operands;
        check_tensor(context, "q", q, self.attention.storage(), shape.heads(), shape.head_dim())?;
        check_tensor(context, "k", k, self.attention.storage(), shape.kv_heads(), shape.head_dim())?;
        check_tensor(context, "v", v, self.attention.storage(), shape.kv_heads(), shape.value_dim())?;
        check_tensor(context, "output", output, self.attention.output(), shape.heads(), shape.value_dim())?;
        let read = [("q", q), ("k", k), ("v", v)];
        check_written("output", output, &read)?;
        ensure!(
            lse.is_some() == self.attention.lse(),
            "lse",
            "expected one if and only if the attention writes it (Attention::with_lse)"
        );
        if let Some(lse) = lse {
            check_rows(context, "lse", lse, shape.heads(), &[&read[..], &[("output", output)]].concat())?;
        }
        let lengths = [
            ("q", q, shape.q_len()),
            ("k", k, shape.kv_len()),
            ("v", v, shape.kv_len()),
            ("output", output, shape.q_len()),
        ];
        for (argument, view, len) in lengths.into_iter().chain(lse.map(|lse| ("lse", lse, shape.q_len()))) {
            let [batch, _, rows, _] = view.layout().dims();
            ensure!(
                (batch, rows) == (shape.batch(), len),
                argument,
                "expected {} batch entries of {len} rows, got {batch} of {rows}",
                shape.batch()
            );
        }
        let view = |batch: usize, index: usize| {
            let (heads, kv_heads) = (self.of_group.heads(), self.of_group.kv_heads());
            let queries = |view: &TensorView| view.grouped(batch, self.views * heads, index * heads, heads);
            let keys = |view: &TensorView| view.grouped(batch, kv_heads, 0, kv_heads);
            self.bind_view(&queries(q), &keys(k), &keys(v), &queries(output), lse.map(queries))
        };
        let views = |batch| (0..self.views).map(|index| view(batch, index)).collect::<Result<Vec<_>>>();
        Ok(ReshapedBound { views: (0..shape.batch()).map(views).collect::<Result<_>>()? })
    }

    fn bind_view(
        &self,
        q: &TensorView,
        k: &TensorView,
        v: &TensorView,
        output: &TensorView,
        lse: Option<TensorView>,
    ) -> Result<View> {
        let merger = self.merger.bind(output, lse.as_ref(), None)?;
        let (state_output, state_lse) = (merger.state_output.view(), merger.state_lse.view());
        let state = Operands { q, k, v, output: state_output, lse: Some(state_lse) };
        let context = self.triangle.context();
        let twin = |view: &TensorView| -> Result<Tensor> {
            let [batch, heads, len, dim] = view.layout().dims();
            let layout = match dim {
                1 => Layout::rows(batch, heads, len)?,
                _ => Layout::heads_first(batch, heads, len, dim)?,
            };
            Tensor::zeros(context, view.dtype(), layout)
        };
        let (packed_q, packed_k, packed_v) = (twin(q)?, twin(k)?, twin(v)?);
        let packed_output = twin(output)?;
        let packed_lse = lse.as_ref().map(twin).transpose()?;
        let copier = |argument, whole: &TensorView, packed: &Tensor, scatter| {
            self.gatherer.bind(argument, whole, packed.view(), scatter)
        };
        let packed = Packed {
            q: copier("q", q, &packed_q, false)?,
            k: copier("k", k, &packed_k, false)?,
            v: copier("v", v, &packed_v, false)?,
            output: copier("output", output, &packed_output, true)?,
            lse: match (&lse, &packed_lse) {
                (Some(lse), Some(packed)) => Some(copier("lse", lse, packed, true)?),
                _ => None,
            },
            bound: self.triangle.bind(&Operands {
                q: packed_q.view(),
                k: packed_k.view(),
                v: packed_v.view(),
                output: packed_output.view(),
                lse: packed_lse.as_ref().map(Tensor::view),
            })?,
        };
        Ok(View {
            triangle_state: self.triangle_state.bind(&state)?,
            strip_state: self.strip_state.bind(&state)?,
            merger,
            packed,
        })
    }

    /// Records attention over re-shaped tensors into the caller's encoder: one re-shaping for all
    /// batch entries, or one each. It doesn't submit or wait, and after warm-up creates no GPU
    /// object (but for the position ids of gathered rows, if the attention has positions).
    ///
    /// # Errors
    /// Invalid argument (`reshapings`) for another number of them or another grid. Then nothing was
    /// recorded. Out of memory.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &ReshapedBound,
        reshapings: &[Reshaping],
    ) -> Result<()> {
        let batch = self.shape.batch();
        ensure!(
            reshapings.len() == 1 || reshapings.len() == batch,
            "reshapings",
            "expected one, or one for each of {batch} batch entries, got {}",
            reshapings.len()
        );
        for reshaping in reshapings {
            ensure!(
                reshaping.grid() == &self.grid,
                "reshapings",
                "expected {:?}, got {:?}",
                self.grid,
                reshaping.grid()
            );
        }
        for (views, reshaping) in bound.views.iter().zip(reshapings.iter().cycle()) {
            for (index, view) in views.iter().enumerate() {
                for entry in 0..self.of_group.batch() {
                    // Heads are numbered group by group of a KV head, and lists follow the heads.
                    let group = entry * self.views + index;
                    let place = Place { entry, first_head: group * self.of_group.heads() };
                    match reshaping.is_row_column() {
                        true => {
                            self.row_column(encoder, view, place, reshaping.index_set(group), reshaping)?
                        }
                        false => self.segments(encoder, view, place, group, reshaping)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Computes whole tensors: allocates the results, binds, encodes and submits. It doesn't wait;
    /// [`Tensor::read`] does.
    ///
    /// # Errors
    /// Those of [`bind`](ReshapedPlan::bind) and [`encode`](ReshapedPlan::encode); device lost.
    pub fn run(
        &self,
        q: &TensorView,
        k: &TensorView,
        v: &TensorView,
        reshapings: &[Reshaping],
    ) -> Result<Output> {
        let context = self.triangle.context();
        let shape = &self.shape;
        let dims = [shape.batch(), shape.heads(), shape.q_len(), shape.value_dim()];
        let output = Output::zeros(context, &self.attention, dims)?;
        let lse = output.lse.as_ref().map(Tensor::view);
        let bound = self.bind(&Operands { q, k, v, output: output.output.view(), lse })?;
        let mut encoder = context.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, &bound, reshapings)?;
        context.submit([encoder.finish()])?;
        Ok(output)
    }

    /// The query rows whose position lies in these key tokens.
    fn rows(&self, tokens: &Range<usize>) -> Range<usize> {
        let first = self.shape.kv_len() - self.shape.q_len();
        tokens.start.saturating_sub(first)..tokens.end.saturating_sub(first)
    }

    /// The position of a query row in the whole tensor.
    fn query_position(&self, row: usize) -> i64 {
        (self.shape.kv_len() - self.shape.q_len() + row) as i64
    }

    /// The key tokens of a range of blocks.
    fn tokens(&self, blocks: Range<usize>) -> Range<usize> {
        let (block, len) = (self.grid.block_size(), self.shape.kv_len());
        (blocks.start * block).min(len)..(blocks.end * block).min(len)
    }

    /// Queries and keys of these blocks, a triangle.
    fn triangle_of(&self, place: Place, blocks: Range<usize>) -> SequenceRows {
        let tokens = self.tokens(blocks);
        let rows = self.rows(&tokens);
        let first = self.query_position(rows.start);
        SequenceRows {
            q_start: rows.start,
            kv_start: tokens.start,
            positions: Some(FirstPositions { query: first, key: tokens.start as i64 }),
            ..place.rows(rows.len(), tokens.len())
        }
    }

    /// Queries of these blocks, keys of the sinks before them.
    fn strip_of(&self, place: Place, blocks: Range<usize>, sinks: usize) -> SequenceRows {
        let keys = self.tokens(0..sinks.min(blocks.start));
        let rows = self.rows(&self.tokens(blocks));
        let first = self.query_position(rows.start);
        SequenceRows {
            q_start: rows.start,
            positions: Some(FirstPositions { query: first, key: 0 }),
            ..place.rows(rows.len(), keys.len())
        }
    }

    fn segments(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        view: &View,
        place: Place,
        group: usize,
        reshaping: &Reshaping,
    ) -> Result<()> {
        let segments = reshaping.segments_of(group);
        let triangles: Vec<_> =
            segments.iter().map(|blocks| self.triangle_of(place, blocks.clone())).collect();
        let strips: Vec<_> = segments
            .iter()
            .map(|blocks| self.strip_of(place, blocks.clone(), reshaping.sink_blocks()))
            .collect();
        self.merged(encoder, view, &triangles, &strips)
    }

    /// Triangles and strips into the running state of a view, and out.
    fn merged(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        view: &View,
        triangles: &[SequenceRows],
        strips: &[SequenceRows],
    ) -> Result<()> {
        let some = |sequences: &[SequenceRows], keys: bool| -> Vec<SequenceRows> {
            let wanted = |s: &&SequenceRows| s.q_len > 0 && (s.kv_len > 0 || !keys);
            sequences.iter().filter(wanted).copied().collect()
        };
        let (triangles, strips) = (some(triangles, false), some(strips, true));
        let merge = |sequences: &[SequenceRows], earlier| {
            let step = Step { earlier, mean: false };
            self.merger.prepare(&view.merger, sequences.iter().copied(), step)
        };
        for (plan, bound, sequences, merge) in [
            (&self.triangle_state, &view.triangle_state, &triangles, merge(&triangles, 0)?),
            (&self.strip_state, &view.strip_state, &strips, merge(&strips, 1)?),
        ] {
            plan.encode(encoder, bound, &Call::rows_of(sequences))?;
            merge.into_iter().for_each(|merge: PreparedStep<'_>| merge.record(encoder));
        }
        Ok(())
    }

    fn row_column(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        view: &View,
        place: Place,
        set: &[usize],
        reshaping: &Reshaping,
    ) -> Result<()> {
        // The packed triangle: whole blocks, but for the last of the sequence, which is in every
        // set.
        let keys: usize = set.iter().map(|&block| self.tokens(block..block + 1).len()).sum();
        let rows: usize = set.iter().map(|&block| self.rows(&self.tokens(block..block + 1)).len()).sum();
        let Packed { q, k, v, output, lse, bound } = &view.packed;
        let mut copies = Vec::new();
        let query_first = self.shape.kv_len() - self.shape.q_len();
        for (copier, rows, first) in [(q, rows, query_first), (k, keys, 0), (v, keys, 0)] {
            copies.push(self.gatherer.copy(
                copier,
                place.entry,
                set,
                (rows, keys - rows.min(keys), first),
            )?);
        }
        let back = [Some(output), lse.as_ref()].into_iter().flatten();
        let back = back
            .map(|copier| self.gatherer.copy(copier, place.entry, set, (rows, keys - rows, query_first)))
            .collect::<Result<Vec<_>>>()?;
        for copy in copies.into_iter().flatten() {
            copy.record(encoder);
        }
        // Gathered rows keep the positions that they had.
        let tables = match self.attention.positions() {
            Some(_) => {
                let places = set.iter().flat_map(|&block| self.tokens(block..block + 1));
                let keys: Vec<u32> = places.map(|token| token as u32).collect();
                let ids = PositionIds::new(&keys[keys.len() - rows..], &keys)?;
                Some(TableBuffer::new(self.triangle.context(), &Tables::from(&ids))?)
            }
            None => None,
        };
        let sequences = [place.rows(rows, keys)];
        let mut call = Call::rows_of(&sequences);
        if let Some(tables) = &tables {
            call = call.with_tables(tables);
        }
        self.triangle.encode(encoder, bound, &call)?;
        for copy in back.into_iter().flatten() {
            copy.record(encoder);
        }
        let left_out = || (0..self.grid.key_blocks()).filter(|block| set.binary_search(block).is_err());
        let triangles: Vec<_> = left_out().map(|block| self.triangle_of(place, block..block + 1)).collect();
        let sinks = reshaping.sink_blocks();
        let strips: Vec<_> = left_out().map(|block| self.strip_of(place, block..block + 1, sinks)).collect();
        self.merged(encoder, view, &triangles, &strips)
    }
}

/// A list group: its batch entry in a view, and the first of its heads in the whole tensor.
#[derive(Clone, Copy, Debug)]
struct Place {
    entry: usize,
    first_head: usize,
}

impl Place {
    /// The first rows there.
    fn rows(self, q_len: usize, kv_len: usize) -> SequenceRows {
        SequenceRows { slope_head: self.first_head, ..SequenceRows::first(self.entry, q_len, kv_len) }
    }
}
