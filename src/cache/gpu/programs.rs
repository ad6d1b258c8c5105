//! The kernels that fill a cache and move what is in it.

use super::params::{
    CACHE_RUNGS, CacheLayout, FLAG_COUNT, FLAG_SHIFT, FLAG_VALUES, MigrateParams, Move, MoveParams,
    SKIPPED_AT,
};
use crate::cache::codec::Codec;
use crate::cache::rotated;
use crate::layout::DType;
use crate::limits::MAX_PACKED_DIM;
use crate::runtime::program::{Binds, Program};
use crate::runtime::text::{self, Settings};
use crate::sampling::content::packed;

/// What moves tokens of a staircase cache to where they are to lie. All have the same bindings (the
/// last two without those of input), so that they share their bind groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheMove {
    /// `shaders/cache/append.wgsl`, for input of this type.
    Append(DType),
    /// `shaders/cache/quantize.wgsl`, for input of this type.
    Quantize(DType),
    /// `shaders/cache/encode_segment.wgsl`, for input of this type.
    Encode(DType),
    /// `shaders/cache/summarize_segment.wgsl`, for input of this type.
    Summarize(DType),
    /// `shaders/cache/step_down.wgsl`.
    StepDown,
    /// `shaders/cache/fork.wgsl`.
    Fork,
    /// `shaders/cache/commit.wgsl`.
    Commit,
}

impl CacheMove {
    /// Those that read no input.
    const WITHIN: [Self; 3] = [Self::StepDown, Self::Fork, Self::Commit];
}

/// What takes a staircase cache's sequences to a larger arena: `shaders/cache/migrate.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Migrate;

impl Migrate {
    /// The group of everything.
    pub(crate) const GROUP: usize = 0;

    /// Words that a workgroup copies.
    pub(crate) const COPIES: usize = 1024;

    const INVOCATIONS: usize = 64;
}

impl Program for Migrate {
    fn label(&self) -> String {
        self.entry_point().to_owned()
    }

    fn entry_point(&self) -> &'static str {
        "migrate"
    }

    fn source(&self) -> String {
        let settings = Settings::of(&[("INVOCATIONS", Self::INVOCATIONS), ("COPIES", Self::COPIES)]);
        text::kernel(&self.label(), "cache", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let params = Binds::Uniform(size_of::<MigrateParams>());
        vec![vec![params, Binds::Read, Binds::Read, Binds::Read, Binds::Write]]
    }
}

impl CacheMove {
    /// The group of the arena, after that of the call.
    pub(crate) const ARENA_GROUP: usize = 1;
    /// The group of appended keys and values.
    pub(crate) const INPUT_GROUP: usize = 2;

    /// Invocations of a workgroup.
    pub(crate) const INVOCATIONS: usize = 64;

    /// Quads of a row that a lane of encode_segment has.
    const LANE_QUADS: usize = 8;

    fn input(&self) -> Option<DType> {
        match *self {
            CacheMove::Append(dtype)
            | CacheMove::Quantize(dtype)
            | CacheMove::Encode(dtype)
            | CacheMove::Summarize(dtype) => Some(dtype),
            CacheMove::StepDown | CacheMove::Fork | CacheMove::Commit => None,
        }
    }
}

impl Program for CacheMove {
    fn label(&self) -> String {
        let name = self.entry_point();
        self.input().map_or(name.to_owned(), |dtype| format!("{name}_{dtype}"))
    }

    fn entry_point(&self) -> &'static str {
        match self {
            CacheMove::Append(_) => "append",
            CacheMove::Quantize(_) => "quantize",
            CacheMove::Encode(_) => "encode_segment",
            CacheMove::Summarize(_) => "summarize_segment",
            CacheMove::StepDown => "step_down",
            CacheMove::Fork => "fork",
            CacheMove::Commit => "commit",
        }
    }

    fn source(&self) -> String {
        let mut settings = Settings::of(&[("INVOCATIONS", Self::INVOCATIONS), ("CACHE_RUNGS", CACHE_RUNGS)]);
        settings.constant("FLAG_VALUES", FLAG_VALUES);
        settings.constant("FLAG_COUNT", FLAG_COUNT);
        settings.constant("FLAG_SHIFT", FLAG_SHIFT);
        settings.constant("SKIPPED_AT", SKIPPED_AT);
        if matches!(self, CacheMove::Encode(_)) {
            settings.sizes(&[
                ("LANE_QUADS", Self::LANE_QUADS),
                ("PAIR", 2),
                ("MOST_SEGMENT", Codec::LONGEST_SEGMENT),
                ("MOST_FINE", Codec::MOST_EXACT),
                ("MOST_CHANNELS", MAX_PACKED_DIM),
            ]);
            settings.integer("FRACTION_BITS", rotated::FRACTION_BITS as i32);
        }
        if matches!(self, CacheMove::Summarize(_)) {
            settings.integer("SUMMARY_UNIT_BITS", packed::UNIT_BITS);
            settings.integer("SUMMARY_LEAST_EXPONENT", packed::LEAST_EXPONENT);
        }
        if let Some(input) = self.input() {
            settings.word("INPUT", input.name());
        }
        text::kernel(&self.label(), "cache", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let mut groups = vec![
            vec![Binds::CallParams(size_of::<MoveParams>()), Binds::CallTable(size_of::<Move>())],
            vec![Binds::Write, Binds::Write, Binds::Uniform(size_of::<CacheLayout>()), Binds::Write],
        ];
        // Also where a kernel reads no input, so that it shares a pass with those that do; but
        // stamps are written without any, too.
        if !matches!(self, CacheMove::Fork | CacheMove::Commit) {
            groups.push(vec![Binds::Read, Binds::Read]);
        }
        groups
    }
}

// A lane of summarize_segment has a quad of channels, and one of encode_segment sums it up.
const _: () = assert!(CacheMove::INVOCATIONS * 4 >= MAX_PACKED_DIM);
// A batch of encode_segment has a row at least, of blocks of at most 8 lanes, and a lane a bit for
// each of its tokens.
const _: () = assert!(MAX_PACKED_DIM <= 8 * 4 * CacheMove::LANE_QUADS);
const _: () = assert!(Codec::LONGEST_SEGMENT <= 32 * CacheMove::INVOCATIONS);

/// Every move, of every type of input.
pub(crate) fn moves() -> Vec<CacheMove> {
    let of_input = DType::ALL.into_iter().flat_map(|dtype| {
        [
            CacheMove::Append(dtype),
            CacheMove::Quantize(dtype),
            CacheMove::Encode(dtype),
            CacheMove::Summarize(dtype),
        ]
    });
    of_input.chain(CacheMove::WITHIN).collect()
}

/// The moves whose machine code is worth a look.
pub(crate) fn counted() -> [CacheMove; 4] {
    let f32 = DType::F32;
    [CacheMove::Append(f32), CacheMove::Quantize(f32), CacheMove::Summarize(f32), CacheMove::StepDown]
}
