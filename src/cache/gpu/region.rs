//! Where the words of a sequence lie in GPU memory.

use std::ops::Range;

use crate::cache::gpu::params::{CACHE_RUNGS, CacheCoding, CacheLayout, CacheRung};
use crate::cache::ladder::Side;
use crate::cache::pack::PackLayout;
use crate::cache::rotated;
use crate::cache::sequence::Store;
use crate::cache::staircase::Staircase;
use crate::cache::standing::Standing;
use crate::cache::words::padded;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// The words of one sequence, one key/value head and one side are a *region* of a buffer. Its parts
/// are of fixed sizes, but for the last:
///
/// ```text
/// sinks      n_sink rows of D'/2 words
/// residual   a ring of R rows: token t in row t mod R
/// rung 0     a ring of C₀ packs: segment s in pack s mod C₀
/// …
/// last rung  segment s in pack s, as many as the sequence has room for
/// ```
///
/// The segments of a rung are consecutive and no more than its dwell, so that a ring of that many
/// packs holds them: an address follows from the token, the length and the segments that have left
/// the residual, and nothing has to be looked up. R is W + S, and C the dwell, or what the longest
/// sequence needs if that is less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegionLayout {
    /// Rows of the residual's ring: a multiple of 32, so that it wraps where four tokens don't.
    pub(crate) residual_rows: usize,
    /// Copies of sinks there is room for.
    pub(crate) sinks: usize,
    /// Keys and values.
    pub(crate) sides: [SideLayout; 2],
    /// Words of the summaries in a pack of keys, behind its codes and extremes (or rows).
    pub(crate) summary_words: usize,
}

/// The region of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SideLayout {
    /// Words of a row of f16 numbers.
    pub(crate) row_words: usize,
    /// The first word of the residual's ring.
    pub(crate) residual: usize,
    /// The rungs, as many as the ladder has.
    pub(crate) rungs: Vec<RungLayout>,
    /// Words behind the codes of a pack, the same at every width.
    pub(crate) behind: usize,
    /// What kernels need of rotated codes.
    coding: CacheCoding,
}

/// The packs of one rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RungLayout {
    /// The first word of the first pack.
    pub(crate) base: usize,
    /// Packs of the ring; of the last rung, the most that a sequence may need.
    pub(crate) packs: usize,
    /// Words of a pack; 0 where tokens are dropped.
    pub(crate) pack_words: usize,
    pub(crate) bits: u32,
    /// The age, in segments, that segments leave it at; `None` on the last rung.
    pub(crate) end: Option<usize>,
}

impl RegionLayout {
    /// For sequences of up to `max_len` tokens with the channels of `shape`.
    ///
    /// # Errors
    /// Too large (`kv_len`) where the rings of such sequences are past what this machine can
    /// address.
    pub(crate) fn new(staircase: &Staircase, shape: &Shape, max_len: usize) -> Result<Self> {
        let too_long =
            || Error::too_large("kv_len", format!("a cache of {max_len} tokens can't be addressed"));
        let after = |base: usize, count: usize, words: usize| {
            count.checked_mul(words).and_then(|words| words.checked_add(base)).ok_or_else(too_long)
        };
        let max_segments = staircase.segments_after(max_len);
        let residual_rows =
            (staircase.residual() + staircase.segment()).min(max_len.max(1)).next_multiple_of(32);
        let sinks = staircase.sinks().min(max_len);
        let side = |side: Side, dim: usize| {
            let row_words = padded(dim) / 2;
            let mut base = after(0, sinks + residual_rows, row_words)?;
            let mut age = 0;
            let mut rungs = Vec::new();
            for rung in staircase.ladder(side).rungs() {
                let left = max_segments.saturating_sub(age);
                let packs = rung.segments.map_or(left, |segments| segments.min(left));
                let pack_words = PackLayout::new(staircase, side, rung.bits, dim)?.words();
                age += rung.segments.unwrap_or(0);
                let end = rung.segments.map(|_| age);
                rungs.push(RungLayout { base, packs, pack_words, bits: rung.bits, end });
                // Behind the last rung nothing follows.
                base = if rung.segments.is_some() { after(base, packs, pack_words)? } else { base };
            }
            let pack = PackLayout::new(staircase, side, 8, dim)?;
            let coding = pack.behind().map(|behind| coding(&behind, dim)).unwrap_or_default();
            let behind = pack.words() - pack.code_words();
            Ok(SideLayout { row_words, residual: sinks * row_words, rungs, behind, coding })
        };
        let sides = [side(Side::Keys, shape.head_dim())?, side(Side::Values, shape.value_dim())?];
        let summary_words = PackLayout::new(staircase, Side::Keys, 16, shape.head_dim())?.summary_words();
        Ok(Self { residual_rows, sinks, sides, summary_words })
    }

    /// Words of a region with room for `len` tokens.
    pub(crate) fn words(&self, staircase: &Staircase, side: Side, len: usize) -> usize {
        let dwell = self.dwell(side);
        let tail = staircase.segments_after(len).saturating_sub(dwell);
        self.sides[side as usize].rungs.last().map_or(0, |last| last.base + tail * last.pack_words)
    }

    /// The age at which segments come to the last rung.
    fn dwell(&self, side: Side) -> usize {
        self.sides[side as usize].rungs.iter().filter_map(|rung| rung.end).max().unwrap_or(0)
    }

    /// The first word of a row of the residual.
    pub(crate) fn row(&self, side: Side, token: usize) -> usize {
        let layout = &self.sides[side as usize];
        layout.residual + token % self.residual_rows * layout.row_words
    }

    /// The first word of a segment's pack on a rung.
    pub(crate) fn pack(&self, side: Side, rung: usize, segment: usize) -> usize {
        let RungLayout { base, packs, pack_words, end, .. } = self.sides[side as usize].rungs[rung];
        let slot = if end.is_some() { segment % packs.max(1) } else { segment };
        base + slot * pack_words
    }

    /// The words of each part, in the order of a [`Store`]: sinks, packs from the oldest on, rows
    /// of the residual.
    fn parts(&self, standing: &Standing<'_>, side: Side) -> [Vec<Range<usize>>; 3] {
        let layout = &self.sides[side as usize];
        let sinks = 0..standing.sinks().len() * layout.row_words;
        let pack = |segment| {
            let rung = standing.segment_rung(side, segment)?;
            let words = layout.rungs[rung].pack_words;
            let base = self.pack(side, rung, segment);
            (words > 0).then_some(base..base + words)
        };
        let row = |token| {
            let base = self.row(side, token);
            base..base + layout.row_words
        };
        let packs = (standing.dropped_segments()..standing.segments()).filter_map(pack);
        [vec![sinks], packs.collect(), standing.residual().map(row).collect()]
    }

    /// What a sequence holds, from the words of its region.
    pub(super) fn gather(&self, standing: &Standing<'_>, side: Side, region: &[u32]) -> Store {
        let [sinks, packs, rows] = self.parts(standing, side);
        let joined =
            |ranges: Vec<Range<usize>>| ranges.into_iter().flat_map(|r| region[r].to_vec()).collect();
        let packs = packs.into_iter().map(|range| region[range].to_vec()).collect();
        Store { sinks: joined(sinks), packs, residual: joined(rows) }
    }

    /// The words of a region from what a sequence holds; zeros elsewhere.
    pub(super) fn scatter(&self, standing: &Standing<'_>, side: Side, store: &Store, region: &mut [u32]) {
        let [sinks, packs, rows] = self.parts(standing, side);
        for range in sinks {
            region[range].copy_from_slice(&store.sinks);
        }
        for (range, pack) in packs.into_iter().zip(&store.packs) {
            region[range].copy_from_slice(pack);
        }
        let width = self.sides[side as usize].row_words;
        for (range, row) in rows.into_iter().zip(store.residual.chunks_exact(width)) {
            region[range].copy_from_slice(row);
        }
    }

    /// What kernels need of it, with the words from one head to the next.
    pub(crate) fn to_gpu(&self, staircase: &Staircase, head_strides: [usize; 2]) -> CacheLayout {
        let [keys, values] = &self.sides;
        let rungs = |side: &SideLayout| {
            let mut rungs = [CacheRung::default(); CACHE_RUNGS];
            for (to, rung) in rungs.iter_mut().zip(&side.rungs) {
                *to = CacheRung {
                    end: rung.end.map_or(u32::MAX, |end| end as u32),
                    bits: rung.bits,
                    base: rung.base as u32,
                    // Of the last rung, more than there are segments: a ring that never comes
                    // round.
                    packs: rung.end.map_or(u32::MAX, |_| rung.packs.max(1) as u32),
                    pack_words: rung.pack_words as u32,
                    ..CacheRung::default()
                };
            }
            rungs
        };
        CacheLayout {
            segment: staircase.segment() as u32,
            group: staircase.group() as u32,
            sinks: self.sinks as u32,
            residual_rows: self.residual_rows as u32,
            key_row_words: keys.row_words as u32,
            value_row_words: values.row_words as u32,
            key_residual: keys.residual as u32,
            value_residual: values.residual as u32,
            key_head_stride: head_strides[0] as u32,
            value_head_stride: head_strides[1] as u32,
            summary_tokens: staircase.summaries().unwrap_or(0) as u32,
            summary_words: self.summary_words as u32,
            key_behind: keys.behind as u32,
            value_behind: values.behind as u32,
            fine_tokens: staircase.codec().fine_tokens() as u32,
            unused: 0,
            key_rungs: rungs(keys),
            value_rungs: rungs(values),
            codings: [keys.coding, values.coding],
            thresholds: rotated::threshold_words(),
            levels: rotated::level_words(),
        }
    }
}

/// What kernels need of the rotated codes of so many channels.
fn coding(behind: &rotated::Behind, dim: usize) -> CacheCoding {
    let scales = rotated::Scales::of(dim);
    CacheCoding {
        block_quads: rotated::block(dim) as u32 / 4,
        offset: scales.offset(),
        list: behind.list() as u32,
        fine: behind.fine() as u32,
        scales: scales.sixths().map(|(reciprocal, exponent, number)| {
            [reciprocal, exponent.cast_unsigned(), (number as f32).to_bits(), 0]
        }),
    }
}
