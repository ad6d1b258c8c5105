//! Texts read piece by piece, and their words counted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::pretokenize::Pattern;
use super::word_counts::WordCounts;
use crate::error::{Error, Result, ensure};

/// What is read of a text at once.
const CHUNK: usize = 1 << 18;

type Counts = HashMap<Box<[u8]>, u64, foldhash::fast::RandomState>;

impl WordCounts {
    /// The words of a text, which is read to its end.
    ///
    /// Memory is needed for the distinct words, not for the text. The table is that of the whole
    /// text: a word at the end of what has been read is held back until so much more has been read
    /// that nothing behind it can change it.
    ///
    /// ```
    /// use prflash::subword::{Pattern, WordCounts};
    /// let table = WordCounts::from_text(&b"the cat and the dog"[..], Pattern::Gpt2)?;
    /// assert_eq!((table.count("the"), table.count(" the"), table.count(" cat")), (1, 1, 1));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`is_io`](Error::is_io) if the reader fails.
    pub fn from_text(reader: impl Read, pattern: Pattern) -> Result<Self> {
        let mut counts = Counts::default();
        count(reader, pattern, CHUNK, &mut counts).map_err(|error| Error::io("reading a text", error))?;
        Self::from_counts(counts)
    }

    /// The words of several files, each a text by itself, read by as many threads as are given,
    /// one file a thread at a time. The table doesn't depend on their number.
    ///
    /// # Errors
    /// - an invalid argument (`threads`) if there are none
    /// - [`is_io`](Error::is_io) if a file can't be read: the first of those, in the order of
    ///   `paths`
    pub fn from_files<P: AsRef<Path> + Sync>(paths: &[P], pattern: Pattern, threads: usize) -> Result<Self> {
        ensure!(threads > 0, "threads", "expected at least 1, got 0");
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        // Files are begun in their order, and what was begun is finished. So no file before the
        // first that failed is left unread, and the same error is reported each time.
        let work = || {
            let mut counts = Counts::default();
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(path) = paths.get(index).map(AsRef::as_ref) else { break };
                let read = File::open(path).and_then(|file| count(file, pattern, CHUNK, &mut counts));
                if let Err(error) = read {
                    failed.store(true, Ordering::Relaxed);
                    return Err((index, Error::io(format!("reading {}", path.display()), error)));
                }
            }
            Ok(counts)
        };
        let results = thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(paths.len())).map(|_| scope.spawn(work)).collect();
            let ours = work();
            let others =
                others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            std::iter::once(ours).chain(others).collect::<Vec<_>>()
        });
        let (mut tables, mut first_error) = (Vec::new(), None::<(usize, Error)>);
        for result in results {
            match result {
                Ok(counts) => tables.push(counts),
                Err(error) if first_error.as_ref().is_none_or(|first| error.0 < first.0) => {
                    first_error = Some(error);
                }
                Err(_) => {}
            }
        }
        match first_error {
            Some((_, error)) => Err(error),
            None => Self::from_counts(tables.into_iter().flatten()),
        }
    }
}

/// Adds the words of a text to a table.
///
/// The buffer holds what has been read and not been cut yet. It is filled before it is cut, and it
/// grows once a word that is not settled takes more than half of it. So a byte is looked at again
/// only after as many new ones have come, and time is linear however long a word is.
fn count(mut reader: impl Read, pattern: Pattern, chunk: usize, counts: &mut Counts) -> io::Result<()> {
    let mut buffer = vec![0; chunk];
    let mut filled = 0;
    loop {
        let ended = fill(&mut reader, &mut buffer, &mut filled)?;
        let mut words = pattern.split(&buffer[..filled]);
        while let Some(word) = if ended { words.next() } else { words.next_settled() } {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(word.into(), 1);
                }
            }
        }
        if ended {
            return Ok(());
        }
        let left = words.rest().len();
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
        if left > buffer.len() / 2 {
            buffer.resize(2 * buffer.len(), 0);
        }
    }
}

/// Reads until the buffer is full (`false`) or the text has ended (`true`).
fn fill(reader: &mut impl Read, buffer: &mut [u8], filled: &mut usize) -> io::Result<bool> {
    while *filled < buffer.len() {
        match reader.read(&mut buffer[*filled..]) {
            Ok(0) => return Ok(true),
            Ok(count) => *filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    /// Gives a text in small pieces, with interruptions, and may fail at its end.
    struct Slow<'a> {
        text: &'a [u8],
        step: usize,
        calls: usize,
        fails: bool,
    }

    impl<'a> Slow<'a> {
        fn new(text: &'a [u8], step: usize) -> Self {
            Self { text, step, calls: 0, fails: false }
        }
    }

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.fails && self.text.is_empty() {
                return Err(io::Error::other("unplugged"));
            }
            let length = self.step.min(buffer.len());
            self.text.take(length as u64).read(buffer).inspect(|&count| self.text = &self.text[count..])
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn chunks_leave_no_trace(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "a", "B", "the", " ", "  ", "\n", "\r\n", "'", "'s", "'LL", "1", "12345", "!", "//", "日", "\u{301}",
                "\u{3000}", "🦀", "AAAAAAAAAA",
            ]), 0..40),
            spoiled in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            chunk in 1usize..20,
            step in 1usize..9,
        ) {
            let mut text = pieces.concat().into_bytes();
            if let (Some((index, byte)), false) = (spoiled, text.is_empty()) {
                let index = index.index(text.len());
                text[index] = byte;
            }
            for pattern in Pattern::ALL {
                let whole = WordCounts::from_words(pattern.split(&text)).unwrap();
                let mut counts = Counts::default();
                count(Slow::new(&text, step), pattern, chunk, &mut counts).unwrap();
                prop_assert_eq!(&WordCounts::from_counts(counts).unwrap(), &whole, "{}", pattern);
                prop_assert_eq!(&WordCounts::from_text(&text[..], pattern).unwrap(), &whole, "{}", pattern);
            }
        }
    }

    #[test]
    fn words_longer_than_a_chunk() {
        for unit in ["a", "A", "日", " ", "\n", "!", "1", "\u{301}", "\u{3000}"] {
            let text =
                [unit.repeat(3 * CHUNK / unit.len()), "日".into(), unit.repeat(CHUNK), "'s".into()].concat();
            for pattern in Pattern::ALL {
                let table = WordCounts::from_text(text.as_bytes(), pattern).unwrap();
                let whole = WordCounts::from_words(pattern.split(text.as_bytes())).unwrap();
                assert!(table == whole, "{pattern}, {unit:?}");
            }
        }
    }

    #[test]
    fn the_buffer_follows_the_longest_word() {
        /// Remembers for how much it was asked at once, which is what was free in the buffer.
        struct Asked<'a>(&'a [u8], usize);
        impl Read for Asked<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1 = self.1.max(buffer.len());
                self.0.read(buffer)
            }
        }
        let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
        let text = text.repeat(20);
        for pattern in Pattern::ALL {
            let mut reader = Asked(&text, 0);
            count(&mut reader, pattern, 256, &mut Counts::default()).unwrap();
            let longest = pattern.split(&text).map(<[u8]>::len).max().unwrap();
            let asked = reader.1;
            assert!(asked <= 256.max(4 * longest), "{pattern}: {asked} bytes, {longest} the longest word");
        }
    }

    #[test]
    fn a_reader_that_fails() {
        let reader = Slow { fails: true, ..Slow::new(b"some words", 4) };
        let error = WordCounts::from_text(reader, Pattern::Gpt2).unwrap_err();
        assert!(error.is_io());
        assert_eq!(error.to_string(), "reading a text: unplugged");
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.unwrap().kind(), io::ErrorKind::Other);
    }

    #[test]
    fn any_number_of_threads() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths: Vec<PathBuf> =
            ["README.md", "ARCHITECTURE.md", "Cargo.toml", "README.md"].map(|file| root.join(file)).into();
        let mut whole = WordCounts::default();
        for path in &paths {
            let file = WordCounts::from_text(File::open(path).unwrap(), Pattern::O200k).unwrap();
            whole = whole.merged(&file).unwrap();
        }
        for threads in [1, 2, 3, 9] {
            assert!(WordCounts::from_files(&paths, Pattern::O200k, threads).unwrap() == whole, "{threads}");
        }
        assert!(WordCounts::from_files::<&str>(&[], Pattern::Gpt2, 4).unwrap().is_empty());
        let error = WordCounts::from_files(&paths, Pattern::Gpt2, 0).unwrap_err();
        assert_eq!(error.argument(), Some("threads"));

        paths.insert(1, root.join("none-1"));
        paths.push(root.join("none-2"));
        for threads in [1, 2, 5] {
            let error = WordCounts::from_files(&paths, Pattern::Gpt2, threads).unwrap_err();
            assert!(error.is_io() && error.to_string().contains("none-1"), "{error}");
        }
    }
}
