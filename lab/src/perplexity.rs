//! Perplexity over windows of one long text.

use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::{IndexOp, Tensor};

use crate::attend::{Attend, Usage};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// Rows of logits held at a time: a large vocabulary takes a megabyte each.
const LOGIT_ROWS: usize = 64;

/// Windows that follow each other without a gap: `width` tokens each, the BOS that some models want
/// included.
#[derive(Clone, Debug)]
pub struct Windows {
    ids: Rc<[u32]>,
    bos: Option<u32>,
    width: usize,
}

impl Windows {
    /// Cuts a text's tokens.
    ///
    /// # Errors
    /// A width that leaves nothing to predict, or a text shorter than one window.
    pub fn new(ids: impl Into<Rc<[u32]>>, tokenizer: &Tokenizer, width: usize) -> Result<Self> {
        let ids = ids.into();
        let windows = Self { ids, bos: tokenizer.bos(), width };
        ensure!(windows.stride() >= 2, "--width: expected room for at least 2 tokens of text, got {width}");
        ensure!(
            windows.count() >= 1,
            "--text: expected at least one window of {width} tokens, got {} tokens",
            windows.ids.len()
        );
        Ok(windows)
    }

    fn stride(&self) -> usize {
        self.width.saturating_sub(usize::from(self.bos.is_some()))
    }

    /// Whole windows in the text.
    pub fn count(&self) -> usize {
        self.ids.len() / self.stride()
    }

    /// Tokens of a window.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The tokens of a window, BOS included.
    pub fn tokens(&self, window: usize) -> Vec<u32> {
        self.bos.iter().chain(self.text_tokens(window)).copied().collect()
    }

    /// The tokens of a window that are text.
    pub fn text_tokens(&self, window: usize) -> &[u32] {
        let start = window * self.stride();
        &self.ids[start..start + self.stride()]
    }
}

/// Position ranges of a window that results are summed over: up to 128, then doubling.
pub fn buckets(width: usize) -> Vec<Range<usize>> {
    let mut edges = vec![0];
    let mut edge = 128;
    while edge < width {
        edges.push(edge);
        edge *= 2;
    }
    edges.push(width);
    edges.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Sums over the positions of a bucket in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Positions of the predicting token.
    pub positions: Range<usize>,
    /// Predicted tokens.
    pub tokens: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// The negative log-likelihood of these tokens in nats.
    pub nll: f64,
    /// Mean key blocks visited per token and head, in layers without a window of their own.
    pub blocks: f64,
    /// The same for dense attention.
    pub dense_blocks: f64,
}

/// What came of one window.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// Sums by position.
    pub buckets: Vec<Bucket>,
    /// How many seconds it took.
    pub seconds: f64,
    /// What was stored at its end, and visited.
    pub usage: Usage,
}

/// One window under one setting, read in these pieces.
///
/// `step` is called before each layer and may stop it.
///
/// # Errors
/// What the backend and `step` return; logits that are not finite.
pub fn evaluate(
    model: &Model,
    tokenizer: &Tokenizer,
    attention: &mut dyn Attend,
    windows: &Windows,
    window: usize,
    pieces: &[Range<usize>],
    step: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Evaluated> {
    let start = Instant::now();
    let tokens = windows.tokens(window);
    attention.start(window as u32);
    let mut losses = Vec::with_capacity(tokens.len());
    for piece in pieces {
        let (first, piece) = (piece.start, &tokens[piece.clone()]);
        let hidden = model.forward(piece, attention, step)?;
        for row in (0..piece.len()).step_by(LOGIT_ROWS) {
            let end = (row + LOGIT_ROWS).min(piece.len());
            // The last token of the window predicts nothing.
            let targets = &tokens[(first + row + 1).min(tokens.len())..(first + end + 1).min(tokens.len())];
            if !targets.is_empty() {
                let logits = model.logits(&hidden.i(row..row + targets.len())?)?;
                losses.extend(negative_log_likelihoods(&logits, targets)?);
            }
        }
    }
    attention.check()?;
    let usage = attention.usage();
    let of_bucket = |positions: Range<usize>| {
        let range = positions.start..positions.end.min(losses.len());
        let targets = &tokens[range.start + 1..range.end + 1];
        let (blocks, dense_blocks) = usage.blocks_per_token(positions.clone());
        Bucket {
            tokens: range.len() as u64,
            bytes: targets.iter().map(|&id| tokenizer.bytes(id) as u64).sum(),
            nll: losses[range].iter().sum(),
            blocks,
            dense_blocks,
            positions,
        }
    };
    let buckets = buckets(windows.width).into_iter().map(of_bucket).collect();
    Ok(Evaluated { buckets, seconds: start.elapsed().as_secs_f64(), usage })
}

/// `ln Σ e^logit − logit of the target`, row by row.
pub(crate) fn negative_log_likelihoods(logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
    let vocabulary = logits.dim(1)?;
    let values: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let rows = values.chunks_exact(vocabulary).zip(targets);
    rows.map(|(row, &target)| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|x| f64::from((x - top).exp())).sum();
        let loss = total.ln() + f64::from(top) - f64::from(row[target as usize]);
        ensure!(loss.is_finite(), "the model's logits are not finite");
        Ok(loss)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn buckets_double_up_to_the_width() {
        assert_eq!(buckets(1000), [0..128, 128..256, 256..512, 512..1000]);
        assert_eq!(buckets(129), [0..128, 128..129]);
        assert_eq!((buckets(128).len(), buckets(20).len()), (1, 1));
    }

    #[test]
    fn bos_takes_a_place_in_each_window() {
        let windows = Windows { ids: (10..30).collect(), bos: Some(2), width: 8 };
        assert_eq!(windows.count(), 2);
        assert_eq!(windows.tokens(1), [2, 17, 18, 19, 20, 21, 22, 23]);
    }

    #[test]
    fn likelihoods_are_those_of_the_softmax() -> Result<()> {
        let logits = Tensor::new(&[[0.0f32, 0.0, 0.0, 0.0], [1e4, 0.0, 0.0, 0.0]], &Device::Cpu)?;
        assert_eq!(negative_log_likelihoods(&logits, &[3, 0])?, [4f64.ln(), 0.0]);
        let broken = Tensor::new(&[[f32::NAN, 0.0]], &Device::Cpu)?;
        assert!(negative_log_likelihoods(&broken, &[1]).is_err());
        Ok(())
    }
}
