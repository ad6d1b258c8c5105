//! Tables of pages: which pages of a pool hold a sequence's keys and values.

use crate::error::{Error, Result, ensure};
use crate::layout::Layout;
use crate::limits::{MAX_LEN, at_most};

/// Which pages of a pool hold the keys and values of a sequence, in the order of its tokens: what
/// servers call its block table.
///
/// A pool is a tensor whose batch entries are pages: `[pages, kv_heads, page_size, D]`, one of keys
/// and one of values, in any layout. [`Layout::tokens_first`] is that of pools that are stored as
/// `[pages, page_size, kv_heads, D]`, [`Layout::heads_first`] of `[pages, kv_heads, page_size, D]`,
/// and [`Layout::with_strides`] has those in which both lie in one buffer. Token t lies in row
/// `t % page_size` of page `table[t / page_size]`.
///
/// A call has the tables in its [`Tables`](crate::Tables), one for each sequence, and a
/// [`Plan`](crate::Plan) that is [made for pages](crate::PlanOptions::with_pages) reads them. Pages
/// of keys that no row of a tile sees, by a window, a schedule or a document mask, aren't read.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::attention::PageTable;
/// use prflash::{Attention, Call, Context, DType, Layout, Operands, PlanOptions};
/// use prflash::{Shape, TableBuffer, Tables, Tensor};
/// let context = Context::new_blocking()?;
/// // One query of 8 heads for each of 2 sequences, whose keys are in 100 pages of 16 tokens.
/// let pool = Layout::tokens_first(100, 16, 2, 64)?;
/// let (keys, values) = (Tensor::zeros(&context, DType::F16, pool)?, Tensor::zeros(&context, DType::F16, pool)?);
/// let queries = Layout::heads_first(2, 8, 1, 64)?;
/// let (q, output) = (Tensor::zeros(&context, DType::F16, queries)?, Tensor::zeros(&context, DType::F16, queries)?);
/// let shape = Shape::new(8, 2, 4096, 64)?.with_q_len(1)?.with_batch(2)?;
/// let attention = Attention::causal().with_storage(DType::F16).with_output(DType::F16);
/// let plan = attention.plan_with(&context, &shape, &PlanOptions::new().with_pages(true))?;
/// let operands = Operands { q: q.view(), k: keys.view(), v: values.view(), output: output.view(), lse: None };
/// let bound = plan.bind(&operands)?;
/// // 40 tokens of each; they share their first page.
/// let (one, mut two) = (PageTable::new(&[17, 3, 99])?, PageTable::new(&[17, 4])?);
/// two.push(0)?;
/// let tables = TableBuffer::new(&context, &Tables::from(&one).with_pages(&two))?;
/// plan.submit(&bound, &Call::lengths(1, 40).with_tables(&tables))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageTable {
    pages: Vec<u32>,
}

impl PageTable {
    /// These pages, in the order of the tokens in them. There may be more than a call needs.
    ///
    /// # Errors
    /// Too large (`pages`) if there are more than a sequence can have tokens.
    pub fn new(pages: &[u32]) -> Result<Self> {
        at_most("pages", pages.len(), MAX_LEN)?;
        Ok(Self { pages: pages.to_vec() })
    }

    /// One more page behind them.
    ///
    /// # Errors
    /// As [`new`](PageTable::new); the table then stays as it was.
    pub fn push(&mut self, page: u32) -> Result<()> {
        at_most("pages", self.pages.len() + 1, MAX_LEN)?;
        self.pages.push(page);
        Ok(())
    }

    /// The pages.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// The first `tokens` of a sequence out of a pool of this layout, as a contiguous `[kv_heads,
    /// tokens, dim]`: what the [oracle](crate::reference) takes of one batch entry.
    ///
    /// ```
    /// use prflash::Layout;
    /// use prflash::attention::PageTable;
    /// // Two pages of two tokens, one head of four channels.
    /// let pool = Layout::heads_first(2, 1, 2, 4)?;
    /// let numbers: Vec<f32> = (0..16).map(|i| i as f32).collect();
    /// let rows = PageTable::new(&[1, 0])?.gather(&pool, &numbers, 3)?;
    /// assert_eq!(rows, [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 0.0, 1.0, 2.0, 3.0]);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument: (`pages`) a page that the pool doesn't have, or too few of them for so
    /// many tokens; (`numbers`) fewer than the pool's [extent](Layout::extent). Too large
    /// (`tokens`) where they are more than fit into memory.
    pub fn gather(&self, pool: &Layout, numbers: &[f32], tokens: usize) -> Result<Vec<f32>> {
        let [_, heads, _, dim] = pool.dims();
        let pages = Pool::of("k", pool)?;
        pages.check(0, PageWords::of(self, 0), tokens)?;
        let (needs, has) = (pool.extent(), numbers.len());
        ensure!(tokens == 0 || has >= needs, "numbers", "expected at least {needs}, got {has}");
        let count = heads.saturating_mul(tokens).saturating_mul(dim);
        let mut rows = Vec::new();
        let reserved = rows.try_reserve_exact(count);
        reserved.map_err(|_| Error::too_large("tokens", format!("no memory for {count} values")))?;
        for head in 0..heads {
            for token in 0..tokens {
                let (page, row) = self.place(pages.page_size, token);
                rows.extend_from_slice(&numbers[pool.index(page, head, row, 0)..][..dim]);
            }
        }
        Ok(rows)
    }

    /// The page of a token that it has, and its row there.
    pub(in crate::attention) fn place(&self, page_size: usize, token: usize) -> (usize, usize) {
        (self.pages[token / page_size] as usize, token % page_size)
    }
}

/// The sizes of a pool of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::attention) struct Pool {
    pub(in crate::attention) pages: usize,
    /// Tokens of a page.
    pub(in crate::attention) page_size: usize,
}

impl Pool {
    /// Of a tensor whose batch entries are pages.
    pub(in crate::attention) fn of(argument: &'static str, layout: &Layout) -> Result<Self> {
        let [pages, _, page_size, _] = layout.dims();
        ensure!(page_size >= 1, argument, "expected pages of at least one token, got {layout:?}");
        Ok(Self { pages, page_size })
    }

    /// That of both keys and values.
    pub(in crate::attention) fn of_both(k: &Layout, v: &Layout) -> Result<Self> {
        let (keys, values) = (Self::of("k", k)?, Self::of("v", v)?);
        ensure!(keys == values, "v", "expected the pages of k, {keys:?}, got {values:?}");
        Ok(keys)
    }

    /// Refuses a table that doesn't reach to a token, or names a page that isn't there.
    pub(in crate::attention) fn check(&self, sequence: usize, table: PageWords, end: usize) -> Result<()> {
        let Self { pages, page_size } = *self;
        let PageWords { count, largest, .. } = table;
        at_most("pages", end, MAX_LEN)?;
        ensure!(
            end.div_ceil(page_size) <= count,
            "pages",
            "sequence {sequence}: expected pages of {page_size} tokens for {end} of them, got {count}"
        );
        ensure!(
            count == 0 || (largest as usize) < pages,
            "pages",
            "sequence {sequence}: expected pages of a pool of {pages}, got number {largest}"
        );
        Ok(())
    }
}

/// What is known of a table without looking at each of its pages again.
#[derive(Clone, Copy, Debug)]
pub(in crate::attention) struct PageWords {
    /// Where its words begin.
    pub(in crate::attention) base: u32,
    count: usize,
    /// The largest of its numbers.
    largest: u32,
}

impl PageWords {
    pub(in crate::attention) fn of(table: &PageTable, base: u32) -> Self {
        let largest = table.pages.iter().copied().max().unwrap_or(0);
        Self { base, count: table.pages.len(), largest }
    }
}

/// Refuses tables of pages where keys lie in rows, and none where they lie in pages.
pub(in crate::attention) fn check_given(given: bool, paged: bool) -> Result<()> {
    let message = match (given, paged) {
        (true, false) => "expected none: keys and values lie in rows (PlanOptions::with_pages)",
        (false, true) => "expected a table of each sequence, since keys and values lie in pages",
        _ => return Ok(()),
    };
    Err(Error::argument_error("pages", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let pool = Layout::tokens_first(4, 8, 2, 4).unwrap();
        let numbers = vec![0.0; pool.extent()];
        let refused = |pages: &[u32], tokens, numbers: &[f32]| {
            PageTable::new(pages).unwrap().gather(&pool, numbers, tokens).unwrap_err()
        };
        assert_eq!(refused(&[0, 3], 17, &numbers).argument(), Some("pages"));
        assert_eq!(refused(&[0, 4], 3, &numbers).argument(), Some("pages"));
        assert_eq!(refused(&[0, 1], 3, &numbers[1..]).argument(), Some("numbers"));
        let both = |k: [usize; 2], v: [usize; 2]| {
            let layout = |[pages, size]: [usize; 2]| Layout::heads_first(pages, 1, size, 4).unwrap();
            Pool::of_both(&layout(k), &layout(v)).unwrap_err().argument().unwrap()
        };
        assert_eq!(both([3, 8], [3, 4]), "v");
        assert_eq!(both([3, 8], [2, 8]), "v");
        assert_eq!(both([3, 0], [3, 0]), "k");
        assert!(PageTable::new(&[9]).unwrap().gather(&pool, &[], 0).is_err());
        assert!(PageTable::default().gather(&pool, &[], 0).unwrap().is_empty());
    }
}
