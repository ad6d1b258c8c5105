//! `lab content`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use lab::backend::{Backend, Loaded};
use lab::content::compare::{Place, Reference, Row};
use lab::content::rules::{Rule, rules};
use lab::perplexity::Windows;
use lab::setting::Setting;

use super::rows::{Rows, results};
use super::{Computing, REVISION, check_stop, load, read_text};

/// Reads a window densely, and its last tokens under rules that choose blocks.
#[derive(clap::Args)]
pub struct Args {
    /// GGUF files (scripts/fetch-models brings two)
    #[arg(
        long, value_delimiter = ',',
        default_values = ["target/models/SmolLM2-135M-Instruct.Q4_1.gguf", "target/models/gemma-3-270m-q4_k_m.gguf"]
    )]
    models: Vec<PathBuf>,
    /// UTF-8 texts
    #[arg(
        long, value_delimiter = ',',
        default_values = [
            "target/texts/mansfield-park.txt",
            "target/texts/sense-and-sensibility.txt",
            "target/texts/bible.txt",
            "target/texts/shakespeare.txt",
            "target/texts/faq.txt",
            "target/texts/code.txt",
        ]
    )]
    texts: Vec<PathBuf>,
    /// The number of the window in each text
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// How many tokens a window has, the model's BOS included
    #[arg(long, default_value_t = 4096)]
    width: usize,
    /// How many tokens at its end are read under each rule
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// A rule of your own: 'NAME: OPTIONS', as perplexity's --setting; repeat for more [default:
    /// those of lab/RESULTS.md]
    #[arg(long = "rule", value_name = "NAME: OPTIONS")]
    rules: Vec<String>,
    /// The file of results; what it has already isn't computed again [default:
    /// lab/results/content.csv, of --rule none]
    #[arg(long)]
    results: Option<PathBuf>,
    #[command(flatten)]
    computing: Computing,
}

/// Compares rule after rule on text after text.
///
/// # Errors
/// Options, files and devices that don't do, by name; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    let rules = wanted(arguments)?;
    let path = results(arguments.results.as_ref(), !arguments.rules.is_empty(), "lab/results/content.csv");
    let count = arguments.models.len() * arguments.texts.len() * (rules.len() + 1);
    let mut rows = Rows::open(path, (count, "content"), line)?;
    let backend = arguments.computing.backend.open()?;
    for model in &arguments.models {
        let mut loaded: Option<Loaded> = None;
        let name = file_stem(model, true)?;
        for text in &arguments.texts {
            let place = Place {
                model: &name,
                text: &file_stem(text, false)?,
                window: arguments.window,
                width: arguments.width,
                tokens: arguments.tokens as usize,
            };
            let missing = rows.missing(&rules, |row, rule| row.is_of(&place, rule));
            if missing.is_empty() {
                continue;
            }
            let loaded = match &mut loaded {
                Some(loaded) => loaded,
                empty => empty.insert(load(model)?),
            };
            rows.bar.set_message(format!("{name}, {}, dense", place.text));
            let reference = reference(arguments, &backend, loaded, text)?;
            rows.bar.inc(1);
            for rule in missing {
                rows.bar.set_message(format!("{name}, {}, {}", place.text, rule.name));
                let setting = Setting::new(rule.setting()?.args(), loaded.config())?;
                let found =
                    reference.compare(loaded, &setting, arguments.window as u32, &mut |_| check_stop())?;
                let row = Row::new(&place, rule, found, REVISION);
                rows.put(row)?;
            }
        }
    }
    rows.print(arguments.computing.json, &backend)
}

/// The rules that were asked for.
fn wanted(arguments: &Args) -> Result<Vec<Rule>> {
    if arguments.rules.is_empty() {
        return Ok(rules(arguments.width));
    }
    let parse = |line: &String| -> Result<Rule> {
        let (name, options) = line.split_once(':').context("expected 'NAME: OPTIONS'")?;
        let rule = Rule { name: name.trim().into(), options: options.trim().into() };
        rule.setting()?;
        Ok(rule)
    };
    let each = arguments.rules.iter();
    let all: Vec<Rule> =
        each.map(|line| parse(line).with_context(|| format!("--rule {line:?}"))).collect::<Result<_>>()?;
    if let Some(rule) = all.iter().enumerate().find(|(at, rule)| all[..*at].contains(rule)) {
        bail!("--rule: {:?} is there twice", rule.1.name);
    }
    Ok(all)
}

fn reference(
    arguments: &Args,
    backend: &Backend,
    loaded: &mut Loaded,
    text: &std::path::Path,
) -> Result<Reference> {
    let ids = loaded.tokenizer.encode(&read_text("--texts", text)?, false)?;
    let windows = Windows::new(ids, &loaded.tokenizer, arguments.width)?;
    if arguments.window >= windows.count() {
        let (count, width) = (windows.count(), arguments.width);
        bail!("{}: {count} windows of {width} tokens, --window {}", text.display(), arguments.window);
    }
    let window = windows.tokens(arguments.window);
    let (tokens, chunk) = (arguments.tokens as usize, arguments.computing.chunk());
    Reference::read(loaded, backend, &window, tokens, chunk, &mut |_| check_stop())
}

/// The file's name, of texts without its ending.
fn file_stem(path: &std::path::Path, whole: bool) -> Result<String> {
    let name = if whole { path.file_name() } else { path.file_stem() };
    let name = name.and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{}: expected a file's name", path.display()))?.to_owned())
}

fn line(row: &Row) -> String {
    format!(
        "{}, {}: {:.1}% of the bytes: KL {:.4}, the same token {:.1}%, {:+.4} nats, {:.1} s: {} ({})",
        row.model,
        row.text,
        100.0 * row.read,
        row.kl,
        100.0 * row.agreement,
        row.nats,
        row.seconds,
        row.rule,
        row.options
    )
}
