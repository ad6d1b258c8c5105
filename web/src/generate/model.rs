//! The layers of a model of the llama architecture, but for their attention.

use std::collections::BTreeMap;

use prflash::Rope;
use prflash::position::Pairing;

use super::gguf::Header;
use super::matrix::{self, Matrix, Rounded};
use super::{Refused, Vocabulary};

/// Sizes and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub(super) layers: usize,
    width: usize,
    hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    norm_eps: f32,
    pub(super) rope: Rope,
}

/// Keys of the architecture that are read here; any other may change what the model computes.
const KNOWN: [&str; 12] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
];

impl Config {
    fn read(header: &Header) -> Result<Self, Refused> {
        let architecture = header.text("general.architecture")?;
        if architecture != "llama" {
            let why =
                format!("its architecture is {architecture}; llama, as of SmolLM2, is what the page knows");
            return Err(Refused::Unsupported(why));
        }
        let unknown = header
            .metadata
            .keys()
            .find(|key| key.strip_prefix("llama.").is_some_and(|own| !KNOWN.contains(&own)));
        if let Some(key) = unknown {
            return Err(Refused::Unsupported(format!("the page doesn't know what {key} changes")));
        }
        let size = |key: &str| header.size(&format!("llama.{key}"));
        let optional = |key: &str, usual: usize| match header.has(&format!("llama.{key}")) {
            true => size(key),
            false => Ok(usual),
        };
        let (width, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let kv_heads = optional("attention.head_count_kv", heads)?;
        let head_dim = optional("attention.key_length", width / heads)?;
        let fits = |fits: bool, why: &str| match fits {
            true => Ok(()),
            false => Err(Refused::Unsupported(why.to_owned())),
        };
        fits(heads.is_multiple_of(kv_heads), "its query heads don't divide into groups")?;
        fits(
            optional("attention.value_length", head_dim)? == head_dim,
            "its keys and values differ in length",
        )?;
        fits(optional("rope.dimension_count", head_dim)? == head_dim, "it turns only a part of its heads")?;
        let base = match header.has("llama.rope.freq_base") {
            true => header.number("llama.rope.freq_base")?,
            false => 1e4,
        };
        // Files of this architecture have the rows of Q and K in the order for interleaved pairs.
        let rope = Rope::new(head_dim, base, Pairing::Interleaved)
            .map_err(|error| Refused::Unsupported(error.to_string()))?;
        Ok(Self {
            layers: size("block_count")?,
            width,
            hidden: size("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            norm_eps: header.number("llama.attention.layer_norm_rms_epsilon")? as f32,
            rope,
        })
    }
}

/// A language model, without its attention.
pub struct Model {
    config: Config,
    vocabulary: Vocabulary,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// The output matrix where it isn't the embedding.
    output: Option<Matrix>,
}

struct Layer {
    attention_norm: Vec<f32>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// What of a file is to be read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    name: String,
    form: u32,
    columns: usize,
    /// From the start of the file.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// A model whose tensors are being read, one after the other: a file is never in memory as a whole.
pub struct Loader {
    config: Config,
    vocabulary: Vocabulary,
    pieces: Vec<Piece>,
    matrices: BTreeMap<String, Matrix>,
    vectors: BTreeMap<String, Vec<f32>>,
}

impl Loader {
    /// For a file of `length` bytes.
    ///
    /// # Errors
    /// A model that the page doesn't compute, or one whose tensors aren't all there.
    pub fn new(header: &Header, length: u64) -> Result<Self, Refused> {
        let config = Config::read(header)?;
        let vocabulary = Vocabulary::read(header)?;
        let Config { width, hidden, heads, kv_heads, head_dim, layers, .. } = config;
        if layers > header.tensors.len() {
            return Err(Refused::Inconsistent(format!(
                "{layers} layers in {} tensors",
                header.tensors.len()
            )));
        }
        let mut wanted = vec![
            ("token_embd".to_owned(), vec![vocabulary.len(), width]),
            ("output_norm".to_owned(), vec![width]),
        ];
        if header.tensors.contains_key("output.weight") {
            wanted.push(("output".to_owned(), vec![vocabulary.len(), width]));
        }
        for layer in 0..layers {
            let parts = [
                ("attn_norm", vec![width]),
                ("attn_q", vec![heads * head_dim, width]),
                ("attn_k", vec![kv_heads * head_dim, width]),
                ("attn_v", vec![kv_heads * head_dim, width]),
                ("attn_output", vec![width, heads * head_dim]),
                ("ffn_norm", vec![width]),
                ("ffn_gate", vec![hidden, width]),
                ("ffn_up", vec![hidden, width]),
                ("ffn_down", vec![width, hidden]),
            ];
            wanted.extend(parts.map(|(part, dims)| (format!("blk.{layer}.{part}"), dims)));
        }
        let unread = header
            .tensors
            .keys()
            .find(|name| !wanted.iter().any(|(wanted, _)| name.strip_suffix(".weight") == Some(wanted)));
        if let Some(name) = unread {
            return Err(Refused::Unsupported(format!("the page doesn't know what {name} changes")));
        }
        let pieces = wanted.into_iter().map(|(name, dims)| piece(header, length, name, &dims));
        Ok(Self {
            pieces: pieces.collect::<Result<_, _>>()?,
            matrices: BTreeMap::new(),
            vectors: BTreeMap::new(),
            config,
            vocabulary,
        })
    }

    /// What is to be read.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Takes the bytes of a piece, by its number.
    ///
    /// # Errors
    /// Another count of bytes than the piece has; a weight of a vector that is not finite.
    pub fn take(&mut self, piece: usize, bytes: &[u8]) -> Result<(), Refused> {
        let cut_off = |name: &str| Refused::CutOff(name.to_owned());
        let piece = self.pieces.get(piece).ok_or_else(|| cut_off("a tensor"))?;
        if bytes.len() as u64 != piece.bytes {
            return Err(cut_off(&piece.name));
        }
        let name = piece.name.clone();
        if piece.form == matrix::F32 {
            let (numbers, _) = bytes.as_chunks::<4>();
            let vector: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
            if !vector.iter().all(|x| x.is_finite()) {
                return Err(Refused::Inconsistent(format!("{name} has numbers that aren't finite")));
            }
            self.vectors.insert(name, vector);
        } else {
            self.matrices.insert(name, Matrix::read(piece.form, piece.columns, bytes));
        }
        Ok(())
    }

    /// The model, once all pieces were taken.
    ///
    /// # Errors
    /// A piece that wasn't.
    pub fn finish(mut self) -> Result<Model, Refused> {
        let layers = (0..self.config.layers).map(|layer| -> Result<Layer, Refused> {
            let name = |part: &str| format!("blk.{layer}.{part}");
            Ok(Layer {
                attention_norm: taken(&mut self.vectors, &name("attn_norm"))?,
                q: taken(&mut self.matrices, &name("attn_q"))?,
                k: taken(&mut self.matrices, &name("attn_k"))?,
                v: taken(&mut self.matrices, &name("attn_v"))?,
                output: taken(&mut self.matrices, &name("attn_output"))?,
                feed_forward_norm: taken(&mut self.vectors, &name("ffn_norm"))?,
                gate: taken(&mut self.matrices, &name("ffn_gate"))?,
                up: taken(&mut self.matrices, &name("ffn_up"))?,
                down: taken(&mut self.matrices, &name("ffn_down"))?,
            })
        });
        Ok(Model {
            layers: layers.collect::<Result<_, _>>()?,
            embedding: taken(&mut self.matrices, "token_embd")?,
            norm: taken(&mut self.vectors, "output_norm")?,
            output: self.matrices.remove("output"),
            config: self.config,
            vocabulary: self.vocabulary,
        })
    }
}

/// Where a tensor lies, of `[rows, columns]` or `[length]`.
fn piece(header: &Header, length: u64, name: String, dims: &[usize]) -> Result<Piece, Refused> {
    let missing = || Refused::Unsupported(format!("it has no {name}.weight"));
    let entry = header.tensors.get(&format!("{name}.weight")).ok_or_else(missing)?;
    let expected = dims.iter().rev().map(|&dim| dim as u64);
    if !entry.dims.iter().copied().eq(expected) {
        let why = format!("{name} has {:?} numbers where {dims:?} are expected", entry.dims);
        return Err(Refused::Inconsistent(why));
    }
    let bytes = match *dims {
        [rows, columns] => matrix::bytes(&name, entry.form, [rows, columns])?,
        _ if entry.form == matrix::F32 => 4 * entry.dims.iter().product::<u64>(),
        _ => return Err(Refused::Unsupported(format!("{name} isn't stored as F32"))),
    };
    if entry.offset.checked_add(bytes).is_none_or(|end| end > length) {
        return Err(Refused::CutOff(name));
    }
    let columns = dims.last().copied().unwrap_or(0);
    Ok(Piece { name, form: entry.form, columns, offset: entry.offset, bytes })
}

fn taken<T>(all: &mut BTreeMap<String, T>, name: &str) -> Result<T, Refused> {
    all.remove(name).ok_or_else(|| Refused::CutOff(name.to_owned()))
}

impl Model {
    /// Sizes and constants.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// What its tokens are.
    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Where a token of the vocabulary begins.
    pub(super) fn embedding(&self, token: u32) -> Vec<f32> {
        self.embedding.row(token as usize)
    }

    /// A layer's query, key and value of a token, all heads behind each other.
    pub(super) fn before_attention(&self, layer: usize, x: &[f32]) -> [Vec<f32>; 3] {
        let Layer { attention_norm, q, k, v, .. } = &self.layers[layer];
        let input = Rounded::new(&self.normed(x, attention_norm));
        [q, k, v].map(|matrix| matrix.times(&input))
    }

    /// Adds to a token what a layer makes of what its heads have seen.
    pub(super) fn behind_attention(&self, layer: usize, seen: &[f32], x: &mut [f32]) {
        let Layer { output, feed_forward_norm, gate, up, down, .. } = &self.layers[layer];
        add(x, &output.times(&Rounded::new(seen)));
        let input = Rounded::new(&self.normed(x, feed_forward_norm));
        let (gate, up) = (gate.times(&input), up.times(&input));
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let hidden: Vec<f32> = gate.iter().zip(&up).map(|(gate, up)| silu(*gate) * up).collect();
        add(x, &down.times(&Rounded::new(&hidden)));
    }

    /// The logits of the token that comes next.
    pub(super) fn logits(&self, x: &[f32]) -> Vec<f32> {
        let input = Rounded::new(&self.normed(x, &self.norm));
        self.output.as_ref().unwrap_or(&self.embedding).times(&input)
    }

    /// `x / √(mean(x²) + ε) · weight`
    fn normed(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let squares: f32 = x.iter().map(|x| x * x).sum();
        let size = (squares / x.len() as f32 + self.config.norm_eps).sqrt();
        x.iter().zip(weight).map(|(x, weight)| x / size * weight).collect()
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
