//! Small random models of both architectures: the GPU agrees with plain loops on the CPU under
//! every setting, and both with candle's own models.

use std::ops::Range;
use std::path::Path;

use crate::common::{Tiny, WINDOW, attended, candle, difference, ids, load};
use candle_core::quantized::GgmlDType;
use clap::Parser;
use lab::attend::Attend;
use lab::content::memory::Memory;
use lab::content::steps::Steps;
use lab::cpu::CpuAttention;
use lab::gpu::GpuAttention;
use lab::model::Model;
use lab::setting::{Setting, SettingArgs};

/// Logits of a small model are of the order of 10; two f32 computations that sum in another order
/// may differ by this fraction of the largest.
pub(crate) const TOLERANCE: f32 = 2e-5;

/// Where keys are turned before they are rounded to f16, a last bit of the one may turn into a last
/// bit of the other, or into another code.
pub(crate) const AFTER_ROTATION: f32 = 2e-2;

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    setting: SettingArgs,
}

pub(crate) fn setting(model: &Model, options: &str) -> Setting {
    let line = Line::try_parse_from(options.split_whitespace()).unwrap();
    Setting::new(&line.setting, model.config()).unwrap()
}

/// The logits of every token, read in pieces of `chunk`.
pub(crate) fn logits(model: &Model, attention: &mut dyn Attend, tokens: &[u32], chunk: usize) -> Vec<f32> {
    attention.start(0);
    let mut all = Vec::new();
    for piece in tokens.chunks(chunk) {
        let hidden = model.forward(piece, attention, &mut |_| Ok(())).unwrap();
        all.extend(model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    all
}

#[track_caller]
pub(crate) fn assert_close(name: &str, a: &[f32], b: &[f32]) {
    assert_close_by(TOLERANCE, name, a, b);
}

#[track_caller]
pub(crate) fn assert_close_by(tolerance: f32, name: &str, a: &[f32], b: &[f32]) {
    let (error, size) = difference(a, b);
    assert!(error <= tolerance * size, "{name}: off by {error:e}, largest number {size}");
}

/// Scores have units of 1/1024: a last bit of a query may make one of weights that are drawn by
/// them.
pub(crate) fn by_scores(options: &str) -> f32 {
    if options.contains("tau=") { 1e-3 } else { TOLERANCE }
}

pub(crate) fn write(folder: &Path, tiny: Tiny, dtype: GgmlDType) -> std::path::PathBuf {
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
    // One token at a time: in longer pieces candle's mask lets a query see one key more than its
    // window.
    let theirs = candle::step_by_step(&tokens, |input, position| candles.forward(input, position).unwrap());
    let model = load(&path);
    let mut ours = CpuAttention::new(model.config(), &setting(&model, "")).unwrap();
    assert_close("cpu", &logits(&model, &mut ours, &tokens, 90), &theirs);
}

/// Every kind of setting that plain loops can check.
pub(crate) const SETTINGS: [&str; 13] = [
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
    let Some(context) = crate::common::gpu("gpu_is_cpu_under_every_setting") else { return };
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
            // In uneven pieces, so that the memory grows and later pieces read what earlier ones
            // stored.
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
    let Some(context) = crate::common::gpu("decoding_is_prefilling") else { return };
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

/// In the same pieces, since the first query block of a piece has no rows of the block before.
#[test]
fn content_is_the_same_on_both() {
    let Some(context) = crate::common::gpu("content_is_the_same_on_both") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::Q8_0));
    let tokens = ids(150);
    let mut dense = CpuAttention::new(model.config(), &setting(&model, "")).unwrap();
    let dense = logits(&model, &mut dense, &tokens, 48);
    for options in [
        "--attention content --profile 4;group=8;bits=8 --block-size 8",
        "--attention content --profile 4;group=4;bits=8;tau=0.5;alpha=0.5 --block-size 8 --beta 1",
        "--attention content --profile 4;group=4;tau=0.5;alpha=0.5 --block-size 8 --beta 1 --lists-per kv-head",
        "--attention content --profile 3;estimate=exact;probe=ahead:2 --block-size 16 --lists-per shared",
    ] {
        let setting = setting(&model, options);
        let mut cpu = CpuAttention::new(model.config(), &setting).unwrap();
        let wanted = logits(&model, &mut cpu, &tokens, 48);
        let mut gpu = GpuAttention::new(&context, model.config(), &setting, 150, 48).unwrap();
        assert_close_by(by_scores(options), options, &logits(&model, &mut gpu, &tokens, 48), &wanted);
        assert_eq!(cpu.usage().visited, gpu.usage().visited, "{options}");
        let (error, size) = difference(&wanted, &dense);
        assert!(error > 100.0 * TOLERANCE * size, "{options} changes nothing");
    }
}

/// Over a staircase the GPU chooses by what the cache knows: with room for all blocks that is the
/// staircase alone, and with room for few it visits the sink, the residual and what is best.
#[test]
fn content_over_a_staircase() {
    let Some(context) = crate::common::gpu("content_over_a_staircase") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::Q8_0));
    let tokens = ids(200);
    let run = |more: &str| {
        let setting = setting(&model, &format!("--staircase recommended;segment=32 {more}"));
        let mut gpu = GpuAttention::new(&context, model.config(), &setting, 200, 1).unwrap();
        (logits(&model, &mut gpu, &tokens, 1), gpu.usage())
    };
    let by = "--block-size 8 --lists-per kv-head --attention content --profile";
    let (alone, plain) = run("");
    let (all, usage) = run(&format!("{by} 1000;group=8;bits=8"));
    // Another order of sums, of keys that are rounded to f16 layer after layer.
    let (near, size) = difference(&all, &alone);
    assert!(near <= 1e-3 * size, "all blocks: off by {near:e}, largest number {size}");
    assert_eq!(usage.visited, usage.dense);
    let (few, usage) = run(&format!("{by} 2;group=8;bits=8"));
    let (error, _) = difference(&few, &alone);
    assert!(error > 10.0 * near && error > 1e-2 * size, "few blocks change nothing: {error:e}");
    assert!(usage.kv_bytes > plain.kv_bytes, "summaries are held");
    // At the last of 200 tokens 5 segments have left; 40 tokens are in the residual, behind the
    // first block.
    let heads = usage.dense[199] / 25;
    assert_eq!(usage.visited[199], heads * 6);
}

/// Tokens that are read together, each by its own query, are tokens that come one by one.
#[test]
fn steps_are_single_tokens() {
    let folder = tempfile::tempdir().unwrap();
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let model = load(&write(folder.path(), tiny, GgmlDType::Q8_0));
        let tokens = ids(110);
        let inner = CpuAttention::new(model.config(), &setting(&model, "")).unwrap();
        let mut first = Memory::recorder(Box::new(inner), model.config());
        // One token has only itself to see, under any rule.
        logits(&model, &mut first, &tokens[..1], 1);
        let memory = Memory::of(first, model.config()).unwrap();
        assert_eq!(memory.tokens, 1);
        for (options, share) in [
            ("", 1.0..=1.0),
            ("--attention sink-window --profile half-window:3 --block-size 8", 0.3..=0.9),
            ("--attention content --profile 3;group=8;bits=8 --block-size 8 --lists-per kv-head", 0.3..=0.9),
            ("--attention content --profile 3;group=4;tau=1;alpha=0.5 --block-size 8 --beta 1", 0.3..=2.0),
        ] {
            let setting = setting(&model, options);
            let mut alone = CpuAttention::new(model.config(), &setting).unwrap();
            let wanted = logits(&model, &mut alone, &tokens, 1);
            let mut steps = Steps::new(model.config(), &setting, &memory);
            let got = logits(&model, &mut steps, &tokens[1..], 109);
            let width = wanted.len() / tokens.len();
            assert_close_by(by_scores(options), options, &got, &wanted[width..]);
            assert!(share.contains(&steps.read().share()), "{options}: {}", steps.read().share());
        }
    }
}

#[test]
fn rounds_end_at_dense() {
    let Some(context) = crate::common::gpu("rounds_end_at_dense") else { return };
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
    let Some(context) = crate::common::gpu("half_precision_storage_is_close") else { return };
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
    let Some(context) = crate::common::gpu("sequences_draw_apart") else { return };
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
    let Some(context) = crate::common::gpu("too_many_tokens_are_refused") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::F32));
    let mut gpu = GpuAttention::new(&context, model.config(), &setting(&model, ""), 20, 16).unwrap();
    let mut forward = |count| model.forward(&ids(count), &mut gpu, &mut |_| Ok(())).map(|_| ());
    assert!(forward(17).unwrap_err().to_string().contains("at most 16"));
    forward(16).unwrap();
    assert!(forward(5).unwrap_err().to_string().contains("made for 20"));
    forward(4).unwrap(); // what was refused left nothing behind
}

/// Segments of 32 tokens, so that few tokens climb down many rungs; each with what it is compared
/// with afterwards.
pub(crate) const STAIRCASES: [&str; 9] = [
    "--staircase plain;segment=32",
    "--staircase recommended;segment=32",
    "--staircase paper;segment=32;residual=45",
    "--staircase K:8x1,3;V:8x1,4x2,2;segment=32;sinks=7",
    "--staircase kivi2;segment=32",
    "--staircase streaming:40;segment=32",
    "--staircase paper;segment=32 --attention prflash --block-size 8 --beta 0.5",
    "--staircase paper;segment=32 --attention sink-window --block-size 16 --lists-per shared",
    "--staircase paper;segment=32 --rope-scaling yarn:4,64 --bias alibi",
];

#[test]
fn staircase_is_the_oracles() {
    let Some(context) = crate::common::gpu("staircase_is_the_oracles") else { return };
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let folder = tempfile::tempdir().unwrap();
        let model = load(&write(folder.path(), tiny, GgmlDType::F32));
        let config = model.config();
        for options in STAIRCASES {
            for (keys, tolerance) in [("before", TOLERANCE), ("after", AFTER_ROTATION)] {
                let options = format!("{options} --stored-keys {keys}-rotation --staircase-layers all");
                let setting = setting(&model, &options);
                let pieces = setting.pieces(200, 50);
                // Gemma's second layer has no window; the others of a kind compute the same.
                for layer in 0..if matches!(tiny, Tiny::Gemma) { 2 } else { 1 } {
                    let name = format!("{} {options}, layer {layer}", tiny.name());
                    let mut cpu = CpuAttention::new(config, &setting).unwrap();
                    let mut gpu = GpuAttention::new(&context, config, &setting, 200, 64).unwrap();
                    let wanted = attended(config, &mut cpu, layer, &pieces);
                    let got = attended(config, &mut gpu, layer, &pieces);
                    let (error, size) = difference(&got, &wanted);
                    assert!(error <= tolerance * size, "{name}: off by {error:e} of {size}");
                    let [cpu_usage, usage] = [cpu.usage(), gpu.usage()];
                    let rungs = usage.rungs.unwrap();
                    assert_eq!(rungs.live, rungs.formula, "{name}");
                    let parts = rungs.keys.iter().chain(&rungs.values).sum::<u64>();
                    assert_eq!(rungs.live, parts + rungs.residual + rungs.sinks, "{name}");
                    assert_eq!((rungs.live, rungs.f16), (usage.kv_bytes, usage.kv_f16_bytes), "{name}");
                    assert!(rungs.capacity >= rungs.live, "{name}");
                    assert_eq!((&cpu_usage.visited, cpu_usage.kv_bytes), (&usage.visited, usage.kv_bytes));
                    let cpu_rungs = cpu_usage.rungs.unwrap();
                    assert_eq!((cpu_rungs.keys, cpu_rungs.values), (rungs.keys, rungs.values), "{name}");
                    // Token by token: the same words at the same time, read by another kernel; and
                    // again in a sequence that takes the first one's place.
                    let single: Vec<Range<usize>> = (0..200).map(|token| token..token + 1).collect();
                    assert_close(&name, &attended(config, &mut gpu, layer, &single), &got);
                }
            }
        }
    }
}

#[test]
fn plain_staircase_is_dense() {
    let Some(context) = crate::common::gpu("plain_staircase_is_dense") else { return };
    let tokens = ids(300);
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let folder = tempfile::tempdir().unwrap();
        let model = load(&write(folder.path(), tiny, GgmlDType::F32));
        let run = |options: &str| {
            let setting = setting(&model, options);
            let mut gpu = GpuAttention::new(&context, model.config(), &setting, 300, 128).unwrap();
            (logits(&model, &mut gpu, &tokens, 127), gpu.usage())
        };
        let (dense, whole) = run("");
        let (half, _) = run("--storage f16");
        let (rounding, size) = difference(&half, &dense);
        for options in
            ["after", "before"].map(|keys| format!("--staircase plain --stored-keys {keys}-rotation"))
        {
            let (plain, usage) = run(&options);
            let (error, _) = difference(&plain, &dense);
            // Keys and values in f16, as plain tensors in f16 are; those have queries in f16 too.
            assert!(
                error > 0.0 && error < 2e-2 * size,
                "{options}: {error} of {size}, f16 tensors {rounding}"
            );
            assert_eq!(usage.kv_f16_bytes, whole.kv_f16_bytes);
        }
        let (coarse, _) = run("--staircase kivi2");
        assert!(difference(&coarse, &dense).0 > 10.0 * rounding);
    }
}

#[test]
fn sliding_layers_have_a_staircase_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Gemma, GgmlDType::F32));
    let layers = |options: &str| -> Vec<bool> {
        let setting = setting(&model, options);
        (0..4).map(|layer| setting.staircase(model.config(), layer).is_some()).collect()
    };
    assert_eq!(layers(""), [false; 4]);
    assert_eq!(layers("--staircase paper"), [false, true, false, true]);
    assert_eq!(layers("--staircase paper --staircase-layers all"), [true; 4]);
}

#[test]
fn pieces_end_where_segments_step() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::F32));
    for options in ["--staircase paper", "--staircase paper;residual=300", "--staircase plain;segment=64"] {
        let setting = setting(&model, options);
        let staircase = setting.any_staircase().unwrap();
        for chunk in [1, 50, 128, 512] {
            let pieces = setting.pieces(1000, chunk);
            assert!(pieces.iter().map(ExactSizeIterator::len).all(|len| (1..=chunk).contains(&len)));
            assert!(pieces.iter().flat_map(Clone::clone).eq(0..1000), "{options}");
            for piece in pieces {
                // Segments gone before the first query sees itself, and before the last one does.
                let [first, last] =
                    [piece.start + 1, piece.end].map(|len| staircase.standing(len).segments());
                assert_eq!(first, last, "{options}, {piece:?}");
            }
        }
    }
    assert_eq!(setting(&model, "").pieces(10, 4), [0..4, 4..8, 8..10]);
}

#[test]
fn settings_of_the_staircase_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write(folder.path(), Tiny::Llama, GgmlDType::F32));
    let refused = |options: &str| {
        let line = Line::try_parse_from(options.split_whitespace()).unwrap();
        format!("{:#}", Setting::new(&line.setting, model.config()).unwrap_err())
    };
    assert!(refused("--staircase K:8x2,5;V:4").starts_with("--staircase: character 3: "));
    assert!(refused("--staircase paper --attention prflash --rounds 2").starts_with("--rounds"));
    assert!(Line::try_parse_from(["--stored-keys", "before-rotation"]).is_err());
    let values = |options: &str| setting(&model, options).values();
    assert_eq!(values("--staircase kivi4"), values("--staircase K:4;V:4;sinks=0 --staircase-layers global"));
}
