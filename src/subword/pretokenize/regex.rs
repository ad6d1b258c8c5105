//! The patterns as regular expressions, for programs that have these and not our scanners.

use super::Pattern;

impl Pattern {
    /// A regular expression whose matches, one behind the other, are the words of a text: what
    /// other programs need to cut as this one does. It uses Unicode's categories, one look ahead
    /// and no feature beyond, so Oniguruma, PCRE, Python's `regex` and `fancy-regex` have it.
    ///
    /// That of [`Cl100k`](Pattern::Cl100k) is written without the quantifiers that give nothing
    /// back (`?+`, `++`), which mean another thing in Oniguruma; its matches are the same.
    pub const fn regex(self) -> &'static str {
        match self {
            Self::Gpt2 => r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            Self::Cl100k => concat!(
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|",
                r"\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
            ),
            Self::O200k => concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
                r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            Self::Whitespace => r" ?\S+|\s+(?!\S)|\s+",
            Self::None => r"[^\n]*\n|[^\n]+",
        }
    }
}
