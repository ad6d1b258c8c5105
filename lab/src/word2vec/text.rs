//! Texts as corpora: words of the letters a to z, a sentence a line.

use std::io::{self, Read, Write};

/// What becomes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unit {
    /// What ends at a full stop, an exclamation or a question mark, or at an empty line. Those of
    /// abbreviations and numbers count as well.
    Sentence,
    /// What ends at an empty line.
    Paragraph,
    /// A line of the text.
    Line,
}

/// How much text there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines with words.
    pub lines: u64,
    /// Words in them.
    pub words: u64,
}

/// Writes texts as words in small letters with a space between. A word is a run of the letters A to
/// Z: whatever else there is, letters with accents and bytes of no text among them, is between
/// words.
#[derive(Debug)]
pub struct Cutter {
    unit: Unit,
    counts: Counts,
    /// Whether the last byte was of a word.
    in_word: bool,
    /// Whether the line has a word.
    in_line: bool,
    /// Whether the text's line has had white space alone.
    blank: bool,
    out: Vec<u8>,
}

impl Cutter {
    /// A cutter that has seen nothing yet.
    pub fn new(unit: Unit) -> Self {
        Self {
            unit,
            counts: Counts::default(),
            in_word: false,
            in_line: false,
            blank: false,
            out: Vec::new(),
        }
    }

    /// What was written so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Writes a text, with whose end the line ends; `step` hears of the bytes that were read.
    ///
    /// # Errors
    /// The errors of reader, writer and `step`.
    pub fn text<E: From<io::Error>>(
        &mut self,
        mut reader: impl Read,
        mut writer: impl Write,
        mut step: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let count = match reader.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            bytes[..count].iter().for_each(|&byte| self.byte(byte));
            writer.write_all(&self.out)?;
            self.out.clear();
            step(count)?;
        }
        self.in_word = false;
        self.blank = false;
        self.end_line();
        writer.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn byte(&mut self, byte: u8) {
        if byte.is_ascii_alphabetic() {
            if !self.in_word {
                if self.in_line {
                    self.out.push(b' ');
                }
                self.counts.words += 1;
            }
            (self.in_word, self.in_line, self.blank) = (true, true, false);
            self.out.push(byte.to_ascii_lowercase());
            return;
        }
        self.in_word = false;
        let ends = match (byte, self.unit) {
            (b'.' | b'!' | b'?', unit) => unit == Unit::Sentence,
            (b'\n', unit) => unit == Unit::Line || self.blank,
            _ => false,
        };
        if ends {
            self.end_line();
        }
        match byte {
            b'\n' => self.blank = true,
            _ if byte.is_ascii_whitespace() => {}
            _ => self.blank = false,
        }
    }

    fn end_line(&mut self) {
        if self.in_line {
            self.out.push(b'\n');
            self.counts.lines += 1;
            self.in_line = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(unit: Unit, texts: &[&str]) -> (String, Counts) {
        let mut cutter = Cutter::new(unit);
        let mut out = Vec::new();
        for text in texts {
            cutter.text::<io::Error>(text.as_bytes(), &mut out, |_| Ok(())).unwrap();
        }
        (String::from_utf8(out).unwrap(), cutter.counts())
    }

    #[test]
    fn lines_are_sentences_paragraphs_or_lines() {
        let texts =
            ["CHAPTER I\n \r\nIt was 3.5 o'clock, and\nraining! Why?\n\n\n— Caf\u{e9}s\n", "", "The end"];
        let counts = |lines, words| Counts { lines, words };
        for (unit, want, lines) in [
            (Unit::Sentence, "chapter i\nit was\no clock and raining\nwhy\ncaf s\nthe end\n", 6),
            (Unit::Paragraph, "chapter i\nit was o clock and raining why\ncaf s\nthe end\n", 4),
            (Unit::Line, "chapter i\nit was o clock and\nraining why\ncaf s\nthe end\n", 5),
        ] {
            assert_eq!(cut(unit, &texts), (want.to_owned(), counts(lines, 13)));
        }
        assert_eq!(cut(Unit::Sentence, &["", "…\n\n?!"]), (String::new(), counts(0, 0)));
    }

    /// However a text comes, it is cut the same.
    #[test]
    fn words_go_on_from_one_read_to_the_next() {
        struct Slow<'t>(&'t [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                let Some((&first, rest)) = self.0.split_first() else { return Ok(0) };
                bytes[0] = first;
                self.0 = rest;
                Ok(1)
            }
        }
        let text = "One two. Three\nfour\n\nfive";
        let (mut out, mut read) = (Vec::new(), 0);
        let mut cutter = Cutter::new(Unit::Sentence);
        let step = |count| {
            read += count;
            Ok::<(), io::Error>(())
        };
        cutter.text(Slow(text.as_bytes()), &mut out, step).unwrap();
        assert_eq!((String::from_utf8(out).unwrap(), cutter.counts()), cut(Unit::Sentence, &[text]));
        assert_eq!(read, text.len());
    }
}
