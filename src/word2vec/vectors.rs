//! Words with their vectors.

use crate::error::{Result, ensure};
use crate::limits::{MAX_ELEMENTS, at_most};

/// The ε of 3CosMul, which keeps from dividing by 0 (Levy and Goldberg 2014, section 6).
pub(super) const EPSILON: f64 = 0.001;

/// Words, the most frequent first, each with a vector of as many numbers as the others.
///
/// Words are compared by the cosine of the angle between their vectors; where one of them is zero
/// throughout, that is 0. Of words that are equally near, the earlier comes first.
///
/// ```
/// use prflash::word2vec::WordVectors;
/// let vectors = WordVectors::new(["north", "south", "up"], 2, vec![0.0, 2.0, 0.0, -1.0, 3.0, 3.0])?;
/// assert_eq!(vectors.get("up"), Some(&[3.0, 3.0][..]));
/// assert_eq!(vectors.similarity("north", "south"), Some(-1.0));
/// let [(word, cosine)] = vectors.nearest("north", 1).unwrap()[..] else { unreachable!() };
/// assert!(word == "up" && (cosine - 0.5f64.sqrt()).abs() < 1e-12);
/// // By any vector, not only that of a word.
/// assert_eq!(vectors.nearest_to(&[1.0, -1.0], 1)?[0].0, "south");
/// let vectors = vectors.with_counts(vec![7, 5, 2])?;
/// assert_eq!(vectors.index("up").zip(vectors.counts()).map(|(up, counts)| counts[up]), Some(2));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct WordVectors {
    words: Vec<String>,
    dimension: usize,
    /// A row for each word.
    values: Vec<f32>,
    /// The Euclidean length of each row.
    lengths: Vec<f64>,
    counts: Option<Vec<u64>>,
    /// The numbers of the words, in the order of their bytes.
    sorted: Vec<u32>,
}

/// How an analogy is completed: which x is to c as b is to a.
///
/// Both are those of Levy and Goldberg, *Linguistic Regularities in Sparse and Explicit Word
/// Representations* (2014). The words a, b and c are no answers.
///
/// ```
/// use prflash::word2vec::{Analogy, WordVectors};
/// let words = ["man", "woman", "king", "queen", "tree"];
/// let values = vec![1.0, 0.0, 0.0, 1.0, 2.0, 1.0, 1.0, 2.0, -1.0, -1.0];
/// let vectors = WordVectors::new(words, 2, values)?;
/// let found = vectors.analogy("man", "woman", "king", 1, Analogy::CosAdd);
/// assert_eq!(found.map(|found| found[0].0), Some("queen"));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Analogy {
    /// 3CosAdd: the largest cos(x, b) − cos(x, a) + cos(x, c). The x is that of the largest cosine
    /// with b − a + c, all three scaled to length 1.
    #[default]
    CosAdd,
    /// 3CosMul: the largest cos(x, b)·cos(x, c) / (cos(x, a) + ε), where cosines are moved to
    /// [0, 1] by (1 + cos)/2, and ε = 0.001.
    CosMul,
}

impl Analogy {
    /// The score of a word whose cosines with a, b and c these are.
    fn score(self, [a, b, c]: [f64; 3]) -> f64 {
        let positive = |cosine: f64| (1.0 + cosine) / 2.0;
        match self {
            Self::CosAdd => b - a + c,
            Self::CosMul => positive(b) * positive(c) / (positive(a) + EPSILON),
        }
    }
}

/// Whether a character divides words in files: the white space of ASCII. Others, such as the
/// no-break space, are parts of words in published vectors.
pub(super) fn divides(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

impl WordVectors {
    /// Of words and a row of `dimension` numbers for each, one row behind the other.
    ///
    /// # Errors
    /// - invalid argument (`dimension`) if it is 0
    /// - invalid argument (`words`) if one is empty, is there twice, or has a space or another
    ///   white space of ASCII, which divides words in files
    /// - invalid argument (`values`) if there are more or fewer than words × dimension, or one is
    ///   not finite
    /// - too large (`values`) past [`MAX_ELEMENTS`]
    pub fn new<W: Into<String>>(
        words: impl IntoIterator<Item = W>,
        dimension: usize,
        values: Vec<f32>,
    ) -> Result<Self> {
        let words: Vec<String> = words.into_iter().map(Into::into).collect();
        ensure!(dimension > 0, "dimension", "expected at least 1, got 0");
        let (count, want) = (words.len(), words.len().saturating_mul(dimension));
        at_most("values", want, MAX_ELEMENTS)?;
        let got = values.len();
        ensure!(got == want, "values", "expected {count} words × {dimension} numbers, got {got}");
        for (number, word) in words.iter().enumerate() {
            ensure!(!word.is_empty(), "words", "word {number} is empty");
            ensure!(!word.bytes().any(divides), "words", "word {number}, {word:?}, has white space");
        }
        // There are no more words than numbers.
        let mut sorted: Vec<u32> = (0..count as u32).collect();
        sorted.sort_unstable_by(|&a, &b| (&words[a as usize], a).cmp(&(&words[b as usize], b)));
        for pair in sorted.windows(2) {
            let [first, second] = [pair[0], pair[1]];
            let word = &words[first as usize];
            ensure!(*word != words[second as usize], "words", "words {first} and {second} are both {word:?}");
        }
        let length = |row: &[f32]| row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let lengths: Vec<f64> = values.chunks_exact(dimension).map(length).collect();
        // No sum of squares of finite f32 leaves f64.
        if let Some(number) = lengths.iter().position(|length| !length.is_finite()) {
            let row = &values[number * dimension..][..dimension];
            let value = row.iter().find(|value| !value.is_finite()).unwrap_or(&f32::NAN);
            let word = &words[number];
            ensure!(false, "values", "expected finite numbers, got {value} in the vector of {word:?}");
        }
        Ok(Self { words, dimension, values, lengths, counts: None, sorted })
    }

    /// The same with how often each word occurred in what they were trained on, which files don't
    /// keep.
    ///
    /// # Errors
    /// Invalid argument (`counts`) if there are more or fewer than words.
    pub fn with_counts(self, counts: Vec<u64>) -> Result<Self> {
        let (want, got) = (self.len(), counts.len());
        ensure!(got == want, "counts", "expected one for each of {want} words, got {got}");
        Ok(Self { counts: Some(counts), ..self })
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Numbers of a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The words in their order.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// All vectors, a row of [`dimension`](WordVectors::dimension) numbers for each word.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// How often each word occurred, where that is known.
    pub fn counts(&self) -> Option<&[u64]> {
        self.counts.as_deref()
    }

    /// The words with their vectors, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[f32])> + Clone {
        self.words.iter().map(String::as_str).zip(self.values.chunks_exact(self.dimension))
    }

    /// The number of a word in their order.
    pub fn index(&self, word: &str) -> Option<usize> {
        let found = self.sorted.binary_search_by(|&number| self.words[number as usize].as_str().cmp(word));
        found.ok().map(|at| self.sorted[at] as usize)
    }

    /// The vector of a word.
    pub fn get(&self, word: &str) -> Option<&[f32]> {
        self.index(word).map(|index| self.row(index))
    }

    /// The cosine of two words; none where one isn't there.
    pub fn similarity(&self, first: &str, second: &str) -> Option<f64> {
        Some(self.cosine(self.index(first)?, self.index(second)?))
    }

    /// The n words nearest to a word, which is not among them, with their cosines; none where it
    /// isn't there. Looks at all words.
    pub fn nearest(&self, word: &str, n: usize) -> Option<Vec<(&str, f64)>> {
        let index = self.index(word)?;
        Some(self.best(n, &[index], |other| self.cosine(index, other)))
    }

    /// The n words nearest to a vector, with their cosines. Looks at all words.
    ///
    /// # Errors
    /// Invalid argument (`vector`) if it is of another dimension or has a number that is not
    /// finite.
    pub fn nearest_to(&self, vector: &[f32], n: usize) -> Result<Vec<(&str, f64)>> {
        let (want, got) = (self.dimension, vector.len());
        ensure!(got == want, "vector", "expected {want} numbers, got {got}");
        ensure!(vector.iter().all(|value| value.is_finite()), "vector", "expected finite numbers");
        let length = dot(vector, vector).sqrt();
        let cosine = |other: usize| quotient(dot(vector, self.row(other)), length * self.lengths[other]);
        Ok(self.best(n, &[], cosine))
    }

    /// The n words that are to c as b is to a, the best first, with their scores; none where one of
    /// the three isn't there. Looks at all words.
    pub fn analogy(&self, a: &str, b: &str, c: &str, n: usize, method: Analogy) -> Option<Vec<(&str, f64)>> {
        let given = [self.index(a)?, self.index(b)?, self.index(c)?];
        Some(self.best(n, &given, |other| method.score(given.map(|index| self.cosine(index, other)))))
    }

    /// The n words of the largest scores, but for those that are excluded.
    fn best(&self, n: usize, excluded: &[usize], score: impl Fn(usize) -> f64) -> Vec<(&str, f64)> {
        let numbers = (0..self.len()).filter(|number| !excluded.contains(number));
        let mut scored: Vec<(f64, usize)> = numbers.map(|number| (score(number), number)).collect();
        let order = |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if n < scored.len() {
            scored.select_nth_unstable_by(n, order);
            scored.truncate(n);
        }
        scored.sort_unstable_by(order);
        scored.into_iter().map(|(score, number)| (self.words[number].as_str(), score)).collect()
    }

    /// The cosine of two words by their numbers.
    pub(super) fn cosine(&self, first: usize, second: usize) -> f64 {
        let product = dot(self.row(first), self.row(second));
        quotient(product, self.lengths[first] * self.lengths[second])
    }

    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimension..][..self.dimension]
    }

    /// The vector of a word, scaled to length 1 unless it is zero.
    pub(super) fn unit(&self, index: usize) -> impl Iterator<Item = f32> {
        let length = self.lengths[index];
        self.row(index).iter().map(move |&value| quotient(value.into(), length) as f32)
    }
}

fn dot(first: &[f32], second: &[f32]) -> f64 {
    first.iter().zip(second).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// 0 where the divisor is, which is never negative.
fn quotient(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 { dividend / divisor } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str], dimension: usize, values: Vec<f32>) -> (Option<&'static str>, String) {
        let error = WordVectors::new(words.iter().copied(), dimension, values).unwrap_err();
        (error.argument(), error.to_string())
    }

    #[test]
    fn what_is_no_table_of_vectors_is_refused() {
        let two = || vec![1.0, 2.0];
        for (words, dimension, values, message) in [
            (&["a"][..], 0, vec![], "dimension: expected at least 1, got 0"),
            (&["a", "b"], 2, two(), "values: expected 2 words × 2 numbers, got 2"),
            (&["a", ""], 1, two(), "words: word 1 is empty"),
            (&["a", "b c"], 1, two(), "words: word 1, \"b c\", has white space"),
            (&["a\u{b}", "b"], 1, two(), "words: word 0, \"a\\u{b}\", has white space"),
            (&["a", "a"], 1, two(), "words: words 0 and 1 are both \"a\""),
            (
                &["a"],
                2,
                vec![0.0, f32::NAN],
                "values: expected finite numbers, got NaN in the vector of \"a\"",
            ),
            (
                &["a"],
                2,
                vec![f32::INFINITY, 0.0],
                "values: expected finite numbers, got inf in the vector of \"a\"",
            ),
        ] {
            let (argument, text) = refused(words, dimension, values);
            assert_eq!((argument, text.as_str()), (message.split(':').next(), message));
        }
        let words = ["a", "b"];
        let error = WordVectors::new(words, usize::MAX, vec![]).unwrap_err();
        assert!(error.is_too_large() && error.argument() == Some("values"), "{error}");
        let error = WordVectors::new(words, 1, two()).unwrap().with_counts(vec![1]).unwrap_err();
        assert_eq!(error.to_string(), "counts: expected one for each of 2 words, got 1");
        // A no-break space is a part of a word.
        assert!(WordVectors::new(["a\u{a0}b"], 1, vec![1.0]).is_ok());
    }

    /// Directions of 0°, 90°, 180°, 60°, 30°, of many lengths, and zero.
    fn compass() -> WordVectors {
        let half = 0.75f32.sqrt();
        let values =
            vec![2.0, 0.0, 0.0, 3.0, -0.5, 0.0, 5.0, 10.0 * half, 1e30, 0.0, 4.0 * half, 2.0, 0.0, 0.0];
        WordVectors::new(["east", "north", "west", "sixty", "far", "thirty", "zero"], 2, values).unwrap()
    }

    fn names<'w>(found: &[(&'w str, f64)]) -> Vec<&'w str> {
        found.iter().map(|&(word, _)| word).collect()
    }

    #[test]
    fn words_are_found_and_ordered_by_cosine() {
        let vectors = compass();
        assert_eq!((vectors.len(), vectors.dimension(), vectors.index("west")), (7, 2, Some(2)));
        assert_eq!((vectors.get("none"), vectors.index(""), vectors.counts()), (None, None, None));
        assert_eq!(vectors.iter().nth(1), Some(("north", &[0.0, 3.0][..])));
        let near = vectors.nearest("east", 4).unwrap();
        // Zero and north are equally far: the earlier comes first.
        assert_eq!(names(&near), ["far", "thirty", "sixty", "north"]);
        for ((_, cosine), want) in near.iter().zip([1.0, 0.75f64.sqrt(), 0.5, 0.0]) {
            assert!((cosine - want).abs() < 1e-6, "{cosine} {want}");
        }
        assert_eq!(names(&vectors.nearest("east", 99).unwrap())[3..], ["north", "zero", "west"]);
        assert_eq!(names(&vectors.nearest_to(&[1e-30, 0.0], 2).unwrap()), ["east", "far"]);
        assert_eq!(vectors.nearest_to(&[0.0, 0.0], 1).unwrap(), [("east", 0.0)]);
        assert_eq!(vectors.nearest("none", 1), None);
        assert_eq!(vectors.nearest("east", 0), Some(vec![]));
        assert!((vectors.similarity("far", "west").unwrap() + 1.0).abs() < 1e-12);
        for vector in [&[1.0][..], &[1.0, f32::NAN]] {
            assert_eq!(vectors.nearest_to(vector, 1).unwrap_err().argument(), Some("vector"));
        }
    }

    /// By hand: sixty is to thirty as thirty is to east, and 3CosMul weighs each cosine.
    #[test]
    fn analogies_by_both_methods() {
        let vectors = compass();
        let add = vectors.analogy("east", "thirty", "thirty", 2, Analogy::CosAdd).unwrap();
        // 2·cos(30°) − cos(60°) = 1.232; north: 2·cos(60°) − cos(90°) = 1.
        assert_eq!(names(&add), ["sixty", "north"]);
        assert!((add[0].1 - (3f64.sqrt() - 0.5)).abs() < 1e-6 && (add[1].1 - 1.0).abs() < 1e-6, "{add:?}");
        let mul = vectors.analogy("east", "thirty", "thirty", 3, Analogy::CosMul).unwrap();
        // West, opposite to east, is divided by ε: ((1 − cos 30°)/2)² / ε. Sixty:
        // ((1 + cos 30°)/2)² / (3/4 + ε); north: ((1 + 1/2)/2)² / (1/2 + ε).
        let square = |cosine: f64| ((1.0 + cosine) / 2.0).powi(2);
        let want = [square(-(0.75f64.sqrt())) / 0.001, square(0.75f64.sqrt()) / 0.751, square(0.5) / 0.501];
        assert_eq!(names(&mul), ["west", "sixty", "north"]);
        for ((_, score), want) in mul.into_iter().zip(want) {
            assert!((score - want).abs() < 1e-5, "{score} {want}");
        }
        assert_eq!(vectors.analogy("east", "none", "west", 1, Analogy::CosAdd), None);
    }
}
