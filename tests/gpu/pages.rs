//! Keys and values in pages, against rows and the oracle.

use crate::common::cases::{harmonic_schedule, mask};
use crate::common::pages::{Pages, Pooled};
use crate::common::{Problem, gpu, numbers, small_device};
use prflash::attention::{PageTable, Sequence};
use prflash::kernels::{Decode, Kernel, Tile};
use prflash::position::Pairing;
use prflash::rounds::Combine;
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, Bias, BlockGrid, Call, Context, DType, Documents, Layout, Operands, Plan, PlanOptions,
    Positions, Profile, Rope, Schedule, Seed, Shape, Systematic, TableBuffer, Tables, Tensor, TensorView,
};

/// Keys and values on the GPU.
fn upload(pooled: &Pooled, context: &Context, dtype: DType) -> [TensorView; 2] {
    std::array::from_fn(|part| {
        let numbers = &pooled.numbers[part];
        let whole = Layout::heads_first(1, 1, 1, numbers.len()).unwrap();
        let tensor = Tensor::upload(context, dtype, whole, numbers).unwrap();
        tensor.view().with_layout(pooled.layouts[part]).unwrap()
    })
}

/// Output and log-sum-exp of all sequences.
fn run(
    context: &Context,
    problem: &Problem,
    plan: &Plan,
    pooled: &Pooled,
    tables: Tables<'_>,
) -> [Vec<f32>; 2] {
    let (shape, dtype) = (&problem.shape, problem.attention.storage());
    let tensor = |layout, values: &[f32]| Tensor::upload(context, dtype, layout, values).unwrap();
    let heads_first = |dim| Layout::heads_first(shape.batch(), shape.heads(), shape.q_len(), dim).unwrap();
    let q = tensor(heads_first(shape.head_dim()), &problem.q);
    let output = Tensor::zeros(context, problem.attention.output(), heads_first(shape.value_dim())).unwrap();
    let rows = Layout::rows(shape.batch(), shape.heads(), shape.q_len()).unwrap();
    let lse = Tensor::zeros(context, DType::F32, rows).unwrap();
    let [k, v] = &upload(pooled, context, dtype);
    let operands = Operands { q: q.view(), k, v, output: output.view(), lse: Some(lse.view()) };
    let bound = plan.bind(&operands).unwrap();
    let tables = TableBuffer::new(context, &pooled.among(tables)).unwrap();
    plan.submit(&bound, &Call::lengths(shape.q_len(), shape.kv_len()).with_tables(&tables)).unwrap();
    [output.read_blocking(context).unwrap(), lse.read_blocking(context).unwrap()]
}

fn kernels(q_len: usize) -> Vec<Option<Kernel>> {
    let tiled = |rows, keys, staged| Some(Kernel::Tiled(Tile::new(rows, keys, staged).unwrap()));
    let mut kernels =
        vec![None, Some(Kernel::Naive), tiled(1, 4, false), tiled(2, 2, true), tiled(4, 4, false)];
    if q_len <= 8 {
        kernels.push(Some(Kernel::Decode(Decode::new(2, false).unwrap())));
    }
    kernels
}

fn bits(of: &[Vec<f32>; 2]) -> Vec<u32> {
    of.iter().flatten().map(|x| x.to_bits()).collect()
}

/// Every kernel, over every order of pages, gives the bits that it gives over rows; and these are
/// within the oracle's tolerances.
fn check(context: &Context, problem: &Problem, tables: &Tables<'_>, page_sizes: &[usize], story: &str) {
    let exact = problem.exact(tables);
    for kernel in kernels(problem.shape.q_len()) {
        let options = kernel.map_or(PlanOptions::new(), |kernel| PlanOptions::new().with_kernel(kernel));
        if kernel.is_some_and(|kernel| matches!(kernel, Kernel::Tiled(tile) if !tile.is_staged()))
            && problem.attention.positions().is_some_and(|positions| positions.rope().is_some())
        {
            continue; // keys turn in workgroup memory
        }
        let qkv = problem.upload(context, crate::common::Storage::HeadsFirst).unwrap();
        let rows = problem.run_on(context, &options, &qkv, tables);
        let want = bits(&[rows.output, rows.lse.unwrap()]);
        let paged = options.with_pages(true);
        let plan = problem.attention.plan_with(context, &problem.shape, &paged).unwrap();
        for (index, &page_size) in page_sizes.iter().enumerate() {
            for (seed, pages) in
                [Pages::TokensFirst, Pages::HeadsFirst, Pages::Together].into_iter().enumerate()
            {
                if matches!(pages, Pages::Together) && problem.shape.head_dim() != problem.shape.value_dim() {
                    continue;
                }
                let pooled = Pooled::new(problem, pages, page_size, (seed + index) as u64);
                let got = run(context, problem, &plan, &pooled, tables.clone());
                let what = format!("{story}, {}, pages of {page_size}, {pages:?}", plan.kernel());
                let tolerance = Tolerances::of_kernel_output(
                    plan.kernel(),
                    &exact,
                    &problem.shape,
                    problem.attention.output(),
                );
                let report = compare(&got[0], &exact.output, tolerance).unwrap();
                assert!(report.passed(), "output of {what}: {report}");
                let tolerance = Tolerances::of_kernel_lse(plan.kernel(), &exact, &problem.shape);
                let report = compare(&got[1], &exact.lse, tolerance).unwrap();
                assert!(report.passed(), "lse of {what}: {report}");
                assert!(bits(&got) == want, "other bits than of rows: {what}");
            }
        }
    }
}

#[test]
fn pages_are_as_rows() {
    let Some(context) = gpu("pages") else { return };
    let positions = Positions::from(Rope::new(32, 1e4, Pairing::Half).unwrap()).with_bias(Bias::harmonic());
    let partial = Rope::new(32, 1e4, Pairing::Interleaved).unwrap().with_rotary_dim(16).unwrap();
    let causal = || Attention::causal().with_lse(true);
    for (case, (q_len, kv_len)) in [(70, 70), (1, 300), (5, 133), (66, 200), (3, 0)].into_iter().enumerate() {
        let shape = Shape::new(4, 2, q_len, 32).unwrap().with_kv_len(kv_len).unwrap().with_batch(2).unwrap();
        let attentions = [
            causal(),
            causal().with_storage(DType::F16).with_output(DType::F16).with_window(40).unwrap(),
            causal().with_positions(positions.clone()),
            Attention::full().with_lse(true).with_storage(DType::Bf16).with_soft_cap(2.0).unwrap(),
            causal().with_positions(partial.clone().into()),
        ];
        for (index, attention) in attentions.into_iter().enumerate() {
            let value_dim = if index == 3 { 20 } else { 32 };
            let problem = Problem::random(attention, shape.with_value_dim(value_dim).unwrap(), 7);
            let sizes: &[usize] = if index == 0 { &[16, 1, 24, 256] } else { &[16] };
            check(&context, &problem, &Tables::new(), sizes, &format!("case {case}.{index}"));
        }
    }
}

/// With everything that sequences have of their own.
#[test]
fn pages_with_tables() {
    let Some(context) = gpu("pages with tables") else { return };
    let shape = Shape::new(4, 2, 100, 32).unwrap();
    let attention = Attention::causal().with_lse(true).with_correction(0.5).unwrap().with_masks(true);
    let problem = Problem::random(attention, shape, 3);
    let schedule = harmonic_schedule(&problem, 16);
    let documents = Documents::from_lengths(&[30, 70]).unwrap();
    let mask = mask(1, [4, 100, 100]);
    check(&context, &problem, &Tables::from(&schedule), &[16], "schedule");
    check(&context, &problem, &Tables::from(&documents).with_mask(&mask), &[8], "documents, mask");
}

/// Pages that a window, a schedule or a length hides aren't read: NaN in them changes nothing.
#[test]
fn hidden_pages_are_not_read() {
    let Some(context) = gpu("hidden pages") else { return };
    for (q_len, kv_len) in [(1, 400), (4, 400), (64, 400)] {
        let shape = Shape::new(2, 1, q_len, 32).unwrap().with_kv_len(kv_len).unwrap();
        let attention = Attention::causal().with_lse(true).with_window(50).unwrap();
        let problem = Problem::random(attention, shape, 3);
        let seen = kv_len - q_len - 50;
        for kernel in kernels(q_len) {
            let options = kernel.map_or(PlanOptions::new(), |kernel| PlanOptions::new().with_kernel(kernel));
            let plan = problem.attention.plan_with(&context, &shape, &options.with_pages(true)).unwrap();
            let mut pooled = Pooled::new(&problem, Pages::TokensFirst, 16, 5);
            let want = run(&context, &problem, &plan, &pooled, Tables::new());
            assert!(want.iter().flatten().all(|x| x.is_finite()), "{}", plan.kernel());
            for (layout, numbers) in pooled.layouts.iter().zip(&mut pooled.numbers) {
                for &page in &pooled.tables[0].pages()[..seen / 16] {
                    let at = layout.index(page as usize, 0, 0, 0);
                    numbers[at..at + 16 * 32].fill(f32::NAN);
                }
            }
            let got = run(&context, &problem, &plan, &pooled, Tables::new());
            assert!(bits(&got) == bits(&want), "{}", plan.kernel());
        }
    }
}

/// Rounds over pages have the bits of rounds over rows.
#[test]
fn rounds_over_pages() {
    let Some(context) = gpu("rounds over pages") else { return };
    let shape = Shape::new(4, 2, 100, 32).unwrap().with_batch(2).unwrap();
    let attention = Attention::causal().with_lse(true).with_correction(1.0).unwrap();
    let problem = Problem::random(attention, shape, 3);
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let schedule = |round| {
        Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(7).round(round)).unwrap()
    };
    let pooled = Pooled::new(&problem, Pages::TokensFirst, 16, 5);
    let [q, k, v] = problem.upload(&context, crate::common::Storage::HeadsFirst).unwrap();
    let [pooled_k, pooled_v] = upload(&pooled, &context, DType::F32);
    let found = [(false, [&k, &v]), (true, [&pooled_k, &pooled_v])].map(|(paged, [k, v])| {
        let options = PlanOptions::new().with_pages(paged);
        let plan = problem.attention.plan_with(&context, &shape, &options).unwrap();
        let plan = plan.rounds(Combine::Independent).unwrap();
        let output = Tensor::zeros(&context, DType::F32, crate::common::output_layout(&shape)).unwrap();
        let lse = Tensor::zeros(&context, DType::F32, Layout::rows(2, 4, 100).unwrap()).unwrap();
        let operands = Operands { q: &q, k, v, output: output.view(), lse: Some(lse.view()) };
        let bound = plan.bind(&operands, None).unwrap();
        for round in 0..3 {
            let schedule = schedule(round);
            let tables = Tables::from(&schedule);
            let tables = if paged { pooled.among(tables) } else { tables };
            let tables = TableBuffer::new(&context, &tables).unwrap();
            let mut encoder = context.device().create_command_encoder(&Default::default());
            let call = Call::lengths(100, 100).with_tables(&tables);
            plan.encode_round(&mut encoder, &bound, &call, round as usize).unwrap();
            context.queue().submit([encoder.finish()]);
        }
        bits(&[output.read_blocking(&context).unwrap(), lse.read_blocking(&context).unwrap()])
    });
    assert!(found[0] == found[1], "other bits than of rows");
}

/// Sequences of other lengths in one call, which begin within their tables, and share pages.
#[test]
fn sequences_share_pages() {
    let Some(context) = gpu("shared pages") else { return };
    let (dim, page_size) = (16, 8);
    let pool = Layout::tokens_first(6, page_size, 1, dim).unwrap();
    let [keys, values] = [1, 2].map(|seed| numbers(seed, pool.extent()));
    let [k, v] = [&keys, &values].map(|numbers| Tensor::upload(&context, DType::F32, pool, numbers).unwrap());
    let queries = Layout::heads_first(1, 2, 6, dim).unwrap();
    let q_numbers = numbers(3, queries.elements());
    let q = Tensor::upload(&context, DType::F32, queries, &q_numbers).unwrap();
    let output = Tensor::zeros(&context, DType::F32, queries).unwrap();
    let shape = Shape::new(2, 1, 4, dim).unwrap().with_kv_len(40).unwrap();
    let attention = Attention::causal();
    let tables = [PageTable::new(&[4, 0, 5]).unwrap(), PageTable::new(&[4, 2]).unwrap()];
    let parts = [(0..2, 3..20), (2..6, 0..11)];
    let sequences = parts.clone().map(|(queries, keys)| Sequence { queries, keys, ..Sequence::default() });
    let uploaded =
        TableBuffer::new(&context, &tables.iter().fold(Tables::new(), Tables::with_pages)).unwrap();
    for kernel in kernels(4) {
        let options = kernel.map_or(PlanOptions::new(), |kernel| PlanOptions::new().with_kernel(kernel));
        let options = options.with_pages(true).with_sequences(2).unwrap();
        let plan = attention.plan_with(&context, &shape, &options).unwrap();
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let bound = plan.bind(&operands).unwrap();
        plan.submit(&bound, &Call::sequences(&sequences).with_tables(&uploaded)).unwrap();
        let got = output.read_blocking(&context).unwrap();
        for ((queries, keys_of), table) in parts.iter().zip(&tables) {
            let rows = |numbers: &[f32]| {
                let rows = table.gather(&pool, numbers, keys_of.end).unwrap();
                rows[keys_of.start * dim..].to_vec()
            };
            let of = |values: &[f32]| -> Vec<f32> {
                (0..2)
                    .flat_map(|head| {
                        values[(head * 6 + queries.start) * dim..][..queries.len() * dim].to_vec()
                    })
                    .collect()
            };
            let shape = shape.with_q_len(queries.len()).unwrap().with_kv_len(keys_of.len()).unwrap();
            let exact = prflash::reference::attention(
                &attention,
                &shape,
                &of(&q_numbers),
                &rows(&keys),
                &rows(&values),
                &Tables::new(),
            );
            let exact = exact.unwrap();
            let tolerance = Tolerances::of_kernel_output(plan.kernel(), &exact, &shape, DType::F32);
            let report = compare(&of(&got), &exact.output, tolerance).unwrap();
            assert!(report.passed(), "{}, queries {queries:?}: {report}", plan.kernel());
        }
    }
}

/// Shards of heads read the pages of their own heads.
#[test]
fn shards_read_their_heads_of_pages() {
    if gpu("pages in shards").is_none() {
        return;
    }
    let context = small_device(1 << 18, 300);
    for q_len in [130, 2] {
        let shape = Shape::new(12, 12, q_len, 64).unwrap().with_kv_len(200).unwrap();
        let problem = Problem::random(Attention::causal().with_lse(true), shape, 3);
        let plan =
            problem.attention.plan_with(&context, &shape, &PlanOptions::new().with_pages(true)).unwrap();
        let pool = Layout::heads_first(16, 12, 16, 64).unwrap();
        assert!(4 * pool.extent() > 1 << 18, "one binding is enough");
        // Heads of a page lie within it, so a shard's pages reach over nearly all of the pool.
        let q = problem.upload(&context, crate::common::Storage::HeadsFirst).unwrap();
        let pooled = Pooled::new(&problem, Pages::HeadsFirst, 16, 3);
        let [k, v] = upload(&pooled, &context, DType::F32);
        let output = Tensor::zeros(&context, DType::F32, crate::common::output_layout(&shape)).unwrap();
        let lse = Tensor::zeros(&context, DType::F32, Layout::rows(1, 12, q_len).unwrap()).unwrap();
        let operands = Operands { q: &q[0], k: &k, v: &v, output: output.view(), lse: Some(lse.view()) };
        assert!(plan.bind(&operands).unwrap_err().is_too_large());
    }
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals of pages") else { return };
    let shape = Shape::new(2, 1, 4, 16).unwrap().with_kv_len(40).unwrap();
    let plan = |pages| {
        Attention::causal().plan_with(&context, &shape, &PlanOptions::new().with_pages(pages)).unwrap()
    };
    let (paged, rows) = (plan(true), plan(false));
    let zeros = |layout| Tensor::zeros(&context, DType::F32, layout).unwrap();
    let queries = Layout::heads_first(1, 2, 4, 16).unwrap();
    let (q, output) = (zeros(queries), zeros(queries));
    let pool = |pages, size| zeros(Layout::heads_first(pages, 1, size, 16).unwrap());
    let (k, v) = (pool(5, 8), pool(5, 8));
    let bind = |k: &Tensor, v: &Tensor| {
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        paged.bind(&operands).unwrap_err().argument().map(str::to_owned)
    };
    assert_eq!(bind(&k, &pool(5, 4)).as_deref(), Some("v"));
    assert_eq!(bind(&k, &pool(4, 8)).as_deref(), Some("v"));
    assert_eq!(bind(&pool(5, 0), &pool(5, 0)).as_deref(), Some("k"));
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let bound = paged.bind(&operands).unwrap();
    let refused = |tables: Option<Tables<'_>>, kv_len| {
        let buffer = tables.map(|tables| TableBuffer::new(&context, &tables).unwrap());
        let call = Call::lengths(4, kv_len);
        let call = buffer.iter().fold(call, |call, buffer| call.with_tables(buffer));
        paged.submit(&bound, &call).map_err(|error| error.argument().map(str::to_owned))
    };
    let table = |pages: &[u32]| PageTable::new(pages).unwrap();
    let pages = Err(Some("pages".to_owned()));
    assert_eq!(refused(None, 40), pages);
    assert_eq!(refused(Some(Tables::new()), 40), pages);
    assert_eq!(refused(Some(Tables::from(&table(&[0, 1, 2, 3]))), 40), pages);
    assert_eq!(refused(Some(Tables::from(&table(&[0, 1, 2, 3, 5]))), 40), pages);
    assert_eq!(refused(Some(Tables::from(&table(&[0, 1, 2, 3, u32::MAX]))), 40), pages);
    assert_eq!(refused(Some(Tables::from(&table(&[0, 1, 2, 3, 4]))), 40), Ok(()));
    assert_eq!(refused(Some(Tables::from(&table(&[0]))), 8), Ok(()));
    let (one, two) = (table(&[0; 5]), table(&[1; 5]));
    assert_eq!(refused(Some(Tables::from(&one).with_pages(&two)), 40), pages);
    // Pages where rows are wanted, and the other way round.
    let whole = zeros(Layout::heads_first(1, 1, 40, 16).unwrap());
    let got = rows.run(q.view(), whole.view(), whole.view(), &Tables::from(&one));
    assert_eq!(got.unwrap_err().argument(), Some("pages"));
    let got = paged.run(q.view(), whole.view(), whole.view(), &Tables::from(&one));
    assert_eq!(got.unwrap_err().argument(), Some("k"));
    // What has no pages.
    let options = PlanOptions::new().with_pages(true);
    let got = Attention::causal().plan_backward_with(&context, &shape, &options);
    assert_eq!(got.unwrap_err().argument(), Some("options"));
    let grid = BlockGrid::causal(&shape);
    assert!(paged.reshaped(&grid).unwrap_err().is_unsupported());
    let tuning = prflash::tuning::TuningOptions::new(1).unwrap();
    let got = Attention::causal().tune(&context, &[shape], &options, &tuning);
    assert_eq!(got.unwrap_err().argument(), Some("pages"));
    let matrix = options.with_kernel(crate::common::matrix(16, false));
    let got = Attention::causal().with_storage(DType::F16).plan_with(&context, &shape, &matrix);
    assert!(got.unwrap_err().is_unsupported());
}
