//! The backward pass beside the forward pass, dense and sampled: wall time from submission to
//! completion, in turn, as ratios.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench backward
//! scripts/with-vulkan cargo bench --bench backward -- 8192 64    # tokens, head dimension
//! ```

mod support;

use anyhow::{Context as _, Result};
use prflash::attention::BackwardOperands;
use prflash::sampling::Granularity;
use prflash::wgpu::CommandEncoder;
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Schedule, Seed, Shape, Systematic,
    TableBuffer, Tables, Tensor,
};
use support::{Work, interleave, milliseconds, tensor};
use testkit::statistics::median;

const ROUNDS: usize = 7;
/// Key blocks of 64 tokens that a query block keeps; dense attention has 32.5 at 4,096 tokens.
const BUDGETS: [f64; 2] = [8.0, 4.0];

fn main() -> Result<()> {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let context = Context::new_blocking().context("the backward bench needs a device")?;
    println!("device: {}", context.capabilities());
    match given[..] {
        [len, dim] => measure(&context, len, dim),
        _ => [(1024, 64), (4096, 64), (1024, 128)].into_iter().try_for_each(|(n, d)| measure(&context, n, d)),
    }
}

fn measure(context: &Context, len: usize, dim: usize) -> Result<()> {
    let shape = Shape::new(8, 2, len, dim)?;
    let attention = Attention::causal().with_lse(true);
    let (plan, backward) = (attention.plan(context, &shape)?, attention.plan_backward(context, &shape)?);
    let of = |heads| tensor(context, heads, len, dim);
    let (q, k, v, output, d_output) = (of(8)?, of(2)?, of(2)?, of(8)?, of(8)?);
    let (dq, dk, dv) = (of(8)?, of(2)?, of(2)?);
    let lse = Tensor::zeros(context, DType::F32, Layout::rows(1, 8, len)?)?;
    let (q, k, v, output, lse) = (q.view(), k.view(), v.view(), output.view(), lse.view());
    let forward_bound = plan.bind(&Operands { q, k, v, output, lse: Some(lse) })?;
    let bound = backward.bind(&BackwardOperands {
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
    })?;
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
    let seconds = interleave(context, ROUNDS, &mut works)?;
    println!("causal, H 8, KV 2, N {len}, D {dim}, f32:");
    println!("  forward {} ms", milliseconds(&seconds[0]));
    let (forward, dense) = (median(&seconds[0]), median(&seconds[1]));
    println!("  backward {} ms, {:.2} × forward", milliseconds(&seconds[1]), dense / forward);
    for ((density, _), seconds) in sampled.iter().zip(&seconds[2..]) {
        let share = median(seconds) / dense;
        println!("  density {density:.3}: {} ms, {share:.3} × dense", milliseconds(seconds));
    }
    Ok(())
}
