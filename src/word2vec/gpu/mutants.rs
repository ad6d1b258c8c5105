//! Kernels with one thing wrong each: comparison with the oracle has to find every one of them.

use super::programs::{Form, Sum, Word2vec};
use super::tests::{TOLERANCE, corpus, difference, options, training};
use crate::runtime::context::Context;
use crate::runtime::program::Program;
use crate::runtime::testing::{Mutant, device};
use crate::word2vec::corpus::Corpus;
use crate::word2vec::options::{Architecture, Options};

fn caught(context: &Context, corpus: &Corpus, options: Options, mutant: &Mutant<Word2vec>) -> bool {
    let program = |program: Word2vec| -> Box<dyn Program> {
        if program == mutant.of { Box::new(mutant.clone()) } else { Box::new(program) }
    };
    let (mut training, weights) = training(context, corpus, options, &program);
    difference(&mut training, weights) > TOLERANCE
}

#[test]
fn every_mutant_is_caught() {
    let Some(context) = device("mutants of word2vec's kernels") else { return };
    let corpus = corpus(120);
    let mut survivors = Vec::new();
    for architecture in [Architecture::SkipGram, Architecture::BagOfWords] {
        // A cap that holds back, lists that are folded, tiles that aren't full.
        let options = options(architecture).with_cap(40).unwrap().with_batch(613).unwrap();
        let form = Form::new(&options);
        let of = |of: Word2vec, changes: &[(&'static str, &'static str)]| -> Vec<Mutant<Word2vec>> {
            changes.iter().map(|&(from, to)| Mutant { of, from, to }).collect()
        };
        let mut mutants = vec![
            of(
                Word2vec::Inputs(form),
                &[
                    ("let error = 1.0 - logistic(", "let error = 0.5 - logistic("),
                    ("let error = -weight * logistic(", "let error = -logistic("),
                    ("const NEGATIVES_EACH: f32 = 0.15625", "const NEGATIVES_EACH: f32 = 0.16"),
                    ("1.0 / (1.0 + exp(-score))", "1.0 / (1.0 + exp(score))"),
                    ("params.negatives + run * SHARED", "params.negatives"),
                    ("at < SHARED; at += TILE", "at < SHARED - TILE; at += TILE"),
                    ("let exists = first + lane < items()", "let exists = first + lane + 1u < items()"),
                ],
            ),
            of(
                Word2vec::Negatives(form),
                &[
                    (
                        "select(0.0, errors[negative_errors(item) + number], at + row < end)",
                        "errors[negative_errors(item) + number]",
                    ),
                    ("% (SHARED / LANES) * LANES + lane", "% (SHARED / LANES) * LANES"),
                    ("min((run + 1u) * RUN, items())", "min((run + 1u) * RUN - 1u, items())"),
                ],
            ),
            of(
                Word2vec::Fold(form),
                &[
                    ("var at = begin + 1u", "var at = begin + 2u"),
                    ("stretch >= params.stretches", "stretch + 1u >= params.stretches"),
                ],
            ),
            of(
                Word2vec::Update(form),
                &[
                    ("select(1u, STRETCH, end - begin > STRETCH)", "1u"),
                    (
                        "select(1u, STRETCH, end - begin > STRETCH)",
                        "select(1u, STRETCH, end - begin >= STRETCH / 2u)",
                    ),
                    ("bitcast<f32>(batch[head + 3u])", "1.0"),
                    ("params.rate * ", ""),
                    ("row >= params.rows", "row + 1u >= params.rows"),
                ],
            ),
        ];
        let windows = [
            ("token < own && own - token <= window.x", "token < own && own - token < window.x"),
            ("token > own && token - own <= window.y", "token > own && token - own <= window.x"),
            ("if at + row < end && in_window", "if in_window"),
        ];
        match architecture {
            Architecture::SkipGram => {
                mutants.push(of(Word2vec::Inputs(form), &windows[..2]));
                mutants.push(of(
                    Word2vec::Inputs(form),
                    &[("max(first, 2u * WINDOW) - 2u * WINDOW", "max(first, WINDOW) - WINDOW")],
                ));
                mutants.push(of(Word2vec::Windows(form, Sum::Targets), &windows));
                let targets = [
                    ("min(first + RUN + 2u * WINDOW, tokens())", "min(first + RUN + WINDOW, tokens())"),
                    ("errors[centre * RING + token - centre]", "errors[centre * RING]"),
                ];
                mutants.push(of(Word2vec::Windows(form, Sum::Targets), &targets));
            }
            Architecture::BagOfWords => {
                mutants.push(of(Word2vec::Windows(form, Sum::Means), &windows));
                mutants.push(of(Word2vec::Windows(form, Sum::Spread), &windows));
                let means = [("1.0 / f32(max(window.x + window.y, 1u))", "0.2")];
                mutants.push(of(Word2vec::Windows(form, Sum::Means), &means));
                let spread = [("let changes_at = gradients_at + tokens()", "let changes_at = gradients_at")];
                mutants.push(of(Word2vec::Windows(form, Sum::Spread), &spread));
            }
        }
        for mutant in mutants.iter().flatten() {
            if !caught(&context, &corpus, options, mutant) {
                survivors.push(mutant.label());
            }
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}
