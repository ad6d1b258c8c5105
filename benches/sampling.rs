//! What there is beside the plain call of a sampled schedule, on this device: the order of long
//! rows, re-shaped tensors, rounds.
//!
//! The ways of one table run in turn, round after round; medians over rounds with the range, and
//! medians of ratios within a round.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench sampling
//! ```

mod support;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::rounds::Combine;
use prflash::sampling::{Reshaping, RowOrder, Workers};
use prflash::{
    Attention, BlockGrid, Call, Context, Operands, Profile, Schedule, Seed, Shape, Systematic, TableBuffer,
    Tables,
};
use serde_json::json;
use support::{Work, interleave, milliseconds, tensor};
use testkit::statistics::{median, median_ratio};

/// Times orders of rows, re-shaped tensors and rounds.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Rounds of every table.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One table: what is compared, and seconds per way and round. The first way is what the others are
/// compared with.
struct Table {
    title: String,
    ways: Vec<(String, Vec<f64>)>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context =
        Context::new_blocking().context("a bench needs an adapter: scripts/with-vulkan brings one")?;
    let rounds = arguments.rounds.max(1);
    let mut tables = row_orders(&context, rounds)?;
    for len in [2048, 8192] {
        tables.push(re_shaped(&context, rounds, len)?);
    }
    tables.push(rounds_and_merge(&context, rounds)?);
    if arguments.json {
        let of = |table: &Table| {
            let first = &table.ways[0].1;
            let ways: Vec<_> = table
                .ways
                .iter()
                .map(|(name, seconds)| {
                    json!({ "name": name, "seconds": median(seconds), "ratio": median_ratio(seconds, first), "rounds": rounds })
                })
                .collect();
            json!({ "title": table.title, "ways": ways })
        };
        let capabilities = context.capabilities();
        let tables: Vec<_> = tables.iter().map(of).collect();
        let object =
            json!({ "adapter": capabilities.adapter, "driver": capabilities.driver, "tables": tables });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    println!("{}", context.capabilities());
    for table in &tables {
        println!("\n{}\n\n| | wall ms | / first |\n| --- | --- | --- |", table.title);
        for (name, seconds) in &table.ways {
            let ratio = median_ratio(seconds, &table.ways[0].1);
            println!("| {name} | {} | {ratio:.2} |", milliseconds(seconds));
        }
    }
    Ok(())
}

/// Rows of very different length: dense causal attention; a causal schedule; and one query block
/// that sees everything among rows that see little ("global tokens").
fn row_orders(context: &Context, rounds: usize) -> Result<Vec<Table>> {
    let (heads, len) = (4, 4096);
    let shape = Shape::new(heads, 1, len, 64)?;
    let blocks = BlockGrid::full(&shape).query_blocks();
    let global = |row: usize| match row % blocks == blocks / 2 {
        true => (0..blocks).collect(),
        false => (0..4).map(|i| (row % blocks + i).min(blocks - 4 + i)).collect(),
    };
    let lists: Vec<Vec<usize>> = (0..heads * blocks).map(global).collect();
    let causal = BlockGrid::causal(&shape);
    let cases = [
        ("dense causal", true, Schedule::dense(&causal)?),
        (
            "causal, systematic 1/(1+d)",
            true,
            Schedule::sample(&causal, &Profile::harmonic(), &Systematic, Seed::new(1))?,
        ),
        (
            "full; the middle query block sees all key blocks, the others 4",
            false,
            Schedule::from_block_lists(&BlockGrid::full(&shape), &lists)?,
        ),
    ];
    let (q, k, v, output) = (
        tensor(context, heads, len, 64)?,
        tensor(context, 1, len, 64)?,
        tensor(context, 1, len, 64)?,
        tensor(context, heads, len, 64)?,
    );
    let threads = std::thread::available_parallelism()?.get();
    let workers = match context.capabilities().is_software() {
        true => Workers::Static(threads),
        false => Workers::Dynamic(128),
    };
    let mut tables = Vec::new();
    for (name, is_causal, schedule) in &cases {
        let attention = if *is_causal { Attention::causal() } else { Attention::full() };
        let plan = attention.plan(context, &shape)?;
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let bound = plan.bind(&operands)?;
        let orders = [RowOrder::LongestFirst, RowOrder::Paired, RowOrder::AsIs];
        let mut uploaded = Vec::new();
        for order in orders {
            uploaded.push(TableBuffer::new(plan.context(), &Tables::from(schedule).with_row_order(order))?);
        }
        let mut works: Vec<Work<'_>> = Vec::new();
        for tables in &uploaded {
            let (plan, bound) = (&plan, &bound);
            works.push(Box::new(move |encoder| {
                Ok(plan.encode(encoder, bound, &Call::lengths(len, len).with_tables(tables))?)
            }));
        }
        let seconds = interleave(context, rounds, &mut works)?;
        let ways = orders.iter().zip(seconds).map(|(order, seconds)| {
            let ratio = schedule.load_balance(workers, *order).ratio();
            (format!("{order:?}: makespan / ideal {ratio:.2} for {workers:?}"), seconds)
        });
        let title = format!("Order of rows: {name}; H = {heads}, one KV head, N = {len}, D = 64.");
        tables.push(Table { title, ways: ways.collect() });
    }
    Ok(tables)
}

/// Segments and rows/columns as lists and as re-shaped tensors, over draws of like cost.
fn re_shaped(context: &Context, rounds: usize, len: usize) -> Result<Table> {
    let shape = Shape::new(8, 2, len, 64)?;
    let grid = BlockGrid::causal(&shape);
    let (q, k, v) =
        (tensor(context, 8, len, 64)?, tensor(context, 2, len, 64)?, tensor(context, 2, len, 64)?);
    let output = tensor(context, 8, len, 64)?;
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let lists = Attention::causal().plan(context, &shape)?;
    let reshaped = Attention::causal().plan(context, &shape)?.reshaped(&grid)?;
    let (bound, reshaped_bound) = (lists.bind(&operands)?, reshaped.bind(&operands)?);
    let profile = Profile::harmonic();
    let (mut names, mut kept) = (Vec::new(), Vec::new());
    for reshaping in [
        Reshaping::segments(&grid, &profile, Seed::new(1))?,
        Reshaping::row_column(&grid, &profile, Seed::new(1))?,
    ] {
        let schedule = reshaping.schedule()?;
        let name = if reshaping.is_row_column() { "rows and columns" } else { "segments" };
        let density = schedule.density();
        names.push(format!("{name}, block lists (density {density:.3})"));
        names.push(format!("{name}, re-shaped"));
        kept.push((TableBuffer::new(lists.context(), &Tables::from(&schedule))?, reshaping));
    }
    let mut works: Vec<Work<'_>> = Vec::new();
    for (tables, reshaping) in &kept {
        let (lists, bound, reshaped, reshaped_bound) = (&lists, &bound, &reshaped, &reshaped_bound);
        works.push(Box::new(move |encoder| {
            Ok(lists.encode(encoder, bound, &Call::lengths(len, len).with_tables(tables))?)
        }));
        works.push(Box::new(move |encoder| {
            Ok(reshaped.encode(encoder, reshaped_bound, std::slice::from_ref(reshaping))?)
        }));
    }
    let seconds = interleave(context, rounds, &mut works)?;
    let title = format!(
        "Re-shaping: causal, H = 8, KV heads = 2, N = {len}, D = 64, f32, p(d) = 1/(1+d), one sink block, one draw per head."
    );
    Ok(Table { title, ways: names.into_iter().zip(seconds).collect() })
}

/// What the merge with its standard error adds to a round.
fn rounds_and_merge(context: &Context, rounds: usize) -> Result<Table> {
    let len = 8192;
    let shape = Shape::new(8, 2, len, 64)?;
    let (q, k, v) =
        (tensor(context, 8, len, 64)?, tensor(context, 2, len, 64)?, tensor(context, 2, len, 64)?);
    let output = tensor(context, 8, len, 64)?;
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let schedule =
        Schedule::sample(&BlockGrid::causal(&shape), &Profile::harmonic(), &Systematic, Seed::new(1))?;
    let plain = Attention::causal().plan(context, &shape)?;
    let plans = [Combine::Partition, Combine::Independent]
        .map(|combine| Attention::causal().plan(context, &shape)?.rounds(combine));
    let [partition, independent] = plans;
    let (partition, independent) = (partition?, independent?);
    let bound = plain.bind(&operands)?;
    let bounds = [partition.bind(&operands, None)?, independent.bind(&operands, None)?];
    let plain_tables = TableBuffer::new(plain.context(), &Tables::from(&schedule))?;
    let tables = [
        TableBuffer::new(partition.round_plan().context(), &Tables::from(&schedule))?,
        TableBuffer::new(independent.round_plan().context(), &Tables::from(&schedule))?,
    ];
    let mut works: Vec<Work<'_>> = vec![Box::new(|encoder| {
        Ok(plain.encode(encoder, &bound, &Call::lengths(len, len).with_tables(&plain_tables))?)
    })];
    for ((plan, bound), tables) in [&partition, &independent].into_iter().zip(&bounds).zip(&tables) {
        works.push(Box::new(move |encoder| {
            Ok(plan.encode_round(encoder, bound, &Call::lengths(len, len).with_tables(tables), 0)?)
        }));
    }
    let seconds = interleave(context, rounds, &mut works)?;
    let names = ["a plain call", "a partition round", "an independent round, with its spread"];
    let title = format!(
        "Rounds: causal, H = 8, KV heads = 2, N = {len}, D = 64, f32, systematic 1/(1+d), density {:.3}.",
        schedule.density()
    );
    Ok(Table { title, ways: names.map(str::to_owned).into_iter().zip(seconds).collect() })
}
