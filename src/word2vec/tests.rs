//! What the host decides: corpora, draws, batches.

use std::collections::HashMap;

use proptest::prelude::*;

use super::batch::{Batch, Batches, RUN};
use super::corpus::{Corpus, CorpusOptions};
use super::draws::Draws;
use super::options::{Architecture, Options};
use crate::random::hash_words;

fn read(text: &str, min_count: u64) -> crate::Result<Corpus> {
    Corpus::read(text.as_bytes(), CorpusOptions::new().with_min_count(min_count))
}

#[test]
fn a_text_becomes_numbers_of_words() {
    let corpus = read("b a b\n\n rare b\tc\u{a0}d a\n", 2).unwrap();
    assert_eq!(corpus.vocabulary().words(), ["b", "a"]);
    assert_eq!(corpus.vocabulary().counts(), [3, 2]);
    assert_eq!((corpus.tokens(), corpus.sentence_ends()), (&[0, 1, 0, 0, 1][..], &[3, 5][..]));
    assert_eq!((corpus.words(), corpus.cut_sentences()), (7, 0));
    assert_eq!(corpus.vocabulary().number("a"), Some(1));
    assert_eq!(corpus.vocabulary().number("rare"), None);
}

#[test]
fn long_sentences_are_cut_and_counted() {
    let options = CorpusOptions::new().with_min_count(1).with_longest(3).unwrap();
    let corpus = Corpus::read("a b c d e f g\na b c\n".as_bytes(), options).unwrap();
    assert_eq!((corpus.sentence_ends(), corpus.cut_sentences()), (&[3, 6, 7, 10][..], 2));
}

#[test]
fn refusals_name_the_argument_or_the_line() {
    let none = read("a b c", 2).unwrap_err();
    assert_eq!(none.argument(), Some("text"));
    assert!(none.to_string().contains("at least 2 times, got none among 3"), "{none}");
    let broken = Corpus::read(&b"fine\nbro\xffken\n"[..], CorpusOptions::new()).unwrap_err();
    assert!(broken.is_corrupt() && broken.to_string().contains("line 2"), "{broken}");
    let base = || Options::new(Architecture::SkipGram);
    for (refused, argument) in [
        (base().with_dimension(0), "dimension"),
        (base().with_dimension(513), "dimension"),
        (base().with_window(0), "window"),
        (base().with_window(65), "window"),
        (base().with_negative(0), "negative"),
        (base().with_shared(24), "shared"),
        (base().with_sample(f64::NAN), "sample"),
        (base().with_ns_exponent(3.0), "ns_exponent"),
        (base().with_rates(0.1, 0.2), "rates"),
        (base().with_rates(0.1, 0.0), "rates"),
        (base().with_epochs(0), "epochs"),
        (base().with_batch(0), "batch"),
        (base().with_batch(4097), "batch"),
        (base().with_cap(0), "cap"),
    ] {
        assert_eq!(refused.unwrap_err().argument(), Some(argument));
    }
    assert_eq!(CorpusOptions::new().with_longest(0).unwrap_err().argument(), Some("longest"));
}

#[cfg(feature = "serde")]
#[test]
fn options_are_read_as_strictly_as_they_are_set() {
    let options = Options::new(Architecture::BagOfWords).with_window(7).unwrap().with_seed(u64::MAX);
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
    for (from, to) in [("\"batch\":4096", "\"batch\":0"), ("\"window\":7", "\"window\":65")] {
        let broken = text.replace(from, to);
        assert_ne!(broken, text);
        let error = serde_json::from_str::<Options>(&broken).unwrap_err().to_string();
        assert!(error.contains(from[1..].split('"').next().unwrap()), "{error}");
    }
}

/// Tokens of words by a law like Zipf's.
fn zipf(tokens: u32) -> Corpus {
    let word = |at: u32| 2f64.powf(7.0 * f64::from(hash_words(&[at])) / 4_294_967_296.0) as u32;
    let text: Vec<String> = (0..tokens).map(|at| format!("w{}", word(at))).collect();
    let lines: Vec<String> = text.chunks(17).map(|line| line.join(" ")).collect();
    read(&lines.join("\n"), 1).unwrap()
}

/// Draws have the probabilities that they are said to have, within four standard errors.
#[test]
fn draws_are_as_likely_as_they_should_be() {
    let corpus = zipf(40_000);
    let vocabulary = corpus.vocabulary();
    let options = Options::new(Architecture::SkipGram).with_sample(1e-2).unwrap();
    let draws = Draws::new(vocabulary, &options);
    let epoch = draws.epoch(3);
    let n = 200_000u32;
    let near = |count: usize, p: f64| {
        let (mean, error) = (f64::from(n) * p, (f64::from(n) * p * (1.0 - p)).sqrt());
        assert!((count as f64 - mean).abs() <= 4.0 * error + 2.0, "{count} of {n} at p = {p}");
    };
    let total: u64 = vocabulary.counts().iter().sum();
    for word in [0u32, 3, 40] {
        let part = 1e-2 * total as f64 / vocabulary.counts()[word as usize] as f64;
        let kept = (0..n).filter(|&place| epoch.keeps(place, word)).count();
        near(kept, (part.sqrt() + part).min(1.0));
    }
    for width in 1..=5 {
        near((0..n).filter(|&place| epoch.window(place) == width).count(), 0.2);
    }
    let weight = |count: u64| (count as f64).powf(0.75);
    let all: f64 = vocabulary.counts().iter().map(|&count| weight(count)).sum();
    for word in [0u32, 5, 100] {
        let drawn = (0..n).filter(|&place| epoch.negative(place, place % 7) == word).count();
        near(drawn, weight(vocabulary.counts()[word as usize]) / all);
    }
    let other = draws.epoch(4);
    assert!((0..100).any(|place| epoch.window(place) != other.window(place)));
}

/// Each centre with the words of its window, in the order of the corpus.
fn windows(batches: &mut Batches<'_>, epoch: u32) -> Vec<(u32, Vec<u32>)> {
    let mut batch = Batch::default();
    let mut all = Vec::new();
    for number in 0..batches.of_epoch() {
        batches.make(epoch, number, &mut batch);
        check(&batch);
        all.extend((0..batch.centres()).map(|i| (batch.word(i), batch.context_words(i).collect())));
    }
    all
}

/// What holds in every batch.
fn check(batch: &Batch) {
    assert_eq!(batch.tokens.len(), batch.centres() + 2 * batch.window);
    let mut pairs = vec![0u32; batch.tokens.len()];
    (0..batch.centres()).flat_map(|i| batch.contexts(i)).for_each(|place| pairs[place] += 1);
    if batch.items() == batch.tokens.len() {
        assert_eq!(batch.pairs, pairs);
    } else {
        let have = (0..batch.centres()).map(|i| u32::from(batch.contexts(i).count() > 0));
        assert!(batch.pairs.iter().copied().eq(have));
    }
    let negatives = batch.items().div_ceil(RUN) * batch.shared;
    assert_eq!(batch.negatives.len(), negatives);
    let word_of = |gradient: usize| {
        let at = gradient.checked_sub(batch.centres());
        match at.map(|at| at.checked_sub(negatives)) {
            None => batch.word(gradient),
            Some(None) => batch.negatives[gradient - batch.centres()],
            Some(Some(token)) => batch.tokens[token],
        }
    };
    let mut seen = HashMap::new();
    for sums in [&batch.input_sums, &batch.output_sums] {
        assert!(sums.rows.windows(2).all(|two| two[0].count >= two[1].count));
        for sum in &sums.rows {
            for &gradient in &sums.gradients[sum.begin as usize..][..sum.count as usize] {
                assert_eq!(word_of(gradient as usize), sum.row);
                assert!(seen.insert(gradient, ()).is_none());
            }
        }
    }
    let hits: u32 = batch.input_sums.rows.iter().map(|sum| sum.hits).sum();
    assert_eq!(hits, pairs.iter().sum::<u32>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Windows stay within their sentences, and where batches are cut changes none of them.
    #[test]
    fn batches_of_any_size_have_the_same_windows(
        sentences in prop::collection::vec(prop::collection::vec(0u32..20, 1..40), 1..12),
        size in 1usize..80,
        width in 1usize..12,
        sample in prop::sample::select(vec![0.0, 0.05]),
        bags in any::<bool>(),
    ) {
        let line = |words: &Vec<u32>| words.iter().map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
        let text: Vec<String> = sentences.iter().map(line).collect();
        let corpus = read(&text.join("\n"), 1).unwrap();
        let architecture = if bags { Architecture::BagOfWords } else { Architecture::SkipGram };
        let options = Options::new(architecture).with_window(width).unwrap().with_sample(sample).unwrap();
        let whole = windows(&mut Batches::new(&corpus, &options.with_batch(4096).unwrap()), 1);
        let cut = windows(&mut Batches::new(&corpus, &options.with_batch(size).unwrap()), 1);
        prop_assert_eq!(&whole, &cut);
        if sample == 0.0 {
            let words: Vec<u32> = whole.iter().map(|(word, _)| *word).collect();
            prop_assert_eq!(&words[..], corpus.tokens());
            let longest = sentences.iter().map(Vec::len).max().unwrap_or(0);
            prop_assert!(whole.iter().all(|(_, context)| context.len() < longest.max(1).min(2 * width + 1)));
        }
    }
}
