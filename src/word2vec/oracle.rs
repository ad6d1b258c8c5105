//! A step in f64, as the formulas are: what the kernels are compared with.

use super::batch::{Batch, RowSum};
use super::options::{Architecture, Options};

/// Input and output weights, a row a word.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weights {
    pub(super) dimension: usize,
    pub(super) inputs: Vec<f64>,
    pub(super) outputs: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `to += factor · from`
fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

impl Weights {
    fn row(&self, word: u32) -> std::ops::Range<usize> {
        let begin = word as usize * self.dimension;
        begin..begin + self.dimension
    }

    /// One step over a batch, as the formulas of [`word2vec`](crate::word2vec) are: every gradient
    /// is of the weights before it.
    pub(super) fn step(&mut self, batch: &Batch, options: &Options, rate: f64) {
        let mut sums = Self {
            dimension: self.dimension,
            inputs: vec![0.0; self.inputs.len()],
            outputs: vec![0.0; self.outputs.len()],
        };
        match options.architecture {
            Architecture::SkipGram => self.skip_grams(batch, options, &mut sums),
            Architecture::BagOfWords => self.bags(batch, options, &mut sums),
        }
        let update = |weights: &mut [f64], sums: &[f64], rows: &[RowSum]| {
            for sum in rows {
                let begin = sum.row as usize * options.dimension;
                let row = begin..begin + options.dimension;
                let capped = (f64::from(options.cap) / f64::from(sum.hits)).min(1.0);
                add(&mut weights[row.clone()], rate * capped, &sums[row]);
            }
        };
        update(&mut self.inputs, &sums.inputs, batch.input_rows());
        update(&mut self.outputs, &sums.outputs, batch.output_rows());
    }

    fn skip_grams(&self, batch: &Batch, options: &Options, sums: &mut Self) {
        for centre in 0..batch.centres() {
            let output = self.row(batch.word(centre));
            for context in batch.context_words(centre) {
                let input = self.row(context);
                let (x, y) = (&self.inputs[input.clone()], &self.outputs[output.clone()]);
                let error = 1.0 - logistic(dot(x, y));
                add(&mut sums.inputs[input], error, y);
                add(&mut sums.outputs[output.clone()], error, x);
            }
        }
        for (token, &word) in batch.tokens.iter().enumerate() {
            let input = self.row(word);
            let change = self.negatives(batch, options, token, &self.inputs[input.clone()], sums);
            add(&mut sums.inputs[input], 1.0, &change);
        }
    }

    fn bags(&self, batch: &Batch, options: &Options, sums: &mut Self) {
        for centre in 0..batch.centres() {
            let contexts: Vec<u32> = batch.context_words(centre).collect();
            if contexts.is_empty() {
                continue;
            }
            let mut mean = vec![0.0; self.dimension];
            for &context in &contexts {
                add(&mut mean, 1.0 / contexts.len() as f64, &self.inputs[self.row(context)]);
            }
            let output = self.row(batch.word(centre));
            let y = &self.outputs[output.clone()];
            let error = 1.0 - logistic(dot(&mean, y));
            add(&mut sums.outputs[output], error, &mean);
            let mut change = self.negatives(batch, options, centre, &mean, sums);
            add(&mut change, error, y);
            for &context in &contexts {
                let row = self.row(context);
                add(&mut sums.inputs[row], 1.0, &change);
            }
        }
    }

    /// What an item changes of its negatives is added to theirs; what they change of it is
    /// returned.
    fn negatives(
        &self,
        batch: &Batch,
        options: &Options,
        item: usize,
        x: &[f64],
        sums: &mut Self,
    ) -> Vec<f64> {
        let mut change = vec![0.0; x.len()];
        let weight = f64::from(batch.pairs[item]) * options.negative as f64 / options.shared as f64;
        for &word in batch.negatives_of(item) {
            let output = self.row(word);
            let y = &self.outputs[output.clone()];
            let error = -weight * logistic(dot(x, y));
            add(&mut change, error, y);
            add(&mut sums.outputs[output], error, x);
        }
        change
    }
}
