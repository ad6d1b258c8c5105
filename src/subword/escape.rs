//! Any bytes in a line of a text file: `\t`, `\n`, `\r`, `\\`, and `\xNN` for a byte by its number.

/// The bytes that an escaped string stands for, or why it stands for none.
pub(super) fn unescaped(word: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, behind)) = rest.split_first() {
        let (byte, length) = match (byte, behind) {
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            (b'\\', [b'x', high, low, ..]) => {
                let digit =
                    |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (high, low) = digit(high).zip(digit(low)).ok_or_else(|| unknown(rest))?;
                (high << 4 | low, 4)
            }
            (b'\\', _) => return Err(unknown(rest)),
            _ => (byte, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    Ok(bytes)
}

fn unknown(escape: &[u8]) -> String {
    let length = escape.len().min(if escape.get(1) == Some(&b'x') { 4 } else { 2 });
    let escape = String::from_utf8_lossy(&escape[..length]);
    format!(r"expected one of the escapes \t, \n, \r, \\ and \xNN, got {escape}")
}

/// Appends bytes as UTF-8 without control characters: those, the backslash and bytes of no UTF-8
/// character are escaped.
pub(super) fn escape(word: &[u8], line: &mut Vec<u8>) {
    let by_number =
        |byte: u8, line: &mut Vec<u8>| line.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
    for chunk in word.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            match byte {
                b'\t' => line.extend_from_slice(b"\\t"),
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                b'\\' => line.extend_from_slice(b"\\\\"),
                _ if byte.is_ascii_control() => by_number(byte, line),
                _ => line.push(byte),
            }
        }
        chunk.invalid().iter().for_each(|&byte| by_number(byte, line));
    }
}
