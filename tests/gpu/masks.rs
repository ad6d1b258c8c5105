//! Mask tensors: every kernel beside the oracle, over tensors and caches, with lists of blocks.

use crate::common::cases::{self, mask};
use crate::common::{Problem, Storage, gpu, matrix, small_device, stored_for, subgroups_only};
use crate::numerics::{check, kernels, problem_by};
use prflash::attention::{Mask, PositionIds};
use prflash::position::Pairing;
use prflash::{
    Attention, BlockGrid, DType, Documents, Positions, Profile, Rope, Schedule, Seed, Shape, Systematic,
    TableBuffer, Tables, reference,
};

/// The kernel that a plan chooses and the naive one, on every case.
#[test]
fn masks_agree_with_the_oracle() {
    let Some(context) = gpu("mask tensors") else { return };
    for case in cases::masks() {
        case.problem.check(&context, case.storage, &case.tables(), &case.story);
    }
}

/// Every kernel in each of its forms: each form of a mask, one for all heads and rows or one for
/// each.
#[test]
fn every_kernel_takes_masks() {
    let Some(context) = gpu("masks in every kernel") else { return };
    let shape = Shape::new(4, 2, 150, 16).unwrap().with_kv_len(140).unwrap();
    let attention = Attention::causal().with_masks(true);
    let grid = BlockGrid::causal(&shape).with_block_size(24).unwrap();
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(3)).unwrap();
    for kernel in kernels(&context) {
        let problem = problem_by(kernel, (&attention, Some(3)), shape, |_| {});
        for (case, dims) in [[4, 150, 140], [1, 150, 140], [4, 1, 140]].into_iter().enumerate() {
            let mask = mask(case, dims);
            for (tables, listed) in
                [(Tables::from(&mask), "dense"), (Tables::from(&schedule).with_mask(&mask), "listed")]
            {
                let kinds = check(&context, &problem, &tables, &format!("mask {case}, {listed}"));
                assert!(kinds.nan == 0 && kinds.finite > 100 && kinds.empty > 10, "{kinds:?}");
            }
        }
        // A plan that takes masks computes the same without.
        let kinds = check(&context, &problem, &Tables::new(), "no mask");
        assert!(kinds.finite > 500, "{kinds:?}");
    }
}

/// With positions, in the kernels that aren't met with them otherwise.
#[test]
fn masks_beside_positions() {
    let Some(context) = gpu("masks beside positions") else { return };
    let rope = Rope::new(32, 1e4, Pairing::Half).unwrap();
    let positions = Positions::doubly_harmonic(rope).with_harmonic_factor(9.0).unwrap();
    let attention = Attention::causal().with_lse(true).with_positions(positions).with_masks(true);
    let shape = Shape::new(4, 2, 70, 32).unwrap().with_kv_len(90).unwrap();
    let mask = mask(1, [4, 70, 90]);
    let mut kernels = vec![Some(matrix(8, false)), None];
    kernels.retain(|_| !subgroups_only());
    for kernel in kernels {
        let problem = Problem::random(stored_for(attention.clone(), kernel), shape, 21);
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::from(&mask), &[kernel], "positions");
    }
}

/// A mask that says what causality and documents say is as good as they: the same rows, and the
/// same bits on the same kernel.
#[test]
fn masks_say_what_other_masks_do() {
    let Some(context) = gpu("masks as other masks") else { return };
    let shape = Shape::new(2, 1, 150, 32).unwrap();
    let documents = Documents::from_lengths(&[40, 1, 109]).unwrap();
    let seen = |query: usize, key: usize| key <= query && documents.range(query).contains(&key);
    let bits: Vec<bool> = (0..150 * 150).map(|index| seen(index / 150, index % 150)).collect();
    let mask = Mask::boolean([1, 150, 150], &bits).unwrap();
    let by_mask = Problem::random(Attention::full().with_lse(true).with_masks(true), shape, 4);
    let by_rows = Problem::random(Attention::causal().with_lse(true), shape, 4);
    by_mask.check(&context, Storage::HeadsFirst, &Tables::from(&mask), "mask for documents");
    let (one, two) = (by_mask.exact(&Tables::from(&mask)), by_rows.exact(&Tables::from(&documents)));
    assert_eq!((one.output, one.lse), (two.output, two.lse));
}

/// Shards of heads have the rows of their own heads.
#[test]
fn shards_have_the_masks_of_their_heads() {
    if gpu("masks in shards").is_none() {
        return;
    }
    let context = small_device(1 << 18, 300);
    for q_len in [150, 2] {
        let shape = Shape::new(24, 12, q_len, 64).unwrap().with_kv_len(200).unwrap();
        let attention = Attention::causal().with_lse(true).with_masks(true);
        let problem = Problem::random(attention, shape, 3);
        let mask = mask(0, [24, q_len, 200]);
        problem.check_kernels(&context, Storage::HeadsFirst, &Tables::from(&mask), &[None], "shards");
    }
}

/// A tree of draft tokens gives each node what it has alone behind its ancestors.
#[test]
fn trees_of_drafts_are_as_their_branches() {
    let Some(context) = gpu("trees of drafts") else { return };
    let parents = [None, Some(0), Some(0), Some(1), Some(2), Some(2)];
    let (nodes, kv_len, dim) = (parents.len(), 46, 32);
    let shape = Shape::new(4, 2, nodes, dim).unwrap().with_kv_len(kv_len).unwrap();
    let rope = Rope::new(dim, 1e4, Pairing::Half).unwrap();
    let attention = Attention::causal().with_lse(true).with_positions(rope.into());
    let problem = Problem::random(attention.clone().with_masks(true), shape, 8);
    let mask = Mask::tree(&parents, kv_len).unwrap();
    let ids = PositionIds::tree(&parents, kv_len).unwrap();
    let tables = Tables::from(&mask).with_position_ids(&ids);
    problem.check(&context, Storage::HeadsFirst, &tables, "tree");
    let tree = problem.exact(&tables);
    for node in 0..nodes {
        let mut branch = vec![node];
        while let Some(parent) = parents[branch[branch.len() - 1]] {
            branch.push(parent);
        }
        let first = kv_len - nodes;
        let keys: Vec<usize> = (0..first).chain(branch.iter().rev().map(|node| first + node)).collect();
        let rows = |values: &[f32], heads: usize, len: usize, chosen: &[usize]| -> Vec<f32> {
            let row = |head, row: &usize| values[(head * len + row) * dim..][..dim].to_vec();
            (0..heads).flat_map(|head| chosen.iter().flat_map(move |at| row(head, at))).collect()
        };
        let q = rows(&problem.q, 4, nodes, &[node]);
        let [k, v] = [&problem.k, &problem.v].map(|values| rows(values, 2, kv_len, &keys));
        let alone = shape.with_q_len(1).unwrap().with_kv_len(keys.len()).unwrap();
        let alone = reference::attention(&attention, &alone, &q, &k, &v, &Tables::new()).unwrap();
        for head in 0..4 {
            let of_tree = &tree.output[(head * nodes + node) * dim..][..dim];
            let pairs = of_tree.iter().zip(&alone.output[head * dim..][..dim]);
            assert!(pairs.into_iter().all(|(x, y)| (x - y).abs() < 1e-12), "node {node}, head {head}");
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals of masks") else { return };
    let shape = Shape::new(4, 2, 32, 16).unwrap();
    let problem = Problem::random(Attention::causal().with_masks(true), shape, 1);
    let [q, k, v] = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let plan = problem.plan(&context).unwrap();
    let refused = |plan: &prflash::Plan, tables: &Tables<'_>| {
        plan.run(&q, &k, &v, tables).unwrap_err().argument().map(str::to_owned)
    };
    for dims in [[2, 32, 32], [4, 31, 32], [4, 32, 33]] {
        let mask = mask(0, dims);
        assert_eq!(refused(&plan, &Tables::from(&mask)).as_deref(), Some("mask"), "{dims:?}");
    }
    let right = mask(0, [4, 32, 32]);
    let two = Tables::from(&right).with_mask(&right);
    assert_eq!(refused(&plan, &two).as_deref(), Some("masks"));
    let plain = Attention::causal().plan(&context, &shape).unwrap();
    assert_eq!(refused(&plain, &Tables::from(&right)).as_deref(), Some("mask"));
    let error = plan.reshaped(&BlockGrid::causal(&shape)).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("mask tensors"), "{error}");
    // More numbers than a device binds at once.
    let small = small_device(1 << 16, 300);
    let large = Mask::additive([1, 200, 200], &[0.0; 200 * 200]).unwrap();
    assert!(TableBuffer::new(&small, &Tables::from(&large)).unwrap_err().is_too_large());
    assert_eq!(DType::ALL.len(), 3); // of storage; a mask has its own forms
}
