//! The ranks of tiktoken: a line for each piece, its bytes in base 64 and its id.

use std::io::{BufRead, BufWriter, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result, ensure};
use crate::subword::bpe::Merges;

impl Merges {
    /// Writes the pieces as tiktoken reads them: in a line each its bytes in base 64, a space and
    /// its id, which is its rank. With the [pattern](super::super::Pattern::regex) that words were
    /// cut by, tiktoken then gives the same ids for any text.
    ///
    /// ```
    /// use prflash::subword::Merges;
    /// let merges = Merges::from_pairs([(104, 105)])?;
    /// let mut file = Vec::new();
    /// merges.write_ranks(&mut file)?;
    /// assert!(file.ends_with(b"/w== 255\naGk= 256\n"));
    /// assert_eq!(Merges::read_ranks(&file[..])?, merges);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// - invalid argument (`merges`) if the bytes of some piece aren't encoded as this piece, which
    ///   can be in a list that no training made: tiktoken joins whatever spells a piece, whichever
    ///   pair it is
    /// - [`is_io`](Error::is_io) if the writer fails
    pub fn write_ranks(&self, writer: impl Write) -> Result<()> {
        let mut ids = Vec::new();
        for (id, piece) in self.iter().enumerate() {
            ids.clear();
            self.encode_word(piece, &mut ids);
            let piece = String::from_utf8_lossy(piece);
            ensure!(ids == [id as u32], "merges", "piece {id}, {piece:?}, is encoded as {ids:?}");
        }
        let mut writer = BufWriter::new(writer);
        let lines = self.iter().enumerate();
        let mut lines = lines.map(|(id, piece)| writeln!(writer, "{} {id}", STANDARD.encode(piece)));
        let written = lines.try_for_each(|written| written);
        drop(lines);
        written.and_then(|()| writer.flush()).map_err(|error| Error::io("writing ranks", error))
    }

    /// Reads what [`write_ranks`](Merges::write_ranks) wrote, and finds the pairs again: a piece is
    /// made of the two into which the pieces before it cut its bytes.
    ///
    /// # Errors
    /// - [`is_corrupt`](Error::is_corrupt) if a line isn't as it must be, named with the reason;
    ///   the single bytes come first, in their order, as ids 0 to 255 (published files have them
    ///   in another one, so that their ids aren't those of merges here)
    /// - [`is_io`](Error::is_io) if the reader fails
    pub fn read_ranks(mut reader: impl BufRead) -> Result<Self> {
        let mut merges = Self::from_pairs([])?;
        let (mut line, mut ids) = (String::new(), Vec::new());
        for number in 0usize.. {
            line.clear();
            let read = reader.read_line(&mut line).map_err(|error| Error::io("reading ranks", error))?;
            let corrupt = |reason: String| Error::corrupt(format!("line {}: {reason}", number + 1));
            if read == 0 {
                let reason = "expected one of the 256 bytes, got the end of the file".to_owned();
                return if number < 256 { Err(corrupt(reason)) } else { Ok(merges) };
            }
            let piece = piece(line.trim_end(), number).map_err(corrupt)?;
            if number < 256 {
                match piece[..] {
                    [byte] if usize::from(byte) == number => continue,
                    _ => return Err(corrupt(format!("expected the byte {number}, got {piece:?}"))),
                }
            }
            ids.clear();
            merges.encode_word(&piece, &mut ids);
            let pair = match ids[..] {
                [left, right] => (left, right),
                _ => {
                    return Err(corrupt(format!(
                        "expected bytes of two pieces before it, got those of {ids:?}"
                    )));
                }
            };
            merges.append(pair).map_err(|error| corrupt(error.to_string()))?;
        }
        Ok(merges)
    }
}

/// The bytes in a line, whose rank must be this.
fn piece(line: &str, rank: usize) -> Result<Vec<u8>, String> {
    let (bytes, id) = line.split_once(' ').ok_or("there is no space")?;
    if id.parse() != Ok(rank) {
        return Err(format!("expected the rank {rank}, got {id:?}"));
    }
    STANDARD.decode(bytes).map_err(|error| format!("{bytes:?} is not base 64: {error}"))
}
