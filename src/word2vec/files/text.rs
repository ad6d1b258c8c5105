//! The text format: a line for each word.

use std::fmt::Display;
use std::io::{self, BufRead, Read as _, Write};

use super::header::{Header, LONGEST};
use crate::error::{Error, Result};
use crate::word2vec::vectors::WordVectors;

pub(super) fn write(vectors: &WordVectors, writer: &mut impl Write) -> io::Result<()> {
    writeln!(writer, "{} {}", vectors.len(), vectors.dimension())?;
    for (word, row) in vectors.iter() {
        writer.write_all(word.as_bytes())?;
        // Unlike its other form, this one of a number of 10⁻³⁰ has no thirty zeros.
        row.iter().try_for_each(|value| write!(writer, " {value:?}"))?;
        writer.write_all(b"\n")?;
    }
    Ok(())
}

pub(super) fn read(reader: &mut impl BufRead) -> Result<WordVectors> {
    let failed = |error| Error::io("reading vectors", error);
    let mut line = Vec::new();
    reader.by_ref().take(LONGEST).read_until(b'\n', &mut line).map_err(failed)?;
    let header = Header::parse(&line).map_err(|reason| corrupt(1, reason))?;
    let (mut words, mut values) = (Vec::new(), Vec::new());
    for number in 2.. {
        line.clear();
        let at_end = reader.read_until(b'\n', &mut line).map_err(failed)? == 0;
        match (at_end, words.len() == header.words) {
            (true, true) => break,
            (true, false) => {
                let (want, got) = (header.words, words.len());
                return Err(corrupt(number, format!("expected {want} words, got the end behind {got}")));
            }
            (false, true) => {
                return Err(corrupt(number, format!("expected the end behind {} words", header.words)));
            }
            (false, false) => {
                let word = read_line(&line, header.dimension, &mut values);
                words.push(word.map_err(|reason| corrupt(number, reason))?);
            }
        }
    }
    WordVectors::new(words, header.dimension, values).map_err(|error| Error::corrupt(error.to_string()))
}

/// The word of a line, whose numbers are appended.
fn read_line(line: &[u8], dimension: usize, values: &mut Vec<f32>) -> Result<String, String> {
    let line = line.strip_suffix(b"\n").ok_or("the line has no end: the file is cut off")?;
    let line = std::str::from_utf8(line).map_err(|error| format!("it is no UTF-8: {error}"))?;
    let mut parts = line.split_ascii_whitespace();
    let word = parts.next().filter(|word| line.starts_with(word)).ok_or("it begins with no word")?;
    let before = values.len();
    for part in parts {
        let value = part.parse().ok().filter(|value: &f32| value.is_finite());
        values.push(value.ok_or_else(|| format!("expected finite numbers, got {part:?}"))?);
        if values.len() - before > dimension {
            break;
        }
    }
    match values.len() - before {
        got if got == dimension => Ok(word.into()),
        got if got > dimension => Err(format!("expected {dimension} numbers behind {word:?}, got more")),
        got => Err(format!("expected {dimension} numbers behind {word:?}, got {got}")),
    }
}

fn corrupt(line: u64, reason: impl Display) -> Error {
    Error::corrupt(format!("line {line}: {reason}"))
}
