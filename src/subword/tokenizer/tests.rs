use std::num::NonZeroUsize;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::{Cost, Costs, MergesTrainer, Steps, Trainer, WordCounts};
use super::*;

const TEXT: &str = include_str!("../../../fixtures/persuasion.txt");

fn merges(pattern: Pattern) -> Merges {
    let words = WordCounts::from_text(&TEXT.as_bytes()[..100_000], pattern).unwrap();
    MergesTrainer::new(600).unwrap().train(&words).unwrap()
}

fn segmenter(pattern: Pattern, steps: Steps) -> Segmenter {
    let words = WordCounts::from_text(&TEXT.as_bytes()[..100_000], pattern).unwrap();
    let trainer = Trainer::new(600).unwrap().with_rounds(1);
    let trained = trainer
        .train(&words, &merges(pattern).vocabulary().unwrap(), |_| std::ops::ControlFlow::Continue(()));
    let trained = trained.unwrap();
    let costs = Costs::new(Cost::Unigram, &trained.counts, 0.0).unwrap();
    Segmenter::new(trained.segmenter.vocabulary().clone(), costs, steps).unwrap()
}

/// Every pattern with each kind of model.
fn tokenizers() -> Vec<Tokenizer> {
    let two = Steps::AtMost(NonZeroUsize::new(2).unwrap());
    let of = |pattern| {
        let by_steps = [Steps::Unlimited, Steps::Fewest, two].map(|steps| segmenter(pattern, steps).into());
        by_steps
            .into_iter()
            .chain([merges(pattern).into()])
            .map(move |model: Model| Tokenizer::new(pattern, model))
    };
    Pattern::ALL.into_iter().flat_map(of).collect()
}

/// The ids without a cache.
fn plain(tokenizer: &Tokenizer, text: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    for word in tokenizer.pattern().split(text) {
        match tokenizer.model() {
            Model::Segmenter(segmenter) => ids.extend(segmenter.segment(word).pieces),
            Model::Merges(merges) => merges.encode_word(word, &mut ids),
        }
    }
    ids
}

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

#[test]
fn any_bytes_come_back() {
    let mut rng = SmallRng::seed_from_u64(30);
    let tokenizers = tokenizers();
    for case in 0..400 {
        let mut text = TEXT.as_bytes()[case * 100..][..rng.random_range(0..300)].to_vec();
        for byte in &mut text {
            if rng.random_bool(0.1) {
                *byte = rng.random();
            }
        }
        for tokenizer in &tokenizers {
            let ids = tokenizer.encode(&text);
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{case}, {}", tokenizer.pattern());
            assert_eq!(ids, plain(tokenizer, &text), "{case}, {}", tokenizer.pattern());
        }
    }
}

#[test]
fn a_long_text_is_the_same_with_any_cache_and_threads() {
    for tokenizer in [Pattern::Gpt2, Pattern::O200k].map(|pattern| Tokenizer::new(pattern, merges(pattern))) {
        let ids = tokenizer.encode(TEXT);
        assert_eq!(ids, plain(&tokenizer, TEXT.as_bytes()));
        for count in [1, 2, 7] {
            let batch = [TEXT, "", &TEXT[5000..], "a"];
            let found = tokenizer.encode_batch(&batch, threads(count));
            assert_eq!(found[0], ids, "{count} threads");
            assert_eq!(found, batch.map(|text| tokenizer.encode(text)), "{count} threads");
        }
        // Several callers at once.
        std::thread::scope(|scope| {
            (0..4).for_each(|_| _ = scope.spawn(|| assert_eq!(tokenizer.encode(TEXT), ids)));
        });
        assert!(tokenizer.idle().len() <= 7, "{}", tokenizer.idle().len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Wherever texts are cut, no word is.
    #[test]
    fn parts_leave_no_trace(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "a", "B", " the", "  ", "\n", "\n", "\r\n", "'", "'s", "1", "!", "/", "日", "\u{301}", "\u{3000}", "_",
        ]), 0..60),
        least in 1usize..9,
    ) {
        let text = pieces.concat();
        let covered: Vec<usize> = parts(text.as_bytes(), least).flatten().collect();
        prop_assert_eq!(covered, (0..text.len()).collect::<Vec<_>>());
        for pattern in Pattern::ALL {
            let tokenizer = Tokenizer::new(pattern, Merges::from_pairs([(97, 97), (10, 10)]).unwrap());
            let in_parts = tokenizer.encode_parts(&[&text], threads(2), least);
            prop_assert_eq!(&in_parts[0], &tokenizer.encode(&text));
            // And the ends of words are the same, which few merges would show.
            let ends = |text: &[u8]| pattern.split(text).map(<[u8]>::len).collect::<Vec<_>>();
            let cut: Vec<usize> = parts(text.as_bytes(), least)
                .flat_map(|part| {
                    let mut left = part.len();
                    let words = pattern.split(&text.as_bytes()[part.start..]).map(<[u8]>::len);
                    words.take_while(move |len| { let begins = left > 0; left = left.saturating_sub(*len); begins })
                })
                .collect();
            prop_assert_eq!(cut, ends(text.as_bytes()));
        }
    }
}

/// A megabyte of one letter, of spaces, of symbols: work is in proportion to the text.
#[test]
fn long_runs_take_no_quadratic_time() {
    for tokenizer in [
        Tokenizer::new(Pattern::Cl100k, merges(Pattern::Cl100k)),
        Tokenizer::new(Pattern::None, segmenter(Pattern::None, Steps::Unlimited)),
        Tokenizer::new(Pattern::Gpt2, segmenter(Pattern::Gpt2, Steps::Fewest)),
    ] {
        for run in ["a", " ", "!", "é", "\n", "a "] {
            let text = run.repeat((1 << 20) / run.len());
            let ids = tokenizer.encode(&text);
            assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_bytes());
        }
    }
}

#[test]
fn ids_without_a_piece_are_refused() {
    let tokenizer = Tokenizer::new(Pattern::Gpt2, Merges::from_pairs([(97, 98)]).unwrap());
    assert_eq!(tokenizer.decode(&[256, 99]).unwrap(), b"abc");
    let error = tokenizer.decode(&[256, 257]).unwrap_err();
    assert_eq!(error.argument(), Some("ids"));
    assert_eq!(error.to_string(), "ids: expected ids below 257, got 257 at index 1");
    let costs = Costs::new(Cost::Unit, &[0; 256], 0.0).unwrap();
    let bytes = super::super::Vocabulary::with_bytes([""; 0]).unwrap();
    let tokenizer = Tokenizer::new(Pattern::Gpt2, Segmenter::new(bytes, costs, Steps::Unlimited).unwrap());
    assert_eq!(tokenizer.decode(&[256]).unwrap_err().argument(), Some("ids"));
}
