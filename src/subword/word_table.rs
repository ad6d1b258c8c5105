//! Tables of words as text files.

use std::io::{BufRead, BufWriter, Write};

use super::escape::{escape, unescaped};
use super::word_counts::WordCounts;
use crate::error::{Error, Result};

impl WordCounts {
    /// Reads a table that [`write_table`](WordCounts::write_table) wrote, or any that has a word, a
    /// tab and a count in each line. Lines may come in any order and end in `\n` or `\r\n`; counts
    /// of equal words add up.
    ///
    /// In a word, `\t`, `\n`, `\r` and `\\` are a tab, the ends of lines and a backslash; `\xNN` is
    /// the byte with this hexadecimal number. All other bytes are themselves.
    ///
    /// ```
    /// use prflash::subword::WordCounts;
    /// let table = WordCounts::read_table(&b" the\t12\n\\n\\xff\t3\n"[..])?;
    /// assert_eq!((table.count(" the"), table.count(b"\n\xFF")), (12, 3));
    /// let error = WordCounts::read_table(&b"the\t12\ncat 3\n"[..]).unwrap_err();
    /// assert!(error.is_corrupt());
    /// assert_eq!(error.to_string(), "corrupt data: line 2: there is no tab");
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`is_corrupt`](Error::is_corrupt) if a line is none of a table; it is named with the
    ///   reason
    /// - [`is_io`](Error::is_io) if the reader fails
    /// - too large (`counts`) as for [`from_counts`](WordCounts::from_counts)
    pub fn read_table(mut reader: impl BufRead) -> Result<Self> {
        let mut counts = Vec::new();
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            if read.map_err(|error| Error::io("reading a table of words", error))? == 0 {
                break;
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let entry = entry(line).map_err(|reason| Error::corrupt(format!("line {number}: {reason}")))?;
            counts.push(entry);
        }
        Self::from_counts(counts)
    }

    /// Writes one line a word, in the order of their bytes: the word, a tab, its count.
    ///
    /// The file is UTF-8 whatever the words are: control characters, the backslash and bytes of no
    /// UTF-8 character are escaped as [`read_table`](WordCounts::read_table) has it.
    ///
    /// # Errors
    /// [`is_io`](Error::is_io) if the writer fails.
    pub fn write_table(&self, writer: impl Write) -> Result<()> {
        let mut writer = BufWriter::new(writer);
        let mut line = Vec::new();
        let written = self.iter().try_for_each(|(word, count)| {
            line.clear();
            escape(word, &mut line);
            writer.write_all(&line)?;
            writeln!(writer, "\t{count}")
        });
        written.and_then(|()| writer.flush()).map_err(|error| Error::io("writing a table of words", error))
    }
}

/// What a line says, or why it says nothing.
fn entry(line: &[u8]) -> Result<(Vec<u8>, u64), String> {
    let tab = line.iter().position(|&byte| byte == b'\t').ok_or("there is no tab")?;
    let (word, count) = (&line[..tab], &line[tab + 1..]);
    if word.is_empty() {
        return Err("the word is empty".into());
    }
    let digits = !count.is_empty() && count.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(count).ok().filter(|_| digits).and_then(|count| count.parse().ok());
    let number = number.ok_or_else(|| {
        format!("expected a count below 2⁶⁴ behind the tab, got {:?}", String::from_utf8_lossy(count))
    })?;
    Ok((unescaped(word)?, number))
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;

    use super::*;

    fn written(table: &WordCounts) -> Vec<u8> {
        let mut file = Vec::new();
        table.write_table(&mut file).unwrap();
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn a_table_comes_back(words in prop::collection::vec((
            prop::collection::vec(prop_oneof![
                any::<u8>(),
                prop::sample::select(b"\t\n\r\\xnt0 ".to_vec()),
                prop::sample::select("é日🦀\u{85}\u{2028}".as_bytes().to_vec()),
            ], 0..8),
            prop_oneof![0u64..100, 0u64..1 << 60],
        ), 0..8)) {
            let table = WordCounts::from_counts(words).unwrap();
            let file = written(&table);
            prop_assert!(std::str::from_utf8(&file).is_ok());
            prop_assert_eq!(&WordCounts::read_table(&file[..]).unwrap(), &table);
            // As a tool may leave it: other ends of lines, and none at the end.
            let other = String::from_utf8(file).unwrap().replace('\n', "\r\n");
            prop_assert_eq!(&WordCounts::read_table(other.trim_end().as_bytes()).unwrap(), &table);
        }
    }

    #[test]
    fn what_is_written() {
        let words = [
            (&b" the"[..], 2),
            (b"\t\n\r\\", 1),
            (b"\0\x1B\x7F", 3),
            ("日é".as_bytes(), 4),
            (b"\xE6\x97", 1 << 40),
        ];
        let file = written(&WordCounts::from_counts(words).unwrap());
        let expected = "\\x00\\x1b\\x7f\t3\n\\t\\n\\r\\\\\t1\n the\t2\n\\xe6\\x97\t1099511627776\n日é\t4\n";
        assert_eq!(String::from_utf8(file).unwrap(), expected);
    }

    #[test]
    fn what_is_read() {
        let table =
            WordCounts::read_table(&b"b\t1\na\t2\nb\t3\r\n\\xFf\\x0a\t1\nc\t0\nd\xFF\t007"[..]).unwrap();
        let expected = [(&b"a"[..], 2), (b"b", 4), (b"d\xFF", 7), (b"\xFF\n", 1)];
        assert_eq!(table.iter().collect::<Vec<_>>(), expected);
        assert!(WordCounts::read_table(&b""[..]).unwrap().is_empty());
    }

    #[test]
    fn lines_that_are_none() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "there is no tab"),
            (b"cat 3", "there is no tab"),
            (b"\t3", "the word is empty"),
            (b"cat\t", r#"expected a count below 2⁶⁴ behind the tab, got """#),
            (b"cat\t+3", r#"expected a count below 2⁶⁴ behind the tab, got "+3""#),
            (b"a\tb\t3", r#"expected a count below 2⁶⁴ behind the tab, got "b\t3""#),
            (b"cat\t18446744073709551616", "got \"18446744073709551616\""),
            (b"c\\at\t3", r"expected one of the escapes \t, \n, \r, \\ and \xNN, got \a"),
            (b"c\\\t3", r"and \xNN, got \"),
            (b"c\\x1\t3", r"and \xNN, got \x1"),
            (b"c\\x1g2\t3", r"and \xNN, got \x1g"),
        ];
        for &(line, reason) in cases {
            let file = [b"the\t1\n", line, b"\nend\t1\n"].concat();
            let error = WordCounts::read_table(&file[..]).unwrap_err();
            assert!(error.is_corrupt(), "{error}");
            let message = error.to_string();
            assert!(message.starts_with("corrupt data: line 2: ") && message.ends_with(reason), "{message}");
        }
        let error = WordCounts::read_table(&b"a\t18446744073709551615\na\t1\n"[..]).unwrap_err();
        assert!(error.is_too_large() && error.argument() == Some("counts"), "{error}");
    }

    #[test]
    fn files_that_fail() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("unplugged"))
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("unplugged"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = WordCounts::read_table(io::BufReader::new(Broken)).unwrap_err();
        assert!(error.is_io() && error.to_string() == "reading a table of words: unplugged", "{error}");
        let table = WordCounts::from_words(["a"]).unwrap();
        let error = table.write_table(Broken).unwrap_err();
        assert!(error.is_io() && error.to_string() == "writing a table of words: unplugged", "{error}");
    }
}
