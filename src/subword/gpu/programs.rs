//! The kernels of sub-words.

use super::params::SubwordParams;
use crate::limits::MAX_PIECES;
use crate::runtime::program::{Binds, INVOCATIONS, Program};
use crate::runtime::text::{self, Settings};
use crate::subword::costs::Costs;
use crate::subword::vocabulary::MAX_PIECE;

/// Words of a workgroup: one an invocation.
pub(crate) const LANES: usize = INVOCATIONS as usize;

/// The longest word that is cut on the GPU, in bytes. Where its pieces end is one u32.
pub(crate) const LONGEST: usize = 32;

/// Bits of a piece's number, and where the number of pieces lies behind it and the length of one.
const NUMBER_BITS: u32 = 20;
const COUNT_SHIFT: u32 = NUMBER_BITS + MAX_PIECE.ilog2();

// A sum of costs is no larger than this one, and so below what stands for no path.
const _: () = assert!(LONGEST as u64 * (Costs::BOUND as u64) < u32::MAX as u64);
const _: () = assert!(MAX_PIECES <= 1 << NUMBER_BITS && LONGEST < 1 << (32 - COUNT_SHIFT));
const _: () = assert!(MAX_PIECE.is_power_of_two() && LONGEST <= 32);

/// What cuts words. All programs have the same first bindings, and one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subword {
    /// `shaders/subword/subword_segment.wgsl`: into the fewest pieces, or as many as cost least.
    Segment { fewest: bool },
    /// `shaders/subword/subword_losses.wgsl`.
    Losses,
}

impl Subword {
    /// The group of everything.
    pub(crate) const GROUP: usize = 0;

    /// Numbers of a word before its bytes.
    pub(crate) fn header(self) -> usize {
        match self {
            Self::Segment { .. } => 3,
            Self::Losses => 2,
        }
    }
}

impl Program for Subword {
    fn label(&self) -> String {
        let fewest = *self == Self::Segment { fewest: true };
        format!("{}{}", self.entry_point(), if fewest { "_fewest" } else { "" })
    }

    fn entry_point(&self) -> &'static str {
        match self {
            Self::Segment { .. } => "subword_segment",
            Self::Losses => "subword_losses",
        }
    }

    fn source(&self) -> String {
        let mut settings = Settings::of(&[
            ("LANES", LANES),
            ("MAX_PIECE", MAX_PIECE),
            ("LONGEST", LONGEST),
            ("HEADER", self.header()),
        ]);
        settings.constant("NUMBER_BITS", NUMBER_BITS);
        settings.constant("COUNT_SHIFT", COUNT_SHIFT);
        let fewest = *self == Self::Segment { fewest: true };
        settings.conditions(&[("KEEPS", *self != Self::Losses), ("FEWEST", fewest)]);
        text::kernel(&self.label(), "subword", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let params = Binds::Uniform(size_of::<SubwordParams>());
        let mut group = vec![params, Binds::Read, Binds::Read, Binds::Write];
        if *self != Self::Losses {
            group.push(Binds::Write);
        }
        vec![group]
    }
}

/// Every kernel.
pub(crate) fn all() -> [Subword; 3] {
    [Subword::Segment { fewest: false }, Subword::Segment { fewest: true }, Subword::Losses]
}
