//! How long a token takes behind a long context under a setting, beside dense attention over the
//! same cache, in turns.

use std::time::Instant;

use anyhow::Result;
use prflash::Context;

use crate::attend::Attend;
use crate::gpu::GpuAttention;
use crate::model::Model;
use crate::setting::{Setting, SettingArgs};
use crate::speed::{ROUNDS, Timed};

/// Tokens of a round, one after the other.
pub const TOKENS: usize = 4;

/// Tokens that are remembered at once.
const CHUNK: usize = 512;

/// A model whose caches hold a context.
struct Behind<'a> {
    model: &'a Model,
    attention: GpuAttention,
}

impl<'a> Behind<'a> {
    fn new(context: &Context, model: &'a Model, setting: &Setting, tokens: usize) -> Result<Self> {
        // A round more, in which everything is compiled and bound.
        let most = tokens + (ROUNDS + 1) * TOKENS;
        let mut attention = GpuAttention::new(context, model.config(), setting, most, CHUNK)?;
        attention.start(0);
        attention.remember(tokens)?;
        let mut behind = Self { model, attention };
        behind.seconds()?;
        Ok(behind)
    }

    /// Seconds of a token: the whole model, the next token's logits included.
    fn seconds(&mut self) -> Result<f64> {
        let start = Instant::now();
        for token in 0..TOKENS as u32 {
            let hidden = self.model.forward(&[token], &mut self.attention, &mut |_| Ok(()))?;
            self.model.logits(&hidden)?;
        }
        Ok(start.elapsed().as_secs_f64() / TOKENS as f64)
    }
}

/// Dense attention over keys and values that are stored as a setting's are.
fn dense(setting: &Setting) -> Result<Setting> {
    let SettingArgs { storage, ref staircase, stored_keys, staircase_layers, .. } = *setting.args();
    let staircase = staircase.clone();
    Setting::parse(&SettingArgs {
        storage,
        staircase,
        stored_keys,
        staircase_layers,
        ..SettingArgs::default()
    })
}

/// Times single tokens behind `tokens` others, whose keys and values are random, under a setting
/// and densely in turns. `step` is called before each round and may stop it.
///
/// # Errors
/// What the device refuses, and `step` returns.
pub fn measure(
    context: &Context,
    model: &Model,
    setting: &Setting,
    tokens: usize,
    step: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Timed>> {
    step(0)?;
    let mut dense = Behind::new(context, model, &dense(setting)?, tokens)?;
    step(0)?;
    let mut other = Behind::new(context, model, setting, tokens)?;
    let round = |round| {
        step(round)?;
        Ok(Timed { round, dense_seconds: dense.seconds()?, seconds: other.seconds()? })
    };
    (0..ROUNDS).map(round).collect()
}
