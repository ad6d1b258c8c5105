//! A training, step by step.

use anyhow::Result;

use super::attention::Attends;
use super::data::{Batch, Texts};
use super::decoder::Decoder;
use super::loss::each;
use super::optimizer::AdamW;
use super::settings::Settings;

/// A training under way.
pub struct Course<'t> {
    /// What it is a function of.
    pub settings: Settings,
    /// The weights.
    pub decoder: Decoder,
    /// The optimizer's state.
    pub optimizer: AdamW,
    /// Steps that were taken.
    pub step: usize,
    texts: &'t Texts,
    attention: Attends,
}

/// What is told of a step.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// How many steps were taken with it.
    pub step: usize,
    /// Tokens read by then.
    pub tokens: usize,
    /// The rate.
    pub rate: f64,
    /// The mean cost of the batch in nats a token, before the step.
    pub loss: f64,
    /// The length of the gradients.
    pub gradient: f64,
}

impl<'t> Course<'t> {
    /// From the beginning.
    ///
    /// # Errors
    /// Texts that are too short.
    pub fn new(settings: &Settings, texts: &'t Texts, attention: Attends) -> Result<Self> {
        texts.check(settings)?;
        let decoder = Decoder::new(settings)?;
        let optimizer = AdamW::new(decoder.parameters());
        Ok(Self { settings: settings.clone(), decoder, optimizer, step: 0, texts, attention })
    }

    /// Who computes attention.
    pub fn device(&self) -> String {
        self.attention.device()
    }

    /// Takes a step.
    ///
    /// # Errors
    /// Gradients that aren't finite; those of who computes.
    pub fn advance(&mut self) -> Result<Step> {
        let rate = self.settings.rate_at(self.step);
        let batch = self.texts.batch(&self.settings, self.step);
        let loss = self.decoder.loss(&self.attention, &batch)?;
        let gradients = loss.backward()?;
        let by = (rate, self.settings.decay);
        let gradient = self.optimizer.step(self.decoder.parameters(), &gradients, self.step, by)?;
        self.step += 1;
        let tokens = self.step * self.settings.batch_tokens();
        Ok(Step { step: self.step, tokens, rate, loss: loss.to_scalar::<f32>()?.into(), gradient })
    }

    /// Bits per byte of the held-out text, or of its first `most` windows. A window begins half a
    /// context behind the one before and counts its second half, the first one all of it, so that
    /// each token is predicted once; the first one costs as one of all pieces. `step` hears of each
    /// batch of windows and may end it.
    ///
    /// # Errors
    /// Those of who computes and of `step`.
    pub fn bits_per_byte(&self, most: usize, step: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let ids = &self.texts.held_out;
        let context = self.settings.context;
        let half = (context / 2).max(1);
        let starts: Vec<usize> = (0..ids.len() - 1).step_by(half).take(most).collect();
        let mut nats = (self.settings.pieces as f64).ln();
        let mut predicted = 1;
        for starts in starts.chunks(self.settings.batch) {
            step()?;
            let (whole, cut): (Vec<usize>, Vec<usize>) =
                starts.iter().partition(|&&start| start + context < ids.len());
            let groups = [whole].into_iter().chain(cut.into_iter().map(|start| vec![start]));
            for group in groups.filter(|group| !group.is_empty()) {
                let len = context.min(ids.len() - 1 - group[0]);
                let take = |ahead: usize| {
                    group.iter().flat_map(|&start| ids[start + ahead..][..len].to_vec()).collect()
                };
                let batch = Batch { context: len, inputs: take(0), targets: take(1) };
                let logits = self.decoder.logits(&self.attention, &batch)?;
                let costs = each(&logits.flatten_all()?.to_vec1::<f32>()?, &batch.targets);
                for (&start, costs) in group.iter().zip(costs.chunks_exact(len)) {
                    let known = if start == 0 { 0 } else { (context - half).min(len) };
                    nats += costs[known..].iter().sum::<f64>();
                    predicted += len - known;
                }
            }
        }
        let bytes = self.texts.held_out_bytes as f64 * predicted as f64 / ids.len() as f64;
        Ok(nats / std::f64::consts::LN_2 / bytes)
    }
}
