//! prflash's own file of a tokenizer: everything by which it encodes, in lines of text.
//!
//! ```text
//! prflash tokenizer 1
//! pattern gpt2
//! model segmenter
//! cost unigram
//! scale 4096
//! lambda 0.5
//! steps unlimited
//! ties longest last piece
//! pieces 8192
//! \x00<tab>72311          one line a piece: its bytes, κ + λ in steps of 1/scale
//! …
//! checksum 9c0f3f8a7b6d2e11
//! ```
//!
//! A model of merges has, in place of the lines from `cost` to `ties`, none, and for each merge its
//! two ids. The checksum is the 64-bit FNV-1a hash of all bytes before its line.

use std::fmt::Display;
use std::io::{BufRead, BufWriter, Write};
use std::num::NonZeroUsize;
use std::str::FromStr;

use crate::checksum::fnv1a;
use crate::error::{Error, Result};
use crate::subword::bpe::Merges;
use crate::subword::costs::{Cost, Costs};
use crate::subword::escape::{escape, unescaped};
use crate::subword::pretokenize::Pattern;
use crate::subword::segmenter::{Segmenter, Steps};
use crate::subword::tokenizer::{Model, Tokenizer};
use crate::subword::vocabulary::Vocabulary;

const VERSION: u32 = 1;
const TIES: &str = "longest last piece";

impl Tokenizer {
    /// Writes everything by which this tokenizer encodes, as lines of UTF-8: the pattern; for a
    /// segmenter each piece with its cost, and the kind, the scale and λ of the costs, the steps
    /// and how ties are broken; for merges their pairs; at last a checksum. What is written depends
    /// on the tokenizer alone.
    ///
    /// ```
    /// use prflash::subword::{Merges, Pattern, Tokenizer};
    /// let tokenizer = Tokenizer::new(Pattern::Gpt2, Merges::from_pairs([(104, 105)])?);
    /// let mut file = Vec::new();
    /// tokenizer.write(&mut file)?;
    /// assert_eq!(Tokenizer::read(&file[..])?, tokenizer);
    /// let start = "prflash tokenizer 1\npattern gpt2\nmodel merges\npieces 257\n104 105\nchecksum ";
    /// assert!(file.starts_with(start.as_bytes()));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`is_io`](Error::is_io) if the writer fails. Write to another name first and rename the file
    /// then, if a half-written one would do harm.
    pub fn write(&self, writer: impl Write) -> Result<()> {
        let mut text = Vec::new();
        let written = match self.model() {
            Model::Segmenter(segmenter) => write_segmenter(self.pattern(), segmenter, &mut text),
            Model::Merges(merges) => write_merges(self.pattern(), merges, &mut text),
        };
        let checksum = fnv1a(&text);
        let mut writer = BufWriter::new(writer);
        written
            .and_then(|()| writer.write_all(&text))
            .and_then(|()| writeln!(writer, "checksum {checksum:016x}"))
            .and_then(|()| writer.flush())
            .map_err(|error| Error::io("writing a tokenizer", error))
    }

    /// Reads what [`write`](Tokenizer::write) wrote.
    ///
    /// # Errors
    /// - [`is_corrupt`](Error::is_corrupt) if a line isn't as it must be, named with the reason, or
    ///   the checksum shows that something was changed
    /// - [`is_unknown_version`](Error::is_unknown_version) for a file of a later version
    /// - [`is_io`](Error::is_io) if the reader fails
    pub fn read(reader: impl BufRead) -> Result<Self> {
        let mut lines = Lines { reader, line: Vec::new(), number: 0, read: Vec::new() };
        let version: u32 = lines.value("prflash tokenizer")?;
        if version != VERSION {
            return Err(Error::unknown_version(format!(
                "a tokenizer of version {version}, expected {VERSION}"
            )));
        }
        let pattern: Pattern = lines.value("pattern")?;
        let model: String = lines.value("model")?;
        let tokenizer = match model.as_str() {
            "segmenter" => Self::new(pattern, read_segmenter(&mut lines)?),
            "merges" => Self::new(pattern, read_merges(&mut lines)?),
            _ => return Err(lines.corrupt(format!("expected segmenter or merges, got {model:?}"))),
        };
        let checksum: String = lines.value("checksum")?;
        let want = format!("{:016x}", fnv1a(&lines.read));
        if checksum != want {
            return Err(
                lines.corrupt(format!("the checksum of what was read is {want}, the file has {checksum}"))
            );
        }
        match lines.next()? {
            None => Ok(tokenizer),
            Some(_) => Err(lines.corrupt("expected the end of the file behind the checksum")),
        }
    }
}

fn write_head(pattern: Pattern, model: &str, text: &mut Vec<u8>) -> std::io::Result<()> {
    write!(text, "prflash tokenizer {VERSION}\npattern {pattern}\nmodel {model}\n")
}

fn write_segmenter(pattern: Pattern, segmenter: &Segmenter, text: &mut Vec<u8>) -> std::io::Result<()> {
    write_head(pattern, "segmenter", text)?;
    let costs = segmenter.costs();
    let (cost, scale, lambda) = (costs.cost(), costs.cost().scale(), costs.lambda());
    writeln!(text, "cost {cost}\nscale {scale}\nlambda {lambda}")?;
    match segmenter.steps() {
        Steps::Unlimited => writeln!(text, "steps unlimited")?,
        Steps::AtMost(most) => writeln!(text, "steps {most}")?,
        Steps::Fewest => writeln!(text, "steps fewest")?,
    }
    writeln!(text, "ties {TIES}\npieces {}", segmenter.vocabulary().len())?;
    for (piece, cost) in segmenter.vocabulary().iter().zip(costs.of_pieces()) {
        escape(piece, text);
        writeln!(text, "\t{cost}")?;
    }
    Ok(())
}

fn write_merges(pattern: Pattern, merges: &Merges, text: &mut Vec<u8>) -> std::io::Result<()> {
    write_head(pattern, "merges", text)?;
    writeln!(text, "pieces {}", merges.pieces())?;
    merges.pairs().iter().try_for_each(|(left, right)| writeln!(text, "{left} {right}"))
}

fn read_segmenter(lines: &mut Lines<impl BufRead>) -> Result<Segmenter> {
    let cost: Cost = lines.value("cost")?;
    let scale: u32 = lines.value("scale")?;
    if scale != cost.scale() {
        return Err(lines.corrupt(format!("expected a scale of {} for {cost}, got {scale}", cost.scale())));
    }
    let lambda: f64 = lines.value("lambda")?;
    if let Err(error) = Costs::new(cost, &[], lambda) {
        return Err(lines.corrupt(error));
    }
    let steps: String = lines.value("steps")?;
    let steps = match (steps.as_str(), steps.parse::<NonZeroUsize>()) {
        ("unlimited", _) => Steps::Unlimited,
        ("fewest", _) => Steps::Fewest,
        (_, Ok(most)) => Steps::AtMost(most),
        _ => return Err(lines.corrupt(format!("expected unlimited, fewest or a number, got {steps:?}"))),
    };
    let ties: String = lines.value("ties")?;
    if ties != TIES {
        return Err(lines.corrupt(format!("ties are broken by the {TIES}, got {ties:?}")));
    }
    let count: usize = lines.value("pieces")?;
    let (mut pieces, mut steps_of) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let line = lines.expect("a piece")?;
        let (piece, cost) = piece_line(&line).map_err(|reason| lines.corrupt(reason))?;
        pieces.push(piece);
        steps_of.push(cost);
    }
    let vocabulary = Vocabulary::new(pieces).map_err(|error| lines.corrupt(error))?;
    let costs = Costs::from_steps(cost, lambda, steps_of);
    Segmenter::new(vocabulary, costs, steps).map_err(|error| lines.corrupt(error))
}

/// The bytes of a piece, and its cost in steps.
fn piece_line(line: &[u8]) -> Result<(Vec<u8>, u32), String> {
    let tab = line.iter().position(|&byte| byte == b'\t').ok_or("there is no tab")?;
    let cost = String::from_utf8_lossy(&line[tab + 1..]);
    let steps = cost.parse().ok().filter(|&steps: &u32| steps < Costs::BOUND);
    let steps = steps.ok_or_else(|| format!("expected a cost below {}, got {cost:?}", Costs::BOUND))?;
    Ok((unescaped(&line[..tab])?, steps))
}

fn read_merges(lines: &mut Lines<impl BufRead>) -> Result<Merges> {
    let count: usize = lines.value("pieces")?;
    let Some(merges) = count.checked_sub(256) else {
        return Err(lines.corrupt(format!("expected at least 256 pieces, the bytes, got {count}")));
    };
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    for id in 0..merges {
        let line = lines.expect("a merge")?;
        let text = String::from_utf8_lossy(&line).into_owned();
        let pair = text.split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let earlier = pair.filter(|&(a, b): &(u32, u32)| (a.max(b) as usize) < 256 + id);
        match earlier {
            Some(pair) => pairs.push(pair),
            None => return Err(lines.corrupt(format!("expected two ids below {}, got {text:?}", 256 + id))),
        }
    }
    Merges::from_pairs(pairs).map_err(|error| lines.corrupt(error))
}

/// The lines of a file, with what was read so far.
struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
    /// All lines before this one.
    read: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; none at the end of the file.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        self.read.append(&mut self.line);
        let read = self.reader.read_until(b'\n', &mut self.line);
        self.number += 1;
        let count = read.map_err(|error| Error::io("reading a tokenizer", error))?;
        Ok((count > 0).then(|| self.line.strip_suffix(b"\n").unwrap_or(&self.line).to_vec()))
    }

    fn expect(&mut self, what: &str) -> Result<Vec<u8>> {
        self.next()?.ok_or_else(|| self.corrupt(format!("expected {what}, got the end of the file")))
    }

    /// What stands behind a word in the next line.
    fn value<T: FromStr>(&mut self, key: &str) -> Result<T> {
        let line = self.expect(key)?;
        let line = String::from_utf8_lossy(&line);
        let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(' '));
        let parsed = value.and_then(|value| value.parse().ok());
        parsed.ok_or_else(|| self.corrupt(format!("expected {key:?} and its value, got {line:?}")))
    }

    /// An error of this line.
    fn corrupt(&self, reason: impl Display) -> Error {
        Error::corrupt(format!("line {}: {reason}", self.number))
    }
}
