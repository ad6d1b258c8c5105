//! What the tests of the lab share: the device, and small random models written as GGUF files.

pub mod candle;
pub mod oracle;
pub mod output;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lab::attend::{Attend, Qkv};
use lab::config::Config;
use lab::gguf::ModelFile;
use lab::model::Model;
use lab::tokenizer::Tokenizer;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

pub use testkit::device::gpu;

/// Says so past the test harness, which swallows what `println!` says in a test that passes.
pub fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}");
}

/// A file of the models that scripts/fetch-models brings: in `PRFLASH_MODELS`, or in target/models.
pub fn fetched_model(test: &str, name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models");
    let folder = std::env::var_os("PRFLASH_MODELS").map_or(root, PathBuf::from);
    let path = folder.join(name);
    if !path.is_file() {
        skipped(&format!("{test}: no {name} (scripts/fetch-models brings it)"));
        return None;
    }
    Some(path)
}

/// The shape of a small model.
#[derive(Clone, Copy, Debug)]
pub enum Tiny {
    /// 4 query heads on 2 key/value heads, 16 channels each, interleaved pairs.
    Llama,
    /// 4 query heads on one key/value head, 16 channels each; every second layer with a window of
    /// 24 tokens.
    Gemma,
}

pub const WIDTH: usize = 64;
pub const HIDDEN: usize = 96;
pub const HEAD_DIM: usize = 16;
pub const HEADS: usize = 4;
pub const LAYERS: usize = 4;
pub const WINDOW: usize = 24;

impl Tiny {
    pub fn name(self) -> &'static str {
        match self {
            Tiny::Llama => "llama",
            Tiny::Gemma => "gemma3",
        }
    }

    pub fn kv_heads(self) -> usize {
        match self {
            Tiny::Llama => 2,
            Tiny::Gemma => 1,
        }
    }

    /// Writes the model, its matrices in `dtype`.
    pub fn write(self, path: &Path, dtype: GgmlDType) {
        self.parts().write(path, dtype);
    }

    /// What the model's file says.
    pub fn parts(self) -> Parts {
        let mut metadata = self.metadata();
        let tokens = vocabulary(self, &mut metadata);
        let mut random = SmallRng::seed_from_u64(7);
        let mut tensors = BTreeMap::new();
        for (name, dims) in self.shapes(tokens) {
            let count = dims.iter().product();
            // Matrices keep the size of what they multiply; norms are near 1.
            let (middle, size) = match dims.len() {
                2 if name.starts_with("token_embd") => (0.0, 0.5),
                2 => (0.0, 3.0 / (dims[1] as f32).sqrt()),
                _ => (1.0, 0.2),
            };
            let values: Vec<f32> =
                (0..count).map(|_| middle + size * random.random_range(-1.0f32..1.0)).collect();
            tensors.insert(name, Tensor::from_vec(values, dims, &Device::Cpu).unwrap());
        }
        Parts { name: self.name(), metadata, tensors }
    }

    fn metadata(self) -> HashMap<String, Value> {
        let name = self.name();
        let numbers = [
            ("block_count", LAYERS),
            ("context_length", 2048),
            ("embedding_length", WIDTH),
            ("feed_forward_length", HIDDEN),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", self.kv_heads()),
            ("attention.key_length", HEAD_DIM),
            ("rope.dimension_count", HEAD_DIM),
        ];
        let mut all = HashMap::new();
        all.insert("general.architecture".into(), Value::String(name.into()));
        for (key, number) in numbers {
            all.insert(format!("{name}.{key}"), Value::U32(number as u32));
        }
        all.insert(format!("{name}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
        all.insert(format!("{name}.rope.freq_base"), Value::F32(1e5));
        if matches!(self, Tiny::Gemma) {
            all.insert(format!("{name}.attention.sliding_window"), Value::U32(WINDOW as u32));
            all.insert(format!("{name}.attention.sliding_window_pattern"), Value::U32(2));
        }
        all
    }

    fn shapes(self, tokens: usize) -> Vec<(String, Vec<usize>)> {
        let kv = self.kv_heads() * HEAD_DIM;
        let mut all = vec![
            ("token_embd.weight".into(), vec![tokens, WIDTH]),
            ("output_norm.weight".into(), vec![WIDTH]),
        ];
        for layer in 0..LAYERS {
            let mut add = |part: &str, dims: &[usize]| {
                all.push((format!("blk.{layer}.{part}.weight"), dims.to_vec()));
            };
            add("attn_norm", &[WIDTH]);
            add("attn_q", &[HEADS * HEAD_DIM, WIDTH]);
            add("attn_k", &[kv, WIDTH]);
            add("attn_v", &[kv, WIDTH]);
            add("attn_output", &[WIDTH, HEADS * HEAD_DIM]);
            add("ffn_norm", &[WIDTH]);
            add("ffn_gate", &[HIDDEN, WIDTH]);
            add("ffn_up", &[HIDDEN, WIDTH]);
            add("ffn_down", &[WIDTH, HIDDEN]);
            if matches!(self, Tiny::Gemma) {
                add("attn_q_norm", &[HEAD_DIM]);
                add("attn_k_norm", &[HEAD_DIM]);
                add("post_attention_norm", &[WIDTH]);
                add("post_ffw_norm", &[WIDTH]);
            }
        }
        all
    }
}

/// A GGUF file before it is written, to be changed by a test.
pub struct Parts {
    name: &'static str,
    pub metadata: HashMap<String, Value>,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Parts {
    /// Sets a key of the architecture.
    pub fn own(mut self, key: &str, value: Value) -> Self {
        self.metadata.insert(format!("{}.{key}", self.name), value);
        self
    }

    /// Sets a key by its whole name.
    pub fn key(mut self, key: &str, value: Value) -> Self {
        self.metadata.insert(key.into(), value);
        self
    }

    /// Removes a key by its whole name.
    pub fn without(mut self, key: &str) -> Self {
        assert!(self.metadata.remove(key).is_some(), "{key}");
        self
    }

    /// Adds a vector.
    pub fn vector(mut self, name: &str, values: &[f32]) -> Self {
        self.tensors.insert(name.into(), Tensor::new(values, &Device::Cpu).unwrap());
        self
    }

    /// Adds random biases to every projection.
    pub fn biases(mut self) -> Self {
        let mut random = SmallRng::seed_from_u64(17);
        let matrices: Vec<(String, usize)> = self
            .tensors
            .iter()
            .filter(|(name, tensor)| name.starts_with("blk.") && tensor.rank() == 2)
            .map(|(name, tensor)| (name.replace(".weight", ".bias"), tensor.dims()[0]))
            .collect();
        for (name, outputs) in matrices {
            let values: Vec<f32> = (0..outputs).map(|_| random.random_range(-0.5f32..0.5)).collect();
            self = self.vector(&name, &values);
        }
        self
    }

    /// Writes the file, its matrices in `dtype`.
    pub fn write(&self, path: &Path, dtype: GgmlDType) {
        let quantized = |(name, tensor): (&String, &Tensor)| {
            let dtype = if tensor.rank() == 2 { dtype } else { GgmlDType::F32 };
            (name.clone(), QTensor::quantize(tensor, dtype).unwrap())
        };
        let tensors: Vec<(String, QTensor)> = self.tensors.iter().map(quantized).collect();
        let metadata: Vec<(&str, &Value)> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<(&str, &QTensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }
}

/// Bytes, a few words, and the marks of each kind of vocabulary. Returns how many tokens there are.
fn vocabulary(tiny: Tiny, metadata: &mut HashMap<String, Value>) -> usize {
    let text = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    let mut add = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    let (tokens, kinds) = match tiny {
        Tiny::Llama => {
            let mut tokens: Vec<String> = vec!["<|endoftext|>".into(), "<|im_start|>".into()];
            let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
            alphabet.sort_unstable();
            tokens.extend(alphabet.iter().map(char::to_string));
            let merges = ["h e", "Ġ t", "Ġt he", "a n", "an d", "Ġ and"];
            tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
            let kinds = (0..tokens.len()).map(|id| if id < 2 { 3 } else { 1 }).collect::<Vec<_>>();
            add("model", Value::String("gpt2".into()));
            add("pre", Value::String("smollm".into()));
            add("merges", text(merges.iter().map(|merge| (*merge).into()).collect()));
            add("eos_token_id", Value::U32(0));
            (tokens, kinds)
        }
        Tiny::Gemma => {
            let mut tokens: Vec<String> =
                ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n"].map(String::from).into();
            let mut kinds = vec![3, 3, 3, 3, 4];
            tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
            kinds.extend([6; 256]);
            let words = ["▁t", "he", "▁the", "an", "and", "▁and"];
            tokens.extend(words.map(String::from));
            tokens.extend((b'a'..=b'z').map(|letter| char::from(letter).to_string()));
            tokens.push("▁".into());
            kinds.resize(tokens.len(), 1);
            let best = 5 + 256;
            let score = |id: usize| Value::F32(if id < best { -1000.0 } else { -((id - best) as f32) });
            add("scores", Value::Array((0..tokens.len()).map(score).collect()));
            add("model", Value::String("llama".into()));
            add("add_space_prefix", Value::Bool(false));
            add("add_bos_token", Value::Bool(true));
            add("bos_token_id", Value::U32(2));
            add("eos_token_id", Value::U32(1));
            add("unknown_token_id", Value::U32(3));
            (tokens, kinds)
        }
    };
    let count = tokens.len();
    add("token_type", Value::Array(kinds.into_iter().map(Value::I32).collect()));
    add("tokens", text(tokens));
    count
}

/// A folder for one file, which goes when it is dropped.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes the file, all of it in f32.
    pub fn write(&self, parts: &Parts) -> PathBuf {
        let path = self.path("tiny.gguf");
        parts.write(&path, GgmlDType::F32);
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Reads everything of a file, as the program does.
pub fn read(path: &Path) -> anyhow::Result<(Tokenizer, Model)> {
    let file = ModelFile::open(path)?;
    Ok((Tokenizer::read(&file)?, Model::load(&file, |_, _| Ok(()))?))
}

pub fn string(text: &str) -> Value {
    Value::String(text.into())
}

/// A model of a file that a test wrote.
pub fn load(path: &Path) -> Model {
    Model::load(&ModelFile::open(path).unwrap(), |_, _| Ok(())).unwrap()
}

/// Random rows for one layer, handed over in these pieces: what comes back, token after token.
pub fn attended(
    config: &Config,
    attention: &mut dyn Attend,
    layer: usize,
    pieces: &[Range<usize>],
) -> Vec<f32> {
    attention.start(0);
    let mut random = SmallRng::seed_from_u64(5);
    let tokens = pieces.last().unwrap().end;
    let mut rows = |heads: usize| -> Vec<f32> {
        (0..tokens * heads * config.head_dim).map(|_| random.random_range(-2.0f32..2.0)).collect()
    };
    let all = [rows(config.heads), rows(config.kv_heads), rows(config.kv_heads)];
    let mut seen = Vec::new();
    for piece in pieces {
        let part = |rows: &'_ [f32]| -> Vec<f32> {
            let row = rows.len() / tokens;
            rows[piece.start * row..piece.end * row].to_vec()
        };
        let [q, k, v] = all.each_ref().map(|rows| part(rows));
        seen.extend(attention.attend(layer, &Qkv { tokens: piece.len(), q: &q, k: &k, v: &v }).unwrap());
    }
    attention.check().unwrap();
    seen
}

/// Token ids that any of the small vocabularies has.
pub fn ids(count: usize) -> Vec<u32> {
    let mut random = SmallRng::seed_from_u64(11);
    (0..count).map(|_| random.random_range(5..260)).collect()
}

/// A text of any length.
pub fn text(words: usize) -> String {
    let all = ["the", "and", "hat", "then", "a", "land", "ü", "that", "hand", "so"];
    let mut random = SmallRng::seed_from_u64(13);
    let word = |_| all[random.random_range(0..all.len())];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

/// The largest absolute difference, and the largest absolute number of `b`. NaN is a failure.
pub fn difference(a: &[f32], b: &[f32]) -> (f32, f32) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|x| x.is_finite()), "a number is not finite");
    let largest = |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0.0, f32::max);
    (largest(&mut a.iter().zip(b).map(|(a, b)| (a - b).abs())), largest(&mut b.iter().map(|b| b.abs())))
}
