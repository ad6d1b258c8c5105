//! The binary format: each word, a space, its numbers.

use std::fmt::Display;
use std::io::{self, BufRead, Read as _, Write};

use super::header::{Header, LONGEST};
use crate::error::{Error, Result};
use crate::word2vec::vectors::{WordVectors, divides};

/// Bytes of a word with the space behind it, at most: what is longer is no word but a file that was
/// misread.
const LONGEST_WORD: u64 = 1 << 16;

pub(super) fn write(vectors: &WordVectors, writer: &mut impl Write) -> io::Result<()> {
    writeln!(writer, "{} {}", vectors.len(), vectors.dimension())?;
    for (word, row) in vectors.iter() {
        writer.write_all(word.as_bytes())?;
        writer.write_all(b" ")?;
        row.iter().try_for_each(|value| writer.write_all(&value.to_le_bytes()))?;
    }
    Ok(())
}

pub(super) fn read(reader: &mut impl BufRead) -> Result<WordVectors> {
    let mut bytes = Bytes { reader, offset: 0 };
    let mut read = Vec::new();
    bytes.until(b'\n', LONGEST, &mut read)?;
    let header = Header::parse(&read).map_err(|reason| corrupt(0, reason))?;
    let (mut words, mut values) = (Vec::new(), Vec::new());
    let row = 4 * header.dimension as u64;
    // Whether a line ends behind each vector: as behind the first.
    let mut line_ends = None;
    for number in 0..header.words {
        if number > 0 {
            let end = bytes.line_end()?;
            if *line_ends.get_or_insert(end) != end {
                return Err(bytes.corrupt("expected an end of line behind each vector, or behind none"));
            }
        }
        let start = bytes.offset;
        bytes.until(b' ', LONGEST_WORD, &mut read)?;
        words.push(word(&read).map_err(|reason| corrupt(start, format!("word {number}: {reason}")))?);
        let start = bytes.offset;
        bytes.exactly(row, &mut read)?;
        for (place, value) in read.as_chunks::<4>().0.iter().enumerate() {
            let value = f32::from_le_bytes(*value);
            if !value.is_finite() {
                let at = start + 4 * place as u64;
                return Err(corrupt(at, format!("expected finite numbers, got {value}")));
            }
            values.push(value);
        }
    }
    // A single vector doesn't show which kind of file it is.
    let end = header.words > 0 && bytes.line_end()?;
    if line_ends.is_some_and(|ends| ends != end) {
        return Err(bytes.corrupt("expected an end of line behind each vector, or behind none"));
    }
    if bytes.next()?.is_some() {
        return Err(bytes.corrupt(format!("expected the end behind {} words", header.words)));
    }
    WordVectors::new(words, header.dimension, values).map_err(|error| Error::corrupt(error.to_string()))
}

/// A word from its bytes with the space behind them.
fn word(bytes: &[u8]) -> Result<String, String> {
    let word = bytes.strip_suffix(b" ").ok_or("expected a word and a space")?;
    if word.is_empty() || word.iter().copied().any(divides) {
        return Err(format!("expected a word without white space, got \"{}\"", word.escape_ascii()));
    }
    let text = std::str::from_utf8(word);
    text.map(str::to_owned).map_err(|_| format!("\"{}\" is no UTF-8", word.escape_ascii()))
}

fn corrupt(offset: u64, reason: impl Display) -> Error {
    Error::corrupt(format!("byte {offset}: {reason}"))
}

/// A file, and how much of it was read.
struct Bytes<'r, R> {
    reader: &'r mut R,
    offset: u64,
}

impl<R: BufRead> Bytes<'_, R> {
    /// Reads to a byte, this one too, or to the end, or so many.
    fn until(&mut self, byte: u8, most: u64, read: &mut Vec<u8>) -> Result<()> {
        read.clear();
        self.reader.by_ref().take(most).read_until(byte, read).map_err(failed)?;
        self.offset += read.len() as u64;
        Ok(())
    }

    /// Reads so many bytes, for which memory is taken as they come.
    fn exactly(&mut self, count: u64, read: &mut Vec<u8>) -> Result<()> {
        read.clear();
        self.reader.by_ref().take(count).read_to_end(read).map_err(failed)?;
        self.offset += read.len() as u64;
        match read.len() as u64 == count {
            true => Ok(()),
            false => Err(self.corrupt(format!("expected a vector of {count} bytes, got the end"))),
        }
    }

    /// The next byte, which stays there.
    fn next(&mut self) -> Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Passes an end of line, if one is there.
    fn line_end(&mut self) -> Result<bool> {
        let there = self.next()? == Some(b'\n');
        if there {
            self.reader.consume(1);
            self.offset += 1;
        }
        Ok(there)
    }

    /// An error of this place.
    fn corrupt(&self, reason: impl Display) -> Error {
        corrupt(self.offset, reason)
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("reading vectors", error)
}
