//! Packed documents.

use crate::common::{Problem, Storage, cases, gpu};
use prflash::{Attention, Documents, Shape, Tables};

#[test]
fn document_masks() {
    super::check("document masks", cases::documents());
}

#[test]
fn a_mask_for_each_sequence_of_a_batch() {
    super::check("masks of a batch", [cases::a_mask_for_each_sequence_of_a_batch()].into_iter());
}

/// Packed documents give, row for row, the bits of the documents alone where blocks fall alike.
#[test]
fn documents_do_not_see_each_other() {
    let Some(context) = gpu("isolated documents") else { return };
    let documents = Documents::from_lengths(&[64, 128, 64]).unwrap();
    let packed = Problem::random(Attention::causal(), Shape::new(1, 1, 256, 64).unwrap(), 7);
    let whole = packed.run(&context, Storage::HeadsFirst, &Tables::from(&documents));
    for range in [0..64, 64..192, 192..256] {
        let rows = |values: &[f32]| values[range.start * 64..range.end * 64].to_vec();
        let alone = Problem {
            attention: packed.attention.clone(),
            options: packed.options.clone(),
            shape: Shape::new(1, 1, range.len(), 64).unwrap(),
            q: rows(&packed.q),
            k: rows(&packed.k),
            v: rows(&packed.v),
        };
        assert_eq!(alone.run(&context, Storage::HeadsFirst, &Tables::new()).output, rows(&whole.output));
    }
}
