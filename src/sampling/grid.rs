//! The absolute block grid of one sequence.

use crate::error::{Error, Result, ensure};
use crate::limits::MAX_BLOCKS;
use crate::shape::Shape;

/// Tokens per block of a schedule unless set.
pub const DEFAULT_BLOCK_SIZE: usize = 64;

/// Which heads share one block list.
///
/// Lists per query head sample most independently; lists per key/value head let a kernel load a key
/// block once for all query heads of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Granularity {
    /// One list per query head.
    #[default]
    Head,
    /// One list per key/value head, shared by its query heads.
    KvHead,
    /// One list for all heads.
    Shared,
}

/// The grid of (query block, key block) pairs of one sequence: block `I` holds the absolute
/// positions `I·B … I·B+B−1`.
///
/// Query `i` sits at position `i + kv_len − q_len`, so the first and last block may be ragged, and
/// query blocks start at a negative index where there are more queries than keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockGrid {
    block_size: usize,
    causal: bool,
    granularity: Granularity,
    heads: usize,
    kv_heads: usize,
    q_len: usize,
    kv_len: usize,
}

impl BlockGrid {
    /// The grid of causal attention: key blocks `J ≤ I`. Blocks of 64 tokens, one list per query
    /// head.
    pub fn causal(shape: &Shape) -> Self {
        Self {
            block_size: DEFAULT_BLOCK_SIZE,
            causal: true,
            granularity: Granularity::Head,
            heads: shape.heads(),
            kv_heads: shape.kv_heads(),
            q_len: shape.q_len(),
            kv_len: shape.kv_len(),
        }
    }

    /// The grid of attention to every key, before and after.
    pub fn full(shape: &Shape) -> Self {
        Self { causal: false, ..Self::causal(shape) }
    }

    /// The same with blocks of `block_size` tokens.
    ///
    /// # Errors
    /// Invalid argument unless `block_size` is between 1 and 65,536; too large where queries or
    /// keys would fill more than [`MAX_BLOCKS`] of them.
    pub fn with_block_size(self, block_size: usize) -> Result<Self> {
        ensure!(
            (1..=1 << 16).contains(&block_size),
            "block_size",
            "expected 1 to 65536 tokens, got {block_size}"
        );
        let blocks = self.q_len.max(self.kv_len).div_ceil(block_size);
        if blocks > MAX_BLOCKS {
            let message = format!("blocks of {block_size} tokens would be {blocks}, past {MAX_BLOCKS}");
            return Err(Error::too_large("block_size", message));
        }
        Ok(Self { block_size, ..self })
    }

    /// The same for other lengths, which a shape has let pass.
    pub(crate) fn with_lengths(self, q_len: usize, kv_len: usize) -> Self {
        Self { q_len, kv_len, ..self }
    }

    /// The query rows of a query block, both counted from 0.
    pub(crate) fn rows_of(&self, query_block: usize) -> std::ops::Range<usize> {
        let (block, offset) = (self.block_size as i64, self.kv_len as i64 - self.q_len as i64);
        let begin = (self.first_query_block() + query_block as i64) * block - offset;
        begin.max(0) as usize..(begin + block).clamp(0, self.q_len as i64) as usize
    }

    /// The same with lists shared by other sets of heads.
    pub fn with_granularity(self, granularity: Granularity) -> Self {
        Self { granularity, ..self }
    }

    /// Tokens per block, B.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Whether key blocks after the query block are left out.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// Which heads share a list.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Query heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Query tokens.
    pub fn q_len(&self) -> usize {
        self.q_len
    }

    /// Key tokens.
    pub fn kv_len(&self) -> usize {
        self.kv_len
    }

    /// Lists per query block: H, H_kv or 1.
    pub fn groups(&self) -> usize {
        match self.granularity {
            Granularity::Head => self.heads,
            Granularity::KvHead => self.kv_heads,
            Granularity::Shared => 1,
        }
    }

    /// The list group of query head `head`; [`groups`](BlockGrid::groups) or more where there is no
    /// such head.
    pub fn group_of_head(&self, head: usize) -> usize {
        head / self.heads_per_group()
    }

    /// Query heads that share a list.
    pub fn heads_per_group(&self) -> usize {
        self.heads / self.groups()
    }

    /// The index of the first query block, `⌊(kv_len − q_len) / B⌋`.
    pub fn first_query_block(&self) -> i64 {
        (self.kv_len as i64 - self.q_len as i64).div_euclid(self.block_size as i64)
    }

    /// Query blocks that hold at least one query.
    pub fn query_blocks(&self) -> usize {
        if self.q_len == 0 {
            return 0;
        }
        let last = (self.kv_len as i64 - 1).div_euclid(self.block_size as i64);
        (last - self.first_query_block() + 1) as usize
    }

    /// Key blocks that hold at least one key.
    pub fn key_blocks(&self) -> usize {
        self.kv_len.div_ceil(self.block_size)
    }

    /// Refuses a grid that was made for other attention than this, or for other heads and lengths
    /// than those of `shape`.
    pub(crate) fn check(&self, causal: bool, shape: &Shape) -> Result<()> {
        let of = |grid: &Self| (grid.causal, grid.heads, grid.kv_heads, grid.q_len, grid.kv_len);
        let (want, got) = (of(&Self { causal, ..Self::causal(shape) }), of(self));
        ensure!(
            want == got,
            "schedule",
            "expected one for (causal, heads, kv_heads, q_len, kv_len) = {want:?}, got {got:?}"
        );
        Ok(())
    }

    /// How many key blocks dense attention visits for (absolute) query block `query_block`.
    pub fn dense_row(&self, query_block: i64) -> usize {
        if self.causal {
            query_block.saturating_add(1).clamp(0, self.key_blocks() as i64) as usize
        } else {
            self.key_blocks()
        }
    }

    /// How many (query block, key block) pairs dense attention visits, over all list groups.
    pub fn dense_blocks(&self) -> u64 {
        let (rows, most) = (self.query_blocks() as u64, self.key_blocks() as u64);
        let pairs = if self.causal {
            // The last row is that of the last key block, or comes before any. Each row before it
            // has a block less, down to none.
            let last = self.dense_row(self.first_query_block() + rows as i64 - 1) as u64;
            let longest = rows.min(last);
            longest * (2 * last + 1 - longest) / 2
        } else {
            rows * most
        };
        self.groups() as u64 * pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(q_len: usize, kv_len: usize) -> BlockGrid {
        let shape = Shape::new(2, 1, q_len, 64).unwrap().with_kv_len(kv_len).unwrap();
        BlockGrid::causal(&shape).with_block_size(4).unwrap()
    }

    #[test]
    fn blocks_lie_on_the_absolute_grid() {
        // Queries at 5..10: blocks 1 and 2.
        assert_eq!((grid(5, 10).first_query_block(), grid(5, 10).query_blocks()), (1, 2));
        // Two queries before the first key: positions −2, −1 in block −1, then 0..3.
        assert_eq!((grid(5, 3).first_query_block(), grid(5, 3).query_blocks()), (-1, 2));
        assert_eq!((grid(3, 0).first_query_block(), grid(3, 0).query_blocks()), (-1, 1));
        assert_eq!((grid(0, 9).query_blocks(), grid(0, 9).dense_blocks()), (0, 0));
        assert_eq!((grid(3, 0).key_blocks(), grid(3, 0).dense_blocks()), (0, 0));
    }

    #[test]
    fn dense_counts_are_sums_of_rows() {
        for (q_len, kv_len) in (0..14).flat_map(|q| (0..14).map(move |kv| (q, kv))) {
            for causal in [true, false] {
                let grid = BlockGrid { causal, ..grid(q_len, kv_len) };
                let first = grid.first_query_block();
                let rows = (first..).take(grid.query_blocks()).map(|row| grid.dense_row(row) as u64);
                assert_eq!(grid.dense_blocks(), 2 * rows.sum::<u64>(), "{q_len} {kv_len} {causal}");
            }
        }
    }

    #[test]
    fn the_longest_sequences() {
        let shape = Shape::new(1, 1, crate::limits::MAX_LEN, 4).unwrap();
        let grid = BlockGrid::causal(&shape);
        assert_eq!(grid.query_blocks(), MAX_BLOCKS);
        assert_eq!(grid.dense_blocks(), (MAX_BLOCKS as u64 * (MAX_BLOCKS as u64 + 1)) / 2);
        assert_eq!((grid.dense_row(i64::MAX), grid.dense_row(i64::MIN)), (MAX_BLOCKS, 0));
        let refused = grid.with_block_size(63).unwrap_err();
        assert!(refused.is_too_large() && refused.argument() == Some("block_size"));
        // Queries of which all but one come before the keys, in blocks that are ragged at both
        // ends.
        let ahead = BlockGrid::full(&shape.with_kv_len(1).unwrap());
        assert_eq!((ahead.query_blocks(), ahead.dense_blocks()), (MAX_BLOCKS + 1, MAX_BLOCKS as u64 + 1));
    }

    #[test]
    fn dense_counts_are_triangles() {
        assert_eq!(grid(16, 16).dense_blocks(), 2 * (1 + 2 + 3 + 4));
        assert_eq!(grid(1, 17).dense_blocks(), 2 * 5);
        let full = BlockGrid { causal: false, ..grid(16, 12) };
        assert_eq!(full.dense_blocks(), 2 * 4 * 3);
    }
}
