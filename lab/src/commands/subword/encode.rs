//! `lab subword encode`.

use std::io::{BufReader, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use prflash::subword::Tokenizer;
use serde_json::json;

use super::{open, read};
use crate::commands::busy;

#[derive(clap::Args)]
pub struct Args {
    /// A tokenizer that `lab subword train` wrote, or a tokenizer.json with the same parts
    #[arg(long)]
    model: PathBuf,
    /// The text to encode; - is standard input
    #[arg(long, required_unless_present = "decode", conflicts_with = "decode")]
    text: Option<PathBuf>,
    /// Ids to decode, as --out writes them; the text goes to standard output
    #[arg(long, conflicts_with_all = ["out", "json", "show"])]
    decode: Option<PathBuf>,
    /// Where the ids go, four bytes each, the lowest first
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the pieces of the text, one a line
    #[arg(long, conflicts_with = "json")]
    show: bool,
    /// Threads, which change nothing but the time
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Encodes or decodes.
///
/// # Errors
/// Options and files that don't do, by name.
pub fn run(arguments: &Args) -> Result<()> {
    let tokenizer = tokenizer(arguments)?;
    if let Some(path) = &arguments.decode {
        let bytes = read("--decode", path)?;
        let (ids, rest) = bytes.as_chunks::<4>();
        ensure!(rest.is_empty(), "--decode: expected four bytes an id, got {} bytes", bytes.len());
        let ids: Vec<u32> = ids.iter().map(|&id| u32::from_le_bytes(id)).collect();
        let _decoding = busy("decoding");
        std::io::stdout().write_all(&tokenizer.decode(&ids).context("--decode")?)?;
        return Ok(());
    }
    let path = arguments.text.as_ref().context("--text: nothing to encode")?;
    let text = read("--text", path)?;
    let encoding = busy("encoding");
    let begun = Instant::now();
    let ids = tokenizer.encode_batch(&[&text], arguments.threads).remove(0);
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(tokenizer.decode(&ids)? == text, "the text didn't come back from its ids (please report this)");
    encoding.finish_and_clear();
    if let Some(out) = &arguments.out {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        testkit::files::write(out, bytes)?;
    }
    let (bytes, tokens) = (text.len(), ids.len());
    let per_token = bytes as f64 / (tokens as f64).max(1.0);
    if arguments.json {
        let object = json!({
            "bytes": bytes,
            "tokens": tokens,
            "bytes_per_token": per_token,
            "seconds": seconds,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    if arguments.show {
        let mut out = std::io::stdout().lock();
        for &id in &ids {
            let piece = tokenizer.model().piece(id).unwrap_or_default();
            writeln!(out, "{id}\t{}", piece.escape_ascii())?;
        }
    }
    let speed = bytes as f64 / 1e6 / seconds;
    println!("{bytes} bytes, {tokens} tokens, {per_token:.3} bytes per token, {speed:.1} MB/s");
    Ok(())
}

fn tokenizer(arguments: &Args) -> Result<Tokenizer> {
    let path = &arguments.model;
    let context = || format!("--model {}", path.display());
    if path.extension().is_some_and(|extension| extension == "json") {
        let json = read("--model", path)?;
        return Tokenizer::from_hugging_face(std::str::from_utf8(&json).with_context(context)?)
            .with_context(context);
    }
    Tokenizer::read(BufReader::new(open("--model", path)?)).with_context(context)
}
