//! How an attention is computed, where it isn't left to the plan.

use std::sync::Arc;

use super::tuning::TuningProfile;
use crate::attention::kernels::shapes::Kernel;
use crate::error::{Result, ensure};
use crate::limits::{MAX_BATCH, at_most};

/// How a plan computes an [`Attention`](crate::Attention): nothing of it changes what is computed,
/// but for rounding. By default the plan chooses.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// use prflash::kernels::Kernel;
/// use prflash::{Attention, Context, PlanOptions, Shape};
/// let context = Context::new_blocking()?;
/// let shape = Shape::new(8, 2, 512, 64)?;
/// let options = PlanOptions::new().with_kernel(Kernel::Naive);
/// let plan = Attention::causal().plan_with(&context, &shape, &options)?;
/// println!("{}: {}", plan.kernel(), plan.kernel_reason());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanOptions {
    kernel: Option<Kernel>,
    splits: Option<usize>,
    sequences: Option<usize>,
    f16_products: bool,
    pages: bool,
    tuning: Option<Arc<TuningProfile>>,
}

impl PlanOptions {
    /// All of it is left to the plan.
    pub const fn new() -> Self {
        Self { kernel: None, splits: None, sequences: None, f16_products: false, pages: false, tuning: None }
    }

    /// Computes with this kernel instead of the one that the plan would choose.
    pub fn with_kernel(self, kernel: Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    /// Computes with the kernels that were measured to be the fastest
    /// ([`Attention::tune`](crate::Attention::tune)), on the device and for the classes of shapes
    /// that the profile knows.
    pub fn with_tuning(self, tuning: impl Into<Arc<TuningProfile>>) -> Self {
        Self { tuning: Some(tuning.into()), ..self }
    }

    /// Splits each row's keys over this many workgroups where queries are few
    /// ([`Decode`](crate::kernels::Decode)), instead of as many as the plan would choose from the
    /// shape and the device. Results differ by rounding.
    ///
    /// # Errors
    /// Invalid argument unless 1 to 1,024.
    pub fn with_splits(self, splits: usize) -> Result<Self> {
        ensure!((1..=1024).contains(&splits), "splits", "expected 1 to 1024, got {splits}");
        Ok(Self { splits: Some(splits), ..self })
    }

    /// The most sequences of a call, where several are packed into a batch entry
    /// ([`Sequence`](crate::attention::Sequence)) or read from a cache
    /// ([`Queries`](crate::Queries)). By default as many as the plan's shape has batch entries.
    ///
    /// # Errors
    /// Invalid argument if 0; too large past [`MAX_BATCH`].
    pub fn with_sequences(self, sequences: usize) -> Result<Self> {
        ensure!(sequences >= 1, "sequences", "expected at least 1, got 0");
        at_most("sequences", sequences, MAX_BATCH)?;
        Ok(Self { sequences: Some(sequences), ..self })
    }

    /// Allows kernels that take products in f16
    /// ([`Tile::with_f16_products`](crate::kernels::Tile::with_f16_products) says what that costs
    /// and what numbers must stay within), where inputs are stored in f16 and the device gains by
    /// it. Not unless allowed; on CPU adapters never.
    pub fn with_f16_products(self, allowed: bool) -> Self {
        Self { f16_products: allowed, ..self }
    }

    /// Whether keys and values lie in pages of a pool: tensors whose batch entries are pages, with
    /// a [`PageTable`](crate::attention::PageTable) for each sequence among the tables of a call.
    /// [Measured choices](PlanOptions::with_tuning) then don't count, since they are of rows.
    pub fn with_pages(self, pages: bool) -> Self {
        Self { pages, ..self }
    }

    /// The kernel that was asked for, if any.
    pub fn kernel(&self) -> Option<Kernel> {
        self.kernel
    }

    /// The number of splits that was asked for, if any.
    pub fn splits(&self) -> Option<usize> {
        self.splits
    }

    /// The number of sequences that was asked for, if any.
    pub fn sequences(&self) -> Option<usize> {
        self.sequences
    }

    /// Whether kernels may take products in f16.
    pub fn allows_f16_products(&self) -> bool {
        self.f16_products
    }

    /// Whether keys and values lie in pages.
    pub fn pages(&self) -> bool {
        self.pages
    }

    /// The measured choices, if any.
    pub fn tuning(&self) -> Option<&TuningProfile> {
        self.tuning.as_deref()
    }

    /// The same without measurements of kernels.
    pub(super) fn untuned(self) -> Self {
        Self { tuning: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<PlanOptions>| r.unwrap_err().argument().unwrap();
        for splits in [0, 1025] {
            assert_eq!(named(PlanOptions::new().with_splits(splits)), "splits");
        }
        for sequences in [0, MAX_BATCH + 1] {
            assert_eq!(named(PlanOptions::new().with_sequences(sequences)), "sequences");
        }
    }
}
