//! Mutants of the kernels that fill a staircase cache, whose words are the host's to the bit, and
//! of attention over it.

use super::problem::{is_close, numbers, tensor};
use crate::attention::call::Queries;
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::tables::Tables;
use crate::attention::kernels::shapes::{Decode, Kernel, Tile};
use crate::attention::kernels::variant::Variant;
use crate::attention::plan_options::PlanOptions;
use crate::cache::gpu::programs::CacheMove;
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::{Chunk, HostCache, KvCache, Ladder, SequenceId, Staircase, StoredKeys};
use crate::layout::DType;
use crate::reference;
use crate::runtime::context::Context;
use crate::runtime::testing::{Change, device, survivors};
use crate::shape::Shape;

/// Keys that fill their words, and values that don't.
pub(super) const DIMS: [usize; 2] = [32, 36];
pub(super) const TOKENS: usize = 420;

/// In segments of two groups, with sinks that end within a step.
fn staircase(keys: &[(u32, usize)], last: u32) -> Staircase {
    let keys = Ladder::new(keys, last).unwrap();
    let values = Ladder::new(&[(16, 1), (8, 1)], 3).unwrap();
    Staircase::new(keys, values).unwrap().with_segment(64).unwrap().with_sinks(3)
}

/// Through all widths, with summaries.
fn long() -> Staircase {
    staircase(&[(8, 1), (4, 1), (3, 1)], 2).with_summaries(32).unwrap()
}

fn shape() -> Shape {
    shape_of(DIMS)
}

fn shape_of(dims: [usize; 2]) -> Shape {
    Shape::new(4, 2, TOKENS, dims[0]).unwrap().with_value_dim(dims[1]).unwrap()
}

/// The cache's tokens, appended in chunks that end anywhere.
fn filled(context: &Context, staircase: Staircase) -> (KvCache, SequenceId) {
    filled_to(context, staircase, &shape())
}

/// The same with room for sequences of this shape's length.
fn filled_to(context: &Context, staircase: Staircase, shape: &Shape) -> (KvCache, SequenceId) {
    let mut cache = KvCache::new(context, staircase, shape, StoredKeys::AfterRotation).unwrap();
    let dims = [shape.head_dim(), shape.value_dim()];
    let [k, v] = inputs(dims);
    let of = |values: &[f32], dim| tensor(context, DType::F32, [1, 2, TOKENS, dim], values);
    let (k, v) = (of(&k, dims[0]), of(&v, dims[1]));
    let input = cache.input(k.view(), v.view()).unwrap();
    let id = cache.add();
    let mut start = 0;
    for end in [1, 100, 107, 290, 291, TOKENS] {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let chunk = Chunk { sequence: id, entry: 0, rows: start..end };
        cache.append(&mut encoder, &input, &[chunk]).unwrap();
        context.submit([encoder.finish()]).unwrap();
        start = end;
    }
    (cache, id)
}

fn inputs(dims: [usize; 2]) -> [Vec<f32>; 2] {
    let [mut k, v] = [0, 1].map(|side| numbers(side as u64, 2 * TOKENS * dims[side], 3.0, DType::F32));
    // What isn't finite becomes 0, and is counted.
    k[17 * dims[0] + 5] = f32::NAN;
    // One key is larger than all others.
    k[41 * dims[0] - 1] = 900.0;
    // f16 has it in units of 2⁻²⁴: 5.9 of them.
    k[(TOKENS - 3) * dims[0] + 2] = 3.52e-7;
    [k, v]
}

/// Whether the cache on the device holds what the one in host memory does.
pub(super) fn fills(context: &Context, staircase: Staircase, dims: [usize; 2]) -> impl Fn() -> bool {
    let shape = shape_of(dims);
    let mut host = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    let id = host.add();
    let [k, v] = inputs(dims);
    let finite: Vec<f32> = k.iter().map(|&x| if x.is_finite() { x } else { 0.0 }).collect();
    host.append(id, &finite, &v).unwrap();
    let want = host.save(id).unwrap();
    move || {
        let (cache, id) = filled_to(context, staircase.clone(), &shape);
        // The number that isn't finite must have been told.
        cache.check_blocking().is_err() && cache.save_blocking(id).unwrap() == want
    }
}

/// Whether a kernel agrees with the oracle about attention over a cache: of all tokens, and of
/// those of a window.
pub(super) fn attends(context: &Context, staircase: Staircase, window: usize) -> impl Fn(Kernel) -> bool {
    let (cache, id) = filled(context, staircase);
    let host = cache.to_host_blocking(id).unwrap();
    let all = Attention::causal().with_lse(true);
    let attentions = [all.clone(), all.with_window(window).unwrap()];
    let q_len = 7;
    let shape = shape().with_q_len(q_len).unwrap();
    let q = numbers(9, 4 * q_len * DIMS[0], 2.0, DType::F32);
    let q_tensor = tensor(context, DType::F32, [1, 4, q_len, DIMS[0]], &q);
    let cases = attentions.map(|attention| {
        let none = Tables::new();
        let exact = reference::attention_cached(&attention, &shape, &q, &host, SequenceId::FIRST, &none);
        (attention, exact.unwrap())
    });
    move |kernel| {
        cases.iter().all(|(attention, exact)| {
            // The keys of some splits end with codes, of others with rows.
            let options = PlanOptions::new().with_kernel(kernel).with_splits(3).unwrap();
            let plan = attention.plan_cached_with(&cache, &shape, &options).unwrap();
            let queries = Queries { sequence: id, entry: 0, rows: 0..q_len, positions: None };
            let got = plan.run_cached(&cache, q_tensor.view(), &[queries], &Tables::new()).unwrap();
            let [output, lse] = [got.output, got.lse.unwrap()].map(|t| t.read_blocking(context).unwrap());
            is_close(&output, &lse, exact, (kernel, &shape, DType::F32), 1.0)
        })
    }
}

#[test]
fn every_mutant_of_moves_is_caught() {
    let Some(context) = device("mutants of cache moves") else { return };
    let agrees = fills(&context, long(), DIMS);
    let in_append: &[Change] = &[
        ("two numbers of a word change places", "half.x | (half.y << 16u)", "half.y | (half.x << 16u)"),
        ("rows don't come round", "place = select(place, place - own.ring, place >= own.ring);", ""),
        (
            "values have the channels of keys",
            "params.k_quads, params.v_quads",
            "params.k_quads, params.k_quads",
        ),
        ("what isn't finite isn't counted", "report(flags, refused);", ""),
        ("what isn't finite stays", "half = select(half, vec4<u32>(0u), bad);", ""),
        ("halves are rounded down", "0x38000000u - 0xfffu) + odd)", "0x38000000u))"),
        ("small halves are rounded down", "whole + half - vec4<u32>(1u) + (kept & vec4<u32>(1u))", "whole"),
        ("moves begin one unit early", "begins_at(middle) <= place", "begins_at(middle) <= place + 1u"),
        (
            "heads have the first one's tokens",
            "(params.arena_head + head) * select(",
            "params.arena_head * select(",
        ),
    ];
    let in_quantize: &[Change] = &[
        (
            "codes are rounded down",
            "2u * t * levels(widths & 15u) + group.range",
            "2u * t * levels(widths & 15u)",
        ),
        (
            "codes pass no other width",
            "return stepped(select(code, vec4<u32>(0u), group.range == vec4<u32>(0u)), widths);",
            "return select(code, vec4<u32>(0u), group.range == vec4<u32>(0u));",
        ),
        (
            "a code that two words share loses its rest",
            "packed = select(0u, four >> (4u * bits - filled), filled > 0u);",
            "packed = 0u;",
        ),
        (
            "extremes are of all but the last row of keys",
            "row < cache.group; row++) {\n        let place",
            "row < cache.group - 1u; row++) {\n        let place",
        ),
        (
            "negative numbers are in order of their size",
            "vec4<u32>(0x8000u), vec4<u32>(0xffffu)",
            "vec4<u32>(0x8000u), vec4<u32>(0x8000u)",
        ),
    ];
    let in_step_down: &[Change] = &[
        (
            "codes are rounded down",
            "quotient(2u * code * next + n, vec4<u32>(2u * n))",
            "quotient(2u * code * next, vec4<u32>(2u * n))",
        ),
        (
            "widths between are left out",
            "while rest >= 16u {\n        rest >>= 4u;\n    }\n    return rest;",
            "return widths >> 4u;",
        ),
        ("what is behind codes isn't taken along", "at < behind", "at < 0u"),
        ("the end of what is behind codes isn't taken along", "at < behind", "at + 1u < behind"),
        (
            "what is behind codes is taken to where the first width's lies",
            "store(flags, destination + units * narrow + at",
            "store(flags, destination + units * wide + at",
        ),
        (
            "a code that two words share loses its rest",
            "codes >> (8u * narrow - filled), filled > 0u",
            "0u, filled > 0u",
        ),
        (
            "the second word is the first",
            "load(flags, from_at + bit / 32u + 1u)",
            "load(flags, from_at + bit / 32u)",
        ),
    ];
    let in_summarize: &[Change] = &[
        (
            "the group's last row is left out",
            "row < cache.summary_tokens; row++",
            "row < cache.summary_tokens - 1u; row++",
        ),
        ("groups have the first one's rows", "group * cache.summary_tokens;", "0u;"),
        (
            "means are of the extremes",
            "sums += key;",
            "sums = (least + largest) * f32(cache.summary_tokens) * 0.5;",
        ),
        ("means go to the lower code", "(2u * vec4<u32>(abs(x)) + by) / (2u * by)", "vec4<u32>(abs(x)) / by"),
        ("reaches go to the lower code", "(reach + vec4<u32>(max(of_reaches, 1u) - 1u))", "reach"),
        (
            "reaches are from above alone",
            "max(high - centre, centre - low)",
            "max(high - centre, vec4<i32>(0))",
        ),
        (
            "each quad has a step of its own",
            "let of_means = (atomicLoad(&farthest_mean) + 126u) / 127u;",
            "let of_means = (largest_of(vec4<u32>(abs(mean))) + 126u) / 127u;",
        ),
        ("nothing is added for rounding", "select(vec4<i32>(1), vec4<i32>(0), zeros)", "vec4<i32>(0)"),
    ];
    for (of, changes) in [
        (CacheMove::Append(DType::F32), in_append),
        (CacheMove::Summarize(DType::F32), in_summarize),
        (CacheMove::Quantize(DType::F32), in_quantize),
        (CacheMove::StepDown, in_step_down),
    ] {
        let survivors = survivors(&context, of, changes, &agrees);
        assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    }
}

#[test]
fn every_mutant_of_forks_is_caught() {
    let Some(context) = device("mutants of forks") else { return };
    let shape = shape().with_kv_len(2 * TOKENS).unwrap();
    // The fork of a sequence that isn't the first, which has gone on since, holds what it did.
    let agrees = || {
        let (mut cache, first) = filled_to(&context, long(), &shape);
        let before = cache.save_blocking(first).unwrap();
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let second = cache.fork(&mut encoder, first, TOKENS).unwrap();
        let third = cache.fork(&mut encoder, second, TOKENS).unwrap();
        context.submit([encoder.finish()]).unwrap();
        let forks = [second, third].map(|fork| cache.save_blocking(fork));
        // And one of a state that was dropped holds nothing.
        let [mut dropped, mut kept] =
            [(); 2].map(|()| context.device().create_command_encoder(&Default::default()));
        let lost = cache.fork(&mut dropped, first, TOKENS).unwrap();
        let none = cache.fork(&mut kept, lost, TOKENS).unwrap();
        drop(dropped);
        context.submit([kept.finish()]).unwrap();
        context.wait().unwrap();
        forks.into_iter().all(|fork| fork.is_ok_and(|words| words == before)) && cache.len(none).unwrap() == 0
    };
    let in_fork: &[Change] = &[
        ("values are copied to keys' places", "store(own.flags,", "store(0u,"),
        ("keys are copied in place of values", "load(own.flags,", "load(0u,"),
        ("the first word goes everywhere", "own.source + unit)", "own.source)"),
        ("words are copied to the first sequence", "base + own.destination", "base"),
        (
            "heads have the first one's words",
            "(params.arena_head + head) * select(",
            "params.arena_head * select(",
        ),
        ("words of the arena's start", "base + own.source", "base"),
    ];
    let in_commit: &[Change] = &[
        ("the other sequence gets the stamp", "head_base(0u, head) + own.destination", "stamp_at(own, head)"),
        ("whatever the other sequence is like", "if own.expected == 0u {", "if true {"),
    ];
    for (of, changes) in [(CacheMove::Fork, in_fork), (CacheMove::Commit, in_commit)] {
        let survivors = survivors(&context, of, changes, agrees);
        assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    }
}

#[test]
fn every_mutant_of_attention_over_a_cache_is_caught() {
    let Some(context) = device("mutants of attention over a cache") else { return };
    // The window ends inside a segment.
    let agrees = attends(&context, staircase(&[(8, 2)], 3), 390);
    let widths = [1 << 8 | 1 << 3; 2];
    let over = |widths| Some(CacheVariant { widths, group: 32, rotate_keys: false });
    let split = Kernel::Decode(Decode::new(1, false).unwrap());
    let tiled = Kernel::Tiled(Tile::new(1, CacheVariant::KEYS, true).unwrap());
    let variant = |kernel, widths| Variant { cache: over(widths), ..Variant::new(kernel, DType::F32, DIMS) };
    let in_split: &[Change] = &[
        ("a channel's smallest number is left out", "base0 += q0_3 * pair.x;", ""),
        ("small numbers of values aren't rescaled", "low0_1 *= shrink0;", ""),
        ("a row sees tokens before the run", "max(own0.lo, i32(first))", "own0.lo"),
        (
            "a row sees a token more",
            "let high0 = min(own0.hi, i32(run_end));",
            "let high0 = min(own0.hi + 1, i32(run_end));",
        ),
        (
            "groups of keys don't end",
            "(start / cache.group + 1u) * cache.group",
            "(start / cache.group + 2u) * cache.group",
        ),
        ("sinks are of the segment", "if first < cache.sinks", "if first < 0u"),
        ("segments are a step older", "segments - 1u - segment", "segments - segment"),
        (
            "rings don't come round",
            "v.base + segment % v.packs * v.pack_words",
            "v.base + segment % (v.packs + 1u) * v.pack_words",
        ),
    ];
    let in_tiled: &[Change] = &[
        ("a row sees tokens before the run", "j + t >= max(own0.lo, first_key)", "j + t >= own0.lo"),
        ("steps are whole from before the run", "j >= max(rows.all.lo, first_key)", "j >= rows.all.lo"),
        ("the last of four tokens is the third", "stage_key(3u, c, own.w)", "stage_key(3u, c, own.z)"),
        (
            "codes that straddle words end with them",
            "bit % 32u + 4u * stored.bits > 32u);\n        let scale",
            "false);\n        let scale",
        ),
        (
            "numbers are counted from the largest",
            "* scale.y + scale.x;\n        at += words;",
            "* scale.y - scale.x;\n        at += words;",
        ),
        (
            "values have the first group's extremes",
            "(within * channels + 4u * c) / cache.group",
            "within * channels / cache.group",
        ),
    ];
    for (of, changes) in [(variant(split, widths), in_split), (variant(tiled, [0; 2]), in_tiled)] {
        let survivors = survivors(&context, of, changes, || agrees(of.kernel));
        assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    }
}
