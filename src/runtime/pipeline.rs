//! Programs compiled for a device, and resources bound for them.

use std::sync::Arc;

use super::context::Context;
use super::program::{Pipeline, Program, group_layout};
use super::sync::lock;
use crate::error::Result;

impl Context {
    /// The pipeline of a program, compiled on first use.
    pub(crate) fn pipeline(&self, program: &dyn Program) -> Result<Arc<Pipeline>> {
        let label = program.label();
        // Held while compiling, so that two threads don't compile the same program.
        let mut pipelines = lock(self.pipelines());
        if let Some(pipeline) = pipelines.get(&label) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(Pipeline::new(self, program)?);
        pipelines.insert(label, pipeline.clone());
        Ok(pipeline)
    }
}

impl Pipeline {
    pub(crate) fn new(context: &Context, program: &dyn Program) -> Result<Self> {
        let device = context.device();
        let label = program.label();
        log::debug!("compiling {label}");
        let what = format!("compiling {label}");
        let ((pipeline, groups), ticket) = context.capture_call(&what, || {
            let module = shader_module(context, &label, program.source());
            let groups: Vec<wgpu::BindGroupLayout> =
                program.groups().iter().map(|bindings| group_layout(device, &label, bindings)).collect();
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &groups.iter().map(Some).collect::<Vec<_>>(),
                ..Default::default()
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(program.entry_point()),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // No kernel reads workgroup memory that it hasn't written: see `shader_module`.
                    zero_initialize_workgroup_memory: !context.trusts_shaders(),
                    ..Default::default()
                },
                cache: context.pipeline_cache(),
            });
            (pipeline, groups)
        })?;
        context.check_alive()?;
        Ok(Self { label, ticket, pipeline, groups })
    }

    /// A bind group of one of the pipeline's groups, its resources in order of their binding
    /// numbers.
    pub(crate) fn bind(
        &self,
        context: &Context,
        label: &str,
        group: usize,
        resources: &[wgpu::BindingResource<'_>],
    ) -> Result<wgpu::BindGroup> {
        bind(context, label, &self.groups[group], resources)
    }
}

/// The module of a kernel's text, with or without the checks that wgpu writes into it
/// ([`ContextOptions::trusted_shaders`](super::context::ContextOptions::trusted_shaders)).
///
/// What keeps a kernel inside its buffers without them (checks of integer division stay: the ring
/// of a rung that holds nothing has no blocks):
///
/// | index | validated by |
/// | --- | --- |
/// | sequence, head, tile | `work_item` drops what is past `work_items`, which the host multiplies from their numbers |
/// | rows of q, output, log-sum-exp | `row_tile` clamps to 0 ≤ row < q_len; a lane without a row computes one that exists, or nothing, and writes nothing. `Bound::check` has found `q_start + q_len` within each tensor, `TensorView::new` the tensor within its buffer |
/// | rows of k, v | whatever a list says, `listed_block` clamps to what the tile sees, 0 ≤ j < kv_len; keys of a step past the end are its last one |
/// | rows of k, v in pages | `Pool::check` has found a table to reach to the last token, and all of its numbers below that of pages; rows are taken modulo the size of a page |
/// | wide loads of k, v (`Wide`) | the same rows: the plan takes this text only where `Shard::new` has found every row to begin at a multiple of a block, which divides a part's channels |
/// | shares of inner products | in workgroup memory, by lane, part, row and key, all below the sizes of its type: `Tile::parts` whole subgroups make up the workgroup |
/// | sums of the backward pass over heads | a workgroup past the last head leaves; rows are below a sequence's length, and places of sums are those of the call's heads, for which `BackwardBound` has found room |
/// | block lists, orders | the host writes them from a `Schedule`, which is checked where it is made, and `BlockGrid::check` compares its lengths; lists that a device drew, or should have (nobody may have submitted the drawing), are clamped to the table in `block_list` |
/// | document ranges, position ids | uploaded with their lengths, which the call's must equal; what they say is clamped to kv_len, or was checked against the position table |
/// | position table | `PositionTable::check`, before a call is recorded; windows of φ are clamped |
/// | words of a cache | addresses are functions of lengths the host keeps, never of what lies there (`cache::gpu::region`): steps of four tokens stay inside a ring, whose rows are a multiple of 32, and past the sinks comes the residual |
/// | fine tokens, levels, thresholds, scales of rotated codes | entries of a list are compared with the segment's length before they are used, and there are as many as the staircase says; a level is taken by 7 bits, a threshold by at most 126, a scale modulo 6 |
/// | quads that `encode_segment` has in workgroup memory | each lane has eight places of its own; tokens are below the segment's length, which `Staircase` bounds by the array's; lanes of a team, and those that quads come from, are clamped to the workgroup |
/// | states that teams of `attention_decode` join | places by lane and part, both below the sizes of the array's type |
/// | stamps, spans of a migration | the host writes where they lie: each sequence with room has a stamp before its keys (`cache::arena`), and spans end within the sequence's old and new room |
/// | words to be cut | the host writes as many bytes of each as its length says, and has at most 32 of them for every kernel that keeps the last pieces of paths |
/// | nodes of a vocabulary | children begin at least 256 before the end of the array (`Trie`), and are taken by a byte |
/// | counts of pieces | numbers in the nodes are those of the vocabulary, for which the counts were made |
/// | tokens, negatives, lists of gradients of word2vec | `Batches::make` takes words from a corpus, whose numbers are below those of the vocabulary, and counts the gradients that `Capacity` made room for; tokens past the last are clamped to it |
/// | groups of keys, rows that speak for a query block | `GpuSummaries` checks rows against the tensor, and has words for all of them; kernels clamp groups to the last with a summary, and rows to 0 ≤ row < q_len; of a cache, the pack of a segment follows from how many there are |
/// | masses, shares, scores of blocks, lists by content | `CheckedSelection` lays them out by the lengths of the call, `GpuSelector` has room for its maxima; how many blocks a list has is a function of lengths that host and kernel count alike, never of scores |
/// | powers of two | a table of 1,024, by 10 bits |
/// | moves, runs, gathered blocks | written by the host with their number, which bounds the search for them |
/// | fragments of matrices | in workgroup memory, at strides and offsets that `Matrix::layout` fixes; tasks are counted by constants |
/// | states of shares and rounds | `Split::shares` and `Merger` keep within what was reserved |
///
/// Loops end: over lists, keys and rows by those bounds; over the rungs of a cache at the last,
/// whose `end` is the largest number; over runs of a cache since each ends past where it begins;
/// over the pieces of a word since none is empty; over the centres, tokens and gradients of
/// word2vec by what the host counted. Workgroup memory: tiles of keys and values, operands and sums
/// of the matrix kernel (but for the gaps between padded rows, which nothing reads), the parts of
/// split scores, the states of teams, the counts of rows, the sums of lanes and the sizes, sums and
/// quads of `encode_segment` are written whole, as far as they are read, before the barrier that
/// comes before any read (by the lane itself, where nobody else reads them). Costs of paths are
/// written before a word is walked, the last piece of a path with its first cost.
fn shader_module(context: &Context, label: &str, source: String) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(source.into()) };
    // llvmpipe (Mesa 26.1) crashed in attention_naive at D = 256, in a tile that sees no key, also
    // with bounds checks and only loops left unbounded: so not by an index of ours. Nothing was
    // gained there either.
    if !context.trusts_shaders() || context.capabilities().is_software() {
        return context.device().create_shader_module(descriptor);
    }
    let checks = wgpu::ShaderRuntimeChecks {
        bounds_checks: false,
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: the text is our own, rendered from this crate's files, and stays inside its buffers
    // and loops without checks: the table above.
    #[allow(unsafe_code)]
    unsafe {
        context.device().create_shader_module_trusted(descriptor, checks)
    }
}

/// A bind group of this layout, its resources in order of their binding numbers.
pub(crate) fn bind(
    context: &Context,
    label: &str,
    layout: &wgpu::BindGroupLayout,
    resources: &[wgpu::BindingResource<'_>],
) -> Result<wgpu::BindGroup> {
    let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
        .zip(resources)
        .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
        .collect();
    let descriptor = wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries };
    context.capture(|| context.device().create_bind_group(&descriptor))
}
