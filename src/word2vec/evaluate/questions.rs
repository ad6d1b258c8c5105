//! Analogies as questions.

use std::io::BufRead;
use std::path::Path;

use super::lines;
use super::pairs::first_half;
use crate::error::Result;

/// Questions in sections: a is to b as c is to what?
///
/// ```
/// use prflash::word2vec::Questions;
/// let questions = Questions::read(": family\nboy girl brother sister\n".as_bytes())?;
/// assert_eq!(questions.len(), 1);
/// let (name, questions) = questions.sections().next().unwrap();
/// assert_eq!((name, &questions[0]), ("family", &["boy", "girl", "brother", "sister"].map(String::from)));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Questions(Vec<(String, Vec<[String; 4]>)>);

impl Questions {
    /// Reads a file like `questions-words.txt`: lines of a colon, a space and the name of a
    /// section, and behind each its questions, four words in a line with spaces between, the last
    /// of which is the answer. Empty lines are passed over.
    ///
    /// # Errors
    /// - [`is_corrupt`](crate::Error::is_corrupt), with the line, if it isn't as it must be
    /// - [`is_io`](crate::Error::is_io) if the reader fails
    pub fn read(reader: impl BufRead) -> Result<Self> {
        let mut sections: Vec<(String, Vec<[String; 4]>)> = Vec::new();
        lines::each(reader, "questions", |line| {
            if let Some(name) = line.strip_prefix(':') {
                sections.push((name.trim().into(), Vec::new()));
                return Ok(());
            }
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let words = <[String; 4]>::try_from(words);
            let words = words.map_err(|_| format!("expected four words, got {line:?}"))?;
            let section =
                sections.last_mut().ok_or("expected a line of a colon and a section's name first")?;
            section.1.push(words);
            Ok(())
        })?;
        Ok(Self(sections))
    }

    /// [Reads](Questions::read) a file.
    ///
    /// # Errors
    /// Those of [`read`](Questions::read); [`is_io`](crate::Error::is_io) if it can't be opened.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(lines::open(path.as_ref())?)
    }

    /// The sections in their order, each with its name and its questions: a, b, c and the answer.
    pub fn sections(&self) -> impl ExactSizeIterator<Item = (&str, &[[String; 4]])> {
        self.0.iter().map(|(name, questions)| (name.as_str(), questions.as_slice()))
    }

    /// How many questions there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, questions)| questions.len()).sum()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Two halves of each section, as those of [`Pairs`](super::Pairs::halves). They have their
    /// words in common, since a section's questions are made of few pairs of words.
    pub fn halves(&self) -> (Self, Self) {
        let part = |of_first: bool| {
            let section = |(name, questions): &(String, Vec<[String; 4]>)| {
                let first = first_half(questions.len());
                let taken = questions.iter().zip(first).filter(|(_, first)| *first == of_first);
                (name.clone(), taken.map(|(question, _)| question.clone()).collect())
            };
            Self(self.0.iter().map(section).collect())
        };
        (part(true), part(false))
    }
}
