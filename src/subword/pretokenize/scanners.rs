//! Where the word ends that begins at a position: one function for each pattern.
//!
//! Each gives what the first alternative of its regular expression that matches would give. The
//! classes of characters are few and don't overlap, so that the way of a backtracking engine can
//! be told beforehand, and each character is looked at a bounded number of times. No word is
//! empty, and no function looks at what is before the position.

use super::classes::{BREAK, CASELESS, Classes, LETTER, LOWER, MARK, NUMBER, SPACE, SYMBOL, UPPER, WHITE};
use super::text::Text;

/// `[^\r\n\p{L}\p{N}]`
const PREFIX: Classes = SYMBOL | SPACE;

/// `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(text: &mut Text<'_>, start: usize) -> usize {
    if let Some(end) = contraction(text, start, Case::Lower) {
        return end;
    }
    let body = behind_space(text, start);
    let wanted = match text.char(body).0 {
        class if class & LETTER != 0 => LETTER,
        NUMBER => NUMBER,
        class if class & SYMBOL != 0 => SYMBOL,
        _ => return white(text, start),
    };
    text.run(body, wanted)
}

/// The alternatives of cl100k_base, in their order:
/// - `'(?i:[sdmt]|ll|ve|re)`
/// - `[^\r\n\p{L}\p{N}]?+\p{L}++`
/// - `\p{N}{1,3}+`
/// - ` ?[^\s\p{L}\p{N}]++[\r\n]*+`
/// - `\s++$`
/// - `\s*[\r\n]`
/// - `\s+(?!\S)`
/// - `\s`
pub(super) fn cl100k(text: &mut Text<'_>, start: usize) -> usize {
    if let Some(end) = contraction(text, start, Case::Any) {
        return end;
    }
    let (class, next) = text.char(start);
    let letters = if class & PREFIX != 0 { next } else { start };
    let end = text.run(letters, LETTER);
    if end > letters {
        return end;
    }
    if class == NUMBER {
        return up_to_three_numbers(text, start);
    }
    let body = behind_space(text, start);
    let end = text.run(body, SYMBOL);
    if end > body {
        return text.run(end, BREAK);
    }
    let end = text.run(start, WHITE);
    if end == text.bytes().len() { end } else { to_last_break(text, start, end) }
}

/// The alternatives of o200k_base, in their order:
/// - `P?A*B+C?`, where `P` is `[^\r\n\p{L}\p{N}]`, `A` is `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`,
///   `B` is `[\p{Ll}\p{Lm}\p{Lo}\p{M}]` and `C` is `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
/// - `P?A+B*C?`
/// - `\p{N}{1,3}`
/// - ` ?[^\s\p{L}\p{N}]+[\r\n/]*`
/// - `\s*[\r\n]+`
/// - `\s+(?!\S)`
/// - `\s+`
pub(super) fn o200k(text: &mut Text<'_>, start: usize) -> usize {
    let (class, next) = text.char(start);
    if let Some(end) = cased(text, start, class, next) {
        return contraction(text, end, Case::Any).unwrap_or(end);
    }
    if class == NUMBER {
        return up_to_three_numbers(text, start);
    }
    let body = behind_space(text, start);
    let mut end = text.run(body, SYMBOL);
    if end > body {
        while matches!(text.byte(end), Some(b'\r' | b'\n' | b'/')) {
            end += 1;
        }
        return end;
    }
    let end = text.run(start, WHITE);
    to_last_break(text, start, end)
}

/// ` ?\S+|\s+(?!\S)|\s+`
pub(super) fn whitespace(text: &mut Text<'_>, start: usize) -> usize {
    let body = behind_space(text, start);
    let end = text.run(body, !WHITE);
    if end > body { end } else { white(text, start) }
}

/// `[^\n]*\n|[^\n]+`
pub(super) fn line(text: &mut Text<'_>, start: usize) -> usize {
    let line = &text.bytes()[start..];
    match line.iter().position(|&byte| byte == b'\n') {
        Some(index) => start + index + 1,
        None => text.run(start + line.len(), 0),
    }
}

/// Whether a contraction may stand in capitals.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    Lower,
    Any,
}

/// The end of `'(?:[sdmt]|ll|ve|re)`.
fn contraction(text: &mut Text<'_>, start: usize, case: Case) -> Option<usize> {
    if text.byte(start) != Some(b'\'') {
        return None;
    }
    let at = start + 1;
    let letter = |text: &mut Text<'_>, at| {
        let byte = text.byte(at)?;
        Some(if case == Case::Any { byte.to_ascii_lowercase() } else { byte })
    };
    match letter(text, at)? {
        b's' | b'd' | b'm' | b't' => Some(at + 1),
        b'l' => (letter(text, at + 1)? == b'l').then_some(at + 2),
        b'v' | b'r' => (letter(text, at + 1)? == b'e').then_some(at + 2),
        // The long s, ſ, which a regular expression that ignores the case takes for an s.
        0xC5 if case == Case::Any => (text.byte(at + 1)? == 0xBF).then_some(at + 2),
        _ => None,
    }
}

/// ` ?`: the position behind a space, if there is one.
fn behind_space(text: &mut Text<'_>, start: usize) -> usize {
    start + usize::from(text.byte(start) == Some(b' '))
}

/// `\p{N}{1,3}`, where the first is known to be there.
fn up_to_three_numbers(text: &mut Text<'_>, start: usize) -> usize {
    let mut at = start;
    for _ in 0..3 {
        match text.char(at) {
            (NUMBER, next) => at = next,
            _ => break,
        }
    }
    at
}

/// The first two alternatives of o200k_base without the contraction. The character at the start
/// is of this class, and the next one is there.
///
/// `A*` takes all it can, then `B+`, which shares the caseless letters and the marks with it. If
/// nothing is left for `B+`, then `A*` gives back all behind its last caseless letter or mark, and
/// that one too. If it took none, a prefix that is a mark becomes what `B+` takes; and if there is
/// no such prefix, the first alternative fails, and the second takes the capitals.
fn cased(text: &mut Text<'_>, start: usize, class: Classes, next: usize) -> Option<usize> {
    let letters = if class & PREFIX != 0 { next } else { start };
    let (mut first, mut last_caseless) = (letters, None);
    loop {
        let capitals = text.run(first, UPPER);
        first = text.run(capitals, CASELESS | MARK);
        if first == capitals {
            break;
        }
        last_caseless = Some(first);
    }
    let second = text.run(first, LOWER | CASELESS | MARK);
    if second > first {
        Some(second)
    } else if last_caseless.is_some() {
        last_caseless
    } else if class == MARK {
        Some(letters)
    } else {
        (first > letters).then_some(first)
    }
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`, for white space from `start` to `end`, and no further.
fn to_last_break(text: &mut Text<'_>, start: usize, end: usize) -> usize {
    let last = text.bytes()[start..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n'));
    last.map_or_else(|| white(text, start), |last| start + last + 1)
}

/// `\s+(?!\S)|\s+`: white space but for its last character, which may belong to the word behind
/// it. It is taken too if it is the only one, or if no word comes.
fn white(text: &mut Text<'_>, start: usize) -> usize {
    let end = text.run(start, WHITE);
    if end == text.bytes().len() {
        return end;
    }
    let is_first = |byte: &u8| byte & 0xC0 != 0x80;
    match text.bytes()[start..end].iter().rposition(is_first) {
        Some(last) if last > 0 => start + last,
        _ => end,
    }
}
