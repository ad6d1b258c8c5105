//! The rows of some queries.

use std::ops::Range;

use super::schedule::{Builder, Schedule};
use crate::error::{Result, ensure};

impl Schedule {
    /// The schedule of some queries, which come when the keys up to the last of them are there: a
    /// chunk of a prompt, a step of decoding, or drafts that are tried at once. `queries` are
    /// positions among the keys.
    ///
    /// So one schedule is drawn (or listed) for the longest sequence, and every call takes its
    /// rows, whatever was taken back before it. Nothing is drawn: the work is that of copying these
    /// rows. A sampler whose rows know nothing of the sequence's length, as all but
    /// [`RowColumn`](super::RowColumn) are, would draw the very same lists for the chunk alone.
    ///
    /// ```
    /// use prflash::{BlockGrid, Profile, Schedule, Seed, Shape, Systematic};
    /// let longest = Shape::new(4, 2, 4096, 64)?;
    /// let grid = BlockGrid::causal(&longest);
    /// let whole = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(7))?;
    /// let prompt = whole.chunk(0..1000)?; // its grid has 1,000 queries and keys
    /// let drafts = whole.chunk(1000..1005)?; // the next token and four drafts, of 1,005 keys
    /// let again = whole.chunk(1003..1008)?; // two drafts were taken
    /// assert_eq!((drafts.grid().q_len(), drafts.grid().kv_len()), (5, 1005));
    /// assert_eq!(drafts.blocks(0, 0), whole.blocks(0, 1000 / 64));
    /// # let _ = (prompt, again);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument: (`schedule`) unless it is causal, since the keys that come after a query
    /// would be missing; (`queries`) unless they are positions that the schedule has rows for.
    pub fn chunk(&self, queries: Range<usize>) -> Result<Self> {
        let whole = self.grid();
        ensure!(whole.is_causal(), "schedule", "expected a causal one, got one of all keys");
        let (first, end) = (whole.kv_len().saturating_sub(whole.q_len()), whole.kv_len());
        ensure!(
            first <= queries.start && queries.start <= queries.end && queries.end <= end,
            "queries",
            "expected positions within {first}..{end}, got {queries:?}"
        );
        let grid = whole.with_lengths(queries.len(), queries.end);
        let skipped = (grid.first_query_block() - whole.first_query_block()) as usize;
        let mut builder = Builder::new(&grid);
        for group in 0..grid.groups() {
            for row in 0..grid.query_blocks() {
                self.row(group, skipped + row).for_each(|entry| builder.push(entry.block, entry.ln_p));
                builder.end_row()?;
            }
        }
        Ok(builder.finish())
    }
}
