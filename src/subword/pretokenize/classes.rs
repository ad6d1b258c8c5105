//! What the patterns ask of a character: its class.

use std::sync::OnceLock;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// A class of characters, or several: one bit each. Every character is of exactly one class.
pub(super) type Classes = u8;

/// Upper-case and title-case letters (Lu, Lt).
pub(super) const UPPER: Classes = 1;
/// Lower-case letters (Ll).
pub(super) const LOWER: Classes = 1 << 1;
/// Letters that have no case (Lm, Lo).
pub(super) const CASELESS: Classes = 1 << 2;
/// Marks that combine with the letter before them (M).
pub(super) const MARK: Classes = 1 << 3;
/// Numbers (N), not only the decimal digits.
pub(super) const NUMBER: Classes = 1 << 4;
/// White space (the property `White_Space`) other than `\r` and `\n`.
pub(super) const SPACE: Classes = 1 << 5;
/// `\r` and `\n`.
pub(super) const BREAK: Classes = 1 << 6;
/// Everything else: punctuation, symbols, controls, unassigned code points. Bytes that are no
/// UTF-8 count among them.
pub(super) const REST: Classes = 1 << 7;

/// `\p{L}`
pub(super) const LETTER: Classes = UPPER | LOWER | CASELESS;
/// `\s`
pub(super) const WHITE: Classes = SPACE | BREAK;
/// `[^\s\p{L}\p{N}]`
pub(super) const SYMBOL: Classes = MARK | REST;

/// The class of a byte that is a character by itself; 0 for one of a longer character.
pub(super) fn of_byte(byte: u8) -> Classes {
    static TABLE: [Classes; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte as usize] = match byte {
                b'A'..=b'Z' => UPPER,
                b'a'..=b'z' => LOWER,
                b'0'..=b'9' => NUMBER,
                b'\r' | b'\n' => BREAK,
                b' ' | b'\t' | 0x0B | 0x0C => SPACE,
                _ => REST,
            };
            byte += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

/// The class of any character.
///
/// A look-up of the general category is a binary search. So classes are kept in a table, of which
/// a block of 256 is made when its first character comes: a text needs few of them.
pub(super) fn of_char(char: char) -> Classes {
    const BLOCK: usize = 256;
    static BLOCKS: [OnceLock<Box<[Classes; BLOCK]>>; 0x11_0000 / BLOCK] =
        [const { OnceLock::new() }; 0x11_0000 / BLOCK];
    let code = char as usize;
    let block = BLOCKS[code / BLOCK].get_or_init(|| {
        let first = code / BLOCK * BLOCK;
        // A surrogate is no `char`, so nobody asks for its class.
        let class = |index| u32::try_from(first + index).ok().and_then(char::from_u32).map_or(REST, search);
        Box::new(std::array::from_fn(class))
    });
    block[code % BLOCK]
}

fn search(char: char) -> Classes {
    match char {
        '\r' | '\n' => return BREAK,
        _ if char.is_whitespace() => return SPACE,
        _ => {}
    }
    match char.general_category() {
        GeneralCategory::UppercaseLetter | GeneralCategory::TitlecaseLetter => UPPER,
        GeneralCategory::LowercaseLetter => LOWER,
        GeneralCategory::ModifierLetter | GeneralCategory::OtherLetter => CASELESS,
        GeneralCategory::NonspacingMark | GeneralCategory::SpacingMark | GeneralCategory::EnclosingMark => {
            MARK
        }
        GeneralCategory::DecimalNumber | GeneralCategory::LetterNumber | GeneralCategory::OtherNumber => {
            NUMBER
        }
        _ => REST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_table_agrees_with_the_long_one() {
        for byte in 0..=u8::MAX {
            let expected = if byte.is_ascii() { of_char(char::from(byte)) } else { 0 };
            assert_eq!(of_byte(byte), expected, "{byte:#04x}");
        }
    }

    #[test]
    fn classes_of_a_few() {
        let expected = [
            ("AÉΩ\u{1C5}𝔸", UPPER),
            ("aßſ𝔞", LOWER),
            ("日אªʰ한", CASELESS),
            ("\u{301}\u{903}\u{20DD}", MARK),
            ("0٣²½Ⅷ", NUMBER),
            (" \t\u{85}\u{A0}\u{1680}\u{2009}\u{2028}\u{3000}", SPACE),
            ("\r\n", BREAK),
            ("!_€\0\u{200B}\u{FEFF}\u{E000}\u{10FFFF}🦀", REST),
        ];
        for (chars, class) in expected {
            for char in chars.chars() {
                assert_eq!(of_char(char), class, "{char:?}");
            }
        }
    }
}
