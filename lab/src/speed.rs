//! How long attention takes under a setting, beside dense attention, in turns.

use anyhow::{Context as _, Result, ensure};
use prflash::{
    BlockGrid, Bound, Call, Context, DType, Layout, Operands, Plan, Shape, TableBuffer, Tables, Tensor,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::config::Config;
use crate::results::{Fields, Measured, Source};
use crate::setting::Setting;

/// Rounds of both in turn.
pub const ROUNDS: usize = 9;

/// The times of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// The number of the round.
    pub round: usize,
    /// Seconds of one layer's attention over a whole window.
    pub seconds: f64,
    /// The same of dense attention, right before.
    pub dense_seconds: f64,
}

impl Measured for Timed {
    const COLUMNS: &'static [&'static str] = &["round", "attention_seconds", "dense_seconds"];

    fn values(&self) -> Vec<String> {
        vec![self.round.to_string(), self.seconds.to_string(), self.dense_seconds.to_string()]
    }

    fn parse(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self { round: fields.number(0)?, seconds: fields.number(1)?, dense_seconds: fields.number(2)? })
    }

    fn unit(&self) -> usize {
        0
    }

    fn parts(_: &Source) -> usize {
        ROUNDS
    }
}

/// A call that is made again and again.
struct Repeated {
    plan: Plan,
    bound: Bound,
    tables: Option<TableBuffer>,
    tokens: usize,
}

impl Repeated {
    /// The attention of the first layer that sees everything, on random numbers.
    fn new(context: &Context, config: &Config, setting: &Setting, tokens: usize) -> Result<Self> {
        let layer = (0..config.layers).find(|&layer| config.window(layer).is_none());
        let layer = layer.context("a model without a layer that sees everything")?;
        let Config { heads, kv_heads, head_dim, .. } = *config;
        let shape = Shape::new(heads, kv_heads, tokens, head_dim)?;
        let plan = setting.attention(config, layer)?.plan(context, &shape)?;
        let mut random = SmallRng::seed_from_u64(tokens as u64);
        let mut rows = |heads| -> Result<Tensor> {
            let layout = Layout::tokens_first(1, tokens, heads, head_dim)?;
            let values: Vec<f32> =
                (0..layout.elements()).map(|_| random.random_range(-1.0f32..1.0)).collect();
            Ok(Tensor::upload(context, setting.storage(), layout, &values)?)
        };
        let (q, k, v) = (rows(heads)?, rows(kv_heads)?, rows(kv_heads)?);
        let output = Tensor::zeros(context, DType::F32, Layout::tokens_first(1, tokens, heads, head_dim)?)?;
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let bound = plan.bind(&operands)?;
        let schedules = setting.schedules(config, &BlockGrid::causal(&shape), 0, layer, None)?;
        ensure!(schedules.len() <= 1, "a setting with rounds is no single call");
        let upload = |schedule| TableBuffer::new(plan.context(), &Tables::from(schedule));
        let tables = schedules.first().map(upload).transpose()?;
        Ok(Self { plan, bound, tables, tokens })
    }

    fn seconds(&self) -> Result<f64> {
        let call = Call::lengths(self.tokens, self.tokens);
        let call = self.tables.as_ref().map_or(call.clone(), |tables| call.with_tables(tables));
        Ok(self.plan.timings(&self.bound, &call, 1)?.median_wall().as_secs_f64())
    }
}

/// Times a setting and dense attention in turns. `step` is called before each round and may stop
/// it.
///
/// # Errors
/// What the device refuses, and `step` returns; a setting with rounds.
pub fn measure(
    context: &Context,
    config: &Config,
    setting: &Setting,
    tokens: usize,
    step: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Timed>> {
    let dense = Repeated::new(context, config, &Setting::from_options("")?, tokens)?;
    let other = Repeated::new(context, config, setting, tokens)?;
    let round = |round| {
        step(round)?;
        Ok(Timed { round, dense_seconds: dense.seconds()?, seconds: other.seconds()? })
    };
    (0..ROUNDS).map(round).collect()
}
