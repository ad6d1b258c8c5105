//! The kernels that summarize keys, and estimate from summaries how much attention blocks get.

use super::params::{ROPE_STRIDE, SummaryParams, SummaryRun};
use super::variant::PositionsVariant;
use crate::cache::gpu::params::{CACHE_RUNGS, CacheLayout};
use crate::layout::DType;
use crate::position::Pairing;
use crate::runtime::program::{Binds, INVOCATIONS, Program};
use crate::runtime::text::{self, Settings};
use crate::sampling::content::{Estimate, SHRINK, packed};
use crate::sampling::gpu::content::{content_call, scores, settings};

/// A rotation: how channels pair, and how many of them turn.
type Rotation = Option<(Pairing, usize)>;

/// Summaries of stored keys (`shaders/sampling/summarize.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summarize {
    pub(crate) storage: DType,
    pub(crate) head_dim: usize,
    pub(crate) rope: Rotation,
}

impl Summarize {
    /// The group of the tensors, after that of the call.
    pub(crate) const TENSORS_GROUP: usize = 1;
}

impl Program for Summarize {
    fn label(&self) -> String {
        format!("summarize_{}_d{}{}", self.storage, self.head_dim, turning(self.rope))
    }

    fn entry_point(&self) -> &'static str {
        "summarize"
    }

    fn source(&self) -> String {
        let mut settings = Settings::of(&[
            ("INVOCATIONS", INVOCATIONS as usize),
            ("HEAD_QUADS", self.head_dim / 4),
            ("SUMMARY_WORDS", packed::words(self.head_dim)),
        ]);
        settings.integer("SUMMARY_LEAST_EXPONENT", packed::LEAST_EXPONENT);
        settings.integer("SUMMARY_UNIT_BITS", packed::UNIT_BITS);
        rotations(&mut settings, self.rope);
        settings.word("STORAGE", self.storage.name());
        text::kernel(&self.label(), "sampling", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call = vec![
            Binds::CallParams(size_of::<SummaryParams>()),
            Binds::CallTable(size_of::<SummaryRun>()),
            // The position table.
            Binds::Read,
        ];
        vec![call, vec![Binds::Read, Binds::Write]]
    }
}

/// What is said of the mass of a group of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mass {
    Estimated(Estimate),
    /// No more than it is.
    Least,
}

impl Mass {
    fn name(self) -> String {
        match self {
            Mass::Estimated(estimate) => estimate.name().replace(' ', "_"),
            Mass::Least => "least".to_owned(),
        }
    }
}

/// Logarithms of the masses of blocks (`shaders/sampling/block_scores.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockMasses {
    pub(crate) mass: Mass,
    pub(crate) storage: DType,
    pub(crate) head_dim: usize,
    pub(crate) rope: Rotation,
    /// Whether summaries are those of a staircase cache.
    pub(crate) cached: bool,
}

impl BlockMasses {
    /// The groups of the queries and of the summaries, after those of the call and the scores.
    pub(crate) const QUERIES_GROUP: usize = 2;
    pub(crate) const SUMMARIES_GROUP: usize = 3;

    /// Groups of a tile: one an invocation.
    pub(crate) const GROUPS: usize = INVOCATIONS as usize;

    /// Rows that share what is read of a summary.
    pub(crate) const ROWS: usize = 4;

    /// Quads of codes that pass through workgroup memory at once.
    const STAGED: usize = 16;

    fn has_reaches(&self) -> bool {
        self.mass != Mass::Estimated(Estimate::MeanKey)
    }

    /// Channels that summaries have.
    fn channels(&self) -> usize {
        if self.cached { self.head_dim.next_multiple_of(32) } else { self.head_dim }
    }
}

impl Program for BlockMasses {
    fn label(&self) -> String {
        let Self { mass, storage, head_dim, rope, cached } = *self;
        let mass = mass.name();
        let cache = if cached { "_cache" } else { "" };
        format!("block_scores_{mass}_{storage}_d{head_dim}{}{cache}", turning(rope))
    }

    fn entry_point(&self) -> &'static str {
        "block_scores"
    }

    fn source(&self) -> String {
        let quads = self.head_dim / 4;
        let staged = quads.min(Self::STAGED);
        let mut settings = settings();
        settings.sizes(&[
            ("ROWS", Self::ROWS),
            ("HEAD_QUADS", quads),
            ("SUMMARY_QUADS", packed::code_words(self.channels())),
            ("SUMMARY_WORDS", packed::words(self.channels())),
            ("STAGED_QUADS", staged),
            ("STAGED_WORDS", staged * (1 + usize::from(self.has_reaches()))),
        ]);
        settings.real("LOG2_E", std::f32::consts::LOG2_E);
        settings.real("SHRINK", SHRINK);
        settings.conditions(&[
            ("REACHES", self.has_reaches()),
            ("SQUARES", self.mass == Mass::Estimated(Estimate::Saturated)),
            ("BOUND", self.mass == Mass::Estimated(Estimate::Bound)),
            ("LEAST", self.mass == Mass::Least),
            ("CACHED", self.cached),
        ]);
        settings.optional_sizes(&[("CACHE_RUNGS", if self.cached { CACHE_RUNGS } else { 0 })]);
        rotations(&mut settings, self.rope);
        settings.word("STORAGE", self.storage.name());
        text::kernel(&self.label(), "sampling", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let summaries = match self.cached {
            true => vec![Binds::Read, Binds::Read, Binds::Uniform(size_of::<CacheLayout>())],
            false => vec![Binds::Read],
        };
        vec![content_call(), scores(), vec![Binds::Read], summaries]
    }
}

fn turning(rope: Rotation) -> PositionsVariant {
    PositionsVariant { rope, ..PositionsVariant::default() }
}

/// What `shaders/attention/turn.wgsl` needs.
fn rotations(settings: &mut Settings, rope: Rotation) {
    let half = matches!(rope, Some((Pairing::Half, _)));
    let quads = rope.map_or(0, |(_, dim)| dim / 4);
    settings.conditions(&[("ROPE", rope.is_some()), ("ROPE_HALF", half)]);
    settings.optional_sizes(&[
        ("ROPE_STRIDE", if rope.is_some() { ROPE_STRIDE } else { 0 }),
        ("ROTARY_QUADS", quads),
        ("HALF_QUADS", if half { quads / 2 } else { 0 }),
    ]);
}
