//! One step of decoding: plain tensors in f32 and f16, in rows and in pages, and the staircase
//! presets, over long histories; and what splitting the keys is worth.
//!
//! `cargo bench --bench decode -- [--rounds N] [--json]`

#[path = "support/mod.rs"]
mod support;

use anyhow::Result;
use clap::Parser;
use prflash::attention::PageTable;
use prflash::cache::{Chunk, KvCache, SequenceId, Staircase, StoredKeys};
use prflash::{
    Attention, Bound, Call, Context, DType, Layout, Operands, Plan, PlanOptions, Queries, Shape, TableBuffer,
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
    #[arg(long, value_delimiter = ',', default_values_t = [8192, 32_768])]
    lens: Vec<usize>,
    /// Queries: 1 is a step of decoding, more are speculation or a chunk of a prompt.
    #[arg(long, default_value_t = 1)]
    queries: usize,
    /// Key/value heads of 32 query heads.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 1])]
    kv_heads: Vec<usize>,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One way to hold the history.
struct Way {
    name: String,
    /// Bytes of keys and values that a step reads.
    bytes: u64,
    held: Held,
}

enum Held {
    Tensors(Box<(Plan, Bound)>),
    Pages(Box<(Plan, Bound, TableBuffer)>),
    Cache(Box<(KvCache, Plan, Bound)>),
}

impl Way {
    fn work(&self, queries: usize, len: usize) -> Work<'_> {
        match &self.held {
            Held::Tensors(held) => Box::new(move |encoder| {
                let (plan, bound) = &**held;
                Ok(plan.encode(encoder, bound, &Call::lengths(queries, len))?)
            }),
            Held::Pages(held) => Box::new(move |encoder| {
                let (plan, bound, tables) = &**held;
                Ok(plan.encode(encoder, bound, &Call::lengths(queries, len).with_tables(tables))?)
            }),
            Held::Cache(held) => Box::new(move |encoder| {
                let (cache, plan, bound) = &**held;
                Ok(plan.encode(
                    encoder,
                    bound,
                    &Call::cached(
                        cache,
                        &[Queries {
                            sequence: SequenceId::FIRST,
                            entry: 0,
                            rows: 0..queries,
                            positions: None,
                        }],
                    ),
                )?)
            }),
        }
    }
}

/// `[1, heads, len, dim]` of numbers in [−1, 1) in a storage type.
fn tensor(context: &Context, dtype: DType, heads: usize, len: usize, dim: usize) -> Result<Tensor> {
    let layout = Layout::heads_first(1, heads, len, dim)?;
    let values: Vec<f32> = (0..layout.elements()).map(|i| ((i * 7919) % 997) as f32 / 498.5 - 1.0).collect();
    Ok(Tensor::upload(context, dtype, layout, &values)?)
}

fn tensors(context: &Context, shape: &Shape, dtype: DType, splits: Option<usize>) -> Result<Way> {
    let attention = Attention::causal().with_storage(dtype);
    let options = PlanOptions::new();
    let options = splits.map_or(Ok(options.clone()), |splits| options.with_splits(splits))?;
    let plan = attention.plan_with(context, shape, &options)?;
    let (len, dim) = (shape.kv_len(), shape.head_dim());
    let q = tensor(context, dtype, shape.heads(), shape.q_len(), dim)?;
    let k = tensor(context, dtype, shape.kv_heads(), len, dim)?;
    let output =
        Tensor::zeros(context, DType::F32, Layout::heads_first(1, shape.heads(), shape.q_len(), dim)?)?;
    let v = tensor(context, dtype, shape.kv_heads(), len, dim)?;
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let bound = plan.bind(&operands)?;
    let bytes = (2 * shape.kv_heads() * len * dim * dtype.size()) as u64;
    let name = match splits {
        Some(splits) => format!("{dtype} tensors, {splits} split"),
        None => format!("{dtype} tensors"),
    };
    Ok(Way { name, bytes, held: Held::Tensors(Box::new((plan, bound))) })
}

/// In pages of 16 tokens, the last ones first.
fn paged(context: &Context, shape: &Shape, dtype: DType) -> Result<Way> {
    const PAGE_SIZE: usize = 16;
    let attention = Attention::causal().with_storage(dtype);
    let plan = attention.plan_with(context, shape, &PlanOptions::new().with_pages(true))?;
    let (len, dim, heads) = (shape.kv_len(), shape.head_dim(), shape.kv_heads());
    let count = len.div_ceil(PAGE_SIZE);
    let layout = Layout::tokens_first(count, PAGE_SIZE, heads, dim)?;
    let pool = || {
        Ok::<_, anyhow::Error>(
            tensor(context, dtype, 1, layout.extent() / dim, dim)?.view().with_layout(layout)?,
        )
    };
    let (k, v) = (pool()?, pool()?);
    let q = tensor(context, dtype, shape.heads(), shape.q_len(), dim)?;
    let output =
        Tensor::zeros(context, DType::F32, Layout::heads_first(1, shape.heads(), shape.q_len(), dim)?)?;
    let operands = Operands { q: q.view(), k: &k, v: &v, output: output.view(), lse: None };
    let bound = plan.bind(&operands)?;
    let table = PageTable::new(&(0..count as u32).rev().collect::<Vec<_>>())?;
    let tables = TableBuffer::new(context, &Tables::from(&table))?;
    let bytes = (2 * heads * len * dim * dtype.size()) as u64;
    let name = format!("{dtype} pages of {PAGE_SIZE}");
    Ok(Way { name, bytes, held: Held::Pages(Box::new((plan, bound, tables))) })
}

fn cached(context: &Context, shape: &Shape, name: &str, staircase: Staircase) -> Result<Way> {
    const CHUNK: usize = 2048;
    let mut cache = KvCache::new(context, staircase, shape, StoredKeys::AfterRotation)?;
    let (len, dim) = (shape.kv_len(), shape.head_dim());
    let rows = tensor(context, DType::F32, shape.kv_heads(), CHUNK, dim)?;
    let other = tensor(context, DType::F32, shape.kv_heads(), CHUNK, dim)?;
    let input = cache.input(rows.view(), other.view())?;
    let sequence = cache.add();
    for start in (0..len).step_by(CHUNK) {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.append(
            &mut encoder,
            &input,
            &[Chunk { sequence, entry: 0, rows: 0..CHUNK.min(len - start) }],
        )?;
        context.queue().submit([encoder.finish()]);
    }
    context.wait()?;
    let plan = Attention::causal().plan_cached(&cache, shape)?;
    let q = tensor(context, DType::F32, shape.heads(), shape.q_len(), dim)?;
    let output =
        Tensor::zeros(context, DType::F32, Layout::heads_first(1, shape.heads(), shape.q_len(), dim)?)?;
    let bound = plan.bind_queries(q.view(), output.view(), None)?;
    let bytes = cache.memory(sequence)?.total();
    Ok(Way { name: name.to_owned(), bytes, held: Held::Cache(Box::new((cache, plan, bound))) })
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context = Context::new_blocking()?;
    let mut tables = Vec::new();
    if !arguments.json {
        println!(
            "{}\n32 heads, D = 128, {} queries each; medians of {} rounds, all ways in turn",
            context.capabilities(),
            arguments.queries,
            arguments.rounds
        );
    }
    for &kv_heads in &arguments.kv_heads {
        for &len in &arguments.lens {
            let shape = Shape::new(32, kv_heads, len, 128)?.with_q_len(arguments.queries)?;
            let ways = vec![
                tensors(&context, &shape, DType::F32, None)?,
                tensors(&context, &shape, DType::F32, Some(1))?,
                tensors(&context, &shape, DType::F16, None)?,
                paged(&context, &shape, DType::F32)?,
                paged(&context, &shape, DType::F16)?,
                cached(&context, &shape, "plain", Staircase::plain())?,
                cached(&context, &shape, "recommended", Staircase::recommended())?,
                cached(&context, &shape, "recommended, rotated", Staircase::recommended_rotated())?,
                cached(&context, &shape, "paper", Staircase::paper())?,
                cached(&context, &shape, "kivi 4", Staircase::kivi(4)?)?,
                cached(&context, &shape, "kivi 2", Staircase::kivi(2)?)?,
                cached(&context, &shape, "sink + window of 1,024", Staircase::streaming(1024)?)?,
            ];
            let mut works: Vec<Work<'_>> = ways.iter().map(|way| way.work(arguments.queries, len)).collect();
            let seconds = interleave(&context, arguments.rounds, &mut works)?;
            drop(works);
            if !arguments.json {
                println!("\n{kv_heads} key/value heads, {len} tokens\n");
                println!(
                    "| history | MB read | ms, median (range) | of f32 | GB/s |\n| --- | ---: | ---: | ---: | ---: |"
                );
            }
            for (way, seconds_of) in ways.iter().zip(&seconds) {
                let ratio = median_ratio(seconds_of, &seconds[0]);
                let rate = way.bytes as f64 / median(seconds_of) / 1e9;
                if arguments.json {
                    tables.push(serde_json::json!({
                        "queries": arguments.queries, "kv_heads": kv_heads, "kv_len": len, "history": way.name, "bytes": way.bytes,
                        "median_ms": median(seconds_of) * 1e3, "ratio_to_f32": ratio, "gb_per_s": rate,
                    }));
                } else {
                    println!(
                        "| {} | {:.1} | {} | {ratio:.2} | {rate:.1} |",
                        way.name,
                        way.bytes as f64 / 1e6,
                        milliseconds(seconds_of)
                    );
                }
            }
        }
    }
    if arguments.json {
        let capabilities = context.capabilities();
        let object = serde_json::json!({
            "adapter": capabilities.adapter, "driver": capabilities.driver, "heads": 32, "head_dim": 128,
            "rows": tables,
        });
        println!("{object}");
    }
    Ok(())
}
