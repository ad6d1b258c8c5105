use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::*;

/// Words made of a few stems and endings, some far more often than others.
fn corpus(seed: u64, count: usize) -> Vec<(Vec<u8>, u64)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let stems: Vec<Vec<u8>> = (0..40)
        .map(|_| (0..rng.random_range(2..6)).map(|_| rng.random_range(b'a'..=b'h')).collect())
        .collect();
    let endings = ["", "ing", "ed", "er", "ers", "s", "ation"];
    let word = |_| {
        let stem = &stems[rng.random_range(0..40) * rng.random_range(0..40) / 40];
        let ending = endings[rng.random_range(0..endings.len())];
        let count = 1 << rng.random_range(0..12);
        ([b" ", &stem[..], ending.as_bytes()].concat(), count)
    };
    (0..count).map(word).collect()
}

fn bytes() -> Vocabulary {
    Vocabulary::with_bytes([""; 0]).unwrap()
}

fn silent(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_round_lowers_the_objective_and_bytes_stay() {
    let words = WordCounts::from_counts(corpus(1, 600)).unwrap();
    for (cost, lambda, steps) in [
        (Cost::Unigram, 0.0, Steps::Unlimited),
        (Cost::Unigram, 2.0, Steps::Unlimited),
        (Cost::InverseCount, 0.1, Steps::Unlimited),
        (Cost::Unit, 0.0, Steps::Fewest),
        (Cost::Unit, 0.0, Steps::Unlimited),
    ] {
        let trainer = Trainer::new(330).unwrap().with_cost(cost, lambda).unwrap().with_steps(steps);
        let mut told: Vec<f64> = Vec::new();
        let trained = trainer
            .train(&words, &bytes(), |progress| {
                told.push(progress.cost_per_byte);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(told.is_sorted_by(|before, after| before > after), "{cost:?}: {told:?}");
        assert_eq!(told.len(), trained.rounds + 1);
        assert!(trained.rounds > 1, "{cost:?}, {lambda}: {told:?}");
        let vocabulary = trained.segmenter.vocabulary();
        assert!(vocabulary.len() <= 330 && vocabulary.len() > 300, "{}", vocabulary.len());
        assert!((0..=u8::MAX).all(|byte| vocabulary.number(&[byte]) == Some(byte.into())));
        assert!(trained.counts[256..].is_sorted_by(|a, b| a >= b));
        // What was found is what the segmenter does.
        let total: u128 = words
            .iter()
            .map(|(word, count)| u128::from(trained.segmenter.segment(word).cost) * u128::from(count))
            .sum();
        assert_eq!(total, trained.objective);
    }
}

#[test]
fn threads_and_the_order_of_the_corpus_leave_no_trace() {
    let mut counts = corpus(2, 400);
    let trained = |counts: &[(Vec<u8>, u64)], threads| {
        let words = WordCounts::from_counts(counts.iter().map(|(word, count)| (word, *count))).unwrap();
        let trainer = Trainer::new(320).unwrap().with_threads(NonZeroUsize::new(threads).unwrap());
        let Trained { segmenter, counts, .. } = trainer.train(&words, &bytes(), silent).unwrap();
        (segmenter.vocabulary().clone(), segmenter.costs().clone(), counts)
    };
    let one = trained(&counts, 1);
    for threads in [2, 7] {
        counts.shuffle(&mut SmallRng::seed_from_u64(threads as u64));
        assert_eq!(trained(&counts, threads), one, "{threads} threads");
    }
}

#[test]
fn a_training_that_is_ended_gives_the_best_so_far() {
    let words = WordCounts::from_counts(corpus(3, 400)).unwrap();
    let trainer = Trainer::new(320).unwrap();
    let ended = trainer
        .train(&words, &bytes(), |progress| match progress.rounds {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
    let limited = trainer.clone().with_rounds(2).train(&words, &bytes(), silent).unwrap();
    assert_eq!((ended.rounds, ended.objective, &ended.counts), (2, limited.objective, &limited.counts));
}

#[test]
fn a_piece_that_every_word_has_is_found() {
    let words = WordCounts::from_counts([("abcdefgh", 5_000_000_000), ("xyz", 1)]).unwrap();
    let trained = Trainer::new(264).unwrap().train(&words, &bytes(), silent).unwrap();
    assert_eq!(trained.segmenter.vocabulary().piece(256), b"abcdefgh");
    assert_eq!(trained.counts[256], 5_000_000_000);
}

#[test]
fn refusals_name_the_argument() {
    assert_eq!(Trainer::new(255).unwrap_err().argument(), Some("size"));
    assert!(Trainer::new(usize::MAX).unwrap_err().is_too_large());
    let trainer = Trainer::new(256).unwrap();
    assert_eq!(trainer.clone().with_cost(Cost::Unit, 1.0).unwrap_err().argument(), Some("lambda"));
    let words = WordCounts::from_words(["a"]).unwrap();
    let fewest = trainer.clone().with_steps(Steps::Fewest).train(&words, &bytes(), silent);
    assert_eq!(fewest.unwrap_err().argument(), Some("steps"));
    let error = trainer.train(&WordCounts::default(), &bytes(), silent).unwrap_err();
    assert_eq!(error.argument(), Some("words"));
    let paper = Trainer::paper(300, NonZeroUsize::MIN).unwrap();
    assert_eq!((paper.cost, paper.steps), (Cost::InverseCount, Steps::AtMost(NonZeroUsize::MIN)));
}

/// Two rounds where pieces are more than a third of the words, unless another number is set.
#[test]
fn large_vocabularies_are_trained_for_few_rounds() {
    let rounds = |trainer: &Trainer, words: u32| {
        let words = WordCounts::from_words((0..words).map(|number| format!(" word{number}"))).unwrap();
        let mut most = 0;
        let trained = trainer.train(&words, &bytes(), |progress| {
            most = progress.most_rounds;
            ControlFlow::Continue(())
        });
        (most, trained.unwrap().rounds)
    };
    let trainer = Trainer::recommended(300).unwrap();
    assert_eq!(rounds(&trainer, 899), (2, 2));
    assert!(matches!(rounds(&trainer, 900), (40, 3..)));
    assert_eq!(rounds(&trainer.with_rounds(1), 899), (1, 1));
}
