//! How the keys of few queries are split over workgroups.

use std::sync::Arc;

use super::wanted::Wanted;
use crate::attention::kernels::merge::MergeSplits;
use crate::attention::kernels::params::Params;
use crate::attention::kernels::shapes::Decode;
use crate::error::{Error, Result};
use crate::runtime::context::Context;
use crate::runtime::program::Pipeline;
use crate::shape::Shape;

/// Keys that are worth a workgroup of their own, at least.
const LEAST_KEYS: usize = 128;

/// Workgroups that a call should have, if its keys can be split into as many: some for each thread
/// of a CPU, which take them in turn; enough to fill any GPU.
const WORKGROUPS: (usize, usize) = (16, 512);

/// The second pass of a split call, and the states between the two.
///
/// A plan has one buffer of states for all calls that run as one: nothing comes between commands of
/// one pass, so the next call finds them used up. A call that is submitted in pieces has [states of
/// its own](Split::own_states), since calls of other threads may come between the pieces.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) pipeline: Arc<Pipeline>,
    /// Rows of a workgroup.
    rows: usize,
    states: wgpu::Buffer,
    /// States there is room for.
    room: usize,
    /// Workgroups to aim at.
    workgroups: usize,
    /// What the options ask for.
    asked: Option<usize>,
}

/// How one call is split.
pub(super) struct CallSplits {
    /// `splits`, `row_chunks`, `heads_each` and `merge_items`.
    pub(super) params: Params,
    /// Workgroups for each row tile of a sequence.
    pub(super) items: usize,
    pub(super) merge_items: u64,
}

impl Split {
    pub(super) fn new(wanted: &Wanted<'_>, decode: Decode) -> Result<Self> {
        let &Wanted { context, attention, options, maxima, sequences, .. } = wanted;
        let capabilities = context.capabilities();
        let workgroups = if capabilities.is_software() { WORKGROUPS.0 } else { WORKGROUPS.1 };
        let asked = options.splits();
        let held = maxima.q_len() * maxima.heads();
        // As many as any number of sequences may ask for: more of them split their keys less.
        let splits = |count: usize| match asked {
            Some(asked) => asked,
            None => Self::wanted(workgroups, count * maxima.kv_heads(), maxima.kv_len()),
        };
        let room = (1..=sequences.max(1)).map(|count| count * held * splits(count)).max().unwrap_or(1).max(1);
        let bytes = (room * Decode::state_quads(maxima.value_dim())) as u64 * 16;
        let limit = capabilities.max_binding_bytes;
        if bytes > limit {
            let message = format!(
                "the states of {room} splits of rows take {bytes} bytes, past the {limit} that this device can bind at once"
            );
            return Err(Error::too_large("shape", message));
        }
        let merge = MergeSplits { output: attention.output(), value_dim: maxima.value_dim() };
        let pipeline = context.pipeline(&merge)?;
        let states = new_states(context, bytes)?;
        let rows = decode.rows(wanted.task().cache.is_some_and(|cache| cache.is_rotated()));
        Ok(Self { pipeline, rows, states, room, workgroups, asked })
    }

    /// Splits of each row's keys that make enough workgroups of `units`.
    fn wanted(workgroups: usize, units: usize, kv_len: usize) -> usize {
        workgroups.div_ceil(units.max(1)).min(kv_len / LEAST_KEYS).max(1)
    }

    pub(super) fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    pub(super) fn bytes(&self) -> u64 {
        self.states.size()
    }

    pub(super) fn states(&self) -> &wgpu::Buffer {
        &self.states
    }

    /// As many states, for one call alone.
    pub(super) fn own_states(&self, context: &Context) -> Result<wgpu::Buffer> {
        new_states(context, self.bytes())
    }

    /// The second pass's bind group.
    pub(super) fn bind(
        &self,
        context: &Context,
        states: &wgpu::Buffer,
        [output, lse]: [wgpu::BindingResource<'_>; 2],
    ) -> Result<wgpu::BindGroup> {
        let resources = [states.as_entire_binding(), output, lse];
        self.pipeline.bind(context, "prflash split states", MergeSplits::TENSORS_GROUP, &resources)
    }

    /// For one dispatch: `heads` of so many sequences, of which `per_list` share a block list.
    pub(super) fn of_call(
        &self,
        maxima: &Shape,
        sequences: usize,
        heads: usize,
        per_list: usize,
        (q_len, kv_len): (usize, usize),
        tiles: usize,
    ) -> CallSplits {
        let heads_each = maxima.heads_per_kv_head().min(per_list);
        let row_chunks = (q_len * heads_each).div_ceil(self.rows).max(1);
        let groups = heads / heads_each;
        let splits = self
            .asked
            .unwrap_or_else(|| Self::wanted(self.workgroups, sequences * groups * row_chunks * tiles, kv_len))
            .min(self.room / (sequences * q_len * maxima.heads()).max(1))
            .max(1);
        let merge_items = (sequences * q_len * heads * (maxima.value_dim() / 4)) as u64;
        let params = Params {
            splits: splits as u32,
            row_chunks: row_chunks as u32,
            heads_each: heads_each as u32,
            merge_items: merge_items as u32,
            ..Params::default()
        };
        CallSplits { params, items: groups * row_chunks * splits, merge_items }
    }
}

fn new_states(context: &Context, bytes: u64) -> Result<wgpu::Buffer> {
    context.create_buffer("prflash split states", bytes, wgpu::BufferUsages::STORAGE)
}
