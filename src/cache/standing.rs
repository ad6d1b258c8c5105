//! Where the tokens of a sequence stand: which are stored how, and the bytes of it.

use std::ops::Range;

use super::codec::Codec;
use super::ladder::{Rung, Side};
use super::staircase::Staircase;
use super::words::padded;
use crate::error::{Result, ensure};
use crate::shape::{MAX_LEN, Shape};

/// Where every token of one sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    staircase: &'a Staircase,
    len: usize,
    segments: usize,
}

impl<'a> Standing<'a> {
    /// The staircase on which the tokens stand.
    #[cfg(feature = "native")]
    pub(crate) fn staircase(&self) -> &'a Staircase {
        self.staircase
    }

    /// Tokens of the sequence, dropped ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Segments that have left the residual, dropped ones included.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// The tokens of the residual.
    pub fn residual(&self) -> Range<usize> {
        self.segments * self.staircase.segment()..self.len
    }

    /// The tokens that have precise copies.
    pub fn sinks(&self) -> Range<usize> {
        0..self.staircase.sinks().min(self.len)
    }

    /// The tokens that are held nowhere any more.
    pub fn dropped(&self) -> Range<usize> {
        let sinks = self.sinks().end;
        sinks..(self.dropped_segments() * self.staircase.segment()).max(sinks)
    }

    /// Segments, from the oldest on, that are on a rung of 0 bits.
    pub(crate) fn dropped_segments(&self) -> usize {
        let ladder = self.staircase.ladder(Side::Keys);
        match ladder.last_bits() {
            0 => self.segments.saturating_sub(ladder.ends().last().unwrap_or(0)),
            _ => 0,
        }
    }

    /// How many segments have left the residual when `more` segments more, from the oldest on, are
    /// on the rung of 0 bits.
    ///
    /// # Errors
    /// Those of [`HostCache::drop_oldest`](super::HostCache::drop_oldest).
    pub(super) fn segments_to_drop(&self, more: usize) -> Result<usize> {
        ensure!(
            self.staircase.drops(),
            "staircase",
            "expected one whose last rung drops tokens (Staircase::streaming), got {} bits there",
            self.staircase.ladder(Side::Keys).last_bits()
        );
        let held = self.staircase.ladder(Side::Keys).ends().last().unwrap_or(0);
        let (dropped, whole) = (self.dropped_segments(), self.len / self.staircase.segment());
        let most = whole.saturating_sub(held).saturating_sub(dropped);
        ensure!(
            more <= most,
            "segments",
            "expected at most {most} (of the {whole} whole ones {dropped} are dropped and {held} stay on rungs), got {more}"
        );
        Ok(if more == 0 { self.segments } else { self.segments.max(dropped + more + held) })
    }

    /// The rung of a segment; `None` while it is in the residual.
    pub fn segment_rung(&self, side: Side, segment: usize) -> Option<usize> {
        let age = self.segments.checked_sub(segment)?.checked_sub(1)?;
        Some(self.staircase.ladder(side).rung_at(age))
    }

    /// The rung of a token; `None` in the residual. Sinks have a rung like all others, beside their
    /// copies.
    pub fn rung_of(&self, side: Side, token: usize) -> Option<usize> {
        self.segment_rung(side, token / self.staircase.segment())
    }

    /// The bits in which attention reads a token: 16 for sinks and the residual, 0 if it was
    /// dropped (or isn't there).
    pub fn bits(&self, side: Side, token: usize) -> u32 {
        if token >= self.len {
            return 0;
        }
        match self.rung_of(side, token) {
            Some(rung) if token >= self.staircase.sinks() => self.staircase.ladder(side).rungs()[rung].bits,
            _ => 16,
        }
    }

    /// Maximal runs of tokens that are read at the same widths, oldest first: `(tokens, key bits,
    /// value bits)`.
    pub fn stretches(&self) -> Vec<(Range<usize>, u32, u32)> {
        // Widths change only behind the sinks, where a rung's tokens begin, and at the residual.
        let mut starts = vec![0, self.sinks().end, self.residual().start];
        for side in Side::ALL {
            starts.extend(self.rung_tokens(side).map(|tokens| tokens.start));
        }
        starts.sort_unstable();
        let mut stretches: Vec<(Range<usize>, u32, u32)> = Vec::new();
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(self.len).min(self.len);
            let bits = (self.bits(Side::Keys, start), self.bits(Side::Values, start));
            match stretches.last_mut() {
                _ if start >= end => {}
                Some((run, k, v)) if (*k, *v) == bits => run.end = end,
                _ => stretches.push((start..end, bits.0, bits.1)),
            }
        }
        stretches
    }

    /// n_k: how many tokens each rung holds, precise copies not counted.
    pub fn tokens_by_rung(&self, side: Side) -> Vec<usize> {
        self.rung_tokens(side).map(|tokens| tokens.len()).collect()
    }

    /// The segments on each rung, the youngest rung first.
    pub(super) fn rung_segments(&self, side: Side) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let all = self.segments;
        let ends = self.staircase.ladder(side).ends().map(move |end| end.min(all)).chain([all]);
        ends.scan(0, move |before, end| {
            let ages = std::mem::replace(before, end)..end;
            Some(all - ages.end..all - ages.start)
        })
    }

    /// The tokens of each rung.
    fn rung_tokens(&self, side: Side) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let length = self.staircase.segment();
        self.rung_segments(side).map(move |segments| segments.start * length..segments.end * length)
    }

    /// The memory of what is held, for the key/value heads and channels of `shape` (its lengths and
    /// batch don't matter).
    ///
    /// In bits, keys and values each with their own ladder: `H_kv·D'·[16·(n_r + n_sink) + Σ_k
    /// n_k·c(B_k)]` with n_r tokens in the residual, n_sink precise copies, n_k tokens on a rung of
    /// B_k bits, `c(16) = 16`, `c(0) = 0`, else `c(B) = B + 32/G`, and D' the channels padded to a
    /// multiple of 32. Of rotated codes c(B) = B, and each segment adds `S + F·D' + 4·⌈F/2⌉`
    /// bytes of scales and F fine tokens per head and side, and of keys `2·D'` of means. Summaries
    /// add `H_kv·(2·D' + 8)` bytes for each group of keys that has one.
    pub fn memory(&self, shape: &Shape) -> Memory {
        let bytes = |side, dim: usize| {
            let elements = (shape.kv_heads() * padded(dim)) as u64;
            let rung = |(tokens, rung): (usize, &Rung)| {
                let numbers = tokens as u64 * elements;
                let codes = numbers * u64::from(rung.bits) / 8;
                let segments = (tokens / self.staircase.segment()) as u64;
                let beside = match self.staircase.codec() {
                    _ if matches!(rung.bits, 16 | 0) => 0,
                    Codec::MinMax => numbers * 4 / self.staircase.group() as u64,
                    Codec::Rotated { .. } => {
                        (tokens * shape.kv_heads()) as u64
                            + segments * shape.kv_heads() as u64 * self.beside_segment(side, dim)
                    }
                };
                codes + beside
            };
            let rungs = self.tokens_by_rung(side).into_iter().zip(self.staircase.ladder(side).rungs());
            let precise = |tokens: Range<usize>| 2 * tokens.len() as u64 * elements;
            (rungs.map(rung).collect(), precise(self.residual()), precise(self.sinks()))
        };
        let (keys, key_residual, key_sinks) = bytes(Side::Keys, shape.head_dim());
        let (values, value_residual, value_sinks) = bytes(Side::Values, shape.value_dim());
        let summaries = self.staircase.summaries().map_or(0, |tokens| {
            let groups = (self.segments - self.dropped_segments()) * (self.staircase.segment() / tokens);
            (groups * shape.kv_heads()) as u64 * (2 * padded(shape.head_dim()) as u64 + 8)
        });
        let (residual, sinks) = (key_residual + value_residual, key_sinks + value_sinks);
        Memory { keys, values, summaries, residual, sinks }
    }

    /// Bytes of means and fine tokens of a segment and head, of rotated codes.
    fn beside_segment(&self, side: Side, dim: usize) -> u64 {
        match (self.staircase.codec(), side) {
            (Codec::Rotated { fine_tokens }, side) => {
                let means = if side == Side::Keys { 2 * padded(dim) } else { 0 };
                (means + padded(dim) * fine_tokens + 4 * fine_tokens.div_ceil(2)) as u64
            }
            (Codec::MinMax, _) => 0,
        }
    }

    /// Bytes of keys and values that attention reads for one decode step over all tokens, each once
    /// per key/value head: packs with their extremes, the residual, and the precise copies of
    /// sinks in place of what their packs hold of them.
    ///
    /// A group's extremes count as read if one of its tokens is, and so do means and fine tokens of
    /// a segment; fine tokens are read beside their codes. Summaries aren't read.
    pub fn bytes_read(&self, shape: &Shape) -> u64 {
        self.bytes_read_in(shape, 0..self.len)
    }

    /// The same for a step that reads some of the tokens, as those of one block of a schedule.
    pub fn bytes_read_in(&self, shape: &Shape, tokens: Range<usize>) -> u64 {
        let (group, sinks) = (self.staircase.group() as u64, self.sinks().end);
        let (start, end) = (tokens.start.min(self.len), tokens.end.min(self.len));
        let within = |part: Range<usize>| part.end.min(end).saturating_sub(part.start.max(start));
        let rows = within(0..sinks) + within(self.residual().start.max(sinks)..self.len);
        let bits = |side: Side, dim: usize| {
            let numbers = |tokens: u64| tokens * (shape.kv_heads() * padded(dim)) as u64;
            let rungs = self.rung_tokens(side).zip(self.staircase.ladder(side).rungs());
            let coded = rungs.map(|(tokens, rung)| {
                let tokens = tokens.start.max(sinks).max(start)..tokens.end.min(end);
                let read = tokens.len() as u64;
                if self.staircase.codec().is_rotated() {
                    let scales = read * shape.kv_heads() as u64;
                    let segments = groups(&tokens, self.staircase.segment() as u64);
                    let beside = match rung.bits {
                        16 | 0 => 0,
                        _ => scales + segments * shape.kv_heads() as u64 * self.beside_segment(side, dim),
                    };
                    return numbers(read) * u64::from(rung.bits) + 8 * beside;
                }
                // A word of extremes serves G tokens of a channel, or G channels of a token.
                let grouped = match side {
                    _ if matches!(rung.bits, 16 | 0) => 0,
                    Side::Keys => groups(&tokens, group) * group,
                    Side::Values => read,
                };
                numbers(read) * u64::from(rung.bits) + numbers(grouped) * 32 / group
            });
            16 * numbers(rows as u64) + coded.sum::<u64>()
        };
        (bits(Side::Keys, shape.head_dim()) + bits(Side::Values, shape.value_dim())) / 8
    }

    /// Bits per number of K and V, padding and dropped tokens counted as what they take up; 16 for
    /// a plain f16 cache of 32·k channels, 0 without tokens.
    pub fn bits_per_element(&self, shape: &Shape) -> f64 {
        let channels = shape.kv_heads() * (shape.head_dim() + shape.value_dim());
        let numbers = self.len as u64 * channels as u64;
        if numbers == 0 { 0.0 } else { self.memory(shape).total() as f64 * 8.0 / numbers as f64 }
    }
}

/// How many groups of so many tokens these touch.
fn groups(tokens: &Range<usize>, group: u64) -> u64 {
    if tokens.is_empty() { 0 } else { (tokens.end as u64).div_ceil(group) - tokens.start as u64 / group }
}

/// Bytes of one sequence in a cache, by where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// Keys on each rung, with their extremes.
    pub keys: Vec<u64>,
    /// Values on each rung, with their extremes.
    pub values: Vec<u64>,
    /// Summaries of keys, where the staircase has them.
    pub summaries: u64,
    /// The residual, keys and values.
    pub residual: u64,
    /// The precise copies of the sinks, keys and values.
    pub sinks: u64,
}

impl Memory {
    /// The sum of all parts.
    pub fn total(&self) -> u64 {
        self.keys.iter().chain(&self.values).sum::<u64>() + self.summaries + self.residual + self.sinks
    }
}

impl Staircase {
    /// Where every token stands after `len` tokens have been appended (at most 2³⁰ − 1, the longest
    /// sequence).
    pub fn standing(&self, len: usize) -> Standing<'_> {
        let len = len.min(MAX_LEN);
        Standing { staircase: self, len, segments: self.segments_after(len) }
    }

    /// The same where `segments` segments have left the residual: more than `len` says if tokens
    /// were appended and then truncated.
    pub(crate) fn standing_at(&self, len: usize, segments: usize) -> Standing<'_> {
        Standing { staircase: self, len, segments }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ladder::{Ladder, SCALING_ERROR, output_error_bound};
    use super::super::quantize::levels;
    use super::*;

    fn staircase() -> Staircase {
        Staircase::new(Ladder::new(&[(8, 1)], 4).unwrap(), Ladder::new(&[(8, 1), (4, 2)], 2).unwrap())
            .unwrap()
    }

    #[test]
    fn refusals_name_the_argument() {
        let ladder = |steps: &[(u32, usize)], last| Ladder::new(steps, last).unwrap_err().argument().unwrap();
        assert_eq!(ladder(&[(5, 1)], 2), "bits");
        assert_eq!(ladder(&[(4, 1)], 8), "bits");
        assert_eq!(ladder(&[(4, 1)], 4), "bits");
        assert_eq!(ladder(&[(8, 1), (0, 1)], 0), "bits");
        assert_eq!(ladder(&[(8, 0)], 4), "segments");
        assert_eq!(ladder(&[(8, usize::MAX), (4, 2)], 2), "segments");
        let named = |r: Result<Staircase>| r.unwrap_err().argument().unwrap();
        let dropping = |dwell| Ladder::new(&[(8, dwell)], 0).unwrap();
        assert_eq!(named(Staircase::new(dropping(1), Ladder::new(&[], 8).unwrap())), "values");
        assert_eq!(named(Staircase::new(dropping(1), dropping(2))), "values");
        assert_eq!(named(staircase().with_segment(0)), "segment");
        assert_eq!(named(staircase().with_segment(48)), "segment");
        assert_eq!(named(staircase().with_segment(usize::MAX / 32 * 32)), "segment");
        assert_eq!(named(staircase().with_group(16)), "group");
        assert_eq!(named(staircase().with_group(96)), "segment");
        assert_eq!(named(staircase().with_residual(0)), "residual");
        assert_eq!(named(staircase().with_residual(usize::MAX)), "residual");
        assert_eq!(named(Staircase::kivi(16)), "bits");
        assert_eq!(named(Staircase::streaming(0)), "residual");
    }

    #[test]
    fn segments_age_and_step_down() {
        let staircase = staircase();
        let mut rungs: Vec<[usize; 2]> = Vec::new();
        for len in 0..2000 {
            let standing = staircase.standing(len);
            assert!(len < 128 || (128..256).contains(&standing.residual().len()), "{len}");
            for (segment, &[k, v]) in rungs.iter().enumerate() {
                assert_eq!(standing.segment_rung(Side::Keys, segment), Some(k));
                assert_eq!(standing.segment_rung(Side::Values, segment), Some(v));
            }
            assert_eq!(standing.segment_rung(Side::Keys, rungs.len()), None);
            let Some(aging) = staircase.on_append(len) else { continue };
            assert_eq!(aging.leaves, rungs.len());
            rungs.push([0, 0]);
            for (at, side) in Side::ALL.into_iter().enumerate() {
                for step in aging.steps(side) {
                    assert_eq!(rungs[step.segment][at], step.from);
                    rungs[step.segment][at] = step.to;
                }
            }
        }
        assert_eq!(rungs.len(), 14);
    }

    #[test]
    fn stretches_and_tokens_agree_with_single_tokens() {
        for staircase in [staircase(), Staircase::streaming(100).unwrap(), Staircase::plain()] {
            for len in [0, 1, 3, 127, 300, 1000, 1537] {
                let standing = staircase.standing(len);
                let mut next = 0;
                for (run, k, v) in standing.stretches() {
                    assert_eq!(run.start, next);
                    next = run.end;
                    for token in run {
                        let bits = (standing.bits(Side::Keys, token), standing.bits(Side::Values, token));
                        assert_eq!(bits, (k, v));
                        assert_eq!(standing.dropped().contains(&token), k == 0);
                    }
                }
                assert_eq!(next, len);
                for side in Side::ALL {
                    let count = |rung| (0..len).filter(|&t| standing.rung_of(side, t) == Some(rung)).count();
                    let counted: Vec<usize> = (0..staircase.ladder(side).rungs().len()).map(count).collect();
                    assert_eq!(standing.tokens_by_rung(side), counted);
                }
            }
        }
    }

    #[test]
    fn the_byte_formula() {
        let shape = Shape::new(4, 2, 1, 80).unwrap();
        // 1,000 tokens: 6 segments have left, 232 tokens are in the residual; 80 channels are
        // padded to 96.
        let memory = staircase().standing(1000).memory(&shape);
        let numbers = |tokens: u64| tokens * 2 * 96;
        assert_eq!(memory.keys, [numbers(128) * 9 / 8, numbers(640) * 5 / 8]);
        assert_eq!(memory.values, [numbers(128) * 9 / 8, numbers(256) * 5 / 8, numbers(384) * 3 / 8]);
        assert_eq!((memory.residual, memory.sinks), (numbers(232) * 4, numbers(4) * 4));
        let plain = Shape::new(4, 2, 1, 64).unwrap();
        assert_eq!(Staircase::plain().standing(777).bits_per_element(&plain), 16.0);
        assert_eq!(Staircase::plain().standing(0).bits_per_element(&plain), 0.0);
    }

    #[test]
    fn bytes_of_a_decode_step() {
        let shape = Shape::new(4, 2, 1, 80).unwrap();
        let numbers = |tokens: u64| tokens * 2 * 96;
        // As above; 4 sinks are read from their copies, so 636 of the 640 tokens in keys' last
        // rung, but all of their extremes.
        let keys = numbers(128) * 9 / 8 + numbers(636) / 2 + numbers(640) / 8;
        let values = numbers(128) * 9 / 8 + numbers(256) * 5 / 8 + numbers(380) * 3 / 8;
        let rows = 2 * numbers(236) * 2;
        assert_eq!(staircase().standing(1000).bytes_read(&shape), keys + values + rows);
        for len in [0, 2, 90, 1000] {
            let plain = Staircase::plain();
            assert_eq!(plain.standing(len).bytes_read(&shape), plain.standing(len).memory(&shape).total());
            // Sinks in the residual are read once.
            let sinks = plain.clone().with_sinks(100);
            assert_eq!(sinks.standing(len).bytes_read(&shape), plain.standing(len).memory(&shape).total());
            let streaming = Staircase::streaming(50).unwrap();
            let live = len - streaming.standing(len).dropped().len();
            assert_eq!(streaming.standing(len).bytes_read(&shape), 2 * 2 * numbers(live as u64));
        }
        // What whole groups of sinks held is not read at all.
        let many = staircase().with_sinks(70).standing(1000).bytes_read(&shape);
        let keys = numbers(128) * 9 / 8 + numbers(570) / 2 + numbers(576) / 8;
        let values = numbers(128) * 9 / 8 + numbers(256) * 5 / 8 + numbers(314) * 3 / 8;
        assert_eq!(many, keys + values + 2 * numbers(302) * 2);
    }

    #[test]
    fn bounds_of_rungs() {
        let bounds = |steps: &[(u32, usize)], last| Ladder::new(steps, last).unwrap().error_bounds();
        let half = |bits| 0.5 / f64::from(levels(bits));
        assert_eq!(
            bounds(&[(16, 1), (8, 1), (4, 1)], 2),
            [0.0, half(8), half(4), half(2)].map(|b| if b > 0.0 { b + SCALING_ERROR } else { b })
        );
        assert_eq!(
            bounds(&[(8, 1), (3, 1)], 2),
            [half(8), half(8) + half(3), half(8) + half(3) + half(2)].map(|b| b + SCALING_ERROR)
        );
        assert_eq!(bounds(&[(8, 1)], 0)[1], f64::INFINITY);
        assert!((output_error_bound(0.1, 2.0, 0.25) - (2.0 * (0.2f64.exp() - 1.0) + 0.25)).abs() < 1e-15);
    }

    #[test]
    fn the_longest_sequence_costs_nothing_to_ask_about() {
        let shape = Shape::new(1 << 16, 1 << 16, 0, 256).unwrap();
        for staircase in [staircase(), Staircase::plain(), Staircase::streaming(1).unwrap()] {
            let staircase = staircase.with_segment(32).unwrap().with_sinks(usize::MAX);
            let standing = staircase.standing(usize::MAX);
            assert_eq!((standing.len(), standing.sinks()), (MAX_LEN, 0..MAX_LEN));
            assert_eq!(standing.stretches(), [(0..MAX_LEN, 16, 16)]);
            let row = 2 * 2 * (256 << 16);
            assert_eq!(standing.bytes_read(&shape), MAX_LEN as u64 * row);
            assert!(standing.memory(&shape).total() >= MAX_LEN as u64 * row);
            assert_eq!(
                (standing.bits(Side::Keys, usize::MAX), standing.rung_of(Side::Values, usize::MAX)),
                (0, None)
            );
            assert_eq!(
                (staircase.on_append(usize::MAX), staircase.aging(usize::MAX).leaves),
                (None, usize::MAX)
            );
        }
    }

    #[test]
    fn work_is_amortized() {
        for staircase in [staircase(), Staircase::plain(), Staircase::recommended()] {
            let rungs: usize = Side::ALL.iter().map(|&side| staircase.ladder(side).rungs().len()).sum();
            let mut counted = 0;
            for len in 0..20_000 {
                assert_eq!(staircase.work(len), counted);
                assert!(counted <= (len * rungs) as u64);
                if let Some(aging) = staircase.on_append(len) {
                    counted += 128 * (2 + aging.keys.len() + aging.values.len()) as u64;
                }
            }
        }
    }

    #[test]
    fn pictures() {
        let text = Staircase::recommended().with_residual(4096).unwrap().to_string();
        assert_eq!(
            text,
            "4 sinks, residual 4096 to 4223, segments of 128, groups of 32\n\
             keys    16 ████████████████×32 │ 8 ▅▅ │ 4 ▃▃▃…\n\
             values  16 ████████████████×32 │ 8 ▅▅ │ 4 ▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃ │ 2 ▂▂▂…"
        );
    }
}
