//! The sizes of one attention problem.

use crate::error::{Error, Result, ensure};
pub(crate) use crate::limits::MAX_LEN;
use crate::limits::{MAX_BATCH, MAX_ELEMENTS, MAX_HEAD_DIM, MAX_HEADS, at_most};

/// The sizes of one attention problem, validated once.
///
/// | name | meaning |
/// | --- | --- |
/// | `batch` | batch entries of the tensors: sequences, unless several are packed into one |
/// | `heads` | query heads H |
/// | `kv_heads` | key/value heads H_kv: 1 is MQA, H is MHA, any other divisor of H is GQA |
/// | `q_len` | query tokens of a sequence |
/// | `kv_len` | key/value tokens of a sequence; 0 is legal and gives empty rows |
/// | `head_dim` | D, channels of a query or key head |
/// | `value_dim` | channels of a value head, D unless set |
///
/// Query head h reads key/value head `h / (heads / kv_heads)`.
///
/// ```
/// use prflash::Shape;
/// // 9 query heads on 3 key/value heads (GQA), 1,024 tokens, 64 channels.
/// let prefill = Shape::new(9, 3, 1024, 64)?;
/// // One new token against a cache of 1,025.
/// let decode = prefill.with_q_len(1)?.with_kv_len(1025)?;
/// assert_eq!(decode.heads_per_kv_head(), 3);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    q_len: usize,
    kv_len: usize,
    head_dim: usize,
    value_dim: usize,
}

impl Shape {
    /// Self-attention of one sequence: batch 1, `q_len = kv_len = len`, `value_dim = head_dim`.
    ///
    /// # Errors
    /// Invalid argument unless `heads ≥ 1`, `kv_heads` divides `heads`, and `head_dim` is a
    /// multiple of 4 from 4 to 576; too large past the [limits](crate::limits): heads, tokens, or
    /// elements of a tensor (an empty one counts as if it had a token).
    pub fn new(heads: usize, kv_heads: usize, len: usize, head_dim: usize) -> Result<Self> {
        Self { batch: 1, heads, kv_heads, q_len: len, kv_len: len, head_dim, value_dim: head_dim }.validated()
    }

    /// The same with `batch` batch entries.
    ///
    /// # Errors
    /// As [`Shape::new`]; `batch` must be at least 1, and at most [`MAX_BATCH`].
    pub fn with_batch(self, batch: usize) -> Result<Self> {
        Self { batch, ..self }.validated()
    }

    /// The same with another number of query tokens.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn with_q_len(self, q_len: usize) -> Result<Self> {
        Self { q_len, ..self }.validated()
    }

    /// The same with another number of key/value tokens.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn with_kv_len(self, kv_len: usize) -> Result<Self> {
        Self { kv_len, ..self }.validated()
    }

    /// The same with value heads of another width than the query and key heads.
    ///
    /// # Errors
    /// As [`Shape::new`]; the bounds of `head_dim` hold for `value_dim`.
    pub fn with_value_dim(self, value_dim: usize) -> Result<Self> {
        Self { value_dim, ..self }.validated()
    }

    fn validated(self) -> Result<Self> {
        let Self { batch, heads, kv_heads, q_len, kv_len, head_dim, value_dim } = self;
        ensure!(batch >= 1, "batch", "expected at least 1, got {batch}");
        ensure!(heads >= 1, "heads", "expected at least 1, got {heads}");
        ensure!(
            kv_heads >= 1 && heads.is_multiple_of(kv_heads),
            "kv_heads",
            "expected a divisor of heads = {heads}, got {kv_heads}"
        );
        ensure!(
            head_dim.is_multiple_of(4) && (4..=MAX_HEAD_DIM).contains(&head_dim),
            "head_dim",
            "expected a multiple of 4 from 4 to {MAX_HEAD_DIM}, got {head_dim}"
        );
        ensure!(
            value_dim.is_multiple_of(4) && (4..=MAX_HEAD_DIM).contains(&value_dim),
            "value_dim",
            "expected a multiple of 4 from 4 to {MAX_HEAD_DIM}, got {value_dim}"
        );
        at_most("batch", batch, MAX_BATCH)?;
        at_most("heads", heads, MAX_HEADS)?;
        let sized = |argument, len: usize, heads: usize, dim: usize| {
            // Without tokens too the other dimensions' product is computed with.
            let elements = [batch, heads, len.max(1), dim].into_iter().try_fold(1usize, usize::checked_mul);
            match elements {
                Some(n) if n <= MAX_ELEMENTS && len <= MAX_LEN => Ok(()),
                _ => Err(Error::too_large(
                    argument,
                    format!(
                        "batch {batch} × heads {heads} × length {len} × dim {dim} is past 32-bit indices"
                    ),
                )),
            }
        };
        sized("q_len", q_len, heads, head_dim.max(value_dim))?;
        sized("kv_len", kv_len, kv_heads, head_dim.max(value_dim))?;
        Ok(self)
    }

    /// Sequences in one call.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Query heads H.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Key/value heads H_kv.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Query tokens of a sequence.
    pub fn q_len(&self) -> usize {
        self.q_len
    }

    /// Key/value tokens of a sequence.
    pub fn kv_len(&self) -> usize {
        self.kv_len
    }

    /// Channels D of a query or key head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Channels of a value head, and so of the output.
    pub fn value_dim(&self) -> usize {
        self.value_dim
    }

    /// Query heads that share one key/value head: H / H_kv.
    pub fn heads_per_kv_head(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The absolute position of query 0: `kv_len − q_len` (bottom-right aligned, so it may be
    /// negative).
    pub fn first_position(&self) -> i64 {
        self.kv_len as i64 - self.q_len as i64
    }

    /// FLOPs of dense attention by the usual convention `2·(D + D_v)` per visible (query, key)
    /// pair: `4·H·N²·D` for full square attention, about half of it if `causal`.
    pub fn dense_flops(&self, causal: bool) -> f64 {
        let (queries, keys) = (self.q_len as u64, self.kv_len as u64);
        let pairs = if causal {
            // The last query sees all keys, each one before it a key less, down to none.
            let rows = queries.min(keys);
            rows * (2 * keys + 1 - rows) / 2
        } else {
            queries * keys
        } as f64;
        2.0 * (self.head_dim + self.value_dim) as f64 * (self.batch * self.heads) as f64 * pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let refused = |r: Result<Shape>| r.unwrap_err().argument().unwrap();
        assert_eq!(refused(Shape::new(0, 1, 8, 64)), "heads");
        assert_eq!(refused(Shape::new(8, 3, 8, 64)), "kv_heads");
        assert_eq!(refused(Shape::new(8, 0, 8, 64)), "kv_heads");
        assert_eq!(refused(Shape::new(8, 8, 8, 66)), "head_dim");
        assert_eq!(refused(Shape::new(8, 8, 8, 580)), "head_dim");
        assert_eq!(refused(Shape::new(8, 8, 8, 0)), "head_dim");
        let good = Shape::new(8, 8, 8, 64).unwrap();
        assert_eq!(refused(good.with_batch(0)), "batch");
        assert_eq!(refused(good.with_value_dim(10)), "value_dim");
        let huge = good.with_q_len(1 << 31).unwrap_err();
        assert!(huge.is_too_large() && huge.argument() == Some("q_len"));
        assert!(good.with_kv_len(usize::MAX).unwrap_err().is_too_large());
    }

    #[test]
    fn no_length_of_zero_hides_other_counts() {
        let too_large = |r: Result<Shape>| {
            let error = r.unwrap_err();
            assert!(error.is_too_large(), "{error}");
            error.argument().unwrap()
        };
        for len in [0, 1] {
            assert_eq!(too_large(Shape::new(usize::MAX, 1, len, 4)), "heads");
            assert_eq!(too_large(Shape::new(MAX_HEADS + 1, 1, len, 4)), "heads");
            let one = Shape::new(1, 1, len, 4).unwrap();
            assert_eq!(too_large(one.with_batch(usize::MAX)), "batch");
            assert_eq!(too_large(one.with_batch(MAX_BATCH + 1)), "batch");
            let many = Shape::new(MAX_HEADS, MAX_HEADS, len, MAX_HEAD_DIM).unwrap();
            assert_eq!(too_large(many.with_batch(MAX_BATCH)), "q_len");
            assert_eq!(
                many.dense_flops(true),
                if len == 0 { 0.0 } else { 4.0 * (MAX_HEADS * MAX_HEAD_DIM) as f64 }
            );
        }
        let longest = Shape::new(1, 1, MAX_LEN, 4).unwrap();
        assert_eq!(longest.dense_flops(true), 16.0 * (MAX_LEN as f64 * (MAX_LEN as f64 + 1.0) / 2.0));
    }

    #[test]
    fn empty_lengths_are_legal() {
        assert_eq!(Shape::new(4, 1, 0, 64).unwrap().first_position(), 0);
        assert_eq!(Shape::new(4, 1, 7, 64).unwrap().with_kv_len(0).unwrap().first_position(), -7);
    }

    #[test]
    fn flops_count_visible_pairs() {
        let shape = Shape::new(2, 1, 3, 8).unwrap();
        assert_eq!(shape.dense_flops(false), 2.0 * 16.0 * 2.0 * 9.0);
        assert_eq!(shape.dense_flops(true), 2.0 * 16.0 * 2.0 * 6.0);
        // The first of 3 queries on 2 keys sits at position −1 and sees nothing.
        assert_eq!(shape.with_kv_len(2).unwrap().dense_flops(true), 2.0 * 16.0 * 2.0 * 3.0);
    }
}
