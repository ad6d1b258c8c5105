//! Rotation in place: `shaders/rotate.wgsl`.

use std::ops::Range;
use std::sync::Arc;

use super::position_table::{PositionTable, check_aligned};
use crate::attention::kernels::params::{RotateParams, RotateRun};
use crate::attention::kernels::rotate::Rotate;
use crate::error::{Result, ensure};
use crate::layout::DType;
use crate::position::{Positions, Rope};
use crate::runtime::binding::{Axis, check_written, fits, split};
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::prepare::Compiling;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::{Slot, SlotPool};
use crate::runtime::tensor::{Binding, TensorView};

/// Runs of one dispatch, at most: calls with more dispatch again.
const RUNS: usize = 512;

impl Rope {
    /// Makes this rotation ready to turn rows where they are stored, at positions below
    /// `max_positions` in magnitude: compiles the kernel and uploads the tables (in two levels: a
    /// million positions take about 1 MB at 64 channels).
    ///
    /// Attention with [`Positions`] rotates as it loads and needs none of this. Rows that lie in
    /// storage turned are for attention *without* a rotation, which is then spared turning the same
    /// keys in every call, and for kernels of your own.
    ///
    /// # Errors
    /// Invalid argument (`max_positions`) past 2³⁰; unsupported, where the rotary dimension isn't
    /// [aligned](Rope::is_quad_aligned); too large (`max_positions`), where the device can't bind
    /// the tables at once; out of memory; device lost.
    pub fn plan_rotation(
        &self,
        context: &Context,
        dtype: DType,
        max_positions: usize,
    ) -> Result<RotationPlan> {
        check_aligned(self)?;
        ensure!(max_positions <= 1 << 30, "max_positions", "expected at most 2^30, got {max_positions}");
        let mut table = PositionTable::new(&Positions::from(self.clone()), 1, max_positions, 1.0)?;
        let kernel = Rotate { storage: dtype, pairing: self.pairing(), rotary_dim: self.rotary_dim() };
        let pipeline = context.pipeline(&kernel)?;
        let [rope_low, rope_high] = table.rope_levels();
        let params = RotateParams { rope_low, rope_high, ..RotateParams::default() };
        let table = table.upload("max_positions", context)?;
        let slots = SlotPool::new::<RotateParams, RotateRun>(context, &pipeline, RUNS, vec![table.clone()])?;
        let (context, rope) = (context.clone(), self.clone());
        Ok(RotationPlan {
            inner: Arc::new(PlanInner {
                context,
                rope,
                max_positions,
                kernel,
                pipeline,
                slots,
                table,
                params,
            }),
        })
    }
}

/// A [`Rope`] made ready to turn stored rows in place, in every head of them.
///
/// One plan serves any number of tensors and calls, from any thread: [`bind`](RotationPlan::bind)
/// checks a tensor once, [`encode`](RotationPlan::encode) records a call into your command encoder
/// and never submits or waits.
///
/// Rotations add up: rows that lie turned to positions p and are [all turned by d](Rows::all_at)
/// lie turned to p + d, as a cache needs that has dropped tokens. (Not so with YaRN: its
/// temperature would multiply again.)
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::position::Pairing;
/// use prflash::rotation::Rows;
/// use prflash::{Context, DType, Layout, Rope, Tensor};
/// let context = Context::new_blocking()?;
/// let keys = Tensor::zeros(&context, DType::F16, Layout::heads_first(1, 2, 4096, 64)?)?;
/// let plan = Rope::new(64, 1e4, Pairing::Half)?.plan_rotation(&context, DType::F16, 4096)?;
/// let bound = plan.bind(keys.view())?;
/// let mut encoder = context.device().create_command_encoder(&Default::default());
/// plan.encode(&mut encoder, &bound, &[Rows::new(0, 0..1000)])?; // a prompt; then, once it is there,
/// plan.encode(&mut encoder, &bound, &[Rows::new(0, 1000..1001)])?; // one more token
/// context.queue().submit([encoder.finish()]);
/// # Ok(())
/// # }
/// ```
///
/// # Precision
/// Everything is computed in f32, where a value is off by less than `6.5u·t` times its pair's
/// length (`u = 2⁻²⁴`, t the temperature): 2u for the two levels of the table, `√5·u` for their
/// product and `√5·u` for that with the pair. It is then rounded to the storage type once, and past
/// f16's range becomes infinite. Attention that rotates as it loads is spared this last rounding.
#[derive(Clone, Debug)]
pub struct RotationPlan {
    inner: Arc<PlanInner>,
}

#[derive(Debug)]
struct PlanInner {
    context: Context,
    rope: Rope,
    max_positions: usize,
    kernel: Rotate,
    pipeline: Arc<Pipeline>,
    slots: SlotPool,
    table: wgpu::Buffer,
    /// Where the parts of the table are; the rest depends on the call.
    params: RotateParams,
}

/// A tensor that a [`RotationPlan`] has checked and bound. Reusable for any number of calls; it
/// keeps the buffer alive.
///
/// A tensor past the device's binding size is bound in shards, by batch entries and heads, and a
/// call then dispatches once per shard.
#[derive(Debug)]
pub struct RotationBound {
    plan: Arc<PlanInner>,
    shards: Vec<Shard>,
    batch: usize,
    rows: usize,
}

#[derive(Debug)]
struct Shard {
    entries: Range<usize>,
    heads: usize,
    bind_group: wgpu::BindGroup,
    axis: Axis,
}

/// Rows of a tensor to turn, in all of its heads, and the position of each.
///
/// ```
/// use prflash::rotation::Rows;
/// let appended = Rows::new(0, 100..101); // row 100 of batch entry 0, at position 100
/// let moved = Rows::new(0, 4..54).all_at(-30); // rows 4 … 53, turned back by 30 positions
/// let named = Rows::new(1, 0..3).at_ids(&[7, 8, 30]); // rows 0, 1, 2 of batch entry 1
/// # let _ = (appended, moved, named);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<'a> {
    entry: usize,
    rows: Range<usize>,
    positions: RowPositions<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowPositions<'a> {
    /// The number of the row in the tensor.
    Places,
    From(i64),
    All(i64),
    Ids(&'a [u32]),
}

impl<'a> Rows<'a> {
    /// These rows of batch entry `entry`, each at the position that is its number in the tensor.
    pub const fn new(entry: usize, rows: Range<usize>) -> Self {
        Self { entry, rows, positions: RowPositions::Places }
    }

    /// The position of the first of them, from which the others count up. It may be negative.
    pub fn at_position(self, first: i64) -> Self {
        Self { positions: RowPositions::From(first), ..self }
    }

    /// One position for all of them. It may be negative.
    pub fn all_at(self, position: i64) -> Self {
        Self { positions: RowPositions::All(position), ..self }
    }

    /// The position of each by number. Numbers that count up for a while are as cheap as
    /// [`at_position`](Rows::at_position).
    pub fn at_ids(self, ids: &'a [u32]) -> Self {
        Self { positions: RowPositions::Ids(ids), ..self }
    }

    /// The rows as runs of consecutive positions.
    fn runs(&self) -> Vec<Run> {
        let Self { entry, rows: Range { start, .. }, positions } = *self;
        let len = self.rows.len();
        let run = |start, len, position| Run { entry, start, len, position, step: 1 };
        match positions {
            _ if len == 0 => Vec::new(),
            RowPositions::Places => vec![run(start, len, start as i64)],
            RowPositions::From(first) => vec![run(start, len, first)],
            RowPositions::All(position) => vec![Run { step: 0, ..run(start, len, position) }],
            RowPositions::Ids(ids) => {
                let mut next = start;
                let counted = |ids: &[u32]| {
                    next += ids.len();
                    run(next - ids.len(), ids.len(), ids[0].into())
                };
                ids.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(counted).collect()
            }
        }
    }
}

/// Rows that follow each other, at positions that do or that are all the same.
#[derive(Clone, Copy, Debug)]
struct Run {
    entry: usize,
    start: usize,
    len: usize,
    /// The position of the first row.
    position: i64,
    /// The step from one row's position to the next one's.
    step: i64,
}

impl Run {
    /// The position of the last row.
    fn last_position(&self) -> i64 {
        self.position.saturating_add(self.step * (self.len as i64 - 1))
    }
}

impl RotationPlan {
    /// Bytes of GPU memory that the plan holds. It grows only when more calls (or longer lists of
    /// ids) are in flight than ever before.
    pub fn device_bytes(&self) -> u64 {
        self.inner.slots.bytes() + self.inner.table.size()
    }

    /// Ready once its kernel is compiled, as [`Plan::prepare`](crate::Plan::prepare) is.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`](crate::Plan::prepare).
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        self.inner.context.prepare([&self.inner.pipeline], progress).await
    }

    /// Checks a tensor `[batch, heads, rows, head_dim]`, of any layout, and binds it.
    ///
    /// # Errors
    /// Invalid argument (`tensor`): another type or head dimension, rows that overlap each other.
    /// Too large (`tensor`), where not even one head of one batch entry fits the device's binding
    /// size; device lost.
    pub fn bind(&self, tensor: &TensorView) -> Result<RotationBound> {
        let PlanInner { context, rope, kernel, pipeline, table, .. } = &*self.inner;
        tensor.check("tensor", context)?;
        let [batch, heads, rows, dim] = tensor.layout().dims();
        let (dtype, want, got) = (kernel.storage, rope.head_dim(), tensor.dtype());
        ensure!(
            (dtype, want) == (got, dim),
            "tensor",
            "expected {dtype} of dim {want}, got {got} of dim {dim}"
        );
        check_written("tensor", tensor, &[])?;
        let shard = |(entries, heads): (Range<usize>, Range<usize>)| -> Result<Shard> {
            let view = tensor.shard(entries.clone(), heads.clone());
            // Not empty, so nothing stands in for it.
            let binding = Binding::new("tensor", &view, 4, context, table)?;
            let bind_group =
                pipeline.bind(context, "prflash rotate", Rotate::TENSOR_GROUP, &[binding.resource()])?;
            Ok(Shard { entries, heads: heads.len(), bind_group, axis: Axis::new(&view, binding.base, 4) })
        };
        let shards = match tensor.layout().elements() {
            0 => Vec::new(),
            _ => split(batch, heads, |entries, heads| fits(context, tensor, entries, heads)),
        };
        let shards = shards.into_iter().map(shard).collect::<Result<_>>()?;
        context.check_alive()?;
        Ok(RotationBound { plan: self.inner.clone(), shards, batch, rows })
    }

    /// Records the rotation of these rows into the caller's encoder. It doesn't submit or wait, and
    /// creates no GPU object once as many calls have been in flight before.
    ///
    /// Rows and channels that aren't named keep their bits. Any number of calls may be recorded for
    /// one submit; they take effect one after the other.
    ///
    /// # Errors
    /// Invalid argument (`bound`) for a tensor of another plan; (`rows`) for rows past the tensor,
    /// positions that aren't below the plan's `max_positions` in magnitude, another number of ids
    /// than rows, or entries that share a row. Then nothing was recorded. Out of memory.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &RotationBound,
        rows: &[Rows<'_>],
    ) -> Result<()> {
        self.record(encoder, bound, rows, false)
    }

    /// Records what undoes [`encode`](RotationPlan::encode) of the same rows, but for rounding:
    /// turns them back, and divides by the temperature.
    ///
    /// # Errors
    /// As [`encode`](RotationPlan::encode).
    pub fn encode_inverse(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &RotationBound,
        rows: &[Rows<'_>],
    ) -> Result<()> {
        self.record(encoder, bound, rows, true)
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &RotationBound,
        rows: &[Rows<'_>],
        inverse: bool,
    ) -> Result<()> {
        self.check(bound, rows)?;
        let mut dispatches = Vec::new();
        for shard in &bound.shards {
            for dispatch in self.inner.prepare(shard, rows, inverse)? {
                dispatches.push((shard, dispatch));
            }
        }
        if dispatches.is_empty() {
            return Ok(());
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("prflash rotate"),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.inner.pipeline.pipeline);
        for (shard, Dispatch { slot, workgroups: (x, y) }) in dispatches {
            slot.bind(&mut pass, None);
            pass.set_bind_group(Rotate::TENSOR_GROUP as u32, &shard.bind_group, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
        Ok(())
    }

    /// Everything that a call is refused for.
    fn check(&self, bound: &RotationBound, rows: &[Rows<'_>]) -> Result<()> {
        ensure!(Arc::ptr_eq(&self.inner, &bound.plan), "bound", "was made by another plan");
        let max = self.inner.max_positions;
        for (index, named) in rows.iter().enumerate() {
            let Rows { entry, rows: Range { start, end }, positions } = named;
            ensure!(
                start <= end,
                "rows",
                "entry {index}: expected a start up to the end, got {start}..{end}"
            );
            let len = end - start;
            ensure!(
                (*entry < bound.batch && *end <= bound.rows) || len == 0,
                "rows",
                "entry {index} names rows {start}..{end} of batch entry {entry}; the tensor has {} entries of {} rows",
                bound.batch,
                bound.rows
            );
            if let RowPositions::Ids(ids) = positions {
                ensure!(
                    ids.len() == len,
                    "rows",
                    "entry {index} has {len} rows and {} position ids",
                    ids.len()
                );
            }
            for run in named.runs() {
                for position in [run.position, run.last_position()] {
                    ensure!(
                        position.unsigned_abs() < max as u64,
                        "rows",
                        "entry {index} has position {position}, past the plan's {max} (max_positions)"
                    );
                }
            }
        }
        let mut order: Vec<usize> = (0..rows.len()).filter(|&i| !rows[i].rows.is_empty()).collect();
        order.sort_unstable_by_key(|&i| (rows[i].entry, rows[i].rows.start));
        for pair in order.windows(2) {
            let [(i, one), (j, two)] = [pair[0], pair[1]].map(|i| (i, &rows[i]));
            let apart = one.entry != two.entry || one.rows.end <= two.rows.start;
            ensure!(apart, "rows", "entries {i} and {j} share rows");
        }
        Ok(())
    }
}

/// One dispatch of a call, its parameters on their way to the GPU.
struct Dispatch {
    slot: Slot,
    workgroups: (u32, u32),
}

impl PlanInner {
    /// The dispatches of a shard.
    fn prepare(&self, shard: &Shard, rows: &[Rows<'_>], inverse: bool) -> Result<Vec<Dispatch>> {
        let here = rows.iter().filter(|rows| shard.entries.contains(&rows.entry));
        let runs: Vec<Run> = here.flat_map(Rows::runs).collect();
        runs.chunks(RUNS).map(|runs| self.dispatch(shard, runs, inverse)).collect()
    }

    fn dispatch(&self, shard: &Shard, runs: &[Run], inverse: bool) -> Result<Dispatch> {
        let (direction, scale) = match inverse {
            true => (-1, self.rope.temperature().powi(-2) as f32),
            false => (1, 1.0),
        };
        let mut table = Vec::with_capacity(runs.len());
        let mut rows = 0;
        for run in runs {
            let base = shard.axis.at(run.entry - shard.entries.start, run.start);
            let [position, step] = [run.position, run.step].map(|turn| turn as i32 * direction);
            table.push(RotateRun { base, first: rows as u32, position, step });
            rows += run.len;
        }
        let tiles = (rows * self.kernel.rotations()).div_ceil(Rotate::INVOCATIONS);
        let work_items = (shard.heads.div_ceil(Rotate::HEADS_EACH) * tiles) as u64;
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let workgroups = dispatch::fold(work_items, limit)?;
        let params = RotateParams {
            work_items: work_items as u32,
            tiles: tiles as u32,
            rows: rows as u32,
            runs: table.len() as u32,
            heads: shard.heads as u32,
            head_stride: shard.axis.head_stride,
            row_stride: shard.axis.row_stride,
            scale,
            ..self.params
        };
        let slot =
            self.slots.take(&self.context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&table))?;
        Ok(Dispatch { slot, workgroups })
    }
}
