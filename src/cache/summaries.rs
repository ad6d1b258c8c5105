//! Summaries of the keys of a cache in host memory: those that it stores, or the extremes of what
//! it holds.

use super::host_cache::HostCache;
use super::ladder::Side;
use super::pack::{Element, PackLayout};
use super::quantize::to_f32;
use super::sequence::{Sequence, Store, StoredKeys};
use super::sequence_table::SequenceId;
use super::standing::Standing;
use super::words::padded;
use crate::error::{Result, ensure};
use crate::sampling::content::KeySummaries;

impl HostCache {
    /// Summaries of the keys of a sequence. Groups of dropped tokens have no mass.
    ///
    /// Of a staircase [with summaries](super::Staircase::with_summaries) these are what is stored:
    /// groups of the segments that have left the residual, in 8 bits, and nothing of the later
    /// keys. Of others they are in groups of as many tokens as the staircase has: of coded tokens
    /// the extremes that are stored, of f16 ones those of their rows.
    ///
    /// # Errors
    /// Invalid argument (`stored_keys`) for keys before rotation, whose extremes say nothing of
    /// scores; (`sequence`) if there is none such.
    pub fn summarize(&self, sequence: SequenceId) -> Result<KeySummaries> {
        let rotated = self.form.keys == StoredKeys::AfterRotation;
        ensure!(rotated, "stored_keys", "expected keys after rotation, got {:?}", self.form.keys);
        let (standing, held) = (self.standing(sequence)?, self.sequences.get(sequence)?);
        let (layout, dim) = (self.form.layouts()?[Side::Keys as usize], self.dim(Side::Keys));
        if let Some(group) = self.form.staircase.summaries() {
            let known = standing.segments() * self.form.staircase.segment();
            let head = |head| self.stored_summaries(held, &standing, layout, head);
            let heads = (0..self.kv_heads()).map(head);
            return Ok(KeySummaries::from_packed(dim, padded(dim), group, known, held.len, heads));
        }
        let group = self.form.staircase.group();
        let head = |head: usize| {
            let store = &held.stores[2 * head + Side::Keys as usize];
            let groups = (0..held.len).step_by(group);
            groups.flat_map(|first| store.key_extremes(&standing, layout, first, group, dim)).collect()
        };
        Ok(KeySummaries::from_extremes(dim, group, held.len, (0..self.kv_heads()).map(head)))
    }

    /// The words of the summaries of one head; none for those of dropped tokens.
    fn stored_summaries<'a>(
        &self,
        held: &'a Sequence,
        standing: &Standing<'_>,
        layout: PackLayout,
        head: usize,
    ) -> Vec<&'a [u32]> {
        let groups = self.form.staircase.summaries().map_or(0, |tokens| layout.segment() / tokens);
        let mut words = vec![&[][..]; standing.dropped_segments() * groups];
        let first = standing.dropped_segments();
        let packs = &held.stores[2 * head + Side::Keys as usize].packs;
        for (segment, pack) in (first..).zip(packs) {
            let rung = standing.segment_rung(Side::Keys, segment).unwrap_or(0);
            let bits = self.form.staircase.ladder(Side::Keys).rungs()[rung].bits;
            words.extend(layout.with_bits(bits).summaries(pack));
        }
        words
    }
}

impl Store {
    /// The least and the largest number of every channel in the group of keys that begins with
    /// token `first`: +∞ and −∞ where all of them were dropped.
    fn key_extremes(
        &self,
        standing: &Standing<'_>,
        layout: PackLayout,
        first: usize,
        group: usize,
        dim: usize,
    ) -> Vec<(f32, f32)> {
        let mut extremes = vec![(f32::INFINITY, f32::NEG_INFINITY); dim];
        let mut widen = |channel: usize, least: f32, largest: f32| {
            let (low, high) = extremes[channel];
            extremes[channel] = (low.min(least), high.max(largest));
        };
        let mut coded = false;
        for token in first..(first + group).min(standing.len()) {
            // Codes of a group share their extremes.
            let precise = standing.sinks().contains(&token) || standing.residual().contains(&token);
            if coded && !precise {
                continue;
            }
            let mut channel = 0;
            self.read(standing, Side::Keys, layout, token, dim, |element| {
                match element {
                    Element::Half(half) => widen(channel, to_f32(half), to_f32(half)),
                    Element::Turned(number) => widen(channel, number as f32, number as f32),
                    Element::Code { extremes, .. } => {
                        let [least, largest] = [extremes.min, extremes.max].map(to_f32);
                        widen(channel, least, largest);
                        coded = true;
                    }
                }
                channel += 1;
            });
        }
        extremes
    }
}
