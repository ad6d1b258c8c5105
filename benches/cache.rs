//! What appending to the staircase cache costs on this device: prompts, single tokens, and stepping
//! down.
//!
//! Ways run in turn, round after round; medians over rounds with the range. A prompt goes into an
//! empty sequence, whose memory is there already; a step of decode appends one token to each
//! sequence, one submit a step, and a round of as many steps as a segment has tokens takes every
//! kind of work in. Stepping down is what a chunk takes longer where as many segments as it has
//! step from 8 to 4 bits, than where they stay.
//!
//! ```text
//! scripts/with-vulkan cargo bench --bench cache
//! ```

mod support;

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::cache::{Chunk, KvCache, KvInput, Ladder, PackLayout, SequenceId, Side, Staircase, StoredKeys};
use prflash::{Context, DType, Layout, Shape, Tensor};
use serde_json::json;
use support::milliseconds;
use testkit::statistics::{median, range};

/// Times appends to the cache.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 2048)]
    tokens: usize,
    /// Key/value heads.
    #[arg(long, default_value_t = 8)]
    kv_heads: usize,
    /// Channels of a head, a multiple of 4.
    #[arg(long, default_value_t = 128)]
    dim: usize,
    /// Rounds.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Sequences that single tokens go to.
const BATCHES: [usize; 2] = [1, 8];

/// One cache with what is appended to it.
struct Way {
    name: String,
    cache: KvCache,
    input: KvInput,
    sequences: Vec<SequenceId>,
    tokens: usize,
    steps: usize,
    seconds: Vec<f64>,
    /// Tokens of a round, and bytes that it writes.
    counted: (usize, u64),
}

impl Way {
    /// Seconds of a round.
    fn round(&mut self, context: &Context) -> Result<f64> {
        if self.steps == 1 {
            for sequence in &mut self.sequences {
                self.cache.remove(*sequence)?;
                *sequence = self.cache.add();
            }
        }
        let chunks: Vec<Chunk> = (0..)
            .zip(&self.sequences)
            .map(|(batch, &id)| Chunk { sequence: id, entry: batch, rows: 0..self.tokens })
            .collect();
        let started = Instant::now();
        for _ in 0..self.steps {
            let mut encoder = context.device().create_command_encoder(&Default::default());
            self.cache.append(&mut encoder, &self.input, &chunks)?;
            context.queue().submit([encoder.finish()]);
        }
        context.wait()?;
        Ok(started.elapsed().as_secs_f64())
    }
}

/// Bytes that a token is written as, over its time: once as a row, and once on each rung.
fn bytes_per_token(staircase: &Staircase, shape: &Shape) -> Result<u64> {
    let mut bytes = 0.0;
    for (side, dim) in [(Side::Keys, shape.head_dim()), (Side::Values, shape.value_dim())] {
        bytes += 2.0 * dim.next_multiple_of(32) as f64;
        for rung in staircase.ladder(side).rungs() {
            let words = PackLayout::new(staircase, side, rung.bits, dim)?.words();
            bytes += 4.0 * words as f64 / staircase.segment() as f64;
        }
    }
    Ok((shape.kv_heads() as f64 * bytes) as u64)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context =
        Context::new_blocking().context("a bench needs an adapter: scripts/with-vulkan brings one")?;
    let Arguments { tokens, kv_heads, dim, .. } = arguments;
    let rounds = arguments.rounds.max(1);
    let eight_four = |dwell| Ladder::new(&[(8, dwell)], 4);
    let all_step = (tokens / 128).max(1);
    let presets = [
        ("plain", Staircase::plain()),
        ("recommended", Staircase::recommended()),
        ("recommended, rotated", Staircase::recommended_rotated()),
        ("paper", Staircase::paper()),
        ("kivi 4", Staircase::kivi(4)?),
    ];
    let tensor = |batch: usize, rows: usize| -> Result<Tensor> {
        let layout = Layout::heads_first(batch, kv_heads, rows, dim)?;
        let values: Vec<f32> =
            (0..layout.elements()).map(|i| ((i * 7919) % 997) as f32 / 498.5 - 1.0).collect();
        Ok(Tensor::upload(&context, DType::F32, layout, &values)?)
    };
    let (prompt, tokens_of_all) = (tensor(1, tokens)?, tensor(BATCHES[1], 1)?);
    let way =
        |name: String, staircase: &Staircase, batch: usize, prompted: bool, older: usize| -> Result<Way> {
            let steps = if prompted { 1 } else { staircase.segment() };
            let most = older + tokens * (2 + rounds) + steps * (2 + rounds);
            let shape = Shape::new(kv_heads, kv_heads, most, dim)?;
            let mut cache = KvCache::new(&context, staircase.clone(), &shape, StoredKeys::AfterRotation)?;
            let sequences: Vec<SequenceId> = (0..batch).map(|_| cache.add()).collect();
            let mut encoder = context.device().create_command_encoder(&Default::default());
            let from_prompt = cache.input(prompt.view(), prompt.view())?;
            for &id in &sequences {
                cache.reserve(&mut encoder, id, if prompted && older == 0 { tokens } else { most })?;
                for _ in 0..older.div_ceil(tokens) {
                    cache.append(
                        &mut encoder,
                        &from_prompt,
                        &[Chunk { sequence: id, entry: 0, rows: 0..tokens }],
                    )?;
                }
            }
            context.queue().submit([encoder.finish()]);
            context.wait()?;
            let input = if prompted {
                from_prompt
            } else {
                cache.input(tokens_of_all.view(), tokens_of_all.view())?
            };
            let written = match prompted {
                true => staircase.standing(tokens).memory(&shape).total(),
                false => bytes_per_token(staircase, &shape)? * (steps * batch) as u64,
            };
            let count = if prompted { tokens } else { 1 };
            Ok(Way {
                name,
                cache,
                input,
                sequences,
                tokens: count,
                steps,
                seconds: Vec::new(),
                counted: (count * steps * batch, written),
            })
        };
    let mut ways = Vec::new();
    for (name, staircase) in &presets {
        ways.push(way(format!("{name}: prompt of {tokens}"), staircase, 1, true, 0)?);
        for batch in BATCHES {
            ways.push(way(format!("{name}: 1 token of {batch}"), staircase, batch, false, tokens)?);
        }
    }
    // Never emptied: every round appends as many tokens to what is there.
    let mut stepping = Vec::new();
    for (name, ladder) in
        [("stay at 8 bits", Ladder::new(&[], 8)?), ("step from 8 to 4 bits", eight_four(all_step)?)]
    {
        let staircase = Staircase::new(ladder.clone(), ladder)?;
        let mut way = way(format!("{tokens} more, and as many {name}"), &staircase, 1, true, 2 * tokens)?;
        way.counted.1 = 0;
        stepping.push(way);
    }
    for round in 0..=rounds {
        for way in ways.iter_mut() {
            let seconds = way.round(&context)?;
            if round > 0 {
                way.seconds.push(seconds);
            }
        }
        for way in stepping.iter_mut() {
            let chunk = [Chunk { sequence: way.sequences[0], entry: 0, rows: 0..way.tokens }];
            let started = Instant::now();
            let mut encoder = context.device().create_command_encoder(&Default::default());
            way.cache.append(&mut encoder, &way.input, &chunk)?;
            context.queue().submit([encoder.finish()]);
            context.wait()?;
            if round > 0 {
                way.seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    let differences: Vec<f64> =
        stepping[1].seconds.iter().zip(&stepping[0].seconds).map(|(a, b)| a - b).collect();
    let stepped = (tokens as f64 / median(&differences).max(1e-9), range(&differences));
    let rate = |way: &Way| way.counted.0 as f64 / median(&way.seconds);
    let written = |way: &Way| way.counted.1 as f64 / median(&way.seconds) / 1e9;
    if arguments.json {
        let row = |way: &Way| {
            json!({
                "name": way.name, "seconds": median(&way.seconds) / way.steps as f64, "tokens_per_second": rate(way),
                "gigabytes_written_per_second": written(way), "capacity_bytes": way.cache.capacity_bytes(), "rounds": rounds,
            })
        };
        let rows: Vec<_> = ways.iter().chain(&stepping).map(row).collect();
        let capabilities = context.capabilities();
        let object = json!({
            "adapter": capabilities.adapter, "driver": capabilities.driver, "kv_heads": kv_heads, "dim": dim,
            "rows": rows, "stepped_tokens_per_second": stepped.0,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    println!("{}\n\nf32 input, KV heads = {kv_heads}, D = {dim}\n", context.capabilities());
    println!("| append | ms a call: median (range) | tokens/s | GB/s written |\n| --- | --- | --- | --- |");
    for way in &ways {
        let calls: Vec<f64> = way.seconds.iter().map(|seconds| seconds / way.steps as f64).collect();
        let time = if way.steps == 1 {
            milliseconds(&calls)
        } else {
            let (least, most) = range(&calls);
            format!("{:.3} ({:.3} to {:.3})", median(&calls) * 1e3, least * 1e3, most * 1e3)
        };
        println!("| {} | {time} | {:.0} | {:.2} |", way.name, rate(way), written(way));
    }
    for way in &stepping {
        println!("| {} | {} | {:.0} | |", way.name, milliseconds(&way.seconds), rate(way));
    }
    let (rate, (least, most)) = stepped;
    println!(
        "\nstep_down alone: {rate:.0} tokens/s, keys and values ({:.1} to {:.1} ms for {tokens})",
        least * 1e3,
        most * 1e3
    );
    Ok(())
}
