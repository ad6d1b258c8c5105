//! Kernels with one thing wrong each: comparison with the host has to find every one of them.

use std::num::NonZeroUsize;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::programs::Subword;
use super::segmenter::GpuSegmenter;
use super::words::GpuWords;
use crate::runtime::context::Context;
use crate::runtime::program::Program;
use crate::runtime::testing::{Mutant, device};
use crate::subword::costs::{Cost, Costs};
use crate::subword::segmenter::{Segmentation, Segmenter, Steps};
use crate::subword::vocabulary::Vocabulary;
use crate::subword::word_counts::WordCounts;

const LEAST: Subword = Subword::Segment { fewest: false };
const FEWEST: Subword = Subword::Segment { fewest: true };

/// What is cut, and what strings cost without a piece.
struct Case {
    words: WordCounts,
    segmenter: Segmenter,
    strings: Vec<(Vec<u8>, Option<u32>)>,
}

/// Words and pieces of few letters and all lengths, with counts that carry and costs that tie.
fn case(steps: Steps, cost: Cost, lambda: f64) -> Case {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut random = |longest: usize| -> Vec<u8> {
        let len = rng.random_range(2..=longest);
        (0..len).map(|_| rng.random_range(b'a'..=b'c')).collect()
    };
    let mut pieces: Vec<Vec<u8>> = (0..60).map(|_| random(5)).collect();
    pieces.extend((0..60).map(|_| random(16)));
    pieces.extend((2..=16).map(|len| vec![b'a'; len]));
    pieces.sort();
    pieces.dedup();
    let counts = [5_000_000_000, 1, u64::from(u32::MAX)];
    let words: Vec<(Vec<u8>, u64)> = (0..3000).map(|at| (random(40), counts[at % 3])).collect();
    let repeated = pieces.iter().map(|piece| (piece.repeat(2), 7));
    let words = WordCounts::from_counts(words.into_iter().chain(repeated)).unwrap();
    let vocabulary = Vocabulary::with_bytes(&pieces).unwrap();
    let counts: Vec<u64> = (0..vocabulary.len()).map(|piece| [0, 1, 1, 2, 7][piece % 5]).collect();
    let costs = Costs::new(cost, &counts, lambda).unwrap();
    let strings = (0..).zip(vocabulary.iter()).filter(|(_, piece)| piece.len() > 1);
    // Without itself, and without another one.
    let strings =
        strings.flat_map(|(piece, string)| [piece, 256].map(|piece| (string.to_vec(), Some(piece))));
    let strings = strings.collect();
    Case { words, segmenter: Segmenter::new(vocabulary, costs, steps).unwrap(), strings }
}

impl Case {
    /// Whether all that a program says of the case is what the host says.
    fn agrees(&self, context: &Context, of: Subword, program: &dyn Program) -> bool {
        let cut_by = GpuSegmenter::new(context, &self.segmenter).unwrap();
        if of == Subword::Losses {
            let costs = pollster::block_on(cut_by.costs_without_by(program, &self.strings)).unwrap();
            let mut scratch = Default::default();
            let want = self
                .strings
                .iter()
                .map(|(string, without)| self.segmenter.cost_without(string, without.unwrap(), &mut scratch));
            return want.eq(costs);
        }
        let words = GpuWords::new(context, &self.words).unwrap();
        let recount = pollster::block_on(words.recount_by(program, &cut_by)).unwrap();
        let cuts = pollster::block_on(words.cuts_by(program, &cut_by)).unwrap();
        let want: Vec<Segmentation> =
            self.words.iter().map(|(word, _)| self.segmenter.segment(word)).collect();
        recount == self.segmenter.recount(&self.words, NonZeroUsize::MIN) && cuts == want
    }
}

#[test]
fn every_mutant_is_caught() {
    let Some(context) = device("mutants of sub-word kernels") else { return };
    let least = case(Steps::Unlimited, Cost::InverseCount, 0.0);
    let fewest = case(Steps::Fewest, Cost::InverseCount, 0.0);
    let of = |of: Subword| if of == FEWEST { &fewest } else { &least };
    for program in [LEAST, FEWEST, Subword::Losses] {
        assert!(of(program).agrees(&context, program, &program), "{}", program.label());
    }
    let mutant = |of, from, to| Mutant { of, from, to };
    let in_both = |from, to| [mutant(LEAST, from, to), mutant(FEWEST, from, to)];
    let in_all = |from, to| [LEAST, FEWEST, Subword::Losses].map(|of| mutant(of, from, to));
    let mutants = [
        // Ties, and what comes first: pieces or costs.
        vec![mutant(LEAST, "cost < best", "cost <= best"), mutant(FEWEST, "cost < best", "cost <= best")],
        vec![mutant(FEWEST, "count < pieces ||", ""), mutant(FEWEST, "count < pieces", "count <= pieces")],
        vec![mutant(FEWEST, "count += lasts", "count |= lasts")],
        in_both(
            "for (var start = 0u; start < length; start++)",
            "for (var start = length - 1u; start < length; start--)",
        )
        .into(),
        // The reach of a piece, and the ring.
        in_all("const MAX_PIECE: u32 = 16u", "const MAX_PIECE: u32 = 15u").into(),
        in_all("min(start + MAX_PIECE, length)", "min(start + MAX_PIECE - 1u, length)").into(),
        in_all("costs[slot] = NO_PATH;\n        var", "var").into(),
        // The walk over nodes and bytes.
        in_all("found.y != node + 1u", "false").into(),
        in_all("text >>= 8u", "text >>= 4u").into(),
        in_all("at == start || at % 4u == 0u", "at == start").into(),
        in_all("cost + found.w", "cost").into(),
        in_all("let root = nodes[0].x", "let root = nodes[1].x").into(),
        vec![mutant(Subword::Losses, " && found.z != without", "")],
        // Counting.
        in_both("select(0u, 1u, before + low < before)", "0u").into(),
        in_both("before + low < before", "before + low <= before").into(),
        in_both("if high + carry != 0u", "if high != 0u").into(),
        in_both("at -= ((last >> NUMBER_BITS) & (MAX_PIECE - 1u)) + 1u", "at = 0u").into(),
        in_both("ends |= 1u << (at - 1u)", "ends |= 1u << at").into(),
    ];
    let survivors: Vec<String> = mutants
        .iter()
        .flatten()
        .filter(|mutant| of(mutant.of).agrees(&context, mutant.of, *mutant))
        .map(Mutant::label)
        .collect();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}
