//! One step of decoding over a staircase cache with summaries: all keys, sink + window, and blocks
//! chosen by content, at equal tokens visited; and what choosing takes of the last, of which
//! estimates a part.
//!
//! `cargo bench --bench content -- [--rounds N] [--json]`

#[path = "support/mod.rs"]
mod support;

use anyhow::Result;
use clap::Parser;
use prflash::attention::GpuSelector;
use prflash::cache::{Chunk, KvCache, SequenceId, Staircase, StoredKeys};
use prflash::sampling::Granularity;
use prflash::sampling::content::{Estimate, Participation, Probe};
use prflash::{
    Attention, BlockGrid, Bound, Call, Context, DType, Layout, Plan, Queries, Schedule, Shape, TableBuffer,
    Tables, Tensor,
};
use support::{Work, interleave, milliseconds};
use testkit::statistics::{median, median_ratio};

#[derive(Parser)]
struct Arguments {
    /// Timed rounds; every way runs once in each.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Tokens of history.
    #[arg(long, value_delimiter = ',', default_values_t = [8192, 32_768, 131_072])]
    lens: Vec<usize>,
    /// Tokens that a step visits.
    #[arg(long, default_value_t = 1024)]
    visited: usize,
    /// Tokens of a block.
    #[arg(long, default_value_t = 64)]
    block: usize,
    /// Tokens of a group with a summary.
    #[arg(long, default_value_t = 64)]
    group: usize,
    /// Key/value heads of 32 query heads.
    #[arg(long, default_value_t = 8)]
    kv_heads: usize,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const QUERIES: [Queries; 1] =
    [Queries { sequence: SequenceId::FIRST, entry: 0, rows: 0..1, positions: None }];

/// Everything at one length.
struct Step {
    cache: KvCache,
    plan: Plan,
    bound: Bound,
    selector: GpuSelector,
    grid: BlockGrid,
}

/// `[1, heads, len, dim]` of numbers in [−1, 1) without a pattern that matters.
fn tensor(context: &Context, heads: usize, len: usize, dim: usize) -> Result<Tensor> {
    Ok(support::tensor(context, heads, len, dim)?)
}

fn step(context: &Context, arguments: &Arguments, len: usize) -> Result<Step> {
    const CHUNK: usize = 2048;
    let shape = Shape::new(32, arguments.kv_heads, len, 128)?.with_q_len(1)?;
    let staircase = Staircase::recommended().with_summaries(arguments.group)?;
    let mut cache = KvCache::new(context, staircase, &shape, StoredKeys::AfterRotation)?;
    let rows = tensor(context, shape.kv_heads(), CHUNK, 128)?;
    let input = cache.input(rows.view(), rows.view())?;
    let sequence = cache.add();
    for start in (0..len).step_by(CHUNK) {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let chunk = Chunk { sequence, entry: 0, rows: 0..CHUNK.min(len - start) };
        cache.append(&mut encoder, &input, &[chunk])?;
        context.queue().submit([encoder.finish()]);
        context.wait()?;
    }
    let plan = Attention::causal().plan_cached(&cache, &shape)?;
    let q = tensor(context, 32, 1, 128)?;
    let output = Tensor::zeros(context, DType::F32, Layout::heads_first(1, 32, 1, 128)?)?;
    let bound = plan.bind_queries(q.view(), output.view(), None)?;
    let grid =
        BlockGrid::causal(&shape).with_block_size(arguments.block)?.with_granularity(Granularity::KvHead);
    let participation = Participation::content(arguments.visited / arguments.block)?;
    let selector = plan.selector(&grid, &participation, Estimate::Saturated, Probe::causal(1)?)?;
    Ok(Step { cache, plan, bound, selector, grid })
}

impl Step {
    fn call(&self) -> Call<'_> {
        Call::cached(&self.cache, &QUERIES)
    }

    /// Sink + window of as many blocks.
    fn window(&self, blocks: usize) -> Result<Schedule> {
        let all = self.grid.key_blocks();
        let row: Vec<usize> = std::iter::once(0).chain(all - (blocks - 1)..all).collect();
        Ok(Schedule::from_block_lists(&self.grid, &vec![row; self.grid.groups()])?)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context = Context::new_blocking()?;
    let mut rows = Vec::new();
    let mut steps = Vec::new();
    if !arguments.json {
        println!(
            "{}\n32 heads on {}, D = 128, one query, {} tokens visited in blocks of {}, summaries of {}; medians of {} rounds, all ways in turn",
            context.capabilities(),
            arguments.kv_heads,
            arguments.visited,
            arguments.block,
            arguments.group,
            arguments.rounds
        );
    }
    for &len in &arguments.lens {
        let step = step(&context, &arguments, len)?;
        let blocks = arguments.visited / arguments.block;
        // The same blocks as chosen, without choosing.
        let mut encoder = context.device().create_command_encoder(&Default::default());
        step.plan.encode(&mut encoder, &step.bound, &step.call().with_selection(step.selector.cached()))?;
        context.queue().submit([encoder.finish()]);
        let chosen = step.selector.read_blocking()?.remove(0);
        let read = step.selector.read_traffic_blocking()?.remove(0);
        let window = TableBuffer::new(&context, &Tables::from(&step.window(blocks)?))?;
        let listed = TableBuffer::new(&context, &Tables::from(&chosen))?;
        let encode = |call: Call<'_>, encoder: &mut wgpu::CommandEncoder| {
            Ok(step.plan.encode(encoder, &step.bound, &call)?)
        };
        let mut works: Vec<Work<'_>> = vec![
            Box::new(|encoder| encode(step.call(), encoder)),
            Box::new(|encoder| encode(step.call().with_tables(&window), encoder)),
            Box::new(|encoder| encode(step.call().with_tables(&listed), encoder)),
            Box::new(|encoder| encode(step.call().with_selection(step.selector.cached()), encoder)),
            Box::new(|encoder| {
                let call = step.call().with_selection(step.selector.cached());
                Ok(step.plan.encode_scores(encoder, &step.bound, &call)?)
            }),
        ];
        let seconds = interleave(&context, arguments.rounds, &mut works)?;
        drop(works);
        let standing = step.cache.standing(SequenceId::FIRST)?;
        let nearest = standing.bytes_read_in(step.plan.maxima(), 0..arguments.block)
            + standing.bytes_read_in(step.plan.maxima(), len - (blocks - 1) * arguments.block..len);
        let all = standing.bytes_read(step.plan.maxima());
        let bytes = [all, nearest, read.kv_bytes, read.kv_bytes + read.summary_bytes];
        let bytes = bytes.map(|bytes| bytes as f64);
        if !arguments.json {
            println!("\n{len} tokens\n\n| keys | MB read | ms, median (range) | times as fast | by bytes |");
            println!("| --- | ---: | ---: | ---: | ---: |");
        }
        let names = ["all", "sink + window", "the chosen blocks, as a list", "by content"];
        for ((name, seconds_of), bytes_of) in names.iter().zip(&seconds).zip(bytes) {
            let (gain, by_bytes) = (1.0 / median_ratio(seconds_of, &seconds[0]), bytes[0] / bytes_of);
            if arguments.json {
                rows.push(serde_json::json!({
                    "kv_len": len, "keys": name, "bytes": bytes_of, "median_ms": median(seconds_of) * 1e3,
                    "gain": gain, "gain_by_bytes": by_bytes,
                }));
            } else {
                let megabytes = bytes_of / 1e6;
                println!(
                    "| {name} | {megabytes:.2} | {} | {gain:.2} | {by_bytes:.2} |",
                    milliseconds(seconds_of)
                );
            }
        }
        let choosing: Vec<f64> = seconds[3].iter().zip(&seconds[2]).map(|(both, one)| both - one).collect();
        if !arguments.json {
            println!("\nof which choosing: {}", milliseconds(&choosing));
            println!("estimates by themselves: {}", milliseconds(&seconds[4]));
        }
        steps.push((len, median(&seconds[3]), median(&choosing), median(&seconds[4])));
    }
    if arguments.json {
        let capabilities = context.capabilities();
        let choosing: Vec<_> = steps
            .iter()
            .map(|(len, step, choosing, scores)| {
                serde_json::json!({
                    "kv_len": len, "step_ms": step * 1e3, "choosing_ms": choosing * 1e3,
                    "scores_ms": scores * 1e3,
                })
            })
            .collect();
        let object = serde_json::json!({
            "adapter": capabilities.adapter, "driver": capabilities.driver, "heads": 32,
            "kv_heads": arguments.kv_heads, "head_dim": 128, "visited": arguments.visited,
            "block": arguments.block, "group": arguments.group, "rows": rows, "steps": choosing,
        });
        println!("{object}");
    }
    Ok(())
}
