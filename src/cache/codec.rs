//! How the numbers of a segment become codes.

use std::fmt;

/// How numbers become codes of few bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// Evenly spaced between the extremes of a group (KIVI, arXiv 2402.02750): see
    /// [`quantize`](super::quantize).
    #[default]
    MinMax,
    /// By levels that fit a normal distribution, after a Walsh–Hadamard rotation of each row: see
    /// [`rotated`](super::rotated).
    Rotated {
        /// How many tokens of a segment and head keep their codes of 8 bits whatever the rung, at
        /// most 32: those that attention tends to rest on.
        fine_tokens: usize,
    },
}

impl Codec {
    /// The most fine tokens of a segment.
    pub(crate) const MOST_EXACT: usize = 32;

    /// The most tokens of a segment whose sums 32 bits hold.
    pub(crate) const LONGEST_SEGMENT: usize = 1024;

    /// Exact keys of a segment and head.
    pub(super) fn fine_tokens(self) -> usize {
        match self {
            Self::MinMax => 0,
            Self::Rotated { fine_tokens } => fine_tokens,
        }
    }

    /// Whether rows are rotated before they are coded.
    pub(crate) fn is_rotated(self) -> bool {
        matches!(self, Self::Rotated { .. })
    }
}

/// What a staircase prints of it.
impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("between extremes"),
            Self::Rotated { fine_tokens: 1 } => f.write_str("rotated, 1 fine token a segment"),
            Self::Rotated { fine_tokens } => write!(f, "rotated, {fine_tokens} fine tokens a segment"),
        }
    }
}
