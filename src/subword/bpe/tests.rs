//! Training against one that counts everything anew for every merge, and encoding of what was
//! trained on.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::corpus::Corpus;
use super::encode;
use super::score::{Counts, Likelihood, Measure, MutualInformation};
use super::*;
use crate::subword::WordCounts;

const SCORES: [MergeScore; 4] =
    [MergeScore::PairCount, MergeScore::WordPiece, MergeScore::MutualInformation, MergeScore::Likelihood];

type Words = Vec<Vec<u32>>;

/// Places of the pair of a word at which it is merged, from the left.
fn places(word: &[u32], pair: (u32, u32)) -> Vec<usize> {
    let mut places = Vec::new();
    let mut at = 0;
    while at + 1 < word.len() {
        if (word[at], word[at + 1]) == pair {
            places.push(at);
            at += 1;
        }
        at += 1;
    }
    places
}

fn compare(score: MergeScore, one: &Counts, other: &Counts) -> Ordering {
    match score {
        MergeScore::PairCount => one.pair.cmp(&other.pair),
        MergeScore::WordPiece => {
            let cross = |x: &Counts, y: &Counts| {
                let pieces = u128::from(y.left) * u128::from(y.right);
                pieces.checked_mul(x.pair.into()).unwrap()
            };
            cross(one, other).cmp(&cross(other, one))
        }
        MergeScore::MutualInformation => MutualInformation::value(one).cmp(&MutualInformation::value(other)),
        MergeScore::Likelihood => Likelihood::value(one).cmp(&Likelihood::value(other)),
    }
}

/// The pairs in the order of the merges, and the words as they are cut in the end.
fn plain(table: &WordCounts, pieces: usize, score: MergeScore, minimum: u64) -> (Vec<(u32, u32)>, Words) {
    let weights: Vec<u64> = table.iter().map(|(_, count)| count).collect();
    let mut words: Words = table.iter().map(|(word, _)| word.iter().map(|&b| b.into()).collect()).collect();
    let mut lengths = vec![1; BYTES];
    let mut pairs = Vec::new();
    while BYTES + pairs.len() < pieces {
        let mut counts = vec![0u64; lengths.len()];
        let mut found: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (word, weight) in words.iter().zip(&weights) {
            word.iter().for_each(|&id| counts[id as usize] += weight);
            let mut own: Vec<(u32, u32)> = word.windows(2).map(|pair| (pair[0], pair[1])).collect();
            own.sort_unstable();
            own.dedup();
            for pair in own {
                *found.entry(pair).or_default() += places(word, pair).len() as u64 * weight;
            }
        }
        let total = counts.iter().sum();
        let mut best: Option<((u32, u32), Counts)> = None;
        for (&(left, right), &pair) in &found {
            if pair < minimum || lengths[left as usize] + lengths[right as usize] > MAX_PIECE {
                continue;
            }
            let [one, other] = [left, right].map(|id| counts[id as usize]);
            let own = Counts { pair, left: one, right: other, twice: left == right, total };
            if best.as_ref().is_none_or(|(_, best)| compare(score, &own, best).is_gt()) {
                best = Some(((left, right), own));
            }
        }
        let Some((pair, _)) = best else { break };
        let made = (BYTES + pairs.len()) as u32;
        pairs.push(pair);
        lengths.push(lengths[pair.0 as usize] + lengths[pair.1 as usize]);
        for word in &mut words {
            for at in places(word, pair).into_iter().rev() {
                word.splice(at..at + 2, [made]);
            }
        }
    }
    (pairs, words)
}

fn check(table: &WordCounts, pieces: usize, score: MergeScore, minimum: u64) {
    let expected = plain(table, pieces, score, minimum);
    let trainer = MergesTrainer::new(pieces).unwrap().with_score(score).with_minimum_count(minimum);
    let mut corpus = Corpus::new(table).unwrap();
    let pairs = trainer.train_corpus(&mut corpus, |_| ControlFlow::Continue(()));
    assert_eq!(pairs, expected.0, "{score:?}");
    assert_eq!(corpus.cut(), expected.1);
    // That no two pieces are the same string is seen to by `from_pairs`.
    let merges = trainer.train(table).unwrap();
    assert_eq!(merges.pairs(), pairs);
    for ((word, _), cut) in table.iter().zip(&expected.1) {
        assert_eq!(&encode::tests::plain(&merges, word), cut);
        encode::tests::check(&merges, word);
    }
}

fn counts() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..6u64, 1 => 5_000_000_000..5_000_000_003u64]
}

/// Words of few letters, so that runs and pairs that overlap abound.
fn tables(letters: u8, longest: usize) -> impl Strategy<Value = WordCounts> {
    let word = prop::collection::vec(b'a'..b'a' + letters, 1..=longest);
    prop::collection::vec((word, counts()), 1..12).prop_map(|words| WordCounts::from_counts(words).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn merges_are_those_of_counting_anew(
        table in prop_oneof![tables(1, 40), tables(2, 24), tables(3, 16), tables(6, 10)],
        more in 0..40usize,
        minimum in prop_oneof![3 => Just(1u64), 1 => 2..7u64],
    ) {
        for score in SCORES {
            check(&table, BYTES + more, score, minimum);
        }
    }

    #[test]
    fn any_word_is_encoded_by_rank(
        table in prop_oneof![tables(2, 24), tables(4, 16)],
        words in prop::collection::vec(prop::collection::vec(b'a'..b'f', 0..80), 1..8),
    ) {
        for score in SCORES {
            let merges = MergesTrainer::new(BYTES + 60).unwrap().with_score(score).train(&table).unwrap();
            for word in &words {
                encode::tests::check(&merges, word);
            }
        }
    }

    #[test]
    fn any_list_of_merges_encodes_by_rank(
        seeds in prop::collection::vec(any::<(u16, u16)>(), 0..60),
        words in prop::collection::vec(prop::collection::vec(b'a'..b'd', 0..80), 1..8),
    ) {
        // Pairs of the letters and of earlier pieces; what is refused is left out.
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        for (left, right) in seeds {
            let pick = |seed: u16| match usize::from(seed) % (3 + pairs.len()) {
                letter @ 0..3 => 97 + letter as u32,
                merge => 256 + merge as u32 - 3,
            };
            let pair = (pick(left), pick(right));
            pairs.push(pair);
            if Merges::from_pairs(pairs.iter().copied()).is_err() {
                pairs.pop();
            }
        }
        let merges = Merges::from_pairs(pairs).unwrap();
        for word in &words {
            encode::tests::check(&merges, word);
        }
    }
}

#[test]
fn every_word_of_two_letters() {
    // All words of up to 9 letters of two, each as a corpus of its own.
    for len in 1..=9 {
        for bits in 0..1u32 << len {
            let word: Vec<u8> = (0..len).map(|at| b'a' + ((bits >> at) & 1) as u8).collect();
            let table = WordCounts::from_words([word]).unwrap();
            for score in SCORES {
                check(&table, 300, score, 1);
            }
        }
    }
}

#[test]
fn counts_past_32_bits_decide() {
    let table = WordCounts::from_counts([("ab", 5_000_000_000u64), ("cd", 5_000_000_001)]).unwrap();
    let merges = MergesTrainer::new(257).unwrap().train(&table).unwrap();
    assert_eq!(merges.piece(256), Some(&b"cd"[..]));
    let words = [("ab", 1 << 60), ("cd", (1 << 60) + 1)];
    let table = WordCounts::from_counts(words).unwrap();
    for score in SCORES {
        let merges = MergesTrainer::new(260).unwrap().with_score(score).train(&table).unwrap();
        assert_eq!(merges.len(), 2, "{score:?}");
    }
}

#[test]
fn a_long_run_is_trained_in_linear_time() {
    for word in [b"a".repeat(1 << 20), b"ab".repeat(1 << 19)] {
        let table = WordCounts::from_words([&word]).unwrap();
        for score in SCORES {
            let mut corpus = Corpus::new(&table).unwrap();
            let trainer = MergesTrainer::new(300).unwrap().with_score(score);
            let pairs = trainer.train_corpus(&mut corpus, |_| ControlFlow::Continue(()));
            assert_eq!(pairs.len(), 4, "{score:?}");
            assert_eq!(corpus.cut()[0].len(), 1 << 16);
        }
    }
}

#[test]
fn no_piece_is_longer_than_the_longest() {
    let table = WordCounts::from_counts([("abcdefghijklmnopqrst", 9)]).unwrap();
    for score in SCORES {
        let merges = MergesTrainer::new(1000).unwrap().with_score(score).train(&table).unwrap();
        assert!(merges.iter().all(|piece| piece.len() <= MAX_PIECE));
        assert!(merges.len() < 20);
    }
}

#[test]
fn a_training_that_is_stopped_keeps_what_it_has() {
    let table = WordCounts::from_words(["banana", "bandana", "ananas", "cabana"]).unwrap();
    let trainer = MergesTrainer::new(270).unwrap();
    let whole = trainer.train(&table).unwrap();
    let mut last = 0;
    for stop in 1..=whole.len() {
        let stopped = trainer.train_while(&table, |progress| {
            assert_eq!(progress.wanted, 270);
            last = progress.tokens;
            if progress.pieces < BYTES + stop { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let stopped = stopped.unwrap();
        assert_eq!(stopped.pairs(), &whole.pairs()[..stop]);
        assert_eq!(stopped, MergesTrainer::new(BYTES + stop).unwrap().train(&table).unwrap());
        let mut out = Vec::new();
        table.iter().for_each(|(word, _)| stopped.encode_word(word, &mut out));
        assert_eq!(out.len() as u64, last);
    }
}

#[test]
fn what_is_refused() {
    let argument = |result: crate::Result<Merges>| {
        let error = result.unwrap_err();
        assert!(error.is_invalid_argument(), "{error}");
        error.argument().unwrap()
    };
    for pieces in [0, 255] {
        assert_eq!(MergesTrainer::new(pieces).unwrap_err().argument(), Some("pieces"));
    }
    #[cfg(target_pointer_width = "64")]
    assert!(MergesTrainer::new((1 << 31) + 1).unwrap_err().is_too_large());
    assert_eq!(argument(Merges::from_pairs([(97, 256)])), "pairs");
    assert_eq!(argument(Merges::from_pairs([(97, 98), (97, 98)])), "pairs");
    // Twice the same string: a·bc and ab·c.
    assert_eq!(argument(Merges::from_pairs([(97, 98), (98, 99), (256, 99), (97, 257)])), "pairs");
    let doubled =
        |n: u32| Merges::from_pairs((0..n).map(|i| if i == 0 { (97, 97) } else { (255 + i, 255 + i) }));
    assert_eq!(doubled(4).unwrap().piece(259).unwrap().len(), MAX_PIECE);
    assert_eq!(argument(doubled(5)), "pairs");
    let table = WordCounts::from_counts([("aaaa", 1 << 62)]).unwrap();
    let error = MergesTrainer::new(256).unwrap().train(&table).unwrap_err();
    assert!(error.is_too_large() && error.argument() == Some("words"), "{error}");
}

#[test]
fn nothing_to_merge() {
    for score in SCORES {
        let trainer = MergesTrainer::new(1 << 20).unwrap().with_score(score);
        for words in [&[][..], &["a", "b"]] {
            let merges = trainer.train(&WordCounts::from_words(words).unwrap()).unwrap();
            assert!(merges.is_empty() && merges.pieces() == BYTES);
            assert_eq!(merges.iter().last(), Some(&[255][..]));
            assert_eq!((merges.piece(256), merges.rank(97, 98)), (None, None));
        }
    }
}

/// Words begin with the space before them.
fn counted(text: &[u8]) -> WordCounts {
    let mut words: Vec<&[u8]> = Vec::new();
    let mut start = 0;
    for at in 1..=text.len() {
        if at == text.len() || text[at].is_ascii_whitespace() {
            words.push(&text[start..at]);
            start = at;
        }
    }
    WordCounts::from_words(words).unwrap()
}

#[test]
fn hundreds_of_merges_are_those_of_counting_anew() {
    let table = counted(&made_up(2000));
    assert!(table.len() > 500);
    for score in SCORES {
        for minimum in [1, 3] {
            check(&table, BYTES + 400, score, minimum);
        }
    }
}

/// Words of letters that follow each other as a chain of Markov, with counts after Zipf.
fn made_up(words: usize) -> Vec<u8> {
    use crate::random::pcg_hash;
    let word = |rank: u32| {
        let len = 1 + rank.ilog2() / 3 + pcg_hash(rank) % 7;
        let letter =
            |state: u32| b"etaoinshrdlucmfwypvbgkqjxz"[(state % 26 * (state / 26 % 26) / 26) as usize];
        let mut state = pcg_hash(rank);
        let mut word = vec![b' '];
        for _ in 0..len {
            let last = u32::from(*word.last().unwrap());
            state = pcg_hash(state ^ last);
            word.push(letter(pcg_hash(last) ^ (state % 64)));
        }
        word
    };
    let mut text = Vec::new();
    for i in 0..words as u32 {
        let uniform = f64::from(pcg_hash(i)) / 2f64.powi(32);
        text.extend(word(80_000f64.powf(uniform) as u32));
    }
    text
}
