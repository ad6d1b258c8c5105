//! `lab word2vec train`.

use std::fs::File;
use std::io::{BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use lab::word2vec::training::{Place, Text};
use prflash::Context;
use prflash::word2vec::{Architecture, Corpus, CorpusOptions, Format, Options, Progress};
use serde_json::json;

use crate::commands::{REVISION, bar, busy, check_stop};

/// What predicts what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Each word of a window predicts that in the middle.
    SkipGram,
    /// The mean of a window predicts the word in the middle.
    BagOfWords,
}

/// The format of files of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Written {
    /// vectors.txt.
    Text,
    /// vectors.bin.
    Binary,
}

/// What isn't given is as the library has it, which is as in gensim.
#[derive(clap::Args)]
pub struct Args {
    /// Words with spaces between, a sentence a line, as lab word2vec text writes them
    text: PathBuf,
    /// A folder, in which each training has its own, seed-N
    #[arg(long)]
    out: PathBuf,
    /// What predicts what
    #[arg(long, value_enum, default_value = "skip-gram")]
    architecture: Kind,
    /// How many numbers a vector has
    #[arg(long)]
    dimension: Option<usize>,
    /// How many words a window has at most on each side of a word
    #[arg(long)]
    window: Option<usize>,
    /// How many negatives a pair has
    #[arg(long)]
    negative: Option<usize>,
    /// How many words are drawn for each 32 tokens, which share them as their negatives
    #[arg(long)]
    shared: Option<usize>,
    /// Words that are a larger part of the text are left out now and then (subsampling); 0 for none
    #[arg(long)]
    sample: Option<f64>,
    /// Negatives are drawn by counts to this power
    #[arg(long, allow_negative_numbers = true)]
    ns_exponent: Option<f64>,
    /// The first learning rate and the last, with a comma between
    #[arg(long, value_parser = rates)]
    rates: Option<[f64; 2]>,
    /// How many times the text is read
    #[arg(long)]
    epochs: Option<u32>,
    /// How many tokens a batch has
    #[arg(long)]
    batch: Option<usize>,
    /// As how many gradients those of a row in a batch count at most
    #[arg(long)]
    cap: Option<u32>,
    /// How often a word must be in the text
    #[arg(long)]
    min_count: Option<u64>,
    /// After how many words a sentence is cut
    #[arg(long)]
    longest: Option<usize>,
    /// The seeds, each of a training of its own
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    seeds: Vec<u64>,
    /// The format of the vectors
    #[arg(long, value_enum, default_value = "text")]
    format: Written,
    /// Go on where Ctrl-C ended the same command; trainings that are over stay as they are
    #[arg(long)]
    resume: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Trains each seed.
///
/// # Errors
/// Options and files that don't do, by name. After Ctrl-C there is a checkpoint of what was under
/// way.
pub fn run(arguments: &Args) -> Result<()> {
    let options = options(arguments)?;
    let reading = busy("reading the text");
    let text = text(arguments)?;
    reading.finish_and_clear();
    let context =
        Context::new_blocking().context("training needs an adapter (scripts/with-vulkan brings one)")?;
    let vocabulary = text.corpus.vocabulary().len();
    eprintln!("{}: {} words, {vocabulary} different ones", text.name, text.corpus.words());
    let cut = text.corpus.cut_sentences();
    if cut > 0 {
        eprintln!("note: {cut} sentences were cut after {} words", text.longest);
    }
    let mut all = Vec::new();
    for &seed in &arguments.seeds {
        check_stop()?;
        let options = options.with_seed(seed);
        let folder = arguments.out.join(format!("seed-{seed}"));
        let format = if arguments.format == Written::Binary { Format::Binary } else { Format::Text };
        let place = Place { folder: &folder, format, revision: REVISION };
        let done = if arguments.resume { place.done(&text, &options)? } else { None };
        let told = match done {
            Some(told) => told,
            None => {
                let mut shown = Shown::new(seed, options.epochs());
                let step = &mut |now: &Progress, speed| shown.step(now, speed);
                let trained = place.train(&context, &text, options, arguments.resume, step);
                shown.bar.finish_and_clear();
                if trained.as_ref().is_err_and(|error| error.is::<lab::Interrupted>()) {
                    eprintln!("{}: --resume goes on from here", place.checkpoint().display());
                }
                trained.with_context(|| format!("seed {seed}"))?
            }
        };
        if !arguments.json {
            println!(
                "{}: {} words × {}, {:.0} words/s, {:.0} a second of the processor",
                folder.join(&told.vectors).display(),
                told.words,
                told.settings.dimension(),
                told.raw_words_per_s,
                told.raw_words_per_cpu_s
            );
        }
        all.push(told);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "out": arguments.out, "seeds": all }))?);
    }
    Ok(())
}

fn options(arguments: &Args) -> Result<Options> {
    let mut options = Options::new(match arguments.architecture {
        Kind::SkipGram => Architecture::SkipGram,
        Kind::BagOfWords => Architecture::BagOfWords,
    });
    macro_rules! given {
        ($($name:ident $with:ident),*) => {
            $(if let Some(value) = arguments.$name {
                options = options.$with(value)?;
            })*
        };
    }
    given!(dimension with_dimension, window with_window, negative with_negative, shared with_shared);
    given!(sample with_sample, ns_exponent with_ns_exponent, epochs with_epochs, batch with_batch);
    given!(cap with_cap);
    if let Some([first, last]) = arguments.rates {
        options = options.with_rates(first, last)?;
    }
    Ok(options)
}

fn rates(text: &str) -> Result<[f64; 2], String> {
    let numbers = text.split_once(',').map(|(first, last)| [first, last].map(|number| number.parse().ok()));
    match numbers {
        Some([Some(first), Some(last)]) => Ok([first, last]),
        _ => Err(format!("expected two numbers with a comma between, got {text:?}")),
    }
}

fn text(arguments: &Args) -> Result<Text> {
    let path = &arguments.text;
    let context = || path.display().to_string();
    // gensim's, and the library's.
    let (min_count, longest) = (arguments.min_count.unwrap_or(5), arguments.longest.unwrap_or(10_000));
    let options = CorpusOptions::new().with_min_count(min_count).with_longest(longest)?;
    let begun = Instant::now();
    let file = BufReader::with_capacity(1 << 16, File::open(path).with_context(context)?);
    let corpus = Corpus::read(file, options).with_context(context)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(!name.is_empty(), "{}: expected a file", path.display());
    Ok(Text { name, corpus, min_count, longest, seconds: begun.elapsed().as_secs_f64() })
}

/// Tells how far a training is.
struct Shown {
    seed: u64,
    epochs: u32,
    bar: indicatif::ProgressBar,
    epoch: Option<u32>,
}

impl Shown {
    fn new(seed: u64, epochs: u32) -> Self {
        Self { seed, epochs, bar: bar(0, "training"), epoch: None }
    }

    fn step(&mut self, now: &Progress, speed: f64) -> Result<()> {
        let (seed, epochs) = (self.seed, self.epochs);
        let epoch = (now.epoch + 1).min(epochs);
        let line =
            format!("seed {seed}, epoch {epoch} of {epochs}, {speed:.0} words/s, rate {:.4}", now.rate);
        // A log has no bar: it has a line for each epoch.
        if self.epoch != Some(now.epoch) && !std::io::stderr().is_terminal() {
            eprintln!("{line}, {:.0}% done", 100.0 * now.tokens as f64 / now.of_tokens as f64);
        }
        self.epoch = Some(now.epoch);
        self.bar.set_length(now.of_tokens);
        self.bar.set_position(now.tokens);
        self.bar.set_message(line);
        check_stop()
    }
}
