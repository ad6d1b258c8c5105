//! Candle's own models in f32, from the same files: independent of everything in the lab but the
//! reading of GGUF.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{gemma3, quantized_llama};

/// Candle's model for GGUF files, from a copy whose tensors are f32: on others it rounds
/// activations to 8 bits.
pub fn llama(path: &Path) -> quantized_llama::ModelWeights {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let f32_of = |tensor: QTensor| {
        QTensor::quantize(&tensor.dequantize(&Device::Cpu).unwrap(), GgmlDType::F32).unwrap()
    };
    let names = content.tensor_infos.keys();
    let tensors: Vec<(&str, QTensor)> = names
        .map(|name| (name.as_str(), f32_of(content.tensor(&mut file, name, &Device::Cpu).unwrap())))
        .collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let metadata: Vec<(&str, &Value)> =
        content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let mut copy = Cursor::new(Vec::new());
    gguf_file::write(&mut copy, &metadata, &tensors).unwrap();
    copy.set_position(0);
    let content = Content::read(&mut copy).unwrap();
    quantized_llama::ModelWeights::from_gguf(content, &mut copy, &Device::Cpu).unwrap()
}

/// Candle's model for unquantized weights, fed from the file: their quantized one has another
/// activation than the family.
pub fn gemma(path: &Path, sliding_window: usize, sliding_window_pattern: usize) -> gemma3::Model {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let number = |key: &str| content.metadata[&format!("gemma3.{key}")].to_u32().unwrap() as usize;
    let real = |key: &str| f64::from(content.metadata[&format!("gemma3.{key}")].to_f32().unwrap());
    let config = gemma3::Config {
        attention_bias: false,
        head_dim: number("attention.key_length"),
        hidden_activation: Activation::GeluPytorchTanh,
        hidden_size: number("embedding_length"),
        intermediate_size: number("feed_forward_length"),
        num_attention_heads: number("attention.head_count"),
        num_hidden_layers: number("block_count"),
        num_key_value_heads: number("attention.head_count_kv"),
        rms_norm_eps: real("attention.layer_norm_rms_epsilon"),
        rope_theta: real("rope.freq_base"),
        rope_local_base_freq: 1e4,
        vocab_size: content.metadata["tokenizer.ggml.tokens"].to_vec().unwrap().len(),
        final_logit_softcapping: None,
        attn_logit_softcapping: None,
        query_pre_attn_scalar: number("attention.key_length"),
        sliding_window,
        sliding_window_pattern,
        max_position_embeddings: 2048,
    };
    let names = [
        ("token_embd", "embed_tokens"),
        ("output_norm", "norm"),
        ("attn_norm", "input_layernorm"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ];
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let parts: Vec<&str> = name.split('.').collect();
        let (layer, part) = match parts[..] {
            ["blk", layer, part, _] => (format!("layers.{layer}."), part),
            [part, _] => (String::new(), part),
            _ => panic!("{name}"),
        };
        let theirs = names.iter().find(|(ours, _)| *ours == part).unwrap().1;
        let mut tensor =
            content.tensor(&mut file, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        if part.ends_with("norm") {
            // GGUF files hold 1 + w.
            tensor = (tensor - 1.0).unwrap();
        }
        tensors.insert(format!("model.{layer}{theirs}.weight"), tensor);
    }
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    gemma3::Model::new(false, &config, weights).unwrap()
}

/// The logits of every token, read one at a time.
pub fn step_by_step(tokens: &[u32], mut forward: impl FnMut(&Tensor, usize) -> Tensor) -> Vec<f32> {
    let mut all = Vec::new();
    for (position, &id) in tokens.iter().enumerate() {
        let input = Tensor::new(&[[id]], &Device::Cpu).unwrap();
        all.extend(forward(&input, position).flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    all
}
