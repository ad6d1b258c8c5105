//! The kernels that choose blocks by content, from masses that others have estimated.

use super::params::{
    ContentParams, ContentSequence, FLAG_AHEAD, FLAG_CAUSAL, FLAG_LARGEST, FLAG_SOFT_CAP, FLAG_WHOLE,
    FLAG_WINDOW,
};
use super::random_numbers;
use crate::runtime::program::{Binds, INVOCATIONS, Program};
use crate::runtime::text::{self, Settings};
use crate::sampling::content::{CERTAIN, CONTENT, FARTHEST, GAMMA_BITS, LN_2, MASKED, OCTAVE};

/// The group of scores and lists, after that of the call.
pub(crate) const SCORES_GROUP: usize = 1;

/// Rows that may speak for a query block.
pub(crate) const MAX_PROBES: usize = 64;

/// Units that a bound of what is missing has on top, for what was rounded: half a unit of each mass
/// on both sides, one of each sum's logarithm, and as much again for f32.
const ROUNDED_OFF: i32 = 8;

/// Words of the report of a head's query block.
pub(crate) const REPORT_WORDS: usize = 3;

/// Bits of a digit of what blocks are ranked by: as many values as a workgroup has lanes.
pub(crate) const DIGIT_BITS: u32 = INVOCATIONS.ilog2();

/// The passes behind `block_scores`: `shaders/sampling/block_shares.wgsl`, `block_select.wgsl` and
/// `block_missing.wgsl`. All have the same bindings, so that they share their bind groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Masses to shares.
    Shares,
    /// Shares to lists: the blocks of the highest scores, or drawn.
    Select { drawn: bool },
    /// Lists to what they leave out.
    Missing,
}

impl Program for Choice {
    fn label(&self) -> String {
        let drawn = *self == Choice::Select { drawn: true };
        format!("{}{}", self.entry_point(), if drawn { "_drawn" } else { "" })
    }

    fn entry_point(&self) -> &'static str {
        match self {
            Choice::Shares => "block_shares",
            Choice::Select { .. } => "block_select",
            Choice::Missing => "block_missing",
        }
    }

    fn source(&self) -> String {
        let mut settings = settings();
        match *self {
            Choice::Shares => settings.sizes(&[("PROBES", MAX_PROBES)]),
            Choice::Missing => {
                settings.integer("ROUNDED_OFF", ROUNDED_OFF);
                settings.constant("REPORT_WORDS", REPORT_WORDS as u32);
            }
            Choice::Select { drawn } => {
                settings.constant("DIGIT_BITS", DIGIT_BITS);
                settings.conditions(&[("DRAWN", drawn)]);
                if drawn {
                    settings.constant("PURPOSE", CONTENT);
                    settings.constant("GAMMA_BITS", GAMMA_BITS);
                    settings.constant("FIXED_LN_2", LN_2);
                    random_numbers(&mut settings);
                }
            }
        }
        text::kernel(&self.label(), "sampling", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        vec![content_call(), scores()]
    }
}

/// All of them.
pub(crate) fn all() -> [Choice; 4] {
    [Choice::Shares, Choice::Select { drawn: false }, Choice::Select { drawn: true }, Choice::Missing]
}

/// What the text of every kernel that chooses by content has.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::of(&[("INVOCATIONS", INVOCATIONS as usize)]);
    for (name, flag) in [
        ("FLAG_CAUSAL", FLAG_CAUSAL),
        ("FLAG_WINDOW", FLAG_WINDOW),
        ("FLAG_SOFT_CAP", FLAG_SOFT_CAP),
        ("FLAG_AHEAD", FLAG_AHEAD),
        ("FLAG_WHOLE", FLAG_WHOLE),
        ("FLAG_LARGEST", FLAG_LARGEST),
        ("OCTAVE", OCTAVE as u32),
        ("OCTAVE_BITS", OCTAVE.ilog2()),
    ] {
        settings.constant(name, flag);
    }
    for (name, number) in [("FARTHEST", FARTHEST), ("MASKED", MASKED), ("CERTAIN", CERTAIN)] {
        settings.integer(name, number);
    }
    settings
}

/// What changes with each call, and what no call changes.
pub(crate) fn content_call() -> Vec<Binds> {
    vec![
        Binds::CallParams(size_of::<ContentParams>()),
        Binds::CallTable(size_of::<ContentSequence>()),
        // The plan's position table.
        Binds::Read,
    ]
}

/// Powers of two, scores, lists. With a cache these are all the storage buffers that WebGPU has
/// without being asked for more.
pub(crate) fn scores() -> Vec<Binds> {
    vec![Binds::Read, Binds::Write, Binds::Write]
}
