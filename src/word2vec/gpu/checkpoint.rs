//! Trainings in files.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::training::Training;
use crate::checksum::fnv1a;
use crate::error::{Error, Result, ensure};
use crate::files::write_whole;
use crate::runtime::context::Context;
use crate::word2vec::corpus::Corpus;
use crate::word2vec::options::Options;

/// What a checkpoint begins with; the number is its version.
const BEGINS: &[u8] = b"prflash word2vec checkpoint 1\n";

impl<'c> Training<'c> {
    /// Writes all that is needed to go on: where the training is, and its weights. A file that is
    /// there stays whole until the new one is.
    ///
    /// Behind the first line: the sum of corpus and options (u64), epoch and batch (u32), word
    /// vectors and output weights (f32, a row a word), and the FNV-1a sum of all before it (u64),
    /// in little-endian order.
    ///
    /// # Errors
    /// I/O errors with the path; out of memory; device lost.
    pub async fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut bytes = BEGINS.to_vec();
        bytes.extend(fingerprint(self.corpus, &self.options).to_le_bytes());
        bytes.extend(self.place.0.to_le_bytes());
        bytes.extend(self.place.1.to_le_bytes());
        for matrix in 0..2 {
            let weights = self.step.read(&self.context, matrix).await?;
            bytes.extend(weights.iter().flat_map(|weight| weight.to_le_bytes()));
        }
        bytes.extend(fnv1a(&bytes).to_le_bytes());
        let path = path.as_ref();
        let written = write_whole(path, |writer| writer.write_all(&bytes));
        written.map_err(|error| Error::io(format!("writing {}", path.display()), error))
    }

    /// [`save`](Training::save), blocking.
    ///
    /// # Errors
    /// As [`save`](Training::save).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save_blocking(&self, path: impl AsRef<Path>) -> Result<()> {
        pollster::block_on(self.save(path))
    }

    /// Goes on from a checkpoint of the same corpus and options, to the same bits as if there had
    /// been no interruption (on the same device).
    ///
    /// # Errors
    /// I/O errors with the path; corrupt for a file that isn't whole; unknown version; invalid
    /// argument (`path`) for a checkpoint of another corpus or of other options; those of
    /// [`new`](Training::new).
    pub fn resume(
        context: &Context,
        corpus: &'c Corpus,
        options: Options,
        path: impl AsRef<Path>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path);
        let bytes = bytes.map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
        let (place, weights) = parse(&bytes, corpus, &options)?;
        let mut training = Self::with_programs(context, corpus, options, &|program| Box::new(program))?;
        ensure!(training.has(place), "path", "expected a place of this training, got {place:?}");
        let (inputs, outputs) = weights.split_at(weights.len() / 2);
        training.set(place, [inputs, outputs])?;
        Ok(training)
    }
}

/// Where a checkpoint is, and its weights, of both matrices.
fn parse(bytes: &[u8], corpus: &Corpus, options: &Options) -> Result<((u32, u32), Vec<f32>)> {
    let Some(rest) = bytes.strip_prefix(BEGINS) else {
        let name = &BEGINS[..BEGINS.len() - 2];
        return Err(match bytes.starts_with(name) {
            true => Error::unknown_version("a checkpoint of word2vec, of another version than 1"),
            false => Error::corrupt("it is no checkpoint of word2vec"),
        });
    };
    let torn = || Error::corrupt("the checkpoint is not whole");
    let (_, sum) = rest.split_last_chunk::<8>().ok_or_else(torn)?;
    let (rest, _) = rest.split_last_chunk::<8>().ok_or_else(torn)?;
    if fnv1a(&bytes[..bytes.len() - 8]) != u64::from_le_bytes(*sum) {
        return Err(torn());
    }
    let (own, rest) = rest.split_first_chunk::<8>().ok_or_else(torn)?;
    let (epoch, rest) = rest.split_first_chunk::<4>().ok_or_else(torn)?;
    let (batch, rest) = rest.split_first_chunk::<4>().ok_or_else(torn)?;
    let same = u64::from_le_bytes(*own) == fingerprint(corpus, options);
    ensure!(same, "path", "expected a checkpoint of this corpus and these options, got that of others");
    let weights: Vec<f32> = rest.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    let count = 2 * corpus.vocabulary().len() * options.dimension;
    if weights.len() != count {
        return Err(torn());
    }
    Ok(((u32::from_le_bytes(*epoch), u32::from_le_bytes(*batch)), weights))
}

/// A sum of everything that a training is a function of.
fn fingerprint(corpus: &Corpus, options: &Options) -> u64 {
    let words = corpus.vocabulary().words().iter().flat_map(|word| word.as_bytes().iter().chain(b"\n"));
    let numbers = [corpus.tokens(), corpus.sentence_ends()].map(bytemuck::cast_slice::<u32, u8>);
    // Everything in the options, by its name: a float is printed so that it reads as the same.
    let options = format!("{options:?}");
    fnv1a(words.chain(numbers.into_iter().flatten()).chain(options.as_bytes()))
}
