//! The pieces that words are cut into.

use super::trie::Trie;
use crate::error::{Result, ensure};
use crate::limits::{MAX_PIECES, at_most};

/// The longest piece, in bytes.
pub const MAX_PIECE: usize = 16;

/// Pieces, each with a number: byte strings of at most [`MAX_PIECE`] bytes, among them every single
/// byte, so that any bytes can be cut into them.
///
/// ```
/// use prflash::subword::Vocabulary;
/// let vocabulary = Vocabulary::with_bytes(["th", "the"])?;
/// assert_eq!(vocabulary.len(), 258);
/// assert_eq!(vocabulary.number(b"the"), Some(257));
/// assert_eq!(vocabulary.piece(257), b"the");
/// // All pieces listed, with the single bytes wherever they are to be.
/// let listed = (0..=255u8).rev().map(|byte| vec![byte]).chain([b"the".to_vec()]);
/// assert_eq!(Vocabulary::new(listed)?.number(b"a"), Some(255 - 97));
/// assert!(Vocabulary::with_bytes([[b'x'; prflash::subword::MAX_PIECE + 1]]).is_err());
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// All pieces, one behind the other.
    bytes: Vec<u8>,
    /// Where each piece ends.
    ends: Vec<u32>,
    trie: Trie,
}

impl Vocabulary {
    /// The vocabulary of these pieces, numbered from 0.
    ///
    /// # Errors
    /// Invalid argument (`pieces`) for one that is empty, longer than [`MAX_PIECE`] bytes or there
    /// twice, and where a single byte is missing; too large past
    /// [`MAX_PIECES`](crate::limits::MAX_PIECES).
    pub fn new<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Result<Self> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (number, piece) in pieces.into_iter().enumerate() {
            let piece = piece.as_ref();
            at_most("pieces", number + 1, MAX_PIECES)?;
            ensure!(
                (1..=MAX_PIECE).contains(&piece.len()),
                "pieces",
                "piece {number}: expected 1 to {MAX_PIECE} bytes, got {}",
                piece.len()
            );
            bytes.extend_from_slice(piece);
            ends.push(bytes.len() as u32);
        }
        let mut sorted: Vec<(&[u8], u32)> =
            (0..ends.len()).map(|number| (piece(&bytes, &ends, number), number as u32)).collect();
        sorted.sort_unstable();
        for pair in sorted.windows(2) {
            let [(piece, first), (other, second)] = [pair[0], pair[1]];
            ensure!(
                piece != other,
                "pieces",
                "pieces {first} and {second} are the same: {:?}",
                String::from_utf8_lossy(piece)
            );
        }
        let trie = Trie::new(&sorted);
        let missing = (0..=u8::MAX).find(|&byte| trie.get(&[byte]).is_none());
        ensure!(missing.is_none(), "pieces", "expected every single byte, {missing:#04x?} is missing");
        Ok(Self { bytes, ends, trie })
    }

    /// The 256 bytes, numbered as they are, and then these pieces.
    ///
    /// # Errors
    /// As [`new`](Vocabulary::new).
    pub fn with_bytes<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Result<Self> {
        let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
        Self::new(bytes.chain(pieces.into_iter().map(|piece| piece.as_ref().to_vec())))
    }

    /// How many pieces there are.
    #[allow(clippy::len_without_is_empty)] // it has the bytes
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// A piece by its number; empty for a number that no piece has.
    pub fn piece(&self, number: u32) -> &[u8] {
        match (number as usize) < self.len() {
            true => piece(&self.bytes, &self.ends, number as usize),
            false => &[],
        }
    }

    /// The number of a piece.
    pub fn number(&self, piece: &[u8]) -> Option<u32> {
        self.trie.get(piece)
    }

    /// The pieces in the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|number| piece(&self.bytes, &self.ends, number))
    }

    /// The double array of all pieces, node by node ([`Trie::nodes`]).
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = [u32; 3]> + '_ {
        self.trie.nodes()
    }

    /// The pieces that the bytes begin with, the shortest first: their lengths and numbers.
    #[inline]
    pub(super) fn prefixes<'v>(&'v self, bytes: &'v [u8]) -> impl Iterator<Item = (usize, u32)> + 'v {
        self.trie.prefixes(bytes)
    }
}

fn piece<'b>(bytes: &'b [u8], ends: &[u32], number: usize) -> &'b [u8] {
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    &bytes[start as usize..ends[number] as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let refused = |pieces: &[&[u8]]| {
            let error = Vocabulary::with_bytes(pieces).unwrap_err();
            assert_eq!(error.argument(), Some("pieces"));
            error.to_string()
        };
        assert_eq!(refused(&[b"ab", b""]), "pieces: piece 257: expected 1 to 16 bytes, got 0");
        assert_eq!(refused(&[&[b'x'; 17]]), "pieces: piece 256: expected 1 to 16 bytes, got 17");
        assert_eq!(refused(&[b"ab", b"ab"]), "pieces: pieces 256 and 257 are the same: \"ab\"");
        assert_eq!(refused(&[b"a"]), "pieces: pieces 97 and 256 are the same: \"a\"");
        let error = Vocabulary::new((0..255u8).map(|byte| [byte])).unwrap_err();
        assert!(error.to_string().contains("0xff"), "{error}");
    }

    #[test]
    fn numbers_and_pieces_belong_together() {
        let vocabulary = Vocabulary::with_bytes(["in", "ing", &"x".repeat(16)]).unwrap();
        for (number, piece) in vocabulary.iter().enumerate() {
            assert_eq!(vocabulary.number(piece), Some(number as u32));
            assert_eq!(vocabulary.piece(number as u32), piece);
        }
        assert_eq!((vocabulary.number(b"i n"), vocabulary.piece(259)), (None, &b""[..]));
    }
}
