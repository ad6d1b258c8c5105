//! The files of results.

use anyhow::Result;
use prflash::Shape;
use prflash::cache::{Sensitivity, Side, Staircase};

use super::rules::Rule;
use crate::config::Config;
use crate::content::compare::{Divergence, Place};
use crate::table;

/// A cache on a text.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The model's file.
    pub model: String,
    /// The text's file, without `.txt`.
    pub text: String,
    /// The window of it, by number.
    pub window: usize,
    /// Tokens of the window.
    pub width: usize,
    /// The tokens at its end that were read behind the cache.
    pub tokens: usize,
    /// The rule's name.
    pub rule: String,
    /// Its cache.
    pub cache: String,
    /// Bits per element of the cache while these tokens were read, the mean over them.
    pub bits: f64,
    /// Bits per element at 2,048 tokens.
    pub bits_2k: f64,
    /// Bits per element at 4,096 tokens.
    pub bits_4k: f64,
    /// Bits per element at 16,384 tokens.
    pub bits_16k: f64,
    /// See [`Divergence`].
    pub kl: f64,
    /// See [`Divergence`].
    pub agreement: f64,
    /// See [`Divergence`].
    pub nats: f64,
    /// See [`Divergence`].
    pub seconds: f64,
    /// The git revision of the lab.
    pub revision: String,
}

impl table::Row for Row {
    fn same(&self, other: &Self) -> bool {
        let key = |row: &Self| {
            (row.model.clone(), row.text.clone(), row.window, row.width, row.tokens, row.cache.clone())
        };
        key(self) == key(other)
    }
}

impl Row {
    /// What came of a cache.
    ///
    /// # Errors
    /// Sizes that no cache has.
    pub fn new(
        place: &Place<'_>,
        rule: &Rule,
        (config, staircases): (&Config, &[Staircase]),
        divergence: Divergence,
        revision: &str,
    ) -> Result<Self> {
        let Divergence { kl, agreement, nats, seconds, .. } = divergence;
        let bits = |len: usize| bits_per_element(config, staircases, len);
        // The last token is only foretold.
        let lens = place.width - place.tokens..place.width;
        let each = lens.map(bits).collect::<Result<Vec<f64>>>()?;
        Ok(Self {
            model: place.model.into(),
            text: place.text.into(),
            window: place.window,
            width: place.width,
            tokens: place.tokens,
            rule: rule.name.clone(),
            cache: rule.cache.clone(),
            bits: each.iter().sum::<f64>() / each.len().max(1) as f64,
            bits_2k: bits(2048)?,
            bits_4k: bits(4096)?,
            bits_16k: bits(16_384)?,
            kl,
            agreement,
            nats,
            seconds,
            revision: revision.into(),
        })
    }

    /// Whether it is of this rule at this place.
    pub fn is_of(&self, place: &Place<'_>, rule: &Rule) -> bool {
        let here = (self.model.as_str(), self.text.as_str(), self.window, self.width, self.tokens);
        here == (place.model, place.text, place.window, place.width, place.tokens) && self.cache == rule.cache
    }
}

/// Bits per number of keys and values of all layers, with everything that caches hold.
///
/// # Errors
/// Sizes that no cache has.
pub fn bits_per_element(config: &Config, staircases: &[Staircase], len: usize) -> Result<f64> {
    let shape = Shape::new(config.kv_heads, config.kv_heads, 0, config.head_dim)?;
    let sum: f64 = staircases.iter().map(|staircase| staircase.standing(len).bits_per_element(&shape)).sum();
    Ok(sum / staircases.len().max(1) as f64)
}

/// What one side of one layer loses by itself.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SensitivityRow {
    /// The model's file.
    pub model: String,
    /// The text's file, without `.txt`.
    pub text: String,
    /// The window of it, by number.
    pub window: usize,
    /// Tokens of the window.
    pub width: usize,
    /// The tokens at its end that were read behind the cache.
    pub tokens: usize,
    /// The cache of this side of this layer; all others are f16.
    pub cache: String,
    /// The layer.
    pub layer: usize,
    /// `keys` or `values`.
    pub side: String,
    /// See [`Divergence`].
    pub kl: f64,
    /// The git revision of the lab.
    pub revision: String,
}

impl table::Row for SensitivityRow {
    fn same(&self, other: &Self) -> bool {
        let key = |row: &Self| {
            let place = (row.model.clone(), row.text.clone(), row.window, row.width, row.tokens);
            (place, row.cache.clone(), row.layer, row.side.clone())
        };
        key(self) == key(other)
    }
}

impl SensitivityRow {
    /// What a side is called.
    pub fn name_of(side: Side) -> &'static str {
        match side {
            Side::Keys => "keys",
            Side::Values => "values",
        }
    }

    /// What a plan needs of it.
    pub fn sensitivity(&self) -> Sensitivity {
        let side = if self.side == Self::name_of(Side::Keys) { Side::Keys } else { Side::Values };
        Sensitivity { layer: self.layer, side, loss: self.kl }
    }
}
