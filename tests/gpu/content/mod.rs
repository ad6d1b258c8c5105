//! Blocks chosen by content on the GPU: summaries, scores and lists against the host's, and
//! attention over them.

mod refusals;
mod told;

use crate::common::{Problem, Storage, gpu, numbers, operands, output_layout, small_device, zeros};
use prflash::attention::{GpuSummaries, Sequence, SummarizedKeys};
use prflash::cache::{Chunk, Codec, KvCache, Ladder, SequenceId, Staircase, StoredKeys};
use prflash::position::Pairing;
use prflash::sampling::Granularity;
use prflash::sampling::content::{BlockScores, Estimate, Participation, Pool, Probe};
use prflash::{
    Attention, BlockGrid, Bound, Call, Context, DType, Layout, Plan, PlanOptions, Positions, Queries, Rope,
    Schedule, Seed, Shape, TableBuffer, Tables, Tensor, TensorView,
};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn shape(heads: usize, kv_heads: usize, q_len: usize, kv_len: usize, dim: usize) -> Shape {
    Shape::new(heads, kv_heads, q_len, dim).unwrap().with_kv_len(kv_len).unwrap()
}

/// Numbers of a channel that differ in size, and groups that differ in what they have in common.
fn keys(seed: u64, heads: usize, len: usize, dim: usize, dtype: DType) -> Vec<f32> {
    let noise = numbers(seed, heads * len * dim);
    let common = numbers(seed + 1, heads * len.div_ceil(16) * dim);
    let key = |(at, noise): (usize, &f32)| {
        let (channel, token, head) = (at % dim, at / dim % len, at / dim / len);
        let shift = common[(head * len.div_ceil(16) + token / 16) * dim + channel];
        dtype.round((noise + 2.0 * shift) * [1.0, 0.1, 3.0, 1e-3, 0.0][channel % 5])
    };
    noise.iter().enumerate().map(key).collect()
}

/// How far scores of a row may be from the host's, in units: `GpuSelector` says why. For queries
/// and keys of which the products of magnitudes are at most `size`, scaled.
fn tolerance(dim: usize, size: f64) -> i64 {
    let u = 1.0 / f64::from(1 << 24);
    // Of means and of reaches; a square of a deviation twice.
    let products = u * (dim as f64 / 2.0 + 24.0 + 26.0) * (3.0 * size + size * size);
    let sums = u * 80.0 * (1.0 + size);
    ((products + sums) * std::f64::consts::LOG2_E * 1024.0).ceil() as i64 + 1
}

/// One problem on host and device.
struct Case {
    attention: Attention,
    shape: Shape,
    block: usize,
    group: usize,
    granularity: Granularity,
    participation: Participation,
    estimate: Estimate,
    probe: Probe,
    seeds: Vec<Seed>,
}

impl Case {
    fn new(shape: Shape) -> Self {
        Self {
            attention: Attention::causal(),
            shape,
            block: 16,
            group: 16,
            granularity: Granularity::KvHead,
            participation: Participation::content(6).unwrap(),
            estimate: Estimate::Saturated,
            probe: Probe::causal(4).unwrap(),
            seeds: Vec::new(),
        }
    }

    fn grid(&self) -> BlockGrid {
        let grid = match self.attention.is_causal() {
            true => BlockGrid::causal(&self.shape),
            false => BlockGrid::full(&self.shape),
        };
        grid.with_block_size(self.block).unwrap().with_granularity(self.granularity)
    }

    /// Chooses on the device, and compares everything with the host.
    fn check(&self, context: &Context, story: &str) {
        let (shape, dtype) = (&self.shape, self.attention.storage());
        let (heads, kv_heads, dim) = (shape.heads(), shape.kv_heads(), shape.head_dim());
        let mut problem = Problem::random(self.attention.clone(), *shape, 5);
        problem.k = (0..shape.batch() as u64)
            .flat_map(|entry| keys(7 + 2 * entry, kv_heads, shape.kv_len(), dim, dtype))
            .collect();
        let plan = problem.plan(context).unwrap();
        let qkv = problem.upload(context, Storage::HeadsFirst).unwrap();
        let output = zeros(context, DType::F32, output_layout(shape));
        let bound = plan.bind(&operands(&qkv, &output)).unwrap();
        let grid = self.grid();
        let selector = plan.selector(&grid, &self.participation, self.estimate, self.probe).unwrap();
        let mut summaries =
            GpuSummaries::new(context, &self.attention, &qkv[1], self.group, shape.batch()).unwrap();
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let all: Vec<SummarizedKeys> = (0..shape.batch())
            .map(|entry| SummarizedKeys {
                sequence: entry,
                entry,
                keys: 0..shape.kv_len(),
                ..SummarizedKeys::default()
            })
            .collect();
        summaries.encode(&mut encoder, &all).unwrap();
        let selection = selector.over(&summaries).with_seeds(&self.seeds);
        let call = Call::lengths(shape.q_len(), shape.kv_len()).with_selection(selection);
        plan.encode(&mut encoder, &bound, &call).unwrap();
        context.queue().submit([encoder.finish()]);

        let got = selector.read_blocking().unwrap();
        let scores = selector.read_scores_blocking().unwrap();
        assert_eq!((got.len(), scores.len()), (shape.batch(), shape.batch()));
        let one = shape.with_batch(1).unwrap();
        for entry in 0..shape.batch() {
            let of = |values: &[f32], heads: usize, len: usize| {
                let each = heads * len * dim;
                values[entry * each..(entry + 1) * each].to_vec()
            };
            let (q, k) = (of(&problem.q, heads, shape.q_len()), of(&problem.k, kv_heads, shape.kv_len()));
            // The lists are the host's from these scores.
            let seed = self.seeds.get(entry).copied().unwrap_or_default();
            let want = Schedule::select(&grid, &self.participation, &scores[entry], seed).unwrap();
            assert_eq!(got[entry], want, "lists of {story}");
            // The summaries are the host's.
            let host = self.attention.summarize(&one, &k, self.group, None).unwrap().with_8_bits();
            let device = summaries.read_blocking(entry).unwrap();
            if self.attention.positions().is_none() {
                assert!(device.same_words(&host), "summaries of {story}");
            }
            // And so are the scores, but for rounding.
            let host = self
                .attention
                .block_scores(&grid, &q, &device, self.estimate, self.probe, &Tables::new())
                .unwrap();
            compare(&self.attention, &scores[entry], &host, (&q, &k), dim, story);
        }
        // Attention over these lists is attention over the same lists from the host.
        let tables = got.iter().try_fold(Tables::new(), Tables::with_schedule).unwrap();
        let want = problem.run_on(context, plan.options(), &qkv, &tables);
        if shape.q_len() > 8 {
            assert_eq!(
                bits(&output.read_blocking(context).unwrap()),
                bits(&want.output),
                "output of {story}"
            );
        }
        let output = output.read_blocking(context).unwrap();
        let close = output.iter().zip(&want.output).all(|(a, b)| (a - b).abs() <= 1e-5);
        assert!(close, "output of {story}");
    }
}

/// Compares scores of blocks with those of the host.
fn compare(
    attention: &Attention,
    got: &BlockScores,
    want: &BlockScores,
    (q, k): (&[f32], &[f32]),
    dim: usize,
    story: &str,
) {
    let grid = want.grid();
    let norm = |rows: &[f32]| {
        let of = |row: &[f32]| row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        rows.chunks(dim).map(of).fold(0.0, f64::max)
    };
    let size = norm(q) * norm(k) * f64::from(attention.scale(dim)).abs();
    // A mass, and the sum of all of them.
    let allowed = 2.0 * tolerance(dim, size) as f64 / 1024.0;
    let places = (0..grid.heads()).flat_map(|head| (0..grid.query_blocks()).map(move |row| (head, row)));
    let mut farthest = 0.0f64;
    for ((head, row), block) in places.flat_map(|at| (0..grid.key_blocks()).map(move |block| (at, block))) {
        let [got, want] = [got, want].map(|scores| scores.log2_share(head, row, block));
        let same = got.is_some() == want.is_some();
        assert!(same, "{story}: head {head}, row {row}, block {block}: {got:?} for {want:?}");
        let (Some(got), Some(want)) = (got, want) else { continue };
        let error = if got == want { 0.0 } else { (got - want).abs() };
        assert!(
            error <= allowed,
            "{story}: head {head}, row {row}, block {block}: {got} for {want} ± {allowed}"
        );
        farthest = farthest.max(error);
    }
    println!("{story}: off by {farthest:.4} of {allowed:.4}");
}

#[test]
fn content_decode() {
    let Some(context) = gpu("content_decode") else { return };
    for (heads, kv_heads) in [(4, 4), (8, 2), (6, 1)] {
        for kv_len in [1, 15, 16, 17, 640, 1999] {
            let case = Case::new(shape(heads, kv_heads, 1, kv_len, 32));
            case.check(&context, &format!("decode {heads}/{kv_heads} over {kv_len}"));
        }
    }
}

/// Heads and lists of every kind, in decode, in speculation, and in prefill.
#[test]
fn content_lists_of_every_kind() {
    let Some(context) = gpu("content_lists_of_every_kind") else { return };
    for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
        for (heads, kv_heads) in [(4, 4), (8, 2), (6, 1)] {
            for (q_len, kv_len) in [(1, 1000), (3, 1001), (8, 517), (130, 300), (200, 200), (70, 40)] {
                for pool in [Pool::Mean, Pool::Largest] {
                    let participation = Participation::content(5).unwrap().with_pool(pool);
                    let of = Case::new(shape(heads, kv_heads, q_len, kv_len, 16));
                    let case = Case { granularity, participation, ..of };
                    let story = format!("{granularity:?} {heads}/{kv_heads}, {q_len} of {kv_len}, {pool:?}");
                    case.check(&context, &story);
                }
            }
        }
    }
}

/// What is always there, how many there are, and how blocks and groups lie.
#[test]
fn content_budgets_and_blocks() {
    let Some(context) = gpu("content_budgets_and_blocks") else { return };
    let budget = |blocks: usize, sinks: usize, window: usize| {
        Participation::content(blocks).unwrap().with_sink_blocks(sinks).with_window_blocks(window).unwrap()
    };
    for participation in [
        budget(1, 0, 1),
        budget(2, 1, 1),
        budget(1, 3, 4),
        budget(9, 2, 3),
        budget(40, 1, 2),
        budget(1000, 1, 1),
        budget(usize::MAX, 1, 1),
        budget(3, usize::MAX, 1),
        budget(3, 1, usize::MAX),
    ] {
        for (q_len, kv_len) in [(1, 643), (150, 150)] {
            for (block, group) in [(16, 16), (32, 8), (8, 32), (64, 64), (48, 16), (16, 1), (128, 2)] {
                let of = Case::new(shape(4, 2, q_len, kv_len, 8));
                let case = Case { participation, block, group, ..of };
                case.check(&context, &format!("{participation}, {q_len} of {kv_len}, {block} by {group}"));
            }
        }
    }
}

/// Everything that shapes a score.
#[test]
fn content_scores() {
    let Some(context) = gpu("content_scores") else { return };
    let rope = |dim, pairing| Positions::from(Rope::new(dim, 1e4, pairing).unwrap());
    let causal = Attention::causal;
    let attentions = [
        causal(),
        causal().with_storage(DType::F16),
        causal().with_storage(DType::Bf16),
        causal().with_soft_cap(3.0).unwrap(),
        causal().with_scale(-0.7).unwrap(),
        causal().with_window(100).unwrap(),
        causal().with_window(1).unwrap(),
        causal().with_window(usize::MAX).unwrap(),
        Attention::full(),
        Attention::full().with_window(37).unwrap(),
        causal().with_positions(rope(20, Pairing::Interleaved)),
        causal()
            .with_positions(Rope::new(20, 1e4, Pairing::Half).unwrap().with_rotary_dim(16).unwrap().into()),
        Attention::full().with_positions(rope(20, Pairing::Interleaved)).with_storage(DType::F16),
    ];
    for attention in attentions {
        for estimate in [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey] {
            for probe in
                &[Probe::causal(1), Probe::causal(4), Probe::looking_ahead(3), Probe::looking_ahead(16)]
            {
                for (q_len, kv_len) in [(1, 333), (90, 250), (130, 60)] {
                    let probe = *probe.as_ref().unwrap();
                    let of = Case::new(shape(4, 2, q_len, kv_len, 20));
                    let case = Case { attention: attention.clone(), estimate, probe, ..of };
                    let story = format!("{attention:?}, {estimate:?}, {probe:?}, {q_len} of {kv_len}");
                    case.check(&context, &story);
                }
            }
        }
    }
}

/// Dimensions that are staged at once, in parts, and with a ragged last part.
#[test]
fn content_dimensions() {
    let Some(context) = gpu("content_dimensions") else { return };
    for dim in [4, 64, 76, 128, 256] {
        for estimate in [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey] {
            let case = Case { estimate, block: 64, group: 32, ..Case::new(shape(4, 1, 2, 900, dim)) };
            case.check(&context, &format!("{dim} channels, {estimate:?}"));
        }
    }
}

/// Summaries that a cache stores, of sequences of many lengths in one call.
#[test]
fn content_over_caches() {
    let Some(context) = gpu("content_over_caches") else { return };
    let ladder = |rungs: &[(u32, usize)], last| Ladder::new(rungs, last).unwrap();
    let staircases = [
        Staircase::recommended(),
        Staircase::new(ladder(&[(16, 1), (8, 2)], 3), ladder(&[(8, 1)], 2)).unwrap().with_sinks(0),
        Staircase::new(ladder(&[(8, 5)], 0), ladder(&[(8, 5)], 0)).unwrap(),
        Staircase::recommended_rotated().with_segment(128).unwrap(),
        Staircase::new(ladder(&[(16, 1), (8, 2)], 3), ladder(&[(8, 1)], 2))
            .and_then(|staircase| staircase.with_codec(Codec::Rotated { fine_tokens: 0 }))
            .unwrap(),
    ];
    let lens = [1, 200, 1300, 777, 1024];
    for staircase in &staircases {
        for (dim, group) in [(40, 64), (64, 32), (128, 128)] {
            for q_len in [1, 70] {
                let staircase = staircase.clone().with_summaries(group).unwrap();
                let story = format!("{staircase:?}, {dim} channels, {q_len} queries");
                let shape = shape(4, 2, q_len, 1300, dim);
                let mut cache = KvCache::new(&context, staircase, &shape, StoredKeys::AfterRotation).unwrap();
                let values: Vec<f32> = (0..lens.len() as u64)
                    .flat_map(|entry| keys(2 * entry, 2, 1300, dim, DType::F16))
                    .collect();
                let layout = Layout::heads_first(lens.len(), 2, 1300, dim).unwrap();
                let k = Tensor::upload(&context, DType::F32, layout, &values).unwrap();
                let input = cache.input(k.view(), k.view()).unwrap();
                let chunks: Vec<Chunk> = lens
                    .iter()
                    .enumerate()
                    .map(|(entry, &len)| Chunk { sequence: cache.add(), entry, rows: 0..len })
                    .collect();
                let mut encoder = context.device().create_command_encoder(&Default::default());
                cache.append(&mut encoder, &input, &chunks).unwrap();
                let queries: Vec<Queries> = chunks
                    .iter()
                    .zip(lens)
                    .map(|(chunk, len)| Queries {
                        sequence: chunk.sequence,
                        entry: chunk.entry,
                        rows: 0..q_len.min(len),
                        positions: None,
                    })
                    .collect();
                let attention = Attention::causal();
                let batch = shape.with_batch(lens.len()).unwrap();
                let plan = attention.plan_cached(&cache, &batch).unwrap();
                let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
                let participation = Participation::content(7).unwrap();
                let probe = Probe::causal(2).unwrap();
                let selector = plan.selector(&grid, &participation, Estimate::Saturated, probe).unwrap();
                let layout = Layout::heads_first(lens.len(), 4, q_len, dim).unwrap();
                let q = numbers(3, layout.elements());
                let q_tensor = Tensor::upload(&context, DType::F32, layout, &q).unwrap();
                let output = zeros(&context, DType::F32, layout);
                let bound = plan.bind_queries(q_tensor.view(), output.view(), None).unwrap();
                let call = Call::cached(&cache, &queries).with_selection(selector.cached());
                plan.encode(&mut encoder, &bound, &call).unwrap();
                context.queue().submit([encoder.finish()]);
                let got = selector.read_blocking().unwrap();
                let scores = selector.read_scores_blocking().unwrap();
                for (index, queries) in queries.iter().enumerate() {
                    let story = format!("sequence {index} of {story}");
                    let grid = *got[index].grid();
                    let want = Schedule::select(&grid, &participation, &scores[index], Seed::new(0)).unwrap();
                    assert_eq!(got[index], want, "lists of {story}");
                    let host = cache.to_host_blocking(queries.sequence).unwrap();
                    let stored = host.summarize(SequenceId::FIRST).unwrap();
                    let rows = queries.rows.len();
                    let q: Vec<f32> = (0..4)
                        .flat_map(|head| q[(index * 4 + head) * q_len * dim..][..rows * dim].to_vec())
                        .collect();
                    let k = &values[index * 2 * 1300 * dim..(index + 1) * 2 * 1300 * dim];
                    let want = attention
                        .block_scores(&grid, &q, &stored, Estimate::Saturated, probe, &Tables::new())
                        .unwrap();
                    compare(&attention, &scores[index], &want, (&q, k), dim, &story);
                }
                let tables = got.iter().try_fold(Tables::new(), Tables::with_schedule).unwrap();
                let want = plan.run_cached(&cache, q_tensor.view(), &queries, &tables).unwrap();
                let [got, want] =
                    [&output, &want.output].map(|output| output.read_blocking(&context).unwrap());
                // Rows that are no queries stay as they are, which is 0.
                let close = got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-5);
                assert!(close, "output of {story}");
                assert!(got.iter().any(|x| *x != 0.0));
            }
        }
    }
}

/// Draws by share and distance, of several sequences with seeds of their own.
#[test]
fn content_draws() {
    let Some(context) = gpu("content_draws") else { return };
    let both = |blocks: usize, tau: f64, alpha: f64| Participation::both(blocks, tau, alpha).unwrap();
    let participations = [
        Participation::distance(5).unwrap(),
        both(6, 0.5, 0.5),
        both(6, 1.0, 0.0),
        both(9, 64.0, 64.0),
        both(4, 0.0, 0.0).with_sink_blocks(0),
        both(40, 0.01, 0.3).with_sink_blocks(2).with_window_blocks(3).unwrap(),
        both(7, 2.5, 0.0).with_pool(Pool::Largest),
        both(1000, 1.0, 1.0),
        both(1, 1.0, 1.0).with_window_blocks(4).unwrap(),
        both(39, 0.0, 0.0),
    ];
    for (index, participation) in (0..).zip(participations) {
        for granularity in [Granularity::Head, Granularity::KvHead] {
            for (q_len, kv_len) in [(1, 640), (3, 647), (90, 650), (120, 70)] {
                for causal in [true, false] {
                    let seed = Seed::new(index << 33 | 5).layer(2);
                    let of = Case::new(shape(4, 2, q_len, kv_len, 8).with_batch(2).unwrap());
                    let attention = if causal { Attention::causal() } else { Attention::full() };
                    let seeds = vec![seed, seed.sequence(1).round(3)];
                    let case = Case { attention, granularity, participation, seeds, ..of };
                    let story =
                        format!("{participation}, {granularity:?}, {q_len} of {kv_len}, causal {causal}");
                    case.check(&context, &story);
                }
            }
        }
    }
}

/// A layer's keys and what there is for it.
struct Layer {
    k: TensorView,
    output: Tensor,
    bound: Bound,
    summaries: GpuSummaries,
}

impl Layer {
    fn new(context: &Context, plan: &Plan, seed: u64, group: usize, sequences: usize) -> Self {
        Self::stored(context, plan, seed, group, sequences, Storage::TokensFirst)
    }

    fn stored(
        context: &Context,
        plan: &Plan,
        seed: u64,
        group: usize,
        sequences: usize,
        storage: Storage,
    ) -> Self {
        let problem = Problem::random(plan.attention().clone(), *plan.maxima(), seed);
        let qkv = problem.upload(context, storage).unwrap();
        let output = zeros(context, DType::F32, output_layout(plan.maxima()));
        let bound = plan.bind(&operands(&qkv, &output)).unwrap();
        let summaries = GpuSummaries::new(context, plan.attention(), &qkv[1], group, sequences).unwrap();
        Self { k: qkv[1].clone(), output, bound, summaries }
    }
}

fn submit(context: &Context, record: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = context.device().create_command_encoder(&Default::default());
    record(&mut encoder);
    context.queue().submit([encoder.finish()]);
}

/// Keys that come by and by have the summaries of all at once; those that aren't summarized yet, or
/// share their group with some that are gone, take part for certain.
#[test]
fn content_summaries_follow_the_keys() {
    let Some(context) = gpu("content_summaries_follow_the_keys") else { return };
    let shape = shape(4, 2, 1, 300, 16);
    let plan = Attention::causal().plan(&context, &shape).unwrap();
    let layer = |seed| Layer::new(&context, &plan, seed, 16, 1);
    let (mut parts, mut whole) = (layer(3), layer(3));
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let participation = Participation::content(5).unwrap();
    let selector =
        plan.selector(&grid, &participation, Estimate::Saturated, Probe::causal(1).unwrap()).unwrap();
    let named = |keys: usize, from: usize| SummarizedKeys { keys: 0..keys, from, ..Default::default() };
    let mut from = 0;
    for len in [1, 7, 16, 17, 40, 40, 150, 151, 300, 290] {
        submit(&context, |encoder| {
            parts.summaries.encode(encoder, &[named(len, from.min(len))]).unwrap();
            whole.summaries.encode(encoder, &[named(len, 0)]).unwrap();
        });
        from = len;
        assert_eq!((parts.summaries.len(0), parts.summaries.is_empty()), (len, false));
        let [parts, whole] = [&parts, &whole].map(|layer| layer.summaries.read_blocking(0).unwrap());
        assert!(parts.same_words(&whole), "{len} keys");
    }
    // Of 290 keys there are summaries: 18 blocks, and one of two keys.
    for (len, certain) in [(290, None), (291, Some(18..19)), (300, Some(18..19)), (280, Some(17..18))] {
        let call = Call::lengths(1, len).with_selection(selector.over(&parts.summaries));
        submit(&context, |encoder| plan.encode(encoder, &parts.bound, &call).unwrap());
        let (got, scores) = (selector.read_blocking().unwrap(), selector.read_scores_blocking().unwrap());
        let (scores, own) = (&scores[0], got[0].grid());
        let unknown =
            (0..own.key_blocks()).filter(|&block| scores.log2_share(3, 0, block) == Some(f64::INFINITY));
        assert!(unknown.eq(certain.unwrap_or(0..0)), "{len} keys");
        let want = Schedule::select(own, &participation, scores, Seed::new(0)).unwrap();
        assert_eq!(got, [want], "{len} keys");
    }
}

/// Sequences of different lengths behind each other in one batch entry, and several entries.
#[test]
fn content_of_ragged_sequences() {
    let Some(context) = gpu("content_of_ragged_sequences") else { return };
    let shape = shape(4, 2, 90, 500, 32).with_batch(2).unwrap();
    let options = PlanOptions::new().with_sequences(5).unwrap();
    let rope = Positions::from(Rope::new(32, 1e4, Pairing::Half).unwrap());
    for attention in [Attention::causal(), Attention::causal().with_positions(rope)] {
        let plan = attention.plan_with(&context, &shape, &options).unwrap();
        let mut layer = Layer::new(&context, &plan, 9, 32, 5);
        let of = |entry, queries: std::ops::Range<usize>, keys: std::ops::Range<usize>| Sequence {
            entry,
            queries,
            keys,
            positions: None,
        };
        let sequences = [
            of(0, 0..1, 0..333),
            of(1, 3..4, 100..450),
            of(0, 1..60, 333..500),
            of(1, 7..7, 7..20),
            of(1, 60..90, 450..460),
        ];
        let keys: Vec<SummarizedKeys> = sequences
            .iter()
            .enumerate()
            .map(|(sequence, of)| SummarizedKeys {
                sequence,
                entry: of.entry,
                keys: of.keys.clone(),
                ..Default::default()
            })
            .collect();
        let grid =
            BlockGrid::causal(&shape).with_block_size(32).unwrap().with_granularity(Granularity::KvHead);
        let participation = Participation::both(4, 0.7, 0.2).unwrap();
        let (estimate, probe) = (Estimate::Saturated, Probe::causal(3).unwrap());
        let selector = plan.selector(&grid, &participation, estimate, probe).unwrap();
        let seeds: Vec<Seed> = (0..5).map(|sequence| Seed::new(1).sequence(sequence)).collect();
        // As long as nothing is known of any key, all blocks take part.
        let call = Call::sequences(&sequences).with_selection(selector.over(&layer.summaries));
        submit(&context, |encoder| plan.encode(encoder, &layer.bound, &call).unwrap());
        for got in selector.read_blocking().unwrap() {
            assert_eq!(got, Schedule::dense(got.grid()).unwrap());
        }
        submit(&context, |encoder| layer.summaries.encode(encoder, &keys).unwrap());
        let call =
            Call::sequences(&sequences).with_selection(selector.over(&layer.summaries).with_seeds(&seeds));
        submit(&context, |encoder| plan.encode(encoder, &layer.bound, &call).unwrap());
        let (got, scores) = (selector.read_blocking().unwrap(), selector.read_scores_blocking().unwrap());
        for ((got, scores), (seed, sequence)) in got.iter().zip(&scores).zip(seeds.iter().zip(&sequences)) {
            assert_eq!(
                *got,
                Schedule::select(got.grid(), &participation, scores, *seed).unwrap(),
                "{sequence:?}"
            );
            assert_eq!(
                (got.grid().q_len(), got.grid().kv_len()),
                (sequence.queries.len(), sequence.keys.len())
            );
        }
        let output = layer.output.read_blocking(&context).unwrap();
        let tables = got.iter().try_fold(Tables::new(), Tables::with_schedule).unwrap();
        let tables = TableBuffer::new(&context, &tables).unwrap();
        let call = Call::sequences(&sequences).with_tables(&tables);
        submit(&context, |encoder| plan.encode(encoder, &layer.bound, &call).unwrap());
        assert_eq!(bits(&output), bits(&layer.output.read_blocking(&context).unwrap()));
        // And by pieces of their own submissions.
        let call =
            Call::sequences(&sequences).with_selection(selector.over(&layer.summaries).with_seeds(&seeds));
        plan.submit(&layer.bound, &call).unwrap();
        assert_eq!(bits(&output), bits(&layer.output.read_blocking(&context).unwrap()));
    }
}

/// Layers in one submit have lists of their own.
#[test]
fn content_of_several_layers() {
    let Some(context) = gpu("content_of_several_layers") else { return };
    let shape = shape(4, 2, 60, 600, 32);
    let plan = Attention::causal().plan(&context, &shape).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap().with_granularity(Granularity::KvHead);
    let (participation, probe) = (Participation::content(6).unwrap(), Probe::causal(4).unwrap());
    let selector = plan.selector(&grid, &participation, Estimate::Saturated, probe).unwrap();
    let mut layers = [11, 12, 13].map(|seed| Layer::new(&context, &plan, seed, 16, 1));
    submit(&context, |encoder| {
        for layer in &mut layers {
            let all = SummarizedKeys { keys: 0..600, ..Default::default() };
            layer.summaries.encode(encoder, &[all]).unwrap();
            let call = Call::lengths(60, 600).with_selection(selector.over(&layer.summaries));
            plan.encode(encoder, &layer.bound, &call).unwrap();
        }
    });
    let together = layers.each_ref().map(|layer| bits(&layer.output.read_blocking(&context).unwrap()));
    assert!(together[0] != together[1] && together[1] != together[2]);
    for (layer, together) in layers.iter().zip(together) {
        let call = Call::lengths(60, 600).with_selection(selector.over(&layer.summaries));
        submit(&context, |encoder| plan.encode(encoder, &layer.bound, &call).unwrap());
        assert_eq!(bits(&layer.output.read_blocking(&context).unwrap()), together);
    }
}

#[test]
fn content_creates_nothing_after_warm_up() {
    if gpu("content_creates_nothing_after_warm_up").is_none() {
        return;
    }
    // A device of its own: the counters count everything on a device, other tests' buffers too.
    let context = Context::new_blocking().unwrap();
    let shape = shape(4, 2, 1, 1000, 32);
    let plan = Attention::causal().plan(&context, &shape).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap().with_granularity(Granularity::KvHead);
    let participation = Participation::both(8, 0.5, 0.5).unwrap();
    let probe = Probe::causal(1).unwrap();
    let selector = plan.selector(&grid, &participation, Estimate::Saturated, probe).unwrap();
    let mut layers = [1, 2].map(|seed| Layer::new(&context, &plan, seed, 16, 1));
    let mut step = |len: usize| {
        submit(&context, |encoder| {
            for (index, layer) in (0..).zip(&mut layers) {
                let from = layer.summaries.len(0);
                let keys = SummarizedKeys { keys: 0..len, from, ..Default::default() };
                layer.summaries.encode(encoder, &[keys]).unwrap();
                let seeds = [Seed::new(len as u64).layer(index)];
                let selection = selector.over(&layer.summaries).with_seeds(&seeds);
                plan.encode(encoder, &layer.bound, &Call::lengths(1, len).with_selection(selection)).unwrap();
            }
        });
        context.wait().unwrap();
        let hal = context.device().get_internal_counters().hal;
        let counts = [&hal.buffers, &hal.bind_groups, &hal.compute_pipelines, &hal.memory_allocations];
        let held = layers.each_ref().map(|layer| layer.summaries.device_bytes());
        (counts.map(|counter| counter.read()), selector.device_bytes(), held)
    };
    let warm = step(500);
    assert!(warm.0[0] > 0, "the counters count");
    for len in 501..701 {
        assert_eq!(step(len), warm, "{len} keys");
    }
}

/// Tensors, and a cache, that a device binds in parts.
#[test]
fn content_on_small_devices() {
    if gpu("content_on_small_devices").is_none() {
        return;
    }
    let whole = Context::new_blocking().unwrap();
    let parts = small_device(1 << 18, 300);
    let shape = shape(8, 4, 1, 1000, 64).with_batch(2).unwrap();
    let participation = Participation::both(6, 0.5, 0.1).unwrap();
    let (estimate, probe) = (Estimate::Saturated, Probe::causal(1).unwrap());
    let grid = BlockGrid::causal(&shape).with_block_size(32).unwrap().with_granularity(Granularity::KvHead);
    let seeds = [Seed::new(3), Seed::new(4)];
    let over_tensors = |context: &Context| {
        let plan = Attention::causal().plan(context, &shape).unwrap();
        let mut layer = Layer::stored(context, &plan, 5, 32, 2, Storage::HeadsFirst);
        let selector = plan.selector(&grid, &participation, estimate, probe).unwrap();
        submit(context, |encoder| {
            let of = |entry| SummarizedKeys { sequence: entry, entry, keys: 0..1000, ..Default::default() };
            layer.summaries.encode(encoder, &[of(0), of(1)]).unwrap();
            let selection = selector.over(&layer.summaries).with_seeds(&seeds);
            plan.encode(encoder, &layer.bound, &Call::lengths(1, 1000).with_selection(selection)).unwrap();
        });
        let summaries = [0, 1].map(|entry| layer.summaries.read_blocking(entry).unwrap());
        (summaries, selector.read_scores_blocking().unwrap(), selector.read_blocking().unwrap())
    };
    let over_cache = |context: &Context| {
        let staircase = Staircase::recommended().with_summaries(32).unwrap();
        let shape = shape.with_batch(1).unwrap();
        let mut cache = KvCache::new(context, staircase, &shape, StoredKeys::AfterRotation).unwrap();
        let values = keys(9, 4, 100, 64, DType::F16);
        let k = Tensor::upload(context, DType::F32, Layout::heads_first(1, 4, 100, 64).unwrap(), &values)
            .unwrap();
        let input = cache.input(k.view(), k.view()).unwrap();
        let sequence = cache.add();
        for _ in 0..10 {
            submit(context, |encoder| {
                cache.append(encoder, &input, &[Chunk { sequence, entry: 0, rows: 0..100 }]).unwrap();
            });
        }
        let plan = Attention::causal().plan_cached(&cache, &shape).unwrap();
        let layout = Layout::heads_first(1, 8, 1, 64).unwrap();
        let q = Tensor::upload(context, DType::F32, layout, &numbers(2, 8 * 64)).unwrap();
        let output = zeros(context, DType::F32, layout);
        let bound = plan.bind_queries(q.view(), output.view(), None).unwrap();
        let selector = plan.selector(&grid, &participation, estimate, probe).unwrap();
        let queries = [Queries { sequence, entry: 0, rows: 0..1, positions: None }];
        submit(context, |encoder| {
            let selection = selector.cached().with_seeds(&seeds[..1]);
            let call = Call::cached(&cache, &queries).with_selection(selection);
            plan.encode(encoder, &bound, &call).unwrap();
        });
        let found = (selector.read_scores_blocking().unwrap(), selector.read_blocking().unwrap());
        submit(context, |encoder| {
            let call = Call::cached(&cache, &queries);
            let refused = plan.encode_scores(encoder, &bound, &call).unwrap_err();
            assert!(refused.to_string().contains("selection"), "{refused}");
            plan.encode_scores(encoder, &bound, &call.with_selection(selector.cached())).unwrap();
        });
        assert_eq!(selector.read_scores_blocking().unwrap(), found.0);
        assert_eq!(selector.read_blocking().unwrap(), Vec::new());
        found
    };
    let [one, other] = [over_tensors(&whole), over_tensors(&parts)];
    assert!(one.0.iter().zip(&other.0).all(|(one, other)| one.same_words(other)));
    assert_eq!((one.1, one.2), (other.1, other.2));
    assert_eq!(over_cache(&whole), over_cache(&parts));
}
