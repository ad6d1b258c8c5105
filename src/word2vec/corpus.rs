//! Texts as numbers of words.

use std::collections::HashMap;
use std::io::BufRead;

use super::vectors::divides;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_TOKENS, MAX_VOCABULARY, at_most};

/// How a text becomes a [`Corpus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    min_count: u64,
    longest: usize,
}

impl CorpusOptions {
    /// Words that come at least 5 times, sentences of at most 10,000 words, as gensim has them.
    pub fn new() -> Self {
        Self { min_count: 5, longest: 10_000 }
    }

    /// With the words that come at least so often; others are left out, as if they were not in the
    /// text.
    pub fn with_min_count(self, min_count: u64) -> Self {
        Self { min_count, ..self }
    }

    /// With sentences of at most so many words: longer ones are cut, which
    /// [`Corpus::cut_sentences`] counts.
    ///
    /// # Errors
    /// Invalid argument (`longest`) for 0.
    pub fn with_longest(self, longest: usize) -> Result<Self> {
        ensure!(longest > 0, "longest", "expected at least 1 word, got 0");
        Ok(Self { longest, ..self })
    }
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A text as numbers of words, a sentence a line.
///
/// ```
/// use prflash::word2vec::{Corpus, CorpusOptions};
/// let text = "a rose is a rose\nis it\n";
/// let corpus = Corpus::read(text.as_bytes(), CorpusOptions::new().with_min_count(2))?;
/// let vocabulary = corpus.vocabulary();
/// assert_eq!((vocabulary.words(), vocabulary.counts()), (&["a", "rose", "is"].map(String::from)[..], &[2, 2, 2][..]));
/// // "it" is too rare.
/// assert_eq!((corpus.tokens(), corpus.sentence_ends()), (&[0, 1, 2, 0, 1, 2][..], &[5, 6][..]));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    vocabulary: Vocabulary,
    /// Numbers of words, those out of vocabulary left out.
    tokens: Vec<u32>,
    /// Where sentences end in them, each past its last token.
    ends: Vec<u32>,
    words: u64,
    cut: u64,
}

impl Corpus {
    /// Reads a text: UTF-8, words between white space of ASCII as they are written, a sentence a
    /// line.
    ///
    /// # Errors
    /// I/O errors with the line; corrupt for a line that isn't UTF-8; too large (`text`) for more
    /// than [`MAX_TOKENS`] words of the vocabulary or more than [`MAX_VOCABULARY`] different ones;
    /// invalid argument (`text`) if no word is frequent enough.
    pub fn read(text: impl BufRead, options: CorpusOptions) -> Result<Self> {
        let mut counted = Counted::default();
        let mut cut = 0;
        for (number, line) in (1u64..).zip(text.lines()) {
            let line = line.map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => {
                    Error::corrupt(format!("line {number} of the text is not UTF-8"))
                }
                _ => Error::io(format!("reading line {number} of the text"), error),
            })?;
            let mut length = 0;
            for word in
                line.split(|c: char| u8::try_from(c).is_ok_and(divides)).filter(|word| !word.is_empty())
            {
                if length == options.longest {
                    counted.end_sentence();
                    (length, cut) = (0, cut + 1);
                }
                counted.add(word)?;
                length += 1;
            }
            counted.end_sentence();
        }
        counted.into_corpus(options.min_count, cut)
    }

    /// The words that are numbered.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The words of the text by their numbers, without those that are not in the vocabulary.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Where each sentence ends: past its last token.
    pub fn sentence_ends(&self) -> &[u32] {
        &self.ends
    }

    /// How many words the text has, with those that are not in the vocabulary.
    pub fn words(&self) -> u64 {
        self.words
    }

    /// How many times a sentence was cut for its length.
    pub fn cut_sentences(&self) -> u64 {
        self.cut
    }
}

/// A text read so far: every word has a number, in the order in which they came.
#[derive(Default)]
struct Counted {
    numbers: HashMap<String, u32, foldhash::fast::FixedState>,
    counts: Vec<u64>,
    tokens: Vec<u32>,
    ends: Vec<u32>,
}

impl Counted {
    fn add(&mut self, word: &str) -> Result<()> {
        let number = match self.numbers.get(word) {
            Some(&number) => number,
            None => {
                let number = self.counts.len();
                // Words that turn out to be rare are bounded too: they have numbers meanwhile.
                at_most("text", number + 1, 64 * MAX_VOCABULARY)?;
                self.numbers.insert(word.to_owned(), number as u32);
                self.counts.push(0);
                number as u32
            }
        };
        at_most("text", self.tokens.len() + 1, MAX_TOKENS)?;
        self.counts[number as usize] += 1;
        self.tokens.push(number);
        Ok(())
    }

    fn end_sentence(&mut self) {
        let end = self.tokens.len() as u32;
        if self.ends.last().copied().unwrap_or(0) < end {
            self.ends.push(end);
        }
    }

    fn into_corpus(self, min_count: u64, cut: u64) -> Result<Corpus> {
        let words = self.tokens.len() as u64;
        let mut kept: Vec<(String, u32)> =
            self.numbers.into_iter().filter(|&(_, n)| self.counts[n as usize] >= min_count).collect();
        kept.sort_unstable_by_key(|&(_, n)| (std::cmp::Reverse(self.counts[n as usize]), n));
        ensure!(
            !kept.is_empty(),
            "text",
            "expected words that come at least {min_count} times, got none among {words}"
        );
        at_most("text", kept.len(), MAX_VOCABULARY)?;
        let mut numbers = vec![u32::MAX; self.counts.len()];
        for ((_, old), new) in kept.iter().zip(0..) {
            numbers[*old as usize] = new;
        }
        let (mut tokens, mut ends, mut begin) = (Vec::new(), Vec::new(), 0);
        for end in self.ends {
            let sentence = self.tokens[begin as usize..end as usize].iter();
            tokens.extend(sentence.map(|&old| numbers[old as usize]).filter(|&new| new != u32::MAX));
            let last = ends.last().copied().unwrap_or(0);
            if tokens.len() as u32 > last {
                ends.push(tokens.len() as u32);
            }
            begin = end;
        }
        let counted = kept.into_iter().map(|(word, old)| (word, self.counts[old as usize])).collect();
        Ok(Corpus { vocabulary: Vocabulary::new(counted), tokens, ends, words, cut })
    }
}
