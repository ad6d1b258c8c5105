//! Mutants of the kernels that draw schedules, which draw the host's to the bit.

use crate::attention::gpu_sampler::GpuSampler;
use crate::random::Seed;
use crate::runtime::context::Context;
use crate::runtime::program::Program;
use crate::runtime::testing::{Change, device, survivors};
use crate::sampling::gpu::draw::Draw;
use crate::sampling::{Bernoulli, BlockGrid, GpuRule, Granularity, Profile, Sampler, Schedule, Systematic};
use crate::shape::Shape;

/// Several sequences of different lengths, the longest of more rows than a workgroup has: whether
/// they are drawn as the host draws them.
fn agrees(context: &Context, causal: bool, sampler: &dyn Sampler) -> bool {
    let grid = |q_len: usize, kv_len: usize| {
        let shape = Shape::new(4, 2, q_len, 4).unwrap().with_kv_len(kv_len).unwrap();
        let grid = if causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
        grid.with_block_size(16).unwrap().with_granularity(Granularity::KvHead)
    };
    let profile = Profile::harmonic_with(1.5, 1.0).unwrap().with_sink_blocks(2);
    let maxima = grid(900, 900);
    let lens = [(900, 900), (70, 630), (333, 5), (1, 640)];
    let sequences: Vec<(BlockGrid, Seed)> = (0..)
        .zip(lens)
        .map(|(index, (q_len, kv_len))| (grid(q_len, kv_len), Seed::new(3).sequence(index).round(index % 3)))
        .collect();
    let mut device = GpuSampler::new(context, &maxima, lens.len(), &profile, sampler).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    device.encode(&mut encoder, &sequences).unwrap();
    context.submit([encoder.finish()]).unwrap();
    // A list that isn't one is refused.
    let Ok(got) = device.read_blocking() else { return false };
    let want = sequences.iter().map(|(grid, key)| Schedule::sample(grid, &profile, sampler, *key).unwrap());
    want.eq(got)
}

#[test]
fn every_mutant_is_caught() {
    let Some(context) = device("mutants of schedules' kernels") else { return };
    let in_count: &[Change] = &[
        ("sinks aren't counted", "u32(row.sinks) + count_drawn(row)", "count_drawn(row)"),
        (
            "counts are replaced while others read them",
            "workgroupBarrier();\n        partial_counts[lane] = sum;",
            "partial_counts[lane] = sum;",
        ),
        ("a chunk's last row isn't counted", "partial_counts[ROWS - 1u]", "partial_counts[ROWS - 2u]"),
        (
            "rows begin where the next one does",
            "before = partial_counts[lane - 1u];",
            "before = partial_counts[lane];",
        ),
        (
            "a row counts the steps of the wrong side",
            "whole(v, row.after.y) - whole(v, row.after.x)",
            "whole(u, row.after.y) - whole(u, row.after.x)",
        ),
        (
            "no round has numbers of its own",
            "pcg_hash(row.seed ^ row.group) ^ row.round",
            "pcg_hash(row.seed ^ row.group)",
        ),
        ("the carry is left out", "select(0u, 1u, low + u < u)", "0u"),
    ];
    let in_scan: &[Change] = &[
        ("every chunk begins with the lists", "var begin = counts.x;", "var begin = 0u;"),
        ("the total is the first lane's", "tables[index] = counts.y;", "tables[index] = counts.x;"),
        (
            "the last list has no end",
            "tables[sequence.base + row_count(sequence)] = min(counts.y, params.capacity);",
            "",
        ),
    ];
    let in_fill: &[Change] = &[
        (
            "blocks are written over sinks",
            "fill_drawn(row, begin + u32(row.sinks))",
            "fill_drawn(row, begin)",
        ),
        (
            "a chunk's lists begin with the first's",
            "add_counts(tables[sequence.base + params.sums + chunk], tables",
            "add_counts(0u, tables",
        ),
        (
            "distances after a row count from 0",
            "max(sinks - query_block, 1), max(end",
            "max(sinks - query_block, 0), max(end",
        ),
        ("a sink is drawn once more", "max(query_block - sinks + 1, 0)", "max(query_block - sinks + 2, 0)"),
    ];
    let in_bernoulli: &[Change] = &[
        ("blocks of one row share their number", "pcg_hash(u ^ u32(block))", "pcg_hash(u)"),
        ("certain blocks are drawn", "distances[d].ln_p == 0u || ", ""),
        (
            "blocks descend",
            "var d = row.before.y - 1; d >= row.before.x; d--",
            "var d = row.before.x; d < row.before.y; d++",
        ),
    ];
    let [systematic, bernoulli] = [GpuRule::Systematic, GpuRule::Bernoulli];
    let cases: [(Draw, &dyn Sampler, &[Change]); 4] = [
        (Draw::Count(systematic), &Systematic, in_count),
        (Draw::Scan, &Systematic, in_scan),
        (Draw::Fill(systematic), &Systematic, in_fill),
        (Draw::Fill(bernoulli), &Bernoulli, in_bernoulli),
    ];
    for (of, sampler, changes) in cases {
        let both = || [true, false].into_iter().all(|causal| agrees(&context, causal, sampler));
        let survivors = survivors(&context, of, changes, both);
        assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    }
}

/// Where workgroups run in the order of their lanes, no result shows that the first wait is
/// missing.
#[test]
fn counts_are_there_before_they_are_added() {
    let text = Draw::Scan.source();
    let (_, after) = text.split_once("partial_counts[lane] = sum;").unwrap();
    let (between, _) = after.split_once("for (var reach").unwrap();
    assert_eq!(between.matches("workgroupBarrier();").count(), 1);
}
