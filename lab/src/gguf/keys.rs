//! Which metadata keys may stay unread.
//!
//! The names are those of llama.cpp (`gguf-py/gguf/constants.py`) and of the specification of GGUF.
//! A key that nobody read and that isn't listed here is refused by name: it may change what the
//! model computes.

use candle_core::quantized::gguf_file::Value;

/// Keys outside the architecture that change nothing, whatever they say. A `*` at the end stands
/// for any rest.
const HARMLESS: &[&str] = &[
    // What the model is called, by whom, from what, and under which licence.
    "general.author",
    "general.base_model.*",
    "general.basename",
    "general.dataset.*",
    "general.datasets",
    "general.description",
    "general.doi",
    "general.finetune",
    "general.languages",
    "general.license",
    "general.license.*",
    "general.name",
    "general.organization",
    "general.quantized_by",
    "general.repo_url",
    "general.size_label",
    "general.source.*",
    "general.tags",
    "general.url",
    "general.uuid",
    "general.version",
    // Read with the header, before everything else.
    "general.alignment",
    // The type of most tensors. Each tensor says its own.
    "general.file_type",
    // How its makers would draw tokens. The lab's options say how it does.
    "general.sampling.*",
    // How the quantization was calibrated, and by whom.
    "mradermacher.*",
    "quantize.imatrix.*",
    // How messages become a text. The lab is given the text.
    "tokenizer.chat_template",
    "tokenizer.chat_template.*",
    "tokenizer.chat_templates",
    // The same vocabulary, written for another library.
    "tokenizer.huggingface.json",
    // Tokens that nothing here puts into a text. (BOS is read where a text begins with it.)
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.fim_*",
    "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.middle_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.prefix_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.suffix_token_id",
    "tokenizer.ggml.unknown_token_id",
    // Byte-level BPE goes by merges, SentencePiece by scores. Some files carry both.
    "tokenizer.ggml.merges",
    "tokenizer.ggml.scores",
];

/// Keys of the architecture that change nothing, whatever they say, without its name in front.
const HARMLESS_OF_ARCHITECTURE: &[&str] = &[
    // Whether the scaling was there in training; what it is, other keys say.
    "rope.scaling.finetuned",
];

/// The value at which a key changes nothing.
enum Neutral {
    Number(f64),
    Flag(bool),
    Text(&'static str),
}

/// Keys outside the architecture that change nothing at one value.
const NEUTRAL: &[(&str, Neutral)] = &[
    // Not an adapter, a projector or a bare vocabulary.
    ("general.type", Neutral::Text("model")),
    // Blocks are laid out as candle reads them; earlier versions had others.
    ("general.quantization_version", Neutral::Number(2.0)),
    // The file is not a part of a model.
    ("split.no", Neutral::Number(0.0)),
    ("split.count", Neutral::Number(0.0)),
    ("split.count", Neutral::Number(1.0)),
    ("split.tensors.count", Neutral::Number(0.0)),
    // A text becomes its tokens, and BOS where the model wants it: nothing is put behind or
    // between.
    ("tokenizer.ggml.add_eos_token", Neutral::Flag(false)),
    ("tokenizer.ggml.add_sep_token", Neutral::Flag(false)),
    // A text is taken as it is. (SentencePiece reads the first of these.)
    ("tokenizer.ggml.add_space_prefix", Neutral::Flag(false)),
    ("tokenizer.ggml.remove_extra_whitespaces", Neutral::Flag(false)),
    // SentencePiece doesn't cut a text into words. (Byte-level BPE reads it.)
    ("tokenizer.ggml.pre", Neutral::Text("default")),
];

/// Keys of the architecture that change nothing at one value, without its name in front.
const NEUTRAL_OF_ARCHITECTURE: &[(&str, Neutral)] = &[
    // What every attention of the lab is.
    ("attention.causal", Neutral::Flag(true)),
    // Off.
    ("attention.clamp_kqv", Neutral::Number(0.0)),
    ("attention.max_alibi_bias", Neutral::Number(0.0)),
    ("pooling_type", Neutral::Number(0.0)),
    ("use_parallel_residual", Neutral::Flag(false)),
    // One feed-forward part a layer.
    ("expert_count", Neutral::Number(0.0)),
    ("expert_used_count", Neutral::Number(0.0)),
    ("expert_shared_count", Neutral::Number(0.0)),
    // Rows of Q and K for interleaved pairs, as the lab turns them.
    ("tensor_data_layout", Neutral::Text("Meta AI original pth")),
];

/// Whether a key that nobody read changes nothing.
pub(super) fn is_harmless(key: &str, value: &Value, architecture: &str) -> bool {
    let own = key.strip_prefix(architecture).and_then(|rest| rest.strip_prefix('.'));
    let (key, harmless, neutral) = match own {
        Some(own) => (own, HARMLESS_OF_ARCHITECTURE, NEUTRAL_OF_ARCHITECTURE),
        None => (key, HARMLESS, NEUTRAL),
    };
    harmless.iter().any(|listed| match listed.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => key == *listed,
    }) || neutral.iter().any(|(listed, neutral)| key == *listed && neutral.is(value))
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        match self {
            Neutral::Number(neutral) => number(value).is_some_and(|number| number == *neutral),
            Neutral::Flag(neutral) => matches!(value, Value::Bool(flag) if flag == neutral),
            Neutral::Text(neutral) => matches!(value, Value::String(text) if text == neutral),
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    Some(match *value {
        Value::F32(number) => number.into(),
        Value::F64(number) => number,
        ref whole => super::whole(whole)? as f64,
    })
}
