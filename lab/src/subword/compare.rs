//! One encoder measured on a pair of texts.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cpu_time::ProcessTime;
use prflash::subword::{Pattern, Tokenizer, WordCounts};
use sha2::{Digest as _, Sha256};

use super::contenders::Contender;
use super::judge::{Verdict, judge};
use super::peers::Peer;
use super::rows::Row;
use super::stream::Streams;

/// Texts are encoded in documents of about this many bytes, as `scripts/subword-peers` cuts them.
const DOCUMENT: usize = 64 << 10;
/// Passes over both texts, of which the best counts.
const PASSES: usize = 3;

/// A text to train on and one to judge by.
pub struct Pair {
    name: String,
    train: Vec<u8>,
    held_out: Vec<u8>,
    revision: String,
    words: WordCounts,
    /// How long counting the words took.
    counting: Duration,
}

impl Pair {
    /// Counts the words of the text to train on.
    ///
    /// # Errors
    /// The errors of counting.
    pub fn new(name: &str, train: Vec<u8>, held_out: Vec<u8>, revision: &str) -> Result<Self> {
        let begun = ProcessTime::now();
        let words = words(&train)?;
        let counting = begun.elapsed();
        Ok(Self { name: name.into(), train, held_out, revision: revision.into(), words, counting })
    }

    /// The text to train on, and the other.
    pub fn texts(&self) -> (&[u8], &[u8]) {
        (&self.train, &self.held_out)
    }

    /// A text's beginning to train on, and the rest to judge by: cut at the end of a line.
    pub fn cut(text: &[u8], part: f64) -> (Vec<u8>, Vec<u8>) {
        let at = (text.len() as f64 * part) as usize;
        let cut = text[at..].iter().position(|&byte| byte == b'\n').map_or(text.len(), |more| at + more + 1);
        (text[..cut].to_vec(), text[cut..].to_vec())
    }

    /// Trains an encoder and judges it; none if `progress` ended it.
    ///
    /// # Errors
    /// Sizes that can't be.
    pub fn measure(
        &self,
        contender: Contender,
        size: usize,
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Row>> {
        let begun = ProcessTime::now();
        let mut ended = false;
        let tokenizer = contender.train(&self.words, size, &mut || {
            let flow = progress();
            ended |= flow.is_break();
            flow
        })?;
        let training = self.counting + begun.elapsed();
        if ended {
            return Ok(None);
        }
        let (mut best, mut streams) = (Duration::MAX, None);
        for _ in 0..PASSES {
            // A tokenizer without words in its cache, as the others begin.
            let tokenizer = tokenizer.clone();
            let begun = Instant::now();
            let [train, held_out] = [&self.train, &self.held_out].map(|text| encoded(&tokenizer, text));
            best = best.min(begun.elapsed());
            streams = Some((train, held_out));
        }
        let (train, held_out) = streams.context("no pass")?;
        let lossless =
            tokenizer.decode(&train)? == self.train && tokenizer.decode(&held_out)? == self.held_out;
        let streams = Streams::new(tokenizer.model().len(), train, held_out, self.held_out.len())?;
        let row = self.row(size, judge(&streams));
        Ok(Some(Row {
            encoder: contender.to_string(),
            program: format!("prflash {}", env!("CARGO_PKG_VERSION")),
            train_cpu_seconds: Some(training.as_secs_f64()),
            encode_mb_per_s: (self.train.len() + self.held_out.len()) as f64 / 1e6 / best.as_secs_f64(),
            lossless,
            ..row
        }))
    }

    /// What the judges say of another program's ids.
    pub fn judge_peer(&self, size: usize, peer: &Peer, streams: &Streams) -> Row {
        Row {
            encoder: peer.peer.clone(),
            program: peer.version.clone(),
            train_cpu_seconds: peer.train_cpu_seconds,
            encode_mb_per_s: peer.encode_mb_per_s,
            lossless: peer.lossless,
            ..self.row(size, judge(streams))
        }
    }

    fn row(&self, size: usize, verdict: Verdict) -> Row {
        let sum = |text: &[u8]| format!("{:x}", Sha256::digest(text));
        let Verdict { bytes_per_token, unigram_bits, five_gram_bits, renyi_efficiency, used } = verdict;
        Row {
            texts: self.name.clone(),
            train_sha256: sum(&self.train),
            held_out_sha256: sum(&self.held_out),
            train_bytes: self.train.len(),
            held_out_bytes: self.held_out.len(),
            size,
            encoder: String::new(),
            program: String::new(),
            bytes_per_token,
            unigram_bits,
            five_gram_bits,
            renyi_efficiency,
            used,
            train_cpu_seconds: None,
            encode_mb_per_s: 0.0,
            lossless: true,
            revision: self.revision.clone(),
        }
    }
}

/// Documents of a text, each to the end of a line.
pub fn documents(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let at = DOCUMENT.min(rest.len());
        let end = rest[at..].iter().position(|&byte| byte == b'\n').map_or(rest.len(), |more| at + more + 1);
        let (document, behind) = rest.split_at(end);
        rest = behind;
        (!document.is_empty()).then_some(document)
    })
}

fn encoded(tokenizer: &Tokenizer, text: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    documents(text).for_each(|document| tokenizer.encode_into(document, &mut ids));
    ids
}

/// Words by document: one at the end of a document isn't changed by what the next begins with.
fn words(text: &[u8]) -> Result<WordCounts> {
    let mut words = HashMap::<&[u8], u64, foldhash::fast::RandomState>::default();
    for word in documents(text).flat_map(|document| Pattern::Gpt2.split(document)) {
        *words.entry(word).or_default() += 1;
    }
    Ok(WordCounts::from_counts(words)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_the_text() {
        let line = [&[b'a'; 999][..], b"\n"].concat();
        let text = [line.repeat(200), b"end".to_vec()].concat();
        let all: Vec<&[u8]> = documents(&text).collect();
        assert_eq!(all.concat(), text);
        assert_eq!(
            all.iter().map(|document| document.len()).collect::<Vec<_>>(),
            [66_000, 66_000, 66_000, 2003]
        );
        assert!(documents(b"").next().is_none());
        let (one, two) = Pair::cut(&text, 0.5);
        assert_eq!((one.len(), [one, two].concat()), (101_000, text));
    }
}
