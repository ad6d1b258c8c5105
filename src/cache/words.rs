//! Rows of f16 numbers in words.

/// Channels with the padding: a multiple of 32.
pub(crate) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(32)
}

/// f16 number `index` of a row or pack of them.
pub(crate) fn half_at(words: &[u32], index: usize) -> u16 {
    (words[index / 2] >> (index % 2 * 16)) as u16
}
