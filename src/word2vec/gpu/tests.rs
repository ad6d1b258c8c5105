//! The kernels beside the oracle, and what a training promises.

use super::programs::Word2vec;
use super::training::Training;
use crate::random::hash_words;
use crate::runtime::context::Context;
use crate::runtime::program::Program;
use crate::runtime::testing::device;
use crate::word2vec::corpus::{Corpus, CorpusOptions};
use crate::word2vec::options::{Architecture, Options};
use crate::word2vec::oracle::Weights;

/// Even between 0 and 1.
fn uniform(words: &[u32]) -> f64 {
    f64::from(hash_words(words)) / 4_294_967_296.0
}

/// Sentences of 1 to 30 words, of which some are in most of them.
pub(super) fn corpus(sentences: u32) -> Corpus {
    let mut text = String::new();
    for sentence in 0..sentences {
        let length = 1 + (30.0 * uniform(&[sentence, 0]).powi(2)) as u32;
        for place in 0..length {
            let word = (60.0 * uniform(&[sentence, 1, place]).powi(3)) as u32;
            text.push_str(&format!("w{word} "));
        }
        text.push('\n');
    }
    Corpus::read(text.as_bytes(), CorpusOptions::new().with_min_count(2)).unwrap()
}

/// A training with large random weights and rates, so that what is wrong shows.
pub(super) fn training<'c>(
    context: &Context,
    corpus: &'c Corpus,
    options: Options,
    program: &dyn Fn(Word2vec) -> Box<dyn Program>,
) -> (Training<'c>, Weights) {
    let options = options.with_rates(0.1, 0.08).unwrap();
    let mut training = Training::with_programs(context, corpus, options, program).unwrap();
    let count = corpus.vocabulary().len() * options.dimension();
    let weights = |matrix: u32| -> Vec<f32> {
        (0..count as u32).map(|at| (uniform(&[matrix, at]) - 0.5) as f32 / 2.0).collect()
    };
    let (inputs, outputs) = (weights(0), weights(1));
    training.set((0, 0), [&inputs, &outputs]).unwrap();
    let wide = |weights: Vec<f32>| weights.into_iter().map(f64::from).collect();
    (training, Weights { dimension: options.dimension(), inputs: wide(inputs), outputs: wide(outputs) })
}

/// The largest difference of a weight from the oracle's, as a part of 1 + |weight|, after each of
/// two batches.
pub(super) fn difference(training: &mut Training<'_>, mut weights: Weights) -> f64 {
    let mut most = 0.0f64;
    for _ in 0..2 {
        let (batch, rate) = (training.next_batch(), training.progress().rate);
        let options = *training.options();
        weights.step(&batch, &options, f64::from(rate as f32));
        if training.advance_blocking(1).is_err_and(|error| error.is_diverged()) {
            return f64::INFINITY;
        }
        for (matrix, want) in [&weights.inputs, &weights.outputs].into_iter().enumerate() {
            let got = pollster::block_on(training.step.read(&training.context, matrix)).unwrap();
            for (&got, want) in got.iter().zip(want) {
                let apart = (f64::from(got) - want).abs() / (1.0 + want.abs());
                // What is no number is as wrong as can be.
                most = if apart <= most {
                    most
                } else if apart.is_nan() {
                    f64::INFINITY
                } else {
                    apart
                };
            }
        }
    }
    most
}

/// Sums of some hundred gradients, in f32.
pub(super) const TOLERANCE: f64 = 1e-5;

pub(super) fn options(architecture: Architecture) -> Options {
    let options = Options::new(architecture).with_dimension(10).unwrap().with_batch(500).unwrap();
    options.with_sample(0.05).unwrap()
}

#[test]
fn steps_are_the_oracles() {
    let Some(context) = device("steps of word2vec") else { return };
    let corpus = corpus(120);
    for architecture in [Architecture::SkipGram, Architecture::BagOfWords] {
        let base = || options(architecture);
        let cases = [
            base(),
            base().with_dimension(1).unwrap().with_window(1).unwrap(),
            base().with_dimension(64).unwrap().with_negative(1).unwrap().with_shared(16).unwrap(),
            base().with_dimension(300).unwrap().with_batch(97).unwrap(),
            base().with_window(20).unwrap().with_shared(64).unwrap().with_negative(15).unwrap(),
            base().with_cap(3).unwrap().with_sample(0.0).unwrap().with_batch(4096).unwrap(),
            base().with_batch(1).unwrap().with_sample(0.0).unwrap(),
            base().with_ns_exponent(-0.5).unwrap().with_batch(33).unwrap(),
        ];
        for options in cases {
            let (mut training, weights) = training(&context, &corpus, options, &|program| Box::new(program));
            let difference = difference(&mut training, weights);
            assert!(difference <= TOLERANCE, "{difference:e} by {options:?}");
        }
    }
}

#[test]
fn the_same_training_gives_the_same_bits() {
    let Some(context) = device("word2vec's bits") else { return };
    let corpus = corpus(60);
    let folder = std::env::temp_dir().join(format!("prflash-word2vec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("checkpoint");
    for architecture in [Architecture::SkipGram, Architecture::BagOfWords] {
        // More batches than are checked at once.
        let options = options(architecture).with_batch(7).unwrap().with_epochs(2).unwrap();
        let run = |batches: usize, stop: usize| {
            let mut training = Training::new(&context, &corpus, options).unwrap();
            let mut done = 0;
            while !training.is_done() {
                training.advance_blocking(batches).unwrap();
                done += batches;
                if done == stop {
                    training.save_blocking(&path).unwrap();
                    training = Training::resume(&context, &corpus, options, &path).unwrap();
                }
            }
            training.vectors_blocking().unwrap()
        };
        let whole = run(1000, 0);
        assert_eq!(whole, run(1000, 0));
        assert_eq!(whole, run(3, 3));
        let other = options.with_seed(2);
        let refused = Training::resume(&context, &corpus, other, &path).unwrap_err();
        assert_eq!(refused.argument(), Some("path"));
    }
    let bytes = std::fs::read(&path).unwrap();
    let options = options(Architecture::BagOfWords).with_batch(7).unwrap().with_epochs(2).unwrap();
    for end in [0, 10, 29, 30, 40, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let refused = Training::resume(&context, &corpus, options, &path).unwrap_err();
        assert!(refused.is_corrupt() || refused.is_unknown_version(), "{end}: {refused}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn divergence_is_told_and_the_last_good_weights_are_kept() {
    let Some(context) = device("word2vec that diverges") else { return };
    let corpus = corpus(60);
    let options = options(Architecture::SkipGram).with_batch(200).unwrap();
    let mut training = Training::new(&context, &corpus, options.with_rates(4e4, 4e4).unwrap()).unwrap();
    let before = training.vectors_blocking().unwrap();
    let error = training.advance_blocking(1000).unwrap_err();
    assert!(error.is_diverged(), "{error}");
    assert!(error.to_string().starts_with("the training diverges: batch "), "{error}");
    assert_eq!(training.vectors_blocking().unwrap(), before);
    assert_eq!(training.progress().tokens, 0);
}
