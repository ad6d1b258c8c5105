//! The words of a corpus on a device.

use std::ops::Range;

use super::packed::{Packed, ROW_BYTES, written};
use super::programs::{LONGEST, Subword};
use super::segmenter::{GpuSegmenter, numbers};
use crate::error::Result;
use crate::runtime::context::Context;
use crate::runtime::program::Program;
use crate::subword::corpus::Recount;
use crate::subword::segmenter::{Segmentation, Segmenter, Steps};
use crate::subword::word_counts::WordCounts;

/// The words of a table on a device, to be cut again and again: they are uploaded once.
///
/// Cuts, counts and objective are the host's, bit for bit ([`Segmenter::recount`]), whatever the
/// device. Words of more than 32 bytes are cut by the host while the device cuts the others; and so
/// are all words of a table whose [`total_bytes`](WordCounts::total_bytes) don't fit 64 bits, since
/// the device counts in as many.
///
/// Words lie sorted by length in groups of 64, four bytes a number, behind their lengths and
/// counts: 12 bytes a word and its own, rounded up to fours. There are as many buffers as lengths
/// and the device's limits for bindings make necessary.
#[derive(Debug)]
pub struct GpuWords<'w> {
    context: Context,
    words: &'w WordCounts,
    /// The numbers of the words on the device, as they lie there.
    order: Vec<usize>,
    lots: Vec<Lot>,
    /// The numbers of those that the host cuts.
    others: Vec<usize>,
}

/// Words of as many rows, within one buffer.
#[derive(Debug)]
struct Lot {
    packed: Packed,
    /// The places of the words in the order.
    places: Range<usize>,
}

/// What a run over all words leaves on the device.
struct Ran {
    /// Two numbers a piece.
    usage: wgpu::Buffer,
    /// The cuts of each lot, a number a word.
    cuts: Vec<wgpu::Buffer>,
}

impl<'w> GpuWords<'w> {
    /// Uploads words with their counts.
    ///
    /// # Errors
    /// Too large (`words`) if the device can't even bind 64 words at once; out of memory; device
    /// lost.
    pub fn new(context: &Context, words: &'w WordCounts) -> Result<Self> {
        let (mut order, mut others): (Vec<usize>, Vec<usize>) =
            (0..words.len()).partition(|&index| words.get(index).0.len() <= LONGEST);
        // No count of a piece is larger: a piece comes at most once for each byte.
        let bytes: u128 =
            order.iter().map(|&index| words.get(index)).map(|(w, n)| w.len() as u128 * u128::from(n)).sum();
        if bytes > u128::from(u64::MAX) {
            others = (0..words.len()).collect();
            order.clear();
        }
        order.sort_by_key(|&index| words.get(index).0.len());
        let rows = |&index: &usize| words.get(index).0.len().div_ceil(ROW_BYTES);
        let program = Subword::Segment { fewest: false };
        let (mut lots, mut begin) = (Vec::new(), 0);
        for equal in order.chunk_by(|a, b| rows(a) == rows(b)) {
            let rows = rows(&equal[0]);
            for lot in equal.chunks(Packed::most(context, "words", program, rows)?) {
                let items = lot.iter().map(|&index| {
                    let (word, count) = words.get(index);
                    ([count as u32, (count >> 32) as u32], word)
                });
                let packed = Packed::new(context, rows, items)?;
                lots.push(Lot { packed, places: begin..begin + lot.len() });
                begin += lot.len();
            }
        }
        Ok(Self { context: context.clone(), words, order, lots, others })
    }

    /// The table of words that is on the device.
    pub(in crate::subword) fn words(&self) -> &'w WordCounts {
        self.words
    }

    /// The device's context.
    #[cfg(not(target_arch = "wasm32"))]
    pub(in crate::subword) fn context(&self) -> &Context {
        &self.context
    }

    /// How many of the words the device cuts; the host cuts the others.
    pub fn on_device(&self) -> usize {
        self.order.len()
    }

    /// How often each piece is used in the cuts of all words, and what they cost.
    ///
    /// # Errors
    /// Other device (`segmenter`); out of memory; device lost.
    pub async fn recount(&self, segmenter: &GpuSegmenter<'_>) -> Result<Recount> {
        self.recount_by(&program(segmenter.segmenter()), segmenter).await
    }

    /// [`recount`](GpuWords::recount), blocking.
    ///
    /// # Errors
    /// As [`recount`](GpuWords::recount).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn recount_blocking(&self, segmenter: &GpuSegmenter<'_>) -> Result<Recount> {
        pollster::block_on(self.recount(segmenter))
    }

    /// The cut of each word, in the order of the table.
    ///
    /// # Errors
    /// As [`recount`](GpuWords::recount).
    pub async fn cuts(&self, segmenter: &GpuSegmenter<'_>) -> Result<Vec<Segmentation>> {
        self.cuts_by(&program(segmenter.segmenter()), segmenter).await
    }

    /// [`cuts`](GpuWords::cuts), blocking.
    ///
    /// # Errors
    /// As [`recount`](GpuWords::recount).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn cuts_blocking(&self, segmenter: &GpuSegmenter<'_>) -> Result<Vec<Segmentation>> {
        pollster::block_on(self.cuts(segmenter))
    }

    pub(super) async fn recount_by(
        &self,
        program: &dyn Program,
        segmenter: &GpuSegmenter<'_>,
    ) -> Result<Recount> {
        let Ran { usage, .. } = self.run(program, segmenter)?;
        let segmenter = segmenter.segmenter();
        // Meanwhile the host cuts what is left to it.
        let Recount { mut counts, mut objective } =
            segmenter.recount_each(self.others.iter().map(|&index| self.words.get(index)));
        let bytes = self.context.read_buffer(&usage, 0, 8 * counts.len() as u64).await?;
        let halves: Vec<u32> = numbers(&bytes).collect();
        for ((count, halves), &cost) in
            counts.iter_mut().zip(halves.as_chunks().0).zip(segmenter.costs().of_pieces())
        {
            let [low, high] = *halves;
            let used = u64::from(high) << 32 | u64::from(low);
            objective += u128::from(used) * u128::from(cost);
            *count = count.saturating_add(used);
        }
        Ok(Recount { counts, objective })
    }

    pub(super) async fn cuts_by(
        &self,
        program: &dyn Program,
        segmenter: &GpuSegmenter<'_>,
    ) -> Result<Vec<Segmentation>> {
        let Ran { cuts, .. } = self.run(program, segmenter)?;
        let segmenter = segmenter.segmenter();
        let none = Segmentation { pieces: Vec::new(), cost: 0 };
        let mut all = vec![none; self.words.len()];
        for &index in &self.others {
            all[index] = segmenter.segment(self.words.get(index).0);
        }
        for (lot, cuts) in self.lots.iter().zip(cuts) {
            let order = &self.order[lot.places.clone()];
            let bytes = self.context.read_buffer(&cuts, 0, 4 * order.len() as u64).await?;
            for (&index, ends) in order.iter().zip(numbers(&bytes)) {
                all[index] = cut_at(segmenter, self.words.get(index).0, ends);
            }
        }
        Ok(all)
    }

    /// Submits the work of the device.
    fn run(&self, program: &dyn Program, segmenter: &GpuSegmenter<'_>) -> Result<Ran> {
        let context = &self.context;
        context.check_device("segmenter", segmenter.context().device_id())?;
        let usage = written(context, 8 * segmenter.segmenter().vocabulary().len() as u64)?;
        let cuts = self.lots.iter().map(|lot| lot.packed.numbers(context)).collect::<Result<Vec<_>>>()?;
        let written: Vec<[&wgpu::Buffer; 2]> = cuts.iter().map(|cuts| [&usage, cuts]).collect();
        let lots = self.lots.iter().zip(&written).map(|(lot, written)| (&lot.packed, &written[..]));
        segmenter.run(&*context.pipeline(program)?, lots)?;
        Ok(Ran { usage, cuts })
    }
}

fn program(segmenter: &Segmenter) -> Subword {
    Subword::Segment { fewest: segmenter.steps() == Steps::Fewest }
}

/// A word in pieces that end at the positions whose bits are set.
fn cut_at(segmenter: &Segmenter, word: &[u8], ends: u32) -> Segmentation {
    let mut begin = 0;
    let mut pieces = Vec::with_capacity(ends.count_ones() as usize);
    for end in (1..=word.len()).filter(|end| ends >> (end - 1) & 1 == 1) {
        pieces.extend(segmenter.vocabulary().number(&word[begin..end]));
        begin = end;
    }
    let cost = pieces.iter().map(|&piece| segmenter.costs().of(piece)).sum();
    Segmentation { pieces, cost }
}
