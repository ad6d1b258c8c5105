//! Pre-tokenization: a text cut into words, of which no token is ever to cross the border.

mod classes;
mod regex;
mod scanners;
mod text;

#[cfg(test)]
mod tests;

use std::fmt;
use std::iter::FusedIterator;
use std::str::FromStr;

use crate::error::{Error, Result};
use text::Text;

/// How a text is cut into words before anything is counted or encoded.
///
/// The words of a text, one behind the other, are the text: nothing is dropped, and none is empty.
/// Three patterns give exactly the words of the regular expressions that published vocabularies
/// were trained with, so that a vocabulary can be used in their place. They are scanned by hand,
/// in time that is linear in the text, whatever it is.
///
/// A text need not be UTF-8. A byte that belongs to no UTF-8 character counts as a symbol, just
/// like `!`: neither letter nor number nor white space. Categories of characters are those of
/// Unicode as the crate `unicode-properties` has them; a character that was assigned lately may be
/// a letter here and a symbol in an older program.
///
/// ```
/// use prflash::subword::Pattern;
/// let words = |pattern: Pattern| {
///     let words = pattern.split(b"It's 2026  already!\n");
///     words.map(String::from_utf8_lossy).collect::<Vec<_>>().join("|")
/// };
/// assert_eq!(words(Pattern::Gpt2), "It|'s| 2026| | already|!|\n");
/// assert_eq!(words(Pattern::Cl100k), "It|'s| |202|6| | already|!\n");
/// assert_eq!(words(Pattern::O200k), "It's| |202|6| | already|!\n");
/// assert_eq!(words(Pattern::Whitespace), "It's| 2026| | already!|\n");
/// assert_eq!(words(Pattern::None), "It's 2026  already!\n");
/// assert_eq!("cl100k".parse::<Pattern>()?, Pattern::Cl100k);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pattern {
    /// `gpt2`: runs of letters, of numbers, or of symbols, each with one space before it;
    /// contractions (`'s`, `'ll`, …) in lower case; white space. Of GPT-2, and of r50k_base and
    /// p50k_base.
    Gpt2,
    /// `cl100k`: as `gpt2`, but any one symbol or white space may stand before letters, numbers are
    /// cut into at most three digits, line breaks stay with the symbols before them, and case is
    /// ignored in contractions. Of cl100k_base, as tiktoken has it now: white space at the very end
    /// of a text is one word, even with a line break in it, which earlier versions cut off.
    Cl100k,
    /// `o200k`: as `cl100k`, but a word ends where capitals follow lower case (`camelCase` is two
    /// words), combining marks belong to letters, and contractions to the word before them. Of
    /// o200k_base.
    O200k,
    /// `whitespace`: whatever is not white space, with one space before it. Of more white space,
    /// all but that last space is a word of its own, so that it doesn't multiply the forms in which
    /// a word occurs.
    Whitespace,
    /// `none`: every line is one word, with the `\n` that ends it. Tokens may then hold several
    /// words.
    None,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Gpt2, Self::Cl100k, Self::O200k, Self::Whitespace, Self::None];

    /// The words of a text.
    pub fn split(self, text: &[u8]) -> Words<'_> {
        Words { pattern: self, text: Text::new(text), at: 0 }
    }

    /// The first place from `from` on at which a word begins by every pattern, whatever stands
    /// before and behind it: after a line's end and before an ASCII letter or digit, which no
    /// pattern has in one word.
    pub(super) fn seam(text: &[u8], from: usize) -> Option<usize> {
        let around = text.get(from.checked_sub(1)?..)?.windows(2);
        let at = around.into_iter().position(|pair| pair[0] == b'\n' && pair[1].is_ascii_alphanumeric())?;
        Some(from + at)
    }

    /// What [`Display`](fmt::Display) writes and [`FromStr`] reads.
    fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::O200k => "o200k",
            Self::Whitespace => "whitespace",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Pattern {
    type Err = Error;

    /// By name: `gpt2`, `cl100k`, `o200k`, `whitespace` or `none`.
    ///
    /// # Errors
    /// An invalid argument (`pattern`) if there is none of this name.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::argument_error("pattern", format!("expected one of {names}; got {name:?}"))
        })
    }
}

/// The words of a text, in their order. See [`Pattern::split`].
#[derive(Clone, Debug)]
pub struct Words<'a> {
    pattern: Pattern,
    text: Text<'a>,
    at: usize,
}

impl<'a> Words<'a> {
    /// What has not been cut into words yet.
    pub fn rest(&self) -> &'a [u8] {
        &self.text.bytes()[self.at..]
    }

    /// The next word, if it stays the same whatever may follow this text.
    pub(super) fn next_settled(&mut self) -> Option<&'a [u8]> {
        let before = self.at;
        self.text.reached_end = false;
        let word = self.next()?;
        if self.text.reached_end {
            self.at = before;
            return None;
        }
        Some(word)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (start, text) = (self.at, &mut self.text);
        if start == text.bytes().len() {
            return None;
        }
        self.at = match self.pattern {
            Pattern::Gpt2 => scanners::gpt2(text, start),
            Pattern::Cl100k => scanners::cl100k(text, start),
            Pattern::O200k => scanners::o200k(text, start),
            Pattern::Whitespace => scanners::whitespace(text, start),
            Pattern::None => scanners::line(text, start),
        };
        Some(&text.bytes()[start..self.at])
    }
}

impl FusedIterator for Words<'_> {}
