//! What a file says that the lab can't apply is refused, by name: keys, tensors, sizes, and headers
//! that are none.

use crate::common::oracle::{frequencies, llama3};
use crate::common::{Folder, HEAD_DIM, Parts, Tiny, load, read, string};
use candle_core::quantized::gguf_file::Value;
use lab::gguf::ModelFile;
use prflash::position::Scaling;

/// The error of a file that is refused, which names the file.
#[track_caller]
fn refused(parts: &Parts) -> String {
    let folder = Folder::new();
    let path = folder.write(parts);
    let Err(error) = read(&path) else { panic!("the file was taken") };
    let error = format!("{error:#}");
    assert!(error.contains("tiny.gguf"), "{error}");
    error
}

#[test]
fn keys_that_nobody_applies_are_refused_by_name() {
    let cases: &[(&str, Value, &str)] = &[
        // Unknown ones, of the architecture and of nobody.
        ("llama.attention.temperature_length", Value::U32(4096), "4096"),
        ("llama.attention.layer_norm_epsilon", Value::F32(1e-5), "0.00001"),
        ("llama.embedding_scale", Value::F32(12.0), "12"),
        ("llama.residual_scale", Value::F32(0.22), "0.22"),
        ("llama.logit_scale", Value::F32(0.5), "0.5"),
        ("llama.rope.dimension_sections", Value::Array(vec![Value::I32(8); 4]), "a list of 4"),
        ("llama.rope.freq_base_swa", Value::F32(1e4), "10000"),
        ("llama.something", string("new"), "\"new\""),
        ("gemma3.attention.sliding_window", Value::U32(512), "512"),
        ("adapter.type", string("lora"), "\"lora\""),
        ("general.something", Value::Bool(true), "true"),
        // Known ones, at a value that changes the model.
        ("llama.attention.causal", Value::Bool(false), "false"),
        ("llama.attention.clamp_kqv", Value::F32(8.0), "8"),
        ("llama.attention.max_alibi_bias", Value::F32(8.0), "8"),
        ("llama.expert_count", Value::U32(8), "8"),
        ("llama.use_parallel_residual", Value::Bool(true), "true"),
        ("llama.tensor_data_layout", string("another"), "\"another\""),
        ("llama.pooling_type", Value::U32(1), "1"),
        ("llama.attention.value_length", Value::U32(32), "32"),
        ("llama.attention.key_length_swa", Value::U32(32), "32"),
        ("llama.vocab_size", Value::U32(100), "100"),
        ("llama.rope.dimension_count", Value::U32(10), "10"),
        ("llama.rope.dimension_count", Value::U32(20), "20"),
        ("llama.rope.dimension_count_swa", Value::U32(8), "8"),
        ("llama.rope.scaling.type", string("longrope"), "\"longrope\""),
        ("llama.rope.scaling.attn_factor", Value::F32(1.2), "1.2"),
        ("llama.rope.scaling.yarn_ext_factor", Value::F32(0.5), "0.5"),
        ("llama.rope.scaling.yarn_attn_factor", Value::F32(0.5), "0.5"),
        ("llama.rope.scaling.yarn_log_multiplier", Value::F32(0.7), "0.7"),
        ("llama.attn_logit_softcapping", Value::F32(-1.0), "-1"),
        ("llama.final_logit_softcapping", Value::F32(f32::NAN), "NaN"),
        ("llama.attention.scale", Value::F32(0.0), "0"),
        ("general.type", string("adapter"), "\"adapter\""),
        ("general.quantization_version", Value::U32(1), "1"),
        ("split.count", Value::U16(2), "2"),
        ("tokenizer.ggml.add_eos_token", Value::Bool(true), "true"),
        ("tokenizer.ggml.add_sep_token", Value::Bool(true), "true"),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(true), "true"),
        ("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(true), "true"),
        ("tokenizer.ggml.precompiled_charsmap", Value::Array(vec![Value::U8(1)]), "a list of 1"),
        ("tokenizer.ggml.something", Value::U32(3), "3"),
        ("tokenizer.ggml.eos_token_id", Value::U32(70_000), "70000"),
        ("tokenizer.ggml.eot_token_id", string("end"), "\"end\""),
        // Of another type than it has: not missing, and not its default.
        ("llama.attention.head_count_kv", Value::Array(vec![Value::U32(2); 4]), "a list of 4"),
        ("llama.rope.freq_base", Value::U32(10_000), "10000"),
        ("llama.block_count", Value::Bool(true), "true"),
        ("llama.attention.sliding_window", string("all"), "\"all\""),
    ];
    for (key, value, shown) in cases {
        let error = refused(&Tiny::Llama.parts().key(key, value.clone()));
        assert!(error.contains(&format!("{key} = {shown}: ")), "{error}");
    }
    let pattern = Value::Array(vec![Value::Bool(true); 4]);
    let error = refused(&Tiny::Gemma.parts().own("attention.sliding_window_pattern", pattern));
    assert!(error.contains("gemma3.attention.sliding_window_pattern = a list of 4"), "{error}");
    let error = refused(&Tiny::Gemma.parts().key("tokenizer.ggml.pre", string("gemma4")));
    assert!(error.contains("tokenizer.ggml.pre = \"gemma4\""), "{error}");
    let error = refused(&Tiny::Gemma.parts().without("tokenizer.ggml.add_space_prefix"));
    assert!(error.contains("tokenizer.ggml.add_space_prefix"), "{error}");
    // A factor that the library refuses, and two scalings at once.
    let factor = |value| Tiny::Llama.parts().own("rope.scaling.factor", Value::F32(value));
    let error = refused(&factor(0.5));
    assert!(error.contains("llama.rope") && error.contains("factor") && error.contains("0.5"), "{error}");
    let plain = frequencies(1e5, HEAD_DIM);
    let factors: Vec<f32> = plain.iter().map(|&f| (f / llama3(f, 8.0)) as f32).collect();
    let error = refused(&factor(2.0).vector("rope_freqs.weight", &factors));
    assert!(error.contains("llama.rope.scaling") && error.contains("factors"), "{error}");
    // Several are counted.
    let parts = Tiny::Llama.parts().own("b", Value::U32(1)).own("a", Value::U32(2)).own("c", Value::U32(3));
    let error = refused(&parts);
    assert!(
        error.contains("llama.a = 2: ") && error.contains("2 more like it: llama.b = 1, llama.c = 3"),
        "{error}"
    );
}

#[test]
fn tensors_that_nobody_reads_are_refused_by_name() {
    let norm = [1.0; 64];
    for name in [
        "blk.1.attn_sinks.weight",
        "blk.0.attn_norm.bias",
        "output_norm.bias",
        "output.bias",
        "rope_factors_long.weight",
        "blk.4.attn_norm.weight",
        "blk.0.attn_q.scale",
        "blk.0.attn_q_norm.weight",
    ] {
        let error = refused(&Tiny::Llama.parts().vector(name, &norm));
        assert!(error.contains(&format!("tensor {name}: ")), "{error}");
    }
    // Factors of frequencies: others than Llama 3's, and in an architecture whose files have none.
    let mut factors = [1.0; HEAD_DIM / 2];
    let ones = Tiny::Llama.parts().vector("rope_freqs.weight", &factors);
    let folder = Folder::new();
    assert_eq!(load(&folder.write(&ones)).config().rope_scaling, Scaling::None);
    assert!(
        refused(&Tiny::Gemma.parts().vector("rope_freqs.weight", &factors))
            .contains("tensor rope_freqs.weight")
    );
    for factor in [3.0, f32::NAN, 0.0, -2.0, f32::INFINITY] {
        factors[2] = factor;
        let error = refused(&Tiny::Llama.parts().vector("rope_freqs.weight", &factors));
        assert!(error.contains("tensor rope_freqs.weight"), "{error}");
    }
    let mut parts = Tiny::Llama.parts();
    for layer in 0..9 {
        parts = parts.vector(&format!("blk.{layer}.extra.weight"), &norm);
    }
    let error = refused(&parts);
    assert!(error.contains("tensor blk.0.extra.weight") && error.contains("8 more like it"), "{error}");
    // A bias of the wrong length is no bias.
    let error = refused(&Tiny::Llama.parts().vector("blk.2.attn_k.bias", &norm));
    assert!(error.contains("blk.2.attn_k.bias") && error.contains("shape"), "{error}");
}

#[test]
fn sizes_that_make_no_model_are_refused_by_name() {
    let cases: &[(&str, Value)] = &[
        ("block_count", Value::U32(0)),
        ("block_count", Value::U32(u32::MAX)),
        ("block_count", Value::U32(1000)),
        ("context_length", Value::U32(0)),
        ("embedding_length", Value::U32(0)),
        ("embedding_length", Value::U64(u64::MAX)),
        ("feed_forward_length", Value::U32(0)),
        ("feed_forward_length", Value::I32(-5)),
        ("attention.head_count", Value::U32(0)),
        ("attention.head_count_kv", Value::U32(0)),
        ("attention.key_length", Value::U32(0)),
        ("attention.key_length", Value::U32(18)),
        ("attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
        ("attention.layer_norm_rms_epsilon", Value::F32(0.0)),
        ("attention.layer_norm_rms_epsilon", Value::F32(-1e-5)),
        ("rope.freq_base", Value::F32(0.0)),
        ("rope.freq_base", Value::F32(f32::INFINITY)),
        ("rope.dimension_count", Value::U32(0)),
    ];
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        for (key, value) in cases {
            let error = refused(&tiny.parts().own(key, value.clone()));
            assert!(error.contains(&format!("{}.{key} = ", tiny.name())), "{error}");
        }
        let error = refused(&tiny.parts().own("attention.sliding_window", Value::U32(0)));
        assert!(error.contains("attention.sliding_window = 0: "), "{error}");
        // Four heads of a quarter of the width, if no key says otherwise.
        let name = |key: &str| format!("{}.{key}", tiny.name());
        let width =
            tiny.parts().without(&name("attention.key_length")).own("embedding_length", Value::U32(62));
        assert!(refused(&width).contains(&format!("{} = 62: ", name("embedding_length"))));
        for key in ["block_count", "context_length", "attention.layer_norm_rms_epsilon"] {
            assert!(
                refused(&tiny.parts().without(&name(key))).contains(&format!("no metadata {}", name(key)))
            );
        }
    }
    // Channels of a rotation by halves come in eights.
    let error = refused(&Tiny::Gemma.parts().own("rope.dimension_count", Value::U32(12)));
    assert!(error.contains("gemma3.rope.dimension_count = 12: expected a multiple of 8"), "{error}");
    let error = refused(
        &Tiny::Gemma
            .parts()
            .without("gemma3.rope.dimension_count")
            .own("attention.key_length", Value::U32(12)),
    );
    assert!(error.contains("gemma3.attention.key_length = 12: expected a multiple of 8"), "{error}");
    let error = refused(&Tiny::Llama.parts().own("attention.head_count_kv", Value::U32(3)));
    assert!(error.contains("llama.attention.head_count_kv = 3: 4 query heads"), "{error}");
}

fn prefixed(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A header with these counts, and what follows them.
fn header(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let start: [&[u8]; 4] = [b"GGUF", &3u32.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()];
    [start.concat(), rest.concat()].concat()
}

/// A key of some type, and the bytes of its value.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&prefixed(key), &kind.to_le_bytes()[..], value].concat()
}

/// A tensor's place in the header.
fn info(name: &str, dims: &[u64], offset: u64) -> Vec<u8> {
    let sizes: Vec<u8> = dims.iter().flat_map(|size| size.to_le_bytes()).collect();
    let count = (dims.len() as u32).to_le_bytes();
    [&prefixed(name), &count[..], &sizes, &0u32.to_le_bytes(), &offset.to_le_bytes()].concat()
}

#[test]
fn malformed_headers_are_refused() {
    let folder = Folder::new();
    let huge = u64::MAX.to_le_bytes();
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let nested: Vec<u8> = (0..1000).flat_map(|_| array(9, 1)).collect();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("no magic", b"GGML\x03\0\0\0".to_vec(), "GGML"),
        ("big-endian", [&b"GGUF"[..], &3u32.to_be_bytes(), &[0; 16]].concat(), "little-endian"),
        ("counts", header(u64::MAX, u64::MAX, &[]), "metadata"),
        ("keys", header(0, 1 << 29, &[&[0; 64]]), "metadata"),
        ("tensors", header(1 << 29, 0, &[&[0; 64]]), "tensors"),
        ("a long name", header(0, 1, &[&huge, b"abc"]), "a name of 18446744073709551615 bytes"),
        ("a long text", header(0, 1, &[&entry("a", 8, &huge)]), "a: 18446744073709551615 bytes expected"),
        (
            "a long list",
            header(0, 1, &[&entry("a", 9, &array(12, u64::MAX))]),
            "a: more than 16777216 elements",
        ),
        ("a long list of texts", header(0, 1, &[&entry("a", 9, &array(8, 1 << 20))]), "a: 8 bytes expected"),
        ("a long list of lists", header(0, 1, &[&entry("a", 9, &nested)]), "deep"),
        ("an unknown type", header(0, 1, &[&entry("a", 13, &[0; 8])]), "a: a value of unknown type 13"),
        ("a key twice", header(0, 2, &[&entry("a", 0, &[1]), &entry("a", 0, &[2])]), "a comes twice"),
        ("dimensions", header(1, 0, &[&info("w", &[1; 5], 0)]), "w: 5 dimensions"),
        (
            "many dimensions",
            header(1, 0, &[&prefixed("w"), &u32::MAX.to_le_bytes()]),
            "w: 4294967295 dimensions",
        ),
        ("elements", header(1, 0, &[&info("w", &[1 << 40, 1 << 40], 0)]), "w: more than"),
        ("no elements", header(1, 0, &[&info("w", &[4, 0], 0)]), "w: a dimension of 0"),
        ("an offset", header(1, 0, &[&info("w", &[4], 4)]), "w: offset 4"),
        ("a tensor twice", header(2, 0, &[&info("w", &[4], 0), &info("w", &[4], 32)]), "w comes twice"),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.path("tiny.gguf");
        std::fs::write(&path, bytes).unwrap();
        let Err(error) = ModelFile::open(&path) else { panic!("{name} was taken") };
        let error = format!("{error:#}");
        assert!(
            error.contains("tiny.gguf: not a readable GGUF file") && error.contains(expected),
            "{name}: {error}"
        );
    }
    // Cut off anywhere, a header is an error and no panic.
    let whole = std::fs::read(folder.write(&Tiny::Llama.parts())).unwrap();
    for end in (0..6000).step_by(7) {
        let path = folder.path("tiny.gguf");
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(ModelFile::open(&path).is_err(), "cut at {end}");
    }
}

#[test]
fn alignments_that_are_none_are_refused() {
    for value in [
        Value::U32(0),
        Value::U32(4),
        Value::U32(24),
        Value::U32(u32::MAX),
        Value::U64(32),
        Value::I32(-32),
        string("32"),
    ] {
        let error = refused(&Tiny::Llama.parts().key("general.alignment", value));
        assert!(error.contains("not a readable GGUF file") && error.contains("general.alignment"), "{error}");
    }
    let error = refused(&Tiny::Llama.parts().key("general.alignment", Value::U32(0)));
    assert!(error.contains("general.alignment = 0: expected a power of two"), "{error}");
}
