//! How fast texts are encoded: prflash on one thread and on two, and by the same vocabularies
//! Hugging Face's `tokenizers` and `tiktoken-rs`, all in turn; the ids are compared before.
//!
//! `cargo bench -p lab --bench encoding -- [--text FILE]… [--size N] [--rounds N] [--json]`

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lab::subword::compare::documents;
use prflash::subword::{MergesTrainer, Model, Pattern, Tokenizer, Trainer, WordCounts};
use serde_json::json;
use testkit::statistics::{median, median_ratio, range, ratios};
use tiktoken_rs::CoreBPE;

#[derive(Parser)]
struct Arguments {
    /// A text; repeat for more. Both vocabularies are trained on all. Persuasion, which ships, by
    /// default.
    #[arg(long)]
    text: Vec<PathBuf>,
    /// Pieces.
    #[arg(long, default_value_t = 8192)]
    size: usize,
    /// Timed rounds; every program runs once in each.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A program that encodes all documents, and says how many ids there are.
struct Way<'a> {
    name: &'static str,
    encode: Box<dyn FnMut() -> Result<usize> + 'a>,
    seconds: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let shipped = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/persuasion.txt"));
    let paths = if arguments.text.is_empty() { vec![shipped] } else { arguments.text.clone() };
    let mut text = String::new();
    for path in &paths {
        let more = std::fs::read_to_string(path).with_context(|| format!("--text {}", path.display()))?;
        text.push_str(&more);
    }
    let documents: Vec<&str> =
        documents(text.as_bytes()).map(std::str::from_utf8).collect::<Result<_, _>>()?;
    eprintln!("training on {:.1} MB", text.len() as f64 / 1e6);
    let words = WordCounts::from_text(text.as_bytes(), Pattern::Gpt2)?;
    let merges = MergesTrainer::new(arguments.size)?.train(&words)?;
    let trainer = Trainer::new(arguments.size)?;
    let trained = trainer.train(&words, &merges.vocabulary()?, |_| ControlFlow::Continue(()))?;
    let swe = Tokenizer::new(Pattern::Gpt2, trained.segmenter);
    let bpe = Tokenizer::new(Pattern::Gpt2, merges);
    let (hf_unigram, hf_bpe) = (hugging_face(&swe)?, hugging_face(&bpe)?);
    let tiktoken = tiktoken(&bpe)?;
    for document in &documents {
        let (by_cost, by_merges) = (swe.encode(document), bpe.encode(document));
        ensure!(theirs(&hf_unigram, document)? == by_cost, "Hugging Face's Unigram gives other ids");
        ensure!(theirs(&hf_bpe, document)? == by_merges, "Hugging Face's BPE gives other ids");
        ensure!(tiktoken.encode_ordinary(document) == by_merges, "tiktoken gives other ids");
    }
    eprintln!("all ids are the same; {} rounds", arguments.rounds);
    let mut ways = vec![
        way("prflash SWE", || Ok(ours(&swe, &documents, 1))),
        way("prflash SWE, 2 threads", || Ok(ours(&swe, &documents, 2))),
        way("tokenizers Unigram", || their_ids(&hf_unigram, &documents)),
        way("prflash BPE", || Ok(ours(&bpe, &documents, 1))),
        way("prflash BPE, 2 threads", || Ok(ours(&bpe, &documents, 2))),
        way("tokenizers BPE", || their_ids(&hf_bpe, &documents)),
        way("tiktoken-rs", || Ok(documents.iter().map(|text| tiktoken.encode_ordinary(text).len()).sum())),
    ];
    // A first round warms up and isn't counted.
    for round in 0..=arguments.rounds {
        for way in &mut ways {
            let begun = Instant::now();
            (way.encode)()?;
            if round > 0 {
                way.seconds.push(begun.elapsed().as_secs_f64());
            }
        }
        eprint!("\rround {round} of {}", arguments.rounds);
    }
    eprintln!();
    report(&arguments, text.len(), &ways);
    Ok(())
}

fn way<'a>(name: &'static str, encode: impl FnMut() -> Result<usize> + 'a) -> Way<'a> {
    Way { name, encode: Box::new(encode), seconds: Vec::new() }
}

fn ours(tokenizer: &Tokenizer, documents: &[&str], threads: usize) -> usize {
    let threads = NonZeroUsize::MIN.saturating_add(threads - 1);
    tokenizer.encode_batch(documents, threads).iter().map(Vec::len).sum()
}

fn hugging_face(tokenizer: &Tokenizer) -> Result<tokenizers::Tokenizer> {
    tokenizer.to_hugging_face()?.parse().map_err(anyhow::Error::msg)
}

fn theirs(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode_fast(text, false).map_err(anyhow::Error::msg)?;
    Ok(encoding.get_ids().to_vec())
}

fn their_ids(tokenizer: &tokenizers::Tokenizer, documents: &[&str]) -> Result<usize> {
    documents.iter().map(|text| Ok(theirs(tokenizer, text)?.len())).sum()
}

fn tiktoken(tokenizer: &Tokenizer) -> Result<CoreBPE> {
    let Model::Merges(merges) = tokenizer.model() else { anyhow::bail!("tiktoken has merges") };
    let ranks = merges.iter().map(<[u8]>::to_vec).zip(0..).collect();
    CoreBPE::new(ranks, Default::default(), tokenizer.pattern().regex())
}

fn report(arguments: &Arguments, bytes: usize, ways: &[Way<'_>]) {
    let speeds = |way: &Way<'_>| -> Vec<f64> {
        way.seconds.iter().map(|seconds| bytes as f64 / 1e6 / seconds).collect()
    };
    let find = |name: &str| ways.iter().find(|way| way.name == name);
    // Seconds of the other over those of ours, round by round.
    let pairs = [
        ("prflash SWE", "tokenizers Unigram"),
        ("prflash SWE", "tiktoken-rs"),
        ("prflash BPE", "tokenizers BPE"),
        ("prflash BPE", "tiktoken-rs"),
        ("prflash SWE, 2 threads", "prflash SWE"),
        ("prflash BPE, 2 threads", "prflash BPE"),
    ];
    let compared = pairs.into_iter().filter_map(|(ours, theirs)| {
        let (ours, theirs) = (find(ours)?, find(theirs)?);
        let (low, high) = range(&ratios(&theirs.seconds, &ours.seconds));
        Some((ours.name, theirs.name, median_ratio(&theirs.seconds, &ours.seconds), low, high))
    });
    if arguments.json {
        let ways = ways.iter().map(|way| json!({ "name": way.name, "mb_per_s": speeds(way) }));
        let ratios = compared.map(|(ours, theirs, ratio, low, high)| {
            json!({ "of": ours, "over": theirs, "median": ratio, "least": low, "most": high })
        });
        let object = json!({
            "bytes": bytes,
            "pieces": arguments.size,
            "ways": ways.collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>(),
        });
        println!("{object}");
        return;
    }
    println!("| program | MB/s: median (least to most) |\n| --- | ---: |");
    for way in ways {
        let (low, high) = range(&speeds(way));
        println!("| {} | {:.1} ({low:.1} to {high:.1}) |", way.name, median(&speeds(way)));
    }
    println!("\n| | over | times as fast: median (least to most) |\n| --- | --- | ---: |");
    for (ours, theirs, ratio, low, high) in compared {
        println!("| {ours} | {theirs} | {ratio:.2} ({low:.2} to {high:.2}) |");
    }
}
