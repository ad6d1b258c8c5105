//! Which blocks take part, as the command line has it.

use anyhow::{Context as _, Result, bail, ensure};
use prflash::sampling::{Bernoulli, Granularity, Renewal, Sampler, Segment, partition_rounds};
use prflash::{BlockGrid, Profile, Schedule, Seed, Systematic};

use super::{Content, ListPer, Pattern, Rounds, SamplerName, SettingArgs, parse};

/// A setting that leaves blocks out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sparse {
    pub(super) pattern: Pattern,
    /// Its pinned blocks are those of `content`, where there is one.
    pub(super) profile: Profile,
    /// For [`Pattern::Content`].
    pub(super) content: Option<Content>,
    pub(super) sampler: SamplerName,
    pub(super) beta: f32,
    pub(super) rounds: Rounds,
    pub(super) granularity: Granularity,
    /// Whether all layers draw the same.
    pub(super) same_layers: bool,
    pub(super) block_size: usize,
}

impl Sparse {
    pub(super) fn new(args: &SettingArgs, pattern: Pattern) -> Result<Self> {
        let mut content = match (pattern, &args.profile) {
            (Pattern::Content, Some(text)) => Some(Content::parse(text).context("--profile")?),
            (Pattern::Content, None) => bail!("--attention content: --profile says how many blocks"),
            _ => None,
        };
        let mut profile = match &args.profile {
            Some(text) if content.is_none() => parse::profile(text).context("--profile")?,
            _ => Profile::harmonic(),
        };
        if let Some(sinks) = args.sinks {
            profile = profile.with_sink_blocks(sinks);
        }
        if let Some(blocks) = args.window_blocks {
            profile = profile.with_window_blocks(blocks).context("--window-blocks")?;
        }
        if let Some(floor) = args.floor {
            profile = profile.with_floor(floor).context("--floor")?;
        }
        if let Some(content) = &mut content {
            let pinned = content.participation.with_sink_blocks(profile.sink_blocks());
            content.participation = pinned.with_window_blocks(profile.window_blocks())?;
            let other = args.sampler.is_some() || args.floor.is_some();
            let rounds = args.rounds.is_some() || args.partition_rounds.is_some();
            ensure!(!other && !rounds, "--sampler, --floor and rounds: --attention content has none of them");
        }
        let drawn = content.is_some_and(|content| content.participation.tau().is_some());
        ensure!(
            pattern == Pattern::Prflash || drawn || args.beta.is_none(),
            "--beta is for blocks that are drawn: --attention prflash, or content with tau or alpha"
        );
        ensure!(
            pattern == Pattern::Prflash || args.partition_rounds.is_none(),
            "--partition-rounds are for --attention prflash: other patterns have no probabilities"
        );
        let rounds = match (args.rounds, args.partition_rounds) {
            (Some(0), _) | (_, Some(0)) => {
                bail!("--rounds and --partition-rounds: expected at least 1, got 0")
            }
            (_, Some(rounds)) => Rounds::Partition(rounds),
            (None | Some(1), None) => Rounds::One,
            (Some(rounds), None) => Rounds::Independent(rounds),
        };
        let block_size = args.block_size.unwrap_or(prflash::sampling::DEFAULT_BLOCK_SIZE);
        ensure!((1..=1 << 16).contains(&block_size), "--block-size: expected 1 to 65536, got {block_size}");
        let sparse = Self {
            pattern,
            profile,
            content,
            sampler: args.sampler.unwrap_or(SamplerName::Systematic),
            beta: args.beta.unwrap_or(0.0),
            rounds,
            granularity: match args.lists_per {
                None | Some(ListPer::Head | ListPer::HeadIndex) => Granularity::Head,
                Some(ListPer::KvHead) => Granularity::KvHead,
                Some(ListPer::Shared) => Granularity::Shared,
            },
            same_layers: args.lists_per == Some(ListPer::HeadIndex),
            block_size,
        };
        // Whether the sampler can draw from the profile shows on any grid.
        let grid = BlockGrid::causal(&prflash::Shape::new(1, 1, 2, 4)?).with_block_size(1)?;
        match rounds {
            Rounds::Partition(rounds) => {
                partition_rounds(&grid, &sparse.profile, Seed::new(0), rounds)
                    .context("--partition-rounds")?;
            }
            _ => {
                Schedule::sample(&grid, &sparse.profile, sampler(sparse.sampler), Seed::new(0))
                    .context("--profile with --sampler")?;
            }
        }
        Ok(sparse)
    }
}

/// The sampler of a name.
pub(super) fn sampler(name: SamplerName) -> &'static dyn Sampler {
    match name {
        SamplerName::Systematic => &Systematic,
        SamplerName::Bernoulli => &Bernoulli,
        SamplerName::Renewal => &Renewal,
        SamplerName::Segment => &Segment,
    }
}
