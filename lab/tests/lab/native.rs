//! The native engine agrees with plain loops under every setting that these know, and with dense
//! attention under those that they don't.

use std::ops::Range;

use candle_core::quantized::GgmlDType;
use lab::attend::{Attend, Usage};
use lab::cpu::CpuAttention;
use lab::model::Model;
use lab::native::NativeAttention;

use crate::agreement::{
    AFTER_ROTATION, SETTINGS, STAIRCASES, TOLERANCE, assert_close, assert_close_by, by_scores, logits,
    setting, write,
};
use crate::common::{Tiny, attended, difference, ids, load};

fn tiny(tiny: Tiny, dtype: GgmlDType) -> Model {
    let folder = tempfile::tempdir().unwrap();
    load(&write(folder.path(), tiny, dtype))
}

/// The logits in pieces, and what they took.
fn run(model: &Model, options: &str, tokens: &[u32], chunk: usize) -> (Vec<f32>, Usage) {
    let setting = setting(model, options);
    let mut native = NativeAttention::new(model.config(), &setting, tokens.len(), 64).unwrap();
    let logits = logits(model, &mut native, tokens, chunk);
    native.check().unwrap();
    (logits, native.usage())
}

#[test]
fn native_is_plain_under_every_setting() {
    let content = [
        "--attention content --profile 4;group=8;bits=8 --block-size 8",
        "--attention content --profile 4;group=4;tau=0.5;alpha=0.5 --block-size 8 --beta 1 --lists-per kv-head",
        "--attention content --profile 3;estimate=exact;probe=ahead:2 --block-size 16 --lists-per shared",
    ];
    for kind in [Tiny::Llama, Tiny::Gemma] {
        let model = tiny(kind, GgmlDType::Q8_0);
        let tokens = ids(150);
        let mut dense = Vec::new();
        for options in SETTINGS.iter().chain(&content) {
            // In uneven pieces; of content in the same ones, since the first query block of a piece
            // has no rows of the block before.
            let by_content = content.contains(options);
            let chunks = if by_content { [48, 48] } else { [tokens.len(), 61] };
            let name = format!("{} {options}", kind.name());
            let mut plain = CpuAttention::new(model.config(), &setting(&model, options)).unwrap();
            let wanted = logits(&model, &mut plain, &tokens, chunks[0]);
            let (got, usage) = run(&model, options, &tokens, chunks[1]);
            assert_close_by(by_scores(options), &name, &got, &wanted);
            let plain = plain.usage();
            assert_eq!((&plain.visited, &plain.dense), (&usage.visited, &usage.dense), "{name}");
            assert_eq!((plain.kv_bytes, plain.kv_f16_bytes), (usage.kv_bytes, usage.kv_f16_bytes), "{name}");
            if options.is_empty() {
                dense = wanted;
                assert_close("token by token", &run(&model, options, &tokens, 1).0, &dense);
            } else {
                let (error, size) = difference(&wanted, &dense);
                assert!(error > 100.0 * TOLERANCE * size, "{name} changes nothing");
            }
        }
    }
}

#[test]
fn native_staircases_are_the_oracles() {
    for kind in [Tiny::Llama, Tiny::Gemma] {
        let model = tiny(kind, GgmlDType::F32);
        let config = model.config();
        for options in STAIRCASES {
            for (keys, tolerance) in [("before", TOLERANCE), ("after", AFTER_ROTATION)] {
                let options = format!("{options} --stored-keys {keys}-rotation --staircase-layers all");
                let setting = setting(&model, &options);
                let pieces = setting.pieces(200, 50);
                for layer in 0..if matches!(kind, Tiny::Gemma) { 2 } else { 1 } {
                    let name = format!("{} {options}, layer {layer}", kind.name());
                    let mut plain = CpuAttention::new(config, &setting).unwrap();
                    let mut native = NativeAttention::new(config, &setting, 200, 64).unwrap();
                    let wanted = attended(config, &mut plain, layer, &pieces);
                    let got = attended(config, &mut native, layer, &pieces);
                    assert_close_by(tolerance, &name, &got, &wanted);
                    let [plain, usage] = [plain.usage(), native.usage()];
                    assert_eq!(plain, usage, "{name}");
                    let single: Vec<Range<usize>> = (0..200).map(|token| token..token + 1).collect();
                    assert_close(&name, &attended(config, &mut native, layer, &single), &got);
                }
            }
        }
    }
}

#[test]
fn native_rounds_end_at_dense() {
    let model = tiny(Tiny::Llama, GgmlDType::F32);
    let tokens = ids(100);
    let mut plain = CpuAttention::new(model.config(), &setting(&model, "")).unwrap();
    let dense = logits(&model, &mut plain, &tokens, 100);
    let all = plain.usage().blocks_per_token(0..100).1;
    let run = |options: &str| {
        let (logits, usage) = run(&model, options, &tokens, 50);
        (logits, usage.blocks_per_token(0..100).0)
    };
    let (partition, visited) = run("--attention prflash --block-size 64 --partition-rounds 3");
    assert_close("partition", &partition, &dense);
    assert_eq!(visited, all, "every block is in one round");
    let (same, visited) = run("--attention prflash --block-size 64 --floor 1 --rounds 3");
    assert_close("independent", &same, &dense);
    assert_eq!(visited, 3.0 * all);
    let error = |rounds: usize| {
        let (logits, _) = run(&format!("--attention prflash --block-size 8 --beta 1 --rounds {rounds}"));
        let square: f64 = logits.iter().zip(&dense).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        square.sqrt()
    };
    let (one, many) = (error(1), error(16));
    assert!(many < 0.6 * one, "{many} after 16 rounds, {one} after one");
}

#[test]
fn native_half_precision_storage_is_close() {
    let model = tiny(Tiny::Llama, GgmlDType::F32);
    let tokens = ids(80);
    let (full, whole) = run(&model, "", &tokens, 60);
    for (options, tolerance) in [("--storage f16", 2e-2), ("--storage bf16", 2e-1)] {
        let (half, usage) = run(&model, options, &tokens, 60);
        let (error, size) = difference(&half, &full);
        assert!(error > 0.0 && error < tolerance * size, "{options}: {error} of {size}");
        assert_eq!(2 * usage.kv_bytes, whole.kv_bytes);
    }
}

#[test]
fn native_refuses_too_many_tokens_and_forgets() {
    let model = tiny(Tiny::Llama, GgmlDType::F32);
    let sampled = setting(&model, "--attention prflash --block-size 8");
    let mut native = NativeAttention::new(model.config(), &sampled, 20, 16).unwrap();
    let mut forward = |count| model.forward(&ids(count), &mut native, &mut |_| Ok(())).map(|_| ());
    assert!(forward(17).unwrap_err().to_string().contains("at most 16"));
    forward(16).unwrap();
    assert!(forward(5).unwrap_err().to_string().contains("made for 20"));
    forward(4).unwrap(); // what was refused left nothing behind

    let mut native = NativeAttention::new(model.config(), &sampled, 100, 100).unwrap();
    let tokens = ids(100);
    let mut of_sequence = |sequence| {
        native.start(sequence);
        let hidden = model.forward(&tokens, &mut native, &mut |_| Ok(())).unwrap();
        hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (first, second, again) = (of_sequence(0), of_sequence(1), of_sequence(0));
    assert_eq!(first, again);
    assert_ne!(first, second, "sequences draw apart");
}
