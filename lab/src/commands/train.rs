//! `lab train`.

use std::io::{BufReader, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use lab::table::Table;
use lab::train::attention::Backend;
use lab::train::compare::{Curve, curves};
use lab::train::data::{Texts, vocabulary};
use lab::train::folder::{Folder, Now};
use lab::train::rows::Row;
use lab::train::settings::Settings;
use prflash::subword::Tokenizer;
use serde_json::json;

use crate::commands::{REVISION, bar, busy, check_stop};

/// The texts of --quick, which scripts/fetch-models brings.
const QUICK: [&str; 5] =
    ["emma", "mansfield-park", "northanger-abbey", "pride-and-prejudice", "sense-and-sensibility"];
const QUICK_HELD_OUT: &str = "persuasion";

/// Who computes attention, forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// prflash's engine on CPU cores.
    Cpu,
    /// prflash on a device.
    Gpu,
    /// candle's own, step by step: for comparison.
    Candle,
}

impl From<By> for Backend {
    fn from(by: By) -> Self {
        match by {
            By::Cpu => Self::Native,
            By::Gpu => Self::Gpu,
            By::Candle => Self::Candle,
        }
    }
}

/// What isn't given is as --quick has it.
#[derive(clap::Args)]
pub struct Args {
    /// A text to train on; repeat for more, which are read one behind the other
    #[arg(long, required_unless_present = "quick")]
    text: Vec<PathBuf>,
    /// A text to judge by, of which nothing may be among those to train on
    #[arg(long, required_unless_present = "quick")]
    held_out: Option<PathBuf>,
    /// A million weights in some ten minutes of two cores, on five novels of target/texts, judged
    /// by a sixth (scripts/fetch-models brings them)
    #[arg(long)]
    quick: bool,
    /// The folder of the training
    #[arg(long, default_value = "target/train")]
    out: PathBuf,
    /// Who computes attention; all else is computed on CPU cores, by candle
    #[arg(long, value_enum, default_value = "cpu")]
    backend: By,
    /// Pieces of the vocabulary, which is trained on the text (SWE)
    #[arg(long)]
    pieces: Option<usize>,
    /// Layers
    #[arg(long)]
    layers: Option<usize>,
    /// Channels between the layers
    #[arg(long)]
    width: Option<usize>,
    /// Query heads
    #[arg(long)]
    heads: Option<usize>,
    /// Key/value heads, which query heads share
    #[arg(long)]
    kv_heads: Option<usize>,
    /// Channels of the feed-forward part
    #[arg(long)]
    hidden: Option<usize>,
    /// Tokens of a sequence
    #[arg(long)]
    context: Option<usize>,
    /// Sequences of a batch
    #[arg(long)]
    batch: Option<usize>,
    /// How many batches are read
    #[arg(long)]
    steps: Option<usize>,
    /// Steps over which the rate rises; then it falls by a cosine to a tenth
    #[arg(long)]
    warm_up: Option<usize>,
    /// The highest rate
    #[arg(long)]
    rate: Option<f64>,
    /// Decay of weights, by the rate
    #[arg(long)]
    decay: Option<f64>,
    /// The seed of weights and batches
    #[arg(long)]
    seed: Option<u64>,
    /// Go on where Ctrl-C ended the same command; a training that is over stays as it is
    #[arg(long, conflicts_with = "compare")]
    resume: bool,
    /// Take so many steps by each of cpu, gpu and candle instead, and compare their losses
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    compare: Option<u32>,
    /// Put a row into this file of results
    #[arg(long, conflicts_with = "compare")]
    results: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Trains, or compares.
///
/// # Errors
/// Options and files that don't do, by name. After Ctrl-C there is a checkpoint, if training had
/// begun.
pub fn run(arguments: &Args) -> Result<()> {
    let begun = Instant::now();
    let settings = settings(arguments)?;
    let mut table = arguments.results.as_deref().map(Table::<Row>::open).transpose()?;
    let texts = texts(arguments, &settings)?;
    let settings = Settings { pieces: texts.pieces, ..settings };
    texts.check(&settings)?;
    eprintln!(
        "{} weights; {} tokens to train on, {} to judge by",
        settings.parameters(),
        texts.train.len(),
        texts.held_out.len()
    );
    if let Some(steps) = arguments.compare {
        return compare(arguments, &settings, &texts, steps as usize);
    }
    let folder = Folder { path: &arguments.out, revision: REVISION };
    let backend = arguments.backend.into();
    let done = if arguments.resume { folder.done(&settings, &texts, backend)? } else { None };
    let row = match done {
        Some(row) => row,
        None => {
            let mut shown = Shown::new(&settings);
            let trained = folder.train((&settings, &texts, backend), arguments.resume, begun, &mut |now| {
                shown.tell(&now);
                check_stop()
            });
            shown.bar.finish_and_clear();
            if trained.as_ref().is_err_and(|error| error.is::<lab::Interrupted>()) {
                eprintln!("{}: --resume goes on from here", folder.checkpoint().display());
            }
            trained?
        }
    };
    if let Some(table) = &mut table {
        table.put(row.clone())?;
    }
    if arguments.json {
        let object = json!({
            "out": arguments.out,
            "losses": folder.losses(),
            "model": folder.model(),
            "training": row,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    println!(
        "{}: {} weights, {} steps, {} tokens",
        arguments.out.display(),
        row.parameters,
        row.steps,
        row.tokens
    );
    println!("{}, {:.0} tokens/s in training, {:.0} s in all", row.device, row.tokens_per_s, row.seconds);
    println!("{}, bits per byte:", row.held_out);
    for (name, bits) in [
        ("this model", row.bits_per_byte),
        ("Kneser-Ney, three tokens", row.trigram_bits),
        ("Kneser-Ney, five tokens", row.five_gram_bits),
    ] {
        println!("  {name:<25} {bits:.4}");
    }
    Ok(())
}

fn settings(arguments: &Args) -> Result<Settings> {
    let mut settings = Settings::quick();
    macro_rules! given {
        ($($name:ident),*) => {
            $(if let Some(value) = arguments.$name {
                settings.$name = value;
            })*
        };
    }
    given!(pieces, layers, width, heads, kv_heads, hidden, context, batch, steps, rate, decay, seed);
    settings.warm_up = arguments.warm_up.unwrap_or(settings.warm_up.min(settings.steps));
    settings.check()?;
    Ok(settings)
}

/// Reads the texts, and trains the vocabulary on the first or, of a training that goes on, takes
/// the one that it has.
fn texts(arguments: &Args, settings: &Settings) -> Result<Texts> {
    let novel = |name: &str| PathBuf::from(format!("target/texts/{name}.txt"));
    let (mut train, mut held_out) = (arguments.text.clone(), arguments.held_out.clone());
    if arguments.quick && train.is_empty() {
        train = QUICK.map(novel).to_vec();
    }
    if arguments.quick && held_out.is_none() {
        held_out = Some(novel(QUICK_HELD_OUT));
    }
    let held_out = held_out.context("--held-out: expected a text")?;
    let read = |option: &str, path: &Path| {
        let hint = if arguments.quick { " (scripts/fetch-models brings it)" } else { "" };
        std::fs::read(path).with_context(|| format!("{option} {}{hint}", path.display()))
    };
    let reading = busy("reading texts");
    let mut text = Vec::new();
    for path in &train {
        text.extend(read("--text", path)?);
    }
    let judged = read("--held-out", &held_out)?;
    reading.finish_and_clear();
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = [train.iter().map(name).collect::<Vec<_>>().join(" "), name(&held_out)];
    let kept = arguments.out.join("vocabulary");
    let tokenizer = if arguments.resume && kept.exists() {
        let file = std::fs::File::open(&kept).with_context(|| kept.display().to_string())?;
        Tokenizer::read(BufReader::new(file)).with_context(|| kept.display().to_string())?
    } else {
        let training = busy("training the vocabulary");
        let tokenizer = vocabulary(&text, settings.pieces, &mut || {
            if check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let tokenizer = tokenizer.context("--pieces")?;
        training.finish_and_clear();
        check_stop()?;
        if arguments.compare.is_none() {
            let mut own = Vec::new();
            tokenizer.write(&mut own)?;
            testkit::files::write(&kept, own)?;
        }
        tokenizer
    };
    ensure!(!text.is_empty(), "--text: expected a text that isn't empty");
    Texts::new(&tokenizer, names, &text, &judged)
}

fn compare(arguments: &Args, settings: &Settings, texts: &Texts, steps: usize) -> Result<()> {
    let backends = [Backend::Candle, Backend::Native, Backend::Gpu];
    let shown = bar((backends.len() * steps) as u64, "comparing");
    let curves = curves(settings, texts, &backends, steps, &mut || {
        shown.inc(1);
        check_stop()
    })?;
    shown.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "steps": steps, "curves": curves }))?);
        return Ok(());
    }
    for Curve { backend, losses, farthest } in &curves {
        let last = losses.last().copied().unwrap_or(f64::NAN);
        println!(
            "{backend:<7} {last:.6} nats a token at step {steps}, at most {farthest:.1e} of candle's away"
        );
    }
    Ok(())
}

/// Tells how far a training is.
struct Shown {
    bar: ProgressBar,
    steps: usize,
    told: Instant,
}

impl Shown {
    fn new(settings: &Settings) -> Self {
        Self { bar: bar(settings.steps as u64, "training"), steps: settings.steps, told: Instant::now() }
    }

    fn tell(&mut self, now: &Now) {
        let Now::Step(now, speed) = now else {
            return self.bar.set_message("judging");
        };
        self.bar.set_position(now.step as u64);
        let line = format!("step {} of {}, {:.3} nats, {speed:.0} tokens/s", now.step, self.steps, now.loss);
        // A log has no bar.
        if !std::io::stderr().is_terminal() && (now.step == 1 || self.told.elapsed().as_secs() >= 20) {
            eprintln!("{line}");
            self.told = Instant::now();
        }
        self.bar.set_message(line);
    }
}
