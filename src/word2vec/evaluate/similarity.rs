//! Cosines beside people's ratings.

use super::lookup::Lookup;
use super::pairs::Pairs;
use super::ranks::{median, spearman};
use super::rules::{Rules, Unknown};
use crate::word2vec::vectors::WordVectors;

/// How well cosines order pairs of words as people do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// Spearman's rank correlation of cosines with ratings, from −1 to 1, with mean ranks of equal
    /// values. NaN where it isn't defined: less than two pairs, or all cosines or all ratings
    /// equal.
    pub spearman: f64,
    /// Pairs in the file.
    pub pairs: usize,
    /// The pairs among them whose words both have vectors.
    pub covered: usize,
}

/// Compares the cosines of pairs with people's ratings of them.
///
/// ```
/// use prflash::word2vec::{Pairs, Rules, Unknown, WordVectors, similarity};
/// let vectors = WordVectors::new(["cat", "dog", "car"], 2, vec![3.0, 1.0, 3.0, 2.0, -1.0, 4.0])?;
/// let pairs = Pairs::read("cat\tdog\t8.0\nCat\tcar\t1.5\ndog\tcar\t2.0\ncat\tyak\t5.0\n".as_bytes())?;
/// let found = similarity(&vectors, &pairs, &Rules::default());
/// assert_eq!((found.pairs, found.covered), (4, 3));
/// // The pair with an unknown word gets the median, which is that of dog and car: ranks 4, 1, 2½, 2½.
/// assert!((found.spearman - 0.9f64.sqrt()).abs() < 1e-12);
/// // Without that pair, as gensim judges.
/// let rules = Rules::default().with_unknown(Unknown::Dropped);
/// assert_eq!(similarity(&vectors, &pairs, &rules).spearman, 1.0);
/// assert_eq!(rules, Rules::gensim());
/// # Ok::<(), prflash::Error>(())
/// ```
pub fn similarity(vectors: &WordVectors, pairs: &Pairs, rules: &Rules) -> Similarity {
    let lookup = Lookup::new(vectors, rules.case);
    let cosines = pairs.as_slice().iter().map(|pair| {
        let (first, second) = (lookup.index(&pair.first)?, lookup.index(&pair.second)?);
        Some(vectors.cosine(first, second))
    });
    let cosines: Vec<Option<f64>> = cosines.collect();
    let unknown = match rules.unknown {
        Unknown::Median => median(cosines.iter().flatten().copied()),
        Unknown::Dropped => None,
    };
    let scored = pairs.as_slice().iter().zip(&cosines);
    let scored = scored.filter_map(|(pair, cosine)| Some((pair.rating, cosine.or(unknown)?)));
    let (ratings, scores): (Vec<f64>, Vec<f64>) = scored.unzip();
    Similarity {
        spearman: spearman(&ratings, &scores),
        pairs: pairs.len(),
        covered: cosines.iter().flatten().count(),
    }
}
