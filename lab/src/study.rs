//! What is measured to answer the paper's questions: which settings, on which texts, at which
//! lengths.
//!
//! Only names and numbers; [`sweep`](crate::sweep) computes them and [`report`](crate::report)
//! writes down what came of them.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use prflash::Shape;
use prflash::cache::Staircase;

use crate::content::rules;
use crate::needle::DEPTHS;
use crate::setting::Setting;
use crate::staircase;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// One model in short windows, into files of its own: about ten minutes on two cores.
    Quick,
    /// Both models in windows of 2,048 tokens of four texts: an hour and a half.
    Default,
    /// One model in long windows, past the context that it was made for: two and a half hours.
    Long,
}

/// The parts of the study, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Question {
    /// PrFlashAttention: perplexity against cost.
    Sampling,
    /// PrFlashAttention: how long attention takes.
    Speed,
    /// How long a token takes behind a long context.
    Decode,
    /// PrFlashAttention: a passkey by depth.
    Needle,
    /// SAQ: perplexity against bytes.
    Staircase,
    /// SAQ: error by age.
    Ages,
    /// Biases and scalings of positions.
    Positions,
}

impl Question {
    /// All of them.
    pub const ALL: [Question; 7] = [
        Question::Sampling,
        Question::Speed,
        Question::Decode,
        Question::Needle,
        Question::Staircase,
        Question::Ages,
        Question::Positions,
    ];

    /// The name on the command line, and of the file of results.
    pub fn name(self) -> &'static str {
        match self {
            Question::Sampling => "sampling",
            Question::Speed => "speed",
            Question::Decode => "decode",
            Question::Needle => "needle",
            Question::Staircase => "staircase",
            Question::Ages => "ages",
            Question::Positions => "positions",
        }
    }
}

impl Question {
    /// Whether the answer is times of kernels, on no text.
    pub fn is_timed(self) -> bool {
        matches!(self, Question::Speed | Question::Decode)
    }
}

/// A model that `scripts/fetch-models` brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelName {
    /// Grouped queries: 9 heads on 3 key/value heads of 64 channels in each of 30 layers.
    SmolLm2,
    /// One key/value head of 256 channels for 4 heads; 3 of 18 layers see everything.
    Gemma3,
}

impl ModelName {
    /// The model's file.
    pub fn file(self) -> &'static str {
        match self {
            ModelName::SmolLm2 => "SmolLM2-135M-Instruct.Q4_1.gguf",
            ModelName::Gemma3 => "gemma-3-270m-q4_k_m.gguf",
        }
    }

    /// As tables and pictures call it.
    pub fn title(self) -> &'static str {
        match self {
            ModelName::SmolLm2 => "SmolLM2 135M",
            ModelName::Gemma3 => "Gemma 3 270M",
        }
    }

    /// How long a token takes against one of SmolLM2: for the time that is left.
    pub fn weight(self) -> f64 {
        match self {
            ModelName::SmolLm2 => 1.0,
            ModelName::Gemma3 => 2.5,
        }
    }
}

/// A window of a text, by its number at the experiment's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The text's file, without `.txt`.
    pub text: &'static str,
    /// Which window of the text is read.
    pub window: usize,
}

/// Every window of another text, and with another number: schedules are drawn by window.
const FOUR: [Place; 4] = [place("emma", 0), place("brown", 1), place("hamlet", 2), place("wiki", 3)];
const TWO: [Place; 2] = [FOUR[0], FOUR[3]];

/// Random numbers in place of a text.
pub const NOWHERE: Place = place("", 0);

const fn place(text: &'static str, window: usize) -> Place {
    Place { text, window }
}

/// Tokens that a token sees, in [`Question::Decode`].
pub const DECODED: usize = 1024;

/// A named setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The name that tables have of it.
    pub name: String,
    /// The options of `--setting`.
    pub options: String,
}

impl Choice {
    fn new(name: &str, options: &str) -> Self {
        Self { name: name.to_owned(), options: options.to_owned() }
    }

    /// The setting, checked as far as it can be without the model.
    ///
    /// # Errors
    /// As [`Setting::from_options`].
    pub fn setting(&self) -> Result<Setting> {
        Setting::from_options(&self.options).with_context(|| format!("setting {:?}", self.name))
    }
}

/// Some settings on some windows, all of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// The question that it answers.
    pub question: Question,
    /// The model that it is measured on.
    pub model: ModelName,
    /// The windows, or the texts around passkeys; [`NOWHERE`] for times.
    pub places: Vec<Place>,
    /// Tokens of a window.
    pub width: usize,
    /// The first is what the others are compared with (not in [`Question::Needle`] and
    /// [`Question::Ages`]).
    pub choices: Vec<Choice>,
    /// Depths of passkeys, for [`Question::Needle`].
    pub depths: Vec<usize>,
}

/// The sampled settings at some blocks a row: PrFlashAttention, the two patterns with as many
/// blocks, and what content chooses, with its summaries as many bytes of `width` tokens.
fn at_blocks(width: usize, blocks: usize) -> [Choice; 4] {
    let choice = |name: &str, options: &str| {
        let options = options.replace("PROFILE", &format!("--profile half-window:{blocks}"));
        Choice::new(&format!("{name}, {blocks} blocks"), &options)
    };
    [
        choice("half window", "--attention prflash PROFILE --beta 0.5"),
        choice("sink + window", "--attention sink-window PROFILE"),
        choice("uniform", "--attention uniform PROFILE"),
        choice("by content", &rules::saturated(width, blocks).options),
    ]
}

/// Settings of single tokens behind a long context, all at 1,024 tokens of it, whatever its length.
/// Summaries of smaller groups would be more bytes than these tokens.
fn decode() -> Vec<Choice> {
    let stairs = "--staircase recommended --staircase-layers all";
    let blocks = DECODED / 64;
    let profile = format!("--profile half-window:{blocks}");
    let rule = rules::content("by content", blocks, ";group=64;bits=8", 64);
    let content = format!("{} --window-blocks 2", rule.options);
    vec![
        Choice::new("f16, by content", &format!("{content} --storage f16")),
        Choice::new("recommended, by content", &format!("{content} {stairs}")),
        Choice::new("recommended, half window", &format!("--attention prflash {profile} {stairs}")),
        Choice::new("recommended, sink + window", &format!("--attention sink-window {profile} {stairs}")),
    ]
}

/// The window of a sink + window cache that takes no more bytes than a staircase once `tokens`
/// tokens are there.
///
/// # Errors
/// A staircase smaller than any window.
pub fn window_of_equal_bytes(like: &Staircase, tokens: usize) -> Result<usize> {
    // Bytes go with heads and channels alike in both.
    let shape = Shape::new(1, 1, 1, 64)?;
    let bytes = |staircase: &Staircase| staircase.standing(tokens).memory(&shape).total();
    let most = bytes(like);
    let (mut fits, mut past) = (0, tokens + 1);
    while past - fits > 1 {
        let middle = fits.midpoint(past);
        if bytes(&Staircase::streaming(middle)?) <= most { fits = middle } else { past = middle }
    }
    ensure!(fits > 0, "no window takes as few bytes as {}", staircase::canonical(like));
    Ok(fits)
}

fn staircases(width: usize) -> Result<Vec<Choice>> {
    let of =
        |name: &str, stairs: &str| Choice::new(name, &format!("--staircase {stairs} --staircase-layers all"));
    let streaming = |like: &str| -> Result<Choice> {
        let window = window_of_equal_bytes(&staircase::parse(like)?, width)?;
        Ok(of(&format!("sink + window, bytes of {like}"), &format!("streaming:{window}")))
    };
    let recommended = "--staircase recommended --staircase-layers all";
    Ok(vec![
        of("f16", "plain"),
        of("recommended", "recommended"),
        of("paper", "paper"),
        of("KIVI-4", "kivi4"),
        of("KIVI-2", "kivi2"),
        streaming("recommended")?,
        streaming("kivi2")?,
        of("keys 8→4, values f16", "K:8x2,4;V:16"),
        of("keys f16, values 8→4→2", "K:16;V:8x2,4x16,2"),
        of("values 8→4→2 (nested)", "K:8x2,4;V:8x2,4x6,2"),
        of("values 8→3 (not nested)", "K:8x2,4;V:8x2,3"),
        Choice::new(
            "recommended, sampled 8 blocks",
            &format!("{recommended} --attention prflash --profile half-window:8 --beta 0.5"),
        ),
    ])
}

/// The choices whose names have none of some parts, for the model that takes longer.
fn few(mut choices: Vec<Choice>, without: &[&str]) -> Vec<Choice> {
    choices.retain(|choice| !without.iter().any(|part| choice.name.contains(part)));
    choices
}

fn biases(bias: &str, weights: &[f64]) -> Vec<Choice> {
    let choice = |&weight: &f64| {
        Choice::new(&format!("{bias}, λ = {weight}"), &format!("--bias {bias} --bias-weight {weight}"))
    };
    weights.iter().map(choice).collect()
}

fn scalings(factor: usize) -> [Choice; 2] {
    let of = |name: &str, title: &str| {
        Choice::new(&format!("{title}, factor {factor}"), &format!("--rope-scaling {name}:{factor}"))
    };
    [of("ntk", "NTK"), of("yarn", "YaRN")]
}

/// Everything of a size.
///
/// # Errors
/// None occur for the numbers that stand here.
pub fn experiments(size: Size) -> Result<Vec<Experiment>> {
    use ModelName::{Gemma3, SmolLm2};
    use Question::{Ages, Decode, Needle, Positions, Sampling, Speed, Staircase as Stairs};
    let experiment = |question, model, places: &[Place], width, choices| Experiment {
        question,
        model,
        places: places.to_vec(),
        width,
        choices,
        depths: if question == Needle { DEPTHS.to_vec() } else { Vec::new() },
    };
    let (dense, none) = (Choice::new("dense", ""), Choice::new("none", ""));
    let prflash = |name: &str, options: &str| Choice::new(name, &format!("--attention prflash {options}"));
    let with_dense = |width: usize, blocks: &[usize]| -> Vec<Choice> {
        let sparse = blocks.iter().flat_map(|&blocks| at_blocks(width, blocks));
        std::iter::once(dense.clone()).chain(sparse).collect()
    };
    // What chooses by content has its time in decoding.
    let speed = |width, blocks: &[usize]| few(with_dense(width, blocks), &["by content"]);
    let sampling = |width| {
        let mut all = with_dense(width, &[8, 4]);
        all.extend([
            prflash("paper", "--profile harmonic"),
            prflash("half window, 8 blocks, β = 0", "--profile half-window:8"),
            prflash("half window, 8 blocks, β = 1", "--profile half-window:8 --beta 1"),
            prflash("half window, 2 rounds of 4 blocks", "--profile half-window:4 --beta 0.5 --rounds 2"),
            prflash("half window, 8 blocks, other seed", "--profile half-window:8 --beta 0.5 --seed 1"),
        ]);
        all
    };
    let needle = |width| -> Result<Vec<Choice>> {
        let mut all = with_dense(width, &[8]);
        let window = window_of_equal_bytes(&Staircase::recommended(), width)?;
        all.extend([
            Choice::new("staircase recommended", "--staircase recommended --staircase-layers all"),
            Choice::new(
                "staircase sink + window, as many bytes",
                &format!("--staircase streaming:{window} --staircase-layers all"),
            ),
        ]);
        Ok(all)
    };
    let needle_more = || {
        vec![
            prflash("half window, 4 blocks", "--profile half-window:4 --beta 0.5"),
            prflash("half window, 16 blocks", "--profile half-window:16 --beta 0.5"),
            prflash("half window, 8 blocks, 4 sinks", "--profile half-window:8 --beta 0.5 --sinks 4"),
            prflash("half window, 2 rounds of 8 blocks", "--profile half-window:8 --beta 0.5 --rounds 2"),
            prflash("half window, 4 rounds of 8 blocks", "--profile half-window:8 --beta 0.5 --rounds 4"),
            prflash(
                "half window, 8 blocks, layers alike",
                "--profile half-window:8 --beta 0.5 --lists-per head-index",
            ),
        ]
    };
    let positions = || {
        let mut all = vec![none.clone()];
        all.extend(biases("harmonic", &[0.01, 0.03, 0.1, 0.3, 1.0]));
        all.extend(biases("alibi", &[0.001, 0.01, 0.1, 1.0]));
        all.extend(scalings(2));
        all
    };
    let beyond = |factor, more: &[Choice]| {
        let mut all = vec![none.clone()];
        all.extend(scalings(factor));
        all.extend_from_slice(more);
        all
    };
    // What is dropped or precise has no error by age, and the sampled one has the same cache.
    let ages = |width| -> Result<Vec<Choice>> {
        let mut all = few(staircases(width)?, &["sink + window", "sampled"]);
        all.retain(|choice| choice.name != "f16");
        // Apart what sinks do and what widths do.
        let options = "--staircase kivi4;sinks=4 --staircase-layers all";
        all.insert(3, Choice::new("KIVI-4 with 4 precise sinks", options));
        all.insert(1, Choice::new("recommended, rotated", "--staircase rotated --staircase-layers all"));
        Ok(all)
    };
    Ok(match size {
        Size::Quick => {
            vec![
                experiment(Sampling, SmolLm2, &TWO, 1024, sampling(1024)),
                experiment(Speed, SmolLm2, &[NOWHERE], 1024, speed(1024, &[8, 4])),
                experiment(Decode, SmolLm2, &[NOWHERE], 2048, decode()),
                Experiment {
                    depths: vec![10, 50, 90],
                    ..experiment(Needle, SmolLm2, &TWO[..1], 1536, needle(1536)?)
                },
                experiment(Stairs, SmolLm2, &TWO[..1], 1024, staircases(1024)?),
                experiment(Ages, SmolLm2, &TWO[..1], 1024, ages(1024)?),
                experiment(Positions, SmolLm2, &TWO[..1], 1024, few(positions(), &["factor"])),
                experiment(Positions, SmolLm2, &TWO[..1], 12_288, vec![none.clone(), scalings(2)[0].clone()]),
            ]
        }
        Size::Default => {
            vec![
                experiment(Sampling, SmolLm2, &FOUR, 2048, sampling(2048)),
                experiment(Speed, SmolLm2, &[NOWHERE], 2048, speed(2048, &[8, 4])),
                experiment(Decode, SmolLm2, &[NOWHERE], 8192, decode()),
                experiment(Decode, SmolLm2, &[NOWHERE], 32_768, decode()),
                experiment(Needle, SmolLm2, &FOUR, 2048, needle(2048)?),
                experiment(Needle, SmolLm2, &TWO, 2048, needle_more()),
                experiment(Stairs, SmolLm2, &FOUR, 2048, staircases(2048)?),
                experiment(Ages, SmolLm2, &FOUR, 2048, ages(2048)?),
                experiment(Positions, SmolLm2, &FOUR, 2048, positions()),
                experiment(Sampling, Gemma3, &FOUR, 2048, sampling(2048)),
                experiment(Speed, Gemma3, &[NOWHERE], 2048, speed(2048, &[8, 4])),
                experiment(Decode, Gemma3, &[NOWHERE], 32_768, decode()),
                experiment(Needle, Gemma3, &TWO, 2048, needle(2048)?),
                experiment(
                    Stairs,
                    Gemma3,
                    &FOUR,
                    2048,
                    few(staircases(2048)?, &["8→3", "8→4→2", "8→4,", "sampled"]),
                ),
                experiment(Ages, Gemma3, &FOUR, 2048, ages(2048)?),
                experiment(Positions, Gemma3, &FOUR, 2048, few(positions(), &["0.03", "0.3", "λ = 1"])),
            ]
        }
        Size::Long => {
            let more = [biases("harmonic", &[0.03, 0.1]), biases("alibi", &[0.001, 0.01])].concat();
            let four = [place("emma", 0), place("wiki", 1), place("brown", 1), place("hamlet", 2)];
            let mut sampling = speed(8192, &[8, 16, 32]);
            let options = "--profile half-window:32 --beta 0.5 --seed 1";
            sampling.push(prflash("half window, 32 blocks, other seed", options));
            vec![
                experiment(Sampling, SmolLm2, &four, 8192, sampling),
                experiment(Speed, SmolLm2, &[NOWHERE], 8192, speed(8192, &[8, 16, 32])),
                experiment(Positions, SmolLm2, &four[..1], 16_384, beyond(2, &more)),
                // Thirteen minutes each: one weight of each bias.
                experiment(
                    Positions,
                    SmolLm2,
                    &four[..1],
                    32_768,
                    few(beyond(4, &more), &["λ = 0.03", "λ = 0.01"]),
                ),
            ]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_one_and_names_are_unique() -> Result<()> {
        for size in [Size::Quick, Size::Default, Size::Long] {
            for experiment in experiments(size)? {
                let mut names: Vec<&str> = Vec::new();
                for choice in &experiment.choices {
                    choice.setting()?;
                    assert!(!names.contains(&choice.name.as_str()), "{}", choice.name);
                    names.push(&choice.name);
                }
                assert!(experiment.choices.len() <= 14 && experiment.places.len() <= 4, "{experiment:?}");
            }
        }
        Ok(())
    }

    /// Where summaries are as many bytes as a whole budget, nothing would be left to choose.
    #[test]
    fn content_has_blocks_to_choose() -> Result<()> {
        for size in [Size::Quick, Size::Default, Size::Long] {
            for experiment in experiments(size)? {
                for choice in experiment.choices.iter().filter(|choice| choice.name.contains("by content")) {
                    let setting = choice.setting()?;
                    let profile = setting.args().profile.clone().unwrap_or_default();
                    let blocks: usize = profile.split(';').next().unwrap_or_default().parse()?;
                    let pinned = 1 + setting.args().window_blocks.unwrap_or(1);
                    assert!(blocks > pinned, "{}: {blocks} blocks, {pinned} pinned", choice.options);
                    let tokens = blocks * setting.block_size().unwrap_or(64);
                    assert!(experiment.question != Question::Decode || tokens == DECODED, "{tokens}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn windows_of_equal_bytes_are_the_largest_that_fit() -> Result<()> {
        let shape = Shape::new(9, 3, 1, 64)?;
        for like in [Staircase::recommended(), Staircase::kivi(2)?, Staircase::paper()] {
            for tokens in [1024, 2048, 4096] {
                let bytes = |staircase: &Staircase| staircase.standing(tokens).memory(&shape).total();
                let window = window_of_equal_bytes(&like, tokens)?;
                assert!(bytes(&Staircase::streaming(window)?) <= bytes(&like));
                assert!(bytes(&Staircase::streaming(window + 1)?) > bytes(&like));
            }
        }
        Ok(())
    }
}
