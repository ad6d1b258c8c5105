//! `lab subword compare`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lab::subword::compare::Pair;
use lab::subword::contenders::Contender;
use lab::subword::peers::Peer;
use lab::subword::rows::{Row, Rows};
use serde_json::json;

use super::read;
use crate::commands::{REVISION, busy, check_stop};

/// The script that runs other programs.
const PEERS: &str = "scripts/subword-peers";

#[derive(clap::Args)]
pub struct Args {
    /// What this pair of texts is called in the results
    #[arg(long)]
    name: String,
    /// A text to train on; repeat for more, which are joined in this order
    #[arg(long, required = true)]
    train: Vec<PathBuf>,
    /// The text to judge by; without it the last part of the text is kept from training
    #[arg(long)]
    held_out: Option<PathBuf>,
    /// The part to train on, where there is no --held-out; cut at the end of a line
    #[arg(long, default_value_t = 0.85, conflicts_with = "held_out")]
    part: f64,
    /// The sizes of the vocabularies
    #[arg(long, value_delimiter = ',', default_values_t = [4096, 8192, 16384])]
    sizes: Vec<usize>,
    /// Measure only encoders with this in their name; repeat for more
    #[arg(long)]
    only: Vec<String>,
    /// Run also other people's programs on the same texts (scripts/subword-peers; Python,
    /// downloads)
    #[arg(long)]
    peers: bool,
    /// The folder for texts and what other programs encoded [default: target/subword/NAME]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The file of results, to which rows are added, or renewed
    #[arg(long, default_value = "lab/results/subword.csv")]
    results: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measures and writes down.
///
/// # Errors
/// Options and files that don't do, by name; another program that fails.
pub fn run(arguments: &Args) -> Result<()> {
    ensure!(
        arguments.part > 0.0 && arguments.part < 1.0,
        "--part: expected between 0 and 1, got {}",
        arguments.part
    );
    let (train, held_out) = texts(arguments)?;
    ensure!(
        !train.is_empty() && !held_out.is_empty(),
        "--train, --held-out: expected two texts that aren't empty"
    );
    let pair = Pair::new(&arguments.name, train, held_out, REVISION)?;
    let mut rows = Rows::open(&arguments.results)?;
    let mut measured = Vec::new();
    let mut put = |row: Row| -> Result<()> {
        eprintln!("{}", line(&row));
        measured.push(row.clone());
        rows.put(row)
    };
    let wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part));
    for &size in &arguments.sizes {
        for contender in Contender::all().into_iter().filter(|contender| wanted(&contender.to_string())) {
            let bar = busy(&format!("{size}: {contender}"));
            let row = pair.measure(contender, size, &mut || match check_stop() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })?;
            bar.finish_and_clear();
            // Judging is over in seconds; between two encoders is where to stop.
            check_stop()?;
            row.map_or(Ok(()), &mut put)?;
        }
    }
    if arguments.peers {
        let folder =
            arguments.folder.clone().unwrap_or_else(|| Path::new("target/subword").join(&arguments.name));
        run_peers(&pair, &arguments.sizes, &folder)?;
        for &size in &arguments.sizes {
            let (train, held_out) = pair.texts();
            for (peer, streams) in Peer::all(&folder.join(size.to_string()), train.len(), held_out.len())? {
                check_stop()?;
                let judging = busy(&format!("{size}: judging {}", peer.peer));
                let row = pair.judge_peer(size, &peer, &streams);
                judging.finish_and_clear();
                put(row)?;
            }
        }
    }
    let results = arguments.results.display().to_string();
    if arguments.json {
        let object = json!({ "texts": arguments.name, "results": results, "rows": measured });
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        println!("{} rows in {results}; `lab report` writes them down", measured.len());
    }
    Ok(())
}

fn texts(arguments: &Args) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut train = Vec::new();
    for path in &arguments.train {
        train.append(&mut read("--train", path)?);
    }
    match &arguments.held_out {
        Some(path) => Ok((train, read("--held-out", path)?)),
        None => Ok(Pair::cut(&train, arguments.part)),
    }
}

fn run_peers(pair: &Pair, sizes: &[usize], folder: &Path) -> Result<()> {
    let (train, held_out) = pair.texts();
    let [train_path, held_out_path] = ["train.txt", "held-out.txt"].map(|name| folder.join(name));
    testkit::files::write(&train_path, train)?;
    testkit::files::write(&held_out_path, held_out)?;
    let sizes = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new(PEERS);
    command.arg("--train").arg(train_path).arg("--held-out").arg(held_out_path);
    command.args(["--sizes", &sizes]).arg("--out").arg(folder);
    let status = command.status().with_context(|| format!("--peers: running {PEERS}"))?;
    check_stop()?;
    ensure!(status.success(), "--peers: {PEERS} failed; what it says is above");
    Ok(())
}

fn line(row: &Row) -> String {
    let Row { size, encoder, bytes_per_token, unigram_bits, five_gram_bits, encode_mb_per_s, .. } = row;
    let training =
        row.train_cpu_seconds.map_or(String::new(), |seconds| format!(", trained in {seconds:.2} s"));
    format!(
        "{size:6} {encoder}: {bytes_per_token:.3} bytes per token, {unigram_bits:.3} and {five_gram_bits:.3} bits per \
         byte{training}, {encode_mb_per_s:.1} MB/s"
    )
}
