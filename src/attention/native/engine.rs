//! What every native plan has.

use pulp::Arch;

use super::options::{NativeOptions, Threads};
use super::positions::PositionTables;
use crate::attention::inputs::attention::Attention;
use crate::error::Result;
use crate::shape::Shape;

/// An attention with the threads and instructions of this machine, and what its calls have in
/// common.
pub(super) struct Engine {
    pub(super) attention: Attention,
    /// The sizes that calls have at most.
    pub(super) maxima: Shape,
    pub(super) options: NativeOptions,
    pub(super) threads: Threads,
    pub(super) arch: Arch,
    pub(super) positions: Option<PositionTables>,
}

impl Engine {
    pub(super) fn new(attention: &Attention, maxima: &Shape, options: &NativeOptions) -> Result<Self> {
        attention.check_sinks(maxima.heads())?;
        Ok(Self {
            attention: attention.clone(),
            maxima: *maxima,
            options: options.clone(),
            threads: Threads::new(options)?,
            arch: Arch::new(),
            positions: PositionTables::of(attention, maxima)?,
        })
    }

    /// The name of the instructions that it uses.
    pub(super) fn instructions(&self) -> String {
        let name = format!("{:?}", self.arch);
        name.split(['(', ' ']).next().unwrap_or_default().to_owned()
    }

    /// Shows a plan of this name.
    pub(super) fn show(&self, name: &str, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(name)
            .field("attention", &self.attention)
            .field("maxima", &self.maxima)
            .field("options", &self.options)
            .field("instructions", &self.instructions())
            .finish_non_exhaustive()
    }
}
