//! `lab word2vec evaluate`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use lab::word2vec::judge::{Half, Judge, Verdict, sums};
use prflash::word2vec::{Analogy, Case, Format, Rules, Similarity};
use serde_json::json;

use crate::commands::{busy, check_stop};

/// How analogies are completed (Levy and Goldberg 2014).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// 3CosAdd.
    Add,
    /// 3CosMul.
    Mul,
}

#[derive(clap::Args)]
pub struct Args {
    /// Files of vectors in word2vec's formats, binary if their names end in .bin, else text
    #[arg(required = true)]
    vectors: Vec<PathBuf>,
    /// The folder that scripts/fetch-models similarity fills
    #[arg(long, default_value = "target/similarity")]
    data: PathBuf,
    /// How analogies are completed
    #[arg(long, value_enum, default_value = "add")]
    analogy: Method,
    /// Drop pairs with an unknown word, as gensim does, instead of giving them the median
    #[arg(long)]
    dropped: bool,
    /// Take words that differ in case for different ones
    #[arg(long)]
    case: bool,
    /// Judge only by a half: the first to choose settings by, the second to report what was chosen
    #[arg(long, value_enum)]
    half: Option<Half>,
    /// Threads, which change nothing but the time
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Judges one file after the other.
///
/// # Errors
/// Files that don't do, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let judge =
        Judge::open(&arguments.data).context("--data; scripts/fetch-models similarity brings its files")?;
    let judge = arguments.half.map_or(judge.clone(), |half| judge.half(half));
    let rules = if arguments.dropped { Rules::gensim() } else { Rules::default() };
    let case = if arguments.case { Case::Kept } else { Case::Ignored };
    let rules = rules.with_case(case).with_threads(arguments.threads);
    let method = if arguments.analogy == Method::Mul { Analogy::CosMul } else { Analogy::CosAdd };
    let mut files = Vec::new();
    for path in &arguments.vectors {
        check_stop()?;
        let judging = busy(&format!("judging {}", path.display()));
        let vectors = super::load(path)?;
        let begun = Instant::now();
        let verdict = judge.judge(&vectors, method, &rules);
        let seconds = begun.elapsed().as_secs_f64();
        judging.finish_and_clear();
        let (words, dimension) = (vectors.len(), vectors.dimension());
        if arguments.json {
            let [words_sha256, values_sha256] = sums(&vectors);
            let mut object = json!({
                "file": path,
                "format": if Format::of(path) == Format::Binary { "binary" } else { "text" },
                "words": words,
                "dimension": dimension,
                "words_sha256": words_sha256,
                "values_sha256": values_sha256,
                "seconds": seconds,
            });
            if let (Some(object), Some(found)) = (object.as_object_mut(), verdict.to_json().as_object()) {
                object.extend(found.clone());
            }
            files.push(object);
        } else {
            println!("{}: {words} words × {dimension}", path.display());
            print(&verdict);
        }
    }
    if arguments.json {
        let object = json!({
            "analogy": if method == Analogy::CosMul { "3CosMul" } else { "3CosAdd" },
            "unknown_pairs": if arguments.dropped { "dropped" } else { "median" },
            "case": if arguments.case { "kept" } else { "ignored" },
            "half": arguments.half.map(|half| if half == Half::First { "first" } else { "second" }),
            "files": files,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    }
    Ok(())
}

fn print(verdict: &Verdict) {
    let pairs = |name: &str, found: &Similarity| {
        let Similarity { spearman, pairs, covered } = found;
        println!("  {name:<12} {spearman:.3}   {covered} of {pairs} pairs covered");
    };
    pairs("WordSim-353", &verdict.wordsim);
    pairs("SimLex-999", &verdict.simlex);
    let total = verdict.analogies.total();
    let (strict, covered) = (100.0 * total.accuracy(), 100.0 * total.accuracy_of_covered());
    println!(
        "  {:<12} {strict:.1}%   {} of {} right, {} covered ({covered:.1}% of these)",
        "analogies", total.right, total.asked, total.covered
    );
}
