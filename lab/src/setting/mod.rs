//! What attention computes in a run: named on the command line, checked here, and written into
//! every row of results.

mod args;
mod content;
mod parse;
mod sparse;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser as _, ValueEnum};
use prflash::cache::{Staircase, StoredKeys};
use prflash::position::Scaling;
use prflash::sampling::content::BlockScores;
use prflash::sampling::{Granularity, partition_rounds, sink_window_like, uniform_like};
use prflash::{Attention, Bias, BlockGrid, DType, Positions, Schedule, Seed};

pub use self::args::*;
pub use self::content::Content;
use self::sparse::{Sparse, sampler};
use crate::config::Config;
use crate::staircase::{canonical, parse as parse_staircase};

/// A checked [`SettingArgs`].
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    args: SettingArgs,
    sparse: Option<Sparse>,
    /// The scaling that is used instead of the model's own.
    scaling: Option<RopeScaling>,
    bias: Option<Bias>,
    staircase: Option<Staircase>,
}

/// The options of a `--setting`.
#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct SettingLine {
    #[command(flatten)]
    setting: SettingArgs,
}

/// A scaling of rotary frequencies, as far as it is known without the model.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RopeScaling {
    Fixed(Scaling),
    /// YaRN from the context that the model was made for.
    YarnFromContext {
        factor: f64,
    },
}

impl RopeScaling {
    fn of(self, config: &Config) -> Scaling {
        match self {
            RopeScaling::Fixed(scaling) => scaling,
            RopeScaling::YarnFromContext { factor } => Scaling::yarn(factor, config.context),
        }
    }
}

/// How often schedules are drawn for one attention, and what the draws are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// Attention is computed once.
    One,
    /// Attention is computed independently, this often.
    Independent(usize),
    /// Without a common block, this often.
    Partition(usize),
}

impl Setting {
    /// Checks the arguments for a model.
    ///
    /// # Errors
    /// Names the option that is out of range, or needs another one.
    pub fn new(args: &SettingArgs, config: &Config) -> Result<Self> {
        let setting = Self::parse(args)?;
        if (0..config.layers).all(|layer| config.window(layer).is_some()) {
            setting.check_windows_only()?;
        }
        // Positions and attention refuse what is out of range, in every layer alike.
        for layer in 0..config.layers {
            setting.attention(config, layer)?;
        }
        Ok(setting)
    }

    /// Reads a setting as `--setting` writes it: `--attention prflash --beta 0.5 …`.
    ///
    /// # Errors
    /// As clap, and [`parse`](Setting::parse).
    pub fn from_options(options: &str) -> Result<Self> {
        let line = SettingLine::try_parse_from(options.split_whitespace())
            .map_err(|error| anyhow::anyhow!("{}", error.render().to_string().trim_end()))?;
        Self::parse(&line.setting)
    }

    /// The arguments that it was made from.
    pub fn args(&self) -> &SettingArgs {
        &self.args
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// Names the option that is out of range, or needs another one.
    pub fn parse(args: &SettingArgs) -> Result<Self> {
        let pattern = args.attention.unwrap_or_default();
        let sparse = match pattern {
            Pattern::Dense => {
                let given = [
                    ("--profile", args.profile.is_some()),
                    ("--sinks", args.sinks.is_some()),
                    ("--window-blocks", args.window_blocks.is_some()),
                    ("--floor", args.floor.is_some()),
                    ("--sampler", args.sampler.is_some()),
                    ("--beta", args.beta.is_some()),
                    ("--rounds", args.rounds.is_some()),
                    ("--partition-rounds", args.partition_rounds.is_some()),
                    ("--lists-per", args.lists_per.is_some()),
                    ("--block-size", args.block_size.is_some()),
                    ("--seed", args.seed.is_some()),
                ];
                if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
                    bail!(
                        "{name} says how to sample: give --attention prflash, sink-window, uniform or content with it"
                    );
                }
                None
            }
            _ => Some(Sparse::new(args, pattern)?),
        };
        let scaling = args.rope_scaling.as_deref().map(parse::scaling).transpose();
        let bias = args.bias.as_deref().map(|text| parse::bias(text, args.bias_weight)).transpose();
        let staircase = args.staircase.as_deref().map(parse_staircase).transpose().context("--staircase")?;
        let single = sparse.as_ref().is_none_or(|sparse| sparse.rounds == Rounds::One);
        ensure!(
            staircase.is_none() || single,
            "--rounds and --partition-rounds: a staircase cache is read in one pass"
        );
        let (scaling, bias) = (scaling.context("--rope-scaling")?, bias.context("--bias")?);
        Ok(Self { args: args.clone(), sparse, scaling, bias, staircase })
    }

    /// Refuses what would have no layer to apply to in a model whose every layer has a window.
    fn check_windows_only(&self) -> Result<()> {
        let all_stairs = self.args.staircase_layers == Some(StairLayers::All);
        let given = [
            ("--attention", self.sparse.is_some()),
            ("--rope-scaling", self.scaling.is_some()),
            ("--bias", self.bias.is_some()),
            ("--harmonic-factor", self.args.harmonic_factor.is_some()),
            ("--staircase without --staircase-layers all", self.staircase.is_some() && !all_stairs),
        ];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            bail!("{name}: every layer of this model has a window of its own");
        }
        Ok(())
    }

    /// The seed of its schedules.
    pub fn seed(&self) -> u64 {
        self.args.seed.unwrap_or(0)
    }

    /// How queries, keys and values are stored.
    pub fn storage(&self) -> DType {
        match self.args.storage {
            None | Some(Storage::F32) => DType::F32,
            Some(Storage::F16) => DType::F16,
            Some(Storage::Bf16) => DType::Bf16,
        }
    }

    /// The rounds of a layer.
    pub fn rounds(&self, config: &Config, layer: usize) -> Rounds {
        match &self.sparse {
            Some(sparse) if config.window(layer).is_none() => sparse.rounds,
            _ => Rounds::One,
        }
    }

    /// The staircase in which a layer remembers, if it does.
    pub fn staircase(&self, config: &Config, layer: usize) -> Option<&Staircase> {
        let all = self.args.staircase_layers == Some(StairLayers::All);
        self.staircase.as_ref().filter(|_| all || config.window(layer).is_none())
    }

    /// The staircase of the layers that have one.
    pub fn any_staircase(&self) -> Option<&Staircase> {
        self.staircase.as_ref()
    }

    /// What the staircase stores of keys.
    pub fn stored_keys(&self) -> StoredKeys {
        match self.args.stored_keys {
            Some(KeysStored::BeforeRotation) => StoredKeys::BeforeRotation,
            _ => StoredKeys::AfterRotation,
        }
    }

    /// Pieces of at most `chunk` tokens in which a text of `tokens` is read.
    ///
    /// A piece is appended before it is attended from. With a staircase, pieces are cut right
    /// before the tokens with which a segment leaves the residual, and no longer than a segment: so
    /// each query finds every token at the width at which it would find it if tokens came one by
    /// one.
    pub fn pieces(&self, tokens: usize, chunk: usize) -> Vec<std::ops::Range<usize>> {
        let chunk = chunk.max(1);
        let end = |start: usize| match &self.staircase {
            None => start + chunk,
            Some(staircase) => {
                let segment = staircase.segment();
                // Segments leave as tokens W + S − 1, W + 2S − 1 … (counted from 0) come.
                let first = (staircase.residual() - 1) % segment;
                let next = start + segment - (start + segment - first) % segment;
                next.min(start + chunk)
            }
        };
        let mut pieces: Vec<std::ops::Range<usize>> = Vec::new();
        let mut start = 0;
        while start < tokens {
            pieces.push(start..end(start).min(tokens));
            start = end(start);
        }
        pieces
    }

    /// What a layer computes.
    ///
    /// # Errors
    /// Numbers outside their range, named by option.
    pub fn attention(&self, config: &Config, layer: usize) -> Result<Attention> {
        let mut rope = config.rope(layer)?;
        let mut attention = Attention::causal().with_storage(self.storage());
        if let Some(scale) = config.scale {
            attention = attention.with_scale(scale)?;
        }
        if let Some(cap) = config.soft_cap {
            attention = attention.with_soft_cap(cap)?;
        }
        if let Some(window) = config.window(layer) {
            return Ok(attention.with_window(window)?.with_positions(rope.into()));
        }
        if let Some(scaling) = self.scaling {
            rope = rope.with_scaling(scaling.of(config)).context("--rope-scaling")?;
        }
        let mut positions = Positions::from(rope);
        if let Some(bias) = &self.bias {
            positions = positions.with_bias(bias.clone());
        }
        if let Some(length) = self.args.harmonic_factor {
            positions = positions.with_harmonic_factor(length).context("--harmonic-factor")?;
        }
        let beta = self.sparse.as_ref().map_or(0.0, |sparse| sparse.beta);
        attention.with_positions(positions).with_correction(beta).context("--beta")
    }

    /// How a layer chooses blocks by content, if it does.
    pub fn content(&self, config: &Config, layer: usize) -> Option<Content> {
        self.sparse.as_ref().filter(|_| config.window(layer).is_none())?.content
    }

    /// Tokens of a block of schedules, where there are some.
    pub fn block_size(&self) -> Option<usize> {
        self.sparse.as_ref().map(|sparse| sparse.block_size)
    }

    /// The schedules of a layer for `q_len` queries behind `kv_len − q_len` earlier tokens, one for
    /// each round; none where it is dense.
    ///
    /// They are functions of seed, sequence, layer and query block, so that prefilling in pieces
    /// and decoding visit what one pass would. By content they are also functions of `scores`,
    /// which layers that choose so must have: a query block that is read in one piece may see other
    /// scores than one that is read token by token.
    ///
    /// # Errors
    /// A profile that the sampler can't draw from; no scores where they are needed.
    pub fn schedules(
        &self,
        config: &Config,
        grid: &BlockGrid,
        sequence: u32,
        layer: usize,
        scores: Option<&BlockScores>,
    ) -> Result<Vec<Schedule>> {
        let Some(sparse) = self.sparse.as_ref().filter(|_| config.window(layer).is_none()) else {
            return Ok(Vec::new());
        };
        let grid = self.lists(grid)?;
        let seed = self.seed_of(sequence, layer);
        if let Some(content) = &sparse.content {
            let scores = scores.context("--attention content: nothing is known of the keys here")?;
            return Ok(vec![Schedule::select(&grid, &content.participation, scores, seed)?]);
        }
        let rounds = match sparse.rounds {
            Rounds::One => 1,
            Rounds::Independent(rounds) => rounds,
            Rounds::Partition(rounds) => {
                return partition_rounds(&grid, &sparse.profile, seed, rounds).context("--partition-rounds");
            }
        };
        let schedule = |round| {
            let seed = seed.round(round);
            let drawn = Schedule::sample(&grid, &sparse.profile, sampler(sparse.sampler), seed)
                .context("--profile with --sampler")?;
            Ok(match sparse.pattern {
                Pattern::SinkWindow => sink_window_like(&drawn, &sparse.profile)?,
                Pattern::Uniform => uniform_like(&drawn, &sparse.profile, seed)?,
                _ => drawn,
            })
        };
        (0..rounds as u32).map(schedule).collect()
    }

    /// The grid of schedules over the lengths of another: blocks of the size that was asked for,
    /// lists for the heads that share one.
    ///
    /// # Errors
    /// A size of blocks that the library refuses.
    pub fn lists(&self, grid: &BlockGrid) -> Result<BlockGrid> {
        let Some(sparse) = &self.sparse else { return Ok(*grid) };
        Ok(grid.with_granularity(sparse.granularity).with_block_size(sparse.block_size)?)
    }

    /// What the draws of a layer are functions of.
    pub fn seed_of(&self, sequence: u32, layer: usize) -> Seed {
        let same = self.sparse.as_ref().is_some_and(|sparse| sparse.same_layers);
        Seed::new(self.seed()).sequence(sequence).layer(if same { 0 } else { layer as u32 })
    }

    /// Names of [`values`](Setting::values).
    pub const COLUMNS: [&'static str; 18] = [
        "attention",
        "profile",
        "sinks",
        "window_blocks",
        "floor",
        "sampler",
        "beta",
        "rounds",
        "lists_per",
        "block_size",
        "seed",
        "rope_scaling",
        "bias",
        "harmonic_factor",
        "storage",
        "staircase",
        "stored_keys",
        "staircase_layers",
    ];

    /// Every choice in effect, so that equal settings have equal values; empty where a choice has
    /// no effect.
    pub fn values(&self) -> [String; 18] {
        let sparse = |value: fn(&Sparse) -> String| self.sparse.as_ref().map_or(String::new(), value);
        let optional = |value: Option<String>| value.unwrap_or_default();
        [
            name(self.args.attention.unwrap_or_default()),
            optional(self.sparse.as_ref().map(|_| self.args.profile.clone().unwrap_or("harmonic".into()))),
            sparse(|sparse| sparse.profile.sink_blocks().to_string()),
            sparse(|sparse| sparse.profile.window_blocks().to_string()),
            sparse(|sparse| sparse.profile.floor().to_string()),
            sparse(|sparse| match sparse.rounds {
                Rounds::Partition(_) => "partition".into(),
                _ if sparse.content.is_some() => "scores".into(),
                _ => name(sparse.sampler),
            }),
            sparse(|sparse| sparse.beta.to_string()),
            sparse(|sparse| match sparse.rounds {
                Rounds::One => "1".into(),
                Rounds::Independent(rounds) | Rounds::Partition(rounds) => rounds.to_string(),
            }),
            sparse(|sparse| match sparse.granularity {
                _ if sparse.same_layers => name(ListPer::HeadIndex),
                Granularity::Head => "head".into(),
                Granularity::KvHead => "kv-head".into(),
                Granularity::Shared => "shared".into(),
            }),
            sparse(|sparse| sparse.block_size.to_string()),
            optional(self.sparse.as_ref().map(|_| self.seed().to_string())),
            optional(self.args.rope_scaling.clone()),
            optional(self.args.bias.clone().map(|bias| match self.args.bias_weight {
                Some(weight) => format!("{weight}*{bias}"),
                None => bias,
            })),
            optional(self.args.harmonic_factor.map(|length| length.to_string())),
            self.storage().to_string(),
            optional(self.staircase.as_ref().map(canonical)),
            optional(
                self.staircase
                    .as_ref()
                    .map(|_| name(self.args.stored_keys.unwrap_or(KeysStored::AfterRotation))),
            ),
            optional(
                self.staircase
                    .as_ref()
                    .map(|_| name(self.args.staircase_layers.unwrap_or(StairLayers::Global))),
            ),
        ]
    }

    /// The choices in effect, in words: `attention=prflash profile=harmonic …`.
    pub fn describe(&self) -> String {
        let pairs = Self::COLUMNS.iter().zip(self.values());
        let shown = pairs.filter(|(_, value)| !value.is_empty());
        shown.map(|(column, value)| format!("{column}={value}")).collect::<Vec<_>>().join(" ")
    }
}

/// A value as it is written on the command line.
fn name<T: ValueEnum>(value: T) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}
