//! Small random models of both architectures: the GPU agrees with plain loops on the CPU under every setting, and both with candle's own models.

mod common;

use std::path::Path;

use candle_core::quantized::GgmlDType;
use clap::Parser;
use common::{Tiny, WINDOW, candle, difference, ids, load};
use lab::attend::Attend;
use lab::cpu::CpuAttention;
use lab::gpu::GpuAttention;
use lab::model::Model;
use lab::setting::{Setting, SettingArgs};

/// Logits of a small model are of the order of 10; two f32 computations that sum in another order may differ by this fraction of the largest.
const TOLERANCE: f32 = 2e-5;

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    setting: SettingArgs,
}

fn setting(model: &Model, options: &str) -> Setting {
    let line = Line::try_parse_from(options.split_whitespace()).unwrap();
    Setting::new(&line.setting, model.config()).unwrap()
}

/// The logits of every token, read in pieces of `chunk`.
fn logits(model: &Model, attention: &mut dyn Attend, tokens: &[u32], chunk: usize) -> Vec<f32> {
    attention.start(0);
    let mut all = Vec::new();
    for piece in tokens.chunks(chunk) {
        let hidden = model.forward(piece, attention, &mut |_| Ok(())).unwrap();
        all.extend(model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    all
}

#[track_caller]
fn assert_close(name: &str, a: &[f32], b: &[f32]) {
    let (error, size) = difference(a, b);
    assert!(error <= TOLERANCE * size, "{name}: off by {error:e}, largest number {size}");
}

fn write(folder: &Path, tiny: Tiny, dtype: GgmlDType) -> std::path::PathBuf {
    let path = folder.join("tiny.gguf");
    tiny.write(&path, dtype);
    path
}

#[test]
fn llama_is_candles_llama() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), Tiny::Llama, GgmlDType::Q8_0);
    let tokens = ids(90);
    let mut candles = candle::llama(&path);
    let theirs = candle::step_by_step(&tokens, |input, position| candles.forward(input, position).unwrap());
    let model = load(&path);
    let mut ours = CpuAttention::new(model.config(), &setting(&model, "")).unwrap();
    assert_close("cpu", &logits(&model, &mut ours, &tokens, 90), &theirs);
}

#[test]
fn gemma_is_candles_gemma() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), Tiny::Gemma, GgmlDType::Q8_0);
    let tokens = ids(90);
    let mut candles = candle::gemma(&path, WINDOW, 2);
    // One token at a time: in longer pieces candle's mask lets a query see one key more than its window.
    let theirs = candle::step_by_step(&tokens, |input, position| candles.forward(input, position).unwrap());
    let model = load(&path);
    let mut ours = CpuAttention::new(model.config(), &setting(&model, "")).unwrap();
    assert_close("cpu", &logits(&model, &mut ours, &tokens, 90), &theirs);
}

/// Every kind of setting that the CPU backend can check.
const SETTINGS: [&str; 13] = [
    "",
    "--attention prflash --block-size 8",
    "--attention prflash --block-size 8 --beta 0.5 --seed 3 --lists-per kv-head",
    "--attention prflash --block-size 16 --profile harmonic:4,1.5 --sinks 2 --window-blocks 2 --lists-per shared",
    "--attention prflash --block-size 8 --profile budget:3 --sampler bernoulli --beta 1",
    "--attention prflash --block-size 8 --profile deduction:0.4 --floor 0.1",
    "--attention prflash --block-size 8 --sampler renewal",
    "--attention prflash --block-size 8 --sampler segment",
    "--attention sink-window --block-size 8",
    "--attention uniform --block-size 8 --seed 5",
    "--rope-scaling yarn:4,64 --bias harmonic --bias-weight 0.3",
    "--rope-scaling ntk:2 --bias alibi",
    "--rope-scaling linear:2 --bias log:0.5 --harmonic-factor 32",
];

#[test]
fn gpu_is_cpu_under_every_setting() {
    let Some(context) = common::gpu("gpu_is_cpu_under_every_setting") else { return };
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let folder = tempfile::tempdir().unwrap();
        let model = load(&write(folder.path(), tiny, GgmlDType::Q8_0));
        let tokens = ids(150);
        let mut dense = Vec::new();
        for options in SETTINGS {
            let name = format!("{} {options}", tiny.name());
            let setting = setting(&model, options);
            let mut cpu = CpuAttention::new(model.config(), &setting).unwrap();
            let wanted = logits(&model, &mut cpu, &tokens, tokens.len());
            let mut gpu = GpuAttention::new(&context, model.config(), &setting, tokens.len(), 64).unwrap();
            // In uneven pieces, so that the memory grows and later pieces read what earlier ones stored.
            assert_close(&name, &logits(&model, &mut gpu, &tokens, 61), &wanted);
            let (cpu, gpu) = (cpu.usage(), gpu.usage());
            assert_eq!((&cpu.visited, &cpu.dense), (&gpu.visited, &gpu.dense), "{name}");
            assert_eq!(cpu.kv_bytes, gpu.kv_bytes, "{name}");
            let (visited, all) = gpu.blocks_per_token(0..tokens.len());
            if options.is_empty() {
                assert_eq!(visited, all);
                dense = wanted;
            } else {
                let (error, size) = difference(&wanted, &dense);
                assert!(error > 100.0 * TOLERANCE * size, "{name} changes nothing");
                assert!(visited <= all, "{name}");
            }
        }
    }
}

#[test]
fn decoding_is_prefilling() {
    let Some(context) = common::gpu("decoding_is_prefilling") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Gemma, GgmlDType::Q8_0));
    let tokens = ids(70);
    for options in ["", "--attention prflash --block-size 8 --beta 0.5"] {
        let setting = setting(&model, options);
        let mut gpu = GpuAttention::new(&context, model.config(), &setting, 70, 70).unwrap();
        let whole = logits(&model, &mut gpu, &tokens, 70);
        assert_close(options, &logits(&model, &mut gpu, &tokens, 1), &whole);
    }
}

#[test]
fn rounds_end_at_dense() {
    let Some(context) = common::gpu("rounds_end_at_dense") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::F32));
    let tokens = ids(100);
    let mut cpu = CpuAttention::new(model.config(), &setting(&model, "")).unwrap();
    let dense = logits(&model, &mut cpu, &tokens, 100);
    let all = cpu.usage().blocks_per_token(0..100).1;
    let run = |options: &str| {
        let setting = setting(&model, options);
        let mut gpu = GpuAttention::new(&context, model.config(), &setting, 100, 64).unwrap();
        (logits(&model, &mut gpu, &tokens, 50), gpu.usage().blocks_per_token(0..100))
    };
    let (partition, (visited, _)) = run("--attention prflash --block-size 64 --partition-rounds 3");
    assert_close("partition", &partition, &dense);
    assert_eq!(visited, all, "every block is in one round");
    // Rounds that each keep every block are dense attention, over and over.
    let (same, (visited, _)) = run("--attention prflash --block-size 64 --floor 1 --rounds 3");
    assert_close("independent", &same, &dense);
    assert_eq!(visited, 3.0 * all);
    // Rounds that differ are nearer to dense attention than one of them.
    let error = |rounds: usize| {
        let options = format!("--attention prflash --block-size 8 --beta 1 --rounds {rounds}");
        let (logits, _) = run(&options);
        let square: f64 = logits.iter().zip(&dense).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        square.sqrt()
    };
    let (one, many) = (error(1), error(16));
    assert!(many < 0.6 * one, "{many} after 16 rounds, {one} after one");
}

#[test]
fn half_precision_storage_is_close() {
    let Some(context) = common::gpu("half_precision_storage_is_close") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::F32));
    let tokens = ids(80);
    let run = |options: &str| {
        let setting = setting(&model, options);
        let mut gpu = GpuAttention::new(&context, model.config(), &setting, 80, 80).unwrap();
        (logits(&model, &mut gpu, &tokens, 80), gpu.usage().kv_bytes)
    };
    let (full, bytes) = run("");
    for (options, tolerance) in [("--storage f16", 2e-2), ("--storage bf16", 2e-1)] {
        let (half, half_bytes) = run(options);
        let (error, size) = difference(&half, &full);
        assert!(error > 0.0 && error < tolerance * size, "{options}: {error} of {size}");
        assert_eq!(2 * half_bytes, bytes);
    }
}

#[test]
fn sequences_draw_apart() {
    let Some(context) = common::gpu("sequences_draw_apart") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::F32));
    let setting = setting(&model, "--attention prflash --block-size 8");
    let mut gpu = GpuAttention::new(&context, model.config(), &setting, 100, 100).unwrap();
    let tokens = ids(100);
    let mut of_sequence = |sequence| {
        gpu.start(sequence);
        let hidden = model.forward(&tokens, &mut gpu, &mut |_| Ok(())).unwrap();
        hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (first, second, again) = (of_sequence(0), of_sequence(1), of_sequence(0));
    assert_eq!(first, again);
    assert_ne!(first, second);
}

#[test]
fn too_many_tokens_are_refused() {
    let Some(context) = common::gpu("too_many_tokens_are_refused") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::F32));
    let mut gpu = GpuAttention::new(&context, model.config(), &setting(&model, ""), 20, 16).unwrap();
    let mut forward = |count| model.forward(&ids(count), &mut gpu, &mut |_| Ok(())).map(|_| ());
    assert!(forward(17).unwrap_err().to_string().contains("at most 16"));
    forward(16).unwrap();
    assert!(forward(5).unwrap_err().to_string().contains("made for 20"));
    forward(4).unwrap(); // what was refused left nothing behind
}
