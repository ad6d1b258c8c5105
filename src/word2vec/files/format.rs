//! The formats of files with vectors.

use std::path::Path;

/// A format of the word2vec tool. Both begin with a line that has the number of words and that of
/// the numbers of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A line for each word: it and its numbers, with spaces between. Numbers are written in the
    /// fewest digits that give the same f32 again.
    Text,
    /// Each word, a space, and its numbers as little-endian f32. Written without a line end behind
    /// each vector, as gensim does it, so that a file that is cut off anywhere shows it; the
    /// original tool has one.
    Binary,
}

impl Format {
    /// By the end of a file's name: [`Binary`](Format::Binary) for `.bin`, else
    /// [`Text`](Format::Text).
    pub fn of(path: impl AsRef<Path>) -> Self {
        let binary = path.as_ref().extension().is_some_and(|extension| extension.eq_ignore_ascii_case("bin"));
        if binary { Self::Binary } else { Self::Text }
    }
}
