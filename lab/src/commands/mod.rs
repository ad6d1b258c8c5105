//! What the commands share: who computes, Ctrl-C, progress.

pub mod caches;
pub mod content;
pub mod generate;
pub mod passkeys;
pub mod perplexity;
pub mod report;
mod rows;
pub mod search;
pub mod subword;
pub mod sweep;
pub mod train;
pub mod word2vec;

use std::io::IsTerminal as _;
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
    /// prflash on a device.
    Gpu,
    /// prflash's engine on CPU cores.
    Cpu,
    /// Plain loops in f32: slow, for checks.
    Plain,
}

/// What every command that computes takes.
#[derive(clap::Args)]
pub struct Computing {
    /// Who computes attention
    #[arg(long, value_enum, default_value = "gpu")]
    pub backend: Computes,
    /// How many tokens are read at a time
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

impl Computing {
    /// How many tokens are read at a time.
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
    /// The device, opened before anything else takes time; none for the cpu and plain backends.
    pub fn open(self) -> Result<Backend> {
        match self {
            Computes::Cpu => Ok(Backend::Cpu),
            Computes::Plain => Ok(Backend::Plain),
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

/// After how long something is told first where stderr is no terminal, and how often from then on.
const FIRST: Duration = Duration::from_secs(2);
const NEXT: Duration = Duration::from_secs(30);

/// Progress by steps: a bar on stderr, or a line now and then if that is no terminal.
pub fn bar(steps: u64, title: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    styled(&bar, "{msg} {wide_bar} {percent}%, {eta} left", title);
    bar
}

/// Progress of something that has no steps: how long it has taken so far.
pub fn busy(title: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    styled(&bar, "{spinner} {msg}, {elapsed}", title);
    bar
}

fn styled(bar: &ProgressBar, template: &str, title: &str) {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    if !std::io::stderr().is_terminal() {
        tell(bar);
    }
}

/// A log has no bar: it has lines, until the bar is finished or dropped.
fn tell(bar: &ProgressBar) {
    let bar = bar.downgrade();
    std::thread::spawn(move || {
        std::thread::sleep(FIRST);
        while let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) {
            let message = bar.message();
            match bar.length().filter(|&steps| steps > 0) {
                Some(steps) => eprintln!("{message}, {}% done", 100 * bar.position() / steps),
                None => eprintln!("{message}, {} s so far", bar.elapsed().as_secs()),
            }
            drop(bar);
            std::thread::sleep(NEXT);
        }
    });
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

/// What a prompt shows of itself before what follows it: all of it, or the end of a long one.
pub fn shown_prompt(prompt: &str) -> String {
    const ALL: usize = 1000;
    const END: usize = 200;
    if prompt.len() <= ALL {
        return prompt.to_owned();
    }
    let mut places = prompt.char_indices().map(|(at, _)| at);
    let end = &prompt[places.find(|at| at + END >= prompt.len()).unwrap_or(0)..];
    // From the beginning of a line or a word, if there is one.
    let end = end.split_once('\n').or_else(|| end.split_once(' ')).map_or(end, |(_, rest)| rest);
    format!("[{} bytes]\n{end}", prompt.len() - end.len())
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
