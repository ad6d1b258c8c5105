//! Words that were encoded lately, with their pieces.

/// Bytes of a word that is kept, at most: longer ones are rare, and encoded each time.
const LONGEST: usize = 16;
/// Pieces of a word that is kept, at most.
const PIECES: usize = 5;
/// Places for words: 640 KiB, which a core's own cache holds.
const PLACES: usize = 1 << 14;

/// Short words with their pieces. A word has one place, and takes it from the word that was there:
/// so memory is bounded whatever is encoded, and looking a word up touches one place.
#[derive(Debug)]
pub(super) struct Cache {
    places: Box<[Entry]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The bytes of the word, then zeros.
    word: [u64; 2],
    pieces: [u32; PIECES],
    /// 0 in a place that no word has taken.
    len: u8,
    count: u8,
}

/// A word that the cache may hold, and its place there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    word: [u64; 2],
    len: u8,
    place: usize,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self { places: vec![Entry::default(); PLACES].into() }
    }

    /// Appends the pieces of a word, if it is there.
    #[inline]
    pub(super) fn get(&self, key: Key, pieces: &mut Vec<u32>) -> bool {
        let entry = &self.places[key.place];
        let found = entry.word == key.word && entry.len == key.len;
        if found {
            pieces.extend_from_slice(&entry.pieces[..entry.count.into()]);
        }
        found
    }

    /// Keeps the pieces of a word, unless there are too many.
    pub(super) fn put(&mut self, key: Key, pieces: &[u32]) {
        if pieces.len() > PIECES {
            return;
        }
        let mut entry = Entry { word: key.word, len: key.len, count: pieces.len() as u8, ..Entry::default() };
        entry.pieces[..pieces.len()].copy_from_slice(pieces);
        self.places[key.place] = entry;
    }
}

impl Key {
    /// Of `text[start..end]`, which isn't empty; none for a word that is too long to be kept.
    #[inline]
    pub(super) fn new(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let len = end - start;
        if len > LONGEST {
            return None;
        }
        let bytes = match text.get(start..start + LONGEST) {
            // One load, from which what lies behind the word is then taken away.
            Some(bytes) => bytes.try_into().unwrap_or_default(),
            None => {
                let mut bytes = [0; LONGEST];
                bytes[..len].copy_from_slice(&text[start..end]);
                bytes
            }
        };
        let word = u128::from_le_bytes(bytes) & u128::MAX >> (8 * (LONGEST - len));
        let word = [word as u64, (word >> 64) as u64];
        Some(Self { word, len: len as u8, place: place(word) })
    }
}

/// The two halves multiplied as foldhash does it, with odd constants (digits of π).
#[inline]
fn place([low, high]: [u64; 2]) -> usize {
    let product = u128::from(low ^ 0x243f_6a88_85a3_08d3) * u128::from(high ^ 0x1319_8a2e_0370_7345);
    let mixed = product as u64 ^ (product >> 64) as u64;
    mixed as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_as_itself_alone() {
        let mut cache = Cache::new();
        let text = b"abcdefghijklmnopqrstuvwxyz\0\0";
        let mut found = Vec::new();
        for start in 0..text.len() {
            for end in start + 1..=text.len() {
                let Some(key) = Key::new(text, start, end) else {
                    assert!(end - start > LONGEST);
                    continue;
                };
                // The same word with nothing behind it.
                let alone = Key::new(&text[start..end], 0, end - start).unwrap();
                assert_eq!((alone.word, alone.len, alone.place), (key.word, key.len, key.place));
                cache.put(key, &[start as u32, end as u32]);
                found.clear();
                assert!(cache.get(alone, &mut found));
                assert_eq!(found, [start as u32, end as u32]);
            }
        }
        // Zeros at a word's end belong to it.
        let [one, two] = [1, 2].map(|len| Key::new(&[0, 0], 0, len).unwrap());
        cache.put(one, &[1]);
        assert!(!cache.get(two, &mut found));
        // A place that nobody has taken is no word, and too many pieces aren't kept.
        let mut cache = Cache::new();
        assert!(!cache.get(one, &mut found));
        cache.put(one, &[0; PIECES + 1]);
        assert!(!cache.get(one, &mut found));
    }
}
