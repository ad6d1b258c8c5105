//! Which kernel is fastest on this device: measured, where a rule isn't enough.

use std::fmt;

use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::{Decode, Kernel};
use crate::error::{Result, ensure};
use crate::layout::DType;
use crate::runtime::capabilities::Capabilities;

/// The kernels that [`Attention::tune`](crate::Attention::tune) found fastest on a device, by class
/// of shape: a plain value to store (feature `serde`) and to give to
/// [`PlanOptions::with_tuning`](crate::PlanOptions::with_tuning).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TuningProfile {
    /// [`Capabilities::adapter`] of the device. On others the profile has no effect.
    pub adapter: String,
    /// The driver of the device ([`Capabilities::driver`]).
    pub driver: String,
    /// One for each class, in the order in which shapes of it were first given.
    pub choices: Vec<Tuned>,
}

/// What was chosen for a class of shapes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Tuned {
    /// The shapes for which it was chosen.
    pub class: ShapeClass,
    /// The kernel that was chosen.
    pub kernel: Kernel,
    /// Its time over that of the rule's choice, the geometric mean over the shapes of the class; 1
    /// for the rule's choice itself.
    pub ratio: f64,
    /// Kernels whose results were wrong on some shape of the class, and so weren't considered.
    pub refused: Vec<Kernel>,
    /// How many kernels were tried: the rule's choice and those refused count, too. 0 in profiles
    /// from before this was kept.
    #[cfg_attr(feature = "serde", serde(default))]
    pub tried: usize,
    /// How many the device can run for the class, tried or not. 0 in profiles from before this was
    /// kept.
    #[cfg_attr(feature = "serde", serde(default))]
    pub candidates: usize,
}

/// Shapes that the same kernel serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ShapeClass {
    /// The head dimension.
    pub head_dim: usize,
    /// The value dimension.
    pub value_dim: usize,
    /// The type of queries, keys and values.
    pub storage: DType,
    /// Where queries are few ([`Decode`]): rows that share a key, up to the next power of two. 0
    /// for all other lengths.
    pub rows: usize,
    /// The kind of positions: what of them is rendered into a kernel. Empty without any.
    #[cfg_attr(feature = "serde", serde(default))]
    pub positions: String,
    /// The kind of staircase cache: widths of keys and values, group, and whether keys are stored
    /// before rotation. Empty for tensors.
    #[cfg_attr(feature = "serde", serde(default))]
    pub cache: String,
}

impl ShapeClass {
    pub(in crate::attention) fn of(task: &Task) -> Self {
        let few = (1..=Decode::QUERIES).contains(&task.q_len);
        let name = |text: String| text.trim_start_matches('_').to_owned();
        Self {
            head_dim: task.head_dim,
            value_dim: task.value_dim,
            storage: task.storage,
            rows: if few { (task.q_len * task.heads_per_kv).next_power_of_two() } else { 0 },
            positions: name(task.positions.to_string()),
            cache: task.cache.map_or(String::new(), |cache| name(cache.to_string())),
        }
    }
}

impl fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, D = {}, D_v = {}", self.storage, self.head_dim, self.value_dim)?;
        match self.rows {
            0 => f.write_str(", many queries")?,
            rows => write!(f, ", {rows} rows to a key")?,
        }
        for kind in [&self.positions, &self.cache].into_iter().filter(|kind| !kind.is_empty()) {
            write!(f, ", {kind}")?;
        }
        Ok(())
    }
}

impl TuningProfile {
    /// The kernel for a task, if the profile has one for it on this device.
    pub(in crate::attention) fn choice(&self, capabilities: &Capabilities, task: &Task) -> Option<Kernel> {
        let here = self.adapter == capabilities.adapter && self.driver == capabilities.driver;
        if !here {
            return None;
        }
        let class = ShapeClass::of(task);
        let tuned = self.choices.iter().find(|tuned| tuned.class == class)?;
        // A profile that was edited may name any kernel, and one that was tuned with products in
        // f16 may be given to a plan that wants them exact.
        let fits = task.allows(tuned.kernel) && tuned.kernel.check(capabilities, task).is_ok();
        fits.then_some(tuned.kernel)
    }
}

impl TuningProfile {
    /// Both profiles' choices; where both have one for a class, the other's.
    ///
    /// # Errors
    /// Invalid argument (`other`) if it is of another device or driver.
    pub fn with(mut self, other: Self) -> Result<Self> {
        ensure!(
            self.adapter == other.adapter && self.driver == other.driver,
            "other",
            "expected a profile of {} ({}), got one of {} ({})",
            self.adapter,
            self.driver,
            other.adapter,
            other.driver
        );
        self.choices.retain(|tuned| other.choices.iter().all(|new| new.class != tuned.class));
        self.choices.extend(other.choices);
        Ok(self)
    }
}
