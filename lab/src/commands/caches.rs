//! `lab caches`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use lab::backend::{Backend, Loaded};
use lab::caches::balance::Balance;
use lab::caches::held::Held;
use lab::caches::plan::alone;
use lab::caches::rows::{Row, SensitivityRow};
use lab::caches::rules::{LENGTHS, Rule, WIDTH, rules, rules_of_lengths};
use lab::content::compare::{Divergence, Place, Reference};
use lab::perplexity::Windows;
use lab::setting::Setting;
use lab::staircase::canonical;
use lab::table::{self, Table};
use prflash::cache::{Sensitivity, Side, Staircase};

use super::rows::{Rows, results};
use super::{Computing, REVISION, check_stop, load, read_text};

/// Reads a window densely, and its last tokens behind caches of few bits.
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
    /// The text by which it is found out what layers lose and how channels of keys vary, for rules
    /// that need it
    #[arg(long, default_value = "target/texts/emma.txt")]
    calibrate: PathBuf,
    /// The number of the window in each text
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// How many tokens a window has, the model's BOS included
    #[arg(long, default_value_t = WIDTH)]
    width: usize,
    /// Compare some of the caches behind windows of 2,048 to 32,768 tokens, as far as a model's
    /// context goes, instead
    #[arg(long, conflicts_with_all = ["width", "rules"])]
    lengths: bool,
    /// How many tokens before the last one are read behind each cache
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// A cache of your own: 'NAME: CACHE', as perplexity's --staircase, or COUNT@CACHE|CACHE: the
    /// first for so many of the most sensitive of all layers' keys and values, the second for the
    /// others; 'balanced: ' before a cache multiplies keys and divides queries by factors of
    /// channels; repeat for more [default: those of lab/RESULTS.md]
    #[arg(long = "rule", value_name = "NAME: CACHE")]
    rules: Vec<String>,
    /// The file of results; what it has already isn't computed again [default:
    /// lab/results/caches.csv, of --rule none]
    #[arg(long)]
    results: Option<PathBuf>,
    /// The file of what layers lose, likewise [default: lab/results/caches-layers.csv]
    #[arg(long)]
    layers: Option<PathBuf>,
    #[command(flatten)]
    computing: Computing,
}

/// Compares cache after cache on text after text.
///
/// # Errors
/// Options, files and devices that don't do, by name; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    let rules = wanted(arguments)?;
    let path = results(arguments.results.as_ref(), !arguments.rules.is_empty(), "lab/results/caches.csv");
    let lengths = if arguments.lengths { LENGTHS.len() } else { 1 };
    let count = arguments.models.len() * arguments.texts.len() * lengths * (rules.len() + 1);
    let mut rows = Rows::open(path, (count, "caches"), line)?;
    let bar = rows.bar.clone();
    let backend = arguments.computing.backend.open()?;
    for model in &arguments.models {
        let name = file_stem(model, true)?;
        let sensitivities = Vec::new();
        let width = arguments.width;
        let mut run = Run {
            arguments,
            backend: &backend,
            bar: &bar,
            model,
            name: &name,
            width,
            loaded: None,
            balance: None,
            sensitivities,
        };
        if !arguments.lengths {
            run.texts(&rules, &mut rows)?;
            continue;
        }
        let context = run.loaded()?.config().context;
        for width in LENGTHS {
            if width > context {
                bar.inc((arguments.texts.len() * (rules.len() + 1)) as u64);
                continue;
            }
            run.width = width;
            // What was found out is of windows of another width.
            (run.balance, run.sensitivities) = (None, Vec::new());
            run.texts(&rules, &mut rows)?;
        }
    }
    rows.print(arguments.computing.json, &backend)
}

/// What is done with one model, which is read when it is needed.
struct Run<'a> {
    arguments: &'a Args,
    backend: &'a Backend,
    bar: &'a ProgressBar,
    model: &'a Path,
    name: &'a str,
    width: usize,
    loaded: Option<Loaded>,
    /// How channels of keys vary, once that was asked for.
    balance: Option<Balance>,
    /// What layers lose under each cache that was asked for.
    sensitivities: Vec<(String, Vec<Sensitivity>)>,
}

impl Run<'_> {
    /// Compares the rules on every text, but for what the file of results has.
    fn texts(&mut self, rules: &[Rule], rows: &mut Rows<Row>) -> Result<()> {
        let (arguments, name) = (self.arguments, self.name);
        for text in &arguments.texts {
            let text_name = file_stem(text, false)?;
            let place = Place {
                model: name,
                text: &text_name,
                window: arguments.window,
                width: self.width,
                tokens: arguments.tokens as usize,
            };
            let missing = rows.missing(rules, |row, rule| row.is_of(&place, rule));
            for rule in &missing {
                self.calibrate(rule)?;
            }
            if missing.is_empty() {
                continue;
            }
            let reference = self.reference(text, &text_name)?;
            self.bar.inc(1);
            for rule in missing {
                self.bar.set_message(format!("{name}, {text_name}, {}", rule.name));
                let low = key(rule)?;
                let config = self.loaded()?.config().clone();
                let of_layers = self.sensitivities.iter().find(|(known, _)| *known == low);
                let of_layers = of_layers.map(|(_, found)| &found[..]).filter(|_| rule.is_calibrated());
                let staircases = rule.staircases(config.layers, of_layers)?;
                let found = self.compare(&reference, &staircases, rule.is_balanced())?;
                rows.put(Row::new(&place, rule, (&config, &staircases), found, REVISION)?)?;
            }
        }
        Ok(())
    }

    fn loaded(&mut self) -> Result<&mut Loaded> {
        if self.loaded.is_none() {
            self.loaded = Some(load(self.model)?);
        }
        self.loaded.as_mut().context("the model was just read")
    }

    /// Reads the window of a text densely.
    fn reference(&mut self, text: &Path, text_name: &str) -> Result<Reference> {
        self.bar.set_message(format!("{}, {text_name}, dense", self.name));
        let (arguments, backend, width) = (self.arguments, self.backend, self.width);
        let loaded = self.loaded()?;
        let ids = loaded.tokenizer.encode(&read_text("--texts", text)?, false)?;
        let windows = Windows::new(ids, &loaded.tokenizer, width)?;
        if arguments.window >= windows.count() {
            let count = windows.count();
            bail!("{}: {count} windows of {width} tokens, --window {}", text.display(), arguments.window);
        }
        let window = windows.tokens(arguments.window);
        let (tokens, chunk) = (arguments.tokens as usize, arguments.computing.chunk());
        Reference::read(loaded, backend, &window, tokens, chunk, &mut |_| check_stop())
    }

    /// Finds out what a rule needs to know of the model, but for what is known.
    fn calibrate(&mut self, rule: &Rule) -> Result<()> {
        if rule.is_balanced() && self.balance.is_none() {
            let text = self.arguments.calibrate.clone();
            let reference = self.reference(&text, &file_stem(&text, false)?)?;
            let config = self.loaded()?.config().clone();
            self.balance = Some(Balance::of(&config, reference.memory())?);
        }
        let low = key(rule)?;
        if rule.is_calibrated() && !self.sensitivities.iter().any(|(known, _)| *known == low) {
            let found = self.sensitivities(rule)?;
            self.sensitivities.push((low, found));
        }
        Ok(())
    }

    fn compare(
        &mut self,
        reference: &Reference,
        staircases: &[Staircase],
        balanced: bool,
    ) -> Result<Divergence> {
        let new = self.arguments.tokens as usize;
        self.loaded()?;
        let loaded = self.loaded.as_ref().context("the model was just read")?;
        let dense = Setting::from_options("")?;
        let balance = self.balance.as_ref().filter(|_| balanced);
        let mut held = Held::new(loaded.config(), &dense, reference.memory(), staircases, new, balance)?;
        reference.compare_by(loaded, &mut held, &mut |_| check_stop())
    }

    /// What every layer loses if its keys, or its values, alone have these ladders.
    fn sensitivities(&mut self, rule: &Rule) -> Result<Vec<Sensitivity>> {
        let low = rule.low()?;
        let path = self.arguments.layers.clone().unwrap_or("lab/results/caches-layers.csv".into());
        let known: Vec<SensitivityRow> = table::read(&path)?;
        let mut table = Table::<SensitivityRow>::open(&path)?;
        let text = self.arguments.calibrate.clone();
        let text_name = file_stem(&text, false)?;
        let (name, cache) = (self.name.to_owned(), key(rule)?);
        let (window, tokens, width) = (self.arguments.window, self.arguments.tokens, self.width);
        let of = |layer: usize, side: Side, kl: f64| SensitivityRow {
            model: name.clone(),
            text: text_name.clone(),
            window,
            width,
            tokens: tokens as usize,
            cache: cache.clone(),
            layer,
            side: SensitivityRow::name_of(side).into(),
            kl,
            revision: REVISION.into(),
        };
        let layers = self.loaded()?.config().layers;
        let pairs = (0..layers).flat_map(|layer| Side::ALL.map(|side| (layer, side)));
        let (mut found, mut reference) = (Vec::new(), None);
        for (layer, side) in pairs {
            let wanted = of(layer, side, 0.0);
            if let Some(row) = known.iter().find(|row| table::Row::same(*row, &wanted)) {
                found.push(row.sensitivity());
                continue;
            }
            let reference = match &reference {
                Some(reference) => reference,
                None => &*reference.insert(self.reference(&text, &text_name)?),
            };
            self.bar.set_message(format!("{name}, {text_name}, layer {layer} of {layers}, {side:?}"));
            let staircases = alone(layers, (layer, side), &low)?;
            let row = of(layer, side, self.compare(reference, &staircases, rule.is_balanced())?.kl);
            found.push(row.sensitivity());
            table.put(row)?;
        }
        Ok(found)
    }
}

/// What the ladders of a rule's less sensitive layers are called in the file of what layers lose.
fn key(rule: &Rule) -> Result<String> {
    Ok(format!("{}{}", if rule.is_balanced() { "balanced: " } else { "" }, canonical(&rule.low()?)))
}

/// The rules that were asked for.
fn wanted(arguments: &Args) -> Result<Vec<Rule>> {
    if arguments.lengths {
        return Ok(rules_of_lengths());
    }
    if arguments.rules.is_empty() {
        return Ok(rules());
    }
    let parse = |line: &String| -> Result<Rule> {
        let (name, cache) = line.split_once(": ").context("expected 'NAME: CACHE'")?;
        let rule = Rule::new(name.trim(), cache.trim());
        // Read now, so that a mistake is told before anything takes time.
        rule.staircases(1, Some(&[]))?;
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

/// The file's name, of texts without its ending.
fn file_stem(path: &Path, whole: bool) -> Result<String> {
    let name = if whole { path.file_name() } else { path.file_stem() };
    let name = name.and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{}: expected a file's name", path.display()))?.to_owned())
}

fn line(row: &Row) -> String {
    format!(
        "{}, {}: {:.2} bits ({:.2} at 4,096 tokens): KL {:.2}e-3, the same token {:.1}%, {:+.4} nats, {:.1} s: {} \
         ({})",
        row.model,
        row.text,
        row.bits,
        row.bits_4k,
        1e3 * row.kl,
        100.0 * row.agreement,
        row.nats,
        row.seconds,
        row.rule,
        row.cache
    )
}
