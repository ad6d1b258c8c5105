//! `lab subword train`.

use std::io::BufReader;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use prflash::subword::{
    Cost, MergeScore, Merges, MergesTrainer, Model, Pattern, Steps, Tokenizer, Trainer, WordCounts,
};
use serde_json::json;

use super::open;
use crate::commands::{bar, check_stop};

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
    /// A text, streamed, - for standard input; repeat for more
    #[arg(long, required_unless_present = "words")]
    text: Vec<PathBuf>,
    /// A table with a word, a tab and its count in each line; repeat for the shards of a corpus
    #[arg(long)]
    words: Vec<PathBuf>,
    /// How texts are cut into words: gpt2, cl100k, o200k, whitespace or none
    #[arg(long, default_value = "gpt2")]
    pattern: Pattern,
    /// Pieces, the 256 bytes among them
    #[arg(long, default_value_t = 8192)]
    size: usize,
    /// How pieces are found
    #[arg(long, value_enum, default_value = "swe")]
    kind: Kind,
    /// What a piece costs, of swe: unigram, inverse-count or unit
    #[arg(long, default_value = "unigram")]
    cost: Cost,
    /// What each piece costs beside, of swe, in the cost's unit: the larger, the fewer pieces a word has
    #[arg(long, default_value_t = 0.0)]
    lambda: f64,
    /// Pieces of a word at most, of swe: unlimited, fewest or a number
    #[arg(long, default_value = "unlimited", value_parser = steps)]
    steps: Steps,
    /// Threads, which change nothing but the time
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// The trained tokenizer, in prflash's own format
    #[arg(long)]
    out: PathBuf,
    /// Also as a tokenizer.json of Hugging Face's tokenizers
    #[arg(long)]
    hugging_face: Option<PathBuf>,
    /// Also as tiktoken's ranks; not of swe
    #[arg(long)]
    ranks: Option<PathBuf>,
    /// Also the table of the words that it was trained on
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
    let by_merges = arguments.kind != Kind::Swe;
    ensure!(by_merges || arguments.ranks.is_none(), "--ranks: tiktoken has merges, which --kind swe hasn't");
    let words = words(arguments)?;
    ensure!(!words.is_empty(), "--text, --words: there are no words to train on");
    eprintln!("{} words, {} of them different", words.total(), words.len());
    let begun = Instant::now();
    let (model, rounds) = train(arguments, &words)?;
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

fn train(arguments: &Args, words: &WordCounts) -> Result<(Model, Option<usize>)> {
    let score = match arguments.kind {
        Kind::Swe | Kind::Bpe => MergeScore::PairCount,
        Kind::Wordpiece => MergeScore::WordPiece,
        Kind::Pmi => MergeScore::MutualInformation,
        Kind::Likelihood => MergeScore::Likelihood,
    };
    let merges = merges(words, score, arguments.size)?;
    if arguments.kind != Kind::Swe {
        return Ok((merges.into(), None));
    }
    check_stop()?;
    let trainer = Trainer::new(arguments.size)?.with_cost(arguments.cost, arguments.lambda)?;
    let trainer = trainer.with_steps(arguments.steps).with_threads(arguments.threads);
    let progress = bar(0, "rounds");
    let trained = trainer.train(words, &merges.vocabulary()?, |now| {
        progress.set_length(now.most_rounds as u64);
        progress.set_position(now.rounds as u64);
        progress.set_message(format!("round {}, cost per byte {:.4}", now.rounds, now.cost_per_byte));
        if check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    progress.finish_and_clear();
    Ok((trained.segmenter.into(), Some(trained.rounds)))
}

fn merges(words: &WordCounts, score: MergeScore, size: usize) -> Result<Merges> {
    let progress = bar(size as u64, "merges");
    let merges = MergesTrainer::new(size)?.with_score(score).train_while(words, |now| {
        progress.set_position(now.pieces as u64);
        if check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    progress.finish_and_clear();
    Ok(merges)
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
