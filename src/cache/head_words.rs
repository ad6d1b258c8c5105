//! Tokens of one head read from the words of a cache, many at a time.

use std::ops::Range;

use half::f16;

use super::host_cache::HostCache;
use super::ladder::Side;
use super::pack::{Element, PackLayout};
use super::quantize::levels;
use super::rotated::{self, Coded, Scales};
use super::sequence::Store;
use super::sequence_table::SequenceId;
use super::standing::Standing;
use super::words::{half_at, padded};
use crate::error::{Result, ensure};

/// Codes that are expanded at once: whole words at every width.
pub(crate) const CODES: usize = 32;

/// Tokens that are expanded at most at once.
pub(crate) const MOST_TOKENS: usize = 64;

/// The keys or the values of one head of a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadWords<'a> {
    standing: Standing<'a>,
    store: &'a Store,
    side: Side,
    /// At 16 bits.
    layout: PackLayout,
    dim: usize,
}

/// Where some tokens lie.
enum Place<'a> {
    /// Rows of f16 numbers, from that of the first token on.
    Rows(&'a [u32]),
    /// A pack, and the first token in its segment.
    Pack(&'a [u32], PackLayout, usize),
    Dropped,
}

impl HostCache {
    pub(crate) fn head_words(&self, sequence: SequenceId, side: Side, head: usize) -> Result<HeadWords<'_>> {
        ensure!(head < self.kv_heads(), "head", "expected one below {}, got {head}", self.kv_heads());
        let standing = self.standing(sequence)?;
        let layout = self.layout(side)?;
        let store = self.store(sequence, side, head)?;
        Ok(HeadWords { standing, store, side, layout, dim: self.dim(side) })
    }
}

impl<'a> HeadWords<'a> {
    /// Tokens that no query sees.
    pub(crate) fn dropped(&self) -> Range<usize> {
        self.standing.dropped()
    }

    /// The end of the tokens that can be expanded at once with `first`: those behind it in the
    /// sinks, in its segment or in the residual, at most [`MOST_TOKENS`].
    pub(crate) fn end_of_run(&self, first: usize) -> usize {
        let (sinks, residual) = (self.standing.sinks(), self.standing.residual());
        let segment = self.layout.segment();
        let end = if sinks.contains(&first) {
            sinks.end
        } else if first >= residual.start {
            residual.end
        } else {
            // In steps from the beginning of the segment.
            let within = first % segment;
            first - within + ((within / MOST_TOKENS + 1) * MOST_TOKENS).min(segment)
        };
        end.min(first + MOST_TOKENS)
    }

    fn place(&self, first: usize) -> Place<'a> {
        let (sinks, residual) = (self.standing.sinks(), self.standing.residual());
        let row = padded(self.dim) / 2;
        if sinks.contains(&first) {
            return Place::Rows(&self.store.sinks[first * row..]);
        }
        if first >= residual.start {
            return Place::Rows(&self.store.residual[(first - residual.start) * row..]);
        }
        let (segment, within) = (first / self.layout.segment(), first % self.layout.segment());
        let index = (segment + self.store.packs.len()).checked_sub(self.standing.segments());
        let Some(words) = index.and_then(|index| self.store.packs.get(index)) else { return Place::Dropped };
        match self.standing.bits(self.side, first) {
            0 => Place::Dropped,
            16 => Place::Rows(&words[within * row..]),
            bits => Place::Pack(words, self.layout.with_bits(bits), within),
        }
    }

    /// The tokens of a run as rows, `stride` apart; 0 in the channels between, and for dropped
    /// ones. Of rotated codes they are rows of rotated channels, if those are `turned`.
    #[inline(always)]
    pub(crate) fn expand_rows(&self, tokens: Range<usize>, stride: usize, turned: bool, rows: &mut [f32]) {
        let (dim, count) = (self.dim, tokens.len());
        let rows = &mut rows[..count * stride];
        let is_rotated = self.standing.staircase().codec().is_rotated();
        match self.place(tokens.start) {
            Place::Dropped => rows.fill(0.0),
            Place::Rows(words) => {
                for (row, words) in rows.chunks_exact_mut(stride).zip(words.chunks_exact(padded(dim) / 2)) {
                    expand_halves(words, &mut row[..dim]);
                    if turned && is_rotated {
                        rotated::turn(&mut row[..dim]);
                    }
                    row[dim..].fill(0.0);
                }
            }
            Place::Pack(words, layout, first) if is_rotated => {
                let Some(coded) = layout.coded(words) else { return rows.fill(0.0) };
                self.expand_coded(coded, layout.bits(), first..first + count, stride, rows);
                if !turned {
                    rows.chunks_exact_mut(stride).for_each(|row| rotated::turn(&mut row[..dim]));
                }
            }
            Place::Pack(words, layout, first) if self.side == Side::Values => {
                self.expand_values(words, &layout, first..first + count, stride, rows);
            }
            Place::Pack(words, layout, first) => {
                rows.fill(0.0);
                self.expand_keys(words, &layout, first..first + count, |token, channel, number| {
                    rows[token * stride + channel] = number;
                });
            }
        }
    }

    /// The tokens of a run of keys as columns, `[dim][MOST_TOKENS]`, if their codes lie so: a pack
    /// of codes, from the beginning of a group's words on.
    #[inline(always)]
    pub(crate) fn expand_columns(&self, tokens: Range<usize>, columns: &mut [f32]) -> bool {
        let Place::Pack(words, layout, first) = self.place(tokens.start) else { return false };
        let is_rotated = self.standing.staircase().codec().is_rotated();
        if self.side != Side::Keys || !first.is_multiple_of(CODES) || layout.bits() == 3 || is_rotated {
            return false;
        }
        let group = self.standing.staircase().group();
        for block in (0..tokens.len()).step_by(CODES) {
            let token = first + block;
            let extremes = layout.code_words() + token / group * padded(self.dim);
            let mut numbers = [0.0; 2 * MAX_DIM];
            let numbers = &mut numbers[..2 * self.dim];
            expand_halves(&words[extremes..], numbers);
            let bits = layout.bits() as usize;
            let at = |channel| layout.index(token, channel) / CODES * bits;
            let stride = at(1) - at(0);
            by_width!(bits, expand_block(&words[at(0)..], stride, numbers, &mut columns[block..]));
        }
        true
    }

    /// Tokens of a segment in rotated channels: `mean + σ·level`.
    #[inline(always)]
    fn expand_coded(
        &self,
        coded: Coded<'_>,
        bits: u32,
        tokens: Range<usize>,
        stride: usize,
        rows: &mut [f32],
    ) {
        let (dim, scales, levels) = (self.dim, Scales::of(self.dim), rotated::numbers(bits));
        let mut mean = [0.0; MAX_DIM];
        let mean = &mut mean[..dim];
        if !coded.means().is_empty() {
            expand_halves(coded.means(), mean);
            rotated::turn(mean);
        }
        for (token, row) in tokens.clone().zip(rows.chunks_exact_mut(stride)) {
            let scale = scales.number(coded.scale(token)) as f32;
            let (numbers, rest) = row.split_at_mut(dim);
            let words = coded.codes(token);
            if 32 % bits == 0 {
                let each = (32 / bits) as usize;
                for ((numbers, mean), word) in numbers.chunks_mut(each).zip(mean.chunks(each)).zip(words) {
                    let mut codes = *word;
                    for (number, mean) in numbers.iter_mut().zip(mean) {
                        *number = mean + scale * levels[(codes & self::levels(bits)) as usize];
                        codes >>= bits;
                    }
                }
            } else {
                for (channel, (number, mean)) in numbers.iter_mut().zip(&*mean).enumerate() {
                    let code = super::quantize::get(words, bits, channel);
                    *number = mean + scale * levels[code as usize & 0xff];
                }
            }
            rest.fill(0.0);
        }
        let fine = rotated::numbers(8);
        for (token, words) in coded.fine_tokens().filter(|(token, _)| tokens.contains(token)) {
            let scale = scales.number(coded.scale(token)) as f32;
            let row = &mut rows[(token - tokens.start) * stride..][..dim];
            for (channel, (number, mean)) in row.iter_mut().zip(&*mean).enumerate() {
                *number = mean + scale * fine[super::quantize::get(words, 8, channel) as usize];
            }
        }
    }

    /// Values of a segment, token by token: their codes lie so.
    #[inline(always)]
    fn expand_values(
        &self,
        words: &[u32],
        layout: &PackLayout,
        tokens: Range<usize>,
        stride: usize,
        rows: &mut [f32],
    ) {
        let (bits, dim) = (layout.bits() as usize, padded(self.dim));
        let group = self.standing.staircase().group();
        // Of the tile, since numbers are widened faster when there are many.
        let per_token = dim / group;
        let mut extremes = [0.0; 2 * MOST_TOKENS * MAX_DIM / CODES];
        let extremes = &mut extremes[..2 * tokens.len() * per_token];
        expand_halves(&words[layout.code_words() + tokens.start * per_token..], extremes);
        let rows = rows.chunks_exact_mut(stride).zip(extremes.chunks_exact(2 * per_token));
        for (token, (row, extremes)) in tokens.zip(rows) {
            let (numbers, rest) = row.split_at_mut(self.dim);
            rest.fill(0.0);
            let words = &words[token * dim / CODES * bits..];
            by_width!(bits, expand_row(words, group, extremes, numbers));
        }
    }

    /// Calls `visit(token, channel, number)` for every number of these keys of a segment.
    #[inline(always)]
    fn expand_keys(
        &self,
        words: &[u32],
        layout: &PackLayout,
        tokens: Range<usize>,
        mut visit: impl FnMut(usize, usize, f32),
    ) {
        let bits = layout.bits() as usize;
        let group = self.standing.staircase().group();
        let mut numbers = [0.0; CODES];
        let first_block = tokens.start / CODES * CODES;
        for block in (first_block..tokens.end).step_by(CODES) {
            for channel in 0..self.dim {
                let index = layout.index(block, channel);
                let mut extremes = [0.0; 2];
                expand_halves(&words[layout.code_words() + index / group..], &mut extremes);
                let [min, max] = extremes;
                let words = &words[index / CODES * bits..];
                by_width!(bits, expand_codes(words, min, max, &mut numbers));
                let places = (block..block + CODES).zip(numbers);
                places.filter(|(token, _)| tokens.contains(token)).for_each(|(token, number)| {
                    visit(token - tokens.start, channel, number);
                });
            }
        }
    }
}

/// Channels of a head at most.
const MAX_DIM: usize = crate::limits::MAX_PACKED_DIM;

/// f16 numbers, two to a word, as f32.
#[inline(always)]
fn expand_halves(words: &[u32], to: &mut [f32]) {
    if cfg!(target_endian = "little") {
        let halves: &[f16] = bytemuck::cast_slice(words);
        widen_halves(halves, to);
    } else {
        to.iter_mut().enumerate().for_each(|(index, x)| *x = Element::Half(half_at(words, index)).to_f32());
    }
}

/// f16 as f32, by arithmetic that a compiler makes vectors of: exponents are moved by a product,
/// which makes numbers of subnormals too.
#[inline(always)]
pub(crate) fn widen_halves(halves: &[f16], to: &mut [f32]) {
    /// 2¹¹²: what the bias of f32's exponent is above that of f16's.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    /// The exponent of NaN and infinity, where f32 has the bits of an f16.
    const SPECIAL: u32 = 0x7c00 << 13;
    for (to, half) in to.iter_mut().zip(halves) {
        let bits = u32::from(half.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let number = (f32::from_bits(magnitude) * REBIAS).to_bits();
        let number = if magnitude >= SPECIAL { magnitude | 0x7f80_0000 } else { number };
        *to = f32::from_bits(number | (bits & 0x8000) << 16);
    }
}

/// Calls a function with a width of codes that its compiler knows: what it expands by is vectors
/// then, without a choice for each of them.
macro_rules! by_width {
    ($bits:expr, $expand:ident($($argument:expr),*)) => {
        match $bits {
            8 => $expand::<8>($($argument),*),
            4 => $expand::<4>($($argument),*),
            3 => $expand::<3>($($argument),*),
            _ => $expand::<2>($($argument),*),
        }
    };
}
use by_width;

/// 32 codes of `BITS` bits, the first words of a slice, as the numbers that they stand for
/// (`Extremes::value`).
#[inline(always)]
fn expand_codes<const BITS: usize>(words: &[u32], min: f32, max: f32, to: &mut [f32; CODES]) {
    let Some(words) = words.first_chunk::<BITS>() else { return };
    let step = (max - min) * (1.0 / levels(BITS as u32) as f32);
    let mut bytes = [0_u8; CODES];
    for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_le_bytes());
    }
    let mut codes = [0_u8; CODES];
    match BITS {
        8 => codes = bytes,
        // The codes of a byte are spread over the bytes of a number.
        4 => {
            for (pair, &byte) in codes.chunks_exact_mut(2).zip(&bytes) {
                let byte = u16::from(byte);
                pair.copy_from_slice(&((byte | byte << 4) & 0x0f0f).to_le_bytes());
            }
        }
        2 => {
            for (four, &byte) in codes.chunks_exact_mut(4).zip(&bytes) {
                let byte = u32::from(byte);
                let pairs = (byte | byte << 12) & 0x000f_000f;
                four.copy_from_slice(&((pairs | pairs << 6) & 0x0303_0303).to_le_bytes());
            }
        }
        _ => {
            for (index, code) in codes.iter_mut().enumerate() {
                *code = super::quantize::get(words, BITS as u32, index) as u8;
            }
        }
    }
    for (number, code) in to.iter_mut().zip(codes) {
        *number = min + f32::from(code) * step;
    }
}

/// A block of 32 keys of every channel, whose codes begin `stride` words after those of the channel
/// before, into columns `MOST_TOKENS` apart.
#[inline(always)]
fn expand_block<const BITS: usize>(words: &[u32], stride: usize, extremes: &[f32], columns: &mut [f32]) {
    let columns = columns.chunks_mut(MOST_TOKENS).zip(extremes.chunks_exact(2));
    for (words, (column, extremes)) in words.chunks(stride).zip(columns) {
        if let Some(column) = column.first_chunk_mut::<CODES>() {
            expand_codes::<BITS>(words, extremes[0], extremes[1], column);
        }
    }
}

/// Values of one token, each `group` of them between the next two of `extremes`.
#[inline(always)]
fn expand_row<const BITS: usize>(words: &[u32], group: usize, extremes: &[f32], numbers: &mut [f32]) {
    let blocks = words.chunks_exact(BITS).zip(numbers.chunks_mut(CODES));
    for (index, (words, numbers)) in blocks.enumerate() {
        let at = index * CODES / group * 2;
        match numbers.first_chunk_mut::<CODES>() {
            Some(numbers) => expand_codes::<BITS>(words, extremes[at], extremes[at + 1], numbers),
            None => {
                let mut whole = [0.0; CODES];
                expand_codes::<BITS>(words, extremes[at], extremes[at + 1], &mut whole);
                numbers.copy_from_slice(&whole[..numbers.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Ladder, Staircase, StoredKeys};
    use crate::shape::Shape;

    /// The words read many at a time are the numbers read one by one.
    #[test]
    fn runs_hold_what_single_tokens_do() {
        let ladder = |steps: &[(u32, usize)], last| Ladder::new(steps, last).unwrap();
        let nested = Staircase::new(ladder(&[(16, 1), (8, 1)], 4), ladder(&[(8, 1), (4, 2)], 2)).unwrap();
        let uneven = Staircase::new(ladder(&[(4, 1), (3, 1)], 2), ladder(&[(8, 2)], 3)).unwrap();
        let dropping = Staircase::new(ladder(&[(8, 1), (4, 2)], 0), ladder(&[(4, 3)], 0)).unwrap();
        let segments = [(96, 32), (64, 64), (128, 32)];
        for (staircase, sinks) in [(nested, 5), (uneven, 0), (dropping, 41)] {
            for (dim, (segment, group)) in [(64, segments[0]), (100, segments[1]), (32, segments[2])] {
                let staircase =
                    staircase.clone().with_segment_and_group(segment, group).unwrap().with_sinks(sinks);
                let shape = Shape::new(1, 1, 0, dim).unwrap();
                let Ok(mut cache) = HostCache::new(staircase, &shape, StoredKeys::AfterRotation) else {
                    continue;
                };
                let sequence = cache.add();
                let numbers: Vec<f32> = (0..900 * dim).map(|i| (i as f32 * 0.7).sin()).collect();
                cache.append(sequence, &numbers, &numbers).unwrap();
                for side in Side::ALL {
                    let words = cache.head_words(sequence, side, 0).unwrap();
                    let mut token = 0;
                    let mut columns_seen = 0;
                    let rows: Vec<_> = cache.rows(sequence, 0).unwrap().collect();
                    while token < 900 {
                        let end = words.end_of_run(token).min(900);
                        assert!(token < end && end - token <= MOST_TOKENS);
                        let mut got = vec![9.0; MOST_TOKENS * (dim + 3)];
                        words.expand_rows(token..end, dim + 3, false, &mut got);
                        let mut columns = vec![9.0; MOST_TOKENS * dim];
                        let has_columns = words.expand_columns(token..end, &mut columns);
                        columns_seen += usize::from(has_columns);
                        for at in token..end {
                            let row = rows.iter().find(|row| row.token == at);
                            let want = row.map_or(vec![0.0; dim], |row| match side {
                                Side::Keys => row.key.clone(),
                                Side::Values => row.value.clone(),
                            });
                            assert_eq!(got[(at - token) * (dim + 3)..][..dim], want, "{side:?} {at}");
                            for c in (0..dim).filter(|_| has_columns) {
                                assert_eq!(columns[c * MOST_TOKENS + at - token], want[c]);
                            }
                        }
                        token = end;
                    }
                    assert!(columns_seen > 0 || side == Side::Values);
                }
            }
        }
    }

    #[test]
    fn every_half_is_widened_exactly() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut wide = vec![0.0; halves.len()];
        widen_halves(&halves, &mut wide);
        for (half, wide) in halves.iter().zip(wide) {
            let want = half.to_f32();
            let same = wide.to_bits() == want.to_bits() || wide.is_nan() && want.is_nan();
            assert!(same, "{:#x}: got {wide}, expected {want}", half.to_bits());
        }
    }
}
