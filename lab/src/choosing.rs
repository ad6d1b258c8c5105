//! Blocks chosen by content on the GPU, by what the library keeps of keys there.

use anyhow::Result;
use prflash::attention::{GpuSelector, GpuSummaries, Selection, SummarizedKeys};
use prflash::{Attention, BlockGrid, Context, Plan, Seed, TensorView, wgpu};

use crate::setting::Content;

/// Whether the GPU chooses: for summaries in 8 bits, and positions that its kernels know. Others
/// are chosen for on the host.
pub fn is_on_gpu(content: &Content, attention: &Attention) -> bool {
    let known =
        |positions: &prflash::Positions| positions.bias().is_none() && positions.factor_length().is_none();
    content.eight_bits && attention.positions().is_none_or(known)
}

/// A selector for calls of a plan of up to the lengths of `grid`.
///
/// # Errors
/// What the library refuses, by name.
pub fn selector(plan: &Plan, grid: &BlockGrid, content: &Content) -> Result<GpuSelector> {
    Ok(plan.selector(grid, &content.participation, content.estimate, content.probe)?)
}

/// Summaries of one layer's keys, where these lie in tensors.
#[derive(Debug, Default)]
pub struct Known {
    summaries: Option<GpuSummaries>,
    /// The tokens that they tell of.
    tokens: usize,
}

impl Known {
    /// Forgets all tokens; the memory stays.
    pub fn clear(&mut self) {
        self.tokens = 0;
    }

    /// Forgets the tensor too, which has moved.
    pub fn moved(&mut self) {
        *self = Self::default();
    }

    /// Records that the first `tokens` rows of `k` are summarized: those that weren't yet.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn append(
        &mut self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        (attention, content): (&Attention, &Content),
        k: &TensorView,
        tokens: usize,
    ) -> Result<&GpuSummaries> {
        let summaries = match &mut self.summaries {
            Some(summaries) => summaries,
            empty => empty.insert(GpuSummaries::new(context, attention, k, content.group, 1)?),
        };
        let new = SummarizedKeys { keys: 0..tokens, from: self.tokens, ..SummarizedKeys::default() };
        summaries.encode(encoder, &[new])?;
        self.tokens = tokens;
        Ok(summaries)
    }
}

/// A selection for one call: over a cache, or over summaries of tensors.
pub fn selection<'a>(
    selector: &'a GpuSelector,
    summaries: Option<&'a GpuSummaries>,
    seeds: &'a [Seed],
) -> Selection<'a> {
    summaries.map_or_else(|| selector.cached(), |summaries| selector.over(summaries)).with_seeds(seeds)
}

/// How many blocks a list of a query block has, of a causal grid: the budget, if the pinned blocks
/// aren't more, and no more than there are. Blocks from `known` tokens on are pinned.
pub fn kept(content: &Content, grid: &BlockGrid, query_block: usize, known: usize) -> usize {
    let rule = &content.participation;
    let blocks = (query_block + 1).min(grid.key_blocks());
    let first_unknown = if known < grid.kv_len() { known / grid.block_size() } else { blocks };
    let near = |block: usize| query_block - block < rule.window_blocks();
    let pinned = (0..blocks)
        .filter(|&block| block < rule.sink_blocks() || near(block) || block >= first_unknown)
        .count();
    rule.blocks().max(pinned).min(blocks)
}
