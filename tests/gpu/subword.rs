//! Words cut on the GPU: every cut, count and cost is the host's.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::common::{gpu, small_device};
use prflash::Context;
use prflash::subword::{
    Cost, Costs, GpuSegmenter, GpuWords, Progress, RecountedBy, Segmenter, Steps, Trained, Trainer,
    Vocabulary, WordCounts,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const ONE: NonZeroUsize = NonZeroUsize::MIN;

const COSTS: [(Cost, f64); 5] = [
    (Cost::Unigram, 0.0),
    (Cost::Unigram, 1024.0),
    (Cost::InverseCount, 0.0),
    (Cost::InverseCount, 1.0),
    (Cost::Unit, 0.0),
];

/// Bytes of few values, so that pieces match often and costs are often equal.
fn bytes(rng: &mut SmallRng, len: usize, letters: u8) -> Vec<u8> {
    (0..len).map(|_| rng.random_range(b'a'..b'a' + letters)).collect()
}

fn count(rng: &mut SmallRng) -> u64 {
    [1, 1, 2, 7, 5_000_000_000, u64::from(u32::MAX)][rng.random_range(0..6)]
}

/// Words of at most so many bytes.
fn words(rng: &mut SmallRng, most: usize, longest: usize) -> WordCounts {
    let word = |_| {
        let len = rng.random_range(0..=longest);
        (bytes(rng, len, 4), count(rng))
    };
    WordCounts::from_counts((0..most).map(word).collect::<Vec<_>>()).unwrap()
}

/// Pieces of two bytes to the most, among them those of 16.
fn vocabulary(rng: &mut SmallRng, most: usize) -> Vocabulary {
    let mut pieces = BTreeMap::new();
    for number in 0..most {
        let len = [2, 2, 3, 3, 4, 5, 8, 16][rng.random_range(0..8)];
        pieces.insert(bytes(rng, len, 3), number);
    }
    // One long run, whose prefixes are all there: ties.
    pieces.extend((2..=16).map(|len| (vec![b'a'; len], 0)));
    Vocabulary::with_bytes(pieces.keys()).unwrap()
}

fn segmenter(
    rng: &mut SmallRng,
    vocabulary: &Vocabulary,
    (cost, lambda): (Cost, f64),
    steps: Steps,
) -> Segmenter {
    let counts: Vec<u64> = (0..vocabulary.len()).map(|_| rng.random_range(0..2) * count(rng)).collect();
    Segmenter::new(vocabulary.clone(), Costs::new(cost, &counts, lambda).unwrap(), steps).unwrap()
}

/// Counts, objective and every cut are the host's.
fn assert_same(context: &Context, words: &WordCounts, segmenter: &Segmenter, what: &str) {
    let on_device = GpuWords::new(context, words).unwrap();
    let cut_by = GpuSegmenter::new(context, segmenter).unwrap();
    let recount = on_device.recount_blocking(&cut_by).unwrap();
    assert!(recount == segmenter.recount(words, ONE), "{what}");
    let cuts = on_device.cuts_blocking(&cut_by).unwrap();
    assert_eq!(cuts.len(), words.len());
    for ((word, _), cut) in words.iter().zip(&cuts) {
        assert_eq!(*cut, segmenter.segment(word), "{what}: {word:?}");
    }
}

#[test]
fn a_hundred_thousand_words_are_cut_as_by_the_host() {
    let Some(context) = gpu("a_hundred_thousand_words_are_cut_as_by_the_host") else { return };
    let mut rng = SmallRng::seed_from_u64(1);
    let words = words(&mut rng, 120_000, 40);
    assert!(words.len() > 100_000, "{}", words.len());
    let on_device = GpuWords::new(&context, &words).unwrap();
    let short = words.iter().filter(|(word, _)| word.len() <= 32).count();
    assert!(on_device.on_device() == short && short < words.len());
    let vocabulary = vocabulary(&mut rng, 2000);
    for (cost, lambda) in [COSTS[0], COSTS[3], COSTS[4]] {
        for steps in [Steps::Unlimited, Steps::Fewest] {
            let segmenter = segmenter(&mut rng, &vocabulary, (cost, lambda), steps);
            assert_same(&context, &words, &segmenter, &format!("{cost:?} + {lambda}, {steps:?}"));
        }
    }
}

#[test]
fn random_vocabularies_and_words() {
    let Some(context) = gpu("random_vocabularies_and_words") else { return };
    let mut rng = SmallRng::seed_from_u64(2);
    for case in 0..60 {
        let most = [0, 3, 20, 300][case % 4];
        let vocabulary = vocabulary(&mut rng, most);
        let steps = [Steps::Unlimited, Steps::Fewest][case / 4 % 2];
        let segmenter = segmenter(&mut rng, &vocabulary, COSTS[case % 5], steps);
        let (most, longest) = (rng.random_range(0..300), rng.random_range(1..=40));
        let words = words(&mut rng, most, longest);
        assert_same(&context, &words, &segmenter, &format!("case {case}"));
    }
}

/// Every byte value, in pieces and in words, also where a word ends in zeros.
#[test]
fn all_bytes_and_lengths() {
    let Some(context) = gpu("all_bytes_and_lengths") else { return };
    let mut rng = SmallRng::seed_from_u64(3);
    let random = |len: usize, rng: &mut SmallRng| -> Vec<u8> { (0..len).map(|_| rng.random()).collect() };
    let mut pieces: Vec<Vec<u8>> = (0..400).map(|at| random(2 + at % 15, &mut rng)).collect();
    pieces.extend((2..=16).map(|len| vec![0; len]));
    pieces.sort();
    pieces.dedup();
    let vocabulary = Vocabulary::with_bytes(&pieces).unwrap();
    let mut all: Vec<Vec<u8>> = (0..=40).map(|len| vec![0; len]).collect();
    for _ in 0..2000 {
        let parts = rng.random_range(1..6);
        let part = |_| match rng.random_range(0..3) {
            0 => random(1, &mut rng),
            _ => pieces[rng.random_range(0..pieces.len())].clone(),
        };
        all.push((0..parts).flat_map(part).collect());
    }
    let words = WordCounts::from_words(&all).unwrap();
    for steps in [Steps::Unlimited, Steps::Fewest] {
        let segmenter = segmenter(&mut rng, &vocabulary, COSTS[0], steps);
        assert_same(&context, &words, &segmenter, &format!("{steps:?}"));
    }
}

#[test]
fn counts_carry_into_their_high_halves() {
    let Some(context) = gpu("counts_carry_into_their_high_halves") else { return };
    let vocabulary = Vocabulary::with_bytes(["ab"]).unwrap();
    let costs = Costs::new(Cost::Unit, &vec![0; vocabulary.len()], 0.0).unwrap();
    let segmenter = Segmenter::new(vocabulary, costs, Steps::Unlimited).unwrap();
    let cut_by = GpuSegmenter::new(&context, &segmenter).unwrap();
    // Each of them once in all words, and thousands of times together.
    for each in [5_000_000_000u64, u64::from(u32::MAX), 1 << 32, 1 << 48] {
        let words = (0..3000u32).map(|number| (format!("ab{number:04}ab"), each));
        let words = WordCounts::from_counts(words).unwrap();
        let recount = GpuWords::new(&context, &words).unwrap().recount_blocking(&cut_by).unwrap();
        assert_eq!(recount.counts[256], 6000 * each);
        assert_eq!(recount.objective, 18_000 * u128::from(each));
        assert!(recount == segmenter.recount(&words, ONE), "{each}");
    }
    // Pieces past 64 bits: what the host does, the device leaves to it.
    let words = WordCounts::from_counts([("ababab", 1 << 62), ("xyz", 1 << 62)]).unwrap();
    let on_device = GpuWords::new(&context, &words).unwrap();
    assert_eq!(on_device.on_device(), 0);
    let recount = on_device.recount_blocking(&cut_by).unwrap();
    assert_eq!(recount, segmenter.recount(&words, ONE));
    assert_eq!(recount.counts[256], 3 << 62);
    assert_eq!(on_device.cuts_blocking(&cut_by).unwrap()[0], segmenter.segment(b"ababab"));
    // As much as fits.
    let words = WordCounts::from_counts([("ab", (1 << 63) - 1), ("x", 1)]).unwrap();
    let on_device = GpuWords::new(&context, &words).unwrap();
    assert_eq!(on_device.on_device(), 2);
    assert_eq!(on_device.recount_blocking(&cut_by).unwrap(), segmenter.recount(&words, ONE));
    // None at all.
    let words = WordCounts::default();
    let on_device = GpuWords::new(&context, &words).unwrap();
    assert_eq!(on_device.recount_blocking(&cut_by).unwrap(), segmenter.recount(&words, ONE));
    assert!(on_device.cuts_blocking(&cut_by).unwrap().is_empty());
}

#[test]
fn small_devices_take_words_in_lots() {
    if gpu("small_devices_take_words_in_lots").is_none() {
        return;
    }
    let context = small_device(1 << 14, 3);
    let mut rng = SmallRng::seed_from_u64(4);
    let words = words(&mut rng, 4000, 40);
    let vocabulary = vocabulary(&mut rng, 40);
    for steps in [Steps::Unlimited, Steps::Fewest] {
        let segmenter = segmenter(&mut rng, &vocabulary, COSTS[0], steps);
        assert_same(&context, &words, &segmenter, &format!("{steps:?}"));
        assert_losses(&context, &segmenter, &losses(&mut rng, &segmenter, 2000));
    }
    // A vocabulary, and words, that can't be bound.
    let many = Vocabulary::with_bytes((0..1000).map(|number| format!("{number:04}"))).unwrap();
    let segmenter = segmenter(&mut rng, &many, COSTS[0], Steps::Unlimited);
    let error = GpuSegmenter::new(&context, &segmenter).unwrap_err();
    assert!(error.is_too_large() && error.argument() == Some("segmenter"), "{error}");
    let error = GpuWords::new(&small_device(1 << 9, 3), &words).unwrap_err();
    assert!(error.is_too_large() && error.argument() == Some("words"), "{error}");
}

type Loss = (Vec<u8>, Option<u32>);

/// All pieces without themselves, and other strings with and without some piece.
fn losses(rng: &mut SmallRng, segmenter: &Segmenter, others: usize) -> Vec<Loss> {
    let pieces = segmenter.vocabulary().len() as u32;
    let own = (256..pieces).map(|piece| (segmenter.vocabulary().piece(piece).to_vec(), Some(piece)));
    let mut all: Vec<Loss> = own.collect();
    all.extend((0..others).map(|_| {
        let len = rng.random_range(0..=16);
        (bytes(rng, len, 4), (rng.random_range(0..2) == 0).then(|| rng.random_range(256..pieces)))
    }));
    all
}

/// A vocabulary without the piece costs the same.
fn assert_losses(context: &Context, segmenter: &Segmenter, losses: &[Loss]) {
    let costs = GpuSegmenter::new(context, segmenter).unwrap().costs_without_blocking(losses).unwrap();
    assert_eq!(costs.len(), losses.len());
    for ((string, without), cost) in losses.iter().zip(costs) {
        assert_eq!(cost, cost_without(segmenter, string, *without), "{string:?} without {without:?}");
    }
}

/// By plain dynamic programming over all cuts.
fn cost_without(segmenter: &Segmenter, string: &[u8], without: Option<u32>) -> u64 {
    let mut least = vec![0];
    for end in 1..=string.len() {
        let cost = |start: usize| {
            let piece =
                segmenter.vocabulary().number(&string[start..end]).filter(|&piece| Some(piece) != without)?;
            Some(least[start] + u64::from(segmenter.costs().of_pieces()[piece as usize]))
        };
        least.push((0..end).filter_map(cost).min().unwrap());
    }
    least[string.len()]
}

#[test]
fn losses_are_the_least_costs_without_a_piece() {
    let Some(context) = gpu("losses_are_the_least_costs_without_a_piece") else { return };
    let mut rng = SmallRng::seed_from_u64(5);
    for (case, cost) in COSTS.into_iter().enumerate() {
        let vocabulary = vocabulary(&mut rng, [1, 30, 1000][case % 3]);
        let steps = [Steps::Unlimited, Steps::Fewest][case % 2];
        let segmenter = segmenter(&mut rng, &vocabulary, cost, steps);
        assert_losses(&context, &segmenter, &losses(&mut rng, &segmenter, 3000));
        assert_losses(&context, &segmenter, &[]);
    }
}

#[test]
fn a_training_on_the_device_is_that_of_the_host() {
    let Some(context) = gpu("a_training_on_the_device_is_that_of_the_host") else { return };
    let mut rng = SmallRng::seed_from_u64(6);
    let stems: Vec<Vec<u8>> = (0..30).map(|_| bytes(&mut rng, 4, 8)).collect();
    let words = (0..400).map(|_| {
        let ending = ["", "ing", "ed", "ers", "ation"][rng.random_range(0..5)];
        let stem = &stems[rng.random_range(0..30)];
        ([b" ", &stem[..], ending.as_bytes()].concat(), 1 << rng.random_range(0..34))
    });
    let words = WordCounts::from_counts(words.collect::<Vec<_>>()).unwrap();
    let start = Vocabulary::with_bytes([""; 0]).unwrap();
    let silent = |_: Progress| ControlFlow::Continue(());
    let key = |trained: &Trained| {
        let Trained { segmenter, counts, rounds, objective, .. } = trained;
        (segmenter.vocabulary().clone(), segmenter.costs().clone(), counts.clone(), *rounds, *objective)
    };
    let most = Steps::AtMost(NonZeroUsize::new(3).unwrap());
    for (cost, steps) in [
        (Cost::Unigram, Steps::Unlimited),
        (Cost::InverseCount, Steps::Unlimited),
        (Cost::Unit, Steps::Fewest),
        (Cost::Unigram, most),
    ] {
        let trainer =
            Trainer::new(300).unwrap().with_cost(cost, 0.0).unwrap().with_steps(steps).with_rounds(4);
        let host = trainer.train(&words, &start, silent).unwrap();
        assert_eq!((host.recounted_by, host.rates), (RecountedBy::Host, None));
        let on = |trainer: &Trainer| trainer.train_on(&context, &words, &start, silent).unwrap();
        for by in [RecountedBy::Host, RecountedBy::Gpu] {
            let trained = on(&trainer.clone().with_recounts_by(by));
            assert!(key(&trained) == key(&host), "{cost:?}, {steps:?}, {by:?}");
            let by = if steps == most { RecountedBy::Host } else { by };
            assert_eq!((trained.recounted_by, trained.rates), (by, None));
        }
        let measured = on(&trainer);
        assert!(key(&measured) == key(&host), "{cost:?}, {steps:?}, measured");
        assert_eq!(measured.rates.is_none(), steps == most);
        if let Some(rates) = measured.rates {
            let faster = if rates.host >= rates.gpu { RecountedBy::Host } else { RecountedBy::Gpu };
            assert!(rates.host > 0.0 && rates.gpu > 0.0 && measured.recounted_by == faster, "{rates:?}");
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("subword refusals") else { return };
    let vocabulary = Vocabulary::with_bytes(["ab"]).unwrap();
    let costs = Costs::new(Cost::Unit, &vec![0; vocabulary.len()], 0.0).unwrap();
    let with = |steps| Segmenter::new(vocabulary.clone(), costs.clone(), steps).unwrap();
    let at_most = with(Steps::AtMost(ONE));
    let error = GpuSegmenter::new(&context, &at_most).unwrap_err();
    assert!(error.is_invalid_argument() && error.argument() == Some("segmenter"), "{error}");
    let segmenter = with(Steps::Unlimited);
    let cut_by = GpuSegmenter::new(&context, &segmenter).unwrap();
    for (string, without) in
        [(&[b'a'; 17][..], None), (b"ab", Some(97)), (b"ab", Some(257)), (b"a", Some(u32::MAX))]
    {
        let error = cut_by.costs_without_blocking(&[(&b"ab"[..], None), (string, without)]).unwrap_err();
        assert!(error.is_invalid_argument() && error.argument() == Some("strings"), "{error}");
        assert!(error.to_string().contains("string 1"), "{error}");
    }
    let words = WordCounts::from_words(["ab"]).unwrap();
    let elsewhere = GpuWords::new(&small_device(1 << 20, 60_000), &words).unwrap();
    for error in
        [elsewhere.recount_blocking(&cut_by).unwrap_err(), elsewhere.cuts_blocking(&cut_by).unwrap_err()]
    {
        assert!(error.is_other_device() && error.argument() == Some("segmenter"), "{error}");
    }
}
