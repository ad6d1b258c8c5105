//! Vectors of the words of a text, trained on the GPU: the nearest neighbours of some words, and a
//! picture of the frequent ones.
//!
//! ```text
//! cargo run --release --features word2vec --example word2vec
//! ```

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use prflash::Context;
use prflash::word2vec::{Architecture, Corpus, CorpusOptions, Format, Options, Training, WordVectors};
use serde_json::{Value, json};
use testkit::example::{self, Progress};
use testkit::{pca, picture};

/// Trains vectors of words and shows which are near each other.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    /// The text: words with spaces between, a sentence a line. By default Jane Austen's Persuasion,
    /// which ships, in small letters.
    text: Option<PathBuf>,
    /// What predicts what.
    #[arg(long, value_enum, default_value = "skip-gram")]
    architecture: Kind,
    /// Numbers of a vector.
    #[arg(long, default_value_t = 48)]
    dimension: usize,
    /// Words on each side of a word that a window has at most.
    #[arg(long, default_value_t = 5)]
    window: usize,
    /// Passes over the text.
    #[arg(long, default_value_t = 40, default_value_if("quick", "true", "4"))]
    epochs: u32,
    /// How often a word must be in the text.
    #[arg(long, default_value_t = 5)]
    min_count: u64,
    /// Words whose neighbours are shown; by default some of the novel, or of the picture.
    #[arg(long, value_delimiter = ',')]
    neighbours: Vec<String>,
    /// Seed of all that is drawn at random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Each word of a window predicts that in the middle.
    SkipGram,
    /// The mean of a window predicts the word in the middle.
    BagOfWords,
}

/// Words of the picture.
const SHOWN: usize = 80;
/// Words of the novel whose neighbours are shown.
const ASKED: [&str; 7] = ["captain", "louisa", "sister", "bath", "walked", "happy", "good"];
/// Neighbours of a word.
const NEAREST: usize = 6;
/// Tokens of a batch: few, since the text is short.
const BATCH: usize = 1024;

/// What a training took.
struct Trained {
    vectors: WordVectors,
    seconds: f64,
    words_per_second: f64,
}

/// A word with those that are nearest to it, and their cosines.
type Neighbours<'v> = (&'v str, Vec<(&'v str, f64)>);

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let options = options(&arguments)?;
    let (name, corpus) = corpus(&arguments)?;
    let missing = arguments.neighbours.iter().find(|word| corpus.vocabulary().number(word).is_none());
    if let Some(word) = missing {
        ensure!(false, "--neighbours: {word:?} is not {} times in the text", arguments.min_count);
    }
    let context = Context::new_blocking()?;
    eprintln!("{name}: {} words, {} different ones", corpus.words(), corpus.vocabulary().len());
    let trained = train(&context, &corpus, options)?;
    let vectors = &trained.vectors;
    let shown = frequent(vectors);
    let asked: Vec<&str> = match (arguments.neighbours.is_empty(), &arguments.text) {
        (true, None) => ASKED.to_vec(),
        (true, _) => {
            shown.iter().step_by(SHOWN / 8).map(|&number| vectors.words()[number].as_str()).collect()
        }
        (false, _) => arguments.neighbours.iter().map(String::as_str).collect(),
    };
    let neighbours: Vec<Neighbours<'_>> =
        asked.into_iter().filter_map(|word| Some((word, vectors.nearest(word, NEAREST)?))).collect();

    let folder = arguments.common.folder("word2vec", usual)?;
    let [drawn, saved] = ["words.svg", "vectors.txt"].map(|name| folder.join(name));
    draw(&drawn, vectors, &shown)?;
    vectors.save(&saved, Format::Text)?;
    if arguments.common.json {
        let fields = fields(&name, &corpus, &trained, &neighbours, &saved);
        println!("{}", example::object("word2vec", Some(&context), &[drawn], fields)?);
        return Ok(());
    }
    println!("| word | nearest, by the cosine |\n| --- | --- |");
    for (word, nearest) in &neighbours {
        let nearest: Vec<String> =
            nearest.iter().map(|(word, cosine)| format!("{word} {cosine:.2}")).collect();
        println!("| {word} | {} |", nearest.join(", "));
    }
    println!("\n{}\n{}", saved.display(), drawn.display());
    Ok(())
}

fn options(arguments: &Arguments) -> Result<Options> {
    // A short text is gone through often and with larger steps, in smaller batches.
    let architecture = match arguments.architecture {
        Kind::SkipGram => Architecture::SkipGram,
        Kind::BagOfWords => Architecture::BagOfWords,
    };
    let options = Options::new(architecture).with_dimension(arguments.dimension)?;
    let options = options.with_window(arguments.window)?.with_epochs(arguments.epochs)?;
    Ok(options.with_batch(BATCH)?.with_rates(0.05, 1e-4)?.with_seed(arguments.seed))
}

/// The name of the text, and its words.
fn corpus(arguments: &Arguments) -> Result<(String, Corpus)> {
    let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/persuasion.txt"));
    let path = arguments.text.as_deref().unwrap_or(shipped);
    let context = || format!("reading {}", path.display());
    let options = CorpusOptions::new().with_min_count(arguments.min_count);
    let corpus = if arguments.text.is_some() {
        Corpus::read(BufReader::new(File::open(path).with_context(context)?), options)
    } else {
        Corpus::read(sentences(&std::fs::read_to_string(path).with_context(context)?).as_bytes(), options)
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, corpus.with_context(context)?))
}

/// Words of letters in small ones, a sentence a line.
fn sentences(text: &str) -> String {
    let mut lines = String::with_capacity(text.len());
    for sentence in text.split(['.', '!', '?']) {
        let words = sentence.split(|letter: char| !letter.is_alphabetic()).filter(|word| !word.is_empty());
        lines.push_str(&words.collect::<Vec<_>>().join(" ").to_lowercase());
        lines.push('\n');
    }
    lines
}

fn train(context: &Context, corpus: &Corpus, options: Options) -> Result<Trained> {
    let mut training = Training::new(context, corpus, options)?;
    let mut progress = Progress::new();
    let begun = Instant::now();
    let mut batches = 1;
    while !training.is_done() {
        let before = begun.elapsed().as_secs_f64();
        let now = training.advance_blocking(batches)?;
        let seconds = begun.elapsed().as_secs_f64();
        // As many as take about half a second; twice as many at most, since the first ones tell
        // little.
        let fitting = 0.5 / (seconds - before) * batches as f64;
        batches = (fitting as usize).clamp(1, 2 * batches);
        let speed = now.tokens as f64 / seconds;
        let left = (now.of_tokens - now.tokens) as f64 / speed;
        progress.tell(format!(
            "epoch {} of {}, {speed:.0} words/s, rate {:.4}, {left:.0} s left",
            (now.epoch + 1).min(options.epochs()),
            options.epochs(),
            now.rate
        ));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let words_per_second = training.progress().tokens as f64 / seconds;
    progress.done("trained");
    Ok(Trained { vectors: training.vectors_blocking()?, seconds, words_per_second })
}

/// Numbers of words for the picture: frequent, and of five letters or more, which spares it most
/// words of grammar.
fn frequent(vectors: &WordVectors) -> Vec<usize> {
    let long = |number: &usize| vectors.words()[*number].chars().count() >= 5;
    // The most frequent of these are of grammar, too.
    (0..vectors.len()).filter(long).skip(SHOWN / 4).take(SHOWN).collect()
}

fn draw(path: &Path, vectors: &WordVectors, shown: &[usize]) -> Result<()> {
    let unit = |&number: &usize| {
        let row = &vectors.values()[number * vectors.dimension()..][..vectors.dimension()];
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter().map(move |value| value / length)
    };
    let rows: Vec<f32> = shown.iter().flat_map(unit).collect();
    let names = shown.iter().map(|&number| vectors.words()[number].as_str());
    let points: Vec<(&str, [f64; 2])> = names.zip(pca::plane(&rows, vectors.dimension())).collect();
    picture::names(path, "Frequent words by their two principal components", &points)
}

fn fields(
    name: &str,
    corpus: &Corpus,
    trained: &Trained,
    neighbours: &[Neighbours<'_>],
    saved: &Path,
) -> Value {
    let neighbours = neighbours.iter().map(|(word, nearest)| {
        let nearest = nearest.iter().map(|(word, cosine)| json!({ "word": word, "cosine": cosine }));
        json!({ "word": word, "nearest": nearest.collect::<Vec<_>>() })
    });
    json!({
        "text": name,
        "words": corpus.words(),
        "vocabulary": corpus.vocabulary().len(),
        "dimension": trained.vectors.dimension(),
        "seconds": trained.seconds,
        "words_per_second": trained.words_per_second,
        "neighbours": neighbours.collect::<Vec<_>>(),
        "vectors": saved,
    })
}
