//! `lab generate`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use lab::Interrupted;
use lab::attend::Rungs;
use lab::backend::Loaded;
use lab::generate::{Options, generate};
use lab::setting::{Setting, SettingArgs};
use prflash::cache::Side;
use serde_json::json;

use super::{Common, bar, bytes, check_stop, compression, load, note_context, read_text, shown_prompt};

/// What a bar says while tokens are written that aren't shown.
const WRITING: &str = "writing";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// The text to continue; control tokens like <|im_start|> in it are taken for what they are
    #[arg(long, required_unless_present = "prompt_file", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A UTF-8 file with the text to continue
    #[arg(long)]
    prompt_file: Option<PathBuf>,
    /// How many new tokens are written at most
    #[arg(long, default_value_t = 64)]
    max_new: usize,
    /// 0 takes the likeliest token, above 0 draws
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Seed of those draws (--seed is that of the schedules)
    #[arg(long, default_value_t = 0)]
    token_seed: u64,
    #[command(flatten)]
    setting: SettingArgs,
}

/// Continues the prompt.
///
/// # Errors
/// Options, files and devices that don't do, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let common = &arguments.common;
    let prompt = match (&arguments.prompt, &arguments.prompt_file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(path)) => read_text("--prompt-file", path)?,
        (None, None) => bail!("--prompt: nothing to continue"),
    };
    if !(arguments.temperature >= 0.0 && arguments.temperature.is_finite()) {
        bail!("--temperature: expected a finite number from 0, got {}", arguments.temperature);
    }
    let backend = common.computing.backend.open()?;
    let Loaded { file, mut tokenizer, model } = load(&common.model)?;
    let setting = Setting::new(&arguments.setting, model.config())?;
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    ids.extend(tokenizer.encode(&prompt, true)?);
    let tokenizer = tokenizer;
    let max_tokens = ids.len() + arguments.max_new;
    note_context(model.config(), max_tokens);
    let mut attention = backend.attention(model.config(), &setting, max_tokens, common.computing.chunk())?;
    let options = Options {
        max_new: arguments.max_new,
        pieces: setting.pieces(ids.len(), common.computing.chunk()),
        temperature: arguments.temperature,
        seed: arguments.token_seed,
    };
    let bar = bar(ids.len() as u64, "reading the prompt");
    let (mut text, mut stream) = (String::new(), tokenizer.stream());
    // So that a token's space and spelling come out as in the middle of a text.
    for &id in &ids {
        stream(id)?;
    }
    let shown = !common.computing.json;
    let result = generate(
        &model,
        &tokenizer,
        attention.as_mut(),
        &ids,
        &options,
        &mut |read| {
            bar.set_position(read as u64);
            check_stop()
        },
        &mut |id| {
            if shown && !bar.is_finished() {
                bar.finish_and_clear();
                print!("{}", shown_prompt(&prompt));
            }
            let piece = stream(id)?;
            if !shown {
                if bar.message() != WRITING {
                    bar.set_message(WRITING);
                    bar.set_length(arguments.max_new as u64);
                    bar.set_position(0);
                }
                bar.inc(1);
            }
            if shown {
                print!("{piece}");
                std::io::stdout().flush()?;
            }
            text.push_str(&piece);
            Ok(())
        },
    )?;
    bar.finish_and_clear();
    let generated = result.tokens.len();
    let decoded = result.prompt_tokens + generated.saturating_sub(1);
    let (blocks, dense_blocks) = result.usage.blocks_per_token(result.prompt_tokens.min(decoded)..decoded);
    let rate = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    let prefill = rate(result.prompt_tokens, result.prefill_seconds);
    // The first token comes out of reading the prompt.
    let decode = rate(generated.saturating_sub(1), result.decode_seconds);
    if common.computing.json {
        let object = json!({
            "model": file.name(),
            "setting": setting.describe(),
            "backend": backend.name(),
            "adapter": backend.adapter(),
            "driver": backend.driver(),
            "prompt_tokens": result.prompt_tokens,
            "new_tokens": generated,
            "ids": result.tokens,
            "text": text,
            "prefill_tokens_per_second": prefill,
            "decode_tokens_per_second": decode,
            "kv_bytes": result.usage.kv_bytes,
            "kv_capacity_bytes": result.usage.kv_capacity_bytes,
            "kv_f16_bytes": result.usage.kv_f16_bytes,
            "staircase": result.usage.rungs,
            "blocks_per_token": blocks,
            "dense_blocks_per_token": dense_blocks,
            "interrupted": result.interrupted,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        println!("\n");
        println!("Setting  {}", setting.describe());
        println!("Device   {}", backend.device());
        println!(
            "Tokens   {} read at {prefill:.1}/s, {generated} written at {decode:.2}/s",
            result.prompt_tokens
        );
        println!(
            "Memory   {} of keys and values ({} reserved), {}",
            bytes(result.usage.kv_bytes),
            bytes(result.usage.kv_capacity_bytes),
            compression(result.usage.kv_f16_bytes, result.usage.kv_bytes)
        );
        if let Some(rungs) = &result.usage.rungs {
            print_rungs(&setting, rungs);
        }
        println!("Blocks   {blocks:.2} of {dense_blocks:.2} visited per written token and head");
    }
    if result.interrupted { Err(Interrupted.into()) } else { Ok(()) }
}

/// A line for each side and each kind of copies, and one for their sum.
fn print_rungs(setting: &Setting, rungs: &Rungs) {
    let Some(staircase) = setting.any_staircase() else { return };
    for (name, side, held) in [("keys", Side::Keys, &rungs.keys), ("values", Side::Values, &rungs.values)] {
        let widths = staircase.ladder(side).rungs().iter().map(|rung| rung.bits);
        let held = widths.zip(held).map(|(bits, &held)| format!("{} at {bits} bits", bytes(held)));
        println!("  {name:<6} {}", held.collect::<Vec<_>>().join(", "));
    }
    println!("  f16    {} of newest tokens, {} of sinks", bytes(rungs.residual), bytes(rungs.sinks));
    println!(
        "  stairs {} ({} by the formula, {} reserved), {}",
        bytes(rungs.live),
        bytes(rungs.formula),
        bytes(rungs.capacity),
        compression(rungs.f16, rungs.live)
    );
}
