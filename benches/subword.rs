//! How fast all words of a corpus are cut by a vocabulary: on threads of the host and on this
//! device, for corpora of different size.
//!
//! The words are made up: those of *Persuasion* (fixtures/) give an order-3 model of letters, each
//! distinct word once, from which distinct words are drawn; the r-th gets a count as by Zipf,
//! 10⁷/r and at least 1. The vocabulary is that of byte-pair merges of the first 100,000 of them,
//! its costs are those of unigrams after a first cut into the fewest pieces.
//!
//! A recount begins with a segmenter on the host and ends with counts and objective there: the
//! device's includes the upload of the vocabulary and the readback. Words are uploaded once, which
//! is timed apart. Ways run in turn, round after round, after one that isn't counted; medians over
//! rounds with the range, and medians of ratios.
//!
//! Below the table is an *estimate*, which nothing measured: the bytes that the kernel touches for
//! each word of the largest corpus, over a memory bandwidth that is given. It leaves out latency,
//! caches (which hold most of the vocabulary's nodes) and contention of atomic additions.
//!
//! ```text
//! scripts/with-vulkan cargo bench --features subword --bench subword
//! ```

mod support;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use prflash::Context;
use prflash::subword::{
    Cost, Costs, GpuSegmenter, GpuWords, MergesTrainer, Pattern, Segmenter, Steps, Vocabulary, WordCounts,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use support::milliseconds;
use testkit::statistics::{median, median_ratio};

/// Times recounts on the host and on the device.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Distinct words of the corpora.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    words: Vec<usize>,
    /// Pieces of the vocabulary.
    #[arg(long, default_value_t = 8192)]
    pieces: usize,
    /// Threads of the host, beside one alone.
    #[arg(long, default_value_t = NonZeroUsize::new(2).unwrap())]
    threads: NonZeroUsize,
    /// Rounds.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The bandwidth of the estimate, in 10⁹ bytes a second.
    #[arg(long, default_value_t = 448.0)]
    bandwidth: f64,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Seconds by round, of one corpus.
struct Row {
    words: usize,
    upload: f64,
    one: Vec<f64>,
    threads: Vec<f64>,
    gpu: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context =
        Context::new_blocking().context("a bench needs an adapter: scripts/with-vulkan brings one")?;
    let most = arguments.words.iter().copied().max().context("no corpora")?;
    let drawn = draw(most)?;
    let vocabulary = vocabulary(&drawn[..drawn.len().min(100_000)], arguments.pieces)?;
    let mut rows = Vec::new();
    for &words in &arguments.words {
        rows.push(row(&context, &arguments, &table(&drawn[..words])?, &vocabulary)?);
    }
    let touched = Touched::by(&table(&drawn)?, &vocabulary);
    if arguments.json {
        print_json(&context, &arguments, &rows, &touched)?;
    } else {
        print(&context, &arguments, &rows, &touched);
    }
    Ok(())
}

/// So many distinct words by the model of letters, as they were drawn.
fn draw(count: usize) -> Result<Vec<Vec<u8>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/persuasion.txt");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let known = WordCounts::from_text(&text[..], Pattern::Gpt2)?;
    // What follows three letters; 0 before and after a word.
    let mut next: HashMap<[u8; 3], Vec<u8>> = HashMap::new();
    for (word, _) in known.iter() {
        let mut before = [0; 3];
        for &letter in word.iter().chain(&[0]) {
            next.entry(before).or_default().push(letter);
            before = [before[1], before[2], letter];
        }
    }
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut words, mut seen) = (Vec::with_capacity(count), HashSet::with_capacity(count));
    while words.len() < count {
        let (mut word, mut before) = (Vec::new(), [0; 3]);
        loop {
            let letters = &next[&before];
            let letter = letters[rng.random_range(0..letters.len())];
            if letter == 0 {
                break;
            }
            word.push(letter);
            before = [before[1], before[2], letter];
        }
        if seen.insert(word.clone()) {
            words.push(word);
        }
    }
    Ok(words)
}

/// A table of these words, counted as by Zipf's law.
fn table(words: &[Vec<u8>]) -> Result<WordCounts> {
    let count = |rank: usize| (10_000_000 / (rank as u64 + 1)).max(1);
    Ok(WordCounts::from_counts(words.iter().enumerate().map(|(rank, word)| (word, count(rank))))?)
}

fn vocabulary(words: &[Vec<u8>], pieces: usize) -> Result<Vocabulary> {
    Ok(MergesTrainer::new(pieces)?.train(&table(words)?)?.vocabulary()?)
}

/// With the costs that follow from cuts into the fewest pieces.
fn segmenter(words: &WordCounts, vocabulary: &Vocabulary) -> Result<Segmenter> {
    let unit = Costs::new(Cost::Unit, &vec![0; vocabulary.len()], 0.0)?;
    let fewest = Segmenter::new(vocabulary.clone(), unit, Steps::Unlimited)?;
    let counts = fewest.recount(words, NonZeroUsize::MIN).counts;
    Ok(Segmenter::new(vocabulary.clone(), Costs::new(Cost::Unigram, &counts, 0.0)?, Steps::Unlimited)?)
}

fn row(context: &Context, arguments: &Arguments, words: &WordCounts, vocabulary: &Vocabulary) -> Result<Row> {
    let segmenter = segmenter(words, vocabulary)?;
    let begin = Instant::now();
    let on_device = GpuWords::new(context, words)?;
    context.wait()?;
    let upload = begin.elapsed().as_secs_f64();
    let mut row = Row { words: words.len(), upload, one: Vec::new(), threads: Vec::new(), gpu: Vec::new() };
    for round in 0..=arguments.rounds.max(1) {
        let begin = Instant::now();
        let gpu = on_device.recount_blocking(&GpuSegmenter::new(context, &segmenter)?)?;
        let middle = Instant::now();
        let one = segmenter.recount(words, NonZeroUsize::MIN);
        let late = Instant::now();
        let threads = segmenter.recount(words, arguments.threads);
        let end = Instant::now();
        ensure!(gpu == one && gpu == threads, "the device counts something else than the host");
        if round > 0 {
            row.gpu.push((middle - begin).as_secs_f64());
            row.one.push((late - middle).as_secs_f64());
            row.threads.push((end - late).as_secs_f64());
        }
    }
    Ok(row)
}

/// Bytes that the kernel touches, for a word on average.
struct Touched {
    /// Length, count, bytes and ends of pieces: one behind the other.
    streamed: f64,
    /// Nodes of the vocabulary, 16 bytes each, wherever they lie.
    gathered: f64,
    /// Counts of pieces, read and written.
    added: f64,
}

impl Touched {
    fn by(words: &WordCounts, vocabulary: &Vocabulary) -> Self {
        let prefixes: HashSet<&[u8]> =
            vocabulary.iter().flat_map(|piece| (1..=piece.len()).map(|len| &piece[..len])).collect();
        let (mut streamed, mut gathered, mut added) = (0, 0, 0);
        for (word, _) in words.iter() {
            streamed += 3 * 4 + word.len().next_multiple_of(4) + 4;
            for start in 0..word.len() {
                let rest = &word[start..];
                let found = (1..=rest.len()).take_while(|&len| prefixes.contains(&rest[..len])).count();
                // The byte that leads nowhere is looked up, too, if there is one.
                gathered += 16 * (found + 1).min(rest.len());
            }
            // As if every piece had four bytes.
            added += 8 * word.len().div_ceil(4);
        }
        let average = |bytes: usize| bytes as f64 / words.len().max(1) as f64;
        Self { streamed: average(streamed), gathered: average(gathered), added: average(added) }
    }

    /// Words a second at this many bytes, with every node from memory and with none.
    fn rates(&self, bandwidth: f64) -> (f64, f64) {
        let least = self.streamed + self.added;
        (bandwidth / (least + self.gathered), bandwidth / least)
    }
}

/// The smallest corpus from which on the device is faster.
fn crossing<'r>(rows: &'r [Row], host: impl Fn(&'r Row) -> &'r [f64]) -> Option<usize> {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| row.words);
    let slower = sorted.iter().rposition(|row| median_ratio(host(row), &row.gpu) <= 1.0);
    sorted.get(slower.map_or(0, |at| at + 1)).map(|row| row.words)
}

fn print(context: &Context, arguments: &Arguments, rows: &[Row], touched: &Touched) {
    let threads = arguments.threads;
    println!("{}", context.capabilities());
    println!("\nOne recount by {} pieces, unigrams, ms:\n", arguments.pieces);
    println!(
        "| words | host, 1 thread | host, {threads} threads | GPU | 10⁶ words/s on the GPU | 1 thread / GPU \
        | {threads} threads / GPU | upload, once |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for row in rows {
        println!(
            "| {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.1} |",
            row.words,
            milliseconds(&row.one),
            milliseconds(&row.threads),
            milliseconds(&row.gpu),
            row.words as f64 / median(&row.gpu) * 1e-6,
            median_ratio(&row.one, &row.gpu),
            median_ratio(&row.threads, &row.gpu),
            row.upload * 1e3,
        );
    }
    let told =
        |from: Option<usize>| from.map_or("at none of these".to_owned(), |words| format!("from {words} on"));
    println!(
        "\nThe GPU is faster than 1 thread {}, than {threads} threads {}.",
        told(crossing(rows, |row| &row.one)),
        told(crossing(rows, |row| &row.threads))
    );
    let (all, none) = touched.rates(arguments.bandwidth * 1e9);
    println!(
        "\nEstimate, not measured: {:.0} bytes a word streamed, {:.0} of nodes, {:.0} of counts. At {} GB/s \
        that is {:.0}·10⁶ words a second with every node from memory, {:.0}·10⁶ with all of them in caches.",
        touched.streamed,
        touched.gathered,
        touched.added,
        arguments.bandwidth,
        all * 1e-6,
        none * 1e-6
    );
}

fn print_json(context: &Context, arguments: &Arguments, rows: &[Row], touched: &Touched) -> Result<()> {
    let of = |row: &Row| {
        json!({
            "words": row.words, "upload_seconds": row.upload, "host_seconds": row.one,
            "host_threads_seconds": row.threads, "gpu_seconds": row.gpu,
            "host_over_gpu": median_ratio(&row.one, &row.gpu),
            "host_threads_over_gpu": median_ratio(&row.threads, &row.gpu),
        })
    };
    let (all, none) = touched.rates(arguments.bandwidth * 1e9);
    let capabilities = context.capabilities();
    let object = json!({
        "adapter": capabilities.adapter, "driver": capabilities.driver, "pieces": arguments.pieces,
        "threads": arguments.threads, "rows": rows.iter().map(of).collect::<Vec<_>>(),
        "estimate": {
            "bandwidth": arguments.bandwidth * 1e9, "streamed_bytes": touched.streamed,
            "node_bytes": touched.gathered, "count_bytes": touched.added,
            "words_per_second_from_memory": all, "words_per_second_cached": none,
        },
    });
    println!("{}", serde_json::to_string_pretty(&object)?);
    Ok(())
}
