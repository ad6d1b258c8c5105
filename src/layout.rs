//! Where the elements of a `[batch, head, token, channel]` tensor lie in a flat buffer.

use std::ops::Range;

use half::{bf16, f16};

use crate::error::{Error, Result, ensure};
use crate::limits::MAX_ELEMENTS;
use crate::shape::Shape;

/// How a number is stored. The kernels compute in f32 whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, two to a 32-bit word. Needs no device feature: the kernels unpack it.
    F16,
    /// bfloat16 (the upper half of an f32), two to a 32-bit word.
    Bf16,
}

impl DType {
    /// Every storage type.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// Short lower-case name: `f32`, `f16`, `bf16`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    /// The unit roundoff u: rounding to this type changes a normal number by at most u times its
    /// magnitude.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u32 << 24) as f64,
            DType::F16 => 1.0 / (1u32 << 11) as f64,
            DType::Bf16 => 1.0 / (1u32 << 8) as f64,
        }
    }

    /// `value` rounded to this type (to nearest, ties to even) and back.
    pub fn round(self, value: f32) -> f32 {
        match self {
            DType::F32 => value,
            DType::F16 => f16::from_f32(value).to_f32(),
            DType::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// The bytes of `values` in this type, little-endian, padded with zeros to whole 32-bit words.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = match self {
            DType::F32 => bytemuck::cast_slice(values).to_vec(),
            DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// The inverse of [`encode`](DType::encode): every whole element in `bytes`.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let half_words = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self {
            DType::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            DType::F16 => half_words().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            DType::Bf16 => half_words().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Offset and strides, in elements, of a `[batch, head, token, channel]` tensor. Channels are
/// contiguous.
///
/// The kernels load four channels at a time, so `offset`, the strides and the channel count are
/// multiples of 4.
///
/// ```
/// use prflash::{Layout, Shape};
/// let shape = Shape::new(9, 3, 128, 64)?;
/// // One matrix product gives rows of [9 query heads | 3 key heads | 3 value heads] × 64.
/// let [q, k, v] = Layout::fused_qkv(&shape)?;
/// assert_eq!(k.index(0, 0, 1, 0), (9 + 3 + 3) * 64 + 9 * 64);
/// assert_eq!(v.dims(), [1, 3, 128, 64]);
/// # let _ = q;
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    dims: [usize; 4],
    offset: usize,
    strides: [usize; 3],
}

impl Layout {
    /// Contiguous `[batch, heads, len, dim]`.
    ///
    /// # Errors
    /// Invalid argument unless `dim` is a positive multiple of 4; too large past 32-bit indices (an
    /// empty dimension counts as 1).
    pub fn heads_first(batch: usize, heads: usize, len: usize, dim: usize) -> Result<Self> {
        let row = dim;
        let head = len.saturating_mul(row);
        Self::with_strides([batch, heads, len, dim], 0, [heads.saturating_mul(head), head, row])
    }

    /// Contiguous `[batch, len, heads, dim]`, as a projection of token rows leaves it.
    ///
    /// # Errors
    /// As [`Layout::heads_first`].
    pub fn tokens_first(batch: usize, len: usize, heads: usize, dim: usize) -> Result<Self> {
        let row = heads.saturating_mul(dim);
        Self::with_strides([batch, heads, len, dim], 0, [len.saturating_mul(row), dim, row])
    }

    /// Queries, keys and values inside one `[batch, len, (heads + 2·kv_heads) · dim]` buffer: the
    /// result of a fused QKV projection. Needs `q_len = kv_len`.
    ///
    /// # Errors
    /// Invalid argument if `q_len ≠ kv_len`; too large past 32-bit indices.
    pub fn fused_qkv(shape: &Shape) -> Result<[Self; 3]> {
        let (batch, len) = (shape.batch(), shape.q_len());
        ensure!(
            len == shape.kv_len(),
            "kv_len",
            "a fused QKV buffer has as many keys as queries: expected {len}, got {}",
            shape.kv_len()
        );
        let (q, k, v) = (
            shape.heads() * shape.head_dim(),
            shape.kv_heads() * shape.head_dim(),
            shape.kv_heads() * shape.value_dim(),
        );
        let row = q + k + v;
        let part = |heads, dim, offset| {
            Self::with_strides([batch, heads, len, dim], offset, [len.saturating_mul(row), dim, row])
        };
        Ok([
            part(shape.heads(), shape.head_dim(), 0)?,
            part(shape.kv_heads(), shape.head_dim(), q)?,
            part(shape.kv_heads(), shape.value_dim(), q + k)?,
        ])
    }

    /// Any layout with contiguous channels: `dims = [batch, heads, len, dim]`, `strides = [batch,
    /// head, row]`.
    ///
    /// # Errors
    /// Invalid argument unless `dim`, `offset` and every stride are multiples of 4 (`dim`
    /// positive); too large if the last element lies past 32-bit indices, or a stride or the number
    /// of elements is (an empty dimension counts as 1).
    pub fn with_strides(dims: [usize; 4], offset: usize, strides: [usize; 3]) -> Result<Self> {
        let dim = dims[3];
        ensure!(dim > 0 && dim.is_multiple_of(4), "dim", "expected a positive multiple of 4, got {dim}");
        ensure!(offset.is_multiple_of(4), "offset", "expected a multiple of 4 elements, got {offset}");
        for stride in strides {
            ensure!(stride.is_multiple_of(4), "strides", "expected multiples of 4 elements, got {strides:?}");
        }
        Self::checked(Self { dims, offset, strides })
    }

    /// One number per row, contiguous `[batch, heads, len]`: the layout of the log-sum-exp output.
    ///
    /// # Errors
    /// Too large past 32-bit indices.
    pub fn rows(batch: usize, heads: usize, len: usize) -> Result<Self> {
        Self::checked(Self {
            dims: [batch, heads, len, 1],
            offset: 0,
            strides: [heads.saturating_mul(len), len, 1],
        })
    }

    fn checked(self) -> Result<Self> {
        // Elements may share places (a stride of 0), so they aren't bounded by the extent.
        let elements = self.dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim.max(1)));
        let counts = [elements, self.try_extent()].into_iter().chain(self.strides.map(Some));
        if counts.into_iter().all(|count| count.is_some_and(|count| count <= MAX_ELEMENTS)) {
            return Ok(self);
        }
        Err(Error::too_large(
            "dims",
            format!("dims {:?} with strides {:?} are past 32-bit element indices", self.dims, self.strides),
        ))
    }

    fn try_extent(&self) -> Option<usize> {
        if self.dims.contains(&0) {
            return Some(self.offset);
        }
        let mut last = self.offset.checked_add(self.dims[3])?;
        for (dim, stride) in self.dims.iter().zip(self.strides) {
            last = last.checked_add((dim - 1).checked_mul(stride)?)?;
        }
        Some(last)
    }

    /// The same strides from another first element.
    pub(crate) fn with_offset(&self, offset: usize) -> Self {
        Self { offset, ..*self }
    }

    /// Some batch entries (as many of them as there are) and heads of the tensor.
    pub(crate) fn shard(&self, batches: Range<usize>, heads: Range<usize>) -> Self {
        let [batch, _, len, dim] = self.dims;
        let end = batches.end.min(batch);
        Self {
            dims: [end.saturating_sub(batches.start), heads.len(), len, dim],
            offset: self.index(batches.start, heads.start, 0, 0),
            ..*self
        }
    }

    /// One batch entry seen as a batch of head groups: entry g holds the heads `first..first +
    /// heads` of those `g·per_group .. (g + 1)·per_group`.
    pub(crate) fn grouped(&self, batch: usize, per_group: usize, first: usize, heads: usize) -> Self {
        let [_, all, len, dim] = self.dims;
        let [_, head, row] = self.strides;
        Self {
            dims: [all / per_group, heads, len, dim],
            offset: self.index(batch, first, 0, 0),
            strides: [per_group * head, head, row],
        }
    }

    /// `[batch, heads, len, dim]`.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// The element index of `[0, 0, 0, 0]`.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Distance in elements from one batch entry, head and token to the next: `[batch, head, row]`.
    pub fn strides(&self) -> [usize; 3] {
        self.strides
    }

    /// One past the last element index in use (the offset, if the tensor is empty).
    pub fn extent(&self) -> usize {
        self.try_extent().unwrap_or(usize::MAX)
    }

    /// The element index of `[batch, head, token, channel]`; of one that isn't there where it would
    /// be, and `usize::MAX` past that.
    pub fn index(&self, batch: usize, head: usize, token: usize, channel: usize) -> usize {
        let [batches, heads, rows] = self.strides;
        let steps = [batch.saturating_mul(batches), head.saturating_mul(heads), token.saturating_mul(rows)];
        steps.into_iter().fold(self.offset.saturating_add(channel), usize::saturating_add)
    }

    /// Whether no two elements share a place: what a tensor that is written to must satisfy.
    pub fn is_disjoint(&self) -> bool {
        let [batch, heads, len, dim] = self.dims;
        let mut axes = [(self.strides[0], batch), (self.strides[1], heads), (self.strides[2], len)];
        axes.sort_unstable();
        let mut extent = dim;
        self.elements() == 0
            || axes.iter().filter(|(_, count)| *count > 1).all(|&(stride, count)| {
                let apart = stride >= extent;
                extent += stride * (count - 1);
                apart
            })
    }

    /// Elements of the tensor itself, gaps not counted.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Copies a contiguous `[batch, heads, len, dim]` slice into this layout inside `buffer`.
    ///
    /// # Errors
    /// Invalid argument if `source` doesn't have [`elements`](Layout::elements) values or `buffer`
    /// fewer than [`extent`](Layout::extent).
    pub fn scatter(&self, source: &[f32], buffer: &mut [f32]) -> Result<()> {
        self.check_slices(source.len(), buffer.len())?;
        let dim = self.dims[3];
        for (row, at) in source.chunks_exact(dim).zip(self.row_starts()) {
            buffer[at..at + dim].copy_from_slice(row);
        }
        Ok(())
    }

    /// The inverse of [`scatter`](Layout::scatter): the tensor as a contiguous `[batch, heads, len,
    /// dim]` vector.
    ///
    /// # Errors
    /// Invalid argument if `buffer` has fewer than [`extent`](Layout::extent) values; too large
    /// (`dims`) where elements that share places are more than fit into memory.
    pub fn gather(&self, buffer: &[f32]) -> Result<Vec<f32>> {
        self.check_slices(self.elements(), buffer.len())?;
        let dim = self.dims[3];
        let mut values = Vec::new();
        let reserved = values.try_reserve_exact(self.elements());
        reserved
            .map_err(|_| Error::too_large("dims", format!("no memory for {} values", self.elements())))?;
        for at in self.row_starts() {
            values.extend_from_slice(&buffer[at..at + dim]);
        }
        Ok(values)
    }

    /// Refuses another number of values than the tensor has.
    pub(crate) fn check_source(&self, values: usize) -> Result<()> {
        let elements = self.elements();
        ensure!(values == elements, "source", "expected {elements} values, got {values}");
        Ok(())
    }

    fn check_slices(&self, tensor: usize, buffer: usize) -> Result<()> {
        let (elements, extent) = (self.elements(), self.extent());
        self.check_source(tensor)?;
        ensure!(
            elements == 0 || buffer >= extent,
            "buffer",
            "expected at least {extent} values, got {buffer}"
        );
        Ok(())
    }

    fn row_starts(&self) -> impl Iterator<Item = usize> + use<'_> {
        let [batch, heads, len, _] = self.dims;
        // Of an empty tensor there are none to go through the batch for.
        let batch = if self.elements() > 0 { batch } else { 0 };
        (0..batch)
            .flat_map(move |b| (0..heads).flat_map(move |h| (0..len).map(move |i| self.index(b, h, i, 0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        let shape = Shape::new(6, 2, 5, 8).unwrap().with_batch(3).unwrap().with_value_dim(4).unwrap();
        let mut layouts = Layout::fused_qkv(&shape).unwrap().to_vec();
        layouts.push(Layout::heads_first(3, 6, 5, 8).unwrap());
        layouts.push(Layout::tokens_first(3, 5, 6, 8).unwrap());
        layouts.push(Layout::rows(3, 6, 5).unwrap());
        for layout in layouts {
            let source: Vec<f32> = (0..layout.elements()).map(|i| i as f32 + 1.0).collect();
            let mut buffer = vec![0.0; layout.extent()];
            layout.scatter(&source, &mut buffer).unwrap();
            assert_eq!(layout.gather(&buffer).unwrap(), source);
            assert_eq!(buffer.iter().filter(|&&x| x != 0.0).count(), source.len(), "no element is shared");
        }
    }

    #[test]
    fn overlap_is_seen() {
        assert!(Layout::tokens_first(2, 3, 4, 8).unwrap().is_disjoint());
        assert!(Layout::fused_qkv(&Shape::new(2, 1, 5, 8).unwrap()).unwrap().iter().all(Layout::is_disjoint));
        assert!(!Layout::with_strides([1, 2, 3, 8], 0, [0, 0, 8]).unwrap().is_disjoint());
        assert!(!Layout::with_strides([1, 1, 3, 8], 0, [0, 0, 4]).unwrap().is_disjoint());
        assert!(Layout::with_strides([1, 1, 1, 8], 0, [0, 0, 0]).unwrap().is_disjoint());
    }

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<Layout>| r.unwrap_err().argument().unwrap();
        assert_eq!(named(Layout::heads_first(1, 1, 1, 6)), "dim");
        assert_eq!(named(Layout::with_strides([1, 1, 1, 4], 2, [4, 4, 4])), "offset");
        assert_eq!(named(Layout::with_strides([1, 1, 2, 4], 0, [8, 8, 5])), "strides");
        assert!(Layout::heads_first(1 << 20, 1 << 20, 1 << 20, 64).unwrap_err().is_too_large());
    }

    #[test]
    fn no_empty_dimension_hides_others() {
        let huge = usize::MAX / 8 * 4;
        for refused in [
            Layout::heads_first(huge, huge, 0, 4),
            Layout::heads_first(0, 1, 1, huge),
            Layout::tokens_first(huge, 0, 2, 4),
            Layout::rows(huge, huge, 0),
            Layout::with_strides([1, 1, 1, 4], 0, [huge, 4, 4]),
            Layout::with_strides([1, 1, 0, 4], huge, [4, 4, 4]),
            // One place for all of its 2³² elements and more.
            Layout::with_strides([1 << 15, 1 << 15, 1, 4], 0, [0, 0, 4]),
        ] {
            assert!(refused.unwrap_err().is_too_large());
        }
        assert_eq!(Layout::heads_first(1, 1, 0, 4).unwrap().elements(), 0);
        let empty = Shape::new(crate::limits::MAX_HEADS, 1, 0, 64).unwrap();
        assert_eq!(Layout::fused_qkv(&empty).unwrap()[2].elements(), 0);
    }

    #[test]
    fn indices_past_the_tensor_saturate() {
        let layout = Layout::heads_first(2, 3, 5, 8).unwrap();
        assert_eq!(layout.index(2, 0, 0, 0), layout.extent());
        let huge = usize::MAX;
        for [b, h, i, c] in [[huge, 1, 1, 1], [1, huge, 1, 1], [1, 1, huge, 1], [1, 1, 1, huge], [huge; 4]] {
            assert_eq!(layout.index(b, h, i, c), huge);
        }
    }

    #[test]
    fn types_encode_and_decode() {
        let values = [0.0, -1.5, 3.25159, 65504.0, f32::NEG_INFINITY];
        for dtype in DType::ALL {
            let bytes = dtype.encode(&values);
            assert_eq!(bytes.len() % 4, 0);
            let back = dtype.decode(&bytes);
            for (a, b) in values.iter().zip(&back) {
                assert_eq!(dtype.round(*a).to_bits(), b.to_bits());
                assert!(!a.is_finite() || (a - b).abs() as f64 <= dtype.unit_roundoff() * a.abs() as f64);
            }
        }
    }
}
