//! Dense attention and PrFlashAttention, naive and tiled, on this device.
//!
//! All variants of a shape run in turn, round after round, so that a slow moment of the machine
//! hits them alike; medians over rounds, with the range. Ratios are medians of ratios within a
//! round.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench kernels               # about 12 minutes on two cores of software Vulkan
//! scripts/with-vulkan cargo bench --bench kernels -- --longest 8192
//! ```

mod support;

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::device::GpuTimer;
use prflash::kernels::Kernel;
use prflash::{
    Attention, BlockGrid, Bound, Call, Context, Operands, Plan, PlanOptions, Profile, Schedule, Seed, Shape,
    Systematic, TableBuffer, Tables,
};
use serde_json::json;
use support::tensor;
use testkit::statistics::{median, median_ratio, range};

/// Times dense attention and PrFlashAttention, naive and tiled.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// The longest sequence.
    #[arg(long, default_value_t = 32_768)]
    longest: usize,
    /// The longest sequence for dense attention by the naive kernel.
    #[arg(long, default_value_t = 8192)]
    longest_naive: usize,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Variant {
    kernel: Kernel,
    schedule: Option<Schedule>,
    plan: Plan,
    bound: Bound,
    tables: TableBuffer,
    wall: Vec<f64>,
    gpu: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context =
        Context::new_blocking().context("a bench needs an adapter: scripts/with-vulkan brings one")?;
    let say = |text: &str| {
        if !arguments.json {
            println!("{text}");
        }
    };
    say(&format!("{}\n", context.capabilities()));
    say("f32, causal, H = 8, KV heads = 2; p(d) = 1/(1+d), one sink block, one list per head.");
    say(
        "wall: submission to completion, median (min to max); effective: FLOPs of visited pairs; equivalent: of dense attention.\n",
    );
    say("| N | D | kernel | blocks | wall ms | GPU ms | / dense | effective GFLOP/s | equivalent GFLOP/s |");
    say("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut rows = Vec::new();
    for dim in [64, 128] {
        for (len, rounds) in [(1024, 11), (4096, 7), (8192, 5), (32_768, 3)] {
            if len <= arguments.longest {
                for row in shape(&arguments, &context, len, dim, rounds)? {
                    say(&row.0);
                    rows.push(row.1);
                }
            }
        }
    }
    if arguments.json {
        let capabilities = context.capabilities();
        let object = json!({ "adapter": capabilities.adapter, "driver": capabilities.driver, "rows": rows });
        println!("{}", serde_json::to_string_pretty(&object)?);
    }
    Ok(())
}

fn shape(
    arguments: &Arguments,
    context: &Context,
    len: usize,
    dim: usize,
    rounds: usize,
) -> Result<Vec<(String, serde_json::Value)>> {
    let shape = Shape::new(8, 2, len, dim)?;
    let (q, k, v, output) = (
        tensor(context, 8, len, dim)?,
        tensor(context, 2, len, dim)?,
        tensor(context, 2, len, dim)?,
        tensor(context, 8, len, dim)?,
    );
    let schedule =
        Schedule::sample(&BlockGrid::causal(&shape), &Profile::harmonic(), &Systematic, Seed::new(1))?;
    let timer = GpuTimer::new(context).ok();
    let chosen = Attention::causal().plan(context, &shape)?.kernel();
    let mut variants = Vec::new();
    for kernel in [chosen, Kernel::Naive] {
        for schedule in [None, Some(schedule.clone())] {
            if kernel == Kernel::Naive && schedule.is_none() && len > arguments.longest_naive {
                continue;
            }
            let options = PlanOptions::new().with_kernel(kernel);
            let plan = Attention::causal().plan_with(context, &shape, &options)?;
            let operands =
                Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
            let bound = plan.bind(&operands)?;
            let tables =
                TableBuffer::new(plan.context(), &schedule.as_ref().map_or(Tables::new(), Tables::from))?;
            variants.push(Variant { kernel, schedule, plan, bound, tables, wall: vec![], gpu: vec![] });
        }
    }
    // Round 0 warms up and isn't counted.
    for round in 0..=rounds {
        for variant in &mut variants {
            let started = Instant::now();
            let mut call = Call::lengths(len, len).with_tables(&variant.tables);
            if let Some(timer) = &timer {
                call = call.with_timestamps(timer.writes());
            }
            let mut encoder = context.device().create_command_encoder(&Default::default());
            variant.plan.encode(&mut encoder, &variant.bound, &call)?;
            if let Some(timer) = &timer {
                timer.resolve(&mut encoder);
            }
            context.queue().submit([encoder.finish()]);
            context.wait()?;
            let wall = started.elapsed().as_secs_f64();
            let gpu = match &timer {
                Some(timer) => timer.read_blocking(context)?.as_secs_f64(),
                None => f64::NAN,
            };
            if round > 0 {
                variant.wall.push(wall);
                variant.gpu.push(gpu);
            }
        }
    }
    let dense_walls = variants[0].wall.clone();
    let dense_flops = shape.dense_flops(true);
    let mut rows = Vec::new();
    for variant in &variants {
        let wall = median(&variant.wall);
        let (least, most) = range(&variant.wall);
        let ratio = median_ratio(&variant.wall, &dense_walls);
        let gpu = median(&variant.gpu);
        let visited = variant.schedule.as_ref().map_or(dense_flops, |schedule| {
            2.0 * (shape.head_dim() + shape.value_dim()) as f64 * schedule.visited_pairs() as f64
        });
        let density = variant.schedule.as_ref().map_or(1.0, Schedule::density);
        let (effective, equivalent) = (visited / wall / 1e9, dense_flops / wall / 1e9);
        let kernel = variant.kernel.to_string().replace("attention_", "");
        let text = format!(
            "| {len} | {dim} | {kernel} | {density:.3} | {:.1} ({:.1} to {:.1}) | {:.1} | {ratio:.3} | {effective:.1} | {equivalent:.1} |",
            wall * 1e3,
            least * 1e3,
            most * 1e3,
            gpu * 1e3,
        );
        let value = json!({
            "len": len, "head_dim": dim, "kernel": kernel, "density": density, "rounds": rounds,
            "wall_seconds": wall, "wall_min": least, "wall_max": most, "gpu_seconds": gpu, "ratio_to_dense": ratio,
            "effective_gflops": effective, "equivalent_gflops": equivalent,
        });
        rows.push((text, value));
    }
    Ok(rows)
}
