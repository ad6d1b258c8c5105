//! Vectors of words as files, in the two formats of the word2vec tool.

mod binary;
mod format;
mod header;
mod text;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use super::vectors::WordVectors;
use crate::error::{Error, Result};
use crate::files::write_whole;

pub use format::Format;

impl WordVectors {
    /// Writes the words and their vectors in a format that gensim, the word2vec tool and others
    /// read. What is written depends on words, vectors and format alone; it has no counts.
    ///
    /// ```
    /// use prflash::word2vec::{Format, WordVectors};
    /// let vectors = WordVectors::new(["the", "cat"], 2, vec![0.1, 1.0, -2.5, 1e-20])?;
    /// let mut file = Vec::new();
    /// vectors.write(Format::Text, &mut file)?;
    /// assert_eq!(file, b"2 2\nthe 0.1 1.0\ncat -2.5 1e-20\n");
    /// assert_eq!(WordVectors::read(Format::Text, &file[..])?, vectors);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`is_io`](Error::is_io) if the writer fails.
    pub fn write(&self, format: Format, writer: impl Write) -> Result<()> {
        let mut writer = BufWriter::new(writer);
        let written = self.write_to(format, &mut writer).and_then(|()| writer.flush());
        written.map_err(|error| Error::io("writing vectors", error))
    }

    /// Reads what [`write`](WordVectors::write) wrote, and what others write in these formats:
    /// binary files with or without a line end behind each vector, text with any white space
    /// between numbers. What is read takes memory as it comes, whatever the header promises.
    ///
    /// # Errors
    /// - [`is_corrupt`](Error::is_corrupt), with the line or the byte at which it shows: another
    ///   number of words, or of numbers in a vector, than the header says; a file that is cut off
    ///   (one of text ends with the end of a line); a number that is none or not finite; a word
    ///   that is no UTF-8, empty, or there twice
    /// - [`is_io`](Error::is_io) if the reader fails
    pub fn read(format: Format, mut reader: impl BufRead) -> Result<Self> {
        match format {
            Format::Text => text::read(&mut reader),
            Format::Binary => binary::read(&mut reader),
        }
    }

    /// Writes a file, whole or not at all: beside it first, under its name and `.part`.
    ///
    /// # Errors
    /// [`is_io`](Error::is_io), with the path, if it can't be written.
    pub fn save(&self, path: impl AsRef<Path>, format: Format) -> Result<()> {
        let path = path.as_ref();
        let written = write_whole(path, |writer| self.write_to(format, writer));
        written.map_err(|error| Error::io(format!("writing {}", path.display()), error))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Those of [`read`](WordVectors::read); with the path if it can't be opened.
    pub fn load(path: impl AsRef<Path>, format: Format) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path);
        let file = file.map_err(|error| Error::io(format!("opening {}", path.display()), error))?;
        Self::read(format, BufReader::with_capacity(1 << 16, file))
    }

    fn write_to(&self, format: Format, writer: &mut impl Write) -> std::io::Result<()> {
        match format {
            Format::Text => text::write(self, writer),
            Format::Binary => binary::write(self, writer),
        }
    }
}
