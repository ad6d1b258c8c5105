//! Shapes, layouts, types, grids, options, masks, tables and calls.

use prflash::attention::{FirstPositions, Mask, PageTable, PositionIds, Sequence};
use prflash::cache::{Chunk, SequenceId};
use prflash::kernels::{Decode, Kernel, Matrix, Tile};
use prflash::limits::{MAX_BATCH, MAX_ELEMENTS, MAX_HEADS, MAX_LEN};
use prflash::rotation::Rows;
use prflash::sampling::{Granularity, RowOrder};
use prflash::tuning::TuningOptions;
use prflash::{
    Attention, BlockGrid, Call, DType, Documents, Layout, PlanOptions, Queries, Result, Schedule, Seed,
    Shape, Tables,
};

use super::runner::{Case, tell};

/// What was asked for, if it wasn't refused. A refusal names its argument.
pub fn accepted<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let named = error.argument().is_some() && (error.is_invalid_argument() || error.is_too_large());
            assert!(named || error.is_corrupt() || error.is_unknown_version(), "{error}");
            None
        }
    }
}

/// Any shape that isn't refused. Mostly one or two of its counts are extreme, since hardly any
/// product of more is in range.
pub fn shape(case: &mut Case) -> Option<Shape> {
    let n = &mut case.numbers;
    let mut counts = [1 + n.below(4), n.below(100), 1 + n.below(3), n.below(100), n.below(100)];
    for _ in 0..n.below(4) {
        let at = n.below(counts.len());
        counts[at] = n.size();
    }
    let [heads, len, batch, q_len, kv_len] = counts;
    let kv_heads = if n.once_in(9) { n.size() } else { n.pick(&[1, heads]) };
    let (dim, value_dim, steps) = (n.dim(), n.dim(), n.below(32));
    tell!(case, "Shape::new({heads}, {kv_heads}, {len}, {dim})");
    let mut shape = accepted(Shape::new(heads, kv_heads, len, dim))?;
    let mut apply = |step: usize, name: &str, change: &dyn Fn(Shape) -> Result<Shape>| {
        if steps & step != 0 {
            tell!(case, "with_{name}");
            shape = accepted(change(shape)).unwrap_or(shape);
        }
    };
    apply(1, &format!("batch({batch})"), &|shape| shape.with_batch(batch));
    apply(2, &format!("q_len({q_len})"), &|shape| shape.with_q_len(q_len));
    apply(4, &format!("kv_len({kv_len})"), &|shape| shape.with_kv_len(kv_len));
    apply(8, &format!("value_dim({value_dim})"), &|shape| shape.with_value_dim(value_dim));
    Some(shape)
}

/// A shape of everyday size, whose tensors have at most some thousands of numbers.
pub fn small_shape(case: &mut Case) -> Shape {
    let n = &mut case.numbers;
    let kv_heads = 1 + n.below(3);
    let (heads, dim) = (kv_heads * (1 + n.below(3)), 4 * (1 + n.below(4)));
    let (batch, q_len, kv_len) = (1 + n.below(2), n.below(20), n.below(24));
    tell!(case, "Shape: {heads} heads on {kv_heads}, {batch} × {q_len} queries on {kv_len} keys, D = {dim}");
    Shape::new(heads, kv_heads, 0, dim)
        .and_then(|shape| shape.with_q_len(q_len)?.with_kv_len(kv_len)?.with_batch(batch))
        .unwrap()
}

pub fn shapes(case: &mut Case) {
    let Some(shape) = shape(case) else { return };
    tell!(case, "queries of {shape:?}");
    assert!(shape.heads() <= MAX_HEADS && shape.batch() <= MAX_BATCH);
    assert!(shape.q_len() <= MAX_LEN && shape.kv_len() <= MAX_LEN);
    assert!(shape.heads_per_kv_head() * shape.kv_heads() == shape.heads());
    assert!(shape.first_position().unsigned_abs() <= MAX_LEN as u64);
    assert!(shape.dense_flops(true) <= shape.dense_flops(false));
    let dim = shape.head_dim().max(shape.value_dim());
    assert!(shape.batch() * shape.heads() * shape.q_len().max(1) * dim <= MAX_ELEMENTS);
    tell!(case, "Layout::fused_qkv");
    for layout in accepted(Layout::fused_qkv(&shape)).into_iter().flatten() {
        query_layout(case, &layout);
    }
}

pub fn layouts(case: &mut Case) {
    let n = &mut case.numbers;
    let mut counts = [(); 3].map(|()| n.size());
    // An empty dimension makes every product 0.
    if n.once_in(4) {
        counts[n.below(3)] = 0;
    }
    let [a, b, c] = counts;
    let (d, offset, kind) = (n.dim(), 4 * n.below(3), n.below(4));
    // Multiples of four, or what comes.
    let mut stride = || if n.once_in(5) { n.size() } else { n.size() & !3 };
    let (strides, offset) = ([(); 3].map(|()| stride()), if kind == 3 { stride() } else { offset });
    tell!(case, "Layout, kind {kind}: {a}, {b}, {c}, {d}; strides {strides:?} from {offset}");
    let layout = accepted(match kind {
        0 => Layout::heads_first(a, b, c, d),
        1 => Layout::tokens_first(a, b, c, d),
        2 => Layout::rows(a, b, c),
        _ => Layout::with_strides([a, b, c, d], offset, strides),
    });
    layout.iter().for_each(|layout| query_layout(case, layout));
}

fn query_layout(case: &mut Case, layout: &Layout) {
    let n = &mut case.numbers;
    let ([b, h, i, c], source, buffer) = ([(); 4].map(|()| n.size()), n.mild(5000), n.mild(5000));
    tell!(case, "queries of {layout:?}; index({b}, {h}, {i}, {c})");
    assert!(layout.elements() <= MAX_ELEMENTS && layout.extent() <= MAX_ELEMENTS);
    let inside = [b, h, i, c].into_iter().zip(layout.dims()).all(|(index, dim)| index < dim);
    assert!(!inside || layout.index(b, h, i, c) < layout.extent());
    let _ = (layout.is_disjoint(), layout.strides(), layout.offset());
    // Large copies take their time.
    let (source, buffer) = (source.min(10_000), buffer.min(10_000));
    tell!(case, "scatter {source} into {buffer}, gather from {buffer}");
    let mut memory = vec![0.0; buffer];
    accepted(layout.scatter(&vec![1.0; source], &mut memory));
    if !(1 << 20..1 << 31).contains(&layout.elements()) {
        accepted(layout.gather(&memory));
    }
    if layout.elements() <= 10_000 && layout.extent() <= 1 << 20 {
        let (values, mut memory) = (vec![1.0; layout.elements()], vec![0.0; layout.extent()]);
        layout.scatter(&values, &mut memory).unwrap();
        assert_eq!(layout.gather(&memory).unwrap(), values);
    }
}

pub fn types(case: &mut Case) {
    let n = &mut case.numbers;
    let count = n.below(9);
    let bytes: Vec<u8> = (0..count).map(|_| n.bits() as u8).collect();
    let (value, values) = (n.f32(), n.values(count));
    tell!(case, "DType: {bytes:?}, {value}, {values:?}");
    for dtype in DType::ALL {
        assert_eq!(dtype.decode(&bytes).len(), bytes.len() / dtype.size());
        assert!(dtype.encode(&values).len() % 4 == 0);
        let round = dtype.round(value);
        assert!(round.is_nan() == value.is_nan() && dtype.unit_roundoff() < 1.0);
    }
    let n = &mut case.numbers;
    let words = [(); 6].map(|()| n.u32());
    tell!(case, "random and Key of {words:?}");
    let _ = (prflash::random::pcg_hash(words[0]), prflash::random::hash_words(&words));
    let seed = Seed::new(words[0].into()).layer(words[1]).round(words[2]).sequence(words[3]);
    assert_eq!(seed, seed.layer(words[4]).sequence(words[3]).layer(words[1]));
}

/// A grid of any size that isn't refused.
pub fn grid(case: &mut Case) -> Option<BlockGrid> {
    let shape = shape(case)?;
    let n = &mut case.numbers;
    let (full, block) = (n.bool(), if n.bool() { 64 } else { n.size() });
    let granularity = n.pick(&[Granularity::Head, Granularity::KvHead, Granularity::Shared]);
    tell!(case, "BlockGrid of {shape:?}: full {full}, blocks of {block}, {granularity:?}");
    let grid = if full { BlockGrid::full(&shape) } else { BlockGrid::causal(&shape) };
    accepted(grid.with_granularity(granularity).with_block_size(block))
}

/// A grid of up to a few dozen blocks a side.
pub fn small_grid(case: &mut Case) -> BlockGrid {
    let n = &mut case.numbers;
    let kv_heads = 1 + n.below(2);
    let (heads, block) = (kv_heads * (1 + n.below(2)), 1 + n.below(9));
    let (full, q_len, kv_len) = (n.once_in(3), n.below(130), n.below(130));
    let granularity = n.pick(&[Granularity::Head, Granularity::KvHead, Granularity::Shared]);
    tell!(
        case,
        "grid: {heads} heads on {kv_heads}, {q_len} × {kv_len}, blocks of {block}, full {full}, {granularity:?}"
    );
    let shape = Shape::new(heads, kv_heads, q_len, 4).and_then(|shape| shape.with_kv_len(kv_len)).unwrap();
    let grid = if full { BlockGrid::full(&shape) } else { BlockGrid::causal(&shape) };
    grid.with_block_size(block).unwrap().with_granularity(granularity)
}

pub fn grids(case: &mut Case) {
    let Some(grid) = grid(case) else { return };
    let n = &mut case.numbers;
    let (row, head, lists) = (n.i64(), n.size(), n.below(5));
    tell!(case, "queries of {grid:?}: row {row}, head {head}");
    assert!(grid.dense_row(row) <= grid.key_blocks());
    assert_eq!(grid.group_of_head(head) < grid.groups(), head < grid.heads());
    assert!(grid.groups() * grid.heads_per_group() == grid.heads());
    assert!(
        grid.dense_blocks() <= grid.groups() as u64 * grid.query_blocks() as u64 * grid.key_blocks() as u64
    );
    let _ = (grid.first_query_block(), grid.is_causal(), grid.block_size(), grid.granularity());
    tell!(case, "{lists} lists");
    let schedule = accepted(Schedule::from_block_lists(&grid, &vec![[0usize]; lists]));
    assert!(schedule.is_none() || grid.groups() * grid.query_blocks() == lists);
    if grid.dense_blocks() > MAX_ELEMENTS as u64 {
        tell!(case, "Schedule::dense");
        assert!(Schedule::dense(&grid).unwrap_err().is_too_large());
    }
}

pub fn attention(case: &mut Case) {
    let n = &mut case.numbers;
    let mut attention = if n.bool() { Attention::causal() } else { Attention::full() };
    let [window, splits, dim, sequences] = [(); 4].map(|()| n.size());
    let [scale, cap, beta] = [(); 3].map(|()| n.f32());
    let (position, kv_len) = (n.i64(), n.size());
    tell!(
        case,
        "window {window}, splits {splits}, scale {scale}, cap {cap}, beta {beta}, sequences {sequences}"
    );
    attention = accepted(attention.clone().with_window(window)).unwrap_or(attention);
    attention = accepted(attention.clone().with_scale(scale)).unwrap_or(attention);
    attention = accepted(attention.clone().with_soft_cap(cap)).unwrap_or(attention);
    attention = accepted(attention.clone().with_correction(beta)).unwrap_or(attention);
    let n = &mut case.numbers;
    let sinks: Vec<f32> = (0..n.below(4)).map(|_| n.f32()).collect();
    tell!(case, "sinks {sinks:?}");
    attention = accepted(attention.clone().with_sinks(&sinks)).unwrap_or(attention);
    attention = attention.with_lse(true).with_storage(DType::F16).with_masks(true);
    let mut options = PlanOptions::new().with_f16_products(true);
    options = accepted(options.clone().with_splits(splits)).unwrap_or(options);
    options = accepted(options.clone().with_sequences(sequences)).unwrap_or(options);
    assert!(options.splits().is_none_or(|splits| splits <= 1024));
    let (rounds, trials) = (case.numbers.size(), case.numbers.size());
    tell!(case, "TuningOptions: {rounds} rounds, {trials} trials");
    let tuning = accepted(TuningOptions::new(rounds));
    let tuning = tuning.and_then(|tuning| accepted(tuning.with_trials(trials)));
    assert!(tuning.is_none_or(|tuning| (tuning.rounds(), tuning.trials()) == (rounds, trials)));
    tell!(case, "{attention:?}: visible({position}, {kv_len}), scale({dim})");
    let visible = attention.visible(position, kv_len);
    assert!(visible.start <= visible.end && visible.end <= kv_len);
    let _ = (attention.scale(dim), attention.positions(), options.tuning(), options.kernel());
}

pub fn masks(case: &mut Case) {
    let n = &mut case.numbers;
    let (dims, right) = ([(); 3].map(|()| n.size()), n.bool());
    let product = dims.iter().try_fold(1usize, |all, &dim| all.checked_mul(dim));
    let count = product.filter(|&count| right && count < 1 << 16).unwrap_or_else(|| n.below(40));
    let (values, at) = (n.values(count), [(); 3].map(|()| n.size()));
    tell!(case, "Mask of {dims:?} from {count}, value at {at:?}");
    let seen: Vec<bool> = values.iter().map(|&x| x > 0.0).collect();
    let all = [Mask::boolean(dims, &seen), Mask::additive(dims, &values), Mask::additive_f16(dims, &values)];
    for mask in all.into_iter().filter_map(accepted) {
        assert_eq!((mask.dims(), Some(count)), (dims, product));
        let _ = mask.value(at[0], at[1], at[2]);
        let tables = Tables::from(&mask).with_mask(&mask);
        assert!(tables.mask(1).is_some() && tables.mask(2).is_none());
    }
    let n = &mut case.numbers;
    let (kv_len, nodes) = (n.size(), n.below(6));
    let parents: Vec<Option<usize>> =
        (0..nodes).map(|_| if n.bool() { Some(n.mild(4)) } else { None }).collect();
    // Memory grows with the length, as it has to.
    if !(1 << 18..1 << 36).contains(&kv_len) {
        tell!(case, "Mask::tree, PositionIds::tree of {parents:?}, {kv_len} keys");
        assert!(accepted(Mask::tree(&parents, kv_len)).is_none_or(|mask| mask.dims() == [1, nodes, kv_len]));
        accepted(PositionIds::tree(&parents, kv_len));
    }
}

pub fn pages(case: &mut Case) {
    let n = &mut case.numbers;
    let pages: Vec<u32> =
        (0..n.below(6)).map(|_| if n.bool() { n.below(6) as u32 } else { n.u32() }).collect();
    let (dims, tokens) = ([n.below(7), n.below(3), n.below(5), 4 * n.below(3)], n.size());
    let count = n.below(700);
    let values = n.values(count);
    tell!(case, "PageTable of {pages:?}, {tokens} tokens of a pool {dims:?} in {} numbers", values.len());
    let Some(mut table) = accepted(PageTable::new(&pages)) else { return };
    let Some(pool) = accepted(Layout::heads_first(dims[0], dims[1], dims[2], dims[3])) else { return };
    if let Some(rows) = accepted(table.gather(&pool, &values, tokens)) {
        assert_eq!(rows.len(), dims[1] * tokens * dims[3]);
    }
    let tables = Tables::from(&table).with_pages(&table);
    assert!(tables.pages(1).is_some() && tables.pages(2).is_none());
    accepted(table.push(u32::MAX));
    assert_eq!(table.pages().len(), pages.len() + 1);
}

pub fn documents(case: &mut Case) {
    let n = &mut case.numbers;
    let count = n.below(6);
    let numbers: Vec<usize> = (0..count).map(|_| n.size()).collect();
    let mut ascending = numbers.clone();
    ascending.sort_unstable();
    let query = n.size();
    tell!(case, "Documents of {numbers:?}, query {query}");
    let documents = [
        accepted(Documents::from_lengths(&numbers)),
        accepted(Documents::from_starts(&numbers)),
        accepted(Documents::from_starts(&ascending)),
    ];
    for documents in documents.into_iter().flatten() {
        assert_eq!(documents.range(query).is_empty(), query >= documents.len());
        assert!(documents.range(documents.len()).is_empty());
        assert_eq!(documents.is_empty(), documents.ranges().next().is_none());
        assert_eq!(documents.ranges().nth(3), (documents.len() > 3).then(|| documents.range(3)));
    }
}

pub fn tables(case: &mut Case) {
    let n = &mut case.numbers;
    let ids: Vec<u32> = (0..n.below(4)).map(|_| n.u32()).collect();
    let (copies, sequence) = (n.below(4), n.size());
    tell!(case, "PositionIds of {ids:?}");
    let ids = accepted(PositionIds::new(&ids, &ids));
    let documents = Documents::from_lengths(&[2, 1]).unwrap();
    let grid = small_grid(case);
    tell!(case, "Tables: {copies} copies, sequence {sequence}");
    let schedule = Schedule::dense(&grid).unwrap();
    let mut tables = Tables::new().with_row_order(RowOrder::Paired);
    for _ in 0..copies {
        tables = tables.with_schedule(&schedule).unwrap().with_documents(&documents);
        tables = ids.iter().fold(tables, |tables, ids| tables.with_position_ids(ids));
    }
    assert_eq!(tables.schedule(sequence).is_some(), copies == 1 || sequence < copies);
    assert_eq!(tables.documents(sequence).is_some(), copies == 1 || sequence < copies);
    let _ = tables.position_ids(sequence).map(|ids| (ids.queries().len(), ids.keys().len()));
}

/// Values of a call, which a plan checks.
pub fn calls(case: &mut Case) {
    let n = &mut case.numbers;
    let [a, b, c, d, e] = [(); 5].map(|()| n.size());
    let [p, q] = [(); 2].map(|()| n.i64());
    tell!(case, "{a}, {b}, {c}, {d}, {e}; {p}, {q}");
    let (sequence, positions) = (SequenceId::new(a), Some(FirstPositions { query: p, key: q }));
    let sequences = [Sequence { entry: a, queries: b..c, keys: d..e, positions }];
    let _ = (Call::lengths(a, b), Call::sequences(&sequences));
    let _ = (Chunk { sequence, entry: b, rows: c..d }, Queries { sequence, entry: b, rows: c..d, positions });
    let _ = (Rows::new(a, b..c), Rows::new(a, d..e).at_position(p));
}

pub fn kernels(case: &mut Case) {
    let n = &mut case.numbers;
    let [a, b, c] = [(); 3].map(|()| n.mild(16));
    let flag = n.bool();
    tell!(case, "kernels of {a}, {b}, {c}, {flag}");
    let tile = accepted(Tile::new(a, b, flag)).map(|tile| tile.with_f16_products(flag));
    let tile = tile.and_then(|tile| accepted(tile.with_slices(c)));
    let kernels = [
        tile.map(Kernel::Tiled),
        accepted(Matrix::new(a, flag, flag)).map(Kernel::Matrix),
        accepted(Decode::new(a, flag)).map(Kernel::Decode),
        Some(Kernel::Naive),
    ];
    for kernel in kernels.into_iter().flatten() {
        let mut name = kernel.to_string();
        assert_eq!(accepted(name.parse::<Kernel>()), Some(kernel));
        // One character more, less or another.
        let at = case.numbers.below(name.len());
        match case.numbers.below(3) {
            0 => drop(name.remove(at)),
            1 => name.insert(at, 'é'),
            _ => name.truncate(at),
        }
        tell!(case, "Kernel of '{name}'");
        accepted(name.parse::<Kernel>());
    }
}
