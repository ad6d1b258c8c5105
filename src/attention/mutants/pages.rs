//! Mutants of what kernels read of pages.

use super::problem::{Problem, is_close};
use crate::attention::bound::Operands;
use crate::attention::call::{Call, Sequence};
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::pages::PageTable;
use crate::attention::inputs::tables::Tables;
use crate::attention::kernels::shapes::{Decode, Kernel, Tile};
use crate::attention::kernels::variant::Variant;
use crate::attention::plan_options::PlanOptions;
use crate::attention::table_buffer::TableBuffer;
use crate::layout::{DType, Layout};
use crate::runtime::context::Context;
use crate::runtime::tensor::Tensor;
use crate::runtime::testing::{Change, device, survivors};
use crate::shape::Shape;

const DIMS: [usize; 2] = [16, 12];
const PAGE_SIZE: usize = 8;
/// Tokens of a table before those that a call takes.
const BEFORE: usize = 3;

/// Two sequences whose pages are among each other's, from within a page on.
fn agrees(context: &Context, problem: &Problem, options: &PlanOptions) -> bool {
    let (shape, [_, k, v]) = (&problem.shape, &problem.qkv);
    let (batch, heads, tokens) = (shape.batch(), shape.kv_heads(), shape.kv_len());
    let each = (BEFORE + tokens).div_ceil(PAGE_SIZE);
    // One more than there are, and a prime, so that the order below has every page once.
    let count = 19;
    assert!(batch * each < count);
    let pages = |b: usize| (0..each).map(move |page| ((7 * (b * each + page) + 3) % count) as u32);
    let tables: Vec<PageTable> =
        (0..batch).map(|b| PageTable::new(&pages(b).collect::<Vec<_>>()).unwrap()).collect();
    let [k, v] = [(k, DIMS[0]), (v, DIMS[1])].map(|(values, dim)| {
        let pool = Layout::tokens_first(count, PAGE_SIZE, heads, dim).unwrap();
        let mut numbers = vec![9.0; pool.extent()];
        for (row, values) in values.chunks_exact(dim).enumerate() {
            let (b, head, token) = (row / (heads * tokens), row / tokens % heads, BEFORE + row % tokens);
            let page = tables[b].pages()[token / PAGE_SIZE] as usize;
            numbers[pool.index(page, head, token % PAGE_SIZE, 0)..][..dim].copy_from_slice(values);
        }
        let whole = Layout::heads_first(1, 1, 1, numbers.len()).unwrap();
        let tensor = Tensor::upload(context, DType::F32, whole, &numbers).unwrap();
        tensor.view().with_layout(pool).unwrap()
    });
    let [q, ..] = problem.upload(context);
    let results = |dim| Layout::heads_first(batch, shape.heads(), shape.q_len(), dim).unwrap();
    let output = Tensor::zeros(context, DType::F32, results(DIMS[1])).unwrap();
    let rows = Layout::rows(batch, shape.heads(), shape.q_len()).unwrap();
    let lse = Tensor::zeros(context, DType::F32, rows).unwrap();
    let plan = problem.attention.plan_with(context, shape, options).unwrap();
    let operands = Operands { q: q.view(), k: &k, v: &v, output: output.view(), lse: Some(lse.view()) };
    let bound = plan.bind(&operands).unwrap();
    let of_entry = |entry| Sequence {
        entry,
        queries: 0..shape.q_len(),
        keys: BEFORE..BEFORE + tokens,
        ..Sequence::default()
    };
    let sequences: Vec<Sequence> = (0..batch).map(of_entry).collect();
    let tables = TableBuffer::new(context, &tables.iter().fold(Tables::new(), Tables::with_pages)).unwrap();
    plan.submit(&bound, &Call::sequences(&sequences).with_tables(&tables)).unwrap();
    let output = output.read_blocking(context).unwrap();
    let lse = lse.read_blocking(context).unwrap();
    is_close(&output, &lse, problem.exact(), (plan.kernel(), shape, DType::F32), 1.0)
}

/// What is wrong in any kernel.
const SHARED: [Change; 8] = [
    (
        "pages follow each other",
        "tables[sequence.page_base + token / params.page_size]",
        "token / params.page_size",
    ),
    ("every sequence has the first one's pages", "sequence.page_base + token", "token"),
    ("sequences begin at their first token", "sequence.kv_start + key", "key"),
    (
        "keys are pages of values apart",
        "place.page * params.k_page_stride",
        "place.page * params.v_page_stride",
    ),
    (
        "values are pages of keys apart",
        "place.page * params.v_page_stride",
        "place.page * params.k_page_stride",
    ),
    ("keys are the first of their page", "place.row * params.k_row_stride", "0u"),
    ("values are the first of their page", "place.row * params.v_row_stride", "0u"),
    (
        "rows of a page are counted from its end",
        "token % params.page_size)",
        "params.page_size - 1u - token % params.page_size)",
    ),
];

#[test]
fn every_mutant_of_pages_is_caught() {
    let Some(context) = device("mutants of pages") else { return };
    let tiled = |rows, keys, staged| Kernel::Tiled(Tile::new(rows, keys, staged).unwrap());
    let own: [(Kernel, Vec<Change>); 4] = [
        (
            Kernel::Naive,
            vec![(
                "values are of the first key",
                "paged_value(sequence, u32(j))",
                "paged_value(sequence, 0u)",
            )],
        ),
        (
            tiled(1, 4, false),
            vec![
                ("a key is the one before", "paged_key(sequence, key2)", "paged_key(sequence, key1)"),
                (
                    "a value is the one before",
                    "paged_value(sequence, u32(j) + 2u)",
                    "paged_value(sequence, u32(j) + 1u)",
                ),
                (
                    "lone values are the first of a step",
                    "paged_value(sequence, u32(j + t))",
                    "paged_value(sequence, u32(j))",
                ),
            ],
        ),
        (
            tiled(4, 4, true),
            vec![
                (
                    "keys of a step are its first",
                    "paged_key(sequence, u32(key))",
                    "paged_key(sequence, u32(j))",
                ),
                (
                    "values of a step are its first",
                    "paged_value(sequence, key)",
                    "paged_value(sequence, u32(j))",
                ),
            ],
        ),
        (
            Kernel::Decode(Decode::new(1, false).unwrap()),
            vec![
                ("keys are the first", "paged_key(sequence, u32(j))", "paged_key(sequence, 0u)"),
                ("values are the first", "paged_value(sequence, u32(j))", "paged_value(sequence, 0u)"),
            ],
        ),
    ];
    for (kernel, mut changes) in own {
        let q_len = if matches!(kernel, Kernel::Decode(_)) { 3 } else { 58 };
        let shape = Shape::new(4, 2, q_len, DIMS[0]).unwrap().with_kv_len(60).unwrap();
        let shape = shape.with_batch(2).unwrap().with_value_dim(DIMS[1]).unwrap();
        // Steps that some rows see in part, and steps that all see whole.
        let problems =
            [Attention::causal(), Attention::full()].map(|attention| Problem::new(attention, shape));
        let options = PlanOptions::new().with_kernel(kernel).with_pages(true).with_splits(3).unwrap();
        // The piece is the same in all: once is enough, and the naive kernel compiles fastest.
        if kernel == Kernel::Naive {
            changes.extend(SHARED);
        }
        let variant = Variant { paged: true, ..Variant::new(kernel, DType::F32, DIMS) };
        let agree = || problems.iter().all(|problem| agrees(&context, problem, &options));
        let found = survivors(&context, variant, &changes, agree);
        assert!(found.is_empty(), "not caught in {kernel}: {found:#?}");
    }
}
