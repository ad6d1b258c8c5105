//! Calls checked, so that nothing of them is checked again.

use super::part::Part;
use super::source::History;
use super::work::{Sequences, Work};
use crate::attention::inputs::pages::{PageWords, Pool};
use crate::error::{Result, ensure};
use crate::limits::MAX_BATCH;

impl Work<'_> {
    /// Refuses everything that sequences and tables can be refused for. `order` is memory to work
    /// in.
    pub(super) fn check(&self, order: &mut Vec<usize>) -> Result<()> {
        let count = self.sequence_count();
        self.tables.check_count(count)?;
        ensure!(count <= MAX_BATCH, "sequences", "expected at most {MAX_BATCH}, got {count}");
        let rows = matches!((self.history, self.sequences), (History::Tensors { .. }, Sequences::Each(_)));
        ensure!(
            rows || self.tables.pages(0).is_none(),
            "pages",
            "expected none: sequences over tensors have them (NativePlan::run_sequences)"
        );
        for index in 0..count {
            self.check_rows(index)?;
        }
        if !matches!(self.sequences, Sequences::Whole) {
            self.check_apart(count, order)?;
        }
        for index in 0..count {
            self.check_part(index)?;
        }
        Ok(())
    }

    /// Refuses rows that the tensors or the cache don't have.
    fn check_rows(&self, index: usize) -> Result<()> {
        let Part { entry, queries, keys, sequence, pages, .. } = self.part(index);
        let [mut entries, _, rows, _] = self.q.layout().dims();
        let mut key_rows = keys.len();
        match (self.history, sequence) {
            (History::Tensors { k, v }, _) if pages.is_some() => {
                let pool = Pool::of_both(k.layout(), v.layout())?;
                let end = keys.end.max(keys.start);
                pages.map_or(Ok(()), |pages| pool.check(index, PageWords::of(pages, 0), end))?;
                key_rows = end;
            }
            (History::Tensors { k, v }, _) => {
                let [k, v] = [k, v].map(|view| view.layout().dims());
                (entries, key_rows) = (entries.min(k[0]).min(v[0]), k[2].min(v[2]));
            }
            (History::Cache(cache), Some(sequence)) => {
                let (len, tokens) = (queries.len(), cache.len(sequence)?);
                ensure!(len <= tokens, "queries", "sequence {index}: {len} queries of {tokens} tokens");
            }
            (History::Cache(_), None) => {}
        }
        ensure!(entry < entries, "entry", "sequence {index}: expected one below {entries}, got {entry}");
        for (argument, range, rows) in [("queries", queries, rows), ("keys", keys, key_rows)] {
            ensure!(
                range.start <= range.end && range.end <= rows,
                argument,
                "sequence {index}: expected rows within 0..{rows}, got {range:?}"
            );
        }
        Ok(())
    }

    /// Refuses sequences that write the same output rows.
    fn check_apart(&self, count: usize, order: &mut Vec<usize>) -> Result<()> {
        self.check_rows_apart(count, order, |part| part.queries, "write the same output rows")
    }

    /// Refuses sequences that share keys, whose gradients each would write.
    pub(super) fn check_keys_apart(&self, order: &mut Vec<usize>) -> Result<()> {
        let shared = "share keys, whose gradients each would write";
        self.check_rows_apart(self.sequence_count(), order, |part| part.keys, shared)
    }

    fn check_rows_apart(
        &self,
        count: usize,
        order: &mut Vec<usize>,
        rows: impl Fn(Part<'_>) -> std::ops::Range<usize>,
        overlap: &str,
    ) -> Result<()> {
        let place = |index: usize| {
            let part = self.part(index);
            (part.entry, rows(part))
        };
        order.clear();
        order.extend((0..count).filter(|&index| !place(index).1.is_empty()));
        order.sort_unstable_by_key(|&index| {
            let (entry, rows) = place(index);
            (entry, rows.start)
        });
        for pair in order.windows(2) {
            let ((entry, one), (other_entry, two)) = (place(pair[0]), place(pair[1]));
            let apart = entry != other_entry || one.end <= two.start;
            ensure!(apart, "sequences", "sequences {} and {} {overlap}", pair[0], pair[1]);
        }
        Ok(())
    }

    /// Refuses lengths past the maxima, tables of other sizes, and positions past the plan's.
    fn check_part(&self, index: usize) -> Result<()> {
        let part = self.part(index);
        let (q_len, kv_len) = (part.queries.len(), part.keys.len());
        let (most_q, most_kv) = (self.shape.q_len(), self.shape.kv_len());
        ensure!(q_len <= most_q, "q_len", "expected at most the plan's {most_q}, got {q_len}");
        ensure!(kv_len <= most_kv, "kv_len", "expected at most the plan's {most_kv}, got {kv_len}");
        if let Some(schedule) = self.tables.schedule(index) {
            let shape = self.shape.with_q_len(q_len)?.with_kv_len(kv_len)?;
            schedule.grid().check(self.attention.is_causal(), &shape)?;
        }
        if let Some(documents) = self.tables.documents(index) {
            let got = documents.len();
            ensure!(q_len == got, "documents", "expected a mask for {q_len} queries, got {got}");
        }
        if let Some(ids) = self.tables.position_ids(index) {
            let (want, got) = ((q_len, kv_len), (ids.queries().len(), ids.keys().len()));
            ensure!(want == got, "position_ids", "expected ids for (q_len, kv_len) = {want:?}, got {got:?}");
        }
        self.tables.check_mask(self.attention, index, [self.shape.heads(), q_len, kv_len])?;
        self.check_positions(index, &part)
    }

    fn check_positions(&self, index: usize, part: &Part<'_>) -> Result<()> {
        let Some(positions) = self.positions else { return Ok(()) };
        if let Some(ids) = self.tables.position_ids(index) {
            let largest = ids.queries().iter().chain(ids.keys()).max();
            return largest.map_or(Ok(()), |&id| positions.check("position_ids", id.into()));
        }
        let (q_len, kv_len) = (part.queries.len(), part.keys.len());
        for row in [0, q_len.saturating_sub(1)].into_iter().filter(|&row| row < q_len) {
            positions.check("sequences", part.query_position(row))?;
        }
        for key in [0, kv_len.saturating_sub(1)].into_iter().filter(|&key| key < kv_len) {
            positions.check("sequences", part.key_position(key))?;
        }
        Ok(())
    }
}
