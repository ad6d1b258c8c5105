//! What the commands share: who computes, Ctrl-C, progress.

pub mod generate;
pub mod perplexity;
pub mod report;
pub mod search;
pub mod subword;
pub mod sweep;
pub mod word2vec;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use lab::Interrupted;
use lab::backend::{Backend, Loaded};
use lab::config::Config;

/// The git revision that the program was built from.
pub const REVISION: &str = env!("LAB_REVISION");

/// Who computes attention.
#[derive(Clone, Copy, ValueEnum)]
pub enum Computes {
    /// prflash.
    Gpu,
    /// Plain loops in f32: slow, for checks.
    Cpu,
}

/// What every command that computes takes.
#[derive(clap::Args)]
pub struct Computing {
    /// Who computes attention
    #[arg(long, value_enum, default_value = "gpu")]
    pub backend: Computes,
    /// Tokens read at a time
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

impl Computing {
    /// Tokens read at a time.
    pub fn chunk(&self) -> usize {
        self.chunk as usize
    }
}

/// What the commands for one model take.
#[derive(clap::Args)]
pub struct Common {
    /// A GGUF file of the architecture llama or gemma3 (scripts/fetch-models brings two)
    #[arg(long)]
    pub model: PathBuf,
    #[command(flatten)]
    pub computing: Computing,
}

impl Computes {
    /// The device, opened before anything else takes time; none for the cpu backend.
    pub fn open(self) -> Result<Backend> {
        match self {
            Computes::Cpu => Ok(Backend::Cpu),
            Computes::Gpu => Backend::gpu(),
        }
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C ends what is under way at its next step.
pub fn handle_stop() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            // Asked twice: whatever is under way is too slow.
            std::process::exit(130);
        }
    })
}

/// Whether somebody asked to stop.
///
/// # Errors
/// [`Interrupted`] if so.
pub fn check_stop() -> Result<()> {
    if STOP.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
}

/// A bar on stderr, if that is a terminal.
pub fn bar(steps: u64, title: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(steps).with_style(style).with_message(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A model, with a bar while it loads.
pub fn load(path: &Path) -> Result<Loaded> {
    let bar = bar(0, "loading");
    let loaded = Loaded::open(path, |done, layers| {
        bar.set_length(layers as u64);
        bar.set_position(done as u64);
        check_stop()
    })?;
    bar.finish_and_clear();
    Ok(loaded)
}

/// Says where a model reads further than it was made for.
pub fn note_context(config: &Config, tokens: usize) {
    if tokens > config.context {
        eprintln!("note: {tokens} tokens are past the {} that the model was made for", config.context);
    }
}

pub fn read_text(option: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{option} {}", path.display()))
}

pub fn bytes(count: u64) -> String {
    format!("{:.2} MB", count as f64 / 1e6)
}

pub fn compression(f16: u64, held: u64) -> String {
    let (f16, held) = (f16 as f64, held as f64);
    match held {
        0.0 => "nothing yet".into(),
        _ if held <= f16 => format!("{:.2} times smaller than f16", f16 / held),
        _ => format!("{:.2} times larger than f16", held / f16),
    }
}
