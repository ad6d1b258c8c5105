//! A text as the scanners read it: character by character, and whether they came to its end.

use super::classes::{self, Classes};

/// Bytes, and whether anything that was asked about them depends on what may follow them.
#[derive(Clone, Debug)]
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    /// Whether an answer could be another one if the text went on. A reader that has only a part
    /// of a text relies on it.
    pub(super) reached_end: bool,
    /// Bytes and characters that were looked at, counted as often as they were.
    #[cfg(test)]
    pub(super) steps: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            reached_end: false,
            #[cfg(test)]
            steps: 0,
        }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn step(&mut self, count: usize) {
        #[cfg(test)]
        {
            self.steps += count;
        }
        let _ = count;
    }

    /// The byte at a position.
    pub(super) fn byte(&mut self, at: usize) -> Option<u8> {
        self.step(1);
        self.reached_end |= at >= self.bytes.len();
        self.bytes.get(at).copied()
    }

    /// The class of the character at a position, and where the next one begins. At the end there
    /// is none: no class, and no way on.
    pub(super) fn char(&mut self, at: usize) -> (Classes, usize) {
        self.step(1);
        let Some(&byte) = self.bytes.get(at) else {
            self.reached_end = true;
            return (0, at);
        };
        match classes::of_byte(byte) {
            0 => self.long_char(at),
            class => (class, at + 1),
        }
    }

    /// A character that is not ASCII, or one byte that begins none.
    fn long_char(&mut self, at: usize) -> (Classes, usize) {
        let rest = &self.bytes[at..];
        let length = match rest[0] {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => return (classes::REST, at + 1),
        };
        // What is cut off might be whole in a longer text.
        self.reached_end |= rest.len() < length;
        match rest.get(..length).and_then(decoded) {
            Some(char) => (classes::of_char(char), at + length),
            None => (classes::REST, at + 1),
        }
    }

    /// Where the characters of these classes end that begin at a position.
    pub(super) fn run(&mut self, start: usize, wanted: Classes) -> usize {
        let mut at = start;
        let end = loop {
            let Some(&byte) = self.bytes.get(at) else {
                self.reached_end = true;
                break at;
            };
            let class = classes::of_byte(byte);
            if class & wanted != 0 {
                at += 1;
                continue;
            }
            if class != 0 {
                break at;
            }
            let (class, next) = self.long_char(at);
            if class & wanted == 0 {
                break at;
            }
            at = next;
        };
        self.step(end - start + 1);
        end
    }
}

/// The character that these 2 to 4 bytes are, the first of which is a leading byte of that length.
fn decoded(bytes: &[u8]) -> Option<char> {
    let (&first, rest) = bytes.split_first()?;
    let mut code = u32::from(first) & (0x7F >> bytes.len());
    for &byte in rest {
        if byte & 0xC0 != 0x80 {
            return None;
        }
        code = code << 6 | u32::from(byte & 0x3F);
    }
    // A code point has one form alone, its shortest.
    let least = if bytes.len() == 2 { 0x80 } else { 1 << (5 * bytes.len() - 4) };
    if code < least { None } else { char::from_u32(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sequence of up to three bytes, and of four where the last two are of few kinds, is a
    /// character to us if and only if it is one to the standard library.
    #[test]
    fn characters_are_those_of_utf_8() {
        let kinds = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF];
        let check = |bytes: &[u8]| {
            let length = std::str::from_utf8(bytes).ok().filter(|text| text.chars().count() == 1);
            let (class, next) = Text::new(bytes).char(0);
            match length.and_then(|text| text.chars().next()) {
                Some(char) => assert_eq!((class, next), (classes::of_char(char), bytes.len()), "{bytes:x?}"),
                None => assert!(next < bytes.len() || (next == 1 && class == classes::REST), "{bytes:x?}"),
            }
        };
        for first in 0..=u8::MAX {
            check(&[first]);
            for second in 0..=u8::MAX {
                check(&[first, second]);
                for third in kinds {
                    check(&[first, second, third]);
                    kinds.iter().for_each(|&fourth| check(&[first, second, third, fourth]));
                }
            }
        }
    }

    #[test]
    fn a_character_that_is_cut_off_reaches_the_end() {
        let crab = "🦀".as_bytes();
        for length in 1..=4 {
            let mut text = Text::new(&crab[..length]);
            assert_eq!(text.char(0), (classes::REST, if length == 4 { 4 } else { 1 }));
            assert_eq!(text.reached_end, length < 4);
        }
        for end in [&b"\xFF"[..], b"\x80", b"\xC0", b"a"] {
            let mut text = Text::new(end);
            assert_eq!(text.char(0).1, 1);
            assert!(!text.reached_end, "{end:x?}");
        }
    }
}
