//! The command line: `lab generate` and `lab perplexity`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use lab::Interrupted;
use lab::attend::{Attend, Rungs};
use lab::config::Config;
use lab::cpu::CpuAttention;
use lab::generate::{Options, generate};
use lab::gguf::{ModelFile, sha256};
use lab::gpu::GpuAttention;
use lab::model::Model;
use lab::perplexity::{Evaluated, Windows, buckets, evaluate};
use lab::results::{Results, Row, Source, Summary, difference};
use lab::setting::{Setting, SettingArgs};
use lab::tokenizer::Tokenizer;
use prflash::Context;
use prflash::cache::Side;
use serde_json::json;

/// Real language models on prflash.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continues a text.
    Generate(GenerateArgs),
    /// Measures perplexity over windows of one long text, under one or several settings.
    Perplexity(PerplexityArgs),
}

/// Who computes attention.
#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    /// prflash.
    Gpu,
    /// Plain loops in f32: slow, for checks.
    Cpu,
}

#[derive(clap::Args)]
struct Common {
    /// A GGUF file of the architecture llama or gemma3 (scripts/fetch-models brings two)
    #[arg(long)]
    model: PathBuf,
    /// Who computes attention
    #[arg(long, value_enum, default_value = "gpu")]
    backend: Backend,
    /// Tokens read at a time
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct GenerateArgs {
    #[command(flatten)]
    common: Common,
    /// The text to continue; control tokens like <|im_start|> in it are taken for what they are
    #[arg(long, required_unless_present = "prompt_file", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A UTF-8 file with the text to continue
    #[arg(long)]
    prompt_file: Option<PathBuf>,
    /// At most this many new tokens
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

#[derive(clap::Args)]
struct PerplexityArgs {
    #[command(flatten)]
    common: Common,
    /// A UTF-8 text, one long document (scripts/fetch-models brings some)
    #[arg(long)]
    text: PathBuf,
    /// Tokens of a window, the model's BOS included
    #[arg(long, default_value_t = 1024)]
    width: usize,
    /// Windows
    #[arg(long, default_value_t = 6)]
    windows: usize,
    /// The first window's number in the text
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// A named setting of a sweep: 'NAME: --attention prflash --beta 0.5 …'; repeat for more. The first is what the others are compared with
    #[arg(long = "setting", value_name = "NAME: OPTIONS")]
    settings: Vec<String>,
    /// CSV file to which rows are added; what it has already isn't computed again
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    setting: SettingArgs,
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    env_logger::init();
    let arguments = Arguments::parse();
    let handled = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            // Asked twice: whatever is under way is too slow.
            std::process::exit(130);
        }
    });
    let done = handled.context("Ctrl-C can't be handled here").and_then(|()| match arguments.command {
        Command::Generate(arguments) => run_generate(&arguments),
        Command::Perplexity(arguments) => run_perplexity(&arguments),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check_stop() -> Result<()> {
    if STOP.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
}

/// A bar on stderr, if that is a terminal.
fn bar(steps: u64, title: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(steps).with_style(style).with_message(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A model ready to run.
struct Loaded {
    file: ModelFile,
    tokenizer: Tokenizer,
    model: Model,
}

fn load(common: &Common) -> Result<Loaded> {
    let file = ModelFile::open(&common.model)?;
    let bar = bar(0, "loading");
    let tokenizer = Tokenizer::read(&file)?;
    let model = Model::load(&file, |done, layers| {
        bar.set_length(layers as u64);
        bar.set_position(done as u64);
        check_stop()
    })?;
    bar.finish_and_clear();
    Ok(Loaded { file, tokenizer, model })
}

/// The device, opened before anything else takes time; none for the cpu backend.
fn device(backend: Backend) -> Result<Option<Context>> {
    match backend {
        Backend::Cpu => Ok(None),
        Backend::Gpu => {
            let context = Context::new_blocking().map_err(|error| {
                anyhow::anyhow!(
                    "{error} (scripts/with-vulkan COMMAND brings a software device; --backend cpu needs none)"
                )
            })?;
            Ok(Some(context))
        }
    }
}

fn backend(
    device: Option<&Context>,
    config: &Config,
    setting: &Setting,
    max_tokens: usize,
    chunk: u32,
) -> Result<Box<dyn Attend>> {
    Ok(match device {
        Some(context) => Box::new(GpuAttention::new(context, config, setting, max_tokens, chunk as usize)?),
        None => Box::new(CpuAttention::new(config, setting)?),
    })
}

/// Says where a model reads further than it was made for.
fn note_context(config: &Config, tokens: usize) {
    if tokens > config.context {
        eprintln!("note: {tokens} tokens are past the {} that the model was made for", config.context);
    }
}

fn device_name(device: Option<&Context>) -> String {
    device.map_or("cpu".into(), |context| context.capabilities().adapter.clone())
}

fn read_text(option: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{option} {}", path.display()))
}

fn run_generate(arguments: &GenerateArgs) -> Result<()> {
    let common = &arguments.common;
    let prompt = match (&arguments.prompt, &arguments.prompt_file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(path)) => read_text("--prompt-file", path)?,
        (None, None) => bail!("--prompt: nothing to continue"),
    };
    if !(arguments.temperature >= 0.0 && arguments.temperature.is_finite()) {
        bail!("--temperature: expected a finite number from 0, got {}", arguments.temperature);
    }
    let device = device(common.backend)?;
    let Loaded { file, mut tokenizer, model } = load(common)?;
    let setting = Setting::new(&arguments.setting, model.config())?;
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    ids.extend(tokenizer.encode(&prompt, true)?);
    let tokenizer = tokenizer;
    let max_tokens = ids.len() + arguments.max_new;
    note_context(model.config(), max_tokens);
    let mut attention = backend(device.as_ref(), model.config(), &setting, max_tokens, common.chunk)?;
    let options = Options {
        max_new: arguments.max_new,
        pieces: setting.pieces(ids.len(), common.chunk as usize),
        temperature: arguments.temperature,
        seed: arguments.token_seed,
    };
    let bar = bar(ids.len() as u64, "reading the prompt");
    let (mut text, mut stream) = (String::new(), tokenizer.stream());
    // So that a token's space and spelling come out as in the middle of a text.
    for &id in &ids {
        stream(id)?;
    }
    let shown = !common.json;
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
                print!("{prompt}");
            }
            let piece = stream(id)?;
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
    if common.json {
        let object = json!({
            "model": file.name(),
            "setting": setting.describe(),
            "device": device_name(device.as_ref()),
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
        println!("Device   {}", device_name(device.as_ref()));
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

fn bytes(count: u64) -> String {
    format!("{:.2} MB", count as f64 / 1e6)
}

fn compression(f16: u64, held: u64) -> String {
    let (f16, held) = (f16 as f64, held as f64);
    match held {
        0.0 => "nothing yet".into(),
        _ if held <= f16 => format!("{:.2} times smaller than f16", f16 / held),
        _ => format!("{:.2} times larger than f16", held / f16),
    }
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

/// One setting of a sweep.
struct Named {
    name: String,
    setting: Setting,
}

/// The options of a `--setting`.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct SettingLine {
    #[command(flatten)]
    setting: SettingArgs,
}

fn settings(arguments: &PerplexityArgs, config: &Config) -> Result<Vec<Named>> {
    if arguments.settings.is_empty() {
        let setting = Setting::new(&arguments.setting, config)?;
        return Ok(vec![Named { name: setting.values()[0].clone(), setting }]);
    }
    if arguments.setting != SettingArgs::default() {
        bail!("--setting: options of the attention belong into it, where several settings are run");
    }
    let mut all: Vec<Named> = Vec::new();
    for line in &arguments.settings {
        let parse = || -> Result<Named> {
            let (name, options) = line.split_once(':').context("expected 'NAME: OPTIONS'")?;
            let parsed = SettingLine::try_parse_from(options.split_whitespace())
                .map_err(|error| anyhow::anyhow!("{}", error.render().to_string().trim_end()))?;
            Ok(Named { name: name.trim().to_owned(), setting: Setting::new(&parsed.setting, config)? })
        };
        let named = parse().with_context(|| format!("--setting {line:?}"))?;
        if all.iter().any(|other| other.name == named.name) {
            bail!("--setting {line:?}: another one has this name");
        }
        all.push(named);
    }
    Ok(all)
}

fn run_perplexity(arguments: &PerplexityArgs) -> Result<()> {
    let common = &arguments.common;
    let text = read_text("--text", &arguments.text)?;
    let device = device(common.backend)?;
    let Loaded { file, mut tokenizer, model } = load(common)?;
    let settings = settings(arguments, model.config())?;
    let windows = Windows::new(tokenizer.encode(&text, false)?, &tokenizer, arguments.width)?;
    let end = arguments.first + arguments.windows;
    if arguments.windows == 0 || end > windows.count() {
        bail!(
            "--windows: the text has {} windows of {} tokens, window {end} was asked for",
            windows.count(),
            windows.width()
        );
    }
    note_context(model.config(), windows.width());
    let source = Source {
        model: file.name(),
        model_sha256: file.sha256()?,
        backend: if device.is_some() { "gpu".into() } else { "cpu".into() },
        device: device_name(device.as_ref()),
        text: arguments.text.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        text_sha256: sha256(text.as_bytes()),
        width: windows.width(),
        revision: env!("LAB_REVISION").into(),
    };
    let mut results = match &arguments.out {
        Some(path) => Results::open(path)?,
        None => Results::in_memory(),
    };
    let missing = |results: &Results, setting: &Setting| {
        let done = |window: &usize| !results.find(setting, &source, *window).is_empty();
        (arguments.first..end).filter(|window| !done(window)).collect::<Vec<_>>()
    };
    let pieces = |setting: &Setting| setting.pieces(windows.width(), common.chunk as usize);
    let steps = |named: &Named| missing(&results, &named.setting).len() * pieces(&named.setting).len();
    let total: usize = settings.iter().map(steps).sum();
    let bar = bar((total * model.config().layers) as u64, "windows");
    for named in &settings {
        let missing = missing(&results, &named.setting);
        if missing.is_empty() {
            continue;
        }
        bar.set_message(named.name.clone());
        let mut attention =
            backend(device.as_ref(), model.config(), &named.setting, windows.width(), common.chunk)?;
        let pieces = pieces(&named.setting);
        for window in missing {
            let Evaluated { buckets: sums, seconds, usage } =
                evaluate(&model, &tokenizer, attention.as_mut(), &windows, window, &pieces, &mut |_| {
                    bar.inc(1);
                    check_stop()
                })?;
            let row = |bucket| Row {
                name: named.name.clone(),
                setting: named.setting.values().to_vec(),
                source: source.clone(),
                window,
                bucket,
                seconds,
                kv_bytes: [usage.kv_bytes, usage.kv_capacity_bytes, usage.kv_f16_bytes],
            };
            let rows: Vec<Row> = sums.into_iter().map(row).collect();
            if !std::io::stderr().is_terminal() {
                let all = Summary::of(0..windows.width(), rows.iter());
                eprintln!(
                    "{}, window {window}: perplexity {:.3} in {seconds:.1} s",
                    named.name, all.perplexity
                );
            }
            results.append(rows)?;
        }
    }
    bar.finish_and_clear();
    report(arguments, &source, &settings, &results)
}

/// Sums of the windows that were asked for.
fn report(arguments: &PerplexityArgs, source: &Source, settings: &[Named], results: &Results) -> Result<()> {
    let buckets = buckets(source.width);
    let range = arguments.first..arguments.first + arguments.windows;
    let rows = |named: &Named| -> Vec<&Row> {
        range.clone().flat_map(|window| results.find(&named.setting, source, window)).collect()
    };
    let baseline = settings.first().map(rows).unwrap_or_default();
    let mut objects = Vec::new();
    for named in settings {
        let rows = rows(named);
        let whole = Summary::of(0..source.width, rows.iter().copied());
        let parts: Vec<Summary> =
            buckets.iter().map(|bucket| Summary::of(bucket.clone(), rows.iter().copied())).collect();
        let (nats, error) = difference(rows.iter().copied(), baseline.iter().copied());
        let mut seconds: Vec<f64> = rows.iter().step_by(buckets.len()).map(|row| row.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let speed = source.width as f64 / seconds[seconds.len() / 2];
        objects.push(json!({
            "name": named.name,
            "setting": named.setting.describe(),
            "windows": arguments.windows,
            "total": whole,
            "buckets": parts,
            "nats_over_first": nats,
            "standard_error": error,
            "tokens_per_second": speed,
        }));
        if arguments.common.json {
            continue;
        }
        println!("{}  ({})", named.name, named.setting.describe());
        println!("  positions      perplexity  bits/byte  blocks/token  dense");
        for part in parts.iter().chain([&whole]) {
            let (start, end) = part.positions;
            println!(
                "  {:<14} {:>10.3}  {:>9.4}  {:>12.2}  {:>5.2}",
                format!("{start}..{end}"),
                part.perplexity,
                part.bits_per_byte,
                part.blocks,
                part.dense_blocks
            );
        }
        let error = error.map_or(String::new(), |error| format!(" ± {error:.5}"));
        println!("  {nats:+.5}{error} nats a token over the first setting, {speed:.1} tokens/s");
        println!(
            "  {} of keys and values in the end, {}\n",
            bytes(whole.kv_bytes as u64),
            compression(whole.kv_f16_bytes as u64, whole.kv_bytes as u64)
        );
    }
    if arguments.common.json {
        let object = json!({
            "model": source.model,
            "model_sha256": source.model_sha256,
            "text": source.text,
            "width": source.width,
            "device": source.device,
            "revision": source.revision,
            "settings": objects,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    }
    Ok(())
}
