//! What a file says of its model is computed, on every backend alike: small models whose metadata
//! and tensors a test changes. What isn't computed, refusals.rs has.

use crate::common::oracle::{Facts, Turn, frequencies, llama3};
use crate::common::{Folder, HEAD_DIM, LAYERS, Parts, Tiny, attended, difference, ids, load, read, string};
use candle_core::Tensor;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use clap::Parser;
use lab::attend::Attend;
use lab::config::Config;
use lab::cpu::CpuAttention;
use lab::gguf::ModelFile;
use lab::gpu::GpuAttention;
use lab::model::Model;
use lab::setting::{Setting, SettingArgs};

/// As in agreement.rs: f32 against f64, summed in another order.
const TOLERANCE: f32 = 2e-5;

const TOKENS: usize = 90;

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    setting: SettingArgs,
}

fn try_setting(model: &Model, options: &str) -> anyhow::Result<Setting> {
    let line = Line::try_parse_from(options.split_whitespace()).unwrap();
    Setting::new(&line.setting, model.config())
}

fn setting(model: &Model, options: &str) -> Setting {
    try_setting(model, options).unwrap()
}

/// The logits of every token, read in these pieces.
fn logits(
    model: &Model,
    attention: &mut dyn Attend,
    tokens: &[u32],
    pieces: &[std::ops::Range<usize>],
) -> Vec<f32> {
    attention.start(0);
    let mut all = Vec::new();
    for piece in pieces {
        let hidden = model.forward(&tokens[piece.clone()], attention, &mut |_| Ok(())).unwrap();
        all.extend(model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    all
}

fn on_cpu(model: &Model, options: &str, tokens: &[u32]) -> Vec<f32> {
    let setting = setting(model, options);
    let mut cpu = CpuAttention::new(model.config(), &setting).unwrap();
    logits(model, &mut cpu, tokens, &setting.pieces(tokens.len(), 50))
}

fn on_gpu(gpu: &prflash::Context, model: &Model, options: &str, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let setting = setting(model, options);
    let mut attention = GpuAttention::new(gpu, model.config(), &setting, tokens.len(), chunk).unwrap();
    logits(model, &mut attention, tokens, &setting.pieces(tokens.len(), chunk))
}

#[track_caller]
fn assert_close(name: &str, a: &[f32], b: &[f32], tolerance: f32) {
    let (error, size) = difference(a, b);
    assert!(error <= tolerance * size, "{name}: off by {error:e}, largest number {size}");
}

/// Every key and tensor that is applied: the change of the file, and of what a model without it is.
fn applied(tiny: Tiny) -> Vec<(&'static str, Parts, Facts)> {
    let parts = || tiny.parts();
    let facts = |change: &dyn Fn(&mut Facts)| {
        let mut facts = Facts::new(tiny);
        change(&mut facts);
        facts
    };
    let gemma = matches!(tiny, Tiny::Gemma);
    // The factors of Gemma 3 are for the global layers.
    let scaled = |change: &dyn Fn(&mut Turn)| {
        let mut facts = Facts::new(tiny);
        let layers = facts.rope.iter_mut().enumerate();
        layers.filter(|(layer, _)| !gemma || layer % 2 == 1).for_each(|(_, rope)| change(rope));
        facts
    };
    let halved = || scaled(&|rope| rope.0.iter_mut().for_each(|frequency| *frequency /= 2.0));
    // YaRN by four over 64 tokens: a ramp between the pairs that turn `fast` and `slow` times in
    // them.
    let yarn = |temperature: f64, fast: f64, slow: f64| {
        scaled(&move |(frequencies, size)| {
            let turns = |pair: f64| 64.0 * 1e5f64.powf(-2.0 * pair / 16.0) / std::f64::consts::TAU;
            let pair_with = |wanted: f64| (turns(0.0) / wanted).ln() / 1e5f64.ln() * 8.0;
            let (first, last) = (pair_with(fast).floor().max(0.0), pair_with(slow).ceil());
            for (pair, frequency) in frequencies.iter_mut().enumerate() {
                let slowed = ((pair as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                *frequency *= slowed / 4.0 + 1.0 - slowed;
            }
            *size = temperature;
        })
    };
    let temperature = 0.1 * 4f64.ln() + 1.0;
    let yarn_parts = || {
        parts()
            .own("rope.scaling.type", string("yarn"))
            .own("rope.scaling.factor", Value::F32(4.0))
            .own("rope.scaling.original_context_length", Value::U32(64))
    };
    let mut all = vec![
        ("nothing", parts(), Facts::new(tiny)),
        ("biases", parts().biases(), Facts::new(tiny)),
        (
            "linear",
            parts().own("rope.scaling.type", string("linear")).own("rope.scaling.factor", Value::F32(2.0)),
            halved(),
        ),
        // As llama.cpp: linear if no type is given; and the older name of the key.
        ("a factor alone", parts().own("rope.scaling.factor", Value::F32(2.0)), halved()),
        ("the old factor", parts().own("rope.scale_linear", Value::F32(2.0)), halved()),
        ("yarn", yarn_parts(), yarn(temperature, 32.0, 1.0)),
        (
            "all of yarn",
            yarn_parts()
                .own("rope.scaling.attn_factor", Value::F32(0.75))
                .own("rope.scaling.yarn_beta_fast", Value::F32(2.0))
                .own("rope.scaling.yarn_beta_slow", Value::F32(0.5))
                .own("rope.scaling.yarn_ext_factor", Value::F32(1.0))
                .own("rope.scaling.finetuned", Value::Bool(true)),
            yarn(0.75 * temperature, 2.0, 0.5),
        ),
        (
            "half of the channels",
            parts().own("rope.dimension_count", Value::U32(8)),
            facts(&|facts| {
                for (layer, rope) in facts.rope.iter_mut().enumerate() {
                    let base = if gemma && layer % 2 == 0 { 1e4 } else { 1e5 };
                    rope.0 = frequencies(base, 8);
                }
            }),
        ),
        ("scale", parts().own("attention.scale", Value::F32(0.125)), facts(&|facts| facts.scale = 0.125)),
        (
            "soft-cap",
            parts().own("attn_logit_softcapping", Value::F32(1.5)),
            facts(&|facts| facts.soft_cap = Some(1.5)),
        ),
        (
            "soft-cap of logits",
            parts().own("final_logit_softcapping", Value::F32(8.0)),
            facts(&|facts| facts.logit_soft_cap = Some(8.0)),
        ),
    ];
    let windows = parts()
        .own("attention.sliding_window", Value::U32(10))
        .own("attention.sliding_window_pattern", Value::U32(3))
        .own("rope.freq_base_swa", Value::F32(500.0))
        .own("attention.key_length_swa", Value::U32(16));
    all.push(("windows", windows, {
        facts(&|facts| {
            for (layer, (rope, window)) in facts.rope.iter_mut().zip(&mut facts.windows).enumerate() {
                let base = if layer == 2 { 1e5 } else { 500.0 };
                (rope.0, *window) = (frequencies(base, HEAD_DIM), if layer == 2 { usize::MAX } else { 10 });
            }
        })
    }));
    if matches!(tiny, Tiny::Llama) {
        let window = parts()
            .own("attention.sliding_window", Value::U32(10))
            .own("rope.scaling.factor", Value::F32(2.0));
        all.push(("a window in every layer", window, {
            facts(&|facts| {
                facts.windows = vec![10; LAYERS];
                facts.rope.iter_mut().flat_map(|rope| &mut rope.0).for_each(|frequency| *frequency /= 2.0);
            })
        }));
        let plain = frequencies(1e5, HEAD_DIM);
        let factors: Vec<f32> = plain.iter().map(|&f| (f / llama3(f, 8.0)) as f32).collect();
        all.push(("Llama 3's factors", parts().vector("rope_freqs.weight", &factors), {
            facts(&|facts| {
                facts
                    .rope
                    .iter_mut()
                    .for_each(|rope| rope.0 = plain.iter().map(|&f| llama3(f, 8.0)).collect())
            })
        }));
    }
    all
}

#[test]
fn what_files_say_is_computed() {
    let gpu = crate::common::gpu("what_files_say_is_computed");
    let tokens = ids(TOKENS);
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let mut plain = Vec::new();
        for (name, parts, facts) in applied(tiny) {
            let name = format!("{tiny:?}, {name}");
            let folder = Folder::new();
            let path = folder.write(&parts);
            let (_, model) = read(&path).unwrap();
            let wanted = facts.logits(&path, &tokens);
            assert_close(&name, &on_cpu(&model, "", &tokens), &wanted, TOLERANCE);
            if let Some(gpu) = &gpu {
                assert_close(&name, &on_gpu(gpu, &model, "", &tokens, 61), &wanted, TOLERANCE);
            }
            if plain.is_empty() {
                plain = wanted;
            } else {
                let (error, size) = difference(&wanted, &plain);
                assert!(
                    error > 100.0 * TOLERANCE * size,
                    "{name} changes too little to show: {error} of {size}"
                );
            }
        }
    }
}

/// Much at once: what a kernel, a cache or a merge of rounds could forget.
fn peculiar(tiny: Tiny) -> Parts {
    let parts = tiny
        .parts()
        .biases()
        .own("rope.scaling.type", string("linear"))
        .own("rope.scaling.factor", Value::F32(3.0))
        .own("rope.dimension_count", Value::U32(8))
        .own("attention.scale", Value::F32(0.4))
        .own("attn_logit_softcapping", Value::F32(2.0))
        .own("final_logit_softcapping", Value::F32(3.0));
    match tiny {
        Tiny::Llama => parts
            .own("attention.sliding_window", Value::U32(30))
            .own("attention.sliding_window_pattern", Value::U32(2)),
        Tiny::Gemma => parts,
    }
}

#[test]
fn backends_and_caches_apply_it_alike() {
    let Some(gpu) = crate::common::gpu("backends_and_caches_apply_it_alike") else { return };
    let tokens = ids(150);
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let folder = Folder::new();
        let model = load(&folder.write(&peculiar(tiny)));
        let plain = load(&folder.write(&tiny.parts()));
        for options in
            ["", "--attention prflash --block-size 8 --beta 0.5", "--rope-scaling yarn:4,64 --bias alibi"]
        {
            let name = format!("{tiny:?} {options}");
            let wanted = on_cpu(&model, options, &tokens);
            assert_close(&name, &on_gpu(&gpu, &model, options, &tokens, 50), &wanted, TOLERANCE);
            let (error, size) = difference(&wanted, &on_cpu(&plain, options, &tokens));
            assert!(error > 0.1 * size, "{name}");
        }
        // Of caches layer by layer, on the same rows: another last bit may become another code, and
        // so more in the layers behind. The second layer has no window.
        let config = model.config();
        for (keys, tolerance) in [("before", TOLERANCE), ("after", 2e-2)] {
            let options =
                format!("--staircase paper;segment=32 --stored-keys {keys}-rotation --staircase-layers all");
            let setting = setting(&model, &options);
            let pieces = setting.pieces(150, 50);
            for layer in [0, 1] {
                let name = format!("{tiny:?} {options}, layer {layer}");
                let mut cpu = CpuAttention::new(config, &setting).unwrap();
                let wanted = attended(config, &mut cpu, layer, &pieces);
                let mut attention = GpuAttention::new(&gpu, config, &setting, 150, 64).unwrap();
                let got = attended(config, &mut attention, layer, &pieces);
                assert_close(&name, &got, &wanted, tolerance);
                let single: Vec<_> = (0..150).map(|token| token..token + 1).collect();
                assert_close(&name, &attended(config, &mut attention, layer, &single), &got, TOLERANCE);
                let mut cpu = CpuAttention::new(plain.config(), &setting).unwrap();
                let (error, size) = difference(&wanted, &attended(config, &mut cpu, layer, &pieces));
                assert!(error > 0.1 * size, "{name}");
            }
        }
        // Token by token: other kernels. And in rounds.
        let whole = on_gpu(&gpu, &model, "", &tokens, 150);
        assert_close("decode", &on_gpu(&gpu, &model, "", &tokens, 1), &whole, TOLERANCE);
        let rounds = "--attention prflash --partition-rounds 3";
        assert_close("rounds", &on_gpu(&gpu, &model, rounds, &tokens, 150), &whole, TOLERANCE);
    }
}

#[test]
fn what_changes_nothing_is_taken() {
    let tokens = ids(40);
    let number = Value::U32;
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let folder = Folder::new();
        let (_, plain) = read(&folder.write(&tiny.parts())).unwrap();
        let vocabulary = plain.config().vocabulary as u32;
        let same = tiny
            .parts()
            .key("general.type", string("model"))
            .key("general.name", string("Tiny"))
            .key("general.license.link", string("https://example.org"))
            .key("general.base_model.0.name", string("Base"))
            .key("general.tags", Value::Array(vec![string("a")]))
            .key("general.sampling.temp", Value::F32(0.6))
            .key("general.file_type", number(1))
            .key("general.quantization_version", number(2))
            .key("general.alignment", number(32))
            .key("quantize.imatrix.file", string("imatrix.dat"))
            .key("split.count", Value::U16(1))
            .key("tokenizer.chat_template", string("{{ messages }}"))
            .key("tokenizer.ggml.add_eos_token", Value::Bool(false))
            .key("tokenizer.ggml.add_space_prefix", Value::Bool(false))
            .key("tokenizer.ggml.padding_token_id", number(0))
            .key("tokenizer.ggml.fim_pre_token_id", number(0))
            .own("vocab_size", number(vocabulary))
            .own("attention.value_length", number(16))
            .own("attention.causal", Value::Bool(true))
            .own("attention.clamp_kqv", Value::F32(0.0))
            .own("expert_count", number(0))
            .own("attn_logit_softcapping", Value::F32(0.0))
            .own("final_logit_softcapping", Value::F32(0.0))
            .own("rope.scaling.type", string("none"))
            .own("rope.scaling.factor", Value::F32(8.0))
            .own("rope.scaling.original_context_length", number(64))
            .own("rope.scaling.finetuned", Value::Bool(false))
            .own("rope.scaling.attn_factor", Value::F32(1.0))
            .own("rope.scaling.yarn_ext_factor", Value::F32(-1.0))
            .own("rope.scaling.yarn_log_multiplier", Value::F32(0.0));
        let (_, same) = read(&folder.write(&same)).unwrap();
        assert_eq!(on_cpu(&same, "", &tokens), on_cpu(&plain, "", &tokens));
        assert_eq!(same.config(), plain.config());
    }
}

/// Its files say nothing of it: llama.cpp knows it by its 62 layers, too.
#[test]
fn gemma_3_27b_has_a_scale_of_its_own() {
    let folder = Folder::new();
    let config = |layers: u32| {
        let mut parts = Tiny::Gemma.parts().own("block_count", Value::U32(layers));
        for extra in 0..20 {
            parts = parts.vector(&format!("extra.{extra}"), &[0.0]);
        }
        Config::read(&ModelFile::open(&folder.write(&parts)).unwrap()).unwrap()
    };
    assert_eq!(config(61).scale, None);
    // 64 channels for 4 heads, 16 each.
    assert_eq!(config(62).scale, Some(0.25));
}

#[test]
fn options_go_before_what_files_say() {
    let folder = Folder::new();
    let scaled = Tiny::Llama.parts().own("rope.scaling.factor", Value::F32(2.0));
    let scaled = load(&folder.write(&scaled));
    let plain = load(&folder.write(&Tiny::Llama.parts()));
    let tokens = ids(40);
    assert_eq!(on_cpu(&scaled, "", &tokens), on_cpu(&plain, "--rope-scaling linear:2", &tokens));
    assert_eq!(on_cpu(&scaled, "--rope-scaling linear:1", &tokens), on_cpu(&plain, "", &tokens));
    // Where every layer has a window, an option would have no layer to apply to.
    let windows = Tiny::Llama.parts().own("attention.sliding_window", Value::U32(20));
    let windows = load(&folder.write(&windows));
    for options in [
        "--attention prflash",
        "--rope-scaling ntk:2",
        "--bias alibi",
        "--harmonic-factor 9",
        "--staircase paper",
    ] {
        let error = try_setting(&windows, options).unwrap_err().to_string();
        assert!(error.contains(options.split(' ').next().unwrap()) && error.contains("window"), "{error}");
    }
    try_setting(&windows, "--staircase paper --staircase-layers all").unwrap();
}

#[test]
fn tokenizers_do_what_files_say() {
    let folder = Folder::new();
    let tokenizer = |parts: &Parts| read(&folder.write(parts)).unwrap().0;
    // A SentencePiece vocabulary has BOS in front unless it says otherwise; a byte-level one
    // hasn't.
    let add_bos = "tokenizer.ggml.add_bos_token";
    assert_eq!(tokenizer(&Tiny::Gemma.parts().without(add_bos)).bos(), Some(2));
    assert_eq!(tokenizer(&Tiny::Gemma.parts().key(add_bos, Value::Bool(false))).bos(), None);
    assert_eq!(tokenizer(&Tiny::Llama.parts()).bos(), None);
    // Ends of turns and of messages end a text, too.
    let ends = Tiny::Llama
        .parts()
        .key("tokenizer.ggml.eot_token_id", Value::U32(7))
        .key("tokenizer.ggml.eom_token_id", Value::U32(9));
    let ends = tokenizer(&ends);
    assert_eq!([0, 7, 8, 9].map(|id| ends.is_end(id)), [true, true, false, true]);
}

/// Tensors are found by name: in which order a file has them is all the same.
#[test]
fn the_order_of_tensors_is_all_the_same() {
    let folder = Folder::new();
    let parts = Tiny::Gemma.parts();
    let model = load(&folder.write(&parts));
    let path = folder.path("reversed.gguf");
    let f32s = |tensor: &Tensor| QTensor::quantize(tensor, GgmlDType::F32).unwrap();
    let quantized: Vec<_> =
        parts.tensors.iter().rev().map(|(name, tensor)| (name.as_str(), f32s(tensor))).collect();
    let tensors: Vec<_> = quantized.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let metadata: Vec<_> = parts.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let mut file = std::fs::File::create(&path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    drop(file);
    let tokens = ids(20);
    assert_eq!(on_cpu(&load(&path), "", &tokens), on_cpu(&model, "", &tokens));
}
