//! Against numbers by hand, by gensim 4.4.0 and by scipy 1.17.1.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::ranks::{median, spearman};
use super::*;
use crate::word2vec::{Analogy, Format, WordVectors};

/// Some words by their meanings, and noise. What gensim and scipy say of these files is below.
const VECTORS: &str = "\
16 6
the -0.375 -0.125 -0.75 0.125 1.0 0.875
king 0.75 -0.75 2.375 -0.375 -0.375 -0.375
Queen 0.875 -0.625 2.25 -0.25 -1.25 -1.0
man 0.25 1.0 0.625 0.875 -0.375 -0.625
woman 0.875 0.375 0.875 -0.5 -1.0 -0.5
prince 1.5 0.0 0.5 -0.125 -1.25 0.375
princess 1.0 -0.625 1.375 -0.25 -1.75 -0.25
boy 1.125 1.25 0.125 0.875 -0.625 -0.125
girl 1.375 0.875 0.125 -0.125 -1.875 0.125
paris -0.875 -1.25 -1.125 -1.125 1.375 -1.25
france -0.75 -1.125 -0.625 -0.25 0.375 -0.375
rome -1.375 -0.5 0.125 -1.375 0.0 -0.875
italy -0.25 0.0 -0.75 -0.5 0.125 0.25
London -2.125 -1.125 -0.5 -1.5 1.25 -0.375
england -1.125 -1.125 -1.25 -0.5 1.5 0.375
Paris -1.0 -0.5 0.625 0.375 0.25 -0.5
";

/// With ties, with words in other case, with unknown ones (kings, yak, gnu).
const PAIRS: &str = "\
# Word 1\tWord 2\tHuman (mean)
king\tqueen\t8.5
man\twoman\t8.5
boy\tgirl\t7
Paris\tfrance\t6.25
rome\titaly\t6.25
london\tengland\t7
prince\tprincess\t8
king\tboy\t3
the\trome\t0.5
man\titaly\t0.5
king\tkings\t9
yak\tgnu\t2
man\tman\t10
queen\tfrance\t1.5
";

fn vectors() -> WordVectors {
    WordVectors::read(Format::Text, VECTORS.as_bytes()).unwrap()
}

fn pairs() -> Pairs {
    Pairs::read(PAIRS.as_bytes()).unwrap()
}

/// Every two pairs of words of a kind; uncle, aunt, athens and greece are unknown.
fn questions() -> Questions {
    let capitals = [("paris", "france"), ("rome", "italy"), ("london", "england"), ("athens", "greece")];
    let family =
        [("man", "woman"), ("king", "queen"), ("boy", "girl"), ("prince", "princess"), ("uncle", "aunt")];
    let mut text = String::new();
    for (name, pairs) in [("capitals", &capitals[..]), ("gram-family", &family)] {
        text += &format!(": {name}\n");
        for (a, b) in pairs {
            for (c, d) in pairs.iter().filter(|(c, _)| c != a) {
                text += &format!("{a} {b} {c} {d}\n");
            }
        }
    }
    Questions::read(text.as_bytes()).unwrap()
}

#[track_caller]
fn near(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{got}, expected {want}");
}

/// `scipy.stats.spearmanr`, and a case by hand: of ranks 1, 2, 3 and 1½, 1½, 3 it is 1.5 /
/// √(2·1.5).
#[test]
fn rank_correlations_with_ties() {
    let scipy = spearman(&[1.0, 2.0, 2.0, 3.0, 5.0, 5.0, 5.0], &[2.0, 1.0, 2.0, 2.0, 9.0, 8.0, 9.0]);
    near(scipy, 0.823529411764706, 1e-14);
    near(spearman(&[1.0, 5.0, 9.0], &[0.0, -0.0, 4.0]), 1.5 / 3f64.sqrt(), 1e-14);
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[9.0, 8.0, -7.0]), -1.0);
    assert!(spearman(&[], &[]).is_nan() && spearman(&[1.0], &[1.0]).is_nan());
    assert!(spearman(&[1.0, 2.0], &[3.0, 3.0]).is_nan());
    assert_eq!(
        [median([]), median([3.0]), median([3.0, 1.0]), median([9.0, 1.0, 2.0])],
        [None, Some(3.0), Some(2.0), Some(2.0)]
    );
}

/// By `evaluate_word_pairs` where pairs are dropped, by `scipy.stats.spearmanr` with the median.
#[test]
fn similarities_are_those_of_gensim() {
    for (case, covered, dropped, kept) in [
        (Case::Ignored, 12, 0.8415701641687784, 0.7447554731648438),
        (Case::Kept, 9, 0.8823840971568188, 0.6605792580622173),
    ] {
        let rules = Rules::gensim().with_case(case);
        let found = similarity(&vectors(), &pairs(), &rules);
        assert_eq!((found.pairs, found.covered), (14, covered));
        near(found.spearman, dropped, 1e-12);
        let strict = similarity(&vectors(), &pairs(), &rules.with_unknown(Unknown::Median));
        assert_eq!((strict.pairs, strict.covered), (14, covered));
        near(strict.spearman, kept, 1e-12);
    }
    let none = WordVectors::new(["x"], 1, vec![1.0]).unwrap();
    let found = similarity(&none, &pairs(), &Rules::default());
    assert!(found.spearman.is_nan() && found.covered == 0 && found.pairs == 14);
}

/// By `evaluate_word_analogies`, which counts covered questions alone.
#[test]
fn analogies_are_those_of_gensim() {
    for (case, want) in [(Case::Ignored, [(2, 6), (5, 12)]), (Case::Kept, [(0, 2), (3, 6)])] {
        for threads in [1, 2, 7] {
            let rules = Rules::default().with_case(case).with_threads(NonZeroUsize::new(threads).unwrap());
            let found = analogies(&vectors(), &questions(), Analogy::CosAdd, &rules);
            let tallies: Vec<_> = found.sections.iter().map(|s| (s.tally.right, s.tally.covered)).collect();
            assert_eq!(tallies, want);
            let asked: Vec<_> = found.sections.iter().map(|s| (s.name.as_str(), s.tally.asked)).collect();
            assert_eq!(asked, [("capitals", 12), ("gram-family", 20)]);
            let total = found.total();
            assert_eq!(total.accuracy(), total.right as f64 / 32.0);
        }
    }
}

/// gensim's best: by `most_similar` Queen before princess, by `most_similar_cosmul` princess before
/// Queen (its ε is 10⁻⁶, so that scores are a little larger).
#[test]
fn single_analogies_are_those_of_gensim() {
    let vectors = vectors();
    let best = |method| vectors.analogy("man", "king", "woman", 3, method).unwrap();
    let names = |method| best(method).iter().map(|&(word, _)| word).collect::<Vec<_>>();
    assert_eq!(names(Analogy::CosAdd), ["Queen", "princess", "prince"]);
    assert_eq!(names(Analogy::CosMul), ["princess", "Queen", "prince"]);
    for ((_, score), want) in
        best(Analogy::CosMul).into_iter().zip([1.3113219738, 1.2760189772, 1.0728609368])
    {
        near(score, want, 2e-3 * want);
    }
}

#[test]
fn halves_are_disjoint_and_always_the_same() {
    let pairs = pairs();
    let (first, second) = pairs.halves();
    assert_eq!((first.len(), second.len()), (7, 7));
    let both = |pair: &Pair| first.as_slice().contains(pair) != second.as_slice().contains(pair);
    assert!(pairs.as_slice().iter().all(both));
    // Frozen: what was chosen by one half must not be reported on it by a later version.
    let names: Vec<&str> = first.as_slice().iter().map(|pair| pair.first.as_str()).collect();
    assert_eq!(names, ["king", "rome", "the", "man", "yak", "man", "queen"]);
    let (first, second) = questions().halves();
    assert_eq!((first.len(), second.len(), first.sections().len()), (16, 16, 2));
}

#[test]
fn files_that_are_none_are_refused_with_the_line() {
    for (text, message) in [
        ("a\tb\t1\na b 2\n", "line 2: expected two words and a number between tabs, got \"a b 2\""),
        ("\n#\na\tb\tc\n", "line 3: expected two words and a number between tabs, got \"a\\tb\\tc\""),
        ("a\tb\tnan\n", "line 1: expected two words and a number between tabs, got \"a\\tb\\tnan\""),
        ("a\t\t1\n", "line 1: expected two words and a number between tabs, got \"a\\t\\t1\""),
    ] {
        let error = Pairs::read(text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), format!("corrupt data: {message}"));
    }
    for (text, message) in [
        ("a b c d\n", "line 1: expected a line of a colon and a section's name first"),
        (": x\na b c\n", "line 2: expected four words, got \"a b c\""),
        (": x\na b c d e\n", "line 2: expected four words, got \"a b c d e\""),
    ] {
        let error = Questions::read(text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), format!("corrupt data: {message}"));
    }
    let error = Questions::read(&b": x\na b c \xff\n"[..]).unwrap_err();
    assert!(error.is_corrupt() && error.to_string().contains("line 2: "), "{error}");
    assert!(Pairs::load("no such file").unwrap_err().is_io());
    assert!(Questions::load("no such file").unwrap_err().is_io());
    let wrong = Pair { first: "a".into(), second: "b".into(), rating: f64::NAN };
    assert_eq!(Pairs::new(vec![wrong]).unwrap_err().argument(), Some("pairs"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Blocks, shares of threads and f32 are as one question after the other in f64, but where two
    /// words are about equally good.
    #[test]
    fn all_questions_at_once_are_answered_as_one_by_one(
        count in 1usize..200,
        dimension in 1usize..9,
        seed in any::<u32>(),
        threads in 1usize..5,
        asked in prop::collection::vec([0usize..200, 0..200, 0..200, 0..200], 1..12),
    ) {
        let number = |at: usize| crate::random::hash_words(&[seed, at as u32]) as f32 / u32::MAX as f32 - 0.4;
        let values = (0..count * dimension).map(number).collect();
        let vectors = WordVectors::new((0..count).map(|word| format!("w{word}")), dimension, values).unwrap();
        let lines = asked.iter().map(|words| words.map(|word| format!("w{word}")).join(" ") + "\n");
        for method in [Analogy::CosAdd, Analogy::CosMul] {
            for line in lines.clone() {
                let questions = Questions::read(format!(":x\n{line}").as_bytes()).unwrap();
                let rules = Rules::default().with_threads(NonZeroUsize::new(threads).unwrap());
                let total = analogies(&vectors, &questions, method, &rules).total();
                let words: Vec<&str> = line.split_whitespace().collect();
                let best = vectors.analogy(words[0], words[1], words[2], 2, method);
                let covered = best.is_some() && vectors.index(words[3]).is_some();
                prop_assert_eq!((total.asked, total.covered), (1, usize::from(covered)));
                let best = best.unwrap_or_default();
                let close = best.len() > 1 && best[0].1 - best[1].1 < 1e-5;
                if covered && !close {
                    let right = best.first().is_some_and(|&(word, _)| word == words[3]);
                    prop_assert_eq!(total.right == 1, right, "{} {:?}", line, best);
                }
            }
        }
    }
}
