//! What a call reads beside its tensors: schedules, document masks, mask tensors and position ids.

use super::attention::Attention;
use super::documents::Documents;
use super::mask::Mask;
use super::pages::PageTable;
use super::position_ids::PositionIds;
use crate::error::{Error, Result, ensure};
use crate::sampling::{RowOrder, Schedule};

/// The schedules, document masks, mask tensors and position ids of a call: none, one for all of its
/// sequences, or one for each in order.
///
/// ```
/// use prflash::{BlockGrid, Documents, Schedule, Shape, Tables};
/// let shape = Shape::new(4, 1, 8, 64)?;
/// let schedule = Schedule::dense(&BlockGrid::causal(&shape))?;
/// let documents = Documents::from_lengths(&[5, 3])?;
/// let everything_visible = Tables::new();
/// let masked = Tables::from(&schedule).with_documents(&documents);
/// # let _ = (everything_visible, masked);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tables<'a> {
    pub(in crate::attention) schedules: Vec<&'a Schedule>,
    pub(in crate::attention) documents: Vec<&'a Documents>,
    pub(in crate::attention) row_order: Option<RowOrder>,
    pub(in crate::attention) position_ids: Vec<&'a PositionIds>,
    pub(in crate::attention) masks: Vec<&'a Mask>,
    pub(in crate::attention) pages: Vec<&'a PageTable>,
}

impl<'a> Tables<'a> {
    /// No schedule, no document mask, and positions that count up: dense attention.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more schedule. Give one for all sequences or one for each, in order: all of a call have
    /// blocks of one size and lists of one granularity, since a kernel walks them alike.
    ///
    /// # Errors
    /// Invalid argument (`schedule`) if its block size or granularity is another than that of those
    /// before it.
    pub fn with_schedule(mut self, schedule: &'a Schedule) -> Result<Self> {
        let kind = |schedule: &Schedule| (schedule.grid().block_size(), schedule.grid().granularity());
        if let Some(first) = self.schedules.first() {
            let (want, got) = (kind(first), kind(schedule));
            ensure!(
                want == got,
                "schedule",
                "expected (block_size, granularity) = {want:?} as in the schedules before it, got {got:?}"
            );
        }
        self.schedules.push(schedule);
        Ok(self)
    }

    /// One more document mask. Give one for all sequences or one for each, in order.
    pub fn with_documents(mut self, documents: &'a Documents) -> Self {
        self.documents.push(documents);
        self
    }

    /// One more set of position ids. Give one for all sequences or one for each, in order.
    pub fn with_position_ids(mut self, position_ids: &'a PositionIds) -> Self {
        self.position_ids.push(position_ids);
        self
    }

    /// One more mask tensor. Give one for all sequences or one for each, in order; the attention
    /// has to [take masks](crate::Attention::with_masks).
    pub fn with_mask(mut self, mask: &'a Mask) -> Self {
        self.masks.push(mask);
        self
    }

    /// One more table of pages. Give one for all sequences or one for each, in order, where keys
    /// and values [lie in pages](PageTable).
    pub fn with_pages(mut self, pages: &'a PageTable) -> Self {
        self.pages.push(pages);
        self
    }

    /// In which order the rows of schedules are handed to workgroups: unless set,
    /// [`RowOrder::LongestFirst`] on GPUs, so that a long row isn't still running when all else is
    /// done, and [`RowOrder::Paired`] on CPU adapters. Results don't depend on it.
    pub fn with_row_order(self, row_order: RowOrder) -> Self {
        Self { row_order: Some(row_order), ..self }
    }

    /// The schedule of one sequence.
    pub fn schedule(&self, sequence: usize) -> Option<&'a Schedule> {
        nth(&self.schedules, sequence).copied()
    }

    /// The document mask of one sequence.
    pub fn documents(&self, sequence: usize) -> Option<&'a Documents> {
        nth(&self.documents, sequence).copied()
    }

    /// The position ids of one sequence.
    pub fn position_ids(&self, sequence: usize) -> Option<&'a PositionIds> {
        nth(&self.position_ids, sequence).copied()
    }

    /// The mask tensor of one sequence.
    pub fn mask(&self, sequence: usize) -> Option<&'a Mask> {
        nth(&self.masks, sequence).copied()
    }

    /// The pages of one sequence.
    pub fn pages(&self, sequence: usize) -> Option<&'a PageTable> {
        nth(&self.pages, sequence).copied()
    }

    /// Refuses a mask for another `[heads, q_len, kv_len]`, or one that the attention doesn't take.
    pub(crate) fn check_mask(&self, attention: &Attention, sequence: usize, sizes: [usize; 3]) -> Result<()> {
        let Some(mask) = self.mask(sequence) else { return Ok(()) };
        check_masks(attention)?;
        mask.check(sizes)
    }

    /// Refuses a number of tables that fits neither all sequences nor each.
    pub(crate) fn check_count(&self, sequences: usize) -> Result<()> {
        check_count("schedules", self.schedules.len(), sequences)?;
        check_count("documents", self.documents.len(), sequences)?;
        check_count("position_ids", self.position_ids.len(), sequences)?;
        check_count("masks", self.masks.len(), sequences)?;
        check_count("pages", self.pages.len(), sequences)
    }
}

impl<'a> From<&'a Schedule> for Tables<'a> {
    fn from(schedule: &'a Schedule) -> Self {
        Self { schedules: vec![schedule], ..Self::new() }
    }
}

impl<'a> From<&'a PositionIds> for Tables<'a> {
    fn from(position_ids: &'a PositionIds) -> Self {
        Self::new().with_position_ids(position_ids)
    }
}

impl<'a> From<&'a Mask> for Tables<'a> {
    fn from(mask: &'a Mask) -> Self {
        Self::new().with_mask(mask)
    }
}

impl<'a> From<&'a PageTable> for Tables<'a> {
    fn from(pages: &'a PageTable) -> Self {
        Self::new().with_pages(pages)
    }
}

impl<'a> From<&'a Documents> for Tables<'a> {
    fn from(documents: &'a Documents) -> Self {
        Self::new().with_documents(documents)
    }
}

/// Refuses a mask where none is looked for.
pub(in crate::attention) fn check_masks(attention: &Attention) -> Result<()> {
    ensure!(attention.masks(), "mask", "expected none: the attention takes no masks (Attention::with_masks)");
    Ok(())
}

pub(in crate::attention) fn check_count(
    argument: &'static str,
    given: usize,
    sequences: usize,
) -> Result<()> {
    if given <= 1 || given == sequences {
        return Ok(());
    }
    let message = format!("expected none, one, or one for each of {sequences} sequences, got {given}");
    Err(Error::argument_error(argument, message))
}

/// The only one, or the one of this sequence.
pub(in crate::attention) fn nth<T>(values: &[T], sequence: usize) -> Option<&T> {
    if values.len() == 1 { values.first() } else { values.get(sequence) }
}
