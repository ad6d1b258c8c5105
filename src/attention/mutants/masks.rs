//! Mutants of what kernels add of mask tensors.

use super::problem::{Problem, numbers};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::mask::Mask;
use crate::attention::kernels::shapes::{Decode, Kernel, Matrix, Tile};
use crate::attention::kernels::variant::{Variant, Wide};
use crate::attention::plan_options::PlanOptions;
use crate::layout::DType;
use crate::runtime::testing::{Change, device, survivors};
use crate::shape::Shape;

const DIMS: [usize; 2] = [16, 12];

/// Every form of a mask, for each head and query or for all of them, with hidden pairs.
fn problems(storage: DType, q_len: usize) -> Vec<Problem> {
    let shape = Shape::new(4, 2, q_len, DIMS[0]).unwrap().with_kv_len(90).unwrap();
    let shape = shape.with_value_dim(DIMS[1]).unwrap();
    let attention = Attention::full().with_storage(storage).with_output(DType::F32).with_masks(true);
    let number = |x: f32| if x > 1.5 { f32::NEG_INFINITY } else { x };
    let of = |dims: [usize; 3]| numbers(9, dims.iter().product(), 2.0, DType::F32).into_iter().map(number);
    let each = [4, q_len, 90];
    let masks = [
        Mask::boolean(each, &of(each).map(f32::is_finite).collect::<Vec<_>>()),
        Mask::additive(each, &of(each).collect::<Vec<_>>()),
        Mask::additive_f16([1, q_len, 90], &of([1, q_len, 90]).collect::<Vec<_>>()),
        Mask::additive([4, 1, 90], &of([4, 1, 90]).collect::<Vec<_>>()),
    ];
    let problem = |mask| Problem { mask: Some(mask), ..Problem::new(attention.clone(), shape) };
    masks.into_iter().map(|mask| problem(mask.unwrap())).collect()
}

/// What is wrong in any kernel.
const SHARED: [Change; 6] = [
    ("heads have each other's masks", "head * sequence.mask_head_stride", "0u"),
    ("rows have each other's masks", "u32(row) * sequence.mask_row_stride", "0u"),
    ("bits are read from the other end", ">> (at % 32u)", ">> (31u - at % 32u)"),
    ("what is seen is hidden", "seen == 1u", "seen == 0u"),
    ("pairs of f16 change places", "at % 2u == 1u", "at % 2u == 0u"),
    ("numbers are in another unit", "params.score_unit * bitcast", "0.5 * params.score_unit * bitcast"),
];

#[test]
fn every_mutant_of_masks_is_caught() {
    let Some(context) = device("mutants of masks") else { return };
    let tiled = |rows, keys, staged| Kernel::Tiled(Tile::new(rows, keys, staged).unwrap());
    let own: [(Kernel, Vec<Change>); 5] = [
        (Kernel::Naive, vec![("keys have the next one's number", "mask_at, j)", "mask_at, max(j, 1) - 1)")]),
        (
            tiled(1, 4, false),
            vec![
                (
                    "every head has the first's",
                    "mask_row(sequence, params.first_head + head",
                    "mask_row(sequence, 0u",
                ),
                ("the last key of a step has another's number", "mask_at0, min(j + 3", "mask_at0, min(j + 2"),
            ],
        ),
        (
            tiled(4, 4, true),
            vec![("rows of a lane have the first one's", "mask_at1, min(j + 2", "mask_at0, min(j + 2")],
        ),
        (
            Kernel::Decode(Decode::new(1, false).unwrap()),
            vec![("rows have those of the first head", "params.first_head + head0, row0)", "0u, row0)")],
        ),
        (
            Kernel::Matrix(Matrix::new(8, true, true).unwrap()),
            vec![(
                "every head has the first's",
                "params.first_head + head, select(0, row",
                "0u, select(0, row",
            )],
        ),
    ];
    for (kernel, mut changes) in own {
        let storage = if matches!(kernel, Kernel::Matrix(_)) { DType::F16 } else { DType::F32 };
        let q_len = if matches!(kernel, Kernel::Decode(_)) { 3 } else { 70 };
        let problems = problems(storage, q_len);
        let options = PlanOptions::new().with_kernel(kernel).with_splits(3).unwrap();
        // The piece is the same in all: once is enough, and the naive kernel compiles fastest.
        if kernel == Kernel::Naive {
            changes.extend(SHARED);
        }
        let plain = Variant::new(kernel, storage, DIMS);
        let variant = Variant { output: DType::F32, masked: true, ..plain };
        let agrees = || problems.iter().all(|problem| problem.agrees(&context, &options));
        let found = match variant.wide_quads() {
            Some(_) => survivors(&context, Wide(variant), &changes, agrees),
            None => survivors(&context, variant, &changes, agrees),
        };
        assert!(found.is_empty(), "not caught in {kernel}: {found:#?}");
    }
}
