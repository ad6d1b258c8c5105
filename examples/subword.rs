//! Vocabularies of sub-words trained on a text: byte pairs merged (BPE), and cuts at the least cost
//! (SWE) that start from them; how well each encodes a part of the text that it hasn't seen.
//!
//! ```text
//! cargo run --release --features subword --example subword
//! ```

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use prflash::subword::{Cost, Merges, MergesTrainer, Pattern, Segmenter, Trained, Trainer, WordCounts};
use serde_json::{Value, json};
use testkit::chart::{Axis, Panel, Scale, Series, chart};
use testkit::example::{self, Progress};

/// Trains sub-word vocabularies and compares them on text that they haven't seen.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    /// The text; by default Jane Austen's Persuasion, which ships.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Another text to judge by, instead of the last part of the first.
    #[arg(long)]
    held_out: Option<PathBuf>,
    /// How the text is cut into words.
    #[arg(long, default_value = "gpt2")]
    pattern: Pattern,
    /// Sizes of vocabularies.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "512,1024,2048,4096",
        default_value_if("quick", "true", "512,1024")
    )]
    sizes: Vec<usize>,
    /// What every piece costs beside its own cost, in nats.
    #[arg(long, default_value_t = 0.0)]
    lambda: f64,
    /// Threads to train on.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
}

/// The part of a text that is trained on, where there is no other to judge by.
const TRAINED: f64 = 0.85;

/// How well a vocabulary encodes words that it hasn't seen.
struct Quality {
    bytes_per_token: f64,
    /// Under the unigram model of the training cuts, each count one half more.
    bits_per_byte: f64,
    seconds: f64,
}

struct Row {
    size: usize,
    bpe: Quality,
    swe: Quality,
    rounds: usize,
    /// Frequent held-out words that the two cut in different ways.
    differing: Vec<(String, String, String)>,
}

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let (name, train, test) = texts(&arguments)?;
    ensure!(!train.is_empty() && !test.is_empty(), "the text has no words to train on, or none to judge by");
    eprintln!("{name}: {} distinct words to train on, {} to judge by", train.len(), test.len());
    let mut rows = Vec::new();
    for &size in &arguments.sizes {
        rows.push(compare(&arguments, size, &train, &test)?);
    }
    let picture = arguments.common.folder("subword", usual)?.join("subword.svg");
    draw(&picture, &rows)?;
    if arguments.common.json {
        println!("{}", example::object("subword", None, &[picture], fields(&name, &arguments, &rows))?);
    } else {
        print(&rows);
        println!("\n{}", picture.display());
    }
    Ok(())
}

/// The name of the text, and the words of both its parts.
fn texts(arguments: &Arguments) -> Result<(String, WordCounts, WordCounts)> {
    let shipped = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/persuasion.txt"));
    let path = arguments.text.as_ref().unwrap_or(&shipped);
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    let text = read(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words = |text: &[u8]| WordCounts::from_text(text, arguments.pattern);
    if let Some(other) = &arguments.held_out {
        return Ok((name, words(&text)?, words(&read(other)?)?));
    }
    // Between two lines.
    let part = (text.len() as f64 * TRAINED) as usize;
    let cut = text[part..].iter().position(|&byte| byte == b'\n').map_or(part, |at| part + at + 1);
    Ok((name, words(&text[..cut])?, words(&text[cut..])?))
}

fn compare(arguments: &Arguments, size: usize, train: &WordCounts, test: &WordCounts) -> Result<Row> {
    let mut progress = Progress::new();
    let begun = Instant::now();
    let merges = MergesTrainer::new(size)?.train(train)?;
    let bpe_seconds = begun.elapsed().as_secs_f64();
    let by_merges = |word: &[u8]| {
        let mut pieces = Vec::new();
        merges.encode_word(word, &mut pieces);
        pieces
    };
    let begun = Instant::now();
    let trainer = Trainer::new(size)?.with_cost(Cost::Unigram, arguments.lambda)?;
    let trainer = trainer.with_threads(arguments.threads);
    let Trained { segmenter, rounds, .. } = trainer.train(train, &merges.vocabulary()?, |now| {
        progress.tell(format!("{size} pieces, round {}: {:.4} nats a byte", now.rounds, now.cost_per_byte));
        ControlFlow::Continue(())
    })?;
    let swe_seconds = begun.elapsed().as_secs_f64();
    progress.done(format!("{size} pieces, {rounds} rounds"));
    let by_cost = |word: &[u8]| segmenter.segment(word).pieces;
    Ok(Row {
        size,
        bpe: quality(merges.pieces(), by_merges, train, test, bpe_seconds),
        swe: quality(segmenter.vocabulary().len(), by_cost, train, test, swe_seconds),
        rounds,
        differing: differing(&merges, &segmenter, test),
    })
}

fn quality(
    pieces: usize,
    encode: impl Fn(&[u8]) -> Vec<u32>,
    train: &WordCounts,
    test: &WordCounts,
    seconds: f64,
) -> Quality {
    let count = |words: &WordCounts| {
        let mut counts = vec![0u64; pieces];
        for (word, count) in words.iter() {
            encode(word).into_iter().for_each(|piece| counts[piece as usize] += count);
        }
        counts
    };
    let (seen, unseen) = (count(train), count(test));
    let total = seen.iter().sum::<u64>() as f64 + 0.5 * pieces as f64;
    let bits = |(&seen, &unseen): (&u64, &u64)| -((seen as f64 + 0.5) / total).log2() * unseen as f64;
    let bytes = test.total_bytes() as f64;
    Quality {
        bytes_per_token: bytes / unseen.iter().sum::<u64>() as f64,
        bits_per_byte: seen.iter().zip(&unseen).map(bits).sum::<f64>() / bytes,
        seconds,
    }
}

/// The most frequent words that are cut in different ways: the word, by merges, at the least cost.
fn differing(merges: &Merges, segmenter: &Segmenter, words: &WordCounts) -> Vec<(String, String, String)> {
    let mut frequent: Vec<(&[u8], u64)> = words.iter().collect();
    frequent.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let joined = |pieces: Vec<&[u8]>| {
        let pieces: Vec<_> = pieces.into_iter().map(String::from_utf8_lossy).collect();
        pieces.join("·")
    };
    let cuts = |word: &[u8]| {
        let mut ids = Vec::new();
        merges.encode_word(word, &mut ids);
        let merged = ids.iter().filter_map(|&id| merges.piece(id)).collect();
        let pieces = segmenter.segment(word).pieces;
        let cheapest = pieces.iter().map(|&piece| segmenter.vocabulary().piece(piece)).collect();
        (joined(merged), joined(cheapest))
    };
    let all = frequent.into_iter().map(|(word, _)| {
        let (merged, cheapest) = cuts(word);
        (String::from_utf8_lossy(word).into_owned(), merged, cheapest)
    });
    all.filter(|(_, merged, cheapest)| merged != cheapest).take(8).collect()
}

fn draw(path: &std::path::Path, rows: &[Row]) -> Result<()> {
    let curve = |name: &str, value: fn(&Row) -> f64| {
        Series::line(name, rows.iter().map(|row| (row.size as f64, value(row))))
    };
    let panel = |title: &str, bpe, swe| Panel {
        title: title.to_owned(),
        series: vec![curve("BPE", bpe), curve("SWE", swe)],
    };
    let panels = [
        panel("bytes per token", |row| row.bpe.bytes_per_token, |row| row.swe.bytes_per_token),
        panel("bits per byte, unigram", |row| row.bpe.bits_per_byte, |row| row.swe.bits_per_byte),
    ];
    let pieces = Axis { title: "pieces", scale: Scale::Powers(2.0), ..Axis::default() };
    chart(path, [pieces, Axis { title: "held out", ..Axis::default() }], &panels)
}

fn print(rows: &[Row]) {
    println!("| pieces | | bytes/token | bits/byte | training s |");
    println!("| ---: | --- | ---: | ---: | ---: |");
    for row in rows {
        for (name, Quality { bytes_per_token, bits_per_byte, seconds }) in
            [("BPE", &row.bpe), ("SWE", &row.swe)]
        {
            println!("| {} | {name} | {bytes_per_token:.3} | {bits_per_byte:.3} | {seconds:.2} |", row.size);
        }
    }
    if let Some(row) = rows.last() {
        println!("\nAt {} pieces, frequent words that are cut in different ways:\n", row.size);
        println!("| word | merged | at the least cost |\n| --- | --- | --- |");
        for (word, merged, cheapest) in &row.differing {
            println!("| {word:?} | {merged:?} | {cheapest:?} |");
        }
    }
}

fn fields(name: &str, arguments: &Arguments, rows: &[Row]) -> Value {
    let quality = |quality: &Quality| {
        json!({
            "bytes_per_token": quality.bytes_per_token,
            "bits_per_byte": quality.bits_per_byte,
            "training_seconds": quality.seconds,
        })
    };
    let row = |row: &Row| {
        let differing = row
            .differing
            .iter()
            .map(|(word, merged, cheapest)| json!({ "word": word, "bpe": merged, "swe": cheapest }));
        json!({
            "pieces": row.size,
            "bpe": quality(&row.bpe),
            "swe": quality(&row.swe),
            "rounds": row.rounds,
            "differing": differing.collect::<Vec<_>>(),
        })
    };
    json!({
        "text": name,
        "pattern": arguments.pattern.to_string(),
        "lambda_nats": arguments.lambda,
        "sizes": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
