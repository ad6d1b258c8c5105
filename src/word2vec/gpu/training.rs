//! A training under way.

use super::programs::Word2vec;
use super::step::Step;
use crate::error::{Error, Result};
use crate::runtime::context::Context;
use crate::runtime::program::Program;
use crate::word2vec::batch::{Batch, Batches};
use crate::word2vec::corpus::Corpus;
use crate::word2vec::draws::first_weight;
use crate::word2vec::options::Options;
use crate::word2vec::vectors::WordVectors;

/// Batches after which a training waits for the device, and looks whether it diverges.
const CHECKED: usize = 64;

/// How far a training is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The epoch that comes next, or is under way.
    pub epoch: u32,
    /// The batch of it that comes next.
    pub batch: u32,
    /// Tokens of the corpus that were gone through, those of all epochs, before subsampling.
    pub tokens: u64,
    /// The number of tokens at the end.
    pub of_tokens: u64,
    /// The learning rate of the next batch.
    pub rate: f64,
}

/// A training on a device.
///
/// ```
/// use prflash::word2vec::{Architecture, Corpus, CorpusOptions, Options, Training};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let context = match prflash::Context::new_blocking() {
/// #     Ok(context) => context,
/// #     Err(error) if error.is_no_adapter() => return Ok(println!("no GPU here: {error}")),
/// #     Err(error) => return Err(error.into()),
/// # };
/// let text = "the cat sat on the mat\nthe dog sat on the rug\n".repeat(50);
/// let corpus = Corpus::read(text.as_bytes(), CorpusOptions::new())?;
/// let options = Options::new(Architecture::SkipGram).with_dimension(8)?.with_sample(0.0)?;
/// let mut training = Training::new(&context, &corpus, options)?;
/// while !training.is_done() {
///     let progress = training.advance_blocking(64)?;
///     println!("{} of {} tokens", progress.tokens, progress.of_tokens);
/// }
/// let vectors = training.vectors_blocking()?;
/// assert_eq!((vectors.len(), vectors.dimension()), (7, 8));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Training<'c> {
    pub(super) context: Context,
    pub(super) corpus: &'c Corpus,
    pub(super) options: Options,
    batches: Batches<'c>,
    pub(super) step: Step,
    /// What comes next: an epoch, and a batch of it.
    pub(super) place: (u32, u32),
    /// The place of the weights that are kept.
    kept: (u32, u32),
    next: Batch,
}

impl<'c> Training<'c> {
    /// Makes ready: word vectors even between −1/2 and 1/2 over the dimension, output weights 0.
    ///
    /// Weights and those that are kept for when a training diverges take 16 bytes for each number
    /// of the word vectors. A batch takes about 12 bytes for each of its tokens and numbers of a
    /// vector.
    ///
    /// # Errors
    /// Too large (`dimension`, `batch`) if the device can't bind the weights or what a batch takes;
    /// out of memory; device lost.
    pub fn new(context: &Context, corpus: &'c Corpus, options: Options) -> Result<Self> {
        let training = Self::with_programs(context, corpus, options, &|program| Box::new(program))?;
        let rows = 0..corpus.vocabulary().len() as u32;
        let columns = options.dimension as u32;
        let first = rows.flat_map(|row| (0..columns).map(move |column| first_weight(&options, row, column)));
        let outputs = vec![0.0; corpus.vocabulary().len() * options.dimension];
        training.step.write(context, [&first.collect::<Vec<f32>>(), &outputs])?;
        training.step.keep(context)?;
        Ok(training)
    }

    /// A training with weights that are yet to be written.
    pub(super) fn with_programs(
        context: &Context,
        corpus: &'c Corpus,
        options: Options,
        program: &dyn Fn(Word2vec) -> Box<dyn Program>,
    ) -> Result<Self> {
        Ok(Self {
            context: context.clone(),
            corpus,
            options,
            batches: Batches::new(corpus, &options),
            step: Step::new(context, &options, corpus.vocabulary().len(), program)?,
            place: (0, 0),
            kept: (0, 0),
            next: Batch::default(),
        })
    }

    /// What is trained, and how.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// How far the training is.
    pub fn progress(&self) -> Progress {
        let (epoch, batch) = self.place;
        let each = self.corpus.tokens().len() as u64;
        let within = (u64::from(batch) * self.options.batch as u64).min(each);
        Progress {
            epoch,
            batch,
            tokens: u64::from(epoch) * each + within,
            of_tokens: u64::from(self.options.epochs) * each,
            rate: self.batches.rate(epoch, batch),
        }
    }

    /// Whether all epochs are over.
    pub fn is_done(&self) -> bool {
        self.place.0 == self.options.epochs
    }

    /// The batch that comes next, as the kernels will read it; that of no centres when it is done.
    pub fn next_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        if !self.is_done() {
            self.batches.make(self.place.0, self.place.1, &mut batch);
        }
        batch
    }

    /// Trains so many batches more, or those that are left, and waits for them. Call it again and
    /// again, with as many batches as take about a second: what is done between two calls (showing
    /// the progress, writing a checkpoint, stopping) costs little then.
    ///
    /// # Errors
    /// Diverged, with the batch, if a weight became 1,000 or more, or no number: the training goes
    /// back to where it was before this call, or up to 64 batches if they are more. Out of memory;
    /// device lost.
    pub async fn advance(&mut self, batches: usize) -> Result<Progress> {
        let mut left = batches;
        while left > 0 && !self.is_done() {
            // What is uploaded waits for the device: so much of it may.
            let some = left.min(CHECKED);
            self.advance_checked(some).await?;
            left -= some;
        }
        Ok(self.progress())
    }

    /// The same of a few batches.
    async fn advance_checked(&mut self, batches: usize) -> Result<()> {
        let of_epoch = self.batches.of_epoch();
        for since in 0..batches as u32 {
            if self.is_done() {
                break;
            }
            let (epoch, batch) = self.place;
            self.batches.make(epoch, batch, &mut self.next);
            let rate = self.batches.rate(epoch, batch) as f32;
            self.step.submit(&self.context, &self.next, rate, since)?;
            self.place = if batch + 1 == of_epoch { (epoch + 1, 0) } else { (epoch, batch + 1) };
        }
        if let Some(since) = self.step.diverged(&self.context).await? {
            let number = u64::from(self.kept.1) + u64::from(since);
            let epoch = self.kept.0 + (number / u64::from(of_epoch)) as u32;
            let batch = (number % u64::from(of_epoch)) as u32;
            self.step.restore(&self.context)?;
            self.place = self.kept;
            return Err(Error::diverged(format!(
                "batch {batch} of epoch {epoch} made a weight too large at a learning rate of {:.4}; a lower \
                 rate, a lower cap or smaller batches may help",
                self.batches.rate(epoch, batch)
            )));
        }
        self.step.keep(&self.context)?;
        self.kept = self.place;
        Ok(())
    }

    /// [`advance`](Training::advance), blocking.
    ///
    /// # Errors
    /// As [`advance`](Training::advance).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn advance_blocking(&mut self, batches: usize) -> Result<Progress> {
        pollster::block_on(self.advance(batches))
    }

    /// The vectors of the words as they are now, with the words' counts.
    ///
    /// # Errors
    /// Out of memory; device lost.
    pub async fn vectors(&self) -> Result<WordVectors> {
        let vocabulary = self.corpus.vocabulary();
        let values = self.step.read(&self.context, 0).await?;
        WordVectors::new(vocabulary.words(), self.options.dimension, values)?
            .with_counts(vocabulary.counts().to_vec())
    }

    /// [`vectors`](Training::vectors), blocking.
    ///
    /// # Errors
    /// As [`vectors`](Training::vectors).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn vectors_blocking(&self) -> Result<WordVectors> {
        pollster::block_on(self.vectors())
    }

    /// Goes on at a place with the weights of it.
    pub(super) fn set(&mut self, place: (u32, u32), weights: [&[f32]; 2]) -> Result<()> {
        self.step.write(&self.context, weights)?;
        self.step.keep(&self.context)?;
        (self.place, self.kept) = (place, place);
        Ok(())
    }

    /// Whether there is such a place.
    pub(super) fn has(&self, (epoch, batch): (u32, u32)) -> bool {
        let end = (self.options.epochs, 0);
        (epoch, batch) == end || epoch < self.options.epochs && batch < self.batches.of_epoch()
    }
}
