//! Mask tensors: a number added to the score of every pair of query and key.

use half::f16;

use crate::error::{Error, Result, ensure};

/// Numbers that are added to the scores of a sequence, one for each query head, query and key: a
/// mask that no window, block list or [document mask](crate::Documents) expresses, a relative bias,
/// or a tree of draft tokens.
///
/// A call has them in its [`Tables`](crate::Tables), if its attention takes them
/// ([`Attention::with_masks`](crate::Attention::with_masks)). They come beside everything else that
/// hides keys, and after soft-cap, positions and correction. −∞ hides a pair: its weight is 0, as
/// that of any score of −∞
/// ([`Attention`](crate::Attention#rows-without-a-result-and-numbers-that-arent-finite) has what
/// that means for values that aren't finite).
///
/// Dimensions are `[heads, q_len, kv_len]`, where heads, queries or both may be 1, for all of them
/// alike. The last query of a sequence isn't always at its last key: the rows and keys of the mask
/// are those of the call.
///
/// ```
/// use prflash::attention::Mask;
/// use prflash::{Attention, Shape, Tables, reference};
/// // Two queries of one head, three keys; the first query doesn't see the key in the middle.
/// let mask = Mask::boolean([1, 2, 3], &[true, false, true, true, true, true])?;
/// assert_eq!([mask.value(0, 0, 0), mask.value(0, 0, 1)], [0.0, f32::NEG_INFINITY]);
/// let shape = Shape::new(1, 1, 2, 4)?.with_kv_len(3)?;
/// let (attention, tables) = (Attention::full().with_masks(true), Tables::from(&mask));
/// let values = [[1.0; 4], [7.0; 4], [4.0; 4]].concat();
/// let exact = reference::attention(&attention, &shape, &[0.0; 8], &[0.0; 12], &values, &tables)?;
/// assert!((exact.output[0] - 2.5).abs() < 1e-12 && (exact.output[4] - 4.0).abs() < 1e-12);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    dims: [usize; 3],
    form: MaskForm,
    /// As kernels read them: every row of keys begins with a word of its own.
    words: Vec<u32>,
}

/// What a number of a mask is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaskForm {
    /// A bit, set where the pair is seen.
    Bits,
    F16,
    F32,
}

impl MaskForm {
    /// Numbers of a word.
    pub(crate) const fn per_word(self) -> usize {
        match self {
            Self::Bits => 32,
            Self::F16 => 2,
            Self::F32 => 1,
        }
    }
}

/// Words of a mask, so that offsets of words stay in 32 bits with room for other tables.
const MAX_WORDS: usize = 1 << 30;

impl Mask {
    /// Hides the pairs that aren't `seen`, `[heads, q_len, kv_len]`: a bit each.
    ///
    /// # Errors
    /// Invalid argument: (`dims`) with a dimension of 0 but the last, (`seen`) of another length;
    /// too large past 2³⁰ words of memory.
    pub fn boolean(dims: [usize; 3], seen: &[bool]) -> Result<Self> {
        Self::new(dims, MaskForm::Bits, ("seen", seen), |row, words| {
            for (keys, word) in row.chunks(32).zip(words) {
                *word = keys.iter().rev().fold(0, |word, &seen| word << 1 | u32::from(seen));
            }
        })
    }

    /// Adds `values`, `[heads, q_len, kv_len]`, as natural logarithms: 4 bytes each.
    ///
    /// # Errors
    /// As [`boolean`](Mask::boolean), naming `values`.
    pub fn additive(dims: [usize; 3], values: &[f32]) -> Result<Self> {
        Self::new(dims, MaskForm::F32, ("values", values), |row, words| {
            row.iter().zip(words).for_each(|(value, word)| *word = value.to_bits());
        })
    }

    /// [`additive`](Mask::additive) in half the memory, rounded to f16.
    ///
    /// # Errors
    /// As [`additive`](Mask::additive).
    pub fn additive_f16(dims: [usize; 3], values: &[f32]) -> Result<Self> {
        Self::new(dims, MaskForm::F16, ("values", values), |row, words| {
            for (pair, word) in row.chunks(2).zip(words) {
                let bits = |value: f32| u32::from(f16::from_f32(value).to_bits());
                *word = bits(pair[0]) | pair.get(1).map_or(0, |&value| bits(value) << 16);
            }
        })
    }

    /// The mask of a tree of draft tokens (speculative decoding): they are the last tokens of a
    /// sequence of `kv_len`, and the queries of a call. Each sees all tokens before the tree, its
    /// ancestors and itself. `parents[i]` is the node before node i, `None` that of the last token
    /// before the tree.
    ///
    /// For attention that isn't causal, or is: parents come before their children.
    /// [`PositionIds::tree`](crate::attention::PositionIds::tree) has the positions of such
    /// tokens, where scores depend on them.
    ///
    /// ```
    /// use prflash::attention::Mask;
    /// // Two continuations of one draft token, after 3 tokens.
    /// let mask = Mask::tree(&[None, Some(0), Some(0)], 6)?;
    /// let seen = |query| (0..6).filter(|&key| mask.value(0, query, key) == 0.0).collect::<Vec<_>>();
    /// assert_eq!(seen(2), [0, 1, 2, 3, 5]);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument (`parents`) without a node, with more of them than `kv_len`, or with a
    /// parent that doesn't come before its child; too large as [`boolean`](Mask::boolean).
    pub fn tree(parents: &[Option<usize>], kv_len: usize) -> Result<Self> {
        let nodes = parents.len();
        ensure!(
            (1..=kv_len).contains(&nodes),
            "parents",
            "expected 1 to kv_len = {kv_len} nodes, got {nodes}"
        );
        check_parents(parents)?;
        let words = kv_len.div_ceil(32);
        let mut mask = Self::zeros([1, nodes, kv_len], MaskForm::Bits)?;
        let first = kv_len - nodes;
        for (node, parent) in parents.iter().enumerate() {
            let (before, row) = mask.words.split_at_mut(node * words);
            match parent {
                Some(parent) => row[..words].copy_from_slice(&before[parent * words..][..words]),
                None => (0..first).for_each(|key| row[key / 32] |= 1 << (key % 32)),
            }
            let own = first + node;
            row[own / 32] |= 1 << (own % 32);
        }
        Ok(mask)
    }

    fn zeros(dims: [usize; 3], form: MaskForm) -> Result<Self> {
        let [heads, queries, keys] = dims;
        let some = heads > 0 && queries > 0;
        ensure!(some, "dims", "expected at least 1 head and 1 query, got {dims:?}");
        let rows = heads.checked_mul(queries);
        let words = rows.and_then(|rows| rows.checked_mul(keys.div_ceil(form.per_word())));
        match words.filter(|&words| words <= MAX_WORDS && rows.is_some_and(|rows| rows <= MAX_WORDS)) {
            Some(words) => Ok(Self { dims, form, words: vec![0; words] }),
            None => Err(Error::too_large("dims", format!("{dims:?} numbers are past 2^30 words of memory"))),
        }
    }

    fn new<T>(
        dims: [usize; 3],
        form: MaskForm,
        (argument, numbers): (&'static str, &[T]),
        pack: impl Fn(&[T], &mut [u32]),
    ) -> Result<Self> {
        let [heads, queries, keys] = dims;
        // Before memory is taken for it.
        let want = heads.checked_mul(queries).and_then(|rows| rows.checked_mul(keys));
        let got = numbers.len();
        ensure!(want == Some(got), argument, "expected as many as dims = {dims:?} have, got {got}");
        let mut mask = Self::zeros(dims, form)?;
        if keys > 0 {
            let rows = mask.words.chunks_exact_mut(keys.div_ceil(form.per_word()));
            numbers.chunks_exact(keys).zip(rows).for_each(|(row, words)| pack(row, words));
        }
        Ok(mask)
    }

    /// `[heads, q_len, kv_len]`, where heads and queries may be 1 for all of them.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// What is added to the score of a pair: a natural logarithm. −∞ where nothing is.
    pub fn value(&self, head: usize, query: usize, key: usize) -> f32 {
        let [heads, queries, keys] = self.dims;
        let [head, query] = [(head, heads), (query, queries)].map(|(at, all)| if all == 1 { 0 } else { at });
        if head >= heads || query >= queries || key >= keys {
            return f32::NEG_INFINITY;
        }
        let (per_word, row) = (self.form.per_word(), head * queries + query);
        let word = self.words[row * keys.div_ceil(per_word) + key / per_word];
        match self.form {
            MaskForm::Bits if word >> (key % 32) & 1 == 1 => 0.0,
            MaskForm::Bits => f32::NEG_INFINITY,
            MaskForm::F16 => f16::from_bits((word >> (16 * (key % 2))) as u16).to_f32(),
            MaskForm::F32 => f32::from_bits(word),
        }
    }

    /// Calls `visit(j, value)` for the j-th of these keys, of one head and query.
    #[cfg(feature = "native")]
    pub(crate) fn for_each(
        &self,
        head: usize,
        query: usize,
        keys: std::ops::Range<usize>,
        mut visit: impl FnMut(usize, f32),
    ) {
        let [heads, queries, len] = self.dims;
        let [head, query] = [(head, heads), (query, queries)].map(|(at, all)| if all == 1 { 0 } else { at });
        let row_words = len.div_ceil(self.form.per_word());
        let row = &self.words[(head * queries + query) * row_words..][..row_words];
        let keys = keys.enumerate();
        match self.form {
            MaskForm::Bits => keys.for_each(|(j, key)| {
                let seen = row[key / 32] >> (key % 32) & 1 == 1;
                visit(j, if seen { 0.0 } else { f32::NEG_INFINITY });
            }),
            MaskForm::F16 => keys.for_each(|(j, key)| {
                visit(j, f16::from_bits((row[key / 2] >> (16 * (key % 2))) as u16).to_f32());
            }),
            MaskForm::F32 => keys.for_each(|(j, key)| visit(j, f32::from_bits(row[key]))),
        }
    }

    pub(crate) fn form(&self) -> MaskForm {
        self.form
    }

    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Refuses a mask for other sizes than these.
    pub(crate) fn check(&self, [heads, q_len, kv_len]: [usize; 3]) -> Result<()> {
        check_dims(self.dims, [heads, q_len, kv_len])
    }
}

/// Refuses a mask of these dimensions for a sequence of others.
pub(crate) fn check_dims(dims: [usize; 3], [heads, q_len, kv_len]: [usize; 3]) -> Result<()> {
    let fits = |got: usize, want: usize| got == 1 || got == want;
    ensure!(
        // No row of a sequence without queries is read.
        fits(dims[0], heads) && (fits(dims[1], q_len) || q_len == 0) && dims[2] == kv_len,
        "mask",
        "expected [{heads} or 1, {q_len} or 1, {kv_len}] numbers, got {dims:?}"
    );
    Ok(())
}

/// Refuses parents that don't come before their children.
pub(super) fn check_parents(parents: &[Option<usize>]) -> Result<()> {
    for (node, parent) in parents.iter().enumerate() {
        let before = parent.is_none_or(|parent| parent < node);
        ensure!(before, "parents", "expected that of node {node} before it, got {parent:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_that_were_given() {
        // Rows that end inside a word.
        let dims = [2, 3, 37];
        let numbers: Vec<f32> = (0..2 * 3 * 37).map(|i| (i as f32 * 0.37).sin() * 8.0).collect();
        let seen: Vec<bool> = numbers.iter().map(|&x| x > 1.0).collect();
        let masks = [
            Mask::boolean(dims, &seen).unwrap(),
            Mask::additive_f16(dims, &numbers).unwrap(),
            Mask::additive(dims, &numbers).unwrap(),
        ];
        for (index, (&number, &seen)) in numbers.iter().zip(&seen).enumerate() {
            let [head, query, key] = [index / 111, index / 37 % 3, index % 37];
            let [bit, half, whole] = masks.each_ref().map(|mask| mask.value(head, query, key));
            assert_eq!(bit, if seen { 0.0 } else { f32::NEG_INFINITY });
            assert_eq!((half, whole), (f16::from_f32(number).to_f32(), number));
        }
        for (head, query, key) in [(2, 0, 0), (0, 3, 0), (0, 0, 37)] {
            assert!(masks.iter().all(|mask| mask.value(head, query, key) == f32::NEG_INFINITY));
        }
        let one = Mask::additive([1, 1, 2], &[3.0, f32::NEG_INFINITY]).unwrap();
        assert_eq!([one.value(7, 9, 0), one.value(7, 9, 1)], [3.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn trees_see_their_ancestors() {
        let parents = [None, Some(0), Some(0), Some(1), None, Some(4), Some(3)];
        let mask = Mask::tree(&parents, 70).unwrap();
        assert_eq!(mask.dims(), [1, 7, 70]);
        for node in 0..7 {
            let mut want: Vec<usize> = (0..63).collect();
            let mut at = Some(node);
            let mut own = Vec::new();
            while let Some(ancestor) = at {
                own.push(63 + ancestor);
                at = parents[ancestor];
            }
            want.extend(own.into_iter().rev());
            let seen: Vec<usize> = (0..70).filter(|&key| mask.value(0, node, key) == 0.0).collect();
            assert_eq!(seen, want, "node {node}");
        }
    }

    #[test]
    fn refusals_name_the_argument() {
        let named = |result: Result<Mask>| result.unwrap_err().argument().unwrap().to_owned();
        assert_eq!(named(Mask::boolean([1, 2, 3], &[true; 5])), "seen");
        assert_eq!(named(Mask::additive([1, 2, 3], &[0.0; 7])), "values");
        assert_eq!(named(Mask::additive_f16([usize::MAX, 2, 3], &[0.0; 7])), "values");
        assert_eq!(named(Mask::additive([0, 2, 3], &[])), "dims");
        assert_eq!(named(Mask::boolean([1, 0, 3], &[])), "dims");
        assert!(Mask::boolean([1 << 20, 1 << 20, 0], &[]).unwrap_err().is_too_large());
        assert_eq!(named(Mask::tree(&[], 3)), "parents");
        assert_eq!(named(Mask::tree(&[None; 4], 3)), "parents");
        assert_eq!(named(Mask::tree(&[None, Some(1)], 3)), "parents");
        assert!(Mask::tree(&[None], usize::MAX).unwrap_err().is_too_large());
        let mask = Mask::boolean([2, 3, 4], &[true; 24]).unwrap();
        assert!(mask.check([2, 3, 4]).is_ok() && mask.check([2, 0, 4]).is_ok());
        for sizes in [[1, 3, 4], [2, 4, 4], [2, 3, 5]] {
            assert_eq!(mask.check(sizes).unwrap_err().argument(), Some("mask"));
        }
    }
}
