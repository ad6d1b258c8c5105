//! Texts to ids and back.

mod cache;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::cache::{Cache, Key};
use super::bpe::Merges;
use super::pretokenize::Pattern;
use super::segmenter::{Scratch, Segmenter};
use crate::error::{Error, Result};

/// How the words of a text are cut into pieces.
#[derive(Clone, Debug, PartialEq)]
pub enum Model {
    /// Words are cut at the least cost.
    Segmenter(Segmenter),
    /// Words are cut by merges.
    Merges(Merges),
}

impl From<Segmenter> for Model {
    fn from(segmenter: Segmenter) -> Self {
        Self::Segmenter(segmenter)
    }
}

impl From<Merges> for Model {
    fn from(merges: Merges) -> Self {
        Self::Merges(merges)
    }
}

impl Model {
    /// How many pieces there are; ids are below.
    #[allow(clippy::len_without_is_empty)] // it has the bytes
    pub fn len(&self) -> usize {
        match self {
            Self::Segmenter(segmenter) => segmenter.vocabulary().len(),
            Self::Merges(merges) => merges.pieces(),
        }
    }

    /// The bytes of a piece; none for an id that no piece has.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        match self {
            Self::Segmenter(segmenter) => {
                Some(segmenter.vocabulary().piece(id)).filter(|piece| !piece.is_empty())
            }
            Self::Merges(merges) => merges.piece(id),
        }
    }

    fn encode_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match self {
            Self::Segmenter(segmenter) => _ = segmenter.segment_into(word, scratch, ids),
            Self::Merges(merges) => merges.encode_word(word, ids),
        }
    }
}

/// Encodes texts as ids of pieces, and decodes ids.
///
/// A text is cut into words by a [`Pattern`], and each word into pieces by a [`Model`]. Whatever
/// the bytes of a text are, decoding its ids gives them back: no byte is unknown, and nothing is
/// normalized. There are no special tokens; give those that a model needs ids from
/// [`Model::len`] on.
///
/// Threads may share a tokenizer: each that encodes has a cache of short words of its own, of a
/// bounded size. Time is linear in a text, apart from a logarithm for long words by merges and a
/// factor of k for [`Steps::AtMost`](super::Steps::AtMost).
///
/// ```
/// use prflash::subword::{MergesTrainer, Pattern, Tokenizer, WordCounts};
/// let text = "the cat sat on the mat, and the rat sat there";
/// let words = WordCounts::from_text(text.as_bytes(), Pattern::Gpt2)?;
/// let tokenizer = Tokenizer::new(Pattern::Gpt2, MergesTrainer::new(262)?.train(&words)?);
/// let ids = tokenizer.encode("the rats \u{1F400}");
/// assert!(ids.len() < "the rats \u{1F400}".len());
/// assert_eq!(tokenizer.decode(&ids)?, "the rats \u{1F400}".as_bytes());
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    pattern: Pattern,
    model: Model,
    /// What encoding needs beside the model; those that nobody is using.
    workers: Mutex<Vec<Worker>>,
}

/// What one thread needs to encode.
#[derive(Debug)]
struct Worker {
    cache: Cache,
    scratch: Scratch,
}

/// Part of a text that is encoded at once where there are several threads, at least, in bytes.
const PART: usize = 1 << 16;

impl Tokenizer {
    /// Of a way to cut texts into words and one to cut words into pieces.
    pub fn new(pattern: Pattern, model: impl Into<Model>) -> Self {
        Self { pattern, model: model.into(), workers: Mutex::default() }
    }

    /// How texts are cut into words.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// How words are cut into pieces.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The ids of a text's pieces, in order.
    pub fn encode(&self, text: impl AsRef<[u8]>) -> Vec<u32> {
        let text = text.as_ref();
        // Fewer than three bytes a piece are rare, and the vector may still grow.
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of a text's pieces to those that are there.
    pub fn encode_into(&self, text: impl AsRef<[u8]>, ids: &mut Vec<u32>) {
        let text = text.as_ref();
        let mut worker = self.worker();
        self.encode_part(text, 0..text.len(), &mut worker, ids);
        self.idle().push(worker);
    }

    /// The ids of several texts, each by itself, on so many threads; a long text is shared among
    /// them. The ids are those of [`encode`](Tokenizer::encode). On one thread where there are
    /// none.
    pub fn encode_batch<T: AsRef<[u8]> + Sync>(&self, texts: &[T], threads: NonZeroUsize) -> Vec<Vec<u32>> {
        let part = if threads.get() == 1 { usize::MAX } else { PART };
        self.encode_parts(texts, threads, part)
    }

    fn encode_parts<T: AsRef<[u8]> + Sync>(
        &self,
        texts: &[T],
        threads: NonZeroUsize,
        part: usize,
    ) -> Vec<Vec<u32>> {
        let parts: Vec<(usize, Range<usize>)> = texts
            .iter()
            .enumerate()
            .flat_map(|(index, text)| parts(text.as_ref(), part).map(move |part| (index, part)))
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut worker, mut done) = (self.worker(), Vec::new());
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((index, part)) = parts.get(at) else { break };
                let mut ids = Vec::with_capacity(part.len() / 3);
                self.encode_part(texts[*index].as_ref(), part.clone(), &mut worker, &mut ids);
                done.push((at, ids));
            }
            self.idle().push(worker);
            done
        };
        let threads = if cfg!(target_arch = "wasm32") { 1 } else { threads.get().min(parts.len()) };
        let mut done = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for other in others {
                // A thread that panicked takes the caller with it.
                done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        });
        done.sort_unstable_by_key(|&(at, _)| at);
        let mut ids = vec![Vec::new(); texts.len()];
        for (at, part) in done {
            let whole: &mut Vec<u32> = &mut ids[parts[at].0];
            if whole.is_empty() {
                *whole = part;
            } else {
                whole.extend(part);
            }
        }
        ids
    }

    /// The text that these pieces spell.
    ///
    /// # Errors
    /// Invalid argument (`ids`) for one that no piece has.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut text = Vec::with_capacity(4 * ids.len());
        for (index, &id) in ids.iter().enumerate() {
            let piece = self.model.piece(id).ok_or_else(|| {
                let below = self.model.len();
                Error::argument_error("ids", format!("expected ids below {below}, got {id} at index {index}"))
            })?;
            text.extend_from_slice(piece);
        }
        Ok(text)
    }

    /// The words that begin in this part of a text, where one begins and none goes on behind it.
    fn encode_part(&self, text: &[u8], part: Range<usize>, worker: &mut Worker, ids: &mut Vec<u32>) {
        let mut start = part.start;
        for word in self.pattern.split(&text[part.start..]) {
            if start == part.end {
                break;
            }
            let end = start + word.len();
            let key = Key::new(text, start, end);
            start = end;
            if key.is_some_and(|key| worker.cache.get(key, ids)) {
                continue;
            }
            let before = ids.len();
            self.model.encode_word(word, &mut worker.scratch, ids);
            if let Some(key) = key {
                worker.cache.put(key, &ids[before..]);
            }
        }
    }

    fn worker(&self) -> Worker {
        let idle = self.idle().pop();
        idle.unwrap_or_else(|| Worker { cache: Cache::new(), scratch: Scratch::default() })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Worker>> {
        // Nothing is half done where a thread panicked: workers are whole, in or out.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Tokenizer {
    fn clone(&self) -> Self {
        Self::new(self.pattern, self.model.clone())
    }
}

/// Tokenizers are equal that encode by the same.
impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        (self.pattern, &self.model) == (other.pattern, &other.model)
    }
}

/// A text in parts of at least so many bytes, between which no word lies.
fn parts(text: &[u8], least: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0usize;
    std::iter::from_fn(move || {
        let begin = start;
        start = Pattern::seam(text, start.saturating_add(least)).unwrap_or(text.len());
        (begin < text.len()).then_some(begin..start)
    })
}

#[cfg(test)]
mod tests;
