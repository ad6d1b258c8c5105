//! Texts to tokens and back, by GPT-2's byte-level merges.
//!
//! The library's own merges have pieces of at most 16 bytes; those of a published vocabulary are as
//! long as they like. Their words are cut by the library's pattern.

use std::collections::HashMap;

use prflash::subword::Pattern;

use super::Refused;
use super::gguf::{Header, Value};

/// The kind of a token that stands for no text.
const CONTROL: f64 = 3.0;

/// Names that end a text in this family, beside what the file says.
const ENDS: [&str; 2] = ["<|endoftext|>", "<|im_end|>"];

/// The tokens of a model.
pub struct Vocabulary {
    /// The bytes of each; none for one that stands for no text.
    bytes: Vec<Vec<u8>>,
    /// The token of each byte; some vocabularies lack those that no text has.
    first: [Option<u32>; 256],
    /// Pairs of tokens that become one: the rank of the merge, and what it makes.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Whether every digit is a word of its own.
    splits_digits: bool,
    ends: Vec<u32>,
}

impl Vocabulary {
    /// Reads it from a model's header.
    ///
    /// # Errors
    /// Another kind of vocabulary; one whose merges aren't of its tokens.
    pub(super) fn read(header: &Header) -> Result<Self, Refused> {
        let unsupported = |why: String| Err(Refused::Unsupported(why));
        let kind = header.text("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            return unsupported(format!("its tokenizer is {kind}, not byte-level merges as of GPT-2"));
        }
        let splits_digits = match header.text("tokenizer.ggml.pre")? {
            "smollm" => true,
            "gpt-2" | "gpt2" | "default" => false,
            other => {
                return unsupported(format!("it cuts texts into words by {other}, not as SmolLM2 or GPT-2"));
            }
        };
        if header.metadata.get("tokenizer.ggml.add_bos_token") == Some(&Value::Flag(true)) {
            return unsupported("its texts begin with a mark, which the page doesn't write".into());
        }
        let tokens = header.texts("tokenizer.ggml.tokens")?;
        let kinds = match header.metadata.get("tokenizer.ggml.token_type") {
            Some(Value::List(kinds)) => kinds.as_slice(),
            _ => &[],
        };
        let ids: HashMap<&str, u32> = tokens.iter().copied().zip(0..).collect();
        let letters = letters();
        let of_letter: HashMap<char, u8> = letters.iter().copied().zip(0..=255).collect();
        let bytes = tokens.iter().enumerate().map(|(id, token)| match kinds.get(id) {
            Some(&Value::Number(CONTROL)) => Some(Vec::new()),
            _ => token.chars().map(|letter| of_letter.get(&letter).copied()).collect(),
        });
        let Some(bytes) = bytes.collect() else {
            return unsupported("its vocabulary has letters that stand for no byte".into());
        };
        let first = letters.map(|letter| ids.get(letter.encode_utf8(&mut [0; 4]) as &str).copied());
        let mut merges = HashMap::new();
        for (rank, merge) in header.texts("tokenizer.ggml.merges")?.into_iter().enumerate() {
            let made = merge.split_once(' ').and_then(|(left, right)| {
                let made = *ids.get(format!("{left}{right}").as_str())?;
                Some(((*ids.get(left)?, *ids.get(right)?), (rank as u32, made)))
            });
            let Some((pair, made)) = made else {
                return Err(Refused::Inconsistent(format!("the merge {merge:?} is not of its tokens")));
            };
            merges.entry(pair).or_insert(made);
        }
        let ends = ENDS.iter().filter_map(|end| ids.get(end).copied());
        let said =
            header.has("tokenizer.ggml.eos_token_id").then(|| header.number("tokenizer.ggml.eos_token_id"));
        let ends = ends.chain(said.transpose()?.map(|id| id as u32)).collect();
        Ok(Self { bytes, first, merges, splits_digits, ends })
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of a token; none for one that stands for no text.
    pub(super) fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether a text ends with this token.
    pub(super) fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The tokens of a text.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let is_digit = |letter: char| self.splits_digits && letter.is_numeric();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let end = match is_digit(letter) {
                true => letter.len_utf8(),
                false => rest.find(is_digit).unwrap_or(rest.len()),
            };
            let (part, behind) = rest.split_at(end);
            for word in Pattern::Gpt2.split(part.as_bytes()) {
                tokens.extend(self.merged(word));
            }
            rest = behind;
        }
        tokens
    }

    /// A word's tokens, without bytes that have none: of all neighbours that can be merged those of
    /// the lowest rank are, the first of them first, until none can.
    fn merged(&self, word: &[u8]) -> Vec<u32> {
        let bytes = word.iter().filter_map(|&byte| self.first[usize::from(byte)]);
        let mut tokens: Vec<u32> = bytes.collect();
        loop {
            let pairs = tokens.windows(2).enumerate();
            let found = pairs.filter_map(|(at, pair)| {
                let &(rank, made) = self.merges.get(&(pair[0], pair[1]))?;
                Some((rank, at, made))
            });
            let Some((_, at, made)) = found.min() else { return tokens };
            tokens[at] = made;
            tokens.remove(at + 1);
        }
    }
}

/// The letter that stands for each byte: itself where it is one to see, else one from U+0100 on.
pub(super) fn letters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        }
    })
}
