//! The `tokenizer.json` of Hugging Face's `tokenizers`.

use std::collections::HashMap;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::byte_level::ByteLevel;
use crate::error::{Error, Result, ensure};
use crate::subword::bpe::Merges;
use crate::subword::costs::{Cost, Costs};
use crate::subword::pretokenize::Pattern;
use crate::subword::segmenter::{Segmenter, Steps};
use crate::subword::tokenizer::{Model, Tokenizer};
use crate::subword::vocabulary::Vocabulary;

/// The whole file.
#[derive(Serialize, Deserialize)]
struct File {
    version: String,
    truncation: Option<Value>,
    padding: Option<Value>,
    added_tokens: Vec<Value>,
    normalizer: Option<Value>,
    pre_tokenizer: Value,
    post_processor: Option<Value>,
    decoder: Value,
    model: ModelFile,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
enum ModelFile {
    Unigram {
        unk_id: Option<u32>,
        /// Each piece with its score, the logarithm of its probability.
        vocab: Vec<(String, f64)>,
        byte_fallback: bool,
    },
    #[serde(rename = "BPE")]
    Bpe {
        dropout: Option<f64>,
        unk_token: Option<String>,
        continuing_subword_prefix: Option<String>,
        end_of_word_suffix: Option<String>,
        fuse_unk: bool,
        byte_fallback: bool,
        #[serde(default)]
        ignore_merges: bool,
        vocab: Ids,
        merges: Vec<Pair>,
    },
}

/// Pieces with their ids, an object of JSON that is written in the order of the ids.
struct Ids(Vec<(String, u32)>);

/// Two pieces that are merged, as versions from 0.20 on write them, and as those before.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Pair {
    Two(String, String),
    Joined(String),
}

impl Serialize for Ids {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(piece, id)| map.serialize_entry(piece, id))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ids: HashMap<String, u32> = Deserialize::deserialize(deserializer)?;
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        Ok(Self(ids))
    }
}

impl Tokenizer {
    /// This tokenizer as a `tokenizer.json` for Hugging Face's `tokenizers`, which then gives the
    /// same ids for any text.
    ///
    /// A segmenter becomes a `Unigram` model over GPT-2's byte-level characters, each piece with
    /// the score −cost in integer steps. Sums of these are exact in floating point, and ties go to
    /// the longest last piece there too; rounded logarithms would change words whose cuts cost
    /// about the same. Merges become a `BPE` model.
    ///
    /// # Errors
    /// Invalid argument (`steps`) for a segmenter of at most k steps, or of the fewest pieces by
    /// another cost than [`Cost::Unit`]: no model of that format cuts so.
    pub fn to_hugging_face(&self) -> Result<String> {
        let level = ByteLevel::new();
        let model = match self.model() {
            Model::Segmenter(segmenter) => unigram(segmenter, &level)?,
            Model::Merges(merges) => bpe(merges, &level),
        };
        let file = File {
            version: "1.0".into(),
            truncation: None,
            padding: None,
            added_tokens: Vec::new(),
            normalizer: None,
            pre_tokenizer: pre_tokenizer(self.pattern()),
            post_processor: None,
            decoder: decoder(),
            model,
        };
        serde_json::to_string(&file).map_err(|error| Error::io("writing a tokenizer.json", error.into()))
    }

    /// Reads a `tokenizer.json` that [`to_hugging_face`](Tokenizer::to_hugging_face) wrote, or that
    /// other programs made of the same parts.
    ///
    /// The file of a segmenter doesn't say by which [`Cost`] and λ its scores were found: they are
    /// read as [`Cost::Unigram`] without λ, and words are cut the same.
    ///
    /// # Errors
    /// [`is_corrupt`](Error::is_corrupt) with what is wrong: no JSON; a normalizer, added tokens or
    /// another part that tokenizers here don't have; a pattern that is none of
    /// [`Pattern`](super::super::Pattern); scores that aren't integer steps; ids in another order.
    pub fn from_hugging_face(json: &str) -> Result<Self> {
        let file: File = serde_json::from_str(json).map_err(|error| wrong("tokenizer.json", error))?;
        let none = |part: &str, there: bool| match there {
            true => Err(wrong(part, "expected none")),
            false => Ok(()),
        };
        none("truncation", file.truncation.is_some())?;
        none("padding", file.padding.is_some())?;
        none("added_tokens", !file.added_tokens.is_empty())?;
        none("normalizer", file.normalizer.is_some())?;
        none("post_processor", file.post_processor.is_some())?;
        let known = Pattern::ALL.into_iter().find(|&pattern| pre_tokenizer(pattern) == file.pre_tokenizer);
        let pattern = known.ok_or_else(|| {
            let got = &file.pre_tokenizer;
            wrong("pre_tokenizer", format!("expected ByteLevel with one of the patterns, got {got}"))
        })?;
        if file.decoder["type"] != "ByteLevel" {
            return Err(wrong("decoder", format!("expected ByteLevel, got {}", file.decoder)));
        }
        let level = ByteLevel::new();
        let model: Model = match file.model {
            ModelFile::Unigram { vocab, .. } => read_unigram(vocab, &level)?.into(),
            ModelFile::Bpe { dropout: Some(_), .. } => return Err(wrong("model.dropout", "expected none")),
            ModelFile::Bpe { continuing_subword_prefix: Some(text), .. }
            | ModelFile::Bpe { end_of_word_suffix: Some(text), .. }
                if !text.is_empty() =>
            {
                return Err(wrong("model", format!("expected no prefix and no suffix, got {text:?}")));
            }
            ModelFile::Bpe { ignore_merges: true, .. } => {
                return Err(wrong("model.ignore_merges", "expected false"));
            }
            ModelFile::Bpe { vocab, merges, .. } => read_bpe(vocab, merges, &level)?.into(),
        };
        Ok(Self::new(pattern, model))
    }
}

fn unigram(segmenter: &Segmenter, level: &ByteLevel) -> Result<ModelFile> {
    let costs = segmenter.costs();
    let can_be = match segmenter.steps() {
        Steps::Unlimited => true,
        // Where all pieces cost the same, the fewest are the cheapest.
        Steps::Fewest => costs.cost() == Cost::Unit,
        Steps::AtMost(_) => false,
    };
    let steps = segmenter.steps();
    ensure!(can_be, "steps", "a Unigram model has as many pieces as the least cost takes, not {steps:?}");
    let pieces = segmenter.vocabulary().iter().zip(costs.of_pieces());
    let vocab = pieces.map(|(piece, &cost)| (level.text(piece), -f64::from(cost))).collect();
    Ok(ModelFile::Unigram { unk_id: None, vocab, byte_fallback: false })
}

fn bpe(merges: &Merges, level: &ByteLevel) -> ModelFile {
    let piece = |id: u32| level.text(merges.piece(id).unwrap_or_default());
    ModelFile::Bpe {
        dropout: None,
        unk_token: None,
        continuing_subword_prefix: None,
        end_of_word_suffix: None,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: Ids((0..merges.pieces() as u32).map(|id| (piece(id), id)).collect()),
        merges: merges.pairs().iter().map(|&(left, right)| Pair::Two(piece(left), piece(right))).collect(),
    }
}

/// Bytes as characters, after the pattern.
fn pre_tokenizer(pattern: Pattern) -> Value {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    if pattern == Pattern::Gpt2 {
        return byte_level(true);
    }
    let pattern = json!({ "Regex": pattern.regex() });
    let split = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}

fn decoder() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
}

fn read_unigram(vocab: Vec<(String, f64)>, level: &ByteLevel) -> Result<Segmenter> {
    let (mut pieces, mut steps) = (Vec::new(), Vec::new());
    for (id, (text, score)) in vocab.into_iter().enumerate() {
        pieces.push(bytes(level, id, &text)?);
        let cost = -score;
        if !(cost >= 0.0 && cost < f64::from(Costs::BOUND) && cost.fract() == 0.0) {
            let most = Costs::BOUND;
            let reason = format!("entry {id}: expected a score of an integer above −{most}, got {score}");
            return Err(wrong("model.vocab", reason));
        }
        steps.push(cost as u32);
    }
    let vocabulary = Vocabulary::new(pieces).map_err(|error| wrong("model.vocab", error))?;
    Segmenter::new(vocabulary, Costs::from_steps(Cost::Unigram, 0.0, steps), Steps::Unlimited)
}

fn read_bpe(Ids(vocab): Ids, merges: Vec<Pair>, level: &ByteLevel) -> Result<Merges> {
    let mut ids = HashMap::new();
    for (at, (text, id)) in vocab.iter().enumerate() {
        let piece = bytes(level, at, text)?;
        let byte = piece.len() == 1;
        let in_order = *id as usize == at && byte == (at < 256) && (!byte || usize::from(piece[0]) == at);
        if !in_order {
            let reason = format!("expected the bytes as ids 0 to 255, then the merges; {text:?} is {id}");
            return Err(wrong("model.vocab", reason));
        }
        ids.insert(text.as_str(), *id);
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for (at, pair) in merges.iter().enumerate() {
        let (left, right) = match pair {
            Pair::Two(left, right) => (left.as_str(), right.as_str()),
            Pair::Joined(both) => both.split_once(' ').unwrap_or((both.as_str(), "")),
        };
        let found = ids.get(left).zip(ids.get(right)).map(|(&left, &right)| (left, right));
        let whole = format!("{left}{right}");
        if found.is_none() || ids.get(whole.as_str()).is_none_or(|&id| id as usize != 256 + at) {
            let reason =
                format!("merge {at}, of {left:?} and {right:?}: expected pieces that make that of id");
            return Err(wrong("model.merges", format!("{reason} {}", 256 + at)));
        }
        pairs.extend(found);
    }
    let merges = Merges::from_pairs(pairs).map_err(|error| wrong("model.merges", error))?;
    match vocab.len() == merges.pieces() {
        true => Ok(merges),
        false => Err(wrong("model.vocab", "expected the bytes and a piece for each merge, and no other")),
    }
}

fn bytes(level: &ByteLevel, entry: usize, text: &str) -> Result<Vec<u8>> {
    level.bytes(text).ok_or_else(|| {
        wrong("model.vocab", format!("entry {entry}: expected byte-level characters, got {text:?}"))
    })
}

/// What is wrong with which part of the file.
fn wrong(part: &str, reason: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("{part}: {reason}"))
}
