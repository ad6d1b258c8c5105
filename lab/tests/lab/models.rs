//! The models that scripts/fetch-models brings, where they are: agreement with candle's own models
//! in f32, on the GPU.

use std::path::Path;

use crate::common::{candle, difference};
use lab::attend::Attend;
use lab::generate::{Options, generate};
use lab::gguf::ModelFile;
use lab::gpu::GpuAttention;
use lab::perplexity::{Windows, evaluate};
use lab::setting::{Setting, SettingArgs};
use lab::tokenizer::Tokenizer;

const SMOLLM: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA: &str = "gemma-3-270m-q4_k_m.gguf";

/// Error of a logit over the largest: two f32 computations of tens of layers, each summed in
/// another order.
const TOLERANCE: f32 = 1e-5;

/// A continuation by the GPU, and that candle, given the same tokens, has the same logits and would
/// have chosen every one of them.
fn agrees(path: &Path, gpu: &prflash::Context, prompt: &str, theirs: impl Fn(&[u32]) -> Vec<f32>) -> String {
    let file = ModelFile::open(path).unwrap();
    let mut tokenizer = Tokenizer::read(&file).unwrap();
    let model = crate::common::load(path);
    let setting = Setting::new(&SettingArgs::default(), model.config()).unwrap();
    let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
    tokens.extend(tokenizer.encode(prompt, false).unwrap());
    let prompt_tokens = tokens.len();
    let mut attention = GpuAttention::new(gpu, model.config(), &setting, 128, 128).unwrap();
    let pieces = setting.pieces(tokens.len(), 64);
    let options = Options { max_new: 32, temperature: 0.0, seed: 0, pieces };
    let (step, emit) = (&mut |_| Ok(()), &mut |_| Ok(()));
    let made = generate(&model, &tokenizer, &mut attention, &tokens, &options, step, emit).unwrap().tokens;
    tokens.extend(&made);

    attention.start(0);
    let hidden = model.forward(&tokens, &mut attention, &mut |_| Ok(())).unwrap();
    let ours = model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let theirs = theirs(&tokens);
    let (error, size) = difference(&ours, &theirs);
    println!("{}: logits differ by at most {error:e} of {size}", file.name());
    assert!(error <= TOLERANCE * size, "off by {error:e}, largest number {size}");
    let vocabulary = model.config().vocabulary;
    for (row, &chosen) in theirs.chunks_exact(vocabulary).skip(prompt_tokens - 1).zip(&made) {
        let best = (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(best, chosen as usize);
    }
    tokenizer.decode(&made).unwrap()
}

#[test]
fn smollm_is_candles() {
    let Some(path) = crate::common::fetched_model("smollm_is_candles", SMOLLM) else { return };
    let Some(gpu) = crate::common::gpu("smollm_is_candles") else { return };
    let theirs = |tokens: &[u32]| {
        let mut model = candle::llama(&path);
        candle::step_by_step(tokens, |input, position| model.forward(input, position).unwrap())
    };
    let text = agrees(&path, &gpu, "The capital of France is", theirs);
    assert!(text.starts_with(" Paris."), "{text}");
}

#[test]
fn gemma_is_candles() {
    let Some(path) = crate::common::fetched_model("gemma_is_candles", GEMMA) else { return };
    let Some(gpu) = crate::common::gpu("gemma_is_candles") else { return };
    let theirs = |tokens: &[u32]| {
        let mut model = candle::gemma(&path, 512, 6);
        candle::step_by_step(tokens, |input, position| model.forward(input, position).unwrap())
    };
    let text = agrees(&path, &gpu, "The largest planet of the solar system is", theirs);
    assert!(text.starts_with(" the largest in size"), "{text}");
}

/// Words with a token of their own, single digits, marks; and no byte is lost.
#[test]
fn texts_have_the_ids_of_the_models() {
    let hard = "Tab\tand  two spaces,\n\n\n12,345 €; naïve 東京 👩‍🚀 <|im_start|> <bos> x\u{301}\r\n end ";
    let name = "texts_have_the_ids_of_the_models";
    let check = |file: &str, pairs: &[(&str, &[u32])]| {
        let Some(path) = crate::common::fetched_model(name, file) else { return };
        let mut tokenizer = Tokenizer::read(&ModelFile::open(&path).unwrap()).unwrap();
        for (text, ids) in pairs {
            assert_eq!(tokenizer.encode(text, true).unwrap(), *ids, "{text:?}");
        }
        let ids = tokenizer.encode(hard, false).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), hard);
        let bytes: usize = ids.iter().map(|&id| tokenizer.bytes(id)).sum();
        assert_eq!(bytes, hard.len());
        let mut stream = tokenizer.stream();
        let streamed: String = ids.iter().map(|&id| stream(id).unwrap()).collect();
        assert_eq!(streamed, hard);
    };
    let marks: (&str, &[u32]) = ("<|im_start|>user\n2024<|im_end|>", &[1, 4093, 198, 34, 32, 34, 36, 2]);
    check(SMOLLM, &[("The capital of France is", &[504, 3575, 282, 4649, 314]), marks]);
    check(GEMMA, &[("The capital of France is", &[818, 5279, 529, 7001, 563])]);
}

/// An independent forward pass in numpy (scripts/make-fixture --check) has a perplexity of 31.411
/// on the first 1,024 tokens of Persuasion.
#[test]
fn perplexity_is_that_of_numpy() {
    let name = "perplexity_is_that_of_numpy";
    let Some(path) = crate::common::fetched_model(name, SMOLLM) else { return };
    let text = path.with_file_name("../texts/persuasion.txt");
    let Ok(text) = std::fs::read_to_string(&text) else {
        return crate::common::skipped(&format!(
            "{name}: no persuasion.txt (scripts/fetch-models brings it)"
        ));
    };
    let Some(gpu) = crate::common::gpu(name) else { return };
    let file = ModelFile::open(&path).unwrap();
    let (mut tokenizer, model) = (Tokenizer::read(&file).unwrap(), crate::common::load(&path));
    let windows = Windows::new(tokenizer.encode(&text, false).unwrap(), &tokenizer, 1024).unwrap();
    let setting = Setting::new(&SettingArgs::default(), model.config()).unwrap();
    let mut attention = GpuAttention::new(&gpu, model.config(), &setting, 1024, 512).unwrap();
    let step = &mut |_| Ok(());
    let pieces = setting.pieces(1024, 512);
    let evaluated = evaluate(&model, &tokenizer, &mut attention, &windows, 0, &pieces, step).unwrap();
    let buckets = evaluated.buckets;
    let tokens: u64 = buckets.iter().map(|bucket| bucket.tokens).sum();
    let perplexity = (buckets.iter().map(|bucket| bucket.nll).sum::<f64>() / tokens as f64).exp();
    assert!((perplexity - 31.411).abs() < 0.001, "{perplexity}");
}
