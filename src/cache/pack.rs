//! Where the words of one segment lie.

use super::codec::Codec;
use super::ladder::Side;
use super::quantize::{self, Extremes};
use super::rotated::{self, Behind, Coded};
use super::staircase::Staircase;
use super::words::{half_at, padded};
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_ELEMENTS, MAX_PACKED_DIM};
use crate::sampling::content::packed;

/// The words of a *pack*: one segment (S tokens) of one key/value head of one sequence, keys or
/// values, at one width. The same on host and GPU.
///
/// D channels are padded to D', a multiple of 32. At b = 8, 4, 3 or 2 bits a pack of
/// [`Codec::MinMax`] is two parts:
///
/// ```text
/// codes     S·D'·b/32 words     code i at the bits b·i .. b·(i + 1), least significant first
/// extremes  S·D'/G words        min | max << 16, as f16, of group i/G
///
///           keys                               values
/// group     G tokens × 1 channel               1 token × G channels
/// i         (⌊t/G⌋·D' + c)·G + t mod G         t·D' + c
/// ```
///
/// so that the codes of every group are G·b/32 whole, adjacent words, and stepping down keeps the
/// order: 32 codes are b words before and b' words after. At 16 bits a pack is S rows of D' f16
/// numbers, two to a word, with no extremes (as are the rows of the residual and of the sinks); at
/// 0 bits it has no words.
///
/// Packs of keys end with their summaries, if the staircase
/// [has them](Staircase::with_summaries), the same at every width but 0: for each group of tokens
/// `D'/2 + 2` words, which are codes of means (i8, four to a word), codes of reaches (u8, alike),
/// and as f32 the step between codes of means and that between codes of reaches.
///
/// Channels past D hold code 0 (or +0) and take no part in extremes.
///
/// A pack of [`Codec::Rotated`] with F fine tokens is codes of *rotated* channels and, the same at
/// every width, what is behind them:
///
/// ```text
/// codes     S·D'·b/32 words     code i = t·D' + c at the bits b·i .. b·(i + 1)
/// scales    S/4 words           of token t: byte t, the first in the lowest bits
/// means     D'/2 words          of keys alone: f16 of each channel, not rotated
/// list      ⌈F/2⌉ words         16 bits each: which tokens are fine ones, 65,535 for none
/// fine      F·D'/4 words        their codes at 8 bits
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLayout {
    side: Side,
    bits: u32,
    segment: usize,
    group: usize,
    dim: usize,
    /// Tokens of a group with a summary; 0 without summaries.
    summarized: usize,
    codec: Codec,
}

/// A number as a cache holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    /// The bits of an f16 number.
    Half(u16),
    /// A code, with the extremes of its group.
    Code {
        /// The extremes of its group.
        extremes: Extremes,
        /// The code.
        code: u32,
        /// The width of the code.
        bits: u32,
    },
    /// A channel of a rotated row, turned back.
    Turned(f64),
}

impl Element {
    /// The number in f32, as [`Extremes::value`] computes it.
    pub fn to_f32(self) -> f32 {
        match self {
            Element::Half(half) => quantize::to_f32(half),
            Element::Code { extremes, code, bits } => extremes.value(code, bits),
            Element::Turned(number) => number as f32,
        }
    }

    /// The number in f64, as [`Extremes::exact`] computes it.
    pub fn to_f64(self) -> f64 {
        match self {
            Element::Half(half) => quantize::to_f32(half).into(),
            Element::Code { extremes, code, bits } => extremes.exact(code, bits),
            Element::Turned(number) => number,
        }
    }
}

impl PackLayout {
    /// Of a staircase's keys or values at `bits`, for `dim` channels.
    ///
    /// # Errors
    /// Invalid argument (`bits`) unless 16, 8, 4, 3, 2 or 0; (`dim`) unless 1 to 256; (`group`)
    /// unless it divides the padded channels, where values are grouped along them by their
    /// extremes; too large
    /// (`segment`) where the numbers of a pack are past 32-bit indices.
    pub fn new(staircase: &Staircase, side: Side, bits: u32, dim: usize) -> Result<Self> {
        ensure!(matches!(bits, 16 | 8 | 4 | 3 | 2 | 0), "bits", "expected 16, 8, 4, 3, 2 or 0, got {bits}");
        ensure!((1..=MAX_PACKED_DIM).contains(&dim), "dim", "expected 1 to {MAX_PACKED_DIM}, got {dim}");
        let (group, codec) = (staircase.group(), staircase.codec());
        ensure!(
            side == Side::Keys || codec.is_rotated() || padded(dim).is_multiple_of(group),
            "group",
            "expected a divisor of {} (value channels, padded to a multiple of 32), got {group}",
            padded(dim)
        );
        let segment = staircase.segment();
        if segment as u64 * padded(dim) as u64 > MAX_ELEMENTS as u64 {
            let message = format!("{segment} tokens of {} channels are past 32-bit indices", padded(dim));
            return Err(Error::too_large("segment", message));
        }
        let summarized = staircase.summaries().filter(|_| side == Side::Keys).unwrap_or(0);
        Ok(Self { side, bits, segment, group, dim, summarized, codec })
    }

    /// The same at another width.
    pub(crate) fn with_bits(self, bits: u32) -> Self {
        Self { bits, ..self }
    }

    /// Bits of a code (or 16, or 0).
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// S, how many tokens a segment has.
    pub(crate) fn segment(&self) -> usize {
        self.segment
    }

    /// Words of a pack.
    pub fn words(&self) -> usize {
        self.summary_base() + self.summary_words()
    }

    /// Words of its codes (or rows) and of extremes, or scales and what follows them: its summaries
    /// follow.
    pub(crate) fn summary_base(&self) -> usize {
        let behind = match (self.is_coded(), self.behind()) {
            (false, _) => 0,
            (true, Some(behind)) => behind.words(),
            (true, None) => self.segment * padded(self.dim) / self.group,
        };
        self.code_words() + behind
    }

    /// Words of its summaries.
    pub(crate) fn summary_words(&self) -> usize {
        match self.summarized {
            0 => 0,
            _ if self.bits == 0 => 0,
            tokens => self.segment / tokens * packed::words(padded(self.dim)),
        }
    }

    /// The words of the summary of each group of tokens, in a pack.
    pub(crate) fn summaries<'a>(&self, words: &'a [u32]) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        words[self.summary_base()..][..self.summary_words()].chunks_exact(packed::words(padded(self.dim)))
    }

    /// Summaries of rows of D' f16 numbers, behind what a pack has of them.
    fn summarize(&self, rows: &[u32], words: &mut Vec<u32>) {
        if self.summary_words() == 0 {
            return;
        }
        let dim = padded(self.dim);
        for first in (0..self.segment).step_by(self.summarized) {
            let [mut least, mut largest, mut sums] =
                [f32::INFINITY, f32::NEG_INFINITY, 0.0].map(|x| vec![x; dim]);
            for token in first..first + self.summarized {
                for channel in 0..dim {
                    let x = quantize::to_f32(half_at(rows, token * dim + channel));
                    least[channel] = least[channel].min(x);
                    largest[channel] = largest[channel].max(x);
                    sums[channel] += x;
                }
            }
            words.extend(packed::pack(&least, &largest, &sums, self.summarized));
        }
    }

    /// Words of its codes (or f16 numbers); the extremes or scales follow.
    pub fn code_words(&self) -> usize {
        self.segment * (padded(self.dim) / 32 * self.bits as usize)
    }

    /// Which code of the pack (or f16 number) belongs to a token of the segment and a channel,
    /// padding included; `usize::MAX` where the pack has no such token or channel.
    pub fn index(&self, token: usize, channel: usize) -> usize {
        let dim = padded(self.dim);
        if token >= self.segment || channel >= dim {
            return usize::MAX;
        }
        match self.side {
            Side::Keys if self.is_coded() && !self.codec.is_rotated() => {
                (token / self.group * dim + channel) * self.group + token % self.group
            }
            _ => token * dim + channel,
        }
    }

    /// What is behind the codes of a rotated pack.
    pub(super) fn behind(&self) -> Option<Behind> {
        let Codec::Rotated { fine_tokens } = self.codec else { return None };
        Some(Behind::new(self.segment, self.dim, self.side == Side::Keys, fine_tokens))
    }

    /// A pack of rotated codes, if it is one.
    pub(crate) fn coded<'a>(&self, words: &'a [u32]) -> Option<Coded<'a>> {
        let behind = self.behind().filter(|_| self.is_coded())?;
        Some(Coded::new(words.get(..self.summary_base())?, behind, self.bits))
    }

    /// The numbers of a token of a pack.
    pub(crate) fn elements(&self, words: &[u32], token: usize, mut visit: impl FnMut(Element)) {
        match self.coded(words) {
            Some(coded) => coded.row(token).into_iter().for_each(|number| visit(Element::Turned(number))),
            None => (0..self.dim).for_each(|channel| visit(self.element(words, token, channel))),
        }
    }

    /// One number of a pack that isn't rotated.
    fn element(&self, words: &[u32], token: usize, channel: usize) -> Element {
        let index = self.index(token, channel);
        if !self.is_coded() {
            return Element::Half(half_at(words, index));
        }
        Element::Code {
            extremes: Extremes::from_word(words[self.code_words() + index / self.group]),
            code: quantize::get(words, self.bits, index),
            bits: self.bits,
        }
    }

    /// The pack of S rows of D' f16 numbers, of which the first `sinks` are read from copies, and
    /// `fine` are the fine tokens of rotated codes.
    pub(crate) fn quantize(&self, rows: &[u32], sinks: usize, fine: &[usize]) -> Vec<u32> {
        let dim = padded(self.dim);
        if let Some(behind) = self.behind().filter(|_| self.is_coded()) {
            let mut words = rotated::encode(behind, self.bits, rows, sinks, fine);
            self.summarize(rows, &mut words);
            return words;
        }
        if !self.is_coded() {
            let mut words = rows[..self.code_words()].to_vec();
            self.summarize(rows, &mut words);
            return words;
        }
        let mut words = vec![0; self.summary_base()];
        let half = |token: usize, channel: usize| half_at(rows, token * dim + channel);
        let mut group = |members: &mut dyn Iterator<Item = (usize, usize)>| {
            let members: Vec<(usize, usize)> = members.collect();
            let extremes = Extremes::of(members.iter().map(|&(t, c)| half(t, c)));
            let scaled = extremes.scaled();
            for &(t, c) in &members {
                let index = self.index(t, c);
                quantize::put(&mut words, self.bits, index, scaled.code(half(t, c), self.bits));
                words[self.code_words() + index / self.group] = extremes.to_word();
            }
        };
        match self.side {
            Side::Keys => {
                for first in (0..self.segment).step_by(self.group) {
                    (0..self.dim).for_each(|c| group(&mut (first..first + self.group).map(|t| (t, c))));
                }
            }
            Side::Values => {
                for t in 0..self.segment {
                    for first in (0..self.dim).step_by(self.group) {
                        group(&mut (first..(first + self.group).min(self.dim)).map(|c| (t, c)));
                    }
                }
            }
        }
        self.summarize(rows, &mut words);
        words
    }

    /// The pack at a narrower width; of its tokens the first `sinks` are read from copies.
    pub(crate) fn step_down(&self, words: &[u32], to: u32, sinks: usize) -> Vec<u32> {
        let narrow = self.with_bits(to);
        if !self.is_coded() || !narrow.is_coded() {
            // What leaves 16 bits for rotated codes has no fine tokens (`Staircase`).
            return narrow.quantize(words, sinks, &[]);
        }
        let narrowed = |code: u32| match self.codec {
            Codec::MinMax => quantize::step_down(code, self.bits, to),
            Codec::Rotated { .. } => code >> (self.bits - to),
        };
        let mut stepped = vec![0; narrow.words()];
        for index in 0..self.segment * padded(self.dim) {
            let code = quantize::get(words, self.bits, index);
            quantize::put(&mut stepped, to, index, narrowed(code));
        }
        stepped[narrow.code_words()..].copy_from_slice(&words[self.code_words()..]);
        stepped
    }

    fn is_coded(&self) -> bool {
        !matches!(self.bits, 0 | 16)
    }
}
