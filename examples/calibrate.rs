//! Fits a profile to every head on one half of a real model's text and measures it on the other
//! half. Host only.
//!
//! ```text
//! cargo run --release --features serde --example calibrate
//! ```

use anyhow::Result;
use clap::Parser;
use prflash::calibration::{BlockStates, Calibration, HeadErrors, Options};
use prflash::{Attention, BlockGrid, Seed, Shape};
use serde_json::json;
use testkit::example::{self, Progress};
use testkit::fixture;

/// Calibrates on the first half of the tokens, evaluates on the second.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    /// Tokens of context, at most 3840.
    #[arg(long, default_value_t = 3840, default_value_if("quick", "true", "1024"), value_parser = clap::value_parser!(u16).range(256..=3840))]
    tokens: u16,
    /// Expected blocks of a row.
    #[arg(long, default_value_t = 6.0, default_value_if("quick", "true", "4"))]
    blocks: f64,
    /// Schedules to average over.
    #[arg(long, default_value_t = 8, default_value_if("quick", "true", "2"), value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
}

/// Queries measured in every query block.
const ROWS_PER_BLOCK: usize = 8;

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let tokens = usize::from(arguments.tokens);
    let folder = arguments.common.folder("calibrate", usual)?;
    let options = Options::new(arguments.blocks)?.with_seeds(arguments.seeds)?;
    let (mut rows, mut files) = (Vec::new(), Vec::new());
    for layer in fixture::load(tokens)? {
        let mut progress = Progress::new();
        progress.tell(format!("Layer {}: calibrating on the first half …", layer.index));
        // The first half, and then the queries of the second half over all keys.
        let half = tokens / 2;
        let states = |queries: std::ops::Range<usize>| {
            let (heads, kv_heads, dim) =
                (layer.shape.heads(), layer.shape.kv_heads(), layer.shape.head_dim());
            let part = |values: &[f32], range: std::ops::Range<usize>| -> Vec<f32> {
                let of_head = |head: &[f32]| head[range.start * dim..range.end * dim].to_vec();
                values.chunks_exact(tokens * dim).flat_map(of_head).collect()
            };
            let keys = 0..queries.end;
            let shape = Shape::new(heads, kv_heads, queries.len(), dim)?.with_kv_len(keys.len())?;
            let (q, k, v) = (part(&layer.q, queries), part(&layer.k, keys.clone()), part(&layer.v, keys));
            let grid = BlockGrid::causal(&shape);
            BlockStates::new(&Attention::causal(), &shape, &q, &k, &v, &grid, ROWS_PER_BLOCK)
        };
        let calibration = states(0..half)?.calibrate(&options)?;
        progress.done(format!("Layer {}, calibrated", layer.index));
        let mut progress = Progress::new();
        progress.tell(format!("Layer {}: measuring on the second half …", layer.index));
        let fresh = options.clone().with_seed(Seed::new(1));
        let held_out = states(half..tokens)?.errors(&calibration, &fresh)?;
        progress.done(format!("Layer {}, measured", layer.index));

        let path = folder.join(format!("layer{}.json", layer.index));
        std::fs::write(&path, serde_json::to_string_pretty(&calibration)?)?;
        // What was stored is what makes schedules.
        let stored: Calibration = serde_json::from_slice(&std::fs::read(&path)?)?;
        anyhow::ensure!(stored == calibration, "{} holds something else", path.display());
        files.push(path);
        for (head, (chosen, held_out)) in calibration.heads.into_iter().zip(held_out).enumerate() {
            rows.push((layer.index, head, chosen, held_out));
        }
    }
    if arguments.common.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(layer, head, chosen, held_out)| {
                json!({
                    "layer": layer, "head": head, "window_blocks": chosen.window_blocks, "alpha": chosen.alpha,
                    "beta": chosen.beta, "calibration": chosen.errors, "held_out": held_out,
                })
            })
            .collect();
        let fields = json!({
            "tokens": tokens, "blocks": arguments.blocks, "seeds": arguments.seeds, "rows": rows, "files": files,
        });
        println!("{}", example::object("calibrate", None, &[], fields)?);
        return Ok(());
    }
    println!(
        "{tokens} tokens, {} blocks a row, {} seeds; relative output error ‖o − o*‖ / ‖o*‖\n",
        arguments.blocks, arguments.seeds
    );
    println!(
        "layer head  part         window alpha  β     chosen  default  sink + window  uniform  by variance (β)  top-k"
    );
    for (layer, head, chosen, held_out) in &rows {
        let line = |part: &str, errors: &HeadErrors| {
            println!(
                "{layer:>5} {head:>4}  {part:<11} {:>7} {:>5}  {:<4}  {:.4}  {:.4}   {:.4}       {:.4}   {:.4} ({:<4})    {:.4}",
                chosen.window_blocks,
                chosen.alpha,
                chosen.beta,
                errors.calibrated,
                errors.default,
                errors.sink_window,
                errors.uniform,
                errors.variance_optimal,
                errors.variance_optimal_beta,
                errors.top_k
            );
        };
        if let Some(errors) = &chosen.errors {
            line("calibration", errors);
        }
        line("held out", held_out);
    }
    println!(
        "\ncalibration: queries and keys of the first half, under the seeds of the choice; held out: queries of the second half over all keys, other seeds."
    );
    println!(
        "by variance: the variance-optimal allocation by distance for these very rows; top-k: the heaviest blocks by true mass (no sampler can know them)."
    );
    println!("\nStored in {}", folder.display());
    Ok(())
}
