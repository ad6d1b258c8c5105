//! `lab perplexity`.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use lab::backend::Backend;
use lab::config::Config;
use lab::gguf::sha256;
use lab::perplexity::{Windows, buckets};
use lab::results::{InWindow, Results, Row, Source, Summary, differences, mean_and_error};
use lab::setting::{Setting, SettingArgs};
use lab::sweep::{Named, window_rows};
use serde_json::json;

use super::{Common, REVISION, bar, bytes, check_stop, compression, load, note_context, read_text};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// A UTF-8 text, one long document (scripts/fetch-models brings some)
    #[arg(long)]
    text: PathBuf,
    /// How many tokens a window has, the model's BOS included
    #[arg(long, default_value_t = 1024)]
    width: usize,
    /// How many windows are read
    #[arg(long, default_value_t = 6)]
    windows: usize,
    /// The number of the first window in the text
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// A named setting of a sweep: 'NAME: --attention prflash --beta 0.5 …'; repeat for more. The
    /// first is what the others are compared with
    #[arg(long = "setting", value_name = "NAME: OPTIONS")]
    settings: Vec<String>,
    /// CSV file to which rows are added; what it has already isn't computed again
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    setting: SettingArgs,
}

fn settings(arguments: &Args, config: &Config) -> Result<Vec<Named>> {
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
            let setting = Setting::new(Setting::from_options(options)?.args(), config)?;
            Ok(Named { name: name.trim().to_owned(), setting })
        };
        let named = parse().with_context(|| format!("--setting {line:?}"))?;
        if all.iter().any(|other| other.name == named.name) {
            bail!("--setting {line:?}: another one has this name");
        }
        all.push(named);
    }
    Ok(all)
}

/// Measures windows and prints their sums.
///
/// # Errors
/// Options, files and devices that don't do, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let common = &arguments.common;
    let text = read_text("--text", &arguments.text)?;
    let backend = common.computing.backend.open()?;
    let mut loaded = load(&common.model)?;
    let settings = settings(arguments, loaded.config())?;
    let windows = Windows::new(loaded.tokenizer.encode(&text, false)?, &loaded.tokenizer, arguments.width)?;
    let end = arguments.first + arguments.windows;
    if arguments.windows == 0 || end > windows.count() {
        bail!(
            "--windows: the text has {} windows of {} tokens, window {end} was asked for",
            windows.count(),
            windows.width()
        );
    }
    note_context(loaded.config(), windows.width());
    let source = Source {
        model: loaded.file.name(),
        model_sha256: loaded.file.sha256()?,
        backend: backend.name().into(),
        device: backend.device(),
        text: arguments.text.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        text_sha256: sha256(text.as_bytes()),
        width: windows.width(),
        revision: REVISION.into(),
    };
    let mut results = match &arguments.out {
        Some(path) => Results::open(path)?,
        None => Results::in_memory(),
    };
    let chunk = common.computing.chunk();
    let missing = |results: &Results<InWindow>, setting: &Setting| {
        let done = |window: &usize| !results.find(setting, &source, *window).is_empty();
        (arguments.first..end).filter(|window| !done(window)).collect::<Vec<_>>()
    };
    let steps = |named: &Named| {
        missing(&results, &named.setting).len() * named.setting.pieces(windows.width(), chunk).len()
    };
    let total: usize = settings.iter().map(steps).sum();
    let bar = bar((total * loaded.config().layers) as u64, "windows");
    for named in &settings {
        let missing = missing(&results, &named.setting);
        if missing.is_empty() {
            continue;
        }
        bar.set_message(named.name.clone());
        let mut attention = backend.attention(loaded.config(), &named.setting, windows.width(), chunk)?;
        for window in missing {
            let at = (&windows, window);
            let rows = window_rows(&loaded, attention.as_mut(), named, &source, at, chunk, &mut |_| {
                bar.inc(1);
                check_stop()
            })?;
            if !std::io::stderr().is_terminal() {
                let all = Summary::of(0..windows.width(), rows.iter());
                let seconds = rows.first().map_or(0.0, |row| row.measured.seconds);
                eprintln!(
                    "{}, window {window}: perplexity {:.3} in {seconds:.1} s",
                    named.name, all.perplexity
                );
            }
            results.append(rows)?;
        }
    }
    bar.finish_and_clear();
    report(arguments, &backend, &source, &settings, &results)
}

/// Sums of the windows that were asked for.
fn report(
    arguments: &Args,
    backend: &Backend,
    source: &Source,
    settings: &[Named],
    results: &Results<InWindow>,
) -> Result<()> {
    let buckets = buckets(source.width);
    let range = arguments.first..arguments.first + arguments.windows;
    let rows = |named: &Named| -> Vec<&Row<InWindow>> {
        range.clone().flat_map(|window| results.find(&named.setting, source, window)).collect()
    };
    let baseline = settings.first().map(rows).unwrap_or_default();
    let mut objects = Vec::new();
    for named in settings {
        let rows = rows(named);
        let whole = Summary::of(0..source.width, rows.iter().copied());
        let parts: Vec<Summary> =
            buckets.iter().map(|bucket| Summary::of(bucket.clone(), rows.iter().copied())).collect();
        let (nats, error) = mean_and_error(&differences(&rows, &baseline));
        let mut seconds: Vec<f64> =
            rows.iter().step_by(buckets.len()).map(|row| row.measured.seconds).collect();
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
        if arguments.common.computing.json {
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
    if arguments.common.computing.json {
        let object = json!({
            "model": source.model,
            "model_sha256": source.model_sha256,
            "text": source.text,
            "width": source.width,
            "backend": backend.name(),
            "adapter": backend.adapter(),
            "driver": backend.driver(),
            "revision": source.revision,
            "results": arguments.out,
            "settings": objects,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    }
    Ok(())
}
