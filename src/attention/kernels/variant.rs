//! The kernels that compute attention, with what is rendered into their text.

use super::shapes::Kernel;
use crate::cache::gpu::variant::CacheVariant;
use crate::layout::DType;
use crate::position::Pairing;

/// A kernel with everything that is rendered into its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) kernel: Kernel,
    pub(crate) storage: DType,
    pub(crate) output: DType,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) positions: PositionsVariant,
    /// `None`: keys and values are tensors.
    pub(crate) cache: Option<CacheVariant>,
    /// Whether calls may bring a mask tensor.
    pub(crate) masked: bool,
    /// Whether keys and values lie in pages.
    pub(crate) paged: bool,
}

/// What of positions is rendered into a kernel's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PositionsVariant {
    /// The rotation: how channels pair, and how many of them turn.
    pub(crate) rope: Option<(Pairing, usize)>,
    pub(crate) bias: BiasVariant,
    /// Whether scores have a factor that depends on the lag.
    pub(crate) factor: bool,
}

/// Where a kernel takes φ from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum BiasVariant {
    #[default]
    None,
    /// It is the lag.
    Linear,
    /// It is a logarithm of the lag.
    Log,
    /// Harmonic numbers: a table near by, a formula far off.
    Harmonic,
    /// Harmonic numbers up to a lag, then flat.
    CappedHarmonic,
}

impl PositionsVariant {
    /// Whether scores depend on positions at all.
    pub(crate) fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl std::fmt::Display for PositionsVariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rope {
            Some((Pairing::Interleaved, dim)) => write!(f, "_interleaved{dim}")?,
            Some((Pairing::Half, dim)) => write!(f, "_half{dim}")?,
            None => {}
        }
        f.write_str(match self.bias {
            BiasVariant::None => "",
            BiasVariant::Linear => "_linear",
            BiasVariant::Log => "_log",
            BiasVariant::Harmonic => "_harmonic",
            BiasVariant::CappedHarmonic => "_capped",
        })?;
        f.write_str(if self.factor { "_factor" } else { "" })
    }
}

impl Variant {
    /// Unique for each text.
    pub(super) fn name(&self) -> String {
        let Self { kernel, storage, output, head_dim, value_dim, positions, cache, masked, paged } = self;
        let mask = if *masked { "_mask" } else { "" };
        let pages = if *paged { "_pages" } else { "" };
        let cache = cache.map(|cache| cache.to_string()).unwrap_or_default() + mask + pages;
        match kernel {
            // It writes states, whatever the output.
            Kernel::Decode(_) => format!("{kernel}_{storage}_d{head_dim}_v{value_dim}{positions}{cache}"),
            _ => format!("{kernel}_{storage}_{output}_d{head_dim}_v{value_dim}{positions}{cache}"),
        }
    }

    /// Without positions and cache, and with an output of the storage's type.
    pub(crate) fn new(kernel: Kernel, storage: DType, [head_dim, value_dim]: [usize; 2]) -> Self {
        let positions = PositionsVariant::default();
        let (output, cache, masked, paged) = (storage, None, false, false);
        Self { kernel, storage, output, head_dim, value_dim, positions, cache, masked, paged }
    }

    /// Quads of a wide load by which the kernel can take keys and values, if rows begin at
    /// multiples of it: the largest power of two that divides rows. None where that is 1, or where
    /// they pass through workgroup memory or lie in pages.
    pub(crate) fn wide_quads(&self) -> Option<usize> {
        let direct = matches!(self.kernel, Kernel::Tiled(tile) if !tile.is_staged()) && !self.paged;
        let slices = match self.kernel {
            Kernel::Tiled(tile) => tile.slices(),
            _ => 1,
        };
        let each = [self.head_dim, self.value_dim].map(|dim| (dim / 4 / slices).trailing_zeros());
        let power = each[0].min(each[1]);
        (direct && power > 0).then_some(1 << power)
    }
}

/// A variant that takes keys and values in wide loads ([`Variant::wide_quads`]). Its bindings are
/// those of the variant itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wide(pub(crate) Variant);

impl Wide {
    /// Unique for each text.
    pub(super) fn name(&self) -> String {
        format!("{}_wide", self.0.name())
    }
}
