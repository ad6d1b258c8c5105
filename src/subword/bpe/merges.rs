//! The trained list of merges.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{BYTES, MAX_PIECE};
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_PIECES, at_most};
use crate::subword::vocabulary::Vocabulary;

/// Merges in the order in which they are made; the place in this order is the rank of a merge.
///
/// Piece `i` below 256 is the byte `i`, and merge `i` makes piece `256 + i` of two earlier ones. No
/// two pieces are the same string, and none is longer than [`MAX_PIECE`](super::MAX_PIECE) bytes.
///
/// ```
/// use prflash::subword::Merges;
/// let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
/// let merges = Merges::from_pairs([(b, c), (a, 256)])?;
/// assert_eq!((merges.len(), merges.rank(b, c), merges.pairs()[1]), (2, Some(0), (a, 256)));
/// assert_eq!((merges.piece(257), merges.id(b"abc")), (Some(&b"abc"[..]), Some(257)));
/// let mut ids = Vec::new();
/// merges.encode_word(b"abcab", &mut ids);
/// assert_eq!(ids, [257, a, b]);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Merges {
    pairs: Vec<(u32, u32)>,
    /// The strings of all pieces, one behind the other.
    bytes: Vec<u8>,
    /// Where each ends. There are at most 2³¹ of at most 16 bytes.
    ends: Vec<u64>,
    /// The rank of a pair.
    ranks: HashMap<u64, u32, RandomState>,
    /// The id of a string that a merge makes.
    ids: HashMap<Box<[u8]>, u32, RandomState>,
}

impl Merges {
    /// The bytes alone.
    pub(super) fn bytes() -> Self {
        let bytes = (0..=u8::MAX).collect();
        let ends = (1..=BYTES as u64).collect();
        Self { pairs: Vec::new(), bytes, ends, ranks: HashMap::default(), ids: HashMap::default() }
    }

    /// Of pairs of ids, in the order of the merges.
    ///
    /// # Errors
    /// Invalid argument (`pairs`) if a pair has an id that isn't made before it, spells more than
    /// [`MAX_PIECE`](super::MAX_PIECE) bytes, or spells what another pair before it or a byte does;
    /// too large past [`MAX_PIECES`](crate::limits::MAX_PIECES).
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u32, u32)>) -> Result<Self> {
        let mut merges = Self::bytes();
        pairs.into_iter().try_for_each(|pair| merges.append(pair))?;
        Ok(merges)
    }

    /// One more merge, refused as [`from_pairs`](Merges::from_pairs) refuses it.
    pub(in crate::subword) fn append(&mut self, (left, right): (u32, u32)) -> Result<()> {
        let id = self.pieces();
        at_most("pairs", id + 1, MAX_PIECES)?;
        let (Some(start), Some(end)) = (self.piece(left), self.piece(right)) else {
            let message = format!("expected ids below {id}, got {left} and {right}");
            return Err(Error::argument_error("pairs", message));
        };
        let string = [start, end].concat();
        let length = string.len();
        ensure!(length <= MAX_PIECE, "pairs", "expected at most {MAX_PIECE} bytes, got {length}");
        let before = self.ids.insert(string.as_slice().into(), id as u32);
        if let Some(before) = before {
            let message = format!("expected no string twice, got that of piece {before} as {id} too");
            return Err(Error::argument_error("pairs", message));
        }
        self.push(left, right, &string);
        Ok(())
    }

    fn push(&mut self, left: u32, right: u32, string: &[u8]) {
        self.ranks.insert(key(left, right), self.pairs.len() as u32);
        self.pairs.push((left, right));
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len() as u64);
    }

    /// How many merges there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no merges, and so only the bytes.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// How many pieces: the 256 bytes, and one of each merge.
    pub fn pieces(&self) -> usize {
        self.ends.len()
    }

    /// The string of a piece; `None` if there is no such id.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.bytes.get(start..end)
    }

    /// The id of a piece; `None` if there is no such string.
    pub fn id(&self, piece: &[u8]) -> Option<u32> {
        match *piece {
            [byte] => Some(byte.into()),
            _ => self.ids.get(piece).copied(),
        }
    }

    /// The strings of all pieces, in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.ends.len()).map(|id| self.piece(id as u32).unwrap_or_default())
    }

    /// The pieces as a vocabulary with the same numbers, for [shortest
    /// paths](crate::subword::Segmenter) or to [train](crate::subword::Trainer) another from.
    ///
    /// # Errors
    /// Too large past [`MAX_PIECES`](crate::limits::MAX_PIECES).
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        Vocabulary::new(self.iter())
    }

    /// The pairs of ids, in the order of the merges.
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.pairs
    }

    /// The rank of the merge of two pieces, if there is one.
    pub fn rank(&self, left: u32, right: u32) -> Option<u32> {
        self.ranks.get(&key(left, right)).copied()
    }

    /// The length of a piece, by an id that exists.
    pub(super) fn piece_len(&self, id: u32) -> usize {
        self.piece(id).map_or(1, <[u8]>::len)
    }
}

/// Lists are equal if their pairs are: everything else follows from these.
impl PartialEq for Merges {
    fn eq(&self, other: &Self) -> bool {
        self.pairs == other.pairs
    }
}

impl Eq for Merges {}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
