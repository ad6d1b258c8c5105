//! The backward pass beside the forward pass, dense, sampled, and with gradients of sinks and
//! slopes: wall time from submission to completion, in turn, as ratios.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench backward -- [--json]
//! scripts/with-vulkan cargo bench --bench backward -- --shapes 8192x64    # tokens, head dimension
//! ```

mod support;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::attention::BackwardOperands;
use prflash::sampling::Granularity;
use prflash::wgpu::CommandEncoder;
use prflash::{
    Attention, Bias, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Schedule, Seed, Shape,
    Systematic, TableBuffer, Tables, Tensor,
};
use serde_json::{Value, json};
use support::{Work, interleave, milliseconds, tensor};
use testkit::statistics::{median, median_ratio};

const SHAPES: [&str; 4] = ["1024x64", "4096x64", "8192x64", "1024x128"];

/// Times gradients.
#[derive(Parser)]
struct Arguments {
    /// Timed rounds; everything of a shape runs once in each.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Tokens and channels of a head.
    #[arg(long, value_delimiter = ',', value_parser = shape, default_values = SHAPES)]
    shapes: Vec<[usize; 2]>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

fn shape(text: &str) -> Result<[usize; 2]> {
    let (len, dim) = text.split_once('x').context("expected tokens x channels, as 1024x64")?;
    Ok([len.parse()?, dim.parse()?])
}

/// Key blocks of 64 tokens that a query block keeps; dense attention has 32.5 at 4,096 tokens.
const BUDGETS: [f64; 2] = [8.0, 4.0];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context = Context::new_blocking().context("the backward bench needs a device")?;
    let device = context.capabilities().to_string();
    if !arguments.json {
        println!("device: {device}");
    }
    let mut rows = Vec::new();
    for &[len, dim] in &arguments.shapes {
        rows.push(measure(&context, &arguments, len, dim)?);
    }
    if arguments.json {
        println!("{:#}", json!({ "device": device, "rounds": arguments.rounds, "rows": rows }));
    }
    Ok(())
}

fn measure(context: &Context, arguments: &Arguments, len: usize, dim: usize) -> Result<Value> {
    let shape = Shape::new(8, 2, len, dim)?;
    let attention = Attention::causal().with_lse(true);
    let (plan, backward) = (attention.plan(context, &shape)?, attention.plan_backward(context, &shape)?);
    let of = |heads| tensor(context, heads, len, dim);
    let (q, k, v, output, d_output) = (of(8)?, of(2)?, of(2)?, of(8)?, of(8)?);
    let (dq, dk, dv) = (of(8)?, of(2)?, of(2)?);
    let lse = Tensor::zeros(context, DType::F32, Layout::rows(1, 8, len)?)?;
    let (q, k, v, output, lse) = (q.view(), k.view(), v.view(), output.view(), lse.view());
    let forward_bound = plan.bind(&Operands { q, k, v, output, lse: Some(lse) })?;
    let operands = BackwardOperands {
        q,
        k,
        v,
        output,
        lse,
        d_output: d_output.view(),
        d_lse: None,
        dq: dq.view(),
        dk: dk.view(),
        dv: dv.view(),
        d_sinks: None,
        d_slopes: None,
    };
    let bound = backward.bind(&operands)?;
    // Dense, with a sink and a slope of each head.
    let own = attention.with_positions(Bias::alibi().into()).with_sinks(&[0.0; 8])?;
    let own = own.plan_backward(context, &shape)?;
    let sum = || Tensor::zeros(context, DType::F32, Layout::rows(1, 8, 1)?);
    let (sinks, slopes) = (sum()?, sum()?);
    let (d_sinks, d_slopes) = (Some(sinks.view()), Some(slopes.view()));
    let [plain, summed] =
        [own.bind(&operands)?, own.bind(&BackwardOperands { d_sinks, d_slopes, ..operands })?];
    let call = Call::lengths(len, len);
    let grid = BlockGrid::causal(&shape).with_granularity(Granularity::KvHead);
    let mut sampled = Vec::new();
    for blocks in BUDGETS {
        let profile = Profile::budget(blocks)?;
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(1))?;
        let tables = TableBuffer::for_backward(context, &Tables::from(&schedule))?;
        sampled.push((schedule.density(), tables));
    }
    let mut works: Vec<Work<'_>> = vec![
        Box::new(|encoder: &mut CommandEncoder| Ok(plan.encode(encoder, &forward_bound, &call)?)),
        Box::new(|encoder: &mut CommandEncoder| Ok(backward.encode(encoder, &bound, &call)?)),
    ];
    let (bound, backward) = (&bound, &backward);
    for (_, tables) in &sampled {
        let call = call.clone().with_tables(tables);
        works.push(Box::new(move |encoder: &mut CommandEncoder| Ok(backward.encode(encoder, bound, &call)?)));
    }
    for bound in [&plain, &summed] {
        works.push(Box::new(|encoder: &mut CommandEncoder| Ok(own.encode(encoder, bound, &call)?)));
    }
    let seconds = interleave(context, arguments.rounds, &mut works)?;
    let of_heads = &seconds[2 + sampled.len()..];
    let with_gradients_of_heads = median_ratio(&of_heads[1], &of_heads[0]);
    let backward_over_forward = median_ratio(&seconds[1], &seconds[0]);
    let shares: Vec<Value> = sampled
        .iter()
        .zip(&seconds[2..])
        .map(|((density, _), sampled)| {
            json!({
                "density": density,
                "median_ms": 1e3 * median(sampled),
                "over_dense": median_ratio(sampled, &seconds[1]),
            })
        })
        .collect();
    if !arguments.json {
        println!("causal, H 8, KV 2, N {len}, D {dim}, f32:");
        println!("  forward {} ms", milliseconds(&seconds[0]));
        println!("  backward {} ms, {backward_over_forward:.2} × forward", milliseconds(&seconds[1]));
        for (share, seconds) in shares.iter().zip(&seconds[2..]) {
            let (density, over) = (share["density"].as_f64(), share["over_dense"].as_f64());
            let [density, over] = [density, over].map(|number| number.unwrap_or(f64::NAN));
            println!("  density {density:.3}: {} ms, {over:.3} × dense", milliseconds(seconds));
        }
        println!("  with gradients of sinks and slopes: {with_gradients_of_heads:.3} × without");
    }
    Ok(json!({
        "len": len,
        "head_dim": dim,
        "forward_ms": 1e3 * median(&seconds[0]),
        "backward_ms": 1e3 * median(&seconds[1]),
        "backward_over_forward": backward_over_forward,
        "sampled": shares,
        "with_gradients_of_heads": with_gradients_of_heads,
    }))
}
