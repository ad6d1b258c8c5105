//! The words of one segment at few bits.

use std::ops::Range;

use super::codebook::{self, LEVEL_BITS};
use super::hadamard::{block, transform};
use super::row::{Scales, half, mean, rank, shift, transformed};
use crate::cache::quantize::{self, aligned, to_f32};
use crate::cache::words::{half_at, padded};

/// Marks a place in the list of fine tokens that none has.
const NONE: u16 = u16::MAX;

/// Where what is behind the codes of a segment lies, at any width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    segment: usize,
    dim: usize,
    /// Whether rows are keys, which have means.
    keys: bool,
    fine: usize,
}

impl Behind {
    pub(in crate::cache) fn new(segment: usize, dim: usize, keys: bool, fine: usize) -> Self {
        Self { segment, dim, keys, fine }
    }

    /// Words of scales.
    fn scales(&self) -> usize {
        self.segment / 4
    }

    /// Words of the codes at 8 bits of a row.
    fn row(&self) -> usize {
        padded(self.dim) / 4
    }

    /// Where the list of fine tokens begins.
    pub(in crate::cache) fn list(&self) -> usize {
        self.scales() + if self.keys { padded(self.dim) / 2 } else { 0 }
    }

    /// Where the codes of fine tokens begin.
    pub(in crate::cache) fn fine(&self) -> usize {
        self.list() + self.fine.div_ceil(2)
    }

    /// All words behind the codes.
    pub(in crate::cache) fn words(&self) -> usize {
        self.fine() + self.fine * self.row()
    }
}

/// The pack of some rows, of which the first `skipped` are read elsewhere, and `fine` are fine
/// tokens.
pub(in crate::cache) fn encode(
    behind: Behind,
    bits: u32,
    rows: &[u32],
    skipped: usize,
    fine: &[usize],
) -> Vec<u32> {
    let Behind { segment, dim, keys, .. } = behind;
    let (width, code_words) = (padded(dim), segment * (padded(dim) / 32 * bits as usize));
    let mut words = vec![0; code_words + behind.words()];
    let (codes, tail) = words.split_at_mut(code_words);
    let halves = |token: usize| (0..dim).map(move |channel| half_at(rows, token * width + channel));
    let coded = skipped.min(segment)..segment;
    let mut common = None;
    if keys {
        let shift = shift(coded.clone().flat_map(halves));
        let usual: Vec<usize> = coded.clone().filter(|token| !fine.contains(token)).collect();
        let means = means(&usual, halves, dim, shift);
        for (channel, &mean) in means.iter().enumerate() {
            put_half(&mut tail[behind.scales()..], channel, mean);
        }
        common = Some((shift, means.iter().map(|&mean| aligned(mean, shift)).collect::<Vec<i32>>()));
    }
    for index in 0..behind.fine {
        let token = fine.get(index).and_then(|&token| u16::try_from(token).ok());
        put_half(&mut tail[behind.list()..], index, token.unwrap_or(NONE));
    }
    let (scales, mut row) = (Scales::of(dim), Vec::new());
    for token in coded {
        let (shift, centre) = match &common {
            Some((shift, centre)) => (*shift, Some(&centre[..])),
            None => (shift(halves(token)), None),
        };
        transformed(halves(token), centre, shift, &mut row);
        let scale = scales.scale(&row, shift);
        tail[token / 4] |= u32::from(scale) << (token % 4 * 8);
        let listed = fine.iter().position(|&fine| fine == token);
        scales.codes(&row, shift, scale, |channel, code| {
            quantize::put(codes, bits, token * width + channel, code >> (8 - bits));
            if let Some(index) = listed {
                quantize::put(&mut tail[behind.fine()..], 8, index * width + channel, code);
            }
        });
    }
    words
}

/// The means of each channel over some rows, as f16.
fn means<I: Iterator<Item = u16>>(
    tokens: &[usize],
    halves: impl Fn(usize) -> I,
    dim: usize,
    shift: u32,
) -> Vec<u16> {
    let mut sums = vec![0_i32; dim];
    for &token in tokens {
        // Numbers below 2²¹ of at most 2¹⁰ tokens.
        sums.iter_mut().zip(halves(token)).for_each(|(sum, half)| *sum += aligned(half, shift));
    }
    sums.into_iter().map(|sum| half(mean(sum, tokens.len() as u32), shift)).collect()
}

/// The tokens among some of a segment that have the smallest values, at most so many, in their
/// order; of equal ones the first.
pub(in crate::cache) fn choose(values: &[u32], dim: usize, among: Range<usize>, count: usize) -> Vec<usize> {
    let size = |token: usize| rank((0..dim).map(|channel| half_at(values, token * padded(dim) + channel)));
    let mut ranked: Vec<(u32, usize)> = among.map(|token| (size(token), token)).collect();
    ranked.sort_unstable();
    let mut chosen: Vec<usize> = ranked.into_iter().take(count).map(|(_, token)| token).collect();
    chosen.sort_unstable();
    chosen
}

fn put_half(words: &mut [u32], index: usize, half: u16) {
    words[index / 2] |= u32::from(half) << (index % 2 * 16);
}

/// A pack of codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coded<'a> {
    words: &'a [u32],
    behind: Behind,
    bits: u32,
}

impl<'a> Coded<'a> {
    pub(in crate::cache) fn new(words: &'a [u32], behind: Behind, bits: u32) -> Self {
        Self { words, behind, bits }
    }

    fn behind(&self) -> &'a [u32] {
        &self.words[self.words.len() - self.behind.words()..]
    }

    /// The scale of a token.
    pub(crate) fn scale(&self, token: usize) -> u8 {
        (self.behind()[token / 4] >> (token % 4 * 8)) as u8
    }

    /// The means of keys, as f16; none of values.
    pub(crate) fn means(&self) -> &'a [u32] {
        let (from, to) = (self.behind.scales(), self.behind.list());
        &self.behind()[from..to]
    }

    /// The fine tokens, with the words of their codes at 8 bits.
    pub(crate) fn fine_tokens(&self) -> impl Iterator<Item = (usize, &'a [u32])> + use<'a> {
        let (list, codes) = (self.behind.list(), self.behind.fine());
        let (behind, row) = (self.behind(), self.behind.row());
        let listed = (0..self.behind.fine).map(move |index| (index, half_at(&behind[list..], index)));
        listed
            .filter(|&(_, token)| token != NONE)
            .map(move |(index, token)| (usize::from(token), &behind[codes + index * row..][..row]))
    }

    /// The words of the codes of a token.
    pub(crate) fn codes(&self, token: usize) -> &'a [u32] {
        let row = padded(self.behind.dim) / 32 * self.bits as usize;
        &self.words[token * row..][..row]
    }

    /// The code of a token and channel.
    #[cfg(test)]
    pub(super) fn code(&self, token: usize, channel: usize) -> u32 {
        quantize::get(self.codes(token), self.bits, channel)
    }

    /// The row of a token, turned back.
    pub(in crate::cache) fn row(&self, token: usize) -> Vec<f64> {
        let dim = self.behind.dim;
        let fine = self.fine_tokens().find(|&(fine, _)| fine == token);
        let (codes, bits) = fine.map_or((self.codes(token), self.bits), |(_, codes)| (codes, 8));
        let level = |channel| i64::from(codebook::level(quantize::get(codes, bits, channel), bits));
        let mut levels: Vec<i64> = (0..dim).map(level).collect();
        transform(&mut levels);
        let scale = Scales::of(dim).number(self.scale(token)) / (block(dim) as f64).sqrt();
        let unit = scale / f64::from(1 << LEVEL_BITS);
        let mean = |channel: usize| match self.means() {
            [] => 0.0,
            means => to_f32(half_at(means, channel)).into(),
        };
        levels.iter().enumerate().map(|(channel, &y)| mean(channel) + y as f64 * unit).collect()
    }
}
