//! The plan of the native engine, and its calls.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pulp::{Simd, WithSimd};

use super::engine::Engine;
use super::few::{self, FewScratch, State};
use super::options::NativeOptions;
use super::output::Results;
use super::scratch::Pool;
use super::source::History;
use super::tile::{self, TileScratch};
use super::views::{HostView, HostViewMut, check_tensor};
use super::work::{Sequences, Work};
use crate::attention::call::{Queries, Sequence};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::tables::Tables;
use crate::cache::{HostCache, Side};
use crate::error::{Result, ensure};
use crate::layout::Layout;
use crate::shape::Shape;

/// An [`Attention`] made ready for this machine's cores. Calls may come from several threads at
/// once.
///
/// It keeps the memory that calls work in, as much as was ever used at once, so that a call
/// allocates nothing once there were two like it.
pub struct NativePlan {
    engine: Engine,
    calls: Pool<CallScratch>,
    workers: Pool<WorkerScratch>,
}

impl std::fmt::Debug for NativePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.engine.show("NativePlan", f)
    }
}

/// Memory of a call.
#[derive(Default)]
struct CallScratch {
    written: Vec<AtomicU32>,
    /// Where the tasks of each sequence begin, and their number at the end.
    tasks: Vec<usize>,
    /// Sequences by their rows.
    order: Vec<usize>,
    /// By task, where keys are split.
    states: Vec<Mutex<State>>,
}

/// The tensors of a call, where they lie.
#[derive(Debug)]
pub struct NativeOperands<'a> {
    /// Queries, `[batch, heads, rows, head_dim]`, in the attention's storage type.
    pub q: HostView<'a>,
    /// Keys, `[batch, kv_heads, rows, head_dim]`, likewise.
    pub k: HostView<'a>,
    /// Values, `[batch, kv_heads, rows, value_dim]`, likewise.
    pub v: HostView<'a>,
    /// The result, `[batch, heads, rows, value_dim]`, in the attention's output type.
    pub output: HostViewMut<'a>,
    /// The natural-log log-sum-exp of each row, contiguous `[batch, heads, rows]`, where the
    /// attention [has one](Attention::with_lse).
    pub lse: Option<&'a mut [f32]>,
}

/// The tensors of a call over a cache, where they lie.
#[derive(Debug)]
pub struct NativeQueries<'a> {
    /// Queries, `[batch, heads, rows, head_dim]`, in the attention's storage type.
    pub q: HostView<'a>,
    /// The result, `[batch, heads, rows, value_dim]`, in the attention's output type.
    pub output: HostViewMut<'a>,
    /// The natural-log log-sum-exp of each row, contiguous `[batch, heads, rows]`, where the
    /// attention [has one](Attention::with_lse).
    pub lse: Option<&'a mut [f32]>,
}

impl Attention {
    /// Makes this attention ready for this machine's cores: the same results as those of
    /// [`plan`](Attention::plan), within the rounding of f32, without a device.
    ///
    /// Heads and head dimensions of later calls are those of `maxima`; batch and lengths may be
    /// smaller.
    ///
    /// ```
    /// use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions};
    /// use prflash::{Attention, Layout, Shape, Tables};
    /// // 8 query heads on 2 key/value heads, 512 tokens, 64 channels.
    /// let shape = Shape::new(8, 2, 512, 64)?;
    /// let plan = Attention::causal().plan_native(&shape, &NativeOptions::new())?;
    /// let (queries, keys) = (Layout::heads_first(1, 8, 512, 64)?, Layout::heads_first(1, 2, 512, 64)?);
    /// let numbers: Vec<f32> = (0..queries.elements()).map(|i| (i as f32).sin()).collect();
    /// let mut output = vec![0.0_f32; queries.elements()];
    /// let mut operands = NativeOperands {
    ///     q: HostView::new(&numbers[..], queries)?,
    ///     k: HostView::new(&numbers[..], keys)?,
    ///     v: HostView::new(&numbers[..], keys)?,
    ///     output: HostViewMut::new(&mut output[..], queries)?,
    ///     lse: None,
    /// };
    /// plan.run(&mut operands, &Tables::new())?;
    /// assert_eq!(output[..64], numbers[..64]); // the first token sees itself alone
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument: positions for another head dimension (`positions`), or slopes or sinks for
    /// another number of heads (`slopes`, `sinks`). Too large (`stride`) where a rotation's table
    /// is; unsupported, where the system has no threads for a pool.
    pub fn plan_native(&self, maxima: &Shape, options: &NativeOptions) -> Result<NativePlan> {
        let engine = Engine::new(self, maxima, options)?;
        Ok(NativePlan { engine, calls: Pool::default(), workers: Pool::default() })
    }
}

impl NativePlan {
    /// What is computed.
    pub fn attention(&self) -> &Attention {
        &self.engine.attention
    }

    /// The sizes that calls have at most.
    pub fn maxima(&self) -> &Shape {
        &self.engine.maxima
    }

    /// How it is computed.
    pub fn options(&self) -> &NativeOptions {
        &self.engine.options
    }

    /// The instructions that this machine has and the plan uses, as a name to print: `V3` is AVX2
    /// with fused multiplication and addition, `V4` AVX-512 (feature `avx512`).
    pub fn instructions(&self) -> String {
        self.engine.instructions()
    }

    /// Computes the attention of whole tensors: every batch entry is a sequence.
    ///
    /// # Errors
    /// Invalid argument, naming the tensor, for another type, other heads or channels, or other
    /// numbers of batch entries and rows than belong together; (`lse`) one where there should be
    /// none, none where there should be one, or of another length; (`q_len`, `kv_len`, `sequences`)
    /// past the plan's maxima; and for tables that are of other sizes, or positions past the
    /// plan's.
    pub fn run(&self, operands: &mut NativeOperands<'_>, tables: &Tables<'_>) -> Result<()> {
        let [batch, _, _, _] = operands.q.layout().dims();
        let [k_batch, _, rows, _] = operands.k.layout().dims();
        let [v_batch, _, v_rows, _] = operands.v.layout().dims();
        ensure!(k_batch == batch, "k", "expected {batch} batch entries, as q has, got {k_batch}");
        ensure!(v_batch == batch, "v", "expected {batch} batch entries, as q has, got {v_batch}");
        ensure!(v_rows == rows, "v", "expected {rows} rows, as k has, got {v_rows}");
        self.call_tensors(operands, Sequences::Whole, tables)
    }

    /// Computes the attention of these sequences, which are rows of the tensors; their output rows
    /// must not overlap. Rows of no sequence are left as they are.
    ///
    /// # Errors
    /// As [`run`](NativePlan::run); invalid argument (`entry`, `queries`, `keys`) for rows that the
    /// tensors don't have, and (`sequences`) for sequences that write the same rows.
    pub fn run_sequences(
        &self,
        operands: &mut NativeOperands<'_>,
        sequences: &[Sequence],
        tables: &Tables<'_>,
    ) -> Result<()> {
        self.call_tensors(operands, Sequences::Each(sequences), tables)
    }

    fn call_tensors(
        &self,
        operands: &mut NativeOperands<'_>,
        sequences: Sequences<'_>,
        tables: &Tables<'_>,
    ) -> Result<()> {
        let NativeOperands { q, k, v, output, lse } = operands;
        let history = History::Tensors { k: *k, v: *v };
        self.call(*q, history, (output, lse.as_deref_mut()), sequences, tables)
    }

    /// Computes attention from queries over a cache in host memory, whose words are read as they
    /// are: the queries are the last tokens of their sequences, and dropped tokens are seen by
    /// none. A rotation turns the keys only if they are stored [before
    /// it](crate::cache::StoredKeys::BeforeRotation).
    ///
    /// # Errors
    /// As [`run`](NativePlan::run); invalid argument: (`cache`) one of other heads or channels than
    /// the plan's, (`queries`) more of them than the sequence has tokens, (`sequence`) one that the
    /// cache doesn't have, (`sequences`) queries that write the same rows.
    pub fn run_cached(
        &self,
        cache: &HostCache,
        operands: &mut NativeQueries<'_>,
        queries: &[Queries],
        tables: &Tables<'_>,
    ) -> Result<()> {
        let maxima = &self.engine.maxima;
        let want = [maxima.kv_heads(), maxima.head_dim(), maxima.value_dim()];
        let got = [cache.kv_heads(), cache.dim(Side::Keys), cache.dim(Side::Values)];
        ensure!(
            want == got,
            "cache",
            "expected (kv_heads, head_dim, value_dim) = {want:?}, as the plan has, got {got:?}"
        );
        let NativeQueries { q, output, lse } = operands;
        let history = History::Cache(cache);
        self.call(*q, history, (output, lse.as_deref_mut()), Sequences::Cached(queries), tables)
    }

    fn call(
        &self,
        q: HostView<'_>,
        history: History<'_>,
        (output, lse): (&mut HostViewMut<'_>, Option<&mut [f32]>),
        sequences: Sequences<'_>,
        tables: &Tables<'_>,
    ) -> Result<()> {
        self.check_tensors(&q, &history, output)?;
        let lse = self.check_lse(q.layout(), lse)?;
        self.calls.with(|CallScratch { written, tasks, order, states }| {
            let work = Work {
                attention: &self.engine.attention,
                shape: &self.engine.maxima,
                positions: self.engine.positions.as_ref(),
                q,
                history,
                sequences,
                tables,
                results: Results::new(output, lse, written),
            };
            work.check(order)?;
            tasks.clear();
            tasks.push(0);
            let mut splits = false;
            for index in 0..work.sequence_count() {
                let cut = work.cut(&work.part(index));
                splits |= cut.splits();
                let before = tasks.last().copied().unwrap_or(0);
                tasks.push(before + cut.tasks());
            }
            let count = tasks.last().copied().unwrap_or(0);
            if splits && states.len() < count {
                states.resize_with(count, Mutex::default);
            }
            let next = AtomicUsize::new(0);
            self.engine.threads.each(count, || {
                let shared = Shared { work: &work, tasks, count, next: &next, states };
                self.workers.with(|scratch| self.engine.arch.dispatch(Worker { shared, scratch }));
            });
            if splits {
                merge(&work, tasks, states);
            }
            Ok(())
        })
    }

    fn check_tensors(&self, q: &HostView<'_>, history: &History<'_>, output: &HostViewMut<'_>) -> Result<()> {
        let (storage, maxima) = (self.engine.attention.storage(), &self.engine.maxima);
        let (heads, kv_heads, dim) = (maxima.heads(), maxima.kv_heads(), maxima.head_dim());
        check_tensor("q", (q.dtype(), q.layout()), storage, heads, dim)?;
        if let History::Tensors { k, v } = history {
            check_tensor("k", (k.dtype(), k.layout()), storage, kv_heads, dim)?;
            check_tensor("v", (v.dtype(), v.layout()), storage, kv_heads, maxima.value_dim())?;
        }
        let written = (output.dtype(), output.layout());
        check_tensor("output", written, self.engine.attention.output(), heads, maxima.value_dim())?;
        let places = |layout: &Layout| {
            let [batch, _, rows, _] = layout.dims();
            (batch, rows)
        };
        let (want, got) = (places(q.layout()), places(output.layout()));
        ensure!(want == got, "output", "expected (batch, rows) = {want:?}, as q has, got {got:?}");
        Ok(())
    }

    /// Where the log-sum-exp lies.
    fn check_lse<'a>(
        &self,
        q: &Layout,
        lse: Option<&'a mut [f32]>,
    ) -> Result<Option<(&'a mut [f32], Layout)>> {
        let [batch, heads, rows, _] = q.dims();
        let (want, got) = (self.engine.attention.lse(), lse.is_some());
        ensure!(want == got, "lse", "expected one: {want} (Attention::with_lse), got one: {got}");
        let Some(lse) = lse else { return Ok(None) };
        let (want, got) = (batch * heads * rows, lse.len());
        ensure!(want == got, "lse", "expected {want} numbers, one for each row, got {got}");
        Ok(Some((lse, Layout::rows(batch, heads, rows)?)))
    }
}

/// What the threads of a call share.
struct Shared<'a> {
    work: &'a Work<'a>,
    tasks: &'a [usize],
    count: usize,
    next: &'a AtomicUsize,
    /// By task, where keys are split.
    states: &'a [Mutex<State>],
}

/// Memory of a thread.
#[derive(Default)]
struct WorkerScratch {
    tile: TileScratch,
    few: FewScratch,
}

/// One thread of a call: takes tasks until there are none left.
struct Worker<'a> {
    shared: Shared<'a>,
    scratch: &'a mut WorkerScratch,
}

impl WithSimd for Worker<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Shared { work, tasks, count, next, states } = self.shared;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let sequence = tasks.partition_point(|&first| first <= index) - 1;
            let part = work.part(sequence);
            let cut = work.cut(&part);
            let task = work.task(part, cut, index - tasks[sequence]);
            if task.rows.is_empty() {
                continue;
            }
            if !cut.few {
                tile::attend(simd, work, &task, &mut self.scratch.tile);
                continue;
            }
            let scratch = &mut self.scratch.few;
            few::attend(simd, work, &task, scratch);
            if cut.splits() {
                let mut kept = states[index].lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut *kept, &mut scratch.state);
            } else {
                scratch.state.write(work, &task.part, task.heads.clone());
            }
        }
    }
}

/// Merges the states of split keys in their order, and stores the results.
fn merge(work: &Work<'_>, tasks: &[usize], states: &mut [Mutex<State>]) {
    let stride = few::padded(work.shape.value_dim());
    for (sequence, &first) in tasks.iter().enumerate().take(work.sequence_count()) {
        let part = work.part(sequence);
        let cut = work.cut(&part);
        if !cut.splits() {
            continue;
        }
        for chunk in 0..cut.chunks {
            let heads = chunk * cut.heads..(chunk + 1) * cut.heads;
            let mut pieces = states[first + chunk * cut.pieces..][..cut.pieces]
                .iter_mut()
                .map(|state| state.get_mut().unwrap_or_else(PoisonError::into_inner));
            let Some(all) = pieces.next() else { continue };
            pieces.for_each(|piece| all.merge(piece, stride));
            all.write(work, &part, heads);
        }
    }
}
