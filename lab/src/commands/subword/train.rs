//! `lab subword train`.

use std::io::{BufReader, IsTerminal as _};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use prflash::Context;
use prflash::subword::{
    Cost, MergeScore, Merges, MergesTrainer, Model, Pattern, Progress, RecountRates, Steps, Tokenizer,
    Trainer, WordCounts,
};
use serde_json::json;

use super::open;
use crate::commands::{bar, busy, check_stop};

/// How pieces are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Cuts at the least cost; grown from BPE's pieces and pruned.
    Swe,
    /// Pairs merged by their count: BPE.
    Bpe,
    /// Pairs merged by c(ab)/(c(a)·c(b)).
    Wordpiece,
    /// Pairs merged by c(ab)·PMI.
    Pmi,
    /// Pairs merged by the gain in likelihood.
    Likelihood,
}

#[derive(clap::Args)]
pub struct Args {
    /// A text, which is streamed; - is standard input; repeat for more
    #[arg(long, required_unless_present = "words")]
    text: Vec<PathBuf>,
    /// A table with a word, a tab and its count in each line; repeat for the shards of a corpus
    #[arg(long)]
    words: Vec<PathBuf>,
    /// How texts are cut into words: gpt2, cl100k, o200k, whitespace or none
    #[arg(long, default_value = "gpt2")]
    pattern: Pattern,
    /// How many pieces there are, the 256 bytes among them
    #[arg(long, default_value_t = 8192)]
    size: usize,
    /// How pieces are found
    #[arg(long, value_enum, default_value = "swe")]
    kind: Kind,
    /// How often a pair must occur to be merged; of use with wordpiece, whose best pairs are rare
    #[arg(long, default_value_t = 1)]
    minimum_count: u64,
    /// What a piece costs in swe: unigram, inverse-count or unit
    #[arg(long, default_value = "unigram")]
    cost: Cost,
    /// What each piece of swe costs besides, in the cost's unit: the larger, the fewer pieces a
    /// word has [default: 2 nats of unigram, 0 of the others]
    #[arg(long)]
    lambda: Option<f64>,
    /// How many pieces of swe a word has at most: unlimited, fewest or a number
    #[arg(long, default_value = "unlimited", value_parser = steps)]
    steps: Steps,
    /// Threads, which change nothing but the time
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Recount the words of swe on the GPU where that is faster; it changes nothing but the time
    #[arg(long)]
    gpu: bool,
    /// The trained tokenizer, in prflash's own format
    #[arg(long)]
    out: PathBuf,
    /// Write it also as a tokenizer.json of Hugging Face's tokenizers
    #[arg(long)]
    hugging_face: Option<PathBuf>,
    /// Write it also as tiktoken's ranks; swe has none
    #[arg(long)]
    ranks: Option<PathBuf>,
    /// Write also the table of the words that it was trained on
    #[arg(long)]
    words_out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn steps(text: &str) -> Result<Steps, String> {
    match text {
        "unlimited" => Ok(Steps::Unlimited),
        "fewest" => Ok(Steps::Fewest),
        number => number
            .parse()
            .map(Steps::AtMost)
            .map_err(|_| format!("expected unlimited, fewest or a number from 1, got {number:?}")),
    }
}

/// Trains and writes what was asked for.
///
/// # Errors
/// Options and files that don't do, by name. After Ctrl-C there are no files if no whole round was
/// trained, else those of the last whole round.
pub fn run(arguments: &Args) -> Result<()> {
    let trainers = Trainers::new(arguments)?;
    let counting = busy("counting words");
    let words = words(arguments)?;
    counting.finish_and_clear();
    ensure!(!words.is_empty(), "--text, --words: there are no words to train on");
    eprintln!("{} words, {} of them different", words.total(), words.len());
    let begun = Instant::now();
    let (model, rounds) = trainers.train(&words, arguments.gpu)?;
    let tokenizer = Tokenizer::new(arguments.pattern, model);
    let files = write(arguments, &tokenizer, &words)?;
    let pieces = tokenizer.model().len();
    let seconds = begun.elapsed().as_secs_f64();
    if arguments.json {
        let object = json!({
            "pieces": pieces,
            "words": words.total(),
            "different_words": words.len(),
            "rounds": rounds,
            "seconds": seconds,
            "interrupted": check_stop().is_err(),
            "files": files,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        let after = rounds.map_or(String::new(), |rounds| format!(" after {rounds} rounds"));
        println!("{pieces} pieces{after}, {seconds:.1} s");
        files.iter().for_each(|file| println!("{}", file.display()));
    }
    // What there was until Ctrl-C is kept; whoever asked still hears that it is not all.
    check_stop()
}

fn words(arguments: &Args) -> Result<WordCounts> {
    let mut words = WordCounts::default();
    for path in &arguments.words {
        let table = WordCounts::read_table(BufReader::new(open("--words", path)?));
        words = words.merged(&table.with_context(|| format!("--words {}", path.display()))?)?;
        check_stop()?;
    }
    let (inputs, files): (Vec<_>, Vec<_>) = arguments.text.iter().partition(|path| *path == Path::new("-"));
    for path in inputs {
        words = words.merged(&WordCounts::from_text(open("--text", path)?, arguments.pattern)?)?;
        check_stop()?;
    }
    let counted = WordCounts::from_files(&files, arguments.pattern, arguments.threads.get());
    Ok(words.merged(&counted.context("--text")?)?)
}

/// What trains, made before anything is read: what can't be is refused at once.
struct Trainers {
    merges: MergesTrainer,
    size: usize,
    /// None where merges are all.
    pieces: Option<Trainer>,
}

impl Trainers {
    fn new(arguments: &Args) -> Result<Self> {
        let score = match arguments.kind {
            Kind::Swe | Kind::Bpe => MergeScore::PairCount,
            Kind::Wordpiece => MergeScore::WordPiece,
            Kind::Pmi => MergeScore::MutualInformation,
            Kind::Likelihood => MergeScore::Likelihood,
        };
        let size = arguments.size;
        let merges = MergesTrainer::new(size).context("--size")?.with_score(score);
        let merges = merges.with_minimum_count(arguments.minimum_count);
        if arguments.kind != Kind::Swe {
            return Ok(Self { merges, size, pieces: None });
        }
        ensure!(arguments.ranks.is_none(), "--ranks: tiktoken has merges, which --kind swe hasn't");
        ensure!(
            arguments.steps != Steps::Fewest || arguments.cost == Cost::Unit,
            "--steps fewest: such pieces are trained by --cost unit"
        );
        ensure!(
            arguments.hugging_face.is_none() || !matches!(arguments.steps, Steps::AtMost(_)),
            "--hugging-face: a tokenizer.json has no limit of pieces, as --steps gives one"
        );
        let recommended = Trainer::recommended(size).context("--size")?;
        let trainer = match (arguments.cost, arguments.lambda) {
            (Cost::Unigram, None) => recommended,
            (cost, lambda) => recommended.with_cost(cost, lambda.unwrap_or(0.0)).context("--lambda")?,
        };
        let trainer = trainer.with_steps(arguments.steps).with_threads(arguments.threads);
        Ok(Self { merges, size, pieces: Some(trainer) })
    }

    /// The model, and of cuts at the least cost how many rounds it took.
    fn train(&self, words: &WordCounts, gpu: bool) -> Result<(Model, Option<usize>)> {
        let merges = self.merges(words)?;
        let Some(trainer) = &self.pieces else { return Ok((merges.into(), None)) };
        check_stop()?;
        let progress = bar(0, "rounds");
        let quiet = !std::io::stderr().is_terminal();
        let told = |now: Progress| {
            let line = format!("round {}, cost per byte {:.4}", now.rounds, now.cost_per_byte);
            if quiet {
                // A log has no bar.
                eprintln!("{line}");
            }
            progress.set_length(now.most_rounds as u64);
            progress.set_position(now.rounds as u64);
            progress.set_message(line);
            if check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let start = merges.vocabulary()?;
        let trained = match gpu {
            true => trainer.train_on(&Context::new_blocking().context("--gpu")?, words, &start, told)?,
            false => trainer.train(words, &start, told)?,
        };
        progress.finish_and_clear();
        if let Some(RecountRates { host, gpu, .. }) = trained.rates {
            let by = trained.recounted_by;
            eprintln!("recounted by {by:?}: {host:.0} words a second on the host, {gpu:.0} on the GPU");
        }
        Ok((trained.segmenter.into(), Some(trained.rounds)))
    }

    fn merges(&self, words: &WordCounts) -> Result<Merges> {
        let progress = bar(self.size as u64, "merges");
        let merges = self.merges.train_while(words, |now| {
            progress.set_position(now.pieces as u64);
            if check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        progress.finish_and_clear();
        Ok(merges)
    }
}

/// Each file whole or not at all; their names.
fn write<'a>(arguments: &'a Args, tokenizer: &Tokenizer, words: &WordCounts) -> Result<Vec<&'a Path>> {
    // Everything is made before anything is written.
    let mut own = Vec::new();
    tokenizer.write(&mut own)?;
    let mut files = vec![(arguments.out.as_path(), own)];
    if let Some(path) = &arguments.hugging_face {
        let json = tokenizer.to_hugging_face().context("--hugging-face")?;
        files.push((path, json.into_bytes()));
    }
    if let (Some(path), Model::Merges(merges)) = (&arguments.ranks, tokenizer.model()) {
        let mut ranks = Vec::new();
        merges.write_ranks(&mut ranks).context("--ranks")?;
        files.push((path, ranks));
    }
    if let Some(path) = &arguments.words_out {
        let mut table = Vec::new();
        words.write_table(&mut table)?;
        files.push((path, table));
    }
    for (path, contents) in &files {
        testkit::files::write(path, contents)?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}
