//! What has to move where when tokens are appended on a GPU.

use std::ops::Range;

use super::region::RegionLayout;
use crate::cache::gpu::params::{FLAG_COUNT, FLAG_SHIFT, FLAG_VALUES, Move, SKIPPED_AT};
use crate::cache::gpu::programs::CacheMove;
use crate::cache::ladder::Side;
use crate::cache::quantize::nests;
use crate::cache::staircase::Staircase;

/// Rows of one copy, at most: so that the units of any dispatch can be counted in 32 bits.
const COPIED_ROWS: usize = 1 << 16;

/// A sequence to which tokens are appended, and where its regions begin in a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appended {
    /// How many tokens there were before.
    pub(super) len: usize,
    /// Segments that had left the residual before.
    pub(super) segments: usize,
    /// How many tokens come.
    pub(super) tokens: usize,
    /// Segments that leave the residual, at least.
    pub(super) leaving: usize,
    /// Words, of keys and of values.
    pub(super) bases: [usize; 2],
    /// Where its stamp lies among the words of keys, and what it must be.
    pub(super) stamp: usize,
    pub(super) expected: u32,
    /// Quads of the input, keys and values: the first row that comes, and from one row to the next.
    pub(super) input: [InputRows; 2],
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InputRows {
    pub(super) first: u32,
    pub(super) stride: u32,
}

/// Moves that are independent of each other, by the kernel that makes them, each with its units.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) quantize: Vec<(Move, usize)>,
    pub(super) summarize: Vec<(Move, usize)>,
    pub(super) step_down: Vec<(Move, usize)>,
    pub(super) append: Vec<(Move, usize)>,
}

/// Plans moves.
pub(super) struct Mover<'a> {
    pub(super) staircase: &'a Staircase,
    pub(super) layout: &'a RegionLayout,
}

impl Mover<'_> {
    /// The passes of an append, in the order in which they must take place.
    ///
    /// A pass moves what arrives on one rung, the last rung first: whatever lay in the places of
    /// its ring has left them in a pass before. Rows that stay rows come last, when no segment
    /// reads the residual any more.
    pub(super) fn passes(&self, appended: &[Appended]) -> Vec<Pass> {
        let rungs = Side::ALL.map(|side| self.staircase.ladder(side).rungs().len());
        let mut passes = Vec::new();
        for rung in (0..rungs[0].max(rungs[1])).rev() {
            let mut pass = Pass::default();
            for sequence in appended {
                for side in Side::ALL.into_iter().filter(|&side| rung < rungs[side as usize]) {
                    self.arrivals(sequence, side, rung, &mut pass);
                }
            }
            passes.push(pass);
        }
        let mut rows = Pass::default();
        for sequence in appended {
            Side::ALL.into_iter().for_each(|side| self.rows(sequence, side, &mut rows));
        }
        passes.push(rows);
        passes
    }

    /// The segments that come to a rung and weren't there before.
    fn arrivals(&self, sequence: &Appended, side: Side, rung: usize, pass: &mut Pass) {
        let rungs = self.staircase.ladder(side).rungs();
        let bits = rungs[rung].bits;
        if bits == 0 {
            return;
        }
        let (before, after) = (sequence.segments, sequence.segments_after(self.staircase));
        let start: usize = rungs[..rung].iter().filter_map(|rung| rung.segments).sum();
        let oldest = rungs[rung].segments.map_or(0, |dwell| after.saturating_sub(start + dwell));
        let arriving = oldest.max(before.saturating_sub(start))..after.saturating_sub(start);
        for segment in arriving {
            let age = before.checked_sub(segment + 1);
            let from = age.map(|age| self.staircase.ladder(side).rung_at(age));
            let base = sequence.bases[side as usize];
            let destination = (base + self.layout.pack(side, rung, segment)) as u32;
            let coded = from.is_some_and(|from| rungs[from].bits != 16);
            let widths = self.widths(side, from, rung);
            let numbers = self.staircase.segment() * 2 * self.layout.sides[side as usize].row_words;
            if let Some(from) = from.filter(|_| coded) {
                let source = (base + self.layout.pack(side, from, segment)) as u32;
                let shift = if self.staircase.codec().is_rotated() { FLAG_SHIFT } else { 0 };
                let flags = flag(side) | shift;
                let step = Move { flags, widths, source, destination, ..sequence.guard() };
                pass.step_down.push((step, numbers / 32));
                continue;
            }
            let first = segment * self.staircase.segment();
            let source = match from {
                Some(from) => Move {
                    held: self.staircase.segment() as u32,
                    source: (base + self.layout.pack(side, from, segment)) as u32,
                    source_ring: u32::MAX,
                    ..sequence.guard()
                },
                None => self.rows_of(sequence, side, first),
            };
            if let Some(tokens) = self.staircase.summaries().filter(|_| side == Side::Keys) {
                let rung = &self.layout.sides[side as usize].rungs[rung];
                let behind = (rung.pack_words - self.layout.summary_words) as u32;
                let summaries = Move { flags: flag(side), destination: destination + behind, ..source };
                let groups = self.staircase.segment() / tokens;
                pass.summarize.push((summaries, groups * CacheMove::INVOCATIONS));
            }
            let counted = Move { flags: flag(side) | FLAG_COUNT, widths, destination, ..source };
            if bits != 16 && self.staircase.codec().is_rotated() {
                pass.quantize.push((self.encoded(sequence, first, counted), CacheMove::INVOCATIONS));
            } else if bits == 16 {
                let copy = Move { ring: u32::MAX, ..counted };
                pass.append.push((copy, numbers / 4));
            } else {
                let groups = numbers / self.staircase.group();
                pass.quantize.push((counted, if side == Side::Keys { groups / 4 } else { groups }));
            }
        }
    }

    /// A segment that becomes rotated codes: also which rows are read from copies of sinks and, of
    /// keys, where the values of the same tokens lie.
    fn encoded(&self, sequence: &Appended, first: usize, segment: Move) -> Move {
        let skipped = self.staircase.sinks().saturating_sub(first).min(self.staircase.segment());
        // Segments with fine tokens come from rows, on both sides.
        let values = self.rows_of(sequence, Side::Values, first);
        let flags = segment.flags | (skipped as u32) << SKIPPED_AT;
        Move { flags, row: values.source, ring: values.input, ..segment }
    }

    /// The widths from one rung (or from rows) to another, packed. Where several steps nest, the
    /// last of them does.
    fn widths(&self, side: Side, from: Option<usize>, to: usize) -> u32 {
        let rungs = self.staircase.ladder(side).rungs();
        let passed = rungs[from.unwrap_or(0)..=to].iter().map(|rung| rung.bits).filter(|&bits| bits != 16);
        let mut kept: Vec<u32> = Vec::new();
        // Of coded segments, the first is the width that they have.
        let fixed = usize::from(from.is_some_and(|from| rungs[from].bits != 16));
        let always = self.staircase.codec().is_rotated();
        let nests = |from, to| always || nests(from, to);
        for bits in passed {
            // The one before is left out if the steps to it and from it nest.
            let nested = match kept[..] {
                [] => false,
                [last] => fixed == 0 && nests(last, bits),
                [.., before, last] => nests(before, last) && nests(last, bits),
            };
            if nested {
                kept.pop();
            }
            kept.push(bits);
        }
        kept.iter().rev().fold(0, |packed, &bits| packed << 4 | bits)
    }

    /// Rows from a token on, which lie in the residual if they were there before, else in the
    /// input.
    fn rows_of(&self, sequence: &Appended, side: Side, first: usize) -> Move {
        let rows = sequence.input[side as usize];
        let held = sequence.len.saturating_sub(first);
        let before = (first as u32).wrapping_sub(sequence.len as u32);
        Move {
            flags: flag(side),
            held: held as u32,
            source: (sequence.bases[side as usize] + self.layout.sides[side as usize].residual) as u32,
            source_row: (first % self.layout.residual_rows) as u32,
            source_ring: self.layout.residual_rows as u32,
            input: rows.first.wrapping_add(before.wrapping_mul(rows.stride)),
            ..sequence.guard()
        }
    }

    /// What of the input stays in rows.
    fn rows(&self, sequence: &Appended, side: Side, pass: &mut Pass) {
        let after = sequence.segments_after(self.staircase);
        let (len, end) = (sequence.len, sequence.len + sequence.tokens);
        let base = sequence.bases[side as usize];
        let segment = self.staircase.segment();
        let quads = self.layout.sides[side as usize].row_words / 2;
        let mut copy = |tokens: Range<usize>, to: Move| {
            for first in tokens.clone().step_by(COPIED_ROWS) {
                let rows = (tokens.end - first).min(COPIED_ROWS);
                let row = first % to.ring as usize;
                let source = self.rows_of(sequence, side, first);
                let copied = Move {
                    flags: to.flags | flag(side),
                    destination: to.destination,
                    row: row as u32,
                    ring: to.ring,
                    ..source
                };
                pass.append.push((copied, rows * quads));
            }
        };
        let residual = Move {
            flags: FLAG_COUNT,
            destination: (base + self.layout.sides[side as usize].residual) as u32,
            ring: self.layout.residual_rows as u32,
            ..Move::default()
        };
        copy((after * segment).max(len)..end, residual);
        // Copies of sinks are counted where nobody else reads the numbers: if they are dropped at
        // once otherwise.
        let standing = self.staircase.standing_at(end, after);
        let dropped = standing.dropped_segments() * segment;
        let sinks = len..end.min(self.layout.sinks);
        let sink = Move { destination: base as u32, ring: u32::MAX, ..Move::default() };
        copy(sinks.start..sinks.end.min(dropped), Move { flags: FLAG_COUNT, ..sink });
        copy(sinks.start.max(dropped)..sinks.end, sink);
    }
}

impl Appended {
    /// What every move of the sequence has.
    pub(super) fn guard(&self) -> Move {
        Move { stamp: self.stamp as u32, expected: self.expected, ..Move::default() }
    }

    /// Segments that have left the residual afterwards.
    pub(super) fn segments_after(&self, staircase: &Staircase) -> usize {
        (self.segments + self.leaving).max(staircase.segments_after(self.len + self.tokens))
    }
}

fn flag(side: Side) -> u32 {
    match side {
        Side::Keys => 0,
        Side::Values => FLAG_VALUES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Ladder;
    use crate::shape::Shape;

    #[test]
    fn nested_steps_are_taken_at_once() {
        let keys = Ladder::new(&[(16, 1), (8, 1), (4, 1), (3, 1)], 2).unwrap();
        let staircase = Staircase::new(keys, Ladder::new(&[(8, 1), (4, 1)], 2).unwrap()).unwrap();
        let shape = Shape::new(1, 1, 1 << 20, 64).unwrap();
        let layout = RegionLayout::new(&staircase, &shape, 1 << 20).unwrap();
        let mover = Mover { staircase: &staircase, layout: &layout };
        assert_eq!(mover.widths(Side::Values, None, 2), 0x2);
        assert_eq!(mover.widths(Side::Values, Some(0), 2), 0x28);
        assert_eq!(mover.widths(Side::Values, Some(1), 2), 0x24);
        assert_eq!(mover.widths(Side::Keys, None, 0), 0);
        assert_eq!(mover.widths(Side::Keys, Some(0), 1), 0x8);
        assert_eq!(mover.widths(Side::Keys, None, 2), 0x4);
        assert_eq!(mover.widths(Side::Keys, None, 4), 0x234);
        assert_eq!(mover.widths(Side::Keys, Some(1), 4), 0x2348);
    }
}
