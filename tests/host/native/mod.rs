//! The native engine against the f64 oracle, over the same cases as the kernels.

mod backward;
mod caches;
mod calls;
mod edges;
mod pages;
mod real_inputs;

use crate::common::cases::{self, Case};
use crate::common::{Problem, Storage};

fn check(cases: impl Iterator<Item = Case>) {
    let mut count = 0;
    for case in cases {
        case.check_native();
        count += 1;
    }
    assert!(count > 0, "no cases");
}

#[test]
fn short_lengths() {
    check(cases::short_lengths());
}

#[test]
fn a_thousand_tokens() {
    check(cases::a_thousand_tokens());
}

#[test]
fn queries_and_keys_of_different_lengths() {
    check(cases::queries_and_keys_of_different_lengths());
}

#[test]
fn batches_and_value_dims() {
    check(cases::batches_and_value_dims());
}

#[test]
fn schedules_with_correction() {
    check(cases::schedules_with_correction());
}

#[test]
fn other_head_dims() {
    check(cases::other_head_dims());
}

#[test]
fn wide_heads() {
    check(cases::wide_heads());
}

#[test]
fn few_queries() {
    check(cases::few_queries());
}

#[test]
fn document_masks() {
    check(cases::documents());
    cases::a_mask_for_each_sequence_of_a_batch().check_native();
}

#[test]
fn mask_tensors() {
    check(cases::masks());
}

#[test]
fn positions() {
    for (dim, lens) in [(32, (150, 150)), (32, (70, 330)), (64, (150, 150)), (80, (90, 90))] {
        check(cases::combinations(dim).into_iter().map(|(name, positions)| {
            let shape = prflash::Shape::new(4, 2, lens.0, dim).unwrap().with_kv_len(lens.1).unwrap();
            let attention = prflash::Attention::causal().with_lse(true).with_positions(positions);
            let story = format!("{name}, D = {dim}, {lens:?}");
            Case::new(story, Problem::random(attention, shape, 21), Storage::HeadsFirst)
        }));
    }
    check(cases::positions_with_everything_else().into_iter().map(|(name, attention, shape)| {
        Case::new(name, Problem::random(attention, shape, 4), Storage::TokensFirst)
    }));
    check(cases::positions_with_tables());
    check(cases::position_ids());
}
