//! The memory of a cache on a GPU: two buffers, keys and values, in which every sequence has a
//! region of every head.

use std::ops::Range;

use super::ledger::Account;
use super::region::RegionLayout;
use crate::cache::gpu::params::CacheLayout;
use crate::cache::gpu::programs::CacheMove;
use crate::cache::ladder::Side;
use crate::cache::staircase::Staircase;
use crate::error::{Error, Result};
use crate::runtime::binding::split;
use crate::runtime::context::Context;
use crate::runtime::pipeline::bind;
use crate::runtime::program::Pipeline;

/// Heads begin at multiples of as many words, where every device can begin a binding.
const HEAD_WORDS: usize = 64;

/// Two buffers `[kv_heads, stride]` of words.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) buffers: [wgpu::Buffer; 2],
    /// Words of a head, keys and values.
    pub(super) strides: [usize; 2],
    pub(super) shards: Vec<ArenaShard>,
}

/// As many heads of the arena as can be bound at once.
#[derive(Clone, Debug)]
pub(crate) struct ArenaShard {
    pub(crate) kv_heads: Range<usize>,
    /// Keys, values and the layout, to be read.
    pub(crate) read: wgpu::BindGroup,
    /// Keys, values, the layout and the counters, for the kernels that append.
    pub(super) write: wgpu::BindGroup,
}

/// What the bind groups of an arena are made of.
#[derive(Clone, Copy)]
pub(super) struct Binding<'a> {
    pub(super) context: &'a Context,
    pub(super) read: &'a wgpu::BindGroupLayout,
    pub(super) write: &'a Pipeline,
    pub(super) counters: &'a wgpu::Buffer,
    pub(super) staircase: &'a Staircase,
    pub(super) layout: &'a RegionLayout,
    pub(super) kv_heads: usize,
}

impl Arena {
    /// An arena with room for these words of every head.
    pub(super) fn new(binding: &Binding<'_>, words: [usize; 2]) -> Result<Self> {
        let &Binding { context, staircase, layout, kv_heads, .. } = binding;
        let limit = context.capabilities().max_binding_bytes.min(4 * u64::from(u32::MAX));
        let largest = context.capabilities().max_buffer_bytes;
        let strides = words.map(|words| words.max(1).next_multiple_of(HEAD_WORDS));
        let bytes = strides.map(|stride| 4 * stride as u64);
        for (side, bytes) in ["keys", "values"].into_iter().zip(bytes) {
            if bytes > limit || bytes.saturating_mul(kv_heads as u64) > largest {
                return Err(Error::too_large(
                    "tokens",
                    format!(
                        "the {side} would take {bytes} bytes in each of {kv_heads} heads; this device binds {limit} at once and has buffers of {largest}"
                    ),
                ));
            }
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = |label, bytes: u64| context.create_buffer(label, bytes * kv_heads as u64, usage);
        let buffers = [buffer("prflash cached keys", bytes[0])?, buffer("prflash cached values", bytes[1])?];
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform =
            context.create_buffer("prflash cache layout", size_of::<CacheLayout>() as u64, usage)?;
        let constants = layout.to_gpu(staircase, strides);
        context.capture(|| context.queue().write_buffer(&uniform, 0, bytemuck::bytes_of(&constants)))?;
        let fits = |_, heads: usize| bytes.iter().all(|bytes| bytes * heads as u64 <= limit);
        let shard = |kv_heads: Range<usize>| {
            let words = |side: usize| {
                wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &buffers[side],
                    offset: bytes[side] * kv_heads.start as u64,
                    size: std::num::NonZeroU64::new(bytes[side] * kv_heads.len() as u64),
                })
            };
            let uniform = uniform.as_entire_binding();
            let read = [words(0), words(1), uniform.clone()];
            let write = [words(0), words(1), uniform, binding.counters.as_entire_binding()];
            Ok(ArenaShard {
                read: bind(context, "prflash cache", binding.read, &read)?,
                write: binding.write.bind(context, "prflash cache", CacheMove::ARENA_GROUP, &write)?,
                kv_heads,
            })
        };
        let shards = split(1, kv_heads, fits).into_iter().map(|(_, kv_heads)| shard(kv_heads));
        let shards = shards.collect::<Result<_>>()?;
        context.check_alive()?;
        Ok(Self { buffers, strides, shards })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().map(wgpu::Buffer::size).sum()
    }
}

/// Words before a sequence's keys: its stamp, and what keeps rows aligned.
const STAMP_WORDS: usize = 16;

/// One sequence of a cache on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// The sequence as the ledger sees it.
    pub(super) account: Account,
    /// Tokens that its regions have room for; 0: it has none yet.
    pub(super) capacity: usize,
    /// Where its part of a head begins, in words: keys, with the stamp, and values.
    pub(super) bases: [usize; 2],
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.account.state.len
    }

    /// Segments that have left the residual.
    pub(super) fn segments(&self) -> usize {
        self.account.state.segments
    }

    /// Tokens quantized or stepped down for it here.
    pub(super) fn work(&self, staircase: &Staircase) -> u64 {
        staircase.work_of(self.segments()).saturating_sub(staircase.work_of(self.account.state.given))
    }

    /// Where the regions of keys and of values begin.
    pub(super) fn regions(&self) -> [usize; 2] {
        [self.bases[0] + STAMP_WORDS, self.bases[1]]
    }
}

/// Sizes of regions.
#[derive(Clone, Copy)]
pub(super) struct Sizes<'a> {
    pub(super) staircase: &'a Staircase,
    pub(super) layout: &'a RegionLayout,
    pub(super) max_len: usize,
}

impl Sizes<'_> {
    /// Words with room for so many tokens.
    fn words(&self, capacity: usize) -> [usize; 2] {
        match capacity {
            0 => [0; 2],
            _ => {
                let [keys, values] = self.region_words(capacity);
                [STAMP_WORDS + keys, values]
            }
        }
    }

    /// The same without the stamp.
    fn region_words(&self, capacity: usize) -> [usize; 2] {
        Side::ALL.map(|side| self.layout.words(self.staircase, side, capacity))
    }

    /// Words of its regions up to the last that a sequence holds; none without tokens.
    pub(super) fn live_region_words(&self, held: &Held) -> [usize; 2] {
        match self.least(held) {
            0 => [0; 2],
            least => self.region_words(least),
        }
    }

    /// Words up to the last that a sequence holds, the stamp included.
    pub(super) fn live_words(&self, held: &Held) -> [usize; 2] {
        let [keys, values] = self.live_region_words(held);
        // The stamp counts without tokens, too: changes may come that rely on it.
        if held.capacity > 0 { [STAMP_WORDS + keys, values] } else { [0; 2] }
    }

    /// The least capacity for what is held. A truncated sequence may have packs that its length
    /// alone doesn't need.
    pub(super) fn least(&self, held: &Held) -> usize {
        let for_blocks = match held.segments() {
            0 => 0,
            segments => self.staircase.residual() + segments * self.staircase.segment(),
        };
        held.len().max(for_blocks)
    }

    /// Twice as much as before, or as much as is needed.
    fn doubled(&self, held: &Held, needed: usize) -> usize {
        let least = 2 * self.staircase.segment();
        needed.max(2 * held.capacity).max(least).next_power_of_two().min(self.max_len).max(needed)
    }
}

/// Gives the sequences of `needs` (index, tokens) room in an arena with heads of `strides` words,
/// without moving any: those that are new in the first gap that is large enough, the others where
/// they are, if the gap behind them is. `None` where that doesn't do.
pub(super) fn grow_in_place(
    sizes: &Sizes<'_>,
    sequences: &[Option<Held>],
    strides: [usize; 2],
    needs: &[(usize, usize)],
) -> Option<Vec<Option<Held>>> {
    let mut sequences = sequences.to_vec();
    for &(index, needed) in needs {
        let held = sequences[index].clone()?;
        if held.capacity >= needed {
            continue;
        }
        let doubled = sizes.doubled(&held, needed);
        let grown = [doubled, needed].into_iter().find_map(|capacity| {
            let words = sizes.words(capacity);
            let mut bases = [0; 2];
            for side in 0..2 {
                let gaps = gaps(sizes, &sequences, index, side, strides[side]);
                let mut fitting = gaps.filter(|gap| gap.len() >= words[side]);
                bases[side] = match held.capacity {
                    0 => fitting.next()?.start,
                    _ => {
                        fitting
                            .map(|gap| (gap, held.bases[side]))
                            .find(|(gap, base)| gap.contains(base) && gap.end - base >= words[side])?
                            .1
                    }
                };
            }
            Some(Held { capacity, bases, ..held.clone() })
        })?;
        sequences[index] = Some(grown);
    }
    Some(sequences)
}

/// What of a head no sequence but `index` has.
fn gaps(
    sizes: &Sizes<'_>,
    sequences: &[Option<Held>],
    index: usize,
    side: usize,
    stride: usize,
) -> impl Iterator<Item = Range<usize>> {
    let others = sequences.iter().enumerate().filter(|&(other, _)| other != index);
    let held = others.filter_map(|(_, held)| held.as_ref()).filter(|held| held.capacity > 0);
    let mut taken: Vec<Range<usize>> =
        held.map(|held| held.bases[side]..held.bases[side] + sizes.words(held.capacity)[side]).collect();
    taken.push(stride..stride);
    taken.sort_unstable_by_key(|range| (range.start, range.end));
    let mut free = 0;
    taken.into_iter().map(move |range| {
        let gap = free..range.start;
        free = range.end;
        gap
    })
}

/// How generously a new arena is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Twice the room for those that need more, and for those that soon will; half as much again as
    /// the arena before, for sequences to come.
    Ample,
    /// Twice the room for those that need more, and for those that soon will.
    Doubled,
    /// Just what is needed.
    Least,
}

/// The sequences one behind the other in a new arena, and the words of its heads.
pub(super) fn repacked(
    sizes: &Sizes<'_>,
    sequences: &[Option<Held>],
    strides: [usize; 2],
    needs: &[(usize, usize)],
    room: Room,
) -> (Vec<Option<Held>>, [usize; 2]) {
    let mut sequences = sequences.to_vec();
    let mut end = [0; 2];
    for (index, slot) in sequences.iter_mut().enumerate() {
        let Some(held) = slot else { continue };
        let needed = needs.iter().find(|need| need.0 == index).map_or(0, |need| need.1);
        let least = sizes.least(held).max(needed);
        let soon = held.capacity > 0 && 4 * least >= 3 * held.capacity && held.capacity < sizes.max_len;
        held.capacity = match room {
            // A stamp needs its place.
            Room::Least => least.max(usize::from(held.account.state.stamp != 0)),
            _ if least > held.capacity || soon => sizes.doubled(held, least),
            _ => held.capacity,
        };
        held.bases = end;
        let words = sizes.words(held.capacity);
        end = [end[0] + words[0], end[1] + words[1]];
    }
    let words = match room {
        Room::Ample => std::array::from_fn(|side| match end[side] <= strides[side] {
            true => strides[side],
            false => end[side].max(strides[side] + strides[side] / 2),
        }),
        _ => end,
    };
    (sequences, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn regions_keep_apart() {
        let (staircase, max_len) = (Staircase::plain(), 1 << 16);
        let shape = Shape::new(1, 1, max_len, 64).unwrap();
        let layout = RegionLayout::new(&staircase, &shape, max_len).unwrap();
        let sizes = Sizes { staircase: &staircase, layout: &layout, max_len };
        let apart = |sequences: &[Option<Held>], strides: [usize; 2]| {
            for (side, &stride) in strides.iter().enumerate() {
                let held = sequences.iter().flatten().filter(|held| held.capacity > 0);
                let mut ends: Vec<_> =
                    held.map(|h| (h.bases[side], h.bases[side] + sizes.words(h.capacity)[side])).collect();
                ends.sort_unstable();
                assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ends:?}");
                assert!(ends.last().is_none_or(|last| last.1 <= stride));
            }
        };
        let mut sequences = vec![Some(Held::default()); 3];
        assert_eq!(grow_in_place(&sizes, &sequences, [64; 2], &[(0, 10)]), None);
        let needs = [(0, 1000), (1, 1000), (2, 1000)];
        let (packed, strides) = repacked(&sizes, &sequences, [64; 2], &needs, Room::Doubled);
        apart(&packed, strides);
        assert!(packed.iter().flatten().all(|held| held.capacity == 1024));
        sequences = packed;
        // The last one can't grow where it is, the first can when the second is gone, and then
        // there is no gap left for a new one.
        assert_eq!(grow_in_place(&sizes, &sequences, strides, &[(2, 2000)]), None);
        assert_eq!(grow_in_place(&sizes, &sequences, strides, &[(0, 2000)]), None);
        sequences[1] = None;
        let grown = grow_in_place(&sizes, &sequences, strides, &[(0, 1500)]).unwrap();
        apart(&grown, strides);
        assert_eq!(grown[0].as_ref().map(|held| (held.bases, held.capacity >= 1500)), Some(([0; 2], true)));
        sequences[1] = Some(Held::default());
        let reused = grow_in_place(&sizes, &sequences, strides, &[(1, 1000)]).unwrap();
        apart(&reused, strides);
        // Those that are nearly full grow along; the least room is what is held.
        let full_of = |mut held: Held| {
            (held.account.state.len, held.account.state.segments) = (1000, 6);
            held
        };
        let full: Vec<Option<Held>> = reused.into_iter().map(|held| held.map(full_of)).collect();
        let (along, wide) = repacked(&sizes, &full, strides, &[(0, 1025)], Room::Ample);
        assert!(along.iter().flatten().all(|held| held.capacity == 2048));
        assert!(wide[0] >= strides[0] * 3 / 2);
        let (least, _) = repacked(&sizes, &full, strides, &[(0, 1025)], Room::Least);
        assert_eq!(least.iter().flatten().map(|held| held.capacity).collect::<Vec<_>>(), [1025, 1000, 1000]);
    }
}
