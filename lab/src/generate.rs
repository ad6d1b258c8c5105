//! Text generation.

use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{D, IndexOp, Tensor};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::Interrupted;
use crate::attend::{Attend, Usage};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// How a continuation is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many new tokens there are at most.
    pub max_new: usize,
    /// 0 takes the likeliest token; above, tokens are drawn from `softmax(logits / temperature)`.
    pub temperature: f32,
    /// Seed of those draws.
    pub seed: u64,
    /// The pieces in which the prompt is read.
    pub pieces: Vec<std::ops::Range<usize>>,
}

/// A generated text, and what it took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// New tokens.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt, BOS included.
    pub prompt_tokens: usize,
    /// Seconds that reading the prompt took.
    pub prefill_seconds: f64,
    /// Seconds that the new tokens took.
    pub decode_seconds: f64,
    /// What was stored and visited.
    pub usage: Usage,
    /// Whether [`Interrupted`] ended it.
    pub interrupted: bool,
}

/// Continues a prompt until a text ends, `max_new` is reached, or `step` returns [`Interrupted`].
/// `step` is called before each layer, with the tokens read so far; `emit` gets each new token.
///
/// # Errors
/// An empty prompt; what the backend and `emit` return.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    attention: &mut dyn Attend,
    prompt: &[u32],
    options: &Options,
    step: &mut dyn FnMut(usize) -> Result<()>,
    emit: &mut dyn FnMut(u32) -> Result<()>,
) -> Result<Generated> {
    if prompt.is_empty() {
        bail!("--prompt: expected at least one token");
    }
    attention.start(0);
    let mut random = SmallRng::seed_from_u64(options.seed);
    let mut tokens = Vec::new();
    let start = Instant::now();
    let mut prefill_seconds = 0.0;
    let mut run = || -> Result<()> {
        let mut hidden = None;
        for piece in &options.pieces {
            let read = piece.start;
            hidden = Some(model.forward(&prompt[piece.clone()], attention, &mut |_| step(read))?);
        }
        prefill_seconds = start.elapsed().as_secs_f64();
        while let Some(last) = hidden.take() {
            let logits = model.logits(&last.i(last.dim(0)? - 1..)?)?;
            let token = choose(&logits, options.temperature, &mut random)?;
            if tokens.len() == options.max_new || tokenizer.is_end(token) {
                break;
            }
            tokens.push(token);
            emit(token)?;
            if tokens.len() < options.max_new {
                hidden = Some(model.forward(&[token], attention, &mut |_| step(prompt.len()))?);
            }
        }
        Ok(())
    };
    let interrupted = match run() {
        Ok(()) => false,
        Err(error) if error.is::<Interrupted>() => true,
        Err(error) => return Err(error),
    };
    attention.check()?;
    let seconds = start.elapsed().as_secs_f64();
    if interrupted && prefill_seconds == 0.0 {
        prefill_seconds = seconds;
    }
    Ok(Generated {
        tokens,
        prompt_tokens: prompt.len(),
        prefill_seconds,
        decode_seconds: seconds - prefill_seconds,
        usage: attention.usage(),
        interrupted,
    })
}

/// The next token, from logits `[1, vocabulary]`.
fn choose(logits: &Tensor, temperature: f32, random: &mut SmallRng) -> Result<u32> {
    if temperature <= 0.0 {
        return Ok(logits.argmax(D::Minus1)?.i(0)?.to_scalar()?);
    }
    let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|x| f64::from((x - top) / temperature).exp()).collect();
    let mut left = random.random::<f64>() * weights.iter().sum::<f64>();
    for (id, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return Ok(id as u32);
        }
    }
    Ok(weights.len() as u32 - 1)
}
