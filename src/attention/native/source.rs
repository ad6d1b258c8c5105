//! Rows of queries, keys and values in f32: where they lie, or expanded into scratch.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::part::Part;
use super::positions::Rotations;
use super::products::Rows;
use super::sizes::KEYS;
use super::views::{HostNumbers, HostView};
use crate::attention::inputs::pages::PageTable;
use crate::cache::head_words::{HeadWords, MOST_TOKENS, widen_halves};
use crate::cache::{HostCache, Side, StoredKeys};
use crate::layout::DType;

// A tile of a cache is what its words can be expanded by at once.
const _: () = assert!(KEYS == MOST_TOKENS);

/// One head of one batch entry of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    view: HostView<'a>,
    entry: usize,
    head: usize,
    dim: usize,
    /// Where rows lie, if in pages: then batch entries are these.
    pages: Option<&'a PageTable>,
}

impl<'a> Head<'a> {
    pub(super) fn new(view: HostView<'a>, entry: usize, head: usize) -> Self {
        let [_, _, _, dim] = view.layout().dims();
        Self { view, entry, head, dim, pages: None }
    }

    /// Where a row begins.
    #[inline(always)]
    fn row_at(&self, row: usize) -> usize {
        let (entry, row) = match self.pages {
            Some(pages) => pages.place(self.view.layout().dims()[2], row),
            None => (self.entry, row),
        };
        self.view.layout().index(entry, self.head, row, 0)
    }

    /// So many rows from `first` on where they lie, if they are f32 and in one page.
    fn direct(&self, first: usize, count: usize) -> Option<Rows<'a>> {
        let HostNumbers::F32(numbers) = self.view.numbers() else { return None };
        let [_, _, page_size, _] = self.view.layout().dims();
        if self.pages.is_some() && first % page_size + count > page_size {
            return None;
        }
        let at = self.row_at(first);
        let [_, _, stride] = self.view.layout().strides();
        Some(Rows { numbers: &numbers[at..], stride })
    }

    /// One row as f32.
    #[inline(always)]
    pub(super) fn expand(&self, row: usize, to: &mut [f32]) {
        let at = self.row_at(row);
        match self.view.numbers() {
            HostNumbers::F32(numbers) => to.copy_from_slice(&numbers[at..][..self.dim]),
            HostNumbers::F16(numbers) => widen_halves(&numbers[at..][..self.dim], to),
            HostNumbers::Bf16(numbers) => {
                let bits = numbers[at..][..self.dim].iter().map(|x| u32::from(x.to_bits()) << 16);
                to.iter_mut().zip(bits).for_each(|(to, bits)| *to = f32::from_bits(bits));
            }
        }
    }
}

/// Where keys and values of a call are.
#[derive(Clone, Copy, Debug)]
pub(super) enum History<'a> {
    Tensors { k: HostView<'a>, v: HostView<'a> },
    Cache(&'a HostCache),
}

impl History<'_> {
    /// Whether keys and values are read where they lie.
    pub(super) fn is_direct(&self) -> bool {
        match self {
            Self::Tensors { k, v } => k.dtype() == DType::F32 && v.dtype() == DType::F32,
            Self::Cache(_) => false,
        }
    }

    /// Whether keys are still to be turned, where there is a rotation.
    pub(super) fn turns_keys(&self) -> bool {
        match self {
            Self::Tensors { .. } => true,
            Self::Cache(cache) => cache.stored_keys() == StoredKeys::BeforeRotation,
        }
    }
}

impl History<'_> {
    /// Whether values come in rotated channels, and outputs have to be turned back.
    pub(super) fn rotates_values(&self) -> bool {
        match self {
            Self::Tensors { .. } => false,
            Self::Cache(cache) => cache.staircase().codec().is_rotated(),
        }
    }
}

/// Keys and values of one head of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store<'a> {
    /// With the row of key 0.
    Tensors {
        k: Head<'a>,
        v: Head<'a>,
        first: usize,
    },
    Words {
        k: HeadWords<'a>,
        v: HeadWords<'a>,
    },
}

impl<'a> Store<'a> {
    /// None where the cache has no such sequence, which was checked before.
    pub(super) fn new(history: History<'a>, part: &Part<'a>, head: usize) -> Option<Self> {
        match (history, part.sequence) {
            (History::Tensors { k, v }, _) => Some(Self::Tensors {
                k: Head { pages: part.pages, ..Head::new(k, part.entry, head) },
                v: Head { pages: part.pages, ..Head::new(v, part.entry, head) },
                first: part.keys.start,
            }),
            (History::Cache(cache), Some(sequence)) => Some(Self::Words {
                k: cache.head_words(sequence, Side::Keys, head).ok()?,
                v: cache.head_words(sequence, Side::Values, head).ok()?,
            }),
            (History::Cache(_), None) => None,
        }
    }

    /// The tile of keys within `keys` that comes first: dropped tokens are passed over.
    pub(super) fn next_tile(&self, keys: Range<usize>) -> Option<Range<usize>> {
        let Self::Words { k, .. } = self else {
            let end = keys.end.min(keys.start + KEYS);
            return (!keys.is_empty()).then_some(keys.start..end);
        };
        let dropped = k.dropped();
        let start = if dropped.contains(&keys.start) { dropped.end } else { keys.start };
        (start < keys.end).then(|| start..k.end_of_run(start).min(keys.end))
    }

    /// Keys where they lie, if they do so as rows of this many channels.
    fn direct_keys(&self, tile: &Range<usize>, stride: usize) -> Option<Rows<'a>> {
        let Self::Tensors { k, first, .. } = self else { return None };
        k.direct(first + tile.start, tile.len()).filter(|_| stride == k.dim)
    }

    fn direct_values(&self, tile: &Range<usize>, stride: usize) -> Option<Rows<'a>> {
        let Self::Tensors { v, first, .. } = self else { return None };
        v.direct(first + tile.start, tile.len()).filter(|_| stride == v.dim)
    }
}

/// Keys of a tile as rows, `stride` apart or where they lie, turned to their positions if there are
/// `rotations`.
///
/// To be called by [`Simd::vectorize`], so that expanding is compiled for the machine's vectors.
pub(super) struct KeyRows<'a, 'p> {
    pub(super) store: Store<'a>,
    pub(super) tile: Range<usize>,
    pub(super) stride: usize,
    pub(super) rotations: Option<(&'p Rotations, &'p Part<'p>)>,
    pub(super) scratch: &'a mut [f32],
}

impl<'a> WithSimd for KeyRows<'a, '_> {
    type Output = Rows<'a>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Rows<'a> {
        let Self { store, tile, stride, rotations, scratch } = self;
        if let (None, Some(rows)) = (rotations, store.direct_keys(&tile, stride)) {
            return rows;
        }
        match store {
            Store::Tensors { k, first, .. } => expand(&k, first + tile.start, tile.len(), stride, scratch),
            // Keys that have to be turned to their positions come as they were.
            Store::Words { k, .. } => k.expand_rows(tile.clone(), stride, rotations.is_none(), scratch),
        }
        if let Some((rotations, part)) = rotations {
            for (key, row) in tile.zip(scratch.chunks_exact_mut(stride)) {
                rotations.turn(row, part.key_position(key));
            }
        }
        Rows { numbers: scratch, stride }
    }
}

/// Keys of a tile as columns, `[head_dim][KEYS]`, and whether they lie so.
pub(super) struct KeyColumns<'a, 's> {
    pub(super) store: Store<'a>,
    pub(super) tile: Range<usize>,
    pub(super) scratch: &'s mut [f32],
}

impl WithSimd for KeyColumns<'_, '_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        match self.store {
            Store::Tensors { .. } => false,
            Store::Words { k, .. } => k.expand_columns(self.tile, self.scratch),
        }
    }
}

/// Values of a tile as rows, `stride` apart or where they lie.
pub(super) struct ValueRows<'a> {
    pub(super) store: Store<'a>,
    pub(super) tile: Range<usize>,
    pub(super) stride: usize,
    pub(super) scratch: &'a mut [f32],
}

impl<'a> WithSimd for ValueRows<'a> {
    type Output = Rows<'a>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Rows<'a> {
        let Self { store, tile, stride, scratch } = self;
        if let Some(rows) = store.direct_values(&tile, stride) {
            return rows;
        }
        match store {
            Store::Tensors { v, first, .. } => expand(&v, first + tile.start, tile.len(), stride, scratch),
            Store::Words { v, .. } => v.expand_rows(tile, stride, true, scratch),
        }
        Rows { numbers: scratch, stride }
    }
}

#[inline(always)]
fn expand(head: &Head<'_>, first: usize, count: usize, stride: usize, to: &mut [f32]) {
    for (row, copy) in (first..first + count).zip(to.chunks_exact_mut(stride)) {
        let (numbers, rest) = copy.split_at_mut(head.dim);
        head.expand(row, numbers);
        rest.fill(0.0);
    }
}

/// Whether no value is NaN or infinite.
#[inline(always)]
pub(super) fn is_finite(values: Rows<'_>, count: usize, dim: usize) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let largest = |row: &[f32]| row.iter().fold(0, |most, x| (x.to_bits() & EXPONENT).max(most));
    (0..count).all(|j| largest(values.row(j, dim)) < EXPONENT)
}

/// The values with 0 for what is NaN or infinite. A weight of 0 doesn't hide that, so where some
/// rows see a key and others don't, products are computed with these, and what was left out is
/// added for the rows that see it.
pub(super) fn finite_only<'a>(values: Rows<'_>, count: usize, dim: usize, copy: &'a mut [f32]) -> Rows<'a> {
    for (j, row) in copy.chunks_exact_mut(dim).take(count).enumerate() {
        for (to, &x) in row.iter_mut().zip(values.row(j, dim)) {
            *to = if x.is_finite() { x } else { 0.0 };
        }
    }
    Rows { numbers: copy, stride: dim }
}

/// Calls `add(key, channel, value)` for what [`finite_only`] left out.
pub(super) fn for_each_left_out(
    values: Rows<'_>,
    count: usize,
    dim: usize,
    mut add: impl FnMut(usize, usize, f32),
) {
    for j in 0..count {
        let row = values.row(j, dim).iter().enumerate();
        row.filter(|(_, x)| !x.is_finite()).for_each(|(channel, &x)| add(j, channel, x));
    }
}
