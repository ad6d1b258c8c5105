//! Bytes as printable characters, as GPT-2's vocabulary file began it and others took it over.

/// The character that stands for a byte: the byte itself where it is printable and no space in
/// Latin-1; the others, in their order, are the characters from U+0100 on.
fn char_of(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(&byte) {
        return byte.into();
    }
    let before = (0..byte).filter(|other| !printable(other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or_default()
}

/// Translates both ways.
pub(super) struct ByteLevel {
    chars: [char; 256],
}

impl ByteLevel {
    pub(super) fn new() -> Self {
        Self { chars: std::array::from_fn(|byte| char_of(byte as u8)) }
    }

    pub(super) fn text(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|&byte| self.chars[usize::from(byte)]).collect()
    }

    /// None where a character stands for no byte.
    pub(super) fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        let byte = |char| {
            // Most characters are themselves.
            let direct =
                u8::try_from(u32::from(char)).ok().filter(|&byte| self.chars[usize::from(byte)] == char);
            direct.or_else(|| self.chars.iter().position(|&other| other == char).map(|byte| byte as u8))
        };
        text.chars().map(byte).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_characters_and_all_bytes() {
        let level = ByteLevel::new();
        // A space, the end of a line, a tab and the soft hyphen, as in published vocabularies.
        assert_eq!(level.text(b" the\n\t\xAD"), "ĠtheĊĉŃ");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(level.bytes(&level.text(&all)), Some(all));
        assert_eq!(level.bytes("a b"), None);
    }
}
