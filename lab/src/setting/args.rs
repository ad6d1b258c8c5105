//! The options of an attention, as the command line has them.

use clap::{Args, ValueEnum};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// All blocks are visited.
    #[default]
    Dense,
    /// Blocks drawn from the profile by the sampler.
    Prflash,
    /// Sink blocks, then the nearest: as many a row as prflash would draw.
    SinkWindow,
    /// Pinned blocks, then uniformly random others: as many a row as prflash would draw.
    Uniform,
    /// The blocks that are estimated to have most of the attention.
    Content,
}

/// How blocks are drawn.
///
/// `RowColumn` is left out: it draws the rows of one call together, so that reading in pieces and
/// decoding would visit other blocks than one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "named after prflash::sampling")]
pub enum SamplerName {
    Systematic,
    Bernoulli,
    Renewal,
    Segment,
}

/// Which heads share a list of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "named after prflash::sampling::Granularity")]
pub enum ListPer {
    Head,
    KvHead,
    Shared,
    /// Heads of the same number in all layers: every layer draws the same lists.
    HeadIndex,
}

/// How queries, keys and values are stored on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "named after prflash::DType")]
pub enum Storage {
    F32,
    F16,
    Bf16,
}

/// Which layers have a staircase cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StairLayers {
    /// The layers without a sliding window, as with all other choices.
    Global,
    /// Sliding-window layers too.
    All,
}

/// What a staircase cache stores of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeysStored {
    /// Keys as attention uses them.
    AfterRotation,
    /// Keys as the projection gives them: the kernel turns them each time.
    BeforeRotation,
}

/// The attention of a run.
///
/// What isn't given has the library's default. In models with sliding-window layers the pattern,
/// rope scaling and bias apply to the other layers.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Attention (in models with sliding-window layers, of the others)")]
pub struct SettingArgs {
    /// Which keys a query sees [default: dense]
    #[arg(long, value_enum)]
    pub attention: Option<Pattern>,
    /// The probability p(d) of a block at the distance d: half-window:BLOCKS, harmonic, harmonic:A,
    /// harmonic:A,ALPHA ((A/(A+d))^ALPHA), budget:BLOCKS, budget:BLOCKS,ALPHA, deduction:C
    /// [default: harmonic]. Of --attention content: BLOCKS, and each behind a semicolon
    /// estimate=saturated|bound|mean-key|exact, tau=X, alpha=X, pool=mean|largest, group=TOKENS,
    /// bits=8|32, probe=causal:ROWS|ahead:ROWS, as in "8;estimate=bound"
    #[arg(long)]
    pub profile: Option<String>,
    /// Key blocks at the start that always take part [default: 1]
    #[arg(long)]
    pub sinks: Option<usize>,
    /// Nearest block distances that always take part, the diagonal included [default: 1]
    #[arg(long)]
    pub window_blocks: Option<usize>,
    /// The least probability of any block [default: 0]
    #[arg(long)]
    pub floor: Option<f64>,
    /// How blocks are drawn [default: systematic]
    #[arg(long, value_enum)]
    pub sampler: Option<SamplerName>,
    /// The importance correction, 0 to 1 [default: 0]
    #[arg(long)]
    pub beta: Option<f32>,
    /// Independent rounds, merged by log-sum-exp [default: 1]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Rounds that visit every block exactly once between them: exact in the end
    #[arg(long, conflicts_with_all = ["rounds", "sampler", "beta"])]
    pub partition_rounds: Option<usize>,
    /// Which heads share a list of blocks [default: head]
    #[arg(long, value_enum)]
    pub lists_per: Option<ListPer>,
    /// Tokens per block [default: 64]
    #[arg(long)]
    pub block_size: Option<usize>,
    /// Seed of the schedules [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Rotary frequencies instead of the model's: linear:FACTOR, ntk:FACTOR, yarn:FACTOR (from the
    /// model's own context) or yarn:FACTOR,TOKENS [default: the model's]
    #[arg(long)]
    pub rope_scaling: Option<String>,
    /// A bias against distance on top of the model's positions: alibi, harmonic, log:RATE,
    /// capped:TOKENS [default: none]
    #[arg(long)]
    pub bias: Option<String>,
    /// λ, the weight of the bias [default: 1]
    #[arg(long, requires = "bias")]
    pub bias_weight: Option<f64>,
    /// The LENGTH of a factor a(Δ) = 1/(1 + Δ/LENGTH) on scores, and 1 − a on the bias [default:
    /// none]
    #[arg(long)]
    pub harmonic_factor: Option<f64>,
    /// How queries, keys and values are stored [default: f32]
    #[arg(long, value_enum)]
    pub storage: Option<Storage>,
    /// A cache that stores tokens in fewer bits as they age: recommended, paper, plain, kivi8,
    /// kivi4, kivi3, kivi2, streaming:WINDOW or two ladders as in "K:8x2,4;V:8x2,4x16,2", each with
    /// ;residual=, ;sinks=, ;segment=, ;group= and, on the cpu backend, ;rotated=FINE-TOKENS
    /// [default: none]
    #[arg(long)]
    pub staircase: Option<String>,
    /// What the staircase stores of keys [default: after-rotation]
    #[arg(long, value_enum, requires = "staircase")]
    pub stored_keys: Option<KeysStored>,
    /// Which layers have the staircase [default: global]
    #[arg(long, value_enum, requires = "staircase")]
    pub staircase_layers: Option<StairLayers>,
}
