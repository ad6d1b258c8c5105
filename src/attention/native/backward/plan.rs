//! The plan of the native backward pass, and its calls.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use pulp::{Simd, WithSimd};

use super::operands::NativeBackwardOperands;
use super::rows::{Chunks, Inputs, Places, Prepared, Sizes, write_keys, write_queries};
use super::tile::{self, Pass, Scratch, Task};
use super::wrong::{Wrong, or};
use crate::attention::call::Sequence;
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::tables::Tables;
use crate::attention::native::engine::Engine;
use crate::attention::native::options::NativeOptions;
use crate::attention::native::output::Results;
use crate::attention::native::part::Part;
use crate::attention::native::scratch::{Aligned, Pool};
use crate::attention::native::sizes::KEYS;
use crate::attention::native::source::History;
use crate::attention::native::work::{Sequences, Work};
use crate::error::Result;
use crate::layout::Layout;
use crate::sampling::KeyBlockRows;
use crate::shape::Shape;

/// The gradients of an [`Attention`] made ready for this machine's cores: the values of a
/// [`BackwardPlan`](crate::attention::BackwardPlan), within the rounding of f32, without a device.
/// Calls may come from several threads at once.
///
/// No two tasks of a call add to the same number, so equal calls give equal bits on any number of
/// threads. Mask tensors, sinks and slopes have their part, and the gradients of sinks and slopes
/// are computed where a call asks for them.
pub struct NativeBackwardPlan {
    engine: Engine,
    calls: Pool<CallScratch>,
    workers: Pool<Scratch>,
}

impl std::fmt::Debug for NativeBackwardPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.engine.show("NativeBackwardPlan", f)
    }
}

/// Memory of a call.
#[derive(Default)]
struct CallScratch {
    /// Bits of written rows, of each gradient.
    written: [Vec<AtomicU32>; 3],
    order: Vec<usize>,
    places: Places,
    queries: Aligned,
    keys: Aligned,
    /// Gradients of slopes by query row.
    slopes: Vec<f32>,
    /// Where the tasks of each sequence begin, and their number at the end.
    tasks: Vec<usize>,
}

impl Attention {
    /// Makes the gradients of this attention ready for this machine's cores.
    ///
    /// Heads and head dimensions of later calls are those of `maxima`; batch and lengths may be
    /// smaller.
    ///
    /// ```
    /// use prflash::native::{HostView, HostViewMut, NativeBackwardOperands, NativeOptions};
    /// use prflash::{Attention, Layout, Shape, Tables};
    /// // One query sees one key: its weight is 1 whatever the score, so only the value matters.
    /// let shape = Shape::new(1, 1, 1, 4)?;
    /// let plan = Attention::causal().plan_backward_native(&shape, &NativeOptions::new())?;
    /// let layout = Layout::heads_first(1, 1, 1, 4)?;
    /// let [q, k, v, d_output] = [[0.3; 4], [0.7; 4], [8.0; 4], [1.0, 2.0, 3.0, 4.0]];
    /// let lse = [0.5 * 4.0 * 0.3 * 0.7]; // of one key: its score
    /// let [mut dq, mut dk, mut dv] = [[9.0_f32; 4]; 3];
    /// let view = |numbers| HostView::new(numbers, layout);
    /// plan.run(
    ///     &mut NativeBackwardOperands {
    ///         q: view(&q[..])?,
    ///         k: view(&k[..])?,
    ///         v: view(&v[..])?,
    ///         output: view(&v[..])?,
    ///         lse: &lse,
    ///         d_output: view(&d_output[..])?,
    ///         d_lse: None,
    ///         dq: HostViewMut::new(&mut dq[..], layout)?,
    ///         dk: HostViewMut::new(&mut dk[..], layout)?,
    ///         dv: HostViewMut::new(&mut dv[..], layout)?,
    ///         d_sinks: None,
    ///         d_slopes: None,
    ///     },
    ///     &Tables::new(),
    /// )?;
    /// assert!(dv.iter().zip(d_output).all(|(dv, want)| (dv - want).abs() < 1e-5));
    /// assert!(dq.iter().chain(&dk).all(|x| x.abs() < 1e-4));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`plan_native`](Attention::plan_native).
    pub fn plan_backward_native(
        &self,
        maxima: &Shape,
        options: &NativeOptions,
    ) -> Result<NativeBackwardPlan> {
        let engine = Engine::new(self, maxima, options)?;
        Ok(NativeBackwardPlan { engine, calls: Pool::default(), workers: Pool::default() })
    }
}

impl NativeBackwardPlan {
    /// What it computes the gradients of.
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

    /// The instructions that the plan uses, as those of
    /// [`NativePlan::instructions`](super::super::NativePlan::instructions).
    pub fn instructions(&self) -> String {
        self.engine.instructions()
    }

    /// Computes the gradients of whole tensors: every batch entry is a sequence.
    ///
    /// # Errors
    /// Invalid argument, naming the tensor, for another type, other heads or channels, or other
    /// numbers of batch entries and rows than belong together; (`lse`, `d_lse`, `d_sinks`,
    /// `d_slopes`) of another length, or of what the attention doesn't have; (`q_len`, `kv_len`,
    /// `sequences`) past the plan's maxima; and for tables that are of other sizes, or positions
    /// past the plan's.
    pub fn run(&self, operands: &mut NativeBackwardOperands<'_>, tables: &Tables<'_>) -> Result<()> {
        self.call(operands, Sequences::Whole, tables)
    }

    /// Computes the gradients of these sequences, which are rows of the tensors. Rows of no
    /// sequence are left as they are.
    ///
    /// # Errors
    /// As [`run`](NativeBackwardPlan::run); invalid argument (`entry`, `queries`, `keys`) for rows
    /// that the tensors don't have, (`sequences`) for sequences that share queries or keys, and
    /// (`pages`) for tables of pages.
    pub fn run_sequences(
        &self,
        operands: &mut NativeBackwardOperands<'_>,
        sequences: &[Sequence],
        tables: &Tables<'_>,
    ) -> Result<()> {
        self.call(operands, Sequences::Each(sequences), tables)
    }

    fn call(
        &self,
        operands: &mut NativeBackwardOperands<'_>,
        sequences: Sequences<'_>,
        tables: &Tables<'_>,
    ) -> Result<()> {
        let lse_at = operands.check(&self.engine.attention, &self.engine.maxima)?;
        let rows = tables.pages(0).is_none();
        crate::error::ensure!(rows, "pages", "expected none: gradients are of keys that lie in rows");
        let NativeBackwardOperands { q, k, v, output, lse, d_output, d_lse, .. } = *operands;
        let inputs = Inputs { k, v, output, d_output, lse, d_lse, lse_at };
        let NativeBackwardOperands { dq, dk, dv, d_sinks, d_slopes, .. } = operands;
        let [batch, batch_k] = [q, k].map(|view| view.layout().dims()[0]);
        crate::error::ensure!(
            batch == batch_k || matches!(sequences, Sequences::Each(_)),
            "k",
            "expected {batch} batch entries, as q has, got {batch_k}"
        );
        self.calls.with(|scratch| {
            let CallScratch { written, order, places, queries, keys, slopes, tasks } = scratch;
            let [dq_written, dk_written, dv_written] = written;
            slopes.clear();
            slopes.resize(if d_slopes.is_some() { lse.len() } else { 0 }, 0.0);
            let by_row = d_slopes.is_some().then_some((&mut slopes[..], lse_at));
            let work = Work {
                attention: &self.engine.attention,
                shape: &self.engine.maxima,
                positions: self.engine.positions.as_ref(),
                q,
                history: History::Tensors { k, v },
                sequences,
                tables,
                results: Results::new(dq, by_row, dq_written),
            };
            work.check(order)?;
            if matches!(sequences, Sequences::Each(_)) {
                work.check_keys_apart(order)?;
            }
            let (dk, dv) = (Results::new(dk, None, dk_written), Results::new(dv, None, dv_written));
            let sizes = Sizes::of(&self.engine.maxima);
            places.fill(&work);
            let last = |list: &[usize]| list.last().copied().unwrap_or(0);
            let rows = [last(&places.queries), last(&places.keys)];
            let queries = queries.numbers(rows[0] * sizes.query());
            let keys = keys.numbers(rows[1] * sizes.key());
            let chunks = [Chunks::new(&mut *queries, sizes.query()), Chunks::new(&mut *keys, sizes.key())];
            self.engine.threads.each(rows[0] + rows[1], || {
                write_queries(&work, &inputs, places, &chunks[0]);
                write_keys(&work, &inputs, places, &chunks[1]);
            });
            let columns = columns(&work);
            let pass = Pass {
                work: &work,
                rows: Prepared { sizes, places, queries, keys },
                columns: &columns,
                dk: &dk,
                dv: &dv,
                slopes: d_slopes.is_some(),
            };
            tasks.clear();
            tasks.push(0);
            for index in 0..work.sequence_count() {
                let cut = Cut::of(&work, &work.part(index));
                tasks.push(tasks[index] + cut.tasks());
            }
            let next = AtomicUsize::new(0);
            self.engine.threads.each(last(tasks), || {
                let worker = |scratch: &mut Scratch| {
                    self.engine.arch.dispatch(Worker { pass: &pass, tasks, next: &next, scratch });
                };
                self.workers.with(worker);
            });
            if let Some(d_sinks) = d_sinks {
                sum_sinks(&pass, d_sinks);
            }
            let places = row_places(&work, lse_at);
            if let Some(d_slopes) = d_slopes {
                sum_slopes(&places, slopes, d_slopes);
            }
            Ok(())
        })
    }
}

/// Schedules by key block, sequence by sequence.
fn columns(work: &Work<'_>) -> Vec<Option<KeyBlockRows>> {
    let schedule = |index| work.tables.schedule(index).map(|schedule| schedule.transpose());
    (0..work.sequence_count()).map(schedule).collect()
}

/// Where the rows of each head of a call's sequences lie in a tensor of rows, in their order.
fn row_places(work: &Work<'_>, layout: Layout) -> Vec<Vec<Range<usize>>> {
    let of_head = |head: usize| {
        let place = |index| {
            let part = work.part(index);
            let first = layout.index(part.entry, head, part.queries.start, 0);
            first..first + part.queries.len()
        };
        (0..work.sequence_count()).map(place).collect()
    };
    (0..work.shape.heads()).map(of_head).collect()
}

/// `−Σᵢ e^(z − Lᵢ)·δᵢ` of each head.
fn sum_sinks(pass: &Pass<'_>, d_sinks: &mut [f32]) {
    let Pass { work, rows, .. } = pass;
    let sinks = work.attention.sinks().unwrap_or(&[]);
    for (head, (to, &sink)) in d_sinks.iter_mut().zip(sinks).enumerate() {
        let mut sum = 0.0;
        for sequence in 0..work.sequence_count() {
            let part = work.part(sequence);
            let queries = rows.queries(sequence, head, &part);
            for row in 0..part.queries.len() {
                let ending = &queries.row(row, rows.sizes.query())[rows.sizes.query() - 2..];
                let weight = (f64::from(sink) - f64::from(ending[0])).exp();
                sum -= or(Wrong::SinkTurned, weight, -weight) * f64::from(ending[1]);
            }
        }
        *to = sum as f32;
    }
}

/// The gradients of each head's slope, from those by row.
fn sum_slopes(places: &[Vec<Range<usize>>], by_row: &[f32], d_slopes: &mut [f32]) {
    for (head, to) in d_slopes.iter_mut().enumerate() {
        let places = &places[or(Wrong::SlopeOfFirstHead, head, 0)];
        let rows = places.iter().flat_map(|place| &by_row[place.clone()]);
        *to = rows.map(|&x| f64::from(x)).sum::<f64>() as f32;
    }
}

/// How the tasks of a sequence are numbered: tiles of keys, each of all key/value heads, then tiles
/// of queries. Those that see most under a causal mask come first.
struct Cut {
    kv_heads: usize,
    key_block: usize,
    /// Tiles of a key block.
    each: usize,
    key_tiles: usize,
    heads: usize,
    query_tiles: usize,
}

impl Cut {
    fn of(work: &Work<'_>, part: &Part<'_>) -> Self {
        let key_block = part.schedule.map_or(KEYS, |schedule| schedule.grid().block_size());
        let each = key_block.div_ceil(KEYS);
        Self {
            kv_heads: work.shape.kv_heads(),
            key_block,
            each,
            key_tiles: part.keys.len().div_ceil(key_block) * each,
            heads: work.shape.heads(),
            query_tiles: part.tiles(),
        }
    }

    fn tasks(&self) -> usize {
        self.kv_heads * self.key_tiles + self.heads * self.query_tiles
    }

    /// The keys of a tile; none where its block ends before it.
    fn keys(&self, part: &Part<'_>, tile: usize) -> Range<usize> {
        let block = tile / self.each * self.key_block;
        let start = block + tile % self.each * KEYS;
        let end =
            (start + or(Wrong::HalfTiles, KEYS, KEYS / 2)).min(block + self.key_block).min(part.keys.len());
        start..end.max(start)
    }
}

/// One thread of a call: takes tasks until there are none left.
struct Worker<'a> {
    pass: &'a Pass<'a>,
    tasks: &'a [usize],
    next: &'a AtomicUsize,
    scratch: &'a mut Scratch,
}

impl WithSimd for Worker<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { pass, tasks, next, scratch } = self;
        let count = tasks.last().copied().unwrap_or(0);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let sequence = tasks.partition_point(|&first| first <= index) - 1;
            let part = pass.work.part(sequence);
            let cut = Cut::of(pass.work, &part);
            let within = index - tasks[sequence];
            let of_keys = cut.kv_heads * cut.key_tiles;
            if within < of_keys {
                let lanes = cut.keys(&part, within / cut.kv_heads);
                if !lanes.is_empty() {
                    let task = Task { sequence, part, head: within % cut.kv_heads, lanes };
                    tile::keys(simd, pass, &task, scratch);
                }
            } else {
                let within = within - of_keys;
                let lanes = part.tile(cut.query_tiles - 1 - within / cut.heads);
                if !lanes.is_empty() {
                    let task = Task { sequence, part, head: within % cut.heads, lanes };
                    tile::queries(simd, pass, &task, scratch);
                }
            }
        }
    }
}
