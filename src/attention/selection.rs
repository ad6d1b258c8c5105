//! Blocks chosen by content on the GPU: `shaders/sampling/block_scores.wgsl`, `block_shares.wgsl`,
//! `block_select.wgsl`.

use std::sync::{Arc, Mutex};

use super::gpu_summaries::GpuSummaries;
use super::inputs::attention::Attention;
use super::prepared::Prepared;
use super::table_buffer::{ScheduleWords, TableBuffer, Writer};
use crate::attention::kernels::content::{BlockMasses, Mass};
use crate::error::{Error, Result, ensure};
use crate::random::Seed;
use crate::runtime::context::Context;
use crate::runtime::prepare::Compiling;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::SlotPool;
use crate::runtime::sync::lock;
use crate::sampling::content::{BlockScores, Estimate, Participation, Probe, powers};
use crate::sampling::gpu::content::{Choice, MAX_PROBES, REPORT_WORDS, SCORES_GROUP};
use crate::sampling::gpu::params::{ContentParams, ContentSequence};
use crate::sampling::{BlockGrid, Schedule};

/// Blocks without summaries there is room for from the start over tensors: of the newest keys.
const UNKNOWN_BLOCKS: usize = 8;

/// Chooses on the GPU, call after call, which key blocks take part: what
/// [`Schedule::select`](crate::Schedule::select) chooses by the scores that it computed, bit for
/// bit.
///
/// A plan makes one ([`Plan::selector`](crate::Plan::selector)) for a [`Participation`], and a call
/// takes it ([`Call::with_selection`](crate::Call::with_selection)): scores of the blocks from
/// [summaries](GpuSummaries) of keys, lists from scores, and the attention over them are recorded
/// together. Nothing is read back, the host does nothing that grows with the keys, and no GPU
/// object is created once as many calls have been in flight before.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::attention::{GpuSummaries, SummarizedKeys};
/// use prflash::sampling::Granularity;
/// use prflash::sampling::content::{Estimate, Participation, Probe};
/// # use prflash::{Attention, BlockGrid, Call, Context, DType, Layout, Operands, Shape, Tensor};
/// # let context = Context::new_blocking()?;
/// // A query of 32 heads over up to 32,768 keys of 8 heads, of which 16 blocks of 64 are visited.
/// let shape = Shape::new(32, 8, 32_768, 128)?.with_q_len(1)?;
/// # let zeros = |heads, rows| Tensor::zeros(&context, DType::F32, Layout::heads_first(1, heads, rows, 128)?);
/// # let (q, k, v, output) = (zeros(32, 1)?, zeros(8, 32_768)?, zeros(8, 32_768)?, zeros(32, 1)?);
/// let attention = Attention::causal();
/// let plan = attention.plan(&context, &shape)?;
/// # let bound = plan.bind(&Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None })?;
/// let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
/// let selector = plan.selector(&grid, &Participation::content(16)?, Estimate::Saturated, Probe::causal(1)?)?;
/// let mut summaries = GpuSummaries::new(&context, &attention, k.view(), 64, 1)?;
/// for len in 20_000..20_100 {
///     // … a query, and a key and a value in row len − 1; then one call:
///     let mut encoder = context.device().create_command_encoder(&Default::default());
///     let from = summaries.len(0);
///     summaries.encode(&mut encoder, &[SummarizedKeys { keys: 0..len, from, ..Default::default() }])?;
///     let call = Call::lengths(1, len).with_selection(selector.over(&summaries));
///     plan.encode(&mut encoder, &bound, &call)?;
///     context.queue().submit([encoder.finish()]);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Precision
/// Everything from masses on is decided in integers. A mass itself, `log₂` in units of 1/1024,
/// comes from f32 arithmetic: with `u = 2⁻²⁴`, the inner products with D means and D reaches are
/// off by `u·(D/4 + 11)` of `Σ|q|·|mean|` and of `Σ|q|·reach` (four channels a step, a rounding of
/// each product, of the scaled query, of a step and its product), rotated queries by `13u` more;
/// the saturated estimate adds `s²/2` or `z·s`, of which the larger has at most the relative error
/// of `s²`, `u·(D/2 + 24)`. The logarithm of a sum of m groups is off by `u·(m + 8)` and by 4u of
/// its magnitude; and what is between two units goes to either.
#[derive(Debug)]
pub struct GpuSelector {
    pub(super) prepared: Arc<Prepared>,
    /// The longest.
    pub(super) grid: BlockGrid,
    pub(super) participation: Participation,
    pub(super) estimate: Estimate,
    pub(super) probe: Probe,
    pub(super) masses: Arc<Pipeline>,
    pub(super) shares: Arc<Pipeline>,
    pub(super) select: Arc<Pipeline>,
    pub(super) slots: SlotPool,
    /// Bounds, least masses, and what they say together, if they are wanted.
    pub(super) missing: Option<[Arc<Pipeline>; 3]>,
    scores: wgpu::Buffer,
    pub(super) lists: Mutex<Lists>,
}

/// What one list of a call leaves out, as one head sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LeftOut {
    /// Blocks that the list has.
    pub blocks: usize,
    /// No more than this share of the row's attention is in other blocks, but for rounding.
    pub at_most: f32,
    /// The same by the estimate that blocks were chosen by.
    pub estimated: f32,
}

/// The lists of calls, and what the last one's are of.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) tables: TableBuffer,
    pub(super) last: Vec<(ScheduleWords, ContentSequence)>,
    /// Rows that spoke for a query block.
    pub(super) probes: usize,
    /// Tokens of a summary.
    pub(super) group: usize,
    /// Whether the last call chose, and didn't only estimate.
    pub(super) chosen: bool,
}

/// A [`GpuSelector`] for one call, with what it reads in place of the keys.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    pub(super) selector: &'a GpuSelector,
    pub(super) summaries: Option<&'a GpuSummaries>,
    pub(super) seeds: &'a [Seed],
}

impl<'a> Selection<'a> {
    /// The same with what draws are functions of: one seed for all sequences, or one for each in
    /// order. They matter only where blocks are drawn.
    pub fn with_seeds(self, seeds: &'a [Seed]) -> Self {
        Self { seeds, ..self }
    }
}

impl GpuSelector {
    /// Makes ready to choose for calls of a plan.
    pub(super) fn new(
        prepared: &Arc<Prepared>,
        grid: &BlockGrid,
        participation: &Participation,
        estimate: Estimate,
        probe: Probe,
        missing: bool,
    ) -> Result<Self> {
        if prepared.variant.paged {
            return Err(Error::unsupported("blocks in pages aren't chosen by content".to_owned()));
        }
        let Prepared { context, attention, maxima, sequences, position_buffer, .. } = &**prepared;
        check(attention)?;
        if let Some(cache) = &prepared.cache {
            let summarized = cache.summaries().is_some();
            ensure!(summarized, "cache", "expected summaries: use Staircase::with_summaries");
        }
        let heads = |heads: usize, kv_heads: usize, causal: bool| (heads, kv_heads, causal);
        let want = heads(maxima.heads(), maxima.kv_heads(), attention.is_causal());
        let got = heads(grid.heads(), grid.kv_heads(), grid.is_causal());
        ensure!(want == got, "grid", "expected (heads, kv_heads, causal) = {want:?}, got {got:?}");
        ensure!(
            probe.count().min(grid.block_size()) <= MAX_PROBES,
            "probe",
            "expected at most {MAX_PROBES} rows, got {}",
            probe.count()
        );
        let rope = attention.positions().and_then(|positions| positions.rope());
        let program = BlockMasses {
            mass: Mass::Estimated(estimate),
            storage: attention.storage(),
            head_dim: maxima.head_dim(),
            rope: rope.map(|rope| (rope.pairing(), rope.rotary_dim())),
            cached: prepared.cache.is_some(),
        };
        let masses = context.pipeline(&program)?;
        let shares = context.pipeline(&Choice::Shares)?;
        let select = context.pipeline(&Choice::Select { drawn: participation.tau().is_some() })?;
        let missing = match missing {
            true => {
                let of = |mass| context.pipeline(&BlockMasses { mass, ..program });
                let bound = of(Mass::Estimated(Estimate::Bound))?;
                Some([bound, of(Mass::Least)?, context.pipeline(&Choice::Missing)?])
            }
            false => None,
        };
        let limit = context.capabilities().max_binding_bytes;
        let too_large = |what: &str, bytes: u64| {
            let message = format!(
                "{what} of {sequences} sequences take {bytes} bytes, past the {limit} that this device can bind at once"
            );
            Error::too_large("grid", message)
        };
        let score_words = score_words(grid, probes(grid, probe), missing.is_some());
        let score_bytes = 4 * score_words.saturating_mul(*sequences as u64);
        if score_bytes > limit {
            return Err(too_large("scores", score_bytes));
        }
        let unknown = match &prepared.cache {
            Some(cache) => cache.segment_and_residual().1.div_ceil(grid.block_size()) + 1,
            None => UNKNOWN_BLOCKS,
        };
        let pinned = most_pinned(participation, grid).saturating_add(unknown);
        let list_bytes =
            4 * list_words(grid, most_kept(participation, grid, pinned)).saturating_mul(*sequences as u64);
        if list_bytes > limit {
            return Err(too_large("lists", list_bytes));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let scores = context.create_buffer("prflash scores of blocks", score_bytes.max(16), usage)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let table = powers();
        let powers = context.create_buffer("prflash powers", size_of_val(table) as u64, usage)?;
        context.capture(|| context.queue().write_buffer(&powers, 0, bytemuck::cast_slice(table)))?;
        let slots = SlotPool::new::<ContentParams, ContentSequence>(
            context,
            &shares,
            *sequences,
            vec![position_buffer.clone()],
        )?;
        let writer =
            Writer { pipeline: shares.clone(), group: SCORES_GROUP, beside: vec![powers, scores.clone()] };
        let mut tables = TableBuffer::empty(context, Some(writer));
        tables.take(list_bytes.max(16))?;
        Ok(Self {
            prepared: prepared.clone(),
            grid: *grid,
            participation: *participation,
            estimate,
            probe,
            masses,
            shares,
            select,
            slots,
            missing,
            scores,
            lists: Mutex::new(Lists { tables, last: Vec::new(), probes: 0, group: 1, chosen: false }),
        })
    }

    /// The same, which also says of each list how much it leaves out
    /// ([`read_missing`](GpuSelector::read_missing)): that takes estimates of two more kinds for
    /// one row of each query block.
    ///
    /// # Errors
    /// Those of [`Plan::selector`](crate::Plan::selector), for half as many scores again and more.
    pub fn with_missing(self) -> Result<Self> {
        let Self { prepared, grid, participation, estimate, probe, .. } = &self;
        Self::new(prepared, grid, participation, *estimate, *probe, true)
    }

    /// For a call over tensors, of whose keys these are summaries.
    pub fn over<'a>(&'a self, summaries: &'a GpuSummaries) -> Selection<'a> {
        Selection { selector: self, summaries: Some(summaries), seeds: &[] }
    }

    /// For a call over a cache, which has summaries of its own.
    pub fn cached(&self) -> Selection<'_> {
        Selection { selector: self, summaries: None, seeds: &[] }
    }

    /// Ready once its kernels are compiled, as [`Plan::prepare`](crate::Plan::prepare) is.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`](crate::Plan::prepare).
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        let own = [&self.masses, &self.shares, &self.select];
        let pipelines = own.into_iter().chain(self.missing.iter().flatten());
        self.prepared.context.prepare(pipelines, progress).await
    }

    /// Bytes of GPU memory held. It grows only when more calls are in flight than ever before, and
    /// where more keys are without summaries.
    pub fn device_bytes(&self) -> u64 {
        self.slots.bytes() + lock(&self.lists).tables.bytes()
    }

    /// The schedules that the last call chose, one for each of its sequences, once all work
    /// submitted so far is done; none, if it [only estimated](crate::Plan::encode_scores). Native
    /// backends wait inside.
    ///
    /// # Errors
    /// Invalid argument (`lists`) if what the device holds is no schedule: its commands weren't
    /// submitted. Device lost; out of memory.
    pub async fn read(&self) -> Result<Vec<Schedule>> {
        let (last, buffer) = {
            let lists = lock(&self.lists);
            let described = lists.tables.described().filter(|_| lists.chosen);
            let Some((_, buffer)) = described else { return Ok(Vec::new()) };
            (lists.last.clone(), buffer.clone())
        };
        let mut schedules = Vec::with_capacity(last.len());
        for (ScheduleWords { grid, lists, .. }, _) in &last {
            let rows = grid.groups() * grid.query_blocks();
            let offsets = self.words::<u32>(&buffer, (*lists).into(), rows as u64 + 1).await?;
            let total = u64::from(offsets.last().copied().unwrap_or(0));
            let room = buffer.size() / 4 - u64::from(*lists) - offsets.len() as u64;
            ensure!(2 * total <= room, "lists", "expected at most {room} words, got {total} blocks");
            let pairs = self.words::<u32>(&buffer, u64::from(*lists) + rows as u64 + 1, 2 * total).await?;
            schedules.push(Schedule::from_words(grid, &offsets, &pairs)?);
        }
        Ok(schedules)
    }

    /// The scores of the blocks of each sequence of the last call, from which
    /// [`Schedule::select`](crate::Schedule::select) chooses what the device chose, once all work
    /// submitted so far is done. Native backends wait inside.
    ///
    /// # Errors
    /// Too large (`grid`) past [`MAX_ELEMENTS`](crate::limits::MAX_ELEMENTS) scores; device lost;
    /// out of memory.
    pub async fn read_scores(&self) -> Result<Vec<BlockScores>> {
        let (last, probes) = {
            let lists = lock(&self.lists);
            (lists.last.clone(), lists.probes)
        };
        let mut scores = Vec::with_capacity(last.len());
        for (ScheduleWords { grid, .. }, sequence) in &last {
            let (rows, blocks) = (grid.query_blocks(), grid.key_blocks());
            let count = grid.heads() * rows * probes * blocks;
            let masses = self.words::<i32>(&self.scores, sequence.mass_base.into(), count as u64).await?;
            scores.push(BlockScores::from_units(grid, |head, row| {
                let at = (head * rows + row) * probes * blocks;
                let of_probes = masses[at..at + probes * blocks].chunks(blocks.max(1));
                let seen = seen_blocks(&self.prepared.attention, grid, row);
                Ok((seen, of_probes.map(<[i32]>::to_vec).collect()))
            })?);
        }
        Ok(scores)
    }

    /// What the lists of each sequence of the last call leave out, by `[heads, query_blocks]`, once
    /// all work submitted so far is done: of the first row that speaks for each query block (with
    /// one query, its own). Nothing, unless it was [asked for](GpuSelector::with_missing). Native
    /// backends wait inside.
    ///
    /// `U/(U + V)`: U is the sum of Quest's bounds (arXiv 2406.10774) over the blocks that aren't
    /// listed, V that of least masses over those that are, `Σ n·e^(q·mean)` by Jensen's inequality,
    /// less what means are rounded. Blocks without summaries are listed, and count as nothing in V.
    ///
    /// # Errors
    /// Device lost; out of memory.
    pub async fn read_missing(&self) -> Result<Vec<Vec<LeftOut>>> {
        let last = match lock(&self.lists) {
            lists if lists.chosen && self.missing.is_some() => lists.last.clone(),
            _ => return Ok(Vec::new()),
        };
        let mut all = Vec::with_capacity(last.len());
        for (ScheduleWords { grid, .. }, sequence) in &last {
            let rows = grid.heads() * grid.query_blocks();
            let count = (rows * REPORT_WORDS) as u64;
            let words = self.words::<u32>(&self.scores, sequence.report_base.into(), count).await?;
            let of = |words: &[u32]| LeftOut {
                blocks: words[0] as usize,
                at_most: f32::from_bits(words[1]),
                estimated: f32::from_bits(words[2]),
            };
            all.push(words.chunks_exact(REPORT_WORDS).map(of).collect());
        }
        Ok(all)
    }

    /// [`read_missing`](GpuSelector::read_missing), blocking.
    ///
    /// # Errors
    /// As [`read_missing`](GpuSelector::read_missing).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_missing_blocking(&self) -> Result<Vec<Vec<LeftOut>>> {
        pollster::block_on(self.read_missing())
    }

    /// [`read`](GpuSelector::read), blocking.
    ///
    /// # Errors
    /// As [`read`](GpuSelector::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self) -> Result<Vec<Schedule>> {
        pollster::block_on(self.read())
    }

    /// [`read_scores`](GpuSelector::read_scores), blocking.
    ///
    /// # Errors
    /// As [`read_scores`](GpuSelector::read_scores).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_scores_blocking(&self) -> Result<Vec<BlockScores>> {
        pollster::block_on(self.read_scores())
    }

    pub(super) fn context(&self) -> &Context {
        &self.prepared.context
    }

    async fn words<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer, from: u64, count: u64) -> Result<Vec<T>> {
        let bytes = self.context().read_buffer(buffer, 4 * from, 4 * count).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}

/// Refuses attention whose scores summaries don't tell of.
fn check(attention: &Attention) -> Result<()> {
    let Some(positions) = attention.positions() else { return Ok(()) };
    ensure!(
        positions.bias().is_none(),
        "positions",
        "expected none with a bias, which the kernels that choose blocks don't know"
    );
    let factor = positions.factor_length();
    ensure!(
        factor.is_none(),
        "positions",
        "expected none with a harmonic factor, which estimates of blocks don't know, got {factor:?}"
    );
    Ok(())
}

/// Rows that may speak for a query block of a grid.
pub(super) fn probes(grid: &BlockGrid, probe: Probe) -> usize {
    let (block, asked) = (grid.block_size(), probe.count().min(grid.block_size()));
    match probe.is_causal() {
        // Row 0 is the earliest that there is.
        true => (0..asked).take_while(|at| at * block / asked < grid.q_len().max(1)).count(),
        false => asked.min(grid.q_len().max(1)),
    }
}

/// Query blocks that so many queries can touch, wherever they start.
fn most_query_blocks(grid: &BlockGrid) -> u64 {
    match grid.q_len() {
        0 => 0,
        len => ((len - 1).div_ceil(grid.block_size()) + 1) as u64,
    }
}

/// Words of masses, shares and pooled scores of a sequence of at most these lengths, and of what
/// lists leave out.
fn score_words(grid: &BlockGrid, probes: usize, missing: bool) -> u64 {
    let (planes, report) = if missing { (2, grid.heads() * REPORT_WORDS) } else { (0, 0) };
    let each = grid.heads() as u64 * (probes + planes + 1) as u64 + grid.groups() as u64;
    let each = each.saturating_mul(grid.key_blocks() as u64).saturating_add(report as u64);
    each.saturating_mul(most_query_blocks(grid))
}

/// Words of the lists of a sequence of at most these lengths, with at most so many blocks in a row.
fn list_words(grid: &BlockGrid, kept: usize) -> u64 {
    let rows = grid.groups() as u64 * most_query_blocks(grid);
    rows.saturating_mul(2 * kept as u64 + 1) + 1
}

/// Blocks that are pinned in a row whatever is known of keys, at most.
pub(super) fn most_pinned(participation: &Participation, grid: &BlockGrid) -> usize {
    let window = participation.window_blocks();
    let window = if grid.is_causal() { window } else { window.saturating_mul(2) };
    participation.sink_blocks().saturating_add(window)
}

/// Blocks of a row of which so many are pinned, at most.
pub(super) fn most_kept(participation: &Participation, grid: &BlockGrid, pinned: usize) -> usize {
    participation.blocks().max(pinned).min(grid.key_blocks())
}

/// The key blocks that any row of a query block sees: from the first one that its first row sees to
/// the last one of its last row, since ranges ascend.
pub(super) fn seen_blocks(attention: &Attention, grid: &BlockGrid, row: usize) -> std::ops::Range<usize> {
    let (rows, block) = (grid.rows_of(row), grid.block_size());
    let visible = |row: usize| {
        attention.visible(grid.kv_len() as i64 - grid.q_len() as i64 + row as i64, grid.kv_len())
    };
    if rows.is_empty() || visible(rows.end - 1).is_empty() {
        return 0..0;
    }
    visible(rows.start).start / block..visible(rows.end - 1).end.div_ceil(block)
}
