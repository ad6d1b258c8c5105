//! What rotation and bias inside the kernel add to dense attention, on this device; and what
//! rotation in place costs instead.
//!
//! Each way runs in turn with attention without positions, round after round; medians over rounds
//! with the range, and medians of ratios within a round.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench positions
//! ```

mod support;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::position::Pairing;
use prflash::rotation::Rows;
use prflash::{Attention, Bias, Call, Context, DType, Operands, Positions, Rope, Shape};
use serde_json::json;
use support::{Work, interleave, milliseconds, tensor};
use testkit::statistics::{median, median_ratio};

/// Times attention with and without positions.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Tokens.
    #[arg(long, default_value_t = 4096)]
    len: usize,
    /// Channels of a head, a multiple of 8.
    #[arg(long, default_value_t = 64)]
    dim: usize,
    /// Rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context =
        Context::new_blocking().context("a bench needs an adapter: scripts/with-vulkan brings one")?;
    let Arguments { len, dim, .. } = arguments;
    let rounds = arguments.rounds.max(1);
    let shape = Shape::new(8, 2, len, dim)?;
    let rope = |pairing| Rope::new(dim, 1e4, pairing);
    let (half, interleaved) = (rope(Pairing::Half)?, rope(Pairing::Interleaved)?);
    let ways = [
        ("none", Positions::new()),
        ("RoPE, interleaved", interleaved.clone().into()),
        ("RoPE, half", half.clone().into()),
        ("ALiBi", Bias::alibi().into()),
        ("harmonic bias", Bias::harmonic().into()),
        ("RoPE interleaved + ALiBi", Positions::from(interleaved.clone()).with_bias(Bias::alibi())),
        ("RoPE interleaved + harmonic (recommended)", Positions::doubly_harmonic(interleaved)),
        ("RoPE half + harmonic (recommended)", Positions::doubly_harmonic(half.clone())),
        ("paper: a·RoPE half + (1−a)·ALiBi", Positions::paper(half, 64.0)?),
    ];
    let (q, k, v) =
        (tensor(&context, 8, len, dim)?, tensor(&context, 2, len, dim)?, tensor(&context, 2, len, dim)?);
    let output = tensor(&context, 8, len, dim)?;
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let mut plans = Vec::new();
    for (_, positions) in &ways {
        let plan = Attention::causal().with_positions(positions.clone()).plan(&context, &shape)?;
        let bound = plan.bind(&operands)?;
        plans.push((plan, bound));
    }
    // Turned where they are stored, then attended without positions. Every round turns them on,
    // which changes no time.
    let mut rotations = Vec::new();
    for pairing in [Pairing::Interleaved, Pairing::Half] {
        let plan = rope(pairing)?.plan_rotation(&context, DType::F32, len)?;
        rotations.push((plan.bind(q.view())?, plan.bind(k.view())?, plan));
    }
    let in_place = [
        ("RoPE in place, interleaved: q, k, attention", &rotations[0], true),
        ("… k alone", &rotations[0], false),
        ("RoPE in place, half: q, k, attention", &rotations[1], true),
        ("… k alone", &rotations[1], false),
    ];
    let mut works: Vec<Work<'_>> = Vec::new();
    for (plan, bound) in &plans {
        works.push(Box::new(move |encoder| Ok(plan.encode(encoder, bound, &Call::lengths(len, len))?)));
    }
    for &(_, (q, k, rotation), whole) in &in_place {
        let (plan, bound) = &plans[0];
        works.push(Box::new(move |encoder| {
            let all = [Rows::new(0, 0..len)];
            rotation.encode(encoder, k, &all)?;
            if whole {
                rotation.encode(encoder, q, &all)?;
                plan.encode(encoder, bound, &Call::lengths(len, len))?;
            }
            Ok(())
        }));
    }
    // Each way in turn with none: a round of all would be long enough for the machine to change its
    // pace.
    let mut pairs = Vec::new();
    for work in works {
        let (plan, bound) = &plans[0];
        let none: Work<'_> =
            Box::new(move |encoder| Ok(plan.encode(encoder, bound, &Call::lengths(len, len))?));
        pairs.push(interleave(&context, rounds, &mut [none, work])?);
    }
    let kernel = |plan: &prflash::Plan| plan.kernel().to_string().replace("attention_", "");
    let fused = ways.iter().zip(&plans).map(|((name, _), (plan, _))| (*name, kernel(plan)));
    let in_place = in_place.iter().map(|&(name, _, whole)| {
        let after = if whole { format!(", {}", kernel(&plans[0].0)) } else { String::new() };
        (name, format!("rotate{after}"))
    });
    let rows: Vec<_> = fused.chain(in_place).zip(&pairs).collect();
    if arguments.json {
        let row = |((name, kernel), pair): &((&str, String), &Vec<Vec<f64>>)| json!({ "name": name, "kernel": kernel, "seconds": median(&pair[1]), "ratio": median_ratio(&pair[1], &pair[0]), "rounds": rounds });
        let rows: Vec<_> = rows.iter().map(row).collect();
        let capabilities = context.capabilities();
        let object = json!({
            "adapter": capabilities.adapter, "driver": capabilities.driver, "len": len, "head_dim": dim, "rows": rows,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    println!("{}\n\ncausal, dense, f32, H = 8, KV heads = 2, N = {len}, D = {dim}\n", context.capabilities());
    println!("| positions | kernel | wall ms | / none |\n| --- | --- | --- | --- |");
    for ((name, kernel), pair) in rows {
        let ratio = median_ratio(&pair[1], &pair[0]);
        println!("| {name} | {kernel} | {} | {ratio:.3} |", milliseconds(&pair[1]));
    }
    Ok(())
}
