//! What cuts the words of a training again and again: threads of the host, or a GPU.

use std::num::NonZeroUsize;

use crate::error::Result;
use crate::subword::corpus::{Corpus, Recount};
#[cfg(not(target_arch = "wasm32"))]
use crate::subword::gpu::segmenter::GpuSegmenter;
#[cfg(not(target_arch = "wasm32"))]
use crate::subword::gpu::words::GpuWords;
use crate::subword::segmenter::Segmenter;
use crate::subword::word_counts::WordCounts;

/// What recounts the words of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecountedBy {
    /// The threads of the host.
    Host,
    /// The device that the training was given.
    Gpu,
}

/// How many distinct words are cut a second: one recount of all words by the vocabulary that a
/// training begins with, uploads and readback included.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RecountRates {
    /// Words a second by the threads of the host.
    pub host: f64,
    /// By the device, whose kernels are compiled by then.
    pub gpu: f64,
}

/// The words of a training, and what recounts them.
pub(super) struct Recounter<'w> {
    pub(super) corpus: Corpus<'w>,
    #[cfg(not(target_arch = "wasm32"))]
    gpu: Option<GpuWords<'w>>,
    pub(super) rates: Option<RecountRates>,
}

impl<'w> Recounter<'w> {
    /// A recounter of so many threads of the host.
    pub(super) fn host(words: &'w WordCounts, threads: NonZeroUsize) -> Self {
        Self {
            corpus: Corpus::new(words, threads),
            #[cfg(not(target_arch = "wasm32"))]
            gpu: None,
            rates: None,
        }
    }

    /// A recounter on a device.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn gpu(words: GpuWords<'w>, threads: NonZeroUsize) -> Self {
        let corpus = Corpus::new(words.words(), threads);
        Self { corpus, gpu: Some(words), rates: None }
    }

    /// By a device or by the host, whichever recounts faster by this segmenter.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn faster(words: GpuWords<'w>, threads: NonZeroUsize, segmenter: &Segmenter) -> Result<Self> {
        let count = words.words().len() as f64;
        let mut this = Self::gpu(words, threads);
        // Kernels are compiled in the first one.
        this.recount(segmenter)?;
        let rate = |begin: std::time::Instant| count / begin.elapsed().as_secs_f64();
        let begin = std::time::Instant::now();
        this.recount(segmenter)?;
        let gpu = rate(begin);
        let begin = std::time::Instant::now();
        this.corpus.recount(segmenter);
        let host = rate(begin);
        if host >= gpu {
            this.gpu = None;
        }
        this.rates = Some(RecountRates { host, gpu });
        Ok(this)
    }

    /// Who recounts the words.
    pub(super) fn by(&self) -> RecountedBy {
        #[cfg(not(target_arch = "wasm32"))]
        if self.gpu.is_some() {
            return RecountedBy::Gpu;
        }
        RecountedBy::Host
    }

    /// How often each piece is used, and what all words cost.
    pub(super) fn recount(&self, segmenter: &Segmenter) -> Result<Recount> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(words) = &self.gpu {
            return words.recount_blocking(&GpuSegmenter::new(words.context(), segmenter)?);
        }
        Ok(self.corpus.recount(segmenter))
    }
}
