//! What of a cache is rendered into the text of a kernel that reads it.

use crate::cache::quantize::WIDTHS;

/// What of a staircase cache is rendered into a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheVariant {
    /// The widths of the ladders of keys and of values, beside the 16 bits of the residual: bit b
    /// is set where there is a rung of b bits.
    pub(crate) widths: [u32; 2],
    /// G, how many numbers share their extremes; 0 of rotated codes.
    pub(crate) group: usize,
    /// Whether keys are stored before rotation.
    pub(crate) rotate_keys: bool,
}

impl CacheVariant {
    /// Whether codes are those of rotated rows.
    pub(crate) fn is_rotated(&self) -> bool {
        self.group == 0
    }

    /// Tokens that a kernel takes from a cache at once.
    pub(crate) const KEYS: usize = 4;
}

impl std::fmt::Display for CacheVariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("_cache")?;
        for (side, widths) in ["k", "v"].into_iter().zip(self.widths) {
            f.write_str(side)?;
            for bits in WIDTHS.into_iter().filter(|bits| widths >> bits & 1 == 1) {
                write!(f, "{bits}")?;
            }
        }
        match self.group {
            0 => f.write_str("_hadamard")?,
            group => write!(f, "_g{group}")?,
        }
        f.write_str(if self.rotate_keys { "_unrotated" } else { "" })
    }
}
