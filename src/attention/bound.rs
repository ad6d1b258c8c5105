//! Tensors that a plan has checked and bound.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use super::call::SequenceRows;
use super::inputs::pages::Pool;
use super::prepared::Prepared;
use super::split::Split;
use crate::attention::kernels::content::BlockMasses;
use crate::attention::kernels::programs::TENSORS_GROUP;
use crate::cache::gpu::arena::ArenaShard;
use crate::error::{Error, Result, ensure};
use crate::runtime::binding::{Axis, check_rows, check_tensor, check_written, fits, split};
use crate::runtime::context::Context;
use crate::runtime::program::Pipeline;
use crate::runtime::sync::lock;
use crate::runtime::tensor::{Binding, TensorView};

/// The tensors of a call.
///
/// | tensor | shape |
/// | --- | --- |
/// | `q` | `[batch, heads, q capacity, head_dim]` |
/// | `k` | `[batch, kv_heads, kv capacity, head_dim]` |
/// | `v` | `[batch, kv_heads, kv capacity, value_dim]` |
/// | `output` | `[batch, heads, q capacity, value_dim]` |
/// | `lse` | `[batch, heads, q capacity]`, f32 ([`Layout::rows`](crate::Layout::rows)), natural logarithm |
///
/// Capacities may exceed the lengths of a call: a KV cache is bound once and grows in place. In
/// [pages](crate::attention::PageTable), k is `[pages, kv_heads, page_size, head_dim]` and v
/// `[pages, kv_heads, page_size, value_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// The queries.
    pub q: &'a TensorView,
    /// The keys.
    pub k: &'a TensorView,
    /// The values.
    pub v: &'a TensorView,
    /// Where the result goes. May share a buffer with no tensor that is read.
    pub output: &'a TensorView,
    /// Where the log-sum-exp goes, if the plan writes it.
    pub lse: Option<&'a TensorView>,
}

/// Tensors that a plan has checked and bound. Reusable for any number of calls; it keeps their
/// buffers alive.
///
/// Tensors past the device's binding size are bound in shards, by batch entries and key/value
/// heads, and a call then dispatches once per shard.
#[derive(Debug)]
pub struct Bound {
    pub(super) prepared: Arc<Prepared>,
    shards: Mutex<Arc<Vec<Shard>>>,
    /// What is bound again when a cache comes to be bound in other shards.
    queries: Option<QueryTensors>,
    /// (argument, batch entries, rows) of the tensors, to check lengths against: queries, then
    /// keys.
    query_rows: Vec<TensorRows>,
    key_rows: Vec<TensorRows>,
    pub(super) batch: usize,
    /// Where keys and values lie, if in pages.
    pub(super) pool: Option<Pool>,
}

/// The tensors of queries whose keys are in a cache.
#[derive(Debug)]
struct QueryTensors {
    q: TensorView,
    output: TensorView,
    lse: Option<TensorView>,
}

/// Some batch entries and key/value heads of the tensors.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) entries: Range<usize>,
    pub(super) kv_heads: Range<usize>,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) groups: ShardGroups,
    /// What the groups bind beside states of splits: queries (keys, values), and output and
    /// log-sum-exp.
    inputs: Vec<Binding>,
    outputs: [Binding; 2],
    /// The queries alone, once blocks are chosen for them.
    queries: OnceLock<wgpu::BindGroup>,
    pub(super) q: Axis,
    pub(super) k: Axis,
    pub(super) v: Axis,
    pub(super) o: Axis,
    pub(super) lse: Axis,
}

/// The bind groups of a shard.
#[derive(Debug)]
pub(super) struct ShardGroups {
    pub(super) tensors: wgpu::BindGroup,
    /// The merge's bind group, where keys are split.
    pub(super) states: Option<wgpu::BindGroup>,
}

impl Bound {
    /// Checks the operands against the plan and binds them.
    pub(super) fn new(plan: &Arc<Prepared>, operands: &Operands<'_>) -> Result<Self> {
        let Prepared { context, attention, maxima, variant, .. } = &**plan;
        let Operands { q, k, v, output, lse } = *operands;
        let kv_heads = maxima.kv_heads();
        check_tensor(context, "k", k, attention.storage(), kv_heads, maxima.head_dim())?;
        check_tensor(context, "v", v, attention.storage(), kv_heads, maxima.value_dim())?;
        let query_rows = plan.check_queries(q, &[("k", k), ("v", v)], output, lse)?;
        let pool = match variant.paged {
            true => Some(Pool::of_both(k.layout(), v.layout())?),
            false => None,
        };
        // Of pages, each table says how many rows there are.
        let key_rows = if pool.is_some() { Vec::new() } else { vec![size("k", k), size("v", v)] };
        let batch = q.layout().dims()[0];
        let mut shards = Vec::new();
        let key_entries = |entries: usize| pool.map_or(entries, |pool| pool.pages);
        let all_fit = |entries: usize, kv: usize| {
            let heads = kv * maxima.heads_per_kv_head();
            let queries = [Some(q), Some(output), lse];
            queries.into_iter().flatten().all(|view| fits(context, view, entries, heads))
                && [k, v].into_iter().all(|view| fits(context, view, key_entries(entries), kv))
        };
        for (entries, kv_heads) in split(batch, kv_heads, all_fit) {
            shards.push(Shard::new(plan, q, Some((k, v)), output, lse, entries, kv_heads)?);
        }
        context.check_alive()?;
        let shards = Mutex::new(Arc::new(shards));
        Ok(Self { prepared: plan.clone(), shards, queries: None, query_rows, key_rows, batch, pool })
    }

    /// Of queries only: keys and values come from a cache.
    pub(super) fn queries(
        plan: &Arc<Prepared>,
        q: &TensorView,
        output: &TensorView,
        lse: Option<&TensorView>,
    ) -> Result<Self> {
        let query_rows = plan.check_queries(q, &[], output, lse)?;
        let queries = QueryTensors { q: q.clone(), output: output.clone(), lse: lse.cloned() };
        let shards = queries.shards(plan, std::iter::once(0..plan.maxima.kv_heads()))?;
        plan.context.check_alive()?;
        Ok(Self {
            prepared: plan.clone(),
            shards: Mutex::new(Arc::new(shards)),
            queries: Some(queries),
            query_rows,
            key_rows: Vec::new(),
            batch: q.layout().dims()[0],
            pool: None,
        })
    }

    /// The shards; those in which a cache is bound now, if the keys are in one.
    pub(super) fn shards(&self, arenas: Option<&[ArenaShard]>) -> Result<Arc<Vec<Shard>>> {
        let mut shards = lock(&self.shards);
        if let (Some(queries), Some(arenas)) = (&self.queries, arenas) {
            let wanted = || arenas.iter().map(|arena| arena.kv_heads.clone());
            if !shards.iter().map(|shard| shard.kv_heads.clone()).eq(wanted()) {
                *shards = Arc::new(queries.shards(&self.prepared, wanted())?);
            }
        }
        Ok(shards.clone())
    }

    /// Whether the keys lie in the buffer of this tensor.
    pub(super) fn reads_keys_of(&self, k: &TensorView) -> bool {
        let shards = lock(&self.shards);
        shards.iter().all(|shard| shard.inputs.get(1).is_some_and(|keys| keys.buffer == *k.buffer()))
    }

    /// Refuses a sequence that doesn't lie inside the tensors.
    pub(super) fn check(&self, index: usize, sequence: &SequenceRows) -> Result<()> {
        check_inside(index, sequence, &self.query_rows, &self.key_rows)
    }
}

/// (argument, batch entries, rows) of a tensor.
pub(super) type TensorRows = (&'static str, usize, usize);

/// Refuses a sequence that doesn't lie inside these tensors.
pub(super) fn check_inside(
    index: usize,
    sequence: &SequenceRows,
    queries: &[TensorRows],
    keys: &[TensorRows],
) -> Result<()> {
    let &SequenceRows { entry, q_start, q_len, kv_start, kv_len, .. } = sequence;
    for (tensors, start, len) in [(queries, q_start, q_len), (keys, kv_start, kv_len)] {
        for &(argument, entries, rows) in tensors {
            let fits = entry < entries && start.checked_add(len).is_some_and(|end| end <= rows);
            if !fits && len > 0 {
                let message = format!(
                    "sequence {index} needs rows {start}..{start}+{len} of batch entry {entry}; the tensor has {entries} entries of {rows} rows"
                );
                return Err(Error::argument_error(argument, message));
            }
        }
    }
    Ok(())
}

impl QueryTensors {
    fn shards(&self, plan: &Prepared, kv_heads: impl Iterator<Item = Range<usize>>) -> Result<Vec<Shard>> {
        let entries = 0..self.q.layout().dims()[0];
        let shard = |kv_heads| {
            Shard::new(plan, &self.q, None, &self.output, self.lse.as_ref(), entries.clone(), kv_heads)
        };
        kv_heads.map(shard).collect()
    }
}

pub(super) fn size(argument: &'static str, view: &TensorView) -> TensorRows {
    let [batch, _, rows, _] = view.layout().dims();
    (argument, batch, rows)
}

impl Prepared {
    /// Checks the tensors that belong to queries, and gives their sizes.
    fn check_queries(
        &self,
        q: &TensorView,
        keys: &[(&'static str, &TensorView)],
        output: &TensorView,
        lse: Option<&TensorView>,
    ) -> Result<Vec<TensorRows>> {
        let Self { context, attention, maxima, .. } = self;
        let heads = maxima.heads();
        check_tensor(context, "q", q, attention.storage(), heads, maxima.head_dim())?;
        check_tensor(context, "output", output, attention.output(), heads, maxima.value_dim())?;
        let mut read = vec![("q", q)];
        read.extend_from_slice(keys);
        check_written("output", output, &read)?;
        if let Some(lse) = lse {
            ensure!(
                attention.lse(),
                "lse",
                "given, but the attention doesn't write one: use Attention::with_lse"
            );
            read.push(("output", output));
            check_rows(context, "lse", lse, heads, &read)?;
        } else {
            ensure!(!attention.lse(), "lse", "expected a tensor, since the attention writes one; got none");
        }
        let mut sizes = vec![size("q", q), size("output", output)];
        sizes.extend(lse.map(|lse| size("lse", lse)));
        Ok(sizes)
    }
}

impl Shard {
    /// Without keys and values where they come from a cache.
    fn new(
        plan: &Prepared,
        q: &TensorView,
        kv: Option<(&TensorView, &TensorView)>,
        output: &TensorView,
        lse: Option<&TensorView>,
        entries: Range<usize>,
        kv_heads: Range<usize>,
    ) -> Result<Self> {
        let Prepared { context, maxima, variant, pipeline, unused, unused_output, .. } = plan;
        let per_kv = maxima.heads_per_kv_head();
        let heads = kv_heads.start * per_kv..kv_heads.end * per_kv;
        let bind_entries = |argument,
                            view: &TensorView,
                            (entries, heads): (&Range<usize>, &Range<usize>),
                            granule,
                            empty: &wgpu::Buffer| {
            let view = view.shard(entries.clone(), heads.clone());
            let binding = Binding::new(argument, &view, granule, context, empty)?;
            let axis = Axis::new(&view, binding.base, granule);
            Ok::<_, Error>((binding, axis))
        };
        let bind = |argument, view: &TensorView, heads: &Range<usize>, granule, empty: &wgpu::Buffer| {
            bind_entries(argument, view, (&entries, heads), granule, empty)
        };
        // Any sequence may have any page.
        let keys = |argument, view: &TensorView| {
            let pages = 0..view.layout().dims()[0];
            let entries = if variant.paged { &pages } else { &entries };
            bind_entries(argument, view, (entries, &kv_heads), 4, unused)
        };
        let (q_binding, q) = bind("q", q, &heads, 4, unused)?;
        let kv = match kv {
            Some((k, v)) => Some((keys("k", k)?, keys("v", v)?)),
            None => None,
        };
        let (o_binding, o) = bind("output", output, &heads, 4, unused_output)?;
        let lse = match lse {
            Some(lse) => Some(bind("lse", lse, &heads, 1, unused_output)?),
            None => None,
        };
        let no_lse = || Binding::whole(unused_output);
        let (lse_binding, lse) =
            lse.map_or_else(|| (no_lse(), Axis::default()), |(binding, axis)| (binding, axis));
        let mut inputs = vec![q_binding];
        let (mut k, mut v) = (Axis::default(), Axis::default());
        if let Some(((k_binding, k_axis), (v_binding, v_axis))) = kv {
            inputs.extend([k_binding, v_binding]);
            (k, v) = (k_axis, v_axis);
        }
        let outputs = [o_binding, lse_binding];
        let pipeline = match variant.wide_quads() {
            Some(quads) if inputs.len() > 1 && !(k.is_aligned(quads) && v.is_aligned(quads)) => {
                context.pipeline(variant)?
            }
            _ => pipeline.clone(),
        };
        let groups =
            ShardGroups::new(plan, &pipeline, &inputs, &outputs, plan.split.as_ref().map(Split::states))?;
        let queries = OnceLock::new();
        Ok(Self { entries, kv_heads, pipeline, groups, inputs, outputs, queries, q, k, v, o, lse })
    }

    /// The queries alone, for a kernel that reads nothing else of the tensors.
    pub(super) fn queries(&self, context: &Context, pipeline: &Pipeline) -> Result<wgpu::BindGroup> {
        if let Some(queries) = self.queries.get() {
            return Ok(queries.clone());
        }
        let resources = [self.inputs[0].resource()];
        let queries = pipeline.bind(context, "prflash queries", BlockMasses::QUERIES_GROUP, &resources)?;
        Ok(self.queries.get_or_init(|| queries).clone())
    }

    /// The same bindings around states of a call's own.
    pub(super) fn groups_around(&self, plan: &Prepared, states: &wgpu::Buffer) -> Result<ShardGroups> {
        ShardGroups::new(plan, &self.pipeline, &self.inputs, &self.outputs, Some(states))
    }
}

impl ShardGroups {
    fn new(
        plan: &Prepared,
        pipeline: &Pipeline,
        inputs: &[Binding],
        outputs: &[Binding; 2],
        states: Option<&wgpu::Buffer>,
    ) -> Result<Self> {
        let context = &plan.context;
        let mut resources: Vec<_> = inputs.iter().map(Binding::resource).collect();
        let outputs = outputs.each_ref().map(Binding::resource);
        let bind = |resources: &[wgpu::BindingResource<'_>]| {
            pipeline.bind(context, "prflash tensors", TENSORS_GROUP, resources)
        };
        match (&plan.split, states) {
            (Some(split), Some(states)) => {
                resources.push(states.as_entire_binding());
                let tensors = bind(&resources)?;
                Ok(Self { tensors, states: Some(split.bind(context, states, outputs)?) })
            }
            _ => {
                resources.extend(outputs);
                Ok(Self { tensors: bind(&resources)?, states: None })
            }
        }
    }
}
