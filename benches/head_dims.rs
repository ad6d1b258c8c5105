//! What wide heads cost: time per multiply-add beside D = 128, in a prompt and in a step of
//! decoding, of the kernels that a plan chooses and of the native engine.
//!
//! All sizes of a task run in turn, round after round; ratios are medians of ratios within a round.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench head_dims --features avx512 -- [--rounds N] [--json]
//! ```

mod support;

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan};
use prflash::{Attention, Bound, Call, Context, DType, Layout, Operands, Plan, Shape, Tables, Tensor};
use serde_json::{Value, json};
use support::{Work, interleave, milliseconds};
use testkit::statistics::{median, median_ratio};

/// Times heads of 128 to 576 channels.
#[derive(Parser)]
struct Arguments {
    /// Timed rounds; every size runs once in each.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Channels of a key and of a value. Of the last, values are channels of the keys.
const DIMS: [[usize; 2]; 4] = [[128, 128], [256, 256], [512, 512], [576, 512]];

/// Tensors of a shape, with one key/value head.
struct Size {
    shape: Shape,
    numbers: [Vec<f32>; 2],
    layouts: [Layout; 4],
}

impl Size {
    fn new(q_len: usize, kv_len: usize, [dim, value_dim]: [usize; 2]) -> Result<Self> {
        let shape = Shape::new(16, 1, q_len, dim)?.with_kv_len(kv_len)?.with_value_dim(value_dim)?;
        let queries = Layout::heads_first(1, 16, q_len, dim)?;
        let keys = Layout::heads_first(1, 1, kv_len, dim)?;
        let values = Layout::with_strides([1, 1, kv_len, value_dim], 0, keys.strides())?;
        let output = Layout::heads_first(1, 16, q_len, value_dim)?;
        let numbers = [queries, keys]
            .map(|layout| (0..layout.elements()).map(|i| ((i * 7919) % 997) as f32 / 498.5 - 1.0).collect());
        Ok(Self { shape, numbers, layouts: [queries, keys, values, output] })
    }

    /// Multiply-adds of a call.
    fn multiply_adds(&self) -> f64 {
        self.shape.dense_flops(true) / 2.0
    }

    fn bound(&self, context: &Context) -> Result<(Plan, Bound, Tensor)> {
        let [queries, keys, values, output] = self.layouts;
        let plan = Attention::causal().plan(context, &self.shape)?;
        let q = Tensor::upload(context, DType::F32, queries, &self.numbers[0])?;
        let k = Tensor::upload(context, DType::F32, keys, &self.numbers[1])?;
        let v = k.view().with_layout(values)?;
        let output = Tensor::zeros(context, DType::F32, output)?;
        let operands = Operands { q: q.view(), k: k.view(), v: &v, output: output.view(), lse: None };
        let bound = plan.bind(&operands)?;
        Ok((plan, bound, output))
    }

    fn run_native(&self, plan: &NativePlan, output: &mut [f32]) -> Result<()> {
        let ([q, k], [queries, keys, values, written]) = (&self.numbers, self.layouts);
        let mut operands = NativeOperands {
            q: HostView::new(&q[..], queries)?,
            k: HostView::new(&k[..], keys)?,
            v: HostView::new(&k[..], values)?,
            output: HostViewMut::new(output, written)?,
            lse: None,
        };
        Ok(plan.run(&mut operands, &Tables::new())?)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context =
        Context::new_blocking().context("a bench needs an adapter: scripts/with-vulkan brings one")?;
    let device = context.capabilities().to_string();
    if !arguments.json {
        println!("{device}\n");
        println!("f32, causal, 16 query heads on one key/value head, whose keys have the values in them.\n");
        println!("| queries of keys | D, D_v | computed by | ms | per multiply-add, beside the first |");
        println!("| --- | --- | --- | --- | ---: |");
    }
    let mut rows = Vec::new();
    for (q_len, kv_len) in [(512, 512), (1, 8192)] {
        let sizes =
            DIMS.into_iter().map(|dims| Size::new(q_len, kv_len, dims)).collect::<Result<Vec<_>>>()?;
        let bound = sizes.iter().map(|size| size.bound(&context)).collect::<Result<Vec<_>>>()?;
        let kernels: Vec<String> = bound.iter().map(|(plan, ..)| plan.kernel().to_string()).collect();
        let mut works: Vec<Work<'_>> = Vec::new();
        for (plan, bound, _) in &bound {
            works.push(Box::new(move |encoder| {
                Ok(plan.encode(encoder, bound, &Call::lengths(q_len, kv_len))?)
            }));
        }
        let seconds = interleave(&context, arguments.rounds, &mut works)?;
        rows.extend(report(arguments.json, &sizes, &kernels, &seconds));
        let plans = sizes
            .iter()
            .map(|size| Ok(Attention::causal().plan_native(&size.shape, &NativeOptions::new())?))
            .collect::<Result<Vec<_>>>()?;
        let mut outputs: Vec<Vec<f32>> =
            sizes.iter().map(|size| vec![0.0; size.layouts[3].elements()]).collect();
        let mut seconds = vec![Vec::new(); sizes.len()];
        for round in 0..=arguments.rounds {
            for (index, (size, output)) in sizes.iter().zip(&mut outputs).enumerate() {
                let started = Instant::now();
                size.run_native(&plans[index], output)?;
                if round > 0 {
                    seconds[index].push(started.elapsed().as_secs_f64());
                }
            }
        }
        let named: Vec<String> =
            plans.iter().map(|plan| format!("native engine, {}", plan.instructions())).collect();
        rows.extend(report(arguments.json, &sizes, &named, &seconds));
    }
    if arguments.json {
        println!("{:#}", json!({ "device": device, "rounds": arguments.rounds, "rows": rows }));
    }
    Ok(())
}

/// Rows of the table as JSON, which are printed as text, too, unless JSON is asked for.
fn report(quiet: bool, sizes: &[Size], by: &[String], seconds: &[Vec<f64>]) -> Vec<Value> {
    let row = |(index, (size, by)): (usize, (&Size, &String))| {
        let (shape, first) = (&size.shape, &sizes[0]);
        let share = median_ratio(&seconds[index], &seconds[0]);
        let per = share * first.multiply_adds() / size.multiply_adds();
        if !quiet {
            println!(
                "| {} of {} | {}, {} | {by} | {} | {per:.2} |",
                shape.q_len(),
                shape.kv_len(),
                shape.head_dim(),
                shape.value_dim(),
                milliseconds(&seconds[index]),
            );
        }
        json!({
            "q_len": shape.q_len(),
            "kv_len": shape.kv_len(),
            "head_dim": shape.head_dim(),
            "value_dim": shape.value_dim(),
            "by": by,
            "median_ms": 1e3 * median(&seconds[index]),
            "per_multiply_add": per,
        })
    };
    sizes.iter().zip(by).enumerate().map(row).collect()
}
