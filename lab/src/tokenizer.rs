//! Text to tokens and back, from the vocabulary inside a GGUF file.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::quantized::gguf_file::Value;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper};

use crate::gguf::{KeyGroup, ModelFile};

/// Kinds of tokens in GGUF files.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// What SentencePiece vocabularies write for a space.
const SPACE: &str = "\u{2581}";

/// The tokenizer of a model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of text behind each token.
    bytes: Vec<u16>,
    bos: Option<u32>,
    ends: Vec<u32>,
}

impl Tokenizer {
    /// Builds it from the file's vocabulary.
    ///
    /// # Errors
    /// A kind of vocabulary that the lab doesn't know; metadata that is missing, contradicts
    /// itself, or may turn texts into other tokens in a way that the lab doesn't apply. Each names
    /// the key.
    pub fn read(file: &ModelFile) -> Result<Self> {
        let tokens = file.list("tokenizer.ggml.tokens", |token| token.to_string().cloned())?;
        ensure!(!tokens.is_empty(), "model {}: an empty vocabulary", file.path().display());
        let kinds = match file.get("tokenizer.ggml.token_type") {
            Some(_) => file.list("tokenizer.ggml.token_type", |kind| match kind {
                Value::I32(kind) => Ok(i64::from(*kind)),
                kind => kind.to_u64().map(|kind| kind as i64),
            })?,
            None => vec![1; tokens.len()],
        };
        ensure!(
            kinds.len() == tokens.len(),
            "model {}: {} token types for {} tokens",
            file.path().display(),
            kinds.len(),
            tokens.len()
        );
        let kind = file.text("tokenizer.ggml.model")?;
        let (mut inner, length): (_, fn(&str) -> usize) = match kind {
            "gpt2" => (byte_level(file, &tokens)?, |token| token.chars().count()),
            "llama" => (sentence_piece(file, &tokens)?, |token| token.replace(SPACE, " ").len()),
            other => bail!(
                "model {}: tokenizer {other:?}; the lab knows gpt2 (byte-level BPE) and llama (SentencePiece)",
                file.path().display()
            ),
        };
        let added = |kind: i64, special: bool| {
            let named = tokens.iter().zip(&kinds).filter(move |(_, other)| **other == kind);
            named.map(move |(token, _)| AddedToken::from(token.clone(), special).normalized(false))
        };
        inner.add_tokens(added(USER_DEFINED, false)).map_err(|error| anyhow!(error))?;
        inner.add_special_tokens(added(CONTROL, true)).map_err(|error| anyhow!(error))?;
        let bytes = tokens.iter().zip(&kinds).map(|(token, &kind)| match kind {
            BYTE => 1,
            CONTROL => 0,
            USER_DEFINED => token.replace(SPACE, " ").len() as u16,
            _ => length(token) as u16,
        });
        let bytes = bytes.collect();
        let id = |name: &str| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = file.optional(&key, ModelFile::number)? else { return Ok(None) };
            let id = u32::try_from(id).ok().filter(|&id| (id as usize) < tokens.len());
            let inside = || file.refusal(&key, &format!("the vocabulary has {} tokens", tokens.len()));
            Ok(Some(id.with_context(inside)?))
        };
        // A SentencePiece vocabulary that doesn't say has BOS in front, a byte-level one hasn't, as
        // in llama.cpp.
        let adds_bos = file.optional("tokenizer.ggml.add_bos_token", ModelFile::flag)?;
        let bos = if adds_bos.unwrap_or(kind == "llama") {
            let missing = || format!("model {}: no id for its BOS token", file.path().display());
            Some(id("bos")?.with_context(missing)?)
        } else {
            None
        };
        // Beside the model's own, the marks that end a text or a turn in this family.
        let marks = ["<|endoftext|>", "<|im_end|>", "<eos>", "<end_of_turn>"];
        let ends = marks.iter().filter_map(|mark| inner.token_to_id(mark));
        let ends = ends.chain(id("eos")?).chain(id("eot")?).chain(id("eom")?).collect();
        file.refuse_unread_keys(KeyGroup::Tokenizer)?;
        Ok(Self { inner, bytes, bos, ends })
    }

    /// The token that the model wants in front of every text, if any.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether a text ends with this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The tokens of a text, without BOS. With `marks`, control tokens like `<|im_start|>` in the
    /// text are taken for what they are; else they are text like any other.
    ///
    /// # Errors
    /// A text that the vocabulary can't express.
    pub fn encode(&mut self, text: &str, marks: bool) -> Result<Vec<u32>> {
        self.inner.set_encode_special_tokens(!marks);
        let encoding = self.inner.encode_fast(text, false).map_err(|error| anyhow!("tokenizer: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, control tokens included.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|error| anyhow!("tokenizer: {error}"))
    }

    /// Text token by token: a character that takes several tokens comes with its last one.
    pub fn stream(&self) -> impl FnMut(u32) -> Result<String> + '_ {
        let mut stream = self.inner.decode_stream(false);
        move |id| {
            let piece = stream.step(id).map_err(|error| anyhow!("tokenizer: {error}"))?;
            Ok(piece.unwrap_or_default())
        }
    }

    /// Bytes of text behind a token.
    pub fn bytes(&self, id: u32) -> usize {
        self.bytes.get(id as usize).copied().unwrap_or(0).into()
    }
}

fn vocabulary(tokens: &[String]) -> HashMap<String, u32> {
    tokens.iter().cloned().zip(0..).collect()
}

fn build(
    vocabulary: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    unknown: Option<String>,
) -> Result<BPE> {
    let vocabulary: tokenizers::models::bpe::Vocab = vocabulary.into_iter().collect();
    let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown).fuse_unk(true).byte_fallback(true);
    }
    builder.build().map_err(|error| anyhow!("tokenizer: {error}"))
}

/// GPT-2's byte-level BPE.
fn byte_level(file: &ModelFile, tokens: &[String]) -> Result<tokenizers::Tokenizer> {
    let splits_digits = match file.text("tokenizer.ggml.pre")? {
        "smollm" => true,
        "gpt-2" | "gpt2" | "default" => false,
        other => {
            bail!("model {}: pre-tokenizer {other:?}; the lab knows smollm and gpt-2", file.path().display())
        }
    };
    let merges = file.list("tokenizer.ggml.merges", |merge| merge.to_string().cloned())?;
    let split = |merge: String| {
        let (left, right) =
            merge.split_once(' ').with_context(|| format!("merge {merge:?} has no two parts"))?;
        Ok((left.to_owned(), right.to_owned()))
    };
    let merges = merges.into_iter().map(split).collect::<Result<_>>()?;
    let mut tokenizer = tokenizers::Tokenizer::new(build(vocabulary(tokens), merges, None)?);
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    if splits_digits {
        steps.push(Digits::new(true).into());
    }
    steps.push(ByteLevel::new(false, true, true).into());
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// SentencePiece's BPE, with `▁` for a space and single bytes for what the vocabulary lacks.
fn sentence_piece(file: &ModelFile, tokens: &[String]) -> Result<tokenizers::Tokenizer> {
    // Without the key, llama.cpp puts one there.
    let add_prefix = "tokenizer.ggml.add_space_prefix";
    if file.optional(add_prefix, ModelFile::flag)? != Some(false) {
        return Err(file.refusal(add_prefix, "expected false: a space in front of every text is not added"));
    }
    let scores = file.list("tokenizer.ggml.scores", |score| score.to_f32())?;
    ensure!(
        scores.len() == tokens.len(),
        "model {}: {} scores for {} tokens",
        file.path().display(),
        scores.len(),
        tokens.len()
    );
    // SentencePiece joins the two neighbours whose union has the best score; BPE wants the unions
    // in that order.
    let ids = vocabulary(tokens);
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(&scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&first), Some(&second)) = (ids.get(left), ids.get(right)) {
                merges.push((-score, first, second, left, right));
            }
        }
    }
    merges.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges = merges.iter().map(|&(.., left, right)| (left.to_owned(), right.to_owned())).collect();
    let unknown_id = "tokenizer.ggml.unknown_token_id";
    let unknown = tokens.get(file.number(unknown_id)?).cloned();
    let inside = || file.refusal(unknown_id, &format!("the vocabulary has {} tokens", tokens.len()));
    let unknown = unknown.with_context(inside)?;
    let mut tokenizer = tokenizers::Tokenizer::new(build(ids, merges, Some(unknown))?);
    let replace =
        |from: &str, to: &str| Replace::new(from, to).map_err(|error| anyhow!("tokenizer: {error}"));
    tokenizer.with_normalizer(Some(replace(" ", SPACE)?)).map_err(|error| anyhow!("tokenizer: {error}"))?;
    let steps: Vec<DecoderWrapper> = vec![
        replace(SPACE, " ")?.into(),
        tokenizers::decoders::byte_fallback::ByteFallback::new().into(),
        tokenizers::decoders::fuse::Fuse::new().into(),
    ];
    tokenizer.with_decoder(Some(Decoders::new(steps)));
    Ok(tokenizer)
}
