//! The error of a staircase cache by the age of tokens: real queries, keys and values of a model's
//! layers, compared on the host in f64.

use std::ops::Range;

use anyhow::{Context as _, Result};
use prflash::cache::HostCache;
use prflash::reference::{CacheLoss, cache_loss};
use prflash::{Positions, Shape, Tables};

use crate::attend::{Attend, Qkv, Usage};
use crate::config::Config;
use crate::cpu::{rotate, swapped};
use crate::perplexity::buckets;
use crate::results::{Fields, Measured, Source};
use crate::setting::Setting;

/// The newest queries that the error is averaged over.
const QUERIES: usize = 64;

/// Passes everything on to another backend and keeps what some layers were given.
pub struct Recorder<'a> {
    inner: Box<dyn Attend + 'a>,
    layers: Vec<usize>,
    rows: Vec<Recorded>,
    queries: bool,
}

/// What one layer was given: rows of tokens, before rotation.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    q: Vec<f32>,
    /// `[tokens, kv_heads, head_dim]`.
    pub(crate) k: Vec<f32>,
    /// See `k`.
    pub(crate) v: Vec<f32>,
}

impl<'a> Recorder<'a> {
    /// Records these layers.
    pub fn new(inner: Box<dyn Attend + 'a>, layers: &[usize]) -> Self {
        let rows = vec![Recorded::default(); layers.len()];
        Self { inner, layers: layers.to_vec(), rows, queries: true }
    }

    /// Without queries.
    pub fn of_keys(inner: Box<dyn Attend + 'a>, layers: &[usize]) -> Self {
        Self { queries: false, ..Self::new(inner, layers) }
    }

    /// What they were given since [`start`](Attend::start), layer by layer.
    pub fn into_rows(self) -> Vec<Recorded> {
        self.rows
    }

    /// What they were given since [`start`](Attend::start).
    pub fn layers(&self) -> impl Iterator<Item = (usize, &Recorded)> {
        self.layers.iter().copied().zip(&self.rows)
    }
}

impl Attend for Recorder<'_> {
    fn attend(&mut self, layer: usize, new: &Qkv<'_>) -> Result<Vec<f32>> {
        if let Some(index) = self.layers.iter().position(|&recorded| recorded == layer) {
            let rows = &mut self.rows[index];
            if self.queries {
                rows.q.extend_from_slice(new.q);
            }
            rows.k.extend_from_slice(new.k);
            rows.v.extend_from_slice(new.v);
        }
        self.inner.attend(layer, new)
    }

    fn start(&mut self, sequence: u32) {
        self.rows.iter_mut().for_each(|rows| *rows = Recorded::default());
        self.inner.start(sequence);
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }
}

/// The error that tokens of some ages bring into what one layer sees.
#[derive(Clone, Debug, PartialEq)]
pub struct AgeError {
    /// The window's number in the text.
    pub window: usize,
    /// The layer.
    pub layer: usize,
    /// Ages in tokens: 0 is the newest token.
    pub ages: Range<usize>,
    /// Root mean square error of scores, in natural units; none if the layer's queries see no such
    /// token.
    pub score_error: Option<f64>,
    /// What these tokens contribute to the error of the output, over the output's norm.
    pub output_error: f64,
    /// The share of these tokens in the softmax mass.
    pub mass: f64,
    /// The error of the whole output over its norm.
    pub whole_error: f64,
}

impl Measured for AgeError {
    const COLUMNS: &'static [&'static str] =
        &["window", "layer", "age_start", "age_end", "score_error", "output_error", "mass", "whole_error"];

    fn values(&self) -> Vec<String> {
        vec![
            self.window.to_string(),
            self.layer.to_string(),
            self.ages.start.to_string(),
            self.ages.end.to_string(),
            self.score_error.map_or(String::new(), |error| error.to_string()),
            self.output_error.to_string(),
            self.mass.to_string(),
            self.whole_error.to_string(),
        ]
    }

    fn parse(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self {
            window: fields.number(0)?,
            layer: fields.number(1)?,
            ages: fields.number(2)?..fields.number(3)?,
            score_error: (!fields.text(4).is_empty()).then(|| fields.number(4)).transpose()?,
            output_error: fields.number(5)?,
            mass: fields.number(6)?,
            whole_error: fields.number(7)?,
        })
    }

    fn unit(&self) -> usize {
        unit(self.window, self.layer)
    }

    fn parts(source: &Source) -> usize {
        buckets(source.width).len()
    }
}

/// The [unit](Measured::unit) of a layer in a window.
pub fn unit(window: usize, layer: usize) -> usize {
    1000 * window + layer
}

/// The layers that are looked at: at most ten of those to which a setting's staircase applies,
/// evenly spread, the first and the last among them.
pub fn layers(config: &Config, setting: &Setting) -> Vec<usize> {
    let with: Vec<usize> =
        (0..config.layers).filter(|&layer| setting.staircase(config, layer).is_some()).collect();
    let count = with.len().min(10);
    (0..count).map(|i| with[i * (with.len() - 1) / (count - 1).max(1)]).collect()
}

/// What a setting's staircase does to the newest queries of a layer, by age.
///
/// # Errors
/// A setting without a staircase there; values that it can't store.
pub fn by_age(
    config: &Config,
    setting: &Setting,
    (window, layer): (usize, usize),
    recorded: &Recorded,
) -> Result<Vec<AgeError>> {
    let Config { heads, kv_heads, head_dim, .. } = *config;
    let staircase = setting.staircase(config, layer).context("a layer without a staircase")?;
    let tokens = recorded.k.len() / (kv_heads * head_dim);
    let queries = tokens.min(QUERIES);
    let attention = setting.attention(config, layer)?;
    let mut keys = recorded.k.clone();
    if let Some(rope) = attention.positions().and_then(Positions::rope) {
        rotate(rope, &mut keys, kv_heads, 0);
    }
    let shape = Shape::new(heads, kv_heads, queries, head_dim)?.with_kv_len(tokens)?;
    let mut cache = HostCache::new(staircase.clone(), &shape, setting.stored_keys())?;
    let sequence = cache.add();
    let heads_first = |rows: &[f32], heads| swapped(rows, rows.len() / (heads * head_dim), heads, head_dim);
    let newest = &recorded.q[(tokens - queries) * heads * head_dim..];
    let (q, k, v) =
        (heads_first(newest, heads), heads_first(&keys, kv_heads), heads_first(&recorded.v, kv_heads));
    cache.append(sequence, &k, &v)?;
    // From ages, counted from the newest token, to tokens.
    let ages = buckets(tokens);
    let ranges: Vec<Range<usize>> = ages.iter().map(|age| tokens - age.end..tokens - age.start).collect();
    let CacheLoss { output_error, ages: losses } =
        cache_loss(&attention, &shape, &q, (&k, &v), &cache, sequence, &Tables::new(), &ranges)?;
    let error = |(ages, loss): (Range<usize>, prflash::reference::AgeLoss)| AgeError {
        window,
        layer,
        ages,
        score_error: loss.score_error,
        output_error: loss.output_error,
        mass: loss.mass,
        whole_error: output_error,
    };
    Ok(ages.into_iter().zip(losses).map(error).collect())
}
