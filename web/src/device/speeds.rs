//! How fast some calls are.

use std::time::Duration;

use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Result, Schedule, Seed, Shape,
    Systematic, TableBuffer, Tables, Tensor,
};
use serde_json::{Value, json};

pub(super) const NAMES: [&str; COUNT] = [
    "1,024 tokens, 8 / 2 heads, D = 64, f32",
    "1,024 tokens, 8 / 2 heads, D = 64, f16",
    "1,024 tokens, 8 / 2 heads, D = 64, f32, blocks drawn by 1/(1+d)",
    "1 query over 8,192 tokens, 32 / 8 heads, D = 128, f32",
];
pub(super) const COUNT: usize = 4;

/// Rounds, of which the median counts; one where that takes longer than [`LONG`].
const ROUNDS: usize = 3;

/// What a call takes on a GPU in software, where the check would take minutes.
const LONG: Duration = Duration::from_millis(250);

pub(super) async fn run(context: &Context, number: usize) -> Result<Value> {
    let shape = match number {
        3 => Shape::new(32, 8, 8192, 128)?.with_q_len(1)?,
        _ => Shape::new(8, 2, 1024, 64)?,
    };
    let attention = Attention::causal().with_storage(if number == 1 { DType::F16 } else { DType::F32 });
    let schedule = match number {
        2 => Some(Schedule::sample(
            &BlockGrid::causal(&shape),
            &Profile::harmonic(),
            &Systematic,
            Seed::new(42),
        )?),
        _ => None,
    };
    let tensor = |heads, len, seed| {
        let layout = Layout::heads_first(1, heads, len, shape.head_dim())?;
        Tensor::upload(context, attention.storage(), layout, &super::checks::numbers(seed, layout.elements()))
    };
    let (q, output) = (
        tensor(shape.heads(), shape.q_len(), 1)?,
        Tensor::zeros(
            context,
            DType::F32,
            Layout::heads_first(1, shape.heads(), shape.q_len(), shape.head_dim())?,
        )?,
    );
    let (k, v) = (tensor(shape.kv_heads(), shape.kv_len(), 2)?, tensor(shape.kv_heads(), shape.kv_len(), 3)?);
    let plan = attention.plan(context, &shape)?;
    plan.prepare(|_| {}).await?;
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let bound = plan.bind(&operands)?;
    let tables =
        schedule.as_ref().map(|schedule| TableBuffer::new(context, &Tables::from(schedule))).transpose()?;
    let mut call = Call::lengths(shape.q_len(), shape.kv_len());
    if let Some(tables) = &tables {
        call = call.with_tables(tables);
    }
    let (mut timings, mut rounds) = (plan.timings_async(&bound, &call, 1).await?, 1);
    if timings.median_wall() <= LONG {
        (timings, rounds) = (plan.timings_async(&bound, &call, ROUNDS).await?, ROUNDS);
    }
    let seconds = timings.median_wall().as_secs_f64();
    let flops = shape.dense_flops(true) * schedule.as_ref().map_or(1.0, Schedule::density);
    Ok(json!({
        "call": NAMES[number],
        "kernel": plan.kernel().to_string(),
        "wall_ms": 1e3 * seconds,
        "gpu_ms": timings.median_gpu().map(|time| 1e3 * time.as_secs_f64()),
        "rounds": rounds,
        "gflops": flops / seconds / 1e9,
    }))
}
