//! The first line of a file.

use crate::limits::MAX_ELEMENTS;

/// The longest line that may be one: two numbers of 64 bits, and white space.
pub(super) const LONGEST: u64 = 64;

/// What the first line of a file promises.
pub(super) struct Header {
    pub words: usize,
    pub dimension: usize,
}

impl Header {
    /// The header in a line with its end, or why it is none.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let shown = || String::from_utf8_lossy(line).trim_end().to_owned();
        let wrong =
            || format!("expected the number of words and that of a vector's numbers, got {:?}", shown());
        let text = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
        let mut numbers = text.ok_or_else(wrong)?.split_ascii_whitespace().map(str::parse::<usize>);
        let (Some(Ok(words)), Some(Ok(dimension)), None) = (numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(wrong());
        };
        if dimension == 0 {
            return Err("expected vectors of at least one number".into());
        }
        if words.checked_mul(dimension).is_none_or(|numbers| numbers > MAX_ELEMENTS)
            || dimension > MAX_ELEMENTS
        {
            return Err(format!("expected at most {MAX_ELEMENTS} numbers, got {words} words × {dimension}"));
        }
        Ok(Self { words, dimension })
    }
}
