//! A small random model as a file, to test with: natively and in a browser it is the same.

use super::matrix::F32;

const WIDTH: usize = 128;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const HIDDEN: usize = 192;
const LAYERS: usize = 2;

/// Merges beside the single bytes.
const MERGES: [&str; 6] = ["h e", "Ġ t", "Ġt he", "a n", "an d", "Ġ and"];

/// Tensors begin at multiples of this.
const ALIGNMENT: usize = 32;

/// A GGUF file of the llama architecture with 2 layers, in Q4_1 and Q8_0.
pub fn file() -> Vec<u8> {
    let mut tokens = vec!["<|endoftext|>".to_owned()];
    tokens.extend(super::vocabulary::letters().map(String::from));
    tokens.extend(MERGES.map(|merge| merge.replace(' ', "")));
    let mut tensors =
        vec![Tensor::matrix("token_embd", tokens.len(), WIDTH, true), Tensor::vector("output_norm", WIDTH)];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let matrix = |part: &str, rows, columns| Tensor::matrix(&name(part), rows, columns, false);
        tensors.extend([
            Tensor::vector(&name("attn_norm"), WIDTH),
            matrix("attn_q", HEADS * HEAD_DIM, WIDTH),
            matrix("attn_k", KV_HEADS * HEAD_DIM, WIDTH),
            matrix("attn_v", KV_HEADS * HEAD_DIM, WIDTH),
            matrix("attn_output", WIDTH, HEADS * HEAD_DIM),
            Tensor::vector(&name("ffn_norm"), WIDTH),
            matrix("ffn_gate", HIDDEN, WIDTH),
            matrix("ffn_up", HIDDEN, WIDTH),
            matrix("ffn_down", WIDTH, HIDDEN),
        ]);
    }
    let mut metadata = Writer::default();
    metadata.text("general.architecture", "llama");
    for (key, number) in [
        ("block_count", LAYERS),
        ("context_length", 2048),
        ("embedding_length", WIDTH),
        ("feed_forward_length", HIDDEN),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("rope.dimension_count", HEAD_DIM),
    ] {
        metadata.key(&format!("llama.{key}"), 4).extend((number as u32).to_le_bytes());
    }
    metadata.key("llama.attention.layer_norm_rms_epsilon", 6).extend(1e-5f32.to_le_bytes());
    metadata.key("llama.rope.freq_base", 6).extend(1e5f32.to_le_bytes());
    metadata.text("tokenizer.ggml.model", "gpt2");
    metadata.text("tokenizer.ggml.pre", "smollm");
    metadata.texts("tokenizer.ggml.tokens", &tokens);
    metadata.texts("tokenizer.ggml.merges", &MERGES);
    let kinds = metadata.key("tokenizer.ggml.token_type", 9);
    kinds.extend(5u32.to_le_bytes());
    kinds.extend((tokens.len() as u64).to_le_bytes());
    kinds.extend((0..tokens.len()).flat_map(|id| if id == 0 { 3i32 } else { 1 }.to_le_bytes()));
    metadata.key("tokenizer.ggml.eos_token_id", 4).extend(0u32.to_le_bytes());

    let mut file = Writer::default();
    file.bytes.extend(b"GGUF");
    file.bytes.extend(3u32.to_le_bytes());
    file.bytes.extend((tensors.len() as u64).to_le_bytes());
    file.bytes.extend(metadata.keys.to_le_bytes());
    file.bytes.extend(metadata.bytes);
    let mut offset = 0;
    for tensor in &tensors {
        file.string(&format!("{}.weight", tensor.name));
        file.bytes.extend((tensor.dims.len() as u32).to_le_bytes());
        file.bytes.extend(tensor.dims.iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
        file.bytes.extend(tensor.form.to_le_bytes());
        file.bytes.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        file.bytes.resize(file.bytes.len().next_multiple_of(ALIGNMENT), 0);
        file.bytes.extend(tensor.bytes);
    }
    file.bytes
}

struct Tensor {
    name: String,
    dims: Vec<usize>,
    form: u32,
    bytes: Vec<u8>,
}

impl Tensor {
    /// Weights near 1.
    fn vector(name: &str, length: usize) -> Self {
        let weights = (0..length).map(|index| 0.8 + 0.4 * random(name, index) as f32 / u32::MAX as f32);
        let bytes = weights.flat_map(f32::to_le_bytes).collect();
        Self { name: name.to_owned(), dims: vec![length], form: F32, bytes }
    }

    /// Random codes; the weights keep the size of what they multiply.
    fn matrix(name: &str, rows: usize, columns: usize, eight: bool) -> Self {
        let size = 2.0 / (columns as f32).sqrt();
        let half = |number: f32| half::f16::from_f32(number).to_le_bytes();
        let mut bytes = Vec::new();
        for block in 0..rows * columns / 32 {
            let code = |index: usize| (random(name, 32 * block + index) >> 24) as u8;
            if eight {
                bytes.extend(half(size / 127.0));
                bytes.extend((0..32).map(code));
            } else {
                bytes.extend(half(size / 7.5));
                bytes.extend(half(-size));
                bytes.extend((0..16).map(code));
            }
        }
        let form = if eight { 8 } else { 3 };
        Self { name: name.to_owned(), dims: vec![rows, columns], form, bytes }
    }
}

/// A number for a place in a tensor.
fn random(name: &str, index: usize) -> u32 {
    // Splitmix64's finish, of a hash of the name.
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut x = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 32) as u32
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    keys: u64,
}

impl Writer {
    fn string(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// A key and the type of its value, which is to follow.
    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.string(key);
        self.bytes.extend(kind.to_le_bytes());
        self.keys += 1;
        &mut self.bytes
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key, 8);
        self.string(text);
    }

    fn texts(&mut self, key: &str, texts: &[impl AsRef<str>]) {
        self.key(key, 9).extend(8u32.to_le_bytes());
        self.bytes.extend((texts.len() as u64).to_le_bytes());
        texts.iter().for_each(|text| self.string(text.as_ref()));
    }
}
